// A picture that can be zoomed and moved: wheel, drag, pinch, double click and keys. A panorama first fits, then fills the height.

class PictureView {
  constructor(onLarge) {
    this.onLarge = onLarge; // asked for more pixels
    this.frame = el("div", { class: "frame" });
    this.stage = el("div", { class: "stage", tabindex: "-1" }, this.frame);
    this.percent = el("span", { class: "percent" });
    this.hint = el("span", { class: "hint" });
    this.element = el(
      "figure", { class: "picture" }, this.stage,
      el(
        "div", { class: "tools" },
        keyed("Zoom", "Z", { onclick: () => this.toggle(), title: "Between the whole picture and as large as the frame is high" }),
        el("button", { type: "button", class: "step", "aria-label": "Zoom out", "aria-keyshortcuts": "-", onclick: () => this.zoom(1 / 1.4) }, "−"),
        el("button", { type: "button", class: "step", "aria-label": "Zoom in", "aria-keyshortcuts": "+", onclick: () => this.zoom(1.4) }, "+"),
        this.percent, this.hint,
      ),
    );
    this.pointers = new Map();
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.stage.addEventListener("pointerdown", (event) => this.down(event));
    this.stage.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) this.stage.addEventListener(name, (event) => this.up(event));
    this.stage.addEventListener("dblclick", (event) => this.toggle(event));
    new ResizeObserver(() => this.fit()).observe(this.stage);
  }

  show(card, heat) {
    const same = this.id === card.id && this.frame.firstChild && this.url === card.url;
    if (!same) {
      this.id = card.id;
      this.url = card.url;
      const picture = card.url ? card.picture.cloneNode() : null;
      if (picture) {
        picture.alt = card.image;
        picture.draggable = false;
        picture.className = "photo";
        this.frame.replaceChildren(picture);
        picture.complete ? this.reset() : picture.addEventListener("load", () => this.reset(), { once: true }); // not again for the sharper one
      } else {
        this.frame.replaceChildren(el("p", { class: "quiet nothing" }, card.missing ?? "The picture is on its way …"));
        this.frame.removeAttribute("style");
        this.size = null;
        this.reset();
      }
    }
    this.element.querySelector(".tools").hidden = !card.url;
    this.frame.querySelector(".heat")?.remove();
    if (heat && card.heat) this.frame.append(el("img", { class: "heat", src: card.heat, alt: "", draggable: "false" }));
  }

  sharpen(url) {
    const picture = this.frame.querySelector(".photo");
    if (picture && picture.src !== url) picture.src = url;
  }

  reset() {
    this.scale = 1;
    this.x = this.y = 0;
    this.fit();
  }

  // The frame is as large as the picture in the stage, so that a heat map lies on it whatever its shape.
  fit() {
    const picture = this.frame.querySelector(".photo");
    const [width, height] = [this.stage.clientWidth, this.stage.clientHeight];
    if (!picture?.naturalWidth || !width) return this.draw();
    // A tiny picture would fill the stage as mush: it is shown at four times its size, its pixels sharp; who wants more zooms.
    const ratio = Math.min(width / picture.naturalWidth, height / picture.naturalHeight, 4);
    this.ratio = ratio;
    this.size = [picture.naturalWidth * ratio, picture.naturalHeight * ratio];
    this.frame.style.width = `${this.size[0]}px`;
    this.frame.style.height = `${this.size[1]}px`;
    this.draw();
  }

  draw() {
    const [width, height] = [this.stage.clientWidth, this.stage.clientHeight];
    const [w, h] = this.size ?? [width, height];
    const [roomX, roomY] = [Math.max(0, (w * this.scale - width) / 2), Math.max(0, (h * this.scale - height) / 2)];
    this.x = Math.min(roomX, Math.max(-roomX, this.x ?? 0));
    this.y = Math.min(roomY, Math.max(-roomY, this.y ?? 0));
    this.frame.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale ?? 1})`;
    this.stage.classList.toggle("zoomed", this.scale > 1);
    this.percent.textContent = this.scale > 1 ? `${this.scale.toFixed(1)}×` : "";
    const picture = this.frame.querySelector(".photo");
    const isTiny = picture && Math.max(picture.naturalWidth, picture.naturalHeight) <= 64;
    this.frame.classList.toggle("coarse", Boolean(isTiny || this.ratio * this.scale > 4.01));
    this.hint.textContent = !picture?.naturalWidth ? "" : this.scale > 1 ? "Drag, or use the arrow keys"
      : this.ratio === 4 ? `${picture.naturalWidth} × ${picture.naturalHeight} pixels, four times as large`
      : Math.max(width / w, height / h) > 2 ? "Z fills the frame" : "";
    if (this.scale > 1.3) this.onLarge(this.id);
  }

  // Around a point of the stage, so that what is under the pointer stays there.
  zoom(factor, event) {
    const box = this.stage.getBoundingClientRect();
    const [px, py] = event ? [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2] : [0, 0];
    const scale = Math.min(16, Math.max(1, this.scale * factor));
    this.x = px - ((px - this.x) * scale) / this.scale;
    this.y = py - ((py - this.y) * scale) / this.scale;
    this.scale = scale;
    this.draw();
  }

  toggle(event) {
    if (this.scale > 1) return this.reset();
    const [width, height] = [this.stage.clientWidth, this.stage.clientHeight];
    const [w, h] = this.size ?? [width, height];
    this.zoom(Math.max(2, width / w, height / h), event);
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.draw();
  }

  wheel(event) {
    if (!event.ctrlKey && this.scale === 1 && event.deltaY > 0) return; // let the page scroll
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 400), event);
  }

  down(event) {
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.pointers.values()].filter((other) => other.pointerId !== event.pointerId);
    if (others.length === 1) {
      const distance = (one) => Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY);
      this.zoom(distance(event) / Math.max(1, distance(before)), event);
    } else if (this.scale > 1) this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    this.pointers.set(event.pointerId, event);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
  }

  key(key) {
    const step = 80;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (key === "z") this.toggle();
    else if (key === "+" || key === "=") this.zoom(1.4);
    else if (key === "-") this.zoom(1 / 1.4);
    else if (key === "0") this.reset();
    else if (moves[key] && this.scale > 1) this.pan(...moves[key]);
    else return false;
    return true;
  }
}

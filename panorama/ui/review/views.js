// The three ways to go through suspects. A view draws the desk, and turns clicks and keys into events.

const contradicts = ({ image, label, who, before, now, at }) =>
  `${label} in ${image}: ${who || "Somebody without a name, as here,"} said “${before}” in another tab (${at} UTC), and “${now}” here. “${now}” counts; both are in the log.`;

class View {
  constructor(desk, root, say) {
    this.desk = desk;
    this.root = root;
    this.say = say; // commands to the page: the next label
    // These stay in the page while the rest is drawn anew: a region that was taken out and put back is not read out.
    this.asks = el("p", { class: "unseen", "aria-live": "polite" });
    this.status = el("p", { class: "status", role: "status", "aria-label": "Saved or not" });
    this.told = el("span", {});
    this.dismiss = el("button", { type: "button", class: "quiet-button", onclick: () => this.forget() }, "Dismiss");
    this.back = el("button", { type: "button", class: "quiet-button", onclick: () => this.takeBack() });
    this.notice = el("div", { class: "notice", role: "alert", "aria-label": "Problems with saving", hidden: true }, this.told, " ", this.back, this.dismiss);
    this.offer = el("div", { class: "offer", role: "group", "aria-label": "Take back an answer", hidden: true });
  }

  // The latest of them; the others' buttons come after it.
  takeBack() {
    this.desk.takeBack(this.desk.contradictions.at(-1));
    this.draw();
  }

  forget() {
    this.desk.refused = [];
    this.desk.contradictions = [];
    this.tell();
  }

  tell() {
    const { desk } = this;
    const waiting = desk.unsaved();
    const { answered, skipped } = desk.tally ?? { answered: 0, skipped: 0 };
    const done = `${answered} ${answered === 1 ? "cell" : "cells"} answered${skipped ? `, ${skipped} skipped` : ""} in this tab, all saved.`;
    this.status.textContent = waiting ? `Saving ${waiting} …` : answered + skipped ? done : "";
    const said = [desk.error && `${desk.error} It is sent again until it is saved; do not close this tab.`, ...desk.refused.map((one) => one.why), ...desk.contradictions.map(contradicts)].filter(Boolean);
    if (this.told.textContent !== said.join(" ")) this.told.textContent = said.join(" ");
    this.notice.hidden = !said.length;
    this.dismiss.hidden = !desk.refused.length && !desk.contradictions.length;
    this.back.hidden = !desk.contradictions.length;
    if (desk.contradictions.length) this.back.textContent = `Take back “${desk.contradictions.at(-1).now}”`;
    this.tellLatest();
  }

  // Whose answer an undo would take back, where this tab has none: asked, never done without a word.
  tellLatest() {
    const { latest } = this.desk;
    if (this.offered === latest) return;
    this.offered = latest;
    this.offer.hidden = !latest;
    if (!latest) return this.offer.replaceChildren();
    const close = () => {
      this.desk.latest = null;
      this.tell();
    };
    const button = (text, onclick) => el("button", { type: "button", class: "quiet-button", onclick }, text);
    const whose = latest.who ? `The latest answer of ${latest.who}` : "The latest answer without a name, perhaps somebody else’s,";
    const more = latest.n > 1 ? `, and ${latest.n - 1} confirmed together with it` : "";
    this.offer.replaceChildren(
      el("p", {}, "This tab has no answer left to take back. ", latest.event ? [`${whose} is `, el("b", {}, `${latest.said}: ${latest.label}`), ` in ${latest.image}, ${latest.at} UTC${more}.`]
        : `No answer ${latest.who ? `of ${latest.who}` : "without a name"} stands here.`),
      el("div", { class: "more" }, ...(latest.event ? [button("Take it back", () => { this.desk.takeLatestBack(); this.draw(); }), button("Leave it", close)] : [button("Close", close)])),
    );
    this.offer.querySelector("button").focus({ preventScroll: true });
  }

  // For who listens: what is asked now. Whoever sees reads it in the heading.
  ask(question) {
    if (this.asks.textContent !== question) this.asks.textContent = question;
  }

  place(card) {
    return el("p", { class: "where" }, el("span", { class: "name", title: card.image }, card.image), el("span", { class: "quiet" }, ` · ${card.split} · `),
      el("a", { href: card.link, target: "_blank", rel: "noopener", "aria-label": "link to this picture, opens a new tab" }, "link"));
  }

  // Puts new parts into an element; the focus stays on the part of the same place and kind.
  fill(element, parts) {
    const focusable = () => [...element.querySelectorAll("button, a, textarea, summary")];
    const active = this.root.getRootNode().activeElement;
    const place = active ? focusable().indexOf(active) : -1;
    element.replaceChildren(...parts);
    const next = place >= 0 ? focusable()[place] : undefined;
    if (next?.tagName === active?.tagName) next?.focus({ preventScroll: true });
  }

  // The bench, or words in its place where there is no card; what is said of saving stands below either.
  stand(card) {
    this.root.firstChild.hidden = !card;
    this.root.querySelector(".empty")?.remove();
    if (card && this.status.parentNode === this.root) this.panel.after(this.status, this.offer, this.notice);
    if (!card) this.root.append(this.desk.order.length ? el("div", { class: "empty" }, el("p", {}, "The next picture is on its way …")) : this.empty(), this.status, this.offer, this.notice);
    return Boolean(card);
  }

  undo() {
    this.desk.undo();
    this.draw();
  }

  empty() {
    return el("div", { class: "empty" }, el("h2", {}, this.desk.data.empty.title), el("p", {}, this.desk.data.empty.then), this.undoButton());
  }

  undoButton() {
    return keyed("Undo", "U", { class: "quiet-button", onclick: () => this.undo(), title: "Takes back your latest answer" });
  }

  key(key) {
    if (key === "u") this.undo();
    else if (key === "l") this.say("next-label");
    else return false;
    return true;
  }
}

// --- cell by cell: one picture, one question

class CellView extends View {
  constructor(...all) {
    super(...all);
    this.picture = new PictureView((id) => this.wantFull(id));
    this.panel = el("div", {});
    this.reasons = el("div", {});
    this.below = el("div", { class: "below" });
    const panel = el("div", { class: "panel" }, this.panel, this.status, this.offer, this.notice, this.reasons);
    this.root.replaceChildren(el("div", { class: "bench" }, this.picture.element, panel), this.below, this.asks);
  }

  wantFull(id) {
    const card = this.desk.cards.get(id);
    if (!card?.larger || this.desk.full?.id === id || this.desk.wantFull === id) return;
    this.desk.wantFull = id;
    this.desk.send(true);
  }

  draw() {
    const card = this.desk.current();
    this.below.hidden = !card;
    if (!this.stand(card)) return this.tell();
    if (this.asked !== card.id) this.noting = false;
    this.asked = card.id;
    this.picture.show(card, this.desk.heat && !this.blind());
    if (this.desk.full?.id === card.id) this.picture.sharpen(this.desk.full.url);
    // What Python says meanwhile must not take the field away that somebody is writing in.
    const shown = [card, this.noting, this.desk.heat, this.blind(), this.desk.last];
    if (!this.shown || shown.some((value, place) => value !== this.shown[place])) {
      this.shown = shown;
      this.fill(this.panel, this.panelParts(card));
      this.fill(this.reasons, this.blind() ? [] : [this.why(card), this.allLabels(card)]);
      this.ask(`${card.image}: is ${card.label} in this picture?${this.blind() ? "" : ` The CSV says ${word(card.given)}.`}`);
      this.below.replaceChildren(...(this.blind() ? [] : this.neighbours(card)));
    }
    this.tell();
  }

  blind() {
    return this.desk.data.blind;
  }

  panelParts(card) {
    const blind = this.blind();
    const says = blind
      ? el("p", { class: "quiet" }, "Blind: what the CSV says and what the model thinks is shown after your answer.")
      : el("p", { class: "says" }, "The CSV says ", el("b", {}, word(card.given)), ". ", el("span", { class: "together" }, "The model says ", bar(card.p)));
    const effect = (value) => (blind ? null : el("small", {}, value === card.given ? "keeps the CSV" : "changes the CSV"));
    const answer = (value, key) =>
      el("button", { type: "button", class: "answer", "aria-keyshortcuts": key.toLowerCase(), onclick: () => this.answer(value) },
         el("span", {}, value === 1 ? "Yes" : "No", el("kbd", { "aria-hidden": "true" }, key)), effect(value));
    return [
      this.place(card),
      el("h2", { id: "question" }, "Is ", el("em", {}, card.label), " in this picture?"),
      says,
      el("div", { class: "answers", role: "group", "aria-labelledby": "question" }, answer(1, "Y"), answer(0, "N")),
      el("div", { class: "more" },
         keyed("Skip", "S", { class: "quiet-button", onclick: () => this.answer(null) }), this.undoButton(),
         keyed("Next label", "L", { class: "quiet-button", onclick: () => this.say("next-label") }),
         keyed("Note", "T", { class: "quiet-button note", "aria-expanded": String(this.noting), onclick: () => this.note() }),
         !blind && this.desk.data.hasHeat && keyed("Heat map", "H", { class: "quiet-button", "aria-pressed": String(this.desk.heat), onclick: () => this.toggleHeat(),
                                                         title: "Where the trained model sees the label; it has learned from this picture" })),
      this.desk.heat && !blind && this.desk.data.hasHeat && this.legend(),
      this.noting ? this.noteField(card) : this.desk.note(card) && el("p", { class: "quiet lines" }, "Note: ", this.desk.note(card)),
      this.lastLine(),
    ].filter(Boolean);
  }

  legend() {
    return el("p", { class: "legend" }, "Where the trained model sees the label: ", el("span", { class: "together" }, "0.2 ", el("i", { "aria-hidden": "true" }), " 1"),
      ". Clear: less than 0.2.");
  }

  noteField(card) {
    const field = el("textarea", { rows: 2, maxlength: 4000, "aria-label": "Note on this decision", "aria-describedby": "note-keys", placeholder: "Goes into the log with your answer",
                                   oninput: () => this.desk.write(card, field.value), onkeydown: (event) => this.leaveNote(event) });
    field.value = this.desk.note(card);
    return el("div", {}, field, el("p", { class: "quiet note-keys", id: "note-keys" }, el("kbd", {}, "Enter"), " keeps it: back to the keys", el("kbd", {}, "Shift Enter"), " new line"));
  }

  leaveNote(event) {
    if (event.isComposing || !(event.key === "Escape" || (event.key === "Enter" && !event.shiftKey))) return;
    event.preventDefault(); // or the Enter would press the button that has the focus next
    this.note();
  }

  // Opens and closes the field; what was written stays with the picture until it is answered.
  note() {
    this.noting = !this.noting;
    this.draw();
    this.panel.querySelector(this.noting ? "textarea" : ".note")?.focus({ preventScroll: true });
  }

  toggleHeat() {
    if (!this.desk.data.hasHeat || this.blind()) return;
    this.desk.heat = !this.desk.heat;
    this.draw();
    if (this.desk.heat) this.desk.send(true);
  }

  lastLine() {
    const { last } = this.desk;
    if (!last) return null;
    const said = last.value === null ? "skipped" : word(last.value);
    const change = last.value === null ? "" : last.value === last.given ? `, as the CSV says` : `; the CSV says ${word(last.given)}`;
    const model = last.blind ? `, the model ${last.p.toFixed(2)}` : "";
    return el("p", { class: "last" }, "Before: ", el("span", { class: "name" }, last.image), `, ${last.label}: `, el("b", {}, said), change, model, ".");
  }

  why(card) {
    const rows = [["model, trained without it", bar(card.p), card.spread], card.context !== null && ["with its other labels", bar(card.context)],
                  ["doubt in the CSV", bar(card.doubt), card.before]];
    return el("section", { class: "why", "aria-label": "Why it is suspect" },
      el("table", {}, ...rows.filter(Boolean).map(([name, value, note]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value, note && el("span", { class: "quiet" }, ` ${note}`))))),
      ...card.why.map((sentence) => el("p", {}, sentence)));
  }

  allLabels(card) {
    const row = (one) => el("tr", { class: one.label === card.label ? "asked" : null },
      el("th", { scope: "row" }, one.label), el("td", {}, word(one.given)), el("td", {}, bar(one.p)), el("td", {}, one.decided));
    const head = ["label", "CSV", "model", "decided"].map((name) => el("th", { scope: "col" }, name));
    return el("details", { class: "labels", open: card.labels.length <= 12 }, el("summary", {}, `All ${card.labels.length} labels of this picture`),
      el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...card.labels.map(row))));
  }

  neighbours(card) {
    if (!card.near.length) return [];
    const one = (near) => el("li", { class: near.twin && near.other ? "disagrees" : null },
      small(near.url, "The picture cannot be read"),
      el("span", { class: "name lines", title: near.name }, near.name),
      near.twin ? el("b", {}, near.other ? "⚠ near-duplicate, other value" : "near-duplicate") : el("span", { class: "quiet" }, `similarity ${near.similarity.toFixed(2)}`),
      el("span", {}, `${card.label}: `, el("b", {}, word(near.says))), el("span", { class: "quiet lines", title: near.labels }, near.labels || "no label"));
    return [el("h3", {}, "The pictures most like it, and what the CSV says of them"), el("ul", { class: "near" }, ...card.near.map(one))];
  }

  answer(value) {
    const { desk } = this;
    const card = desk.current();
    if (!card || !card.url && !card.missing) return; // nobody answers for a picture that is not there yet
    const note = desk.note(card).trim();
    desk.write(card, "");
    desk.done([card.id]);
    const blind = this.blind() && !desk.revealed.has(card.id);
    desk.revealed.add(card.id);
    desk.last = { image: card.image, label: card.label, value, given: card.given, p: card.p, blind: this.blind() };
    desk.push([{ id: card.id, image: card.image, label: card.label, value, way: "cell", ...(note && { note }),
                 ...(blind && { blind }), ...(card.control && { control: true }) }], [card.id]);
    this.draw();
  }

  key(key) {
    const answers = { y: 1, n: 0, s: null };
    if (key in answers) this.answer(answers[key]);
    else if (key === "t") this.note();
    else if (key === "h") this.toggleHeat();
    else return this.picture.key(key) || super.key(key);
    return true;
  }
}

// --- many at once: a grid for one label and kind; what is clicked is wrong, the rest is confirmed

class GridView extends View {
  constructor(...all) {
    super(...all);
    this.chosen = new Set();
    this.at = 0;
    this.tiles = new Map();
    this.all = el("div", {});
    this.head = el("div", { class: "gridhead" });
    this.root.replaceChildren(el("div", { class: "gridbar" }, this.head, this.status, this.offer, this.notice), this.all, this.asks);
  }

  shown() {
    return this.desk.order.filter((id) => this.desk.cards.has(id)).slice(0, this.desk.data.pageSize);
  }

  draw() {
    const ids = this.shown();
    for (const id of this.desk.chosenBefore.splice(0)) this.chosen.add(id);
    if (!ids.length) {
      this.head.replaceChildren();
      this.tiles.clear();
      this.all.replaceChildren(this.desk.order.length ? el("p", { class: "quiet" }, "Pictures are on their way …") : this.empty());
      return this.tell();
    }
    const card = this.desk.cards.get(ids[0]);
    const [lack, have] = card.given ? ["carry", "lack it"] : ["lack", "have it"];
    const n = [...this.chosen].filter((id) => ids.includes(id)).length;
    const focused = this.root.getRootNode().activeElement?.dataset?.place;
    const count = ids.length === 1 ? "This picture" : `These ${ids.length} pictures`;
    this.fill(this.head, [
        el("h2", {}, `${count} ${ids.length === 1 ? lack.replace("carry", "carries").replace("lack", "lacks") : lack} `, el("em", {}, card.label), `, the CSV says. Click those that ${have}.`),
        el("div", { class: "more" },
          el("button", { type: "button", class: "answer", "aria-keyshortcuts": "control+enter", onclick: () => this.confirm() },
            el("span", {}, n ? `Change ${n}, keep ${ids.length - n}` : `Keep all ${ids.length}`, el("kbd", { "aria-hidden": "true" }, "Ctrl ⏎"))),
          this.undoButton(), keyed("Next label", "L", { class: "quiet-button", onclick: () => this.say("next-label") }),
          n > 0 && el("button", { type: "button", class: "quiet-button", onclick: () => this.choose([]) }, "Unclick all")),
    ]);
    if (ids.join() !== [...this.tiles.keys()].join()) {
      this.tiles = new Map(ids.map((id, place) => [id, this.tile(id, place)]));
      this.all.replaceChildren(el("div", { class: "grid", role: "group", "aria-label": `Pictures whose ${card.label} may be wrong` }, ...this.tiles.values()));
    }
    ids.forEach((id, place) => this.dress(this.tiles.get(id), id, place));
    // The bar above covers what scrolls under it: a picture that gets the focus stops below.
    this.root.style.setProperty("--bar", `${this.root.firstChild.offsetHeight}px`);
    const place = this.isAwaited && !document.activeElement?.matches(FIELDS) ? this.at : focused;
    this.isAwaited = false;
    if (place !== undefined) this.tileAt(place)?.focus({ preventScroll: true });
    this.tell();
  }

  tileAt(place) {
    return this.root.querySelector(`[data-place="${place}"]`);
  }

  // The keys are for the pictures now, those that are on their way too.
  enter() {
    this.isAwaited = true;
    this.draw();
  }

  // Made once and dressed anew: a press whose button was replaced between down and up, because pictures arrived, would be lost.
  tile(id, place) {
    return el("button", { type: "button", class: "tile", "data-place": place, onclick: () => this.toggle(id, place) });
  }

  dress(tile, id, place) {
    const card = this.desk.cards.get(id);
    const on = this.chosen.has(id);
    tile.setAttribute("aria-pressed", String(on));
    tile.setAttribute("tabindex", place === this.at ? "0" : "-1");
    tile.setAttribute("title", card.image);
    tile.replaceChildren(
      small(card.url, card.missing ?? "on its way …"),
      el("span", { class: "mark", "aria-hidden": "true" }, on ? `✓ ${word(1 - card.given)}` : ""),
      el("span", { class: "name lines" }, card.image), el("span", { class: "quiet" }, `model ${card.p.toFixed(2)}`));
  }

  toggle(id, place) {
    this.chosen.has(id) ? this.chosen.delete(id) : this.chosen.add(id);
    this.focus(place);
  }

  choose(ids) {
    this.chosen = new Set(ids);
    this.draw();
  }

  focus(place) {
    this.at = Math.min(this.shown().length - 1, Math.max(0, place));
    this.draw();
    this.tileAt(this.at)?.focus();
  }

  confirm() {
    if (performance.now() - (this.confirmedAt ?? -Infinity) < 700) return; // a second press is not for pictures that nobody has seen
    const { desk } = this;
    const ids = this.shown();
    if (!ids.length || ids.some((id) => !desk.cards.get(id).url && !desk.cards.get(id).missing)) return;
    const batch = desk.next;
    desk.done(ids);
    desk.push(ids.map((id) => {
      const card = desk.cards.get(id);
      return { id, image: card.image, label: card.label, value: this.chosen.has(id) ? 1 - card.given : card.url ? card.given : null, way: "grid", batch };
    }), ids);
    desk.history.at(-1).chosen = [...this.chosen];
    this.confirmedAt = performance.now();
    this.chosen.clear();
    this.at = 0;
    this.isAwaited = this.root.getRootNode().activeElement?.dataset?.place !== undefined; // whoever goes by Tab and Enter stays on the button
    this.draw();
    this.root.scrollIntoView({ block: "start" });
  }

  key(key) {
    const columns = Math.max(1, getComputedStyle(this.root.querySelector(".grid") ?? this.root).gridTemplateColumns.split(" ").length);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (key in steps) this.focus(this.at + steps[key]);
    else return super.key(key);
    return true;
  }
}

// --- whole image: all labels of one picture as switches

class ImageView extends View {
  constructor(...all) {
    super(...all);
    this.picture = new PictureView((id) => CellView.prototype.wantFull.call(this, id));
    this.panel = el("div", {});
    const panel = el("div", { class: "panel" }, this.panel, this.status, this.offer, this.notice);
    this.root.replaceChildren(el("div", { class: "bench halves" }, this.picture.element, panel), this.asks);
  }

  draw() {
    const card = this.desk.current();
    if (!this.stand(card)) return this.tell();
    if (this.asked !== card.id) this.values = card.labels.map((one) => one.value);
    this.asked = card.id;
    this.picture.show(card, false);
    if (this.desk.full?.id === card.id) this.picture.sharpen(this.desk.full.url);
    const changes = card.labels.filter((one, place) => this.values[place] !== one.given).length;
    this.fill(this.panel, [
      this.place(card),
      el("h2", {}, "What is in this picture?"),
      el("p", { class: "quiet" }, this.desk.data.blind ? "Blind: the labels start from no." : "The switches stand as the CSV says, the bars as models say that never saw the picture. Confirming decides every label of it."),
      el("ul", { class: "switches" }, ...card.labels.map((one, place) => this.switch(one, place))),
      el("div", { class: "more confirm" },
        el("button", { type: "button", class: "answer", "aria-keyshortcuts": "control+enter", onclick: () => this.confirm() },
          el("span", {}, this.desk.data.blind ? "Confirm" : changes ? `Confirm, ${changes} changed` : "Confirm as it is", el("kbd", { "aria-hidden": "true" }, "Ctrl ⏎"))),
        keyed("Skip", "S", { class: "quiet-button", onclick: () => this.skip() }), this.undoButton()),
    ]);
    this.ask(`What is in ${card.image}? ${card.labels.length} labels.`);
    this.tell();
  }

  switch(one, place) {
    const on = this.values[place] === 1;
    const blind = this.desk.data.blind;
    const changed = !blind && this.values[place] !== one.given;
    const facts = `facts-${place}`;
    // The name is the label alone: whether it is on is told by the switch, what the model says by the description.
    return el("li", {},
      el("button", { type: "button", role: "switch", "aria-checked": String(on), "aria-label": one.label, "aria-describedby": blind ? null : facts,
                     "aria-keyshortcuts": place < 9 ? String(place + 1) : null, class: `switch${changed ? " changed" : ""}`, onclick: () => this.flip(place) },
        el("kbd", { "aria-hidden": "true", class: place < 9 ? null : "none" }, place < 9 ? String(place + 1) : ""), el("span", { class: "knob", "aria-hidden": "true" }),
        el("span", { class: "label" }, one.label), el("b", {}, word(on), changed && el("small", {}, " changed"))),
      !blind && el("span", { class: "facts", id: facts }, el("span", { class: "unseen" }, changed ? "Changed. " : "", "The model says "), bar(one.p),
        one.suspect && el("span", { class: "suspect" }, `◆ doubt ${one.doubt.toFixed(2)}`), one.decided && el("span", { class: "quiet" }, `decided: ${one.decided}`)));
  }

  flip(place) {
    this.values[place] = 1 - this.values[place];
    this.draw();
    this.panel.querySelectorAll(".switch")[place]?.focus();
  }

  send(values, way) {
    const { desk } = this;
    const card = desk.current();
    if (!card || !card.url && !card.missing) return;
    const batch = desk.next;
    desk.done([card.id]);
    const blind = desk.data.blind ? { blind: true } : {};
    desk.push(card.labels.map((one, place) => ({ id: card.id, image: card.image, label: one.label, value: values(one, place), way, batch, ...blind })), [card.id]);
    this.draw();
  }

  confirm() {
    this.send((one, place) => this.values[place], "image");
  }

  skip() {
    this.send(() => null, "image");
  }

  key(key) {
    const place = "123456789".indexOf(key);
    if (key.length === 1 && place >= 0 && place < (this.values?.length ?? 0)) this.flip(place);
    else if (key === "s") this.skip();
    else return this.picture.key(key) || super.key(key);
    return true;
  }
}

const VIEWS = { cell: CellView, grid: GridView, image: ImageView };

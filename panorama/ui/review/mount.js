// Where Streamlit hands over: called on every run of the page, with what Python says now.

export default function (given) {
  const root = given.parentElement.querySelector(".review");
  clearTimeout(root.later);
  if (!remember(root, given.data, given.setStateValue)) whenReleased(root, () => show(root, given));
  else root.later = setTimeout(() => show(root, given), NAME_MAY_TAKE_MS);
  return () => {
    clearTimeout(root.later);
    root.stop?.();
  };
}

function show(root, { data, setStateValue, setTriggerValue }) {
  const desk = deskOf(data.csv);
  desk.setStateValue = setStateValue;
  desk.isLeaving = () => isLeaving(root);
  desk.data = data;
  const isNew = desk.receive(data);
  if (root.view?.constructor !== VIEWS[data.mode] || root.view.desk !== desk || root.epoch !== data.epoch) {
    if (root.view) leaveField();
    root.view = new VIEWS[data.mode](desk, root, (command) => isLeaving(root) || setTriggerValue("command", command));
    root.epoch = data.epoch;
    root.view.draw();
    if (cameByTheModes()) root.view.enter?.();
  } else if (isNew) root.view.draw();
  listen(root, desk);
}

// A name or a filter was chosen: keys go to the review again, not into the field. Popovers keep theirs until they are closed.
function leaveField() {
  const field = document.activeElement;
  if (field?.matches("input[role=combobox], input[type=text]") && !field.closest('[data-testid="stPopoverBody"]')) field.blur();
}

// Whoever has just chosen a way goes on in it: the focus is still on the button of the way.
const cameByTheModes = () => Boolean(document.activeElement?.closest(".st-key-mode"));

function listen(root, desk) {
  root.stop?.();
  const onKey = (event) => {
    if (isTyping(event) || event.altKey || event.metaKey || (event.repeat && !event.key.startsWith("Arrow"))) return;
    if (document.querySelector('[role="dialog"]')) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    let used = false;
    if (!event.ctrlKey) used = root.view.key(key);
    else if (key === "Enter" && root.view.confirm) {
      root.view.confirm();
      used = true;
    }
    if (used) {
      event.preventDefault();
      event.stopPropagation();
    }
  };
  // What this tab has answered before is asked for last: asked at once, with a name on its way, it would cost the first picture a second journey.
  const again = setInterval(() => (desk.unsaved() ? desk.send() : (desk.isOwed || (desk.clients.length && !desk.tally)) && desk.send(true)), 1000);
  document.addEventListener("keydown", onKey, true);
  tellUnsaved(desk);
  root.stop = () => {
    clearInterval(again);
    document.removeEventListener("keydown", onKey, true);
    tellUnsaved(null);
  };
}

// Answers that are on their way are only sent from their own review: wherever else somebody goes, a banner says so until they are saved.
function tellUnsaved(shown) {
  held.shown = shown;
  if (held.watching) return;
  held.watching = true;
  const waiting = () => [...held.desks.values()].reduce((sum, desk) => sum + desk.unsaved(), 0);
  window.addEventListener("beforeunload", (event) => {
    if (waiting()) event.preventDefault();
  });
  const banner = el("div", { role: "alert" });
  banner.style.cssText =
    "position:fixed;left:50%;bottom:20px;transform:translateX(-50%);z-index:999999;padding:12px 18px;border-radius:10px;max-width:90vw;" +
    "background:#7a3d00;color:#fff;font:600 15px/1.4 sans-serif;box-shadow:0 4px 18px rgba(0,0,0,.35)";
  setInterval(() => {
    const n = [...held.desks.values()].filter((desk) => desk !== held.shown).reduce((sum, desk) => sum + desk.unsaved(), 0);
    banner.textContent = `⚠ ${n} ${n === 1 ? "answer is" : "answers are"} not saved yet. Go back to the Review page of that data set, and wait for “all saved”.`;
    if (n && !banner.isConnected) document.body.append(banner);
    if (!n) banner.remove();
  }, 500);
}

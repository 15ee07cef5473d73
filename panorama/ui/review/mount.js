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

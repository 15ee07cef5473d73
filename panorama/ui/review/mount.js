// Where Streamlit hands over: called on every run of the page, with what Python says now.

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".review");
  const desk = deskOf(data.csv);
  desk.setStateValue = setStateValue;
  desk.data = data;
  const isNew = desk.receive(data);
  remember(data, setStateValue);
  if (root.view?.constructor !== VIEWS[data.mode] || root.view.desk !== desk || root.epoch !== data.epoch) {
    root.view = new VIEWS[data.mode](desk, root, (command) => setTriggerValue("command", command));
    root.epoch = data.epoch;
    root.view.draw();
  } else if (isNew) root.view.draw();
  return listen(root, desk);
}

// The reviewer's name is kept by the browser, so that a refresh does not lose it.
function remember({ reviewer, login }, setStateValue) {
  if (login) return;
  try {
    if (reviewer) localStorage.setItem("panorama-reviewer", reviewer);
    else if (!held.asked && localStorage.getItem("panorama-reviewer")) {
      held.asked = true;
      setStateValue("name", localStorage.getItem("panorama-reviewer"));
    }
  } catch {
    // no storage here: the name is typed again
  }
}

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
  const onLeave = (event) => {
    if (desk.unsaved()) event.preventDefault();
  };
  const again = setInterval(() => desk.unsaved() && desk.send(), 1000);
  document.addEventListener("keydown", onKey, true);
  window.addEventListener("beforeunload", onLeave);
  root.stop = () => {
    clearInterval(again);
    document.removeEventListener("keydown", onKey, true);
    window.removeEventListener("beforeunload", onLeave);
  };
  return root.stop;
}

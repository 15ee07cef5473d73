// The reviewer's name is kept by the tab, so that a refresh does not lose it, and by the browser, so that a new tab begins with it; a name that
// was emptied stays so. The tab's own counts more: somebody else may have typed theirs into another one.

const known = (globalThis.__panoramaReviewer ??= {});
const NAME = "panorama-reviewer";
const NAME_MAY_TAKE_MS = 3000;

function keepName(name) {
  sessionStorage.setItem(NAME, name);
  if (name) localStorage.setItem(NAME, name);
  else localStorage.removeItem(NAME);
}

// True while a kept name is on its way to the server and back: what is shown before would be for nobody, and then change.
function remember(root, { page, reviewer, login, nameTyped: typed }, setStateValue) {
  arrive(root, page);
  if (login) return false;
  try {
    const kept = sessionStorage.getItem(NAME) ?? localStorage.getItem(NAME);
    if (reviewer && reviewer !== known.reviewer) keepName(reviewer); // another tab may have emptied it since
    else if (!reviewer && typed && known.reviewer !== "") keepName("");
    else if (!reviewer && !typed && kept && !known.asked && !isLeaving(root)) {
      known.asked = performance.now();
      setStateValue("name", kept);
    }
    known.reviewer = reviewer;
    return !reviewer && !typed && Boolean(kept) && known.asked !== undefined && performance.now() - known.asked < NAME_MAY_TAKE_MS;
  } catch {
    known.reviewer = reviewer; // no storage here: the name is typed again
    return false;
  }
}

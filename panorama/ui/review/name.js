// The reviewer's name is kept by the browser, so that a refresh and a link do not lose it; a name that was emptied stays so.

const known = (globalThis.__panoramaReviewer ??= {});
const NAME_MAY_TAKE_MS = 3000;

// True while a kept name is on its way to the server and back: what is shown before would be for nobody, and then change.
function remember(root, { page, reviewer, login, nameTyped: typed }, setStateValue) {
  arrive(root, page);
  if (login) return false;
  try {
    const kept = localStorage.getItem("panorama-reviewer");
    if (reviewer && reviewer !== known.reviewer) localStorage.setItem("panorama-reviewer", reviewer); // another tab may have emptied it since
    else if (!reviewer && typed && known.reviewer !== "") localStorage.removeItem("panorama-reviewer");
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

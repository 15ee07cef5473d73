// The reviewer's name is kept by the browser, so that a refresh and a link do not lose it; a name that was emptied stays so.

const known = (globalThis.__panoramaReviewer ??= {});

function remember({ reviewer, login, nameTyped: typed }, setStateValue) {
  if (login) return;
  try {
    const kept = localStorage.getItem("panorama-reviewer");
    if (reviewer && reviewer !== known.reviewer) localStorage.setItem("panorama-reviewer", reviewer); // another tab may have emptied it since
    else if (!reviewer && typed && known.reviewer !== "") localStorage.removeItem("panorama-reviewer");
    else if (!reviewer && !typed && kept && !known.asked) {
      known.asked = true;
      setStateValue("name", kept);
    }
  } catch {
    // no storage here: the name is typed again
  }
  known.reviewer = reviewer;
}

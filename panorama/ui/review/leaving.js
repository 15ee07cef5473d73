// A message sent while somebody is on their way to another page takes them back, or leaves that page empty: Streamlit runs this page's part in its place.
// So nothing is sent from the moment they leave; answers are kept, and a banner says so.

const way = (globalThis.__panoramaWay ??= { leftAt: -Infinity, from: "" });
const LEAVING_MAY_TAKE_MS = 15000; // a page that is still here after that has not been left

// page: as Python says it. A page may begin here only after it was left, so its address says nothing.
function arrive(root, page) {
  if (root.page !== undefined) return;
  root.page = page;
  if (page !== way.from) way.leftAt = -Infinity;
  if (way.isWatched) return;
  way.isWatched = true;
  const onClick = (event) => {
    const link = event.composedPath().find((one) => one instanceof HTMLAnchorElement && one.href);
    if (!link || link.target === "_blank" || link.download || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (link.origin !== location.origin) return;
    way.leftAt = link.pathname === location.pathname ? -Infinity : performance.now();
    way.from = pageHere();
  };
  document.addEventListener("click", onClick, true);
  watchOver();
}

// Messages that cross on the way may leave a page empty all the same. Then it is asked for again, as Back does; twice at most for one address.
const EMPTY_FOR_MS = 700;
const MOST_TRIES = 2;

function watchOver() {
  let since, address, tries;
  setInterval(() => {
    if (address !== location.href) [address, tries] = [location.href, 0];
    const app = document.querySelector('[data-testid="stApp"]');
    const main = document.querySelector('[data-testid="stMain"]');
    const isEmpty = app?.dataset.testScriptState === "notRunning" && main && !main.textContent.trim();
    since = isEmpty ? since ?? performance.now() : undefined;
    if (since === undefined || performance.now() - since < EMPTY_FOR_MS || tries === MOST_TRIES) return;
    since = undefined;
    tries += 1;
    window.dispatchEvent(new PopStateEvent("popstate", { state: history.state }));
  }, 200);
}

// Back changes the address at once, a link only when the other page has begun.
const isLeaving = (root) => pageHere() !== root.page || performance.now() - way.leftAt < LEAVING_MAY_TAKE_MS;

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
}

// Back changes the address at once, a link only when the other page has begun.
const isLeaving = (root) => pageHere() !== root.page || performance.now() - way.leftAt < LEAVING_MAY_TAKE_MS;

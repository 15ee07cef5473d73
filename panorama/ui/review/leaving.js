// A message sent while somebody is on their way to another page takes them back, or leaves that page empty: Streamlit runs this page's part in its place.
// So nothing is sent from the moment they leave; answers are kept, and a banner says so.

const way = (globalThis.__panoramaWay ??= { leftAt: -Infinity });
const LEAVING_MAY_TAKE_MS = 15000; // a page that is still here after that has not been left

function arrive(root) {
  if (root.path !== undefined) return;
  root.path = location.pathname;
  way.leftAt = -Infinity;
  if (way.isWatched) return;
  way.isWatched = true;
  const onClick = (event) => {
    const link = event.composedPath().find((one) => one instanceof HTMLAnchorElement && one.href);
    if (!link || link.target === "_blank" || link.download || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (link.origin === location.origin && link.pathname !== location.pathname) way.leftAt = performance.now();
  };
  document.addEventListener("click", onClick, true);
}

// Back changes the address at once, a link only when the other page has begun.
const isLeaving = (root) => location.pathname !== root.path || performance.now() - way.leftAt < LEAVING_MAY_TAKE_MS;

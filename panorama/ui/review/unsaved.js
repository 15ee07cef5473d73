// Answers that are on their way when somebody leaves their review: whatever page comes next sends them, and a banner says so where that takes long.

const held = (globalThis.__panoramaReview ??= { desks: new Map() });
const UNSAVED = "panorama-unsaved:"; // and the CSV's fingerprint: what a tab keeps of its answers until they are saved
const LONG_MS = 2500;
const AGAIN_MS = 5000;

// shown: the desk of the review on screen, which sends its own; null on other pages.
function tellUnsaved(shown) {
  held.shown = shown;
  if (held.watching) return;
  held.watching = true;
  window.addEventListener("beforeunload", (event) => {
    if ([...held.desks.values()].some((desk) => desk.unsaved())) event.preventDefault();
  });
  const banner = document.createElement("div");
  banner.setAttribute("role", "alert");
  banner.style.cssText =
    "position:fixed;left:50%;bottom:20px;transform:translateX(-50%);z-index:999999;padding:12px 18px;border-radius:10px;max-width:90vw;" +
    "background:#7a3d00;color:#fff;font:600 15px/1.4 sans-serif;box-shadow:0 4px 18px rgba(0,0,0,.35)";
  let since = null;
  setInterval(() => {
    const n = partsElsewhere().reduce((sum, part) => sum + part.events.length, 0);
    since = n ? since ?? performance.now() : null;
    banner.textContent = `⚠ ${n} ${n === 1 ? "answer is" : "answers are"} not saved yet. Go back to the Review page of that data set, and wait for “all saved”.`;
    if (n && performance.now() - since >= LONG_MS && !banner.isConnected) document.body.append(banner);
    if (!n) banner.remove();
  }, 500);
}

// [{csv, client, events}]: of the desks that are not on screen, then of what an earlier load of this tab has left.
function partsElsewhere() {
  const parts = [];
  for (const desk of held.desks.values()) {
    if (desk !== held.shown) parts.push(...[...desk.backlog, { client: desk.client, events: desk.events }].map((part) => ({ csv: desk.csv, ...part })));
  }
  for (const [csv, left] of leftBehind()) parts.push(...left.map((part) => ({ csv, ...part })));
  return parts.filter((part) => part.events.length);
}

function leftBehind() {
  try {
    const keys = Object.keys(sessionStorage).filter((key) => key.startsWith(UNSAVED) && !held.desks.has(key.slice(UNSAVED.length)));
    return keys.map((key) => [key.slice(UNSAVED.length), JSON.parse(sessionStorage.getItem(key))]);
  } catch {
    return []; // no storage here, or not ours
  }
}

// What the server has stored meanwhile.
function hear({ acked, refused }) {
  for (const desk of held.desks.values()) {
    for (const [client, n] of Object.entries(acked)) desk.acknowledge({ acked: { client, n }, refused: refused[client] });
  }
  for (const [csv, parts] of leftBehind()) {
    const left = parts.map(({ client, events }) => ({ client, events: events.filter((event) => event.n > (acked[client] ?? -1)) })).filter((part) => part.events.length);
    if (left.length) sessionStorage.setItem(UNSAVED + csv, JSON.stringify(left));
    else sessionStorage.removeItem(UNSAVED + csv);
  }
}

// A page without a bench sends what waits, a part at a time: answers stay in order.
function sendFrom(root, setStateValue) {
  clearInterval(root.sending);
  const send = () => {
    const [part] = partsElsewhere();
    if (!part || isLeaving(root) || performance.now() - (held.sentAt ?? -Infinity) < AGAIN_MS) return;
    held.sentAt = performance.now();
    setStateValue("batch", { ...part, tab: part.client, attempt: (held.attempt = (held.attempt ?? 0) + 1) });
  };
  root.sending = setInterval(send, 500);
  send();
}

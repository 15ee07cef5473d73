"""Fast keys on the review page, watched from inside the browser: what was on screen at each press, and how soon the next picture stood there."""

import time
from collections.abc import Sequence

from browser import settled
from playwright.sync_api import Browser, Page

from panorama.decisions import Decision

BURST = 20
ROOT_SCRIPT = "[...document.querySelectorAll('*')].map((e) => e.shadowRoot).find((r) => r && r.querySelector('.review'))"
_PROBE = f"""() => {{
  window.pressed = []; window.latencies = [];
  const root = () => {ROOT_SCRIPT};
  const asked = () => {{ const r = root(); return r.querySelector('.where .name')?.textContent + '|' + r.querySelector('h2 em')?.textContent; }};
  if (window.probed) return;
  window.probed = true;
  window.addEventListener('keydown', (event) => {{
    if (!['y', 'n', 's'].includes(event.key)) return;
    const before = asked();
    window.pressed.push(before + '|' + event.key);
    const look = () => {{
      const picture = root().querySelector('.photo');
      // The frame after the one in which the picture stands in the page: then it has been painted.
      if (asked() !== before && picture && picture.complete && picture.naturalWidth) {{
        requestAnimationFrame(() => window.latencies.push(performance.now() - event.timeStamp));
      }} else if (performance.now() - event.timeStamp < 10000) requestAnimationFrame(look);
    }};
    requestAnimationFrame(look);
  }}, true);
}}"""
NOTHING_UNSAVED = """() => globalThis.__panoramaReview && ![...globalThis.__panoramaReview.desks.values()].some((desk) => desk.unsaved())
    && !Object.keys(sessionStorage).some((key) => key.startsWith('panorama-unsaved:'))"""
DESK = "[...globalThis.__panoramaReview.desks.values()][0]"
AHEAD = f"() => {DESK}.order.slice(0, {BURST}).every((id) => {DESK}.cards.has(id))"  # or a key finds no picture on screen, and means nothing
# The root is away for a moment when the page comes back to a server that was gone.
LAST_SAVED = f"() => Boolean({ROOT_SCRIPT}?.querySelector('.status')?.textContent.includes('all saved'))"


def shown_picture() -> str:
    """For `wait_for_function`: a picture is on screen, decoded."""
    return f"() => {{ const r = {ROOT_SCRIPT}; const i = r && r.querySelector('.photo'); return Boolean(i && i.complete && i.naturalWidth); }}"


def press_and_watch(page: Page, count: int, *, every_seconds: float, keys: str = "yns") -> tuple[list[str], list[float]]:
    """Presses y, n and s in turn; "image|label|key" of each press as the page showed it, and milliseconds until the next picture was painted."""
    page.evaluate(_PROBE)
    began = time.monotonic()
    for number in range(count):
        page.keyboard.press(keys[number % len(keys)])
        time.sleep(max(0.0, (number + 1) * every_seconds - (time.monotonic() - began)))
    page.wait_for_function("(n) => window.latencies.length >= n", arg=count, timeout=20_000)
    return page.evaluate("window.pressed"), page.evaluate("window.latencies")


def what_is_stored(log: Sequence[Decision]) -> list[str]:
    """The log as `press_and_watch` tells presses: skip is s, and y and n by the value that was decided."""
    return [f"{d.image}|{d.label}|{'s' if d.value is None else 'y' if d.value else 'n'}" for d in log]


def visit(opened: Browser, address: str, query: str = "") -> Page:
    """The review in a new window of the browser, with its first picture and the next ones at hand."""
    page = opened.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    page.goto(f"{address}/review{query}")
    page.wait_for_function(shown_picture(), timeout=60_000)
    page.wait_for_function(AHEAD, timeout=60_000)
    settled(page)
    return page


def all_saved(page: Page) -> None:
    """Waits until the page says so."""
    page.wait_for_function(LAST_SAVED, timeout=30_000)


def question(page: Page) -> str:
    """What is asked: "image|label"."""
    text: str = page.evaluate(
        f"{ROOT_SCRIPT}.querySelector('.where .name').textContent + '|' + {ROOT_SCRIPT}.querySelector('h2 em').textContent"
    )
    return text


def status(page: Page) -> str:
    """The line that says what is saved."""
    return page.locator(".status").inner_text()

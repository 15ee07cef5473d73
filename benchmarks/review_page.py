"""The review page with a large data set, in a real browser: how soon it can be used, how soon filters answer, and what becomes of fast keys.

    python benchmarks/review_page.py WORKSPACE [--images 100000] [--labels 20]

WORKSPACE is made by benchmarks/large.py when it is not there. Needs Chromium. Times are of this machine; the counts are not.
"""

import argparse
import shutil
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from browser import browser, server
from keys import BURST, LAST_SAVED, press_and_watch, shown_picture, what_is_stored
from large import build
from playwright.sync_api import Page

from panorama import runs
from panorama.reviews import ReviewStore


def to_decide(page: Page) -> str:
    """The figure "to decide", once the page has one and its picture is on screen."""
    page.wait_for_function(shown_picture(), timeout=60_000)
    return page.locator(".pn-fact .pn-value").first.inner_text()


def filter_seconds(page: Page, choose: str, option: str) -> float:
    """From the click on a menu's entry to the new figure and the new picture."""
    before = to_decide(page)
    page.get_by_role("combobox", name=choose).click()
    entry = page.get_by_role("option", name=option, exact=True)
    entry.wait_for()
    began = time.perf_counter()
    entry.click()
    return _until_other(page, before, began)


def _until_other(page: Page, before: str, began: float) -> float:
    page.wait_for_function(
        "(before) => { const figure = document.querySelector('.pn-fact .pn-value'); return figure && figure.textContent !== before; }",
        arg=before, timeout=30_000,
    )  # fmt: skip
    page.wait_for_function(shown_picture(), timeout=30_000)
    return time.perf_counter() - began


def memory_gib(pid: int) -> float:
    """The most memory that the server has used."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=20)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("needs Chromium on the PATH", file=sys.stderr)
        return 1
    home = options.workspace.resolve()
    if not runs.list_runs(home):
        build(home, options.images, options.labels)
    run = runs.list_runs(home)[0]
    with server(home) as (address, process), browser(chromium) as opened:
        print(f"{len(run.images()[0]):,} images; run {run.id}")
        for visit in ("first visit, cold", "second visit", "third visit"):
            page = opened.new_context(viewport={"width": 1440, "height": 1000}).new_page()
            began = time.perf_counter()
            page.goto(f"{address}/review?run={run.id}")
            page.wait_for_function(shown_picture(), timeout=120_000)
            print(f"deep link to the first picture on screen, {visit:18} {time.perf_counter() - began:6.2f} s")
            if visit != "third visit":
                page.close()
        last = run.probabilities("out_of_fold.csv")
        assert last is not None
        label = last[0][-1]
        print(f"filter by label                                         {filter_seconds(page, 'Label', label):6.2f} s")
        print(
            f"filter by kind                                          {filter_seconds(page, 'Kind', 'extra: CSV says yes'):6.2f} s"
        )
        print(
            f"back to both kinds                                      {filter_seconds(page, 'Kind', 'missing and extra'):6.2f} s"
        )
        page.get_by_role("button", name="More filters").click()
        field = page.get_by_label("File name contains")
        field.fill("0099")
        before, began = page.locator(".pn-fact .pn-value").first.inner_text(), time.perf_counter()
        field.press("Enter")
        print(f"search by file name                                     {_until_other(page, before, began):6.2f} s")
        field.fill("")
        field.press("Enter")
        page.keyboard.press("Escape")
        page.close()

        page = opened.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        page.goto(f"{address}/review?run={run.id}")
        page.wait_for_function(shown_picture(), timeout=60_000)
        time.sleep(3)
        seen, milliseconds = press_and_watch(page, 60, every_seconds=0.5)
        print(
            f"60 keys in 30 s: next picture on screen after {statistics.median(milliseconds):.0f} ms (median), {max(milliseconds):.0f} ms (most)"
        )
        burst, milliseconds = press_and_watch(page, BURST, every_seconds=0)
        page.wait_for_function(LAST_SAVED, timeout=30_000)
        print(f"{BURST} keys without a gap: {statistics.median(milliseconds):.0f} ms (median), {max(milliseconds):.0f} ms (most)")
        stored = what_is_stored(ReviewStore(home / "reviews.sqlite").log(run.fingerprint)[-len(seen + burst) :])
        print(
            f"stored, in order, each on the picture that was on screen: {'all' if stored == seen + burst else 'NOT ALL'} {len(stored)}"
        )
        print(f"server: at most {memory_gib(process.pid):.2f} GiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

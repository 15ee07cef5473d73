"""Pictures of every page, for people to look at: at first run, with the demo, and with 10,000 images; in both themes, at several widths.

    python tools/picture_pages.py OUT [--images 10000] [--only first,demo,large] [--demo WORKSPACE] [--widths 1440,1280,800]

Each picture is OUT/STATE-PAGE-THEME-WIDTH.png and as high as its page. The large data set is drawn and its run synthesised (benchmarks/large.py), with decisions of two
people and a run on the corrected labels. The demo is drawn and trained, about two minutes, unless a workspace where that was done is given; the pages are only looked at.
Says which pages scroll sideways. Needs requirements-dev.txt and Chromium.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import numpy as np
from browser import browser, no_traceback, server, settled
from large import build
from playwright.sync_api import Error, Page
from test_looks import PAGES, as_high_as_the_page, drawn, sideways

from panorama import runs
from panorama.datasets import corrected_csvs
from panorama.decisions import Answer
from panorama.reviewfiles import open_queue
from panorama.reviews import ReviewStore
from panorama.runs import Corrects, Run
from panorama.scenery import draw_scene
from panorama.terrain import DEMO_LABELS

ROOT = Path(__file__).resolve().parent.parent
_WAYS = {"review-grid": "review?mode=grid", "review-image": "review?mode=image", "review-people": "review?mode=people"}
_OF_A_RUN = ("split.csv", "before.csv", "predictions.csv", "out_of_fold.csv", "suspects.csv", "neighbours.csv", "metrics.json", "events.jsonl")  # fmt: skip


def paint(folder: Path) -> None:
    """Small landscapes in place of the fields of colour: the drawn files are few, and the other names are links to them."""
    drawn_already: set[int] = set()
    for number, path in enumerate(sorted(folder.iterdir())):
        if path.stat().st_ino in drawn_already:
            continue
        drawn_already.add(path.stat().st_ino)
        rng = np.random.default_rng(number)
        labels = rng.choice(DEMO_LABELS, rng.integers(1, 4), replace=False).tolist()
        draw_scene(labels, (160, 120), rng).save(path, quality=85)


def decide(run: Run, home: Path) -> None:
    """What two people decided on the first few hundred suspects: mostly the same, sometimes not."""
    queue, store = open_queue(run), ReviewStore(home / "reviews.sqlite")
    answers = []
    for n in range(min(300, len(queue.doubts))):
        cell = (*queue.name(n), int(queue.given[n]))
        answers.append(
            Answer(*cell, "keep" if n % 5 == 4 else "change", "Ada", 0.6, 0.7, run.id, "hard to see" if n % 9 == 0 else "")
        )
        if n % 10 == 0:
            answers.append(Answer(*cell, "keep" if n % 20 else "change", "Bob", 0.6, 0.7, run.id))
    store.apply(run.fingerprint, answers)


def retrain(run: Run, home: Path) -> Run:
    """A complete run on the corrected labels that answers as the first one does."""
    store = ReviewStore(home / "reviews.sqlite")
    corrections = store.corrections(run.fingerprint)
    corrects = Corrects(run.id, len(corrections), store.fold(run.fingerprint).last_id)
    again = runs.create_corrected(run, corrected_csvs(run.sheets(), corrections), corrects, home)
    for name in _OF_A_RUN:
        shutil.copyfile(run.folder / name, again.folder / name)
    return again


def picture(page: Page, address: str, out: Path, state: str, name: str, path: str, widths: list[int]) -> None:
    """One page in both themes at each width."""
    page.set_viewport_size({"width": 1440, "height": 900})
    page.emulate_media(color_scheme="light")
    page.goto(f"{address}/{path}")
    drawn(page)
    page.wait_for_timeout(1500)  # charts and the review's component draw after the script
    for width in widths:
        as_high_as_the_page(page, width)
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            page.wait_for_timeout(400)
            drawn(page)
            no_traceback(page)
            page.screenshot(path=out / f"{state}-{name}-{theme}-{width}.png")
        page.emulate_media(color_scheme="light")
        if wide := sideways(page):
            print(f"{state}-{name}-{width} scrolls sideways: {wide[-1]}", flush=True)


def every_page(home: Path, out: Path, state: str, chromium: str, widths: list[int]) -> None:
    """All pages of a workspace; of the review each way where there is one."""
    ways = _WAYS if runs.list_runs(home) else {}
    with server(home) as (address, _), browser(chromium) as opened:
        page = opened.new_context(reduced_motion="reduce").new_page()
        for name in [*PAGES, *ways]:
            try:
                picture(page, address, out, state, name, ways.get(name, "" if name == "start" else name), widths)
            except Error as error:
                print(f"{state}-{name}: {error}", flush=True)
        settled(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--only", default="first,demo,large")
    parser.add_argument("--demo", type=Path, help="a workspace with the demo, drawn and trained")
    parser.add_argument("--widths", default="1440,800")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Needs Chromium: apt-get install chromium (Debian), or any Chromium or Chrome on the PATH.")
    options.out.mkdir(parents=True, exist_ok=True)
    widths, wanted = [int(one) for one in options.widths.split(",")], options.only.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        if "first" in wanted:
            home = Path(temporary) / "first"
            home.mkdir()
            every_page(home, options.out, "first", chromium, widths)
        if "demo" in wanted:
            home = options.demo.resolve() if options.demo else Path(temporary) / "demo"
            if not runs.list_runs(home):
                subprocess.run(
                    [sys.executable, "-m", "panorama", "demo"],
                    cwd=ROOT,
                    env=os.environ | {"PANORAMA_HOME": str(home)},
                    check=True,
                )
            every_page(home, options.out, "demo", chromium, widths)
        if "large" in wanted:
            home = Path(temporary) / "large"
            run = build(home, options.images, 20)
            paint(home / "data" / "pictures")
            decide(run, home)
            retrain(run, home)
            every_page(home, options.out, "large", chromium, widths)
    print(f"{len(list(options.out.glob('*.png')))} pictures in {options.out}")


if __name__ == "__main__":
    main()

"""Walks through the app on the demo as docs/guide.md tells it, and takes the guide's pictures.

    python tools/picture_guide.py [--out docs/images] [--decisions 40]

Starts a server of its own with an empty workspace, clicks in a headless Chromium, and says how long each step took. The reviewer of the
walk answers from the demo's truth. Needs requirements-dev.txt and Chromium.
"""

import argparse
import csv
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 1280, 860
_ASKED = """() => {
  const r = [...document.querySelectorAll('*')].map((e) => e.shadowRoot).find((r) => r && r.querySelector('.review'));
  const name = r?.querySelector('.where .name'), label = r?.querySelector('h2 em'), photo = r?.querySelector('.photo');
  return name && label && photo?.complete && photo.naturalWidth ? [name.textContent, label.textContent] : null;
}"""


class Walk:
    """The page, where pictures go, and a watch."""

    def __init__(self, page: Page, out: Path) -> None:
        self.page, self.out, self.started = page, out, time.monotonic()

    def told(self, what: str) -> None:
        print(f"[{time.monotonic() - self.started:6.1f} s] {what}", flush=True)

    def settled(self) -> None:
        """No script runs, nothing is faded, and pictures stand."""
        self.page.wait_for_function(
            "() => document.querySelector('[data-testid=\"stApp\"]')?.getAttribute('data-test-script-state') === 'notRunning'"
            ' && !document.querySelector(\'[data-testid="stSkeleton"], [data-testid="stSpinner"], [data-stale="true"]\')'
            " && [...document.images].every((one) => one.complete)",
            timeout=60_000,
        )
        time.sleep(0.6)  # charts draw after the script

    def picture(self, name: str, *, of: Locator | None = None) -> None:
        """A JPEG of the window, or of an element."""
        data = (of or self.page).screenshot()
        Image.open(io.BytesIO(data)).convert("RGB").save(self.out / f"{name}.jpg", quality=84, optimize=True)
        self.told(f"{name}.jpg")

    def go(self, page_name: str) -> None:
        """By the sidebar, as a person does."""
        self.page.get_by_test_id("stSidebarNavLink").filter(has_text=page_name).click()
        expect(self.page.get_by_role("heading", name=page_name, exact=True)).to_be_visible(timeout=60_000)
        self.settled()


def answer(walk: Walk, truth: dict[tuple[str, str], str], count: int) -> int:
    """Answers `count` questions by key from the truth; how many changed the CSV is for the export to say."""
    for number in range(count):
        asked = walk.page.wait_for_function(_ASKED, timeout=30_000).json_value()
        walk.page.keyboard.press("y" if truth[asked[0], asked[1]] == "1" else "n")
        walk.page.wait_for_function(
            f"(before) => {{ const now = ({_ASKED})(); return now && String(now) !== before; }}",
            arg=",".join(asked),
            timeout=30_000,
        )
        if number % 10 == 9:
            walk.told(f"{number + 1} answers")
    return count


def tour(page: Page, address: str, home: Path, out: Path, decisions: int) -> None:
    walk = Walk(page, out)
    page.goto(address)
    expect(page.get_by_role("button", name="Draw the demo and train")).to_be_visible(timeout=60_000)
    walk.settled()
    walk.picture("start")
    page.get_by_role("button", name="Draw the demo and train").click()
    page.wait_for_url("**/train**", timeout=300_000)
    walk.told("drawn; the training begins")
    expect(page.get_by_text("fine tuning", exact=True).first).to_be_visible(timeout=120_000)
    time.sleep(9)
    walk.picture("training")
    expect(page.get_by_text("Complete. Every image has predictions")).to_be_visible(timeout=600_000)
    walk.settled()
    walk.told(page.get_by_text("planted label errors stand among").inner_text())
    walk.picture("trained")
    walk.go("Dataset")
    walk.picture("dataset")
    walk.go("Sanity check")
    walk.picture("sanity-check")
    walk.go("Review")
    page.wait_for_function(_ASKED, timeout=60_000)
    page.keyboard.press("h")
    time.sleep(1.5)
    walk.picture("review")
    page.keyboard.press("h")
    with (home / "demo" / "truth.csv").open(newline="") as stream:
        truth = {
            (row["image"], label): value for row in csv.DictReader(stream) for label, value in row.items() if label != "image"
        }
    answer(walk, truth, decisions)
    page.get_by_text("Many at once", exact=True).click()
    time.sleep(2)
    walk.settled()
    walk.picture("review-grid")
    walk.go("Export")
    walk.picture("export")
    walk.go("Effect")
    page.get_by_role("button", name="Retrain on the corrected labels").click()
    expect(page.get_by_text("In brackets the 95 % interval")).to_be_visible(timeout=600_000)
    walk.settled()
    walk.picture("effect")
    walk.go("Predict")
    wide = max((home / "demo" / "data" / "test").glob("*.jpg"), key=lambda path: Image.open(path).width / Image.open(path).height)
    page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(wide)
    expect(page.get_by_role("button", name="Download predictions.csv")).to_be_attached(timeout=60_000)
    walk.settled()
    walk.picture("predict")
    walk.go("Report")
    walk.picture("report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--decisions", type=int, default=40)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Needs Chromium: apt-get install chromium (Debian), or any Chromium or Chrome on the PATH.")
    options.out.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        started = time.monotonic()
        server = subprocess.Popen(
            [sys.executable, "-m", "panorama", "serve", "--port", str(port)], cwd=ROOT, env=os.environ | {"PANORAMA_HOME": str(home)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1)
                    break
                except OSError:
                    if server.poll() is not None or time.monotonic() - started > 60:
                        raise SystemExit("The server did not start.") from None
                    time.sleep(0.05)
            print(f"the server answers after {time.monotonic() - started:.1f} s")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
                page = browser.new_page(
                    viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", reduced_motion="reduce"
                )
                tour(page, f"http://127.0.0.1:{port}", home, options.out, options.decisions)
                browser.close()
        finally:
            server.terminate()
            server.wait(timeout=20)


if __name__ == "__main__":
    main()

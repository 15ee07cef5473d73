"""How long until somebody can use a page: from `scripts/start` to the first page, and from page to page.

    python benchmarks/first_minute.py [WORKSPACE] [--repeats 3]

WORKSPACE is one with a finished run (`PANORAMA_HOME=... python -m panorama demo` makes it, or `benchmarks/large.py` one of many images; that one has no model, so Predict is passed over). Starts `scripts/start` on a free port, opens the first page in a headless
Chromium that is running already, and clicks through the sidebar: once to warm the server, then `repeats` times. A page counts as there when its heading and what it is for
(a picture, a button, a chart) can be seen. Needs requirements-dev.txt and Chromium.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
_SEEN = {  # what a page is for
    "Dataset": '[data-testid="stVegaLiteChart"] canvas, [data-testid="stVegaLiteChart"] svg',
    "Train": '[data-testid="stVegaLiteChart"] canvas, [data-testid="stVegaLiteChart"] svg',
    "Sanity check": ".pn-card img",
    "Review": ".review .photo",
    "Export": '[data-testid="stDownloadButton"]',
    "Effect": '[data-testid="stMain"] [data-testid="stPageLink"]',  # its last element
    "Predict": '[data-testid="stFileUploaderDropzone"]',
    "Report": '[data-testid="stVegaLiteChart"] canvas, [data-testid="stVegaLiteChart"] svg',
    "Start": 'button:has-text("Draw the demo and train")',
}


def switch(page: Page, name: str) -> float:
    """Seconds from the click to the page."""
    began = time.perf_counter()
    page.get_by_test_id("stSidebarNavLink").filter(has_text=name).click()
    page.wait_for_selector(f'h1:has-text("{"panorama" if name == "Start" else name}")', timeout=60_000)
    page.locator(_SEEN[name]).first.wait_for(timeout=60_000)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Needs Chromium: apt-get install chromium (Debian), or any Chromium or Chrome on the PATH.")
    with tempfile.TemporaryDirectory() as empty, sync_playwright() as playwright:
        home = options.workspace or Path(empty)
        page = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]).new_page()
        starts = []
        for number in range(options.repeats):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            began = time.perf_counter()
            server = subprocess.Popen(
                ["scripts/start", "--port", str(port)], cwd=ROOT, env=os.environ | {"PANORAMA_HOME": str(home.resolve())},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            try:
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port), timeout=1).close()
                        break
                    except OSError:
                        assert server.poll() is None, "scripts/start ended"
                        time.sleep(0.02)
                page.goto(f"http://127.0.0.1:{port}")
                page.locator(_SEEN["Start"]).wait_for(timeout=60_000)
                starts.append(time.perf_counter() - began)
                if number == options.repeats - 1 and options.workspace:
                    names = [name for name in _SEEN if name != "Predict" or list(home.glob("runs/*/model.json"))]
                    for name in names:
                        switch(page, name)
                    for name in names:
                        taken = [switch(page, name) for _ in range(1)]
                        for _ in range(options.repeats - 1):
                            switch(page, "Start" if name != "Start" else "Export")
                            taken.append(switch(page, name))
                        print(f"{name:14} {statistics.median(taken):5.2f} s ({min(taken):.2f} to {max(taken):.2f})", flush=True)
            finally:
                os.killpg(server.pid, signal.SIGTERM)
                server.wait(timeout=20)
        print(f"scripts/start to the first page, {len(starts)} times: {', '.join(f'{one:.1f}' for one in starts)} s")


if __name__ == "__main__":
    main()

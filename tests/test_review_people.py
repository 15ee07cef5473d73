"""People and conflicts in a real browser, when there are a thousand of them."""

import sys
from pathlib import Path

import pytest
from browser import browser, no_traceback, server, settled
from conftest import ROOT
from playwright.sync_api import expect

sys.path.insert(0, str(ROOT / "benchmarks"))

from large import build

from panorama.decisions import Answer
from panorama.reviewfiles import open_queue
from panorama.reviews import ReviewStore

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_thousand_conflicts_are_all_shown_settled_at_once_and_change_nothing(chromium: str, home: Path) -> None:
    run = build(home, 250, 4)
    queue, store = open_queue(run), ReviewStore(home / "reviews.sqlite")
    cells = [(*queue.name(cell), int(queue.given[cell])) for cell in range(1000)]
    store.apply(run.fingerprint, [Answer(*cell, v, who) for v, who in (("keep", "for"), ("change", "against")) for cell in cells])
    with server(home) as (address, _), browser(chromium) as opened:
        page = opened.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        page.goto(f"{address}/export")  # what a server reads once
        expect(page.get_by_text("Nothing changes yet")).to_be_visible(timeout=60_000)

        page.goto(f"{address}/review?mode=people")
        expect(page.get_by_text("1,000 cells on which reviewers disagree")).to_be_visible(timeout=30_000)
        name = page.get_by_role("textbox", name="Your name")
        name.fill("Eve")
        name.press("Enter")
        expect(page.get_by_role("button", name="Settle: yes").first).to_be_enabled()
        page.get_by_role("button", name="Settle: yes").first.click()
        expect(page.get_by_text("999 cells on which reviewers disagree")).to_be_visible(timeout=30_000)
        box = page.get_by_text("✓ Settled: yes").bounding_box()
        assert box is not None
        assert box["y"] < 1000, "it stays where it was clicked"
        page.get_by_role("button", name="Undo").first.click()
        expect(page.get_by_text("1,000 cells on which reviewers disagree")).to_be_visible(timeout=30_000)

        shown: list[str] = []
        field = page.get_by_role("spinbutton", name="Page (of 100)")
        for number in range(1, 101):
            field.fill(str(number))
            field.press("Enter")
            expect(page.get_by_text(f"{10 * number - 9:,} to {10 * number:,} of 1,000")).to_be_visible(timeout=10_000)
            settled(page)
            headings = page.locator("[data-testid=stMain] [data-testid=stMarkdownContainer] p:has(strong:first-child)")
            shown += [text for text in headings.all_inner_texts() if " in " in text]
        assert sorted(shown) == sorted(f"{label} in {' '.join(image.split())}" for image, label, _ in cells)
        no_traceback(page)

        page.goto(f"{address}/export")
        expect(page.get_by_text("Nothing changes yet: the files below are your CSV, byte for byte.")).to_be_visible(
            timeout=30_000
        )
        expect(page.locator(".pn-fact", has_text="In conflict")).to_contain_text("1,000")
        expect(page.locator(".pn-fact", has_text="In conflict")).to_contain_text("stay as given until settled")
        no_traceback(page)

"""The review as somebody finds it who comes for the first time: what is kept, what is said, where the keys go."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import browser, no_traceback, server, settled
from keys import visit
from playwright.sync_api import Browser, Page, expect

from panorama.decisions import Answer
from panorama.reviewfiles import open_queue
from panorama.reviews import ReviewStore
from panorama.runs import Run

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def finished(trained: Callable[..., Run]) -> Run:
    return trained()


@pytest.fixture
def opened(chromium: str) -> Iterator[Browser]:
    with browser(chromium) as it:
        yield it


def sign(page: Page, who: str) -> None:
    name = page.get_by_role("textbox", name="Your name")
    name.fill(who)
    name.press("Enter")
    settled(page)


def test_a_name_comes_back_on_the_people_page_by_a_refresh_and_by_a_link(opened: Browser, finished: Run, home: Path) -> None:
    store, queue = ReviewStore(home / "reviews.sqlite"), open_queue(finished)
    cell = (*queue.name(0), int(queue.given[0]))
    store.apply(finished.fingerprint, [Answer(*cell, "keep", "Ada"), Answer(*cell, "change", "Bob")])
    with server(home) as (address, _):
        page = visit(opened, address)
        sign(page, "Eve")
        page.get_by_role("radio", name="People and conflicts").click()
        settle = page.get_by_role("button", name="Settle: yes")
        expect(settle).to_be_enabled(timeout=20_000)
        page.reload()
        name = page.get_by_role("textbox", name="Your name")
        expect(name).to_have_value("Eve", timeout=20_000)
        expect(settle).to_be_enabled(timeout=20_000)
        link = page.context.new_page()
        link.goto(f"{address}/review?mode=people")
        expect(link.get_by_role("textbox", name="Your name")).to_have_value("Eve", timeout=20_000)

        sign(link, "")
        link.reload()
        settled(link)
        link.wait_for_timeout(1500)  # by then the other tab's had come
        expect(link.get_by_role("button", name="Settle: yes")).to_be_disabled(timeout=20_000)
        expect(link.get_by_role("textbox", name="Your name")).to_have_value("")
        no_traceback(link)

"""The review in a real browser: every key counts once, in order, on the picture that was on screen; whatever happens to the server."""

import json
import os
import re
import shutil
import signal
import statistics
import time
from pathlib import Path

import pytest
from browser import no_traceback, server, settled
from keys import (
    BURST,
    NOTHING_UNSAVED,
    ROOT_SCRIPT,
    all_saved,
    press_and_watch,
    question,
    shown_picture,
    status,
    visit,
    what_is_stored,
)
from playwright.sync_api import Browser, expect

from panorama import runs
from panorama.reviews import ReviewStore
from panorama.runs import Run

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_sixty_keys_in_thirty_seconds_and_twenty_without_a_gap(opened: Browser, finished: Run, home: Path) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, _):
        page = visit(opened, address)
        time.sleep(1)
        pressed, milliseconds = press_and_watch(page, 60, every_seconds=0.5)
        burst, fast = press_and_watch(page, BURST, every_seconds=0)
        all_saved(page)
        assert what_is_stored(store.log(finished.fingerprint)) == pressed + burst
        assert len({p.rpartition("|")[0] for p in pressed + burst}) == 60 + BURST, "no cell is asked twice"
        # About 20 ms on an idle machine; the bound is the promise.
        assert statistics.median(milliseconds) < 100, milliseconds
        assert statistics.median(fast) < 100, fast
        no_traceback(page)


def test_undo_brings_back_the_very_picture_and_survives_a_refresh(opened: Browser, finished: Run, home: Path) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, _):
        page = visit(opened, address)
        first = question(page)
        page.keyboard.press("y")
        second = question(page)
        assert second != first
        page.keyboard.press("n")
        page.keyboard.press("u")
        assert question(page) == second
        page.keyboard.press("u")
        assert question(page) == first
        page.keyboard.press("n")
        all_saved(page)
        page.reload()
        page.wait_for_function(shown_picture(), timeout=30_000)
        assert question(page) != first, "it is decided"
        page.keyboard.press("u")
        page.wait_for_function(f"(first) => {ROOT_SCRIPT}?.querySelector('.where .name')?.textContent + '|' + {ROOT_SCRIPT}?.querySelector('h2 em')?.textContent === first",
                               arg=first, timeout=20_000)  # fmt: skip
        all_saved(page) if page.evaluate(f"{ROOT_SCRIPT}.querySelector('.status').textContent") else None
        deadline = time.monotonic() + 10
        while store.current(finished.fingerprint) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert store.current(finished.fingerprint) == {}
        assert [row.verdict == "undo" for row in store.log(finished.fingerprint)] == [False, False, True, True, False, True]


def test_keys_pressed_while_the_server_is_dead_are_saved_when_it_is_back(opened: Browser, finished: Run, home: Path) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, process):
        port = int(address.rpartition(":")[2])
        page = visit(opened, address)
        time.sleep(2)
        pressed, _ = press_and_watch(page, 3, every_seconds=0.1)
        all_saved(page)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        more, _ = press_and_watch(page, 5, every_seconds=0.05)
        assert "Saving" in page.evaluate(f"{ROOT_SCRIPT}.querySelector('.status').textContent")
        assert len(store.log(finished.fingerprint)) == 3
        with server(home, port=port):
            deadline = time.monotonic() + 60
            while len(store.log(finished.fingerprint)) < 8 and time.monotonic() < deadline:
                time.sleep(0.3)
            assert what_is_stored(store.log(finished.fingerprint)) == pressed + more
            all_saved(page)


def test_keys_in_a_field_are_text_and_modes_and_filters_keep_the_queue(opened: Browser, finished: Run, home: Path) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, _):
        page = visit(opened, address)
        name = page.get_by_role("textbox", name="Your name")
        name.fill("yns")
        name.press("Enter")
        settled(page)
        page.wait_for_function(shown_picture(), timeout=30_000)
        time.sleep(1)
        page.keyboard.press("Escape")
        page.locator("h1").click()
        page.keyboard.press("t")
        page.keyboard.type("yes, no; sun")
        page.keyboard.press("Escape")
        asked = question(page)
        page.keyboard.press("y")
        all_saved(page)
        (row,) = store.log(finished.fingerprint)
        assert (row.reviewer, row.note, f"{row.image}|{row.label}") == ("yns", "yes, no; sun", asked)

        # The next label; then a grid of it, confirmed as a whole and taken back as a whole.
        page.keyboard.press("l")
        expect(page.get_by_role("combobox", name="Label")).to_have_value("red", timeout=10_000)
        page.get_by_role("radio", name="Many at once").click()
        page.locator(".tile").first.wait_for(timeout=20_000)
        time.sleep(2)
        shown = page.locator(".tile .name").all_inner_texts()
        page.locator(".tile").nth(1).click()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        page.keyboard.press("Control+Enter")
        all_saved(page)
        rows = store.log(finished.fingerprint)[1:]
        assert [row.image for row in rows] == shown
        assert {row.verdict for n, row in enumerate(rows) if n in (1, 2)} == {"change"}
        assert {row.verdict for n, row in enumerate(rows) if n not in (1, 2)} <= {"keep"}
        assert {row.way for row in rows} == {"grid"}
        page.keyboard.press("u")
        deadline = time.monotonic() + 10
        while len(store.current(finished.fingerprint)) > 1 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert len(store.current(finished.fingerprint)) == 1

        # A whole picture: every label of it is decided.
        page.get_by_role("radio", name="Whole pictures").click()
        page.locator(".switch").first.wait_for(timeout=20_000)
        page.wait_for_function(shown_picture(), timeout=20_000)
        image = page.locator(".where .name").inner_text()
        before = json.loads(
            json.dumps(page.locator(".switch").evaluate_all("all => all.map((one) => one.getAttribute('aria-checked'))"))
        )
        page.keyboard.press("2")
        page.keyboard.press("Control+Enter")
        all_saved(page)
        rows = store.log(finished.fingerprint)[-3:]
        assert {row.image for row in rows} == {image}
        assert [row.value for row in rows] == [int((value == "true") != (n == 1)) for n, value in enumerate(before)]
        no_traceback(page)
        page.reload()
        expect(page.get_by_role("textbox", name="Your name")).to_have_value("yns", timeout=20_000)


def test_blind_hides_what_would_lead_until_the_answer_is_given(opened: Browser, finished: Run, home: Path) -> None:
    with server(home) as (address, _):
        page = visit(opened, address)
        page.get_by_role("button", name="Blind, controls").click()
        page.get_by_text("Blind", exact=True).click()
        page.keyboard.press("Escape")
        page.wait_for_function(
            f"() => {ROOT_SCRIPT}.querySelector('.review').textContent.includes('Blind: what the CSV says')", timeout=20_000
        )
        page.wait_for_function(shown_picture(), timeout=20_000)
        shown = page.evaluate(f"{ROOT_SCRIPT}.querySelector('.review').textContent")
        assert not any(word in shown for word in ("changes the CSV", "doubt", "out of fold", "near-duplicate"))
        assert not re.search(r"\b0\.\d", shown), "a probability; a picture may be called train_010.jpg"
        aloud = page.evaluate(
            f"[...{ROOT_SCRIPT}.querySelectorAll('[aria-live], [role=status]')].map((one) => one.textContent).join(' ')"
        )
        assert "in this picture?" in aloud
        assert "The CSV says" not in aloud, "what is only read aloud would lead too"
        page.keyboard.press("y")
        said = page.evaluate(f"{ROOT_SCRIPT}.querySelector('.last').textContent")
        assert "yes" in said
        assert "the model 0." in said or "the model 1." in said
        all_saved(page)
        (row,) = ReviewStore(home / "reviews.sqlite").log(finished.fingerprint)
        assert row.blind
        page.keyboard.press("u")
        page.keyboard.press("n")
        all_saved(page)
        again = ReviewStore(home / "reviews.sqlite").log(finished.fingerprint)[-1]
        assert (again.verdict != "undo", again.blind) == (True, False), "what the CSV says had been shown"


def test_answers_given_while_the_server_stands_still_are_saved_by_the_page_that_comes_next(
    opened: Browser, finished: Run, home: Path
) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, process):
        page = visit(opened, address)
        time.sleep(2)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            pressed, _ = press_and_watch(page, 5, every_seconds=0.05)
            page.get_by_role("link", name="Export", exact=True).click()
            time.sleep(1)
            assert store.log(finished.fingerprint) == []
        finally:
            os.kill(process.pid, signal.SIGCONT)
        expect(page.get_by_role("heading", name="Export")).to_be_visible(timeout=20_000)
        page.wait_for_function(NOTHING_UNSAVED, timeout=20_000)
        assert what_is_stored(store.log(finished.fingerprint)) == pressed
        expect(page.get_by_text("not saved yet")).to_have_count(0)  # a banner that came while it took long
        page.get_by_role("link", name="Review", exact=True).click()
        page.wait_for_function(shown_picture(), timeout=60_000)
        all_saved(page)
        assert what_is_stored(store.log(finished.fingerprint)) == pressed


def test_an_answer_that_was_taken_back_is_given_anew_without_the_picture_coming_again(
    opened: Browser, finished: Run, home: Path
) -> None:
    with server(home) as (address, _):
        page = visit(opened, address)
        time.sleep(1)
        first = question(page)
        for key in "yun":
            page.keyboard.press(key)
        second = question(page)
        assert second != first
        all_saved(page)
        time.sleep(1)
        assert question(page) == second, "what is on screen stays there"
        log = ReviewStore(home / "reviews.sqlite").log(finished.fingerprint)
        assert len(log) == 3
        assert f"{log[2].image}|{log[2].label}" == first


def test_another_run_of_the_same_csv_brings_its_own_cards(opened: Browser, finished: Run, home: Path) -> None:
    other = finished.folder.with_name("20200101-000000-ffff")
    shutil.copytree(finished.folder, other)
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(
        json.dumps(values | {"created": "2020-01-01T00:00:00+00:00"})
    )  # the menu tells runs by their time
    header, rows = runs.read_rows(other / "suspects.csv")
    runs.write_rows(other / "suspects.csv", header, rows[::-1])
    with server(home) as (address, _):
        page = visit(opened, address, f"?run={finished.id}")
        time.sleep(1)
        page.keyboard.press("y")
        all_saved(page)
        page.get_by_role("combobox", name="Run").click()
        page.get_by_role("option").last.click()
        page.wait_for_url(f"**run={other.name}*", timeout=10_000)
        settled(page)
        time.sleep(2)
        page.locator("h1").click()  # out of the menu, whose keys are its own
        asked = question(page)
        page.keyboard.press("n")
        all_saved(page)
        log = ReviewStore(home / "reviews.sqlite").log(finished.fingerprint)
        assert [row.run for row in log] == [finished.id, other.name]
        assert f"{log[1].image}|{log[1].label}" == asked
        image, label = asked.split("|")
        shown = next(row for row in rows if row[header.index("image")] == image and row[header.index("label")] == label)
        assert log[1].probability == pytest.approx(float(shown[header.index("probability")]), abs=1e-5)
        assert len({(row.image, row.label) for row in log}) == 2


def test_notes_counts_and_what_was_refused(opened: Browser, finished: Run, home: Path) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, _):
        page = visit(opened, address)
        page.keyboard.press("t")
        page.keyboard.type("dim")
        expect(page.locator(".note-keys")).to_contain_text("Enter keeps it: back to the keys")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("yes")
        page.keyboard.press("Enter")
        expect(page.locator("textarea")).to_have_count(0)
        expect(page.locator(".panel")).to_contain_text("Note: dim")
        page.keyboard.press("y")
        all_saved(page)
        page.keyboard.press("s")
        all_saved(page)
        assert [row.note for row in store.log(finished.fingerprint)] == ["dim\nyes", ""]
        assert status(page) == "1 cell answered, 1 skipped in this tab, all saved."

        # What was refused is told until it is dismissed, or the same cell is saved after all.
        push = "(event) => { const [desk] = __panoramaReview.desks.values(); desk.push([event], []); }"
        image, label = question(page).split("|")
        page.evaluate(push, {"image": "ghost.jpg", "label": label, "value": 1, "way": "cell"})
        page.evaluate(push, {"image": image, "label": label, "value": 7, "way": "cell"})
        expect(page.locator(".notice")).to_contain_text("ghost.jpg", timeout=20_000)
        expect(page.locator(".notice")).to_contain_text("the answer is 7", timeout=20_000)
        assert status(page) == "1 cell answered, 1 skipped in this tab, all saved."
        page.keyboard.press("n")
        expect(page.locator(".notice")).not_to_contain_text("the answer is 7", timeout=20_000)
        expect(page.locator(".notice")).to_contain_text("ghost.jpg")
        page.get_by_role("button", name="Dismiss").click()
        expect(page.locator(".notice")).to_be_hidden()

        # A whole picture is as many cells as it has labels; its first answer refused, the rest is still taken back together.
        page.get_by_role("radio", name="Whole pictures").click()
        page.locator(".switch").first.wait_for(timeout=20_000)
        page.wait_for_function(shown_picture(), timeout=20_000)
        settled(page)
        page.keyboard.press("Control+Enter")
        all_saved(page)
        assert status(page) == "5 cells answered, 1 skipped in this tab, all saved."
        page.evaluate(
            "() => { const [desk] = __panoramaReview.desks.values(); desk.current().labels.unshift({ label: 'ghost', value: 1, given: 0, p: 0 }); }"
        )
        page.keyboard.press("1")
        page.evaluate("() => { const [desk] = __panoramaReview.desks.values(); desk.current().labels.at(0).value = 1; }")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".notice")).to_contain_text("ghost", timeout=20_000)
        assert status(page).startswith("7 cells answered, 2 skipped"), (
            "the last label was sent without a value: a skip, says the log"
        )
        page.keyboard.press("u")
        all_saved(page)
        assert status(page).startswith("5 cells answered")
        assert len(store.current(finished.fingerprint)) == 6
        no_traceback(page)


def test_undo_is_of_this_tab_and_asks_before_it_takes_back_another_answer(opened: Browser, finished: Run, home: Path) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, _):
        page = visit(opened, address)
        name = page.get_by_role("textbox", name="Your name")
        name.fill("Ada")
        name.press("Enter")
        settled(page)
        page.wait_for_function(shown_picture(), timeout=30_000)
        time.sleep(1)
        first = question(page)
        page.keyboard.press("y")
        all_saved(page)
        other = page.context.new_page()
        other.goto(f"{address}/review")
        expect(other.get_by_role("textbox", name="Your name")).to_have_value("Ada", timeout=20_000)
        other.wait_for_function(shown_picture(), timeout=30_000)
        settled(other)
        time.sleep(1)
        second = question(other)
        other.keyboard.press("n")
        all_saved(other)

        page.reload()
        page.wait_for_function(shown_picture(), timeout=30_000)
        settled(page)
        page.keyboard.press("u")
        page.wait_for_function(f"(first) => {ROOT_SCRIPT}?.querySelector('.where .name')?.textContent + '|' + {ROOT_SCRIPT}?.querySelector('h2 em')?.textContent === first",
                               arg=first, timeout=20_000)  # fmt: skip
        assert ["|".join(cell) for cell in store.current(finished.fingerprint)] == [second], "the other tab's answer stands"
        page.keyboard.press("u")
        offer = page.locator(".offer")
        expect(offer).to_contain_text("The latest answer of Ada is no", timeout=20_000)
        expect(offer).to_contain_text(second.split("|")[0])
        assert len(store.current(finished.fingerprint)) == 1, "it is only asked"
        page.get_by_role("button", name="Leave it").click()
        expect(offer).to_be_hidden()
        page.keyboard.press("u")
        expect(offer).to_contain_text("The latest answer of Ada", timeout=20_000)
        page.keyboard.press("Enter")
        deadline = time.monotonic() + 10
        while store.current(finished.fingerprint) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert store.current(finished.fingerprint) == {}
        page.keyboard.press("u")
        expect(offer).to_contain_text("No answer of Ada stands here", timeout=20_000)

        # Blind and the filters are in the address, a name that was emptied stays so.
        page.get_by_role("button", name="Blind, controls").click()
        page.get_by_text("Blind", exact=True).click()
        expect(page.get_by_text("Blind, controls · 1")).to_be_visible(timeout=20_000)
        page.keyboard.press("Escape")
        page.wait_for_url("**blind=1*", timeout=10_000)
        settled(page)
        page.wait_for_timeout(1000)  # Streamlit forgets what is typed while a run of the page ends
        name.fill("")
        page.wait_for_timeout(300)
        name.press("Enter")
        settled(page)
        time.sleep(1)
        page.reload()
        page.wait_for_function(shown_picture(), timeout=30_000)
        settled(page)
        time.sleep(1)
        expect(page.get_by_role("textbox", name="Your name")).to_have_value("")
        expect(page.locator(".panel")).to_contain_text("Blind: what the CSV says")
        assert "blind=1" in (page.locator(".where a").get_attribute("href") or "")
        everything = page.locator("body").inner_text() + page.locator(".review").inner_text()
        for tells in (
            "The CSV says yes",
            "The CSV says no",
            "changes the CSV",
            "Errors in all",
            "CSV says yes",
            "CSV says no",
            "kept",
        ):
            assert tells not in everything, tells
        page.get_by_role("radio", name="Many at once").click()
        expect(page.get_by_role("button", name="Go on one by one, blind")).to_be_visible(timeout=20_000)
        time.sleep(2.5)  # until then the page takes an old address for one that is on its way
        page.go_back()
        expect(page.locator(".panel")).to_contain_text("Blind: what the CSV says", timeout=20_000)
        no_traceback(page)

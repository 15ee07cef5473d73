"""The review as somebody finds it who comes for the first time: what is kept, what is said, where the keys go."""

import json
import shutil
from pathlib import Path

import pytest
from browser import no_traceback, server, settled
from conftest import write_seed_folder
from filelock import FileLock
from keys import DESK, NOTHING_UNSAVED, all_saved, question, shown_picture, visit
from playwright.sync_api import Browser, Page, WebSocketRoute, expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from panorama.decisions import Answer, Verdict
from panorama.finding import find_source, with_layouts
from panorama.reviewfiles import open_queue
from panorama.reviews import ReviewStore
from panorama.runs import Run
from panorama.workspace import remember

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def sign(page: Page, who: str) -> None:
    name = page.get_by_role("textbox", name="Your name")
    name.fill(who)
    name.press("Enter")
    if who:  # a page that is left before the server has heard of it knows no name
        page.wait_for_function("(who) => localStorage.getItem('panorama-reviewer') === who", arg=who, timeout=20_000)
    settled(page)


def decide(run: Run, home: Path, *names: str) -> None:
    """The first cell by each of these, by turns changed and kept."""
    queue = open_queue(run)
    verdicts: tuple[Verdict, Verdict] = ("change", "keep")
    answers = [Answer(*queue.name(0), int(queue.given[0]), verdicts[n % 2], who) for n, who in enumerate(names)]
    ReviewStore(home / "reviews.sqlite").apply(run.fingerprint, answers)


def test_a_refresh_keeps_the_name_of_its_tab_though_another_one_has_another(opened: Browser, finished: Run, home: Path) -> None:
    with server(home) as (address, _):
        page = visit(opened, address)
        sign(page, "Ada")
        beside = page.context.new_page()
        beside.goto(f"{address}/review")
        expect(beside.get_by_role("textbox", name="Your name")).to_have_value("Ada", timeout=20_000)
        sign(beside, "Bob")
        for tab, who in ((page, "Ada"), (beside, "Bob")):
            tab.reload()
            tab.wait_for_function(shown_picture(), timeout=60_000)
            settled(tab)
            expect(tab.get_by_role("textbox", name="Your name")).to_have_value(who, timeout=20_000)
            tab.keyboard.press("y")
            all_saved(tab)
        assert [row.reviewer for row in ReviewStore(home / "reviews.sqlite").log(finished.fingerprint)] == ["Ada", "Bob"]


def test_a_name_comes_back_on_the_people_page_by_a_refresh_and_by_a_link(opened: Browser, finished: Run, home: Path) -> None:
    decide(finished, home, "Ada", "Bob")
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
        link.wait_for_function("() => localStorage.getItem('panorama-reviewer') === null", timeout=20_000)
        link.reload()
        settled(link)
        link.wait_for_timeout(1500)  # by then the other tab's had come
        expect(link.get_by_role("button", name="Settle: yes")).to_be_disabled(timeout=20_000)
        expect(link.get_by_role("textbox", name="Your name")).to_have_value("")
        no_traceback(link)


def top(page: Page, selector: str) -> float:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["y"]


def under(page: Page, selector: str) -> float:
    """Where an element ends."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["y"] + box["height"]


def drawn_again(page: Page) -> None:
    """What the arrival of pictures does to the grid."""
    page.evaluate(
        "[...document.querySelectorAll('*')].flatMap((e) => [...(e.shadowRoot?.querySelectorAll('*') ?? [])]).find((e) => e.view).view.draw()"
    )


@pytest.mark.parametrize("width", [1440, 800])
def test_keys_are_for_the_grid_as_soon_as_it_is_chosen_and_its_next_pictures_begin_where_they_can_be_seen(
    opened: Browser, finished: Run, home: Path, width: int
) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, _):
        page = visit(opened, address)
        page.set_viewport_size({"width": width, "height": 700})
        page.get_by_role("radio", name="Many at once").click()
        page.locator(".tile").first.wait_for(timeout=20_000)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        expect(page.locator(".tile").nth(1)).to_have_attribute("aria-pressed", "true")
        assert page.locator(".tile[aria-pressed=true]").count() == 1
        # Pictures arrive, and the grid is drawn again, while a key or a button of the mouse is down: the press still counts.
        page.keyboard.press("ArrowRight")
        page.keyboard.down("Space")
        drawn_again(page)
        page.keyboard.up("Space")
        page.locator(".tile").nth(3).hover()
        page.mouse.down()
        drawn_again(page)
        page.mouse.up()
        for place, pressed in enumerate(["false", "true", "true", "true", "false"]):
            expect(page.locator(".tile").nth(place)).to_have_attribute("aria-pressed", pressed)
        expect(page.locator(".tile")).to_have_count(24, timeout=20_000)
        page.wait_for_timeout(800)  # the next 24 are there too

        for _ in range(30):  # to the last line, and up again
            page.keyboard.press("ArrowDown")
        assert under(page, ".tile:focus") <= 700
        columns = int(
            page.evaluate(
                "getComputedStyle([...document.querySelectorAll('*')].map((e) => e.shadowRoot).find((r) => r?.querySelector('.grid')).querySelector('.grid')).gridTemplateColumns.split(' ').length"
            )
        )
        for _ in range(24 // columns):
            page.keyboard.press("ArrowUp")
            assert top(page, ".tile:focus") >= under(page, ".gridbar"), "what has the focus is seen"
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(300)
        page.keyboard.press("Control+Enter")
        all_saved(page)
        assert len(store.log(finished.fingerprint)) == 24
        assert top(page, ".gridbar") >= under(page, "[data-testid=stHeader]") - 1
        assert top(page, ".tile >> nth=0") >= under(page, ".gridbar")
        expect(page.locator(".tile").first).to_be_focused()
        no_traceback(page)


def news(page: Page) -> None:
    """Has Python say something more, and waits until it has."""
    before = page.evaluate(f"() => {{ {DESK}.sentAt = 0; {DESK}.send(true); return globalThis.__panoramaPress.waiting.length; }}")
    page.wait_for_function("(n) => globalThis.__panoramaPress.waiting.length > n", arg=before, timeout=20_000)


PATIENT = "() => { globalThis.__panoramaPress.mayTake = 60_000; }"  # a press takes as long as a busy machine makes it


def test_a_press_counts_though_more_comes_in_before_the_release(opened: Browser, finished: Run, home: Path) -> None:
    assert finished.has("suspects.csv")
    with server(home) as (address, _):
        page = visit(opened, address)
        page.evaluate(PATIENT)
        page.get_by_role("radio", name="Many at once").click()
        expect(page.locator(".tile")).to_have_count(24, timeout=20_000)
        page.wait_for_timeout(800)  # nothing is on its way any more
        page.locator(".tile").first.hover()
        page.mouse.down()
        news(page)
        page.mouse.up()
        expect(page.locator(".tile").first).to_have_attribute("aria-pressed", "true")
        page.keyboard.down("Space")
        news(page)
        page.keyboard.up("Space")
        expect(page.locator(".tile").first).to_have_attribute("aria-pressed", "false")


def test_a_press_answers_what_stood_there(opened: Browser, finished: Run, home: Path) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, _):
        page = visit(opened, address)
        page.evaluate(PATIENT)
        page.get_by_role("radio", name="Many at once").click()
        expect(page.locator(".tile")).to_have_count(24, timeout=20_000)
        page.wait_for_timeout(800)
        # As on a slow connection: seven pictures are there.
        page.evaluate(f"() => {{ for (const id of {DESK}.order.slice(7)) {DESK}.cards.delete(id); }}")
        page.keyboard.press("ArrowRight")
        shown = page.locator(".tile .name").all_inner_texts()
        assert len(shown) == 7
        page.locator(".gridhead .answer").hover()
        page.mouse.down()
        news(page)
        page.mouse.up()
        all_saved(page)
        assert [row.image for row in store.log(finished.fingerprint)] == shown

        page.get_by_role("radio", name="One by one").click()
        page.wait_for_function(shown_picture(), timeout=20_000)
        settled(page)
        page.keyboard.press("s")
        all_saved(page)
        before = len(store.log(finished.fingerprint))
        page.reload()
        page.wait_for_function(shown_picture(), timeout=30_000)
        settled(page)
        page.wait_for_timeout(1500)
        page.evaluate(PATIENT)
        asked = question(page)
        page.locator(".answers .answer").first.hover()
        page.mouse.down()
        page.keyboard.press("u")  # whose card comes before the release
        page.wait_for_function("() => globalThis.__panoramaPress.waiting.length", timeout=20_000)
        assert question(page) == asked
        page.mouse.up()
        all_saved(page)
        answered = [
            f"{row.image}|{row.label}" for row in store.log(finished.fingerprint)[before:] if row.verdict in ("keep", "change")
        ]
        assert answered == [asked]


@pytest.mark.parametrize("height", [700, 900])
def test_on_half_a_screen_no_label_of_a_whole_picture_is_covered(opened: Browser, finished: Run, home: Path, height: int) -> None:
    assert finished.has("suspects.csv")
    with server(home) as (address, _):
        page = visit(opened, address, "?mode=image")
        page.set_viewport_size({"width": 800, "height": height})
        page.wait_for_timeout(500)
        stage = page.locator(".stage").bounding_box()
        assert stage is not None
        assert stage["height"] <= 0.35 * height + 1
        for n in range(3):  # as it stands, and as far as one may scroll
            assert top(page, ".confirm") >= under(page, ".switches"), n
            page.mouse.wheel(0, 250)
            page.wait_for_timeout(200)
        if height == 900:
            page.mouse.wheel(0, -2000)
            page.wait_for_timeout(300)
            assert under(page, ".switches") <= height, "three labels are on the first screen"
        no_traceback(page)


PAGES_WITH_A_RUN = ["train", "sanity_check", "review", "export", "effect", "predict", "report"]


def test_one_back_leaves_each_page_and_back_takes_each_choice_back(opened: Browser, finished: Run, home: Path) -> None:
    decide(finished, home, "Ada")
    other = finished.folder.with_name("20200101-000000-ffff")
    shutil.copytree(finished.folder, other)
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(values | {"created": "2020-01-01T00:00:00+00:00"}))
    with server(home) as (address, _):
        page = opened.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        page.goto(address)
        for name in PAGES_WITH_A_RUN:
            page.locator(f"[data-testid=stSidebarNav] a[href$='/{name}']").click()
            page.wait_for_url(f"**/{name}?run={finished.id}", timeout=30_000)
            settled(page)
            page.go_back()
            page.wait_for_url(f"{address}/", timeout=10_000)
            expect(page.get_by_role("heading", name="panorama", exact=True)).to_be_visible(timeout=20_000)
            settled(page)
        for path in ("export", "review?mode=grid"):  # typed, or by a link without a run
            page.goto("about:blank")
            page.goto(f"{address}/{path}")
            page.wait_for_url(f"**run={finished.id}*", timeout=30_000)
            settled(page)
            page.go_back()
            page.wait_for_url("about:blank", timeout=10_000)

        page.goto(f"{address}/sanity_check")
        page.wait_for_url(f"**run={finished.id}", timeout=30_000)
        page.get_by_role("combobox", name="Run").click()
        page.get_by_role("option").last.click()
        page.wait_for_url(f"**run={other.name}*", timeout=20_000)
        settled(page)
        for name in ("sanity_check", "review", "export", "report", "review"):
            page.locator(f"[data-testid=stSidebarNav] a[href$='/{name}']").click()
            page.wait_for_url(f"**/{name}?run={other.name}", timeout=30_000)
            settled(page)

        # A choice is a step of its own; after a while the page no longer takes an old address for one that is on its way.
        page.goto("about:blank")
        page.goto(f"{address}/review")
        page.wait_for_url(f"**run={finished.id}*", timeout=30_000)
        page.wait_for_function(shown_picture(), timeout=30_000)
        page.get_by_role("radio", name="Whole pictures").click()
        page.wait_for_url("**mode=image*", timeout=20_000)
        page.get_by_role("combobox", name="Run").click()
        page.get_by_role("option").last.click()
        page.wait_for_url(f"**run={other.name}*", timeout=20_000)
        settled(page)
        page.wait_for_timeout(2500)
        page.go_back()
        page.wait_for_url(f"**run={finished.id}*mode=image*", timeout=20_000)
        settled(page)
        expect(page.get_by_role("radio", name="Whole pictures")).to_be_checked()
        page.go_back()
        page.wait_for_url(f"**/review?run={finished.id}", timeout=20_000)
        expect(page.get_by_role("radio", name="One by one")).to_be_checked(timeout=20_000)
        page.reload()
        page.wait_for_url(f"**/review?run={finished.id}", timeout=20_000)
        page.go_back()
        page.wait_for_url("about:blank", timeout=10_000)


def test_an_answer_against_somebody_else_s_is_told_at_once_and_blind_is_not(opened: Browser, finished: Run, home: Path) -> None:
    queue = open_queue(finished)
    cells = [queue.name(cell) for cell in range(2)]
    given = [int(queue.given[cell]) for cell in range(2)]
    ReviewStore(home / "reviews.sqlite").apply(
        finished.fingerprint, [Answer(*cell, value, "change", "Ada") for cell, value in zip(cells, given, strict=True)]
    )
    with server(home) as (address, _):
        for blind, n in (("", 0), ("&blind=1", 1)):
            page = visit(opened, address, f"?state=mine{blind}")
            sign(page, "Bob")
            while question(page) != "|".join(cells[n]):
                page.keyboard.press("s")
                all_saved(page)
            page.keyboard.press("y" if given[n] else "n")
            all_saved(page)
            told = page.get_by_text("1 answer of this tab is in conflict.")
            if blind:
                expect(page.get_by_text("In this tab").first).to_be_visible(timeout=10_000)
                expect(told).to_have_count(0)
            else:
                expect(told).to_be_visible(timeout=10_000)
                said = "yes" if 1 - given[n] else "no"
                expect(page.get_by_text(f"{cells[n][1]} in {cells[n][0]}, where Ada said {said}.")).to_be_visible()
            no_traceback(page)
            page.context.close()


def back_message(frame: str | bytes) -> BackMsg:
    """What the browser has sent."""
    message = BackMsg()
    message.ParseFromString(frame.encode() if isinstance(frame, str) else frame)
    return message


@pytest.mark.parametrize("event", ["popstate", "click"])
def test_an_answer_given_while_leaving_is_sent_by_the_other_page_which_is_whole(
    opened: Browser, finished: Run, home: Path, event: str
) -> None:
    """And so it is when another label was asked for: a key that sends at once."""
    store = ReviewStore(home / "reviews.sqlite")
    of_this_page: list[str] = []

    def sent(frame: str | bytes) -> None:
        message = back_message(frame)
        if message.rerun_script.fragment_id:
            of_this_page.append(message.rerun_script.fragment_id)

    with server(home) as (address, _):
        page = opened.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        page.on("websocket", lambda socket: socket.on("framesent", sent))
        page.goto(address)
        page.locator("[data-testid=stSidebarNav] a[href$='/review']").click()
        page.wait_for_url(f"**/review?run={finished.id}", timeout=30_000)
        page.wait_for_function(shown_picture(), timeout=30_000)
        page.keyboard.press("s")
        all_saved(page)
        assert of_this_page, "what an answer sends"
        page.wait_for_timeout(1500)  # nothing is on its way any more
        of_this_page.clear()
        press = "for (const key of 'yl') document.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))"
        page.evaluate(f"() => window.addEventListener('{event}', () => setTimeout(() => {{ {press} }}, 2), {{once: true}})")
        if event == "popstate":
            page.go_back()
        else:
            page.locator("[data-testid=stSidebarNav] a").first.click()
        expect(page.get_by_role("heading", name="panorama", exact=True)).to_be_visible(timeout=20_000)
        page.wait_for_function(NOTHING_UNSAVED, timeout=10_000)
        assert of_this_page == [], "Streamlit would run it in the other page's place, which is then empty"
        assert len(store.log(finished.fingerprint)) == 2, "the other page has sent it"
        expect(page.get_by_role("alert").filter(has_text="not saved yet")).to_have_count(0)
        expect(page.get_by_role("heading", name="panorama", exact=True)).to_be_visible()


def test_a_page_that_crossing_messages_have_left_empty_comes_back(opened: Browser, finished: Run, home: Path) -> None:
    """What the review sends is sent once more, as if it had come late, when somebody is on another page."""
    assert finished.has("suspects.csv")
    of_the_review: list[str | bytes] = []
    steps: list[str | bytes] = []

    def through(socket: WebSocketRoute) -> None:
        upstream = socket.connect_to_server()

        def up(frame: str | bytes) -> None:
            message = back_message(frame)
            if message.rerun_script.fragment_id:
                of_the_review.append(frame)
            upstream.send(frame)
            if message.rerun_script.is_history_navigation and len(steps) < 1:
                steps.append(frame)
                upstream.send(of_the_review[-1])

        socket.on_message(up)
        upstream.on_message(socket.send)

    with server(home) as (address, _):
        page = opened.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        page.route_web_socket("**/_stcore/stream", through)
        page.goto(address)
        page.locator("[data-testid=stSidebarNav] a[href$='/review']").click()
        page.wait_for_function(shown_picture(), timeout=30_000)
        page.keyboard.press("s")
        all_saved(page)
        page.wait_for_timeout(1500)
        page.go_back()
        page.wait_for_timeout(3000)
        assert steps, "the control: it has crossed the step back"
        expect(page.get_by_role("heading", name="panorama", exact=True)).to_be_visible(timeout=20_000)
        no_traceback(page)


def begins_a_page(frame: str | bytes) -> bool:
    """Whether this is the server's first word of a run of the script."""
    message = ForwardMsg()
    message.ParseFromString(frame.encode() if isinstance(frame, str) else frame)
    return message.HasField("new_session")


@pytest.mark.parametrize("way", ["back", "menu"])
def test_a_review_that_comes_up_after_somebody_has_left_sends_nothing(
    opened: Browser, finished: Run, home: Path, way: str
) -> None:
    assert finished.has("suspects.csv")
    of_this_page: list[str] = []
    held_back: list[str | bytes] = []
    sockets: list[WebSocketRoute] = []
    is_held = True
    with server(home) as (address, _):
        page = opened.new_context(viewport={"width": 1440, "height": 1000}).new_page()

        def through(socket: WebSocketRoute) -> None:
            upstream = socket.connect_to_server()

            def up(frame: str | bytes) -> None:
                message = back_message(frame)
                if message.rerun_script.fragment_id:
                    of_this_page.append(message.rerun_script.fragment_id)
                upstream.send(frame)

            def down(frame: str | bytes) -> None:
                if is_held and (held_back or b"panorama_workbench" in (frame.encode() if isinstance(frame, str) else frame)):
                    held_back.append(frame)
                else:
                    socket.send(frame)

            sockets.append(socket)
            socket.on_message(up)
            upstream.on_message(down)

        page.route_web_socket("**/_stcore/stream", through)
        page.goto(address)
        page.wait_for_function("globalThis.__panoramaWay !== undefined", timeout=30_000)  # the first page's scripts run
        page.evaluate("localStorage.setItem('panorama-reviewer', 'Ada')")  # a name that the bench would send
        page.locator("[data-testid=stSidebarNav] a[href$='/review']").click()
        page.wait_for_url("**/review", timeout=30_000)
        for _ in range(400):
            page.wait_for_timeout(50)
            if held_back:
                break
        assert held_back
        if way == "back":
            page.go_back()
        else:
            page.locator("[data-testid=stSidebarNav] a").first.click()
        page.wait_for_timeout(300)  # the step is on its way to the server
        while held_back and not begins_a_page(held_back[0]):
            sockets[-1].send(held_back.pop(0))
        page.wait_for_timeout(700)  # the review comes up
        is_held = False
        for frame in held_back:
            sockets[-1].send(frame)
        expect(page.get_by_role("heading", name="panorama", exact=True)).to_be_visible(timeout=20_000)
        page.wait_for_timeout(3000)
        assert of_this_page == []
        assert page.url.rstrip("/") == address
        expect(page.get_by_role("heading", name="panorama", exact=True)).to_be_visible()


@pytest.mark.parametrize("way", ["back", "menu"])
def test_who_answers_and_leaves_at_once_is_not_warned_and_the_answer_is_stored(
    opened: Browser, finished: Run, home: Path, way: str
) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, _):
        page = opened.new_context(viewport={"width": 1440, "height": 1000}).new_page()
        page.goto(address)
        page.locator("[data-testid=stSidebarNav] a[href$='/review']").click()
        page.wait_for_url(f"**/review?run={finished.id}", timeout=30_000)
        page.wait_for_function(shown_picture(), timeout=30_000)
        settled(page)
        page.keyboard.press("y")
        if way == "back":
            page.go_back()
        else:
            page.locator("[data-testid=stSidebarNav] a").first.click()
        expect(page.get_by_role("heading", name="panorama", exact=True)).to_be_visible(timeout=20_000)
        page.wait_for_timeout(4000)  # a banner would be there
        expect(page.get_by_role("alert").filter(has_text="not saved yet")).to_have_count(0)
        assert len(store.log(finished.fingerprint)) == 1


def test_what_an_earlier_load_left_unsaved_is_sent_by_any_page_or_told(opened: Browser, finished: Run, home: Path) -> None:
    with server(home) as (address, _):
        page = visit(opened, address)
        # As a tab leaves it whose answer did not reach the server before it was loaded anew.
        card = page.evaluate(f"() => {{ const {{ id, image, label }} = {DESK}.current(); return {{ id, image, label }}; }}")
        left = [{"client": "0" * 24, "events": [{**card, "n": 0, "value": 1, "way": "cell", "who": "", "seen": 0}]}]
        key = page.evaluate(f"{DESK}.key()")
        page.goto(f"{address}/export")  # whose script touches no storage but what is left there
        page.evaluate("([key, left]) => sessionStorage.setItem(key, JSON.stringify(left))", [key, left])
        page.reload()
        page.wait_for_function(NOTHING_UNSAVED, timeout=20_000)
        rows = ReviewStore(home / "reviews.sqlite").log(finished.fingerprint)
        assert [(row.image, row.label, row.value) for row in rows] == [(card["image"], card["label"], 1)]

        page.evaluate(
            "([key, left]) => sessionStorage.setItem(key, JSON.stringify(left))",
            [key[:-64] + "0" * 64, [left[0] | {"client": "1" * 24}]],
        )
        told = page.get_by_role("alert").filter(has_text="1 answer is not saved yet")
        expect(told).to_be_visible(timeout=20_000)
        assert len(ReviewStore(home / "reviews.sqlite").log(finished.fingerprint)) == 1


def test_a_page_that_waits_for_a_training_goes_on_when_it_has_ended(opened: Browser, home: Path, tmp_path: Path) -> None:
    remember(home, with_layouts(find_source(write_seed_folder(tmp_path / "pictures", 6, 2))))
    with server(home) as (address, _), opened.new_context().new_page() as page:
        lock = FileLock(home / "worker.lock")  # as a worker holds it
        lock.acquire()
        (home / "worker.json").write_text(json.dumps({"run": "20260101-000000-0000"}))
        page.goto(f"{address}/review")
        expect(page.get_by_text("The run has not got that far yet.")).to_be_visible(timeout=30_000)
        expect(page.get_by_text("A training is running ...")).to_be_visible()
        lock.release()
        expect(page.get_by_text("There is no finished training of")).to_be_visible(timeout=15_000)
        expect(page.get_by_text("A training is running ...")).to_have_count(0)


def test_an_address_that_names_no_training_or_no_page_is_said(opened: Browser, finished: Run, home: Path) -> None:
    with server(home) as (address, _):
        page = visit(opened, address)
        sign(page, "Ann")  # which the browser brings back, in one more run of the page
        page.goto(f"{address}/review?run=nope")
        said = page.get_by_text("The address asks for the training nope, which is not here.")
        expect(page.get_by_role("textbox", name="Your name")).to_have_value("Ann", timeout=20_000)
        settled(page)
        expect(said).to_contain_text("It is the only one.")
        page.wait_for_url(f"**run={finished.id}", timeout=10_000)
        page.locator("[data-testid=stSidebarNav] a[href$='/export']").click()
        page.wait_for_url(f"**/export?run={finished.id}", timeout=20_000)
        settled(page)
        expect(said).to_have_count(0)

        page.goto(f"{address}/nopage")
        expect(page.get_by_text("There is no page nopage here.")).to_be_visible(timeout=20_000)
        expect(page.get_by_role("heading", name="panorama", exact=True)).to_be_visible()
        for right in ("", "/", "/start"):
            page.goto(f"{address}{right}")
            expect(page.get_by_role("heading", name="panorama", exact=True)).to_be_visible(timeout=20_000)
            settled(page)
            expect(page.get_by_text("There is no page")).to_have_count(0)
        no_traceback(page)


def test_a_half_typed_note_is_kept_through_a_refresh_and_another_way_and_stored_once(
    opened: Browser, finished: Run, home: Path
) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, _):
        page = visit(opened, address)
        asked = question(page)
        page.keyboard.press("t")
        page.keyboard.type("behind the <b>rocks</b>")
        page.reload()
        page.wait_for_function(shown_picture(), timeout=30_000)
        settled(page)
        assert question(page) == asked
        expect(page.locator(".panel")).to_contain_text("Note: behind the <b>rocks</b>")
        page.get_by_role("radio", name="Whole pictures").click()
        page.locator(".switch").first.wait_for(timeout=20_000)
        page.get_by_role("radio", name="One by one").click()
        expect(page.locator(".panel")).to_contain_text("Note: behind the <b>rocks</b>", timeout=20_000)
        page.keyboard.press("t")
        page.keyboard.press("End")
        page.keyboard.type(", left")
        page.keyboard.press("Escape")
        page.keyboard.press("y")
        all_saved(page)
        page.keyboard.press("s")
        all_saved(page)
        assert [row.note for row in store.log(finished.fingerprint)] == ["behind the <b>rocks</b>, left", ""]
        page.reload()
        page.wait_for_function(shown_picture(), timeout=30_000)
        assert page.evaluate(
            "Object.keys(sessionStorage).filter((key) => key.includes('notes')).map((key) => sessionStorage[key])"
        ) == ["{}"]
        no_traceback(page)


def test_what_is_counted_in_a_tab_is_the_same_beside_the_answers_and_below_after_undo_and_refresh(
    opened: Browser, finished: Run, home: Path
) -> None:
    with server(home) as (address, _):
        page = visit(opened, address)
        below = page.get_by_text("In this tab")

        def counted(beside: str, said: str) -> None:
            all_saved(page)
            expect(page.locator(".status")).to_have_text(f"{beside} in this tab, all saved.", timeout=10_000)
            expect(below.first).to_contain_text(f"In this tab {said}", timeout=10_000)

        for key in "yyysu":
            page.keyboard.press(key)
        counted("3 cells answered", "3 cells answered")
        expect(below.first).to_contain_text("; 0 skipped")
        page.keyboard.press("u")
        counted("2 cells answered", "2 cells answered")
        asked = question(page)
        page.reload()
        page.wait_for_function(shown_picture(), timeout=30_000)
        counted("2 cells answered", "2 cells answered")
        assert question(page) == asked
        page.keyboard.press("y")
        counted("3 cells answered", "3 cells answered")

        # Once more on a cell that was answered before: still one cell.
        image = ReviewStore(home / "reviews.sqlite").log(finished.fingerprint)[-1].image
        page.goto(f"{address}/review?image={image}&state=decided")
        page.wait_for_function(shown_picture(), timeout=30_000)
        page.keyboard.press("n")
        counted("3 cells answered", "3 cells answered")
        page.keyboard.press("u")
        counted("3 cells answered", "3 cells answered")
        other = page.context.new_page()
        other.goto(f"{address}/review")
        other.wait_for_function(shown_picture(), timeout=30_000)
        settled(other)
        expect(other.locator(".status")).to_have_text("")
        expect(other.get_by_text("by everybody: ")).to_be_visible()
        no_traceback(page)


def test_two_tabs_of_one_person_that_contradict_each_other_are_told_and_the_later_answer_can_be_taken_back(
    opened: Browser, finished: Run, home: Path
) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    with server(home) as (address, _):
        first = visit(opened, address)
        sign(first, "Ann")
        second = first.context.new_page()
        second.goto(f"{address}/review")
        expect(second.get_by_role("textbox", name="Your name")).to_have_value("Ann", timeout=20_000)
        for page in (first, second):
            page.wait_for_function(shown_picture(), timeout=30_000)
            settled(page)
            page.wait_for_timeout(1000)
        asked = question(first)
        assert question(second) == asked
        first.locator("h1").click()
        first.keyboard.press("y")
        all_saved(first)
        second.keyboard.press("n")
        image, label = asked.split("|")
        notice = second.locator(".notice")
        expect(notice).to_contain_text(f"{label} in {image}: Ann said “yes” in another tab", timeout=20_000)
        expect(notice).to_contain_text("“no” counts; both are in the log.")
        assert [row.value for row in store.log(finished.fingerprint)] == [1, 0]
        second.keyboard.press("s")  # it stays until it is read
        all_saved(second)
        expect(notice).to_contain_text(f"{label} in {image}")
        second.get_by_role("button", name="Take back “no”").click()
        expect(notice).to_be_hidden()
        all_saved(second)
        stands = store.current(finished.fingerprint)[image, label]
        assert (stands.value, len(store.log(finished.fingerprint))) == (1, 4), "what the first tab said; and nothing is lost"
        assert question(second) == asked, "it is back on screen"

        second.keyboard.press("n")
        expect(notice).to_contain_text(f"{label} in {image}", timeout=20_000)
        second.get_by_role("button", name="Dismiss").click()
        expect(notice).to_be_hidden()
        second.keyboard.press("s")
        all_saved(second)
        expect(notice).to_be_hidden()
        expect(first.locator(".notice")).to_be_hidden()
        no_traceback(second)

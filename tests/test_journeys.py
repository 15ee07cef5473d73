"""The whole job as a person does it: a real server, a real browser, the demo's pictures, and the CSV taken home."""

import csv
import io
import time
from pathlib import Path

import pytest
from browser import browser, no_traceback, server, settled
from playwright.sync_api import expect

from panorama import demo_job, planted, runs

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def cells(data: bytes) -> dict[tuple[str, str], str]:
    table = list(csv.DictReader(io.StringIO(data.decode())))
    return {(row["fname"], label): value for row in table for label, value in row.items() if label != "fname"}


def test_from_the_demo_to_a_corrected_csv(chromium: str, home: Path) -> None:
    with server(home) as (address, _), browser(chromium) as opened:
        page = opened.new_page(viewport={"width": 1440, "height": 1000})
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.get_by_role("button", name="Draw the demo and train").click()
        expect(page.get_by_test_id("stProgress")).to_be_visible(timeout=60_000)
        page.reload()  # drawn by a process of its own, it goes on, and on to the training
        page.wait_for_url("**/train**", timeout=300_000)

        # Training: curves move while it runs, and a refresh in the middle finds it again.
        chart = page.get_by_test_id("stVegaLiteChart").first
        chart.wait_for(timeout=90_000)
        run = runs.list_runs(home)[0]
        seen = {chart.screenshot()}
        deadline = time.monotonic() + 60
        while len(seen) < 3 and time.monotonic() < deadline:
            time.sleep(0.5)
            seen.add(chart.screenshot())
        assert run.state() == "running", "the curves should have been watched while it ran"
        assert len(seen) >= 3, "the curves did not move"
        page.reload()
        page.get_by_test_id("stVegaLiteChart").first.wait_for(timeout=30_000)
        assert f"run={run.id}" in page.url
        expect(page.get_by_text("Complete. Every image has predictions")).to_be_visible(timeout=240_000)
        expect(page.get_by_text("planted label errors stand among the first")).to_be_visible()
        score = planted.score(run)
        assert score is not None
        assert score.n_found >= 0.8 * score.n_planted, score
        assert score.map_truth is not None
        assert score.map_truth >= 0.95, score
        no_traceback(page)
        page.goto(f"{address}/dataset")
        expect(page.locator(".pn-card").first).to_be_attached(timeout=60_000)
        no_traceback(page)

        # Sanity check: red frames, said in words, before and after.
        page.goto(f"{address}/sanity_check")
        wrong = page.locator(".pn-card.pn-wrong")
        wrong.first.wait_for(timeout=30_000)
        assert wrong.first.evaluate("card => getComputedStyle(card).borderColor") == "rgb(216, 59, 71)"
        expect(wrong.first).to_contain_text("✗")
        expect(wrong.first).to_contain_text("CSV says")
        after = page.locator(".pn-grid").inner_text()
        page.get_by_role("radio", name="before training").click()
        expect(page.locator(".pn-grid")).not_to_have_text(after, use_inner_text=True, timeout=20_000)
        no_traceback(page)

        # Predict on an uploaded picture.
        page.goto(f"{address}/predict")
        expect(page.get_by_text("Drop pictures above")).to_be_visible(timeout=30_000)
        settled(page)
        picture = next((home / "demo" / "data" / "test").glob("*.jpg"))
        page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(str(picture))
        expect(page.get_by_role("button", name="Download predictions.csv")).to_be_visible(timeout=60_000)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download predictions.csv").click()
        header, row = Path(download.value.path()).read_text().splitlines()
        assert header == "image,desert,mountains,sea,sunset,trees"
        assert row.startswith(f"{picture.name},")
        no_traceback(page)
        # It is still there when somebody comes back, until it is put away or taken out.
        sidebar, answer = page.get_by_test_id("stSidebarNav"), page.get_by_role("button", name="Download predictions.csv")
        sidebar.get_by_role("link", name="Sanity check").click()
        wrong.first.wait_for(timeout=30_000)
        sidebar.get_by_role("link", name="Predict").click()
        expect(answer).to_be_visible(timeout=30_000)
        page.get_by_role("button", name="Put away the 1 picture from before").click()
        expect(page.get_by_text("Drop pictures above")).to_be_visible(timeout=30_000)
        page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(str(picture))
        expect(answer).to_be_visible(timeout=60_000)
        page.get_by_test_id("stFileUploader").get_by_role("button", name="Remove").click()
        expect(page.get_by_text("Drop pictures above")).to_be_visible(timeout=30_000)
        no_traceback(page)

        # Review: three decisions, one undone; what comes home differs in exactly the two cells.
        page.goto(f"{address}/review")
        asked = page.get_by_role("heading", name="in this picture?")
        expect(asked).to_be_visible(timeout=30_000)
        expect(page.locator(".why")).to_contain_text("with its other labels")
        expect(page.locator(".near li")).to_have_count(5)
        settled(page)
        time.sleep(1)
        for _ in range(3):
            page.locator(".answer", has_text="changes the CSV").click()
            time.sleep(0.5)
        page.get_by_role("button", name="Undo").click()
        expect(page.get_by_role("status")).to_contain_text("2 cells answered in this tab, all saved", timeout=20_000)
        no_traceback(page)
        from panorama.reviews import ReviewStore

        store = ReviewStore(home / "reviews.sqlite")
        corrections = store.corrections(run.fingerprint)
        assert len(store.log(run.fingerprint)) == 4, "three decisions and one undo, each a row"
        assert len(corrections) == 2
        page.goto(f"{address}/export")
        expect(page.get_by_text("train_label.csv, line").or_(page.get_by_text("test_label.csv, line")).first).to_be_visible(
            timeout=30_000
        )
        changed = {}
        for split in ("train", "test"):
            original = home / "demo" / "data" / f"{split}_label.csv"
            with page.expect_download() as download:
                page.get_by_role("button", name=f"{split}_label.csv, corrected").click()
            before, after_bytes = original.read_bytes(), Path(download.value.path()).read_bytes()
            assert len(before) == len(after_bytes)
            old, new = cells(before), cells(after_bytes)
            changed |= {cell: int(new[cell]) for cell in old if old[cell] != new[cell]}
            assert sum(a != b for a, b in zip(before, after_bytes, strict=True)) == sum(cell in old for cell in changed)
        assert changed == corrections
        no_traceback(page)
        page.goto(f"{address}/report")
        expect(page.get_by_text("2 cells changed, 0 looked at and kept.")).to_be_visible(timeout=30_000)
        expect(page.get_by_text("2 of them found so far")).to_be_visible()
        outside = [url for url in requests if not url.startswith((address, "data:", "blob:", "about:"))]
        assert not outside, outside


@pytest.mark.parametrize(
    "page_name", ["start", "dataset", "train", "sanity_check", "predict", "review", "export", "effect", "report"]
)
def test_a_first_deep_link_on_a_fresh_server_shows_the_page_in_the_navigation(chromium: str, home: Path, page_name: str) -> None:
    titles = {"start": "panorama", "dataset": "Dataset", "train": "Train", "sanity_check": "Sanity check", "predict": "Predict",
              "review": "Review", "export": "Export", "effect": "Effect", "report": "Report"}  # fmt: skip
    with server(home) as (address, _), browser(chromium) as opened:
        page = opened.new_page()
        page.goto(f"{address}/{'' if page_name == 'start' else page_name}")
        expect(page.get_by_role("heading", name=titles[page_name], exact=True)).to_be_visible(timeout=30_000)
        links = page.get_by_test_id("stSidebarNavLink")
        expect(links).to_have_count(9, timeout=15_000)
        assert [link.inner_text().strip() for link in links.all()] == [
            "Start",
            "Dataset",
            "Train",
            "Sanity check",
            "Review",
            "Export",
            "Effect",
            "Report",
            "Predict",
        ]
        no_traceback(page)


def test_a_refresh_finds_the_drawing_again_and_a_stop_leaves_nothing(chromium: str, home: Path) -> None:
    with server(home) as (address, _), browser(chromium) as opened:
        page = opened.new_page()
        page.goto(address)
        button = page.get_by_role("button", name="Draw the demo and train")
        button.click()
        bar = page.get_by_test_id("stProgress").filter(has_text="Drawing pictures")
        expect(bar).to_be_visible(timeout=60_000)
        began = demo_job.standing(home)
        assert began is not None
        page.reload()
        other = opened.new_page()
        other.goto(f"{address}/dataset")
        for tab in (page, other):
            expect(tab.get_by_test_id("stSidebar").get_by_text("The demo is being drawn")).to_be_visible(timeout=30_000)
        expect(bar).to_be_visible(timeout=30_000)
        expect(button).to_be_disabled()
        now = demo_job.standing(home)
        assert now is not None
        assert (now.state, now.began_at) == ("working", began.began_at), "the same drawing goes on"
        expect(page.get_by_test_id("stMain").get_by_role("button", name="Stop")).to_have_count(1)
        page.get_by_test_id("stMain").get_by_role("button", name="Stop").click()
        expect(page.get_by_text("The drawing was stopped")).to_be_visible(timeout=60_000)
        expect(button).to_be_enabled()
        no_traceback(page)
        assert not (home / "demo").exists()
        assert not (home / "dataset.json").exists()

"""Every page without a browser: empty, with data, and with strings that try to be markup."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import COLOURS, QUICK, ROOT, patch_picture
from filelock import FileLock
from streamlit.testing.v1 import AppTest

from panorama import runs, ui
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.decisions import Answer
from panorama.finding import find_source, with_layouts
from panorama.reviewfiles import open_queue
from panorama.reviewing import ReviewQueue
from panorama.reviews import ReviewStore
from panorama.runs import Run
from panorama.worker import run as work
from panorama.workspace import remember

PAGES = ["start", "dataset", "train", "sanity_check", "predict", "review", "export", "effect", "report"]
NAUGHTY = "![x](http://127.0.0.1:9/pixel.png) <img src=x onerror=alert(1)> **bold** :smile: $x$"


def open_page(name: str) -> AppTest:
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    app.run()
    if name != "start":
        app.switch_page(f"pages/{name}.py").run()
    return app


def benches(app: AppTest) -> list[Any]:
    return [one for one in app.get("bidi_component") if one.proto.component_name == "panorama_workbench"]


def told(app: AppTest) -> dict[str, Any]:
    """What the review's component is told; the last card that it holds nothing of is the first."""
    (component,) = benches(app)
    values: dict[str, Any] = json.loads(component.proto.json)
    return values


def first_card(app: AppTest) -> dict[str, Any]:
    values = told(app)
    card: dict[str, Any] = values["cards"][values["order"][0]]
    return card


def sound(app: AppTest) -> None:
    assert not app.exception, [exception.value for exception in app.exception]


def words(app: AppTest) -> str:
    elements = [*app.markdown, *app.caption, *app.info, *app.warning, *app.error, *app.success, *app.title, *app.subheader]
    return "\n".join(str(element.value) for element in elements) + "\n".join(element.proto.body for element in app.get("html"))


@pytest.mark.parametrize("name", PAGES)
def test_an_empty_workspace_says_what_to_do_next(name: str) -> None:
    app = open_page(name)
    sound(app)
    assert any(word in words(app).lower() for word in ("first", "choose", "demo"))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.usefixtures("finished")
def test_a_complete_run_is_shown_without_an_exception(name: str) -> None:
    app = open_page(name)
    sound(app)
    assert "nan" not in words(app).lower().split()


def test_review_says_why_shows_what_is_alike_and_how_many_are_wrong(finished: Run) -> None:
    app = open_page("review")
    sound(app)
    card = first_card(app)
    assert card["url"].startswith("data:image/jpeg;base64,")
    assert card["why"]
    assert 0 <= card["context"] <= 1
    assert len(card["near"]) == 5
    assert "Errors in all" in words(app)
    for path in (finished.source.root / "test").glob("*.jpg"):
        path.write_bytes(b"not a picture")
    app.selectbox(key="split").set_value("test").run()
    sound(app)
    assert "not a picture that can be read" in first_card(app)["missing"]


def test_a_link_leads_to_one_picture_and_can_be_left(finished: Run) -> None:
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    app.run()
    app.query_params["image"], app.query_params["label"] = "train_003.jpg", "blue"
    app.switch_page("pages/review.py").run()
    sound(app)
    assert [(c["image"], c["label"]) for c in told(app)["cards"].values()] == [("train_003.jpg", "blue")]
    app.button(key="all-pictures").click().run()
    sound(app)
    assert len(told(app)["order"]) == 40
    assert finished.has("suspects.csv")


@pytest.mark.parametrize("mode", ["cell", "grid", "image", "people"])
@pytest.mark.usefixtures("finished")
def test_every_way_to_review_is_shown_by_a_link(mode: str) -> None:
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    app.run()
    app.query_params["mode"] = mode
    app.switch_page("pages/review.py").run()
    sound(app)
    if mode == "people":
        assert "Where reviewers disagree" in words(app)
        return
    assert told(app)["mode"] == mode
    app.toggle(key="blind").set_value(True).run()
    sound(app)
    if mode == "grid":
        assert not benches(app), "a grid is of what the CSV says"
        app.button(key="blind-cell").click().run()
        sound(app)
    assert told(app)["blind"]
    app.selectbox(key="state").set_value("decided").run()
    sound(app)
    assert told(app)["order"] == []
    assert told(app)["empty"]["title"] == "Nothing is decided with these filters."


def test_blind_from_a_grid_of_one_kind_leaves_nothing_that_tells_it(finished: Run, home: Path) -> None:
    store, queue = ReviewStore(home / "reviews.sqlite"), open_queue(finished)
    cells = [(*queue.name(cell), int(queue.given[cell])) for cell in range(4)]
    store.apply(
        finished.fingerprint,
        [Answer(*cells[0], "change", "ada"), *(Answer(*cells[1], v, w) for v, w in (("keep", "ada"), ("change", "bob")))],
    )
    app = open_page("review")
    app.segmented_control(key="mode").set_value("grid").run()
    app.selectbox(key="kind").set_value("extra").run()
    assert app.query_params["kind"] == "extra"
    label = app.selectbox(key="label").value
    app.toggle(key="blind").set_value(True).run()
    sound(app)
    assert "Blind works one by one" in words(app)
    app.segmented_control(key="mode").set_value("cell").run()
    sound(app)
    assert (app.selectbox(key="kind").value, app.selectbox(key="kind").disabled) == ("all", True)
    assert "kind" not in app.query_params
    app.selectbox(key="label").set_value(label).run()
    cards = told(app)["cards"].values()
    assert {int(queue.given[int(cell)]) for cell in told(app)["order"]} == {0, 1}, "both kinds are asked for"
    assert all("blind=1" in card["link"] for card in cards)
    for tells in ("changed", "kept", "Errors in all", "Of the next", "CSV says yes", "CSV says no", "missing", "extra"):
        assert tells not in words(app), tells
    app.segmented_control(key="mode").set_value("people").run()
    assert "1 cell on which reviewers disagree" in words(app)
    assert "The CSV says" not in words(app)


@pytest.mark.usefixtures("finished")
def test_another_name_in_the_same_tab_gets_the_same_cells_and_another_person_is_told_with_whom_they_are() -> None:
    ann, eve = open_page("review"), open_page("review")
    ann.text_input(key="reviewer").set_value("Ann").run()
    first = first_card(ann)
    held = told(ann)["order"]
    for app in (ann, eve):
        app.text_input(key="search").set_value(first["image"]).run()
    eve.text_input(key="reviewer").set_value("Eve").run()
    assert first["id"] not in told(eve)["order"]
    eve.selectbox(key="label").set_value(first["label"]).run()
    assert told(eve)["empty"]["title"] == "What is left here is with Ann: 1 cell."
    ann.text_input(key="search").set_value("").run()
    ann.text_input(key="reviewer").set_value("Anna").run()
    sound(ann)
    assert told(ann)["order"] == held
    assert told(ann)["empty"]["title"] == "Every suspect is decided.", "which nobody sees before it is true"
    ann.text_input(key="search").set_value("no such picture").run()
    ann.text_input(key="reviewer").set_value("").run()
    eve.run()
    assert told(eve)["order"] == [first["id"]]


@pytest.mark.usefixtures("finished")
def test_the_grid_has_a_label_and_kind_of_its_own_and_leaves_the_other_filters_as_they_were() -> None:
    app = open_page("review")

    def go_on(mode: str) -> tuple[str, str]:
        app.segmented_control(key="mode").set_value(mode).run()
        sound(app)
        return app.selectbox(key="label").value, app.selectbox(key="kind").value

    assert go_on("grid")[0] in COLOURS
    app.selectbox(key="label").set_value("blue").run()
    app.selectbox(key="kind").set_value("extra").run()
    assert go_on("cell") == ("all labels", "all")
    assert not {"label", "kind"} & set(app.query_params)
    assert len({card["label"] for card in told(app)["cards"].values()}) > 1, "all labels are asked for"
    assert go_on("grid") == ("blue", "extra"), "the grid is as it was left"
    assert go_on("image") == ("all labels", "all")

    go_on("cell")
    app.selectbox(key="label").set_value("red").run()
    assert go_on("grid")[0] == "red", "who looks for red goes on with red"
    app.selectbox(key="label").set_value("green").run()
    assert go_on("people") == ("red", "all")
    app.switch_page("pages/export.py").run()
    app.query_params.clear()
    app.switch_page("pages/review.py").run()
    assert go_on("cell") == ("red", "all")
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    app.run()
    app.query_params |= {"mode": "grid", "label": "blue", "kind": "extra"}
    app.switch_page("pages/review.py").run()
    assert go_on("cell") == ("all labels", "all"), "a link to a grid says nothing of other ways"


@pytest.mark.usefixtures("finished")
def test_the_address_keeps_what_is_chosen_and_the_menus_say_how_much_that_is() -> None:
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    app.run()
    app.query_params |= {
        "mode": "image",
        "blind": "1",
        "kind": "extra",
        "doubt": "0.3-0.9",
        "order": "nonsense",
        "controls": "20",
    }
    app.switch_page("pages/review.py").run()
    sound(app)
    assert (told(app)["mode"], told(app)["blind"]) == ("image", True)
    assert app.slider(key="doubt").value == (0.3, 0.9)
    app.selectbox(key="split").set_value("test").run()
    run = app.query_params.pop("run")
    assert app.query_params == {"mode": "image", "blind": "1", "doubt": "0.3-0.9", "split": "test", "controls": "20"}
    app.query_params["run"] = run
    titles = [one.proto.popover.label for one in app.get("popover")]
    assert titles == ["More filters · 2", "Blind, controls · 2"]
    app.toggle(key="blind").set_value(False).run()
    assert [one.proto.popover.label for one in app.get("popover")][1] == "Blind, controls · 1"
    app.toggle(key="blind").set_value(True).run()
    app.session_state["review-written-at"] = 0.0
    app.query_params = {"run": run, "split": "test"}
    app.run()
    sound(app)
    assert (told(app)["mode"], app.slider(key="doubt").value) == ("cell", (0.0, 1.0)), "somebody went back to another address"
    assert told(app)["blind"], "which only the person turns off"
    app.slider(key="doubt").set_value((0.3, 0.9)).run()
    app.segmented_control(key="mode").set_value("image").run()
    app.switch_page("pages/export.py").run()
    app.query_params.clear()
    app.switch_page("pages/review.py").run()
    sound(app)
    assert (told(app)["mode"], told(app)["blind"], app.slider(key="doubt").value) == ("image", True, (0.3, 0.9))


def test_conflicts_are_settled_by_a_person(finished: Run, home: Path) -> None:
    store = ReviewStore(home / "reviews.sqlite")
    csv = finished.fingerprint
    given = int((finished.source.root / "train_label.csv").read_text().splitlines()[1].split(",")[1])
    cell = ("train_000.jpg", "red", given)
    store.apply(csv, [Answer(*cell, "keep", "ada"), Answer(*cell, "change", "bob", note="*dim*")])
    app = open_page("review")
    assert "In conflict" in words(app)
    app.segmented_control(key="mode").set_value("people").run()
    sound(app)
    assert "1 cell on which reviewers disagree" in words(app)
    assert "*dim*" in words(app)
    word = "no" if given else "yes"
    assert all(button.disabled for button in app.button if button.label.startswith("Settle")), "nobody settles without a name"
    assert "A settlement is signed" in words(app)
    app.text_input(key="reviewer").set_value("eve").run()
    next(button for button in app.button if button.label == f"Settle: {word}").click().run()
    sound(app)
    assert store.corrections(csv) == {("train_000.jpg", "red"): 1 - given}
    assert store.log(csv)[-1].reviewer == "eve"
    assert store.log(csv)[-1].way == "settled"
    assert "1 cell on which reviewers disagree" not in words(app)


def table(app: AppTest, number: int) -> list[list[str]]:
    """The cells of a table, a list a row, as a reader sees them."""
    tables = [element.proto.body for element in app.get("html") if "pn-table" in element.proto.body]
    rows = re.findall(r"<tr>(.*?)</tr>", tables[number])[1:]
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]


def test_each_number_means_one_thing_before_and_after_a_settlement(finished: Run, home: Path) -> None:
    """Ada and Bob disagree on the first cell, agree on the second; Bob settles against what he said himself."""
    store, queue = ReviewStore(home / "reviews.sqlite"), open_queue(finished)
    first, second, third = ((*queue.name(cell), int(queue.given[cell])) for cell in range(3))
    store.apply(finished.fingerprint, [
        Answer(*first, "keep", "Ada"), Answer(*first, "change", "Bob"), Answer(*second, "change", "Ada"), Answer(*second, "keep", "Ada"),
        Answer(*second, "keep", "Bob"), Answer(*third, "skip", "Bob"),
    ])  # fmt: skip
    app = open_page("review")
    facts = re.findall(r'pn-label">(.*?)</div><div class="pn-value">(.*?)</div>\s*<div class="pn-note">(.*?)<', words(app))
    assert {name: (value, note) for name, value, note in facts} | {
        "Decided": ("1", "by everybody: 0 changed, 1 kept"), "In conflict": ("1", "until settled"), "Skipped": ("1", "by everybody"),
    } == {name: (value, note) for name, value, note in facts}  # fmt: skip
    n_cells = len(queue.doubts)
    assert next(value for name, value, _ in facts if name == "To decide") == str(n_cells - 3)

    app.text_input(key="reviewer").set_value("Bob").run()
    app.segmented_control(key="mode").set_value("people").run()
    given, other = ("yes", "no") if first[2] else ("no", "yes")
    assert [row[:2] for row in table(app, 0)] == [["Ada", given], ["Bob", other]]
    typed = "a name typed in, not verified"
    assert table(app, 1) == [["Ada", typed, "0", "2", "0", "0"], ["Bob", typed, "1", "1", "1", "0"]]
    settle = next(b.key for b in app.button if b.key.startswith(f"settle-{first[2]}-"))
    app.button(key=settle).click().run()
    sound(app)
    assert [row[:2] for row in table(app, 0)] == [["Ada", given], ["Bob", other], ["Bob", f"settled: {given}"]]
    assert table(app, 1) == [["Ada", typed, "0", "2", "0", "0"], ["Bob", typed, "1", "1", "1", "1"]]
    app.segmented_control(key="mode").set_value("cell").run()
    assert "by everybody: 0 changed, 2 kept" in words(app)
    assert "In conflict" not in words(app)


def test_a_conflict_that_is_looked_at_blind_does_not_say_what_the_csv_says(finished: Run, home: Path) -> None:
    store, queue = ReviewStore(home / "reviews.sqlite"), open_queue(finished)
    cell = (*queue.name(0), int(queue.given[0]))
    store.apply(finished.fingerprint, [Answer(*cell, "keep", "ada"), Answer(*cell, "change", "bob")])
    for blind in (False, True):
        app = open_page("review")
        app.toggle(key="blind").set_value(blind).run()
        app.segmented_control(key="mode").set_value("people").run()
        sound(app)
        assert "1 cell on which reviewers disagree" in words(app)
        assert ("The CSV says" in words(app)) != blind


def test_a_settled_conflict_stays_in_its_place_and_can_be_taken_back_there_and_later(finished: Run, home: Path) -> None:
    store, queue = ReviewStore(home / "reviews.sqlite"), open_queue(finished)
    cells = [(*queue.name(cell), int(queue.given[cell])) for cell in range(12)]
    store.apply(
        finished.fingerprint, [Answer(*cell, v, who) for cell in cells for v, who in (("keep", "ada"), ("change", "bob"))]
    )
    app = open_page("review")
    app.text_input(key="reviewer").set_value("eve").run()
    app.segmented_control(key="mode").set_value("people").run()

    def places() -> list[str]:
        return [one.value for one in app.markdown if " in " in one.value and ":" not in one.value]

    before = places()
    assert len(before) == 10, "a page of them"
    next(button for button in app.button if button.label == "Settle: yes").click().run()
    sound(app)
    assert places() == before, "nothing slides under the pointer"
    assert "11 cells on which reviewers disagree" in words(app)
    assert "✓ Settled: yes**, by eve" in words(app)
    assert [button.label for button in app.button].count("Settle: yes") == 9
    assert store.log(finished.fingerprint)[-1].reviewer == "eve"
    next(button for button in app.button if button.label == "Undo").click().run()
    sound(app)
    assert places() == before
    assert "12 cells on which reviewers disagree" in words(app)
    [button for button in app.button if button.label == "Settle: no"][1].click().run()
    app.text_input(key="reviewer").set_value("dan").run()
    app.switch_page("pages/export.py").run()
    app.switch_page("pages/review.py").run()
    app.segmented_control(key="mode").set_value("people").run()
    assert places()[0] == before[0]
    assert places()[1] == before[2], "what was settled is gone from the conflicts when somebody comes back"
    assert "Settled conflicts: 1" in [one.label for one in app.expander]
    assert "**no**, by eve, 20" in words(app)
    app.button(key=next(button.key for button in app.button if button.key.endswith("-list"))).click().run()
    sound(app)
    assert "12 cells on which reviewers disagree" in words(app)
    last = store.log(finished.fingerprint)[-1]
    assert (last.verdict, last.reviewer) == ("undo", "dan"), "the log says who took it back"


def follow(app: AppTest, name: str) -> None:
    """To another page by a link, which leaves the address behind."""
    app.query_params.clear()
    app.switch_page(f"pages/{name}.py").run()
    sound(app)


def again(run: Run, name: str, **values: object) -> Run:
    """A copy of the run, made a day later."""
    folder = run.folder.with_name(name)
    shutil.copytree(run.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    later = (run.created + timedelta(days=1)).isoformat()
    (folder / "config.json").write_text(json.dumps(config | {"created": later} | values))
    return Run(folder)


def test_a_run_that_is_chosen_on_one_page_is_shown_on_all(finished: Run) -> None:
    newer = again(finished, "20990101-000000-abcd")
    app = open_page("sanity_check")
    assert app.selectbox(key="run-before.csv").value == newer.id
    app.selectbox(key="run-before.csv").set_value(finished.id).run()
    for name, key in (
        ("review", "suspects.csv"),
        ("export", "suspects.csv"),
        ("report", "metrics.json"),
        ("effect", "metrics.json"),
        ("predict", "model.json"),
    ):
        follow(app, name)
        assert app.selectbox(key=f"run-{key}").value == finished.id, name
    app.selectbox(key="run-model.json").set_value(newer.id).run()
    follow(app, "review")
    assert app.selectbox(key="run-suspects.csv").value == newer.id


def test_a_chosen_run_that_cannot_be_shown_is_said(finished: Run) -> None:
    newer = again(finished, "20990101-000000-abcd", corrects={"run": finished.id, "cells": 3, "decisions_up_to": 1})
    app = open_page("train")
    app.selectbox(key="run-None").set_value(newer.id).run()
    app.selectbox(key="run-None").set_value(finished.id).run()
    app.selectbox(key="run-None").set_value(newer.id).run()
    follow(app, "review")
    assert app.selectbox(key="run-suspects.csv").value == finished.id, "decisions are made on the labels as they came"
    assert "this is the run that it repeats" in words(app)
    (newer.folder / "metrics.json").unlink()
    follow(app, "report")
    assert app.selectbox(key="run-metrics.json").value == finished.id
    assert "has not got that far" in words(app)


@pytest.mark.parametrize(
    ("url", "missing"),
    [
        ("http://127.0.0.1:8501/nopage", "nopage"),
        ("http://127.0.0.1:8501/a%20page?x=1", "a page"),
        ("http://127.0.0.1:8501/", ""),
        ("http://127.0.0.1:8501", ""),
        ("http://127.0.0.1:8501/start", ""),
        ("https://host/panorama/", ""),
        ("https://host/panorama/nopage", "nopage"),
        (None, ""),
    ],
)
def test_an_address_that_is_no_page_s_is_told_from_the_first_page_behind_a_proxy(url: str | None, missing: str) -> None:
    assert ui._no_page(url) == missing


def test_what_an_import_of_decisions_did_is_said_below_its_button(finished: Run) -> None:
    sheet = (finished.source.root / "train_label.csv").read_text().splitlines()
    name, red = sheet[3].split(",")[:2]
    app = open_page("export")
    file = f"image,label,value\n{name},red,{1 - int(red)}\n".encode()
    for told in ("1 decision taken in. 0 were here already", "0 decisions taken in. 1 were here already"):
        app.file_uploader[0].set_value(("decisions.csv", file, "text/csv")).run()
        app.button(key="take-in").click().run()
        sound(app)
        assert [success.value for success in app.success if told.replace(".", "\\.") in success.value], [
            s.value for s in app.success
        ]
    assert "train_label.csv, line 4" in words(app), "and what changes is shown at once"


def test_the_export_shows_each_line_that_changes_and_takes_decisions_in(finished: Run, home: Path) -> None:
    store, csv = ReviewStore(home / "reviews.sqlite"), finished.fingerprint
    app = open_page("export")
    sound(app)
    assert "Nothing changes yet" in words(app)
    lines = (finished.source.root / "train_label.csv").read_text().splitlines()
    name, *bits = lines[3].split(",")
    store.apply(csv, [Answer(name, "red", int(bits[0]), "change", "ada", note="<b>n</b>")])
    app = open_page("export")
    sound(app)
    assert "train_label.csv, line 4" in words(app)
    assert lines[3] in words(app)
    assert ",".join([name, str(1 - int(bits[0])), *bits[1:]]) in words(app)
    assert "<b>n</b>" not in words(app)
    (finished.source.root / "train_label.csv").write_text("\n".join(lines[:3]) + "\n")
    app = open_page("export")
    sound(app)
    assert "no longer the file that was reviewed" in words(app)
    assert "no longer in the CSV" in words(app)


def test_a_run_of_an_older_version_can_still_be_reviewed(finished: Run) -> None:
    path = finished.folder / "suspects.csv"
    header, rows = runs.read_rows(path)
    kept = [header.index(name) for name in ("image", "split", "label", "given", "probability", "doubt", "kind", "rank")]
    runs.write_rows(path, [header[n] for n in kept], [[row[n] for n in kept] for row in rows])
    (finished.folder / "neighbours.csv").unlink()
    app = open_page("review")
    sound(app)
    assert (first_card(app)["near"], first_card(app)["context"]) == ([], None)
    app = open_page("report")
    sound(app)
    assert "made by an older version" in words(app)


def test_the_report_counts_errors_by_label_and_kind(finished: Run) -> None:
    app = open_page("report")
    sound(app)
    assert "the range goes from a tenth to twice as many" in words(app)
    table = next(frame.value for frame in app.dataframe if "expected" in frame.value.columns)
    assert [(row.label, row.kind) for row in table.itertuples()] == [(c, kind) for c in COLOURS for kind in ("missing", "extra")]
    assert finished.has("suspects.csv")


def test_effect_without_corrections_sends_to_the_review(finished: Run) -> None:
    app = open_page("effect")
    sound(app)
    assert "No label is corrected yet." in words(app)
    assert finished.corrects is None


def test_effect_retrains_and_shows_old_and_new_side_by_side(finished: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from panorama import launch
    from panorama.decisions import Answer
    from panorama.reviews import ReviewStore

    monkeypatch.setattr(launch, "start", lambda run: 0 if work(run.folder) == "complete" else 1)
    queue = open_queue(finished)
    cells = [(queue.images[queue.image_of[c]], queue.labels[queue.label_of[c]], int(queue.given[c])) for c in range(4)]
    store = ReviewStore(home / "reviews.sqlite")
    store.apply(finished.fingerprint, [Answer(*cell, "change", "ann") for cell in cells[:2]] + [Answer(*cells[2], "keep", "ann")])
    app = open_page("effect")
    sound(app)
    assert "2 corrected cells" in words(app)
    assert "Expect about" in words(app)
    assert "about 0 s" not in words(app), "however quick the first training was"
    app.button(key="retrain").click().run()
    sound(app)
    (again,) = [run for run in runs.list_runs(home) if run.corrects]
    assert again.corrects == runs.Corrects(finished.id, 2, 3)
    said = words(app)
    for title in (
        "The original labels",
        "The corrected labels",
        "The cells people verified",
        "The verified cells of the test split",
    ):
        assert title in said
    assert said.count("**It cannot show**") >= 3
    assert "not with another seed" in said
    assert "since the retraining" not in said
    store.apply(finished.fingerprint, [Answer(*cells[3], "change", "ann")])
    app = open_page("effect")
    sound(app)
    assert "**1 correction was made or taken back since the retraining.**" in words(app)
    assert app.button(key="retrain").label == "Retrain again"


def test_effect_tells_why_it_does_not_retrain_and_resumes_what_was_stopped(
    finished: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from panorama import launch
    from panorama.decisions import Answer
    from panorama.reviews import ReviewStore

    value = int(finished.targets(["red"])[0, 0])
    ReviewStore(home / "reviews.sqlite").apply(finished.fingerprint, [Answer("train_000.jpg", "red", value, "change")])
    picture = finished.source.root / "train" / "train_002.jpg"
    picture.rename(picture.with_suffix(".away"))
    app = open_page("effect")
    app.button(key="retrain").click().run()
    sound(app)
    assert "cannot be read any more" in words(app)
    picture.with_suffix(".away").rename(picture)

    monkeypatch.setattr(launch, "start", lambda run: 0)
    app.button(key="retrain").click().run()
    sound(app)
    assert "stopped before it was complete" in words(app)
    monkeypatch.setattr(launch, "start", lambda run: 0 if work(run.folder) == "complete" else 1)
    app.button(key="resume").click().run()
    sound(app)
    assert "The corrected labels" in words(app)


def test_the_report_shows_each_label_and_can_be_taken_home(finished: Run) -> None:
    app = open_page("report")
    sound(app)
    table = next(frame.value for frame in app.dataframe if "calibration error" in frame.value.columns)
    metrics = finished.metrics()
    assert metrics is not None
    for row in table.to_dict("records"):
        assert row["average precision"] == f"{metrics['test']['labels'][row['label']]['average_precision']:.3f}"
        assert row["threshold"] == f"{metrics['thresholds_from_validation'][row['label']]:.3f}"
    (parts,) = app.table  # a table wraps its last column, which a data frame cuts at 1280 pixels
    assert "they rank the suspects" in parts.value["what they are"].iloc[-1]
    app.selectbox(key="curve-label").set_value("blue").run()
    sound(app)
    assert any(button.proto.label == "Download the report (HTML)" for button in app.get("download_button"))


def test_a_picture_path_that_leads_outside_is_said_in_words(finished: Run) -> None:
    path = finished.folder / "split.csv"
    header, rows = runs.read_rows(path)
    runs.write_rows(path, header, [[image, split, "../../outside.jpg"] for image, split, _ in rows])
    app = open_page("review")
    sound(app)
    assert "is outside the data set" in first_card(app)["missing"]
    app = open_page("sanity_check")
    sound(app)
    assert "is outside the data set" in words(app)


def test_a_label_named_like_the_menu_entry_for_all_can_be_chosen(home: Path, seed_folder: Callable[..., Path]) -> None:
    root = seed_folder(12, 6)
    for split in ("train", "test"):
        sheet = root / f"{split}_label.csv"
        sheet.write_text(sheet.read_text().replace("file,red,", "file,all labels,"))
    source = with_layouts(find_source(root))
    remember(home, source)
    run = runs.create(load(source, home), TrainConfig(**{**QUICK, "fold_models": "heads"}), home)
    assert work(run.folder) == "complete"
    app = open_page("review")
    assert app.selectbox(key="label").value == "(all labels)"
    app.selectbox(key="label").set_value("all labels").run()
    sound(app)
    assert first_card(app)["label"] == "all labels"
    assert ">18<" in words(app), "cells of one label: an image each"


def test_labels_and_names_that_look_like_markup_are_shown_literally(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "naughty"
    (root / "train").mkdir(parents=True)
    (root / "test").mkdir()
    for split, count in (("train", 12), ("test", 6)):
        lines = [f'file,"{NAUGHTY}",image']
        for i in range(count):
            name = f"<b>{split}{i}*_`.png"
            patch_picture(["red"] if i % 2 else [], i + 50 * count).save(root / split / name)
            lines.append(f"{name},{i % 2},{int(i % 3 == 0)}")
        (root / f"{split}_label.csv").write_text("\n".join(lines))
    source = with_layouts(find_source(root))
    remember(home, source)
    run = runs.create(load(source, home), TrainConfig(**{**QUICK, "fold_models": "heads"}), home)
    assert work(run.folder) == "complete"
    for name in PAGES:
        app = open_page(name)
        sound(app)
        for element in [*app.markdown, *app.caption, *app.warning, *app.info, *app.subheader]:
            assert "![x](" not in str(element.value), (name, element.value)
            assert "<b>train" not in str(element.value).replace("\\<", "")
        for element in app.get("html"):
            assert "<img src=x" not in element.proto.body
            assert "<b>train" not in element.proto.body


def test_the_recipe_brings_its_own_numbers_and_the_cache_says_its_size(seed_folder: Callable[..., Path], home: Path) -> None:
    remember(home, with_layouts(find_source(seed_folder(12, 6))))
    app = open_page("train")
    sound(app)
    assert app.number_input(key="ef-fast").value == 4
    app.session_state["recipe"] = "seed"
    app.run()
    sound(app)
    assert app.number_input(key="ef-seed").value == 100
    assert app.selectbox(key="schedule-seed").value == "constant"


def test_the_path_of_a_weights_file_is_asked_for_where_it_is_used(seed_folder: Callable[..., Path], home: Path) -> None:
    remember(home, with_layouts(find_source(seed_folder(12, 6))))
    app = open_page("train")
    fields = [field.label for field in app.text_input]
    app.selectbox(key="weights").set_value("path").run()
    sound(app)
    assert [field.label for field in app.text_input if field.label not in fields] == ["Path of the weights file"]
    assert "Give the path of a weights file" in words(app)


def test_one_word_is_one_thing_seed_is_the_number(seed_folder: Callable[..., Path], home: Path) -> None:
    remember(home, with_layouts(find_source(seed_folder(12, 6))))
    app = open_page("train")
    assert [field.label for field in app.number_input if "seed" in field.label.lower()] == ["Random seed"]
    assert not [option for option in app.segmented_control(key="recipe").options if "seed" in option.lower()]


@pytest.mark.parametrize("name", ["export", "effect", "report"])
def test_what_a_cell_is_is_said_where_a_page_first_speaks_of_cells(finished: Run, home: Path, name: str) -> None:
    image, red = (finished.source.root / "train_label.csv").read_text().splitlines()[3].split(",")[:2]
    ReviewStore(home / "reviews.sqlite").apply(finished.fingerprint, [Answer(image, "red", int(red), "change")])
    assert "A cell is one value of the CSV: one label of one picture" in words(open_page(name))


@pytest.mark.parametrize("name", ["predict", "export"])
@pytest.mark.usefixtures("finished")
def test_a_small_upload_does_not_promise_gigabytes(name: str) -> None:
    (uploader,) = open_page(name).get("file_uploader")
    assert uploader.proto.max_upload_size_mb <= 200


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.usefixtures("finished")
def test_where_a_login_is_configured_nothing_is_shown_before_it(name: str) -> None:
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    provider = {"client_id": "a", "client_secret": "b", "server_metadata_url": "http://127.0.0.1:9/openid"}
    app.secrets["auth"] = {"redirect_uri": "http://127.0.0.1:8501/oauth2callback", "cookie_secret": "c"} | provider
    app.run()
    if name != "start":
        app.switch_page(f"pages/{name}.py").run()
    sound(app)
    assert [button.label for button in app.button] == ["Log in"]
    assert not app.get("bidi_component")
    assert not app.selectbox
    assert "pn-" not in words(app)


@pytest.mark.usefixtures("finished")
def test_train_says_what_starter_weights_are_and_for_which_backbone_they_are_there() -> None:
    app = open_page("train")
    app.selectbox(key="weights").set_value("starter").run()
    sound(app)
    assert "not photos" in words(app)
    app.selectbox(key="backbone").set_value("resnet50").run()
    sound(app)
    assert "for mobilenet_v2 only" in words(app)
    assert not [button for button in app.button if button.key == "start"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("sea", "sea"),
        ("*sea* _and_ `sky`", r"\*sea\* \_and\_ \`sky\`"),
        ("[a](http://x)", r"\[a\]\(http\:\/\/x\)"),
        ("<img src=x>", r"\<img src=x\>"),
        (":red[no] $x$ # 1. a", r"\:red\[no\] \$x\$ \# 1\. a"),
        ("two\nlines\ttab\x00", "two lines tab "),
        ("Küste 😀", "Küste 😀"),
    ],
)
def test_a_name_in_a_markdown_place_is_shown_literally(name: str, shown: str) -> None:
    """CommonMark: a backslash before ASCII punctuation makes it literal. A slash needs none and may have none."""
    assert ui.text(name) == shown.replace(r"\/", "/")


@pytest.mark.parametrize(
    ("claims", "signed"),
    [
        ({"email": "ada@x.org", "sub": "42"}, "ada@x.org"),
        ({"email": "ada@x.org", "sub": "42", "email_verified": True}, "ada@x.org"),
        ({"email": "ada@x.org", "sub": "42", "email_verified": False}, "42"),
        ({"email": "ada@x.org", "sub": "42", "email_verified": "false"}, "42"),
        ({"name": "Ada", "sub": "42"}, "42"),
        ({"email": "ada@x.org", "email_verified": False, "name": "Ada"}, ""),
        ({}, ""),
    ],
)
def test_an_address_that_the_provider_has_not_verified_signs_nothing(
    claims: dict[str, Any], signed: str, caplog: pytest.LogCaptureFixture
) -> None:
    ui._unverified.cache_clear()
    assert ui.signature(claims) == signed
    assert ui.signature(claims) == signed
    told = [record.message for record in caplog.records]
    assert len(told) == ("email" in claims and signed != claims["email"]), "once for each account"
    assert not any("ada@x.org" in one for one in told)


def test_reading_that_was_stopped_is_said_and_can_go_on(seed_folder: Callable[..., Path], home: Path) -> None:
    remember(home, with_layouts(find_source(seed_folder(12, 6))))
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    app.run()
    app.session_state["stopped reading"] = True
    app.switch_page("pages/dataset.py").run()
    sound(app)
    assert "What was read so far is kept" in words(app)
    app.button(key="go on reading").click().run()
    sound(app)
    assert "What was read so far is kept" not in words(app)
    assert ">18<" in words(app), "all images"
    assert not [button for button in app.button if button.label == "Stop"], "the bar is gone when the work is done"


def test_a_grid_shows_what_it_has_while_slow_pictures_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    at_once: list[str] = []
    clock = [0.0]

    class Place:
        def html(self, body: str) -> None:
            shown.append(body)

    def cards(seconds: float) -> Iterator[str]:
        for n in range(6):
            clock[0] += seconds
            yield f"<p>{n}</p>"

    monkeypatch.setattr(ui.st, "empty", Place)
    monkeypatch.setattr(ui.st, "html", lambda body: at_once.append(body))
    monkeypatch.setattr(ui.time, "monotonic", lambda: clock[0])
    ui.grid(cards(0.01))
    assert [body.count("<p>") for body in at_once] == [6], "what is ready is sent once"
    assert not shown, "and in place of what stood there: a page that is emptied first jumps"
    ui.grid(cards(0.3))
    assert [body.count("<p>") for body in shown] == [2, 4, 6, 6]


@pytest.mark.parametrize(
    ("lowest", "kept", "said"),
    [
        ("adaptation", "fine tuning", "The fine-tuned model is kept although adaptation reached a lower validation loss"),
        ("adaptation", "adaptation", "Fine tuning did not lower the validation loss"),
        ("fine tuning", "fine tuning", ""),
    ],
)
def test_train_says_which_model_is_kept_and_why(finished: Run, lowest: str, kept: str, said: str) -> None:
    file = finished.folder / "events.jsonl"
    events = [json.loads(line) for line in file.read_text().splitlines()]
    for event in events:
        if event["event"] == "EpochEnded":
            event["validation_loss"] = 0.25 if event["phase"] == lowest else 0.75
            event["is_best"] = event["phase"] in ("adaptation", kept)
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    app = open_page("train")
    sound(app)
    told = [str(caption.value) for caption in app.caption]
    for words_of in ("The fine-tuned model is kept although", "Fine tuning did not lower"):
        assert any(words_of in one for one in told) == (bool(said) and said.startswith(words_of))
    assert f"kept: {kept}" in words(app)


def test_answers_that_a_run_writes_later_are_seen(finished: Run) -> None:
    after = (finished.folder / "predictions.csv").read_bytes()
    (finished.folder / "predictions.csv").unlink()
    app = open_page("sanity_check")
    assert "the predictions of the untrained head" in words(app)
    (finished.folder / "predictions.csv").write_bytes(after)
    app.run()
    sound(app)
    assert "the predictions of the untrained head" not in words(app)
    assert app.segmented_control(key="when-2").value == "after training", "there was no choice before"


@pytest.mark.usefixtures("finished")
def test_where_nothing_was_learned_the_review_counts_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    for unlearned, said in (((), "about"), (("red",), "about"), (("red", "green", "blue"), "unknown")):
        monkeypatch.setattr(ReviewQueue, "unlearned", property(lambda _, found=unlearned: found))
        told = words(open_page("review"))
        assert re.search(r"Errors in all</div><div class=\"pn-value\">(\w+)", told)[1] == said, told  # type: ignore[index]
        assert ("Of the next" in told) == (said == "about")


@pytest.mark.usefixtures("finished")
def test_the_sanity_check_is_as_it_was_left_when_somebody_comes_back() -> None:
    app = open_page("sanity_check")
    app.segmented_control(key="when-2").set_value("before training").run()
    app.selectbox(key="sanity-kind").set_value("right").run()
    app.selectbox(key="sanity-split").set_value("all").run()
    told = words(app)
    follow(app, "review")
    follow(app, "sanity_check")
    assert (app.selectbox(key="sanity-kind").value, app.selectbox(key="sanity-split").value) == ("right", "all")
    assert app.segmented_control(key="when-2").value == "before training"
    assert words(app) == told


def test_train_leads_to_the_training_that_is_running(finished: Run, home: Path) -> None:
    app = open_page("train")
    assert not [button for button in app.button if button.key == "show-running"]
    other = again(finished, "20990101-000000-abcd")
    lock = FileLock(home / "worker.lock")
    with lock:
        (home / "worker.json").write_text(json.dumps({"run": other.id}))
        app.query_params["run"] = finished.id
        app.run()
        sound(app)
        app.button(key="show-running").click().run()
        sound(app)
        assert app.selectbox(key="run-None").value == other.id
        assert not [button for button in app.button if button.key == "show-running"]


def test_the_sanity_check_says_what_people_have_decided_where_the_model_and_the_csv_differ(finished: Run, home: Path) -> None:
    header, rows = runs.read_rows(finished.folder / "predictions.csv")
    queue, store = open_queue(finished), ReviewStore(home / "reviews.sqlite")
    at = {name: n for n, name in enumerate(header)}

    def page() -> str:
        app = open_page("sanity_check")
        sound(app)
        return words(app)

    given = {queue.name(cell): int(queue.given[cell]) for cell in range(len(queue.doubts))}
    for row in rows:  # the model says the opposite of the CSV everywhere
        for label in queue.labels:
            row[at[label]] = str(0.9 - 0.8 * given[row[at["image"]], label])
    runs.write_rows(finished.folder / "predictions.csv", header, rows)
    assert "decided:" not in page()
    assert "people disagree" not in page()
    image = next(row[at["image"]] for row in rows if row[at["split"]] == "test")
    cells = [(image, label) for label in queue.labels[:3]]
    store.apply(
        finished.fingerprint,
        [
            Answer(*cells[0], given[cells[0]], "change", "Ada"), Answer(*cells[1], given[cells[1]], "keep", "Ada"),
            Answer(*cells[2], given[cells[2]], "change", "Ada"), Answer(*cells[2], given[cells[2]], "keep", "Bob"),
        ],
    )  # fmt: skip
    told = page()
    assert [
        told.count(f"· {said}") for said in ("decided: the CSV is wrong", "decided: the CSV is right", "people disagree")
    ] == [1, 1, 1]


@pytest.mark.parametrize("name", [page for page in PAGES if page != "start"])
@pytest.mark.usefixtures("finished")
def test_every_page_hands_over_to_another(name: str) -> None:
    assert open_page(name).get("page_link")


def test_each_page_hands_over_to_the_next_and_the_last_one_ends_the_way() -> None:
    """Predict is beside the way: no page calls it the next, and it does not send to the page that sends to it."""
    way = ["dataset", "train", "sanity_check", "review", "export", "effect", "report"]
    source = {name: (ROOT / "pages" / f"{name}.py").read_text() for name in PAGES}
    following = {name: set(re.findall(r'page_link\("(\w+)", "Next: ', text)) for name, text in source.items()}
    assert following == {name: {then} for name, then in pairwise(way)} | {"start": set(), "report": set(), "predict": set()}
    assert "page_link" in source["report"]
    assert 'page_link("report"' not in source["predict"]
    assert 'page_link("predict"' in source["report"]


def test_a_data_set_without_a_training_is_not_taken_for_one_that_has(finished: Run, home: Path, tmp_path: Path) -> None:
    app = open_page("train")
    assert "has no training yet" not in words(app)
    remember(home, with_layouts(find_source(Path(shutil.copytree(finished.source.root, tmp_path / "others")))))
    app = open_page("train")
    sound(app)
    assert "others has no training yet" in words(app)
    assert "run" not in app.query_params, "nor is another data set's run shown unasked"
    assert "Complete. Every image" not in words(app)
    assert app.selectbox(key="run-of-others").value is None
    app.selectbox(key="run-of-others").set_value(finished.id).run()
    sound(app)
    assert "Complete. Every image" in words(app), "but it can be asked for"
    assert "not of others, which is the data set now" in words(app)


@pytest.mark.parametrize("name", ["sanity_check", "review", "export", "effect", "report", "predict"])
def test_no_page_shows_another_data_set_s_run_unasked(finished: Run, home: Path, tmp_path: Path, name: str) -> None:
    remember(home, with_layouts(find_source(Path(shutil.copytree(finished.source.root, tmp_path / "others")))))
    with FileLock(
        home / "worker.lock"
    ):  # the other one's, which has the files already: nothing to wait for, and no page that runs without end
        (home / "worker.json").write_text(json.dumps({"run": finished.id}))
        app = open_page(name)
        sound(app)
        assert "There is no finished training of others yet." in words(app)
    app.query_params["run"] = "gone"
    app.run()
    assert "The address asks for the training gone, which is not here." in words(app)
    del app.query_params["run"]
    app.run()
    assert app.selectbox(key="run-of-others").value is None
    app.selectbox(key="run-of-others").set_value(finished.id).run()
    sound(app)
    assert "There is no finished training" not in words(app), "but it can be asked for"
    assert "not of others, which is the data set now" in words(app)


def test_a_data_set_that_is_imported_later_ends_what_was_chosen_before_it(finished: Run, home: Path, tmp_path: Path) -> None:
    newer = again(finished, "20990101-000000-abcd")
    app = open_page("train")
    assert app.selectbox(key="run-None").value == newer.id
    app.selectbox(key="run-None").set_value(finished.id).run()
    remember(home, with_layouts(find_source(Path(shutil.copytree(finished.source.root, tmp_path / "others")))))
    follow(app, "train")
    assert "others has no training yet" in words(app)
    assert "Complete. Every image" not in words(app)
    remember(home, finished.source)
    follow(app, "review")
    assert app.selectbox(key="run-suspects.csv").value == finished.id, "back with the data set its run is chosen again"


def test_pages_show_a_run_of_the_current_data_set_before_a_newer_one_of_another(finished: Run, tmp_path: Path) -> None:
    values = json.loads((finished.folder / "config.json").read_text())
    other = Path(shutil.copytree(finished.source.root, tmp_path / "others"))
    newer = again(finished, "20990101-000000-abcd", data=values["data"] | {"root": str(other)})
    app = open_page("report")
    assert app.selectbox(key="run-metrics.json").value == finished.id
    app.selectbox(key="run-metrics.json").set_value(newer.id).run()
    assert "This run is of others, not of test" in words(app)


def test_two_runs_of_one_data_set_are_compared_and_different_ones_are_said(finished: Run, tmp_path: Path) -> None:
    values = json.loads((finished.folder / "config.json").read_text())
    other = Path(shutil.copytree(finished.source.root, tmp_path / "others"))
    newer = again(finished, "20980101-000000-aaaa")
    foreign = again(finished, "20990101-000000-bbbb", data=values["data"] | {"root": str(other)})
    app = open_page("train")
    sound(app)
    assert set(app.multiselect[0].value) == {newer.id, finished.id}
    assert "different data sets" not in words(app)
    app.multiselect[0].set_value([newer.id, foreign.id]).run()
    sound(app)
    assert "These runs are of different data sets" in words(app)
    assert "data sets (others, test" in words(app).replace("\\", "")


def test_curves_on_corrected_labels_are_said_to_be_measured_against_those(finished: Run) -> None:
    again(finished, "20990101-000000-abcd", corrects={"run": finished.id, "cells": 3, "decisions_up_to": 1})
    assert "measured against those" in words(open_page("train"))

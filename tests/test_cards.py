"""What the browser is told: cards once, in the order in which they come, and nothing that is not a batch of this CSV is stored."""

import base64
import io
import json
from pathlib import Path

import pytest
from conftest import QUICK
from PIL import Image

from panorama import runs
from panorama.cards import GRID_SIZE, View, packet, taken
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.finding import find_source, with_layouts
from panorama.reviewfiles import open_queue
from panorama.reviews import ReviewStore
from panorama.runs import Run
from panorama.thumbnails import Thumbnails
from panorama.workbench import Desk, Filters, Receipt, Reviewer
from panorama.worker import run as work

ADA = Reviewer("ada")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from conftest import COLOURS, patch_picture

    root, home = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("home")
    for split, count in (("train", 40), ("test", 12)):
        (root / split).mkdir()
        lines = ["file," + ",".join(COLOURS)]
        for i in range(count):
            bits = [(i >> k) & 1 for k in range(3)]
            name = f"{split} {i}.png"
            picture = patch_picture([c for c, b in zip(COLOURS, bits, strict=True) if b], i + 100 * (split == "test"), (96, 64))
            picture.save(root / split / name)
            lines.append(",".join([name, *map(str, bits)]))
        (root / f"{split}_label.csv").write_text("\n".join(lines))
    run = runs.create(load(with_layouts(find_source(root)), home), TrainConfig(**{**QUICK, "fold_models": "heads"}), home)
    assert work(run.folder) == "complete"
    return run


@pytest.fixture
def desk(finished: Run, home: Path) -> Desk:
    return Desk(open_queue(finished), ReviewStore(home / "reviews.sqlite"), finished.id)


def ask(
    desk: Desk, run: Run, view: View, batch: object = None, receipt: Receipt | None = None, **more: object
) -> dict[str, object]:
    told = packet(desk, run, view, batch, receipt or Receipt(), "", Thumbnails(10**7), **more)  # type: ignore[arg-type]
    json.dumps(told, allow_nan=False)
    return told


def size(url: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size


def test_cards_come_in_order_with_their_pictures_and_once(desk: Desk, finished: Run) -> None:
    view = View("cell", Filters(), ADA)
    told = ask(desk, finished, view, budget_seconds=100)
    assert len(told["order"]) == 40
    assert list(told["cards"]) == told["order"]
    card = told["cards"][told["order"][0]]
    image, label = desk.queue.name(int(card["id"]))
    assert (card["image"], card["label"], card["given"]) == (image, label, int(desk.queue.given[int(card["id"])]))
    assert size(card["url"]) == (96, 64), "a small picture is not made larger"
    assert card["larger"] is False
    assert [one["label"] for one in card["labels"]] == desk.queue.labels
    assert len(card["near"]) == 5
    had = {"have": told["order"][:30], "epoch": told["epoch"]}
    again = ask(desk, finished, view, had, budget_seconds=100)
    assert list(again["cards"]) == told["order"][30:]
    other = ask(desk, finished, View("grid", Filters(label="red", kind="missing"), ADA), had, budget_seconds=100)
    assert list(other["cards"]) == other["order"], "of what was asked for before, a tab keeps no cards"


def test_a_budget_that_is_spent_still_brings_one_card(desk: Desk, finished: Run) -> None:
    ticks = iter(range(1000))
    told = ask(desk, finished, View("cell", Filters(), ADA), budget_seconds=0.5, now=lambda: next(ticks))
    assert len(told["cards"]) == 1
    assert len(told["order"]) == 40


def test_a_grid_is_ahead_by_one_page_and_an_image_has_all_its_labels(desk: Desk, finished: Run) -> None:
    told = ask(desk, finished, View("grid", Filters(label="red", kind="missing"), ADA), budget_seconds=100)
    assert told["pageSize"] == GRID_SIZE
    assert {(card["label"], card["given"]) for card in told["cards"].values()} == {("red", 0)}
    told = ask(desk, finished, View("image", Filters(), ADA), budget_seconds=100)
    card = told["cards"][told["order"][0]]
    row = desk.queue.position[card["image"]]
    assert [(one["label"], one["given"], one["value"]) for one in card["labels"]] == [
        (label, int(v), int(v)) for label, v in zip(desk.queue.labels, desk.queue.targets[row], strict=True)
    ]
    blind = ask(desk, finished, View("image", Filters(), ADA, blind=True), budget_seconds=100)
    assert {one["value"] for card in blind["cards"].values() for one in card["labels"]} == {0}


def test_a_larger_picture_is_made_when_it_is_asked_for(desk: Desk, finished: Run) -> None:
    view = View("cell", Filters(), ADA)
    first = ask(desk, finished, view)["order"][0]
    assert size(ask(desk, finished, view, {"full": first})["full"]["url"]) == (96, 64)
    for wanted in ("999999999", "i3x", "../etc/passwd", 5, None, "²"):
        assert ask(desk, finished, view, {"full": wanted})["full"] is None


def test_a_picture_that_is_gone_is_said_in_words(desk: Desk, finished: Run) -> None:
    view = View("cell", Filters(), ADA)
    first = ask(desk, finished, view)["order"][0]
    path = finished.picture_path(desk.queue.paths[desk.queue.image_of[int(first)]])
    moved = path.rename(path.with_suffix(".gone"))
    try:
        card = ask(desk, finished, view)["cards"][first]
        assert card["url"] is None
        assert "not there any more" in card["missing"]
        assert path.name in card["missing"]
    finally:
        moved.rename(path)


def test_a_batch_is_stored_and_the_cell_of_an_undo_comes_first_again(desk: Desk, finished: Run) -> None:
    view = View("cell", Filters(), ADA)
    second = int(ask(desk, finished, view)["order"][1])
    image, label = desk.queue.name(second)
    batch = {"csv": desk.queue.fingerprint, "client": "tab1", "events": [{"n": 0, "image": image, "label": label, "value": 1}]}
    receipt, client = taken(desk, batch, ADA)
    told = packet(desk, finished, view, batch, receipt, client, Thumbnails(10**7))
    assert told["acked"] == {"client": "tab1", "n": 0}
    assert str(second) not in told["order"]
    batch["events"] = [{"n": 1, "undo": True}]
    receipt, client = taken(desk, batch, ADA)
    told = packet(desk, finished, view, batch, receipt, client, Thumbnails(10**7))
    assert told["restored"] == [[1, str(second)]]
    assert told["order"][0] == str(second)
    assert str(second) in told["cards"]


@pytest.mark.parametrize(
    "batch",
    [None, 5, "x", {}, {"csv": "another", "client": "a", "events": [{"n": 0}]}, {"client": "a/b"}, {"client": "a" * 65}, {"client": "a", "events": {}},
     {"client": "", "events": []}],
)  # fmt: skip
def test_what_is_no_batch_for_this_csv_is_passed_over(desk: Desk, batch: object) -> None:
    if isinstance(batch, dict):
        batch = {"csv": desk.queue.fingerprint, **batch}
    assert taken(desk, batch, ADA) == (Receipt(), "")
    assert desk.store.log(desk.queue.fingerprint) == []


def test_nothing_is_acknowledged_while_saving_fails(desk: Desk, finished: Run) -> None:
    told = ask(desk, finished, View("cell", Filters(), ADA), receipt=Receipt(error="The decision was NOT saved: x"))
    assert (told["acked"], told["error"]) == (None, "The decision was NOT saved: x")


def test_a_link_leads_to_the_picture_and_its_label_whatever_they_are_called(desk: Desk, finished: Run) -> None:
    from urllib.parse import parse_qs, urlsplit

    for card in ask(desk, finished, View("cell", Filters(), ADA), budget_seconds=100)["cards"].values():
        assert parse_qs(urlsplit(card["link"]).query) == {
            "run": [finished.id],
            "image": [card["image"]],
            "label": [card["label"]],
        }


def test_thumbnails_stay_within_their_bound_and_follow_the_file(tmp_path: Path) -> None:
    paths = []
    for n in range(8):
        paths.append(tmp_path / f"{n}.png")
        Image.effect_noise((64, 64), 80).save(paths[-1])
    one = len(Thumbnails(10**7).get(paths[0], 64, "x").data or b"")
    album = Thumbnails(4 * one)
    for path in paths:
        assert album.get(path, 64, "x").data
    assert 0 < album._size <= 4 * one
    assert album.get(paths[-1], 64, "x") is album.get(paths[-1], 64, "x")
    import os

    Image.new("RGB", (64, 64), "red").save(paths[-1])
    os.utime(paths[-1], ns=(1, 1))
    assert Image.open(io.BytesIO(album.get(paths[-1], 64, "x").data or b"")).getpixel((9, 9))[0] > 240  # type: ignore[index]
    assert album.get(tmp_path / "none.png", 64, "the name").problem == "the name: the picture is not there any more."

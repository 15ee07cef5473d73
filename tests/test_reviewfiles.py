"""A run opened for review: its tables whatever their order, those of older versions, those that do not fit, and the index kept beside them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from panorama import runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.errors import PanoramaError
from panorama.finding import find_source, with_layouts
from panorama.reviewfiles import open_queue
from panorama.runs import Run

NEW = ["image", "split", "label", "given", "probability", "in_context", "spread", "doubt", "kind", "reason", "rank"]
OLD = ["image", "split", "label", "given", "probability", "doubt", "kind", "rank"]


@pytest.fixture
def bare(seed_folder: Callable[..., Path], home: Path) -> Run:
    """A run of two images, red and red with blue, whose tables are written by hand."""
    root = seed_folder(2, 1)
    (root / "train_label.csv").write_text("file,red,blue\ntrain_000.jpg,1,0\ntrain_001.jpg,1,1\n")
    (root / "test_label.csv").write_text("file,red,blue\ntest_000.jpg,0,0\n")
    run = runs.create(load(with_layouts(find_source(root)), home), TrainConfig(), home)
    names = ["train_000.jpg", "train_001.jpg", "test_000.jpg"]
    splits = ["train", "train", "test"]
    runs.write_rows(
        run.folder / "split.csv", ["image", "split", "path"], [(n, s, f"{s}/{n}") for n, s in zip(names, splits, strict=True)]
    )
    runs.write_rows(run.folder / "out_of_fold.csv", ["image", "split", "red", "blue"],
                    [(n, s, 0.5, 0.25) for n, s in zip(names, splits, strict=True)])  # fmt: skip
    return run


def test_columns_are_read_by_name_whatever_their_order(bare: Run) -> None:
    row = ["train_000.jpg", "train", "blue", "0", "0.25", "0.75", "0.125", "0.5", "missing", "twin", "1"]
    turned = list(range(len(NEW)))[::-1]
    runs.write_rows(bare.folder / "suspects.csv", [NEW[n] for n in turned], [[row[n] for n in turned]])
    runs.write_rows(bare.folder / "neighbours.csv", ["image", "neighbour", "similarity", "near_duplicate"],
                    [("train_000.jpg", "train_001.jpg", "0.9", "1"), ("train_000.jpg", "test_000.jpg", "0.5", "0")])  # fmt: skip
    queue = open_queue(bare)
    assert queue.has_evidence
    assert [float(v[0]) for v in (queue.probabilities, queue.in_context, queue.spread, queue.doubts)] == [0.25, 0.75, 0.125, 0.5]
    assert (queue.reason(0), queue.images[queue.image_of[0]], queue.labels[queue.label_of[0]]) == (
        "twin",
        "train_000.jpg",
        "blue",
    )
    assert [(n.name, n.similarity, n.near_duplicate, n.labels) for n in queue.neighbours(queue.images.index("train_000.jpg"))] == [
        ("train_001.jpg", 0.9, True, ("red", "blue")), ("test_000.jpg", 0.5, False, ()),
    ]  # fmt: skip
    assert queue.neighbours(queue.images.index("test_000.jpg")) == ()


def test_a_run_of_an_older_version_opens_without_context_and_neighbours(bare: Run) -> None:
    runs.write_rows(bare.folder / "suspects.csv", OLD, [["train_000.jpg", "train", "blue", "0", "0.25", "0.5", "missing", "1"]])
    queue = open_queue(bare)
    assert not queue.has_evidence
    assert (queue.probabilities[0], queue.in_context[0], queue.spread[0], queue.doubts[0], queue.reason(0)) == (
        0.25,
        0.25,
        0,
        0.5,
        "hard",
    )
    assert queue.neighbours(0) == ()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image", "ghost.jpg"),
        ("label", "mauve"),
        ("given", "x"),
        ("given", "2"),
        ("doubt", "1.5"),
        ("in_context", "nan"),
        ("reason", "fate"),
        ("spread", "-1"),
    ],
)
def test_suspects_that_do_not_fit_the_run_are_said_in_words(bare: Run, column: str, value: str) -> None:
    row = dict(zip(NEW, ["train_000.jpg", "train", "blue", "0", "0.2", "0.7", "0.1", "0.5", "missing", "slip", "1"], strict=True))
    runs.write_rows(bare.folder / "suspects.csv", NEW, [list((row | {column: value}).values())])
    with pytest.raises(PanoramaError, match=r"suspects\.csv: does not fit the run"):
        open_queue(bare)


def test_neighbours_that_do_not_fit_the_run_are_said_in_words(bare: Run) -> None:
    runs.write_rows(bare.folder / "suspects.csv", NEW, [])
    runs.write_rows(
        bare.folder / "neighbours.csv", ["image", "neighbour", "similarity", "near_duplicate"], [("train_000.jpg", "ghost", 1, 1)]
    )
    with pytest.raises(PanoramaError, match=r"neighbours\.csv: does not fit the run"):
        open_queue(bare)


def test_the_index_is_read_again_as_soon_as_the_table_changes(bare: Run) -> None:
    row = ["train_000.jpg", "train", "blue", "0", "0.25", "0.75", "0.125", "0.5", "missing", "twin", "1"]
    runs.write_rows(bare.folder / "suspects.csv", NEW, [row])
    first = open_queue(bare)
    assert (bare.folder / "suspects.npz").is_file()
    again = open_queue(bare)
    for name in ("image_of", "label_of", "given", "probabilities", "in_context", "spread", "reason_of", "doubts"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    runs.write_rows(bare.folder / "suspects.csv", NEW, [[*row[:7], "0.625", *row[8:]]])
    assert open_queue(bare).doubts.tolist() == [0.625]
    (bare.folder / "suspects.npz").write_bytes(b"PK\x03\x04 cut off")
    assert open_queue(bare).doubts.tolist() == [0.625], "a damaged index is made again"


def test_a_whole_table_says_what_the_csv_says_and_what_the_models_say(bare: Run) -> None:
    given = {("train_000.jpg", "red"): 1, ("train_001.jpg", "red"): 1, ("train_001.jpg", "blue"): 1}
    cells = [(image, label) for label in ("blue", "red") for image in ("test_000.jpg", "train_001.jpg", "train_000.jpg")]
    rows = [[image, "train", label, given.get((image, label), 0), n / 10, 0.5, 0, 0.5 - n / 100, "", "hard", n + 1]
            for n, (image, label) in enumerate(cells)]  # fmt: skip
    runs.write_rows(bare.folder / "suspects.csv", NEW, rows)
    queue = open_queue(bare)
    assert np.array_equal(queue.targets, bare.targets(queue.labels))
    for n, (image, label) in enumerate(cells):
        assert queue.by_image[queue.position[image], queue.column[label]] == pytest.approx(n / 10)


@pytest.mark.parametrize("name", ["NA", "null", "007", 'a, "b"\nc.jpg', "ü\udcff.jpg", " x "])
def test_names_are_read_as_they_are(seed_folder: Callable[..., Path], home: Path, name: str) -> None:
    run = runs.create(load(with_layouts(find_source(seed_folder(2, 1))), home), TrainConfig(), home)
    runs.write_rows(run.folder / "split.csv", ["image", "split", "path"], [(name, "train", "x.jpg")])
    runs.write_rows(run.folder / "out_of_fold.csv", ["image", "split", name], [(name, "train", 0.5)])
    runs.write_rows(
        run.folder / "suspects.csv", NEW, [[name, "train", name, "1", "0.5", "0.5", "0", "0.5", "extra", "slip", "1"]]
    )
    queue = open_queue(run)
    assert queue.name(0) == (name, name)


@pytest.mark.parametrize(
    "change",
    [
        {"given": np.array([7], np.int8)},
        {"image_of": np.array([5], np.int32)},
        {"doubt": None},
        {"doubt": np.array([2.0], np.float32)},
    ],
)
def test_an_index_that_says_what_cannot_be_is_made_again(bare: Run, change: dict[str, object]) -> None:
    row = ["train_000.jpg", "train", "blue", "0", "0.25", "0.75", "0.125", "0.5", "missing", "twin", "1"]
    runs.write_rows(bare.folder / "suspects.csv", NEW, [row])
    sound = open_queue(bare)
    with np.load(bare.folder / "suspects.npz") as kept:
        arrays = {**dict(kept), **change}
    np.savez(bare.folder / "suspects.npz", **{name: value for name, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    again = open_queue(bare)
    assert (again.given.tolist(), again.image_of.tolist(), again.doubts.tolist()) == (
        sound.given.tolist(),
        sound.image_of.tolist(),
        [0.5],
    )

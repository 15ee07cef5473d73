"""What a reviewer is asked, in which order and why, on tables made by hand; and what a reviewer takes home."""

import dataclasses
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panorama import runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.decisions import Decision
from panorama.errors import PanoramaError
from panorama.finding import find_source, with_layouts
from panorama.reviewing import Neighbour, ReviewQueue, bundle, in_all, open_queue
from panorama.runs import Run
from panorama.suspects import ErrorCount


def a_queue(cells: list[tuple[str, str, int, float, float, str, float]], **other: Any) -> ReviewQueue:
    """A queue of (image, label, given, probability, in_context, reason, doubt), all of split train; most doubtful first."""
    images, labels = (sorted({cell[column] for cell in cells}) for column in (0, 1))
    image_of = np.array([images.index(cell[0]) for cell in cells])
    label_of = np.array([labels.index(cell[1]) for cell in cells])
    given = np.array([cell[2] for cell in cells], np.int8)
    p = np.array([cell[3] for cell in cells])
    targets, by_image = np.zeros((len(images), len(labels)), np.int8), np.zeros((len(images), len(labels)), np.float32)
    targets[image_of, label_of], by_image[image_of, label_of] = given, p
    reasons = np.array([["slip", "hard", "twin"].index(cell[5]) for cell in cells], np.int8)
    queue = ReviewQueue(
        "csv", images, ["train"] * len(images), images, labels, targets, by_image, image_of, label_of, given, p,
        np.array([cell[4] for cell in cells]), np.zeros(len(cells)), reasons, np.array([cell[6] for cell in cells]), {}, True, (),
    )  # fmt: skip
    return dataclasses.replace(queue, **other)


def decided(**verdicts: str) -> dict[tuple[str, str], Decision]:
    """Standing decisions, image_label="keep"."""
    return {
        (image, label): Decision(n, str(n), "csv", image, label, 0, verdict, None, "", None, None, None, "", "")  # type: ignore[arg-type]
        for n, (cell, verdict) in enumerate(verdicts.items())
        for image, label in [tuple(cell.split("_"))]
    }


def asked(queue: ReviewQueue, standing: dict[tuple[str, str], Decision], **filters: Any) -> list[str]:
    """The waiting cells in their order, as image_label."""
    cells = queue.waiting(standing, queue.learned(standing), **filters)
    return [f"{queue.images[queue.image_of[cell]]}_{queue.labels[queue.label_of[cell]]}" for cell in cells]


FOUR = [
    ("a", "sea", 0, 0.9, 0.9, "slip", 0.6),
    ("b", "sea", 0, 0.8, 0.8, "slip", 0.5),
    ("a", "trees", 1, 0.2, 0.2, "hard", 0.4),
    ("b", "trees", 1, 0.3, 0.3, "hard", 0.3),
]


def test_without_decisions_the_order_and_the_doubts_are_those_of_the_run() -> None:
    queue = a_queue(FOUR)
    assert asked(queue, {}) == ["a_sea", "b_sea", "a_trees", "b_trees"]
    assert queue.learned({}).tolist() == [0.6, 0.5, 0.4, 0.3]
    assert asked(queue, {}, label="trees") == ["a_trees", "b_trees"]
    assert asked(queue, {}, kind="missing") == ["a_sea", "b_sea"]
    assert asked(queue, {}, kind="extra") == ["a_trees", "b_trees"]
    assert asked(queue, {}, split="test") == []


def test_a_kept_value_lowers_its_likes_and_a_changed_one_raises_them() -> None:
    queue = a_queue(FOUR)
    assert asked(queue, decided(a_sea="keep"))[0] == "a_trees", "missing seas are righter than thought"
    after = queue.learned(decided(a_sea="change"))
    assert after[1] > 0.5
    assert after[2:] == pytest.approx([0.4, 0.3], abs=0.01), "an extra label says nothing of a missing one"


def test_a_skip_and_a_decision_on_another_cell_teach_nothing() -> None:
    queue = a_queue(FOUR)
    standing = decided(a_sea="skip", ghost_sea="change", a_clouds="change")
    assert queue.learned(standing).tolist() == [0.6, 0.5, 0.4, 0.3]
    assert asked(queue, standing) == ["b_sea", "a_trees", "b_trees"]


def test_decisions_teach_with_more_labels_than_a_byte_counts() -> None:
    cells = [(image, f"label{k:03}", 1, 0.2, 0.2, "hard", 0.5) for k in range(300) for image in "ab"]
    queue = a_queue(cells)
    after = queue.learned(decided(a_label299="change")).reshape(300, 2)
    assert after[299, 1] > after[0, 1] > 0.5, "its own label moves most"


def test_by_image_finishes_a_picture_before_the_next_one() -> None:
    """b is wrong somewhere with 1 - 0.5 * 0.6 = 0.7, a with 1 - 0.4 * 0.99 = 0.604, though a has the most doubtful cell."""
    queue = a_queue([
        ("a", "sea", 0, 0.9, 0.9, "slip", 0.6), ("b", "sea", 0, 0.9, 0.9, "slip", 0.5),
        ("b", "trees", 0, 0.9, 0.9, "slip", 0.4), ("a", "trees", 0, 0.1, 0.1, "slip", 0.01),
    ])  # fmt: skip
    worst, whole = queue.by_whole_image(np.arange(4))
    assert (worst.tolist(), whole.tolist()) == ([0, 1], pytest.approx([0.604, 0.7]))
    assert asked(queue, {}, by_image=True) == ["b_sea", "b_trees", "a_sea", "a_trees"]
    assert asked(queue, decided(b_sea="keep"), by_image=True) == ["b_trees", "a_sea", "a_trees"]


def test_learning_on_a_hundred_thousand_cells_is_quick_enough_for_every_click() -> None:
    rng = np.random.default_rng(0)
    cells = rng.permutation(100_000)
    images = [f"i{i}" for i in range(5000)]
    given = rng.integers(0, 2, (5000, 20)).astype(np.int8)
    flat = np.zeros(100_000)
    queue = a_queue(
        FOUR, images=images, splits=["train"] * 5000, labels=[str(k) for k in range(20)], targets=given,
        image_of=cells // 20, label_of=cells % 20, given=given.ravel()[cells], in_context=flat, spread=flat, probabilities=flat,
        reason_of=flat.astype(np.int8), doubts=np.sort(rng.random(100_000))[::-1],
    )  # fmt: skip
    standing = decided(**{f"i{n}_{n % 20}": "keep" if n % 2 else "change" for n in range(500)})
    queue.waiting(standing, queue.learned(standing))  # builds what is kept
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        waiting = queue.waiting(standing, queue.learned(standing))
        seconds.append(time.perf_counter() - start)
    assert len(waiting) == 99_500
    assert min(seconds) < 0.2, "about 0.02 s on an idle core; shared ones are slower"


# --- why --------------------------------------------------------------------------------------------------------------


def of_sea(asked_cell: tuple[int, float, float, str], *others: tuple[int, float]) -> list[str]:
    """The sentences on one cell (given, probability, in_context, reason) beside other images' (given, probability)."""
    given, p, in_context, reason = asked_cell
    cells = [("asked", "sea", given, p, in_context, reason, 0.5)]
    cells += [(f"other{n}", "sea", value, q, q, "hard", 0.1) for n, (value, q) in enumerate(others)]
    return a_queue(cells).why(0)


def test_a_slip_is_shown_with_the_pictures_that_are_as_clear() -> None:
    assert of_sea((0, 0.9, 0.9, "slip"), (1, 0.9), (1, 0.95), (0, 0.5), (1, 0.3)) == [
        "Pictures this clear nearly always carry the label in this CSV.",
        "Of the 2 other pictures with a probability this high, 2 carry it.",
    ]
    assert of_sea((1, 0.1, 0.1, "slip"), (0, 0.05), (1, 0.3)) == [
        "Pictures this clear nearly always lack the label in this CSV.",
        "The only other picture with a probability this low lacks it.",
    ]


def test_a_hard_picture_is_called_hard_unless_the_csv_is_plain_about_its_likes() -> None:
    assert of_sea((0, 0.6, 0.6, "hard"), (1, 0.9), (0, 0.7), (0, 0.65)) == [
        "The model disagrees, but not on a plain picture.",
        "Of the 3 other pictures with a probability this high, 1 carry it.",
    ]
    assert (
        of_sea((0, 0.6, 0.6, "hard"), (1, 0.9), (1, 0.7))[0] == "Pictures this clear nearly always carry the label in this CSV."
    )
    assert of_sea((0, 0.9, 0.9, "hard"), (1, 0.2)) == ["The model disagrees. No other picture has a probability this high."]


def test_a_value_that_the_model_shares_is_not_spoken_against() -> None:
    assert of_sea((0, 0.2, 0.2, "slip"), (1, 0.9)) == [
        "The model leans to the side of the CSV: little speaks against this value."
    ]


def test_a_near_duplicate_and_the_other_labels_are_named_as_the_reason() -> None:
    twin = "A near-duplicate carries the other value: one of the two is wrong."
    assert of_sea((0, 0.85, 0.52, "twin")) == [twin, "The picture's other labels move the probability down, from 0.85 to 0.52."]
    assert of_sea((0, 0.52, 0.85, "twin"))[1] == "The picture's other labels move the probability up, from 0.52 to 0.85."
    assert of_sea((0, 0.52, 0.6, "twin")) == [twin]


def test_a_neighbour_disagrees_when_the_csv_gives_it_the_other_value() -> None:
    queue = a_queue(
        [("a", "sea", 0, 0.9, 0.9, "twin", 0.9), ("b", "sea", 1, 0.9, 0.9, "hard", 0.1), ("c", "sea", 0, 0.1, 0.1, "hard", 0.0)]
    )
    assert [queue.disagrees(0, Neighbour(row, "", 0.9, True, ())) for row in (1, 2)] == [True, False]
    assert queue.neighbours(0) == ()


# --- how many ---------------------------------------------------------------------------------------------------------


def test_found_errors_are_counted_and_waiting_ones_estimated() -> None:
    queue = a_queue(FOUR)
    before = {(c.label, c.kind): c.expected for c in queue.errors({}, queue.doubts)}
    assert before == pytest.approx(
        {("sea", "missing"): 1.1, ("sea", "extra"): 0, ("trees", "missing"): 0, ("trees", "extra"): 0.7}
    )
    standing = decided(a_sea="change", a_trees="keep")
    after = {(c.label, c.kind): c for c in queue.errors(standing, queue.doubts)}
    assert after["sea", "missing"].expected == pytest.approx(1 + 0.5)
    assert after["sea", "missing"].low >= 1, "one is known"
    assert after["trees", "extra"].expected == pytest.approx(0.3)
    assert queue.found(standing) == {("sea", "missing"): 1}


def test_counts_together_are_no_surer_than_each_of_them() -> None:
    counts = [ErrorCount("sea", "missing", 10, 7, 13), ErrorCount("sea", "extra", 20, 16, 24)]
    assert in_all(counts) == pytest.approx((30, 23, 37))
    assert in_all([]) == (0, 0, 0)


# --- reading a run ----------------------------------------------------------------------------------------------------

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


# --- to take home -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["changes.csv", "Changes.csv"])
def test_a_csv_called_like_the_change_log_is_not_lost_in_the_zip(name: str) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle({name: b"corrected"}, b"log"))) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    assert files[name] == b"corrected"
    assert sorted(files.values()) == [b"corrected", b"log"]
    assert len({entry.casefold() for entry in files}) == 2, "many systems take names that differ in case for one"


def test_the_same_corrections_give_the_same_zip() -> None:
    assert bundle({"labels.csv": b"a"}, b"log") == bundle({"labels.csv": b"a"}, b"log")

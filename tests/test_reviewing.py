"""What decisions teach, what is said of a suspect and how many errors there are, on tables made by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from panorama.decisions import Decision
from panorama.reviewing import Neighbour, ReviewQueue, in_all, too_little
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
    reasons = np.array([["slip", "hard", "twin", "moved"].index(cell[5]) for cell in cells], np.int8)
    queue = ReviewQueue(
        "csv", images, ["train"] * len(images), images, labels, targets, by_image, image_of, label_of, given, p,
        np.array([cell[4] for cell in cells]), np.zeros(len(cells)), reasons, np.array([cell[6] for cell in cells]), {}, True,
    )  # fmt: skip
    return dataclasses.replace(queue, **other)


def decided(**verdicts: str) -> dict[tuple[str, str], Decision]:
    """Standing decisions, image_label="keep"."""
    return {
        (image, label): Decision(n, str(n), "csv", image, label, 0, verdict, None, "", None, None, None, "", "")  # type: ignore[arg-type]
        for n, (cell, verdict) in enumerate(verdicts.items())
        for image, label in [tuple(cell.split("_"))]
    }


FOUR = [
    ("a", "sea", 0, 0.9, 0.9, "slip", 0.6),
    ("b", "sea", 0, 0.8, 0.8, "slip", 0.5),
    ("a", "trees", 1, 0.2, 0.2, "hard", 0.4),
    ("b", "trees", 1, 0.3, 0.3, "hard", 0.3),
]


def test_without_decisions_the_doubts_are_those_of_the_run() -> None:
    assert a_queue(FOUR).learned({}).tolist() == [0.6, 0.5, 0.4, 0.3]


def test_cells_are_found_by_their_names_and_by_filters() -> None:
    queue = a_queue(FOUR)
    assert [queue.find(*queue.name(cell)) for cell in range(4)] == [0, 1, 2, 3]
    assert (queue.find("ghost", "sea"), queue.find("a", "clouds")) == (None, None)
    assert queue.fitting(label="trees").tolist() == [False, False, True, True]
    assert queue.fitting(kind="missing").tolist() == [True, True, False, False]
    assert queue.fitting(kind="extra", images=np.array([True, False])).tolist() == [False, False, True, False]
    assert not queue.fitting(split="test").any()
    assert queue.fitting(split="train").all()


def test_a_kept_value_lowers_its_likes_and_a_changed_one_raises_them() -> None:
    queue = a_queue(FOUR)
    assert queue.learned(decided(a_sea="keep"))[1] < 0.4, "missing seas are righter than thought"
    after = queue.learned(decided(a_sea="change"))
    assert after[1] > 0.5
    assert after[2:] == pytest.approx([0.4, 0.3], abs=0.01), "an extra label says nothing of a missing one"


def test_a_skip_and_a_decision_on_another_cell_teach_nothing() -> None:
    queue = a_queue(FOUR)
    assert queue.learned(decided(a_sea="skip", ghost_sea="change", a_clouds="change")).tolist() == [0.6, 0.5, 0.4, 0.3]


def test_decisions_teach_with_more_labels_than_a_byte_counts() -> None:
    cells = [(image, f"label{k:03}", 1, 0.2, 0.2, "hard", 0.5) for k in range(300) for image in "ab"]
    queue = a_queue(cells)
    after = queue.learned(decided(a_label299="change")).reshape(300, 2)
    assert after[299, 1] > after[0, 1] > 0.5, "its own label moves most"


def test_an_image_is_as_doubtful_as_all_its_cells_together() -> None:
    """b is wrong somewhere with 1 - 0.5 * 0.6 = 0.7, a with 1 - 0.4 * 0.99 = 0.604, though a has the most doubtful cell."""
    queue = a_queue([
        ("a", "sea", 0, 0.9, 0.9, "slip", 0.6), ("b", "sea", 0, 0.9, 0.9, "slip", 0.5),
        ("b", "trees", 0, 0.9, 0.9, "slip", 0.4), ("a", "trees", 0, 0.1, 0.1, "slip", 0.01),
    ])  # fmt: skip
    worst, whole = queue.by_whole_image(np.arange(4))
    assert (worst.tolist(), whole.tolist()) == ([0, 1], pytest.approx([0.604, 0.7]))


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
    twin = "A near-duplicate carries the other value: unless they really differ, one of the two is wrong."
    assert of_sea((0, 0.85, 0.52, "twin")) == [twin, "The picture's other labels move the probability down, from 0.85 to 0.52."]
    assert of_sea((0, 0.52, 0.85, "twin"))[1] == "The picture's other labels move the probability up, from 0.52 to 0.85."
    assert of_sea((0, 0.52, 0.6, "twin")) == [twin]


def test_a_moved_label_is_shown_with_the_column_it_may_have_come_from() -> None:
    """The picture shows the sea; the CSV says desert, which fits it least, and trees."""
    cells = [
        ("a", "sea", 0, 0.9, 0.9, "moved", 0.9), ("a", "desert", 1, 0.1, 0.1, "moved", 0.9),
        ("a", "trees", 1, 0.8, 0.8, "slip", 0.1), ("a", "sunset", 0, 0.1, 0.1, "slip", 0.1),
    ]  # fmt: skip
    said = ["The CSV may have the label in the wrong column: it says desert, and the picture looks like sea."]
    queue = a_queue(cells)
    assert queue.why(0) == queue.why(1) == said
    alone = a_queue(cells[:1])  # what no run writes, but a file may say
    assert alone.why(0) == ["The model disagrees. No other picture has a probability this high."]


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


def test_of_a_label_that_was_not_learned_nobody_knows_how_many_are_wrong() -> None:
    """Forty pictures: the model tells red from the rest, and of blue it knows next to nothing and is against nine values."""
    cells = []
    for n in range(40):
        red, blue = n % 2, n // 2 % 2
        cells.append((f"i{n:02}", "red", red, 0.1 + 0.8 * red, 0.1 + 0.8 * red, "hard", 0.001))
        p = 0.55 if not blue and n < 36 and n % 4 == 0 else 0.45  # against nine of the twenty that lack blue
        cells.append((f"i{n:02}", "blue", blue, p, p, "hard", 0.002))
    queue = a_queue(cells)
    assert queue.unlearned == ("blue",)
    missing = {c.label: c for c in queue.errors({}, queue.learned({})) if c.kind == "missing"}
    assert missing["blue"].high == 9
    assert missing["red"].high < 1, "the negative control"
    said = too_little(queue.unlearned, lambda label: f"«{label}»")
    assert "too little of «blue» to tell" in said
    assert too_little(()) == ""
    assert "and 2 more" in too_little([str(n) for n in range(7)])

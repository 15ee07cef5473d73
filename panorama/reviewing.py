"""What is reviewed: a run's suspects as arrays, what decisions teach about them, what speaks against a value, how many errors there are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from panorama import suspects
from panorama.decisions import Cell, Decision
from panorama.suspects import REASONS, ErrorCount, Floats, Kind, Reason

Standing = Mapping[tuple[str, str], Decision]  # (image, label) -> the decision that holds
Positions = npt.NDArray[np.int64]
Shares = npt.NDArray[np.floating[Any]]  # in [0, 1]

_CONTEXT_MATTERS = 0.1  # from here on the picture's other labels are worth a sentence
_NEARLY_ALWAYS = 0.9
_TELLS = 1 / 6  # what disagreement must be worth (`suspects.worth`) for doubts to be counted as errors


@dataclass(frozen=True)
class Neighbour:
    """An image like another one. row: its position among the images. similarity: a cosine. labels: those the CSV gives it."""

    row: int
    name: str
    similarity: float
    near_duplicate: bool
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ReviewQueue:
    """Suspects, most doubtful first, one array element a cell; images and labels by position.

    image_of, label_of, given, probabilities (out of fold), in_context, spread, reason_of (position in REASONS), doubts: (n_cells,).
    targets, by_image (out-of-fold probabilities): (n_images, n_labels). near: for some images, by position, those most like them, nearest first.
    has_evidence: False for a run of an older version, which knows no context, spread and reason, and whose doubts only order.
    """

    fingerprint: str
    images: list[str]
    splits: list[str]
    paths: list[str]
    labels: list[str]
    targets: npt.NDArray[np.int8]
    by_image: npt.NDArray[np.float32]
    image_of: npt.NDArray[np.integer[Any]]
    label_of: npt.NDArray[np.integer[Any]]
    given: npt.NDArray[np.int8]
    probabilities: Shares
    in_context: Shares
    spread: Shares
    reason_of: npt.NDArray[np.int8]
    doubts: Shares
    near: Mapping[int, tuple[Neighbour, ...]]
    has_evidence: bool

    @cached_property
    def position(self) -> dict[str, int]:
        """The position of each image."""
        return {image: row for row, image in enumerate(self.images)}

    @cached_property
    def column(self) -> dict[str, int]:
        """The position of each label."""
        return {label: column for column, label in enumerate(self.labels)}

    @cached_property
    def cell_at(self) -> npt.NDArray[np.int32]:
        """(n_images, n_labels): the position of each cell in the queue; -1 where it has none."""
        cells = np.full((len(self.images), len(self.labels)), -1, np.int32)
        cells[self.image_of, self.label_of] = np.arange(len(self.doubts))
        return cells

    def value(self, cell: Cell) -> int | None:
        """What the CSV says of a cell by its names; None for one that it does not have."""
        row, column = self.position.get(cell[0]), self.column.get(cell[1])
        return None if row is None or column is None else int(self.targets[row, column])

    @cached_property
    def _split_number(self) -> npt.NDArray[np.int8]:
        number = {split: n for n, split in enumerate(sorted(set(self.splits)))}
        return np.array([number[split] for split in self.splits], np.int8)

    @cached_property
    def _sorted(self) -> dict[tuple[int, int], npt.NDArray[np.float32]]:
        """For each (label, value) that was asked for: the probabilities of the images whose CSV gives it, in order."""
        return {}

    def name(self, cell: int) -> Cell:
        """The image and the label of a cell."""
        return self.images[self.image_of[cell]], self.labels[self.label_of[cell]]

    def find(self, image: str, label: str) -> int | None:
        """The position of a cell by its names, or None where the queue has none of them."""
        row, column = self.position.get(image), self.column.get(label)
        cell = -1 if row is None or column is None else int(self.cell_at[row, column])
        return None if cell < 0 else cell

    # --- what is left to decide ---------------------------------------------------------------------------------------

    def decided(self, standing: Standing, *verdicts: str) -> Positions:
        """Positions of the cells of this queue that were decided in one of these ways."""
        found = (self.find(*cell) for cell, decision in standing.items() if decision.verdict in verdicts)
        return np.array([cell for cell in found if cell is not None], np.int64)

    def learned(self, standing: Standing) -> Floats:
        """(n_cells,): the doubts after what people decided. A kept value was right, a changed one wrong; a skip says nothing."""
        kept, changed = self.decided(standing, "keep"), self.decided(standing, "change")
        was_wrong = np.repeat([False, True], [len(kept), len(changed)])
        return suspects.relearned(self.doubts, self.given, self.label_of, np.r_[kept, changed], was_wrong)

    def fitting(
        self,
        *,
        label: str | None = None,
        kind: str | None = None,
        split: str | None = None,
        images: npt.NDArray[np.bool_] | None = None,
    ) -> npt.NDArray[np.bool_]:
        """(n_cells,): which cells are of this label, kind and split, and of the chosen images ((n_images,), None: all)."""
        chosen = np.ones(len(self.images), bool) if images is None else images.copy()
        if split is not None:
            chosen &= self._split_number == {s: n for n, s in enumerate(sorted(set(self.splits)))}.get(split, -1)
        fits = np.ones(len(self.doubts), bool) if chosen.all() else chosen[self.image_of]
        if label is not None:
            fits &= self.label_of == self.column[label]
        if kind is not None:
            fits &= self.given == (1 if kind == "extra" else 0)
        return fits

    def by_whole_image(self, cells: Positions) -> tuple[Positions, Floats]:
        """For each image, of these cells alone: the most doubtful one (-1: none), and P(at least one is wrong). Both (n_images,)."""
        matrix = np.zeros(self.targets.shape)
        matrix[self.image_of[cells], self.label_of[cells]] = self.doubts[cells]
        worst = np.full(len(self.images), len(self.doubts), np.int64)
        np.minimum.at(worst, self.image_of[cells], cells)  # the queue begins with the most doubtful
        return np.where(worst < len(self.doubts), worst, -1), suspects.whole_image(matrix)

    def verdict(self, standing: Standing, image: int, label: int) -> str:
        """What was decided on a cell, in a word; empty when nothing was."""
        decision = standing.get((self.images[image], self.labels[label]))
        return {"keep": "keep", "change": "change", "skip": "skipped"}[decision.verdict] if decision else ""

    # --- what speaks against a value ----------------------------------------------------------------------------------

    def reason(self, cell: int) -> Reason:
        """Which of the sources doubts the cell most."""
        return REASONS[int(self.reason_of[cell])]

    def neighbours(self, image: int) -> tuple[Neighbour, ...]:
        """Up to five images most like this one, nearest first; empty where the run kept none."""
        return self.near.get(image, ())

    def disagrees(self, cell: int, neighbour: Neighbour) -> bool:
        """Whether the neighbour has the other value for the cell's label."""
        return bool(self.targets[neighbour.row, self.label_of[cell]] != self.given[cell])

    def why(self, cell: int) -> list[str]:
        """Plain sentences: what moved the doubt of a cell most, then what the picture's other labels did to the probability."""
        reason, p, in_context = self.reason(cell), float(self.probabilities[cell]), float(self.in_context[cell])
        against = ((p + in_context) / 2 > 0.5) != bool(self.given[cell])
        if reason == "twin":
            said = ["A near-duplicate carries the other value: unless they really differ, one of the two is wrong."]
        elif reason == "moved" and self.targets[self.image_of[cell]].min() < self.targets[self.image_of[cell]].max():
            said = [self._moved(cell)]
        elif not against:
            said = ["The model leans to the side of the CSV: little speaks against this value."]
        else:
            said = self._against(cell, reason)
        if abs(in_context - p) > _CONTEXT_MATTERS:
            way = "up" if in_context > p else "down"
            said.append(f"The picture's other labels move the probability {way}, from {p:.2f} to {in_context:.2f}.")
        return said

    def _moved(self, cell: int) -> str:
        """Of the labels with the other value, the one that fits the picture least is the likeliest to have changed places with this one."""
        image, label, given = int(self.image_of[cell]), int(self.label_of[cell]), int(self.given[cell])
        fits = self.by_image[image] if given else -self.by_image[image]
        others = np.flatnonzero(self.targets[image] == 1 - given)
        other = self.labels[int(others[np.argmax(fits[others])])]
        written, seen = (self.labels[label], other) if given else (other, self.labels[label])
        return f"The CSV may have the label in the wrong column: it says {written}, and the picture looks like {seen}."

    def _against(self, cell: int, reason: Reason) -> list[str]:
        """The model says the other value: how often does the CSV say it too, of pictures as clear as this one or clearer?"""
        others, agree = self._as_clear(cell)
        carry, low = ("lack", "low") if self.given[cell] else ("carry", "high")
        if not others:
            return [f"The model disagrees. No other picture has a probability this {low}."]
        if others == 1:
            does = {"carry": "carries", "lack": "lacks"}[carry] if agree else f"does not {carry}"
            counted = f"The only other picture with a probability this {low} {does} it."
        else:
            counted = f"Of the {others:,} other pictures with a probability this {low}, {agree:,} {carry} it."
        if reason == "hard" and agree < _NEARLY_ALWAYS * others:
            return ["The model disagrees, but not on a plain picture.", counted]
        how_often = "nearly always" if agree >= _NEARLY_ALWAYS * others else "mostly" if 2 * agree > others else "often"
        said = [f"Pictures this clear {how_often} {carry} the label in this CSV.", counted]
        if reason == "hard" and self.has_evidence:  # else the rates estimated from the CSV would have doubted it more
            said.append("Whether it is an error or a hard picture, only a look can tell.")
        return said

    def _as_clear(self, cell: int) -> tuple[int, int]:
        """The other pictures whose probability is at least as far from the CSV's value; how many of them carry the other value."""
        given, label = int(self.given[cell]), int(self.label_of[cell])
        p = self.by_image[self.image_of[cell], label]
        same, other = (self._as_far(label, value, p, up=not given) for value in (given, 1 - given))
        return same - 1 + other, other

    def _as_far(self, label: int, value: int, p: float, *, up: bool) -> int:
        """How many images with this value have a probability of at least p (up) or at most p. Sorted once a label: asked for every card."""
        if (label, value) not in self._sorted:
            self._sorted[label, value] = np.sort(self.by_image[self.targets[:, label] == value, label])
        ordered = self._sorted[label, value]
        return len(ordered) - int(np.searchsorted(ordered, p, "left")) if up else int(np.searchsorted(ordered, p, "right"))

    # --- how many errors there are ------------------------------------------------------------------------------------

    @cached_property
    def unlearned(self) -> tuple[str, ...]:
        """The labels of which the model has learned too little for its doubts to be counted; none where the run does not tell."""
        if not self.has_evidence:
            return ()
        scores = np.zeros(self.targets.shape, np.float32)
        scores[self.image_of, self.label_of] = self.in_context
        told = suspects.worth(self.targets, scores) >= _TELLS
        return tuple(label for label, enough in zip(self.labels, told, strict=True) if not enough)

    @cached_property
    def _disputed(self) -> dict[tuple[str, Kind], int]:
        """How many values of each unlearned label and kind the model is against; counted once, for decisions do not change it."""
        against = ((self.probabilities + self.in_context) / 2 > 0.5) != (self.given == 1)
        missing, extra = (
            np.bincount(self.label_of[against & (self.given == value)], minlength=len(self.labels)).tolist() for value in (0, 1)
        )
        counts: dict[tuple[str, Kind], int] = {}
        for label in self.unlearned:
            counts[label, "missing"], counts[label, "extra"] = missing[self.column[label]], extra[self.column[label]]
        return counts

    def errors(self, standing: Standing, doubts: Shares) -> list[ErrorCount]:
        """For each label, missing then extra: the errors that were in the CSV, those found counted, those waiting estimated.

        Where a label was not learned, nobody knows: the range reaches up to all values that the model is against.
        doubts: (n_cells,) from `learned`.
        """
        still_open = np.zeros(self.targets.shape, np.float32)
        still_open[self.image_of, self.label_of] = doubts
        seen = self.decided(standing, "keep", "change")
        still_open[self.image_of[seen], self.label_of[seen]] = 0.0
        found = self.found(standing)
        reason = np.zeros(self.targets.shape, np.int8)
        reason[self.image_of, self.label_of] = self.reason_of
        counts = suspects.count_errors(self.labels, self.targets, still_open, reason)
        known = [found.get((c.label, c.kind), 0) for c in counts]
        return [
            ErrorCount(
                c.label, c.kind, c.expected + n, c.low + n, max(c.high + n, float(self._disputed.get((c.label, c.kind), 0)))
            )
            for c, n in zip(counts, known, strict=True)
        ]

    def found(self, standing: Standing) -> dict[tuple[str, Kind], int]:
        """How many cells of each label and kind were changed."""
        counted: dict[tuple[str, Kind], int] = {}
        for cell in self.decided(standing, "change"):
            key: tuple[str, Kind] = (self.labels[self.label_of[cell]], "extra" if self.given[cell] else "missing")
            counted[key] = counted.get(key, 0) + 1
        return counted


def too_little(labels: Sequence[str], named: Callable[[str], str] = str) -> str:
    """What to say of labels that were not learned; "" where there are none. named: how a label is written there."""
    if not labels:
        return ""
    some = ", ".join(named(label) for label in labels[:5]) + (f" and {len(labels) - 5:,} more" if len(labels) > 5 else "")
    return (
        f"The model has learned too little of {some} to tell wrong values from its own mistakes: there its doubts only order the cells, and how many are wrong "
        "nobody knows. More pictures, a longer training or decisions would tell."
    )


def in_all(counts: list[ErrorCount]) -> tuple[float, float, float]:
    """(expected, low, high) of several counts together.

    Their ends add up, not their squares: how many errors stand on hard pictures is unsure for all labels alike.
    """
    return sum(c.expected for c in counts), sum(c.low for c in counts), sum(c.high for c in counts)

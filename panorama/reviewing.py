"""What the review page works on: a run's suspects as arrays, the next ones to decide, what speaks against them, the files to take home."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from panorama import suspects
from panorama.datasets import SheetPart
from panorama.decisions import Decision
from panorama.errors import PanoramaError
from panorama.runs import Run, read_rows
from panorama.suspects import REASONS, ErrorCount, Floats, Kind, Reason

Standing = Mapping[tuple[str, str], Decision]  # (image, label) -> the decision that holds
Positions = npt.NDArray[np.int64]

_CONTEXT_MATTERS = 0.1  # from here on the picture's other labels are worth a sentence
_NEARLY_ALWAYS = 0.9


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

    image_of, label_of, given, probabilities, in_context, spread, reason_of (position in REASONS), doubts: (n_cells,). targets, by_image
    (out-of-fold probabilities): (n_images, n_labels). near: for some images, by position, those most like them, nearest first.
    has_evidence: False for a run of an older version, which knows no context, spread and reason, and whose doubts only order.
    """

    fingerprint: str
    images: list[str]
    splits: list[str]
    paths: list[str]
    labels: list[str]
    targets: npt.NDArray[np.int8]
    by_image: npt.NDArray[np.float32]
    image_of: Positions
    label_of: Positions
    given: npt.NDArray[np.int8]
    probabilities: Floats
    in_context: Floats
    spread: Floats
    reason_of: npt.NDArray[np.int8]
    doubts: Floats
    near: Mapping[int, tuple[Neighbour, ...]]
    has_evidence: bool
    parts: tuple[SheetPart, ...]

    @cached_property
    def _position(self) -> dict[str, int]:
        return {image: row for row, image in enumerate(self.images)}

    @cached_property
    def _column(self) -> dict[str, int]:
        return {label: column for column, label in enumerate(self.labels)}

    @cached_property
    def _cell_at(self) -> Positions:
        """(n_images, n_labels): the position of each cell in the queue; -1 where it has none."""
        cells = np.full((len(self.images), len(self.labels)), -1, np.int64)
        cells[self.image_of, self.label_of] = np.arange(len(self.doubts))
        return cells

    @cached_property
    def _split_of(self) -> npt.NDArray[np.str_]:
        return np.array(self.splits, str)[self.image_of]

    # --- what is left to decide ---------------------------------------------------------------------------------------

    def decided(self, standing: Standing, *verdicts: str) -> Positions:
        """Positions of the cells of this queue that were decided in one of these ways."""
        found = (
            self._cell_at[self._position[image], self._column[label]]
            for (image, label), decision in standing.items()
            if decision.verdict in verdicts and image in self._position and label in self._column
        )
        cells = np.fromiter(found, np.int64)
        return cells[cells >= 0]

    def learned(self, standing: Standing) -> Floats:
        """(n_cells,): the doubts after what people decided. A kept value was right, a changed one wrong; a skip says nothing."""
        kept, changed = self.decided(standing, "keep"), self.decided(standing, "change")
        was_wrong = np.repeat([False, True], [len(kept), len(changed)])
        given = self.given.astype(np.int64)  # it is made an index, for which int8 is too small
        return suspects.relearned(self.doubts, given, self.label_of, np.r_[kept, changed], was_wrong)

    def waiting(
        self,
        standing: Standing,
        doubts: Floats,
        *,
        label: str | None = None,
        kind: str | None = None,
        split: str | None = None,
        by_image: bool = False,
    ) -> Positions:
        """Positions of the undecided cells that fit the filter, most doubtful first by `doubts` (from `learned`); ties as in the run.

        by_image: all cells of an image together, images by how likely any such cell of theirs is wrong.
        """
        fits = np.ones(len(self.doubts), bool)
        if label is not None:
            fits &= self.label_of == self._column[label]
        if kind is not None:
            fits &= self.given == (1 if kind == "extra" else 0)
        if split is not None:
            fits &= self._split_of == split
        still_open = fits.copy()
        still_open[self.decided(standing, "keep", "change", "skip")] = False
        cells = np.flatnonzero(still_open)
        cells = cells[np.argsort(-doubts[cells], kind="stable")]
        if by_image:
            # By the doubts of the run, which no decision moves: a picture is finished before the next one comes.
            _, whole = self.by_whole_image(np.flatnonzero(fits))
            place = np.empty(len(whole), np.int64)
            place[np.argsort(-whole, kind="stable")] = np.arange(len(whole))
            cells = cells[np.argsort(place[self.image_of[cells]], kind="stable")]
        return cells

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
        """Which of the three sources doubts the cell most."""
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
            said = ["A near-duplicate carries the other value: one of the two is wrong."]
        elif not against:
            said = ["The model leans to the side of the CSV: little speaks against this value."]
        else:
            said = self._against(cell, reason)
        if abs(in_context - p) > _CONTEXT_MATTERS:
            way = "up" if in_context > p else "down"
            said.append(f"The picture's other labels move the probability {way}, from {p:.2f} to {in_context:.2f}.")
        return said

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
        image, label = self.image_of[cell], self.label_of[cell]
        p = self.by_image[:, label]
        chosen = p <= p[image] if self.given[cell] else p >= p[image]
        chosen[image] = False
        return int(chosen.sum()), int((self.targets[chosen, label] != self.given[cell]).sum())

    # --- how many errors there are ------------------------------------------------------------------------------------

    def errors(self, standing: Standing, doubts: Floats) -> list[ErrorCount]:
        """For each label, missing then extra: the errors that were in the CSV, those found counted, those waiting estimated.

        doubts: (n_cells,) from `learned`.
        """
        still_open = np.zeros(self.targets.shape)
        still_open[self.image_of, self.label_of] = doubts
        seen = self.decided(standing, "keep", "change")
        still_open[self.image_of[seen], self.label_of[seen]] = 0.0
        found = self.found(standing)
        reason = np.zeros(self.targets.shape, np.int8)
        reason[self.image_of, self.label_of] = self.reason_of
        counts = suspects.count_errors(self.labels, self.targets, still_open, reason)
        known = [found.get((c.label, c.kind), 0) for c in counts]
        return [ErrorCount(c.label, c.kind, c.expected + n, c.low + n, c.high + n) for c, n in zip(counts, known, strict=True)]

    def found(self, standing: Standing) -> dict[tuple[str, Kind], int]:
        """How many cells of each label and kind were changed."""
        counted: dict[tuple[str, Kind], int] = {}
        for cell in self.decided(standing, "change"):
            key: tuple[str, Kind] = (self.labels[self.label_of[cell]], "extra" if self.given[cell] else "missing")
            counted[key] = counted.get(key, 0) + 1
        return counted


def in_all(counts: list[ErrorCount]) -> tuple[float, float, float]:
    """(expected, low, high) of several counts together.

    Their ends add up, not their squares: how many errors stand on hard pictures is unsure for all labels alike.
    """
    return sum(c.expected for c in counts), sum(c.low for c in counts), sum(c.high for c in counts)


# --- reading a run ----------------------------------------------------------------------------------------------------


def open_queue(run: Run) -> ReviewQueue:
    """The review queue of a complete run. Raises PanoramaError when its files do not fit together."""
    images, splits, paths = run.images()
    found = run.probabilities("out_of_fold.csv")
    if found is None:
        raise PanoramaError(f"Run {run.id} has no out-of-fold probabilities. Resume it, or start a new one.")
    labels, by_image = found
    targets = run.targets(labels)
    row, column = ({name: position for position, name in enumerate(names)} for names in (images, labels))
    columns = _columns(run, "suspects.csv")
    try:
        if not set(columns["given"]) <= {"0", "1"}:
            raise ValueError("given values are 0 or 1")
        return ReviewQueue(
            run.fingerprint, images, splits, paths, labels, targets, by_image,
            np.array([row[image] for image in columns["image"]], np.int64),
            np.array([column[label] for label in columns["label"]], np.int64),
            np.array(columns["given"], np.int8),
            *_evidence(columns),
            _neighbours(run, row, labels, targets), "reason" in columns, run.sheets(),
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        raise PanoramaError(
            f"{run.folder / 'suspects.csv'}: does not fit the run ({error}). Resume the run, or start a new one."
        ) from error


def _columns(run: Run, file: str) -> dict[str, list[str]]:
    header, rows = read_rows(run.folder / file)
    return {name: [row[position] for row in rows] for position, name in enumerate(header)}


def _evidence(columns: Mapping[str, list[str]]) -> tuple[Floats, Floats, Floats, npt.NDArray[np.int8], Floats]:
    """probability, in_context, spread, position of the reason and doubt; runs of older versions know no context, spread and reason."""
    probability, doubt = _shares(columns["probability"]), _shares(columns["doubt"])
    in_context = _shares(columns["in_context"]) if "in_context" in columns else probability
    spread = _shares(columns["spread"]) if "spread" in columns else np.zeros(len(doubt))
    reasons = columns.get("reason", ["hard"] * len(doubt))
    position: dict[str, int] = {reason: number for number, reason in enumerate(REASONS)}
    return probability, in_context, spread, np.array([position[reason] for reason in reasons], np.int8), doubt


def _shares(values: list[str]) -> Floats:
    shares = np.array(values, np.float64)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError("probabilities and doubts go from 0 to 1")
    return shares


def _neighbours(
    run: Run, row: Mapping[str, int], labels: list[str], targets: npt.NDArray[np.int8]
) -> dict[int, tuple[Neighbour, ...]]:
    if not run.has("neighbours.csv"):
        return {}
    path = run.folder / "neighbours.csv"
    columns = _columns(run, path.name)
    near: dict[int, tuple[Neighbour, ...]] = {}
    try:
        for image, name, similarity, near_duplicate in zip(
            *(columns[wanted] for wanted in ("image", "neighbour", "similarity", "near_duplicate")), strict=True
        ):
            other = row[name]
            carried = tuple(labels[k] for k in np.flatnonzero(targets[other]))
            near[row[image]] = (
                *near.get(row[image], ()), Neighbour(other, name, float(similarity), near_duplicate == "1", carried)
            )  # fmt: skip
    except (KeyError, ValueError) as error:
        raise PanoramaError(f"{path}: does not fit the run ({error}). Resume the run, or start a new one.") from error
    return near


# --- to take home -------------------------------------------------------------------------------------------------------


def bundle(contents: Mapping[str, bytes], log: bytes) -> bytes:
    """A zip of the corrected CSVs and the change log; the same input gives the same bytes."""
    buffer = io.BytesIO()
    log_name = "changes.csv"
    while log_name.casefold() in {name.casefold() for name in contents}:  # two files of one name: only one would be unpacked
        log_name = f"panorama_{log_name}"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*contents.items(), (log_name, log)]:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()

"""What a colleague should know of a data set, of the model and of what people corrected: gathered into values; nothing is drawn here."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panorama import metrics
from panorama.csvscan import counted
from panorama.decisions import Agreement, ControlCheck, Decision, Fold, agreements, control_check
from panorama.effect import near_duplicates, seconds_of
from panorama.errors import PanoramaError
from panorama.events import duration
from panorama.metrics import Calibration
from panorama.reviewing import ReviewQueue, in_all
from panorama.runs import Run
from panorama.suspects import ErrorCount

SPLITS = ("train", "validation", "test")
MEASURED_ON = {
    "test": "on the test split, which decided nothing about the model",
    "out of fold": "on all images, each judged by models that never saw it or a near-duplicate",
}
_FEW = 50  # images: a share measured on them is unsure by more than a tenth either way
_MOST_POINTS = 160  # of a curve: more than a screen shows
_SURE = 0.5  # a doubt from which on the run itself held the value for wrong


# --- the data ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Health:
    """positives: (n_labels, 3) images that carry the label, by SPLITS. together: (n_labels, n_labels) images that carry both.

    errors: for each label, missing then extra; None where the run does not estimate them. found: errors that people found so far.
    in_all: (expected, low, high). unlearned: the labels of which the model has learned too little for that.
    """

    images: tuple[int, int, int]
    labels: tuple[str, ...]
    positives: npt.NDArray[np.int64]
    together: npt.NDArray[np.int64]
    left_out: int
    remarks: tuple[str, ...]
    n_near_duplicates: int
    n_groups: int
    n_odd_groups: int
    errors: tuple[ErrorCount, ...] | None
    in_all: tuple[float, float, float] | None
    found: Mapping[tuple[str, str], int]
    unlearned: tuple[str, ...]

    @property
    def knows_none(self) -> bool:
        """Whether no label was learned well enough to count its errors."""
        return len(self.unlearned) == len(self.labels)

    @property
    def duplicates(self) -> str:
        """What is known of near-duplicates, in a sentence."""
        if not self.n_groups:
            return (
                "No near-duplicates among the images that the run compared: those of the first suspects and their five nearest."
            )
        return (
            f"{self.n_near_duplicates:,} images form {counted(self.n_groups, 'group')} of near-duplicates by their pixels or by what the model sees; "
            f"{self.n_odd_groups:,} of the groups {'disagrees' if self.n_odd_groups == 1 else 'disagree'} in their labels. "
            "The run compared the images of its first suspects with their five nearest; the dataset page compares the pixels of all images, so its count may differ."
        )


@dataclass(frozen=True)
class Data:
    """What never changes of a complete run: its images, labels and answers, and the curves of these. models, folds: (n_images, n_labels).

    measured: metrics.json.
    """

    images: list[str]
    splits: npt.NDArray[np.str_]
    paths: list[str]
    labels: list[str]
    targets: npt.NDArray[np.int8]
    models: npt.NDArray[np.float32]
    folds: npt.NDArray[np.float32] | None
    groups: npt.NDArray[np.int64]
    measured: Mapping[str, Any]

    @cached_property
    def test(self) -> "Curves":
        """On the test split, by the model."""
        return curves(self, "test")

    @cached_property
    def out_of_fold(self) -> "Curves":
        """On all images, out of fold."""
        return curves(self, "out of fold")


def read(run: Run) -> Data:
    """Raises PanoramaError when the run is not complete or damaged."""
    measured = run.metrics()
    if measured is None:
        raise PanoramaError(f"The metrics of {run.id} cannot be read. Let it finish, or start a new run.")
    found = run.probabilities("predictions.csv")
    if found is None:
        raise PanoramaError(f"{run.id} has no predictions yet. Let it finish first.")
    labels, models = found
    images, splits, paths = run.images()
    folds = run.probabilities("out_of_fold.csv")
    return Data(
        images, np.array(splits, str), paths, labels, run.targets(labels), models, folds[1] if folds and folds[0] == labels else None,
        near_duplicates(run, images), measured,
    )  # fmt: skip


def health(run: Run, data: Data, queue: ReviewQueue | None, fold: Fold) -> Health:
    """Counts, co-occurrence, duplicates, what could not be read, and errors as estimated and as found."""
    y = data.targets.astype(np.float32)  # float32 multiplies fast, and counts to 16 million exactly
    positives = np.stack([y[data.splits == split].sum(0) for split in SPLITS], 1).astype(np.int64)
    left_out, remarks = run.problems()
    n_images, n_groups, n_odd = _duplicates(data)
    errors: tuple[ErrorCount, ...] | None = None
    found: dict[tuple[str, str], int] = {}
    if queue is not None and queue.has_evidence:
        errors = tuple(queue.errors(fold.standing, queue.learned(fold.standing)))
        found |= {(label, kind): n for (label, kind), n in queue.found(fold.standing).items()}
    n_in = tuple(int((data.splits == split).sum()) for split in SPLITS)
    return Health(
        (n_in[0], n_in[1], n_in[2]), tuple(data.labels), positives, (y.T @ y).astype(np.int64), left_out, tuple(remarks),
        n_images, n_groups, n_odd, errors, in_all(list(errors)) if errors is not None else None, found,
        queue.unlearned if queue is not None else (),
    )  # fmt: skip


def _duplicates(data: Data) -> tuple[int, int, int]:
    """Images in groups of near-duplicates, such groups, and those whose labels disagree."""
    names, group_of, sizes = np.unique(data.groups, return_inverse=True, return_counts=True)
    if not len(names):
        return 0, 0, 0
    shape = (len(names), len(data.labels))
    low, high = np.ones(shape, np.int8), np.zeros(shape, np.int8)
    np.minimum.at(low, group_of, data.targets)
    np.maximum.at(high, group_of, data.targets)
    several = sizes > 1
    return int(sizes[several].sum()), int(several.sum()), int(((low != high).any(1) & several).sum())


# --- the model ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelCurve:
    """How one label is told. recall, precision: thinned for drawing; None without a positive. At the threshold from validation: the point.

    point: (recall, precision), or None where nothing is predicted there.
    """

    label: str
    images: int
    positives: int
    average_precision: float | None
    recall: npt.NDArray[np.float64] | None
    precision: npt.NDArray[np.float64] | None
    threshold: float | None
    point: tuple[float, float] | None
    calibration: Calibration | None


@dataclass(frozen=True)
class Curves:
    """Precision-recall curves and calibration of every label, and of all cells together, on the images that `measured_on` says."""

    measured_on: str
    images: int
    labels: tuple[LabelCurve, ...]
    calibration: Calibration | None


def curves(data: Data, measured_on: str) -> Curves:
    """measured_on: a key of MEASURED_ON; without images everything is None."""
    thresholds = data.measured["thresholds_from_validation"]
    if measured_on == "test":
        chosen = data.splits == "test"
        y, p = data.targets[chosen], data.models[chosen]
    elif data.folds is not None:
        y, p = data.targets, data.folds
    else:
        y, p = data.targets[:0], data.models[:0]
    each = tuple(_curve(label, y[:, k], p[:, k], thresholds.get(label)) for k, label in enumerate(data.labels))
    few = "; so few that every figure may be far off" if 0 < len(y) < _FEW else ""
    return Curves(f"{counted(len(y), 'image')}, {MEASURED_ON[measured_on]}{few}", len(y), each, metrics.calibration(y, p))


def _curve(label: str, y: npt.NDArray[np.int8], p: npt.NDArray[np.float32], threshold: float | None) -> LabelCurve:
    found = metrics.precision_recall_curve(y, p)
    point = None
    if threshold is not None and len(y):
        at = metrics.label_metrics(y, p, threshold)
        point = (at["recall"], at["precision"]) if at["precision"] is not None and at["recall"] is not None else None
    precision, recall = (_thinned(found[1], values) for values in found[:2]) if found else (None, None)
    return LabelCurve(
        label, len(y), int(y.sum()), metrics.average_precision(y, p), recall, precision, threshold, point, metrics.calibration(y, p)
    )  # fmt: skip


def _thinned(recall: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """About the points that lie evenly along the recall, both ends among them."""
    if len(recall) <= _MOST_POINTS:
        return values
    wanted = np.linspace(recall[-1], recall[0], _MOST_POINTS)
    at = np.searchsorted(recall[::-1], wanted)
    kept = np.unique(np.r_[0, len(recall) - 1 - np.minimum(at, len(recall) - 1), len(recall) - 1])
    thinned: npt.NDArray[np.float64] = values[kept]
    return thinned


# --- the people --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correction:
    """A changed cell with its picture. probability: out of fold, of the label; None where the run has none. surprise: the run had not suspected it."""

    image: str
    path: str
    label: str
    given: int
    reviewer: str
    note: str
    at: str
    probability: float | None
    doubt: float | None
    surprise: bool

    @property
    def words(self) -> str:
        """From what to what."""
        return f"{self.label}: {'no → yes' if self.given == 0 else 'yes → no'}"


@dataclass(frozen=True)
class People:
    """What was decided. corrected: (label, kind) -> cells. control: of the unsuspected cells mixed in; its extrapolation is not used here."""

    changed: int
    kept: int
    skipped: int
    conflicts: int
    reviewers: tuple[str, ...]
    corrected: Mapping[tuple[str, str], int]
    agreements: tuple[Agreement, ...]
    control: ControlCheck | None


def people(fold: Fold) -> People:
    """What stands, who agrees with whom, and what the controls say."""
    verdicts = Counter(d.verdict for d in fold.standing.values())
    kinds = Counter((d.label, "missing" if d.given == 0 else "extra") for d in fold.standing.values() if d.verdict == "change")
    return People(
        verdicts["change"], verdicts["keep"], verdicts["skip"], len(fold.conflicts), tuple(fold.reviewers()), dict(kinds.most_common()),
        tuple(agreements(fold)), control_check(fold.rows(), 0),
    )  # fmt: skip


def instructive(data: Data, decisions: Sequence[Decision], most: int) -> list[Correction]:
    """Up to `most` corrections to learn from: the surest errors, label by label in turn, and up to a third that the run had not suspected."""
    row, column = ({name: at for at, name in enumerate(names)} for names in (data.images, data.labels))
    changes = [d for d in decisions if d.verdict == "change" and d.image in row]
    surest = sorted(changes, key=lambda d: (-(d.doubt or 0.0), d.id))
    surprising = [d for d in reversed(surest) if d.doubt is not None and d.doubt < _SURE][: most // 3]
    of_kind: dict[tuple[str, int], list[Decision]] = defaultdict(list)
    for d in surest:
        if d not in surprising:
            of_kind[d.label, d.given].append(d)
    in_turn = [d for turn in zip_longest(*of_kind.values()) for d in turn if d is not None][: most - len(surprising)]
    return [
        Correction(
            d.image, data.paths[row[d.image]], d.label, d.given, d.reviewer, d.note, d.at[:10],
            _probability(data, row[d.image], column.get(d.label)), d.doubt, d in surprising,
        )
        for d in [*in_turn, *surprising]
    ]  # fmt: skip


def _probability(data: Data, row: int, column: int | None) -> float | None:
    return None if data.folds is None or column is None else float(data.folds[row, column])


# --- all of it ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """Everything that the page and the file show. measured: metrics.json. losses: (epoch, training, validation), counted through both phases.

    facts: the run in words, (name, value).
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    health: Health
    measured: Mapping[str, Any]
    losses: tuple[tuple[int, float, float], ...]
    test: Curves
    out_of_fold: Curves
    people: People
    corrections: tuple[Correction, ...]


def gather(run: Run, data: Data, queue: ReviewQueue | None, fold: Fold, *, most_pictures: int = 36) -> Report:
    """The report of a complete run as it stands."""
    losses = tuple((n, e.train_loss, e.validation_loss) for n, e in enumerate(run.history().epochs, 1))
    return Report(
        run.source.name, facts(run, data.measured), health(run, data, queue, fold), data.measured, losses, data.test, data.out_of_fold,
        people(fold), tuple(instructive(data, list(fold.standing.values()), most_pictures)),
    )  # fmt: skip


def facts(run: Run, measured: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """How the model was made, for a colleague who would do it again."""
    weights = {"none": "random weights", "imagenet": "ImageNet weights", "starter": "starter weights"}.get(
        run.config.weights, Path(run.config.weights).name
    )
    best, corrects = measured["best"], run.corrects
    found = [
        ("data set", run.source.name),
        (
            "labels of",
            f"run {corrects.run}, corrected in {counted(corrects.cells, 'cell')}" if corrects else "the CSV as it came",
        ),
        (
            "model",
            f"{run.config.backbone}, from {weights}, pictures of {run.config.image_size} pixels a side, seed {run.config.seed}",
        ),
        ("kept model", f"{best['epoch']} of {best['phase']}, by validation loss" if best else "not known"),
        ("trained", f"{run.created:%d %b %Y, %H:%M} UTC, in {duration(seconds_of(run))}"),
        ("run", run.id),
    ]
    return tuple(found)


def figure(value: float | None) -> str:
    """A number for people; None is what could not be measured."""
    return "not measurable" if value is None else f"{value:.3f}"

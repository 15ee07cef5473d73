"""How good predictions are, from arrays: targets (n_images, n_labels) of 0/1, probabilities of the same shape in [0, 1].

What cannot be measured is None, never NaN and never a silent 0: a label without positives has no average precision,
precision without a prediction has no value, and a macro average is over the labels that could be measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Targets = npt.NDArray[np.int8]
Probabilities = npt.NDArray[np.floating[Any]]
Curve = npt.NDArray[np.float64]


def average_precision(target: npt.NDArray[np.int8], probability: npt.NDArray[np.floating[Any]]) -> float | None:
    """Area under the precision-recall steps, sum of (R_k - R_{k-1}) P_k over distinct probabilities, in [0, 1].

    As scikit-learn's `average_precision_score`: ties count together. None where `target` has no positive.
    """
    n_positives = int(target.sum())
    if n_positives == 0:
        return None
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum(target[order])
    last_of_tie = np.r_[np.flatnonzero(np.diff(probability[order])), len(order) - 1]
    precision = hits[last_of_tie] / (last_of_tie + 1)
    recall_gain = np.diff(np.r_[0, hits[last_of_tie]]) / n_positives
    return float((precision * recall_gain).sum())


def mean_average_precision(targets: Targets, probabilities: Probabilities) -> float | None:
    """Macro mean of `average_precision` over the labels that have a positive; None where none has."""
    return _mean([average_precision(targets[:, k], probabilities[:, k]) for k in range(targets.shape[1])])


def binary_cross_entropy(targets: Targets, probabilities: Probabilities) -> float:
    """Mean over all cells of -log of the probability given to the target, in nats; probabilities clipped to 1e-7."""
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.where(targets == 1, np.log(p), np.log(1 - p)).mean())


def label_metrics(target: npt.NDArray[np.int8], probability: npt.NDArray[np.floating[Any]], threshold: float) -> dict[str, Any]:
    """One label's counts, average precision, and precision, recall and F1 of `probability > threshold`."""
    predicted = probability > threshold
    positives, predictions = int(target.sum()), int(predicted.sum())
    hits = int((predicted & (target == 1)).sum())
    return {
        "positives": positives,
        "predicted": predictions,
        "average_precision": average_precision(target, probability),
        "precision": hits / predictions if predictions else None,
        "recall": hits / positives if positives else None,
        "f1": 2 * hits / (positives + predictions) if positives else None,
    }


def measure(labels: Sequence[str], targets: Targets, probabilities: Probabilities, threshold: float = 0.5) -> dict[str, Any]:
    """All metrics of one split as JSON values.

    Keys: images, threshold, macro {average_precision, precision, recall, f1}, subset_accuracy (share of images with every
    label right), hamming_loss (share of wrong cells), labels {label: label_metrics}. None where there is nothing to measure.
    """
    per_label = {label: label_metrics(targets[:, k], probabilities[:, k], threshold) for k, label in enumerate(labels)}
    wrong = (probabilities > threshold) != (targets == 1)
    return {
        "images": len(targets),
        "threshold": threshold,
        "macro": {
            name: _mean([values[name] for values in per_label.values()])
            for name in ("average_precision", "precision", "recall", "f1")
        },
        "subset_accuracy": float(1 - wrong.any(1).mean()) if len(targets) else None,
        "hamming_loss": float(wrong.mean()) if wrong.size else None,
        "labels": per_label,
    }


def precision_recall_curve(
    target: npt.NDArray[np.int8], probability: npt.NDArray[np.floating[Any]]
) -> tuple[Curve, Curve, Curve] | None:
    """(precision, recall, threshold) of `probability >= threshold` for each distinct probability, recall falling.

    As scikit-learn's: precision and recall end with one point more, (1, 0), that has no threshold. None without positives.
    """
    n_positives = int(target.sum())
    if n_positives == 0:
        return None
    order = np.argsort(-probability, kind="stable")
    p = probability[order].astype(np.float64)
    last_of_tie = np.r_[np.flatnonzero(np.diff(p)), len(p) - 1][::-1]
    hits = np.cumsum(target[order], dtype=np.int64)[last_of_tie]
    return np.r_[hits / (last_of_tie + 1), 1.0], np.r_[hits / n_positives, 0.0], p[last_of_tie]


@dataclass(frozen=True)
class Bin:
    """The cells whose probability lies between low and high. said: their mean probability; carried: the share that carry the label."""

    low: float
    high: float
    cells: int
    said: float
    carried: float


@dataclass(frozen=True)
class Calibration:
    """bins: those that hold cells, by probability. error: the expected calibration error, in [0, 1]."""

    bins: tuple[Bin, ...]
    error: float


def calibration(targets: Targets, probabilities: Probabilities, n_bins: int = 10) -> Calibration | None:
    """How far probabilities can be read as shares: equal-width bins over all cells given, of any shape; None without cells.

    The error is the mean over cells of |said - carried| of their bin (Naeini, Cooper and Hauskrecht 2015), here of the probability
    that a label is there, not of the class that is predicted.
    """
    target, p = targets.ravel(), probabilities.ravel().astype(np.float64)
    if not len(p):
        return None
    at = np.minimum((p * n_bins).astype(np.int64), n_bins - 1)
    cells = np.bincount(at, minlength=n_bins)
    said, carried = np.bincount(at, p, n_bins), np.bincount(at, target, n_bins)
    bins = tuple(
        Bin(b / n_bins, (b + 1) / n_bins, int(cells[b]), float(said[b] / cells[b]), float(carried[b] / cells[b]))
        for b in np.flatnonzero(cells)
    )
    return Calibration(bins, float(np.abs(said - carried).sum() / len(p)))


def best_threshold(target: npt.NDArray[np.int8], probability: npt.NDArray[np.floating[Any]]) -> float | None:
    """The threshold with the highest F1 of `probability > threshold`, halfway between two probabilities; None without positives."""
    if not target.any():
        return None
    order = np.argsort(-probability, kind="stable")
    p = probability[order].astype(np.float64)
    f1 = 2 * np.cumsum(target[order]) / (np.arange(1, len(p) + 1) + target.sum())
    cuts = np.flatnonzero(np.r_[np.diff(p) != 0, True])
    best = int(cuts[f1[cuts].argmax()])
    return float((p[best] + (p[best + 1] if best + 1 < len(p) else 0.0)) / 2)


@dataclass(frozen=True)
class Scaling:
    """Log-odds become slope * log-odds + shift. n_cells: on how many it was fitted."""

    slope: float
    shift: float
    n_cells: int

    def __call__(self, probabilities: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """The probabilities, any shape, calibrated; the order of each label's stays."""
        p = np.clip(np.asarray(probabilities, np.float64), 1e-6, 1 - 1e-6)
        scaled: npt.NDArray[np.float64] = 1 / (1 + np.exp(-(self.slope * np.log(p / (1 - p)) + self.shift)))
        return scaled


def platt_scaling(targets: Targets, probabilities: Probabilities) -> Scaling | None:
    """Logistic regression of the truth on the log-odds, all labels together (Platt 1999, with his smoothed targets); None with one value only.

    A slope that would turn the order around is 0.01: then the probabilities say next to nothing.
    """
    y, p = targets.ravel().astype(np.float64), np.clip(probabilities.ravel().astype(np.float64), 1e-6, 1 - 1e-6)
    positives, negatives = y.sum(), (1 - y).sum()
    if not positives or not negatives:
        return None
    goal = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    x = np.stack([np.log(p / (1 - p)), np.ones(len(p))], 1)
    weights = np.array([1.0, 0.0])
    for _ in range(100):
        q = 1 / (1 + np.exp(-x @ weights))
        hessian = (x.T * (q * (1 - q))) @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, x.T @ (q - goal))
        weights -= step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-10:
            break
    return Scaling(max(0.01, float(weights[0])), float(weights[1]), len(y))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None

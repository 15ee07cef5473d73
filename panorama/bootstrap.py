"""How far figures would move with other images: the bootstrap (Efron 1979) over whole images, near-duplicates drawn together.

A resample is a row of weights, how often each image was drawn, so that every measure is a sum of products over all resamples at once.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]  # (n_resamples, n_images)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; no interval where too few images were drawn from."""

    value: float
    low: float | None = None
    high: float | None = None

    def words(self, sign: str = "") -> str:
        """The figure and its interval for people; sign: "+" for a difference."""
        if self.low is None or self.high is None:
            return f"{rounded(self.value, sign)} (too few images for an interval)"
        return f"{rounded(self.value, sign)} ({rounded(self.low, sign)} to {rounded(self.high, sign)})"


def rounded(value: float, sign: str = "") -> str:
    """With three decimals; what rounds to nought has no sign. sign: "+" for a difference."""
    return f"{round(value, 3):{sign}.3f}" if round(value, 3) else "0.000"


def draw(groups: npt.NDArray[np.int64], n_resamples: int, rng: np.random.Generator) -> tuple[int, Weights]:
    """How many groups there are to draw from, and how often each image was drawn in each resample; no resample from fewer than two."""
    names, group_of = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return len(names), np.zeros((0, len(groups)), np.float32)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), n_resamples)
    return len(names), counts.astype(np.float32)[:, group_of]


def estimate(value: float, resampled: Floats) -> Estimate:
    """The value with the 2.5 % and 97.5 % quantiles of `resampled`; without an interval where that is empty."""
    if not len(resampled):
        return Estimate(value)
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def resampled(
    targets: npt.NDArray[np.int8], probabilities: Floats, weights: Weights, threshold: float = 0.5
) -> dict[str, tuple[Floats, npt.NDArray[np.bool_]]]:
    """Each measure of `metrics.measure` in each resample, and in which of them it could be measured."""
    predicted, positive = probabilities > threshold, targets == 1
    wrong = predicted != positive
    drawn = weights.sum(1, dtype=np.float64)
    everywhere = np.ones(len(weights), bool)
    precisions = [weighted_average_precision(targets[:, k], probabilities[:, k], weights) for k in range(targets.shape[1])]
    # float32 holds these counts exactly, up to 16 million images
    hits, carried, said = (weights @ table.astype(np.float32) for table in (predicted & positive, positive, predicted))
    known = carried > 0
    f1 = np.where(known, 2 * hits / np.maximum(carried + said, 1), 0.0).sum(1, dtype=np.float64)
    n_known = known.sum(1)
    any_known, shared = n_known > 0, np.maximum(n_known, 1)
    return {
        "average_precision": (np.sum(precisions, axis=0) / shared, any_known),
        "f1": (f1 / shared, any_known),
        "subset_accuracy": (weights @ (~wrong.any(1)).astype(np.float32) / np.maximum(drawn, 1), everywhere),
        "hamming_loss": (weights @ wrong.mean(1).astype(np.float32) / np.maximum(drawn, 1), everywhere),
    }


def weighted_average_precision(target: npt.NDArray[np.int8], probability: Floats, weights: Weights) -> Floats:
    """(n_resamples,): `metrics.average_precision` where each image counts as often as `weights` (n_resamples, n_images) says.

    0 for a resample without a positive.
    """
    order = np.argsort(-probability, kind="stable")
    positives = np.flatnonzero(target[order])
    if not len(positives):
        return np.zeros(len(weights))
    ends = np.r_[np.flatnonzero(np.diff(probability[order])), len(order) - 1]  # ties count together
    end_of = ends[np.searchsorted(ends, positives)]
    until = np.searchsorted(positives, end_of, side="right") - 1
    ordered = weights[:, order]
    mine = ordered[:, positives]
    hits = np.cumsum(mine, axis=1)
    np.cumsum(ordered, axis=1, out=ordered)
    precision = hits[:, until] / np.maximum(ordered[:, end_of], 1)
    found: Floats = (mine * precision).sum(1, dtype=np.float64) / np.maximum(hits[:, -1], 1)
    return found

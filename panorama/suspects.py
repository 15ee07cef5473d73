"""Cells ranked by doubt: how likely the CSV's value is wrong, from out-of-fold probabilities.

The doubt of a cell is a posterior. Let m be the rate at which a label that is really there is missing from the CSV, e the
rate at which one that is not there was added, and p the probability that the label is there:

    given 0:  doubt = p m / (p m + (1 - p) (1 - e))
    given 1:  doubt = (1 - p) e / ((1 - p) e + p (1 - m))

What matters is that m is much larger than e: annotators forget far more often than they invent, and ranking by how much the
model disagrees (self-confidence) buries the forgotten labels under pictures that are merely hard. The rates are fixed, not
estimated from the CSV, so a doubt orders cells well but is not yet a calibrated probability (docs/decisions.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["missing", "extra"]

MISSING_RATE, EXTRA_RATE = 0.10, 0.005


def doubts(
    targets: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating[Any]],
    *,
    missing_rate: float = MISSING_RATE,
    extra_rate: float = EXTRA_RATE,
) -> npt.NDArray[np.float64]:
    """P(the given value is wrong) for every cell, (n_images, n_labels) in [0, 1]; the formula at the top of this module.

    probabilities: out of fold, same shape as targets, in [0, 1].
    """
    m, e = missing_rate, extra_rate
    p = np.clip(probabilities.astype(np.float64), 1e-9, 1 - 1e-9)
    missing = p * m / (p * m + (1 - p) * (1 - e))
    extra = (1 - p) * e / ((1 - p) * e + p * (1 - m))
    return np.where(targets == 1, extra, missing)


@dataclass(frozen=True)
class Suspect:
    """One cell with its doubt. `rank` counts from 1, the most doubtful cell of the data set."""

    image: str
    split: str
    label: str
    given: int
    probability: float
    doubt: float
    kind: Kind
    rank: int


def rank(
    images: Sequence[str],
    splits: Sequence[str],
    labels: Sequence[str],
    targets: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating[Any]],
    doubt: npt.NDArray[np.float64],
) -> list[Suspect]:
    """Every cell of every image, most doubtful first; ties in the order of images and labels."""
    order = np.argsort(-doubt, axis=None, kind="stable")
    rows, columns = np.unravel_index(order, doubt.shape)
    return [
        Suspect(
            images[i],
            splits[i],
            labels[k],
            int(targets[i, k]),
            float(probabilities[i, k]),
            float(doubt[i, k]),
            "extra" if targets[i, k] else "missing",
            position,
        )
        for position, (i, k) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True), 1)
    ]

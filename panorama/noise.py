"""How often each label of this CSV is missing or extra, estimated from the CSV and out-of-fold scores alone.

Label-noise robust logistic regression (Bootkrajang and Kaban 2012), one score a cell. With s the score, y the value in the CSV
and t the truth, for label k:

    P(t = 1 | s) = sigmoid(slope_k s + offset_k)        P(y = 0 | t = 1) = missing_k        P(y = 1 | t = 0) = extra_k

What tells an error from a hard picture is the plateau: where scores are highest every picture should carry the label, and the share
that does not is the missing rate. Errors that grow with difficulty leave no plateau and look like content to this model; it
then says 0, and `suspects` falls back on a prior.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MOST_CELLS, _LEAST_ROWS = 50_000, 1_000  # more do not move the rates; the fits stay under a few seconds
_ROUNDS = 100
_STILL = 1e-5  # rates that move by less have converged
_SPREAD = 2.4  # standard deviation of the scores while fitting: there a slope of 1 is a gentle start
_MOST_MISSING, _MOST_EXTRA = 0.6, 0.2  # beyond, no rate can be told from a label that is hard to see
# Beta priors of the rates over all labels together: a few pseudo-cells, missing about 1 in 6 and extra about 1 in 50.
_MISSING_PRIOR, _EXTRA_PRIOR = (1.5, 8.0), (1.2, 60.0)
# Each label's own rate is shrunk towards the rate over all labels as by this many more cells.
_MISSING_SHRINK, _EXTRA_SHRINK = 20.0, 100.0
_RIDGE = 1.0  # towards the curve of all labels together


@dataclass(frozen=True)
class NoiseModel:
    """The fitted curves and rates, each (n_labels,); rates in [0, 1), 0 where nothing is clearly wrong."""

    slope: Floats
    offset: Floats
    missing: Floats
    extra: Floats

    def truth(self, scores: npt.NDArray[np.floating[Any]]) -> Floats:
        """P(the label is really there | score), (n_images, n_labels)."""
        return sigmoid(scores * self.slope + self.offset)

    def doubts(self, targets: npt.NDArray[np.int8], scores: npt.NDArray[np.floating[Any]]) -> Floats:
        """P(the value in the CSV is wrong | score), (n_images, n_labels): `doubts_at` of `truth`, in log-odds."""
        z = scores * self.slope + self.offset
        with np.errstate(divide="ignore"):  # a rate of 0: log-odds of minus infinity, a doubt of 0
            if_given, if_not = np.log(self.extra) - np.log1p(-self.missing), np.log(self.missing) - np.log1p(-self.extra)
        return sigmoid(np.where(targets == 1, if_given - z, if_not + z))


def doubts_at(targets: npt.NDArray[Any], truth: Floats, missing: Floats | float, extra: Floats | float) -> Floats:
    """Bayes' rule: P(the value is wrong) from P(the label is there) before the value is seen, and the two rates.

    given 0: t m / (t m + (1 - t) (1 - e))        given 1: (1 - t) e / ((1 - t) e + t (1 - m))
    """
    t = np.clip(truth, 1e-9, 1 - 1e-9)
    forgotten, invented = t * missing, (1 - t) * extra
    return np.where(targets == 1, invented / (invented + t * (1 - missing)), forgotten / (forgotten + (1 - t) * (1 - extra)))


def fit_noise(targets: npt.NDArray[np.int8], scores: npt.NDArray[np.floating[Any]]) -> NoiseModel:
    """The noise of each label, by expectation-maximisation.

    targets: (n_images, n_labels) of 0/1, as in the CSV. scores: the same shape, out of fold, about 0..1, higher where the label
    is likelier; they need not be calibrated. Rare labels borrow from all labels together. Rates that explain nothing are 0.
    """
    every = max(1, len(targets) // max(_LEAST_ROWS, _MOST_CELLS // max(1, targets.shape[1])))
    y, s = targets[::every].astype(np.float64), scores[::every].astype(np.float64)
    centre, scale = (float(s.mean()), _SPREAD / max(float(s.std()), 1e-6)) if s.size else (0.5, 1.0)
    x = scale * (s - centre)
    full, fit = _fit(y, x, True, True)
    plain, plain_fit = _fit(y, x, False, False)
    without_missing, fit_without_missing = _fit(y, x, False, True)
    without_extra, fit_without_extra = _fit(y, x, True, False)
    # Each gain is over the best fit without that rate, so that a fit that went astray convinces nobody.
    has_missing = _is_clear(fit - np.maximum(fit_without_missing, plain_fit))
    has_extra = _is_clear(fit - np.maximum(fit_without_extra, plain_fit))
    best = full if has_missing and has_extra else without_extra if has_missing else without_missing if has_extra else plain
    return NoiseModel(best.slope * scale, best.offset - best.slope * scale * centre, best.missing, best.extra)


def _is_clear(gain: Floats) -> bool:
    """Whether a rate explains the CSV clearly better than none, from each label's gain in log-likelihood (in nats).

    Where there is no such error a gain is on average a quarter, half of chi-squared at the edge of its range, with variance 5/16; all
    labels together must be three standard deviations above. Standard errors of the rate itself will not do: labels that are hard
    to see have rates that look large and explain nothing.
    """
    return bool(gain.sum() > 0.25 * len(gain) + 3 * np.sqrt(5 / 16 * len(gain)))


def _fit(y: Floats, x: Floats, has_missing: bool, has_extra: bool) -> tuple[NoiseModel, Floats]:
    """The model with the rates it may have, and each label's log-likelihood."""
    n_labels = y.shape[1]
    slope, offset = np.ones(n_labels), np.zeros(n_labels)
    if len(y):  # from the label's own share: from one half, nine in ten missing would explain a rare label best
        share = (y.sum(0) + 0.5) / (len(y) + 1)
        offset = np.log(share / (1 - share))
    missing, extra = np.full(n_labels, 0.1 * has_missing), np.full(n_labels, 0.01 * has_extra)
    for _ in range(_ROUNDS):
        truth = sigmoid(x * slope + offset)
        wrong = doubts_at(y, truth, missing, extra)
        there = np.where(y == 1, 1 - wrong, wrong)  # E step: P(t = 1 | s, y)
        before = missing, extra
        if has_missing:
            missing = _rates((wrong * (1 - y)).sum(0), there.sum(0), _MISSING_PRIOR, _MISSING_SHRINK, _MOST_MISSING)
        if has_extra:
            extra = _rates((wrong * y).sum(0), (1 - there).sum(0), _EXTRA_PRIOR, _EXTRA_SHRINK, _MOST_EXTRA)
        shared = np.array([slope.mean(), offset.mean()]) if n_labels else np.zeros(2)
        for _ in range(3):
            shared = _newton(x.reshape(-1, 1), there.reshape(-1, 1), shared[:1], shared[1:], np.zeros(2), 1e-3)[:, 0]
        was = slope
        for _ in range(2):
            slope, offset = _newton(x, there, slope, offset, shared, _RIDGE)
        moved = max(
            float(np.abs(a - b).max(initial=0)) for a, b in ((missing, before[0]), (extra, before[1]), (0.01 * slope, 0.01 * was))
        )
        if moved < _STILL:
            break
    truth = sigmoid(x * slope + offset)
    p = np.clip((1 - missing) * truth + extra * (1 - truth), 1e-9, 1 - 1e-9)  # P(y = 1 | s)
    fit: Floats = np.where(y == 1, np.log(p), np.log1p(-p)).sum(0)
    return NoiseModel(slope, offset, missing, extra), fit


def _rates(errors: Floats, cells: Floats, prior: tuple[float, float], shrink: float, most: float) -> Floats:
    together = (errors.sum() + prior[0]) / (cells.sum() + sum(prior))
    rates: Floats = np.clip((errors + shrink * together) / (cells + shrink), 1e-5, most)
    return rates


def _newton(x: Floats, there: Floats, slope: Floats, offset: Floats, centre: Floats, ridge: float) -> Floats:
    """One Newton step of logistic regression on soft targets for every column at once: (2, n_columns) slope and offset."""
    p = sigmoid(x * slope + offset)
    weight = p * (1 - p)
    a, b, c = (weight * x * x).sum(0) + ridge + 1e-6, (weight * x).sum(0), weight.sum(0) + ridge + 1e-6
    g, h = ((p - there) * x).sum(0) + ridge * (slope - centre[0]), (p - there).sum(0) + ridge * (offset - centre[1])
    determinant = a * c - b * b
    step = np.clip(np.stack([c * g - b * h, a * h - b * g]) / determinant, -1, 1)  # whole steps overshoot where labels are rare
    moved: Floats = np.stack([slope, offset]) - step
    return moved


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + exp(-z)), without overflow."""
    return 1 / (1 + np.exp(np.minimum(-z, 700)))

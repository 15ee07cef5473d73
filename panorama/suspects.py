"""Cells ranked by doubt: how likely the CSV's value is wrong, from what models say that never saw the picture.

Four sources, and a cell's doubt is what the strongest of them says.

- **slip**: the value contradicts what the picture plainly shows. Probability by Bayes' rule from rates that are estimated from this CSV
  (`noise`), which finds errors that do not depend on the picture.
- **moved**: the value and another of the same picture look as if a label had been put into the wrong column; a slip as well.
- **hard**: the value contradicts the model on a picture that is not plain. Annotators forget there most of all, but no estimate
  can tell such an error from a hard picture without clean labels. Order and size come from a blind audit; the surer it
  is that the CSV shows slips, and the less well the label is learned, the more the size is scaled down.
- **twin**: a near-duplicate carries another value, so one of the two is wrong. Less so where the label is hardly learned from many pictures, for there near-duplicates
  often really differ; copies of one file never do.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from panorama.noise import NoiseModel, doubts_at, fit_noise, sigmoid

Kind = Literal["missing", "extra"]
Reason = Literal["slip", "hard", "twin", "moved"]
REASONS: tuple[Reason, ...] = ("slip", "hard", "twin", "moved")
Floats = npt.NDArray[np.float64]

# In a blind audit of 300 photos 44 of 380 labels were missing, about 1 in 9, and 6 of about 1,000 cells extra, 1 in 170. The first rate
# is about the audit's; the second is lower than there because this orders best.
_HARD_MISSING, _HARD_EXTRA = 0.10, 0.002
# What the rates above make of a hard cell, brought to what it was worth in the audit: log-odds of 2 * log-odds + 5.4, at most 0.85 (of the
# first 30, 25 were wrong). Where the CSV shows slips, its annotators are not those of the audit, and errors on hard pictures are anybody's guess:
# three tenths of the square of that are little enough not to bury planted extra labels, and put the surest real ones that were forgotten among them.
_HARD_SLOPE, _HARD_SHIFT, _HARD_MOST = 2.0, 5.4, 0.85
_HARD_WORTH = 0.3
# Tjur's coefficient of discrimination of the scores in context: from the first on, disagreement is worth something, from the second
# on (in the audit it was 0.7 to 0.8) all of it. Never nothing: the order is the model's.
_UNLEARNED, _LEARNED, _LEAST_WORTH = 0.4, 0.7, 0.02
_LEAST_KEPT = 0.5  # of what tells carriers from the others; beyond, rates are guesses
_ENOUGH_ROWS, _ENOUGH_CORRECTED = 50_000, 10_000  # for a mean of scores, and of doubts, which take more memory
_ROWS_AT_ONCE = 4096
_CELLS_AT_ONCE = 2**16
_TWIN_WORTH = 0.9  # a near-duplicate may show another moment; a copy of the same file cannot
_FEW = 20  # pictures that carry a label, from which on that it is hardly learned begins to say something of the label
_BIAS_SD, _LABEL_BIAS_SD = 1.5, 0.7  # in log-odds: how far decisions may move a kind, and a label within it
_OVERLOOKED = 0.02  # the share of errors that a reviewer who is shown them keeps
# What decisions teach holds down to this quantile of the cells it was learned of, and fades below it over so many log-odds.
_LOWEST, _REACH_UP, _REACH_DOWN = 0.1, 2.0, 4.0
_MOST_LOG_ODDS = 6.0


@dataclass(frozen=True)
class Doubts:
    """values: (n_images, n_labels) in [0, 1]. reason: the same shape, position in REASONS. noise: the rates behind it."""

    values: npt.NDArray[np.float32]
    reason: npt.NDArray[np.int8]
    noise: NoiseModel


def doubts(
    targets: npt.NDArray[np.int8],
    alone: npt.NDArray[np.floating[Any]],
    in_context: npt.NDArray[np.floating[Any]] | None = None,
    groups: npt.NDArray[np.int64] | None = None,
    copies: npt.NDArray[np.int64] | None = None,
) -> Doubts:
    """How likely each value is wrong.

    targets: (n_images, n_labels) of 0/1. alone: out-of-fold scores from the picture, the same shape, about 0..1. in_context: scores that
    also know the picture's other labels (`kernel.judge`); None where there are none. groups, copies: (n_images,) ids of near-duplicates,
    and of pictures that are one and the same file.
    """
    context = alone if in_context is None else in_context
    noise = fit_noise(targets, alone if in_context is None else (alone + in_context) / 2)
    values, reason = np.empty(targets.shape, np.float32), np.zeros(targets.shape, np.int8)
    worth_here = worth(targets, context, _kept_apart(targets, (alone, context), noise))

    def judge(start: int) -> None:
        rows = slice(start, start + _ROWS_AT_ONCE)
        values[rows], moved = noise.judge(targets[rows], (alone[rows] + context[rows]) / 2)
        if moved is not None:
            reason[rows][2 * moved > values[rows]] = REASONS.index("moved")
        _take_larger(
            values[rows],
            reason[rows],
            worth_here * _hard_doubts(targets[rows], context[rows], noise.believed),
            REASONS.index("hard"),
        )

    # Pieces that fit the processor's cache, on all cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(judge, range(0, len(targets), _ROWS_AT_ONCE)))
    if groups is not None:
        _take_larger(
            values,
            reason,
            _TWIN_WORTH * _believed_worth(targets, worth_here) * _twin_doubts(targets, alone, groups, noise),
            REASONS.index("twin"),
        )
    if copies is not None:
        _take_larger(values, reason, _twin_doubts(targets, alone, copies, noise), REASONS.index("twin"))
    return Doubts(values, reason, noise)


def worth(targets: npt.NDArray[np.int8], scores: npt.NDArray[np.floating[Any]], kept_apart: Floats | float = 1.0) -> Floats:
    """(n_labels,) in (0, 1]: what disagreement says where a label is learned so well (Tjur 2009, coefficient of discrimination).

    That is the mean score of the pictures that carry the label less that of the others. Where it is small, what looks wrong is the model.
    kept_apart: what errors in the CSV leave of it.
    """
    some = _some(targets, _ENOUGH_ROWS)
    y, s = targets[some], scores[some]
    carried = y.sum(0, dtype=np.int64)
    of_carriers, of_all = (y * s).sum(0, dtype=np.float64), s.sum(0, dtype=np.float64)
    apart = of_carriers / np.maximum(carried, 1) - (of_all - of_carriers) / np.maximum(len(y) - carried, 1)
    found: Floats = np.clip((apart / kept_apart - _UNLEARNED) / (_LEARNED - _UNLEARNED), _LEAST_WORTH, 1.0)
    return found


def _some(targets: npt.NDArray[np.int8], rows: int) -> slice:
    return slice(None, None, max(1, len(targets) // rows))


def _kept_apart(
    targets: npt.NDArray[np.int8], scores: tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]], noise: NoiseModel
) -> Floats:
    """(n_labels,) in [0.5, 1]: P(the label is there | given) - P(it is there | not given), what errors leave between those that carry a label and the others."""
    some = _some(targets, _ENOUGH_CORRECTED)
    y, wrong = targets[some], noise.doubts(targets[some], (scores[0][some] + scores[1][some]) / 2)
    carried = y.sum(0, dtype=np.int64)
    lost = (y * wrong).sum(0) / np.maximum(carried, 1) + ((1 - y) * wrong).sum(0) / np.maximum(len(y) - carried, 1)
    left: Floats = np.maximum(1 - lost, _LEAST_KEPT)
    return left


def _believed_worth(targets: npt.NDArray[np.int8], worth_here: Floats) -> Floats:
    """`worth`, believed by how many pictures carry the label, or lack it: a rare label, or one of few pictures, cannot be learned however plain it is."""
    carried = targets.sum(0, dtype=np.int64)
    n = np.minimum(carried, len(targets) - carried)
    found: Floats = (n * worth_here + _FEW) / (n + _FEW)
    return found


def _hard_doubts(targets: npt.NDArray[np.int8], in_context: npt.NDArray[np.floating[Any]], slips: float) -> Floats:
    """slips: how likely the CSV shows any."""
    raw = doubts_at(targets, np.clip(in_context, 1e-3, 1 - 1e-3), _HARD_MISSING, _HARD_EXTRA)
    audit = _HARD_MOST * sigmoid(_HARD_SLOPE * np.log(raw / (1 - raw)) + _HARD_SHIFT)
    return audit * (1 - slips + slips * _HARD_WORTH * audit)


def _take_larger(values: npt.NDArray[np.float32], reason: npt.NDArray[np.int8], other: Floats, name: int) -> None:
    larger = other > values
    values[larger], reason[larger] = other[larger], name


def _twin_doubts(
    targets: npt.NDArray[np.int8], alone: npt.NDArray[np.floating[Any]], groups: npt.NDArray[np.int64], noise: NoiseModel
) -> Floats:
    """For near-duplicates that disagree, P(wrong) when one value is true of all of them; 0 elsewhere."""
    found = np.zeros(targets.shape)
    order = np.argsort(groups, kind="stable")
    missing, extra = np.maximum(noise.missing, _HARD_MISSING), np.maximum(noise.extra, _HARD_EXTRA)
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        if len(rows) < 2:
            continue
        carry = targets[rows].sum(0)
        lack = len(rows) - carry
        p = np.clip(alone[rows].mean(0), 0.01, 0.99)
        log_odds = np.log(p / (1 - p)) + carry * np.log((1 - missing) / extra) + lack * np.log(missing / (1 - extra))
        there = sigmoid(log_odds)
        found[rows] = np.where((carry > 0) & (lack > 0), np.where(targets[rows] == 1, 1 - there, there), 0.0)
    return found


def order(doubt: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Positions in the flattened (n_images, n_labels) array, most doubtful first; ties in the order of images and labels.

    doubt: 0 or more, fewer than 2**32 of them. Doubts closer than one part in ten million are a tie.
    """
    n = doubt.size
    # One unsigned number a cell, doubt before position: sorted about twice as fast as indices are, and stable.
    # The bits of numbers that are not negative are in the order of the numbers. In place: fresh memory costs more than the sums.
    keys = (~doubt.astype(np.float32, copy=False).ravel().view(np.uint32)).astype(np.uint64)
    keys <<= np.uint64(32)
    for start in range(0, n, 2**16):
        keys[start : start + 2**16] |= np.arange(start, min(start + 2**16, n), dtype=np.uint64)
    if n:
        keys.partition(n // 2)
    with ThreadPoolExecutor(2) as pool:  # numpy sorts outside the interpreter's lock
        list(pool.map(np.ndarray.sort, (keys[: n // 2], keys[n // 2 :])))
    keys &= np.uint64(0xFFFFFFFF)
    return keys.view(np.int64)


def worst_cell(doubt: npt.NDArray[np.floating[Any]]) -> Floats:
    """(n_images,): the doubt of each image's most doubtful cell."""
    worst: Floats = doubt.max(1, initial=0.0).astype(np.float64)
    return worst


def whole_image(doubt: npt.NDArray[np.floating[Any]]) -> Floats:
    """(n_images,): P(at least one cell of the image is wrong), if its cells err independently: 1 - product of (1 - doubt)."""
    found: Floats = 1 - np.prod(1 - doubt.astype(np.float64), axis=1)
    return found


class Suspect(NamedTuple):
    """One cell with its doubt. `rank` counts from 1, the most doubtful cell of the data set. A tuple: there may be millions."""

    image: str
    split: str
    label: str
    given: int
    probability: float
    in_context: float
    spread: float
    doubt: float
    kind: Kind
    reason: Reason
    rank: int


def rank(
    images: Sequence[str],
    splits: Sequence[str],
    labels: Sequence[str],
    targets: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating[Any]],
    in_context: npt.NDArray[np.floating[Any]],
    spread: npt.NDArray[np.floating[Any]],
    found: Doubts,
) -> Iterator[Suspect]:
    """Every cell of every image, most doubtful first; only some at a time are in memory."""
    ordered = order(found.values)
    kinds: tuple[Kind, Kind] = ("missing", "extra")
    for start in range(0, len(ordered), _CELLS_AT_ONCE):
        rows, columns = at = np.unravel_index(ordered[start : start + _CELLS_AT_ONCE], found.values.shape)
        given = targets[at].tolist()
        yield from map(
            Suspect,
            [images[i] for i in rows.tolist()],
            [splits[i] for i in rows.tolist()],
            [labels[k] for k in columns.tolist()],
            given,
            *(values[at].tolist() for values in (probabilities, in_context, spread, found.values)),
            [kinds[value] for value in given],
            [REASONS[reason] for reason in found.reason[at].tolist()],
            range(start + 1, start + 1 + len(rows)),
        )


@dataclass(frozen=True)
class ErrorCount:
    """How many cells of one label and kind are wrong: `expected`, and an interval.

    For errors like slips it holds the number in about 19 of 20 cases. Nothing in the CSV says how many errors stand on hard pictures:
    they are expected as in the audit, and for them the interval reaches from a tenth to twice of that. It begins no lower than at three quarters of the cells of doubt 0.9 and more.
    """

    label: str
    kind: Kind
    expected: float
    low: float
    high: float


# Of cells with at least this doubt so many are taken to be wrong at least: 0.96 and 0.99 of them are on drawn pictures with 20 and 5 labels, 0.91 and 0.99 on photos (docs/suspects.md).
_SURE, _SURE_ARE_WRONG = 0.9, 0.75


def count_errors(
    labels: Sequence[str],
    targets: npt.NDArray[np.int8],
    doubt: npt.NDArray[np.floating[Any]],
    reason: npt.NDArray[np.int8] | None = None,
) -> list[ErrorCount]:
    """For each label, missing then extra: the sum of doubts, with the chance in the cells and in the estimated rate; at least most of the surest.

    reason: as in `Doubts`; None where every cell is a slip.
    """
    counts = []
    for k, label in enumerate(labels):
        kinds: tuple[Kind, Kind] = ("missing", "extra")
        for value, kind in enumerate(kinds):
            d = doubt[targets[:, k] == value, k].astype(np.float64)
            expected, margin = float(d.sum()), 1.96 * float(np.sqrt((d * (1 - d)).sum() + d.sum()))
            of_hard = 0.0 if reason is None else float(d[reason[targets[:, k] == value, k] == REASONS.index("hard")].sum())
            low, high = expected - margin - 0.9 * of_hard, expected + margin + of_hard
            low = max(low, _SURE_ARE_WRONG * float(np.count_nonzero(d >= _SURE)))
            counts.append(ErrorCount(label, kind, expected, max(0.0, low), min(float(len(d)), high)))
    return counts


def relearned(
    doubt: npt.NDArray[np.floating[Any]],
    given: npt.NDArray[np.integer[Any]],
    label_of: npt.NDArray[np.integer[Any]],
    decided: npt.NDArray[np.integer[Any]],
    was_wrong: npt.NDArray[np.bool_],
) -> Floats:
    """The doubts of all cells after what a reviewer decided: a kind that turned out righter than thought falls, and so on.

    doubt, given, label_of: (n_cells,). decided: positions of decided cells; was_wrong: for each, whether the value was changed. The
    log-odds of each cell move by one number a kind and one a label and kind, found by logistic regression on the decided
    cells with Gaussian priors around 0, in which one error in fifty is overlooked and kept. They move a cell less the further it lies below
    those they were learned of, the changed ones where doubts rise, the kept ones where they fall: the surest suspects say little of the others.
    Nothing is trained on pictures: a cell is never judged by a model that knows its decided value.
    """
    log_odds = _log_odds(doubt)
    if not len(decided):
        return np.asarray(doubt, np.float64)
    n_labels = int(label_of.max()) + 1
    column = 2 + given.astype(np.int64) * n_labels + label_of  # 0, 1: the kinds; then one a label and kind
    penalty = np.r_[np.full(2, _BIAS_SD**-2), np.full(2 * n_labels, _LABEL_BIAS_SD**-2)]
    design = np.zeros((len(decided), len(penalty)))
    rows = np.arange(len(decided))
    design[rows, given[decided]] = 1
    design[rows, column[decided]] = 1
    bias = np.zeros(len(penalty))
    for overlooked in (0.0, _OVERLOOKED):  # from the best fit without: the likelihood with it has more than one summit
        for _ in range(100):
            p = sigmoid(log_odds[decided] + design @ bias)
            is_error = np.where(
                was_wrong, 1.0, overlooked * p / (1 - p + overlooked * p)
            )  # P(the value is wrong), by the answer too
            gradient = design.T @ (p - is_error) + penalty * bias
            step = np.linalg.solve((design.T * (p * (1 - p))) @ design + np.diag(penalty), gradient)
            # Whole steps swing for ever where ten firm suspects were all right.
            step /= max(1.0, float(np.abs(design @ step).max()))
            bias -= step
            if np.abs(step).max() < 1e-7:
                break
    moved = bias[given] + bias[column]
    for kind in (0, 1):
        for answers, cells, reach in ((was_wrong, moved > 0, _REACH_UP), (~was_wrong, moved < 0, _REACH_DOWN)):
            learned_of = log_odds[decided[answers & (given[decided] == kind)]]
            changed = cells & (given == kind)
            if len(learned_of):
                below = np.maximum(0.0, np.quantile(learned_of, _LOWEST, method="lower") - log_odds[changed])
                # Doubts that fall by more than they fade over would change places. So they fade over half as much again, which keeps a third of any distance.
                moved[changed] *= np.exp(-below / np.maximum(reach, -1.5 * moved[changed]))
    return sigmoid(log_odds + moved)


def _log_odds(doubt: npt.NDArray[np.floating[Any]]) -> Floats:
    d = np.clip(doubt.astype(np.float64), 1e-12, 1 - 1e-12)
    raw = np.log(d / (1 - d))
    # No decision could move a cell that starts at certainty, so it grows slowly past the bound; slowly, to keep the order. Not so at
    # the other end: most cells are near 0, and what a bound there would add to each sums to errors that nobody found.
    bounded: Floats = np.where(raw > _MOST_LOG_ODDS, _MOST_LOG_ODDS + 0.01 * (raw - _MOST_LOG_ODDS), raw)
    return bounded

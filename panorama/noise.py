"""How often each label of this CSV is missing or extra, estimated from the CSV and out-of-fold scores alone.

Label-noise robust logistic regression (Bootkrajang and Kaban 2012), one score a cell. With s the score, y the value in the CSV
and t the truth, for label k:

    P(t = 1 | s) = sigmoid(slope_k c(s) + offset_k)        P(y = 0 | t = 1) = missing_k        P(y = 1 | t = 0) = extra_k

where c(s) = u + 0.3 u^3 with u = 2 s - 1: the plain logistic curve, c(s) = s, has heavier tails than such scores have, and takes invented labels
for hard pictures.

Besides, a share of the images has one label moved to another column: one of those they carry is missing, one they do not carry is extra, each
pair as likely. Neither of the two need be doubtful alone.

What tells an error from a hard picture is the plateau: where scores are highest every picture should carry the label, and the share
that does not is the missing rate. Errors that grow with difficulty leave no plateau and look like content to this model; it
then says 0 or next to it, and `suspects` falls back on a prior.
"""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_STEEPER = 0.3  # of the curve, away from the middle
_MOST_CELLS, _LEAST_ROWS = 40_000, 1_000  # more do not move the rates
_ROUNDS = 100
_STILL = 1e-5  # rates that move by less have converged
_SPREAD = 2.4  # standard deviation of the scores while fitting: there a slope of 1 is a gentle start
_MOST_MISSING, _MOST_EXTRA = 0.6, 0.2  # beyond, no rate can be told from a label that is hard to see
_MOST_INVENTED = 0.5  # of a label's positives, about: of a rare label that cannot be seen all would be
# Beta priors of the rates over all labels together, worth some cells: missing about 1 in 6 and extra about 1 in 100.
_MISSING_PRIOR, _EXTRA_PRIOR = (1.5, 8.0), (0.6, 60.0)
# Each label's own rate is shrunk towards the rate over all labels as by this many more cells whose truth is known.
_MISSING_SHRINK, _EXTRA_SHRINK = 20.0, 100.0
_MOVED_PRIOR = (0.2, 9.8)  # of the share of images with a moved label, 1 in 50
_RIDGE = 1.0  # towards the curve of all labels together
_CLEAR_MOVED = 5.0  # nats of log-likelihood that moved labels must explain to be as likely as none; of missing ones see `_clear`
# Nats a cell that extra labels must explain: hard pictures of an honest CSV look like invented labels where the curve is a little wrong, the more of
# them the more cells there are.
_CLEAR_EXTRA = 5e-4
_SCORES = (-1.0, 2.0)  # a single score far out would bend the curve of its label
_LEAST_LIKELY = 0.02  # models less likely than this are left out
# How well labels can be seen is compared at these rates, for missing and for extra labels. What a label tells that is seen half as well as
# the best counts an eighth and a quarter as much.
_COMPARED_MISSING, _COMPARED_EXTRA = 0.1, 0.01
_FADE_MISSING, _FADE_EXTRA = 3, 2
_SEEMS = 0.5  # nats that moved labels must gain on a fit without them for one with them to be tried
_LEAST = 1e-12


@dataclass(frozen=True)
class NoiseModel:
    """The fitted curves and rates, each (n_labels,); rates in [0, 1). moved: a share of the images. believed: the weight of the models that have any kind of error."""

    slope: Floats
    offset: Floats
    missing: Floats
    extra: Floats
    moved: float = 0.0
    believed: float = 1.0

    def truth(self, scores: npt.NDArray[np.floating[Any]]) -> Floats:
        """P(the label is really there | score), (n_images, n_labels)."""
        return self.truth_at(_curved(scores))

    def truth_at(self, x: Floats) -> Floats:
        """As `truth`, of what the curve is linear in."""
        return sigmoid(x * self.slope + self.offset)

    def doubts(self, targets: npt.NDArray[np.int8], scores: npt.NDArray[np.floating[Any]]) -> Floats:
        """P(the value in the CSV is wrong | scores), (n_images, n_labels)."""
        return self.judge(targets, scores)[0]

    def judge(self, targets: npt.NDArray[np.int8], scores: npt.NDArray[np.floating[Any]]) -> tuple[Floats, Floats | None]:
        """`doubts`, and the part of each that is a label moved to another column; None where none is."""
        z = _curved(scores)
        z *= self.slope
        z += self.offset
        with np.errstate(divide="ignore"):  # a rate of 0: log-odds of minus infinity, a doubt of 0
            if_given, if_not = np.log(self.extra) - np.log1p(-self.missing), np.log(self.missing) - np.log1p(-self.extra)
        # `doubts_at`, in log-odds.
        alone = sigmoid(np.where(targets == 1, if_given - z, if_not + z))
        if not self.moved:
            return alone, None
        moved = _moved(targets, sigmoid(z), self.missing, self.extra, self.moved).cells
        return moved + (1 - moved) * alone, moved


def doubts_at(targets: npt.NDArray[Any], truth: Floats, missing: Floats | float, extra: Floats | float) -> Floats:
    """Bayes' rule: P(the value is wrong) from P(the label is there) before the value is seen, and the two rates.

    given 0: t m / (t m + (1 - t) (1 - e))        given 1: (1 - t) e / ((1 - t) e + t (1 - m))
    """
    t = np.clip(truth, 1e-9, 1 - 1e-9)
    forgotten, invented = t * missing, (1 - t) * extra
    return np.where(targets == 1, invented / (invented + t * (1 - missing)), forgotten / (forgotten + (1 - t) * (1 - extra)))


class _Moved(NamedTuple):
    """What a label moved to another column explains. cells: (n_images, n_labels), P(the cell's value is one of the two that changed).

    plain: the same shape, P(value | score) where nothing moved. times: (n_images,), how many times likelier each image's values are where one did.
    may: (n_images,), whether they can have come from a move at all.
    """

    cells: Floats
    plain: Floats
    times: Floats
    may: npt.NDArray[np.bool_]


def _moved(y: npt.NDArray[Any], truth: Floats, missing: Floats, extra: Floats, share: float) -> _Moved:
    """Bayes' rule over every pair of a value 0 and a value 1 of an image, and no pair. share: of the images that may."""
    given = y == 1
    plain = _plain(given, truth, missing, extra)
    likelier = np.where(given, 1 - truth, truth) / plain
    one, other = (likelier * given).sum(1), (likelier * ~given).sum(1)
    carried = given.sum(1)
    pairs = carried * (y.shape[1] - carried)
    times = np.where(pairs > 0, one * other / np.maximum(pairs, 1), 0.0)
    of_image = share * times / (1 - share + share * times)
    cells = of_image[:, None] * likelier / np.maximum(np.where(given, one[:, None], other[:, None]), _LEAST)
    return _Moved(cells, plain, times, pairs > 0)


def fit_noise(targets: npt.NDArray[np.int8], scores: npt.NDArray[np.floating[Any]], *, may_move: bool = True) -> NoiseModel:
    """The noise of each label, by expectation-maximisation.

    targets: (n_images, n_labels) of 0/1, as in the CSV. scores: the same shape, out of fold, about 0..1, higher where the label
    is likelier; they need not be calibrated, but the curve is steeper away from 0.5. Rare labels borrow from all labels together. The parameters of models with and without each
    kind of error are averaged, each as much as its first fit is likely.
    may_move: whether labels may have moved to another column; then what is said of a cell depends on the image's other values.
    """
    every = max(1, len(targets) // max(_LEAST_ROWS, _MOST_CELLS // max(1, targets.shape[1])))
    y, s = targets[::every].astype(np.float64), _curved(scores[::every])
    centre, scale = (float(s.mean()), _SPREAD / max(float(s.std()), 1e-6)) if s.size else (0.5, 1.0)
    x = scale * (s - centre)
    costs = np.array([_clear(y.shape[1]), _CLEAR_EXTRA * y.size, _CLEAR_MOVED])
    fits = {(m, e): _fit(y, x, m, e, False) for m, e in itertools.product((False, True), repeat=2)}
    worth = {(*has, False): fit - costs[:2] @ has for has, (_, fit) in fits.items()}
    models = {(*has, False): model for has, (model, _) in fits.items()}
    if may_move:
        # On top of the best of them; and alone, for as missing and extra labels moved ones explain much.
        for has in {max(fits, key=lambda one: worth[*one, False]), (False, False)}:
            if _seem_moved(y, x, models[*has, False]):
                models[*has, True], fit = _fit(y, x, has[0], has[1], True)
                worth[*has, True] = fit - costs @ (*has, True)
    best = max(worth.values())
    likely = {has: float(np.exp(value - best)) for has, value in worth.items()}
    likely = {has: share for has, share in likely.items() if share >= _LEAST_LIKELY * sum(likely.values())}
    chosen = [_fit(y, x, *has, start=models[has])[0] if has[0] or has[1] else models[has] for has in likely]

    def mean(field: str) -> Any:
        return np.average([getattr(model, field) for model in chosen], axis=0, weights=list(likely.values()))

    slope, offset = mean("slope"), mean("offset")
    rates = mean("missing"), mean("extra"), float(mean("moved")), float(mean("believed"))
    return NoiseModel(slope * scale, offset - slope * scale * centre, *rates)


def _seem_moved(y: Floats, x: Floats, model: NoiseModel) -> bool:
    """Whether a share of moved labels would explain anything at all, the rest of the model as it is: the fit that finds out takes ten times as long."""
    shares = np.array([0.003, 0.01, 0.03, 0.1])
    times = _moved(y, model.truth_at(x), model.missing, model.extra, shares[0]).times[:, None]
    return bool(np.log(1 - shares + shares * times).sum(0).max(initial=0) > _SEEMS)


def _clear(n_labels: int) -> float:
    """How many nats of log-likelihood the missing labels of a CSV must explain to be as likely as none.

    Where there is no such error each label's gain is on average a quarter, half of chi-squared at the edge of its range, with variance
    5/16; all labels together must be three standard deviations above. Labels that are hard to see come near it: they have
    rates that look large.
    """
    return 0.25 * n_labels + 3 * float(np.sqrt(5 / 16 * n_labels))


def _fit(
    y: Floats,
    x: Floats,
    has_missing: bool,
    has_extra: bool,
    has_moved: bool,
    *,
    start: NoiseModel | None = None,
) -> tuple[NoiseModel, float]:
    """The model with the rates it may have, and its log-likelihood.

    start: the same model, fitted. Labels that it finds hard to see then borrow their rates from the others. Not at once, and not as seen in
    each round: a curve that is not yet found, or flattened by a borrowed rate, would make a label that is often forgotten look hard to see.
    """
    n_labels = y.shape[1]
    most_extra = np.minimum(_MOST_EXTRA, _MOST_INVENTED * y.sum(0) / max(1, len(y)))
    if start is None:
        # From the label's own share: from one half, nine in ten missing would explain a rare label best.
        share = (y.sum(0) + 0.5) / (len(y) + 1)
        start = NoiseModel(
            np.ones(n_labels),
            np.log(share / (1 - share)),
            np.full(n_labels, 0.1 * has_missing),
            np.full(n_labels, 0.01 * has_extra),
            0.03 * has_moved,
        )
        seen_missing = seen_extra = np.ones(n_labels)
    else:
        truth = start.truth_at(x)
        seen_missing = _seen(_told(truth, truth, _COMPARED_MISSING, _COMPARED_MISSING, start.extra), _FADE_MISSING)
        seen_extra = _seen(_told(1 - truth, truth, _COMPARED_EXTRA, start.missing, _COMPARED_EXTRA), _FADE_EXTRA)
    slope, offset, missing, extra, moved = start.slope, start.offset, start.missing, start.extra, start.moved
    for _ in range(_ROUNDS):
        truth = sigmoid(x * slope + offset)
        slips = wrong = doubts_at(y, truth, missing, extra)
        before = missing, extra, moved
        if has_moved:
            pairs = _moved(y, truth, missing, extra, moved)
            slips = (1 - pairs.cells) * slips
            wrong = pairs.cells + slips
            # Of an image's two cells each kind has one.
            moved = float((pairs.cells.sum() / 2 + _MOVED_PRIOR[0]) / (pairs.may.sum() + sum(_MOVED_PRIOR)))
        there = np.where(y == 1, 1 - wrong, wrong)  # E step: P(t = 1 | s, y)
        if has_missing:
            told = seen_missing * _told(truth, truth, missing, missing, extra)
            missing = _rates((slips * (1 - y)).sum(0), there.sum(0), told, _MISSING_PRIOR, _MISSING_SHRINK, _MOST_MISSING)
        if has_extra:
            told = seen_extra * _told(1 - truth, truth, extra, before[0], extra)
            extra = _rates((slips * y).sum(0), (1 - there).sum(0), told, _EXTRA_PRIOR, _EXTRA_SHRINK, most_extra)
        shared = np.array([slope.mean(), offset.mean()]) if n_labels else np.zeros(2)
        for _ in range(3):
            shared = _newton(x.reshape(-1, 1), there.reshape(-1, 1), shared[:1], shared[1:], np.zeros(2), 1e-3)[:, 0]
        was = slope
        for _ in range(2):
            slope, offset = _newton(x, there, slope, offset, shared, _RIDGE)
        changes = (missing - before[0], extra - before[1], np.array([moved - before[2]]), 0.01 * slope - 0.01 * was)
        if max(float(np.abs(change).max(initial=0)) for change in changes) < _STILL:
            break
    truth = sigmoid(x * slope + offset)
    if has_moved:
        pairs = _moved(y, truth, missing, extra, moved)
        fit = float(np.log(pairs.plain).sum() + np.log(1 - moved + moved * pairs.times).sum())
    else:
        fit = float(np.log(_plain(y == 1, truth, missing, extra)).sum())
    return NoiseModel(slope, offset, missing, extra, moved, float(has_missing or has_extra or has_moved)), fit


def _plain(given: npt.NDArray[np.bool_], truth: Floats, missing: Floats, extra: Floats) -> Floats:
    """P(value | score) where nothing moved."""
    p = np.where(given, truth * (1 - missing) + (1 - truth) * extra, (1 - truth) * (1 - extra) + truth * missing)
    return np.maximum(p, _LEAST)


def _told(prone: Floats, truth: Floats, rate: Floats | float, missing: Floats | float, extra: Floats | float) -> Floats:
    """How much the cells of each label tell of its rate, (n_labels,) in [0, 1]: their Fisher information, as a share of what it would
    be if the truth were known. Where a label is hard to see next to nothing, so such labels must not speak for the others.

    prone: (n_images, n_labels), P(such an error can befall the cell): `truth` for missing, 1 - truth for extra labels.
    """
    given = truth * (1 - missing) + (1 - truth) * extra  # P(y = 1 | s), whose derivative by the rate is -prone or prone
    information = (prone**2 / np.maximum(given * (1 - given), _LEAST)).sum(0)
    told: Floats = np.minimum(information * rate * (1 - rate) / np.maximum(prone.sum(0), _LEAST), 1.0)
    return told


def _seen(told: Floats, fade: int) -> Floats:
    """(n_labels,) in [0, 1]: how well each label is seen, beside the best.

    What a label tells (`_told`) is true if its curve is. Of a label that is hard to see the curve is a little wrong, and what it gets wrong
    looks like errors, however many images there are.
    """
    seen: Floats = (told / max(float(told.max(initial=0)), _LEAST)) ** fade
    return seen


def _rates(
    errors: Floats, cells: Floats, told: Floats, prior: tuple[float, float], shrink: float, most: Floats | float
) -> Floats:
    together = ((told * errors).sum() + prior[0]) / ((told * cells).sum() + sum(prior))
    rates: Floats = np.minimum(np.maximum((told * errors + shrink * together) / (told * cells + shrink), 1e-5), most)
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


def _curved(scores: npt.NDArray[np.floating[Any]]) -> Floats:
    """What the curve is linear in: -1.3 for a score of 0, 1.3 for 1."""
    u: Floats = np.clip(scores, *_SCORES, dtype=np.float64)
    u *= 2  # in place: fresh memory costs more than the sums
    u -= 1
    curved: Floats = u * u
    curved *= _STEEPER
    curved += 1
    curved *= u
    return curved


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + exp(-z)), without overflow."""
    return 1 / (1 + np.exp(np.minimum(-z, 700)))

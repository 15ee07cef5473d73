"""Doubts against worlds where every error was planted, tables worked out by hand, and cleanlab; then what reviewers' decisions teach."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize
from sklearn.metrics import average_precision_score

from panorama.noise import NoiseModel
from panorama.suspects import (
    REASONS,
    Doubts,
    _kept_apart,
    count_errors,
    doubts,
    order,
    rank,
    relearned,
    whole_image,
    worst_cell,
    worth,
)

Labels = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]


def world(
    seed: int, *, missing: float = 0.2, extra: float = 0.01, n: int = 2000, blur: float = 0.15
) -> tuple[Labels, Labels, Floats]:
    """What is there, what the CSV says, and out-of-fold scores: errors are planted at random, whatever the picture."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, 4)) < 0.3).astype(np.int8)
    scores = 0.15 + 0.7 * truth + rng.normal(0, blur, truth.shape)
    flipped = rng.random(truth.shape) < np.where(truth == 1, missing, extra)
    return truth, np.where(flipped, 1 - truth, truth).astype(np.int8), scores


def hard_world(seed: int, n: int = 4000) -> tuple[Labels, Labels, Floats]:
    """Most pictures show a label neither plainly nor not at all: scores are the chances it is there. One label in ten is missing."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.3, 1.0, (n, 3))
    truth = (rng.random(chance.shape) < chance).astype(np.int8)
    return truth, np.where((truth == 1) & (rng.random(chance.shape) < 0.1), 0, truth).astype(np.int8), chance


def test_doubt_grows_with_the_models_disagreement() -> None:
    p = np.linspace(0, 1, 21)[:, None]
    zeros, ones = np.zeros((21, 1), np.int8), np.ones((21, 1), np.int8)
    assert (np.diff(doubts(zeros, p).values, axis=0) >= 0).all()
    assert (np.diff(doubts(ones, p).values, axis=0) <= 0).all()
    assert doubts(zeros, p).values[-1, 0] > 10 * doubts(zeros, p).values[0, 0]
    assert doubts(ones, p).values[0, 0] > 10 * doubts(ones, p).values[-1, 0]


def test_a_forgotten_label_comes_before_an_equally_unlikely_extra_one() -> None:
    """Annotators forget far more often than they invent."""
    found = doubts(np.array([[0, 1]], np.int8), np.array([[0.9, 0.1]])).values
    assert found[0, 0] > found[0, 1]


def test_where_errors_are_random_slips_come_first_and_are_wrong() -> None:
    truth, given, scores = world(0)
    found = doubts(given, scores)
    first = order(found.values)[:200]
    assert (found.reason.ravel()[first] == REASONS.index("slip")).all()
    assert (given != truth).ravel()[first].mean() > 0.95


def test_the_negative_control_without_planted_errors_nothing_is_a_slip() -> None:
    truth, _, scores = world(0)
    found = doubts(truth, scores)
    assert (found.reason[found.values > 0.1] == REASONS.index("hard")).all()
    assert found.values[found.reason == REASONS.index("slip")].sum() < 1


def test_planted_errors_rank_above_cleanlabs_ranking() -> None:
    """Self-confidence and the same adjusted for each label's confidence, label by label; the mean of six worlds."""
    from cleanlab.rank import get_label_quality_scores

    def peer(given: Labels, chance: Floats, adjusted: bool) -> Floats:
        columns = [
            1
            - get_label_quality_scores(given[:, k], np.stack([1 - p, p], 1), method="self_confidence", adjust_pred_probs=adjusted)
            for k, p in enumerate(chance.clip(1e-3, 1 - 1e-3).T)
        ]
        return np.stack(columns, 1)

    found = []
    for seed in range(6):
        truth, given, chance = hard_world(seed)
        ranked = doubts(given, chance).values, peer(given, chance, False), peer(given, chance, True)
        found.append([average_precision_score((given != truth).ravel(), doubt.ravel()) for doubt in ranked])
    ours, plain, adjusted = np.mean(found, 0)
    assert ours > plain + 0.1
    assert ours > adjusted + 0.005


def test_labels_of_a_picture_can_only_help() -> None:
    """Scores that know the other labels and are sharper find more of the planted errors than the picture alone."""
    truth, given, blurred = world(1, blur=0.4)
    sharper = world(1, blur=0.15)[2]
    wrong = (given != truth).ravel()
    alone, both = doubts(given, blurred), doubts(given, blurred, sharper)
    assert average_precision_score(wrong, both.values.ravel()) > average_precision_score(wrong, alone.values.ravel()) + 0.05


def pair(given: tuple[int, int], score: float = 0.5, *, plainly: int = 20, strangers: bool = False) -> Doubts:
    """One label on pictures nobody is unsure of and two near-duplicates, which strangers are not."""
    plain = np.arange(plainly) % 2
    targets = np.r_[plain, given].astype(np.int8)[:, None]
    scores = np.r_[plain, score, score].astype(float)[:, None]
    return doubts(targets, scores, groups=None if strangers else np.r_[np.arange(plainly), -1, -1])


def test_twins_that_disagree_are_the_first_suspects() -> None:
    found = pair((1, 0))
    assert order(found.values)[0] == 21, "labels are forgotten more often than invented"
    assert found.reason[21, 0] == REASONS.index("twin")


def test_the_doubt_of_twins_is_a_hand_worked_table() -> None:
    """Of 1,000,000 pairs, half with the label. With it: 500,000 x 0.9 x 0.1 say (1, 0). Without: 500,000 x 0.002 x 0.998.

    So P(the label is there) = 45,000 / 45,998, of which nine in ten count: a near-duplicate may show another moment.
    """
    found = pair((1, 0), plainly=2000).values  # so many that slips are next to ruled out
    assert found[-1, 0] == pytest.approx(0.9 * 45_000 / 45_998)


@pytest.mark.parametrize("given", [(0, 0), (1, 1)])
def test_twins_that_agree_are_no_more_doubtful_than_strangers(given: tuple[int, int]) -> None:
    found = pair(given)
    assert (found.values <= pair(given, strangers=True).values).all()
    assert (found.reason != REASONS.index("twin")).all()


def test_among_six_twins_the_odd_one_out_is_the_suspect_be_it_a_0_or_a_1() -> None:
    plain = np.arange(120) % 2  # or the label would seem hardly learned, and twins would count less
    targets = np.r_[plain, [1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]].astype(np.int8)[:, None]
    scores = np.r_[plain, np.full(12, 0.5)].astype(float)[:, None]
    found = doubts(targets, scores, groups=np.r_[np.arange(120), np.full(6, 120), np.full(6, 121)]).values
    assert found[125, 0] > 0.85
    assert (found[120:125, 0] < 0.1).all()
    assert found[126, 0] > 0.85, "that five of six forget is rarer than that one of them invents"


@pytest.mark.parametrize(("copies", "least", "most"), [(False, 0.0, 0.3), (True, 0.8, 1.0)])
def test_near_duplicates_may_differ_where_the_label_is_hardly_learned_and_copies_may_not(
    copies: bool, least: float, most: float
) -> None:
    rng = np.random.default_rng(0)
    targets = np.r_[rng.integers(0, 2, 400), 1, 0].astype(np.int8)[:, None]
    scores = np.r_[0.4 + 0.2 * rng.random(400), 0.5, 0.5][:, None]  # which tell nothing
    ids = np.r_[np.arange(400), 400, 400]
    found = doubts(targets, scores, groups=ids, copies=ids if copies else None).values
    assert least <= found[401, 0] <= most


@pytest.mark.parametrize("carriers", [1, 2, 4])
def test_a_plain_but_rare_label_forgotten_on_a_near_duplicate_is_still_suspect(carriers: int) -> None:
    """So few pictures carry it that no fold learned it: every score is low. That says nothing of whether near-duplicates may differ."""
    targets = np.zeros((400, 1), np.int8)
    targets[:carriers] = 1
    scores = np.full((400, 1), 0.05) + 0.1 * targets
    found = doubts(targets, scores, groups=np.r_[np.arange(399), 0]).values  # the last is the first again, without the label
    assert found[399, 0] > 0.4
    assert order(found)[0] == 399


def test_doubts_are_finite_and_between_0_and_1_whatever_the_scores() -> None:
    rng = np.random.default_rng(0)
    for n, n_labels in itertools.product((0, 1, 2, 30), (1, 3)):
        given = rng.integers(0, 2, (n, n_labels)).astype(np.int8)
        scores = np.where(rng.random(given.shape) < 0.2, rng.choice([-9.0, 0.0, 1.0, 9.0], given.shape), rng.random(given.shape))
        found = doubts(given, scores, scores[::-1], groups=np.arange(n) // 2)
        assert found.values.shape == found.reason.shape == given.shape
        assert (np.isfinite(found.values) & (found.values >= 0) & (found.values <= 1)).all()


def test_every_cell_is_ranked_once_and_ties_keep_their_order() -> None:
    targets = np.array([[0, 1], [1, 0]], np.int8)
    nothing = np.zeros(2)
    found = Doubts(
        np.array([[0.2, 0.9], [0.2, 0.1]]), np.array([[0, 1], [2, 0]], np.int8), NoiseModel(nothing, nothing, nothing, nothing)
    )
    half = np.full((2, 2), 0.5)
    listed = list(rank(["a", "b"], ["train", "test"], ["sea", "trees"], targets, half, half / 2, half / 5, found))
    assert [(s.image, s.split, s.label, s.kind, s.reason, s.rank) for s in listed] == [
        ("a", "train", "trees", "extra", "hard", 1), ("a", "train", "sea", "missing", "slip", 2),
        ("b", "test", "sea", "extra", "twin", 3), ("b", "test", "trees", "missing", "slip", 4),
    ]  # fmt: skip
    assert [(s.given, s.probability, s.in_context, s.spread, s.doubt) for s in listed[:2]] == [
        (1, 0.5, 0.25, 0.1, 0.9), (0, 0.5, 0.25, 0.1, 0.2),
    ]  # fmt: skip


def test_an_image_is_as_doubtful_as_its_worst_cell_or_as_all_of_them_together() -> None:
    """One in two and one in five, if independent: four in ten are right in both, six in ten are not."""
    found = np.array([[0.5, 0.2, 0.0], [0.0, 0.0, 0.0], [1.0, 0.5, 0.1]])
    assert worst_cell(found) == pytest.approx([0.5, 0.0, 1.0])
    assert whole_image(found) == pytest.approx([0.6, 0.0, 1.0])


def test_an_image_without_labels_has_no_doubt() -> None:
    assert worst_cell(np.zeros((2, 0))) == pytest.approx([0, 0])
    assert whole_image(np.zeros((2, 0))) == pytest.approx([0, 0])


def test_expected_errors_are_the_sums_of_doubts_of_each_label_and_kind() -> None:
    targets = np.array([[0, 1], [0, 1], [1, 1]], np.int8)
    counts = count_errors(["sea", "trees"], targets, np.array([[0.5, 0.1], [0.25, 0.0], [0.2, 0.3]]))
    assert [(c.label, c.kind) for c in counts] == [(label, kind) for label in ("sea", "trees") for kind in ("missing", "extra")]
    assert [c.expected for c in counts] == pytest.approx([0.75, 0.2, 0.0, 0.4])
    assert all(0 <= c.low <= c.expected <= c.high for c in counts)
    assert all(c.high <= cells for c, cells in zip(counts, [2, 1, 0, 3], strict=True)), "there are no more errors than cells"


@pytest.mark.parametrize(("missing", "extra"), [(0.2, 0.01), (0.1, 0.05)])
def test_intervals_hold_the_planted_number_in_nine_worlds_of_ten(missing: float, extra: float) -> None:
    held = []
    for seed in range(10):
        truth, given, scores = world(100 + seed, missing=missing, extra=extra, n=1500)
        wrong = given != truth
        for count, (k, value) in zip(
            count_errors(list("abcd"), given, doubts(given, scores).values), itertools.product(range(4), (0, 1)), strict=True
        ):
            held.append(count.low <= wrong[given[:, k] == value, k].sum() <= count.high)
    assert len(held) == 80
    assert np.mean(held) >= 0.9


def cells(n: int = 200) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Doubts, given values and labels of n cells: 2 values x 3 labels in turn, doubts of every size in each."""
    doubt = np.random.default_rng(0).beta(0.3, 0.5, n)
    return doubt, np.arange(n) % 2, np.arange(n) // 2 % 3


NOBODY = np.zeros(0, np.int64)


def test_without_decisions_the_doubts_are_the_same() -> None:
    doubt, given, label = cells()
    assert (relearned(doubt, given, label, NOBODY, NOBODY.astype(bool)) == doubt).all()


def log_odds_moved(was_wrong: bool) -> dict[tuple[int, int], float]:
    """By how much each (given, label) moves after 12 decisions on cells of label 0 that stand as 0."""
    doubt, given, label = cells()
    doubt = doubt.clip(0.01, 0.99)
    decided = np.flatnonzero((given == 0) & (label == 0))[:12]
    found = relearned(doubt, given, label, decided, np.full(12, was_wrong))
    moved = np.log(found / (1 - found)) - np.log(doubt / (1 - doubt))
    return {(g, k): float(moved[(given == g) & (label == k)].mean()) for g in (0, 1) for k in range(3)}


def test_suspects_that_all_were_wrong_raise_that_label_and_kind_most_then_the_kind() -> None:
    moved = log_odds_moved(True)
    assert moved[0, 0] > moved[0, 1] + 0.1
    assert moved[0, 1] > 0.1
    assert moved[0, 1] == pytest.approx(moved[0, 2])


def test_suspects_that_all_were_right_lower_that_label_and_kind_most_then_the_kind() -> None:
    moved = log_odds_moved(False)
    assert moved[0, 0] < moved[0, 1] - 0.1
    assert moved[0, 1] < -0.1


def test_decisions_on_missing_labels_say_nothing_of_extra_ones() -> None:
    moved = log_odds_moved(True)
    assert [moved[1, k] for k in range(3)] == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("doubt", [0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize(("n", "n_wrong"), [(3, 0), (10, 0), (100, 0), (50, 47), (20, 20)])
def test_what_is_relearned_is_the_best_fit_however_firm_the_doubts(doubt: float, n: int, n_wrong: int) -> None:
    """Decisions that all say "right" about firm doubts: Newton's whole steps went to and fro for ever, and nothing moved.

    The reference is scipy's minimum of the same penalised likelihood, over the one number a kind and the one a label.
    """
    found = relearned(np.full(n, doubt), np.zeros(n, np.int64), np.zeros(n, np.int64), np.arange(n), np.arange(n) < n_wrong)
    raw = np.log(doubt / (1 - doubt))
    start = raw if raw < 6 else 6 + 0.01 * (raw - 6)

    def loss(bias: npt.NDArray[np.float64]) -> float:
        p = 1 / (1 + np.exp(-start - bias.sum()))
        fit = -n_wrong * np.log(p) - (n - n_wrong) * np.log(1 - p + 0.02 * p)
        return float(fit + bias[0] ** 2 / (2 * 1.5**2) + bias[1] ** 2 / (2 * 0.7**2))

    best = minimize(loss, [0, 0]).x
    assert found == pytest.approx(np.full(n, 1 / (1 + np.exp(-start - best.sum()))), abs=1e-4)
    if not n_wrong:
        assert (found < doubt - 0.2).all()


def test_that_the_surest_were_wrong_says_little_of_those_far_below() -> None:
    """Fifty suspects that were thought to be one in six, and all were wrong: the next ones are believed, but 10,000 sound cells do not turn into errors,
    whether or not some of those were looked at and kept, and one changed."""
    doubt = np.r_[np.full(60, 0.16), np.full(10_000, 0.001)]
    zeros = np.zeros(len(doubt), np.int64)
    for kept, changed in ((0, 0), (1, 0), (20, 0), (19, 1)):
        decided = np.r_[np.arange(50), 60 + np.arange(kept + changed)]
        found = relearned(doubt, zeros, zeros, decided, np.r_[np.ones(50, bool), np.arange(kept + changed) < changed])
        assert found[50:60].min() > 0.3
        assert found[60 + kept + changed :].sum() < 2 * doubt[60:].sum()


def test_that_the_surest_were_right_says_less_of_those_far_below() -> None:
    """Forty suspects thought to be wrong nine times in ten, and half of them were right: those beside them fall by far more than those at one in ten."""
    doubt = np.r_[np.full(60, 0.9), np.full(1000, 0.1)]
    zeros = np.zeros(len(doubt), np.int64)
    found = relearned(doubt, zeros, zeros, np.arange(40), np.arange(40) % 2 == 0)
    assert found[40:60].max() < 0.65
    assert 0.04 < found[60:].min() <= found[60:].max() < 0.07
    log_odds = np.log(found / (1 - found)) - np.log(doubt / (1 - doubt))
    assert log_odds[40:60].max() < 2 * log_odds[60:].min() < 0


@pytest.mark.parametrize(("doubt", "n", "n_wrong"), [(1e-4, 20, 20), (1e-4, 200, 10), (1e-3, 200, 4)])
def test_errors_among_cells_that_nobody_suspected_are_believed(doubt: float, n: int, n_wrong: int) -> None:
    """They are where controls show that the first doubts were too low: the doubt of the rest rises at least a third of the way, in log-odds, to the share found."""
    cells = np.full(n + 100, doubt)
    zeros = np.zeros(len(cells), np.int64)
    found = relearned(cells, zeros, zeros, np.arange(n), np.arange(n) < n_wrong)[n:].mean()
    share = min(n_wrong / n, 1 - 1 / n)
    assert np.log(found / doubt) > np.log(share / doubt) / 3


def test_one_slip_of_the_reviewer_moves_the_rest_little() -> None:
    """Forty of doubt 0.99, one of them kept by mistake."""
    doubt = np.r_[np.full(40, 0.99), np.full(20, 0.8)]
    zeros = np.zeros(len(doubt), np.int64)
    found = relearned(doubt, zeros, zeros, np.arange(40), np.arange(40) > 0)
    assert found[40:].mean() > 0.75


def test_firm_suspects_that_were_right_end_below_one_half() -> None:
    """Ten suspects of doubt 0.99, and all of them were right: the eleventh is not believed any more."""
    doubt, zeros = np.full(11, 0.99), np.zeros(11, np.int64)
    assert relearned(doubt, zeros, zeros, np.arange(10), np.zeros(10, bool))[10] < 0.5


def test_the_first_decision_does_not_add_errors_that_nobody_found() -> None:
    """10,000 cells beyond doubt and one decision that says what was expected: the sum of doubts stays."""
    doubt = np.r_[np.full(10_000, 1e-6), 0.5, 0.5]
    zeros = np.zeros(len(doubt), np.int64)
    found = relearned(doubt, zeros, zeros, np.array([10_000, 10_001]), np.array([True, False]))
    assert found.sum() == pytest.approx(doubt.sum(), rel=0.05)


@pytest.mark.parametrize("was_wrong", [True, False])
def test_the_order_within_a_label_and_kind_never_changes(was_wrong: bool) -> None:
    doubt, given, label = cells()
    doubt[:12] = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    doubt[12:24] = np.repeat([1 - 1e-9, 1e-9], 6)
    decided = np.flatnonzero(label == 1)
    found = relearned(doubt, given, label, decided, np.full(len(decided), was_wrong))
    assert (np.isfinite(found) & (found >= 0) & (found <= 1)).all()
    for g, k in itertools.product((0, 1), range(3)):
        group = (given == g) & (label == k)
        before, after = doubt[group], found[group]
        assert (np.diff(after[np.argsort(before, kind="stable")]) >= 0).all()
        assert len(np.unique(after)) == len(np.unique(before)), "and no two doubts become one"


def test_the_same_decisions_in_another_order_teach_the_same() -> None:
    doubt, given, label = cells()
    decided, was_wrong = np.arange(0, 60, 3), np.arange(20) % 3 == 0
    one = relearned(doubt, given, label, decided, was_wrong)
    assert relearned(doubt, given, label, decided[::-1], was_wrong[::-1]) == pytest.approx(one)


def test_how_well_a_label_is_learned_is_judged_as_if_there_were_no_errors() -> None:
    """Four in ten of three in ten are missing: of those not given 0.12 / 0.82 carry the label after all, and 0.854 of the difference is left."""
    truth, given, scores = world(1, missing=0.4, extra=0.0, blur=0.05)
    kept = _kept_apart(given, (scores, scores), doubts(given, scores).noise)
    assert kept == pytest.approx(np.full(4, 1 - 0.12 / 0.82), abs=0.02)
    assert (worth(given, scores - 0.1 * truth) < 0.8).all(), "the negative control"
    assert worth(given, scores - 0.1 * truth, kept) == pytest.approx(worth(truth, scores - 0.1 * truth), abs=0.1)


def test_hard_suspects_keep_their_order_and_weigh_less_where_the_csv_shows_slips() -> None:
    truth, given, scores = world(0)
    alike, slipped = doubts(truth, scores), doubts(given, scores)
    hard = (alike.reason == REASONS.index("hard")) & (slipped.reason == REASONS.index("hard")) & (given == truth)
    hard &= alike.values > 0.05
    assert hard.sum() > 20
    assert (slipped.values[hard] < alike.values[hard]).all()
    for label in range(truth.shape[1]):  # between labels it also counts how well each is learned
        here = hard[:, label]
        assert (np.diff(slipped.values[here, label][np.argsort(alike.values[here, label])]) >= -1e-7).all()


def test_the_count_of_errors_on_hard_pictures_has_a_wide_interval() -> None:
    targets, doubt = np.zeros((100, 1), np.int8), np.full((100, 1), 0.2)
    slips = count_errors(["sea"], targets, doubt, np.zeros((100, 1), np.int8))[0]
    hard = count_errors(["sea"], targets, doubt, np.full((100, 1), REASONS.index("hard"), np.int8))[0]
    assert slips.expected == hard.expected == pytest.approx(20)
    assert hard.low < 2.1
    assert hard.high > slips.high + 19


def test_the_surest_suspects_are_part_of_the_least_that_is_counted() -> None:
    """Nineteen of the next twenty are wrong, and two to 75 in all: one of the two is not so."""
    targets = np.zeros((1000, 4), np.int8)
    doubt = np.full((1000, 4), 0.002)
    doubt[:5] = 0.95
    counts = count_errors(list("abcd"), targets, doubt, np.full((1000, 4), REASONS.index("hard"), np.int8))
    missing = [c for c in counts if c.kind == "missing"]
    assert [c.low for c in missing] == pytest.approx([0.75 * 5] * 4)
    assert all(c.low <= c.expected for c in missing)


def test_a_label_that_was_not_learned_does_not_make_all_its_pictures_suspects() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((400, 2)) < 0.1).astype(np.int8)
    learned = np.where(targets[:, 0] == 1, 0.9, 0.05)
    scores = np.stack([learned, np.full(400, 0.05)], 1) + rng.normal(0, 0.02, (400, 2))
    scores[np.flatnonzero(targets[:, 0])[:2], 0] = 0.02  # two pictures do not show what they are said to
    found = doubts(targets, scores).values
    carried = targets == 1
    assert found[carried[:, 1], 1].max() < 0.15
    assert (found[np.flatnonzero(targets[:, 0])[:2], 0] > 0.3).all()


def test_a_label_in_the_wrong_column_is_two_suspects_and_says_so() -> None:
    truth, _, scores = world(3)
    given = truth.copy()
    rng = np.random.default_rng(0)
    for row in rng.permutation(len(truth))[:60]:
        there, absent = np.flatnonzero(truth[row] == 1), np.flatnonzero(truth[row] == 0)
        if len(there) and len(absent):
            given[row, rng.choice(there)], given[row, rng.choice(absent)] = 0, 1
    found, wrong = doubts(given, scores), given != truth
    first = order(found.values)[: wrong.sum()]
    assert wrong.ravel()[first].mean() > 0.9
    assert (found.reason.ravel()[first] == REASONS.index("moved")).mean() > 0.9


def test_disagreement_says_little_where_no_label_was_learned() -> None:
    """Twenty-five pictures and scores that know next to nothing: half of the cells are not wrong for that."""
    rng = np.random.default_rng(0)
    targets = (rng.random((25, 2)) < 0.4).astype(np.int8)
    unsure = doubts(targets, 0.4 + 0.1 * targets + 0.1 * rng.normal(size=(25, 2))).values
    assert unsure.sum() < 1.5
    assert len(np.unique(unsure)) > 20, "and still there is an order"
    hard = doubts(targets, np.where(np.arange(50).reshape(25, 2) == 7, 1 - targets, targets) * 0.8 + 0.1).values
    assert hard.ravel()[7] > 0.3, "the negative control: one cell against what is well learned"

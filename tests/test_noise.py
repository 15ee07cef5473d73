"""Rates of wrong labels against worlds where every error was planted, and doubts against a table worked out by hand."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from panorama.noise import NoiseModel, doubts_at, fit_noise

Labels = npt.NDArray[np.int8]
Scores = npt.NDArray[np.float64]


def world(
    seed: int, missing: float, extra: float, *, n: int = 2000, n_labels: int = 5, share: float = 0.3, blur: float = 0.12
) -> tuple[Labels, Labels, Scores]:
    """What is there, what the CSV says, and scores that know the first and nothing of the second."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, n_labels)) < share).astype(np.int8)
    scores = 0.15 + 0.7 * truth + rng.normal(0, blur, truth.shape)
    flipped = rng.random(truth.shape) < np.where(truth == 1, missing, extra)
    return truth, np.where(flipped, 1 - truth, truth).astype(np.int8), scores


@pytest.mark.parametrize("extra", [0.01, 0.05])
@pytest.mark.parametrize("missing", [0.05, 0.2, 0.4])
def test_planted_rates_are_recovered_within_a_quarter(missing: float, extra: float) -> None:
    truth, given, scores = world(1, missing, extra)
    found = fit_noise(given, scores)
    forgotten, invented = (given < truth).sum() / truth.sum(), (given > truth).sum() / (1 - truth).sum()
    assert found.missing.mean() == pytest.approx(forgotten, rel=0.25)
    assert found.extra.mean() == pytest.approx(invented, rel=0.25)


@pytest.mark.parametrize("blur", [0.05, 0.12, 0.25])
def test_clean_labels_have_rates_next_to_zero(blur: float) -> None:
    truth, _, scores = world(2, 0, 0, blur=blur)
    found = fit_noise(truth, scores)
    assert (found.missing < 0.001).all()
    assert (found.extra < 0.001).all()
    assert found.believed < 0.6


def test_planted_errors_are_believed() -> None:
    _, given, scores = world(2, 0.05, 0.01)
    assert fit_noise(given, scores).believed > 0.99


def test_belief_grows_with_the_errors_and_makes_no_cliff() -> None:
    """Few extra labels among blurred scores may as well be none: in six worlds they are believed in part, more of them more."""

    def believed(seed: int, n_extra: int) -> float:
        truth, _, scores = world(seed, 0, 0, n=800, blur=0.25)
        absent = np.random.default_rng(seed).permutation(np.flatnonzero(truth == 0))
        truth.ravel()[absent[:n_extra]] = 1
        return fit_noise(truth, scores).believed

    found = np.array([[believed(seed, n) for n in (0, 4, 20)] for seed in range(6)])
    none, few, many = found.mean(0)
    assert none < 0.5 < few < many
    assert many > 0.95
    assert ((found > 0.2) & (found < 0.9)).any(), "no cliff"


def test_a_few_invented_labels_among_few_images_are_believed() -> None:
    """What hard pictures look like grows with the images, so a hundred of them need not be as clear as thousands."""
    believed = [fit_noise(*world(seed, 0, 0.01, n=100)[1:]).believed for seed in range(8)]
    assert np.mean(believed) > 0.8
    assert np.mean([fit_noise(*world(seed, 0, 0, n=100)[1:]).believed for seed in range(8)]) < 0.6, "the negative control"


def test_a_single_score_far_out_does_not_bend_the_curve() -> None:
    _, given, scores = world(4, 0.1, 0, n=300)
    plain = fit_noise(given, scores).missing
    scores[0, 0] = 20.0
    assert fit_noise(given, scores).missing == pytest.approx(plain, abs=0.02)


def test_each_label_has_its_own_rates() -> None:
    truth, _, scores = world(3, 0, 0, n=4000, n_labels=2)
    rng = np.random.default_rng(0)
    given = truth.copy()
    given[(truth[:, 0] == 1) & (rng.random(4000) < 0.3), 0] = 0
    found = fit_noise(given, scores)
    assert found.missing[0] == pytest.approx(0.3, rel=0.25)
    assert found.missing[1] < 0.05


def test_a_rare_label_borrows_the_rate_of_the_others() -> None:
    """Ten images carry the last label and none was forgotten: too few to say that none ever is."""
    truth, given, scores = world(4, 0.2, 0.0)
    rng = np.random.default_rng(0)
    truth[:, 4] = 0
    truth[rng.permutation(2000)[:10], 4] = 1
    given[:, 4] = truth[:, 4]
    scores[:, 4] = 0.15 + 0.7 * truth[:, 4] + rng.normal(0, 0.12, 2000)
    among_others, by_itself = fit_noise(given, scores).missing[4], fit_noise(given[:, 4:], scores[:, 4:]).missing[0]
    assert 0.05 < among_others < 0.2
    assert by_itself < 0.02, "the negative control"


def test_doubts_are_those_of_a_hand_worked_table() -> None:
    """Of 1,000 like cells, 500 truly carry the label: 100 of them (a fifth) stand as 0, of the other 500, 5 stand as 1."""
    found = doubts_at(np.array([[0], [1]], np.int8), np.full((2, 1), 0.5), 0.2, 0.01)
    assert found[:, 0] == pytest.approx([100 / (100 + 495), 5 / (5 + 400)])


def test_rates_of_each_label_meet_the_columns_of_their_label() -> None:
    """Of 1,000 cells, 200 carry the first label and 100 of them stand as 0; the second label is never forgotten."""
    found = doubts_at(np.zeros((3, 2), np.int8), np.full((3, 2), 0.2), np.array([0.5, 0.0]), np.array([0.0, 0.0]))
    assert found == pytest.approx(np.tile([100 / 900, 0.0], (3, 1)))


def test_doubts_mean_what_they_say() -> None:
    """In a world of planted errors and blurred scores, of the cells with a doubt of about one half, half are wrong."""
    truth, given, scores = world(5, 0.2, 0.05, n=10_000, blur=0.25)
    doubt, wrong = fit_noise(given, scores).doubts(given, scores), given != truth
    for low in np.arange(0.1, 1.0, 0.1):
        like = (doubt >= low) & (doubt < low + 0.1)
        assert like.sum() > 200
        assert wrong[like].mean() == pytest.approx(doubt[like].mean(), abs=0.1)


def test_scores_on_another_scale_give_the_same_rates() -> None:
    """Scores need not be calibrated: a curve is fitted to them."""
    _, given, scores = world(6, 0.2, 0.02)
    one, other = fit_noise(given, scores), fit_noise(given, 0.4 + 0.2 * scores)
    assert other.missing == pytest.approx(one.missing, rel=0.05)
    assert other.extra == pytest.approx(one.extra, rel=0.2)


def moved(truth: Labels, share: float, seed: int = 0) -> tuple[Labels, int]:
    """The truth, but in a share of the images one label stands in another column; and how many those are."""
    rng = np.random.default_rng(seed)
    given, count = truth.copy(), 0
    for row in np.flatnonzero(rng.random(len(truth)) < share):
        there, absent = np.flatnonzero(truth[row] == 1), np.flatnonzero(truth[row] == 0)
        if len(there) and len(absent):
            given[row, rng.choice(there)], given[row, rng.choice(absent)] = 0, 1
            count += 1
    return given, count


def test_labels_moved_to_another_column_are_found_as_pairs() -> None:
    """Blurred scores: alone, neither of the two cells is surely wrong. The share is told, and pairs are found that single rates do not find."""
    truth, _, scores = world(10, 0, 0, n_labels=8, blur=0.25)
    given, count = moved(truth, 0.04)
    wrong = given != truth
    pairs, singly = fit_noise(given, scores), fit_noise(given, scores, may_move=False)
    assert pairs.moved * len(given) == pytest.approx(count, rel=0.25)
    hits = [wrong.ravel()[np.argsort(-fit.doubts(given, scores).ravel())[: 2 * count]].mean() for fit in (pairs, singly)]
    assert hits[0] > 0.75
    assert hits[0] > hits[1] + 0.1, "the negative control: rates of single cells"
    doubt, part = pairs.judge(given, scores)
    assert part is not None
    assert (part <= doubt + 1e-12).all()
    assert doubt.sum() == pytest.approx(2 * count, rel=0.25)


@pytest.mark.parametrize(("missing", "extra"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.05), (0.1, 0.02)])
def test_errors_that_befall_single_cells_are_not_taken_for_moved_labels(missing: float, extra: float) -> None:
    _, given, scores = world(11, missing, extra)
    assert fit_noise(given, scores).moved < 0.002


def test_the_doubts_of_moved_labels_are_what_listing_every_pair_gives() -> None:
    """By brute force: nothing moved, or one of the labels that are there was written into the column of one that is not."""
    curve, missing, extra, share = np.array([0.7, 0.1, 0.4, 0.9]), 0.1, 0.02, 0.3
    model = NoiseModel(np.ones(4), np.zeros(4), np.full(4, missing), np.full(4, extra), share)
    given = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.int8)
    u = np.array([float(np.roots([0.3, 0, 1, -z])[-1].real) for z in np.log(curve / (1 - curve))])  # u + 0.3 u^3 = z
    scores = np.tile((u + 1) / 2, (3, 1))

    def likely(there: tuple[int, ...], row: Labels) -> float:
        """P(what is there) P(the values | what is there) where no label moved."""
        kept, slipped = np.where(there, 1 - missing, 1 - extra), np.where(there, missing, extra)
        return float(np.prod(np.where(there, curve, 1 - curve) * np.where(row == there, kept, slipped)))

    for row, found in zip(given, model.doubts(given, scores), strict=True):
        weight, wrong = 0.0, np.zeros(4)
        pairs = [(a, b) for a in np.flatnonzero(row == 0) for b in np.flatnonzero(row == 1)]
        for there in itertools.product((0, 1), repeat=4):
            plain = likely(there, row) * (1 - share if pairs else 1)
            weight, wrong = weight + plain, wrong + plain * (row != there)
            for a, b in pairs:
                if there[a] and not there[b]:  # back to where it was: the pair explained, its cells slip no more
                    rest = [k for k in range(4) if k not in (a, b)]
                    odds = np.prod([likely_cell(curve[k], there[k], int(row[k]), missing, extra) for k in rest])
                    moved_here = share / len(pairs) * curve[a] * (1 - curve[b]) * float(odds)
                    weight, wrong = weight + moved_here, wrong + moved_here * (row != there)
        assert found == pytest.approx(wrong / weight), row


def likely_cell(curve: float, there: int, value: int, missing: float, extra: float) -> float:
    slip = missing if there else extra
    return (curve if there else 1 - curve) * (1 - slip if value == there else slip)


def test_labels_that_cannot_be_seen_do_not_speak_for_the_others() -> None:
    """Of twenty labels four can be told from the scores; one value in fifty was invented, everywhere."""
    truth, given, scores = world(12, 0, 0.02, n=1500, n_labels=20)
    rng = np.random.default_rng(0)
    scores[:, 4:] = 0.3 + 0.05 * rng.normal(size=(1500, 16)) + 0.02 * truth[:, 4:]
    found = fit_noise(given, scores)
    assert (found.missing == 0).all()
    assert found.extra == pytest.approx(np.full(20, 0.02), rel=0.4)


def without_positives() -> tuple[Labels, Scores]:
    truth, _, scores = world(7, 0, 0, n=100)
    truth[:, 2] = 0
    return truth, scores


EDGES = {
    "a label without positives": without_positives(),
    "no label at all is ever carried": (np.zeros((50, 3), np.int8), np.full((50, 3), 0.1)),
    "every value is 1": (np.ones((50, 3), np.int8), np.full((50, 3), 0.9)),
    "columns all equal": (np.tile(np.arange(40) % 2, (3, 1)).T.astype(np.int8), np.tile(np.linspace(0, 1, 40), (3, 1)).T),
    "scores all the same": (np.arange(60).reshape(30, 2).astype(np.int8) % 2, np.full((30, 2), 0.5)),
    "scores far outside 0 to 1": (np.arange(40).reshape(20, 2).astype(np.int8) % 2, np.tile([-50.0, 50.0], (20, 1))),
    "the truth turned round": (np.tile([[0], [1]], (30, 2)).astype(np.int8), np.tile([[1.0], [0.0]], (30, 2))),
    "one image": (np.array([[0, 1]], np.int8), np.array([[0.9, 0.1]])),
    "no image": (np.zeros((0, 3), np.int8), np.zeros((0, 3))),
    "no label": (np.zeros((4, 0), np.int8), np.zeros((4, 0))),
    "500 labels": world(8, 0.2, 0.01, n=60, n_labels=500)[1:],
}


@pytest.mark.parametrize("edge", EDGES)
def test_at_the_edges_of_sense_rates_and_doubts_are_finite_and_in_range(edge: str) -> None:
    given, scores = EDGES[edge]
    found = fit_noise(given, scores)
    doubt = found.doubts(given, scores)
    assert doubt.shape == given.shape
    assert np.isfinite([found.slope, found.offset]).all()
    assert ((found.missing >= 0) & (found.missing < 1) & (found.extra >= 0) & (found.extra < 1)).all()
    assert (np.isfinite(doubt) & (doubt >= 0) & (doubt <= 1)).all()


def test_rare_labels_that_hardly_score_are_not_taken_for_forgotten_ones() -> None:
    """Found by trying: half of one per cent positives, scores that barely leave 0, no error at all."""
    rng = np.random.default_rng(0)
    targets = (rng.random((1000, 40)) < 0.005).astype(np.int8)
    scores = (0.005 + 0.004 * rng.normal(size=targets.shape) + 0.012 * targets).astype(np.float32)
    found = fit_noise(targets, scores)
    assert found.doubts(targets, scores).sum() < 0.05 * targets.sum()


def test_one_label_of_five_that_is_often_forgotten_keeps_its_own_rate() -> None:
    """All are seen equally well. A rate held at what the labels share would make the model with missing labels look worse than none."""
    truth, _, scores = world(6, 0, 0, blur=0.08)
    given = truth.copy()
    given[(truth[:, 0] == 1) & (np.random.default_rng(0).random(2000) < 0.4), 0] = 0
    found = fit_noise(given, scores)
    assert found.missing[0] == pytest.approx(0.4, rel=0.15)
    assert found.missing[1:].max() < 0.01


def test_a_label_that_is_often_forgotten_keeps_its_rate_beside_four_that_are_seen_better_and_never_are() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((3000, 5)) < 0.3).astype(np.int8)
    scores = 0.15 + 0.7 * truth + rng.normal(size=truth.shape) * np.array([0.05, 0.05, 0.05, 0.05, 0.25])
    given = np.where(rng.random(truth.shape) < np.where(truth == 1, [0, 0, 0, 0, 0.5], 0), 0, truth).astype(np.int8)
    found = fit_noise(given, scores)
    assert found.doubts(given, scores)[:, 4][given[:, 4] == 0].sum() == pytest.approx((given < truth).sum(), rel=0.25)
    invented = np.where(rng.random(truth.shape) < np.where(truth == 0, [0, 0, 0, 0, 0.05], 0), 1, truth).astype(np.int8)
    found = fit_noise(invented, scores)
    assert found.doubts(invented, scores)[invented == 1].sum() == pytest.approx((invented > truth).sum(), rel=0.25)


def half_seen(seed: int, *, visible: int) -> tuple[Labels, Labels, Scores]:
    """One label in twenty is missing. The first labels are plain to see; of the other six the score is the chance that they are there."""
    rng = np.random.default_rng(seed)
    plain = np.arange(visible + 6) < visible
    chance = np.where(plain, rng.random((2000, visible + 6)) < 0.3, rng.beta(0.3, 1.0, (2000, visible + 6)))
    truth = (rng.random(chance.shape) < chance).astype(np.int8)
    scores = np.where(plain, 0.15 + 0.7 * chance + rng.normal(0, 0.12, chance.shape), chance)
    return truth, np.where((truth == 1) & (rng.random(truth.shape) < 0.05), 0, truth).astype(np.int8), scores


@pytest.mark.parametrize("seed", range(3))
def test_labels_that_are_hard_to_see_borrow_the_rate_of_those_that_are_seen(seed: int) -> None:
    _, given, scores = half_seen(seed, visible=4)
    assert fit_noise(given, scores).missing[4:].mean() < 0.07
    by_themselves = fit_noise(given[:, 4:], scores[:, 4:]).missing
    assert by_themselves.mean() > 0.13, "the negative control"


def test_extra_labels_that_are_hard_to_see_borrow_too() -> None:
    truth, _, scores = half_seen(0, visible=4)
    given = np.where((truth == 0) & (np.random.default_rng(99).random(truth.shape) < 0.03), 1, truth).astype(np.int8)
    assert fit_noise(given, scores).extra[4:] == pytest.approx(np.full(6, 0.03), rel=0.3)
    by_themselves = fit_noise(given[:, 4:], scores[:, 4:]).extra
    assert by_themselves.mean() < 0.6 * 0.03, "the negative control"


def test_positives_of_rare_labels_that_cannot_be_seen_are_not_all_invented() -> None:
    """Five labels are plain and three cells in a thousand invented; of five rare ones the scores know nothing."""
    rng = np.random.default_rng(0)
    truth = (rng.random((2000, 10)) < np.repeat([0.3, 0.02], 5)).astype(np.int8)
    plain = np.arange(10) < 5
    scores = np.where(plain, 0.15 + 0.7 * truth + 0.15 * rng.normal(size=truth.shape), 0.02 + 0.02 * rng.normal(size=truth.shape))
    given = np.where((truth == 0) & plain & (rng.random(truth.shape) < 0.003), 1, truth).astype(np.int8)
    found = fit_noise(given, scores)
    doubt = found.doubts(given, scores)
    assert found.extra[5:].max() < 0.01
    assert doubt[:, 5:][given[:, 5:] == 1].mean() < 0.2


def test_where_scores_say_nothing_few_errors_are_expected() -> None:
    rng = np.random.default_rng(1)
    given = (rng.random((1000, 5)) < 0.05).astype(np.int8)
    scores = 0.05 + 0.02 * rng.normal(size=given.shape)
    assert fit_noise(given, scores).doubts(given, scores)[given == 1].sum() < 0.1 * given.sum()

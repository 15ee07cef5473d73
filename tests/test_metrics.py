"""Metrics against scikit-learn, and what cannot be measured against the words for it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from panorama import metrics


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=60))
def test_average_precision_is_scikit_learns_also_with_ties(rows: list[tuple[int, int]]) -> None:
    target = np.array([row[0] for row in rows], np.int8)
    probability = np.array([row[1] / 20 for row in rows])
    ours = metrics.average_precision(target, probability)
    if not target.any():
        assert ours is None
    else:
        assert ours == pytest.approx(reference.average_precision_score(target, probability))


def test_average_precision_of_a_hand_made_ranking() -> None:
    # yes, no, yes: precision 1 at recall 1/2, 2/3 at recall 1.
    assert metrics.average_precision(np.array([1, 0, 1], np.int8), np.array([0.9, 0.8, 0.7])) == pytest.approx((1 + 2 / 3) / 2)


def test_measure_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (200, 4)).astype(np.int8)
    probabilities = np.clip(targets * 0.3 + rng.random((200, 4)) * 0.7, 0, 1)
    predicted = probabilities > 0.5
    found = metrics.measure(list("abcd"), targets, probabilities)
    assert found["macro"]["average_precision"] == pytest.approx(
        reference.average_precision_score(targets, probabilities, average="macro")
    )
    assert found["macro"]["f1"] == pytest.approx(reference.f1_score(targets, predicted, average="macro"))
    assert found["macro"]["precision"] == pytest.approx(reference.precision_score(targets, predicted, average="macro"))
    assert found["macro"]["recall"] == pytest.approx(reference.recall_score(targets, predicted, average="macro"))
    assert found["subset_accuracy"] == pytest.approx(reference.accuracy_score(targets, predicted))
    assert found["hamming_loss"] == pytest.approx(reference.hamming_loss(targets, predicted))
    assert metrics.binary_cross_entropy(targets, probabilities) == pytest.approx(
        np.mean([reference.log_loss(targets[:, k], probabilities[:, k]) for k in range(4)]), rel=1e-5
    )


def test_what_cannot_be_measured_is_none_and_not_averaged() -> None:
    targets = np.array([[1, 0], [0, 0]], np.int8)
    found = metrics.measure(["sea", "never"], targets, np.array([[0.9, 0.1], [0.2, 0.3]]))
    assert found["labels"]["never"]["average_precision"] is None
    assert found["labels"]["never"]["f1"] is None
    assert found["labels"]["never"]["precision"] is None
    assert found["macro"]["average_precision"] == 1.0
    json.dumps(found, allow_nan=False)
    json.dumps(metrics.measure(["sea"], np.zeros((0, 1), np.int8), np.zeros((0, 1))), allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 20)), min_size=1, max_size=40))
def test_no_other_threshold_has_a_higher_f1(rows: list[tuple[int, int]]) -> None:
    target = np.array([row[0] for row in rows], np.int8)
    probability = np.array([row[1] / 20 for row in rows])
    best = metrics.best_threshold(target, probability)
    if best is None:
        assert not target.any()
        return

    def f1(threshold: float) -> float:
        return float(reference.f1_score(target, probability > threshold, zero_division=0))

    assert f1(best) >= max(f1(threshold) for threshold in [-1.0, *probability]) - 1e-9


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=1, max_size=60))
def test_the_precision_recall_curve_is_scikit_learns_also_with_ties(rows: list[tuple[int, int]]) -> None:
    target = np.array([row[0] for row in rows], np.int8)
    probability = np.array([row[1] / 12 for row in rows])
    ours = metrics.precision_recall_curve(target, probability)
    if not target.any():
        assert ours is None
        return
    assert ours is not None
    for mine, theirs in zip(ours, reference.precision_recall_curve(target, probability), strict=True):
        np.testing.assert_allclose(mine, theirs)


def test_calibration_of_hand_made_cells() -> None:
    # Bin 0.0-0.1: 0.05 said, a quarter carried. Bin 0.9-1.0: (0.9 + 1.0) / 2 said, all carried. The error: (4 * 0.20 + 2 * 0.05) / 6.
    found = metrics.calibration(np.array([0, 0, 0, 1, 1, 1], np.int8), np.array([0.05, 0.05, 0.05, 0.05, 0.9, 1.0]))
    assert found is not None
    assert [(b.low, b.high, b.cells, round(b.said, 9), b.carried) for b in found.bins] == [
        (0.0, 0.1, 4, 0.05, 0.25),
        (0.9, 1.0, 2, 0.95, 1.0),
    ]
    assert found.error == pytest.approx((4 * 0.20 + 2 * 0.05) / 6)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=80))
def test_every_cell_is_in_one_bin_and_bins_average_to_the_whole(rows: list[tuple[int, float]]) -> None:
    target, probability = np.array([r[0] for r in rows], np.int8), np.array([r[1] for r in rows])
    found = metrics.calibration(target, probability)
    assert found is not None
    assert sum(b.cells for b in found.bins) == len(rows)
    assert sum(b.cells * b.said for b in found.bins) == pytest.approx(probability.sum(), abs=1e-9)
    assert sum(b.cells * b.carried for b in found.bins) == pytest.approx(target.sum(), abs=1e-9)
    assert abs(target.mean() - probability.mean()) - 1e-9 <= found.error <= 1
    assert all(b.low - 1e-9 <= b.said <= b.high + 1e-9 for b in found.bins)


def test_calibration_agrees_with_scikit_learn_and_of_nothing_is_none() -> None:
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    probability = rng.random(500)
    target = (rng.random(500) < probability).astype(np.int8)
    found = metrics.calibration(target, probability)
    assert found is not None
    carried, said = calibration_curve(target, probability, n_bins=10)
    np.testing.assert_allclose([b.carried for b in found.bins], carried)
    np.testing.assert_allclose([b.said for b in found.bins], said)
    assert metrics.calibration(np.zeros((0, 2), np.int8), np.zeros((0, 2))) is None


def test_platt_scaling_finds_the_scale_that_made_the_probabilities_wrong() -> None:
    """Log-odds made three times too large and shifted by one: calibrated by a third of them."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, (4000, 5))
    targets = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(np.int8)
    found = metrics.platt_scaling(targets, 1 / (1 + np.exp(-(3 * true + 1))))
    assert found is not None
    assert (found.slope, found.shift) == (pytest.approx(1 / 3, abs=0.02), pytest.approx(-1 / 3, abs=0.04))
    assert found(np.array([0.0, 1.0])) == pytest.approx([0, 1], abs=0.05)
    assert found.n_cells == 20_000


def test_platt_scaling_is_a_logistic_regression_on_the_log_odds() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    p = rng.uniform(0.05, 0.95, (500, 4))
    targets = (rng.random(p.shape) < p**2).astype(np.int8)
    found = metrics.platt_scaling(targets, p)
    x = np.log(p / (1 - p)).reshape(-1, 1)
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(x, targets.ravel())
    assert found is not None
    assert found.slope == pytest.approx(float(reference.coef_[0, 0]), abs=0.02), "all but the smoothed targets"
    assert found.shift == pytest.approx(float(reference.intercept_[0]), abs=0.02)


def test_platt_scaling_of_separated_reversed_or_constant_answers_is_defined() -> None:
    p = np.array([[0.1], [0.2], [0.8], [0.9]])
    targets = np.array([[0], [0], [1], [1]], np.int8)
    found = metrics.platt_scaling(targets, p)
    assert found is not None
    assert np.isfinite([found.slope, found.shift]).all()
    reversed_ = metrics.platt_scaling(1 - targets, p)
    assert reversed_ is not None
    assert reversed_.slope == 0.01
    assert metrics.platt_scaling(np.zeros((3, 2), np.int8), np.full((3, 2), 0.5)) is None
    assert metrics.platt_scaling(np.zeros((0, 2), np.int8), np.zeros((0, 2))) is None

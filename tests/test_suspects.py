"""Doubt against a table worked out by hand, and the order of suspects."""

import numpy as np
import pytest

from panorama.suspects import doubts, rank


def test_doubt_is_the_posterior_of_a_hand_worked_table() -> None:
    """Of 1,000 like cells with p = 0.5, 500 truly carry the label: 100 of them (a fifth) stand as 0, of the other 500, 5 stand as 1."""
    targets = np.array([[0], [1]], np.int8)
    found = doubts(targets, np.array([[0.5], [0.5]]), missing_rate=0.2, extra_rate=0.01)
    assert found[0, 0] == pytest.approx(100 / (100 + 495))
    assert found[1, 0] == pytest.approx(5 / (5 + 400))


def test_doubt_grows_with_the_models_disagreement() -> None:
    p = np.linspace(0, 1, 21)[:, None]
    zeros, ones = np.zeros((21, 1), np.int8), np.ones((21, 1), np.int8)
    assert (np.diff(doubts(zeros, p), axis=0) > 0).all()
    assert (np.diff(doubts(ones, p), axis=0) < 0).all()
    assert np.isfinite(doubts(ones, p)).all()
    assert ((doubts(zeros, p) >= 0) & (doubts(zeros, p) <= 1)).all()


def test_a_forgotten_label_comes_before_an_equally_unlikely_extra_one() -> None:
    """Annotators forget far more often than they invent."""
    found = doubts(np.array([[0, 1]], np.int8), np.array([[0.9, 0.1]]))
    assert found[0, 0] > found[0, 1]


def test_planted_errors_rank_higher_than_by_self_confidence() -> None:
    """Labels dropped at random from a calibrated world: the posterior finds more of them than disagreement alone."""
    rng = np.random.default_rng(0)
    truth_probability = rng.beta(0.3, 1.0, (4000, 3))
    truth = (rng.random((4000, 3)) < truth_probability).astype(np.int8)
    given = np.where((truth == 1) & (rng.random((4000, 3)) < 0.1), 0, truth).astype(np.int8)
    wrong = given != truth

    def first(score: np.ndarray) -> float:
        return float(wrong.ravel()[np.argsort(-score.ravel())[:200]].mean())

    self_confidence = np.where(given == 1, 1 - truth_probability, truth_probability)
    assert first(doubts(given, truth_probability)) > first(self_confidence)


def test_every_cell_is_ranked_once_and_ties_keep_their_order() -> None:
    targets = np.array([[0, 1], [1, 0]], np.int8)
    listed = rank(
        ["a", "b"], ["train", "test"], ["sea", "trees"], targets, np.full((2, 2), 0.5), np.array([[0.2, 0.9], [0.2, 0.1]])
    )
    assert [(s.image, s.label, s.kind, s.rank) for s in listed] == [
        ("a", "trees", "extra", 1), ("a", "sea", "missing", 2), ("b", "sea", "extra", 3), ("b", "trees", "missing", 4),
    ]  # fmt: skip

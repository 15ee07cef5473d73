"""Out of fold means out of fold: tested with labels that only memory can know."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from panorama.crossval import heads_judge, logistic_heads, out_of_fold
from panorama.metrics import average_precision


def test_heads_reach_scikit_learns_solution() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20)).astype(np.float32)
    y = (x[:, :3] + rng.normal(size=(300, 3)) > 0.5).astype(np.int8)
    weights, biases = logistic_heads(x, y, c=0.1)
    for k in range(3):
        reference = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(x, y[:, k])
        assert weights[:, k] == pytest.approx(reference.coef_[0], abs=2e-3)
        assert biases[k] == pytest.approx(reference.intercept_[0], abs=2e-3)


def test_random_labels_cannot_be_predicted_out_of_fold() -> None:
    """400 features can memorise 200 random labels: in sample they look perfect, out of fold they stay at chance."""
    rng = np.random.default_rng(1)
    features, targets = rng.normal(size=(200, 400)).astype(np.float32), rng.integers(0, 2, (200, 1)).astype(np.int8)
    found = out_of_fold(heads_judge(features, targets), targets, folds=5, repeats=2, seed=0)
    honest = average_precision(targets[:, 0], found.probabilities[:, 0])
    judge = heads_judge(features, targets)
    everyone = np.arange(200)
    leaking = average_precision(targets[:, 0], judge(everyone, everyone, 0)[:, 0])
    assert honest is not None
    assert leaking is not None
    assert leaking > 0.99, "the negative control: judged by a model trained on it"
    assert honest < 0.65


def test_near_duplicates_share_a_fold() -> None:
    """Pairs of identical pictures with random labels: a twin in the training folds would give the label away."""
    rng = np.random.default_rng(2)
    half, labels = rng.normal(size=(100, 300)).astype(np.float32), rng.integers(0, 2, (100, 1)).astype(np.int8)
    features, targets = np.vstack([half, half]), np.vstack([labels, labels])
    groups = np.r_[np.arange(100), np.arange(100)]
    judge = heads_judge(features, targets)
    apart = out_of_fold(judge, targets, folds=5, repeats=1, seed=0).probabilities[:, 0]
    together = out_of_fold(judge, targets, folds=5, repeats=1, seed=0, groups=groups).probabilities[:, 0]
    leaked, honest = average_precision(targets[:, 0], apart), average_precision(targets[:, 0], together)
    assert leaked is not None
    assert honest is not None
    assert leaked > honest + 0.15


def test_every_image_is_judged_and_by_a_model_that_was_not_given_it() -> None:
    targets = np.eye(3, dtype=np.int8)[np.arange(30) % 3]
    seen: list[int] = []

    def judge(training: np.ndarray, held_out: np.ndarray, number: int) -> np.ndarray:
        assert not set(training) & set(held_out)
        assert len(training) + len(held_out) == 30
        seen.extend(held_out.tolist())
        return np.full((len(held_out), 3), number, np.float32)

    found = out_of_fold(judge, targets, folds=3, repeats=2, seed=0)
    assert sorted(seen) == sorted([*range(30), *range(30)])
    assert found.spread.shape == (30, 3)
    assert (found.spread > 0).all(), "the number of the fold differs between repeats"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_images_and_labels_without_positives_give_numbers(n: int) -> None:
    targets = np.zeros((n, 2), np.int8)
    targets[0, 1] = 1
    found = out_of_fold(heads_judge(np.ones((n, 4), np.float32), targets), targets, folds=5, repeats=1, seed=0)
    assert np.isfinite(found.probabilities).all()
    assert ((found.probabilities > 0) & (found.probabilities < 1)).all()

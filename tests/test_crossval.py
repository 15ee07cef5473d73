"""Out of fold means out of fold: tested with labels that only memory can know."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from panorama.config import TrainConfig
from panorama.crossval import heads_judge, out_of_fold, trained_judge
from panorama.features import Pixels
from panorama.hardware import Precisions
from panorama.kernel import Judgement, Likeness, joined
from panorama.metrics import average_precision
from panorama.model import Classifier

FLOAT32 = Precisions(torch.float32, torch.float32)
Indices = npt.NDArray[np.int64]


def measured(targets: npt.NDArray[np.int8], scores: npt.NDArray[np.float32]) -> float:
    found = average_precision(targets, scores)
    assert found is not None
    return found


@pytest.mark.parametrize("which", ["scores", "in_context"])
def test_random_labels_cannot_be_predicted_out_of_fold(which: str) -> None:
    """400 features can memorise 200 random labels: in sample they look perfect, out of fold they stay at chance."""
    rng = np.random.default_rng(1)
    features, targets = joined(rng.normal(size=(200, 400))), rng.integers(0, 2, (200, 2)).astype(np.int8)
    judge = heads_judge(Likeness(features), targets)
    found = out_of_fold(judge, targets, folds=5, repeats=2, seed=0)
    leaking = judge(np.arange(200), np.arange(200), 0)
    assert measured(targets[:, 0], leaking.alone[:, 0]) > 0.99, "the negative control: judged by a model trained on it"
    assert measured(targets[:, 0], getattr(found, which)[:, 0]) < 0.65


def test_near_duplicates_share_a_fold() -> None:
    """Pairs of identical pictures with random labels: a twin in the training folds would give the label away."""
    rng = np.random.default_rng(2)
    half, labels = rng.normal(size=(100, 300)), rng.integers(0, 2, (100, 1)).astype(np.int8)
    features, targets = joined(np.vstack([half, half])), np.vstack([labels, labels])
    groups = np.r_[np.arange(100), np.arange(100)]
    judge = heads_judge(Likeness(features), targets)
    apart = out_of_fold(judge, targets, folds=5, repeats=1, seed=0).probabilities[:, 0]
    together = out_of_fold(judge, targets, folds=5, repeats=1, seed=0, groups=groups).probabilities[:, 0]
    assert measured(targets[:, 0], apart) > measured(targets[:, 0], together) + 0.15


def test_every_image_is_judged_and_by_a_model_that_was_not_given_it() -> None:
    targets = np.eye(3, dtype=np.int8)[np.arange(30) % 3]
    seen: list[int] = []

    def judge(training: Indices, held_out: Indices, number: int) -> Judgement:
        assert not set(training) & set(held_out)
        assert len(training) + len(held_out) == 30
        seen.extend(held_out.tolist())
        scores = np.full((len(held_out), 3), number, np.float32)
        return Judgement(scores, scores)

    found = out_of_fold(judge, targets, folds=3, repeats=2, seed=0)
    assert sorted(seen) == sorted([*range(30), *range(30)])
    assert found.spread.shape == (30, 3)
    assert (found.spread > 0).all(), "the number of the fold differs between repeats"


def test_scores_are_means_over_repeats_and_probabilities_stay_within_0_and_1() -> None:
    """Judges that say -0.5 and 1 in the first repeat and 0.5 and 2 in the second: 0 and 1.5, and 0.5 apart from the mean."""
    targets = np.tile(np.array([[0, 1], [1, 0]], np.int8), (5, 1))

    def judge(_: Indices, held_out: Indices, number: int) -> Judgement:
        alone = np.tile(np.array([-0.5, 1], np.float32) + number // 2, (len(held_out), 1))
        return Judgement(alone, alone + 10)

    found = out_of_fold(judge, targets, folds=2, repeats=2, seed=0)
    assert found.scores == pytest.approx(np.tile([0.0, 1.5], (10, 1)))
    assert found.in_context == pytest.approx(np.tile([10.0, 11.5], (10, 1)))
    assert found.spread == pytest.approx(np.full((10, 2), 0.5))
    assert found.probabilities == pytest.approx(np.tile([0.0, 1.0], (10, 1)))


def test_the_value_of_a_cell_is_used_nowhere_in_the_score_of_its_fold() -> None:
    rng = np.random.default_rng(3)
    features, targets = joined(rng.normal(size=(60, 20))), rng.integers(0, 2, (60, 2)).astype(np.int8)
    turned = targets.copy()
    turned[7, 0] ^= 1
    training, held_out = np.arange(10, 60), np.arange(10)
    one, other = (heads_judge(Likeness(features), values)(training, held_out, 0) for values in (targets, turned))
    assert (one.alone == other.alone).all()
    assert (one.in_context[:, 0] == other.in_context[:, 0]).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_handful_of_images_and_labels_without_positives_give_numbers(n: int) -> None:
    targets = np.zeros((n, 2), np.int8)
    targets[0, 1] = 1
    found = out_of_fold(heads_judge(Likeness(np.ones((n, 4), np.float32)), targets), targets, folds=5, repeats=1, seed=0)
    for values in (found.probabilities, found.in_context, found.spread):
        assert values.shape == (n, 2)
        assert ((values >= 0) & (values <= 1)).all()


def test_a_fold_too_small_to_train_on_is_given_the_base_rates_without_training() -> None:
    """Half a picture is added to each count: 1 of 1 is 1.5 of 2, and 0 of 1 is 0.5 of 2."""

    def no_model() -> Classifier:
        raise AssertionError("nothing to train on")

    targets = np.array([[1, 0], [0, 1]], np.int8)
    judge = trained_judge(no_model, Pixels([], [], 32), targets, TrainConfig(), precisions=FLOAT32, groups=np.arange(2))
    found = judge(np.array([0]), np.array([1]), 0)
    assert found.alone == pytest.approx(np.array([[0.75, 0.25]]))
    assert found.in_context == pytest.approx(np.array([[0.75, 0.25]]))

"""Out-of-fold probabilities for every image: no cell is judged by a model that was trained on it.

Two ways. Heads: kernel ridge regression on features of the *pretrained* extractor, which has seen no label of this data set, in
seconds. Trained: a model taken through both phases for each fold, slower, and the only one that says something where the extractor
is not pretrained. Repeated folds; near-duplicates share a fold.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from panorama import kernel
from panorama.config import TrainConfig
from panorama.features import Pixels, extract, whole_pass
from panorama.hardware import Precisions
from panorama.kernel import Judgement
from panorama.model import Classifier
from panorama.split import stratify
from panorama.training import TrainingData, predict_logits, train


@dataclass(frozen=True)
class OutOfFold:
    """Means over repeats, each (n_images, n_labels).

    scores, in_context: about 0 to 1, see `kernel.Judgement`. spread: the standard deviation of `scores` over repeats.
    """

    scores: npt.NDArray[np.float32]
    in_context: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """`scores` within [0, 1]."""
        return self.scores.clip(0, 1)


Judge = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64], int], Judgement]


def out_of_fold(
    judge: Judge,
    targets: npt.NDArray[np.int8],
    *,
    folds: int,
    repeats: int,
    seed: int,
    groups: npt.NDArray[np.int64] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> OutOfFold:
    """Scores from models that never saw the image they judge, nor its near-duplicates.

    judge(training, held_out, number of the fold) gives scores of the images at `held_out` from a model that learned from the images
    at `training` only. groups: (n_images,) near-duplicate ids. A fold that leaves nothing to learn from: one half.
    """
    n_images, n_labels = targets.shape
    folds = max(2, min(folds, n_images))
    alone, in_context = np.full((2, repeats, n_images, n_labels), 0.5, np.float32)
    for repeat in range(repeats):
        fold_of = stratify(targets, (1.0,) * folds, seed=seed * 1000 + repeat, groups=groups)
        for fold in range(folds):
            held_out, training = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
            if len(held_out) and len(training):
                found = judge(training, held_out, repeat * folds + fold)
                alone[repeat, held_out], in_context[repeat, held_out] = found.alone, found.in_context
            on_progress(repeat * folds + fold + 1, repeats * folds)
    return OutOfFold(alone.mean(0), in_context.mean(0), alone.std(0))


def heads_judge(likeness: kernel.Likeness, targets: npt.NDArray[np.int8]) -> Judge:
    """Judges by kernel ridge regression on how like the images are."""
    return lambda training, held_out, number: kernel.judge(likeness, targets, training, held_out, seed=number)


def trained_judge(
    make_model: Callable[[], Classifier],
    pixels: Pixels,
    targets: npt.NDArray[np.int8],
    config: TrainConfig,
    *,
    precisions: Precisions,
    groups: npt.NDArray[np.int64],
    on_event: Callable[[], None] = lambda: None,
) -> Judge:
    """Judges by a model trained through both phases on part of the fold's training images, stopped early by the rest of them.

    In context it is kernel ridge regression on that model's features. A fold with too few images to hold any out for early
    stopping is given the base rates.

    make_model: a fresh model, the same each time. on_event is called at each event of a training and may raise to stop it.
    """

    def judge(training: npt.NDArray[np.int64], held_out: npt.NDArray[np.int64], number: int) -> Judgement:
        share = config.validation_share
        part = stratify(targets[training], (1 - share, share), seed=config.seed + number, groups=groups[training])
        learn, watch = training[part == 0], training[part == 1]
        if not len(learn) or not len(watch):
            rates = _base_rates(targets[training], len(held_out))
            return Judgement(rates, rates)
        model = make_model()
        width = model.head.in_features
        before = whole_pass(model, pixels, image_size=config.image_size, dtype=precisions.features)
        features = extract(before, training, width)
        data = TrainingData(pixels, targets, learn, watch, features[part == 0], features[part == 1])
        for _ in train(model, data, config, precisions=precisions, pretrained=config.weights != "none"):
            on_event()
        alone = torch.sigmoid(predict_logits(model, pixels, held_out, config.image_size)).numpy()
        after = whole_pass(model, pixels, image_size=config.image_size, dtype=precisions.features)
        learned = kernel.Likeness(kernel.joined(extract(after, np.arange(len(pixels)), width)))
        return Judgement(alone, kernel.judge(learned, targets, training, held_out, seed=number).in_context)

    return judge


def _base_rates(targets: npt.NDArray[np.int8], n_images: int) -> npt.NDArray[np.float32]:
    """(n_images, n_labels): what can be said of an image that nothing is known of."""
    base = (targets.sum(0) + 0.5) / (len(targets) + 1)
    return np.tile(base.astype(np.float32), (n_images, 1))

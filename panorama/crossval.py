"""Out-of-fold probabilities for every image: no cell is judged by a model that was trained on it.

Two ways. Heads: logistic regression on features of the *pretrained* extractor, which has seen no label of this data set, in
seconds. Trained: a model taken through both phases for each fold, slower, and the only one that says something where the extractor
is not pretrained. Repeated folds; near-duplicates share a fold.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from panorama.config import TrainConfig
from panorama.features import Features, Pixels, extract
from panorama.model import Classifier
from panorama.split import stratify
from panorama.training import TrainingData, predict_logits, train

# Inverse regularisation on standardised features. Out-of-fold mAP on the real scenes, 2 repeats: 0.0003 0.911, 0.001 0.924,
# 0.003 0.930, 0.01 0.932; average precision of suspects falls from 0.003 on.
_C = 0.003


@dataclass(frozen=True)
class OutOfFold:
    """probabilities: (n_images, n_labels), the mean over repeats; spread: their standard deviation over repeats."""

    probabilities: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]


Judge = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64], int], npt.NDArray[np.float32]]


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
    """Probabilities from models that never saw the image they judge, nor its near-duplicates.

    judge(training, held_out, number of the fold) gives probabilities (n_held_out, n_labels) from a model that learned from the images
    at `training` only. groups: (n_images,) near-duplicate ids.
    """
    n_images, n_labels = targets.shape
    folds = max(2, min(folds, n_images))
    rounds = np.zeros((repeats, n_images, n_labels), np.float32)
    for repeat in range(repeats):
        fold_of = stratify(targets, (1.0,) * folds, seed=seed * 1000 + repeat, groups=groups)
        for fold in range(folds):
            held_out, training = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
            if len(held_out):
                rounds[repeat, held_out] = judge(training, held_out, repeat * folds + fold)
            on_progress(repeat * folds + fold + 1, repeats * folds)
    return OutOfFold(rounds.mean(0), rounds.std(0))


def heads_judge(features: Features, targets: npt.NDArray[np.int8]) -> Judge:
    """Judges by logistic regression on features (n_images, width).

    A label with no positive, or no negative, among a fold's training images gets its base rate there, (positives + 0.5) / (images + 1).
    """
    return lambda training, held_out, number: _heads(features[training], targets[training], features[held_out])


def trained_judge(
    make_model: Callable[[], Classifier],
    pixels: Pixels,
    targets: npt.NDArray[np.int8],
    config: TrainConfig,
    *,
    dtype: torch.dtype,
    groups: npt.NDArray[np.int64],
    on_event: Callable[[], None] = lambda: None,
) -> Judge:
    """Judges by a model trained through both phases on part of the fold's training images, stopped early by the rest of them.

    A fold with too few images to hold any out for early stopping is given the base rates.

    make_model: a fresh model, the same each time. on_event is called at each event of a training and may raise to stop it.
    """

    def judge(training: npt.NDArray[np.int64], held_out: npt.NDArray[np.int64], number: int) -> npt.NDArray[np.float32]:
        share = config.validation_share
        part = stratify(targets[training], (1 - share, share), seed=config.seed + number, groups=groups[training])
        learn, watch = training[part == 0], training[part == 1]
        if not len(learn) or not len(watch):
            return _base_rates(targets[training], len(held_out))
        model = make_model()
        features = extract(model, pixels, training, image_size=config.image_size, dtype=dtype)
        data = TrainingData(pixels, targets, learn, watch, features[part == 0], features[part == 1])
        for _ in train(model, data, config, dtype=dtype, pretrained=config.weights != "none"):
            on_event()
        return torch.sigmoid(predict_logits(model, pixels, held_out, config.image_size, dtype)).numpy()

    return judge


def _heads(features: Features, targets: npt.NDArray[np.int8], held_out: Features) -> npt.NDArray[np.float32]:
    probabilities = _base_rates(targets, len(held_out))
    varied = (targets.sum(0) > 0) & (targets.sum(0) < len(targets))
    if varied.any():
        mean, scale = features.mean(0), features.std(0)
        scale[scale == 0] = 1
        weights, biases = logistic_heads((features - mean) / scale, targets[:, varied], c=_C)
        probabilities[:, varied] = 1 / (1 + np.exp(-((held_out - mean) / scale @ weights + biases)))
    return probabilities


def _base_rates(targets: npt.NDArray[np.int8], n_images: int) -> npt.NDArray[np.float32]:
    """(n_images, n_labels): what can be said of an image that nothing is known of."""
    base = (targets.sum(0) + 0.5) / (len(targets) + 1)
    return np.tile(base.astype(np.float32), (n_images, 1))


def logistic_heads(
    features: Features, targets: npt.NDArray[np.int8], *, c: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Logistic regression for all labels at once: weights (width, n_labels) and biases (n_labels,).

    Minimises c * sum of binary cross entropies + half the squared weights, label by label the objective of scikit-learn's
    LogisticRegression(C=c), whose solution it reaches (tested); one matrix product for all labels makes it many times faster.
    """
    x, y = torch.from_numpy(features), torch.from_numpy(targets.astype(np.float32))
    weights = torch.zeros(features.shape[1], targets.shape[1], requires_grad=True)
    biases = torch.zeros(targets.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, biases],
        max_iter=200,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
    )
    n = len(features)  # the mean loss keeps the gradient's size, and with it the tolerances, independent of the number of images

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        fit = F.binary_cross_entropy_with_logits(x @ weights + biases, y, reduction="sum") / n
        loss = fit + weights.square().sum() / (2 * c * n)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach().numpy(), biases.detach().numpy()

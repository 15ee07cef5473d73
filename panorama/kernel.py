"""Heads on frozen features: kernel ridge regression, alone and in the context of the picture's other labels.

Alone: is the label there, from the picture? In context: the same, for pictures that carry the same *other* labels. The second tells a
forgotten label from a hard picture: a picture between two labels is like pictures that carry one or the other, a picture
that shows both is like pictures that carry both.

K((x, c), (x', c')) = exp(-|x - x'|^2) exp(-|c - c'|^2 / 4) + 1, where c is what is believed of the other labels. The
constant is the intercept.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panorama.noise import NoiseModel, doubts_at, fit_noise

# Chosen on the scenes: out-of-fold mAP, then suspects (docs/decisions.md). The ridge is strong because the targets are noisy.
_RIDGE, _CONTEXT_WEIGHT, _INTERCEPT = 1.0, 0.25, 1.0
_EARLY_WORTH = 0.25  # of the squared distance of two pictures, what their early layers say
_TELLS = 0.01  # standard deviation over largest value of a column from which on it says anything: bfloat16 alone rounds by 0.004
_PLAIN_EXTRA = 0.005  # the least rate of extra labels believed when the context is weighed
# A committee of machines, each on its part of the training images (divide and conquer, Zhang, Duchi and Wainwright 2013), keeps
# the cost linear in the images. A factorisation a label: with many labels the parts are smaller.
_MOST_IN_PART, _LEAST_IN_PART, _LABELS_AT_FULL_SIZE = 2000, 400, 32
_MOST_PARTS = 4
_RARE = 32  # positives among the training images
_AT_ONCE = 1024
_MOST_KEPT = 4_000  # images whose likeness is kept for all folds: 64 MB
_LEAST_ALIKE, _NEARER_BY = 0.9, 0.5


@dataclass(frozen=True)
class Judgement:
    """Scores of images that were held out, both (n_held_out, n_labels), about 0 to 1: least squares may step outside."""

    alone: npt.NDArray[np.float32]
    in_context: npt.NDArray[np.float32]


def joined(*views: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """One row of length 1 an image from several features of it, each (n_images, width), each of equal weight.

    Each is power-normalised, sign(x) sqrt|x| and then to length 1 (Perronnin, Sanchez, Mensink 2010): few large features
    must not decide what is alike.
    """
    return _joined(views, [(0.0, 1.0)] * len(views))


def joined_early(maps: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32] | None:
    """`joined` of the quarters of early maps, each (n_images, 4 * width); None where there are none that tell images apart.

    Each column is first brought to mean 0 and standard deviation 1 over the images, for what the maps have in common is
    most of them; where it is next to the same for all it is 0.
    """
    moments = [_mean_and_scale(rows) for rows in maps]
    telling = [at for at, (_, scale) in enumerate(moments) if scale.any()]
    return _joined([maps[at] for at in telling], [moments[at] for at in telling]) if telling else None


class Likeness:
    """exp(-|a - b|^2) of pairs of images. Of few images computed once, for many folds.

    features: (n_images, width) from `joined`. early: the same from `joined_early`; a quarter of the squared distance is theirs.
    """

    def __init__(self, features: npt.NDArray[np.float32], early: npt.NDArray[np.float32] | None = None) -> None:
        self._features = torch.from_numpy(features)
        self._early = None if early is None else torch.from_numpy(early)
        everything = torch.arange(len(features))
        self._all = self._computed(everything, everything) if len(features) <= _MOST_KEPT else None

    def between(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> Tensor:
        """(len(rows), len(columns))."""
        first, second = torch.from_numpy(rows), torch.from_numpy(columns)
        return self._computed(first, second) if self._all is None else self._all[first[:, None], second]

    def _computed(self, first: Tensor, second: Tensor) -> Tensor:
        cosine = self._features[first] @ self._features[second].T
        if self._early is not None:
            cosine.mul_(1 - _EARLY_WORTH).addmm_(self._early[first], self._early[second].T, alpha=_EARLY_WORTH)
        return cosine.mul_(2).sub_(2).exp_()


def judge(
    likeness: Likeness,
    targets: npt.NDArray[np.int8],
    training: npt.NDArray[np.int64],
    held_out: npt.NDArray[np.int64],
    *,
    seed: int = 0,
) -> Judgement:
    """Scores of the images at `held_out` from the targets of the images at `training`, and the *other* labels of the image itself.

    targets: (n_images, n_labels) of 0/1. A cell's own value is used nowhere in its score. The fewer images there are to learn from,
    the closer to 0: without any, 0.
    """
    n_labels = targets.shape[1]
    alone, context = np.zeros((2, len(held_out), n_labels), np.float32)
    parts = list(_parts(training, targets, seed))
    for part in parts:
        machine = _one_machine(likeness.between(part, part), targets[part])
        for start in range(0, len(held_out), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            one = machine.judge(likeness.between(held_out[rows], part), targets[held_out[rows]])
            alone[rows] += one.alone / len(parts)
            context[rows] += one.in_context / len(parts)
    return Judgement(alone, context)


def neighbours(
    features: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], count: int = 5
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The images most like those at `rows`, nearest first: positions and cosine similarities, both (len(rows), at most count)."""
    count = max(0, min(count, len(features) - 1))
    found, likeness = np.empty((len(rows), count), np.int64), np.empty((len(rows), count), np.float32)
    for start in range(0, len(rows) if count else 0, 256):
        part = slice(start, start + 256)
        cosine = torch.from_numpy(features[rows[part]]) @ torch.from_numpy(features).T
        cosine[torch.arange(len(cosine)), torch.from_numpy(rows[part])] = -torch.inf
        values, positions = cosine.topk(count)
        found[part], likeness[part] = positions.numpy(), values.numpy()
    return found, likeness


def look_alikes(features: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of images that show the same thing: moved, mirrored, at another time of day; what no hash of the pixels sees.

    Each is the other's nearest, their cosine is at least 0.9, and they are at most half as far apart (squared) as either is from its sixth
    nearest: a threshold alone would link everything in a data set of like pictures. On the scenes 32 pairs, all looked
    at: 18 that the hashes link too, 14 more that show one place; on 800 drawn landscapes one. Cost: n_images squared.
    """
    near, likeness = neighbours(features, np.arange(len(features)), 6)
    if near.shape[1] < 6:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first = np.arange(len(features))
    second = near[:, 0]
    stands_out = (likeness[:, 0] >= _LEAST_ALIKE) & (1 - likeness[:, 0] <= _NEARER_BY * (1 - likeness[:, 5]))
    found = (near[second, 0] == first) & (first < second) & stands_out & stands_out[second]
    return first[found], second[found]


def _joined(views: Sequence[npt.NDArray[np.floating[Any]]], moments: Sequence[tuple[Any, Any]]) -> npt.NDArray[np.float32]:
    """`joined`, each view first less its mean and times its scale."""
    ends = np.cumsum([view.shape[1] for view in views])
    whole = np.empty((len(views[0]), ends[-1]), np.float32)
    for view, end, (mean, scale) in zip(views, ends, moments, strict=True):
        for part in _in_parts(len(view)):
            rows = (view[part] - mean) * scale
            root = (np.sign(rows) * np.sqrt(np.abs(rows))).astype(np.float32)
            root /= np.maximum(np.linalg.norm(root, axis=1, keepdims=True), 1e-12)
            whole[part, end - view.shape[1] : end] = root
    whole /= math.sqrt(len(views))
    return whole


def _mean_and_scale(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The mean of each column and one over its standard deviation; 0 for that of a column which is the same everywhere."""
    mean, square, largest = np.zeros((3, rows.shape[1]))
    for part in _in_parts(len(rows)):
        mean += rows[part].sum(0, dtype=np.float64) / len(rows)
        largest = np.maximum(largest, np.abs(rows[part]).max(0))
    for part in _in_parts(len(rows)):
        square += ((rows[part] - mean) ** 2).sum(0) / len(rows)
    spread = np.sqrt(square)
    tells = spread > _TELLS * largest
    return mean.astype(np.float32), np.where(tells, 1 / np.where(tells, spread, 1.0), 0.0).astype(np.float32)


def _in_parts(n: int) -> Iterator[slice]:
    """Some rows at a time: large sets need the memory."""
    return (slice(start, start + _AT_ONCE) for start in range(0, n, _AT_ONCE))


def _parts(training: npt.NDArray[np.int64], targets: npt.NDArray[np.int8], seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """The training images of each machine; those that carry a rare label are in every part, or its few examples would be lost."""
    n_labels = targets.shape[1]
    size = max(_LEAST_IN_PART, int(_MOST_IN_PART * min(1.0, _LABELS_AT_FULL_SIZE / max(1, n_labels))))
    shuffled = np.random.default_rng(seed).permutation(training)
    if len(shuffled) <= size:
        yield shuffled
        return
    few = targets[training].sum(0, dtype=np.int64) <= _RARE
    is_rare = targets[shuffled][:, few].any(1)
    rare, common = shuffled[is_rare][: size // 2], shuffled[~is_rare]
    share = size - len(rare)
    common = common[: share * _MOST_PARTS]
    for part in np.array_split(common, max(1, -(-len(common) // share))):
        yield np.concatenate([rare, part])


@dataclass(frozen=True)
class _Machine:
    """What a machine learned from its n training images. alone, in_context: the weights of its heads, (n, n_labels) like `believed`."""

    noise: NoiseModel
    believed: Tensor
    alone: Tensor
    in_context: Tensor

    def judge(self, near: Tensor, y: npt.NDArray[np.int8]) -> Judgement:
        """near: (n_new, n), the likeness of the new images to those it learned from. y: (n_new, n_labels)."""
        alone = ((near + _INTERCEPT) @ self.alone).numpy()
        believed = _believed(y, alone, self.noise)
        apart = torch.cdist(believed, self.believed).square_()
        in_context = np.empty_like(alone)
        for k in range(y.shape[1]):
            likeness = _in_context(near, apart, believed[:, k], self.believed[:, k])
            in_context[:, k] = (likeness @ self.in_context[:, k]).numpy()
        return Judgement(alone, in_context)


def _one_machine(near: Tensor, y: npt.NDArray[np.int8]) -> _Machine:
    """near: (n, n), the likeness of the images it learns from. y: (n, n_labels)."""
    target = torch.from_numpy(y.astype(np.float32))
    inverse = torch.cholesky_inverse(_factor(near + _INTERCEPT))
    alone = inverse @ target
    # Leave-one-out in closed form: y_i - weights_i / inverse_ii (Rasmussen and Williams 2006, eq. 5.12).
    left_out = (target - alone / inverse.diagonal()[:, None]).numpy()
    noise = fit_noise(y, left_out, may_move=False)  # a cell's own value would reach its context through its pair
    believed = _believed(y, left_out, noise)
    apart = torch.cdist(believed, believed).square_()
    in_context = torch.empty_like(target)
    for k in range(y.shape[1]):
        likeness = _in_context(near, apart, believed[:, k], believed[:, k])
        in_context[:, k] = torch.cholesky_solve(target[:, k : k + 1], _factor(likeness))[:, 0]
    return _Machine(noise, believed, alone, in_context)


def _believed(values: npt.NDArray[np.int8], alone: npt.NDArray[np.float32], noise: NoiseModel) -> Tensor:
    """P(the label is there): its value, corrected where the picture alone speaks clearly against it."""
    doubt = doubts_at(values, noise.truth(alone), noise.missing, np.maximum(noise.extra, _PLAIN_EXTRA))
    return torch.from_numpy(np.where(values == 1, 1 - doubt, doubt))


def _in_context(near: Tensor, apart: Tensor, own: Tensor, others_own: Tensor) -> Tensor:
    """The kernel on pictures and their other labels: `apart`, in what is believed of all labels, less the label's own part."""
    # In double precision, or rounding would leave a little of the own part behind. In place: passes over memory are what this costs.
    squares = (own[:, None] - others_own[None]).square_()
    others = torch.sub(apart, squares, out=squares).clamp_(min=0).float()
    return others.mul_(-_CONTEXT_WEIGHT).exp_().mul_(near).add_(_INTERCEPT)


def _factor(kernel: Tensor) -> Tensor:
    ridged = kernel.clone()
    ridged.diagonal().add_(_RIDGE)
    factor: Tensor = torch.linalg.cholesky(ridged)
    return factor

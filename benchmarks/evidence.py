"""What the suspects benchmarks share: a data set with its features, planted errors, and cleanlab beside panorama."""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cleanlab.multilabel_classification import get_label_quality_scores
from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class
from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from panorama import finding, hardware, kernel, model, preprocessing, runs
from panorama.config import TrainConfig
from panorama.crossval import OutOfFold, heads_judge, out_of_fold
from panorama.datasets import DataSet, load
from panorama.features import Pixels, cached, corners_pass, fingerprint, whole_pass
from panorama.images import open_rgb
from panorama.split import linked

SIDE = 224


@dataclass(frozen=True)
class Truth:
    """known: which cells' truth is known; values: the truth there. Both (n_images, n_labels)."""

    known: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Views:
    """What is seen of the images, a row each: of the whole picture alone, beside its corners, and by early layers."""

    whole: np.ndarray
    with_corners: np.ndarray
    early: np.ndarray

    def likeness(self) -> kernel.Likeness:
        """As heads have it."""
        return kernel.Likeness(self.with_corners, self.early)


def read(folder: Path, weights: str) -> tuple[DataSet, Views, np.ndarray]:
    """The data set, its features, computed once and kept in the workspace's cache, and ids of near-duplicates."""
    home = runs.workspace()
    data = load(finding.find_source(folder), home)
    network = model.build("mobilenet_v2", len(data.labels), seed=0).eval()
    model.load_pretrained(network, "mobilenet_v2", weights)
    network = network.to(hardware.device()).to(memory_format=torch.channels_last)
    hardware.keep_memory()
    dtype = hardware.precisions(TrainConfig(image_size=SIDE), network, home / "cache").features
    contents = [picture.sha256 for picture in data.pictures]
    width, cache = network.head.in_features, home / "cache"
    small = Pixels(data.paths, data.images, preprocessing.stored_side(SIDE))
    large = Pixels(data.paths, data.images, preprocessing.tiled_side(SIDE))
    key = [fingerprint(network), SIDE, str(dtype)]
    maps = model.early_maps(network, SIDE)
    ends = np.cumsum([width, *(4 * place.width for place in maps)])
    passed = whole_pass(network, small, image_size=SIDE, dtype=dtype, early=maps)
    whole, *early = np.split(
        cached(passed, contents, int(ends[-1]), ["whole and early", *(place.module for place in maps), *key], cache),
        ends[:-1],
        axis=1,
    )
    corners = cached(
        corners_pass(network, large, image_size=SIDE, dtype=dtype), contents, 2 * width, ["corners, one pass", *key], cache
    )
    seen = kernel.joined(whole, *np.split(corners, 2, axis=1))
    views = Views(kernel.joined(whole), seen, kernel.joined_early(early))
    return data, views, linked(data.groups, *kernel.look_alikes(seen))


def copies(data: DataSet) -> np.ndarray:
    """(n_images,) ids of pictures that are one and the same file."""
    return np.unique([picture.sha256 for picture in data.pictures], return_inverse=True)[1]


def audited(data: DataSet, path: Path | None) -> Truth:
    """The audit's truth where it has one; without an audit, the CSV is taken as true everywhere."""
    known, values = np.full(data.targets.shape, path is None), data.targets.copy()
    if path is None:
        return Truth(known, values)
    row_of = {image: row for row, image in enumerate(data.images)}
    with path.open(newline="") as stream:
        for line in csv.DictReader(stream):
            row = row_of[next(iter(line.values()))]
            for k, label in enumerate(data.labels):
                if line[label] in ("0", "1"):
                    known[row, k], values[row, k] = True, int(line[label])
    return Truth(known, values)


def with_properties(data: DataSet, truth: Truth) -> tuple[np.ndarray, Truth]:
    """Twenty labels: the data set's own, and properties measured from the pixels, each true of the first fifth of the pictures."""
    pixels = np.stack([preprocessing.square(open_rgb(path, at_least=64), 64) for path in data.paths]).astype(np.float32) / 255
    grey, (red, green, blue) = pixels.mean(3), (pixels[..., c].mean((1, 2)) for c in range(3))
    level, contrast = grey.mean((1, 2)), grey.std((1, 2))
    colour = (pixels.max(3) - pixels.min(3)).mean((1, 2))
    detail = np.abs(np.diff(grey, axis=1)).mean((1, 2)) + np.abs(np.diff(grey, axis=2)).mean((1, 2))
    top, bottom = grey[:, :32].mean((1, 2)), grey[:, 32:].mean((1, 2))
    left, right = grey[:, :, :32].mean((1, 2)), grey[:, :, 32:].mean((1, 2))
    middle = grey[:, 16:48, 16:48].mean((1, 2))
    measured = [
        level, -level, contrast, -contrast, colour, -colour, detail, -detail, blue - red, red - blue, green - (red + blue) / 2,
        top - bottom, bottom - top, left - right, middle - level,
    ]  # fmt: skip
    extra = np.stack([(m >= np.quantile(m, 0.8)).astype(np.int8) for m in measured[: 20 - data.targets.shape[1]]], 1)
    sure = np.ones(extra.shape, bool)
    return np.hstack([data.targets, extra]), Truth(np.hstack([truth.known, sure]), np.hstack([truth.values, extra]))


# name: share of the labels forgotten, share of the absent labels invented, share of the images with one label moved to another
SETTINGS: dict[str, tuple[float, float, float]] = {
    **{f"missing {share:.0%}": (share, 0.0, 0.0) for share in (0.05, 0.1, 0.2, 0.4)},
    **{f"extra {share:.0%}": (0.0, share, 0.0) for share in (0.01, 0.02, 0.05)},
    **{f"swapped {share:.0%}": (0.0, 0.0, share) for share in (0.05, 0.1)},
    "missing 10%, extra 1%": (0.1, 0.01, 0.0),
    "missing 20%, extra 2%": (0.2, 0.02, 0.0),
}


def planted(targets: np.ndarray, setting: tuple[float, float, float], seed: int) -> np.ndarray:
    """The targets with errors that do not depend on the picture."""
    missing, extra, swapped = setting
    rng = np.random.default_rng(seed)
    draw = rng.random(targets.shape)
    given = np.where(targets == 1, draw >= missing, draw < extra).astype(np.int8)
    for row in np.flatnonzero(rng.random(len(targets)) < swapped):
        there, absent = np.flatnonzero(targets[row] == 1), np.flatnonzero(targets[row] == 0)
        if len(there) and len(absent):
            given[row, rng.choice(there)], given[row, rng.choice(absent)] = 0, 1
    return given


def judged(likeness: kernel.Likeness, given: np.ndarray, groups: np.ndarray, *, repeats: int, seed: int = 0) -> OutOfFold:
    """The out-of-fold scores of a run with heads."""
    return out_of_fold(heads_judge(likeness, given), given, folds=5, repeats=repeats, seed=seed, groups=groups)


def cleanlab_cells(given: np.ndarray, probabilities: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """cleanlab's cell scores as doubts (higher is more suspect): its methods, adjusted or not, and its filter."""
    labels, p = [np.flatnonzero(row).tolist() for row in given], np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    for adjusted in (False, True):
        scores = 1 - get_label_quality_scores_per_class(labels, p, method="self_confidence", adjust_pred_probs=adjusted)
        yield f"self-confidence{', adjusted' if adjusted else ''}", scores
        if not adjusted:
            plain = scores
    flagged = find_multilabel_issues_per_class(labels, p, n_jobs=1)
    yield "filter, then self-confidence", plain + np.asarray(flagged, float)


def cleanlab_images(given: np.ndarray, probabilities: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """cleanlab's image scores as doubts: its moving average, adjusted or not, and the minimum over labels."""
    labels, p = [np.flatnonzero(row).tolist() for row in given], np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    for adjusted in (False, True):
        yield (
            f"image score{', adjusted' if adjusted else ''}",
            1 - get_label_quality_scores(labels, p, adjust_pred_probs=adjusted),
        )
    yield "worst label", 1 - get_label_quality_scores(labels, p, aggregator_kwargs={"method": lambda scores, **_: scores.min(1)})

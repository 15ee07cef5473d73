"""What panorama's defaults for features and heads rest on, measured in one go: out-of-fold mAP, 5 folds twice.

    python benchmarks/choices.py DATA WEIGHTS

DATA: the seed layout. WEIGHTS: a torchvision mobilenet_v2 state dict. Needs requirements-dev.txt (scikit-learn is the reference).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from evidence import SIDE, judged, read
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from panorama import kernel, metrics, model, preprocessing
from panorama.crossval import out_of_fold
from panorama.datasets import DataSet
from panorama.images import open_rgb


def centre_crop(image: Image.Image) -> np.ndarray:
    """The seed's evaluation: shorter side to 230, the middle 224 x 224."""
    scale = 230 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


@torch.inference_mode()
def features(network: model.Classifier, data: DataSet, cut: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """(n_images, 1280), every picture cut by `cut`."""
    parts = []
    for start in range(0, len(data.paths), 64):
        batch = np.stack([cut(open_rgb(path)) for path in data.paths[start : start + 64]])
        parts.append(network.extractor(preprocessing.for_evaluation(torch.from_numpy(batch), SIDE)).numpy())
    return np.concatenate(parts)


def logistic(x: np.ndarray, targets: np.ndarray):
    """scikit-learn's logistic regression on standardised features, label by label."""

    def judge(training: np.ndarray, held_out: np.ndarray, _: int) -> kernel.Judgement:
        one = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=300))
        fitted = MultiOutputClassifier(one).fit(x[training], targets[training])
        p = np.stack([column[:, 1] for column in fitted.predict_proba(x[held_out])], 1)
        return kernel.Judgement(p, p)

    return judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights")
    options = parser.parse_args()
    data, views, groups = read(options.data, options.weights)
    network = model.build("mobilenet_v2", len(data.labels), seed=0).eval().to(memory_format=torch.channels_last)
    model.load_pretrained(network, "mobilenet_v2", options.weights)
    squeezed = features(network, data, lambda image: preprocessing.square(image, SIDE))
    cropped = features(network, data, centre_crop)

    def line(name: str, judge) -> None:
        start = time.perf_counter()
        p = judge()
        print(
            f"  {name:<44} {metrics.mean_average_precision(data.targets, p):.4f}  {time.perf_counter() - start:5.1f} s",
            flush=True,
        )

    def kernel_heads(x: np.ndarray, early: np.ndarray | None = None) -> Callable[[], np.ndarray]:
        return lambda: judged(kernel.Likeness(x, early), data.targets, groups, repeats=2).probabilities

    print(f"{len(data.images):,} images, {len(data.labels)} labels")
    line("logistic heads (scikit-learn), squeezed", lambda: out_of_fold(
        logistic(squeezed, data.targets), data.targets, folds=5, repeats=2, seed=0, groups=groups).probabilities)  # fmt: skip
    line("kernel heads, squeezed", kernel_heads(kernel.joined(squeezed)))
    line("kernel heads, the seed's centre crop", kernel_heads(kernel.joined(cropped)))
    line("kernel heads, squeezed and its four corners", kernel_heads(views.with_corners))
    line("the same beside its early layers", kernel_heads(views.with_corners, views.early))


if __name__ == "__main__":
    main()

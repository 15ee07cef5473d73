"""What panorama's defaults for features, heads and doubt rest on, measured in one go.

    python benchmarks/choices.py DATA WEIGHTS [--audit AUDIT.csv]

DATA: the seed layout. WEIGHTS: a torchvision mobilenet_v2 state dict. AUDIT: image, then 1, 0 or ? for each label, by people
who saw the pictures only. Needs requirements-dev.txt (scikit-learn is the reference).
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from panorama import crossval, finding, metrics, model, preprocessing, runs, suspects
from panorama.datasets import DataSet, load
from panorama.images import open_rgb, square

SIDE = 224


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


def estimated_rates(targets: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    """Rates of missing and extra labels by expectation-maximisation from the prior; the variant that was dropped."""
    missing, extra = suspects.MISSING_RATE, suspects.EXTRA_RATE
    for _ in range(20):
        wrong = suspects.doubts(targets, p, missing_rate=missing, extra_rate=extra)
        truly = np.where(targets == 1, 1 - wrong, wrong)
        missing = float((wrong * (targets == 0)).sum() / truly.sum())
        extra = float((wrong * (targets == 1)).sum() / (1 - truly).sum())
    return missing, extra


def audited(data: DataSet, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(known, wrong), both (n_images, n_labels) of bool."""
    known, wrong = np.zeros(data.targets.shape, bool), np.zeros(data.targets.shape, bool)
    row_of = {image: row for row, image in enumerate(data.images)}
    with path.open(newline="") as stream:
        for line in csv.DictReader(stream):
            row = row_of[next(iter(line.values()))]
            for k, label in enumerate(data.labels):
                if line[label] in "01":
                    known[row, k] = True
                    wrong[row, k] = int(line[label]) != data.targets[row, k]
    return known, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--audit", type=Path)
    options = parser.parse_args()
    data = load(finding.find_source(options.data), runs.workspace())
    network = model.build("mobilenet_v2", len(data.labels), seed=0).eval().to(memory_format=torch.channels_last)
    print(
        f"{len(data.images):,} images, {len(data.labels)} labels; mobilenet_v2, {model.load_pretrained(network, 'mobilenet_v2', options.weights)}"
    )

    def folds(x: np.ndarray) -> np.ndarray:
        judge = crossval.heads_judge(x, data.targets)
        return crossval.out_of_fold(judge, data.targets, folds=5, repeats=2, seed=0, groups=data.groups).probabilities

    squeezed = features(network, data, lambda image: square(image, SIDE))
    cropped = features(network, data, centre_crop)
    print("\nout-of-fold mAP, logistic heads, 5 folds x 2")
    for name, x in (("squeezed", squeezed), ("centre crop", cropped), ("both", np.hstack([squeezed, cropped]))):
        print(f"  {name:<12} {metrics.mean_average_precision(data.targets, folds(x)):.4f}")

    print("\nheads for all labels, one fit on everything")
    x = (squeezed - squeezed.mean(0)) / squeezed.std(0)
    start = time.perf_counter()
    crossval.logistic_heads(x, data.targets, c=0.003)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    for k in range(len(data.labels)):
        LogisticRegression(C=0.003, max_iter=300).fit(x, data.targets[:, k])
    print(
        f"  panorama {ours:.2f} s, scikit-learn {time.perf_counter() - start:.2f} s, ratio {(time.perf_counter() - start) / ours:.1f}"
    )

    if options.audit is None:
        return
    p = folds(squeezed)
    known, wrong = audited(data, options.audit)
    missing, extra = estimated_rates(data.targets, p)
    scores = {
        "self-confidence": np.where(data.targets == 1, 1 - p, p),
        "posterior, fixed rates": suspects.doubts(data.targets, p),
        f"posterior, estimated ({missing:.3f}, {extra:.4f})": suspects.doubts(
            data.targets, p, missing_rate=missing, extra_rate=extra
        ),
    }
    print(
        f"\nsuspects against {int(wrong.sum())} wrong cells of {int(known.sum()):,} audited: average precision, wrong among the first 30"
    )
    for name, score in scores.items():
        first = np.argsort(-score[known])[:30]
        print(
            f"  {name:<42} {metrics.average_precision(wrong[known].astype(np.int8), score[known]):.3f}  {wrong[known][first].mean():.0%}"
        )


if __name__ == "__main__":
    main()

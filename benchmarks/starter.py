"""What the starter weights are worth: frozen, and after both phases, beside random weights and ImageNet's, on the same budget.

    python benchmarks/starter.py DATA [--imagenet PATH] [--starts starter none imagenet] [--recipe fast|seed] [--seeds 1] [--first-seed 0]

Same split, same config but for the weights. "frozen" is the out-of-fold mAP of kernel heads on features of the whole picture, over all
images of DATA; "test" the mAP on the test split after both phases, of the epoch with the lowest validation loss.
"""

import argparse
import copy
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from panorama import hardware, kernel, metrics, preprocessing
from panorama.config import TrainConfig, seed_recipe
from panorama.crossval import heads_judge, out_of_fold
from panorama.datasets import DataSet, load, validation_part
from panorama.features import Pixels, extract, whole_pass
from panorama.finding import find_source, with_layouts
from panorama.model import build, calibrate_batchnorm, load_pretrained
from panorama.training import TrainingData, predict_logits, train

_CALIBRATED_ON, _CALIBRATION_BATCH = 512, 64  # as the worker does for random weights


def measured(data: DataSet, pixels: Pixels, config: TrainConfig, cache: Path) -> tuple[float, float, float]:
    """Out-of-fold mAP frozen, test mAP after both phases, and seconds of training."""
    splits = np.array(data.splits, dtype="<U10")
    splits[validation_part(data, config.validation_share, config.seed)] = "validation"
    at = {split: np.flatnonzero(splits == split) for split in ("train", "validation", "test")}
    model = build(config.backbone, len(data.labels), seed=config.seed)
    load_pretrained(model, config.backbone, config.weights)
    model.to(hardware.device()).to(memory_format=torch.channels_last)
    if config.weights == "none":
        chosen = np.random.default_rng(config.seed).permutation(at["train"])[:_CALIBRATED_ON]
        parts = np.array_split(chosen, max(1, len(chosen) // _CALIBRATION_BATCH))
        calibrate_batchnorm(model, (preprocessing.for_evaluation(pixels.batch(part), config.image_size) for part in parts))
    model.eval()
    precisions = hardware.precisions(config, model, cache)
    run = whole_pass(model, pixels, image_size=config.image_size, dtype=precisions.features)
    features = extract(run, np.arange(len(pixels)), model.head.in_features)
    judge = heads_judge(kernel.Likeness(kernel.joined(features)), data.targets)
    frozen = out_of_fold(judge, data.targets, folds=5, repeats=2, seed=config.seed, groups=data.groups)
    training = TrainingData(
        pixels, data.targets, at["train"], at["validation"], features[at["train"]], features[at["validation"]]
    )
    started = time.perf_counter()
    for _ in train(model, training, config, precisions=precisions, pretrained=config.weights != "none"):
        pass
    seconds = time.perf_counter() - started
    answers = torch.sigmoid(predict_logits(copy.deepcopy(model), pixels, at["test"], config.image_size)).numpy()
    return _map(data, data.targets, frozen.probabilities), _map(data, data.targets[at["test"]], answers), seconds


def _map(data: DataSet, targets: np.ndarray, probabilities: np.ndarray) -> float:
    value = metrics.measure(data.labels, targets, probabilities, 0.5)["macro"]["average_precision"]
    return float("nan") if value is None else float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--imagenet", default="imagenet", metavar="PATH", help="a state dict; without it torchvision's are downloaded"
    )
    parser.add_argument("--starts", nargs="+", choices=["starter", "none", "imagenet"], default=["starter", "none", "imagenet"])
    parser.add_argument("--recipe", choices=["fast", "seed"], default="fast")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    hardware.keep_memory()
    recipe = TrainConfig() if options.recipe == "fast" else seed_recipe()
    with tempfile.TemporaryDirectory() as home:
        cache = Path(home)
        data = load(with_layouts(find_source(options.data)), cache, seed=0, test_share=0.2)
        contents = [picture.sha256 for picture in data.pictures]
        side = preprocessing.stored_side(recipe.image_size)
        pixels = Pixels(data.paths, data.images, side, contents=contents, cache=cache)
        pixels.read()
        print(f"{'':<10}{'recipe':<8}{'seed':>5}{'frozen':>9}{'test':>8}{'training s':>12}", flush=True)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for start in options.starts:
                weights = options.imagenet if start == "imagenet" else start
                config = dataclasses.replace(recipe, weights=weights, seed=seed)
                frozen, test, seconds = measured(data, pixels, config, cache)
                print(f"{start:<10}{options.recipe:<8}{seed:>5}{frozen:>9.3f}{test:>8.3f}{seconds:>12.0f}", flush=True)


if __name__ == "__main__":
    main()

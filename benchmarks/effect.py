"""Whether correcting labels makes a better model, and whether the effect page says so.

    python benchmarks/effect.py --weights PATH [--images 400] [--image-size 128] [--decisions 100] [--missing 0.1] [--extra 0.015]

On the drawn demo with its planted errors, three seeds (drawing, errors and training): train, answer the first suspects from the truth, train
again as the page does, and compare as the page does. The truth, which no model and no figure of the page is shown, judges both models on
the test split. --weights: none, imagenet, or a state dict.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from panorama import effect, metrics, runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.decisions import Answer
from panorama.demo import draw_demo
from panorama.finding import find_source, with_layouts
from panorama.reviewfiles import open_queue
from panorama.reviews import ReviewStore
from panorama.runs import Run
from panorama.worker import run as work

SEEDS = 3
HELD = {"better": 1, "worse": -1}


def trained(run: Run) -> Run:
    if work(run.folder) != "complete":
        sys.exit(run.history().message)
    return run


def truth_of(run: Run, demo: Path) -> np.ndarray:
    """(n_images, n_labels) in the order of the run."""
    header, rows = runs.read_rows(demo / "truth.csv")
    of_image = {row[0]: row[1:] for row in rows}
    found = run.probabilities("predictions.csv")
    assert found is not None
    order = [header[1:].index(label) for label in found[0]]
    return np.array([of_image[image] for image in run.images()[0]], np.int8)[:, order]


def answer(run: Run, truth: np.ndarray, decisions: int, store: ReviewStore) -> int:
    """Decides the first suspects rightly; how many were changed."""
    queue = open_queue(run)
    answers = [
        Answer(queue.images[i], queue.labels[k], given, "keep" if truth[i, k] == given else "change", "truth", run=run.id)
        for i, k, given in zip(*(a[:decisions].tolist() for a in (queue.image_of, queue.label_of, queue.given)), strict=True)
    ]
    store.apply(run.fingerprint, answers)
    return sum(a.verdict == "change" for a in answers)


def by_the_truth(run: Run, truth: np.ndarray, file: str) -> tuple[float, float]:
    """mAP and Hamming loss against the truth: of the model on the test split, or of its out-of-fold judges on all images."""
    found, splits = run.probabilities(file), np.array(run.images()[1])
    assert found is not None
    chosen = splits == "test" if file == "predictions.csv" else splits != ""
    values = metrics.measure(found[0], truth[chosen], found[1][chosen])
    return values["macro"]["average_precision"], values["hamming_loss"]


def one_seed(seed: int, options: argparse.Namespace, home: Path) -> tuple[list[float], list[str]]:
    os.environ["PANORAMA_HOME"] = str(home)
    demo = draw_demo(home / "demo", n_images=options.images, seed=seed, missing_share=options.missing, extra_share=options.extra)
    config = TrainConfig(weights=options.weights, image_size=options.image_size, seed=seed)
    old = trained(runs.create(load(with_layouts(find_source(demo)), home, seed=seed), config, home))
    truth, store = truth_of(old, home / "demo"), ReviewStore(home / "reviews.sqlite")
    n_changed = answer(old, truth, options.decisions, store)
    fold = store.fold(old.fingerprint)
    new = trained(effect.retrain_run(old, store.corrections(old.fingerprint), home, decisions_up_to=fold.last_id))
    seconds = [f"{effect.seconds_of(run):.0f} s" for run in (old, new)]
    print(
        f"seed {seed}: {n_changed} of {options.decisions} decisions changed a label; trained in {seconds[0]}, again in {seconds[1]}"
    )
    gains = {}
    for what, file in (("the models on the test split", "predictions.csv"), ("out of fold, all images", "out_of_fold.csv")):
        (old_map, old_loss), (new_map, new_loss) = by_the_truth(old, truth, file), by_the_truth(new, truth, file)
        gains[file] = new_map - old_map
        print(
            f"  truth, {what}: mAP {old_map:.3f} -> {new_map:.3f}, {gains[file]:+.3f}; Hamming loss {old_loss:.4f} -> {new_loss:.4f}"
        )
    found = effect.compare(old, new, fold.standing)
    said = []
    for target in found.targets:
        gain = gains["out_of_fold.csv" if target is found.verified else "predictions.csv"]
        for figure in target.figures:
            good = HELD.get(figure.verdict, 0)
            word = "not told apart" if not good else "as the truth" if good == np.sign(gain) else "AGAINST the truth"
            print(
                f"  page, {target.title}, {figure.name}: {figure.old.value:.3f} -> {figure.new.value:.3f}, {figure.difference.words('+')}: {word}"
            )
            if figure is target.figures[0]:
                inside = figure.difference.low <= gain <= figure.difference.high
                within = f", true difference {'in' if inside else 'NOT in'} the interval" if "precision" in figure.name else ""
                said.append(f"{target.title}: {word}{within}")
    return list(gains.values()), said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--decisions", type=int, default=100)
    parser.add_argument("--missing", type=float, default=0.10, help="share of true labels that the CSV lacks")
    parser.add_argument("--extra", type=float, default=0.015, help="share of absent labels that the CSV has")
    options = parser.parse_args()
    gains = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            gain, said = one_seed(seed, options, Path(folder))
        gains.append(gain)
        print("  in short: " + "; ".join(said), flush=True)
    for what, of_seeds in zip(("the models on the test split", "out of fold, all images"), zip(*gains, strict=True), strict=True):
        print(f"mAP by the truth, {what}: {np.mean(of_seeds):+.4f}, spread over {SEEDS} seeds {np.std(of_seeds, ddof=1):.4f}")


if __name__ == "__main__":
    main()

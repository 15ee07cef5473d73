"""Whether correcting labels makes a better model, and whether the effect page says so.

    python benchmarks/effect.py --weights PATH [--images 400] [--image-size 128] [--decisions 100]

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
from panorama.reviewing import open_queue
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


def by_the_truth(run: Run, truth: np.ndarray) -> tuple[float, float]:
    """mAP and Hamming loss on the test split against the truth."""
    found, test = run.probabilities("predictions.csv"), np.array(run.images()[1]) == "test"
    assert found is not None
    values = metrics.measure(found[0], truth[test], found[1][test])
    return values["macro"]["average_precision"], values["hamming_loss"]


def one_seed(seed: int, options: argparse.Namespace, home: Path) -> tuple[float, list[str]]:
    os.environ["PANORAMA_HOME"] = str(home)
    source = with_layouts(find_source(draw_demo(home / "demo", n_images=options.images, seed=seed)))
    config = TrainConfig(weights=options.weights, image_size=options.image_size, seed=seed)
    old = trained(runs.create(load(source, home, seed=seed), config, home))
    truth, store = truth_of(old, home / "demo"), ReviewStore(home / "reviews.sqlite")
    n_changed = answer(old, truth, options.decisions, store)
    fold = store.fold(old.fingerprint)
    corrections = store.corrections(old.fingerprint)
    new = trained(effect.retrain_run(old, corrections, home, decisions_up_to=fold.last_id))
    (old_map, old_loss), (new_map, new_loss) = by_the_truth(old, truth), by_the_truth(new, truth)
    print(
        f"seed {seed}: {n_changed} of {options.decisions} decisions changed a label; took {effect.seconds_of(old):.0f} s and {effect.seconds_of(new):.0f} s"
    )
    print(
        f"  truth, which the page never sees    mAP {old_map:.3f} -> {new_map:.3f}, {new_map - old_map:+.3f}; Hamming loss {old_loss:.3f} -> {new_loss:.3f}"
    )
    said = []
    for target in effect.compare(old, new, fold.standing).targets:
        for figure in target.figures:
            gain = (new_map - old_map) if figure.higher_is_better else (new_loss - old_loss)
            told = HELD.get(figure.verdict, 0) * np.sign(gain) * (1 if figure.higher_is_better else -1)
            word = {1: "says what the truth says", 0: "does not tell them apart", -1: "CONTRADICTS the truth"}[int(told)]
            print(
                f"  {target.title}: {figure.name}: {figure.old.words()} -> {figure.new.words()}; {figure.difference.words('+')}: {word}"
            )
            if figure is target.figures[0]:
                inside = figure.difference.low <= gain <= figure.difference.high
                said.append(f"{target.title}: {word}, the true difference {'inside' if inside else 'outside'} its interval")
    sys.stdout.flush()
    return new_map - old_map, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--decisions", type=int, default=100)
    options = parser.parse_args()
    gains = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            gain, said = one_seed(seed, options, Path(folder))
        gains.append(gain)
        print("  in short: " + "; ".join(said), flush=True)
    print(f"mAP by the truth {np.mean(gains):+.4f}, spread over {SEEDS} seeds {np.std(gains, ddof=1):.4f}")


if __name__ == "__main__":
    main()

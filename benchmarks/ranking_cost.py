"""Ranking cells from given probabilities: time and memory of panorama and cleanlab, each in a process of its own.

python benchmarks/ranking_cost.py [--images 1000000] [--labels 20]
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def drawn(n_images: int, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets with 5 % missing labels, and probabilities that know the truth fairly well."""
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.3, 1.2, (n_images, n_labels)).astype(np.float32)
    targets = (rng.random((n_images, n_labels), np.float32) < probabilities).astype(np.int8)
    targets[rng.random(targets.shape, np.float32) < 0.05] = 0
    return targets, probabilities


def panorama_seconds(targets: np.ndarray, probabilities: np.ndarray) -> float:
    from panorama import suspects

    start = time.perf_counter()
    suspects.order(suspects.doubts(targets, probabilities).values)
    return time.perf_counter() - start


def cleanlab_seconds(targets: np.ndarray, probabilities: np.ndarray) -> float:
    from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class

    labels = [np.flatnonzero(row).tolist() for row in targets]
    start = time.perf_counter()
    np.argsort(get_label_quality_scores_per_class(labels, probabilities, adjust_pred_probs=True), axis=None, kind="stable")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--only", choices=["panorama", "cleanlab"])
    options = parser.parse_args()
    if options.only:
        measure = panorama_seconds if options.only == "panorama" else cleanlab_seconds
        seconds = measure(*drawn(options.images, options.labels))
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)  # KiB on Linux -> GiB
        return
    size = ["--images", str(options.images), "--labels", str(options.labels)]
    seconds = {}
    for name in ("panorama", "cleanlab"):
        command = [sys.executable, __file__, "--only", name, *size]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        seconds[name] = float(printed[0])
        print(f"{name:<9} {seconds[name]:6.1f} s, peak memory {float(printed[1]):.1f} GiB with the data it was given")
    print(f"panorama / cleanlab: {seconds['panorama'] / seconds['cleanlab']:.2f}")


if __name__ == "__main__":
    main()

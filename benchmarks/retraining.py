"""What a hundred decisions are worth: train, answer the first suspects from the truth, export, train again on the corrected CSV.

    python benchmarks/retraining.py WEIGHTS [--images 400] [--image-size 128] [--decisions 100]

On the drawn demo with its planted errors, three seeds (drawing, errors and training), through the command line from end to end.
Average precision on the test split against the truth, which no model is shown. WEIGHTS: none, imagenet, or a state dict.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from panorama import metrics
from panorama.demo import draw_demo

SEEDS = 3


def panorama(*arguments: object) -> None:
    command = [sys.executable, "-m", "panorama", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=Path(__file__).resolve().parent.parent, capture_output=True)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def measured(run: Path, truth: dict[str, list[int]], labels: list[str]) -> float:
    """mAP on the test split against the truth."""
    test = [row for row in rows(run / "predictions.csv") if row["split"] == "test"]
    targets = np.array([truth[row["image"]] for row in test], np.int8)
    value = metrics.mean_average_precision(targets, np.array([[float(row[label]) for label in labels] for row in test]))
    assert value is not None
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--decisions", type=int, default=100)
    options = parser.parse_args()
    gains = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            data = draw_demo(home / "demo", n_images=options.images, seed=seed)
            lines = rows(home / "demo" / "truth.csv")
            image_column, *labels = [name for name in lines[0] if name != "split"]
            truth = {line[image_column]: [int(line[label]) for label in labels] for line in lines}
            training = ["--weights", options.weights, "--image-size", options.image_size, "--seed", seed]
            panorama("train", data, *training, "--out", home / "before")
            found = rows(home / "before" / "suspects.csv")[: options.decisions]
            right = [(s["image"], s["label"], truth[s["image"]][labels.index(s["label"])]) for s in found]
            wrong = sum(value != int(s["given"]) for s, (_, _, value) in zip(found, right, strict=True))
            with (home / "decisions.csv").open("w", newline="") as stream:
                csv.writer(stream).writerows([("image", "label", "value"), *right])
            panorama("export", data, "--decisions", home / "decisions.csv", "--out", home / "corrected")
            shutil.copytree(home / "corrected", data, dirs_exist_ok=True)
            panorama("train", data, *training, "--out", home / "after")
            before, after = measured(home / "before", truth, labels), measured(home / "after", truth, labels)
            gains.append(after - before)
            print(
                f"seed {seed}: {wrong} of {len(found)} decisions changed a label; test mAP {before:.4f} -> {after:.4f}",
                flush=True,
            )
    print(f"gain {np.mean(gains):+.4f}, spread over {SEEDS} seeds {np.std(gains, ddof=1):.4f}")


if __name__ == "__main__":
    main()

"""A large data set and a complete run on it, without training: what the app must bear, made in a minute.

    python benchmarks/large.py WORKSPACE [--images 100000] [--labels 20]

The pictures are a few hundred drawn ones under many names; probabilities, doubts and maps are drawn too, and written by the functions that the
worker writes with. There are no weights. Prints the run folder, and what opening the review costs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from panorama import heat, runs, suspects
from panorama.config import TrainConfig
from panorama.datasets import DataSet, SheetPart
from panorama.events import PREDICTING, EpochEnded, PhaseEnded, PhaseStarted, RunEnded, RunStarted, StageEnded, StageStarted
from panorama.files import write_atomically
from panorama.finding import Source, find_source, read_table, with_layouts
from panorama.labels import read_labels
from panorama.pictures import Picture
from panorama.reviewfiles import open_queue
from panorama.runs import EventLog, Run, write_rows
from panorama.workspace import remember

_DRAWN = 300
_MISSING_SHARE, _EXTRA_SHARE = 0.05, 0.002
_MAP_SIDE = 7
Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int8]


def draw_pictures(folder: Path, names: list[str], rng: np.random.Generator) -> None:
    """Soft fields of colour of 160 x 120 pixels, a few hundred of them, each under many of the names."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        if number < _DRAWN:
            field = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
            field.resize((160, 120), Image.Resampling.BICUBIC).save(folder / name, quality=85)
            continue
        try:
            os.link(folder / names[number % _DRAWN], folder / name)
        except OSError:  # a file system without hard links
            shutil.copyfile(folder / names[number % _DRAWN], folder / name)


def image_names(count: int) -> list[str]:
    """Different names, one in a hundred as long as a camera's and a person's imagination together."""
    return [f"{i:06}.jpg" if i % 100 else f"{i:06} {'a view over the valley towards the sea ' * 3}.jpg" for i in range(count)]


def draw_values(n_images: int, n_labels: int, rng: np.random.Generator) -> tuple[Labels, Floats]:
    """What the CSV says, with missing and extra labels in it, and (n_images, n_labels) scores that know the truth fairly well."""
    scores = rng.beta(0.3, 1.2, (n_images, n_labels)).astype(np.float32)
    truth = rng.random(scores.shape, np.float32) < scores
    flipped = rng.random(scores.shape, np.float32) < np.where(truth, _MISSING_SHARE, _EXTRA_SHARE)
    return (truth ^ flipped).astype(np.int8), scores


def write_data(root: Path, names: list[str], targets: Labels, rng: np.random.Generator) -> Source:
    """One CSV beside a folder of pictures."""
    draw_pictures(root / "pictures", names, rng)
    header = ["image", *(f"label {k + 1}" for k in range(targets.shape[1]))]
    write_rows(root / "labels.csv", header, ([name, *row] for name, row in zip(names, targets.tolist(), strict=True)))
    return with_layouts(find_source(root))


def as_loaded(source: Source, rng: np.random.Generator) -> DataSet:
    """The data set as `datasets.load` gives it, but for what a look at every picture would tell."""
    (csv_source,) = source.csvs
    assert csv_source.layout is not None
    sheet = read_labels(read_table(source, csv_source), csv_source.layout)
    splits = tuple("test" if is_test else "train" for is_test in rng.random(len(sheet.images)) < 0.2)
    pictures = tuple(Picture(f"{i:064x}", 160, 120, i, rng.bytes(192)) for i in range(len(sheet.images)))
    part = SheetPart(csv_source, sheet, {name: name for name in sheet.images})
    paths = tuple(source.root / "pictures" / name for name in sheet.images)
    return DataSet(source, sheet.labels, sheet.images, paths, splits, sheet.targets, pictures, (part,), (), 0)


def write_events(run: Run, data: DataSet, splits: npt.NDArray[np.str_]) -> None:
    """A log of one epoch a phase that ends well."""
    at = run.created.timestamp()
    images = {split: int((splits == split).sum()) for split in ("train", "validation", "test")}
    log = EventLog(run)
    log.append(RunStarted(at, images, len(data.labels), "no device: drawn", "float32"))
    for phase in ("adaptation", "fine tuning"):
        log.append(PhaseStarted(at + 1, phase, 1, 1e-3, 2, 1))  # type: ignore[arg-type]
        log.append(EpochEnded(at + 2, phase, 1, 0.3, 0.3, 0.8, True, 0, 2, 1.0, 1000.0))  # type: ignore[arg-type]
        log.append(PhaseEnded(at + 2, phase, "epochs", phase, 1, 0.3))  # type: ignore[arg-type]
    log.append(StageStarted(at + 3, PREDICTING, len(data.images), "images"))
    log.append(StageEnded(at + 4, PREDICTING, 1.0))
    log.close()


def write_heat(run: Run, probabilities: Floats, rng: np.random.Generator) -> None:
    """Maps with one warm place each, warm as the label is likely."""
    n_images, n_labels = probabilities.shape
    places = np.arange(_MAP_SIDE)
    with heat.writing(run, (n_images, n_labels, _MAP_SIDE, _MAP_SIDE)) as write:
        for start in range(0, n_images, 1024):
            part = probabilities[start : start + 1024]
            row, column = rng.integers(0, _MAP_SIDE, (2, *part.shape, 1, 1))
            distance = (places[:, None] - row) ** 2 + (places - column) ** 2
            write((255 * part[..., None, None] * np.exp(-distance / 6)).astype(np.uint8))


def build(home: Path, n_images: int, n_labels: int, *, seed: int = 0) -> Run:
    """A workspace with the data set and a complete run on it; the run."""
    from panorama import outcome  # imports torch, which opening the review does without
    from panorama.crossval import OutOfFold

    rng = np.random.default_rng(seed)
    targets, scores = draw_values(n_images, n_labels, rng)
    source = write_data(home / "data", image_names(n_images), targets, rng)
    remember(home, source)
    data = as_loaded(source, rng)
    config = TrainConfig(weights="none")
    run = runs.create(data, config, home)
    splits = np.array(data.splits, dtype="<U10")
    train = np.flatnonzero(splits == "train")
    splits[rng.permutation(train)[: round(config.validation_share * len(train))]] = "validation"
    rows = ((name, split, f"pictures/{name}") for name, split in zip(data.images, splits.tolist(), strict=True))
    write_rows(run.folder / "split.csv", ["image", "split", "path"], rows)
    write_events(run, data, splits)
    answered = np.clip(scores + rng.normal(0, 0.05, scores.shape), 0, 1).astype(np.float32)
    outcome.write_probabilities(run.folder / "before.csv", data, splits, np.full_like(scores, 0.5))
    outcome.write_probabilities(run.folder / "predictions.csv", data, splits, answered)
    write_heat(run, answered, rng)
    folds = OutOfFold(scores, np.clip(0.8 * scores + 0.2 * answered, 0, 1), np.abs(scores - answered))
    outcome.write_probabilities(run.folder / "out_of_fold.csv", data, splits, folds.probabilities)
    found = suspects.doubts(targets, folds.scores, folds.in_context)
    ranked = suspects.rank(
        data.images, splits.tolist(), data.labels, targets, folds.probabilities, folds.in_context, folds.spread, found
    )
    outcome.write_suspects(run.folder / "suspects.csv", ranked)
    features = rng.normal(size=(n_images, 16)).astype(np.float32)
    outcome.write_neighbours(run.folder / "neighbours.csv", data, np.arange(n_images), found, features)
    values = outcome.measured(run, data, splits, answered, folds, config)
    write_atomically(run.folder / "metrics.json", json.dumps(values, indent=1, allow_nan=False).encode())
    log = EventLog(run)
    log.append(RunEnded(time.time(), "complete"))
    log.close()
    return run


def open_review(run: Run) -> None:
    """Opens the review of a run, and says what it took."""
    started = time.perf_counter()
    queue = open_queue(run)
    seconds = time.perf_counter() - started
    # Not ru_maxrss, which begins at what the process that started this one took.
    peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(f"review opened: {len(queue.doubts):,} cells in {seconds:.1f} s, peak memory {peak / 2**20:.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=lambda text: Path(text).resolve())
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--open", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        open_review(Run(options.workspace))
        return
    started = time.perf_counter()
    run = build(options.workspace, options.images, options.labels)
    print(f"{run.folder}: {run.state()}, made in {time.perf_counter() - started:.0f} s")
    command = [sys.executable, __file__, str(run.folder), "--open"]  # alone, or the memory would be that of the making
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


if __name__ == "__main__":
    main()

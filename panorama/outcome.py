"""What a finished run says in its files: probabilities, suspects, neighbours and metrics."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panorama import kernel, metrics, suspects
from panorama.config import TrainConfig
from panorama.crossval import OutOfFold
from panorama.datasets import DataSet
from panorama.errors import PanoramaError
from panorama.runs import Run, write_rows

_SUSPECTS_WITH_NEIGHBOURS = 2000


def write_suspects(path: Path, ranked: Iterable[suspects.Suspect]) -> None:
    """suspects.csv: every cell of every image, most doubtful first."""
    write_rows(
        path,
        ["image", "split", "label", "given", "probability", "in_context", "spread", "doubt", "kind", "reason", "rank"],
        (
            (s.image, s.split, s.label, s.given, f"{s.probability:.6g}", f"{s.in_context:.6g}", f"{s.spread:.3g}",
             f"{s.doubt:.6g}", s.kind, s.reason, s.rank)
            for s in ranked
        ),
    )  # fmt: skip


def write_neighbours(
    path: Path,
    data: DataSet,
    groups: npt.NDArray[np.int64],
    found: suspects.Doubts,
    features: npt.NDArray[np.float32],
) -> None:
    """neighbours.csv: for the images of the first suspects, the five most similar images, near-duplicates marked."""
    first = suspects.order(found.values)[:_SUSPECTS_WITH_NEIGHBOURS] // max(1, found.values.shape[1])
    rows = np.array(list(dict.fromkeys(first.tolist())), np.int64)
    near, likeness = kernel.neighbours(features, rows)
    write_rows(
        path,
        ["image", "neighbour", "similarity", "near_duplicate"],
        (
            (data.images[row], data.images[other], f"{value:.4f}", int(groups[row] == groups[other]))
            for row, others, values in zip(rows.tolist(), near.tolist(), likeness.tolist(), strict=True)
            for other, value in zip(others, values, strict=True)
        ),
    )


def write_probabilities(path: Path, data: DataSet, splits: npt.NDArray[np.str_], values: npt.NDArray[np.float32]) -> None:
    """before.csv, predictions.csv or out_of_fold.csv: a probability a label of every image. Raises PanoramaError for NaN."""
    if not np.isfinite(values).all():
        raise PanoramaError(
            "The model's probabilities are not finite numbers. Use a lower learning rate, or --precision float32."
        )
    rows = (
        [image, split, *(f"{value:.6g}" for value in row)]
        for image, split, row in zip(data.images, splits, values.tolist(), strict=True)
    )
    write_rows(path, ["image", "split", *data.labels], rows)


def measured(
    job: Run,
    data: DataSet,
    splits: npt.NDArray[np.str_],
    probabilities: npt.NDArray[np.float32],
    folds: OutOfFold,
    config: TrainConfig,
) -> dict[str, Any]:
    """metrics.json: the test split first; every figure with the images it was measured on."""
    before = job.probabilities("before.csv")
    h = job.history()
    validation = splits == "validation"

    def on(split: str, values: npt.NDArray[np.float32]) -> dict[str, Any]:
        chosen = splits == split
        return metrics.measure(data.labels, data.targets[chosen], values[chosen], config.threshold)

    return {
        "test": on("test", probabilities),
        "validation": on("validation", probabilities),
        "train": on("train", probabilities),
        "before_training": {"test": on("test", before[1])} if before else {},
        "out_of_fold": metrics.measure(data.labels, data.targets, folds.probabilities, config.threshold),
        "thresholds_from_validation": {
            label: metrics.best_threshold(data.targets[validation, k], probabilities[validation, k])
            for k, label in enumerate(data.labels)
        },
        "best": {"phase": h.best.phase, "epoch": h.best.epoch, "validation_loss": h.best.validation_loss} if h.best else None,
        "how": {
            "test": "the kept model, chosen by validation loss, on the test split, which decided nothing",
            "validation": "the same model on the validation part, which decided early stopping, which epoch is kept, and thresholds",
            "train": "the same model on pictures it was trained on: not evidence",
            "out_of_fold": (
                f"{config.fold_repeats} x {config.folds} "
                + (
                    "models trained through both phases"
                    if config.trains_folds
                    else "kernel heads on features of the pretrained extractor, of the whole picture, of its four corners and, where the backbone has maps of them, of early layers"
                )
                + ", each judging only images that neither it nor a near-duplicate taught it"
            ),
        },
    }

"""What a demo knows and no other data set does: the truth. How many of its planted errors a run found, and how right its model is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from panorama import metrics, runs
from panorama.runs import Run

DEPTH = 1.5  # how many suspects are looked at, for each planted error


@dataclass(frozen=True)
class Score:
    """n_found of n_planted errors stand among the first `depth` suspects. map_*: mean average precision of the model on the validation
    part, 0 to 1, against the truth and against the CSV with its errors; None where it is not defined."""

    n_planted: int
    n_found: int
    depth: int
    map_truth: float | None
    map_csv: float | None

    def in_words(self) -> str:
        """Two sentences for a page or a terminal."""
        told = f"{self.n_found} of the {self.n_planted} planted label errors stand among the first {self.depth} suspects."
        if self.map_truth is not None and self.map_csv is not None:
            told += (
                f" On the validation part the model's mAP is {self.map_truth:.3f} against the truth, and {self.map_csv:.3f} "
                "against the CSV with its errors."
            )
        return told


def planted_errors(folder: Path) -> dict[tuple[str, str], int]:
    """(image, label) -> the true value, of each cell that is wrong in the CSVs of the demo in `folder`. Raises PanoramaError."""
    _, rows = runs.read_rows(folder / "planted.csv")
    return {(row[0], row[1]): int(row[3]) for row in rows}


def found_errors(run: Run, planted: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """The planted cells among the first suspects, as many as `DEPTH` for each of them, most doubtful first."""
    _, suspects = runs.read_rows(run.folder / "suspects.csv")
    cells = [(row[0], row[2]) for row in suspects[: round(DEPTH * len(planted))]]
    return [cell for cell in cells if cell in planted]


def score(run: Run) -> Score | None:
    """How a complete run did on a demo; None where its data set is none, or it is not complete. Raises PanoramaError on damaged files."""
    folder = run.source.root.parent
    if not (folder / "demo.json").is_file() or not (folder / "planted.csv").is_file() or not run.has("metrics.json"):
        return None
    planted = planted_errors(folder)
    answered = run.probabilities("predictions.csv")
    if answered is None or not run.has("suspects.csv"):
        return None
    labels, probabilities = answered
    names, splits, _ = run.images()
    given = run.targets(labels)
    truth = given.copy()
    row_of, column_of = {name: i for i, name in enumerate(names)}, {label: j for j, label in enumerate(labels)}
    for (image, label), value in planted.items():
        if image in row_of and label in column_of:
            truth[row_of[image], column_of[label]] = value
    wrong = {(names[i], labels[j]) for i, j in np.argwhere(truth != given)}  # a run on corrected labels has fewer of them
    planted = {cell: value for cell, value in planted.items() if cell in wrong}
    validation = np.array(splits) == "validation"

    def mean_average_precision(targets: np.ndarray) -> float | None:
        measured = metrics.measure(labels, targets[validation], probabilities[validation])["macro"]["average_precision"]
        return None if measured is None else float(measured)

    return Score(
        len(planted),
        len(found_errors(run, planted)),
        round(DEPTH * len(planted)),
        mean_average_precision(truth),
        mean_average_precision(given),
    )

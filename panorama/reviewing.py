"""What the review page works on: a run's suspects as arrays, the next ones to decide, and the files to take home."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panorama.datasets import SheetPart
from panorama.errors import PanoramaError
from panorama.reviews import Decision
from panorama.runs import Run, read_rows


@dataclass(frozen=True)
class ReviewQueue:
    """Suspects, most doubtful first, one array element a cell; images and labels by position.

    image_of, label_of, given, probabilities, doubts: (n_cells,). targets, by_image (out-of-fold probabilities): (n_images, n_labels).
    """

    fingerprint: str
    images: list[str]
    splits: list[str]
    paths: list[str]
    labels: list[str]
    targets: npt.NDArray[np.int8]
    by_image: npt.NDArray[np.float32]
    image_of: npt.NDArray[np.int64]
    label_of: npt.NDArray[np.int64]
    given: npt.NDArray[np.int8]
    probabilities: npt.NDArray[np.float64]
    doubts: npt.NDArray[np.float64]
    parts: tuple[SheetPart, ...]

    def waiting(
        self,
        standing: Mapping[tuple[str, str], Decision],
        *,
        label: str | None = None,
        kind: str | None = None,
        split: str | None = None,
    ) -> npt.NDArray[np.int64]:
        """Positions of the undecided cells that fit the filter, most doubtful first."""
        open_cells = np.ones((len(self.images), len(self.labels)), bool)
        row, column = ({name: position for position, name in enumerate(names)} for names in (self.images, self.labels))
        for image, decided_label in standing:
            if image in row and decided_label in column:
                open_cells[row[image], column[decided_label]] = False
        keep = open_cells[self.image_of, self.label_of]
        if label is not None:
            keep &= self.label_of == column[label]
        if kind is not None:
            keep &= self.given == (1 if kind == "extra" else 0)
        if split is not None:
            keep &= (np.array(self.splits) == split)[self.image_of]
        return np.flatnonzero(keep)

    def verdict(self, standing: Mapping[tuple[str, str], Decision], image: int, label: int) -> str:
        """What was decided on a cell, in a word; empty when nothing was."""
        decision = standing.get((self.images[image], self.labels[label]))
        return {"keep": "keep", "change": "change", "skip": "skipped"}[decision.verdict] if decision else ""


def open_queue(run: Run) -> ReviewQueue:
    """The review queue of a complete run. Raises PanoramaError when its files do not fit together."""
    images, splits, paths = run.images()
    found = run.probabilities("out_of_fold.csv")
    if found is None:
        raise PanoramaError(f"Run {run.id} has no out-of-fold probabilities. Resume it, or start a new one.")
    labels, by_image = found
    row, column = ({name: position for position, name in enumerate(names)} for names in (images, labels))
    _, rows = read_rows(run.folder / "suspects.csv")
    try:
        figures = np.array([r[4:6] for r in rows], np.float64).reshape(len(rows), 2)  # probability, doubt
        if not ((figures >= 0) & (figures <= 1)).all():
            raise ValueError("probabilities and doubts go from 0 to 1")
        return ReviewQueue(
            run.fingerprint, images, splits, paths, labels, run.targets(labels), by_image,
            np.array([row[r[0]] for r in rows], np.int64), np.array([column[r[2]] for r in rows], np.int64),
            np.array([int(r[3]) for r in rows], np.int8), figures[:, 0], figures[:, 1],
            run.sheets(),
        )  # fmt: skip
    except (KeyError, ValueError, IndexError) as error:
        raise PanoramaError(
            f"{run.folder / 'suspects.csv'}: does not fit the run ({error}). Resume the run, or start a new one."
        ) from error


def bundle(contents: Mapping[str, bytes], log: bytes) -> bytes:
    """A zip of the corrected CSVs and the change log; the same input gives the same bytes."""
    buffer = io.BytesIO()
    log_name = "changes.csv"
    while log_name.casefold() in {name.casefold() for name in contents}:  # two files of one name: only one would be unpacked
        log_name = f"panorama_{log_name}"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*contents.items(), (log_name, log)]:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()

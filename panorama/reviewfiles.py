"""Opening a run for review: its suspects and neighbours as arrays, quickly also where they are millions."""

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from panorama.errors import PanoramaError
from panorama.files import write_atomically
from panorama.reviewing import Neighbour, ReviewQueue
from panorama.runs import Run, read_rows
from panorama.suspects import REASONS

_INDEX = "suspects.npz"
_ROWS_AT_ONCE = 250_000
_NUMBERS = ("probability", "in_context", "spread", "doubt")
Arrays = dict[str, npt.NDArray[Any]]


def open_queue(run: Run) -> ReviewQueue:
    """The review queue of a complete run. Raises PanoramaError when its files do not fit together."""
    images, splits, paths = run.images()
    header, _ = _header(run.folder / "out_of_fold.csv")
    labels = header[2:]
    cells = indexed(run, images, labels)
    image_of, label_of, given = cells["image_of"], cells["label_of"], cells["given"]
    if len(given) == len(images) * len(labels):
        targets, by_image = np.zeros((len(images), len(labels)), np.int8), np.zeros((len(images), len(labels)), np.float32)
        targets[image_of, label_of], by_image[image_of, label_of] = given, cells["probability"]
    else:  # a table that was cut: what it leaves out is in the others
        found = run.probabilities("out_of_fold.csv")
        assert found is not None
        targets, by_image = run.targets(labels), found[1]
    near = _neighbours(run, {name: row for row, name in enumerate(images)}, labels, targets)
    return ReviewQueue(
        run.fingerprint, images, splits, paths, labels, targets, by_image, image_of, label_of, given,
        cells["probability"], cells["in_context"], cells["spread"], cells["reason"], cells["doubt"], near, bool(cells["has_evidence"]),
    )  # fmt: skip


def indexed(run: Run, images: list[str], labels: list[str]) -> Arrays:
    """suspects.csv as arrays, one element a row: image_of, label_of, given, probability, in_context, spread, doubt, reason; has_evidence.

    Kept beside it in suspects.npz, which is read instead as long as it belongs to that very file. Raises PanoramaError.
    """
    path = run.folder / "suspects.csv"
    try:
        status = path.stat()
    except OSError as error:
        raise PanoramaError(f"{path}: cannot be read ({error.strerror}). The run may not have got so far.") from error
    names = zlib.crc32("\0".join([*images, "", *labels]).encode("utf-8", "surrogateescape"))
    stamp = np.array([status.st_size, status.st_mtime_ns, len(images), len(labels), names])
    with (
        suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
        np.load(run.folder / _INDEX, allow_pickle=False) as kept,
    ):
        if np.array_equal(kept["stamp"], stamp):
            found = {name: kept[name] for name in (*_EMPTY, "has_evidence")}
            _check(found)
            _check_positions(found, len(images), len(labels))
            return found
    found = _parsed(path, images, labels)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{"stamp": stamp, **found})
    with suppress(OSError):  # a full or read-only disk: it is parsed again next time
        write_atomically(run.folder / _INDEX, buffer.getvalue())
    return found


def _parsed(path: Path, images: list[str], labels: list[str]) -> Arrays:
    header, has_rows = _header(path)
    wanted = [name for name in ("image", "label", "given", "reason", *_NUMBERS) if name in header]
    if missing := {"image", "label", "given", "probability", "doubt"} - set(wanted):
        raise _misfit(path, f"no column {', '.join(sorted(missing))}")
    parts = list(_parts(path, wanted, images, labels)) if has_rows else []
    found = {name: np.concatenate([part[name] for part in parts]) if parts else empty for name, empty in _EMPTY.items()}
    return found | {"has_evidence": np.array("reason" in header)}


def _parts(path: Path, wanted: list[str], images: list[str], labels: list[str]) -> Iterator[Arrays]:
    row, column = ({name: n for n, name in enumerate(names)} for names in (images, labels))
    reasons: dict[str, int] = {reason: n for n, reason in enumerate(REASONS)}
    types: dict[str, Any] = (
        dict.fromkeys(("image", "label", "reason"), object) | {"given": "int8"} | dict.fromkeys(_NUMBERS, "float64")
    )
    try:
        with pd.read_csv(
            path, usecols=wanted, dtype={name: types[name] for name in wanted}, na_filter=False, chunksize=_ROWS_AT_ONCE,
            encoding="latin-1", engine="c",
        ) as chunks:  # fmt: skip
            for chunk in chunks:
                part = {
                    "image_of": _positions(chunk["image"], row).astype(np.int32),
                    "label_of": _positions(chunk["label"], column).astype(np.int32),
                    "given": chunk["given"].to_numpy(np.int8),
                    "reason": _positions(chunk["reason"], reasons).astype(np.int8)
                    if "reason" in chunk
                    else np.full(len(chunk), reasons["hard"], np.int8),
                }
                # Runs of older versions know no context and no spread.
                for name in _NUMBERS:
                    source = chunk[name if name in chunk else "probability"].to_numpy(np.float32)
                    part[name] = source if name in chunk or name != "spread" else np.zeros(len(chunk), np.float32)
                _check(part)
                yield part
    except (KeyError, ValueError, pd.errors.ParserError) as error:
        raise _misfit(path, error) from error


_EMPTY: Arrays = {
    "image_of": np.empty(0, np.int32), "label_of": np.empty(0, np.int32), "given": np.empty(0, np.int8), "reason": np.empty(0, np.int8),
    **{name: np.empty(0, np.float32) for name in _NUMBERS},
}  # fmt: skip


def _positions(column: "pd.Series[Any]", position: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Each value's position; a name is looked up once a chunk. Raises KeyError for one that has none."""
    codes, names = pd.factorize(column)
    # pandas reads no bytes that are not UTF-8; taken as Latin-1 every byte is a character, and back.
    of_name = np.array([position[name.encode("latin-1").decode("utf-8", "surrogateescape")] for name in names], np.int64)
    return of_name[codes]


def _check(part: Arrays) -> None:
    if not np.isin(part["given"], (0, 1)).all():
        raise ValueError("given values are 0 or 1")
    if not all(((part[name] >= 0) & (part[name] <= 1)).all() for name in _NUMBERS):
        raise ValueError("probabilities and doubts go from 0 to 1")


def _check_positions(found: Arrays, n_images: int, n_labels: int) -> None:
    """Raises ValueError for an index that was not made by `indexed`."""
    n = len(found["given"])
    for name, empty in _EMPTY.items():
        if found[name].dtype != empty.dtype or found[name].shape != (n,):
            raise ValueError(f"{name} is {found[name].dtype} of shape {found[name].shape}")
    for name, most in (("image_of", n_images), ("label_of", n_labels), ("reason", len(REASONS))):
        if n and not (found[name].min() >= 0 and found[name].max() < most):
            raise ValueError(f"{name} goes beyond {most}")


def _header(path: Path) -> tuple[list[str], bool]:
    """The columns of a CSV that panorama wrote, and whether rows follow. Raises PanoramaError."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            rows = csv.reader(stream)
            return next(rows), next(rows, None) is not None
    except (OSError, csv.Error, StopIteration) as error:
        raise PanoramaError(f"{path}: cannot be read ({error or 'it is empty'}). The run may not have got so far.") from error


def _misfit(path: Path, error: object) -> PanoramaError:
    return PanoramaError(f"{path}: does not fit the run ({error}). Resume the run, or start a new one.")


def _neighbours(
    run: Run, row: Mapping[str, int], labels: list[str], targets: npt.NDArray[np.int8]
) -> dict[int, tuple[Neighbour, ...]]:
    if not run.has("neighbours.csv"):
        return {}
    path = run.folder / "neighbours.csv"
    header, rows = read_rows(path)
    near: dict[int, tuple[Neighbour, ...]] = {}
    try:
        image, neighbour, similarity, near_duplicate = (
            header.index(n) for n in ("image", "neighbour", "similarity", "near_duplicate")
        )
        for cells in rows:
            other = row[cells[neighbour]]
            carried = tuple(labels[k] for k in np.flatnonzero(targets[other]))
            found = Neighbour(other, cells[neighbour], float(cells[similarity]), cells[near_duplicate] == "1", carried)
            near[row[cells[image]]] = (*near.get(row[cells[image]], ()), found)
    except (KeyError, ValueError) as error:
        raise _misfit(path, error) from error
    return near

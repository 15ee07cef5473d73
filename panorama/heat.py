"""heat.npy of a run: where the model sees each label in each picture, and a picture of it to lay over the photo.

Pictures are squeezed to a square for the model, never cropped, so a map stretched to the photo covers all of it.
"""

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from panorama.errors import PanoramaError
from panorama.runs import Run

Heat = npt.NDArray[np.uint8]

MOST_BYTES = 2**30
_FILE = "heat.npy"
# Inferno at five places (Smith and van der Walt 2015): lightness alone tells the order, with any kind of colour vision.
_RAMP = np.array([(0, 0, 4), (86, 16, 110), (187, 55, 84), (249, 140, 10), (252, 255, 164)], np.float64)
_CLEAR_BELOW = 0.2  # of 1: what is less likely than that hides nothing of the photo
_MOST_OPAQUE = 0.75


@contextmanager
def writing(run: Run, shape: tuple[int, int, int, int]) -> Iterator[Callable[[Heat], None]]:
    """Takes the maps (some images, n_labels, height, width) of one batch after the other; heat.npy is there when all of `shape` came.

    Written as a stream: a memory-mapped file on a full disk would end the process without a word.
    """
    temporary = run.folder / f".{_FILE}.tmp"  # one name, so that a killed run leaves one file, which the next start writes over
    try:
        with temporary.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})

            def write(maps: Heat) -> None:
                stream.write(np.ascontiguousarray(maps).data)

            yield write
        temporary.replace(run.folder / _FILE)
    finally:
        temporary.unlink(missing_ok=True)


def heat_of(run: Run, row: int, label_index: int) -> Heat | None:
    """(height, width) how likely the label is at each place of the image at `row` of split.csv, 0 to 255; None where the run has no maps.

    Raises PanoramaError when the file is damaged or of other images.
    """
    try:
        status = (run.folder / _FILE).stat()
    except FileNotFoundError:
        return None
    return np.array(_opened(run, (status.st_mtime_ns, status.st_size))[row, label_index])


@lru_cache(maxsize=4)
def _opened(run: Run, _version: tuple[int, int]) -> npt.NDArray[Any]:
    """The maps, read from the disk where they are looked at. _version: of the file, so that a new one is opened anew."""
    path = run.folder / _FILE
    try:
        maps = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PanoramaError(f"{path}: damaged ({type(error).__name__}: {error}). Resume the run, or start a new one.") from error
    expected = (len(run.images()[0]), _count_labels(run))
    if maps.dtype != np.uint8 or maps.ndim != 4 or maps.shape[:2] != expected:
        raise PanoramaError(
            f"{path}: does not fit the run: {maps.dtype} of shape {maps.shape}; expected uint8 for {expected[0]:,} images and "
            f"{expected[1]} labels. Resume the run, or start a new one."
        )
    loaded: npt.NDArray[Any] = maps
    return loaded


def _count_labels(run: Run) -> int:
    path = run.folder / "predictions.csv"
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            return len(next(csv.reader(stream))) - 2
    except (OSError, csv.Error, StopIteration) as error:
        raise PanoramaError(f"{path}: cannot be read ({error}). Resume the run, or start a new one.") from error


def overlay_png(heat: Heat, size: int) -> bytes:
    """A PNG of `size` x `size` pixels to stretch over the photo: brighter and less transparent where the label is more likely."""
    smooth = np.asarray(Image.fromarray(heat).resize((size, size), Image.Resampling.BICUBIC), np.float64) / 255
    steps = np.linspace(0, 1, len(_RAMP))
    colours = [np.interp(smooth, steps, channel) for channel in _RAMP.T]
    opacity = 255 * _MOST_OPAQUE * np.clip((smooth - _CLEAR_BELOW) / (1 - _CLEAR_BELOW), 0, 1)
    buffer = io.BytesIO()
    Image.fromarray(np.stack([*colours, opacity], -1).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()

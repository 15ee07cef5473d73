"""Pixels read once, and one pass of the frozen extractor over a data set, cached by content."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panorama import preprocessing
from panorama.images import open_rgb, square
from panorama.model import Classifier

Features = npt.NDArray[np.float32]
OnProgress = Callable[[int, int], None]
BATCH = 64
_IN_MEMORY_BYTES = 2 * 2**30
_THREADS = max(2, os.cpu_count() or 1)


class Pixels:
    """The pictures of a data set as squeezed squares, decoded once when they fit in memory, else whenever they are asked for."""

    def __init__(self, paths: Sequence[Path], names: Sequence[str], side: int) -> None:
        self.side = side
        self._sources = list(zip(paths, names, strict=True))
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="decode")  # Pillow decodes outside the GIL
        self._array: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self._sources)

    def read(self, on_progress: OnProgress = lambda done, total: None) -> None:
        """Decodes everything, if it fits in memory. Raises PictureError naming the picture that cannot be read."""
        if len(self) * self.side**2 * 3 > _IN_MEMORY_BYTES:
            return
        array = np.empty((len(self), self.side, self.side, 3), np.uint8)
        for start in range(0, len(self), BATCH):
            indices = range(start, min(start + BATCH, len(self)))
            array[start : start + BATCH] = list(self._pool.map(self._decode, indices))
            on_progress(indices.stop, len(self))
        self._array = array

    def batch(self, indices: npt.NDArray[np.int64]) -> Tensor:
        """uint8 (len(indices), side, side, 3) in the order of `indices`."""
        if self._array is not None:
            return torch.from_numpy(self._array[indices])
        return torch.from_numpy(np.stack(list(self._pool.map(self._decode, indices.tolist()))))

    def _decode(self, index: int) -> npt.NDArray[np.uint8]:
        path, name = self._sources[index]
        return square(open_rgb(path, name, at_least=self.side), self.side)


def fingerprint(model: Classifier) -> str:
    """A hash of the extractor's parameters and statistics."""
    digest = hashlib.sha256()
    for name, value in sorted(model.extractor.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def extract_tiles(
    model: Classifier,
    pixels: Pixels,
    *,
    image_size: int,
    dtype: torch.dtype,
    on_progress: OnProgress = lambda done, total: None,
) -> Features:
    """(n_images, 2 * width): the maximum, then the mean of the features of four overlapping corners of each picture.

    What fills a corner only is drowned in the whole picture, and is what annotators forget. pixels: of side
    `preprocessing.tiled_side(image_size)`.
    """
    where = next(model.parameters()).device
    model.eval()
    parts: list[Tensor] = []
    step = BATCH // 4
    for start in range(0, len(pixels), step):
        indices = np.arange(start, min(start + step, len(pixels)))
        x = preprocessing.for_tiles(pixels.batch(indices), image_size)
        with torch.autocast(where.type, dtype, enabled=dtype is not torch.float32):
            tiles = model.extractor(x.to(where)).float().flatten(1).view(len(indices), 4, -1).cpu()
        parts.append(torch.cat([tiles.amax(1), tiles.mean(1)], 1))
        on_progress(int(indices[-1]) + 1, len(pixels))
    return torch.cat(parts).numpy() if parts else np.zeros((0, 2 * model.head.in_features), np.float32)


@torch.no_grad()
def extract(
    model: Classifier,
    pixels: Pixels,
    indices: npt.NDArray[np.int64],
    *,
    image_size: int,
    dtype: torch.dtype,
    on_progress: OnProgress = lambda done, total: None,
) -> Features:
    """(len(indices), width) features in eval mode, of the plain pictures."""
    where = next(model.parameters()).device
    model.eval()
    parts: list[Tensor] = []
    for start in range(0, len(indices), BATCH):
        x = preprocessing.for_evaluation(pixels.batch(indices[start : start + BATCH]), image_size)
        with torch.autocast(where.type, dtype, enabled=dtype is not torch.float32):
            parts.append(model.extractor(x.to(where)).float().flatten(1).cpu())
        on_progress(min(start + BATCH, len(indices)), len(indices))
    if not parts:
        return np.zeros((0, model.head.in_features), np.float32)
    return torch.cat(parts).numpy()


def cached(file_key: Sequence[Any], cache: Path, make: Callable[[], Features]) -> Features:
    """The array stored under the hash of `file_key`, made and stored when it is not there or damaged.

    The file is replaced atomically, so that two processes or a crash leave a whole one.
    """
    digest = hashlib.sha256(repr([preprocessing.VERSION, torch.__version__, *file_key]).encode()).hexdigest()
    file = cache / f"{digest[:32]}.npy"
    try:
        return np.asarray(np.load(file, allow_pickle=False), np.float32)
    except (OSError, ValueError, EOFError):
        pass
    array = make()
    cache.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, array)
    temporary.replace(file)
    return array

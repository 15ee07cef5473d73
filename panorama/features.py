"""Pixels decoded once, and one pass of the frozen extractor over a data set, kept by the content of each picture."""

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panorama import hardware, preprocessing
from panorama.cache import PixelFile, Rows
from panorama.folding import for_inference
from panorama.hardware import batch_size
from panorama.images import PictureError, open_rgb
from panorama.model import Classifier, EarlyMap, FeatureMap, feature_map, with_early, with_map
from panorama.processes import ALONE, Team

Features = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
OnProgress = Callable[[int, int], None]
_KEPT_AT_ONCE = 512  # rows: what a kill can cost
_THREADS = max(2, os.cpu_count() or 1)
_TOLD_AFTER = 8  # decoded pictures
_CPU = torch.device("cpu")


class Pixels:
    """The pictures of a data set as squeezed squares, decoded once where the cache has room, else whenever they are asked for.

    contents: the sha256 of each file, under which decoded pixels are kept in `cache`; a file that has another by then is refused.
    Without them nothing is kept.
    """

    def __init__(
        self, paths: Sequence[Path], names: Sequence[str], side: int, *, contents: Sequence[str] = (), cache: Path | None = None
    ) -> None:
        self.side = side
        self._sources = list(zip(paths, names, strict=True))
        self._contents = contents
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="decode")  # Pillow decodes outside the GIL
        self._file: PixelFile | None = None
        self._on_gpu: _OnGpu | None = None
        if cache is not None and contents:
            key = _digest([preprocessing.VERSION, side, *contents])
            self._file = PixelFile(cache, key, len(self._sources), side)

    def __len__(self) -> int:
        return len(self._sources)

    def read(self, on_progress: OnProgress = lambda done, total: None) -> None:
        """Decodes everything into the cache, if it has room. Raises PictureError naming the picture that cannot be read."""
        if self._file is None or self._file.open():
            return

        def decoded() -> Iterator[npt.NDArray[np.uint8]]:
            ahead = 8 * _THREADS  # so that nobody waits for one large picture, or for the disk
            waiting = deque(self._pool.submit(self._decode, index) for index in range(min(ahead, len(self))))
            try:
                for done in range(1, len(self) + 1):
                    pixels = waiting.popleft().result()
                    if done + len(waiting) < len(self):
                        waiting.append(self._pool.submit(self._decode, done + len(waiting)))
                    yield pixels
                    if done % _TOLD_AFTER == 0 or done == len(self):
                        on_progress(done, len(self))
            finally:
                for future in waiting:
                    future.cancel()

        self._file.write(decoded())
        self._file.open()

    def batch(self, indices: Indices) -> Tensor:
        """uint8 (len(indices), side, side, 3) in the order of `indices`."""
        return next(self.batches([indices]))

    def batches(self, chosen: Iterable[Indices], where: torch.device = _CPU) -> Iterator[Tensor]:
        """`batch` for each of `chosen`, on `where`; the next is read while one is used.

        A GPU with room for all decoded pictures is given each of them once and keeps it.
        """
        kept = self._kept_on(where)
        waiting: list[tuple[Indices, Indices, list[Future[npt.NDArray[np.uint8]]]]] = []
        for indices in itertools.chain(chosen, [None]):
            if indices is not None:
                missing = indices if kept is None else indices[~kept.there[indices]]
                waiting.append((indices, missing, [self._pool.submit(self._read, index) for index in missing.tolist()]))
            if len(waiting) > 1 or (indices is None and waiting):
                wanted, missing, reading = waiting.pop(0)
                read = _stacked([future.result() for future in reading], self.side)
                yield hardware.moved(read, where) if kept is None else kept.batch(wanted, missing, read)

    def _kept_on(self, where: torch.device) -> "_OnGpu | None":
        if where.type == "cpu":
            return None
        if self._on_gpu is None and self._file is not None and _OnGpu.has_room(len(self), self.side, where):
            self._on_gpu = _OnGpu(len(self), self.side, where)
        return self._on_gpu

    def _read(self, index: int) -> npt.NDArray[np.uint8]:
        pixels = self._file.read(index) if self._file is not None else None
        return self._decode(index) if pixels is None else pixels

    def _decode(self, index: int) -> npt.NDArray[np.uint8]:
        path, name = self._sources[index]
        source: Path | bytes = path
        if self._contents:
            with suppress(OSError):  # `open_rgb` says it in words
                source = path.read_bytes()
            if isinstance(source, bytes) and hashlib.sha256(source).hexdigest() != self._contents[index]:
                raise PictureError(f"{name}: the file has changed since the run read it. Start a new run.")
        return preprocessing.square(open_rgb(source, name, at_least=self.side), self.side)


class _OnGpu:
    """Decoded pictures in the memory of a GPU, which takes a batch from there many times as fast as it can be read and sent."""

    _SHARE = 0.25  # of the free memory: the rest is for training

    def __init__(self, n: int, side: int, where: torch.device) -> None:
        with torch.inference_mode(False):  # a pass makes it, and training may add to it
            self._pixels = torch.empty((n, side, side, 3), dtype=torch.uint8, device=where)
        self.there = np.zeros(n, bool)

    @classmethod
    def has_room(cls, n: int, side: int, where: torch.device) -> bool:
        return n * side * side * 3 <= cls._SHARE * hardware.free_memory(where)

    def batch(self, indices: Indices, missing: Indices, pixels: Tensor) -> Tensor:
        """The pictures `indices`, of which `missing`, whose `pixels` (len(missing), side, side, 3) are given on the CPU, were not there."""
        where = self._pixels.device
        if len(missing):
            self._pixels[hardware.moved(torch.from_numpy(missing), where)] = hardware.moved(pixels, where)
            self.there[missing] = True
        return self._pixels[hardware.moved(torch.from_numpy(indices), where)]


def _stacked(pictures: list[npt.NDArray[np.uint8]], side: int) -> Tensor:
    return torch.from_numpy(np.stack(pictures) if pictures else np.zeros((0, side, side, 3), np.uint8))


def in_batches(indices: Indices, size: int) -> list[Indices]:
    """`indices` in consecutive parts of at most `size`."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def fingerprint(model: Classifier) -> str:
    """A hash of the extractor's parameters and statistics."""
    digest = hashlib.sha256()
    for name, value in sorted(model.extractor.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


Pass = Callable[[Indices], Iterator[Features]]


def whole_pass(model: Classifier, pixels: Pixels, *, image_size: int, dtype: torch.dtype, early: Sequence[EarlyMap] = ()) -> Pass:
    """A pass over plain pictures: features (n, width) of each batch of the indices it is given, in order, in eval mode.

    early: maps whose quarters follow the features in each row (`model.with_early`), 4 * the sum of their widths more.
    """
    extractor = for_inference(model).extractor
    where = next(model.parameters()).device

    @torch.inference_mode()
    def run(indices: Indices) -> Iterator[Features]:
        for batch in pixels.batches(in_batches(indices, batch_size(where)), where):
            x = preprocessing.for_evaluation(batch, image_size)
            with torch.autocast(where.type, dtype, enabled=dtype is not torch.float32):
                features, quarters = with_early(extractor, early, x)
            yield torch.cat([features.float().flatten(1), quarters.float()], 1).cpu().numpy()

    return run


def corners_pass(model: Classifier, pixels: Pixels, *, image_size: int, dtype: torch.dtype) -> Pass:
    """A pass over corners: (n, 2 * width), the maximum, then the mean of the features of four overlapping corners of each picture.

    What fills a corner only is drowned in the whole picture, and is what annotators forget. pixels: of side
    `preprocessing.tiled_side(image_size)`. Where the extractor averages a feature map, a corner's features are the average of its part of
    the map of the large picture, for four fifths of the time; elsewhere each corner is cut out and seen as a picture of its own.
    """
    network = for_inference(model)
    where = next(model.parameters()).device
    place = _map_of_large(network, pixels.side)
    at_once = max(1, batch_size(where) // (4 if place is None else 2))

    @torch.inference_mode()
    def run(indices: Indices) -> Iterator[Features]:
        for batch in pixels.batches(in_batches(indices, at_once), where):
            with torch.autocast(where.type, dtype, enabled=dtype is not torch.float32):
                if place is None:
                    x = preprocessing.for_tiles(batch, image_size)
                    corners = network.extractor(x).float().flatten(1).view(len(batch), 4, -1)
                else:
                    x = preprocessing.for_evaluation(batch, pixels.side)
                    corners = _corners(with_map(network.extractor, place, x)[1].float())
            yield torch.cat([corners.amax(1), corners.mean(1)], 1).cpu().numpy()

    return run


def _map_of_large(network: Classifier, side: int) -> FeatureMap | None:
    """The feature map of pictures of `side` pixels; None where there is none, or the backbone takes pictures of another size only."""
    try:
        return feature_map(network, side)
    except (RuntimeError, AssertionError, ValueError):
        return None


def _corners(places: Tensor) -> Tensor:
    """(batch, width, height, width of the map) -> (batch, 4, width): the mean over each corner, of the same share as a tile."""
    height, width = (max(1, round(side * preprocessing.TILE_SHARE)) for side in places.shape[2:])
    corners = [
        places[:, :, rows, columns].mean((2, 3))
        for rows in (slice(None, height), slice(-height, None))
        for columns in (slice(None, width), slice(-width, None))
    ]
    return torch.stack(corners, 1)


def extract(run: Pass, indices: Indices, width: int, on_progress: OnProgress = lambda done, total: None) -> Features:
    """The rows (len(indices), width) of a pass."""
    rows = np.zeros((len(indices), width), np.float32)
    done = 0
    for batch in run(indices):
        rows[done : done + len(batch)] = batch
        done += len(batch)
        on_progress(done, len(indices))
    return rows


def cached(
    run: Pass,
    contents: Sequence[str],
    width: int,
    key: Sequence[Any],
    cache: Path,
    on_progress: OnProgress = lambda done, total: None,
    team: Team = ALONE,
) -> Features:
    """The rows (n, width) of a pass over n pictures, those already known under their contents read from the cache.

    contents: the sha256 of each picture file. key: all else that decides a row: weights, preprocessing, precision. New rows are
    kept as they come, so a pass that was killed goes on where it was.
    """
    store = Rows(cache, _digest([preprocessing.VERSION, torch.__version__, width, *key]), width)
    known, rows = store.read(contents)
    known = team.all(known)  # and nobody writes before everybody has read
    first: dict[str, int] = {}
    for index, content in enumerate(contents):
        first.setdefault(content, index)
    todo = np.array([index for index in first.values() if not known[index]], np.int64)
    mine = team.share(todo)
    done = kept = 0

    def keep() -> None:
        nonlocal kept
        store.append([contents[index] for index in mine[kept:done]], rows[mine[kept:done]])
        kept = done

    try:
        for batch in run(mine):
            rows[mine[done : done + len(batch)]] = batch
            done += len(batch)
            if done - kept >= _KEPT_AT_ONCE:
                keep()
            on_progress(len(first) - len(todo) + min(done * team.count, len(todo)), len(first))
    finally:
        if done > kept:
            keep()
    rows[todo] = team.gather(rows[mine], len(todo))
    return rows[[first[content] for content in contents]] if len(first) < len(contents) else rows


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(repr(list(values)).encode()).hexdigest()[:32]

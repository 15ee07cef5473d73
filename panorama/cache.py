"""What can be computed again, kept by content: features of pictures, decoded pixels, and networks as ONNX.

Any file here may be deleted at any time, and several processes may read and write at once. Every row carries a checksum; one that a
crash left unsound is computed again. The whole is bounded: what was not used for longest goes first.
"""

import math
import os
import shutil
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from panorama.files import write_atomically

_GIGABYTE = 10**9
_DEFAULT_GIGABYTES = 20.0
_AT_ONCE = 1024  # rows in memory while a file is searched
_LOCK_SECONDS = 10.0
_IN_USE_SECONDS = 6 * 3600.0  # what was opened so lately may be in use by a run, and is not dropped to make room
_SUFFIXES = (".rows", ".pixels", ".network", ".tmp", ".npy")  # .npy: of an earlier version


def limit(folder: Path) -> int:
    """How many bytes the cache may take: PANORAMA_CACHE_GB (default 20), and at most half of what the disk would have free without it."""
    try:
        wanted = float(os.environ.get("PANORAMA_CACHE_GB") or _DEFAULT_GIGABYTES)
    except ValueError:
        wanted = _DEFAULT_GIGABYTES
    if not math.isfinite(wanted):
        wanted = _DEFAULT_GIGABYTES
    disk = next(part for part in (folder, *folder.resolve().parents) if part.exists())
    return int(max(0.0, min(wanted * _GIGABYTE, (shutil.disk_usage(disk).free + size(folder)) / 2)))


def size(folder: Path) -> int:
    """Bytes of what is cached in `folder`."""
    return sum(status.st_size for _, status in _files(folder))


def clear(folder: Path) -> int:
    """Deletes what is cached; returns how many bytes went. A run that has them open goes on."""
    before = size(folder)
    for path, _ in _files(folder):
        with suppress(OSError):
            path.unlink()
    return before - size(folder)


def make_room(folder: Path, needed: int) -> bool:
    """Whether `needed` more bytes fit; deletes what was not used for longest until they do, but nothing that may be in use."""
    allowed = limit(folder)
    if needed > allowed:
        return False
    files = sorted(_files(folder), key=lambda file: file[1].st_mtime)
    total = sum(status.st_size for _, status in files)
    for path, status in files:
        if total + needed <= allowed or time.time() - status.st_mtime < _IN_USE_SECONDS:
            break
        with suppress(OSError):
            path.unlink()
            total -= status.st_size
    return total + needed <= allowed


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for part in ("features", "pixels", "networks"):
        for path in (folder / part).glob("*"):
            with suppress(OSError):
                if path.suffix in _SUFFIXES:
                    found.append((path, path.stat()))
    return found


def _used_now(file: Path) -> None:
    with suppress(OSError):  # a cache that can only be read is still worth reading
        os.utime(file)


class Rows:
    """Rows of float32, each under the sha256 of a picture file, in one file that is only ever appended to.

    What a crash left unfinished at its end is cut off before the next append.
    """

    def __init__(self, folder: Path, key: str, width: int) -> None:
        self._folder = folder
        self._file = folder / "features" / f"{key}.rows"
        self._type = np.dtype([("content", "V32"), ("checksum", "<u4"), ("row", "<f4", (width,))])

    def read(self, contents: Sequence[str]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """(n,) which are there, and (n, width) the rows of those; the others are 0. contents: hexadecimal sha256, n of them."""
        found = np.zeros(len(contents), bool)
        rows = np.zeros((len(contents), *self._type["row"].shape), np.float32)
        places: dict[bytes, list[int]] = {}
        for place, content in enumerate(contents):
            places.setdefault(bytes.fromhex(content), []).append(place)
        with suppress(OSError), self._file.open("rb") as stream:
            _used_now(self._file)
            while len(records := np.fromfile(stream, self._type, _AT_ONCE)):
                for number, content in enumerate(records["content"].tolist()):
                    wanted = places.get(content)
                    if wanted and not found[wanted[0]] and _sum(records["row"][number]) == records["checksum"][number]:
                        found[wanted], rows[wanted] = True, records["row"][number]
        return found, rows

    def append(self, contents: Sequence[str], rows: npt.NDArray[np.float32]) -> None:
        """Keeps rows (n, width) under their contents, where there is room and the disk allows."""
        records = np.zeros(len(contents), self._type)
        records["content"] = np.array([bytes.fromhex(content) for content in contents], "V32")
        records["row"] = rows
        records["checksum"] = [_sum(row) for row in records["row"]]
        with suppress(OSError, Timeout):
            if not make_room(self._folder, records.nbytes):
                return
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._file.with_suffix(".lock"), timeout=_LOCK_SECONDS), self._file.open("ab") as stream:
                stream.truncate(stream.tell() - stream.tell() % self._type.itemsize)
                stream.write(records.tobytes())


class PixelFile:
    """Decoded pictures of one data set in one file: uint8 (side, side, 3) each, then a checksum each.

    Read a picture at a time, so that memory stays free.
    """

    def __init__(self, folder: Path, key: str, n_pictures: int, side: int) -> None:
        self._folder, self._n = folder, n_pictures
        self._shape = (side, side, 3)
        self._bytes = side * side * 3
        self._file = folder / "pixels" / f"{key}.pixels"
        self._sums: npt.NDArray[np.uint32] | None = None
        self._reading = threading.Lock()

    def open(self) -> bool:
        """Whether the file is there and whole; then `read` works, even when the file is deleted meanwhile."""
        with suppress(OSError):
            stream = self._file.open("rb")
            if os.fstat(stream.fileno()).st_size == self._n * (self._bytes + _SUM_BYTES):
                stream.seek(self._n * self._bytes)
                self._stream, self._sums = stream, np.frombuffer(stream.read(), np.uint32)
                _used_now(self._file)
                return True
            stream.close()
        return False

    def read(self, index: int) -> npt.NDArray[np.uint8] | None:
        """The picture, or None where the file is not open or not sound there; one that is not sound is not kept."""
        if self._sums is None:
            return None
        pixels = np.empty(self._shape, np.uint8)
        with suppress(OSError):
            with self._reading:
                self._stream.seek(index * self._bytes)
                self._stream.readinto(pixels.data.cast("B"))
            if zlib.crc32(pixels.data) == self._sums[index]:
                return pixels
            self._file.unlink(missing_ok=True)
        return None

    def write(self, pictures: Iterable[npt.NDArray[np.uint8]]) -> None:
        """Writes the file beside its place and moves it there when it is whole; nothing where it does not fit.

        What the disk refuses is not kept; what `pictures` raises is passed on.
        """
        temporary = self._file.with_name(f"{self._file.stem}.{os.getpid()}.tmp")
        sums: list[int] = []
        try:
            if not make_room(self._folder, self._n * (self._bytes + _SUM_BYTES)):
                return
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                for pixels in pictures:
                    stream.write(np.ascontiguousarray(pixels).data)
                    sums.append(zlib.crc32(np.ascontiguousarray(pixels).data))
                stream.write(np.array(sums, np.uint32).data)
            temporary.replace(self._file)
        except OSError:  # a full disk, or the cache was cleared meanwhile
            pass
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


class Kept:
    """Bytes under a key, in a file of their own that ends with their checksum."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._file = folder, folder / "networks" / f"{key}.network"

    def read(self) -> bytes | None:
        """The bytes, or None where they are not there or not whole."""
        with suppress(OSError):
            found = self._file.read_bytes()
            data, checksum = found[:-_SUM_BYTES], found[-_SUM_BYTES:]
            if data and zlib.crc32(data).to_bytes(_SUM_BYTES, "little") == checksum:
                _used_now(self._file)
                return data
        return None

    def write(self, data: bytes) -> None:
        """Replaces the file by a whole one, where there is room and the disk allows."""
        with suppress(OSError):
            if make_room(self._folder, len(data) + _SUM_BYTES):
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._file, data + zlib.crc32(data).to_bytes(_SUM_BYTES, "little"))


_SUM_BYTES = 4


def _sum(row: npt.NDArray[np.float32]) -> int:
    return zlib.crc32(np.ascontiguousarray(row).data)

"""What is known of each picture file: can it be read, its size, its content hash, and what tells near-duplicates.

Measured once a file (path, size, time of change) and kept in a small SQLite file in the cache, safe to delete.
"""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from panorama.images import PictureError, difference_hash, open_with_size
from panorama.split import near_duplicate_groups

_VERSION = 2
_TINY = 8
_SEEN_AT = 64  # pixels of the shorter side: a JPEG is read to its end, but only as much of it computed as the miniatures need
_CHUNK = 256


@dataclass(frozen=True)
class Picture:
    """One scanned file. sha256 of its bytes; tiny: 8 x 8 RGB miniature as bytes; problem: why it cannot be read, or None."""

    sha256: str
    width: int
    height: int
    dhash: int
    tiny: bytes
    problem: str | None = None


def scan(
    paths: Sequence[Path], names: Sequence[str], cache: Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Picture]:
    """A Picture for each path, in order; unreadable ones carry their problem in words, with the name from `names`."""
    keys = [_key(path) for path in paths]
    known = _Known(cache / "pictures.sqlite")
    found: dict[int, Picture] = {index: picture for index, key in enumerate(keys) if (picture := known.get(key))}
    todo = [index for index in range(len(paths)) if index not in found]
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        for start in range(0, len(todo), _CHUNK):
            chunk = todo[start : start + _CHUNK]
            fresh = list(pool.map(lambda index: _measure(paths[index], names[index]), chunk))
            known.put([(keys[index], picture) for index, picture in zip(chunk, fresh, strict=True)])
            found.update(zip(chunk, fresh, strict=True))
            on_progress(len(paths) - len(todo) + start + len(chunk), len(paths))
    known.close()
    return [found[index] for index in range(len(paths))]


def duplicate_groups(pictures: Sequence[Picture]) -> npt.NDArray[np.int64]:
    """A group id for each picture; files with the same bytes and near-duplicates share one."""
    keys = [picture.sha256 or str(position) for position, picture in enumerate(pictures)]
    _, first, content = np.unique(np.array(keys, dtype=str), return_index=True, return_inverse=True)
    hashes = np.array([pictures[i].dhash for i in first], dtype=np.uint64)
    tiny = np.frombuffer(b"".join(pictures[i].tiny or bytes(_TINY * _TINY * 3) for i in first), np.uint8)
    return near_duplicate_groups(hashes, tiny.reshape(len(first), _TINY * _TINY * 3))[content]


def _measure(path: Path, name: str) -> Picture:
    try:
        data = path.read_bytes()
        image, (width, height) = open_with_size(data, name, at_least=_SEEN_AT)
    except PictureError as error:
        return Picture("", 0, 0, 0, b"", str(error).removeprefix(f"{name}: "))
    except OSError as error:
        return Picture("", 0, 0, 0, b"", f"cannot be read ({error.strerror}).")
    tiny = np.asarray(image.resize((_TINY, _TINY), Image.Resampling.BOX), np.uint8).tobytes()
    return Picture(hashlib.sha256(data).hexdigest(), width, height, difference_hash(image), tiny)


def _key(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    name = os.fsencode(path).decode("utf-8", "backslashreplace")  # SQLite takes no text without a UTF-8 form
    return f"{_VERSION}|{name}|{status.st_size}|{status.st_mtime_ns}"


class _Known:
    """The cache file; when it cannot be opened or written, nothing is remembered and nothing else changes."""

    def __init__(self, file: Path) -> None:
        self._connection: sqlite3.Connection | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(file, timeout=10)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS pictures (key TEXT PRIMARY KEY, sha256 TEXT, width INT, height INT, dhash TEXT, tiny BLOB)"
            )
        except (sqlite3.Error, OSError):
            self._connection = None

    def get(self, key: str) -> Picture | None:
        if self._connection is None or not key:
            return None
        try:
            row = self._connection.execute(
                "SELECT sha256, width, height, dhash, tiny FROM pictures WHERE key = ?", (key,)
            ).fetchone()
        except sqlite3.Error:
            return None
        return Picture(row[0], row[1], row[2], int(row[3]), row[4]) if row else None

    def put(self, rows: Sequence[tuple[str, Picture]]) -> None:
        if self._connection is None:
            return
        sound = [(k, p.sha256, p.width, p.height, str(p.dhash), p.tiny) for k, p in rows if k and p.problem is None]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?)", sound)
        except sqlite3.Error:
            self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

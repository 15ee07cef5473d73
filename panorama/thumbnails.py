"""Small JPEGs of pictures for pages, made once and kept in a bounded part of memory."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from panorama.images import PictureError, open_rgb, thumbnail_jpeg

_Key = tuple[str, int, int]


@dataclass(frozen=True)
class Thumbnail:
    """data: a JPEG, or None where the picture cannot be read, with the problem in words. limited: the file may have more pixels."""

    data: bytes | None
    problem: str = ""
    limited: bool = False


class Thumbnails:
    """At most `limit_bytes` of JPEGs, the least recently used dropped first. For all threads of a process."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._size = limit_bytes, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, Thumbnail] = OrderedDict()

    def get(self, path: Path, side: int, name: str) -> Thumbnail:
        """The picture at most `side` pixels a side; made again when the file changes. `name` is what a problem calls it."""
        try:
            key = (str(path), path.stat().st_mtime_ns, side)
        except OSError:
            return Thumbnail(None, f"{name}: the picture is not there any more.")
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            data = thumbnail_jpeg(path, side, name)
            made = Thumbnail(data, limited=max(open_rgb(data).size) >= side)
        except PictureError as error:
            made = Thumbnail(None, str(error))
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._size += _size(made)
            while self._size > self._limit and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._size -= _size(dropped)
        return made


def _size(thumbnail: Thumbnail) -> int:
    return len(thumbnail.data or b"") + 200

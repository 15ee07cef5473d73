"""Files replaced whole: a reader sees the old one or the new one."""

import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`, on disk when this returns; a crash leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def forget_unfinished(folder: Path) -> None:
    """Removes what a killed process left of files that it was about to replace; for whoever alone writes into `folder`."""
    for temporary in folder.glob(".*.tmp"):
        with suppress(OSError):
            temporary.unlink()

"""Unpack an uploaded zip: only pictures and CSVs, only inside the target, all of it or nothing.

`zipfile` is trusted to inflate, never to place: names are checked, and the bytes that come out are counted, because a header may lie.
"""

import hashlib
import lzma
import shutil
import stat
import struct
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from panorama.errors import PanoramaError
from panorama.images import SUFFIXES

TABLE_SUFFIXES = frozenset({".csv", ".tsv"})
MAX_ENTRIES = 500_000
MAX_BYTES = 50 * 2**30
MAX_RATIO = 200  # pictures and CSVs compress far less; a bomb far more
_MAX_NAME_BYTES = 240
_CHUNK = 2**20
_one_at_a_time = threading.Lock()
# zipfile reports damage with all of these; and NotImplementedError (a RuntimeError) for methods it does not have.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, RuntimeError, LookupError)


class ArchiveError(PanoramaError):
    """A zip that is damaged, unsafe, or holds nothing for us."""


def import_zip(
    source: Path | BinaryIO, folder: Path, name: str, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Unpacks the pictures and CSVs of a zip below `folder`, in a folder named after it and its content, and returns that.

    The same zip twice gives the same folder. Raises ArchiveError, naming the entry, for entries that would land outside, links,
    devices, two names for one file, encrypted or damaged entries, and bombs; then nothing is left behind.
    """
    try:
        stream = source.open("rb") if isinstance(source, Path) else source
    except OSError as error:
        raise ArchiveError(f"{name}: cannot be read ({error.strerror}). Is it still there?") from error
    try:
        stream.seek(0)
        digest = hashlib.sha256()
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
        content = digest.hexdigest()[:12]
        stem = "".join(c for c in PurePosixPath(name).stem if c.isalnum() or c in "-_")[:40]  # for people
        target = folder / f"{stem or 'zip'}-{content}"  # the hash tells zips apart
        temporary = folder / f".{target.name}.unpacking"
        with _one_at_a_time:  # two tabs may be given the same zip: the second finds it unpacked
            for known in folder.glob(f"[!.]*-{content}"):
                return known
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                temporary.mkdir(parents=True)
                stream.seek(0)
                _unpack(stream, temporary, name, on_progress)
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return target
    except OSError as error:
        raise ArchiveError(f"{name}: could not be unpacked ({error}). Is the disk full?") from error
    finally:
        if isinstance(source, Path):
            stream.close()


def _unpack(stream: BinaryIO, folder: Path, name: str, on_progress: Callable[[int, int], None]) -> None:
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = _checked(archive.infolist(), name)
            if not entries:
                raise ArchiveError(f"{name}: holds no picture and no CSV. Zip the folder of pictures together with its CSV.")
            left = MAX_BYTES
            for done, (entry, path) in enumerate(entries, 1):
                target = folder.joinpath(*path.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                left -= _copy(archive, entry, target, name, left)
                on_progress(done, len(entries))
    except _DAMAGE as error:
        raise ArchiveError(
            f"{name}: not a zip that can be read ({error}). Make it again; RAR, 7z and tar are not read."
        ) from error


def _checked(infos: list[zipfile.ZipInfo], name: str) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    if len(infos) > MAX_ENTRIES:
        raise ArchiveError(f"{name}: {len(infos):,} entries; at most {MAX_ENTRIES:,} are read.")
    seen: dict[str, str] = {}
    entries = []
    for info in infos:
        path = _safe_path(info, name)
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{name}: {info.filename!r} is a link or a device, not a file. Zip the files themselves.")
        if info.is_dir() or not _wanted(path):
            continue
        if info.flag_bits & 0x1:
            raise ArchiveError(f"{name}: {info.filename!r} is encrypted. Zip it without a password.")
        if info.file_size > MAX_RATIO * max(info.compress_size, 1) + _CHUNK:
            raise ArchiveError(
                f"{name}: {info.filename!r} would grow {info.file_size // max(info.compress_size, 1):,} times; refused as a bomb."
            )
        twin = _folded(path)
        if twin in seen:
            raise ArchiveError(f"{name}: {info.filename!r} and {seen[twin]!r} are one file on many systems. Rename one of them.")
        seen[twin] = info.filename
        entries.append((info, path))
    for info, path in entries:
        if file := next((seen[twin] for parent in path.parents if (twin := _folded(parent)) in seen), None):
            raise ArchiveError(f"{name}: {file!r} is a file and also the folder of {info.filename!r}. Rename one of them.")
    if sum(info.file_size for info, _ in entries) > MAX_BYTES:
        raise ArchiveError(f"{name}: more than {MAX_BYTES // 2**30} GB when unpacked. Give the folder instead of a zip.")
    return entries


def _folded(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _safe_path(info: zipfile.ZipInfo, name: str) -> PurePosixPath:
    raw = info.orig_filename  # `filename` is already cut at a NUL and has the separators of this system
    path = PurePosixPath(raw)
    bad = (
        not raw or "\0" in raw or "\\" in raw or raw.startswith("/") or ".." in path.parts
        or any(part[1:2] == ":" for part in path.parts)  # a drive, which would restart the path there
        or any(ord(character) < 32 for character in raw)
    )  # fmt: skip
    if bad:
        raise ArchiveError(f"{name}: the entry {raw!r} does not name a place inside the zip. Make the zip again from the folder.")
    if any(len(part.encode("utf-8", "surrogateescape")) > _MAX_NAME_BYTES for part in path.parts):
        raise ArchiveError(f"{name}: the name {raw[:60]!r}... is longer than {_MAX_NAME_BYTES} bytes. Shorten it.")
    return path


def _wanted(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in SUFFIXES | TABLE_SUFFIXES


def _copy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, name: str, left: int) -> int:
    """Copies one entry and returns its size; stops as soon as more comes out than the header said or than is left."""
    written = 0
    with target.open("xb") as out:
        try:
            with archive.open(entry) as source:
                while chunk := source.read(_CHUNK):
                    written += len(chunk)
                    if written > min(left, entry.file_size):
                        raise ArchiveError(f"{name}: {entry.filename!r} holds more than it says; refused as a bomb.")
                    out.write(chunk)
        except (*_DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not the zip: only bz2 tells of damage with an OSError, and that has no number
            raise ArchiveError(f"{name}: {entry.filename!r} is damaged ({error}). Make the zip again.") from error
    if written != entry.file_size:
        raise ArchiveError(f"{name}: {entry.filename!r} is cut off: {entry.file_size:,} bytes expected, {written:,} found.")
    return written

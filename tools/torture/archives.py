"""Zips: the corpus, hostile ones made here, damaged ones, and imports that are killed. Each import runs in a child that is watched."""

import csv
import io
import json
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from panorama.archives import ArchiveError, import_zip
from tools.torture.checks import CORPUS, ROOT, Check, Outcome, peak_mb

MOST_MB = 300.0
MOST_SECONDS = 60.0
EVIL = Path(tempfile.gettempdir()) / "panorama-evil.jpg"
CHILD_MEMORY_BYTES = 4 * 2**30  # the control unpacks bombs into memory
_buffer = io.BytesIO()
Image.new("RGB", (8, 8), "teal").save(_buffer, "JPEG")
JPEG = _buffer.getvalue()


# -- zips made here


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with these entries, and a sound picture before them so that there is something to leave half imported."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("sound.jpg", JPEG)
        for name, data in entries:
            archive.writestr(name, data)
    return stream.getvalue()


def raw(name: str) -> zipfile.ZipInfo:
    """An entry whose name goes into the zip as it is."""
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


def special(name: str, kind: int) -> zipfile.ZipInfo:
    """An entry of another kind than a file."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


def by_hand(names: list[bytes], data: bytes, *, declared: int, method: int = 8, at: list[int] | None = None) -> bytes:
    """A zip of deflated entries whose directory says what it likes. at: where each one's data begins; all at the first's: they overlap."""
    crc, packed = zlib.crc32(data), data
    if method == 8:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(data) + packer.flush()
    local = struct.pack(
        "<4sHHHHHIIIHH", b"PK\3\4", 45, 0, method, 0, 33, crc, len(packed), min(len(data), 0xFFFFFFFF), len(names[0]), 0
    )
    body = local + names[0] + packed
    places = at or [0] * len(names)
    directory = b""
    for name, place in zip(names, places, strict=True):
        wide = declared > 0xFFFFFFFE
        extra = struct.pack("<HHQ", 1, 8, declared) if wide else b""
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, 0, method, 0, 33, crc, len(packed), 0xFFFFFFFF if wide else declared, len(name), len(extra), 0, 0, 0, 0, place
        ) + name + extra  # fmt: skip
    return body + directory + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(names), len(names), len(directory), len(body), 0)


def many(count: int) -> bytes:
    """That many tiny pictures."""
    return zipped(*((f"pictures/{n // 1000:03}/{n}.jpg", b"1") for n in range(count)))


def nested(depth: int) -> bytes:
    """A zip in a zip in a zip ..."""
    data = zipped()
    for _ in range(depth):
        data = zipped(("inner.zip", data), method=zipfile.ZIP_DEFLATED)
    return data


@dataclass(frozen=True)
class Case:
    """A zip and what must come of it. taken: how many files, None for a refusal."""

    make: Callable[[], bytes]
    taken: int | None = None
    quick: bool = True


CASES: dict[str, Case] = {
    "a link": Case(lambda: zipped((special("1.jpg", stat.S_IFLNK), b"/etc/passwd"))),
    "a link to a folder, then through it": Case(lambda: zipped((special("a", stat.S_IFLNK), b"/tmp"), ("a/1.jpg", JPEG))),
    "a device": Case(lambda: zipped((special("1.jpg", stat.S_IFCHR), b""))),
    "a pipe": Case(lambda: zipped((special("1.jpg", stat.S_IFIFO), b""))),
    "a socket": Case(lambda: zipped((special("1.csv", stat.S_IFSOCK), b""))),
    "a bomb of 1,000 to 1": Case(lambda: zipped(("1.csv", bytes(100_000_000)), method=zipfile.ZIP_DEFLATED)),
    "nearly a bomb, which is read": Case(lambda: zipped(("1.csv", b"".join(bytes(20_000) + os.urandom(90) for _ in range(2000))), method=zipfile.ZIP_DEFLATED), 2, False),
    "10 GB declared": Case(lambda: by_hand([b"1.csv"], b"a,b\n", declared=10 * 2**30)),
    "10 bytes declared, 100 MB inside": Case(lambda: by_hand([b"1.csv"], bytes(100_000_000), declared=10)),
    "100 GB declared in stored entries": Case(lambda: by_hand([b"%d.csv" % n for n in range(30)], b"a,b\n" * 100, declared=0xFFFFFFF0, method=0)),
    "a thousand entries on the same bytes": Case(lambda: by_hand([b"%d.csv" % n for n in range(1000)], os.urandom(3_000_000), declared=3_000_000)),
    "100,000 entries": Case(lambda: many(100_000), 100_001, False),
    "20,000 entries": Case(lambda: many(20_000), 20_001, False),
    "1,000 entries": Case(lambda: many(1000), 1001),
    "zips in zips": Case(lambda: nested(20), 1),
    "names that differ in case": Case(lambda: zipped(("a/1.jpg", JPEG), ("A/1.JPG", JPEG))),
    "names that differ in Unicode form": Case(lambda: zipped(("é.jpg", JPEG), ("e\u0301.jpg", JPEG))),
    "the same name twice": Case(lambda: zipped(("1.jpg", JPEG), (raw("1.jpg"), b"2"))),
    "a file that is a folder too": Case(lambda: zipped(("a.jpg", JPEG), ("a.jpg/1.jpg", JPEG))),
    "up": Case(lambda: zipped((raw("../evil.jpg"), JPEG))),
    "up from inside": Case(lambda: zipped((raw("a/../../../evil.jpg"), JPEG))),
    "up, of a kind that is not read": Case(lambda: zipped((raw("../../evil.txt"), JPEG))),
    "backslashes": Case(lambda: zipped((raw("..\\..\\evil.jpg"), JPEG))),
    "a drive": Case(lambda: zipped((raw("C:\\evil.jpg"), JPEG))),
    "a drive with a slash": Case(lambda: zipped((raw("c:/evil.jpg"), JPEG))),
    "a drive inside": Case(lambda: zipped((raw("a/D:evil.jpg"), JPEG))),
    "a path of its own": Case(lambda: zipped((raw(EVIL.as_posix()), JPEG))),
    "another machine": Case(lambda: zipped((raw("//server/share/evil.jpg"), JPEG))),
    "a line end in a name": Case(lambda: zipped((raw("a\nb.jpg"), JPEG))),
    "a NUL in a name": Case(lambda: zipped((raw("evil.jpg_.txt"), JPEG)).replace(b"evil.jpg_.txt", b"evil.jpg\0.txt")),
    "a name of 300 characters": Case(lambda: zipped(("x" * 296 + ".jpg", JPEG))),
    "a name of 300 bytes in 100 characters": Case(lambda: zipped(("海" * 98 + ".jpg", JPEG))),
    "500 folders in each other": Case(lambda: zipped(("d" * 20 + "/" + "/".join("d" * 20 for _ in range(500)) + "/1.jpg", JPEG))),
    "names that Windows keeps for itself": Case(lambda: zipped(("aux.jpg", JPEG), ("con.csv", b"a,b\n"), ("a /b..jpg", JPEG)), 4),
    "a folder called like a picture": Case(lambda: zipped(("1.jpg/", b""), ("2.jpg/3.jpg", JPEG)), 2),
    "pictures behind a program": Case(lambda: b"MZ" + bytes(5000) + zipped(("1.jpg", JPEG)), 2),
    "nothing": Case(lambda: b""),
    "a tar": Case(lambda: b"sound.jpg".ljust(257, b"\0") + b"ustar\0" + bytes(1000)),
    "a zip cut off": Case(lambda: zipped(("1.jpg", JPEG))[:-30]),
    "an encrypted entry": Case(lambda: zipped(("1.jpg", JPEG)).replace(b"PK\1\2\x14\x03\x14\0\0", b"PK\1\2\x14\x03\x14\0\1")),
}  # fmt: skip


# -- importing, watched


@dataclass(frozen=True)
class Imported:
    """What an import left. taken: the files in the folder it returned; refused: its words, "" if it was no refusal; broken: what it must not be."""

    taken: int
    refused: str
    broken: str
    peak_mb: float
    seconds: float
    leaks: tuple[str, ...]


@contextmanager
def place() -> Iterator[tuple[Path, Path]]:
    """(a folder in which everything is noticed, where zips are imported deep inside it)."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), Path(folder) / "a" / "b" / "data"


def leaks_of(root: Path, data: Path, zip_file: Path, returned: Path | None) -> tuple[str, ...]:
    """Whatever lies anywhere but in the folder that was returned."""
    allowed = {root, zip_file, root / "a", root / "a" / "b", data, *([returned] if returned else [])}
    found = []
    for directory, folders, files in os.walk(root):
        here = Path(directory)
        if here == returned:
            folders.clear()
            continue
        found += [str((here / name).relative_to(root)) for name in (*folders, *files) if here / name not in allowed]
    return (*found[:5], *([str(EVIL)] if EVIL.exists() else []))


def watched(sources: Sequence[bytes | Path], unpacker: str, *, together: bool) -> list[Imported]:
    """Imports zips in a child with a limit of memory and looks what is left. together: in one child, whose peak is that of all so far."""
    if not together and len(sources) > 1:
        return [watched([source], unpacker, together=True)[0] for source in sources]
    with ExitStack() as stack:
        places = [stack.enter_context(place()) for _ in sources]
        for (root, _), source in zip(places, sources, strict=True):
            if isinstance(source, Path):
                shutil.copyfile(source, root / "set.zip")
            else:
                (root / "set.zip").write_bytes(source)
        words = [str(word) for root, data in places for word in (root / "set.zip", data)]
        try:
            child = subprocess.run(
                [sys.executable, "-m", "tools.torture.archives", unpacker, "import", *words],
                cwd=ROOT, capture_output=True, timeout=MOST_SECONDS * 2,
            )  # fmt: skip
            ended = f"the process ended with {child.returncode}: {child.stderr.decode()[-300:]}"
            answers = child.stdout.splitlines()
        except subprocess.TimeoutExpired as error:
            ended, answers = "not done in time", (error.stdout or b"").splitlines()
        found = [_left(root, data, json.loads(answer)) for (root, data), answer in zip(places, answers, strict=False)]
        EVIL.unlink(missing_ok=True)
        return found + [Imported(0, "", ended, 0.0, 0.0, ())] * (len(sources) - len(found))


def _left(root: Path, data: Path, said: dict[str, Any]) -> Imported:
    returned = Path(said["folder"]) if said["folder"] else None
    taken = sum(path.is_file() and not path.is_symlink() for path in returned.rglob("*")) if returned else 0
    leaks = leaks_of(root, data, root / "set.zip", returned)
    return Imported(taken, said["refused"], said["broken"], said["peak_mb"], said["seconds"], leaks)


def faults(name: str, got: Imported, taken: int | None) -> Iterator[str]:
    """What is wrong with an import; taken: as of Case."""
    if got.broken:
        yield f"{name}: {got.broken}"
        return
    if got.leaks:
        yield f"{name}: left {', '.join(got.leaks)}"
    if got.peak_mb > MOST_MB:
        yield f"{name}: took {got.peak_mb:.0f} MB"
    if got.seconds > MOST_SECONDS:
        yield f"{name}: took {got.seconds:.0f} s"
    if taken is None and not got.refused:
        yield f"{name}: taken ({got.taken} files), expected a refusal"
    if taken is not None and (got.refused or got.taken != taken):
        yield f"{name}: {got.refused or f'{got.taken} files'}, expected {taken} files"
    if got.refused and not got.refused.startswith("set.zip: "):
        yield f"{name}: the message does not name the zip: {got.refused}"


def generated(quick: bool, unpacker: str = "panorama", kinds: tuple[str, ...] = ()) -> Outcome:
    """Hostile zips made here (quick: the small ones)."""
    chosen = {name: case for name, case in CASES.items() if (name in kinds if kinds else case.quick or not quick)}
    if quick and not kinds:
        chosen = dict(list(chosen.items())[::4])
    wrong: list[str] = []
    refused, most, slowest = 0, ("", 0.0), ("", 0.0)
    imported = watched([case.make() for case in chosen.values()], unpacker, together=quick)
    for (name, case), got in zip(chosen.items(), imported, strict=True):
        refused += bool(got.refused)
        most = max(most, (name, got.peak_mb), key=lambda pair: pair[1])
        slowest = max(slowest, (name, got.seconds), key=lambda pair: pair[1])
        wrong += faults(name, got, case.taken)
    return Outcome(
        len(chosen), refused, tuple(wrong),
        measured={"most memory": f"{most[1]:.0f} MB ({most[0]})", "slowest": f"{slowest[1]:.1f} s ({slowest[0]})"},
    )  # fmt: skip


CONTROL_KINDS = ("up", "a link", "a bomb of 1,000 to 1", "a path of its own", "names that differ in case")


def corpus(quick: bool, unpacker: str = "panorama") -> Outcome:
    """Every archive of the manifest; those it accepts hold no picture and no table mostly, so they may be refused in words."""
    if not CORPUS.exists():
        return Outcome(skipped="needs ../shared/corpus, which is not here")
    with (CORPUS / "MANIFEST.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["kind"] in ("zip", "tar")][:: 6 if quick else 1]
    wrong: list[str] = []
    refused, most = 0, 0.0
    for row, got in zip(rows, watched([CORPUS / row["file"] for row in rows], unpacker, together=quick), strict=True):
        refused += bool(got.refused)
        most = max(most, got.peak_mb)
        either = row["expected"] == "accept"
        wrong += faults(row["file"], got, got.taken if either and not got.refused else None)
    return Outcome(len(rows), refused, tuple(wrong), measured={"most memory": f"{most:.0f} MB"})


def mutated(quick: bool, unpacker: str = "panorama") -> Outcome:
    """2,000 damaged zips (quick: 100), imported one after another by one child."""
    count = 100 if quick else 2000
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.run(
            [sys.executable, "-m", "tools.torture.archives", unpacker, "mutations", str(count), folder], cwd=ROOT, capture_output=True, timeout=500
        )  # fmt: skip
    if child.returncode:
        return Outcome(count, 0, (f"the process ended with {child.returncode}: {child.stderr.decode()[-300:]}",))
    said: dict[str, Any] = json.loads(child.stdout)
    wrong = said["wrong"] + ([f"took {said['peak_mb']:.0f} MB"] if said["peak_mb"] > MOST_MB else [])
    return Outcome(count, said["refused"], tuple(wrong), measured={"most memory": f"{said['peak_mb']:.0f} MB"})


def killed(quick: bool, unpacker: str = "panorama") -> Outcome:
    """Imports of 3,000 pictures killed after 0.1 ... 1 s; then nothing half is to be seen, and a second import is whole."""
    count, n_pictures = (1 if quick else 25), 3000
    data_of_zip = many(n_pictures)
    wrong: list[str] = []
    early = 0
    for attempt in range(count):
        with place() as (root, data):
            file = root / "set.zip"
            file.write_bytes(data_of_zip)
            command = [sys.executable, "-m", "tools.torture.archives", unpacker, "import", str(file), str(data)]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
                until = time.monotonic() + 20
                while (
                    not any(data.glob(".*/*")) and not any(data.glob("*/*")) and time.monotonic() < until and child.poll() is None
                ):
                    time.sleep(0.002)  # it has begun to write
                time.sleep(0.02 + 0.35 * random.Random(attempt).random())
                early += child.poll() is None
                child.send_signal(signal.SIGKILL)
            seen = [path for path in data.iterdir() if not path.name.startswith(".")] if data.exists() else []
            n_seen = sum(path.is_file() for folder in seen for path in folder.rglob("*"))
            if seen and n_seen != n_pictures + 1:
                wrong.append(f"kill {attempt}: {n_seen} of {n_pictures + 1} files are shown as a data set")
                continue
            folder = import_zip(file, data, "set.zip")
            n_files = sum(path.is_file() for path in folder.rglob("*"))
            if n_files != n_pictures + 1 or [path.name for path in data.iterdir()] != [folder.name]:
                wrong.append(
                    f"kill {attempt}: the second import has {n_files} files beside {len(list(data.iterdir())) - 1} others"
                )
    return Outcome(count, 0, tuple(wrong), measured={"killed before their end": str(early)})


# -- the child


def naive_unpack(file: Path, folder: Path, name: str) -> Path:
    """What one writes first: the control."""
    target = folder / name.removesuffix(".zip")
    target.mkdir(parents=True)
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            path = Path(f"{target}/{info.orig_filename}") if not info.orig_filename.startswith("/") else Path(info.orig_filename)
            if info.is_dir():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(info))
    return target


def mutations(unpack: Callable[..., Path], count: int, folder: Path) -> dict[str, Any]:
    """Each mutation of sound zips, imported below `folder`."""
    entries = [("a/1.jpg", JPEG), ("labels.csv", b"file,sea\n1.jpg,1\n" * 50), ("b/ü.png", JPEG * 3)]
    sound = [
        zipped(*entries, method=method)
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    ]
    wrong: list[str] = []
    refused = 0
    for seed in range(count):
        rng = random.Random(seed)
        data = bytearray(rng.choice(sound))
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        root = folder / str(seed)
        place = root / "a" / "data"
        place.mkdir(parents=True)
        file = root / "set.zip"
        file.write_bytes(data)
        returned = None
        try:
            returned = unpack(file, place, "set.zip")
        except ArchiveError as error:
            refused += 1
            if not str(error).startswith("set.zip: "):
                wrong.append(f"mutation {seed}: {error}")
        except Exception as error:
            wrong.append(f"mutation {seed}: {type(error).__name__}: {error}")
        left = [
            path
            for path in root.rglob("*")
            if path.is_file() and path != file and not (returned and path.is_relative_to(returned))
        ]
        if left:
            wrong.append(f"mutation {seed}: left {left[0].relative_to(root)}")
        shutil.rmtree(root)
    return {"wrong": wrong, "refused": refused}


def attempted(unpack: Callable[..., Path], file: Path, folder: Path) -> dict[str, str]:
    """One import."""
    try:
        return {"folder": str(unpack(file, folder, "set.zip")), "refused": "", "broken": ""}
    except ArchiveError as error:
        return {"folder": "", "refused": str(error), "broken": ""}
    except BaseException as error:
        return {"folder": "", "refused": "", "broken": f"{type(error).__name__}: {error}"}


def main() -> None:
    """The child: UNPACKER import ZIP FOLDER ..., or UNPACKER mutations COUNT FOLDER; a line of JSON for each zip, or for all mutations."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY_BYTES, CHILD_MEMORY_BYTES))
    unpack: Callable[..., Path] = {"panorama": import_zip, "naive": naive_unpack}[sys.argv[1]]
    what, *words = sys.argv[2:]
    for file, folder in zip(words[::2], words[1::2], strict=True):
        start_seconds = time.perf_counter()
        said = mutations(unpack, int(file), Path(folder)) if what == "mutations" else attempted(unpack, Path(file), Path(folder))
        seconds = time.perf_counter() - start_seconds
        print(json.dumps({**said, "peak_mb": peak_mb(), "seconds": seconds}), flush=True)


CHECKS = (
    Check(
        "archives-corpus", "34 archives of public test suites, each in a child: nothing outside, nothing half imported",
        corpus, lambda quick: corpus(quick, "naive"), "an unpacker that trusts names and headers", 120, 40,
    ),
    Check(
        "archives-generated", "links, devices, bombs, lies, twins, names that lead elsewhere; memory of the child",
        generated, lambda quick: generated(quick, "naive", CONTROL_KINDS[:3] if quick else CONTROL_KINDS), "an unpacker that trusts names and headers", 300, 40,
    ),
    Check(
        "archives-mutated", "sound zips with bytes changed or cut off",
        mutated, lambda quick: mutated(True, "naive"), "an unpacker that trusts names and headers", 300, 40,
    ),
    Check(
        "archives-killed", "imports killed in the middle, then repeated",
        killed, lambda quick: killed(True, "naive"), "an unpacker that writes where it will be seen", 300, 60,
    ),
)  # fmt: skip
if __name__ == "__main__":
    main()

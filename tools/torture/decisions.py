"""The file of decisions: writers that are killed, the order in which the disk is told, and disks that take nothing.

What was acknowledged is written into a pipe by the writers and read by a process that lives on; it is held against the file with sqlite3 alone.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from panorama.errors import PanoramaError
from panorama.reviews import ReviewStore
from tools.torture.checks import ROOT, Check, Outcome

WRITERS = 3
KILLS, QUICK_KILLS = 500, 15
SYNCED = 40  # decisions whose way to the disk is traced
LONGEST_SECONDS = 0.3  # a writer lives, from before its store is opened
_CSV = "0" * 64
_NOBODY = 65534
_NOTE = "n" * 900  # a few decisions fill a page: a kill falls among several writes


# -- writers


def store_as(path: Path, mode: str) -> ReviewStore:
    """A store that keeps its promises, or one that breaks the one that `mode` says."""
    store = ReviewStore(path)
    if mode == "acknowledges before COMMIT":
        store._db.execute("BEGIN IMMEDIATE")
        store._transaction = nullcontext  # type: ignore[method-assign,assignment]
    if mode == "does not wait for the disk":
        store._db.execute("PRAGMA synchronous = OFF")
    if mode == "swallows errors":
        store = _Swallowing(store)  # type: ignore[assignment]
    return store


class _Swallowing:
    def __init__(self, store: ReviewStore) -> None:
        self._store = store

    def record(self, **values: Any) -> None:
        with contextlib.suppress(PanoramaError):
            self._store.record(**values)

    def close(self) -> None:
        self._store.close()


def decide(store: ReviewStore, image: str, event_id: str) -> None:
    """One decision; returns when it is acknowledged."""
    store.record(csv=_CSV, image=image, label="sea", given=0, verdict="change", reviewer=image[0], note=_NOTE, event_id=event_id)


def write_without_end(store: ReviewStore, writer: int, first: list[tuple[str, str]], pipe: int, mode: str) -> None:
    """Decides again what nobody heard of, as a browser does, then new cells; says what it tries and what is acknowledged."""
    again = list(first)
    while True:
        image, event_id = again.pop() if again else (f"{writer} {uuid.uuid4().hex}.jpg", uuid.uuid4().hex)
        if mode == "takes a retry for another decision":
            sent, event_id = event_id, uuid.uuid4().hex
        else:
            sent = event_id
        os.write(pipe, f"tries {image}|{sent}\n".encode())  # one write, shorter than a pipe's page: lines never mix
        decide(store, image, event_id)
        os.write(pipe, f"saved {image}|{sent}\n".encode())


def writers(path: Path, first: list[tuple[str, str]], pipe: int, mode: str, *, processes: bool) -> None:
    """Three writers without end: threads on one store, or processes with a store each."""
    parts = [first[k::WRITERS] for k in range(WRITERS)]
    if processes:
        mine = next((k for k in range(WRITERS - 1) if os.fork() == 0), WRITERS - 1)
        write_without_end(store_as(path, mode), mine, parts[mine], pipe, mode)
    store = store_as(path, mode)
    threads = [threading.Thread(target=write_without_end, args=(store, k, parts[k], pipe, mode)) for k in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- kill -9


def killed_once(
    path: Path, first: list[tuple[str, str]], mode: str, rng: random.Random, *, processes: bool
) -> list[tuple[str, str, str]]:
    """Lets three writers at the file, kills all at a random moment; what they said, as (kind, image, event id)."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.close(here)
            writers(path, first, there, mode, processes=processes)
        finally:
            os._exit(1)
    os.close(there)
    with open(here, "rb") as pipe:  # noqa: PTH123 - a descriptor
        time.sleep(rng.uniform(0, LONGEST_SECONDS))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it may not have had its group yet
        said = [line.decode().rstrip("\n").split(" ", 1) for line in pipe if line.endswith(b"\n")]
    os.waitpid(child, 0)
    return [(kind, *rest.split("|")) for kind, rest in said]  # type: ignore[misc]


def kill_many(folder: Path, count: int, mode: str) -> dict[str, Any]:
    """Kills `count` times, and looks at the file after each. A new file every 50 kills, for it grows."""
    rng = random.Random(count)
    wrong: list[str] = []
    totals = {"acknowledged": 0, "resent": 0, "half": 0, "in the middle": 0, "before a word": 0}
    path, acknowledged, open_ = folder / "reviews.sqlite", set[str](), dict[str, str]()
    for number in range(count):
        if number % 50 == 0:
            path, acknowledged, open_ = folder / f"{number}" / "reviews.sqlite", set(), {}
            path.parent.mkdir()
            ReviewStore(path).close()
        processes = number % 2 == 1 and mode != "acknowledges before COMMIT"  # whose first writer shuts the others out
        totals["resent"] += len(open_)
        said = killed_once(path, list(open_.items()), mode, rng, processes=processes)
        journal = path.with_name("reviews.sqlite-journal")
        totals["in the middle"] += journal.exists() and journal.stat().st_size > 0
        totals["before a word"] += not said
        for kind, image, event in said:
            if kind == "tries":
                open_[image] = event
            else:
                open_.pop(image, None)
                acknowledged.add(image)
                totals["acknowledged"] += 1
        wrong += [f"kill {number}: {sentence}" for sentence in held_against(path, acknowledged)]
        totals["half"] += in_file(path, open_)
        if mode and wrong:  # a control: it is caught
            break
    return {"wrong": wrong, **totals}


def held_against(path: Path, acknowledged: set[str]) -> list[str]:
    """What is wrong with the file: acknowledged cells that are not in it, cells that are in it twice, damage."""
    with closing(sqlite3.connect(path)) as db:
        integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
        images = [row[0] for row in db.execute("SELECT image FROM decisions")]
    found = []
    if lost := len(acknowledged - set(images)):
        found.append(f"{lost} of {len(acknowledged)} acknowledged decisions are lost")
    if doubled := len(images) - len(set(images)):
        found.append(f"{doubled} decisions are doubled")
    return found + ([f"integrity_check says {integrity}"] if integrity != "ok" else [])


def in_file(path: Path, images: dict[str, str]) -> int:
    """How many of these decisions, which nobody heard of, are in the file all the same: they must not count twice when they come again."""
    with closing(sqlite3.connect(path)) as db:
        return len(set(images) & {row[0] for row in db.execute("SELECT image FROM decisions")})


def killed(quick: bool, mode: str = "", count: int | None = None) -> Outcome:
    """kill -9 of three writers, many times. In a process of its own, which may fork for it has no other threads."""
    if not hasattr(os, "fork"):
        return Outcome(skipped="needs fork and kill -9, which this system does not have")
    count = count or (QUICK_KILLS if quick else KILLS)
    with tempfile.TemporaryDirectory() as folder:
        found = json.loads(_ask("kills", folder, str(count), mode))
    measured = {
        "acknowledged": f"{found['acknowledged']:,}",
        "killed within a transaction": str(found["in the middle"]),
        "saved but not acknowledged": str(found["half"]),
        "sent again": str(found["resent"]),
    }
    return Outcome(count, 0, tuple(found["wrong"]), measured=measured)


def killed_control(quick: bool) -> Outcome:
    """Both ways to fail."""
    lossy = killed(quick, "acknowledges before COMMIT", 100)
    doubling = killed(quick, "takes a retry for another decision", 100)
    blind = [
        word
        for word, outcome in (("lost", lossy), ("doubled", doubling))
        if not any(word in sentence for sentence in outcome.wrong)
    ]
    if blind:
        raise AssertionError(f"no decision was found to be {' or '.join(blind)}")
    return Outcome(lossy.tried + doubling.tried, 0, lossy.wrong + doubling.wrong)


# -- the order in which the disk is told


def synced(quick: bool, mode: str = "") -> Outcome:
    """Traces a writer: each acknowledgement comes after the journal, then the file, then the journal's end were on the disk."""
    if shutil.which("strace") is None:
        return Outcome(skipped="needs strace, which this machine does not have")
    count = 10 if quick else SYNCED
    with tempfile.TemporaryDirectory() as folder:
        trace, path = Path(folder) / "trace", Path(folder) / "reviews.sqlite"
        calls = "trace=write,pwrite64,fsync,fdatasync,ftruncate"
        command = ["strace", "-f", "-y", "-qq", "-s", "12", "-o", str(trace), "-e", calls]
        done = subprocess.run(
            [*command, sys.executable, "-m", "tools.torture.decisions", "write", str(path), str(count), mode],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            return Outcome(skipped=f"strace may not watch here: {done.stderr.strip()[-200:]}")
        lines = trace.read_text(errors="replace").splitlines()
    return Outcome(count, 0, tuple(out_of_order(lines, "reviews.sqlite", count)))


_CALL = re.compile(r"^\d+\s+(\w+)\((\d+)<([^>]*)>(.*)")


def out_of_order(lines: list[str], name: str, count: int) -> list[str]:
    """For each acknowledgement in a trace what was not on the disk yet.

    waiting: what was written and not synced since, of the file and of its journal. A commit is the journal's end (journal_mode TRUNCATE).
    """
    wrong, acknowledged, waiting, committed = [], 0, set[str](), False
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            continue
        call, descriptor, file, rest = match.groups()
        what = {name: "the file", f"{name}-journal": "the journal"}.get(Path(file).name)
        if what and call in ("fsync", "fdatasync"):
            waiting.discard(what)
        elif what:
            if what == "the file" and "the journal" in waiting:
                wrong.append(f"decision {acknowledged + 1}: the file is written before the journal is on the disk")
            if what == "the journal" and call == "ftruncate":
                committed = True
                if "the file" in waiting:
                    wrong.append(f"decision {acknowledged + 1}: committed before the file is on the disk")
            waiting.add(what)
        elif descriptor == "1" and "saved" in rest:
            acknowledged += 1
            if not committed:
                wrong.append(f"decision {acknowledged}: acknowledged before it was committed")
            if waiting:
                wrong.append(f"decision {acknowledged}: acknowledged before {' and '.join(sorted(waiting))} was on the disk")
            committed = False
    return wrong if acknowledged == count else [*wrong, f"{acknowledged} acknowledgements were seen; expected {count}"]


# -- disks that take nothing


def full_by_limit(path: Path) -> Callable[[], None]:
    """No file may grow past a little more than this one has now; gives what lifts the limit."""
    import resource

    most = path.stat().st_size + 6000
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def full_file_system(path: Path) -> Callable[[], None]:
    """A small file system of its own (`refusing` has mounted it), filled up but for a little; gives what makes room."""
    filler = path.with_name("filler")
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    return filler.unlink


def read_only_file(path: Path) -> Callable[[], None]:
    """Nobody may write to the file; gives what allows it again."""
    path.chmod(stat.S_IRUSR)
    return lambda: path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def read_only_folder(path: Path) -> Callable[[], None]:
    """Nothing new may be in the folder; gives what allows it again."""
    path.with_name("reviews.sqlite-journal").unlink(missing_ok=True)
    path.parent.chmod(stat.S_IRUSR | stat.S_IXUSR)
    return lambda: path.parent.chmod(stat.S_IRWXU)


REFUSALS: dict[str, Callable[[Path], Callable[[], None]]] = {
    "no file may grow": full_by_limit,
    "a full file system": full_file_system,
    "a read-only file": read_only_file,
    "a read-only folder": read_only_folder,
}
WORDS = re.compile(
    r"^The decision was NOT saved in .*(disk|read-only|cannot be opened).*\. |^The decisions in .* cannot be opened: "
)


def refusing(folder: Path, kind: str, mode: str, *, reopen: bool) -> dict[str, Any]:
    """Five decisions on a sound disk; then `kind`, until nothing is acknowledged any more; then a sound disk again.

    reopen: the store is opened while the disk refuses, as by a server that is started then.
    """
    os.umask(0o077)
    if kind == "a full file system":
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", folder], capture_output=True, check=False)
        if mounted.returncode:
            return {"skipped": "a file system of its own cannot be mounted here"}
    if kind.startswith("a read-only") and os.geteuid() == 0:  # root may write anywhere
        os.chown(folder, _NOBODY, _NOBODY)
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    path, wrong, said = folder / "reviews.sqlite", [], ""
    store = ReviewStore(path)
    acknowledged = {f"early {number}" for number in range(5)}
    for image in sorted(acknowledged):
        decide(store, image, image)
    store.close()
    store = store_as(path, mode)
    lift = REFUSALS[kind](path)
    tried = 0
    try:
        if reopen:
            store.close()
            store = store_as(path, mode)
        for tried in range(1, 200):
            decide(store, f"late {tried}", f"late {tried}")
            acknowledged.add(f"late {tried}")
    except PanoramaError as error:
        said = str(error)
    lift()
    if not said:
        wrong.append(f"{tried} decisions were acknowledged")
    elif not WORDS.match(said):
        wrong.append(f"the words do not say what to do: {said}")
    for _ in range(2):  # a journal that SQLite made while the file was read-only is read-only too, until it has met it once
        with contextlib.suppress(PanoramaError):
            decide(store, "after", "after")
            acknowledged.add("after")
    store.close()
    if "after" not in acknowledged:
        wrong.append("the store does not go on once the disk takes writes again")
    with closing(ReviewStore(path)) as again:
        decide(again, "later", "later")
    return {"wrong": wrong + held_against(path, acknowledged | {"later"}), "said": said, "skipped": ""}


def refused(quick: bool, mode: str = "") -> Outcome:
    """Disks that take nothing: not acknowledged, said in words, and what was there before is there."""
    if not hasattr(os, "geteuid"):
        return Outcome(skipped="needs limits and permissions as on Linux or macOS")
    wrong: list[str] = []
    skipped: dict[str, str] = {}
    tried = said = 0
    for kind in list(REFUSALS)[:2] if quick else REFUSALS:
        for reopen in (False,) if quick else (False, True):
            with tempfile.TemporaryDirectory() as folder:
                found = json.loads(_ask("refusing", folder, kind, mode, str(int(reopen)), alone=kind == "a full file system"))
            if found["skipped"]:
                skipped[kind] = f"not tried: {found['skipped']}"
                continue
            tried, said = tried + 1, said + bool(found["said"])
            wrong += [f"{kind}{', opened then' if reopen else ''}: {sentence}" for sentence in found["wrong"]]
    return Outcome(tried, said, tuple(wrong), measured=skipped)


# -- children


def _ask(*words: str, alone: bool = False) -> str:
    """What a child of this module prints. alone: in a mount namespace of its own, where that is allowed."""
    command = [sys.executable, "-m", "tools.torture.decisions", *words]
    if alone and os.geteuid() == 0 and shutil.which("unshare"):
        command = ["unshare", "-m", *command]
    elif alone:
        return json.dumps({"skipped": "only root may mount a file system"})
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return done.stdout


def main() -> None:
    """The child: kills FOLDER COUNT MODE, write PATH COUNT MODE, or refusing FOLDER KIND MODE REOPEN."""
    what, where, *words = sys.argv[1:]
    if what == "kills":
        print(json.dumps(kill_many(Path(where), int(words[0]), words[1])))
    elif what == "write":
        store = store_as(Path(where), words[1])
        for number in range(int(words[0])):
            decide(store, f"{number}.jpg", f"{number}")
            os.write(1, b"saved\n")
    else:
        print(json.dumps(refusing(Path(where), words[0], words[1], reopen=words[2] == "1")))


CHECKS = (
    Check(
        "decisions-killed", "kill -9 of three threads or processes that decide: nothing acknowledged is lost, nothing is doubled",
        killed, killed_control, "a store that acknowledges before COMMIT, and one that takes a retry for another decision", 600, 60,
    ),
    Check(
        "decisions-synced", "the order of writes and fsyncs before each acknowledgement, as strace sees it",
        synced, lambda quick: synced(quick, "does not wait for the disk"), "synchronous = OFF", 120, 60,
    ),
    Check(
        "decisions-refused", "a full disk, a read-only file, a read-only folder: not acknowledged, said in words",
        refused, lambda quick: refused(quick, "swallows errors"), "a store that swallows errors", 120, 60,
    ),
)  # fmt: skip
if __name__ == "__main__":
    main()

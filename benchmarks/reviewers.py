"""Many reviewers at once, watched from outside: is anything lost, doubled or slow?

    python benchmarks/reviewers.py [--reviewers 25] [--seconds 60] [--load matrix|training|none]
    python benchmarks/reviewers.py --run RUN_DIR      # the same through the server, on the review page of a complete run

Every reviewer makes a decision a second, each at a moment of their own. Without --run, by threads on one ReviewStore, as in the app's server; then
a process that decides as fast as it can is killed (kill -9) three times; then two reviewers decide 1,000 cells oppositely at the same time.
What was acknowledged is written down by the reviewer's side and held against the file, which is read with sqlite3 alone. doubled: a reviewer's cell
that stands in the file twice. With --run the decisions go into the reviews of the run's workspace.
"""

import argparse
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from streamlit_client import Tab
from websockets.exceptions import WebSocketException

from panorama import launch
from panorama.decisions import Answer, corrections
from panorama.reviews import ReviewStore

ROOT = Path(__file__).resolve().parent.parent
COMPONENT = "panorama_workbench"
_CSV = "0" * 64
_KILLS, _SECONDS_BETWEEN_KILLS = 3, 3.0
_PATIENCE_SECONDS = 120.0
_MATRIX_PRODUCTS = "import torch\nx = torch.rand(1500, 1500)\nwhile True: x @ x"  # all cores, as a step of training takes them

Decide = Callable[[int], str]  # makes a reviewer's decision of that number; returns its event id once it is acknowledged


@dataclass
class Outcome:
    """What one side of a trial saw. seconds: from the call to its return, of each acknowledged decision."""

    tried: int = 0
    acknowledged: list[str] = field(default_factory=list)  # event ids
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """What the file says of what was acknowledged."""

    lost: int
    doubled: int
    integrity: str


def decide_in_turn(decides: Sequence[Decide], count: int, each: float = 1.0, *, late: bool = False) -> list[Outcome]:
    """Every reviewer makes `count` decisions, one every `each` seconds, each at moments of their own; who is late goes on at once.

    When the time is over nobody begins another, unless `late`; with `each` 0 everybody makes all of them, without a pause.
    """
    outcomes = [Outcome() for _ in decides]
    started = time.perf_counter() + 0.5
    over = started + (count + 1) * each if each and not late else math.inf

    def work(decide: Decide, outcome: Outcome, offset: float) -> None:
        for number in range(count):
            time.sleep(max(0.0, started + offset + number * each - time.perf_counter()))
            if time.perf_counter() >= over:
                return
            outcome.tried += 1
            began = time.perf_counter()
            try:
                outcome.acknowledged.append(decide(number))
            except Exception as error:  # whatever a reviewer would see
                outcome.errors.append(f"{type(error).__name__}: {error}")
            else:
                outcome.seconds.append(time.perf_counter() - began)

    offsets = [each * k / len(decides) for k in range(len(decides))]
    threads = [threading.Thread(target=work, args=one) for one in zip(decides, outcomes, offsets, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def held_against_file(path: Path, acknowledged: Sequence[str]) -> Verdict:
    """The acknowledged event ids beside what is in the file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT event_id, csv, reviewer, image, label FROM decisions").fetchall()
        integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
    events = [row[0] for row in rows]
    cells = [row[1:] for row in rows]
    lost = len(set(acknowledged) - set(events))
    return Verdict(lost, len(events) - len(set(events)) + len(cells) - len(set(cells)), integrity)


def table_row(what: str, outcomes: Sequence[Outcome], verdict: Verdict) -> str:
    """One line of the table, and beneath it what reviewers were told went wrong."""
    acknowledged = [len(outcome.acknowledged) for outcome in outcomes]
    seconds = np.array([value for outcome in outcomes for value in outcome.seconds])
    times = (
        "  ".join(f"{1000 * value:>7.0f}" for value in (*np.percentile(seconds, [50, 95]), seconds.max())) if len(seconds) else ""
    )
    line = (
        f"{what:<26}{sum(outcome.tried for outcome in outcomes):>8}{sum(acknowledged):>14}{verdict.lost:>6}{verdict.doubled:>9}"
        f"   {times:>25}   {min(acknowledged)}-{max(acknowledged)}   {verdict.integrity}"
    )
    errors = [error for outcome in outcomes for error in outcome.errors]
    return line + (f"\n    {len(errors)} errors, the first: {errors[0]}" if errors else "")


HEADER = f"{'':<26}{'tried':>8}{'acknowledged':>14}{'lost':>6}{'doubled':>9}   {'p50, p95, max in ms':>25}   {'each'}   file"


# --- on one store ------------------------------------------------------------------------------------------------------


def on_store(store: ReviewStore, reviewer: str) -> Decide:
    """A reviewer as a thread of the process that holds the file; every decision is on a cell of its own."""

    def decide(number: int) -> str:
        answer = Answer(f"{number:05} of {reviewer}.jpg", "sea", number % 2, "change", reviewer)
        store.apply(_CSV, [answer])
        return answer.event_id

    return decide


def steady(path: Path, reviewers: int, seconds: int) -> tuple[list[Outcome], Verdict]:
    """Reviewers on one store."""
    store = ReviewStore(path)
    outcomes = decide_in_turn([on_store(store, f"reviewer {k}") for k in range(reviewers)], seconds)
    store.close()
    return outcomes, held_against_file(path, [event for outcome in outcomes for event in outcome.acknowledged])


def killed(path: Path, reviewers: int) -> tuple[list[Outcome], Verdict]:
    """A process with a store and reviewers who never pause, killed three times; this process, which lives on, has what it was told."""
    outcome = Outcome()
    for _ in range(_KILLS):
        command = [sys.executable, __file__, "--host", str(path), "--reviewers", str(reviewers)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        first = child.stdout.readline()  # from then on it is at work
        killer = threading.Timer(_SECONDS_BETWEEN_KILLS, child.kill)
        killer.start()
        told = [line.split() for line in (first, *child.stdout) if line.endswith("\n")]
        assert child.wait() == -signal.SIGKILL, "it ended before it was killed"
        outcome.tried += sum(kind == "tries" for kind, _ in told)
        outcome.acknowledged += [event for kind, event in told if kind == "saved"]
    ReviewStore(path).close()  # whoever opens it next sees to what the kill left half done
    return [outcome], held_against_file(path, outcome.acknowledged)


def host(path: Path, reviewers: int) -> None:
    """The process to be killed: says what it tries before, and what is saved after `apply` has returned."""
    store, run = ReviewStore(path), uuid.uuid4().hex

    def work(reviewer: int) -> None:
        for number in range(10**9):
            answer = Answer(f"{run} {number}.jpg", "sea", 0, "change", f"reviewer {reviewer}")
            os.write(1, f"tries {answer.event_id}\n".encode())  # one write, shorter than a pipe's page: lines never mix
            store.apply(_CSV, [answer])
            os.write(1, f"saved {answer.event_id}\n".encode())

    for reviewer in range(reviewers):
        threading.Thread(target=work, args=(reviewer,)).start()


def opposed(home: Path) -> tuple[list[Outcome], Verdict, int, bool]:
    """Two reviewers decide 1,000 cells oppositely, cell by cell at the same moment.

    The number of conflicts, and whether the corrected CSV is the original, byte for byte: what is in dispute changes nothing.
    """
    from large import build

    from panorama.datasets import corrected_csvs

    run = build(home, 250, 4)
    parts, fingerprint, path = run.sheets(), run.fingerprint, home / "reviews.sqlite"
    sheet = parts[0].sheet
    cells = [
        (image, label, int(sheet.targets[i, k])) for i, image in enumerate(sheet.images) for k, label in enumerate(sheet.labels)
    ]
    store, together = ReviewStore(path), threading.Barrier(2)

    def reviewer(name: str, verdict: Any) -> Decide:
        def decide(number: int) -> str:
            answer = Answer(*cells[number], verdict, name)
            together.wait()
            store.apply(fingerprint, [answer])
            return answer.event_id

        return decide

    outcomes = decide_in_turn([reviewer("for", "keep"), reviewer("against", "change")], len(cells), 0)
    fold = store.fold(fingerprint)
    same = corrected_csvs(parts, corrections(fold.standing.values())) == {
        part.source.file: (run.source.root / part.source.file).read_bytes() for part in parts
    }
    store.close()
    verdict = held_against_file(path, [event for outcome in outcomes for event in outcome.acknowledged])
    return outcomes, verdict, len(fold.conflicts), same


# --- through the server ------------------------------------------------------------------------------------------------


class OnPage:
    """A reviewer on the review page, as the component in a browser speaks for them: numbered events, kept until they are acknowledged."""

    def __init__(self, address: str, reviewer: str, *, page: str = "review", query: str = "") -> None:
        self._visit = (address, reviewer, page, query)
        self._client = uuid.uuid4().hex
        self._cards: dict[str, dict[str, Any]] = {}
        self._decided: set[str] = set()
        self._open()

    def _open(self) -> None:
        address, reviewer, page, query = self._visit
        self.tab = Tab(address, page, query)
        self.tab.wait(lambda tab: tab.component(COMPONENT) is not None)
        self.tab.settle()
        if self.tab.text_input("reviewer") is not None:
            self.tab.type_text("reviewer", reviewer)
            self.tab.wait(lambda tab: tab.data(COMPONENT)["reviewer"] == reviewer)
            self.tab.settle()
        self._take_cards()

    def _take_cards(self) -> dict[str, Any]:
        data: dict[str, Any] = self.tab.data(COMPONENT)
        self._cards |= {name: {key: card[key] for key in ("image", "label", "given")} for name, card in data["cards"].items()}
        return data

    def _send(self, events: list[dict[str, Any]]) -> None:
        """Sends a batch and waits for the run of the script that answers it."""
        before = self.tab.data(COMPONENT)
        batch = {
            "csv": before["csv"],
            "epoch": before["epoch"],
            "client": self._client,
            "tab": self._client,
            "events": events,
            "answered": len(self._decided),
        }
        self.tab.set_state(COMPONENT, {"batch": batch | {"have": list(self._cards), "attempt": time.time_ns()}})
        self.tab.wait(lambda tab: tab.data(COMPONENT)["serial"] != before["serial"])

    def __call__(self, number: int) -> str:
        data = self._take_cards()
        open_cards = (name for name in data["order"] if name in self._cards and name not in self._decided)
        name = next(open_cards, None)
        if name is None:
            raise RuntimeError(f"The page has no card left. It says: {data['empty']!r}, {data['error']!r}, {self.tab.errors()}")
        card, n = self._cards[name], len(self._decided)
        self._decided.add(name)
        value = card["given"] if number % 2 else 1 - card["given"]
        event = {"n": n, "id": name, "image": card["image"], "label": card["label"], "value": value, "way": "cell"}
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                self._send([event])
                break
            except (
                OSError,
                WebSocketException,
            ):  # the server is gone: a browser comes back, and sends again what was not acknowledged
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
                with suppress(OSError, WebSocketException, RuntimeError):
                    self.tab.close()
                    self._open()
        data = self.tab.data(COMPONENT)
        acked = data["acked"] or {"client": "", "n": -1}
        if acked["client"] != self._client or acked["n"] < n or data["refused"]:
            raise RuntimeError(f"Not acknowledged: {data['error']!r}, {data['refused']}")
        return f"{self._client}:{n}"


def started(command: Sequence[str], home: Path, port: int) -> "subprocess.Popen[bytes]":
    """A server on this port, once it answers."""
    with (home / "server.log").open("ab") as log:
        environment = os.environ | {"PANORAMA_HOME": str(home)}
        process = subprocess.Popen(
            [*command, str(port)], cwd=ROOT, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1)
            return process
        except OSError:
            if process.poll() is not None:
                raise RuntimeError((home / "server.log").read_text()) from None
            time.sleep(0.1)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def server(command: Sequence[str], home: Path) -> Iterator[str]:
    """A server that is told its port last; its address, once it answers."""
    port = free_port()
    process = started(command, home, port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)


def killed_server(command: Sequence[str], home: Path, reviewers: int, count: int, **page: str) -> tuple[list[Outcome], Verdict]:
    """As `through_server`, of a server that is killed (kill -9) three times in the middle, and started again on its port."""
    port = free_port()
    process = started(command, home, port)
    pages = [OnPage(f"http://127.0.0.1:{port}", f"reviewer {k}", **page) for k in range(reviewers)]
    outcomes: list[Outcome] = []
    deciding = threading.Thread(target=lambda: outcomes.extend(decide_in_turn(pages, count, late=True)))
    deciding.start()
    try:
        for _ in range(_KILLS):
            time.sleep(count / (_KILLS + 1))
            process.kill()
            process.wait()
            process = started(command, home, port)
        deciding.join()
        for one in pages:
            one.tab.close()
    finally:
        process.terminate()
        process.wait(timeout=20)
    return outcomes, held_against_file(home / "reviews.sqlite", [event for outcome in outcomes for event in outcome.acknowledged])


def through_server(address: str, path: Path, reviewers: int, count: int, **page: str) -> tuple[list[Outcome], Verdict]:
    """Reviewers on the review page; path: the file that the server writes."""
    pages = [OnPage(address, f"reviewer {k}", **page) for k in range(reviewers)]
    outcomes = decide_in_turn(pages, count)
    for one in pages:
        one.tab.close()
    return outcomes, held_against_file(path, [event for outcome in outcomes for event in outcome.acknowledged])


# --- what else the machine does -----------------------------------------------------------------------------------------


@contextmanager
def load(kind: str, folder: Path) -> Iterator[None]:
    """Something beside the reviewers: "matrix" products on all cores, a real "training" of the demo, or "none"."""
    if kind == "none":
        yield
        return
    command = [sys.executable, "-c", _MATRIX_PRODUCTS]
    environment = dict(os.environ)
    if kind == "training":
        command = [sys.executable, "-m", "panorama", "demo", str(folder / "demo")]
        environment["PANORAMA_HOME"] = str(folder / "training")
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    launch.give_way(process.pid)  # as the app does with its trainings
    time.sleep(10)  # until it computes
    try:
        yield
        if process.poll() is not None:
            print(f"The load ended before the reviewers did ({process.returncode}).")
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviewers", type=int, default=25)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--load", choices=["matrix", "training", "none"], default="matrix")
    parser.add_argument("--run", type=lambda text: Path(text).resolve(), help="a complete run folder in a workspace")
    parser.add_argument("--host", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.host:
        host(options.host, options.reviewers)
        return
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        if options.run:
            home = options.run.parent.parent
            serve = [sys.executable, "-m", "panorama", "serve", "--port"]
            with server(serve, home) as address, load(options.load, here):
                print(HEADER)
                print(table_row(
                    f"on the page, load {options.load}",
                    *through_server(address, home / "reviews.sqlite", options.reviewers, options.seconds, query=f"run={options.run.name}"),
                ))  # fmt: skip
            print(
                table_row(
                    f"on the page, killed {_KILLS} times",
                    *killed_server(serve, home, options.reviewers, options.seconds, query=f"run={options.run.name}"),
                )
            )
            return
        print(HEADER)
        with load(options.load, here):
            print(
                table_row(f"one store, load {options.load}", *steady(here / "steady.sqlite", options.reviewers, options.seconds))
            )
        print(table_row(f"killed {_KILLS} times", *killed(here / "killed.sqlite", options.reviewers)))
        *seen, conflicts, same = opposed(here / "opposed")
        print(table_row("opposite, same moment", *seen))
        print(f"{conflicts:,} conflicts; the corrected CSV is {'the original, byte for byte' if same else 'NOT the original'}")


if __name__ == "__main__":
    main()

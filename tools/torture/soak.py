"""Hours of use in minutes: one server, and every page, imports, reviews, trainings and exports in turn, over and over. Nothing may pile up.

python -m tools.torture.soak [--minutes 60]        prints a line a round

The visitor is a WebSocket client that speaks Streamlit's protocol (benchmarks/streamlit_client.py): pages, imports of folders, decisions and trainings
happen in and from the server. Zips are imported, and pictures of a trained model predicted, by the command line, beside it in the same workspace: it uploads nothing.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.torture.checks import ROOT, Check, Outcome

MINUTES = 10.0
PAGES = ("start", "dataset", "train", "sanity_check", "review", "export", "effect", "predict", "report")
GROWTH = 0.05  # of the memory, over the second half, that is still called flat
REST_SECONDS = 150.0  # Streamlit keeps the session of a closed tab for 120 s, with three handles
_CELLS = (900, 4)  # images and labels to decide on


@dataclass(frozen=True)
class Sample:
    """What a server holds between two rounds. memory: bytes. leftovers: temporary files in its workspace and its folder for such."""

    seconds: float
    memory: int
    threads: int
    handles: int
    children: int
    leftovers: int


def sample(pid: int, folder: Path, seconds: float) -> Sample:
    """Reads /proc; Linux only."""
    status = Path(f"/proc/{pid}/status").read_text()
    memory = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024
    children = sum(_parent(path) == pid for path in Path("/proc").glob("[0-9]*/stat"))
    temporary = (
        path for path in folder.rglob("*") if path.name.endswith((".tmp", ".part", ".unpacking")) or path.parent.name == "tmp"
    )
    threads, handles = (len(list(Path(f"/proc/{pid}/{what}").iterdir())) for what in ("task", "fd"))
    return Sample(seconds, memory, threads, handles, children, sum(1 for _ in temporary))


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0  # it has gone in between


def growth(samples: Sequence[Sample]) -> float:
    """How much the memory grows over these samples by the line through them, as a share of their mean."""
    if len(samples) < 2:
        return 0.0
    seconds, memory = [one.seconds for one in samples], [float(one.memory) for one in samples]
    slope = statistics.linear_regression(seconds, memory).slope
    return slope * (seconds[-1] - seconds[0]) / statistics.fmean(memory)


def judged(samples: Sequence[Sample], rested: Sample) -> list[str]:
    """What has piled up, in words: memory in the second half; everything else once the server has rested, against the first round."""
    half = samples[len(samples) // 2 :]
    if len(half) < 4:
        return [f"only {len(samples)} rounds: too few to tell"]
    wrong = []
    if (grown := growth(half)) > GROWTH:
        wrong.append(f"memory grew by {grown:.0%} in the second half, to {half[-1].memory / 1e6:.0f} MB")
    for what in ("threads", "handles", "children", "leftovers"):
        before, after = getattr(samples[0], what), getattr(rested, what)
        if after > before + (0 if what in ("children", "leftovers") else 3):
            wrong.append(f"{what}: {before} after the first round, {after} after a rest")
    return wrong


def used(minutes: float) -> Iterator[Sample]:
    """A sample after each round of use, for so long, and one after a rest. Raises when a page shows an exception or a command fails."""
    sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, which import each other by name
    from large import build
    from reviewers import OnPage, free_port, started
    from streamlit_client import Tab

    from tools.torture.training import new_run, pictures

    with tempfile.TemporaryDirectory(prefix="panorama-soak-") as name:
        folder = Path(name)
        home, temporary = folder / "home", folder / "tmp"
        temporary.mkdir()
        environment = {"PANORAMA_HOME": str(home), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        os.environ |= environment | {"TMPDIR": str(temporary)}

        def command(*arguments: str) -> None:
            whole = [sys.executable, "-m", "panorama", *arguments]
            done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{arguments}: {done.stderr[-800:]}")

        decided = build(home, *_CELLS)
        data = pictures(folder / "pictures", 24)
        archive = shutil.make_archive(str(folder / "pictures"), "zip", data)
        port = free_port()
        server = started([sys.executable, "-m", "panorama", "serve", "--port"], home, port)
        address, began, rounds = f"http://127.0.0.1:{port}", time.monotonic(), 0

        def look(page: str, query: str = "") -> None:
            with Tab(address, page, query) as tab:
                tab.settle()
                if tab.errors():
                    raise RuntimeError(f"{page}: {tab.errors()}")

        try:
            while time.monotonic() - began < 60 * minutes:
                with Tab(address, "dataset") as tab:  # an import of a folder
                    tab.settle()
                    tab.type_text("folder", str((decided.source.root, data)[rounds % 2]))
                    tab.settle()
                    tab.click("use-folder")
                    tab.settle()
                for page in PAGES:
                    look(page, f"run={decided.id}")
                reviewer = OnPage(address, f"person {rounds}", query=f"run={decided.id}")
                for number in range(3):
                    reviewer(number)
                reviewer.tab.close()
                if rounds % 3 == 0:  # a training that the server starts
                    run = new_run(data, home, seed=rounds, epochs_adaptation=2, epochs_finetuning=1)
                    with Tab(address, "train", f"run={run.id}") as tab:
                        tab.settle()
                        tab.click("resume")
                        while run.state() in ("starting", "running", "interrupted"):
                            time.sleep(0.2)
                        tab.settle()
                    if run.state() != "complete":
                        raise RuntimeError(f"training: {run.state()}: {run.history().message}")
                    for page in ("train", "sanity_check", "predict", "report"):
                        look(page, f"run={run.id}")
                    command("predict", str(run.folder), str(data), "--out", str(folder / "answers.csv"))
                    (folder / "answers.csv").unlink()
                    command("train", archive, *_TINY)
                    for old in home.glob("runs/*"):
                        if old.name != decided.id:
                            shutil.rmtree(old)
                time.sleep(0.5)  # scripts end a moment after their tabs
                rounds += 1
                yield sample(server.pid, folder, time.monotonic() - began)
            time.sleep(REST_SECONDS)
            look("start")  # whoever comes next has the old sessions cleared away
            time.sleep(1)
            yield sample(server.pid, folder, time.monotonic() - began)
        finally:
            server.terminate()
            server.wait(timeout=30)


_TINY = (
    "--weights", "none", "--image-size", "32", "--epochs-adaptation", "1", "--epochs-finetuning", "1", "--folds", "2", "--fold-repeats", "1",
    "--fold-models", "heads", "--precision", "float32",
)  # fmt: skip


def soaked(quick: bool, minutes: float = MINUTES) -> Outcome:
    """Minutes of use; nothing when quick."""
    if quick:
        return Outcome(skipped="takes many minutes: run it without --quick")
    if not Path("/proc/self/status").exists():
        return Outcome(skipped="reads /proc, which this system does not have")
    *samples, rested = used(minutes)
    return Outcome(len(samples), 0, tuple(judged(samples, rested)), measured=_measured(samples, rested))


def _measured(samples: Sequence[Sample], rested: Sample) -> dict[str, str]:
    half = samples[len(samples) // 2 :]
    return {
        "minutes": f"{samples[-1].seconds / 60:.0f}",
        "memory": f"{samples[0].memory / 1e6:.0f} to {samples[-1].memory / 1e6:.0f} MB, {growth(half):+.1%} in the second half",
        "threads": f"{samples[0].threads}, at most {max(one.threads for one in samples)}, then {rested.threads}",
        "handles": f"{samples[0].handles}, at most {max(one.handles for one in samples)}, then {rested.handles}",
        "children and temporary files": f"{rested.children} and {rested.leftovers}",
    }


def leaky(quick: bool) -> Outcome:
    """The control: a process that keeps a file, a thread and some memory of each round."""
    del quick
    code = (
        "import sys, threading, time\nkept = []\nfor _ in sys.stdin:\n    kept.append((open('/dev/null'), bytearray(5_000_000)))\n"
        "    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n    print('.', flush=True)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    samples = []
    try:
        with tempfile.TemporaryDirectory() as home:
            for number in range(18):
                child.stdin.write("\n")
                child.stdin.flush()
                child.stdout.readline()
                (Path(home) / f".{number}.tmp").touch()
                samples.append(sample(child.pid, Path(home), number))
    finally:
        child.kill()
        child.wait()
    return Outcome(len(samples), 0, tuple(judged(samples, samples[-1])))


CHECKS = (
    Check(
        "soak", f"{MINUTES:g} minutes of pages, imports, reviews, trainings and predictions: nothing piles up", soaked, leaky,
        "a process that keeps a file, a thread and some memory of each round", 60 * MINUTES + 900,
    ),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    samples: list[Sample] = []
    for one in used(options.minutes):
        samples.append(one)
        print(
            f"{one.seconds:7.0f} s  {one.memory / 1e6:6.0f} MB  {one.threads:3} threads  {one.handles:4} handles  {one.children} children"
            f"  {one.leftovers} leftovers",
            flush=True,
        )
    *samples, rested = samples
    print("; ".join(f"{name} {value}" for name, value in _measured(samples, rested).items()))
    wrong = judged(samples, rested)
    print("; ".join(wrong) or f"{len(samples)} rounds, nothing piled up")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

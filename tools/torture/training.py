"""Trainings that are killed, damaged, started twice or that run into a wall: the same end as an untouched one, or a plain sentence.

A process that has imported torch forks one worker for each attempt, so that an attempt takes a second. Drawn pictures, tiny settings.
"""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tools.torture.checks import ROOT, Check, Outcome

KILLS, KILLS_A_RUN = 20, 4
SETTINGS = {
    "weights": "none", "image_size": 32, "batch_size": 16, "epochs_adaptation": 4, "patience_adaptation": 9, "epochs_finetuning": 3,
    "patience_finetuning": 9, "folds": 2, "fold_repeats": 1, "fold_models": "heads", "precision": "float32",
}  # fmt: skip
_PARTS = ("half of it is written", "all of it is written", "it is in its place")
_OF_A_CHECKPOINT = ("checkpoint.safetensors", "model.safetensors", "model.json")
WRITES = [(name, part, nth) for nth in (1, 5) for name in _OF_A_CHECKPOINT for part in _PARTS][:10]  # a 5th epoch is fine tuning


# -- in the child, which imports torch


def pictures(root: Path, n: int = 40) -> Path:
    """A data set of noise with a patch of colour for each label."""
    import numpy as np
    from PIL import Image

    root.mkdir()
    rng = np.random.default_rng(0)
    lines = ["file,red,green"]
    for i in range(n):
        pixels = rng.integers(90, 150, (40, 40, 3))
        bits = (i % 2, i // 2 % 2)
        for k, bit in enumerate(bits):
            if bit:
                pixels[5:30, 5 + 18 * k : 18 + 18 * k, k] = 220
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{i:03}.png")
        lines.append(f"{i:03}.png,{bits[0]},{bits[1]}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def new_run(root: Path, home: Path, **changes: object) -> Any:
    """A run that nobody has started."""
    from panorama import runs
    from panorama.config import TrainConfig
    from panorama.datasets import load
    from panorama.finding import find_source, with_layouts

    return runs.create(load(with_layouts(find_source(root)), home), TrainConfig(**{**SETTINGS, **changes}), home)  # type: ignore[arg-type]


def fork_worker(run: Any, before: Callable[[], None] = lambda: None) -> int:
    """A worker in a process of its own; its id. Exit status as of `panorama.worker`, 3 for a refusal in words before the work."""
    child = os.fork()
    if child:
        return child
    status = 9
    try:
        import torch

        from panorama import worker
        from panorama.errors import PanoramaError

        torch.set_num_threads(1)
        with (run.folder / "worker.log").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        before()
        try:
            status = {"complete": 0, "stopped": 0, "failed": 1}[worker.run(run.folder)]
        except PanoramaError as error:
            print(error, flush=True)
            status = 3
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """Waits; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def complete(run: Any, before: Callable[[], None] = lambda: None) -> str:
    """Does the run to its end; "" or what it said instead."""
    status = ended(fork_worker(run, before))
    return "" if status == 0 else f"status {status}: {run.history().message or (run.folder / 'worker.log').read_text()[-500:]}"


def outcome(run: Any) -> dict[str, str]:
    """What a run ended with: weights, metrics, every table, every epoch."""
    names = ("model.safetensors", "metrics.json", "before.csv", "predictions.csv", "out_of_fold.csv", "suspects.csv", "heat.npy")
    found = {name: hashlib.sha256((run.folder / name).read_bytes()).hexdigest()[:12] for name in names if run.has(name)}
    epochs = [(e.phase, e.epoch, e.train_loss, e.validation_loss) for e in run.history().epochs]
    return found | {"epochs": repr(epochs)}


def unlike(run: Any, expected: dict[str, str]) -> list[str]:
    """What differs from the untouched run, and what was left behind."""
    found = outcome(run)
    differing = [name for name in expected if found.get(name) != expected[name]]
    left = [path.name for path in run.folder.iterdir() if path.name.endswith(".tmp") or path.name.startswith("checkpoint")]
    return ([f"other {', '.join(differing)}"] if differing else []) + ([f"left behind: {', '.join(left)}"] if left else [])


def kill_inside(name: str, part: str, nth: int) -> None:
    """The worker kills itself at the nth time it writes `name`, at that moment of the write."""
    from panorama import checkpoint, files

    write, seen = files.write_atomically, [0]

    def fatal(path: Path, data: bytes) -> None:
        seen[0] += path.name == name
        if path.name != name or seen[0] < nth:
            return write(path, data)
        if part == _PARTS[2]:
            write(path, data)
        else:
            with path.with_name(f".{path.name}.{os.getpid()}.tmp").open("wb") as stream:
                stream.write(data[: len(data) // 2] if part == _PARTS[0] else data)
                stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    checkpoint.write_atomically = fatal  # type: ignore[attr-defined]


def forget_the_optimizer() -> None:
    """The control: a worker that resumes without what its optimizer knew."""
    from panorama import checkpoint

    load = checkpoint.load_checkpoint

    def forgetful(folder: Path, model: Any) -> Any:
        found = load(folder, model)
        if found is not None:
            found[0].optimizer_state = None
        return found

    checkpoint.load_checkpoint = forgetful


def kill_at_random(home: Path, count: int, mode: str) -> dict[str, Any]:
    """Kills at random moments, some in each run, which then goes on to its end."""
    rng, root = random.Random(count), pictures(home / "pictures")
    resumed_with = forget_the_optimizer if mode else lambda: None
    whole = new_run(root, home)
    wrong = [f"the untouched run: {said}" for said in (complete(whole),) if said]
    started = time.perf_counter()
    again = new_run(root, home)
    wrong += [f"the untouched run, again: {said}" for said in (complete(again),) if said] or unlike(again, outcome(whole))
    seconds, expected, kills, in_epochs, runs = time.perf_counter() - started, outcome(whole), 0, 0, 0
    while kills < count:
        run, before = new_run(root, home), kills
        runs += 1
        for attempt in range(min(KILLS_A_RUN, count - kills)):
            child = fork_worker(run, resumed_with)
            time.sleep(rng.uniform(0.02, seconds * (0.9 if attempt == 0 else 0.7)))
            os.kill(child, signal.SIGKILL)
            if ended(child) != -signal.SIGKILL:
                break  # it was done before
            kills += 1
            in_epochs += bool(run.history().epochs)
            if run.state() not in ("interrupted",):
                wrong.append(f"kill {kills}: the run is said to be {run.state()}")
        if said := complete(run, resumed_with):
            wrong.append(f"resumed after kill {kills}: {said}")
        else:
            wrong += [f"resumed after kills {before + 1} to {kills}: {sentence}" for sentence in unlike(run, expected)]
    return {"tried": kills, "wrong": wrong, "measured": {"runs": str(runs), "kills after a first epoch": str(in_epochs)}}


def kill_in_writes(home: Path, count: int, mode: str) -> dict[str, Any]:
    """Kills inside the writes of a checkpoint: of the training's state, of the best weights, of their card. mode: of the workers that resume."""
    root = pictures(home / "pictures")
    whole = new_run(root, home)
    wrong = [f"the untouched run: {said}" for said in (complete(whole),) if said]
    for name, part, nth in WRITES[:count] if not mode else [("checkpoint.safetensors", _PARTS[2], 2)]:
        run = new_run(root, home)
        where = f"{name}, written the {nth}. time, {part}"
        if (status := ended(fork_worker(run, lambda: kill_inside(name, part, nth)))) != -signal.SIGKILL:  # noqa: B023
            wrong.append(f"{where}: the worker ended with {status}")
        if said := complete(run, forget_the_optimizer if mode else lambda: None):
            wrong.append(f"{where}: {said}")
        else:
            wrong += [f"{where}: {sentence}" for sentence in unlike(run, outcome(whole))]
    return {"tried": count, "wrong": wrong, "measured": {}}


# -- what stands in a training's way


def stopped_after(run: Any, epochs: int) -> str:
    """Trains so many epochs of adaptation and is killed there; "" or what went wrong."""
    status = ended(fork_worker(run, lambda: kill_inside("checkpoint.safetensors", _PARTS[2], epochs)))
    return "" if status == -signal.SIGKILL else f"the worker ended with {status}"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a byte is another": lambda data: data[:-5] + bytes([data[-5] ^ 255]) + data[-4:],
    "cut off": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "nought all through": lambda data: bytes(len(data)),
    "a header that promises too much": lambda data: b"\xff" * 8 + data[8:],
}


def damaged(root: Path, home: Path, few: bool, _: str) -> Iterator[tuple[str, str, bool]]:
    whole = new_run(root, home)
    said = complete(whole)
    for what, change in list(DAMAGE.items())[: 1 if few else None]:
        run = new_run(root, home)
        said = said or stopped_after(run, 3)
        newest = run.folder / "checkpoint.safetensors"
        newest.write_bytes(change(newest.read_bytes()))
        said = said or complete(run)
        told = any("checkpoint before it" in note for note in run.history().notes)
        differs = "; ".join(unlike(run, outcome(whole))) if not said else ""
        yield f"the newest checkpoint: {what}", said or differs or ("" if told else "nothing is said of it"), False
        said = ""
    if few:
        return
    for names, words in (
        (("checkpoint.safetensors", "checkpoint.previous.safetensors"), "no checkpoint of this run can be used"),
        (("model.safetensors",), "model.safetensors: "),
    ):
        run = new_run(root, home)
        said = stopped_after(run, 3)
        for name in names:
            (run.folder / name).write_bytes((run.folder / name).read_bytes()[:1000])
        ended(fork_worker(run))
        yield f"{' and '.join(names)} damaged", said or _expected(run, words), True


def two_at_once(root: Path, home: Path, few: bool, mode: str) -> Iterator[tuple[str, str, bool]]:
    if mode:
        believe_files()
    for same in (True,) if few else (True, False):
        first = new_run(root, home, epochs_adaptation=2000, patience_adaptation=2000)
        second = first if same else new_run(root, home, epochs_adaptation=2000, patience_adaptation=2000)
        children = {fork_worker(first): first, fork_worker(second): second}
        loser, status = os.wait()
        left = children.pop(loser)
        (winner, won), *_ = children.items()
        log = (left.folder / "worker.log").read_text()
        said = ""
        if os.waitstatus_to_exitcode(status) != 3 or "already running in this workspace" not in log:
            said = f"one ended with {os.waitstatus_to_exitcode(status)}: {log[-300:]}"
        elif won.state() != "running":
            said = f"the other is {won.state()}"
        won.ask_to_stop()
        status = ended(winner)
        if not said and (status, won.state()) != (0, "stopped"):
            said = f"the other ended with {status}, {won.state()}"
        yield f"two starts at once of {'one run' if same else 'two runs'}", said, True


def reused_pid(root: Path, home: Path, few: bool, mode: str) -> Iterator[tuple[str, str, bool]]:
    del few
    if mode:
        believe_files()
    run = new_run(root, home)
    said = stopped_after(run, 1)
    stranger = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; [signal.signal(n, lambda *_: open('x', 'w')) for n in (1, 2, 10, 12, 15)]; time.sleep(600)",
        ],
        cwd=home,
    )
    try:
        (home / "worker.json").write_text(json.dumps({"run": run.id, "pid": stranger.pid}))
        nice = os.getpriority(os.PRIO_PROCESS, stranger.pid)
        if run.state() != "interrupted":
            said = said or f"the run is said to be {run.state()}"
        run.ask_to_stop()
        (run.folder / "stop").unlink(missing_ok=True)
        said = said or complete(run)
        if stranger.poll() is not None or (home / "x").exists() or os.getpriority(os.PRIO_PROCESS, stranger.pid) != nice:
            said = said or "the stranger was signalled"
    finally:
        stranger.kill()
        stranger.wait()
    yield "another process has the pid of a killed worker", said, False


def believe_files() -> None:
    """The control: who runs is what a file says, and nobody holds a lock."""
    from panorama import runs, worker

    def holder(file: Path) -> str | None:
        with suppress(OSError):
            return str(json.loads(file.with_suffix(".json").read_text())["run"])
        return None

    @contextmanager
    def careless(run: Any) -> Iterator[None]:
        (runs._lock_file(run)).with_suffix(".json").write_text(json.dumps({"run": run.id, "pid": os.getpid()}))
        yield

    runs._holder = holder
    worker.worker_lock = careless


def walls(root: Path, home: Path, few: bool, _: str) -> Iterator[tuple[str, str, bool]]:
    """A loss that is not finite, memory that does not do, a worker that dies at once."""
    run = new_run(root, home, learning_rate_adaptation=10.0, weight_decay=1e30, epochs_adaptation=9)
    ended(fork_worker(run))
    yield "a loss that is not finite", _expected(run, "not a finite number"), True
    run = new_run(root, home)
    ended(fork_worker(run, _no_memory))
    yield "not enough memory on the CPU", _expected(run, "Not enough memory. Use a smaller batch"), True
    if few:
        return
    run = new_run(root, home)
    ended(fork_worker(run, lambda: _gpu_with_room_for(8)))
    notes = " ".join(run.history().notes)
    said = "" if run.state() == "complete" else f"{run.state()}: {run.history().message}"
    smaller = "batches of 16 pictures: on with batches of 8"
    said = said or (_unsaid(run, smaller) if smaller in notes else f"nothing is said of it: {notes}")
    yield "a GPU with room for batches of 8", said, False
    run = new_run(root, home)
    ended(fork_worker(run, lambda: _gpu_with_room_for(0)))
    notes = " ".join(run.history().notes)
    said = "" if run.state() == "complete" else f"{run.state()}: {run.history().message}"
    yield (
        "a GPU with no room",
        said or (_unsaid(run, "on with the CPU") if "on with the CPU" in notes else f"nothing is said of it: {notes}"),
        False,
    )
    yield from _dead_at_once(root, home)


def _dead_at_once(root: Path, home: Path) -> Iterator[tuple[str, str, bool]]:
    from panorama import launch

    (home / "broken").mkdir()
    (home / "broken" / "safetensors.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')\n")
    run = new_run(root, home)
    os.environ["PYTHONPATH"] = str(home / "broken")
    launch.start(run)
    del os.environ["PYTHONPATH"]
    until = time.monotonic() + 60
    while run.state() == "starting" and time.monotonic() < until:
        time.sleep(0.05)
    yield "a worker that dies while it imports", _expected(run, "ended before it began (status 1).*libcuda.so.1"), True


def _no_memory() -> None:
    import torch

    from panorama import worker

    worker.train = lambda *_, **__: iter([torch.empty(2**52)])  # type: ignore[assignment]


def _gpu_with_room_for(most: int) -> None:
    """Makes the worker believe in a GPU whose memory does for batches of `most` pictures; it computes on the CPU all the same."""
    import torch

    from panorama import hardware, worker

    train = worker.train

    def greedy(model: Any, data: Any, config: Any, **more: Any) -> Any:
        if config.batch_size > most and not hardware._is_cpu_only:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return train(model, data, config, **more)

    worker.train = greedy
    worker._is_on_gpu = lambda: not hardware._is_cpu_only


def _expected(run: Any, words: str) -> str:
    """ "" when the run failed with these words (parts, between `.*`), and the Train page says them."""
    message = run.history().message
    if not (run.state() == "failed" and all(part in message for part in words.split(".*")) and "unexpected" not in message):
        return f"expected '{words}', found {run.state()}: {message}"
    return _unsaid(run, words)


def _unsaid(run: Any, words: str) -> str:
    """ "" when these words (parts, between `.*`) stand on the Train page of the run; the page is made in a process of its own, for this one forks."""
    command = [sys.executable, "-m", "tools.torture.training", "page", run.folder.parent.parent, "0", run.id]
    page = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    return "" if all(part in json.loads(page) for part in words.split(".*")) else f"the page does not say '{words}': {page[:500]}"


def words_of_page(home: Path, _: int, run_id: str) -> str:
    """What the Train page says of a run."""
    import logging

    from streamlit.logger import set_log_level
    from streamlit.testing.v1 import AppTest

    set_log_level(logging.CRITICAL)  # that there is no browser
    os.environ["PANORAMA_HOME"] = str(home)
    app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
    app.run()
    app.query_params["run"] = run_id
    app.switch_page("pages/train.py").run()
    said = [str(e.value) for e in (*app.markdown, *app.caption, *app.info, *app.warning, *app.error, *app.exception)]
    words = "\n".join([*said, *(e.proto.body for e in app.get("html"))])
    return re.sub(r"\\([^\w\s])", r"\1", words)  # as Markdown shows them


HINDRANCES = (damaged, two_at_once, reused_pid, walls)


def hinder(home: Path, few: bool, mode: str) -> dict[str, Any]:
    """Everything that stands in a training's way; with `mode` only what the control breaks."""
    from panorama.finding import find_source, with_layouts
    from panorama.workspace import remember

    root = pictures(home / "pictures")
    remember(home, with_layouts(find_source(root)))  # what the pages show
    wrong, tried, refused = [], 0, 0
    for hindrance in (two_at_once, reused_pid) if mode else HINDRANCES:
        for what, said, is_refusal in hindrance(root, home, few, mode):
            tried, refused = tried + 1, refused + (is_refusal and not said)
            wrong += [f"{what}: {said}"] if said else []
    return {"tried": tried, "wrong": wrong, "refused": refused, "measured": {}}


# -- the checks

_LATER = Outcome(skipped="takes minutes: run it without --quick")


def _asked(what: str, count: int, mode: str) -> Outcome:
    if not hasattr(os, "fork"):
        return Outcome(skipped="needs fork and kill -9, which this system does not have")
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"PANORAMA_HOME": home, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "tools.torture.training", what, home, str(count), mode]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return Outcome(found["tried"], found.get("refused", 0), tuple(found["wrong"]), measured=found["measured"])


def main() -> None:
    """The child: random, writes, hinder or page, HOME COUNT MODE."""
    what, home, count, mode = sys.argv[1:]
    work: dict[str, Callable[[Path, int, str], Any]] = {
        "random": kill_at_random,
        "writes": kill_in_writes,
        "hinder": lambda folder, few, mode: hinder(folder, few == 1, mode),
        "page": words_of_page,
    }
    if what != "page":
        import panorama.worker  # noqa: F401 - once, for all forks

    print(json.dumps(work[what](Path(home).resolve(), int(count), mode)))


CHECKS = (
    Check(
        "training-killed", "kill -9 at random moments: resumed, it ends with the same weights, metrics and tables as an untouched run",
        lambda quick: _LATER if quick else _asked("random", KILLS, ""), lambda _: _asked("writes", 1, "forgets"),
        "a worker that resumes without its optimizer's state", 600, 90,
    ),
    Check(
        "training-killed-in-writes", "kill -9 inside the writes of a checkpoint, of the best weights and of their card",
        lambda quick: _LATER if quick else _asked("writes", len(WRITES), ""), lambda _: _asked("writes", 1, "forgets"),
        "a worker that resumes without its optimizer's state", 600, 90,
    ),
    Check(
        "training-hindered", "damaged checkpoints, two starts, a reused pid, a loss that is not finite, too little memory, a worker that dies at once",
        lambda quick: _LATER if quick else _asked("hinder", 0, ""), lambda _: _asked("hinder", 1, "believes files"), "who runs is what a file says", 600, 90,
    ),
)  # fmt: skip
if __name__ == "__main__":
    main()

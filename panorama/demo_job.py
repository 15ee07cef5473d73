"""The demo drawn in a process of its own, which outlives the page and the server: `python -m panorama.demo_job HOME [--train]`.

Beside the runs, in the workspace's folder `drawing`: `state.json` says how far it is, replaced whole; `lock` is held as long as the process
lives; `stop` asks it to stop. With `--train` it goes on to a training, whether or not anybody still looks.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from panorama import launch, runs
from panorama.config import demo_config
from panorama.countdown import Countdown
from panorama.datasets import load
from panorama.errors import PanoramaError
from panorama.files import write_atomically
from panorama.finding import find_source, with_layouts
from panorama.workspace import current, remember

_PROJECT = Path(__file__).resolve().parent.parent
_START_GRACE_SECONDS = 60.0  # importing numpy and Pillow on a cold disk
_TELL_EVERY_SECONDS = 0.2
_IMAGES = 400


@dataclass(frozen=True)
class Drawing:
    """How a drawing stands. began_at: seconds since 1970, and which drawing it is. run: the training it went on to; "" for none."""

    state: Literal["working", "drawn", "stopped", "failed"]
    began_at: float
    pid: int = 0  # 0 until its process has told something
    doing: str = "Starting"
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    message: str = ""
    run: str = ""


def standing(home: Path, *, now: float | None = None) -> Drawing | None:
    """The latest drawing of the workspace, or None; one whose process is gone without a word has failed."""
    told = _told(home)
    if told is None or told.state != "working" or _is_held(home):
        return told
    told = _told(home) or told  # it may have ended between the two looks
    if told.state != "working":
        return told
    if not told.pid and (time.time() if now is None else now) - told.began_at < _START_GRACE_SECONDS:
        return told
    return replace(
        told,
        state="failed",
        message=f"The drawing ended before it was done (its process is gone). {_last_words(home)}Draw it again.",
    )


def _told(home: Path) -> Drawing | None:
    try:
        return Drawing(**json.loads((_folder(home) / "state.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def start(home: Path, *, train: bool, n_images: int = _IMAGES) -> None:
    """Starts to draw the demo in `home`; one that is under way goes on. train: and a training on it. Raises BusyError when one is training already."""
    under_way = standing(home)
    if under_way is not None and under_way.state == "working":
        return
    if train and runs.is_busy(home):
        raise runs.BusyError("A training is already running in this workspace. Wait for it, or stop it first.")
    _folder(home).mkdir(parents=True, exist_ok=True)
    if under_way is not None and under_way.pid:
        _clear_up(home, under_way.pid)
    (_folder(home) / "stop").unlink(missing_ok=True)
    began = Drawing("working", time.time())
    _tell(home, began)
    with (_folder(home) / "drawing.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "panorama.demo_job", str(home), str(n_images), *(["--train"] if train else [])],
            cwd=_PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    launch.give_way(process.pid)
    threading.Thread(target=_see_to_its_end, args=(process, home, began), daemon=True).start()


def _see_to_its_end(process: "subprocess.Popen[bytes]", home: Path, began: Drawing) -> None:
    """Reaps it, or it would stay as a zombie, and says so at once where it ended before it told anything."""
    status = process.wait()
    if _told(home) == began:
        with suppress(OSError):
            message = f"The drawing ended before it began (status {status}). {_last_words(home)}Draw it again."
            _tell(home, replace(began, state="failed", message=message))


def ask_to_stop(home: Path) -> None:
    """The drawing ends at the next picture and leaves nothing."""
    (_folder(home) / "stop").touch()


def stop_is_asked(home: Path) -> bool:
    """Whether `ask_to_stop` was called since the last start."""
    return (_folder(home) / "stop").exists()


# --- in its process ------------------------------------------------------------------------------------------------------


class _StopAskedError(Exception):
    """The stop file is there, or the process was told to end."""


def work(home: Path, *, train: bool, n_images: int = _IMAGES) -> Drawing:
    """Draws the demo, makes it the data set that pages show, goes on to a training if asked; how it ended, as `standing` says it too."""
    known = standing(home)
    job = Drawing("working", known.began_at if known else time.time(), os.getpid())
    try:
        with FileLock(_folder(home) / "lock").acquire(timeout=5):  # a page that looks whether it is held holds it for an instant
            if (told := _told(home)) is not None and told.state != "working":
                return told  # two were started at the same moment, and the other one has done it
            job = _ended(job, lambda: _draw(home, job, train=train, n_images=n_images))
            _tell(home, job)
    except Timeout:
        return job  # another one draws already
    return job


def _ended(job: Drawing, draw: Callable[[], str]) -> Drawing:
    """How the drawing ended, in words; draw: gives the id of the training that it went on to."""
    try:
        return replace(job, state="drawn", run=draw())
    except (_StopAskedError, KeyboardInterrupt):
        return replace(job, state="stopped")
    except PanoramaError as error:
        return replace(job, state="failed", message=str(error))
    except Exception as error:
        return replace(job, state="failed", message=f"Something unexpected happened: {type(error).__name__}: {error}.")


def _draw(home: Path, job: Drawing, *, train: bool, n_images: int) -> str:
    from panorama.demo import draw_demo  # how to draw is of no use to pages, which import this module

    before = current(home)
    source = with_layouts(
        find_source(draw_demo(home / "demo", n_images=n_images, on_progress=_teller(home, job, "Drawing pictures")))
    )
    if current(home) == before:  # or somebody chose another data set meanwhile, and keeps it
        remember(home, source, is_demo=True)
    if not train:
        return ""
    run = runs.create(load(source, home, on_progress=_teller(home, job, "Reading pictures")), demo_config(), home)
    launch.start(run)
    return run.id


def _teller(home: Path, job: Drawing, doing: str) -> Callable[[int, int], None]:
    """Tells how far a stage of the job is, not more often than pages show it, and stops it when it is asked to."""
    countdown, told_at = Countdown(), 0.0

    def advanced(done: int, total: int) -> None:
        nonlocal told_at
        if stop_is_asked(home):
            raise _StopAskedError
        now = time.monotonic()
        left = countdown.left(done, total, now)
        if now - told_at >= _TELL_EVERY_SECONDS:
            told_at = now
            _tell(home, replace(job, doing=doing, done=done, total=total, seconds_left=left))

    return advanced


def _tell(home: Path, job: Drawing) -> None:
    write_atomically(_folder(home) / "state.json", json.dumps(asdict(job)).encode())


def _folder(home: Path) -> Path:
    return home / "drawing"


def _is_held(home: Path) -> bool:
    """Whether its process lives. Whoever looks holds the lock for an instant, so it is looked at again."""
    lock = FileLock(_folder(home) / "lock")
    try:
        lock.acquire(timeout=0.3, poll_interval=0.01)
    except Timeout:
        return True
    lock.release()
    return False


def _clear_up(home: Path, pid: int) -> None:
    """Removes what a killed drawing left half done."""
    for left in home.glob(f".demo.{pid}.*"):
        shutil.rmtree(left, ignore_errors=True)


def _last_words(home: Path) -> str:
    """The last line of drawing.log, where a traceback has its reason."""
    with suppress(OSError):
        lines = (_folder(home) / "drawing.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return f"The last line of its log: {lines[-1].strip()[:500]} "
    return ""


def _told_to_end(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """The process that `start` starts."""
    signal.signal(signal.SIGTERM, _told_to_end)
    home, n_images = Path(sys.argv[1]), int(sys.argv[2])
    job = work(home, train="--train" in sys.argv, n_images=n_images)
    run = runs.find_run(home, job.run) if job.run else None
    while run is not None and run.state() == "starting":  # whoever launches a worker tells of one that dies at once
        time.sleep(0.5)


if __name__ == "__main__":
    main()

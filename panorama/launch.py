"""Start a worker that outlives the server, and stop or resume it."""

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from panorama.runs import Run, refuse_if_busy

_PROJECT = Path(__file__).resolve().parent.parent


_PRIORITY = 10  # of 19: on an idle machine as fast as ever; beside people who review, it waits for them


def give_way(pid: int) -> None:
    """Lets a process and all its threads come after the others, where the system knows such a thing."""
    if hasattr(os, "setpriority"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, _PRIORITY)


def start(run: Run) -> int:
    """Starts, or resumes, the run in a process of its own and returns its pid. Raises BusyError when one is training.

    The process has its own session, so closing the tab or Ctrl-C of the server does not end it.
    """
    refuse_if_busy(run)
    (run.folder / "stop").unlink(missing_ok=True)
    (run.folder / "launched").touch()
    with (run.folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "panorama.worker", str(run.folder)],
            cwd=_PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    give_way(process.pid)
    threading.Thread(target=process.wait, daemon=True).start()  # reap it, or it stays as a zombie
    return process.pid

"""Start a worker that outlives the server, and stop or resume it."""

import subprocess
import sys
import threading
from pathlib import Path

from panorama.runs import Run, refuse_if_busy

_PROJECT = Path(__file__).resolve().parent.parent


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
    threading.Thread(target=process.wait, daemon=True).start()  # reap it, or it stays as a zombie
    return process.pid

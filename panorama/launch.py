"""Start a worker that outlives the server, and stop or resume it."""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from panorama.runs import Run, end_untold, refuse_if_busy

_PROJECT = Path(__file__).resolve().parent.parent


_PRIORITY = 10  # of 19: on an idle machine as fast as ever; beside people who review, it waits for them


def give_way(pid: int) -> None:
    """Lets a process and all its threads come after the others, where the system knows such a thing."""
    if hasattr(os, "setpriority"):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, _PRIORITY)


def start(run: Run) -> int:
    """Starts, or resumes, the run in a process of its own and returns its pid. Raises BusyError when one is training.

    The process has its own session, so closing the tab or Ctrl-C of the server does not end it. One that dies before it tells anything is
    told of in the run's log as long as this process lives.
    """
    refuse_if_busy(run)
    launched_at = time.time()
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
    threading.Thread(target=_see_to_its_end, args=(process, run, launched_at), daemon=True).start()
    return process.pid


def _see_to_its_end(process: "subprocess.Popen[bytes]", run: Run, launched_at: float) -> None:
    """Reaps it, or it would stay as a zombie, and says why there is nothing to see where it died at once."""
    status = process.wait()
    if status:
        how = f"status {status}" if status > 0 else f"killed by signal {-status}"
        with suppress(OSError):
            end_untold(
                run, launched_at, f"The training ended before it began ({how}). {_last_words(run)}Mend that, then resume the run."
            )


def _last_words(run: Run) -> str:
    """The last line of worker.log, where a traceback has its reason."""
    lines = (run.folder / "worker.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"The last line of worker.log in the run folder: {lines[-1].strip()[:500]} " if lines else ""

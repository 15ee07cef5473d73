"""What a worker writes while it works: events, not more often than pages can show, and when it must stop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from panorama.events import BatchEnded, Event, RunEnded, StageAdvanced, StageEnded, StageStarted
from panorama.processes import Team
from panorama.runs import EventLog, Run

OnEvent = Callable[[Event], None]
OnProgress = Callable[[int, int], None]
_LOG_EVERY_SECONDS = 0.2


class StopAskedError(Exception):
    """The stop file is there, or the process was told to end."""


class RunLog:
    """Appends events, tells the caller, and stops the run when it is asked to; in helping processes it only stops."""

    def __init__(self, job: Run, team: Team, on_event: OnEvent = lambda event: None) -> None:
        self._job, self._team, self._on_event = job, team, on_event
        self._file = EventLog(job) if team.is_first else None
        self._last_batch = 0.0

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, event: Event) -> None:
        if self._file is not None:
            self._file.append(event)
            self._on_event(event)

    def append_batch(self, event: BatchEnded) -> None:
        """Not more often than pages can show."""
        if event.at - self._last_batch >= _LOG_EVERY_SECONDS or event.batch == event.batches:
            self._last_batch = event.at
            self.append(event)

    def stop_if_asked(self) -> None:
        if self._job.stop_is_asked():
            raise StopAskedError

    def stop_together(self) -> None:
        """As `stop_if_asked`, at a moment that every process reaches."""
        if self._team.any(self._job.stop_is_asked()):
            raise StopAskedError

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "images") -> Iterator[OnProgress]:
        started = last = time.time()
        self.append(StageStarted(started, name, total, unit))

        def advanced(done: int, total: int) -> None:
            nonlocal last
            self.stop_if_asked()
            if (now := time.time()) - last >= _LOG_EVERY_SECONDS:
                last = now
                self.append(StageAdvanced(now, name, done, total))

        yield advanced
        self.append(StageEnded(time.time(), name, time.time() - started))

    def end(self, status: Literal["complete", "stopped", "failed"], message: str) -> Literal["complete", "stopped", "failed"]:
        self.append(RunEnded(time.time(), status, message))
        if status == "stopped":
            (self._job.folder / "stop").unlink(missing_ok=True)
        return status

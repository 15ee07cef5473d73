"""Progress for people: bars on a terminal, plain lines otherwise."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from panorama.csvscan import counted
from panorama.events import (
    BatchEnded,
    EpochEnded,
    Event,
    Note,
    PhaseEnded,
    PhaseStarted,
    RunStarted,
    StageAdvanced,
    StageEnded,
    StageStarted,
    stage_in_words,
)  # fmt: skip


class Bar:
    """One bar on standard error while its block runs; silent where that is not a terminal."""

    def __init__(self, what: str, unit: str) -> None:
        self._bar = tqdm(desc=what, unit=f" {unit}", disable=not sys.stderr.isatty(), leave=False, file=sys.stderr)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def set(self, done: int, total: int) -> None:
        """Shows `done` of `total`."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)


class Progress:
    """Shows the events of a run as they come: a bar for what is under way, a line for each epoch and stage."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar: Bar | None = None
        self._started = time.time()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    def __call__(self, event: Event) -> None:
        match event:
            case StageStarted():
                self._open(*stage_in_words(event.stage, event.unit))
            case StageAdvanced() if self._bar:
                self._bar.set(event.done, event.total)
            case StageEnded():
                self._say(f"{stage_in_words(event.stage)[0]}: {event.seconds:.1f} s")
            case RunStarted():
                parts = ", ".join(f"{count:,} {split}" for split, count in event.images.items())
                self._say(f"{parts} images, {counted(event.labels, 'label')}; {event.device}, {_precision(event)}")
            case Note():
                self._say(event.message)
            case PhaseStarted():
                self._say(f"{event.phase}: learning rate {event.learning_rate:g}, patience {event.patience}")
            case BatchEnded():
                if event.batch == 1 or self._bar is None:
                    self._open(f"{event.phase}, epoch {event.epoch}", "batches")
                if self._bar:
                    self._bar.set(event.batch, event.batches)
            case EpochEnded():
                mean = "" if event.validation_map is None else f", validation mAP {event.validation_map:.3f}"
                best = "  best so far" if event.is_best else f"  no better for {event.without_improvement} of {event.patience}"
                self._say(
                    f"{event.phase}, epoch {event.epoch}: training loss {event.train_loss:.4f}, validation loss "
                    f"{event.validation_loss:.4f}{mean}, {event.images_per_second:,.0f} images/s, {event.seconds:.1f} s{best}"
                )
            case PhaseEnded():
                why = "no better epoch for a while" if event.reason == "patience" else "all its epochs done"
                self._say(f"{event.phase} ended: {why}; best so far is epoch {event.best_epoch} of {event.best_phase}")

    def _open(self, what: str, unit: str) -> None:
        self._close()
        if self._terminal:
            self._bar = Bar(what, unit)

    def _say(self, text: str) -> None:
        self._close()
        print(f"[{time.time() - self._started:6.1f} s] {text}", flush=True)

    def _close(self) -> None:
        if self._bar:
            self._bar.__exit__()
            self._bar = None


def _precision(event: RunStarted) -> str:
    if event.precision == event.feature_precision:
        return event.precision
    return f"{event.precision} (features {event.feature_precision})"

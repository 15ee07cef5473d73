"""Events as lines, the fold that survives a kill, and a progress bar that does not lie."""

import math

import pytest

from panorama.events import (
    BatchEnded,
    EpochEnded,
    Event,
    Note,
    PhaseEnded,
    PhaseStarted,
    Resumed,
    RunEnded,
    RunStarted,
    StageAdvanced,
    StageEnded,
    StageStarted,
    from_line,
    history,
    progress,
    to_line,
)  # fmt: skip


def epoch(phase: str, number: int, loss: float, *, best: bool = False, at: float = 0.0, without: int = 0) -> EpochEnded:
    return EpochEnded(at, phase, number, loss, loss, 0.5, best, without, 5, 10.0, 100.0)  # type: ignore[arg-type]


START = RunStarted(0.0, {"train": 100, "validation": 20, "test": 30}, 5, "CPU", "float32")


@pytest.mark.parametrize(
    "event",
    [
        START, Note(1.0, "naïve \n line"), StageStarted(1.0, "s", 3), StageAdvanced(1.0, "s", 1, 3), StageEnded(1.0, "s", 2.0),
        PhaseStarted(1.0, "adaptation", 5, 1e-3, 2, 10), BatchEnded(1.0, "fine tuning", 1, 2, 3, 0.5, 4, 5.0), epoch("adaptation", 1, 0.5),
        PhaseEnded(1.0, "adaptation", "patience", None, None, None), Resumed(1.0, "adaptation", 3), RunEnded(1.0, "failed", "why"),
    ],
)  # fmt: skip
def test_an_event_is_one_line_and_comes_back_the_same(event: Event) -> None:
    line = to_line(event)
    assert "\n" not in line
    assert from_line(line) == event


def test_nan_never_reaches_the_log() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        to_line(epoch("adaptation", 1, math.nan))


@pytest.mark.parametrize(
    "line", ["", "{", '{"event": "EpochEn', "[]", "null", '{"event": "FromTheFuture"}', '{"event": "Note"}', "\x00"]
)
def test_a_line_that_is_no_event_is_passed_over(line: str) -> None:
    assert from_line(line) is None


def test_a_resumed_run_takes_back_the_epoch_it_repeats() -> None:
    log = [
        START, PhaseStarted(0, "adaptation", 9, 1e-3, 2, 1), epoch("adaptation", 1, 0.5, best=True), epoch("adaptation", 2, 0.4, best=True),
        Resumed(0, "adaptation", 1), PhaseStarted(0, "adaptation", 9, 1e-3, 2, 1), epoch("adaptation", 2, 0.4, best=True),
    ]  # fmt: skip
    h = history(log)
    assert [(e.phase, e.epoch) for e in h.epochs] == [("adaptation", 1), ("adaptation", 2)]
    assert h.best is not None
    assert h.best.epoch == 2
    back = history(
        [
            *log,
            PhaseEnded(0, "adaptation", "patience", None, None, None),
            epoch("fine tuning", 1, 0.3),
            Resumed(0, "adaptation", 2),
        ]
    )
    assert [(e.phase, e.epoch) for e in back.epochs] == [("adaptation", 1), ("adaptation", 2)]
    assert back.phases_ended == []


def test_progress_rises_from_nothing_to_one_and_never_passes_it() -> None:
    log: list[Event] = []
    fractions = []

    def happens(event: Event) -> None:
        log.append(event)
        now = progress(log, event.at + 0.5)
        assert 0 <= now.fraction <= 1
        assert now.seconds_left is None or (math.isfinite(now.seconds_left) and now.seconds_left >= 0)
        fractions.append(now.fraction)

    happens(START)
    happens(StageStarted(1, "Computing features", 150))
    happens(StageAdvanced(2, "Computing features", 75, 150))
    happens(StageEnded(3, "Computing features", 2))
    happens(PhaseStarted(3, "adaptation", 100, 1e-3, 2, 1))
    happens(epoch("adaptation", 1, 0.5, best=True, at=3.1))
    happens(PhaseEnded(3.2, "adaptation", "patience", "adaptation", 1, 0.5))
    happens(PhaseStarted(3.2, "fine tuning", 100, 1e-4, 5, 1))
    for number in range(1, 8):
        happens(BatchEnded(10 * number, "fine tuning", number, 1, 2, 0.5, 50, 5.0))
        happens(epoch("fine tuning", number, 0.4, best=number < 3, at=10 * number + 5))
    happens(PhaseEnded(80, "fine tuning", "patience", "fine tuning", 2, 0.4))
    happens(RunEnded(90, "complete"))
    assert fractions[-1] == 1.0
    assert fractions[0] == 0.0
    assert max(fractions[:-1]) <= 0.99

"""Events as lines, the fold that survives a kill, and a progress bar that does not lie."""

import math
from dataclasses import replace

import pytest

from panorama.config import TrainConfig, seed_recipe
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
    seconds_again,
    to_line,
)  # fmt: skip


def epoch(phase: str, number: int, loss: float, *, best: bool = False, at: float = 0.0, without: int = 0) -> EpochEnded:
    return EpochEnded(at, phase, number, loss, loss, 0.5, best, without, 5, 10.0, 100.0)  # type: ignore[arg-type]


START = RunStarted(0.0, {"train": 100, "validation": 20, "test": 30}, 5, "CPU", "float32", "bfloat16")


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
    "line",
    [
        "",
        "{",
        '{"event": "EpochEn',
        "[]",
        "null",
        '{"event": "FromTheFuture"}',
        '{"event": "Note"}',
        '{"event": "Note", "at": NaN, "message": ""}',
        "\x00",
    ],
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
        now = progress(log, event.at + 0.5, seed_recipe())
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


def running_for(seconds: dict[str, float]) -> list[Event]:
    """A run of 100 + 20 + 30 pictures up to the middle of its second of four fine-tuning epochs, each taking as long as given."""
    at, log = 0.0, list[Event]([START])
    for stage in ("Decoding pictures", "Computing features"):
        log.append(StageStarted(at, stage, 150))
        at += seconds[stage]
        log += [StageAdvanced(at, stage, 150, 150), StageEnded(at, stage, seconds[stage])]
    log += [PhaseStarted(at, "adaptation", 100, 1e-3, 2, 1), epoch("adaptation", 1, 0.5, best=True, at=at)]
    log += [PhaseEnded(at, "adaptation", "patience", "adaptation", 1, 0.5), PhaseStarted(at, "fine tuning", 4, 3e-4, 5, 1)]
    at += seconds["epoch"]
    log.append(EpochEnded(at, "fine tuning", 1, 0.4, 0.4, 0.9, True, 0, 5, seconds["epoch"], 100 / seconds["epoch"]))
    at += seconds["epoch"] / 2
    return [*log, BatchEnded(at, "fine tuning", 2, 5, 10, 0.4, 50, 100 / seconds["epoch"])]


def test_the_time_left_is_what_is_left_of_the_epochs_and_the_passes_after_them() -> None:
    """An epoch of 3 x 100 + 20 passes takes 32 s, so a pass takes 0.1 s: 2.5 epochs, 150 predictions, 3 x 150 corners, the heads."""
    log = running_for({"Decoding pictures": 7.5, "Computing features": 15.0, "epoch": 32.0})
    now = progress(log, log[-1].at, TrainConfig())
    assert now.seconds_left == pytest.approx(2.5 * 32 + 15 + 45 + 7.5)
    assert now.images_per_second == pytest.approx(100 / 32)


def test_the_time_left_knows_that_the_first_epochs_see_smaller_pictures() -> None:
    """An epoch of smaller pictures takes 16 s, so one of the others 32: one and a half more of the small, two of the others."""
    log = running_for({"Decoding pictures": 7.5, "Computing features": 15.0, "epoch": 16.0})
    log = [replace(event, first_half=0.5) if isinstance(event, PhaseStarted) else event for event in log]
    now = progress(log, log[-1].at, TrainConfig())
    assert now.seconds_left == pytest.approx(0.5 * 16 + 2 * 32 + 15 + 45 + 7.5)


def test_the_time_left_follows_recent_epochs_not_the_first() -> None:
    quick, slow = (running_for({"Decoding pictures": 1.0, "Computing features": s / 10, "epoch": s}) for s in (10.0, 100.0))
    left = [progress(log, log[-1].at, TrainConfig()).seconds_left for log in (quick, slow)]
    assert left[0] is not None
    assert left[1] == pytest.approx(10 * left[0])


def test_a_pass_under_way_tells_its_own_time() -> None:
    """A hundred of 150 pictures in 5 s: 2.5 s of this pass, and as much again a picture for what comes after."""
    log = [START, StageStarted(0, "Computing features", 150), StageAdvanced(5, "Computing features", 100, 150)]
    now = progress(log, 5.0, TrainConfig())
    assert now.seconds_left is not None
    assert now.seconds_left > 2.5
    assert now.images_per_second == pytest.approx(20.0)


def test_no_epoch_is_waited_for_that_the_run_was_not_asked_for() -> None:
    """A pass takes 0.1 s: after it without fine tuning 150 predictions, 3 x 150 corners and the heads; before it, 50 of the pass too."""
    config = TrainConfig(epochs_finetuning=0)
    log: list[Event] = [START, StageStarted(0, "Decoding pictures", 150), StageEnded(0, "Decoding pictures", 0.0)]
    log += [StageStarted(0, "Computing features", 150), StageAdvanced(10, "Computing features", 100, 150)]
    assert progress(log, 10.0, config).seconds_left == pytest.approx(5 + 15 + 45 + 7.5)
    log += [StageEnded(15, "Computing features", 15.0), PhaseStarted(15, "adaptation", 100, 1e-3, 2, 1)]
    log += [PhaseEnded(15, "adaptation", "patience", "adaptation", 1, 0.5), PhaseStarted(15, "fine tuning", 0, 3e-4, 5, 1)]
    assert progress(log, 15.0, config).seconds_left == pytest.approx(15 + 45 + 7.5)
    log += [StageStarted(15, "Predicting every image", 150), StageEnded(45, "Predicting every image", 30.0)]
    assert progress(log, 45.0, config).seconds_left == pytest.approx(2 * (45 + 7.5)), "the last pass tells the pace"


def test_corners_that_are_kept_beside_the_features_take_no_time() -> None:
    log = running_for({"Decoding pictures": 0.0, "Computing features": 0.1, "epoch": 32.0})
    assert progress(log, log[-1].at, TrainConfig()).seconds_left == pytest.approx(2.5 * 32 + 15 + 7.5)


def test_features_that_come_from_the_cache_do_not_time_the_training() -> None:
    """150 features in 0.1 s are no passes: by them four epochs would take a second."""
    log = running_for({"Decoding pictures": 0.0, "Computing features": 0.1, "epoch": 32.0})
    before = [event for event in log if not isinstance(event, EpochEnded | BatchEnded) or event.phase == "adaptation"]
    assert progress(before, before[-1].at, TrainConfig()).seconds_left is None


def test_decoding_does_not_time_the_passes_and_no_stage_is_timed_by_its_first_moment() -> None:
    """Large pictures take a second each to decode; a pass over what was decoded takes 0.1 s, and is not known yet."""
    log: list[Event] = [START, StageStarted(0, "Decoding pictures", 150), StageAdvanced(100, "Decoding pictures", 100, 150)]
    assert progress(log, 100.0, TrainConfig()).seconds_left is None
    log += [StageEnded(150, "Decoding pictures", 150.0), StageStarted(150, "Computing features", 150)]
    first = [*log, StageAdvanced(151.5, "Computing features", 1, 150)]
    assert progress(first, 151.5, TrainConfig()).seconds_left is None
    later = [*log, StageAdvanced(155, "Computing features", 50, 150)]
    left = progress(later, 155.0, TrainConfig(epochs_finetuning=0)).seconds_left
    assert left == pytest.approx(10 + 15 + 45 + 7.5), (
        "100 of this pass, 150 predictions, 3 x 150 corners and the heads, 0.1 s each"
    )


def test_a_first_batch_that_warms_up_does_not_time_the_others() -> None:
    """It takes 30 s, the others one each: by the mean of three an epoch of ten would take 107 s, by the others 10."""
    config = TrainConfig(epochs_finetuning=1)
    log = [*running_for({"Decoding pictures": 0.0, "Computing features": 0.1, "epoch": 1.0})[:-2]]
    at = log[-1].at
    told = []
    for number in range(1, 8):
        log.append(BatchEnded(at + 29 + number, "fine tuning", 1, number, 10, 0.4, 10 * number, 1.0))
        told.append(progress(log, log[-1].at, config).seconds_left)
    assert told[:3] == [None] * 3
    a_pass = 10 / 320  # an epoch is 3 x 100 + 20 passes
    assert told[3:] == pytest.approx([10 - n + (150 + 75 + 0 * 300) * a_pass for n in (4, 5, 6, 7)])


def test_a_training_again_takes_what_is_not_kept_and_no_pause_between() -> None:
    log = running_for({"Decoding pictures": 8.0, "Computing features": 50.0, "epoch": 32.0})
    assert seconds_again(history(log)) is None, "it is not complete"
    log += [Resumed(5000, "fine tuning", 1), epoch("fine tuning", 2, 0.3, at=5010)]
    for stage, seconds in (
        ("Predicting every image", 51.0),
        ("Computing features of corners", 237.0),
        ("Out-of-fold probabilities", 14.0),
    ):
        log += [StageStarted(6000, stage, 150), StageEnded(6000, stage, seconds)]
    assert seconds_again(history([*log, RunEnded(6400, "complete")])) == pytest.approx(10 + 32 + 10 + 51 + 14)

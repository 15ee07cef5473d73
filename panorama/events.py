"""What happens during a run, one line of JSON an event, and what can be said from the events so far.

`history` folds a log into what pages draw; `progress` says how far a run is and how long it will still take.
A run that was killed and resumed repeats the epoch it was in: `Resumed` takes back what came after its checkpoint.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from panorama.config import Phase, PhaseName, TrainConfig

Status = Literal["starting", "running", "complete", "stopped", "failed"]


@dataclass(frozen=True)
class RunStarted:
    """`at` is seconds since 1970, as in all events. images: how many pictures each part has."""

    at: float
    images: dict[str, int]
    labels: int
    device: str
    precision: str  # of training steps
    feature_precision: str = ""  # of feature passes; "" in logs of an earlier version: as `precision`
    trained_folds: int = 0  # how many trainings the out-of-fold probabilities take; 0 where heads on features do


@dataclass(frozen=True)
class Note:
    """Something a person should know: what was left out, which substitute was used."""

    at: float
    message: str


@dataclass(frozen=True)
class StageStarted:
    """Work outside the epochs: reading pictures, features, predictions, out-of-fold probabilities."""

    at: float
    stage: str
    total: int
    unit: str = "images"


@dataclass(frozen=True)
class StageAdvanced:
    """How much of a stage is done."""

    at: float
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class StageEnded:
    """A stage is done, after so many seconds."""

    at: float
    stage: str
    seconds: float


@dataclass(frozen=True)
class PhaseStarted:
    """A phase begins; trainable_parameters counts single numbers.

    first_half: the work of each of the first half of the epochs, which may see smaller pictures and train more blocks, over that of the others.
    """

    at: float
    phase: PhaseName
    max_epochs: int
    learning_rate: float
    patience: int
    trainable_parameters: int
    first_half: float = 1.0


@dataclass(frozen=True)
class BatchEnded:
    """loss: mean binary cross entropy of this batch, in nats a cell. images: pictures of this epoch seen so far."""

    at: float
    phase: PhaseName
    epoch: int
    batch: int
    batches: int
    loss: float
    images: int
    images_per_second: float


@dataclass(frozen=True)
class EpochEnded:
    """Losses in nats a cell, measured on the training part (as trained, augmented) and on the validation part.

    is_best: whether its model is the one to keep so far.
    """

    at: float
    phase: PhaseName
    epoch: int
    train_loss: float
    validation_loss: float
    validation_map: float | None
    is_best: bool
    without_improvement: int
    patience: int
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class PhaseEnded:
    """reason: "patience" (no better epoch for `patience` epochs) or "epochs" (the most allowed were done)."""

    at: float
    phase: PhaseName
    reason: Literal["patience", "epochs"]
    best_phase: PhaseName | None
    best_epoch: int | None
    best_validation_loss: float | None


@dataclass(frozen=True)
class Resumed:
    """The run goes on after `epoch` of `phase` (epoch 0: from the start of that phase); later epochs in the log are void."""

    at: float
    phase: PhaseName
    epoch: int


@dataclass(frozen=True)
class RunEnded:
    """The last event. "complete" means that every file of the run is written."""

    at: float
    status: Literal["complete", "stopped", "failed"]
    message: str = ""


Event = (
    RunStarted | Note | StageStarted | StageAdvanced | StageEnded | PhaseStarted | BatchEnded | EpochEnded | PhaseEnded
    | Resumed | RunEnded
)  # fmt: skip
_TYPES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        RunStarted, Note, StageStarted, StageAdvanced, StageEnded, PhaseStarted, BatchEnded, EpochEnded, PhaseEnded,
        Resumed, RunEnded,
    )
}  # fmt: skip


def to_line(event: Event) -> str:
    """The event as one line of JSON, without the newline. Raises ValueError on NaN or infinity."""
    return json.dumps({"event": type(event).__name__, **dataclasses.asdict(event)}, ensure_ascii=True, allow_nan=False)


def from_line(line: str) -> Event | None:
    """The event of a `to_line` line; None for a line that is not one (unfinished, or of a newer version)."""
    try:
        values = json.loads(line, parse_constant=_refuse)
        event: Event = _TYPES[values.pop("event")](**values)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return event


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a measured value")


@dataclass
class History:
    """What a log says: the epochs and batches that count, the stage under way, and how the run stands."""

    started: RunStarted | None = None
    started_at: float | None = None
    last_at: float | None = None
    status: Status = "starting"
    message: str = ""
    notes: list[str] = field(default_factory=list)
    phases: list[PhaseStarted] = field(default_factory=list)
    phases_ended: list[PhaseEnded] = field(default_factory=list)
    epochs: list[EpochEnded] = field(default_factory=list)
    batches: list[BatchEnded] = field(default_factory=list)
    stage: StageAdvanced | None = None
    stage_started: StageStarted | None = None
    stages_ended: dict[str, StageEnded] = field(default_factory=dict)

    @property
    def best(self) -> EpochEnded | None:
        """The epoch whose model is kept: the lowest validation loss over both phases, or as good as the lowest (`training`)."""
        improved = [epoch for epoch in self.epochs if epoch.is_best]
        return improved[-1] if improved else None


def history(events: Iterable[Event]) -> History:
    """The fold of a log."""
    h = History()
    for event in events:
        h.started_at = event.at if h.started_at is None else h.started_at
        h.last_at = event.at
        match event:
            case RunStarted():
                h.started, h.status, h.message = event, "running", ""
            case Note():
                if event.message not in h.notes:
                    h.notes.append(event.message)
            case StageStarted():
                h.stage_started, h.stage = event, StageAdvanced(event.at, event.stage, 0, event.total)
            case StageAdvanced():
                h.stage = event
            case StageEnded():
                h.stage = h.stage_started = None
                h.stages_ended[event.stage] = event
            case PhaseStarted():
                h.phases = [p for p in h.phases if p.phase != event.phase] + [event]
            case BatchEnded():
                h.batches.append(event)
            case EpochEnded():
                h.epochs.append(event)
            case PhaseEnded():
                h.phases_ended = [p for p in h.phases_ended if p.phase != event.phase] + [event]
            case Resumed():
                _take_back(h, event)
            case RunEnded():
                h.status, h.message = event.status, event.message
                h.stage = h.stage_started = None
    return h


def _take_back(h: History, resumed: Resumed) -> None:
    order = {"adaptation": 0, "fine tuning": 1}
    at = (order[resumed.phase], resumed.epoch)
    h.epochs = [e for e in h.epochs if (order[e.phase], e.epoch) <= at]
    h.batches = [b for b in h.batches if (order[b.phase], b.epoch) <= at]
    h.phases = [p for p in h.phases if order[p.phase] <= at[0]]
    h.phases_ended = [p for p in h.phases_ended if order[p.phase] < at[0]]
    h.stage = h.stage_started = None
    h.stages_ended = {}


@dataclass(frozen=True)
class Progress:
    """How far a run is. fraction in [0, 1]; rates and times from recent steps, None where nothing was measured yet."""

    fraction: float
    doing: str
    images_per_second: float | None
    seconds_left: float | None
    seconds_so_far: float


# Names of stages in the log; `stage_in_words` is for people.
READING, DECODING, FEATURES = "Reading pictures", "Decoding pictures", "Computing features"
PREDICTING, CORNERS, FOLDS = "Predicting every image", "Computing features of corners", "Out-of-fold probabilities"

_IN_WORDS = {
    FEATURES: "Describing each picture in numbers (features)",
    CORNERS: "Describing the four corners of each picture, where small things are seen larger",
    FOLDS: "Judging every picture by models that never saw it (out of fold)",
}


def stage_in_words(stage: str, unit: str = "images") -> tuple[str, str]:
    """A stage and its unit for people."""
    return _IN_WORDS.get(stage, stage), "rounds" if unit == "folds" else unit


# How many fine-tuning epochs to expect before patience ends the phase; replaced by best epoch + patience as epochs come in.
_EXPECTED_EPOCHS_TO_BEST = 4
# What else takes, in forward passes of one picture, roughly (docs/speed.md): a training step, the corners of a picture, reading and
# decoding it, judging it by heads.
_STEP_COST, _CORNERS_COST, _READING_COST, _HEADS_COST = 3.0, 3.0, 0.5, 0.5
_KEPT_SHARE = 0.1  # of the time of a pass, below which it was none


def progress(events: Sequence[Event] | History, now: float, config: TrainConfig) -> Progress:
    """How far the run is at `now` (seconds since 1970), in work counted as forward passes of one picture. config: the run's.

    What is left is timed by what was measured: an epoch by its recent batches or the last epoch, a pass by the last pass. The end of fine tuning at a constant
    learning rate is not known while validation still improves: it is taken to be the best epoch so far plus patience.
    """
    h = events if isinstance(events, History) else history(events)
    so_far = max(0.0, now - h.started_at) if h.started_at is not None else 0.0
    if h.status == "complete":
        return Progress(1.0, "complete", None, 0.0, max(0.0, (h.last_at or now) - (h.started_at or now)))
    if h.started is None:
        return Progress(0.0, "starting", None, None, so_far)
    n_all = sum(h.started.images.values())
    epoch_work = max(1.0, _STEP_COST * h.started.images.get("train", 0) + h.started.images.get("validation", 0))
    phase = next((p for p in h.phases if p.phase == "fine tuning"), None)
    finetuning = [e for e in h.epochs if e.phase == "fine tuning"]
    expected = _expected_epochs(h, finetuning, config.phases[1])
    running = next((b for b in reversed(h.batches) if b.phase == "fine tuning"), None)
    within = running.batch / running.batches if running and running.epoch > len(finetuning) else 0.0
    costs = [epoch_work * _share_of_work(phase, number) for number in range(1, max(expected, len(finetuning) + 1) + 1)]
    # Every part of the run: its work, and how much of it is done.
    heads = h.started.trained_folds == 0
    parts = {
        DECODING: _READING_COST * n_all,
        FEATURES: float(n_all),
        "epochs": sum(costs[:expected]),
        PREDICTING: float(n_all),
        CORNERS: _CORNERS_COST * n_all if heads else 0.0,
        FOLDS: _HEADS_COST * n_all if heads else h.started.trained_folds * (2 * n_all + expected * epoch_work),
    }
    done = {name: work * _share_done(h, name, began=phase is not None) for name, work in parts.items()}
    done["epochs"] = min(parts["epochs"], sum(costs[: len(finetuning)]) + within * costs[len(finetuning)])
    if any(p.phase == "fine tuning" for p in h.phases_ended):
        done["epochs"] = parts["epochs"]
    fraction = min(0.99, sum(done.values()) / sum(parts.values()))
    left = _seconds_left(h, {name: parts[name] - done[name] for name in parts}, finetuning, costs)
    return Progress(fraction, _doing(h, finetuning, running), _images_per_second(h, now), left, so_far)


def _share_of_work(phase: PhaseStarted | None, epoch: int) -> float:
    return phase.first_half if phase and 2 * epoch <= phase.max_epochs else 1.0


def _expected_epochs(h: History, finetuning: list[EpochEnded], asked_for: Phase) -> int:
    if any(p.phase == "fine tuning" for p in h.phases_ended):
        return len(finetuning)
    best = max((e.epoch for e in finetuning if e.is_best), default=0)
    return min(asked_for.max_epochs, (best or _EXPECTED_EPOCHS_TO_BEST) + asked_for.patience)


def _share_done(h: History, name: str, *, began: bool) -> float:
    """How much of a stage is done; those before the phases are when the phases began, whatever a resumed log still tells of them."""
    if name in h.stages_ended or (began and name in (DECODING, FEATURES)):
        return 1.0
    if h.stage and h.stage.stage == name and h.stage.total:
        return h.stage.done / h.stage.total
    return 0.0


def _seconds_left(h: History, left: dict[str, float], finetuning: list[EpochEnded], costs: list[float]) -> float | None:
    """None until enough was measured."""
    work_seconds: float | None = None  # a forward pass of one picture
    pace = _batch_pace(h, len(finetuning) + 1)
    if pace is not None and h.started:
        work_seconds = pace * h.started.images.get("train", 0) / costs[len(finetuning)]
    elif finetuning:
        work_seconds = finetuning[-1].seconds / costs[len(finetuning) - 1]
    elif h.stage and h.stage.stage == FEATURES and (taken := _stage_seconds(h)) is not None:
        work_seconds = taken / h.stage.done
    elif (a_pass := _last_pass(h)) and h.started:
        work_seconds = a_pass.seconds / max(1, sum(h.started.images.values()))
    if work_seconds is None:
        return None
    seconds = {name: work * work_seconds for name, work in left.items()}
    if _features_were_kept(h, work_seconds):
        seconds[CORNERS] = 0.0  # they are kept beside the features
    if h.stage and h.stage.stage in seconds and (taken := _stage_seconds(h)) is not None:  # what is under way tells best
        seconds[h.stage.stage] = taken * (h.stage.total - h.stage.done) / h.stage.done
    return max(0.0, sum(seconds.values()))  # a clock may be set back


# Fewer steps, or less time, tell of warming up rather than of the pace: a first batch, or features that come from the cache.
_LEAST_SECONDS, _LEAST_BATCHES = 2.0, 3
_RECENT_SECONDS = 30.0


def _batch_pace(h: History, epoch: int) -> float | None:
    """Seconds a picture by the recent batches of this epoch of fine tuning; None while they are too few."""
    if not h.batches or (h.batches[-1].phase, h.batches[-1].epoch) != ("fine tuning", epoch):
        return None
    first = last = h.batches[-1]
    for batch in reversed(h.batches):
        if (batch.phase, batch.epoch) != (last.phase, last.epoch) or batch.at < last.at - _RECENT_SECONDS:
            break
        first = batch
    if last.batch - first.batch < _LEAST_BATCHES or last.at - first.at < _LEAST_SECONDS:
        return None
    return (last.at - first.at) / max(1, last.images - first.images)


def _stage_seconds(h: History) -> float | None:
    """How long the stage under way has taken for what it has done; None while that is too little."""
    if h.stage is None or h.stage_started is None or not h.stage.done or h.stage.at - h.stage_started.at < _LEAST_SECONDS:
        return None
    return h.stage.at - h.stage_started.at


def _last_pass(h: History) -> StageEnded | None:
    """The last pass over all pictures that tells how long one takes."""
    passes = [h.stages_ended[stage] for stage in (PREDICTING, FEATURES) if stage in h.stages_ended]
    return next((one for one in passes if one.seconds >= _LEAST_SECONDS), None)


def _features_were_kept(h: History, work_seconds: float) -> bool:
    """Whether they came from the cache: in far less time than a pass takes."""
    if FEATURES not in h.stages_ended or h.started is None:
        return False
    return h.stages_ended[FEATURES].seconds < _KEPT_SHARE * work_seconds * sum(h.started.images.values())


def seconds_again(h: History) -> float | None:
    """How long the same training would take once more, by this complete one's own times: without what is kept, decoded pictures and features.

    Waits between a stop and going on are not in it. None where the log does not tell.
    """
    if not {PREDICTING, FOLDS} <= h.stages_ended.keys():
        return None
    return sum(e.seconds for e in h.epochs) + sum(h.stages_ended[stage].seconds for stage in (PREDICTING, FOLDS))


def _images_per_second(h: History, now: float) -> float | None:
    if h.stage and h.stage_started and h.stage_started.unit == "images" and h.stage.done:
        seconds = max(h.stage.at, h.stage_started.at + 1e-3) - h.stage_started.at
        return h.stage.done / seconds
    recent = [b for b in h.batches[-1:] if now - b.at < 600]
    return recent[-1].images_per_second if recent else None


def _doing(h: History, finetuning: list[EpochEnded], running: BatchEnded | None) -> str:
    if h.stage:
        stage, unit = stage_in_words(h.stage.stage, h.stage_started.unit if h.stage_started else "images")
        return f"{stage}: {h.stage.done:,} of {h.stage.total:,} {unit}" if h.stage.total else f"{stage} ..."
    if running and running.epoch > len(finetuning):
        return f"fine tuning, epoch {running.epoch}: batch {running.batch} of {running.batches}"
    last = h.epochs[-1] if h.epochs else None
    return f"{last.phase}, epoch {last.epoch} done" if last else "starting"


def duration(seconds: float) -> str:
    """Seconds in words: 42 s, 3 min 10 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

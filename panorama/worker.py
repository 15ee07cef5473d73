"""`python -m panorama.worker RUN_DIR`: do a run from its folder alone: read, train, log, save, predict, rank, finish.

Started again on the same folder it goes on after the last finished epoch. The last event says how it ended. Under `torchrun` or
`accelerate launch` every process computes its share, and the first alone writes.
"""

import copy
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from panorama import checkpoint, hardware, heat, kernel, metrics, preprocessing, suspects
from panorama.config import TrainConfig
from panorama.crossval import OutOfFold, heads_judge, out_of_fold, trained_judge
from panorama.csvscan import counted
from panorama.datasets import DataSet, load, validation_part
from panorama.errors import PanoramaError
from panorama.events import (
    CORNERS,
    DECODING,
    FEATURES,
    FOLDS,
    PREDICTING,
    READING,
    BatchEnded,
    EpochEnded,
    Event,
    Note,
    PhaseEnded,
    Resumed,
    RunEnded,
    RunStarted,
    StageAdvanced,
    StageEnded,
    StageStarted,
)  # fmt: skip
from panorama.features import Pixels, cached, extract, fingerprint, tiles_pass, whole_pass
from panorama.files import write_atomically
from panorama.hardware import Precisions
from panorama.model import (
    STARTER_BACKBONE,
    Classifier,
    DownloadError,
    FeatureMap,
    build,
    calibrate_batchnorm,
    class_activation,
    feature_map,
    load_pretrained,
)
from panorama.processes import Team, join, leave
from panorama.reviewfiles import indexed
from panorama.runs import EventLog, Run, keep_weights, worker_lock, workspace, write_rows
from panorama.split import linked
from panorama.training import TrainingData, TrainingState, predict_logits, train

OnEvent = Callable[[Event], None]
OnProgress = Callable[[int, int], None]
_LOG_EVERY_SECONDS = 0.2
_CALIBRATION_IMAGES, _CALIBRATION_BATCH = 512, 64
_SUSPECTS_WITH_NEIGHBOURS = 2000


class _StopAskedError(Exception):
    """The stop file is there, or the process was told to end."""


def run(folder: Path, on_event: OnEvent = lambda event: None) -> Literal["complete", "stopped", "failed"]:
    """Does the run in `folder` and returns how it ended; the same is in its last event, with a message for people.

    Raises BusyError, before anything is written, when another training holds the workspace.
    """
    job = Run(folder.resolve())
    _ = job.config  # not a run folder: say so before anything is locked
    hardware.keep_memory()
    team = join()
    if not team.is_first:
        return _help(job, team)
    with worker_lock(job), _Log(job, team, on_event) as log:
        try:
            _work(job, log, team)
        except (_StopAskedError, KeyboardInterrupt):
            if team.count > 1 and not job.stop_is_asked():
                return log.end("failed", f"One of the {team.count} processes was ended from outside. Resume the run.")
            return log.end("stopped", "Stopped as asked. It can be resumed.")
        except PanoramaError as error:
            return log.end("failed", str(error))
        except (MemoryError, torch.OutOfMemoryError):
            return log.end("failed", "Not enough memory. Use a smaller batch (--batch-size) or smaller pictures (--image-size).")
        except Exception as error:
            if team.count > 1 and _is_of_a_lost_process(error):
                if job.stop_is_asked():
                    return log.end("stopped", "Stopped as asked. It can be resumed.")
                return log.end(
                    "failed",
                    f"One of the {team.count} processes ended in the middle of the work; worker.log may say why. Resume the run.",
                )
            with (job.folder / "worker.log").open("a", encoding="utf-8") as details:
                traceback.print_exc(file=details)
            return log.end(
                "failed",
                f"Something unexpected happened: {type(error).__name__}: {error}. worker.log in the run folder has the details.",
            )
        return log.end("complete", "")


def _help(job: Run, team: Team) -> Literal["complete", "stopped", "failed"]:
    """The work of a process that is not the first, which alone says how the run ended."""
    try:
        _work(job, _Log(job, team), team)
    except (_StopAskedError, KeyboardInterrupt):
        return "stopped"
    except PanoramaError as error:
        with (job.folder / "worker.log").open("a", encoding="utf-8") as details:
            print(f"Process {team.rank + 1} of {team.count}: {error}", file=details)
        print(error, file=sys.stderr)
        return "failed"
    except RuntimeError as error:
        if _is_of_a_lost_process(error):
            return "stopped" if job.stop_is_asked() else "failed"
        raise
    return "complete"


def _is_of_a_lost_process(error: Exception) -> bool:
    """Whether torch.distributed found that another process is gone; it has no type of its own for that with gloo."""
    return isinstance(error, RuntimeError) and any(
        word in str(error) for word in ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo")
    )


class _Log:
    """Appends events, tells the caller, and stops the run when it is asked to; in helping processes it only stops."""

    def __init__(self, job: Run, team: Team, on_event: OnEvent = lambda event: None) -> None:
        self._job, self._team, self._on_event = job, team, on_event
        self._file = EventLog(job) if team.is_first else None
        self._last_batch = 0.0

    def __enter__(self) -> "_Log":
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
            raise _StopAskedError

    def stop_together(self) -> None:
        """As `stop_if_asked`, at a moment that every process reaches."""
        if self._team.any(self._job.stop_is_asked()):
            raise _StopAskedError

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


def _work(job: Run, log: _Log, team: Team) -> None:
    config, cache = job.config, workspace() / "cache"
    if team.is_first:
        job.forget_earlier_stop()
    earlier = team.from_first(job.history().started)
    if not team.is_first:
        team.wait()  # for the first, which leaves in the cache what all need
    with log.stage(READING, 0) as advanced:
        data = load(
            job.source,
            workspace(),
            seed=config.seed,
            test_share=config.test_share,
            csv_folder=job.csv_folder,
            on_progress=advanced,
        )
    splits = _final_splits(job, data, config)
    where = hardware.device()
    model = build(config.backbone, len(data.labels), seed=config.seed)
    config, weights, instead = _load_weights(job, model, config, team)
    model.to(where).to(memory_format=torch.channels_last)
    _try_out(model, config)
    contents = [picture.sha256 for picture in data.pictures]
    side = preprocessing.stored_side(config.image_size)
    pixels = Pixels(data.paths, data.images, side, contents=contents, cache=cache)
    if team.is_first:
        precisions = _precisions(earlier, config, model, cache)
        counts = {split: int((splits == split).sum()) for split in ("train", "validation", "test")}
        trainings = config.folds * config.fold_repeats if config.trains_folds else 0
        device = hardware.describe(where) + (f", {team.count} processes" if team.count > 1 else "")
        names = [str(dtype).removeprefix("torch.") for dtype in (precisions.training, precisions.features)]
        log.append(RunStarted(time.time(), counts, len(data.labels), device, names[0], names[1], trainings))
        if data.n_left_out:
            log.append(Note(time.time(), f"{counted(data.n_left_out, 'image')} left out; the dataset page says why."))
        if instead:
            log.append(Note(time.time(), instead))
        log.append(Note(time.time(), f"{config.backbone} with {weights}."))
        with log.stage(DECODING, len(pixels)) as advanced:
            pixels.read(advanced)
        team.wait()
    else:
        pixels.read()
    precisions = team.from_first(precisions if team.is_first else None)
    train_at, validation_at = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "validation")
    _refuse_labels_that_never_vary(data, train_at)
    if config.weights == "none":
        _calibrate(model, pixels, train_at, config, where)
    fresh = copy.deepcopy(model)  # before any label is learned: what folds start from
    computing = _Computing(config, precisions, contents, cache, team, log)
    features = computing.features(model, pixels)

    card = checkpoint.ModelCard(config.backbone, data.labels, config.image_size, config.threshold, weights)
    state = _resume(job, model, log)
    if team.is_first and not job.has("before.csv"):
        with torch.no_grad():
            logits = model.head(torch.from_numpy(features).to(where)).float().cpu()
        write_probabilities(job.folder / "before.csv", data, splits, torch.sigmoid(logits).numpy())
    training_data = TrainingData(pixels, data.targets, train_at, validation_at, features[train_at], features[validation_at])
    team.wait()  # until every process has read the checkpoint that the first will write over
    for event in train(
        model, training_data, config, precisions=precisions, pretrained=config.weights != "none", state=state, team=team
    ):
        if isinstance(event, BatchEnded):
            log.append_batch(event)
        else:
            log.append(event)
        if isinstance(event, EpochEnded) and team.is_first:
            # The event first: a kill between the two repeats this epoch, and `Resumed` takes the first telling of it back.
            if event.is_best:
                checkpoint.save_model(job.folder, state.best_weights, card)
            checkpoint.save_checkpoint(job.folder, model, state)
        elif isinstance(event, PhaseEnded) and event.best_epoch is None:
            raise PanoramaError("No epoch was trained; give at least one phase an epoch.")
        log.stop_together()
    _finish(job, log, model, fresh, pixels, data, splits, features, computing)


def _load_weights(job: Run, model: Classifier, config: TrainConfig, team: Team) -> tuple[TrainConfig, str, str]:
    """The config with the weights that were loaded, what they are, and, where they are not those asked for, why: both in words.

    ImageNet weights that cannot be downloaded do not end a run of a backbone that starter weights ship for.
    """
    weights = instead = ""
    if team.is_first:
        try:
            weights = load_pretrained(model, config.backbone, config.weights)
        except DownloadError as error:
            if config.backbone != STARTER_BACKBONE:
                raise
            reason = str(error).split(". Go on without")[0]
            instead = (
                f"{reason}. So this run starts from the starter weights that come with panorama: pictures that it draws taught them, "
                "and they are worth less than ImageNet's (docs/starter.md). With a network, start a new run."
            )
        if instead:
            config = keep_weights(job, "starter")
    else:  # the first, for which the others have waited, has written down what it went on with
        config = Run(job.folder).config
    if not weights:
        weights = load_pretrained(model, config.backbone, config.weights)
    return config, weights, instead


def _final_splits(job: Run, data: DataSet, config: TrainConfig) -> npt.NDArray[np.str_]:
    """train, validation or test for each image; written once, so that a resumed run keeps them."""
    if job.has("split.csv"):
        images, written, _ = job.images()
        if images == list(data.images):
            return np.array(written)
        raise PanoramaError(
            "The pictures of this run's data set have changed since it started (some are missing, new or damaged). Start a new run."
        )
    splits = np.array(data.splits, dtype="<U10")
    splits[validation_part(data, config.validation_share, config.seed)] = "validation"
    root = data.source.root
    write_rows(
        job.folder / "split.csv",
        ["image", "split", "path"],
        [
            (image, split, path.relative_to(root).as_posix())
            for image, split, path in zip(data.images, splits, data.paths, strict=True)
        ],
    )
    return splits


def _refuse_labels_that_never_vary(data: DataSet, train_at: npt.NDArray[np.int64]) -> None:
    positives = data.targets[train_at].sum(0)
    if not ((positives > 0) & (positives < len(train_at))).any():
        raise PanoramaError(
            "No label is there in some training pictures and not in others, so there is nothing to learn. "
            "Add pictures, or check that the CSV's label columns were read as meant."
        )


@torch.no_grad()
def _try_out(model: Classifier, config: TrainConfig) -> None:
    """One forward pass before the long work: some backbones take pictures of one size only."""
    model.eval()
    try:
        model(torch.zeros(1, 3, config.image_size, config.image_size, device=model.head.weight.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise PanoramaError(
            f"{config.backbone} does not take pictures of {config.image_size} x {config.image_size} pixels ({error}). "
            "Use --image-size 224, or another backbone."
        ) from error


def _precisions(earlier: RunStarted | None, config: TrainConfig, model: Classifier, cache: Path) -> Precisions:
    """A resumed run computes as it began."""
    if earlier is None:
        return hardware.precisions(config, model, cache)
    names = (earlier.precision, earlier.feature_precision or earlier.precision)
    began = (torch.bfloat16 if name == "bfloat16" else torch.float32 for name in names)
    return Precisions(*began)


def _calibrate(
    model: Classifier, pixels: Pixels, train_at: npt.NDArray[np.int64], config: TrainConfig, where: torch.device
) -> None:
    chosen = np.random.default_rng(config.seed).permutation(train_at)[:_CALIBRATION_IMAGES]
    batches = (
        preprocessing.for_evaluation(pixels.batch(part), config.image_size).to(where)
        for part in np.array_split(chosen, max(1, len(chosen) // _CALIBRATION_BATCH))
    )
    calibrate_batchnorm(model, batches)


@dataclass(frozen=True)
class _Computing:
    """What the feature passes of a run have in common."""

    config: TrainConfig
    precisions: Precisions
    contents: list[str]
    cache: Path
    team: Team
    log: _Log

    def features(self, model: Classifier, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Features of every image as a whole: for adaptation, for the predictions before training, and for the folds."""
        run = whole_pass(model, pixels, image_size=self.config.image_size, dtype=self.precisions.features)
        with self.log.stage(FEATURES, len(pixels)) as advanced:
            return cached(
                run, self.contents, model.head.in_features, ["whole", *self._key(model)], self.cache, advanced, self.team
            )

    def views(self, fresh: Classifier, whole: npt.NDArray[np.float32], data: DataSet) -> npt.NDArray[np.float32]:
        """What heads judge folds by, and what finds look-alikes: the whole picture beside its four corners."""
        side = self.config.image_size
        large = Pixels(data.paths, data.images, preprocessing.tiled_side(side), contents=self.contents)
        run = tiles_pass(fresh, large, image_size=side, dtype=self.precisions.features)
        with self.log.stage(CORNERS, len(large)) as advanced:
            key = ["corners", preprocessing.TILE_SHARE, *self._key(fresh)]
            tiles = cached(run, self.contents, 2 * fresh.head.in_features, key, self.cache, advanced, self.team)
        return kernel.joined(whole, *np.split(tiles, 2, axis=1))

    def _key(self, model: Classifier) -> list[object]:
        where = hardware.device()
        device = hardware.describe(where) if where.type == "cuda" else "CPU"
        return [fingerprint(model), self.config.image_size, str(self.precisions.features), device]


def _resume(job: Run, model: Classifier, log: _Log) -> TrainingState:
    found = checkpoint.load_checkpoint(job.folder, model)
    if found is None:
        if any(isinstance(event, EpochEnded | BatchEnded) for event in job.events()):
            log.append(Resumed(time.time(), "adaptation", 0))
        return TrainingState()
    state, problem = found
    if problem:
        log.append(Note(time.time(), problem))
    state.best_weights = {name: value.to(model.head.weight.device) for name, value in checkpoint.best_weights(job.folder).items()}
    log.append(Resumed(time.time(), state.phase, state.epoch))
    return state


def _finish(
    job: Run, log: _Log, model: Classifier, fresh: Classifier, pixels: Pixels, data: DataSet, splits: npt.NDArray[np.str_],
    features: npt.NDArray[np.float32], computing: _Computing,
) -> None:  # fmt: skip
    config, precisions, team = computing.config, computing.precisions, computing.team
    everything = np.arange(len(pixels))
    probabilities = torch.sigmoid(_predicted(job, log, model, pixels, config, team)).numpy()
    if team.is_first:
        write_probabilities(job.folder / "predictions.csv", data, splits, probabilities)
    seen = kernel.joined(features) if config.trains_folds else computing.views(fresh, features, data)
    if not team.is_first:
        return
    # Random features say nothing of what is alike; there the pixels' hashes must do.
    groups = data.groups if config.weights == "none" else linked(data.groups, *kernel.look_alikes(seen))
    with log.stage(FOLDS, config.folds * config.fold_repeats, "folds") as advanced:
        judge = (
            trained_judge(
                lambda: copy.deepcopy(fresh), pixels, data.targets, config,
                precisions=precisions, groups=groups, on_event=log.stop_if_asked,
            )
            if config.trains_folds
            else heads_judge(seen, data.targets)
        )  # fmt: skip
        folds = out_of_fold(
            judge, data.targets, folds=config.folds, repeats=config.fold_repeats, seed=config.seed, groups=groups,
            on_progress=advanced,
        )  # fmt: skip
    write_probabilities(job.folder / "out_of_fold.csv", data, splits, folds.probabilities)
    found = suspects.doubts(data.targets, folds.scores, folds.in_context, groups)
    ranked = suspects.rank(
        data.images, splits.tolist(), data.labels, data.targets, folds.probabilities, folds.in_context.clip(0, 1), folds.spread, found
    )  # fmt: skip
    write_suspects(job.folder / "suspects.csv", ranked)
    if config.weights == "none":  # random features say little of what is alike; the trained ones do
        run = whole_pass(model, pixels, image_size=config.image_size, dtype=precisions.features)
        seen = kernel.joined(extract(run, everything, model.head.in_features))
    write_neighbours(job.folder / "neighbours.csv", data, groups, found, seen)
    indexed(job, list(data.images), list(data.labels))  # now, so that the first look at a large run need not wait for it
    values = measured(job, data, splits, probabilities, folds, config)
    write_atomically(job.folder / "metrics.json", json.dumps(values, indent=1, allow_nan=False).encode())
    for file in job.folder.glob("checkpoint*.safetensors"):  # only a run that did not finish resumes
        file.unlink()


def _predicted(job: Run, log: _Log, model: Classifier, pixels: Pixels, config: TrainConfig, team: Team) -> torch.Tensor:
    """The final model's logits (n_images, n_labels); where they come from in each picture is written on the way, where that can be."""
    everything = np.arange(len(pixels))
    place = _place_to_write(log, model, len(pixels), config, team)
    with log.stage(PREDICTING, len(pixels)) as advanced:
        if place is None:
            return predict_logits(model, pixels, everything, config.image_size, advanced, team)
        with heat.writing(job, (len(pixels), model.head.out_features, place.height, place.width)) as write:

            def forward(network: Classifier, x: torch.Tensor) -> torch.Tensor:
                logits, places = class_activation(network, place, x)
                write((255 * torch.sigmoid(places)).round().to(torch.uint8).cpu().numpy())
                return logits

            return predict_logits(model, pixels, everything, config.image_size, advanced, forward=forward)


def _place_to_write(log: _Log, model: Classifier, n_images: int, config: TrainConfig, team: Team) -> FeatureMap | None:
    place = feature_map(model, config.image_size)
    if place is None:
        return None
    size = n_images * model.head.out_features * place.height * place.width
    if size > heat.MOST_BYTES:
        why = f"they would take {size / 2**30:.1f} GiB, more than {heat.MOST_BYTES / 2**30:g}"
    elif team.count > 1:
        why = "they are written by trainings in one process only"
    else:
        return place
    log.append(Note(time.time(), f"No maps of where a label is seen are kept: {why}."))
    return None


def write_suspects(path: Path, ranked: Iterable[suspects.Suspect]) -> None:
    """suspects.csv: every cell of every image, most doubtful first."""
    write_rows(
        path,
        ["image", "split", "label", "given", "probability", "in_context", "spread", "doubt", "kind", "reason", "rank"],
        (
            (s.image, s.split, s.label, s.given, f"{s.probability:.6g}", f"{s.in_context:.6g}", f"{s.spread:.3g}",
             f"{s.doubt:.6g}", s.kind, s.reason, s.rank)
            for s in ranked
        ),
    )  # fmt: skip


def write_neighbours(
    path: Path,
    data: DataSet,
    groups: npt.NDArray[np.int64],
    found: suspects.Doubts,
    features: npt.NDArray[np.float32],
) -> None:
    """neighbours.csv: for the images of the first suspects, the five most similar images, near-duplicates marked."""
    first = suspects.order(found.values)[:_SUSPECTS_WITH_NEIGHBOURS] // max(1, found.values.shape[1])
    rows = np.array(list(dict.fromkeys(first.tolist())), np.int64)
    near, likeness = kernel.neighbours(features, rows)
    write_rows(
        path,
        ["image", "neighbour", "similarity", "near_duplicate"],
        (
            (data.images[row], data.images[other], f"{value:.4f}", int(groups[row] == groups[other]))
            for row, others, values in zip(rows.tolist(), near.tolist(), likeness.tolist(), strict=True)
            for other, value in zip(others, values, strict=True)
        ),
    )


def write_probabilities(path: Path, data: DataSet, splits: npt.NDArray[np.str_], values: npt.NDArray[np.float32]) -> None:
    """before.csv, predictions.csv or out_of_fold.csv: a probability a label of every image. Raises PanoramaError for NaN."""
    if not np.isfinite(values).all():
        raise PanoramaError(
            "The model's probabilities are not finite numbers. Use a lower learning rate, or --precision float32."
        )
    rows = (
        [image, split, *(f"{value:.6g}" for value in row)]
        for image, split, row in zip(data.images, splits, values.tolist(), strict=True)
    )
    write_rows(path, ["image", "split", *data.labels], rows)


def measured(
    job: Run,
    data: DataSet,
    splits: npt.NDArray[np.str_],
    probabilities: npt.NDArray[np.float32],
    folds: OutOfFold,
    config: TrainConfig,
) -> dict[str, Any]:
    """metrics.json: the test split first; every figure with the images it was measured on."""
    before = job.probabilities("before.csv")
    h = job.history()
    validation = splits == "validation"

    def on(split: str, values: npt.NDArray[np.float32]) -> dict[str, Any]:
        chosen = splits == split
        return metrics.measure(data.labels, data.targets[chosen], values[chosen], config.threshold)

    return {
        "test": on("test", probabilities),
        "validation": on("validation", probabilities),
        "train": on("train", probabilities),
        "before_training": {"test": on("test", before[1])} if before else {},
        "out_of_fold": metrics.measure(data.labels, data.targets, folds.probabilities, config.threshold),
        "thresholds_from_validation": {
            label: metrics.best_threshold(data.targets[validation, k], probabilities[validation, k])
            for k, label in enumerate(data.labels)
        },
        "best": {"phase": h.best.phase, "epoch": h.best.epoch, "validation_loss": h.best.validation_loss} if h.best else None,
        "how": {
            "test": "best model by validation loss, on the test split, which decided nothing",
            "validation": "the same model on the validation part, which decided early stopping, the best epoch and thresholds",
            "train": "the same model on pictures it was trained on: not evidence",
            "out_of_fold": (
                f"{config.fold_repeats} x {config.folds} "
                + (
                    "models trained through both phases"
                    if config.trains_folds
                    else "kernel heads on features of the pretrained extractor, of the whole picture and of its four corners"
                )
                + ", each judging only images that neither it nor a near-duplicate taught it"
            ),
        },
    }


def main(arguments: list[str]) -> int:
    """0 when the run completed or was stopped as asked, 1 when it failed, 2 on bad usage."""
    if len(arguments) != 1:
        print("usage: python -m panorama.worker RUN_DIR", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = run(Path(arguments[0]))
    except PanoramaError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        leave()
    return 1 if status == "failed" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

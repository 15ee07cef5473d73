"""`python -m panorama.worker RUN_DIR`: do a run from its folder alone: read, train, log, save, predict, rank, finish.

Started again on the same folder it goes on after the last finished epoch. The last event says how it ended. Under `torchrun` or
`accelerate launch` every process computes its share, and the first alone writes.
"""

import gc

if __name__ == "__main__":
    gc.disable()  # until everything is imported (`quick.imports`)

import copy
import json
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from panorama import checkpoint, hardware, heat, kernel, preprocessing, quick, suspects
from panorama.config import TrainConfig
from panorama.crossval import heads_judge, out_of_fold, trained_judge
from panorama.csvscan import counted
from panorama.datasets import DataSet, load
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
    Note,
    PhaseEnded,
    Resumed,
    RunStarted,
)
from panorama.features import Pixels, cached, corners_pass, extract, fingerprint, whole_pass
from panorama.files import forget_unfinished, write_atomically
from panorama.hardware import Precisions
from panorama.model import Classifier, FeatureMap, build, class_activation, early_maps, feature_map
from panorama.outcome import measured, write_neighbours, write_probabilities, write_suspects
from panorama.preparing import (
    calibrate,
    choose_precisions,
    final_splits,
    load_weights,
    refuse_features_that_are_no_numbers,
    refuse_labels_that_never_vary,
    refuse_other_weights,
    said_of_precision,
    try_out,
)
from panorama.processes import Team, join, leave
from panorama.reviewfiles import indexed
from panorama.runlog import OnEvent, RunLog, StopAskedError
from panorama.runs import Run, keep_batch_size, worker_lock, workspace
from panorama.split import linked
from panorama.training import TrainingData, TrainingState, predict_logits, train

_LEAST_BATCH = 8  # pictures; a smaller one would learn from too little at a time


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
    with worker_lock(job), RunLog(job, team, on_event) as log:
        try:
            forget_unfinished(job.folder)
            _work_with_what_memory_there_is(job, log, team)
        except (StopAskedError, KeyboardInterrupt):
            if team.count > 1 and not job.stop_is_asked():
                return log.end("failed", f"One of the {team.count} processes was ended from outside. Resume the run.")
            return log.end("stopped", "Stopped as asked. It can be resumed.")
        except PanoramaError as error:
            return log.end("failed", str(error))
        except Exception as error:
            if hardware.is_out_of_memory(error):
                return log.end(
                    "failed", "Not enough memory. Use a smaller batch (--batch-size) or smaller pictures (--image-size)."
                )
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


def _work_with_what_memory_there_is(job: Run, log: RunLog, team: Team) -> None:
    """As `_work`; each time the memory of a GPU does not do, on from the last finished epoch with half the batch, and at last on the CPU."""
    while True:
        try:
            return _work(job, log, team)
        except torch.OutOfMemoryError:
            if team.count > 1 or not _is_on_gpu():  # the others of a team wait for this one, and cannot start over
                raise
        gc.collect()  # the frames that the error held are gone, and their tensors with them
        torch.cuda.empty_cache()
        log.append(Note(time.time(), _with_less(job)))
        job = Run(job.folder)


def _is_on_gpu() -> bool:
    return hardware.device().type == "cuda"


def _with_less(job: Run) -> str:
    """Makes do with less memory, and says how."""
    size = job.config.batch_size
    if size >= 2 * _LEAST_BATCH:
        keep_batch_size(job, size // 2)
        hardware.halve_passes()
        return f"The GPU's memory does not do for batches of {size} pictures: on with batches of {size // 2} from the last finished epoch."
    hardware.use_cpu()
    return f"The GPU's memory does not even do for batches of {size} pictures: on with the CPU, which takes longer, from the last finished epoch."


def _help(job: Run, team: Team) -> Literal["complete", "stopped", "failed"]:
    """The work of a process that is not the first, which alone says how the run ended."""
    try:
        _work(job, RunLog(job, team), team)
    except (StopAskedError, KeyboardInterrupt):
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


def _work(job: Run, log: RunLog, team: Team) -> None:
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
    splits = final_splits(job, data, config)
    where = hardware.device()
    model = build(config.backbone, len(data.labels), seed=config.seed)
    config, weights, instead = load_weights(job, model, config, team)
    origin = fingerprint(model)
    refuse_other_weights(job, config, weights, origin)
    model.to(where).to(memory_format=torch.channels_last)
    try_out(model, config)
    contents = [picture.sha256 for picture in data.pictures]
    side = preprocessing.stored_side(config.image_size)
    pixels = Pixels(data.paths, data.images, side, contents=contents, cache=cache)
    if team.is_first:
        precisions = choose_precisions(earlier, config, model, cache)
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
        if earlier is None and (slow := said_of_precision(config, model)):
            log.append(Note(time.time(), slow))
        with log.stage(DECODING, len(pixels)) as advanced:
            pixels.read(advanced)
        team.wait()
    else:
        pixels.read()
    precisions = team.from_first(precisions if team.is_first else None)
    train_at, validation_at = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "validation")
    refuse_labels_that_never_vary(data, train_at)
    if config.weights == "none":
        calibrate(model, pixels, train_at, config, where)
    fresh = copy.deepcopy(model)  # before any label is learned: what folds start from
    computing = _Computing(config, precisions, contents, cache, team, log)
    features, early = computing.features(model, pixels, data.images)

    card = checkpoint.ModelCard(config.backbone, data.labels, config.image_size, config.threshold, weights)
    state = _resume(job, model, log, card, origin, team)
    if team.is_first and not (job.has("before.csv") and checkpoint.exists(job.folder)):  # until then it may be of other weights
        with torch.no_grad():
            logits = model.head(torch.from_numpy(features).to(where)).float().cpu()
        write_probabilities(job.folder / "before.csv", data, splits, torch.sigmoid(logits).numpy())
    training_data = TrainingData(pixels, data.targets, train_at, validation_at, features[train_at], features[validation_at])
    team.wait()  # until every process has read the checkpoint that the first will write over
    keep = checkpoint.Keeper(job.folder, model, state, card)
    try:
        for event in train(
            model, training_data, config, precisions=precisions, pretrained=config.weights != "none", state=state, team=team
        ):
            if isinstance(event, BatchEnded):
                log.append_batch(event)
            else:
                log.append(event)
            # Told first, then kept: a kill between the two repeats the epoch, and `Resumed` takes back what was told of it.
            if team.is_first:
                keep(event)
            if isinstance(event, PhaseEnded) and event.best_epoch is None:
                raise PanoramaError("No epoch was trained; give at least one phase an epoch.")
            log.stop_together()
    except (Exception, KeyboardInterrupt):
        if team.is_first:
            with suppress(OSError):  # a full disk must not hide why the training is left; what resumes does not need the file
                keep.leave()
        raise
    _finish(job, log, model, fresh, pixels, data, splits, features, early, computing)


@dataclass(frozen=True)
class _Computing:
    """What the feature passes of a run have in common."""

    config: TrainConfig
    precisions: Precisions
    contents: list[str]
    cache: Path
    team: Team
    log: RunLog

    def features(
        self, model: Classifier, pixels: Pixels, images: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Features of every image as a whole: for adaptation, for the predictions before training, and for the folds.

        And what early layers see of it, for the heads of folds, where there are any (`kernel.joined_early`).
        """
        side, width = self.config.image_size, model.head.in_features
        maps = [] if self.config.trains_folds else early_maps(model, side)
        run = whole_pass(model, pixels, image_size=side, dtype=self.precisions.features, early=maps)
        ends = np.cumsum([width, *(4 * place.width for place in maps)])
        with self.log.stage(FEATURES, len(pixels)) as advanced:
            key = ["whole and early", *(place.module for place in maps), *self._key(model)]
            rows = cached(run, self.contents, int(ends[-1]), key, self.cache, advanced, self.team)
        refuse_features_that_are_no_numbers(rows, images)
        features, *early = np.split(rows, ends[:-1], axis=1)
        return features.copy(), kernel.joined_early(early)  # a copy: the rows of both need not stay

    def views(self, fresh: Classifier, whole: npt.NDArray[np.float32], data: DataSet) -> npt.NDArray[np.float32]:
        """What heads judge folds by, and what finds look-alikes: the whole picture beside its four corners."""
        side = self.config.image_size
        large = Pixels(data.paths, data.images, preprocessing.tiled_side(side), contents=self.contents)
        run = corners_pass(fresh, large, image_size=side, dtype=self.precisions.features)
        with self.log.stage(CORNERS, len(large)) as advanced:
            key = ["corners, one pass", preprocessing.TILE_SHARE, *self._key(fresh)]
            corners = cached(run, self.contents, 2 * fresh.head.in_features, key, self.cache, advanced, self.team)
        refuse_features_that_are_no_numbers(corners, data.images)
        return kernel.joined(whole, *np.split(corners, 2, axis=1))

    def _key(self, model: Classifier) -> list[object]:
        where = hardware.device()
        device = hardware.describe(where) if where.type == "cuda" else "CPU"
        return [fingerprint(model), self.config.image_size, str(self.precisions.features), device]


def _resume(job: Run, model: Classifier, log: RunLog, card: checkpoint.ModelCard, origin: str, team: Team) -> TrainingState:
    found = checkpoint.load_checkpoint(job.folder, model)
    if found is None:
        if any(isinstance(event, EpochEnded | BatchEnded) for event in job.events()):
            log.append(Resumed(time.time(), "adaptation", 0))
        return TrainingState(origin=origin)
    state, problem = found
    state.origin = origin
    if problem:
        log.append(Note(time.time(), problem))
    if not state.best_weights and (state.best_phase, state.best_epoch) == (state.phase, state.epoch):
        state.best_weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if state.best_weights:
        if team.is_first:
            checkpoint.save_model(job.folder, state.best_weights, card)
    else:
        found_best = checkpoint.best_weights(job.folder)
        state.best_weights = {name: value.to(model.head.weight.device) for name, value in found_best.items()}
    log.append(Resumed(time.time(), state.phase, state.epoch))
    return state


def _finish(
    job: Run, log: RunLog, model: Classifier, fresh: Classifier, pixels: Pixels, data: DataSet, splits: npt.NDArray[np.str_],
    features: npt.NDArray[np.float32], early: npt.NDArray[np.float32] | None, computing: _Computing,
) -> None:  # fmt: skip
    config, precisions, team = computing.config, computing.precisions, computing.team
    everything = np.arange(len(pixels))
    probabilities = torch.sigmoid(_predicted(job, log, model, pixels, config, team)).numpy()
    if team.is_first:
        write_probabilities(job.folder / "predictions.csv", data, splits, probabilities)
    seen = kernel.joined(features) if config.trains_folds else computing.views(fresh, features, data)
    if not team.is_first:
        return
    hardware.give_back_memory()
    # Random features say nothing of what is alike; there the pixels' hashes must do.
    groups = data.groups if config.weights == "none" else linked(data.groups, *kernel.look_alikes(seen))
    with log.stage(FOLDS, config.folds * config.fold_repeats, "folds") as advanced:
        judge = (
            trained_judge(
                lambda: copy.deepcopy(fresh), pixels, data.targets, config,
                precisions=precisions, groups=groups, on_event=log.stop_if_asked,
            )
            if config.trains_folds
            else heads_judge(kernel.Likeness(seen, early), data.targets)
        )  # fmt: skip
        folds = out_of_fold(
            judge, data.targets, folds=config.folds, repeats=config.fold_repeats, seed=config.seed, groups=groups,
            on_progress=advanced,
        )  # fmt: skip
    write_probabilities(job.folder / "out_of_fold.csv", data, splits, folds.probabilities)
    copies = np.unique(computing.contents, return_inverse=True)[1]
    found = suspects.doubts(data.targets, folds.scores, folds.in_context, data.groups, copies)
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


def _predicted(job: Run, log: RunLog, model: Classifier, pixels: Pixels, config: TrainConfig, team: Team) -> torch.Tensor:
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


def _place_to_write(log: RunLog, model: Classifier, n_images: int, config: TrainConfig, team: Team) -> FeatureMap | None:
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


def main(arguments: list[str]) -> int:
    """0 when the run completed or was stopped as asked, 1 when it failed, 2 on bad usage."""
    if len(arguments) != 1:
        print("usage: python -m panorama.worker RUN_DIR", file=sys.stderr)
        return 2
    gc.enable()
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
    quick.leave(main(sys.argv[1:]))

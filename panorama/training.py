"""The two-phase training loop: `train(...)` yields events, and while one is handled the model is exactly as it says.

Adaptation trains the head on cached features of the frozen extractor (so an epoch takes milliseconds); fine tuning trains
the unfrozen layers on freshly augmented pictures at a lower learning rate. The validation loss decides early
stopping and which model is kept. The early-stop counter starts again with fine tuning; the best does not: fine tuning starts
from the best adapted model and must beat it to replace it. A schedule that was meant to end in its last epoch need not beat it beyond
chance: its last epoch replaces the adapted model unless it is worse by more than one standard error (`is_within_chance`).

Every source of chance is seeded by (seed, phase, epoch), so a run resumed from its last epoch ends as if never interrupted.
In several processes each takes its share of every batch; the batch size is that of all together, so the steps are the same but for
dropout and rounding.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from panorama import preprocessing
from panorama.config import Phase, PhaseName, TrainConfig
from panorama.errors import PanoramaError
from panorama.events import BatchEnded, EpochEnded, Event, PhaseEnded, PhaseStarted
from panorama.features import Features, OnProgress, Pixels, in_batches
from panorama.folding import folded, for_inference
from panorama.hardware import Precisions, batch_size, moved
from panorama.metrics import mean_average_precision
from panorama.model import Classifier, load_weights, on_cpu, prepare_phase
from panorama.processes import ALONE, Team
from panorama.steps import Gradients

# The learning rate rises over this share of a phase's steps before it falls along a cosine to nothing.
_WARM_UP = 0.15
# With the cosine schedule the first half of the epochs sees smaller pictures, a third of the pixels in little more than a third of the time
# (progressive resizing, Howard 2018); none below a side at which there is little left to see.
_SMALLER, _LEAST_SIDE = 4 / 7, 128
_LATE_WORK = 0.8  # what a step takes of the same one before, when fine tuning leaves more blocks as they are: MobileNetV2's; for the time left


@dataclass(frozen=True)
class TrainingData:
    """What `train` sees. Indices point into `pixels` and `targets`; the test split is not among them.

    features: of the training images in plain view, (n_train, width), for adaptation. validation_features: (n_validation, width).
    """

    pixels: Pixels
    targets: npt.NDArray[np.int8]
    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    features: Features
    validation_features: Features


@dataclass
class TrainingState:
    """Where training stands: all that a checkpoint needs beside the model. `epoch` counts the finished epochs of `phase`.

    origin: fingerprint of the extractor it began with, which adaptation leaves as it is; "" where nobody said.
    """

    phase: PhaseName = "adaptation"
    epoch: int = 0
    without_improvement: int = 0
    best_loss: float | None = None
    best_phase: PhaseName | None = None
    best_epoch: int | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    origin: str = ""
    optimizer: torch.optim.AdamW | None = None
    optimizer_state: dict[int, Any] | None = None  # of a checkpoint, until the optimizer is made


def train(
    model: Classifier,
    data: TrainingData,
    config: TrainConfig,
    *,
    precisions: Precisions,
    pretrained: bool,
    state: TrainingState | None = None,
    team: Team = ALONE,
    clock: Callable[[], float] = time.time,
) -> Iterator[Event]:
    """Trains `model` in place through both phases and leaves the best weights in it. Closing the iterator stops it.

    state: updated in place; given from a checkpoint, training goes on after the epoch it names.
    Raises PanoramaError when the loss is not finite.
    """
    state = state if state is not None else TrainingState()
    for phase in config.phases:
        if phase.name == "adaptation" and state.phase == "fine tuning":
            continue
        if state.phase != phase.name:
            _enter_fine_tuning(model, state)
        yield from _run_phase(model, data, config, phase, state, precisions, pretrained, team, clock)
    load_weights(model, state.best_weights)
    model.eval()


def _enter_fine_tuning(model: Classifier, state: TrainingState) -> None:
    if state.best_weights:
        load_weights(model, state.best_weights)
    state.phase, state.epoch, state.without_improvement = "fine tuning", 0, 0
    state.optimizer = state.optimizer_state = None


def _run_phase(
    model: Classifier,
    data: TrainingData,
    config: TrainConfig,
    phase: Phase,
    state: TrainingState,
    precisions: Precisions,
    pretrained: bool,
    team: Team,
    clock: Callable[[], float],
) -> Iterator[Event]:
    small = _small_side(model, phase, config.image_size)
    prepare = partial(prepare_phase, model, phase.name, unfreeze=config.unfreezes, pretrained=pretrained)
    prepare()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = model.head.weight.device.type == "cuda"  # few kernels to start
    state.optimizer = torch.optim.AdamW(trainable, lr=phase.learning_rate, weight_decay=config.weight_decay, fused=fused)
    if state.optimizer_state is not None:
        state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": state.optimizer_state})
        as_laid_out(state.optimizer)
        state.optimizer_state = None
    gradients, was_late = _gradients(model, phase.name, precisions, team), False
    lengths = [len(part) for part in np.split(data.train, _cuts(len(data.train), config.batch_size, team.count))]
    n_batches = len(lengths)
    yield PhaseStarted(
        clock(), phase.name, phase.max_epochs, phase.learning_rate, phase.patience, sum(p.numel() for p in trainable),
        (small / config.image_size) ** 2 / (_LATE_WORK if config.unfreezes == "auto" and _is_late(phase, phase.max_epochs) else 1.0),
    )  # fmt: skip
    while state.epoch < phase.max_epochs and state.without_improvement < phase.patience:
        epoch, started = state.epoch + 1, clock()
        late = _is_late(phase, epoch)
        prepare(late=late)  # evaluation left eval mode, too
        if late != was_late:  # what has settled is computed as what never learned
            gradients, was_late = _gradients(model, phase.name, precisions, team), late
        losses: list[float] = []
        seen = 0
        torch.manual_seed(_seed(config.seed, phase.name, epoch) + team.rank)  # dropout
        side = small if 2 * epoch <= phase.max_epochs else config.image_size
        batches = _batches(data, config, phase.name, epoch, side, model.head.weight.device, team)
        batch, number = next(batches, None), 0
        while batch is not None:
            number += 1
            step = state.epoch * n_batches + number
            for group in state.optimizer.param_groups:
                group["lr"] = phase.learning_rate * _factor(phase, step, phase.max_epochs * n_batches)
            weight, computed = batch[2], gradients(*batch)
            state.optimizer.step()
            batch = next(batches, None)  # made while a GPU still computes
            loss = team.mean(weight * float(computed))
            if not np.isfinite(loss):
                raise PanoramaError(
                    f"{phase.name.capitalize()}, epoch {epoch}, batch {number}: the loss is not a finite number. "
                    f"Use a lower learning rate than {phase.learning_rate:g}, or --precision float32."
                )
            losses.append(loss * lengths[number - 1])
            seen += lengths[number - 1]
            rate = seen / max(clock() - started, 1e-6)
            yield BatchEnded(clock(), phase.name, epoch, number, n_batches, loss, seen, rate)
        training_seconds = max(clock() - started, 1e-6)
        team.align(model)
        probabilities, validation_loss = _validate(model, data, config, phase.name, team)
        validation_loss = team.from_first(validation_loss)  # every process must decide the same
        improved = state.best_loss is None or validation_loss < state.best_loss
        if not improved and state.best_phase == "adaptation" and phase.schedule == "cosine" and epoch == phase.max_epochs:
            adapted = _adapted(state.best_weights, data.validation_features)
            improved = team.from_first(is_within_chance(data.targets[data.validation], probabilities, adapted))
        state.epoch = epoch
        state.without_improvement = 0 if improved else state.without_improvement + 1
        if improved:
            state.best_loss, state.best_phase, state.best_epoch = validation_loss, phase.name, epoch
            state.best_weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        yield EpochEnded(
            clock(), phase.name, epoch, sum(losses) / seen, validation_loss,
            mean_average_precision(data.targets[data.validation], probabilities), improved, state.without_improvement,
            phase.patience, clock() - started, seen / training_seconds,
        )  # fmt: skip
    if phase.max_epochs > 0:
        reason: Literal["patience", "epochs"] = "patience" if state.without_improvement >= phase.patience else "epochs"
        yield PhaseEnded(clock(), phase.name, reason, state.best_phase, state.best_epoch, state.best_loss)


def as_laid_out(optimizer: torch.optim.Optimizer) -> None:
    """Gives what the optimizer keeps of each parameter that parameter's order of memory, which a checkpoint does not keep; a fused one refuses another."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter).copy_(value)


def _gradients(model: Classifier, phase: PhaseName, precisions: Precisions, team: Team) -> Gradients:
    """What computes a step: of the head on features in adaptation, of the network on pictures in fine tuning."""
    if phase == "adaptation":
        return Gradients(model.head)  # milliseconds: every process does all of it
    return Gradients(model, precisions.training, distributed=team.count > 1)


@torch.no_grad()
def _small_side(model: Classifier, phase: Phase, image_size: int) -> int:
    """The side of the pictures in the first half of the epochs; the whole one where the backbone takes no other."""
    small = min(image_size, max(_LEAST_SIDE, round(image_size * _SMALLER)))
    if phase.schedule != "cosine" or small == image_size:
        return image_size
    try:
        on_cpu(model).eval()(torch.zeros(1, 3, small, small))
    except (RuntimeError, AssertionError, ValueError):
        return image_size
    return small


def _is_late(phase: Phase, epoch: int) -> bool:
    """Whether fine tuning leaves the blocks that have settled: in the second half of a schedule that is known to end, after an epoch that trained them."""
    return phase.schedule == "cosine" and 2 * epoch > phase.max_epochs and epoch > 1


def _factor(phase: Phase, step: int, steps: int) -> float:
    """What the learning rate is multiplied by in step 1 ... steps: 1, or a linear rise and a cosine fall (Smith and Topin 2019)."""
    if phase.schedule == "constant":
        return 1.0
    warm = max(1.0, _WARM_UP * steps)
    if step <= warm:
        return step / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm + 1)))


def _batches(
    data: TrainingData, config: TrainConfig, phase: PhaseName, epoch: int, side: int, where: torch.device, team: Team
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """This process's share of each shuffled batch: x, float targets, and what its mean loss counts in the mean over all processes.

    x: features (share, width) in adaptation, where the share is the batch; pictures (share, 3, side, side) in fine tuning.
    """
    seed = _seed(config.seed, phase, epoch)
    order = np.random.default_rng(seed).permutation(len(data.train))
    targets = torch.from_numpy(data.targets[data.train].astype(np.float32))
    batches = np.split(order, _cuts(len(order), config.batch_size, team.count))
    if phase == "adaptation":
        features, targets = torch.from_numpy(data.features).to(where), targets.to(where)
        for chosen in batches:
            yield features[chosen], targets[chosen], 1.0
        return
    generator = torch.Generator().manual_seed(seed)
    # A process without a picture of a small last batch takes the first one, which counts nothing.
    places = [team.share(np.arange(len(chosen))) for chosen in batches]
    shares = [chosen[place] if len(place) else chosen[:1] for chosen, place in zip(batches, places, strict=True)]
    pixels_of = data.pixels.batches((data.train[share] for share in shares), where)
    for chosen, place, share, pixels in zip(batches, places, shares, pixels_of, strict=True):
        views = preprocessing.random_views(len(chosen), generator)  # of the whole batch: the same in however many processes
        x = (
            preprocessing.for_training(pixels, moved(views[place if len(place) else slice(1)], where), side)
            if config.augmentation
            else preprocessing.for_evaluation(pixels, side)
        )
        yield x, moved(targets[share], where), len(place) * team.count / len(chosen)


def _cuts(n: int, batch_size: int, processes: int) -> list[int]:
    """Where to cut n pictures into batches.

    A last batch that leaves a process a picture alone, which has no BatchNorm statistics, joins the one before.
    """
    cuts = list(range(batch_size, n, batch_size))
    return cuts[:-1] if cuts and n - cuts[-1] < 2 * processes else cuts


@torch.no_grad()
def _validate(
    model: Classifier, data: TrainingData, config: TrainConfig, phase: PhaseName, team: Team
) -> tuple[npt.NDArray[np.float32], float]:
    """Probabilities (n_validation, n_labels) and the mean binary cross entropy a cell."""
    model.eval()
    where = model.head.weight.device
    if phase == "adaptation":
        logits = model.head(torch.from_numpy(data.validation_features).to(where)).float().cpu()
    else:
        logits = predict_logits(model, data.pixels, data.validation, config.image_size, team=team, network=folded(model))
    targets = torch.from_numpy(data.targets[data.validation].astype(np.float32))
    loss = float(F.binary_cross_entropy_with_logits(logits, targets))
    if not np.isfinite(loss):
        raise PanoramaError(
            f"{phase.capitalize()}: the validation loss is not a finite number. Use a lower learning rate, or --precision float32."
        )
    return torch.sigmoid(logits).numpy(), loss


def _adapted(weights: dict[str, Tensor], features: Features) -> npt.NDArray[np.float32]:
    """The adapted model's probabilities (n, n_labels) from features of its extractor, which adaptation leaves as it was."""
    x = torch.from_numpy(features).to(weights["head.weight"].device)
    return torch.sigmoid(F.linear(x, weights["head.weight"], weights["head.bias"])).cpu().numpy()


def is_within_chance(
    targets: npt.NDArray[np.int8], probabilities: npt.NDArray[np.float32], others: npt.NDArray[np.float32]
) -> bool:
    """Whether `probabilities` have a mean cross entropy at most one standard error above that of `others`, all (n_images, n_labels).

    The standard error is that of the mean difference over images, for both judged the same ones (the rule of one standard error,
    Breiman et al. 1984). On 242 validation images 0.164 and 0.160 nats are the same, and the model of the first had a test mAP 0.03 higher.
    """
    if len(targets) < 2:
        return False
    apart = _cross_entropy(targets, probabilities) - _cross_entropy(targets, others)
    return bool(apart.mean() <= apart.std(ddof=1) / math.sqrt(len(apart)))


def _cross_entropy(targets: npt.NDArray[np.int8], probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of each image, in nats a cell."""
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    of_each: npt.NDArray[np.float64] = -np.where(targets == 1, np.log(p), np.log1p(-p)).mean(1)
    return of_each


@torch.no_grad()
def predict_logits(
    model: Classifier,
    pixels: Pixels,
    indices: npt.NDArray[np.int64],
    image_size: int,
    on_progress: OnProgress = lambda done, total: None,
    team: Team = ALONE,
    forward: Callable[[Classifier, Tensor], Tensor] = Classifier.__call__,
    network: Classifier | None = None,
) -> Tensor:
    """float32 logits (len(indices), n_labels) of the plain pictures, in eval mode.

    forward: gives the logits of a batch, and may look at more of it; called in the order of this process's share. network: what
    computes in the model's place; validation takes one without fused ReLUs, which turn what is not a number into 0.
    """
    network = for_inference(model) if network is None else network
    where = model.head.weight.device
    mine = team.share(indices)
    parts = [torch.zeros(0, model.head.out_features)]
    done = 0
    for batch in pixels.batches(in_batches(mine, batch_size(where)), where):
        x = preprocessing.for_evaluation(batch, image_size)
        parts.append(forward(network, x).cpu())
        done += len(batch)
        on_progress(min(done * team.count, len(indices)), len(indices))
    return torch.from_numpy(team.gather(torch.cat(parts).numpy(), len(indices)))


def _seed(seed: int, phase: PhaseName, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, 0 if phase == "adaptation" else 1, epoch]).generate_state(1)[0])

"""The two-phase training loop: `train(...)` yields events, and while one is handled the model is exactly as it says.

Adaptation trains the head on cached features of the frozen extractor (so an epoch takes milliseconds); fine tuning trains
the unfrozen layers on freshly augmented pictures at a tenth of the learning rate. The validation loss decides early
stopping and which model is kept. The early-stop counter starts again with fine tuning; the best does not: fine tuning starts
from the best adapted model and must beat it to replace it.

Every source of chance is seeded by (seed, phase, epoch), so a run resumed from its last epoch ends as if never interrupted.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panorama import preprocessing
from panorama.config import Phase, PhaseName, TrainConfig
from panorama.errors import PanoramaError
from panorama.events import BatchEnded, EpochEnded, Event, PhaseEnded, PhaseStarted
from panorama.features import Features, Pixels
from panorama.metrics import mean_average_precision
from panorama.model import Classifier, prepare_phase


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
    """Where training stands: all that a checkpoint needs beside the model. `epoch` counts the finished epochs of `phase`."""

    phase: PhaseName = "adaptation"
    epoch: int = 0
    without_improvement: int = 0
    best_loss: float | None = None
    best_phase: PhaseName | None = None
    best_epoch: int | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    optimizer: torch.optim.AdamW | None = None
    optimizer_state: dict[int, Any] | None = None  # of a checkpoint, until the optimizer is made


def train(
    model: Classifier,
    data: TrainingData,
    config: TrainConfig,
    *,
    dtype: torch.dtype,
    pretrained: bool,
    state: TrainingState | None = None,
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
        yield from _run_phase(model, data, config, phase, state, dtype, pretrained, clock)
    model.load_state_dict(state.best_weights)
    model.eval()


def _enter_fine_tuning(model: Classifier, state: TrainingState) -> None:
    if state.best_weights:
        model.load_state_dict(state.best_weights)
    state.phase, state.epoch, state.without_improvement = "fine tuning", 0, 0
    state.optimizer = state.optimizer_state = None


def _run_phase(
    model: Classifier,
    data: TrainingData,
    config: TrainConfig,
    phase: Phase,
    state: TrainingState,
    dtype: torch.dtype,
    pretrained: bool,
    clock: Callable[[], float],
) -> Iterator[Event]:
    prepare_phase(model, phase.name, unfreeze=config.unfreeze, pretrained=pretrained)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    state.optimizer = torch.optim.AdamW(trainable, lr=phase.learning_rate, weight_decay=config.weight_decay)
    if state.optimizer_state is not None:
        state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": state.optimizer_state})
        state.optimizer_state = None
    yield PhaseStarted(
        clock(), phase.name, phase.max_epochs, phase.learning_rate, phase.patience, sum(p.numel() for p in trainable)
    )
    while state.epoch < phase.max_epochs and state.without_improvement < phase.patience:
        epoch, started = state.epoch + 1, clock()
        prepare_phase(model, phase.name, unfreeze=config.unfreeze, pretrained=pretrained)  # evaluation left eval mode
        losses: list[float] = []
        seen = 0
        torch.manual_seed(_seed(config.seed, phase.name, epoch))  # dropout
        batches = _batches(data, config, phase.name, epoch)
        n_batches = len(_cuts(len(data.train), config.batch_size)) + 1
        for number, (x, y) in enumerate(batches, 1):
            loss = _step(model, x, y, phase.name, state.optimizer, dtype)
            if not np.isfinite(loss):
                raise PanoramaError(
                    f"{phase.name.capitalize()}, epoch {epoch}, batch {number}: the loss is not a finite number. "
                    f"Use a lower learning rate than {phase.learning_rate:g}, or --precision float32."
                )
            losses.append(loss * len(y))
            seen += len(y)
            rate = seen / max(clock() - started, 1e-6)
            yield BatchEnded(clock(), phase.name, epoch, number, n_batches, loss, seen, rate)
        training_seconds = max(clock() - started, 1e-6)
        probabilities, validation_loss = _validate(model, data, config, phase.name, dtype)
        improved = state.best_loss is None or validation_loss < state.best_loss
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


def _batches(data: TrainingData, config: TrainConfig, phase: PhaseName, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches: features (batch, width) in adaptation, pictures (batch, 3, side, side) in fine tuning; float targets."""
    seed = _seed(config.seed, phase, epoch)
    order = np.random.default_rng(seed).permutation(len(data.train))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.from_numpy(data.targets[data.train].astype(np.float32))
    features = torch.from_numpy(data.features)
    for chosen in np.split(order, _cuts(len(order), config.batch_size)):
        if phase == "adaptation":
            x = features[chosen]
        else:
            pixels = data.pixels.batch(data.train[chosen])
            x = (
                preprocessing.for_training(pixels, config.image_size, generator)
                if config.augmentation
                else preprocessing.for_evaluation(pixels, config.image_size)
            )
        yield x, targets[chosen]


def _cuts(n: int, batch_size: int) -> list[int]:
    """Where to cut n pictures into batches; a last picture alone, which has no BatchNorm statistics, joins the batch before."""
    cuts = list(range(batch_size, n, batch_size))
    return cuts[:-1] if cuts and n - cuts[-1] == 1 else cuts


def _step(
    model: Classifier, x: Tensor, y: Tensor, phase: PhaseName, optimizer: torch.optim.Optimizer, dtype: torch.dtype
) -> float:
    where = model.head.weight.device
    module: nn.Module = model.head if phase == "adaptation" else model
    with torch.autocast(where.type, dtype, enabled=dtype is not torch.float32 and phase == "fine tuning"):
        try:
            logits = module(x.to(where))  # (batch, n_labels)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise PanoramaError(
                "A batch of one small picture has no BatchNorm statistics. Use a batch size of 2 or more (--batch-size), "
                "larger pictures (--image-size), or pretrained weights."
            ) from error
    loss = F.binary_cross_entropy_with_logits(logits.float(), y.to(where))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def _validate(
    model: Classifier, data: TrainingData, config: TrainConfig, phase: PhaseName, dtype: torch.dtype
) -> tuple[npt.NDArray[np.float32], float]:
    """Probabilities (n_validation, n_labels) and the mean binary cross entropy a cell."""
    model.eval()
    where = model.head.weight.device
    if phase == "adaptation":
        logits = model.head(torch.from_numpy(data.validation_features).to(where)).float().cpu()
    else:
        logits = predict_logits(model, data.pixels, data.validation, config.image_size, dtype)
    targets = torch.from_numpy(data.targets[data.validation].astype(np.float32))
    loss = float(F.binary_cross_entropy_with_logits(logits, targets))
    if not np.isfinite(loss):
        raise PanoramaError(
            f"{phase.capitalize()}: the validation loss is not a finite number. Use a lower learning rate, or --precision float32."
        )
    return torch.sigmoid(logits).numpy(), loss


@torch.no_grad()
def predict_logits(
    model: Classifier,
    pixels: Pixels,
    indices: npt.NDArray[np.int64],
    image_size: int,
    dtype: torch.dtype,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    batch_size: int = 64,
) -> Tensor:
    """float32 logits (len(indices), n_labels) of the plain pictures, in eval mode."""
    model.eval()
    where = model.head.weight.device
    parts = []
    for start in range(0, len(indices), batch_size):
        x = preprocessing.for_evaluation(pixels.batch(indices[start : start + batch_size]), image_size)
        with torch.autocast(where.type, dtype, enabled=dtype is not torch.float32):
            parts.append(model(x.to(where)).float().cpu())
        on_progress(min(start + batch_size, len(indices)), len(indices))
    return torch.cat(parts) if parts else torch.zeros(0, model.head.out_features)


def _seed(seed: int, phase: PhaseName, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, 0 if phase == "adaptation" else 1, epoch]).generate_state(1)[0])

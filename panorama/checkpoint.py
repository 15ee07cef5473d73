"""Weights on disk: the best model for whoever predicts, and the training state for whoever resumes.

safetensors and JSON, never pickle. Every file is written beside its place, flushed to disk and moved into it, so a reader
sees the old file or the new one. A file that was changed or damaged is refused, naming what was expected and found.
"""

import hashlib
import json
import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from panorama import preprocessing
from panorama.errors import PanoramaError
from panorama.events import EpochEnded, Event, PhaseEnded
from panorama.files import write_atomically
from panorama.model import Classifier, build, load_weights
from panorama.training import TrainingState

MODEL, CARD = "model.safetensors", "model.json"
_CHECKPOINT, _PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
_FORMAT = 1
_BEST_EVERY_SECONDS = 2.0  # of adaptation, whose epochs take milliseconds; a resumed run does not need the file


class CheckpointError(PanoramaError):
    """A checkpoint that is missing, damaged or not ours."""


@dataclass(frozen=True)
class ModelCard:
    """All that is needed beside the weights to predict: label order and preprocessing are part of a model."""

    backbone: str
    labels: tuple[str, ...]
    image_size: int
    threshold: float
    weights: str
    sha256: str = ""
    preprocessing: int = preprocessing.VERSION
    format: int = _FORMAT


class Keeper:
    """Writes the checkpoint of a run after each epoch, and the best model: at once in fine tuning, every two seconds and at its end in adaptation.

    Told of every event while the model is as the event says, and when the training is left before its end.
    """

    def __init__(self, folder: Path, model: Classifier, state: TrainingState, card: ModelCard) -> None:
        self._folder, self._model, self._state, self._card = folder, model, state, card
        self._kept_at = -math.inf
        self._has_new_best = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            # The checkpoint first, whose own model is the best when it says so: a kill before the best is written loses nothing, and one after it
            # never leaves a best that the checkpoint does not know.
            save_checkpoint(self._folder, self._model, self._state)
            self._has_new_best |= event.is_best
            if event.phase == "fine tuning" or time.monotonic() - self._kept_at >= _BEST_EVERY_SECONDS:
                self._keep_best()
        elif isinstance(event, PhaseEnded):
            self._keep_best()

    def leave(self) -> None:
        """Writes what adaptation found best: who stops a run is left with the model that its events name. At any moment, in an epoch too."""
        if self._state.phase == "adaptation":
            self._keep_best()

    def _keep_best(self) -> None:
        if self._has_new_best:
            save_model(self._folder, self._state.best_weights, self._card)
            self._has_new_best, self._kept_at = False, time.monotonic()


def save_model(folder: Path, weights: dict[str, Tensor], card: ModelCard) -> None:
    """Writes model.safetensors, then model.json with its hash.

    The weights carry the card too, without the hash: labels in another order would fit them as well.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    told = {name: value for name, value in asdict(card).items() if name != "sha256"}
    about = json.dumps({"card": told, "digest": _digest(tensors)})  # one value: safetensors writes several in any order
    data = save(tensors, metadata={"about": about})
    write_atomically(folder / MODEL, data)
    values = {**told, "sha256": hashlib.sha256(data).hexdigest()}
    write_atomically(folder / CARD, json.dumps(values, indent=2).encode())


def read_card(folder: Path) -> ModelCard:
    """The model card of a run. Raises CheckpointError."""
    path = folder / CARD
    try:
        values = json.loads(path.read_text())
        card = ModelCard(**{**values, "labels": tuple(values["labels"])})
        if missing := [field.name for field in fields(ModelCard) if field.name not in values]:
            raise ValueError(f"there is no {missing[0]}")
        if not isinstance(card.sha256, str):
            raise TypeError(f"expected sha256 in hexadecimal, found {card.sha256!r}")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not there; this run has not kept a model yet. Let it train at least one epoch.") from None
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: not a model card ({error}). Train again, or restore the file from a copy.") from error
    if card.format != _FORMAT or card.preprocessing != preprocessing.VERSION:
        raise CheckpointError(
            f"{path}: made by another version of panorama (expected format {_FORMAT} and preprocessing {preprocessing.VERSION}, "
            f"found {card.format} and {card.preprocessing}). Train again with this version."
        )
    return card


def load_model(folder: Path) -> tuple[Classifier, ModelCard]:
    """The best model of a run, in eval mode on the CPU, and its card. Raises CheckpointError naming expected and found."""
    card = read_card(folder)
    path = folder / MODEL
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is not there; expected the weights that {CARD} describes.") from None
    if found != card.sha256:
        raise CheckpointError(
            f"{path}: changed or damaged: expected sha256 {card.sha256[:12]}..., found {found[:12]}.... Train again or restore both files."
        )
    weights, metadata = _read(path)
    _check_card(folder / CARD, card, _about(path, metadata).get("card"))
    model = build(card.backbone, len(card.labels), seed=0)
    _check_shapes(path, weights, model)
    load_weights(model, weights)
    model.to(memory_format=torch.channels_last)
    model.eval()
    return model, card


def best_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors, for a run that resumes. Raises CheckpointError.

    Checked by the file's own digest, not by model.json, which a kill may have left a step behind.
    """
    path = folder / MODEL
    tensors, metadata = _read(path)
    found, expected = _digest(tensors), _about(path, metadata).get("digest")
    if expected is not None and found != expected:  # files of earlier versions have none
        raise CheckpointError(
            f"{path}: changed or damaged: expected digest {expected[:12]}..., found {found[:12]}.... Start a new run."
        )
    return tensors


def save_checkpoint(folder: Path, model: Classifier, state: TrainingState) -> None:
    """Writes model, optimizer and state so that `load_checkpoint` can go on after this epoch; keeps the one before.

    Adaptation leaves the extractor as it is: the head alone is written then, and of a best model that adaptation found its head.
    """
    is_adapting = state.phase == "adaptation"
    tensors = {f"model.{name}": value for name, value in model.state_dict().items() if _of_head(name) or not is_adapting}
    if state.best_phase == "adaptation":
        tensors |= {f"best.{name}": value for name, value in state.best_weights.items() if _of_head(name)}
    if state.optimizer is not None:
        for index, values in state.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    values = {
        "format": _FORMAT, "preprocessing": preprocessing.VERSION, "phase": state.phase, "epoch": state.epoch, "without_improvement": state.without_improvement,
        "best_loss": state.best_loss, "best_phase": state.best_phase, "best_epoch": state.best_epoch, "origin": state.origin,
    }  # fmt: skip
    data = save(tensors, metadata={"state": json.dumps(values), "digest": _digest(tensors)})
    if (folder / _CHECKPOINT).exists():
        (folder / _CHECKPOINT).replace(folder / _PREVIOUS)
    write_atomically(folder / _CHECKPOINT, data)


def _of_head(name: str) -> bool:
    return name.startswith("head.")


def exists(folder: Path) -> bool:
    """Whether a run has finished an epoch that it can go on from."""
    return any((folder / name).exists() for name in (_CHECKPOINT, _PREVIOUS))


def origins(folder: Path) -> set[str]:
    """Fingerprints of the weights that training began with, by what its checkpoints say; none of them does in earlier versions."""
    found = set()
    for name in (_CHECKPOINT, _PREVIOUS):
        with (
            suppress(SafetensorError, OSError, ValueError, KeyError, TypeError),
            safe_open(folder / name, framework="pt") as stream,
        ):
            found.add(str(json.loads(stream.metadata()["state"])["origin"]))
    return found - {""}


def load_checkpoint(folder: Path, model: Classifier) -> tuple[TrainingState, str | None] | None:
    """The newest whole checkpoint, its model loaded into `model`, which is as training found it; None when there is none.

    The state has the best weights where adaptation found them; those that fine tuning found are in `best_weights`, or the checkpoint's own.

    The second value says in words that the newest was damaged and the one before it is used. Raises CheckpointError when
    checkpoints are there but none is whole.
    """
    problem = reason = None
    for name in (_CHECKPOINT, _PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            return _load_checkpoint(folder / name, model), problem
        except CheckpointError as error:
            reason = str(error).rstrip(".")
            problem = f"{error} Going on from the checkpoint before it."
    if problem:
        raise CheckpointError(f"{folder}: no checkpoint of this run can be used ({reason}). Start a new run.")
    return None


def _load_checkpoint(path: Path, model: Classifier) -> TrainingState:
    tensors, metadata = _read(path)
    expected, found = metadata.get("digest", "none"), _digest(tensors)
    if found != expected:
        raise CheckpointError(f"{path}: changed or damaged: expected digest {expected[:12]}..., found {found[:12]}....")
    values = json.loads(metadata["state"])
    if values.get("preprocessing") != preprocessing.VERSION:
        raise CheckpointError(f"{path}: made by another version of panorama, which prepared pictures in another way.")
    untrained = {name: value.detach().cpu().clone() for name, value in model.state_dict().items() if not _of_head(name)}
    weights, best = (
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        for prefix in ("model.", "best.")
    )
    if values["phase"] == "adaptation":
        weights = {**untrained, **weights}
    _check_shapes(path, weights, model)
    load_weights(model, weights)
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            optimizer.setdefault(int(index), {})[key] = value
    state = TrainingState(
        values["phase"],
        values["epoch"],
        values["without_improvement"],
        values["best_loss"],
        values["best_phase"],
        values["best_epoch"],
    )
    state.optimizer_state = dict(optimizer) or None
    if best:
        state.best_weights = {name: value.to(model.head.weight.device) for name, value in {**untrained, **best}.items()}
    return state


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            metadata = stream.metadata() or {}
            return {name: stream.get_tensor(name) for name in stream.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).") from error


def _about(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """What the weights say of themselves: card and digest; nothing in files of earlier versions."""
    try:
        return dict(json.loads(metadata.get("about", "{}")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}). Train again, or restore the file from a copy.") from error


def _check_card(path: Path, card: ModelCard, saved: dict[str, Any] | None) -> None:
    """Refuses a card that is not the one the weights were saved with; files of earlier versions say nothing of it."""
    if saved is None:
        return
    found = json.loads(json.dumps(asdict(card)))
    for name in sorted(saved.keys() | found.keys() - {"sha256"}):
        if saved.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: changed since the weights were saved: expected {name} {json.dumps(saved.get(name), ensure_ascii=False)}, "
                f"found {json.dumps(found.get(name), ensure_ascii=False)}. Restore the file from a copy, or train again."
            )


def _check_shapes(path: Path, weights: dict[str, Tensor], model: Classifier) -> None:
    expected: dict[str, Any] = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: {name}: expected shape {expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}."
            )


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + str(tuple(value.shape)).encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()

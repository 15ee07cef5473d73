"""Backbones, the head, and what is trained in which phase.

One code path for every torchvision classifier that ends in a linear layer: that layer becomes the head, everything before it
the extractor. `logits = head(extractor(x))`; the sigmoid stays outside (binary cross entropy on logits).

BatchNorm policy. With pretrained weights the running statistics stay frozen in both phases (eval mode), while its scale and
shift train in fine tuning: statistics of small or odd batches cost accuracy, and a frozen extractor whose statistics
move is not frozen. Without pretrained weights there are no statistics to keep: they are measured once on the data before
adaptation (`calibrate_batchnorm`), and in fine tuning they are the mean over the batches of the epoch, so that an epoch of few
batches is not validated with those of weights long gone.
"""

import copy
import hashlib
import itertools
import json
import math
import socket
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load, load_file
from torch import Tensor, nn

from panorama.blocked import dense
from panorama.config import PhaseName, Unfreeze
from panorama.errors import PanoramaError

_DOWNLOAD_TIMEOUT_SECONDS = 20.0
STARTER_BACKBONE = "mobilenet_v2"
_STARTER = Path(__file__).with_name("starter") / "mobilenet_v2.safetensors"
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Shares of the extractor's parameters: fine tuning leaves the first blocks, which hold so many, as they are; and from its second half on those that
# have settled by then.
_GENERAL, _SETTLED = 0.03, 0.125
_WIDEST_EARLY = 256  # channels: a row a picture is in memory, and wide maps are late ones, of which the last layer still knows
# Two outputs in train mode, fixed 299-pixel input: not this code path.
_LEFT_OUT = frozenset({"googlenet", "inception_v3"})


class DownloadError(PanoramaError):
    """Weights that could not be downloaded; whoever catches it goes on with others, and says so."""


class Classifier(nn.Module):
    """extractor: (batch, 3, side, side) -> features (batch, width); head: features -> logits (batch, n_labels)."""

    def __init__(self, extractor: nn.Module, width: int, n_labels: int) -> None:
        super().__init__()
        self.extractor = extractor
        self.head = nn.Linear(width, n_labels)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.extractor(x))
        return logits


def on_cpu(model: Classifier) -> Classifier:
    """`model`, or a copy of one on a GPU, for trying out a single picture: a GPU gets ready for each new shape, which takes seconds."""
    return model if model.head.weight.device.type == "cpu" else copy.deepcopy(model).cpu()


def backbones() -> list[str]:
    """The names `build` takes: torchvision's image classifiers."""
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if name not in _LEFT_OUT and not name.startswith("squeezenet")]


def build(backbone: str, n_labels: int, *, seed: int) -> Classifier:
    """A classifier with random weights drawn from `seed`. Raises PanoramaError for a name torchvision does not have."""
    refuse_unknown(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        extractor = torchvision.models.get_model(backbone, weights=None)
        name, last = _last_linear(extractor)
        replace(extractor, name, nn.Identity())
        return Classifier(extractor, last.in_features, n_labels)


def refuse_unknown(backbone: str) -> None:
    """Raises PanoramaError, with near names, for a backbone that `build` does not take."""
    if backbone not in backbones():
        close = [name for name in backbones() if name.split("_")[0] == backbone.replace("-", "").split("_")[0].lower()]
        hint = f" Did you mean {', '.join(close[:5])}?" if close else ""
        raise PanoramaError(
            f"There is no backbone {backbone!r}.{hint} For example: mobilenet_v2, vgg16, resnet50, efficientnet_b0."
        )


def _last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise PanoramaError("This backbone does not end in a linear layer; choose another, for example mobilenet_v2.")
    return linear[-1]


def replace(network: nn.Module, name: str, module: nn.Module) -> None:
    """Puts `module` in the place of the one of that dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def load_pretrained(model: Classifier, backbone: str, weights: str) -> str:
    """Loads the extractor's weights and returns what they are, in words. Raises PanoramaError.

    weights: "imagenet" (torchvision's, downloaded and hash-checked on first use; DownloadError where that is impossible), "starter" (of
    MobileNetV2, from drawn pictures; they come with panorama), "none" (left random), or the path of a
    state dict of the torchvision model (loaded weights-only; .safetensors too). The last linear
    layer of the file, if any, is not used.
    """
    if weights == "none":
        return "random weights (no pretraining)"
    if weights == "starter":
        refuse_other_than_starter(backbone)
        _load_extractor(model, backbone, _starter_state(_STARTER), "the starter weights")
        return "starter weights (pretrained on drawn pictures, not on photos)"
    state = _imagenet_state(backbone) if weights == "imagenet" else _state_from_file(Path(weights))
    _load_extractor(model, backbone, state, weights)
    return "ImageNet weights of torchvision" if weights == "imagenet" else f"weights from {Path(weights).name}"


def refuse_other_than_starter(backbone: str) -> None:
    """Raises PanoramaError for a backbone that no starter weights ship for."""
    if backbone != STARTER_BACKBONE:
        raise PanoramaError(
            f"There are starter weights of {STARTER_BACKBONE} only, not of {backbone}. Use --backbone {STARTER_BACKBONE}, "
            "or other weights: --weights imagenet, --weights PATH or --weights none."
        )


def _starter_state(path: Path) -> dict[str, Tensor]:
    """The extractor's tensors, stored in float16 to be small. Raises PanoramaError for a file that is not the one its card describes."""
    again = "Restore both files of panorama/starter from a copy of panorama, or use --weights imagenet."
    try:
        data, expected = path.read_bytes(), str(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PanoramaError(f"{path}: the starter weights cannot be read ({type(error).__name__}: {error}). {again}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise PanoramaError(f"{path}: changed or damaged: expected sha256 {expected[:12]}..., found {found[:12]}.... {again}")
    return {name: value.float() if value.is_floating_point() else value for name, value in load(data).items()}


def _imagenet_state(backbone: str) -> dict[str, Tensor]:
    entry = torchvision.models.get_model_weights(backbone).DEFAULT
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECONDS)  # torch.hub has none: a silent network would hang the run
    try:
        state: dict[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True)
    except RuntimeError as error:  # torch.hub's word for a wrong hash
        raise PanoramaError(
            f"The ImageNet weights of {backbone} arrived damaged ({error}). Try again, or use --weights PATH or --weights none."
        ) from error
    except OSError as error:
        starter = (
            "--weights starter (drawn pictures taught them; they come with panorama), " if backbone == STARTER_BACKBONE else ""
        )
        raise DownloadError(
            f"The ImageNet weights of {backbone} could not be downloaded ({error}). Go on without a network: {starter}"
            "--weights PATH with a weights file you have, or --weights none to train from random weights (slower, less accurate)."
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return state


def imagenet_is_cached(backbone: str) -> bool:
    """Whether torchvision's ImageNet weights of this backbone are already on this machine."""
    url = torchvision.models.get_model_weights(backbone).DEFAULT.url
    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).exists()


def _state_from_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PanoramaError(
            f"{path}: there is no such weights file. Give a file of weights as PyTorch saves them (.pth, .pt or .safetensors), imagenet, starter or none."
        )
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling errors have many types
        raise PanoramaError(
            f"{path}: not a state dict that can be loaded safely ({type(error).__name__}). "
            "Save it with torch.save(model.state_dict(), path) or as .safetensors."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise PanoramaError(f"{path}: expected a state dict of tensors. Save it with torch.save(model.state_dict(), path).")
    return state


def _load_extractor(model: Classifier, backbone: str, state: dict[str, Tensor], source: str) -> None:
    if any(key.startswith("extractor.") for key in state):
        raise PanoramaError(
            f"{source}: the model of a panorama run. It may have learned these very labels, and then no judgement is out of fold. "
            "Give the weights of the torchvision model."
        )
    given = state
    with torch.device("meta"):
        last, _ = _last_linear(torchvision.models.get_model(backbone, weights=None))
    given = {key: value for key, value in given.items() if not key.startswith(last + ".")}
    expected = {key: value.shape for key, value in model.extractor.state_dict().items()}
    missing = [key for key in expected if key not in given]
    unknown = [key for key in given if key not in expected]
    wrong = [key for key in expected if key in given and given[key].shape != expected[key]]
    if missing or unknown or wrong:
        what = (
            f"{wrong[0]} has shape {tuple(given[wrong[0]].shape)}, expected {tuple(expected[wrong[0]])}" if wrong
            else f"{missing[0]} is missing" if missing else f"{unknown[0]} is not part of it"
        )  # fmt: skip
        raise PanoramaError(f"{source}: these are not weights of {backbone}: {what}. Choose the backbone they were made for.")
    if broken := [key for key in expected if not bool(given[key].isfinite().all())]:
        raise PanoramaError(
            f"{source}: {broken[0]} holds a value that is not a finite number. The file is damaged, or its training failed; use another."
        )
    load_weights(model.extractor, given)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """`load_state_dict` for tensors alone, as files keep them. They are taken to be of the version that `network` is; MNASNet refuses those of none."""
    given = OrderedDict(weights)
    given._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    network.load_state_dict(given)


def blocks(extractor: nn.Module) -> list[nn.Module]:
    """The parts of the extractor that hold parameters, first to last: what "the last N blocks" counts.

    The children of `features` where there is one (MobileNet, VGG, EfficientNet, DenseNet), then the other children; so
    ResNet-50 has conv1, bn1, layer1 ... layer4.
    """
    parts: list[nn.Module] = []
    for name, child in extractor.named_children():
        parts.extend(child.children() if name == "features" else [child])
    return [part for part in parts if any(True for _ in part.parameters())]


def n_left(parts: Sequence[nn.Module], *, late: bool = False) -> int:
    """How many of the first blocks fine tuning leaves as they are: those that together hold less than 3 % of all parameters, `late` in it 12.5 %.

    The first see what any pictures have, edges, colours and textures; training them brought nothing, and their large maps take nearly half of the
    time and of the memory. The next have settled by the second half (FreezeOut, Brock et al. 2017; docs/decisions.md has the measurements). Of
    MobileNetV2 the first 7 of 19 and late 11, of ResNet-50 all before `layer2` and late before `layer3`, of VGG-16 the first 4 and late 7 layers.
    Fully connected blocks, which hold most of VGG, are not counted.
    """
    held = list(itertools.accumulate(0 if _is_linear(part) else sum(p.numel() for p in part.parameters()) for part in parts))
    return sum(so_far < (_SETTLED if late else _GENERAL) * held[-1] for so_far in held)


def _is_linear(part: nn.Module) -> bool:
    return all(isinstance(module, nn.Linear) for module in part.modules() if any(True for _ in module.parameters(recurse=False)))


def prepare_phase(model: Classifier, phase: PhaseName, *, unfreeze: Unfreeze, pretrained: bool, late: bool = False) -> None:
    """Sets which parameters train and which modules are in train mode for `phase`; the policy at the top of this module.

    unfreeze: the blocks that fine tuning trains, "all" or so many of the last. "auto": all but the first, and fewer when it is `late` (`n_left`).
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.eval()
    for parameter in model.head.parameters():
        parameter.requires_grad_(True)
    model.head.train()
    if phase == "adaptation":
        return
    parts = blocks(model.extractor)
    n_kept = len(parts) - unfreeze if isinstance(unfreeze, int) else n_left(parts, late=late) if unfreeze == "auto" else 0
    for part in parts[max(0, n_kept) :]:
        for parameter in part.parameters():
            parameter.requires_grad_(True)
        part.train()
        for norm in batchnorms(part):
            if pretrained:
                norm.eval()
            else:
                norm.reset_running_stats()  # type: ignore[operator]
                norm.momentum = None  # type: ignore[assignment]  # the mean over the batches since
    if unfreeze == "auto" or n_kept <= 0:  # dropout between the blocks and the head
        for child in model.extractor.children():
            if not list(child.parameters()):
                child.train()


def batchnorms(module: nn.Module) -> Iterator[nn.Module]:
    """Every BatchNorm in the module."""
    return (part for part in module.modules() if isinstance(part, _NORMS))


@torch.no_grad()
def calibrate_batchnorm(model: Classifier, batches: Iterable[Tensor]) -> None:
    """Sets BatchNorm's running statistics to the mean over `batches` of inputs; for extractors without pretrained weights."""
    norms = list(batchnorms(model.extractor))
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]  # the mean over all batches
        norm.train()
    for x in batches:
        model.extractor(x)
    for norm in norms:
        norm.eval()


# --- where a label is seen ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureMap:
    """The module of the extractor, by name, whose output (batch, width, height, width of the map) it only averages over places."""

    module: str
    height: int
    width: int


@torch.no_grad()
def feature_map(model: Classifier, side: int) -> FeatureMap | None:
    """The last feature map of a model in eval mode, for pictures of `side` pixels; None for a backbone that does more than average it.

    Found by trying it out, for the same structure is written in many ways: MobileNetV2, ResNet, EfficientNet, DenseNet and others
    have one; VGG and transformers with a class token have none. A map of a single place says nothing and is none.
    """
    model = on_cpu(model)
    outputs: dict[str, Tensor] = {}
    hooks = [part.register_forward_hook(partial(_keep, outputs, name)) for name, part in model.extractor.named_modules()]
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        features = model.extractor(noise).flatten(1)
    finally:
        for hook in hooks:
            hook.remove()
    found = None
    for name, output in outputs.items():  # in the order in which they ended: the last of the largest
        if _is_map_of(output, features) and (found is None or output.shape[2] * output.shape[3] >= found.height * found.width):
            found = FeatureMap(name, output.shape[2], output.shape[3])
    return found


@dataclass(frozen=True)
class EarlyMap:
    """The module of the extractor, by name, whose input is a map of an earlier layer; `width`: its channels."""

    module: str
    width: int


@torch.no_grad()
def early_maps(model: Classifier, side: int) -> list[EarlyMap]:
    """The last of the narrowest maps of each size, largest first, from a quarter of the picture's side down to 2 x 2; of at most 256 channels.

    Colour, light and texture, and roughly where: what the last layer forgets. In MobileNetV2 these are what the last narrow block of each
    size hands on. Found by trying it out, as `feature_map`. Where transformers keep the channels last there is no map: it is not square, or as
    wide as one of their LayerNorms.
    """
    model = on_cpu(model)
    inputs: dict[int, EarlyMap] = {}
    normed = {part.normalized_shape[-1] for part in model.extractor.modules() if isinstance(part, nn.LayerNorm)}

    def look(name: str, _: nn.Module, given: tuple[object, ...]) -> None:
        x = given[0] if given else None
        if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[2] != x.shape[3]:
            return
        width, size = x.shape[1:3]
        if width == size and width in normed:
            return
        if 1 < size <= math.ceil(side / 4) and (size not in inputs or width <= inputs[size].width):
            inputs[size] = EarlyMap(name, width)

    parts = list(model.extractor.named_modules())
    modes = [part.training for _, part in parts]
    # Not of what `for_inference` takes away on some machines: the map before it is computed on the others only.
    lasting = [(name, part) for name, part in parts if not isinstance(part, (*_NORMS, nn.ReLU, nn.ReLU6))]
    hooks = [part.register_forward_pre_hook(partial(look, name)) for name, part in lasting]
    try:
        model.extractor.eval()(torch.zeros(1, 3, side, side))
    finally:
        for hook in hooks:
            hook.remove()
        for (_, part), mode in zip(parts, modes, strict=True):
            part.training = mode
    return [inputs[size] for size in sorted(inputs, reverse=True) if inputs[size].width <= _WIDEST_EARLY]


def with_early(extractor: nn.Module, maps: Sequence[EarlyMap], x: Tensor) -> tuple[Tensor, Tensor]:
    """The extractor's features of `x`, and (batch, 4 * sum of widths) the mean over each quarter of each early map, channel by channel."""
    quarters: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        # At once: what follows may write over the map.
        quarters[name] = F.adaptive_avg_pool2d(dense(given[0]).float(), 2).flatten(1)

    hooks = [extractor.get_submodule(place.module).register_forward_pre_hook(partial(keep, place.module)) for place in maps]
    try:
        features = extractor(x)
    finally:
        for hook in hooks:
            hook.remove()
    return features, torch.cat([quarters[place.module] for place in maps], 1) if maps else features.new_zeros(len(x), 0)


def _keep(outputs: dict[str, Tensor], name: str, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
    outputs[name] = dense(output) if isinstance(output, Tensor) else output


def _is_map_of(output: object, features: Tensor) -> bool:
    if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[:2] != features.shape or output[0, 0].numel() == 1:
        return False
    return torch.allclose(output.mean((2, 3)), features, rtol=1e-3, atol=1e-4 * float(features.abs().max()))


def class_activation(model: Classifier, place: FeatureMap, x: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, n_labels) logits as of `model(x)`, and (batch, n_labels, height, width) the logits of each place, whose mean they are.

    Class activation mapping (Zhou et al. 2016): the head, which sees the mean of the places, asked of each place alone.
    """
    features, places = with_map(model.extractor, place, x)
    return model.head(features), F.conv2d(places, model.head.weight[:, :, None, None], model.head.bias)


def with_map(extractor: nn.Module, place: FeatureMap, x: Tensor) -> tuple[Tensor, Tensor]:
    """The extractor's features of `x`, and the feature map (batch, width, height, width of the map) that they are the average of."""
    maps: dict[str, Tensor] = {}
    hook = extractor.get_submodule(place.module).register_forward_hook(partial(_keep, maps, "last"))
    try:
        features = extractor(x)
    finally:
        hook.remove()
    return features, maps["last"]

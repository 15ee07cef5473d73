"""What computes a model's answers on many pictures: torch, or ONNX Runtime in float32, which is faster on a CPU (docs/speed.md).

ONNX Runtime needs the packages of requirements-onnx.txt. The network as ONNX takes seconds to write, so it is kept in the cache.
"""

import copy
import hashlib
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from panorama import hardware
from panorama.cache import Kept
from panorama.checkpoint import ModelCard
from panorama.errors import PanoramaError
from panorama.model import Classifier
from panorama.onnx import PACKAGES, exported

Choice = Literal["auto", "torch", "onnx"]
# normalised pictures (batch, 3, side, side) -> what waits for their logits (batch, n_labels), which may be computed meanwhile
Network = Callable[[Tensor], Callable[[], Tensor]]
Engine = Callable[
    [Classifier, ModelCard], Network
]  # a model without BatchNorms (`folding.for_inference`) and its card -> what computes it
PAYS_FROM = 5000  # pictures: from about here on (4,600 to 7,000, docs/speed.md) writing the network as ONNX, once a model, takes no more time than it saves
_AT_ONCE = 4  # pictures a thread: 2 to 8 were as fast, 16 and more slower
_VERSION = 1  # part of the key of a kept network: raise it when the same model is written in another way


def plain(model: Classifier, card: ModelCard) -> Network:  # noqa: ARG001
    """The model itself, which computes when its logits are asked for: it takes all cores, whoever else may want one."""
    return lambda x: lambda: model(x)


def choose(choice: Choice, n_pictures: int, cache: Path) -> Engine:
    """The engine for `n_pictures`; "auto" is ONNX Runtime where it is installed, there is no GPU and the pictures are many, else torch.

    cache: where networks are kept. Raises PanoramaError when "onnx" is asked for and its packages are missing.
    """
    if choice == "torch":
        return plain
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if choice == "onnx":
        if missing:
            raise PanoramaError(
                f"ONNX Runtime needs the package {missing[0]}: pip install -r requirements-onnx.txt, or leave --engine out."
            )
        return lambda model, card: OnnxRuntime(model, card, cache)
    if missing or n_pictures < PAYS_FROM or hardware.device().type != "cpu":
        return plain
    return lambda model, card: _onnx_or_plain(model, card, cache)


class OnnxRuntime:
    """A model's logits, computed by ONNX Runtime on as many threads as torch has.

    Each thread takes a few pictures of its own at a time. On two cores that is a sixth less work than a whole batch on both: what
    one layer writes for the next stays in a core's cache, and no core waits for the other after every layer. Batches may be given
    before others are ready, so that no core waits at the end of each either.
    Raises PanoramaError when the backbone cannot be written as ONNX.
    """

    def __init__(self, model: Classifier, card: ModelCard, cache: Path) -> None:
        import onnxruntime

        network = _kept(model, card, cache)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="onnx")

    def __call__(self, x: Tensor) -> Callable[[], Tensor]:
        """Begins; what it gives waits for the logits (batch, n_labels), which are where `x` is."""
        size = min(_AT_ONCE, math.ceil(len(x) / self._threads))
        parts = [self._pool.submit(self._logits, part) for part in torch.split(x.cpu(), size)]
        return lambda: torch.cat([part.result() for part in parts]).to(x.device)

    def _logits(self, x: Tensor) -> Tensor:
        (logits,) = self._session.run(None, {"images": x.contiguous().numpy()})
        return torch.from_numpy(logits)


def _onnx_or_plain(model: Classifier, card: ModelCard, cache: Path) -> Network:
    try:
        return OnnxRuntime(model, card, cache)
    except Exception as problem:  # nobody asked for ONNX Runtime: whatever it cannot do, torch can
        print(f"panorama: going on with torch, for ONNX Runtime could not be used ({problem})", file=sys.stderr)
        return plain(model, card)


def _kept(model: Classifier, card: ModelCard, cache: Path) -> bytes:
    """The network as ONNX, from the cache where it is there and whole."""
    of = (_VERSION, card.sha256, card.image_size, *(f"{name} {version(name)}" for name in ("torch", *PACKAGES)))
    kept = Kept(cache, hashlib.sha256(repr(of).encode()).hexdigest())
    found = kept.read()
    if found is None:
        found = _written(model, card)
        kept.write(found)
    return found


def _written(model: Classifier, card: ModelCard) -> bytes:
    # A copy, for `to` changes a model in place; in the order of memory that ONNX has.
    network: nn.Module = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    try:
        program = exported(network, torch.zeros(2, 3, card.image_size, card.image_size), "images", "logits")
        return bytes(program.SerializeToString())
    except PanoramaError:
        raise
    except Exception as error:  # torch's exporter and protobuf have many types
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise PanoramaError(f"{card.backbone} cannot be written as ONNX ({reason}). Use --engine torch.") from error

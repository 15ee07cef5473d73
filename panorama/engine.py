"""What computes a model's answers on many pictures: torch, or ONNX Runtime in float32, which is faster on some CPUs (docs/speed.md).

ONNX Runtime needs the packages of requirements-onnx.txt. The network as ONNX takes seconds to write, so it is kept in the cache.
"""

import copy
import hashlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from panorama import blocked, hardware
from panorama.cache import Kept
from panorama.checkpoint import ModelCard
from panorama.errors import PanoramaError
from panorama.model import Classifier
from panorama.onnx import PACKAGES, exported

Choice = Literal["auto", "torch", "onnx"]
PAYS_FROM = 5000  # pictures: from about here on (4,600, docs/speed.md) writing the network as ONNX, once a model, takes no more time than it saves
_MOST_LANES = 4  # of torch; more were not tried, and memory goes with what all compute at once
_OF_TWO_LANES, _OF_MORE = 32, 16  # pictures at once: a lane of two takes a twentieth longer with 16, a tenth with 8
_LANES_PAY_FROM = 256  # pictures: with few a lane may have nothing to do
_AT_ONCE = 4  # pictures a lane of ONNX Runtime: 2 to 8 were as fast, 16 and more slower
_VERSION = 1  # part of the key of a kept network: raise it when the same model is written in another way

_Work = TypeVar("_Work")
_Done = TypeVar("_Done")


class Lanes:
    """Threads of which each takes a few pictures from file to answer, with one thread of torch to compute with.

    No core waits for another after every layer of a network, nor for one that decodes a picture meanwhile. at_once: pictures a lane.
    """

    def __init__(self, n: int, at_once: int) -> None:
        self.at_once, self._n = at_once, n
        threads, ready = torch.get_num_threads(), threading.Barrier(n + 1)

        def prepare() -> None:
            torch.get_num_threads()  # a thread's first use of torch sets it to the number of all
            torch.set_num_threads(1)  # of this lane, and of threads that are yet to come
            ready.wait()

        self._pool = ThreadPoolExecutor(n, thread_name_prefix="lane", initializer=prepare)
        try:
            for _ in range(n):
                self._pool.submit(lambda: None)
            ready.wait()
        except BaseException:
            ready.abort()
            raise
        finally:
            torch.set_num_threads(threads)

    def map(self, work: Callable[[_Work], _Done], parts: Iterable[_Work]) -> Iterator[_Done]:
        """What `work` makes of each part, in order; as many parts are taken ahead as keep all lanes busy."""
        waiting: deque[Future[_Done]] = deque()
        try:
            for part in parts:
                waiting.append(self._pool.submit(work, part))
                while waiting and (len(waiting) > 2 * self._n or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@dataclass(frozen=True)
class Network:
    """What computes a model's logits, and the lanes it does that in where it is faster so.

    logits: normalised pictures (batch, 3, side, side) -> (batch, n_labels); all lanes may call it at the same time.
    """

    logits: Callable[[Tensor], Tensor]
    lanes: Lanes | None = None


Engine = Callable[
    [Classifier, ModelCard], Network
]  # a model without BatchNorms (`folding.for_inference`) and its card -> what computes it


def plain(model: Classifier, card: ModelCard) -> Network:  # noqa: ARG001
    """The model itself, a batch at a time: on a CPU it takes all cores, whoever else may want one."""
    return Network(model)


def in_lanes(model: Classifier, card: ModelCard) -> Network:
    """The model itself in lanes, on a CPU of 2 to 4 cores whose threads keep their memory (else lanes lose more than they gain); or `plain`.

    For programs in which nobody traces meanwhile (`fusing.TRACING`) or looks inside the model (`Predictor.heat`).
    """
    threads = torch.get_num_threads()
    on_cpu = next(model.parameters()).device.type == "cpu"
    if not (on_cpu and 1 < threads <= _MOST_LANES and hardware.keeps_memory_of_threads()):
        return plain(model, card)
    return Network(model, Lanes(threads, _OF_MORE if threads > 2 else _OF_TWO_LANES))


def choose(choice: Choice, n_pictures: int, cache: Path) -> Engine:
    """The engine for `n_pictures`; "auto" is ONNX Runtime for many on a CPU, where it is installed and clearly faster, else torch.

    For programs that do nothing else meanwhile. cache: where networks are kept. Raises PanoramaError when "onnx" is asked for and its
    packages are missing.
    """
    by_torch = in_lanes if n_pictures >= _LANES_PAY_FROM else plain
    if choice == "torch":
        return by_torch
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if choice == "onnx":
        if missing:
            raise PanoramaError(
                f"ONNX Runtime needs the package {missing[0]}: pip install -r requirements-onnx.txt, or leave --engine out."
            )
        return lambda model, card: by_onnx_runtime(model, card, cache)
    if missing or n_pictures < PAYS_FROM or hardware.device().type != "cpu":
        return by_torch
    return lambda model, card: _onnx_or_torch(model, card, cache)


def by_onnx_runtime(model: Classifier, card: ModelCard, cache: Path) -> Network:
    """The model in ONNX Runtime, in as many lanes as torch has threads, whose few pictures at once stay in their core's cache.

    Raises PanoramaError when the backbone cannot be written as ONNX.
    """
    import onnxruntime

    network = _kept(model, card, cache)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def logits(x: Tensor) -> Tensor:
        (found,) = session.run(None, {"images": x.cpu().contiguous().numpy()})
        return torch.from_numpy(found).to(x.device)

    return Network(logits, Lanes(torch.get_num_threads(), _AT_ONCE))


def _onnx_or_torch(model: Classifier, card: ModelCard, cache: Path) -> Network:
    if blocked.is_used(model.extractor):  # torch is as fast then, or nearly
        return in_lanes(model, card)
    try:
        return by_onnx_runtime(model, card, cache)
    except Exception as problem:  # nobody asked for ONNX Runtime: whatever it cannot do, torch can
        print(f"panorama: going on with torch, for ONNX Runtime could not be used ({problem})", file=sys.stderr)
        return in_lanes(model, card)


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

"""What this machine computes on, and in which precision it is fast."""

import copy
import ctypes
import functools
import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from panorama.config import Precision, TrainConfig
from panorama.files import write_atomically
from panorama.folding import for_inference
from panorama.fusing import refused
from panorama.model import Classifier, prepare_phase
from panorama.steps import Gradients

_CLEARLY_FASTER, _HOPELESS = 1.15, 0.25
_VERSION = 7  # part of what a measurement is kept under: raise it when steps or passes change their speed
_TRIED_ON, _ROUNDS = 16, 3  # pictures, of which the fastest counts
_GLANCES = 2  # rounds with a single picture
_LEAST_PASS = 8
_smaller_passes = 1
# glibc's mallopt
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_is_cpu_only = _keeps_memory_of_threads = False


@dataclass(frozen=True)
class Precisions:
    """float32 or bfloat16, for training steps and for feature passes: a CPU may be fast at one and not at the other.

    What a trained model answers is always computed in float32: in bfloat16 single probabilities move by up to 0.3 (docs/speed.md).
    """

    training: torch.dtype
    features: torch.dtype


def device() -> torch.device:
    """CUDA where there is a GPU (of this process, where several train together), else the CPU."""
    has_gpu = torch.cuda.is_available() and not _is_cpu_only
    return torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")


def use_cpu() -> None:
    """From now on this process computes on the CPU."""
    global _is_cpu_only
    _is_cpu_only = True


def batch_size(where: torch.device) -> int:
    """Pictures a forward pass: on a CPU what was fast (benchmarks/forward.py); on a GPU a guess, or less where its memory did not do."""
    return max(_LEAST_PASS, 256 // _smaller_passes) if where.type == "cuda" else 32


def halve_passes() -> None:
    """From now on the forward passes of this process on a GPU take half as many pictures."""
    global _smaller_passes
    _smaller_passes *= 2


def free_memory(where: torch.device) -> int:
    """Bytes of a GPU that nobody uses; 0 on a CPU, and where the memory was once found too small."""
    if where.type != "cuda" or _smaller_passes > 1:
        return 0
    kept_by_torch = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
    return torch.cuda.mem_get_info(where)[0] + kept_by_torch


def moved(tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
    """`tensor`, which is on the CPU, on `where`; sent to a GPU without waiting until it has done what it was given before."""
    return tensor.pin_memory().to(where, non_blocking=True) if where.type == "cuda" else tensor.to(where)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory. PyTorch has a type of its own for a GPU's only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def describe(where: torch.device) -> str:
    """The device in words."""
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    return f"CPU, {torch.get_num_threads()} threads"


def keep_memory(*, of_threads: bool = False) -> None:
    """Asks the C library to keep freed memory for the next batch; for processes that train or predict, not for servers.

    glibc gives blocks as large as a batch's activations back to the system each time, and the page faults of getting them again
    take about as long as the computing (benchmarks/forward.py). Does nothing where the C library is another.
    of_threads: where several threads compute, each batches of its own. What they get from arenas of their own it gives back whatever it
    is asked; so all get it from one. To be said before there are threads.
    """
    global _keeps_memory_of_threads
    if platform.libc_ver()[0] != "glibc":
        return
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, -1)  # never
        if not libc.mallopt(_MMAP_THRESHOLD, 2**30):
            libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # the most that some versions take
        if of_threads:
            _keeps_memory_of_threads = bool(libc.mallopt(_ARENA_MAX, 1))


def keeps_memory_of_threads() -> bool:
    """Whether `keep_memory` was asked to, and could."""
    return _keeps_memory_of_threads


def give_back_memory() -> None:
    """Gives what `keep_memory` kept back to the system; where other work follows than batches of one kind, whose blocks do not fit it."""
    if platform.libc_ver()[0] != "glibc":
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def precisions(config: TrainConfig, model: Classifier, cache: Path) -> Precisions:
    """As asked, or for "auto" what measured training steps and forward passes of this very backbone say is faster here.

    A measurement (seconds for a small backbone) is kept in `cache`, so that runs on one machine agree.
    """
    if config.precision != "auto":
        wanted = _dtype(config.precision)
        return Precisions(wanted, wanted)
    where, name = model.head.weight.device, f"{config.backbone} | {config.image_size}"
    is_hopeless = functools.cache(
        lambda: where.type == "cpu" and (refused(torch.bfloat16) or _is_hopeless(_forward_pass(model, config)))
    )
    return Precisions(
        _measured(f"training | {config.unfreezes} | {name}", where, cache, is_hopeless, lambda: _training_step(model, config)),
        _measured(f"features | {name}", where, cache, is_hopeless, lambda: _forward_pass(model, config)),
    )


def times_slower_in_bfloat16(model: Classifier, config: TrainConfig) -> float:
    """How many times as long as in float32 the forward pass of a picture takes here in bfloat16, roughly: two tries each."""
    return 1 / _forward_pass(model, config).speed_up(1, _GLANCES)


def _measured(
    what: str, where: torch.device, cache: Path, is_hopeless: Callable[[], bool], trial: Callable[[], "_Trial"]
) -> torch.dtype:
    key = f"{_VERSION} | {torch.__version__} | {describe(where)} | {_processor()} | {what}"
    file = cache / "precision.json"
    try:
        known = dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        known = {}
    if key not in known:
        try:
            known[key] = "float32" if is_hopeless() else _faster(trial())
        except torch.OutOfMemoryError:  # of a GPU: training, whose pictures are smaller at first, may yet do with half as much
            return torch.bfloat16
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps(known, indent=1).encode())
    return _dtype(known[key])


def _processor() -> str:
    """The processor and what it can do: a workspace may move to another machine, and bfloat16 be twenty times slower there."""
    # Not in every PyTorch; without it a move may go unnoticed.
    abilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    able = sorted(name for name, has in abilities.items() if has is True)
    return " ".join([str(abilities.get("cpu_name", platform.processor())), *able])


def _dtype(name: str) -> torch.dtype:
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _training_step(model: Classifier, config: TrainConfig) -> "_Trial":
    trained = copy.deepcopy(model)
    prepare_phase(trained, "fine tuning", unfreeze=config.unfreezes, pretrained=True)
    n_processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    gradients: Gradients | None = None

    def step(x: torch.Tensor, dtype: torch.dtype) -> None:
        nonlocal gradients
        if gradients is None or (x.is_cuda and gradients.dtype is not dtype):
            gradients = None  # a GPU has not always room for the recordings of both
            gradients = Gradients(trained, dtype, record=n_processes == 1)
        gradients.dtype = dtype
        gradients(x, torch.zeros(len(x), model.head.out_features, device=x.device))

    where = model.head.weight.device
    return _Trial(step, where, config.image_size, _tried_on(max(1, config.batch_size // n_processes), where))


def _forward_pass(model: Classifier, config: TrainConfig) -> "_Trial":
    network = for_inference(model)

    @torch.no_grad()
    def forward(x: torch.Tensor, dtype: torch.dtype) -> None:
        with torch.autocast(x.device.type, dtype, enabled=dtype is not torch.float32):
            network(x)

    where = model.head.weight.device
    return _Trial(forward, where, config.image_size, _tried_on(batch_size(where), where))


def _tried_on(pictures: int, where: torch.device) -> int:
    """On a GPU as many as the work takes at a time: fewer say little there, and it prepares itself for each number, which takes seconds."""
    return pictures if where.type == "cuda" else min(_TRIED_ON, pictures)


@dataclass(frozen=True)
class _Trial:
    compute: Callable[[torch.Tensor, torch.dtype], None]
    where: torch.device
    image_size: int
    pictures: int

    def speed_up(self, pictures: int, rounds: int) -> float:
        """How many times as fast bfloat16 is as float32, the fastest of a few rounds each.

        On a CPU they are taken in turn: other programs then disturb both. A GPU gets ready in the first round of each.
        """
        shape = (pictures, 3, self.image_size, self.image_size)
        x = torch.zeros(shape, device=self.where).contiguous(memory_format=torch.channels_last)
        best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
        order = sorted([*best] * rounds, key=[*best].index) if self.where.type == "cuda" else [*best] * rounds
        for dtype in order:
            best[dtype] = min(best[dtype], self._seconds(x, dtype))
        return best[torch.float32] / best[torch.bfloat16]

    def _seconds(self, x: torch.Tensor, dtype: torch.dtype) -> float:
        start = time.perf_counter()
        self.compute(x, dtype)
        if self.where.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def _is_hopeless(forward: _Trial) -> bool:
    """Whether a single picture already says that bfloat16 is not for this CPU.

    With few instructions for it a step is up to twenty times slower, and all rounds would take a minute.
    """
    return forward.speed_up(1, _GLANCES) < _HOPELESS


def _faster(trial: _Trial) -> Precision:
    return "bfloat16" if trial.speed_up(trial.pictures, _ROUNDS) > _CLEARLY_FASTER else "float32"

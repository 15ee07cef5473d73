"""oneDNN's blocked format of memory for what is not trained, on a CPU with AVX2 or AVX-512: the same numbers up to rounding, in less time.

There eight channels of a place lie side by side, sixteen with AVX-512, then the next place's (nChw8c, nChw16c), which is what oneDNN's depthwise
convolutions are fastest on: MobileNetV2 gains 1.2 to 1.3 times with AVX2 alone and 1.1 with AVX-512 (`benchmarks/blocked.py`), networks without
grouped convolutions nothing, and in bfloat16 it loses. PyTorch hands such tensors on from layer to layer (`Tensor.to_mkldnn`), but knows few
operations on them. So layers are given them where a first picture of every shape got its plain answer that way.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ROUNDING = 1e-4  # of the largest value; 1e-6 was seen


def adopt(extractor: nn.Module) -> None:
    """Makes `extractor`, which has no BatchNorms left, compute so where this machine gains by it."""
    _adopt([extractor])


def adopt_first(extractor: nn.Module, n: int) -> None:
    """The same for the first `n` modules of its `features` (`first`)."""
    _adopt(first(extractor)[:n])


def first(extractor: nn.Module) -> list[nn.Module]:
    """The modules of an extractor's `features`, each of which is given what the one before gives; none where it is written in another way."""
    features = getattr(extractor, "features", None)
    return list(features) if isinstance(features, nn.Sequential) else []


def use(parts: Sequence[nn.Module]) -> None:
    """Makes `parts`, each of which is given what the one before gives, compute so wherever that gives the plain answer, whatever the machine."""
    if is_used(parts[0]):
        return  # a copy of one that does already
    inside = _Blocked(parts)
    parts[0].register_forward_pre_hook(inside.enter)
    parts[-1].register_forward_hook(inside.leave)


def is_used(part: nn.Module) -> bool:
    """Whether `part` is the first of modules that compute so."""
    return any(isinstance(getattr(hook, "__self__", None), _Blocked) for hook in part._forward_pre_hooks.values())


def dense(x: Tensor) -> Tensor:
    """`x` as any other code takes it: for hooks, which see what layers hand to each other."""
    if not x.is_mkldnn:
        return x
    return x.to_dense().contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.contiguous_format)


def _adopt(parts: Sequence[nn.Module]) -> None:
    convolutions = [module for part in parts for module in part.modules() if isinstance(module, nn.Conv2d)]
    if _pays([convolution for convolution in convolutions if convolution.groups > 1]) and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        use(parts)


def _pays(grouped: list[nn.Conv2d]) -> bool:
    if (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
    ):  # with wider groups, some gain a tenth and others lose a fifth (docs/decisions.md)
        return bool(grouped) and all(convolution.groups == convolution.in_channels for convolution in grouped)
    return bool(grouped) and torch.backends.cpu.get_cpu_capability() == "AVX2"


class _Blocked:
    """The hooks before the first of some modules and after the last. They stay the modules they are, with their names, for whoever looks inside."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        self._parts = parts
        self._agrees: dict[tuple[int, ...], bool] = {}  # of a picture's shape

    def enter(self, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        x = given[0]
        if (
            torch.compiler.is_compiling()  # first: an export would take what follows, the number of pictures, for a part of the network
            or not isinstance(x, Tensor)  # torch.fx traces with something else
            or x.device.type != "cpu"
            or x.is_mkldnn
            or x.dtype is not torch.float32
            or not len(x)
            or torch.is_autocast_enabled("cpu")
            or self._learns(x)
        ):
            return None
        shape = tuple(x.shape[1:])
        if shape not in self._agrees:
            self._agrees[shape] = self._gives_the_plain_answer(x[:1])
        return (x.to_mkldnn(),) if self._agrees[shape] else None

    @staticmethod
    def leave(_: nn.Module, __: tuple[Tensor, ...], found: Tensor) -> Tensor:
        return dense(found) if isinstance(found, Tensor) else found

    def _learns(self, x: Tensor) -> bool:
        return torch.is_grad_enabled() and (
            x.requires_grad or any(parameter.requires_grad for part in self._parts for parameter in part.parameters())
        )

    def _gives_the_plain_answer(self, x: Tensor) -> bool:
        expected = self._run(x)
        try:
            found = dense(self._run(x.to_mkldnn()))
        except (RuntimeError, TypeError, ValueError):  # some layer is unknown to PyTorch in this format
            return False
        largest = float(expected.abs().max())
        return math.isfinite(largest) and torch.allclose(found, expected, rtol=0, atol=_ROUNDING * largest)

    def _run(self, x: Tensor) -> Tensor:
        for part in self._parts:
            x = part.forward(x)  # without the hooks of this class
        return x

"""ReLU computed inside the convolution before it, where nothing is learned, on a CPU: the same numbers up to rounding, for one pass over memory less.

oneDNN, which computes PyTorch's convolutions on most CPUs, takes an activation along and applies it before a result leaves the core. PyTorch
uses that in `torch.compile` alone (which takes minutes), through an operator that is not public. So it is tried when it is first needed, and
used where it is there and gives the plain answer.
"""

import functools
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import Tracer

from panorama.activations import ReLU6InPlace
from panorama.depthwise import StridedDepthwise
from panorama.model import replace

_OPERATOR = "_convolution_pointwise"  # of torch.ops.mkldnn
_PRECISIONS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # and what rounding may differ by in them
# name and numbers, as the operator wants them
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float | None]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    ReLU6InPlace: ("hardtanh", [0.0, 6.0]),
}

# torch.fx puts its own in the place of every module's call, in all threads, while it traces: whoever traces holds this, and whoever computes
# where others may trace.
TRACING = threading.RLock()


class ConvolutionAndReLU(nn.Conv2d):
    """A convolution and the ReLU or ReLU6 after it. Made of a Conv2d by `fuse`; where something is learned, the two one after the other."""

    activation: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        # The operator has no backward pass, and an export (is_compiling) is written with public ones.
        is_learning = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if x.device.type != "cpu" or is_learning or torch.compiler.is_compiling() or not _gives_the_plain_answer(dtype):
            plain: Tensor = self.activation(super().forward(x))
            return plain
        return _computed(self, x, dtype)


def fuse(network: nn.Module, may: Callable[[str], bool] = lambda convolution: True) -> None:
    """Fuses every pair of a convolution that `may`, by its name, and the ReLU that alone reads it, in place, where this machine can.

    A network with a weight that is not a finite number stays as it is: the operator would turn what is not a number into 0, and a network
    that is destroyed would seem to answer.
    """
    answered = [dtype for dtype in _PRECISIONS if _gives_the_plain_answer(dtype)]  # all asked here, not in the middle of a pass
    if not answered or not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
        return
    for name, activation in pairs(network, nn.Conv2d, lambda module: type(module) in _ACTIVATIONS).items():
        convolution = network.get_submodule(name)
        if isinstance(convolution, nn.Conv2d) and _is_plain(convolution) and may(name):
            _join(convolution, network.get_submodule(activation))
            replace(network, activation, nn.Identity())


def pairs(
    network: nn.Module, first: type[nn.Module] | tuple[type[nn.Module], ...], then: Callable[[nn.Module], bool]
) -> dict[str, str]:
    """The modules that are the only reader of a `first` module and are `then`, by the name of that module; Identity between counts as nothing."""
    try:
        with TRACING:
            graph = _ByModules().trace(network)
    except Exception:  # control flow that depends on the picture: some transformers, which have no such pairs
        return {}
    modules = dict(network.named_modules())
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    found: dict[str, str] = {}
    for node in graph.nodes:
        if (
            node.op != "call_module"
            or not isinstance(modules[node.target], first)
            or type(modules[node.target]) is ConvolutionAndReLU
        ):
            continue
        reader = node
        while len(reader.users) == 1:
            (reader,) = reader.users
            if reader.op != "call_module" or not isinstance(modules[reader.target], nn.Identity):
                break
        if (
            reader.op == "call_module"
            and calls.count(node.target) == calls.count(reader.target) == 1
            and then(modules[reader.target])
        ):
            found[node.target] = reader.target
    return found


def refused(dtype: torch.dtype) -> bool:
    """Whether the operator is there, but not for `dtype`: oneDNN has it where the CPU has instructions for it."""
    return _gives_the_plain_answer(torch.float32) and not _gives_the_plain_answer(dtype)


def _is_plain(convolution: nn.Conv2d) -> bool:
    known = type(convolution) in (nn.Conv2d, StridedDepthwise)
    return known and convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


class _ByModules(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in (StridedDepthwise, ConvolutionAndReLU, ReLU6InPlace) or super().is_leaf_module(m, module_qualified_name)


def _join(convolution: nn.Conv2d, activation: nn.Module) -> "ConvolutionAndReLU":
    convolution.__class__ = ConvolutionAndReLU
    assert isinstance(convolution, ConvolutionAndReLU)
    convolution.activation = activation
    return convolution


def _computed(convolution: "ConvolutionAndReLU", x: Tensor, dtype: torch.dtype) -> Tensor:
    name, numbers = _ACTIVATIONS[type(convolution.activation)]
    given = [None if part is None else part.to(dtype) for part in (x, convolution.weight, convolution.bias)]
    found: Tensor = getattr(torch.ops.mkldnn, _OPERATOR)(
        *given, convolution.padding, convolution.stride, convolution.dilation, convolution.groups, name, numbers, ""
    )
    return found


@functools.cache
def _gives_the_plain_answer(dtype: torch.dtype) -> bool:
    """Whether the operator is there and gives the plain answer for the kinds of convolution that networks have.

    In bfloat16 it refuses to work on a CPU that has no instructions for it.
    """
    if dtype not in _PRECISIONS:
        return False
    error = _PRECISIONS[dtype]
    try:
        with (
            TRACING,
            torch.random.fork_rng(devices=[]),
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16),
        ):
            torch.manual_seed(0)
            x = torch.randn(2, 16, 9, 9).contiguous(memory_format=torch.channels_last) * 4
            kinds = [nn.Conv2d(16, 16, 3, 2, 1, groups=16), nn.Conv2d(16, 24, 1), nn.Conv2d(16, 8, 3, padding=1, bias=False)]
            for convolution, activation in ((kind, kind_of) for kind in kinds for kind_of in (nn.ReLU(), nn.ReLU6())):
                expected = activation(nn.Conv2d.forward(convolution, x))
                if not torch.allclose(_computed(_join(convolution, activation), x, dtype), expected, rtol=error, atol=error):
                    return False
    except (RuntimeError, AttributeError, NotImplementedError, TypeError):
        return False
    return True

"""Depthwise convolutions with a stride, whose backward pass in bfloat16 PyTorch computes slowly on a CPU.

What is slow is the gradient of the input, more than ten times as slow as in float32: half of a training step of MobileNetV2. A convolution with a stride is
one without, of which only every so many places are kept. So that gradient is the one of the convolution without a stride, given zero at the
places that are left out, and that one is fast.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_Pair = tuple[int, int]


class StridedDepthwise(nn.Conv2d):
    """The same convolution; where a CPU trains in lower precision with another backward pass. Made of a Conv2d by `adopt`."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.device.type != "cpu" or not x.requires_grad or not torch.is_autocast_enabled("cpu"):
            plain: Tensor = super()._conv_forward(x, weight, bias)
            return plain
        dtype = torch.get_autocast_dtype("cpu")
        given = [None if part is None else part.to(dtype) for part in (x, weight, bias)]
        found: Tensor = _Convolution.apply(*given, self.stride, self.padding, self.dilation)
        return found


def adopt(network: nn.Module) -> None:
    """Makes the strided depthwise convolutions of `network` compute their gradients this way."""
    for module in network.modules():
        if _is_strided_depthwise(module):
            module.__class__ = StridedDepthwise


def _is_strided_depthwise(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels > 1
        and max(module.stride) > 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Pair, padding: _Pair, dilation: _Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.places = stride, padding, dilation
        return torch.conv2d(x, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        channels = len(weight)
        stride, padding, dilation = ctx.places
        of_input, of_weight, of_bias, *_ = ctx.needs_input_grad

        def gradients(given: Tensor, step: _Pair, wanted: list[bool]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
            found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
                given, x, weight, [channels], step, padding, dilation, False, [0, 0], channels, wanted
            )
            return found

        _, for_weight, for_bias = gradients(gradient, stride, [False, of_weight, of_bias])
        for_input = None
        if of_input:
            for_input = gradients(_without_stride(gradient, x, weight, *ctx.places), (1, 1), [True, False, False])[0]
        return for_input, for_weight, for_bias, None, None, None


def _without_stride(gradient: Tensor, x: Tensor, weight: Tensor, stride: _Pair, padding: _Pair, dilation: _Pair) -> Tensor:
    """The gradient of what the convolution of x (batch, channels, height, width) without a stride gives: zero at the places left out."""
    height, width = (x.shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (weight.shape[2 + axis] - 1) for axis in (0, 1))
    whole = torch.empty((*gradient.shape[:2], height, width), dtype=gradient.dtype, memory_format=torch.channels_last).zero_()
    whole[:, :, :: stride[0], :: stride[1]] = gradient
    return whole

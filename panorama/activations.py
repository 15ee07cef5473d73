"""ReLU6 in training, computed in place without the copy that PyTorch makes.

`hardtanh_` keeps a copy of what it overwrites for its backward pass, which asks only where the result lies between 0 and 6; the result itself says that as
well. Without the copy a training step of MobileNetV2 takes 2 to 8 % less time, and the process a fifth less memory (docs/speed.md).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class ReLU6InPlace(nn.ReLU6):
    """The same function of the same input. Made of a ReLU6 that already works in place by `adopt`."""

    def forward(self, input: Tensor) -> Tensor:
        """Overwrites `input`, of any shape, as the module it was made of does."""
        if not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        found: Tensor = _Clamped.apply(input)
        return found


def adopt(network: nn.Module) -> None:
    """Makes every ReLU6 of `network` that works in place one that keeps no copy."""
    for module in network.modules():
        if type(module) is nn.ReLU6 and module.inplace:
            module.__class__ = ReLU6InPlace


class _Clamped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.clamp_(0, 6)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (found,) = ctx.saved_tensors
        of_input: Tensor = torch.ops.aten.hardtanh_backward(gradient, found, 0, 6)
        return of_input

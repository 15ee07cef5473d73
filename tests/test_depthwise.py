"""Strided depthwise convolutions have PyTorch's own gradients, whatever their stride, padding and dilation."""

import copy
import itertools

import pytest
import torch
from torch import nn

from panorama import depthwise

SHAPES = list(itertools.product([(2, 2), (2, 1), (3, 2)], [(0, 0), (1, 1), (2, 3)], [(3, 3), (5, 5), (2, 4)], [(1, 1), (2, 1)]))


def strided(kernel: tuple[int, int] = (3, 3), **options: object) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 4, kernel, groups=4, **options)  # type: ignore[arg-type]


def gradients(convolution: nn.Conv2d, x: torch.Tensor, *, lower: torch.dtype | None) -> list[torch.Tensor]:
    """Of the input, the weight and the bias, and what the convolution answers."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", lower or torch.bfloat16, enabled=lower is not None):
        y = convolution(x)
    is_ours = type(convolution) is depthwise.StridedDepthwise and lower is not None
    assert ("_ConvolutionBackward" in type(y.grad_fn).__name__) == is_ours, "whose backward pass it is"
    wave = torch.sin(torch.arange(y.numel(), dtype=torch.float32)).view(y.shape)
    (y.float() * wave).sum().backward()
    found = [x.grad, convolution.weight.grad] + ([] if convolution.bias is None else [convolution.bias.grad])
    assert all(part is not None for part in found)
    return [y.detach().float(), *(part for part in found if part is not None)]


@pytest.mark.parametrize(("stride", "padding", "kernel", "dilation"), SHAPES)
def test_gradients_are_pytorchs(
    stride: tuple[int, int], padding: tuple[int, int], kernel: tuple[int, int], dilation: tuple[int, int]
) -> None:
    plain = strided(kernel, stride=stride, padding=padding, dilation=dilation)
    ours = copy.deepcopy(plain)
    depthwise.adopt(ours)
    assert type(ours) is depthwise.StridedDepthwise
    x = torch.randn(3, 4, 13, 16, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=torch.channels_last)
    slow = gradients(plain, x, lower=torch.bfloat16)
    for found, expected in zip(gradients(ours, x, lower=torch.bfloat16), slow, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.01, atol=0.005 * float(expected.abs().max()))


def test_a_gradient_at_the_wrong_places_is_seen() -> None:
    """The negative control of the tolerance above: places one further are another gradient."""
    plain = strided(stride=2, padding=1)
    x = torch.randn(3, 4, 13, 16, generator=torch.Generator().manual_seed(1))
    right = gradients(plain, x, lower=None)[1]
    wrong = torch.roll(right, 1, dims=2)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong, right, rtol=0.01, atol=0.005 * float(right.abs().max()))


def test_without_a_bias_and_without_a_gradient_of_the_weight() -> None:
    plain = strided(stride=2, padding=1, bias=False)
    plain.weight.requires_grad_(False)
    ours = copy.deepcopy(plain)
    depthwise.adopt(ours)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for convolution, lower in ((plain, False), (ours, True)):
        given = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            convolution(given).float().square().sum().backward()
        assert convolution.weight.grad is None
        assert given.grad is not None
        found.append(given.grad)
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.05 * float(found[0].abs().max()))


def test_other_convolutions_stay_as_they_are() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, stride=2, groups=4), nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.Conv2d(4, 4, 3, stride=2, groups=4, padding=1, padding_mode="reflect"), nn.Conv2d(4, 4, 3, stride=2),
    )  # fmt: skip
    depthwise.adopt(network)
    assert [type(part) for part in network] == [nn.Conv2d] * 5


def test_in_float32_and_for_inference_it_is_the_plain_convolution() -> None:
    plain = strided(stride=2, padding=1)
    ours = copy.deepcopy(plain)
    depthwise.adopt(ours)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for one, two in zip(gradients(plain, x, lower=None), gradients(ours, x, lower=None), strict=True):
        assert torch.equal(one, two)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(x), ours(x))

"""ReLU6 without a copy: the function and the gradient of PyTorch's own, for less memory."""

import copy

import pytest
import torch
from torch import Tensor, nn

from panorama import activations
from panorama.activations import ReLU6InPlace
from panorama.folding import Folded
from panorama.model import build, prepare_phase


def adopted(module: nn.Module) -> nn.Module:
    activations.adopt(module)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_and_gradients_are_those_of_relu6(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 5, 4, 4, generator=generator) * 6
    drawn.view(-1)[:7] = torch.tensor(
        [0.0, 6.0, -0.0, 6.5, float("nan"), float("inf"), -float("inf")]
    )  # where the gradient jumps, and no numbers
    weights = torch.randn(drawn.shape, generator=generator).to(dtype)
    found = []
    for module in (nn.ReLU6(), adopted(nn.Sequential(nn.ReLU6(inplace=True)))):
        x = drawn.to(dtype).requires_grad_()
        y = module(x * 1)
        (y * weights).sum().backward()
        found.append((y.detach(), x.grad))
    assert found[0][0].isnan().sum() == 1
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0, equal_nan=True)


def test_only_what_works_in_place_already_is_adopted() -> None:
    """Others may hand their input on to someone else."""
    network = adopted(nn.Sequential(nn.ReLU6(), nn.ReLU6(inplace=True), nn.ReLU(inplace=True)))
    assert [type(module) for module in network.children()] == [nn.ReLU6, ReLU6InPlace, nn.ReLU]  # type: ignore[union-attr]


def test_a_step_keeps_fewer_tensors_for_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("mobilenet_v2", 2, seed=0).to(memory_format=torch.channels_last)
    prepare_phase(model, "fine tuning", unfreeze="all", pretrained=True)
    model.eval()  # no dropout
    x = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def step() -> tuple[int, list[Tensor]]:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        mine = copy.deepcopy(model)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = Folded(mine)(x).square().mean()
        loss.backward()
        return sum(kept.values()), [parameter.grad for parameter in mine.parameters() if parameter.grad is not None]

    less, gradients = step()
    monkeypatch.setattr(activations, "adopt", lambda network: None)
    more, expected = step()
    assert less < 0.8 * more
    assert len(gradients) == len(expected) > 100
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))


def test_gradients_of_gradients_are_refused_and_not_wrong() -> None:
    x = torch.ones(3, requires_grad=True)
    (first,) = torch.autograd.grad(adopted(nn.Sequential(nn.ReLU6(inplace=True)))(x * 1).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()

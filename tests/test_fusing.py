"""ReLU computed inside a convolution gives the plain answer up to rounding, or is not used."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from panorama import fusing
from panorama.folding import Folded, folded, for_inference
from panorama.fusing import ConvolutionAndReLU
from panorama.model import Classifier, build
from tests.test_folding import lived_in, pictures


@pytest.fixture(autouse=True)
def tried_anew() -> Iterator[None]:
    fusing._gives_the_plain_answer.cache_clear()
    yield
    fusing._gives_the_plain_answer.cache_clear()


def fused(network: nn.Module) -> int:
    return sum(isinstance(part, ConvolutionAndReLU) for part in network.modules())


def unfused(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> Classifier:
    with monkeypatch.context() as patch:
        patch.setattr(fusing, "_gives_the_plain_answer", lambda _: False)
        return for_inference(model)


def needs_the_operator() -> None:
    if not fusing._gives_the_plain_answer(torch.float32):
        pytest.skip("PyTorch's operator is not there on this machine, or does not give the plain answer")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "vgg11_bn", "densenet121", "mnasnet0_5"])
def test_the_answer_is_the_plain_one(backbone: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_the_operator()
    model = lived_in(backbone).eval().to(memory_format=torch.channels_last)
    one, other = for_inference(model), unfused(model, monkeypatch)
    assert fused(one) > 5
    assert not fused(other)
    x = pictures().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        exact = other(x)
        torch.testing.assert_close(
            one(x), exact, rtol=0, atol=(1e-5 if dtype is torch.float32 else 0.02) * float(exact.abs().max())
        )


def test_every_relu_of_mobilenet_is_fused_and_its_weights_are_found_by_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_the_operator()
    model = lived_in("mobilenet_v2").eval()
    network = for_inference(model)
    assert fused(network) == 35  # one stem, two a bottleneck but for one in the first, one last convolution
    assert not any(isinstance(part, nn.ReLU6) for name, part in network.named_modules() if not name.endswith("activation"))
    assert list(network.state_dict()) == list(unfused(model, monkeypatch).state_dict())


def test_without_the_operator_nothing_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusing, "_OPERATOR", "there_is_no_such_operator")
    model = lived_in("mobilenet_v2").eval()
    network = for_inference(model)
    assert not fused(network)
    with torch.inference_mode():
        assert network(pictures()) == pytest.approx(model(pictures()), rel=1e-3, abs=1e-4)


def test_an_operator_that_gives_other_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_the_operator()
    fusing._gives_the_plain_answer.cache_clear()
    computed = fusing._computed

    def nearly(*given: Any) -> Tensor:
        found: Tensor = computed(*given)
        return found * 1.02

    monkeypatch.setattr(fusing, "_computed", nearly)
    assert not fused(for_inference(lived_in("mobilenet_v2").eval()))


def test_a_cpu_without_bfloat16_still_fuses_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the operator refuses bfloat16, which is then computed the plain way."""
    needs_the_operator()
    fusing._gives_the_plain_answer.cache_clear()
    computed, asked = fusing._computed, []

    def refusing(convolution: ConvolutionAndReLU, x: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype is torch.bfloat16:
            raise RuntimeError("bf16 path needs the cpu support avx_ne_convert or avx512bw")
        asked.append(dtype)
        found: Tensor = computed(convolution, x, dtype)
        return found

    monkeypatch.setattr(fusing, "_computed", refusing)
    model = lived_in("mobilenet_v2").eval().to(memory_format=torch.channels_last)
    network = for_inference(model)
    x = pictures().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = model(x)
        network(x)  # a first picture of a shape may be tried in two formats
        asked.clear()
        assert network(x) == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert len(asked) == 35
        assert fusing.refused(torch.bfloat16)
        assert not fusing.refused(torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(network(x), folded(model)(x), rtol=0, atol=0.02 * float(expected.abs().max()))


def test_what_is_read_twice_is_not_fused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            found = self.relu(self.first(x))  # the same ReLU twice
            return (found + self.relu(self.second(found))).mean((2, 3))

    model = Classifier(Twice(), 4, 2).eval()
    network = for_inference(model)
    assert not fused(network)
    with torch.inference_mode():
        assert torch.equal(network(pictures()), model(pictures()))


def test_a_copy_elsewhere_and_training_do_not_see_it() -> None:
    """What is trained keeps its ReLUs, for the operator has no backward pass."""
    model = build("mobilenet_v2", 2, seed=0)
    for_inference(model)
    assert not fused(model)
    assert not fused(Folded(model))
    assert not fused(Folded(model).skeleton())


@pytest.mark.parametrize(
    "broken", ["extractor.features.0.0.weight", "extractor.features.18.0.weight", "extractor.features.3.conv.0.1.bias"]
)
def test_weights_that_are_not_numbers_are_not_hidden(broken: str) -> None:
    """oneDNN's ReLU makes 0 of what is not a number: a network that is destroyed would seem to answer."""
    model = lived_in("mobilenet_v2").eval()
    with torch.no_grad():
        model.get_parameter(broken).view(-1)[0] = float("nan")
        assert model(pictures()).isnan().any(), "the negative control: it shows in the plain network"
        assert for_inference(model)(pictures()).isnan().any()


def test_a_fused_network_still_has_gradients() -> None:
    model = lived_in("mobilenet_v2").eval()
    found = []
    for network in (folded(model), for_inference(model)):
        x = pictures().requires_grad_()
        network(x).square().sum().backward()
        assert x.grad is not None
        found.append(x.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5 * float(found[0].abs().max()))


def test_folding_twice_does_not_fold_a_norm_through_a_relu() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.relu, self.norm = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)
            self.norm.running_mean.fill_(0.5)  # type: ignore[union-attr]
            nn.init.constant_(self.norm.bias, 0.3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.norm(self.relu(self.convolution(x))).mean((2, 3))
            return found

    model = Classifier(Norm(), 4, 2).eval()
    with torch.inference_mode():
        assert for_inference(for_inference(model))(pictures()) == pytest.approx(model(pictures()), abs=1e-5)

"""A folded network is the same function with the same gradients, whatever the backbone; BatchNorms that learn stay."""

import pytest
import torch
from torch import nn

from panorama.config import Unfreeze
from panorama.folding import Folded, for_inference
from panorama.fusing import ConvolutionAndReLU, _gives_the_plain_answer
from panorama.model import Classifier, batchnorms, build, calibrate_batchnorm, prepare_phase


def lived_in(backbone: str) -> Classifier:
    """Random weights with BatchNorm statistics that are not 0 and 1, or folding wrongly would not show, and that let pictures through to the end.

    With statistics drawn at random MobileNetV2 answers all pictures alike.
    """
    model = build(backbone, 3, seed=0)
    calibrate_batchnorm(model, [torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))])
    torch.manual_seed(1)
    for norm in batchnorms(model):
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # type: ignore[arg-type]
        nn.init.uniform_(norm.bias, -0.3, 0.3)  # type: ignore[arg-type]
        norm.running_mean.add_(torch.empty_like(norm.running_mean).uniform_(-0.2, 0.2) * norm.running_var.sqrt())  # type: ignore[operator, union-attr, arg-type]
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 2.0))  # type: ignore[operator, union-attr, arg-type]
    nn.init.normal_(model.head.weight, std=0.1)
    return model


def pictures(side: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "backbone", ["mobilenet_v2", "resnet18", "efficientnet_b0", "densenet121", "shufflenet_v2_x0_5", "vgg11_bn", "mnasnet0_5"]
)
def test_a_folded_network_answers_as_the_plain_one(backbone: str) -> None:
    model = lived_in(backbone).eval()
    x = pictures()
    with torch.no_grad():
        assert for_inference(model)(x) == pytest.approx(model(x), rel=1e-3, abs=1e-4)
    assert len(list(batchnorms(for_inference(model)))) < len(list(batchnorms(model)))


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18", "vgg11_bn", "mnasnet0_5"])
def test_the_networks_of_these_tests_tell_pictures_apart(backbone: str) -> None:
    with torch.no_grad():
        one, other = lived_in(backbone).eval()(pictures())
    assert float((one - other).abs().max()) > 0.1 * float(one.abs().max())


def test_mobilenet_has_no_batchnorm_left() -> None:
    assert not list(batchnorms(for_inference(lived_in("mobilenet_v2"))))


def test_a_network_that_cannot_be_traced_or_has_no_batchnorm_goes_on_as_it_is() -> None:
    model = build("vit_b_32", 3, seed=0).eval()
    x = pictures(224)
    with torch.no_grad():
        assert for_inference(model)(x) == pytest.approx(model(x), abs=1e-5)


def test_gradients_are_those_of_the_plain_network() -> None:
    plain, other = lived_in("mobilenet_v2"), lived_in("mobilenet_v2")
    for model in (plain, other):
        prepare_phase(model, "fine tuning", unfreeze="all", pretrained=True)
        model.eval()  # no dropout: chance would differ
    plain(pictures()).square().sum().backward()
    Folded(other)(pictures()).square().sum().backward()
    expected, found = ([p.grad for p in model.parameters()] for model in (plain, other))
    for one, two in zip(expected, found, strict=True):
        assert one is not None
        assert two is not None
        torch.testing.assert_close(two, one, rtol=1e-2, atol=1e-3 * float(one.abs().max()))


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18", "vgg11_bn"])
@pytest.mark.parametrize("unfreeze", ["auto", 2])
def test_what_does_not_learn_is_fused_and_the_rest_learns_as_ever(backbone: str, unfreeze: Unfreeze) -> None:
    plain, other = lived_in(backbone), lived_in(backbone)
    for model in (plain, other):
        prepare_phase(model, "fine tuning", unfreeze=unfreeze, pretrained=True)
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    folded = Folded(other, fuse_frozen=True)
    for network in (plain, folded):
        network(pictures()).square().mean().backward()
    for (name, one), two in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None) == (not one.requires_grad), name
        if one.grad is not None:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-2, atol=1e-2 * float(one.grad.abs().max()), msg=name)
    fused = {name for name, part in folded.skeleton().named_modules() if isinstance(part, ConvolutionAndReLU)}
    learning = {name.rpartition(".")[0] for name, value in other.named_parameters() if value.requires_grad}
    assert not fused & learning
    if _gives_the_plain_answer(torch.float32):
        assert fused


@pytest.mark.parametrize("what", ["weight", "bias", "running_mean", "running_var"])
def test_a_frozen_norm_that_is_no_number_is_not_hidden(what: str) -> None:
    model = lived_in("mobilenet_v2")
    prepare_phase(model, "fine tuning", unfreeze="auto", pretrained=True)
    with torch.no_grad():
        getattr(model.extractor.features[0][1], what).fill_(float("nan"))
    assert Folded(model, fuse_frozen=True)(pictures()).isnan().all()


def test_the_parameters_are_the_models_own_and_a_step_is_seen_at_once() -> None:
    model = lived_in("mobilenet_v2").eval()
    folded = Folded(model)
    assert {id(p) for p in folded.parameters()} == {id(p) for p in model.parameters()}
    before = folded(pictures()).detach()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert folded(pictures()).detach() == pytest.approx(model(pictures()).detach(), rel=1e-3, abs=1e-4)
    assert (folded(pictures()) - before).abs().max() > 1e-3, "the negative control: the step changed something"


def test_statistics_that_are_learned_stay_and_are_learned() -> None:
    """Without pretraining BatchNorm is in train mode in fine tuning, and must not be folded."""
    plain, other = lived_in("mobilenet_v2"), lived_in("mobilenet_v2")
    for model in (plain, other):
        prepare_phase(model, "fine tuning", unfreeze="all", pretrained=False)
    torch.manual_seed(3)
    expected = plain(pictures()).detach()
    torch.manual_seed(3)
    found = Folded(other)(pictures()).detach()
    assert found == pytest.approx(expected, abs=1e-5)
    statistics = [
        torch.stack([norm.running_mean.mean() for norm in batchnorms(model)])  # type: ignore[union-attr]
        for model in (plain, other)
    ]
    assert statistics[0] == pytest.approx(statistics[1], abs=1e-6)


def test_a_copy_for_inference_does_not_move_with_the_model() -> None:
    model = lived_in("mobilenet_v2").eval()
    copy = for_inference(model)
    with torch.no_grad():
        before = copy(pictures())
        for parameter in model.parameters():
            parameter.mul_(1.1)
        assert torch.equal(copy(pictures()), before)


def test_a_convolution_that_is_read_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.norm.running_mean.fill_(0.5)  # type: ignore[union-attr]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = self.convolution(x)
            return (found + self.norm(found)).mean((2, 3))

    model = Classifier(Twice(), 4, 2).eval()
    with torch.no_grad():
        assert for_inference(model)(pictures()) == pytest.approx(model(pictures()), abs=1e-5)

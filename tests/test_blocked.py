"""A network computed in oneDNN's blocked format gives the plain answer up to rounding, or is not computed so."""

import copy

import pytest
import torch
from torch import Tensor, nn

from panorama import blocked
from panorama.folding import Folded, folded, for_inference
from panorama.fusing import fuse
from panorama.model import Classifier, early_maps, feature_map, prepare_phase, with_early, with_map
from tests.test_folding import lived_in, pictures

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN, whose format this is"
)


def computing_so(backbone: str) -> tuple[Classifier, Classifier]:
    """One that computes in the format, whatever this machine gains by it, and the plain one."""
    model = lived_in(backbone).eval().to(memory_format=torch.channels_last)
    network = folded(model)
    fuse(network)
    blocked.use([network.extractor])
    return network, model


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def formats(network: nn.Module, x: Tensor) -> set[bool]:
    """Whether the convolutions of `network` are given the format, in one pass."""
    seen: set[bool] = set()
    handles = [
        part.register_forward_pre_hook(lambda _, given: seen.add(given[0].is_mkldnn))
        for part in network.modules()
        if isinstance(part, nn.Conv2d)
    ]
    network(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "regnet_x_400mf", "resnet18"])
@pytest.mark.parametrize("side", [64, 75, 96])
def test_answers_are_the_plain_ones(backbone: str, side: int) -> None:
    network, model = computing_so(backbone)
    x = pictures(side)
    with torch.inference_mode():
        network(x)  # the first picture is tried in both formats
        assert formats(network, x) == {True}, "it does compute in the format"
        assert network(x) == pytest.approx(model(x), rel=1e-3, abs=1e-4)
        found, expected = network.extractor(x), model.extractor(x)
        assert not found.is_mkldnn
        assert close(found, expected)
        assert not close(found[:1], found[1:]), "pictures are told apart"


@pytest.mark.parametrize(
    "backbone", ["efficientnet_b0", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf", "mnasnet0_5"]
)
def test_a_network_with_a_layer_that_pytorch_does_not_know_in_the_format_computes_as_before(backbone: str) -> None:
    network, model = computing_so(backbone)
    x = pictures()
    with torch.inference_mode():
        assert network(x) == pytest.approx(model(x), rel=1e-3, abs=1e-4)
        assert formats(network, x) == {False}


def test_a_layer_that_answers_otherwise_in_the_format_keeps_the_network_from_it() -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) * 1.01 if x.is_mkldnn else torch.relu(x)

    class Right(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x)

    x = pictures()
    for activation, expected in ((Wrong(), {False}), (Right(), {True})):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 8, 3, groups=8)).eval()
        blocked.use([network])
        with torch.inference_mode():
            network(x)
            assert formats(network, x) == expected


def test_each_shape_of_pictures_is_tried_by_itself() -> None:
    """PyTorch averages to 2 x 2 places in the format where two divides the side, and not elsewhere."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(2)).eval()
    plain = copy.deepcopy(network)
    blocked.use([network])
    with torch.inference_mode():
        for side, expected in ((64, {True}), (65, {False}), (64, {True})):
            network(pictures(side))
            assert formats(network, pictures(side)) == expected
            assert network(pictures(side)) == pytest.approx(plain(pictures(side)), abs=1e-5)


@torch.no_grad()
def test_who_looks_inside_sees_what_layers_of_the_plain_network_hand_on() -> None:
    network, model = computing_so("mobilenet_v2")
    x = pictures(96)
    assert early_maps(network, 96) == early_maps(model, 96)
    early, expected = (with_early(of.extractor, early_maps(model, 96), x)[1] for of in (network, model))
    assert close(early, expected)
    place = feature_map(network, 96)
    assert place == feature_map(model, 96)
    assert place is not None
    assert close(with_map(network.extractor, place, x)[1], with_map(model.extractor, place, x)[1])


def test_weights_that_are_no_numbers_are_not_hidden() -> None:
    """RegNet's ReLUs are known in the format, and make 0 of what is not a number there."""
    for value, expected in ((0.5, {True}), (torch.nan, {False})):
        network = folded(lived_in("regnet_x_400mf").eval())  # whose ReLUs are not fused, for `fuse` refuses such weights too
        blocked.use([network.extractor])
        convolution = next(part for part in network.extractor.modules() if isinstance(part, nn.Conv2d))
        with torch.no_grad():
            convolution.weight[0] = value
            answers = network(pictures())
            assert bool(answers.isnan().any()) is (value is torch.nan)
            assert formats(network, pictures()) == expected


def test_only_a_machine_and_a_network_that_gain_compute_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine, backbone, expected in (
        ("AVX2", "mobilenet_v2", {True}),
        ("AVX2", "resnet18", {False}),
        ("AVX2", "regnet_x_400mf", {True}),
        ("AVX512", "mobilenet_v2", {True}),
        ("AVX512", "regnet_x_400mf", {False}),
        ("AVX512", "resnet18", {False}),
        ("DEFAULT", "mobilenet_v2", {False}),
    ):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda machine=machine: machine)
        network = for_inference(lived_in(backbone).eval())
        with torch.inference_mode():
            network(pictures())
            assert formats(network, pictures()) == expected, (machine, backbone)


def test_lower_precision_gradients_and_no_pictures_are_computed_as_before() -> None:
    network, _ = computing_so("mobilenet_v2")
    with torch.inference_mode():
        assert network(torch.zeros(0, 3, 64, 64)).shape == (0, 3)
        with torch.autocast("cpu", torch.bfloat16):
            assert formats(network, pictures()) == {False}
    assert formats(network, pictures()) == {False}, "its parameters may learn"
    network(pictures()).sum().backward()
    assert network.head.weight.grad is not None


def test_a_copy_is_a_network_of_its_own() -> None:
    network, model = computing_so("mobilenet_v2")
    other = copy.deepcopy(network)
    blocked.use([other.extractor])  # as `for_inference` of what computes so already
    assert len(other.extractor._forward_hooks) == 1
    x = pictures()
    with torch.no_grad():
        list(other.extractor.parameters())[-2].zero_()  # weights of the last convolution
        assert not close(other.extractor(x), model.extractor(x))
        assert close(network.extractor(x), model.extractor(x))
        list(network.extractor.parameters())[-2].zero_()
        assert close(other.extractor(x), network.extractor(x))


def test_what_fine_tuning_leaves_computes_so_and_what_it_trains_gets_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    x = pictures(96)
    found: dict[str, Tensor] = {}
    seen: dict[str, list[bool]] = {}
    for machine in ("AVX2", "DEFAULT"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda machine=machine: machine)
        model = lived_in("mobilenet_v2").to(memory_format=torch.channels_last)
        prepare_phase(model, "fine tuning", unfreeze="auto", pretrained=True)
        model.eval()  # no dropout
        network = Folded(model, fuse_frozen=True)
        network(x)
        features = network.skeleton().extractor.features
        seen[machine] = []
        for block in features:
            block.register_forward_pre_hook(lambda _, given, machine=machine: seen[machine].append(given[0].is_mkldnn))
        network(x).square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        found[machine] = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
    n = 7  # of 19 (docs/decisions.md)
    assert seen == {"AVX2": [True] * n + [False] * (19 - n), "DEFAULT": [False] * 19}
    # Where rounding decides on which side of 0 or 6 a value lies, single gradients move: by up to 0.012 of them all together in six sets of pictures,
    # on either machine and against float64.
    assert (found["AVX2"] - found["DEFAULT"]).norm() < 0.05 * found["DEFAULT"].norm()


def test_where_all_blocks_learn_none_computes_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    model = lived_in("mobilenet_v2")
    prepare_phase(model, "fine tuning", unfreeze="all", pretrained=True)
    skeleton = Folded(model, fuse_frozen=True).skeleton()
    assert not any(part._forward_pre_hooks for part in skeleton.modules())
    prepare_phase(model, "fine tuning", unfreeze="auto", pretrained=True)
    skeleton = Folded(model, fuse_frozen=True).skeleton()
    assert [part for part in skeleton.modules() if part._forward_pre_hooks] == [skeleton.extractor.features[0]]

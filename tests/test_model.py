"""Backbones through one code path, what trains in which phase, and weights that are refused in words."""

import re
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from panorama.errors import PanoramaError
from panorama.folding import for_inference
from panorama.model import (
    backbones,
    batchnorms,
    blocks,
    build,
    calibrate_batchnorm,
    class_activation,
    early_maps,
    feature_map,
    load_pretrained,
    prepare_phase,
    with_early,
)


@pytest.mark.parametrize(
    ("name", "width"), [("mobilenet_v2", 1280), ("vgg16", 4096), ("resnet50", 2048), ("efficientnet_b0", 1280)]
)
def test_each_backbone_gives_one_logit_a_label_and_trains(name: str, width: int) -> None:
    model = build(name, 3, seed=0)
    assert model.head.in_features == width
    x, y = torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    prepare_phase(model, "fine tuning", unfreeze=1, pretrained=True)
    trainable = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trainable]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    logits = model(x)
    assert logits.shape == (2, 3)
    nn.functional.binary_cross_entropy_with_logits(logits, y).backward()
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, trainable, strict=True))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_chance_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = build("mobilenet_v2", 2, seed=1), build("mobilenet_v2", 2, seed=1), build("mobilenet_v2", 2, seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_a_backbone_that_does_not_exist_is_refused_with_near_names() -> None:
    with pytest.raises(PanoramaError, match="mobilenet_v2"):
        build("mobilenet_v9", 2, seed=0)
    with pytest.raises(PanoramaError, match="resnet50"):
        build("no such thing", 2, seed=0)
    assert {"mobilenet_v2", "vgg16", "resnet50", "efficientnet_b0"} <= set(backbones())


def statistics(model: nn.Module) -> list[torch.Tensor]:
    return [norm.running_mean.clone() for norm in batchnorms(model)]  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("phase", ["adaptation", "fine tuning"])
def test_batchnorm_statistics_of_pretrained_weights_never_move(phase: str) -> None:
    model = build("mobilenet_v2", 2, seed=0)
    prepare_phase(model, phase, unfreeze="all", pretrained=True)  # type: ignore[arg-type]
    before = statistics(model)
    model(torch.rand(4, 3, 32, 32))
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(model), strict=True))


def test_the_negative_control_without_pretraining_the_statistics_do_move() -> None:
    model = build("mobilenet_v2", 2, seed=0)
    prepare_phase(model, "fine tuning", unfreeze="all", pretrained=False)
    before = statistics(model)
    model(torch.rand(4, 3, 32, 32))
    assert not all(torch.equal(a, b) for a, b in zip(before, statistics(model), strict=True))


def test_adaptation_trains_the_head_alone_and_fine_tuning_the_last_blocks() -> None:
    model = build("mobilenet_v2", 2, seed=0)
    prepare_phase(model, "adaptation", unfreeze="all", pretrained=True)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    prepare_phase(model, "fine tuning", unfreeze=2, pretrained=True)
    named = {name.split(".")[2] for name, p in model.named_parameters() if p.requires_grad and name.startswith("extractor")}
    assert named == {"17", "18"}, "the last two blocks of MobileNetV2's features"
    assert model.extractor.features[18].training
    assert not model.extractor.features[16].training
    for all_of_them in ("all", 19, 1000):
        prepare_phase(model, "fine tuning", unfreeze=all_of_them, pretrained=True)  # type: ignore[arg-type]
        assert all(p.requires_grad for p in model.parameters())
        assert any(part.training for part in model.extractor.modules() if isinstance(part, nn.Dropout)), "before the head"


@pytest.mark.parametrize(
    ("name", "kept", "kept_late"),
    [
        ("mobilenet_v2", 7, 11),
        ("resnet50", 3, 4),
        ("efficientnet_b0", 4, 5),
        ("swin_t", 3, 5),
        ("vgg16", 4, 7),
        ("mnasnet1_0", 0, 0),
    ],
)
def test_fine_tuning_leaves_the_first_blocks_as_they_are(name: str, kept: int, kept_late: int) -> None:
    """What Detectron2 freezes of a ResNet (FREEZE_AT = 2), the stem and the first stage, and late the second; of the others what is in front of
    the same places."""
    model = build(name, 2, seed=0)
    for late, n_left in ((False, kept), (True, kept_late)):
        prepare_phase(model, "fine tuning", unfreeze="auto", pretrained=True, late=late)
        trained = [any(p.requires_grad for p in part.parameters()) for part in blocks(model.extractor)]
        assert trained == [False] * n_left + [True] * (len(trained) - n_left)
        assert not any(part.training for part in blocks(model.extractor)[:n_left])
    assert model.head.weight.requires_grad


def test_blocks_are_counted_as_the_architectures_are_drawn() -> None:
    assert len(blocks(build("mobilenet_v2", 2, seed=0).extractor)) == 19
    assert len(blocks(build("resnet50", 2, seed=0).extractor)) == 6  # conv1, bn1, layer1 ... layer4


def test_calibration_gives_batchnorm_the_mean_of_the_data() -> None:
    model = build("mobilenet_v2", 2, seed=0)
    x = torch.rand(32, 3, 32, 32) * 5 + 3
    calibrate_batchnorm(model, [x])
    stem = model.extractor.features[0]
    expected = stem[0](x).mean((0, 2, 3))
    assert torch.allclose(stem[1].running_mean, expected, atol=1e-4)


def test_a_torchvision_state_dict_gives_torchvisions_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.mobilenet_v2(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    x = torch.rand(2, 3, 64, 64)
    expected = reference.features(x).mean((2, 3))
    for name in ("weights.pth", "weights.safetensors"):
        model = build("mobilenet_v2", 3, seed=0).eval()
        load_pretrained(model, "mobilenet_v2", str(tmp_path / name))
        assert torch.allclose(model.extractor(x), expected, atol=1e-5)


def test_weights_of_another_backbone_are_refused_naming_what_does_not_fit(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(PanoramaError, match="not weights of mobilenet_v2"):
        load_pretrained(build("mobilenet_v2", 2, seed=0), "mobilenet_v2", str(tmp_path / "resnet.pth"))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    import os
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(PanoramaError, match="state dict"):
        load_pretrained(build("mobilenet_v2", 2, seed=0), "mobilenet_v2", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("tensor", "value"), [("features.18.0.weight", float("nan")), ("features.0.1.running_var", float("inf"))]
)
def test_weights_with_a_value_that_is_no_number_are_refused(tmp_path: Path, tensor: str, value: float) -> None:
    state = torchvision.models.mobilenet_v2(weights=None).state_dict()
    torch.save(state, tmp_path / "sound.pth")
    state[tensor].view(-1)[0] = value
    torch.save(state, tmp_path / "broken.pth")
    model = build("mobilenet_v2", 2, seed=0)
    assert load_pretrained(model, "mobilenet_v2", str(tmp_path / "sound.pth"))
    with pytest.raises(PanoramaError, match=re.escape(tensor)):
        load_pretrained(model, "mobilenet_v2", str(tmp_path / "broken.pth"))


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04"])
def test_files_that_are_no_weights_are_refused_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(PanoramaError, match=r"weights\.pth: not a state dict"):
        load_pretrained(build("mobilenet_v2", 2, seed=0), "mobilenet_v2", str(tmp_path / "weights.pth"))


def test_when_the_download_is_impossible_the_other_choices_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(PanoramaError, match=r"--weights PATH .* --weights none"):
        load_pretrained(build("mobilenet_v2", 2, seed=0), "mobilenet_v2", "imagenet")


def test_the_model_of_a_run_is_refused_as_pretraining_for_it_may_know_these_labels(tmp_path: Path) -> None:
    taught = build("mobilenet_v2", 2, seed=0)
    save_file({name: value.contiguous() for name, value in taught.state_dict().items()}, tmp_path / "model.safetensors")
    with pytest.raises(PanoramaError, match="the model of a panorama run"):
        load_pretrained(build("mobilenet_v2", 2, seed=1), "mobilenet_v2", str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "efficientnet_b0", "densenet121"])
def test_the_mean_over_the_places_is_what_the_model_answers(name: str) -> None:
    model = build(name, 3, seed=0).eval()
    torch.nn.init.normal_(model.head.weight)
    for network in (model, for_inference(model)):
        x = torch.rand(2, 3, 96, 96)
        place = feature_map(network, 96)
        assert place is not None
        assert (place.height, place.width) == (3, 3), "a map of 1 to 32"
        with torch.no_grad():
            logits, places = class_activation(network, place, x)
            assert torch.equal(logits, network(x))
        assert places.shape == (2, 3, 3, 3)
        assert torch.allclose(places.mean((2, 3)), logits, rtol=1e-3, atol=1e-4)


def test_a_corner_that_changes_changes_the_map_there_most() -> None:
    """The map is not mirrored or turned: grey pictures with noise in one corner."""
    model = build("resnet18", 1, seed=0).eval()
    place = feature_map(model, 224)
    assert place is not None
    x = torch.zeros(1, 3, 224, 224)
    noisy = x.clone()
    noisy[:, :, :32, 192:] = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))  # top right
    with torch.no_grad():
        change = (class_activation(model, place, noisy)[1] - class_activation(model, place, x)[1]).abs()[0, 0]
    row, column = divmod(int(change.argmax()), 7)
    assert row < 3
    assert column > 3


@pytest.mark.parametrize("name", ["vgg11", "vit_b_32", "convnext_tiny"])
def test_backbones_that_do_more_than_average_have_no_map(name: str) -> None:
    assert feature_map(build(name, 2, seed=0).eval(), 224) is None


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        # Table 2 of its paper, of each size the narrowest: at 14 x 14 there is 96 too, at 7 x 7 320.
        ("mobilenet_v2", [24, 32, 64, 160]),
        ("resnet18", [64, 128, 256]),  # table 1 of its paper, where there are 512 too, which is too wide
        ("vit_b_32", []),
        ("swin_t", [96]),  # after its first block channels come last
        ("convnext_tiny", [96, 192]),  # its paper: 96, 192, 384, 768
    ],
)
def test_early_maps_are_the_narrowest_of_each_size(name: str, widths: list[int]) -> None:
    assert [place.width for place in early_maps(build(name, 2, seed=0), 224)] == widths


@torch.no_grad()
def test_quarters_of_early_maps_are_those_of_what_torchvision_s_own_blocks_hand_on() -> None:
    """Folded or not, and in the order top left, top right, bottom left, bottom right of each channel."""
    model = build("mobilenet_v2", 2, seed=0).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    blocks_of = model.extractor.features
    expected = []
    for block, size in ((3, 16), (6, 8), (10, 4), (16, 2)):
        handed_on = blocks_of[: block + 1](x)
        assert handed_on.shape[2:] == (size, size)
        half = size // 2
        corners = [handed_on[:, :, top : top + half, left : left + half] for top in (0, half) for left in (0, half)]
        expected.append(torch.stack([corner.mean((2, 3)) for corner in corners], 2).flatten(1))
    for network in (model, for_inference(model)):
        features, early = with_early(network.extractor, early_maps(model, 64), x)
        assert early.shape == (2, 4 * (24 + 32 + 64 + 160))
        assert torch.allclose(early, torch.cat(expected, 1), rtol=1e-3, atol=1e-4)
        assert torch.allclose(features, model.extractor(x), rtol=1e-3, atol=1e-4)


def test_a_map_with_the_channels_last_is_none_even_where_it_is_as_wide_as_it_is_high() -> None:
    """swin_t at 384 pixels has 96 x 96 places of 96 channels, which come last; the negative control is a network whose channels come first."""
    assert 96 not in [place.width for place in early_maps(build("swin_t", 2, seed=0), 384)]
    assert 24 in [place.width for place in early_maps(build("mobilenet_v2", 2, seed=0), 96)], "24 x 24 places of 24 channels"


@pytest.mark.parametrize("side", [150, 224, 230])
def test_sides_that_no_four_divides_have_the_same_early_maps(side: int) -> None:
    assert [place.width for place in early_maps(build("mobilenet_v2", 2, seed=0), side)] == [24, 32, 64, 160]


@torch.no_grad()
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "vgg11_bn", "mobilenet_v3_small"])
def test_early_maps_are_the_same_before_and_after_folding(name: str) -> None:
    """ShuffleNet's narrowest maps are read by a ReLU, which is computed inside the convolution before it where the machine can."""
    model = build(name, 2, seed=0)
    calibrate_batchnorm(model, [torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))])
    model.eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, folded = (with_early(network.extractor, early_maps(model, 64), x)[1] for network in (model, for_inference(model)))
    assert torch.allclose(plain, folded, rtol=1e-3, atol=1e-4)


def test_looking_for_early_maps_leaves_a_model_as_it_was() -> None:
    model = build("resnet18", 2, seed=0)
    prepare_phase(model, "fine tuning", unfreeze="all", pretrained=True)  # BatchNorms in eval mode, the rest in train mode
    modes = [part.training for part in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    early_maps(model, 64)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_pre_hooks for part in model.modules())

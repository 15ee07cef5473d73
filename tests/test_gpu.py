"""What is done otherwise on a GPU, against what a CPU or plain PyTorch does. Skipped where there is none."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from panorama import hardware, preprocessing
from panorama.features import Pixels, _OnGpu
from panorama.model import Classifier, build, prepare_phase
from panorama.steps import Gradients

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
SIDE = 64


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions otherwise round to 10 bits (TF32)."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def fine_tuned(backbone: str = "mobilenet_v2", *, late: bool = False, pretrained: bool = True) -> Classifier:
    model = build(backbone, 3, seed=0).to("cuda").to(memory_format=torch.channels_last)
    prepare_phase(model, "fine tuning", unfreeze="auto", pretrained=pretrained, late=late)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0  # chance would differ
    return model


def batch(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, SIDE, SIDE, generator=generator).to("cuda").contiguous(memory_format=torch.channels_last)
    return x, (torch.rand(n, 3, generator=generator) > 0.5).float().to("cuda")


def plainly(model: Classifier, x: Tensor, y: Tensor) -> tuple[float, list[Tensor]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = F.binary_cross_entropy_with_logits(model(x), y)
    return float(loss), list(torch.autograd.grad(loss, parameters))


@needs_gpu
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18", "swin_t"])
def test_a_recorded_step_gives_the_gradients_of_a_plain_one(backbone: str) -> None:
    """Whatever the batch, a smaller last one too, and after the weights have changed."""
    model, twin = fine_tuned(backbone), fine_tuned(backbone)
    gradients = Gradients(model)
    for number, n in enumerate([6, 6, 4, 6, 1, 6]):
        x, y = batch(n, number)
        found = float(gradients(x, y))
        expected, parts = plainly(twin, x, y)
        assert found == pytest.approx(expected, rel=1e-4)
        learning = [p for p in model.parameters() if p.requires_grad]
        for one, two in zip(learning, parts, strict=True):
            assert one.grad is not None
            torch.testing.assert_close(one.grad, two, rtol=1e-2, atol=1e-3 * float(two.abs().max()) + 1e-7)
        with torch.no_grad():
            for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
                mine.mul_(0.999)
                other.mul_(0.999)
    assert gradients._recording is not None, "a test of plain steps says nothing"


@needs_gpu
def test_another_size_of_pictures_is_recorded_anew() -> None:
    model = fine_tuned()
    gradients = Gradients(model)
    for side in (SIDE, 96, SIDE):
        x = torch.randn(4, 3, side, side, device="cuda").contiguous(memory_format=torch.channels_last)
        y = torch.zeros(4, 3, device="cuda")
        assert float(gradients(x, y)) == pytest.approx(plainly(model, x, y)[0], rel=1e-4)


@needs_gpu
def test_one_picture_more_than_was_recorded_is_computed_plainly() -> None:
    model = fine_tuned()
    gradients = Gradients(model)
    gradients(*batch(4, 0))
    x, y = batch(5, 1)
    assert float(gradients(x, y)) == pytest.approx(plainly(model, x, y)[0], rel=1e-4)
    assert float(gradients(*batch(4, 2))) == pytest.approx(plainly(model, *batch(4, 2))[0], rel=1e-4)


@needs_gpu
def test_statistics_that_train_see_no_picture_of_an_earlier_batch() -> None:
    model, twin = fine_tuned(pretrained=False), fine_tuned(pretrained=False)
    gradients = Gradients(model)
    for n in (6, 4):
        assert float(gradients(*batch(n, n))) == pytest.approx(plainly(twin, *batch(n, n))[0], rel=1e-3)
    assert gradients._recording is None


@needs_gpu
def test_what_settled_has_no_gradient_left_to_move_it() -> None:
    model = fine_tuned()
    Gradients(model)(*batch(4, 0))
    prepare_phase(model, "fine tuning", unfreeze="auto", pretrained=True, late=True)
    Gradients(model)(*batch(4, 0))
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


@needs_gpu
def test_recording_leaves_chance_as_it_was() -> None:
    model = build("mobilenet_v2", 3, seed=0).to("cuda").to(memory_format=torch.channels_last)
    prepare_phase(model, "fine tuning", unfreeze="auto", pretrained=True)
    x, y = batch(6, 0)
    losses = []
    gradients = Gradients(model)
    for _ in range(2):  # the first records
        torch.manual_seed(3)
        losses.append([float(gradients(x, y)) for _ in range(3)])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3, "dropout"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_pictures_kept_on_a_gpu_are_those_of_the_files_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """Where there is none, a CPU plays it."""
    where = torch.device(device)
    pictures = np.random.default_rng(0).integers(0, 256, (9, 40, 40, 3), dtype=np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    pixels = Pixels(paths, [path.name for path in paths], 40, contents=contents, cache=tmp_path / "cache")
    pixels.read()
    if device == "cpu":
        kept = _OnGpu(9, 40, where)
        monkeypatch.setattr(pixels, "_kept_on", lambda where: kept)
    asked: list[int] = []
    read = pixels._read
    monkeypatch.setattr(pixels, "_read", lambda index: asked.append(index) or read(index))
    parts = [np.array([3, 1, 8]), np.array([1, 0]), np.array([8, 8, 2, 0]), np.zeros(0, np.int64), np.arange(9)]
    for _ in range(2):
        for part, found in zip(parts, pixels.batches(parts, where), strict=True):
            assert found.device.type == device
            assert (found.cpu().numpy() == pictures[part]).all()
    n_asked = len(asked)
    assert set(asked) == set(range(9))
    list(pixels.batches(parts, where))
    assert len(asked) == n_asked, "all are there"


@needs_gpu
def test_a_gpu_without_room_for_all_gets_each_batch_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / "one.png"
    Image.fromarray(picture).save(path)
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(hardware, "free_memory", lambda where: 0)
    pixels = Pixels([path] * 3, ["one.png"] * 3, 40, contents=[content] * 3, cache=tmp_path / "cache")
    for found in pixels.batches([np.arange(2), np.array([2])], torch.device("cuda", 0)):
        assert found.is_cuda
        assert (found.cpu().numpy() == picture).all()
    assert pixels._on_gpu is None


@needs_gpu
def test_a_gpu_sees_what_a_cpu_sees() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 73, 73, 3), dtype=torch.uint8, generator=generator)
    views = preprocessing.random_views(4, generator)
    for here, there in (
        (preprocessing.for_training(pixels, views, 64), preprocessing.for_training(pixels.to("cuda"), views, 64)),
        (preprocessing.for_evaluation(pixels, 64), preprocessing.for_evaluation(pixels.to("cuda"), 64)),
    ):
        # the CPU resamples bytes: half a step of 255, in units of the standard deviation
        torch.testing.assert_close(there.cpu(), here, atol=0.6 / 255 / 0.224, rtol=0)

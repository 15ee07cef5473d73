"""What is done otherwise on a GPU, against what a CPU or plain PyTorch does. Skipped where there is none."""

import gc
import hashlib
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from panorama import hardware, preprocessing
from panorama.features import Pixels, _OnGpu
from panorama.model import Classifier, build, calibrate_batchnorm, prepare_phase
from panorama.steps import Gradients
from panorama.training import as_laid_out

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
SIDE = 64


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions otherwise round to 10 bits (TF32)."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def fine_tuned(backbone: str = "mobilenet_v2", *, pretrained: bool = True, dropout: float = 0.0) -> Classifier:
    """With statistics of noise, so that pictures decide the answer, and by default without chance."""
    model = build(backbone, 3, seed=0).to("cuda").to(memory_format=torch.channels_last)
    calibrate_batchnorm(model, [batch(16, 99)[0]])
    prepare_phase(model, "fine tuning", unfreeze="auto", pretrained=pretrained)
    for part in model.modules():
        if isinstance(part, nn.Dropout | StochasticDepth):
            part.p = dropout if isinstance(part, nn.Dropout) else 0.0
    return model


def batch(n: int, seed: int, side: int = SIDE) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, side, side, generator=generator).to("cuda").contiguous(memory_format=torch.channels_last)
    return x, (torch.rand(n, 3, generator=generator) > 0.5).float().to("cuda")


def plainly(model: Classifier, x: Tensor, y: Tensor) -> tuple[float, list[Tensor]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    loss = F.binary_cross_entropy_with_logits(model(x), y)
    return float(loss.detach()), list(torch.autograd.grad(loss, parameters))


@needs_gpu
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18", "swin_t"])
def test_a_recorded_step_gives_the_gradients_of_a_plain_one(backbone: str) -> None:
    """Whatever the batch, a smaller last one too, and after the weights have changed. A wrong count of pictures is a third off."""
    model, twin = fine_tuned(backbone), fine_tuned(backbone)
    gradients = Gradients(model)
    losses = set()
    for number, n in enumerate([6, 6, 4, 6, 1, 6]):
        x, y = batch(n, number)
        found = float(gradients(x, y))
        losses.add(found)
        expected, parts = plainly(twin, x, y)
        assert found == pytest.approx(expected, rel=1e-3)
        learning = [p for p in model.parameters() if p.requires_grad]
        whole = sum(float(two.square().sum()) for two in parts) ** 0.5
        for one, two in zip(learning, parts, strict=True):
            assert one.grad is not None
            assert float((one.grad - two).norm()) <= 0.05 * float(two.norm()) + 1e-4 * whole
        with torch.no_grad():
            for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
                mine.mul_(0.999)
                other.mul_(0.999)
    assert gradients.recorded == (6, 3, SIDE, SIDE), "a test of plain steps says nothing"
    assert len(losses) == 6, "the pictures decide"


@needs_gpu
def test_a_step_in_bfloat16_is_recorded_and_goes_where_one_in_float32_goes() -> None:
    model, twin = fine_tuned(), fine_tuned()
    gradients, (x, y) = Gradients(model, torch.bfloat16), batch(8, 0)
    assert float(gradients(x, y)) == pytest.approx(plainly(twin, x, y)[0], rel=0.05)
    assert gradients.recorded == x.shape
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    expected = torch.cat([part.flatten() for part in plainly(twin, x, y)[1]])
    assert float(F.cosine_similarity(found, expected, dim=0)) > 0.95


@needs_gpu
def test_another_size_of_pictures_is_recorded_anew() -> None:
    model, twin = fine_tuned(), fine_tuned()
    gradients = Gradients(model)
    for side in (SIDE, 96, SIDE):
        x, y = batch(4, side, side)
        assert float(gradients(x, y)) == pytest.approx(plainly(twin, x, y)[0], rel=1e-3)
        assert gradients.recorded == x.shape


@needs_gpu
def test_one_picture_more_than_was_recorded_is_computed_plainly() -> None:
    model, twin = fine_tuned(), fine_tuned()
    gradients = Gradients(model)
    for n in (4, 5, 4):
        x, y = batch(n, n)
        assert float(gradients(x, y)) == pytest.approx(plainly(twin, x, y)[0], rel=1e-3)
        assert gradients.recorded == (4, 3, SIDE, SIDE)
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@needs_gpu
def test_statistics_that_train_see_no_picture_of_an_earlier_batch() -> None:
    model, twin = fine_tuned(pretrained=False), fine_tuned(pretrained=False)
    gradients = Gradients(model)
    for n in (6, 4):
        assert float(gradients(*batch(n, n))) == pytest.approx(plainly(twin, *batch(n, n))[0], rel=1e-3)
    assert gradients.recorded is None


@needs_gpu
def test_what_settled_has_no_gradient_left_to_move_it() -> None:
    model = fine_tuned()
    Gradients(model)(*batch(4, 0))
    prepare_phase(model, "fine tuning", unfreeze="auto", pretrained=True, late=True)
    Gradients(model)(*batch(4, 0))
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


@needs_gpu
def test_recording_leaves_chance_as_it_was() -> None:
    gradients, (x, y) = Gradients(fine_tuned(dropout=0.5)), batch(6, 0)
    losses = []
    for _ in range(2):  # the first records
        torch.manual_seed(3)
        losses.append([float(gradients(x, y)) for _ in range(3)])
    assert gradients.recorded is not None
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(set(losses[0])) == 3, "dropout"


class _Asks(nn.Module):
    """What no graph can record: how to go on depends on what was computed."""

    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else x * 1.0


@needs_gpu
def test_a_network_that_cannot_be_recorded_trains_plainly() -> None:
    model, twin = fine_tuned(dropout=0.5), fine_tuned()
    model.extractor = nn.Sequential(model.extractor, _Asks())
    gradients = Gradients(model)
    for number in range(3):
        assert np.isfinite(float(gradients(*batch(6, number))))
    assert gradients.recorded is None
    torch.cuda.empty_cache()
    other = Gradients(twin)  # what failed leaves nothing behind for the next
    other(*batch(6, 0))
    assert other.recorded is not None


@needs_gpu
def test_a_recording_that_is_let_go_gives_its_memory_back() -> None:
    gradients = Gradients(fine_tuned())
    gradients(*batch(6, 0))
    recording = weakref.ref(gradients._recording)
    gc.disable()
    try:
        del gradients
        assert recording() is None, "without a collection of cycles"
    finally:
        gc.enable()


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_gpu)])
def test_an_optimizer_goes_on_from_a_checkpoint_that_lost_the_order_of_memory(fused: bool) -> None:
    """A fused one refuses what is laid out otherwise than its parameter."""
    where = "cuda" if fused else "cpu"
    weights = nn.Parameter(torch.randn(4, 3, 3, 3, device=where).contiguous(memory_format=torch.channels_last))
    first = torch.optim.AdamW([weights], fused=fused)
    weights.grad = torch.randn_like(weights)
    first.step()
    kept = {0: {name: value.cpu().contiguous() for name, value in first.state_dict()["state"][0].items()}}
    second = torch.optim.AdamW([weights], fused=fused)
    second.load_state_dict({**second.state_dict(), "state": kept})
    assert second.state[weights]["exp_avg"].stride() != weights.stride(), "else this shows nothing"
    as_laid_out(second)
    for name in ("exp_avg", "exp_avg_sq"):
        assert second.state[weights][name].stride() == weights.stride()
        assert (second.state[weights][name] == first.state[weights][name]).all()
    second.step()


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
        with torch.inference_mode():  # as the pass over features makes it
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
    for function, apart in (
        (lambda x: preprocessing.for_training(x, views, 64), 1e-3),
        (lambda x: preprocessing.for_evaluation(x, 64), 0.02),
    ):
        # the CPU resamples bytes, in two passes that round: a step of 255 is 0.018
        torch.testing.assert_close(function(pixels.to("cuda")).cpu(), function(pixels), atol=apart, rtol=0)

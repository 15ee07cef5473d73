"""The schedule, what the first epochs see, and the precision that is measured, not assumed."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit
from torch import nn

from panorama import hardware, training
from panorama.checkpoint import load_checkpoint, save_checkpoint
from panorama.config import Phase, Schedule, TrainConfig, Unfreeze, seed_recipe
from panorama.datasets import load
from panorama.errors import PanoramaError
from panorama.events import EpochEnded, Event
from panorama.features import Pixels, extract, whole_pass
from panorama.finding import find_source
from panorama.folding import Folded
from panorama.hardware import Precisions
from panorama.model import Classifier, blocks, build, prepare_phase
from panorama.preparing import said_of_precision
from panorama.processes import ALONE
from panorama.training import TrainingData, TrainingState, _factor, _small_side, _validate, is_within_chance, train

COSINE = Phase("fine tuning", 4, 3e-4, 5, "cosine")


def test_the_rate_rises_to_its_value_and_falls_to_nothing() -> None:
    factors = [_factor(COSINE, step, 100) for step in range(1, 101)]
    top = int(np.argmax(factors))
    assert factors[top] == pytest.approx(1.0)
    assert top + 1 == 15, "15 of 100 steps rise"
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert 0 < factors[-1] < 0.001
    middle = 15 + 85 // 2
    assert _factor(COSINE, middle, 100) == pytest.approx(0.5, abs=0.02), "a cosine is at half in the middle of its fall"


def test_a_constant_rate_is_constant_and_one_step_alone_has_a_rate() -> None:
    assert {_factor(Phase("adaptation", 9, 1e-3, 2), step, 50) for step in range(1, 51)} == {1.0}
    assert _factor(COSINE, 1, 1) > 0


def test_the_seed_recipe_is_the_notebooks() -> None:
    adaptation, finetuning = seed_recipe().phases
    assert (adaptation.learning_rate, adaptation.patience) == (1e-3, 2)
    assert (finetuning.learning_rate, finetuning.patience, finetuning.schedule) == (1e-4, 5, "constant")
    assert seed_recipe().batch_size == 64
    assert seed_recipe().unfreezes == "all"


def test_first_blocks_are_left_as_photos_taught_them() -> None:
    given = {weights: TrainConfig(weights=weights).unfreezes for weights in ("imagenet", "/some/file.pth", "starter", "none")}
    assert given == {"imagenet": "auto", "/some/file.pth": "auto", "starter": "all", "none": "all"}
    assert TrainConfig(weights="starter", unfreeze=3).unfreezes == 3


def test_fine_tuning_has_all_of_its_patience(seed_folder: Callable[..., Path], home: Path) -> None:
    """Adaptation ended with its counter at 2; nothing gets better after it, so fine tuning ends after 3 epochs, not after 1."""
    data = load(find_source(seed_folder(8, 4)), home)
    pixels = Pixels(data.paths, data.images, 32, contents=[picture.sha256 for picture in data.pictures], cache=home)
    pixels.read()
    model = small_model()
    config = TrainConfig(
        epochs_adaptation=2, epochs_finetuning=9, patience_finetuning=3, image_size=32, weights="none", schedule="constant"
    )
    train_part, validation = np.arange(6), np.arange(6, 8)
    seen = extract(whole_pass(model, pixels, image_size=32, dtype=torch.float32), np.arange(8), 8)
    state = TrainingState("adaptation", epoch=2, without_improvement=2, best_loss=0.0, best_weights=model.state_dict())
    parts = TrainingData(pixels, data.targets[:, :2], train_part, validation, seen[:6], seen[6:])
    events = list(train(model, parts, config, state=state, precisions=Precisions(torch.float32, torch.float32), pretrained=False))
    counters = [event.without_improvement for event in events if isinstance(event, EpochEnded)]
    assert counters == [1, 2, 3]


def ended_with(
    losses: list[float], schedule: Schedule, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainingState:
    """Trains after an adaptation whose head says 0.7 for every cell, rightly: 0.357 nats, and its fine tuning ends with these losses.

    Half of its validation images cost 0.3 nats more than the mean, half as much less.
    """
    data = load(find_source(folder), home)
    pixels = Pixels(data.paths, data.images, 32, contents=[picture.sha256 for picture in data.pictures], cache=home)
    pixels.read()
    model = small_model()
    targets = np.ones((20, 2), np.int8)
    weights = model.state_dict()
    weights["head.weight"], weights["head.bias"] = torch.zeros(2, 8), torch.logit(torch.tensor([0.7, 0.7]))
    told = iter(losses)

    def validated(*_: object) -> tuple[np.ndarray, float]:
        mean = next(told)
        each = mean + np.resize([0.3, -0.3], (16, 1))
        return np.exp(-np.repeat(each, 2, 1)).astype(np.float32), mean

    monkeypatch.setattr(training, "_validate", validated)
    seen = np.ones((20, 8), np.float32)
    config = TrainConfig(epochs_finetuning=len(losses), image_size=32, weights="none", schedule=schedule, batch_size=4)
    state = TrainingState("fine tuning", best_loss=-math.log(0.7), best_phase="adaptation", best_epoch=3, best_weights=weights)
    parts = TrainingData(pixels, targets, np.arange(4), np.arange(4, 20), seen[:4], seen[4:])
    for _ in train(model, parts, config, state=state, precisions=Precisions(torch.float32, torch.float32), pretrained=False):
        pass
    return state


@pytest.mark.parametrize(
    ("losses", "schedule", "phase"),
    [
        ([0.5, 0.43], "cosine", "fine tuning"),  # 0.073 worse: the standard error of 16 images 0.3 apart from the mean is 0.0775
        ([0.5, 0.44], "cosine", "adaptation"),  # 0.083 worse
        ([0.43, 0.5], "cosine", "adaptation"),  # only the last epoch is what the schedule was meant to end in
        ([0.5, 0.43], "constant", "adaptation"),  # the seed's recipe keeps the seed's rule
        ([0.5, 0.35], "constant", "fine tuning"),
    ],
)
def test_the_end_of_a_schedule_is_kept_unless_it_is_worse_beyond_chance(
    losses: list[float],
    schedule: Schedule,
    phase: str,
    seed_folder: Callable[..., Path],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = ended_with(losses, schedule, seed_folder(16, 4), home, monkeypatch)
    assert (state.best_phase, state.best_epoch) == ((phase, 2) if phase == "fine tuning" else (phase, 3))


def test_chance_is_one_standard_error_of_the_paired_difference() -> None:
    """Against scipy's standard error; images that are hard for both do not widen it."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (50, 3)).astype(np.int8)
    hard = rng.normal(0, 1.5, (50, 3)) + 2 * targets - 1

    def loss(logits: np.ndarray) -> np.ndarray:
        return np.logaddexp(0, np.where(targets == 1, -logits, logits)).mean(1)

    answers = set()
    for seed in range(40):
        other = hard + np.random.default_rng(seed).normal(0, 0.3, hard.shape)
        apart = loss(other) - loss(hard)
        expected = bool(apart.mean() <= stats.sem(apart))
        assert is_within_chance(targets, expit(other).astype(np.float32), expit(hard).astype(np.float32)) == expected
        answers.add(expected)
    assert answers == {True, False}
    assert is_within_chance(targets, expit(hard).astype(np.float32), expit(hard).astype(np.float32))
    assert not is_within_chance(targets[:1], expit(hard[:1]).astype(np.float32), expit(hard[:1]).astype(np.float32))


def test_first_epochs_see_smaller_pictures_where_the_backbone_takes_them() -> None:
    network = build("mobilenet_v2", 2, seed=0)
    assert _small_side(network, COSINE, 224) == 128
    assert _small_side(network, COSINE, 448) == 256
    assert _small_side(network, COSINE, 160) == 128, "no smaller"
    assert _small_side(network, COSINE, 96) == 96, "there is little left to see"
    assert _small_side(network, Phase("fine tuning", 4, 1e-4, 5), 224) == 224, "not with the seed's schedule"
    assert _small_side(build("vit_b_32", 2, seed=0), COSINE, 224) == 224, "it takes pictures of one size only"


def small_model() -> Classifier:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Classifier(nn.Sequential(*layers), 8, 2)


@pytest.fixture
def bfloat16_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "refused", lambda _: False)


def test_where_the_cpu_has_no_bfloat16_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware._Trial, "_seconds", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(hardware, "refused", lambda dtype: dtype is torch.bfloat16)
    found = hardware.precisions(TrainConfig(image_size=32), small_model(), tmp_path)
    assert found == Precisions(torch.float32, torch.float32)


def test_the_precision_asked_for_is_taken_without_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_faster", lambda _: pytest.fail("measured"))
    found = hardware.precisions(TrainConfig(precision="bfloat16"), small_model(), tmp_path)
    assert found == Precisions(torch.bfloat16, torch.bfloat16)


@pytest.mark.usefixtures("bfloat16_is_not_refused")
def test_a_measurement_is_made_once_a_backbone_and_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: 1.0, torch.bfloat16: 0.5}
    asked: list[torch.dtype] = []

    def pretended(_: object, __: object, dtype: torch.dtype) -> float:
        asked.append(dtype)
        return seconds[dtype]

    monkeypatch.setattr(hardware._Trial, "_seconds", pretended)
    config = TrainConfig(image_size=32)
    assert hardware.precisions(config, small_model(), tmp_path) == Precisions(torch.bfloat16, torch.bfloat16)
    assert asked == [torch.float32, torch.bfloat16] * 8, "in turn: two rounds with a picture, three of a step, three of a pass"
    asked.clear()
    seconds[torch.bfloat16] = 0.95
    assert hardware.precisions(config, small_model(), tmp_path) == Precisions(torch.bfloat16, torch.bfloat16), "remembered"
    assert not asked
    other = TrainConfig(image_size=32, backbone="resnet18")
    assert hardware.precisions(other, small_model(), tmp_path) == Precisions(torch.float32, torch.float32), "not clearly faster"
    (tmp_path / "precision.json").write_text("{")
    assert hardware.precisions(config, small_model(), tmp_path) == Precisions(torch.float32, torch.float32), (
        "damaged: measured anew"
    )
    assert json.loads((tmp_path / "precision.json").read_text())


@pytest.mark.usefixtures("bfloat16_is_not_refused")
def test_other_programs_that_disturb_one_round_do_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # float32 and bfloat16 in turn, two rounds with a picture and three with all: the first warm up, then bfloat16 was disturbed.
    seconds = iter([0.1, 0.9, 0.1, 0.1, *[2.0, 1.5, 0.9, 1.4, 0.9, 0.5] * 2])
    monkeypatch.setattr(hardware._Trial, "_seconds", lambda *_: next(seconds))
    found = hardware.precisions(TrainConfig(image_size=32), small_model(), tmp_path)
    assert found == Precisions(torch.bfloat16, torch.bfloat16)


@pytest.mark.usefixtures("bfloat16_is_not_refused")
def test_where_bfloat16_is_hopeless_a_single_picture_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def pretended(_: object, x: torch.Tensor, dtype: torch.dtype) -> float:
        asked.append(len(x))
        return 20.0 if dtype is torch.bfloat16 else 1.0

    monkeypatch.setattr(hardware._Trial, "_seconds", pretended)
    found = hardware.precisions(TrainConfig(image_size=32), small_model(), tmp_path)
    assert found == Precisions(torch.float32, torch.float32)
    assert asked == [1] * 4, "no step and no batch wait a minute for what one pass of a picture says"


@pytest.mark.parametrize(
    ("precision", "seconds", "said"), [("bfloat16", 14.0, True), ("bfloat16", 1.2, False), ("auto", 14.0, False)]
)
def test_bfloat16_that_is_asked_for_where_it_is_slow_comes_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, precision: str, seconds: float, said: bool
) -> None:
    monkeypatch.setattr(hardware._Trial, "_seconds", lambda _, __, dtype: seconds if dtype is torch.bfloat16 else 1.0)
    config = TrainConfig(image_size=32, precision=precision)  # type: ignore[arg-type]
    warning = said_of_precision(config, small_model())
    assert ("about 14 times as long" in warning) if said else not warning


@pytest.mark.usefixtures("bfloat16_is_not_refused")
def test_a_workspace_on_another_machine_measures_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_is_hopeless", lambda _: False)
    monkeypatch.setattr(hardware, "_faster", lambda _: "bfloat16")
    config = TrainConfig(image_size=32)
    hardware.precisions(config, small_model(), tmp_path)
    monkeypatch.setattr(hardware, "_faster", lambda _: "float32")
    assert hardware.precisions(config, small_model(), tmp_path).training == torch.bfloat16, "remembered"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "another", "avx2": True}, raising=False)
    assert hardware.precisions(config, small_model(), tmp_path).training == torch.float32


def test_a_real_measurement_gives_one_of_the_two(tmp_path: Path) -> None:
    hardware.keep_memory()
    found = hardware.precisions(TrainConfig(image_size=32), small_model(), tmp_path)
    assert {found.training, found.features} <= {torch.float32, torch.bfloat16}


def test_a_step_in_bfloat16_goes_where_a_step_in_float32_goes() -> None:
    """The strided depthwise convolutions have a backward pass of their own there, which must give the same gradients."""
    gradients = []
    for lower in (False, True):
        model = build("mobilenet_v2", 2, seed=0)
        prepare_phase(model, "fine tuning", unfreeze="all", pretrained=True)
        model.eval()  # no dropout: chance would differ
        x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            logits = Folded(model)(x)
        logits.float().sum().backward()
        strided = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1 and max(m.stride) > 1]
        assert len(strided) == 4
        gradients.append(torch.cat([m.weight.grad.flatten() for m in strided if m.weight.grad is not None]))
    cosine = nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0)
    assert float(cosine) > 0.98
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("destroyed", [float("nan"), 3e38])
def test_a_network_that_is_destroyed_does_not_pass_validation(
    destroyed: float, seed_folder: Callable[..., Path], home: Path
) -> None:
    """A fused ReLU makes 0 of what is not a number, so validation computes without; else the epoch could be kept as the best."""
    data = load(find_source(seed_folder(8, 4)), home)
    pixels = Pixels(data.paths, data.images, 32, contents=[picture.sha256 for picture in data.pictures], cache=home)
    model = build("mobilenet_v2", data.targets.shape[1], seed=0).eval()
    parts = TrainingData(pixels, data.targets, np.arange(6), np.arange(6, 8), np.zeros((6, 1)), np.zeros((2, 1)))
    assert 0 < _validate(model, parts, TrainConfig(image_size=32), "fine tuning", ALONE)[1] < 10
    with torch.no_grad():
        before, narrow = model.extractor.features[1].conv[0][1], model.extractor.features[1].conv[1]
        before.bias.fill_(10.0)  # 6 everywhere after ReLU6, and 6 * 3e38 is infinite
        narrow.weight[:, ::2], narrow.weight[:, 1::2] = destroyed, -destroyed
    with pytest.raises(PanoramaError, match="not a finite number"):
        _validate(model, parts, TrainConfig(image_size=32), "fine tuning", ALONE)


@pytest.mark.parametrize(("schedule", "after"), [("constant", 1), ("cosine", 1), ("cosine", 2)])
def test_fine_tuning_goes_on_from_a_checkpoint_as_if_never_interrupted(
    seed_folder: Callable[..., Path], home: Path, tmp_path: Path, schedule: Schedule, after: int
) -> None:
    """ResNet, whose weights lie in another order in memory than in the file: an optimizer that walks both alike mixes them up.

    Before and after the epoch from which on more blocks are left as they are, which is the second.
    """
    data = load(find_source(seed_folder(8, 4)), home)
    pixels = Pixels(data.paths, data.images, 32, contents=[picture.sha256 for picture in data.pictures], cache=home)
    config = TrainConfig(
        backbone="resnet18", epochs_adaptation=1, epochs_finetuning=3, patience_finetuning=9, image_size=32, batch_size=3,
        schedule=schedule, learning_rate_finetuning=1e-3,
    )  # fmt: skip
    exact = Precisions(torch.float32, torch.float32)

    def fresh() -> Classifier:
        return build("resnet18", data.targets.shape[1], seed=0).to(memory_format=torch.channels_last)

    def events(model: Classifier, state: TrainingState) -> Iterator[Event]:
        seen = extract(whole_pass(fresh(), pixels, image_size=32, dtype=torch.float32), np.arange(8), 512)
        parts = TrainingData(pixels, data.targets, np.arange(6), np.arange(6, 8), seen[:6], seen[6:])
        return train(model, parts, config, state=state, precisions=exact, pretrained=True)

    whole, interrupted, resumed = fresh(), fresh(), fresh()
    states = TrainingState(), TrainingState()
    for event in events(whole, states[0]):
        if isinstance(event, EpochEnded) and (event.phase, event.epoch) == ("fine tuning", 3):
            expected = {name: value.clone() for name, value in whole.state_dict().items()}
    for event in events(interrupted, states[1]):
        if isinstance(event, EpochEnded) and (event.phase, event.epoch) == ("fine tuning", after):
            save_checkpoint(tmp_path, interrupted, states[1])
            break
    found = load_checkpoint(tmp_path, resumed)
    assert found is not None
    found[0].best_weights = dict(states[1].best_weights)
    for event in events(resumed, found[0]):
        if isinstance(event, EpochEnded) and event.epoch == 3:
            assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
            return
    pytest.fail("the third epoch was not trained")


@pytest.mark.parametrize(
    ("unfreeze", "schedule", "epochs", "expected"),
    [
        ("auto", "cosine", 4, [7, 7, 11, 11]),
        ("auto", "cosine", 3, [7, 11, 11]),
        ("auto", "cosine", 1, [7]),
        ("auto", "constant", 3, [7, 7, 7]),
        ("all", "cosine", 2, [0, 0]),
        (3, "cosine", 2, [16, 16]),
    ],
)
def test_the_blocks_that_an_epoch_leaves_as_they_are(
    seed_folder: Callable[..., Path], home: Path, unfreeze: Unfreeze, schedule: Schedule, epochs: int, expected: list[int]
) -> None:
    """Seen from outside: which of MobileNetV2's 19 blocks have other weights after the epoch than before it."""
    data = load(find_source(seed_folder(8, 4)), home)
    pixels = Pixels(data.paths, data.images, 32, contents=[picture.sha256 for picture in data.pictures], cache=home)
    config = TrainConfig(
        epochs_adaptation=0, epochs_finetuning=epochs, patience_finetuning=9, image_size=32, batch_size=3, schedule=schedule, unfreeze=unfreeze,
    )  # fmt: skip
    model = build("mobilenet_v2", data.targets.shape[1], seed=0)
    parts = TrainingData(pixels, data.targets, np.arange(6), np.arange(6, 8), np.zeros((6, 1280)), np.zeros((2, 1280)))

    def weights() -> list[torch.Tensor]:
        return [torch.cat([p.detach().flatten() for p in part.parameters()]) for part in blocks(model.extractor)]

    left, before = [], weights()
    for event in train(model, parts, config, precisions=Precisions(torch.float32, torch.float32), pretrained=True):
        if isinstance(event, EpochEnded):
            after = weights()
            moved = [not torch.equal(one, two) for one, two in zip(before, after, strict=True)]
            left.append(moved.index(True))
            assert all(moved[left[-1] :])
            before = after
    assert left == expected

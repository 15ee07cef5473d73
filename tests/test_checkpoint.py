"""Models and checkpoints on disk: what comes back is what was saved, and what was tampered with is refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from panorama.checkpoint import CheckpointError, ModelCard, best_weights, load_checkpoint, load_model, save_checkpoint, save_model
from panorama.config import PhaseName
from panorama.model import build
from panorama.training import TrainingState

CARD = ModelCard("mobilenet_v2", ("sea", "trees"), 64, 0.5, "random")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path, build("mobilenet_v2", 2, seed=3).state_dict(), CARD)
    return tmp_path


def test_a_saved_model_predicts_the_same(saved: Path) -> None:
    model, card = load_model(saved)
    expected = build("mobilenet_v2", 2, seed=3).eval()
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(model(x), expected(x), atol=1e-5)
    assert (card.labels, card.image_size, card.backbone) == (("sea", "trees"), 64, "mobilenet_v2")


def test_a_tampered_weights_file_is_refused_naming_expected_and_found(saved: Path) -> None:
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (saved / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: changed or damaged: expected sha256 .*found"):
        load_model(saved)


def test_labels_that_do_not_fit_the_weights_are_refused(saved: Path) -> None:
    values = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps({**values, "labels": ["sea", "trees", "sunset"]}))
    with pytest.raises(CheckpointError, match=r"changed since the weights were saved: expected labels .* found"):
        load_model(saved)


@pytest.mark.parametrize(("name", "value", "words"), [
    ("labels", ["trees", "sea"], r'expected labels \["sea", "trees"\], found \["trees", "sea"\]'),
    ("image_size", 96, "expected image_size 64, found 96"),
    ("threshold", 0.1, "expected threshold 0.5, found 0.1"),
    ("backbone", "mobilenet_v3_small", 'expected backbone "mobilenet_v2", found "mobilenet_v3_small"'),
    ("weights", "imagenet", 'expected weights "random", found "imagenet"'),
])  # fmt: skip
def test_a_card_that_was_changed_is_refused_naming_expected_and_found(saved: Path, name: str, value: object, words: str) -> None:
    """Labels in another order fit the weights as well: every prediction would carry a wrong name."""
    values = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps({**values, name: value}))
    with pytest.raises(CheckpointError, match=rf"model\.json: changed since the weights were saved: {words}"):
        load_model(saved)


def test_the_same_model_is_saved_as_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    """safetensors writes several values of its metadata in any order; a resumed run must end with the same file."""
    first = (saved / "model.safetensors").read_bytes()
    for _ in range(6):
        save_model(tmp_path, build("mobilenet_v2", 2, seed=3).state_dict(), CARD)
        assert (tmp_path / "model.safetensors").read_bytes() == first


def test_a_model_of_an_earlier_version_is_still_read(saved: Path) -> None:
    save_file(load_file(saved / "model.safetensors"), saved / "model.safetensors")  # without what it says of itself
    values = json.loads((saved / "model.json").read_text())
    digest = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    (saved / "model.json").write_text(json.dumps({**values, "sha256": digest}))
    assert load_model(saved)[1].labels == ("sea", "trees")
    assert best_weights(saved)


def test_a_run_does_not_resume_from_weights_that_were_changed(saved: Path) -> None:
    assert best_weights(saved).keys() == build("mobilenet_v2", 2, seed=3).state_dict().keys()
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (saved / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: changed or damaged: expected digest .* found"):
        best_weights(saved)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 1}', "not json"])
def test_a_model_card_that_is_none_is_refused_in_words(saved: Path, content: str) -> None:
    (saved / "model.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.json"):
        load_model(saved)


@pytest.mark.parametrize("name", ["preprocessing", "format", "sha256", "labels"])
def test_a_card_without_one_of_its_values_is_refused(saved: Path, name: str) -> None:
    values = json.loads((saved / "model.json").read_text())
    for changed in ({k: v for k, v in values.items() if k != name}, {**values, name: None}):
        (saved / "model.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=r"model\.json"):
            load_model(saved)


def test_a_card_of_another_version_is_refused(saved: Path) -> None:
    values = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps({**values, "preprocessing": 99}))
    with pytest.raises(CheckpointError, match="another version"):
        load_model(saved)


def test_a_checkpoint_brings_back_model_optimizer_and_counters(tmp_path: Path) -> None:
    model = build("mobilenet_v2", 2, seed=0)
    state = TrainingState("fine tuning", 3, 1, 0.25, "fine tuning", 2)
    state.optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-3)
    model.head(torch.rand(4, 1280)).sum().backward()
    state.optimizer.step()
    save_checkpoint(tmp_path, model, state)

    again = build("mobilenet_v2", 2, seed=9)
    found = load_checkpoint(tmp_path, again)
    assert found is not None
    back, problem = found
    assert problem is None
    assert (back.phase, back.epoch, back.without_improvement, back.best_loss, back.best_epoch) == ("fine tuning", 3, 1, 0.25, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert back.optimizer_state is not None
    expected = state.optimizer.state_dict()["state"]
    assert all(torch.equal(expected[i][name], back.optimizer_state[i][name]) for i in expected for name in expected[i])


@pytest.mark.parametrize("phase", ["adaptation", "fine tuning"])
def test_what_adaptation_found_best_is_brought_back_beside_what_came_after(tmp_path: Path, phase: PhaseName) -> None:
    """The extractor as it was, with the best head; whether adaptation goes on from there or fine tuning has changed the extractor since."""
    untouched, model = build("mobilenet_v2", 2, seed=0), build("mobilenet_v2", 2, seed=0)
    state = TrainingState(phase, 3, 1, 0.25, "adaptation", 2)
    state.best_weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state.best_weights["head.weight"] += 1
    with torch.no_grad():
        model.head.weight.mul_(2)
        if phase == "fine tuning":
            for parameter in model.extractor.parameters():
                parameter.add_(0.1)
    save_checkpoint(tmp_path, model, state)
    assert ((tmp_path / "checkpoint.safetensors").stat().st_size < 100_000) == (phase == "adaptation")

    found = load_checkpoint(tmp_path, untouched)
    assert found is not None
    for name, value in model.state_dict().items():
        assert torch.equal(untouched.state_dict()[name], value), name
        assert torch.equal(found[0].best_weights[name], state.best_weights[name]), name


def test_a_folder_without_a_checkpoint_starts_from_nothing(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path, build("mobilenet_v2", 2, seed=0)) is None


def test_checkpoints_that_are_all_damaged_are_refused_in_words(tmp_path: Path) -> None:
    model = build("mobilenet_v2", 2, seed=0)
    save_checkpoint(tmp_path, model, TrainingState())
    save_checkpoint(tmp_path, model, TrainingState())
    for file in tmp_path.glob("checkpoint*"):
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="no checkpoint of this run can be used"):
        load_checkpoint(tmp_path, model)


def test_weights_changed_inside_a_valid_file_are_noticed(tmp_path: Path) -> None:
    """The digest covers the tensors: a file rewritten by another program with other numbers does not pass as ours."""
    model = build("mobilenet_v2", 2, seed=0)
    save_checkpoint(tmp_path, model, TrainingState())
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata()
    tensors = load_file(path)
    save_file(tensors, path, metadata=metadata)
    assert load_checkpoint(tmp_path, model) is not None, "the control: rewritten with the same numbers it is as good"
    tensors["model.head.bias"] += 1
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="changed or damaged"):
        load_checkpoint(tmp_path, model)

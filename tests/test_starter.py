"""The weights that ship with panorama: small, checked, taken where ImageNet's cannot be had, and made by one command."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUICK, ROOT

from panorama import model as models
from panorama import preprocessing, runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.errors import PanoramaError
from panorama.events import EpochEnded, Note
from panorama.finding import find_source
from panorama.model import build, load_pretrained
from panorama.runs import Run
from panorama.scenery import draw_scene
from panorama.worker import run as work

STARTER = ROOT / "panorama" / "starter"
WEIGHTS, CARD = STARTER / "mobilenet_v2.safetensors", STARTER / "mobilenet_v2.json"


def test_the_weights_are_small_enough_to_come_with_the_project() -> None:
    assert WEIGHTS.stat().st_size <= 8_000_000


def test_their_card_says_how_they_were_made() -> None:
    card = json.loads(CARD.read_text())
    assert card["backbone"] == "mobilenet_v2"
    assert {"seed", "stages", "formulas", "landscapes"} <= card["recipe"].keys()
    assert card["command"].startswith("python tools/pretrain_starter.py")


def features(weights: str) -> np.ndarray:
    """Of one drawn landscape that is not among those the weights saw."""
    network = build("mobilenet_v2", 2, seed=0)
    load_pretrained(network, "mobilenet_v2", weights)
    picture = np.asarray(draw_scene(["sea", "sunset"], (256, 256), np.random.default_rng(1)))
    network.eval()
    with torch.no_grad():
        found: np.ndarray = network.extractor(preprocessing.for_evaluation(torch.from_numpy(picture.copy())[None], 224)).numpy()
    return found


def test_features_of_a_picture_are_finite_and_not_those_of_random_weights() -> None:
    found = features("starter")
    assert np.isfinite(found).all()
    assert found.std() > 0.01
    assert not np.allclose(found, features("none"), atol=0.05)


def test_a_changed_file_is_refused_naming_expected_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(STARTER, tmp_path / "starter")
    changed = tmp_path / "starter" / WEIGHTS.name
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    monkeypatch.setattr(models, "_STARTER", changed)
    expected = json.loads(CARD.read_text())["sha256"][:12]
    with pytest.raises(PanoramaError, match=rf"expected sha256 {expected}\.\.\., found [0-9a-f]{{12}}"):
        load_pretrained(build("mobilenet_v2", 2, seed=0), "mobilenet_v2", "starter")


def test_a_missing_file_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_STARTER", tmp_path / WEIGHTS.name)
    with pytest.raises(PanoramaError, match=r"cannot be read .* Restore both files"):
        load_pretrained(build("mobilenet_v2", 2, seed=0), "mobilenet_v2", "starter")


def test_other_backbones_say_that_there_are_none() -> None:
    with pytest.raises(PanoramaError, match=r"starter weights of mobilenet_v2 only, not of resnet18.*--weights"):
        load_pretrained(build("resnet18", 2, seed=0), "resnet18", "starter")


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)


def new_run(folder: Path, home: Path, **changes: object) -> Run:
    values = {**QUICK, "weights": "imagenet", "backbone": "mobilenet_v2", "epochs_finetuning": 1, "fold_repeats": 1, **changes}
    return runs.create(load(find_source(folder), home), TrainConfig(**values), home)


@pytest.mark.usefixtures("no_network")
def test_without_a_network_a_run_goes_on_from_the_starter_weights_and_says_so(
    seed_folder: Callable[..., Path], home: Path
) -> None:
    run = new_run(seed_folder(), home)
    assert work(run.folder) == "complete"
    notes = " ".join(event.message for event in run.events() if isinstance(event, Note))
    assert "could not be downloaded (no route to host)" in notes
    assert "starter weights" in notes
    again = Run(run.folder)
    assert again.config.weights == "starter", "what a resumed or repeated run starts from"
    assert "starter" in json.loads((run.folder / "model.json").read_text())["weights"]


def test_a_run_that_began_with_imagenet_weights_is_not_resumed_with_others_for_want_of_a_network(
    seed_folder: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def downloaded(backbone: str) -> dict[str, torch.Tensor]:
        return build(backbone, 1, seed=5).extractor.state_dict()

    def unreachable(backbone: str) -> None:
        raise models.DownloadError(
            f"The ImageNet weights of {backbone} could not be downloaded (no route to host). Go on without a network: ..."
        )

    monkeypatch.setattr(models, "_imagenet_state", downloaded)
    run = new_run(seed_folder(), home)
    assert work(run.folder, lambda event: run.ask_to_stop() if isinstance(event, EpochEnded) else None) == "stopped"
    with monkeypatch.context() as patched:
        patched.setattr(models, "_imagenet_state", unreachable)
        assert work(run.folder) == "failed"
    assert "no route to host). This run began with them: resume it with a network." in run.history().message
    assert Run(run.folder).config.weights == "imagenet"
    assert work(run.folder) == "complete", run.history().message


@pytest.mark.usefixtures("no_network")
def test_without_a_network_another_backbone_fails_in_words(seed_folder: Callable[..., Path], home: Path) -> None:
    run = new_run(seed_folder(), home, backbone="resnet18")
    assert work(run.folder) == "failed"
    message = run.history().message
    assert "ImageNet weights of resnet18 could not be downloaded" in message
    assert "--weights starter" not in message


def test_the_command_line_refuses_starter_weights_of_another_backbone_before_it_reads_anything(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "panorama", "train", str(tmp_path), "--weights", "starter", "--backbone", "resnet18"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 1
    assert "starter weights of mobilenet_v2 only" in answer.stderr


TINY = ("--formulas", "12", "--landscapes", "6", "--drawn-side", "32", "--stages", "32:16", "--batch", "8",
        "--calibration", "8", "--calibration-side", "32")  # fmt: skip


def test_the_pretraining_gives_the_same_bytes_twice_and_they_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for name in ("one", "two"):
        subprocess.run(
            [sys.executable, ROOT / "tools" / "pretrain_starter.py", *TINY, "--out", tmp_path / name, "--cache", tmp_path / f"cache-{name}"],
            check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        made.append((tmp_path / name / WEIGHTS.name).read_bytes())
    assert made[0] == made[1]
    assert made[0] != WEIGHTS.read_bytes()
    monkeypatch.setattr(models, "_STARTER", tmp_path / "one" / WEIGHTS.name)
    assert np.isfinite(features("starter")).all()

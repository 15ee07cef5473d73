"""The ONNX file answers as the run's model does, in a runtime that knows nothing of torch."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS
from PIL import Image

from panorama import checkpoint
from panorama.__main__ import main
from panorama.checkpoint import ModelCard
from panorama.model import build, calibrate_batchnorm
from panorama.prediction import Predictor
from panorama.preprocessing import square

SIDE = 64


@pytest.fixture
def run(tmp_path: Path, seed_folder: Callable[..., Path]) -> Path:
    """A run folder with a model whose answers differ from picture to picture."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"format": 1, "created": "2026-01-01T00:00:00+00:00", "train": {}, "data": {}})
    )
    model = build("mobilenet_v2", len(COLOURS), seed=0)
    torch.manual_seed(1)
    calibrate_batchnorm(model, [torch.randn(16, 3, SIDE, SIDE) for _ in range(2)])  # or random weights answer 0.5 to everything
    card = ModelCard("mobilenet_v2", tuple(COLOURS), SIDE, 0.5, "none")
    checkpoint.save_model(folder, model.state_dict(), card)
    seed_folder(8, 2)
    return folder


def test_the_exported_model_answers_as_ours(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    out = tmp_path / "model.onnx"
    assert main(["onnx", str(run), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    images = [
        Image.open(path).convert("RGB").resize((SIDE, SIDE)) for path in sorted((tmp_path / "pictures" / "train").iterdir())
    ]
    for batch in (images, images[:1]):
        (found,) = session.run(None, {"pixels": np.stack([square(image, SIDE) for image in batch])})
        predictor = Predictor.load(run)
        expected = predictor._predict([square(image, SIDE) for image in batch])
        assert found == pytest.approx(expected, abs=1e-3)
    assert np.ptp(predictor._predict([square(image, SIDE) for image in images]), axis=0).max() > 0.01, "the negative control"


def test_the_file_says_what_goes_in_and_what_comes_out(run: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    out = tmp_path / "model.onnx"
    main(["onnx", str(run), "--out", str(out)])
    model = onnx.load(str(out))
    onnx.checker.check_model(model)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["labels"]) == list(COLOURS)
    assert f"{SIDE} x {SIDE}" in facts["input"]
    assert facts["model_sha256"] == checkpoint.read_card(run).sha256
    assert [entry.name for entry in model.graph.input] == ["pixels"]
    assert [entry.name for entry in model.graph.output] == ["probabilities"]


def test_without_a_model_there_is_nothing_to_export(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "model.safetensors").unlink()
    assert main(["onnx", str(run), "--out", str(tmp_path / "model.onnx")]) == 1
    assert "model.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()

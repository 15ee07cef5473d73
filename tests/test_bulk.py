"""Predictions for many pictures: in order, resumable after a kill, and never mixed with those of another model."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import COLOURS, QUICK

from panorama import bulk, runs
from panorama.__main__ import main
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.finding import find_source
from panorama.prediction import Predictor
from panorama.worker import run as work


@pytest.fixture
def trained(seed_folder: Callable[..., Path], home: Path) -> Path:
    run = runs.create(load(find_source(seed_folder(24, 12)), home), TrainConfig(**QUICK), home)
    assert work(run.folder) == "complete"
    return run.folder


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def test_a_prediction_that_was_killed_goes_on_and_ends_the_same(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bulk, "_BLOCK", 4)
    folder = tmp_path / "pictures" / "test"
    (folder / "test_005.jpg").write_bytes(b"not a picture")
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    assert main(["predict", str(trained), str(folder), "--out", str(whole)]) == 0
    assert [row[0] for row in table(whole)[1:]] == [f"test_{i:03}.jpg" for i in range(12) if i != 5]
    assert table(whole)[0] == ["image", *COLOURS]
    assert "test_005.jpg" in capsys.readouterr().err

    asked: list[str] = []
    plain = Predictor.predict

    def dies_in_the_third_block(self: Predictor, sources: list[tuple[str, Path]]) -> Iterator[object]:
        asked.extend(name for name, _ in sources)
        if len(asked) == 12:
            raise KeyboardInterrupt
        return plain(self, sources)

    monkeypatch.setattr(Predictor, "predict", dies_in_the_third_block)
    assert main(["predict", str(trained), str(folder), "--out", str(out)]) == 1
    assert not out.exists()
    (unfinished,) = tmp_path.glob(".out.csv.*.unfinished")
    unfinished.write_bytes(unfinished.read_bytes() + b'["test_008.jpg", [0.1')  # a line that the kill cut off
    asked.clear()
    assert main(["predict", str(trained), str(folder), "--out", str(out)]) == 0
    assert asked == [f"test_{i:03}.jpg" for i in range(8, 12)]
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".out.csv.*"))


def test_answers_of_another_model_or_of_other_pictures_are_not_gone_on_with(trained: Path, tmp_path: Path) -> None:
    sources = [("a", tmp_path / "a"), ("b", tmp_path / "b")]
    one = bulk.Unfinished(tmp_path / "out.csv", trained, sources)
    one.append([("a", [0.5])])
    assert bulk.Unfinished(tmp_path / "out.csv", trained, sources).count() == 1
    assert bulk.Unfinished(tmp_path / "out.csv", trained, sources[::-1]).count() == 0
    card = trained / "model.json"
    card.write_text(card.read_text().replace('"threshold": 0.5', '"threshold": 0.25'))
    assert bulk.Unfinished(tmp_path / "out.csv", trained, sources).count() == 0

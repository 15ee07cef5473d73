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
from panorama.errors import PanoramaError
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


def test_answers_of_another_model_or_of_other_pictures_are_not_gone_on_with(tmp_path: Path) -> None:
    sources = [("a", tmp_path / "a"), ("b", tmp_path / "b")]
    for name, path in sources:
        path.write_text(name)
    out = tmp_path / "out.csv"
    bulk.Unfinished(out, "sha", sources).append([("a", [0.5])])
    assert bulk.Unfinished(out, "sha", sources).count() == 1
    assert bulk.Unfinished(out, "sha", sources[::-1]).count() == 0
    assert bulk.Unfinished(out, "another", sources).count() == 0
    (tmp_path / "b").write_text("another picture")
    assert bulk.Unfinished(out, "sha", sources).count() == 0


def test_lines_that_a_crash_left_are_cut_off_from_the_first_unsound_one(tmp_path: Path) -> None:
    unfinished = bulk.Unfinished(tmp_path / "out.csv", "sha", [])
    unfinished.append([("a", [0.5]), ("b", "b: damaged.")])
    sound = unfinished.path.read_bytes()
    for rest in (b'["c", [0.1', b"\0\0\0\n", b'{"c": 1}\n["d", [0.1]]\n'):
        unfinished.path.write_bytes(sound + rest)
        assert unfinished.count() == 2
        assert unfinished.path.read_bytes() == sound


def test_two_predictions_into_one_file_are_refused_in_words(tmp_path: Path) -> None:
    unfinished = bulk.Unfinished(tmp_path / "out.csv", "sha", [])
    with unfinished.alone(), pytest.raises(PanoramaError, match="another prediction"), unfinished.alone():
        pass
    with unfinished.alone():
        pass


def test_predictions_never_overwrite_a_folder_or_a_file_of_the_run(trained: Path, tmp_path: Path) -> None:
    before = (trained / "predictions.csv").read_bytes()
    for out in (tmp_path, trained / "predictions.csv"):
        assert main(["predict", str(trained), str(tmp_path / "pictures" / "test"), "--out", str(out)]) == 1
    assert (trained / "predictions.csv").read_bytes() == before

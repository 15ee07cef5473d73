"""What a run found of a demo's planted errors, counted by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK

from panorama import planted, runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.demo import draw_demo
from panorama.finding import find_source, with_layouts
from panorama.runs import Run

IMAGES = 20


@pytest.fixture
def answered(tmp_path: Path) -> tuple[Run, Path]:
    """A run of a demo whose files say what a model that knows the truth would, with the suspects in an order of our own."""
    folder = tmp_path / "demo"
    data = load(with_layouts(find_source(draw_demo(folder, n_images=IMAGES, seed=3))), tmp_path)
    run = runs.create(data, TrainConfig(**QUICK), tmp_path)
    errors = planted.planted_errors(folder)
    truth = data.targets.copy()
    for (image, label), value in errors.items():
        truth[data.images.index(image), data.labels.index(label)] = value
    splits = ["validation" if i % 2 else split for i, split in enumerate(data.splits)]
    runs.write_rows(
        run.folder / "split.csv", ["image", "split", "path"], [(n, s, n) for n, s in zip(data.images, splits, strict=True)]
    )
    rows = [(n, s, *(0.9 if one else 0.1 for one in row)) for n, s, row in zip(data.images, splits, truth, strict=True)]
    runs.write_rows(run.folder / "predictions.csv", ["image", "split", *data.labels], rows)
    cells = [*errors, *((n, label) for n in data.images for label in data.labels if (n, label) not in errors)]
    runs.write_rows(run.folder / "suspects.csv", ["image", "split", "label"], [(n, "train", label) for n, label in cells[1:]])
    (run.folder / "metrics.json").write_text(json.dumps({}))
    return run, folder


def test_errors_among_the_first_suspects_are_counted(answered: tuple[Run, Path]) -> None:
    run, folder = answered
    errors = planted.planted_errors(folder)
    score = planted.score(run)
    assert score is not None
    assert (score.n_planted, score.n_found, score.depth) == (len(errors), len(errors) - 1, round(1.5 * len(errors)))
    assert f"{len(errors) - 1} of the {len(errors)} planted" in score.in_words()


def test_a_model_that_knows_the_truth_is_right_against_it_and_not_against_the_csv(answered: tuple[Run, Path]) -> None:
    score = planted.score(answered[0])
    assert score is not None
    assert score.map_truth == 1.0
    assert score.map_csv is not None
    assert score.map_csv < 1.0
    assert np.isfinite(score.map_csv)


def test_only_a_demo_has_a_score(answered: tuple[Run, Path]) -> None:
    run, folder = answered
    (folder / "demo.json").unlink()
    assert planted.score(run) is None


def test_errors_that_were_corrected_before_the_run_do_not_count(
    answered: tuple[Run, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = answered
    errors = planted.planted_errors(folder)
    names = run.images()[0]
    labels, _ = run.probabilities("predictions.csv") or ([], None)
    targets = run.targets(labels)
    for (image, label), value in list(errors.items())[:2]:
        targets[names.index(image), labels.index(label)] = value
    monkeypatch.setattr(Run, "targets", lambda _self, _labels: targets)
    score = planted.score(run)
    assert score is not None
    assert (score.n_planted, score.n_found) == (len(errors) - 2, len(errors) - 2)

"""Data sets at the edge of sense: each ends with a result or a plain sentence, never with a traceback or a NaN."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK, patch_picture

from panorama import runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.errors import PanoramaError
from panorama.finding import find_source
from panorama.worker import run as work

Row = Callable[[int], str]


def two_labels(i: int) -> str:
    return f"{i % 2},{int(i % 3 == 0)}"


def attempt(tmp_path: Path, home: Path, n: int, header: str, row: Row, **changes: object) -> str:
    """Trains on n pictures; "complete", or the sentence that says why not. Checks that what was written holds numbers only."""
    root = tmp_path / "few"
    root.mkdir()
    for i in range(n):
        patch_picture(["red"] if i % 2 else [], i).save(root / f"{i}.png")
    (root / "labels.csv").write_text("file," + header + "\n" + "".join(f"{i}.png,{row(i)}\n" for i in range(n)), encoding="utf-8")
    settings = {**QUICK, "epochs_adaptation": 1, "epochs_finetuning": 1, **changes}
    try:
        run = runs.create(load(find_source(root), home), TrainConfig(**settings), home)
        status = work(run.folder)
    except PanoramaError as error:
        return str(error)
    message = run.history().message
    assert "unexpected" not in message, message
    if status != "complete":
        return message
    for name in ("before.csv", "predictions.csv", "out_of_fold.csv", "suspects.csv", "neighbours.csv"):
        with (run.folder / name).open(newline="", encoding="utf-8") as stream:
            for line in csv.reader(stream):
                assert "nan" not in [cell.lower() for cell in line]
    json.loads((run.folder / "metrics.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} in metrics.json"))
    assert all(math.isfinite(epoch.validation_loss) for epoch in run.history().epochs)
    return "complete"


@pytest.mark.parametrize("models", ["heads", "trained"])
@pytest.mark.parametrize("n", [5, 8, 13])
def test_a_handful_of_pictures_trains(tmp_path: Path, home: Path, n: int, models: str) -> None:
    assert attempt(tmp_path, home, n, "a,b", two_labels, fold_models=models) == "complete"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_pictures_are_refused_in_words(tmp_path: Path, home: Path, n: int) -> None:
    assert "Too few pictures for training" in attempt(tmp_path, home, n, "a,b", two_labels)


def test_one_label_trains(tmp_path: Path, home: Path) -> None:
    assert attempt(tmp_path, home, 12, "a", lambda i: str(i % 2)) == "complete"


def test_sixty_labels_on_twelve_pictures_train(tmp_path: Path, home: Path) -> None:
    header = ",".join(f"label{k}" for k in range(60))
    assert attempt(tmp_path, home, 12, header, lambda i: ",".join(str((i + k) % 2) for k in range(60))) == "complete"


@pytest.mark.parametrize("value", ["0", "1"])
def test_labels_that_never_vary_are_refused_instead_of_a_successful_run_of_nothing(
    tmp_path: Path, home: Path, value: str
) -> None:
    assert "nothing to learn" in attempt(tmp_path, home, 12, "a", lambda _: value)


def test_a_label_that_never_varies_beside_one_that_does_is_not_measurable(tmp_path: Path, home: Path) -> None:
    assert attempt(tmp_path, home, 12, "never,a", lambda i: f"0,{i % 2}") == "complete"
    metrics = runs.list_runs(home)[0].metrics()
    assert metrics is not None
    assert metrics["test"]["labels"]["never"]["average_precision"] is None


def test_labels_named_like_our_own_columns_train(tmp_path: Path, home: Path) -> None:
    assert (
        attempt(tmp_path, home, 12, "image,split,path,label,event", lambda i: f"{i % 2},{int(i % 3 == 0)},1,0,{int(i > 5)}")
        == "complete"
    )
    run = runs.list_runs(home)[0]
    found = run.probabilities("out_of_fold.csv")
    assert found is not None
    assert found[0] == ["image", "split", "path", "label", "event"]


def test_a_batch_of_one_small_picture_is_explained(tmp_path: Path, home: Path) -> None:
    assert "batch size of 2 or more" in attempt(tmp_path, home, 8, "a,b", two_labels, batch_size=1, backbone="resnet18")


def test_a_backbone_of_one_size_is_explained(tmp_path: Path, home: Path) -> None:
    assert "--image-size 224" in attempt(tmp_path, home, 8, "a,b", two_labels, backbone="vit_b_32")

"""The large data set that benchmarks are made on is what a training would leave, only drawn."""

import csv
import sys
from pathlib import Path

import numpy as np
from conftest import ROOT

from panorama import heat
from panorama.datasets import load
from panorama.reviewfiles import open_queue

sys.path.insert(0, str(ROOT / "benchmarks"))

from large import build


def test_a_drawn_run_is_complete_and_opens_with_every_cell_once(home: Path) -> None:
    run = build(home, 500, 5)
    assert run.state() == "complete"
    queue = open_queue(run)
    cells = set(zip(queue.image_of.tolist(), queue.label_of.tolist(), strict=True))
    assert cells == {(image, label) for image in range(500) for label in range(5)}
    assert (np.diff(queue.doubts) <= 0).all()
    assert all(run.picture_path(path).is_file() for path in queue.paths)
    assert any(len(queue.neighbours(row)) == 5 for row in queue.image_of[:20])
    assert run.metrics() is not None
    assert heat.heat_of(run, 499, 4) is not None


def test_the_csv_of_a_drawn_run_says_what_its_suspects_were_given(home: Path) -> None:
    run = build(home, 500, 5)
    with (run.source.root / "labels.csv").open(newline="") as stream:
        given = {(row["image"], label): row[label] for row in csv.DictReader(stream) for label in row if label != "image"}
    with (run.folder / "suspects.csv").open(newline="") as stream:
        assert {(row["image"], row["label"]): row["given"] for row in csv.DictReader(stream)} == given


def test_the_pictures_of_a_drawn_data_set_are_found_and_read(home: Path) -> None:
    run = build(home, 320, 3)
    data = load(run.source, home)
    assert len(data.images) == 320
    assert data.n_left_out == 0
    assert data.fingerprint == run.fingerprint

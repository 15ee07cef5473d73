"""A run folder: who holds the workspace, what the run is called, and what is said of files that are not whole."""

import csv
import io
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, patch_picture
from hypothesis import given
from hypothesis import strategies as st

from panorama import runs
from panorama.config import TrainConfig
from panorama.datasets import corrected_csvs, load
from panorama.errors import PanoramaError
from panorama.events import RunEnded
from panorama.finding import find_source
from panorama.runs import BusyError, Run, worker_lock


def written(root: Path, home: Path) -> Run:
    """A run on the data set at `root` as its worker leaves it after the predictions before training, all of them 0.25."""
    data = load(find_source(root), home)
    run = runs.create(data, TrainConfig(**QUICK), home)
    paths = [path.relative_to(data.source.root).as_posix() for path in data.paths]
    runs.write_rows(run.folder / "split.csv", ["image", "split", "path"], list(zip(data.images, data.splits, paths, strict=True)))
    rows = [[image, split, *["0.25"] * len(data.labels)] for image, split in zip(data.images, data.splits, strict=True)]
    runs.write_rows(run.folder / "before.csv", ["image", "split", *data.labels], rows)
    return run


@pytest.fixture
def run(seed_folder: Callable[..., Path], home: Path) -> Run:
    return written(seed_folder(6, 3), home)


# -- tables


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=2), min_size=1))
def test_every_reader_takes_the_same_cells_from_a_table(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    runs.write_rows(path, ["image", "a\rb"], rows)
    assert runs.read_rows(path) == (["image", "a\rb"], rows)
    assert list(csv.reader(io.StringIO(path.read_bytes().decode(), newline=""))) == [["image", "a\rb"], *rows]


def test_names_with_line_breaks_come_back(tmp_path: Path, home: Path) -> None:
    for name in ("a\r.jpg", "b\n.jpg", "c.jpg"):
        patch_picture(["red"], ord(name[0])).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text('file,"s\rea"\n"a\r.jpg",1\n"b\n.jpg",0\nc.jpg,0\n', newline="")
    run = written(tmp_path, home)
    assert run.images()[0] == ["a\r.jpg", "b\n.jpg", "c.jpg"]
    found = run.probabilities("before.csv")
    assert found is not None
    assert found[0] == ["s\rea"]
    assert run.targets(found[0]).tolist() == [[1], [0], [0]]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("before.csv", ""),
        ("before.csv", "image,split,red\nx,train,0.5\n"),  # of other images
        ("before.csv", None),  # a row cut off
        ("split.csv", "image,split,path\na.jpg\n"),
    ],
)
def test_a_table_that_is_not_whole_is_said_with_its_name(file: str, content: str | None, run: Run) -> None:
    path = run.folder / file
    path.write_text(path.read_text()[:-8] if content is None else content)
    with pytest.raises(PanoramaError, match=file):
        run.probabilities("before.csv")


@pytest.mark.parametrize("value", ["nan", "inf", "1.5", "-0.1", "yes"])
def test_what_is_no_probability_never_leaves_a_table(value: str, run: Run) -> None:
    path = run.folder / "before.csv"
    path.write_text(path.read_text().replace("0.25", value, 1))
    with pytest.raises(PanoramaError, match=r"before\.csv: damaged"):
        run.probabilities("before.csv")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"test": 1}', "null"])
def test_metrics_that_are_not_whole_are_none(content: str, run: Run) -> None:
    (run.folder / "metrics.json").write_text(content)
    assert run.metrics() is None


def test_metrics_with_nan_are_none(run: Run) -> None:
    names = ("test", "validation", "train", "before_training", "out_of_fold", "thresholds_from_validation", "best")
    (run.folder / "metrics.json").write_text(json.dumps(dict.fromkeys(names, 0.5)))
    assert run.metrics() is not None
    (run.folder / "metrics.json").write_text(json.dumps(dict.fromkeys(names, float("nan"))))
    assert run.metrics() is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train", {"weight_decay": "x"}),
        ("train", 5),
        ("created", "yesterday"),
        ("created", None),
        ("data", {"root": 1}),
        ("data", None),
    ],
)
def test_a_damaged_run_does_not_hide_the_others(field: str, value: object, run: Run, home: Path) -> None:
    other = home / "runs" / "damaged"
    other.mkdir()
    config = json.loads((run.folder / "config.json").read_text()) | {field: value}
    (other / "config.json").write_text(json.dumps(config))
    assert [found.id for found in runs.list_runs(home)] == [run.id]


def test_runs_of_a_clock_without_a_zone_are_listed_beside_others(run: Run, home: Path) -> None:
    other = home / "runs" / "old"
    other.mkdir()
    config = json.loads((run.folder / "config.json").read_text()) | {"created": "2020-01-01T00:00:00"}
    (other / "config.json").write_text(json.dumps(config))
    assert [found.id for found in runs.list_runs(home)] == [run.id, "old"]


# -- names and places


def test_a_correction_of_a_picture_that_is_gone_is_still_exported(seed_folder: Callable[..., Path], home: Path) -> None:
    """It may have been decided on in an earlier run, when the picture was there."""
    folder = seed_folder(6, 3)
    (folder / "train" / "train_002.jpg").unlink()
    run = written(folder, home)
    assert "train_002.jpg" not in run.images()[0]
    original = (folder / "train_label.csv").read_bytes()
    lines = original.splitlines(keepends=True)
    given_value = lines[3].split(b",")[1].decode()
    wanted = 1 - int(given_value)
    contents = corrected_csvs(run.sheets(), {("train_002.jpg", "red"): wanted})
    lines[3] = lines[3].replace(f",{given_value},".encode(), f",{wanted},".encode(), 1)
    assert contents["train_label.csv"] == b"".join(lines)


def test_a_name_that_reads_like_another_with_its_split_keeps_its_own_labels(tmp_path: Path, home: Path) -> None:
    """Both CSVs have a.jpg, and the training CSV has a train/a.jpg besides."""
    for number, file in enumerate(("train/a.jpg", "train/train/a.jpg", "test/a.jpg")):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        patch_picture(["red"], number).save(tmp_path / file)
    (tmp_path / "train_label.csv").write_text("file,one,two\na.jpg,1,0\ntrain/a.jpg,0,1\n")
    (tmp_path / "test_label.csv").write_text("file,one,two\na.jpg,1,1\n")
    run = written(tmp_path, home)
    images, _, paths = run.images()
    assert len(set(images)) == 3
    by_path = dict(zip(paths, run.targets(["one", "two"]).tolist(), strict=True))
    assert by_path == {"train/a.jpg": [1, 0], "train/train/a.jpg": [0, 1], "test/a.jpg": [1, 1]}


def test_pictures_in_a_linked_folder_of_the_seed_layout_are_shown(
    seed_folder: Callable[..., Path], home: Path, tmp_path: Path
) -> None:
    folder = seed_folder(6, 3)
    (folder / "train").rename(tmp_path / "elsewhere")
    (folder / "train").symlink_to(tmp_path / "elsewhere")
    run = written(folder, home)
    assert all(run.picture_path(path).is_file() for path in run.images()[2])


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "train/../../secret.jpg"])
def test_no_picture_outside_the_data_set_is_shown(path: str, run: Run) -> None:
    with pytest.raises(PanoramaError, match="outside the data set"):
        run.picture_path(path)


# -- who runs


def test_those_who_only_look_are_never_taken_for_a_training(home: Path) -> None:
    (home / "worker.lock").touch()
    (home / "worker.json").write_text('{"run": "killed", "pid": 1}')
    assert runs.running(home) is None  # the name of a worker that was killed is cleared away
    end = time.monotonic() + 1.0

    def look(_: int) -> set[str | None]:
        seen = set()
        while time.monotonic() < end:
            seen.add(runs.running(home))
        return seen

    with ThreadPoolExecutor(4) as pool:
        assert set.union(*pool.map(look, range(4))) == {None}


def test_the_workspace_belongs_to_the_run_that_holds_it(run: Run, home: Path) -> None:
    with worker_lock(run):
        assert runs.running(home) == run.id
        assert runs.is_running(run)
        with pytest.raises(BusyError, match=run.id):
            runs.refuse_if_busy(run)
    assert runs.running(home) is None


def test_a_worker_is_not_kept_out_by_pages_that_look(run: Run, home: Path) -> None:
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            runs.running(home)

    with worker_lock(run):
        pass
    pages = [threading.Thread(target=look) for _ in range(3)]
    for page in pages:
        page.start()
    try:
        with worker_lock(run):
            assert runs.is_running(run)
    finally:
        done.set()
        for page in pages:
            page.join()


@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_a_run_that_is_resumed_is_starting_until_its_worker_says_something(status: str, run: Run) -> None:
    """Else the page says "stopped" and offers to resume it again while its worker imports torch."""
    log = runs.EventLog(run)
    log.append(RunEnded(time.time() - 10, status))  # type: ignore[arg-type]
    log.close()
    assert run.state() == status
    (run.folder / "launched").touch()
    assert run.state() == "starting"
    assert run.state(now=time.time() + 3600) == status


def test_probabilities_are_in_the_order_of_the_images(run: Run) -> None:
    path = run.folder / "before.csv"
    header, rows = runs.read_rows(path)
    for number, row in enumerate(rows):
        row[2] = f"0.{number:02}"
    runs.write_rows(path, header, rows)
    found = run.probabilities("before.csv")
    assert found is not None
    np.testing.assert_allclose(found[1][:, 0], [number / 100 for number in range(len(rows))], rtol=1e-6)


def test_a_stop_asked_while_the_worker_starts_is_not_forgotten(seed_folder: Callable[..., Path], home: Path) -> None:
    """Importing torch takes seconds; a click on Stop in that time must count, one of the start before must not."""
    run = runs.create(load(find_source(seed_folder(8, 4)), home), TrainConfig(), home)
    run.ask_to_stop()
    run.forget_earlier_stop()
    assert not run.stop_is_asked(), "started without a launcher: whatever is there is old"
    (run.folder / "launched").touch()
    os.utime(run.folder / "launched", (1000, 1000))
    run.ask_to_stop()
    run.forget_earlier_stop()
    assert run.stop_is_asked()
    os.utime(run.folder / "stop", (999, 999))
    run.forget_earlier_stop()
    assert not run.stop_is_asked()

"""Where the model sees a label: maps whose mean is the model's own answer, in a file that is checked, and a picture of one."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS
from PIL import Image
from test_worker import new_run

from panorama import heat
from panorama.errors import PanoramaError
from panorama.runs import Run, read_rows
from panorama.worker import run as work


@pytest.fixture
def mapped(seed_folder: Callable[..., Path], home: Path) -> Run:
    """A complete run on pictures large enough for maps of 2 x 2 places."""
    run = new_run(seed_folder(24, 8), home, image_size=64, epochs_finetuning=1)
    assert work(run.folder) == "complete", run.history().message
    return run


def test_the_maps_of_a_run_average_to_its_predictions(mapped: Run) -> None:
    """The mean of the places' logits is the image's logit; the file keeps steps of 1/255, the CSV six digits."""
    _, rows = read_rows(mapped.folder / "predictions.csv")
    for row, cells in enumerate(rows):
        for k, text in enumerate(cells[2:]):
            p = float(text)
            found = heat.heat_of(mapped, row, k)
            assert found is not None
            assert found.shape == (2, 2)
            places = np.clip(found / 255, 0.5 / 255, 1 - 0.5 / 255)
            slack = float(np.mean(0.6 / 255 / (places * (1 - places))))  # what half a step is worth in log-odds, at most
            assert abs(np.mean(np.log(places / (1 - places))) - np.log(p / (1 - p))) <= slack + 0.01
    assert not list(mapped.folder.glob(".heat*")), "what was written on the way is gone"


def test_a_run_whose_backbone_has_no_maps_has_none_and_is_complete(seed_folder: Callable[..., Path], home: Path) -> None:
    run = new_run(seed_folder(24, 8), home)  # 32 pixels: a single place
    assert work(run.folder) == "complete"
    assert not run.has("heat.npy")
    assert heat.heat_of(run, 0, 0) is None


def test_maps_over_the_bound_are_left_out_and_the_log_says_so(
    seed_folder: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heat, "MOST_BYTES", 32 * len(COLOURS) * 4 - 1)
    run = new_run(seed_folder(24, 8), home, image_size=64, epochs_finetuning=0)
    assert work(run.folder) == "complete"
    assert not run.has("heat.npy")
    assert any("No maps of where a label is seen are kept" in note for note in run.history().notes)


def damaged(data: bytes, way: str) -> bytes:
    if way == "cut":
        return data[:-7]
    if way == "other images":
        buffer = io.BytesIO()
        np.save(buffer, np.zeros((5, len(COLOURS), 2, 2), np.uint8))
        return buffer.getvalue()
    if way == "objects":
        buffer = io.BytesIO()
        np.save(buffer, np.array([{"a": 1}]), allow_pickle=True)
        return buffer.getvalue()
    return b"" if way == "empty" else b"\x93NUMPY" + b"\xff" * 100


@pytest.mark.parametrize("way", ["cut", "other images", "objects", "empty", "no header"])
def test_damaged_maps_are_said_in_words(mapped: Run, way: str) -> None:
    path = mapped.folder / "heat.npy"
    assert heat.heat_of(mapped, 0, 0) is not None
    replacement = path.with_suffix(".new")
    replacement.write_bytes(damaged(path.read_bytes(), way))
    replacement.replace(path)
    with pytest.raises(PanoramaError, match=r"heat\.npy: (damaged|does not fit the run)"):
        heat.heat_of(mapped, 0, 0)


def test_a_write_that_is_cut_off_leaves_the_earlier_maps(mapped: Run) -> None:
    before = (mapped.folder / "heat.npy").read_bytes()

    def write_a_part() -> None:
        with heat.writing(mapped, (32, 3, 2, 2)) as write:
            write(np.zeros((4, 3, 2, 2), np.uint8))
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        write_a_part()
    assert (mapped.folder / "heat.npy").read_bytes() == before
    assert not list(mapped.folder.glob(".heat*"))


def pixels_of(png: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert picture.mode == "RGBA"
    return np.asarray(picture)


def test_the_overlay_is_clear_where_the_label_is_not_and_brighter_where_it_is_likelier() -> None:
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    drawn = np.array([pixels_of(heat.overlay_png(np.full((2, 2), level, np.uint8), 4))[0, 0] for level in levels]).astype(float)
    luminance = drawn[:, :3] @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) > 0).all()
    assert (np.diff(drawn[:, 3]) >= 0).all()
    assert (drawn[levels < 51, 3] == 0).all()
    assert 128 < drawn[-1, 3] < 255, "the photo shines through"


def test_the_overlay_keeps_left_and_right_up_and_down() -> None:
    found = np.zeros((7, 7), np.uint8)
    found[1, 5] = 255
    png = heat.overlay_png(found, 112)
    opacity = pixels_of(png)[..., 3]
    assert opacity.shape == (112, 112)
    row, column = np.unravel_index(opacity.argmax(), opacity.shape)
    assert (row // 16, column // 16) == (1, 5)
    assert len(png) < 20_000

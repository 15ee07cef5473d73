"""The demo data set: the same seed draws the same world, and its planted errors are exactly the ones it lists."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panorama import demo, scenery, terrain
from panorama.demo import draw_demo
from panorama.errors import PanoramaError
from panorama.scenery import draw_scene
from panorama.terrain import DEMO_LABELS

N_IMAGES = 60


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cells_of(path: Path) -> dict[tuple[str, str], int]:
    """Read a label table by its own header, whatever its first column is called."""
    rows = rows_of(path)
    first, *labels = rows[0]
    return {(row[first], label): int(row[label]) for row in rows for label in labels}


def given_cells(folder: Path) -> dict[tuple[str, str], int]:
    return cells_of(folder / "data" / "train_label.csv") | cells_of(folder / "data" / "test_label.csv")


def pixels(*args: object, seed: int = 0, **kwargs: object) -> np.ndarray:
    return np.asarray(draw_scene(*args, np.random.default_rng(seed), **kwargs))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo of 60 pictures, drawn once."""
    folder = tmp_path_factory.mktemp("demo") / "scenes"
    assert draw_demo(folder, n_images=N_IMAGES, seed=5) == folder / "data"
    return folder


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the drawing by a grey square: for tests about the tables."""
    monkeypatch.setattr(demo, "draw_scene", lambda *_, **__: Image.new("RGB", (8, 8), "grey"))


def test_same_seed_draws_the_same_pixels() -> None:
    first, again, other = (pixels({"sea", "trees"}, (160, 120), seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_order_in_which_labels_are_named_does_not_matter() -> None:
    labels = list(DEMO_LABELS)
    assert np.array_equal(pixels(labels, (96, 64)), pixels(labels[::-1], (96, 64)))


@pytest.mark.parametrize("size", [(320, 240), (256, 320), (800, 200), (32, 32), (33, 47)])
def test_picture_has_the_size_that_was_asked_for(size: tuple[int, int]) -> None:
    image = draw_scene(DEMO_LABELS, size, np.random.default_rng(0))
    assert (image.size, image.mode) == (size, "RGB")


@pytest.mark.parametrize("label", DEMO_LABELS)
@pytest.mark.parametrize("small", [False, True])
def test_every_label_can_be_drawn_alone_large_and_small(label: str, small: bool) -> None:
    picture = pixels([label], (200, 150), small=[label] if small else [])
    assert picture.std() > 15  # a picture, not a flat sheet


def test_sunset_is_warmer_than_day() -> None:
    def warmth(labels: list[str]) -> list[float]:
        views = [pixels(labels, (96, 72), seed=seed).astype(float).mean((0, 1)) for seed in range(12)]
        return [red / blue for red, _, blue in views]

    assert np.median(warmth(["sunset"])) > 1.2 * np.median(warmth([]))


def test_small_sea_covers_less_than_a_whole_one() -> None:
    def share(small: list[str]) -> float:
        shares = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            scene = terrain.compose(frozenset(["sea"]), frozenset(small), (160, 120), rng)
            land = terrain.relief(scene, rng)
            shares.append(scenery._coverage(scene, land, scenery._project(scene, land))["sea"].mean())
        return float(np.mean(shares))

    assert share(["sea"]) < 0.5 * share([])


@pytest.mark.parametrize(
    ("labels", "small", "size", "words"),
    [
        (["lake"], [], (64, 64), "Cannot draw lake"),
        (["sea"], ["trees"], (64, 64), "Cannot draw trees.*small ones must be among the labels"),
        (["sea"], [], (8, 64), "8 x 64 pixels"),
    ],
)
def test_what_cannot_be_drawn_is_said(labels: list[str], small: list[str], size: tuple[int, int], words: str) -> None:
    with pytest.raises(PanoramaError, match=words):
        draw_scene(labels, size, np.random.default_rng(0), small=small)


def test_planted_errors_are_exactly_the_differences_to_the_truth(folder: Path) -> None:
    truth, given = cells_of(folder / "truth.csv"), given_cells(folder)
    assert truth.keys() == given.keys()
    differences = {(image, label, given[image, label], truth[image, label]) for image, label in truth
                   if given[image, label] != truth[image, label]}  # fmt: skip
    planted = rows_of(folder / "planted.csv")
    assert {(p["image"], p["label"], int(p["given"]), int(p["truth"])) for p in planted} == differences
    assert len(planted) == len(differences) > 0
    assert all(p["kind"] == ("missing" if p["truth"] == "1" else "extra") for p in planted)


@pytest.mark.usefixtures("no_pictures")
def test_errors_have_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    draw_demo(tmp_path / "demo", n_images=400, missing_share=0.2, extra_share=0.03)
    truth = cells_of(tmp_path / "demo" / "truth.csv").values()
    kinds = Counter(row["kind"] for row in rows_of(tmp_path / "demo" / "planted.csv"))
    assert kinds["missing"] / sum(truth) == pytest.approx(0.2, abs=0.002)
    assert kinds["extra"] / (len(truth) - sum(truth)) == pytest.approx(0.03, abs=0.002)


@pytest.mark.usefixtures("no_pictures")
def test_without_errors_the_labels_are_the_truth(tmp_path: Path) -> None:
    draw_demo(tmp_path / "demo", n_images=40, missing_share=0, extra_share=0)
    assert given_cells(tmp_path / "demo") == cells_of(tmp_path / "demo" / "truth.csv")
    assert rows_of(tmp_path / "demo" / "planted.csv") == []


def test_forgotten_labels_are_more_often_small_ones() -> None:
    settings = demo._Settings(n_images=400, seed=0, missing_share=0.10, extra_share=0)
    pictures = demo._plan(settings)
    truth = np.array([[int(label in p.labels) for label in DEMO_LABELS] for p in pictures])
    dropped = np.argwhere(demo._plant_errors(pictures, truth, settings) < truth)
    is_small = [DEMO_LABELS[j] in pictures[i].small for i, j in dropped]
    small_positives = sum(len(p.small) for p in pictures)
    assert np.mean(is_small) > 2 * small_positives / truth.sum()


@pytest.mark.parametrize("n_images", [100, 400])
@pytest.mark.usefixtures("no_pictures")
def test_each_label_is_in_at_least_15_percent_of_the_pictures(tmp_path: Path, n_images: int) -> None:
    draw_demo(tmp_path / "demo", n_images=n_images, seed=n_images)
    counts = Counter(label for (_, label), value in cells_of(tmp_path / "demo" / "truth.csv").items() if value)
    assert min(counts[label] for label in DEMO_LABELS) >= 0.15 * n_images


def test_layout_is_the_one_of_the_scenes(folder: Path) -> None:
    names = []
    for part, share in (("train", 0.8), ("test", 0.2)):
        table = folder / "data" / f"{part}_label.csv"
        assert table.read_bytes().startswith(b"fname,desert,mountains,sea,sunset,trees\n")
        rows = [row["fname"] for row in rows_of(table)]
        assert rows == sorted(path.name for path in (folder / "data" / part).iterdir())
        assert len(rows) == round(share * N_IMAGES)
        names += rows
    assert len(set(names)) == len(names) == N_IMAGES
    assert sorted(path.name for path in folder.iterdir()) == ["data", "demo.json", "planted.csv", "truth.csv"]


def test_pictures_come_in_several_sizes_and_about_15_percent_are_panoramic(folder: Path) -> None:
    sizes = []
    for path in sorted((folder / "data").glob("t*/*.jpg")):
        with Image.open(path) as image:
            image.load()
            sizes.append(image.size)
    ratios = [width / height for width, height in sizes]
    assert len(set(sizes)) >= 5
    assert min(ratios) < 1  # portrait
    assert sum(3 <= ratio <= 5 for ratio in ratios) == round(0.15 * N_IMAGES)


def test_each_picture_can_be_drawn_again_alone(folder: Path) -> None:
    picture = next(p for p in demo._plan(demo._Settings(N_IMAGES, 5, 0.10, 0.015)) if p.index == 17)
    alone = draw_scene(picture.labels, picture.size, np.random.default_rng((5, 17)), small=picture.small)
    with Image.open(folder / "data" / ("test" if picture.is_test else "train") / picture.name) as stored:
        difference = np.abs(np.asarray(stored, float) - np.asarray(alone, float)).mean()
    assert difference < 5  # JPEG


def test_demo_that_is_already_there_is_not_drawn_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "draw_scene", lambda *_, **__: pytest.fail("drawn again"))
    assert draw_demo(folder, n_images=N_IMAGES, seed=5) == folder / "data"


def test_folder_with_something_else_is_left_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PanoramaError, match=r"does not hold this demo .*Choose another folder, or delete it"):
        draw_demo(folder, n_images=N_IMAGES, seed=6)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(PanoramaError, match="is not empty"):
        draw_demo(tmp_path, n_images=20)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert json.loads((folder / "demo.json").read_text())["seed"] == 5


def test_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_later(*_: object, **__: object) -> Image.Image:
        if len(list(tmp_path.glob(".demo.*/data/t*/*.jpg"))) > 4:
            raise KeyboardInterrupt
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(demo, "draw_scene", fail_later)
    with pytest.raises(KeyboardInterrupt):
        draw_demo(tmp_path / "demo", n_images=20)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Image.Image:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "draw_scene", full)
    with pytest.raises(PanoramaError, match=r"could not be written to .*demo: No space left on device"):
        draw_demo(tmp_path / "demo", n_images=20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_pictures")
def test_progress_counts_every_picture_once(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    draw_demo(tmp_path / "demo", n_images=12, on_progress=lambda drawn, total: calls.append((drawn, total)))
    assert calls == [(i, 12) for i in range(1, 13)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_images": 3}, "3 images is too small"),
        ({"seed": -1}, "seed is -1"),
        ({"missing_share": 0.9}, "missing_share is 0.9; expected a share between 0 and 0.5"),
        ({"extra_share": float("nan")}, "extra_share is nan"),
    ],
)
def test_impossible_settings_are_said(tmp_path: Path, settings: dict[str, float], words: str) -> None:
    with pytest.raises(PanoramaError, match=words):
        draw_demo(tmp_path / "demo", **settings)
    assert not (tmp_path / "demo").exists()

"""A demo data set that the project draws itself: landscapes with five labels, and the errors annotators make.

`draw_scene` draws the pictures; here is which pictures there are, and which of their labels are told wrongly.
"""

import csv
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panorama.errors import PanoramaError
from panorama.scenery import draw_scene
from panorama.terrain import DEMO_LABELS

DRAWING_VERSION = 1  # raise it whenever the pixels or the planted errors of a given seed change

_COMBINATIONS: tuple[tuple[str, float], ...] = (  # and how often, relative to each other
    ("sea", 8), ("mountains", 7), ("desert", 8), ("trees", 9), ("sunset", 3), ("", 2),
    ("sea sunset", 8), ("mountains trees", 8), ("desert sunset", 6), ("desert mountains", 5), ("mountains sunset", 5),
    ("sunset trees", 6), ("mountains sea", 5), ("sea trees", 5), ("desert trees", 3), ("desert sea", 3),
    ("mountains sea sunset", 3), ("mountains sunset trees", 3), ("mountains sea trees", 3),
    ("desert mountains sunset", 2), ("sea sunset trees", 2),
)  # fmt: skip
_SIZES = ((320, 240), (384, 256), (256, 320), (360, 240), (300, 300))
_WIDE_SIZES = ((768, 240), (720, 180), (800, 200), (900, 180), (720, 240))
_WIDE_SHARE = 0.15


@dataclass(frozen=True)
class _Picture:
    """One row of the demo, before it is drawn."""

    index: int
    name: str
    is_test: bool
    size: tuple[int, int]
    labels: tuple[str, ...]
    small: tuple[str, ...]


@dataclass(frozen=True)
class _Settings:
    """What decides every byte of a demo; `demo.json`."""

    n_images: int
    seed: int
    missing_share: float
    extra_share: float
    drawing_version: int = DRAWING_VERSION


def draw_demo(
    folder: Path,
    *,
    n_images: int = 400,
    seed: int = 0,
    missing_share: float = 0.05,
    extra_share: float = 0.008,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the demo data set into `folder` and return `folder/data`, which has the layout of the scenes.

    `missing_share` of the true positives and `extra_share` of the true negatives are wrong in the CSVs; `truth.csv` and
    `planted.csv` beside `data` tell which. A folder that already holds this very demo is returned as it is. The folder
    appears complete or not at all. `on_progress(drawn, n_images)` is called on the caller's thread.
    """
    settings = _checked(_Settings(n_images, seed, missing_share, extra_share))
    folder = Path(folder).absolute()
    if _holds(folder, settings):
        return folder / "data"
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise PanoramaError(
            f"{folder} is not empty and does not hold this demo ({n_images} images, seed {seed}). "
            "Choose another folder, or delete it."
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        _write_demo(temporary, settings, on_progress)
        temporary.replace(folder)
    except OSError as error:
        if _holds(folder, settings):  # somebody else drew the same at the same time
            return folder / "data"
        reason = error.strerror or error
        raise PanoramaError(
            f"The demo could not be written to {folder}: {reason}. Nothing was left there; "
            "free some room or choose another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / "data"


def _checked(settings: _Settings) -> _Settings:
    if settings.n_images < 10:
        raise PanoramaError(f"A demo of {settings.n_images} images is too small to learn from; ask for 10 or more.")
    if settings.seed < 0:
        raise PanoramaError(f"The demo's seed is {settings.seed}; expected 0 or more.")
    for name in ("missing_share", "extra_share"):
        share = getattr(settings, name)
        if not 0 <= share <= 0.5:
            raise PanoramaError(f"{name} is {share}; expected a share between 0 and 0.5.")
    return settings


def _holds(folder: Path, settings: _Settings) -> bool:
    try:
        return json.loads((folder / "demo.json").read_text("utf-8")) == asdict(settings) and (folder / "data").is_dir()
    except (OSError, ValueError):
        return False


def _write_demo(folder: Path, settings: _Settings, on_progress: Callable[[int, int], None] | None) -> None:
    pictures = _plan(settings)
    for part in ("train", "test"):
        (folder / "data" / part).mkdir(parents=True)

    def draw(picture: _Picture) -> None:
        rng = np.random.default_rng((settings.seed, picture.index))  # its own stream: any order, any number of threads
        image = draw_scene(picture.labels, picture.size, rng, small=picture.small)
        image.save(folder / "data" / ("test" if picture.is_test else "train") / picture.name, quality=90)

    pool = ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 8))
    try:
        for drawn, _ in enumerate(pool.map(draw, pictures), 1):
            if on_progress is not None:
                on_progress(drawn, len(pictures))
    finally:
        pool.shutdown(cancel_futures=True)
    truth = np.array([[int(label in picture.labels) for label in DEMO_LABELS] for picture in pictures])
    given = _plant_errors(pictures, truth, settings)
    for part in ("train", "test"):
        rows = [i for i, picture in enumerate(pictures) if picture.is_test == (part == "test")]
        _write_csv(folder / "data" / f"{part}_label.csv", "fname", ([pictures[i].name, *given[i]] for i in rows))
    _write_csv(folder / "truth.csv", "image", ([picture.name, *row] for picture, row in zip(pictures, truth, strict=True)))
    with (folder / "planted.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "label", "given", "truth", "kind"])
        for i, j in np.argwhere(given != truth):
            writer.writerow([pictures[i].name, DEMO_LABELS[j], given[i, j], truth[i, j], "missing" if truth[i, j] else "extra"])
    (folder / "demo.json").write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")


def _write_csv(path: Path, first: str, rows: Iterable[list[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([first, *DEMO_LABELS])
        writer.writerows(rows)


def _plan(settings: _Settings) -> list[_Picture]:
    """What each picture shows: fixed quotas in random order, so that no label is rare by bad luck."""
    n, rng = settings.n_images, np.random.default_rng((settings.seed, settings.n_images, 1))
    weights = np.cumsum([weight for _, weight in _COMBINATIONS])
    quota = np.searchsorted(weights, (np.arange(n) + 0.5) / n * weights[-1])
    combinations = rng.permutation(quota)
    wide = rng.permutation(n) < round(_WIDE_SHARE * n)
    test = rng.permutation(n) < round(0.2 * n)
    pictures = []
    for i in range(n):
        labels = tuple(_COMBINATIONS[combinations[i]][0].split())
        sizes = _WIDE_SIZES if wide[i] else _SIZES
        odds = 0.0 if not labels else 0.12 if len(labels) == 1 else 0.45
        small = (str(rng.choice(labels)),) if rng.random() < odds else ()
        pictures.append(_Picture(i, f"scene_{i + 1:04d}.jpg", bool(test[i]), sizes[rng.integers(len(sizes))], labels, small))
    return pictures


def _plant_errors(pictures: list[_Picture], truth: npt.NDArray[np.int64], settings: _Settings) -> npt.NDArray[np.int64]:
    """The labels as annotators give them: what is small is forgotten first, the only label of a picture last."""
    rng = np.random.default_rng((settings.seed, settings.n_images, 2))
    given = truth.copy()
    positives, negatives = np.argwhere(truth == 1), np.argwhere(truth == 0)
    odds = np.array([_forgotten(pictures[i], DEMO_LABELS[j]) for i, j in positives])
    for cells, share, weights in (
        (positives, settings.missing_share, odds / odds.sum()),
        (negatives, settings.extra_share, np.full(len(negatives), 1 / len(negatives))),
    ):
        i, j = cells[rng.choice(len(cells), round(share * len(cells)), replace=False, p=weights)].T
        given[i, j] = 1 - given[i, j]
    return given


def _forgotten(picture: _Picture, label: str) -> float:
    if label in picture.small:
        return 8.0
    return 0.25 if len(picture.labels) == 1 else 1.0

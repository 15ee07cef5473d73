"""The world that tests build: small drawn data sets, a workspace of their own, and the folders beside the repo where there are any."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks: threads cost more than they bring
settings.register_profile("panorama", deadline=None)  # a shared machine pauses when it likes; timings belong in benchmarks/
settings.load_profile("panorama")
ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of the test's own."""
    folder = tmp_path_factory.mktemp("workspace")
    monkeypatch.setenv("PANORAMA_HOME", str(folder))
    return folder


def shared(*parts: str) -> Path:
    """A path under ../shared; the test is skipped, saying so, where it is not there."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {Path('..', 'shared', *parts)}, which is not here")
    return path


COLOURS = {"red": (200, 40, 40), "green": (40, 170, 60), "blue": (40, 60, 200)}


def patch_picture(labels: Sequence[str], seed: int, size: tuple[int, int] = (72, 56)) -> Image.Image:
    """Grey noise with one large patch of colour for each label: learnable in seconds, no two alike."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 150, (size[1], size[0], 3))
    for position, label in enumerate(COLOURS):
        if label in labels:
            left = position * size[0] // 3 + int(rng.integers(0, 4))
            top = int(rng.integers(0, size[1] // 3))
            pixels[top : top + size[1] // 2, left : left + size[0] // 4] = np.array(COLOURS[label]) + rng.integers(-20, 20, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_seed_folder(root: Path, n_train: int, n_test: int, seed: int = 0) -> Path:
    """A data set in the seed layout: three labels that are colours, every image with a random set of them."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", n_train), ("test", n_test)):
        (root / split).mkdir(parents=True)
        lines = ["file," + ",".join(COLOURS)]
        for i in range(count):
            bits = rng.integers(0, 2, len(COLOURS))
            name = f"{split}_{i:03}.jpg"
            patch_picture(
                [c for c, bit in zip(COLOURS, bits, strict=True) if bit], seed * 10_000 + i + (5000 if split == "test" else 0)
            ).save(root / split / name, quality=92)
            lines.append(",".join([name, *map(str, bits)]))
        (root / f"{split}_label.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def seed_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a data set with `write_seed_folder`."""

    def make(n_train: int = 48, n_test: int = 16, *, folder: Path | None = None, seed: int = 0) -> Path:
        return write_seed_folder(folder or tmp_path / "pictures", n_train, n_test, seed)

    return make


QUICK = {
    "weights": "none", "image_size": 32, "batch_size": 16, "epochs_adaptation": 3, "epochs_finetuning": 3, "folds": 2, "fold_repeats": 1,
    "precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int, str], Path]:
    """Folders with pictures and a workspace with a complete run on them, each trained once a session."""
    made: dict[tuple[int, int, str], Path] = {}

    def train(n_train: int, n_test: int, unreadable: str) -> Path:
        key = (n_train, n_test, unreadable)
        if key not in made:
            from panorama import runs
            from panorama.config import TrainConfig
            from panorama.datasets import load
            from panorama.finding import find_source, with_layouts
            from panorama.worker import run as work
            from panorama.workspace import remember

            folder = tmp_path_factory.mktemp("trained")
            root = write_seed_folder(folder / "pictures", n_train, n_test)
            if unreadable:
                (root / "train" / unreadable).write_bytes(b"not a picture")
            source = with_layouts(find_source(root))
            remember(folder / "home", source)
            run = runs.create(load(source, folder / "home"), TrainConfig(**{**QUICK, "fold_models": "heads"}), folder / "home")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PANORAMA_HOME", str(folder / "home"))  # its cache belongs to it
                assert work(run.folder) == "complete"
            made[key] = folder
        return made[key]

    return train


@pytest.fixture
def trained(tmp_path: Path, home: Path, _trained: Callable[[int, int, str], Path]) -> Callable[..., Any]:
    """Gives the test's workspace a data set and a complete run of its own on it: a copy of one that was trained before."""

    def copy(n_train: int = 48, n_test: int = 16, *, unreadable: str = "") -> Any:
        from panorama.runs import list_runs

        template = _trained(n_train, n_test, unreadable)
        shutil.copytree(template / "pictures", tmp_path / "pictures")
        shutil.copytree(template / "home", home, dirs_exist_ok=True)
        for file in (home / "dataset.json", *home.glob("runs/*/config.json")):
            file.write_text(
                file.read_text().replace(json.dumps(str(template / "pictures")), json.dumps(str(tmp_path / "pictures")))
            )
        (run,) = list_runs(home)
        return run

    return copy


@pytest.fixture
def finished(trained: Callable[..., Any]) -> Any:
    """A workspace with a data set and a complete run on it."""
    return trained()


@pytest.fixture
def opened(chromium: str) -> Iterator[Any]:
    """A headless browser of the test's own."""
    from browser import browser

    with browser(chromium) as it:
        yield it


@pytest.fixture
def quick_arguments() -> list[str]:
    """Command line options of a training that takes seconds."""
    return [argument for name, value in QUICK.items() for argument in ("--" + name.replace("_", "-"), str(value))]


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path; the test is skipped where Chromium is not installed."""
    import shutil

    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium (Debian), or any Chromium or Chrome on the PATH")
    return path

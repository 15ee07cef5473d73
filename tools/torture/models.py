"""Models: no pickle on any load path, in the source and in the act; and weights or cards that somebody changed."""

import ast
import io
import json
import os
import pickle
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from panorama.errors import PanoramaError
from tools.torture.checks import ROOT, Check, Outcome

# -- in the source

_PICKLE_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
    "pandas.io.pickle",
}
_NEVER = {"read_pickle", "loads_pickle", "eval", "exec", "__import__", "Unpickler"}
_NEVER_OF = {
    ("torch.jit", "load"),
    ("torch.hub", "load"),
    ("torch.package", "PackageImporter"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
}


def unsafe_loads(source: str) -> list[str]:
    """Each place where Python source could run what a file says: pickle and its kin, torch.load, numpy.load and the like, not told to be safe."""
    tree = ast.parse(source)
    names = dict(_imported_names(tree))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [f"line {node.lineno}: imports {a.name}" for a in node.names if a.name.split(".")[0] in _PICKLE_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module in _PICKLE_MODULES:
            found.append(f"line {node.lineno}: imports from {node.module}")
        elif isinstance(node, ast.Call) and (why := _unsafe_call(node, names)):
            found.append(f"line {node.lineno}: {why}")
    return found


def _imported_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What each name in the source stands for: np -> numpy, load -> torch.load."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname or alias.name.split(".")[0]), (alias.name if alias.asname else alias.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield (alias.asname or alias.name), f"{node.module}.{alias.name}"


def _unsafe_call(node: ast.Call, names: dict[str, str]) -> str | None:
    dotted = ast.unparse(node.func)
    first, _, rest = dotted.partition(".")
    full = names.get(first, first) + (f".{rest}" if rest else "")
    options = {keyword.arg: keyword.value.value for keyword in node.keywords if isinstance(keyword.value, ast.Constant)}
    given = {keyword.arg for keyword in node.keywords}
    module, _, name = full.rpartition(".")
    if full == "torch.load":
        return None if options.get("weights_only") is True else "torch.load without weights_only=True"
    if full == "numpy.load":
        return None if options.get("allow_pickle") is False else "numpy.load without allow_pickle=False"
    if "allow_pickle" in given and options.get("allow_pickle") is not False:
        return f"{full} with allow_pickle"
    if (not module and name in _NEVER) or name in _NEVER - {"eval", "exec"} or (module, name) in _NEVER_OF:
        return full
    return None


BAD_SOURCES = (
    "import pickle", "from pickle import loads", "import joblib as j", "import torch\ntorch.load(p)", "import torch as t\nt.load(p, weights_only=False)",
    "from torch import load\nload(p)", "from torch import load as l\nl(p, map_location='cpu')", "import numpy as np\nnp.load(p)", "import numpy\nnumpy.load(p, allow_pickle=True)",
    "from numpy import load\nload(p)", "import numpy as np\nnp.lib.format.read_array(f, allow_pickle=flag)", "import pandas as pd\npd.read_pickle(p)", "import torch\ntorch.hub.load(a, b)",
    "import torch\ntorch.jit.load(p)", "eval(text)", "def f():\n    import dill", "import yaml\nyaml.load(t)", "import torch\ntorch.load(p, weights_only=safe)", "import shelve",
)  # fmt: skip


def sources(_: bool) -> Outcome:
    """Every file of the app."""
    files = [*(ROOT / "panorama").rglob("*.py"), *(ROOT / "pages").glob("*.py"), ROOT / "streamlit_app.py"]
    wrong = [f"{file.relative_to(ROOT)}, {place}" for file in files for place in unsafe_loads(file.read_text(encoding="utf-8"))]
    return Outcome(len(files), 0, tuple(wrong))


def bad_sources(_: bool) -> Outcome:
    """The control: all of these must be seen, or none counts."""
    seen = [source for source in BAD_SOURCES if unsafe_loads(source)]
    missed = [source for source in BAD_SOURCES if source not in seen]
    assert not missed, f"not seen: {missed}"
    return Outcome(len(BAD_SOURCES), 0, tuple(seen))


# -- in the act


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def payloads(marker: Path) -> dict[str, bytes]:
    """The same bomb in every wrapping that something might open."""
    import torch

    plain = pickle.dumps(Bomb(marker))
    as_torch, as_npy, as_npz = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"features.0.0.weight": Bomb(marker)}, as_torch)
    np.save(as_npy, np.array([Bomb(marker)], object), allow_pickle=True)
    np.savez(as_npz, keys=np.array([Bomb(marker)], object))
    legacy = io.BytesIO()
    torch.save({"a": Bomb(marker)}, legacy, _use_new_zipfile_serialization=False)
    return {
        "pickle": plain,
        "torch.save": as_torch.getvalue(),
        "older torch.save": legacy.getvalue(),
        "npy": as_npy.getvalue(),
        "npz": as_npz.getvalue(),
    }


Load = Callable[[Path], object]


def loaders(run_folder: Path) -> dict[str, tuple[str, Load]]:
    """Each place where a person can put a file, and what the app does with it: (path below the workspace, load)."""
    import torch

    from panorama import archives, bulk, cache, demo, hardware, model, runs, workspace
    from panorama.checkpoint import best_weights, load_checkpoint, load_model
    from panorama.datasets import load
    from panorama.decisions import read_answers
    from panorama.finding import find_source
    from panorama.heat import heat_of
    from panorama.images import open_rgb
    from panorama.labels import parse_csv, read_decisions
    from panorama.reviewfiles import open_queue
    from panorama.reviews import ReviewStore
    from panorama.runs import Run

    run = f"runs/{run_folder.name}"

    def weights(path: Path) -> object:
        return model.load_pretrained(model.build("mobilenet_v2", 2, seed=0), "mobilenet_v2", str(path))

    def rows(path: Path) -> object:
        return cache.Rows(path.parent.parent, path.stem, 4).read(["00" * 32])

    def pixels(path: Path) -> object:
        file = cache.PixelFile(path.parent.parent, path.stem, 1, 8)
        return file.open() and file.read(0)

    def answers(path: Path) -> object:
        unfinished = bulk.Unfinished(path, "model", [])
        unfinished.path = path
        return unfinished.count()

    def of_run(method: Callable[[Run], object]) -> Load:
        return lambda path: method(Run(path.parent))

    places: dict[str, tuple[str, Load]] = {
        "weights.pth": ("mine/weights.pth", weights), "weights.pt": ("mine/weights.pt", weights), "weights.bin": ("mine/weights.bin", weights),
        "weights.safetensors": ("mine/weights.safetensors", weights), "weights without a suffix": ("mine/weights", weights),
        "starter weights": ("mine/starter.safetensors", lambda path: model._starter_state(path)),
        "model.safetensors": (f"{run}/model.safetensors", lambda path: load_model(path.parent)), "model.json": (f"{run}/model.json", lambda path: load_model(path.parent)),
        "model.safetensors, resumed": (f"{run}/model.safetensors", lambda path: best_weights(path.parent)),
        "checkpoint.safetensors": (f"{run}/checkpoint.safetensors", lambda path: load_checkpoint(path.parent, model.build("mobilenet_v2", 2, seed=0))),
        "checkpoint.previous.safetensors": (f"{run}/checkpoint.previous.safetensors", lambda path: load_checkpoint(path.parent, model.build("mobilenet_v2", 2, seed=0))),
        "heat.npy": (f"{run}/heat.npy", of_run(lambda r: heat_of(r, 0, 0))), "config.json": (f"{run}/config.json", of_run(lambda r: (r.config, r.source))),
        "events.jsonl": (f"{run}/events.jsonl", of_run(lambda r: r.events())), "metrics.json": (f"{run}/metrics.json", of_run(lambda r: r.metrics())),
        "problems.json": (f"{run}/problems.json", of_run(lambda r: r.problems())), "split.csv": (f"{run}/split.csv", of_run(lambda r: r.images())),
        "suspects.csv": (f"{run}/suspects.csv", of_run(open_queue)), "suspects.npz": (f"{run}/suspects.npz", of_run(open_queue)),
        "neighbours.csv": (f"{run}/neighbours.csv", of_run(open_queue)),
        "predictions.csv": (f"{run}/predictions.csv", of_run(lambda r: r.probabilities("predictions.csv"))), "labels of a run": (f"{run}/labels/train_label.csv", lambda path: Run(path.parents[1]).sheets()),
        "features of the cache": ("cache/features/k.rows", rows), "older features of the cache": ("cache/features/k.npy", rows), "pixels of the cache": ("cache/pixels/k.pixels", pixels),
        "measured pictures of the cache": ("cache/pictures.sqlite", lambda path: load(find_source(path.parents[1] / "set"), path.parents[1])),
        "reviews.sqlite": ("reviews.sqlite", lambda path: ReviewStore(path)), "dataset.json": ("dataset.json", lambda path: workspace.current(path.parent)),
        "what this machine is like": ("cache/precision.json", lambda path: hardware._measured("x", torch.device("cpu"), path.parent, _no_trial, _no_trial)),
        "demo.json": ("demo/demo.json", lambda path: demo._holds(path.parent, demo._Settings(1, 1, 0, 0.0))),
        "worker.json": ("worker.json", lambda path: runs.running(path.parent)),
        "a CSV": ("set/train_label.csv", lambda path: parse_csv(path.read_bytes(), path.name)), "decisions.csv": ("mine/decisions.csv", lambda path: read_decisions(path.read_bytes(), path.name)),
        "decisions of others": ("mine/decisions.csv", lambda path: read_answers(path.read_bytes(), path.name, csv="c", given=lambda _: 0, reviewer="ada")), "a picture": ("set/train/train_000.jpg", open_rgb),
        "a picture called .pkl": ("set/train/x.pkl", open_rgb), "a zip": ("mine/set.zip", lambda path: archives.import_zip(path, path.parent / "data", path.name)),
        "a data set": ("set/model.csv", find_source), "answers of a prediction": ("mine/predictions.jsonl", answers),
    }  # fmt: skip
    return places


def _no_trial() -> Any:
    raise PanoramaError("nothing is timed here")


def small_world(folder: Path) -> Path:
    """A workspace with a data set and a run that is not trained; returns the run's folder."""
    import sys

    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import write_seed_folder

    from panorama import runs
    from panorama.checkpoint import ModelCard, save_checkpoint, save_model
    from panorama.config import TrainConfig
    from panorama.datasets import load
    from panorama.finding import find_source
    from panorama.model import build
    from panorama.training import TrainingState

    write_seed_folder(folder / "set", 6, 3)
    run = runs.create(load(find_source(folder / "set"), folder), TrainConfig(weights="none"), folder)
    network = build("mobilenet_v2", 2, seed=0)
    save_model(run.folder, network.state_dict(), ModelCard("mobilenet_v2", ("sea", "trees"), 64, 0.5, "random"))
    save_checkpoint(run.folder, network, TrainingState())
    return run.folder


def unpickle(path: Path) -> object:
    """The control: what a loader must never do."""
    return pickle.loads(path.read_bytes())


def planted(quick: bool, load_all_with: Load | None = None) -> Outcome:
    """Each bomb in each place, loaded as the app loads it."""
    wrong: list[str] = []
    tried = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        home, marker = Path(folder) / "home", Path(folder) / "executed"
        run_folder = small_world(home)
        bombs = payloads(marker)
        if quick:
            bombs = {"pickle": bombs["pickle"]}
        for place, (path, load) in loaders(run_folder).items():
            for kind, data in bombs.items():
                file = home / path
                before = file.read_bytes() if file.exists() else None
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
                tried += 1
                try:
                    (load_all_with or load)(file)
                except PanoramaError:
                    refused += 1
                except (sqlite3.DatabaseError, UnicodeDecodeError, ValueError) as error:
                    wrong += [f"{place}, {kind}: {type(error).__name__}: {error}"] if load_all_with is None else []
                except Exception as error:
                    wrong += [f"{place}, {kind}: {type(error).__name__}: {error}"] if load_all_with is None else []
                if marker.exists():
                    wrong.append(f"{place}, {kind}: executed")
                    marker.rmdir()
                if before is None:
                    file.unlink(missing_ok=True)
                else:
                    file.write_bytes(before)
    return Outcome(tried, refused, tuple(wrong), measured={"places": str(len(loaders(Path("x"))))})


# -- changed


def tampered(quick: bool, load: Callable[[Path], object] | None = None, most: int | None = None) -> Outcome:
    """Bytes of model.safetensors changed, cut, swapped for another model's; every value of model.json changed."""
    from panorama.checkpoint import CheckpointError, ModelCard, load_model, save_model
    from panorama.model import build

    load = load or load_model
    wrong: list[str] = []
    refused = 0
    with tempfile.TemporaryDirectory() as name:
        folder, other = Path(name) / "run", Path(name) / "other"
        for place, seed in ((folder, 0), (other, 1)):
            place.mkdir()
            save_model(
                place,
                build("mobilenet_v2", 2, seed=seed).state_dict(),
                ModelCard("mobilenet_v2", ("sea", "trees"), 64, 0.5, "random"),
            )
        load(folder)  # untouched it loads
        attempts = list(_changed(folder, other, 6 if quick else 300))[:most]
        for what, weights, card in attempts:
            (folder / "model.safetensors").write_bytes(weights)
            (folder / "model.json").write_bytes(card)
            try:
                load(folder)
                wrong.append(f"{what}: loaded")
            except CheckpointError as error:
                refused += 1
                words = str(error)
                if "expected" not in words and "not a model card" not in words and "cannot be read" not in words:
                    wrong.append(f"{what}: does not name expected and found: {words}")
            except Exception as error:
                wrong.append(f"{what}: {type(error).__name__}: {error}")
    return Outcome(len(attempts), refused, tuple(wrong))


def _changed(folder: Path, other: Path, n_flips: int) -> Iterator[tuple[str, bytes, bytes]]:
    weights, card = (folder / "model.safetensors").read_bytes(), (folder / "model.json").read_bytes()
    rng = random.Random(0)
    for n in range(n_flips):
        data = bytearray(weights)
        place = rng.randrange(len(data)) if n % 3 else rng.randrange(20_000)  # the header too
        data[place] ^= 1 << rng.randrange(8)
        yield f"bit at {place}", bytes(data), card
    for size in (0, 1, 8, len(weights) // 2, len(weights) - 1):
        yield f"cut to {size}", weights[:size], card
    yield "more behind it", weights + b"\0", card
    yield "another model's weights", (other / "model.safetensors").read_bytes(), card
    values = json.loads(card)
    changes: dict[str, list[Any]] = {
        "labels": [["trees", "sea"], ["sea"], ["sea", "trees", "sky"], "sea", None, [1, 2]], "image_size": [96, 0, -1, "64", None], "threshold": [0.1, 2, None, "0.5"],
        "backbone": ["resnet18", "nothing", "../x", None], "weights": ["imagenet", None], "sha256": ["", "0" * 64, None], "preprocessing": [99, None], "format": [0, "1"],
    }  # fmt: skip
    for name, news in changes.items():
        for new in news:
            yield f"{name} = {new!r}", weights, json.dumps({**values, name: new}).encode()
        yield f"without {name}", weights, json.dumps({k: v for k, v in values.items() if k != name}).encode()
    yield "one more value", weights, json.dumps({**values, "more": 1}).encode()
    for text in (b"", b"{}", b"[]", b"null", b"\xff", card[: len(card) // 2], card.replace(b"64", b"6" + b"4" * 400)):
        yield f"card {text[:20]!r}", weights, text


def trusting(folder: Path) -> object:
    """The control: the weights and the card as they come."""
    from safetensors.torch import load_file

    from panorama.checkpoint import ModelCard
    from panorama.model import build

    values = json.loads((folder / "model.json").read_text())
    card = ModelCard(**{**values, "labels": tuple(values["labels"])})
    model = build(card.backbone, len(card.labels), seed=0)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


CHECKS = (
    Check("models-sources", "the source of the app, for anything that unpickles or evaluates", sources, bad_sources, "19 snippets that load unsafely, each must be seen", 30, 30),
    Check(
        "models-planted", "a pickle in each place where a person can put a file, loaded as the app loads it",
        planted, lambda quick: planted(True, unpickle), "pickle.load", 200, 60,
    ),
    Check(
        "models-tampered", "weights and cards that were changed: refused, naming expected and found",
        tampered, lambda quick: tampered(True, trusting, 4), "weights and card read as they come", 400, 60,
    ),
)  # fmt: skip

"""Images a second from files to probabilities: a plain loop, panorama with each of its engines, and what each engine alone could do.

    python benchmarks/prediction.py RUN_DIR FOLDER_OF_PICTURES [--images 2000]

The plain loop is what a first script does: PIL, torchvision transforms, the eager model, one picture at a time. An engine's own limit
is its forward pass, in lanes where it computes so, on batches that are already in memory. Each is measured in a process of its own, all of them in turn, as often as --rounds says;
the best counts, and the spread is told. ONNX Runtime is left out where its packages (requirements-onnx.txt) are not installed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from panorama.engine import Engine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
_MANY = 2000  # pictures that the engine is chosen for, however few are measured
_FEW = 300  # pictures for the plain loop, which is slow


def plain_loop(run: Path, files: list[Path]) -> float:
    import torch
    from PIL import Image
    from torchvision import transforms

    from panorama.checkpoint import load_model
    from panorama.preprocessing import IMAGENET_MEAN, IMAGENET_STD

    model, card = load_model(run)
    model = model.to(memory_format=torch.contiguous_format)
    side = (card.image_size, card.image_size)
    prepare = transforms.Compose(
        [transforms.Resize(side), transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )
    files = files[:_FEW]
    with torch.no_grad():
        model(torch.zeros(1, 3, *side))
        started = time.perf_counter()
        for file in files:
            torch.sigmoid(model(prepare(Image.open(file).convert("RGB"))[None]))
    return len(files) / (time.perf_counter() - started)


def predictor(run: Path, files: list[Path], name: str) -> float:
    from panorama import hardware
    from panorama.prediction import Predictor

    hardware.keep_memory(of_threads=True)
    ours = Predictor.load(run, engine(name))
    list(ours.predict([(file.name, file) for file in files[:64]]))
    started = time.perf_counter()
    list(ours.predict([(file.name, file) for file in files]))
    return len(files) / (time.perf_counter() - started)


def limit(run: Path, files: list[Path], name: str) -> float:
    import torch

    from panorama import hardware
    from panorama.checkpoint import load_model
    from panorama.folding import for_inference
    from panorama.hardware import batch_size

    hardware.keep_memory(of_threads=True)
    model, card = load_model(run)
    where = hardware.device()
    network = engine(name)(for_inference(model).to(where), card)
    size = batch_size(where)
    lanes = network.lanes
    if lanes is not None:
        size = lanes.at_once
    x = torch.rand(size, 3, card.image_size, card.image_size, device=where).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(_: int) -> None:
        network.logits(x).cpu()

    for count in (16, max(1, len(files) // size)):
        started = time.perf_counter()
        for _ in map(forward, range(count)) if lanes is None else lanes.map(forward, range(count)):
            pass
    return count * size / (time.perf_counter() - started)


def engine(name: str) -> "Engine":
    """Its network is kept between the processes, in a folder of the benchmark's own."""
    from panorama.engine import choose

    return choose(name, _MANY, Path(tempfile.gettempdir()) / "panorama-benchmark")  # type: ignore[arg-type]


ENGINES = {"torch": "torch", "onnx": "ONNX Runtime"}
_MEASURES: dict[str, Callable[[Path, list[Path]], float]] = {"plain loop": plain_loop}
for _engine in ENGINES:
    _MEASURES[f"panorama, {_engine}"] = partial(predictor, name=_engine)
    _MEASURES[f"{_engine} alone"] = partial(limit, name=_engine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=lambda text: Path(text).resolve())
    parser.add_argument("pictures", type=lambda text: Path(text).resolve())
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--measure", choices=list(_MEASURES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        files = sorted(path for path in options.pictures.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        print(_MEASURES[options.measure](options.run, files[: options.images]))
        return
    installed = all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    measures = [name for name in _MEASURES if installed or "onnx" not in name]
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(options.rounds):
        for name in measures:
            command = [sys.executable, __file__, str(options.run), str(options.pictures), "--images", str(options.images)]
            found = subprocess.run([*command, "--measure", name], check=True, capture_output=True, text=True, cwd=ROOT)
            rates[name].append(float(found.stdout.splitlines()[-1]))
    for name, found in rates.items():
        print(f"{name:<16}{max(found):>8.1f} images/s  (from {min(found):.1f})")
    best = {name: max(found) for name, found in rates.items()}
    for key, name in ENGINES.items():
        if f"panorama, {key}" in best:
            ours = best[f"panorama, {key}"]
            print(
                f"panorama with {name} is {ours / best['plain loop']:.2f} times the plain loop; {name} alone is {best[f'{key} alone'] / ours:.2f} times panorama"
            )


if __name__ == "__main__":
    main()

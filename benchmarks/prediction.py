"""Images a second from files to probabilities: a plain loop, panorama, and what the network alone could do.

    python benchmarks/prediction.py RUN_DIR FOLDER_OF_PICTURES [--images 2000]

The plain loop is what a first script does: PIL, torchvision transforms, the eager model, one picture at a time. The network's own limit
is panorama's folded network on a batch that is already in memory. Each is measured in a process of its own, twice in turn; the better counts.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
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


def predictor(run: Path, files: list[Path]) -> float:
    from panorama import hardware
    from panorama.prediction import Predictor

    hardware.keep_memory()
    ours = Predictor.load(run)
    list(ours.predict([(file.name, file) for file in files[:64]]))
    started = time.perf_counter()
    list(ours.predict([(file.name, file) for file in files]))
    return len(files) / (time.perf_counter() - started)


def limit(run: Path, files: list[Path]) -> float:
    import torch

    from panorama import hardware
    from panorama.checkpoint import load_model
    from panorama.features import batch_size
    from panorama.folding import for_inference

    hardware.keep_memory()
    model, card = load_model(run)
    where = hardware.device()
    network = for_inference(model).to(where)
    size = batch_size(where)
    x = torch.rand(size, 3, card.image_size, card.image_size, device=where).contiguous(memory_format=torch.channels_last)
    rounds = max(1, len(files) // size)
    with torch.inference_mode():
        for count in (3, rounds):
            started = time.perf_counter()
            for _ in range(count):
                network(x).cpu()
    return rounds * size / (time.perf_counter() - started)


_MEASURES = {"plain loop": plain_loop, "panorama": predictor, "network alone": limit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=lambda text: Path(text).resolve())
    parser.add_argument("pictures", type=lambda text: Path(text).resolve())
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--measure", choices=list(_MEASURES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        files = sorted(path for path in options.pictures.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        print(_MEASURES[options.measure](options.run, files[: options.images]))
        return
    best = dict.fromkeys(_MEASURES, 0.0)
    for _ in range(2):
        for name in _MEASURES:
            command = [sys.executable, __file__, str(options.run), str(options.pictures), "--images", str(options.images)]
            found = subprocess.run([*command, "--measure", name], check=True, capture_output=True, text=True, cwd=ROOT)
            best[name] = max(best[name], float(found.stdout.splitlines()[-1]))
    for name, rate in best.items():
        print(f"{name:<14}{rate:>8.1f} images/s")
    print(f"panorama is {best['panorama'] / best['plain loop']:.2f} times the plain loop")
    print(f"the network alone is {best['network alone'] / best['panorama']:.2f} times panorama")


if __name__ == "__main__":
    main()

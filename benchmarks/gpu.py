"""Fine tuning on a GPU beside the same network on pictures that are in its memory already.

    python benchmarks/gpu.py DATA WEIGHTS [--pictures 8000] [--batch 32]

DATA: a folder with train/ and train_label.csv, as panorama takes it; its pictures are repeated up to --pictures. WEIGHTS: of MobileNetV2.
The peers compute one batch again and again, without reading, augmenting or looking at the loss: PyTorch's own step in bfloat16 and in
float32, started kernel by kernel, and panorama's step. Then panorama's fine tuning, as a run does it, with the pictures kept on the GPU
and read anew each time. The first epoch of each size of pictures gets the GPU ready and is said apart.
"""

import argparse
import csv
import hashlib
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from panorama import hardware, preprocessing  # noqa: E402
from panorama.config import TrainConfig  # noqa: E402
from panorama.events import EpochEnded  # noqa: E402
from panorama.features import Pixels  # noqa: E402
from panorama.hardware import Precisions  # noqa: E402
from panorama.model import Classifier, build, load_pretrained, prepare_phase  # noqa: E402
from panorama.steps import Gradients  # noqa: E402
from panorama.training import _SMALLER, TrainingData, train  # noqa: E402

WHERE = torch.device("cuda", 0)
EPOCHS, LABELS = 6, 5
STEPS = 100


def rate(step: Callable[[], object], pictures: int) -> float:
    """Pictures a second: the median of five rounds."""
    for _ in range(10):
        step()
    seconds = []
    for _ in range(5):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return pictures * STEPS / sorted(seconds)[2]


def model(weights: Path, late: bool) -> Classifier:
    found = build("mobilenet_v2", LABELS, seed=0)
    load_pretrained(found, "mobilenet_v2", str(weights))
    found.to(WHERE).to(memory_format=torch.channels_last)
    prepare_phase(found, "fine tuning", unfreeze="auto", pretrained=True, late=late)
    return found


def in_memory(weights: Path, batch: int, side: int, late: bool) -> dict[str, float]:
    x = torch.randn(batch, 3, side, side, device=WHERE).contiguous(memory_format=torch.channels_last)
    y = (torch.rand(batch, LABELS, device=WHERE) > 0.5).float()
    found = {}
    for name, dtype in (("PyTorch, bfloat16", torch.bfloat16), ("PyTorch, float32", torch.float32)):
        network = model(weights, late)
        optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-5, fused=True)

        def plain(network=network, optimizer=optimizer, dtype=dtype) -> None:  # type: ignore[no-untyped-def]
            with torch.autocast("cuda", dtype, enabled=dtype is torch.bfloat16):
                logits = network(x)
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), y).backward()
            optimizer.step()

        found[name] = rate(plain, batch)
    for name, dtype in (("panorama's step, bfloat16", torch.bfloat16), ("panorama's step, float32", torch.float32)):
        network = model(weights, late)
        optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-5, fused=True)
        gradients = Gradients(network, dtype)

        def step(gradients=gradients, optimizer=optimizer) -> None:  # type: ignore[no-untyped-def]
            gradients(x, y)
            optimizer.step()

        found[name] = rate(step, batch)
        if gradients.recorded is None:
            print(f"  {side} pixels: {name} is not recorded as a graph here", flush=True)
    return found


def fine_tuning(data: TrainingData, weights: Path, batch: int, dtype: torch.dtype) -> list[EpochEnded]:
    network = model(weights, late=False)
    config = TrainConfig(batch_size=batch, epochs_adaptation=1, epochs_finetuning=EPOCHS, weights=str(weights))
    events = train(network, data, config, precisions=Precisions(dtype, dtype), pretrained=True)
    return [event for event in events if isinstance(event, EpochEnded) and event.phase == "fine tuning"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here that PyTorch can use.")
    print(f"{hardware.describe(WHERE)}, PyTorch {torch.__version__}, batches of {options.batch}", flush=True)
    small = round(224 * _SMALLER)
    peers = {}
    for side, late in ((small, False), (224, True)):
        peers[side] = in_memory(options.weights, options.batch, side, late)
        for name, value in peers[side].items():
            print(f"  {side} pixels, in GPU memory: {name:<28}{value:>8.0f} images/s", flush=True)
    with (options.data / "train_label.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    rows = list(itertools.islice(itertools.cycle(rows), options.pictures))
    paths = [options.data / "train" / row[0] for row in rows]
    targets = np.array([[int(value) for value in row[1 : 1 + LABELS]] for row in rows], np.int8)
    with tempfile.TemporaryDirectory() as cache:
        digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in set(paths)}
        contents = [digests[path] for path in paths]
        side = preprocessing.stored_side(224)
        everything = np.arange(len(paths))
        features = np.zeros((len(paths), 1280), np.float32)
        for kept in (True, False):
            if not kept:
                hardware.free_memory = lambda where: 0
            pixels = Pixels(paths, [path.name for path in paths], side, contents=contents, cache=Path(cache))
            started = time.perf_counter()
            pixels.read()
            print(f"  decoded in {time.perf_counter() - started:.1f} s", flush=True)
            validation = everything[:200]
            data = TrainingData(pixels, targets, everything, validation, features, features[validation])
            epochs = fine_tuning(data, options.weights, options.batch, torch.bfloat16)
            print("  pictures kept on the GPU" if kept else "  pictures read for each batch", flush=True)
            for event in epochs:
                size = small if 2 * event.epoch <= EPOCHS else 224
                best = max(peers[size].values())
                first = " (getting ready)" if event.epoch in (1, EPOCHS // 2 + 1) else ""
                print(
                    f"    epoch {event.epoch}, {size} pixels: {event.images_per_second:>7.0f} images/s, "
                    f"{event.images_per_second / best:.0%} of the fastest in memory{first}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

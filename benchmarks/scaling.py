"""How a training's cost grows with the number of pictures, what adaptation costs, and what a second training saves.

    python benchmarks/scaling.py DATA WEIGHTS [--sizes 1000 5000 20000] [--epochs 1]

The pictures of DATA repeated under new names, each with a few bytes appended, so that every file is its own content to the cache.
For each size: seconds a picture of each part, and the peak memory. For the first size: the time to the end of adaptation beside one
plain forward pass of the folded channels_last extractor over the same files' pixels (the mean of one before and one after, for machines drift),
and how long a second training takes to adapt.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def repeated(data: Path, size: int, folder: Path) -> Path:
    """DATA/train repeated to `size` pictures in the seed layout, a fifth of them for test."""
    with (data / "train_label.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    for split, count in (("train", size - size // 5), ("test", size // 5)):
        (folder / split).mkdir(parents=True)
        with (folder / f"{split}_label.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            for number in range(count):
                row = rows[number % len(rows)]
                name = f"{number:06}.jpg"
                content = (data / "train" / row[0]).read_bytes() + f"{split} {number}".encode()  # readers stop before it
                (folder / split / name).write_bytes(content)
                writer.writerow([name, *row[1:]])
    return folder


def trained(data: Path, weights: Path, home: Path, epochs: int) -> tuple[object, float]:
    """The finished run, and its process's peak memory in GB."""
    from panorama.runs import Run

    command = [
        sys.executable,
        "-m",
        "panorama",
        "train",
        str(data),
        "--weights",
        str(weights),
        "--epochs-finetuning",
        str(epochs),
    ]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "PANORAMA_HOME": str(home)}
        )
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        text = output.read()
    if status:
        sys.exit(text[-2000:])
    return Run(Path(text.splitlines()[-1])), usage.ru_maxrss * 1024 / 1e9


def plain_pass(data: Path, weights: Path) -> float:
    """Seconds of the folded channels_last extractor over all pictures, float32, batch 64, pixels in memory."""
    import numpy as np
    import torch

    from panorama import hardware, preprocessing
    from panorama.folding import folded
    from panorama.images import open_rgb
    from panorama.model import build, load_pretrained

    files = sorted(data.rglob("*.jpg"))
    pixels = np.stack([preprocessing.square(open_rgb(file, at_least=224), 224) for file in files])
    model = build("mobilenet_v2", 5, seed=0)
    load_pretrained(model, "mobilenet_v2", str(weights))
    extractor = folded(model.to(memory_format=torch.channels_last)).extractor
    hardware.keep_memory()
    with torch.inference_mode():
        extractor(torch.zeros(64, 3, 224, 224).contiguous(memory_format=torch.channels_last))
        seconds = 0.0
        for start in range(0, len(files), 64):
            x = preprocessing.for_evaluation(torch.from_numpy(pixels[start : start + 64]), 224)
            started = time.perf_counter()
            extractor(x)
            seconds += time.perf_counter() - started
    return seconds


def plain_pass_alone(data: Path, weights: Path) -> float:
    """`plain_pass` in a process of its own."""
    command = [sys.executable, __file__, str(data), str(weights), "--plain-pass"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()[-1])


def main() -> None:
    from panorama.events import EpochEnded, PhaseEnded, StageEnded

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=lambda text: Path(text).resolve())
    parser.add_argument("weights", type=lambda text: Path(text).resolve())
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--epochs", type=int, default=1, help="of fine tuning")
    parser.add_argument("--plain-pass", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain_pass:
        print(plain_pass(options.data, options.weights))
        return
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            data = repeated(options.data, size, Path(folder) / "data")
            home = Path(folder) / "home"
            passes = [plain_pass_alone(data, options.weights)] if size == options.sizes[0] else []
            started = time.time()
            run, peak = trained(data, options.weights, home, options.epochs)
            seconds = time.time() - started
            events = run.events()  # type: ignore[attr-defined]
            stages = {event.stage: event.seconds for event in events if isinstance(event, StageEnded)}
            tuning = sum(e.seconds for e in events if isinstance(e, EpochEnded) and e.phase == "fine tuning")
            parts = ", ".join(f"{stage.lower()} {1000 * value / size:.2f}" for stage, value in stages.items())
            print(
                f"{size:>7,} pictures: {seconds:.0f} s, {1000 * seconds / size:.1f} ms a picture, peak {peak:.2f} GB; ms a picture: {parts}, "
                f"fine tuning {1000 * tuning / size:.2f}",
                flush=True,
            )
            if size == options.sizes[0]:
                adapted = next(e.at for e in events if isinstance(e, PhaseEnded))
                passes.append(plain_pass_alone(data, options.weights))
                print(
                    f"        adapted after {adapted - events[0].at:.1f} s, {2 * (adapted - events[0].at) / sum(passes):.2f} plain forward passes "
                    f"({passes[0]:.1f} s before, {passes[1]:.1f} s after)"
                )
                again, _ = trained(data, options.weights, home, 0)
                later = again.events()  # type: ignore[attr-defined]
                first = next(e.at for e in later if isinstance(e, EpochEnded))
                print(
                    f"        a second training ends its first epoch of adaptation after {first - later[0].at:.1f} s", flush=True
                )


if __name__ == "__main__":
    main()

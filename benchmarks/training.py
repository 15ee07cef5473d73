"""Time and quality of a whole training, beside the seed notebook's recipe and fastai, on the same pictures, weights and machine.

    python benchmarks/training.py DATA WEIGHTS PEERS [--seeds 3] [--peer-seeds 1] [--only panorama seed fastai]

PEERS: the folder with seed_recipe.py and fastai_peer.py. The seed recipe's wall time is one timed epoch of each phase times the
number of epochs that its own early stopping takes in a run with `--fast`, which also gives its quality. fastai must be installed.
One after another; run nothing beside it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Result:
    """seconds: wall time of the whole; peak: bytes; phases: images a second."""

    name: str
    seconds: float
    peak: int
    quality: list[float]
    phases: dict[str, float]
    trained: float | None = None  # seconds until the model is trained and every image predicted


def measured(command: list[str], **environment: str) -> tuple[str, float, int]:
    """Output, wall seconds, and the peak memory in bytes of the largest process; DataLoader workers are not added."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{text[-2000:]}")
    return text, seconds, usage.ru_maxrss * 1024


def seed_recipe(options: argparse.Namespace) -> Result:
    script = [sys.executable, str(options.peers / "seed_recipe.py"), str(options.data), str(options.weights)]
    counts, quality = (0, 0), []
    for seed in range(options.peer_seeds):
        text, _, _ = measured([*script, "--fast", "--seed", str(seed)])
        rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        if seed == 0:
            counts = tuple(sum(row.get("phase") == phase for row in rows) for phase in ("adaptation", "fine tuning"))
        quality.append(rows[-1]["mAP"])
        print(f"  seed recipe --fast, seed {seed}: {counts[0]} + {counts[1]} epochs, mAP {quality[-1]:.4f}", flush=True)
    text, _, peak = measured([*script, "--epochs1", "1", "--epochs2", "1"])
    epochs = {row["phase"]: row for line in text.splitlines() if line.startswith("{") and "phase" in (row := json.loads(line))}
    images = sum(1 for _ in (options.data / "train_label.csv").open()) - 1  # without the header
    seconds = sum(
        count * (epochs[phase]["train_s"] + epochs[phase]["test_s"])
        for count, phase in zip(counts, ("adaptation", "fine tuning"), strict=True)
    )
    return Result("seed recipe", seconds, peak, quality, {phase: images / row["train_s"] for phase, row in epochs.items()})


def fastai(options: argparse.Namespace) -> Result:
    script = (options.peers / "fastai_peer.py").read_text()
    if "set_seed(0)" not in script:
        sys.exit("fastai_peer.py does not set the seed where this benchmark changes it.")
    walls, peaks, quality = [], [], []
    for seed in range(options.peer_seeds):
        with tempfile.TemporaryDirectory() as folder:
            seeded = Path(folder) / "fastai_peer.py"
            seeded.write_text(script.replace("set_seed(0)", f"set_seed({seed})"))
            text, _, peak = measured([sys.executable, str(seeded), str(options.data), str(options.weights)])
        found = re.search(r"wall (\d+) s, .*test mAP ([\d.]+)", text)
        assert found is not None, text
        walls.append(float(found[1]))
        peaks.append(peak)
        quality.append(float(found[2]))
        print(f"  fastai, seed {seed}: {walls[-1]:.0f} s, mAP {quality[-1]:.4f}", flush=True)
    return Result("fastai fine_tune, 3 + 5 epochs", sum(walls) / len(walls), max(peaks), quality, {})


def panorama(options: argparse.Namespace) -> Result:
    sys.path.insert(0, str(ROOT))
    from panorama.events import EpochEnded, PhaseStarted, StageEnded
    from panorama.runs import Run

    walls, trained, peaks, quality, phases = [], [], [], [], {}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as home:
            command = [sys.executable, "-m", "panorama", "train", str(options.data), "--weights", str(options.weights)]
            text, seconds, peak = measured([*command, "--seed", str(seed)], PANORAMA_HOME=home)
            run = Run(Path(text.splitlines()[-1]))
            events, metrics = run.events(), run.metrics()
            stages = {event.stage: event.seconds for event in events if isinstance(event, StageEnded)}
            rates = [e.images_per_second for e in events if isinstance(e, EpochEnded) and e.phase == "fine tuning"]
            after = stages["Computing features of corners"] + stages["Out-of-fold probabilities"]
            began = next(e.at for e in events if isinstance(e, PhaseStarted))
            walls.append(seconds)
            trained.append(seconds - after)
            peaks.append(peak)
            quality.append(metrics["test"]["macro"]["average_precision"] if metrics else float("nan"))
            phases = {"fine tuning": sum(rates) / len(rates)}
            parts = ", ".join(f"{stage.lower()} {value:.1f}" for stage, value in stages.items())
            print(
                f"  panorama, seed {seed}: {seconds:.0f} s, mAP {quality[-1]:.4f}; seconds: before adaptation {began - events[0].at:.1f}, "
                f"{parts}, fine tuning {sum(e.seconds for e in events if isinstance(e, EpochEnded)):.1f}",
                flush=True,
            )
    return Result("panorama", sum(walls) / len(walls), max(peaks), quality, phases, sum(trained) / len(trained))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=lambda text: Path(text).resolve())
    parser.add_argument("weights", type=lambda text: Path(text).resolve())
    parser.add_argument("peers", type=lambda text: Path(text).resolve())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peer-seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=["panorama", "seed", "fastai"], default=["panorama", "seed", "fastai"])
    options = parser.parse_args()
    run = {"panorama": panorama, "seed": seed_recipe, "fastai": fastai}
    results = [run[name](options) for name in options.only]
    print(f"\n{'':<34}{'wall s':>8}{'test mAP (a seed each)':>32}{'peak GB':>9}   images/s")
    for r in results:
        quality = " ".join(f"{value:.4f}" for value in r.quality)
        rates = ", ".join(f"{phase} {rate:.1f}" for phase, rate in r.phases.items())
        print(f"{r.name:<34}{r.seconds:>8.0f}{quality:>32}{r.peak / 1e9:>9.2f}   {rates}")
    ours = next((r for r in results if r.name == "panorama"), None)
    if ours is not None and ours.trained is not None:
        print(f"panorama until the model is trained and has predicted every image: {ours.trained:.0f} s")
        for r in results:
            if r is not ours:
                print(
                    f"panorama takes 1/{r.seconds / ours.seconds:.1f} of {r.name}'s time, 1/{r.seconds / ours.trained:.1f} without suspects"
                )


if __name__ == "__main__":
    main()

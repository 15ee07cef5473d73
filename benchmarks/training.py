"""Time and quality of a whole training, beside the seed notebook's recipe and fastai, on the same pictures, weights and machine.

    python benchmarks/training.py DATA WEIGHTS PEERS [--seeds 3] [--peer-seeds 1] [--only panorama seed fastai] [--whole | --counts 16 12]

PEERS: the folder with seed_recipe.py and fastai_peer.py. The seed recipe's wall time is one timed epoch of each phase times the
number of epochs that its own early stopping takes in a run with `--fast`, which also gives its quality; with `--whole`, for CPUs
that are slow at the bfloat16 of `--fast`, that of a plain run with all its epochs. `--counts` takes the numbers of epochs
of an earlier run, where there is no time for another: then the recipe's quality is not measured. fastai must be installed. One after another, panorama's
seeds before, between and after the peers, because shared machines drift; run nothing beside it.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PHASES = ("adaptation", "fine tuning")


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
    images = sum(1 for _ in (options.data / "train_label.csv").open()) - 1  # without the header
    script = [sys.executable, str(options.peers / "seed_recipe.py"), str(options.data), str(options.weights)]
    runs, peaks = [], []
    for seed in range(0 if options.counts else options.peer_seeds):
        text, _, peak = measured([*script, "--seed", str(seed), *([] if options.whole else ["--fast"])])
        runs.append(rows_of(text))
        peaks.append(peak)
        counts = " + ".join(str(sum(row.get("phase") == phase for row in runs[-1])) for phase in PHASES)
        how = "" if options.whole else " --fast"
        print(
            f"  seed recipe{how}, seed {seed}: {counts} epochs, {took(runs[-1]):.0f} s, mAP {runs[-1][-1]['mAP']:.4f}", flush=True
        )
    quality = [rows[-1]["mAP"] for rows in runs]
    if options.whole:
        timed = runs[0]
        seconds = sum(map(took, runs)) / len(runs)
    else:
        text, _, peak = measured([*script, "--epochs1", "1", "--epochs2", "1"])
        timed, peaks = rows_of(text), [peak]
        one = {row["phase"]: took([row]) for row in timed if "phase" in row}
        epochs = options.counts or [sum(row.get("phase") == phase for row in runs[0]) for phase in PHASES]
        seconds = sum(one[phase] * count for phase, count in zip(PHASES, epochs, strict=True))
        print(f"  seed recipe, a plain epoch of each phase: {one}; {epochs} epochs make {seconds:.0f} s", flush=True)
    training = {phase: [row["train_s"] for row in timed if row.get("phase") == phase] for phase in PHASES}
    return Result("seed recipe", seconds, max(peaks), quality, {phase: images * len(s) / sum(s) for phase, s in training.items()})


def rows_of(text: str) -> list[dict[str, Any]]:
    """What the recipe says of each epoch, and of the best one at the end of each phase."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def took(rows: list[dict[str, Any]]) -> float:
    """Seconds of all epochs, their tests included."""
    return float(sum(row["train_s"] + row["test_s"] for row in rows if "phase" in row))


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


def panorama(options: argparse.Namespace, seed: int) -> Result:
    sys.path.insert(0, str(ROOT))
    from panorama.events import EpochEnded, PhaseStarted, StageEnded
    from panorama.runs import Run

    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "panorama", "train", str(options.data), "--weights", str(options.weights)]
        text, seconds, peak = measured([*command, "--seed", str(seed)], PANORAMA_HOME=home)
        run = Run(Path(text.splitlines()[-1]))
        events, metrics = run.events(), run.metrics()
    stages = {event.stage: event.seconds for event in events if isinstance(event, StageEnded)}
    rates = [e.images_per_second for e in events if isinstance(e, EpochEnded) and e.phase == "fine tuning"]
    after = stages["Computing features of corners"] + stages["Out-of-fold probabilities"]
    began = next(e.at for e in events if isinstance(e, PhaseStarted))
    quality = metrics["test"]["macro"]["average_precision"] if metrics else float("nan")
    parts = ", ".join(f"{stage.lower()} {value:.1f}" for stage, value in stages.items())
    print(
        f"  panorama, seed {seed}: {seconds:.0f} s, mAP {quality:.4f}; seconds: before adaptation {began - events[0].at:.1f}, "
        f"{parts}, fine tuning {sum(e.seconds for e in events if isinstance(e, EpochEnded)):.1f}",
        flush=True,
    )
    return Result("panorama", seconds, peak, [quality], {"fine tuning": sum(rates) / len(rates)}, seconds - after)


def joined(results: list[Result]) -> Result:
    """Several seeds as one: the mean of their times, the highest peak."""
    n = len(results)
    phases = {phase: sum(r.phases[phase] for r in results) / n for phase in results[0].phases}
    quality = [value for r in results for value in r.quality]
    trained = sum(r.trained or 0.0 for r in results) / n
    return Result(results[0].name, sum(r.seconds for r in results) / n, max(r.peak for r in results), quality, phases, trained)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=lambda text: Path(text).resolve())
    parser.add_argument("weights", type=lambda text: Path(text).resolve())
    parser.add_argument("peers", type=lambda text: Path(text).resolve())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peer-seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=["panorama", "seed", "fastai"], default=["panorama", "seed", "fastai"])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--whole", action="store_true")
    how.add_argument("--counts", type=int, nargs=2, metavar=("ADAPTATION", "FINE_TUNING"))
    options = parser.parse_args()
    peers = [{"seed": seed_recipe, "fastai": fastai}[name] for name in options.only if name != "panorama"]
    seeds = range(options.seeds if "panorama" in options.only else 0)
    runs, results = [], []
    for share, peer in itertools.zip_longest(np.array_split(seeds, len(peers) + 1), peers):
        runs += [panorama(options, int(seed)) for seed in share]
        results += [] if peer is None else [peer(options)]
    if runs:
        results.insert(0, joined(runs))
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

"""Two processes do the work of one: the same steps, the same answers, and words when one of them is lost."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, QUICK, ROOT

from panorama import cache, runs
from panorama.__main__ import main
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.events import BatchEnded, EpochEnded
from panorama.finding import find_source
from panorama.model import build
from panorama.processes import ALONE, Team
from panorama.runs import Run
from panorama.worker import run as work

TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]


def a_port() -> str:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def in_two(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TWO, a_port(), "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )


def new_run(folder: Path, home: Path, **changes: object) -> Run:
    return runs.create(load(find_source(folder), home), TrainConfig(**{**QUICK, **changes}), home)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A backbone without dropout, whose frozen BatchNorm sees no batch: steps do not depend on who takes which picture."""
    state = {
        name: value for name, value in build("resnet18", 1, seed=3).extractor.state_dict().items() if not name.startswith("fc.")
    }
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 6, 11])
def test_shares_are_everything_in_order_and_nearly_equal(n: int, count: int) -> None:
    shares = [Team(rank, count).share(np.arange(n)) for rank in range(count)]
    assert np.concatenate(shares).tolist() == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_everything_is_what_it_was() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert ALONE.gather(rows, 3) is rows
    assert ALONE.any(True)
    assert not ALONE.any(False)
    assert ALONE.mean(2.5) == 2.5
    assert ALONE.collect([1, 2]) == [1, 2]
    assert ALONE.is_first


@pytest.mark.slow
def test_a_training_in_two_processes_takes_the_same_steps_as_in_one(
    seed_folder: Callable[..., Path], home: Path, weights: str
) -> None:
    """Same global batch, an odd number of pictures and a last batch of one more than a process can share equally."""
    folder = seed_folder(47, 15)
    settings = {"weights": weights, "backbone": "resnet18", "learning_rate_finetuning": 1e-4, "epochs_finetuning": 2}
    one, two = new_run(folder, home, **settings), new_run(folder, home, **settings)
    assert work(one.folder) == "complete", one.history().message
    cache.clear(home / "cache")  # the other computes its own
    done = in_two("panorama.worker", str(two.folder))
    assert two.state() == "complete", two.history().message + done.stderr
    assert "2 processes" in (two.history().started.device if two.history().started else "")
    for a, b in zip(one.history().epochs, two.history().epochs, strict=True):
        assert (a.phase, a.epoch) == (b.phase, b.epoch)
        assert b.train_loss == pytest.approx(a.train_loss, rel=1e-3)
        assert b.validation_loss == pytest.approx(a.validation_loss, rel=1e-3)
    labels, expected = one.probabilities("predictions.csv") or ([], np.zeros(0))
    assert two.probabilities("predictions.csv")[1] == pytest.approx(expected, abs=2e-3)  # type: ignore[index]
    assert labels == list(COLOURS)

    pictures = str(folder / "test")
    out = folder / "two.csv"
    answered = in_two("panorama", "predict", str(one.folder), pictures, "--out", str(out))
    assert answered.returncode == 0, answered.stderr
    alone = folder / "one.csv"
    assert main(["predict", str(one.folder), pictures, "--out", str(alone)]) == 0
    with out.open() as a, alone.open() as b:
        for left, right in zip(csv.DictReader(a), csv.DictReader(b), strict=True):
            assert left["image"] == right["image"]
            assert float(left["red"]) == pytest.approx(float(right["red"]), abs=1e-3)


def process_of_rank(launcher: int, rank: int) -> int:
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return int(pid)
    raise AssertionError("no such process")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc to find the process")
def test_a_process_that_is_killed_ends_the_run_in_words_and_it_can_be_resumed(
    seed_folder: Callable[..., Path], home: Path
) -> None:
    run = new_run(seed_folder(), home, epochs_finetuning=300, patience_finetuning=300, schedule="constant")
    with subprocess.Popen(
        [*TWO, a_port(), "-m", "panorama.worker", str(run.folder)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as launcher:
        deadline = time.monotonic() + 120
        while not any(isinstance(event, BatchEnded) and event.phase == "fine tuning" for event in run.events()):
            assert launcher.poll() is None, run.history().message
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process_of_rank(launcher.pid, 1), signal.SIGKILL)
        assert launcher.wait(timeout=60) != 0
    assert run.state() == "failed"
    assert "processes" in run.history().message
    assert "Resume" in run.history().message
    assert any(isinstance(event, EpochEnded) for event in run.events())

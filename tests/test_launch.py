"""A worker outlives the server that started it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK, ROOT

from panorama import launch, runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.finding import find_source

SERVER = """
import sys, time
from pathlib import Path
from panorama import launch
from panorama.runs import Run
print(launch.start(Run(Path(sys.argv[1]))), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_ctrl_c_of_the_server_does_not_end_the_training(seed_folder: Callable[..., Path], home: Path) -> None:
    run = runs.create(load(find_source(seed_folder()), home), TrainConfig(**{**QUICK, "fold_models": "heads"}), home)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(run.folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert server.stdout is not None
    worker = int(server.stdout.readline())
    deadline = time.monotonic() + 30
    while server.poll() is None:
        os.killpg(server.pid, signal.SIGINT)  # what a terminal sends to everything in the foreground
        time.sleep(0.5)  # again where Python was in a place that swallows it
        assert time.monotonic() < deadline
    assert server.returncode != 0
    os.kill(worker, 0)  # still there
    deadline = time.monotonic() + 90
    while run.state() != "complete":
        assert time.monotonic() < deadline, (run.state(), (run.folder / "worker.log").read_text())
        time.sleep(0.2)
    assert run.has("metrics.json")


def test_a_run_that_was_just_launched_is_starting_and_later_interrupted(seed_folder: Callable[..., Path], home: Path) -> None:
    run = runs.create(load(find_source(seed_folder(6, 3)), home), TrainConfig(**QUICK), home)
    (run.folder / "launched").touch()
    assert run.state() == "starting"
    assert run.state(now=time.time() + 3600) == "interrupted"


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (
            "raise ImportError('no libcuda.so.1')",
            "(status 1). The last line of worker.log in the run folder: ImportError: no libcuda.so.1 ",
        ),
        ("import os; os.kill(os.getpid(), 9)", "(killed by signal 9). "),
    ],
)
def test_a_worker_that_dies_at_once_is_said_to_have_failed_and_why(
    seed_folder: Callable[..., Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, words: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text(trouble)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    run = runs.create(load(find_source(seed_folder(6, 3)), home), TrainConfig(**QUICK), home)
    launch.start(run)
    deadline = time.monotonic() + 30
    while run.state() == "starting":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert run.state() == "failed"
    assert run.history().message == f"The training ended before it began {words}Mend that, then resume the run."


@pytest.mark.parametrize("holder", ["the same run", "just starting"])
def test_a_start_that_was_refused_does_not_end_the_run_that_another_worker_does(
    seed_folder: Callable[..., Path], home: Path, holder: str
) -> None:
    run = runs.create(load(find_source(seed_folder(6, 3)), home), TrainConfig(**QUICK), home)
    with runs.worker_lock(run):
        if holder == "just starting":
            (home / "worker.json").unlink()
        runs.end_untold(run, time.time(), "no")
    assert run.events() == []
    runs.end_untold(run, time.time(), "yes")
    assert run.history().message == "yes"

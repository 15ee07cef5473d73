"""A run from its folder alone: both phases, every file, and the same end however often it was killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COLOURS, QUICK, ROOT

from panorama import checkpoint, hardware, runs, worker
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.errors import PanoramaError
from panorama.events import READING, BatchEnded, EpochEnded, RunEnded, StageStarted
from panorama.finding import find_source
from panorama.model import build
from panorama.preparing import refuse_features_that_are_no_numbers
from panorama.runs import BusyError, Run
from panorama.worker import run as work


def new_run(folder: Path, home: Path, **changes: object) -> Run:
    return runs.create(load(find_source(folder), home), TrainConfig(**{**QUICK, **changes}), home)


def start(run: Run) -> subprocess.Popen[bytes]:
    with (run.folder / "worker.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "panorama.worker", str(run.folder)], cwd=ROOT, stdout=log, stderr=log)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_run_writes_every_file_with_every_image(seed_folder: Callable[..., Path], home: Path) -> None:
    run = new_run(seed_folder(), home)
    assert work(run.folder) == "complete"
    for name in ("config.json", "events.jsonl", "split.csv", "metrics.json", "model.safetensors", "model.json"):
        assert run.has(name), name
    expected = {f"train_{i:03}.jpg" for i in range(48)} | {f"test_{i:03}.jpg" for i in range(16)}
    for name in ("before.csv", "predictions.csv", "out_of_fold.csv"):
        table = rows(run.folder / name)
        assert {row["image"] for row in table} == expected
        assert list(table[0]) == ["image", "split", *COLOURS]
        assert all(0 <= float(row[label]) <= 1 for row in table for label in COLOURS)
    assert {row["split"] for row in rows(run.folder / "predictions.csv")} == {"train", "validation", "test"}
    assert (run.folder / "labels" / "train_label.csv").read_bytes() == (run.source.root / "train_label.csv").read_bytes()
    assert not list(run.folder.glob("checkpoint*")), "a complete run keeps no training state"
    assert isinstance(run.events()[-1], RunEnded)


def test_a_run_tells_of_bfloat16_that_it_was_asked_for_and_that_is_slow_here(
    seed_folder: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "times_slower_in_bfloat16", lambda *_: 14.0)
    run = new_run(seed_folder(), home, precision="bfloat16")
    assert work(run.folder) == "complete"
    assert any("about 14 times as long as float32" in note for note in run.history().notes)


def test_suspects_hold_every_cell_once_most_doubtful_first(seed_folder: Callable[..., Path], home: Path) -> None:
    run = new_run(seed_folder(), home)
    work(run.folder)
    table = rows(run.folder / "suspects.csv")
    assert list(table[0]) == [
        "image", "split", "label", "given", "probability", "in_context", "spread", "doubt", "kind", "reason", "rank",
    ]  # fmt: skip
    assert len({(row["image"], row["label"]) for row in table}) == len(table) == 64 * len(COLOURS)
    assert [int(row["rank"]) for row in table] == list(range(1, len(table) + 1))
    doubts = [float(row["doubt"]) for row in table]
    assert doubts == sorted(doubts, reverse=True)
    assert all((row["kind"] == "missing") == (row["given"] == "0") for row in table)
    assert all(0 <= float(row[column]) <= 1 for row in table for column in ("probability", "in_context", "spread", "doubt"))
    assert {row["reason"] for row in table} <= {"slip", "hard", "twin", "moved"}


def test_neighbours_of_suspects_are_other_images_nearest_first_and_copies_are_marked(
    seed_folder: Callable[..., Path], home: Path
) -> None:
    folder = seed_folder()
    (folder / "train" / "train_001.jpg").write_bytes((folder / "train" / "train_000.jpg").read_bytes())
    run = new_run(folder, home)
    work(run.folder)
    table = rows(run.folder / "neighbours.csv")
    assert list(table[0]) == ["image", "neighbour", "similarity", "near_duplicate"]
    assert rows(run.folder / "suspects.csv")[0]["image"] == table[0]["image"]
    assert not [row for row in table if row["image"] == row["neighbour"]]
    of: dict[str, list[float]] = {}
    for row in table:
        of.setdefault(row["image"], []).append(float(row["similarity"]))
    assert all(len(values) == 5 and values == sorted(values, reverse=True) for values in of.values())
    copies = {(row["image"], row["neighbour"]) for row in table if row["near_duplicate"] == "1"}
    assert ("train_000.jpg", "train_001.jpg") in copies


def test_features_that_are_no_numbers_end_the_run_and_name_the_picture(
    seed_folder: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = worker.whole_pass

    def broken(*given: Any, **more: Any) -> Any:
        run = extract(*given, **more)

        def passed(indices: Any) -> Any:
            for rows in run(indices):
                rows[1, 0] = np.nan
                yield rows

        return passed

    monkeypatch.setattr(worker, "whole_pass", broken)
    run = new_run(seed_folder(), home, weights="none", fold_models="heads")
    assert work(run.folder) == "failed"
    ended = run.events()[-1]
    assert isinstance(ended, RunEnded)
    assert "train_001.jpg" in ended.message
    assert "features are not finite numbers" in ended.message

    features = np.ones((4, 3), np.float32)
    refuse_features_that_are_no_numbers(features, ["a", "b", "c", "d"])
    features[1, 2] = np.inf
    with pytest.raises(PanoramaError, match=r"^b: the network's features"):
        refuse_features_that_are_no_numbers(features, ["a", "b", "c", "d"])
    features[3, 0] = np.nan
    with pytest.raises(PanoramaError, match=r"^b and 1 other picture: "):
        refuse_features_that_are_no_numbers(features, ["a", "b", "c", "d"])


@pytest.mark.slow
def test_the_test_split_is_measured_but_decides_nothing(seed_folder: Callable[..., Path], home: Path) -> None:
    """Other test labels change the figures on the test split and not one weight."""
    folder = seed_folder()
    one = new_run(folder, home)
    work(one.folder)
    original = (folder / "test_label.csv").read_text()
    head, *lines = original.splitlines()
    (folder / "test_label.csv").write_text(
        "\n".join([head, *(line[:-1] + ("0" if line[-1] == "1" else "1") for line in lines)]) + "\n"
    )
    two = new_run(folder, home)
    work(two.folder)
    assert (one.folder / "model.safetensors").read_bytes() == (two.folder / "model.safetensors").read_bytes()
    assert one.metrics() is not None
    assert two.metrics() is not None
    assert one.metrics()["test"] != two.metrics()["test"]  # type: ignore[index]


def outcome(run: Run) -> tuple[object, bytes, list[tuple[str, int, float, float]]]:
    epochs = [(e.phase, e.epoch, e.train_loss, e.validation_loss) for e in run.history().epochs]
    return json.loads((run.folder / "metrics.json").read_text()), (run.folder / "model.safetensors").read_bytes(), epochs


@pytest.mark.slow
@pytest.mark.parametrize("pretrained", [False, True])
def test_a_run_killed_in_each_phase_ends_as_if_never_interrupted(
    seed_folder: Callable[..., Path], home: Path, tmp_path: Path, pretrained: bool
) -> None:
    """With statistics that are learned, and with frozen ones that are folded."""
    folder = seed_folder()
    settings: dict[str, object] = {"epochs_adaptation": 6, "epochs_finetuning": 4, "patience_adaptation": 6, "augmentation": True}
    if pretrained:
        state = build("mobilenet_v2", 1, seed=5).extractor.state_dict()
        torch.save(state, tmp_path / "weights.pth")
        settings["weights"] = str(tmp_path / "weights.pth")
    whole = new_run(folder, home, **settings)
    assert work(whole.folder) == "complete"

    killed = new_run(folder, home, **settings)
    for phase in ("fine tuning",) if pretrained else ("adaptation", "fine tuning"):
        process = start(killed)

        while not any(isinstance(event, EpochEnded) and event.phase == phase for event in killed.events()):
            assert process.poll() is None, "the worker ended before it could be killed"
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(timeout=10) == -signal.SIGKILL, "the worker was done before it could be killed"
        assert killed.state() == "interrupted"
    assert work(killed.folder) == "complete", killed.history().message
    assert killed.state() == "complete"
    assert outcome(killed) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "at", [("save_checkpoint", 2), ("save_checkpoint", 4), ("save_model", 2), ("save_checkpoint", -1), ("save_model", -1)]
)
def test_a_kill_around_what_is_kept_of_adaptation_changes_nothing(
    seed_folder: Callable[..., Path], home: Path, at: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best model is kept of the first epoch and at the end of the phase only, and its last epoch is not the best; then comes fine tuning."""
    folder = seed_folder()
    settings: dict[str, object] = {"epochs_adaptation": 60, "epochs_finetuning": 1, "learning_rate_adaptation": 1e-4}
    monkeypatch.setattr(checkpoint, "_BEST_EVERY_SECONDS", 1000.0)
    whole = new_run(folder, home, **settings)
    kept: list[tuple[str, int]] = []
    killed_at: tuple[str, int] | None = None

    def counting(name: str) -> Callable[..., None]:
        original = getattr(checkpoint, name)

        def save(*arguments: object) -> None:
            kept.append((name, sum(done == name for done, _ in kept) + 1))
            if kept[-1] == killed_at:
                raise KilledError
            original(*arguments)

        return save

    for name in ("save_model", "save_checkpoint"):
        monkeypatch.setattr(checkpoint, name, counting(name))
    assert work(whole.folder) == "complete"
    adapted = [e for e in whole.history().epochs if e.phase == "adaptation"]
    assert adapted[0].is_best
    assert not adapted[-1].is_best
    assert sum(e.is_best for e in adapted) > 2
    assert kept.index(("save_model", 2)) > kept.index(("save_checkpoint", len(adapted)))

    killed_at = at if at[1] > 0 else next(one for one in reversed(kept) if one[0] == at[0])
    kept.clear()
    run = new_run(folder, home, **settings)
    with pytest.raises(KilledError):
        work(run.folder)
    killed_at = None
    assert work(run.folder) == "complete"
    assert outcome(run) == outcome(whole)


@pytest.mark.parametrize("how", ["asked to stop", "interrupted"])
def test_who_stops_in_adaptation_is_left_with_the_model_that_was_best(
    seed_folder: Callable[..., Path], home: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch, long before the next time that the best is kept."""
    monkeypatch.setattr(checkpoint, "_BEST_EVERY_SECONDS", 1000.0)
    run = new_run(seed_folder(), home, epochs_adaptation=60, learning_rate_adaptation=1e-5, batch_size=2)
    told: list[float] = []

    def stopping(event: object) -> None:
        if isinstance(event, EpochEnded):
            told.append(event.validation_loss)
        elif isinstance(event, BatchEnded) and len(told) == 5:
            if how == "interrupted":
                raise KeyboardInterrupt
            run.ask_to_stop()

    assert work(run.folder, stopping) == "stopped"
    best = run.history().best
    assert best is not None
    assert best.epoch == 5, "each epoch was better than the one before"
    model, _ = checkpoint.load_model(run.folder)
    saved, _ = checkpoint._read(run.folder / "checkpoint.safetensors")
    assert torch.equal(model.head.weight.detach(), saved["best.head.weight"])
    assert torch.equal(model.head.weight.detach(), saved["model.head.weight"]), "the fifth epoch's own"


class KilledError(BaseException):
    """What no handler takes for an error of its own."""


@pytest.mark.slow
@pytest.mark.parametrize("during", ["save_checkpoint", "save_model"])
def test_a_kill_between_the_two_files_of_an_epoch_changes_nothing(
    seed_folder: Callable[..., Path], home: Path, during: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first epoch of fine tuning that is best: were its model kept and its checkpoint not, the run would start over from it."""
    folder = seed_folder()
    settings: dict[str, object] = {"epochs_adaptation": 2, "epochs_finetuning": 3, "learning_rate_adaptation": 1e-6}
    whole = new_run(folder, home, **settings)
    assert work(whole.folder) == "complete"
    first_best = next(e for e in whole.history().epochs if e.phase == "fine tuning" and e.is_best)

    run = new_run(folder, home, **settings)
    original = getattr(checkpoint, during)

    def killed(*arguments: object) -> None:
        done = [e for e in run.history().epochs if e.phase == "fine tuning"]
        if done and done[-1].epoch == first_best.epoch:
            raise KilledError
        original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, during, killed)
        with pytest.raises(KilledError):
            work(run.folder)
    assert work(run.folder) == "complete"
    assert outcome(run) == outcome(whole)


@pytest.mark.slow
def test_the_negative_control_another_seed_does_not_end_the_same(seed_folder: Callable[..., Path], home: Path) -> None:
    folder = seed_folder()
    one, two = new_run(folder, home), new_run(folder, home, seed=1)
    work(one.folder)
    work(two.folder)
    assert outcome(one) != outcome(two)


@pytest.mark.parametrize("after", [("adaptation", 3), ("fine tuning", 1)])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    seed_folder: Callable[..., Path], home: Path, after: tuple[str, int]
) -> None:
    """After the first epoch of fine tuning, too, whose model is the best by then: the one before goes on from what adaptation found."""
    folder = seed_folder()
    settings = {"epochs_adaptation": 60, "patience_adaptation": 2, "epochs_finetuning": 2, "learning_rate_adaptation": 1e-4}
    whole = new_run(folder, home, **settings)
    work(whole.folder)
    assert not [e for e in whole.history().epochs if e.phase == "adaptation"][-1].is_best

    run = new_run(folder, home, **settings)

    def stop(event: object) -> None:
        if isinstance(event, EpochEnded) and (event.phase, event.epoch) == after:
            assert event.is_best
            run.ask_to_stop()

    assert work(run.folder, stop) == "stopped"
    newest = run.folder / "checkpoint.safetensors"
    data = bytearray(newest.read_bytes())
    data[-5] ^= 0xFF
    newest.write_bytes(bytes(data))
    assert work(run.folder) == "complete"
    assert any("checkpoint before it" in note for note in run.history().notes)
    assert outcome(run) == outcome(whole)


@pytest.mark.parametrize("phase", ["adaptation", "fine tuning"])
def test_a_run_whose_weights_file_was_exchanged_says_so_and_goes_on_once_it_is_back(
    seed_folder: Callable[..., Path], home: Path, tmp_path: Path, phase: str
) -> None:
    """What adaptation learned on one extractor would else be put on another, and the heads of folds too."""
    folder, file = seed_folder(), tmp_path / "weights.pth"

    def put(seed: int) -> None:
        torch.save(build("mobilenet_v2", 1, seed=seed).extractor.state_dict(), file)

    put(5)
    settings: dict[str, object] = {"epochs_adaptation": 4, "patience_adaptation": 4, "weights": str(file)}
    whole, run = new_run(folder, home, **settings), new_run(folder, home, **settings)
    assert work(whole.folder) == "complete"

    def stop(event: object) -> None:
        if isinstance(event, EpochEnded) and event.phase == phase:
            run.ask_to_stop()

    assert work(run.folder, stop) == "stopped"
    put(6)
    assert work(run.folder) == "failed"
    assert "weights this run began with have changed" in run.history().message
    assert file.name in run.history().message
    assert [event.stage for event in run.events() if isinstance(event, StageStarted)][-1] == READING, "before the long work"
    put(5)
    assert work(run.folder) == "complete", run.history().message
    assert outcome(run) == outcome(whole)


def test_weights_exchanged_before_the_first_epoch_ended_are_those_of_the_whole_run(
    seed_folder: Callable[..., Path], home: Path, tmp_path: Path
) -> None:
    folder, file = seed_folder(), tmp_path / "weights.pth"

    def put(seed: int) -> None:
        state = build("mobilenet_v2", 1, seed=seed).extractor.state_dict()
        # So that pictures are told apart.
        state |= {name: value * 0.1 for name, value in state.items() if name.endswith("running_var")}
        torch.save(state, file)

    run = new_run(folder, home, weights=str(file))
    put(5)
    assert work(run.folder, lambda event: run.ask_to_stop() if isinstance(event, BatchEnded) else None) == "stopped"
    earlier = (run.folder / "before.csv").read_bytes()
    put(6)
    whole = new_run(folder, home, weights=str(file))
    assert work(run.folder) == work(whole.folder) == "complete"
    assert outcome(run) == outcome(whole)
    assert (run.folder / "before.csv").read_bytes() == (whole.folder / "before.csv").read_bytes() != earlier


def test_random_weights_that_cannot_be_drawn_again_are_told_of(
    seed_folder: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(seed_folder(), home, weights="none")
    assert work(run.folder, lambda event: run.ask_to_stop() if isinstance(event, EpochEnded) else None) == "stopped"
    with monkeypatch.context() as patched:
        patched.setattr(worker, "fingerprint", lambda model: "of another machine")
        assert work(run.folder) == "failed"
    assert "draws other random weights" in run.history().message
    assert work(run.folder) == "complete", "the control"


def test_a_second_training_in_the_workspace_is_refused_in_words(seed_folder: Callable[..., Path], home: Path) -> None:
    folder = seed_folder()
    first, second = new_run(folder, home), new_run(folder, home)
    with runs.worker_lock(first):
        assert runs.is_running(first)
        process = subprocess.run(
            [sys.executable, "-m", "panorama.worker", str(second.folder)], cwd=ROOT, capture_output=True, text=True
        )
        assert process.returncode == 1
        assert "already running" in process.stderr
        assert first.id in process.stderr
        assert "Traceback" not in process.stderr
        with pytest.raises(BusyError):
            runs.refuse_if_busy(second)
    assert not second.has("events.jsonl")


@pytest.mark.slow
def test_stop_and_resume_from_the_command_line(seed_folder: Callable[..., Path], home: Path) -> None:
    run = new_run(seed_folder(), home, epochs_finetuning=50, patience_finetuning=50)
    process = start(run)
    wait_for(lambda: any(isinstance(event, EpochEnded) for event in run.events()))
    subprocess.run([sys.executable, "-m", "panorama", "stop", str(run.folder)], cwd=ROOT, check=True, capture_output=True)
    assert process.wait(timeout=60) == 0
    assert run.state() == "stopped"
    assert "resumed" in run.history().message


def test_a_loss_that_is_not_finite_ends_the_run_in_words(seed_folder: Callable[..., Path], home: Path) -> None:
    run = new_run(
        seed_folder(), home, learning_rate_adaptation=10.0, learning_rate_finetuning=10.0, epochs_finetuning=8, weight_decay=1e30
    )
    assert work(run.folder) == "failed"
    assert "not a finite number" in run.history().message
    assert "learning rate" in run.history().message


def test_a_backbone_whose_weights_have_a_version_trains_to_its_end(seed_folder: Callable[..., Path], home: Path) -> None:
    """MNASNet refuses weights without one, as files and copies of a model keep them."""
    run = new_run(seed_folder(), home, backbone="mnasnet0_5")
    assert work(run.folder) == "complete", run.history().message


def test_too_little_memory_on_the_cpu_is_said_in_words(
    seed_folder: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch raises a plain RuntimeError there."""
    run = new_run(seed_folder(), home)
    monkeypatch.setattr(worker, "train", lambda *_, **__: iter([torch.empty(2**52)]))
    assert work(run.folder) == "failed"
    assert run.history().message == "Not enough memory. Use a smaller batch (--batch-size) or smaller pictures (--image-size)."


@pytest.mark.parametrize(("room", "batches", "device"), [(8, 8, "on with batches of 8"), (0, 8, "on with the CPU")])
def test_a_gpu_with_too_little_memory_gets_half_the_batch_and_then_the_cpu_does_it(
    seed_folder: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch, room: int, batches: int, device: str
) -> None:
    """A GPU that is played: it takes so many pictures at a time, and computes as the CPU does."""
    real = worker.train

    def greedy(model: Any, data: Any, config: TrainConfig, **more: Any) -> Any:
        if config.batch_size > room and not hardware._is_cpu_only:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(model, data, config, **more)

    monkeypatch.setattr(worker, "train", greedy)
    monkeypatch.setattr(worker, "_is_on_gpu", lambda: not hardware._is_cpu_only)
    monkeypatch.setattr(hardware, "_is_cpu_only", False)
    monkeypatch.setattr(hardware, "_smaller_passes", 1)
    run = new_run(seed_folder(), home)
    assert work(run.folder) == "complete"
    assert any(device in note for note in run.history().notes)
    assert Run(run.folder).config.batch_size == batches
    assert hardware.batch_size(torch.device("cuda")) == 128


def test_what_a_killed_worker_left_unfinished_is_removed(seed_folder: Callable[..., Path], home: Path) -> None:
    run = new_run(seed_folder(), home)
    (run.folder / ".checkpoint.safetensors.123.tmp").write_bytes(b"half")
    assert work(run.folder) == "complete"
    assert not list(run.folder.glob(".*.tmp"))


def test_a_picture_that_vanishes_ends_the_run_with_its_name(seed_folder: Callable[..., Path], home: Path) -> None:
    folder = seed_folder()
    run = new_run(folder, home)
    work(run.folder)
    (folder / "train" / "train_003.jpg").unlink()
    (run.folder / "metrics.json").unlink()
    assert work(run.folder) == "failed"
    assert "changed" in run.history().message


@pytest.mark.slow
def test_after_training_the_model_is_better_than_before(seed_folder: Callable[..., Path], home: Path) -> None:
    """The labels are visible colours: a model that learns nothing stays near the share of positives."""
    run = new_run(
        seed_folder(160, 40),
        home,
        epochs_adaptation=10,
        epochs_finetuning=12,
        learning_rate_finetuning=1e-3,
        patience_finetuning=12,
        schedule="constant",
    )
    assert work(run.folder) == "complete"
    metrics = run.metrics()
    assert metrics is not None
    after, before = (
        metrics["test"]["macro"]["average_precision"],
        metrics["before_training"]["test"]["macro"]["average_precision"],
    )
    assert after > 0.9
    assert after > before + 0.15


def test_adaptation_leaves_the_extractor_alone_and_fine_tuning_does_not(seed_folder: Callable[..., Path], home: Path) -> None:
    from panorama.checkpoint import best_weights

    folder = seed_folder()
    adapted = new_run(folder, home, epochs_finetuning=0)
    tuned = new_run(folder, home, epochs_adaptation=0)
    work(adapted.folder)
    work(tuned.folder)
    before, after = best_weights(adapted.folder), best_weights(tuned.folder)
    name = next(name for name in before if name.endswith("0.0.weight"))
    assert not np.allclose(before[name], after[name])

"""The command line as another program sees it: exit codes, one clear line, files in the promised shape."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import COLOURS, ROOT, patch_picture, shared

from panorama import runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.finding import find_source, with_layouts


def panorama(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "panorama", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 1 and one clear line on standard error."""
    assert result.returncode == 1, result.stdout + result.stderr
    line = result.stderr.strip()
    assert "\n" not in line, line
    assert line.startswith("panorama: ")
    for word in words:
        assert word in line


def test_check_says_what_is_there_and_what_is_wrong(seed_folder: Callable[..., Path]) -> None:
    folder = seed_folder()
    (folder / "train" / "train_003.jpg").unlink()
    (folder / "train" / "train_004.jpg").write_bytes(b"not a picture")
    (folder / "train" / "stray.jpg").write_bytes((folder / "train" / "train_005.jpg").read_bytes())
    lines = (folder / "train_label.csv").read_text().splitlines()
    lines[7] = lines[7].rsplit(",", 1)[0] + ",maybe"
    (folder / "train_label.csv").write_text("\n".join(lines))
    result = panorama("check", folder)
    assert result.returncode == 0, result.stderr
    assert "61 images" in result.stdout
    assert "train_label.csv, line 5: the picture 'train_003.jpg' is not in the folder" in result.stdout
    assert "train/train_004.jpg" in result.stdout
    assert "train_label.csv, line 8" in result.stdout
    assert "'maybe'" in result.stdout
    assert "stray.jpg" in result.stdout
    assert "3 images left out" in result.stdout


def test_one_image_left_out_is_no_plural(seed_folder: Callable[..., Path]) -> None:
    folder = seed_folder()
    (folder / "train" / "train_003.jpg").unlink()
    result = panorama("check", folder)
    assert result.returncode == 0, result.stderr
    assert "\n1 image left out; the others can be used." in result.stdout


@pytest.mark.slow
def test_the_journey_from_training_to_a_corrected_csv(
    seed_folder: Callable[..., Path], quick_arguments: list[str], tmp_path: Path
) -> None:
    folder = seed_folder()
    run = tmp_path / "run"
    trained = panorama("train", folder, "--out", run, *quick_arguments)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.strip().splitlines()[-1] == str(run)

    assert panorama("suspects", run, "--out", tmp_path / "suspects.csv").returncode == 0
    suspects = rows(tmp_path / "suspects.csv")
    assert len(suspects) == 64 * len(COLOURS)
    refused(panorama("suspects", run, "--kind", "extra", "--out", Path(run) / "suspects.csv"), "inside the run folder")
    assert len(rows(Path(run) / "suspects.csv")) == len(suspects)
    printed = panorama("suspects", run).stdout.splitlines()
    assert printed[0] == "image,split,label,given,probability,in_context,spread,doubt,kind,reason,rank"
    assert len(printed) == 21
    assert (tmp_path / "suspects.csv").read_bytes() == (run / "suspects.csv").read_bytes()

    assert panorama("predict", run, folder / "test", "--out", tmp_path / "p.csv").returncode == 0
    predictions = rows(tmp_path / "p.csv")
    assert list(predictions[0]) == ["image", *COLOURS]
    assert [row["image"] for row in predictions] == [f"test_{i:03}.jpg" for i in range(16)]
    # The same model on the same pictures: what the run says of its test split.
    of_run = {row["image"]: row for row in rows(run / "predictions.csv")}
    for row in predictions:
        assert all(abs(float(row[label]) - float(of_run[row["image"]][label])) < 0.02 for label in COLOURS)

    cell = suspects[0]
    value = 1 - int(cell["given"])
    (tmp_path / "decisions.csv").write_text(f"image,label,value\n{cell['image']},{cell['label']},{value}\n")
    exported = panorama("export", folder, "--decisions", tmp_path / "decisions.csv", "--out", tmp_path / "corrected")
    assert exported.returncode == 0, exported.stderr
    differences = 0
    for name in ("train_label.csv", "test_label.csv"):
        before, after = (folder / name).read_bytes(), (tmp_path / "corrected" / name).read_bytes()
        differences += sum(a != b for a, b in zip(before, after, strict=True))
    assert differences == 1

    resumed = panorama("resume", run)
    assert (resumed.returncode, "nothing to resume" in resumed.stdout) == (0, True)


def a_ranked_run(folder: Path, home: Path) -> Path:
    """A run of two images with two labels, its suspects written by hand; the doubts of an image are .5 and .4, or .6 and 0."""
    (folder / "train_label.csv").write_text("file,red,blue\ntrain_000.jpg,0,1\n")
    (folder / "test_label.csv").write_text("file,red,blue\ntest_000.jpg,0,0\n")
    run = runs.create(load(with_layouts(find_source(folder)), home), TrainConfig(), home)
    a, b = ("train_000.jpg", "train"), ("test_000.jpg", "test")
    runs.write_rows(
        run.folder / "split.csv", ["image", "split", "path"], [(*a, "train/train_000.jpg"), (*b, "test/test_000.jpg")]
    )
    runs.write_rows(run.folder / "out_of_fold.csv", ["image", "split", "red", "blue"], [(*a, 0.9, 0.1), (*b, 0.9, 0.1)])
    runs.write_rows(
        run.folder / "suspects.csv",
        ["image", "split", "label", "given", "probability", "in_context", "spread", "doubt", "kind", "reason", "rank"],
        [
            (*b, "red", 0, 0.9, 0.8, 0.01, 0.6, "missing", "slip", 1), (*a, "red", 0, 0.9, 0.8, 0.01, 0.5, "missing", "slip", 2),
            (*a, "blue", 1, 0.1, 0.2, 0.01, 0.4, "extra", "hard", 3), (*b, "blue", 0, 0.1, 0.2, 0.01, 0, "missing", "hard", 4),
        ],
    )  # fmt: skip
    return run.folder


def test_suspects_of_one_kind_and_one_row_an_image(seed_folder: Callable[..., Path], home: Path, tmp_path: Path) -> None:
    run = a_ranked_run(seed_folder(1, 1), home)
    assert panorama("suspects", run).stdout.splitlines()[1] == "test_000.jpg,test,red,0,0.9,0.8,0.01,0.6,missing,slip,1"
    extra = panorama("suspects", run, "--kind", "extra").stdout.splitlines()
    assert extra[1:] == ["train_000.jpg,train,blue,1,0.1,0.2,0.01,0.4,extra,hard,3"]
    images = panorama("suspects", run, "--images").stdout.splitlines()
    assert images == [
        "image,split,worst_label,kind,worst_cell,whole_image",
        "train_000.jpg,train,red,missing,0.5,0.7",  # 1 - 0.5 * 0.6
        "test_000.jpg,test,red,missing,0.6,0.6",
    ]
    assert panorama("suspects", run, "--images", "--kind", "extra").stdout.splitlines()[1:] == [
        "train_000.jpg,train,blue,extra,0.4,0.4"
    ]
    assert "2 images" in panorama("suspects", run, "--images", "--out", tmp_path / "images.csv").stdout
    assert (tmp_path / "images.csv").read_text().splitlines() == images
    panorama("suspects", run, "--kind", "extra", "--out", tmp_path / "extra.csv")
    assert (tmp_path / "extra.csv").read_text().splitlines() == extra
    panorama("suspects", run, "--out", tmp_path / "all.csv")
    assert (tmp_path / "all.csv").read_bytes() == (run / "suspects.csv").read_bytes()
    assert panorama("suspects", run, "--kind", "odd").returncode == 2


def test_bad_usage_is_exit_code_2() -> None:
    for arguments in ([], ["nonsense"], ["train"], ["train", "x", "--seed", "many"], ["export", "x"]):
        assert panorama(*arguments).returncode == 2, arguments


def test_bad_input_is_one_clear_line(tmp_path: Path, seed_folder: Callable[..., Path]) -> None:
    folder = seed_folder(6, 3)
    refused(panorama("check", tmp_path / "nowhere"), "nowhere", "no such folder")
    (tmp_path / "empty").mkdir()
    refused(panorama("check", tmp_path / "empty"), "no CSV")
    refused(panorama("suspects", tmp_path), "not a run folder")
    refused(panorama("predict", tmp_path, folder), "not a run folder")
    refused(panorama("train", folder, "--weights", tmp_path / "no.pth"), "no such weights file")
    refused(panorama("train", folder, "--out", folder), "not empty")
    refused(panorama("train", folder, "--batch-size", "0"), "batch_size", "from 1")
    (tmp_path / "d.csv").write_text("image,label,value\nghost.jpg,red,1\n")
    refused(panorama("export", folder, "--decisions", tmp_path / "d.csv", "--out", tmp_path / "out"), "ghost.jpg", "not an image")
    (tmp_path / "d.csv").write_text("image,label,value\ntrain_000.jpg,mauve,1\n")
    refused(panorama("export", folder, "--decisions", tmp_path / "d.csv", "--out", tmp_path / "out"), "mauve")
    (tmp_path / "d.csv").write_text("image,label,value\ntrain_000.jpg,red,perhaps\n")
    refused(panorama("export", folder, "--decisions", tmp_path / "d.csv", "--out", tmp_path / "out"), "d.csv, line 2")
    (tmp_path / "d.csv").write_text("image,label,value\ntrain_000.jpg,red,1\n")
    refused(panorama("export", folder, "--decisions", tmp_path / "d.csv", "--out", folder), "never overwritten")


@pytest.mark.slow
def test_an_unknown_backbone_fails_in_words(seed_folder: Callable[..., Path], quick_arguments: list[str]) -> None:
    result = panorama("train", seed_folder(6, 3), *quick_arguments, "--backbone", "mobilenet_v7")
    assert result.returncode == 1
    assert "mobilenet_v2" in result.stderr
    assert "Traceback" not in result.stderr


def test_names_in_both_splits_carry_the_split_everywhere(tmp_path: Path, quick_arguments: list[str]) -> None:
    """Also with the labels of the two CSVs in another order."""
    root = tmp_path / "twins"
    for split, header, flip in (("train", "red,blue", False), ("test", "blue,red", True)):
        (root / split).mkdir(parents=True)
        lines = ["name," + header]
        for i in range(10):
            labels = ["red"] if i % 2 else ["blue"]
            patch_picture(labels, i + (100 if flip else 0)).save(root / split / f"{i}.png")
            bits = [int("red" in labels), int("blue" in labels)]
            lines.append(",".join([f"{i}.png", *map(str, reversed(bits) if flip else bits)]))
        (root / f"{split}_label.csv").write_text("\n".join(lines))
    run = tmp_path / "run"
    assert panorama("train", root, "--out", run, *quick_arguments).returncode == 0
    table = rows(run / "suspects.csv")
    assert {row["image"] for row in table} == {f"{split}/{i}.png" for split in ("train", "test") for i in range(10)}
    given = {(row["image"], row["label"]): row["given"] for row in table}
    for i in range(10):
        for split in ("train", "test"):
            assert given[f"{split}/{i}.png", "red"] == str(i % 2)
    (tmp_path / "d.csv").write_text("image,label,value\ntest/3.png,blue,1\n")
    assert panorama("export", root, "--decisions", tmp_path / "d.csv", "--out", tmp_path / "out").returncode == 0
    assert (tmp_path / "out" / "train_label.csv").read_bytes() == (root / "train_label.csv").read_bytes()
    before, after = (
        (root / "test_label.csv").read_text().splitlines(),
        (tmp_path / "out" / "test_label.csv").read_text().splitlines(),
    )
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [("3.png,0,1", "3.png,1,1")]


def test_export_of_real_scenes_without_decisions_is_byte_identical(tmp_path: Path) -> None:
    scenes = shared("data", "scenes")
    (tmp_path / "d.csv").write_text("image,label,value\n")
    assert panorama("export", scenes, "--decisions", tmp_path / "d.csv", "--out", tmp_path).returncode == 0
    for name in ("train_label.csv", "test_label.csv"):
        assert (tmp_path / name).read_bytes() == (scenes / name).read_bytes()


def test_a_label_that_the_terminal_has_no_characters_for_is_printed_all_the_same(tmp_path: Path) -> None:
    for name, labels in (("a.png", ["red"]), ("b.png", [])):
        patch_picture(labels, 1 if labels else 2).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("file,\N{SUNRISE}\na.png,1\nb.png,0\n", encoding="utf-8")
    command = [sys.executable, "-m", "panorama", "check", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert rb"\U0001f305" in done.stdout


def test_a_port_that_is_none_is_bad_usage() -> None:
    done = panorama("serve", "--port", "99999")
    assert done.returncode == 2
    assert "from 1 to 65535" in done.stderr


@pytest.mark.slow
def test_effect_retrains_on_the_workspaces_decisions_and_the_report_is_one_file(
    seed_folder: Callable[..., Path], quick_arguments: list[str], tmp_path: Path, home: Path
) -> None:
    from panorama.decisions import Answer
    from panorama.reviews import ReviewStore

    run = tmp_path / "run"
    assert panorama("train", seed_folder(24, 12), "--out", run, *quick_arguments, "--fold-models", "heads").returncode == 0
    refused(panorama("effect", run), "Nothing is corrected yet")
    old = runs.Run(run)
    given = int(old.targets(["red"])[0, 0])
    ReviewStore(home / "reviews.sqlite").apply(old.fingerprint, [Answer("train_000.jpg", "red", given, "change", "ann")])
    told = panorama("effect", run)
    assert told.returncode == 0, told.stderr
    assert "The corrected labels: 12 test images, by the two models" in told.stdout
    assert "It cannot show which model is better" in told.stdout
    again = runs.Run(Path(told.stdout.strip().splitlines()[-1]))
    assert again.corrects == runs.Corrects("run", 1, 1)
    out = tmp_path / "out" / "report.html"
    written = panorama("report", run, "--out", out)
    assert written.returncode == 0, written.stderr
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    refused(panorama("report", run, "--out", run / "report.html"), "inside the run folder")

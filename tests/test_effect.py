"""Training again on corrected labels, and what may be said of it: against scikit-learn, hand-made cells and the run folders themselves."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, QUICK
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from panorama import bootstrap, effect, runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.decisions import Decision
from panorama.errors import PanoramaError
from panorama.events import FEATURES
from panorama.finding import find_source, with_layouts
from panorama.reviews import ReviewStore
from panorama.runs import Run
from panorama.worker import run as work


@pytest.fixture
def finished(trained: Callable[..., Run]) -> Run:
    """A complete run on a data set whose first training image has a wrong label."""
    return trained(24, 12)


def decide(run: Run, home: Path, *cells: tuple[str, str, str], control: bool = False) -> ReviewStore:
    """image, label, verdict; stored as a person would."""
    from panorama.decisions import Answer

    images, labels = run.images()[0], list(COLOURS)
    given_values = run.targets(labels)
    store = ReviewStore(home / "reviews.sqlite")
    store.apply(
        run.fingerprint,
        [
            Answer(image, label, int(given_values[images.index(image), labels.index(label)]), verdict, "ann", control=control)  # type: ignore[arg-type]
            for image, label, verdict in cells
        ],
    )
    return store


def retrained(run: Run, home: Path, store: ReviewStore) -> Run:
    fold = store.fold(run.fingerprint)
    again = effect.retrain_run(run, store.corrections(run.fingerprint), home, decisions_up_to=fold.last_id)
    assert work(again.folder) == "complete", again.history().message
    return again


# --- training again ----------------------------------------------------------------------------------------------------


def test_retraining_differs_from_its_run_in_the_corrected_cells_alone(finished: Run, home: Path) -> None:
    store = decide(
        finished, home, ("train_000.jpg", "red", "change"), ("test_001.jpg", "blue", "change"), ("train_001.jpg", "red", "keep")
    )
    again = retrained(finished, home, store)
    assert again.config == finished.config
    assert again.source == finished.source
    assert again.images() == finished.images(), "the same images, splits and paths"
    assert (again.folder / "problems.json").read_bytes() == (finished.folder / "problems.json").read_bytes()
    labels = list(COLOURS)
    rows, columns = np.nonzero(again.targets(labels) != finished.targets(labels))
    images = finished.images()[0]
    assert {(images[i], labels[k]) for i, k in zip(rows, columns, strict=True)} == {
        ("train_000.jpg", "red"),
        ("test_001.jpg", "blue"),
    }
    old_bytes, new_bytes = ((run.csv_folder / "train_label.csv").read_bytes() for run in (finished, again))
    assert len(old_bytes) == len(new_bytes)
    assert sum(a != b for a, b in zip(old_bytes, new_bytes, strict=True)) == 1
    assert (finished.source.root / "train_label.csv").read_bytes() == old_bytes, "the original is not touched"
    assert again.corrects == runs.Corrects(finished.id, 2, 3)
    assert finished.corrects is None
    assert effect.retrainings(finished, home) == [again]
    assert [event.total for event in again.events() if getattr(event, "stage", "") == FEATURES and hasattr(event, "unit")] == [36]


def test_retraining_computes_no_picture_again(finished: Run, home: Path) -> None:
    store = decide(finished, home, ("train_000.jpg", "red", "change"))
    kept = {path: path.stat().st_mtime_ns for path in (home / "cache").rglob("*") if path.suffix in (".npy", ".bin", ".f32")}
    before = {path.relative_to(home) for path in (home / "cache").rglob("*") if path.is_file()}
    retrained(finished, home, store)
    after = {path.relative_to(home) for path in (home / "cache").rglob("*") if path.is_file()}
    assert before == after
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_without_corrections_it_is_refused_in_words(finished: Run, home: Path) -> None:
    with pytest.raises(PanoramaError, match="Nothing is corrected yet"):
        effect.retrain_run(finished, {}, home, decisions_up_to=0)


def test_while_another_training_runs_it_is_refused_in_words(finished: Run, home: Path) -> None:
    with runs.worker_lock(finished), pytest.raises(runs.BusyError, match="already running"):
        effect.retrain_run(finished, {("train_000.jpg", "red"): 0}, home, decisions_up_to=1)
    assert len(runs.list_runs(home)) == 1, "nothing was created"


def test_a_picture_that_is_gone_or_was_written_again_is_refused_with_its_name(finished: Run, home: Path) -> None:
    picture = finished.source.root / "train" / "train_005.jpg"
    os.utime(picture, (2**31, 2**31))
    with pytest.raises(PanoramaError, match=r"'train_005\.jpg' was written again"):
        effect.retrain_run(finished, {("train_000.jpg", "red"): 0}, home, decisions_up_to=1)
    picture.unlink()
    with pytest.raises(PanoramaError, match=r"'train_005\.jpg' cannot be read"):
        effect.retrain_run(finished, {("train_000.jpg", "red"): 0}, home, decisions_up_to=1)


def test_an_unfinished_run_is_refused_in_words(seed_folder: Callable[..., Path], home: Path) -> None:
    run = runs.create(load(with_layouts(find_source(seed_folder(12, 6))), home), TrainConfig(**QUICK), home)
    with pytest.raises(PanoramaError, match="not complete"):
        effect.retrain_run(run, {("train_000.jpg", "red"): 0}, home, decisions_up_to=1)


def test_a_damaged_note_of_the_origin_is_said_in_words(finished: Run) -> None:
    path = finished.folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "corrects": {"run": "x", "surprise": 1}}))
    with pytest.raises(PanoramaError, match=r"config\.json: damaged"):
        _ = Run(finished.folder).corrects


# --- comparing ---------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=40).filter(
        lambda rows: any(row[0] and row[2] for row in rows)
    )
)
def test_a_weighted_average_precision_is_that_of_the_images_repeated(rows: list[tuple[int, int, int]]) -> None:
    target, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    repeated = np.repeat(np.arange(len(rows)), weight)
    ours = bootstrap.weighted_average_precision(target.astype(np.int8), score / 8, weight[None].astype(np.float32))
    assert ours[0] == pytest.approx(average_precision_score(target[repeated], score[repeated] / 8), rel=1e-5)


def table(run: Run, file: str, values: np.ndarray) -> None:
    images, splits, _ = run.images()
    runs.write_rows(run.folder / file, ["image", "split", *COLOURS], [[i, s, *row] for i, s, row in zip(images, splits, values.tolist(), strict=True)])  # fmt: skip


def copy_of(run: Run, home: Path, changes: dict[tuple[str, str], int]) -> Run:
    """A retraining that nobody has trained: the tests write its answers."""
    again = effect.retrain_run(run, changes, home, decisions_up_to=1)
    for file in ("predictions.csv", "out_of_fold.csv"):
        (again.folder / file).write_bytes((run.folder / file).read_bytes())
    return again


def a_decision(image: str, label: str, given_value: int, verdict: str, *, control: bool = False) -> Decision:
    return Decision(
        1, "e", "csv", image, label, given_value, verdict, None, "ann", None, None, None, "", "2026-01-01", control=control
    )  # type: ignore[arg-type]


def test_the_same_answers_differ_by_nothing_against_any_labels(finished: Run, home: Path) -> None:
    again = copy_of(finished, home, {("test_000.jpg", "red"): 1 - int(finished.targets(["red"])[24, 0])})
    found = effect.compare(finished, again, {})
    for target in (found.original, found.corrected):
        for figure in target.figures:
            assert figure.difference == bootstrap.Estimate(0.0, 0.0, 0.0)
            assert figure.verdict == "not told apart"
            assert figure.old.low is not None
            assert figure.old.low <= figure.old.value <= figure.old.high  # type: ignore[operator]
    metrics = finished.metrics()
    assert metrics is not None
    by_name = {figure.name: figure.old.value for figure in found.original.figures}
    assert by_name["mean average precision"] == pytest.approx(metrics["test"]["macro"]["average_precision"], abs=1e-5)
    assert by_name["Hamming loss"] == pytest.approx(metrics["test"]["hamming_loss"])
    assert found.trained_on == 1
    assert "1 cell of the test split" in found.original.cannot


def test_a_model_that_answers_the_corrected_labels_is_better_there_and_worse_on_the_original_ones(
    finished: Run, home: Path
) -> None:
    given_values = finished.targets(list(COLOURS))
    wrong = {(f"test_{i:03}.jpg", "red"): 1 - int(given_values[24 + i, 0]) for i in range(12)}
    again = copy_of(finished, home, wrong)
    table(finished, "predictions.csv", given_values * 0.8 + 0.1)
    corrected = given_values.copy()
    corrected[24:, 0] = 1 - corrected[24:, 0]
    table(again, "predictions.csv", corrected * 0.8 + 0.1)
    found = effect.compare(finished, again, {})
    assert [f.verdict for f in found.original.figures] == ["worse"] * 4
    assert [f.verdict for f in found.corrected.figures] == ["better"] * 4
    assert found.corrected.figures[3].new.value == 0.0
    assert found.corrected.figures[3].old.value == pytest.approx(1 / 3), "one of three labels wrong everywhere"


def test_verified_cells_count_what_people_decided_out_of_fold(finished: Run, home: Path) -> None:
    """Four cells by hand: the old run is right on both changes and wrong on both keeps, the new one right on three."""
    again = copy_of(finished, home, {("train_000.jpg", "red"): 1 - int(finished.targets(["red"])[0, 0])})
    given_values = finished.targets(list(COLOURS)).astype(float)
    old, new = given_values.copy(), given_values.copy()
    standing = {}
    for row, verdict in ((0, "change"), (1, "change"), (2, "keep"), (3, "keep")):
        standing[f"train_{row:03}.jpg", "red"] = a_decision(f"train_{row:03}.jpg", "red", int(given_values[row, 0]), verdict)
        old[row, 0] = 1 - given_values[row, 0]
        new[row, 0] = 1 - given_values[row, 0] if row == 0 else given_values[row, 0]
    standing["train_004.jpg", "red"] = a_decision("train_004.jpg", "red", int(given_values[4, 0]), "skip")
    table(finished, "out_of_fold.csv", old)
    table(again, "out_of_fold.csv", new)
    found = effect.compare(finished, again, standing)
    by_name = {figure.name: (figure.old.value, figure.new.value) for figure in found.verified.figures}
    assert by_name["right side of 0.5"] == (0.5, 0.75)
    assert by_name["right side of 0.5, 2 changed cells"] == (1.0, 0.5)
    assert by_name["right side of 0.5, 2 kept cells"] == (0.0, 1.0)
    assert by_name["squared error (Brier score)"] == (0.5, 0.25)
    assert found.verified.measured_on.startswith("4 cells of 4 images")
    assert found.verified_test.figures == ()
    assert found.verified_test.missing == "There is no verified cell in the test split."
    assert found.controls is None
    assert found.waiting == 1, "train_001 is corrected but was not trained on"


def test_controls_stand_apart_with_wilsons_interval(finished: Run, home: Path) -> None:
    again = copy_of(finished, home, {("train_000.jpg", "red"): 1 - int(finished.targets(["red"])[0, 0])})
    given_values = finished.targets(list(COLOURS))
    table(finished, "out_of_fold.csv", given_values.astype(float))
    table(again, "out_of_fold.csv", given_values.astype(float))
    standing = {
        (f"train_{row:03}.jpg", "red"): a_decision(f"train_{row:03}.jpg", "red", int(given_values[row, 0]), "keep", control=True)
        for row in range(10)
    }
    found = effect.compare(finished, again, standing)
    assert found.verified.missing == "Nobody has kept or changed a suspected cell yet."
    assert found.controls is not None
    share = found.controls.figures[0].old
    # Wilson's interval of 10 of 10, from the formula: 10 / (10 + 1.96 ** 2)
    assert (share.value, share.high) == (1.0, pytest.approx(1.0))
    assert share.low == pytest.approx(10 / (10 + 1.96**2), abs=1e-4)


def test_near_duplicates_are_drawn_together(finished: Run, home: Path) -> None:
    """All test images copies of one another: there is one picture to draw, so no interval."""
    again = copy_of(finished, home, {("train_000.jpg", "red"): 1 - int(finished.targets(["red"])[0, 0])})
    runs.write_rows(
        finished.folder / "neighbours.csv", ["image", "neighbour", "similarity", "near_duplicate"],
        [["test_000.jpg", f"test_{i:03}.jpg", "1", "1"] for i in range(1, 12)],
    )  # fmt: skip
    found = effect.compare(finished, again, {})
    assert found.draws == 1
    assert found.original.figures[0].old.low is None
    assert "too few images" in found.original.figures[0].old.words()


def test_what_cannot_be_measured_is_said_and_no_number_is_nan(finished: Run, home: Path) -> None:
    again = copy_of(finished, home, {("train_000.jpg", "red"): 1 - int(finished.targets(["red"])[0, 0])})
    found = effect.compare(finished, again, {})
    assert found.verified.missing
    numbers = [
        n for t in found.targets for f in t.figures for e in (f.old, f.new, f.difference) for n in (e.value, e.low, e.high)
    ]
    assert all(n is not None and np.isfinite(n) for n in numbers)


def test_runs_of_other_images_are_not_compared(finished: Run, home: Path) -> None:
    again = copy_of(finished, home, {("train_000.jpg", "red"): 1 - int(finished.targets(["red"])[0, 0])})
    header, rows = runs.read_rows(again.folder / "split.csv")
    runs.write_rows(again.folder / "split.csv", header, [[image, "test", path] for image, _, path in rows])
    with pytest.raises(PanoramaError, match="not of the same images"):
        effect.compare(finished, again, {})


def test_the_interval_covers_a_true_difference_about_as_often_as_it_says() -> None:
    """100 data sets of 60 images whose true Hamming losses are 0.2 and 0.3: 95 % intervals should hold +0.1 in nearly all."""
    covered = 0
    for number in range(100):
        rng = np.random.default_rng(number)
        targets = rng.integers(0, 2, (60, 3)).astype(np.int8)
        pair = effect._Pair(
            [], [], list("abc"), targets, targets,
            tuple(np.where(rng.random(targets.shape) < wrong, 1 - targets, targets).astype(float) for wrong in (0.2, 0.3)),  # type: ignore[arg-type]
            (np.zeros(0), np.zeros(0)), np.arange(60),
        )  # fmt: skip
        _, weights = bootstrap.draw(pair.groups, 500, rng)
        figures, _ = effect._on_labels(pair, np.arange(60), targets, weights)
        interval = figures[3].difference
        assert interval.low is not None
        assert interval.high is not None
        covered += interval.low <= 0.1 <= interval.high
    assert 88 <= covered <= 100
    assert replace(figures[3], difference=bootstrap.Estimate(0.1, 0.05, 0.15)).verdict == "worse"


# --- the sentence above it all -----------------------------------------------------------------------------------------


def held(*differences: tuple[float, float | None, float | None], title: str = "t") -> effect.Target:
    """A target whose figures differ so: value, low, high."""
    zero = bootstrap.Estimate(0.5)
    figures = tuple(effect.Figure("mAP", True, zero, zero, bootstrap.Estimate(*d)) for d in differences)
    return effect.Target(title, "", figures, "" if figures else "nothing", "", "")


def compared(corrected: effect.Target, verified: effect.Target) -> effect.Comparison:
    return effect.Comparison(held(), corrected, verified, held(), None, (), 53, 0, 2000, 100)


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ((0.003, -0.01, 0.02), "no difference could be told apart by mAP on the test split, against the corrected labels: new minus old +0.003 (-0.010 to +0.020)"),
        ((0.03, 0.01, 0.05), "the new model is better by mAP on the test split, against the corrected labels: new minus old +0.030 (+0.010 to +0.050)"),
        ((-0.03, -0.05, -0.01), "the new model is worse by mAP on the test split, against the corrected labels: new minus old -0.030 (-0.050 to -0.010)"),
        ((0.03, None, None), "whether it changed anything cannot be told by mAP on the test split, against the corrected labels: new minus old +0.030 (too few images for an interval)"),
    ],
)  # fmt: skip
def test_one_sentence_says_what_came_of_it_and_how_sure_that_is(difference: tuple[float, float, float], said: str) -> None:
    assert compared(held(difference), held((0.0, -0.1, 0.1))).verdict == f"Correcting 53 cells: {said}."
    assert (
        compared(held(difference), held((0.5, 0.4, 0.6))).verdict == f"Correcting 53 cells: {said}; the other figure says better."
    )


def test_the_sentence_does_not_pick_the_figure_that_looks_best_and_counts_the_others() -> None:
    found = compared(held((0.0, -0.1, 0.1), (0.2, 0.1, 0.3)), held((-0.2, -0.3, -0.1), (0.2, 0.1, 0.3)))
    assert "no difference could be told apart" in found.verdict
    assert found.verdict.endswith("; of the 3 other figures 2 say better and 1 says worse.")
    assert "on the cells people verified" in compared(held(), held((0.2, 0.1, 0.3))).verdict
    assert compared(held(), held()).verdict == "Correcting 53 cells: there is nothing to measure a difference on."


def test_a_difference_that_rounds_to_nought_has_no_sign() -> None:
    assert bootstrap.Estimate(-0.0004, -0.00051, 0.0004).words("+") == "0.000 (-0.001 to 0.000)"
    assert bootstrap.Estimate(0.0, 0.0, 0.0).words("+") == "0.000 (0.000 to 0.000)"
    assert bootstrap.Estimate(0.0316, 0.01, 0.05).words("+") == "+0.032 (+0.010 to +0.050)"
    assert bootstrap.Estimate(0.0316).words() == "0.032 (too few images for an interval)"

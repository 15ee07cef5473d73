"""The report: one file that asks nothing of anybody, strings shown as they are, numbers those of the run."""

import base64
import dataclasses
import io
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, QUICK, patch_picture
from PIL import Image

from panorama import report, runs
from panorama.config import TrainConfig
from panorama.datasets import load
from panorama.decisions import Answer, Decision, Fold
from panorama.drawing import Series, plot
from panorama.errors import PanoramaError
from panorama.finding import find_source, with_layouts
from panorama.report_html import render
from panorama.reviewfiles import open_queue
from panorama.reviews import ReviewStore
from panorama.runs import Run
from panorama.worker import run as work

NAUGHTY = "<script>alert(1)</script>\"'><img src=http://127.0.0.1:9/x onerror=alert(1)> ${x} \u202e"
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Every tag with its attributes, the text outside style, and whether tags are closed in order."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words, self.styles = "", ""
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(data.decode())
        self.close()
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.styles += data
        else:
            self.words += data
        if {"td", "th"} & set(self._open):
            self.tables[-1][-1][-1] += data

    def table(self, first_header: str, *headers: str) -> dict[str, list[str]]:
        found = next(t for t in self.tables if t[0][: 1 + len(headers)] == [first_header, *headers])
        return {row[0]: row[1:] for row in found[1:]}


@pytest.fixture
def finished(trained: Callable[..., Run]) -> Run:
    return trained(24, 12, unreadable="train_003.jpg")


def written(run: Run, home: Path) -> tuple[report.Report, bytes]:
    fold = ReviewStore(home / "reviews.sqlite").fold(run.fingerprint)
    found = report.gather(run, report.read(run), open_queue(run), fold)
    return found, render(found, run)


def decide(run: Run, home: Path, *answers: Answer) -> None:
    ReviewStore(home / "reviews.sqlite").apply(run.fingerprint, list(answers))


def asks_for_nothing(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form"), tag
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/jpeg;base64,")), (tag, name, value)
        assert "url(" not in attributes.get("style", "")
    assert "url(" not in page.styles
    assert "@import" not in page.styles
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")


def test_the_numbers_are_those_of_the_run(finished: Run, home: Path) -> None:
    found, data = written(finished, home)
    page, metrics = Page(data), finished.metrics()
    assert metrics is not None
    asks_for_nothing(page)
    on = page.table("measured on", "images", "mAP")
    for key, name in (
        ("test", "test split"),
        ("validation", "validation part"),
        ("train", "training part"),
        ("out_of_fold", "all images, out of fold"),
    ):
        assert on[name][0] == str(metrics[key]["images"])
        assert on[name][1] == f"{metrics[key]['macro']['average_precision']:.3f}"
        assert on[name][4] == f"{metrics[key]['hamming_loss']:.3f}"
    labels = page.table("label", "positives", "average precision")
    counts = page.table("label", "train", "validation", "test")
    for k, label in enumerate(COLOURS):
        assert labels[label][0] == str(metrics["test"]["labels"][label]["positives"])
        assert labels[label][1] == f"{metrics['test']['labels'][label]['average_precision']:.3f}"
        assert labels[label][2] == f"{metrics['out_of_fold']['labels'][label]['average_precision']:.3f}"
        assert labels[label][3] == f"{metrics['thresholds_from_validation'][label]:.3f}"
        assert sum(int(n) for n in counts[label][:3]) == int(finished.targets(list(COLOURS))[:, k].sum())
    assert "train/train_003.jpg" in page.words, "the unreadable file is named"
    assert "1 image left out" in page.words
    assert found.test.images == 12


def test_curves_end_where_scikit_learns_do_and_the_point_is_on_the_curve(finished: Run, home: Path) -> None:
    from sklearn.metrics import precision_recall_curve

    found, _ = written(finished, home)
    images, splits, _ = finished.images()
    assert images
    test = np.array(splits) == "test"
    predictions = finished.probabilities("predictions.csv")
    assert predictions is not None
    for k, curve in enumerate(found.test.labels):
        precision, recall, thresholds = precision_recall_curve(finished.targets(list(COLOURS))[test, k], predictions[1][test, k])
        assert curve.recall is not None
        assert curve.precision is not None
        np.testing.assert_allclose(curve.recall, recall)
        np.testing.assert_allclose(curve.precision, precision)
        assert len(thresholds)
        if curve.point is not None:
            assert min(abs(recall - curve.point[0]) + abs(precision - curve.point[1])) < 1e-9


def test_figures_of_few_images_are_said_to_be_unsure(finished: Run) -> None:
    data = report.read(finished)
    assert (data.splits == "test").sum() < 50
    assert report.curves(data, "test").measured_on.endswith("so few that every figure may be far off")
    many = np.resize(np.arange(len(data.images)), 60)
    larger = dataclasses.replace(
        data,
        images=[data.images[n] for n in many],
        targets=data.targets[many],
        models=data.models[many],
        splits=np.full(60, "test"),
    )
    assert "so few" not in report.curves(larger, "test").measured_on, "the negative control"


def test_a_curve_of_many_points_keeps_its_ends_and_hardly_moves() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 20_000).astype(np.int8)
    p = (y * 0.3 + rng.random(20_000) * 0.7).astype(np.float32)
    data = report.Data(
        [""] * 20_000,
        np.full(20_000, "test"),
        [],
        ["sea"],
        y[:, None],
        p[:, None],
        None,
        np.arange(20_000),
        {"thresholds_from_validation": {"sea": 0.5}},
    )
    (curve,) = data.test.labels
    assert curve.recall is not None
    assert curve.precision is not None
    assert len(curve.recall) <= 170
    assert (curve.recall[0], curve.recall[-1], curve.precision[-1]) == (1.0, 0.0, 1.0)
    area = -np.sum(np.diff(curve.recall) * curve.precision[:-1])
    assert area == pytest.approx(curve.average_precision, abs=0.01)


def test_hostile_names_are_shown_as_they_are(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "naughty"
    (root / "train").mkdir(parents=True)
    (root / "test").mkdir()
    for split, count in (("train", 12), ("test", 6)):
        lines = ['file,"' + NAUGHTY.replace('"', '""') + '",sea']
        for i in range(count):
            name = f"<b onclick=x>{split}{i}'&.png"
            patch_picture(["red"] if i % 2 else [], i + 50 * count).save(root / split / name)
            lines.append(f"{name},{i % 2},{int(i % 3 == 0)}")
        (root / f"{split}_label.csv").write_text("\n".join(lines), encoding="utf-8")
    run = runs.create(load(with_layouts(find_source(root)), home), TrainConfig(**{**QUICK, "fold_models": "heads"}), home)
    assert work(run.folder) == "complete"
    decide(
        run, home,
        Answer("<b onclick=x>train1'&.png", NAUGHTY, 1, "change", f"ann {NAUGHTY}", note=f"a note {NAUGHTY}", doubt=0.9),
        Answer("<b onclick=x>train2'&.png", "sea", 0, "keep", "bob"),
    )  # fmt: skip
    _, data = written(run, home)
    page = Page(data)
    asks_for_nothing(page)
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "dl", "div", "dt", "dd", "nav", "a", "section", "p", "b",
        "table", "caption", "thead", "tbody", "tr", "th", "td", "span", "i", "details", "summary", "ul", "li", "svg", "path", "text", "circle",
        "figure", "figcaption", "img", "q", "footer",
    }  # fmt: skip
    assert f"{NAUGHTY}: yes → no" in page.words
    assert f"a note {NAUGHTY}" in page.words
    assert f"ann {NAUGHTY}" in page.words
    assert "<b onclick=x>train1'&.png" in page.words


def test_corrections_come_with_small_pictures_and_readers_of_the_screen_are_told(finished: Run, home: Path) -> None:
    given = finished.targets(["red"])[:, 0]
    images = finished.images()[0]
    decide(finished, home, *(Answer(images[i], "red", int(given[i]), "change", "ann", doubt=0.9 if i else 0.1) for i in range(8)))
    (finished.source.root / "train" / images[1]).unlink()
    found, data = written(finished, home)
    page = Page(data)
    pictures = [a for t, a in page.tags if t == "img"]
    assert len(pictures) == 7, "eight corrections, one picture gone"
    assert "The picture cannot be read any more." in page.words
    for picture in pictures:
        assert picture["alt"] in images
        assert max(Image.open(io.BytesIO(base64.b64decode(picture["src"].partition(",")[2]))).size) <= 260
    drawn = [a for t, a in page.tags if t == "svg" and "aria-hidden" not in a]
    assert drawn
    assert all(a["role"] == "img" and a["aria-label"] for a in drawn)
    headings = [int(t[1]) for t, _ in page.tags if t in ("h1", "h2", "h3")]
    assert headings[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(headings))
    assert [c.surprise for c in found.corrections] == [False] * 7 + [True]
    assert "8 values changed" in page.words


def test_no_more_pictures_than_asked_and_every_label_has_its_turn(finished: Run) -> None:
    data = report.read(finished)
    images = finished.images()[0]
    decisions = [
        Decision(n, str(n), "c", image, label, 0, "change", None, "ann", None, doubt, None, "", "2026-01-01")
        for n, (image, label, doubt) in enumerate(
            [*((image, "red", 0.9) for image in images), (images[0], "blue", 0.6), (images[1], "green", 0.55)]
        )
    ]
    chosen = report.instructive(data, decisions, 9)
    assert len(chosen) == 9
    assert {c.label for c in chosen} == set(COLOURS)


def test_conflicts_agreement_and_controls_are_told(finished: Run, home: Path) -> None:
    given = finished.targets(["red"])[:, 0]
    images = finished.images()[0]
    decide(
        finished, home,
        Answer(images[0], "red", int(given[0]), "change", "ann"), Answer(images[0], "red", int(given[0]), "keep", "bob"),
        Answer(images[1], "red", int(given[1]), "keep", "ann"), Answer(images[1], "red", int(given[1]), "keep", "bob"),
        Answer(images[2], "red", int(given[2]), "keep", "ann", control=True),
    )  # fmt: skip
    _, data = written(finished, home)
    page = Page(data)
    assert "1 value in conflict" in page.words
    assert page.table("who", "values", "agreed")["ann and bob"][:2] == ["2", "1 (50%)"]
    assert "Of 1 value that nobody suspected, drawn at random and mixed in, 0 changed: 0.0%" in page.words


def test_where_no_label_was_learned_nobody_knows_how_many_errors_there_are(finished: Run, home: Path) -> None:
    """As the review page says it; the negative control: with one label learned there is a number."""
    found, _ = written(finished, home)
    labels = found.health.labels

    def words(unlearned: tuple[str, ...]) -> str:
        health = dataclasses.replace(found.health, unlearned=unlearned)
        return Page(render(dataclasses.replace(found, health=health), finished)).words

    assert "It is unknown how many values of the CSV are wrong" in words(labels)
    assert "values of the CSV are wrong (" not in words(labels)
    assert "values of the CSV are wrong (" in words(labels[1:])


def test_labels_that_no_image_carries_and_an_undecided_run_are_said_in_words(
    home: Path, seed_folder: Callable[..., Path]
) -> None:
    root = seed_folder(16, 6)
    for split in ("train", "test"):
        sheet = root / f"{split}_label.csv"
        header, *lines = sheet.read_text().splitlines()
        sheet.write_text("\n".join([header + ",never", *(line + ",0" for line in lines)]) + "\n")
    run = runs.create(load(with_layouts(find_source(root)), home), TrainConfig(**{**QUICK, "fold_models": "heads"}), home)
    assert work(run.folder) == "complete"
    _, data = written(run, home)
    page = Page(data)
    assert page.table("label", "positives", "average precision")["never"][:2] == ["0", "not measurable"]
    assert "No image here carries this label" in page.words
    assert "Nothing is decided yet" in page.words
    assert "nan" not in page.words.lower().split()


def test_a_run_that_is_not_complete_is_refused_in_words(seed_folder: Callable[..., Path], home: Path) -> None:
    run = runs.create(load(with_layouts(find_source(seed_folder(12, 6))), home), TrainConfig(**QUICK), home)
    with pytest.raises(PanoramaError, match=r"cannot be read\. Let it finish"):
        report.read(run)


def test_people_of_nothing_are_nobody() -> None:
    assert report.people(Fold()) == report.People(0, 0, 0, 0, (), {}, (), None)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 24.0), (0.0, 0.0037), (0.0, 812.0), (2.0, 2.0)])
def test_axes_have_a_few_round_ticks_inside_their_range(low: float, high: float) -> None:
    from panorama.drawing import _ticks

    ticks = _ticks(low, high)
    assert 1 <= len(ticks) <= 8
    assert all(low <= tick <= high for tick in ticks)
    assert len(set(ticks)) == len(ticks)


def test_a_drawing_stays_inside_its_frame() -> None:
    drawn = plot([Series("a", [0, 0.5, 1], [1, 0.2, 0])], title="<&>", x="x", y="y", size=(300, 240))
    assert "&lt;&amp;&gt;" in drawn
    assert 'd="M46.0 10.0L168.0 162.0L290.0 200.0"' in drawn

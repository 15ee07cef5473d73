"""What correcting labels changed: train again on the corrected CSVs, and compare the two runs on the same images.

Same seed, same split, same numbers; only corrected cells differ. Intervals are 95 % and paired (`bootstrap`): the same draw of images
judges both runs. They say how far figures would move with other images of the kind, not with another seed: each model is one training.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from panorama import metrics, runs
from panorama.bootstrap import Estimate, Floats, Weights, draw, estimate, resampled
from panorama.countdown import roughly
from panorama.csvscan import counted
from panorama.datasets import corrected_csvs
from panorama.decisions import Cell, Decision, wilson_interval
from panorama.errors import PanoramaError
from panorama.events import duration, seconds_again
from panorama.runs import Corrects, Run
from panorama.split import linked

RESAMPLES = 2000
_FEWEST_RESAMPLES = 100  # of very many images, whose figures hardly move
_MOST_DRAWN = 30_000_000  # resamples x images x labels: about a second
_SIDE = 0.5


# --- training again ----------------------------------------------------------------------------------------------------


def retrain_run(run: Run, corrections: Mapping[Cell, int], home: Path, *, decisions_up_to: int, now: float | None = None) -> Run:
    """A new run folder in `home` that repeats the complete `run` on its corrected CSVs; start it as any other.

    decisions_up_to: the id of the last decision known. Raises PanoramaError in words when there is nothing to learn from it:
    no corrections, another training, pictures that are not those of `run` any more.
    """
    if not corrections:
        raise PanoramaError("Nothing is corrected yet, so there is nothing to train again on. Review some suspects first.")
    if not run.has("metrics.json") or not run.has("split.csv"):
        raise PanoramaError(f"{run.id} is not complete. Let it finish first.")
    if runs.is_busy(home):
        raise runs.BusyError("A training is already running in this workspace. Wait for it, or stop it first.")
    _refuse_other_pictures(run)
    csvs = corrected_csvs(run.sheets(), corrections)
    return runs.create_corrected(run, csvs, Corrects(run.id, len(corrections), decisions_up_to), home, now=now)


def _refuse_other_pictures(run: Run) -> None:
    """The worker finds pictures that came or went; one that was written again would make another experiment without a word."""
    began = run.history().started_at or run.created.timestamp()
    images, _, paths = run.images()
    for image, path in zip(images, paths, strict=True):
        try:
            written = run.picture_path(path).stat().st_mtime
        except OSError:
            raise PanoramaError(
                f"The picture {image!r} cannot be read any more, so old and new would be of other images. Put it back, or train anew."
            ) from None
        if written > began:
            raise PanoramaError(
                f"The picture {image!r} was written again after this run was trained, so old and new would be of other pictures. Train anew."
            )


def retrainings(run: Run, home: Path) -> list[Run]:
    """The runs of the workspace that repeat `run` on corrected labels, newest first."""
    return [other for other in runs.list_runs(home) if other.corrects is not None and other.corrects.run == run.id]


def expected_time(run: Run) -> str:
    """How long it takes to train `run` again, for people: by its own times, as its pictures and features are kept ready."""
    again, whole = seconds_again(run.history()), duration(seconds_of(run))
    if again is None:
        return f"That run took {whole}; expect as much, or less where pictures are kept ready."
    return f"Expect about {roughly(again)}: as long as that run took ({whole}), less what is kept ready of its pictures. Where the cache was cleared, that comes on top."


def seconds_of(run: Run) -> float:
    """How long a run took, from its first event to its last."""
    h = run.history()
    return (h.last_at or 0.0) - (h.started_at or 0.0)


# --- figures -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One measure of both runs on the same images. difference: new minus old."""

    name: str
    higher_is_better: bool
    old: Estimate
    new: Estimate
    difference: Estimate

    @property
    def verdict(self) -> Literal["better", "worse", "not told apart"]:
        """What the interval of the difference says of the new run."""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None or low <= 0 <= high:
            return "not told apart"
        return "better" if (low > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Target:
    """The two runs held against one thing. figures: the most telling first; none: `missing` says why.

    can, cannot: how "It can show ..." and "It cannot show ..." go on.
    """

    title: str
    measured_on: str
    figures: tuple[Figure, ...]
    missing: str
    can: str
    cannot: str


@dataclass(frozen=True)
class LabelScore:
    """Average precision of one label on the test split against the corrected labels; None without a positive."""

    label: str
    positives: int
    corrected: int
    old: float | None
    new: float | None


@dataclass(frozen=True)
class Comparison:
    """What retraining on corrected labels changed.

    verified: out of fold, all images; verified_test: the models themselves, test split. controls: cells nobody suspected. trained_on: cells in
    which the CSVs of the two runs differ; waiting: cells whose correction came, or was taken back, after the retraining.
    """

    original: Target
    corrected: Target
    verified: Target
    verified_test: Target
    controls: Target | None
    labels: tuple[LabelScore, ...]
    trained_on: int
    waiting: int
    resamples: int
    draws: int

    @property
    def targets(self) -> tuple[Target, ...]:
        """All there are, in the order they are shown."""
        return tuple(t for t in (self.original, self.corrected, self.verified, self.verified_test, self.controls) if t)

    @property
    def verdict(self) -> str:
        """What came of it, in a sentence: by one figure that was chosen beforehand, not by the one that looks best; and how many others say what.

        It is the first against the corrected labels, or else the first on the verified cells.
        """
        did = f"Correcting {counted(self.trained_on, 'cell')}"
        places = (
            (self.corrected, "on the test split, against the corrected labels"),
            (self.verified, "on the cells people verified"),
        )
        chosen = next(((target.figures[0], where) for target, where in places if target.figures), None)
        if chosen is None:
            return f"{did}: there is nothing to measure a difference on."
        figure, where = chosen
        head = "no difference could be told apart" if figure.verdict == "not told apart" else f"the new model is {figure.verdict}"
        if figure.difference.low is None:
            head = "whether it changed anything cannot be told"
        others = Counter(f.verdict for target in self.targets for f in target.figures if f is not figure)
        told = [f"{others[v]} {'says' if others[v] == 1 else 'say'} {v}" for v in ("better", "worse") if others[v]]
        of = "the other figure" if others.total() == 1 else f"of the {others.total():,} other figures"
        rest = f"; {of} {' and '.join(told).removeprefix('1 ' if others.total() == 1 else '')}" if told else ""
        return f"{did}: {head} by {figure.name} {where}: new minus old {figure.difference.words('+')}{rest}."


def compare(old: Run, new: Run, standing: Mapping[Cell, Decision], *, seed: int = 0, resamples: int = RESAMPLES) -> Comparison:
    """Two complete runs on the same images, `new` on corrected labels. standing: the undisputed decisions on the CSVs of `old`.

    Raises PanoramaError when the runs are not of the same images.
    """
    pair = _read(old, new)
    test = np.flatnonzero(np.array(pair.splits) == "test")
    n_resamples = int(np.clip(_MOST_DRAWN // max(1, len(test) * len(pair.labels)), _FEWEST_RESAMPLES, resamples))
    rng = np.random.default_rng(seed)
    draws, weights = draw(pair.groups[test], n_resamples, rng)
    fixed_in_test = int((pair.given[test] != pair.corrected[test]).sum())
    cells = _Verified.of(pair, standing)
    in_test = np.isin(cells.image, test)
    on_test = f"{counted(len(test), 'test image')}, by the two models"
    seen, seen_test = cells.where(~cells.control), cells.where(~cells.control & in_test)
    return Comparison(
        Target("The original labels", on_test, *_on_labels(pair, test, pair.given, weights), *_of_original(fixed_in_test)),
        Target("The corrected labels", on_test, *_on_labels(pair, test, pair.corrected, weights), *_of_corrected(fixed_in_test)),
        Target(
            "The cells people verified", f"{seen.words}, by models that never saw the picture (out of fold)",
            *_on_cells(pair.groups, seen, pair.folds, n_resamples, rng, "Nobody has kept or changed a suspected cell yet."), *_OF_VERIFIED,
        ),
        Target(
            "The verified cells of the test split", f"{seen_test.words}, by the two models",
            *_on_cells(pair.groups, seen_test, pair.models, n_resamples, rng, "There is no verified cell in the test split."), *_OF_VERIFIED_TEST,
        ),
        _on_controls(pair, cells.where(cells.control), n_resamples, rng),
        tuple(_label_scores(pair, test)), int((pair.given != pair.corrected).sum()), _waiting(pair, standing), n_resamples, draws,
    )  # fmt: skip


# --- what each can and cannot prove ------------------------------------------------------------------------------------


def _of_original(fixed_in_test: int) -> tuple[str, str]:
    return (
        "whether the new model still answers as the CSV did before anybody looked; no person's choice is in these labels.",
        f"which model is better: these labels hold the very errors that were corrected ({counted(fixed_in_test, 'cell')} of the test split), "
        "and a model that answers such a cell rightly counts as wrong. A better model may score lower here.",
    )


def _of_corrected(fixed_in_test: int) -> tuple[str, str]:
    chosen = (
        f"{counted(fixed_in_test, 'cell')} of the test split {'was' if fixed_in_test == 1 else 'were'} corrected because the old run disagreed with the CSV "
        "there, so on those the corrected labels side with the old run by choice, which favours the old model."
        if fixed_in_test
        else "no cell of the test split was corrected, so these are the original labels there."
    )
    return (
        "which model agrees better with what the labels are now believed to be, on images that taught neither.",
        f"which is better without favour: {chosen} Errors that nobody has looked at are still in these labels.",
    )


_OF_VERIFIED = (
    "which run is nearer to what people saw, on cells that a person looked at and on which no model was trained.",
    "accuracies on the data set: people looked where the old run doubted the CSV, so its answers chose the cells. Where it was right by luck a change "
    "was found, where it was wrong by bad luck a value was kept; without that luck a new run that is only as good falls on the changed cells and rises "
    "on the kept ones. Read the two together. Who saw the model's answer before deciding may have followed it.",
)
_OF_VERIFIED_TEST = (
    "the same for the two models that you would use, on test images, which taught neither.",
    "more than a few cells can, chosen by doubt as above.",
)
_OF_CONTROLS = (
    "how often each run is right where nobody suspected an error: these cells were drawn at random among the unsuspected.",
    "anything of suspected cells; and the interval is as wide as the cells are few.",
)


# --- reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Two runs on common images and labels. models, folds: (old, new), each (n_images, n_labels). groups: near-duplicates share one."""

    images: list[str]
    splits: list[str]
    labels: list[str]
    given: npt.NDArray[np.int8]
    corrected: npt.NDArray[np.int8]
    models: tuple[Floats, Floats]
    folds: tuple[Floats, Floats]
    groups: npt.NDArray[np.int64]


def _read(old: Run, new: Run) -> _Pair:
    images, splits, _ = old.images()
    if new.images()[:2] != (images, splits):
        raise PanoramaError(f"{old.id} and {new.id} are not of the same images and split, so they cannot be compared.")
    tables = [_table(run, file) for file in ("predictions.csv", "out_of_fold.csv") for run in (old, new)]
    labels = [label for label in tables[0][0] if label in tables[1][0]]  # a tag that no image carries any more is no label
    values = [table[:, [names.index(label) for label in labels]].astype(np.float64) for names, table in tables]
    return _Pair(
        images, splits, labels, old.targets(labels), new.targets(labels), (values[0], values[1]), (values[2], values[3]), near_duplicates(old, images)
    )  # fmt: skip


def _table(run: Run, file: str) -> tuple[list[str], npt.NDArray[np.float32]]:
    found = run.probabilities(file)
    if found is None:
        raise PanoramaError(f"{run.id} has no {file}. Let it finish first: resume it.")
    return found


def near_duplicates(run: Run, images: Sequence[str]) -> npt.NDArray[np.int64]:
    """(n_images,): near-duplicates that the run wrote down share an id; it looks among the images of the first suspects."""
    alone = np.arange(len(images))
    if not run.has("neighbours.csv"):
        return alone
    row_of = {image: row for row, image in enumerate(images)}
    header, rows = runs.read_rows(run.folder / "neighbours.csv")
    if not {"image", "neighbour", "near_duplicate"} <= set(header):
        return alone
    first, second, twin = (header.index(name) for name in ("image", "neighbour", "near_duplicate"))
    pairs = [(row_of[r[first]], row_of[r[second]]) for r in rows if r[twin] == "1" and r[first] in row_of and r[second] in row_of]
    return linked(alone, *np.array(pairs, np.int64).reshape(-1, 2).T)


def _waiting(pair: _Pair, standing: Mapping[Cell, Decision]) -> int:
    changed = {(image, label) for (image, label), decision in standing.items() if decision.verdict == "change"}
    rows, columns = np.nonzero(pair.given != pair.corrected)
    trained = {(pair.images[i], pair.labels[k]) for i, k in zip(rows.tolist(), columns.tolist(), strict=True)}
    known, labels = set(pair.images), set(pair.labels)
    return len({cell for cell in changed ^ trained if cell[0] in known and cell[1] in labels})


@dataclass(frozen=True)
class _Verified:
    """Cells that a person kept or changed: image and label by position, the value they decided, whether it is a change or a control."""

    image: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    value: npt.NDArray[np.int64]
    changed: npt.NDArray[np.bool_]
    control: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, pair: _Pair, standing: Mapping[Cell, Decision]) -> "_Verified":
        """Conflicts do not stand and a skip has no value, so neither is here."""
        row, column = ({name: at for at, name in enumerate(names)} for names in (pair.images, pair.labels))
        found = [
            (row[image], column[label], decision.value, decision.verdict == "change", decision.control)
            for (image, label), decision in standing.items()
            if decision.value is not None and image in row and label in column
        ]
        image, label, value, changed, control = np.array(found, np.int64).reshape(-1, 5).T
        return cls(image, label, value, changed.astype(bool), control.astype(bool))

    def where(self, chosen: npt.NDArray[np.bool_]) -> "_Verified":
        return _Verified(self.image[chosen], self.label[chosen], self.value[chosen], self.changed[chosen], self.control[chosen])

    @property
    def words(self) -> str:
        return f"{counted(len(self.image), 'cell')} of {counted(len(np.unique(self.image)), 'image')}"


# --- measuring ---------------------------------------------------------------------------------------------------------


def _figure(
    name: str,
    values: Sequence[float],
    resampled: Sequence[Floats],
    known: npt.NDArray[np.bool_],
    *,
    higher_is_better: bool = True,
) -> Figure:
    """values, resampled: of old and of new. known: which resamples could be measured."""
    old, new = (r[known] for r in resampled)
    return Figure(
        name,
        higher_is_better,
        estimate(values[0], old),
        estimate(values[1], new),
        estimate(values[1] - values[0], new - old),
    )


def _on_labels(
    pair: _Pair, test: npt.NDArray[np.int64], targets: npt.NDArray[np.int8], weights: Weights
) -> tuple[tuple[Figure, ...], str]:
    """The figures of the report on the test split, against these labels; or why there are none."""
    if not len(test):
        return (), "There is no test split."
    y = targets[test]
    answers = [p[test] for p in pair.models]
    measured = [metrics.measure(pair.labels, y, p) for p in answers]
    drawn = [resampled(y, p, weights) for p in answers]
    figures = []
    for name, key, higher in _MEASURES:
        values = [_value(m, key) for m in measured]
        if values[0] is None or values[1] is None:
            continue
        known = drawn[0][key][1]
        figures.append(_figure(name, (values[0], values[1]), [d[key][0] for d in drawn], known, higher_is_better=higher))
    return tuple(figures), "" if figures else "There is nothing to measure on the test split."


_MEASURES = (
    ("mean average precision", "average_precision", True),
    ("F1 (macro)", "f1", True),
    ("subset accuracy", "subset_accuracy", True),
    ("Hamming loss", "hamming_loss", False),
)


def _value(measured: Mapping[str, Any], key: str) -> float | None:
    value: float | None = measured["macro"][key] if key in measured["macro"] else measured[key]
    return value


def _on_cells(
    groups: npt.NDArray[np.int64], cells: _Verified, answers: tuple[Floats, Floats], n_resamples: int, rng: np.random.Generator, missing: str
) -> tuple[tuple[Figure, ...], str]:  # fmt: skip
    """Shares of cells on the right side of 0.5, all and by what people decided, and the Brier score; or why there are none."""
    if not len(cells.image):
        return (), missing
    images, row = np.unique(cells.image, return_inverse=True)
    _, weights = draw(groups[images], int(np.clip(_MOST_DRAWN // len(images), _FEWEST_RESAMPLES, n_resamples)), rng)
    p = [answer[cells.image, cells.label] for answer in answers]
    right = [((q > _SIDE) == (cells.value == 1)).astype(np.float64) for q in p]
    square = [(q - cells.value) ** 2 for q in p]
    every = np.ones(len(row), bool)
    wanted = [("right side of 0.5", right, every, True), ("squared error (Brier score)", square, every, False)]
    for name, chosen in (("changed", cells.changed), ("kept", ~cells.changed)):
        if chosen.any():
            wanted.append((f"right side of 0.5, {counted(int(chosen.sum()), f'{name} cell')}", right, chosen, True))
    figures = []
    for name, scores, chosen, higher in wanted:
        per_image = [np.bincount(row[chosen], s[chosen], len(images)).astype(np.float32) for s in scores]
        drawn = weights @ np.bincount(row[chosen], minlength=len(images)).astype(np.float32)
        resampled = [(weights @ sums / np.maximum(drawn, 1)).astype(np.float64) for sums in per_image]
        values = [float(s[chosen].mean()) for s in scores]
        figures.append(_figure(name, values, resampled, drawn > 0, higher_is_better=higher))
    return tuple(figures), ""


def _on_controls(pair: _Pair, cells: _Verified, n_resamples: int, rng: np.random.Generator) -> Target | None:
    """The random sample among unsuspected cells; each share with Wilson's interval."""
    if not len(cells.image):
        return None
    (share, *_), _ = _on_cells(pair.groups, cells, pair.folds, n_resamples, rng, "")
    n = len(cells.image)
    old, new = (Estimate(e.value, *wilson_interval(round(e.value * n), n)) for e in (share.old, share.new))
    figure = Figure(share.name, True, old, new, share.difference)
    return Target(
        "The controls", f"{cells.words}, by models that never saw the picture (out of fold)", (figure,), "", *_OF_CONTROLS
    )


def _label_scores(pair: _Pair, test: npt.NDArray[np.int64]) -> Iterable[LabelScore]:
    for k, label in enumerate(pair.labels):
        y = pair.corrected[test, k]
        old, new = (metrics.average_precision(y, p[test, k]) for p in pair.models)
        yield LabelScore(label, int(y.sum()), int((pair.given[:, k] != pair.corrected[:, k]).sum()), old, new)

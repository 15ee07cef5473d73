"""A multi-label CSV: what it says, what is wrong with it, and the same bytes with only the decided cells changed.

table = parse_csv(data, "train_label.csv")       # where every cell lies (csvscan.py)
layout = guess_layout(table, is_file)            # which column names the pictures, which are labels
sheet = read_labels(table, layout)               # images, labels, targets, problems
data = corrected(sheet, {("1.jpg", "sea"): 1})   # the bytes to take home
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from panorama.csvscan import (
    CsvError,
    CsvTable,
    Problem,
    Severity,
    counted,
    csv_error,
    parse_csv,
    replace_cells,
    rewritten,
    shown,
)
from panorama.errors import PanoramaError

__all__ = [
    "CsvError",
    "CsvTable",
    "LabelSheet",
    "Layout",
    "Problem",
    "Severity",
    "changed_lines",
    "corrected",
    "file_columns",
    "guess_layout",
    "parse_csv",
    "read_decisions",
    "read_labels",
    "replace_cells",
]

LISTED_PROBLEMS = 20  # of one kind; the rest is one sentence
FEW_POSITIVES = 5
TAG_SEPARATORS = ("|", ";", ",", " ")  # the surest first
MOST_TAGS = 1000  # more different ones is prose, not tags
_TAG_ROWS = 20_000  # looked at to guess
_PICTURE = re.compile(r"\.(?:jpe?g|png|bmp|gif|webp|tiff?|avif)$", re.IGNORECASE)
_TAG_NAME = re.compile(r"tag|label|class|categor|keyword|attribute", re.IGNORECASE)
_NUMBER = re.compile(r"[\d.,:/+%-]+")

MARKS = "x or nothing"
_VOCABULARIES: Mapping[str, Mapping[str, int]] = {
    "0 or 1": {"0": 0, "1": 1},
    "0.0 or 1.0": {"0.0": 0, "1.0": 1},
    "true or false": {"false": 0, "true": 1},
    "yes or no": {"no": 0, "yes": 1},
    "y or n": {"n": 0, "y": 1},
    "t or f": {"f": 0, "t": 1},
    MARKS: {"x": 1, "✓": 1},
}
_MEANING = {word: (value, name) for name, words in _VOCABULARIES.items() for word, value in words.items()}
_COUNTERPART = {"0": "1", "0.0": "1.0", "false": "true", "no": "yes", "n": "y", "f": "t"}
_COUNTERPART |= {one: zero for zero, one in _COUNTERPART.items()} | {"": "x", "x": "", "✓": ""}


@dataclass(frozen=True)
class Layout:
    """Which columns are what, counted from 0. Either label columns or one column of tags."""

    file_column: int
    label_columns: tuple[int, ...] = ()
    tag_column: int | None = None
    tag_separator: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Layout":
        try:
            tag_column, tag_separator = values.get("tag_column"), values.get("tag_separator")
            return cls(
                int(values["file_column"]),
                tuple(int(column) for column in values["label_columns"]),
                None if tag_column is None else int(tag_column),
                None if tag_separator is None else str(tag_separator),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = f"the layout {shown(str(values))} cannot be read ({type(error).__name__}: {error})"
            raise PanoramaError(f"{message}; expected file_column and label_columns or tag_column.") from None


@dataclass(frozen=True, eq=False)
class LabelSheet:
    """What a CSV says about its images, and what is wrong with it. Names and labels are without surrounding spaces."""

    table: CsvTable
    layout: Layout
    labels: tuple[str, ...]  # columns from left to right, or tags in alphabetical order
    images: tuple[str, ...]  # in order of first appearance, only those with usable rows
    targets: npt.NDArray[np.int8]  # (n_images, n_labels), 0 or 1
    lines: npt.NDArray[np.int32]  # (n_images,) physical line of each image's first row, from 1
    problems: tuple[Problem, ...]
    left_out: tuple[str, ...]  # images with a row that cannot be used


# -- what a column holds


@dataclass
class _Column:
    """A column in numbers. `words` counts its binary spellings, as written but for surrounding spaces."""

    name: str
    filled: int = 0
    blank: int = 0
    words: Counter[str] = field(default_factory=Counter)
    sample: str = ""

    def vocabulary(self) -> str:
        """The vocabulary of most of the words."""
        counts: Counter[str] = Counter()
        for word, count in self.words.items():
            counts[_MEANING[word.lower()][1]] += count
        return counts.most_common(1)[0][0] if counts else "0 or 1"

    def is_binary(self) -> bool:
        """Whether at least half of what is written there is in one vocabulary; 0 and 0.0 count as the same."""
        counts: Counter[str] = Counter()
        for word, count in self.words.items():
            counts[_MEANING[word.lower()][1].replace(".0", "")] += count
        return bool(counts) and 2 * max(counts.values()) >= self.filled

    def has_marks(self) -> bool:
        return bool(self.words) and self.vocabulary() == MARKS

    def has_only_ones(self) -> bool:
        return bool(self.words) and {word.lower() for word in self.words} <= {"1", "1.0"}

    def blank_is_zero(self) -> bool:
        """Where a cross or a lone 1 is set for yes, nothing is set for no; a label that is set nowhere is blank throughout."""
        return self.has_marks() or self.has_only_ones() or not self.filled


def _survey(table: CsvTable) -> list[_Column]:
    columns = [_Column(name.strip()) for name in table.header]
    for chunk in table.chunks(range(len(columns))):
        for column, values in zip(columns, chunk, strict=True):
            for value, count in Counter(values).items():
                word = value.strip()
                if not word:
                    column.blank += count
                    continue
                column.filled += count
                column.sample = column.sample or word
                if word.lower() in _MEANING:
                    column.words[word] += count
    n_blank_rows = sum(1 for record in range(table.n_records) if _is_blank(table, record))
    for column in columns:
        column.blank -= n_blank_rows  # spreadsheets leave rows of separators behind: they say nothing about a label
    return columns


def _is_blank(table: CsvTable, record: int) -> bool:
    return not table.record_text(record).strip(f'{table.separator}" \t')


def _expected(column: _Column) -> str:
    return "1 or nothing" if column.has_only_ones() else column.vocabulary()


# -- the layout


def file_columns(table: CsvTable, is_file: Callable[[str], bool]) -> list[tuple[int, float]]:
    """(column, share of its filled cells that name a picture), best first; columns that name none are left away.

    is_file is asked with the name as written but for surrounding spaces.
    """
    hits, filled = Counter[int](), Counter[int]()
    for chunk in table.chunks(range(len(table.header))):
        for column, values in enumerate(chunk):
            for name, count in Counter(map(str.strip, values)).items():
                if name:
                    filled[column] += count
                    hits[column] += count if is_file(name) else 0
    shares = [(column, hits[column] / filled[column]) for column in filled if hits[column]]
    return sorted(shares, key=lambda share: (-share[1], share[0]))


def guess_layout(table: CsvTable, is_file: Callable[[str], bool] | None = None, *, file_column: int | None = None) -> Layout:
    """Which column names the pictures (`file_column` if given, else the best for is_file), which are labels.

    Without either, names are told by their ending (.jpg, .png, ...). With no row, every other column is taken for a label.
    CsvError where no column names a picture or none is a label.
    """
    names = [name.strip() for name in table.header]
    if file_column is None:
        file_column = _guess_file_column(table, is_file)
    elif not 0 <= file_column < len(names):
        raise PanoramaError(f"{table.name} has no column {file_column + 1}; expected 1 to {len(names)}. Choose another.")
    others = [column for column in range(len(names)) if column != file_column and names[column]]
    if not table.n_records:
        return Layout(file_column, tuple(others))
    columns = _survey(table)
    marks = any(columns[column].has_marks() and columns[column].is_binary() for column in others)
    labels = [c for c in others if columns[c].is_binary() or (marks and not columns[c].filled)]
    if labels:
        return Layout(file_column, tuple(labels))
    if tags := _guess_tags(table, [column for column in others if columns[column].filled]):
        return Layout(file_column, (), *tags)
    seen = ", ".join(f"{shown(columns[c].name)} has {shown(columns[c].sample)}" for c in others[:3]) or "no other column"
    message = f"no column is a label: {seen}. Expected a column of 0 and 1 for each label, or one column of tags. Add them."
    raise csv_error(table.name, table.header_line, message)


def _guess_file_column(table: CsvTable, is_file: Callable[[str], bool] | None) -> int:
    if not table.n_records:
        return next((column for column, name in enumerate(table.header) if name.strip()), 0)
    if found := file_columns(table, is_file or (lambda name: bool(_PICTURE.search(name)))):
        return found[0][0]
    first = ", ".join(f"{shown(name)} has {shown(value)}" for name, value in zip(table.header[:3], table.values(0), strict=False))
    missing = "no such picture is there" if is_file else "these do not look like names of pictures"
    message = f"no column names a picture: {first}, but {missing}. Put the pictures beside the CSV, or choose the column."
    raise csv_error(table.name, table.header_line, message)


# -- one column of tags


def split_tags(value: str, separator: str) -> list[str]:
    """The tags of one cell, without surrounding spaces and empty ones."""
    return [tag for piece in value.split(separator) if (tag := piece.strip())]


@dataclass(frozen=True, order=True)
class _TagFit:
    """How well a column and a separator read as tags; the greatest is the best."""

    named: bool
    several: bool  # some cell has more than one
    repeated: float  # share of the tags that occur more than once
    preference: int
    column: int
    separator: str
    n_different: int


def _guess_tags(table: CsvTable, columns: Sequence[int]) -> tuple[int, str] | None:
    """(column, separator) of the tags: their vocabulary must repeat over the rows."""
    best: list[_TagFit] = []
    for column in columns:
        values = [value for (chunk,) in islice(table.chunks([column]), 3) for value in chunk if value.strip()][:_TAG_ROWS]
        named = bool(_TAG_NAME.search(table.header[column]))
        whole = _fit_tags(values, None, column, named)
        fits = [
            fit
            for s in TAG_SEPARATORS
            if any(s in value.strip() for value in values) and (fit := _fit_tags(values, s, column, named))
        ]
        fits = [fit for fit in fits if not (whole and whole.n_different <= fit.n_different)]
        if whole and (named or len(columns) == 1):
            fits.append(whole)
        best += fits
    return (max(best).column, max(best).separator) if best else None


def _fit_tags(values: Sequence[str], separator: str | None, column: int, named: bool) -> _TagFit | None:
    """None where this reads as prose, numbers, dates or names rather than tags. Without separator: one tag a cell."""
    rows = [[value.strip()] if separator is None else split_tags(value, separator) for value in values]
    counts = Counter(tag for row in rows for tag in row)
    n_tags, n_different = counts.total(), len(counts)
    repeated = sum(count for count in counts.values() if count > 1) / max(n_tags, 1)
    twice = sum(len(row) - len(set(row)) for row in rows)
    numbers = sum(count for tag, count in counts.items() if _NUMBER.fullmatch(tag))
    if repeated < 0.5 or n_different > MOST_TAGS or 50 * twice > n_tags or (2 * numbers >= n_tags and not named):
        return None
    several = any(len(row) > 1 for row in rows)
    if separator is not None:
        return _TagFit(named, several, repeated, -TAG_SEPARATORS.index(separator), column, separator, n_different)
    unused = [s for s in TAG_SEPARATORS if not any(s in value for value in values)]
    return _TagFit(named, False, repeated, -len(TAG_SEPARATORS), column, unused[0], n_different) if unused else None


def _tag_spans(value: str, separator: str) -> list[tuple[str, int, int]]:
    """(tag, start, end) of each tag in a cell."""
    spans, position = [], 0
    for piece in value.split(separator):
        if tag := piece.strip():
            start = position + piece.index(tag)
            spans.append((tag, start, start + len(tag)))
        position += len(piece) + len(separator)
    return spans


def _glue(value: str, separator: str) -> str | None:
    """What stands between the first two tags of a cell, like `, `; None where there is no second."""
    spans = _tag_spans(value, separator)
    return value[spans[0][2] : spans[1][1]] if len(spans) > 1 else None


def _with_tag(value: str, tag: str, separator: str, usual_glue: str) -> str:
    """The cell with a tag behind its last one, glued as this cell does it, else as the column mostly does."""
    if not (spans := _tag_spans(value, separator)):
        return value.rstrip() + tag
    end = spans[-1][2]
    return value[:end] + (_glue(value, separator) or usual_glue) + tag + value[end:]


def _without_tag(value: str, tag: str, separator: str) -> str:
    """The cell without a tag and what glued it to its neighbour; the other tags stay as they are written."""
    while len(spans := _tag_spans(value, separator)) and tag in (tags := [name for name, _, _ in spans]):
        place = tags.index(tag)
        if len(spans) == 1:
            return ""
        start = spans[place - 1][2] if place else spans[0][1]
        end = spans[place][2] if place else spans[1][1]
        value = value[:start] + value[end:]
    return value


# -- reading


class _Meanings(dict[str, int]):
    """Raw value -> 0, 1 or -1 (neither), worked out once for each spelling."""

    def __init__(self, column: _Column) -> None:
        super().__init__()
        self.blank = 0 if column.blank_is_zero() else -1
        self.marks = column.has_marks()

    def __missing__(self, raw: str) -> int:
        word = raw.strip().lower()
        value, vocabulary = _MEANING.get(word, (-1, "")) if word else (self.blank, "")
        meaning = -1 if vocabulary == MARKS and not self.marks else value
        self[raw] = meaning
        return meaning


def read_labels(table: CsvTable, layout: Layout) -> LabelSheet:
    """What the CSV says, and every problem of it: a row that cannot be used is left out and named, never an exception.

    PanoramaError where the layout does not fit the table.
    """
    _check_layout(table, layout)
    columns = _survey(table)
    names = [value.strip() for (chunk,) in table.chunks([layout.file_column]) for value in chunk]
    if layout.tag_column is None:
        labels, targets, problems = _read_columns(table, layout, columns, names)
    else:
        labels, targets, problems = _read_tags(table, layout)
    first, bad, row_problems = _one_row_an_image(table, names, labels, targets)
    problems = sorted([*problems, *row_problems], key=lambda problem: problem.line or table.lines[-1] + 1)
    kept = np.array([row for name, row in first.items() if name not in bad], dtype=np.int64)
    if not table.n_records:
        message = "there is a header and no row below it; expected one row a picture. Add the rows."
        problems.append(Problem("error", "no-rows", message, table.name, table.header_line))
    problems = [*table.problems, *problems, *_column_notes(table, layout, columns, labels)]
    problems += _count_positives(table, labels, targets[kept])
    return LabelSheet(
        table,
        layout,
        labels,
        tuple(names[row] for row in kept.tolist()),
        targets[kept],
        table.lines[kept],
        tuple(problems),
        tuple(name for name in first if name in bad),
    )


def _check_layout(table: CsvTable, layout: Layout) -> None:
    used = [layout.file_column, *layout.label_columns]
    used += [] if layout.tag_column is None else [layout.tag_column]
    fits = len(set(used)) == len(used) and all(0 <= column < len(table.header) for column in used)
    if not fits or (layout.tag_column is not None and (layout.label_columns or not layout.tag_separator)):
        expected = (
            f"different columns from 0 to {len(table.header) - 1}, and either label columns or a tag column with a separator"
        )
        raise PanoramaError(f"{table.name}: {layout} does not fit this CSV; expected {expected}. Choose the columns again.")


def _read_columns(
    table: CsvTable, layout: Layout, columns: Sequence[_Column], names: Sequence[str]
) -> tuple[tuple[str, ...], npt.NDArray[np.int8], list[Problem]]:
    """(labels, targets (n_records, n_labels) with -1 for what is neither, a problem for each of those)."""
    chosen = [columns[column] for column in layout.label_columns]
    meanings = [_Meanings(column) for column in chosen]
    targets = np.zeros((table.n_records, len(chosen)), dtype=np.int8)
    done = 0
    for chunk in table.chunks(layout.label_columns) if chosen else ():
        for label, (values, meaning) in enumerate(zip(chunk, meanings, strict=True)):
            numbers = np.fromiter(map(meaning.__getitem__, values), np.int8, len(values))
            targets[done : done + len(values), label] = numbers
        done += len(chunk[0])

    def tell(place: npt.NDArray[np.int64]) -> Problem:
        row, label = place.tolist()
        column, value = chosen[label], table.values(row)[layout.label_columns[label]]
        found = f"is {shown(value)}" if value.strip() else "is empty"
        message = f"{column.name} {found}; expected {_expected(column)}."
        message += " Correct the cell; the image is left out until then."
        return Problem("error", "not-binary", message, table.name, int(table.lines[row]), names[row])

    named = np.array([bool(name) for name in names], dtype=bool)
    places = np.argwhere((targets < 0) & named[:, None])
    return tuple(column.name for column in chosen), targets, _listed(table, places, tell, "cells")


def _listed(table: CsvTable, places: Any, tell: Callable[[Any], Problem], noun: str) -> list[Problem]:
    """A problem for each of the first places, and one for all the others."""
    problems = [tell(place) for place in places[:LISTED_PROBLEMS]]
    if (rest := len(places) - LISTED_PROBLEMS) > 0:
        last = problems[-1]
        message = f"{rest} more {noun} like the {LISTED_PROBLEMS} before. If they mean something else, choose other columns."
        problems.append(Problem(last.severity, last.kind, message, table.name))
    return problems


def _read_tags(table: CsvTable, layout: Layout) -> tuple[tuple[str, ...], npt.NDArray[np.int8], list[Problem]]:
    column, separator = layout.tag_column or 0, layout.tag_separator or ""
    rows = [split_tags(value, separator) for (chunk,) in table.chunks([column]) for value in chunk]
    labels = tuple(sorted({tag for row in rows for tag in row}))
    if len(labels) > MOST_TAGS:
        message = f"column {shown(table.header[column])} has {len(labels)} different tags; expected at most {MOST_TAGS}."
        raise PanoramaError(f"{table.name}: {message} Choose another column or separator.")
    place = {label: number for number, label in enumerate(labels)}
    targets = np.zeros((table.n_records, len(labels)), dtype=np.int8)
    for row, tags in enumerate(rows):
        targets[row, [place[tag] for tag in tags]] = 1
    return labels, targets, []


def _one_row_an_image(
    table: CsvTable, names: Sequence[str], labels: Sequence[str], targets: npt.NDArray[np.int8]
) -> tuple[dict[str, int], set[str], list[Problem]]:
    """(first row of each image in order, images that cannot be used, problems with names and repeated rows)."""
    first: dict[str, int] = {}
    repeats = []
    for row, name in enumerate(names):
        if name and (before := first.setdefault(name, row)) != row:
            repeats.append((row, before))
    bad_rows: npt.NDArray[np.bool_] = np.any(targets < 0, axis=1)
    bad = {names[row] for row in np.flatnonzero(bad_rows).tolist() if names[row]}
    repeats = [(row, before) for row, before in repeats if not (bad_rows[row] or bad_rows[before])]
    conflicting = [(row, before) for row, before in repeats if (targets[row] != targets[before]).any()]
    bad |= {names[row] for row, _ in conflicting}
    same = [(row, before) for row, before in repeats if (targets[row] == targets[before]).all()]
    unnamed = [row for row, name in enumerate(names) if not name]
    blank = [row for row in unnamed if _is_blank(table, row)]

    def tell(severity: Severity, kind: str, row: int, message: str) -> Problem:
        return Problem(severity, kind, message, table.name, int(table.lines[row]), names[row] or None)

    def conflict(pair: tuple[int, int]) -> Problem:
        row, before = pair
        differ = [
            f"{label} is {targets[row, n]} here and {targets[before, n]} there"
            for n, label in enumerate(labels)
            if targets[row, n] != targets[before, n]
        ]
        message = f"{names[row]} is also on line {table.lines[before]}, with other labels: {', '.join(differ[:3])}"
        message += f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        message += "; expected one row an image. Remove the wrong row; the image is left out until then."
        return tell("error", "conflicting-rows", row, message)

    def duplicate(pair: tuple[int, int]) -> Problem:
        message = f"{names[pair[0]]} is also on line {table.lines[pair[1]]}, with the same labels; expected one row an image."
        message += " It is read once, and a correction changes all its rows. Remove one."
        return tell("warning", "duplicate-row", pair[0], message)

    def no_name(row: int) -> Problem:
        message = "there is no picture name; expected one in every row. Write it; the row is left out until then."
        return tell("error", "no-name", row, message)

    def blank_row(row: int) -> Problem:
        return tell("warning", "blank-row", row, "nothing is written in this row; it is left out. Remove it, or fill it in.")

    without_name = [row for row in unnamed if not _is_blank(table, row)]
    problems = _listed(table, conflicting, conflict, "rows") + _listed(table, same, duplicate, "rows")
    problems += _listed(table, without_name, no_name, "rows") + _listed(table, blank, blank_row, "rows")
    return first, bad, problems


def _column_notes(table: CsvTable, layout: Layout, columns: Sequence[_Column], labels: Sequence[str]) -> Iterator[Problem]:
    """What was guessed about the columns."""
    for number, column in enumerate(columns):
        name = shown(column.name)
        if number in (layout.file_column, layout.tag_column) or not column.name:
            continue
        if number in layout.label_columns:
            if column.blank and not column.has_marks() and column.blank_is_zero():
                only = "1 and empty cells" if column.filled else "empty cells"
                message = f"{column.name} has only {only}; an empty cell is read as 0 ({counted(column.blank, 'cell')})."
                yield Problem("note", "blank-as-zero", message, table.name)
        elif column.filled:
            message = f"column {name} is not read as a label, for it has values like {shown(column.sample)}; it stays as it is."
            yield Problem("note", "not-a-label", message, table.name)
        elif table.n_records:
            message = f"column {name} is empty; expected 0 or 1. It is not read as a label. Fill it in, or remove it."
            yield Problem("warning", "empty-column", message, table.name)
    if layout.tag_column is not None:
        between = {" ": "spaces", ",": "commas", ";": "semicolons"}.get(
            layout.tag_separator or "", shown(layout.tag_separator or "")
        )
        some = ", ".join(labels[:5]) + (", …" if len(labels) > 5 else "")
        message = f"column {shown(columns[layout.tag_column].name)} is read as tags with {between} between them:"
        yield Problem("note", "tags", f"{message} {counted(len(labels), 'label')} ({some}).", table.name)


def _count_positives(table: CsvTable, labels: Sequence[str], targets: npt.NDArray[np.int8]) -> Iterator[Problem]:
    n_images = len(targets)
    for label, n_positives in zip(labels, targets.sum(axis=0, dtype=np.int64).tolist() if n_images else (), strict=False):
        if n_positives == 0:
            kind, found = (
                "no-positives",
                f"0 in every row ({n_images}); it cannot be learned. Add images that have it.",
            )
        elif n_positives == n_images:
            kind, found = "all-positive", f"1 in every row ({n_images}); it cannot be learned. Add images without it."
        elif n_positives < FEW_POSITIVES:
            few = f"1 in only {n_positives} of {n_images} rows; expected at least {FEW_POSITIVES}"
            kind, found = (
                "few-positives",
                f"{few}. Little is learned from so few and its scores are unsure. Add images that have it.",
            )
        else:
            continue
        yield Problem("warning", kind, f"{label} is {found}", table.name)


# -- correcting


def corrected(sheet: LabelSheet, corrections: Mapping[tuple[str, str], int]) -> bytes:
    """The CSV's bytes with the cells of (image, label) -> 0 or 1 changed and no other byte; the very bytes if none changes.

    PanoramaError for an image or label that the sheet does not have.
    """
    return replace_cells(sheet.table, _edits(sheet, corrections))


def changed_lines(sheet: LabelSheet, corrections: Mapping[tuple[str, str], int]) -> list[tuple[int, str, str]]:
    """(physical line, record before, record after) of every record that `corrected` changes, in the order of the file."""
    by_record: dict[int, dict[int, str]] = defaultdict(dict)
    for (record, column), value in _edits(sheet, corrections).items():
        by_record[record][column] = value
    table = sheet.table
    return [
        (int(table.lines[record]), table.record_text(record), rewritten(table, record, values))
        for record, values in sorted(by_record.items())
    ]


def _edits(sheet: LabelSheet, corrections: Mapping[tuple[str, str], int]) -> dict[tuple[int, int], str]:
    """(record, column) -> its new value, for the corrections that change something."""
    changes = _changes(sheet, corrections)
    if not changes:
        return {}
    table, layout = sheet.table, sheet.layout
    names = [value.strip() for (chunk,) in table.chunks([layout.file_column]) for value in chunk]
    records = [(record, changes[name]) for record, name in enumerate(names) if name in changes]
    if layout.tag_column is not None:
        return _tag_edits(sheet, layout.tag_column, layout.tag_separator or "", records)
    columns = _survey(table)
    spellings = _Spellings([columns[c] for c in layout.label_columns])
    edits = {}
    for record, wanted in records:
        values = table.values(record)
        for label, target in wanted.items():
            column = layout.label_columns[label]
            word = values[column].strip()
            spelling = spellings.of(label, target, word)
            edits[record, column] = values[column].replace(word, spelling, 1) if word else spelling + values[column]
    return edits


def _changes(sheet: LabelSheet, corrections: Mapping[tuple[str, str], int]) -> dict[str, dict[int, int]]:
    """image -> label number -> target, without those that agree with what is given."""
    image_number = {image: number for number, image in enumerate(sheet.images)} if corrections else {}
    label_number = {label: number for number, label in enumerate(sheet.labels)}
    changes: dict[str, dict[int, int]] = defaultdict(dict)
    for (image, label), target in corrections.items():
        if target not in (0, 1):
            raise PanoramaError(f"the correction of {label} for {image} is {target!r}; expected 0 or 1. Nothing was written.")
        if label not in label_number:
            message = f"{sheet.table.name} has no label {shown(label)}; expected one of {', '.join(sheet.labels)}."
            raise PanoramaError(f"{message} Nothing was written; decide on the labels of this CSV.")
        if image not in image_number:
            why = "is left out because of its row" if image in sheet.left_out else "is not there"
            message = f"{sheet.table.name}: the image {shown(image)} {why}, but there is a correction of {label} for it."
            raise PanoramaError(f"{message} Nothing was written; correct the CSV, or remove the correction.")
        if sheet.targets[image_number[image], label_number[label]] != target:
            changes[image][label_number[label]] = int(target)
    return changes


class _Spellings:
    """How each label column writes 0 and 1: as it mostly does, else as its like mostly do, else like the word that stands there.

    Counted once for all cells: with hundreds of labels, counting for each cell took seconds an export.
    """

    def __init__(self, columns: Sequence[_Column]) -> None:
        marks = any(column.has_marks() for column in columns)
        self._vocabularies = [MARKS if marks and not column.filled else column.vocabulary() for column in columns]
        self._own = {target: [_spellings(column, target) for column in columns] for target in (0, 1)}
        self._alike: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
        for target, written in self._own.items():
            for vocabulary, spellings in zip(self._vocabularies, written, strict=True):
                self._alike[target, vocabulary].update(spellings)

    def of(self, label: int, target: int, word: str) -> str:
        """The word for a target in the column of a label, where `word` stands now."""
        for spellings in (self._own[target][label], self._alike[target, self._vocabularies[label]]):
            if spellings:
                return spellings.most_common(1)[0][0]
        counterpart = _COUNTERPART[word.lower()]
        if word.isupper():
            return counterpart.upper()
        return counterpart.capitalize() if word[:1].isupper() else counterpart


def _spellings(column: _Column, target: int) -> Counter[str]:
    meaning = _Meanings(column)
    spellings = Counter({word: count for word, count in column.words.items() if meaning[word] == target})
    if target == 0 and column.blank_is_zero() and column.blank:
        spellings[""] = column.blank
    return spellings


def _tag_edits(
    sheet: LabelSheet, column: int, separator: str, records: Iterable[tuple[int, Mapping[int, int]]]
) -> dict[tuple[int, int], str]:
    values = (value for (chunk,) in sheet.table.chunks([column]) for value in chunk)
    glues = Counter(glue for value in values if (glue := _glue(value, separator)))
    usual_glue = glues.most_common(1)[0][0] if glues else separator
    edits = {}
    for record, wanted in records:
        value = sheet.table.values(record)[column]
        for label, target in sorted(wanted.items()):
            tag = sheet.labels[label]
            value = _with_tag(value, tag, separator, usual_glue) if target else _without_tag(value, tag, separator)
        edits[record, column] = value
    return edits


# -- decisions from elsewhere


def read_decisions(data: bytes, name: str) -> dict[tuple[str, str], int]:
    """(image, label) -> 0 or 1 from a CSV with the columns image, label and value, such as the app's own decisions.csv.

    Of other columns two are known: rows whose `verdict` is skip decide nothing, and one whose `way` is settled counts instead of those before it.
    CsvError, with the line, for a missing column, an empty name, a value that is neither, or two rows that disagree.
    """
    table = parse_csv(data, name)
    header = [column.strip().lower() for column in table.header]
    if missing := [column for column in ("image", "label", "value") if column not in header]:
        found = ", ".join(column.strip() for column in table.header)
        message = f"there is no column {' and no column '.join(missing)}; expected image, label and value, found {found}."
        raise csv_error(name, table.header_line, f"{message} Rename or add the columns.")
    columns = [header.index(column) for column in ("image", "label", "value")]
    verdict, way = (header.index(column) if column in header else None for column in ("verdict", "way"))
    decisions: dict[tuple[str, str], int] = {}
    decided_on: dict[tuple[str, str], int] = {}
    settled_at: dict[tuple[str, str], int] = {}
    if way is not None:
        for record in range(table.n_records):
            values = table.values(record)
            if values[way].strip() == "settled":
                settled_at[values[columns[0]].strip(), values[columns[1]].strip()] = record
    for record, line in enumerate(table.lines.tolist()):
        values = table.values(record)
        image, label, word = (values[column].strip() for column in columns)
        if verdict is not None and values[verdict].strip() == "skip":
            continue
        value = _MEANING.get(word.lower(), (-1, ""))[0]
        if not any(value.strip() for value in values):
            continue
        if not image or not label:
            raise csv_error(name, line, f"there is no {'label' if image else 'image'}; expected one in every row. Write it.")
        if value < 0:
            raise csv_error(name, line, f"the value of {label} for {image} is {shown(word)}; expected 0 or 1. Correct it.")
        if record < settled_at.get((image, label), 0):
            continue  # a later row settles it
        if decisions.setdefault((image, label), value) != value:
            message = f"{label} for {image} is {value} here and {1 - value} on line {decided_on[image, label]}"
            raise csv_error(name, line, f"{message}; expected one decision. Remove the wrong row.")
        decided_on.setdefault((image, label), line)
    return decisions

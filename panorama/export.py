"""What reviewers take home: corrected CSVs, exactly which lines change, what cannot be placed any more, the change log, all as one zip."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from panorama.datasets import SheetPart, image_names
from panorama.decisions import Cell, Decision
from panorama.errors import PanoramaError
from panorama.finding import Source, read_table
from panorama.labels import changed_lines, read_labels


@dataclass(frozen=True)
class ChangedLine:
    """One line of a CSV that the export changes. line: from 1, where the record starts. before, after: the record's text, without its end."""

    file: str
    line: int
    before: str
    after: str


def preview(parts: Sequence[SheetPart], corrections: Mapping[Cell, int]) -> list[ChangedLine]:
    """Every line that the corrected CSVs change, in the order of the files. Raises PanoramaError like `corrected_csvs`."""
    found = []
    for part in parts:
        mine = _of_part(part, corrections)
        found += [ChangedLine(part.source.file, *line) for line in changed_lines(part.sheet, mine)]
    return found


Pieces = list[tuple[str, bool]]


def pieces(before: str, after: str) -> tuple[Pieces, Pieces]:
    """The two texts in pieces, each with whether it differs: character by character where they are equally long, else what lies between their
    common beginning and end."""
    if len(before) == len(after):
        runs = [(key, list(run)) for key, run in groupby(zip(before, after, strict=True), lambda two: two[0] != two[1])]
        return tuple([("".join(two[side] for two in run), differs) for differs, run in runs] for side in (0, 1))  # type: ignore[return-value]
    start = _n_shared(before, after)
    end = _n_shared(before[start:][::-1], after[start:][::-1])
    return tuple(  # type: ignore[return-value]
        [
            piece
            for piece in ((text[:start], False), (text[start : len(text) - end], True), (text[len(text) - end :], False))
            if piece[0]
        ]
        for text in (before, after)
    )


def _n_shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _of_part(part: SheetPart, corrections: Mapping[Cell, int]) -> dict[Cell, int]:
    name_of = {image: name for name, image in part.image_of_name.items()}
    return {
        (name_of[image], label): value
        for (image, label), value in corrections.items()
        if image in name_of and label in part.sheet.labels
    }


@dataclass(frozen=True)
class Drift:
    """The CSVs beside the pictures are no longer those that were reviewed.

    files: which of them differ. conflicts: for each decided change that the new content gainsays, in words. same: how many changes still fit.
    """

    files: tuple[str, ...]
    conflicts: tuple[str, ...]
    same: int


def drift(source: Source, parts: Sequence[SheetPart], changes: Sequence[Decision]) -> Drift | None:
    """What has changed in the data set's CSVs since they were reviewed; None when they are the same bytes.

    parts: as reviewed. changes: the decided changes. Nothing is merged: the export stays that of the reviewed content.
    """
    now: list[bytes | None] = []
    for part in parts:
        try:
            now.append((source.root / part.source.file).read_bytes())
        except OSError:
            now.append(None)
    differ = [part.source.file for part, data in zip(parts, now, strict=True) if data != part.sheet.table.data]
    if not differ:
        return None
    values = _values_now(source, {(decision.image, decision.label) for decision in changes})
    conflicts = []
    for decision in changes:
        value = values.get((decision.image, decision.label))
        if value is None:
            conflicts.append(f"{decision.image}, {decision.label}: no longer in the CSV; decided to be {1 - decision.given}.")
        elif value != decision.given:
            conflicts.append(f"{decision.image}, {decision.label}: was {decision.given} when reviewed and is {value} now.")
    return Drift(tuple(differ), tuple(conflicts), len(changes) - len(conflicts))


def _values_now(source: Source, cells: set[Cell]) -> dict[Cell, int]:
    """What the CSVs beside the pictures say of these cells; nothing of those they no longer have, or when they cannot be read as they were."""
    sheets = []
    try:
        for csv_source in source.csvs:
            if csv_source.layout is None:
                return {}
            sheets.append(read_labels(read_table(source, csv_source), csv_source.layout))
    except PanoramaError:
        return {}
    wanted = {image for image, _ in cells}
    values: dict[Cell, int] = {}
    for sheet, names in zip(sheets, image_names(source.csvs, sheets), strict=True):
        for row, name in enumerate(sheet.images):
            if (image := names[name]) in wanted:
                values |= {(image, label): int(value) for label, value in zip(sheet.labels, sheet.targets[row], strict=True)}
    return values


def bundle(contents: Mapping[str, bytes], log: bytes, decisions: bytes) -> bytes:
    """A zip of the corrected CSVs, the change log and all decisions (`decisions.change_log`, `decisions_csv`); the same input gives the same bytes."""
    buffer = io.BytesIO()
    taken = {name.casefold() for name in contents}
    extra = {}
    for name, data in (("changes.csv", log), ("decisions.csv", decisions)):
        while name.casefold() in taken:  # two files of one name: only one would be unpacked
            name = f"panorama_{name}"
        taken.add(name.casefold())
        extra[name] = data
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*contents.items(), *extra.items()]:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()

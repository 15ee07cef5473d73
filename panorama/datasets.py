"""A data set as read: match CSV rows with pictures, split, say what is wrong, and write corrected CSVs.

A `DataSet` holds the usable images with paths, splits and targets, and every problem in words.
"""

import csv
import hashlib
import os
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panorama.csvscan import counted, csv_text
from panorama.errors import PanoramaError
from panorama.finding import CsvSource, PictureIndex, Source, Split, read_table, with_layouts
from panorama.labels import LabelSheet, Problem, corrected, guess_layout, parse_csv, read_labels
from panorama.pictures import Picture, duplicate_groups, scan
from panorama.split import stratify

OnProgress = Callable[[int, int], None]
_MAX_LISTED = 20


@dataclass(frozen=True)
class SheetPart:
    """One CSV as read, and what the images of its rows are called, those without a picture too."""

    source: CsvSource
    sheet: LabelSheet
    image_of_name: Mapping[str, str]  # name in the CSV -> image


@dataclass(frozen=True)
class DataSet:
    """The usable images. images: as named in the CSV, with "train/" or "test/" before it only where both splits have the name.

    paths, splits, pictures: one each image; targets: (n_images, n_labels) int8 of 0/1.
    """

    source: Source
    labels: tuple[str, ...]
    images: tuple[str, ...]
    paths: tuple[Path, ...]
    splits: tuple[Split, ...]
    targets: npt.NDArray[np.int8]
    pictures: tuple[Picture, ...]
    parts: tuple[SheetPart, ...]
    problems: tuple[Problem, ...]
    n_left_out: int

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """(n_images,) ids; near-duplicates share one."""
        return duplicate_groups(self.pictures)

    @property
    def fingerprint(self) -> str:
        """Identifies the content of the CSVs, wherever they lie; decisions belong to it."""
        return csv_fingerprint([part.sheet.table.data for part in self.parts])

    def indices(self, split: Split) -> npt.NDArray[np.int64]:
        """Positions of the images of one split."""
        return np.flatnonzero(np.array(self.splits) == split)


def csv_fingerprint(contents: Sequence[bytes]) -> str:
    """sha256 over the sha256 of each CSV's bytes, in the order of the data set's CSVs."""
    digests = [hashlib.sha256(data).hexdigest() for data in contents]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


# --- reading -----------------------------------------------------------------------------------------------------------


def load(
    source: Source,
    workspace: Path,
    *,
    seed: int = 0,
    test_share: float = 0.2,
    csv_folder: Path | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> DataSet:
    """Reads CSVs and pictures, matches them, and splits where the data brings no split. Raises PanoramaError when nothing can go on.

    csv_folder: read the CSVs from this folder (a run's exact copies) instead of from beside the pictures.
    """
    source = with_layouts(source)
    problems: list[Problem] = []
    rows: list[tuple[int, str, Path]] = []  # (part, name in the CSV, file)
    sheets: list[LabelSheet] = []
    n_left_out = 0
    for position, csv_source in enumerate(source.csvs):
        assert csv_source.layout is not None
        sheet = read_labels(read_table(source, csv_source, csv_folder), csv_source.layout)
        found, trouble = _match(sheet, PictureIndex(source.root / csv_source.folder))
        rows += [(position, name, path) for name, path in found]
        problems += [*sheet.problems, *trouble]
        n_left_out += len(set(sheet.left_out)) + len(sheet.images) - len(found)
        sheets.append(sheet)
    labels = _common_labels(source, sheets)
    shown = [f"{source.csvs[part].folder}/{name}" if source.csvs[part].folder != "." else name for part, name, _ in rows]
    pictures = scan([path for _, _, path in rows], shown, workspace / "cache", on_progress)
    sound = [index for index, picture in enumerate(pictures) if picture.problem is None]
    problems += _limited(
        [
            Problem("error", "unreadable", f"{pictures[i].problem} It is left out.", file=shown[i], image=rows[i][1])
            for i in range(len(rows)) if pictures[i].problem is not None
        ],
        "more pictures cannot be read and are left out.",
    )  # fmt: skip
    n_left_out += len(rows) - len(sound)
    if not sound:
        reasons = " ".join([str(problem) for problem in problems if problem.severity == "error"][:3])
        raise PanoramaError(f"{source.root}: no image is left to work with. {reasons}")
    rows, pictures = [rows[i] for i in sound], [pictures[i] for i in sound]
    image_of = image_names(source.csvs, sheets)
    images = tuple(image_of[part][name] for part, name, _ in rows)
    row_of = [{name: row for row, name in enumerate(sheet.images)} for sheet in sheets]
    columns = [[sheet.labels.index(label) for label in labels] for sheet in sheets]
    targets = np.stack([sheets[part].targets[row_of[part][name]][columns[part]] for part, name, _ in rows]).astype(np.int8)
    data = DataSet(
        source, labels, images, tuple(path for _, _, path in rows), (), targets, tuple(pictures),
        tuple(
            SheetPart(csv_source, sheet, names)
            for csv_source, sheet, names in zip(source.csvs, sheets, image_of, strict=True)
        ),
        (), n_left_out,
    )  # fmt: skip
    splits = _splits(data, [part for part, _, _ in rows], workspace, seed, test_share)
    data = replace(data, splits=splits)
    return replace(data, problems=(*problems, *_duplicate_problems(data)))


def image_names(csvs: Sequence[CsvSource], sheets: Sequence[LabelSheet]) -> list[dict[str, str]]:
    """For each CSV, what an image is called by its name there: the same, with its split before it where several CSVs have it.

    Told from the CSVs alone, so that an image keeps its name when a picture is lost. Names stay different: one that reads
    like another with its split before it gets one too.
    """
    rows = [(csv_source.split, name) for csv_source, sheet in zip(csvs, sheets, strict=True) for name in sheet.images]
    prefixed = {name for name, count in Counter(name for _, name in rows).items() if count > 1}
    while clash := {f"{split}/{name}" for split, name in rows if name in prefixed} & {n for _, n in rows if n not in prefixed}:
        prefixed |= clash
    return [
        {name: f"{csv_source.split}/{name}" if name in prefixed else name for name in sheet.images}
        for csv_source, sheet in zip(csvs, sheets, strict=True)
    ]


def _match(sheet: LabelSheet, index: PictureIndex) -> tuple[list[tuple[str, Path]], list[Problem]]:
    """The images of a sheet with their files, and what is wrong: missing, ambiguous or shared files, and files without a row."""
    found: list[tuple[str, Path]] = []
    missing: list[Problem] = []
    # A name that is the very path of a picture comes before one that only ends like it, whichever row is first.
    files_of = {name: index.find(name) for name in sheet.images}
    exact = [name for name in reversed(sheet.images) if index.is_exact(name) and len(files_of[name]) == 1]
    used = {files_of[name][0]: name for name in sorted(exact, key=lambda name: files_of[name][0] == name)}
    name_of_csv = sheet.table.name
    for row, name in enumerate(sheet.images):
        files, line = files_of[name], int(sheet.lines[row])
        if not files:
            text = f"the picture {name!r} is not in the folder {index.folder.name!r} or below it. Add it or remove the row; it is left out."
            if index.is_link(name):
                text = f"{name!r} is a link, and links are not followed. Put the picture itself there; it is left out."
            missing.append(Problem("error", "missing-file", text, file=name_of_csv, line=line, image=name))
        elif len(files) > 1:
            text = f"{name!r} may mean {_readable(files[0])} or {_readable(files[1])}. Write the folder into the CSV; it is left out."
            missing.append(Problem("error", "ambiguous-file", text, file=name_of_csv, line=line, image=name))
        elif used.setdefault(files[0], name) != name:
            text = f"{name!r} means the same picture as {used[files[0]]!r} ({_readable(files[0])}). Keep one row; this one is left out."
            missing.append(Problem("error", "duplicate-file", text, file=name_of_csv, line=line, image=name))
        else:
            found.append((name, index.folder / files[0]))
    problems = _limited(missing, "more rows have no picture of their own and are left out.")
    named = {file for name in sheet.left_out for file in index.find(name)}
    orphans = [file for file in index.files if file not in used and file not in named]
    text = f"has no row in {name_of_csv}; it is not used. Add a row to use it."
    problems += _limited(
        [Problem("warning", "no-row", text, file=_readable(file)) for file in orphans],
        "more pictures have no row and are not used.",
    )
    return found, problems


def _readable(file: str) -> str:
    """A file's name for a message; bytes that are no UTF-8 would stop whoever prints or shows it."""
    return os.fsencode(file).decode("utf-8", "replace")


def _limited(problems: list[Problem], rest: str) -> list[Problem]:
    """The first problems, and one that counts the others."""
    if len(problems) <= _MAX_LISTED:
        return problems
    first = problems[0]
    more = f"{len(problems) - _MAX_LISTED:,} {rest}"
    csv_name = first.file if first.line is not None else None
    return [*problems[:_MAX_LISTED], Problem(first.severity, first.kind, more, file=csv_name)]


def _common_labels(source: Source, sheets: Sequence[LabelSheet]) -> tuple[str, ...]:
    first = sheets[0].labels
    for csv_source, sheet in zip(source.csvs[1:], sheets[1:], strict=True):
        if set(sheet.labels) != set(first):
            odd = sorted(set(sheet.labels) ^ set(first))
            raise PanoramaError(
                f"{source.csvs[0].file} and {csv_source.file} do not have the same labels: {', '.join(odd)} "
                "stands in one of them only. Give both the same label columns."
            )
    return first


# --- splitting ---------------------------------------------------------------------------------------------------------


def _splits(data: DataSet, part_of: Sequence[int], workspace: Path, seed: int, test_share: float) -> tuple[Split, ...]:
    given = [data.source.csvs[part].split for part in part_of]
    if all(split is not None for split in given):
        return tuple(split for split in given if split is not None)
    file = _split_file(data, workspace, seed, test_share)
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            written = {row["image"]: row["split"] for row in csv.DictReader(stream)}
        return tuple("test" if written[image] == "test" else "train" for image in data.images)
    except (OSError, KeyError, csv.Error, UnicodeDecodeError):
        pass
    part = stratify(data.targets, (1 - test_share, test_share), seed=seed, groups=data.groups)
    splits: tuple[Split, ...] = tuple("test" if p == 1 else "train" for p in part)
    text = csv_text([("image", "split"), *zip(data.images, splits, strict=True)])
    temporary = file.with_suffix(f".{secrets.token_hex(4)}.tmp")  # two tabs of one server may read the same new data set
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="")
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise PanoramaError(
            f"{file}: the split cannot be written down ({error.strerror}). Free some room, or set PANORAMA_HOME to another folder."
        ) from error
    return splits


def _split_file(data: DataSet, workspace: Path, seed: int, test_share: float) -> Path:
    """Named after the images, not their labels: a corrected CSV keeps its split."""
    names = "\0".join(sorted(data.images)) + f"\0{seed}\0{test_share}"
    return workspace / "splits" / f"{hashlib.sha256(names.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.csv"


def validation_part(data: DataSet, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """(n_images,) True for the training images held out for validation; stratified, near-duplicates on one side."""
    train = data.indices("train")
    if len(train) < 3:
        raise PanoramaError(
            f"Too few pictures for training: {len(train)}. Expected at least 3, and dozens for each label to learn it."
        )
    part = stratify(data.targets[train], (1 - share, share), seed=seed, groups=data.groups[train])
    if not (part == 1).any() or (part == 1).all():
        picked = int(np.random.default_rng(seed).integers(len(train)))
        alike = data.groups[train] == data.groups[train[picked]]
        part = np.where(alike if not alike.all() else np.arange(len(train)) == picked, 1, 0)
    chosen = np.zeros(len(data.images), bool)
    chosen[train[part == 1]] = True
    return chosen


def _duplicate_problems(data: DataSet) -> list[Problem]:
    members: dict[int, list[int]] = {}
    for index, group in enumerate(data.groups.tolist()):
        members.setdefault(group, []).append(index)
    groups = [group for group in members.values() if len(group) > 1]
    if not groups:
        return []
    across = [group for group in groups if len({data.splits[i] for i in group}) > 1]
    odd = [group for group in groups if (data.targets[group] != data.targets[group[0]]).any()]
    example = ", ".join(data.images[i] for i in (across or odd or groups)[0][:3])
    text = (
        f"{sum(len(group) for group in groups):,} images form {counted(len(groups), 'group')} of near-duplicates by their pixels (for example {example}); "
        f"{len(odd):,} of the groups disagree in their labels, {len(across):,} have images in both train and test."
    )
    advice = (
        " Figures on the test split flatter by what training has seen."
        if across
        else " They are kept on one side of every split."
    )
    return [Problem("warning" if across or odd else "note", "near-duplicates", text + advice)]


# --- writing -----------------------------------------------------------------------------------------------------------


def sheet_parts(source: Source, *, decided: Collection[str]) -> tuple[SheetPart, ...]:
    """The CSVs of a source as read, without looking at the pictures; for exporting decisions about images named `decided`.

    The column of file names is found by the pictures as usual, or, where they are gone, by the decided names.
    """
    sheets = []
    for csv_source in source.csvs:
        table = read_table(source, csv_source)
        try:
            layout = with_layouts(replace(source, csvs=(csv_source,))).csvs[0].layout
        except PanoramaError:
            layout = guess_layout(table, decided.__contains__)
        assert layout is not None
        sheets.append(read_labels(table, layout))
    return tuple(
        SheetPart(csv_source, sheet, names)
        for csv_source, sheet, names in zip(source.csvs, sheets, image_names(source.csvs, sheets), strict=True)
    )


def corrected_csvs(parts: Sequence[SheetPart], corrections: Mapping[tuple[str, str], int]) -> dict[str, bytes]:
    """Each CSV by its file name, with the corrections {(image, label): 0 or 1} in it and every other byte as it was.

    Raises PanoramaError for an image or label that none of the CSVs has.
    """
    left = dict(corrections)
    result = {}
    for part in parts:
        mine = {
            (name, label): left.pop((image, label))
            for name, image in part.image_of_name.items()
            for label in part.sheet.labels
            if (image, label) in left
        }
        result[part.source.file] = corrected(part.sheet, mine)
    if left:
        image, label = next(iter(left))
        known = any(image in part.image_of_name.values() for part in parts)
        what = f"has no label {label!r}" if known else "is not an image of this data set"
        raise PanoramaError(
            f"{image!r} {what}; {counted(len(left), 'decision')} cannot be placed. Export with the data set they were made on."
        )
    return result


def write_corrected(
    parts: Sequence[SheetPart], root: Path, corrections: Mapping[tuple[str, str], int], folder: Path
) -> list[Path]:
    """Writes the corrected CSVs into `folder` under their own names. The originals are never overwritten: raises PanoramaError."""
    return _write(corrected_csvs(parts, corrections), root, folder)


def write_unchanged(source: Source, folder: Path) -> list[Path]:
    """Writes each CSV byte for byte into `folder`, once it has been read without an error. Raises PanoramaError."""
    contents = {c.file: parse_csv((source.root / c.file).read_bytes(), c.file).data for c in source.csvs}
    return _write(contents, source.root, folder)


def _write(contents: Mapping[str, bytes], root: Path, folder: Path) -> list[Path]:
    originals = [(root / file).resolve() for file in contents]
    targets = [folder / file for file in contents]
    for target in targets:
        for original in originals:
            both_there = target.exists() and original.exists()
            if target.resolve() == original or (both_there and target.samefile(original)):
                raise PanoramaError(
                    f"{original}: the original is never overwritten. Choose another folder for the corrected CSV."
                )
    for target, data in zip(targets, contents.values(), strict=True):
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(target)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise PanoramaError(
                f"{target}: cannot be written ({error.strerror}). Choose another folder, or free some room."
            ) from error
    return targets

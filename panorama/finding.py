"""Where a data set is and how it is laid out: pictures, CSVs, and which column means what.

A `Source` is all that a run needs to find its data again. Three layouts: the seed's (train/, test/ and a CSV for each), one
folder with one CSV, and a CSV given by itself.
"""

import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from panorama.archives import TABLE_SUFFIXES
from panorama.errors import PanoramaError
from panorama.images import SUFFIXES
from panorama.labels import CsvTable, Layout, file_columns, guess_layout, parse_csv

Split = Literal["train", "test"]
_SAY_LITTLE = frozenset({"data", "dataset", "images", "pictures", "photos"})


@dataclass(frozen=True)
class CsvSource:
    """One CSV of a data set. file and folder are relative to the root; layout None: to be guessed and shown."""

    file: str
    folder: str = "."
    split: Split | None = None
    layout: Layout | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set is and how its CSVs are read."""

    root: Path
    csvs: tuple[CsvSource, ...]

    @property
    def name(self) -> str:
        """What pages call the data set: its folder, with the one above where that says little."""
        if self.root.name.lower() in _SAY_LITTLE and self.root.parent.name:
            return f"{self.root.parent.name}/{self.root.name}"
        return self.root.name or str(self.root)

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values that `from_json` takes back."""
        return {
            "root": str(self.root),
            "csvs": [
                {"file": c.file, "folder": c.folder, "split": c.split, "layout": c.layout.to_json() if c.layout else None}
                for c in self.csvs
            ],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Source":
        """The source of a `to_json` dict. Raises PanoramaError."""
        try:
            csvs = tuple(
                CsvSource(c["file"], c["folder"], c["split"], Layout.from_json(c["layout"]) if c["layout"] else None)
                for c in values["csvs"]
            )
            return cls(Path(values["root"]), csvs)
        except (KeyError, TypeError) as error:
            raise PanoramaError(f"The description of the data set is damaged ({error}). Choose the data set again.") from error


def find_source(path: Path) -> Source:
    """How the data set at `path` (a folder, or a CSV in the folder of its pictures) is laid out. Raises PanoramaError."""
    try:
        return _find(path.expanduser())
    except (OSError, RuntimeError) as error:  # RuntimeError: a ~name that is no user
        reason = error.strerror if isinstance(error, OSError) else error
        raise PanoramaError(f"{path}: cannot be read ({reason}). Give a folder with pictures and a CSV.") from error


def _find(path: Path) -> Source:
    if not path.exists():
        raise PanoramaError(f"{path}: there is no such folder or file. Give a folder with pictures and a CSV, a CSV, or a zip.")
    path = path.resolve()
    if path.is_file():
        if path.suffix.lower() not in TABLE_SUFFIXES:
            raise PanoramaError(f"{path}: neither a folder, a CSV nor a zip. Give a folder with pictures and a CSV.")
        return Source(path.parent, (CsvSource(path.name),))
    root = _only_folder_inside(path)
    seed = _seed_layout(root)
    if seed is not None:
        return seed
    tables = _tables(root)
    if not tables:
        raise PanoramaError(f"{path}: there is no CSV in it. Expected pictures and one CSV that says which labels each carries.")
    if len(tables) == 1:
        return Source(root, (CsvSource(tables[0]),))
    return Source(root, (CsvSource(_best_table(root, tables)),))


def _only_folder_inside(path: Path) -> Path:
    """Descends into the single folder of a zip that was made of a folder."""
    while True:
        entries = [entry for entry in path.iterdir() if not _hidden(entry.name)]
        if len(entries) != 1 or not entries[0].is_dir():
            return path
        path = entries[0]


def _seed_layout(root: Path) -> Source | None:
    names = {entry.name for entry in root.iterdir()}
    expected = ("train", "test", "train_label.csv", "test_label.csv")
    missing = [name for name in expected if name not in names]
    if missing and not {"train_label.csv", "test_label.csv"} <= names:
        return None
    if missing:
        raise PanoramaError(
            f"{root}: has train_label.csv and test_label.csv, but {missing[0]}/ is missing. Put the pictures there."
        )
    return Source(root, (CsvSource("train_label.csv", "train", "train"), CsvSource("test_label.csv", "test", "test")))


def _tables(root: Path) -> list[str]:
    """CSVs in the folder, or, when it has none, in the folders directly inside."""
    here = sorted(entry.name for entry in root.iterdir() if _is_table(entry))
    if here:
        return here
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not _hidden(entry.name))
    return [f"{folder.name}/{entry.name}" for folder in folders for entry in sorted(folder.iterdir()) if _is_table(entry)]


def _is_table(entry: Path) -> bool:
    return entry.is_file() and not _hidden(entry.name) and entry.suffix.lower() in TABLE_SUFFIXES


def _best_table(root: Path, tables: list[str]) -> str:
    """The one CSV that names pictures of this folder and has labels; words when that is none or several."""
    index = PictureIndex(root)
    usable = []
    for table in tables:
        try:
            _guess(parse_csv((root / table).read_bytes(), table), index)
            usable.append(table)
        except PanoramaError:
            continue
    if len(usable) == 1:
        return usable[0]
    found = ", ".join(usable or tables)
    why = "more than one names pictures" if usable else "none of them names pictures beside labels"
    raise PanoramaError(f"{root}: has {len(tables)} CSVs and {why} ({found}). Give the CSV itself instead of the folder.")


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


class PictureIndex:
    """The pictures in and below a folder, found by name the way CSVs name them. Links out of the folder are not followed.

    `find` tries the path as written, then ignoring case and Unicode form, then without its folders, then without its suffix;
    of several it keeps those whose nearest folders are the ones written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[str] = []
        self._links: set[str] = set()
        for directory, folders, names in os.walk(folder, followlinks=False):
            folders[:] = sorted(name for name in folders if not _hidden(name))
            below = Path(directory).relative_to(folder)
            for name in sorted(names):
                if PurePosixPath(name).suffix.lower() not in SUFFIXES or _hidden(name):
                    continue
                if (Path(directory) / name).is_symlink():
                    self._links.add(_folded(name))
                else:
                    self.files.append((below / name).as_posix())
        self._exact = {name: name for name in self.files}
        keys = (_folded, lambda n: _folded(PurePosixPath(n).name), lambda n: _folded(PurePosixPath(n).stem))
        self._tiers = [(key, _grouped(self.files, key)) for key in keys]

    def find(self, name: str) -> list[str]:
        """The files that `name` may mean, by the strictest rule that finds any; more than one is ambiguous."""
        clean = name.strip().replace("\\", "/").removeprefix("./")
        if clean in self._exact:
            return [clean]
        for position, (key, table) in enumerate(self._tiers):
            wanted = _folded(PurePosixPath(clean).name) if position == 2 else key(clean)
            found = table.get(wanted, []) if wanted else []
            if found:
                return _nearest(found, clean)
        return []

    def is_exact(self, name: str) -> bool:
        """Whether `name` is the path of a picture as written, ignoring case and Unicode form."""
        return bool(self._tiers[0][1].get(_folded(name.strip().replace("\\", "/").removeprefix("./"))))

    def is_link(self, name: str) -> bool:
        """Whether a link has this file name; it is not among the pictures."""
        return _folded(PurePosixPath(name.strip().replace("\\", "/")).name) in self._links

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.find(name))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _nearest(files: list[str], wanted: str) -> list[str]:
    """Those of the files that have the most folders in common with the wanted path, counted from the name backwards."""
    folders = _folded(wanted).split("/")[-2::-1]

    def n_common(file: str) -> int:
        pairs = zip(folders, _folded(file).split("/")[-2::-1], strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))

    most = max(map(n_common, files))
    return [file for file in files if n_common(file) == most]


def _grouped(files: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(key(file), []).append(file)
    return groups


def read_table(source: Source, csv_source: CsvSource, csv_folder: Path | None = None) -> CsvTable:
    """The parsed CSV; from `csv_folder` (a run's copies) when given. Raises PanoramaError."""
    path = (csv_folder / PurePosixPath(csv_source.file).name) if csv_folder else source.root / csv_source.file
    try:
        return parse_csv(path.read_bytes(), csv_source.file)
    except OSError as error:
        raise PanoramaError(f"{path}: cannot be read ({error.strerror}). Is the data set still there?") from error


def file_column_choices(source: Source, csv_source: CsvSource) -> list[tuple[int, str, float]]:
    """(column, header, share of its values that name a picture), best first; for the page's confirmation."""
    table = read_table(source, csv_source)
    index = PictureIndex(source.root / csv_source.folder)
    return [(column, table.header[column], share) for column, share in _file_columns(table, index)]


def _file_columns(table: CsvTable, index: PictureIndex) -> list[tuple[int, float]]:
    """(column, share of its values that name a picture), best first; names without a suffix count only where none has one."""

    def rank(choice: tuple[int, float]) -> tuple[float, bool, int, int]:
        column, share = choice
        different = {value.strip() for (chunk,) in table.chunks([column]) for value in chunk}
        return share, bool(table.header[column].strip()), len(different), -column

    loose = _suffixed_columns(table, index) or file_columns(table, index.__contains__)
    return sorted(loose, key=rank, reverse=True)


def _suffixed_columns(table: CsvTable, index: PictureIndex) -> list[tuple[int, float]]:
    """As `_file_columns`, only for names with a picture's suffix.

    They go first: beside pictures 0.jpg and 1.jpg, a label column of 0 and 1 and a spreadsheet's row numbers name pictures too.
    """
    return file_columns(table, lambda name: PurePosixPath(name).suffix.lower() in SUFFIXES and name in index)


def _guess(table: CsvTable, index: PictureIndex) -> Layout:
    found = _file_columns(table, index)
    return guess_layout(table, index.__contains__, file_column=found[0][0] if found else None)


def _guess_seed(table: CsvTable, index: PictureIndex) -> Layout:
    """The seed layout: the first column, whatever its header, unless row numbers stand before the names."""
    found = _suffixed_columns(table, index)
    return guess_layout(table, file_column=found[0][0] if found else 0)


def with_layouts(source: Source) -> Source:
    """The source with every layout decided, so that what was guessed can be shown. Raises PanoramaError."""
    csvs = []
    for csv_source in source.csvs:
        if csv_source.layout is None:
            table = read_table(source, csv_source)
            guess = _guess if csv_source.split is None else _guess_seed
            csv_source = replace(csv_source, layout=guess(table, PictureIndex(source.root / csv_source.folder)))
        csvs.append(csv_source)
    return replace(source, csvs=tuple(csvs))


def with_file_column(source: Source, header: str) -> Source:
    """The source with the file names read from the column of that header. Raises PanoramaError when a CSV has none."""
    csvs = []
    for csv_source in source.csvs:
        table = read_table(source, csv_source)
        if header not in table.header:
            raise PanoramaError(f"{csv_source.file} has no column {header!r}; it has {', '.join(table.header)}.")
        csvs.append(replace(csv_source, layout=guess_layout(table, file_column=table.header.index(header))))
    return replace(source, csvs=tuple(csvs))

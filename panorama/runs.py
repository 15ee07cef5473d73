"""A run is a folder: create, list, read, ask it to stop, and say whether it is alive.

No torch here: pages that only show a run start fast.
"""

import csv
import io
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from panorama.config import TrainConfig
from panorama.datasets import DataSet, SheetPart, csv_fingerprint
from panorama.errors import PanoramaError
from panorama.events import Event, History, from_line, history, to_line
from panorama.finding import Source, read_table
from panorama.labels import read_labels

State = Literal["starting", "running", "complete", "stopped", "failed", "interrupted"]
_FORMAT = 1
_START_GRACE_SECONDS = 90.0  # importing torch on a cold disk


def workspace() -> Path:
    """The folder that holds runs and reviews: PANORAMA_HOME, default ./workspace."""
    return Path(os.environ.get("PANORAMA_HOME") or "workspace").expanduser().resolve()


# --- creating and finding ----------------------------------------------------------------------------------------------


def create(data: DataSet, config: TrainConfig, home: Path, *, folder: Path | None = None, now: float | None = None) -> "Run":
    """A new run folder with config.json, the CSVs' exact bytes and the problems of the data. Raises PanoramaError."""
    created = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    if folder is None:
        folder = home / "runs" / f"{created:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    folder = folder.expanduser().resolve()
    refuse_used_folder(folder)
    (folder / "labels").mkdir(parents=True)
    for part in data.parts:
        (folder / "labels" / Path(part.source.file).name).write_bytes(part.sheet.table.data)
    problems = [str(problem) for problem in data.problems]
    (folder / "problems.json").write_text(json.dumps({"left_out": data.n_left_out, "problems": problems}, indent=1))
    values = {"format": _FORMAT, "created": created.isoformat(), "data": data.source.to_json(), "train": config.to_json()}
    temporary = folder / ".config.json.tmp"
    temporary.write_text(json.dumps(values, indent=2))
    temporary.replace(folder / "config.json")
    return Run(folder)


def refuse_used_folder(folder: Path) -> None:
    """Raises PanoramaError when `folder` is there and not an empty folder: a run never mixes with other files."""
    folder = folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PanoramaError(f"{folder}: already there and not empty. Give a new folder for the run.")


def list_runs(home: Path) -> list["Run"]:
    """The runs of a workspace, newest first; folders that are not runs are passed over."""
    runs = []
    for config in (home / "runs").glob("*/config.json"):
        run = Run(config.parent)
        try:
            _ = run.config
            runs.append(run)
        except PanoramaError:
            continue
    return sorted(runs, key=lambda run: (run.created, run.id), reverse=True)


def find_run(home: Path, run_id: str) -> "Run | None":
    """The run of that id in the workspace, or None; never a folder elsewhere."""
    return next((run for run in list_runs(home) if run.id == run_id), None)


# --- one run -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run folder. Reads go to disk each time, except what never changes (config, source, labels)."""

    folder: Path

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.folder.name

    @cached_property
    def _values(self) -> dict[str, Any]:
        path = self.folder / "config.json"
        try:
            values: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise PanoramaError(
                f"{self.folder}: not a run folder (it has no config.json). Give the folder that `train` printed last."
            ) from None
        except ValueError as error:
            raise PanoramaError(f"{path}: damaged ({error}). Start a new run.") from error
        if values.get("format") != _FORMAT:
            raise PanoramaError(
                f"{path}: made by another version of panorama (format {values.get('format')}, expected {_FORMAT})."
            )
        return values

    @cached_property
    def config(self) -> TrainConfig:
        """How the run was asked to train."""
        return TrainConfig.from_json(self._values["train"])

    @cached_property
    def source(self) -> Source:
        """Where its data is."""
        return Source.from_json(self._values["data"])

    @property
    def created(self) -> datetime:
        """When it was made, UTC."""
        return datetime.fromisoformat(self._values["created"])

    @property
    def csv_folder(self) -> Path:
        """The exact copies of the CSVs it was made from."""
        return self.folder / "labels"

    @property
    def fingerprint(self) -> str:
        """As `DataSet.fingerprint`: identifies the content of its CSVs."""
        return csv_fingerprint([(self.csv_folder / Path(c.file).name).read_bytes() for c in self.source.csvs])

    def problems(self) -> tuple[int, list[str]]:
        """How many images were left out, and the problems of the data in words."""
        try:
            values = json.loads((self.folder / "problems.json").read_text())
        except (OSError, ValueError):
            return 0, []
        return int(values["left_out"]), list(values["problems"])

    def events(self) -> list[Event]:
        """The events so far; an unfinished last line is ignored."""
        try:
            text = (self.folder / "events.jsonl").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [event for line in text.split("\n") if line and (event := from_line(line)) is not None]

    def history(self) -> History:
        """The fold of its events."""
        return history(self.events())

    def metrics(self) -> dict[str, Any] | None:
        """metrics.json, or None while there is none."""
        try:
            values: dict[str, Any] = json.loads((self.folder / "metrics.json").read_text())
        except (OSError, ValueError):
            return None
        return values

    def has(self, file: str) -> bool:
        """Whether the run has written this file."""
        return (self.folder / file).is_file()

    def state(self, known: History | None = None, *, now: float | None = None) -> State:
        """What the run is doing. "interrupted": its events stop without an end and no worker holds the lock."""
        h = known if known is not None else self.history()
        alive = is_running(self)
        if h.status in ("complete", "stopped", "failed") and not alive:
            return h.status
        if alive:
            return "running" if h.started else "starting"
        launched = self.folder / "launched"
        age = (time.time() if now is None else now) - (launched.stat().st_mtime if launched.exists() else 0)
        return "starting" if age < _START_GRACE_SECONDS and h.status == "starting" else "interrupted"

    def ask_to_stop(self) -> None:
        """The worker stops at the next batch and can be resumed."""
        (self.folder / "stop").touch()

    def stop_is_asked(self) -> bool:
        """Whether `ask_to_stop` was called since the last start."""
        return (self.folder / "stop").exists()

    # --- tables -------------------------------------------------------------------------------------------------------

    def sheets(self) -> tuple[SheetPart, ...]:
        """The run's CSVs as read, from its own copies; images named as in the run."""
        images, _, _ = self.images()
        known = set(images)
        parts = []
        for csv_source in self.source.csvs:
            assert csv_source.layout is not None
            sheet = read_labels(read_table(self.source, csv_source, self.csv_folder), csv_source.layout)
            prefixed = {name: f"{csv_source.split}/{name}" for name in sheet.images}
            image_of = {name: (prefixed[name] if prefixed[name] in known else name) for name in sheet.images}
            parts.append(SheetPart(csv_source, sheet, {name: image for name, image in image_of.items() if image in known}))
        return tuple(parts)

    def images(self) -> tuple[list[str], list[str], list[str]]:
        """Names, splits (train, validation, test) and paths relative to the source's root, of the usable images."""
        header, rows = read_rows(self.folder / "split.csv")
        if header != ["image", "split", "path"]:
            raise PanoramaError(f"{self.folder / 'split.csv'}: damaged; expected the columns image, split, path.")
        return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]

    def picture_path(self, relative: str) -> Path:
        """The picture file of an image, inside the data set's root. Raises PanoramaError when it would be outside."""
        root = self.source.root.resolve()
        path = (root / relative).resolve()
        if not path.is_relative_to(root):
            raise PanoramaError(f"{relative!r} is outside the data set.")
        return path

    def probabilities(self, file: str) -> tuple[list[str], npt.NDArray[np.float32]] | None:
        """(labels, (n_images, n_labels)) of before.csv, predictions.csv or out_of_fold.csv in the order of `images`; or None."""
        if not self.has(file):
            return None
        header, rows = read_rows(self.folder / file)
        return header[2:], np.array([[float(value) for value in row[2:]] for row in rows], np.float32).reshape(
            len(rows), len(header) - 2
        )

    def targets(self, labels: Sequence[str]) -> npt.NDArray[np.int8]:
        """(n_images, n_labels) given values from the run's CSVs, in the order of `images` and `labels`."""
        values: dict[str, npt.NDArray[np.int8]] = {}
        for part in self.sheets():
            order = [part.sheet.labels.index(label) for label in labels]
            row_of = {name: row for row, name in enumerate(part.sheet.images)}
            for name, image in part.image_of_name.items():
                values[image] = part.sheet.targets[row_of[name]][order]
        images, _, _ = self.images()
        return np.stack([values[image] for image in images]).astype(np.int8)


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV that panorama wrote. Raises PanoramaError."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            rows = list(csv.reader(stream))
        return rows[0], rows[1:]
    except (OSError, csv.Error, IndexError) as error:
        raise PanoramaError(f"{path}: cannot be read ({error}). The run may not have got so far.") from error


def write_rows(path: Path, header: Sequence[str], rows: Iterator[Sequence[Any]] | Sequence[Sequence[Any]]) -> None:
    """Writes a CSV (UTF-8, LF) and moves it into place whole."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(buffer.getvalue(), encoding="utf-8", errors="surrogateescape", newline="")
    temporary.replace(path)


# --- the event log -----------------------------------------------------------------------------------------------------


class EventLog:
    """Appends events to a run, one write a line; closes a line that a crash left unfinished."""

    def __init__(self, run: Run) -> None:
        path = run.folder / "events.jsonl"
        self._stream = path.open("ab", buffering=0)
        if path.stat().st_size:
            with path.open("rb") as stream:
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    self._stream.write(b"\n")

    def append(self, event: Event) -> None:
        """One line, handed to the system when this returns."""
        self._stream.write(to_line(event).encode() + b"\n")

    def close(self) -> None:
        self._stream.close()


# --- who runs ----------------------------------------------------------------------------------------------------------


class BusyError(PanoramaError):
    """Another run of this workspace is training."""


def _lock_file(run: Run) -> Path:
    """One training at a time in a workspace; a run kept elsewhere (--out) only excludes itself."""
    in_workspace = run.folder.parent.name == "runs"
    return (run.folder.parent.parent if in_workspace else run.folder) / "worker.lock"


@contextmanager
def worker_lock(run: Run, *, patience_seconds: float = 5.0) -> Iterator[None]:
    """Held by the worker as long as it lives; the system releases it however the worker ends. Raises BusyError."""
    file = _lock_file(run)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=patience_seconds)  # a page that looks whether it is held holds it for an instant
    except Timeout:
        raise BusyError(_busy_message(file)) from None
    try:
        file.with_suffix(".json").write_text(json.dumps({"run": run.id, "pid": os.getpid()}))
        yield
    finally:
        lock.release()


def running(home: Path) -> str | None:
    """The id of the run that trains in this workspace now, or None."""
    return _holder(home / "worker.lock")


def is_running(run: Run) -> bool:
    """Whether a worker trains this run now."""
    return _holder(_lock_file(run)) == run.id


def refuse_if_busy(run: Run) -> None:
    """Raises BusyError when another training holds this workspace."""
    if _holder(_lock_file(run)) is not None:
        raise BusyError(_busy_message(_lock_file(run)))


def _holder(file: Path) -> str | None:
    if not file.exists():
        return None
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            return str(json.loads(file.with_suffix(".json").read_text())["run"])
        except (OSError, ValueError, KeyError):
            return ""
    lock.release()
    return None


def _busy_message(file: Path) -> str:
    return f"A training is already running in this workspace (run {_holder(file) or 'just starting'}). Wait for it, or stop it first."

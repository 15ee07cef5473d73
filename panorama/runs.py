"""A run is a folder: create, list, read, ask it to stop, and say whether it is alive.

No torch here: pages that only show a run start fast.
"""

import csv
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from panorama.config import TrainConfig
from panorama.csvscan import csv_text
from panorama.datasets import DataSet, SheetPart, csv_fingerprint, image_names
from panorama.errors import PanoramaError
from panorama.events import Event, History, RunEnded, from_line, history, to_line
from panorama.finding import Source, read_table
from panorama.labels import read_labels

State = Literal["starting", "running", "complete", "stopped", "failed", "interrupted"]
_FORMAT = 1
_ROWS_AT_ONCE = 10_000
_MEASURED = {"test", "validation", "train", "before_training", "out_of_fold", "thresholds_from_validation", "best"}
_START_GRACE_SECONDS = 90.0  # importing torch on a cold disk


def workspace() -> Path:
    """The folder that holds runs and reviews: PANORAMA_HOME, default ./workspace."""
    return Path(os.environ.get("PANORAMA_HOME") or "workspace").expanduser().resolve()


# --- creating and finding ----------------------------------------------------------------------------------------------


def create(data: DataSet, config: TrainConfig, home: Path, *, folder: Path | None = None, now: float | None = None) -> "Run":
    """A new run folder with config.json, the CSVs' exact bytes and the problems of the data. Raises PanoramaError."""
    created = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    folder = _new_folder(created, home) if folder is None else folder.expanduser().resolve()
    refuse_used_folder(folder)
    (folder / "labels").mkdir(parents=True)
    for part in data.parts:
        (folder / "labels" / Path(part.source.file).name).write_bytes(part.sheet.table.data)
    problems = [str(problem) for problem in data.problems]
    (folder / "problems.json").write_text(json.dumps({"left_out": data.n_left_out, "problems": problems}, indent=1))
    _write_config(folder, {"created": created.isoformat(), "data": data.source.to_json(), "train": config.to_json()})
    return Run(folder)


@dataclass(frozen=True)
class Corrects:
    """Which run's labels a run was trained on, corrected. decisions_up_to: the id of the last decision that was known then."""

    run: str
    cells: int
    decisions_up_to: int


def create_corrected(old: "Run", csvs: Mapping[str, bytes], corrects: Corrects, home: Path, *, now: float | None = None) -> "Run":
    """A new run folder that asks for what `old` was asked for, seed and split included, on other bytes of its CSVs.

    csvs: the content of each by its file, as in the source. The problems of the data are those of `old`.
    """
    created = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    folder = _new_folder(created, home)
    (folder / "labels").mkdir(parents=True)
    for file, data in csvs.items():
        (folder / "labels" / Path(file).name).write_bytes(data)
    for file in ("problems.json", "split.csv"):
        if old.has(file):
            (folder / file).write_bytes((old.folder / file).read_bytes())
    values = {"created": created.isoformat(), "data": old.source.to_json(), "train": old.config.to_json()}
    _write_config(folder, {**values, "corrects": asdict(corrects)})
    return Run(folder)


def keep_weights(run: "Run", weights: str) -> TrainConfig:
    """The run's config with the weights it really starts from, written into its folder: a resumed or repeated run starts from them too."""
    return _keep(run, replace(run.config, weights=weights))


def keep_batch_size(run: "Run", batch_size: int) -> TrainConfig:
    """The run's config with the batch size that there is memory for, written into its folder: a resumed or repeated run uses it too."""
    return _keep(run, replace(run.config, batch_size=batch_size))


def _keep(run: "Run", config: TrainConfig) -> TrainConfig:
    _write_config(run.folder, {**run.stored(), "train": config.to_json()})
    return config


def _new_folder(created: datetime, home: Path) -> Path:
    return (home / "runs" / f"{created:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}").expanduser().resolve()


def _write_config(folder: Path, values: Mapping[str, Any]) -> None:
    """Last, and whole: a folder is a run once it has its config."""
    temporary = folder / ".config.json.tmp"
    temporary.write_text(json.dumps({"format": _FORMAT, **values}, indent=2))
    temporary.replace(folder / "config.json")


def refuse_used_folder(folder: Path) -> None:
    """Raises PanoramaError when `folder` is there and not an empty folder: a run never mixes with other files."""
    folder = folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PanoramaError(f"{folder}: already there and not empty. Give a new folder for the run.")


def list_runs(home: Path) -> list["Run"]:
    """The runs of a workspace, newest first; folders that are not runs, or not whole ones, are passed over."""
    runs = []
    for config in (home / "runs").glob("*/config.json"):
        run = Run(config.parent)
        with suppress(PanoramaError):
            _ = run.config, run.source, run.created
            runs.append(run)
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
            values: dict[str, Any] = dict(json.loads(path.read_text()))
        except (FileNotFoundError, NotADirectoryError):
            raise PanoramaError(
                f"{self.folder}: not a run folder (it has no config.json). Give the folder that `train` printed last."
            ) from None
        except (OSError, TypeError, ValueError) as error:
            raise _damaged(path, error) from error
        if values.get("format") != _FORMAT:
            raise PanoramaError(
                f"{path}: made by another version of panorama (format {values.get('format')}, expected {_FORMAT})."
            )
        return values

    def stored(self) -> dict[str, Any]:
        """A copy of what config.json holds."""
        return dict(self._values)

    @cached_property
    def config(self) -> TrainConfig:
        """How the run was asked to train."""
        try:
            return TrainConfig.from_json(self._values["train"])
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self.folder / "config.json", error) from error

    @cached_property
    def source(self) -> Source:
        """Where its data is."""
        try:
            return Source.from_json(self._values["data"])
        except KeyError as error:
            raise _damaged(self.folder / "config.json", error) from error

    @property
    def corrects(self) -> Corrects | None:
        """Which run it repeats on corrected labels; None for a run on the labels as they came."""
        try:
            values = self._values.get("corrects")
            return None if values is None else Corrects(**values)
        except TypeError as error:
            raise _damaged(self.folder / "config.json", error) from error

    @property
    def created(self) -> datetime:
        """When it was made, UTC."""
        try:
            return datetime.fromisoformat(self._values["created"]).astimezone(UTC)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self.folder / "config.json", error) from error

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
            return int(values["left_out"]), [str(problem) for problem in values["problems"]]
        except (OSError, KeyError, TypeError, ValueError):
            return 0, []

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
        """metrics.json, or None while there is none that can be read; never NaN."""
        try:
            text = (self.folder / "metrics.json").read_text()
            values: dict[str, Any] = json.loads(text, parse_constant=_refuse_constant)
        except (OSError, ValueError):
            return None
        return values if isinstance(values, dict) and values.keys() >= _MEASURED else None

    def has(self, file: str) -> bool:
        """Whether the run has written this file."""
        return (self.folder / file).is_file()

    def state(self, known: History | None = None, *, now: float | None = None) -> State:
        """What the run is doing. "interrupted": its events stop without an end and no worker holds the lock.

        Launched anew, it is "starting" until its worker, which has torch to import first, tells something.
        """
        h = known if known is not None else self.history()
        if is_running(self):
            return "running" if h.started else "starting"
        launched = self.folder / "launched"
        launched_at = launched.stat().st_mtime if launched.exists() else 0.0
        age = (time.time() if now is None else now) - launched_at
        if age < _START_GRACE_SECONDS and launched_at > (h.last_at or 0.0):
            return "starting"
        return h.status if h.status in ("complete", "stopped", "failed") else "interrupted"

    def ask_to_stop(self) -> None:
        """The worker stops at the next batch and can be resumed."""
        (self.folder / "stop").touch()

    def forget_earlier_stop(self) -> None:
        """Takes back an `ask_to_stop` of an earlier start; one that came while this start's process was still importing stays."""
        stop, launched = self.folder / "stop", self.folder / "launched"
        with suppress(FileNotFoundError):
            if not launched.exists() or stop.stat().st_mtime_ns < launched.stat().st_mtime_ns:
                stop.unlink()

    def stop_is_asked(self) -> bool:
        """Whether `ask_to_stop` was called since the last start."""
        return (self.folder / "stop").exists()

    # --- tables -------------------------------------------------------------------------------------------------------

    def sheets(self) -> tuple[SheetPart, ...]:
        """The run's CSVs as read, from its own copies; images named as in the run."""
        sheets = []
        for csv_source in self.source.csvs:
            if csv_source.layout is None:
                raise PanoramaError(f"{self.folder / 'config.json'}: damaged (no layout). Start a new run.")
            sheets.append(read_labels(read_table(self.source, csv_source, self.csv_folder), csv_source.layout))
        names = image_names(self.source.csvs, sheets)
        return tuple(SheetPart(*part) for part in zip(self.source.csvs, sheets, names, strict=True))

    def images(self) -> tuple[list[str], list[str], list[str]]:
        """Names, splits (train, validation, test) and paths relative to the source's root, of the usable images."""
        header, rows = read_rows(self.folder / "split.csv")
        if header != ["image", "split", "path"]:
            raise PanoramaError(f"{self.folder / 'split.csv'}: damaged; expected the columns image, split, path.")
        return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]

    def picture_path(self, relative: str) -> Path:
        """The picture file of an image, inside the data set's folders (which may be links themselves). Raises PanoramaError outside."""
        root = self.source.root.resolve()
        path = (root / relative).resolve()
        folders = [root, *((root / csv_source.folder).resolve() for csv_source in self.source.csvs)]
        if not any(path.is_relative_to(folder) for folder in folders):
            raise PanoramaError(f"{relative!r} is outside the data set.")
        return path

    def probabilities(self, file: str) -> tuple[list[str], npt.NDArray[np.float32]] | None:
        """(labels, (n_images, n_labels)) of before.csv, predictions.csv or out_of_fold.csv in the order of `images`; or None.

        Raises PanoramaError when the file is damaged or of other images.
        """
        if not self.has(file):
            return None
        path = self.folder / file
        header, rows = read_rows(path)
        if header[:2] != ["image", "split"] or [row[0] for row in rows] != self.images()[0]:
            raise PanoramaError(
                f"{path}: does not fit split.csv, which says which images the run has. Resume the run, or start a new one."
            )
        try:
            values = np.array([row[2:] for row in rows], np.float32).reshape(len(rows), len(header) - 2)
        except ValueError as error:
            raise _damaged(path, error) from error
        if not ((values >= 0) & (values <= 1)).all():
            raise PanoramaError(f"{path}: damaged; expected probabilities from 0 to 1. Resume the run, or start a new one.")
        return header[2:], values

    def targets(self, labels: Sequence[str]) -> npt.NDArray[np.int8]:
        """(n_images, n_labels) given values from the run's CSVs, in the order of `images` and `labels`."""
        values: dict[str, npt.NDArray[np.int8]] = {}
        images, _, _ = self.images()
        try:
            for part in self.sheets():
                order = [part.sheet.labels.index(label) for label in labels]
                row_of = {name: row for row, name in enumerate(part.sheet.images)}
                for name, image in part.image_of_name.items():
                    values[image] = part.sheet.targets[row_of[name]][order]
            return np.array([values[image] for image in images], np.int8).reshape(len(images), len(labels))
        except (KeyError, ValueError) as error:
            raise PanoramaError(
                f"{self.folder}: its tables and its CSVs do not fit together ({error}). Start a new run."
            ) from error


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV that panorama wrote. Raises PanoramaError."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            header, *rows = csv.reader(stream)
    except (OSError, csv.Error, ValueError) as error:
        raise PanoramaError(f"{path}: cannot be read ({error}). The run may not have got so far.") from error
    if any(len(row) != len(header) for row in rows):
        raise PanoramaError(f"{path}: damaged; expected {len(header)} cells in every row. Resume the run, or start a new one.")
    return header, rows


def _damaged(path: Path, error: Exception) -> PanoramaError:
    return PanoramaError(f"{path}: damaged ({type(error).__name__}: {error}). Start a new run.")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a measured value")


def write_rows(path: Path, header: Sequence[str], rows: Iterator[Sequence[Any]] | Sequence[Sequence[Any]]) -> None:
    """Writes a CSV (UTF-8, LF), some rows at a time, and moves it into place whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    left = chain([header], rows)
    with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        while some := list(islice(left, _ROWS_AT_ONCE)):
            stream.write(csv_text(some))
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
        left = memoryview(to_line(event).encode() + b"\n")
        while left:  # a nearly full disk takes a part
            left = left[self._stream.write(left) or 0 :]

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
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"run": run.id, "pid": os.getpid()}))
        temporary.replace(file.with_suffix(".json"))
        yield
    finally:
        file.with_suffix(".json").unlink(missing_ok=True)
        lock.release()


def running(home: Path) -> str | None:
    """The id of the run that trains in this workspace now, or None."""
    return _holder(home / "worker.lock")


def is_busy(home: Path) -> bool:
    """Whether a run trains in this workspace now, or was launched and has not told anything yet."""
    return running(home) is not None or any(run.state() in ("starting", "running") for run in list_runs(home)[:3])


def is_running(run: Run) -> bool:
    """Whether a worker trains this run now."""
    return _holder(_lock_file(run)) == run.id


def end_untold(run: Run, launched_at: float, message: str) -> None:
    """Writes the end of a worker that ended before it told anything since `launched_at`; nothing where another one may be at work on the run."""
    told_at = run.history().last_at
    if _holder(_lock_file(run)) not in (run.id, "") and (told_at is None or told_at < launched_at):
        log = EventLog(run)
        log.append(RunEnded(time.time(), "failed", message))
        log.close()


def refuse_if_busy(run: Run) -> None:
    """Raises BusyError when another training holds this workspace."""
    if _holder(_lock_file(run)) is not None:
        raise BusyError(_busy_message(_lock_file(run)))


def _holder(file: Path) -> str | None:
    if not file.exists():
        return None
    # Whoever looks holds the lock for an instant, and another who looks then must not take that for a training: so a name
    # is believed at once, and a lock without a name is looked at again. The name of a worker that was killed is cleared away.
    lock = FileLock(file)
    for patience_seconds in (0.0, 0.5):
        try:
            lock.acquire(timeout=patience_seconds, poll_interval=0.01)
        except Timeout:
            with suppress(OSError, ValueError, KeyError, TypeError):
                return str(json.loads(file.with_suffix(".json").read_text())["run"])
        else:
            file.with_suffix(".json").unlink(missing_ok=True)
            lock.release()
            return None
    return ""


def _busy_message(file: Path) -> str:
    return f"A training is already running in this workspace (run {_holder(file) or 'just starting'}). Wait for it, or stop it first."

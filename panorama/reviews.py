"""ReviewStore: what people decided about cells, as append-only rows in one SQLite file.

The log is the truth and everything else is a fold of it: `standing` drops what was undone and keeps the latest decision
of each cell. A decision belongs to the *content* of a CSV (its fingerprint), so it follows a folder that moves and never
reaches another CSV. No torch: the review page starts fast.
"""

import math
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from panorama.csvscan import csv_text
from panorama.errors import PanoramaError

Verdict = Literal["keep", "change", "skip"]
Cell = tuple[str, str]  # image, label

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x50414E4F  # "PANO"
_BUSY_SECONDS = 10.0
_REPLACED = "the file was moved, deleted or replaced while it was open. Start panorama again."

_SCHEMA = """
CREATE TABLE decisions (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id    TEXT NOT NULL UNIQUE,
    csv         TEXT NOT NULL,
    image       TEXT NOT NULL,
    label       TEXT NOT NULL,
    given       INTEGER NOT NULL CHECK (given IN (0, 1)),
    verdict     TEXT NOT NULL CHECK (verdict IN ('keep', 'change', 'skip', 'undo')),
    undoes      INTEGER UNIQUE REFERENCES decisions (id),
    reviewer    TEXT NOT NULL,
    probability REAL,
    doubt       REAL,
    run         TEXT,
    note        TEXT NOT NULL,
    at          TEXT NOT NULL,
    CHECK ((verdict = 'undo') = (undoes IS NOT NULL))
);
CREATE INDEX decisions_of_csv ON decisions (csv, id);
CREATE TRIGGER decisions_are_never_updated BEFORE UPDATE ON decisions
    BEGIN SELECT RAISE(ABORT, 'decisions are append-only'); END;
CREATE TRIGGER decisions_are_never_deleted BEFORE DELETE ON decisions
    BEGIN SELECT RAISE(ABORT, 'decisions are append-only'); END;
-- INSERT OR REPLACE deletes rows without asking the trigger above
CREATE TRIGGER decisions_are_never_replaced BEFORE INSERT ON decisions
    WHEN EXISTS (SELECT 1 FROM decisions
                 WHERE id = NEW.id OR event_id = NEW.event_id OR undoes = NEW.undoes)
    BEGIN SELECT RAISE(ABORT, 'decisions are append-only'); END;
"""


@dataclass(frozen=True)
class Decision:
    """One row of the log."""

    id: int
    event_id: str
    csv: str  # fingerprint of the CSV's content
    image: str
    label: str
    given: int  # what the CSV says, 0 or 1
    verdict: Literal["keep", "change", "skip", "undo"]
    undoes: int | None  # the id that an undo takes back
    reviewer: str
    probability: float | None  # what the reviewer was shown, in [0, 1]
    doubt: float | None  # in [0, 1]
    run: str | None
    note: str
    at: str  # ISO 8601, UTC


_COLUMNS = tuple(field.name for field in fields(Decision))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM decisions"
_INSERT = f"INSERT INTO decisions ({', '.join(_COLUMNS[1:])}) VALUES ({', '.join('?' * (len(_COLUMNS) - 1))})"


def standing(log: Iterable[Decision]) -> dict[Cell, Decision]:
    """The latest decision of each cell that nobody took back. `log` is one CSV's, in the order of ids."""
    rows = list(log)
    undone = {row.undoes for row in rows if row.verdict == "undo"}
    return {(row.image, row.label): row for row in rows if row.verdict != "undo" and row.id not in undone}


def corrections(decisions: Iterable[Decision]) -> dict[Cell, int]:
    """The new value of each cell that was decided to change."""
    return {(row.image, row.label): 1 - row.given for row in decisions if row.verdict == "change"}


def _utc_now() -> datetime:
    return datetime.now(UTC)


class ReviewStore:
    """The decisions in one file: one connection behind one lock, to be shared by all threads of a process.

    A method that writes returns after COMMIT, or raises a PanoramaError that says the decision was NOT saved.
    """

    def __init__(self, path: Path, *, now: Callable[[], datetime] = _utc_now) -> None:
        self.path = Path(path)
        self._now = now
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # autocommit: transactions are only those of _transaction
            self._db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise PanoramaError(f"The decisions in {self.path} cannot be opened: {_reason(error)}") from error
        try:
            self._prepare()
            self._file = _identity(self.path)
        except sqlite3.Error as error:
            self._db.close()
            raise PanoramaError(f"The decisions in {self.path} cannot be opened: {_reason(error)}") from error
        except PanoramaError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        if self._pragma("user_version") == 0 and not self._is_ours():
            with self._transaction():
                if not self._is_ours():  # another process may have been first
                    self._create()
        self._check_version()
        # Not WAL: it can corrupt before SQLite 3.51.3, and Python often carries 3.40. FULL: fsync before COMMIT returns.
        for pragma in ("journal_mode = TRUNCATE", "synchronous = FULL", "fullfsync = ON", "foreign_keys = ON"):
            self._db.execute(f"PRAGMA {pragma}")

    def _is_ours(self) -> bool:
        return self._pragma("application_id") == _APPLICATION_ID

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    def _create(self) -> None:
        if self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise self._foreign()
        for statement in _statements(_SCHEMA):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _check_version(self) -> None:
        version = self._pragma("user_version")
        if not self._is_ours():
            raise self._foreign()
        if version != SCHEMA_VERSION:
            raise PanoramaError(
                f"{self.path} was written by a newer panorama (schema {version}; this one reads {SCHEMA_VERSION}). "
                "Update panorama; the file was not touched."
            )

    def _foreign(self) -> PanoramaError:
        return PanoramaError(f"{self.path} is a database, but not of panorama's decisions. Move it, or choose another file.")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Everything or nothing, alone on the file; what was done is on the disk when the block is left."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _is_replaced(self) -> bool:
        """Whether the path names another file now, or none: SQLite would go on with the old one, where nobody looks again."""
        return _identity(self.path) != self._file

    @contextmanager
    def _saving(self) -> Iterator[None]:
        with self._lock:
            if self._is_replaced():
                raise PanoramaError(f"The decision was NOT saved in {self.path}: {_REPLACED}")
            try:
                with self._transaction():
                    yield
            except sqlite3.Error as error:
                raise PanoramaError(f"The decision was NOT saved in {self.path}: {_reason(error)}") from error

    def record(
        self,
        *,
        csv: str,
        image: str,
        label: str,
        given: int,
        verdict: Verdict,
        reviewer: str = "",
        probability: float | None = None,
        doubt: float | None = None,
        run: str | None = None,
        note: str = "",
        event_id: str | None = None,
    ) -> Decision:
        """Append a decision; return its row after COMMIT.

        The same `event_id` again (a double click, a retry) returns the first row and writes nothing.
        """
        if verdict not in get_args(Verdict):
            raise _not_saved(f"the verdict is {verdict!r}; expected keep, change or skip.")
        if given not in (0, 1):
            raise _not_saved(f"{image}, {label}: the given value is {given!r}; expected 0 or 1.")
        event_id = event_id or uuid.uuid4().hex
        shown = (_share("probability", probability), _share("doubt", doubt), run)
        row = (event_id, csv, image, label, int(given), verdict, None, reviewer, *shown, note)
        _check_text(row)
        with self._saving():
            first = self._find("event_id = ?1", event_id)
            if first is None:
                return self._append(row)
        if (first.csv, first.image, first.label, first.verdict) != (csv, image, label, verdict):
            raise _taken(first)
        return first

    def undo(self, *, csv: str, reviewer: str | None = None, event_id: str | None = None) -> Decision | None:
        """Append a row that takes back the latest standing decision on `csv` (of `reviewer`, if given).

        Again, and it walks further back. None when there is nothing left to undo.
        """
        event_id = event_id or uuid.uuid4().hex
        _check_text((csv, reviewer, event_id))
        with self._saving():
            first = self._find("event_id = ?1", event_id)
            if first is None:
                taken = self._find(
                    "csv = ?1 AND verdict <> 'undo' AND (?2 IS NULL OR reviewer = ?2)"
                    " AND NOT EXISTS (SELECT 1 FROM decisions AS later WHERE later.undoes = decisions.id)",
                    csv,
                    reviewer,
                )
                if taken is None:
                    return None
                cell = (csv, taken.image, taken.label, taken.given)
                return self._append((event_id, *cell, "undo", taken.id, reviewer or "", None, None, None, ""))
        if first.csv != csv or first.verdict != "undo":
            raise _taken(first)
        return first

    def _append(self, row: tuple[object, ...]) -> Decision:
        at = self._now().astimezone(UTC).isoformat(timespec="milliseconds")
        added = self._db.execute(_INSERT, (*row, at)).lastrowid
        decision = self._find("id = ?1", added)
        assert decision is not None
        return decision

    def _find(self, where: str, *values: object) -> Decision | None:
        """The latest row that fits; `where` is SQL of this module, what users wrote comes as ?1, ?2."""
        row = self._db.execute(f"{_SELECT} WHERE {where} ORDER BY id DESC LIMIT 1", values).fetchone()
        return Decision(*row) if row else None

    def log(self, csv: str) -> list[Decision]:
        """Every row about `csv`, in the order in which they were decided, undone ones and undos included."""
        _check_text((csv,))
        with self._lock:
            if self._is_replaced():
                raise PanoramaError(f"The decisions in {self.path} cannot be read: {_REPLACED}")
            try:
                rows = self._db.execute(f"{_SELECT} WHERE csv = ? ORDER BY id", (csv,)).fetchall()
            except sqlite3.Error as error:
                raise PanoramaError(f"The decisions in {self.path} cannot be read: {_reason(error)}") from error
        return [Decision(*row) for row in rows]

    def current(self, csv: str) -> dict[Cell, Decision]:
        """The standing decision of each decided cell."""
        return standing(self.log(csv))

    def corrections(self, csv: str) -> dict[Cell, int]:
        """The new value of each cell whose standing decision is to change it."""
        return corrections(self.current(csv).values())

    def backup(self, folder: Path) -> Path:
        """Copy the whole file, consistent even while others write, to a new time-stamped file in `folder`."""
        folder = Path(folder)
        target = folder / f"reviews-{self._now().astimezone(UTC):%Y%m%dT%H%M%S.%fZ}.sqlite"
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with closing(sqlite3.connect(part)) as copy, self._lock:
                    self._db.backup(copy)
                part.rename(target)
            finally:
                part.unlink(missing_ok=True)
        except (OSError, sqlite3.Error) as error:
            raise PanoramaError(
                f"No backup was made in {folder}: {_reason(error)} The decisions themselves are as before."
            ) from error
        return target

    def close(self) -> None:
        with self._lock:
            self._db.close()


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one: `executescript` would COMMIT first, and the schema is one transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _not_saved(why: str) -> PanoramaError:
    return PanoramaError(f"The decision was NOT saved: {why}")


def _taken(first: Decision) -> PanoramaError:
    return _not_saved(f"the event id {first.event_id!r} already belongs to {first.image}, {first.label}: {first.verdict}.")


def _share(name: str, value: float | None) -> float | None:
    """SQLite would turn NaN into NULL without a word."""
    if value is None:
        return None
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise _not_saved(f"the {name} is {value}; expected a number between 0 and 1, or none.")
    return float(value)


def _check_text(values: Iterable[object]) -> None:
    """Text is kept as it is; only what has no UTF-8 form (a lone surrogate) is refused, rather than changed."""
    for value in values:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise _not_saved(f"{value!r} is not valid Unicode. Rename the image or label, or edit the note.") from None


def _reason(error: Exception) -> str:
    """What went wrong and what to do, in one or two sentences."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    known = {
        sqlite3.SQLITE_FULL: "the disk is full. Free some room and decide again.",
        sqlite3.SQLITE_READONLY: "the file or its folder is read-only. Allow writing there and decide again.",
        sqlite3.SQLITE_BUSY: f"another program has held it for {_BUSY_SECONDS:g} seconds. Close that program and try again.",
        sqlite3.SQLITE_LOCKED: "another program has locked it. Close that program and try again.",
        sqlite3.SQLITE_CANTOPEN: "the file cannot be opened. Check that its folder exists and may be written.",
        sqlite3.SQLITE_NOTADB: "it is not a SQLite database. Move it away, or put a backup in its place.",
        sqlite3.SQLITE_CORRUPT: "the file is damaged. Put a backup in its place.",
        sqlite3.SQLITE_IOERR: "the disk reports an error. Check the disk, then decide again.",
    }
    return known.get(code) or f"{getattr(error, 'strerror', None) or error}."


def change_log(decisions: Iterable[Decision]) -> bytes:
    """The decided changes among `decisions` as a CSV for people, in the order given.

    A spreadsheet would run a cell that starts with = + - @ tab or CR as a formula: such a cell gets a leading ' here,
    and only here. The corrected CSV itself is never touched in this way.
    """
    rows = [["image", "label", "from", "to", "who", "when", "probability", "note"]]
    for row in decisions:
        if row.verdict == "change":
            probability = "" if row.probability is None else str(row.probability)
            ends = [str(row.given), str(1 - row.given), row.reviewer, row.at, probability, row.note]
            rows.append([row.image, row.label, *ends])
    return csv_text([_harmless(cell) for cell in cells] for cells in rows).encode()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell

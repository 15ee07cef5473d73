"""ReviewStore: what people decided about cells, as append-only rows in one SQLite file.

The log is the truth and everything else is a fold of it (`decisions.Fold`). A decision belongs to the *content* of a CSV (its fingerprint), so it follows a folder that moves and never
reaches another CSV. No torch: the review page starts fast.
"""

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from panorama.decisions import (
    COLUMNS,
    Answer,
    Cell,
    Decision,
    Fold,
    Identity,
    Undo,
    Verdict,
    Way,
    check_text,
    corrections,
    not_saved,
)
from panorama.errors import PanoramaError

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x50414E4F  # "PANO"
_BUSY_SECONDS = 10.0
_KEPT_BACKUPS = 50
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


# What version 2 knows more of a decision; rows of version 1 were all made cell by cell, by a declared name.
_SCHEMA_2 = """
ALTER TABLE decisions ADD COLUMN identity TEXT NOT NULL DEFAULT 'declared' CHECK (identity IN ('declared', 'login'));
ALTER TABLE decisions ADD COLUMN way TEXT NOT NULL DEFAULT 'cell' CHECK (way IN ('cell', 'grid', 'image', 'settled', 'import'));
ALTER TABLE decisions ADD COLUMN batch TEXT;
ALTER TABLE decisions ADD COLUMN blind INTEGER NOT NULL DEFAULT 0 CHECK (blind IN (0, 1));
ALTER TABLE decisions ADD COLUMN control INTEGER NOT NULL DEFAULT 0 CHECK (control IN (0, 1));
CREATE INDEX decisions_of_batch ON decisions (batch) WHERE batch IS NOT NULL;
"""

_SELECT = f"SELECT {', '.join(COLUMNS)} FROM decisions"
_INSERT = f"INSERT INTO decisions ({', '.join(COLUMNS[1:])}) VALUES ({', '.join('?' * (len(COLUMNS) - 1))})"
_STANDS = "verdict <> 'undo' AND NOT EXISTS (SELECT 1 FROM decisions AS later WHERE later.undoes = decisions.id)"


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
        self._is_refused = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._connect()
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

    def _connect(self) -> sqlite3.Connection:
        # autocommit: transactions are only those of _transaction
        return sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    def _connect_again(self) -> None:
        """A connection to a file that could not be written stays so when it can be: the next decision gets one of its own."""
        old, self._db = self._db, self._connect()
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            self._db = old
            raise
        old.close()
        self._is_refused = False

    def _prepare(self) -> None:
        if self._pragma("user_version") == 0 and not self._is_ours():
            with self._transaction():
                if not self._is_ours():  # another process may have been first
                    self._create()
        if self._is_ours() and self._pragma("user_version") == 1:
            self.backup(self.path.parent / "backups")
            with self._transaction():
                if self._pragma("user_version") == 1:
                    self._upgrade()
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
        self._upgrade()

    def _upgrade(self) -> None:
        for statement in _statements(_SCHEMA_2):
            self._db.execute(statement)
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
                if self._is_refused:
                    self._connect_again()
                with self._transaction():
                    yield
            except sqlite3.Error as error:
                self._is_refused = _code(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
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
        identity: Identity = "declared",
        way: Way = "cell",
        event_id: str | None = None,
    ) -> Decision:
        """Append a decision; return its row after COMMIT.

        The same `event_id` again (a double click, a retry) returns the first row and writes nothing.
        """
        answer = Answer(
            image, label, given, verdict, reviewer, probability, doubt, run, note, identity, way, event_id=event_id or uuid.uuid4().hex
        )  # fmt: skip
        return self.apply(csv, [answer])[0]

    def undo(
        self, *, csv: str, reviewer: str | None = None, of: str | None = None, event_id: str | None = None
    ) -> Decision | None:
        """Append a row that takes back the latest standing decision on `csv` (of `reviewer`, or of the event id `of`, if given).

        What was confirmed together is taken back together. Again, and it walks further back. None when nothing is left to undo.
        """
        taken = self.apply(csv, [Undo(reviewer, of, event_id or uuid.uuid4().hex)])
        return taken[-1] if taken else None

    def apply(self, csv: str, events: Sequence[Answer | Undo]) -> list[Decision]:
        """Append answers and undos in their order, all or none; return their rows after COMMIT. An undo of nothing has no row."""
        check_text((csv,))
        with self._saving():
            return [row for event in events for row in self._apply(csv, event)]

    def _apply(self, csv: str, event: Answer | Undo) -> list[Decision]:
        first = self._find("event_id = ?1", event.event_id)
        if isinstance(event, Undo):
            if first is None:
                return self._take_back(csv, event)
            if first.csv != csv or first.verdict != "undo":
                raise _taken(first)
            return [first]
        if first is None:
            shown = (event.reviewer, event.probability, event.doubt, event.run, event.note)
            how = (event.identity, event.way, event.batch, int(event.blind), int(event.control))
            cell = (event.image, event.label, event.given, event.verdict)
            return [self._append((event.event_id, csv, *cell, None, *shown, event.at, *how))]
        if (first.csv, first.image, first.label, first.verdict) != (csv, event.image, event.label, event.verdict):
            raise _taken(first)
        return [first]

    def _take_back(self, csv: str, event: Undo) -> list[Decision]:
        latest = self._find(
            f"csv = ?1 AND {_STANDS} AND (?2 IS NULL OR reviewer = ?2) AND (?3 IS NULL OR event_id = ?3 OR batch = ?3)",
            csv, event.reviewer, event.of,
        )  # fmt: skip
        if latest is None:
            return []
        if event.by is not None and (event.by[1], latest.identity) == ("declared", "login"):
            raise not_saved(f"{latest.reviewer} was logged in for this answer. Log in to take it back.")
        together = [latest]
        if latest.batch is not None:
            where = f"csv = ? AND batch = ? AND reviewer = ? AND {_STANDS}"
            found = self._db.execute(f"{_SELECT} WHERE {where} ORDER BY id DESC", (csv, latest.batch, latest.reviewer))
            together = [_decision(row) for row in found]
        rows = []
        for number, taken in enumerate(together):
            event_id = event.event_id if number == 0 else f"{event.event_id}:{number}"
            cell = (csv, taken.image, taken.label, taken.given)
            name, identity = event.by or (event.reviewer or "", taken.identity)
            who = (name, None, None, None, "", None, identity, taken.way, taken.batch, 0, 0)
            rows.append(self._append((event_id, *cell, "undo", taken.id, *who)))
        return rows

    def _append(self, row: tuple[object, ...]) -> Decision:
        at = COLUMNS.index("at") - 1
        if row[at] is None:
            row = (*row[:at], self._now().astimezone(UTC).isoformat(timespec="milliseconds"), *row[at + 1 :])
        added = self._db.execute(_INSERT, row).lastrowid
        decision = self._find("id = ?1", added)
        assert decision is not None
        return decision

    def _find(self, where: str, *values: object) -> Decision | None:
        """The latest row that fits; `where` is SQL of this module, what users wrote comes as ?1, ?2."""
        row = self._db.execute(f"{_SELECT} WHERE {where} ORDER BY id DESC LIMIT 1", values).fetchone()
        return _decision(row) if row else None

    def log(self, csv: str, *, after: int = 0) -> list[Decision]:
        """Every row about `csv` with an id over `after`, in the order in which they were decided, undone ones and undos included."""
        check_text((csv,))
        with self._lock:
            if self._is_replaced():
                raise PanoramaError(f"The decisions in {self.path} cannot be read: {_REPLACED}")
            try:
                rows = self._db.execute(f"{_SELECT} WHERE csv = ? AND id > ? ORDER BY id", (csv, after)).fetchall()
            except sqlite3.Error as error:
                raise PanoramaError(f"The decisions in {self.path} cannot be read: {_reason(error)}") from error
        return [_decision(row) for row in rows]

    def fold(self, csv: str) -> Fold:
        """What stands on `csv`, and what is in conflict."""
        return Fold(self.log(csv))

    def current(self, csv: str) -> dict[Cell, Decision]:
        """The undisputed decision of each decided cell."""
        return self.fold(csv).standing

    def corrections(self, csv: str) -> dict[Cell, int]:
        """The new value of each cell whose undisputed decision is to change it."""
        return corrections(self.current(csv).values())

    def backup(self, folder: Path) -> Path:
        """Copy the whole file, consistent even while others write, to a new time-stamped file in `folder`, which keeps the newest 50."""
        folder = Path(folder)
        target = folder / f"reviews-{self._now().astimezone(UTC):%Y%m%dT%H%M%S.%fZ}.sqlite"
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with closing(sqlite3.connect(part)) as copy, self._lock:
                    self._db.backup(copy)
                part.rename(target)
                for old in sorted(folder.glob("reviews-*.sqlite"))[:-_KEPT_BACKUPS]:
                    old.unlink(missing_ok=True)
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


def _taken(first: Decision) -> PanoramaError:
    return not_saved(f"the event id {first.event_id!r} already belongs to {first.image}, {first.label}: {first.verdict}.")


def _decision(row: Sequence[object]) -> Decision:
    *values, blind, control = row
    return Decision(*values, bool(blind), bool(control))  # type: ignore[call-arg,arg-type]


def _code(error: Exception) -> int:
    """SQLite's primary result code; 0 for another error."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _reason(error: Exception) -> str:
    """What went wrong and what to do, in one or two sentences."""
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
    return known.get(_code(error)) or f"{getattr(error, 'strerror', None) or error}."

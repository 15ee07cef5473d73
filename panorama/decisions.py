"""What people decided about cells: a row of the log, the fold of the log into what stands, and its files. No storage here.

The log is the truth and everything else is a fold of it. Of each reviewer the latest decision on a cell counts that was not taken
back. Reviewers who disagree make a conflict, which a person settles; nothing is ever settled by who came last.
"""

import math
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from itertools import combinations
from typing import Literal, get_args

import numpy as np

from panorama.csvscan import csv_text, parse_csv
from panorama.errors import PanoramaError

Verdict = Literal["keep", "change", "skip"]
Way = Literal["cell", "grid", "image", "settled", "import"]
Identity = Literal["declared", "login"]
Cell = tuple[str, str]  # image, label

_NAMESPACE = uuid.UUID("5f0c5b52-4a3e-4f0b-9d55-70616e6f7261")  # of event ids that are made from a row's content


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
    identity: Identity = "declared"  # whether the reviewer's name was only declared, or comes from a login
    way: Way = "cell"  # how it was made
    batch: str | None = None  # of those confirmed together
    blind: bool = False  # answered before the model's answer and the CSV's value were shown
    control: bool = False  # on a cell that nobody suspected, mixed in to learn from

    @property
    def value(self) -> int | None:
        """What the cell should be by this decision, 0 or 1; None for a skip or an undo."""
        return {"keep": self.given, "change": 1 - self.given}.get(self.verdict)


COLUMNS = tuple(f.name for f in fields(Decision))


@dataclass(frozen=True)
class Answer:
    """What a reviewer said, on its way to become a row. event_id: the same one again counts once."""

    image: str
    label: str
    given: int
    verdict: Verdict
    reviewer: str = ""
    probability: float | None = None
    doubt: float | None = None
    run: str | None = None
    note: str = ""
    identity: Identity = "declared"
    way: Way = "cell"
    batch: str | None = None
    blind: bool = False
    control: bool = False
    at: str | None = None  # when it was decided, of imported ones; None: now
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise not_saved(f"the verdict is {self.verdict!r}; expected keep, change or skip.")
        if self.given not in (0, 1):
            raise not_saved(f"{self.image}, {self.label}: the given value is {self.given!r}; expected 0 or 1.")
        for name in ("probability", "doubt"):  # SQLite would turn NaN into NULL without a word
            share = getattr(self, name)
            if share is not None and not (math.isfinite(share) and 0 <= share <= 1):
                raise not_saved(f"the {name} is {share}; expected a number between 0 and 1, or none.")
        check_text([getattr(self, f.name) for f in fields(self)])


@dataclass(frozen=True)
class Undo:
    """Takes back the decision of event id `of`, or else the latest that stands; with all those confirmed together with it.

    `of` may name a batch too, which has the id of its first event: that one may have been refused.
    """

    reviewer: str | None = None  # only this reviewer's; None: anybody's
    of: str | None = None
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    by: tuple[str, Identity] | None = (
        None  # who takes it back, where that is somebody else; nobody by a declared name takes back what a login said
    )

    def __post_init__(self) -> None:
        check_text([self.reviewer, self.of, self.event_id, *(self.by or ())])


def not_saved(why: str) -> PanoramaError:
    """The error that says a decision was NOT saved, and why."""
    return PanoramaError(f"The decision was NOT saved: {why}")


def check_text(values: Iterable[object]) -> None:
    """Text is kept as it is; only what has no UTF-8 form (a lone surrogate) is refused, rather than changed. Raises PanoramaError."""
    for value in values:
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise not_saved(f"{value!r} is not valid Unicode. Rename the image or label, or edit the note.") from None


# --- the fold ----------------------------------------------------------------------------------------------------------


class Fold:
    """What stands after the rows added so far; rows of one CSV, in the order of their ids, each once.

    standing: cell -> the decision that holds, undisputed; a skip where nobody said more. conflicts: cell -> the decisions that disagree.
    """

    def __init__(self, log: Iterable[Decision] = ()) -> None:
        self.last_id = 0
        self.standing: dict[Cell, Decision] = {}
        self.conflicts: dict[Cell, tuple[Decision, ...]] = {}
        self._rows: dict[int, Decision] = {}
        self._of_cell: dict[Cell, list[Decision]] = defaultdict(list)  # not taken back
        for row in log:
            self.add(row)

    def add(self, row: Decision) -> Cell:
        """Takes in one more row; returns the cell that it may have changed."""
        self.last_id = max(self.last_id, row.id)
        cell = (row.image, row.label)
        if row.undoes is not None:
            undone = self._rows.pop(row.undoes, None)
            if undone is not None:
                self._of_cell[cell].remove(undone)
        else:
            self._rows[row.id] = row
            self._of_cell[cell].append(row)
        self._judge(cell)
        return cell

    def _judge(self, cell: Cell) -> None:
        self.standing.pop(cell, None)
        self.conflicts.pop(cell, None)
        rows = self._of_cell[cell]
        settled = next((row for row in reversed(rows) if row.way == "settled"), None)
        latest = self.opinions(cell)
        if settled is not None and any(row.id > settled.id and _who(row) == _who(settled) for row in latest):
            settled = None  # who settled it has changed their mind, and speaks for themselves again
        said = [
            row for row in latest if row.value is not None and (settled is None or row.id > settled.id or _outranks(row, settled))
        ]
        if settled is not None:
            said = [settled, *(row for row in said if row is not settled)]
        if len({row.value for row in said}) > 1:
            self.conflicts[cell] = tuple(said)
        elif said:
            self.standing[cell] = settled or said[-1]
        elif latest:
            self.standing[cell] = latest[-1]

    def opinions(self, cell: Cell) -> list[Decision]:
        """The latest decision of each reviewer on a cell, in the order of ids; skips included. A declared name is not the same by a login.

        Those who gave no name count as one person.
        """
        latest = {_who(row): row for row in self._of_cell.get(cell, ())}
        return sorted(latest.values(), key=lambda row: row.id)

    def own(self, cell: Cell) -> list[Decision]:
        """As `opinions`, without settlements: what each reviewer says of the picture, the one who settled a conflict too."""
        latest = {_who(row): row for row in self._of_cell.get(cell, ()) if row.way != "settled"}
        return sorted(latest.values(), key=lambda row: row.id)

    def settlement(self, cell: Cell) -> Decision | None:
        """The settlement that holds on a cell, or that is disputed again; None where there is none."""
        rows = (self.standing.get(cell), *self.conflicts.get(cell, ()))
        return next((row for row in rows if row is not None and row.way == "settled"), None)

    def own_of_all(self) -> list[Decision]:
        """As `own`, of every cell."""
        return [row for cell in self._of_cell for row in self.own(cell)]

    def before(self, row: Decision) -> Decision | None:
        """What the same reviewer said of the cell before this row, unless it was taken back; settlements aside."""
        rows = self._of_cell.get((row.image, row.label), ())
        return next((r for r in reversed(rows) if r.id < row.id and _who(r) == _who(row) and r.way != "settled"), None)

    def find(self, number: int) -> Decision | None:
        """The row of this id, unless it was taken back."""
        return self._rows.get(number)

    def copy(self) -> "Fold":
        """One that nothing added to this one changes."""
        other = Fold()
        other.last_id, other.standing, other.conflicts, other._rows = (
            self.last_id,
            dict(self.standing),
            dict(self.conflicts),
            dict(self._rows),
        )
        for cell, rows in self._of_cell.items():
            other._of_cell[cell] = list(rows)
        return other

    def of(self, reviewer: str) -> dict[Cell, Decision]:
        """What a reviewer said of each cell, last."""
        return {(row.image, row.label): row for row in self._rows.values() if row.reviewer == reviewer}

    def rows(self) -> list[Decision]:
        """Every row that was not taken back, in the order of ids."""
        return list(self._rows.values())

    def reviewers(self) -> list[str]:
        """Who decided anything that was not taken back, by name."""
        return sorted({row.reviewer for row in self._rows.values()})


def _who(row: Decision) -> tuple[str, Identity]:
    return row.reviewer, row.identity


def _outranks(row: Decision, settled: Decision) -> bool:
    """Whoever only declared a name, in a file perhaps, settles nothing over those who are logged in."""
    return row.identity == "login" and settled.identity == "declared"


def corrections(decisions: Iterable[Decision]) -> dict[Cell, int]:
    """The new value of each cell that was decided to change."""
    return {(row.image, row.label): 1 - row.given for row in decisions if row.verdict == "change"}


# --- what decisions say of their reviewers -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Two reviewers on the cells that both decided. kappa: Cohen's, in [-1, 1]; None where chance alone explains all (one value only)."""

    first: str
    second: str
    cells: int
    agreed: int
    kappa: float | None


def cohens_kappa(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Agreement of two raters beyond chance, (p_o - p_e) / (1 - p_e) (Cohen 1960). Values 0 or 1, at least one; None where p_e is 1."""
    a, b = np.asarray(first), np.asarray(second)
    chance = float(a.mean() * b.mean() + (1 - a).mean() * (1 - b).mean())
    return None if chance >= 1 else (float((a == b).mean()) - chance) / (1 - chance)


def agreements(fold: Fold) -> list[Agreement]:
    """Every two reviewers who decided at least one same cell; a settlement is not an independent look and does not count."""
    values: dict[str, dict[Cell, int]] = defaultdict(dict)
    for row in fold.rows():
        if row.value is not None and row.way != "settled":
            values[row.reviewer][row.image, row.label] = row.value
    found = []
    for first, second in combinations(sorted(values), 2):
        common = sorted(values[first].keys() & values[second].keys())
        if common:
            a, b = ([values[name][cell] for cell in common] for name in (first, second))
            agreed = sum(x == y for x, y in zip(a, b, strict=True))
            found.append(Agreement(first, second, len(common), agreed, cohens_kappa(a, b)))
    return found


@dataclass(frozen=True)
class ControlCheck:
    """What the unsuspected cells that were mixed in say. changed of n were decided against the CSV; share with its 95 % interval.

    left, low, high: errors among the unsuspected cells that nobody decided, were the share theirs too.
    """

    n: int
    changed: int
    share: float
    share_low: float
    share_high: float
    left: float
    low: float
    high: float


def control_check(rows: Iterable[Decision], n_unsuspected_left: int) -> ControlCheck | None:
    """The controls among rows that were not taken back, in the order of ids; None without any.

    Of each control the first answer counts, as it was given to a cell drawn at random: what others made of it later, and conflicts, are not random.
    """
    first: dict[Cell, bool] = {}
    for row in rows:
        if row.control and row.value is not None:
            first.setdefault((row.image, row.label), row.value != row.given)
    if not first:
        return None
    n, changed = len(first), sum(first.values())
    low, high = wilson_interval(changed, n)
    share = changed / n
    return ControlCheck(
        n, changed, share, low, high, share * n_unsuspected_left, low * n_unsuspected_left, high * n_unsuspected_left
    )


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, in [0, 1] (Wilson 1927). n: at least 1."""
    z = 1.959963984540054
    p = successes / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


# --- files --------------------------------------------------------------------------------------------------------------


def change_log(decisions: Iterable[Decision], fold: Fold | None = None) -> bytes:
    """The decided changes among `decisions` as a CSV for people, in the order given.

    fold: with it, "who" names everybody who said so, and who settled it where they disagreed; without, who decided last.

    A spreadsheet would run a cell that starts with = + - @ tab or CR as a formula: such a cell gets a leading ' here,
    and only here. The corrected CSV itself is never touched in this way.
    """
    rows = [["image", "label", "from", "to", "who", "when", "probability", "note", "identity"]]
    for row in decisions:
        if row.verdict == "change":
            probability = "" if row.probability is None else str(row.probability)
            values = [
                str(row.given),
                str(1 - row.given),
                _said_by(row, fold),
                row.at,
                probability,
                row.note,
                _IDENTITY[row.identity],
            ]
            rows.append([row.image, row.label, *values])
    return csv_text([_harmless(cell) for cell in cells] for cells in rows).encode()


def _said_by(row: Decision, fold: Fold | None) -> str:
    if fold is None:
        return row.reviewer
    names = [one.reviewer for one in fold.own((row.image, row.label)) if one.verdict == row.verdict]
    if len(names) > 1 or row.way == "settled":
        names = [name or "no name" for name in names]
    if row.way == "settled":
        return "; ".join([f"{row.reviewer} (settled)", *(name for name in names if name != row.reviewer)])
    return "; ".join(names)


_IDENTITY: dict[Identity, str] = {"declared": "name declared, not verified", "login": "logged in"}


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


_FILE_COLUMNS = (
    "image", "label", "given", "verdict", "value", "reviewer", "identity", "at", "way", "blind", "control", "probability", "doubt", "run",
    "note", "event_id", "csv",
)  # fmt: skip


def decisions_csv(fold: Fold) -> bytes:
    """What each reviewer said of each cell, and settlements, as a CSV that `read_answers` takes back as it is, every text unchanged."""
    latest = {(row.image, row.label, *_who(row), row.way == "settled"): row for row in fold.rows()}
    rows = [[_written(getattr(row, name)) for name in _FILE_COLUMNS] for row in sorted(latest.values(), key=lambda row: row.id)]
    return csv_text([_FILE_COLUMNS, *rows]).encode()


def _written(value: object) -> str:
    return "" if value is None else str(int(value)) if isinstance(value, bool) else str(value)


def read_answers(
    data: bytes, name: str, *, csv: str, given: Callable[[Cell], int | None], reviewer: str
) -> tuple[list[Answer], list[str]]:
    """Decisions from a `decisions_csv` (or any CSV with the columns image, label and value) for the CSV of fingerprint `csv`.

    A name in a file is declared, not verified, whatever the file says. Second: in words, the rows that do not fit, which are left out: an unknown cell, or a value that has changed since.
    given: what the CSV says of a cell, None for one it does not have. reviewer: of rows that name none. Raises CsvError for a file that cannot be read as such.
    """
    table = parse_csv(data, name)
    header = [column.strip().lower() for column in table.header]
    if missing := [column for column in ("image", "label", "value") if column not in header]:
        raise PanoramaError(f"{name}: there is no column {', '.join(missing)}; expected at least image, label and value.")
    answers, conflicts = [], []
    for record, line in enumerate(table.lines.tolist()):
        row = dict(zip(header, table.values(record), strict=False))
        if not any(value.strip() for value in row.values()):
            continue
        try:
            answers.append(_answer(row, csv, given, reviewer))
        except ValueError as error:
            conflicts.append(f"{name}, line {line}: {error}")
    return answers, conflicts


def _answer(row: Mapping[str, str], csv: str, given: Callable[[Cell], int | None], reviewer: str) -> Answer:
    """Raises ValueError in words for a row that does not fit the CSV."""
    image, label, value = row["image"], row["label"], row["value"].strip()
    now = given((image, label))
    if now is None:
        raise ValueError(f"{image!r}, {label!r} is no cell of this data set.")
    verdict: Verdict
    if row.get("verdict", "").strip() == "skip":
        verdict = "skip"
    elif value in ("0", "1"):
        verdict = "keep" if int(value) == now else "change"
    else:
        raise ValueError(f"the value of {label!r} for {image!r} is {value!r}; expected 0 or 1.")
    was = row.get("given", "").strip()
    if was in ("0", "1") and int(was) != now:
        raise ValueError(f"{label!r} for {image!r} was {was} when it was decided and is {now} in this CSV. Decide it again.")
    who = row.get("reviewer", "") or reviewer
    event = row.get("event_id", "").strip() if row.get("csv", "").strip() == csv else ""
    if not event:  # the same row of the same file again, for the same CSV, is the same event
        event = uuid.uuid5(_NAMESPACE, "\0".join([csv, image, label, verdict, who, row.get("event_id", "")])).hex
    return Answer(
        image, label, now, verdict, who, _share(row.get("probability", "")), _share(row.get("doubt", "")), row.get("run") or None, row.get("note", ""),
        "declared", "settled" if row.get("way") == "settled" else "import", None,
        row.get("blind") == "1", row.get("control") == "1", _moment(row.get("at", "")), event,
    )  # fmt: skip


def _moment(text: str) -> str | None:
    try:
        at = datetime.fromisoformat(text.strip())
        return at.astimezone(UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError):
        return None


def _share(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None

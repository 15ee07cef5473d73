"""The desk that reviewers of one CSV share: what comes next for each of them, and the answers they send.

One desk a run in a server, used by all its sessions. Nothing here is the truth: the store's log is, and the desk follows it.
"""

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from panorama.decisions import Answer, Cell, Decision, Fold, Identity, Undo, Way, not_saved
from panorama.errors import PanoramaError
from panorama.reviewing import Positions, ReviewQueue, Shares, Standing
from panorama.reviews import ReviewStore
from panorama.suspects import ErrorCount, Kind

State = Literal["waiting", "mine", "decided", "skipped"]
Order = Literal["doubt", "image", "random"]

UNSUSPECTED = 0.05  # a cell of less doubt may be a control
_LEASE_SECONDS = 180.0
_LANE = 20_000  # cells kept in order; the next ones are found when these run out
_KEPT_LANES = 24
_RANK_EVERY_SECONDS = 5.0
_RANK_AT_ONCE = 100_000  # cells: up to here every decision re-ranks at once
_LONGEST_NOTE, _LONGEST_NAME = 4000, 200
_DRAWS = 1 << 14


@dataclass(frozen=True)
class Filters:
    """Which cells a reviewer goes through, and in which order. label, kind, split: None for all. low, high: doubts, in [0, 1].

    state: "waiting" nobody has decided; "mine" I have not, whoever else has (for second opinions); "decided"; "skipped".
    reviewer: with "decided" or "skipped", by whom (None: anybody). search: part of a file name. image: one image alone.
    """

    label: str | None = None
    kind: str | None = None
    split: str | None = None
    low: float = 0.0
    high: float = 1.0
    state: State = "waiting"
    reviewer: str | None = None
    order: Order = "doubt"
    search: str = ""
    image: str | None = None


@dataclass(frozen=True)
class Slot:
    """A place in somebody's queue. control: an unsuspected cell that was mixed in."""

    cell: int
    control: bool = False


@dataclass(frozen=True)
class Reviewer:
    """Who decides: a name ("" for somebody who gave none), and whether it was declared or comes from a login. session: where they sit; "": nobody knows."""

    name: str = ""
    identity: Identity = "declared"
    session: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class Contradiction:
    """An answer that now counts in the place of another one that the same person gave elsewhere, after the tab was shown how the cell stands."""

    client: str
    number: int
    before: Decision
    now: Decision


@dataclass
class Receipt:
    """What became of a tab's events. acked: the number up to which all are stored or refused for good; -1: none. refused: (number, why)."""

    acked: int = -1
    refused: list[tuple[int, str]] = field(default_factory=list)
    restored: list[tuple[int, int]] = field(default_factory=list)  # (number of an undo, cell it gave back)
    error: str = ""  # nothing was stored, and why; the tab sends the events again
    rows: list[Decision] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)


@dataclass
class _Lane:
    """The first cells that fit some filters, in order. more: whether others follow. in_state and n_left follow every decision."""

    cells: Positions
    more: bool
    fits: npt.NDArray[np.bool_]  # (n_cells,), whether decided or not
    in_state: npt.NDArray[np.bool_]  # (n_cells,): those in the state asked for; of waiting ones the desk's own
    n_left: int  # that fit and are in the state asked for
    used_at: float = 0.0


_Holder = tuple[str, str]  # a reviewer's name, and one of their sessions
_LaneKey = tuple[Filters, str]  # the filters, and of "mine" the reviewer's name


@dataclass(frozen=True)
class _Ranking:
    """What decisions have taught up to one moment. errors: as counted then."""

    doubts: Shares
    errors: list[ErrorCount]
    lanes: dict[_LaneKey, _Lane]


def _in_background(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()


class _Seat(NamedTuple):
    """What a session goes through. by_image: whole pictures."""

    name: str
    filters: Filters
    by_image: bool


class Desk:
    """What all sessions share of one run's review. Methods may be called from any thread.

    Up to 100,000 cells every decision re-ranks those that wait, before anything else is shown. Of more, the ranking follows in the background,
    some seconds behind, so that no key waits for it. later: runs such work.
    """

    def __init__(
        self, queue: ReviewQueue, store: ReviewStore, run: str, *,
        now: Callable[[], float] = time.monotonic, later: Callable[[Callable[[], None]], None] = _in_background,
    ) -> None:  # fmt: skip
        self.queue, self.store, self.run, self._now, self._later = queue, store, run, now, later
        self._lock = threading.RLock()
        self.made = time.time_ns()  # tells this reading of the run from another one, whose cells may stand elsewhere
        self._fold = Fold()
        self._open = np.ones(len(queue.doubts), bool)  # nobody has decided or skipped it, and it is in no conflict
        self._leases: dict[int, dict[_Holder, float]] = {}  # cell -> who has it on screen -> until
        self._seats: dict[str, _Seat] = {}  # session -> under which name it holds cells, and of what
        self._unsuspected_of: tuple[object, Positions] = (None, np.empty(0, np.int64))
        self._answers: dict[
            str, dict[int, Decision]
        ] = {}  # a tab's id, as of one load -> its rows that were not taken back, by id
        self._taught = 0  # decisions and undos so far, which the ranking learns from
        self.refresh()
        self._ranked_up_to, self._rank_next_at, self._is_ranking = self._taught, self._now() + _RANK_EVERY_SECONDS, False
        self._ranking = self._ranked()

    @property
    def fold(self) -> Fold:
        """What stands as of the last `refresh`, for looking up single cells: it changes while others decide. See `snapshot`."""
        return self._fold

    def snapshot(self) -> Fold:
        """What stands now, as a copy that nobody changes."""
        with self._lock:
            return self._fold.copy()

    def reviewers(self) -> list[str]:
        """Who decided anything that was not taken back, by name."""
        with self._lock:
            return self._fold.reviewers()

    def latest(self, reviewer: str) -> list[Decision]:
        """The latest answer under this name that was not taken back, then those that were confirmed together with it."""
        with self._lock:
            mine = [row for row in reversed(self._fold.rows()) if row.reviewer == reviewer]
        return [row for n, row in enumerate(mine) if n == 0 or (row.batch is not None and row.batch == mine[0].batch)]

    def verdicts(self) -> Counter[str]:
        """How many standing decisions there are of each verdict."""
        with self._lock:
            return Counter(decision.verdict for decision in self._fold.standing.values())

    # --- what stands --------------------------------------------------------------------------------------------------

    def refresh(self) -> Fold:
        """Takes in what was decided since, here or elsewhere; returns the fold. Raises PanoramaError."""
        with self._lock:
            for row in self.store.log(self.queue.fingerprint, after=self._fold.last_id):
                self._take_in(row)
            return self._fold

    def _take_in(self, row: Decision) -> None:
        if row.id <= self._fold.last_id:
            return
        self._note(row)
        name = self._fold.add(row)
        cell = self.queue.find(*name)
        if cell is None:
            return
        was_open, is_open = self._open[cell], name not in self._fold.standing and name not in self._fold.conflicts
        self._open[cell] = is_open
        self._taught += row.verdict != "skip"
        if hasattr(self, "_ranking"):
            self._move(cell, name, was_open)

    def _note(self, row: Decision) -> None:
        """Which tab said it, before the fold takes it in."""
        said = row if row.undoes is None else self._fold.find(row.undoes)
        client = said.event_id.rpartition(":")[0] if said is not None else ""
        if said is None or not client:
            return
        if row.undoes is None:
            self._answers.setdefault(client, {})[row.id] = row
        else:
            self._answers.get(client, {}).pop(said.id, None)

    def answers(self, clients: Iterable[str]) -> list[Decision]:
        """What the loads `clients` of one tab say now: of each cell the latest row that was not taken back."""
        with self._lock:
            rows = sorted((row for client in clients for row in self._answers.get(client, {}).values()), key=lambda row: row.id)
        return list({(row.image, row.label): row for row in rows}.values())

    def _move(self, cell: int, name: Cell, was_open: bool) -> None:
        """Takes the cell into the lanes of the states that it has come into, and out of the others: making them anew would cost each key a look at every cell."""
        for (filters, reviewer), lane in list(self._ranking.lanes.items()):
            was_in = was_open if filters.state == "waiting" else bool(lane.in_state[cell])
            lane.in_state[cell] = is_in = self._is_in_state(filters, reviewer, name, cell)
            lane.n_left += (int(is_in) - int(was_in)) * int(lane.fits[cell])
            if is_in and not was_in and lane.fits[cell] and not np.any(lane.cells == cell):
                del self._ranking.lanes[filters, reviewer]  # where it stands in the order only a new lane can say

    def doubts(self) -> Shares:
        """(n_cells,): the doubts after what was decided; of a large run as of some seconds ago."""
        with self._lock:
            if self._taught == self._ranked_up_to or self._is_ranking:
                return self._ranking.doubts
            if len(self.queue.doubts) <= _RANK_AT_ONCE:
                self._ranking, self._ranked_up_to = self._ranked(), self._taught
            elif self._now() >= self._rank_next_at:
                self._is_ranking = True
                self._later(self._rank)
            return self._ranking.doubts

    def _rank(self) -> None:
        """Ranks from a copy of what stands, and swaps the new ranking in whole."""
        began = self._now()
        try:
            with self._lock:
                standing, opened, up_to = dict(self._fold.standing), self._open.copy(), self._taught
                asked = {
                    key: opened if key[0].state == "waiting" else lane.in_state.copy()
                    for key, lane in self._ranking.lanes.items() if lane.used_at > began - _LEASE_SECONDS
                }  # fmt: skip
            found = self._ranked(standing)
            for key, in_state in asked.items():
                found.lanes[key] = self._made_lane(key[0], in_state, found.doubts)
            with self._lock:
                for key, lane in list(found.lanes.items()):
                    if not self._catch_up(lane, key, began):
                        del found.lanes[key]
                self._ranking, self._ranked_up_to = found, up_to
        finally:
            with self._lock:
                self._is_ranking = False
                # A ranking that takes long comes seldom: it computes where keys are answered.
                self._rank_next_at = self._now() + max(_RANK_EVERY_SECONDS, 10 * (self._now() - began))

    def _catch_up(self, lane: _Lane, key: _LaneKey, began: float) -> bool:
        """Brings a lane made from a copy up to what was decided since; False where only a new one can be right."""
        if key[0].state != "waiting" and key not in self._ranking.lanes:
            return False
        now = self._open if key[0].state == "waiting" else self._ranking.lanes[key].in_state
        has_come = bool(np.any(now & ~lane.in_state & lane.fits))
        lane.in_state, lane.n_left, lane.used_at = now, int(np.count_nonzero(lane.fits & now)), began
        return not has_come

    def _ranked(self, standing: Standing | None = None) -> _Ranking:
        standing = self._fold.standing if standing is None else standing
        doubts = self.queue.learned(standing).astype(np.float32)
        return _Ranking(doubts, self.queue.errors(standing, doubts), {})

    def doubt(self, cell: int) -> float:
        """The doubt of a cell as it stands."""
        return float(self.doubts()[cell])

    def errors(self) -> list[ErrorCount]:
        """As `ReviewQueue.errors`, of what had been decided at the latest ranking."""
        with self._lock:
            self.doubts()
            return self._ranking.errors

    def worst_kind(self) -> tuple[str, Kind]:
        """The label and kind with the most errors still to find."""
        with self._lock:
            doubts = np.where(self._open, self.doubts(), 0)
        left = np.bincount(self.queue.label_of * 2 + self.queue.given, doubts, minlength=2 * len(self.queue.labels))
        label, value = divmod(int(left.argmax()), 2)
        return self.queue.labels[label], "extra" if value else "missing"

    # --- what comes next ----------------------------------------------------------------------------------------------

    def waiting(self, filters: Filters, reviewer: str) -> int:
        """How many cells fit the filters."""
        with self._lock:
            return self._lane(filters, reviewer).n_left

    def next(
        self, filters: Filters, who: Reviewer, n: int, *, n_answered: int = 0, control_share: float = 0.0, seed: int = 0
    ) -> list[Slot]:
        """The next `n` cells for a reviewer, kept from others for three minutes but for those who ask for the picture; fewer when few are left.

        n_answered: how many the reviewer has answered here, which decides, with `seed`, at which places a control stands: about
        `control_share` of all. Controls are cells of doubt under 0.05 that fit the label, kind and split, at random.
        """
        with self._lock:
            self._sit_down(who, filters, by_image=False)
            cells = self._next_cells(filters, who, n)
            slots = [Slot(int(cell)) for cell in cells]
            if control_share > 0 and filters.state == "waiting":
                slots = self._with_controls(slots, filters, who, n_answered, control_share, seed)[:n]
            self._keep((slot.cell for slot in slots), who)
            return slots

    def expected_wrong(self, filters: Filters, who: Reviewer, n: int) -> tuple[int, float]:
        """How many of the next `n` cells there are, and how many of them are expected to be wrong: the sum of their doubts."""
        with self._lock:
            cells = self._next_cells(filters, who, n)
            return len(cells), float(self.doubts()[cells].sum())

    def next_images(self, filters: Filters, who: Reviewer, n: int) -> list[int]:
        """Positions of the next images, the one with the most doubtful fitting cell first; leased with all their cells that wait."""
        with self._lock:
            self._sit_down(who, filters, by_image=True)
            cells = self._next_cells(filters, who, n * len(self.queue.labels))
            rows = list(dict.fromkeys(self.queue.image_of[cells].tolist()))[:n]
            self._keep((cell for cell in self.queue.cell_at[rows].ravel().tolist() if cell >= 0 and self._open[cell]), who)
            return rows

    def with_others(self, filters: Filters, who: Reviewer) -> Counter[str]:
        """Of the cells that fit the filters, how many others have on screen, by whom: they are not given out unless a picture is asked for."""
        if filters.state != "waiting":
            return Counter()
        with self._lock:
            now, lane = self._now(), self._lane(filters, who.name)
            held = [self._holders(cell, who, now) for cell in self._leases if lane.in_state[cell] and lane.fits[cell]]
            return Counter(min(names) for names in held if names)

    def _sit_down(self, who: Reviewer, filters: Filters, *, by_image: bool) -> None:
        """Whoever goes on under another name, or with other filters, gives back what the session held before."""
        if not who.session:
            return
        seat = _Seat(who.name, filters, by_image)
        before = self._seats.get(who.session, seat)
        if before != seat:
            for holders in self._leases.values():
                holders.pop((before.name, who.session), None)
        self._seats[who.session] = seat

    def _keep(self, cells: Iterable[int], who: Reviewer) -> None:
        """Keeps cells from others for a while, but for those that somebody else has. Whoever gives no name keeps nothing from the one they become."""
        if who.name:
            now = self._now()
            until = now + _LEASE_SECONDS
            for cell in cells:
                if not self._is_free(cell, who, now):
                    continue
                self._leases.setdefault(cell, {})[who.name, who.session] = until

    def _holders(self, cell: int, who: Reviewer, now: float) -> set[str]:
        """The other names that have the cell on screen."""
        return {name for (name, _), until in self._leases.get(cell, {}).items() if name != who.name and until > now}

    def _is_free(self, cell: int, who: Reviewer, now: float) -> bool:
        return not self._holders(cell, who, now)

    def _next_cells(self, filters: Filters, who: Reviewer, n: int) -> list[int]:
        lane = self._lane(filters, who.name)
        cells = lane.cells[lane.in_state[lane.cells]]
        if len(cells) < n and lane.more:
            self._ranking.lanes.pop(self._key(filters, who.name), None)
            cells = self._lane(filters, who.name).cells
        is_asked_for = filters.image is not None  # by a link, whoever has it on screen
        if is_asked_for or filters.state not in ("waiting", "mine"):
            return [int(cell) for cell in cells[:n]]
        now = self._now()
        if len(self._leases) > 4096:
            self._leases = {cell: held for cell, held in self._leases.items() if max(held.values(), default=0.0) > now}
            sessions = {session for held in self._leases.values() for _, session in held}
            self._seats = {session: seat for session, seat in self._seats.items() if session in sessions}
        found = []
        for cell in cells[: n + len(self._leases)].tolist():
            if filters.state == "mine" or self._is_free(cell, who, now):
                found.append(cell)
                if len(found) == n:
                    break
        return found

    def _key(self, filters: Filters, reviewer: str) -> _LaneKey:
        return filters, reviewer if filters.state == "mine" else ""

    def _lane(self, filters: Filters, reviewer: str) -> _Lane:
        doubts, key = self.doubts(), self._key(filters, reviewer)
        lanes = self._ranking.lanes
        if key not in lanes:
            chosen = self._open if filters.state == "waiting" else self._in_state(filters, reviewer)
            lanes[key] = self._made_lane(filters, chosen, doubts)
            for old in sorted(lanes, key=lambda one: lanes[one].used_at)[:-_KEPT_LANES]:
                if old != key:
                    del lanes[old]
        lanes[key].used_at = self._now()
        return lanes[key]

    def _made_lane(self, filters: Filters, in_state: npt.NDArray[np.bool_], doubts: Shares) -> _Lane:
        fits = self._fits(filters)
        if filters.low > 0:
            fits &= doubts >= filters.low
        if filters.high < 1:
            fits &= doubts <= filters.high
        cells = np.flatnonzero(fits & in_state)
        n_left = len(cells)
        if filters.order == "random":
            cells = np.random.default_rng(0).permutation(len(fits))
            cells = cells[(fits & in_state)[cells]]
        elif filters.order == "image":
            cells = self._image_by_image(cells, fits)
        else:
            if n_left > _LANE:
                worst = np.argpartition(-doubts[cells], _LANE)[:_LANE]
                cells = np.sort(cells[worst])
            cells = cells[np.argsort(-doubts[cells], kind="stable")]
        return _Lane(cells[:_LANE], n_left > _LANE, fits, in_state, n_left)

    def _image_by_image(self, cells: Positions, fits: npt.NDArray[np.bool_]) -> Positions:
        """Pictures by the doubts of the run, which no decision moves: one is finished before the next one comes."""
        _, whole = self.queue.by_whole_image(np.flatnonzero(fits))
        place = np.empty(len(whole), np.int64)
        place[np.argsort(-whole, kind="stable")] = np.arange(len(whole))
        ordered: Positions = cells[np.lexsort((cells, place[self.queue.image_of[cells]]))]
        return ordered

    def _fits(self, filters: Filters) -> npt.NDArray[np.bool_]:
        images = None
        if filters.image is not None:
            images = np.zeros(len(self.queue.images), bool)
            images[[self.queue.position[filters.image]] if filters.image in self.queue.position else []] = True
        elif filters.search:
            wanted = filters.search.casefold()
            images = np.array([wanted in name.casefold() for name in self.queue.images], bool)
        return self.queue.fitting(label=filters.label, kind=filters.kind, split=filters.split, images=images)

    def _in_state(self, filters: Filters, reviewer: str) -> npt.NDArray[np.bool_]:
        fold = self._fold
        if filters.state == "mine":
            return ~self._mask(cell for cell in fold.of(reviewer))
        rows = fold.of(filters.reviewer) if filters.reviewer is not None else fold.standing
        skipped = filters.state == "skipped"
        named = [cell for cell, decision in rows.items() if (decision.verdict == "skip") == skipped]
        if not skipped and filters.reviewer is None:
            named += list(fold.conflicts)
        return self._mask(named)

    def _is_in_state(self, filters: Filters, reviewer: str, name: Cell, cell: int) -> bool:
        """As `_in_state`, of one cell."""
        if filters.state == "waiting":
            return bool(self._open[cell])
        if filters.state == "mine":
            return not any(row.reviewer == reviewer for row in self._fold.opinions(name))
        skipped = filters.state == "skipped"
        if filters.reviewer is not None:
            said = [row for row in self._fold.opinions(name) if row.reviewer == filters.reviewer]
            return bool(said) and (said[-1].verdict == "skip") == skipped
        stands = self._fold.standing.get(name)
        return (stands.verdict == "skip") == skipped if stands else not skipped and name in self._fold.conflicts

    def _mask(self, names: Iterable[Cell]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self.queue.doubts), bool)
        mask[[cell for name in names if (cell := self.queue.find(*name)) is not None]] = True
        return mask

    def _with_controls(
        self, slots: list[Slot], filters: Filters, who: Reviewer, n_answered: int, share: float, seed: int
    ) -> list[Slot]:
        """Before each place a control with such a chance that they make up `share`; the same places however often it is asked."""
        if not slots:
            return slots
        fill = iter(self._controls(filters, who, len(slots) + 1, seed, {slot.cell for slot in slots}))
        mixed: list[Slot] = []
        suspects = iter(slots)
        for place in range(n_answered, n_answered + len(slots)):
            is_control = np.random.default_rng((seed, place)).random() < share
            cell = next(fill, None) if is_control else None
            following = Slot(cell, control=True) if cell is not None else next(suspects, None)
            if following is not None:
                mixed.append(following)
        return mixed

    def _controls(self, filters: Filters, who: Reviewer, n: int, seed: int, taken: set[int]) -> list[int]:
        """The first `n` open ones of a random sequence that depends on the seed alone: what was decided meanwhile does not bend it."""
        unsuspected = self._unsuspected(filters)
        if not len(unsuspected):
            return []
        now, found = self._now(), dict[int, None]()
        for place in np.random.default_rng(seed).integers(len(unsuspected), size=_DRAWS).tolist():
            cell = int(unsuspected[place])
            if self._open[cell] and cell not in taken and self._is_free(cell, who, now):
                found[cell] = None
                if len(found) == n:
                    break
        return list(found)

    def _unsuspected(self, filters: Filters) -> Positions:
        """The cells from which controls are drawn: of the label, kind and split, of little doubt in the run, decided or not."""
        key = (filters.label, filters.kind, filters.split)
        with self._lock:
            if self._unsuspected_of[0] != key:
                chosen = replace(Filters(), label=filters.label, kind=filters.kind, split=filters.split)
                self._unsuspected_of = key, np.flatnonzero(self._fits(chosen) & (self.queue.doubts < UNSUSPECTED))
            return self._unsuspected_of[1]

    def unsuspected_left(self) -> int:
        """How many cells of little doubt nobody has decided."""
        with self._lock:
            return int(np.count_nonzero(self._open[self._unsuspected(Filters())]))

    # --- what comes in ------------------------------------------------------------------------------------------------

    def take(self, events: Sequence[Mapping[str, Any]], who: Reviewer, client: str, *, loads: Collection[str] = ()) -> Receipt:
        """Stores the events of the browser tab `client` in their order, all or none, and says what became of them. An event sent twice counts once.

        An event is {"n": its number in the tab, "image", "label", "value": 0, 1 or None for a skip, and maybe "who" (the name declared when
        the key was pressed), "note", "way", "batch", "blind", "control", "seen" (the last row of the log when the cell was shown)} or {"n", "undo": True, and maybe "of": number of the event to take back,
        "from": the tab's id when it had that number, or "event": the id of any event of this name; "back": the tab does not have it on screen}. Those that can never be
        stored are refused, each with a reason; where storing fails nothing is acknowledged, and `error` says so.
        """
        receipt = Receipt()
        absent = {event.get("n") for event in events if event.get("back") is True}
        ready: list[Answer | Undo] = []
        numbers: list[int] = []
        for event in events:
            number = event.get("n")
            if not isinstance(number, int):
                continue
            try:
                ready.append(self._event(event, number, who, client))
                numbers.append(number)
            except PanoramaError as error:
                receipt.refused.append((number, str(error)))
        try:
            rows = self.store.apply(self.queue.fingerprint, ready)
            with self._lock:
                self.refresh()
        except PanoramaError as error:
            return Receipt(error=str(error))
        receipt.rows = rows
        receipt.acked = max([*numbers, *(number for number, _ in receipt.refused)], default=-1)
        numbers_of = {event.event_id: number for event, number in zip(ready, numbers, strict=True)}
        seen = {
            event["n"]: event["seen"]
            for event in events
            if isinstance(event.get("seen"), int) and isinstance(event.get("n"), int)
        }
        with self._lock:
            for row in rows:
                cell = self.queue.find(row.image, row.label)
                if cell is not None:
                    self._leases.pop(cell, None)
                number = numbers_of.get(row.event_id, -1)
                before = self._contradicted(row, seen.get(number, 0), {client, *loads})
                if before is not None:
                    receipt.contradictions.append(Contradiction(client, number, before, row))
        # What a tab takes back by its number it has on screen again already, unless it says that it has not.
        number_of = {
            e.event_id: n for e, n in zip(ready, numbers, strict=True) if isinstance(e, Undo) and (e.of is None or n in absent)
        }
        for row in rows:
            cell = self.queue.find(row.image, row.label)
            if row.verdict == "undo" and row.event_id in number_of and cell is not None:
                receipt.restored.append((number_of[row.event_id], cell))
        return receipt

    def _contradicted(self, row: Decision, seen: int, own: Collection[str]) -> Decision | None:
        """The answer that this one goes against, where it is of the same person, of none of these tabs, and newer than what was seen."""
        if row.undoes is not None or self._fold.find(row.id) is None:
            return None
        before = self._fold.before(row)
        if before is None or before.value == row.value or before.id <= seen or before.event_id.rpartition(":")[0] in own:
            return None
        return before

    def unsettle(self, settled: Decision, who: Reviewer) -> None:
        """Takes a settlement back, whoever made it: what people said stands against each other again. Raises PanoramaError."""
        self.store.apply(
            self.queue.fingerprint,
            [Undo(settled.reviewer, settled.event_id, f"{settled.event_id}:back", (who.name, who.identity))],
        )
        self.refresh()

    def _event(self, event: Mapping[str, Any], number: int, who: Reviewer, client: str) -> Answer | Undo:
        """Raises PanoramaError for one that can never be stored."""
        event_id = f"{client}:{number}"
        name = who.name
        if who.identity == "declared" and isinstance(event.get("who"), str):
            name = " ".join(event["who"].split())[:_LONGEST_NAME]
        if event.get("undo"):
            of, origin, known = event.get("of"), event.get("from", client), event.get("event")
            if isinstance(of, int) and isinstance(origin, str):
                return Undo(name, f"{origin}:{of}", event_id)
            return Undo(name, known if isinstance(known, str) else None, event_id)
        image, label, value = event.get("image"), event.get("label"), event.get("value")
        cell = self.queue.find(image, label) if isinstance(image, str) and isinstance(label, str) else None
        if cell is None or not isinstance(image, str) or not isinstance(label, str):
            raise not_saved(f"{image!r}, {label!r} is no cell of this run.")
        if value not in (0, 1, None) or isinstance(value, bool):
            raise not_saved(f"{image}, {label}: the answer is {value!r}; expected 0, 1 or none.")
        given = int(self.queue.given[cell])
        note, way, batch = event.get("note", ""), event.get("way", "cell"), event.get("batch")
        if not isinstance(note, str) or len(note) > _LONGEST_NOTE:
            raise not_saved(f"{image}, {label}: a note has at most {_LONGEST_NOTE:,} characters.")
        ways: tuple[Way, ...] = ("cell", "grid", "image", "settled")
        return Answer(
            image, label, given, "skip" if value is None else "keep" if value == given else "change", name,
            float(self.queue.probabilities[cell]), min(1.0, max(0.0, self.doubt(cell))), self.run, note, who.identity,
            way if way in ways else "cell", f"{client}:{batch}" if batch is not None else None,
            event.get("blind") is True, event.get("control") is True, None, event_id,
        )  # fmt: skip


class Desks:
    """The desks of a server: one a key for as long as anybody holds it, or two would give the same cell to two people. The newest few stay when nobody does."""

    def __init__(self, kept: int = 3) -> None:
        self._lock = threading.Lock()
        self._all: weakref.WeakValueDictionary[Hashable, Desk] = weakref.WeakValueDictionary()
        self._newest: dict[Hashable, Desk] = {}
        self._kept = kept

    def get(self, key: Hashable, make: Callable[[], Desk]) -> Desk:
        """The desk of a key, made, one at a time, if there is none."""
        found = self._all.get(key)
        if found is None:
            with self._lock:
                found = self._all.get(key)
                if found is None:
                    found = self._all[key] = make()
        self._newest.pop(key, None)
        self._newest[key] = found
        for old in list(self._newest)[: -self._kept]:
            self._newest.pop(old, None)
        return found

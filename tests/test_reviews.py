"""The only irreplaceable file: nothing acknowledged is lost, nothing is changed after the fact, nothing is made up."""

import csv
import io
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panorama import reviews
from panorama.decisions import Decision, Fold, change_log, corrections
from panorama.errors import PanoramaError
from panorama.reviews import ReviewStore

ROOT = Path(__file__).parents[1]


class World:
    """A store with short verbs; the CSV is "csv", the label "sea" and the given value 0 unless told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = ReviewStore(path)

    def record(self, image: str, verdict: str = "change", **values: object) -> Decision:
        defaults = {"csv": "csv", "label": "sea", "given": 0}
        return self.store.record(**{**defaults, **values, "image": image, "verdict": verdict})  # type: ignore[arg-type]

    def undo(self, **values: object) -> Decision | None:
        return self.store.undo(**{"csv": "csv", **values})  # type: ignore[arg-type]

    def standing(self) -> dict[str, str]:
        return {image: decision.verdict for (image, _), decision in self.store.current("csv").items()}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "reviews.sqlite")
    yield world
    world.store.close()


def row(id: int, image: str, verdict: str, undoes: int | None = None, *, label: str = "sea", given: int = 0) -> Decision:
    return Decision(
        id, f"e{id}", "csv", image, label, given, verdict, undoes, "ada", 0.25, 0.9, None, "", "2026-11-01T10:00:00+00:00"
    )  # type: ignore[arg-type]


# ---- the fold


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ([], {}),
        ([row(1, "a", "keep")], {"a": 1}),
        ([row(1, "a", "keep"), row(2, "a", "change")], {"a": 2}),
        ([row(1, "a", "change"), row(2, "b", "skip")], {"a": 1, "b": 2}),
        ([row(1, "a", "change"), row(2, "a", "undo", 1)], {}),
        ([row(1, "a", "keep"), row(2, "a", "change"), row(3, "a", "undo", 2)], {"a": 1}),
        ([row(1, "a", "keep"), row(2, "b", "change"), row(3, "b", "undo", 2), row(4, "a", "undo", 1)], {}),
        ([row(1, "a", "keep"), row(2, "a", "undo", 1), row(3, "a", "skip")], {"a": 3}),
        ([row(1, "a", "keep"), row(2, "a", "change"), row(3, "a", "undo", 1)], {"a": 2}),
    ],
)
def test_what_stands_by_hand_made_tables(log: list[Decision], expected: dict[str, int]) -> None:
    assert {image: decision.id for (image, _), decision in Fold(log).standing.items()} == expected


def test_two_labels_of_one_image_are_two_cells() -> None:
    log = [row(1, "a", "change"), row(2, "a", "keep", label="trees")]
    assert {cell: decision.id for cell, decision in Fold(log).standing.items()} == {("a", "sea"): 1, ("a", "trees"): 2}


def test_only_changes_are_corrections_and_they_turn_the_given_value() -> None:
    log = [row(1, "a", "change"), row(2, "b", "change", given=1), row(3, "c", "keep"), row(4, "d", "skip")]
    assert corrections(log) == {("a", "sea"): 1, ("b", "sea"): 0}


def test_later_keep_takes_a_change_back(world: World) -> None:
    world.record("a", "change", given=1)
    assert world.store.corrections("csv") == {("a", "sea"): 0}
    world.record("a", "keep", given=1)
    assert world.store.corrections("csv") == {}


# ---- recording


def test_decision_comes_back_as_it_was_given(tmp_path: Path) -> None:
    noon = datetime(2026, 11, 1, 13, 0, tzinfo=UTC)
    store = ReviewStore(tmp_path / "r.sqlite", now=lambda: noon)
    told = {"csv": "f00", "image": "a.jpg", "label": "sea", "given": 1, "verdict": "change", "reviewer": "ada"}
    told |= {"probability": 0.125, "doubt": 0.5, "run": "r1", "note": "a bay", "event_id": "e-1"}
    decision = store.record(**told)  # type: ignore[arg-type]
    assert decision == Decision(id=1, undoes=None, at="2026-11-01T13:00:00.000+00:00", **told)  # type: ignore[arg-type]
    assert ReviewStore(store.path).log("f00") == [decision]


def test_same_event_twice_counts_once(world: World) -> None:
    first = world.record("a", event_id="click")
    assert world.record("a", event_id="click") == first
    assert world.store.log("csv") == [first]
    taken_back = world.undo(event_id="back")
    assert world.undo(event_id="back") == taken_back
    assert len(world.store.log("csv")) == 2


def test_event_id_of_another_decision_is_refused_and_not_swallowed(world: World) -> None:
    world.record("a", "change", event_id="click")
    for again in (lambda: world.record("b", "change", event_id="click"), lambda: world.undo(event_id="click")):
        with pytest.raises(PanoramaError, match="NOT saved: the event id 'click' already belongs to a, sea: change"):
            again()
    assert world.standing() == {"a": "change"}


def test_events_without_an_id_are_all_different(world: World) -> None:
    ids = {world.record("a").event_id for _ in range(5)}
    assert len(ids) == len(world.store.log("csv")) == 5


NAUGHTY = [
    "",
    "a'; DROP TABLE decisions; --",
    '"quoted", with comma\nand line\r\n',
    "\ufeffBOM",
    "e\u0301 \u202eright to left\u202c \u200b",
    "😀 𝔘 \U0010ffff \ufffe",
    "nul\0inside",
    "../../etc/passwd",
    "<script>alert(1)</script> **bold** $x$",
    "%s {0} ?1 :name",
    " spaces\t",
    "x" * 100_000,
]


@pytest.mark.parametrize("text", NAUGHTY, ids=range(len(NAUGHTY)))
def test_strings_are_data_and_come_back_unchanged(world: World, text: str) -> None:
    decision = world.record(text, label=text, note=text, reviewer=text, run=text, csv=text)
    assert (decision.image, decision.label, decision.note, decision.reviewer, decision.run) == (text,) * 5
    assert ReviewStore(world.path).log(text) == [decision]


@pytest.mark.parametrize("field", ["image", "label", "note", "reviewer", "run", "csv", "event_id"])
def test_lone_surrogate_is_refused_rather_than_changed(world: World, field: str) -> None:
    values = {"image": "a", field: "bad\udcff"}
    with pytest.raises(PanoramaError, match=r"NOT saved: 'bad\\udcff' is not valid Unicode"):
        world.record(**values)  # type: ignore[arg-type]
    assert world.store.log("csv") == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"verdict": "maybe"}, "the verdict is 'maybe'; expected keep, change or skip"),
        ({"verdict": "undo"}, "the verdict is 'undo'"),
        ({"given": 2}, "a, sea: the given value is 2; expected 0 or 1"),
        ({"probability": float("nan")}, "the probability is nan; expected a number between 0 and 1"),
        ({"doubt": 1.5}, "the doubt is 1.5"),
    ],
)
def test_impossible_decision_is_refused_in_words(world: World, values: dict[str, object], words: str) -> None:
    with pytest.raises(PanoramaError, match=f"NOT saved: {words}"):
        world.record("a", **values)  # type: ignore[arg-type]
    assert world.store.log("csv") == []


def test_another_csv_is_unaffected(world: World) -> None:
    mine = world.record("a", csv="mine")
    world.record("a", "keep", csv="other")
    world.undo(csv="other")
    assert world.undo(csv="third") is None
    assert world.store.log("mine") == [mine]
    assert (world.store.current("other"), world.store.corrections("third")) == ({}, {})


# ---- undo


def test_undo_again_walks_back(world: World) -> None:
    for image, verdict in (("a", "keep"), ("a", "change"), ("b", "skip")):
        world.record(image, verdict)
    seen = []
    while taken := world.undo():
        seen.append((taken.undoes, taken.image, world.standing()))
    assert seen == [(3, "b", {"a": "change"}), (2, "a", {"a": "keep"}), (1, "a", {})]
    assert [d.verdict for d in world.store.log("csv")] == ["keep", "change", "skip", "undo", "undo", "undo"]


def test_undo_after_a_new_decision_takes_that_one(world: World) -> None:
    world.record("a")
    world.undo()
    world.record("b")
    taken = world.undo()
    assert taken is not None
    assert (taken.undoes, world.standing()) == (3, {})


def test_undo_of_a_reviewer_leaves_the_others_alone(world: World) -> None:
    world.record("a", reviewer="ada")
    world.record("b", reviewer="bob")
    taken = world.undo(reviewer="ada")
    assert taken is not None
    assert (taken.undoes, taken.reviewer) == (1, "ada")
    assert world.undo(reviewer="ada") is None
    assert world.standing() == {"b": "change"}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.sampled_from("abc"), st.sampled_from(["keep", "change", "skip"]), st.sampled_from("xy")),
        st.tuples(st.just("undo"), st.sampled_from(["x", "y", None])),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, number=st.just(itertools.count()))
def test_current_equals_a_naive_history(world: World, steps: list[tuple[str, ...]], number: Iterator[int]) -> None:
    name = f"csv {next(number)}"
    history: list[tuple[str, str, str]] = []  # what stands, as a list from which undo removes
    for step in steps:
        if step[0] == "record":
            world.record(step[1], step[2], reviewer=step[3], csv=name)
            history.append(step[1:])  # type: ignore[arg-type]
        else:
            mine = [i for i, (_, _, who) in enumerate(history) if step[1] in (who, None)]
            taken = world.undo(csv=name, reviewer=step[1])
            assert (taken is None) == (not mine)
            if mine:
                del history[mine[-1]]
    said: dict[str, dict[str, str]] = {}  # image -> who -> what they said last
    for image, verdict, who in history:
        said.setdefault(image, {}).pop(who, None)
        said[image][who] = verdict
    fold = world.store.fold(name)
    for image in "abc":
        verdicts = [verdict for verdict in said.get(image, {}).values() if verdict != "skip"]
        stands = fold.standing.get((image, "sea"))
        if len(set(verdicts)) > 1:
            assert stands is None
            assert {d.verdict for d in fold.conflicts[image, "sea"]} == {"keep", "change"}
        else:
            assert (stands and stands.verdict) == (verdicts[-1] if verdicts else "skip" if image in said else None)
            assert (image, "sea") not in fold.conflicts


# ---- append-only, versions, foreign files


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decisions SET verdict = 'keep'",
        "DELETE FROM decisions",
        "INSERT OR REPLACE INTO decisions SELECT * FROM decisions",
        "INSERT OR REPLACE INTO decisions SELECT 99, event_id, csv, 'z', label, given, verdict, undoes, reviewer,"
        " probability, doubt, run, note, at, identity, way, batch, blind, control FROM decisions",
    ],
)
def test_rows_cannot_be_changed_or_removed_by_sql(world: World, statement: str) -> None:
    before = [world.record("a")]
    with sqlite3.connect(world.path) as other, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        other.execute(statement)
    assert world.store.log("csv") == before


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_decision_is_not_called_saved_in_a_file_that_nobody_will_open_again(how: str, world: World, tmp_path: Path) -> None:
    world.record("a")
    copy = world.store.backup(tmp_path / "backups")
    if how == "replaced":
        copy.replace(world.path)
    elif how == "moved":
        world.path.rename(tmp_path / "elsewhere.sqlite")
    else:
        world.path.unlink()
    with pytest.raises(
        PanoramaError, match=r"NOT saved in .*moved, deleted or replaced while it was open. Start panorama again."
    ):
        world.record("b")
    with pytest.raises(PanoramaError, match="moved, deleted or replaced"):
        world.standing()
    again = World(world.path)
    assert again.standing() == ({"a": "change"} if how == "replaced" else {})
    again.store.close()


def test_file_of_a_newer_version_is_refused_and_left_alone(world: World) -> None:
    world.record("a")
    world.store._db.execute("PRAGMA user_version = 7")
    before = world.path.read_bytes()
    with pytest.raises(PanoramaError, match=r"newer panorama \(schema 7; this one reads 2\). Update panorama"):
        ReviewStore(world.path)
    assert world.path.read_bytes() == before


def test_foreign_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, database = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("these are notes, and not a database at all" * 40)
    with sqlite3.connect(database) as other:
        other.execute("CREATE TABLE decisions (mine)")
    for path, words in ((text, "not a SQLite database"), (database, "not of panorama's decisions")):
        before = path.read_bytes()
        with pytest.raises(PanoramaError, match=words):
            ReviewStore(path)
        assert path.read_bytes() == before


def test_file_is_synced_on_commit_and_not_in_wal_mode(world: World) -> None:
    pragmas = {name: world.store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert pragmas == {"journal_mode": "truncate", "synchronous": 2}


# ---- what can go wrong with a disk


def test_full_disk_says_that_the_decision_was_not_saved(world: World) -> None:
    first = world.record("a")
    pages = world.store._db.execute("PRAGMA page_count").fetchone()[0]
    world.store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(PanoramaError, match=r"decision was NOT saved in .*reviews.sqlite: the disk is full. Free some room"):
        world.record("b", note="long " * 5000)
    world.store._db.execute("PRAGMA max_page_count = 100000")
    assert world.store.log("csv") == [first]
    assert world.record("b").id > first.id  # and the store goes on working


def test_read_only_file_can_be_read_but_says_that_nothing_was_saved(world: World) -> None:
    first = world.record("a")
    world.store.close()
    connect = sqlite3.connect
    with pytest.MonkeyPatch.context() as patch:  # root may write anywhere: ask SQLite itself for a read-only file
        patch.setattr(sqlite3, "connect", lambda path, **options: connect(f"file:{path}?mode=ro", uri=True, **options))
        store = ReviewStore(world.path)
        assert store.log("csv") == [first]
        for write in (
            lambda: store.record(csv="csv", image="b", label="sea", given=0, verdict="keep"),
            lambda: store.undo(csv="csv"),
        ):
            with pytest.raises(PanoramaError, match=r"decision was NOT saved .* read-only. Allow writing"):
                write()
        assert store.log("csv") == [first]
    again = store.record(csv="csv", image="b", label="sea", given=0, verdict="keep")
    assert store.log("csv") == [first, again], "writing is allowed: deciding again is enough, as the words say"


def test_file_held_by_another_program_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "_BUSY_SECONDS", 0.1)
    world = World(tmp_path / "reviews.sqlite")
    holder = sqlite3.connect(world.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(PanoramaError, match=r"NOT saved .* another program has held it for 0.1 seconds"):
        world.record("a")
    holder.execute("ROLLBACK")
    world.record("b")
    assert world.standing() == {"b": "change"}


def test_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PanoramaError, match="cannot be opened"):
        ReviewStore(tmp_path / "file" / "reviews.sqlite")


def test_failure_inside_a_transaction_leaves_no_half_row_and_no_lock(world: World) -> None:
    def broken() -> datetime:
        raise KeyboardInterrupt

    world.store._now = broken
    with pytest.raises(KeyboardInterrupt):
        world.record("a")
    other = World(world.path)
    other.record("b")
    assert other.standing() == {"b": "change"}


# ---- several at once, and kill -9

CHILD = """
    import sys
    from contextlib import nullcontext
    from pathlib import Path
    from panorama.reviews import ReviewStore
    path, name, count, mode = sys.argv[1:]
    store = ReviewStore(Path(path))
    if mode == "acknowledge before COMMIT":  # the negative control: one long transaction, committed "later"
        store._db.execute("BEGIN IMMEDIATE")
        store._transaction = nullcontext
    for i in range(int(count)):
        decision = store.record(csv="csv", image=f"{name} {i}", label="sea", given=0, verdict="keep", note="n" * 900)
        print(decision.event_id, flush=True)
"""


def child(path: Path, name: str, count: int, mode: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), name, str(count), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def acknowledged_until_killed(path: Path, name: str, after: int, mode: str = "") -> set[str]:
    """Start a writer, kill -9 it after so many acknowledged decisions, and return all that it acknowledged."""
    process = child(path, name, 10**6, mode)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    return {line.strip() for line in lines if line.endswith("\n")}


def stored(path: Path) -> set[str]:
    store = ReviewStore(path)
    assert store._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    ids = {decision.event_id for decision in store.log("csv")}
    store.close()
    return ids


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_acknowledged_decisions_survive_a_killed_process(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "reviews.sqlite", set()
    for attempt, after in enumerate((1, 7, 40)):
        acknowledged |= acknowledged_until_killed(path, f"child {attempt}", after)
        assert len(acknowledged) >= after
        assert acknowledged <= stored(path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_would_show_a_store_that_acknowledges_before_commit(tmp_path: Path) -> None:
    path = tmp_path / "reviews.sqlite"
    acknowledged = acknowledged_until_killed(path, "child", 20, "acknowledge before COMMIT")
    assert not acknowledged <= stored(path)


def test_two_processes_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "reviews.sqlite"  # neither finds a file: the schema is made once, too
    writers = [child(path, name, 40) for name in ("one", "two")]
    acknowledged = {line.strip() for writer in writers for line in writer.communicate(timeout=60)[0].splitlines()}
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(acknowledged) == 80
    assert stored(path) == acknowledged


def test_threads_share_one_store(world: World) -> None:
    start = threading.Barrier(8)

    def work(who: int) -> None:
        start.wait()
        for i in range(10):
            world.record(f"{who} {i}", event_id=f"{who} {i}")
            world.record("contested", event_id=f"same {i}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    log = world.store.log("csv")
    assert len(log) == len({decision.event_id for decision in log}) == 8 * 10 + 10
    assert [decision.id for decision in log] == sorted(decision.id for decision in log)


# ---- backup


def test_backup_is_a_store_with_the_same_log(tmp_path: Path) -> None:
    tick: Callable[[], datetime] = map(datetime(2026, 11, 1, tzinfo=UTC).__add__, map(timedelta, itertools.count())).__next__
    store = ReviewStore(tmp_path / "reviews.sqlite", now=tick)
    for image in "abc":
        store.record(csv="csv", image=image, label="sea", given=0, verdict="change")
    copy = store.backup(tmp_path / "backups")
    store.record(csv="csv", image="later", label="sea", given=0, verdict="keep")
    assert copy.name == "reviews-20261104T000000.000000Z.sqlite"
    assert ReviewStore(copy).log("csv") == store.log("csv")[:3]
    assert store.backup(tmp_path / "backups") != copy
    assert len(list((tmp_path / "backups").iterdir())) == 2


def test_backup_that_fails_is_said(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PanoramaError, match=r"No backup was made in .*The decisions themselves are as before"):
        world.store.backup(tmp_path / "file")


# ---- the change log


def test_change_log_has_only_changes_in_the_order_given() -> None:
    log = [row(1, "b", "change"), row(2, "c", "keep"), row(3, "a", "change", given=1), row(4, "d", "skip")]
    assert change_log(log) == (
        b"image,label,from,to,who,when,probability,note,identity\n"
        b'b,sea,0,1,ada,2026-11-01T10:00:00+00:00,0.25,,"name declared, not verified"\n'
        b'a,sea,1,0,ada,2026-11-01T10:00:00+00:00,0.25,,"name declared, not verified"\n'
    )


@pytest.mark.parametrize(
    ("note", "cell"),
    [
        ("=1+1", b"'=1+1"),
        ("+1", b"'+1"),
        ("-1", b"'-1"),
        ("@SUM(A1)", b"'@SUM(A1)"),
        ("\tx", b"'\tx"),
        ("\rx", b'"\'\rx"'),
        ('=HYPERLINK("http://x")', b'"\'=HYPERLINK(""http://x"")"'),
        ("a=1", b"a=1"),
        (" =1", b" =1"),
        ("'quoted", b"'quoted"),
        ("two\nlines, and comma", b'"two\nlines, and comma"'),
        ("Küste 😀", "Küste 😀".encode()),
        ("", b""),
    ],
)
def test_formulas_are_neutralised_in_the_change_log(note: str, cell: bytes) -> None:
    line = change_log([replace(row(1, "a", "change"), note=note)]).split(b"\n", 1)[1]
    assert line.endswith(b"," + cell + b',"name declared, not verified"\n')


@pytest.mark.parametrize("field", ["image", "label", "reviewer", "note"])
def test_every_text_of_the_change_log_is_neutralised(field: str) -> None:
    assert b"'=cmd" in change_log([replace(row(1, "a", "change"), **{field: "=cmd"})])


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_change_log_can_be_read_back(note: str) -> None:
    data = change_log([replace(row(1, note, "change"), note=note, probability=None)])
    (cells,) = list(csv.reader(io.StringIO(data.decode(), newline="")))[1:]
    assert (cells[0].removeprefix("'"), cells[7].removeprefix("'"), cells[6]) == (note.removeprefix("'"),) * 2 + ("",)

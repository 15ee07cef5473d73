"""What stands when several people decide, on tables made by hand; agreement and intervals against scikit-learn and scipy."""

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from panorama.datasets import corrected_csvs, sheet_parts
from panorama.decisions import (
    Answer,
    Decision,
    Fold,
    Undo,
    agreements,
    change_log,
    cohens_kappa,
    control_check,
    corrections,
    decisions_csv,
    read_answers,
    wilson_interval,
)
from panorama.errors import PanoramaError
from panorama.finding import find_source
from panorama.reviews import _SCHEMA, ReviewStore


def row(id: int, who: str, verdict: str, image: str = "a", **other: Any) -> Decision:
    values = {"given": 0, "undoes": None, "at": "2026-11-01T10:00:00.000+00:00"} | other
    return Decision(
        id, f"e{id}", "csv", image, "sea", values.pop("given"), verdict, values.pop("undoes"), who, None, None, None, "", **values
    )  # type: ignore[arg-type]


CELL = ("a", "sea")


@pytest.mark.parametrize(
    ("log", "stands", "conflict"),
    [
        ([row(1, "ada", "keep"), row(2, "bob", "keep")], 2, ()),
        ([row(1, "ada", "keep"), row(2, "bob", "change")], None, (1, 2)),
        ([row(1, "ada", "keep"), row(2, "bob", "skip")], 1, ()),
        ([row(1, "ada", "keep"), row(2, "bob", "change"), row(3, "ada", "change")], 3, ()),
        ([row(1, "ada", "keep"), row(2, "bob", "change"), row(3, "bob", "undo", undoes=2)], 1, ()),
        ([row(1, "ada", "keep"), row(2, "bob", "change"), row(3, "eve", "keep", way="settled")], 3, ()),
        ([row(1, "ada", "keep"), row(2, "bob", "change"), row(3, "eve", "keep", way="settled"), row(4, "bob", "change")], None, (3, 4)),
        ([row(1, "ada", "keep"), row(2, "bob", "change"), row(3, "eve", "keep", way="settled"), row(4, "cat", "keep")], 3, ()),
        ([row(1, "ada", "keep"), row(2, "bob", "change"), row(3, "eve", "keep", way="settled"), row(4, "eve", "undo", undoes=3)],
         None, (1, 2)),
        ([row(1, "ada", "change"), row(2, "ada", "skip")], 2, ()),
        ([row(1, "ada", "keep"), row(2, "bob", "change"), row(3, "ada", "change", way="settled"), row(4, "ada", "keep")], None, (2, 4)),
        ([row(1, "ada", "keep", identity="login"), row(2, "ada", "change")], None, (1, 2)),
        ([row(1, "ada", "keep", identity="login"), row(2, "bob", "keep", identity="login"), row(3, "eve", "change", way="settled")],
         None, (3, 1, 2)),
        ([row(1, "ada", "keep", identity="login"), row(2, "bob", "change", identity="login"),
          row(3, "eve", "change", way="settled", identity="login")], 3, ()),
    ],
)  # fmt: skip
def test_disagreement_is_a_conflict_until_a_person_settles_it(
    log: list[Decision], stands: int | None, conflict: tuple[int, ...]
) -> None:
    fold = Fold(log)
    found = fold.standing.get(CELL)
    assert (found.id if found else None) == stands
    assert tuple(decision.id for decision in fold.conflicts.get(CELL, ())) == conflict


def test_whoever_settles_a_conflict_keeps_their_own_opinion() -> None:
    log = [row(1, "ada", "keep"), row(2, "bob", "change"), row(3, "cat", "skip"), row(4, "bob", "keep", way="settled")]
    fold = Fold(log)
    assert [(d.id, d.reviewer, d.verdict) for d in fold.own(CELL)] == [
        (1, "ada", "keep"),
        (2, "bob", "change"),
        (3, "cat", "skip"),
    ]
    assert fold.settlement(CELL) == log[3]
    assert fold.own_of_all() == log[:3]
    fold.add(row(5, "bob", "undo", undoes=4))
    assert (fold.settlement(CELL), fold.find(4), fold.find(2)) == (None, None, log[1])
    disputed = Fold([row(1, "ada", "keep", identity="login"), row(2, "bob", "keep"), row(3, "eve", "change", way="settled")])
    assert disputed.settlement(CELL) == disputed.conflicts[CELL][0], "it is shown, though it does not hold"


def test_a_conflict_corrects_nothing() -> None:
    fold = Fold([row(1, "ada", "keep"), row(2, "bob", "change"), row(3, "bob", "change", "b")])
    assert corrections(fold.standing.values()) == {("b", "sea"): 1}


def test_kappa_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 2, (2, 30)).tolist()
        assert cohens_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))
    assert cohens_kappa([1, 1], [1, 1]) is None, "chance alone explains that they agree"
    assert cohens_kappa([1, 0], [1, 0]) == 1


def test_agreement_counts_cells_decided_twice_and_no_settlements() -> None:
    log = [
        row(1, "ada", "keep", "a"), row(2, "bob", "keep", "a"), row(3, "ada", "change", "b"), row(4, "bob", "keep", "b"),
        row(5, "ada", "change", "c"), row(6, "bob", "change", "c"), row(7, "bob", "keep", "only bob"), row(8, "cat", "skip", "a"),
        row(9, "cat", "keep", "b", way="settled"),
    ]  # fmt: skip
    (found,) = agreements(Fold(log))
    assert (found.first, found.second, found.cells, found.agreed) == ("ada", "bob", 3, 2)
    assert found.kappa == pytest.approx(cohen_kappa_score([0, 1, 1], [0, 0, 1]))


def test_the_interval_of_a_share_is_that_of_scipy() -> None:
    from scipy.stats import binomtest

    for k, n in [(0, 1), (0, 20), (1, 20), (10, 20), (20, 20), (3, 1000)]:
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_controls_tell_how_many_errors_may_be_left() -> None:
    log = [row(n, "ada", "change" if n == 1 else "keep", f"i{n}", control=True) for n in range(1, 21)]
    found = control_check([*log, row(30, "ada", "change", "no control"), row(31, "ada", "skip", "s", control=True)], 1000)
    assert found is not None
    assert (found.n, found.changed, found.left) == (20, 1, pytest.approx(50))
    assert found.low < 50 < found.high
    assert control_check([row(1, "ada", "keep")], 10) is None
    disputed = [row(1, "ada", "keep", control=True), row(2, "bob", "change"), row(3, "eve", "change", way="settled")]
    found = control_check(disputed, 10)
    assert found is not None
    assert (found.n, found.changed) == (1, 0), "the first look at a cell drawn at random, whatever became of it"


# ---- files


def test_exported_decisions_come_back_as_they_were(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "one.sqlite")
    texts = ["=1+1", "näme\n", '"', "ada"]
    answers = [Answer(f"i{n}", "sea", n % 2, v, reviewer=t, note=t, probability=0.25, blind=True, control=bool(n % 2))
               for n, (t, v) in enumerate(zip(texts, ["keep", "change", "skip", "change"], strict=True))]  # fmt: skip
    store.apply("csv", answers)
    data = decisions_csv(store.fold("csv"))
    cells = {(f"i{n}", "sea"): n % 2 for n in range(4)}
    again = ReviewStore(tmp_path / "two.sqlite")
    for _ in range(2):
        found, problems = read_answers(data, "d.csv", csv="csv", given=cells.get, reviewer="me")
        assert problems == []
        again.apply("csv", found)
    assert len(again.log("csv")) == 4, "the same file twice counts once"
    before, after = (s.fold("csv") for s in (store, again))
    same = ("image", "label", "given", "verdict", "reviewer", "note", "probability", "at", "blind", "control", "event_id")
    assert [[getattr(d, n) for n in same] for d in after.rows()] == [[getattr(d, n) for n in same] for d in before.rows()]
    assert decisions_csv(after).replace(b",import,", b",cell,") == data


def test_a_settlement_and_what_its_settler_said_before_both_come_back(tmp_path: Path) -> None:
    store, again = ReviewStore(tmp_path / "one.sqlite"), ReviewStore(tmp_path / "two.sqlite")
    store.apply("csv", [Answer("a", "sea", 0, "change", "ann"), Answer("a", "sea", 0, "keep", "bob")])
    store.apply("csv", [Answer("a", "sea", 0, "change", "ann", way="settled")])
    found, problems = read_answers(decisions_csv(store.fold("csv")), "d.csv", csv="csv", given={CELL: 0}.get, reviewer="")
    again.apply("csv", found)
    assert problems == []
    assert again.corrections("csv") == store.corrections("csv") == {CELL: 1}
    data = b"image,label,value,at\na,sea,1,0001-01-01T00:00:00+23:59\n"
    assert read_answers(data, "d.csv", csv="c", given={CELL: 0}.get, reviewer="")[0][0].at is None


def test_decisions_for_another_csv_come_in_once_and_those_that_do_not_fit_are_listed() -> None:
    data = b"image,label,given,value,reviewer,event_id,csv\na,sea,0,1,ada,e1,old\nb,sea,0,1,ada,e2,old\nc,sea,0,1,ada,e3,old\nd,sea,0,x,,,\n"
    cells = {("a", "sea"): 0, ("b", "sea"): 1, ("d", "sea"): 0}
    (answer,), problems = read_answers(data, "d.csv", csv="new", given=cells.get, reviewer="me")
    assert (answer.image, answer.verdict, answer.reviewer, answer.identity) == ("a", "change", "ada", "declared")
    assert answer.event_id != "e1", "the old CSV keeps its own"
    assert [problem.split(":")[0] for problem in problems] == ["d.csv, line 3", "d.csv, line 4", "d.csv, line 5"]
    assert "was 0 when it was decided and is 1" in problems[0]
    again, _ = read_answers(data, "d.csv", csv="new", given=cells.get, reviewer="me")
    assert again[0].event_id == answer.event_id


def test_a_plain_table_of_values_is_enough() -> None:
    (answer,), problems = read_answers(b"image,label,value\na,sea,0\n", "d.csv", csv="c", given={CELL: 1}.get, reviewer="me")
    assert (answer.verdict, answer.reviewer, problems) == ("change", "me", [])
    with pytest.raises(PanoramaError, match=r"no column label, value; expected at least image, label and value"):
        read_answers(b"image,x\na,1\n", "d.csv", csv="c", given={}.get, reviewer="")


# ---- the store


def test_what_was_confirmed_together_is_taken_back_together(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "r.sqlite")
    store.apply("csv", [Answer("x", "sea", 0, "change", "ada")])
    store.apply("csv", [Answer(image, "sea", 0, "keep", "ada", batch="b1") for image in "abc"])
    store.apply("csv", [Answer("y", "sea", 0, "change", "bob", event_id="bobs")])
    undone = Undo("ada")
    assert [d.image for d in store.apply("csv", [undone])] == ["c", "b", "a"]
    assert [d.image for d in store.apply("csv", [undone])] == ["c"], "the same event again writes nothing"
    assert {image for image, _ in store.current("csv")} == {"x", "y"}
    assert store.undo(csv="csv", reviewer="ada", of="bobs") is None, "nobody takes back what another said"
    assert store.undo(csv="csv", reviewer="bob", of="bobs") is not None


def test_several_events_are_all_or_nothing(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "r.sqlite")
    store.apply("csv", [Answer("a", "sea", 0, "keep", event_id="one")])
    with pytest.raises(PanoramaError, match="NOT saved"):
        store.apply("csv", [Answer("b", "sea", 0, "keep"), Answer("c", "sea", 0, "keep", event_id="one")])
    assert [d.image for d in store.log("csv")] == ["a"]


def test_a_file_of_the_first_version_is_backed_up_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "reviews.sqlite"
    with sqlite3.connect(path) as old:
        old.executescript(_SCHEMA)
        old.execute("PRAGMA application_id = 0x50414E4F")
        old.execute("PRAGMA user_version = 1")
        old.execute(
            "INSERT INTO decisions VALUES (1, 'e1', 'csv', 'a', 'sea', 0, 'change', NULL, 'ada', 0.5, 0.5, NULL, '', 'then')"
        )
    old.close()
    store = ReviewStore(path)
    (decision,) = store.log("csv")
    assert (decision.verdict, decision.identity, decision.way, decision.blind) == ("change", "declared", "cell", False)
    assert store.undo(csv="csv") is not None
    (backup,) = (tmp_path / "backups").glob("*.sqlite")
    with sqlite3.connect(backup) as saved:
        assert saved.execute("PRAGMA user_version").fetchone() == (1,)
        assert saved.execute("SELECT count(*) FROM decisions").fetchone() == (1,)
    assert len(ReviewStore(path).log("csv")) == 2, "once"


WHO = st.sampled_from(["ada", "bob"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.integers(0, 5), st.sampled_from(["keep", "change", "skip"]), WHO, st.sampled_from([None, "b1", "b2"])),
        st.tuples(st.just("undo"), WHO),
        st.tuples(st.just("settle"), st.integers(0, 5), st.sampled_from(["keep", "change"]), WHO),
    ),
    max_size=15,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, number=st.just(itertools.count()))
def test_the_state_is_the_fold_of_the_log_and_undoing_everything_gives_the_original_bytes(
    steps: list[tuple[Any, ...]], number: Iterator[int], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    if not data.exists():
        data.mkdir()
        (data / "labels.csv").write_bytes(
            b"\xef\xbb\xbfname;sea;trees\r\ni0.jpg;0;1\r\n'i1.jpg';1;0\n\"i2.jpg\";0 ;1\r\ni3.jpg;1;1\ni4.jpg;0;0\ni5.jpg;1;0"
        )
        store = ReviewStore(tmp_path / "r.sqlite")
        store.close()
    original = (data / "labels.csv").read_bytes()
    parts = sheet_parts(find_source(data), decided={"i0.jpg"})
    names, targets = parts[0].sheet.images, parts[0].sheet.targets
    store, csv = ReviewStore(tmp_path / "r.sqlite"), f"csv {next(number)}"
    fold = Fold()
    for step in steps:
        if step[0] == "undo":
            rows = store.apply(csv, [Undo(step[1])])
        else:
            verdict, who = step[2], step[3]
            how = {"way": "settled"} if step[0] == "settle" else {"batch": step[4] and f"{csv} {step[4]}"}
            rows = store.apply(csv, [Answer(names[step[1]], "sea", int(targets[step[1]][0]), verdict, who, **how)])
        for added in rows:
            fold.add(added)
    again = Fold(store.log(csv))
    assert (again.standing, again.conflicts) == (fold.standing, fold.conflicts), "one by one or at once"
    changed = corrections(fold.standing.values())
    exported = corrected_csvs(parts, changed)["labels.csv"]
    assert (exported == original) == (not changed)
    for who in ("ada", "bob"):
        while store.undo(csv=csv, reviewer=who):
            pass
    left = store.fold(csv)
    assert (left.standing, left.conflicts, left.rows()) == ({}, {}, [])
    assert corrected_csvs(parts, corrections(left.standing.values()))["labels.csv"] == original
    store.close()


@pytest.mark.parametrize(
    ("log", "who"),
    [
        ([row(1, "ada", "change"), row(2, "bob", "change")], "ada; bob"),
        ([row(1, "ada", "change"), row(2, "", "change")], "ada; no name"),
        ([row(1, "ada", "change"), row(2, "bob", "skip")], "ada"),
        ([row(1, "ada", "change"), row(2, "bob", "keep"), row(3, "eve", "change", way="settled")], "eve (settled); ada"),
        ([row(1, "ada", "change"), row(2, "bob", "keep"), row(3, "bob", "change", way="settled")], "bob (settled); ada"),
    ],
)
def test_the_change_log_names_everybody_who_said_so_and_who_settled(log: list[Decision], who: str) -> None:
    fold = Fold(log)
    _, line = change_log(fold.standing.values(), fold).decode().splitlines()
    assert line.split(",")[4] == who

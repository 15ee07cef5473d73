"""The desk: what comes next for whom, and what becomes of what they send. Orders are worked out by hand."""

import dataclasses
import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_reviewing import FOUR, a_queue

from panorama.decisions import Answer, control_check
from panorama.errors import PanoramaError
from panorama.reviewing import ReviewQueue
from panorama.reviews import ReviewStore
from panorama.workbench import UNSUSPECTED, Desk, Desks, Filters, Receipt, Reviewer

ADA, BOB = Reviewer("ada"), Reviewer("bob")


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def store(home: Path) -> ReviewStore:
    return ReviewStore(home / "reviews.sqlite")


def names(desk: Desk, cells: list[int]) -> list[str]:
    return ["_".join(desk.queue.name(cell)) for cell in cells]


def asked(desk: Desk, filters: Filters | None = None, who: Reviewer = ADA, n: int = 10) -> list[str]:
    return names(desk, [slot.cell for slot in desk.next(filters or Filters(), who, n)])


def said(n: int, cell: str, value: int | None, **more: Any) -> dict[str, Any]:
    image, label = cell.split("_")
    return {"n": n, "image": image, "label": label, "value": value, **more}


def many(n_images: int, doubts: list[float] | None = None) -> ReviewQueue:
    """One label, missing everywhere; doubts falling, or as given."""
    given = doubts or [0.9 - 0.8 * i / n_images for i in range(n_images)]
    return a_queue([(f"i{i:04}", "sea", 0, 0.5, 0.5, "hard", d) for i, d in enumerate(given)])


# --- what comes next


def test_the_most_doubtful_cells_come_first_and_filters_leave_others_out(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    assert asked(desk) == ["a_sea", "b_sea", "a_trees", "b_trees"]
    assert asked(desk, Filters(label="trees")) == ["a_trees", "b_trees"]
    assert asked(desk, Filters(kind="extra", image="b")) == ["b_trees"]
    assert asked(desk, Filters(low=0.35, high=0.55)) == ["b_sea", "a_trees"]
    assert asked(desk, Filters(search="B")) == ["b_sea", "b_trees"]
    assert asked(desk, Filters(image="nobody")) == []
    assert asked(desk, Filters(split="test")) == []
    assert sorted(asked(desk, Filters(order="random"))) == sorted(asked(desk))
    assert desk.waiting(Filters(label="sea"), "ada") == 2


def test_decided_and_skipped_cells_are_gone_and_can_be_asked_for(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    desk.take([said(0, "a_sea", 0), said(1, "b_trees", None)], ADA, "tab")
    assert asked(desk) == ["a_trees", "b_sea"], "a kept sea makes the other one less doubtful"
    assert asked(desk, Filters(state="decided")) == ["a_sea"]
    assert asked(desk, Filters(state="skipped")) == ["b_trees"]
    assert asked(desk, Filters(state="decided", reviewer="bob")) == []
    assert len(asked(desk, Filters(state="mine"), BOB)) == 4, "what others said does not count"
    assert asked(desk, Filters(state="mine"), ADA) == ["a_trees", "b_sea"]


def test_picture_by_picture_finishes_one_before_the_next(store: ReviewStore) -> None:
    """b is wrong somewhere with 0.7, a with 0.604 (tests/test_reviewing.py)."""
    desk = Desk(a_queue([
        ("a", "sea", 0, 0.9, 0.9, "slip", 0.6), ("b", "sea", 0, 0.9, 0.9, "slip", 0.5),
        ("b", "trees", 0, 0.9, 0.9, "slip", 0.4), ("a", "trees", 0, 0.1, 0.1, "slip", 0.01),
    ]), store, "run")  # fmt: skip
    order = Filters(order="image")
    assert asked(desk, order) == ["b_sea", "b_trees", "a_sea", "a_trees"]
    desk.take([said(0, "b_sea", 0)], ADA, "tab")
    assert asked(desk, order) == ["b_trees", "a_sea", "a_trees"], "no decision moves a picture"
    assert [desk.queue.images[row] for row in desk.next_images(Filters(), ADA, 5)] == ["a", "b"], "by the worst cell that is left"


def test_two_reviewers_do_not_get_the_same_cell_unless_they_ask(store: ReviewStore) -> None:
    clock = Clock()
    desk = Desk(many(10), store, "run", now=clock)
    ada, bob = asked(desk, who=ADA, n=4), asked(desk, who=BOB, n=4)
    assert not set(ada) & set(bob)
    assert asked(desk, who=ADA, n=4) == ada, "the same again, for the same name in another tab"
    assert set(asked(desk, Filters(state="mine"), BOB, 10)) >= set(ada)
    clock.seconds = 181
    assert asked(desk, who=BOB, n=4) == ada, "who has gone away keeps nothing"


def test_a_link_to_a_picture_shows_it_whoever_has_it_on_screen(store: ReviewStore) -> None:
    desk = Desk(many(4), store, "run", now=Clock())
    first = asked(desk, who=ADA, n=4)[0]
    assert asked(desk, who=BOB) == []
    link = Filters(image=first.partition("_")[0])
    assert asked(desk, link, BOB) == [first]
    assert desk.next_images(link, BOB, 1) == [desk.queue.position[link.image or ""]]
    assert desk.with_others(link, BOB) == {"ada": 1}
    assert asked(desk, who=ADA, n=4)[0] == first, "and leaves it to who has it"
    assert asked(desk, Filters(state="mine"), BOB)[0] == first
    assert asked(desk, who=ADA, n=4)[0] == first, "a second opinion too"


def test_who_changes_their_name_gives_back_what_they_held_but_not_what_their_other_tab_shows(store: ReviewStore) -> None:
    desk = Desk(many(6), store, "run", now=Clock())
    everything = asked(desk, n=6)
    ann, eve = Reviewer("ann", session="first"), Reviewer("eve", session="second")
    desk = Desk(desk.queue, store, "run", now=Clock())
    assert asked(desk, who=ann, n=6) == everything
    assert asked(desk, who=eve) == []
    assert desk.with_others(Filters(), eve) == {"ann": 6}
    assert desk.with_others(Filters(search="i0001"), eve) == {"ann": 1}
    assert desk.with_others(Filters(state="decided"), eve) == {}
    assert asked(desk, who=Reviewer("anna", session="first")) == everything, "her own cells, at once"
    assert asked(desk, who=eve) == [], "and she keeps them under the new name"
    assert desk.with_others(Filters(), eve) == {"anna": 6}

    asked(desk, who=Reviewer("anna", session="third"), n=2)
    assert asked(desk, who=Reviewer("", session="first")) == everything[2:], "two are on screen in another tab of Anna's"
    assert asked(desk, who=eve) == everything[2:]


def test_a_whole_picture_is_given_back_with_the_name_too(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run", now=Clock())
    assert len(desk.next_images(Filters(), Reviewer("ann", session="first"), 2)) == 2
    assert desk.next_images(Filters(), BOB, 2) == []
    assert len(desk.next_images(Filters(), Reviewer("anna", session="first"), 1)) == 1
    assert len(desk.next_images(Filters(), BOB, 2)) == 1


def test_decisions_of_another_server_are_seen(store: ReviewStore, home: Path) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    ReviewStore(home / "reviews.sqlite").apply("csv", [Answer("a", "sea", 0, "change", "eve")])
    desk.refresh()
    assert "a_sea" not in asked(desk)


def test_the_next_ones_are_found_when_a_lane_runs_out(store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panorama.workbench._LANE", 3)
    monkeypatch.setattr("panorama.workbench._RANK_AT_ONCE", 0)
    desk = Desk(many(10), store, "run", now=Clock(), later=lambda work: work())
    seen = []
    for n in range(10):
        (name,) = asked(desk, n=1)
        seen.append(name)
        assert desk.waiting(Filters(), "ada") == 10 - n
        desk.take([said(n, name, 0)], ADA, "tab")
    assert seen == [f"i{i:04}_sea" for i in range(10)]
    assert asked(desk) == []


STATES = [Filters(state="mine"), Filters(state="decided"), Filters(state="skipped"), Filters(state="decided", reviewer="bob")]


def test_lanes_that_follow_each_decision_are_what_a_new_desk_shows(store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large run no lane is made anew with a decision: answers, skips, second opinions and undos at random move cells in and out."""
    monkeypatch.setattr("panorama.workbench._RANK_AT_ONCE", 0)
    clock, rng = Clock(), np.random.default_rng(0)
    desk = Desk(many(30), store, "run", now=clock, later=lambda work: work())
    for n in range(150):
        who = (ADA, BOB)[rng.integers(2)]
        event = (
            {"n": n, "undo": True}
            if rng.random() < 0.3
            else said(n, f"i{rng.integers(30):04}_sea", [0, 1, None][rng.integers(3)])
        )
        desk.take([event], who, "tab")
        clock.seconds += float(rng.choice([0, 6]))
        desk.doubts()
        if n % 5 == 0:
            new = Desk(desk.queue, store, "run")
            for filters in [*STATES, Filters()]:
                assert sorted(asked(desk, filters, n=30)) == sorted(asked(new, filters, n=30)), (n, filters)
                assert desk.waiting(filters, "ada") == new.waiting(filters, "ada"), (n, filters)


def test_second_opinions_do_not_look_at_the_whole_log_with_each_key(store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panorama.workbench._RANK_AT_ONCE", 0)
    desk = Desk(many(30), store, "run", now=Clock(), later=lambda work: work())
    mine = Filters(state="mine")
    first = asked(desk, mine)
    monkeypatch.setattr("panorama.decisions.Fold.of", lambda *_: pytest.fail("the whole log was read"))
    desk.take([said(0, first[0], 0)], ADA, "tab")
    assert asked(desk, mine)[:9] == first[1:]
    desk.take([{"n": 1, "undo": True}], ADA, "tab")
    assert asked(desk, mine) == first


def test_the_label_and_kind_with_most_to_find(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    assert desk.worst_kind() == ("sea", "missing"), "1.1 against 0.7"
    desk.take([said(0, "a_sea", 0)], ADA, "tab")
    assert desk.worst_kind() == ("trees", "extra")


def test_a_desk_in_use_is_never_made_a_second_time_however_many_others_are_opened(store: ReviewStore) -> None:
    desks = Desks(kept=3)
    made: list[str] = []

    def desk_of(run: str) -> Desk:
        return desks.get(run, lambda: made.append(run) or Desk(a_queue(FOUR), store, run))  # type: ignore[func-returns-value]

    ada = asked(held := desk_of("one"), n=2)
    for run in ("two", "three", "four", "five"):
        desk_of(run)
    assert not set(asked(desk_of("one"), who=BOB, n=2)) & set(ada), "Ada has these on screen"
    assert desk_of("one") is held
    assert made == ["one", "two", "three", "four", "five"]
    gc.collect()
    desk_of("two")
    assert made[5:] == ["two"], "what nobody holds is not kept for ever"
    threads = [threading.Thread(target=desk_of, args=("six",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[6:] == ["six"]


# --- controls


def test_controls_are_unsuspected_and_about_as_many_as_asked_for(store: ReviewStore) -> None:
    desk = Desk(many(600, [0.5] * 300 + [0.01] * 300), store, "run")
    n = 0
    controls = []
    while n < 200:
        (slot,) = desk.next(Filters(), ADA, 1, n_answered=n, control_share=0.2, seed=3)
        assert slot.control == (desk.queue.doubts[slot.cell] < UNSUSPECTED)
        controls.append(slot.control)
        desk.take([said(n, names(desk, [slot.cell])[0], 0, control=slot.control)], ADA, "tab")
        n += 1
    assert 25 <= sum(controls) <= 55, "20 % of 200, four standard deviations"
    check = control_check(desk.fold.rows(), desk.unsuspected_left())
    assert check is not None
    assert (check.n, check.changed) == (sum(controls), 0)
    assert desk.unsuspected_left() == 300 - sum(controls)


def test_controls_are_spread_over_all_doubts_however_many_were_decided_before(store: ReviewStore) -> None:
    """Ranks of a random sample of 40 among 4,000 are uniform: their mean is within four standard errors of the middle, and no quarter is empty."""
    desk = Desk(many(4200, [0.5] * 200 + [0.04 - 0.04 * i / 4000 for i in range(4000)]), store, "run")
    ranks = []
    for n in range(400):
        (slot,) = desk.next(Filters(), ADA, 1, n_answered=n, control_share=0.3, seed=5)
        if slot.control:
            ranks.append(slot.cell - 200)
        desk.take([said(n, names(desk, [slot.cell])[0], 0, control=slot.control)], ADA, "tab")
        if len(ranks) == 40:
            break
    assert len(ranks) == 40
    assert abs(np.mean(ranks) / 4000 - 0.5) < 4 * (1 / 12) ** 0.5 / 40**0.5
    assert set(np.array(ranks) // 1000) == {0, 1, 2, 3}


def test_controls_stand_where_they_stood_however_often_the_page_runs(store: ReviewStore) -> None:
    desk = Desk(many(100, [0.5] * 50 + [0.01] * 50), store, "run")
    first = desk.next(Filters(), ADA, 20, n_answered=5, control_share=0.5, seed=1)
    assert desk.next(Filters(), ADA, 20, n_answered=5, control_share=0.5, seed=1) == first
    assert desk.next(Filters(), ADA, 19, n_answered=5, control_share=0.5, seed=1) == first[:19]
    assert {slot.control for slot in first} == {True, False}
    assert not any(slot.control for slot in desk.next(Filters(), ADA, 20))


# --- what comes in


def test_events_become_decisions_in_their_order_and_twice_counts_once(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run 1")
    events = [said(0, "a_sea", 1, note="dim", blind=True), said(1, "b_sea", 0), said(2, "a_trees", None)]
    assert desk.take(events, ADA, "tab").acked == 2
    assert desk.take([*events, said(3, "b_trees", 0)], ADA, "tab").acked == 3
    log = store.log("csv")
    assert [(d.image, d.label, d.verdict) for d in log] == [
        ("a", "sea", "change"), ("b", "sea", "keep"), ("a", "trees", "skip"), ("b", "trees", "change"),
    ]  # fmt: skip
    assert (log[0].note, log[0].blind, log[0].reviewer, log[0].run, log[0].probability) == ("dim", True, "ada", "run 1", 0.9)
    assert (log[1].blind, log[1].given, log[3].given) == (False, 0, 1)


def test_an_undo_says_which_cell_it_gave_back(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    desk.take([said(0, "a_sea", 1), said(1, "b_sea", 1)], ADA, "tab")
    desk.take([{"n": 2, "undo": True, "of": 0}], ADA, "tab")
    assert set(desk.fold.standing) == {("b", "sea")}
    receipt = desk.take([{"n": 0, "undo": True}], ADA, "another tab of hers")
    assert names(desk, [receipt.restored[0][1]]) == ["b_sea"]
    receipt = desk.take([{"n": 1, "undo": True}], ADA, "another tab of hers")
    assert (receipt.acked, receipt.restored, receipt.error) == (1, [], ""), "nothing is left to take back"


def test_an_undo_by_its_number_gives_nothing_back_twice_and_the_name_is_that_of_the_press(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    events = [said(0, "a_sea", 1, who=" ann "), {"n": 1, "undo": True, "of": 0, "who": "ann"}, said(2, "a_sea", 0, who="ann")]
    receipt = desk.take(events, BOB, "tab")
    assert receipt.restored == [], "the tab has it on screen, or has answered it anew"
    assert {row.reviewer for row in store.log("csv")} == {"ann"}
    assert desk.fold.standing["a", "sea"].verdict == "keep"
    desk.take([said(0, "b_sea", 1, who="mallory")], Reviewer("eve@x.org", "login"), "another")
    assert store.log("csv")[-1].reviewer == "eve@x.org", "a login is not talked over"


def test_what_a_tab_has_answered_is_cells_by_their_latest_answer_that_stands(store: ReviewStore, home: Path) -> None:
    desk = Desk(a_queue(FOUR), store, "run")

    def says(*clients: str) -> dict[str, str]:
        return {f"{row.image}_{row.label}": row.verdict for row in desk.answers(clients)}

    desk.take([said(0, "a_sea", 1), said(1, "b_sea", 0), said(2, "a_trees", None)], ADA, "tab")
    desk.take([said(0, "b_trees", 0)], BOB, "his")
    assert says("tab") == {"a_sea": "change", "b_sea": "keep", "a_trees": "skip"}
    desk.take([said(0, "a_sea", 0)], ADA, "again")
    assert says("tab", "again") == {"a_sea": "keep", "b_sea": "keep", "a_trees": "skip"}, (
        "a cell is one cell, loaded twice or not"
    )
    desk.take([{"n": 1, "undo": True, "of": 0}, {"n": 2, "undo": True, "of": 1, "from": "tab", "back": True}], ADA, "again")
    assert says("again", "tab") == {"a_sea": "change", "a_trees": "skip"}
    desk.take([said(0, "a_sea", 0)], BOB, "his other")
    desk.take([said(0, "a_sea", 0, way="settled")], BOB, "settling")
    assert says("tab") == {"a_sea": "change", "a_trees": "skip"}, "what others say and settle changes nothing in it"
    assert says("nobody") == says() == {}
    assert [row.verdict for row in Desk(desk.queue, ReviewStore(home / "reviews.sqlite"), "run").answers(["tab"])] == [
        "change",
        "skip",
    ]


def test_an_answer_against_one_of_the_same_person_s_other_tab_is_told_and_nothing_else_is(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")

    def told(event: dict[str, Any], who: Reviewer, client: str, *loads: str) -> list[tuple[str, int, str, str]]:
        found = desk.take([event], who, client, loads=loads).contradictions
        return [(one.client, one.number, one.before.verdict, one.now.verdict) for one in found]

    assert told(said(0, "a_sea", 1, seen=0), ADA, "first") == []
    assert told(said(0, "a_sea", 1, seen=0), ADA, "second") == [], "the same answer twice contradicts nothing"
    assert told(said(1, "a_sea", 0, seen=0), ADA, "second") == [], "one's own answer is changed knowingly"
    assert told(said(1, "a_sea", 1, seen=0), ADA, "first") == [("first", 1, "keep", "change")]
    assert told(said(1, "a_sea", 1, seen=0), ADA, "first") == [("first", 1, "keep", "change")], "sent again, told again"
    assert len(store.log("csv")) == 4, "nothing is lost"
    assert desk.fold.standing["a", "sea"].verdict == "change"
    last = desk.fold.last_id
    assert told(said(0, "a_sea", 0, seen=last), ADA, "third") == [], "the tab was shown it"
    assert told(said(1, "a_sea", None, seen=last), ADA, "first", "third", "first") == [], "the tab has been loaded again"
    assert told(said(0, "a_sea", 1), BOB, "his") == [], "that is a conflict, which people settle"
    assert told(said(0, "b_sea", 1, seen=0), ADA, "first") == []
    desk.take([{"n": 5, "undo": True, "of": 0}], ADA, "first")
    assert told(said(9, "b_sea", 0, seen=0), ADA, "second") == [], "what was taken back is not contradicted"
    desk.take([{"n": 10, "undo": True, "of": 9}], ADA, "second")
    assert ("b", "sea") not in desk.fold.standing


def test_a_snapshot_does_not_change(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    before = desk.snapshot()
    desk.take([said(0, "a_sea", 1)], ADA, "tab")
    assert (before.standing, before.rows(), before.opinions(("a", "sea"))) == ({}, [], [])
    assert list(desk.snapshot().standing) == [("a", "sea")]


def test_nobody_undoes_what_another_said(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    desk.take([said(0, "a_sea", 1)], ADA, "tab")
    assert desk.take([{"n": 0, "undo": True}], BOB, "his").restored == []
    assert set(desk.fold.standing) == {("a", "sea")}


def test_what_was_confirmed_together_goes_back_together(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    desk.take([said(n, cell, 1, way="grid", batch=0) for n, cell in enumerate(["a_sea", "b_sea"])], ADA, "tab")
    assert [d.way for d in store.log("csv")] == ["grid", "grid"]
    desk.take([{"n": 2, "undo": True, "of": 0}], ADA, "tab")
    assert desk.fold.standing == {}


def test_what_was_confirmed_together_goes_back_together_when_its_first_answer_was_refused(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    both = [
        said(0, "ghost_sea", 1, way="image", batch=0),
        said(1, "a_sea", 1, way="image", batch=0),
        said(2, "a_trees", 0, way="image", batch=0),
    ]
    assert len(desk.take(both, ADA, "tab").refused) == 1
    desk.take([said(0, "b_sea", 1)], ADA, "another tab of hers")
    desk.take([{"n": 3, "undo": True, "of": 0}], ADA, "tab")
    assert set(desk.fold.standing) == {("b", "sea")}


def test_after_a_refresh_an_undo_names_its_own_event_and_brings_the_cell_back(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    desk.take([said(0, "a_sea", 1)], ADA, "tab")
    desk.take([said(0, "b_sea", 1)], ADA, "another tab of hers")
    receipt = desk.take([{"n": 0, "undo": True, "of": 0, "from": "tab", "back": True}], ADA, "tab, loaded again")
    assert names(desk, [cell for _, cell in receipt.restored]) == ["a_sea"]
    assert set(desk.fold.standing) == {("b", "sea")}
    (known,) = (row.event_id for row in store.log("csv") if row.image == "b")
    assert desk.take([{"n": 1, "undo": True, "event": known, "back": True}], BOB, "his").restored == [], "only of one's own name"
    receipt = desk.take([{"n": 1, "undo": True, "event": known, "back": True}], ADA, "tab, loaded again")
    assert names(desk, [cell for _, cell in receipt.restored]) == ["b_sea"]


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ({"n": 0, "image": "ghost", "label": "sea", "value": 1}, "no cell of this run"),
        ({"n": 0, "image": 5, "label": None, "value": 1}, "no cell of this run"),
        ({"n": 0, "image": "a", "label": "sea", "value": 2}, "expected 0, 1 or none"),
        ({"n": 0, "image": "a", "label": "sea", "value": True}, "expected 0, 1 or none"),
        ({"n": 0, "image": "a", "label": "sea", "value": 1, "note": "x" * 4001}, "at most 4,000 characters"),
        ({"n": 0, "image": "a", "label": "sea", "value": 1, "note": "\ud800"}, "not valid Unicode"),
    ],
)
def test_what_can_never_be_stored_is_refused_in_words_and_holds_nothing_up(
    store: ReviewStore, event: dict[str, Any], why: str
) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    receipt = desk.take([event, said(1, "a_sea", 1)], ADA, "tab")
    ((number, reason),) = receipt.refused
    assert (number, receipt.acked) == (0, 1)
    assert why in reason
    assert [(d.image, d.label) for d in store.log("csv")] == [("a", "sea")]


def test_events_without_a_number_are_passed_over(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    assert desk.take([{"image": "a", "label": "sea", "value": 1}, {"n": "1"}], ADA, "tab") == Receipt()
    assert store.log("csv") == []


def test_nothing_is_acknowledged_when_the_store_cannot_write(store: ReviewStore, home: Path) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    (home / "reviews.sqlite").rename(home / "moved.sqlite")
    receipt = desk.take([said(0, "a_sea", 1)], ADA, "tab")
    assert receipt.acked == -1
    assert "NOT saved" in receipt.error
    (home / "moved.sqlite").rename(home / "reviews.sqlite")
    assert desk.take([said(0, "a_sea", 1)], ADA, "tab").acked == 0
    assert len(store.log("csv")) == 1


def test_an_answer_of_another_is_a_conflict_and_settling_ends_it(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    desk.take([said(0, "a_sea", 1)], ADA, "tab")
    desk.take([said(0, "a_sea", 0)], BOB, "his")
    assert list(desk.fold.conflicts) == [("a", "sea")]
    assert "a_sea" not in asked(desk)
    desk.take([said(0, "a_sea", 1, way="settled")], BOB, "settling")
    assert desk.fold.conflicts == {}
    assert store.corrections("csv") == {("a", "sea"): 1}


def test_a_settlement_is_taken_back_by_anybody_but_a_declared_name_over_a_login(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run")
    desk.take([said(0, "a_sea", 1)], ADA, "tab")
    desk.take([said(0, "a_sea", 0)], BOB, "his")
    for number, (settler, undoer, is_back) in enumerate([
        (ADA, BOB, True), (Reviewer("eve@x.org", "login"), BOB, False), (ADA, Reviewer("eve@x.org", "login"), True),
    ]):  # fmt: skip
        desk.take([said(0, "a_sea", 1, way="settled")], settler, f"settling {number}")
        row = desk.fold.standing["a", "sea"]
        if is_back:
            desk.unsettle(row, undoer)
            desk.unsettle(row, undoer)
        else:
            with pytest.raises(PanoramaError, match="was logged in for this answer"):
                desk.unsettle(row, undoer)
            desk.unsettle(row, settler)
        assert list(desk.fold.conflicts) == [("a", "sea")]
        last = undoer if is_back else settler
        assert (store.log("csv")[-1].reviewer, store.log("csv")[-1].identity) == (last.name, last.identity)


def test_doubts_of_a_large_run_are_learned_again_after_some_seconds(store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panorama.workbench._RANK_AT_ONCE", 0)
    clock = Clock()
    desk = Desk(a_queue(FOUR), store, "run", now=clock, later=lambda work: work())
    desk.doubts()
    clock.seconds = 10
    desk.take([said(0, "a_sea", 0)], ADA, "tab")
    assert desk.doubt(1) < 0.4, "seconds have passed since the last ranking"
    before = desk.doubt(1)
    desk.take([said(1, "b_trees", 1)], ADA, "tab")
    assert desk.doubt(1) == before
    clock.seconds = 20
    assert np.any(desk.doubts() != dataclasses.replace(desk.queue).doubts)


def test_other_filters_or_another_way_give_back_what_was_held(store: ReviewStore) -> None:
    desk = Desk(a_queue(FOUR), store, "run", now=Clock())
    ann, eve = Reviewer("ann", session="first"), Reviewer("eve", session="second")
    assert len(asked(desk, who=ann)) == 4
    assert asked(desk, who=eve) == []
    assert asked(desk, Filters(label="sea"), ann) == ["a_sea", "b_sea"]
    assert asked(desk, who=eve) == ["a_trees", "b_trees"], "the sea is still on Ann's screen"
    desk.next_images(Filters(image="b"), ann, 1)
    assert "a_sea" in asked(desk, who=eve)

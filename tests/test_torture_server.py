"""The middle part of the attempts to break trainings and the server (tools/torture): too long for the default tests, minutes less than all of it."""

import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from tools.torture import server, training
from tools.torture.checks import Outcome
from tools.torture.soak import Sample, judged

pytestmark = pytest.mark.slow


def sound(outcome: Outcome) -> None:
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.wrong == ()
    assert outcome.tried > 0


def test_two_kills_at_random_moments_change_nothing() -> None:
    sound(training._asked("random", 2, ""))


def test_a_kill_inside_the_write_of_a_checkpoint_changes_nothing_and_a_worker_that_forgets_is_seen() -> None:
    sound(training._asked("writes", 2, ""))
    assert training._asked("writes", 1, "forgets").wrong


def test_some_of_what_stands_in_a_trainings_way_ends_in_words() -> None:
    sound(training._asked("hinder", 1, ""))


def test_who_has_not_logged_in_decides_chooses_and_trains_nothing() -> None:
    sound(server.closed(quick=False))


def samples(memory: list[int]) -> list[Sample]:
    return [Sample(10.0 * number, value * 10**6, 5, 30, 0, 0) for number, value in enumerate(memory)]


def test_memory_that_comes_and_goes_is_flat_and_memory_that_only_comes_is_not() -> None:
    rested = Sample(200.0, 210 * 10**6, 5, 11, 0, 0)
    assert judged(samples([150, 180, 200, 210, 200, 211, 199, 210, 203, 208]), rested) == []
    (said,) = judged(samples([200 + 6 * n for n in range(10)]), rested)
    assert said.startswith("memory grew by")


@pytest.mark.parametrize("what", ["threads", "handles", "children", "leftovers"])
def test_whatever_is_still_held_after_a_rest_is_named(what: str) -> None:
    piled_up = Sample(**{**vars(Sample(200.0, 200 * 10**6, 5, 11, 0, 0)), what: 40})
    (said,) = judged(samples([200] * 10), piled_up)
    assert said.startswith(f"{what}: ")

"""The time left: not before it can be known, by the recent pace, never "0 s" while there is work."""

from itertools import pairwise

import pytest

from panorama.countdown import Countdown, Steady, left_in_words, roughly


def test_nothing_is_said_of_the_first_steps() -> None:
    """A first step that takes eight seconds to warm up would make 26 minutes of 200 quick ones."""
    countdown = Countdown()
    assert countdown.left(0, 200, 0.0) is None
    assert countdown.left(1, 200, 8.0) is None
    assert countdown.left(2, 200, 8.1) is None
    quick = Countdown()
    assert [quick.left(done, 1000, done / 100) for done in range(200)] == [None] * 200, "two seconds are too few"


def test_steps_of_one_pace_take_what_is_left_of_them() -> None:
    countdown = Countdown()
    told = [countdown.left(done, 100, 100.0 + done / 2) for done in range(101)]
    assert told[:4] == [None] * 4
    assert told[4:] == pytest.approx([(100 - done) / 2 for done in range(4, 101)])


def test_what_was_quick_at_first_says_nothing_of_the_rest() -> None:
    """500 of 1,000 pictures are kept ready and pass in a second; the others take 0.1 s each, and 500 of those 50 s."""
    countdown = Countdown()
    countdown.left(0, 1000, 0.0)
    countdown.left(500, 1000, 1.0)
    told = [countdown.left(500 + n, 1000, 1.0 + n / 10) for n in range(1, 500)]
    assert told[300] == pytest.approx(19.9, rel=0.02), "after half a minute nothing is left of the first second"


def test_few_large_steps_are_timed_by_three_of_them() -> None:
    countdown = Countdown()
    told = [countdown.left(done, 10, 60.0 * done) for done in range(6)]
    assert told == [None, None, None, 7 * 60.0, 6 * 60.0, 5 * 60.0]


def test_an_estimate_that_jumps_is_followed_without_a_jump() -> None:
    """From 26 minutes to two: what is shown falls from one to the other over many seconds, and ends at the new one."""
    steady = Steady()
    assert steady.left(1560, 0.0) == 1560
    told = [1560.0, *(steady.left(120 - n, float(n)) or 0 for n in range(1, 110))]
    falls = [earlier - later for earlier, later in pairwise(told)]
    assert max(falls) < 1560 / 10
    assert min(falls) > 0
    assert told[-1] == pytest.approx(120 - 109, abs=1)


def test_the_last_seconds_are_not_said_for_a_quarter_of_a_minute() -> None:
    """Three seconds were left, and then the machine has other work: 12 are left."""
    steady = Steady()
    assert steady.left(3, 0.0) == 3
    told = [steady.left(12 - n, float(n)) or 0 for n in range(1, 12)]
    assert told[2:] == pytest.approx([12 - n for n in range(3, 12)], abs=4)
    assert told[5:] == pytest.approx([12 - n for n in range(6, 12)], abs=1)


def test_an_estimate_that_is_right_is_told_as_it_is_and_none_is_none() -> None:
    steady = Steady()
    assert [steady.left(100 - n, 7.0 + n) for n in range(50)] == pytest.approx([100 - n for n in range(50)])
    assert steady.left(None, 57.0) is None
    assert steady.left(30, 900.0) == 30, "after a pause it begins anew"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "a few seconds left"), (4.9, "a few seconds left"), (5, "about 5 s left"), (41, "about 40 s left"), (59, "about 1 min left"),
     (97, "about 1 min 40 s left"), (400, "about 7 min left"), (3599, "about 1 h 00 min left"), (4000, "about 1 h 05 min left")],
)  # fmt: skip
def test_a_time_left_is_as_rough_as_it_is_known_and_never_none(seconds: float, words: str) -> None:
    assert left_in_words(seconds) == words


def test_what_takes_less_than_a_second_is_not_said_to_take_none() -> None:
    assert [roughly(seconds) for seconds in (0.0, 0.3, 7.6)] == ["5 s", "5 s", "10 s"]

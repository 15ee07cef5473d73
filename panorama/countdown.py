"""How long work still takes: told once enough of it was seen, by its recent pace, and in words as rough as the estimate."""

import math
from collections import deque

_LEAST_SECONDS, _LEAST_STEPS = 2.0, 3  # the first steps warm up: a time left told by them is many times too long
_SETTLING_SECONDS = 2.0, 10.0  # quicker towards the end, where a few seconds are much
_WINDOW_SECONDS = 20.0  # what is kept ready goes fast at first, and says nothing of the rest


class Countdown:
    """The time left of work in equal steps, by the pace of the last twenty seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def left(self, done: int, total: int, now: float) -> float | None:
        """Seconds left when `done` of `total` steps are done at `now` (seconds of any clock that runs on); None while too little was seen."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW_SECONDS and done - self._seen[1][1] >= _LEAST_STEPS:
            self._seen.popleft()
        began, first = self._seen[0]
        if now - began < _LEAST_SECONDS or done - first < _LEAST_STEPS:
            return None
        return (now - began) / (done - first) * max(0, total - done)


class Steady:
    """Follows an estimate of the time left without its jumps: the expected end moves towards each new one, most of the way in twenty seconds."""

    def __init__(self) -> None:
        self._end: float | None = None
        self._at = 0.0

    def left(self, estimate: float | None, now: float) -> float | None:
        """Seconds left at `now` (seconds of any clock), when `estimate` are estimated; None where nothing is."""
        if estimate is None:
            self._end = None
            return None
        end = self._end if self._end is not None else now + estimate
        settling = min(max(estimate / 4, _SETTLING_SECONDS[0]), _SETTLING_SECONDS[1])
        self._end = now + estimate + (end - now - estimate) * math.exp(-max(0.0, now - self._at) / settling)
        self._at = now
        return max(0.0, self._end - now)


def roughly(seconds: float) -> str:
    """A time left in words, for reading after "about" or "less than": never nothing, and no finer than it is known."""
    step = next(step for limit, step in ((60, 5), (300, 10), (3600, 60), (float("inf"), 300)) if seconds < limit)
    whole = max(5, round(seconds / step) * step)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def left_in_words(seconds: float) -> str:
    """As "about 40 s left"; the last seconds are a few, not none."""
    return "a few seconds left" if seconds < 5 else f"about {roughly(seconds)} left"

"""When to ask again for a score that is not there yet."""

import random

SLOWEST = 50.0
"""Scores a second that are reckoned with at least: nobody is sent away for long because of a pause."""

LONGEST_SECONDS = 60.0


class Pace:
    """How many scores come a second, of late."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._heard = 0

    @property
    def a_second(self) -> float:
        """Scores a second."""
        return self._rate

    def heard(self, count: int) -> None:
        """Count scores that have come."""
        self._heard += count

    def tick(self, seconds: float) -> None:
        """Let so much time have passed since the last tick. The pace rises at once and falls slowly: a burst has just begun, and
        between two batches nothing has ended."""
        rate = self._heard / max(0.1, seconds)
        self._rate = max(rate, self._rate + (rate - self._rate) / 3)
        self._heard = 0

    def ask_again_seconds(self, waiting: int) -> int:
        """Return when a score should be there, of which so many are waited for: spread, so that those who ask do not come all
        at once."""
        expected = min(LONGEST_SECONDS, waiting / max(self._rate, SLOWEST))
        return max(1, round(expected * random.uniform(0.8, 1.5)))  # noqa: S311

"""How long clients gather signals before they report: a report costs what it costs, however many signals are in it."""

import random
from time import monotonic

REPORTS_PER_SECOND = 100
"""What all clients together are told to come to, at one process."""

SHORTEST_SECONDS, LONGEST_SECONDS = 10.0, 300.0
MEASURED_REPORTS = 1_000
JITTER = 0.5


class Interval:
    """Ten seconds while few report, and longer where many do. Clients that began together are told different times, so that they do
    not come back together."""

    def __init__(self) -> None:
        self._seconds = SHORTEST_SECONDS
        self._reports = 0
        self._since = monotonic()

    @property
    def mean_seconds(self) -> int:
        """What clients are told now, on average."""
        return round(self._seconds)

    def next_seconds(self) -> int:
        """Count a report, and say after how many seconds its client should make the next."""
        self._reports += 1
        now = monotonic()
        if now - self._since >= self._seconds or self._reports >= MEASURED_REPORTS:
            self._seconds = adapted(self._seconds, self._reports, max(0.001, now - self._since))
            self._reports, self._since = 0, now
        return max(1, round(self._seconds * random.uniform(1 - JITTER, 1 + JITTER)))  # noqa: S311


def adapted(seconds: float, reports: int, passed: float) -> float:
    """Return what the interval has to be, when it was `seconds` while so many reports came in the time passed."""
    return min(LONGEST_SECONDS, max(SHORTEST_SECONDS, seconds * reports / passed / REPORTS_PER_SECOND))

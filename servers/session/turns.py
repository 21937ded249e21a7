"""Turns: of a burst of submits a few are worked on at a time, the others wait in line."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from time import monotonic

from stores import gauges
from stores.pipeline import Overloaded

MOST_WAITING = 8_192


class Turns:
    """One line, first come, first served; `at_once` says how many may be worked on now."""

    def __init__(self, at_once: Callable[[], int], most_waiting: int = MOST_WAITING) -> None:
        self._at_once = at_once
        self._most_waiting = most_waiting
        self._working = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self._full = gauges.FULL.labels("submits")
        gauges.WAITING.labels("submits").set_function(lambda: len(self._line))

    @property
    def waiting(self) -> int:
        """How many are in line."""
        return len(self._line)

    @asynccontextmanager
    async def take(self, arrived: float) -> AsyncIterator[float]:
        """Wait for a turn; gives for how many seconds it took since `arrived`. Overloaded: too many wait."""
        if len(self._line) >= self._most_waiting:
            self._full.inc()
            raise Overloaded
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        self._next()
        try:
            await turn
            yield monotonic() - arrived
        finally:
            if turn.cancelled():
                with suppress(ValueError):  # it was passed over already
                    self._line.remove(turn)
            else:
                self._working -= 1
                self._next()

    def _next(self) -> None:
        while self._line and self._working < self._at_once():
            turn = self._line.popleft()
            if not turn.done():
                self._working += 1
                turn.set_result(None)

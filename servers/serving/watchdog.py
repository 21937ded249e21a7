"""Ends calls whose time is over.

A timer for each call (`asyncio.timeout`) costs more than everything else that serving does; here one timer looks at all
calls that run, every 20 ms. So a call may run that much longer than it should.
"""

import asyncio
from time import monotonic

LOOK_SECONDS = 0.02


class Watchdog:
    """The calls that run in this process, each a task of its own, and when each has to be over."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._looking = False

    def watch(self, task: asyncio.Task[object], seconds: float) -> None:
        """Cancel the task if it still runs after so many seconds."""
        self._ends[task] = monotonic() + seconds
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def was_late(self, task: asyncio.Task[object]) -> bool:
        """Whether the cancellation that has come was ours; it is taken back then."""
        return task in self._late and task.uncancel() == 0

    def forget(self, task: asyncio.Task[object]) -> None:
        """The task has its answer."""
        self._ends.pop(task, None)
        self._late.discard(task)

    def _look(self) -> None:
        now = monotonic()
        for task in [task for task, ends in self._ends.items() if ends <= now]:
            del self._ends[task]
            self._late.add(task)
            task.cancel()
        self._looking = bool(self._ends)
        if self._looking:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

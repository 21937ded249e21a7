"""Shelf: what a process has read and keeps: fresh for a while, and longer while the store that it came from is away."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Generic, TypeVar

import asyncpg
import structlog

from stores import gauges

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What PostgreSQL's absence looks like."""

FOR_EVER = float("inf")
AWAY_SECONDS = 1.0
"""How long nobody asks a store again that has failed, or kept somebody waiting: the shelf answers meanwhile."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kept(Generic[Value]):
    """What a shelf gives; `stale_seconds` says for how long nobody could confirm it, None: it is fresh."""

    value: Value
    stale_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """How long what is kept is fresh, and how long it is better than nothing; and for how long whoever has something stale waits
    for something fresh (None: until the store answers or fails)."""

    fresh_seconds: float
    stale_seconds: float
    patience_seconds: float | None = None


@dataclass(slots=True)
class Absence:
    """Until when a store counts as away; shelves that read from one may share it, so that what one has found all know."""

    until: float = 0.0

    def noticed(self, shelf: str, failure: BaseException) -> None:
        """Note that the store has failed, or keeps somebody waiting."""
        now = monotonic()
        if now >= self.until:
            log.warning("store away, what is kept is served", shelf=shelf, error=type(failure).__name__)
        self.until = now + AWAY_SECONDS


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    weight: int
    read_at: float
    era: int
    """Which of the shelf's eras it was read in."""


@dataclass(frozen=True, slots=True)
class _Flight(Generic[Value]):
    task: "asyncio.Task[Value]"
    began: float


class Shelf(Generic[Key, Value]):
    """A bounded cache; of many who miss one thing at the same time, one asks. Ages count from when a read began.

    `most` bounds the sum of what `weigh` says of each value, and the longest unread go first.
    """

    def __init__(
        self, name: str, terms: Terms, *, most: int, weigh: Callable[[Value], int] = lambda _: 1, absence: Absence | None = None
    ) -> None:
        self._name = name
        self._terms = terms
        self._most = most
        self._weigh = weigh
        self._weight = 0
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._flights: dict[Key, _Flight[Value | None]] = {}
        self._era = 0
        self._absence = absence or Absence()
        gauges.cached(name, self._entries)

    @property
    def weight(self) -> int:
        """The sum of what is kept, as `weigh` counts it."""
        return self._weight

    async def get(self, key: Key, read: Callable[[], Coroutine[Any, Any, Value | None]]) -> Kept[Value] | None:
        """Return what is kept under a key, or what `read` finds, which is kept then; None where it finds nothing, which is not.

        While the store is away: what is kept, marked stale, as long as it is better than nothing; else the store's failure.
        """
        now = monotonic()
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            if entry.era == self._era and now - entry.read_at < self._terms.fresh_seconds:
                return Kept(entry.value)
            if now - entry.read_at >= self._terms.stale_seconds:
                entry = None
            elif now < self._absence.until:
                return Kept(entry.value, now - entry.read_at)
        flight = self._flights.get(key) or self._take_off(key, read)
        patience = None
        if entry is not None and self._terms.patience_seconds is not None:
            patience = max(0.0, flight.began + self._terms.patience_seconds - now)
        try:
            async with asyncio.timeout(patience):
                found = await asyncio.shield(flight.task)
        except AWAY as failure:
            entry = self._entries.get(key) if entry is not None else None  # it may have been forgotten meanwhile
            if entry is None:
                raise
            if not flight.task.done():
                self._absence.noticed(self._name, failure)
            return Kept(entry.value, monotonic() - entry.read_at)
        return None if found is None else Kept(found)

    def forget(self, key: Key) -> None:
        """Let go of something that has changed, also of a read that is under way: what is known to be wrong is no help."""
        if (entry := self._entries.pop(key, None)) is not None:
            self._weight -= entry.weight
        self._flights.pop(key, None)

    def expire_all(self) -> None:
        """Forget of everything that it is fresh, however much it is: it is read again before it is given, if it can be."""
        self._era += 1
        self._flights.clear()

    def _take_off(self, key: Key, read: Callable[[], Coroutine[Any, Any, Value | None]]) -> "_Flight[Value | None]":
        began = monotonic()
        task = asyncio.create_task(read())
        flight = self._flights[key] = _Flight(task, began)
        task.add_done_callback(lambda _: self._land(key, flight))
        return flight

    def _land(self, key: Key, flight: "_Flight[Value | None]") -> None:
        """Keep what a flight brings; of one that was forgotten on its way, whoever waits for it has it and nobody else."""
        current = self._flights.get(key) is flight
        if current:
            del self._flights[key]
        if flight.task.cancelled():
            return
        if (failure := flight.task.exception()) is not None:
            if isinstance(failure, AWAY):
                self._absence.noticed(self._name, failure)
            return
        self._absence.until = 0.0
        if current:
            self._put(key, flight.task.result(), flight.began)

    def _put(self, key: Key, value: Value | None, read_at: float) -> None:
        if (before := self._entries.pop(key, None)) is not None:
            self._weight -= before.weight
        if value is None or (weight := self._weigh(value)) > self._most:
            return
        self._entries[key] = _Entry(value, weight, read_at, self._era)
        self._weight += weight
        while self._weight > self._most:
            self._weight -= self._entries.popitem(last=False)[1].weight

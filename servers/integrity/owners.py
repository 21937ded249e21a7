"""Whose session it is, from PostgreSQL over connections of this unit's own; remembered, and never waited for long."""

import asyncio
from collections import OrderedDict
from enum import Enum
from time import monotonic
from uuid import UUID

import structlog
from prometheus_client import Counter

from stores import gauges
from stores.pipeline import Coalescer
from stores.signals import Signals

REMEMBERED = 200_000
UNKNOWN_REMEMBERED = 10_000
UNKNOWN_SECONDS = 5.0
WAIT_SECONDS = 0.25
SILENCES = 3
TRY_AGAIN_SECONDS = 1.0
UNVERIFIED = Counter("finalbell_signals_unverified_total", "Reports that were taken without knowing yet whose session it is")
log = structlog.get_logger()


class Whose(Enum):
    """Whether a session is a student's. UNVERIFIED: nobody could say in time."""

    OWN = 1
    FOREIGN = 2
    UNVERIFIED = 3


class Owners:
    """Whose sessions are. A session's owner never changes, so that what was found once stays true; that there is none is true for
    some seconds. After a few silences in a row nobody is made to wait for a second: then one asks again."""

    def __init__(self, signals: Signals) -> None:
        self._found: OrderedDict[UUID, str] = OrderedDict()
        self._unknown: OrderedDict[UUID, float] = OrderedDict()
        self._ask: Coalescer[UUID, str | None] = Coalescer(signals.owners, queue="session owners", in_flight=2, batch=500)
        self._silences = 0
        self._try_again = 0.0
        gauges.cached("session owners", self._found)

    async def whose(self, session: UUID, student: str) -> Whose:
        """Say whether a session is a student's, within a quarter of a second."""
        owner = self._found.get(session)
        if owner is not None:
            return Whose.OWN if owner == student else Whose.FOREIGN
        now = monotonic()
        if self._unknown.get(session, 0.0) > now:
            return Whose.FOREIGN
        if self._silences >= SILENCES and now < self._try_again:
            UNVERIFIED.inc()
            return Whose.UNVERIFIED
        self._try_again = now + TRY_AGAIN_SECONDS
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                owner = await self._ask.submit(session)
        except Exception as failure:  # PostgreSQL is away or slow; who writes looks once more
            self._silences += 1
            UNVERIFIED.inc()
            log.info("session owner not known", error=type(failure).__name__)
            return Whose.UNVERIFIED
        self._silences = 0
        self._remember(session, owner)
        return Whose.OWN if owner == student else Whose.FOREIGN

    def _remember(self, session: UUID, owner: str | None) -> None:
        if owner is None:
            self._unknown[session] = monotonic() + UNKNOWN_SECONDS
            if len(self._unknown) > UNKNOWN_REMEMBERED:
                self._unknown.popitem(last=False)
        else:
            self._found[session] = owner
            if len(self._found) > REMEMBERED:
                self._found.popitem(last=False)

"""Papers: what a session service knows of papers, so that a start, a read and a save ask nobody about them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

import structlog

from servers import errors
from servers.orders import Orders
from servers.serving.run import sleep_until
from stores import gauges
from stores.catalog import Catalog, SealedKey
from stores.flights import Flights
from stores.live import LiveSessions
from stores.records import Paper, PaperQuestion
from stores.shelf import AWAY

LOOK_SECONDS = 30.0
AHEAD_SECONDS = 600.0
AHEAD = 50
NO_KEY_SECONDS = 1.0
"""How long nobody asks again after a key that is not to be had."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class KnownPaper:
    """A paper, ready for use."""

    paper: Paper
    questions: Mapping[str, PaperQuestion]
    orders: Orders


class Papers:
    """Papers that this process has read; a paper of one version never changes."""

    def __init__(self, live: LiveSessions, catalog: Catalog) -> None:
        self._live = live
        self._catalog = catalog
        self._known: dict[tuple[str, int], KnownPaper] = {}
        self._flights: Flights[tuple[str, int], KnownPaper] = Flights()
        self._keys: dict[tuple[str, int], SealedKey] = {}
        self._no_key_until: dict[tuple[str, int], float] = {}
        self._key_flights: Flights[tuple[str, int], SealedKey | None] = Flights()
        gauges.cached("papers", self._known)

    async def of(self, exam: str, version: int) -> KnownPaper:
        """Return a paper: this process's copy, Redis's, or PostgreSQL's, which Redis then keeps. A herd reads it once."""
        known = self._known.get((exam, version))
        return known or await self._flights.join((exam, version), lambda: self._read(exam, version))

    async def key(self, exam: str, version: int, wait_seconds: float) -> SealedKey | None:
        """Return the key of a sealed paper; None: the exam has not opened, nothing is sealed, or PostgreSQL does not say so soon.

        Only for whoever has a session that is in progress. A herd reads it once.
        """
        place = (exam, version)
        known = self._keys.get(place)
        if known is None and self._no_key_until.get(place, 0.0) <= monotonic():
            try:
                async with asyncio.timeout(wait_seconds):
                    known = await self._key_flights.join(place, lambda: self._read_key(*place))
            except AWAY:  # there is the paper itself
                return None
        return known

    async def _read_key(self, exam: str, version: int) -> SealedKey | None:
        found = None
        try:
            found = await self._catalog.sealed_key(exam, version)
        finally:
            if found is None:
                self._no_key_until[exam, version] = monotonic() + NO_KEY_SECONDS
            else:
                self._keys[exam, version] = found
        return found

    async def read_ahead(self, stop: asyncio.Event) -> None:
        """Read the papers of exams that open within ten minutes, every half minute: nobody waits for them at the doors."""
        while not stop.is_set():
            try:
                for exam, version in await self._catalog.opening(AHEAD_SECONDS, AHEAD):
                    await self.of(exam, version)
            except Exception as failure:  # then the first student reads it, or the next look
                log.warning("no papers read ahead", error=type(failure).__name__)
            await sleep_until(stop, LOOK_SECONDS)

    async def _read(self, exam: str, version: int) -> KnownPaper:
        paper = await self._live.paper(exam, version)
        if paper is None:
            paper = await self._catalog.paper(exam, version)
            if paper is None:
                raise errors.ExamNotFound("There is no such exam.")
            await self._live.keep_paper(paper)
        known = KnownPaper(paper, {question.id: question for question in paper.questions}, Orders(paper))
        self._known[exam, version] = known
        return known

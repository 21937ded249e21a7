"""Papers: what a session service knows of papers, so that a start, a read and a save ask nobody about them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from servers import errors
from servers.serving.run import sleep_until
from servers.session.rules import Orders
from stores import gauges
from stores.catalog import Catalog
from stores.flights import Flights
from stores.live import LiveSessions
from stores.records import Paper, PaperQuestion

LOOK_SECONDS = 30.0
AHEAD_SECONDS = 600.0
AHEAD = 50
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
        gauges.cached("papers", self._known)

    async def of(self, exam: str, version: int) -> KnownPaper:
        """Return a paper: this process's copy, Redis's, or PostgreSQL's, which Redis then keeps. A herd reads it once."""
        known = self._known.get((exam, version))
        return known or await self._flights.join((exam, version), lambda: self._read(exam, version))

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

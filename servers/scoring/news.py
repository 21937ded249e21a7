"""News of results: which sessions have one, for those who watch them; and how long a score takes now, for those who ask."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from uuid import UUID

import structlog
from finalbell.v1 import events_pb2 as events
from prometheus_client import Gauge

from servers import errors
from servers.patience import Pace
from servers.serving.run import sleep_until
from stores.live import LiveSessions
from stores.submit_log import ANNOUNCED, SubmitLog

EVERY_SECONDS = 1.0
MOST_WATCHERS = 10_000
WATCHING = Gauge("finalbell_result_watchers", "Streams that wait for a result to come or change")
log = structlog.get_logger()


class News:
    """What this process hears of results. Nothing relies on it: who misses news asks again."""

    def __init__(self, submits: SubmitLog, live: LiveSessions) -> None:
        self._submits = submits
        self._live = live
        self._watched: dict[UUID, set[asyncio.Event]] = {}
        self._watchers = 0
        self._pace = Pace()
        self._waiting = 0
        self.ending = False
        """Whether this process is about to end: whoever watches does so elsewhere."""

        WATCHING.set_function(lambda: self._watchers)

    async def run(self, stop: asyncio.Event) -> None:
        """Listen, and measure once a second how many wait and how many are scored."""
        listening, since = False, monotonic()
        while not stop.is_set():
            try:
                if not listening:
                    await self._submits.listen(ANNOUNCED, self._receive)
                    listening = True
                self._waiting, _ = await self._live.waiting()
            except Exception as failure:  # a store is away: students are told to ask again in a second
                log.warning("no news", error=type(failure).__name__)
            now = monotonic()
            self._pace.tick(now - since)
            since = now
            await sleep_until(stop, EVERY_SECONDS)
        self.ending = True
        for watchers in self._watched.values():
            for watcher in watchers:
                watcher.set()

    async def wait(self, changed: asyncio.Event, seconds: float) -> None:
        """Wait for news, at most so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), seconds)

    def ask_again_seconds(self) -> int:
        """Return when a score should be there that is not yet."""
        return self._pace.ask_again_seconds(self._waiting)

    @contextmanager
    def watching(self, session: UUID) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the session's result has changed; refuse one watcher too many."""
        if self._watchers >= MOST_WATCHERS:
            raise errors.RateLimited("Too many watch results here; ask again in a while, or without watching.", retry_seconds=30)
        self._watchers += 1
        changed = asyncio.Event()
        self._watched.setdefault(session, set()).add(changed)
        try:
            yield changed
        finally:
            self._watchers -= 1
            others = self._watched[session]
            others.discard(changed)
            if not others:
                del self._watched[session]

    def _receive(self, data: bytes) -> None:
        changed = events.ResultsChanged.FromString(data).session_ids
        self._pace.heard(len(changed))
        for session in changed if self._watched else ():
            for watcher in self._watched.get(UUID(bytes=session), ()):
                watcher.set()

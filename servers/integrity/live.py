"""What proctors watch: one reader for each exam that is watched, and the same bytes for all who watch it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from time import monotonic

import structlog
from finalbell.v1 import integrity_pb2 as pb
from prometheus_client import Gauge

from servers import errors
from servers.integrity import rules
from servers.integrity.messages import view
from servers.integrity.rules import Suspect
from servers.serving.run import sleep_until
from stores.signals import Signals

TOP, MOST = 50, 500
TICK_SECONDS = 2.0
SHARE = 10
"""A reading that takes long is repeated later: this times as long as it took."""

STILL_SECONDS = 15.0
WATCHED_SECONDS = 3_600.0
MOST_WATCHERS = 200
WATCHING = Gauge("finalbell_integrity_watchers", "Streams of proctors who watch signals")
log = structlog.get_logger()


class Hub:
    """One exam that is watched."""

    def __init__(self, signals: Signals, exam: str, *, collecting: bool) -> None:
        self._signals = signals
        self._exam = exam
        self._collecting = collecting
        self._found: tuple[Sequence[Suspect], int] | None = None
        self._messages: dict[int, bytes] = {}
        self._as_of = pb.IntegrityView()
        self._due = 0.0
        self._read_at = 0.0
        self._first: asyncio.Task[None] | None = None
        self.watchers = 0
        self.version = 0
        self.stale = False
        self.news = asyncio.Event()
        """Set when there is something to say; another event takes its place then."""

    async def begun(self) -> None:
        """Wait until it has been read for the first time; who comes first has it read. The caller hears of a store that is away."""
        first = self._first
        if first is None:
            first = self._first = asyncio.create_task(self._read())
            first.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait for it any more
        try:
            await asyncio.shield(first)
        except Exception:
            if first.done() and first is self._first:
                self._first = None
            raise

    async def tick(self) -> None:
        """Read again, where it is time, and wake who watches when something has changed."""
        if monotonic() < self._due or self._first is None or not self._first.done():
            return
        try:
            async with asyncio.timeout(STILL_SECONDS):
                await self._read()
        except Exception as failure:  # a store is away: what was read last stays for a while
            log.warning("signals not read", exam=self._exam, error=f"{type(failure).__name__}: {failure}"[:200])
            if monotonic() - self._read_at >= STILL_SECONDS:
                self.stale = True
                self.wake()

    def message(self, top: int) -> bytes:
        """Return the view with so many sessions, encoded once for everybody."""
        known = self._messages.get(top)
        if known is None:
            shown = view(*(self._found or ((), 0)), top)
            shown.as_of.CopyFrom(self._as_of.as_of)
            shown.collecting = self._collecting
            known = self._messages[top] = pb.WatchIntegrityResponse(view=shown).SerializeToString()
        return known

    async def _read(self) -> None:
        began = monotonic()
        now = rules.thresholds(await self._signals.thresholds(self._exam))
        counted, total = await self._signals.over(self._exam, rules.wanted(now), MOST)
        found = rules.suspects(counted, now), total
        self._read_at, self.stale = monotonic(), False
        self._due = self._read_at + max(TICK_SECONDS, SHARE * (self._read_at - began))
        if found != self._found:
            self._as_of.as_of.GetCurrentTime()
            self._found, self._messages, self.version = found, {}, self.version + 1
            self.wake()

    def wake(self) -> None:
        """Have everybody who waits look again."""
        self.news.set()
        self.news = asyncio.Event()


class Views:
    """The exams that are watched in this process."""

    def __init__(self, signals: Signals, *, collecting: bool) -> None:
        self._signals = signals
        self._collecting = collecting
        self._hubs: dict[str, Hub] = {}
        self._watching = 0
        self._ending = False
        WATCHING.set_function(lambda: self._watching)

    async def run(self, stop: asyncio.Event) -> None:
        """Read what is watched, until it is time to stop; then end all streams."""
        while not stop.is_set():
            for hub in list(self._hubs.values()):
                await hub.tick()
            await sleep_until(stop, TICK_SECONDS)
        self._ending = True
        for hub in self._hubs.values():
            hub.wake()

    async def watch(self, exam: str, top: int | None) -> AsyncIterator[bytes]:
        """Return a stream of encoded messages, the first at once; refuses an exam that does not exist, and one watcher too many."""
        if not await self._signals.is_exam(exam):
            raise errors.ExamNotFound("There is no such exam.")
        if self._watching >= MOST_WATCHERS:
            raise errors.RateLimited("Too many watch signals here.", retry_seconds=10)
        return self._stream(exam, TOP if top is None else top)

    async def _stream(self, exam: str, top: int) -> AsyncIterator[bytes]:
        hub = self._hubs.setdefault(exam, Hub(self._signals, exam, collecting=self._collecting))
        shown, ends = 0, monotonic() + WATCHED_SECONDS
        hub.watchers += 1
        self._watching += 1
        try:
            await hub.begun()
            while not self._ending and monotonic() < ends:
                news = hub.news
                if hub.stale:
                    raise errors.StoreUnavailable("What is shown cannot be read any more: a store does not answer. Watch again.")
                yield hub.message(top) if hub.version != shown else b""
                shown = hub.version
                await sleep_until(news, STILL_SECONDS)
        finally:
            self._watching -= 1
            hub.watchers -= 1
            if not hub.watchers and self._hubs.get(exam) is hub:
                del self._hubs[exam]

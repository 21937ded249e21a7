"""Reports on their way to the stream: a bounded queue that never makes a caller wait, and one task that empties it."""

import asyncio
from collections import deque
from collections.abc import Sequence
from time import monotonic
from uuid import uuid4

import structlog
from finalbell.v1 import events_pb2 as events
from prometheus_client import Counter

from servers.serving.run import sleep_until
from stores import gauges
from stores.signal_log import SignalLog

MOST_REPORTS = 20_000
MOST_BYTES = 16 * 1024 * 1024
"""What waits in this process at the most, for as long as the stream does not take it."""

EVENT_SIGNALS = 1_000
EVENT_BYTES = 256 * 1024
GATHER_SECONDS = 0.25
PUBLISH_SECONDS = 2.0
AGAIN_SECONDS = 0.5
DROPPED = Counter("finalbell_signals_dropped_total", "Signals that were not taken, or given up, by why", ["why"])
PUBLISHED = Counter("finalbell_signals_published_total", "Signals that the stream has")
for why in ("unknown_kind", "queue_full", "session_bound", "off", "rate", "foreign", "late", "broken", "ended"):
    DROPPED.labels(why)
log = structlog.get_logger()


class Feed:
    """The queue. The oldest goes when it is full, and is counted."""

    def __init__(self, log: SignalLog) -> None:
        self._log = log
        self._waiting: deque[tuple[events.SignalReport, int]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self.publisher = uuid4().bytes
        self._published = 0
        gauges.WAITING.labels("signals").set_function(lambda: len(self._waiting))

    def offer(self, report: events.SignalReport) -> None:
        """Take a report, at the cost of the oldest where there is no room."""
        size = report.ByteSize()
        self._waiting.append((report, size))
        self._bytes += size
        while len(self._waiting) > MOST_REPORTS or self._bytes > MOST_BYTES:
            oldest, size = self._waiting.popleft()
            self._bytes -= size
            DROPPED.labels("queue_full").inc(len(oldest.signals))
        self._news.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish what comes, until it is time to stop."""
        while not stop.is_set():
            await self._wait(stop)
            await self._publish_all(stop)

    async def drain(self) -> None:
        """Publish what came since then; what the stream does not take at once is lost, and only the log says so."""
        over = asyncio.Event()
        over.set()
        await self._publish_all(over)
        if lost := sum(len(report.signals) for report, _ in self._waiting):
            DROPPED.labels("ended").inc(lost)
            log.warning("signals given up at the end", signals=lost)

    async def _wait(self, stop: asyncio.Event) -> None:
        """Wait for the first report, and a moment for more."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._news, stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._news.clear()
        await sleep_until(stop, GATHER_SECONDS)

    async def _publish_all(self, stop: asyncio.Event) -> None:
        while self._waiting:
            reports = self._take()
            count = sum(len(report.signals) for report in reports)
            event = events.SignalsReported(reports=reports, publisher=self.publisher, published_before=self._published)
            if not await self._publish(event.SerializeToString(), stop):
                self._put_back(reports)
                return
            self._published += count
            PUBLISHED.inc(count)

    async def _publish(self, event: bytes, stop: asyncio.Event) -> bool:
        """Publish an event, as often as it takes: the queue behind it stays bounded. A copy that the stream has twice is kept once.
        False: it is time to stop, and the stream does not take it."""
        began, told = monotonic(), False
        while not await self._log.publish(event, PUBLISH_SECONDS):
            if not told:
                log.warning("signals not published yet", waiting=len(self._waiting))
                told = True
            if stop.is_set():
                return False
            await sleep_until(stop, AGAIN_SECONDS)
            await self._mend()
        if told:
            log.info("signals published again", seconds=round(monotonic() - began), waiting=len(self._waiting))
        return True

    async def _mend(self) -> None:
        """Make the stream again, where it is gone; a failure is the next try's."""
        try:
            await self._log.prepare()
        except Exception:  # it is away
            return

    def _take(self) -> Sequence[events.SignalReport]:
        """Take what fits into one event, the oldest first."""
        reports, signals, total = [], 0, 0
        while self._waiting and signals < EVENT_SIGNALS and total < EVENT_BYTES:
            report, size = self._waiting.popleft()
            self._bytes -= size
            signals, total = signals + len(report.signals), total + size
            reports.append(report)
        return reports

    def _put_back(self, reports: Sequence[events.SignalReport]) -> None:
        for report in reversed(reports):
            size = report.ByteSize()
            self._waiting.appendleft((report, size))
            self._bytes += size

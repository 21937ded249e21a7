"""Write-behind: folds the save logs into PostgreSQL, then cuts what is written off the logs."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import structlog
from prometheus_client import Counter, Gauge

from stores.live import LiveSessions
from stores.records import LogEntry
from stores.sessions import Sessions

EVERY_SECONDS = 1.0
ENTRIES = 5_000
PARTITIONS_EVERY_SECONDS = 3_600.0
LAG = Gauge("finalbell_snapshot_lag_entries", "Acknowledged saves that are not in PostgreSQL yet")
WRITTEN = Counter("finalbell_snapshot_entries_total", "Log entries written to PostgreSQL")
log = structlog.get_logger()


class Snapshots:
    """One holder of leases; several may run, and two that hold the same shard do double work, never harm."""

    def __init__(self, live: LiveSessions, sessions: Sessions) -> None:
        self._live = live
        self._sessions = sessions
        self._holder = uuid4().hex

    async def run(self, stop: asyncio.Event) -> None:
        """Write every second until told to stop, and once more then."""
        while not stop.is_set():
            await self._write_once()
            await sleep_until(stop, EVERY_SECONDS)
        await self._write_once()

    async def make_partitions(self, stop: asyncio.Event) -> None:
        """Make the coming months' partitions, every hour."""
        while not stop.is_set():
            try:
                await self._sessions.make_partitions()
            except Exception as failure:  # tried again; the partitions reach three months ahead
                log.error("partitions not made", error=str(failure)[:200])
            await sleep_until(stop, PARTITIONS_EVERY_SECONDS)

    async def write(self) -> int:
        """Write what the logs of the leased shards hold now, and return how many entries that were."""
        read = await self._live.read_logs(await self._live.lease("snapshots", self._holder), ENTRIES)
        entries = [entry for _, _, found in read.values() for entry in found]
        if entries:
            await self._sessions.keep_answers(fold(entries))
            await self._live.trim_logs({number: (generation, after) for number, (generation, after, _) in read.items()})
            WRITTEN.inc(len(entries))
        return len(entries)

    async def _write_once(self) -> None:
        try:
            LAG.set(await self._live.log_lengths())  # first, so that it grows where everyone sees it when writing fails
            while await self.write() >= ENTRIES:
                pass
            LAG.set(await self._live.log_lengths())
        except Exception as failure:  # the log keeps what was not written; the next second tries again
            log.error("snapshot failed", error=f"{type(failure).__name__}: {failure}"[:200])


def fold(entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """Keep the entry with the highest version per session and question."""
    newest: dict[tuple[UUID, str], LogEntry] = {}
    for entry in entries:
        place = (entry.session, entry.saved.question)
        if place not in newest or entry.saved.version > newest[place].saved.version:
            newest[place] = entry
    return list(newest.values())


async def sleep_until(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but wake at once when it is time to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return

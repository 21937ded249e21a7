"""Write-behind: folds the save logs into PostgreSQL, then cuts what is written off the logs."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg
import structlog
from prometheus_client import Counter, Gauge

from servers.serving.run import ROUND_SECONDS, sleep_until
from stores.live import LiveSessions
from stores.records import LogEntry
from stores.sessions import Sessions

EVERY_SECONDS = 1.0
ENTRIES_A_SHARD = 500
SHARDS_TOGETHER = 16
DIRTY_A_SHARD = 50
PARTITIONS_EVERY_SECONDS = 3_600.0
LAG = Gauge("finalbell_snapshot_lag_entries", "Acknowledged saves that are not in PostgreSQL yet")
LAG_SECONDS = Gauge("finalbell_snapshot_lag_seconds", "Age of the oldest acknowledged save that is not in PostgreSQL yet")
DIRTY = Gauge("finalbell_snapshot_dirty_sessions", "Sessions to be written whole, since their log was full")
WRITTEN = Counter("finalbell_snapshot_entries_total", "Answers written to PostgreSQL")
REFUSED = Counter("finalbell_snapshot_refused_total", "Answers that PostgreSQL refuses; they stay in Redis until the submit")
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

    async def write(self) -> bool:
        """Write what the logs of the leased shards hold now; returns whether a log may hold more.

        The order is the promise: read, commit, and only then cut off what was read.
        """
        shards, more = await self._live.lease("snapshots", self._holder), False
        for first in range(0, len(shards), SHARDS_TOGETHER):
            logs = await self._live.read_logs(shards[first : first + SHARDS_TOGETHER], ENTRIES_A_SHARD)
            entries = [entry for read in logs.values() for entry in read.entries]
            if entries:
                await self._keep(fold(entries))
                await self._live.trim_logs(logs)
            more |= any(len(read.entries) == ENTRIES_A_SHARD for read in logs.values())
        for number in await self._live.dirty(shards):
            await self._write_dirty(number)
        return more

    async def _write_dirty(self, number: int) -> None:
        """Write sessions whole that the log had no room for. An older entry of theirs in the log loses by its version."""
        while True:
            generation, found = await self._live.read_dirty(number, DIRTY_A_SHARD)
            if not found:
                return
            await self._keep([LogEntry(session, saved) for session, _, answers in found for saved in answers])
            await self._live.clean(number, generation, {session: version for session, version, _ in found})
            if len(found) < DIRTY_A_SHARD:
                return

    async def _keep(self, entries: Sequence[LogEntry]) -> None:
        """Write answers; what PostgreSQL refuses for good is found by halving, so that it holds up nobody else's."""
        try:
            await self._sessions.keep_answers(entries)
            WRITTEN.inc(len(entries))
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, ValueError, OverflowError) as refused:
            if len(entries) > 1:
                await self._keep(entries[: len(entries) // 2])
                await self._keep(entries[len(entries) // 2 :])
                return
            REFUSED.inc()
            bad = entries[0]
            log.error("answer not written", session=str(bad.session), question=bad.saved.question, error=type(refused).__name__)

    async def _write_once(self) -> None:
        try:
            more = True
            while more:
                async with asyncio.timeout(ROUND_SECONDS):
                    await self._measure()  # first, so that the lag grows where everyone sees it when writing fails
                    more = await self.write()
            await self._measure()
        except Exception as failure:  # the log keeps what was not written; the next second tries again
            log.error("snapshot failed", error=f"{type(failure).__name__}: {failure}"[:200])

    async def _measure(self) -> None:
        backlog = await self._live.backlog()
        LAG.set(backlog.entries)
        DIRTY.set(backlog.dirty)
        LAG_SECONDS.set(backlog.oldest_seconds)


def fold(entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """Keep the entry with the highest version per session and question."""
    newest: dict[tuple[UUID, str], LogEntry] = {}
    for entry in entries:
        place = (entry.session, entry.saved.question)
        if place not in newest or entry.saved.version > newest[place].saved.version:
            newest[place] = entry
    return list(newest.values())

"""The bell, and the nets under the submit pipeline: sweeps by state, so that no crash leaves a session behind."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog
from prometheus_client import Counter

from servers.session.snapshots import sleep_until
from servers.session.submits import Submits
from stores.live import LiveSessions
from stores.records import SubmitOutcome
from stores.sessions import Sessions
from stores.submit_log import PublishOutcome, SubmitLog

RING_EVERY_SECONDS = 0.5
NETS_EVERY_SECONDS = 5.0
OVERDUE_MS = 30_000
TOGETHER = 64
RUNG = Counter("finalbell_bell_rung_total", "Sessions handed in by the bell")
RESENT = Counter("finalbell_net_resent_total", "Submits published again", ["net"])
log = structlog.get_logger()


class Bell:
    """Hands in what is over, and publishes again what has no result. Every act is one that may be repeated."""

    def __init__(self, live: LiveSessions, sessions: Sessions, submits: Submits, submit_log: SubmitLog) -> None:
        self._live = live
        self._sessions = sessions
        self._submits = submits
        self._log = submit_log

    async def run(self, stop: asyncio.Event) -> None:
        """Ring every half second."""
        while not stop.is_set():
            await _guarded("bell", self.ring)
            await sleep_until(stop, RING_EVERY_SECONDS)

    async def run_nets(self, stop: asyncio.Event) -> None:
        """Cast the nets every five seconds."""
        while not stop.is_set():
            for name, net in (
                ("unscored", self.resend),
                ("submission", self.move_submissions),
                ("overdue", self.sweep),
            ):
                await _guarded(name, net)
            await sleep_until(stop, NETS_EVERY_SECONDS)

    async def ring(self) -> None:
        """Hand in the sessions whose time is over. `due` is a hint; the session's own end decides."""

        async def one(session: UUID) -> None:
            frozen = await self._submits.ring(session)
            if frozen is not None and frozen.outcome is SubmitOutcome.FLIPPED:
                RUNG.inc()

        await _each(await self._live.due(), one)

    async def resend(self) -> None:
        """Publish submitted sessions again whose result is late; the broker refuses what it still has."""

        async def one(session: UUID) -> None:
            frozen = await self._live.retry(session)
            if frozen is not None:
                await self._submits.keep(frozen, None)
                RESENT.labels("unscored").inc()

        await _each(await self._live.unscored(), one)

    async def move_submissions(self) -> None:
        """Move submits that were kept in PostgreSQL to JetStream, now that it answers again."""
        moved = []
        for session, subject, event in await self._sessions.waiting_submissions(5_000, 500):
            if await self._log.publish(subject, event, 2) is PublishOutcome.AWAY:
                break
            moved.append(session)
        if moved:
            await self._sessions.drop_submissions(moved)
            RESENT.labels("submission").inc(len(moved))

    async def sweep(self) -> None:
        """Hand in what PostgreSQL knows to be over and unscored, whatever Redis knows: restored first, never composed."""

        async def one(session: UUID) -> None:
            await self._submits.ring(session)

        await _each(await self._sessions.overdue(OVERDUE_MS, 500), one)


async def _each(sessions: Sequence[UUID], work: Callable[[UUID], Awaitable[None]]) -> None:
    """Do the work for each session, some at a time; one that fails is tried again by the next sweep."""
    places = asyncio.Semaphore(TOGETHER)

    async def one(session: UUID) -> None:
        async with places:
            await _guarded(f"session {session}", lambda: work(session))

    async with asyncio.TaskGroup() as group:
        for session in sessions:
            group.create_task(one(session))


async def _guarded(name: str, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except Exception as failure:  # a store is away: the next sweep tries again
        log.warning("sweep failed", sweep=name, error=f"{type(failure).__name__}: {failure}"[:200])

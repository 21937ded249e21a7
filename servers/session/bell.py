"""The bell, and the nets under the submit pipeline: sweeps by state, so that no crash leaves a session behind."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge, Histogram

from servers.serving.run import ROUND_SECONDS, sleep_until
from servers.session.submits import Submits, encode
from stores.dead_letters import DeadLetters
from stores.deadlines import Deadlines, settle
from stores.live import LiveSessions
from stores.records import Frozen, NotFlipped, SubmitOutcome
from stores.sessions import Sessions
from stores.submit_log import SubmitLog, subject

RING_EVERY_SECONDS = 0.5
NETS_EVERY_SECONDS = 5.0
OVERDUE_MS = 10_000
UNMARKED_MS = 300_000
SWEPT_TOGETHER = 500
LONG_BACKLOG = 1_000
TOGETHER = 64
LARGEST_SKEW_MS = 2_000
RUNG = Counter("finalbell_bell_rung_total", "Sessions handed in by the bell")
LATE = Histogram(
    "finalbell_bell_late_seconds", "How long after a session's end the bell rang", buckets=(2.5, 3, 4, 5, 10, 30, 60, 300)
)
HELD = Gauge("finalbell_bell_held", "1 while the bell holds for sessions that were running during an outage")
SKEW = Gauge("finalbell_clock_skew_seconds", "Redis's clock minus PostgreSQL's; past 2 s the bell does not ring")
UNSETTLED = Gauge("finalbell_deadlines_pending", "Sessions whose time was changed, and whose end does not say so yet")
UNSCORED = Gauge("finalbell_unscored_sessions", "Submitted sessions without a result")
PARKED = Gauge("finalbell_parked_sessions", "Submitted sessions that wait for an operator")
LETTERS = Gauge("finalbell_dead_letters_waiting", "Submits that could not be scored, and wait for an operator")
ROWS = Gauge("finalbell_submission_rows", "Submits kept in PostgreSQL, since JetStream did not take them, until they are scored")
RESENT = Counter("finalbell_net_resent_total", "Submits published again", ["net"])
RESENT.labels("unscored")  # shown from the beginning: a rate needs a zero to rise from
log = structlog.get_logger()


class Bell:
    """Hands in what is over, and publishes again what has no result. Every act is one that may be repeated."""

    def __init__(
        self,
        live: LiveSessions,
        sessions: Sessions,
        deadlines: Deadlines,
        dead_letters: DeadLetters,
        submits: Submits,
        submit_log: SubmitLog,
    ) -> None:
        self._live = live
        self._sessions = sessions
        self._deadlines = deadlines
        self._dead_letters = dead_letters
        self._submits = submits
        self._log = submit_log

    async def run(self, stop: asyncio.Event) -> None:
        """Ring every half second."""
        while not stop.is_set():
            await _guarded("deadlines", self.settle, ROUND_SECONDS)
            await _guarded("bell", self.ring, ROUND_SECONDS)
            await sleep_until(stop, RING_EVERY_SECONDS)

    async def run_nets(self, stop: asyncio.Event) -> None:
        """Cast the nets every five seconds."""
        while not stop.is_set():
            for name, net in (
                ("unscored", self.resend),
                ("overdue", self.sweep),
                ("counts", self.count),
            ):
                await _guarded(name, net, ROUND_SECONDS)
            await sleep_until(stop, NETS_EVERY_SECONDS)

    async def settle(self) -> None:
        """Bring sessions up to facts about their time whose writer has died before it did."""
        unsettled = await self._deadlines.unsettled(1_000)
        UNSETTLED.set(len(unsettled))
        if unsettled:
            await settle(self._deadlines, self._live, unsettled)

    async def ring(self) -> None:
        """Hand in the sessions whose time is over. `due` is a hint; the session's own end decides, and facts are read first.

        Two clocks that disagree ring nothing: one of them is wrong, and whose time is over cannot be taken back.
        """
        due = await self._live.due()
        skew_ms = await self._live.now_ms() - await self._sessions.now_ms()
        SKEW.set(skew_ms / 1000)
        if abs(skew_ms) > LARGEST_SKEW_MS:
            log.error("the clocks of Redis and PostgreSQL differ; the bell does not ring", milliseconds=skew_ms)
            return
        await settle(self._deadlines, self._live, await self._deadlines.unsettled_among(due))
        rung = await _each(due, self._submits.ring, SWEPT_TOGETHER)
        for frozen in rung:
            if isinstance(frozen, Frozen) and frozen.outcome is SubmitOutcome.FLIPPED:
                RUNG.inc()
                LATE.observe((frozen.now_ms - frozen.ends_ms) / 1000)
        held = any(isinstance(one, NotFlipped) and one.outcome is SubmitOutcome.HELD for one in rung)
        HELD.set(held or await self._live.holds())

    async def resend(self) -> None:
        """Publish submitted sessions again whose result is late; the broker refuses what it still has.

        One that was published so often is buried first and only then left alone, so that it is always in somebody's sight.
        """

        async def one(session: UUID) -> None:
            frozen = await self._live.retry(session)
            if frozen is None:
                return
            if frozen.outcome is SubmitOutcome.EXHAUSTED:
                event, where = encode(frozen, ""), subject(frozen.facts.exam, session)
                await self._dead_letters.bury(session, where, event, "it was published as often as may be, and has no result")
                await self._live.park(session)
                return
            await self._submits.keep(frozen, None)
            RESENT.labels("unscored").inc()

        await _each(await self._live.unscored(await self._oldest_ms()), one)

    async def _oldest_ms(self) -> int | None:
        """Return since when the oldest submit of a long backlog waits; None where it is short, or nobody can say: then all are
        looked at. One submit that waits for its keys must not keep the net from the others."""
        try:
            return await self._log.oldest_ms(LONG_BACKLOG)
        except Exception as failure:
            log.warning("the stream does not say what waits", error=type(failure).__name__)
            return None

    async def sweep(self) -> None:
        """Hand in what PostgreSQL knows to be over and unscored, whatever Redis knows: restored first, never composed.

        One that was handed in before is left to the net of the unscored, with its patience: restoring has put it there.
        """
        after = None
        while overdue := await self._sessions.overdue(OVERDUE_MS, UNMARKED_MS, after, SWEPT_TOGETHER):
            await _each([session for _, session in overdue], self._submits.ring, SWEPT_TOGETHER)
            after = overdue[-1]

    async def count(self) -> None:
        """Say how much waits, and for whom."""
        unscored, parked = await self._live.waiting()
        UNSCORED.set(unscored)
        PARKED.set(parked)
        ROWS.set(await self._sessions.count_submissions())
        LETTERS.set(await self._dead_letters.count())


async def _each(sessions: Sequence[UUID], work: Callable[[UUID], Awaitable[object]], together: int = TOGETHER) -> Sequence[object]:
    """Do the work for each session, some at a time; one that fails is tried again by the next sweep."""
    places = asyncio.Semaphore(together)

    async def one(session: UUID) -> object:
        async with places:
            return await _guarded(f"session {session}", lambda: work(session))

    return await asyncio.gather(*(one(session) for session in sessions))


async def _guarded(name: str, work: Callable[[], Awaitable[object]], seconds: float | None = None) -> object:
    try:
        async with asyncio.timeout(seconds):
            return await work()
    except Exception as failure:  # a store is away: the next sweep tries again
        log.warning("sweep failed", sweep=name, error=f"{type(failure).__name__}: {failure}"[:200])
        return None

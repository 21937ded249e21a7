"""Handing a session in: from the flip on, the work belongs to the server, not to the client's connection."""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID, uuid4

import structlog
from finalbell.v1 import events_pb2 as events
from google.protobuf.timestamp_pb2 import Timestamp

from servers.patience import Pace
from servers.serving import traces
from servers.serving.crash import crash
from servers.serving.run import sleep_until
from stores.deadlines import Deadlines, settle
from stores.live import BELL_GRACE_MS, LiveSessions
from stores.pipeline import Coalescer
from stores.records import (
    Frozen,
    Mark,
    NotFlipped,
    SessionFacts,
    SessionState,
    SubmitOutcome,
    SubmitReason,
    answers_sha256,
    encode_answers,
)
from stores.sessions import Sessions
from stores.submit_log import PublishOutcome, SubmitLog, subject

LISTEN_AGAIN_SECONDS = 1.0
MARKED_SECONDS = 1.0
MARKED_TOGETHER = 1_000
MOST_UNSCORED = 100_000
LEAST_AT_ONCE, MOST_AT_ONCE = 32, 256
SHARE_AT_ONCE = 0.25
"""Of a second's scores, so many clicks are worked on at a time: then each has its score while it waits. Were all of a burst
begun at once, none would, and everybody would come back to ask (docs/decisions/0007-submits.md)."""

FEW = 500
"""So many may wait, for their turn or for their scores, before anybody knows how fast those come."""

FORGOTTEN_SECONDS = 60.0
"""A score that was not heard of by then has come while nobody listened, or takes too long to be reckoned with."""

IN_THE_STREAM = frozenset({PublishOutcome.KEPT, PublishOutcome.ALREADY})
log = structlog.get_logger()
T = TypeVar("T")


class NotKept(ConnectionError):
    """Neither JetStream nor PostgreSQL took the submit; the flip stands, and a retry gets the same frozen answers."""


@dataclass(frozen=True, slots=True)
class Late:
    """A click that came after the end: the bell has rung for the session, or holds until `held_until_ms`."""

    ends_ms: int
    now_ms: int
    held_until_ms: int | None


class Submits:
    """Flips sessions, makes their frozen answers durable, and hears of scores."""

    def __init__(
        self,
        live: LiveSessions,
        submits: SubmitLog,
        sessions: Sessions,
        deadlines: Deadlines,
        *,
        publish_wait_ms: int,
        crash_at: str,
    ) -> None:
        self._live = live
        self._deadlines = deadlines
        self._submits = submits
        self._publish_wait = publish_wait_ms / 1000
        self._crash_at = crash_at
        self._rows: Coalescer[tuple[UUID, str, bytes], None] = Coalescer(sessions.keep_submissions, queue="submission rows")
        self._sessions = sessions
        self._pace = Pace()
        self._heard = -math.inf
        self._awaited: OrderedDict[UUID, float] = OrderedDict()
        self._unmarked: OrderedDict[UUID, tuple[float, Mark]] = OrderedDict()
        self._owned: set[asyncio.Task[Any]] = set()
        self._waiting: dict[UUID, list[asyncio.Future[events.SessionScored]]] = {}
        self._inbox = ""

    async def listen(self) -> bool:
        """Make the stream and open the inbox for inline scores; False: NATS does not answer yet, and nobody waits for scores."""
        try:
            await self._submits.prepare()
            inbox = f"scored.{uuid4().hex}"
            await self._submits.listen(inbox, self._receive)
            self._inbox = inbox
        except Exception as failure:  # students are served without it: their submits go to PostgreSQL
            log.warning("no JetStream yet", error=type(failure).__name__)
        return bool(self._inbox)

    async def listen_at_last(self, stop: asyncio.Event) -> None:
        """Try again until the inbox is open."""
        while not (self._inbox or stop.is_set() or await self.listen()):
            await sleep_until(stop, LISTEN_AGAIN_SECONDS)

    async def own(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work that goes on when whoever asked for it has gone."""
        task = asyncio.create_task(work)
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)
        return await asyncio.shield(task)

    async def click(self, session: UUID, student: str, key: UUID, waited: float = 0) -> Frozen | Late | None:
        """Hand a session in for its student, or ring the bell where time was over when the click arrived, `waited` seconds ago:
        first reading, as the bell does, whether time was given back. Returns once the frozen answers are durable. None: no such
        session."""
        for _ in range(2):
            flipped = await self._durable(
                await self._live.submit(session, student, SubmitReason.CLICK, waited_ms=int(waited * 1000)), key
            )
            if not isinstance(flipped, NotFlipped):
                return flipped
            await settle(self._deadlines, self._live, await self._deadlines.unsettled_among([session]))
            rung = await self.ring(session, grace_ms=0)
            if isinstance(rung, NotFlipped) and rung.outcome is SubmitOutcome.HELD:
                return Late(flipped.until_ms, flipped.now_ms, rung.until_ms)
            if isinstance(rung, Frozen):
                return Late(rung.ends_ms, rung.now_ms, None)
        raise NotKept

    async def ring(self, session: UUID, grace_ms: int = BELL_GRACE_MS) -> Frozen | NotFlipped | None:
        """Hand a session in whose time is over. One that was handed in before is left to whoever did, and to the nets."""
        rung = await self._live.submit(session, None, SubmitReason.BELL, grace_ms)
        return await self._durable(rung, None) if rung is not None and rung.outcome is SubmitOutcome.FLIPPED else rung

    async def keep(self, frozen: Frozen, key: UUID | None) -> None:
        """Make a flipped session durable: in JetStream, or, when that does not answer in time, in PostgreSQL.

        "Already queued" is as good as kept: the broker holds the first copy, with the same frozen answers.
        """
        where, event = subject(frozen.facts.exam, frozen.facts.session), encode(frozen, self._inbox, key)
        in_stream = await self._submits.publish(where, event, self._publish_wait, traces.carried()) in IN_THE_STREAM
        if not in_stream:
            try:
                await self._rows.submit((frozen.facts.session, where, event))
            except Exception as failure:
                log.warning("submit not kept", session=str(frozen.facts.session), error=type(failure).__name__)
                raise NotKept from failure
        mark, now = Mark(frozen.facts.session, frozen.submitted_ms, frozen.reason, frozen.answers_sha256, key), monotonic()
        self._unmarked[mark.session] = (now + MARKED_SECONDS, mark)
        if self._inbox and in_stream:  # a row is scored within a second or so, and nobody may hear of it
            self._awaited[mark.session] = now
        for kept in (self._unmarked, self._awaited):
            if len(kept) > MOST_UNSCORED:
                kept.popitem(last=False)

    @contextmanager
    def expecting(self, session: UUID) -> "Iterator[asyncio.Future[events.SessionScored]]":
        """Listen for a session's inline score: from before the publish on, since the score may overtake the reply."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(session, []).append(waiting)
        try:
            yield waiting
        finally:
            others = self._waiting[session]
            others.remove(waiting)
            if not others:
                del self._waiting[session]

    async def score(
        self, waiting: "asyncio.Future[events.SessionScored]", began: float, inline_wait: float, in_line: int
    ) -> events.SessionScored | None:
        """Wait for a score: for `inline_wait` seconds since work on the submit began, and for as long again while scores come.

        None: it takes longer, or others cannot wait for it: where more are `in_line`, or without their scores, than are scored in
        a second, it matters more that every submit is safe soon.
        """
        if max(in_line, len(self._awaited)) > max(FEW, self._pace.a_second):
            return None
        until = began + inline_wait
        while not waiting.done() and (left := until - monotonic()) > 0:
            await asyncio.wait((waiting,), timeout=left)
            until = min(self._heard, began + inline_wait) + inline_wait
        return waiting.result() if waiting.done() else None

    def at_once(self) -> int:
        """Return how many clicks are worked on at a time."""
        return min(MOST_AT_ONCE, max(LEAST_AT_ONCE, int(self._pace.a_second * SHARE_AT_ONCE)))

    def ask_again_seconds(self) -> int:
        """Return when a score should be there that is not yet."""
        return self._pace.ask_again_seconds(len(self._awaited))

    async def drain(self) -> None:
        """Finish what was begun."""
        while self._owned:
            await asyncio.gather(*self._owned, return_exceptions=True)
        await self._mark(math.inf)

    async def mark(self, stop: asyncio.Event) -> None:
        """Tell PostgreSQL of submits whose score takes longer than a second: scoring tells of the others, at no cost."""
        since = monotonic()
        while not stop.is_set():
            await self._mark(monotonic())
            now = monotonic()
            self._pace.tick(now - since)
            since = now
            while self._awaited and next(iter(self._awaited.values())) < now - FORGOTTEN_SECONDS:
                self._awaited.popitem(last=False)
            await sleep_until(stop, MARKED_SECONDS)

    async def mark_now(self, state: SessionState) -> None:
        """Tell PostgreSQL of one submit, for whoever cannot wait for it."""
        answers = encode_answers({saved.question: saved.answer.packed() for saved in state.answers})
        at_ms, reason = state.submitted_ms or state.now_ms, state.reason or SubmitReason.CLICK
        await self._sessions.mark_submitted([Mark(state.facts.session, at_ms, reason, answers_sha256(answers), None)])

    async def _durable(self, flipped: Frozen | NotFlipped | None, key: UUID | None) -> Frozen | NotFlipped | None:
        if isinstance(flipped, Frozen) and not flipped.scored:
            crash("D2", self._crash_at)
            await self.keep(flipped, key)
            crash("D3", self._crash_at)
        return flipped

    async def _mark(self, now: float) -> None:
        """Tell PostgreSQL of what is due; scoring does it too, so a failure here only delays what a listing shows."""
        due = [mark for at, mark in self._unmarked.values() if at <= now]
        for some in (due[at : at + MARKED_TOGETHER] for at in range(0, len(due), MARKED_TOGETHER)):
            try:
                await self._sessions.mark_submitted(some)
            except Exception as failure:
                log.warning("submits not marked yet", count=len(due), error=type(failure).__name__)
                return
            for mark in some:
                self._unmarked.pop(mark.session, None)

    def _receive(self, data: bytes) -> None:
        scores = events.SessionsScored.FromString(data).sessions
        self._pace.heard(len(scores))
        self._heard = monotonic()
        for scored in scores:
            session = UUID(scored.session_id)
            self._unmarked.pop(session, None)
            self._awaited.pop(session, None)
            for waiting in self._waiting.get(session, ()):
                if not waiting.done():
                    waiting.set_result(scored)


def encode(frozen: Frozen, reply_to: str, key: UUID | None = None) -> bytes:
    """Return the self-contained event of a frozen session."""
    at = Timestamp()
    at.FromMilliseconds(frozen.submitted_ms)
    return events.SessionSubmitted(
        session_id=str(frozen.facts.session),
        exam_id=frozen.facts.exam,
        exam_version=frozen.facts.exam_version,
        student_id=frozen.facts.student,
        submitted_at=at,
        reason=events.SessionSubmitted.Reason.Value(frozen.reason),
        answers=frozen.answers,
        answers_sha256=frozen.answers_sha256,
        reply_to=reply_to,
        submit_key=key.bytes if key else b"",
    ).SerializeToString()


def decode(event: bytes) -> Frozen:
    """Read `encode` back, as far as a restore needs it."""
    read = events.SessionSubmitted.FromString(event)
    return Frozen(
        outcome=SubmitOutcome.ALREADY,
        facts=SessionFacts(UUID(read.session_id), read.exam_id, read.exam_version, read.student_id, 0, "", 0),
        submitted_ms=read.submitted_at.ToMilliseconds(),
        reason=SubmitReason(events.SessionSubmitted.Reason.Name(read.reason)),
        ends_ms=0,
        now_ms=0,
        answers=read.answers,
        answers_sha256=read.answers_sha256,
        scored=False,
    )

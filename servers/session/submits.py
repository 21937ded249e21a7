"""Handing a session in: from the flip on, the work belongs to the server, not to the client's connection."""

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID, uuid4

import structlog
from finalbell.v1 import events_pb2 as events
from google.protobuf.timestamp_pb2 import Timestamp

from stores.live import LiveSessions
from stores.pipeline import Coalescer
from stores.records import Frozen, SessionFacts, SubmitOutcome, SubmitReason
from stores.sessions import Sessions
from stores.submit_log import PublishOutcome, SubmitLog, subject

log = structlog.get_logger()
T = TypeVar("T")


class NotKept(ConnectionError):
    """Neither JetStream nor PostgreSQL took the submit; the flip stands, and a retry gets the same frozen answers."""


class Submits:
    """Flips sessions, makes their frozen answers durable, and hears of scores."""

    def __init__(self, live: LiveSessions, submits: SubmitLog, sessions: Sessions, *, publish_wait_ms: int, crash_at: str) -> None:
        self._live = live
        self._submits = submits
        self._publish_wait = publish_wait_ms / 1000
        self._crash_at = crash_at
        self._rows: Coalescer[tuple[UUID, str, bytes], None] = Coalescer(sessions.keep_submissions)
        self._marks: Coalescer[tuple[Frozen, UUID | None], None] = Coalescer(sessions.mark_submitted)
        self._owned: set[asyncio.Task[Any]] = set()
        self._waiting: dict[UUID, asyncio.Future[events.SessionScored]] = {}
        self._inbox = ""

    async def listen(self) -> None:
        """Open the inbox for inline scores; without it (the bell's process) nobody waits."""
        self._inbox = f"scored.{uuid4().hex}"
        await self._submits.listen(self._inbox, self._receive)

    async def click(self, session: UUID, student: str, key: UUID) -> Frozen | None:
        """Hand a session in for its student; returns once the frozen answers are durable. None: no such session."""
        return await asyncio.shield(self._own(self._hand_in(session, student, SubmitReason.CLICK, key)))

    async def ring(self, session: UUID) -> Frozen | None:
        """Hand a session in whose time is over."""
        return await self._hand_in(session, None, SubmitReason.BELL, None)

    async def keep(self, frozen: Frozen, key: UUID | None) -> None:
        """Make a flipped session durable: in JetStream, or, when that does not answer in time, in PostgreSQL.

        "Already queued" is as good as kept: the broker holds the first copy, with the same frozen answers.
        """
        where, event = subject(frozen.facts.exam, frozen.facts.session), encode(frozen, self._inbox)
        if await self._submits.publish(where, event, self._publish_wait) is PublishOutcome.AWAY:
            try:
                await self._rows.submit((frozen.facts.session, where, event))
            except Exception as failure:
                log.warning("submit not kept", session=str(frozen.facts.session), error=type(failure).__name__)
                raise NotKept from failure
        self._own(self._mark(frozen, key))

    @contextmanager
    def expecting(self, session: UUID) -> "Iterator[asyncio.Future[events.SessionScored]]":
        """Listen for a session's inline score: from before the publish on, since the score may overtake the reply."""
        waiting = self._waiting.setdefault(session, asyncio.get_running_loop().create_future())
        try:
            yield waiting
        finally:
            self._waiting.pop(session, None)

    async def drain(self) -> None:
        """Finish what was begun."""
        while self._owned:
            await asyncio.gather(*self._owned, return_exceptions=True)

    async def _hand_in(self, session: UUID, student: str | None, reason: SubmitReason, key: UUID | None) -> Frozen | None:
        frozen = await self._live.submit(session, student, reason)
        if frozen is not None and frozen.outcome is not SubmitOutcome.EARLY and not frozen.scored:
            crash("D2", self._crash_at)
            await self.keep(frozen, key)
            crash("D3", self._crash_at)
        return frozen

    async def _mark(self, frozen: Frozen, key: UUID | None) -> None:
        """Tell PostgreSQL; scoring does it too, so a failure here only delays what a listing shows."""
        try:
            await self._marks.submit((frozen, key))
        except Exception as failure:
            log.warning("submit not marked yet", session=str(frozen.facts.session), error=type(failure).__name__)

    def _own(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.create_task(work)
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)
        return task

    def _receive(self, data: bytes) -> None:
        for scored in events.SessionsScored.FromString(data).sessions:
            waiting = self._waiting.get(UUID(scored.session_id))
            if waiting is not None and not waiting.done():
                waiting.set_result(scored)


def encode(frozen: Frozen, reply_to: str) -> bytes:
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


def crash(step: str, chosen: str) -> None:
    """Kill this process at a chosen step, as kill -9 would; for fault tests, by the setting `crash_at`."""
    if step == chosen:
        os.kill(os.getpid(), signal.SIGKILL)

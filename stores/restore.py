"""Brings a session back into a Redis that does not know it: empty, wiped, or of an earlier generation.

Where it looks, in this order, decides that a submitted session never comes back to life: the stream, the `submission`
row, the result; only then the answers. A store that does not answer is an error, never a guess.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from secrets import token_hex
from uuid import UUID

from stores.live import LiveSessions, RestoreFailed
from stores.records import (
    Frozen,
    SavedAnswer,
    SessionRow,
    SessionState,
    SessionStatus,
    SubmitReason,
    decode_answers,
)
from stores.sessions import Sessions
from stores.submit_log import SubmitLog

CONCURRENT = 32
TOKEN_WAIT_SECONDS = 0.05
TOKEN_TRIES = 20


class Restorer:
    """Restores sessions, one at a time each, a bounded number at once. `read_event` decodes a submit event."""

    def __init__(self, sessions: Sessions, submits: SubmitLog, read_event: Callable[[bytes], Frozen]) -> None:
        self._sessions = sessions
        self._submits = submits
        self._read_event = read_event
        self._running: dict[UUID, asyncio.Task[bool]] = {}
        self._places = asyncio.Semaphore(CONCURRENT)
        self.live: LiveSessions | None = None

    async def restore(self, session: UUID) -> bool:
        """Restore a session, or wait for whoever is restoring it; False: there is no such session."""
        running = self._running.get(session)
        if running is None:
            running = asyncio.create_task(self._restore(session))
            self._running[session] = running
            running.add_done_callback(lambda _: self._running.pop(session, None))
        return await asyncio.shield(running)

    async def _restore(self, session: UUID) -> bool:
        if self.live is None:
            raise RestoreFailed
        async with self._places:
            row = await self._sessions.read(session)
            if row is None:
                return False
            for _ in range(TOKEN_TRIES):
                token = token_hex(8)
                if await self.live.take_token(session, token):
                    # False means that the token was lost to a wipe or to another restorer: the caller's next try sees.
                    await self.live.install(await self._rebuilt(row), token)
                    return True
                await asyncio.sleep(TOKEN_WAIT_SECONDS)
                if await self._sessions.read(session) is None:
                    return False
            raise RestoreFailed

    async def _rebuilt(self, row: SessionRow) -> SessionState:
        """Return the session as it has to be from now on, in a higher epoch."""
        session = row.facts.session
        event = await self._submits.last(row.facts.exam, session) or await self._sessions.submission(session)
        if event is not None:
            frozen = self._read_event(event)
            return _submitted(row, SessionStatus.SUBMITTED, frozen.submitted_ms, frozen.reason, frozen.answers)
        # Only now: a worker may have scored it, and emptied the other two, since `row` was read.
        scored = await self._sessions.scored_answers(session)
        if scored is not None:
            return _submitted(row, SessionStatus.SCORED, row.submitted_ms or row.ends_ms, SubmitReason.CLICK, scored)
        if row.status is not SessionStatus.IN_PROGRESS:
            raise RestoreFailed(f"{session} was handed in, and its frozen answers are nowhere")
        epoch = await self._sessions.next_epoch(session)
        return await self._merged(replace(row, epoch=epoch))

    async def _merged(self, row: SessionRow) -> SessionState:
        """Merge, per question, what Redis still has and what PostgreSQL has, by the higher version."""
        if self.live is None:
            raise RestoreFailed
        newest: dict[str, SavedAnswer] = {}
        leftover = await self.live.leftover(row.facts.session)
        for saved in [*(leftover.answers if leftover else ()), *await self._sessions.answers(row.facts.session)]:
            if saved.question not in newest or saved.version > newest[saved.question].version:
                newest[saved.question] = saved
        flipped = leftover if leftover and leftover.status is not SessionStatus.IN_PROGRESS else None
        return SessionState(
            facts=row.facts,
            status=flipped.status if flipped else SessionStatus.IN_PROGRESS,
            ends_ms=row.ends_ms,
            now_ms=0,
            epoch=row.epoch,
            restored_through=max((saved.version for saved in newest.values()), default=0),
            submitted_ms=flipped.submitted_ms if flipped else None,
            reason=flipped.reason if flipped else None,
            answers=flipped.answers if flipped else tuple(newest.values()),
        )


def _submitted(row: SessionRow, status: SessionStatus, at_ms: int, reason: SubmitReason, answers: bytes) -> SessionState:
    """Return a session that is handed in, with exactly the answers that were frozen; versions and keys are gone."""
    frozen = (
        SavedAnswer(question, answer, version=0, saved_ms=at_ms, client_seq=None, key_digest=bytes(8), body_digest=bytes(4))
        for question, answer in decode_answers(answers).items()
    )
    return SessionState(
        facts=row.facts,
        status=status,
        ends_ms=row.ends_ms,
        now_ms=0,
        epoch=row.epoch,
        restored_through=0,
        submitted_ms=at_ms,
        reason=reason,
        answers=tuple(frozen),
    )

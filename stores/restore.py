"""Brings sessions back into a Redis that does not know them: empty, wiped, behind, or of an earlier generation.

Where it looks decides that a submitted session never comes back to life. A submit travels `submission` → stream →
`result` (or `dead_letter`), each step committed before the one before it is given up; looking in that same order can
miss nothing that moves on meanwhile. Only what is in none of them is running, and gets its answers merged. A store that
does not answer is an error, never a guess.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from secrets import token_hex
from time import monotonic
from uuid import UUID

import structlog
from prometheus_client import Counter, Histogram

from stores.dead_letters import DeadLetters
from stores.deadlines import Deadlines
from stores.hashes import replaced_row
from stores.live import LiveSessions, Restored, RestoreFailed
from stores.pipeline import Coalescer
from stores.records import (
    EPOCH_VERSIONS,
    Deadline,
    Frozen,
    SavedAnswer,
    SessionRow,
    SessionState,
    SessionStatus,
    SubmitReason,
    answers_sha256,
    decode_answers,
    encode_answers,
)
from stores.sessions import Sessions
from stores.submit_log import SubmitLog

TOGETHER = 256
WAITING = 20_000
TOKEN_WAIT_SECONDS = 0.05
RESTORED = Counter("finalbell_restores_total", "Sessions brought back into Redis", ["outcome"])
for outcome in (*SessionStatus, "PARKED", "FAILED"):  # shown from the beginning: a rate needs a zero to rise from
    RESTORED.labels(outcome)
SECONDS = Histogram("finalbell_restore_seconds", "How long a batch of restores took")
log = structlog.get_logger()


class Restorer:
    """Restores sessions, many together, one at a time each. `read_event` decodes a submit event."""

    def __init__(
        self,
        sessions: Sessions,
        deadlines: Deadlines,
        submits: SubmitLog,
        dead_letters: DeadLetters,
        read_event: Callable[[bytes], Frozen],
    ) -> None:
        self._sessions = sessions
        self._deadlines = deadlines
        self._submits = submits
        self._dead_letters = dead_letters
        self._read_event = read_event
        self._running: dict[UUID, asyncio.Task[bool]] = {}
        self._batches: Coalescer[UUID, bool] = Coalescer(
            self._restore, queue="restores", in_flight=4, batch=TOGETHER, bound=WAITING
        )
        self.live: LiveSessions | None = None

    async def restore(self, session: UUID) -> bool:
        """Restore a session, or wait for whoever is restoring it; False: there is no such session.

        True does not promise that it is there now: another process may be at it, or facts came between. Look again.
        """
        running = self._running.get(session)
        if running is None:
            running = asyncio.create_task(self._batches.submit(session))
            self._running[session] = running
            running.add_done_callback(lambda _: self._running.pop(session, None))
        return await asyncio.shield(running)

    async def _restore(self, sessions: Sequence[UUID]) -> Sequence[bool | Exception]:
        if self.live is None:
            raise RestoreFailed
        began, token = monotonic(), token_hex(8)
        mine, too_early_ms = await self.live.take_tokens(sessions, token)
        if len(mine) < len(sessions):
            await asyncio.sleep(TOKEN_WAIT_SECONDS)  # somebody else has the others; whoever asked looks again
        try:
            await asyncio.sleep(too_early_ms / 1000)
            rows = await self._sessions.read(sorted(mine))
            states = await self._rebuilt(rows)
            not_installed = await self.live.install(states, token)
        except BaseException:
            await self.live.give_tokens_back(sorted(mine), token)
            raise
        await self.live.give_tokens_back(sorted(mine - states.keys() | not_installed), token)
        for restored in (restored for session, restored in states.items() if session not in not_installed):
            RESTORED.labels("PARKED" if restored.parked else restored.state.status.value).inc()
        SECONDS.observe(monotonic() - began)
        return [self._outcome(session, session in mine, session in rows, session in states) for session in sessions]

    def _outcome(self, session: UUID, mine: bool, known: bool, rebuilt: bool) -> bool | Exception:
        if mine and known and not rebuilt:
            RESTORED.labels("FAILED").inc()
            return RestoreFailed(f"{session} was handed in, and its frozen answers are nowhere")
        return known or not mine

    async def _rebuilt(self, rows: Mapping[UUID, SessionRow]) -> Mapping[UUID, Restored]:
        """Return the sessions as they have to be from now on; one whose frozen answers are nowhere is left out."""
        deadlines = await self._deadlines.of(sorted(rows))
        kept = await self._sessions.submissions(sorted(rows))
        queued = await self._submits.last({session: row.facts.exam for session, row in rows.items() if session not in kept})
        events = {**kept, **queued}
        others = sorted(rows.keys() - events.keys())
        scored, letters = await self._sessions.scored_answers(others), await self._dead_letters.events(others)
        states: dict[UUID, Restored] = {}
        nowhere: dict[UUID, SessionRow] = {}
        for session, row in rows.items():
            try:
                if session in scored:
                    state = replace(_handed_in(row, deadlines[session], *scored[session]), status=SessionStatus.SCORED)
                elif session in events or session in letters:
                    event = self._read_event(events[session] if session in events else letters[session][0])
                    state = _handed_in(row, deadlines[session], event.submitted_ms, event.reason, event.answers)
                else:
                    nowhere[session] = row
                    continue
            except Exception as damaged:  # one that cannot be read must not hold up the others
                log.error("a kept submit cannot be read", session=str(session), error=type(damaged).__name__)
                continue
            waits = session in letters and letters[session][1]
            states[session] = Restored(state, parked=waits and session not in events and session not in scored)
        return {**states, **await self._left(nowhere, deadlines)}

    async def _left(self, rows: Mapping[UUID, SessionRow], deadlines: Mapping[UUID, Deadline]) -> Mapping[UUID, Restored]:
        """Return sessions whose submit is nowhere: those that run, and those that Redis alone still has as they were frozen."""
        if self.live is None or not rows:
            return {}
        leftovers = await self.live.leftovers(sorted(rows))
        running = {session: row for session, row in rows.items() if row.status is SessionStatus.IN_PROGRESS}
        frozen = {
            session: Restored(state)
            for session, leftover in leftovers.items()
            if session not in running and (state := _still_frozen(rows[session], deadlines[session], leftover)) is not None
        }
        return {**frozen, **await self._merged(running, deadlines, leftovers)}

    async def _merged(
        self, rows: Mapping[UUID, SessionRow], deadlines: Mapping[UUID, Deadline], leftovers: Mapping[UUID, SessionState]
    ) -> Mapping[UUID, Restored]:
        """Merge, per question, what Redis still has and what PostgreSQL has, by the higher version; in a higher epoch."""
        written: dict[UUID, list[SavedAnswer]] = {session: [] for session in rows}
        for entry in await self._sessions.answers(sorted(rows)):
            written[entry.session].append(entry.saved)
        epochs = await self._sessions.next_epochs(sorted(rows))
        return {
            session: Restored(merged(row, deadlines[session], epochs[session], written[session], leftovers.get(session)))
            for session, row in rows.items()
        }


def merged(
    row: SessionRow, deadline: Deadline, epoch: int, written: Sequence[SavedAnswer], leftover: SessionState | None
) -> SessionState:
    """Return a session that goes on, of what PostgreSQL has of its answers and what Redis still has of it.

    One that was flipped just before the generation changed keeps exactly what was frozen. Keys of saves that either side
    has replaced stay remembered. What was lost of an epoch is its end, so nothing is missing up to the newest version of the
    first one; of the later epochs nobody knows here how far their clients have looked.
    """
    flipped = leftover if leftover and leftover.status is not SessionStatus.IN_PROGRESS else None
    newest: dict[str, SavedAnswer] = {}
    replaced = leftover.replaced if leftover else b""
    for saved in sorted([*written, *(leftover.answers if leftover else ())], key=lambda saved: saved.version):
        known = newest.get(saved.question)
        if known is not None and known.version < saved.version:
            replaced += replaced_row(known)
        newest[saved.question] = saved
    return SessionState(
        facts=row.facts,
        status=flipped.status if flipped else SessionStatus.IN_PROGRESS,
        deadline=deadline,
        now_ms=0,
        epoch=epoch,
        restored_through=max((saved.version for saved in newest.values() if saved.version < EPOCH_VERSIONS), default=0),
        submitted_ms=flipped.submitted_ms if flipped else None,
        reason=flipped.reason if flipped else None,
        answers=flipped.answers if flipped else tuple(newest.values()),
        replaced=replaced,
    )


def _still_frozen(row: SessionRow, deadline: Deadline, leftover: SessionState) -> SessionState | None:
    """Return a submitted session from what Redis still has of it, if that is byte for byte what was frozen."""
    if leftover.submitted_ms is None or leftover.reason is None:
        return None
    answers = encode_answers({saved.question: saved.answer.packed() for saved in leftover.answers})
    if answers_sha256(answers) != row.answers_sha256:
        return None
    return _handed_in(row, deadline, leftover.submitted_ms, leftover.reason, answers)


def _handed_in(row: SessionRow, deadline: Deadline, at_ms: int, reason: SubmitReason, answers: bytes) -> SessionState:
    """Return a session that is handed in, with exactly the answers that were frozen; versions and keys are gone."""
    frozen = (
        SavedAnswer(question, answer, version=0, saved_ms=at_ms, client_seq=None, key_digest=bytes(8), body_digest=bytes(4))
        for question, answer in decode_answers(answers).items()
    )
    return SessionState(
        facts=row.facts,
        status=SessionStatus.SUBMITTED,
        deadline=deadline,
        now_ms=0,
        epoch=row.epoch,
        restored_through=0,
        submitted_ms=at_ms,
        reason=reason,
        answers=tuple(frozen),
    )

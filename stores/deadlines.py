"""Deadlines: the facts that decide when sessions end (PostgreSQL), and bringing live sessions up to them.

A fact is committed first, together with a higher `deadline_version` of every session that it concerns. `settle` then
computes the end anew and tells Redis, which takes it only if it is newer; a crash in between leaves the session
unsettled in PostgreSQL, where the bell's sweep finds it. Nobody computes an end from anything but the rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import asyncpg

from stores.catalog import record
from stores.live import LiveSessions
from stores.records import Accommodation, Adjustment, Deadline, MoveOutcome, Pause, SessionStatus, Terms
from stores.sessions import accommodation_of, milliseconds, milliseconds_or_none, moment, moment_or_none

TERMS = """
  SELECT s.id, s.student_id, s.exam_id, s.status, s.submitted_at, s.started_at, s.deadline_version,
    e.duration_seconds, e.closes_at, e.max_pauses, e.max_pause_seconds, clock_timestamp() AS now,
    a.exam_id AS accommodated, a.extra_seconds, a.factor,
    ARRAY(SELECT (p.paused_at, p.ends_by, p.resumed_at) FROM session_pause p
          WHERE p.session_id = s.id ORDER BY p.paused_at) AS pauses,
    ARRAY(SELECT (d.seconds, d.reason, d.adjusted_at) FROM deadline_adjustment d
          WHERE d.session_id = s.id ORDER BY d.adjusted_at) AS adjustments
  FROM exam_session s
  JOIN exam e ON e.id = s.exam_id
  LEFT JOIN LATERAL (
    SELECT exam_id, extra_seconds, factor FROM accommodation
    WHERE student_id = s.student_id AND exam_id IN (s.exam_id, '') ORDER BY exam_id DESC LIMIT 1
  ) a ON true
"""
SETTLED_TOGETHER = 1_000
STARTING_MS = 30_000


@dataclass(frozen=True, slots=True)
class Explained:
    """A session's terms, with what is needed to judge and to show them; `submitted_ms` None: in progress."""

    student: str
    exam: str
    status: SessionStatus
    submitted_ms: int | None
    now_ms: int
    max_pauses: int
    max_pause_seconds: int
    terms: Terms


class AdjustOutcome(StrEnum):
    """What became of an adjustment."""

    ADJUSTED = "ADJUSTED"
    REPEATED = "REPEATED"
    REUSED = "REUSED"
    SUBMITTED = "SUBMITTED"
    UNKNOWN = "UNKNOWN"


class Deadlines:
    """Facts about time. `rule` makes a deadline of its terms."""

    def __init__(self, pool: asyncpg.Pool, rule: Callable[[Terms], Deadline]) -> None:
        self._pool = pool
        self.rule = rule

    async def explain(self, session: UUID) -> Explained | None:
        """Return a session's terms, or None."""
        return (await self.explain_all([session])).get(session)

    async def of(self, sessions: Sequence[UUID]) -> Mapping[UUID, Deadline]:
        """Return when sessions end by the facts of this moment."""
        return {session: self.rule(found.terms) for session, found in (await self.explain_all(sessions)).items()}

    async def pause(self, session: UUID, version: int, paused_ms: int, ends_by_ms: int) -> bool:
        """Note that a session is paused; False: its terms are no longer those of `version`, nothing was noted."""
        return bool(
            await self._pool.fetchval(
                """
                WITH moved AS (
                  UPDATE exam_session SET deadline_version = deadline_version + 1
                  WHERE id = $1 AND deadline_version = $2 AND status = 'IN_PROGRESS' RETURNING id
                )
                INSERT INTO session_pause (session_id, paused_at, ends_by) SELECT id, $3, $4 FROM moved RETURNING true
                """,
                session,
                version,
                moment(paused_ms),
                moment(ends_by_ms),
            )
        )

    async def resume(self, session: UUID, version: int, resumed_ms: int) -> bool:
        """Note that a session's open pause is over; False: its terms are no longer those of `version`, nothing was noted."""
        return bool(
            await self._pool.fetchval(
                """
                WITH moved AS (
                  UPDATE exam_session SET deadline_version = deadline_version + 1
                  WHERE id = $1 AND deadline_version = $2 AND status = 'IN_PROGRESS' RETURNING id
                )
                UPDATE session_pause SET resumed_at = $3
                WHERE session_id IN (SELECT id FROM moved) AND resumed_at IS NULL AND ends_by > $3 RETURNING true
                """,
                session,
                version,
                moment(resumed_ms),
            )
        )

    async def adjust(self, session: UUID, key: UUID, seconds: int, reason: str, actor: str, *, handed_in: bool) -> AdjustOutcome:
        """Note that staff gave a session time, or took some; the same key again changes nothing. `handed_in`: Redis knows
        already that it is too late, PostgreSQL may not yet."""
        async with self._pool.acquire() as connection, connection.transaction():
            status = await connection.fetchval("SELECT status FROM exam_session WHERE id = $1 FOR NO KEY UPDATE", session)
            if status is None:
                return AdjustOutcome.UNKNOWN
            before = await connection.fetchrow(
                "SELECT seconds, reason FROM deadline_adjustment WHERE session_id = $1 AND adjust_key = $2", session, key
            )
            if before is not None:
                same = (before["seconds"], before["reason"]) == (seconds, reason)
                return AdjustOutcome.REPEATED if same else AdjustOutcome.REUSED
            if handed_in or status != SessionStatus.IN_PROGRESS:
                return AdjustOutcome.SUBMITTED
            await connection.execute(
                "INSERT INTO deadline_adjustment (session_id, adjust_key, seconds, reason, actor) VALUES ($1, $2, $3, $4, $5)",
                *(session, key, seconds, reason, actor),
            )
            await connection.execute("UPDATE exam_session SET deadline_version = deadline_version + 1 WHERE id = $1", session)
            await record(connection, actor, "session.adjust", str(session), {"seconds": seconds, "reason": reason})
            return AdjustOutcome.ADJUSTED

    async def accommodate(self, student: str, exam: str, extra: Accommodation, reason: str, actor: str) -> Sequence[UUID]:
        """Set a student's extra time for an exam, or with "" for all of theirs; returns the sessions to settle.

        Starts of the same student wait on the lock, so that none of them misses it.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('time of ' || $1, 0))", student)
            await connection.execute(
                """
                INSERT INTO accommodation (student_id, exam_id, extra_seconds, factor) VALUES ($1, $2, $3, $4)
                ON CONFLICT (student_id, exam_id) DO UPDATE SET
                  extra_seconds = excluded.extra_seconds, factor = excluded.factor, set_at = now()
                """,
                *(student, exam, extra.extra_seconds, extra.factor),
            )
            rows = await connection.fetch(
                """
                UPDATE exam_session SET deadline_version = deadline_version + 1
                WHERE student_id = $1 AND status = 'IN_PROGRESS' AND ($2 = '' OR exam_id = $2) RETURNING id
                """,
                *(student, exam),
            )
            given = {"extraSeconds": extra.extra_seconds, "factor": str(extra.factor) if extra.factor is not None else None}
            details = {"exam": exam, "reason": reason} | {name: value for name, value in given.items() if value is not None}
            await record(connection, actor, "accommodation.set", student, details)
        return [row["id"] for row in rows]

    async def unsettled(self, count: int) -> Sequence[UUID]:
        """Return sessions whose facts are newer than their end."""
        rows = await self._pool.fetch("SELECT id FROM exam_session WHERE deadline_applied < deadline_version LIMIT $1", count)
        return [row["id"] for row in rows]

    async def unsettled_among(self, sessions: Sequence[UUID]) -> Sequence[UUID]:
        """Return which of these have facts that are newer than their end."""
        rows = await self._pool.fetch(
            "SELECT id FROM exam_session WHERE id = ANY ($1) AND deadline_applied < deadline_version", list(sessions)
        )
        return [row["id"] for row in rows]

    async def note(self, ends: Mapping[UUID, Deadline]) -> None:
        """Note the ends that sessions have been brought to."""
        ordered = sorted(ends.items())
        await self._pool.execute(
            """
            WITH computed AS (
              SELECT * FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[])
                AS c (id, version, ends_at, paused_at, pause_ends_at)
            ), locked AS (
              SELECT id FROM exam_session WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE
            )
            UPDATE exam_session s
            SET ends_at = c.ends_at, paused_at = c.paused_at, pause_ends_at = c.pause_ends_at, deadline_applied = c.version
            FROM computed c JOIN locked USING (id)
            WHERE s.id = c.id AND s.deadline_applied < c.version
            """,
            [session for session, _ in ordered],
            [end.version for _, end in ordered],
            [moment(end.ends_ms) for _, end in ordered],
            [moment_or_none(end.paused_ms) for _, end in ordered],
            [moment_or_none(end.pause_ends_ms) for _, end in ordered],
        )

    async def explain_all(self, sessions: Sequence[UUID]) -> Mapping[UUID, Explained]:
        """Return the terms of sessions; unknown ones are left out."""
        rows = await self._pool.fetch(f"{TERMS} WHERE s.id = ANY ($1)", list(sessions))
        return {row["id"]: _explained(row) for row in rows}


async def settle(deadlines: Deadlines, live: LiveSessions, sessions: Sequence[UUID]) -> frozenset[UUID]:
    """Bring sessions up to the facts, in Redis and then in PostgreSQL; returns those that were handed in already.

    One that Redis does not have needs nothing: its restore will read the facts. But one that is just being started is
    left to the next sweep, since its start may install the end that it has read before.
    """
    submitted: set[UUID] = set()
    for first in range(0, len(sessions), SETTLED_TOGETHER):
        found = await deadlines.explain_all(sessions[first : first + SETTLED_TOGETHER])
        ends = {session: deadlines.rule(one.terms) for session, one in found.items()}
        outcomes = await live.move(ends)
        submitted |= {session for session, outcome in outcomes.items() if outcome is MoveOutcome.SUBMITTED}
        starting = {
            session
            for session, outcome in outcomes.items()
            if outcome is MoveOutcome.ABSENT and found[session].now_ms - found[session].terms.started_ms < STARTING_MS
        }
        await deadlines.note({session: end for session, end in ends.items() if session not in starting})
    return frozenset(submitted)


def _explained(row: asyncpg.Record) -> Explained:
    return Explained(
        student=row["student_id"],
        exam=row["exam_id"],
        status=SessionStatus(row["status"]),
        submitted_ms=milliseconds_or_none(row["submitted_at"]),
        now_ms=milliseconds(row["now"]),
        max_pauses=row["max_pauses"],
        max_pause_seconds=row["max_pause_seconds"],
        terms=Terms(
            started_ms=milliseconds(row["started_at"]),
            duration_ms=row["duration_seconds"] * 1000,
            closes_ms=milliseconds_or_none(row["closes_at"]),
            accommodation=accommodation_of(row),
            pauses=tuple(Pause(milliseconds(a), milliseconds(b), milliseconds_or_none(c)) for a, b, c in row["pauses"]),
            adjustments=tuple(Adjustment(seconds, why, milliseconds(at)) for seconds, why, at in row["adjustments"]),
            version=row["deadline_version"],
        ),
    )

"""Revisions: later changes of results, by a grade or a regrade. Each keeps what it replaced, and says `WHERE revision = $read`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from stores.grading import TASKS, Decide, graded_essays
from stores.records import Attempt, Grade, GradeOutcome, Result, ResultRevision, Standing
from stores.results import open_tasks, pending, points_text, result_of, status_text
from stores.sessions import milliseconds
from stores.standings import STANDING, TIEBREAK, restate, standing_of

RESULT = "SELECT r.*, s.submitted_at, s.submit_reason FROM result r JOIN exam_session s ON s.id = r.session_id"
Derive = Callable[[Result, Mapping[str, int]], Result]
"""Grades a result's frozen answers again, with what its decided essays were given (points before the marking)."""


@dataclass(frozen=True, slots=True)
class Graded:
    """What a grade led to: the essay's points once they are decided, and the session's result where it changed."""

    outcome: GradeOutcome
    points: int | None = None
    result: Result | None = None
    standings: Sequence[Standing] = ()


@dataclass(frozen=True, slots=True)
class Regraded:
    """What one chunk of a regrade did: how many results it looked at, those that changed (before, after), who stands where."""

    looked_at: int
    changed: Sequence[tuple[Result, Result]]
    standings: Sequence[Standing]


Note = Callable[[asyncpg.Connection, Regraded], Awaitable[None]]
"""Notes a chunk's progress in its transaction."""


class Revisions:
    """Changes of results that are there."""

    def __init__(self, pool: asyncpg.Pool, decide: Decide) -> None:
        self._pool = pool
        self._decide = decide

    async def read(self, session: UUID) -> Result | None:
        """Return a session's result as it is now, or None."""
        row = await self._pool.fetchrow(f"{RESULT} WHERE r.session_id = $1", session)
        return result_of(row) if row else None

    async def history(self, session: UUID) -> Sequence[ResultRevision] | None:
        """Return the revisions of a session's result that were replaced, oldest first; None: no such session."""
        known = await self._pool.fetchval("SELECT true FROM exam_session WHERE id = $1", session)
        rows = await self._pool.fetch("SELECT * FROM result_history WHERE session_id = $1 ORDER BY revision", session)
        found = [
            ResultRevision(
                row["revision"],
                row["score"],
                row["status"] == "PARTIAL",
                row["key_version"],
                milliseconds(row["replaced_at"]),
                row["reason"],
            )
            for row in rows
        ]
        return found if known else None

    async def grade(self, grade: Grade, session: UUID, key_version: int, derive: Derive) -> Graded:
        """Keep a grade and what follows from it, in one transaction: a third task, or the result's next revision.

        The result's row is locked first, as everywhere. CHANGED: it was regraded with other keys than `key_version` meanwhile.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(f"{RESULT} WHERE r.session_id = $1 FOR UPDATE OF r", session)
            old = result_of(row)
            if old.key_version != key_version:
                return Graded(GradeOutcome.CHANGED)
            outcome = await _keep(connection, grade)
            if outcome not in (GradeOutcome.GRADED, GradeOutcome.REPEATED):
                return Graded(outcome)
            essays = (await self._given(connection, [session]))[session]
            new = derive(old, essays)
            points = essays.get(grade.question)
            await _ask_thirds(connection, [new])
            if not _worth_the_same(old, new):
                await _replace(connection, [(old, new)], f"graded by {grade.grader}")
            return Graded(outcome, points, new, await restate(connection, {(new.exam, new.student)}))

    async def page_behind(self, exam: str, exam_version: int, key_version: int, after: UUID | None, count: int) -> Sequence[Result]:
        """Return results that were graded with older keys, by session, from the one after `after`."""
        rows = await self._pool.fetch(
            f"""
            {RESULT} WHERE r.exam_id = $1 AND r.exam_version = $2 AND r.key_version < $3 AND ($4::uuid IS NULL OR r.session_id > $4)
            ORDER BY r.session_id LIMIT $5
            """,
            *(exam, exam_version, key_version, after, count),
        )
        return [result_of(row) for row in rows]

    async def attempts(self, exam: str, after: UUID | None, count: int) -> Sequence[Attempt]:
        """Return what every attempt at an exam claims its student's place with, by session, from the one after `after`."""
        rows = await self._pool.fetch(
            f"""
            SELECT r.session_id, r.student_id, r.score, r.status, {TIEBREAK} AS tiebreak
            FROM result r JOIN exam_session s ON s.id = r.session_id JOIN exam e ON e.id = r.exam_id
            WHERE r.exam_id = $1 AND ($2::uuid IS NULL OR r.session_id > $2) ORDER BY r.session_id LIMIT $3
            """,  # noqa: S608
            *(exam, after, count),
        )
        return [
            Attempt(row["session_id"], row["student_id"], row["score"], row["status"] == "PARTIAL", row["tiebreak"]) for row in rows
        ]

    async def settled(self) -> datetime:
        """Return the moment up to which `changed` misses nothing.

        A change bears the time of its transaction's begin: ten seconds later it is certainly committed.
        """
        until: datetime = await self._pool.fetchval("SELECT now() - interval '10 seconds'")
        return until

    async def changed(self, since: datetime, until: datetime, after: tuple[str, str], count: int) -> Sequence[Standing]:
        """Return standings of students whose results were changed between two moments, by (exam, student), from the one after
        `after`."""
        rows = await self._pool.fetch(
            f"""
            SELECT {STANDING} FROM standing t
            WHERE (exam_id, student_id) IN (SELECT exam_id, student_id FROM result WHERE changed_at > $1 AND changed_at <= $2)
              AND (exam_id, student_id) > ($3, $4)
            ORDER BY exam_id, student_id LIMIT $5
            """,  # noqa: S608
            *(since, until, *after, count),
        )
        return [standing_of(row) for row in rows]

    async def essays(self, sessions: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        """Return what decided essays were given, by session and question."""
        return await self._given(self._pool, sessions)

    async def _given(self, reader: asyncpg.Pool | asyncpg.Connection, sessions: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        found: dict[UUID, dict[str, int]] = {session: {} for session in sessions}
        for (session, question), essay in graded_essays(await reader.fetch(TASKS, sessions), self._decide).items():
            found[session][question] = essay.total
        return found

    async def regrade(
        self, paper: tuple[str, int, int], count: int, derive: Derive, reason: str, voided: Sequence[str], note: Note
    ) -> Regraded:
        """Bring some results of a paper (exam, its version, the keys' version) up to newer keys, in one transaction with `note`;
        those that a grader holds just now come with the next.

        A result that is worth the same only notes the keys' version; another one becomes a new revision. Tasks are settled
        before grades are read: an essay that counts again waits for every grader who was asked before it was voided.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(
                f"""
                {RESULT} WHERE r.exam_id = $1 AND r.exam_version = $2 AND r.key_version < $3
                ORDER BY r.session_id LIMIT $4 FOR UPDATE OF r SKIP LOCKED
                """,
                *(*paper, count),
            )
            old = [result_of(row) for row in rows]
            sessions = [result.session for result in old]
            await _settle_tasks(connection, sessions, voided)
            given = await self._given(connection, sessions)
            new = await asyncio.to_thread(lambda: [derive(result, given[result.session]) for result in old])
            changed = [(before, after) for before, after in zip(old, new, strict=True) if not _worth_the_same(before, after)]
            await connection.execute(
                "UPDATE result SET key_version = $2 WHERE session_id = ANY ($1)",
                [before.session for before, after in zip(old, new, strict=True) if _worth_the_same(before, after)],
                paper[2],
            )
            await _replace(connection, changed, reason)
            await open_tasks(connection, new)
            await _ask_thirds(connection, new)
            standings = await restate(connection, {(result.exam, result.student) for _, result in changed})
            done = Regraded(len(old), changed, standings)
            await note(connection, done)
        return done


def _worth_the_same(before: Result, after: Result) -> bool:
    return (before.points, before.score, before.max_score, before.partial) == (
        after.points,
        after.score,
        after.max_score,
        after.partial,
    )


async def _keep(connection: asyncpg.Connection, grade: Grade) -> GradeOutcome:
    """Write a grade into its task, if the claim is still the grader's own."""
    given = ([*grade.points], [*grade.comments], grade.comment)
    done = await connection.execute(
        """
        UPDATE grading_task SET status = 'GRADED', points = $4, comments = $5, comment = $6, graded_at = now(), lease_until = NULL
        WHERE id = $1 AND claim = $2 AND grader = $3 AND status = 'CLAIMED'
        """,
        *(grade.task, grade.claim, grade.grader, *given),
    )
    if done == "UPDATE 1":
        return GradeOutcome.GRADED
    row = await connection.fetchrow("SELECT * FROM grading_task WHERE id = $1", grade.task)
    if (row["claim"], row["grader"], row["status"]) != (grade.claim, grade.grader, "GRADED"):
        return GradeOutcome.LOST
    return GradeOutcome.REPEATED if (row["points"], row["comments"], row["comment"]) == given else GradeOutcome.DIFFERS


async def _ask_thirds(connection: asyncpg.Connection, results: Sequence[Result]) -> None:
    """Ask a third grader for what still waits though two have graded it: they disagree, by the tolerance of today."""
    waiting = pending(results)
    if not waiting:
        return
    await connection.execute(
        """
        INSERT INTO grading_task (session_id, question_id, exam_id, slot)
        SELECT t.session_id, t.question_id, t.exam_id, 3
        FROM unnest($1::uuid[], $2::text[]) AS w (session_id, question_id) JOIN grading_task t USING (session_id, question_id)
        GROUP BY 1, 2, 3 HAVING count(*) = 2 AND bool_and(t.status = 'GRADED')
        ORDER BY 1, 2
        ON CONFLICT (session_id, question_id, slot) DO NOTHING
        """,
        [session for session, _, _ in waiting],
        [question for _, question, _ in waiting],
    )


async def _replace(connection: asyncpg.Connection, changes: Sequence[tuple[Result, Result]], reason: str) -> None:
    """Write next revisions, and keep those that they replace; each only over the revision that was read, whose row is locked."""
    if not changes:
        return
    await connection.execute(
        """
        INSERT INTO result_history (session_id, revision, score, status, key_version, points, reason)
        SELECT r.session_id, r.revision, r.score, r.status, r.key_version, r.points, $3
        FROM result r JOIN unnest($1::uuid[], $2::int[]) AS old (session_id, revision) USING (session_id, revision)
        """,
        [old.session for old, _ in changes],
        [old.revision for old, _ in changes],
        reason,
    )
    await connection.execute(
        """
        UPDATE result r SET score = n.score, max_score = n.max_score, status = n.status, key_version = n.key_version,
          points = n.points::int[], revision = r.revision + 1, changed_at = now()
        FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::text[], $6::int[], $7::text[])
          AS n (session_id, revision, score, max_score, status, key_version, points)
        WHERE r.session_id = n.session_id AND r.revision = n.revision
        """,
        [old.session for old, _ in changes],
        [old.revision for old, _ in changes],
        [new.score for _, new in changes],
        [new.max_score for _, new in changes],
        [status_text(new) for _, new in changes],
        [new.key_version for _, new in changes],
        [points_text(new) for _, new in changes],
    )


async def _settle_tasks(connection: asyncpg.Connection, sessions: Sequence[UUID], voided: Sequence[str]) -> None:
    """Cancel the tasks of `voided` questions that nobody has graded, and open those again whose question counts again."""
    await connection.execute(
        """
        WITH turned AS (
          SELECT id FROM grading_task
          WHERE session_id = ANY ($1)
            AND CASE WHEN question_id = ANY ($2) THEN status IN ('OPEN', 'CLAIMED') ELSE status = 'CANCELLED' END
          ORDER BY session_id, question_id, slot FOR UPDATE
        )
        UPDATE grading_task t SET status = CASE WHEN t.question_id = ANY ($2) THEN 'CANCELLED' ELSE 'OPEN' END,
          grader = NULL, claim = NULL, lease_until = NULL
        FROM turned WHERE t.id = turned.id
        """,
        sessions,
        list(voided),
    )

"""Exports: a whole board as PostgreSQL has it, of one moment, however large."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from stores.sessions import milliseconds

FETCHED = 2_000
LONGEST_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Row:
    """One student's true place; `tiebreak` in ms, None where the exam breaks no ties."""

    rank: int
    score: int
    student: str
    alias: str
    cohorts: Sequence[str]
    session: UUID
    submitted_ms: int
    tiebreak: int | None


@dataclass(frozen=True, slots=True)
class Export:
    """A board of one moment, best first; `final`: the exam has ended, nothing waits for a grader and nothing is hidden."""

    final: bool
    rows: AsyncIterator[Sequence[Row]]


class Exports:
    """Reads whole boards."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def open(self, exam: str, cohort: str | None) -> AsyncIterator[Export]:
        """Give a board in one snapshot; nobody waits for it, and no more than a page of it is in memory."""
        async with self._pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            final = await connection.fetchval(
                """
                SELECT (e.closed_at IS NOT NULL OR e.closes_at <= now())
                  AND NOT EXISTS (SELECT FROM exam_session s WHERE s.exam_id = e.id AND s.status <> 'SCORED')
                  AND NOT EXISTS (SELECT FROM result r WHERE r.exam_id = e.id AND r.status = 'PARTIAL')
                  AND NOT EXISTS (
                    SELECT FROM standing t WHERE t.exam_id = e.id AND t.held AND t.held_key IS DISTINCT FROM t.order_key)
                FROM exam e WHERE e.id = $1
                """,
                exam,
                timeout=LONGEST_SECONDS,
            )
            yield Export(bool(final), _rows(connection, exam, cohort))


async def _rows(connection: asyncpg.Connection, exam: str, cohort: str | None) -> AsyncIterator[Sequence[Row]]:
    cursor = await connection.cursor(
        """
        SELECT rank() OVER (ORDER BY t.order_key DESC) AS rank, t.score, t.student_id, t.alias, t.cohorts, t.session_id,
          s.submitted_at, CASE WHEN e.tie_break <> 'NONE' THEN t.tiebreak END AS tiebreak
        FROM standing t JOIN exam_session s ON s.id = t.session_id JOIN exam e ON e.id = t.exam_id
        WHERE t.exam_id = $1 AND t.order_key IS NOT NULL AND ($2::text IS NULL OR $2 = ANY (t.cohorts))
        ORDER BY t.order_key DESC, t.student_id DESC
        """,
        exam,
        cohort,
        timeout=LONGEST_SECONDS,
    )
    while rows := await cursor.fetch(FETCHED, timeout=LONGEST_SECONDS):
        yield [
            Row(
                rank=row["rank"],
                score=row["score"],
                student=row["student_id"],
                alias=row["alias"],
                cohorts=row["cohorts"],
                session=row["session_id"],
                submitted_ms=milliseconds(row["submitted_at"]),
                tiebreak=row["tiebreak"],
            )
            for row in rows
        ]

"""Statistics: `exam_statistics`, and the pages of `result` that they are made of."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from stores.records import Sheet
from stores.sessions import milliseconds

PAGE = 1_000
"""Results are read by so many: about a megabyte, some milliseconds of PostgreSQL's time."""


@dataclass(frozen=True, slots=True)
class KeptStatistics:
    """An exam's stored statistics; `body` is JSON that its writer alone understands."""

    exam_version: int
    results: int
    body: str
    computed_ms: int


class Statistics:
    """Item statistics in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def sheets(self, exam: str, exam_version: int, count: int = PAGE) -> AsyncIterator[Sequence[Sheet]]:
        """Yield the SCORED results of one version of an exam, in pages; each page is as fresh as its reading.

        By student, not by session: that is the order of an index that results have anyway, and neither ever changes.
        """
        last = Sheet("", UUID(int=0), (), "")
        while True:
            rows = await self._pool.fetch(
                """
                SELECT student_id, session_id, points, answers FROM result
                WHERE exam_id = $1 AND exam_version = $2 AND status = 'SCORED' AND (student_id, session_id) > ($3, $4)
                ORDER BY student_id, session_id LIMIT $5
                """,
                *(exam, exam_version, last.student, last.session, count),
            )
            if rows:
                page = [Sheet(*row) for row in rows]
                last = page[-1]
                yield page
            if len(rows) < count:
                return

    async def keep(self, exam: str, exam_version: int, results: int, body: str) -> int:
        """Keep an exam's statistics in the place of those before, and return when, in milliseconds."""
        at = await self._pool.fetchval(
            """
            INSERT INTO exam_statistics (exam_id, exam_version, results, body) VALUES ($1, $2, $3, $4)
            ON CONFLICT (exam_id) DO UPDATE
            SET exam_version = excluded.exam_version, results = excluded.results, body = excluded.body, computed_at = now()
            RETURNING computed_at
            """,
            *(exam, exam_version, results, body),
        )
        return milliseconds(at)

    async def read(self, exam: str) -> KeptStatistics | None:
        """Return an exam's newest statistics, or None while there are none."""
        row = await self._pool.fetchrow(
            "SELECT exam_version, results, body::text, computed_at FROM exam_statistics WHERE exam_id = $1", exam
        )
        return KeptStatistics(row["exam_version"], row["results"], row["body"], milliseconds(row["computed_at"])) if row else None

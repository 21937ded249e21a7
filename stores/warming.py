"""Warming: what the first starts of an exam would wait for, read beforehand. It changes nothing, and may be repeated."""

from dataclasses import dataclass

import asyncpg

from stores.catalog import Catalog
from stores.live import LiveSessions


@dataclass(frozen=True, slots=True)
class Warmed:
    """What was read: the paper's version and questions, rows of extra time, sessions that the exam has already. `months` says
    whether the partitions are there for answers and results of sessions that start when the doors open."""

    version: int
    questions: int
    accommodations: int
    sessions: int
    months: bool


class Warming:
    """Brings an exam's paper into Redis, and the rows that starts look at into PostgreSQL's memory."""

    def __init__(self, pool: asyncpg.Pool, catalog: Catalog, live: LiveSessions) -> None:
        self._pool = pool
        self._catalog = catalog
        self._live = live

    async def warm(self, exam: str) -> Warmed | None:
        """Warm an exam; None: there is no such exam."""
        found = await self._catalog.exam(exam, fresh=True)
        paper = await self._catalog.paper(exam, found.version) if found else None
        if found is None or paper is None:
            return None
        await self._live.keep_paper(paper)
        texts = await self._catalog.questions(exam, found.version)
        row = await self._pool.fetchrow(
            """
            SELECT (SELECT count(*) FROM accommodation WHERE exam_id IN (e.id, '')) AS accommodations,
              (SELECT count(*) FROM exam_session s WHERE s.exam_id = e.id) AS sessions,
              (SELECT bool_and(to_regclass(parent || month) IS NOT NULL)
               FROM unnest(ARRAY['session_answer', 'result']) AS parent) AS months
            FROM exam e, to_char(GREATEST(now(), e.opens_at) AT TIME ZONE 'UTC', '_YYYY_MM') AS month WHERE e.id = $1
            """,
            exam,
        )
        if row is None:
            return None
        return Warmed(found.version, len(texts), row["accommodations"], row["sessions"], row["months"])

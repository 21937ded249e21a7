"""Series: groups of exams with a board over all of them, as staff keep them."""

from collections.abc import Sequence

import asyncpg

from stores.catalog import record
from stores.records import Series


class AllSeries:
    """Series in PostgreSQL; `Catalog` reads them."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def set(self, series: Series, actor: str) -> Sequence[str]:
        """Make a series, or change one that is there, on record; returns those of its exams that do not exist: then nothing has
        been changed."""
        async with self._pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch("SELECT id FROM exam WHERE id = ANY ($1) AND shadow_of IS NULL", series.exams)
            unknown = sorted(set(series.exams) - {row["id"] for row in rows})
            if unknown:
                return unknown
            await connection.execute(
                """
                INSERT INTO exam_series (id, title, best_of) VALUES ($1, $2, $3)
                ON CONFLICT (id) DO UPDATE SET title = excluded.title, best_of = excluded.best_of
                """,
                *(series.id, series.title, series.best_of),
            )
            await connection.execute(
                "DELETE FROM exam_series_member WHERE series_id = $1 AND exam_id <> ALL ($2)", series.id, series.exams
            )
            await connection.execute(
                "INSERT INTO exam_series_member (series_id, exam_id) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
                *(series.id, series.exams),
            )
            await record(connection, actor, "series.set", series.id, {"exams": series.exams, "best_of": series.best_of})
        return ()

    async def delete(self, series: str, actor: str) -> bool:
        """Forget a series, on record; False: there is none."""
        async with self._pool.acquire() as connection, connection.transaction():
            gone = await connection.fetchval("DELETE FROM exam_series WHERE id = $1 RETURNING true", series)
            if gone:
                await record(connection, actor, "series.delete", series)
        return bool(gone)

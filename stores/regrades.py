"""Regrades: runs over results that were graded with older keys, each row a request, its progress and its report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from stores.catalog import record
from stores.records import RegradeStatus
from stores.sessions import milliseconds

LEASE_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Regrade:
    """One run; `report` holds what changed, or would change."""

    id: UUID
    exam: str
    dry_run: bool
    status: RegradeStatus
    key_version: int
    results: int
    done: int
    report: Mapping[str, object]
    actor: str
    reason: str
    error: str
    requested_ms: int
    finished_ms: int | None


class RunLost(Exception):
    """A worker's run is not its own any more: another one has it by now, or it came to its end."""


class Regrades:
    """The table `regrade`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def request(self, exam: str, actor: str, reason: str, *, dry_run: bool) -> Regrade:
        """Ask for a run with the newest keys, on record; while one of this kind with these keys is running, it is that one."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(
                """
                INSERT INTO regrade (exam_id, dry_run, key_version, results, actor, reason)
                SELECT e.id, $2, e.key_version,
                  (SELECT count(*) FROM result r JOIN newest_keys n USING (exam_id, exam_version)
                   WHERE r.exam_id = e.id AND r.key_version < n.key_version), $3, $4
                FROM exam e WHERE e.id = $1
                ON CONFLICT (exam_id, dry_run, key_version) WHERE status = 'RUNNING' DO NOTHING RETURNING *
                """,
                *(exam, dry_run, actor, reason),
            )
            if row is None:
                row = await connection.fetchrow(
                    """
                    SELECT g.* FROM regrade g JOIN exam e ON (e.id, e.key_version) = (g.exam_id, g.key_version)
                    WHERE g.exam_id = $1 AND g.dry_run = $2 AND g.status = 'RUNNING'
                    """,
                    *(exam, dry_run),
                )
            elif not dry_run:
                await record(connection, actor, "exam.regrade", exam, {"regrade": str(row["id"]), "reason": reason})
        if row is None:  # it came to its end between the two statements, or its keys were mended
            return await self.request(exam, actor, reason, dry_run=dry_run)
        return _regrade(row)

    async def read(self, exam: str, regrade: UUID) -> Regrade | None:
        """Return a run, or None."""
        row = await self._pool.fetchrow("SELECT * FROM regrade WHERE id = $1 AND exam_id = $2", regrade, exam)
        return _regrade(row) if row else None

    async def take(self, worker: UUID) -> Regrade | None:
        """Take the oldest run that nobody works on, for some seconds; None: there is none."""
        row = await self._pool.fetchrow(
            f"""
            UPDATE regrade SET worker = $1, lease_until = now() + make_interval(secs => {LEASE_SECONDS})
            WHERE id = (SELECT id FROM regrade WHERE status = 'RUNNING' AND (lease_until <= now() OR worker = $1)
                        ORDER BY requested_at LIMIT 1 FOR UPDATE SKIP LOCKED)
            RETURNING *
            """,  # noqa: S608
            worker,
        )
        return _regrade(row) if row else None

    async def note(self, regrade: UUID, worker: UUID, done: int, report: Mapping[str, object]) -> None:
        """Note progress, and keep the lease; raises RunLost."""
        noted = await self._pool.execute(
            f"""
            UPDATE regrade SET done = $3, report = $4, lease_until = now() + make_interval(secs => {LEASE_SECONDS})
            WHERE id = $1 AND worker = $2 AND status = 'RUNNING'
            """,  # noqa: S608
            *(regrade, worker, done, json.dumps(report)),
        )
        if noted != "UPDATE 1":
            raise RunLost

    async def keep(self, regrade: UUID, worker: UUID) -> None:
        """Keep the lease; raises RunLost."""
        kept = await self._pool.execute(
            f"""
            UPDATE regrade SET lease_until = now() + make_interval(secs => {LEASE_SECONDS})
            WHERE id = $1 AND worker = $2 AND status = 'RUNNING'
            """,  # noqa: S608
            *(regrade, worker),
        )
        if kept != "UPDATE 1":
            raise RunLost

    async def add(
        self, connection: asyncpg.Connection, regrade: UUID, worker: UUID, looked_at: int, report: Mapping[str, object]
    ) -> None:
        """Note a chunk's progress in its own transaction, so that a crash neither loses nor doubles it. Raises RunLost, which
        undoes the chunk: its report would leave out what the other worker did."""
        added = await connection.execute(
            f"""
            UPDATE regrade SET done = done + $3, report = $4, lease_until = now() + make_interval(secs => {LEASE_SECONDS})
            WHERE id = $1 AND worker = $2 AND status = 'RUNNING'
            """,  # noqa: S608
            *(regrade, worker, looked_at, json.dumps(report)),
        )
        if added != "UPDATE 1":
            raise RunLost

    async def finish(self, regrade: UUID, worker: UUID, error: str = "") -> None:
        """End a run, well or (with an error) not."""
        await self._pool.execute(
            """
            UPDATE regrade SET status = CASE $3 WHEN '' THEN 'DONE' ELSE 'FAILED' END, error = $3, finished_at = now()
            WHERE id = $1 AND worker = $2 AND status = 'RUNNING'
            """,
            *(regrade, worker, error),
        )

    async def swept(self) -> list[tuple[str, int, int]]:
        """Return the papers with results under older keys than the last hour's regrades were for: what came late under keys
        that a worker still had. Each with the version of its keys that the exam's newest run was for, whatever was mended since.
        """
        rows = await self._pool.fetch(
            """
            WITH regraded AS (
              SELECT exam_id, max(key_version) AS key_version FROM regrade WHERE status = 'DONE' AND NOT dry_run
              GROUP BY exam_id HAVING max(finished_at) > now() - interval '1 hour'
            ), paper AS (
              SELECT k.exam_id, k.exam_version, max(k.key_version) AS key_version
              FROM exam_key k JOIN regraded g ON k.exam_id = g.exam_id AND k.key_version <= g.key_version GROUP BY 1, 2
            )
            SELECT * FROM paper p
            WHERE EXISTS (SELECT FROM result r WHERE r.exam_id = p.exam_id AND r.exam_version = p.exam_version
                          AND r.key_version < p.key_version)
            """
        )
        return [(row["exam_id"], row["exam_version"], row["key_version"]) for row in rows]


def _regrade(row: asyncpg.Record) -> Regrade:
    return Regrade(
        id=row["id"],
        exam=row["exam_id"],
        dry_run=row["dry_run"],
        status=RegradeStatus(row["status"]),
        key_version=row["key_version"],
        results=row["results"],
        done=row["done"],
        report=json.loads(row["report"]),
        actor=row["actor"],
        reason=row["reason"],
        error=row["error"],
        requested_ms=milliseconds(row["requested_at"]),
        finished_ms=milliseconds(row["finished_at"]) if row["finished_at"] else None,
    )

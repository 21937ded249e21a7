"""Rehearsals: shadows of exams, made inside PostgreSQL with keys that nobody sees, and removed without a trace.

A session is removed in an order that lets nothing bring it back. The shadow is closed first, under the lock that starts
share, so that no session comes any more. Then each session is retired in Redis: its saves and submits find nobody, no net
knows it, and no restore replaces it. When the save log has been written out, PostgreSQL forgets it. What is left of it in
Redis goes by itself a little later: until then it stands in the way of a start that was under way.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from time import monotonic
from uuid import UUID

import asyncpg

from stores.boards import Boards
from stores.catalog import EXAM_LOCK, record
from stores.live import LiveSessions
from stores.records import EPOCH_VERSIONS, SessionRow
from stores.sessions import Sessions

TOGETHER = 250
KEEP_MS = 600_000
"""How long a retired session stays in Redis at the most: for as long as it may take until PostgreSQL has forgotten it."""

AFTERWARDS_MS = 30_000
LOOK_AGAIN_SECONDS = 0.25
PAGE_SECONDS = 3.0
"""How long a page waits for those of its sessions that are busy, before the next ones have their turn."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What one go at removing a shadow did: sessions gone and left, of these those that wait for a score or a snapshot.
    Nothing is left of the shadow itself when `whole`."""

    gone: int
    left: int
    busy: int
    whole: bool


class Rehearsals:
    """Shadows of exams."""

    def __init__(self, pool: asyncpg.Pool, live: LiveSessions, boards: Boards) -> None:
        self._pool = pool
        self._sessions = Sessions(pool)
        self._live = live
        self._boards = boards

    async def create(self, exam: str, seconds: int, actor: str) -> str | None:
        """Make a shadow of an exam whose sessions last at least so long, on record; returns its id, None: no such exam, or it is
        a shadow itself. The id cannot be guessed: until the real day it is all that guards the paper."""
        shadow = f"rehearsal-{token_hex(8)}"
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval("SELECT create_rehearsal($1, $2, $3)", exam, shadow, seconds):
                return None
            await record(connection, actor, "rehearsal.create", shadow, {"exam": exam})
        return shadow

    async def origins(self, exams: Sequence[str]) -> Mapping[str, str]:
        """Return, for those of these exams that are shadows, what they are shadows of."""
        rows = await self._pool.fetch("SELECT id, shadow_of FROM exam WHERE id = ANY ($1) AND shadow_of IS NOT NULL", list(exams))
        return {row["id"]: row["shadow_of"] for row in rows}

    async def remove(self, shadow: str, actor: str, *, within_seconds: float) -> Removed | None:
        """Remove a shadow and everything that its sessions left, as far as that goes in this time; to be repeated until it is
        whole. None: there is no such shadow."""
        until = monotonic() + within_seconds
        if not await self._close(shadow, actor):
            return None
        gone, busy, after = 0, 0, UUID(int=0)
        while monotonic() < until:
            rows = await self._page(shadow, after)
            if not rows:
                break
            done = await self._retired(rows, min(until, monotonic() + PAGE_SECONDS))
            if done:
                gone += await self._pool.fetchval("SELECT remove_rehearsal($1, $2)", shadow, [row.facts.session for row in done])
                await self._live.retire(done, frozenset(), AFTERWARDS_MS)
            busy, after = busy + len(rows) - len(done), rows[-1].facts.session
        left = await self._pool.fetchval("SELECT count(*) FROM exam_session WHERE exam_id = $1", shadow)
        if left == 0:
            await self._forget(shadow, actor)
        return Removed(gone, left, busy, whole=left == 0)

    async def _close(self, shadow: str, actor: str) -> bool:
        """Let nobody start a shadow any more; starts share the lock, so that none slips in later."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(EXAM_LOCK, shadow)
            closed = await connection.fetchval(
                "SELECT closed_at IS NOT NULL FROM exam WHERE id = $1 AND shadow_of IS NOT NULL FOR UPDATE", shadow
            )
            if closed is False:
                await connection.execute("UPDATE exam SET closed_at = now() WHERE id = $1", shadow)
                await record(connection, actor, "rehearsal.close", shadow)
        return closed is not None

    async def _page(self, shadow: str, after: UUID) -> Sequence[SessionRow]:
        rows = await self._pool.fetch(
            "SELECT id FROM exam_session WHERE exam_id = $1 AND id > $2 ORDER BY id LIMIT $3", shadow, after, TOGETHER
        )
        found = await self._sessions.read([row["id"] for row in rows])
        return [found[row["id"]] for row in rows if row["id"] in found]

    async def _retired(self, rows: Sequence[SessionRow], until: float) -> Sequence[SessionRow]:
        """Retire sessions, and return those of them that nothing writes to any more: that have their score if they were handed
        in, and whose newest save a snapshot has written."""
        parked = {
            row["session_id"]
            for row in await self._pool.fetch(
                "SELECT session_id FROM dead_letter WHERE session_id = ANY ($1) AND replayed_at IS NULL",
                [row.facts.session for row in rows],
            )
        }
        while True:
            versions = await self._live.retire(rows, parked, KEEP_MS)
            written = await self._written(rows)
            done = [row for row in rows if _written_out(versions[row.facts.session], written.get(row.facts.session, 0))]
            if len(done) == len(rows) or monotonic() > until:
                return done
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            rows = await self._again(rows)

    async def _again(self, rows: Sequence[SessionRow]) -> Sequence[SessionRow]:
        found = await self._sessions.read([row.facts.session for row in rows])
        return list(found.values())

    async def _written(self, rows: Sequence[SessionRow]) -> Mapping[UUID, int]:
        found = await self._pool.fetch(
            "SELECT session_id, max(version) AS version FROM session_answer WHERE session_id = ANY ($1) GROUP BY 1",
            [row.facts.session for row in rows],
        )
        return {row["session_id"]: row["version"] for row in found}

    async def _forget(self, shadow: str, actor: str) -> None:
        """Remove the shadow itself, on record, and then its boards and papers."""
        async with self._pool.acquire() as connection, connection.transaction():
            version = await connection.fetchval("SELECT version FROM exam WHERE id = $1", shadow)
            await connection.fetchval("SELECT remove_rehearsal($1)", shadow)
            await record(connection, actor, "rehearsal.remove", shadow)
        await self._boards.drop(shadow)
        await self._live.drop_paper(shadow, version)


def _written_out(version: int | None, written: int) -> bool:
    """Whether a retired session's newest save is in PostgreSQL; a version whose lower part is 0 was given to no save."""
    return version is not None and (version % EPOCH_VERSIONS == 0 or written >= version)

"""Entitlements: what students own, kept in each process that asks often.

The rule: an answer is at most 30 s old, both ways, and after a grant or a revocation usually some milliseconds, since PostgreSQL
tells every process whose student it concerns. While PostgreSQL is away the last known "yes" counts for an hour, but no longer
than what is owned; nothing can be granted or taken back meanwhile, and what was last told to have changed does not count. A "no"
is never given stale: perhaps they have paid. A start does not ask here: it reads `entitlement` in its own transaction (starts.py).
"""

import asyncio
from collections.abc import Collection, Mapping
from time import time
from typing import Literal

import asyncpg
import structlog

from stores.sessions import milliseconds
from stores.shelf import Kept, Shelf, Terms

CHANNEL = "entitlements"
TERMS = Terms(fresh_seconds=30.0, stale_seconds=3600.0)
STUDENTS = 200_000
LOOK_SECONDS = 10.0
"""How often the connection that is told is looked at: one that a dead server has left says nothing, and never that it is dead."""

AGAIN_SECONDS = 1.0
log = structlog.get_logger()


class Unknown(ConnectionError):
    """Nobody can say now whether somebody owns something."""


class Entitlements:
    """Who owns which product. `listen` has to run for grants and revocations to count at once; without it they do within 30 s."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._owned: Shelf[str, Mapping[str, int | None]] = Shelf("entitlements", TERMS, most=STUDENTS)

    async def owns(self, student: str, products: Collection[str]) -> Kept[bool]:
        """Return whether a student owns at least one of some products; raises Unknown, or PostgreSQL's failure, where nobody
        can say."""
        owned = await self.owned(student)
        if not owned.value.isdisjoint(products):
            return Kept(True, owned.stale_seconds)
        if owned.stale_seconds is not None:
            raise Unknown("PostgreSQL is away, and they did not own it when it was last asked")
        return Kept(False)

    async def owned(self, student: str) -> Kept[frozenset[str]]:
        """Return the products that a student owns now."""
        kept = await self._owned.get(student, lambda: self._read(student))
        if kept is None:
            raise AssertionError("a read always finds something, if nothing is owned then that")
        now_ms = int(time() * 1000)
        return Kept(
            frozenset(product for product, ends_ms in kept.value.items() if ends_ms is None or ends_ms > now_ms), kept.stale_seconds
        )

    async def _read(self, student: str) -> Mapping[str, int | None]:
        rows = await self._pool.fetch(
            """
            SELECT product_id, expires_at FROM entitlement
            WHERE student_id = $1 AND revoked_at IS NULL AND coalesce(expires_at > now(), true)
            """,
            student,
        )
        return {row["product_id"]: milliseconds(row["expires_at"]) if row["expires_at"] else None for row in rows}

    async def listen(self, stop: asyncio.Event) -> None:
        """Hear of grants and revocations until it is time to stop, over a connection of its own."""
        ending = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                try:
                    await self._hear(ending)
                except Exception as failure:  # until it is there again answers may be 30 s old
                    log.warning("nobody tells of entitlements", error=type(failure).__name__)
                await asyncio.wait([ending], timeout=AGAIN_SECONDS)
        finally:
            ending.cancel()

    async def _hear(self, ending: "asyncio.Task[Literal[True]]") -> None:
        """Listen over one connection until it fails; what was told while there was none counts as changed."""
        async with self._pool.acquire() as connection:
            await connection.add_listener(CHANNEL, self._told)
            try:
                self._owned.expire_all()
                while not ending.done():
                    await connection.execute("SELECT")
                    await asyncio.wait([ending], timeout=LOOK_SECONDS)
            finally:
                await connection.remove_listener(CHANNEL, self._told)

    def _told(self, _connection: object, _pid: int, _channel: str, student: str) -> None:
        self._owned.forget(student)

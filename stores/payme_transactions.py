"""PaymeTransactions: what Payme has begun, performed and cancelled, as its protocol has the shop remember it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

import asyncpg

ORDER_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('payme/' || $1::text, 0))"
"""Held by whoever begins a transaction of an order, or closes it."""

COLUMNS = "number, id, order_id, amount, time_ms, created_ms, performed_ms, cancelled_ms, state, reason"


class PaymeState(IntEnum):
    """Payme's own numbers."""

    CREATED = 1
    PERFORMED = 2
    CANCELLED = -1
    REFUNDED = -2


@dataclass(frozen=True, slots=True)
class PaymeBegun:
    """A transaction that Payme begins: `id` is its name of it, `amount` in tiyin, `time_ms` by its clock, `created_ms` by ours."""

    id: str
    order: UUID
    amount: int
    time_ms: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class PaymeTransaction:
    """A transaction as it is kept: `number` is our name of it; times are 0 for what has not happened."""

    number: int
    id: str
    order: UUID
    amount: int
    time_ms: int
    created_ms: int
    performed_ms: int
    cancelled_ms: int
    state: PaymeState
    reason: int | None


class PaymeTransactions:
    """The table `payme_transaction`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create(self, begun: PaymeBegun) -> PaymeTransaction | None:
        """Keep a transaction, once, and return it as it is kept; None: its order has another one, or takes none any more."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(ORDER_LOCK, str(begun.order))
            await connection.execute(
                """
                INSERT INTO payme_transaction (id, order_id, amount, time_ms, created_ms, state) VALUES ($1, $2, $3, $4, $5, 1)
                ON CONFLICT DO NOTHING
                """,
                *(begun.id, begun.order, begun.amount, begun.time_ms, begun.created_ms),
            )
            return await _read(connection, begun.id)

    async def find(self, transaction: str) -> PaymeTransaction | None:
        """Return a transaction by Payme's name of it."""
        async with self._pool.acquire() as connection:
            return await _read(connection, transaction)

    async def live(self, order: UUID) -> bool:
        """Return whether an order has a transaction that is created or performed, or is closed: then it takes no other."""
        found = await self._pool.fetchval("SELECT true FROM payme_transaction WHERE order_id = $1 AND state IN (0, 1, 2)", order)
        return bool(found)

    async def perform(self, transaction: str, now_ms: int, oldest_ms: int) -> PaymeTransaction | None:
        """Perform a transaction that is created, and began after `oldest_ms`; return it as it is then."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                """
                UPDATE payme_transaction SET state = 2, performed_ms = $2
                WHERE id = $1 AND state = 1 AND least(time_ms, created_ms) > $3
                """,
                *(transaction, now_ms, oldest_ms),
            )
            return await _read(connection, transaction)

    async def cancel(self, transaction: str, reason: int, now_ms: int) -> PaymeTransaction | None:
        """Cancel a transaction, performed or not, and return it as it is then; the first reason stays."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                """
                UPDATE payme_transaction SET state = -state, reason = $2, cancelled_ms = $3 WHERE id = $1 AND state IN (1, 2)
                """,
                *(transaction, reason, now_ms),
            )
            return await _read(connection, transaction)

    async def expire(self, transaction: str, reason: int, now_ms: int) -> PaymeTransaction | None:
        """Cancel a transaction unless it is performed, and return it as it is then."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "UPDATE payme_transaction SET state = -1, reason = $2, cancelled_ms = $3 WHERE id = $1 AND state = 1",
                *(transaction, reason, now_ms),
            )
            return await _read(connection, transaction)

    async def close(self, order: UUID, reason: int, now_ms: int) -> bool:
        """Take no transaction of an order any more, and cancel the one that is created; False: one is performed.

        Beginning one takes the same lock. One that is performed meanwhile either was first, and then nothing is cancelled here, or
        finds itself cancelled.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(ORDER_LOCK, str(order))
            await connection.execute(
                "UPDATE payme_transaction SET state = -1, reason = $2, cancelled_ms = $3 WHERE order_id = $1 AND state = 1",
                *(order, reason, now_ms),
            )
            await connection.execute(
                """
                INSERT INTO payme_transaction (id, order_id, amount, time_ms, created_ms, state)
                VALUES ('closed/' || $1::text, $2, 0, $3, $3, 0) ON CONFLICT DO NOTHING
                """,
                *(str(order), order, now_ms),
            )
            paid = await connection.fetchval("SELECT true FROM payme_transaction WHERE order_id = $1 AND state = 2", order)
            return not paid

    async def of(self, order: UUID) -> Sequence[PaymeTransaction]:
        """Return an order's transactions, in the order in which they began."""
        rows = await self._pool.fetch(
            f"SELECT {COLUMNS} FROM payme_transaction WHERE order_id = $1 AND state <> 0 ORDER BY number",  # noqa: S608
            order,
        )
        return [_transaction(row) for row in rows]

    async def statement(self, from_ms: int, to_ms: int) -> Sequence[PaymeTransaction]:
        """Return the transactions that began in a time by Payme's clock, both ends included, the oldest first."""
        rows = await self._pool.fetch(
            f"""
            SELECT {COLUMNS} FROM payme_transaction WHERE time_ms BETWEEN $1 AND $2 AND state <> 0 ORDER BY time_ms, number
            """,  # noqa: S608
            *(from_ms, to_ms),
        )
        return [_transaction(row) for row in rows]

    async def changed(self, since_ms: int) -> Sequence[PaymeTransaction]:
        """Return the transactions that were performed or cancelled since then by our clock."""
        rows = await self._pool.fetch(
            f"""
            SELECT {COLUMNS} FROM payme_transaction
            WHERE greatest(performed_ms, cancelled_ms) >= $1 AND state <> 0 ORDER BY number
            """,  # noqa: S608
            since_ms,
        )
        return [_transaction(row) for row in rows]


async def _read(connection: asyncpg.Connection, transaction: str) -> PaymeTransaction | None:
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM payme_transaction WHERE id = $1 AND state <> 0",  # noqa: S608
        transaction,
    )
    return _transaction(row) if row else None


def _transaction(row: asyncpg.Record) -> PaymeTransaction:
    return PaymeTransaction(
        number=row["number"],
        id=row["id"],
        order=row["order_id"],
        amount=row["amount"],
        time_ms=row["time_ms"],
        created_ms=row["created_ms"],
        performed_ms=row["performed_ms"],
        cancelled_ms=row["cancelled_ms"],
        state=PaymeState(row["state"]),
        reason=row["reason"],
    )

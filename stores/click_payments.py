"""ClickPayments: the payments that Click has prepared, completed and given back."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

import asyncpg

ORDER_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('click/' || $1::text, 0))"
"""Held by whoever begins a payment of an order, confirms one, or closes the order."""

COLUMNS = "number, trans, paydoc, order_id, amount, prepared_ms, confirmed_ms, cancelled_ms, state"


class ClickState(IntEnum):
    """Numbers of our own: Click has none for them."""

    PREPARED = 1
    CONFIRMED = 2
    CANCELLED = -1
    REVERSED = -2


@dataclass(frozen=True, slots=True)
class ClickBegun:
    """What Click asks us to prepare: `trans` is its name of a try, `paydoc` of the payment; `amount` in tiyin."""

    trans: int
    paydoc: int
    order: UUID
    amount: int
    prepared_ms: int


@dataclass(frozen=True, slots=True)
class ClickPayment:
    """A payment as it is kept: `number` is our name of it, in 32 bits; times are 0 for what has not happened."""

    number: int
    trans: int
    paydoc: int
    order: UUID
    amount: int
    prepared_ms: int
    confirmed_ms: int
    cancelled_ms: int
    state: ClickState


class ClickPayments:
    """The table `click_payment`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def prepare(self, begun: ClickBegun) -> ClickPayment | None:
        """Keep a payment, once, and return it as it is kept; None: its order is paid, or closed."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(ORDER_LOCK, str(begun.order))
            await connection.execute(
                """
                INSERT INTO click_payment (trans, paydoc, order_id, amount, prepared_ms, state)
                SELECT $1::bigint, $2::bigint, $3::uuid, $4::int, $5::bigint, 1
                WHERE NOT EXISTS (SELECT FROM click_payment WHERE trans = $1::bigint)
                  AND NOT EXISTS (SELECT FROM click_payment WHERE order_id = $3::uuid AND state IN (0, 2, -2))
                ON CONFLICT DO NOTHING
                """,
                *(begun.trans, begun.paydoc, begun.order, begun.amount, begun.prepared_ms),
            )
            return await _read(connection, begun.trans)

    async def find(self, trans: int) -> ClickPayment | None:
        """Return a payment by Click's name of the try."""
        async with self._pool.acquire() as connection:
            return await _read(connection, trans)

    async def confirm(self, known: ClickPayment, now_ms: int) -> ClickPayment | None:
        """Confirm a payment that is prepared, or cancel it where its order is paid by another, or closed; return it as it is."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(ORDER_LOCK, str(known.order))
            settled = await connection.fetchval(
                "SELECT true FROM click_payment WHERE order_id = $1 AND state IN (0, 2, -2)", known.order
            )
            if settled:
                await connection.execute(
                    "UPDATE click_payment SET state = -1, cancelled_ms = $2 WHERE trans = $1 AND state = 1", known.trans, now_ms
                )
            else:
                await connection.execute(
                    "UPDATE click_payment SET state = 2, confirmed_ms = $2 WHERE trans = $1 AND state = 1", known.trans, now_ms
                )
            return await _read(connection, known.trans)

    async def cancel(self, trans: int, now_ms: int) -> ClickPayment | None:
        """Cancel a payment that is prepared, and return it as it is then."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "UPDATE click_payment SET state = -1, cancelled_ms = $2 WHERE trans = $1 AND state = 1", trans, now_ms
            )
            return await _read(connection, trans)

    async def reverse(self, trans: int, now_ms: int) -> None:
        """Note that a payment that was confirmed is given back."""
        await self._pool.execute(
            "UPDATE click_payment SET state = -2, cancelled_ms = $2 WHERE trans = $1 AND state = 2", trans, now_ms
        )

    async def close(self, order: UUID, now_ms: int) -> bool:
        """Take no payment of an order any more, and cancel what is prepared; False: one is confirmed."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(ORDER_LOCK, str(order))
            await connection.execute(
                "UPDATE click_payment SET state = -1, cancelled_ms = $2 WHERE order_id = $1 AND state = 1", order, now_ms
            )
            await connection.execute(
                """
                INSERT INTO click_payment (order_id, amount, prepared_ms, state) VALUES ($1, 0, $2, 0) ON CONFLICT DO NOTHING
                """,
                *(order, now_ms),
            )
            paid = await connection.fetchval(
                "SELECT true FROM click_payment WHERE order_id = $1 AND state IN (2, -2)",
                order,
            )
            return not paid

    async def of(self, order: UUID) -> Sequence[ClickPayment]:
        """Return an order's payments, in the order in which they began."""
        rows = await self._pool.fetch(
            f"SELECT {COLUMNS} FROM click_payment WHERE order_id = $1 AND state <> 0 ORDER BY number",  # noqa: S608
            order,
        )
        return [_payment(row) for row in rows]

    async def changed(self, since_ms: int) -> Sequence[ClickPayment]:
        """Return the payments that were confirmed, cancelled or given back since then."""
        rows = await self._pool.fetch(
            f"""
            SELECT {COLUMNS} FROM click_payment
            WHERE greatest(confirmed_ms, cancelled_ms) >= $1 AND state <> 0 ORDER BY number
            """,  # noqa: S608
            since_ms,
        )
        return [_payment(row) for row in rows]


async def _read(connection: asyncpg.Connection, trans: int) -> ClickPayment | None:
    row = await connection.fetchrow(f"SELECT {COLUMNS} FROM click_payment WHERE trans = $1", trans)  # noqa: S608
    return _payment(row) if row else None


def _payment(row: asyncpg.Record) -> ClickPayment:
    return ClickPayment(
        number=row["number"],
        trans=row["trans"],
        paydoc=row["paydoc"],
        order=row["order_id"],
        amount=row["amount"],
        prepared_ms=row["prepared_ms"],
        confirmed_ms=row["confirmed_ms"],
        cancelled_ms=row["cancelled_ms"],
        state=ClickState(row["state"]),
    )

"""Drifts: whether what is paid is owned, and what is owned is paid."""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

DRIFT = """
  WITH facts AS (
    SELECT payment_id, bool_or(kind = 'PAID') AS paid, coalesce(sum(amount) FILTER (WHERE kind = 'REFUNDED'), 0) AS refunded,
      bool_or(kind = 'REFUNDED') AS given_back, bool_or(kind = 'DISPUTE_LOST') AS lost,
      coalesce(array_agg(ref) FILTER (WHERE kind = 'DISPUTE_OPENED'), '{}') AS disputed,
      coalesce(array_agg(ref) FILTER (WHERE kind = 'DISPUTE_WON'), '{}') AS won
    FROM payment_fact GROUP BY payment_id
  ), compared AS MATERIALIZED (
    SELECT p.id, p.provider, (p.created_at AT TIME ZONE 'UTC')::date AS day, p.currency, p.amount,
      coalesce(f.paid AND NOT (f.given_back AND f.refunded >= p.amount) AND NOT f.lost AND f.disputed <@ f.won, false) AS paid,
      coalesce((
        SELECT l.granted FROM entitlement_entry l
        WHERE (l.student_id, l.product_id, l.source) = (p.student_id, p.product_id, 'payment:' || p.id) ORDER BY l.id DESC LIMIT 1
      ), false) AS granted,
      coalesce((
        SELECT e.revoked_at IS NULL FROM entitlement e WHERE (e.student_id, e.product_id) = (p.student_id, p.product_id)
      ), false) AS owned
    FROM payment p LEFT JOIN facts f ON f.payment_id = p.id
    WHERE p.created_at > now() - make_interval(secs => $1)
  )
  SELECT provider, day, currency, count(*) AS orders,
    count(*) FILTER (WHERE paid AND NOT (granted AND owned)) AS unowned,
    coalesce(sum(amount) FILTER (WHERE paid AND NOT (granted AND owned)), 0)::bigint AS unowned_amount,
    count(*) FILTER (WHERE granted AND NOT paid) AS unpaid,
    coalesce(sum(amount) FILTER (WHERE granted AND NOT paid), 0)::bigint AS unpaid_amount,
    (array_agg(id ORDER BY id) FILTER (WHERE paid <> (granted AND (owned OR NOT paid))))[:10] AS payments
  FROM compared GROUP BY provider, day, currency ORDER BY provider, day, currency
"""
"""What is paid is read off the facts here, in other words than the rules', so that a mistake in those shows."""


@dataclass(frozen=True, slots=True)
class DriftLine:
    """A day of a provider that does not add up: how many orders are paid and not owned, and owned and not paid, and what they
    cost, in minor units."""

    provider: str
    day: str
    currency: str
    unowned: int
    unowned_amount: int
    unpaid: int
    unpaid_amount: int
    payments: Sequence[str]


@dataclass(frozen=True, slots=True)
class Drift:
    """How many orders were compared, and the days that do not add up."""

    orders: int
    lines: Sequence[DriftLine]


class Drifts:
    """Compares the facts of orders with what was granted because of them."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def read(self, since_seconds: float) -> Drift:
        """Compare what orders are paid for, by their facts, with what is owned because of them."""
        rows = await self._pool.fetch(DRIFT, since_seconds)
        return Drift(
            sum(row["orders"] for row in rows),
            [
                DriftLine(
                    row["provider"],
                    row["day"].isoformat(),
                    row["currency"],
                    *(row["unowned"], row["unowned_amount"], row["unpaid"], row["unpaid_amount"]),
                    tuple(str(one) for one in row["payments"] or ()),
                )
                for row in rows
                if row["unowned"] or row["unpaid"]
            ],
        )

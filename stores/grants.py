"""Grants: who owns what, as the fold of a ledger that is only ever added to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from stores.catalog import record
from stores.money import Grant, Product
from stores.products import read_products
from stores.sessions import milliseconds, milliseconds_or_none, moment_or_none

Whole = Callable[[Product, Mapping[str, Product]], Sequence[str]]
"""A product and all its parts, those of parts too."""

OWNER_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('owner/' || $1, 0))"
"""One change at a time of what a student owns: two orders that are paid at once both count."""

ENTER = """
  WITH new AS (
    INSERT INTO entitlement_entry (student_id, product_id, source, granted, reason, starts_at, ends_at, actor)
    SELECT $1, unnest($2::text[]), $3, $4, $5, $6, $7, $8 RETURNING id, product_id, source, granted, starts_at, ends_at
  ), latest AS (
    SELECT DISTINCT ON (product_id, source) product_id, granted, starts_at, ends_at
    FROM (
      SELECT id, product_id, source, granted, starts_at, ends_at FROM new
      UNION ALL
      SELECT id, product_id, source, granted, starts_at, ends_at FROM entitlement_entry
      WHERE student_id = $1 AND product_id = ANY ($2)
    ) AS entries ORDER BY product_id, source, id DESC
  )
  INSERT INTO entitlement AS e (student_id, product_id, granted_at, expires_at, revoked_at)
  SELECT $1, product_id, coalesce(min(starts_at) FILTER (WHERE granted), min(starts_at), now()),
    CASE WHEN bool_or(granted AND ends_at IS NULL) THEN NULL ELSE max(ends_at) FILTER (WHERE granted) END,
    CASE WHEN bool_or(granted) THEN NULL ELSE now() END
  FROM latest GROUP BY product_id
  ON CONFLICT (student_id, product_id) DO UPDATE
  SET granted_at = excluded.granted_at, expires_at = excluded.expires_at,
    revoked_at = CASE WHEN excluded.revoked_at IS NULL THEN NULL ELSE coalesce(e.revoked_at, excluded.revoked_at) END
"""
"""Adds words to the ledger, and makes what the student owns of these products the fold of each source's latest word. One that
grants is enough; the longest counts. Whoever runs it holds OWNER_LOCK."""


class Word(NamedTuple):
    """What a source has said of a product."""

    product: str
    granted: bool
    ends_ms: int | None


@dataclass(frozen=True, slots=True)
class Owned:
    """What a student owns, or has owned; `ends_ms` None: for good, `revoked_ms` None: it was not taken away."""

    product: str
    granted_ms: int
    ends_ms: int | None
    revoked_ms: int | None


class Grants:
    """What students own, and whose word it is."""

    def __init__(self, pool: asyncpg.Pool, whole: Whole) -> None:
        self._pool = pool
        self._whole = whole

    async def grant(self, student: str, product: str, grant: Grant, actor: str) -> bool:
        """Give a student a product with its parts, or take back what the same source gave, on record; False: no such product."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(OWNER_LOCK, student)
            products = await read_products(connection, product)
            if product not in products:
                return False
            words = await words_of(connection, student, grant.source)
            whole = {*self._whole(products[product], products), *(word.product for word in words if word.granted)}
            await enter(connection, student, sorted(whole), grant, actor, words)
            act = "entitlement.grant" if grant.granted else "entitlement.revoke"
            await record(connection, actor, act, student, {"product": product, "source": grant.source, "reason": grant.reason})
        return True

    async def owned(self, student: str) -> Sequence[Owned]:
        """Return what a student owns and has owned, by product."""
        rows = await self._pool.fetch(
            "SELECT product_id, granted_at, expires_at, revoked_at FROM entitlement WHERE student_id = $1 ORDER BY product_id",
            student,
        )
        return [
            Owned(
                r["product_id"],
                milliseconds(r["granted_at"]),
                milliseconds_or_none(r["expires_at"]),
                milliseconds_or_none(r["revoked_at"]),
            )
            for r in rows
        ]


async def words_of(connection: asyncpg.Connection, student: str, source: str) -> Sequence[Word]:
    """Return what a source has said of a student so far, the first word first; whoever may add to it is the one who asks."""
    rows = await connection.fetch(
        "SELECT product_id, granted, ends_at FROM entitlement_entry WHERE (student_id, source) = ($1, $2) ORDER BY id",
        *(student, source),
    )
    return [Word(row["product_id"], row["granted"], milliseconds_or_none(row["ends_at"])) for row in rows]


async def enter(
    connection: asyncpg.Connection, student: str, products: Sequence[str], grant: Grant, actor: str, words: Sequence[Word]
) -> None:
    """Enter a source's word about products where it is not what it said last, and fold.

    An order that was refunded before it ever granted leaves a word all the same, so that the ledger tells the whole story.
    """
    said = {word.product: (word.granted, word.ends_ms) for word in words}
    new = [product for product in products if said.get(product) != (grant.granted, grant.ends_ms)]
    if not new:
        return
    await connection.execute(OWNER_LOCK, student)
    await connection.execute(
        ENTER,
        *(
            student,
            new,
            grant.source,
            grant.granted,
            grant.reason,
            moment_or_none(grant.starts_ms),
            moment_or_none(grant.ends_ms),
            actor,
        ),
    )


async def owns(connection: asyncpg.Connection, student: str, product: str) -> bool:
    """Return whether a student owns a product now."""
    found = await connection.fetchval(
        """
        SELECT true FROM entitlement
        WHERE (student_id, product_id) = ($1, $2) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        """,
        *(student, product),
    )
    return bool(found)

"""Ledger: what is sold, ordered and paid, and who owns what because of it. One transaction per thing that happens."""

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import asyncpg

from stores.catalog import record
from stores.facts import (
    ORDER,
    OWNER_LOCKS,
    Change,
    Entering,
    Facts,
    Fold,
    Mismatch,
    Telling,
    Until,
    Whole,
    enter,
    fact_of,
    order_of,
    products_of,
    words_of,
)
from stores.money import Coupon, Event, EventOutcome, Fact, FactKind, Grant, Order, Product, Told
from stores.pipeline import Coalescer
from stores.refused import each
from stores.sessions import milliseconds, milliseconds_or_none, moment_or_none

Price = Callable[[Product, Coupon | None, int, int], int | str]
"""What a product costs with a coupon that was used so often, in all (if that is limited) and by the student; a text says why it
cannot be used."""

TOGETHER = 64
LONGEST_SECONDS = 8.0
"""How many messages of gateways go in one transaction, and how long one waits: a gateway that is refused in time comes again."""

EVENT = "SELECT provider, event_id, kind, outcome, why, received_at, payment_id FROM webhook_event"
EVENTS_OF = f"{EVENT} WHERE payment_id = $1 ORDER BY received_at, event_id"

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


class NotOrdered(StrEnum):
    """Why an order was not made."""

    NO_PRODUCT = "NO_PRODUCT"
    NOT_FOR_SALE = "NOT_FOR_SALE"
    OWNED = "OWNED"
    KEY_REUSED = "KEY_REUSED"
    NO_COUPON = "NO_COUPON"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a student asks to buy; `key` None: their call had none."""

    student: str
    product: str
    provider: str
    live: bool
    coupon: str
    key: UUID | None
    valid_seconds: float


@dataclass(frozen=True, slots=True)
class CouponRefused:
    """Why a coupon cannot be used."""

    why: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """An order that is open for the same product in another way: it has to be closed at its gateway first."""

    order: Order


@dataclass(frozen=True, slots=True)
class Owned:
    """What a student owns, or has owned; `ends_ms` None: for good, `revoked_ms` None: it was not taken away."""

    product: str
    granted_ms: int
    ends_ms: int | None
    revoked_ms: int | None


@dataclass(frozen=True, slots=True)
class KeptEvent:
    """A gateway's message as it is kept, without its body."""

    provider: str
    id: str
    kind: str
    outcome: EventOutcome
    why: str
    received_ms: int
    order: UUID | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One word of the ledger."""

    product: str
    granted: bool
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of an order; facts come with when they were told."""

    order: Order
    refunded: int
    facts: Sequence[tuple[Fact, int]]
    events: Sequence[KeptEvent]
    entries: Sequence[Entry]


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


class Ledger:
    """Orders, facts, grants. The rules are given: it states facts and lets them decide."""

    def __init__(self, pool: asyncpg.Pool, fold: Fold, mismatch: Mismatch, whole: Whole, until: Until) -> None:
        self._pool = pool
        self._whole = whole
        self._facts = Facts(fold, mismatch, whole, until)
        self._told: Coalescer[Telling, Told] = Coalescer(self._tell_each, queue="payment events", in_flight=1, batch=TOGETHER)

    # What is sold

    async def keep(self, products: Sequence[Product], coupons: Sequence[Coupon], actor: str) -> None:
        """Keep products and coupons as they are given, on record; others stay as they are."""
        async with self._pool.acquire() as connection, connection.transaction():
            for product in products:
                await connection.execute(
                    """
                    INSERT INTO product (id, title, description, amount, currency, validity_days, available)
                    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO UPDATE
                    SET title = $2, description = $3, amount = $4, currency = $5, validity_days = $6, available = $7
                    """,
                    *(product.id, product.title, product.description, product.amount, product.currency),
                    *(product.validity_days, product.available),
                )
            for product in products:
                await connection.execute("DELETE FROM product_part WHERE product_id = $1", product.id)
                await connection.execute("DELETE FROM product_opens WHERE product_id = $1", product.id)
                await connection.execute(
                    "INSERT INTO product_part SELECT $1, unnest($2::text[])", product.id, sorted(set(product.parts))
                )
                opens = sorted(set(product.opens))
                await connection.execute(
                    "INSERT INTO product_opens SELECT $1, * FROM unnest($2::text[], $3::text[])",
                    *(product.id, [kind for kind, _ in opens], [ref for _, ref in opens]),
                )
                await record(connection, actor, "product.import", product.id, {"amount": product.amount})
            for coupon in coupons:
                await connection.execute(
                    """
                    INSERT INTO coupon VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (code) DO UPDATE
                    SET percent = $2, amount = $3, currency = $4, products = $5, most_uses = $6, most_uses_each = $7,
                      starts_at = $8, ends_at = $9
                    """,
                    *(coupon.code, coupon.percent, coupon.amount, coupon.currency, coupon.products),
                    *(coupon.most_uses, coupon.most_uses_each, moment_or_none(coupon.starts_ms), moment_or_none(coupon.ends_ms)),
                )
                await record(connection, actor, "coupon.import", coupon.code)

    async def products(self) -> Mapping[str, Product]:
        """Return all that is or was sold, by id."""
        async with self._pool.acquire() as connection:
            return await products_of(connection)

    async def product(self, product: str) -> Product | None:
        """Return one of them."""
        async with self._pool.acquire() as connection:
            return (await products_of(connection, [product])).get(product)

    # Orders

    async def order(self, wanted: Wanted, price: Price) -> Order | NotOrdered | CouponRefused | Superseded:
        """Return the order that a student's wish makes, or has made before. What costs nothing is paid at once."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.fetch(OWNER_LOCKS, [wanted.student])
            before = await connection.fetchrow(
                f"SELECT {ORDER}, p.coupon FROM payment p WHERE student_id = $1 AND order_key = $2",  # noqa: S608
                *(wanted.student, wanted.key),
            )
            if before is not None:
                same = (before["product_id"], before["provider"], before["coupon"] or "")
                return order_of(before) if same == (wanted.product, wanted.provider, wanted.coupon) else NotOrdered.KEY_REUSED
            product = (await products_of(connection, [wanted.product])).get(wanted.product)
            if product is None:
                return NotOrdered.NO_PRODUCT
            if not product.available:
                return NotOrdered.NOT_FOR_SALE
            if await _owns(connection, wanted.student, product.id):
                return NotOrdered.OWNED
            amount = await _price(connection, wanted, product, price)
            if not isinstance(amount, int):
                return amount
            open_one = await connection.fetchrow(
                f"SELECT {ORDER}, p.expires_at <= now() AS over, p.coupon FROM payment p "  # noqa: S608
                "WHERE student_id = $1 AND product_id = $2 AND status = 'OPEN'",
                *(wanted.student, product.id),
            )
            if open_one is not None:
                known = order_of(open_one)
                same_way = (known.provider, known.live, known.amount, known.currency, open_one["coupon"] or "") == (
                    *(wanted.provider, wanted.live, amount, product.currency, wanted.coupon),
                )
                return known if same_way and not open_one["over"] else Superseded(known)
            row = await connection.fetchrow(
                f"""
                INSERT INTO payment AS p (student_id, product_id, provider, amount, currency, list_amount, coupon, live, order_key,
                  expires_at)
                VALUES ($1, $2, $3, $4, $5, $6, nullif($7, ''), $8, $9, now() + make_interval(secs => $10)) RETURNING {ORDER}
                """,  # noqa: S608
                *(wanted.student, product.id, wanted.provider, amount, product.currency, product.amount, wanted.coupon),
                *(wanted.live, wanted.key, wanted.valid_seconds),
            )
            order = order_of(row)
            if amount == 0:
                await self._facts.apply(connection, [Change(order, [Fact(FactKind.PAID, "free", 0, order.created_ms)])])
                return await _read(connection, order.id) or order
            return order

    async def opened(self, order: UUID, gateway_ref: str, url: str, secret: str) -> Order | None:
        """Note where an order is paid; the first answer of the gateway stays."""
        async with self._pool.acquire() as connection:
            await connection.execute(
                """
                UPDATE payment SET gateway_ref = coalesce(gateway_ref, $2), url = coalesce(url, nullif($3, '')),
                  secret = coalesce(secret, nullif($4, '')) WHERE id = $1
                """,
                *(order, gateway_ref, url, secret),
            )
            return await _read(connection, order)

    async def read(self, order: UUID) -> Order | None:
        """Return an order."""
        async with self._pool.acquire() as connection:
            return await _read(connection, order)

    async def unsettled(self, provider: str, older_seconds: float, count: int) -> Sequence[Order]:
        """Return open orders of a gateway that nobody has asked after for so long, those first that wait longest."""
        rows = await self._pool.fetch(
            f"""
            WITH waiting AS MATERIALIZED (
              SELECT id FROM payment
              WHERE status = 'OPEN' AND provider = $1 AND coalesce(polled_at, created_at) < now() - make_interval(secs => $2)
              ORDER BY polled_at NULLS FIRST LIMIT $3 FOR UPDATE SKIP LOCKED
            )
            UPDATE payment p SET polled_at = now() FROM waiting WHERE p.id = waiting.id RETURNING {ORDER}
            """,  # noqa: S608
            *(provider, older_seconds, count),
        )
        return [order_of(row) for row in rows]

    async def orders(self, student: str, count: int) -> Sequence[Order]:
        """Return a student's orders, the newest first."""
        rows = await self._pool.fetch(
            f"SELECT {ORDER} FROM payment p WHERE student_id = $1 ORDER BY id DESC LIMIT $2",  # noqa: S608
            *(student, count),
        )
        return [order_of(row) for row in rows]

    async def story(self, order: UUID) -> Story | None:
        """Return all that is known of an order, as it is at one moment; None: there is no such order."""
        async with self._pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            row = await connection.fetchrow(f"SELECT {ORDER}, p.refunded FROM payment p WHERE id = $1", order)  # noqa: S608
            if row is None:
                return None
            facts = await connection.fetch(
                "SELECT kind, ref, amount, at, told_at FROM payment_fact WHERE payment_id = $1 ORDER BY at, kind, ref", order
            )
            events = await connection.fetch(EVENTS_OF, order)
            entries = await connection.fetch(
                "SELECT product_id, granted, reason, at FROM entitlement_entry WHERE (student_id, source) = ($1, $2) ORDER BY id",
                *(row["student_id"], f"payment:{order}"),
            )
        return Story(
            order_of(row),
            row["refunded"],
            [(fact_of(fact), milliseconds(fact["told_at"])) for fact in facts],
            [_event(event) for event in events],
            [Entry(one["product_id"], one["granted"], one["reason"], milliseconds(one["at"])) for one in entries],
        )

    async def asked_back(self, order: UUID, key: str) -> int | None:
        """Return how much a key has asked to be given back; None: it is new."""
        amount: int | None = await self._pool.fetchval(
            "SELECT amount FROM payment_refund WHERE (payment_id, key) = ($1, $2)", *(order, key)
        )
        return amount

    async def note_refund(self, order: UUID, amount: int, key: str, reason: str, actor: str) -> int:
        """Put on record that a refund is asked for, before it is, once for each key; returns how much the key asked for first."""
        async with self._pool.acquire() as connection, connection.transaction():
            new = await connection.fetchval(
                "INSERT INTO payment_refund (payment_id, key, amount) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true",
                *(order, key, amount),
            )
            if new:
                await record(connection, actor, "payment.refund", str(order), {"amount": amount, "key": key, "reason": reason})
                return amount
        return await self.asked_back(order, key) or 0

    # What gateways tell

    async def read_until(self, provider: str) -> int | None:
        """Return until when a gateway's own list of events has been read; None: it never was."""
        until = await self._pool.fetchval("SELECT until FROM gateway_read WHERE provider = $1", provider)
        return milliseconds_or_none(until)

    async def note_read(self, provider: str, until_ms: int) -> None:
        """Note until when it has been read now."""
        await self._pool.execute(
            """
            INSERT INTO gateway_read AS known VALUES ($1, $2)
            ON CONFLICT (provider) DO UPDATE SET until = greatest(known.until, excluded.until)
            """,
            *(provider, moment_or_none(until_ms)),
        )

    async def untold(self, provider: str, ids: Sequence[str]) -> Set[str]:
        """Return those of some events that were never told: a gateway's list is read again from a while before its last end on."""
        rows = await self._pool.fetch(
            "SELECT event_id FROM webhook_event WHERE provider = $1 AND event_id = ANY ($2::text[])", provider, ids
        )
        return set(ids) - {row["event_id"] for row in rows}

    async def quarantined(self, since_seconds: float, count: int) -> Sequence[KeptEvent]:
        """Return the events of the last so many seconds that did not match their order, the newest first."""
        rows = await self._pool.fetch(
            f"""
            {EVENT} WHERE outcome = 'QUARANTINED' AND received_at > now() - make_interval(secs => $1)
            ORDER BY received_at DESC LIMIT $2
            """,
            *(since_seconds, count),
        )
        return [_event(row) for row in rows]

    async def drift(self, since_seconds: float) -> Drift:
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

    async def tell(self, provider: str, event: Event) -> Told:
        """Keep an event and do what it says, once: inbox, facts, fold and grants commit together, with those of whatever else was
        told meanwhile. What does not match the order that it names is quarantined and changes nothing. Raises Overloaded when too
        many wait: then nothing was kept; TimeoutError when it takes too long: whoever tells it again learns whether it was."""
        async with asyncio.timeout(LONGEST_SECONDS):
            return await self._told.submit(Telling(provider, event))

    async def _tell_each(self, told: Sequence[Telling]) -> Sequence[Told | Exception]:
        async def together(some: Sequence[Telling]) -> Sequence[Told]:
            async with self._pool.acquire() as connection, connection.transaction():
                return await self._facts.tell_all(connection, some)

        return await each(told, together)

    # Who owns what

    async def grant(self, student: str, product: str, grant: Grant, actor: str) -> bool:
        """Give a student a product with its parts, or take back what the same source gave, on record; False: no such product."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.fetch(OWNER_LOCKS, [student])
            products = await products_of(connection, [product])
            if product not in products:
                return False
            words = (await words_of(connection, [(student, grant.source)]))[student, grant.source]
            whole = {*self._whole(products[product], products), *(word.product for word in words if word.granted)}
            await enter(connection, [Entering(student, sorted(whole), grant, actor, words)])
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


async def _price(
    connection: asyncpg.Connection, wanted: Wanted, product: Product, price: Price
) -> int | NotOrdered | CouponRefused:
    if not wanted.coupon:
        found = price(product, None, 0, 0)
    else:
        row = await connection.fetchrow("SELECT * FROM coupon WHERE code = $1", wanted.coupon)
        if row is None:
            return NotOrdered.NO_COUPON
        everybody = row["most_uses"] is not None  # its uses are counted one by one; else only the student's own matter
        if everybody:
            row = await connection.fetchrow("SELECT * FROM coupon WHERE code = $1 FOR NO KEY UPDATE", wanted.coupon)
        used, own = await connection.fetchrow(
            f"""
            SELECT count(*), count(*) FILTER (WHERE student_id = $2) FROM payment
            WHERE coupon = $1 {"" if everybody else "AND student_id = $2"}
              AND (status NOT IN ('OPEN', 'FAILED', 'EXPIRED') OR (status = 'OPEN' AND expires_at > now()
                AND NOT (student_id = $2 AND product_id = $3)))
            """,  # noqa: S608
            *(wanted.coupon, wanted.student, product.id),
        )
        found = price(product, _coupon(row), used, own)
    return found if isinstance(found, int) else CouponRefused(found)


async def _owns(connection: asyncpg.Connection, student: str, product: str) -> bool:
    found = await connection.fetchval(
        """
        SELECT true FROM entitlement
        WHERE (student_id, product_id) = ($1, $2) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
        """,
        *(student, product),
    )
    return bool(found)


async def _read(connection: asyncpg.Connection, order: UUID) -> Order | None:
    row = await connection.fetchrow(f"SELECT {ORDER} FROM payment p WHERE id = $1", order)  # noqa: S608
    return order_of(row) if row else None


def _event(row: asyncpg.Record) -> KeptEvent:
    outcome, received_ms = EventOutcome(row["outcome"]), milliseconds(row["received_at"])
    return KeptEvent(row["provider"], row["event_id"], row["kind"], outcome, row["why"], received_ms, row["payment_id"])


def _coupon(row: asyncpg.Record) -> Coupon:
    kept = {name: row[name] for name in ("code", "percent", "amount", "currency", "products", "most_uses", "most_uses_each")}
    return Coupon(**kept, starts_ms=milliseconds_or_none(row["starts_at"]), ends_ms=milliseconds_or_none(row["ends_at"]))

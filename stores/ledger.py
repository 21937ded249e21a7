"""Ledger: what is sold, ordered and paid, and who owns what because of it. One transaction per thing that happens."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

import asyncpg

from stores.catalog import record
from stores.money import Claimed, Coupon, Event, Fact, FactKind, Grant, Order, OrderState, OrderStatus, Product
from stores.sessions import milliseconds, moment

Fold = Callable[[int, Iterable[Fact]], OrderState]
Mismatch = Callable[[Order, Claimed, Sequence[Fact]], str]
Whole = Callable[[Product, Mapping[str, Product]], Sequence[str]]
Until = Callable[[int, int | None], int | None]
Price = Callable[[Product, Coupon | None, int, int], int | str]
"""What a product costs with a coupon that was used so often, in all (if that is limited) and by the student; a text says why it
cannot be used."""

OWNER_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('owner/' || $1, 0))"
"""One change at a time of what a student owns: two orders that are paid at once both count."""

ORDER = """p.id, p.student_id, p.product_id, p.provider, p.amount, p.currency, p.live, p.gateway_ref, p.url, p.secret, p.status,
  p.created_at, p.expires_at"""

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

EVENT = "SELECT provider, event_id, kind, outcome, why, received_at FROM webhook_event"
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


class _Word(NamedTuple):
    """What a source has said of a product."""

    product: str
    granted: bool
    ends_ms: int | None


class NotOrdered(StrEnum):
    """Why an order was not made."""

    NO_PRODUCT = "NO_PRODUCT"
    NOT_FOR_SALE = "NOT_FOR_SALE"
    OWNED = "OWNED"
    KEY_REUSED = "KEY_REUSED"
    NO_COUPON = "NO_COUPON"


class EventOutcome(StrEnum):
    """What an event did."""

    APPLIED = "APPLIED"
    STORED = "STORED"
    QUARANTINED = "QUARANTINED"


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


@dataclass(frozen=True, slots=True)
class Told:
    """What became of an event, and why it was quarantined; one that is told again came to what it came to first."""

    outcome: EventOutcome
    why: str = ""
    again: bool = False


class Ledger:
    """Orders, facts, grants. The rules are given: it states facts and lets them decide."""

    def __init__(self, pool: asyncpg.Pool, fold: Fold, mismatch: Mismatch, whole: Whole, until: Until) -> None:
        self._pool = pool
        self._fold = fold
        self._mismatch = mismatch
        self._whole = whole
        self._until = until

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
                    *(coupon.most_uses, coupon.most_uses_each, _moment(coupon.starts_ms), _moment(coupon.ends_ms)),
                )
                await record(connection, actor, "coupon.import", coupon.code)

    async def products(self) -> Mapping[str, Product]:
        """Return all that is or was sold, by id."""
        async with self._pool.acquire() as connection:
            return await _products(connection)

    async def product(self, product: str) -> Product | None:
        """Return one of them."""
        async with self._pool.acquire() as connection:
            return (await _products(connection, product)).get(product)

    # Orders

    async def order(self, wanted: Wanted, price: Price) -> Order | NotOrdered | CouponRefused | Superseded:
        """Return the order that a student's wish makes, or has made before. What costs nothing is paid at once."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(OWNER_LOCK, wanted.student)
            before = await connection.fetchrow(
                f"SELECT {ORDER}, p.coupon FROM payment p WHERE student_id = $1 AND order_key = $2",  # noqa: S608
                *(wanted.student, wanted.key),
            )
            if before is not None:
                same = (before["product_id"], before["provider"], before["coupon"] or "")
                return _order(before) if same == (wanted.product, wanted.provider, wanted.coupon) else NotOrdered.KEY_REUSED
            product = (await _products(connection, wanted.product)).get(wanted.product)
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
                known = _order(open_one)
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
            order = _order(row)
            if amount == 0:
                await self._apply(connection, order, [Fact(FactKind.PAID, "free", 0, order.created_ms)])
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
        return [_order(row) for row in rows]

    async def orders(self, student: str, count: int) -> Sequence[Order]:
        """Return a student's orders, the newest first."""
        rows = await self._pool.fetch(
            f"SELECT {ORDER} FROM payment p WHERE student_id = $1 ORDER BY id DESC LIMIT $2",  # noqa: S608
            *(student, count),
        )
        return [_order(row) for row in rows]

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
            _order(row),
            row["refunded"],
            [(_fact(fact), milliseconds(fact["told_at"])) for fact in facts],
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
        return None if until is None else milliseconds(until)

    async def note_read(self, provider: str, until_ms: int) -> None:
        """Note until when it has been read now."""
        await self._pool.execute(
            """
            INSERT INTO gateway_read AS known VALUES ($1, $2)
            ON CONFLICT (provider) DO UPDATE SET until = greatest(known.until, excluded.until)
            """,
            *(provider, _moment(until_ms)),
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
        """Keep an event and do what it says, once, in one transaction: inbox, facts, fold, grants. What does not match the order
        that it names is quarantined and changes nothing."""
        async with self._pool.acquire() as connection, connection.transaction():
            order = await _named(connection, provider, event.claimed) if event.facts else None
            outcome, why = EventOutcome.STORED, ""
            if event.facts:
                why = "there is no such order" if order is None else self._mismatch(order, event.claimed, event.facts)
                outcome = EventOutcome.QUARANTINED if why else EventOutcome.APPLIED
            new = await connection.fetchval(
                """
                INSERT INTO webhook_event (provider, event_id, kind, body, outcome, why, payment_id)
                VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING RETURNING true
                """,
                *(provider, event.id, event.kind, event.body, outcome, why, order.id if order else None),
            )
            if not new:
                first = await connection.fetchrow(
                    "SELECT outcome, why FROM webhook_event WHERE (provider, event_id) = ($1, $2)", provider, event.id
                )
                return Told(EventOutcome(first["outcome"]), first["why"], again=True)
            if order is not None and not why:
                await self._apply(connection, order, event.facts, event.claimed.gateway_ref)
            return Told(outcome, why)

    async def _apply(
        self, connection: asyncpg.Connection, order: Order, facts: Sequence[Fact], gateway_ref: str | None = None
    ) -> None:
        """Add facts of an order that is locked, and bring what it grants up to their fold.

        `gateway_ref` is noted where we have none: an event can be quicker than our own note of the gateway's answer.
        """
        known = await connection.fetch(
            """
            WITH new AS (
              INSERT INTO payment_fact (payment_id, kind, ref, amount, at)
              SELECT $1, * FROM unnest($2::text[], $3::text[], $4::int[], $5::timestamptz[]) ON CONFLICT DO NOTHING
              RETURNING kind, ref, amount, at
            )
            SELECT * FROM new UNION ALL SELECT kind, ref, amount, at FROM payment_fact WHERE payment_id = $1
            """,
            *(order.id, [fact.kind for fact in facts], [fact.ref for fact in facts], [fact.amount for fact in facts]),
            [_moment(fact.at_ms) for fact in facts],
        )
        state = self._fold(order.amount, map(_fact, known))
        await connection.execute(
            "UPDATE payment SET status = $2, paid_at = $3, refunded = $4, gateway_ref = coalesce(gateway_ref, $5) WHERE id = $1",
            *(order.id, state.status, _moment(state.paid_ms), state.refunded, gateway_ref),
        )
        if state.paid_ms is None:
            return
        source = f"payment:{order.id}"
        words = await _words(connection, order.student, source)
        bought = [word for word in words if word.granted]
        if bought:  # it stays what it was, whatever the catalogue says by now
            wanted = list(dict.fromkeys(word.product for word in bought))
            ends_ms = bought[0].ends_ms
        else:
            products = await _products(connection, order.product)
            wanted = list(self._whole(products[order.product], products))
            ends_ms = self._until(state.paid_ms, products[order.product].validity_days)
        grant = Grant(source, state.grants, state.status, state.paid_ms, ends_ms)
        await _enter(connection, order.student, wanted, grant, order.provider, words)

    # Who owns what

    async def grant(self, student: str, product: str, grant: Grant, actor: str) -> bool:
        """Give a student a product with its parts, or take back what the same source gave, on record; False: no such product."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(OWNER_LOCK, student)
            products = await _products(connection, product)
            if product not in products:
                return False
            words = await _words(connection, student, grant.source)
            whole = {*self._whole(products[product], products), *(word.product for word in words if word.granted)}
            await _enter(connection, student, sorted(whole), grant, actor, words)
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
            Owned(r["product_id"], milliseconds(r["granted_at"]), _ms_or_none(r["expires_at"]), _ms_or_none(r["revoked_at"]))
            for r in rows
        ]


async def _words(connection: asyncpg.Connection, student: str, source: str) -> Sequence[_Word]:
    """Return what a source has said of a student so far, the first word first; whoever may add to it is the one who asks."""
    rows = await connection.fetch(
        "SELECT product_id, granted, ends_at FROM entitlement_entry WHERE (student_id, source) = ($1, $2) ORDER BY id",
        *(student, source),
    )
    return [_Word(row["product_id"], row["granted"], _ms_or_none(row["ends_at"])) for row in rows]


async def _enter(
    connection: asyncpg.Connection, student: str, products: Sequence[str], grant: Grant, actor: str, words: Sequence[_Word]
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
        *(student, new, grant.source, grant.granted, grant.reason, _moment(grant.starts_ms), _moment(grant.ends_ms), actor),
    )


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


async def _named(connection: asyncpg.Connection, provider: str, claimed: Claimed) -> Order | None:
    """Return the order that a message is about, locked: by our name of it, else by the gateway's."""
    row = await connection.fetchrow(
        f"""
        SELECT {ORDER} FROM payment p WHERE provider = $1 AND (id = $2 OR ($2::uuid IS NULL AND gateway_ref = $3)) FOR UPDATE
        """,  # noqa: S608
        *(provider, claimed.order, claimed.gateway_ref),
    )
    return _order(row) if row else None


async def _read(connection: asyncpg.Connection, order: UUID) -> Order | None:
    row = await connection.fetchrow(f"SELECT {ORDER} FROM payment p WHERE id = $1", order)  # noqa: S608
    return _order(row) if row else None


async def _products(connection: asyncpg.Connection, whole: str | None = None) -> dict[str, Product]:
    """Return products by id: all, or one with its parts, and theirs. A catalogue of hundreds takes ten milliseconds to read."""
    rows = await connection.fetch(
        """
        WITH RECURSIVE part (id) AS (
          SELECT $1::text COLLATE "C" UNION SELECT b.part_id FROM part JOIN product_part b ON b.product_id = part.id
        )
        SELECT p.*, ARRAY(SELECT part_id FROM product_part WHERE product_id = p.id ORDER BY 1) AS parts,
          ARRAY(SELECT kind || '/' || ref FROM product_opens WHERE product_id = p.id ORDER BY 1) AS opens
        FROM product p WHERE $1::text IS NULL OR p.id IN (SELECT id FROM part) ORDER BY p.id
        """,
        whole,
    )
    return {
        row["id"]: Product(
            **{name: row[name] for name in ("id", "title", "description", "amount", "currency", "validity_days", "available")},
            parts=tuple(row["parts"]),
            opens=tuple((kind, ref) for kind, _, ref in (one.partition("/") for one in row["opens"])),
        )
        for row in rows
    }


def _fact(row: asyncpg.Record) -> Fact:
    return Fact(FactKind(row["kind"]), row["ref"], row["amount"], milliseconds(row["at"]))


def _event(row: asyncpg.Record) -> KeptEvent:
    outcome = EventOutcome(row["outcome"])
    return KeptEvent(row["provider"], row["event_id"], row["kind"], outcome, row["why"], milliseconds(row["received_at"]))


def _order(row: asyncpg.Record) -> Order:
    return Order(
        id=row["id"],
        student=row["student_id"],
        product=row["product_id"],
        provider=row["provider"],
        amount=row["amount"],
        currency=row["currency"],
        live=row["live"],
        gateway_ref=row["gateway_ref"],
        url=row["url"],
        secret=row["secret"],
        status=OrderStatus(row["status"]),
        created_ms=milliseconds(row["created_at"]),
        expires_ms=milliseconds(row["expires_at"]),
    )


def _coupon(row: asyncpg.Record) -> Coupon:
    kept = {name: row[name] for name in ("code", "percent", "amount", "currency", "products", "most_uses", "most_uses_each")}
    return Coupon(**kept, starts_ms=_ms_or_none(row["starts_at"]), ends_ms=_ms_or_none(row["ends_at"]))


def _ms_or_none(at: datetime | None) -> int | None:
    return None if at is None else milliseconds(at)


def _moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else moment(at_ms)

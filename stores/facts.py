"""Facts: what gateways tell of orders, many messages in one transaction, and what is owned because of it.

Locks are taken in one order by everybody: orders by id, then messages by theirs, then owners by name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

import asyncpg

from stores.money import Claimed, Event, EventOutcome, Fact, FactKind, Grant, Order, OrderState, OrderStatus, Product, Told
from stores.sessions import milliseconds, milliseconds_or_none, moment, moment_or_none

Fold = Callable[[int, Iterable[Fact]], OrderState]
Mismatch = Callable[[Order, Claimed, Sequence[Fact]], str]
Whole = Callable[[Product, Mapping[str, Product]], Sequence[str]]
Until = Callable[[int, int | None], int | None]

ORDER = """p.id, p.student_id, p.product_id, p.provider, p.amount, p.currency, p.live, p.gateway_ref, p.url, p.secret, p.status,
  p.created_at, p.expires_at"""

OWNER_LOCKS = """
  SELECT pg_advisory_xact_lock(hashtextextended('owner/' || student, 0))
  FROM unnest($1::text[]) WITH ORDINALITY AS o (student, n) ORDER BY n
"""
"""One change at a time of what a student owns: two orders that are paid at once both count."""

ENTER = """
  WITH new AS (
    INSERT INTO entitlement_entry (student_id, product_id, source, granted, reason, starts_at, ends_at, actor)
    SELECT * FROM unnest(
      $1::text[], $2::text[], $3::text[], $4::bool[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::text[]
    )
    RETURNING id, student_id, product_id, source, granted, starts_at, ends_at
  ), latest AS (
    SELECT DISTINCT ON (student_id, product_id, source) student_id, product_id, granted, starts_at, ends_at
    FROM (
      SELECT * FROM new
      UNION ALL
      SELECT e.id, student_id, product_id, e.source, e.granted, e.starts_at, e.ends_at
      FROM (SELECT DISTINCT student_id, product_id FROM new) AS n JOIN entitlement_entry e USING (student_id, product_id)
    ) AS entries ORDER BY student_id, product_id, source, id DESC
  )
  INSERT INTO entitlement AS e (student_id, product_id, granted_at, expires_at, revoked_at)
  SELECT student_id, product_id, coalesce(min(starts_at) FILTER (WHERE granted), min(starts_at), now()),
    CASE WHEN bool_or(granted AND ends_at IS NULL) THEN NULL ELSE max(ends_at) FILTER (WHERE granted) END,
    CASE WHEN bool_or(granted) THEN NULL ELSE now() END
  FROM latest GROUP BY student_id, product_id
  ON CONFLICT (student_id, product_id) DO UPDATE
  SET granted_at = excluded.granted_at, expires_at = excluded.expires_at,
    revoked_at = CASE WHEN excluded.revoked_at IS NULL THEN NULL ELSE coalesce(e.revoked_at, excluded.revoked_at) END
"""
"""Adds words to the ledger, and makes what students own of these products the fold of each source's latest word. One that grants
is enough; the longest counts. Whoever runs it holds OWNER_LOCKS."""


class Telling(NamedTuple):
    """A provider's message."""

    provider: str
    event: Event

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by: told again, it is the same."""
        return self.provider, self.event.id


class Change(NamedTuple):
    """What is new of an order that is locked. `gateway_ref` is noted where we have none: an event can be quicker than our own note
    of the gateway's answer."""

    order: Order
    facts: Sequence[Fact]
    gateway_ref: str | None = None


class _Judged(NamedTuple):
    """What a message that is new comes to, and the order that it is about."""

    telling: Telling
    told: Told
    order: Order | None


class Word(NamedTuple):
    """What a source has said of a product."""

    product: str
    granted: bool
    ends_ms: int | None


class Entering(NamedTuple):
    """What a source says now of products, and what it has said of them so far."""

    student: str
    products: Sequence[str]
    grant: Grant
    actor: str
    words: Sequence[Word]


_Orders = dict[UUID | tuple[str, str], Order]
"""Orders that are locked, by our name of them, and by (provider, the gateway's)."""


class Facts:
    """Tells and folds, on a connection that has a transaction open. The rules are given."""

    def __init__(self, fold: Fold, mismatch: Mismatch, whole: Whole, until: Until) -> None:
        self._fold = fold
        self._mismatch = mismatch
        self._whole = whole
        self._until = until

    async def tell_all(self, connection: asyncpg.Connection, tellings: Sequence[Telling]) -> Sequence[Told]:
        """Keep messages and do what each says, once, as if one came after the other. What does not match the order that it names
        is quarantined and changes nothing."""
        once: dict[tuple[str, str], Telling] = {}
        for telling in tellings:
            once.setdefault(telling.key, telling)
        orders = await _named(connection, list(once.values()))
        told = await _kept(connection, list(once))  # after the orders are locked: whoever had them has told what is theirs
        judged = [self._judge(telling, orders) for key, telling in once.items() if key not in told]
        new = await _keep(connection, judged)
        told |= await _kept(connection, [one.telling.key for one in judged if one.telling.key not in new])
        changes = [
            Change(one.order, one.telling.event.facts, one.telling.event.claimed.gateway_ref)
            for one in judged
            if one.order is not None and one.told.outcome is EventOutcome.APPLIED and one.telling.key in new
        ]
        await self.apply(connection, changes)
        replies = []
        for key in (telling.key for telling in tellings):
            replies.append(told[key] if key in told else new[key])
            told[key] = replace(replies[-1], again=True)
        return replies

    def _judge(self, telling: Telling, orders: _Orders) -> _Judged:
        """Say what a message comes to, and note for those after it by what name the gateway knows the order."""
        provider, event = telling
        if not event.facts:
            return _Judged(telling, Told(EventOutcome.STORED), None)
        claimed = event.claimed
        theirs = orders.get((provider, claimed.gateway_ref or ""))
        order = theirs if claimed.order is None else orders.get(claimed.order)
        if order is None or order.provider != provider:
            return _Judged(telling, Told(EventOutcome.QUARANTINED, "there is no such order"), None)
        why = self._mismatch(order, claimed, event.facts)
        if not why and theirs is not None and theirs.id != order.id:
            why = "the gateway knows another order by this name"
        if why:
            return _Judged(telling, Told(EventOutcome.QUARANTINED, why), order)
        if claimed.gateway_ref and not order.gateway_ref:
            order = replace(order, gateway_ref=claimed.gateway_ref)
            orders[order.id] = orders[provider, claimed.gateway_ref] = order
        return _Judged(telling, Told(EventOutcome.APPLIED), order)

    async def apply(self, connection: asyncpg.Connection, changes: Sequence[Change]) -> None:
        """Add facts of orders that are locked, and bring what these grant up to their fold."""
        if not changes:
            return
        orders = {change.order.id: change.order for change in changes}
        known = await _know(connection, changes)
        states = {order.id: self._fold(order.amount, known[order.id]) for order in orders.values()}
        refs = {change.order.id: change.gateway_ref for change in reversed(changes) if change.gateway_ref}
        await connection.execute(
            """
            UPDATE payment p SET status = n.status, paid_at = n.paid_at, refunded = n.refunded,
              gateway_ref = coalesce(p.gateway_ref, n.gateway_ref)
            FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::int[], $5::text[])
              AS n (id, status, paid_at, refunded, gateway_ref)
            WHERE p.id = n.id
            """,
            list(states),
            [state.status for state in states.values()],
            [moment_or_none(state.paid_ms) for state in states.values()],
            [state.refunded for state in states.values()],
            [refs.get(order) for order in states],
        )
        paid = [order for order in orders.values() if states[order.id].paid_ms is not None]
        if paid:
            await enter(connection, await self._granted(connection, paid, states))

    async def _granted(
        self, connection: asyncpg.Connection, paid: Sequence[Order], states: Mapping[UUID, OrderState]
    ) -> Sequence[Entering]:
        """Return what orders that were paid say now of who owns what."""
        words = await words_of(connection, [(order.student, f"payment:{order.id}") for order in paid])
        bought = {source: [word for word in said if word.granted] for (_, source), said in words.items()}
        unsaid = {order.product for order in paid if not bought[f"payment:{order.id}"]}
        products = await products_of(connection, list(unsaid)) if unsaid else {}
        entering = []
        for order in paid:
            state, source = states[order.id], f"payment:{order.id}"
            assert state.paid_ms is not None
            if bought[source]:  # it stays what it was, whatever the catalogue says by now
                wanted: Sequence[str] = list(dict.fromkeys(word.product for word in bought[source]))
                ends_ms = bought[source][0].ends_ms
            else:
                wanted = self._whole(products[order.product], products)
                ends_ms = self._until(state.paid_ms, products[order.product].validity_days)
            grant = Grant(source, state.grants, state.status, state.paid_ms, ends_ms)
            entering.append(Entering(order.student, wanted, grant, order.provider, words[order.student, source]))
        return entering


async def enter(connection: asyncpg.Connection, entering: Sequence[Entering]) -> None:
    """Enter sources' words about products where they are not what was said last, and fold.

    An order that was refunded before it ever granted leaves a word all the same, so that the ledger tells the whole story.
    """
    new = []
    for one in entering:
        said = {word.product: (word.granted, word.ends_ms) for word in one.words}
        new += [(one, product) for product in one.products if said.get(product) != (one.grant.granted, one.grant.ends_ms)]
    if not new:
        return
    await connection.fetch(OWNER_LOCKS, sorted({one.student for one, _ in new}))
    await connection.execute(
        ENTER,
        [one.student for one, _ in new],
        [product for _, product in new],
        [one.grant.source for one, _ in new],
        [one.grant.granted for one, _ in new],
        [one.grant.reason for one, _ in new],
        [moment_or_none(one.grant.starts_ms) for one, _ in new],
        [moment_or_none(one.grant.ends_ms) for one, _ in new],
        [one.actor for one, _ in new],
    )


async def words_of(connection: asyncpg.Connection, sources: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Sequence[Word]]:
    """Return what each (student, source) has said so far, the first word first; whoever may add to it is the one who asks."""
    rows = await connection.fetch(
        """
        SELECT e.student_id, e.source, e.product_id, e.granted, e.ends_at
        FROM unnest($1::text[], $2::text[]) AS s (student_id, source) JOIN entitlement_entry e USING (student_id, source)
        ORDER BY e.id
        """,
        [student for student, _ in sources],
        [source for _, source in sources],
    )
    words: dict[tuple[str, str], list[Word]] = {source: [] for source in sources}
    for row in rows:
        words[row["student_id"], row["source"]].append(
            Word(row["product_id"], row["granted"], milliseconds_or_none(row["ends_at"]))
        )
    return words


async def products_of(connection: asyncpg.Connection, whole: Sequence[str] | None = None) -> dict[str, Product]:
    """Return products by id: all, or some with their parts, and theirs. A catalogue of hundreds takes ten milliseconds to read."""
    rows = await connection.fetch(
        """
        WITH RECURSIVE part (id) AS (
          SELECT unnest($1::text[]) COLLATE "C" UNION SELECT b.part_id FROM part JOIN product_part b ON b.product_id = part.id
        )
        SELECT p.*, ARRAY(SELECT part_id FROM product_part WHERE product_id = p.id ORDER BY 1) AS parts,
          ARRAY(SELECT kind || '/' || ref FROM product_opens WHERE product_id = p.id ORDER BY 1) AS opens
        FROM product p WHERE $1::text[] IS NULL OR p.id IN (SELECT id FROM part) ORDER BY p.id
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


async def _named(connection: asyncpg.Connection, tellings: Sequence[Telling]) -> _Orders:
    """Return the orders that messages name, locked: by our name of each, and by the gateway's."""
    claims = [(provider, event.claimed) for provider, event in tellings if event.facts]
    if not claims:
        return {}
    rows = await connection.fetch(
        f"""
        SELECT {ORDER} FROM payment p WHERE id IN (
          SELECT unnest($1::uuid[])
          UNION SELECT q.id FROM unnest($2::text[], $3::text[]) AS r (provider, gateway_ref)
            JOIN payment q USING (provider, gateway_ref)
        ) ORDER BY id FOR UPDATE
        """,  # noqa: S608
        [claimed.order for _, claimed in claims if claimed.order],
        [provider for provider, claimed in claims if claimed.gateway_ref],
        [claimed.gateway_ref for _, claimed in claims if claimed.gateway_ref],
    )
    orders: _Orders = {row["id"]: order_of(row) for row in rows}
    return orders | {(order.provider, order.gateway_ref): order for order in orders.values() if order.gateway_ref}


async def _kept(connection: asyncpg.Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Told]:
    """Return what messages came to that were told before."""
    if not keys:
        return {}
    rows = await connection.fetch(
        """
        SELECT provider, event_id, outcome, why
        FROM unnest($1::text[], $2::text[]) AS k (provider, event_id) JOIN webhook_event USING (provider, event_id)
        """,
        [provider for provider, _ in keys],
        [event for _, event in keys],
    )
    return {(r["provider"], r["event_id"]): Told(EventOutcome(r["outcome"]), r["why"], again=True) for r in rows}


async def _keep(connection: asyncpg.Connection, judged: Sequence[_Judged]) -> Mapping[tuple[str, str], Told]:
    """Keep messages, and return what those of them come to that nobody has told meanwhile."""
    if not judged:
        return {}
    in_turn = sorted(judged, key=lambda one: one.telling.key)
    rows = await connection.fetch(
        """
        INSERT INTO webhook_event (provider, event_id, kind, body, outcome, why, payment_id)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[], $7::uuid[])
        ON CONFLICT DO NOTHING RETURNING provider, event_id
        """,
        [one.telling.provider for one in in_turn],
        [one.telling.event.id for one in in_turn],
        [one.telling.event.kind for one in in_turn],
        [one.telling.event.body for one in in_turn],
        [one.told.outcome for one in in_turn],
        [one.told.why for one in in_turn],
        [one.order.id if one.order else None for one in in_turn],
    )
    new = {(row["provider"], row["event_id"]) for row in rows}
    return {one.telling.key: one.told for one in judged if one.telling.key in new}


async def _know(connection: asyncpg.Connection, changes: Sequence[Change]) -> Mapping[UUID, Sequence[Fact]]:
    """Add facts, and return all that is known of their orders."""
    facts = [(change.order.id, fact) for change in changes for fact in change.facts]
    rows = await connection.fetch(
        """
        WITH new AS (
          INSERT INTO payment_fact (payment_id, kind, ref, amount, at)
          SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::timestamptz[]) ON CONFLICT DO NOTHING
          RETURNING payment_id, kind, ref, amount, at
        )
        SELECT * FROM new
        UNION ALL SELECT payment_id, kind, ref, amount, at FROM payment_fact WHERE payment_id = ANY ($1::uuid[])
        """,
        [order for order, _ in facts],
        [fact.kind for _, fact in facts],
        [fact.ref for _, fact in facts],
        [fact.amount for _, fact in facts],
        [moment(fact.at_ms) for _, fact in facts],
    )
    known: dict[UUID, list[Fact]] = {change.order.id: [] for change in changes}
    for row in rows:
        known[row["payment_id"]].append(fact_of(row))
    return known


def fact_of(row: asyncpg.Record) -> Fact:
    """Read a fact."""
    return Fact(FactKind(row["kind"]), row["ref"], row["amount"], milliseconds(row["at"]))


def order_of(row: asyncpg.Record) -> Order:
    """Read the columns of ORDER."""
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

"""The books in PostgreSQL: orders as a test wants them, and what one provider told of them."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID

import asyncpg

from servers.payments import rules
from servers.payments.inbox import Inbox
from stores.connect import StoreSettings, connect
from stores.ledger import Ledger, Story, Wanted
from stores.money import Claimed, Event, EventOutcome, Fact, FactKind, Order, OrderStatus, Product, Told
from tests.payments.gateways import Told as Stated
from tests.payments.gateways import Truth
from tests.stack import Stack, fresh

PRODUCT = Product("course", "A course", "All of it", 2_500, "USD", None, True, (), ())
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
STORIES: Mapping[OrderStatus, Sequence[FactKind]] = {
    OrderStatus.OPEN: (),
    OrderStatus.FAILED: (FactKind.FAILED,),
    OrderStatus.EXPIRED: (FactKind.EXPIRED,),
    OrderStatus.PAID: (FactKind.PAID,),
    OrderStatus.REFUNDED: (FactKind.PAID, FactKind.REFUNDED),
    OrderStatus.DISPUTED: (FactKind.PAID, FactKind.DISPUTE_OPENED),
    OrderStatus.LOST: (FactKind.PAID, FactKind.DISPUTE_OPENED, FactKind.DISPUTE_LOST),
}
"""What an order has to go through to come to a status."""


@asynccontextmanager
async def as_payments(stack: Stack) -> AsyncIterator[asyncpg.Pool]:
    """Connect to a stack's PostgreSQL as its payment service does."""
    where = stack.read()
    urls = StoreSettings(
        stack.postgres("payments"), where["redis"], where["redis"], "", pool_size=30, statement_seconds=30, needs_nats=False
    )
    async with connect(urls) as stores:
        yield stores.postgres


def ledger_in(pool: asyncpg.Pool) -> Ledger:
    """Return the ledger with its rules, as the service has it."""
    return Ledger(pool, rules.fold, rules.mismatch, rules.whole, rules.owned_until)


def stated(facts: Sequence[Fact]) -> Sequence[Stated]:
    """Return facts without their time, in order."""
    return sorted((fact.kind, fact.ref, fact.amount) for fact in facts)


class Clock:
    """A clock that stands still unless it is moved; it begins now, at a whole second, since orders are dated by PostgreSQL's."""

    def __init__(self) -> None:
        self.began_ms = self.at_ms = time.time_ns() // 1_000_000_000 * 1_000

    def now_ms(self) -> int:
        """Return the time."""
        return self.at_ms

    def seconds(self) -> float:
        """Return it as `time.time` does."""
        return self.at_ms / 1000


class Till:
    """The books as one provider has them, with a note of what was told here."""

    def __init__(self, ledger: Ledger, provider: str, currency: str = "UZS", amount: int = 1_500_000) -> None:
        self.ledger = ledger
        self.provider = provider
        self.events: list[Event] = []
        """What was told, each once."""
        self.outcomes: list[EventOutcome] = []
        self.quarantined: list[str] = []
        self.orders: list[Order] = []
        self._inbox = Inbox(ledger, provider)
        self._usual = currency, amount

    async def tell(self, event: Event) -> Told:
        """Keep an event and do what it says, once."""
        told = await self._inbox.tell(event)
        self.outcomes.append(told.outcome)
        if all(event.id != one.id for one in self.events):
            self.events.append(event)
            self.quarantined += [told.why] if told.outcome is EventOutcome.QUARANTINED else []
        return told

    async def find(self, order: str) -> Order | None:
        """Return an order by our id of it."""
        return await self._inbox.find(order)

    async def order(
        self,
        *,
        amount: int = 0,
        currency: str = "",
        student: str = "",
        live: bool = False,
        seconds: float = 86_400,
        status: OrderStatus = OrderStatus.OPEN,
    ) -> Order:
        """Make an order, just now, that can be paid for so many seconds, and have it come to a status."""
        currency, amount = currency or self._usual[0], amount or self._usual[1]
        product = await self.product(amount, currency)
        wanted = Wanted(student or fresh("s"), product.id, self.provider, live, "", None, seconds)
        order = await self.ledger.order(wanted, lambda product, *_: product.amount)
        assert isinstance(order, Order)
        claimed = Claimed(order.id, None, None, None, None, None)
        moves = {kind: 0 if kind in (FactKind.FAILED, FactKind.EXPIRED) else amount for kind in STORIES[status]}
        facts = [Fact(kind, "before", moved, order.created_ms) for kind, moved in moves.items()]
        if facts:
            told = await self.ledger.tell(self.provider, Event(fresh("before"), "test", b"", claimed, facts))
            assert told.outcome is EventOutcome.APPLIED
        found = await self.ledger.read(order.id)
        assert found is not None
        assert found.status is status
        self.orders.append(found)
        return found

    async def product(self, amount: int, currency: str) -> Product:
        """Return a product that costs so much."""
        product = replace(PRODUCT, id=f"paid-{currency}-{amount}", amount=amount, currency=currency)
        await self.ledger.keep([product], [], "operator")
        return product

    async def story(self, order: Order) -> Story:
        """Return all that is known of an order."""
        found = await self.ledger.story(order.id)
        assert found is not None
        return found

    async def facts(self, order: Order) -> Mapping[FactKind, Sequence[Fact]]:
        """Return what is known of an order, by kind."""
        known = [fact for fact, _ in (await self.story(order)).facts]
        return {kind: [fact for fact in known if fact.kind is kind] for kind in {fact.kind for fact in known}}

    async def status(self, order: Order) -> OrderStatus:
        """Return what an order has come to."""
        return (await self.story(order)).order.status

    async def truth(self, order: Order) -> Truth:
        """The same, to be compared with the gateway's own books."""
        story = await self.story(order)
        return Truth(story.order.status, story.refunded)

    def ours(self, events: Sequence[Event]) -> list[Event]:
        """Return those events that are about orders made here: a provider tells of all."""
        known: set[UUID | None] = {order.id for order in self.orders}
        return [event for event in events if event.claimed.order in known]

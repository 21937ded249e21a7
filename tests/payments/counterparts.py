"""Counterparts of the simulated gateways: what the stores keep in PostgreSQL, in memory. Each act gives way first, so that acts
that run at once interleave, and is atomic after that."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID, uuid4

from servers.payments import rules
from stores.click_payments import ClickBegun, ClickPayment, ClickState
from stores.ledger import EventOutcome, Told
from stores.money import Claimed, Event, Fact, FactKind, Order, OrderState, OrderStatus, Product
from stores.payme_transactions import PaymeBegun, PaymeState, PaymeTransaction

PRODUCT = Product("course", "A course", "All of it", 1_500_000, "UZS", None, True, (), ())
NOW_MS = 1_795_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.at_ms = NOW_MS

    def now_ms(self) -> int:
        """Return the time."""
        return self.at_ms

    def seconds(self) -> float:
        """Return it as `time.time` does."""
        return self.at_ms / 1000


def closed(order: Order) -> Event:
    """Return what our own side tells of an order that it has closed."""
    claimed = Claimed(order.id, None, None, None, None, None)
    return Event(f"closed:{order.id}", "closed", b"", claimed, [Fact(FactKind.EXPIRED, "closed", 0, order.expires_ms)])


class BooksCounterpart:
    """The ledger's inbox, facts and orders, for one provider."""

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.events: list[Event] = []
        self.outcomes: list[EventOutcome] = []
        self._orders: dict[UUID, Order] = {}
        self._facts: dict[UUID, dict[tuple[FactKind, str], Fact]] = {}
        self._known: dict[str, Told] = {}

    def order(self, **differs: object) -> Order:
        """Make an order, with what differs from one that was just made."""
        order = Order(
            id=uuid4(),
            student="ada",
            product=PRODUCT.id,
            provider=self.provider,
            amount=PRODUCT.amount,
            currency="UZS",
            live=False,
            gateway_ref=None,
            url=None,
            secret=None,
            status=OrderStatus.OPEN,
            created_ms=NOW_MS,
            expires_ms=NOW_MS + DAY_MS,
        )
        order = replace(order, **differs)  # type: ignore[arg-type]
        self._orders[order.id], self._facts[order.id] = order, {}
        return order

    async def tell(self, event: Event) -> Told:
        """Keep an event and do what it says, once."""
        await asyncio.sleep(0)
        again = self._known.get(event.id)
        told = replace(again, again=True) if again else self._told(event)
        self._known.setdefault(event.id, told)
        self.outcomes.append(told.outcome)
        return told

    def _told(self, event: Event) -> Told:
        self.events.append(event)
        order = self._orders.get(event.claimed.order) if event.claimed.order else None
        why = rules.mismatch(order, event.claimed, event.facts) if order else "there is no such order"
        if order is None or why:
            return Told(EventOutcome.QUARANTINED, why)
        for fact in event.facts:
            self._facts[order.id].setdefault((fact.kind, fact.ref), fact)
        return Told(EventOutcome.APPLIED)

    async def find(self, order: str) -> Order | None:
        """Return an order by our id of it."""
        await asyncio.sleep(0)
        found = self._orders.get(UUID(order))
        if found is None or found.status is not OrderStatus.OPEN:
            return found
        return replace(found, status=self.state(found).status)

    def facts(self, order: Order) -> Mapping[FactKind, Sequence[Fact]]:
        """Return what is known of an order."""
        known = list(self._facts[order.id].values())
        return {kind: [fact for fact in known if fact.kind is kind] for kind in FactKind if any(f.kind is kind for f in known)}

    def state(self, order: Order) -> OrderState:
        """Return what an order has come to."""
        return rules.fold(order.amount, self._facts[order.id].values())


class PaymeTransactionsCounterpart:
    """What `PaymeTransactions` keeps."""

    def __init__(self) -> None:
        self.kept: dict[str, PaymeTransaction] = {}
        self._closed: set[UUID] = set()

    async def create(self, begun: PaymeBegun) -> PaymeTransaction | None:
        await asyncio.sleep(0)
        if begun.id not in self.kept and not self._live(begun.order):
            times = (begun.time_ms, begun.created_ms, 0, 0)
            number = len(self.kept) + 1
            self.kept[begun.id] = PaymeTransaction(number, begun.id, begun.order, begun.amount, *times, PaymeState.CREATED, None)
        return self.kept.get(begun.id)

    async def find(self, transaction: str) -> PaymeTransaction | None:
        await asyncio.sleep(0)
        return self.kept.get(transaction)

    async def live(self, order: UUID) -> bool:
        await asyncio.sleep(0)
        return self._live(order)

    def _live(self, order: UUID) -> bool:
        return order in self._closed or any(one.order == order and one.state > 0 for one in self.kept.values())

    async def perform(self, transaction: str, now_ms: int, oldest_ms: int) -> PaymeTransaction | None:
        await asyncio.sleep(0)
        known = self.kept.get(transaction)
        if known and known.state is PaymeState.CREATED and min(known.time_ms, known.created_ms) > oldest_ms:
            self.kept[transaction] = replace(known, state=PaymeState.PERFORMED, performed_ms=now_ms)
        return self.kept.get(transaction)

    async def cancel(self, transaction: str, reason: int, now_ms: int) -> PaymeTransaction | None:
        await asyncio.sleep(0)
        known = self.kept.get(transaction)
        if known and known.state > 0:
            self.kept[transaction] = replace(known, state=PaymeState(-known.state), reason=reason, cancelled_ms=now_ms)
        return self.kept.get(transaction)

    async def expire(self, transaction: str, reason: int, now_ms: int) -> PaymeTransaction | None:
        await asyncio.sleep(0)
        known = self.kept.get(transaction)
        if known and known.state is PaymeState.CREATED:
            self.kept[transaction] = replace(known, state=PaymeState.CANCELLED, reason=reason, cancelled_ms=now_ms)
        return self.kept.get(transaction)

    async def close(self, order: UUID, reason: int, now_ms: int) -> bool:
        await asyncio.sleep(0)
        for name, known in self.kept.items():
            if known.order == order and known.state is PaymeState.CREATED:
                self.kept[name] = replace(known, state=PaymeState.CANCELLED, reason=reason, cancelled_ms=now_ms)
        if not self._live(order):
            self._closed.add(order)
        return not any(one.order == order and one.state is PaymeState.PERFORMED for one in self.kept.values())

    async def of(self, order: UUID) -> Sequence[PaymeTransaction]:
        return [one for one in self.kept.values() if one.order == order]

    async def statement(self, from_ms: int, to_ms: int) -> Sequence[PaymeTransaction]:
        found = [one for one in self.kept.values() if from_ms <= one.time_ms <= to_ms]
        return sorted(found, key=lambda one: (one.time_ms, one.number))

    async def changed(self, since_ms: int) -> Sequence[PaymeTransaction]:
        return [one for one in self.kept.values() if max(one.performed_ms, one.cancelled_ms) >= since_ms]


class ClickPaymentsCounterpart:
    """What `ClickPayments` keeps."""

    def __init__(self) -> None:
        self.kept: dict[int, ClickPayment] = {}
        self._closed: set[UUID] = set()

    def _settled(self, order: UUID) -> bool:
        ended = (ClickState.CONFIRMED, ClickState.REVERSED)
        return order in self._closed or any(one.order == order and one.state in ended for one in self.kept.values())

    async def prepare(self, begun: ClickBegun) -> ClickPayment | None:
        await asyncio.sleep(0)
        if begun.trans not in self.kept and not self._settled(begun.order):
            told = (begun.trans, begun.paydoc, begun.order, begun.amount, begun.prepared_ms, 0, 0)
            self.kept[begun.trans] = ClickPayment(len(self.kept) + 1, *told, ClickState.PREPARED)
        return self.kept.get(begun.trans)

    async def find(self, trans: int) -> ClickPayment | None:
        await asyncio.sleep(0)
        return self.kept.get(trans)

    async def confirm(self, known: ClickPayment, now_ms: int) -> ClickPayment | None:
        await asyncio.sleep(0)
        kept = self.kept[known.trans]
        if kept.state is ClickState.PREPARED and self._settled(kept.order):
            self.kept[known.trans] = replace(kept, state=ClickState.CANCELLED, cancelled_ms=now_ms)
        elif kept.state is ClickState.PREPARED:
            self.kept[known.trans] = replace(kept, state=ClickState.CONFIRMED, confirmed_ms=now_ms)
        return self.kept[known.trans]

    async def cancel(self, trans: int, now_ms: int) -> ClickPayment | None:
        await asyncio.sleep(0)
        kept = self.kept.get(trans)
        if kept and kept.state is ClickState.PREPARED:
            self.kept[trans] = replace(kept, state=ClickState.CANCELLED, cancelled_ms=now_ms)
        return self.kept.get(trans)

    async def reverse(self, trans: int, now_ms: int) -> None:
        await asyncio.sleep(0)
        kept = self.kept[trans]
        if kept.state is ClickState.CONFIRMED:
            self.kept[trans] = replace(kept, state=ClickState.REVERSED, cancelled_ms=now_ms)

    async def close(self, order: UUID, now_ms: int) -> bool:
        await asyncio.sleep(0)
        for trans, kept in self.kept.items():
            if kept.order == order and kept.state is ClickState.PREPARED:
                self.kept[trans] = replace(kept, state=ClickState.CANCELLED, cancelled_ms=now_ms)
        if self._settled(order) and order not in self._closed:
            return False
        self._closed.add(order)
        return True

    async def of(self, order: UUID) -> Sequence[ClickPayment]:
        return [one for one in self.kept.values() if one.order == order]

    async def changed(self, since_ms: int) -> Sequence[ClickPayment]:
        return [one for one in self.kept.values() if max(one.confirmed_ms, one.cancelled_ms) >= since_ms]

"""Books in memory, as the ledger keeps them in PostgreSQL: an inbox that takes an event once, facts that are told once."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from servers.payments import rules
from servers.payments.provider import Provider
from stores.ledger import EventOutcome, Told
from stores.money import Event, Fact, Order, OrderState, OrderStatus, Product
from tests.payments.gateways import Gateway, Truth
from tests.payments.gateways import Told as Stated

PRODUCT = Product("course", "A course", "All of it", 2_500, "USD", None, True, (), ())


def made_order(provider: Provider, currency: str, now_ms: int, amount: int = PRODUCT.amount) -> Order:
    """Return an order that was made just now."""
    return Order(
        id=uuid4(),
        student="ada",
        product=PRODUCT.id,
        provider=provider.name,
        amount=amount,
        currency=currency,
        live=provider.live,
        gateway_ref=None,
        url=None,
        secret=None,
        status=OrderStatus.OPEN,
        created_ms=now_ms,
        expires_ms=now_ms + 3_600_000,
    )


def new_order(gateway: Gateway, amount: int = PRODUCT.amount) -> Order:
    """Return an order that was made just now and that the gateway does not know yet."""
    return made_order(gateway.provider, gateway.currency, gateway.now_ms(), amount)


async def opened(gateway: Gateway, amount: int = PRODUCT.amount) -> Order:
    """Return an order that the gateway has taken."""
    order = new_order(gateway, amount)
    found = await gateway.provider.open(order, PRODUCT)
    return replace(order, gateway_ref=found.ref, url=found.url, secret=found.secret)


def stated(facts: Sequence[Fact]) -> Sequence[Stated]:
    """Return facts without their time, in order."""
    return sorted((fact.kind, fact.ref, fact.amount) for fact in facts)


class Shelf:
    """The books of one order."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.events: list[Event] = []
        self.quarantined: list[str] = []
        self._facts: dict[tuple[str, str], Fact] = {}
        self._told: dict[str, Told] = {}

    async def tell(self, event: Event) -> Told:
        """Keep an event and do what it says, once."""
        if event.id in self._told:
            return replace(self._told[event.id], again=True)
        self.events.append(event)
        told = self._told[event.id] = self._come_to(event)
        return told

    def _come_to(self, event: Event) -> Told:
        if not event.facts:
            return Told(EventOutcome.STORED)
        claimed = event.claimed
        named = claimed.gateway_ref is not None and claimed.gateway_ref == self.order.gateway_ref
        ours = claimed.order == self.order.id if claimed.order else named
        why = rules.mismatch(self.order, claimed, event.facts) if ours else "there is no such order"
        if why:
            self.quarantined.append(why)
            return Told(EventOutcome.QUARANTINED, why)
        for fact in event.facts:
            self._facts.setdefault((fact.kind, fact.ref), fact)
        return Told(EventOutcome.APPLIED)

    async def find(self, order: str) -> Order | None:
        """Return the order by our id of it."""
        return self.order if order == str(self.order.id) else None

    @property
    def facts(self) -> Sequence[Fact]:
        """What is known of the order."""
        return list(self._facts.values())

    @property
    def state(self) -> OrderState:
        """What the order has come to."""
        return rules.fold(self.order.amount, self.facts)

    @property
    def truth(self) -> Truth:
        """The same, to be compared with the gateway's own books."""
        return Truth(self.state.status, self.state.refunded)

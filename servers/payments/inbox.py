"""What a provider may ask and tell of its own orders, and how an order is settled by asking its gateway."""

from collections.abc import Iterable
from uuid import UUID

import structlog
from prometheus_client import Counter

from servers import errors
from servers.payments import rules
from servers.payments.provider import GatewayAway, GatewayRefused, Provider, our_clock
from servers.serving.crash import crash
from stores.ledger import Ledger
from stores.money import Event, EventOutcome, FactKind, Order, Told

EVENTS = Counter(
    "finalbell_payment_events_total", "What gateways told: one that is told again counts as REPLAYED", ["provider", "outcome"]
)
log = structlog.get_logger()


class Inbox:
    """The ledger, as far as it is one provider's."""

    def __init__(self, ledger: Ledger, provider: str, crash_at: str = "") -> None:
        self._ledger = ledger
        self._provider = provider
        self._crash_at = crash_at

    async def tell(self, event: Event) -> Told:
        """Keep an event and do what it says, once; an alarm rings for one that does not match its order."""
        crash("P4", self._crash_at)
        told = await self._ledger.tell(self._provider, event)
        crash("P5", self._crash_at)
        EVENTS.labels(self._provider, "REPLAYED" if told.again else told.outcome).inc()
        if told.outcome is EventOutcome.QUARANTINED and not told.again:
            log.error("payment event quarantined", provider=self._provider, event_id=event.id, kind=event.kind, why=told.why)
        return told

    async def find(self, order: str) -> Order | None:
        """Return an order of this provider by our id of it; None for anything else."""
        try:
            known = await self._ledger.read(UUID(order))
        except ValueError:
            return None
        return known if known is not None and known.provider == self._provider else None

    async def tell_all(self, events: Iterable[Event]) -> int:
        """Tell those events one by one that were not told before; returns how many of them counted."""
        all_of_them = list(events)
        new = await self._ledger.untold(self._provider, [event.id for event in all_of_them])
        told = [await self.tell(event) for event in all_of_them if event.id in new]
        return sum(one.outcome is EventOutcome.APPLIED and not one.again for one in told)


async def ask(provider: Provider, inbox: Inbox, order: Order) -> int:
    """Ask a gateway what has become of an order, and note it; returns how much was new. Raises GatewayAway, GatewayRefused."""
    return await inbox.tell_all(await provider.look(order))


async def end(provider: Provider | None, inbox: Inbox, order: Order) -> int:
    """Have a gateway take no money for an order any more, unless it has: then what it says of it counts. Returns how much was new.
    Raises GatewayAway, GatewayRefused."""
    if provider is None or await provider.close(order):
        return await inbox.tell_all([rules.ended(order, FactKind.EXPIRED, our_clock())])
    return await ask(provider, inbox, order)


def gateway_away(provider: str, away: GatewayAway | GatewayRefused) -> errors.Refusal:
    """Return what a caller is told of a gateway that does not answer, once it is in the log."""
    log.warning("gateway away", provider=provider, error=str(away)[:200])
    return errors.GatewayUnavailable("The payment gateway does not answer; repeat the call with the same key.")


def count_from_zero(provider: str) -> None:
    """Show a provider's counts before anything has been told, so that the first event of a kind is a rise."""
    for outcome in (*EventOutcome, "REPLAYED", "FORGED"):
        EVENTS.labels(provider, outcome)

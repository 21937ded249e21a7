"""The reconciler: asks gateways what has become of open orders, and what they have told that never came."""

import asyncio
from collections.abc import Mapping
from time import monotonic

import structlog
from prometheus_client import Gauge

from servers.payments.inbox import Inbox, ask, count_from_zero, end
from servers.payments.provider import GatewayAway, GatewayRefused, Provider, our_clock
from servers.payments.rules import Round
from servers.serving.run import sleep_until
from stores.ledger import Ledger
from stores.money import Order, OrderStatus

TOGETHER = 8
"""How many orders a gateway is asked after at a time."""

MOST = 500
"""How many orders of a gateway are read at a time; those that have waited longest come first."""

OVERLAP_MS = 600_000
"""A gateway's list of events is read from so long before the last time on: it may list an event some time after its moment."""

FIRST_MS = 86_400_000
"""How far back it is read the first time."""

BEHIND = Gauge("finalbell_payment_reconciled_seconds", "Seconds since a gateway was last read whole", ["provider"])
log = structlog.get_logger()


class Reconciler:
    """Works in rounds; several processes may do so at once, each order is one's."""

    def __init__(self, ledger: Ledger, providers: Mapping[str, Provider], period_seconds: float) -> None:
        self._ledger = ledger
        self._providers = providers
        self._period = period_seconds
        for name in providers:
            self._note_read(name)
            count_from_zero(name)

    async def run(self, stop: asyncio.Event) -> None:
        """Do a round with each gateway each period, until it is time to stop; one that is away or slow holds up no other, nor the
        end: what a round leaves half done, the next one finds as it is."""
        async with asyncio.TaskGroup() as group:
            rounds = [group.create_task(self._rounds(name, stop)) for name in self._providers]
            await stop.wait()
            for one in rounds:
                one.cancel()

    async def _rounds(self, name: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            began = monotonic()
            try:
                await self.round(name)
            except Exception as failure:  # whatever it was, the next round may go better
                log.warning("not reconciled", provider=name, error=f"{type(failure).__name__}: {failure}"[:200])
            await sleep_until(stop, max(0.0, began + self._period - monotonic()))

    async def round(self, name: str, *, all_orders: bool = False) -> Round:
        """Read a gateway's list of events, ask after its open orders, and end those that nobody has paid in time.

        Orders that a period was too short for come first in the next round; `all_orders`: all of them, however long it takes.
        Raises GatewayAway, and whatever a store raises.
        """
        provider, began = self._providers[name], our_clock()
        inbox = Inbox(self._ledger, name)
        since = await self._ledger.read_until(name)
        missed = await provider.missed(began - FIRST_MS if since is None else since - OVERLAP_MS)
        new = await inbox.tell_all(missed)
        await self._ledger.note_read(name, began)
        self._note_read(name)
        asked, found = 0, list[int | None]()
        room, first = asyncio.Semaphore(TOGETHER), monotonic()

        async def settled(order: Order) -> int | None:
            async with room:
                return await self._settle(provider, inbox, order)

        while True:  # what was asked after in this round is younger than the round
            passed = monotonic() - first
            waiting = await self._ledger.unsettled(name, passed + (0.0 if all_orders else self._period), MOST)
            found += await asyncio.gather(*map(settled, waiting))
            asked += len(waiting)
            if len(waiting) < MOST or (passed > self._period and not all_orders):
                break
        return Round(name, len(missed), asked, new + sum(one or 0 for one in found), sum(one is None for one in found))

    async def _settle(self, provider: Provider, inbox: Inbox, order: Order) -> int | None:
        """Ask after an order, and end it where its time is over; returns how much was new, None where the gateway does not say."""
        try:
            new = await ask(provider, inbox, order)
            known = await self._ledger.read(order.id)
            if known is not None and known.status is OrderStatus.OPEN and our_clock() >= known.expires_ms:
                new += await end(provider, inbox, known)
        except (GatewayAway, GatewayRefused) as silent:
            log.warning("order not settled", provider=provider.name, payment=str(order.id), error=str(silent)[:200])
            return None
        return new

    def _note_read(self, name: str) -> None:
        at = monotonic()
        BEHIND.labels(name).set_function(lambda: monotonic() - at)

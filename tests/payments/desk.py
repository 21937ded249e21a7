"""A gateway in this process, which answers when a test lets it: for what is ours to do right, whatever a gateway does."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from servers.payments.provider import Books, GatewayAway, Heard, Opened, Said
from stores.money import Claimed, Event, Fact, FactKind, Order, Product


class Desk:
    """A gateway that keeps the Provider protocol, takes any money, and has nothing to tell."""

    live: bool = False

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.rounds = 0
        self.answers = asyncio.Event()
        """While it is clear, its list of events, and what is to be closed before it is opened, wait."""
        self.closing = asyncio.Event()
        self.pages: dict[UUID, str] = {}
        self.refunds: dict[tuple[UUID, str], int] = {}
        """What was given back, by order and key."""
        self.silent = False
        """Whether it gives money back and does not say so."""

    def takes(self, currency: str) -> bool:
        return True

    async def open(self, order: Order, product: Product) -> Opened:
        self.pages[order.id] = "open"
        return Opened(f"co_{order.id}", f"https://pay.invalid/{order.id}")

    async def close(self, order: Order) -> bool:
        if order.gateway_ref is None:
            self.closing.set()
            await self.answers.wait()
        else:
            self.pages[order.id] = "closed"
        return True

    async def hear(self, heard: Heard, books: Books) -> Said:
        return Said()

    async def look(self, order: Order) -> Sequence[Event]:
        claimed = Claimed(order.id, None, None, order.currency, order.student, self.live)
        return [
            Event(f"back:{key}", "refund", b"", claimed, [Fact(FactKind.REFUNDED, key, amount, order.created_ms)])
            for (of, key), amount in self.refunds.items()
            if of == order.id
        ]

    async def missed(self, since_ms: int) -> Sequence[Event]:
        self.rounds += 1
        await self.answers.wait()
        return []

    async def refund(self, order: Order, amount: int, key: str) -> None:
        self.refunds.setdefault((order.id, key), amount)
        if self.silent:
            raise GatewayAway("its answer was lost")

    async def stop(self) -> None:
        return

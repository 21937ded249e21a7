"""The reconciler's rounds, and how an order is ended, with gateways that answer when a test lets them."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from servers.payments.inbox import Inbox, end
from servers.payments.provider import Books, Heard, Opened, Said
from servers.payments.reconciler import Reconciler
from stores.ledger import Ledger
from stores.money import Event, Order, OrderStatus, Product
from tests.payments.books import PRODUCT, Till
from tests.stack import eventually


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
        return []

    async def missed(self, since_ms: int) -> Sequence[Event]:
        self.rounds += 1
        await self.answers.wait()
        return []

    async def refund(self, order: Order, amount: int, key: str) -> None:
        return

    async def stop(self) -> None:
        return


@pytest.fixture
def till(ledger: Ledger) -> Till:
    return Till(ledger, "sandbox", "USD", PRODUCT.amount)


async def test_a_gateway_that_takes_its_time_holds_up_no_other(ledger: Ledger) -> None:
    slow, quick, stop = Desk("slow"), Desk("quick"), asyncio.Event()
    quick.answers.set()
    running = asyncio.create_task(Reconciler(ledger, {"slow": slow, "quick": quick}, 0.01).run(stop))

    async def read_again() -> bool:
        return quick.rounds > 2

    try:
        await eventually(read_again)
    finally:
        stop.set()
        slow.answers.set()
        await running

    assert slow.rounds == 1


async def test_a_page_that_is_opened_while_its_order_is_being_ended_is_closed_all_the_same(ledger: Ledger, till: Till) -> None:
    desk, order = Desk("sandbox"), await till.order()
    ending = asyncio.create_task(end(desk, Inbox(ledger, "sandbox"), order))
    await desk.closing.wait()

    page = await desk.open(order, PRODUCT)  # by the call that made the order, which is not at its end yet
    noted = await ledger.opened(order.id, page.ref, page.url, "")
    desk.answers.set()
    await ending

    assert noted is not None
    assert (noted.status, noted.url) == (OrderStatus.OPEN, page.url)
    assert await till.status(order) is OrderStatus.EXPIRED
    assert desk.pages[order.id] == "closed"

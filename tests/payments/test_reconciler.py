"""The reconciler's rounds, and how an order is ended, with gateways that answer when a test lets them."""

import asyncio

import pytest

from servers.payments.inbox import Inbox, end
from servers.payments.reconciler import Reconciler
from stores.ledger import Ledger
from stores.money import OrderStatus
from tests.payments.books import PRODUCT, Till
from tests.payments.desk import Desk
from tests.stack import eventually


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


async def test_a_gateway_that_does_not_answer_holds_up_no_end(ledger: Ledger) -> None:
    slow, stop = Desk("slow"), asyncio.Event()
    running = asyncio.create_task(Reconciler(ledger, {"slow": slow}, 30.0).run(stop))

    async def asked() -> bool:
        return slow.rounds > 0

    await eventually(asked)
    stop.set()

    await asyncio.wait_for(running, 10)


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

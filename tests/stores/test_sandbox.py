"""The sandbox's webhooks and the ledger: however they were lost, doubled and reordered, entitlements are what the gateway knows."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.payments import rules
from servers.payments.provider import Heard
from servers.payments.sandbox import event
from servers.payments.service import Inbox
from stores.connect import Stores
from stores.ledger import Ledger, Wanted
from stores.money import Order, OrderStatus, Product
from tests.payments.sandbox_process import Json, RealSandbox, real_sandbox, truth
from tests.stack import fresh

AMOUNT = 5_000
UNPAID = ["pay", "decline", "transfer", "pay", "expire", "pay", "fail", "pay"]
"""What can happen to an open checkout; most are paid, so that the rest of a story has something to tell of."""

COMES = {"send": 1, "lose": 0, "twice": 2, "hold": 1}
"""How often a webhook comes in the end, by what was chosen for it."""

steps = st.lists(
    st.tuples(st.sampled_from(sorted(COMES)), st.integers(0, len(UNPAID) - 1), st.integers(1, AMOUNT)), min_size=2, max_size=10
)


@pytest_asyncio.fixture(scope="module")
async def gateway() -> AsyncIterator[RealSandbox]:
    async with real_sandbox() as gateway:
        yield gateway


async def bought(stores: Stores, gateway: RealSandbox) -> tuple[Ledger, Order]:
    """Have a student order a product of their own, as the service does."""
    ledger = Ledger(stores.postgres, rules.fold, rules.mismatch, rules.whole, rules.owned_until)
    product = Product(fresh("p"), "A course", "", AMOUNT, "USD", None, True, (), ())
    await ledger.keep([product], [], "operator")
    wanted = Wanted(fresh("s"), product.id, "sandbox", False, "", None, 3_600.0)
    order = await ledger.order(wanted, lambda product, coupon, used, own: product.amount)
    assert isinstance(order, Order)
    opened = await gateway.provider.open(order, product)
    return ledger, await ledger.opened(order.id, opened.ref, opened.url, opened.secret) or order


def choices(checkout: Json) -> Sequence[str]:
    """Return what can happen to a checkout."""
    if checkout["status"] != "paid":
        return {"open": UNPAID, "processing": ["arrive", "arrive", "bounce"]}.get(checkout["status"], [])
    match truth(checkout).status:
        case OrderStatus.DISPUTED:
            return ["win", "lose"]
        case OrderStatus.PAID:
            return ["refund", "dispute", "dispute"]
        case _:
            return []


def lived(gateway: RealSandbox, order: Order, story: Sequence[tuple[str, int, int]]) -> Sequence[Heard]:
    """Let happen what can, with the mishaps that were chosen, and return the webhooks in the order in which they came."""
    process, name, comes = gateway.process, str(order.gateway_ref), 0
    gateway.shop.heard.clear()
    for chosen, number, amount in story:
        if can := choices(gateway.checkout(order)):
            act = can[number % len(can)]
            process.post(f"/v1/checkouts/{name}/next", {"next": chosen})
            if process.act(name, act, amount if act == "refund" else None):  # more than is left is not given back
                comes += COMES[chosen]
    process.post(f"/v1/checkouts/{name}/release", {})
    heard = gateway.shop.wait(lambda heard: sum(about(order, one) for one in heard) >= comes)
    return [one for one in heard if about(order, one)]


def about(order: Order, heard: Heard) -> bool:
    return bool(json.loads(heard.body)["checkout"]["order"] == str(order.id))


async def stands(ledger: Ledger, order: Order) -> tuple[OrderStatus, bool]:
    """Return what the ledger says an order has come to, and whether the student owns the product."""
    now = await ledger.read(order.id)
    assert now is not None
    owned = {one.product for one in await ledger.owned(order.student) if one.revoked_ms is None}
    return now.status, order.product in owned


def granted(status: OrderStatus) -> tuple[OrderStatus, bool]:
    """Return how an order of this status stands."""
    return status, status is OrderStatus.PAID


@settings(max_examples=100)
@given(story=steps, shuffled=st.randoms(use_true_random=False))
async def test_whatever_becomes_of_webhooks_the_ledger_comes_to_the_truth(
    stores: Stores, gateway: RealSandbox, story: Sequence[tuple[str, int, int]], shuffled: object
) -> None:
    ledger, order = await bought(stores, gateway)
    inbox = Inbox(ledger, "sandbox")
    came = list(lived(gateway, order, story))
    shuffled.shuffle(came)  # type: ignore[attr-defined]

    await asyncio.gather(*(gateway.provider.hear(one, inbox) for one in came))

    heard = {one.id: one for one in map(event, {one.body for one in came})}
    state = rules.fold(AMOUNT, [fact for one in heard.values() for fact in one.facts])
    assert await stands(ledger, order) == granted(state.status)

    for missed in await gateway.provider.missed(order.created_ms):
        if missed.claimed.order == order.id:
            await inbox.tell(missed)

    known = truth(gateway.checkout(order))
    assert await stands(ledger, order) == granted(known.status)
    assert await refunded(stores, order) == known.refunded


async def refunded(stores: Stores, order: Order) -> int:
    return int(await stores.postgres.fetchval("SELECT refunded FROM payment WHERE id = $1", order.id))

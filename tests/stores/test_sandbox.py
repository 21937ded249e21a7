"""The sandbox's webhooks and the ledger: however they were lost, doubled and reordered, entitlements are what the gateway knows."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from random import Random

import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.payments import rules
from servers.payments.provider import Heard
from servers.payments.sandbox import event
from stores.connect import Stores
from stores.money import Order, OrderStatus
from tests.payments.books import PRODUCT, Till, ledger_in
from tests.payments.sandbox_process import Json, RealSandbox, opened, real_sandbox, truth

UNPAID = ["pay", "decline", "transfer", "pay", "expire", "pay", "fail", "pay"]
"""What can happen to an open checkout; most are paid, so that the rest of a story has something to tell of."""

COMES = {"send": 1, "lose": 0, "twice": 2, "hold": 1}
"""How often a webhook comes in the end, by what was chosen for it."""

steps = st.lists(
    st.tuples(st.sampled_from(sorted(COMES)), st.integers(0, len(UNPAID) - 1), st.integers(1, PRODUCT.amount)),
    min_size=2,
    max_size=10,
)


@pytest_asyncio.fixture(scope="module")
async def gateway() -> AsyncIterator[RealSandbox]:
    async with real_sandbox() as gateway:
        yield gateway


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


async def stands(till: Till, order: Order) -> tuple[OrderStatus, bool]:
    """Return what the ledger says an order has come to, and whether the student owns the product."""
    owned = {one.product for one in await till.ledger.owned(order.student) if one.revoked_ms is None}
    return await till.status(order), order.product in owned


def granted(status: OrderStatus) -> tuple[OrderStatus, bool]:
    """Return how an order of this status stands."""
    return status, status is OrderStatus.PAID


@settings(max_examples=100)
@given(story=steps, shuffled=st.randoms(use_true_random=False))
async def test_whatever_becomes_of_webhooks_the_ledger_comes_to_the_truth(
    stores: Stores, gateway: RealSandbox, story: Sequence[tuple[str, int, int]], shuffled: Random
) -> None:
    till = Till(ledger_in(stores.postgres), gateway.provider.name, PRODUCT.currency, PRODUCT.amount)
    order = await opened(gateway, till)
    came = list(lived(gateway, order, story))
    shuffled.shuffle(came)

    await asyncio.gather(*(gateway.provider.hear(one, till) for one in came))

    heard = {one.id: one for one in map(event, {one.body for one in came})}
    state = rules.fold(order.amount, [fact for one in heard.values() for fact in one.facts])
    assert await stands(till, order) == granted(state.status)

    for missed in till.ours(await gateway.provider.missed(order.created_ms)):
        await till.tell(missed)

    known = gateway.truth(order)
    assert await stands(till, order) == granted(known.status)
    assert await till.truth(order) == known

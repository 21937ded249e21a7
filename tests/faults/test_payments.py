"""Nobody pays twice and nobody waits who paid, whatever dies between an order and its answer (I18, I20, I21, F5, F13, F43).

Steps: P1 the order is kept, P2 the gateway has taken it, P3 that is noted; P4 a webhook is believed, P5 it is kept.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
from finalbell.v1 import payment_pb2 as pb
from finalbell.v1.payment_pb2_grpc import PaymentServiceStub
from google.api.httpbody_pb2 import HttpBody

from servers.payments.provider import Heard, Said
from stores.money import Order, OrderStatus
from tests.faults.harm import crashing, dies, insist, kill, restarted, stopped
from tests.flows.sitting import Student, good
from tests.payments.gateways import Act, Call
from tests.payments.shop import WEBHOOK, Shop, selling
from tests.stack import Stack, bearer, eventually


@pytest.fixture(scope="module")
async def shop() -> AsyncIterator[Shop]:
    async with selling(FINALBELL_RECONCILE_SECONDS="2") as shop:
        yield shop


@pytest.fixture(scope="module")
def stack(shop: Shop) -> Stack:
    """The stack that is harmed here: it sells."""
    return shop.stack


@pytest.fixture
async def student(shop: Shop) -> AsyncIterator[Student]:
    async with Student(shop.stack) as student:
        yield student


async def hear_at(address: str, heard: Heard, provider: str) -> None:
    """Make a gateway's call of one process, which does not live to answer it."""
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), 20)
        request = pb.HandleWebhookRequest(provider=provider, body=HttpBody(data=heard.body))
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await PaymentServiceStub(channel).HandleWebhook(request, metadata=list(heard.headers.items()), timeout=10)
    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE


async def granted_once(shop: Shop, student: Student, order: Order) -> None:
    """Wait until an order is owned, and see that it was paid and granted once."""

    async def owned() -> bool:
        return order.product in await shop.owns(student)

    await eventually(owned, 30)
    story = await shop.story(order)
    assert len(story.facts) == 1
    assert [(entry.product, entry.granted) for entry in story.entries] == [(order.product, True)]


@pytest.mark.parametrize("step", ["P1", "P2", "P3"])
async def test_a_checkout_that_died_is_repeated_as_the_same_one(shop: Shop, student: Student, step: str) -> None:
    product, key = await shop.sell(), uuid.uuid4().hex
    with crashing(shop.stack, "payments", step) as (address, process):
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
            request = pb.CreateCheckoutRequest(product_id=product)
            with pytest.raises(grpc.aio.AioRpcError) as lost:
                await PaymentServiceStub(channel).CreateCheckout(request, metadata=bearer(student.token, key), timeout=10)
        await dies(process)
    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
    (row,) = await shop.pool.fetch("SELECT id FROM payment WHERE student_id = $1", student.name)
    assert len(shop.stripe.account.by_order.get(str(row["id"]), ())) == (0 if step == "P1" else 1)

    with_key = good(await shop.checkout(student, product, key))
    another_tab = good(await shop.checkout(student, product))
    order = await shop.read(with_key["paymentId"])
    statuses = await shop.hear(await shop.act(order, Act.PAY))

    assert with_key["paymentId"] == another_tab["paymentId"] == str(row["id"])
    assert with_key["url"] == another_tab["url"]
    assert shop.stripe.known(order) == 1
    assert set(statuses) == {200}
    await granted_once(shop, student, order)


@pytest.mark.parametrize("step", ["P2", "P3"])
async def test_what_is_paid_after_its_checkout_died_is_granted(shop: Shop, student: Student, step: str) -> None:
    """The gateway has the order, and nobody comes back to ask for it: the student has paid on another device's page, say."""
    product = await shop.sell()
    with crashing(shop.stack, "payments", step) as (address, process):
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 20)
            with pytest.raises(grpc.aio.AioRpcError):
                await PaymentServiceStub(channel).CreateCheckout(
                    pb.CreateCheckoutRequest(product_id=product), metadata=bearer(student.token), timeout=10
                )
        await dies(process)
    (row,) = await shop.pool.fetch("SELECT id FROM payment WHERE student_id = $1", student.name)
    order = await shop.read(str(row["id"]))

    await shop.act(order, Act.PAY)

    await granted_once(shop, student, order)


@pytest.mark.parametrize("comes_again", [True, False], ids=["comes again", "is lost"])
@pytest.mark.parametrize("step", ["P4", "P5"])
async def test_a_webhook_whose_process_died_grants_once(shop: Shop, student: Student, step: str, comes_again: bool) -> None:
    order = await shop.order(student, await shop.sell())
    with crashing(shop.stack, "payments", step) as (address, process):
        call = next(call for call in await shop.act(order, Act.PAY) if call.tells)
        await hear_at(address, shop.signed(call), "stripe")
        await dies(process)

    if comes_again:
        assert await shop.hear([call, call]) == [200, 200]

    await granted_once(shop, student, order)


@pytest.mark.parametrize("provider", ["payme", "click"])
@pytest.mark.parametrize("step", ["P4", "P5"])
async def test_a_payment_whose_process_died_before_it_answered_is_one(
    shop: Shop, student: Student, provider: str, step: str
) -> None:
    order = await shop.order(student, await shop.sell("UZS", 1_500_000), provider=provider)
    async with shop.asking(provider) as gateway:
        usual = gateway.line
        with crashing(shop.stack, "payments", step) as (address, process):

            async def line(call: Call) -> Said | None:
                if call.tells and process.poll() is None:
                    await hear_at(address, gateway.sign(call, gateway.now_ms()), provider)
                    await dies(process)
                    return None
                return await usual(call)

            gateway.line = line
            await gateway.act(Act.PAY, order, order.amount)
        assert process.poll() is not None
        await gateway.catch_up()

        await granted_once(shop, student, order)
        assert gateway.truth(order).status is OrderStatus.PAID


async def test_webhooks_under_way_while_the_service_is_killed_count_once(shop: Shop, student: Student) -> None:
    order = await shop.order(student, await shop.sell())
    calls = await shop.act(order, Act.PAY)
    before = shop.stack.pid("payments")

    told = asyncio.gather(*(insist(lambda call=call: shop.post(shop.signed(call))) for call in calls for _ in range(20)))
    kill(shop.stack, "payments")
    replies = await told

    await restarted(shop.stack, "payments", before)
    assert {reply.status_code for reply in replies} == {200}
    await granted_once(shop, student, order)


async def test_a_webhook_while_postgresql_is_away_is_to_come_again_and_counts_then(shop: Shop, student: Student) -> None:
    order = await shop.order(student, await shop.sell())
    calls = await shop.act(order, Act.PAY)
    call = next(call for call in calls if call.tells)

    with stopped(shop.stack, "postgres"):
        refused = await shop.post(shop.signed(call))
    told = await insist(lambda: shop.post(shop.signed(call)))

    assert refused.status_code == 503
    assert told.status_code == 200
    await granted_once(shop, student, order)


async def test_a_lost_webhook_is_granted_all_the_same(shop: Shop, student: Student) -> None:
    order = await shop.order(student, await shop.sell())

    await shop.act(order, Act.PAY)

    await granted_once(shop, student, order)


async def test_what_was_refunded_or_disputed_and_never_told_is_taken_back(shop: Shop, student: Student) -> None:
    order = await shop.order(student, await shop.sell())
    await shop.hear(await shop.act(order, Act.PAY))

    await shop.act(order, Act.REFUND)

    async def taken() -> bool:
        return await shop.owns(student) == set()

    await eventually(taken, 30)
    assert (await shop.story(order)).order.status is OrderStatus.REFUNDED


async def test_a_gateway_that_is_away_holds_nothing_up_and_is_asked_again(shop: Shop, student: Student) -> None:
    product = await shop.sell()
    paid = await shop.order(student, product)
    await shop.act(paid, Act.PAY)
    other, key = await shop.sell(), uuid.uuid4().hex
    shop.stripe.away = True
    try:
        refused = await shop.checkout(student, other, key)
        await asyncio.sleep(3)
    finally:
        shop.stripe.away = False

    assert refused.status_code == 503
    await granted_once(shop, student, paid)
    order = await shop.read(good(await shop.checkout(student, other, key))["paymentId"])
    assert shop.stripe.known(order) == 1
    assert time.time() * 1000 < order.expires_ms
    assert (await shop.post(shop.signed(Call(b"{}")), f"{WEBHOOK}/stripe")).status_code == 200

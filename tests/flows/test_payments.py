"""Buying, through the gateway: what students, payment providers and strangers get (RELIABILITY C, I18-I21, F43)."""

import asyncio
import json
import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servers.payments.provider import Heard, Said
from stores.money import EventOutcome, OrderStatus
from tests.flows.sitting import Student, good, refusal
from tests.payments.gateways import Act, Call
from tests.payments.shop import WEBHOOK, Shop, selling
from tests.payments.stripe_simulator import signed
from tests.stack import FINALBELL, ROOT, fresh

LATE_MS = 301_000


@pytest.fixture(scope="module")
async def shop() -> AsyncIterator[Shop]:
    async with selling(FINALBELL_RECONCILE_SECONDS="600") as shop:
        yield shop


@pytest.fixture
async def student(shop: Shop) -> AsyncIterator[Student]:
    async with Student(shop.stack) as student:
        yield student


# What is sold


async def test_products_are_imported_by_the_command_and_listed(shop: Shop, student: Student, tmp_path: Path) -> None:
    part, bundle = fresh("p"), fresh("p")
    products = [
        {"productId": part, "title": "A part", "amount": 900, "currency": "USD", "lectures": ["l1"]},
        {"productId": bundle, "title": "All", "amount": 1_500, "currency": "USD", "parts": [part], "validityDays": 30},
    ]
    file = tmp_path / "products.json"
    file.write_text(json.dumps({"products": products}))

    ran = subprocess.run(
        [*FINALBELL, "product", "import", str(file), "--home", str(shop.stack.home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    listed = {one["productId"]: one for one in good(await student.http.get("/api/v1/products"))["products"]}
    assert (listed[bundle]["amount"], listed[bundle]["parts"], listed[bundle]["validityDays"]) == (1_500, [part], 30)
    assert listed[part]["opens"] == [{"kind": "LECTURE", "id": "l1"}]
    assert not listed[bundle]["owned"]


# Checkout


async def test_two_tabs_get_one_checkout_and_a_retry_the_same_one(shop: Shop, student: Student) -> None:
    product, key = await shop.sell(), uuid.uuid4().hex

    replies = await asyncio.gather(
        *(shop.checkout(student, product, key) for _ in range(3)), *(shop.checkout(student, product) for _ in range(3))
    )

    payments = [good(reply) for reply in replies]
    assert len({(one["paymentId"], one["url"]) for one in payments}) == 1
    assert payments[0]["url"]
    assert (payments[0]["amount"], payments[0]["currency"], payments[0]["status"]) == (2_500, "USD", "OPEN")
    assert shop.stripe.known(await shop.read(payments[0]["paymentId"])) == 1


async def test_price_currency_and_student_in_the_body_have_no_effect(shop: Shop, student: Student) -> None:
    product = await shop.sell()

    reply = await shop.checkout(student, product, amount=1, currency="UZS", studentId="eve", price={"amount": 1})

    payment = good(reply)
    order = await shop.read(payment["paymentId"])
    assert (order.amount, order.currency, order.student) == (2_500, "USD", student.name)
    assert shop.stripe.session(order)["amount_total"] == 2_500


async def test_what_cannot_be_bought_is_refused_with_its_reason(shop: Shop, student: Student) -> None:
    soums, withdrawn = await shop.sell("UZS"), await shop.sell(withdrawn=True)
    dollars = await shop.sell()

    assert refusal(await shop.checkout(student, fresh("none"))) == (404, "PRODUCT_NOT_FOUND")
    assert refusal(await shop.checkout(student, dollars, provider="nobody")) == (404, "PROVIDER_UNKNOWN")
    assert refusal(await shop.checkout(student, dollars, provider="payme")) == (400, "CHECKOUT_REFUSED")
    assert refusal(await shop.checkout(student, withdrawn)) == (400, "NOT_FOR_SALE")
    assert refusal(await shop.checkout(student, dollars, coupon="NONE")) == (400, "COUPON_REFUSED")
    assert good(await shop.checkout(student, soums, provider="click"))["provider"] == "click"


async def test_a_key_that_ordered_something_else_is_reused(shop: Shop, student: Student) -> None:
    key = uuid.uuid4().hex
    good(await shop.checkout(student, await shop.sell(), key))

    assert refusal(await shop.checkout(student, await shop.sell(), key)) == (409, "IDEMPOTENCY_KEY_REUSED")


async def test_a_checkout_in_another_way_closes_the_first_one_at_its_gateway(shop: Shop, student: Student) -> None:
    product, code = await shop.sell(), await shop.coupon(20)
    first = await shop.order(student, product)

    second = await shop.order(student, product, coupon=code)

    assert (second.amount, second.id != first.id) == (2_000, True)
    assert shop.stripe.session(first)["status"] == "expired"
    assert (await shop.story(first)).order.status is OrderStatus.EXPIRED
    assert set(await shop.hear(await shop.act(second, Act.PAY))) == {200}
    assert await shop.owns(student) == {product}


async def test_a_checkout_in_another_way_finds_out_that_the_first_one_is_paid(shop: Shop, student: Student) -> None:
    product, code = await shop.sell(), await shop.coupon(20)
    await shop.act(await shop.order(student, product), Act.PAY)  # and no word of it comes

    assert refusal(await shop.checkout(student, product, coupon=code)) == (409, "ALREADY_OWNED")

    assert await shop.owns(student) == {product}


async def test_what_a_coupon_makes_free_is_owned_at_once_and_once_for_each_use(shop: Shop, student: Student) -> None:
    product, code = await shop.sell(), await shop.coupon(100, mostUses=1)

    payment = good(await shop.checkout(student, product, coupon=code))

    assert (payment["status"], payment["amount"], payment["url"], payment["provider"]) == ("PAID", 0, "", "")
    assert await shop.owns(student) == {product}
    async with Student(shop.stack) as other:
        assert refusal(await shop.checkout(other, product, coupon=code)) == (400, "COUPON_REFUSED")


async def test_nobody_sees_anothers_order(shop: Shop, student: Student) -> None:
    order = await shop.order(student, await shop.sell())

    async with Student(shop.stack) as other:
        assert refusal(await other.http.get(f"/api/v1/payments/{order.id}")) == (404, "PAYMENT_NOT_FOUND")
    assert good(await student.http.get(f"/api/v1/payments/{order.id}"))["status"] == "OPEN"


# Webhooks


async def test_what_is_paid_is_owned_and_not_sold_again(shop: Shop, student: Student) -> None:
    product = await shop.sell()
    order = await shop.order(student, product)

    statuses = await shop.hear(await shop.act(order, Act.PAY))

    assert set(statuses) == {200}
    assert await shop.owns(student) == {product}
    assert good(await student.http.get(f"/api/v1/payments/{order.id}"))["status"] == "PAID"
    assert refusal(await shop.checkout(student, product)) == (409, "ALREADY_OWNED")


async def test_a_webhook_may_name_its_provider(shop: Shop, student: Student) -> None:
    product = await shop.sell()
    order = await shop.order(student, product)

    for call in await shop.act(order, Act.PAY):
        assert (await shop.post(shop.signed(call), f"{WEBHOOK}/stripe")).status_code == 200

    assert await shop.owns(student) == {product}
    assert refusal(await shop.post(shop.signed(Call(b"{}")), f"{WEBHOOK}/nobody")) == (404, "PROVIDER_UNKNOWN")


@pytest.mark.parametrize("forgery", ["unsigned", "malformed", "a stranger's", "too old", "too new", "changed", "another's header"])
async def test_a_forged_webhook_is_refused_and_changes_nothing(shop: Shop, student: Student, forgery: str) -> None:
    order = await shop.order(student, await shop.sell())
    call = next(call for call in await shop.act(order, Act.PAY) if call.tells)
    genuine = shop.signed(call)
    heard = {
        "unsigned": Heard({}, call.body, 0),
        "malformed": Heard({"stripe-signature": "t=,v1="}, call.body, 0),
        "a stranger's": signed(call.body, genuine.now_ms, "whsec_strange"),
        "too old": shop.signed(call, -LATE_MS),
        "too new": shop.signed(call, LATE_MS),
        "changed": replace(genuine, body=call.body.replace(b'"usd"', b'"eur"')),
        "another's header": Heard({"authorization": "Basic UGF5Y29tOng="}, call.body, 0),
    }[forgery]
    assert heard.body != genuine.body or heard.headers != genuine.headers

    assert refusal(await shop.post(heard)) == (400, "SIGNATURE_INVALID")

    story = await shop.story(order)
    assert (story.order.status, story.facts, story.events, story.entries) == (OrderStatus.OPEN, [], [], [])
    assert await shop.owns(student) == set()
    assert await shop.hear([call]) == [200]


async def test_an_event_of_an_unknown_type_is_kept(shop: Shop) -> None:
    name = fresh("evt_")
    body = json.dumps({"id": name, "object": "event", "type": "customer.created", "data": {"object": {"id": "cus_1"}}}).encode()

    assert await shop.hear([Call(body)]) == [200]

    row = await shop.pool.fetchrow("SELECT kind, outcome, body FROM webhook_event WHERE event_id = $1", name)
    assert tuple(row) == ("customer.created", EventOutcome.STORED, body)


async def test_a_payment_that_does_not_match_is_quarantined_and_grants_nothing(shop: Shop, student: Student) -> None:
    order = await shop.order(student, await shop.sell())
    call = next(call for call in await shop.act(order, Act.PAY) if call.tells)
    wrong = call.body.replace(b'"amount_total": 2500', b'"amount_total": 25')
    assert wrong != call.body

    assert await shop.hear([Call(wrong)]) == [200]

    story = await shop.story(order)
    assert [event.outcome for event in story.events] == [EventOutcome.QUARANTINED]
    assert await shop.owns(student) == set()


async def test_fifty_racing_copies_are_one_payment(shop: Shop, student: Student) -> None:
    product = await shop.sell()
    order = await shop.order(student, product)
    calls = await shop.act(order, Act.PAY)

    replies = await asyncio.gather(*(shop.post(shop.signed(call)) for call in calls for _ in range(50)))

    assert {reply.status_code for reply in replies} == {200}
    story = await shop.story(order)
    assert len(story.facts) == 1
    assert [(entry.product, entry.granted) for entry in story.entries] == [(product, True)]


async def test_a_refund_before_its_payment_leaves_nothing(shop: Shop, student: Student) -> None:
    product = await shop.sell()
    order = await shop.order(student, product)
    paid, refunded = await shop.act(order, Act.PAY), await shop.act(order, Act.REFUND)

    assert set(await shop.hear(refunded)) == {200}
    assert await shop.owns(student) == set()
    assert set(await shop.hear(paid)) == {200}

    assert await shop.owns(student) == set()
    assert (await shop.story(order)).order.status is OrderStatus.REFUNDED
    assert good(await shop.checkout(student, product))["status"] == "OPEN"


async def test_a_dispute_suspends_until_it_is_won(shop: Shop, student: Student) -> None:
    product = await shop.sell()
    order = await shop.order(student, product)
    await shop.hear(await shop.act(order, Act.PAY))

    await shop.hear(await shop.act(order, Act.DISPUTE))
    suspended = await shop.owns(student)
    await shop.hear(await shop.act(order, Act.WIN))

    assert (suspended, await shop.owns(student)) == (set(), {product})


async def test_a_webhook_that_comes_before_the_checkout_is_answered_counts(shop: Shop, student: Student) -> None:
    product = await shop.sell()
    shop.stripe.holds.clear()
    checkout = asyncio.ensure_future(shop.checkout(student, product))
    try:
        order = await shop.read(await waiting(shop, student))

        statuses = await shop.hear(await shop.act(order, Act.PAY))
        owned = await shop.owns(student)
    finally:
        shop.stripe.holds.set()
    payment = good(await checkout)

    assert (set(statuses), owned) == ({200}, {product})
    assert (payment["paymentId"], payment["status"]) == (str(order.id), "PAID")
    assert shop.stripe.known(order) == 1


async def waiting(shop: Shop, student: Student) -> str:
    """Wait until Stripe has a student's order and has not answered yet, and return it."""
    while True:
        rows = await shop.pool.fetch("SELECT id FROM payment WHERE student_id = $1", student.name)
        if rows and str(rows[0]["id"]) in shop.stripe.account.by_order:
            return str(rows[0]["id"])
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("provider", ["payme", "click"])
async def test_a_gateway_that_asks_is_answered_in_its_own_way(shop: Shop, student: Student, provider: str) -> None:
    product = await shop.sell("UZS", 1_500_000)
    order = await shop.order(student, product, provider=provider)

    async with shop.asking(provider) as gateway:
        usual, refused = gateway.line, []

        async def line(call: Call) -> Said | None:
            """Make the call in a stranger's name, then in one's own, twice."""
            for forged in (gateway.sign(call, gateway.now_ms(), stranger=True), gateway.unsigned(call)):
                reply = await shop.post(forged, f"{WEBHOOK}/{provider}")
                refused.append((reply.status_code, gateway.refused(Said(reply.content))))
            await usual(call)
            return await usual(call)

        gateway.line = line
        await gateway.act(Act.PAY, order, order.amount)
        truth = gateway.truth(order)

    assert set(refused) == {(200, True)}
    assert truth.status is OrderStatus.PAID
    assert await shop.owns(student) == {product}
    assert len((await shop.story(order)).facts) == 1


# Refunds and reconciliation by staff


async def test_staff_give_money_back_once_for_each_key(shop: Shop, student: Student) -> None:
    product, key = await shop.sell(), uuid.uuid4().hex
    order = await shop.order(student, product)
    await shop.hear(await shop.act(order, Act.PAY))

    async with Student(shop.stack, roles=["admin"]) as admin:
        path = f"/api/v1/admin/payments/{order.id}:refund"
        body = {"amount": 700, "reason": "a wish"}
        parts = [good(await admin.http.post(path, json=body, headers={"idempotency-key": key})) for _ in range(2)]
        owned = await shop.owns(student)
        rest = good(await admin.http.post(path, json={"reason": "all of it"}, headers={"idempotency-key": uuid.uuid4().hex}))
        drift = good(await admin.http.get("/api/v1/admin/payments:drift"))

    assert ([one["status"] for one in parts], owned) == (["PAID", "PAID"], {product})
    assert rest["status"] == "REFUNDED"
    assert await shop.owns(student) == set()
    assert [one["amount"] for one in shop.stripe.account.refunds.values() if one["metadata"].get("order") == str(order.id)] == [
        700,
        1_800,
    ]
    assert [line for line in drift["lines"] if str(order.id) in line["payments"]] == []


async def test_a_lost_webhook_is_granted_when_staff_ask(shop: Shop, student: Student) -> None:
    product = await shop.sell()
    await shop.act(await shop.order(student, product), Act.PAY)

    async with Student(shop.stack, roles=["admin"]) as admin:
        done = good(await admin.http.post("/api/v1/admin/payments:reconcile", json={"provider": "stripe"}))

    assert done["rounds"][0]["applied"] >= 1
    assert done["failed"] == []
    assert await shop.owns(student) == {product}


# What it opens


async def test_an_exam_opens_with_its_product_and_a_refund_holds_the_result_back(
    shop: Shop, student: Student, small_exam: dict[str, Any], exam_id: str
) -> None:
    await shop.stack.import_exam(small_exam, exam_id)
    product = await shop.sell(exams=[exam_id])
    before = await student.start(exam_id)
    order = await shop.order(student, product)
    await shop.hear(await shop.act(order, Act.PAY))

    session = (await student.sit(exam_id))["sessionId"]
    good(await student.save(session, "q1", choice="B"))
    refunded = await shop.hear(await shop.act(order, Act.REFUND))
    running = good(await student.save(session, "q3", number="3.5"))
    good(await student.submit(session), 200, 202)
    result = await student.outcome(session)

    assert refusal(before) == (403, "ENTITLEMENT_REQUIRED")
    assert set(refunded) == {200}
    assert running["saved"]  # a running session is never cut
    assert (result["status"], result["withheldFor"], "score" in result) == ("WITHHELD", "PURCHASE", False)
    assert refusal(await student.start(exam_id)) == (403, "ENTITLEMENT_REQUIRED")


async def test_a_result_that_was_shown_is_held_back_after_the_refund_and_shown_again_when_it_is_bought_again(
    shop: Shop, student: Student, small_exam: dict[str, Any], exam_id: str
) -> None:
    await shop.stack.import_exam(small_exam, exam_id)
    product = await shop.sell(exams=[exam_id])
    order = await shop.order(student, product)
    await shop.hear(await shop.act(order, Act.PAY))
    session = (await student.sit(exam_id))["sessionId"]
    good(await student.submit(session), 200, 202)
    shown = await student.outcome(session)

    await shop.hear(await shop.act(order, Act.REFUND))
    held_back = await student.outcome(session)
    await shop.hear(await shop.act(await shop.order(student, product), Act.PAY))
    again = await student.outcome(session)

    assert [one["status"] for one in (shown, held_back, again)] == ["SCORED", "WITHHELD", "SCORED"]
    assert again["score"] == shown["score"]

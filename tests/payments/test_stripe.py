"""What is particular to Stripe: its signatures, its oddities, and what we ask of it when answers are lost."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.payments import stripe_gateway
from servers.payments.provider import Forged, GatewayAway, GatewayRefused, Heard
from servers.payments.stripe_objects import DISPUTE_KINDS, REFUND_KINDS, SESSION_KINDS
from stores.ledger import Ledger
from stores.money import EventOutcome, FactKind, Order, OrderStatus
from tests.payments.books import PRODUCT, Till
from tests.payments.gateways import Act, Call
from tests.payments.stripe_simulator import DAY_SECONDS, OLD_SECRET, SimulatedStripe, signed, simulated_stripe
from tests.stack import fresh


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[SimulatedStripe]:
    async with simulated_stripe() as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module")
async def shared() -> AsyncIterator[SimulatedStripe]:
    async with simulated_stripe() as gateway:
        yield gateway


@pytest.fixture
def till(ledger: Ledger) -> Till:
    return Till(ledger, "stripe", "USD", PRODUCT.amount)


async def hear(gateway: SimulatedStripe, call: Call, till: Till) -> None:
    await gateway.provider.hear(gateway.sign(call, gateway.now_ms()), till)


async def opened(gateway: SimulatedStripe, till: Till) -> Order:
    """Return an order that Stripe has taken."""
    order = await till.order(seconds=3_600)
    found = await gateway.provider.open(order, PRODUCT)
    noted = await till.ledger.opened(order.id, found.ref, found.url, found.secret)
    assert noted is not None
    return noted


async def paid(gateway: SimulatedStripe, till: Till) -> Order:
    """Return an order that is paid at Stripe and in the books."""
    order = await opened(gateway, till)
    for call in await gateway.act(Act.PAY, order) or ():
        await hear(gateway, call, till)
    return order


def event(kind: str, about: object, **other: object) -> bytes:
    return json.dumps(
        {"id": fresh("evt_"), "object": "event", "type": kind, "created": 1, "data": {"object": about}, **other}
    ).encode()


# Signatures


async def test_a_secret_that_is_being_replaced_still_signs(gateway: SimulatedStripe, till: Till) -> None:
    order = await opened(gateway, till)
    calls = await gateway.act(Act.PAY, order) or ()

    for call in calls:
        await gateway.provider.hear(signed(call.body, gateway.now_ms(), OLD_SECRET), till)

    assert await till.status(order) is OrderStatus.PAID


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t",
        "t=",
        "v1=",
        "t=1",
        "t=x,v1=x",
        "v1=00",
        "t=1,v1=é",
        "t=1,v0=00",
        ",,,",
        "=",
        "t=1,t=2,v1=00",
        f"t={'9' * 5_000},v1=0",
    ],
)
async def test_a_malformed_signature_is_forged(shared: SimulatedStripe, till: Till, header: str) -> None:
    with pytest.raises(Forged):
        await shared.provider.hear(Heard({"stripe-signature": header}, b"{}", shared.now_ms()), till)


@given(header=st.text(max_size=60), body=st.binary(max_size=60))
async def test_whatever_is_sent_without_a_signature_is_forged(
    shared: SimulatedStripe, ledger: Ledger, header: str, body: bytes
) -> None:
    till = Till(ledger, "stripe")
    with pytest.raises(Forged):
        await shared.provider.hear(Heard({"stripe-signature": header}, body, shared.now_ms()), till)


async def test_a_message_may_be_five_minutes_away_and_no_more(shared: SimulatedStripe, till: Till) -> None:
    now_ms = shared.now_ms()
    for away_ms in (-300_000, 300_000):
        await shared.provider.hear(signed(b"{}", now_ms, now_ms=now_ms + away_ms), till)
    for away_ms in (-300_001, 300_001):
        with pytest.raises(Forged):
            await shared.provider.hear(signed(b"{}", now_ms, now_ms=now_ms + away_ms), till)


@pytest.mark.parametrize(
    "other", [{"webhook_secrets": []}, {"webhook_secrets": ["whsec", " "]}, {"live": True}, {"api_key": "sk_live_x"}]
)
async def test_settings_that_would_let_anybody_sign_or_mix_modes_are_refused(
    shared: SimulatedStripe, till: Till, other: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="Stripe"):
        shared.stripe(**other)


# Odd messages


odd = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
kinds = st.sampled_from([*SESSION_KINDS, *REFUND_KINDS, *DISPUTE_KINDS, "odd", None, 7])
abouts = st.fixed_dictionaries(
    {},
    optional={
        "id": odd | st.just("cs_1"),
        "status": odd | st.sampled_from(["succeeded", "won", "expired", "complete"]),
        "payment_status": odd | st.just("paid"),
        "payment_intent": odd,
        "amount": odd | st.just(5),
        "amount_total": odd | st.just(5),
        "currency": odd,
        "metadata": odd | st.dictionaries(st.sampled_from(["order", "student"]), odd),
        "client_reference_id": odd,
        "created": odd,
        "livemode": odd,
    },
)
messages = odd | st.fixed_dictionaries(
    {}, optional={"id": odd, "type": kinds, "created": odd, "data": odd | st.fixed_dictionaries({"object": odd | abouts})}
)


@settings(max_examples=200, deadline=None)
@given(said=messages)
async def test_a_signed_message_that_is_odd_is_kept_and_tells_nothing_that_the_books_cannot_hold(
    shared: SimulatedStripe, ledger: Ledger, said: object
) -> None:
    till = Till(ledger, "stripe")

    await shared.provider.hear(signed(json.dumps(said).encode(), shared.now_ms()), till)

    (kept,) = till.events
    for text in (kept.id, kept.kind, *(fact.ref for fact in kept.facts)):
        assert text.isascii()
        assert text.isprintable()
        assert 0 < len(text) <= 255
    assert all(0 <= fact.amount < 2**31 and 0 <= fact.at_ms < 4_102_444_800_001 for fact in kept.facts)
    assert kept.facts == () or "type" in said  # type: ignore[operator]
    assert EventOutcome.APPLIED not in till.outcomes


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"9" * 5_000, b"null", b'"\\ud800"', b'{"id": "\\u0000"}', b"NaN"])
async def test_a_signed_message_that_is_no_json_is_kept_once(shared: SimulatedStripe, till: Till, body: bytes) -> None:

    for _ in range(2):
        await shared.provider.hear(signed(body, shared.now_ms()), till)

    (kept,) = till.events
    assert (kept.kind, list(kept.facts)) == ("odd", [])


@pytest.mark.parametrize("amount", [-1, 2**31, 5.0, True, "5", None])
async def test_an_amount_that_is_none_moves_nothing(shared: SimulatedStripe, till: Till, amount: object) -> None:
    paid = {"id": "cs_1", "payment_status": "paid", "payment_intent": "pi_1", "amount_total": amount}

    await hear(shared, Call(event("checkout.session.completed", paid)), till)

    assert list(till.events[0].facts) == []


# Money that is not plain


async def test_a_session_that_is_complete_and_not_paid_grants_nothing(gateway: SimulatedStripe, till: Till) -> None:
    order = await opened(gateway, till)
    gateway.account.complete(gateway.session(order), paid=False)

    for call in gateway.sent():
        await hear(gateway, call, till)
    for seen in await gateway.provider.look(order):
        await till.tell(seen)

    assert not (await till.facts(order))
    assert not await gateway.provider.close(order)


async def test_an_order_whose_money_never_came_is_closed(gateway: SimulatedStripe, till: Till) -> None:
    order = await opened(gateway, till)
    await gateway.act(Act.FAIL, order)

    assert await gateway.provider.close(order)


async def test_a_bank_that_only_asks_suspends_nothing_until_it_disputes(gateway: SimulatedStripe, till: Till) -> None:
    order = await paid(gateway, till)
    intent = next(iter(gateway.account.intents.values()))
    inquiry = gateway.account.dispute(intent, order.amount, "usd", "warning_needs_response")
    for call in gateway.sent():
        await hear(gateway, call, till)
    assert await till.status(order) is OrderStatus.PAID

    inquiry["status"] = "needs_response"
    gateway.account.emit("charge.dispute.updated", inquiry)
    for call in gateway.sent():
        await hear(gateway, call, till)

    assert await till.status(order) is OrderStatus.DISPUTED


async def test_an_inquiry_that_is_closed_leaves_nothing(gateway: SimulatedStripe, till: Till) -> None:
    order = await paid(gateway, till)
    intent = next(iter(gateway.account.intents.values()))
    gateway.account.end(gateway.account.dispute(intent, order.amount, "usd", "warning_needs_response"), "warning_closed")

    for call in gateway.sent():
        await hear(gateway, call, till)

    assert await till.status(order) is OrderStatus.PAID


@pytest.mark.parametrize(("amount", "currency"), [(PRODUCT.amount + 90, "usd"), (9_999_999, "jpy"), (100, "usd")])
async def test_a_bank_may_dispute_in_its_own_money(gateway: SimulatedStripe, till: Till, amount: int, currency: str) -> None:
    order = await paid(gateway, till)
    gateway.account.dispute(next(iter(gateway.account.intents.values())), amount, currency)

    for call in gateway.sent():
        await hear(gateway, call, till)

    assert not till.quarantined
    assert await till.status(order) is OrderStatus.DISPUTED
    assert {seen.id for seen in await gateway.provider.look(order)} == {
        f"look:{fact.kind}:{fact.ref}" for fact, _ in (await till.story(order)).facts
    }


async def test_a_refund_of_a_payment_that_is_not_ours_is_told_for_somebody_to_look_at(gateway: SimulatedStripe, till: Till) -> None:
    order = await paid(gateway, till)
    body = event("refund.created", {"id": "re_9", "status": "succeeded", "amount": 5, "payment_intent": "pi_elsewhere"})

    await hear(gateway, Call(body), till)

    assert till.quarantined == ["there is no such order"]
    assert await till.status(order) is OrderStatus.PAID


async def test_a_payment_intent_is_asked_after_once(gateway: SimulatedStripe, till: Till) -> None:
    order = await paid(gateway, till)
    gateway.account.asked.clear()

    for _ in range(3):
        for call in await gateway.act(Act.REFUND, order, 100) or ():
            await hear(gateway, call, till)

    assert len(gateway.account.asked) == 1
    assert (await till.story(order)).refunded == 300


async def test_a_refund_that_comes_while_stripe_is_away_is_to_be_sent_again(gateway: SimulatedStripe, till: Till) -> None:
    order = await paid(gateway, till)
    known = len(till.events)
    (call, *_) = [call for call in await gateway.act(Act.REFUND, order, 100) or () if call.tells]

    gateway.away = True
    with pytest.raises(GatewayAway):
        await hear(gateway, call, till)

    assert len(till.events) == known
    gateway.away = False
    await hear(gateway, call, till)
    assert (await till.story(order)).refunded == 100


# Lost answers


async def test_an_answer_that_is_lost_opens_no_second_session(gateway: SimulatedStripe, till: Till) -> None:
    order = await till.order(seconds=3_600)
    gateway.cuts = 1

    found = await gateway.provider.open(order, PRODUCT)

    assert found.ref == gateway.session(order)["id"]
    assert gateway.known(order) == 1


async def test_an_order_whose_session_we_never_heard_of_is_found(gateway: SimulatedStripe, till: Till) -> None:
    order = await opened(gateway, till)
    for _ in range(5):
        await opened(gateway, till)
    gateway.account.page = 2
    await gateway.act(Act.PAY, order)
    unnoted = replace(order, gateway_ref=None)

    facts = [fact for seen in await gateway.provider.look(unnoted) for fact in seen.facts]

    assert [fact.kind for fact in facts] == [FactKind.PAID]
    assert not await gateway.provider.close(unnoted)


async def test_an_order_that_stripe_never_got_is_closed_and_nothing(gateway: SimulatedStripe, till: Till) -> None:
    order = await till.order(seconds=3_600)

    assert await gateway.provider.close(order)
    assert await gateway.provider.look(order) == []


async def test_an_order_whose_product_was_renamed_meanwhile_is_the_same_session(gateway: SimulatedStripe, till: Till) -> None:
    order = await till.order(seconds=3_600)
    first = await gateway.provider.open(order, PRODUCT)

    again = await gateway.provider.open(order, replace(PRODUCT, title="Renamed", description=""))

    assert again == first
    assert gateway.known(order) == 1


async def test_a_refund_is_made_once_even_after_stripe_has_forgotten_its_key(gateway: SimulatedStripe, till: Till) -> None:
    order = await paid(gateway, till)
    await gateway.provider.refund(order, 500, "key")
    gateway.account.clock += DAY_SECONDS + 1

    await gateway.provider.refund(order, 500, "key")

    for call in gateway.sent():
        await hear(gateway, call, till)
    assert (await till.story(order)).refunded == 500


async def test_more_than_was_paid_is_not_given_back(gateway: SimulatedStripe, till: Till) -> None:
    order = await paid(gateway, till)

    with pytest.raises(GatewayRefused):
        await gateway.provider.refund(order, order.amount + 1, "key")
    with pytest.raises(GatewayRefused):
        await gateway.provider.refund(await opened(gateway, till), 1, "key")

    assert not gateway.account.refunds


async def test_all_pages_of_what_was_missed_are_read(gateway: SimulatedStripe, till: Till) -> None:
    gateway.account.page = 2
    orders = [await paid(gateway, till) for _ in range(5)]

    missed = await gateway.provider.missed(gateway.now_ms())

    assert [(fact.kind, seen.claimed.order) for seen in missed for fact in seen.facts] == [
        (FactKind.PAID, order.id) for order in orders
    ]
    gateway.account.clock += 1
    assert await gateway.provider.missed(gateway.now_ms()) == []


async def test_a_long_list_may_take_longer_than_an_answer(
    gateway: SimulatedStripe, till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await paid(gateway, till)
    gateway.account.page, gateway.slow = 1, 0.2
    for _ in range(4):
        await gateway.act(Act.REFUND, order, 100)
    monkeypatch.setattr(stripe_gateway, "ANSWER_SECONDS", 0.6)

    missed = await gateway.provider.missed(gateway.now_ms())

    assert [fact.kind for seen in missed for fact in seen.facts].count(FactKind.REFUNDED) == 8  # two events tell of each


async def test_a_stripe_that_takes_too_long_is_away(gateway: SimulatedStripe, till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    order = await opened(gateway, till)
    monkeypatch.setattr(stripe_gateway, "ANSWER_SECONDS", 0.1)

    with gateway.account.lock, pytest.raises(GatewayAway):
        await gateway.provider.look(order)


async def test_a_wrong_key_says_nothing_of_itself(gateway: SimulatedStripe, till: Till) -> None:
    stranger = gateway.stripe(api_key="sk_test_wrong")

    with pytest.raises(GatewayAway) as away:
        await stranger.look(await opened(gateway, till))

    await stranger.stop()
    assert "sk_test" not in str(away.value)
    assert away.value.__suppress_context__


async def test_what_the_student_pays_is_the_orders_own_price(gateway: SimulatedStripe, till: Till) -> None:
    order = await till.order(seconds=3_600, amount=1_999)

    await gateway.provider.open(order, replace(PRODUCT, amount=9_999, currency="EUR"))

    session = gateway.session(order)
    assert (session["amount_total"], session["currency"]) == (1_999, "usd")
    assert (
        session["metadata"] == gateway.account.intent_metadata[session["id"]] == {"order": str(order.id), "student": order.student}
    )
    assert session["expires_at"] == order.expires_ms // 1000

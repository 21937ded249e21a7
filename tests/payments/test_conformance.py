"""What every payment provider must do, whatever its gateway is like. To add one, write its adapter and name it in GATEWAYS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.payments.provider import OLDEST_SECONDS, Forged, GatewayAway
from stores.ledger import EventOutcome
from stores.money import Order, OrderStatus
from tests.payments.books import PRODUCT, Shelf, new_order, opened, stated
from tests.payments.gateways import Act, Call, Gateway, Truth
from tests.payments.sandbox_process import real_sandbox
from tests.payments.stripe_simulator import simulated_stripe

GATEWAYS: dict[str, Callable[[], AbstractAsyncContextManager[Gateway]]] = {"stripe": simulated_stripe, "sandbox": real_sandbox}

STORIES = [
    [Act.PAY],
    [Act.DECLINE, Act.PAY],
    [Act.DECLINE, Act.EXPIRE],
    [Act.PAY_LATER],
    [Act.FAIL],
    [Act.EXPIRE],
    [Act.PAY, Act.REFUND],
    [Act.PAY, Act.DISPUTE],
    [Act.PAY, Act.DISPUTE, Act.WIN],
    [Act.PAY, Act.DISPUTE, Act.LOSE],
    [Act.PAY, Act.DISPUTE, Act.WIN, Act.DISPUTE, Act.LOSE],
]
LATE_MS = OLDEST_SECONDS * 1000 + 1_000


@pytest_asyncio.fixture(scope="module", params=GATEWAYS)
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[Gateway]:
    async with GATEWAYS[request.param]() as gateway:
        yield gateway


def needs(gateway: Gateway, *acts: Act) -> None:
    if not gateway.can.issuperset(acts):
        pytest.skip(f"{gateway.provider.name} has no {' or '.join(sorted(set(acts) - gateway.can))}")


def happened(gateway: Gateway, order: Order, acts: Sequence[Act]) -> Sequence[Call]:
    """Let a story happen, all of it, and return the calls that the gateway makes of it."""
    needs(gateway, *acts)
    calls: list[Call] = []
    for act in acts:
        made = gateway.act(act, order, order.amount)
        assert made is not None, f"{act} cannot happen"
        calls += made
    return calls


async def hear(gateway: Gateway, call: Call, shelf: Shelf) -> None:
    await gateway.provider.hear(gateway.sign(call, gateway.now_ms()), shelf)


async def look(gateway: Gateway, order: Order, shelf: Shelf) -> None:
    for event in await gateway.provider.look(order):
        await shelf.tell(event)


# Orders


async def test_an_order_that_is_opened_twice_is_one_at_the_gateway(gateway: Gateway) -> None:
    order = new_order(gateway)

    first = await gateway.provider.open(order, PRODUCT)
    again = await gateway.provider.open(order, PRODUCT)

    assert again == first
    assert gateway.known(order) == 1


async def test_an_order_that_is_opened_at_once_from_two_places_is_one_at_the_gateway(gateway: Gateway) -> None:
    order = new_order(gateway)

    first, second = await asyncio.gather(*(gateway.provider.open(order, PRODUCT) for _ in range(2)))

    assert first == second
    assert gateway.known(order) == 1


async def test_nothing_has_become_of_an_order_that_was_only_opened(gateway: Gateway) -> None:
    order = await opened(gateway)

    assert [event for event in await gateway.provider.look(order) if event.facts] == []


async def test_an_order_that_is_closed_takes_no_money(gateway: Gateway) -> None:
    order = await opened(gateway)

    assert await gateway.provider.close(order)
    assert await gateway.provider.close(order)

    assert gateway.act(Act.PAY, order, order.amount) is None
    shelf = Shelf(order)
    await look(gateway, order, shelf)
    assert shelf.state.status in (OrderStatus.OPEN, OrderStatus.EXPIRED)


async def test_an_order_that_is_paid_cannot_be_closed(gateway: Gateway) -> None:
    order = await opened(gateway)
    happened(gateway, order, [Act.PAY])

    assert not await gateway.provider.close(order)


# Calls


@pytest.mark.parametrize("story", STORIES, ids="-".join)
async def test_each_signed_call_tells_its_facts_and_no_others(gateway: Gateway, story: Sequence[Act]) -> None:
    order = await opened(gateway)

    for call in happened(gateway, order, story):
        shelf = Shelf(order)
        await hear(gateway, call, shelf)

        assert stated(shelf.facts) == sorted(call.tells)
        assert not shelf.quarantined


@pytest.mark.parametrize("story", STORIES, ids="-".join)
async def test_all_calls_together_tell_what_the_gateway_knows(gateway: Gateway, story: Sequence[Act]) -> None:
    order = await opened(gateway)
    shelf = Shelf(order)

    for call in happened(gateway, order, story):
        await hear(gateway, call, shelf)

    assert shelf.truth == gateway.truth(order)


async def test_a_call_that_comes_again_is_the_same_event(gateway: Gateway) -> None:
    order = await opened(gateway)
    shelf = Shelf(order)
    calls = happened(gateway, order, [Act.PAY])

    for call in [*calls, *calls, *calls]:
        await hear(gateway, call, shelf)

    events = [event.id for event in shelf.events]
    assert len(events) == len(set(events)) == len(calls)


async def test_a_message_says_whose_order_it_is(gateway: Gateway) -> None:
    order, other = await opened(gateway), await opened(gateway)
    shelf = Shelf(replace(other, id=order.id))  # the same order by our name, another one by the gateway's

    for call in happened(gateway, order, [Act.PAY]):
        await hear(gateway, call, Shelf(other))
        await hear(gateway, call, shelf)

    assert shelf.facts == []
    assert shelf.quarantined


@pytest.mark.parametrize(
    "differs",
    [{"amount": PRODUCT.amount + 1}, {"currency": "XTS"}, {"student": "eve"}, {"live": True}],
    ids=lambda differs: "".join(differs),
)
async def test_a_payment_that_does_not_match_its_order_counts_for_nothing(gateway: Gateway, differs: dict[str, object]) -> None:
    order = await opened(gateway)
    shelf = Shelf(replace(order, **differs))  # type: ignore[arg-type]

    for call in happened(gateway, order, [Act.PAY]):
        await hear(gateway, call, shelf)

    assert shelf.facts == []
    assert shelf.quarantined


# Forgeries


async def forged(gateway: Gateway, order: Order) -> tuple[Call, Shelf]:
    calls = happened(gateway, order, [Act.PAY])
    return next(call for call in calls if call.tells), Shelf(order)


async def test_a_call_that_nobody_signed_tells_nothing(gateway: Gateway) -> None:
    call, shelf = await forged(gateway, await opened(gateway))

    with pytest.raises(Forged):
        await gateway.provider.hear(gateway.unsigned(call), shelf)

    assert not shelf.events


async def test_a_call_that_is_signed_with_another_secret_tells_nothing(gateway: Gateway) -> None:
    call, shelf = await forged(gateway, await opened(gateway))

    with pytest.raises(Forged):
        await gateway.provider.hear(gateway.sign(call, gateway.now_ms(), stranger=True), shelf)

    assert not shelf.events


@pytest.mark.parametrize("ahead_ms", [LATE_MS, -LATE_MS], ids=["too old", "too new"])
async def test_a_call_of_another_time_tells_nothing(gateway: Gateway, ahead_ms: int) -> None:
    if not gateway.signs_time:
        pytest.skip(f"{gateway.provider.name} signs no time")
    call, shelf = await forged(gateway, await opened(gateway))
    heard = gateway.sign(call, gateway.now_ms())

    with pytest.raises(Forged):
        await gateway.provider.hear(replace(heard, now_ms=heard.now_ms + ahead_ms), shelf)

    assert not shelf.events
    await gateway.provider.hear(replace(heard, now_ms=heard.now_ms + ahead_ms * 9 // 10), shelf)
    assert shelf.events


@settings(max_examples=100, deadline=None)
@given(data=st.data())
async def test_a_call_that_was_changed_on_its_way_tells_nothing(gateway: Gateway, data: st.DataObject) -> None:
    if not gateway.signs_bytes:
        pytest.skip(f"{gateway.provider.name} does not sign bodies")
    call, shelf = await forged(gateway, await opened(gateway))
    heard = gateway.sign(call, gateway.now_ms())
    place = data.draw(st.integers(0, len(call.body) - 1))
    flipped = bytes([call.body[place] ^ 1 << data.draw(st.integers(0, 7))])
    changed = data.draw(
        st.sampled_from([call.body[:place], call.body[:place] + flipped + call.body[place + 1 :], call.body + b" ", b"\xff", b""])
    )

    with pytest.raises(Forged):
        await gateway.provider.hear(replace(heard, body=changed), shelf)

    assert not shelf.events


# Looking


@pytest.mark.parametrize("story", STORIES, ids="-".join)
async def test_looking_tells_the_same_facts_as_the_calls(gateway: Gateway, story: Sequence[Act]) -> None:
    order = await opened(gateway)
    calls = happened(gateway, order, story)

    events = await gateway.provider.look(order)

    assert stated([fact for event in events for fact in event.facts]) == sorted({told for call in calls for told in call.tells})


async def test_looking_again_tells_the_same_events_and_what_is_new(gateway: Gateway) -> None:
    order = await opened(gateway)
    shelf = Shelf(order)
    happened(gateway, order, [Act.PAY])
    await look(gateway, order, shelf)
    happened(gateway, order, [Act.REFUND])

    told = [await shelf.tell(event) for event in await gateway.provider.look(order)]

    assert sorted((one.outcome, one.again) for one in told) == [(EventOutcome.APPLIED, False), (EventOutcome.APPLIED, True)]
    assert shelf.truth == gateway.truth(order)


async def test_what_was_missed_is_told_as_the_same_events(gateway: Gateway) -> None:
    order = await opened(gateway)
    calls, since_ms = happened(gateway, order, [Act.PAY, Act.REFUND]), order.created_ms
    shelf = Shelf(order)
    for call in calls:
        await hear(gateway, call, shelf)

    missed = await gateway.provider.missed(since_ms)

    if not missed:
        pytest.skip(f"{gateway.provider.name} keeps no list of events")
    known = {event.id: event for event in shelf.events if event.facts}
    again = {event.id: event for event in missed if event.id in known}
    assert again.keys() == known.keys()
    assert all(
        (event.kind, event.claimed, event.facts) == (e.kind, e.claimed, e.facts) for i, event in again.items() if (e := known[i])
    )


@pytest.mark.parametrize("what", ["open", "close", "look", "missed", "refund"])
async def test_a_gateway_that_does_not_answer_is_away_and_nothing_is_known(gateway: Gateway, what: str) -> None:
    if not gateway.calls_out:
        pytest.skip(f"we call no API of {gateway.provider.name}")
    provider, order = gateway.provider, await opened(gateway)
    happened(gateway, order, [Act.PAY])
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "open": lambda: provider.open(new_order(gateway), PRODUCT),
        "close": lambda: provider.close(order),
        "look": lambda: provider.look(order),
        "missed": lambda: provider.missed(order.created_ms),
        "refund": lambda: provider.refund(order, 1, "key"),
    }

    gateway.away = True
    try:
        with pytest.raises(GatewayAway):
            await asked[what]()
    finally:
        gateway.away = False


# Refunds that we ask for


async def test_a_refund_is_made_once_for_each_key(gateway: Gateway) -> None:
    needs(gateway, Act.PAY, Act.REFUND)
    order = await opened(gateway)
    shelf = Shelf(order)
    for call in happened(gateway, order, [Act.PAY]):
        await hear(gateway, call, shelf)

    for key in ("first", "first", "second", "first"):
        await gateway.provider.refund(order, 700, key)

    for call in gateway.sent():
        await hear(gateway, call, shelf)
    assert shelf.truth == gateway.truth(order) == Truth(OrderStatus.PAID, 1_400)


# Histories


acts = st.lists(st.tuples(st.sampled_from(Act), st.integers(1, PRODUCT.amount)), max_size=8)


async def lived(gateway: Gateway, wanted: Sequence[tuple[Act, int]]) -> tuple[Order, Sequence[Call]]:
    """Let happen what can, and return the calls that the gateway makes of it."""
    order = await opened(gateway)
    calls: list[Call] = []
    for act, amount in wanted:
        calls += (gateway.act(act, order, amount) or ()) if act in gateway.can else ()
    return order, calls


@settings(max_examples=60, deadline=None)
@given(wanted=acts, data=st.data())
async def test_calls_in_any_order_and_number_come_to_the_truth(
    gateway: Gateway, wanted: Sequence[tuple[Act, int]], data: st.DataObject
) -> None:
    order, calls = await lived(gateway, wanted)
    shelf = Shelf(order)
    doubled = [*calls, *(data.draw(st.lists(st.sampled_from(calls), max_size=5)) if calls else ())]

    for call in data.draw(st.permutations(doubled)) if gateway.any_order else calls:
        await hear(gateway, call, shelf)

    assert shelf.truth == gateway.truth(order)
    assert not shelf.quarantined


@settings(max_examples=60, deadline=None)
@given(wanted=acts, data=st.data())
async def test_whatever_calls_are_lost_looking_comes_to_the_truth(
    gateway: Gateway, wanted: Sequence[tuple[Act, int]], data: st.DataObject
) -> None:
    order, calls = await lived(gateway, wanted)
    shelf = Shelf(order)
    came = data.draw(st.lists(st.sampled_from(calls), max_size=8)) if calls and gateway.any_order else []

    for call in came:
        await hear(gateway, call, shelf)
    await look(gateway, order, shelf)

    assert shelf.truth == gateway.truth(order)
    assert not shelf.quarantined

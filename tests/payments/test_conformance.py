"""What every payment provider must do, whatever its gateway is like. To add one, write its adapter and name it in simulated.py.

The books are the ledger in PostgreSQL. Where an order is to differ from what the gateway was told, it is the ledger's that differs.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.payments.provider import OLDEST_SECONDS, Forged, GatewayAway, Heard, RefundedByHand, Said
from stores.ledger import Ledger
from stores.money import EventOutcome, Fact, Order, OrderStatus
from tests.payments.books import DAY_MS, PRODUCT, Till, stated
from tests.payments.gateways import Act, Call, Gateway, Truth
from tests.payments.simulated import GATEWAYS
from tests.stack import fresh

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
async def gateway(request: pytest.FixtureRequest, pool: asyncpg.Pool) -> AsyncIterator[Gateway]:
    async with GATEWAYS[request.param](pool) as gateway:
        yield gateway


@pytest.fixture
def till(gateway: Gateway, ledger: Ledger) -> Till:
    return new_till(gateway, ledger)


def new_till(gateway: Gateway, ledger: Ledger) -> Till:
    """Return books for a gateway, which asks what it asks with them from now on."""
    till = Till(ledger, gateway.provider.name, gateway.currency, PRODUCT.amount)

    async def straight(call: Call) -> Said:
        return await hear(gateway, call, till)

    gateway.line = straight
    return till


def needs(gateway: Gateway, *acts: Act) -> None:
    if not gateway.can.issuperset(acts):
        pytest.skip(f"{gateway.provider.name} has no {' or '.join(sorted(set(acts) - gateway.can))}")


async def opened(gateway: Gateway, till: Till, **differs: Any) -> Order:
    """Return an order that the gateway has taken; what differs is not what the gateway was told."""
    kept = await till.order(seconds=3_600, **differs)
    told = replace(kept, amount=PRODUCT.amount, currency=gateway.currency, student="ada" if "student" in differs else kept.student)
    found = await gateway.provider.open(told, PRODUCT)
    await till.ledger.opened(kept.id, found.ref, found.url, found.secret)
    return replace(told, gateway_ref=found.ref, url=found.url, secret=found.secret)


async def happened(gateway: Gateway, order: Order, acts: Sequence[Act]) -> Sequence[Call]:
    """Let a story happen, all of it, and return the calls that the gateway makes of it."""
    needs(gateway, *acts)
    calls: list[Call] = []
    for act in acts:
        made = await gateway.act(act, order, order.amount)
        assert made is not None, f"{act} cannot happen"
        calls += made
    return calls


async def hear(gateway: Gateway, call: Call, till: Till) -> Said:
    return await gateway.provider.hear(gateway.sign(call, gateway.now_ms()), till)


async def look(gateway: Gateway, order: Order, till: Till) -> None:
    for event in await gateway.provider.look(order):
        await till.tell(event)


# Orders


async def test_an_order_that_is_opened_twice_is_one_at_the_gateway(gateway: Gateway, till: Till) -> None:
    order = await till.order(seconds=3_600)

    first = await gateway.provider.open(order, PRODUCT)
    again = await gateway.provider.open(order, PRODUCT)

    assert again == first
    assert gateway.known(order) == 1


async def test_an_order_that_is_opened_at_once_from_two_places_is_one_at_the_gateway(gateway: Gateway, till: Till) -> None:
    order = await till.order(seconds=3_600)

    first, second = await asyncio.gather(*(gateway.provider.open(order, PRODUCT) for _ in range(2)))

    assert first == second
    assert gateway.known(order) == 1


async def test_nothing_has_become_of_an_order_that_was_only_opened(gateway: Gateway, till: Till) -> None:
    order = await opened(gateway, till)

    assert [event for event in await gateway.provider.look(order) if event.facts] == []


async def test_an_order_that_is_closed_takes_no_money(gateway: Gateway, till: Till) -> None:
    order = await opened(gateway, till)

    assert await gateway.provider.close(order)
    assert await gateway.provider.close(order)

    assert await gateway.act(Act.PAY, order, order.amount) is None
    await look(gateway, order, till)
    assert await till.status(order) in (OrderStatus.OPEN, OrderStatus.EXPIRED)
    assert gateway.truth(order).status in (OrderStatus.OPEN, OrderStatus.EXPIRED)


async def test_an_order_that_is_paid_cannot_be_closed(gateway: Gateway, till: Till) -> None:
    order = await opened(gateway, till)
    await happened(gateway, order, [Act.PAY])

    assert not await gateway.provider.close(order)


# Calls


@pytest.mark.parametrize("story", STORIES, ids="-".join)
async def test_each_signed_call_tells_its_facts_and_no_others(gateway: Gateway, till: Till, story: Sequence[Act]) -> None:
    heard: list[tuple[Call, Sequence[Fact]]] = []

    async def noted(call: Call) -> Said:
        known = len(till.events)
        said = await hear(gateway, call, till)
        heard.append((call, [fact for event in till.events[known:] for fact in event.facts]))
        return said

    order = await opened(gateway, till)
    gateway.line = noted

    calls = await happened(gateway, order, story)
    if not gateway.asks:
        for call in calls:
            await noted(call)

    assert [call for call, _ in heard] == list(calls)
    assert [stated(facts) for _, facts in heard] == [sorted(call.tells) for call in calls]
    assert not till.quarantined


@pytest.mark.parametrize("story", STORIES, ids="-".join)
async def test_all_calls_together_tell_what_the_gateway_knows(gateway: Gateway, till: Till, story: Sequence[Act]) -> None:
    order = await opened(gateway, till)

    for call in await happened(gateway, order, story):
        await hear(gateway, call, till)

    assert await till.truth(order) == gateway.truth(order)


async def test_a_call_that_comes_again_is_the_same_event(gateway: Gateway, till: Till) -> None:
    order = await opened(gateway, till)
    calls = await happened(gateway, order, [Act.PAY])

    for call in [*calls, *calls, *calls]:
        await hear(gateway, call, till)

    story = await till.story(order)
    assert len(story.events) == 1
    assert [(entry.product, entry.granted) for entry in story.entries] == [(order.product, True)]


async def test_a_message_changes_no_other_order(gateway: Gateway, till: Till) -> None:
    order, other = await opened(gateway, till), await opened(gateway, till)

    for call in await happened(gateway, order, [Act.PAY]):
        await hear(gateway, call, till)

    assert await till.truth(other) == Truth(OrderStatus.OPEN, 0)


async def test_an_order_that_the_gateway_knows_by_another_name_is_not_paid(
    gateway: Gateway, till: Till, pool: asyncpg.Pool
) -> None:
    order = await opened(gateway, till)
    if order.gateway_ref == str(order.id):
        pytest.skip(f"{gateway.provider.name} has no names of its own")
    await pool.execute("UPDATE payment SET gateway_ref = 'another-' || id WHERE id = $1", order.id)

    for call in await happened(gateway, order, [Act.PAY]):
        await hear(gateway, call, till)

    assert await till.facts(order) == {}
    assert till.quarantined


@pytest.mark.parametrize(
    "differs",
    [{"amount": PRODUCT.amount + 1}, {"currency": "XTS"}, {"student": "eve"}, {"live": True}],
    ids=lambda differs: "".join(differs),
)
async def test_a_payment_that_does_not_match_its_order_counts_for_nothing(
    gateway: Gateway, till: Till, differs: dict[str, object]
) -> None:
    if "student" in differs and not gateway.names_students:
        pytest.skip(f"{gateway.provider.name} names no students")
    if "student" in differs:
        differs = {"student": fresh("eve")}
    order = await opened(gateway, till, **differs)

    for call in await gateway.act(Act.PAY, order, order.amount) or ():
        await hear(gateway, call, till)

    assert await till.facts(order) == {}
    assert till.quarantined or (gateway.asks and gateway.truth(order).status is OrderStatus.OPEN)


# Forgeries


async def held(gateway: Gateway, order: Order, till: Till) -> Call:
    """Return the call that tells of a payment, which has not reached us."""

    async def cut(call: Call) -> Said | None:
        return None if call.tells else await hear(gateway, call, till)

    gateway.line = cut
    return next(call for call in await happened(gateway, order, [Act.PAY]) if call.tells)


async def refused(gateway: Gateway, heard: Heard, till: Till) -> bool:
    """Say whether a call is refused, in the way of its gateway, and tells nothing."""
    try:
        said = await gateway.provider.hear(heard, till)
    except Forged:
        return not till.events
    return gateway.asks and gateway.refused(said) and not till.events


async def test_a_call_that_nobody_signed_tells_nothing(gateway: Gateway, till: Till) -> None:
    call = await held(gateway, await opened(gateway, till), till)

    assert await refused(gateway, gateway.unsigned(call), till)


async def test_a_call_that_is_signed_with_another_secret_tells_nothing(gateway: Gateway, till: Till) -> None:
    call = await held(gateway, await opened(gateway, till), till)

    assert await refused(gateway, gateway.sign(call, gateway.now_ms(), stranger=True), till)


@pytest.mark.parametrize("ahead_ms", [LATE_MS, -LATE_MS], ids=["too old", "too new"])
async def test_a_call_of_another_time_tells_nothing(gateway: Gateway, till: Till, ahead_ms: int) -> None:
    if not gateway.signs_time:
        pytest.skip(f"{gateway.provider.name} signs no time")
    call = await held(gateway, await opened(gateway, till), till)
    heard = gateway.sign(call, gateway.now_ms())

    assert await refused(gateway, replace(heard, now_ms=heard.now_ms + ahead_ms), till)

    await gateway.provider.hear(replace(heard, now_ms=heard.now_ms + ahead_ms * 9 // 10), till)
    assert till.events


@settings(max_examples=100, deadline=None)
@given(data=st.data())
async def test_a_call_that_was_changed_on_its_way_tells_nothing(gateway: Gateway, ledger: Ledger, data: st.DataObject) -> None:
    if not gateway.signs_bytes:
        pytest.skip(f"{gateway.provider.name} does not sign bodies")
    till = new_till(gateway, ledger)
    call = await held(gateway, await opened(gateway, till), till)
    heard = gateway.sign(call, gateway.now_ms())
    place = data.draw(st.integers(0, len(call.body) - 1))
    flipped = bytes([call.body[place] ^ 1 << data.draw(st.integers(0, 7))])
    changed = data.draw(
        st.sampled_from([call.body[:place], call.body[:place] + flipped + call.body[place + 1 :], call.body + b" ", b"\xff", b""])
    )

    assert await refused(gateway, replace(heard, body=changed), till)


# Looking


@pytest.mark.parametrize("story", STORIES, ids="-".join)
async def test_looking_tells_the_same_facts_as_the_calls(gateway: Gateway, till: Till, story: Sequence[Act]) -> None:
    order = await opened(gateway, till)
    calls = await happened(gateway, order, story)

    events = await gateway.provider.look(order)

    assert stated([fact for event in events for fact in event.facts]) == sorted({told for call in calls for told in call.tells})


async def test_looking_again_tells_the_same_events_and_what_is_new(gateway: Gateway, till: Till) -> None:
    order = await opened(gateway, till)
    await happened(gateway, order, [Act.PAY])
    await look(gateway, order, till)
    await happened(gateway, order, [Act.REFUND])

    told = [await till.tell(event) for event in await gateway.provider.look(order)]

    new = [True] if gateway.asks else [False]  # which had us told of the refund already
    assert sorted((one.outcome, one.again) for one in told) == [(EventOutcome.APPLIED, one) for one in (*new, True)]
    assert await till.truth(order) == gateway.truth(order)


async def test_what_was_missed_is_told_as_the_same_events(gateway: Gateway, till: Till) -> None:
    order = await opened(gateway, till)
    story = [Act.PAY, Act.REFUND] if Act.REFUND in gateway.can else [Act.PAY]
    for call in await happened(gateway, order, story):
        await hear(gateway, call, till)

    missed = await gateway.provider.missed(gateway.now_ms() - DAY_MS)

    if not missed:
        pytest.skip(f"{gateway.provider.name} keeps no list of events")
    known = {event.id: event for event in till.events if event.facts}
    again = {event.id: event for event in missed if event.id in known}
    assert again.keys() == known.keys()
    assert all(
        (event.kind, event.claimed, event.facts) == (e.kind, e.claimed, e.facts) for i, event in again.items() if (e := known[i])
    )


@pytest.mark.parametrize("what", ["open", "close", "look", "missed", "refund"])
async def test_a_gateway_that_does_not_answer_is_away_and_nothing_is_known(gateway: Gateway, till: Till, what: str) -> None:
    if what not in gateway.calls_out:
        pytest.skip(f"{gateway.provider.name} is not asked")
    provider, order = gateway.provider, await opened(gateway, till)
    await happened(gateway, order, [Act.PAY])
    new = await till.order(seconds=3_600)
    asked: dict[str, Callable[[], Awaitable[object]]] = {
        "open": lambda: provider.open(new, PRODUCT),
        "close": lambda: provider.close(order),
        "look": lambda: provider.look(order),
        "missed": lambda: provider.missed(order.created_ms),
        "refund": lambda: provider.refund(order, order.amount, "key"),
    }

    gateway.away = True
    try:
        with pytest.raises(GatewayAway):
            await asked[what]()
    finally:
        gateway.away = False


# Refunds that we ask for


async def test_a_refund_is_made_once_for_each_key_or_by_hand(gateway: Gateway, till: Till) -> None:
    needs(gateway, Act.PAY)
    order = await opened(gateway, till)
    for call in await happened(gateway, order, [Act.PAY]):
        await hear(gateway, call, till)

    by_hand = False
    for key in ("first", "first", "second", "first"):
        try:
            await gateway.provider.refund(order, 700, key)
        except RefundedByHand:
            by_hand = True

    for call in gateway.sent():
        await hear(gateway, call, till)
    await look(gateway, order, till)
    assert await till.truth(order) == gateway.truth(order) == Truth(OrderStatus.PAID, 0 if by_hand else 1_400)


# Histories


acts = st.lists(st.tuples(st.sampled_from(Act), st.integers(1, PRODUCT.amount)), max_size=8)


async def lived(gateway: Gateway, till: Till, wanted: Sequence[tuple[Act, int]]) -> tuple[Order, Sequence[Call]]:
    """Let happen what can, and return the calls that the gateway makes of it."""
    order = await opened(gateway, till)
    calls: list[Call] = []
    for act, amount in wanted:
        amount = order.amount if gateway.asks else amount  # what asks takes and gives back all or nothing
        calls += (await gateway.act(act, order, amount) or ()) if act in gateway.can else ()
    return order, calls


@settings(max_examples=40, deadline=None)
@given(wanted=acts, data=st.data())
async def test_calls_in_any_order_and_number_come_to_the_truth(
    gateway: Gateway, ledger: Ledger, wanted: Sequence[tuple[Act, int]], data: st.DataObject
) -> None:
    till = new_till(gateway, ledger)
    order, calls = await lived(gateway, till, wanted)
    doubled = [*calls, *(data.draw(st.lists(st.sampled_from(calls), max_size=5)) if calls else ())]

    for call in data.draw(st.permutations(doubled)):
        await hear(gateway, call, till)

    assert await till.truth(order) == gateway.truth(order)
    assert not till.quarantined


@settings(max_examples=40, deadline=None)
@given(wanted=acts, data=st.data())
async def test_whatever_calls_and_answers_are_lost_looking_comes_to_the_truth(
    gateway: Gateway, ledger: Ledger, wanted: Sequence[tuple[Act, int]], data: st.DataObject
) -> None:
    till = new_till(gateway, ledger)
    straight = gateway.line

    async def rough(call: Call) -> Said | None:
        reaches, comes_back = data.draw(st.booleans()), data.draw(st.booleans())
        said = await straight(call) if reaches else None
        return said if comes_back else None

    gateway.line = rough
    order, calls = await lived(gateway, till, wanted)
    if not gateway.asks:
        for call in data.draw(st.lists(st.sampled_from(calls), max_size=8)) if calls else ():
            await hear(gateway, call, till)
    gateway.line = straight
    await gateway.catch_up()
    await look(gateway, order, till)

    assert (await till.truth(order)).agrees(gateway.truth(order))
    assert not till.quarantined

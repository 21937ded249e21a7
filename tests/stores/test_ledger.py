"""The ledger: one effect per event, whatever their order and number; entitlements are the fold of all that was told."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import permutations
from uuid import UUID, uuid4

import pytest

from servers.payments import rules
from stores.connect import Stores
from stores.ledger import CouponRefused, Ledger, NotOrdered, Superseded, Wanted
from stores.money import Claimed, Coupon, Event, EventOutcome, Fact, FactKind, Grant, Order, OrderStatus, Product
from tests.stack import fresh

NOW = time.time_ns() // 1_000_000


@pytest.fixture
def ledger(stores: Stores) -> Ledger:
    return Ledger(stores.postgres, rules.fold, rules.mismatch, rules.whole, rules.owned_until)


@pytest.fixture
async def sold(ledger: Ledger) -> AsyncIterator[Product]:
    """A bundle of two."""
    first, second, bundle = (Product(fresh("p"), "One", "", 5_000, "USD", None, True, (), ()) for _ in range(3))
    bundle = replace(bundle, parts=(first.id, second.id), validity_days=30)
    await ledger.keep([first, second, bundle], [], "operator")
    return bundle


def wanted(student: str, product: str, *, key: UUID | None = None, coupon: str = "", provider: str = "stripe") -> Wanted:
    return Wanted(student, product, provider, False, coupon, key, 3_600.0)


def price(product: Product, coupon: Coupon | None, used: int, own: int) -> int | str:
    return (rules.useless(coupon, product, used, own, NOW) if coupon else "") or rules.price(product, coupon)


async def ordered(ledger: Ledger, want: Wanted) -> Order:
    found = await ledger.order(want, price)
    assert isinstance(found, Order)
    return found


def event(order: Order, /, *facts: Fact, **claims: object) -> Event:
    claimed = Claimed(order.id, None, None, order.currency, order.student, order.live)
    return Event(uuid4().hex, "test", b"{}", replace(claimed, **claims), facts)  # type: ignore[arg-type]


def fact(kind: FactKind, ref: str = "pi_1", amount: int = 5_000, at_ms: int = NOW) -> Fact:
    return Fact(kind, ref, amount, at_ms)


async def active(ledger: Ledger, student: str) -> set[str]:
    return {one.product for one in await ledger.owned(student) if one.revoked_ms is None}


async def test_two_orders_at_once_are_one_and_the_same_key_gets_it_again(ledger: Ledger, sold: Product) -> None:
    student, key = fresh("s"), uuid4()
    orders = await asyncio.gather(*(ledger.order(wanted(student, sold.id, key=key), price) for _ in range(5)))
    again = await ordered(ledger, wanted(student, sold.id))

    assert {order.id for order in orders if isinstance(order, Order)} == {again.id}
    assert (again.amount, again.currency, again.status) == (5_000, "USD", OrderStatus.OPEN)
    assert await ledger.order(wanted(student, sold.parts[0], key=key), price) is NotOrdered.KEY_REUSED


async def test_an_order_in_another_way_asks_for_the_first_to_be_closed(ledger: Ledger, sold: Product) -> None:
    student = fresh("s")
    first = await ordered(ledger, wanted(student, sold.id))
    found = await ledger.order(wanted(student, sold.id, provider="payme"), price)
    assert isinstance(found, Superseded)
    assert found.order == first

    await ledger.tell("stripe", rules.ended(first, FactKind.EXPIRED, NOW))
    second = await ordered(ledger, wanted(student, sold.id, provider="payme"))

    assert (second.id != first.id, second.provider) == (True, "payme")


async def test_a_payment_grants_the_bundle_and_its_parts_once(ledger: Ledger, stores: Stores, sold: Product) -> None:
    student = fresh("s")
    order = await ordered(ledger, wanted(student, sold.id))
    paid = event(order, fact(FactKind.PAID))

    told = await asyncio.gather(*(ledger.tell("stripe", paid) for _ in range(50)))

    assert {one.outcome for one in told} == {EventOutcome.APPLIED}
    assert sorted(one.again for one in told) == [False, *[True] * 49]
    assert await active(ledger, student) == {sold.id, *sold.parts}
    assert await stores.postgres.fetchval("SELECT count(*) FROM entitlement_entry WHERE student_id = $1", student) == 3
    assert {one.ends_ms for one in await ledger.owned(student)} == {NOW + 30 * 86_400_000}
    assert await ledger.order(wanted(student, sold.id), price) is NotOrdered.OWNED


STORY = (
    fact(FactKind.PAID),
    fact(FactKind.DISPUTE_OPENED, "dp_1"),
    fact(FactKind.DISPUTE_WON, "dp_1"),
    fact(FactKind.REFUNDED, "re_1", 2_000),
)


@pytest.mark.parametrize("order_of", list(permutations(range(4))), ids=str)
async def test_in_whatever_order_a_story_is_told_its_end_is_the_same(
    ledger: Ledger, sold: Product, order_of: Sequence[int]
) -> None:
    student = fresh("s")
    order = await ordered(ledger, wanted(student, sold.id))
    for number in order_of:
        await ledger.tell("stripe", event(order, STORY[number]))

    after = await ledger.read(order.id)

    assert after is not None
    assert (after.status, await active(ledger, student)) == (OrderStatus.PAID, {sold.id, *sold.parts})


@pytest.mark.parametrize("seed", range(20))
async def test_entitlements_are_the_fold_of_all_that_was_told(ledger: Ledger, sold: Product, seed: int) -> None:
    chance, student = random.Random(seed), fresh("s")
    order = await ordered(ledger, wanted(student, sold.id))
    given_back = [chance.choice([1_000, 2_500, 5_000]) for _ in range(3)]
    facts = []
    for _ in range(chance.randrange(1, 9)):
        kind, ref = chance.choice(list(FactKind)), chance.randrange(3)
        facts.append(fact(kind, f"ref_{ref}", given_back[ref] if kind is FactKind.REFUNDED else 5_000))
    events = [event(order, one) for one in facts]

    for one in chance.choices(events, k=5) + events:
        await ledger.tell("stripe", one)

    state, kept = rules.fold(order.amount, facts), await ledger.read(order.id)
    assert kept is not None
    assert kept.status is state.status
    assert await active(ledger, student) == ({sold.id, *sold.parts} if state.status is OrderStatus.PAID else set())


async def test_a_crowd_of_events_at_once_comes_to_what_each_alone_would(ledger: Ledger, stores: Stores, sold: Product) -> None:
    chance, students = random.Random(1), [fresh("s") for _ in range(20)]
    products = (sold.id, *sold.parts)
    orders = [await ordered(ledger, wanted(student, product)) for student in students for product in products]
    told: dict[UUID, list[Fact]] = {order.id: [] for order in orders}
    events = []
    for order in orders:
        for _ in range(chance.randrange(4)):
            one = fact(chance.choice(list(FactKind)), f"ref_{chance.randrange(2)}")
            told[order.id].append(one)
            events += [event(order, one)] * chance.choice([1, 1, 2])
    chance.shuffle(events)

    outcomes = await asyncio.gather(*(ledger.tell("stripe", one) for one in events))

    states = {order.id: rules.fold(order.amount, told[order.id]) for order in orders}
    owned = {student: set[str]() for student in students}
    for order in orders:
        if states[order.id].grants:
            owned[order.student] |= {order.product, *(sold.parts if order.product == sold.id else ())}
    kept = [await ledger.read(order.id) for order in orders]
    assert sum(not one.again for one in outcomes) == len({one.id for one in events})
    assert {one.id: one.status for one in kept if one} == {order.id: states[order.id].status for order in orders}
    assert {student: await active(ledger, student) for student in students} == owned
    assert await stores.postgres.fetchval(
        "SELECT count(*) FROM webhook_event WHERE event_id = ANY ($1)", [one.id for one in events]
    ) == len({one.id for one in events})


async def test_an_event_that_cannot_be_kept_takes_none_of_those_beside_it_along(ledger: Ledger, sold: Product) -> None:
    orders = [await ordered(ledger, wanted(fresh("s"), sold.id)) for _ in range(9)]
    events = [event(order, fact(FactKind.PAID)) for order in orders]
    events[4] = replace(events[4], kind="\0")

    told = await asyncio.gather(*(ledger.tell("stripe", one) for one in events), return_exceptions=True)

    assert [isinstance(one, Exception) for one in told] == [number == 4 for number in range(9)]
    owners = [bool(await active(ledger, order.student)) for order in orders]
    assert owners == [number != 4 for number in range(9)]


async def test_an_event_can_name_its_order_as_one_that_comes_beside_it_says(ledger: Ledger, sold: Product) -> None:
    order = await ordered(ledger, wanted(fresh("s"), sold.id))
    ref = fresh("cs")
    other = event(order, fact(FactKind.DISPUTE_OPENED, "dp_1"), order=None, gateway_ref=ref)

    told = await asyncio.gather(
        ledger.tell("stripe", event(order, gateway_ref=ref)),  # keeps the one transaction busy while the others come
        ledger.tell("stripe", event(order, fact(FactKind.PAID), gateway_ref=ref)),
        ledger.tell("stripe", other),
    )

    after = await ledger.read(order.id)
    assert after is not None
    assert [one.outcome for one in told] == [EventOutcome.STORED, EventOutcome.APPLIED, EventOutcome.APPLIED]
    assert (after.gateway_ref, after.status) == (ref, OrderStatus.DISPUTED)


async def test_a_gateways_name_of_one_order_is_not_believed_of_another(ledger: Ledger, sold: Product) -> None:
    first, second = [await ordered(ledger, wanted(fresh("s"), sold.id)) for _ in range(2)]
    ref = fresh("cs")
    await ledger.tell("stripe", event(first, fact(FactKind.PAID), gateway_ref=ref))

    told = await ledger.tell("stripe", event(second, fact(FactKind.PAID), gateway_ref=ref))

    assert (told.outcome, "another order" in told.why) == (EventOutcome.QUARANTINED, True)
    assert await active(ledger, second.student) == set()


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"currency": "EUR"}, "EUR"),
        ({"student": "mallory"}, "student"),
        ({"live": True}, "live mode"),
        ({"order": UUID(int=0)}, "no such order"),
    ],
)
async def test_what_does_not_match_its_order_is_quarantined_and_grants_nothing(
    ledger: Ledger, sold: Product, claims: dict[str, object], why: str
) -> None:
    student = fresh("s")
    order = await ordered(ledger, wanted(student, sold.id))

    told = await ledger.tell("stripe", event(order, fact(FactKind.PAID), **claims))

    assert (told.outcome, why in told.why) == (EventOutcome.QUARANTINED, True)
    assert await active(ledger, student) == set()


async def test_too_little_money_is_quarantined(ledger: Ledger, sold: Product) -> None:
    order = await ordered(ledger, wanted(fresh("s"), sold.id))

    told = await ledger.tell("stripe", event(order, fact(FactKind.PAID, amount=4_999)))

    assert told.outcome is EventOutcome.QUARANTINED


async def test_a_refund_takes_away_what_only_that_order_gave(ledger: Ledger, sold: Product) -> None:
    student = fresh("s")
    order = await ordered(ledger, wanted(student, sold.id))
    await ledger.tell("stripe", event(order, fact(FactKind.PAID)))
    await ledger.grant(student, sold.parts[0], Grant("admin", True, "a prize", NOW, None), "operator")

    await ledger.tell("stripe", event(order, fact(FactKind.REFUNDED, "re_1")))

    assert await active(ledger, student) == {sold.parts[0]}


async def test_what_was_bought_stays_what_it_was_though_the_catalogue_changes(ledger: Ledger, sold: Product) -> None:
    student, other = fresh("s"), replace(sold, id=fresh("p"), parts=())
    order = await ordered(ledger, wanted(student, sold.id))
    await ledger.tell("stripe", event(order, fact(FactKind.PAID)))
    before = await ledger.owned(student)

    await ledger.keep([other, replace(sold, parts=(sold.parts[0], other.id), validity_days=1)], [], "operator")
    await ledger.tell("stripe", event(order, fact(FactKind.DISPUTE_OPENED, "dp_1")))
    suspended = await active(ledger, student)
    await ledger.tell("stripe", event(order, fact(FactKind.DISPUTE_WON, "dp_1")))
    won = await ledger.owned(student)
    await ledger.tell("stripe", event(order, fact(FactKind.REFUNDED, "re_1")))

    assert suspended == set()
    assert won == before
    assert await active(ledger, student) == set()


async def test_what_staff_gave_they_take_back_whole_though_the_catalogue_changes(ledger: Ledger, sold: Product) -> None:
    student = fresh("s")
    await ledger.grant(student, sold.id, Grant(f"admin:{sold.id}", True, "a prize", NOW, None), "operator")
    await ledger.grant(student, sold.parts[1], Grant(f"admin:{sold.parts[1]}", True, "another", NOW, None), "operator")

    await ledger.keep([replace(sold, parts=())], [], "operator")
    await ledger.grant(student, sold.id, Grant(f"admin:{sold.id}", False, "a mistake", NOW, None), "operator")

    assert await active(ledger, student) == {sold.parts[1]}


async def test_a_coupon_of_all_is_owned_at_once_and_used_up(ledger: Ledger, sold: Product) -> None:
    code = fresh("C")
    await ledger.keep([], [Coupon(code, 100, None, None, None, 1, 1, None, None)], "operator")
    student = fresh("s")

    free = await ordered(ledger, wanted(student, sold.id, coupon=code))
    refused = await ledger.order(wanted(fresh("s"), sold.id, coupon=code), price)

    assert (free.status, free.amount, await active(ledger, student)) == (OrderStatus.PAID, 0, {sold.id, *sold.parts})
    assert refused == CouponRefused("it has been used up")


async def test_one_last_use_of_a_coupon_is_not_given_twice(ledger: Ledger, sold: Product) -> None:
    code = fresh("C")
    await ledger.keep([], [Coupon(code, 50, None, None, None, 1, 1, None, None)], "operator")

    found = await asyncio.gather(*(ledger.order(wanted(fresh("s"), sold.id, coupon=code), price) for _ in range(8)))

    assert [one.amount for one in found if isinstance(one, Order)] == [2_500]

"""What an order comes to depends on what is known, not on how it was told; prices are whole and never below nothing."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from servers.payments.rules import DAY_MS, fold, mismatch, owned_until, price, useless, whole
from stores.money import Claimed, Coupon, Fact, FactKind, Order, OrderStatus, Product

AMOUNT = 2_500
ORDER = Order(
    id=UUID("01999999-0000-7000-8000-000000000001"),
    student="ada",
    product="course",
    provider="stripe",
    amount=AMOUNT,
    currency="USD",
    live=True,
    gateway_ref="cs_1",
    url=None,
    secret=None,
    status=OrderStatus.OPEN,
    created_ms=0,
    expires_ms=3_600_000,
)
CLAIMED = Claimed(ORDER.id, "cs_1", AMOUNT, "USD", "ada", True)
PRODUCT = Product("course", "A course", "", AMOUNT, "USD", 30, True, (), ())
COUPON = Coupon("SPRING", 10, None, None, None, None, 1, None, None)

PAID = Fact(FactKind.PAID, "pi_1", AMOUNT, 1_000)
FAILED = Fact(FactKind.FAILED, "pi_0", 0, 900)
EXPIRED = Fact(FactKind.EXPIRED, "cs_1", 0, 2_000)
DISPUTED = Fact(FactKind.DISPUTE_OPENED, "du_1", AMOUNT, 3_000)
WON = Fact(FactKind.DISPUTE_WON, "du_1", AMOUNT, 4_000)
LOST = Fact(FactKind.DISPUTE_LOST, "du_1", AMOUNT, 4_000)


def refunded(amount: int, ref: str = "re_1") -> Fact:
    return Fact(FactKind.REFUNDED, ref, amount, 5_000)


facts = st.lists(
    st.builds(Fact, st.sampled_from(FactKind), st.sampled_from(["a", "b", "c"]), st.integers(0, AMOUNT), st.integers(0, 9_000)),
    max_size=8,
)


@given(facts, st.data())
def test_an_order_comes_to_the_same_whatever_the_order_and_number_of_its_facts(known: Sequence[Fact], data: st.DataObject) -> None:
    doubled = [*known, *(data.draw(st.lists(st.sampled_from(known), max_size=4)) if known else ())]

    told = data.draw(st.permutations(doubled))

    assert fold(AMOUNT, told) == fold(AMOUNT, known)


@given(facts, st.builds(Fact, st.sampled_from(FactKind), st.just("d"), st.integers(0, AMOUNT), st.integers(0, 9_000)))
def test_an_order_that_is_paid_stays_paid_for_and_its_refunds_only_grow(known: Sequence[Fact], new: Fact) -> None:
    before, after = fold(AMOUNT, known), fold(AMOUNT, [*known, new])

    assert before.refunded <= after.refunded <= AMOUNT
    assert before.paid_ms is None or (after.paid_ms is not None and after.paid_ms <= before.paid_ms)


@given(facts)
def test_nothing_is_owned_that_was_not_paid_or_was_given_back(known: Sequence[Fact]) -> None:
    state = fold(AMOUNT, known)

    kinds = {fact.kind for fact in known}
    assert not state.grants or FactKind.PAID in kinds
    assert not state.grants or FactKind.DISPUTE_LOST not in kinds
    assert not state.grants or state.refunded < AMOUNT


@pytest.mark.parametrize(
    ("known", "status"),
    [
        ([], OrderStatus.OPEN),
        ([FAILED], OrderStatus.FAILED),
        ([EXPIRED], OrderStatus.EXPIRED),
        ([FAILED, EXPIRED], OrderStatus.EXPIRED),
        ([FAILED, PAID], OrderStatus.PAID),
        ([PAID, EXPIRED], OrderStatus.PAID),
        ([PAID, refunded(AMOUNT - 1)], OrderStatus.PAID),
        ([PAID, refunded(AMOUNT)], OrderStatus.REFUNDED),
        ([PAID, refunded(AMOUNT - 1), refunded(1, "re_2")], OrderStatus.REFUNDED),
        ([PAID, refunded(AMOUNT - 1), refunded(AMOUNT - 1)], OrderStatus.PAID),
        ([refunded(AMOUNT)], OrderStatus.OPEN),
        ([PAID, DISPUTED], OrderStatus.DISPUTED),
        ([PAID, DISPUTED, WON], OrderStatus.PAID),
        ([PAID, WON], OrderStatus.PAID),
        ([PAID, DISPUTED, LOST], OrderStatus.LOST),
        ([PAID, LOST], OrderStatus.LOST),
        ([PAID, DISPUTED, WON, replace(DISPUTED, ref="du_2")], OrderStatus.DISPUTED),
        ([PAID, DISPUTED, WON, replace(LOST, ref="du_2")], OrderStatus.LOST),
        ([PAID, LOST, refunded(AMOUNT)], OrderStatus.REFUNDED),
    ],
)
def test_an_order_comes_to_what_is_known_of_it(known: Sequence[Fact], status: OrderStatus) -> None:
    assert fold(AMOUNT, known).status is status
    assert fold(AMOUNT, known[::-1]).status is status


def test_an_order_that_cost_nothing_is_paid_until_it_is_taken_back() -> None:
    free, back = Fact(FactKind.PAID, "free", 0, 7), Fact(FactKind.REFUNDED, "finalbell", 0, 9)

    assert fold(0, [free]).status is OrderStatus.PAID
    assert fold(0, [back, free]).status is OrderStatus.REFUNDED
    assert fold(AMOUNT, [PAID, back]).status is OrderStatus.PAID


def test_what_is_bought_counts_from_the_first_payment() -> None:
    assert fold(AMOUNT, [PAID, replace(PAID, at_ms=500)]).paid_ms == 500
    assert fold(AMOUNT, [replace(PAID, at_ms=500), PAID]).paid_ms == 500


@pytest.mark.parametrize(
    "differs",
    [
        {"order": UUID(int=1)},
        {"gateway_ref": "cs_2"},
        {"amount": AMOUNT - 1},
        {"amount": AMOUNT + 1},
        {"currency": "EUR"},
        {"student": "eve"},
        {"live": False},
    ],
)
def test_a_message_that_says_anything_else_than_the_order_does_not_match(differs: dict[str, object]) -> None:
    assert mismatch(ORDER, CLAIMED, [PAID]) == ""
    assert mismatch(ORDER, replace(CLAIMED, **differs), [PAID]) != ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fact",
    [
        replace(PAID, amount=AMOUNT - 1),
        replace(PAID, amount=AMOUNT + 1),
        refunded(AMOUNT + 1),
        refunded(-1),
        replace(DISPUTED, amount=AMOUNT + 1),
    ],
)
def test_a_fact_that_moves_anything_but_the_orders_money_does_not_match(fact: Fact) -> None:
    assert mismatch(ORDER, CLAIMED, [fact]) != ""
    assert mismatch(ORDER, CLAIMED, [PAID, fact]) != ""


@given(st.text())
def test_a_currency_that_is_none_does_not_match_and_its_text_is_not_kept(currency: str) -> None:
    assume(currency != "USD")

    why = mismatch(ORDER, replace(CLAIMED, currency=currency), [PAID])

    assert why in (f"it is in {currency}, and the order in USD", "it is in no currency, and the order in USD")
    assert why.isascii()
    assert why.isprintable()


def test_what_a_gateway_does_not_say_is_not_compared() -> None:
    assert mismatch(ORDER, Claimed(None, None, None, None, None, None), [EXPIRED, refunded(1)]) == ""
    assert mismatch(replace(ORDER, gateway_ref=None), CLAIMED, [PAID]) == ""


@pytest.mark.parametrize("unsaid", ["currency", "live"])
def test_a_payment_that_does_not_say_in_which_currency_or_mode_it_is_does_not_match(unsaid: str) -> None:
    silent = replace(CLAIMED, **{unsaid: None})  # type: ignore[arg-type]

    assert mismatch(ORDER, silent, [refunded(AMOUNT)]) == ""
    assert mismatch(ORDER, silent, [PAID]) != ""


@given(st.integers(0, 10**9), st.integers(0, 100))
def test_a_percentage_is_rounded_in_the_students_favour(amount: int, percent: int) -> None:
    cost = price(replace(PRODUCT, amount=amount), replace(COUPON, percent=percent))

    exact_hundredths = amount * (100 - percent)
    assert exact_hundredths - 100 < cost * 100 <= exact_hundredths
    assert 0 <= cost <= amount


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_amount_off_costs_no_less_than_nothing(amount: int, off: int) -> None:
    cost = price(replace(PRODUCT, amount=amount), replace(COUPON, percent=None, amount=off, currency="USD"))

    assert cost == max(0, amount - off)


def test_a_price_without_a_coupon_is_the_products() -> None:
    assert price(PRODUCT, None) == AMOUNT
    assert price(PRODUCT, replace(COUPON, percent=None)) == AMOUNT
    assert price(PRODUCT, replace(COUPON, percent=100)) == 0


@pytest.mark.parametrize(
    ("limits", "used", "own", "works"),
    [
        ({}, 0, 0, True),
        ({}, 1_000, 0, True),
        ({}, 1, 1, False),
        ({"most_uses_each": 2}, 1, 1, True),
        ({"most_uses": 3}, 2, 0, True),
        ({"most_uses": 3}, 3, 0, False),
        ({"products": ("course",)}, 0, 0, True),
        ({"products": ("other",)}, 0, 0, False),
        ({"products": ()}, 0, 0, False),
        ({"currency": "EUR"}, 0, 0, False),
        ({"starts_ms": 1_000}, 0, 0, True),
        ({"starts_ms": 1_001}, 0, 0, False),
        ({"ends_ms": 1_001}, 0, 0, True),
        ({"ends_ms": 1_000}, 0, 0, False),
    ],
)
def test_a_coupon_works_within_its_limits(limits: dict[str, object], used: int, own: int, works: bool) -> None:
    coupon = replace(COUPON, **limits)  # type: ignore[arg-type]

    assert (useless(coupon, PRODUCT, used, own, 1_000) == "") is works


def test_what_is_bought_for_days_ends_after_them() -> None:
    assert owned_until(5, 30) == 5 + 30 * DAY_MS
    assert owned_until(5, None) is None


def test_a_product_has_all_its_parts_once_even_where_they_go_in_circles() -> None:
    parts = {"all": ("one", "two"), "one": ("two", "gone"), "two": ("all",)}
    products = {name: replace(PRODUCT, id=name, parts=held) for name, held in parts.items()}

    assert list(whole(products["all"], products)) == ["all", "one", "two", "gone"]

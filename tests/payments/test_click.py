"""Click's SHOP API, and what we ask of its Merchant API: what is answered, what the books are told, whatever comes again."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import date
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.payments import click_shop as wire
from servers.payments import rules
from servers.payments.click import Click
from servers.payments.click_api import MerchantApi
from servers.payments.click_shop import Code
from servers.payments.provider import GatewayAway, GatewayRefused, Heard, Provider, RefundedByHand
from stores.click_payments import ClickPayment, ClickPayments, ClickState
from stores.money import EventOutcome, FactKind, Order, OrderStatus
from tests.payments.books import DAY_MS, PRODUCT, Clock, Till, ledger_in
from tests.payments.click_simulator import (
    BASE_URL,
    MERCHANT,
    SECRET,
    SERVICE,
    USER,
    ClickSimulator,
    HttpCall,
    Payment,
)


class Shop:
    """Our side, and the simulated Click that calls it and that it calls."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.clock = Clock()
        self.store = ClickPayments(pool)
        self.books = Till(ledger_in(pool), "click")
        self.gateway = ClickSimulator(self.clock.now_ms)
        transport = self.gateway.transport()
        self.api = MerchantApi(BASE_URL, service=SERVICE, user=USER, secret=SECRET, seconds=self.clock.seconds, transport=transport)
        self.click = Click(
            self.store,
            self.api,
            service=SERVICE,
            merchant=MERCHANT,
            secret=SECRET,
            checkout_url="https://checkout.invalid/services/pay",
            return_url="https://exams.invalid/paid?from=click",
            live=False,
            now_ms=self.clock.now_ms,
        )

    async def kept(self) -> list[ClickPayment]:
        """Return the payments of all orders."""
        return [one for order in self.books.orders for one in await self.store.of(order.id)]

    async def ask(self, call: HttpCall) -> dict[str, Any]:
        said = await self.click.hear(Heard(call[0], call[1], self.clock.at_ms), self.books)
        assert said.content_type == "application/json"
        answer: dict[str, Any] = json.loads(said.body)
        assert answer["error_note"] == wire.NOTES[Code(answer["error"])]
        return answer

    async def code(self, call: HttpCall) -> Code:
        return Code((await self.ask(call))["error"])

    async def prepared(self, order: Order) -> tuple[Payment, int]:
        payment = self.gateway.begin(order.id, order.amount)
        answer = await self.ask(self.gateway.prepare(payment))
        assert answer["error"] == 0
        return payment, answer["merchant_prepare_id"]

    async def paid(self, order: Order) -> tuple[Payment, int]:
        payment, number = await self.prepared(order)
        assert await self.code(self.gateway.complete(payment, number)) is Code.OK
        return payment, number


@pytest_asyncio.fixture
async def shop(pool: asyncpg.Pool) -> AsyncIterator[Shop]:
    shop = Shop(pool)
    yield shop
    await shop.api.stop()


async def test_click_keeps_the_protocol_of_providers(shop: Shop) -> None:
    provider: Provider = shop.click

    assert provider.name == "click"
    assert not provider.live


async def test_it_does_not_start_without_a_secret(shop: Shop) -> None:
    told = {"service": "1", "merchant": "2", "secret": " ", "checkout_url": "https://c.invalid", "return_url": ""}

    with pytest.raises(ValueError, match="secret"):
        Click(shop.store, shop.api, live=False, now_ms=shop.clock.now_ms, **told)


# The link


async def test_the_link_names_the_order_and_its_amount_in_soums(shop: Shop) -> None:
    order = await shop.books.order(amount=1_500_005)

    opened = await shop.click.open(order, PRODUCT)

    assert opened.url.startswith("https://checkout.invalid/services/pay?")
    assert shop.gateway.open(opened.url) == {
        "service_id": SERVICE,
        "merchant_id": MERCHANT,
        "amount": "15000.05",
        "transaction_param": str(order.id),
        "return_url": "https://exams.invalid/paid?from=click",
    }
    assert await shop.click.open(order, PRODUCT) == opened


def test_it_takes_soums_only(shop: Shop) -> None:
    assert [currency for currency in ("UZS", "USD", "uzs", "") if shop.click.takes(currency)] == ["UZS"]


# What happens


async def test_a_payment_is_told_before_click_is_answered(shop: Shop) -> None:
    order = await shop.books.order()
    payment = shop.gateway.begin(order.id, order.amount)

    prepared = await shop.ask(shop.gateway.prepare(payment))
    assert not shop.books.events
    completed = await shop.ask(shop.gateway.complete(payment, prepared["merchant_prepare_id"]))

    (known,) = await shop.kept()
    echoed = {"click_trans_id": payment.trans, "merchant_trans_id": str(order.id), "error": 0, "error_note": "Success"}
    assert prepared == {**echoed, "merchant_prepare_id": known.number}
    assert completed == {**echoed, "merchant_confirm_id": known.number}
    (paid,) = (await shop.books.facts(order))[FactKind.PAID]
    assert (paid.ref, paid.amount, paid.at_ms) == (str(payment.paydoc), order.amount, shop.clock.at_ms)


async def test_the_calls_of_a_payment_follow_each_other(shop: Shop) -> None:
    order, number = await shop.books.order(), 0

    for made in shop.gateway.pay(order.id, order.amount):
        number = (await shop.ask(made(number))).get("merchant_prepare_id", number)

    assert await shop.books.status(order) is OrderStatus.PAID


async def test_a_payment_that_could_not_be_made_is_cancelled(shop: Shop) -> None:
    order = await shop.books.order()
    payment, number = await shop.prepared(order)

    assert await shop.code(shop.gateway.fail(payment, number)) is Code.CANCELLED

    (failed,) = (await shop.books.facts(order))[FactKind.FAILED]
    assert (failed.ref, failed.amount) == (str(payment.trans), 0)
    assert await shop.books.status(order) is OrderStatus.FAILED


async def test_a_preparation_that_comes_twice_has_the_same_number(shop: Shop) -> None:
    order, other = await shop.books.order(), await shop.books.order()
    payment = shop.gateway.begin(order.id, order.amount)
    call = shop.gateway.prepare(payment)

    first = await shop.ask(call)
    await shop.prepared(other)

    assert await shop.ask(call) == first
    assert isinstance(first["merchant_prepare_id"], int)


async def test_a_completion_that_comes_twice_was_confirmed_already(shop: Shop) -> None:
    order = await shop.books.order()
    payment, number = await shop.paid(order)
    shop.clock.at_ms += 60_000

    for call in (shop.gateway.complete(payment, number), shop.gateway.fail(payment, number)):
        assert await shop.ask(call) == {
            "click_trans_id": payment.trans,
            "merchant_trans_id": str(order.id),
            "merchant_confirm_id": number,
            "error": -4,
            "error_note": "Already paid",
        }
    assert await shop.code(shop.gateway.prepare(payment)) is Code.ALREADY_PAID
    assert len(shop.books.events) == 1
    assert await shop.books.status(order) is OrderStatus.PAID


async def test_a_cancellation_that_comes_twice_is_one_and_final(shop: Shop) -> None:
    order = await shop.books.order()
    payment, number = await shop.prepared(order)
    call = shop.gateway.fail(payment, number)

    first = await shop.ask(call)

    assert await shop.ask(call) == first
    assert await shop.code(shop.gateway.complete(payment, number)) is Code.CANCELLED
    assert await shop.code(shop.gateway.prepare(payment)) is Code.CANCELLED
    assert len(shop.books.events) == 1


async def test_fifty_racing_copies_of_a_completion_come_to_one_payment(shop: Shop) -> None:
    order = await shop.books.order()
    payment, number = await shop.prepared(order)
    call = shop.gateway.complete(payment, number)

    codes = await asyncio.gather(*(shop.code(call) for _ in range(50)))

    assert set(codes) <= {Code.OK, Code.ALREADY_PAID}
    assert len(shop.books.events) == 1


async def test_of_two_tries_that_are_completed_at_once_one_is_paid_and_click_gives_the_other_back(shop: Shop) -> None:
    order = await shop.books.order()
    tries = [await shop.prepared(order) for _ in range(5)]

    codes = await asyncio.gather(*(shop.code(shop.gateway.complete(*one)) for one in tries))

    assert sorted(codes) == [Code.CANCELLED] * 4 + [Code.OK]
    assert len((await shop.books.facts(order))[FactKind.PAID]) == 1
    assert await shop.books.status(order) is OrderStatus.PAID


async def test_another_try_of_a_paid_order_is_not_prepared(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.paid(order)

    assert await shop.code(shop.gateway.prepare(shop.gateway.begin(order.id, order.amount))) is Code.ALREADY_PAID


# What is refused


@pytest.mark.parametrize("off", ["14999.99", "15000.01", "15001.00", "0", "-15000", "15000.001", "1e4", "", "١٥٠٠٠", "9" * 40])
async def test_any_other_amount_is_refused(shop: Shop, off: str) -> None:
    order = await shop.books.order()
    payment, number = await shop.prepared(order)

    assert await shop.code(shop.gateway.prepare(shop.gateway.begin(order.id, 1), amount=off)) is Code.WRONG_AMOUNT
    assert await shop.code(shop.gateway.complete(payment, number, amount=off)) is Code.WRONG_AMOUNT
    assert not shop.books.events
    assert [one.state for one in await shop.kept()] == [ClickState.PREPARED]


@pytest.mark.parametrize("same", ["15000", "15000.0", "15000.00", "15000.0000", "015000.00"])
async def test_an_amount_may_be_written_in_more_than_one_way(shop: Shop, same: str) -> None:
    order = await shop.books.order()

    assert await shop.code(shop.gateway.prepare(shop.gateway.begin(order.id, order.amount), amount=same)) is Code.OK


@given(amount=st.integers(0, 2**31 - 1))
def test_an_amount_is_written_as_it_is_read(amount: int) -> None:
    assert wire.tiyin(wire.soums(amount)) == amount


@pytest.mark.parametrize(
    ("differs", "code"),
    [
        ({"currency": "USD"}, Code.NO_ORDER),
        ({"live": True}, Code.NO_ORDER),
        *(({"status": OrderStatus(status)}, Code.ALREADY_PAID) for status in ("PAID", "REFUNDED", "DISPUTED", "LOST")),
        *(({"status": OrderStatus(status)}, Code.CANCELLED) for status in ("FAILED", "EXPIRED")),
        ({"seconds": -1.0}, Code.CANCELLED),
    ],
    ids=str,
)
async def test_an_order_that_cannot_be_paid_is_not_prepared(shop: Shop, differs: dict[str, Any], code: Code) -> None:
    order = await shop.books.order(**differs)

    assert await shop.code(shop.gateway.prepare(shop.gateway.begin(order.id, order.amount))) is code
    assert not await shop.kept()


@pytest.mark.parametrize("named", ["01999999-0000-7000-8000-000000000000", "", "1", "' OR 1=1 --", "\x00", "é", "9" * 9_999])
async def test_an_order_that_there_is_not_is_not_found(shop: Shop, named: str) -> None:
    payment = shop.gateway.begin(uuid4(), 100)

    assert await shop.code(shop.gateway.prepare(payment, merchant_trans_id=named)) is Code.NO_ORDER


@pytest.mark.parametrize("number", ["0", "", "-1", "x", "1.0", "9" * 30])
async def test_a_completion_of_what_was_not_prepared_is_not_found(shop: Shop, number: str) -> None:
    order, other = await shop.books.order(), await shop.books.order()
    payment, prepared = await shop.prepared(order)
    stranger = shop.gateway.begin(order.id, order.amount)

    assert await shop.code(shop.gateway.complete(payment, 0, merchant_prepare_id=number)) is Code.NO_TRANSACTION
    assert await shop.code(shop.gateway.complete(stranger, prepared)) is Code.NO_TRANSACTION
    assert await shop.code(shop.gateway.complete(payment, prepared, merchant_trans_id=str(other.id))) is Code.NO_TRANSACTION
    assert not shop.books.events


async def test_a_try_of_another_order_is_not_taken_for_the_same(shop: Shop) -> None:
    order, other = await shop.books.order(), await shop.books.order()
    payment, _ = await shop.prepared(order)

    assert await shop.code(shop.gateway.prepare(payment, merchant_trans_id=str(other.id))) is Code.BAD_REQUEST


@pytest.mark.parametrize("action", ["2", "-1", "", "01", "prepare"])
async def test_there_are_two_actions(shop: Shop, action: str) -> None:
    assert await shop.code(shop.gateway.prepare(shop.gateway.begin(uuid4(), 100), action=action)) is Code.NO_ACTION


async def test_another_service_is_none_of_ours(shop: Shop) -> None:
    order = await shop.books.order()

    assert await shop.code(shop.gateway.prepare(shop.gateway.begin(order.id, order.amount), service_id="9")) is Code.BAD_REQUEST


async def test_a_preparation_with_an_error_is_cancelled(shop: Shop) -> None:
    order = await shop.books.order()

    assert await shop.code(shop.gateway.prepare(shop.gateway.begin(order.id, order.amount), error="-1")) is Code.CANCELLED
    assert not await shop.kept()


async def test_a_payment_that_the_books_quarantine_is_not_updated(shop: Shop, pool: asyncpg.Pool) -> None:
    class Meddled(Till):
        async def find(self, order: str) -> Order | None:
            found = await super().find(order)
            await pool.execute("UPDATE payment SET amount = amount + 1 WHERE id = $1", UUID(order))
            return found

    payment, number = await shop.prepared(await shop.books.order())
    shop.books = Meddled(shop.books.ledger, "click")

    assert await shop.code(shop.gateway.complete(payment, number)) is Code.NOT_UPDATED


def test_every_error_of_the_protocol_has_its_note() -> None:
    assert {int(code) for code in Code} == {0, -1, -2, -3, -4, -5, -6, -7, -8, -9}
    assert set(wire.NOTES) == set(Code)


# Who calls


async def test_a_signature_is_what_the_documentation_says(shop: Shop) -> None:
    sent = {"click_trans_id": "1", "service_id": "2", "merchant_trans_id": "3", "amount": "4.00", "sign_time": "6"}
    prepare, complete = {**sent, "action": "0", "merchant_prepare_id": "9"}, {**sent, "action": "1", "merchant_prepare_id": "9"}

    assert wire.signature(prepare, "S") == hashlib.md5(b"12S34.0006").hexdigest()
    assert wire.signature(complete, "S") == hashlib.md5(b"12S394.0016").hexdigest()


@pytest.mark.parametrize("signature", ["", "0", "0" * 32, "é", "x" * 9_999])
async def test_a_call_with_another_signature_tells_nothing(shop: Shop, signature: str) -> None:
    payment, number = await shop.prepared(await shop.books.order())
    _, body = shop.gateway.complete(payment, number)
    forged = urlencode({**dict(parse_qsl(body.decode())), "sign_string": signature}).encode()

    assert await shop.code(({}, forged)) is Code.FORGED
    assert not shop.books.events


async def test_a_call_that_is_signed_with_another_secret_tells_nothing(shop: Shop) -> None:
    payment, number = await shop.prepared(await shop.books.order())

    assert await shop.code(ClickSimulator(shop.clock.now_ms, "another").complete(payment, number)) is Code.FORGED
    assert not shop.books.events


@pytest.mark.parametrize("field", [*wire.SIGNED, "merchant_prepare_id"])
async def test_a_field_that_was_changed_on_its_way_breaks_the_signature(shop: Shop, field: str) -> None:
    payment, number = await shop.prepared(await shop.books.order())
    sent = dict(parse_qsl(shop.gateway.complete(payment, number)[1].decode()))

    assert await shop.code(({}, urlencode({**sent, field: sent[field] + "1"}).encode())) is Code.FORGED
    assert not shop.books.events


@pytest.mark.parametrize(("ahead_seconds", "code"), [(-301, -1), (-300, 0), (300, 0), (301, -1), (-18_000, -1), (18_000, -1)])
async def test_a_call_is_of_now_in_tashkent(shop: Shop, ahead_seconds: int, code: int) -> None:
    order = await shop.books.order()
    payment = shop.gateway.begin(order.id, order.amount)

    call = shop.gateway.prepare(payment, sign_time=shop.gateway.local_time(ahead_seconds))

    assert await shop.code(call) == code


@pytest.mark.parametrize("written", ["", "now", "2026-02-30 10:00:00", "2026-13-01 00:00:00", "1700000000", "2026-01-01T00:00:00"])
async def test_a_call_without_a_time_is_forged(shop: Shop, written: str) -> None:
    order = await shop.books.order()

    assert await shop.code(shop.gateway.prepare(shop.gateway.begin(order.id, order.amount), sign_time=written)) is Code.FORGED


# Whatever comes


@pytest.mark.parametrize("field", wire.FIELDS)
async def test_a_call_without_a_field_or_with_one_twice_is_in_error(shop: Shop, field: str) -> None:
    _, body = shop.gateway.prepare(shop.gateway.begin(uuid4(), 100))
    pairs = parse_qsl(body.decode())

    for changed in ([pair for pair in pairs if pair[0] != field], [*pairs, (field, "1")]):
        assert await shop.ask(({}, urlencode(changed).encode())) == {"error": -8, "error_note": "Error in request from click"}


async def test_a_completion_without_our_number_is_in_error(shop: Shop) -> None:
    payment, _ = await shop.prepared(await shop.books.order())
    _, body = shop.gateway.prepare(payment)
    sent = dict(parse_qsl(body.decode())) | {"action": "1"}

    assert await shop.code(({}, urlencode(sent).encode())) is Code.BAD_REQUEST


@pytest.mark.parametrize("field", ["click_trans_id", "click_paydoc_id", "error"])
@pytest.mark.parametrize("value", ["", "x", "1.5", "9" * 19, "１２", "\x00", "--1"])
async def test_a_number_that_is_none_is_in_error(shop: Shop, field: str, value: str) -> None:
    assert await shop.code(shop.gateway.prepare(shop.gateway.begin(uuid4(), 100), **{field: value})) is Code.BAD_REQUEST


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"{}", b"a=%ff", b"&" * 200, b"a=1&" * 200, b"%", b"=", b"action=1"])
async def test_what_is_no_form_is_in_error(shop: Shop, body: bytes) -> None:
    assert await shop.code(({}, body)) is Code.BAD_REQUEST


@settings(max_examples=150, deadline=None)
@given(body=st.binary() | st.dictionaries(st.sampled_from(wire.FIELDS), st.text(), min_size=8).map(lambda f: urlencode(f).encode()))
async def test_any_body_is_answered(pool: asyncpg.Pool, body: bytes) -> None:
    shop = Shop(pool)

    assert await shop.code(({}, body)) in (Code.BAD_REQUEST, Code.FORGED)
    assert not shop.books.events


printable = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    differs=st.dictionaries(st.sampled_from(sorted({*wire.FIELDS, "merchant_prepare_id"} - {"sign_string"})), printable),
    extra=st.dictionaries(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1), printable, max_size=2),
)
async def test_anything_that_is_signed_is_answered(pool: asyncpg.Pool, differs: dict[str, str], extra: dict[str, str]) -> None:
    shop = Shop(pool)
    payment, number = await shop.prepared(await shop.books.order())
    fields = shop.gateway.fields(payment, action="1", merchant_prepare_id=str(number)) | extra | differs

    await shop.code(shop.gateway.signed(fields))

    assert EventOutcome.QUARANTINED not in shop.books.outcomes


async def test_nothing_that_looks_like_a_card_is_kept(shop: Shop) -> None:
    order, card = await shop.books.order(), "8600123412341234"
    payment = shop.gateway.begin(order.id, order.amount)
    number = (await shop.ask(shop.gateway.prepare(payment, error_note=card, card=card)))["merchant_prepare_id"]

    assert await shop.code(shop.gateway.complete(payment, number, error_note=f"paid by {card}", pan=card)) is Code.OK
    assert card not in f"{shop.books.events}{await shop.kept()}"


# Closing and looking


async def test_an_order_that_is_closed_is_neither_prepared_nor_completed(shop: Shop) -> None:
    fresh, begun = await shop.books.order(), await shop.books.order()
    payment, number = await shop.prepared(begun)

    for order in (fresh, begun):
        assert await shop.click.close(order)
        assert await shop.click.close(order)

    assert await shop.code(shop.gateway.prepare(shop.gateway.begin(fresh.id, fresh.amount))) is Code.CANCELLED
    assert await shop.code(shop.gateway.complete(payment, number)) is Code.CANCELLED
    assert FactKind.PAID not in (await shop.books.facts(begun))


async def test_a_payment_of_an_order_that_ended_meanwhile_is_cancelled(shop: Shop) -> None:
    order = await shop.books.order()
    payment, number = await shop.prepared(order)
    await shop.books.tell(rules.ended(order, FactKind.EXPIRED, shop.clock.at_ms))

    assert await shop.code(shop.gateway.complete(payment, number)) is Code.CANCELLED
    assert FactKind.PAID not in (await shop.books.facts(order))


async def test_an_order_that_is_paid_cannot_be_closed(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.paid(order)

    assert not await shop.click.close(order)
    assert not await shop.click.close(order)


async def test_an_order_that_is_closed_while_it_is_paid_is_one_or_the_other(shop: Shop) -> None:
    for _ in range(10):
        order = await shop.books.order()
        payment, number = await shop.prepared(order)
        call = shop.gateway.complete(payment, number)
        payment.status = 1

        shut, code = await asyncio.gather(shop.click.close(order), shop.code(call))

        assert shut == (code is Code.CANCELLED)
        assert shut == (FactKind.PAID not in (await shop.books.facts(order)))


@pytest.mark.parametrize("story", ["pay", "fail", "refund"])
async def test_looking_tells_the_same_events_as_the_calls(shop: Shop, story: str) -> None:
    order = await shop.books.order()
    payment, number = await shop.prepared(order)
    assert await shop.click.look(order) == []
    await shop.ask(shop.gateway.fail(payment, number) if story == "fail" else shop.gateway.complete(payment, number))
    if story == "refund":
        await shop.click.refund(order, order.amount, "key")
        for event in shop.books.ours(await shop.click.missed(shop.clock.began_ms)):
            await shop.books.tell(event)

    assert await shop.click.look(order) == shop.books.events
    assert shop.books.ours(await shop.click.missed(shop.clock.began_ms)) == shop.books.events
    assert shop.books.ours(await shop.click.missed(shop.clock.at_ms + 1)) == []


@pytest.mark.parametrize(("status", "kinds"), [(0, []), (1, []), (2, [FactKind.PAID]), (-1, [FactKind.FAILED])])
async def test_looking_asks_click_after_what_was_never_completed(shop: Shop, status: int, kinds: list[FactKind]) -> None:
    order = await shop.books.order()
    payment, number = await shop.prepared(order)
    payment.status = status

    told = [fact.kind for event in await shop.click.look(order) for fact in event.facts]

    assert told == kinds
    if status == 2:
        assert await shop.code(shop.gateway.complete(payment, number)) is Code.ALREADY_PAID
        assert await shop.books.status(order) is OrderStatus.PAID


async def test_looking_finds_a_payment_that_was_made_after_midnight(shop: Shop) -> None:
    order = await shop.books.order()
    payment, _ = await shop.prepared(order)
    payment.status = 2
    shop.clock.at_ms += DAY_MS
    payment.day = shop.gateway.local_time()[:10]
    shop.clock.at_ms += 5 * DAY_MS

    assert [event.kind for event in await shop.click.look(order)] == ["Complete"]


async def test_looking_takes_no_other_payment_for_ours(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.prepared(order)
    shop.gateway.begin(order.id, 100).status = 2  # of the same order, and never prepared here

    assert await shop.click.look(order) == []


async def test_closing_finds_out_whether_what_was_prepared_is_paid(shop: Shop) -> None:
    order = await shop.books.order()
    payment, _ = await shop.prepared(order)
    payment.status = 2

    assert not await shop.click.close(order)
    assert [event.kind for event in await shop.click.look(order)] == ["Complete"]


async def test_what_was_kept_and_not_told_is_told_when_click_asks_again(shop: Shop) -> None:
    """We die between the two: the order is not paid in the books, and the next copy of the call makes up for it."""
    order = await shop.books.order()
    payment, number = await shop.prepared(order)
    await shop.store.confirm((await shop.kept())[0], shop.clock.at_ms)

    assert await shop.code(shop.gateway.complete(payment, number)) is Code.ALREADY_PAID
    assert await shop.books.status(order) is OrderStatus.PAID


# Refunds


async def test_a_refund_is_made_once_and_told_as_one(shop: Shop) -> None:
    order = await shop.books.order()
    payment, _ = await shop.paid(order)

    for key in ("first", "first", "second"):
        await shop.click.refund(order, order.amount, key)
    for event in [*shop.books.ours(await shop.click.missed(shop.clock.began_ms)), *await shop.click.look(order)]:
        await shop.books.tell(event)

    assert [one for one in shop.gateway.asked if one.startswith("DELETE")] == [
        f"DELETE /v2/merchant/payment/reversal/{SERVICE}/{payment.paydoc}"
    ]
    assert await shop.books.status(order) is OrderStatus.REFUNDED
    assert (await shop.books.story(order)).refunded == order.amount


async def test_a_refund_whose_answer_was_lost_is_asked_again_and_found_done(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.paid(order)
    shop.gateway.loses_answers = True
    with pytest.raises(GatewayAway):
        await shop.click.refund(order, order.amount, "key")
    shop.gateway.loses_answers = False

    await shop.click.refund(order, order.amount, "key")

    assert [one.state for one in await shop.kept()] == [ClickState.REVERSED]


async def test_a_refund_that_click_refuses_is_none(shop: Shop) -> None:
    order = await shop.books.order()
    payment, _ = await shop.paid(order)
    payment.status = 1

    with pytest.raises(GatewayRefused):
        await shop.click.refund(order, order.amount, "key")

    assert [one.state for one in await shop.kept()] == [ClickState.CONFIRMED]


async def test_a_part_is_refunded_by_hand_and_what_is_not_paid_not_at_all(shop: Shop) -> None:
    order = await shop.books.order()

    with pytest.raises(RefundedByHand):
        await shop.click.refund(order, order.amount - 1, "key")
    with pytest.raises(GatewayRefused, match="not completed"):
        await shop.click.refund(order, order.amount, "key")


async def test_a_refund_in_clicks_cabinet_is_not_told_to_anybody(shop: Shop) -> None:
    """A limit of its protocol: whoever gives money back there has to take back by hand what was bought."""
    order = await shop.books.order()
    payment, _ = await shop.paid(order)

    assert shop.gateway.refund(payment) == []
    assert await shop.click.look(order) == shop.books.events
    assert await shop.books.status(order) is OrderStatus.PAID


async def test_a_refunded_order_is_not_paid_again(shop: Shop) -> None:
    order = await shop.books.order()
    first, second = await shop.prepared(order), await shop.prepared(order)
    assert await shop.code(shop.gateway.complete(*first)) is Code.OK
    await shop.click.refund(order, order.amount, "key")

    assert await shop.code(shop.gateway.complete(*second)) is Code.CANCELLED


# The Merchant API


@pytest.mark.parametrize("what", ["close", "look", "refund"])
async def test_a_gateway_that_does_not_answer_is_away_and_nothing_changes(shop: Shop, what: str) -> None:
    order = await shop.books.order()
    if what == "refund":
        await shop.paid(order)
    else:
        await shop.prepared(order)
    kept = await shop.kept()
    shop.gateway.away = True

    with pytest.raises(GatewayAway):
        await (shop.click.refund(order, order.amount, "key") if what == "refund" else getattr(shop.click, what)(order))

    assert await shop.kept() == kept


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500, json={"error_code": 0, "payment_id": 1}),
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={}),
        httpx.Response(200, json={"error_code": "0"}),
        httpx.Response(302, headers={"location": "https://elsewhere.invalid"}, json={"error_code": 0}),
    ],
    ids=lambda answer: f"{answer.status_code} {answer.content[:20]!r}",
)
async def test_an_answer_that_says_nothing_is_none(answer: httpx.Response) -> None:
    api = MerchantApi(BASE_URL, service=SERVICE, user=USER, secret=SECRET, transport=httpx.MockTransport(lambda request: answer))

    for asked in (api.payment(uuid4(), date(2026, 1, 2)), api.status(1), api.reverse(1)):
        with pytest.raises(GatewayAway) as away:
            await asked
        assert SECRET not in str(away.value)
    await api.stop()


async def test_our_calls_are_signed_with_the_second_in_which_they_are_made() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"error_code": 0, "payment_id": 5})

    api = MerchantApi(
        BASE_URL, service="7", user="3", secret="S", seconds=lambda: 1_519_051_543.9, transport=httpx.MockTransport(answer)
    )
    order = uuid4()

    assert await api.payment(order, date(2026, 1, 2)) == 5
    assert str(seen[0].url) == f"{BASE_URL}/payment/status_by_mti/7/{order}/2026-01-02"
    assert seen[0].headers["auth"] == f"3:{hashlib.sha1(b'1519051543S').hexdigest()}:1519051543"
    await api.stop()


# Histories

acts = st.lists(
    st.tuples(st.sampled_from(["prepare", "complete", "fail", "look", "close", "refund", "wait"]), st.integers(0, 2)), max_size=14
)


@settings(max_examples=60, deadline=None)
@given(story=acts)
async def test_whatever_happens_an_order_is_paid_once_and_the_books_say_so(
    pool: asyncpg.Pool, story: list[tuple[str, int]]
) -> None:
    shop = Shop(pool)
    order = await shop.books.order()
    tries = [shop.gateway.begin(order.id, order.amount) for _ in range(3)]
    for act, which in story:
        known = await shop.store.find(tries[which].trans)
        match act:
            case "prepare":
                await shop.code(shop.gateway.prepare(tries[which]))
            case "complete" | "fail":
                await shop.code(getattr(shop.gateway, act)(tries[which], known.number if known else 0))
            case "look":
                for event in await shop.click.look(order):
                    await shop.books.tell(event)
            case "close":
                await shop.click.close(order)
            case "refund" if known and known.state is ClickState.CONFIRMED:
                tries[which].status = 2
                await shop.click.refund(order, order.amount, "key")
            case _:
                shop.clock.at_ms += DAY_MS // 3
    for event in [*await shop.click.look(order), *shop.books.ours(await shop.click.missed(shop.clock.began_ms))]:
        await shop.books.tell(event)

    states = [one.state for one in await shop.kept()]
    status = await shop.books.status(order)
    assert sum(state in (ClickState.CONFIRMED, ClickState.REVERSED) for state in states) <= 1
    assert (status is OrderStatus.PAID) == (ClickState.CONFIRMED in states)
    assert (status is OrderStatus.REFUNDED) == (ClickState.REVERSED in states)
    assert EventOutcome.QUARANTINED not in shop.books.outcomes

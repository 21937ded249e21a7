"""Payme's Merchant API: what each call is answered, what the books are told, and that both stay so whatever comes again."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.payments import payme_rpc as rpc
from servers.payments import rules
from servers.payments.payme import Payme
from servers.payments.payme_rpc import Code
from servers.payments.provider import Heard, Provider, RefundedByHand
from stores.money import EventOutcome, FactKind, Order, OrderStatus
from stores.payme_transactions import PaymeTransaction, PaymeTransactions
from tests.payments.books import HOUR_MS, PRODUCT, Clock, Till, ledger_in
from tests.payments.payme_simulator import KEY, TIMEOUT_MS, HttpCall, PaymeSimulator

NOBODYS = "01999999-0000-7000-8000-000000000000"
ACCOUNT = {Code.NO_ORDER, Code.PAID, Code.CLOSED, Code.BUSY}


class Shop:
    """Our side, and the simulated Payme that calls it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.clock = Clock()
        self.store = PaymeTransactions(pool)
        self.books = Till(ledger_in(pool), "payme")
        self.gateway = PaymeSimulator(self.clock.now_ms)
        self.payme = Payme(
            self.store,
            merchant="587f72c72cac0d162c722ae2",
            key=KEY,
            checkout_url="https://checkout.invalid/",
            return_url="https://exams.invalid/paid",
            live=False,
            now_ms=self.clock.now_ms,
        )

    async def raw(self, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        said = await self.payme.hear(Heard(headers, body, self.clock.at_ms), self.books)
        assert said.content_type == "application/json"
        answer: dict[str, Any] = json.loads(said.body)
        assert set(answer) in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
        return answer

    async def ask(self, call: HttpCall) -> Any:
        """Return a result, or the number of an error."""
        answer = await self.raw(*call)
        assert answer["id"] == json.loads(call[1])["id"]
        return answer["result"] if "result" in answer else answer["error"]["code"]

    async def kept(self) -> list[PaymeTransaction]:
        """Return the transactions of all orders."""
        return [one for order in self.books.orders for one in await self.store.of(order.id)]

    async def number(self, order: Order) -> str:
        """Return our name of an order's transaction."""
        (known,) = await self.store.of(order.id)
        return str(known.number)

    async def all(self, calls: Sequence[HttpCall]) -> list[Any]:
        return [await self.ask(call) for call in calls]


@pytest.fixture
def shop(pool: asyncpg.Pool) -> Shop:
    return Shop(pool)


async def kinds(shop: Shop, order: Order) -> set[FactKind]:
    return set(await shop.books.facts(order))


def test_payme_keeps_the_protocol_of_providers(shop: Shop) -> None:
    provider: Provider = shop.payme

    assert provider.name == "payme"
    assert not provider.live


@pytest.mark.parametrize("wrong", [{"key": ""}, {"key": " "}, {"merchant": ""}, {"merchant": "a;b"}, {"return_url": "x;a=1"}])
def test_it_does_not_start_with_what_would_let_anybody_in(pool: asyncpg.Pool, wrong: dict[str, str]) -> None:
    told = {"merchant": "m", "key": "k", "checkout_url": "https://c.invalid", "return_url": "https://r.invalid"} | wrong

    with pytest.raises(ValueError, match="Payme"):
        Payme(PaymeTransactions(pool), live=False, now_ms=Clock().now_ms, **told)


# The link


async def test_the_link_names_the_order_and_its_amount_in_tiyin(shop: Shop) -> None:
    order = await shop.books.order()

    opened = await shop.payme.open(order, PRODUCT)

    merchant, named, amount, back = shop.gateway.open(opened.url)
    assert (merchant, named, amount, back) == ("587f72c72cac0d162c722ae2", order.id, order.amount, "https://exams.invalid/paid")
    assert opened.ref == str(order.id)
    assert await shop.payme.open(order, PRODUCT) == opened


def test_it_takes_soums_only(shop: Shop) -> None:
    assert [currency for currency in ("UZS", "USD", "uzs", "") if shop.payme.takes(currency)] == ["UZS"]


# What happens


async def test_a_payment_is_told_before_payme_is_answered(shop: Shop) -> None:
    order = await shop.books.order()

    allowed, created, performed = await shop.all(shop.gateway.pay(order.id, order.amount))

    assert allowed == {"allow": True}
    assert created == {"create_time": shop.clock.at_ms, "transaction": await shop.number(order), "state": 1, "receivers": None}
    assert performed == {"transaction": await shop.number(order), "perform_time": shop.clock.at_ms, "state": 2}
    (paid,) = (await shop.books.facts(order))[FactKind.PAID]
    assert (paid.ref, paid.amount, paid.at_ms) == (shop.gateway.transaction(order.id), order.amount, shop.clock.at_ms)
    assert await shop.books.status(order) is OrderStatus.PAID


async def test_a_transaction_that_was_only_begun_tells_nothing(shop: Shop) -> None:
    order = await shop.books.order()

    await shop.all(shop.gateway.begin(order.id, order.amount))

    assert not shop.books.events
    assert await shop.payme.look(order) == []


@pytest.mark.parametrize(
    ("reason", "status"),
    [(reason, OrderStatus.EXPIRED if reason == 4 else OrderStatus.FAILED) for reason in (1, 2, 3, 4, 5, 10, 77)],
)
async def test_what_is_cancelled_before_it_is_performed_has_failed_or_expired(shop: Shop, reason: int, status: OrderStatus) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.begin(order.id, order.amount))

    cancelled = await shop.ask(shop.gateway.cancel(order.id, reason))

    assert cancelled == {"transaction": await shop.number(order), "cancel_time": shop.clock.at_ms, "state": -1}
    assert (await shop.ask(shop.gateway.check(order.id)))["reason"] == reason
    assert await shop.books.status(order) is status


async def test_what_is_cancelled_after_it_was_performed_is_refunded_whole(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.pay(order.id, order.amount))

    (cancelled,) = await shop.all(shop.gateway.refund(order.id))

    assert cancelled["state"] == -2
    (back,) = (await shop.books.facts(order))[FactKind.REFUNDED]
    assert (back.ref, back.amount) == (shop.gateway.transaction(order.id), order.amount)
    assert await shop.books.status(order) is OrderStatus.REFUNDED
    assert await shop.ask(shop.gateway.perform(order.id)) == Code.CANNOT_PERFORM


@pytest.mark.parametrize("story", ["pay", "fail", "expire"])
async def test_every_call_that_comes_twice_is_answered_the_same_and_told_once(shop: Shop, story: str) -> None:
    order = await shop.books.order()
    acts = getattr(shop.gateway, story)(order.id, order.amount)
    calls = [*acts[1:], shop.gateway.check(order.id)]  # the check before is of another moment

    for call in calls:
        first = await shop.raw(*call)
        told = len(shop.books.events)
        shop.clock.at_ms += 60_000

        assert await shop.raw(*call) == first
        assert len(shop.books.events) == told


async def test_a_refund_that_comes_twice_is_one(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.pay(order.id, order.amount))
    (refund,) = shop.gateway.refund(order.id)

    first = await shop.raw(*refund)
    shop.clock.at_ms += 60_000

    assert await shop.raw(*refund) == first
    assert (await shop.books.story(order)).refunded == order.amount
    assert [event.id.rpartition(":")[2] for event in shop.books.events] == ["PAID", "REFUNDED"]


async def test_a_repeated_cancellation_keeps_its_first_reason(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.fail(order.id, order.amount))

    await shop.ask(shop.gateway.cancel(order.id, 5))

    assert (await shop.ask(shop.gateway.check(order.id)))["reason"] == 2


# Twelve hours


@pytest.mark.parametrize(("late_ms", "result"), [(-1, 2), (0, -1), (HOUR_MS, -1)])
async def test_a_transaction_is_performed_within_twelve_hours_or_never(shop: Shop, late_ms: int, result: int) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.begin(order.id, order.amount))
    shop.clock.at_ms += TIMEOUT_MS + late_ms

    performed = await shop.ask(shop.gateway.perform(order.id))

    checked = await shop.ask(shop.gateway.check(order.id))
    assert checked["state"] == result
    if result == -1:
        assert performed == Code.CANNOT_PERFORM
        assert checked["reason"] == 4
        assert await shop.books.status(order) is OrderStatus.EXPIRED


@pytest.mark.parametrize("method", ["create_again", "check"])
async def test_whichever_call_finds_that_the_time_is_over_ends_the_transaction(shop: Shop, method: str) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.begin(order.id, order.amount))
    again = shop.gateway.create_again(order.id, order.amount)
    shop.clock.at_ms += TIMEOUT_MS

    await shop.ask(again if method == "create_again" else shop.gateway.check(order.id))

    assert await kinds(shop, order) == {FactKind.EXPIRED}
    assert await shop.ask(again) == Code.CANNOT_PERFORM


async def test_looking_ends_a_transaction_whose_time_is_over(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.begin(order.id, order.amount))
    shop.clock.at_ms += TIMEOUT_MS

    (event,) = await shop.payme.look(order)

    assert [fact.kind for fact in event.facts] == [FactKind.EXPIRED]


async def test_a_transaction_that_began_too_long_ago_is_not_begun(shop: Shop) -> None:
    order = await shop.books.order()
    call = shop.gateway.create(order.id, order.amount)
    shop.clock.at_ms += TIMEOUT_MS

    assert await shop.ask(call) == Code.CANNOT_PERFORM
    assert not await shop.kept()


async def test_a_transaction_from_the_future_lives_no_longer_than_others(shop: Shop) -> None:
    order = await shop.books.order()
    headers, body = shop.gateway.create(order.id, order.amount)
    request = json.loads(body)
    request["params"]["time"] += 30 * HOUR_MS
    await shop.raw(headers, json.dumps(request).encode())
    shop.clock.at_ms += TIMEOUT_MS

    assert await shop.ask(shop.gateway.perform(order.id)) == Code.CANNOT_PERFORM
    assert await kinds(shop, order) == {FactKind.EXPIRED}


# What is refused


@pytest.mark.parametrize("off", [-1, 1, -1_500_000, -1_500_001, 10**30])
async def test_any_other_amount_is_refused(shop: Shop, off: int) -> None:
    order = await shop.books.order()

    allowed, created = await shop.all(shop.gateway.begin(order.id, order.amount + off))

    assert allowed == created == Code.WRONG_AMOUNT
    assert not await shop.kept()


@pytest.mark.parametrize(
    ("differs", "code"),
    [
        ({"currency": "USD"}, Code.NO_ORDER),
        ({"live": True}, Code.NO_ORDER),
        ({"status": OrderStatus.PAID}, Code.PAID),
        ({"status": OrderStatus.REFUNDED}, Code.PAID),
        ({"status": OrderStatus.DISPUTED}, Code.PAID),
        ({"status": OrderStatus.LOST}, Code.PAID),
        ({"status": OrderStatus.FAILED}, Code.CLOSED),
        ({"status": OrderStatus.EXPIRED}, Code.CLOSED),
        ({"seconds": -1.0}, Code.CLOSED),
    ],
    ids=str,
)
async def test_an_order_that_cannot_be_paid_is_refused_with_a_reason_for_the_payer(
    shop: Shop, differs: dict[str, Any], code: Code
) -> None:
    order = await shop.books.order(**differs)

    for call in shop.gateway.begin(order.id, order.amount):
        error = (await shop.raw(*call))["error"]

        assert error["code"] == code
        assert error["data"] == "order"
        assert all(error["message"][language] for language in ("ru", "uz", "en"))
    assert not await shop.kept()


@pytest.mark.parametrize(
    "named",
    ["01999999-0000-7000-8000-000000000000", "", "1", "' OR 1=1 --", "\ud800", "\x00", 5, None, ["x"], {"a": 1}, "9" * 9_999],
)
async def test_an_order_that_there_is_not_is_an_error_of_the_account(shop: Shop, named: object) -> None:
    call = shop.gateway.call("CheckPerformTransaction", {"amount": 1, "account": {"order": named}})

    assert await shop.ask(call) == Code.NO_ORDER


async def test_an_order_takes_one_transaction_at_a_time(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.begin(order.id, order.amount))

    allowed, created = await shop.all(shop.gateway.begin(order.id, order.amount))

    assert allowed == created == Code.BUSY
    assert len(await shop.kept()) == 1


async def test_of_two_transactions_that_begin_at_once_one_does(shop: Shop) -> None:
    order = await shop.books.order()
    calls = [shop.gateway.create(order.id, order.amount) for _ in range(20)]

    answers = await asyncio.gather(*map(shop.ask, calls))

    assert sorted(answer == Code.BUSY for answer in answers) == [False] + [True] * 19


async def test_fifty_racing_copies_of_every_call_come_to_one_payment(shop: Shop) -> None:
    order = await shop.books.order()

    for call in shop.gateway.pay(order.id, order.amount)[1:]:
        answers = await asyncio.gather(*(shop.raw(*call) for _ in range(50)))
        assert all(answer == answers[0] for answer in answers)

    assert len(shop.books.events) == 1
    assert shop.books.outcomes.count(EventOutcome.QUARANTINED) == 0


async def test_a_transaction_of_another_order_or_amount_is_not_taken_for_the_same(shop: Shop) -> None:
    order, other = await shop.books.order(), await shop.books.order()
    await shop.all(shop.gateway.begin(order.id, order.amount))
    named = shop.gateway.transaction(order.id)

    def create(account: object, amount: int) -> HttpCall:
        told = {"id": named, "time": shop.clock.at_ms, "amount": amount, "account": {"order": str(account)}}
        return shop.gateway.call("CreateTransaction", told)

    assert await shop.ask(create(other.id, order.amount)) == Code.NO_ORDER
    assert await shop.ask(create(order.id, order.amount + 1)) == Code.WRONG_AMOUNT
    assert (await shop.ask(create(order.id, order.amount)))["state"] == 1


@pytest.mark.parametrize("method", ["PerformTransaction", "CancelTransaction", "CheckTransaction"])
async def test_a_transaction_that_there_is_not_is_not_found(shop: Shop, method: str) -> None:
    assert await shop.ask(shop.gateway.call(method, {"id": "f" * 24, "reason": 1})) == Code.NO_TRANSACTION


async def test_an_order_that_ended_meanwhile_is_not_performed(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.begin(order.id, order.amount))
    await shop.books.tell(rules.ended(order, FactKind.EXPIRED, shop.clock.at_ms))

    assert await shop.ask(shop.gateway.perform(order.id)) == Code.CANNOT_PERFORM
    assert FactKind.PAID not in await kinds(shop, order)


# Closing, looking, refunding


async def test_an_order_that_is_closed_begins_nothing_and_performs_nothing(shop: Shop) -> None:
    fresh, begun = await shop.books.order(), await shop.books.order()
    await shop.all(shop.gateway.begin(begun.id, begun.amount))

    for order in (fresh, begun):
        assert await shop.payme.close(order)
        assert await shop.payme.close(order)

    assert await shop.all(shop.gateway.begin(fresh.id, fresh.amount)) == [Code.BUSY, Code.BUSY]
    assert await shop.ask(shop.gateway.perform(begun.id)) == Code.CANNOT_PERFORM
    assert (await shop.ask(shop.gateway.check(begun.id)))["state"] == -1


async def test_an_order_that_is_paid_cannot_be_closed(shop: Shop) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.pay(order.id, order.amount))

    assert not await shop.payme.close(order)
    assert (await shop.ask(shop.gateway.check(order.id)))["state"] == 2


async def test_an_order_that_is_closed_while_it_is_paid_is_one_or_the_other(shop: Shop) -> None:
    for _ in range(10):
        order = await shop.books.order()
        await shop.all(shop.gateway.begin(order.id, order.amount))

        shut, performed = await asyncio.gather(shop.payme.close(order), shop.ask(shop.gateway.perform(order.id)))

        assert shut == (performed == Code.CANNOT_PERFORM)
        assert shut == (FactKind.PAID not in await kinds(shop, order))


@pytest.mark.parametrize("story", ["pay", "fail", "expire", "refund"])
async def test_looking_tells_the_same_events_as_the_calls(shop: Shop, story: str) -> None:
    order = await shop.books.order()
    acts = shop.gateway.pay if story == "refund" else getattr(shop.gateway, story)
    await shop.all(acts(order.id, order.amount))
    if story == "refund":
        await shop.all(shop.gateway.refund(order.id))

    assert await shop.payme.look(order) == shop.books.events
    assert shop.books.ours(await shop.payme.missed(shop.clock.began_ms)) == shop.books.events
    assert shop.books.ours(await shop.payme.missed(shop.clock.at_ms + 1)) == []


@pytest.mark.parametrize("act", ["perform", "cancel"])
async def test_what_was_kept_and_not_told_is_told_when_payme_asks_again(shop: Shop, act: str) -> None:
    """We die between the two: the order is not paid in the books, and the next copy of the call makes up for it."""
    order = await shop.books.order()
    await shop.all(shop.gateway.begin(order.id, order.amount))
    await shop.store.perform(shop.gateway.transaction(order.id), shop.clock.at_ms, 0)
    if act == "cancel":
        await shop.store.cancel(shop.gateway.transaction(order.id), 5, shop.clock.at_ms)

    await shop.ask(shop.gateway.perform(order.id) if act == "perform" else shop.gateway.cancel(order.id, 5))

    assert await shop.books.status(order) is (OrderStatus.PAID if act == "perform" else OrderStatus.REFUNDED)


async def test_a_refund_is_made_by_hand(shop: Shop) -> None:
    with pytest.raises(RefundedByHand):
        await shop.payme.refund(await shop.books.order(), 1, "key")


async def test_a_payment_that_the_books_quarantine_is_answered_as_an_error_of_ours(shop: Shop, pool: asyncpg.Pool) -> None:
    class Meddled(Till):
        async def find(self, order: str) -> Order | None:
            found = await super().find(order)
            await pool.execute("UPDATE payment SET amount = amount + 1 WHERE id = $1", UUID(order))
            return found

    order = await shop.books.order()
    await shop.all(shop.gateway.begin(order.id, order.amount))
    shop.books = Meddled(shop.books.ledger, "payme")

    assert await shop.ask(shop.gateway.perform(order.id)) == Code.SYSTEM
    assert shop.books.outcomes == [EventOutcome.QUARANTINED]


# The statement


async def test_the_statement_lists_what_was_begun_in_a_time_both_ends_included(shop: Shop) -> None:
    start_ms, orders = shop.clock.at_ms, [await shop.books.order() for _ in range(4)]
    for order in orders:
        await shop.all(shop.gateway.pay(order.id, order.amount))
        shop.clock.at_ms += 1_000
    await shop.payme.close(await shop.books.order())

    told = (await shop.ask(shop.gateway.statement(start_ms + 1_000, start_ms + 2_000)))["transactions"]

    found = [one for one in told if one["account"]["order"] in {str(order.id) for order in orders}]  # others' are listed too
    assert [one["account"]["order"] for one in found] == [str(order.id) for order in orders[1:3]]
    assert found[0] == {
        "id": shop.gateway.transaction(orders[1].id),
        "time": start_ms + 1_000,
        "amount": orders[1].amount,
        "account": {"order": str(orders[1].id)},
        "create_time": start_ms + 1_000,
        "perform_time": start_ms + 1_000,
        "cancel_time": 0,
        "transaction": await shop.number(orders[1]),
        "state": 2,
        "reason": None,
        "receivers": None,
    }
    assert await shop.ask(shop.gateway.statement(0, 1)) == {"transactions": []}


# Who calls


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic é",
        "Basic " + base64.b64encode(b"Paycom:").decode(),
        "Basic " + base64.b64encode(f"Paycom:{KEY}x".encode()).decode(),
        "Basic " + base64.b64encode(f"paycom:{KEY}".encode()).decode(),
        "Basic " + base64.b64encode(b"\xff\xfe").decode(),
        "Bearer " + base64.b64encode(f"Paycom:{KEY}".encode()).decode(),
        base64.b64encode(f"Paycom:{KEY}".encode()).decode(),
    ],
)
async def test_whoever_does_not_know_the_key_is_refused_and_tells_nothing(shop: Shop, authorization: str | None) -> None:
    order = await shop.books.order()
    await shop.all(shop.gateway.begin(order.id, order.amount))
    headers = {} if authorization is None else {"authorization": authorization}

    for _, body in [shop.gateway.perform(order.id), shop.gateway.cancel(order.id, 1), ({}, b"not JSON")]:
        assert (await shop.raw(headers, body))["error"]["code"] == Code.NOT_ALLOWED

    assert not shop.books.events
    assert (await shop.ask(shop.gateway.check(order.id)))["state"] == 1


# Errors

PARAMS: dict[str, object] = {"id": "a" * 24, "time": 1, "amount": 1, "account": {}, "reason": 1, "from": 0, "to": 0}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", Code.NOT_JSON),
        (b"{", Code.NOT_JSON),
        (b"\xff\xfe", Code.NOT_JSON),
        (b'{"id": NaN}', Code.NOT_JSON),
        (b"[" * 100_000, Code.NOT_JSON),
        (b'{"id": ' + b"9" * 5_000 + b"}", Code.NOT_JSON),
        (b"null", Code.NOT_A_REQUEST),
        (b"[]", Code.NOT_A_REQUEST),
        (b"{}", Code.NOT_A_REQUEST),
        (b'{"method": 1, "params": {}}', Code.NOT_A_REQUEST),
        (b'{"method": "CheckTransaction"}', Code.NOT_A_REQUEST),
        (b'{"method": "CheckTransaction", "params": []}', Code.NOT_A_REQUEST),
        (b'{"method": "", "params": {}}', Code.NO_METHOD),
        (b'{"method": "ChangePassword", "params": {"password": "x"}}', Code.NO_METHOD),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_no_request_has_its_error(shop: Shop, body: bytes, code: Code) -> None:
    answer = await shop.raw(shop.gateway.headers(), body)

    assert answer["error"]["code"] == code
    assert answer["id"] is None


async def test_an_unknown_method_is_named_in_the_error(shop: Shop) -> None:
    answer = await shop.raw(*shop.gateway.call("Pay", {}))

    assert answer["error"]["data"] == "Pay"


async def test_a_call_that_is_not_posted_has_its_error(shop: Shop) -> None:
    headers, body = shop.gateway.statement(0, 1)

    assert (await shop.raw(headers | {":method": "GET"}, body))["error"]["code"] == Code.NOT_POST


@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("CheckPerformTransaction", "amount"),
        ("CheckPerformTransaction", "account"),
        *(("CreateTransaction", field) for field in ("id", "time", "amount", "account")),
        ("PerformTransaction", "id"),
        ("CancelTransaction", "id"),
        ("CancelTransaction", "reason"),
        ("CheckTransaction", "id"),
        ("GetStatement", "from"),
        ("GetStatement", "to"),
    ],
)
@pytest.mark.parametrize("value", [None, "1", 1.0, True, [], -1, 10**40, "\x00", "ё" * 24], ids=repr)
async def test_a_field_of_another_type_is_no_request(shop: Shop, method: str, field: str, value: object) -> None:
    account = {"order": str((await shop.books.order()).id)}

    for params in (PARAMS | {"account": account, field: value}, {k: v for k, v in PARAMS.items() if k != field}):
        answer = await shop.raw(*shop.gateway.call(method, params))

        codes = {Code.NOT_A_REQUEST} | ({Code.WRONG_AMOUNT} if field == "amount" and type(value) is int else set())
        assert answer["error"]["code"] in codes
    assert not await shop.kept()


def test_every_error_of_the_protocol_has_words_in_three_languages() -> None:
    documented = {-32300, -32700, -32600, -32601, -32504, -32400, -31001, -31003, -31007, -31008}

    assert {int(code) for code in Code} - {int(code) for code in ACCOUNT} == documented
    assert all(-31099 <= code <= -31050 for code in ACCOUNT)
    assert set(rpc.WORDS) == set(Code)
    assert all(len(set(words)) == 3 and all(words) for words in rpc.WORDS.values())


# Whatever comes

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
methods = st.sampled_from(
    [
        *("CheckPerformTransaction", "CreateTransaction", "PerformTransaction"),
        *("CancelTransaction", "CheckTransaction", "GetStatement"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(body=st.binary() | anything.map(lambda found: json.dumps(found).encode()))
async def test_any_body_is_answered(pool: asyncpg.Pool, body: bytes) -> None:
    shop = Shop(pool)

    assert "error" in await shop.raw(shop.gateway.headers(), body)
    assert not shop.books.events


@settings(max_examples=60, deadline=None)
@given(
    id=anything,
    method=methods,
    params=st.dictionaries(st.sampled_from(sorted(PARAMS)), anything | st.integers(-1, 20), max_size=7),
    named=st.booleans(),
)
async def test_any_parameters_are_answered(
    pool: asyncpg.Pool, id: object, method: str, params: dict[str, object], named: bool
) -> None:
    shop = Shop(pool)
    order = await shop.books.order()
    told = params | ({"account": {"order": str(order.id)}, "id": uuid4().hex[:24]} if named else {})

    await shop.raw(shop.gateway.headers(), json.dumps({"id": id, "method": method, "params": told}).encode())

    assert not shop.books.events


async def test_nothing_that_looks_like_a_card_is_kept(shop: Shop) -> None:
    order, card = await shop.books.order(), "8600123412341234"
    for headers, body in shop.gateway.pay(order.id, order.amount):
        request = json.loads(body)
        request["params"] |= {"card": card, "note": card}
        request["params"].get("account", {})["pan"] = card
        await shop.raw(headers, json.dumps(request).encode())

    assert await shop.books.status(order) is OrderStatus.PAID
    assert card not in f"{shop.books.events}{await shop.kept()}"


acts = st.sampled_from(["check_perform", "create", "create_again", "perform", "cancel2", "cancel4", "cancel5", "check", "wait"])


@settings(max_examples=60, deadline=None)
@given(story=st.lists(acts, max_size=12))
async def test_whatever_payme_does_the_books_say_what_its_transactions_say(pool: asyncpg.Pool, story: Sequence[str]) -> None:
    shop = Shop(pool)
    order = await shop.books.order()
    shop.gateway.create(order.id, order.amount)  # a name for those acts that come before it is begun
    for act in story:
        match act:
            case "wait":
                shop.clock.at_ms += TIMEOUT_MS // 2
            case "check_perform" | "create" | "create_again":
                await shop.ask(getattr(shop.gateway, act)(order.id, order.amount))
            case "perform" | "check":
                await shop.ask(getattr(shop.gateway, act)(order.id))
            case _:
                await shop.ask(shop.gateway.cancel(order.id, int(act[-1])))

    states = [int(one.state) for one in await shop.kept()]
    status = await shop.books.status(order)
    assert sum(state in (2, -2) for state in states) <= 1
    assert (status is OrderStatus.PAID) == (2 in states)
    assert (status is OrderStatus.REFUNDED) == (-2 in states and 2 not in states)
    assert EventOutcome.QUARANTINED not in shop.books.outcomes

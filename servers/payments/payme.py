"""Payme: the student pays on its page, and it asks us, by its Merchant API, whether it may and when it has.

Payme's calls name our order; a transaction is its try to pay one. Every answer comes from the transaction as it is kept, so a call
that comes again is answered the same, and every event is derived from it too, so that telling it again is a replay.
"""

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from servers.payments import payme_rpc as rpc
from servers.payments.payme_rpc import Code, Json, Refused
from servers.payments.provider import Books, Heard, Opened, RefundedByHand, Said, our_clock, way_back
from stores.money import Claimed, Event, EventOutcome, Fact, FactKind, Order, OrderStatus, Product
from stores.payme_transactions import PaymeBegun, PaymeState, PaymeTransaction

CURRENCY = "UZS"
TIMEOUT_MS = 43_200_000
"""A transaction that is not performed within 12 hours of its beginning never will be."""

TIMED_OUT, UNKNOWN = 4, 10
"""Reasons of a cancellation. Payme has none for a shop that closes an order, so that is of unknown reason."""

UNPAID = frozenset({OrderStatus.FAILED, OrderStatus.EXPIRED})


class Transactions(Protocol):
    """Where Payme's transactions are remembered. Each method is one atomic act, and returns what is so after it."""

    async def create(self, begun: PaymeBegun) -> PaymeTransaction | None:
        """Keep a transaction once; None: its order has another one that is created or performed, or is closed."""

    async def find(self, transaction: str) -> PaymeTransaction | None:
        """Return a transaction by Payme's name of it."""

    async def live(self, order: UUID) -> bool:
        """Return whether an order takes no other transaction."""

    async def perform(self, transaction: str, now_ms: int, oldest_ms: int) -> PaymeTransaction | None:
        """Perform a transaction that is created, and began after `oldest_ms`."""

    async def cancel(self, transaction: str, reason: int, now_ms: int) -> PaymeTransaction | None:
        """Cancel a transaction, performed or not."""

    async def expire(self, transaction: str, reason: int, now_ms: int) -> PaymeTransaction | None:
        """Cancel a transaction unless it is performed."""

    async def close(self, order: UUID, reason: int, now_ms: int) -> bool:
        """Take no transaction of an order any more, and cancel one that is created; False: one is performed."""

    async def of(self, order: UUID) -> Sequence[PaymeTransaction]:
        """Return an order's transactions, in the order in which they began."""

    async def statement(self, from_ms: int, to_ms: int) -> Sequence[PaymeTransaction]:
        """Return the transactions that began in a time by Payme's clock, both ends included, the oldest first."""

    async def changed(self, since_ms: int) -> Sequence[PaymeTransaction]:
        """Return the transactions that were performed or cancelled since then by our clock."""


class Payme:
    """Keeps the Provider protocol. Nothing here calls Payme: its page is a link, and the rest it asks of us."""

    name: str = "payme"

    def __init__(
        self,
        transactions: Transactions,
        *,
        merchant: str,
        key: str,
        checkout_url: str,
        return_url: str,
        live: bool,
        now_ms: Callable[[], int] = our_clock,
    ) -> None:
        """`merchant` is the cash desk's id; `key` its key, or its test key where not `live`.

        Raises ValueError for an empty key, with which anybody could sign, and for what would break the link's parameters.
        """
        if not key.strip():
            raise ValueError("Payme needs a key.")
        if not merchant or ";" in merchant + return_url:
            raise ValueError("Payme's merchant is empty, or it or the return URL has a semicolon.")
        self.live: bool = live
        self._transactions = transactions
        self._merchant = merchant
        self._credentials = f"Paycom:{key}".encode()
        self._checkout_url = checkout_url.rstrip("/")
        self._return_url = return_url
        self._now_ms = now_ms

    def takes(self, currency: str) -> bool:
        """Return whether it is the one currency that Payme takes."""
        return currency == CURRENCY

    async def stop(self) -> None:
        """There are no connections to close."""

    # What we do

    async def open(self, order: Order, product: Product) -> Opened:
        """Return the link to an order's page; Payme learns of the order from it."""
        told = f"m={self._merchant};ac.{rpc.ACCOUNT_FIELD}={order.id};a={order.amount};c={way_back(self._return_url, order)}"
        return Opened(str(order.id), f"{self._checkout_url}/{base64.b64encode(told.encode()).decode()}")

    async def close(self, order: Order) -> bool:
        """Let Payme begin nothing more for an order, and perform nothing that it has begun; False: it is paid."""
        return await self._transactions.close(order.id, UNKNOWN, self._now_ms())

    async def look(self, order: Order) -> Sequence[Event]:
        """Return what Payme has said of an order, for what was kept and not told; what has timed out meanwhile ends here."""
        found = [await self._in_time(one, self._now_ms()) for one in await self._transactions.of(order.id)]
        return [event for one in found for event in events(one, self.live)]

    async def missed(self, since_ms: int) -> Sequence[Event]:
        """Return what Payme has said since then, for what was kept and not told."""
        return [event for one in await self._transactions.changed(since_ms) for event in events(one, self.live)]

    async def refund(self, order: Order, amount: int, key: str) -> None:
        """Raise RefundedByHand: money is given back in Payme's cabinet, all of it, and Payme then cancels the transaction here."""
        raise RefundedByHand("Payme has no call for refunds; make it in its cabinet.")

    # What Payme asks

    async def hear(self, heard: Heard, books: Books) -> Said:
        """Answer a call, a forged one too: the protocol has an error for everything, so nothing is raised but by stores.

        A store that is away makes no answer, which Payme takes for -32400 and repeats.
        """
        request = rpc.read(heard.body)
        try:
            self._admit(heard.headers)
            if request.refused is not None:
                raise request.refused
            result = await self._result(request, heard.now_ms, books)
        except Refused as refused:
            return Said(rpc.refusal(request, refused))
        return Said(rpc.answer(request, result))

    def _admit(self, headers: Mapping[str, str]) -> None:
        """Refuse whoever does not know the key. `:method` is HTTP/2's name of the verb; where it is not passed on, it was POST."""
        if headers.get(":method", "POST") != "POST":
            raise Refused(Code.NOT_POST)
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        try:
            credentials = base64.b64decode(sent.strip().encode(), validate=True)
        except (binascii.Error, ValueError):
            raise Refused(Code.NOT_ALLOWED) from None
        if scheme.lower() != "basic" or not hmac.compare_digest(credentials, self._credentials):
            raise Refused(Code.NOT_ALLOWED)

    async def _result(self, request: rpc.Request, now_ms: int, books: Books) -> Json:
        match request.method:
            case "CheckPerformTransaction":
                return await self._check_perform(request.params, now_ms, books)
            case "CreateTransaction":
                return await self._create(request.params, now_ms, books)
            case "PerformTransaction":
                return await self._perform(request.params, now_ms, books)
            case "CancelTransaction":
                return await self._cancel(request.params, now_ms, books)
            case "CheckTransaction":
                return rpc.status(await self._known(request.params, now_ms, books))
            case "GetStatement":
                from_ms, to_ms = rpc.moment(request.params, "from"), rpc.moment(request.params, "to")
                return {"transactions": [rpc.entry(one) for one in await self._transactions.statement(from_ms, to_ms)]}
            case unknown:
                raise Refused(Code.NO_METHOD, unknown[: rpc.LONGEST_ECHO])

    async def _check_perform(self, params: Json, now_ms: int, books: Books) -> Json:
        amount = rpc.whole_number(params, "amount")
        order = await self._order(params, books)
        _payable(order, amount, now_ms)
        if await self._transactions.live(order.id):
            raise Refused(Code.BUSY, rpc.ACCOUNT_FIELD)
        return {"allow": True}

    async def _create(self, params: Json, now_ms: int, books: Books) -> Json:
        named, amount, time_ms = rpc.transaction_id(params), rpc.whole_number(params, "amount"), rpc.moment(params, "time")
        order = await self._order(params, books)
        known = await self._transactions.find(named)
        if known is None:
            _payable(order, amount, now_ms)
            if time_ms + TIMEOUT_MS <= now_ms:
                raise Refused(Code.CANNOT_PERFORM)
            known = await self._transactions.create(PaymeBegun(named, order.id, amount, time_ms, now_ms))
        if known is None:
            raise Refused(Code.BUSY, rpc.ACCOUNT_FIELD)
        if known.order != order.id:
            raise Refused(Code.NO_ORDER, rpc.ACCOUNT_FIELD)
        if known.amount != amount:
            raise Refused(Code.WRONG_AMOUNT)
        known = await self._told(await self._in_time(known, now_ms), books)
        if known.state is not PaymeState.CREATED:
            raise Refused(Code.CANNOT_PERFORM)
        return {"create_time": known.created_ms, "transaction": str(known.number), "state": int(known.state), "receivers": None}

    async def _perform(self, params: Json, now_ms: int, books: Books) -> Json:
        known = await self._known(params, now_ms, books)
        if known.state is PaymeState.CREATED:
            order = await books.find(str(known.order))
            if order is None or order.status is not OrderStatus.OPEN:
                raise Refused(Code.CANNOT_PERFORM)
            known = await self._transactions.perform(known.id, now_ms, now_ms - TIMEOUT_MS) or known
            await self._told(known, books)
        if known.state is not PaymeState.PERFORMED:
            raise Refused(Code.CANNOT_PERFORM)
        return {"transaction": str(known.number), "perform_time": known.performed_ms, "state": int(known.state)}

    async def _cancel(self, params: Json, now_ms: int, books: Books) -> Json:
        named, reason = rpc.transaction_id(params), rpc.reason(params)
        known = await self._transactions.cancel(named, reason, now_ms)
        if known is None:
            raise Refused(Code.NO_TRANSACTION)
        await self._told(known, books)
        return {"transaction": str(known.number), "cancel_time": known.cancelled_ms, "state": int(known.state)}

    async def _order(self, params: Json, books: Books) -> Order:
        """Return the order that an account names; one in another currency or mode is none of Payme's."""
        order = await books.find(rpc.order_id(params))
        if order is None or order.currency != CURRENCY or order.live != self.live:
            raise Refused(Code.NO_ORDER, rpc.ACCOUNT_FIELD)
        return order

    async def _known(self, params: Json, now_ms: int, books: Books) -> PaymeTransaction:
        """Return the transaction that is asked after, as it is now, with the books up to it: we may have died in between."""
        known = await self._transactions.find(rpc.transaction_id(params))
        if known is None:
            raise Refused(Code.NO_TRANSACTION)
        return await self._told(await self._in_time(known, now_ms), books)

    async def _in_time(self, known: PaymeTransaction, now_ms: int) -> PaymeTransaction:
        """Return a transaction as it is now: cancelled where its time is over."""
        if known.state is not PaymeState.CREATED or min(known.time_ms, known.created_ms) + TIMEOUT_MS > now_ms:
            return known
        return await self._transactions.expire(known.id, TIMED_OUT, now_ms) or known

    async def _told(self, known: PaymeTransaction, books: Books) -> PaymeTransaction:
        """Tell the books what has become of a transaction, before anybody is answered."""
        for event in events(known, self.live):
            told = await books.tell(event)
            if told.outcome is EventOutcome.QUARANTINED:  # the order was checked before: somebody has to look
                raise Refused(Code.SYSTEM)
        return known


def events(known: PaymeTransaction, live: bool) -> Sequence[Event]:
    """Return what a transaction tells: always the same events with the same ids for the same state.

    One that was cancelled after it was performed tells its payment too, so that the books come to the same end where they never
    heard of that.
    """
    paid = _event(known, live, "PerformTransaction", Fact(FactKind.PAID, known.id, known.amount, known.performed_ms))
    match known.state:
        case PaymeState.CREATED:
            return []
        case PaymeState.PERFORMED:
            return [paid]
        case PaymeState.REFUNDED:
            back = Fact(FactKind.REFUNDED, known.id, known.amount, known.cancelled_ms)
            return [paid, _event(known, live, "CancelTransaction", back)]
        case PaymeState.CANCELLED:
            kind = FactKind.EXPIRED if known.reason == TIMED_OUT else FactKind.FAILED
            return [_event(known, live, "CancelTransaction", Fact(kind, known.id, 0, known.cancelled_ms))]


def _event(known: PaymeTransaction, live: bool, method: str, fact: Fact) -> Event:
    """Return an event; what is kept of Payme's message are the fields named here, and none of them can be a card's."""
    reason = None if fact.kind is FactKind.PAID else known.reason
    kept = {"method": method, "id": known.id, "order": str(known.order), "amount": known.amount, "reason": reason}
    claimed = Claimed(known.order, None, known.amount, CURRENCY, None, live)
    return Event(f"{method}:{known.id}:{fact.kind}", method, json.dumps(kept).encode(), claimed, [fact])


def _payable(order: Order, amount: int, now_ms: int) -> None:
    """Refuse to begin what cannot be paid: only an open order can, in time, and only its own amount."""
    if order.status in UNPAID or (order.status is OrderStatus.OPEN and now_ms >= order.expires_ms):
        raise Refused(Code.CLOSED, rpc.ACCOUNT_FIELD)
    if order.status is not OrderStatus.OPEN:
        raise Refused(Code.PAID, rpc.ACCOUNT_FIELD)
    if amount != order.amount:
        raise Refused(Code.WRONG_AMOUNT)

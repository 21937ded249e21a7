"""Click: the student pays on its page, and it asks us, by its SHOP API, to prepare a payment and to complete it.

A payment is kept from Prepare on, under a number of ours, `merchant_prepare_id`: stored rather than computed from the order, since
an order may be tried more than once, and which of the tries pays it is decided in one place. Every event is derived from what is
kept, so that telling it again is a replay. Click's error notes, the only free text it sends, are not kept.
"""

import json
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Protocol
from urllib.parse import urlencode
from uuid import UUID

from servers.payments import click_shop as shop
from servers.payments.click_api import SUCCESSFUL, MerchantApi
from servers.payments.click_shop import Action, Code, Form
from servers.payments.provider import (
    OLDEST_SECONDS,
    Books,
    GatewayRefused,
    Heard,
    Opened,
    RefundedByHand,
    Said,
    our_clock,
    way_back,
)
from stores.click_payments import ClickBegun, ClickPayment, ClickState
from stores.money import Claimed, Event, EventOutcome, Fact, FactKind, Order, OrderStatus, Product

CURRENCY = "UZS"
NEVER_PAID = frozenset({OrderStatus.OPEN, OrderStatus.FAILED, OrderStatus.EXPIRED})


class Payments(Protocol):
    """Where Click's payments are remembered. Each method is one atomic act, and returns what is so after it."""

    async def prepare(self, begun: ClickBegun) -> ClickPayment | None:
        """Keep a payment once; None: its order is paid, or closed."""

    async def find(self, trans: int) -> ClickPayment | None:
        """Return a payment by Click's name of the try."""

    async def confirm(self, known: ClickPayment, now_ms: int) -> ClickPayment | None:
        """Confirm a payment that is prepared, or cancel it where its order is paid by another, or closed."""

    async def cancel(self, trans: int, now_ms: int) -> ClickPayment | None:
        """Cancel a payment that is prepared."""

    async def reverse(self, trans: int, now_ms: int) -> None:
        """Note that a payment that was confirmed is given back."""

    async def close(self, order: UUID, now_ms: int) -> bool:
        """Take no payment of an order any more, and cancel what is prepared; False: one is confirmed."""

    async def of(self, order: UUID) -> Sequence[ClickPayment]:
        """Return an order's payments, in the order in which they began."""

    async def changed(self, since_ms: int) -> Sequence[ClickPayment]:
        """Return the payments that were confirmed, cancelled or given back since then."""


class Click:
    """Keeps the Provider protocol."""

    name: str = "click"

    def __init__(
        self,
        payments: Payments,
        api: MerchantApi,
        *,
        service: str,
        merchant: str,
        secret: str,
        checkout_url: str,
        return_url: str,
        live: bool,
        now_ms: Callable[[], int] = our_clock,
    ) -> None:
        """`service` and `merchant` are Click's ids of us. Raises ValueError for an empty secret, with which anybody could sign."""
        if not secret.strip():
            raise ValueError("Click needs a secret.")
        self.live: bool = live
        self._payments = payments
        self._api = api
        self._service = service
        self._merchant = merchant
        self._secret = secret
        self._checkout_url = checkout_url
        self._return_url = return_url
        self._now_ms = now_ms

    def takes(self, currency: str) -> bool:
        """Return whether it is the one currency that Click takes."""
        return currency == CURRENCY

    async def stop(self) -> None:
        """Close the connections to Click."""
        await self._api.stop()

    # What we do

    async def open(self, order: Order, product: Product) -> Opened:
        """Return the link to an order's page; Click learns of the order from it."""
        told = {
            "service_id": self._service,
            "merchant_id": self._merchant,
            "amount": shop.soums(order.amount),
            "transaction_param": str(order.id),
            "return_url": way_back(self._return_url, order),
        }
        return Opened(str(order.id), f"{self._checkout_url}?{urlencode(told)}")

    async def close(self, order: Order) -> bool:
        """Let Click prepare nothing more for an order, and complete nothing; False: it is paid. Raises GatewayAway.

        What is prepared is asked after first: its money may be taken, and only the word of it lost. What is completed after this is
        answered as cancelled, and Click gives it back.
        """
        await self._settle(order)
        return await self._payments.close(order.id, self._now_ms())

    async def look(self, order: Order) -> Sequence[Event]:
        """Return what has become of an order's payments; Click is asked after those that are only prepared. Raises GatewayAway."""
        await self._settle(order)
        return [event for one in await self._payments.of(order.id) for event in events(one, self.live)]

    async def missed(self, since_ms: int) -> Sequence[Event]:
        """Return what has happened since then, for what was kept and not told: refunds too, which Click sends no word of."""
        return [event for one in await self._payments.changed(since_ms) for event in events(one, self.live)]

    async def refund(self, order: Order, amount: int, key: str) -> None:
        """Have Click give a whole payment back: once, whatever the key. `missed` and `look` tell of it, since Click does not.

        Raises GatewayAway, GatewayRefused where nothing is paid, and RefundedByHand for a part: Click has a call for it but no
        key, so that one whose answer is lost could not be asked again.
        """
        if amount != order.amount:
            raise RefundedByHand("A part is given back in Click's cabinet.")
        known = await self._payments.of(order.id)
        if any(one.state is ClickState.REVERSED for one in known):
            return
        paid = next((one for one in known if one.state is ClickState.CONFIRMED), None)
        if paid is None:
            raise GatewayRefused("Click has not completed a payment of this order.")
        await self._api.reverse(paid.paydoc)
        await self._payments.reverse(paid.trans, self._now_ms())

    async def _settle(self, order: Order) -> None:
        """Ask after payments that were prepared and never completed: Click's answer may have been lost, or ours.

        Its answer has no amount: it is the prepared one's, which was signed and is the order's.
        """
        for one in reversed(await self._payments.of(order.id)):
            if one.state is not ClickState.PREPARED:
                continue
            day, today = _day(one.prepared_ms), _day(self._now_ms())
            found = await self._api.payment(one.order, day)
            if found is None and day < today:  # it may have been made after midnight
                found = await self._api.payment(one.order, day + timedelta(days=1))
            status = await self._api.status(found) if found == one.paydoc else None
            if status == SUCCESSFUL:
                await self._payments.confirm(one, self._now_ms())
            elif status is not None and status < 0:
                await self._payments.cancel(one.trans, self._now_ms())

    # What Click asks

    async def hear(self, heard: Heard, books: Books) -> Said:
        """Answer a call, a forged one too: the protocol has an error for everything, so nothing is raised but by stores."""
        form = shop.read(heard.body)
        if form is None:
            return Said(shop.reply(None, Code.BAD_REQUEST))
        code, number = await self._come_to(form, heard.now_ms, books)
        return Said(shop.reply(form, code, number))

    async def _come_to(self, form: Form, now_ms: int, books: Books) -> tuple[Code, int | None]:
        """Return what a call comes to, and our number of its payment; the checks are in the order of Click's own sample."""
        if not shop.signed(form, self._secret) or not shop.fresh(form, now_ms, OLDEST_SECONDS):
            return Code.FORGED, None
        if form.action is None:
            return Code.NO_ACTION, None
        if form.sent["service_id"] != self._service:
            return Code.BAD_REQUEST, None
        order = await books.find(form.order) if form.order else None
        if order is None or order.currency != CURRENCY or order.live != self.live:
            return Code.NO_ORDER, None
        if form.amount != order.amount:
            return Code.WRONG_AMOUNT, None
        if form.action is Action.PREPARE:
            return await self._prepare(form, order, now_ms)
        return await self._complete(form, order, now_ms, books)

    async def _prepare(self, form: Form, order: Order, now_ms: int) -> tuple[Code, int | None]:
        """Keep a payment that may be made; asked again, it has the same number."""
        if order.status not in NEVER_PAID:
            return Code.ALREADY_PAID, None
        if form.error < 0 or order.status is not OrderStatus.OPEN or now_ms >= order.expires_ms:
            return Code.CANCELLED, None
        known = await self._payments.prepare(ClickBegun(form.trans, form.paydoc, order.id, order.amount, now_ms))
        if known is None:
            return Code.CANCELLED, None
        if known.order != order.id:
            return Code.BAD_REQUEST, None
        match known.state:
            case ClickState.PREPARED:
                return Code.OK, known.number
            case ClickState.CONFIRMED:
                return Code.ALREADY_PAID, known.number
            case ClickState.CANCELLED | ClickState.REVERSED:
                return Code.CANCELLED, known.number

    async def _complete(self, form: Form, order: Order, now_ms: int, books: Books) -> tuple[Code, int | None]:
        """Confirm a payment, or cancel it where Click says so, or its order cannot be paid any more: then Click gives it back.

        The books are told before Click is answered, and again when it asks again, since we may have died in between.
        """
        known = await self._payments.find(form.trans)
        if known is None or known.order != order.id or known.number != form.prepared:
            return Code.NO_TRANSACTION, None
        new = known.state is ClickState.PREPARED
        if new and (form.error < 0 or order.status is not OrderStatus.OPEN):
            known = await self._payments.cancel(known.trans, now_ms) or known
        elif new:
            known = await self._payments.confirm(known, now_ms) or known
        for event in events(known, self.live):
            told = await books.tell(event)
            if told.outcome is EventOutcome.QUARANTINED:  # the order was checked before: somebody has to look
                return Code.NOT_UPDATED, known.number
        if known.state is ClickState.CONFIRMED:
            return (Code.OK if new and form.error >= 0 else Code.ALREADY_PAID), known.number
        return Code.CANCELLED, known.number


def events(known: ClickPayment, live: bool) -> Sequence[Event]:
    """Return what a payment tells: always the same events with the same ids for the same state."""
    paid = Fact(FactKind.PAID, str(known.paydoc), known.amount, known.confirmed_ms)
    match known.state:
        case ClickState.PREPARED:
            return []
        case ClickState.CONFIRMED:
            return [_event(known, live, "Complete", paid)]
        case ClickState.REVERSED:
            back = Fact(FactKind.REFUNDED, str(known.paydoc), known.amount, known.cancelled_ms)
            return [_event(known, live, "Complete", paid), _event(known, live, "reversal", back)]
        case ClickState.CANCELLED:
            return [_event(known, live, "Complete", Fact(FactKind.FAILED, str(known.trans), 0, known.cancelled_ms))]


def _event(known: ClickPayment, live: bool, method: str, fact: Fact) -> Event:
    """Return an event; what is kept of Click's message are the fields named here, and none of them can be a card's."""
    kept = {
        "method": method,
        "click_trans_id": known.trans,
        "click_paydoc_id": known.paydoc,
        "merchant_trans_id": str(known.order),
        "merchant_prepare_id": known.number,
        "amount": shop.soums(known.amount),
    }
    claimed = Claimed(known.order, None, known.amount, CURRENCY, None, live)
    return Event(f"{method}:{known.trans}:{fact.kind}", method, json.dumps(kept).encode(), claimed, [fact])


def _day(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1000, shop.TASHKENT).date()

"""Stripe, by Checkout Sessions: an order is a session, its payment a payment intent, and both name the order."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import stripe

from servers.payments import stripe_objects as objects
from servers.payments.provider import (
    OLDEST_SECONDS,
    Books,
    Forged,
    GatewayAway,
    GatewayRefused,
    Heard,
    Opened,
    Said,
    pay_page,
    way_back,
)
from servers.payments.stripe_objects import DISPUTE_KINDS, REFUND_KINDS, SESSION_KINDS, Json, part, ref, word
from stores.money import Claimed, Event, Fact, Order, Product

if TYPE_CHECKING:
    from stripe.params import EventListParamsCreated
    from stripe.params.checkout import (
        SessionCreateParams,
        SessionCreateParamsLineItemPriceDataProductData,
        SessionListParamsCreated,
    )

ANSWER_SECONDS = 8.0
"""How long Stripe may take for one thing we ask, or one page of a list, the one retry included: our own caller has ten seconds."""

SHORTEST_SECONDS, LONGEST_SECONDS = 3_600, 86_000
"""How long a session lives: Stripe takes 30 minutes to 24 hours from now, and an order may be opened again a while after it was
made, with the very same parameters, or its key would be refused."""

PAGE = 100
MOST_INTENTS = 1_000
T = TypeVar("T")
Kind = TypeVar("Kind", bound=stripe.StripeObject)
NOBODY = Claimed(None, None, None, None, None, None)
NOTHING: Sequence[Fact] = ()


class _Unknown(GatewayRefused):
    """There is no such thing in the account."""


class Stripe:
    """Keeps the Provider protocol. It expects an account, or at least a webhook endpoint, of its own: money that names no order of
    ours is told all the same, so that it is quarantined and somebody looks."""

    name: str = "stripe"

    def __init__(
        self,
        *,
        api_key: str,
        webhook_secrets: Sequence[str],
        success_url: str,
        cancel_url: str,
        live: bool,
        api_base: str = stripe.DEFAULT_API_BASE,
    ) -> None:
        """`webhook_secrets`: any of them will do, so that they can be rotated; `api_base` for one that stands in for Stripe.

        Raises ValueError for a key of the other mode, or without a secret: an empty one signs whatever anybody sends.
        """
        if ("_live_" in api_key) != live:
            raise ValueError(f"The Stripe key is {'not ' if live else ''}of the live mode.")
        if not webhook_secrets or not all(secret.strip() for secret in webhook_secrets):
            raise ValueError("Stripe needs a webhook secret, and none of them may be empty.")
        self.live: bool = live
        self._secrets = tuple(webhook_secrets)
        self._success_url = success_url
        self._cancel_url = cancel_url
        self._http = stripe.HTTPXClient(timeout=ANSWER_SECONDS)
        self._api = stripe.StripeClient(api_key, base_addresses={"api": api_base}, max_network_retries=1, http_client=self._http).v1
        self._intents: dict[str, Claimed] = {}

    async def stop(self) -> None:
        """Close the connections to Stripe."""
        await self._http.close_async()  # type: ignore[no-untyped-call]

    def takes(self, currency: str) -> bool:
        """Return whether the account may take a currency: Stripe says so when it is asked."""
        return True

    # What we ask of Stripe

    async def open(self, order: Order, product: Product) -> Opened:
        """Have a session for an order, once however often it is asked; raises GatewayAway.

        The key makes it one. Where Stripe refuses it, since the product was renamed meanwhile or a day has passed, a session that
        was opened before is looked for.
        """
        wanted, options = self._wanted(order, product), stripe.RequestOptions(idempotency_key=f"order-{order.id}")
        try:
            session = await _answer(self._api.checkout.sessions.create_async(wanted, options))
        except GatewayRefused:
            found = await self._session(order)
            if found is None:
                raise
            session = found
        return Opened(_named(session), pay_page(word(session, "url")))

    def _wanted(self, order: Order, product: Product) -> SessionCreateParams:
        """Return the session of an order: the price is the order's own, and the same each time it is asked for."""
        metadata = {"order": str(order.id), "student": order.student}
        lives = (order.expires_ms - order.created_ms) // 1000
        sold: SessionCreateParamsLineItemPriceDataProductData = {"name": product.title}
        if product.description:  # Stripe refuses an empty one
            sold["description"] = product.description
        return {
            "mode": "payment",
            "client_reference_id": str(order.id),
            "metadata": metadata,
            "payment_intent_data": {"metadata": metadata},
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": order.currency.lower(),
                        "unit_amount": order.amount,
                        "product_data": sold,
                    },
                }
            ],
            "adaptive_pricing": {"enabled": False},  # it is paid in the order's currency, or it does not match
            "expires_at": order.created_ms // 1000 + min(max(lives, SHORTEST_SECONDS), LONGEST_SECONDS),
            "success_url": way_back(self._success_url, order),
            "cancel_url": way_back(self._cancel_url, order),
        }

    async def close(self, order: Order) -> bool:
        """Expire an order's session; False: it is completed, and its money taken, under way or refused: Stripe says which. Raises
        GatewayAway."""
        session = await self._session(order)
        if session is None:
            return True
        try:
            await _answer(self._api.checkout.sessions.expire_async(_named(session)))
        except GatewayRefused:  # it is not open any more
            session = await self._session(order)
            if session is None or session.get("status") not in ("complete", "expired"):
                raise
            return session.get("status") == "expired"
        return True

    async def look(self, order: Order) -> Sequence[Event]:
        """Return one event for each fact that Stripe knows of an order, named after the fact; raises GatewayAway."""
        session = await self._session(order)
        if session is None:
            return []
        claimed, intent = objects.session_claimed(session), part(session, "payment_intent")
        charge, name = part(intent, "latest_charge"), ref(session, "payment_intent")
        at_ms = objects.moment(charge, objects.moment(session, order.created_ms))
        events = [_seen(session, claimed, fact) for fact in objects.session_facts(session, objects.has_failed(session), at_ms)]
        if name is None or not charge:  # nothing was ever charged
            return events
        for refund in await _answers(self._api.refunds.list_async({"payment_intent": name, "limit": PAGE})):
            events += [_seen(refund, claimed, fact) for fact in objects.refund_facts(refund, at_ms)]
        for dispute in await _answers(self._api.disputes.list_async({"payment_intent": name, "limit": PAGE})):
            events += [_seen(dispute, claimed, fact) for fact in objects.dispute_facts(dispute, claimed.amount, at_ms)]
        return events

    async def missed(self, since_ms: int) -> Sequence[Event]:
        """Return the account's events since then, the oldest first; Stripe keeps them for 30 days. Raises GatewayAway."""
        kinds = [*SESSION_KINDS, *REFUND_KINDS, *DISPUTE_KINDS]
        since: EventListParamsCreated = {"gte": since_ms // 1000}
        said = await _answers(self._api.events.list_async({"created": since, "types": kinds, "limit": PAGE}))
        return [await self._event(json.dumps(one).encode()) for one in reversed(said)]

    async def refund(self, order: Order, amount: int, key: str) -> None:
        """Give back so much, once per key; raises GatewayAway.

        Stripe forgets keys after a day, so the refund carries its own, and is not made again where it is found.
        """
        session = await self._session(order)
        name = None if session is None else ref(session, "payment_intent")
        if name is None:
            raise GatewayRefused("Stripe: nothing has been paid for this order")
        made = await _answers(self._api.refunds.list_async({"payment_intent": name, "limit": PAGE}))
        if any(part(one, "metadata").get("key") == key and one.get("status") not in ("failed", "canceled") for one in made):
            return
        options = stripe.RequestOptions(idempotency_key=f"refund-{key}")
        metadata = {"order": str(order.id), "key": key}
        await _answer(self._api.refunds.create_async({"payment_intent": name, "amount": amount, "metadata": metadata}, options))

    async def _session(self, order: Order) -> Json | None:
        """Return an order's session with its payment intent and charge. Where we never learned its name, it is looked for among
        those made since the order was. None: there is none in this account and mode, which may not be the ones of the order."""
        name = order.gateway_ref or await self._opened_before(order)
        if name is None:
            return None
        try:
            return await _answer(
                self._api.checkout.sessions.retrieve_async(name, {"expand": ["payment_intent.latest_charge"]}),
            )
        except _Unknown:
            return None

    async def _opened_before(self, order: Order) -> str | None:
        made = order.created_ms // 1000
        between: SessionListParamsCreated = {"gte": made - OLDEST_SECONDS, "lte": made + LONGEST_SECONDS}
        async for one in _each(self._api.checkout.sessions.list_async({"created": between, "limit": PAGE})):
            if word(one, "client_reference_id") == str(order.id):
                return ref(one, "id")
        return None

    # What Stripe tells us

    async def hear(self, heard: Heard, books: Books) -> Said:
        """Keep what Stripe tells; raises Forged, and GatewayAway where it takes a look-up that Stripe does not answer."""
        self._verify(heard)
        await books.tell(await self._event(heard.body))
        return Said()

    def _verify(self, heard: Heard) -> None:
        header = heard.headers.get("stripe-signature", "")
        if not any(_signed(heard.body, header, secret) for secret in self._secrets):
            raise Forged("no secret of ours has signed this")
        # The package takes the first time in the header for what was signed, and does not mind one that is still to come.
        signed_seconds = int(next(piece[2:].split("=")[0] for piece in header.split(",") if piece.startswith("t=")))
        if abs(heard.now_ms - signed_seconds * 1000) > OLDEST_SECONDS * 1000:
            raise Forged("it was signed at another time")

    async def _event(self, body: bytes) -> Event:
        """Return what a message says, from a webhook or Stripe's own list. One that cannot be read has no facts."""
        said = objects.document(body)
        name = ref(said, "id") or f"odd:{hashlib.sha256(body).hexdigest()}"
        kind, about = ref(said, "type") or "odd", part(part(said, "data"), "object")
        at_ms = objects.moment(said, 0)
        claimed, facts = NOBODY, NOTHING
        if kind in SESSION_KINDS:
            claimed = objects.session_claimed(about)
            facts = objects.session_facts(about, kind == "checkout.session.async_payment_failed", at_ms)
        elif kind in REFUND_KINDS and (facts := objects.refund_facts(about, at_ms)):
            claimed = await self._intent(about)
            currency = word(about, "currency")
            claimed = claimed if currency is None else replace(claimed, currency=currency.upper())
        elif kind in DISPUTE_KINDS and objects.dispute_facts(about, None, at_ms):
            claimed = await self._intent(about)
            facts = objects.dispute_facts(about, claimed.amount, at_ms)
        return Event(name, kind, objects.cardless(body), claimed, facts)

    async def _intent(self, about: Json) -> Claimed:
        """Return what the payment intent of a refund or dispute says its order is: such objects may carry nothing of ours.

        Stripe tells of a refund three times within a second, so the last ones are remembered.
        """
        name = ref(about, "payment_intent")
        if name is None:
            return NOBODY
        if name not in self._intents:
            try:
                found = await _answer(self._api.payment_intents.retrieve_async(name))
            except GatewayRefused:  # there is no such payment in this account: somebody has to look
                return NOBODY
            while len(self._intents) >= MOST_INTENTS:
                del self._intents[next(iter(self._intents))]
            self._intents[name] = objects.intent_claimed(found)
        return self._intents[name]


def _signed(body: bytes, header: str, secret: str) -> bool:
    """Say whether a secret has signed these bytes, whenever."""
    try:
        return bool(stripe.WebhookSignature.verify_header(body, header, secret))
    except (stripe.SignatureVerificationError, ValueError, TypeError):  # not UTF-8; a signature that is not ASCII
        return False


def _named(session: Json) -> str:
    name = ref(session, "id")
    if name is None:
        raise GatewayAway("Stripe: a session without an id")
    return name


def _seen(about: Json, claimed: Claimed, fact: Fact) -> Event:
    """Return a fact that we asked after as an event: the same fact is the same event, another one is told all the same."""
    return Event(f"look:{fact.kind}:{fact.ref}", "look", objects.cardless(json.dumps(about).encode()), claimed, [fact])


async def _answer(asked: Coroutine[object, object, stripe.StripeObject]) -> Json:
    """Return the object that Stripe answers with."""
    return (await _within(asked)).to_dict(for_json=True)


async def _answers(asked: Coroutine[object, object, stripe.ListObject[Kind]]) -> Sequence[Json]:
    """Return all pages of a list."""
    return [one async for one in _each(asked)]


async def _each(asked: Coroutine[object, object, stripe.ListObject[Kind]]) -> AsyncIterator[Json]:
    """Give what a list holds, page by page; GatewayAway where one of them does not come in time. All of them may take long."""
    page = await _within(asked)
    while True:
        for one in page.data:
            yield one.to_dict(for_json=True)
        if not page.has_more:
            return
        page = await _within(page.next_page_async())


async def _within(asked: Coroutine[object, object, T]) -> T:
    """Wait for Stripe no longer than it may take. What it says of its errors stays out of ours: it may quote what we sent."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asked
    except TimeoutError:
        raise GatewayAway("Stripe: no answer in time") from None
    except stripe.StripeError as error:
        definite = isinstance(error, stripe.InvalidRequestError | stripe.IdempotencyError)
        kind = GatewayAway if not definite else _Unknown if error.code == "resource_missing" else GatewayRefused
        raise kind(f"Stripe: {type(error).__name__} {error.http_status} {error.code} {error.request_id}") from None

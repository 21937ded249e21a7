"""The sandbox: the payment gateway of a local stack, `python -m ops.sandbox`, at which no money moves.

It is asked like any other, over HTTP. Its list of events has the very events that its webhooks tell, so that looking is reading it.
"""

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
from stores.money import Claimed, Event, Fact, FactKind, Order, Product

ANSWER_SECONDS = 4.0
"""How long it may take for one call; what we ask takes two of them at most, and our own caller has ten seconds."""

MOST = 2**31 - 1
LATEST_MS = 4_102_444_800_000
NAME = r"^[!-~]{1,255}$"
NOBODY = Claimed(None, None, None, None, None, None)
SIGNATURE = re.compile(r"t=([0-9]{1,12})((?:,v1=[0-9a-f]{64}){1,8})")

FACTS = {
    "payment.succeeded": FactKind.PAID,
    "payment.failed": FactKind.FAILED,
    "checkout.expired": FactKind.EXPIRED,
    "refund.succeeded": FactKind.REFUNDED,
    "dispute.opened": FactKind.DISPUTE_OPENED,
    "dispute.won": FactKind.DISPUTE_WON,
    "dispute.lost": FactKind.DISPUTE_LOST,
}
MOVE_NOTHING = (FactKind.FAILED, FactKind.EXPIRED)


class _Read(BaseModel):
    """Part of an answer or a message. What cannot be what it should be is not believed in any part."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Checkout(_Read):
    id: str = Field(pattern=NAME)
    status: str
    url: str


class _Checkouts(_Read):
    checkouts: list[_Checkout]


class _Subject(_Read):
    id: str = Field(pattern=NAME)
    amount: int = Field(ge=0, le=MOST)


class _About(_Read):
    id: str = Field(pattern=NAME)
    order: str
    student: str
    amount: int = Field(ge=0, le=MOST)
    currency: str


class _Message(_Read):
    id: str = Field(pattern=NAME)
    kind: str = Field(pattern=NAME)
    created_ms: int = Field(ge=0, le=LATEST_MS)
    live: bool
    subject: _Subject
    checkout: _About


class _Events(_Read):
    events: list[dict[str, object]]
    more: bool


Kind = TypeVar("Kind", bound=_Read)


class Sandbox:
    """Keeps the Provider protocol."""

    name: str = "sandbox"
    live: bool = False

    def __init__(self, *, base_url: str, api_key: str, webhook_secrets: Sequence[str], return_url: str) -> None:
        """`webhook_secrets`: any of them will do, so that they can be rotated. In `return_url`, where the student is sent back to,
        `{payment}` becomes the order's id; empty: the student stays on the gateway's page.

        Raises ValueError without a secret: an empty one signs whatever anybody sends.
        """
        if not webhook_secrets or not all(secret.strip() for secret in (api_key, *webhook_secrets)):
            raise ValueError("The sandbox needs a key and a webhook secret, and none of them may be empty.")
        self._secrets = tuple(webhook_secrets)
        self._return_url = return_url
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers={"authorization": f"Bearer {api_key}"},
            timeout=ANSWER_SECONDS,
            trust_env=False,  # it is on this machine: no proxy stands in between
        )

    async def stop(self) -> None:
        """Close the connections to it."""
        await self._http.aclose()

    def takes(self, currency: str) -> bool:
        """It takes any."""
        return True

    # What we ask of it

    async def open(self, order: Order, product: Product) -> Opened:
        """Have a checkout for an order, once however often it is asked; raises GatewayAway.

        The key makes it one. Where it is refused, since the product was renamed meanwhile, the checkout that was opened before is
        looked for.
        """
        wanted = {
            "order": str(order.id),
            "student": order.student,
            "title": product.title,
            "description": product.description,
            "amount": order.amount,
            "currency": order.currency,
            "return_url": way_back(self._return_url, order),
            "expires_ms": order.expires_ms,
        }
        try:
            found = _checked(_Checkout, await self._ask("POST", "/v1/checkouts", wanted, key=f"order-{order.id}"))
        except GatewayRefused:
            before = await self._opened_before(order)
            if before is None:
                raise
            found = before
        return Opened(found.id, pay_page(found.url))

    async def close(self, order: Order) -> bool:
        """Expire an order's checkout; False: its money is taken or under way. Raises GatewayAway."""
        name = await self._named(order)
        if name is None:
            return True
        try:
            found = _checked(_Checkout, await self._ask("POST", f"/v1/checkouts/{name}/expire"))
        except GatewayRefused:  # it does not know it: another sandbox did
            return True
        return found.status in ("expired", "failed")

    async def look(self, order: Order) -> Sequence[Event]:
        """Return all that it has told of an order, or would have; raises GatewayAway."""
        return await self._events({"order": str(order.id)})

    async def missed(self, since_ms: int) -> Sequence[Event]:
        """Return its events since then, the oldest first; it keeps them for good. Raises GatewayAway."""
        return await self._events({"since_ms": str(since_ms)})

    async def refund(self, order: Order, amount: int, key: str) -> None:
        """Give back so much, once per key, which it never forgets; raises GatewayAway."""
        name = await self._named(order)
        if name is None:
            raise GatewayRefused("The sandbox knows no checkout of this order.")
        await self._ask("POST", f"/v1/checkouts/{name}/refunds", {"amount": amount}, key=f"refund-{key}")

    async def _named(self, order: Order) -> str | None:
        """Return its name of an order's checkout; where we never learned it, it is looked for."""
        if order.gateway_ref is not None:
            return order.gateway_ref
        before = await self._opened_before(order)
        return None if before is None else before.id

    async def _opened_before(self, order: Order) -> _Checkout | None:
        said = await self._ask("GET", "/v1/checkouts", asked={"order": str(order.id)})
        return next(iter(_checked(_Checkouts, said).checkouts), None)

    async def _events(self, asked: Mapping[str, str]) -> Sequence[Event]:
        found: list[Event] = []
        after = ""
        while True:
            page = _checked(_Events, await self._ask("GET", "/v1/events", asked={**asked, "after": after}))
            found += [event(json.dumps(one, ensure_ascii=False).encode()) for one in page.events]
            if not page.more or not page.events:
                return found
            after = str(page.events[-1].get("id"))

    async def _ask(
        self,
        method: str,
        path: str,
        said: Mapping[str, object] | None = None,
        *,
        key: str = "",
        asked: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return what it answers; raises GatewayAway, with nothing in it of what was said."""
        headers = {"idempotency-key": key} if key else {}
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._http.request(method, path, json=said, headers=headers, params=asked)
        except (httpx.HTTPError, TimeoutError) as failed:
            raise GatewayAway(f"The sandbox does not answer: {type(failed).__name__}.") from None
        if answer.is_success:
            return answer.content
        refused = answer.is_client_error and answer.status_code not in (401, 403, 408, 429)
        raise (GatewayRefused if refused else GatewayAway)(f"The sandbox answered {answer.status_code}.")

    # What it tells us

    async def hear(self, heard: Heard, books: Books) -> Said:
        """Keep what it tells; raises Forged."""
        verify(heard, self._secrets)
        await books.tell(event(heard.body))
        return Said()


def verify(heard: Heard, secrets: Sequence[str]) -> None:
    """Raise Forged unless a message was signed by one of these secrets, within five minutes of now.

    `sandbox-signature: t=<seconds>,v1=<hex>[,v1=<hex>…]`, each of these the HMAC-SHA256 of `<t>.<body>`: the gateway signs
    with all secrets that it has, and we take any that we have, so that neither side has to change its own first.
    """
    header = SIGNATURE.fullmatch(heard.headers.get("sandbox-signature", ""))
    if header is None:
        raise Forged("it has no signature of this kind")
    signed = header[1].encode() + b"." + heard.body
    given = header[2].removeprefix(",v1=").split(",v1=")
    ours = [hmac.digest(secret.encode(), signed, "sha256").hex() for secret in secrets]
    if not any(hmac.compare_digest(one, other) for one in ours for other in given):
        raise Forged("no secret of ours has signed this")
    if abs(heard.now_ms - int(header[1]) * 1000) > OLDEST_SECONDS * 1000:
        raise Forged("it was signed at another time")


def event(body: bytes) -> Event:
    """Return what a message says, from a webhook or the list. One that cannot be read, or is of another kind, has no facts."""
    try:
        said = _Message.model_validate_json(body)
    except ValidationError:
        return Event(f"odd:{hashlib.sha256(body).hexdigest()}", "odd", body, NOBODY, ())
    about, kind = said.checkout, FACTS.get(said.kind)
    claimed = Claimed(_order(about.order), about.id, about.amount, about.currency, about.student, said.live)
    if kind is None:
        return Event(said.id, said.kind, body, claimed, ())
    amount = 0 if kind in MOVE_NOTHING else said.subject.amount
    return Event(said.id, said.kind, body, claimed, [Fact(kind, said.subject.id, amount, said.created_ms)])


def _order(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _checked(kind: type[Kind], answer: bytes) -> Kind:
    """Return an answer as what it should be; raises GatewayAway."""
    try:
        return kind.model_validate_json(answer)
    except ValidationError:
        raise GatewayAway("The sandbox answered with something else.") from None

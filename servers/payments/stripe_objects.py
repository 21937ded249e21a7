"""What Stripe's objects say of an order. Pure, and raises nothing however odd they are: what cannot be read says nothing."""

import json
import re
from collections.abc import Mapping, Sequence
from uuid import UUID

from stores.money import Claimed, Fact, FactKind

Json = Mapping[str, object]

SESSION_KINDS = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
)
REFUND_KINDS = ("refund.created", "refund.updated", "charge.refund.updated")
DISPUTE_KINDS = (
    "charge.dispute.created",
    "charge.dispute.updated",  # an inquiry that becomes a dispute
    "charge.dispute.funds_withdrawn",
    "charge.dispute.closed",
)
NO_DISPUTE_YET = ("warning_needs_response", "warning_under_review", "warning_closed", "prevented")
"""A bank asks, or was answered before it disputed anything: no money has moved."""

CARD = frozenset({"last4", "dynamic_last4", "exp_month", "exp_year", "fingerprint", "iin"})
NAME = re.compile(r"[!-~]{1,255}")
MOST = 2**31 - 1
LATEST_SECONDS = 4_102_444_800


def document(body: bytes) -> Json:
    """Return what a message says; nothing for one that is no JSON object."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def cardless(body: bytes) -> bytes:
    """Return a message without what identifies a card or an account; the very same bytes where nothing in it does.

    Charges have it, which we are told of where an endpoint is subscribed to everything, and ask after ourselves.
    """
    found = False

    def kept(of: dict[str, object]) -> dict[str, object]:
        nonlocal found
        if CARD.isdisjoint(of):
            return of
        found = True
        return {name: value for name, value in of.items() if name not in CARD}

    try:
        said = json.loads(body, object_hook=kept)
    except (ValueError, RecursionError):
        return body
    return json.dumps(said).encode() if found else body


def part(of: Json, name: str) -> Json:
    """Return an object in another one; an empty one where there is none."""
    found = of.get(name)
    return found if isinstance(found, dict) else {}


def word(of: Json, name: str) -> str | None:
    """Return a text of any kind, to be compared and never kept."""
    found = of.get(name)
    return found if isinstance(found, str) else None


def ref(of: Json, name: str) -> str | None:
    """Return an id as Stripe makes them, of an object that may be expanded; PostgreSQL can keep it."""
    found = of.get(name)
    named = found.get("id") if isinstance(found, dict) else found
    return named if isinstance(named, str) and NAME.fullmatch(named) else None


def amount(of: Json, name: str) -> int | None:
    """Return an amount. It is in what Stripe calls the currency's minor units, as ours are: yen are whole yen, and nothing is ever
    multiplied here. Its own exceptions (ISK, UGX) are the price list's to know."""
    found = of.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= MOST else None


def moment(of: Json, otherwise_ms: int) -> int:
    """Return when an object was made, in ms."""
    found = of.get("created")
    known = isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= LATEST_SECONDS
    return found * 1000 if known and isinstance(found, int) else otherwise_ms


def session_claimed(session: Json) -> Claimed:
    """Return what a Checkout Session says its order is. Nobody can edit a reference later, as they can edit metadata."""
    metadata = part(session, "metadata")
    return Claimed(
        order=_order(word(session, "client_reference_id")) or _order(word(metadata, "order")),
        gateway_ref=ref(session, "id"),
        amount=amount(session, "amount_total"),
        currency=_currency(session),
        student=word(metadata, "student"),
        live=_live(session),
    )


def intent_claimed(intent: Json) -> Claimed:
    """Return what a PaymentIntent says its order is, by the metadata that its session gave it."""
    metadata = part(intent, "metadata")
    return Claimed(
        order=_order(word(metadata, "order")),
        gateway_ref=None,
        amount=amount(intent, "amount"),
        currency=_currency(intent),
        student=word(metadata, "student"),
        live=_live(intent),
    )


def session_facts(session: Json, failed: bool, at_ms: int) -> Sequence[Fact]:
    """Return what has become of a session; one that is complete is not paid yet where money comes days later."""
    intent, paid = ref(session, "payment_intent"), amount(session, "amount_total")
    if session.get("payment_status") == "paid":
        return [Fact(FactKind.PAID, intent, paid, at_ms)] if intent and paid is not None else []
    name = ref(session, "id")
    if session.get("status") == "expired":
        return [Fact(FactKind.EXPIRED, name, 0, at_ms)] if name else []
    return [Fact(FactKind.FAILED, intent, 0, at_ms)] if failed and intent else []


def has_failed(session: Json) -> bool:
    """Say whether a session, its payment intent expanded, was completed and its money will not come. An intent whose session is
    open may be tried again."""
    status = part(session, "payment_intent").get("status")
    unpaid = session.get("status") == "complete" and session.get("payment_status") == "unpaid"
    return unpaid and status in ("requires_payment_method", "canceled")


def refund_facts(refund: Json, at_ms: int) -> Sequence[Fact]:
    """Return what a refund says once it has gone through: a pending one may still fail."""
    name, given_back = ref(refund, "id"), amount(refund, "amount")
    if refund.get("status") != "succeeded" or name is None or given_back is None:
        return []
    return [Fact(FactKind.REFUNDED, name, given_back, moment(refund, at_ms))]


def dispute_facts(dispute: Json, order_amount: int | None, at_ms: int) -> Sequence[Fact]:
    """Return what a dispute says. A bank may dispute more than was paid when rates have moved, or in a currency of its own: no more
    than the order is disputed for us."""
    name, disputed, status = ref(dispute, "id"), amount(dispute, "amount"), word(dispute, "status")
    if name is None or disputed is None or status is None or status in NO_DISPUTE_YET:
        return []
    disputed = disputed if order_amount is None else min(disputed, order_amount)
    opened = Fact(FactKind.DISPUTE_OPENED, name, disputed, moment(dispute, at_ms))
    ended = {"won": FactKind.DISPUTE_WON, "lost": FactKind.DISPUTE_LOST}.get(status)
    return [opened] if ended is None else [opened, Fact(ended, name, disputed, at_ms)]


def _order(text: str | None) -> UUID | None:
    try:
        return UUID(text)
    except (ValueError, TypeError):
        return None


def _currency(of: Json) -> str | None:
    found = word(of, "currency")
    return None if found is None else found.upper()


def _live(of: Json) -> bool | None:
    found = of.get("livemode")
    return found if isinstance(found, bool) else None

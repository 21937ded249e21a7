"""What orders come to, what they grant, what they cost. Pure: facts in, verdicts out, in whatever order they came."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from stores.money import Claimed, Coupon, Event, Fact, FactKind, Order, OrderState, OrderStatus, Product

DAY_MS = 86_400_000
ORDER = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
CURRENCY = re.compile(r"[A-Z]{3}")


class Round(NamedTuple):
    """What one round with a gateway came to: events on its list, orders it was asked after, how much was new, and how many orders
    it said nothing of."""

    provider: str
    listed: int
    asked: int
    new: int
    silent: int


def order_id(text: str) -> str | None:
    """Return our id of an order as we write it; None for what cannot be one."""
    return str(UUID(text)) if ORDER.fullmatch(text) else None


def fold(amount: int, facts: Iterable[Fact]) -> OrderState:
    """Return what an order of so much has come to.

    Facts are a set: the same ones in any order and number give the same state, and the earliest of two accounts of one fact counts.
    A payment counts once it is there, whatever failed before or after it. A refund of all of it ends it (of what cost nothing any
    does); of a part takes nothing away, since what was bought is not divided. A dispute suspends it until it is won, and ends it
    when it is lost, whichever was told first.
    """
    latest_first = sorted(facts, key=lambda fact: (fact.at_ms, fact.amount), reverse=True)
    known = {(fact.kind, fact.ref): fact for fact in latest_first}
    paid = [fact.at_ms for fact in known.values() if fact.kind is FactKind.PAID]
    given_back = [fact.amount for fact in known.values() if fact.kind is FactKind.REFUNDED]
    refunded = min(amount, sum(given_back))
    disputes = {fact.ref for fact in known.values() if fact.kind is FactKind.DISPUTE_OPENED}
    won, lost = ({ref for kind, ref in known if kind is ended} for ended in (FactKind.DISPUTE_WON, FactKind.DISPUTE_LOST))
    if not paid:
        kinds = {kind for kind, _ in known}
        status = OrderStatus.OPEN
        if FactKind.EXPIRED in kinds:
            status = OrderStatus.EXPIRED
        elif FactKind.FAILED in kinds:
            status = OrderStatus.FAILED
        return OrderState(status, None, refunded)
    status = OrderStatus.PAID
    if given_back and refunded >= amount:
        status = OrderStatus.REFUNDED
    elif lost:
        status = OrderStatus.LOST
    elif disputes - won:
        status = OrderStatus.DISPUTED
    return OrderState(status, min(paid), refunded)


def mismatch(order: Order, claimed: Claimed, facts: Sequence[Fact]) -> str:
    """Say why what a gateway says cannot be about this order; empty where it can. Of what does not match nothing counts.

    What it does not say is not compared, but no payment counts that does not say in which currency and mode it was made.
    """
    if claimed.order is not None and claimed.order != order.id:
        return "it names another order"
    if claimed.gateway_ref is not None and order.gateway_ref is not None and claimed.gateway_ref != order.gateway_ref:
        return "the gateway knows the order by another name"
    if claimed.student is not None and claimed.student != order.student:
        return "it names another student"
    if claimed.live is not None and claimed.live != order.live:
        return "it is of the gateway's test mode" if order.live else "it is of the gateway's live mode"
    if claimed.currency is not None and claimed.currency != order.currency:
        known = CURRENCY.fullmatch(claimed.currency)  # what is no currency may be any text, and this one is kept
        return f"it is in {claimed.currency if known else 'no currency'}, and the order in {order.currency}"
    paid = [fact for fact in facts if fact.kind is FactKind.PAID]
    if paid and (claimed.currency is None or claimed.live is None):
        return "it does not say in which currency and mode it was paid"
    if any(fact.amount != order.amount for fact in paid):
        return f"it pays {paid[0].amount}, and the order is {order.amount}"
    if claimed.amount is not None and claimed.amount != order.amount:
        return f"it is about {claimed.amount}, and the order is {order.amount}"
    if any(fact.amount < 0 for fact in facts):
        return "it moves less than nothing"
    if any(fact.amount > order.amount for fact in facts):
        return f"it moves more than the order's {order.amount}"
    return ""


def price(product: Product, coupon: Coupon | None) -> int:
    """Return what a product costs in minor units: a percentage is rounded down in the student's favour, and nothing costs less
    than nothing."""
    if coupon is None:
        return product.amount
    off = product.amount - product.amount * (100 - coupon.percent) // 100 if coupon.percent is not None else coupon.amount or 0
    return max(0, product.amount - off)


def useless(coupon: Coupon, product: Product, used: int, used_by_student: int, now_ms: int) -> str:
    """Say why a coupon cannot be used for a product now; empty where it can."""
    if coupon.starts_ms is not None and now_ms < coupon.starts_ms:
        return "it is not valid yet"
    if coupon.ends_ms is not None and now_ms >= coupon.ends_ms:
        return "it is no longer valid"
    if coupon.products is not None and product.id not in coupon.products:
        return "it is for other products"
    if coupon.currency is not None and coupon.currency != product.currency:
        return "it is in another currency"
    if coupon.most_uses is not None and used >= coupon.most_uses:
        return "it has been used up"
    if used_by_student >= coupon.most_uses_each:
        return "you have used it"
    return ""


def owned_until(starts_ms: int, validity_days: int | None) -> int | None:
    """Return when what was bought then is owned no more; None: never."""
    return None if validity_days is None else starts_ms + validity_days * DAY_MS


def whole(product: Product, products: Mapping[str, Product]) -> Sequence[str]:
    """Return a product and all its parts, those of parts too, each once."""
    found: list[str] = []
    waiting = [product.id]
    while waiting:
        one = waiting.pop(0)
        if one not in found:
            found.append(one)
            waiting += products[one].parts if one in products else ()
    return found


def ended(order: Order, kind: FactKind, now_ms: int) -> Event:
    """Return what we tell ourselves of an order that ended without money: FAILED or EXPIRED before it was paid, REFUNDED where it
    cost nothing."""
    claimed = Claimed(order.id, None, None, None, None, None)
    return Event(f"{kind}/{order.id}", f"finalbell.{kind.lower()}", b"", claimed, [Fact(kind, "finalbell", 0, now_ms)])


def refundable(order: Order, refunded: int, amount: int | None) -> int | str:
    """Return how much is to be given back, all that is left where nobody says, 0 of what cost nothing; a text says why it cannot
    be."""
    left = order.amount - refunded
    if order.status is not OrderStatus.PAID:
        return f"the order is {order.status}, and only what is PAID is given back"
    if amount is not None and amount > left:
        return f"only {left} of {order.amount} is left to be given back"
    return left if amount is None else amount


def wrong_catalogue(products: Sequence[Product], known: Mapping[str, Product]) -> list[tuple[str, str]]:
    """Return (field, what is wrong with it) of products that are to be imported: ids that come twice, parts that are not there, and
    bundles that are a part of themselves."""
    wrong: list[tuple[str, str]] = []
    together = {**known, **{product.id: product for product in products}}
    seen: set[str] = set()
    for number, product in enumerate(products):
        if product.id in seen:
            wrong.append((f"products[{number}].productId", f"{product.id} is there twice"))
        seen.add(product.id)
        for nth, part in enumerate(product.parts):
            if part not in together:
                wrong.append((f"products[{number}].parts[{nth}]", f"there is no product {part}"))
            elif product.id in whole(together[part], together):
                wrong.append((f"products[{number}].parts[{nth}]", f"{product.id} would be a part of itself"))
    return wrong

"""PaymentService: what is sold, orders, what gateways tell, who owns what."""

from collections.abc import Mapping
from time import time_ns
from uuid import NAMESPACE_OID, UUID, uuid5

import structlog
from finalbell.v1 import payment_pb2 as pb
from google.api.httpbody_pb2 import HttpBody
from prometheus_client import Counter

from servers import errors
from servers.messages import timestamp
from servers.payments import rules
from servers.payments.provider import Forged, GatewayAway, Heard, Provider
from servers.serving.wrap import Call
from stores.ledger import CouponRefused, EventOutcome, Ledger, NotOrdered, Owned, Superseded, Told, Wanted
from stores.money import Coupon, Event, Order, OrderStatus, Product

VALID_SECONDS = 3_600.0
"""How long an order can be paid."""

EVENTS = Counter("finalbell_payment_events_total", "What gateways told", ["provider", "outcome"])
log = structlog.get_logger()


class PaymentService:
    """Sells through providers, by name; the first of them is the installation's own choice."""

    def __init__(self, ledger: Ledger, providers: Mapping[str, Provider]) -> None:
        self._ledger = ledger
        self._providers = providers

    async def ListProducts(self, request: pb.ListProductsRequest, call: Call) -> pb.ListProductsResponse:
        owned = {one.product for one in await self._ledger.owned(call.caller.student) if _active(one)}
        products = (await self._ledger.products()).values()
        return pb.ListProductsResponse(
            products=[_product(product, owned=product.id in owned) for product in products if product.available]
        )

    async def CreateCheckout(self, request: pb.CreateCheckoutRequest, call: Call) -> pb.CreateCheckoutResponse:
        provider = self._provider(request.provider)
        wanted = Wanted(
            call.caller.student,
            request.product_id,
            provider.name,
            provider.live,
            request.coupon,
            uuid5(NAMESPACE_OID, f"{call.caller.student}/{call.key}") if call.key else None,
            VALID_SECONDS,
        )
        try:
            order = await self._ordered(wanted)
            if order.status is OrderStatus.OPEN and not (order.url or order.secret):
                product = (await self._ledger.products())[order.product]
                opened = await provider.open(order, product)
                order = await self._ledger.opened(order.id, opened.ref, opened.url, opened.secret) or order
        except GatewayAway as away:
            log.warning("gateway away", provider=provider.name, error=str(away)[:200])
            raise errors.GatewayUnavailable("The payment gateway does not answer; repeat the call with the same key.") from None
        return pb.CreateCheckoutResponse(payment=_payment(order))

    async def GetPayment(self, request: pb.GetPaymentRequest, call: Call) -> pb.GetPaymentResponse:
        order = await self._ledger.read(UUID(request.payment_id))
        if order is None or (order.student != call.caller.student and not call.caller.staff):
            raise errors.PaymentNotFound
        return pb.GetPaymentResponse(payment=_payment(order))

    async def HandleWebhook(self, request: pb.HandleWebhookRequest, call: Call) -> HttpBody:
        provider = self._provider(request.provider)
        books = Inbox(self._ledger, provider.name)
        try:
            said = await provider.hear(Heard(call.sent, request.body.data, _now_ms()), books)
        except Forged as why:
            log.warning("forged message", provider=provider.name, why=str(why)[:200])
            EVENTS.labels(provider.name, "FORGED").inc()
            raise errors.SignatureInvalid from None
        except GatewayAway as away:
            log.warning("gateway away", provider=provider.name, error=str(away)[:200])
            raise errors.GatewayUnavailable("The gateway could not be asked about its own message; send it again.") from None
        return HttpBody(content_type=said.content_type, data=said.body)

    async def ListEntitlements(self, request: pb.ListEntitlementsRequest, call: Call) -> pb.ListEntitlementsResponse:
        owned = await self._ledger.owned(call.caller.student)
        return pb.ListEntitlementsResponse(entitlements=[_entitlement(one) for one in owned])

    async def _ordered(self, wanted: Wanted) -> Order:
        """Return the order; one that is open in another way is closed at its gateway first, so that nobody pays twice."""
        found = await self._ledger.order(wanted, _price)
        if isinstance(found, Superseded):
            await self._close(found.order)
            found = await self._ledger.order(wanted, _price)
        match found:
            case Order():
                return found
            case CouponRefused():
                raise errors.CouponRefused(f"The coupon cannot be used: {found.why}.")
            case NotOrdered.NO_PRODUCT:
                raise errors.ProductNotFound
            case NotOrdered.NO_COUPON:
                raise errors.CouponRefused("The coupon cannot be used: there is no such code.")
            case NotOrdered.NOT_FOR_SALE:
                raise errors.NotForSale("This product is not sold any more.")
            case NotOrdered.OWNED:
                raise errors.AlreadyOwned("You own this product already.", productId=wanted.product)
            case NotOrdered.KEY_REUSED:
                raise errors.IdempotencyKeyReused("This key has ordered something else; use a new key for a new order.")
            case _:
                raise errors.Conflict("Another order for this product came first. Repeat the call.")

    async def _close(self, order: Order) -> None:
        """Close an order at its gateway, unless it was paid meanwhile: then what the gateway says of it counts."""
        provider = self._providers.get(order.provider)
        books = Inbox(self._ledger, order.provider)
        if provider is None or order.gateway_ref is None or await provider.close(order):
            await books.tell(rules.closed(order, _now_ms()))
        else:
            for event in await provider.look(order):
                await books.tell(event)

    def _provider(self, name: str) -> Provider:
        provider = self._providers.get(name) if name else next(iter(self._providers.values()), None)
        if provider is None:
            raise errors.ProviderUnknown
        return provider


class Inbox:
    """What a provider may ask and tell of its own orders."""

    def __init__(self, ledger: Ledger, provider: str) -> None:
        self._ledger = ledger
        self._provider = provider

    async def tell(self, event: Event) -> Told:
        """Keep an event and do what it says, once; an alarm rings for one that does not match its order."""
        told = await self._ledger.tell(self._provider, event)
        EVENTS.labels(self._provider, told.outcome).inc()
        if told.outcome is EventOutcome.QUARANTINED:
            log.error("payment event quarantined", provider=self._provider, event_id=event.id, kind=event.kind, why=told.why)
        return told

    async def find(self, order: str) -> Order | None:
        """Return an order of this provider by our id of it; None for anything else."""
        try:
            known = await self._ledger.read(UUID(order))
        except ValueError:
            return None
        return known if known is not None and known.provider == self._provider else None


def _price(product: Product, coupon: Coupon | None, used: int, used_by_student: int) -> int | str:
    why = rules.useless(coupon, product, used, used_by_student, _now_ms()) if coupon else ""
    return why or rules.price(product, coupon)


def _active(owned: Owned) -> bool:
    return owned.revoked_ms is None and (owned.ends_ms is None or owned.ends_ms > _now_ms())


def _product(product: Product, *, owned: bool) -> pb.Product:
    message = pb.Product(
        product_id=product.id,
        title=product.title,
        description=product.description,
        amount=product.amount,
        currency=product.currency,
        validity_days=product.validity_days,
        parts=product.parts,
        owned=owned,
    )
    for kind, ref in product.opens:
        message.opens.add(kind=pb.Product.Opens.Kind.Value(kind), id=ref)
    return message


def _payment(order: Order) -> pb.Payment:
    is_open = order.status is OrderStatus.OPEN
    return pb.Payment(
        payment_id=str(order.id),
        product_id=order.product,
        provider=order.provider if order.amount else "",
        amount=order.amount,
        currency=order.currency,
        status=pb.Payment.Status.Value(order.status),
        url=(order.url or "") if is_open else "",
        client_secret=(order.secret or "") if is_open else "",
        expires_at=timestamp(order.expires_ms),
    )


def _entitlement(owned: Owned) -> pb.Entitlement:
    return pb.Entitlement(
        product_id=owned.product,
        active=_active(owned),
        granted_at=timestamp(owned.granted_ms),
        expires_at=None if owned.ends_ms is None else timestamp(owned.ends_ms),
        revoked_at=None if owned.revoked_ms is None else timestamp(owned.revoked_ms),
    )


def _now_ms() -> int:
    return time_ns() // 1_000_000

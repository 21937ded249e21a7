"""PaymentService: what is sold, orders, what gateways tell, who owns what."""

from collections.abc import Mapping
from uuid import NAMESPACE_OID, UUID, uuid5

import structlog
from finalbell.v1 import payment_pb2 as pb
from google.api.httpbody_pb2 import HttpBody

from servers import errors
from servers.messages import timestamp
from servers.payments import rules
from servers.payments.inbox import EVENTS, Inbox, end, gateway_away
from servers.payments.messages import payment_message
from servers.payments.provider import Forged, GatewayAway, GatewayRefused, Heard, Provider, our_clock
from servers.serving.crash import crash
from servers.serving.wrap import Call
from stores.ledger import CouponRefused, Ledger, NotOrdered, Owned, Superseded, Wanted
from stores.money import Coupon, FactKind, Order, OrderStatus, Product

VALID_SECONDS = 3_600.0
"""How long an order can be paid."""

log = structlog.get_logger()


class PaymentService:
    """Sells through providers, by name; the first of them is the installation's own choice."""

    def __init__(self, ledger: Ledger, providers: Mapping[str, Provider], crash_at: str = "") -> None:
        self._ledger = ledger
        self._providers = providers
        self._crash_at = crash_at

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
        product = await self._ledger.product(wanted.product)
        if product is not None and product.amount and not provider.takes(product.currency):
            raise errors.CheckoutRefused(f"This payment provider does not take {product.currency}.", provider=provider.name)
        order = await self._ordered(wanted)
        crash("P1", self._crash_at)
        if order.status is OrderStatus.OPEN and not (order.url or order.secret):
            order = await self._opened(order, provider, product)
        return pb.CreateCheckoutResponse(payment=payment_message(order))

    async def GetPayment(self, request: pb.GetPaymentRequest, call: Call) -> pb.GetPaymentResponse:
        order = await self._ledger.read(UUID(request.payment_id))
        if order is None or (order.student != call.caller.student and not call.caller.staff):
            raise errors.PaymentNotFound
        return pb.GetPaymentResponse(payment=payment_message(order))

    async def HandleWebhook(self, request: pb.HandleWebhookRequest, call: Call) -> HttpBody:
        provider = self._provider(request.provider)
        books = Inbox(self._ledger, provider.name, self._crash_at)
        try:
            said = await provider.hear(Heard(call.sent, request.body.data, our_clock()), books)
        except Forged as why:
            log.warning("forged message", provider=provider.name, why=str(why)[:200])
            EVENTS.labels(provider.name, "FORGED").inc()
            raise errors.SignatureInvalid from None
        except (GatewayAway, GatewayRefused) as away:
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
            try:
                before = found.order
                await end(self._providers.get(before.provider), Inbox(self._ledger, before.provider), before)
            except (GatewayAway, GatewayRefused) as away:
                raise gateway_away(found.order.provider, away) from None
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

    async def _opened(self, order: Order, provider: Provider, product: Product | None) -> Order:
        """Have the gateway take an order; one that it refuses has failed, so that another can be made."""
        if product is None:  # orders refer to it
            raise errors.ProductNotFound
        try:
            opened = await provider.open(order, product)
        except GatewayAway as away:
            raise gateway_away(provider.name, away) from None
        except GatewayRefused as refused:
            log.warning("checkout refused", provider=provider.name, payment=str(order.id), error=str(refused)[:200])
            await Inbox(self._ledger, provider.name).tell(rules.ended(order, FactKind.FAILED, our_clock()))
            raise errors.CheckoutRefused("The payment gateway does not take this order.", provider=provider.name) from None
        crash("P2", self._crash_at)
        noted = await self._ledger.opened(order.id, opened.ref, opened.url, opened.secret)
        crash("P3", self._crash_at)
        return noted or order

    def _provider(self, name: str) -> Provider:
        provider = self._providers.get(name) if name else next(iter(self._providers.values()), None)
        if provider is None:
            raise errors.ProviderUnknown
        return provider


def _price(product: Product, coupon: Coupon | None, used: int, used_by_student: int) -> int | str:
    why = rules.useless(coupon, product, used, used_by_student, our_clock()) if coupon else ""
    return why or rules.price(product, coupon)


def _active(owned: Owned) -> bool:
    return owned.revoked_ms is None and (owned.ends_ms is None or owned.ends_ms > our_clock())


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


def _entitlement(owned: Owned) -> pb.Entitlement:
    return pb.Entitlement(
        product_id=owned.product,
        active=_active(owned),
        granted_at=timestamp(owned.granted_ms),
        expires_at=None if owned.ends_ms is None else timestamp(owned.ends_ms),
        revoked_at=None if owned.revoked_ms is None else timestamp(owned.revoked_ms),
    )

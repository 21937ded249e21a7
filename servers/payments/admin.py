"""PaymentAdminService: what is sold, who is given what without paying, and what went wrong with money."""

from collections.abc import Mapping
from uuid import NAMESPACE_OID, UUID, uuid5

import structlog
from finalbell.v1 import payment_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from servers import errors
from servers.messages import timestamp
from servers.payments import rules
from servers.payments.inbox import Inbox, ask, gateway_away
from servers.payments.messages import event_message, payment_message
from servers.payments.provider import GatewayAway, GatewayRefused, Provider, RefundedByHand, our_clock
from servers.payments.reconciler import Reconciler
from servers.serving.wrap import Call
from stores.ledger import Ledger, Story
from stores.money import Coupon, FactKind, Grant, Product

MOST_PAYMENTS = 200
MOST_QUARANTINED = 100
DRIFT_DAYS = 30
DAY_SECONDS = 86_400
log = structlog.get_logger()


class PaymentAdminService:
    """What staff do with products, entitlements and orders; all that changes anything is on record."""

    def __init__(self, ledger: Ledger, providers: Mapping[str, Provider], reconciler: Reconciler) -> None:
        self._ledger = ledger
        self._providers = providers
        self._reconciler = reconciler

    async def ImportProducts(self, request: pb.ImportProductsRequest, call: Call) -> pb.ImportProductsResponse:
        products = [_product(one) for one in request.products]
        wrong = rules.wrong_catalogue(products, await self._ledger.products())
        if wrong:
            raise errors.InvalidField(wrong)
        await self._ledger.keep(products, [_coupon(one) for one in request.coupons], call.caller.student)
        return pb.ImportProductsResponse(products=len(request.products), coupons=len(request.coupons))

    async def GrantEntitlement(self, request: pb.GrantEntitlementRequest, call: Call) -> pb.GrantEntitlementResponse:
        starts_ms = our_clock()
        ends_ms = rules.owned_until(starts_ms, request.days if request.HasField("days") else None)
        await self._enter(
            request.student_id,
            request.product_id,
            Grant(_by_staff(request.product_id), True, request.reason, starts_ms, ends_ms),
            call,
        )
        return pb.GrantEntitlementResponse()

    async def RevokeEntitlement(self, request: pb.RevokeEntitlementRequest, call: Call) -> pb.RevokeEntitlementResponse:
        grant = Grant(_by_staff(request.product_id), False, request.reason, our_clock(), None)
        await self._enter(request.student_id, request.product_id, grant, call)
        return pb.RevokeEntitlementResponse()

    async def ListPayments(self, request: pb.ListPaymentsRequest, call: Call) -> pb.ListPaymentsResponse:
        orders = await self._ledger.orders(request.student_id, MOST_PAYMENTS)
        return pb.ListPaymentsResponse(payments=map(payment_message, orders))

    async def GetPaymentRecord(self, request: pb.GetPaymentRecordRequest, call: Call) -> pb.GetPaymentRecordResponse:
        return _record(await self._story(request.payment_id))

    async def RefundPayment(self, request: pb.RefundPaymentRequest, call: Call) -> pb.RefundPaymentResponse:
        story = await self._story(request.payment_id)
        order, provider = story.order, self._providers.get(story.order.provider)
        if provider is None and order.amount:
            raise errors.ProviderUnknown
        key = str(uuid5(NAMESPACE_OID, f"{order.id}/{call.key}"))
        amount = await self._to_refund(story, key, request.amount if request.HasField("amount") else None)
        if amount != await self._ledger.note_refund(order.id, amount, key, request.reason, call.caller.student):
            raise errors.IdempotencyKeyReused("This key has asked for another amount; use a new key for another refund.")
        inbox = Inbox(self._ledger, order.provider)
        if provider is None or not order.amount:  # no money was taken
            await inbox.tell(rules.ended(order, FactKind.REFUNDED, our_clock()))
            return pb.RefundPaymentResponse(payment=payment_message((await self._story(request.payment_id)).order))
        try:
            await provider.refund(order, amount, key)
            await ask(provider, inbox, order)
        except RefundedByHand as by_hand:
            raise errors.RefundByHand(str(by_hand)) from None
        except GatewayRefused as refused:
            log.warning("refund refused", provider=provider.name, payment=str(order.id), error=str(refused)[:200])
            raise errors.NotRefundable("It cannot be refunded: the gateway refuses.") from None
        except GatewayAway as away:
            raise gateway_away(provider.name, away) from None
        return pb.RefundPaymentResponse(payment=payment_message((await self._story(request.payment_id)).order))

    async def ReconcilePayments(self, request: pb.ReconcilePaymentsRequest, call: Call) -> pb.ReconcilePaymentsResponse:
        if request.provider and request.provider not in self._providers:
            raise errors.ProviderUnknown
        reply = pb.ReconcilePaymentsResponse()
        for name in [request.provider] if request.provider else self._providers:
            try:
                done = await self._reconciler.round(name, all_orders=True)
            except (GatewayAway, GatewayRefused) as away:
                log.warning("not reconciled", provider=name, error=str(away)[:200])
                reply.failed.append(name)
                continue
            reply.rounds.add(provider=name, listed=done.listed, asked=done.asked, applied=done.new, silent=done.silent)
        return reply

    async def GetPaymentDrift(self, request: pb.GetPaymentDriftRequest, call: Call) -> pb.GetPaymentDriftResponse:
        seconds = DAY_SECONDS * (request.days if request.HasField("days") else DRIFT_DAYS)
        drift = await self._ledger.drift(seconds)
        reply = pb.GetPaymentDriftResponse(
            orders=drift.orders, quarantined=map(event_message, await self._ledger.quarantined(seconds, MOST_QUARANTINED))
        )
        for line in drift.lines:
            reply.lines.add(
                provider=line.provider,
                day=line.day,
                currency=line.currency,
                paid_not_granted=line.unowned,
                paid_not_granted_amount=line.unowned_amount,
                granted_not_paid=line.unpaid,
                granted_not_paid_amount=line.unpaid_amount,
                payments=line.payments,
            )
        return reply

    async def _to_refund(self, story: Story, key: str, wanted: int | None) -> int:
        """Return how much is to be given back: what the key has asked for, if it has, however little is left by now."""
        asked = await self._ledger.asked_back(story.order.id, key)
        if asked is not None:
            return asked if wanted is None else wanted
        amount = rules.refundable(story.order, story.refunded, wanted)
        if not isinstance(amount, int):
            raise errors.NotRefundable(f"It cannot be refunded: {amount}.")
        return amount

    async def _story(self, payment: str) -> Story:
        story = await self._ledger.story(UUID(payment))
        if story is None:
            raise errors.PaymentNotFound
        return story

    async def _enter(self, student: str, product: str, grant: Grant, call: Call) -> None:
        if not await self._ledger.grant(student, product, grant, call.caller.student):
            raise errors.ProductNotFound


def _by_staff(product: str) -> str:
    """Name staff's word about a product: what they give of one bundle they take back without touching what they gave besides."""
    return f"admin:{product}"


def _record(story: Story) -> pb.GetPaymentRecordResponse:
    order = story.order
    reply = pb.GetPaymentRecordResponse(
        payment=payment_message(order),
        student_id=order.student,
        refunded=story.refunded,
        gateway_ref=order.gateway_ref or "",
        events=map(event_message, story.events),
    )
    for fact, told_ms in story.facts:
        at, told_at = timestamp(fact.at_ms), timestamp(told_ms)
        reply.facts.add(kind=fact.kind, ref=fact.ref, amount=fact.amount, at=at, told_at=told_at)
    for entry in story.entries:
        reply.entries.add(product_id=entry.product, granted=entry.granted, reason=entry.reason, at=timestamp(entry.at_ms))
    return reply


def _product(one: pb.ImportProductsRequest.ProductDefinition) -> Product:
    opens = [
        *(("EXAM", ref) for ref in one.exams),
        *(("BANK", ref) for ref in one.banks),
        *(("LECTURE", ref) for ref in one.lectures),
    ]
    return Product(
        one.product_id,
        one.title,
        one.description,
        one.amount,
        one.currency,
        one.validity_days if one.HasField("validity_days") else None,
        not one.withdrawn,
        tuple(one.parts),
        tuple(opens),
    )


def _coupon(one: pb.ImportProductsRequest.CouponDefinition) -> Coupon:
    return Coupon(
        one.code,
        one.percent if one.HasField("percent") else None,
        one.amount if one.HasField("amount") else None,
        one.currency or None,
        tuple(one.products) or None,
        one.most_uses if one.HasField("most_uses") else None,
        one.most_uses_each if one.HasField("most_uses_each") else 1,
        _ms(one.starts_at) if one.HasField("starts_at") else None,
        _ms(one.ends_at) if one.HasField("ends_at") else None,
    )


def _ms(moment: Timestamp) -> int:
    return moment.seconds * 1000 + moment.nanos // 1_000_000

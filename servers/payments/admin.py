"""PaymentAdminService: what is sold, and who is given what without paying."""

from time import time_ns

from finalbell.v1 import payment_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from servers import errors
from servers.payments import rules
from servers.serving.wrap import Call
from stores.ledger import Ledger
from stores.money import Coupon, Grant, Product


class PaymentAdminService:
    """What staff do with products and entitlements; all of it is on record."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def ImportProducts(self, request: pb.ImportProductsRequest, call: Call) -> pb.ImportProductsResponse:
        products = [_product(one) for one in request.products]
        wrong = rules.wrong_catalogue(products, await self._ledger.products())
        if wrong:
            raise errors.InvalidField(wrong)
        await self._ledger.keep(products, [_coupon(one) for one in request.coupons], call.caller.student)
        return pb.ImportProductsResponse(products=len(request.products), coupons=len(request.coupons))

    async def GrantEntitlement(self, request: pb.GrantEntitlementRequest, call: Call) -> pb.GrantEntitlementResponse:
        now_ms = time_ns() // 1_000_000
        ends_ms = rules.owned_until(now_ms, request.days if request.HasField("days") else None)
        await self._enter(request.student_id, request.product_id, Grant("admin", True, request.reason, now_ms, ends_ms), call)
        return pb.GrantEntitlementResponse()

    async def RevokeEntitlement(self, request: pb.RevokeEntitlementRequest, call: Call) -> pb.RevokeEntitlementResponse:
        grant = Grant("admin", False, request.reason, time_ns() // 1_000_000, None)
        await self._enter(request.student_id, request.product_id, grant, call)
        return pb.RevokeEntitlementResponse()

    async def _enter(self, student: str, product: str, grant: Grant, call: Call) -> None:
        if not await self._ledger.grant(student, product, grant, call.caller.student):
            raise errors.ProductNotFound


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

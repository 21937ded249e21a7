"""Bad input of what is sold and paid: calls, and what strangers send to the webhooks. `$order` is another student's."""

from base64 import b64encode
from typing import Any

from tests.bad_input.requests import Request
from tests.bad_input.rows import NOBODYS, Row, role

WEBHOOK = "/api/v1/payments/webhook"
UNKNOWN_PAYMENT = ("NOT_FOUND", "PAYMENT_NOT_FOUND")
UNKNOWN_PRODUCT = ("NOT_FOUND", "PRODUCT_NOT_FOUND")
FORGED = ("INVALID_ARGUMENT", "SIGNATURE_INVALID")
INVALID = ("INVALID_ARGUMENT", "INVALID_FIELD")


def checkout(what: str, names: str | None, **fields: Any) -> Row:
    return Row(f"checkout: {what}", "CreateCheckout", {"productId": "w-course", **fields}, names=names)


def product(what: str, names: str, **fields: Any) -> Row:
    whole = {"productId": "w-new", "title": "A course", "amount": 100, "currency": "USD", **fields}
    return Row(f"product: {what}", "ImportProducts", {"products": [whole]}, names=f"products[0].{names}", who="admin")


def coupon(what: str, names: str, **fields: Any) -> Row:
    whole = {"code": "W-NEW", "percent": 10, **fields}
    return Row(f"coupon: {what}", "ImportProducts", {"coupons": [whole]}, names=f"coupons[0]{names}", who="admin")


def entitlement(act: str, what: str, names: str | None, answer: tuple[str, str] = INVALID, **fields: Any) -> Row:
    whole = {"studentId": "wally", "productId": "w-course", "reason": "r", **fields}
    return Row(f"{act}: {what}", f"{act}Entitlement", whole, *answer, names=names, who="admin")


def refund(what: str, names: str | None, answer: tuple[str, str] = INVALID, **fields: Any) -> Row:
    whole = {"paymentId": "$order", "reason": "r", **fields}
    return Row(f"refund: {what}", "RefundPayment", whole, *answer, names=names, who="admin")


BUYING = [
    *(
        checkout(f"product {name[:12]!r}", "productId", productId=name)
        for name in ("", "w course", "w-course'; DROP TABLE payment; --", "w-course\0", "w-course\n", "../w-course", "w" * 65)
    ),
    *(checkout(f"provider {name!r}", "provider", provider=name) for name in ("Stripe", "stripe\n", "a" * 33)),
    *(checkout(f"coupon {name[:12]!r}", "coupon", coupon=name) for name in ("A B", "A\0", "A'--", "A" * 65)),
    Row("checkout: unknown product", "CreateCheckout", {"productId": "w-nothing"}, *UNKNOWN_PRODUCT),
    Row(
        "checkout: unknown provider",
        "CreateCheckout",
        {"productId": "w-course", "provider": "nobody"},
        "NOT_FOUND",
        "PROVIDER_UNKNOWN",
    ),
    Row(
        "checkout: unknown coupon",
        "CreateCheckout",
        {"productId": "w-course", "coupon": "NOTHING"},
        "FAILED_PRECONDITION",
        "COUPON_REFUSED",
    ),
    Row("checkout: a key too short", "CreateCheckout", {"productId": "w-course"}, key="short", names="idempotencyKey"),
    Row("payment: another's", "GetPayment", {"paymentId": "$order"}, *UNKNOWN_PAYMENT),
    Row("payment: nobody's", "GetPayment", {"paymentId": NOBODYS}, *UNKNOWN_PAYMENT),
    *(
        Row(f"payment: {name!r}", "GetPayment", {"paymentId": name}, names="paymentId")
        for name in ("1", "{$order}", "urn:uuid:$order", "$order\n", "' OR 1=1")
    ),
    *(
        Row(f"webhook: {what}", "HandleWebhook", {"provider": "sandbox", "body": {"data": body}}, *FORGED, headers=headers)
        for what, body, headers in (
            ("without a signature", "e30=", {}),
            ("with a signature that is none", "e30=", {"sandbox-signature": "t=1,v1=00"}),
            ("with a signature of long ago", "e30=", {"sandbox-signature": f"t=1,v1={'0' * 64}"}),
            ("with somebody's token", "e30=", {"authorization": "Bearer x"}),
            ("that is empty", "", {}),
            ("of no UTF-8", "/w==", {}),
        )
    ),
    Row("webhook: of nobody", "HandleWebhook", {"provider": "nobody"}, "NOT_FOUND", "PROVIDER_UNKNOWN"),
    Row("webhook: of what is no name", "HandleWebhook", {"provider": "Sandbox"}, names="provider"),
]

SELLING = [
    role("ImportProducts", "proctor", products=[]),
    role("GrantEntitlement", "wally", studentId="wally", productId="w-course", reason="mine"),
    role("RevokeEntitlement", "grader", studentId="other", productId="w-course", reason="theirs"),
    role("ListPayments", "wally", studentId="other"),
    role("GetPaymentRecord", "wally", paymentId="$order"),
    role("RefundPayment", "proctor", paymentId="$order", reason="r"),
    role("ReconcilePayments", "wally"),
    role("GetPaymentDrift", "wally"),
    product("malformed id", "productId", productId="w new"),
    product("without a title", "title", title=""),
    product("NUL in the title", "title", title="a\0b"),
    product("NUL in the description", "description", description="a\0b"),
    product("less than nothing", "amount", amount=-1),
    product("malformed currency", "currency", currency="usd"),
    product("owned for no day", "validityDays", validityDays=0),
    product("a part that is not there", "parts[0]", parts=["w-nothing"]),
    product("a part of itself", "parts[0]", parts=["w-new"]),
    product("NUL in a part", "parts[0]", parts=["a\0b"]),
    *(
        product(f"{kind} {name!r}", f"{kind}[0]", **{kind: [name]})
        for kind in ("exams", "banks", "lectures")
        for name in ("", "a\0b", "A", "a/b", "a\n")
    ),
    coupon("malformed code", ".code", code="A B"),
    coupon("101%", ".percent", percent=101),
    coupon("of both kinds", "", amount=5, currency="USD"),
    coupon("NUL in a product", ".products[0]", products=["a\0b"]),
    *(
        coupon(f"{field} {moment}", f".{field}", **{field: moment})
        for field in ("startsAt", "endsAt")
        for moment in ("0001-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "9999-12-31T23:59:59Z")
    ),
    *(
        row
        for act in ("Grant", "Revoke")
        for row in (
            entitlement(act, "without a reason", "reason", reason=""),
            entitlement(act, "NUL in the reason", "reason", reason="a\0b"),
            entitlement(act, "malformed student", "studentId", studentId="w ally"),
            entitlement(act, "unknown product", None, UNKNOWN_PRODUCT, productId="w-nothing"),
        )
    ),
    entitlement("Grant", "for a hundred and one years", "days", days=36_501),
    refund("without a reason", "reason", reason=""),
    refund("NUL in the reason", "reason", reason="a\0b"),
    refund("of nothing", "amount", amount=0),
    refund("of what is not paid", None, ("FAILED_PRECONDITION", "NOT_REFUNDABLE")),
    refund("of nobody's order", None, UNKNOWN_PAYMENT, paymentId=NOBODYS),
    Row("record: of nobody's order", "GetPaymentRecord", {"paymentId": NOBODYS}, *UNKNOWN_PAYMENT, who="admin"),
    Row("payments: malformed student", "ListPayments", {"studentId": "w ally"}, names="studentId", who="admin"),
    Row("drift: of no day", "GetPaymentDrift", {"days": 0}, names="days", who="admin"),
    Row("reconcile: nobody", "ReconcilePayments", {"provider": "nobody"}, "NOT_FOUND", "PROVIDER_UNKNOWN", who="admin"),
]


def call(what: str, body: bytes, path: str = f"{WEBHOOK}/sandbox", verb: str = "POST", **answer: Any) -> Request:
    """What somebody without a token sends to a webhook."""
    told: dict[str, Any] = {"status": 400, "reason": "SIGNATURE_INVALID", "headers": {"content-type": "application/json"}, **answer}
    return Request(f"webhook: {what}", verb, path, body=body, who=None, **told)


WEBHOOKS = [
    *(
        call(f"body {body[:20]!r}", body)
        for body in (b"", b"null", b"[" * 60_000, b"\xff", b"\0" * 10, b"9" * 6_000, b"x" * 65_536, b'{"id":"evt"}')
    ),
    call("of the gateway that is the default", b"{}", WEBHOOK),
    *(
        call(f"content type {kind}", b"{}", headers={"content-type": kind})
        for kind in ("text/html", "application/xml", "multipart/form-data", "application/x-www-form-urlencoded", "")
    ),
    *(
        call(f"signature {sent[:20]!r}", b"{}", headers={"sandbox-signature": sent})
        for sent in ("", "t=1", f"t={'9' * 5_000},v1=00", "t=nan,v1=00", f"t=-1,v1={'0' * 64}", ",".join(["v1=00"] * 5_000))
    ),
    call("a signature of Payme's", b"{}", headers={"authorization": "Basic " + b64encode(b"Paycom:x").decode()}),
    call("65 KiB", b"x" * 65_537, status=413, reason="REQUEST_TOO_LARGE"),
    call("with a query", b"{}", f"{WEBHOOK}/sandbox?live=true", reason="INVALID_FIELD"),
    call("another case", b"{}", f"{WEBHOOK}/Sandbox", reason="INVALID_FIELD"),
    call("an escaped NUL", b"{}", f"{WEBHOOK}/sandbox%00", reason="INVALID_FIELD"),
    call("an escaped line's end", b"{}", f"{WEBHOOK}/sandbox%0a", reason="INVALID_FIELD"),
    call("dots", b"{}", f"{WEBHOOK}/%2e%2e/checkout", status=401, reason="TOKEN_INVALID"),
    *(call(verb, b"", verb=verb, status=401, reason="TOKEN_INVALID") for verb in ("GET", "PUT", "PATCH", "DELETE")),
]

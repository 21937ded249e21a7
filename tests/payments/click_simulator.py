"""A small Click: it reads a checkout link, gives the calls of its SHOP API, and answers its Merchant API."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import UUID

import httpx

SECRET, SERVICE, MERCHANT, USER = "a-test-secret", "1001", "2002", "3003"
BASE_URL = "https://click.invalid/v2/merchant"

HttpCall = tuple[dict[str, str], bytes]
"""Headers, and a body."""


@dataclass
class Payment:
    """A payment as Click has it: `status` 0 created, 1 under way, 2 made, negative failed or given back."""

    order: str
    trans: int
    paydoc: int
    amount: str
    status: int
    day: str


class ClickSimulator:
    """Each act of a payer gives the calls that Click makes because of it. Complete is made from the answer to Prepare."""

    def __init__(self, now_ms: Callable[[], int], secret: str = SECRET) -> None:
        self._now_ms = now_ms
        self._secret = secret
        self._count = 0
        self.payments: list[Payment] = []
        self.asked: list[str] = []
        self.away = False
        self.loses_answers = False

    def local_time(self, ahead_seconds: float = 0) -> str:
        """Return the time in Tashkent."""
        at = datetime.fromtimestamp(self._now_ms() / 1000, UTC) + timedelta(hours=5, seconds=ahead_seconds)
        return at.strftime("%Y-%m-%d %H:%M:%S")

    def signed(self, fields: Mapping[str, str]) -> HttpCall:
        """Return a call with the signature of its fields."""
        prepared = fields["merchant_prepare_id"] if fields["action"] == "1" else ""
        text = (
            f"{fields['click_trans_id']}{fields['service_id']}{self._secret}{fields['merchant_trans_id']}{prepared}"
            f"{fields['amount']}{fields['action']}{fields['sign_time']}"
        )
        sent = {**fields, "sign_string": hashlib.md5(text.encode()).hexdigest()}
        return {"content-type": "application/x-www-form-urlencoded"}, urlencode(sent).encode()

    def fields(self, payment: Payment, **differs: str) -> dict[str, str]:
        """Return the fields that both calls have."""
        return {
            "click_trans_id": str(payment.trans),
            "service_id": SERVICE,
            "click_paydoc_id": str(payment.paydoc),
            "merchant_trans_id": payment.order,
            "amount": payment.amount,
            "action": "0",
            "error": "0",
            "error_note": "Success",
            "sign_time": self.local_time(),
            **differs,
        }

    # What happens

    def open(self, url: str) -> Mapping[str, str]:
        """Read a checkout link. It makes no call."""
        return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}

    def begin(self, order: UUID, amount: int) -> Payment:
        """Let a payer begin to pay so many tiyin."""
        self._count += 1
        soums = f"{amount // 100}.{amount % 100:02}"
        payment = Payment(str(order), 7_000 + self._count, 9_000_000 + self._count, soums, 0, self.local_time()[:10])
        self.payments.append(payment)
        return payment

    def prepare(self, payment: Payment, **differs: str) -> HttpCall:
        """Ask whether it may be paid."""
        payment.status = 1
        return self.signed(self.fields(payment, **differs))

    def complete(self, payment: Payment, prepared: int, **differs: str) -> HttpCall:
        """Say that it is paid."""
        payment.status = 2
        return self.signed(self.fields(payment, **{"action": "1", "merchant_prepare_id": str(prepared), **differs}))

    def fail(self, payment: Payment, prepared: int) -> HttpCall:
        """Say that it could not be paid."""
        call = self.complete(payment, prepared, error="-5017", error_note="Insufficient funds")
        payment.status = -1
        return call

    def pay(self, order: UUID, amount: int) -> Sequence[Callable[[int], HttpCall]]:
        """Return a payment's two calls, each made from our number of it: Click knows it only when Prepare is answered."""
        payment = self.begin(order, amount)
        return [lambda _: self.prepare(payment), lambda prepared: self.complete(payment, prepared)]

    def refund(self, payment: Payment) -> Sequence[HttpCall]:
        """The shop gives the money back in its cabinet: Click makes no call of it."""
        payment.status = -1
        return []

    # Its Merchant API

    def transport(self) -> httpx.MockTransport:
        """Return what answers in Click's stead."""
        return httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectTimeout("simulated")
        self.asked.append(f"{request.method} {request.url.path}")
        user, digest, at = request.headers["auth"].split(":")
        if (user, digest) != (USER, hashlib.sha1(f"{at}{self._secret}".encode()).hexdigest()):
            return httpx.Response(200, json={"error_code": -1, "error_note": "SIGN CHECK FAILED!"})
        answer = self._said(request.method, request.url.path.removeprefix("/v2/merchant/payment/").split("/"))
        if self.loses_answers:
            raise httpx.ReadTimeout("simulated")
        return httpx.Response(200, content=json.dumps(answer).encode())

    def _said(self, method: str, path: Sequence[str]) -> Mapping[str, object]:
        match (method, *path):
            case ("GET", "status_by_mti", service, order, day) if service == SERVICE:
                found = [one for one in self.payments if (one.order, one.day) == (order, day) and one.status]
                return {"error_code": 0, "payment_id": found[-1].paydoc} if found else {"error_code": -16, "error_note": "none"}
            case ("GET", "status", service, paydoc) if service == SERVICE:
                found = [one for one in self.payments if str(one.paydoc) == paydoc]
                return {"error_code": 0, "payment_status": found[0].status} if found else {"error_code": -16}
            case ("DELETE", "reversal", service, paydoc) if service == SERVICE:
                found = [one for one in self.payments if str(one.paydoc) == paydoc and one.status == 2]
                for one in found:
                    one.status = -1
                return {"error_code": 0 if found else -31, "error_note": "", "payment_id": int(paydoc)}
            case _:
                return {"error_code": -500, "error_note": "simulated: no such call"}

"""A small Click: it reads a checkout link, gives the calls of its SHOP API, and answers its Merchant API."""

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit
from uuid import UUID

import asyncpg
import httpx

from servers.payments.click import Click
from servers.payments.click_api import MerchantApi
from servers.payments.provider import Heard, Provider, Said, our_clock
from stores.click_payments import ClickPayments
from stores.money import FactKind, Order, OrderStatus
from tests.payments.gateways import Act, Call, Line, Truth

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


def local_time(at_ms: int) -> str:
    """Return a time in Tashkent."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC) + timedelta(hours=5)
    return at.strftime("%Y-%m-%d %H:%M:%S")


class ClickSimulator:
    """Each act of a payer gives the calls that Click makes because of it. Complete is made from the answer to Prepare."""

    def __init__(self, now_ms: Callable[[], int], secret: str = SECRET) -> None:
        self._now_ms = now_ms
        self._secret = secret
        self._count = secrets.randbelow(10**16)  # other simulators name theirs in the same table
        self.payments: list[Payment] = []
        self.reversed: set[int] = set()
        """What it gave back because we asked for it."""
        self.asked: list[str] = []
        self.away = False
        self.loses_answers = False

    def local_time(self, ahead_seconds: float = 0) -> str:
        """Return the time in Tashkent."""
        return local_time(self._now_ms() + round(ahead_seconds * 1000))

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
        payment = Payment(str(order), 7_000 + self._count, 10**17 + self._count, soums, 0, self.local_time()[:10])
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
                    self.reversed.add(one.paydoc)
                return {"error_code": 0 if found else -31, "error_note": "", "payment_id": int(paydoc)}
            case _:
                return {"error_code": -500, "error_note": "simulated: no such call"}


class SimulatedClick:
    """The adapter of the conformance suite. Money is taken when Complete is sent, and given back where we will not have it."""

    currency = "UZS"
    can = frozenset({Act.PAY, Act.FAIL})
    asks = True
    signs_bytes = False
    signs_time = True
    names_students = False
    calls_out = frozenset({"refund"})  # the others only where something is prepared and not completed (test_click.py)
    line: Line

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._click = ClickSimulator(self.now_ms)
        api = MerchantApi(BASE_URL, service=SERVICE, user=USER, secret=SECRET, transport=self._click.transport())
        told = {"service": SERVICE, "merchant": MERCHANT, "secret": SECRET}
        pages = {"checkout_url": "https://checkout.invalid/pay", "return_url": "https://exams.invalid/paid"}
        self.provider: Provider = Click(ClickPayments(pool), api, live=False, **told, **pages)
        self._begun: dict[str, bool] = {}
        """Orders of which a payment was begun, and whether we may have prepared one."""

    @property
    def away(self) -> bool:
        """Whether its API answers nothing."""
        return self._click.away

    @away.setter
    def away(self, away: bool) -> None:
        self._click.away = away

    def now_ms(self) -> int:
        """Return the time."""
        return our_clock()

    def known(self, order: Order) -> int:
        """It learns of an order from its link, and so as often as there are different links."""
        return len({order.url})

    async def act(self, act: Act, order: Order, amount: int = 0) -> Sequence[Call] | None:
        """Let something happen; None where it cannot, or we would not have it."""
        if act not in self.can or self.truth(order).status is not OrderStatus.OPEN:
            return None
        payment = self._click.begin(order.id, amount or order.amount)
        calls = [Call(self._click.prepare(payment)[1])]
        said = await self._ask(calls[0])
        number = None if said is None else said.get("merchant_prepare_id")
        self._begun[payment.order] = self._begun.get(payment.order, False) or said is None or number is not None
        if said is None or number is None or said["error"] != 0:
            payment.status = -1
            return None
        if act is Act.PAY:
            told = (FactKind.PAID, str(payment.paydoc), order.amount)
            calls.append(Call(self._click.complete(payment, number)[1], [told]))
        else:
            calls.append(Call(self._click.fail(payment, number)[1], [(FactKind.FAILED, str(payment.trans), 0)]))
        said = await self._ask(calls[1])
        if said is not None and said["error"] not in (0, -4):  # then Click gives it back
            payment.status = -1
        return calls

    async def _ask(self, call: Call) -> Mapping[str, int] | None:
        said = await self.line(call)
        found: Mapping[str, int] | None = None if said is None else json.loads(said.body)
        return found

    async def catch_up(self) -> None:
        """It repeats nothing: we ask after what was prepared."""

    def sent(self) -> Sequence[Call]:
        """It makes no call of what we ask."""
        return []

    def sign(self, call: Call, at_ms: int, stranger: bool = False) -> Heard:
        """Sign as Click does, at a time."""
        fields = dict(parse_qsl(call.body.decode()))
        fields["sign_time"] = local_time(at_ms)
        headers, body = (ClickSimulator(self.now_ms, "another") if stranger else self._click).signed(fields)
        return Heard(headers, body, at_ms)

    def unsigned(self, call: Call) -> Heard:
        """Return a call without its signature."""
        fields = dict(parse_qsl(call.body.decode()))
        return Heard({}, urlencode({**fields, "sign_string": ""}).encode(), self.now_ms())

    def refused(self, said: Said) -> bool:
        """Return whether an answer is an error."""
        return bool(json.loads(said.body)["error"])

    def truth(self, order: Order) -> Truth:
        """Return what an order has come to, by what Click holds: an order whose payment may have been prepared and was not made
        has failed."""
        mine = [one for one in self._click.payments if one.order == str(order.id)]
        if any(one.paydoc in self._click.reversed for one in mine):
            return Truth(OrderStatus.REFUNDED, order.amount)
        if any(one.status == 2 for one in mine):
            return Truth(OrderStatus.PAID, 0)
        return Truth(OrderStatus.FAILED if self._begun.get(str(order.id)) else OrderStatus.OPEN, 0)


@asynccontextmanager
async def simulated_click(pool: asyncpg.Pool) -> AsyncIterator[SimulatedClick]:
    """A Click that asks, and answers."""
    simulated = SimulatedClick(pool)
    yield simulated
    await simulated.provider.stop()

"""A small Payme: it reads a checkout link, and gives the calls of its Merchant API in the order in which it makes them."""

import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from servers.payments.payme import Payme, our_clock
from servers.payments.provider import Heard, Provider, Said
from stores.money import FactKind, Order, OrderStatus
from stores.payme_transactions import PaymeTransactions
from tests.payments.gateways import Act, Call, Line, Told, Truth

KEY = "a-test-key"
TIMEOUT_MS = 43_200_000

HttpCall = tuple[dict[str, str], bytes]
"""Headers, and a body."""


class PaymeSimulator:
    """Each act of a payer or of the shop's staff gives the calls that Payme makes because of it."""

    def __init__(self, now_ms: Callable[[], int], key: str = KEY) -> None:
        self._now_ms = now_ms
        self._key = key
        self._calls = 0
        self._transactions = secrets.randbits(80)  # other simulators name theirs in the same table
        self._begun: dict[UUID, str] = {}
        self._reasons: dict[UUID, int] = {}

    def call(self, method: str, params: Mapping[str, object]) -> HttpCall:
        """Return a call, signed."""
        self._calls += 1
        body = json.dumps({"jsonrpc": "2.0", "id": self._calls, "method": method, "params": params}).encode()
        return self.headers(), body

    def headers(self, key: str | None = None) -> dict[str, str]:
        """Return what Payme signs with."""
        credentials = base64.b64encode(f"Paycom:{self._key if key is None else key}".encode()).decode()
        return {"authorization": f"Basic {credentials}", "content-type": "application/json"}

    def transaction(self, order: UUID) -> str:
        """Return Payme's name of the transaction that pays an order."""
        return self._begun[order]

    # The calls

    def check_perform(self, order: UUID, amount: int) -> HttpCall:
        return self.call("CheckPerformTransaction", {"amount": amount, "account": {"order": str(order)}})

    def create(self, order: UUID, amount: int) -> HttpCall:
        """Begin another transaction."""
        self._transactions += 1
        self._begun[order] = f"{self._transactions:024x}"
        return self.create_again(order, amount)

    def create_again(self, order: UUID, amount: int) -> HttpCall:
        told = {"id": self._begun[order], "time": self._now_ms(), "amount": amount, "account": {"order": str(order)}}
        return self.call("CreateTransaction", told)

    def perform(self, order: UUID) -> HttpCall:
        return self.call("PerformTransaction", {"id": self._begun[order]})

    def cancel(self, order: UUID, reason: int) -> HttpCall:
        self._reasons[order] = reason
        return self.call("CancelTransaction", {"id": self._begun[order], "reason": reason})

    def reason(self, order: UUID) -> int:
        """Return why an order's transaction was cancelled."""
        return self._reasons[order]

    def check(self, order: UUID) -> HttpCall:
        return self.call("CheckTransaction", {"id": self._begun[order]})

    def statement(self, from_ms: int, to_ms: int) -> HttpCall:
        return self.call("GetStatement", {"from": from_ms, "to": to_ms})

    # What happens

    def open(self, url: str) -> tuple[str, UUID, int, str]:
        """Read a checkout link: the merchant, the order, the amount in tiyin, the page to go back to. It makes no call."""
        told = dict(part.split("=", 1) for part in base64.b64decode(url.rpartition("/")[2]).decode().split(";"))
        return told["m"], UUID(told["ac.order"]), int(told["a"]), told["c"]

    def begin(self, order: UUID, amount: int) -> Sequence[HttpCall]:
        """The payer has begun, and has still to confirm."""
        return [self.check_perform(order, amount), self.create(order, amount)]

    def pay(self, order: UUID, amount: int) -> Sequence[HttpCall]:
        """The payer pays."""
        return [*self.begin(order, amount), self.perform(order)]

    def fail(self, order: UUID, amount: int) -> Sequence[HttpCall]:
        """The payer's bank says no."""
        return [*self.begin(order, amount), self.cancel(order, 2)]

    def expire(self, order: UUID, amount: int) -> Sequence[HttpCall]:
        """The payer goes away: Payme ends it after 12 hours."""
        return [*self.begin(order, amount), self.cancel(order, 4)]

    def refund(self, order: UUID) -> Sequence[HttpCall]:
        """The shop gives the money back in its cabinet: all of it, there are no parts."""
        return [self.cancel(order, 5)]


class SimulatedPayme:
    """The adapter of the conformance suite. Payme repeats what it was not answered: three times at once, and later."""

    currency = "UZS"
    can = frozenset({Act.PAY, Act.FAIL, Act.EXPIRE, Act.REFUND})
    asks = True
    signs_bytes = False
    signs_time = False
    names_students = False
    calls_out: frozenset[str] = frozenset()
    away = False
    line: Line

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._payme = PaymeSimulator(self.now_ms)
        told = {"merchant": "m", "checkout_url": "https://checkout.invalid/", "return_url": "https://exams.invalid/paid"}
        self.provider: Provider = Payme(PaymeTransactions(pool), key=KEY, live=False, **told)
        self._truth: dict[UUID, Truth] = {}
        self._unanswered: list[tuple[Order, Call]] = []

    def now_ms(self) -> int:
        """Return the time."""
        return our_clock()

    def known(self, order: Order) -> int:
        """It learns of an order from its link, and so as often as there are different links."""
        return len({order.url})

    async def act(self, act: Act, order: Order, amount: int = 0) -> Sequence[Call] | None:
        """Let something happen; None where it cannot, or we would not have it."""
        calls: list[Call] = []
        state = self.truth(order).status
        if act is Act.REFUND and state is OrderStatus.PAID:
            back = (FactKind.REFUNDED, self._payme.transaction(order.id), order.amount)
            await self._ask(calls, order, self._payme.refund(order.id)[0], back)
            return calls
        if act not in self.can or act is Act.REFUND or state is not OrderStatus.OPEN:
            return None
        for call in self._payme.begin(order.id, amount or order.amount):
            if not await self._ask(calls, order, call):
                return None
        named = self._payme.transaction(order.id)
        match act:
            case Act.PAY:
                await self._ask(calls, order, self._payme.perform(order.id), (FactKind.PAID, named, order.amount))
            case Act.FAIL:
                await self._ask(calls, order, self._payme.cancel(order.id, 2), (FactKind.FAILED, named, 0))
            case _:
                await self._ask(calls, order, self._payme.cancel(order.id, 4), (FactKind.EXPIRED, named, 0))
        return calls

    async def _ask(self, calls: list[Call], order: Order, made: HttpCall, *tells: Told) -> bool:
        """Make a call, and believe the answer; False: it is an error, or there is none."""
        call = Call(made[1], tells)
        calls.append(call)
        for _ in range(3):
            said = await self.line(call)
            if said is not None:
                return self._believe(order, said)
        self._unanswered.append((order, call))
        return False

    def _believe(self, order: Order, said: Said) -> bool:
        result = json.loads(said.body).get("result")
        match result:
            case {"state": 2}:
                self._truth[order.id] = Truth(OrderStatus.PAID, 0)
            case {"state": -2}:
                self._truth[order.id] = Truth(OrderStatus.REFUNDED, order.amount)
            case {"state": -1}:
                ended = OrderStatus.EXPIRED if self._payme.reason(order.id) == 4 else OrderStatus.FAILED
                self._truth[order.id] = Truth(ended, 0)
        return result is not None

    async def catch_up(self) -> None:
        """Repeat what was not answered; a payment whose beginning was not is given up."""
        unanswered, self._unanswered = self._unanswered, []
        for order, call in unanswered:
            method = json.loads(call.body)["method"]
            if method == "CreateTransaction":
                call = Call(self._payme.cancel(order.id, 3)[1])
            if method != "CheckPerformTransaction" and not await self._answered(order, call):
                self._unanswered.append((order, call))

    async def _answered(self, order: Order, call: Call) -> bool:
        said = await self.line(call)
        if said is not None:
            self._believe(order, said)
        return said is not None

    def sent(self) -> Sequence[Call]:
        """We ask nothing of it."""
        return []

    def sign(self, call: Call, at_ms: int, stranger: bool = False) -> Heard:
        """Say who calls, as Payme does."""
        return Heard(self._payme.headers("another" if stranger else None), call.body, at_ms)

    def unsigned(self, call: Call) -> Heard:
        """Return a call without its header."""
        return Heard({}, call.body, self.now_ms())

    def refused(self, said: Said) -> bool:
        """Return whether an answer is an error."""
        return "error" in json.loads(said.body)

    def truth(self, order: Order) -> Truth:
        """Return what an order has come to, by what Payme was answered."""
        return self._truth.get(order.id, Truth(OrderStatus.OPEN, 0))


@asynccontextmanager
async def simulated_payme(pool: asyncpg.Pool) -> AsyncIterator[SimulatedPayme]:
    """A Payme that asks."""
    yield SimulatedPayme(pool)

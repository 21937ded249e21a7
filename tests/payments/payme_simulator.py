"""A small Payme: it reads a checkout link, and gives the calls of its Merchant API in the order in which it makes them."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

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
        self._transactions = 0
        self._begun: dict[UUID, str] = {}

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
        return self.call("CancelTransaction", {"id": self._begun[order], "reason": reason})

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

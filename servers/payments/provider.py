"""What a payment gateway is to finalbell: one small protocol, which every provider in this folder keeps and one suite tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import time_ns
from typing import Protocol

from stores.money import Event, Order, Product, Told

OLDEST_SECONDS = 300
"""How far the time in a signed message may be from ours, either way."""


class Forged(Exception):
    """A message is not the gateway's: its signature is missing, malformed, wrong, of another secret, or of another time."""


class GatewayAway(Exception):
    """The gateway did not answer, or not in a way that says what happened: ask again with the same key."""


class GatewayRefused(Exception):
    """The gateway understood and will not, or has no call for it: asking again in the same words gives the same answer."""


class RefundedByHand(GatewayRefused):
    """The gateway has no call for this refund: it is made in its cabinet, and told as an event once it is."""


def our_clock() -> int:
    """Return the time in milliseconds since 1970."""
    return time_ns() // 1_000_000


def way_back(return_url: str, order: Order) -> str:
    """Return where a student comes back to from a gateway's page, with `{payment}` for the order's id."""
    return return_url.replace("{payment}", str(order.id))


@dataclass(frozen=True, slots=True)
class Opened:
    """Where an order is paid: the gateway's name of it, a page for browsers, a secret for apps."""

    ref: str
    url: str
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """One call of a gateway: header names in lower case, raw bytes, and our clock."""

    headers: Mapping[str, str]
    body: bytes
    now_ms: int


@dataclass(frozen=True, slots=True)
class Said:
    """Our answer to it."""

    body: bytes = b""
    content_type: str = "application/json"


class Books(Protocol):
    """What a provider may ask and tell of orders: some gateways ask before they take money."""

    async def tell(self, event: Event) -> Told:
        """Keep an event and do what it says, once."""

    async def find(self, order: str) -> Order | None:
        """Return an order of this provider by our id of it, as the gateway sent it; None for anything else."""


class Provider(Protocol):
    """One gateway."""

    name: str
    live: bool
    """False in the gateway's test mode: no real money moves."""

    def takes(self, currency: str) -> bool:
        """Return whether the gateway takes money of an ISO 4217 currency."""

    async def open(self, order: Order, product: Product) -> Opened:
        """Have the gateway take an order, once however often it is asked; raises GatewayAway and GatewayRefused."""

    async def close(self, order: Order) -> bool:
        """Have the gateway take no money for an order any more; False: it has taken it already. Raises GatewayAway and
        GatewayRefused."""

    async def hear(self, heard: Heard, books: Books) -> Said:
        """Answer the gateway's call in its own way; raises Forged, and GatewayAway where it takes a look-up that is not
        answered: then the gateway has to call again."""

    async def look(self, order: Order) -> Sequence[Event]:
        """Ask the gateway what has become of an order, as events that may have been told before: their facts have the same `ref`s
        as those of webhooks. Raises GatewayAway."""

    async def missed(self, since_ms: int) -> Sequence[Event]:
        """Return what the gateway's own list of events has since then, for those that keep one; else nothing. Raises
        GatewayAway."""

    async def refund(self, order: Order, amount: int, key: str) -> None:
        """Have the gateway give back so much, once per key; `look` tells of it, whether or not the gateway does. Raises GatewayAway
        and GatewayRefused."""

    async def stop(self) -> None:
        """Close the connections to the gateway."""

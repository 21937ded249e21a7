"""What the conformance suite needs of a gateway that is simulated: one small adapter for each provider."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from servers.payments.provider import Heard, Provider, Said
from stores.money import FactKind, Order, OrderStatus

Told = tuple[FactKind, str, int]
"""A fact as a gateway states it: its kind, the gateway's name of it, its amount in minor units. Nothing moves when a payment fails
or its time is over, so the amount of those is 0."""


class Act(StrEnum):
    """What happens at a gateway."""

    DECLINE = "DECLINE"  # a try that fails, and may be made again
    PAY = "PAY"
    PAY_LATER = "PAY_LATER"  # what was begun is paid days later
    FAIL = "FAIL"  # and this is not
    EXPIRE = "EXPIRE"
    REFUND = "REFUND"
    DISPUTE = "DISPUTE"
    WIN = "WIN"
    LOSE = "LOSE"


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call that the gateway makes, not signed yet, and the facts that it tells."""

    body: bytes
    tells: Sequence[Told] = ()


Line = Callable[[Call], Awaitable[Said | None]]
"""What carries a call to us and our answer back; None: one of them was lost."""


UNPAID = frozenset({OrderStatus.OPEN, OrderStatus.FAILED, OrderStatus.EXPIRED})


@dataclass(frozen=True, slots=True)
class Truth:
    """What an order has come to at the gateway, by its own books."""

    status: OrderStatus
    refunded: int

    def agrees(self, other: "Truth") -> bool:
        """Return whether the money is where the other says. A gateway that had no answer may take for begun what never was."""
        return self == other or (self.status in UNPAID and other.status in UNPAID and self.refunded == other.refunded)


class Gateway(Protocol):
    """A simulated gateway and the provider that speaks with it."""

    provider: Provider
    currency: str
    can: frozenset[Act]
    asks: bool
    """It asks before it takes money: what happens depends on our answers. So it makes its calls while something happens, one after
    the other, and answers are all that a forged call gets: an error."""
    line: Line
    """How the calls of one that asks reach us."""
    signs_bytes: bool
    """A signature is of all bytes of a body. One that only says who calls cannot tell a changed body."""
    signs_time: bool
    names_students: bool
    """Its messages say whose order it is."""
    calls_out: frozenset[str]
    """What our provider needs its API for, which may be away."""
    away: bool
    """Set to have that API answer nothing."""

    def now_ms(self) -> int:
        """Return the gateway's time."""

    def known(self, order: Order) -> int:
        """Return how many times the gateway has an order."""

    async def act(self, act: Act, order: Order, amount: int = 0) -> Sequence[Call] | None:
        """Let something happen to an order; returns the calls that the gateway makes, or has made where it asks. None: it cannot
        happen now, or we would not have it."""

    async def catch_up(self) -> None:
        """Repeat what was not answered, for gateways that do so."""

    def sent(self) -> Sequence[Call]:
        """Return the calls that the gateway makes because of what our provider asked it since last time."""

    def sign(self, call: Call, at_ms: int, stranger: bool = False) -> Heard:
        """Return a call as it comes at a time, signed then; by a stranger: with another secret."""

    def unsigned(self, call: Call) -> Heard:
        """Return a call that nobody has signed."""

    def refused(self, said: Said) -> bool:
        """Return whether an answer of ours is an error."""

    def truth(self, order: Order) -> Truth:
        """Return what an order has come to."""

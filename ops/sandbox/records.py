"""What the gateway knows: checkouts, and what can happen to them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """What a checkout has come to. Only an open one can be paid."""

    OPEN = "open"
    PROCESSING = "processing"  # paid by transfer, and the money is under way
    PAID = "paid"
    FAILED = "failed"
    EXPIRED = "expired"


class Act(StrEnum):
    """What can happen to a checkout."""

    PAY = "pay"
    FAIL = "fail"
    CANCEL = "cancel"
    DECLINE = "decline"  # a try that fails, and may be made again
    TRANSFER = "transfer"  # its money comes later, or does not
    ARRIVE = "arrive"
    BOUNCE = "bounce"
    EXPIRE = "expire"
    REFUND = "refund"
    DISPUTE = "dispute"
    WIN = "win"
    LOSE = "lose"


class Next(StrEnum):
    """What becomes of the webhooks of what happens next."""

    SEND = "send"
    LOSE = "lose"
    TWICE = "twice"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a shop asks for. `amount` is in minor units of `currency`; `order` is the shop's own name of it."""

    order: str
    student: str
    title: str
    description: str
    amount: int
    currency: str
    return_url: str
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Refund:
    """So much was given back."""

    id: str
    amount: int


@dataclass(frozen=True, slots=True)
class Dispute:
    """The payer's bank wants so much back; `status` is open, won (by the shop) or lost."""

    id: str
    amount: int
    status: str


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout as it is now; `payment` is the name of its payment, where there was one."""

    id: str
    wanted: Wanted
    status: Status
    payment: str | None
    created_ms: int
    next: Next
    refunds: Sequence[Refund]
    disputes: Sequence[Dispute]

    @property
    def left(self) -> int:
        """How much of the payment was not given back."""
        return self.wanted.amount - sum(refund.amount for refund in self.refunds)

    @property
    def disputed(self) -> Dispute | None:
        """The dispute that is open."""
        return next((one for one in self.disputes if one.status == "open"), None)

    @property
    def state(self) -> str:
        """How it is, in a word for people: what was paid may have been given back or taken back since."""
        if self.status is not Status.PAID:
            return self.status
        if self.disputed:
            return "disputed"
        if not self.left:
            return "refunded"
        return "taken back" if any(one.status == "lost" for one in self.disputes) else self.status


def possible(checkout: Checkout) -> frozenset[Act]:
    """Return what can happen to a checkout now.

    Nothing is given back while a bank decides about it, or after it has taken it; and what was given back whole is not disputed.
    """
    match checkout.status:
        case Status.OPEN:
            return frozenset({Act.PAY, Act.FAIL, Act.CANCEL, Act.DECLINE, Act.TRANSFER, Act.EXPIRE})
        case Status.PROCESSING:
            return frozenset({Act.ARRIVE, Act.BOUNCE})
        case Status.PAID if checkout.disputed:
            return frozenset({Act.WIN, Act.LOSE})
        case Status.PAID if checkout.left and not any(one.status == "lost" for one in checkout.disputes):
            return frozenset({Act.REFUND, Act.DISPUTE})
        case _:
            return frozenset()

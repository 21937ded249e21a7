"""What payments are made of: orders, facts about them, grants. Standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class FactKind(StrEnum):
    """What a gateway can tell of an order."""

    PAID = "PAID"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    REFUNDED = "REFUNDED"
    DISPUTE_OPENED = "DISPUTE_OPENED"
    DISPUTE_WON = "DISPUTE_WON"
    DISPUTE_LOST = "DISPUTE_LOST"


class OrderStatus(StrEnum):
    """What an order has come to: the fold of its facts."""

    OPEN = "OPEN"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    PAID = "PAID"
    REFUNDED = "REFUNDED"
    DISPUTED = "DISPUTED"
    LOST = "LOST"


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is known of an order. `ref` is the gateway's name of the payment, refund or dispute, so that the same fact
    told twice, or by two events, is one fact. `amount` in minor units."""

    kind: FactKind
    ref: str
    amount: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class OrderState:
    """The fold of an order's facts; `paid_ms` is None until it is paid, `refunded` in minor units."""

    status: OrderStatus
    paid_ms: int | None
    refunded: int

    @property
    def grants(self) -> bool:
        """Whether who ordered it owns it."""
        return self.status is OrderStatus.PAID


@dataclass(frozen=True, slots=True)
class Product:
    """What is sold: `amount` in minor units of `currency`; `validity_days` None: it is owned for good. `opens` is (kind, id)."""

    id: str
    title: str
    description: str
    amount: int
    currency: str
    validity_days: int | None
    available: bool
    parts: Sequence[str]
    opens: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Coupon:
    """Takes `percent` off, or `amount` minor units of `currency`; `products` None: it is good for any."""

    code: str
    percent: int | None
    amount: int | None
    currency: str | None
    products: Sequence[str] | None
    most_uses: int | None
    most_uses_each: int
    starts_ms: int | None
    ends_ms: int | None


@dataclass(frozen=True, slots=True)
class Order:
    """One order as PostgreSQL has it."""

    id: UUID
    student: str
    product: str
    provider: str
    amount: int
    currency: str
    live: bool
    gateway_ref: str | None
    url: str | None
    secret: str | None
    status: OrderStatus
    created_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a gateway says an order is: compared with the order before anything is believed. None: it did not say. `amount` is all
    of the order's, whatever part of it a refund or a dispute is about."""

    order: UUID | None
    gateway_ref: str | None
    amount: int | None
    currency: str | None
    student: str | None
    live: bool | None


@dataclass(frozen=True, slots=True)
class Event:
    """One signed message of a gateway. Without facts it is kept and changes nothing."""

    id: str
    kind: str
    body: bytes
    claimed: Claimed
    facts: Sequence[Fact]


class EventOutcome(StrEnum):
    """What an event did."""

    APPLIED = "APPLIED"
    STORED = "STORED"
    QUARANTINED = "QUARANTINED"


@dataclass(frozen=True, slots=True)
class Told:
    """What became of an event, and why it was quarantined; one that is told again came to what it came to first."""

    outcome: EventOutcome
    why: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """Whose word says that a student owns a product, and for how long; `ends_ms` None: for good."""

    source: str
    granted: bool
    reason: str
    starts_ms: int
    ends_ms: int | None

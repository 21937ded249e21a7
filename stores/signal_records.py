"""Signals as values: what clients report, what the server sees itself, and what they add up to. Frozen, standard library only."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID


class Kind(StrEnum):
    """What happened."""

    FOCUS_LOST = "FOCUS_LOST"
    FOCUS_REGAINED = "FOCUS_REGAINED"
    COPY = "COPY"
    CUT = "CUT"
    PASTE = "PASTE"
    FULL_SCREEN_LEFT = "FULL_SCREEN_LEFT"
    DISPLAY_COUNT = "DISPLAY_COUNT"
    DEV_TOOLS = "DEV_TOOLS"
    NETWORK_CHANGE = "NETWORK_CHANGE"
    DEVICE_CHANGE = "DEVICE_CHANGE"
    PING = "PING"
    WEBCAM_FRAME = "WEBCAM_FRAME"
    # What the server sees itself.
    TWO_DEVICES = "TWO_DEVICES"
    TWO_ADDRESSES = "TWO_ADDRESSES"
    TOKEN_MOVED = "TOKEN_MOVED"  # noqa: S105
    CLOCK_JUMP = "CLOCK_JUMP"
    FAST_ANSWER = "FAST_ANSWER"
    CHANGES_AFTER_FOCUS = "CHANGES_AFTER_FOCUS"


OWN = frozenset(
    {Kind.TWO_DEVICES, Kind.TWO_ADDRESSES, Kind.TOKEN_MOVED, Kind.CLOCK_JUMP, Kind.FAST_ANSWER, Kind.CHANGES_AFTER_FOCUS}
)
"""What no client reports."""

ONLY_COUNTED = frozenset({Kind.PING})
"""What is counted, and not kept one by one."""


class Signal(NamedTuple):
    """One signal; `amount` is in milliseconds, characters or displays, by its kind, and `details` is JSON. A tuple, since thousands
    a second are made."""

    session: UUID
    student: str
    id: UUID
    kind: Kind
    amount: int
    client_ms: int | None
    received_ms: int
    device: str
    details: str = "{}"


@dataclass(frozen=True, slots=True)
class Presence:
    """From where a session was reported on, and when for the first and the last time."""

    session: UUID
    student: str
    device: str
    address: str
    token: bytes
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class Feed:
    """What a process says it had published before an event, and how many signals are in it."""

    publisher: UUID
    before: int
    count: int


@dataclass(frozen=True, slots=True)
class Count:
    """How often something happened in a session: how many, the sum of their amounts, the largest."""

    kind: Kind
    count: int
    amount: int
    peak: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Counts to look for: a kind, of which count, amount or peak has to be at least so much."""

    kind: Kind
    measure: str
    least: int


@dataclass(frozen=True, slots=True)
class Counted:
    """A session, and its counts that were looked for."""

    session: UUID
    student: str
    alias: str
    counts: tuple[Count, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A session that has a score."""

    session: UUID
    student: str
    exam: str
    exam_version: int
    started_ms: int
    again: bool
    """Whether its answers were counted before, and it only waits to be judged."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a question takes: answers, and the sums of the logarithms of their seconds and of these squared."""

    answers: int
    total: float
    squares: float

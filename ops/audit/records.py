"""What clients recorded and what the auditor says of it: plain values. What the stores hold is in kept.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ops.audit.kept import Stores

EPOCH = 1_000_000
"""A save's version is epoch × 1,000,000 + n."""

PERHAPS = frozenset({"", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"})
"""Codes after which nobody knows whether the call happened; "" is no answer at all."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: its number in the list of promises, the session or exam, and what is wrong, for an operator."""

    invariant: str
    about: str
    what: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What one check did: which promises, how many facts it looked at and of what kind, and what it found."""

    invariants: str
    fact: str
    facts: int
    violations: Sequence[Violation]


# What clients saw


@dataclass(frozen=True, slots=True)
class Answered:
    """The fields of replies that matter; those that a reply does not have keep their default. Times are the server's."""

    version: int | None = None
    saved: bool | None = None
    saved_at_ms: int | None = None
    ends_at_ms: int | None = None
    server_time_ms: int | None = None
    started_at_ms: int | None = None
    submitted_at_ms: int | None = None
    answers_sha256: str | None = None
    status: str | None = None
    epoch: int | None = None
    restored_through: int | None = None
    order: str | None = None
    answers: Mapping[str, Sequence[object]] | None = None
    """Per question: the answer, its version."""

    score: int | None = None
    max_score: int | None = None
    rank: int | None = None
    revision: int | None = None
    breakdown: int | None = None
    """How many questions of it were shown."""

    entries: Sequence[Sequence[object]] | None = None
    """Of a board: rank, score, student."""

    rebuilding: bool | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call as its client recorded it; an item of a batch is a call of its own. Times are the client's clock."""

    line: int
    rpc: str
    student: str
    exam: str
    session: str
    key: str
    question: str
    answer: str
    client_seq: int | None
    sent_ms: float
    received_ms: float | None
    code: str
    reason: str
    message: str
    retry_ms: int
    claims: str
    """What the call claimed to be besides its token: a forged header, no token, a bad one; empty for honest calls."""

    canaries: Sequence[str] | None
    """Strings from keys and explanations that the whole reply held; None where nobody looked."""

    reply: Answered

    @property
    def good(self) -> bool:
        """Whether it was answered, and not refused."""
        return self.code == "OK"

    @property
    def perhaps(self) -> bool:
        """Whether it may or may not have happened."""
        return self.code in PERHAPS and self.reason != "OVERLOADED"

    @property
    def refused(self) -> bool:
        """Whether it certainly did not happen."""
        return not self.good and not self.perhaps


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to the stack, and when, by the clock of the clients."""

    name: str
    unit: str
    at_ms: float
    until_ms: float
    loses: bool
    """Whether it takes acknowledged saves out of Redis by its nature: a wipe, a failover."""

    @property
    def shown(self) -> str:
        """Its name with what it was done to."""
        return f"{self.name} {self.unit}".strip()


@dataclass(frozen=True, slots=True)
class Save:
    """One change of an answer with all the calls that carried it: the same key and the same body."""

    session: str
    key: str
    question: str
    answer: str
    client_seq: int | None
    calls: Sequence[Call]

    @property
    def acknowledged(self) -> Sequence[Call]:
        """The calls that were told that it is saved."""
        return [call for call in self.calls if call.good and call.reply.saved]

    @property
    def versions(self) -> Sequence[int]:
        """The versions that it was told, the lowest first, each once."""
        return sorted({call.reply.version or 0 for call in self.acknowledged})

    @property
    def perhaps(self) -> bool:
        """Whether a call of it may have happened that nobody heard of."""
        return any(call.perhaps for call in self.calls)

    @property
    def sent_ms(self) -> float:
        """When it was first on its way."""
        return min(call.sent_ms for call in self.calls)


@dataclass(frozen=True)
class History:
    """What all clients recorded, and what was done to the stack meanwhile."""

    calls: Sequence[Call] = ()
    faults: Sequence[Fault] = ()
    drained_ms: float | None = None
    """From when on nothing changed any more; None: the clients' history does not say."""

    @cached_property
    def by_session(self) -> Mapping[str, Sequence[Call]]:
        """The calls of each session, in the order in which they were sent."""
        found: dict[str, list[Call]] = {}
        for call in sorted(self.calls, key=lambda call: call.sent_ms):
            if call.session:
                found.setdefault(call.session, []).append(call)
        return found

    @property
    def wiped(self) -> frozenset[str]:
        """The sessions of whose saves a fault may have taken some out of Redis."""
        return frozenset(self.by_session) if any(fault.loses for fault in self.faults) else frozenset()

    @cached_property
    def saves(self) -> Mapping[str, Sequence[Save]]:
        """The saves of each session, by those who own it."""
        found: dict[str, dict[tuple[object, ...], list[Call]]] = {}
        for session, calls in self.by_session.items():
            for call in calls:
                if call.rpc == "SaveAnswer" and not call.claims:
                    body = (call.student, call.key, call.question, call.answer, call.client_seq)
                    found.setdefault(session, {}).setdefault(body, []).append(call)
        return {session: [_save(session, same) for same in bodies.values()] for session, bodies in found.items()}


def _save(session: str, same: Sequence[Call]) -> Save:
    first = same[0]
    return Save(session, first.key, first.question, first.answer, first.client_seq, tuple(same))


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known; `history` is empty where only the stores are audited."""

    stores: Stores
    history: History

"""Analyses and cases as values: whose answers agree too well, and what people make of it. Frozen, standard library only."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID


class RunState(StrEnum):
    """How far a run is."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


class Grouping(StrEnum):
    """A way for two students to be near each other."""

    COHORT = "COHORT"
    ROOM = "ROOM"
    ADDRESS_RANGE = "ADDRESS_RANGE"
    EVERYBODY = "EVERYBODY"


class CaseState(StrEnum):
    """How far people are with a case."""

    OPEN = "OPEN"
    REVIEWED = "REVIEWED"
    DISMISSED = "DISMISSED"
    CONFIRMED = "CONFIRMED"
    APPEALED = "APPEALED"


class Moved(StrEnum):
    """What became of a step."""

    MOVED = "MOVED"
    REPEATED = "REPEATED"
    ELSEWHERE = "ELSEWHERE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Examined:
    """An exam as far as an analysis needs it; `ended`: closed, and its last session is over."""

    exam: str
    title: str
    version: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as far as an analysis needs it: how its text begins, and its options' ids as they stand in the paper."""

    question: str
    position: int
    type: str
    points: int
    stem: str
    options: tuple[str, ...] = ()


class Shuffled(NamedTuple):
    """Whether each session has an order of its own, of a paper's questions, and of their options."""

    questions: bool
    options: bool


@dataclass(frozen=True, slots=True)
class Sitting:
    """A session's frozen answers and what each earned, in paper order; `answers` is JSON of packed answers by question."""

    session: UUID
    student: str
    score: int
    key_version: int
    answers: str
    points: tuple[int, ...]
    cohorts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked of a run; no groupings: the default."""

    groupings: tuple[Grouping, ...]
    fdr: float
    strongest: int


@dataclass(frozen=True, slots=True)
class Run:
    """One run over an exam; `figures` is JSON that its writer alone understands."""

    exam: str
    version: int
    state: RunState
    options: Options
    failure: str
    requested_by: str
    started_ms: int
    finished_ms: int | None
    figures: str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two students by one index."""

    index: str
    sessions: tuple[UUID, UUID]
    students: tuple[str, str]
    source: str | None
    value: float
    p: float
    q: float
    flagged: bool
    matches: int
    expected: float
    compared: int
    shared_wrong: int
    shared_blank: int
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Around:
    """A session of a case as it is in PostgreSQL now."""

    sitting: Sitting
    exam_version: int
    alias: str
    attempt: int
    max_score: int
    started_ms: int
    submitted_ms: int | None


class Noted(NamedTuple):
    """A signal that was kept: when it was, as far as its client says that, and when its report came, both in ms by the server's
    clock; `details` is JSON."""

    at_ms: int
    received_ms: int
    kind: str
    amount: int
    details: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What was kept of a session one by one: its first signals, and how many there were in all; from how many devices and addresses
    it was reported on."""

    signals: tuple[Noted, ...]
    total: int
    devices: int
    addresses: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a case; the first one comes from nowhere."""

    from_state: CaseState | None
    to_state: CaseState
    actor: str
    note: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Party:
    """Whom a case is about; `seen` is JSON that its writer alone understands, None where there is none or it was erased."""

    session: UUID
    student: str
    seen: str | None
    erased_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A case, without its evidence."""

    id: UUID
    exam: str
    state: CaseState
    revision: int
    opened_by: str
    opened_ms: int
    moved_ms: int
    parties: tuple[Party, ...]


@dataclass(frozen=True, slots=True)
class WholeCase:
    """A case with all that is kept of it; `evidence` is JSON that its writer alone understands."""

    case: Case
    steps: tuple[Step, ...]
    evidence: str

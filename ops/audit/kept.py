"""What PostgreSQL and Redis hold, as far as the auditor looks at it: plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Exam:
    """An exam's policies, as far as they decide what is right."""

    id: str
    created_at: datetime
    duration_seconds: int
    closes_at: datetime | None
    closed: bool
    released: bool
    tie_break: str
    release_score: str
    release_review: str
    graders: int
    grader_tolerance: int
    regraded_at: datetime | None = None
    """When all its results had been brought up to its newest keys; None: nobody asked for that."""

    frozen: bool = False
    """Whether its board shows an earlier moment."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a paper with its key; `answer` is as the exam file has it, or as an examiner mended it."""

    id: str
    type: str
    points: int
    answer: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class Keys:
    """One version of an exam's keys: what its answers are worth. The questions stand in the paper's order."""

    correct: int
    wrong: int
    blank: int
    partial: bool
    questions: Sequence[Question]

    @property
    def whole(self) -> bool:
        """Whether the paper and a key for each of its questions are there."""
        return bool(self.questions) and all(question.answer is not None for question in self.questions)


@dataclass(frozen=True, slots=True)
class Pause:
    """A stop of a session's clock; it ends by itself at `ends_by`."""

    began: datetime
    ends_by: datetime
    resumed: datetime | None


@dataclass(frozen=True, slots=True)
class Session:
    """A row of `exam_session`, with what its end depends on."""

    id: str
    exam: str
    exam_version: int
    student: str
    cohorts: Sequence[str]
    started_at: datetime
    ends_at: datetime
    status: str
    submitted_at: datetime | None
    reason: str | None
    answers_sha256: str | None
    epoch: int
    extra_seconds: int | None
    """What its student's accommodation adds; or it has a factor."""

    factor: Decimal | None
    adjusted_seconds: int
    settled: bool
    """Whether its end is up to the facts behind it; a sweep sees to it within seconds."""

    terms_changed_at: datetime | None
    """When the terms that are not its own last changed: its student's accommodation, its exam."""

    pauses: Sequence[Pause] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A row of `result`."""

    session: str
    exam: str
    exam_version: int
    student: str
    score: int
    max_score: int
    status: str
    revision: int
    key_version: int
    answers: str
    answers_sha256: str
    points: Sequence[int]


@dataclass(frozen=True, slots=True)
class Replaced:
    """A row of `result_history`: what a grade or a regrade replaced, and why."""

    session: str
    revision: int
    score: int
    status: str
    key_version: int
    points: Sequence[int]
    reason: str


@dataclass(frozen=True, slots=True)
class Task:
    """A row of `grading_task`: one answer for one grader."""

    session: str
    question: str
    slot: int
    status: str
    grader: str | None
    points: Sequence[int] | None
    """What it was given, per criterion of the rubric."""

    @property
    def total(self) -> int | None:
        """What it was given in all; None: it is not graded."""
        return sum(self.points or ()) if self.status == "GRADED" else None


@dataclass(frozen=True, slots=True)
class Regrade:
    """A row of `regrade` that is RUNNING."""

    id: str
    exam: str
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """A row of `standing`."""

    exam: str
    student: str
    cohorts: Sequence[str]
    score: int | None
    order_key: int | None
    session: str | None
    held: bool = False
    held_key: int | None = None
    """What the board shows while it is held: what it was when the board froze."""


@dataclass(frozen=True, slots=True)
class Board:
    """A board in Redis: whether it says that it is complete, what it orders its students by, and whether it keeps only the best in
    order."""

    complete: bool
    places: Mapping[str, int]
    counts: Mapping[float, int] = field(default_factory=dict)
    """How many students it counts in each band, by the lowest order key of it."""

    width: int = 1
    """How many order keys share a band; 0: bands lie between `bounds`."""

    bounds: Sequence[float] = ()
    best_only: bool = False


@dataclass(frozen=True)
class Stores:
    """PostgreSQL at one moment, and Redis just after it."""

    now: datetime
    exams: Mapping[str, Exam] = field(default_factory=dict)
    keys: Mapping[tuple[str, int, int], Keys] = field(default_factory=dict)
    sessions: Mapping[str, Session] = field(default_factory=dict)
    results: Sequence[Result] = ()
    replaced: Mapping[str, Sequence[Replaced]] = field(default_factory=dict)
    """Per session, the revisions of its result that were replaced, the first one first."""

    tasks: Mapping[str, Sequence[Task]] = field(default_factory=dict)
    """Per session, by question and slot."""

    written: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Per session and question, the version that snapshots have written; only of the sessions that were asked for."""

    waiting: frozenset[str] = frozenset()
    """Sessions whose submit waits in PostgreSQL for JetStream."""

    buried: Mapping[str, datetime] = field(default_factory=dict)
    """Sessions that wait for an operator, and since when."""

    regrading: Sequence[Regrade] = ()

    standings: Sequence[Standing] = ()
    boards: Mapping[tuple[str, str | None], Board] = field(default_factory=dict)
    live: Mapping[str, str] = field(default_factory=dict)
    """What Redis says of a session's status now; those that it does not know are not there."""

    clicked: Mapping[str, datetime] = field(default_factory=dict)
    """When the sessions were handed in that Redis knows to be so by a click; of the bell it knows only the end that it rang for."""

    holding: bool = False
    """Whether the bell is held back."""

    secrets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Per exam, its explanations and its long accepted texts: what no student's key in Redis may hold."""

    open_keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Per exam, the values of what Redis keeps for everybody: papers and boards' names."""

    @cached_property
    def result_of(self) -> Mapping[str, Result]:
        """The result of each session."""
        return {result.session: result for result in self.results}

    @cached_property
    def cohorts_of(self) -> Mapping[tuple[str, str], frozenset[str]]:
        """Per exam and student, the cohorts in which they have a result: those of any of their sessions with one."""
        found: dict[tuple[str, str], frozenset[str]] = {}
        for result in self.results:
            session, student = self.sessions.get(result.session), (result.exam, result.student)
            found[student] = found.get(student, frozenset()).union(session.cohorts if session is not None else ())
        return found

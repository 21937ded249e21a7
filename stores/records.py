"""The values that cross module borders: frozen dataclasses, standard library only. Those that every save makes are named
tuples, which take a third of the time to make.

Times are milliseconds since the Unix epoch, in UTC, with `_ms` in the name.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

EPOCH_VERSIONS = 1_000_000
"""A save's version is epoch × 1,000,000 + n, so that one integer orders saves across restores."""


CANONICAL = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


class AnswerKind(StrEnum):
    """What a student can answer with; the value is its tag in the packed form."""

    CHOICE = "c"
    CHOICES = "m"
    NUMBER = "n"
    TEXT = "t"
    CLEARED = "-"


class Answer(NamedTuple):
    """An answer in canonical form: `CHOICES` are sorted, unique and joined by a comma."""

    kind: AnswerKind
    value: str = ""

    def packed(self) -> str:
        """Return the form that is stored and hashed: the tag, a colon, the value (`c:B`, `m:A,C`, `n:3.5`, `t:…`)."""
        return f"{self.kind}:{self.value}"

    @staticmethod
    def unpacked(packed: str) -> "Answer":
        """Read `packed()` back; raises ValueError for anything else."""
        return Answer(AnswerKind(packed[:1]), packed[2:])

    @property
    def picks(self) -> tuple[str, ...]:
        """The option ids of a choice or of choices."""
        return tuple(self.value.split(",")) if self.value else ()


def encode_answers(answers: Mapping[str, str]) -> bytes:
    """Return the canonical encoding of packed answers by question: what is hashed, scored and kept.

    It is RFC 8785 (JSON Canonicalization Scheme) of one object, cleared answers left out; Python's writer agrees with
    that scheme for string values and ASCII keys. docs/answers.md says it for other languages.
    """
    return CANONICAL({question: packed for question, packed in answers.items() if packed[0] != "-"}).encode()


def decode_answers(encoded: bytes) -> dict[str, Answer]:
    """Read `encode_answers` back; raises ValueError for anything else."""
    return {question: Answer.unpacked(packed) for question, packed in json.loads(encoded).items()}


def answers_sha256(encoded: bytes) -> bytes:
    """Return the SHA-256 of the canonical encoding: 32 bytes."""
    return hashlib.sha256(encoded).digest()


class SessionStatus(StrEnum):
    """The stored status; a pause is a field of its own."""

    IN_PROGRESS = "IN_PROGRESS"
    SUBMITTED = "SUBMITTED"
    SCORED = "SCORED"


class SubmitReason(StrEnum):
    """Who handed a session in."""

    CLICK = "CLICK"
    BELL = "BELL"


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What never changes after the start."""

    session: UUID
    exam: str
    exam_version: int
    student: str
    attempt: int
    alias: str
    started_ms: int


@dataclass(frozen=True, slots=True)
class Pause:
    """One stop of a session's clock; it ends by itself at `ends_by_ms`."""

    paused_ms: int
    ends_by_ms: int
    resumed_ms: int | None

    def over(self, now_ms: int) -> bool:
        """Whether the clock runs again."""
        return self.resumed_ms is not None or now_ms >= self.ends_by_ms

    def length_ms(self, now_ms: int) -> int:
        """How long it has lasted so far."""
        return min(now_ms if self.resumed_ms is None else self.resumed_ms, self.ends_by_ms) - self.paused_ms


@dataclass(frozen=True, slots=True)
class Accommodation:
    """Extra time of a student: seconds, or a factor of the exam's duration."""

    for_exam: bool
    extra_seconds: int | None
    factor: Decimal | None


@dataclass(frozen=True, slots=True)
class Adjustment:
    """Time that staff gave to a session, or took."""

    seconds: int
    reason: str
    adjusted_ms: int


@dataclass(frozen=True, slots=True)
class Terms:
    """All that decides when a session ends; `version` rises with every change of any of it."""

    started_ms: int
    duration_ms: int
    closes_ms: int | None
    accommodation: Accommodation | None
    pauses: tuple[Pause, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()
    version: int = 1


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a session ends: at `ends_ms`, at the latest. While a pause is on, `unpaused_ms` is the end without that pause."""

    version: int
    ends_ms: int
    paused_ms: int | None = None
    pause_ends_ms: int | None = None
    unpaused_ms: int | None = None

    def paused(self, now_ms: int) -> bool:
        """Whether the clock stands still."""
        return self.pause_ends_ms is not None and now_ms < self.pause_ends_ms

    def as_of(self, now_ms: int) -> int:
        """Return the end; during a pause, the end if the session were resumed now."""
        if self.paused_ms is None or self.unpaused_ms is None or not self.paused(now_ms):
            return self.ends_ms
        return min(self.unpaused_ms + now_ms - self.paused_ms, self.ends_ms)


@dataclass(frozen=True, slots=True)
class SavedAnswer:
    """The answer that stands for one question, with what a replay of its save is answered with."""

    question: str
    answer: Answer
    version: int
    saved_ms: int
    client_seq: int | None
    key_digest: bytes
    body_digest: bytes


@dataclass(frozen=True, slots=True)
class SessionState:
    """A session as its store sees it now."""

    facts: SessionFacts
    status: SessionStatus
    deadline: Deadline
    now_ms: int
    epoch: int
    restored_through: int
    submitted_ms: int | None
    reason: SubmitReason | None
    answers: tuple[SavedAnswer, ...]
    replaced: bytes = b""
    """The memory of saves that were replaced, as the store packs it."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session as PostgreSQL has it."""

    facts: SessionFacts
    status: SessionStatus
    ends_ms: int
    epoch: int
    submitted_ms: int | None
    answers_sha256: bytes | None
    cohorts: tuple[str, ...] = ()
    pause_ends_ms: int | None = None


class SaveOutcome(StrEnum):
    """What became of a save."""

    SAVED = "SAVED"
    REPLAYED = "REPLAYED"
    SUPERSEDED = "SUPERSEDED"
    ENDED = "ENDED"
    SUBMITTED = "SUBMITTED"
    PAUSED = "PAUSED"
    REUSED = "REUSED"
    FULL = "FULL"
    UNKNOWN = "UNKNOWN"


class Save(NamedTuple):
    """One save, ready for the store."""

    session: UUID
    student: str
    question: str
    answer: Answer
    key_digest: bytes
    body_digest: bytes
    client_seq: int | None


class Saved(NamedTuple):
    """The store's answer to a save; `version` and `at_ms` are those of the save that stands for its key."""

    outcome: SaveOutcome
    version: int
    at_ms: int
    ends_ms: int
    now_ms: int
    current: SavedAnswer | None = None


class SubmitOutcome(StrEnum):
    """What became of a submit: of the first, of a later one, of a click after the end; of the bell before it, or held; of
    the net under it, when that has tried often enough."""

    FLIPPED = "FLIPPED"
    ALREADY = "ALREADY"
    ENDED = "ENDED"
    EARLY = "EARLY"
    HELD = "HELD"
    EXHAUSTED = "EXHAUSTED"


class MoveOutcome(StrEnum):
    """What became of a session's new end: taken, not newer, too late, or Redis does not have the session."""

    MOVED = "MOVED"
    OLD = "OLD"
    SUBMITTED = "SUBMITTED"
    ABSENT = "ABSENT"


@dataclass(frozen=True, slots=True)
class NotFlipped:
    """A submit that flipped nothing (ENDED, EARLY, HELD); `until_ms` is the session's end, or the hold's."""

    outcome: SubmitOutcome
    until_ms: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class Frozen:
    """A submitted session with its frozen answers; the same values however often it is asked for."""

    outcome: SubmitOutcome
    facts: SessionFacts
    submitted_ms: int
    reason: SubmitReason
    ends_ms: int
    now_ms: int
    answers: bytes
    answers_sha256: bytes
    scored: bool


class Mark(NamedTuple):
    """What PostgreSQL is told of a submit, should its score not come first."""

    session: UUID
    submitted_ms: int
    reason: SubmitReason
    answers_sha256: bytes
    key: UUID | None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One accepted save in the save log."""

    session: UUID
    saved: SavedAnswer


@dataclass(frozen=True, slots=True)
class PaperQuestion:
    """What checking an answer and shuffling need of a question; no text, no key."""

    id: str
    type: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Paper:
    """The skeleton of one version of an exam."""

    exam: str
    version: int
    shuffle_questions: bool
    shuffle_options: bool
    questions: tuple[PaperQuestion, ...]


@dataclass(frozen=True, slots=True)
class Exam:
    """An exam's policies, as PostgreSQL has them."""

    id: str
    title: str
    version: int
    key_version: int
    question_count: int
    max_score: int
    has_essay: bool
    duration_seconds: int
    opens_ms: int | None
    closes_ms: int | None
    shuffle_questions: bool
    shuffle_options: bool
    max_attempts: int
    products: tuple[str, ...]
    """Any of them opens it; none: it is open to everybody."""

    mark_correct: int
    mark_wrong: int
    mark_blank: int
    mark_multiple: str
    tie_break: str
    release_score: str
    release_review: str
    inline_score: bool
    enrolment: str
    created_ms: int
    closed_ms: int | None
    released_ms: int | None
    board_public: bool
    freezes_ms: int | None
    """When the board freezes."""

    revealed_ms: int | None
    """When it was shown again for good."""

    approximate_from: int | None
    """From how many students on ranks are approximate; None: never."""

    def frozen(self, now_ms: int) -> bool:
        """Whether the board shows an earlier moment."""
        return self.revealed_ms is None and self.freezes_ms is not None and now_ms >= self.freezes_ms

    def opened(self, now_ms: int) -> bool:
        """Whether the exam has opened."""
        return self.opens_ms is None or now_ms >= self.opens_ms

    def closed(self, now_ms: int) -> bool:
        """Whether the exam can no longer be started."""
        return self.closed_ms is not None or (self.closes_ms is not None and now_ms >= self.closes_ms)

    def asks_for_end(self) -> bool:
        """Whether what may be seen depends on the exam's end."""
        return self.release_review == "AFTER_CLOSE" or (self.release_score == "AFTER_CLOSE" and self.released_ms is None)

    def shows_scores(self, *, ended: bool) -> bool:
        """Whether totals, ranks and boards may be seen; `ended` means closed, with no session in progress."""
        if self.released_ms is not None or self.release_score == "IMMEDIATELY":
            return True
        return self.release_score == "AFTER_CLOSE" and ended

    def shows_review(self, *, ended: bool) -> bool:
        """Whether outcomes, points per question, right answers and explanations may be seen."""
        return self.release_review == "IMMEDIATELY" or (self.release_review == "AFTER_CLOSE" and ended)


@dataclass(frozen=True, slots=True)
class Marking:
    """What answers earn, per point of their question."""

    correct: int
    wrong: int
    blank: int
    partial: bool


@dataclass(frozen=True, slots=True)
class Key:
    """One question with its answer key: what grading needs. `answer` is the exam file's answer object, as JSON text."""

    question: str
    type: str
    topic: str
    points: int
    answer: str


@dataclass(frozen=True, slots=True)
class KeySet:
    """All keys of one version of a paper, in paper order."""

    exam: str
    exam_version: int
    key_version: int
    marking: Marking
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a session was worth; `points` are per question in paper order, 0 while one waits for its grader."""

    session: UUID
    exam: str
    exam_version: int
    student: str
    score: int
    max_score: int
    partial: bool
    key_version: int
    answers: bytes
    answers_sha256: bytes
    points: tuple[int, ...]
    submitted_ms: int
    reason: SubmitReason
    revision: int = 1
    pending: tuple[str, ...] = ()
    """The questions that wait for a grader; only where it is graded just now."""

    submit_key: UUID | None = None
    scored_ms: int = 0
    taken_back: bool = False
    """Whether the purchase that opened its exam was reversed, and nothing else opens it; only where a student reads it."""


class TaskStatus(StrEnum):
    """How far a grading task is."""

    OPEN = "OPEN"
    CLAIMED = "CLAIMED"
    GRADED = "GRADED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class GradingTask:
    """One answer for one grader; a claim whose `until_ms` has passed may be taken over."""

    id: UUID
    session: UUID
    exam: str
    question: str
    slot: int
    status: TaskStatus
    grader: str | None
    claim: UUID | None
    until_ms: int | None
    created_us: int


@dataclass(frozen=True, slots=True)
class Grade:
    """What a grader says of one answer: points and comment per criterion of the rubric, in its order."""

    task: UUID
    claim: UUID
    grader: str
    question: str
    points: tuple[int, ...]
    comments: tuple[str, ...]
    comment: str


class GradeOutcome(StrEnum):
    """What became of a grade."""

    GRADED = "GRADED"
    REPEATED = "REPEATED"
    DIFFERS = "DIFFERS"
    LOST = "LOST"
    CHANGED = "CHANGED"


@dataclass(frozen=True, slots=True)
class GradedEssay:
    """What an essay is worth before the marking, once its grades are decided; criteria are empty for a mean of two grades."""

    total: int
    points: tuple[int, ...]
    comments: tuple[str, ...]
    comment: str


class RegradeStatus(StrEnum):
    """How far a regrade is."""

    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt's claim to its student's place; `tiebreak` in ms, the smaller is the better."""

    session: UUID
    student: str
    score: int
    partial: bool
    tiebreak: int


@dataclass(frozen=True, slots=True)
class ResultRevision:
    """What a result was before the next revision took its place."""

    revision: int
    score: int
    partial: bool
    key_version: int
    replaced_ms: int
    reason: str


class Sheet(NamedTuple):
    """A scored result as statistics need it: `points` in paper order, `answers` as `encode_answers` wrote them."""

    student: str
    session: UUID
    points: Sequence[int]
    answers: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A student's place-giving result as boards show it; `order_key` None means no place. While an exam's board is frozen it
    is what it was then. `exam` is the board: an exam's id, or a series'."""

    exam: str
    student: str
    alias: str
    cohorts: tuple[str, ...]
    order_key: int | None
    version: int


SERIES_BOARDS = "series/"
"""What the names of series' boards begin with; no exam's id looks like it."""


@dataclass(frozen=True, slots=True)
class Series:
    """A group of exams with a board over all of them: of each student the sum of what their standings show, or of the `best_of`
    best."""

    id: str
    title: str
    exams: tuple[str, ...]
    best_of: int | None

    @property
    def board(self) -> str:
        """What the names of its boards begin with."""
        return SERIES_BOARDS + self.id


@dataclass(frozen=True, slots=True)
class Place:
    """One row of a board; `rank` is the competition rank."""

    rank: int
    student: str
    alias: str
    order_key: int


@dataclass(frozen=True, slots=True)
class Rank:
    """Where a student stands: competition rank, and how much of the board is behind, 0 to 100: the share with fewer points, and
    half of those with as many (the usual percentile rank). `error` is by how many places the rank may be off, either way."""

    rank: int
    percentile: float
    error: int = 0


@dataclass(frozen=True, slots=True)
class AnswerTimes:
    """When a session began and its answers were saved, and its pauses: what the time spent on each question is derived from."""

    started_ms: int
    saved_ms: Mapping[str, int]
    pauses: tuple[tuple[int, int], ...]
    """Each pause: from, until."""


@dataclass(frozen=True, slots=True)
class ExamBacklog:
    """What waits in one exam: sessions for their score, the oldest since when, and answers for a grader."""

    exam: str
    submitted: int
    oldest_ms: int | None
    grading_tasks: int


@dataclass(frozen=True, slots=True)
class ExamCounts:
    """How many sessions of an exam are where."""

    in_progress: int
    submitted: int
    scored: int

"""An exam file as values: what `servers/admin/rules.py` reads and the catalog stores. Frozen, standard library only."""

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, assert_never


class QuestionType(StrEnum):
    """How a question is answered."""

    SINGLE_CHOICE = "single_choice"
    MULTIPLE_CHOICE = "multiple_choice"
    NUMERIC = "numeric"
    SHORT_TEXT = "short_text"
    ESSAY = "essay"


class MultipleMarking(StrEnum):
    """What a partly right set of picks earns."""

    ALL_OR_NOTHING = "ALL_OR_NOTHING"
    PARTIAL = "PARTIAL"


class TieBreak(StrEnum):
    """How equal scores are ranked."""

    NONE = "NONE"
    DURATION = "DURATION"
    SUBMITTED_AT = "SUBMITTED_AT"


class ScoreRelease(StrEnum):
    """When totals, ranks and percentiles are shown."""

    IMMEDIATELY = "IMMEDIATELY"
    AFTER_CLOSE = "AFTER_CLOSE"
    MANUAL = "MANUAL"


class ReviewRelease(StrEnum):
    """When outcomes, right answers and explanations are shown."""

    NONE = "NONE"
    IMMEDIATELY = "IMMEDIATELY"
    AFTER_CLOSE = "AFTER_CLOSE"


class Enrolment(StrEnum):
    """Who may start."""

    OPEN = "OPEN"
    ROSTER = "ROSTER"


@dataclass(frozen=True, slots=True)
class PausePolicy:
    """How often, and for how long in all, a student may stop the clock; 0 and 0: never."""

    max_pauses: int
    max_total_seconds: int


@dataclass(frozen=True, slots=True)
class MarkingPolicy:
    """What answers earn, per point of their question; `wrong` and `blank` may be negative, none is above `correct`."""

    correct: int
    wrong: int
    blank: int
    multiple: MultipleMarking


@dataclass(frozen=True, slots=True)
class ReleasePolicy:
    """When what is shown."""

    score: ScoreRelease
    review: ReviewRelease


@dataclass(frozen=True, slots=True)
class BoardPolicy:
    """Who sees the leaderboard, how long before the close it stands still, and from how many students on its ranks are
    approximate (None: never)."""

    public: bool
    freeze_seconds_before_close: int
    approximate_from: int | None


@dataclass(frozen=True, slots=True)
class ExamSettings:
    """The `exam` object of an exam file, defaults filled in; times are in UTC."""

    id: str
    title: str
    duration_seconds: int
    opens_at: datetime | None
    closes_at: datetime | None
    shuffle_questions: bool
    shuffle_options: bool
    max_attempts: int
    product_id: str | None
    pause: PausePolicy
    marking: MarkingPolicy
    tie_break: TieBreak
    release: ReleasePolicy
    inline_score: bool
    enrolment: Enrolment
    board: BoardPolicy
    graders: int
    grader_tolerance: int
    """By how many points two graders may differ before a third is asked."""

    blind_grading: bool


@dataclass(frozen=True, slots=True)
class Option:
    """One of a question's options."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that an essay is graded by."""

    criterion: str
    description: str
    max_points: int


@dataclass(frozen=True, slots=True)
class ChoiceKey:
    """The right option."""

    choice: str


@dataclass(frozen=True, slots=True)
class ChoicesKey:
    """The right options, sorted, each once."""

    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NumericKey:
    """The right number: exact decimals as the file wrote them. Relative means |x - number| <= tolerance * |number|."""

    number: str
    tolerance: str
    relative: bool


@dataclass(frozen=True, slots=True)
class TextKey:
    """The accepted texts as the file wrote them, the one to show first."""

    accept: tuple[str, ...]
    case_sensitive: bool


@dataclass(frozen=True, slots=True)
class EssayKey:
    """What graders grade by; students see it too."""

    rubric: tuple[Criterion, ...]


AnswerKey = ChoiceKey | ChoicesKey | NumericKey | TextKey | EssayKey


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its key; texts that the file leaves out are empty."""

    id: str
    type: QuestionType
    stem: str
    passage: str
    topic: str
    options: tuple[Option, ...]
    answer: AnswerKey
    points: int
    explanation: str

    @property
    def rubric(self) -> tuple[Criterion, ...]:
        """What an essay is graded by; empty for other types."""
        return self.answer.rubric if isinstance(self.answer, EssayKey) else ()


@dataclass(frozen=True, slots=True)
class ExamFile:
    """A whole file that was read without an error. `source` is its provenance as JSON text, None where it has none."""

    exam: ExamSettings
    questions: tuple[Question, ...]
    source: str | None

    @property
    def max_score(self) -> int:
        """The most that can be reached."""
        return sum(question.points for question in self.questions) * self.exam.marking.correct

    @property
    def has_essay(self) -> bool:
        """Whether people have to grade some of it."""
        return any(question.type is QuestionType.ESSAY for question in self.questions)


@dataclass(frozen=True, slots=True)
class BankFile:
    """A bank of practice questions that was read without an error."""

    id: str
    title: str
    questions: tuple[Question, ...]
    source: str | None


class Violation(NamedTuple):
    """One error in a file: where ("questions[q7].answer.choice") and, for who mends it, what must be there instead."""

    field: str
    message: str


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def answer_json(answer: AnswerKey) -> str:
    """Return the answer object of an exam file, defaults filled in, as JSON text: what the key store keeps."""
    match answer:
        case ChoiceKey(choice):
            return canonical_json({"choice": choice})
        case ChoicesKey(choices):
            return canonical_json({"choices": choices})
        case NumericKey(number, tolerance, relative):
            return canonical_json({"number": number, "tolerance": tolerance, "relative": relative})
        case TextKey(accept, case_sensitive):
            return canonical_json({"accept": accept, "caseSensitive": case_sensitive})
        case EssayKey(rubric):
            return canonical_json({"rubric": _criteria(rubric)})
        case never:
            assert_never(never)


def options_json(question: Question) -> str:
    """Return the options as JSON text, in the paper's order; `[]` where there are none."""
    return canonical_json([{"id": option.id, "text": option.text} for option in question.options])


def rubric_json(question: Question) -> str:
    """Return the rubric as JSON text; `[]` for other types than essays."""
    return canonical_json(_criteria(question.rubric))


def _criteria(rubric: tuple[Criterion, ...]) -> list[dict[str, object]]:
    return [{"criterion": c.criterion, "description": c.description, "maxPoints": c.max_points} for c in rubric]

"""What more than one service reads or writes: answers, times, exams, papers, deadlines, page tokens."""

import base64
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import TypeVar
from uuid import UUID

from finalbell.v1 import content_pb2 as pb
from finalbell.v1 import session_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from servers import errors
from servers.deadline import accommodation_seconds
from stores.banks import Bank
from stores.catalog import QuestionText
from stores.deadlines import Explained
from stores.records import Answer, AnswerKind, Deadline, Exam, Terms

RELEASE = {
    "IMMEDIATELY": pb.Exam.IMMEDIATELY,
    "AFTER_CLOSE": pb.Exam.AFTER_CLOSE,
    "MANUAL": pb.Exam.MANUAL,
    "NONE": pb.Exam.NEVER,
}
SEAL_BYTES = 8
EXAM_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
Position = TypeVar("Position")


def timestamp(at_ms: int) -> Timestamp:
    """Return a time in milliseconds as a protobuf timestamp."""
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)


def read_clock(text: str) -> Timestamp:
    """Return a client's time, written as JavaScript does: `2026-11-27T10:00:00.250Z`, to the ms at most. Raises ValueError."""
    at = datetime.fromisoformat(text)
    return Timestamp(seconds=int(at.timestamp()), nanos=at.microsecond * 1000)


def refuse_twice(values: Sequence[object], field: str) -> None:
    """Refuse what a list has had before; `field` is the path of one, with `{}` for its place. Raises InvalidField."""
    twice = [at for at, value in enumerate(values) if value in values[:at]]
    if twice:
        raise errors.InvalidField([(field.format(at), "is there twice") for at in twice])


def exam_message(exam: Exam, now_ms: int) -> pb.Exam:
    """Return what may be known of an exam at any time."""
    state = pb.Exam.CLOSED if exam.closed(now_ms) else pb.Exam.OPEN if exam.opened(now_ms) else pb.Exam.SCHEDULED
    return pb.Exam(
        exam_id=exam.id,
        title=exam.title,
        version=exam.version,
        state=state,
        duration_seconds=exam.duration_seconds,
        opens_at=timestamp(exam.opens_ms) if exam.opens_ms is not None else None,
        closes_at=timestamp(exam.closes_ms) if exam.closes_ms is not None else None,
        question_count=exam.question_count,
        max_score=exam.max_score,
        max_attempts=exam.max_attempts,
        product_id=exam.products[0] if exam.products else "",
        marking=pb.Marking(
            correct=exam.mark_correct,
            wrong=exam.mark_wrong,
            blank=exam.mark_blank,
            partial=exam.mark_multiple == "PARTIAL",
        ),
        tie_break=pb.Exam.TieBreak.Value(exam.tie_break),
        score_release=RELEASE[exam.release_score],
        review_release=RELEASE[exam.release_review],
        shuffle_questions=exam.shuffle_questions,
        shuffle_options=exam.shuffle_options,
        roster_only=exam.enrolment == "ROSTER",
    )


def paper_message(exam: str, version: int, questions: Sequence[QuestionText]) -> pb.Paper:
    """Return a paper as students read it."""
    return pb.Paper(exam_id=exam, version=version, questions=[question_message(question) for question in questions])


def question_message(question: QuestionText) -> pb.Question:
    """Return a question as students read it."""
    return pb.Question(
        question_id=question.id,
        type=pb.Question.Type.Value(question.type.upper()),
        stem=question.stem,
        passage=question.passage,
        topic=question.topic,
        points=question.points,
        options=[pb.Option(id=one, text=text) for one, text in question.options],
        rubric=[pb.Criterion(criterion=name, description=text, max_points=points) for name, text, points in question.rubric],
    )


def bank_message(bank: Bank, *, opened: bool) -> pb.Bank:
    """Return what may be known of a bank by everybody."""
    topics = [pb.Bank.Topic(topic=topic, question_count=count) for topic, count in bank.topics.items()]
    return pb.Bank(
        bank_id=bank.id,
        title=bank.title,
        version=bank.version,
        question_count=bank.question_count,
        topics=topics,
        product_ids=bank.products,
        opened=opened,
    )


def deadline_message(session: UUID, explained: Explained, rule: Callable[[Terms], Deadline]) -> session_pb2.Deadline:
    """Return when a session ends, with every term of the sum."""
    terms, now_ms = explained.terms, explained.now_ms if explained.submitted_ms is None else explained.submitted_ms
    message = session_pb2.Deadline(
        session_id=str(session),
        started_at=timestamp(terms.started_ms),
        duration_seconds=terms.duration_ms // 1000,
        closes_at=timestamp(terms.closes_ms) if terms.closes_ms is not None else None,
        ends_at=timestamp(rule(terms).as_of(now_ms)),
        server_time=timestamp(explained.now_ms),
        max_pauses=explained.max_pauses,
        max_pause_seconds=explained.max_pause_seconds,
    )
    if terms.accommodation is not None:
        extra = terms.accommodation
        message.accommodation.scope = (
            session_pb2.Deadline.Accommodation.EXAM if extra.for_exam else session_pb2.Deadline.Accommodation.ALL_EXAMS
        )
        message.accommodation.factor = float(extra.factor or 0)
        message.accommodation.seconds = accommodation_seconds(extra, terms.duration_ms)
    for pause in terms.pauses:
        message.pauses.add(
            paused_at=timestamp(pause.paused_ms),
            ends_by=timestamp(pause.ends_by_ms),
            resumed_at=timestamp(pause.resumed_ms) if pause.resumed_ms is not None else None,
            length_ms=pause.length_ms(now_ms),
        )
    for given in terms.adjustments:
        message.adjustments.add(seconds=given.seconds, reason=given.reason, adjusted_at=timestamp(given.adjusted_ms))
    return message


def write_page_token(position: str, scope: str) -> str:
    """Return a page token: where the next page begins, sealed for one call and filter."""
    return base64.urlsafe_b64encode(_seal(position, scope) + position.encode()).decode()


def read_page_token(token: str, scope: str, read: Callable[[str], Position]) -> Position | None:
    """Return where the page begins, None for the first; refuse a token that was given for anything else.

    The seal guards against mistakes, not attacks: a token opens nothing that the caller may not see anyway. So `read`, which
    reads the position, raises ValueError for one that nobody has written.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True)
        position = raw[SEAL_BYTES:].decode()
        if raw[:SEAL_BYTES] == _seal(position, scope):
            return read(position)
    except ValueError:
        pass
    raise errors.InvalidField([("pageToken", "was not given by this call for the same filter")])


def exam_position(position: str) -> str:
    """Read a position that is an exam's id."""
    if not EXAM_ID.fullmatch(position):
        raise ValueError
    return position


def placed_position(position: str) -> tuple[str, int]:
    """Read a position that is a place in a bank: bank/place."""
    bank, _, place = position.partition("/")
    return exam_position(bank), whole_position(place, 31)


def whole_position(position: str, bits: int = 63) -> int:
    """Read a position that is a whole number, of so many bits besides its sign."""
    number = int(position)
    if abs(number) >= 1 << bits:
        raise ValueError
    return number


def _seal(position: str, scope: str) -> bytes:
    return blake2b(position.encode(), key=blake2b(scope.encode(), digest_size=32).digest(), digest_size=SEAL_BYTES).digest()


def answer_of(request: session_pb2.SaveAnswerRequest | session_pb2.SaveItem | pb.CheckAnswerRequest) -> Answer:
    """Return the answer that a request holds, in canonical form."""
    match request.WhichOneof("answer"):
        case "choice":
            return Answer(AnswerKind.CHOICE, request.choice)
        case "choices":
            return Answer(AnswerKind.CHOICES, ",".join(sorted(request.choices.ids)))
        case "number":
            return Answer(AnswerKind.NUMBER, request.number)
        case "text":
            return Answer(AnswerKind.TEXT, request.text)
        case _:
            return Answer(AnswerKind.CLEARED)

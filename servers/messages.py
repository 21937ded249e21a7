"""What more than one service writes: times, exams, page tokens."""

import base64
import binascii
from hashlib import blake2b

from finalbell.v1 import content_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from servers import errors
from stores.records import Exam

RELEASE = {
    "IMMEDIATELY": pb.Exam.IMMEDIATELY,
    "AFTER_CLOSE": pb.Exam.AFTER_CLOSE,
    "MANUAL": pb.Exam.MANUAL,
    "NONE": pb.Exam.NEVER,
}
SEAL_BYTES = 8


def timestamp(at_ms: int) -> Timestamp:
    """Return a time in milliseconds as a protobuf timestamp."""
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)


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
        product_id=exam.product or "",
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


def write_page_token(position: str, scope: str) -> str:
    """Return a page token: where the next page begins, sealed for one call and filter."""
    return base64.urlsafe_b64encode(_seal(position, scope) + position.encode()).decode()


def read_page_token(token: str, scope: str) -> str | None:
    """Return where the page begins, None for the first; refuse a token that was given for anything else.

    The seal guards against mistakes, not attacks: a token opens nothing that the caller may not see anyway.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True)
        position = raw[SEAL_BYTES:].decode()
    except (ValueError, binascii.Error):
        raw, position = b"", ""
    if raw[:SEAL_BYTES] != _seal(position, scope):
        raise errors.InvalidField([("pageToken", "was not given by this call for the same filter")])
    return position


def _seal(position: str, scope: str) -> bytes:
    return blake2b(position.encode(), key=blake2b(scope.encode(), digest_size=32).digest(), digest_size=SEAL_BYTES).digest()

"""Between protobuf messages and the plain values of the stores."""

from finalbell.v1 import session_pb2 as pb

from servers.messages import timestamp
from stores.records import AnswerKind, Deadline, SavedAnswer, SessionFacts, SessionStatus


def saved_message(saved: SavedAnswer) -> pb.SavedAnswer:
    """Return a saved answer as clients see it."""
    message = pb.SavedAnswer(
        question_id=saved.question,
        version=saved.version,
        saved_at=timestamp(saved.saved_ms),
        client_seq=saved.client_seq,
    )
    match saved.answer.kind:
        case AnswerKind.CHOICE:
            message.choice = saved.answer.value
        case AnswerKind.CHOICES:
            message.choices.ids.extend(saved.answer.picks)
        case AnswerKind.NUMBER:
            message.number = saved.answer.value
        case AnswerKind.TEXT:
            message.text = saved.answer.value
        case AnswerKind.CLEARED:
            message.cleared = True
    return message


def session_message(
    facts: SessionFacts, status: SessionStatus, deadline: Deadline, submitted_ms: int | None, now_ms: int, epoch: int
) -> pb.Session:
    """Return a session without its orders and answers; PAUSED is shown, not stored."""
    running = status is SessionStatus.IN_PROGRESS
    ends_ms = deadline.as_of(now_ms) if running else deadline.ends_ms
    paused_until = deadline.pause_ends_ms if running and deadline.paused(now_ms) and now_ms <= ends_ms else None
    return pb.Session(
        session_id=str(facts.session),
        exam_id=facts.exam,
        exam_version=facts.exam_version,
        status=pb.Session.PAUSED if paused_until is not None else pb.Session.Status.Value(status),
        started_at=timestamp(facts.started_ms),
        ends_at=timestamp(ends_ms),
        server_time=timestamp(now_ms),
        attempt=facts.attempt,
        alias=facts.alias,
        remaining_ms=min(max(0, ends_ms - now_ms), 2**31 - 1) if running else 0,
        epoch=epoch,
        submitted_at=timestamp(submitted_ms) if submitted_ms is not None else None,
        pause_ends_at=timestamp(paused_until) if paused_until is not None else None,
    )

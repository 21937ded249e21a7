"""Starting: from a request to a session in PostgreSQL and then in Redis, or to the refusal that says why not."""

from uuid import UUID, uuid5

from finalbell.v1 import session_pb2 as pb

from servers import errors
from servers.errors import Refusal
from servers.messages import timestamp
from servers.serving.wrap import Call
from servers.session import rules
from stores.live import LiveSessions
from stores.records import SessionState
from stores.start_records import Doors, Start, Started, StartOutcome
from stores.starts import Starts

KEYS = UUID("7b0f0a52-5d53-4c0e-9d3f-3c1f6f1d6a11")
"""The namespace of `start_key`; a submit key's namespace is its session, so no student's key meets another's."""


async def start(starts: Starts, request: pb.StartSessionRequest, call: Call) -> tuple[Started, UUID]:
    """Return the session that a start means, or refuse. PostgreSQL has it from here on."""
    if request.alias and not rules.visible(request.alias):
        raise errors.InvalidField([("alias", "has a character that nobody sees, or only such")])
    started = await starts.start(
        Start(
            student=call.caller.student,
            exam=request.exam_id,
            cohorts=call.caller.cohorts,
            alias=" ".join(request.alias.split()) or rules.default_alias(request.exam_id, call.caller.student),
            start_key=uuid5(KEYS, call.key) if call.key else None,
        )
    )
    if started.session is None:
        raise _refusal(started.outcome, started.doors or Doors(0, 0, 0, ""))
    return started, started.session


async def install(live: LiveSessions, started: Started, session: UUID) -> SessionState:
    """Return the session as Redis has it, which is told of one that was just made."""
    state = await live.start(*started.made) if started.made else await live.state(session)
    if state is None:
        raise errors.SessionNotFound
    return state


def _refusal(outcome: StartOutcome, doors: Doors) -> Refusal:
    match outcome:
        case StartOutcome.UNKNOWN:
            return errors.ExamNotFound("There is no such exam.")
        case StartOutcome.NOT_OPEN:
            return errors.ExamNotOpen("The exam is not open yet.", opensAt=timestamp(doors.opens_ms).ToJsonString())
        case StartOutcome.NOT_ENTITLED:
            return errors.EntitlementRequired("This exam has to be bought first.", productId=doors.product)
        case StartOutcome.NOT_ENROLLED:
            return errors.NotEnrolled("You are not on this exam's roster.")
        case StartOutcome.CLOSED:
            closed_at = timestamp(doors.closed_ms).ToJsonString()
            return errors.ExamClosed("The exam is closed; it can no longer be started.", closedAt=closed_at)
        case StartOutcome.EXHAUSTED:
            return errors.AttemptsExhausted("You have used all attempts at this exam.", maxAttempts=str(doors.max_attempts))
        case StartOutcome.CREATED | StartOutcome.RUNNING | StartOutcome.REPLAYED:
            raise AssertionError("these have a session")

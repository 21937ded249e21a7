"""SessionAdminService: what staff do to one session."""

from uuid import UUID, uuid5

from finalbell.v1 import admin_pb2 as pb

from servers import errors
from servers.messages import deadline_message
from servers.serving.wrap import Call
from stores.deadlines import AdjustOutcome, Deadlines, settle
from stores.live import LiveSessions
from stores.records import SessionStatus


class SessionAdminService:
    """Gives time back."""

    def __init__(self, deadlines: Deadlines, live: LiveSessions) -> None:
        self._deadlines = deadlines
        self._live = live

    async def AdjustDeadline(self, request: pb.AdjustDeadlineRequest, call: Call) -> pb.AdjustDeadlineResponse:
        session = UUID(request.session_id)
        explained = await self._deadlines.explain(session)
        if explained is None:
            raise errors.SessionNotFound
        ends_ms = self._deadlines.rule(explained.terms).ends_ms
        if request.seconds < 0 and ends_ms + request.seconds * 1000 <= explained.now_ms:
            raise errors.InvalidField([("seconds", "would end the session in the past")])
        key = uuid5(session, call.key or "")
        handed_in = await self._live.peek(session) not in (None, SessionStatus.IN_PROGRESS)
        match await self._deadlines.adjust(session, key, request.seconds, request.reason, call.caller.student, handed_in=handed_in):
            case AdjustOutcome.UNKNOWN:
                raise errors.SessionNotFound
            case AdjustOutcome.REUSED:
                raise errors.IdempotencyKeyReused("This key was used for another adjustment; send a fresh key with every change.")
            case AdjustOutcome.SUBMITTED:
                raise errors.SessionSubmitted("The session is handed in; its time can no longer change.")
            case AdjustOutcome.ADJUSTED | AdjustOutcome.REPEATED:
                await settle(self._deadlines, self._live, [session])
        explained = await self._deadlines.explain(session)
        if explained is None:
            raise errors.SessionNotFound
        return pb.AdjustDeadlineResponse(deadline=deadline_message(session, explained, self._deadlines.rule))

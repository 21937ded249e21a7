"""SessionAdminService: what staff do to one session: give it time back, or its stuck submit to scoring once more."""

from uuid import UUID, uuid5

from finalbell.v1 import admin_pb2 as pb
from finalbell.v1 import events_pb2 as events
from google.protobuf.message import DecodeError

from servers import errors
from servers.messages import deadline_message, read_page_token, timestamp, whole_position, write_page_token
from servers.serving.wrap import Call
from stores.dead_letters import DeadLetter, DeadLetters
from stores.deadlines import AdjustOutcome, Deadlines, settle
from stores.live import LiveSessions
from stores.records import SessionStatus, answers_sha256
from stores.sessions import Sessions


class SessionAdminService:
    """What one session needs of staff."""

    def __init__(self, deadlines: Deadlines, dead_letters: DeadLetters, live: LiveSessions, sessions: Sessions) -> None:
        self._sessions = sessions
        self._deadlines = deadlines
        self._dead_letters = dead_letters
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
                if session in await settle(self._deadlines, self._live, [session]):
                    raise errors.SessionSubmitted("The session was handed in meanwhile; its time can no longer change.")
        explained = await self._deadlines.explain(session)
        if explained is None:
            raise errors.SessionNotFound
        return pb.AdjustDeadlineResponse(deadline=deadline_message(session, explained, self._deadlines.rule))

    async def GetScoringBacklog(self, request: pb.GetScoringBacklogRequest, call: Call) -> pb.GetScoringBacklogResponse:
        unscored, parked = await self._live.waiting()
        kept_rows, exams = await self._sessions.backlog()
        return pb.GetScoringBacklogResponse(
            unscored=unscored,
            parked=parked,
            dead_letters=await self._dead_letters.count(),
            kept_rows=kept_rows,
            grading_tasks=sum(exam.grading_tasks for exam in exams),
            exams=[
                pb.ExamBacklog(
                    exam_id=exam.exam,
                    submitted=exam.submitted,
                    oldest_submitted_at=timestamp(exam.oldest_ms) if exam.oldest_ms is not None else None,
                    grading_tasks=exam.grading_tasks,
                )
                for exam in exams
            ],
        )

    async def GetDeadLetter(self, request: pb.GetDeadLetterRequest, call: Call) -> pb.GetDeadLetterResponse:
        letter = await self._letter(request.letter_id)
        reply = pb.GetDeadLetterResponse(letter=_message(letter), subject=letter.subject, whole=_whole(letter))
        try:
            event = events.SessionSubmitted.FromString(letter.event)
        except DecodeError:
            return reply
        reply.submitted_at.CopyFrom(event.submitted_at)
        reply.answers_sha256, reply.answers = event.answers_sha256.hex(), event.answers.decode(errors="replace")
        return reply

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, call: Call) -> pb.ListDeadLettersResponse:
        count = request.page_size or 50
        letters = await self._dead_letters.page(read_page_token(request.page_token, "letters", whole_position) or 0, count + 1)
        return pb.ListDeadLettersResponse(
            letters=[_message(letter) for letter in letters[:count]],
            next_page_token=write_page_token(str(letters[count - 1].id), "letters") if len(letters) > count else "",
        )

    async def ReplayDeadLetter(self, request: pb.ReplayDeadLetterRequest, call: Call) -> pb.ReplayDeadLetterResponse:
        """An event that is damaged is not sent again: the net under the session takes the answers from the session itself."""
        letter = await self._letter(request.letter_id)
        if letter.session is None:
            raise errors.NothingToReplay("This message belongs to no session; discard it.")
        if not await self._dead_letters.replay(letter, call.caller.student, with_event=_whole(letter)):
            raise errors.DeadLetterNotFound
        if letter.exam is not None:
            await self._live.unpark(letter.session)
        return pb.ReplayDeadLetterResponse(session_id=str(letter.session))

    async def DiscardDeadLetter(self, request: pb.DiscardDeadLetterRequest, call: Call) -> pb.DiscardDeadLetterResponse:
        letter = await self._letter(request.letter_id)
        if letter.exam is not None:
            raise errors.SessionUnscored("A student waits for this result; mend what is wrong and replay it.")
        if not await self._dead_letters.discard(letter, call.caller.student, request.reason):
            raise errors.DeadLetterNotFound
        return pb.DiscardDeadLetterResponse()

    async def _letter(self, letter_id: str) -> DeadLetter:
        letter = await self._dead_letters.read(int(letter_id))
        if letter is None:
            raise errors.DeadLetterNotFound
        return letter


def _message(letter: DeadLetter) -> pb.DeadLetter:
    return pb.DeadLetter(
        letter_id=str(letter.id),
        session_id=str(letter.session or ""),
        exam_id=letter.exam or "",
        student_id=letter.student or "",
        error=letter.error,
        created_at=timestamp(letter.created_ms),
    )


def _whole(letter: DeadLetter) -> bool:
    """Whether an event is what was once published."""
    try:
        event = events.SessionSubmitted.FromString(letter.event)
    except DecodeError:
        return False
    return event.session_id == str(letter.session) and answers_sha256(event.answers) == event.answers_sha256

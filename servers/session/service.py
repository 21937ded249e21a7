"""SessionService: start, read, save, pause, submit."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from uuid import UUID, uuid5

import structlog
from asyncpg import InterfaceError, InternalClientError, PostgresError
from finalbell.v1 import scoring_pb2
from finalbell.v1 import session_pb2 as pb
from finalbell.v1.events_pb2 import SessionScored

from servers import errors
from servers.deadline import pause_budget_ms
from servers.errors import Refusal
from servers.marking import misfit
from servers.messages import answer_of, deadline_message, read_page_token, timestamp, write_page_token
from servers.receipts import Receipts, Submission
from servers.serving.run import sleep_until
from servers.serving.wrap import Call, refused
from servers.session import rules
from servers.session.messages import saved_message, session_message
from servers.session.papers import Papers
from servers.session.starts import install, start
from servers.session.submits import Late, Submits
from servers.session.turns import Turns
from stores.catalog import Catalog
from stores.deadlines import Deadlines, Explained, settle
from stores.live import LiveSessions
from stores.pipeline import Overloaded
from stores.records import (
    Deadline,
    Frozen,
    Paper,
    PaperQuestion,
    Save,
    Saved,
    SaveOutcome,
    SessionState,
    SessionStatus,
    Terms,
)
from stores.sessions import Sessions
from stores.start_records import StartOutcome
from stores.starts import Starts

TRIES = 3
BEAT_SECONDS = 1.0
START_KEY_SECONDS, KEY_SECONDS = 2.0, 0.1
"""How long a reply waits for the key of the sealed paper, once for each exam and process: a start comes from PostgreSQL anyway, a
session that runs does not wait for it while it is away."""

log = structlog.get_logger()


class SessionService:
    """Runs sessions. A save touches Redis only; a start writes PostgreSQL first, then Redis (`starts.py`)."""

    def __init__(
        self,
        live: LiveSessions,
        sessions: Sessions,
        deadlines: Deadlines,
        catalog: Catalog,
        starts: Starts,
        papers: Papers,
        submits: Submits,
        receipts: Receipts,
        *,
        inline_wait_ms: int,
    ) -> None:
        self._live = live
        self._sessions = sessions
        self._deadlines = deadlines
        self._catalog = catalog
        self._starts = starts
        self._papers = papers
        self._submits = submits
        self._receipts = receipts
        self._inline_wait = inline_wait_ms / 1000
        self._turns = Turns(submits.at_once)

    async def beat(self, stop: asyncio.Event) -> None:
        """Note every second that students are being served: when nobody does, the bell takes it for an outage."""
        while not stop.is_set():
            try:
                await self._live.beat()
            except Exception as failure:  # then nobody is served, and the silence says so
                log.warning("no beat", error=type(failure).__name__)
            await sleep_until(stop, BEAT_SECONDS)

    async def StartSession(self, request: pb.StartSessionRequest, call: Call) -> pb.StartSessionResponse:
        started, session = await start(self._starts, request, call)
        with _committed():
            state = await install(self._live, started, session)
            if started.outcome is StartOutcome.RUNNING and state.status is not SessionStatus.IN_PROGRESS:
                await self._submits.mark_now(state)  # handed in a moment ago, and PostgreSQL has not heard of it
                started, session = await start(self._starts, request, call)
                state = await install(self._live, started, session)
            if started.outcome is StartOutcome.CREATED:
                call.answer_with(201)
            return pb.StartSessionResponse(session=await self._message(state, key_seconds=START_KEY_SECONDS))

    async def GetSession(self, request: pb.GetSessionRequest, call: Call) -> pb.GetSessionResponse:
        return pb.GetSessionResponse(session=await self._message(await self._owned(request.session_id, call)))

    async def ListSessions(self, request: pb.ListSessionsRequest, call: Call) -> pb.ListSessionsResponse:
        student = request.student_id or None if call.caller.staff else call.caller.student
        if request.student_id and student != request.student_id:
            raise errors.RoleRequired("Only staff may list another student's sessions.", roles="admin or proctor")
        filters = f"sessions/{student}/{request.exam_id}"
        count, last = request.page_size or 50, read_page_token(request.page_token, filters, UUID)
        rows = await self._sessions.page(student, request.exam_id or None, last, count + 1)
        paused = await self._deadlines.of([row.facts.session for row in rows if row.pause_ends_ms is not None])
        now_ms = time.time_ns() // 1_000_000
        return pb.ListSessionsResponse(
            sessions=[
                session_message(
                    row.facts,
                    row.status,
                    paused.get(row.facts.session, Deadline(0, row.ends_ms)),
                    row.submitted_ms,
                    now_ms,
                    row.epoch,
                )
                for row in rows[:count]
            ],
            next_page_token=write_page_token(str(rows[count - 1].facts.session), filters) if len(rows) > count else "",
        )

    async def SaveAnswer(self, request: pb.SaveAnswerRequest, call: Call) -> pb.SaveAnswerResponse:
        return await self._save(UUID(request.session_id), request, call.key or "", call)

    async def BatchSaveAnswers(self, request: pb.BatchSaveAnswersRequest, call: Call) -> pb.BatchSaveAnswersResponse:
        session = (await self._owned(request.session_id, call)).facts.session
        return pb.BatchSaveAnswersResponse(outcomes=[await self._outcome(session, item, call) for item in request.items])

    async def SubmitSession(self, request: pb.SubmitSessionRequest, call: Call) -> pb.SubmitSessionResponse:
        session = UUID(request.session_id)
        frozen, total = await self._submits.own(self._hand_in(session, uuid5(session, call.key or ""), call))
        if total is None:
            call.answer_with(202)
            call.header("retry-after", str(self._submits.ask_again_seconds()))
        return _submitted(frozen, total, self._receipts.sign(_submission(frozen)))

    async def PauseSession(self, request: pb.PauseSessionRequest, call: Call) -> pb.PauseSessionResponse:
        with _committed():
            for _ in range(TRIES):
                state = await self._running(request.session_id, call)
                if state.deadline.paused(state.now_ms):
                    return pb.PauseSessionResponse(session=await self._message(state))
                facts = await self._explained(state)
                if not _paused(facts.terms, state.now_ms):
                    budget_ms = pause_budget_ms(facts.terms, facts.max_pauses, facts.max_pause_seconds)
                    if budget_ms == 0:
                        raise _no_pause(facts)
                    ends_by_ms = state.now_ms + budget_ms
                    await self._deadlines.pause(state.facts.session, facts.terms.version, state.now_ms, ends_by_ms)
                await settle(self._deadlines, self._live, [state.facts.session])
        raise errors.Conflict("The session's time changed meanwhile; look again.")

    async def ResumeSession(self, request: pb.ResumeSessionRequest, call: Call) -> pb.ResumeSessionResponse:
        with _committed():
            for _ in range(TRIES):
                state = await self._running(request.session_id, call)
                facts = await self._explained(state)
                if _paused(facts.terms, state.now_ms):
                    await self._deadlines.resume(state.facts.session, facts.terms.version, state.now_ms)
                elif not state.deadline.paused(state.now_ms):
                    return pb.ResumeSessionResponse(session=await self._message(state))
                await settle(self._deadlines, self._live, [state.facts.session])
        raise errors.Conflict("The session's time changed meanwhile; look again.")

    async def ExplainDeadline(self, request: pb.ExplainDeadlineRequest, call: Call) -> pb.ExplainDeadlineResponse:
        session = UUID(request.session_id)
        explained = await self._deadlines.explain(session)
        if explained is None or not (call.caller.staff or explained.student == call.caller.student):
            raise errors.SessionNotFound
        return pb.ExplainDeadlineResponse(deadline=deadline_message(session, explained, self._deadlines.rule))

    async def _hand_in(self, session: UUID, key: UUID, call: Call) -> tuple[Frozen, tuple[int, int] | None]:
        """Hand a session in when its turn comes, and return what was frozen, and score and maximum when they come soon."""
        async with self._turns.take(call.arrived) as waited:
            began = time.monotonic()
            with self._submits.expecting(session) as waiting:
                frozen = await self._submits.click(session, call.caller.student, key, waited)
                if frozen is None:
                    raise errors.SessionNotFound
                if isinstance(frozen, Late):
                    raise _late(frozen)
                return frozen, await self._total(frozen, waiting, began)

    async def _total(self, frozen: Frozen, waiting: asyncio.Future[SessionScored], began: float) -> tuple[int, int] | None:
        """Return score and maximum when they may be shown and come within the inline wait, which began with the work.

        The submit is safe by now: PostgreSQL being away only means that the score comes later.
        """
        try:
            async with asyncio.timeout(began + self._inline_wait - time.monotonic()):
                exam = await self._catalog.exam(frozen.facts.exam)
                if exam is None or not exam.inline_score or exam.has_essay or exam.release_score != "IMMEDIATELY":
                    return None
                if frozen.scored:
                    return await self._sessions.total(frozen.facts.session)
        except (TimeoutError, OSError, PostgresError, InterfaceError, InternalClientError):
            return None
        scored = await self._submits.score(waiting, began, self._inline_wait, self._turns.waiting)
        return None if scored is None or scored.partial else (scored.score, scored.max_score)

    async def _outcome(self, session: UUID, item: pb.SaveItem, call: Call) -> pb.SaveOutcome:
        """Save one item of a batch; its refusal is its own."""
        try:
            return pb.SaveOutcome(answer=await self._save(session, item, item.idempotency_key, call))
        except Exception as failure:
            refusal = refused(failure)
            if isinstance(refusal, errors.Internal):
                raise
            return pb.SaveOutcome(error=errors.status(refusal))

    async def _save(
        self, session: UUID, request: pb.SaveAnswerRequest | pb.SaveItem, key: str, call: Call
    ) -> pb.SaveAnswerResponse:
        facts = await self._live.facts(session)
        if facts is None or facts.student != call.caller.student:
            raise errors.SessionNotFound
        _, questions = await self._paper(facts.exam, facts.exam_version)
        answer, sequence = answer_of(request), request.client_seq if request.HasField("client_seq") else None
        question = questions.get(request.question_id)
        if question is None:
            raise errors.InvalidField([("questionId", "is not a question of this exam")])
        if (wrong := misfit(question, answer)) is not None:
            raise errors.InvalidField([wrong])
        body = rules.body_digest(question.id, answer, sequence)
        save = Save(session, call.caller.student, question.id, answer, rules.key_digest(key), body, sequence)
        return _saved(await self._live.save(save))

    async def _owned(self, session_id: str, call: Call) -> SessionState:
        """Return a session that the caller may read; for anybody else it does not exist."""
        state = await self._live.state(UUID(session_id))
        if state is None or state.facts.student != call.caller.student:
            raise errors.SessionNotFound
        return state

    async def _running(self, session_id: str, call: Call) -> SessionState:
        """Return the caller's session, unless it is over."""
        state = await self._owned(session_id, call)
        if state.status is not SessionStatus.IN_PROGRESS:
            raise errors.SessionSubmitted("The session is handed in.")
        if state.now_ms > state.deadline.ends_ms:
            raise errors.SessionEnded(
                "Time is over; what you saved is being handed in.",
                endsAt=timestamp(state.deadline.ends_ms).ToJsonString(),
                serverTime=timestamp(state.now_ms).ToJsonString(),
            )
        return state

    async def _explained(self, state: SessionState) -> Explained:
        explained = await self._deadlines.explain(state.facts.session)
        if explained is None:
            raise errors.SessionNotFound
        if explained.status is not SessionStatus.IN_PROGRESS:
            raise errors.SessionSubmitted("The session is handed in.")
        return explained

    async def _message(self, state: SessionState, key_seconds: float = KEY_SECONDS) -> pb.Session:
        orders = (await self._papers.of(state.facts.exam, state.facts.exam_version)).orders
        message = session_message(state.facts, state.status, state.deadline, state.submitted_ms, state.now_ms, state.epoch)
        message.restored_through_version = state.restored_through
        message.question_order.extend(orders.questions(state.facts.session))
        for question, options in orders.options(state.facts.session).items():
            message.option_order[question].ids.extend(options)
        message.answers.extend(saved_message(saved) for saved in state.answers)
        if state.status is SessionStatus.IN_PROGRESS:
            key = await self._papers.key(state.facts.exam, state.facts.exam_version, key_seconds)
            if key is not None:
                message.sealed_paper_key.key_id, message.sealed_paper_key.key = key.key_id, key.key
        return message

    async def _paper(self, exam: str, version: int) -> tuple[Paper, Mapping[str, PaperQuestion]]:
        known = await self._papers.of(exam, version)
        return known.paper, known.questions


@contextmanager
def _committed() -> Iterator[None]:
    """Here nobody may be told that nothing was applied: PostgreSQL may have it, and only the reply does not come."""
    try:
        yield
    except Overloaded as full:
        raise errors.StoreUnavailable("A queue is full; perhaps it is done. Repeat the call with the same key.") from full


def _paused(terms: Terms, now_ms: int) -> bool:
    return bool(terms.pauses) and not terms.pauses[-1].over(now_ms)


def _no_pause(facts: Explained) -> Refusal:
    if not facts.max_pauses or not facts.max_pause_seconds:
        return errors.PauseNotAllowed("This exam cannot be paused.", maxPauses=str(facts.max_pauses))
    used_ms = sum(pause.length_ms(pause.ends_by_ms) for pause in facts.terms.pauses)
    return errors.PauseNotAllowed(
        "All pauses of this session are used up.",
        maxPauses=str(facts.max_pauses),
        maxTotalSeconds=str(facts.max_pause_seconds),
        usedPauses=str(len(facts.terms.pauses)),
        usedSeconds=str(used_ms // 1000),
    )


def _late(late: Late) -> Refusal:
    """Refuse a submit that came after the end; the bell has rung for it, or says when it may."""
    ends_at, server_time = timestamp(late.ends_ms).ToJsonString(), timestamp(late.now_ms).ToJsonString()
    if late.held_until_ms is None:
        return errors.SessionEnded(
            "Time was over; what you had saved has been handed in. Ask for the result.",
            endsAt=ends_at,
            serverTime=server_time,
            submitted="true",
        )
    return errors.SessionEnded(
        "Time was over; what you had saved is kept, and is handed in when the exam's staff have had a look.",
        retry_seconds=max(1.0, (late.held_until_ms - late.now_ms) / 1000),
        endsAt=ends_at,
        serverTime=server_time,
        submitted="false",
    )


def _submission(frozen: Frozen) -> Submission:
    facts = frozen.facts
    return Submission(facts.session, facts.student, facts.exam, facts.exam_version, frozen.submitted_ms, frozen.answers_sha256)


def _submitted(frozen: Frozen, total: tuple[int, int] | None, receipt: str | None) -> pb.SubmitSessionResponse:
    """Confirm the submit, with the score where it is there."""
    return pb.SubmitSessionResponse(
        status=scoring_pb2.Result.SCORING if total is None else scoring_pb2.Result.SCORED,
        submitted_at=timestamp(frozen.submitted_ms),
        answers_sha256=frozen.answers_sha256.hex(),
        score=total[0] if total else None,
        max_score=total[1] if total else None,
        receipt=receipt,
    )


def _saved(saved: Saved) -> pb.SaveAnswerResponse:
    """Turn the store's answer into the reply, or into the refusal that it means."""
    match saved.outcome:
        case SaveOutcome.SAVED | SaveOutcome.REPLAYED:
            return pb.SaveAnswerResponse(
                saved=True, saved_at=timestamp(saved.at_ms), version=saved.version, ends_at=timestamp(saved.ends_ms)
            )
        case SaveOutcome.SUPERSEDED:
            current = saved_message(saved.current) if saved.current else None
            return pb.SaveAnswerResponse(superseded=True, version=saved.version, ends_at=timestamp(saved.ends_ms), current=current)
        case SaveOutcome.ENDED:
            raise errors.SessionEnded(
                "Time is over; what you saved before is being handed in.",
                endsAt=timestamp(saved.ends_ms).ToJsonString(),
                serverTime=timestamp(saved.now_ms).ToJsonString(),
            )
        case SaveOutcome.SUBMITTED:
            raise errors.SessionSubmitted("The session is handed in; its answers can no longer change.")
        case SaveOutcome.PAUSED:
            raise errors.SessionPaused("The session is paused; resume it first.")
        case SaveOutcome.REUSED:
            raise errors.IdempotencyKeyReused("This key was used for another answer; send a fresh key with every change.")
        case SaveOutcome.FULL:
            raise errors.InvalidField([("text", "makes the session's answers longer than 262,144 bytes in all")])
        case SaveOutcome.UNKNOWN:
            raise errors.SessionNotFound

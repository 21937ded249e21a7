"""Every refusal that a caller can meet: its code, its HTTP status and its reason are the same whichever way they came.

The cases are found by name in `servers/errors.py`: a new refusal without a case here, or without a written reason why it has
none, fails.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from finalbell.v1 import admin_pb2, content_pb2, integrity_pb2, leaderboard_pb2, lecture_pb2, payment_pb2, scoring_pb2, session_pb2
from finalbell.v1.admin_pb2_grpc import ExamAdminServiceStub
from finalbell.v1.payment_pb2_grpc import PaymentServiceStub
from google.protobuf.message import Message
from redis.asyncio import Redis

from ops.keys import mint
from servers.errors import Refusal
from servers.messages import write_page_token
from tests.faults.harm import fetch
from tests.flows.lecturing import add_lecture
from tests.flows.transports import TRANSPORTS, Native, Reply, native_refusal, transport
from tests.stack import Stack, bearer, eventually, fresh

HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""DESIGN section 3, and Envoy's map where it says nothing."""

NEEDS_A_FAULT = {
    "STORE_UNAVAILABLE": "a store has to be away: tests/faults/test_kills.py",
    "OVERLOADED": "8,192 calls have to wait in one process: tests of stores/pipeline.py",
    "CONFLICT": "two transactions have to deadlock, which the order of their statements prevents",
    "DEADLINE_EXCEEDED": "a store has to be slower than the caller's patience, and REST has no deadline of its own",
    "RATE_LIMITED": "a student has to ask very often: tests/flows/test_rates.py",
    "INTERNAL": "a way to get one is a bug",
    "GATEWAY_UNAVAILABLE": "a payment gateway has to be away: tests/flows/test_payments.py",
    "CHECKOUT_REFUSED": "the sandbox takes every order and currency: tests/flows/test_payments.py",
    "REFUND_BY_HAND": "the sandbox gives everything back itself: tests/flows/test_payments.py",
    "MEDIA_NOT_CONFIGURED": "the content service has to be started without media: tests/flows/test_lectures.py",
    "GRADE_DIFFERS": "an essay has to be graded before: tests/flows/test_grading.py",
}
"""Reasons that no call gives while everything works; each with where it is proved, or why it cannot be."""


@dataclass(frozen=True, slots=True)
class Case:
    """A call that is refused: made through any way in, with a key, by a caller."""

    method: str
    request: Message
    token: str | None
    keyed: bool = False
    key: str | None = None


Provoke = Callable[[Stack, dict[str, Any]], Awaitable[Case]]
CASES: dict[str, list[Provoke]] = {}


def gives(reason: str) -> Callable[[Provoke], Provoke]:
    """Note that what the decorated function makes is refused for this reason."""

    def note(provoke: Provoke) -> Provoke:
        CASES.setdefault(reason, []).append(provoke)
        return provoke

    return note


def refusals(of: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    """Yield every class of refusal, by recursion."""
    for refusal in of.__subclasses__():
        yield refusal
        yield from refusals(refusal)


IMPORTS = {"INVALID_EXAM", "INVALID_BANK", "EXAM_IN_USE"}
"""What only imports give, which are client streams: gRPC only. INVALID_BANK: tests/flows/test_practice.py."""


# The cases


@gives("INVALID_FIELD")
async def malformed_exam_id(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("StartSession", session_pb2.StartSessionRequest(exam_id="Not-An-Id"), stack.token())


@gives("FRAMES_NOT_CONFIGURED")
async def a_picture_that_nobody_takes(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    request = integrity_pb2.CreateFrameUploadRequest(session_id=session, content_type="image/jpeg", size_bytes=1)
    return Case("CreateFrameUpload", request, token)


@gives("SESSION_NOT_FOUND")
async def signals_of_anothers_session(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, _ = await started(stack, small_exam)
    return Case("ReportSignals", integrity_pb2.ReportSignalsRequest(session_id=session), stack.token())


@gives("INVALID_FIELD")
async def no_key(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    return Case("SubmitSession", session_pb2.SubmitSessionRequest(session_id=session), token)


@gives("INVALID_FIELD")
async def top_out_of_range(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("GetLeaderboard", leaderboard_pb2.GetLeaderboardRequest(exam_id=exam, top=1001), stack.token())


@gives("INVALID_FIELD")
async def around_somebody_else(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("GetLeaderboard", leaderboard_pb2.GetLeaderboardRequest(exam_id=exam, around="you"), stack.token())


@gives("INVALID_FIELD")
async def a_page_token_of_nobody(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("ListExams", content_pb2.ListExamsRequest(page_token="made-up"), stack.token())


@gives("INVALID_FIELD")
async def a_page_token_of_another_board(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    request = leaderboard_pb2.GetLeaderboardRequest(
        exam_id=exam, page_token=write_page_token("d5/0/0123456789abcdef", "leaderboard/x//")
    )
    return Case("GetLeaderboard", request, stack.token())


@gives("INVALID_FIELD")
async def too_wide_a_window(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("GetLeaderboard", leaderboard_pb2.GetLeaderboardRequest(exam_id=exam, around="me", window=101), stack.token())


@gives("SERIES_NOT_FOUND")
async def a_series_that_the_exam_is_not_in(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("GetLeaderboard", leaderboard_pb2.GetLeaderboardRequest(exam_id=exam, series="no-such-series"), stack.token())


@gives("INVALID_FIELD")
async def not_an_option(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    request = session_pb2.SaveAnswerRequest(session_id=session, question_id="q1", choice="Z")
    return Case("SaveAnswer", request, token, keyed=True)


@gives("TOKEN_INVALID")
async def no_token(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("ListExams", content_pb2.ListExamsRequest(), None)


@gives("TOKEN_INVALID")
async def a_damaged_token(stack: Stack, small_exam: dict[str, Any]) -> Case:
    head, claims, signature = stack.token().split(".")
    return Case("ListExams", content_pb2.ListExamsRequest(), f"{head}.{claims}.{signature[::-1]}")


@gives("TOKEN_EXPIRED")
async def an_old_token(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("ListExams", content_pb2.ListExamsRequest(), mint(stack.home, student=fresh("s"), ttl_seconds=-120))


@gives("ROLE_REQUIRED")
async def a_student_closes_an_exam(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("CloseExam", admin_pb2.CloseExamRequest(exam_id=exam), stack.token())


@gives("ROLE_REQUIRED")
async def a_proctor_releases_an_exam(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("ReleaseExam", admin_pb2.ReleaseExamRequest(exam_id=exam), stack.token(roles=["proctor"]))


@gives("ROLE_REQUIRED")
async def a_student_lists_anothers_sessions(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("ListSessions", session_pb2.ListSessionsRequest(student_id="somebody-else"), stack.token())


@gives("ENTITLEMENT_REQUIRED")
async def not_bought(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam, productId="mock-2026")
    return Case("StartSession", session_pb2.StartSessionRequest(exam_id=exam), stack.token())


@gives("ENTITLEMENT_REQUIRED")
async def a_lecture_that_is_not_bought(stack: Stack, small_exam: dict[str, Any]) -> Case:
    lecture, product = fresh("t"), fresh("p")
    await add_lecture(stack, lecture, product)
    return Case("GetPlayback", lecture_pb2.GetPlaybackRequest(lecture_id=lecture), stack.token())


@gives("LECTURE_NOT_FOUND")
async def a_lecture_that_never_was(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("GetPlayback", lecture_pb2.GetPlaybackRequest(lecture_id="no-such-lecture"), stack.token())


@gives("NOT_ENROLLED")
async def not_on_the_roster(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam, enrolment="ROSTER")
    return Case("StartSession", session_pb2.StartSessionRequest(exam_id=exam), stack.token())


@gives("COHORT_FORBIDDEN")
async def anothers_cohort(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("GetLeaderboard", leaderboard_pb2.GetLeaderboardRequest(exam_id=exam, cohort="red"), stack.token(cohorts=["blue"]))


@gives("EXAM_NOT_FOUND")
async def starts_an_unknown_exam(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("StartSession", session_pb2.StartSessionRequest(exam_id=fresh("no")), stack.token())


@gives("EXAM_NOT_FOUND")
async def reads_an_unknown_exam(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("GetExam", content_pb2.GetExamRequest(exam_id=fresh("no")), stack.token())


@gives("EXAM_NOT_FOUND")
async def reads_an_unknown_paper(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("GetPaper", content_pb2.GetPaperRequest(exam_id=fresh("no")), stack.token())


@gives("EXAM_NOT_FOUND")
async def looks_at_an_unknown_board(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("GetLeaderboard", leaderboard_pb2.GetLeaderboardRequest(exam_id=fresh("no")), stack.token())


def _unknown_to_staff(method: str, request: Callable[..., Message]) -> None:
    @gives("EXAM_NOT_FOUND")
    async def provoke(stack: Stack, small_exam: dict[str, Any]) -> Case:
        return Case(method, request(exam_id=fresh("no")), stack.token(roles=["admin"]))

    provoke.__name__ = f"{method}_of_an_unknown_exam"


for _method in ("GetExamReport", "CloseExam", "ReleaseExam", "WarmExam", "ListResults", "RebuildLeaderboard", "VerifyLeaderboard"):
    _unknown_to_staff(_method, getattr(admin_pb2, f"{_method}Request"))


@gives("SEALED_PAPER_NOT_FOUND")
async def wants_a_sealed_paper_of_tomorrow(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("GetSealedPaper", content_pb2.GetSealedPaperRequest(exam_id=exam, version=2), None)


@gives("BANK_NOT_FOUND")
async def wants_questions_of_an_unknown_bank(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("ListQuestions", content_pb2.ListQuestionsRequest(bank_id=fresh("no")), stack.token())


@gives("BANK_NOT_FOUND")
async def deletes_an_unknown_bank(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("DeleteBank", admin_pb2.DeleteBankRequest(bank_id=fresh("no")), stack.token(roles=["admin"]))


@gives("REVIEW_WITHHELD")
async def wants_an_explanation_of_an_exam_without_review(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam, release={"score": "IMMEDIATELY", "review": "NONE"})
    async with stack.channel() as channel:
        student = Native(channel, token)
        request = session_pb2.SubmitSessionRequest(session_id=session)
        assert (await student.call("SubmitSession", request, key=uuid.uuid4().hex)).ok

        async def scored() -> bool:
            reply = await student.call("GetResult", scoring_pb2.GetResultRequest(session_id=session))
            return bool(reply.ok.result.status == scoring_pb2.Result.SCORED)

        await eventually(scored)
        exam = (await student.call("GetSession", session_pb2.GetSessionRequest(session_id=session))).ok.session.exam_id
    return Case("GetExplanation", content_pb2.GetExplanationRequest(exam_id=exam, question_id="q1"), token)


@gives("STATISTICS_NOT_FOUND")
async def wants_statistics_before_they_are_computed(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("GetItemStatistics", scoring_pb2.GetItemStatisticsRequest(exam_id=exam), stack.token(roles=["proctor"]))


@gives("ANALYSIS_NOT_FOUND")
async def wants_pairs_before_anything_is_compared(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("ListPairs", integrity_pb2.ListPairsRequest(exam_id=exam), stack.token(roles=["proctor"]))


@gives("EXAM_NOT_ENDED")
async def compares_answers_that_may_still_change(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("AnalyseExam", integrity_pb2.AnalyseExamRequest(exam_id=exam), stack.token(roles=["admin"]))


@gives("CASE_NOT_FOUND")
async def looks_at_a_case_that_is_not_there(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("GetCase", integrity_pb2.GetCaseRequest(case_id=str(uuid.uuid4())), stack.token(roles=["proctor"]))


async def opened(stack: Stack, small_exam: dict[str, Any]) -> integrity_pb2.IntegrityCase:
    """Open a case about a session that is scored."""
    session, token = await started(stack, small_exam)
    async with stack.channel() as channel:
        submit = session_pb2.SubmitSessionRequest(session_id=session)
        assert (await Native(channel, token).call("SubmitSession", submit, key=uuid.uuid4().hex)).ok
        exam = (
            await Native(channel, token).call("GetSession", session_pb2.GetSessionRequest(session_id=session))
        ).ok.session.exam_id
        request = integrity_pb2.OpenCaseRequest(exam_id=exam, session_ids=[session], note="a look")

        async def there() -> Any:
            return (await Native(channel, stack.token(roles=["admin"])).call("OpenCase", request)).ok

        return (await eventually(there)).case


@gives("CASE_STEP_NOT_ALLOWED")
async def dismisses_what_nobody_has_reviewed(stack: Stack, small_exam: dict[str, Any]) -> Case:
    case = await opened(stack, small_exam)
    dismissed = integrity_pb2.IntegrityCase.DISMISSED
    request = integrity_pb2.MoveCaseRequest(case_id=case.case_id, revision=case.revision, to_state=dismissed, note="fine")
    return Case("MoveCase", request, stack.token(roles=["admin"]))


@gives("CASE_MOVED")
async def moves_a_case_that_was_moved(stack: Stack, small_exam: dict[str, Any]) -> Case:
    case = await opened(stack, small_exam)
    reviewed = integrity_pb2.IntegrityCase.REVIEWED
    request = integrity_pb2.MoveCaseRequest(case_id=case.case_id, revision=case.revision, to_state=reviewed, note="read")
    async with stack.channel() as channel:
        assert (await Native(channel, stack.token(roles=["admin"])).call("MoveCase", request)).ok
    request.note = "read by another"
    return Case("MoveCase", request, stack.token(roles=["admin"]))


@gives("SESSION_UNSCORED")
async def opens_a_case_about_who_still_sits(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    async with stack.channel() as channel:
        exam = (
            await Native(channel, token).call("GetSession", session_pb2.GetSessionRequest(session_id=session))
        ).ok.session.exam_id
    request = integrity_pb2.OpenCaseRequest(exam_id=exam, session_ids=[session], note="a look")
    return Case("OpenCase", request, stack.token(roles=["admin"]))


@gives("SESSION_NOT_FOUND")
async def reads_an_unknown_session(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("GetSession", session_pb2.GetSessionRequest(session_id=str(uuid.uuid4())), stack.token())


@gives("SESSION_NOT_FOUND")
async def submits_anothers_session(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, _ = await started(stack, small_exam)
    return Case("SubmitSession", session_pb2.SubmitSessionRequest(session_id=session), stack.token(), keyed=True)


@gives("SESSION_NOT_FOUND")
async def reads_anothers_result(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, _ = await started(stack, small_exam)
    return Case("GetResult", scoring_pb2.GetResultRequest(session_id=session), stack.token())


@gives("SESSION_ENDED")
async def saves_after_the_end(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    await set_field(stack, session, "e", str(now_ms() - 1))  # within the bell's grace of two seconds
    return Case("SaveAnswer", save_of(session), token, keyed=True)


@gives("SESSION_ENDED")
async def submits_after_the_end(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    await set_field(stack, session, "e", str(now_ms() - 1))
    return Case("SubmitSession", session_pb2.SubmitSessionRequest(session_id=session), token, keyed=True)


@gives("SESSION_SUBMITTED")
async def saves_after_the_submit(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    async with stack.channel() as channel:
        request = session_pb2.SubmitSessionRequest(session_id=session)
        assert (await Native(channel, token).call("SubmitSession", request, key=uuid.uuid4().hex)).ok
    return Case("SaveAnswer", save_of(session), token, keyed=True)


@gives("SESSION_PAUSED")
async def saves_while_paused(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam, pause={"maxPauses": 1, "maxTotalSeconds": 60})
    async with stack.channel() as channel:
        assert (await Native(channel, token).call("PauseSession", session_pb2.PauseSessionRequest(session_id=session))).ok
    return Case("SaveAnswer", save_of(session), token, keyed=True)


@gives("PAUSE_NOT_ALLOWED")
async def pauses_an_exam_that_cannot_be_paused(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    return Case("PauseSession", session_pb2.PauseSessionRequest(session_id=session), token)


@gives("SESSION_SUBMITTED")
async def adjusts_a_session_that_is_handed_in(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    async with stack.channel() as channel:
        request = session_pb2.SubmitSessionRequest(session_id=session)
        assert (await Native(channel, token).call("SubmitSession", request, key=uuid.uuid4().hex)).ok
    adjust = admin_pb2.AdjustDeadlineRequest(session_id=session, seconds=60, reason="a power cut")
    return Case("AdjustDeadline", adjust, stack.token(roles=["proctor"]), keyed=True)


@gives("SESSION_IN_PROGRESS")
async def wants_the_result_too_early(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    return Case("GetResult", scoring_pb2.GetResultRequest(session_id=session), token)


@gives("SESSION_REQUIRED")
async def reads_the_paper_too_early(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("GetPaper", content_pb2.GetPaperRequest(exam_id=exam), stack.token())


@gives("EXAM_NOT_OPEN")
async def starts_too_early(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam, opensAt=in_an_hour())
    return Case("StartSession", session_pb2.StartSessionRequest(exam_id=exam), stack.token())


@gives("EXAM_NOT_OPEN")
async def reads_a_paper_before_it_opens(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam, opensAt=in_an_hour())
    return Case("GetPaper", content_pb2.GetPaperRequest(exam_id=exam), stack.token())


@gives("EXAM_CLOSED")
async def starts_too_late(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    async with stack.channel() as channel:
        request = admin_pb2.CloseExamRequest(exam_id=exam)
        assert (await Native(channel, stack.token(roles=["admin"])).call("CloseExam", request)).ok
    return Case("StartSession", session_pb2.StartSessionRequest(exam_id=exam), stack.token())


@gives("ATTEMPTS_EXHAUSTED")
async def starts_once_more(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam, token = await imported(stack, small_exam, maxAttempts=1), stack.token()
    async with stack.channel() as channel:
        native = Native(channel, token)
        session = (await native.call("StartSession", session_pb2.StartSessionRequest(exam_id=exam))).ok.session.session_id
        request = session_pb2.SubmitSessionRequest(session_id=session)
        assert (await native.call("SubmitSession", request, key=uuid.uuid4().hex)).ok
        again = session_pb2.StartSessionRequest(exam_id=exam)

        async def known() -> bool:  # PostgreSQL hears of a submit a little later than the student
            return (await native.call("StartSession", again)).code != "OK"

        await eventually(known)
    return Case("StartSession", again, token)


@gives("IDEMPOTENCY_KEY_REUSED")
async def uses_a_key_twice(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    key = uuid.uuid4().hex
    async with stack.channel() as channel:
        assert (await Native(channel, token).call("SaveAnswer", save_of(session), key=key)).ok
    other = session_pb2.SaveAnswerRequest(session_id=session, question_id="q1", choice="C")
    return Case("SaveAnswer", other, token, key=key)


@gives("REQUEST_TOO_LARGE")
async def sends_too_much(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, token = await started(stack, small_exam)
    items = [session_pb2.SaveItem(question_id="q4", text="x" * 20_000, idempotency_key=uuid.uuid4().hex) for _ in range(4)]
    return Case("BatchSaveAnswers", session_pb2.BatchSaveAnswersRequest(session_id=session, items=items), token)


@gives("GRADING_TASK_NOT_FOUND")
async def claims_what_nobody_waits_for(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam = await imported(stack, small_exam)
    return Case("ClaimGradingTask", scoring_pb2.ClaimGradingTaskRequest(exam_id=exam), stack.token(roles=["grader"]))


@gives("REGRADE_NOT_FOUND")
async def looks_for_a_regrade_that_was_never_asked_for(stack: Stack, small_exam: dict[str, Any]) -> Case:
    request = scoring_pb2.GetRegradeRequest(exam_id=await imported(stack, small_exam), regrade_id=str(uuid.uuid4()))
    return Case("GetRegrade", request, stack.token(roles=["admin"]))


@gives("QUESTION_NOT_FOUND")
async def mends_the_key_of_no_question(stack: Stack, small_exam: dict[str, Any]) -> Case:
    request = admin_pb2.SetAnswerKeyRequest(exam_id=await imported(stack, small_exam), question_id="q99", accept=["A"])
    return Case("SetAnswerKey", request, stack.token(roles=["admin"]))


async def claimed(stack: Stack, exam: str, grader: str) -> str:
    """Have an answer be in a grader's hands; returns its task."""
    task = (
        await fetch(
            stack,
            """
            INSERT INTO grading_task (session_id, question_id, exam_id, slot, status, grader, claim, lease_until)
            VALUES (uuidv7(), 'q1', $1, 1, 'CLAIMED', $2, gen_random_uuid(), now() + interval '10 minutes') RETURNING id
            """,
            *(exam, grader),
        )
    )[0]["id"]
    return str(task)


@gives("CLAIM_LOST")
async def renews_a_claim_that_is_not_theirs(stack: Stack, small_exam: dict[str, Any]) -> Case:
    task = await claimed(stack, await imported(stack, small_exam), "another")
    request = scoring_pb2.RenewGradingTaskRequest(task_id=task, claim_id=str(uuid.uuid4()))
    return Case("RenewGradingTask", request, stack.token(roles=["grader"]))


@gives("TOO_MANY_CLAIMS")
async def claims_a_twenty_first_task(stack: Stack, small_exam: dict[str, Any]) -> Case:
    exam, grader = await imported(stack, small_exam), fresh("g")
    for _ in range(20):
        await claimed(stack, exam, grader)
    return Case("ClaimGradingTask", scoring_pb2.ClaimGradingTaskRequest(exam_id=exam), stack.token(grader, roles=["grader"]))


@gives("DEAD_LETTER_NOT_FOUND")
async def replays_what_does_not_wait(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("ReplayDeadLetter", admin_pb2.ReplayDeadLetterRequest(letter_id="999999999"), stack.token(roles=["admin"]))


@gives("NOTHING_TO_REPLAY")
async def replays_what_belongs_to_nobody(stack: Stack, small_exam: dict[str, Any]) -> Case:
    letter = await buried(stack, None)
    return Case("ReplayDeadLetter", admin_pb2.ReplayDeadLetterRequest(letter_id=letter), stack.token(roles=["admin"]))


@gives("SESSION_UNSCORED")
async def discards_a_students_submit(stack: Stack, small_exam: dict[str, Any]) -> Case:
    session, _ = await started(stack, small_exam)
    letter = await buried(stack, uuid.UUID(session))
    request = admin_pb2.DiscardDeadLetterRequest(letter_id=letter, reason="out of my sight")
    return Case("DiscardDeadLetter", request, stack.token(roles=["admin"]))


async def sold(stack: Stack, **more: Any) -> str:
    """Sell a product of its own, and return its id."""
    product = payment_pb2.ImportProductsRequest.ProductDefinition(
        **{"product_id": fresh("p"), "title": "Biology", "amount": 2500, "currency": "USD", **more}
    )
    async with transport("gRPC", stack, stack.token(roles=["admin"])) as admin:
        reply = await admin.call("ImportProducts", payment_pb2.ImportProductsRequest(products=[product]))
    assert reply.code == "OK", reply
    return product.product_id


@gives("PRODUCT_NOT_FOUND")
async def buys_what_is_not_sold(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("CreateCheckout", payment_pb2.CreateCheckoutRequest(product_id=fresh("p")), stack.token())


@gives("PROVIDER_UNKNOWN")
async def pays_nowhere(stack: Stack, small_exam: dict[str, Any]) -> Case:
    request = payment_pb2.CreateCheckoutRequest(product_id=await sold(stack), provider="nowhere")
    return Case("CreateCheckout", request, stack.token())


@gives("NOT_FOR_SALE")
async def buys_what_was_withdrawn(stack: Stack, small_exam: dict[str, Any]) -> Case:
    request = payment_pb2.CreateCheckoutRequest(product_id=await sold(stack, withdrawn=True))
    return Case("CreateCheckout", request, stack.token())


@gives("COUPON_REFUSED")
async def uses_a_coupon_that_there_is_not(stack: Stack, small_exam: dict[str, Any]) -> Case:
    request = payment_pb2.CreateCheckoutRequest(product_id=await sold(stack), coupon="NO-SUCH-CODE")
    return Case("CreateCheckout", request, stack.token())


@gives("ALREADY_OWNED")
async def buys_what_is_owned(stack: Stack, small_exam: dict[str, Any]) -> Case:
    student, product = fresh("s"), await sold(stack, amount=0)
    token = mint(stack.home, student=student)
    async with transport("gRPC", stack, token) as owner:
        assert (await owner.call("CreateCheckout", payment_pb2.CreateCheckoutRequest(product_id=product))).code == "OK"
    return Case("CreateCheckout", payment_pb2.CreateCheckoutRequest(product_id=product), token)


@gives("IDEMPOTENCY_KEY_REUSED")
async def buys_two_things_with_one_key(stack: Stack, small_exam: dict[str, Any]) -> Case:
    token, key = stack.token(), uuid.uuid4().hex
    async with transport("gRPC", stack, token) as buyer:
        first = payment_pb2.CreateCheckoutRequest(product_id=await sold(stack))
        assert (await buyer.call("CreateCheckout", first, key=key)).code == "OK"
    return Case("CreateCheckout", payment_pb2.CreateCheckoutRequest(product_id=await sold(stack)), token, key=key)


@gives("PAYMENT_NOT_FOUND")
async def asks_after_nobodys_order(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("GetPayment", payment_pb2.GetPaymentRequest(payment_id=str(uuid.uuid4())), stack.token())


@gives("PAYMENT_NOT_FOUND")
async def asks_after_anothers_order(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("GetPayment", payment_pb2.GetPaymentRequest(payment_id=await ordered(stack)), stack.token())


@gives("NOT_REFUNDABLE")
async def refunds_what_was_not_paid(stack: Stack, small_exam: dict[str, Any]) -> Case:
    request = payment_pb2.RefundPaymentRequest(payment_id=await ordered(stack), reason="a test")
    return Case("RefundPayment", request, stack.token(roles=["admin"]), keyed=True)


@gives("SIGNATURE_INVALID")
async def tells_what_nobody_signed(stack: Stack, small_exam: dict[str, Any]) -> Case:
    return Case("HandleWebhook", payment_pb2.HandleWebhookRequest(provider="sandbox"), None)


async def ordered(stack: Stack) -> str:
    """Have somebody order something, and return the order's id."""
    product = await sold(stack)
    async with stack.channel("payments") as channel:
        request = payment_pb2.CreateCheckoutRequest(product_id=product)
        return str((await PaymentServiceStub(channel).CreateCheckout(request, metadata=bearer(stack.token()))).payment.payment_id)


async def buried(stack: Stack, session: uuid.UUID | None) -> str:
    """Bury a message as the scoring worker does, and return its letter."""
    query = "INSERT INTO dead_letter (session_id, subject, event, error) VALUES ($1, $2, '', 'a test') RETURNING id"
    return str((await fetch(stack, query, session, f"submits.{fresh('x')}.{session}"))[0]["id"])


# The tests


def test_every_refusal_has_a_case_or_a_written_reason_why_not() -> None:
    known = {refusal.reason for refusal in refusals()}

    assert CASES.keys() | NEEDS_A_FAULT.keys() | IMPORTS == known
    assert not CASES.keys() & NEEDS_A_FAULT.keys()


def test_no_two_refusals_have_one_reason() -> None:
    reasons = [refusal.reason for refusal in refusals()]

    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize(
    ("reason", "provoke"),
    [
        pytest.param(reason, provoke, id=f"{reason}-{provoke.__name__}")
        for reason, provokers in CASES.items()
        for provoke in provokers
    ],
)
async def test_a_refusal_is_the_same_whichever_way_it_came(
    stack: Stack, small_exam: dict[str, Any], reason: str, provoke: Provoke
) -> None:
    code = next(refusal.code for refusal in refusals() if refusal.reason == reason)
    replies: dict[str, Reply] = {}
    for way in TRANSPORTS:
        case = await provoke(stack, small_exam)
        async with transport(way, stack, case.token) as way_in:
            key = case.key or (uuid.uuid4().hex if case.keyed else None)

            replies[way] = await way_in.call(case.method, case.request, key=key)

    for way, reply in replies.items():
        assert (way, reply.code, reply.reason, reply.domain) == (way, code.name, reason, "finalbell")
        assert reply.status is not None
        assert reply.status.message
        assert not leaks(reply), reply.raw
    too_large = 413 if reason == "REQUEST_TOO_LARGE" else None  # the gateway's own answer, before anybody counts
    assert replies["rest"].http == (too_large or HTTP[code.name])
    assert len({(reply.status.message if reply.status else "") for reply in replies.values()}) == 1
    assert len({tuple(reply.fields) for reply in replies.values()}) == 1
    assert len({tuple(sorted(reply.facts)) for reply in replies.values()}) == 1


@pytest.mark.parametrize("provoke", [*CASES["TOKEN_INVALID"], *CASES["TOKEN_EXPIRED"], *CASES["ROLE_REQUIRED"]])
async def test_a_service_does_not_rely_on_the_gateways_checks(stack: Stack, small_exam: dict[str, Any], provoke: Provoke) -> None:
    reason = next(reason for reason, provokers in CASES.items() if provoke in provokers)
    case = await provoke(stack, small_exam)
    unit = {"ListExams": "content", "ListSessions": "session"}.get(case.method, "admin")

    async with stack.channel(unit) as channel:
        reply = await Native(channel, case.token).call(case.method, case.request)

    assert (reply.reason, reply.domain) == (reason, "finalbell")


async def test_facts_of_a_refusal_travel_with_it(stack: Stack, small_exam: dict[str, Any]) -> None:
    wanted = {
        starts_too_early: {"opensAt"},
        not_bought: {"productId"},
        a_lecture_that_is_not_bought: {"productId", "productIds"},
        saves_after_the_end: {"endsAt", "serverTime"},
        submits_after_the_end: {"endsAt", "serverTime", "submitted"},
        starts_once_more: {"maxAttempts"},
        starts_too_late: {"closedAt"},
        a_student_closes_an_exam: {"roles"},
    }
    for provoke, facts in wanted.items():
        case = await provoke(stack, small_exam)
        async with transport("grpc", stack, case.token) as native:
            reply = await native.call(case.method, case.request, key=uuid.uuid4().hex if case.keyed else None)

        assert reply.facts.keys() == facts, provoke.__name__


async def test_a_file_with_errors_names_all_of_them(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    broken = json.loads(json.dumps(small_exam))
    broken["questions"][0]["answer"] = {"choice": "Z"}
    broken["questions"][2]["points"] = -1

    reply = await import_refused(stack, exam_id, json.dumps(broken).encode())

    assert (reply.code, reply.reason, reply.domain) == ("INVALID_ARGUMENT", "INVALID_EXAM", "finalbell")
    assert reply.fields == ["questions[q1].answer.choice", "questions[q3].points"]
    async with transport("rest", stack, stack.token()) as rest:
        nothing = await rest.call("GetExam", content_pb2.GetExamRequest(exam_id=exam_id))
    assert nothing.reason == "EXAM_NOT_FOUND"


async def test_a_paper_that_is_being_sat_cannot_change(stack: Stack, small_exam: dict[str, Any]) -> None:
    exam = await imported(stack, small_exam)
    async with stack.channel() as channel:
        assert (await Native(channel, stack.token()).call("StartSession", session_pb2.StartSessionRequest(exam_id=exam))).ok
    changed = json.loads(json.dumps(small_exam))
    changed["questions"][0]["stem"] = "Which is not a prime?"

    reply = await import_refused(stack, exam, json.dumps(changed).encode())

    assert (reply.code, reply.reason, reply.domain) == ("FAILED_PRECONDITION", "EXAM_IN_USE", "finalbell")


async def test_a_file_of_more_than_32_mebibytes_is_too_large(stack: Stack, exam_id: str) -> None:
    reply = await import_refused(stack, exam_id, b" " * (33 * 2**20))

    assert (reply.code, reply.reason, reply.domain) == ("RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE", "finalbell")


async def import_refused(stack: Stack, exam: str, file: bytes) -> Reply:
    """Import a file in chunks, which is refused, and return how."""

    async def chunks() -> AsyncIterator[admin_pb2.ImportExamRequest]:
        for at in range(0, len(file), 2**20):
            yield admin_pb2.ImportExamRequest(exam_id=exam if at == 0 else "", chunk=file[at : at + 2**20])

    async with stack.channel() as channel:
        try:
            await ExamAdminServiceStub(channel).ImportExam(chunks(), metadata=bearer(stack.token(roles=["admin"])))
        except grpc.aio.AioRpcError as error:
            return native_refusal(error)
    raise AssertionError("not refused")


async def import_refused_bank(stack: Stack, bank: str, file: bytes) -> Reply:
    """Import a bank, which is refused, and return how."""
    request = admin_pb2.ImportBankRequest(bank_id=bank, chunk=file)
    async with stack.channel() as channel:
        try:
            await ExamAdminServiceStub(channel).ImportBank(iter([request]), metadata=bearer(stack.token(roles=["admin"])))
        except grpc.aio.AioRpcError as error:
            return native_refusal(error)
    raise AssertionError("not refused")


def leaks(reply: Reply) -> bool:
    """Whether a refusal tells how the inside looks."""
    text = reply.raw.lower()
    return any(word in text for word in (b"traceback", b"select ", b"asyncpg", b"redis", b"nats", b'file "', b".py"))


async def imported(stack: Stack, exam: dict[str, Any], **settings: Any) -> str:
    name = fresh("t")
    await stack.import_exam(exam, name, **settings)
    return name


async def started(stack: Stack, exam: dict[str, Any], **settings: Any) -> tuple[str, str]:
    """Return a running session and its student's token."""
    name, token = await imported(stack, exam, **settings), stack.token()
    async with stack.channel() as channel:
        reply = await Native(channel, token).call("StartSession", session_pb2.StartSessionRequest(exam_id=name))
    return reply.ok.session.session_id, token


async def set_field(stack: Stack, session: str, field: str, value: str) -> None:
    """Change what Redis knows of a session, as time or an operator would."""
    async with Redis.from_url(stack.read()["redis"]) as redis:
        shard = uuid.UUID(session).int % 64
        assert await redis.hset(f"s:{{{shard:02d}}}:{session}", field, value) in (0, 1)


def save_of(session: str) -> session_pb2.SaveAnswerRequest:
    return session_pb2.SaveAnswerRequest(session_id=session, question_id="q1", choice="B")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def in_an_hour() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

"""Every RPC of the descriptor says who may call it, and nobody else may: a new one without a row here fails."""

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from finalbell.v1 import content_pb2, integrity_pb2, payment_pb2, policy_pb2, scoring_pb2, session_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ops.keys import mint
from tests.flows.sitting import Student
from tests.flows.transports import METHODS, TRANSPORTS, Native, Reply, native_refusal, transport
from tests.stack import Stack, bearer, fresh

PUBLIC, STUDENT, STAFF, ADMIN, GRADER, TOKEN_OPTIONAL = map(
    policy_pb2.Policy.Access.Value, ("PUBLIC", "STUDENT", "STAFF", "ADMIN", "GRADER", "TOKEN_OPTIONAL")
)
ACCESS = {
    "ListReceiptKeys": PUBLIC,
    "StartSession": STUDENT,
    "GetSession": STUDENT,
    "ListSessions": STUDENT,
    "SaveAnswer": STUDENT,
    "BatchSaveAnswers": STUDENT,
    "SubmitSession": STUDENT,
    "PauseSession": STUDENT,
    "ResumeSession": STUDENT,
    "ExplainDeadline": STUDENT,
    "GetResult": STUDENT,
    "WatchResult": STUDENT,
    "StreamResult": STUDENT,
    "GetLeaderboard": TOKEN_OPTIONAL,
    "WatchLeaderboard": TOKEN_OPTIONAL,
    "StreamLeaderboard": TOKEN_OPTIONAL,
    "ListExams": STUDENT,
    "GetExam": STUDENT,
    "GetPaper": STUDENT,
    "ListProducts": STUDENT,
    "CreateCheckout": STUDENT,
    "GetPayment": STUDENT,
    "HandleWebhook": PUBLIC,
    "ListEntitlements": STUDENT,
    "ImportProducts": ADMIN,
    "GrantEntitlement": ADMIN,
    "RevokeEntitlement": ADMIN,
    "ListPayments": ADMIN,
    "GetPaymentRecord": ADMIN,
    "RefundPayment": ADMIN,
    "ReconcilePayments": ADMIN,
    "GetPaymentDrift": ADMIN,
    "GetSealedPaper": PUBLIC,
    "GetExplanation": STUDENT,
    "ListBanks": STUDENT,
    "ListQuestions": STUDENT,
    "GetSolution": STUDENT,
    "CheckAnswer": STUDENT,
    "ListLectures": STUDENT,
    "GetLecture": STUDENT,
    "GetPlayback": STUDENT,
    "SetLecture": ADMIN,
    "DeleteLecture": ADMIN,
    "ListExamReports": STAFF,
    "GetExamReport": STAFF,
    "ListResults": STAFF,
    "VerifyLeaderboard": STAFF,
    "SetAccommodation": STAFF,
    "AdjustDeadline": STAFF,
    "ListDeadLetters": STAFF,
    "ComputeItemStatistics": STAFF,
    "GetItemStatistics": STAFF,
    "GetScoringBacklog": STAFF,
    "ListResultHistory": STAFF,
    "ListGradingTasks": GRADER,
    "ClaimGradingTask": GRADER,
    "RenewGradingTask": GRADER,
    "ReleaseGradingTask": GRADER,
    "SubmitGrade": GRADER,
    "RegradeExam": ADMIN,
    "GetRegrade": ADMIN,
    "SetAnswerKey": ADMIN,
    "GetDeadLetter": ADMIN,
    "FreezeLeaderboard": ADMIN,
    "RevealLeaderboard": ADMIN,
    "ReleaseLeaderboard": ADMIN,
    "ExportLeaderboard": ADMIN,
    "SetExamSeries": ADMIN,
    "ListExamSeries": STAFF,
    "DeleteExamSeries": ADMIN,
    "ImportExam": ADMIN,
    "ImportBank": ADMIN,
    "DeleteBank": ADMIN,
    "CloseExam": ADMIN,
    "ReleaseExam": ADMIN,
    "WarmExam": ADMIN,
    "RebuildLeaderboard": ADMIN,
    "UpdateSchedule": ADMIN,
    "ReplayDeadLetter": ADMIN,
    "DiscardDeadLetter": ADMIN,
    "CreateRehearsal": ADMIN,
    "RemoveRehearsal": ADMIN,
    "ReportSignals": STUDENT,
    "StreamSignals": STUDENT,
    "CreateFrameUpload": STUDENT,
    "WatchIntegrity": STAFF,
    "GetThresholds": STAFF,
    "SetThresholds": ADMIN,
    "EraseSignals": ADMIN,
    "AnalyseExam": ADMIN,
    "GetAnalysis": STAFF,
    "ListPairs": STAFF,
    "OpenCase": ADMIN,
    "GetCase": STAFF,
    "ListCases": STAFF,
    "MoveCase": ADMIN,
    "ExportCase": STAFF,
}
ENOUGH = {STAFF: ("proctor",), GRADER: ("grader",)}
"""Which roles but admin may call what is not for students; there any will do."""

SAVE = {"question_id": "q1", "choice": "B"}
OWNED: dict[str, Callable[[str], Message]] = {
    "GetSession": lambda session: session_pb2.GetSessionRequest(session_id=session),
    "SaveAnswer": lambda session: session_pb2.SaveAnswerRequest(session_id=session, **SAVE),
    "BatchSaveAnswers": lambda session: session_pb2.BatchSaveAnswersRequest(
        session_id=session, items=[session_pb2.SaveItem(idempotency_key=uuid.uuid4().hex, **SAVE)]
    ),
    "SubmitSession": lambda session: session_pb2.SubmitSessionRequest(session_id=session),
    "PauseSession": lambda session: session_pb2.PauseSessionRequest(session_id=session),
    "ResumeSession": lambda session: session_pb2.ResumeSessionRequest(session_id=session),
    "ExplainDeadline": lambda session: session_pb2.ExplainDeadlineRequest(session_id=session),
    "GetResult": lambda session: scoring_pb2.GetResultRequest(session_id=session),
    "WatchResult": lambda session: scoring_pb2.WatchResultRequest(session_id=session),
    "StreamResult": lambda session: scoring_pb2.StreamResultRequest(session_id=session),
    "ReportSignals": lambda session: integrity_pb2.ReportSignalsRequest(session_id=session),
    "StreamSignals": lambda session: integrity_pb2.StreamSignalsRequest(session_id=session),
    "CreateFrameUpload": lambda session: integrity_pb2.CreateFrameUploadRequest(
        session_id=session, content_type="image/jpeg", size_bytes=1
    ),
}
"""The RPCs by which a student reaches a session; it has to be their own."""

ASKED: dict[str, tuple[Message, tuple[str, str]]] = {
    "GetSealedPaper": (
        content_pb2.GetSealedPaperRequest(exam_id="nowhere", version=1),
        ("NOT_FOUND", "SEALED_PAPER_NOT_FOUND"),
    ),
    "HandleWebhook": (
        payment_pb2.HandleWebhookRequest(provider="sandbox"),
        ("INVALID_ARGUMENT", "SIGNATURE_INVALID"),
    ),
}
"""What a public RPC is asked that wants to know something, and what it answers."""

UNITS = {
    "SessionService": "session",
    "ScoringService": "scoring",
    "LeaderboardService": "leaderboard",
    "ContentService": "content",
    "PaymentService": "payments",
    "PaymentAdminService": "payments",
    "LectureService": "content",
    "LectureAdminService": "admin",
    "ExamAdminService": "admin",
    "SessionAdminService": "admin",
    "IntegrityService": "integrity",
    "IntegrityAdminService": "integrity",
}
FORGED = {"x-student-id": "", "x-user": "", "x-jwt-payload": "e30", "x-forwarded-user": ""}


def test_every_rpc_has_a_row_and_the_policy_that_it_says() -> None:
    policies = {name: method.GetOptions().Extensions[policy_pb2.policy].access for name, method in METHODS.items()}

    assert policies == ACCESS
    reaching = {
        name for name, method in METHODS.items() if ACCESS[name] == STUDENT and "session_id" in method.input_type.fields_by_name
    }
    assert reaching == OWNED.keys()


async def empty(channel: grpc.aio.Channel, method: MethodDescriptor, token: str | None) -> Reply:
    """Call an RPC with an empty message: who may not call it hears so before anything is read."""
    request = GetMessageClass(method.input_type)()
    if not method.client_streaming:
        return await Native(channel, token or "").call(method.name, request) if token else await anonymous(channel, method, request)

    async def pieces() -> AsyncIterator[Message]:
        yield request

    return await attempt(
        channel.stream_unary(path(method), request_serializer=type(request).SerializeToString)(
            pieces(), metadata=bearer(token) if token else ()
        )
    )


async def anonymous(channel: grpc.aio.Channel, method: MethodDescriptor, request: Message) -> Reply:
    return await attempt(channel.unary_unary(path(method), request_serializer=type(request).SerializeToString)(request))


async def attempt(call: Any) -> Reply:
    try:
        await call
    except grpc.aio.AioRpcError as failure:
        return native_refusal(failure)
    return Reply("OK", None, None, 200, b"")


def path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


@pytest.mark.parametrize("name", [name for name, access in ACCESS.items() if access not in (PUBLIC, TOKEN_OPTIONAL)])
async def test_who_may_not_call_it_is_told_so_at_the_service_itself(stack: Stack, name: str) -> None:
    method = METHODS[name]
    expired = mint(stack.home, student=fresh("s"), roles=["admin"], ttl_seconds=-120)
    async with stack.channel(UNITS[method.containing_service.name]) as channel:
        nobody, late = await empty(channel, method, None), await empty(channel, method, expired)
        powerless = {
            role: await empty(channel, method, stack.token(roles=[role] if role else []))
            for role in ("", "grader", "proctor")
            if ACCESS[name] == ADMIN or role not in ENOUGH.get(ACCESS[name], ("", "grader", "proctor"))
        }

    assert (nobody.code, nobody.reason) == ("UNAUTHENTICATED", "TOKEN_INVALID")
    assert (late.code, late.reason) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")
    assert {(reply.code, reply.reason) for reply in powerless.values()} <= {("PERMISSION_DENIED", "ROLE_REQUIRED")}


@pytest.mark.parametrize("name", [name for name, access in ACCESS.items() if access == TOKEN_OPTIONAL])
async def test_where_a_token_is_optional_a_bad_one_is_still_refused_at_the_service_itself(stack: Stack, name: str) -> None:
    method = METHODS[name]
    expired = mint(stack.home, student=fresh("s"), ttl_seconds=-120)
    async with stack.channel(UNITS[method.containing_service.name]) as channel:
        late, muddled = await empty(channel, method, expired), await empty(channel, method, "no.token.atall")

    assert (late.code, late.reason) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")
    assert (muddled.code, muddled.reason) == ("UNAUTHENTICATED", "TOKEN_INVALID")


@pytest.mark.parametrize("name", [name for name, access in ACCESS.items() if access == PUBLIC])
@pytest.mark.parametrize("way", TRANSPORTS)
async def test_what_is_public_needs_no_token_on_any_way_in_and_looks_at_none(stack: Stack, name: str, way: str) -> None:
    request, wanted = ASKED.get(name, (GetMessageClass(METHODS[name].input_type)(), ("OK", "")))
    async with transport(way, stack, None) as nobody, transport(way, stack, "no.token.atall") as muddled:
        replies = [await nobody.call(name, request), await muddled.call(name, request)]

    assert [(reply.code, reply.reason) for reply in replies] == [wanted, wanted]


@pytest.mark.parametrize("name", OWNED)
async def test_anothers_session_is_as_unknown_as_one_that_never_was_whatever_headers_say(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, name: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    keyed = METHODS[name].GetOptions().Extensions[policy_pb2.policy].key != policy_pb2.Policy.KEY_UNSPECIFIED
    async with Student(stack) as owner, stack.channel(UNITS[METHODS[name].containing_service.name]) as channel:
        session = (await owner.sit(exam_id))["sessionId"]
        stranger, forged = Native(channel, stack.token()), {**FORGED, "x-student-id": owner.name, "x-user": owner.name}

        def key() -> str | None:
            return uuid.uuid4().hex if keyed else None

        theirs = await stranger.call(name, OWNED[name](session), key=key())
        pretending = await stranger.call(name, OWNED[name](session), key=key(), headers=forged)
        unknown = await stranger.call(name, OWNED[name]("01999999-0000-7000-8000-000000000000"), key=key())
        after = (await owner.read(session)).json()

    assert theirs.reason == pretending.reason == unknown.reason == "SESSION_NOT_FOUND"
    assert theirs.status == pretending.status == unknown.status
    assert (after["status"], after["answers"]) == ("IN_PROGRESS", [])

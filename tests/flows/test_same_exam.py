"""The same exam, sat the same way over REST, gRPC-web and native gRPC, comes to the same end."""

import uuid
from typing import Any

from finalbell.v1 import leaderboard_pb2, scoring_pb2, session_pb2
from google.protobuf.json_format import MessageToDict

from tests.flows.sitting import canonical
from tests.flows.transports import TRANSPORTS, Transport, transport
from tests.stack import Stack, eventually

VOLATILE = {
    "sessionId",
    "startedAt",
    "endsAt",
    "serverTime",
    "savedAt",
    "submittedAt",
    "rankAsOf",
    "percentile",  # the same students stand there in turn
    "timeSpentMs",
    "scoredAt",
    "asOf",
    "remainingMs",
    "rank",
    "receipt",
}
"""What differs between two sittings of one exam by its nature; everything else has to be the same."""

GOLDEN_SCORES = {"q1": (2, "CORRECT"), "q2": (3, "PARTIAL"), "q3": (4, "CORRECT"), "q4": (-1, "WRONG")}


async def test_the_same_exam_has_the_same_outcome_over_every_way_in(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, shuffleQuestions=False, shuffleOptions=False)

    outcomes = {name: await sit(stack, name, f"{exam_id}-{name}", exam_id) for name in TRANSPORTS}

    assert outcomes["rest"] == outcomes["grpc-web"] == outcomes["grpc"]
    breakdown = outcomes["rest"]["result"]["breakdown"]
    assert {item["questionId"]: (item["points"], item["outcome"]) for item in breakdown} == GOLDEN_SCORES
    assert outcomes["rest"]["result"]["score"] == 8
    assert outcomes["rest"]["result"]["maxScore"] == 14
    given = {"q1": ("choice", "B"), "q2": ("choices", {"ids": ["A"]}), "q3": ("number", "3.50"), "q4": ("text", "İstanbul")}
    assert outcomes["rest"]["submit"]["answersSha256"] == canonical(given)


async def test_students_of_every_way_in_share_one_board(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    for name in TRANSPORTS:
        await sit(stack, name, f"{exam_id}-{name}", exam_id)

    boards = []
    for name in TRANSPORTS:
        async with transport(name, stack, stack.token(f"{exam_id}-{name}")) as way_in:
            request = leaderboard_pb2.GetLeaderboardRequest(exam_id=exam_id, top=10, around="me")
            boards.append((await way_in.call("GetLeaderboard", request)).ok)

    for board in boards:
        assert [(entry.rank, entry.score) for entry in board.entries] == [(1, 8)] * 3
        assert [entry.me for entry in board.entries].count(True) == 1
        assert (board.me.rank, board.total, len(board.around)) == (1, 3, 3)


async def test_a_session_can_be_begun_over_one_way_in_and_finished_over_another(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    token = stack.token()
    async with (
        transport("rest", stack, token) as rest,
        transport("grpc-web", stack, token) as web,
        transport("grpc", stack, token) as native,
    ):
        session = (await rest.call("StartSession", session_pb2.StartSessionRequest(exam_id=exam_id))).ok.session.session_id
        save = session_pb2.SaveAnswerRequest(session_id=session, question_id="q1", choice="B")
        key = uuid.uuid4().hex

        versions = [(await way_in.call("SaveAnswer", save, key=key)).ok.version for way_in in (web, rest, native)]
        submit = session_pb2.SubmitSessionRequest(session_id=session)
        submits = [(await way_in.call("SubmitSession", submit, key=uuid.uuid4().hex)).ok for way_in in (native, web, rest)]

        assert versions == [1, 1, 1]
        assert len({(one.submitted_at.ToMilliseconds(), one.answers_sha256, one.receipt) for one in submits}) == 1


async def sit(stack: Stack, name: str, student: str, exam: str) -> dict[str, Any]:
    """Sit the whole exam over one way in, and return every reply without what differs by its nature."""
    async with transport(name, stack, stack.token(student)) as way_in:
        started = (await way_in.call("StartSession", session_pb2.StartSessionRequest(exam_id=exam, alias="Golden"))).ok
        session = started.session.session_id
        saves = [(await way_in.call("SaveAnswer", request, key=uuid.uuid4().hex)).ok for request in saves_of(session)]
        batch = (await way_in.call("BatchSaveAnswers", batch_of(session))).ok
        read = (await way_in.call("GetSession", session_pb2.GetSessionRequest(session_id=session))).ok
        submit = (await way_in.call("SubmitSession", session_pb2.SubmitSessionRequest(session_id=session), key=uuid.uuid4().hex)).ok
        result = await result_of(way_in, session)
        again = (await way_in.call("SubmitSession", session_pb2.SubmitSessionRequest(session_id=session), key=uuid.uuid4().hex)).ok
        board = (await way_in.call("GetLeaderboard", leaderboard_pb2.GetLeaderboardRequest(exam_id=exam, top=1))).ok
    assert (again.submitted_at, again.answers_sha256) == (submit.submitted_at, submit.answers_sha256)
    assert submit.receipt
    assert submit.receipt == again.receipt == result.receipt
    return {
        "start": plain(started.session),
        "saves": [plain(saved) for saved in saves],
        "batch": plain(batch),
        "read": plain(read.session) | {"answers": sorted(plain(read.session)["answers"], key=lambda saved: saved["questionId"])},
        # Whether the score comes within the inline wait is a matter of time, and the only one.
        "submit": {"answersSha256": submit.answers_sha256},
        "again": (again.status, again.score, again.max_score),
        "result": plain(result),
        "board": [(entry.rank, entry.score, entry.alias) for entry in board.entries],
    }


def saves_of(session: str) -> list[session_pb2.SaveAnswerRequest]:
    """One save of each type."""
    picks = session_pb2.Choices(ids=["C", "A"])
    return [
        session_pb2.SaveAnswerRequest(session_id=session, question_id="q1", choice="A", client_seq=1),
        session_pb2.SaveAnswerRequest(session_id=session, question_id="q2", choices=picks, client_seq=1),
        session_pb2.SaveAnswerRequest(session_id=session, question_id="q3", number="3.50", client_seq=1),
        session_pb2.SaveAnswerRequest(session_id=session, question_id="q4", text="İstanbul", client_seq=1),
    ]


def batch_of(session: str) -> session_pb2.BatchSaveAnswersRequest:
    """A batch in which one item is saved, one comes too late, and one is not an option."""
    items = [
        session_pb2.SaveItem(question_id="q1", choice="B", client_seq=2, idempotency_key=uuid.uuid4().hex),
        session_pb2.SaveItem(question_id="q2", choices=session_pb2.Choices(ids=["A"]), idempotency_key=uuid.uuid4().hex),
        session_pb2.SaveItem(question_id="q1", choice="C", client_seq=1, idempotency_key=uuid.uuid4().hex),
        session_pb2.SaveItem(question_id="q1", choice="Z", idempotency_key=uuid.uuid4().hex),
    ]
    return session_pb2.BatchSaveAnswersRequest(session_id=session, items=items)


async def result_of(way_in: Transport, session: str) -> scoring_pb2.Result:
    """Wait until the result is there and ranked."""

    async def there() -> scoring_pb2.Result | None:
        result = (await way_in.call("GetResult", scoring_pb2.GetResultRequest(session_id=session))).ok.result
        return result if result.status == scoring_pb2.Result.SCORED and result.HasField("rank") else None

    found: scoring_pb2.Result = await eventually(there)
    return found


def plain(message: Any) -> Any:
    """Return a message as JSON values, every primitive field with it and the volatile ones without."""
    return without(MessageToDict(message, always_print_fields_with_no_presence=True))


def without(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without(inner) for name, inner in value.items() if name not in VOLATILE}
    return [without(inner) for inner in value] if isinstance(value, list) else value

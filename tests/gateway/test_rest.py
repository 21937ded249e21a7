"""What a REST client sends and gets."""

import asyncio
import json
from time import perf_counter
from typing import Any

import grpc
import httpx
import pytest
from finalbell.v1 import content_pb2, leaderboard_pb2, scoring_pb2, session_pb2
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.gateway.harness import Edge, Services, refusal

ONE, OTHER = (f"0190a0e0-0000-7000-8000-00000000000{digit}" for digit in "12")
ANSWERS = f"/api/v1/sessions/{ONE}/answers"
START = "/api/v1/exams/e1/sessions"
JSON = {"content-type": "application/json"}
TRANSCODED = {"content-type": "application/json; charset=utf-8"}
"""A save with this header takes the way of all REST; with the plain one it goes past the transcoder."""


def replying(message: Message, *initial: tuple[str, str]) -> Any:
    async def reply(request: Message, context: Any) -> Message:
        await context.send_initial_metadata(initial)
        return message

    return reply


def refusing(*, initial: tuple[tuple[str, str], ...] = (), trailing: tuple[tuple[str, str], ...] = ()) -> Any:
    """Refuse as a service does, with details, and metadata before or after them."""
    status = status_pb2.Status(code=9, message="Time is over.")
    info = error_details_pb2.ErrorInfo(reason="SESSION_ENDED", domain="finalbell", metadata={"endsAt": "noon"})
    status.details.add().Pack(info)
    wire = rpc_status.to_status(status)

    async def reply(request: Message, context: Any) -> Message:
        if initial:
            await context.send_initial_metadata(initial)
        await context.abort(wire.code, wire.details, (*wire.trailing_metadata, *trailing))
        raise AssertionError

    return reply


# Requests


ROUTES = [
    ("POST", "/api/v1/exams/e1/sessions", "session", "StartSession"),
    ("GET", f"/api/v1/sessions/{ONE}", "session", "GetSession"),
    ("GET", "/api/v1/sessions?examId=e1&pageSize=5", "session", "ListSessions"),
    ("PUT", ANSWERS, "session", "SaveAnswer"),
    ("POST", f"{ANSWERS}:batchSave", "session", "BatchSaveAnswers"),
    ("POST", f"/api/v1/sessions/{ONE}/submit", "session", "SubmitSession"),
    ("GET", f"/api/v1/sessions/{ONE}/result", "scoring", "GetResult"),
    ("POST", "/api/v1/exams/e1/statistics:compute", "scoring", "ComputeItemStatistics"),
    ("GET", "/api/v1/exams/e1/statistics", "scoring", "GetItemStatistics"),
    ("GET", "/api/v1/exams/e1/leaderboard?top=10&around=me", "leaderboard", "GetLeaderboard"),
    ("GET", "/api/v1/exams", "content", "ListExams"),
    ("GET", "/api/v1/exams/e1", "content", "GetExam"),
    ("GET", "/api/v1/exams/e1/paper", "content", "GetPaper"),
    ("GET", "/api/v1/exams/e1/sealed-papers/3", "content", "GetSealedPaper"),
    ("GET", "/api/v1/exams/e1/questions/q1/explanation", "content", "GetExplanation"),
    ("GET", "/api/v1/banks?pageSize=5", "content", "ListBanks"),
    ("GET", "/api/v1/questions?topic=algebra&bankId=b1", "content", "ListQuestions"),
    ("GET", "/api/v1/banks/b1/questions/q1/solution", "content", "GetSolution"),
    ("POST", "/api/v1/banks/b1/questions/q1:check", "content", "CheckAnswer"),
    ("POST", "/api/v1/admin/banks/b1:delete", "admin", "DeleteBank"),
    ("GET", "/api/v1/admin/exams", "admin", "ListExamReports"),
    ("POST", "/api/v1/admin/exams/e1:close", "admin", "CloseExam"),
    ("POST", "/api/v1/admin/exams/e1:warm", "admin", "WarmExam"),
    ("POST", "/api/v1/admin/exams/e1/leaderboard:verify", "admin", "VerifyLeaderboard"),
]


async def test_every_method_reaches_its_service(edge: Edge, services: Services) -> None:
    for verb, url, upstream, method in ROUTES:
        reply = await edge.rest.request(verb, url)

        assert reply.status_code == 200, url
        assert (services.seen[-1].upstream, services.seen[-1].method) == (upstream, method)


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/nope"),
        ("GET", "/api/v1/Exams"),
        ("DELETE", "/api/v1/exams"),
        ("POST", "/api/v1/exams"),
        ("PATCH", ANSWERS),
        ("TRACE", "/api/v1/exams"),
        ("POST", "/finalbell.v1.SessionService/GetSession"),
        ("GET", "/finalbell.v1.SessionService/GetSession"),
        ("GET", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    ],
)
async def test_what_is_no_method_is_not_found_and_reaches_nobody(edge: Edge, services: Services, verb: str, path: str) -> None:
    reply = await edge.rest.request(verb, path)

    assert refusal(reply) == (404, 5, "ROUTE_NOT_FOUND")
    assert services.seen == []


async def test_the_path_that_is_checked_is_the_path_that_is_routed(edge: Edge, services: Services) -> None:
    same = ["/api/v1/x/../exams", "/api/v1/x/%2e%2e/exams", "//api///v1/exams", "/api/v1/./exams", "/api/v1/exams/"]
    refused = ["/api/v1%2Fexams", "/api/v1%5cexams", "/api/v1/exams/%00", "/api/v1/exams/e1%2fpaper"]

    for path in same:
        assert await _raw_status(edge, path, token=True) == 200, path
        assert services.seen.pop().method == "ListExams"
        assert await _raw_status(edge, path, token=False) == 401, path
    for path in refused:
        assert await _raw_status(edge, path, token=True) == 400, path
    assert await _raw_status(edge, "/grpc.health.v1.Health/../api/v1/exams", token=False) == 401
    assert await _raw_status(edge, "/grpc.health.v1.Health//../api/v1/exams", token=False) == 404  # still under Health
    assert services.seen == []


async def _raw_status(edge: Edge, path: str, *, token: bool) -> int:
    """Ask for a path exactly as it is spelt; HTTP clients tidy it up."""
    reader, writer = await asyncio.open_connection(*edge.address.split(":"))
    authorization = f"authorization: {edge.rest.headers['authorization']}\r\n" if token else ""
    writer.write(f"GET {path} HTTP/1.1\r\nhost: finalbell\r\n{authorization}\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1])


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b'{"questionId":"q1"} x',
        b'{"questionId":"\xff"}',
        b'{"questionId":"\\ud800"}',
        b'{"questionId":1}',
        b'{"clientSeq":NaN}',
        b'{"clientSeq":1.5}',
        b'{"clientSeq":1e400}',
        b'{"clientSeq":-1}',
        b'{"clientTs":"yesterday"}',
        b'{"a":' * 10_000,
        b"[" * 60_000,
    ],
)
@pytest.mark.parametrize("headers", [JSON, TRANSCODED], ids=["save", "transcoded"])
async def test_a_malformed_body_is_refused_quickly_and_without_an_echo(
    edge: Edge, services: Services, body: bytes, headers: dict[str, str]
) -> None:
    started = perf_counter()

    reply = await edge.rest.put(ANSWERS, content=body, headers=headers)

    assert perf_counter() - started < 5  # 0.05 s on an idle machine; what would read such a body with care takes minutes
    assert refusal(reply) == (400, 3, "INVALID_FIELD")
    assert reply.json()["message"].startswith(
        ("The path, a query parameter, a header or the JSON body", "The request is not valid: the body")
    )
    assert len(reply.content) < 500
    assert services.seen == []


async def test_an_unknown_field_is_dropped_so_that_the_service_can_miss_the_answer(edge: Edge, services: Services) -> None:
    await edge.rest.put(ANSWERS, json={"questionId": "q1", "chioce": "B"})

    request = services.seen[-1].request
    assert request.question_id == "q1"
    assert request.WhichOneof("answer") is None


async def test_no_header_changes_the_method(edge: Edge, services: Services) -> None:
    await edge.rest.get("/api/v1/exams/e1", headers={"x-http-method-override": "POST", "x-method-override": "PUT"})

    assert [seen.method for seen in services.seen] == ["GetExam"]


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (ANSWERS, {"sessionId": OTHER, "questionId": "q1", "choice": "A"}),
        (f"{ANSWERS}?sessionId={OTHER}", {"questionId": "q1", "choice": "A"}),
        (f"{ANSWERS}?session_id={OTHER}", {"questionId": "q1", "choice": "A"}),
        (f"{ANSWERS}?questionId=q2", {"questionId": "q1", "choice": "A"}),
        (f"{ANSWERS}?bogus=1", {"questionId": "q1", "choice": "A"}),
        (START, {"examId": "e2"}),
    ],
)
async def test_nothing_overrules_the_path_and_the_body(edge: Edge, services: Services, url: str, body: object) -> None:
    reply = await edge.rest.request("POST" if url == START else "PUT", url, json=body)

    assert refusal(reply) == (400, 3, "INVALID_FIELD")
    assert services.seen == []


async def test_the_session_of_the_path_wins_over_a_body_in_snake_case(edge: Edge, services: Services) -> None:
    same = await edge.rest.put(ANSWERS, json={"sessionId": ONE, "questionId": "q1"})
    other = await edge.rest.put(ANSWERS, json={"session_id": OTHER, "question_id": "q1"})

    assert (same.status_code, other.status_code) == (200, 200)
    assert [seen.request.session_id for seen in services.seen] == [ONE, ONE]
    assert [seen.request.question_id for seen in services.seen] == ["q1", "q1"]


@pytest.mark.parametrize(
    "url",
    [
        "/api/v1/exams?bogus=1",
        "/api/v1/exams?access_token=x",
        "/api/v1/exams?pageSize=abc",
        "/api/v1/exams/e1/leaderboard?top=1.5",
        "/api/v1/exams/e1/leaderboard?examId=e2",
        "/api/v1/exams/e1/leaderboard?top=1&exam_id=e2",
        "/api/v1/exams/e1/leaderboard?top=1&exam%49d=e2",
        f"/api/v1/sessions/{ONE}?sessionId={OTHER}",
        f"/api/v1/sessions/{ONE}/result?session_id={OTHER}&a",
        f"/api/v1/sessions/{ONE}/?sessionId",
    ],
)
async def test_a_query_parameter_that_does_not_fit_is_refused(edge: Edge, services: Services, url: str) -> None:
    assert refusal(await edge.rest.get(url)) == (400, 3, "INVALID_FIELD")
    assert services.seen == []


async def test_a_query_parameter_may_hold_anything(edge: Edge, services: Services) -> None:
    await edge.rest.get("/api/v1/sessions", params={"examId": "e1", "pageToken": "a%b=c&d?sessionId=é"})

    assert services.seen[-1].request.exam_id == "e1"
    assert services.seen[-1].request.page_token == "a%b=c&d?sessionId=é"


@pytest.mark.parametrize("size", [65 * 1024, 1024 * 1024])
async def test_a_body_of_more_than_64_kib_is_refused(edge: Edge, services: Services, size: int) -> None:
    async def chunks() -> Any:
        yield b"x" * size

    whole = await edge.rest.put(ANSWERS, content=b"x" * size, headers=JSON)
    chunked = await edge.rest.put(ANSWERS, content=chunks(), headers=JSON)

    assert refusal(whole) == refusal(chunked) == (413, 8, "REQUEST_TOO_LARGE")
    assert services.seen == []


async def test_a_body_of_60_kib_arrives(edge: Edge, services: Services) -> None:
    await edge.rest.put(ANSWERS, json={"questionId": "q1", "text": "x" * 60 * 1024})

    assert len(services.seen[-1].request.text) == 60 * 1024


async def test_headers_of_more_than_60_kb_are_refused(edge: Edge) -> None:
    assert refusal(await edge.rest.get("/api/v1/exams", headers={"x-big": "x" * 65_000}))[::2] == (
        431,
        "HEADERS_TOO_LARGE",
    )


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        (None, 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 200),  # what `curl -d` says of a JSON body
        ("application/jsonp", 415),
    ],
)
async def test_a_body_is_json(edge: Edge, kind: str | None, status: int) -> None:
    reply = await edge.rest.put(ANSWERS, content=b"{}", headers={"content-type": kind} if kind else {})

    assert reply.status_code == status
    if status == 415:
        assert refusal(reply) == (415, 3, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_grpc_content_type_on_a_rest_path_is_not_found(edge: Edge, services: Services) -> None:
    reply = await edge.rest.put(ANSWERS, content=b"{}", headers={"content-type": "application/grpc"})

    assert reply.headers["grpc-status"] == "5"
    assert services.seen == []


async def test_the_key_arrives_as_metadata(edge: Edge, services: Services) -> None:
    await edge.rest.put(ANSWERS, json={"questionId": "q1"}, headers={"idempotency-key": "key-0001"})

    assert services.seen[-1].metadata["idempotency-key"] == "key-0001"


# Replies


async def test_the_service_chooses_the_status(edge: Edge, services: Services) -> None:
    session = session_pb2.Session(session_id=ONE)
    services.replies["StartSession"] = replying(
        session_pb2.StartSessionResponse(session=session), ("fb-http-status", "201"), ("etag", '"v1"')
    )

    reply = await edge.rest.post(START, json={})

    assert reply.status_code == 201
    assert reply.json()["sessionId"] == ONE
    assert reply.headers["etag"] == '"v1"'
    assert "fb-http-status" not in reply.headers


@pytest.mark.parametrize("nonsense", ["500", "404", "99", "2000", "abc", ""])
async def test_a_status_that_is_no_success_is_not_taken(edge: Edge, services: Services, nonsense: str) -> None:
    services.replies["StartSession"] = replying(session_pb2.StartSessionResponse(), ("fb-http-status", nonsense))

    reply = await edge.rest.post(START, json={})

    assert reply.status_code == 200
    assert "fb-http-status" not in reply.headers


async def test_an_unchanged_paper_is_304_without_a_body(edge: Edge, services: Services) -> None:
    services.replies["GetPaper"] = replying(content_pb2.GetPaperResponse(), ("fb-http-status", "304"), ("etag", '"v1"'))

    reply = await edge.rest.get("/api/v1/exams/e1/paper", headers={"if-none-match": '"v1"'})
    after = await edge.rest.get("/api/v1/exams")

    assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", '"v1"')
    assert "content-type" not in reply.headers
    assert services.seen[0].metadata["if-none-match"] == '"v1"'
    assert after.status_code == 200  # the connection is still in step


@pytest.mark.parametrize("written", ["word%20problems", "word+problems"])
async def test_a_space_in_a_query_is_a_space_however_it_is_written(edge: Edge, services: Services, written: str) -> None:
    await edge.rest.get(f"/api/v1/questions?topic={written}")

    assert services.seen[-1].request.topic == "word problems"


async def test_a_sealed_paper_arrives_byte_for_byte_without_a_token_and_may_be_kept_by_any_cache(
    edge: Edge, services: Services
) -> None:
    sealed = HttpBody(content_type="application/octet-stream", data=bytes(range(256)) * 40)
    kept = ("cache-control", "public, max-age=31536000, immutable")
    services.replies["GetSealedPaper"] = replying(sealed, ("etag", '"v1"'), kept)

    reply = await edge.anonymous.get("/api/v1/exams/e1/sealed-papers/1")

    assert (reply.status_code, reply.content) == (200, sealed.data)
    assert (reply.headers["content-type"], reply.headers["etag"]) == ("application/octet-stream", '"v1"')
    assert reply.headers["cache-control"] == kept[1]


async def test_an_unchanged_sealed_paper_is_304_without_a_body(edge: Edge, services: Services) -> None:
    empty = HttpBody(content_type="application/octet-stream")
    services.replies["GetSealedPaper"] = replying(empty, ("fb-http-status", "304"), ("etag", '"v1"'))

    reply = await edge.anonymous.get("/api/v1/exams/e1/sealed-papers/1", headers={"if-none-match": '"v1"'})
    after = await edge.rest.get("/api/v1/exams")

    assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", '"v1"')
    assert "fb-http-status" not in reply.headers
    assert after.status_code == 200


async def test_a_reply_is_the_resource_where_the_binding_says_so(edge: Edge, services: Services) -> None:
    result = scoring_pb2.Result(status=scoring_pb2.Result.SCORING)
    question = content_pb2.Question(stem='a "quoted" {stem}: ]}')
    services.replies["GetResult"] = replying(scoring_pb2.GetResultResponse(result=result), ("fb-http-status", "202"))
    services.replies["GetPaper"] = replying(
        content_pb2.GetPaperResponse(paper=content_pb2.Paper(exam_id="e1", questions=[question]))
    )

    scoring = await edge.rest.get(f"/api/v1/sessions/{ONE}/result")
    paper = await edge.rest.get("/api/v1/exams/e1/paper")

    assert (scoring.status_code, scoring.json()["status"]) == (202, "SCORING")
    assert paper.json()["questions"][0]["stem"] == 'a "quoted" {stem}: ]}'


async def test_a_large_paper_arrives_whole(edge: Edge, services: Services) -> None:
    questions = [content_pb2.Question(question_id=f"q{number}", stem="é" * 2_000) for number in range(1_000)]
    paper = content_pb2.Paper(exam_id="e1", questions=questions)
    services.replies["GetPaper"] = replying(content_pb2.GetPaperResponse(paper=paper))

    reply = await edge.rest.get("/api/v1/exams/e1/paper")

    assert len(reply.json()["questions"]) == 1_000


async def test_a_zero_is_printed_and_what_is_absent_is_absent(edge: Edge, services: Services) -> None:
    result = scoring_pb2.Result(status=scoring_pb2.Result.SCORED, score=0, max_score=10)
    entry = leaderboard_pb2.LeaderboardEntry(rank=1, alias="A")
    services.replies["GetResult"] = replying(scoring_pb2.GetResultResponse(result=result))
    services.replies["GetLeaderboard"] = replying(leaderboard_pb2.GetLeaderboardResponse(entries=[entry]))

    scored = (await edge.rest.get(f"/api/v1/sessions/{ONE}/result")).json()
    board = (await edge.rest.get("/api/v1/exams/e1/leaderboard")).json()

    assert (scored["score"], scored["revision"], scored["breakdown"]) == (0, 0, [])
    assert not {"rank", "rankAsOf", "releasesAt"} & set(scored)
    assert board["entries"] == [{"rank": 1, "score": 0, "alias": "A", "me": False}]
    assert (board["total"], board["rebuilding"]) == (0, False)
    assert "me" not in board


@pytest.mark.parametrize(
    ("url", "headers"), [(ANSWERS, JSON), (ANSWERS, TRANSCODED), (START, JSON)], ids=["save", "transcoded", "unwrapped"]
)
async def test_a_refusal_of_the_service_keeps_its_words_and_details(
    edge: Edge, services: Services, url: str, headers: dict[str, str]
) -> None:
    services.replies["SaveAnswer"] = services.replies["StartSession"] = refusing()

    reply = await edge.rest.request("PUT" if url == ANSWERS else "POST", url, content=b"{}", headers=headers)

    assert reply.status_code == 400
    assert reply.json() == {
        "code": 9,
        "message": "Time is over.",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "SESSION_ENDED",
                "domain": "finalbell",
                "metadata": {"endsAt": "noon"},
            }
        ],
    }


CODES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


@pytest.mark.parametrize(("code", "status"), CODES.items())
async def test_a_refusal_without_details_keeps_its_code_and_words(edge: Edge, services: Services, code: str, status: int) -> None:
    async def reply(request: Message, context: Any) -> Message:
        await context.abort(grpc.StatusCode[code], "the service's words")
        raise AssertionError

    services.replies["SaveAnswer"] = reply

    answer = await edge.rest.put(ANSWERS, json={})

    assert answer.status_code == status
    assert answer.json() == {"code": grpc.StatusCode[code].value[0], "message": "the service's words", "details": []}


async def test_retry_after_is_a_header_unless_it_comes_after_sent_metadata(edge: Edge, services: Services) -> None:
    after = (("retry-after", "7"),)
    as_initial, alone, too_late = (
        refusing(initial=after),
        refusing(trailing=after),
        refusing(initial=(("a", "b"),), trailing=after),
    )

    async def header(reply: Any) -> str | None:
        services.replies["SaveAnswer"] = reply
        answer = await edge.rest.put(ANSWERS, content=b"{}", headers=TRANSCODED)
        assert answer.json()["details"][0]["reason"] == "SESSION_ENDED"
        return answer.headers.get("retry-after")

    assert [await header(reply) for reply in (as_initial, alone, too_late)] == ["7", "7", None]


async def test_a_service_that_is_away_is_503_with_retry_after(lonely_edge: Edge) -> None:
    reply = await lonely_edge.rest.get("/api/v1/exams")

    assert refusal(reply) == (503, 14, "UPSTREAM_UNAVAILABLE")
    assert reply.headers["retry-after"] == "1"
    assert reply.json()["details"][1] == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}


async def test_a_service_that_hangs_up_is_503(strict_edge: Edge) -> None:
    reply = await strict_edge.rest.get("/api/v1/exams")

    assert refusal(reply) == (503, 14, "UPSTREAM_UNAVAILABLE")


def timed_out(reply: httpx.Response) -> bool:
    """Whether the reply is a 504 of either side: Envoy and a bare grpcio server give up at the same moment.

    Ours gives up before both, with details (`servers/serving/wrap.py`); a bare server's reply has none.
    """
    return (reply.status_code, reply.json()["code"]) == (504, 4)


async def test_a_service_that_is_too_slow_is_504(strict_edge: Edge, services: Services) -> None:
    async def slow(request: Message, context: Any) -> Message:
        await asyncio.sleep(5)
        raise AssertionError

    services.replies["GetSession"] = slow

    late = await strict_edge.rest.get(f"/api/v1/sessions/{ONE}")

    assert timed_out(late)


async def test_a_body_that_comes_too_slowly_is_408(strict_edge: Edge, services: Services) -> None:
    async def drip() -> Any:
        for _ in range(8):
            yield b" "
            await asyncio.sleep(0.1)

    reply = await strict_edge.rest.put(ANSWERS, content=drip(), headers=JSON)

    assert refusal(reply) == (408, 4, "DEADLINE_EXCEEDED")
    assert services.seen == []


async def test_what_is_too_much_at_once_is_refused_at_once(strict_edge: Edge, services: Services) -> None:
    others_are_answered = asyncio.Event()

    async def slow(request: Message, context: Any) -> Message:
        await others_are_answered.wait()
        return session_pb2.GetSessionResponse()

    services.replies["GetSession"] = slow
    asked = [asyncio.ensure_future(strict_edge.rest.get(f"/api/v1/sessions/{ONE}")) for _ in range(4)]
    answered = asyncio.as_completed(asked)
    for _ in range(3):
        await next(answered)
    others_are_answered.set()

    replies = await asyncio.gather(*asked)

    served, *refused = sorted(replies, key=lambda reply: reply.status_code)
    assert served.status_code == 200
    for reply in refused:
        assert refusal(reply) == (503, 14, "OVERLOADED")
        assert reply.headers["retry-after"] == "1"


async def test_a_client_may_shorten_the_deadline(edge: Edge, services: Services) -> None:
    left: list[float] = []

    async def slow(request: Message, context: Any) -> Message:
        left.append(context.time_remaining())
        await asyncio.sleep(0.5)
        return session_pb2.SaveAnswerResponse()

    services.replies["SaveAnswer"] = slow

    late = await edge.rest.put(ANSWERS, json={}, headers={"grpc-timeout": "200m"})
    patient = await edge.rest.put(ANSWERS, json={})
    greedy = await edge.rest.put(ANSWERS, json={}, headers={"grpc-timeout": "1H"})

    assert timed_out(late)
    assert (patient.status_code, greedy.status_code) == (200, 200)
    assert left[0] < 0.3
    assert 14 < left[1] < 15.1


async def test_replies_say_nothing_of_envoy(edge: Edge, lonely_edge: Edge) -> None:
    for reply in (await edge.rest.get("/api/v1/exams"), await lonely_edge.rest.get("/api/v1/exams")):
        assert reply.headers["server"] == "finalbell"
        assert [name for name in reply.headers if name.startswith("x-")] == []


# Browsers


def preflight(origin: str) -> dict[str, str]:
    return {
        "origin": origin,
        "access-control-request-method": "PUT",
        "access-control-request-headers": "authorization,idempotency-key",
    }


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://localhost"])
async def test_a_page_from_a_known_origin_may_call(edge: Edge, origin: str) -> None:
    asked = await edge.anonymous.options(ANSWERS, headers=preflight(origin))
    reply = await edge.rest.get("/api/v1/exams", headers={"origin": origin})
    refused = await edge.anonymous.get("/api/v1/exams", headers={"origin": origin})

    assert asked.status_code == 200
    for answer in (asked, reply, refused):
        assert answer.headers["access-control-allow-origin"] == origin
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert exposed == {"grpc-status", "grpc-message", "grpc-status-details-bin", "retry-after", "etag", "x-finalbell-stale"}
    assert set(asked.headers["access-control-allow-methods"].split(", ")) == {"GET", "PUT", "PATCH", "POST", "OPTIONS"}
    assert set(asked.headers["access-control-allow-headers"].split(", ")) == {
        "authorization",
        "content-type",
        "idempotency-key",
        "if-none-match",
        "x-grpc-web",
        "x-user-agent",
        "grpc-timeout",
    }


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost.evil.example", "http://evil.example/localhost", "null"]
)
async def test_a_page_from_an_unknown_origin_may_not_call(edge: Edge, services: Services, origin: str) -> None:
    asked = await edge.anonymous.options(ANSWERS, headers=preflight(origin))
    reply = await edge.rest.get("/api/v1/exams", headers={"origin": origin})

    assert "access-control-allow-origin" not in asked.headers
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    ("url", "headers", "status"),
    [
        ("/api/v1/nope", {}, 404),
        ("/nope", {}, 404),
        ("/api/v1/exams?bogus=1", {}, 400),
        (f"/api/v1/sessions/{ONE}?sessionId={OTHER}", {}, 400),
        ("/api/v1/exams", {"content-type": "text/plain"}, 415),
        ("/api/v1/exams", {"authorization": ""}, 401),
    ],
)
async def test_a_page_can_read_every_refusal(edge: Edge, url: str, headers: dict[str, str], status: int) -> None:
    reply = await edge.rest.get(url, headers={"origin": "http://localhost:3000"} | headers)

    assert refusal(reply)[0] == status
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"


# What is written down


async def test_the_access_log_holds_refusals_and_no_secrets(edge: Edge) -> None:
    token = edge.rest.headers["authorization"].removeprefix("Bearer ")
    await edge.rest.get("/api/v1/exams/logged?access_token=hush")
    await edge.rest.put("/api/v1/sessions/logged/answers", content=b'{"text":"hush"', headers=JSON)

    async with asyncio.timeout(30):
        while (text := edge.access_log.read_text()).count("logged") < 2:
            await asyncio.sleep(0.02)

    lines = [line for line in map(json.loads, text.splitlines()) if "logged" in (line["path"] or "")]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/api/v1/exams/logged", 400),
        ("PUT", "/api/v1/sessions/logged/answers", 400),
    ]
    assert token not in text
    assert "hush" not in text


async def test_few_statistics_are_kept(edge: Edge) -> None:
    async with httpx.AsyncClient(trust_env=False) as operator:
        names = (await operator.get(f"http://{edge.admin}/stats")).text.splitlines()

    assert len(names) < 200
    for wanted in ("http.gateway.downstream_rq_5xx", "cluster.session.upstream_rq_pending_overflow"):
        assert any(name.startswith(wanted) for name in names), wanted

"""What native gRPC and gRPC-web clients send and get."""

import asyncio
from collections.abc import AsyncIterator
from time import time
from typing import Any

import grpc
import pytest
from finalbell.v1 import admin_pb2, admin_pb2_grpc, content_pb2, session_pb2, session_pb2_grpc
from google.protobuf.message import Message
from grpc import StatusCode
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.gateway.harness import Edge, Services, refused, web_message, web_reply
from tests.gateway.test_rest import refusing, replying

WEB = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
GET_SESSION = "/finalbell.v1.SessionService/GetSession"


def sessions(edge: Edge) -> Any:
    return session_pb2_grpc.SessionServiceStub(edge.channel)


async def test_a_native_call_passes_untouched(edge: Edge, services: Services) -> None:
    response = session_pb2.StartSessionResponse(session=session_pb2.Session(session_id="s"))
    services.replies["StartSession"] = replying(response, ("fb-http-status", "201"), ("etag", '"v1"'))

    call = sessions(edge).StartSession(session_pb2.StartSessionRequest(exam_id="e1"), metadata=edge.metadata)

    assert await call == response
    assert dict(await call.initial_metadata())["fb-http-status"] == "201"
    assert services.seen[-1].request.exam_id == "e1"


async def test_a_native_refusal_passes_with_its_details(edge: Edge, services: Services) -> None:
    services.replies["GetSession"] = refusing(trailing=(("retry-after", "7"),))

    call = sessions(edge).GetSession(session_pb2.GetSessionRequest(), metadata=edge.metadata)

    assert await refused(call) == (StatusCode.FAILED_PRECONDITION, "SESSION_ENDED")
    assert dict(await call.trailing_metadata())["retry-after"] == "7"


async def test_an_unknown_service_is_not_found(edge: Edge, services: Services) -> None:
    for path in ("/finalbell.v1.NopeService/Get", "/finalbell.v1.SessionServiceX/Get", "/api/v1/exams"):
        call = edge.channel.unary_unary(path)(b"", metadata=edge.metadata)
        assert await refused(call) == (StatusCode.NOT_FOUND, "ROUTE_NOT_FOUND"), path

    call = edge.channel.unary_unary("/finalbell.v1.SessionService/Nope")(b"", metadata=edge.metadata)
    assert await refused(call) == (StatusCode.UNIMPLEMENTED, "")
    assert services.seen == []


async def test_a_message_of_more_than_64_kib_is_resource_exhausted(edge: Edge, services: Services) -> None:
    request = session_pb2.SaveAnswerRequest(text="x" * 66_000)

    call = sessions(edge).SaveAnswer(request, metadata=edge.metadata)

    assert await refused(call) == (StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
    assert services.seen == []


async def test_the_session_service_gets_no_compressed_message(edge: Edge, services: Services) -> None:
    request = session_pb2.SaveAnswerRequest(text="x" * 1_000)

    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        call = sessions(edge).SaveAnswer(request, metadata=edge.metadata, compression=compression)
        assert await refused(call) == (StatusCode.UNIMPLEMENTED, "UNSUPPORTED_ENCODING")
    assert services.seen == []


async def test_a_service_that_is_away_is_unavailable(lonely_edge: Edge) -> None:
    call = sessions(lonely_edge).GetSession(session_pb2.GetSessionRequest(), metadata=lonely_edge.metadata)

    assert await refused(call) == (StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")


async def test_a_native_deadline_reaches_the_service(edge: Edge, services: Services) -> None:
    left: list[float] = []

    async def reply(request: Message, context: Any) -> Message:
        left.append(context.time_remaining())
        return session_pb2.GetSessionResponse()

    services.replies["GetSession"] = reply
    for timeout in (2, None):
        await sessions(edge).GetSession(session_pb2.GetSessionRequest(), metadata=edge.metadata, timeout=timeout)

    assert 1 < left[0] < 2.1
    assert 14 < left[1] < 15.1


async def test_an_import_streams_past_the_limit_for_unary_calls(edge: Edge, services: Services) -> None:
    async def chunks() -> AsyncIterator[admin_pb2.ImportExamRequest]:
        for _ in range(8):
            yield admin_pb2.ImportExamRequest(chunk=b"x" * 1024 * 1024)

    admin = admin_pb2_grpc.ExamAdminServiceStub(edge.channel)
    await admin.ImportExam(chunks(), metadata=edge.metadata)

    assert sum(len(request.chunk) for request in services.seen[-1].request) == 8 * 1024 * 1024
    assert services.seen[-1].upstream == "admin"


async def test_reflection_works_as_a_dialogue(edge: Edge) -> None:
    call = reflection_pb2_grpc.ServerReflectionStub(edge.channel).ServerReflectionInfo(metadata=edge.metadata)

    async with asyncio.timeout(30):
        for _ in range(2):  # an answer before the stream's end: nothing waits for the whole of it
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            answer = await call.read()
            assert "finalbell.v1.ContentService" in str(answer)
    call.cancel()


async def test_a_grpc_web_call_passes_and_keeps_its_status(edge: Edge, services: Services) -> None:
    response = session_pb2.StartSessionResponse(session=session_pb2.Session(session_id="s"))
    services.replies["StartSession"] = replying(response, ("fb-http-status", "201"))
    request = web_message(session_pb2.StartSessionRequest(exam_id="e1"))

    reply = await edge.rest.post("/finalbell.v1.SessionService/StartSession", content=request, headers=WEB)

    messages, trailers = web_reply(reply)
    assert [session_pb2.StartSessionResponse.FromString(message) for message in messages] == [response]
    assert trailers["grpc-status"] == "0"
    assert services.seen[-1].request.exam_id == "e1"


async def test_a_grpc_web_refusal_passes_with_its_details(edge: Edge, services: Services) -> None:
    services.replies["GetSession"] = refusing(trailing=(("retry-after", "7"),))

    reply = await edge.rest.post(GET_SESSION, content=web_message(session_pb2.GetSessionRequest()), headers=WEB)

    messages, trailers = web_reply(reply)
    assert messages == []
    assert (trailers["grpc-status"], trailers["grpc-message"]) == ("9", "Time is over.")
    assert trailers["grpc-status-details-bin"]
    assert trailers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("what", "status"),
    [("no token", "16"), ("expired", "16"), ("too large", "8"), ("unknown service", "5"), ("compressed", "12")],
)
async def test_the_gateways_own_refusals_reach_a_grpc_web_client(edge: Edge, services: Services, what: str, status: str) -> None:
    headers, body, path = WEB | {"origin": "http://localhost:3000"}, web_message(content_pb2.ListExamsRequest()), GET_SESSION
    match what:
        case "no token":
            headers |= {"authorization": ""}
        case "expired":
            headers |= {"authorization": "Bearer " + edge.tokens.sign(exp=int(time()) - 90)}
        case "too large":
            body = b"x" * 70_000
        case "unknown service":
            path = "/finalbell.v1.NopeService/Get"
        case "compressed":
            headers |= {"grpc-encoding": "gzip"}

    reply = await edge.rest.post(path, content=body, headers=headers)

    messages, trailers = web_reply(reply)
    assert messages == []
    assert trailers["grpc-status"] == status
    assert trailers["grpc-message"]
    assert trailers["grpc-status-details-bin"]
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert services.seen == []

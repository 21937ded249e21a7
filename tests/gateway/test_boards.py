"""Who may see a board, and how it streams to a crowd."""

import asyncio
import socket
import sys
from contextlib import ExitStack
from time import time
from typing import Any

import pytest
from finalbell.v1 import leaderboard_pb2, leaderboard_pb2_grpc
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message
from grpc import StatusCode

from tests.gateway.harness import Edge, Services, refusal, refused, web_message, web_reply
from tests.gateway.test_auth import wrong_tokens
from tests.gateway.test_grpc import WEB

BOARD = "/api/v1/exams/e1/leaderboard"
WATCH = f"{BOARD}:watch"
METHODS = {
    "GetLeaderboard": leaderboard_pb2.GetLeaderboardRequest(exam_id="e1"),
    "WatchLeaderboard": leaderboard_pb2.WatchLeaderboardRequest(exam_id="e1"),
    "StreamLeaderboard": leaderboard_pb2.StreamLeaderboardRequest(exam_id="e1"),
}


def calls(edge: Edge, metadata: Any = ()) -> dict[str, Any]:
    """Call each method natively; give the awaitable that ends with its reply or refusal."""
    stub = leaderboard_pb2_grpc.LeaderboardServiceStub(edge.channel)
    made = {name: getattr(stub, name)(request, metadata=metadata) for name, request in METHODS.items()}
    return {name: call if name == "GetLeaderboard" else call.read() for name, call in made.items()}


def sending(*chunks: bytes) -> Any:
    """A stream of these chunks that then stays open."""

    async def reply(request: Message, context: Any) -> None:
        for chunk in chunks:
            await context.write(HttpBody(content_type="text/event-stream", data=chunk))
        await asyncio.sleep(60)

    return reply


async def test_a_board_may_be_asked_for_without_a_token(edge: Edge, services: Services) -> None:
    for path in (BOARD, WATCH):
        assert (await edge.anonymous.get(path, params={"top": 5})).status_code == 200
    for call in calls(edge).values():
        await call
    for name, request in METHODS.items():
        path = f"/finalbell.v1.LeaderboardService/{name}"
        assert web_reply(await edge.anonymous.post(path, content=web_message(request), headers=WEB))[1]["grpc-status"] == "0"

    assert sorted(seen.method for seen in services.seen) == sorted(["GetLeaderboard", "StreamLeaderboard", *METHODS, *METHODS])
    assert all(seen.request.exam_id == "e1" for seen in services.seen)
    assert not any("authorization" in seen.metadata for seen in services.seen)


async def test_a_token_for_a_board_is_checked_where_there_is_one(edge: Edge, services: Services) -> None:
    wrong = {what: header for what, header in wrong_tokens(edge).items() if header is not None}
    for what, header in wrong.items():
        for path in (BOARD, WATCH):
            assert refusal(await edge.anonymous.get(path, headers={"authorization": header})) == (401, 16, "TOKEN_INVALID"), what
    for call in calls(edge, (("authorization", "Bearer garbage"),)).values():
        assert await refused(call) == (StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")

    assert services.seen == []


async def test_an_expired_token_opens_no_board(edge: Edge, services: Services) -> None:
    header = "Bearer " + edge.tokens.sign(exp=int(time()) - 90)

    for path in (BOARD, WATCH):
        assert refusal(await edge.anonymous.get(path, headers={"authorization": header})) == (401, 16, "TOKEN_EXPIRED")
    for call in calls(edge, (("authorization", header),)).values():
        assert await refused(call) == (StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED")

    assert services.seen == []


async def test_a_right_token_reaches_the_board(edge: Edge, services: Services) -> None:
    assert (await edge.rest.get(WATCH)).status_code == 200
    for call in calls(edge, edge.metadata).values():
        await call

    assert [seen.metadata["authorization"] for seen in services.seen] == [edge.rest.headers["authorization"]] * 4


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("POST", BOARD),
        ("HEAD", BOARD),
        ("GET", f"{BOARD}/x"),
        ("GET", f"{BOARD}:rebuild"),
        ("GET", "/api/v1/exams/e1/x/leaderboard"),
        ("GET", "/api/v1/admin/exams/e1/leaderboard:watch"),
        ("GET", "/api/v1/exams/e1/statistics"),
    ],
)
async def test_what_is_only_like_a_board_needs_a_token(edge: Edge, services: Services, verb: str, path: str) -> None:
    reply = await edge.anonymous.request(verb, path)

    assert reply.status_code == 401
    assert services.seen == []


async def test_events_pass_one_by_one_and_as_the_service_wrote_them(edge: Edge, services: Services) -> None:
    chunks = [b"retry: 1500\n\n", 'id: 1\nevent: board\ndata: {"entries":[{"alias":"Zoë"}]}\n\n'.encode(), b": \n\n"]
    services.replies["StreamLeaderboard"] = sending(*chunks)
    headers = {"origin": "http://localhost:3000"}

    async with asyncio.timeout(30), edge.anonymous.stream("GET", WATCH, params={"top": 3}, headers=headers) as reply:
        received = b""
        async for part in reply.aiter_raw():
            received += part
            if len(received) >= sum(map(len, chunks)):
                break

    assert received == b"".join(chunks)
    assert services.seen[-1].request.top == 3
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "content-length" not in reply.headers


async def test_a_page_reads_why_a_board_is_refused_before_its_stream_begins(edge: Edge, services: Services) -> None:
    async def reply(request: Message, context: Any) -> None:
        await context.abort(StatusCode.NOT_FOUND, "There is no such exam.")

    services.replies["StreamLeaderboard"] = reply

    answer = await edge.anonymous.get(WATCH)

    assert (answer.status_code, answer.json()["code"]) == (404, 5)


async def test_a_watcher_who_leaves_is_gone_for_the_service_too(edge: Edge, services: Services) -> None:
    ended = asyncio.Event()

    async def reply(request: Message, context: Any) -> None:
        context.add_done_callback(lambda _: ended.set())
        await sending(b": \n\n")(request, context)

    services.replies["StreamLeaderboard"] = reply
    async with edge.anonymous.stream("GET", WATCH) as stream:
        await anext(stream.aiter_raw())

    async with asyncio.timeout(30):
        await ended.wait()


class Flood:
    """Boards that send as much as is taken; of the ones named here it counts how much that was."""

    def __init__(self, *exams: str) -> None:
        self.taken = dict.fromkeys(exams, 0)

    async def reply(self, request: Any, context: Any) -> None:
        chunk = b": " + b"x" * 16_000 + b"\n\n"
        while True:
            await context.write(HttpBody(content_type="text/event-stream", data=chunk))
            if request.exam_id in self.taken:
                self.taken[request.exam_id] += len(chunk)
            else:
                await asyncio.sleep(0.02)

    async def stopped(self) -> None:
        """Wait until none of the named takes any more."""
        before: list[int] = []
        async with asyncio.timeout(30):
            while before != (before := list(self.taken.values())) or not all(before):
                await asyncio.sleep(0.5)


async def test_watchers_who_read_nothing_hold_up_nobody(edge: Edge, services: Services) -> None:
    """All of them share one connection to the service; each has received as much as it could hold before the last one comes."""
    flood = Flood(*(f"stalled{number}" for number in range(40)))
    services.replies["StreamLeaderboard"] = flood.reply
    with ExitStack() as readers:
        for exam in flood.taken:
            readers.enter_context(_reads_nothing(edge, exam))
        await flood.stopped()

        size = 0
        async with asyncio.timeout(30), edge.anonymous.stream("GET", WATCH) as live:
            async for part in live.aiter_raw():
                size += len(part)
                if size > 50 * 16_000:
                    break

    assert size > 50 * 16_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told how little to hold")
async def test_a_watcher_who_reads_nothing_is_not_kept_a_pile_of_old_frames(edge: Edge, services: Services) -> None:
    flood = Flood("stalled")
    services.replies["StreamLeaderboard"] = flood.reply

    with _reads_nothing(edge, "stalled"):
        await flood.stopped()

    assert flood.taken["stalled"] < 512 * 1024


def _reads_nothing(edge: Edge, exam: str) -> socket.socket:
    """Ask for a board and leave all that comes where it is."""
    host, port = edge.address.split(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect((host, int(port)))
    reader.sendall(f"GET /api/v1/exams/{exam}/leaderboard:watch HTTP/1.1\r\nhost: finalbell\r\n\r\n".encode())
    return reader

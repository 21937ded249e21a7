"""The door for REST past the transcoder: what happens to its socket, and to requests that come in a crowd or go away."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finalbell.v1 import session_pb2

from servers.engine import Answer, Metadata, Reading
from servers.serving.rest import RestFront, RestMethod

ECHO = RestMethod(
    path="/finalbell.test/Echo",
    verb=b"PUT",
    url=re.compile(rb"/echo/([a-z]+)"),
    read=lambda part, body: (session_pb2.SaveAnswerRequest(question_id=part, text=body.decode()), False),
    write=lambda message: json.dumps({"said": session_pb2.SaveAnswerRequest.FromString(message).text}).encode(),
)


class Desk:
    """What answers, and what it has seen."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = self.answered = 0

    async def answer(self, body: Reading, metadata: Metadata, seconds: float | None, arrived: float | None = None) -> Answer:
        self.running += 1
        try:
            await self.gate.wait()
            self.answered += 1
            return Answer(body()[0].SerializeToString())
        finally:
            self.running -= 1


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.fixture
async def front(desk: Desk, tmp_path: Path) -> AsyncIterator[tuple[RestFront, Path]]:
    front, path = RestFront([(ECHO, desk.answer)], lambda: True), tmp_path / "sock"
    await front.listen(f"unix:{path}")
    yield front, path
    await front.stop(0)


async def ask(path: Path, body: bytes = b"hello", url: str = "/echo/q") -> tuple[int, Any]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"PUT %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (url.encode(), len(body), body))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    found = json.loads(await reader.readexactly(int(length[1])))
    writer.close()
    return int(head.split()[1]), found


async def test_a_crowd_of_requests_gets_each_its_own_answer(front: tuple[RestFront, Path]) -> None:
    answers = await asyncio.gather(*(ask(front[1], b"number %d" % number) for number in range(200)))

    assert answers == [(200, {"said": f"number {number}"}) for number in range(200)]


async def test_an_unknown_path_is_not_found(front: tuple[RestFront, Path]) -> None:
    assert (await ask(front[1], url="/nothing"))[0] == 404


async def test_a_request_whose_caller_has_gone_is_ended(desk: Desk, front: tuple[RestFront, Path]) -> None:
    desk.gate.clear()
    _, writer = await asyncio.open_unix_connection(front[1])
    writer.write(b"PUT /echo/q HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
    while desk.running == 0:
        await asyncio.sleep(0.01)

    writer.close()
    await writer.wait_closed()

    async with asyncio.timeout(30):
        while desk.running:
            await asyncio.sleep(0.01)


async def test_a_request_that_stands_is_carried_out_though_its_caller_has_gone_at_once(desk: Desk, tmp_path: Path) -> None:
    front, path = RestFront([(replace(ECHO, stands=True), desk.answer)], lambda: True), tmp_path / "sock"
    await front.listen(f"unix:{path}")
    for _ in range(20):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(b"PUT /echo/q HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with asyncio.timeout(30):
        while desk.answered < 20:
            await asyncio.sleep(0.01)
    await front.stop(0)


async def test_a_request_that_runs_at_the_end_gets_its_answer(desk: Desk, front: tuple[RestFront, Path]) -> None:
    desk.gate.clear()
    asking = asyncio.ensure_future(ask(front[1]))
    while desk.running == 0:
        await asyncio.sleep(0.01)

    ending = asyncio.ensure_future(front[0].stop(5))
    await asyncio.sleep(0.05)
    desk.gate.set()

    assert await asking == (200, {"said": "hello"})
    await ending


async def test_a_socket_that_a_killed_worker_left_is_taken_over(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "left"
    left = await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, str(path))
    left.close()
    await left.wait_closed()
    if not path.exists():
        path.touch()

    front = RestFront([(ECHO, desk.answer)], lambda: True)
    await front.listen(f"unix:{path}")

    assert await ask(path) == (200, {"said": "hello"})
    await front.stop(0)


async def test_a_socket_of_a_worker_that_lives_is_left_to_it(desk: Desk, front: tuple[RestFront, Path]) -> None:
    second = RestFront([(ECHO, desk.answer)], lambda: True)
    await second.listen(f"unix:{front[1]}")
    await second.stop(0)

    assert await ask(front[1]) == (200, {"said": "hello"})

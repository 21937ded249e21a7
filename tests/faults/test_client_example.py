"""The client in docs/clients.md does what the page says, on the worst of networks."""

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from finalbell.v1 import session_pb2
from finalbell.v1.session_pb2_grpc import SessionServiceStub
from redis.asyncio import Redis

from tests.faults.harm import all_written, fetch
from tests.faults.hops import Hop, toxiproxy
from tests.flows.sitting import Student, answers, good
from tests.stack import Stack, bearer, eventually, fresh

PAGE = (Path(__file__).parent.parent.parent / "docs" / "clients.md").read_text()


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The names that the page's Python defines."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(code, "docs/clients.md", "exec"), found)
    return found


@pytest.fixture
async def hop(stack: Stack) -> AsyncIterator[Hop]:
    async with toxiproxy() as hops:
        yield hops.to(stack.gateway.removeprefix("http://"))


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    await stack.import_exam(small_exam, exam_id)
    return exam_id


async def test_over_a_lossy_hop_every_change_is_saved_once_and_scored(
    stack: Stack, hop: Hop, exam: str, example: dict[str, Any]
) -> None:
    name, stop = fresh("s"), asyncio.Event()

    async def break_it() -> None:
        while not stop.is_set():
            await asyncio.to_thread(hop.reset)
            await asyncio.sleep(0.3)

    def sit() -> str:
        with grpc.insecure_channel(f"127.0.0.1:{hop.port}", [("grpc.max_reconnect_backoff_ms", 200)]) as channel:
            sitting = example["Sitting"](channel, stack.token(name), exam)
            for number in range(40):
                sitting.save("q1", choice="ABC"[number % 3])
            sitting.save("q1", choice="B")
            sitting.save("q3", number="3.5")
            assert 590 < sitting.seconds_left() <= 600
            sitting.submit()
            return str(sitting.id)

    breaking = asyncio.ensure_future(break_it())
    try:
        session = await asyncio.to_thread(sit)
    finally:
        stop.set()
        await breaking
    async with Student(stack, name) as student:
        result = await student.outcome(session)

    assert result["score"] == 6
    assert len(await fetch(stack, "SELECT 1 FROM exam_session WHERE student_id = $1", name)) == 1


async def test_after_a_wipe_it_sends_again_what_the_server_lost(stack: Stack, exam: str, example: dict[str, Any]) -> None:
    name, target = fresh("s"), stack.gateway.removeprefix("http://")
    with grpc.insecure_channel(target) as channel:
        sitting = await asyncio.to_thread(example["Sitting"], channel, stack.token(name), exam)
        await asyncio.to_thread(lambda: sitting.save("q1", choice="B"))
        await all_written(stack)
        async with Redis.from_url(stack.read()["redis"]) as redis:
            # one save that no snapshot has seen: it goes with the wipe
            await asyncio.to_thread(lambda: sitting.save("q3", number="3.5"))
            await redis.flushall()
        await asyncio.to_thread(lambda: sitting.save("q4", text="Ankara"))
    async with Student(stack, name) as student:
        seen = answers(good(await student.read(sitting.id)))

    assert seen == {"q1": ("choice", "B"), "q3": ("number", "3.5"), "q4": ("text", "Ankara")}
    assert sitting.epoch == 1


async def test_the_service_config_repeats_a_save_with_its_key(stack: Stack, hop: Hop, exam: str) -> None:
    config = next(block for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL) if "methodConfig" in block)
    options = [("grpc.service_config", json.dumps(json.loads(config))), ("grpc.max_reconnect_backoff_ms", 200)]
    metadata = bearer(stack.token(fresh("s")), uuid.uuid4().hex)
    with grpc.insecure_channel(f"127.0.0.1:{hop.port}", options) as channel:
        stub = SessionServiceStub(channel)
        session = stub.StartSession(session_pb2.StartSessionRequest(exam_id=exam), metadata=metadata).session.session_id
        request = session_pb2.SaveAnswerRequest(session_id=session, question_id="q1", choice="B")
        hop.off()
        calling = asyncio.ensure_future(
            asyncio.to_thread(stub.SaveAnswer, request, metadata=bearer(metadata[0][1][7:], "a-key-of-mine"))
        )
        await asyncio.sleep(0.3)
        began, waiting = time.monotonic(), not calling.done()
        hop.on()
        reply = await calling

    assert waiting
    assert reply.saved
    assert time.monotonic() - began < 15  # who does not repeat it waits for its deadline


async def test_without_it_a_save_over_a_broken_hop_is_refused(stack: Stack, hop: Hop, exam: str) -> None:
    hop.off()
    with grpc.insecure_channel(f"127.0.0.1:{hop.port}") as channel:
        request = session_pb2.StartSessionRequest(exam_id=exam)

        async def refused() -> bool:
            try:
                await asyncio.to_thread(
                    SessionServiceStub(channel).StartSession, request, metadata=bearer(stack.token()), timeout=2
                )
            except grpc.RpcError as error:
                return bool(error.code() == grpc.StatusCode.UNAVAILABLE)
            return False

        assert await eventually(refused)

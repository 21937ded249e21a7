"""Hops that hang, break or are slow: a repeat with the same key finds out what happened, and nothing happens twice."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import grpc.aio
import pytest
from finalbell.v1 import scoring_pb2, session_pb2
from google.protobuf.message import Message

from tests.faults.harm import another, configuration, fetch, in_redis
from tests.faults.hops import Hop, Hops, Way, toxiproxy
from tests.flows.transports import Native, Reply
from tests.stack import Stack, eventually, fresh

AFTER_A_CUT = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


@dataclass(frozen=True, slots=True)
class Place:
    """A session service of one's own behind hops, and a student who calls it past the gateway, over a hop too."""

    stack: Stack
    client: Hop
    redis: Hop
    postgres: Hop
    nats: Hop
    student: str
    exam: str

    async def call(self, request: Message, key: str, seconds: float = 4, cut: tuple[Hop, Way] | None = None) -> Reply:
        """Call on a connection of its own, as an app does after a broken one; a hop is cut when the connection stands."""
        method = type(request).__name__.removesuffix("Request")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.client.port}") as channel:
            way = Native(channel, self.stack.token(self.student))
            try:
                async with asyncio.timeout(seconds):
                    await channel.channel_ready()
                    with cut[0].cut(cut[1]) if cut else nullcontext():
                        return await way.call(method, request, key=key)
            except TimeoutError:
                return Reply("DEADLINE_EXCEEDED", None, None, 0, b"")

    async def again(self, request: Message, key: str) -> Any:
        """Repeat until it is answered well, as docs/clients.md says, and return the reply."""

        async def answered() -> Any:
            reply = await self.call(request, key)
            assert reply.code in {"OK", *AFTER_A_CUT}, reply
            return reply.message if reply.code == "OK" else None

        return await eventually(answered, 40)

    async def start(self) -> str:
        """Start a session."""
        reply = await self.again(session_pb2.StartSessionRequest(exam_id=self.exam), uuid.uuid4().hex)
        return str(reply.session.session_id)

    async def result(self, session: str) -> scoring_pb2.Result:
        """Wait for the result, through the gateway."""
        async with self.stack.channel() as channel:
            way = Native(channel, self.stack.token(self.student))

            async def scored() -> scoring_pb2.Result | None:
                reply = await way.call("GetResult", scoring_pb2.GetResultRequest(session_id=session))
                return reply.ok.result if reply.code == "OK" and reply.ok.result.status == scoring_pb2.Result.SCORED else None

            found: scoring_pb2.Result = await eventually(scored, 40)
            return found


@pytest.fixture(scope="module")
async def hops() -> AsyncIterator[Hops]:
    async with toxiproxy() as hops:
        yield hops


@pytest.fixture
async def place(stack: Stack, hops: Hops, small_exam: dict[str, Any], exam_id: str) -> AsyncIterator[Place]:
    await stack.import_exam(small_exam, exam_id)
    async with AsyncExitStack() as held:
        configured = _settings(stack)
        between = {name: hops.to(f"{urlsplit(url).hostname}:{urlsplit(url).port}") for name, url in configured.items()}
        urls = {name: hop.url(configured[name]) for name, hop in between.items()}
        address, _ = held.enter_context(another(stack, "session", **urls))
        client = hops.to(address)
        found = Place(stack, client, between["REDIS"], between["POSTGRES"], between["NATS"], fresh("s"), exam_id)
        await found.start()
        yield found


def _settings(stack: Stack) -> dict[str, str]:
    """The addresses that the supervised session service has, with its own accounts."""
    environment = configuration(stack, "session")
    return {name: environment[f"FINALBELL_{name}"] for name in ("REDIS", "POSTGRES", "NATS")}


def save_of(session: str, choice: str = "B") -> session_pb2.SaveAnswerRequest:
    return session_pb2.SaveAnswerRequest(session_id=session, question_id="q1", choice=choice)


WAYS: tuple[Way, ...] = ("upstream", "downstream")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hop", ["client", "redis"])
async def test_a_save_over_a_hop_that_is_cut_happens_once_however_often_it_is_repeated(place: Place, hop: str, way: Way) -> None:
    session, key = await place.start(), uuid.uuid4().hex
    read = session_pb2.GetSessionRequest(session_id=session)
    await asyncio.gather(*(place.again(read, "") for _ in range(4)))  # so that more than one connection to Redis stands already
    first = await place.call(save_of(session), key, cut=(getattr(place, hop), way))
    getattr(place, hop).reset()
    reached = "a:q1" in await in_redis(place.stack, session)

    repeated = [await place.again(save_of(session), key) for _ in range(2)]
    other = await place.again(save_of(session, "C"), uuid.uuid4().hex)

    assert first.code in AFTER_A_CUT
    assert reached == (way == "downstream")
    assert first.code == "DEADLINE_EXCEEDED" or (first.reason and first.retry_ms > 0)
    assert repeated[0] == repeated[1]
    assert (repeated[0].version, other.version) == (1, 2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hop", ["client", "redis", "nats", "postgres"])
async def test_a_submit_over_a_hop_that_is_cut_has_one_outcome(place: Place, hop: str, way: Way) -> None:
    session = await place.start()
    await place.again(save_of(session), uuid.uuid4().hex)
    request = session_pb2.SubmitSessionRequest(session_id=session)
    first = await place.call(request, "the-first-key", cut=(getattr(place, hop), way))
    getattr(place, hop).reset()

    same, other = await place.again(request, "the-first-key"), await place.again(request, "another-key")
    result = await place.result(session)

    assert (first.code == "OK") == (hop in ("nats", "postgres")), first  # one store is enough for a promise
    told = [*([first.ok] if first.code == "OK" else []), same, other]
    assert len({(one.submitted_at.ToMilliseconds(), one.answers_sha256) for one in told}) == 1
    assert (result.answers_sha256, result.score) == (same.answers_sha256, 2)
    rows = await fetch(place.stack, "SELECT count(*) FROM result WHERE session_id = $1", uuid.UUID(session))
    assert rows[0][0] == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hop", ["client", "redis", "postgres"])
async def test_a_start_over_a_hop_that_is_cut_makes_one_session(place: Place, hop: str, way: Way) -> None:
    someone = replace(place, student=fresh("s"))
    request, key = session_pb2.StartSessionRequest(exam_id=place.exam), uuid.uuid4().hex
    first = await someone.call(request, key, cut=(getattr(place, hop), way))
    getattr(place, hop).reset()

    started = {(await someone.again(request, key)).session.session_id for _ in range(2)}

    assert first.code in AFTER_A_CUT
    rows = await fetch(place.stack, "SELECT id FROM exam_session WHERE student_id = $1", someone.student)
    assert {str(row["id"]) for row in rows} == started
    assert len(rows) == 1


async def test_saves_go_on_while_postgresql_is_slow_and_its_pool_is_full(place: Place) -> None:
    session = await place.start()
    with place.postgres.slow(500):
        newcomers = [replace(place, student=fresh("s")) for _ in range(60)]
        request = session_pb2.StartSessionRequest(exam_id=place.exam)
        starting = [asyncio.ensure_future(one.call(request, uuid.uuid4().hex, 15)) for one in newcomers]
        saved = []
        for number in range(40):
            saved.append(await place.call(save_of(session, "ABC"[number % 3]), uuid.uuid4().hex))
            await asyncio.sleep(0.02)
        started = await asyncio.gather(*starting)

    assert [reply.ok.version for reply in saved] == list(range(1, 41))
    assert {reply.code for reply in started} <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    refused = [reply for reply in started if reply.code == "UNAVAILABLE"]
    assert all(reply.reason in ("OVERLOADED", "STORE_UNAVAILABLE") and reply.retry_ms > 0 for reply in refused)
    assert (await place.start()) == session


async def test_an_exam_over_a_hop_that_breaks_all_the_time_is_scored_as_it_was_saved(place: Place) -> None:
    session = await place.start()
    stop = asyncio.Event()

    async def break_it() -> None:
        while not stop.is_set():
            place.redis.reset()
            await asyncio.sleep(0.15)
            place.client.reset()
            await asyncio.sleep(0.1)

    breaking = asyncio.ensure_future(break_it())
    versions = [(await place.again(save_of(session, "ABC"[n % 3]), uuid.uuid4().hex)).version for n in range(30)]
    await place.again(save_of(session, "B"), uuid.uuid4().hex)
    stop.set()
    await breaking
    await place.again(session_pb2.SubmitSessionRequest(session_id=session), uuid.uuid4().hex)

    assert versions == list(range(1, 31))
    assert (await place.result(session)).score == 2

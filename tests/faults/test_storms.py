"""Storms of clients: many connections, many starts, many retries; whoever behaves is still served (RELIABILITY F38–F40)."""

import asyncio
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import h2.config
import h2.connection
import httpx
import pytest

from tests.faults.harm import fetch, stopped
from tests.flows.sitting import Student, good, refusal
from tests.stack import PLAIN, Stack, eventually

CONNECTIONS = 2_000
STARTS = 600
CONNECTIONS_OF_A_HERD, HERDS = 100, 10
"""A client looks at all who wait for it whenever one is done, so that one client for all would take ten times the CPU."""

RETRIERS = 20


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    await stack.import_exam(small_exam, exam_id)
    return exam_id


class Saver:
    """A student who saves all the time while a storm goes on, and counts what was refused."""

    def __init__(self, student: Student, session: str) -> None:
        self.student, self.session = student, session
        self.saved = 0
        self.refused: list[int] = []

    async def save(self) -> None:
        reply = await self.student.save(self.session, "q3", number=str(self.saved), clientSeq=self.saved + 1)
        if reply.status_code == 200:
            self.saved += 1
        else:
            self.refused.append(reply.status_code)


@asynccontextmanager
async def saving(stack: Stack, exam: str) -> AsyncIterator[Saver]:
    """Save during this block, one call after the other."""
    async with Student(stack) as student:
        saver = Saver(student, (await student.sit(exam))["sessionId"])
        stop = asyncio.Event()

        async def go_on() -> None:
            while not stop.is_set():
                await saver.save()
                await asyncio.sleep(0.01)

        task = asyncio.create_task(go_on())
        try:
            yield saver
        finally:
            stop.set()
            await task


def gateway(stack: Stack) -> tuple[str, int]:
    at = urlsplit(stack.read()["gateway"])
    return str(at.hostname), int(at.port or 0)


async def test_a_storm_of_connections_that_say_nothing_stops_no_save(stack: Stack, exam: str) -> None:
    async with saving(stack, exam) as saver:
        silent = await asyncio.to_thread(lambda: [socket.create_connection(gateway(stack), 5) for _ in range(CONNECTIONS)])
        before = saver.saved
        await eventually(lambda: _later(saver, before + 20), 60)
        for wire in silent:
            wire.close()

    assert saver.refused == []


async def test_slow_senders_and_rapid_resets_stop_no_save(stack: Stack, exam: str) -> None:
    async with saving(stack, exam) as saver:
        slow = [socket.create_connection(gateway(stack), 5) for _ in range(200)]
        for wire in slow:
            wire.sendall(b"PUT /api/v1/sessions/x/answers HTTP/1.1\r\nHost: x\r\nContent-Le")
        await asyncio.to_thread(reset_rapidly, gateway(stack))
        before = saver.saved
        await eventually(lambda: _later(saver, before + 20), 60)
        for wire in slow:
            wire.close()

    assert saver.refused == []


def reset_rapidly(address: tuple[str, int]) -> None:
    """Open streams and take them back at once, as in CVE-2023-44487, over as many connections as the gateway lets go on."""
    headers = [(":method", "POST"), (":scheme", "http"), (":path", "/finalbell.v1.SessionService/SaveAnswer"), (":authority", "x")]
    for _ in range(10):
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        http.initiate_connection()
        with socket.create_connection(address, 5) as wire:
            try:
                for _ in range(500):
                    stream = http.get_next_available_stream_id()
                    http.send_headers(stream, [*headers, ("content-type", "application/grpc"), ("te", "trailers")])
                    http.reset_stream(stream)
                    wire.sendall(http.data_to_send())
            except OSError:  # the gateway has had enough of this one
                continue


async def test_a_herd_of_starts_gets_one_session_each_and_waits_when_told(stack: Stack, exam: str) -> None:
    tokens = [stack.token(f"herd-{uuid.uuid4().hex[:8]}-{number}") for number in range(STARTS)]

    patience = httpx.Timeout(30, pool=None)  # who waits for one of our own connections has not been kept waiting by anybody
    each = httpx.Limits(max_connections=CONNECTIONS_OF_A_HERD // HERDS)
    async with saving(stack, exam) as saver, AsyncExitStack() as open_ones:
        herds = [
            await open_ones.enter_async_context(
                httpx.AsyncClient(base_url=stack.gateway, timeout=patience, limits=each, verify=PLAIN, trust_env=False)
            )
            for _ in range(HERDS)
        ]

        async def start(herd: httpx.AsyncClient, token: str) -> str:
            key = uuid.uuid4().hex
            while True:
                headers = {"authorization": f"Bearer {token}", "idempotency-key": key}
                reply = await herd.post(f"/api/v1/exams/{exam}/sessions", json={}, headers=headers)
                if reply.status_code in (200, 201):
                    return str(reply.json()["sessionId"])
                assert reply.status_code in (429, 503), reply.text
                assert int(reply.headers["retry-after"]) >= 1
                await asyncio.sleep(float(reply.headers["retry-after"]))

        sessions = await asyncio.gather(*(start(herds[at % HERDS], token) for at, token in enumerate(tokens)))

    rows = await fetch(stack, "SELECT count(*), count(DISTINCT student_id) FROM exam_session WHERE exam_id = $1", exam)
    assert len(set(sessions)) == STARTS
    assert tuple(rows[0]) == (STARTS + 1, STARTS + 1)
    assert set(saver.refused) <= {503}


async def test_clients_that_retry_while_the_backend_is_away_are_not_multiplied(stack: Stack, exam: str) -> None:
    async with AsyncExitStack() as desks:
        students = [await desks.enter_async_context(Student(stack)) for _ in range(RETRIERS)]
        sessions = [(await student.sit(exam))["sessionId"] for student in students]
        upstream_before, offered, served = await upstream_calls(stack), 0, 0
        with stopped(stack, "session"):
            until = time.monotonic() + 6
            while time.monotonic() < until:
                calls = [
                    student.save(session, "q3", number="1", clientSeq=1)
                    for student, session in zip(students, sessions, strict=True)
                ]
                replies = await asyncio.gather(*calls, return_exceptions=True)
                offered += len(calls)
                served += sum(isinstance(reply, httpx.Response) and reply.status_code == 200 for reply in replies)
                await asyncio.sleep(0.5)
        attempts = await upstream_calls(stack) - upstream_before

        async def back() -> bool:
            reply = await students[0].save(sessions[0], "q3", number="2", clientSeq=2)
            return reply.status_code == 200

        assert await eventually(back, 60)

    assert served < offered
    assert attempts <= 1.2 * offered


async def test_a_refusal_for_want_of_room_says_when_to_come_back(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = good(await student.start(exam), 201)["sessionId"]
        with stopped(stack, "session"):
            replies = await asyncio.gather(*(student.read(session) for _ in range(3)))

        for reply in replies:
            assert reply.status_code in (503, 504)
            assert refusal(reply)[1] in ("UPSTREAM_UNAVAILABLE", "OVERLOADED", "DEADLINE_EXCEEDED")
            assert reply.status_code == 504 or int(reply.headers["retry-after"]) >= 1

        async def back() -> bool:
            return (await student.read(session)).status_code == 200

        assert await eventually(back, 60)


async def _later(saver: Saver, count: int) -> bool:
    return saver.saved >= count


async def upstream_calls(stack: Stack) -> int:
    """How many calls Envoy has sent, or tried to send, to the session service, repeats of its own among them."""
    async with httpx.AsyncClient(trust_env=False, verify=PLAIN) as http:
        page = (await http.get(f"{stack.read()['envoy_admin']}/stats", params={"filter": r"^cluster\.(session|saves)\."})).text
    counts = dict(line.split(": ", 1) for line in page.splitlines() if ": " in line)
    return sum(
        int(counts.get(f"cluster.{cluster}.{name}", 0))
        for cluster in ("session", "saves")
        for name in ("upstream_rq_2xx", "upstream_rq_4xx", "upstream_rq_5xx", "upstream_rq_retry")
    )

"""Clocks that are wrong: the client's never counts, and a service's neither."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import grpc.aio
import pytest
from finalbell.v1 import session_pb2

from tests.faults.harm import another, wrong_clock
from tests.flows.sitting import Student, good
from tests.flows.transports import Native
from tests.stack import Stack, fresh

HOUR = 3600


@asynccontextmanager
async def a_service_whose_clock_is_off(stack: Stack, seconds: int, token: str) -> AsyncIterator[Native]:
    variables = wrong_clock(FAKETIME=f"{seconds:+d}s")
    with another(stack, "session", variables) as (address, _):
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
            yield Native(channel, token)


@pytest.mark.parametrize("off", [-HOUR, HOUR])
async def test_a_service_whose_clock_is_off_by_an_hour_gives_and_takes_no_time(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, off: int
) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=600)
    name = fresh("s")
    async with a_service_whose_clock_is_off(stack, off, stack.token(name)) as service, Student(stack, name) as student:
        started = (await service.call("StartSession", session_pb2.StartSessionRequest(exam_id=exam_id))).ok.session
        request = session_pb2.SaveAnswerRequest(session_id=started.session_id, question_id="q1", choice="B")
        request.client_ts.FromMilliseconds(round((time.time() - 24 * HOUR) * 1000))
        saved = (await service.call("SaveAnswer", request, key=uuid.uuid4().hex)).ok
        seen = good(await student.read(started.session_id))

    now = time.time()
    assert abs(started.started_at.ToSeconds() - now) < 60
    assert started.ends_at.ToSeconds() - started.started_at.ToSeconds() == 600
    assert abs(saved.saved_at.ToSeconds() - now) < 60
    assert abs(started.server_time.ToSeconds() - now) < 60
    assert datetime.fromisoformat(seen["endsAt"]).timestamp() == pytest.approx(started.ends_at.ToMilliseconds() / 1000)


async def test_a_service_whose_clock_is_an_hour_slow_accepts_nothing_after_the_bell(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=2)
    name = fresh("s")
    async with a_service_whose_clock_is_off(stack, -HOUR, stack.token(name)) as service:
        started = (await service.call("StartSession", session_pb2.StartSessionRequest(exam_id=exam_id))).ok.session
        await asyncio.sleep(2.2)
        request = session_pb2.SaveAnswerRequest(session_id=started.session_id, question_id="q1", choice="B")
        late = await service.call("SaveAnswer", request, key=uuid.uuid4().hex)

    assert (late.code, late.reason) in (("FAILED_PRECONDITION", "SESSION_ENDED"), ("FAILED_PRECONDITION", "SESSION_SUBMITTED"))

"""One student who calls too often is told to slow down, and nobody else notices."""

import asyncio

import pytest
from finalbell.v1 import session_pb2

from tests.flows.sitting import Student, detail, refusal
from tests.flows.transports import Native
from tests.stack import Stack, fresh

FLOOD = 1200
NOBODY = "01999999-0000-7000-8000-000000000000"


async def test_a_flood_is_refused_with_when_to_come_back_and_others_are_served(stack: Stack) -> None:
    async with Student(stack) as floods, Student(stack) as other:
        replies = await asyncio.gather(*(floods.save("no-session", "q1", choice="A") for _ in range(FLOOD)))
        by_other = await other.save("no-session", "q1", choice="A")
        await asyncio.sleep(1)
        later = await floods.save("no-session", "q1", choice="A")

    limited = [reply for reply in replies if reply.status_code == 429]
    assert {refusal(reply) for reply in replies} == {(400, "INVALID_FIELD"), (429, "RATE_LIMITED")}
    assert len(limited) <= FLOOD - 500
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in limited)
    assert all(detail(reply, "RetryInfo")["retryDelay"] for reply in limited)
    assert [reply.status_code for reply in (by_other, later)] == [400, 400]


@pytest.mark.parametrize("role", ["admin", "proctor"])
async def test_staff_may_ask_as_often_as_they_need(stack: Stack, role: str) -> None:
    async with stack.channel("session") as channel:
        caller = Native(channel, stack.token(fresh("s"), roles=[role]))
        request = session_pb2.ExplainDeadlineRequest(session_id=NOBODY)
        replies = [await caller.call("ExplainDeadline", request) for _ in range(600)]

    assert {reply.reason for reply in replies} == {"SESSION_NOT_FOUND"}

"""One student who calls too often is told to slow down, and nobody else notices."""

import asyncio
from typing import Any

import pytest
from finalbell.v1 import session_pb2
from finalbell.v1.leaderboard_pb2 import GetLeaderboardRequest
from finalbell.v1.leaderboard_pb2_grpc import LeaderboardServiceStub

from tests.flows.sitting import Student, detail, refusal
from tests.flows.transports import Native, Reply
from tests.stack import Stack, fresh

AT_ONCE = 50
BURST = 500
NOBODY = "01999999-0000-7000-8000-000000000000"
QUESTION = session_pb2.ExplainDeadlineRequest(session_id=NOBODY)


async def test_a_flood_is_refused_with_when_to_come_back_and_others_are_served(stack: Stack) -> None:
    reasons: list[str] = []
    async with stack.channel("session") as channel, Student(stack) as floods, Student(stack) as other:
        caller, over = Native(channel, floods.token), asyncio.Event()

        async def flood() -> None:
            while not over.is_set():
                replies = await asyncio.gather(*(caller.call("ExplainDeadline", QUESTION) for _ in range(AT_ONCE)))
                reasons.extend(reply.reason for reply in replies)

        flooding = asyncio.create_task(flood())
        async with asyncio.timeout(30):
            while (limited := await floods.deadline(NOBODY)).status_code != 429:
                pass
        by_other = await other.deadline(NOBODY)
        over.set()
        await flooding
        await asyncio.sleep(1)
        later = await floods.deadline(NOBODY)

    assert set(reasons) == {"SESSION_NOT_FOUND", "RATE_LIMITED"}
    assert reasons.count("SESSION_NOT_FOUND") >= BURST // 2
    assert refusal(limited) == (429, "RATE_LIMITED")
    assert int(limited.headers["retry-after"]) >= 1
    assert detail(limited, "RetryInfo")["retryDelay"]
    assert refusal(by_other) == refusal(later) == (404, "SESSION_NOT_FOUND")


async def test_a_role_that_nobody_here_knows_lifts_no_limit(stack: Stack) -> None:
    async with stack.channel("session") as channel:
        caller = Native(channel, stack.token(fresh("s"), roles=["student"]))
        replies = await asyncio.gather(*(caller.call("ExplainDeadline", QUESTION) for _ in range(2 * BURST)))

    assert "RATE_LIMITED" in {reply.reason for reply in replies}


async def test_strangers_share_no_limit_by_which_one_could_lock_out_the_others(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, board__public=True)
    async with stack.channel("leaderboard") as channel:
        ask, request = LeaderboardServiceStub(channel).GetLeaderboard, GetLeaderboardRequest(exam_id=exam_id, top=1)
        boards = await asyncio.gather(*(ask(request) for _ in range(2 * BURST)))

    assert len(boards) == 2 * BURST


@pytest.mark.parametrize("role", ["admin", "proctor"])
async def test_staff_may_ask_as_often_as_they_need(stack: Stack, role: str) -> None:
    async with stack.channel("session") as channel:
        caller, replies = Native(channel, stack.token(fresh("s"), roles=[role])), list[Reply]()
        for _ in range(2 * BURST // AT_ONCE):
            replies += await asyncio.gather(*(caller.call("ExplainDeadline", QUESTION) for _ in range(AT_ONCE)))

    assert {reply.reason for reply in replies} == {"SESSION_NOT_FOUND"}

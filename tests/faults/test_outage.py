"""After an outage the bell holds, so that staff can give students their time back first."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.faults.harm import fetch, insist, stopped
from tests.flows.sitting import Student, detail, good, refusal
from tests.stack import Stack, eventually

OUTAGE = 6.0
LASTS = 9


@pytest.fixture
async def short_exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    await stack.import_exam(small_exam, exam_id, durationSeconds=LASTS)
    return exam_id


async def after(moment: str, seconds: float) -> None:
    """Wait until so long after a moment."""
    await asyncio.sleep((datetime.fromisoformat(moment) - datetime.now().astimezone()).total_seconds() + seconds)


async def test_whoever_was_running_during_an_outage_can_get_time_back_before_the_bell_rings(stack: Stack, short_exam: str) -> None:
    async with Student(stack) as helped, Student(stack) as left_alone, Student(stack, roles=["proctor"]) as proctor:
        one, two = [await student.sit(short_exam) for student in (helped, left_alone)]
        session, other = one["sessionId"], two["sessionId"]
        good(await helped.save(session, "q1", choice="A"))
        good(await left_alone.save(other, "q1", choice="B"))
        with stopped(stack, "session"):
            await asyncio.sleep(OUTAGE)
        await after(two["endsAt"], 3.5)  # the bell would have rung by now

        late = await insist(lambda: helped.save(session, "q1", choice="B"))
        click = await helped.submit(session)
        given = await proctor.adjust(session, 60)
        saved = good(await helped.save(session, "q1", choice="B"))
        still_held = good(await left_alone.read(other))["status"]
        good(await helped.submit(session), 200, 202)
        helped_result = await helped.outcome(session)

        async def rung() -> bool:
            return bool(good(await left_alone.read(other))["status"] != "IN_PROGRESS")

        await eventually(rung, 40)
        other_result = await left_alone.outcome(other)

    assert refusal(late) == refusal(click) == (400, "SESSION_ENDED")
    assert detail(click, "ErrorInfo")["metadata"]["submitted"] == "false"
    assert detail(click, "RetryInfo")["retryDelay"]
    assert given.status_code == 200, given.text
    assert datetime.fromisoformat(saved["endsAt"]) - datetime.fromisoformat(one["endsAt"]) == timedelta(seconds=60)
    assert still_held == "IN_PROGRESS"
    assert (helped_result["score"], other_result["score"]) == (2, 2)
    assert other_result["submittedAt"] == two["endsAt"]
    rows = await fetch(stack, "SELECT submit_reason FROM exam_session WHERE exam_id = $1 ORDER BY id", short_exam)
    assert [row["submit_reason"] for row in rows] == ["CLICK", "BELL"]

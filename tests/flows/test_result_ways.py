"""A result as REST means the same whichever way it takes: past the gateway's transcoder, or through it."""

from typing import Any

import httpx
import pytest

from tests.faults.harm import nobody_pulls, stopped
from tests.flows.sitting import Student, good
from tests.stack import Stack, eventually

WAYS: dict[str, dict[str, str]] = {"past": {}, "through": {"content-type": "application/json"}}
UNKNOWN = "01a21928-d80e-782f-aa45-c3cd4a0c1828"
READ_JUST_THEN = {"rankAsOf"}


async def both(student: Student, session: str, **headers: str) -> list[httpx.Response]:
    return [await student.http.get(f"/api/v1/sessions/{session}/result", headers=way | headers) for way in WAYS.values()]


def said(reply: httpx.Response) -> Any:
    """What a reply means, but for how a refusal words it."""
    body = reply.json()
    if reply.status_code >= 400:
        reasons = [detail["reason"] for detail in body["details"] if "reason" in detail]
        return reply.status_code, body["code"], reasons, reply.headers.get("retry-after")
    assert set(body) >= READ_JUST_THEN or body["status"] != "SCORED"
    return reply.status_code, reply.headers["content-type"], {k: v for k, v in body.items() if k not in READ_JUST_THEN}


@pytest.mark.parametrize("review", ["IMMEDIATELY", "AFTER_CLOSE"])
async def test_a_result_is_the_same_either_way(stack: Stack, small_exam: dict[str, Any], exam_id: str, review: str) -> None:
    await stack.import_exam(small_exam, exam_id, release__review=review)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        good(await student.save(session, "q4", text='Ankara \u0130 "\U0001f514" <b>'))
        running = await both(student, session)
        await student.submit(session)
        await student.outcome(session)

        async def same() -> httpx.Response | None:
            past, through = await both(student, session)
            return past if said(past) == said(through) else None

        past = await eventually(same)  # the board may hear of the score between two reads

    assert said(running[0]) == said(running[1])
    assert said(running[0])[2] == ["SESSION_IN_PROGRESS"]
    assert len(past.json()["breakdown"]) == (4 if review == "IMMEDIATELY" else 0)


async def test_a_score_that_is_on_its_way_is_waited_for_alike(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        with stopped(stack, "scoring-worker"):
            await nobody_pulls(stack)
            good(await student.submit(session), 202)
            replies = await both(student, session, origin="http://localhost:5173")
        await student.outcome(session)

    assert [reply.status_code for reply in replies] == [202, 202]
    assert replies[0].json() == replies[1].json()
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies)
    exposed = [{name: value for name, value in reply.headers.items() if name.startswith("access-control")} for reply in replies]
    assert exposed[0] == exposed[1] != {}


@pytest.mark.parametrize(
    ("session", "headers"),
    [
        (UNKNOWN, {}),
        (UNKNOWN.upper(), {}),
        ("-" * 36, {}),
        (UNKNOWN, {"authorization": ""}),
    ],
)
async def test_a_request_that_is_wrong_is_refused_alike(stack: Stack, session: str, headers: dict[str, str]) -> None:
    async with Student(stack) as student:
        past, through = await both(student, session, **headers)

    assert past.status_code >= 400
    assert said(past) == said(through)


async def test_nobody_elses_result_is_there_either_way(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student, Student(stack) as other:
        session = (await student.sit(exam_id))["sessionId"]
        await student.submit(session)
        await student.outcome(session)

        replies = await both(other, session)

    assert [said(reply)[2] for reply in replies] == [["SESSION_NOT_FOUND"]] * 2

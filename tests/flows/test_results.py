"""What a result tells beyond its score: percentile, topics, time; and how it comes to whoever watches."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from finalbell.v1 import scoring_pb2 as pb
from finalbell.v1.scoring_pb2_grpc import ScoringServiceStub

from tests.faults.harm import stopped
from tests.flows.sitting import Student, good
from tests.stack import Stack, bearer, eventually


async def sat(student: Student, exam: str, **answers: str) -> str:
    session = str((await student.sit(exam))["sessionId"])
    for question, choice in answers.items():
        good(await student.save(session, question, choice=choice))
    good(await student.submit(session), 200, 202)
    return session


async def test_the_percentile_is_the_share_that_is_behind_and_half_of_those_alongside(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as best, Student(stack) as middle, Student(stack) as also, Student(stack) as last:
        sessions = {
            best: await sat(best, exam_id, q1="B"),
            middle: await sat(middle, exam_id),
            also: await sat(also, exam_id),
            last: await sat(last, exam_id, q1="A"),
        }
        for student, session in sessions.items():
            await student.outcome(session)
        results = [await student.outcome(session) for student, session in sessions.items()]

    assert [(one["rank"], one["percentile"]) for one in results] == [(1, 87.5), (2, 50.0), (2, 50.0), (4, 12.5)]


async def test_topics_sum_up_what_their_questions_were_worth(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        result = await student.outcome(await sat(student, exam_id, q1="B"))

    topics = [(one["topic"], one["points"], one["maxPoints"], one["questions"], one["correct"]) for one in result["topics"]]
    assert topics == [("numbers", 2, 12, 3, 1), ("places", 0, 2, 1, 0)]


async def test_before_the_review_is_released_nothing_tells_which_answers_were_right(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, release__review="AFTER_CLOSE")
    async with Student(stack) as student:
        result = await student.outcome(await sat(student, exam_id, q1="B"))

    assert (result["score"], result["rank"], result["percentile"]) == (2, 1, 50.0)
    assert (result["breakdown"], result["topics"]) == ([], [])


async def test_the_time_of_a_question_is_that_between_saves(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = str((await student.sit(exam_id))["sessionId"])
        good(await student.save(session, "q1", choice="B"))
        await asyncio.sleep(1.1)
        good(await student.save(session, "q4", text="Ankara"))
        good(await student.submit(session), 200, 202)

        async def timed() -> dict[str, Any] | None:
            items = {item["questionId"]: item for item in (await student.outcome(session))["breakdown"]}
            return items if "timeSpentMs" in items["q4"] else None  # snapshots write the times a moment later

        items = await eventually(timed)

    assert 1_000 <= items["q4"]["timeSpentMs"] < 6_000
    assert "timeSpentMs" not in items["q2"]


async def test_whoever_watches_hears_of_the_score_and_of_every_later_change(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student, Student(stack, roles=["admin"]) as admin, stack.channel() as channel:
        with stopped(stack, "scoring-worker"):
            session = await sat(student, exam_id, q1="A")
            request = pb.WatchResultRequest(session_id=session)
            watch = ScoringServiceStub(channel).WatchResult(request, metadata=bearer(student.token), timeout=30)
            first = (await watch.read()).result
        second = (await watch.read()).result
        good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}/questions/q1:setKey", json={"accept": ["A"]}))
        good(await admin.http.post(f"/api/v1/exams/{exam_id}:regrade", json={}), 202)
        third = (await watch.read()).result
        watch.cancel()

    assert [(one.status, one.score, one.revision) for one in (first, second, third)] == [
        (pb.Result.SCORING, 0, 0),
        (pb.Result.SCORED, -1, 1),
        (pb.Result.SCORED, 2, 2),
    ]


async def test_a_browser_watches_by_server_sent_events(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, release__review="NONE")
    async with Student(stack) as student:
        with stopped(stack, "scoring-worker"):
            session = await sat(student, exam_id, q1="B")
            async with student.http.stream("GET", f"/api/v1/sessions/{session}/result:watch", timeout=30) as reply:
                first = await next_event(reply.aiter_lines())
        async with student.http.stream("GET", f"/api/v1/sessions/{session}/result:watch", timeout=30) as later:
            lines = later.aiter_lines()
            second = await next_event(lines)
            while second["data"]["status"] == "SCORING":
                second = await next_event(lines)
        shown = await student.outcome(session)

    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")
    assert (first["event"], first["data"]["status"]) == ("result", "SCORING")
    assert (second["event"], second["id"]) == ("result", "1")
    assert _lasting(second["data"]) == _lasting(shown)


def _lasting(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("rank", "rankAsOf", "percentile")}


async def next_event(lines: AsyncIterator[str]) -> dict[str, Any]:
    """Read one event: its fields, the data as JSON; comments are passed over."""
    found: dict[str, Any] = {}
    async for line in lines:
        if not line and found:
            return found
        name, colon, value = line.partition(": ")
        if colon and name:
            found[name] = json.loads(value) if name == "data" else value
    raise AssertionError("the stream ended")


async def test_nobody_watches_a_session_of_somebody_else(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student, Student(stack) as other, stack.rest() as nobody, stack.channel() as channel:
        session = await sat(student, exam_id)
        foreign, unknown = [await other.http.get(f"/api/v1/sessions/{one}/result:watch") for one in (session, uuid.uuid4())]
        without = await nobody.get(f"/api/v1/sessions/{session}/result:watch")
        request = pb.WatchResultRequest(session_id=session)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ScoringServiceStub(channel).WatchResult(request, metadata=bearer(other.token)).read()

    assert [one.status_code for one in (foreign, unknown, without)] == [404, 404, 401]
    assert foreign.json() == unknown.json()
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_submit_says_when_to_ask_while_the_score_is_on_its_way(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        with stopped(stack, "scoring-worker"):
            session = str((await student.sit(exam_id))["sessionId"])
            submitted = await student.submit(session)
            asked = await student.result(session)

    assert (submitted.status_code, asked.status_code, asked.json()["status"]) == (202, 202, "SCORING")
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in (submitted, asked))

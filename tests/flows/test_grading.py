"""Essays: people grade them one at a time, blind, each claim for a while; and no grade is lost, doubled or taken back."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.faults.harm import fetch
from tests.flows.sitting import Student, good, refusal, wrong_fields
from tests.stack import Stack, fresh

TEXT = "Because the sun melts it, and water runs downhill."

EXAM: dict[str, Any] = {
    "exam": {
        "id": "essays",
        "title": "Two essays",
        "durationSeconds": 600,
        "maxAttempts": 3,
        "marking": {"correct": 2, "wrong": 0, "blank": 0},
        "release": {"score": "IMMEDIATELY", "review": "IMMEDIATELY"},
    },
    "questions": [
        {
            "id": "why",
            "type": "essay",
            "stem": "Why does a glacier move?",
            "topic": "ice",
            "answer": {"rubric": [{"criterion": "physics", "maxPoints": 4}, {"criterion": "style", "maxPoints": 2}]},
        },
        {
            "id": "one",
            "type": "single_choice",
            "stem": "Ice is",
            "topic": "ice",
            "options": [{"id": "A", "text": "water"}, {"id": "B", "text": "stone"}],
            "answer": {"choice": "A"},
        },
    ],
}


class Grader(Student):
    """Somebody who grades."""

    async def tasks(self, exam: str, **query: Any) -> list[dict[str, Any]]:
        return list(good(await self.http.get("/api/v1/grading/tasks", params={"examId": exam, **query}))["tasks"])

    async def claim(self, exam: str, **body: Any) -> Any:
        return await self.http.post("/api/v1/grading/tasks:claim", json={"examId": exam, **body})

    async def grade(self, claimed: dict[str, Any], *points: int, **more: Any) -> Any:
        body = {"claimId": claimed["claimId"], "criteria": [{"points": one, "comment": f"{one}!"} for one in points], **more}
        return await self.http.post(f"/api/v1/grading/tasks/{claimed['task']['taskId']}:grade", json=body)

    async def act(self, verb: str, claimed: dict[str, Any]) -> Any:
        path = f"/api/v1/grading/tasks/{claimed['task']['taskId']}:{verb}"
        return await self.http.post(path, json={"claimId": claimed["claimId"]})


@asynccontextmanager
async def graders(stack: Stack, count: int) -> AsyncIterator[list[Grader]]:
    async with AsyncExitStack() as all_of_them:
        yield [await all_of_them.enter_async_context(Grader(stack, fresh("g"), roles=["grader"])) for _ in range(count)]


async def handed_in(student: Student, exam: str, text: str = TEXT) -> str:
    session = str((await student.sit(exam))["sessionId"])
    good(await student.save(session, "why", text=text))
    good(await student.save(session, "one", choice="A"))
    good(await student.submit(session), 202)
    assert (await student.outcome(session))["status"] in ("PARTIAL", "SCORED")
    return session


async def expire(stack: Stack, claimed: dict[str, Any]) -> None:
    """Let a claim's ten minutes be over."""
    task = uuid.UUID(claimed["task"]["taskId"])
    await fetch(stack, "UPDATE grading_task SET lease_until = now() - interval '1 second' WHERE id = $1", task)


async def test_an_essay_is_graded_by_its_rubric_and_then_its_session_is_scored_and_ranked(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(EXAM, exam_id)
    async with Student(stack) as student, graders(stack, 1) as [grader]:
        session = await handed_in(student, exam_id)
        before, unranked = await student.outcome(session), await student.board(exam_id)
        claimed = good(await grader.claim(exam_id))
        graded = good(await grader.grade(claimed, 3, 2, comment="Well told."))
        after, ranked = await student.outcome(session), await student.board(exam_id, around="me")

    assert (before["status"], before["score"], before["maxScore"]) == ("PARTIAL", 2, 14)
    assert (before["breakdown"][0]["outcome"], "rank" in before, unranked["total"]) == ("PENDING", False, 0)
    assert (claimed["answer"], claimed["stem"], [one["maxPoints"] for one in claimed["rubric"]]) == (
        TEXT,
        "Why does a glacier move?",
        [4, 2],
    )
    assert (graded["points"], graded["scored"], graded["task"]["status"]) == (5, True, "GRADED")
    assert (after["status"], after["score"], after["rank"], after["revision"]) == ("SCORED", 12, 1, 2)
    essay = after["breakdown"][0]
    assert (essay["points"], essay["outcome"], essay["comment"]) == (10, "PARTIAL", "Well told.")
    judged = [(one["criterion"], one["points"], one["comment"]) for one in essay["criteria"]]
    assert judged == [("physics", 3, "3!"), ("style", 2, "2!")]
    assert [entry["score"] for entry in ranked["entries"]] == [12]


async def test_a_grader_does_not_learn_whose_answer_it_is(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(EXAM, exam_id)
    await stack.import_exam(EXAM, f"{exam_id}-seen", blindGrading=False)
    async with Student(stack) as student, graders(stack, 1) as [grader]:
        session = await handed_in(student, exam_id)
        await handed_in(student, f"{exam_id}-seen")
        listed, claimed = await grader.http.get("/api/v1/grading/tasks", params={"examId": exam_id}), await grader.claim(exam_id)
        seen = good(await grader.claim(f"{exam_id}-seen"))

    for reply in (listed, claimed):
        assert student.name not in reply.text
        assert session not in reply.text
    assert seen["studentId"] == student.name


async def test_a_blank_essay_waits_for_nobody(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(EXAM, exam_id)
    async with Student(stack) as student, graders(stack, 1) as [grader]:
        session = await handed_in(student, exam_id, text="  \n ")
        result, tasks = await student.outcome(session), await grader.tasks(exam_id)

    assert (result["status"], result["score"], tasks) == ("SCORED", 2, [])


async def test_a_grade_that_was_sent_stays_and_may_be_sent_again(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(EXAM, exam_id)
    async with Student(stack) as student, graders(stack, 1) as [grader]:
        session = await handed_in(student, exam_id)
        claimed = good(await grader.claim(exam_id))
        first, again = good(await grader.grade(claimed, 3, 1)), good(await grader.grade(claimed, 3, 1))
        other = await grader.grade(claimed, 4, 2)
        result = await student.outcome(session)

    assert again == first
    assert refusal(other) == (409, "GRADE_DIFFERS")
    assert (result["score"], result["revision"]) == (10, 2)


async def test_a_claim_that_ran_out_is_somebody_elses_and_the_old_one_changes_nothing(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(EXAM, exam_id)
    async with Student(stack) as student, graders(stack, 2) as [slow, quick]:
        session = await handed_in(student, exam_id)
        stale = good(await slow.claim(exam_id))
        nothing_free = await quick.claim(exam_id)
        await expire(stack, stale)
        fresh_claim = good(await quick.claim(exam_id))
        lost = [await slow.grade(stale, 4, 2), await slow.act("renew", stale), await slow.act("release", stale)]
        good(await quick.grade(fresh_claim, 1, 1))
        late = await slow.grade(stale, 4, 2)
        result = await student.outcome(session)

    assert refusal(nothing_free) == (404, "GRADING_TASK_NOT_FOUND")
    assert {refusal(one) for one in (*lost, late)} == {(400, "CLAIM_LOST")}
    assert (result["score"], result["revision"]) == (6, 2)


async def test_a_claim_that_ran_out_still_counts_while_nobody_else_has_the_task(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(EXAM, exam_id)
    async with Student(stack) as student, graders(stack, 1) as [grader]:
        session = await handed_in(student, exam_id)
        claimed = good(await grader.claim(exam_id))
        await expire(stack, claimed)
        good(await grader.grade(claimed, 2, 2))
        result = await student.outcome(session)

    assert result["score"] == 10


async def test_a_task_that_is_given_back_waits_again_and_one_that_is_renewed_does_not(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(EXAM, exam_id)
    async with Student(stack) as student, graders(stack, 2) as [first, second]:
        await handed_in(student, exam_id)
        claimed = good(await first.claim(exam_id))
        await expire(stack, claimed)
        good(await first.act("renew", claimed))
        taken = await second.claim(exam_id)
        good(await first.act("release", claimed))
        free = good(await second.claim(exam_id))

    assert refusal(taken) == (404, "GRADING_TASK_NOT_FOUND")
    assert free["task"]["taskId"] == claimed["task"]["taskId"]


@pytest.mark.parametrize(
    ("tolerance", "totals", "points", "comment"),
    [(0, [(3, 1), (2, 2)], 4, "0"), (2, [(3, 0), (3, 2)], 4, ""), (0, [(1, 0), (4, 2), (2, 1)], 3, "2")],
    ids=["the same total", "within the tolerance", "a third decides"],
)
async def test_two_graders_agree_or_a_third_decides(
    stack: Stack, exam_id: str, tolerance: int, totals: list[tuple[int, int]], points: int, comment: str
) -> None:
    await stack.import_exam(EXAM, exam_id, graders=2, graderTolerance=tolerance)
    async with Student(stack) as student, graders(stack, 3) as people:
        session = await handed_in(student, exam_id)
        replies = []
        for number, (grader, given) in enumerate(zip(people, totals, strict=False)):
            claimed = good(await grader.claim(exam_id))
            twice = await grader.claim(exam_id)
            assert refusal(twice) == (404, "GRADING_TASK_NOT_FOUND")  # nobody grades the same answer twice
            replies.append(good(await grader.grade(claimed, *given, comment=str(number))))
        result, left = await student.outcome(session), await people[0].tasks(exam_id)

    assert [reply["scored"] for reply in replies] == [False] * (len(totals) - 1) + [True]
    assert all("points" not in reply for reply in replies[:-1])
    assert (replies[-1]["points"], result["score"], result["status"], left) == (points, 2 * points + 2, "SCORED", [])
    assert result["breakdown"][0]["comment"] == comment


async def test_a_grade_that_does_not_fit_its_rubric_is_refused_and_changes_nothing(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(EXAM, exam_id)
    async with Student(stack) as student, graders(stack, 1) as [grader]:
        session = await handed_in(student, exam_id)
        claimed = good(await grader.claim(exam_id))
        too_few, too_many = await grader.grade(claimed, 3), await grader.grade(claimed, 1, 1, 1)
        too_good, negative = await grader.grade(claimed, 5, 2), await grader.grade(claimed, -1, 0)
        strange = await grader.grade({**claimed, "task": {"taskId": str(uuid.uuid4())}}, 1, 1)
        result = await student.outcome(session)

    assert [wrong_fields(one) for one in (too_few, too_many, too_good, negative)] == [
        ["criteria"],
        ["criteria"],
        ["criteria[0].points"],
        ["criteria[0].points"],
    ]
    assert refusal(strange) == (404, "GRADING_TASK_NOT_FOUND")
    assert (result["status"], result["revision"]) == ("PARTIAL", 1)


async def test_only_graders_see_the_queue(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(EXAM, exam_id)
    async with Student(stack) as student, Student(stack, roles=["proctor"]) as proctor, Student(stack, roles=["admin"]) as admin:
        await handed_in(student, exam_id)
        replies = [await one.http.get("/api/v1/grading/tasks") for one in (student, proctor, admin)]

    assert [reply.status_code for reply in replies] == [403, 403, 200]


async def test_pages_of_tasks_go_on_where_the_last_one_ended(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(EXAM, exam_id, maxAttempts=3)
    async with Student(stack) as student, graders(stack, 1) as [grader]:
        for _ in range(3):
            await handed_in(student, exam_id)
        whole = await grader.tasks(exam_id)
        query = {"examId": exam_id, "pageSize": 2}
        first = good(await grader.http.get("/api/v1/grading/tasks", params=query))
        rest = good(await grader.http.get("/api/v1/grading/tasks", params={**query, "pageToken": first["nextPageToken"]}))

    assert len(whole) == 3
    assert [*first["tasks"], *rest["tasks"]] == whole
    assert rest["nextPageToken"] == ""

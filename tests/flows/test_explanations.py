"""Explanations are shown when the result's review is, to those who have sat the exam and still own it."""

from typing import Any

import pytest

from tests.faults.harm import fetch
from tests.flows.sitting import Student, good, refusal
from tests.stack import Stack, eventually, fresh


def path(exam: str, question: str = "q1") -> str:
    return f"/api/v1/exams/{exam}/questions/{question}/explanation"


async def scored(student: Student, exam: str) -> str:
    """Sit an exam, hand it in, and wait for its score."""
    session = str((await student.sit(exam))["sessionId"])
    good(await student.submit(session), 200, 202)
    await student.outcome(session)
    return session


async def test_it_comes_with_the_result(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student, Student(stack) as stranger:
        before = await student.http.get(path(exam_id))
        session = (await student.sit(exam_id))["sessionId"]
        during = await student.http.get(path(exam_id))
        good(await student.submit(session), 200, 202)
        result = await student.outcome(session)

        shown = await student.http.get(path(exam_id))
        again = await student.http.get(path(exam_id), headers={"if-none-match": shown.headers["etag"]})
        unknown = await student.http.get(path(exam_id, "q9"))
        strangers = await stranger.http.get(path(exam_id))

    reviewed = next(item for item in result["breakdown"] if item["questionId"] == "q1")
    assert good(shown) == {"examId": exam_id, "questionId": "q1", "examVersion": 1, "body": reviewed["explanation"]}
    assert "canary-explanation-q1" in reviewed["explanation"]
    assert (again.status_code, again.content) == (304, b"")
    assert refusal(before) == refusal(strangers) == (400, "SESSION_REQUIRED")
    assert refusal(during) == (400, "SESSION_IN_PROGRESS")
    assert refusal(unknown) == (404, "QUESTION_NOT_FOUND")


@pytest.mark.parametrize(
    "release",
    [
        {"score": "IMMEDIATELY", "review": "NONE"},
        {"score": "IMMEDIATELY", "review": "AFTER_CLOSE"},
        {"score": "MANUAL", "review": "IMMEDIATELY"},
        {"score": "AFTER_CLOSE", "review": "IMMEDIATELY"},
    ],
    ids=lambda release: f"{release['score']}-{release['review']}",
)
async def test_it_is_withheld_as_long_as_the_review_is(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, release: dict[str, str]
) -> None:
    await stack.import_exam(small_exam, exam_id, release=release)
    async with Student(stack) as student, Student(stack, roles=["admin"]) as admin:
        session = await scored(student, exam_id)
        withheld = await student.http.get(path(exam_id))
        good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:close", json={}))
        good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:release", json={}))

        async def told() -> Any:
            result = good(await student.result(session))
            return result if result["breakdown"] else None

        async def shown() -> bool:
            return (await student.http.get(path(exam_id))).status_code == 200

        if release["review"] != "NONE":
            await eventually(told)
            await eventually(shown)
        final = await student.http.get(path(exam_id))

    assert refusal(withheld) == (400, "REVIEW_WITHHELD")
    assert "canary" not in withheld.text
    assert (final.status_code == 200) == (release["review"] != "NONE")


async def test_what_is_taken_back_locks_paper_and_explanations_but_never_cuts_a_session(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    product = fresh("p")
    await stack.import_exam(small_exam, exam_id, productId=product)
    paper = f"/api/v1/exams/{exam_id}/paper"
    async with Student(stack) as student:
        await fetch(stack, "INSERT INTO entitlement (student_id, product_id) VALUES ($1, $2)", student.name, product)
        await scored(student, exam_id)
        owned = [await student.http.get(one) for one in (paper, path(exam_id))]
        session = (await student.sit(exam_id))["sessionId"]
        await fetch(stack, "UPDATE entitlement SET revoked_at = now() WHERE student_id = $1", student.name)

        async def locked() -> bool:
            return refusal(await student.http.get(path(exam_id))) == (403, "ENTITLEMENT_REQUIRED")

        assert [reply.status_code for reply in owned] == [200, 200]
        await eventually(locked)
        running = await student.http.get(paper)
        good(await student.save(session, "q1", choice="B"))
        good(await student.submit(session), 200, 202)
        await student.outcome(session)
        over = await student.http.get(paper)
        await fetch(stack, "UPDATE entitlement SET revoked_at = NULL WHERE student_id = $1", student.name)

        async def opened() -> bool:
            return {(await student.http.get(one)).status_code for one in (paper, path(exam_id))} == {200}

        await eventually(opened)

    assert running.status_code == 200
    assert refusal(over) == (403, "ENTITLEMENT_REQUIRED")


async def test_an_exam_that_is_put_off_shows_nothing_until_it_opens_again(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student, Student(stack, roles=["admin"]) as admin:
        await scored(student, exam_id)
        shown = await student.http.get(path(exam_id))
        good(await admin.schedule(exam_id, opensAt="2199-01-01T00:00:00Z"))

        async def put_off() -> bool:
            replies = [await student.http.get(one) for one in (path(exam_id), f"/api/v1/exams/{exam_id}/paper")]
            return all(reply.status_code == 400 and refusal(reply) == (400, "EXAM_NOT_OPEN") for reply in replies)

        await eventually(put_off)

    assert shown.status_code == 200

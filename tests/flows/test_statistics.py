"""After an exam staff see how its questions did; students never do."""

import asyncio
from typing import Any

import pytest
from finalbell.v1 import scoring_pb2 as pb

from servers.auth import Caller
from servers.scoring.item_statistics import ItemStatistics
from servers.serving.wrap import Call
from stores.answer_keys import AnswerKeys
from stores.catalog import Catalog
from stores.connect import StoreSettings, connect
from stores.statistics import Statistics
from tests.flows.sitting import Student, good, refusal
from tests.stack import Stack, fresh

GOOD = {"q1": "C", "q2": "B", "q3": "B", "q4": "B"}
WEAK = {"q1": "A", "q2": "D", "q3": "A"}
WRONG_KEY: dict[str, Any] = {
    "exam": {"id": "wrong-key", "title": "The first key is wrong", "durationSeconds": 600},
    "questions": [
        {
            "id": question,
            "type": "single_choice",
            "stem": question,
            "topic": "letters",
            "options": [{"id": name, "text": name} for name in "ABCD"],
            "answer": {"choice": "A" if question == "q1" else "B"},
        }
        for question in GOOD
    ],
}
"""The right answer to q1 is C, and its key says A."""


async def sit(stack: Stack, exam: str, given: dict[str, str]) -> None:
    """Sit the exam to its score."""
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await student.batch(session, *({"questionId": question, "choice": choice} for question, choice in given.items())))
        good(await student.submit(session), 200, 202)
        await student.outcome(session)


@pytest.fixture
async def sat(stack: Stack, exam_id: str) -> str:
    """An exam with a wrong key that seven good students and five weak ones have sat."""
    await stack.import_exam(WRONG_KEY, exam_id)
    await asyncio.gather(*(sit(stack, exam_id, given) for given in [GOOD] * 7 + [WEAK] * 5))
    return exam_id


async def test_a_wrong_key_is_flagged_with_the_option_that_the_good_students_chose(stack: Stack, sat: str) -> None:
    path = f"/api/v1/exams/{sat}/statistics"
    async with Student(stack, roles=["proctor"]) as proctor, Student(stack) as student, Student(stack, roles=["admin"]) as admin:
        before = await proctor.http.get(path)
        computed = good(await proctor.http.post(f"{path}:compute", json={}))
        kept = good(await proctor.http.get(path))
        forbidden = [await student.http.post(f"{path}:compute", json={}), await student.http.get(path)]
        good(await admin.http.post(f"/api/v1/admin/exams/{sat}:close", json={}))
        closed = good(await admin.http.post(f"{path}:compute", json={}))

    first, second, _, fourth = kept["questions"]
    assert refusal(before) == (404, "STATISTICS_NOT_FOUND")
    assert [refusal(reply) for reply in forbidden] == [(403, "ROLE_REQUIRED")] * 2
    assert computed == {"computing": False, "statistics": kept}
    assert (kept["examId"], kept["examVersion"], kept["keyVersion"], kept["results"]) == (sat, 1, 1, 12)
    assert (kept["final"], closed["statistics"]["final"]) == (False, True)
    assert (kept["maxScore"], kept["mean"]) == (4, pytest.approx((7 * 3 + 5 * 1) / 12))
    assert first["flags"][:2] == ["SUSPECT_KEY", "NEGATIVE_DISCRIMINATION"]
    assert [(one["optionId"], one["count"], one["isKey"], one["suspect"]) for one in first["options"]] == [
        ("A", 5, True, False), ("B", 0, False, False), ("C", 7, False, True), ("D", 0, False, False)
    ]  # fmt: skip
    assert "correlation" not in first["options"][1]
    assert (first["options"][2]["correlation"], first["discrimination"]) == (pytest.approx(1), pytest.approx(-1))
    assert not {"SUSPECT_KEY", "NEGATIVE_DISCRIMINATION"} & set(second["flags"])
    assert (fourth["blank"], fourth["difficulty"]) == (pytest.approx(5 / 12), pytest.approx(7 / 12))


async def test_an_exam_that_nobody_has_sat_has_statistics_without_figures(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(WRONG_KEY, exam_id)
    async with Student(stack, roles=["admin"]) as admin:
        both = await asyncio.gather(*(admin.http.post(f"/api/v1/exams/{exam_id}/statistics:compute", json={}) for _ in range(2)))
        unknown = await admin.http.post(f"/api/v1/exams/{fresh('no')}/statistics:compute", json={})

    found = good(both[0])["statistics"]
    assert [reply.status_code for reply in both] == [200, 200]
    assert (found["results"], len(found["questions"])) == (0, 4)
    assert not {"mean", "alpha", "standardDeviation"} & found.keys()
    assert refusal(unknown) == (404, "EXAM_NOT_FOUND")


async def test_what_takes_longer_than_a_call_may_goes_on_without_it(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(WRONG_KEY, exam_id)
    where = stack.read()
    urls = StoreSettings(where["postgres"], where["redis"], where["redis"], where["nats"], needs_nats=False)
    call = Call(Caller("boss", frozenset({"admin"}), ()), None, 0.0, {})
    async with connect(urls) as stores:
        catalog = Catalog(stores.postgres)
        service = ItemStatistics(Statistics(stores.postgres), AnswerKeys(stores.postgres), catalog, wait_seconds=0)

        reply = await service.compute(pb.ComputeItemStatisticsRequest(exam_id=exam_id), call)
        await service.drain()
        kept = await service.get(pb.GetItemStatisticsRequest(exam_id=exam_id), call)

    assert reply == pb.ComputeItemStatisticsResponse(computing=True)
    assert call.headers == [("fb-http-status", "202"), ("retry-after", "1")]
    assert (kept.statistics.exam_id, len(kept.statistics.questions)) == (exam_id, 4)

"""The processes that no student talks to: the snapshotter and the bell may die at any moment (RELIABILITY F4, F5)."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.faults.harm import all_written, fetch, insist, kill, restarted, stopped
from tests.flows.sitting import Student, answers, good
from tests.stack import Stack, eventually

ROUNDS = 3


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    await stack.import_exam(small_exam, exam_id)
    return exam_id


async def test_every_acknowledged_save_is_written_though_the_snapshotter_is_killed_again_and_again(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        saved = []
        for n in range(ROUNDS):
            before = kill(stack, "snapshots")
            for m in range(20):
                save, key = f"{n}.{m}", f"save-{n}-{m}-of-many"
                saved.append(good(await insist(lambda s=save, k=key: student.save(session, "q3", k, number=s))))
                await asyncio.sleep(0.02)
            await restarted(stack, "snapshots", before)
        await all_written(stack)
        rows = await fetch(stack, "SELECT answer, version FROM session_answer WHERE session_id = $1", session)

    assert [one["version"] for one in saved] == list(range(1, ROUNDS * 20 + 1))
    assert [(row["answer"], row["version"]) for row in rows] == [(f"n:{ROUNDS - 1}.19", ROUNDS * 20)]


async def test_a_wipe_while_nobody_takes_snapshots_costs_what_came_since_and_the_student_is_told(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        written = good(await insist(lambda: student.save(session, "q1", "the-first-key", choice="B")))
        await all_written(stack)
        with stopped(stack, "snapshots"):
            lost = good(await insist(lambda: student.save(session, "q3", "the-same-key", number="3.5")))
            async with Redis.from_url(stack.read()["redis"]) as redis:
                await redis.flushall()
            found = good(await insist(lambda: student.read(session)))
            resent = good(await insist(lambda: student.save(session, "q3", "the-same-key", number="3.5")))
        submitted = good(await insist(lambda: student.submit(session)), 200, 202)
        result = await student.outcome(session)

    assert answers(found) == {"q1": ("choice", "B")}
    assert written["version"] <= found["restoredThroughVersion"] < lost["version"]
    assert found["epoch"] > lost["version"] // 1_000_000
    assert resent["version"] > lost["version"]
    assert result["score"] == 2 + 4
    assert result["answersSha256"] == submitted["answersSha256"]


async def test_a_student_who_missed_one_loss_is_told_of_it_after_the_next(stack: Stack, exam: str) -> None:
    async def wiped() -> None:
        async with Redis.from_url(stack.read()["redis"]) as redis:
            await redis.flushall()

    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        written = good(await insist(lambda: student.save(session, "q1", "the-first-key", choice="B")))
        await all_written(stack)
        with stopped(stack, "snapshots"):
            lost = good(await insist(lambda: student.save(session, "q3", "the-lost-key", number="3.5")))
            await wiped()
            since = good(await insist(lambda: student.save(session, "q4", "the-later-key", text="Ankara")))
        await all_written(stack)
        await wiped()
        found = good(await insist(lambda: student.read(session)))

    assert answers(found) == {"q1": ("choice", "B"), "q4": ("text", "Ankara")}
    assert written["version"] <= found["restoredThroughVersion"] < lost["version"] < since["version"]
    assert found["epoch"] > since["version"] // 1_000_000


async def test_the_bell_that_was_killed_rings_for_everybody_as_of_their_end(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=4)
    students = [Student(stack) for _ in range(5)]
    sessions = []
    for student in students:
        async with student:
            sessions.append(await student.sit(exam_id))
            good(await student.save(sessions[-1]["sessionId"], "q1", choice="B"))
    ids = [one["sessionId"] for one in sessions]

    async def results() -> list[Any]:
        found = await fetch(stack, "SELECT session_id FROM result WHERE exam_id = $1", exam_id)
        return found if len(found) == len(ids) else []

    for _ in range(ROUNDS):
        before = kill(stack, "bell")
        await restarted(stack, "bell", before)
    found = await eventually(results, 40)
    rows = await fetch(
        stack, "SELECT id, submit_reason, submitted_at = ends_at AS punctual FROM exam_session WHERE exam_id = $1", exam_id
    )

    assert sorted(str(row["session_id"]) for row in found) == sorted(ids)
    assert {(row["submit_reason"], row["punctual"]) for row in rows} == {("BELL", True)}

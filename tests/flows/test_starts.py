"""The doors open: everybody starts at once, while staff go on closing exams and giving time."""

import asyncio
import uuid
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tests.flows.sitting import Student, good, refusal
from tests.stack import Stack, eventually

MOVING = ("serverTime", "remainingMs")


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    """An open exam of ten minutes and three attempts."""
    await stack.import_exam(small_exam, exam_id)
    return exam_id


async def test_the_reply_to_a_start_is_what_reading_the_session_gives_right_after(stack: Stack, exam: str) -> None:
    async with Student(stack, cohorts=["class-a"]) as student:
        started = await student.sit(exam, alias="Ada")

        read = good(await student.read(started["sessionId"]))

    assert {name: value for name, value in started.items() if name not in MOVING} == {
        name: value for name, value in read.items() if name not in MOVING
    }
    assert started["serverTime"] <= read["serverTime"]
    assert 0 < read["remainingMs"] <= started["remainingMs"] <= 600_000


async def test_a_herd_with_two_devices_each_makes_one_session_a_student(stack: Stack, exam: str) -> None:
    async with AsyncExitStack() as entered:
        students = [await entered.enter_async_context(Student(stack)) for _ in range(40)]
        keys = [uuid.uuid4().hex for _ in students]

        replies = await asyncio.gather(
            *(student.start(exam, key) for _ in range(2) for student, key in zip(students, keys, strict=True)),
            *(student.start(exam) for student in students),
        )

    told = [{reply.json()["sessionId"] for reply in replies[n::40]} for n in range(40)]
    assert all(len(sessions) == 1 for sessions in told)
    assert sorted(reply.status_code for reply in replies) == [200] * 80 + [201] * 40
    assert await sessions_of(stack, exam) == {session for sessions in told for session in sessions}


async def test_a_close_in_the_middle_of_a_herd_lets_in_whoever_was_told_so_and_nobody_else(stack: Stack, exam: str) -> None:
    async with AsyncExitStack() as entered:
        students = [await entered.enter_async_context(Student(stack)) for _ in range(40)]
        admin = await entered.enter_async_context(Student(stack, roles=["admin"]))

        closed, *replies = await asyncio.gather(
            admin.http.post(f"/api/v1/admin/exams/{exam}:close", json={}), *(student.start(exam) for student in students)
        )
        late = await students[0].start(exam)

    good(closed)
    refused = [refusal(reply) for reply in replies if reply.status_code != 201]
    assert set(refused) <= {(400, "EXAM_CLOSED")}
    assert await sessions_of(stack, exam) == {reply.json()["sessionId"] for reply in replies if reply.status_code == 201}
    assert late.status_code == (200 if replies[0].status_code == 201 else 400)


async def test_extra_time_that_is_given_during_the_start_reaches_the_session(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, Student(stack, roles=["proctor"]) as staff:
        started, given = await asyncio.gather(
            student.start(exam), staff.accommodate(student.name, exam, extraSeconds=300, reason="a certificate")
        )
        session = good(started, 201)

        async def extended() -> bool:
            read = good(await student.read(session["sessionId"]))
            return at(read["endsAt"]) - at(read["startedAt"]) == timedelta(minutes=15)

        await eventually(extended, 60)

    assert given.status_code == 200


async def test_an_alias_that_nobody_sees_is_a_wrong_field_and_starts_nothing(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        refused = await student.start(exam, alias="\u2800")

    assert refusal(refused) == (400, "INVALID_FIELD")
    assert await sessions_of(stack, exam) == set()


async def sessions_of(stack: Stack, exam: str) -> set[str]:
    connection = await asyncpg.connect(stack.read()["postgres"])
    try:
        rows = await connection.fetch("SELECT id::text FROM exam_session WHERE exam_id = $1", exam)
    finally:
        await connection.close()
    return {row["id"] for row in rows}


def at(written: str) -> datetime:
    return datetime.fromisoformat(written)

"""Two of a kind at the same work, or one that wakes into another's: nothing happens twice (RELIABILITY F19, F34).

A lease only spreads work. What keeps two holders from both having effect is in the statement that writes.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from tests.faults.harm import all_written, another, fetch, insist, stopped
from tests.flows.sitting import Student, good
from tests.stack import Stack, eventually

STUDENTS = 8
SAVES = 40
LEASES = [f"lease:{{{shard:02d}}}:snapshots" for shard in range(64)]


@asynccontextmanager
async def no_leases(stack: Stack) -> AsyncIterator[None]:
    """Take every lease away as soon as somebody has it, so that everybody takes every shard."""
    stop = asyncio.Event()

    async def take() -> None:
        async with Redis.from_url(stack.read()["redis"]) as redis:
            while not stop.is_set():
                await redis.delete(*LEASES)
                await asyncio.sleep(0.02)

    taking = asyncio.ensure_future(take())
    try:
        yield
    finally:
        stop.set()
        await taking


async def sits(stack: Stack, exam: str, sessions: dict[str, int]) -> None:
    """Sit an exam: many saves of one question, and no submit."""
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        for number in range(SAVES):
            key = uuid.uuid4().hex
            saved = good(await insist(lambda k=key, n=number: student.save(session, "q3", k, number=str(n))))
        sessions[session] = saved["version"]


async def test_two_bells_and_two_snapshotters_without_leases_hand_in_and_write_everything_once(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=12)
    sessions: dict[str, int] = {}
    with ExitStack() as twins:
        for unit in ("bell", "snapshots"):
            twins.enter_context(another(stack, unit))
        async with no_leases(stack):
            await asyncio.gather(*(sits(stack, exam_id, sessions) for _ in range(STUDENTS)))

            async def rung() -> bool:
                return len(await fetch(stack, "SELECT FROM result WHERE exam_id = $1", exam_id)) == STUDENTS

            await eventually(rung, 40)
            await all_written(stack)
    ids = [uuid.UUID(session) for session in sessions]
    rows = await fetch(stack, "SELECT session_id, answer, version FROM session_answer WHERE session_id = ANY ($1)", ids)
    ends = await fetch(
        stack, "SELECT submit_reason, submitted_at = ends_at AS punctual, status FROM exam_session WHERE id = ANY ($1)", ids
    )
    results = await fetch(stack, "SELECT session_id, answers, revision FROM result WHERE session_id = ANY ($1)", ids)

    assert {str(row["session_id"]): (row["answer"], row["version"]) for row in rows} == {
        session: (f"n:{SAVES - 1}", version) for session, version in sessions.items()
    }
    assert [tuple(row) for row in ends] == [("BELL", True, "SCORED")] * STUDENTS
    assert [(row["answers"], row["revision"]) for row in results] == [(f'{{"q3":"n:{SAVES - 1}"}}', 1)] * STUDENTS


async def test_a_snapshotter_that_sleeps_while_another_takes_over_undoes_nothing_when_it_wakes(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        written = "SELECT answer, version FROM session_answer WHERE session_id = $1"

        async def save(*numbers: int) -> int:
            for number in numbers:
                saved = good(await insist(lambda n=number: student.save(session, "q3", f"save-number-{n}", number=str(n))))
            return int(saved["version"])

        async def shown(version: int) -> Any:
            async def there() -> Any:
                rows = await fetch(stack, written, session)
                return rows[0] if rows and rows[0]["version"] == version else None

            return await eventually(there, 30)

        await save(*range(20))
        with stopped(stack, "snapshots"):
            while_asleep = await save(*range(20, 40))
            with another(stack, "snapshots"):
                taken_over = await shown(while_asleep)
        awake = await shown(await save(*range(40, 60)))
        good(await insist(lambda: student.submit(session)), 200, 202)
        result = await student.outcome(session)

    assert taken_over["answer"] == "n:39"
    assert awake["answer"] == "n:59"
    assert result["status"] == "SCORED"
    kept = await fetch(stack, "SELECT answers FROM result WHERE session_id = $1", uuid.UUID(session))
    assert kept[0]["answers"] == '{"q3":"n:59"}'

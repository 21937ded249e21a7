"""A rolling restart, tier by tier, while students sit: no error that a client's retry does not cure (RELIABILITY F16, F36)."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.faults.harm import fetch, restarted
from tests.flows.sitting import Student, answers, good
from tests.stack import Stack, eventually

OURS = (
    "session",
    "snapshots",
    "bell",
    "scoring",
    "scoring-worker",
    "leaderboard",
    "content",
    "payments",
    "admin",
    "media",
    "integrity",
    "signal-worker",
)
STUDENTS = 4
SERVED_AGAIN = 20.0
BROKEN_OFF = (499, 503)
"""What docs/clients.md says to repeat; 499 is a call that still waited for a worker when that ended, twice in a row."""


class Sitting:
    """One student who saves all the time, and repeats with the same key what was not answered."""

    def __init__(self, student: Student, session: str) -> None:
        self.student, self.session = student, session
        self.versions: list[int] = []

    async def saves(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.versions.append(await self._save(len(self.versions) + 1, uuid.uuid4().hex))
            await asyncio.sleep(0.01)

    async def _save(self, number: int, key: str) -> int:
        async def answered() -> int | None:
            try:
                reply = await self.student.save(self.session, "q3", key, number=str(number), clientSeq=number)
            except httpx.TransportError:  # the gateway was restarted with our call in its hands
                return None
            return None if reply.status_code in BROKEN_OFF else int(good(reply)["version"])

        version: int = await eventually(answered, SERVED_AGAIN)
        return version

    async def hands_in(self) -> None:
        """See one's answers, submit them, and wait until they are scored."""
        found = answers(good(await self.student.read(self.session)))
        assert found == {"q3": ("number", str(len(self.versions)))}
        submitted = good(await self.student.submit(self.session), 200, 202)
        result = await self.student.outcome(self.session)
        assert (result["status"], result["answersSha256"]) == ("SCORED", submitted["answersSha256"])


@asynccontextmanager
async def students(stack: Stack, exam: str) -> AsyncIterator[list[Sitting]]:
    """Students who save during this block, and hand in at its end."""
    async with AsyncExitStack() as desks:
        entered = [await desks.enter_async_context(Student(stack)) for _ in range(STUDENTS)]
        sittings = [Sitting(student, (await student.sit(exam))["sessionId"]) for student in entered]
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for sitting in sittings:
                group.create_task(sitting.saves(stop))
            yield sittings
            stop.set()
        for sitting in sittings:
            await sitting.hands_in()


async def saved_since(sitting: Sitting) -> None:
    """Wait until some saves were answered from now on."""
    before = len(sitting.versions)

    async def more() -> bool:
        return len(sitting.versions) >= before + 3

    await eventually(more, SERVED_AGAIN)


@pytest.mark.parametrize(("tiers", "how"), [(OURS, signal.SIGTERM), (("envoy",), signal.SIGKILL)], ids=["ours", "envoy"])
async def test_students_notice_nothing_of_a_restart_of_every_tier_but_a_pause(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, tiers: tuple[str, ...], how: signal.Signals
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with students(stack, exam_id) as sittings:
        for tier in tiers:
            before = stack.pid(tier)
            os.kill(before, how)
            await restarted(stack, tier, before)
            await asyncio.gather(*(saved_since(sitting) for sitting in sittings))

    for sitting in sittings:
        assert sitting.versions == list(range(1, len(sitting.versions) + 1))
        assert len(sitting.versions) >= 3 * len(tiers)
    assert len(await fetch(stack, "SELECT FROM result WHERE exam_id = $1", exam_id)) == STUDENTS

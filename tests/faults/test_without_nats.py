"""NATS may be away for as long as it likes: students are served, and every submit is scored in the end (RELIABILITY F10)."""

import os
import re
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faults.harm import fetch, insist, jetstream, kill, nobody_pulls, restarted, stopped
from tests.flows.sitting import Student, good
from tests.stack import Stack, eventually

LONG = "\x01" * 10_000
"""A text that JSON writes with six characters for each of its own."""


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    await stack.import_exam(small_exam, exam_id, maxAttempts=100)
    return exam_id


async def test_a_session_service_that_is_started_while_nats_is_away_saves_and_keeps_submits(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        with stopped(stack, "nats"):
            before = kill(stack, "session")
            await restarted(stack, "session", before)
            good(await insist(lambda: student.save(session, "q1", "the-key-of-it", choice="B")))
            with stopped(stack, "scoring-worker"):
                good(await insist(lambda: student.submit(session, "the-key-of-all")), 202)
                kept = await fetch(stack, "SELECT FROM submission WHERE session_id = $1", uuid.UUID(session))
        result = await student.outcome(session)

        async def at_once() -> bool:
            again = (await student.sit(exam))["sessionId"]
            reply = await student.submit(again)
            return reply.status_code == 200

        await eventually(at_once, 30)  # and it hears of scores again

    assert len(kept) == 1
    assert result["score"] == 2


@contextmanager
def another_password(stack: Stack, account: str) -> Iterator[None]:
    """Give one account another password, as a rotation does that forgot the service: NATS hangs up on it for good."""
    config = stack.home / "config" / "nats.conf"
    original = config.read_text()
    config.write_text(re.sub(rf'(user: {account}, password: ")[^"]*', r"\1another", original))
    os.kill(stack.pid("nats"), signal.SIGHUP)
    try:
        yield
    finally:
        config.write_text(original)
        os.kill(stack.pid("nats"), signal.SIGHUP)


async def test_a_service_whose_connection_nats_has_closed_for_good_is_started_anew(stack: Stack, exam: str) -> None:
    before = stack.pid("session")
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        with another_password(stack, "session"):
            await restarted(stack, "session", before)
            good(await insist(lambda: student.submit(session, "the-key-of-all")), 202)
        result = await student.outcome(session)

    assert result["status"] == "SCORED"


async def test_the_largest_answers_are_scored_and_keep_nobody_from_it(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    texts = [{**small_exam["questions"][3], "id": f"t{number}"} for number in range(26)]
    await stack.import_exam({**small_exam, "questions": texts}, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        saves = [await student.save(session, question["id"], text=LONG) for question in texts]
        good(await student.submit(session), 200, 202)
        result = await student.outcome(session)

    assert {save.status_code for save in saves} == {200}
    assert result["status"] == "SCORED"


async def test_kept_submits_are_scored_from_where_they_are_and_one_that_cannot_be_read_holds_up_no_other(
    stack: Stack, exam: str
) -> None:
    keep = "INSERT INTO submission (session_id, subject, event) VALUES ($1, $2, $3)"
    async with Student(stack) as first, Student(stack) as second, Student(stack, roles=["admin"]) as admin:
        sessions = [(await student.sit(exam))["sessionId"] for student in (first, second)]
        with stopped(stack, "scoring-worker"):
            await nobody_pulls(stack)
            for student, session in zip((first, second), sessions, strict=True):
                good(await student.submit(session), 202)
            async with jetstream(stack) as stream:
                events = [(await stream.get_last_msg("SUBMITS", f"submits.{exam}.{one}")).data for one in sessions]
                for one in sessions:
                    await stream.purge_stream("SUBMITS", subject=f"submits.{exam}.{one}")
            await fetch(stack, keep, uuid.UUID(sessions[0]), f"submits.{exam}.{sessions[0]}", events[0] + b"\0" * 1_000)
            await fetch(stack, keep, uuid.UUID(sessions[1]), f"submits.{exam}.{sessions[1]}", events[1])
        younger = await second.outcome(sessions[1])

        async def buried() -> list[Any]:
            return await fetch(stack, "SELECT id FROM dead_letter WHERE session_id = $1", uuid.UUID(sessions[0]))

        letter = (await eventually(buried))[0]["id"]
        left = await fetch(stack, "SELECT FROM submission WHERE session_id = ANY ($1)", list(map(uuid.UUID, sessions)))
        good(await admin.http.post(f"/api/v1/admin/deadLetters/{letter}:replay", json={}))
        older = await first.outcome(sessions[0])

    assert left == []
    assert [result["status"] for result in (older, younger)] == ["SCORED", "SCORED"]

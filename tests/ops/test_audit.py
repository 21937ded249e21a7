"""`finalbell audit`: it finds nothing where nothing is wrong, and each promise that was broken behind the product's back."""

import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import Result
from redis.asyncio import Redis
from typer.testing import CliRunner

from ops.main import app
from tests.faults.harm import fetch, stopped
from tests.flows.sitting import Student, good
from tests.stack import Stack, fresh

Break = Callable[[Stack, str, str], Awaitable[object]]


def audit(stack: Stack, *words: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, words), "--json", "--home", str(stack.home)])


def violated(result: Result) -> set[str]:
    """Return the promises that an audit found broken."""
    return {str(violation["invariant"]) for violation in json.loads(result.stdout)["violations"]}


def live_key(session: str) -> str:
    return f"s:{{{UUID(session).int % 64:02d}}}:{session}"


async def sat(stack: Stack, exam: str) -> str:
    """Sit an exam to its score, with time given, a pause and a cohort; returns the session."""
    async with Student(stack, cohorts=["red"]) as student, Student(stack, roles=["proctor"]) as proctor:
        session = (await student.sit(exam))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        good(await student.save(session, "q2", choices={"ids": ["A", "C"]}))
        good(await student.pause(session))
        good(await student.resume(session))
        good(await proctor.accommodate(student.name, exam, factor=1.25))
        good(await proctor.adjust(session, 60))
        good(await student.save(session, "q4", text='a "quoted" ankara'))
        good(await student.submit(session), 200, 202)
        await student.outcome(session)
    return str(session)


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    await stack.import_exam(small_exam, exam_id, pause={"maxPauses": 2, "maxTotalSeconds": 60}, tieBreak="DURATION")
    return exam_id


async def test_an_exam_with_nothing_wrong_holds_every_promise(stack: Stack, exam: str) -> None:
    for _ in range(3):
        await sat(stack, exam)

    result = audit(stack, exam)

    assert result.exit_code == 0, result.output
    checks = {tuple(check["invariants"]): check["facts"] for check in json.loads(result.stdout)["checks"]}
    assert checks["I12", "I15"] == checks["I6",] == 3
    assert checks["I16", "I17"] >= 3


async def change(stack: Stack, query: str, *arguments: object) -> object:
    return await fetch(stack, query, *arguments)


async def other_score(stack: Stack, exam: str, session: str) -> object:
    return await change(stack, "UPDATE result SET score = score + 1 WHERE session_id = $1", session)


async def other_answers(stack: Stack, exam: str, session: str) -> object:
    text = '{"q1":"c:A"}'
    digest = hashlib.sha256(text.encode()).digest()
    query = "UPDATE result SET answers = $2, answers_sha256 = $3 WHERE session_id = $1"
    return await change(stack, query, session, text, digest)


async def no_result(stack: Stack, exam: str, session: str) -> object:
    return await change(stack, "DELETE FROM result WHERE session_id = $1", session)


async def a_later_end(stack: Stack, exam: str, session: str) -> object:
    return await change(stack, "UPDATE exam_session SET ends_at = ends_at + interval '1 second' WHERE id = $1", session)


async def handed_in_late(stack: Stack, exam: str, session: str) -> object:
    query = "UPDATE exam_session SET submitted_at = ends_at + interval '1 hour' WHERE id = $1"
    return await change(stack, query, session)


async def a_better_place(stack: Stack, exam: str, session: str) -> object:
    return await change(stack, "UPDATE standing SET order_key = order_key + 1 WHERE exam_id = $1", exam)


async def a_lost_board(stack: Stack, exam: str, session: str) -> object:
    async with Redis.from_url(stack.read()["redis"]) as redis:
        return await redis.zremrangebyrank(f"lb:{{{exam}}}", 0, -1)


async def a_wrong_count(stack: Stack, exam: str, session: str) -> object:
    async with Redis.from_url(stack.read()["redis"]) as redis:
        return await redis.hincrby(f"lbhist:{{{exam}}}", "3", 1)


async def counted_in_another_band(stack: Stack, exam: str, session: str) -> object:
    async with Redis.from_url(stack.read()["redis"]) as redis:
        counts = {int(band): int(count) for band, count in (await redis.hgetall(f"lbhist:{{{exam}}}")).items() if band[:1] != b"!"}
        await redis.hincrby(f"lbhist:{{{exam}}}", str(max(counts) + 1), 1)
        return await redis.hincrby(f"lbhist:{{{exam}}}", str(max(counts)), -1)


async def shown_while_held(stack: Stack, exam: str, session: str) -> object:
    await change(stack, "UPDATE exam SET board_frozen_at = now() WHERE id = $1", exam)
    return await change(stack, "UPDATE standing SET held = true, held_key = order_key - 1 WHERE exam_id = $1", exam)


async def no_cohort(stack: Stack, exam: str, session: str) -> object:
    return await change(stack, "UPDATE standing SET cohorts = '{}' WHERE exam_id = $1", exam)


async def a_cohort_that_nobody_knows_of(stack: Stack, exam: str, session: str) -> object:
    await no_cohort(stack, exam, session)
    async with Redis.from_url(stack.read()["redis"]) as redis:
        return await redis.delete(f"lb:{{{exam}}}:c:red")


async def back_to_life(stack: Stack, exam: str, session: str) -> object:
    async with Redis.from_url(stack.read()["redis"]) as redis:
        return await redis.hset(live_key(session), "s", "I")


async def a_forgotten_moment(stack: Stack, exam: str, session: str) -> object:
    return await change(stack, "UPDATE exam_session SET submit_reason = NULL WHERE id = $1", session)


BREAKS: list[tuple[str, Break]] = [
    ("I12", other_score),
    ("I6", other_answers),
    ("I10", no_result),
    ("I4", a_later_end),
    ("I4", handed_in_late),
    ("I17", a_better_place),
    ("I16", a_lost_board),
    ("I16", a_wrong_count),
    ("I16", counted_in_another_band),
    ("I16", shown_while_held),
    ("I17", no_cohort),
    ("I16", a_cohort_that_nobody_knows_of),
    ("I6", back_to_life),
    ("I13", a_forgotten_moment),
]


@pytest.mark.parametrize(("promise", "breaks"), BREAKS, ids=lambda one: getattr(one, "__name__", one))
async def test_a_promise_that_is_broken_behind_the_products_back_is_found(
    stack: Stack, exam: str, promise: str, breaks: Break
) -> None:
    session = await sat(stack, exam)
    before = audit(stack, exam)

    await breaks(stack, exam, session)

    after = audit(stack, exam)
    assert (before.exit_code, after.exit_code) == (0, 1), before.output
    assert promise in violated(after)


async def test_who_is_held_back_on_a_board_that_is_not_frozen_is_found(stack: Stack, exam: str) -> None:
    await sat(stack, exam)
    with stopped(stack, "scoring"):  # which would show them again
        before = audit(stack, exam)
        await change(stack, "UPDATE standing SET held = true, held_key = order_key - 1 WHERE exam_id = $1", exam)

        after = audit(stack, exam)

    assert (before.exit_code, after.exit_code) == (0, 1), before.output
    assert "I17" in violated(after)


async def test_a_click_that_postgresql_has_not_heard_of_after_a_minute_is_found(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, Redis.from_url(stack.read()["redis"]) as redis:
        session = str((await student.sit(exam))["sessionId"])

        async def clicked(seconds: int) -> Result:
            at = round((time.time() - seconds) * 1000)
            await redis.hset(live_key(session), mapping={"s": "S", "w": "CLICK", "z": at})
            return audit(stack, exam)

        early, late = await clicked(30), await clicked(90)

    assert early.exit_code == 0, early.output
    assert violated(late) == {"I10"}


async def test_a_letter_of_a_session_that_runs_is_no_submit_and_one_of_a_lost_session_is(stack: Stack, exam: str) -> None:
    letter = "INSERT INTO dead_letter (session_id, subject, event, error, created_at) VALUES ($1, $2, '', 'a test', $3)"
    async with Student(stack) as student, Redis.from_url(stack.read()["redis"]) as redis:
        session = str((await student.sit(exam))["sessionId"])
        await fetch(stack, letter, session, f"none.{session}", datetime.now(UTC) - timedelta(seconds=90))

        running = audit(stack, exam)
        await redis.delete(live_key(session))
        lost = audit(stack, exam)
        await fetch(stack, "UPDATE dead_letter SET created_at = now() - interval '30 seconds' WHERE session_id = $1", session)
        early = audit(stack, exam)

    await fetch(stack, "DELETE FROM dead_letter WHERE session_id = $1", session)
    assert (running.exit_code, early.exit_code) == (0, 0), running.output + early.output
    assert violated(lost) == {"I10"}


async def test_what_a_client_recorded_is_held_against_what_was_scored(stack: Stack, exam: str, tmp_path: Path) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        saved = good(await student.save(session, "q1", "key-number-1", choice="B"))
        good(await student.submit(session), 200, 202)
        await student.outcome(session)
    call = {
        "kind": "call",
        "rpc": "SaveAnswer",
        "student": student.name,
        "exam": exam,
        "session": session,
        "key": "key-number-1",
        "question": "q1",
        "answer": "c:B",
        "sent_ms": 1.0,
        "received_ms": 2.0,
        "code": "OK",
        "reply": {"saved": True, "version": saved["version"]},
    }
    told, lost = tmp_path / "told.jsonl", tmp_path / "lost.jsonl"
    told.write_text(json.dumps(call) + "\n")
    newer = {**call, "key": "key-number-2", "answer": "c:C", "reply": {"saved": True, "version": saved["version"] + 1}}
    lost.write_text("".join(json.dumps(one) + "\n" for one in (call, {**newer, "sent_ms": 3.0, "received_ms": 4.0})))

    holds, broken = audit(stack, exam, "--history", told), audit(stack, exam, "--history", lost)

    assert holds.exit_code == 0, holds.output
    assert broken.exit_code == 1
    assert "I1" in violated(broken)


@pytest.mark.parametrize(
    ("answered", "promise"),
    [
        ({"code": "OK"}, "I23"),
        ({"code": "NOT_FOUND", "reason": "SESSION_NOT_FOUND", "message": "There is no such session."}, None),
        ({"code": "PERMISSION_DENIED", "reason": "ROLE_REQUIRED", "message": "It is not yours."}, "I23"),
        ({"code": "UNAVAILABLE", "reason": "OVERLOADED", "retry_ms": 1000, "message": "Too many wait."}, None),
        ({"code": "UNAVAILABLE", "reason": "OVERLOADED", "message": "Too many wait."}, "I28"),
        ({"code": "INTERNAL", "reason": "INTERNAL"}, "I28"),
    ],
    ids=lambda one: str(one.get("reason", "OK")) if isinstance(one, dict) else str(one),
)
async def test_how_a_call_on_anothers_session_was_answered_is_looked_at(
    stack: Stack, exam: str, tmp_path: Path, answered: dict[str, Any], promise: str | None
) -> None:
    session = await sat(stack, exam)
    history = tmp_path / "history.jsonl"
    call = {"kind": "call", "rpc": "GetSession", "student": "somebody-else", "exam": exam, "session": session, "key": ""}
    history.write_text(json.dumps({**call, "sent_ms": 1.0, "received_ms": 2.0, "reply": {}, **answered}) + "\n")

    found = violated(audit(stack, exam, "--history", history))

    assert (promise in found) if promise else (found == set()), found


def test_an_exam_that_is_not_there_and_a_history_that_cannot_be_read_are_said_so(stack: Stack, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text('{"kind": "call"}\n')

    unknown, unreadable = audit(stack, fresh("x")), audit(stack, "--history", damaged)

    assert (unknown.exit_code, unreadable.exit_code) == (2, 2)
    assert "There is no exam" in unknown.output
    assert "line 1 of damaged.jsonl" in unreadable.output

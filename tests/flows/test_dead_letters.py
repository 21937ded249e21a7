"""A submit that cannot be scored waits in an operator's sight, and is scored with the frozen answers once it can be."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from click.testing import Result
from finalbell.v1 import admin_pb2
from redis.asyncio import Redis
from typer.testing import CliRunner

from ops.admin import Admin
from ops.main import app
from tests.faults.harm import fetch, jetstream
from tests.flows.sitting import Student, canonical, good, refusal
from tests.stack import Stack, eventually, fresh, uuid7

Run = Callable[..., Result]


@pytest.fixture
def run(stack: Stack) -> Run:
    """Runs a command against the shared stack."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, [*map(str, words), "--home", str(stack.home)])

    return invoke


@asynccontextmanager
async def staff(stack: Stack, role: str = "admin") -> AsyncIterator[Student]:
    async with Student(stack, roles=[role]) as student:
        yield student


async def letters(of: Student, **match: str) -> list[dict[str, Any]]:
    """Return the letters that wait and match."""
    found: list[dict[str, Any]] = []
    page = ""
    while True:
        reply = good(await of.http.get("/api/v1/admin/deadLetters", params={"pageSize": 2, "pageToken": page}))
        found += [one for one in reply["letters"] if match.items() <= one.items()]
        page = reply["nextPageToken"]
        if not page:
            return found


async def one_letter(of: Student, **match: str) -> dict[str, Any]:
    """Wait for the one letter that matches."""

    async def there() -> dict[str, Any] | None:
        found = await letters(of, **match)
        assert len(found) <= 1
        return found[0] if found else None

    letter: dict[str, Any] = await eventually(there, 30)
    return letter


async def replayed(of: Student, letter: dict[str, Any]) -> dict[str, Any]:
    return good(await of.http.post(f"/api/v1/admin/deadLetters/{letter['letterId']}:replay", json={}))


async def damage_key(stack: Stack, exam: str) -> None:
    """Write a key that grading cannot read."""
    await fetch(stack, """UPDATE keys.answer_key SET answer = '{"odd": 1}' WHERE exam_id = $1 AND question_id = 'q1'""", exam)


async def publish(stack: Stack, subject: str, event: bytes) -> None:
    async with jetstream(stack) as stream:
        await stream.publish(subject, event)


async def test_a_submit_that_cannot_be_graded_waits_and_is_scored_after_the_keys_are_mended(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    await damage_key(stack, exam_id)
    async with Student(stack) as student, staff(stack) as admin:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="C"))
        submitted = good(await student.submit(session), 202)
        letter = await one_letter(admin, sessionId=session)
        meanwhile = await student.result(session)

        mended = json.loads(json.dumps(small_exam))
        mended["questions"][0]["answer"]["choice"] = "C"
        await stack.import_exam(mended, exam_id)
        assert await replayed(admin, letter) == {"sessionId": session}
        result = await student.outcome(session)
        again = await admin.http.post(f"/api/v1/admin/deadLetters/{letter['letterId']}:replay", json={})
        waiting = await letters(admin, sessionId=session)

    assert (letter["examId"], letter["studentId"]) == (exam_id, student.name)
    assert (meanwhile.status_code, meanwhile.json()["status"]) == (202, "SCORING")
    assert (result["status"], result["score"]) == ("SCORED", 2)
    assert result["answersSha256"] == submitted["answersSha256"] == canonical({"q1": ("choice", "C")})
    assert refusal(again) == (404, "DEAD_LETTER_NOT_FOUND")
    assert waiting == []
    log = await fetch(stack, "SELECT actor, subject FROM audit_log WHERE action = 'deadletter.replay' ORDER BY id DESC LIMIT 50")
    assert [row["actor"] for row in log if session in row["subject"]] == [admin.name]


async def test_one_that_was_published_too_often_is_buried_whole_and_parked_and_can_be_replayed(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    key_of_q1 = f"FROM keys.answer_key WHERE exam_id = '{exam_id}' AND question_id = 'q1'"
    await fetch(stack, f"CREATE TABLE kept_{exam_id} AS SELECT * {key_of_q1}")
    await fetch(stack, f"DELETE {key_of_q1}")
    async with Student(stack) as student, staff(stack) as admin, Redis.from_url(stack.read()["redis"]) as redis:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        good(await student.submit(session), 202)
        tag = f"{{{uuid.UUID(session).int % 64:02d}}}"
        await redis.hset(f"s:{tag}:{session}", "y", "100")
        await redis.zadd(f"unscored:{tag}", {session: 0})
        letter = await one_letter(admin, sessionId=session)
        parked = await redis.zscore(f"parked:{tag}", session), await redis.zscore(f"unscored:{tag}", session)
        async with jetstream(stack) as stream:
            await stream.purge_stream("SUBMITS", subject=f"submits.{exam_id}.{session}")

        await fetch(stack, f"INSERT INTO keys.answer_key SELECT * FROM kept_{exam_id}")
        await fetch(stack, f"DROP TABLE kept_{exam_id}")
        await replayed(admin, letter)
        result = await student.outcome(session)

    assert parked[0] is not None
    assert parked[1] is None
    assert "often" in letter["error"]
    assert (result["status"], result["score"]) == ("SCORED", 2)


async def test_a_letter_whose_session_is_scored_all_the_same_waits_no_more(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student, staff(stack) as admin:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        await publish(stack, f"submits.{exam_id}.{session}", b"\xff\xff not an event")
        letter = await one_letter(admin, sessionId=session)
        good(await student.submit(session), 200, 202)
        result = await student.outcome(session)

        async def gone() -> bool:
            return await letters(admin, sessionId=session) == []

        await eventually(gone)

    assert letter["examId"] == exam_id
    assert (result["status"], result["score"]) == ("SCORED", 2)


async def test_a_damaged_event_is_replayed_from_the_session_itself(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    await damage_key(stack, exam_id)
    async with Student(stack) as student, staff(stack) as admin:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        good(await student.save(session, "q3", number="3.5"))
        good(await student.submit(session), 202)
        letter = await one_letter(admin, sessionId=session)
        await fetch(stack, "UPDATE dead_letter SET event = 'rotten' WHERE id = $1", int(letter["letterId"]))
        await stack.import_exam({**small_exam, "questions": [*small_exam["questions"][:3], _other_key(small_exam)]}, exam_id)

        await replayed(admin, letter)
        result = await student.outcome(session)

    assert (result["status"], result["score"]) == ("SCORED", 6)


def _other_key(exam: dict[str, Any]) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(json.dumps(exam["questions"][3]))
    last["answer"]["accept"].append("Angora")
    return last


async def test_only_what_belongs_to_no_session_is_discarded(stack: Stack, run: Run) -> None:
    stranger, subject = str(uuid7()), f"submits.{fresh('x')}.nobody"
    await publish(stack, subject, b"\xff")
    await publish(stack, f"submits.{fresh('x')}.{stranger}", b"\xff")
    async with staff(stack) as admin:
        await one_letter(admin, sessionId=stranger)

        async def row() -> str | None:
            found = await fetch(stack, "SELECT id FROM dead_letter WHERE subject = $1", subject)
            return str(found[0]["id"]) if found else None

        letter = await eventually(row)
        replay = await admin.http.post(f"/api/v1/admin/deadLetters/{letter}:replay", json={})
    async with staff(stack, "proctor") as proctor:
        by_proctor = await proctor.http.post(f"/api/v1/admin/deadLetters/{letter}:discard", json={"reason": "noise"})

    shown, discarded = run("scoring", "dlq"), run("scoring", "discard", letter, "--reason", "noise from a test")
    after = json.loads(run("scoring", "dlq", "--json").stdout)["letters"]
    theirs = next(one["letterId"] for one in after if one["sessionId"] == stranger)
    discarded_too = run("scoring", "discard", theirs, "--reason", "noise from a test")

    assert refusal(replay) == (400, "NOTHING_TO_REPLAY")
    assert refusal(by_proctor) == (403, "ROLE_REQUIRED")
    assert stranger in shown.stdout
    assert (discarded.exit_code, discarded_too.exit_code) == (0, 0), discarded.output + discarded_too.output
    assert letter not in [one["letterId"] for one in after]
    kept = await fetch(stack, "SELECT discarded FROM dead_letter WHERE subject = $1", subject)
    assert [row["discarded"] for row in kept] == [True]


async def test_a_letter_that_somebody_else_has_replayed_meanwhile_does_not_keep_the_others_from_it(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stack.import_exam(small_exam, exam_id)
    await damage_key(stack, exam_id)
    async with Student(stack) as student, staff(stack) as admin:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        good(await student.submit(session), 202)
        letter = (await one_letter(admin, sessionId=session))["letterId"]
        await stack.import_exam({**small_exam, "questions": [*small_exam["questions"][:3], _other_key(small_exam)]}, exam_id)
        gone = admin_pb2.DeadLetter(letter_id="999999999", session_id=session)
        listed = [gone, admin_pb2.DeadLetter(letter_id=letter, session_id=session)]
        monkeypatch.setattr(Admin, "dead_letters", lambda _: admin_pb2.ListDeadLettersResponse(letters=listed))

        replay = run("scoring", "dlq", "replay", "--all")
        result = await student.outcome(session)

    assert replay.exit_code == 1
    assert "999999999: not replayed." in replay.stderr
    assert "There is no such dead letter that waits" in replay.stderr
    assert f"{letter}: session {session} is on its way to scoring." in replay.stdout
    assert result["status"] == "SCORED"


async def test_a_session_that_waits_for_its_result_cannot_be_discarded(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run
) -> None:
    await stack.import_exam(small_exam, exam_id)
    await damage_key(stack, exam_id)
    async with Student(stack) as student, staff(stack) as admin:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        good(await student.submit(session), 202)
        letter = (await one_letter(admin, sessionId=session))["letterId"]

        refused = run("scoring", "discard", letter, "--reason", "out of my sight")
        await stack.import_exam({**small_exam, "questions": [*small_exam["questions"][:3], _other_key(small_exam)]}, exam_id)
        replay = run("scoring", "replay", letter)
        result = await student.outcome(session)

    assert refused.exit_code == 1
    assert "A student waits for this result" in refused.output
    assert replay.exit_code == 0, replay.output
    assert session in replay.stdout
    assert result["status"] == "SCORED"

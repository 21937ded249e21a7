"""When a session ends, and who may change it: the sum is explained, told to nobody before it is kept, and survives."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.flows.sitting import Student, detail, good, refusal, wrong_fields
from tests.stack import Stack, eventually

PAUSES = {"maxPauses": 2, "maxTotalSeconds": 60}


def at(text: str) -> datetime:
    """Read a time of a reply."""
    return datetime.fromisoformat(text)


def seconds(session: dict[str, Any]) -> float:
    """How long a session has from its start."""
    return (at(session["endsAt"]) - at(session["startedAt"])).total_seconds()


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    """An exam of 30 minutes with two pauses, a minute in all."""
    await stack.import_exam(small_exam, exam_id, durationSeconds=1800, pause=PAUSES)
    return exam_id


# Pauses


async def test_a_paused_session_takes_no_answer_and_its_time_stands_still(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        key = uuid.uuid4().hex
        saved = good(await student.save(session, "q1", key, choice="A"))
        paused = good(await student.pause(session))
        await asyncio.sleep(1)
        refused = await student.save(session, "q1", choice="B")
        replay = good(await student.save(session, "q1", key, choice="A"))
        read = good(await student.read(session))
        listed = good(await student.http.get("/api/v1/sessions"))["sessions"][0]
        resumed = good(await student.resume(session))
        newer = good(await student.save(session, "q1", choice="B"))

    assert paused["status"] == read["status"] == listed["status"] == "PAUSED"
    assert refusal(refused) == (400, "SESSION_PAUSED")
    assert {**replay, "endsAt": ""} == {**saved, "endsAt": ""}
    assert paused["remainingMs"] == read["remainingMs"]
    assert read["remainingMs"] - 500 < resumed["remainingMs"] <= read["remainingMs"]
    assert resumed["status"] == "IN_PROGRESS"
    assert "pauseEndsAt" not in resumed
    assert 1801 <= seconds(resumed) < 1830
    assert newer["endsAt"] == resumed["endsAt"]
    assert newer["version"] == 2


async def test_pausing_twice_and_resuming_twice_change_nothing(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        first, second = good(await student.pause(session)), good(await student.pause(session))
        resumed, again = good(await student.resume(session)), good(await student.resume(session))
        explained = good(await student.deadline(session))

    assert first["pauseEndsAt"] == second["pauseEndsAt"]
    assert resumed["endsAt"] == again["endsAt"] == explained["endsAt"]
    assert len(explained["pauses"]) == 1


async def test_pauses_end_when_their_budget_does(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=1800, pause={"maxPauses": 2, "maxTotalSeconds": 2})
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        paused = good(await student.pause(session))

        async def running() -> dict[str, Any] | None:
            found = good(await student.read(session))
            return found if found["status"] == "IN_PROGRESS" else None

        by_itself = await eventually(running)
        saved = good(await student.save(session, "q1", choice="A"))
        refused = await student.pause(session)

    assert (at(paused["pauseEndsAt"]) - at(paused["serverTime"])).total_seconds() == pytest.approx(2, abs=0.5)
    assert seconds(by_itself) == 1802
    assert saved["endsAt"] == by_itself["endsAt"]
    assert refusal(refused) == (400, "PAUSE_NOT_ALLOWED")
    assert detail(refused, "ErrorInfo")["metadata"] == {
        "maxPauses": "2",
        "maxTotalSeconds": "2",
        "usedPauses": "1",
        "usedSeconds": "2",
    }


async def test_a_submit_while_paused_is_taken_and_the_pause_does_not_count_as_time_used(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=1800, pause=PAUSES, tieBreak="DURATION")
    async with Student(stack) as pauses, Student(stack) as hurries:
        slow = (await pauses.sit(exam_id))["sessionId"]
        good(await pauses.pause(slow))
        await asyncio.sleep(1.2)
        quick = (await hurries.sit(exam_id))["sessionId"]
        await asyncio.sleep(0.6)
        good(await hurries.submit(quick), 200, 202)
        good(await pauses.submit(slow), 200, 202)
        results = [await one.outcome(id_) for one, id_ in ((pauses, slow), (hurries, quick))]
        after = [await pauses.pause(slow), await pauses.resume(slow)]

        async def ranked() -> list[int] | None:
            boards = [(await one.board(exam_id)).get("me") for one in (pauses, hurries)]
            return [board["rank"] for board in boards] if all(boards) else None

        ranks = await eventually(ranked)

    assert [result["status"] for result in results] == ["SCORED", "SCORED"]
    assert [refusal(reply) for reply in after] == [(400, "SESSION_SUBMITTED")] * 2
    assert ranks == [1, 2]


async def test_an_exam_without_pauses_cannot_be_paused_and_a_stranger_finds_nothing_to_pause(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student, Student(stack) as stranger:
        session = (await student.sit(exam_id))["sessionId"]
        before = good(await student.read(session))
        refused, foreign = await student.pause(session), [await stranger.pause(session), await stranger.deadline(session)]
        after = good(await student.read(session))

    assert refusal(refused) == (400, "PAUSE_NOT_ALLOWED")
    assert [refusal(reply) for reply in foreign] == [(404, "SESSION_NOT_FOUND")] * 2
    assert before["endsAt"] == after["endsAt"]


# Extra time


async def test_every_term_is_listed_and_adds_up(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, Student(stack, roles=["admin"]) as staff:
        good(await staff.accommodate(student.name, factor=1.25))
        session = await student.sit(exam)
        good(await student.pause(session["sessionId"]))
        good(await student.resume(session["sessionId"]))
        given = good(await staff.adjust(session["sessionId"], 90))
        taken = good(await staff.adjust(session["sessionId"], -30, "too much"))
        mine, theirs = good(await student.deadline(session["sessionId"])), good(await staff.deadline(session["sessionId"]))
        read = good(await student.read(session["sessionId"]))

    assert seconds(session) == 1800 + 450
    assert mine["endsAt"] == theirs["endsAt"] == taken["endsAt"] == read["endsAt"]
    assert (mine["durationSeconds"], mine["accommodation"]) == (1800, {"scope": "ALL_EXAMS", "factor": 1.25, "seconds": 450})
    assert [(one["seconds"], one["reason"]) for one in mine["adjustments"]] == [(90, "a power cut"), (-30, "too much")]
    total = 1800 + 450 + 90 - 30 + mine["pauses"][0]["lengthMs"] / 1000
    assert (at(mine["endsAt"]) - at(mine["startedAt"])).total_seconds() == pytest.approx(total, abs=0.001)
    assert "closesAt" not in mine
    assert len(given["adjustments"]) == 1


async def test_extra_time_for_an_exam_stands_in_place_of_that_for_all_and_reaches_a_running_session(
    stack: Stack, exam: str
) -> None:
    async with Student(stack) as student, Student(stack, roles=["proctor"]) as staff:
        session = await student.sit(exam)
        everywhere = good(await staff.accommodate(student.name, extraSeconds=600, reason="dyslexia"))
        first = good(await student.read(session["sessionId"]))
        here = good(await staff.accommodate(student.name, exam, extraSeconds=60))
        second = good(await student.read(session["sessionId"]))
        good(await staff.accommodate(student.name, exam, extraSeconds=0))
        third = good(await student.save(session["sessionId"], "q1", choice="A"))

    assert (everywhere["sessionsMoved"], here["sessionsMoved"]) == (1, 1)
    assert [seconds(session), seconds(first), seconds(second)] == [1800, 2400, 1860]
    assert third["endsAt"] == session["endsAt"]


async def test_a_repeated_adjustment_is_made_once_and_its_key_is_good_for_no_other(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, Student(stack, roles=["proctor"]) as staff:
        session = (await student.sit(exam))["sessionId"]
        key = uuid.uuid4().hex
        first, again = good(await staff.adjust(session, 60, key=key)), good(await staff.adjust(session, 60, key=key))
        other = await staff.adjust(session, 61, key=key)
        past, unknown = await staff.adjust(session, -86_400), await staff.adjust(str(uuid.uuid4()), 60)
        nothing, by_student = await staff.adjust(session, 0), await student.adjust(session, 60)

    assert first["endsAt"] == again["endsAt"]
    assert len(again["adjustments"]) == 1
    assert refusal(other) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert wrong_fields(past) == wrong_fields(nothing) == ["seconds"]
    assert refusal(unknown) == (404, "SESSION_NOT_FOUND")
    assert refusal(by_student) == (403, "ROLE_REQUIRED")


async def test_time_given_in_the_last_second_is_time_to_answer_in(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=2)
    async with Student(stack) as student, Student(stack, roles=["proctor"]) as staff:
        session = (await student.sit(exam_id))["sessionId"]
        good(await staff.adjust(session, 5))
        await asyncio.sleep(3.5)
        saved = await student.save(session, "q1", choice="B")

        async def rung() -> bool:
            return bool(good(await student.read(session))["status"] != "IN_PROGRESS")

        await eventually(rung)
        result = await student.outcome(session)

    assert good(saved)["saved"] is True
    assert result["score"] == 2


# The exam's close


async def test_a_moved_close_moves_every_session_that_is_in_progress_and_nobody_elses(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    closes = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=20)
    await stack.import_exam(small_exam, exam_id, durationSeconds=1800, closesAt=closes.isoformat())
    async with Student(stack) as sits, Student(stack) as helped, Student(stack) as done, Student(stack, roles=["admin"]) as staff:
        good(await staff.accommodate(helped.name, exam_id, extraSeconds=300))
        sessions = [await one.sit(exam_id) for one in (sits, helped, done)]
        good(await done.submit(sessions[2]["sessionId"]), 200, 202)
        await done.outcome(sessions[2]["sessionId"])
        earlier = closes - timedelta(minutes=10)
        moved = good(await staff.schedule(exam_id, closesAt=earlier.isoformat()))
        ends = [
            at(good(await one.read(session["sessionId"]))["endsAt"])
            for one, session in zip((sits, helped, done), sessions, strict=True)
        ]
        again = good(await staff.schedule(exam_id, closesAt=earlier.isoformat()))
        cleared = good(await staff.schedule(exam_id, clearClosesAt=True))
        free = good(await sits.read(sessions[0]["sessionId"]))

    def near(moment: datetime) -> Any:
        return pytest.approx(moment.timestamp(), abs=0.002)

    assert (moved["sessionsMoved"], again["sessionsMoved"], cleared["sessionsMoved"]) == (2, 0, 2)
    assert [one.timestamp() for one in ends] == [near(earlier), near(earlier + timedelta(minutes=5)), near(closes)]
    assert at(moved["report"]["exam"]["closesAt"]).timestamp() == near(earlier)
    assert seconds(free) == 1800


async def test_a_schedule_that_makes_no_sense_is_refused_and_changes_nothing(stack: Stack, exam: str) -> None:
    now = datetime.now(UTC)
    soon, past = (now + timedelta(hours=1)).isoformat(), (now - timedelta(hours=1)).isoformat()
    async with Student(stack, roles=["admin"]) as staff, Student(stack, roles=["proctor"]) as proctor:
        before = good(await staff.http.get(f"/api/v1/admin/exams/{exam}"))
        refused = [
            await staff.schedule(exam, closesAt=past),
            await staff.schedule(exam, opensAt=soon, closesAt=(now + timedelta(minutes=5)).isoformat()),
            await staff.schedule(exam, closesAt=soon, clearClosesAt=True),
        ]
        others = [await staff.schedule("no-such-exam", closesAt=soon), await proctor.schedule(exam, closesAt=soon)]
        after = good(await staff.http.get(f"/api/v1/admin/exams/{exam}"))
        good(await staff.http.post(f"/api/v1/admin/exams/{exam}:close", json={}))
        closed = await staff.schedule(exam, closesAt=soon)

    assert [wrong_fields(reply) for reply in refused] == [["closesAt"]] * 3
    assert [refusal(reply) for reply in others] == [(404, "EXAM_NOT_FOUND"), (403, "ROLE_REQUIRED")]
    assert refusal(closed) == (400, "EXAM_CLOSED")
    assert before == after


# What happens to it


async def test_a_wiped_redis_changes_nobodys_end_and_keeps_a_pause(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, Student(stack, roles=["proctor"]) as staff:
        session = (await student.sit(exam))["sessionId"]
        good(await staff.adjust(session, 77))
        paused = good(await student.pause(session))
        async with Redis.from_url(stack.read()["redis"]) as redis:
            await redis.delete(f"s:{{{uuid.UUID(session).int % 64:02d}}}:{session}")

        restored = good(await student.read(session))
        resumed = good(await student.resume(session))

    assert (restored["status"], restored["pauseEndsAt"]) == ("PAUSED", paused["pauseEndsAt"])
    assert restored["remainingMs"] == paused["remainingMs"]
    assert paused["remainingMs"] - 500 < resumed["remainingMs"] <= paused["remainingMs"]


async def test_a_late_click_is_a_click_when_time_was_given_back_that_redis_has_not_heard_of(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=1800)
    async with Student(stack) as student, Student(stack, roles=["proctor"]) as staff:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        good(await staff.adjust(session, 60))
        name = f"s:{{{uuid.UUID(session).int % 64:02d}}}:{session}"
        async with Redis.from_url(stack.read()["redis"]) as redis:
            ends = int(await redis.hget(name, "e"))
            seconds_, _ = await redis.time()
            await redis.hset(name, mapping={"e": seconds_ * 1000 - 1, "f": 1})
            owner = await asyncpg.connect(stack.read()["postgres"])
            await owner.execute("UPDATE exam_session SET deadline_applied = 1 WHERE id = $1", uuid.UUID(session))
            submitted = good(await student.submit(session), 200, 202)
            await owner.close()
        result = await student.outcome(session)

    assert result["score"] == 2
    assert at(submitted["submittedAt"]).timestamp() * 1000 < ends

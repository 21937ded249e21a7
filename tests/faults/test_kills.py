"""What students and examiners may rely on while processes die, freeze and come back (RELIABILITY F1–F20, D1–D9)."""

import asyncio
import os
import signal
import time
import uuid
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from finalbell.v1 import session_pb2
from finalbell.v1.session_pb2_grpc import SessionServiceStub
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.faults.harm import (
    all_written,
    crashing,
    dies,
    family,
    fetch,
    in_redis,
    insist,
    jetstream,
    kill,
    nobody_pulls,
    queued,
    restarted,
    stopped,
)
from tests.flows.sitting import Student, answers, canonical, detail, good, refusal
from tests.flows.transports import Native
from tests.stack import Stack, bearer, eventually, fresh

CACHES_ARE_OLD = 1.5
"""Seconds after which no process knows an exam's policies by heart (stores/catalog.py keeps them for one)."""

LONGER_THAN_THE_GATEWAYS = 30
"""A client that waits longer than Envoy's 15 s, to see what it is told in the end."""

SCORING_STEPS = ("D5", "D6", "D7", "D8", "D9")


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    await stack.import_exam(small_exam, exam_id)
    return exam_id


# Our own processes


async def test_an_acknowledged_save_counts_though_the_session_service_is_killed(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        first_key, second_key, submit_key = (uuid.uuid4().hex for _ in range(3))
        saved = good(await student.save(session, "q1", first_key, choice="B"))
        before = kill(stack, "session")

        second = good(await insist(lambda: student.save(session, "q3", second_key, number="3.5")))
        replay = good(await insist(lambda: student.save(session, "q1", first_key, choice="B")))
        submit = good(await insist(lambda: student.submit(session, submit_key)), 200, 202)
        result = await student.outcome(session)

    await restarted(stack, "session", before)
    assert replay == saved
    assert second["version"] == saved["version"] + 1
    assert (result["status"], result["score"]) == ("SCORED", 6)
    assert submit["answersSha256"] == result["answersSha256"] == canonical({"q1": ("choice", "B"), "q3": ("number", "3.5")})


async def test_saves_under_way_while_the_session_service_is_killed_count_once_each(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        keys = [uuid.uuid4().hex for _ in range(60)]

        async def save(n: int) -> dict[str, Any]:
            return good(await insist(lambda: student.save(session, "q3", keys[n], number=str(n), clientSeq=n + 1)))

        saving = asyncio.gather(*(save(n) for n in range(60)))
        kill(stack, "session")
        outcomes = await saving
        found = good(await student.read(session))

    versions = [outcome["version"] for outcome in outcomes if outcome["saved"]]
    assert len(set(versions)) == len(versions)
    assert sorted(versions) == list(range(1, len(versions) + 1))
    assert answers(found) == {"q3": ("number", "59")}


async def test_a_submit_whose_process_died_is_scored_with_and_without_the_students_help(stack: Stack, exam: str) -> None:
    cases = {"D2 and a retry": "D2", "D2 and no retry": "D2", "D3 and no retry": "D3"}

    async def crash(name: str, step: str) -> tuple[str, dict[str, Any]]:
        async with Student(stack) as student:
            session = (await student.sit(exam))["sessionId"]
            good(await student.save(session, "q1", choice="B"))
            key = uuid.uuid4().hex
            with crashing(stack, "session", step) as (address, process):
                async with grpc.aio.insecure_channel(address) as channel:
                    await asyncio.wait_for(channel.channel_ready(), 20)
                    request = session_pb2.SubmitSessionRequest(session_id=session)
                    call = SessionServiceStub(channel).SubmitSession(request, metadata=bearer(student.token, key), timeout=10)
                    with pytest.raises(grpc.aio.AioRpcError) as lost:
                        await call
                await dies(process)
            assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
            late_save = await student.save(session, "q1", choice="C")
            assert refusal(late_save) == (400, "SESSION_SUBMITTED")
            retry = good(await student.submit(session, key), 200, 202) if name.endswith("and a retry") else {}
            return name, {"retry": retry, "result": await student.outcome(session), "session": session}

    found = dict(await asyncio.gather(*(crash(name, step) for name, step in cases.items())))

    for name, one in found.items():
        assert (one["result"]["status"], one["result"]["score"]) == ("SCORED", 2), name
        assert one["result"]["answersSha256"] == canonical({"q1": ("choice", "B")}), name
    retry, result = found["D2 and a retry"]["retry"], found["D2 and a retry"]["result"]
    assert (retry["submittedAt"], retry["answersSha256"]) == (result["submittedAt"], result["answersSha256"])
    rows = await fetch(stack, "SELECT session_id FROM result WHERE exam_id = $1", exam)
    assert sorted(str(row["session_id"]) for row in rows) == sorted(one["session"] for one in found.values())


@dataclass(frozen=True, slots=True)
class Crash:
    """What stood where at the moment after a worker killed itself, and whom it concerns."""

    exam: str
    students: dict[str, tuple[str, int]]
    """Student to session and score."""

    results: int
    on_board: int
    told: int
    queued: int


@pytest.fixture(scope="module")
async def crashes(stack: Stack, small_exam: dict[str, Any]) -> dict[str, Crash]:
    """A scoring worker that died at each of its steps, one after the other, and then the supervised one's recovery.

    The supervised worker is frozen meanwhile, so that it is certain who pulls.
    """
    found = {}
    with stopped(stack, "scoring-worker"):
        await nobody_pulls(stack)
        for step in SCORING_STEPS:
            found[step] = await crash_at(stack, small_exam, step)

    async def all_acknowledged() -> bool:
        return not any([await queued(stack, crash.exam) for crash in found.values()])

    await eventually(all_acknowledged, 40)
    return found


async def crash_at(stack: Stack, small_exam: dict[str, Any], step: str) -> Crash:
    """Have three students submit, and a worker die at a step with their submits in its hands."""
    exam, students = fresh("t"), {}
    await stack.import_exam(small_exam, exam)
    for number, (choice, score) in enumerate((("B", 2), ("A", -1), ("B", 2))):
        async with Student(stack, f"{exam}-{number}", cohorts=["blue"]) as student:
            session = (await student.sit(exam))["sessionId"]
            good(await student.save(session, "q1", choice=choice))
            assert good(await student.submit(session), 202)["status"] == "SCORING"
            students[student.name] = session, score
    async with jetstream(stack) as stream:
        for _ in range(5):  # a life may end with an earlier step's submits only, which come again after their time
            with crashing(stack, "scoring-worker", step) as (_, process):
                await dies(process)
            if (await stream.consumer_info("SUBMITS", "scoring")).num_pending == 0:
                break
    async with Redis.from_url(stack.read()["redis"]) as redis:
        on_board = await redis.zcard(f"lb:{{{exam}}}") - (await redis.zscore(f"lb:{{{exam}}}", "!") is not None)
    told = [(await in_redis(stack, session))["s"] == b"D" for session, _ in students.values()]
    results = len(await fetch(stack, "SELECT FROM result WHERE exam_id = $1", exam))
    return Crash(exam, students, results, on_board, sum(told), await queued(stack, exam))


@pytest.mark.parametrize(
    ("step", "results", "on_board", "told", "waiting"),
    [("D5", 0, 0, 0, 3), ("D6", 3, 0, 0, 3), ("D7", 3, 3, 0, 3), ("D8", 3, 3, 3, 3), ("D9", 3, 3, 3, 0)],
)
async def test_a_worker_that_dies_leaves_no_more_than_a_repeat_can_mend(
    crashes: dict[str, Crash], step: str, results: int, on_board: int, told: int, waiting: int
) -> None:
    crash = crashes[step]

    assert (crash.results, crash.on_board, crash.told, crash.queued) == (results, on_board, told, waiting)


@pytest.mark.parametrize("step", SCORING_STEPS)
async def test_a_worker_that_died_at_any_step_has_scored_everybody_exactly_once(
    stack: Stack, crashes: dict[str, Crash], step: str
) -> None:
    crash = crashes[step]
    ranks = {student: 1 if score == 2 else 3 for student, (_, score) in crash.students.items()}

    for name, (session, score) in crash.students.items():
        async with Student(stack, name) as student:

            async def ranked(student: Student = student, session: str = session) -> Any:
                result = await student.outcome(session)
                return result if "rank" in result else None

            result = await eventually(ranked)

            async def told(student: Student = student, session: str = session) -> bool:
                return bool(good(await student.read(session))["status"] == "SCORED")

            await eventually(told)
        assert (result["status"], result["score"], result["rank"], result["revision"]) == ("SCORED", score, ranks[name], 1)

    rows = await fetch(stack, "SELECT session_id, student_id, score FROM result WHERE exam_id = $1", crash.exam)
    assert {row["student_id"]: (str(row["session_id"]), row["score"]) for row in rows} == crash.students
    assert len(rows) == len(crash.students)
    assert await queued(stack, crash.exam) == 0
    assert await fetch(stack, "SELECT FROM dead_letter WHERE subject LIKE 'submits.' || $1 || '.%'", crash.exam) == []
    await board_is_right(stack, crash.exam, ranks)


async def test_a_worker_that_slept_too_long_changes_nothing_when_it_wakes(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        with stopped(stack, "scoring-worker"):  # with a request for work still out, so that it may own the submit
            good(await student.submit(session), 202)
            with crashing(stack, "scoring-worker", "never"):
                result = await student.outcome(session)

        async def acknowledged() -> bool:
            return await queued(stack, exam) == 0

        await eventually(acknowledged)
        again = good(await student.result(session))

    assert (result["score"], again["score"], again["revision"]) == (2, 2, 1)
    assert len(await fetch(stack, "SELECT FROM result WHERE exam_id = $1", exam)) == 1


# NATS


async def test_a_submit_is_kept_and_scored_while_nats_does_not_answer(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        with stopped(stack, "nats"):
            with stopped(stack, "scoring-worker"):
                began = time.monotonic()
                submit = good(await student.submit(session), 202)
                took = time.monotonic() - began
                kept = await fetch(stack, "SELECT subject FROM submission WHERE session_id = $1", uuid.UUID(session))
                again = good(await student.submit(session), 202)
            result = await student.outcome(session)

    assert took < 2
    assert [row["subject"] for row in kept] == [f"submits.{exam}.{session}"]
    assert (again["submittedAt"], again["answersSha256"]) == (submit["submittedAt"], submit["answersSha256"])
    assert (result["score"], result["answersSha256"]) == (2, submit["answersSha256"])
    assert await fetch(stack, "SELECT FROM submission WHERE session_id = $1", uuid.UUID(session)) == []
    assert len(await fetch(stack, "SELECT FROM result WHERE exam_id = $1", exam)) == 1


async def test_a_submit_from_its_row_is_on_the_board_though_its_worker_died_before_it_told_anybody(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        with stopped(stack, "bell"):  # whose net would publish it anew
            with stopped(stack, "nats"), stopped(stack, "scoring-worker"):
                good(await student.submit(session), 202)
                with crashing(stack, "scoring-worker", "D6") as (_, process):
                    await dies(process)
                scored = await fetch(stack, "SELECT status FROM exam_session WHERE id = $1", uuid.UUID(session))

            async def told() -> bool:
                return not await fetch(stack, "SELECT FROM submission WHERE session_id = $1", uuid.UUID(session))

            await eventually(told, 30)
            async with Redis.from_url(stack.read()["redis"]) as redis:
                on_board = await redis.zscore(f"lb:{{{exam}}}", student.name)

    assert [row["status"] for row in scored] == ["SCORED"]
    assert on_board is not None


async def test_submits_are_answered_and_scored_though_nats_is_killed(stack: Stack, exam: str) -> None:
    async with Student(stack) as frozen, Student(stack) as killed, Student(stack) as after:
        sessions = {student: (await student.sit(exam))["sessionId"] for student in (frozen, killed, after)}
        for student, session in sessions.items():
            good(await student.save(session, "q1", choice="B"))
        with stopped(stack, "nats"):
            submits = {frozen: good(await frozen.submit(sessions[frozen]), 202)}
            before = kill(stack, "nats")  # what it was sent meanwhile is gone with it
        submits[killed] = good(await killed.submit(sessions[killed]), 200, 202)
        await restarted(stack, "nats", before)
        submits[after] = good(await after.submit(sessions[after]), 200, 202)

        results = {student: await student.outcome(session) for student, session in sessions.items()}

    for student, result in results.items():
        assert (result["status"], result["score"]) == ("SCORED", 2)
        assert result["submittedAt"] == submits[student]["submittedAt"]
    assert len(await fetch(stack, "SELECT FROM result WHERE exam_id = $1", exam)) == 3


# Redis


async def test_an_acknowledged_save_outlives_redis(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        started = await student.sit(exam)
        session = started["sessionId"]
        keys = [uuid.uuid4().hex for _ in range(20)]
        saves = [good(await student.save(session, "q3", key, number=str(n))) for n, key in enumerate(keys)]
        good(await student.save(session, "q1", choice="B"))
        before = kill(stack, "redis")

        found = good(await insist(lambda: student.read(session)))
        replay = good(await insist(lambda: student.save(session, "q3", keys[-1], number="19")))
        older = good(await insist(lambda: student.save(session, "q3", keys[7], number="7")))
        newer = good(await insist(lambda: student.save(session, "q4", text="Ankara")))
        submit = good(await insist(lambda: student.submit(session)), 200, 202)
        result = await student.outcome(session)

    await restarted(stack, "redis", before)
    assert answers(found) == {"q1": ("choice", "B"), "q3": ("number", "19")}
    assert (found["questionOrder"], found["endsAt"]) == (started["questionOrder"], started["endsAt"])
    assert (replay, older) == (saves[-1], saves[7])
    assert newer["version"] == 1_000_001, "another process is another generation, whose versions begin above the last one's"
    assert (result["score"], result["answersSha256"]) == (2 - 2 + 2, submit["answersSha256"])


async def test_a_save_without_redis_is_refused_quickly_and_a_retry_finds_out(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as student, stack.channel() as channel:
        session = (await student.sit(exam))["sessionId"]
        good(await student.save(session, "q1", choice="A"))
        request = session_pb2.SaveAnswerRequest(session_id=session, question_id="q1", choice="B")
        with stopped(stack, "redis"):
            began = time.monotonic()
            over_rest = await student.save(session, "q1", key, choice="B")
            over_grpc = await Native(channel, student.token).call("SaveAnswer", request, key=key)
            took = time.monotonic() - began
        saved = good(await insist(lambda: student.save(session, "q1", key, choice="B")))
        found = good(await insist(lambda: student.read(session)))

    assert refusal(over_rest) == (503, "STORE_UNAVAILABLE")
    assert detail(over_rest, "RetryInfo")["retryDelay"] == "1s"
    assert over_rest.headers["retry-after"] == "1"
    assert (over_grpc.code, over_grpc.reason, over_grpc.domain) == ("UNAVAILABLE", "STORE_UNAVAILABLE", "finalbell")
    assert over_grpc.retry_ms == 1000
    assert took < 2
    assert (saved["saved"], saved["version"]) == (True, 2)  # whether the refused ones had arrived or not: once
    assert answers(found) == {"q1": ("choice", "B")}


async def test_nobody_notices_that_redis_was_away_once_it_is_back(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await insist(lambda: student.http.get(f"/api/v1/exams/{exam}/leaderboard")))
        before = kill(stack, "redis")
        await restarted(stack, "redis", before)
        async with Redis.from_url(stack.read()["redis"]) as redis:

            async def answers_again() -> bool:
                try:
                    return bool(await redis.ping())
                except RedisError:
                    return False

            await eventually(answers_again)

        first_calls = [
            await student.http.get(f"/api/v1/exams/{exam}/leaderboard"),
            await student.read(session),
            await student.save(session, "q1", choice="B"),
        ]

    assert [reply.status_code for reply in first_calls] == [200, 200, 200]


async def test_content_stays_up_without_redis_and_nats(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        await student.sit(exam)
        with stopped(stack, "redis"), stopped(stack, "nats"), stopped(stack, "scoring-worker"):
            exams = await student.http.get(f"/api/v1/exams/{exam}")
            paper = await student.http.get(f"/api/v1/exams/{exam}/paper")

    assert good(exams)["examId"] == exam
    assert len(good(paper)["questions"]) == 4


async def test_a_wiped_redis_gets_back_what_was_written_and_revives_nothing(stack: Stack, exam: str) -> None:
    async with Student(stack) as running, Student(stack) as waiting, Student(stack) as done:
        started = await running.sit(exam)
        session, submitted, scored = started["sessionId"], *[(await one.sit(exam))["sessionId"] for one in (waiting, done)]
        key = uuid.uuid4().hex
        good(await running.save(session, "q1", choice="A"))
        good(await running.save(session, "q2", choices={"ids": ["A", "C"]}, clientSeq=9))
        last = good(await running.save(session, "q1", key, choice="B"))
        for student, id_ in ((waiting, submitted), (done, scored)):
            good(await student.save(id_, "q1", choice="B"))
        good(await done.submit(scored), 200, 202)
        done_before = await done.outcome(scored)
        with stopped(stack, "scoring-worker"):
            await nobody_pulls(stack)
            handed_in = good(await waiting.submit(submitted), 202)
            await all_written(stack)
            async with Redis.from_url(stack.read()["redis"]) as redis:
                await redis.flushall()

            found = good(await insist(lambda: running.read(session)))
            still_waiting = good(await insist(lambda: waiting.read(submitted)))
            still_done = good(await insist(lambda: done.read(scored)))
            late = [await insist(lambda s=s, i=i: s.save(i, "q1", choice="C")) for s, i in ((waiting, submitted), (done, scored))]
            again = good(await insist(lambda: waiting.submit(submitted)), 202)
        replay = good(await running.save(session, "q1", key, choice="B"))
        superseded = good(await running.save(session, "q2", choices={"ids": ["B"]}, clientSeq=8))
        newer = good(await running.save(session, "q3", number="3.5"))
        submit = good(await running.submit(session), 200, 202)
        result, waited = await running.outcome(session), await waiting.outcome(submitted)
        done_after = await done.outcome(scored)

    assert answers(found) == {"q1": ("choice", "B"), "q2": ("choices", {"ids": ["A", "C"]})}
    assert {saved["questionId"]: saved["version"] for saved in found["answers"]} == {"q1": 3, "q2": 2}
    assert (found["epoch"], found["restoredThroughVersion"]) == (started["epoch"] + 1, 3)
    for name in ("questionOrder", "optionOrder", "endsAt", "startedAt", "alias", "attempt", "status"):
        assert found[name] == started[name], name
    assert (still_waiting["status"], still_done["status"]) == ("SUBMITTED", "SCORED")
    assert [refusal(reply) for reply in late] == [(400, "SESSION_SUBMITTED")] * 2
    assert (again["submittedAt"], again["answersSha256"]) == (handed_in["submittedAt"], handed_in["answersSha256"])
    assert replay == last
    assert superseded["superseded"] is True
    assert newer["version"] == 1_000_001
    assert result["score"] == 2 + 6 + 4
    assert submit["answersSha256"] == canonical(answers(found) | {"q3": ("number", "3.5")})
    assert (waited["score"], waited["submittedAt"]) == (2, handed_in["submittedAt"])
    steady = ("status", "score", "submittedAt", "answersSha256", "revision")
    assert [done_after[name] for name in steady] == [done_before[name] for name in steady]
    assert len(await fetch(stack, "SELECT FROM result WHERE exam_id = $1", exam)) == 3
    await board_is_right(stack, exam, {running.name: 1, waiting.name: 2, done.name: 2})


# PostgreSQL


async def test_running_sessions_go_on_without_postgresql(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, Student(stack) as late:
        session = (await student.sit(exam))["sessionId"]
        good(await student.save(session, "q1", choice="A"))
        with stopped(stack, "postgres"):
            began = time.monotonic()
            saved = good(await student.save(session, "q1", choice="B"))
            batch = good(await student.batch(session, {"questionId": "q3", "number": "3.5"}))
            found = good(await student.read(session))
            took = time.monotonic() - began
        await all_written(stack)
        good(await insist(lambda: late.start(exam)), 200, 201)
        good(await insist(lambda: student.submit(session)), 200, 202)
        result = await student.outcome(session)

    assert took < 1
    assert (saved["version"], batch["outcomes"][0]["answer"]["version"]) == (2, 3)
    assert answers(found) == {"q1": ("choice", "B"), "q3": ("number", "3.5")}
    assert result["score"] == 6


async def test_a_start_without_postgresql_is_refused_and_says_when_to_come_back(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as student:
        student.http.timeout = LONGER_THAN_THE_GATEWAYS
        with stopped(stack, "postgres"):
            began = time.monotonic()
            refused = await student.start(exam, key)
            took = time.monotonic() - began
        session = good(await insist(lambda: student.start(exam, key)), 200, 201)

    assert refusal(refused) == (503, "STORE_UNAVAILABLE")
    assert detail(refused, "RetryInfo")["retryDelay"] == "1s"
    assert took < 5
    rows = await fetch(stack, "SELECT id FROM exam_session WHERE exam_id = $1", exam)
    assert [str(row["id"]) for row in rows] == [session["sessionId"]]


async def test_a_submit_without_postgresql_is_kept_by_jetstream(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        student.http.timeout = LONGER_THAN_THE_GATEWAYS
        session = (await student.sit(exam))["sessionId"]
        with stopped(stack, "postgres"):
            began = time.monotonic()
            while time.monotonic() - began < CACHES_ARE_OLD:
                good(await student.save(session, "q1", choice="B"))
            began = time.monotonic()
            submit = await student.submit(session)
            took = time.monotonic() - began
            status = (await in_redis(stack, session))["s"]
        if submit.status_code != 202:
            await insist(lambda: student.submit(session))
        result = await student.outcome(session)

    assert (good(submit, 202)["status"], status) == ("SCORING", b"S")
    assert took < 2
    assert (result["score"], result["submittedAt"]) == (2, submit.json()["submittedAt"])


async def test_nothing_is_lost_when_postgresql_is_killed(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, Student(stack) as scored, Student(stack) as late:
        session, other = (await student.sit(exam))["sessionId"], (await scored.sit(exam))["sessionId"]
        good(await scored.save(other, "q1", choice="B"))
        good(await scored.submit(other), 200, 202)
        result_before = await scored.outcome(other)
        before = kill_postgres(stack)

        saves = [good(await student.save(session, "q3", number=str(n))) for n in range(20)]
        start = await insist(lambda: late.start(exam))
        submit = good(await insist(lambda: student.submit(session)), 200, 202)
        result = await student.outcome(session)
        result_after = await scored.outcome(other)

    await restarted(stack, "postgres", before)
    assert [saved["version"] for saved in saves] == list(range(1, 21))
    assert start.status_code in (200, 201)
    assert (result["score"], result["answersSha256"]) == (-2, submit["answersSha256"])
    assert (result_after["score"], result_after["submittedAt"]) == (result_before["score"], result_before["submittedAt"])


def kill_postgres(stack: Stack) -> int:
    """Kill PostgreSQL with all its processes, as a power cut would."""
    pid = stack.pid("postgres")
    for one in family(pid):
        os.kill(one, signal.SIGKILL)
    return pid


async def board_is_right(stack: Stack, exam: str, ranks: dict[str, int]) -> None:
    """Compare the board with these ranks, and with PostgreSQL. After a fault 503 is an answer too: it is asked again."""
    async with Student(stack, roles=["admin"]) as staff:

        async def whole() -> Any:
            board = good(await insist(lambda: staff.http.get(f"/api/v1/exams/{exam}/leaderboard")))
            return None if board["rebuilding"] or board["total"] < len(ranks) else board

        board = await eventually(whole)
        report = good(await insist(lambda: staff.http.post(f"/api/v1/admin/exams/{exam}/leaderboard:verify")))
    assert {entry["studentId"]: entry["rank"] for entry in board["entries"]} == ranks
    assert (report["differences"], report["complete"]) == (0, True)

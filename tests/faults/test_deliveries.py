"""Submits that are delivered often, with others that nobody can score, or whose stream is gone (RELIABILITY F12, F31, F33)."""

import asyncio
import uuid
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest
from finalbell.v1 import events_pb2 as events
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError
from redis.asyncio import Redis

from servers.scoring.rules import decided
from servers.scoring.telling import Telling
from servers.scoring.worker import ScoringWorker
from stores.answer_keys import AnswerKeys
from stores.boards import Boards
from stores.catalog import Catalog
from stores.connect import Stores, StoreSettings, connect
from stores.dead_letters import DeadLetters
from stores.live import LiveSessions, Patience
from stores.places import Places
from stores.results import Results
from stores.standings import Standings
from stores.submit_log import Acknowledged, SubmitLog
from tests.faults.harm import fetch, insist, jetstream, nobody_pulls, queued, stopped
from tests.flows.sitting import Student, good
from tests.stack import Stack, eventually, fresh, uuid7

TOGETHER = 20


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    await stack.import_exam(small_exam, exam_id)
    return exam_id


async def submits(stack: Stack, exam: str, count: int) -> dict[str, str]:
    """Have so many students submit, every second one with the right answer; returns student by session."""
    places, found = asyncio.Semaphore(TOGETHER), {}

    async def one(number: int) -> None:
        async with places, Student(stack, f"{exam}-{number}") as student:
            key = uuid.uuid4().hex
            session = good(await insist(lambda: student.start(exam, key)), 200, 201)["sessionId"]
            good(await insist(lambda: student.save(session, "q1", key, choice="AB"[number % 2])))
            good(await insist(lambda: student.submit(session, key)), 200, 202)
            found[session] = student.name

    await asyncio.gather(*(one(number) for number in range(count)))
    return found


async def scores(stack: Stack, exam: str) -> dict[str, int]:
    rows = await fetch(stack, "SELECT session_id, score FROM result WHERE exam_id = $1", exam)
    return {str(row["session_id"]): row["score"] for row in rows}


async def all_scored(stack: Stack, exam: str, sessions: dict[str, str]) -> None:
    """Wait for one right result a session, and for the board."""

    async def there() -> bool:
        try:
            return set(await scores(stack, exam)) == set(sessions) and await queued(stack, exam) == 0
        except NotFoundError:  # somebody has deleted the stream, and nobody has made it again yet
            return False

    await eventually(there, 40)
    right = {session: 2 if int(name.rpartition("-")[2]) % 2 else -1 for session, name in sessions.items()}
    assert await scores(stack, exam) == right
    async with Student(stack, roles=["admin"]) as staff:

        async def board() -> Any:
            reply = good(await insist(lambda: staff.http.post(f"/api/v1/admin/exams/{exam}/leaderboard:verify")))
            return reply if reply["complete"] else None

        assert (await eventually(board))["differences"] == 0
        assert (await staff.board(exam))["total"] == len(sessions)


# F31


class LossyLog(SubmitLog):
    """A stream whose acknowledgements are lost on their way, but for the last."""

    lost = 9

    async def acknowledge(self, messages: Sequence[Acknowledged]) -> None:
        if self.lost:
            self.lost -= 1
            return
        await super().acknowledge(messages)


def a_worker(stores: Stores, log: SubmitLog) -> ScoringWorker:
    async def restores_nothing(session: uuid.UUID) -> bool:
        raise AssertionError("a worker restores no sessions")

    results, standings, letters = Results(stores.postgres, decided), Standings(stores.postgres), DeadLetters(stores.postgres)
    telling = Telling(Places(Boards(stores.boards), standings, Catalog(stores.postgres)), log)
    live = LiveSessions(stores.live, restores_nothing, stores.generations.begin, Patience(5_000, 10_000))
    return ScoringWorker(log, AnswerKeys(stores.postgres), results, letters, telling, live, crash_at="")


async def test_submits_that_are_delivered_ten_times_two_at_once_are_scored_once(stack: Stack, exam: str) -> None:
    where = stack.read()
    urls = StoreSettings(where["postgres"], where["redis"], where["redis"], where["nats"], statement_seconds=30)
    async with connect(urls) as stores:
        with stopped(stack, "scoring-worker"):
            await nobody_pulls(stack)
            sessions = await submits(stack, exam, 6)
            log = LossyLog(stores.nats)
            worker, messages = a_worker(stores, log), list[Msg]()
            while len(messages) < len(sessions):
                messages += await log.pull(500, 1)
            await worker.score(messages)
            first = await fetch(stack, "SELECT * FROM result WHERE exam_id = $1 ORDER BY session_id", exam)
            for _ in range(4):
                await asyncio.gather(worker.score(messages), worker.score(messages))
            waiting = await queued(stack, exam)
            await worker.score(messages)
    last = await fetch(stack, "SELECT * FROM result WHERE exam_id = $1 ORDER BY session_id", exam)
    history = await fetch(stack, "SELECT FROM result_history WHERE session_id = ANY ($1)", [uuid.UUID(one) for one in sessions])

    assert waiting == len(sessions)
    assert len(first) == len(sessions)
    assert last == first
    assert history == []
    await all_scored(stack, exam, sessions)


# F33


def poison(exam: str) -> dict[str, bytes]:
    """Return events that nobody can score, by subject: no event at all, a damaged one, a session that nobody started."""
    unknown = events.SessionSubmitted(
        session_id=str(uuid7()),
        exam_id=exam,
        exam_version=1,
        student_id="nobody",
        reason="CLICK",
        answers=b"{}",
        answers_sha256=sha256(b"{}").digest(),
    )
    damaged = events.SessionSubmitted.FromString(unknown.SerializeToString())
    damaged.session_id, damaged.answers_sha256 = str(uuid7()), b"\0" * 32
    return {
        f"submits.{exam}.{uuid7()}": b"\xff\xff not an event",
        f"submits.{exam}.{fresh('nobody')}": b"",
        f"submits.{exam}.{damaged.session_id}": damaged.SerializeToString(),
        f"submits.{exam}.{unknown.session_id}": unknown.SerializeToString(),
    }


async def test_submits_that_cannot_be_scored_hold_up_none_of_the_others(
    stack: Stack, exam: str, small_exam: dict[str, Any]
) -> None:
    odd, keyless = fresh("t"), fresh("t")
    for other in (odd, keyless):
        await stack.import_exam(small_exam, other)
    await fetch(stack, """UPDATE keys.answer_key SET answer = '{"odd": 1}' WHERE exam_id = $1 AND question_id = 'q1'""", odd)
    kept_key = "SELECT * FROM keys.answer_key WHERE exam_id = $1 AND question_id = 'q1'"
    await fetch(stack, f"CREATE TABLE kept_key AS {kept_key}", keyless)
    await fetch(stack, "DELETE FROM keys.answer_key WHERE exam_id = $1 AND question_id = 'q1'", keyless)
    bad = poison(exam)
    with stopped(stack, "scoring-worker"):
        await nobody_pulls(stack)
        halves = [await submits(stack, exam, 60)]
        (raising,), (waiting,) = await submits(stack, odd, 1), await submits(stack, keyless, 1)
        async with jetstream(stack) as stream:
            for subject, event in bad.items():
                await stream.publish(subject, event)
        more = fresh("t")
        await stack.import_exam(small_exam, more)
        halves.append(await submits(stack, more, 60))

    await all_scored(stack, exam, halves[0])
    await all_scored(stack, more, halves[1])
    subjects = [*bad, f"submits.{odd}.{raising}"]

    async def buried() -> bool:
        rows = await fetch(stack, "SELECT subject FROM dead_letter WHERE subject = ANY ($1)", subjects)
        return sorted(row["subject"] for row in rows) == sorted(subjects)

    await eventually(buried)
    assert await scores(stack, keyless) == {}, "a set of keys without one of them would give everybody 0"
    assert await queued(stack, keyless) == 1
    async with Redis.from_url(stack.read()["redis"]) as redis:
        tag = f"{{{uuid.UUID(raising).int % 64:02d}}}"
        assert await redis.zscore(f"parked:{tag}", raising) is not None

    await fetch(stack, "INSERT INTO keys.answer_key SELECT * FROM kept_key")
    await fetch(stack, "DROP TABLE kept_key")
    await all_scored(stack, keyless, {waiting: f"{keyless}-0"})
    await fetch(stack, "UPDATE dead_letter SET replayed_at = now() WHERE subject = ANY ($1)", subjects)


# F12


async def test_submits_are_scored_once_though_their_stream_is_deleted_in_the_middle(
    stack: Stack, exam: str, small_exam: dict[str, Any]
) -> None:
    after = fresh("t")
    await stack.import_exam(small_exam, after)
    with stopped(stack, "scoring-worker"):
        await nobody_pulls(stack)
        sessions = await submits(stack, exam, 30)
        async with jetstream(stack) as stream:
            await stream.delete_stream("SUBMITS")
        more = await submits(stack, after, 30)

    await all_scored(stack, exam, sessions)
    await all_scored(stack, after, more)

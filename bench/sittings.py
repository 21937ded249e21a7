"""Many sessions that have been sat and wait to be handed in: started through the gateway, then filled with answers.

Starting is the real thing, which is also what fills the token caches. 100,000 × 60 saves would take ten minutes, so the
answers are written to where saves and snapshots would have put them: each session's hash, and `session_answer`.
"""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import asyncpg
from redis.asyncio import Redis

from bench.local import EXAM, FINALBELL, PAPER, ROOT, Stack
from ops.client import client
from stores import keys
from stores.hashes import ANSWER_HEAD

TOGETHER = 500
MOCK = "mock"
COLUMNS = ("session_id", "question_id", "answer", "version", "answered_at", "key_digest", "body_digest", "client_seq")


@dataclass(frozen=True, slots=True)
class Sittings:
    """A shadow of the bench's exam with sessions; `file` has one a line, with its token."""

    exam: str
    file: Path
    count: int


def _objective() -> list[dict[str, Any]]:
    """Return 60 questions that are graded at once: the sample's essay gives its place to one more single choice."""
    questions = [question for question in PAPER["questions"] if question["type"] != "essay"]
    return [*questions, questions[0] | {"id": "one-more"}]


QUESTIONS: Sequence[dict[str, Any]] = _objective()


def import_mock(place: Stack) -> None:
    """Import an exam of 60 questions that is scored without people."""
    with client(place.home, None, None) as admin:
        admin.import_exam(json.dumps(PAPER | {"questions": QUESTIONS}).encode(), MOCK, {"durationSeconds": "7200"})


def prepare(place: Stack, count: int, file: Path, exam: str = EXAM) -> None:
    """Start sessions through the gateway, which is what warms the token caches on a real day."""
    command = [*FINALBELL, "rehearse", exam, "--prepare", str(count), "--out", str(file), "--home", str(place.home)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr, timeout=1_800)


def sat(place: Stack, count: int, file: Path) -> Sittings:
    """Start `count` sessions and answer every question of each, as students of many abilities would."""
    prepare(place, count, file, MOCK)
    return Sittings(asyncio.run(_fill(place, file)), file, count)


async def _fill(place: Stack, file: Path) -> str:
    stack, chance = place.read(), random.Random(11)  # noqa: S311
    with file.open() as lines:
        sessions = [UUID(json.loads(line)["sessionId"]) for line in lines]
    connection = await asyncpg.connect(stack["postgres"], timeout=10)
    try:
        exam: str = await connection.fetchval("SELECT exam_id FROM exam_session WHERE id = $1", sessions[0])
        async with Redis.from_url(stack["redis"]) as redis:
            waiting = iter(sessions)
            while some := list(islice(waiting, TOGETHER)):
                answers = {session: list(_answers(chance)) for session in some}
                await asyncio.gather(
                    _write_hashes(redis, answers),
                    connection.copy_records_to_table("session_answer", records=list(_rows(answers)), columns=COLUMNS),
                )
        await connection.execute("UPDATE exam SET release_review = 'AFTER_CLOSE' WHERE id = $1", exam)  # an exam's default
        await connection.execute("VACUUM (ANALYZE) session_answer, exam_session")  # as autovacuum would have in the hours of a mock
    finally:
        await connection.close()
    return exam


def _answers(chance: random.Random) -> Iterator[tuple[str, str]]:
    """Answer as one student would: the abler, the more of it is right; 3% are left blank."""
    ability = chance.betavariate(5, 3)
    for question in QUESTIONS:
        if chance.random() >= 0.03:
            yield question["id"], _right(question) if chance.random() < ability else _guess(question, chance)


def _right(question: dict[str, Any]) -> str:
    key = question["answer"]
    match question["type"]:
        case "single_choice":
            return f"c:{key['choice']}"
        case "multiple_choice":
            return "m:" + ",".join(sorted(key["choices"]))
        case "numeric":
            return f"n:{key['number']}"
        case _:
            return f"t:{key['accept'][0]}"


def _guess(question: dict[str, Any], chance: random.Random) -> str:
    options = [option["id"] for option in question.get("options", ())]
    match question["type"]:
        case "single_choice":
            return f"c:{chance.choice(options)}"
        case "multiple_choice":
            return "m:" + ",".join(sorted(chance.sample(options, 2)))
        case "numeric":
            return f"n:{chance.randint(1, 99)}"
        case _:
            return "t:I do not know"


async def _write_hashes(redis: "Redis", answers: dict[UUID, list[tuple[str, str]]]) -> None:
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    async with redis.pipeline(transaction=False) as pipeline:
        for session, given in answers.items():
            fields: dict[str | bytes | int | float, str | bytes | int | float] = {
                "v": len(given),
                "h": now_ms,
                "d": bytes(12 * len(given)),
                "b": sum(len(a) for _, a in given),
            }
            for slot, (question, answer) in enumerate(given):
                head = ANSWER_HEAD.pack((slot + 1).to_bytes(6, "big"), now_ms.to_bytes(6, "big"), slot + 1, slot)
                fields[f"a:{question}"] = head + answer.encode()
            pipeline.hset(keys.session_key(session), mapping=cast(Any, fields))
        await pipeline.execute()


def _rows(answers: dict[UUID, list[tuple[str, str]]]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that snapshots would have written; one question took half a minute."""
    now = datetime.now(UTC)
    for session, given in answers.items():
        for slot, (question, answer) in enumerate(given):
            at = now + timedelta(seconds=30 * (slot - len(given)))
            yield session, question, answer, slot + 1, at, bytes(8), bytes(4), slot + 1

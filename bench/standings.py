"""Standings of very many students: written as an exam would have left them, moved as scoring moves them, and read again by SQL."""

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import grpc
import grpc.aio
import uvloop
from finalbell.v1 import leaderboard_pb2 as pb
from finalbell.v1.leaderboard_pb2_grpc import LeaderboardServiceStub
from redis.asyncio import Redis

from bench.local import PAPER, Stack, each, until
from ops.client import client
from ops.keys import mint
from ops.processes import NICENESS
from stores.boards import TIE_BITS, Boards, order_key
from stores.records import Standing
from stores.standings import STANDING, standing_of

MOST_POINTS = 60
COHORT = "north"
COLUMNS = ("exam_id", "student_id", "alias", "cohorts", "score", "tiebreak", "order_key", "session_id", "version")
BATCH = 200
"""How many standings a scoring worker has to place at a time while it is busy."""

HEARD_TOGETHER = 64
RANKED = """
  SELECT student_id, rank() OVER (ORDER BY order_key DESC) AS rank, score
  FROM standing WHERE exam_id = $1 AND order_key IS NOT NULL AND ($2::text IS NULL OR $2 = ANY (cohorts))
"""
MOVED = f"""
  UPDATE standing t SET version = t.version + 1, score = m.score, order_key = t.order_key + (m.score - t.score) * $4::bigint
  FROM (SELECT student, s.score + CASE WHEN s.score + by BETWEEN 0 AND {MOST_POINTS} THEN by ELSE -by END AS score
        FROM unnest($2::text[], $3::int[]) AS w (student, by) JOIN standing s ON (s.exam_id, s.student_id) = ($1, student)) AS m
  WHERE (t.exam_id, t.student_id) = ($1, m.student) RETURNING {STANDING}
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Seeded:
    """An exam with so many standings, whose students are `b0`, `b1`, …; every tenth is in the cohort."""

    exam: str
    tie_break: str
    entries: int

    def spread(self, count: int) -> Sequence[str]:
        """Return so many students by chance: the same ones whenever it is called."""
        chosen = random.Random(5).sample(range(self.entries), min(count, self.entries))  # noqa: S311
        return [f"b{number}" for number in chosen]


@dataclass(frozen=True, slots=True)
class Equality:
    """How many places were asked for, and how many were not what SQL says."""

    asked: int
    differences: int


def in_cohort(student: str) -> bool:
    return int(student[1:]) % 10 == 0


def seed(place: Stack, tie_break: str, entries: int) -> Seeded:
    """Import an exam, and write standings of it as if all had sat it; nothing is on a board yet."""
    exam = f"board-{tie_break.lower()}"
    with client(place.home, None, None) as admin:
        admin.import_exam(json.dumps(PAPER).encode(), exam, {"tieBreak": tie_break})
    asyncio.run(_write(place, exam, tie_break, entries))
    return Seeded(exam, tie_break, entries)


async def _write(place: Stack, exam: str, tie_break: str, entries: int) -> None:
    connection = await asyncpg.connect(place.read()["postgres"], timeout=10)
    try:
        await connection.copy_records_to_table("standing", records=_rows(exam, tie_break, entries), columns=COLUMNS, timeout=600)
        await connection.execute("VACUUM (ANALYZE) standing", timeout=600)
    finally:
        await connection.close()


def _rows(exam: str, tie_break: str, entries: int) -> Iterator[tuple[object, ...]]:
    """Yield rows of `standing`: points as of students of many abilities, times from 20 to 90 minutes, most nearer the end."""
    chance = random.Random(7)  # noqa: S311
    for number in range(entries):
        student, points = f"b{number}", round(MOST_POINTS * chance.betavariate(5, 3))
        took_ms = 0 if tie_break == "NONE" else int(chance.triangular(20 * 60_000, 90 * 60_000, 80 * 60_000))
        cohorts = [COHORT] if in_cohort(student) else []
        key = order_key(points, took_ms, tie_break)
        yield exam, student, f"Student {number:07}", cohorts, points, took_ms, key, UUID(int=number), 1


def tokens(place: Stack, students: Sequence[str], file: Path) -> None:
    """Write a token for each student, with the cohort of those who are in it."""
    with file.open("w") as lines:
        for student in students:
            token = mint(place.home, student=student, cohorts=[COHORT] if in_cohort(student) else [], ttl_seconds=6 * 3600)
            lines.write(json.dumps({"student": student, "token": token}) + "\n")


async def built(place: Stack, seeded: Seeded) -> float:
    """Ask for a board that is not there until it is, since whoever reads has it built; returns the seconds.

    `finalbell leaderboard rebuild` does the same work within one call, which the gateway ends before a million are through.
    """
    metadata = [("authorization", f"Bearer {mint(place.home, student='staff', roles=['admin'])}")]
    async with grpc.aio.insecure_channel(urlsplit(place.read()["gateway"]).netloc) as channel:
        stub = LeaderboardServiceStub(channel)

        async def complete() -> bool:
            try:
                reply = await stub.GetLeaderboard(
                    pb.GetLeaderboardRequest(exam_id=seeded.exam, top=1), metadata=metadata, timeout=10
                )
            except grpc.aio.AioRpcError as failure:
                if failure.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return False
            return bool(not reply.rebuilding and reply.total == seeded.entries)

        return await until(complete)


class Movers:
    """Moves students: in PostgreSQL, and then on the board as the scoring worker does it."""

    def __init__(self, seeded: Seeded, connection: asyncpg.Connection, redis: Redis) -> None:
        self._seeded = seeded
        self._connection = connection
        self._boards = Boards(redis)
        self._chance = random.Random(13)  # noqa: S311
        self._turn = asyncio.Lock()

    async def write(self, students: Sequence[str]) -> Sequence[Standing]:
        """Give students other points in PostgreSQL, one to three more or fewer; returns where they stand now."""
        by = [self._chance.choice((-3, -2, -1, 1, 2, 3)) for _ in students]
        width = 1 << TIE_BITS[self._seeded.tie_break]
        async with self._turn:
            return [standing_of(row) for row in await self._connection.fetch(MOVED, self._seeded.exam, students, by, width)]

    async def place(self, standings: Sequence[Standing]) -> None:
        """Bring the board up to standings; raises RuntimeError where it turns out to be incomplete."""
        if await self._boards.place(standings):
            raise RuntimeError("the board was not complete")

    async def move(self, count: int) -> None:
        """Move some students, whoever they are."""
        students = sorted({f"b{self._chance.randrange(self._seeded.entries)}" for _ in range(count)})
        await self.place(await self.write(students))

    async def steadily(self, per_second: float, stop: threading.Event) -> float:
        """Move so many a second until told to stop, as the scoring worker does: one batch after the other, each of what waits by
        then; returns how many a second they were."""
        began, done = time.monotonic(), 0
        while not stop.is_set():
            due = min(BATCH, int((time.monotonic() - began) * per_second) - done)
            if due > 0:
                await self.move(due)
                done += due
            else:
                await asyncio.sleep(0.002)
        return done / (time.monotonic() - began)


class Moving:
    """Opens and closes what movers need."""

    def __init__(self, place: Stack, seeded: Seeded) -> None:
        self._place = place
        self._seeded = seeded

    async def __aenter__(self) -> Movers:
        stack = self._place.read()
        self._connection = await asyncpg.connect(stack["postgres"], timeout=10)
        self._redis = Redis.from_url(stack["redis"])
        return Movers(self._seeded, self._connection, self._redis)

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()
        await self._connection.close()


@dataclass(slots=True)
class Moved:
    """How many a second were moved, once it has ended."""

    per_second: float = 0


@contextmanager
def changing(place: Stack, seeded: Seeded, per_second: float) -> Iterator[Moved]:
    """Move students beside what this thread does, in a thread that stands back for the CPU as the scoring worker does."""
    stop, moved = threading.Event(), Moved()

    async def moves() -> None:
        async with Moving(place, seeded) as movers:
            moved.per_second = round(await movers.steadily(per_second, stop), 1)

    def stand_back() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS["scoring-worker"])
        uvloop.run(moves())

    thread = threading.Thread(target=stand_back)
    thread.start()
    try:
        yield moved
    finally:
        stop.set()
        thread.join()


async def equality(place: Stack, seeded: Seeded, gateway: str, heard: Mapping[str, str]) -> Equality:
    """Ask for the places of these students (by name, with their tokens) through the gateway, those of the cohort for their place in
    that too, and compare rank and score with a window function over `standing`."""
    connection = await asyncpg.connect(place.read()["postgres"], timeout=10)
    try:
        truth = {
            cohort: {
                row["student_id"]: (row["rank"], row["score"])
                for row in await connection.fetch(RANKED, seeded.exam, cohort or None, timeout=300)
                if row["student_id"] in heard
            }
            for cohort in ("", COHORT)
        }
    finally:
        await connection.close()
    wrong = 0
    asked = [(student, cohort) for cohort in truth for student in truth[cohort]]
    async with grpc.aio.insecure_channel(gateway) as channel:
        stub = LeaderboardServiceStub(channel)

        async def ask(one: tuple[str, str]) -> None:
            nonlocal wrong
            student, cohort = one
            request = pb.GetLeaderboardRequest(exam_id=seeded.exam, top=1, around="me", window=1, cohort=cohort)
            reply = await stub.GetLeaderboard(request, metadata=[("authorization", f"Bearer {heard[student]}")], timeout=10)
            own = [entry for entry in reply.around if entry.me]
            told = [(entry.rank, entry.score) for entry in (reply.me, *own)]
            wrong += told != [truth[cohort][student]] * 2 or reply.me.rank_error != 0

        await each(asked, ask, HEARD_TOGETHER)
    return Equality(len(asked), wrong)

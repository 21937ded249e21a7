"""How else ranks are read: a Redis round trip for each viewer, and SQL, on the same million that finalbell's boards hold."""

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg
from redis.asyncio import Redis

from bench.local import Stack, each
from bench.measure import cpu

TOP = 10
WINDOW = 10
TOGETHER = 64
WINDOWED = """
  SELECT rank FROM (SELECT student_id, rank() OVER (ORDER BY order_key DESC) FROM standing WHERE exam_id = $1) AS board
  WHERE student_id = $2
"""
COUNTED = """
  WITH own AS (SELECT order_key, student_id FROM standing WHERE exam_id = $1 AND student_id = $2)
  SELECT (SELECT 1 + count(*) FROM standing WHERE exam_id = $1 AND order_key > (SELECT order_key FROM own)) AS rank,
    ARRAY(SELECT alias FROM standing WHERE exam_id = $1
      AND (order_key, student_id) > (SELECT order_key, student_id FROM own) ORDER BY order_key, student_id LIMIT $3) AS above,
    ARRAY(SELECT alias FROM standing WHERE exam_id = $1 AND (order_key, student_id) < (SELECT order_key, student_id FROM own)
      ORDER BY order_key DESC, student_id DESC LIMIT $3) AS below,
    ARRAY(SELECT alias FROM standing WHERE exam_id = $1 ORDER BY order_key DESC, student_id DESC LIMIT $4) AS top
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """What asking in another way cost; CPU-µs of who asks, and of the store."""

    name: str
    asked: int
    per_second: float
    p50_ms: float
    p99_ms: float
    client_us: float
    store_us: float


async def peers(place: Stack, exam: str, students: Sequence[str]) -> Sequence[Peer]:
    """Ask for the top and one's own rank: all students of Redis, 200 of them of an indexed count, 10 of a window function."""
    stack = place.read()
    async with Redis.from_url(stack["redis"]) as redis:

        async def viewer(student: str) -> None:
            async with redis.pipeline(transaction=False) as pipeline:
                pipeline.zrevrank(f"lb:{{{exam}}}", student)
                pipeline.zrevrange(f"lb:{{{exam}}}", 0, TOP - 1, withscores=True)
                rank, top = await pipeline.execute()
            assert rank is not None
            assert top

        found = [await _asked(place, "redis", "ZREVRANK + ZREVRANGE, one round trip a viewer", students, viewer, TOGETHER)]
    connection = await asyncpg.connect(stack["postgres"], timeout=10)
    try:

        async def counted(student: str) -> None:
            assert (await connection.fetchrow(COUNTED, exam, student, WINDOW, TOP))["rank"]

        async def windowed(student: str) -> None:
            assert await connection.fetchval(WINDOWED, exam, student, timeout=120)

        found.append(await _asked(place, "postgres", "SQL, indexed count, top and around", _some(students, 200), counted, 1))
        found.append(await _asked(place, "postgres", "SQL, rank() OVER", _some(students, 10), windowed, 1))
    finally:
        await connection.close()
    return found


def _some(students: Sequence[str], count: int) -> Sequence[str]:
    return students[:: max(1, len(students) // count)]


async def _asked(
    place: Stack, store: str, name: str, students: Sequence[str], ask: Callable[[str], Awaitable[None]], together: int
) -> Peer:
    took_ms: list[float] = []

    async def timed(student: str) -> None:
        began = time.perf_counter()
        await ask(student)
        took_ms.append((time.perf_counter() - began) * 1000)

    used, own, began = cpu(place)[store], time.process_time(), time.perf_counter()
    await each(students, timed, together)
    seconds, own, used = time.perf_counter() - began, time.process_time() - own, cpu(place)[store] - used
    count = len(students)
    *_, p99 = statistics.quantiles(took_ms, n=100)
    return Peer(
        name,
        count,
        round(count / seconds, 1),
        round(statistics.median(took_ms), 3),
        round(p99, 3),
        round(own * 1e6 / count, 1),
        round(used * 1e6 / count, 1),
    )

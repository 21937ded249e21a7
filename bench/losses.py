"""What a bad day costs: Redis wiped while submits wait, and PostgreSQL away for minutes. Exit code 1 when a promise broke.

python -m bench.losses wipe --sessions 10000 --saves 500
python -m bench.losses postgres --away 300 --sessions 1000 --saves 500
"""

import argparse
import asyncio
import os
import platform
import random
import sys
import time

import uvloop
from finalbell.v1 import session_pb2
from redis.asyncio import Redis

from bench.local import CHOICES, Stack, Student, Students, at_rate, each, show, stack, until

ANSWERS = 5
SHARDS = 64
RESULTS = "SELECT count(*) FROM result"


async def wipe(place: Stack, sessions: int, saves: float, seconds: float) -> list[str]:
    """Wipe Redis while `sessions` submits wait for scoring and as many other sessions are saving; gives what broke."""
    students = Students(place.home, place.address("session"), 2 * sessions)
    handed_in, running = students.all[:sessions], students.all[sessions:]
    try:
        began = time.monotonic()
        await each(students.all, students.start)
        started = time.monotonic() - began
        await each(students.all, lambda student: answer_some(students, student))
        with place.frozen("scoring-worker"):
            await each(handed_in, students.submit)
            flushed_ms = await wiped_under_load(place, students, running, saves, seconds)
            began = time.monotonic()
            views: dict[str, session_pb2.Session] = {}
            await each(students.all, lambda student: look(students, student, views), 1_000)
            read = time.monotonic() - began
            revived = [s.name for s in handed_in if views[s.name].status == session_pb2.Session.IN_PROGRESS]
            refused: list[str] = []
            await each(handed_in[:500], lambda student: refused_save(students, student, refused))
        drained = await until(lambda: has_results(place, sessions))
    finally:
        await students.close()
    changed = [s.name for s in students.all if is_changed(s, views[s.name])]
    lost, unexplained, oldest_ms = losses(running, views, flushed_ms)
    before = sum(kept.saved_ms <= flushed_ms for student in running for kept in student.kept.values())
    show(
        f"Redis wiped: {sessions:,} submits waiting in the stream, {sessions:,} other sessions at {saves:g} saves/s",
        [
            ("sessions started one after the other, 64 at a time", f"{2 * sessions / started:,.0f}/s"),
            ("submitted sessions that came back to life", f"{len(revived)} of {sessions:,}"),
            ("saves refused as SESSION_SUBMITTED on those", f"{refused.count('FAILED_PRECONDITION')} of {len(refused)}"),
            ("sessions whose order, end or owner changed", f"{len(changed)} of {2 * sessions:,}"),
            ("acknowledged answers lost, newer than the last snapshot", f"{len(lost)} of {before:,}"),
            ("the oldest lost answer was saved before the wipe by", f"{oldest_ms / 1000:.2f} s"),
            ("lost answers that a client is not told to resend", f"{len(unexplained)}"),
            ("restored and read again", f"{2 * sessions} in {read:.1f} s ({2 * sessions / read:,.0f}/s)"),
            ("all results there after the worker goes on", f"{drained:.1f} s"),
            ("calls that had to be repeated", students.repeated),
        ],
    )
    problems = [f"came back to life: {revived[:5]}"] if revived else []
    problems += [f"changed: {changed[:5]}"] if changed else []
    problems += [f"lost and not told: {unexplained[:5]}"] if unexplained else []
    problems += ["a save after the submit was not refused"] if set(refused) - {"FAILED_PRECONDITION"} else []
    total = await place.count(RESULTS)
    return problems + ([f"{total} results for {sessions} submits"] if total != sessions else [])


async def wiped_under_load(place: Stack, students: Students, running: list[Student], saves: float, seconds: float) -> int:
    """Save at a rate for some seconds before and after a FLUSHALL; returns when it was, by Redis's clock."""
    stop, chance = asyncio.Event(), random.Random(7)  # noqa: S311
    saving = asyncio.ensure_future(at_rate(saves, stop, lambda _: answer(students, chance.choice(running), chance)))
    await asyncio.sleep(seconds)
    async with Redis.from_url(place.read()["redis"]) as redis, redis.pipeline(transaction=True) as pipeline:
        pipeline.time()
        pipeline.flushall()
        (at, micro), _ = await pipeline.execute()
    await asyncio.sleep(seconds)
    stop.set()
    await saving
    return int(at) * 1000 + int(micro) // 1000


def losses(running: list[Student], views: dict[str, session_pb2.Session], flushed_ms: int) -> tuple[list[str], list[str], int]:
    """Compare what was acknowledged before the wipe with what came back: lost, lost without a client being told, and how
    long before the wipe the oldest lost one had been saved, in ms."""
    lost, unexplained, oldest = [], [], 0
    for student in running:
        view = views[student.name]
        stands = {answer.question_id: answer for answer in view.answers}
        for question, kept in student.kept.items():
            if kept.saved_ms > flushed_ms:
                continue
            found = stands.get(question)
            if found is not None and (found.version, found.choice) == (kept.version, kept.choice):
                continue
            if found is not None and found.version > kept.version:
                continue
            lost.append(f"{student.name} {question}")
            oldest = max(oldest, flushed_ms - kept.saved_ms)
            if kept.version <= view.restored_through_version or view.epoch == kept.version // 1_000_000:
                unexplained.append(f"{student.name} {question} {kept.version} {view.restored_through_version}")
    return lost, unexplained, oldest


async def postgres(place: Stack, sessions: int, saves: float, away: float) -> list[str]:
    """Freeze PostgreSQL for `away` seconds while sessions are saving; gives what broke."""
    students, chance = Students(place.home, place.address("session"), sessions), random.Random(7)  # noqa: S311
    try:
        await each(students.all, students.start)
        stop = asyncio.Event()
        saving = asyncio.ensure_future(at_rate(saves, stop, lambda _: answer(students, chance.choice(students.all), chance)))
        await asyncio.sleep(2)
        with place.frozen("postgres"):
            await asyncio.sleep(away)
            entries, dirty, memory = await waiting(place)
        back = await until(lambda: nothing_waits(place, while_saving=2 * saves))
        stop.set()
        done, took = await saving
        repeated = students.repeated
        await until(lambda: nothing_waits(place, while_saving=0))
        wrong = await unlike(place, students.all)
    finally:
        await students.close()
    show(
        f"PostgreSQL away for {away:g} s, {sessions:,} sessions at {saves:g} saves/s",
        [
            ("saves acknowledged", f"{done:,}, {done / took:,.0f}/s"),
            ("calls that had to be repeated", repeated),
            ("save log when it came back, entries; sessions to be read whole", f"{entries:,}; {dirty:,}"),
            ("Redis's memory then", f"{memory / 2**20:,.0f} MiB"),
            ("caught up after, while saving went on", f"{back:.1f} s"),
            ("answers in PostgreSQL that are not the newest acknowledged ones", len(wrong)),
        ],
    )
    return [f"not as acknowledged: {wrong[:5]}"] if wrong else []


async def waiting(place: Stack) -> tuple[int, int, int]:
    """Return how much is not in PostgreSQL: log entries, dirty sessions; and Redis's memory in bytes."""
    async with Redis.from_url(place.read()["redis"]) as redis:
        entries = sum([await redis.xlen(f"log:{{{shard:02d}}}") for shard in range(SHARDS)])
        dirty = sum([await redis.zcard(f"dirty:{{{shard:02d}}}") for shard in range(SHARDS)])
        return entries, dirty, int((await redis.info("memory"))["used_memory"])


async def nothing_waits(place: Stack, *, while_saving: float) -> bool:
    """Whether the snapshots have caught up: nothing waits but what the last moments brought."""
    entries, dirty, _ = await waiting(place)
    return entries <= while_saving and dirty == 0


async def unlike(place: Stack, students: list[Student]) -> list[str]:
    """Return the answers that PostgreSQL has otherwise than they were acknowledged."""
    import asyncpg

    connection = await asyncpg.connect(place.read()["postgres"], timeout=10)
    try:
        rows = await connection.fetch("SELECT session_id::text, question_id, version FROM session_answer")
    finally:
        await connection.close()
    written = {(row["session_id"], row["question_id"]): row["version"] for row in rows}
    return [
        f"{student.name} {question}: {written.get((student.session, question))}, not {kept.version}"
        for student in students
        for question, kept in student.kept.items()
        if written.get((student.session, question)) != kept.version
    ]


async def answer_some(students: Students, student: Student) -> None:
    await students.save_all(student, [(question, options[0]) for question, options in CHOICES[:ANSWERS]])


async def answer(students: Students, student: Student, chance: random.Random) -> None:
    question, options = chance.choice(CHOICES)
    await students.save(student, question, chance.choice(options))


async def look(students: Students, student: Student, views: dict[str, session_pb2.Session]) -> None:
    views[student.name] = await students.read(student)


async def refused_save(students: Students, student: Student, found: list[str]) -> None:
    found.append(await students.refused_save(student))


async def has_results(place: Stack, count: int) -> bool:
    return await place.count(RESULTS) >= count


def is_changed(student: Student, view: session_pb2.Session) -> bool:
    return (tuple(view.question_order), view.ends_at.ToMilliseconds()) != (student.order, student.ends_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("wipe", "postgres"))
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--saves", type=float, default=500, help="offered, per second")
    parser.add_argument("--seconds", type=float, default=10, help="of saves before the wipe, and after it")
    parser.add_argument("--away", type=float, default=300, help="seconds without PostgreSQL")
    chosen = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with stack() as place:
        work = (
            wipe(place, chosen.sessions, chosen.saves, chosen.seconds)
            if chosen.what == "wipe"
            else postgres(place, chosen.sessions, chosen.saves, chosen.away)
        )
        problems = uvloop.run(work)
    for problem in problems:
        print(f"BROKEN: {problem}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()

"""Starts, many in one transaction: one session a student, whoever races, and nobody's start fails for another's sake."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from servers.deadline import deadline
from servers.session.papers import Papers
from stores import keys
from stores.catalog import EXAM_LOCK, Catalog
from stores.connect import Stores
from stores.flights import Flights
from stores.live import LiveSessions, Patience
from stores.pipeline import Overloaded
from stores.records import Deadline, Terms
from stores.start_records import Start, Started, StartOutcome
from stores.starts import READ, Starts
from stores.warming import Warming
from tests.stack import Stack, eventually, fresh
from tests.stores.test_generation import a_redis, a_worker

CREATED, RUNNING, REPLAYED = StartOutcome.CREATED, StartOutcome.RUNNING, StartOutcome.REPLAYED
STUDENT_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('time of ' || $1, 0))"


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    """An open exam of ten minutes and three attempts."""
    await stack.import_exam(small_exam, exam_id)
    return exam_id


@pytest.fixture
def starts(stores: Stores) -> Starts:
    return Starts(stores.postgres, deadline)


@pytest.fixture
async def live(stores: Stores) -> LiveSessions:
    async def no_restore(session: uuid.UUID) -> bool:
        return False

    opened = LiveSessions(stores.live, no_restore, stores.generations.begin, Patience())
    await opened.prepare()
    return opened


def a_start(exam: str, student: str | None = None, *, key: uuid.UUID | None = None, cohorts: tuple[str, ...] = ()) -> Start:
    return Start(student or fresh("s"), exam, cohorts, "Ada", key)


async def all_of(starts: Starts, *wanted: Start) -> list[Started]:
    """Start all at once: they make one batch."""
    return list(await asyncio.gather(*(starts.start(one) for one in wanted)))


def outcomes(started: list[Started]) -> list[StartOutcome]:
    return [one.outcome for one in started]


async def kept(stores: Stores, exam: str) -> list[asyncpg.Record]:
    return list(await stores.postgres.fetch("SELECT * FROM exam_session WHERE exam_id = $1 ORDER BY student_id, attempt", exam))


async def hand_in(stores: Stores, started: Started) -> None:
    """Mark a session as handed in."""
    await stores.postgres.execute(
        "UPDATE exam_session SET status = 'SUBMITTED', submitted_at = now() WHERE id = $1", started.session
    )


@asynccontextmanager
async def held(stores: Stores, lock: str, what: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold a lock in a transaction, until the block ends and what was done in it is committed."""
    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute(lock, what)
        yield connection


# Races


async def test_one_student_twenty_times_in_one_batch_gets_one_session(stores: Stores, starts: Starts, exam: str) -> None:
    student = fresh("s")

    started = await all_of(starts, *(a_start(exam, student) for _ in range(20)))

    assert sorted(outcomes(started)) == [CREATED, *[RUNNING] * 19]
    assert len({one.session for one in started}) == 1
    assert [row["id"] for row in await kept(stores, exam)] == [started[0].session]


async def test_one_student_in_the_batches_of_many_processes_gets_one_session(stores: Stores, exam: str) -> None:
    student, others = fresh("s"), [fresh("o") for _ in range(10)]
    processes = [Starts(stores.postgres, deadline) for _ in range(5)]

    batches = await asyncio.gather(
        *(all_of(one, *(a_start(exam, name) for name in (student, *others[n:], student, *others[:n])))
          for n, one in enumerate(processes))
    )  # fmt: skip

    rows = await kept(stores, exam)
    assert [row["student_id"] for row in rows] == sorted([student, *others])
    assert {one.session for batch in batches for one in batch} == {row["id"] for row in rows}
    assert sum(one.outcome is CREATED for batch in batches for one in batch) == len(rows)


async def test_many_batches_with_the_same_students_in_any_order_all_come_to_an_end(stores: Stores, exam: str) -> None:
    students = [fresh("s") for _ in range(30)]
    processes = [Starts(stores.postgres, deadline) for _ in range(4)]

    for _ in range(5):
        started = await asyncio.gather(
            *(all_of(one, *(a_start(exam, name) for name in students[:: (-1) ** n])) for n, one in enumerate(processes))
        )
        assert all(one.session for batch in started for one in batch)

    assert len(await kept(stores, exam)) == len(students)


async def test_a_student_starts_two_exams_in_one_batch(
    stack: Stack, stores: Stores, starts: Starts, small_exam: dict[str, Any], exam: str
) -> None:
    other, student = fresh("t"), fresh("s")
    await stack.import_exam(small_exam, other)

    started = await all_of(starts, a_start(exam, student), a_start(other, student))

    assert outcomes(started) == [CREATED, CREATED]
    assert [len(await kept(stores, one)) for one in (exam, other)] == [1, 1]


# Keys and attempts


async def test_a_key_returns_its_session_after_the_submit_and_another_key_starts_the_next_attempt(
    stores: Stores, starts: Starts, exam: str
) -> None:
    student, old, new = fresh("s"), uuid.uuid4(), uuid.uuid4()
    first = await starts.start(a_start(exam, student, key=old))
    await hand_in(stores, first)

    again, second, second_again, without_key = await all_of(
        starts, a_start(exam, student, key=old), *(a_start(exam, student, key=new) for _ in range(2)), a_start(exam, student)
    )

    assert outcomes([again, second, second_again, without_key]) == [REPLAYED, CREATED, REPLAYED, RUNNING]
    assert again.session == first.session
    assert second.session == second_again.session == without_key.session != first.session
    assert [row["attempt"] for row in await kept(stores, exam)] == [1, 2]


async def test_nobody_starts_more_often_than_the_exam_allows(stores: Stores, starts: Starts, exam: str) -> None:
    student = fresh("s")
    for _ in range(3):
        await hand_in(stores, await starts.start(a_start(exam, student)))

    refused, other = await all_of(starts, a_start(exam, student), a_start(exam))

    assert outcomes([refused, other]) == [StartOutcome.EXHAUSTED, CREATED]
    assert refused.session is None
    assert refused.doors is not None
    assert refused.doors.max_attempts == 3


async def test_what_is_told_of_a_new_session_is_what_was_kept(stores: Stores, starts: Starts, exam: str) -> None:
    started = await starts.start(a_start(exam, cohorts=("class-a", "class-b")))

    row = (await kept(stores, exam))[0]
    assert started.made is not None
    facts, end = started.made
    assert (facts.session, facts.exam, facts.exam_version) == (row["id"], row["exam_id"], row["exam_version"])
    assert (facts.student, facts.attempt, facts.alias) == (row["student_id"], row["attempt"], row["alias"])
    assert (facts.started_ms, end.ends_ms) == tuple(round(row[at].timestamp() * 1000) for at in ("started_at", "ends_at"))
    assert end.version == row["deadline_version"]
    assert row["cohorts"] == ["class-a", "class-b"]


async def test_a_new_session_without_cohorts_has_none(stores: Stores, starts: Starts, exam: str) -> None:
    await starts.start(a_start(exam))

    assert (await kept(stores, exam))[0]["cohorts"] == []


# One bad start


async def test_a_start_that_postgresql_refuses_fails_alone(stores: Stores, starts: Starts, exam: str) -> None:
    good = [a_start(exam) for _ in range(7)]
    bad = [a_start(exam, "nobody\x00"), replace(a_start(exam), alias="a\x00b"), replace(a_start(exam), cohorts=("\x00",))]

    replies = await asyncio.gather(*(starts.start(one) for one in [*good[:3], *bad, *good[3:]]), return_exceptions=True)

    assert [isinstance(reply, Started) for reply in replies] == [True] * 3 + [False] * 3 + [True] * 4
    assert {row["student_id"] for row in await kept(stores, exam)} == {one.student for one in good}


async def test_a_start_whose_end_cannot_be_computed_fails_alone(stores: Stores, exam: str) -> None:
    turn = iter([deadline, lambda terms: Deadline(1, 10**18), deadline])

    def rule(terms: Terms) -> Deadline:
        return next(turn)(terms)

    starts = Starts(stores.postgres, rule)
    replies = await asyncio.gather(*(starts.start(a_start(exam)) for _ in range(3)), return_exceptions=True)

    assert [isinstance(reply, Started) for reply in replies] == [True, False, True]
    assert len(await kept(stores, exam)) == 2


async def test_an_unknown_exam_is_one_starts_affair(starts: Starts, exam: str) -> None:
    assert outcomes(await all_of(starts, a_start("nowhere"), a_start(exam))) == [StartOutcome.UNKNOWN, CREATED]


async def test_starts_that_find_the_queue_full_are_refused_and_never_made(stores: Stores, exam: str) -> None:
    starts, wanted = Starts(stores.postgres, deadline, waiting=3), [a_start(exam) for _ in range(5)]

    replies = await asyncio.gather(*(starts.start(one) for one in wanted), return_exceptions=True)

    assert [type(reply) for reply in replies] == [Started] * 3 + [Overloaded] * 2
    assert {row["student_id"] for row in await kept(stores, exam)} == {one.student for one in wanted[:3]}


async def test_a_start_that_has_waited_too_long_is_refused_and_never_made(
    stores: Stores, exam: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, now = Starts(stores.postgres, deadline), [0.0]
    monkeypatch.setattr("stores.starts.monotonic", lambda: now[0])

    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE exam IN ACCESS EXCLUSIVE MODE")  # the batch in flight has to wait
        under_way = asyncio.ensure_future(starts.start(a_start(exam)))
        await asyncio.sleep(0.05)
        too_long = asyncio.ensure_future(starts.start(a_start(exam)))
        await asyncio.sleep(0)
        now[0] = 10.0
        just_came = asyncio.ensure_future(starts.start(a_start(exam)))
        await asyncio.sleep(0)
    replies = await asyncio.gather(under_way, too_long, just_came, return_exceptions=True)

    assert [type(reply) for reply in replies] == [Started, Overloaded, Started]
    assert len(await kept(stores, exam)) == 2


async def test_no_start_reads_the_sessions_of_its_whole_exam(stores: Stores) -> None:
    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch(f"EXPLAIN {READ.replace('$1::text[]', 'ARRAY[$$e$$]').replace('$2::text[]', 'ARRAY[$$s$$]')}")

    told = "\n".join(row[0] for row in plan)
    assert "student_id = i.student" in told
    assert "exam_session_exam" not in told
    assert "Seq Scan" not in told


# What changes meanwhile


async def test_a_start_misses_no_close_and_holds_up_no_other_exams_starts(
    stack: Stack, stores: Stores, starts: Starts, small_exam: dict[str, Any], exam: str
) -> None:
    other, inside = fresh("t"), fresh("s")
    await stack.import_exam(small_exam, other)
    await starts.start(a_start(exam, inside))

    async with held(stores, EXAM_LOCK, exam) as closing:
        waiting = [asyncio.ensure_future(starts.start(a_start(exam, student))) for student in (fresh("s"), inside)]
        elsewhere = await starts.start(a_start(other))
        await closing.execute("UPDATE exam SET closed_at = now() WHERE id = $1", exam)
        assert not any(start.done() for start in waiting)
    late, back = await asyncio.gather(*waiting)

    assert outcomes([late, back, elsewhere]) == [StartOutcome.CLOSED, RUNNING, CREATED]
    assert late.doors is not None
    assert late.doors.closed_ms > 0
    assert len(await kept(stores, exam)) == 1


async def test_a_start_misses_no_extra_time_and_holds_up_nobody(stores: Stores, starts: Starts, exam: str) -> None:
    student = fresh("s")

    async with held(stores, STUDENT_LOCK, student) as giving:
        waiting = asyncio.ensure_future(starts.start(a_start(exam, student)))
        other = await starts.start(a_start(exam))
        await giving.execute(
            "INSERT INTO accommodation (student_id, exam_id, extra_seconds) VALUES ($1, '', 60), ($1, $2, 300)", student, exam
        )
        assert not waiting.done()
    started = await waiting

    lengths = [one.made[1].ends_ms - one.made[0].started_ms for one in (started, other) if one.made]
    assert lengths == [900_000, 600_000]


async def test_whoever_closes_or_gives_time_waits_for_starts_under_way(stores: Stores, starts: Starts, exam: str) -> None:
    student = fresh("s")

    async def free() -> list[bool]:
        query = "SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AND pg_advisory_unlock(hashtextextended($1, 0))"
        async with stores.postgres.acquire() as connection:
            return [await connection.fetchval(query, name) for name in (f"exam/{exam}", f"time of {student}")]

    async def taken() -> bool:
        return not any(await free())

    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE exam_session IN SHARE MODE")  # inserts have to wait
        starting = asyncio.ensure_future(starts.start(a_start(exam, student)))
        await eventually(taken)
    await starting

    assert await free() == [True, True]


# Who may


async def test_a_roster_lets_in_who_is_on_it_and_gives_its_alias(
    stack: Stack, stores: Stores, starts: Starts, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, enrolment="ROSTER")
    named, unnamed = fresh("s"), fresh("s")
    await stores.postgres.execute(
        "INSERT INTO enrolment (exam_id, student_id, alias) VALUES ($1, $2, 'Countess'), ($1, $3, NULL)", exam_id, named, unnamed
    )

    started = await all_of(starts, a_start(exam_id, named), a_start(exam_id), a_start(exam_id, unnamed))

    assert outcomes(started) == [CREATED, StartOutcome.NOT_ENROLLED, CREATED]
    assert [one.made[0].alias for one in started if one.made] == ["Countess", "Ada"]


async def test_a_bought_exam_lets_in_who_owns_it_now(
    stack: Stack, stores: Stores, starts: Starts, small_exam: dict[str, Any], exam_id: str
) -> None:
    product = fresh("p")
    await stack.import_exam(small_exam, exam_id, productId=product)
    owner, expired, revoked = fresh("s"), fresh("s"), fresh("s")
    await stores.postgres.execute(
        """
        INSERT INTO entitlement (student_id, product_id, expires_at, revoked_at)
        VALUES ($1, $4, NULL, NULL), ($2, $4, now() - interval '1 second', NULL), ($3, $4, NULL, now())
        """,
        *(owner, expired, revoked, product),
    )

    started = await all_of(starts, *(a_start(exam_id, student) for student in (owner, expired, revoked, fresh("s"))))

    assert outcomes(started) == [CREATED, *[StartOutcome.NOT_ENTITLED] * 3]
    assert started[1].doors is not None
    assert started[1].doors.product == product


async def test_whoever_sits_a_bought_exam_gets_their_session_again_though_they_own_it_no_more(
    stack: Stack, stores: Stores, starts: Starts, small_exam: dict[str, Any], exam_id: str
) -> None:
    product, key = fresh("p"), uuid.uuid4()
    await stack.import_exam(small_exam, exam_id, productId=product)
    refunded, expired = fresh("s"), fresh("s")
    grant = "INSERT INTO entitlement (student_id, product_id) VALUES ($1, $3), ($2, $3)"
    await stores.postgres.execute(grant, refunded, expired, product)
    sat = await all_of(starts, a_start(exam_id, refunded, key=key), a_start(exam_id, expired, key=key))

    await stores.postgres.execute("UPDATE entitlement SET revoked_at = now() WHERE student_id = $1", refunded)
    await stores.postgres.execute("UPDATE entitlement SET expires_at = now() WHERE student_id = $1", expired)
    again = await all_of(starts, a_start(exam_id, refunded), a_start(exam_id, expired, key=key))
    await hand_in(stores, sat[0])
    await hand_in(stores, sat[1])
    over = await all_of(starts, a_start(exam_id, refunded), a_start(exam_id, expired, key=key))

    assert outcomes(again) == [StartOutcome.RUNNING, StartOutcome.REPLAYED]
    assert [one.session for one in again] == [one.session for one in sat]
    assert outcomes(over) == [StartOutcome.NOT_ENTITLED] * 2


async def test_an_exam_that_is_not_open_tells_when_it_opens(
    stack: Stack, starts: Starts, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, opensAt="2100-01-01T00:00:00Z")

    started = await starts.start(a_start(exam_id))

    assert started.outcome is StartOutcome.NOT_OPEN
    assert started.doors is not None
    assert started.doors.opens_ms == 4_102_444_800_000


# Into Redis


async def test_what_a_start_tells_of_a_new_session_is_what_reading_it_gives(live: LiveSessions, starts: Starts, exam: str) -> None:
    made = (await starts.start(a_start(exam))).made
    assert made is not None

    told = await live.start(*made)
    read, again = await live.state(made[0].session), await live.start(*made)

    assert told is not None
    assert read is not None
    assert again is not None
    assert replace(told, now_ms=0) == replace(read, now_ms=0) == replace(again, now_ms=0)


async def test_a_start_that_a_restore_has_overtaken_tells_what_is_there(stores: Stores, starts: Starts, exam: str) -> None:
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker:
            student = fresh("s")
            made = (await starts.start(a_start(exam, student))).made
            assert made is not None
            saved = await worker.save(made[0].session, student, "B", "key-number-1")  # another device: restored, then saved

            told = await worker.live.start(*made)

    assert told is not None
    assert told.epoch == saved.version // 1_000_000 == 1
    assert [answer.answer.value for answer in told.answers] == ["B"]


async def test_a_start_into_a_redis_that_was_just_wiped_is_restored(stores: Stores, starts: Starts, exam: str) -> None:
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker:
            student = fresh("s")
            made = (await starts.start(a_start(exam, student))).made
            assert made is not None
            before = await worker.save(made[0].session, student, "B", "key-number-1")
            await worker.redis.flushall()

            told = await worker.live.start(*made)
            after = await worker.save(made[0].session, student, "C", "key-number-2")
            generation = await worker.redis.get(keys.generation_key(keys.shard(made[0].session)))

    assert told is not None
    assert told.epoch > before.version // 1_000_000
    assert after.version > before.version
    assert generation


# Single flight


async def test_a_thousand_who_miss_an_exam_ask_postgresql_once(stores: Stores, exam: str) -> None:
    pool = Counting(stores.postgres)
    catalog = Catalog(pool)

    found = await asyncio.gather(*(catalog.exam(exam) for _ in range(1_000)), *(catalog.exam("nowhere") for _ in range(1_000)))

    assert [one.id if one else None for one in found] == [exam] * 1_000 + [None] * 1_000
    assert pool.asked == 2


async def test_a_thousand_who_miss_a_paper_ask_once_and_redis_keeps_it(stores: Stores, live: LiveSessions, exam: str) -> None:
    pool = Counting(stores.postgres)

    papers = Papers(live, Catalog(pool))

    found = await asyncio.gather(*(papers.of(exam, 1) for _ in range(1_000)))

    assert len({id(one) for one in found}) == 1
    assert pool.asked == 1
    assert await live.paper(exam, 1) == found[0].paper


async def test_papers_of_exams_that_open_soon_are_read_ahead(
    stack: Stack, stores: Stores, live: LiveSessions, small_exam: dict[str, Any], exam_id: str
) -> None:
    soon = await stores.postgres.fetchval("SELECT to_char(now() + interval '5 minutes', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")
    await stack.import_exam(small_exam, exam_id, opensAt=soon)
    catalog, stop = Catalog(stores.postgres), asyncio.Event()

    reading = asyncio.ensure_future(Papers(live, catalog).read_ahead(stop))
    found = await eventually(lambda: live.paper(exam_id, 1))
    stop.set()
    await reading

    assert found == await catalog.paper(exam_id, 1)
    assert (exam_id, 1) not in await catalog.opening(60, 50)


async def test_warming_an_exam_puts_its_paper_into_redis_and_may_be_repeated(
    stores: Stores, live: LiveSessions, starts: Starts, exam: str
) -> None:
    catalog = Catalog(stores.postgres)
    warming = Warming(stores.postgres, catalog, live)

    cold = await live.paper(exam, 1)
    first = await warming.warm(exam)
    await starts.start(a_start(exam))
    second = await warming.warm(exam)

    assert cold is None
    assert first is not None
    assert (first.version, first.questions, first.sessions, first.months) == (1, 4, 0, True)
    assert second == replace(first, sessions=1)
    assert await live.paper(exam, 1) == await catalog.paper(exam, 1)
    assert await warming.warm("nowhere") is None


async def test_an_exam_that_opens_in_a_month_that_is_not_made_yet_is_told_so(
    stack: Stack, stores: Stores, live: LiveSessions, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, opensAt="2100-01-01T00:00:00Z")

    warmed = await Warming(stores.postgres, Catalog(stores.postgres), live).warm(exam_id)

    assert warmed is not None
    assert not warmed.months


async def test_a_failure_is_shared_and_the_next_one_looks_again() -> None:
    flights: Flights[str, int] = Flights()
    turns = iter([ConnectionError("away"), 7])

    async def look() -> int:
        await asyncio.sleep(0)
        found = next(turns)
        if isinstance(found, Exception):
            raise found
        return found

    failed = await asyncio.gather(*(flights.join("it", look) for _ in range(5)), return_exceptions=True)

    assert [type(one) for one in failed] == [ConnectionError] * 5
    assert await flights.join("it", look) == 7


async def test_whoever_leaves_takes_nobody_along() -> None:
    flights: Flights[str, int] = Flights()
    go = asyncio.Event()

    async def look() -> int:
        await go.wait()
        return 7

    first, second = (asyncio.ensure_future(flights.join("it", look)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    go.set()

    assert await second == 7


class Counting:
    """A pool that counts what it is asked."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool, self.asked = pool, 0

    async def fetch(self, *asked: Any) -> Any:
        self.asked += 1
        return await self._pool.fetch(*asked)

    async def fetchrow(self, *asked: Any) -> Any:
        self.asked += 1
        return await self._pool.fetchrow(*asked)

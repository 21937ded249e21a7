"""Starts: makes the rows of `exam_session`, many in one transaction, and one session of racing starts of one student."""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

import asyncpg

from stores.pipeline import Coalescer, Overloaded
from stores.records import Deadline, Terms
from stores.refused import each
from stores.sessions import moment
from stores.start_records import New, Start, Started, decide_all, told_of

TOGETHER = 200
"""Each start holds a lock until its transaction ends, and PostgreSQL's table of locks has room for some thousand."""

WAITING = 4_000
LONGEST_SECONDS = 3.0
"""How many starts may wait, and for how long: then a client is better told to come back, since nobody's time should begin to
run while they look at an error. While PostgreSQL hangs, it is this that lets nobody hang with it."""

STEADY = "(SELECT set_config('enable_seqscan', 'off', true) || set_config('enable_hashjoin', 'off', true))"
"""Plans are kept: one that was made while a table was nearly empty would read all of it for each start of a herd."""

TRY_LOCKS = f"""
SELECT name, CASE WHEN shared THEN pg_try_advisory_xact_lock_shared(hashtextextended(name, 0))
  ELSE pg_try_advisory_xact_lock(hashtextextended(name, 0)) END AS held, {STEADY}
FROM unnest($1::text[], $2::bool[]) WITH ORDINALITY AS l (name, shared, n) ORDER BY n
"""  # noqa: S608
AWAIT_LOCKS = f"""
SELECT name, true AS held, CASE WHEN shared THEN pg_advisory_xact_lock_shared(hashtextextended(name, 0))
  ELSE pg_advisory_xact_lock(hashtextextended(name, 0)) END, {STEADY}
FROM unnest($1::text[], $2::bool[]) WITH ORDINALITY AS l (name, shared, n) ORDER BY n
"""  # noqa: S608


READ = """
SELECT clock_timestamp() AS now, e.id AS exam, e.version, e.max_attempts, e.duration_seconds, e.opens_at, e.closes_at,
  COALESCE(e.product_id, x.products[1]) AS product_id, e.opens_at > clock_timestamp() AS unopened,
  COALESCE(e.closed_at, e.closes_at) AS closed_at,
  e.closed_at IS NOT NULL OR e.closes_at <= clock_timestamp() AS closed,
  x.products IS NULL OR EXISTS (
    SELECT FROM entitlement t
    WHERE t.student_id = i.student AND t.product_id = ANY (x.products) AND t.revoked_at IS NULL
      AND (t.expires_at IS NULL OR t.expires_at > now())
  ) AS entitled,
  CASE WHEN e.enrolment <> 'ROSTER' THEN '' ELSE (
    SELECT COALESCE(r.alias, '') FROM enrolment r WHERE r.exam_id = e.id AND r.student_id = i.student LIMIT 1
  ) END AS enrolled,
  a.exam_id AS accommodated, a.extra_seconds, a.factor,
  ARRAY(
    SELECT (s.start_key, s.status, s.id) FROM exam_session s
    WHERE s.student_id = i.student AND s.exam_id || '' = i.exam ORDER BY s.attempt
  ) AS sittings
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS i (exam, student, n)
LEFT JOIN exam e ON e.id = i.exam
LEFT JOIN LATERAL (SELECT array_agg(product_id ORDER BY product_id) AS products FROM exam_product WHERE exam_id = e.id) x ON true
LEFT JOIN LATERAL (
  SELECT exam_id, extra_seconds, factor FROM accommodation
  WHERE student_id = i.student AND exam_id IN (i.exam, '') ORDER BY exam_id DESC LIMIT 1
) a ON true
ORDER BY i.n
"""
"""What decides about each start, in order. `exam_id || ''` keeps PostgreSQL from looking for a student's sessions by exam, as it
did now and then while the table was too new to be known: then each start of a herd of 5,000 read all before it, 10 million rows."""


_Waiting = tuple[float, Start]
"""A start, and since when it waits."""


class Starts:
    """Starts, in batches: those that arrive while a transaction is in flight go together in the next one.

    Starts of one student take turns on a lock of the student's, which whoever moves their extra time takes too; whoever
    changes the exam waits for its other lock, so that no start misses a close. A batch waits for nobody: a start whose lock
    is taken goes into another lane, where those wait that have to. One transaction at a time: two would be half as full each,
    and cost twice as much. `rule` makes a deadline of its terms.
    """

    def __init__(self, pool: asyncpg.Pool, rule: Callable[[Terms], Deadline], *, waiting: int = WAITING) -> None:
        self._pool = pool
        self._rule = rule
        self._free: Coalescer[_Waiting, Started | None] = Coalescer(
            lambda waiting: self._in_time(waiting, TRY_LOCKS), queue="starts", in_flight=1, batch=TOGETHER, bound=waiting
        )
        self._held: Coalescer[_Waiting, Started | None] = Coalescer(
            lambda waiting: self._in_time(waiting, AWAIT_LOCKS), queue="starts held up", batch=TOGETHER, bound=waiting
        )

    async def start(self, start: Start) -> Started:
        """Insert a session, or return the one that the start means: its key's, or the one in progress. Raises Overloaded when
        too many wait, or it has waited too long; then nothing was inserted."""
        waiting = monotonic(), start
        started = await self._free.submit(waiting) or await self._held.submit(waiting)
        assert started is not None, "it waited for its locks"
        return started

    async def _in_time(self, waiting: Sequence[_Waiting], locks: str) -> Sequence[Started | Exception | None]:
        """Start those that have not waited too long."""
        oldest = monotonic() - LONGEST_SECONDS
        in_time = [start for since, start in waiting if since >= oldest]
        replies = iter(await each(in_time, lambda starts: self._together(starts, locks)))
        return [next(replies) if since >= oldest else Overloaded() for since, _ in waiting]

    async def _together(self, starts: Sequence[Start], locks: str) -> Sequence[Started | Exception | None]:
        """Start all of which the locks are to be had; None in the place of the others."""
        async with self._pool.acquire() as connection, connection.transaction():
            wanted = sorted({(False, _exam_lock(s)) for s in starts} | {(True, _student_lock(s)) for s in starts})
            taken = await connection.fetch(locks, [name for _, name in wanted], [not alone for alone, _ in wanted])
            held = {row["name"] for row in taken if row["held"]}
            mine = [n for n, start in enumerate(starts) if _exam_lock(start) in held and _student_lock(start) in held]
            free = [starts[n] for n in mine]
            decided = decide_all(free, await _read(connection, free), self._rule) if free else []
            new = [one for one in decided if isinstance(one, New)]
            if new:
                await _insert(connection, new)
        told: list[Started | Exception | None] = [None] * len(starts)
        for n, one in zip(mine, decided, strict=True):
            told[n] = told_of(one)
        return told


async def _read(connection: asyncpg.Connection, starts: Sequence[Start]) -> Sequence[Mapping[str, Any]]:
    """Return for each start, in order, what decides about it. A statement of its own, after the locks: it sees what whoever
    held them before has committed."""
    rows: Sequence[Mapping[str, Any]] = await connection.fetch(
        READ,
        [start.exam for start in starts],
        [start.student for start in starts],
    )
    return rows


async def _insert(connection: asyncpg.Connection, new: Sequence[New]) -> None:
    """Insert sessions, and note their ids; there is one for each student and exam at most."""
    rows = await connection.fetch(
        """
        INSERT INTO exam_session (student_id, exam_id, exam_version, cohorts, attempt, start_key, alias, started_at, ends_at)
        SELECT student, exam, version, string_to_array(cohorts, ','), attempt, start_key, alias, started_at, ends_at
        FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::int[], $6::uuid[], $7::text[], $8::timestamptz[],
                    $9::timestamptz[])
          AS n (student, exam, version, cohorts, attempt, start_key, alias, started_at, ends_at)
        RETURNING student_id, exam_id, id
        """,
        [one.start.student for one in new],
        [one.start.exam for one in new],
        [one.exam_version for one in new],
        [",".join(one.start.cohorts) for one in new],
        [one.attempt for one in new],
        [one.start.start_key for one in new],
        [one.alias for one in new],
        [moment(one.started_ms) for one in new],
        [moment(one.deadline.ends_ms) for one in new],
    )
    ids = {(row["student_id"], row["exam_id"]): row["id"] for row in rows}
    for one in new:
        one.sitting.session = ids[one.start.student, one.start.exam]


def _exam_lock(start: Start) -> str:
    return f"exam/{start.exam}"


def _student_lock(start: Start) -> str:
    return f"time of {start.student}"

"""Signals: what happens around sessions, in PostgreSQL. Nothing that runs a session reads or waits for any of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from stores.cases import AGO, OF_STUDENT, counted
from stores.catalog import record
from stores.sessions import milliseconds, moment, moment_or_none
from stores.signal_records import ONLY_COUNTED, OWN, Counted, Feed, Finished, Kind, Pace, Presence, Signal, Wanted

LOOK_BACK = "2 days"
"""How long after its start a session is looked for that has a score and was not looked at: the longest exam, and a day off."""


@dataclass(frozen=True, slots=True)
class Written:
    """What one batch did: signals that are new, those of sessions that are not the student's, and those that came too late or
    were erased; the rest were kept before."""

    new: int
    foreign: int
    late: int


@dataclass(frozen=True, slots=True)
class Erased:
    """What was deleted of a student."""

    sessions: int
    signals: int


class Signals:
    """Signals, their counts, and from where sessions were reported on."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def owners(self, sessions: Sequence[UUID]) -> Sequence[str | None]:
        """Return whose these sessions are, in order; None: nobody's."""
        rows = await self._pool.fetch("SELECT id, student_id FROM exam_session WHERE id = ANY ($1)", list(sessions))
        found = {row["id"]: row["student_id"] for row in rows}
        return [found.get(session) for session in sessions]

    async def keep(
        self, signals: Sequence[Signal], presences: Sequence[Presence], feeds: Sequence[Feed], grace_seconds: int
    ) -> Written:
        """Keep a batch in one transaction. A signal is kept once however often it comes, and only of the student's own session,
        until so long after it was handed in."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(KEEPING)
            written = await _keep_signals(connection, signals, grace_seconds)
            await _keep_presences(connection, presences)
            await _keep_feeds(connection, feeds)
        return written

    async def lost(self) -> int:
        """Return how many signals were published and never came here."""
        count: int = await self._pool.fetchval("SELECT coalesce(sum(lost), 0)::bigint FROM integrity_feed")
        return count

    async def presences(self, sessions: Sequence[UUID]) -> Sequence[Presence]:
        """Return from where sessions were reported on."""
        rows = await self._pool.fetch(
            """
            SELECT p.*, s.student_id FROM integrity_presence p JOIN exam_session s ON s.id = p.session_id
            WHERE p.session_id = ANY ($1) ORDER BY first_at
            """,
            list(sessions),
        )
        return [
            Presence(
                session=row["session_id"],
                student=row["student_id"],
                device=row["device_id"],
                address=row["address"],
                token=row["token_digest"],
                first_ms=milliseconds(row["first_at"]),
                last_ms=milliseconds(row["last_at"]),
            )
            for row in rows
        ]

    # What the server works out after the fact

    async def finished(self, count: int, least_answers: int, grace_seconds: int) -> Sequence[Finished]:
        """Return sessions with a score that were handed in so long ago and not looked at yet, and those that can be judged now
        since so many have answered; by age."""
        rows = await self._pool.fetch(
            f"""
            SELECT s.id, s.student_id, s.exam_id, s.exam_version, s.started_at, e.session_id IS NOT NULL AS again
            FROM exam_session s LEFT JOIN integrity_seen e ON e.session_id = s.id
            WHERE s.id > first_uuid(now() - interval '{LOOK_BACK}') AND s.status = 'SCORED'
              AND s.submitted_at < now() - make_interval(secs => $3)
              AND NOT EXISTS (SELECT FROM integrity_erased x WHERE x.session_id = s.id)
              AND (e.session_id IS NULL OR NOT e.judged AND EXISTS (
                SELECT FROM integrity_pace p
                WHERE (p.exam_id, p.exam_version) = (s.exam_id, s.exam_version) AND p.answers >= $2))
            ORDER BY s.id LIMIT $1
            """,  # noqa: S608
            count,
            least_answers,
            float(grace_seconds),
        )
        return [
            Finished(
                row["id"], row["student_id"], row["exam_id"], row["exam_version"], milliseconds(row["started_at"]), row["again"]
            )
            for row in rows
        ]

    async def answer_times(self, sessions: Sequence[UUID]) -> Mapping[UUID, Sequence[tuple[str, int]]]:
        """Return when each question was last answered in sessions, in ms, the earliest first."""
        rows = await self._pool.fetch(
            "SELECT session_id, question_id, answered_at FROM session_answer WHERE session_id = ANY ($1) ORDER BY answered_at",
            list(sessions),
        )
        found: dict[UUID, list[tuple[str, int]]] = {}
        for row in rows:
            found.setdefault(row["session_id"], []).append((row["question_id"], milliseconds(row["answered_at"])))
        return found

    async def returns(self, sessions: Sequence[UUID]) -> Mapping[UUID, Sequence[tuple[int, int]]]:
        """Return when sessions were returned to, in ms by the server's clock, and after how many ms, the earliest first.

        It was as long before its report as the client says, by a clock of its own; where it does not say, when the report came.
        """
        rows = await self._pool.fetch(
            f"""
            SELECT session_id, received_at - {AGO} AS at, amount FROM integrity_signal
            WHERE session_id = ANY ($1) AND kind = $2 ORDER BY at
            """,  # noqa: S608
            *(list(sessions), Kind.FOCUS_REGAINED),
        )
        found: dict[UUID, list[tuple[int, int]]] = {}
        for row in rows:
            found.setdefault(row["session_id"], []).append((milliseconds(row["at"]), row["amount"]))
        return found

    async def add_pace(self, sessions: Sequence[Finished], paces: Mapping[tuple[str, int, str], Pace]) -> bool:
        """Count how long questions took in these sessions, each session once. False: another worker has counted one of them
        meanwhile, and nothing was added; look again."""
        async with self._pool.acquire() as connection, connection.transaction():
            new = await connection.fetch(
                """
                INSERT INTO integrity_seen (session_id, exam_id, exam_version, judged)
                SELECT *, false FROM unnest($1::uuid[], $2::text[], $3::int[]) ORDER BY 1
                ON CONFLICT (session_id) DO NOTHING RETURNING session_id
                """,
                [one.session for one in sessions],
                [one.exam for one in sessions],
                [one.exam_version for one in sessions],
            )
            if len(new) < len(sessions):
                await connection.execute(
                    "DELETE FROM integrity_seen WHERE session_id = ANY ($1)", [row["session_id"] for row in new]
                )
                return False
            ordered = sorted(paces.items())
            await connection.execute(
                """
                INSERT INTO integrity_pace AS p (exam_id, exam_version, question_id, answers, total, squares)
                SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::bigint[], $5::float8[], $6::float8[])
                ON CONFLICT (exam_id, exam_version, question_id) DO UPDATE SET
                  answers = p.answers + excluded.answers, total = p.total + excluded.total, squares = p.squares + excluded.squares
                """,
                [place[0] for place, _ in ordered],
                [place[1] for place, _ in ordered],
                [place[2] for place, _ in ordered],
                [pace.answers for _, pace in ordered],
                [pace.total for _, pace in ordered],
                [pace.squares for _, pace in ordered],
            )
        return True

    async def paces(self, papers: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int, str], Pace]:
        """Return how long the questions of papers take, by exam, version and question."""
        rows = await self._pool.fetch(
            """
            SELECT p.* FROM integrity_pace p
            JOIN (SELECT DISTINCT * FROM unnest($1::text[], $2::int[])) AS w (exam_id, exam_version) USING (exam_id, exam_version)
            """,
            [exam for exam, _ in papers],
            [version for _, version in papers],
        )
        return {
            (row["exam_id"], row["exam_version"], row["question_id"]): Pace(row["answers"], row["total"], row["squares"])
            for row in rows
        }

    async def judged(self, sessions: Sequence[UUID]) -> None:
        """Note that sessions were held against the others', and are done with."""
        await self._pool.execute("UPDATE integrity_seen SET judged = true WHERE session_id = ANY ($1)", list(sessions))

    # What staff see

    async def is_exam(self, exam: str) -> bool:
        """Whether there is such an exam."""
        return bool(await self._pool.fetchval("SELECT EXISTS (SELECT FROM exam WHERE id = $1)", exam))

    async def over(self, exam: str, wanted: Sequence[Wanted], most: int) -> tuple[Sequence[Counted], int]:
        """Return an exam's sessions with a count that is looked for, the strongest first (the sum of how many times what is looked
        for they are, each up to ten), at most so many; and how many there are in all."""
        rows = await self._pool.fetch(
            """
            WITH hit AS (
              SELECT c.session_id, c.kind, c.count, c.amount, c.peak, c.last_at,
                sum(least(10, v.value::float8 / w.least)) AS strength
              FROM unnest($2::text[], $3::text[], $4::bigint[]) AS w (kind, measure, least)
                JOIN integrity_count c ON c.exam_id = $1 AND c.kind = w.kind AND c.last_at IS NOT NULL
                CROSS JOIN LATERAL (
                  SELECT CASE w.measure WHEN 'count' THEN c.count::bigint WHEN 'amount' THEN c.amount ELSE c.peak END AS value) AS v
              WHERE v.value >= w.least GROUP BY 1, 2, 3, 4, 5, 6
            ), strongest AS (
              SELECT session_id, sum(strength) AS strength, count(*) OVER () AS total FROM hit GROUP BY session_id
              ORDER BY 2 DESC, 1 LIMIT $5
            )
            SELECT s.id, s.student_id, s.alias, h.kind, h.count, h.amount, h.peak, h.last_at, g.total
            FROM strongest g JOIN hit h USING (session_id) JOIN exam_session s ON s.id = g.session_id
            ORDER BY g.strength DESC, s.id
            """,
            exam,
            [one.kind for one in wanted],
            [one.measure for one in wanted],
            [one.least for one in wanted],
            most,
        )
        return counted(rows), rows[0]["total"] if rows else 0

    async def thresholds(self, exam: str) -> Mapping[str, int | None]:
        """Return the thresholds that were set for an exam; None: never."""
        rows = await self._pool.fetch("SELECT name, threshold FROM integrity_threshold WHERE exam_id = $1", exam)
        return {row["name"]: row["threshold"] for row in rows}

    async def set_thresholds(self, exam: str, changes: Mapping[str, int | None], actor: str) -> bool:
        """Set thresholds of an exam, on record; False: there is no such exam."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM exam WHERE id = $1)", exam):
                return False
            ordered = sorted(changes.items())
            await connection.execute(
                """
                INSERT INTO integrity_threshold (exam_id, name, threshold, set_by)
                SELECT $1, name, threshold, $4 FROM unnest($2::text[], $3::int[]) AS n (name, threshold)
                ON CONFLICT (exam_id, name) DO UPDATE SET threshold = excluded.threshold, set_by = $4, set_at = now()
                """,
                exam,
                [name for name, _ in ordered],
                [threshold for _, threshold in ordered],
                actor,
            )
            await record(connection, actor, "integrity.thresholds", exam, dict(ordered))
        return True

    # Keeping it for a time, and forgetting

    async def make_partitions(self, months: int = 3, at: datetime | None = None) -> int:
        """Make the coming months' partitions; returns how many were new."""
        made: int = await self._pool.fetchval("SELECT make_signal_partitions(coalesce($1, now()), $2)", at, months)
        return made

    async def forget_before(self, at: datetime) -> int:
        """Drop the months of signals that are wholly before this time, and what else tells of sessions that began then; counts
        stay, of nobody. Returns how many months went."""
        gone: int = await self._pool.fetchval("SELECT drop_signal_partitions($1)", at)
        async with self._pool.acquire() as connection, connection.transaction():
            for table in ("integrity_presence", "integrity_seen", "integrity_erased"):
                await connection.execute(f"DELETE FROM {table} WHERE session_id < first_uuid($1)", at)  # noqa: S608
            await connection.execute(ANONYMOUS.format("session_id < first_uuid($1) AND last_at IS NOT NULL"), at)
            await connection.execute("DELETE FROM integrity_feed WHERE seen_at < $1", at)
        return gone

    async def sessions_of(self, student: str) -> Sequence[tuple[str, UUID]]:
        """Return the sessions of a student, with their exams."""
        rows = await self._pool.fetch("SELECT exam_id, id FROM exam_session WHERE student_id = $1 ORDER BY id", student)
        return [(row["exam_id"], row["id"]) for row in rows]

    async def erase(self, student: str, actor: str, frames: int) -> Erased:
        """Delete what is kept of a student, and refuse what is still under way; counts stay, of nobody. On record, with how many
        pictures were deleted before."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(OF_STUDENT, student)
            await connection.execute(ERASING)
            rows = await connection.fetch("SELECT id FROM exam_session WHERE student_id = $1 ORDER BY id", student)
            sessions = [row["id"] for row in rows]
            await connection.execute(
                """
                INSERT INTO integrity_erased (session_id, erased_at) SELECT id, clock_timestamp() FROM unnest($1::uuid[]) AS id
                ON CONFLICT (session_id) DO UPDATE SET erased_at = excluded.erased_at
                """,
                sessions,
            )
            gone = await connection.fetch("DELETE FROM integrity_signal WHERE session_id = ANY ($1) RETURNING session_id", sessions)
            seen = await connection.fetch(
                "DELETE FROM integrity_presence WHERE session_id = ANY ($1) RETURNING session_id", sessions
            )
            counted = await connection.fetch(ANONYMOUS.format("session_id = ANY ($1)"), sessions)
            await connection.execute(
                "UPDATE integrity_case_student SET seen = NULL, erased_at = clock_timestamp() WHERE student_id = $1", student
            )
            touched = {row["session_id"] for row in (*gone, *seen)} | {row["before"] for row in counted}
            details = {"sessions": len(touched), "signals": len(gone), "frames": frames}
            await record(connection, actor, "integrity.erase", student, details)
        return Erased(len(touched), len(gone))


KEEPING, ERASING = (f"SELECT pg_advisory_xact_lock{kind}(hashtextextended('signals', 0))" for kind in ("_shared", ""))
"""Held by whoever keeps signals, and by whoever erases: what has not seen an erasure is committed before it, and erased."""

ANONYMOUS = """
  WITH old AS MATERIALIZED (
    SELECT session_id, gen_random_uuid() AS random FROM (SELECT DISTINCT session_id FROM integrity_count WHERE {}) AS d
  )
  UPDATE integrity_count c SET session_id = old.random, first_at = NULL, last_at = NULL
  FROM old WHERE c.session_id = old.session_id RETURNING old.session_id AS before
"""
"""Takes counts off their sessions: a random id in the place of each, that is written nowhere else, and no times."""


async def _keep_signals(connection: asyncpg.Connection, signals: Sequence[Signal], grace_seconds: int) -> Written:
    if not signals:
        return Written(0, 0, 0)
    row = await connection.fetchrow(
        """
        WITH reported AS (
          SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[], $7::timestamptz[],
                               $8::text[], $9::text[])
            AS r (session_id, id, student_id, kind, amount, client_at, received_at, device_id, details)
        ), session AS MATERIALIZED (
          SELECT s.id, s.student_id, s.exam_id,
            CASE WHEN s.status = 'IN_PROGRESS' OR s.submitted_at IS NULL THEN 'infinity'
              ELSE s.submitted_at + make_interval(secs => $10) END AS until,
            CASE WHEN s.id < first_uuid(date_trunc('month', now()) - interval '1 month') THEN 'infinity'
              ELSE coalesce(e.erased_at, '-infinity') END AS after  -- what was received by then is not kept
          FROM (SELECT DISTINCT session_id FROM reported) AS d
            JOIN exam_session s ON s.id = d.session_id LEFT JOIN integrity_erased e ON e.session_id = s.id
        ), owned AS MATERIALIZED (
          SELECT r.*, s.exam_id, r.received_at > s.after AND (r.received_at <= s.until OR r.kind = ANY ($11)) AS in_time
          FROM reported r JOIN session s ON s.id = r.session_id AND s.student_id = r.student_id
        ), kept AS (
          INSERT INTO integrity_signal (session_id, id, kind, amount, client_at, received_at, device_id, details)
          SELECT session_id, id, kind, amount, client_at, received_at, device_id, details::jsonb FROM owned
          WHERE in_time AND kind <> ALL ($12) ORDER BY session_id, id
          ON CONFLICT (session_id, id) DO NOTHING
          RETURNING session_id, kind, amount, received_at
        ), counted AS (
          SELECT session_id, kind, count(*) AS count, sum(amount) AS amount, max(amount) AS peak, min(received_at) AS first_at,
            max(received_at) AS last_at
          FROM (
            SELECT * FROM kept
            UNION ALL SELECT session_id, kind, amount, received_at FROM owned WHERE in_time AND kind = ANY ($12)
          ) AS every GROUP BY session_id, kind
        ), summed AS (
          INSERT INTO integrity_count AS c (session_id, kind, exam_id, count, amount, peak, first_at, last_at)
          SELECT n.session_id, n.kind, s.exam_id, n.count, n.amount, n.peak, n.first_at, n.last_at
          FROM counted n JOIN session s ON s.id = n.session_id ORDER BY 1, 2
          ON CONFLICT (session_id, kind) DO UPDATE SET
            count = c.count + excluded.count, amount = c.amount + excluded.amount, peak = greatest(c.peak, excluded.peak),
            first_at = least(c.first_at, excluded.first_at), last_at = greatest(c.last_at, excluded.last_at)
        )
        SELECT (SELECT coalesce(sum(count), 0)::int FROM counted) AS new, (SELECT count(*)::int FROM owned) AS owned,
          (SELECT count(*)::int FROM owned WHERE NOT in_time) AS late
        """,
        [one.session for one in signals],
        [one.id for one in signals],
        [one.student for one in signals],
        [one.kind for one in signals],
        [one.amount for one in signals],
        [moment_or_none(one.client_ms) for one in signals],
        [moment(one.received_ms) for one in signals],
        [one.device for one in signals],
        [one.details for one in signals],
        float(grace_seconds),
        sorted(OWN),
        sorted(ONLY_COUNTED),
    )
    return Written(row["new"], len(signals) - row["owned"], row["late"])


async def _keep_presences(connection: asyncpg.Connection, presences: Sequence[Presence]) -> None:
    if not presences:
        return
    ordered = sorted(presences, key=lambda one: (one.session, one.device, one.address, one.token))
    await connection.execute(
        """
        INSERT INTO integrity_presence AS p (session_id, device_id, address, token_digest, first_at, last_at)
        SELECT r.session_id, r.device_id, r.address, r.token_digest, r.first_at, r.last_at
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::timestamptz[], $7::timestamptz[])
            AS r (session_id, student_id, device_id, address, token_digest, first_at, last_at)
          JOIN exam_session s ON s.id = r.session_id AND s.student_id = r.student_id
        WHERE NOT EXISTS (SELECT FROM integrity_erased e WHERE e.session_id = r.session_id AND r.last_at <= e.erased_at)
        ON CONFLICT (session_id, device_id, address, token_digest) DO UPDATE SET
          first_at = least(p.first_at, excluded.first_at), last_at = greatest(p.last_at, excluded.last_at)
        """,
        [one.session for one in ordered],
        [one.student for one in ordered],
        [one.device for one in ordered],
        [one.address for one in ordered],
        [one.token for one in ordered],
        [moment(one.first_ms) for one in ordered],
        [moment(one.last_ms) for one in ordered],
    )


async def _keep_feeds(connection: asyncpg.Connection, feeds: Sequence[Feed]) -> None:
    """Note which of a process's signals have come. What is missing among them is lost until it comes: later than others, by another
    worker, or once more from one that has died."""
    for feed in sorted(feeds, key=lambda one: (one.publisher, one.before)):
        await connection.execute(
            """
            INSERT INTO integrity_feed AS f (publisher, published, came)
            VALUES ($1, $2::bigint + $3::bigint, int8multirange(int8range($2::bigint, $2::bigint + $3::bigint)))
            ON CONFLICT (publisher) DO UPDATE SET
              published = greatest(f.published, excluded.published), came = came_too(f.came, excluded.came), seen_at = now()
            """,
            feed.publisher,
            feed.before,
            feed.count,
        )

"""Results: `result`: what sessions were worth, each exactly once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import asyncpg

from stores.grading import TASKS, Decide, graded_essays
from stores.pipeline import Coalescer
from stores.records import AnswerTimes, GradedEssay, Result, SessionStatus, Standing, SubmitReason
from stores.sessions import milliseconds, moment
from stores.standings import restate


@dataclass(frozen=True, slots=True)
class Total:
    """A kept result's totals."""

    score: int
    max_score: int
    partial: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """What a batch did: the totals that stand for every session of it (also those kept before), and who stands where.

    `unknown` are sessions that PostgreSQL has never seen; `differing` were kept before with other answers (an alarm); the totals of
    those that are `held_back` are not told, since what opened their exam was taken back.
    """

    new: int
    totals: Mapping[UUID, Total]
    standings: Sequence[Standing]
    unknown: frozenset[UUID]
    differing: frozenset[UUID]
    held_back: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a session is, and how far it is."""

    student: str
    status: SessionStatus
    submitted_ms: int | None


@dataclass(frozen=True, slots=True)
class StaffRow:
    """One result as staff see it; `rank` is on the attempt that gives the student their place."""

    session: UUID
    student: str
    alias: str
    attempt: int
    partial: bool
    score: int
    max_score: int
    revision: int
    submitted_ms: int
    rank: int | None


class Results:
    """Results in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool, decide: Decide) -> None:
        self._pool = pool
        self._decide = decide
        self._reads: Coalescer[UUID, Result | None] = Coalescer(self._read_all, queue="results")

    async def keep(self, results: Sequence[Result]) -> Kept:
        """Keep each result once, in one transaction with the session's status and the student's standing.

        A redelivered batch changes nothing and returns the same totals. Every statement takes its rows in the order of
        their keys, so that two workers with overlapping batches cannot deadlock.
        """
        ordered = sorted(results, key=lambda result: result.session)
        async with self._pool.acquire() as connection, connection.transaction():
            known = await _lock_sessions(connection, [result.session for result in ordered])
            batch = [result for result in ordered if result.session in known]
            new = await _insert(connection, batch)
            await _mark_scored(connection, batch)
            await open_tasks(connection, [result for result in batch if result.session in new])
            standings = await restate(connection, {(result.exam, result.student) for result in batch})
            before = await _kept_before(connection, [result for result in batch if result.session not in new])
            held_back = await _held_back(connection, known)
        hashes = {result.session: result.answers_sha256 for result in batch}
        return Kept(
            new=len(new),
            totals={
                **{r.session: Total(r.score, r.max_score, r.partial) for r in batch if r.session in new},
                **{row["session_id"]: Total(row["score"], row["max_score"], row["status"] == "PARTIAL") for row in before},
            },
            standings=standings,
            unknown=frozenset(result.session for result in ordered) - known,
            differing=frozenset(row["session_id"] for row in before if row["answers_sha256"] != hashes[row["session_id"]]),
            held_back=held_back,
        )

    async def take_submissions(self, count: int) -> Sequence[tuple[str, bytes]]:
        """Take submits that are kept here since JetStream did not take them in time, oldest first: subject and event.

        They are the caller's for ten seconds. A row goes when everybody has been told (`end_submissions`), or when it is buried.
        """
        rows = await self._pool.fetch(
            """
            WITH mine AS MATERIALIZED (
              SELECT session_id FROM submission WHERE claimed_until < now() ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED
            )
            UPDATE submission s SET claimed_until = now() + interval '10 seconds'
            FROM mine WHERE s.session_id = mine.session_id RETURNING s.subject, s.event
            """,
            count,
        )
        return [(row["subject"], row["event"]) for row in rows]

    async def end_submissions(self, sessions: Sequence[UUID]) -> None:
        """Let the rows of submits go that have a result, and whose boards have been told. Not with the result: where a worker dies
        in between, or Redis does not answer, the row is all that has the boards told again."""
        await self._pool.execute("DELETE FROM submission WHERE session_id = ANY ($1)", sorted(sessions))

    async def read(self, session: UUID) -> Result | None:
        """Return a session's result, or None while it has none; what is asked for together is read together."""
        return await self._reads.submit(session)

    async def _read_all(self, sessions: Sequence[UUID]) -> Sequence[Result | None]:
        rows = await self._pool.fetch(
            """
            SELECT r.*, s.submitted_at, s.submit_reason, coalesce((
              SELECT bool_and(t.revoked_at IS NOT NULL) FROM exam_product x JOIN entitlement t ON t.product_id = x.product_id
              WHERE x.exam_id = r.exam_id AND t.student_id = r.student_id
            ), false) AS taken_back
            FROM result r JOIN exam_session s ON s.id = r.session_id WHERE r.session_id = ANY ($1)
            """,
            sessions,
        )
        found = {row["session_id"]: replace(result_of(row), taken_back=row["taken_back"]) for row in rows}
        return [found.get(session) for session in sessions]

    async def essays(self, session: UUID) -> Mapping[str, GradedEssay]:
        """Return what the essays of a session were given whose grades are decided, by question."""
        rows = await self._pool.fetch(TASKS, [session])
        return {question: essay for (_, question), essay in graded_essays(rows, self._decide).items()}

    async def answer_times(self, session: UUID) -> AnswerTimes:
        """Return when a session's answers were saved, as far as snapshots have written it."""
        row = await self._pool.fetchrow(
            """
            SELECT s.started_at, a.questions, a.times,
              ARRAY(SELECT paused_at FROM session_pause p WHERE p.session_id = s.id ORDER BY paused_at) AS paused,
              ARRAY(SELECT least(resumed_at, ends_by) FROM session_pause p WHERE p.session_id = s.id ORDER BY paused_at) AS resumed
            FROM exam_session s CROSS JOIN LATERAL (
              SELECT coalesce(array_agg(question_id), '{}') AS questions, coalesce(array_agg(answered_at), '{}') AS times
              FROM session_answer WHERE session_id = s.id
            ) a WHERE s.id = $1
            """,
            session,
        )
        return AnswerTimes(
            milliseconds(row["started_at"]),
            dict(zip(row["questions"], map(milliseconds, row["times"]), strict=True)),
            tuple(zip(map(milliseconds, row["paused"]), map(milliseconds, row["resumed"]), strict=True)),
        )

    async def owner(self, session: UUID) -> Owner | None:
        """Return whose a session is and how far PostgreSQL knows it to be, or None."""
        row = await self._pool.fetchrow("SELECT student_id, status, submitted_at FROM exam_session WHERE id = $1", session)
        if row is None:
            return None
        submitted_ms = milliseconds(row["submitted_at"]) if row["submitted_at"] else None
        return Owner(row["student_id"], SessionStatus(row["status"]), submitted_ms)

    async def page(self, exam: str, after: tuple[int, UUID] | None, count: int) -> Sequence[StaffRow]:
        """Return results by score, best first, then by session; `after` is the last row of the page before.

        The rank is competition rank over the exam's standings, on the row of the attempt that gives it.
        """
        rows = await self._pool.fetch(
            """
            SELECT r.session_id, r.student_id, s.alias, s.attempt, r.status, r.score, r.max_score, r.revision, s.submitted_at,
              CASE WHEN t.session_id = r.session_id THEN
                (SELECT count(*) + 1 FROM standing b WHERE b.exam_id = r.exam_id AND b.order_key > t.order_key)
              END AS rank
            FROM result r
            JOIN exam_session s ON s.id = r.session_id
            LEFT JOIN standing t ON t.exam_id = r.exam_id AND t.student_id = r.student_id
            WHERE r.exam_id = $1 AND ($2::int IS NULL OR r.score < $2 OR (r.score = $2 AND r.session_id > $3))
            ORDER BY r.score DESC, r.session_id LIMIT $4
            """,
            exam,
            after[0] if after else None,
            after[1] if after else None,
            count,
        )
        return [
            StaffRow(
                session=row["session_id"],
                student=row["student_id"],
                alias=row["alias"],
                attempt=row["attempt"],
                partial=row["status"] == "PARTIAL",
                score=row["score"],
                max_score=row["max_score"],
                revision=row["revision"],
                submitted_ms=milliseconds(row["submitted_at"]),
                rank=row["rank"],
            )
            for row in rows
        ]


async def _lock_sessions(connection: asyncpg.Connection, sessions: Sequence[UUID]) -> set[UUID]:
    """Lock the sessions' rows, in order, and return those that exist."""
    rows = await connection.fetch("SELECT id FROM exam_session WHERE id = ANY ($1) ORDER BY id FOR UPDATE", sessions)
    return {row["id"] for row in rows}


async def _held_back(connection: asyncpg.Connection, sessions: set[UUID]) -> frozenset[UUID]:
    """Return those sessions whose exam was bought, and nothing that opens it is left to their student."""
    rows = await connection.fetch(
        """
        SELECT s.id FROM exam_session s JOIN exam_product x ON x.exam_id = s.exam_id
        JOIN entitlement t ON t.student_id = s.student_id AND t.product_id = x.product_id
        WHERE s.id = ANY ($1) GROUP BY s.id HAVING bool_and(t.revoked_at IS NOT NULL)
        """,
        list(sessions),
    )
    return frozenset(row["id"] for row in rows)


async def _insert(connection: asyncpg.Connection, results: Sequence[Result]) -> set[UUID]:
    """Insert what is not there yet, and return which sessions that were."""
    rows = await connection.fetch(
        """
        INSERT INTO result (session_id, exam_id, exam_version, student_id, score, max_score, status, key_version, answers,
                            answers_sha256, points)
        SELECT session_id, exam_id, exam_version, student_id, score, max_score, status, key_version, answers, answers_sha256,
               points::int[]
        FROM unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::int[], $6::int[], $7::text[], $8::int[], $9::text[],
                    $10::bytea[], $11::text[])
          AS r (session_id, exam_id, exam_version, student_id, score, max_score, status, key_version, answers, answers_sha256,
                points)
        ORDER BY session_id
        ON CONFLICT (session_id) DO NOTHING
        RETURNING session_id
        """,
        [r.session for r in results],
        [r.exam for r in results],
        [r.exam_version for r in results],
        [r.student for r in results],
        [r.score for r in results],
        [r.max_score for r in results],
        [status_text(r) for r in results],
        [r.key_version for r in results],
        [r.answers.decode() for r in results],
        [r.answers_sha256 for r in results],
        [points_text(r) for r in results],
    )
    return {row["session_id"] for row in rows}


def status_text(result: Result) -> str:
    """Return a result's column `status`."""
    return "PARTIAL" if result.partial else "SCORED"


def points_text(result: Result) -> str:
    """Return a result's column `points` as text, since arrays of other lengths cannot travel in one array."""
    return "{" + ",".join(map(str, result.points)) + "}"


async def _kept_before(connection: asyncpg.Connection, results: Sequence[Result]) -> Sequence[asyncpg.Record]:
    """Return what stands for sessions that were scored before."""
    if not results:
        return []
    rows: Sequence[asyncpg.Record] = await connection.fetch(
        "SELECT session_id, score, max_score, status, answers_sha256 FROM result WHERE session_id = ANY ($1)",
        [result.session for result in results],
    )
    return rows


async def _mark_scored(connection: asyncpg.Connection, results: Sequence[Result]) -> None:
    """Move the sessions to SCORED, noting the submit where the mark beside it has not come yet."""
    await connection.execute(
        """
        UPDATE exam_session s
        SET status = 'SCORED', submitted_at = COALESCE(s.submitted_at, r.submitted_at),
            submit_reason = COALESCE(s.submit_reason, r.reason), answers_sha256 = COALESCE(s.answers_sha256, r.sha256),
            submit_key = COALESCE(s.submit_key, r.key)
        FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bytea[], $5::uuid[])
          AS r (id, submitted_at, reason, sha256, key)
        WHERE s.id = r.id AND s.status <> 'SCORED'
        """,
        [r.session for r in results],
        [moment(r.submitted_ms) for r in results],
        [r.reason for r in results],
        [r.answers_sha256 for r in results],
        [r.submit_key for r in results],
    )


async def open_tasks(connection: asyncpg.Connection, results: Sequence[Result]) -> None:
    """Make the tasks for what waits for a grader, as many as the exam asks for; those that are there stay as they are."""
    waiting = pending(results)
    if not waiting:
        return
    await connection.execute(
        """
        INSERT INTO grading_task (session_id, question_id, exam_id, slot)
        SELECT w.session_id, w.question_id, w.exam_id, slot
        FROM unnest($1::uuid[], $2::text[], $3::text[]) AS w (session_id, question_id, exam_id)
        JOIN exam e ON e.id = w.exam_id CROSS JOIN LATERAL generate_series(1, e.graders) AS slot
        ORDER BY 1, 2, 4
        ON CONFLICT (session_id, question_id, slot) DO NOTHING
        """,
        [session for session, _, _ in waiting],
        [question for _, question, _ in waiting],
        [exam for _, _, exam in waiting],
    )


def pending(results: Sequence[Result]) -> list[tuple[UUID, str, str]]:
    """Return what waits for a grader, as (session, question, exam), in the order of the tasks' keys."""
    return sorted((result.session, question, result.exam) for result in results for question in result.pending)


def result_of(row: asyncpg.Record) -> Result:
    return Result(
        session=row["session_id"],
        exam=row["exam_id"],
        exam_version=row["exam_version"],
        student=row["student_id"],
        score=row["score"],
        max_score=row["max_score"],
        partial=row["status"] == "PARTIAL",
        key_version=row["key_version"],
        answers=row["answers"].encode(),
        answers_sha256=row["answers_sha256"],
        points=tuple(row["points"]),
        submitted_ms=milliseconds(row["submitted_at"]),
        reason=SubmitReason(row["submit_reason"] or SubmitReason.CLICK),
        revision=row["revision"],
        scored_ms=milliseconds(row["changed_at"] or row["scored_at"]),
    )

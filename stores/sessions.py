"""Sessions: `exam_session`, `session_answer` and `submission` in PostgreSQL, the truth about who sat what and when."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

import asyncpg

from stores.records import (
    Answer,
    Frozen,
    LogEntry,
    SavedAnswer,
    SessionFacts,
    SessionRow,
    SessionStatus,
)

ROW = """id, exam_id, exam_version, student_id, attempt, alias, started_at, ends_at, status, epoch, submitted_at,
         answers_sha256, cohorts"""


class StartOutcome(StrEnum):
    """What became of a start."""

    CREATED = "CREATED"
    RUNNING = "RUNNING"
    REPLAYED = "REPLAYED"
    EXHAUSTED = "EXHAUSTED"


@dataclass(frozen=True, slots=True)
class Start:
    """A start that the rules allow; `ends_ms` is what the deadline rule made of `started_ms`.

    With `max_attempts` 0 (a closed exam) only a session that is there already can be returned.
    """

    student: str
    exam: str
    exam_version: int
    cohorts: tuple[str, ...]
    alias: str
    started_ms: int
    ends_ms: int
    max_attempts: int
    start_key: UUID | None


class Sessions:
    """Sessions in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def start(self, start: Start) -> tuple[StartOutcome, SessionRow | None]:
        """Insert a session, or return the one that the start means: its key's, or the one in progress.

        Racing starts of one student take turns on a lock of their own, so that they make one session.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"{start.exam}/{start.student}")
            rows = await connection.fetch(
                f"SELECT {ROW}, start_key FROM exam_session WHERE student_id = $1 AND exam_id = $2 ORDER BY attempt",  # noqa: S608
                start.student,
                start.exam,
            )
            if start.start_key is not None:
                for row in rows:
                    if row["start_key"] == start.start_key:
                        return StartOutcome.REPLAYED, _row(row)
            if rows and rows[-1]["status"] == SessionStatus.IN_PROGRESS:
                return StartOutcome.RUNNING, _row(rows[-1])
            if len(rows) >= start.max_attempts:
                return StartOutcome.EXHAUSTED, None
            made = await connection.fetchrow(
                f"""
                INSERT INTO exam_session
                  (student_id, exam_id, exam_version, cohorts, attempt, start_key, alias, started_at, ends_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                RETURNING {ROW}
                """,  # noqa: S608
                start.student,
                start.exam,
                start.exam_version,
                list(start.cohorts),
                len(rows) + 1,
                start.start_key,
                start.alias,
                moment(start.started_ms),
                moment(start.ends_ms),
            )
            return StartOutcome.CREATED, _row(made)

    async def now_ms(self) -> int:
        """Return PostgreSQL's clock."""
        return milliseconds(await self._pool.fetchval("SELECT clock_timestamp()"))

    async def read(self, session: UUID) -> SessionRow | None:
        """Return one session, or None."""
        row = await self._pool.fetchrow(f"SELECT {ROW} FROM exam_session WHERE id = $1", session)  # noqa: S608
        return _row(row) if row else None

    async def page(self, student: str | None, exam: str | None, before: UUID | None, count: int) -> Sequence[SessionRow]:
        """Return up to `count` sessions, newest first, older than `before`; None filters nothing."""
        rows = await self._pool.fetch(
            f"""
            SELECT {ROW} FROM exam_session
            WHERE ($1::text IS NULL OR student_id = $1) AND ($2::text IS NULL OR exam_id = $2) AND ($3::uuid IS NULL OR id < $3)
            ORDER BY id DESC LIMIT $4
            """,  # noqa: S608
            student,
            exam,
            before,
            count,
        )
        return [_row(row) for row in rows]

    async def entitled(self, student: str, product: str) -> bool:
        """Return whether the student owns the product now."""
        return bool(
            await self._pool.fetchval(
                """
                SELECT EXISTS (
                  SELECT FROM entitlement
                  WHERE student_id = $1 AND product_id = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
                )
                """,
                student,
                product,
            )
        )

    async def enrolled(self, student: str, exam: str) -> tuple[bool, str | None]:
        """Return whether the student is on the exam's roster, and the alias that the roster gives them."""
        row = await self._pool.fetchrow("SELECT alias FROM enrolment WHERE exam_id = $1 AND student_id = $2", exam, student)
        return row is not None, row["alias"] if row else None

    async def answers(self, session: UUID) -> Sequence[SavedAnswer]:
        """Return the answers that snapshots have written."""
        rows = await self._pool.fetch(
            """
            SELECT question_id, answer, version, answered_at, key_digest, body_digest, client_seq
            FROM session_answer WHERE session_id = $1
            """,
            session,
        )
        return [
            SavedAnswer(
                question=row["question_id"],
                answer=Answer.unpacked(row["answer"]),
                version=row["version"],
                saved_ms=milliseconds(row["answered_at"]),
                client_seq=row["client_seq"],
                key_digest=row["key_digest"],
                body_digest=row["body_digest"],
            )
            for row in rows
        ]

    async def keep_answers(self, entries: Sequence[LogEntry]) -> None:
        """Write saves, the newest version per question winning, however often and in whatever order this is called."""
        ordered = sorted(entries, key=lambda entry: (entry.session, entry.saved.question))
        await self._pool.execute(
            """
            INSERT INTO session_answer
              (session_id, question_id, answer, version, answered_at, key_digest, body_digest, client_seq)
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::timestamptz[], $6::bytea[], $7::bytea[],
                                 $8::bigint[])
            ON CONFLICT (session_id, question_id) DO UPDATE SET
              answer = excluded.answer, version = excluded.version, answered_at = excluded.answered_at,
              key_digest = excluded.key_digest, body_digest = excluded.body_digest, client_seq = excluded.client_seq
            WHERE session_answer.version < excluded.version
            """,
            [entry.session for entry in ordered],
            [entry.saved.question for entry in ordered],
            [entry.saved.answer.packed() for entry in ordered],
            [entry.saved.version for entry in ordered],
            [moment(entry.saved.saved_ms) for entry in ordered],
            [entry.saved.key_digest for entry in ordered],
            [entry.saved.body_digest for entry in ordered],
            [entry.saved.client_seq for entry in ordered],
        )

    async def mark_submitted(self, batch: Sequence[tuple[Frozen, UUID | None]]) -> Sequence[None]:
        """Mark sessions SUBMITTED, with the submit's key; one that is further already stays as it is."""
        await self._pool.execute(
            """
            WITH flipped AS (
              SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bytea[], $5::uuid[])
                AS f (id, submitted_at, reason, sha256, key)
            ), locked AS (
              SELECT id FROM exam_session WHERE id = ANY ($1) AND status = 'IN_PROGRESS' ORDER BY id FOR UPDATE
            )
            UPDATE exam_session s
            SET status = 'SUBMITTED', submitted_at = f.submitted_at, submit_reason = f.reason, answers_sha256 = f.sha256,
                submit_key = f.key
            FROM flipped f JOIN locked USING (id)
            WHERE s.id = f.id AND s.status = 'IN_PROGRESS'
            """,
            [frozen.facts.session for frozen, _ in batch],
            [moment(frozen.submitted_ms) for frozen, _ in batch],
            [frozen.reason for frozen, _ in batch],
            [frozen.answers_sha256 for frozen, _ in batch],
            [key for _, key in batch],
        )
        return [None] * len(batch)

    async def keep_submissions(self, batch: Sequence[tuple[UUID, str, bytes]]) -> Sequence[None]:
        """Keep submit events, by session and subject, while JetStream is away; one already kept stays as it was."""
        await self._pool.execute(
            """
            INSERT INTO submission (session_id, subject, event)
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::bytea[]) ORDER BY 1
            ON CONFLICT (session_id) DO NOTHING
            """,
            [session for session, _, _ in batch],
            [subject for _, subject, _ in batch],
            [event for _, _, event in batch],
        )
        return [None] * len(batch)

    async def submission(self, session: UUID) -> bytes | None:
        """Return the submit event that is kept for a session, or None."""
        event: bytes | None = await self._pool.fetchval("SELECT event FROM submission WHERE session_id = $1", session)
        return event

    async def waiting_submissions(self, older_ms: int, count: int) -> Sequence[tuple[UUID, str, bytes]]:
        """Return kept submit events that are older than that, oldest first: JetStream should have them by now."""
        rows = await self._pool.fetch(
            """
            SELECT session_id, subject, event FROM submission
            WHERE created_at < now() - make_interval(secs => $1 / 1000.0) ORDER BY created_at LIMIT $2
            """,
            float(older_ms),
            count,
        )
        return [(row["session_id"], row["subject"], row["event"]) for row in rows]

    async def drop_submissions(self, sessions: Sequence[UUID]) -> None:
        """Forget submit events that JetStream has acknowledged."""
        await self._pool.execute("DELETE FROM submission WHERE session_id = ANY ($1)", list(sessions))

    async def overdue(self, older_ms: int, count: int) -> Sequence[UUID]:
        """Return sessions that ended longer ago than that and have no result: the last net, whatever Redis knows.

        Those that wait for an operator (`dead_letter`) are left out.
        """
        rows = await self._pool.fetch(
            """
            SELECT id FROM exam_session s
            WHERE status <> 'SCORED' AND ends_at < now() - make_interval(secs => $1 / 1000.0)
              AND NOT EXISTS (SELECT FROM dead_letter d WHERE d.session_id = s.id AND d.replayed_at IS NULL)
            ORDER BY ends_at LIMIT $2
            """,
            float(older_ms),
            count,
        )
        return [row["id"] for row in rows]

    async def scored_answers(self, session: UUID) -> bytes | None:
        """Return the answers that were scored, in canonical encoding, or None."""
        answers: str | None = await self._pool.fetchval("SELECT answers FROM result WHERE session_id = $1", session)
        return answers.encode() if answers is not None else None

    async def total(self, session: UUID) -> tuple[int, int] | None:
        """Return the score and the maximum of a session's result, unless it has none or waits for graders."""
        row = await self._pool.fetchrow("SELECT score, max_score FROM result WHERE session_id = $1 AND status = 'SCORED'", session)
        return (row["score"], row["max_score"]) if row else None

    async def next_epoch(self, session: UUID) -> int:
        """Take a higher epoch for a restored session."""
        epoch: int = await self._pool.fetchval("UPDATE exam_session SET epoch = epoch + 1 WHERE id = $1 RETURNING epoch", session)
        return epoch

    async def next_generation(self) -> int:
        """Take a number for a Redis that has none."""
        number: int = await self._pool.fetchval("SELECT nextval('generation')")
        return number

    async def make_partitions(self, months: int = 3, at_ms: int | None = None) -> int:
        """Make the monthly partitions ahead, and return how many were new."""
        made: int = await self._pool.fetchval(
            "SELECT make_partitions(COALESCE($1, now()), $2)", moment(at_ms) if at_ms is not None else None, months
        )
        return made


def moment(at_ms: int) -> datetime:
    """Return a time in milliseconds as a datetime in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def milliseconds(at: datetime) -> int:
    """Return a datetime as milliseconds, rounded to the nearest."""
    return round(at.timestamp() * 1000)


def _row(row: asyncpg.Record) -> SessionRow:
    return SessionRow(
        facts=SessionFacts(
            session=row["id"],
            exam=row["exam_id"],
            exam_version=row["exam_version"],
            student=row["student_id"],
            attempt=row["attempt"],
            alias=row["alias"],
            started_ms=milliseconds(row["started_at"]),
        ),
        status=SessionStatus(row["status"]),
        ends_ms=milliseconds(row["ends_at"]),
        epoch=row["epoch"],
        submitted_ms=milliseconds(row["submitted_at"]) if row["submitted_at"] else None,
        answers_sha256=row["answers_sha256"],
        cohorts=tuple(row["cohorts"]),
    )

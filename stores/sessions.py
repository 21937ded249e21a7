"""Sessions: `exam_session`, `session_answer` and `submission` in PostgreSQL, the truth about who sat what and when.

How they begin is in `starts.py`.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from stores.records import (
    Accommodation,
    Answer,
    ExamBacklog,
    LogEntry,
    Mark,
    SavedAnswer,
    SessionFacts,
    SessionRow,
    SessionStatus,
    SubmitReason,
)

ROW = """id, exam_id, exam_version, student_id, attempt, alias, started_at, ends_at, status, epoch, submitted_at,
         answers_sha256, cohorts, pause_ends_at"""


class Sessions:
    """Sessions in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def now_ms(self) -> int:
        """Return PostgreSQL's clock."""
        return milliseconds(await self._pool.fetchval("SELECT clock_timestamp()"))

    async def read(self, sessions: Sequence[UUID]) -> Mapping[UUID, SessionRow]:
        """Return sessions by id; unknown ones are left out."""
        rows = await self._pool.fetch(f"SELECT {ROW} FROM exam_session WHERE id = ANY ($1)", list(sessions))  # noqa: S608
        return {row["id"]: _row(row) for row in rows}

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

    async def answers(self, sessions: Sequence[UUID]) -> Sequence[LogEntry]:
        """Return the answers of sessions that snapshots have written."""
        rows = await self._pool.fetch(
            """
            SELECT session_id, question_id, answer, version, answered_at, key_digest, body_digest, client_seq
            FROM session_answer WHERE session_id = ANY ($1)
            """,
            list(sessions),
        )
        return [
            LogEntry(
                row["session_id"],
                SavedAnswer(
                    question=row["question_id"],
                    answer=Answer.unpacked(row["answer"]),
                    version=row["version"],
                    saved_ms=milliseconds(row["answered_at"]),
                    client_seq=row["client_seq"],
                    key_digest=row["key_digest"],
                    body_digest=row["body_digest"],
                ),
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

    async def mark_submitted(self, batch: Sequence[Mark]) -> None:
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
            [mark.session for mark in batch],
            [moment(mark.submitted_ms) for mark in batch],
            [mark.reason for mark in batch],
            [mark.answers_sha256 for mark in batch],
            [mark.key for mark in batch],
        )

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

    async def submissions(self, sessions: Sequence[UUID]) -> Mapping[UUID, bytes]:
        """Return the submit events that are kept here, by session."""
        rows = await self._pool.fetch("SELECT session_id, event FROM submission WHERE session_id = ANY ($1)", list(sessions))
        return {row["session_id"]: row["event"] for row in rows}

    async def backlog(self) -> tuple[int, Sequence[ExamBacklog]]:
        """Return how many submit events are kept here, and per exam what waits for a score or a grader, the most first."""
        kept: int = await self._pool.fetchval("SELECT count(session_id) FROM submission")
        rows = await self._pool.fetch(
            """
            WITH waiting AS (
              SELECT exam_id, count(*) AS submitted, min(submitted_at) AS oldest FROM exam_session
              WHERE status = 'SUBMITTED' GROUP BY exam_id
            ), graders AS (
              SELECT exam_id, count(*) AS tasks FROM grading_task WHERE status IN ('OPEN', 'CLAIMED') GROUP BY exam_id
            )
            SELECT exam_id, coalesce(submitted, 0) AS submitted, oldest, coalesce(tasks, 0) AS tasks
            FROM waiting FULL JOIN graders USING (exam_id) ORDER BY submitted DESC NULLS LAST, tasks DESC, exam_id
            """
        )
        return kept, [
            ExamBacklog(row["exam_id"], row["submitted"], milliseconds(row["oldest"]) if row["oldest"] else None, row["tasks"])
            for row in rows
        ]

    async def count_submissions(self) -> int:
        """Return how many submit events are kept here."""
        count: int = await self._pool.fetchval("SELECT count(*) FROM submission")
        return count

    async def overdue(
        self, ended_ms: int, submitted_ms: int, after: tuple[datetime, UUID] | None, count: int
    ) -> Sequence[tuple[datetime, UUID]]:
        """Return sessions that ended that long ago and were not handed in, or were, longer ago, and have no result: the last
        net, whatever Redis knows. They come by end and id, after `after`.

        Those that wait for an operator (`dead_letter`) are left out.
        """
        rows = await self._pool.fetch(
            """
            SELECT ends_at, id FROM exam_session s
            WHERE status <> 'SCORED' AND ends_at < now() - make_interval(secs => $1 / 1000.0)
              AND (status = 'IN_PROGRESS' OR submitted_at < now() - make_interval(secs => $2 / 1000.0))
              AND ($3::timestamptz IS NULL OR (ends_at, id) > ($3, $4))
              AND NOT EXISTS (SELECT FROM dead_letter d WHERE d.session_id = s.id AND d.replayed_at IS NULL)
            ORDER BY ends_at, id LIMIT $5
            """,
            float(ended_ms),
            float(submitted_ms),
            after[0] if after else None,
            after[1] if after else None,
            count,
        )
        return [(row["ends_at"], row["id"]) for row in rows]

    async def scored_answers(self, sessions: Sequence[UUID]) -> Mapping[UUID, tuple[int, SubmitReason, bytes]]:
        """Return when and by whom sessions were handed in, in ms, and the answers that were scored, in canonical encoding.

        All of one moment: a session that was read a moment earlier may not have been handed in then.
        """
        rows = await self._pool.fetch(
            """
            SELECT s.id, s.submitted_at, s.submit_reason, r.answers
            FROM result r JOIN exam_session s ON s.id = r.session_id WHERE r.session_id = ANY ($1)
            """,
            list(sessions),
        )
        return {
            row["id"]: (milliseconds(row["submitted_at"]), SubmitReason(row["submit_reason"]), row["answers"].encode())
            for row in rows
        }

    async def total(self, session: UUID) -> tuple[int, int] | None:
        """Return the score and the maximum of a session's result, unless it has none, waits for graders, or is held back since what
        opened its exam was taken back."""
        row = await self._pool.fetchrow(
            """
            SELECT score, max_score FROM result r
            WHERE session_id = $1 AND status = 'SCORED' AND NOT coalesce((
              SELECT bool_and(t.revoked_at IS NOT NULL) FROM exam_product x JOIN entitlement t ON t.product_id = x.product_id
              WHERE x.exam_id = r.exam_id AND t.student_id = r.student_id
            ), false)
            """,
            session,
        )
        return (row["score"], row["max_score"]) if row else None

    async def next_epochs(self, sessions: Sequence[UUID]) -> Mapping[UUID, int]:
        """Take a higher epoch for each restored session."""
        rows = await self._pool.fetch(
            """
            WITH locked AS (SELECT id FROM exam_session WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE)
            UPDATE exam_session s SET epoch = epoch + 1 FROM locked WHERE s.id = locked.id RETURNING s.id, s.epoch
            """,
            list(sessions),
        )
        return {row["id"]: row["epoch"] for row in rows}

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


def milliseconds_or_none(at: datetime | None) -> int | None:
    """The same, where there is a moment."""
    return None if at is None else milliseconds(at)


def moment_or_none(at_ms: int | None) -> datetime | None:
    """The other way round, where there is one."""
    return None if at_ms is None else moment(at_ms)


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
        submitted_ms=milliseconds_or_none(row["submitted_at"]),
        answers_sha256=row["answers_sha256"],
        cohorts=tuple(row["cohorts"]),
        pause_ends_ms=milliseconds_or_none(row["pause_ends_at"]),
    )


def accommodation_of(row: Mapping[str, Any]) -> Accommodation | None:
    """Read the columns `accommodated` (its exam, NULL: none), `extra_seconds` and `factor`."""
    if row["accommodated"] is None:
        return None
    return Accommodation(row["accommodated"] != "", row["extra_seconds"], row["factor"])

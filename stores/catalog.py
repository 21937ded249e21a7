"""Catalog: `exam` and `question`, as sessions, content and boards read them. No key is here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import asyncpg

from stores import gauges
from stores.flights import Flights
from stores.records import Exam, ExamCounts, Paper, PaperQuestion, Series
from stores.sessions import milliseconds

EXAM = """id, title, version, key_version, question_count, max_score, has_essay, duration_seconds, opens_at, closes_at,
          shuffle_questions, shuffle_options, max_attempts, mark_correct, mark_wrong, mark_blank, mark_multiple,
          tie_break, release_score, release_review, inline_score, enrolment, created_at, closed_at, released_at, board_public,
          board_freezes_at(exam) AS freezes_at, board_revealed_at, board_approximate_from,
          ARRAY(
            SELECT x.product_id FROM exam_product x WHERE x.exam_id = exam.id
            ORDER BY (x.product_id = exam.product_id) DESC NULLS LAST, x.product_id
          ) AS products"""

SERIES = """
  SELECT s.id, s.title, s.best_of, array_agg(m.exam_id ORDER BY m.exam_id) AS exams
  FROM exam_series s JOIN exam_series_member m ON m.series_id = s.id
"""
ENDED = """(closed_at IS NOT NULL OR closes_at <= now())
          AND NOT EXISTS (SELECT FROM exam_session s WHERE s.exam_id = exam.id AND s.status = 'IN_PROGRESS')"""
"""Whether an exam is closed, and its last session has ended: what AFTER_CLOSE waits for."""

EXAM_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('exam/' || $1, 0))"
"""Held by whoever changes what a start depends on; starts share it."""

FRESH_SECONDS = 1.0
CACHED = 10_000


@dataclass(frozen=True, slots=True)
class QuestionText:
    """A question as students read it; `options` are (id, text), `rubric` (criterion, description, points)."""

    id: str
    type: str
    stem: str
    passage: str
    topic: str
    points: int
    options: tuple[tuple[str, str], ...]
    rubric: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Seat:
    """A student's newest session of an exam: the paper's version, and whether it is in progress."""

    exam_version: int
    running: bool


@dataclass(frozen=True, slots=True)
class Sat:
    """What a student's newest result of an exam is of."""

    exam_version: int
    key_version: int


@dataclass(frozen=True, slots=True)
class SealedPaper:
    """A paper that only its key opens (docs/sealed-papers.md)."""

    key_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class SealedKey:
    """The key of one sealed paper."""

    key_id: str
    key: bytes


class Catalog:
    """Exams and papers in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._exams: dict[str, tuple[float, Exam | None]] = {}
        self._ended: dict[str, tuple[float, bool]] = {}
        self._ended_flights: Flights[str, bool] = Flights()
        self._exam_flights: Flights[str, Exam | None] = Flights()
        self._series: dict[str, tuple[float, Sequence[Series]]] = {}
        self._series_flights: Flights[str, Sequence[Series]] = Flights()
        self._paper_flights: Flights[tuple[str, int], Paper | None] = Flights()
        gauges.cached("exams", self._exams)

    async def exam(self, exam: str, *, fresh: bool = False) -> Exam | None:
        """Return an exam's policies, or None; at most `FRESH_SECONDS` old, since everyone asks for the same few. However many
        miss it at the same time, PostgreSQL is asked once; by those who want it fresh, each time."""
        known = self._exams.get(exam)
        if known is not None and known[0] > monotonic() and not fresh:
            return known[1]
        return await self._read_exam(exam) if fresh else await self._exam_flights.join(exam, lambda: self._read_exam(exam))

    async def _read_exam(self, exam: str) -> Exam | None:
        row = await self._pool.fetchrow(f"SELECT {EXAM} FROM exam WHERE id = $1", exam)  # noqa: S608
        found = exam_of(row) if row else None
        if len(self._exams) >= CACHED:
            self._exams.clear()
        self._exams[exam] = (monotonic() + FRESH_SECONDS, found)
        return found

    async def series_of(self, exam: str, *, fresh: bool = False) -> Sequence[Series]:
        """Return the series that an exam belongs to, by id; at most `FRESH_SECONDS` old."""
        known = self._series.get(exam)
        if known is not None and known[0] > monotonic() and not fresh:
            return known[1]
        if fresh:
            return await self._read_series_of(exam)
        return await self._series_flights.join(exam, lambda: self._read_series_of(exam))

    async def _read_series_of(self, exam: str) -> Sequence[Series]:
        rows = await self._pool.fetch(
            f"{SERIES} WHERE s.id IN (SELECT series_id FROM exam_series_member WHERE exam_id = $1) GROUP BY s.id ORDER BY s.id",  # noqa: S608
            exam,
        )
        found = [_series_of(row) for row in rows]
        if len(self._series) >= CACHED:
            self._series.clear()
        self._series[exam] = (monotonic() + FRESH_SECONDS, found)
        return found

    async def series(self, series: str) -> Series | None:
        """Return a series as it is now, or None."""
        row = await self._pool.fetchrow(f"{SERIES} WHERE s.id = $1 GROUP BY s.id", series)
        return _series_of(row) if row else None

    async def all_series(self) -> Sequence[Series]:
        """Return every series, by id."""
        return [_series_of(row) for row in await self._pool.fetch(f"{SERIES} GROUP BY s.id ORDER BY s.id")]

    async def exams(self, after: str, count: int, *, rehearsals: bool = False) -> Sequence[Exam]:
        """Return up to `count` exams whose id comes after `after`, by id; the shadows of rehearsals only where asked for."""
        rows = await self._pool.fetch(
            f"SELECT {EXAM} FROM exam WHERE id > $1 AND ($3 OR shadow_of IS NULL) ORDER BY id LIMIT $2",  # noqa: S608
            *(after, count, rehearsals),
        )
        return [exam_of(row) for row in rows]

    async def paper(self, exam: str, version: int) -> Paper | None:
        """Return the skeleton of one version of an exam, or None; of many who ask at the same time, PostgreSQL hears one."""
        return await self._paper_flights.join((exam, version), lambda: self._read_paper(exam, version))

    async def opening(self, within_seconds: float, count: int) -> Sequence[tuple[str, int]]:
        """Return up to `count` exams that open so soon, the next ones first, each with its version."""
        rows = await self._pool.fetch(
            """
            SELECT id, version FROM exam WHERE opens_at BETWEEN now() AND now() + make_interval(secs => $1)
            ORDER BY opens_at, id LIMIT $2
            """,
            within_seconds,
            count,
        )
        return [(row["id"], row["version"]) for row in rows]

    async def _read_paper(self, exam: str, version: int) -> Paper | None:
        rows = await self._pool.fetch(
            """
            SELECT q.id, q.type, q.options::text, p.shuffle_questions, p.shuffle_options
            FROM question q JOIN exam_paper p USING (exam_id, exam_version)
            WHERE q.exam_id = $1 AND q.exam_version = $2 ORDER BY q.position
            """,
            exam,
            version,
        )
        if not rows:
            return None
        questions = tuple(
            PaperQuestion(row["id"], row["type"], tuple(option["id"] for option in json.loads(row["options"]))) for row in rows
        )
        return Paper(exam, version, rows[0]["shuffle_questions"], rows[0]["shuffle_options"], questions)

    async def questions(self, exam: str, version: int) -> Sequence[QuestionText]:
        """Return the questions of one version as students read them, in paper order."""
        rows = await self._pool.fetch(
            """
            SELECT id, type, stem, passage, topic, points, options::text, rubric::text
            FROM question WHERE exam_id = $1 AND exam_version = $2 ORDER BY position
            """,
            exam,
            version,
        )
        return [question_text(row) for row in rows]

    async def seat(self, exam: str, student: str) -> Seat | None:
        """Return the student's newest session of an exam, or None while they have none."""
        row = await self._pool.fetchrow(
            # By student, never by exam: see `starts.READ`.
            """
            SELECT exam_version, status FROM exam_session WHERE exam_id || '' = $1 AND student_id = $2
            ORDER BY attempt DESC LIMIT 1
            """,
            *(exam, student),
        )
        return Seat(row["exam_version"], running=row["status"] == "IN_PROGRESS") if row else None

    async def sat(self, exam: str, student: str) -> Sat | None:
        """Return the versions that the student's newest result of an exam is of, or None while they have none."""
        row = await self._pool.fetchrow(
            """
            SELECT r.exam_version, r.key_version FROM exam_session s JOIN result r ON r.session_id = s.id
            WHERE s.exam_id || '' = $1 AND s.student_id = $2 ORDER BY s.attempt DESC LIMIT 1
            """,
            *(exam, student),
        )
        return Sat(row["exam_version"], row["key_version"]) if row else None

    async def released_explanations(self, exam: str, version: int, key_version: int) -> Mapping[str, str] | None:
        """Return the worked solutions of a paper's questions, '' where there is none; None: they are not released."""
        rows = await self._pool.fetch(
            "SELECT question_id, body FROM released_explanations($1, $2, $3)", *(exam, version, key_version)
        )
        return {row["question_id"]: row["body"] for row in rows} or None

    async def sealed(self, exam: str, version: int) -> SealedPaper | None:
        """Return a sealed paper, or None where there is none."""
        row = await self._pool.fetchrow(
            "SELECT key_id, body FROM sealed_paper WHERE exam_id = $1 AND exam_version = $2", *(exam, version)
        )
        return SealedPaper(row["key_id"], row["body"]) if row else None

    async def sealed_key(self, exam: str, version: int) -> SealedKey | None:
        """Return the key of a sealed paper; None before the exam opens, or where nothing is sealed."""
        row = await self._pool.fetchrow("SELECT key_id, key FROM sealed_paper_key($1, $2)", *(exam, version))
        return SealedKey(row["key_id"], row["key"]) if row else None

    async def ended(self, exam: str, *, fresh: bool = False) -> bool:
        """Return whether the exam is closed and its last session has ended: what AFTER_CLOSE waits for. At most
        `FRESH_SECONDS` old; many who ask at the same time ask PostgreSQL once, and those who want it fresh each time."""
        known = self._ended.get(exam)
        if known is not None and known[0] > monotonic() and not fresh:
            return known[1]
        if fresh:
            return await self._read_ended(exam)
        return await self._ended_flights.join(exam, lambda: self._read_ended(exam))

    async def _read_ended(self, exam: str) -> bool:
        ended = bool(
            await self._pool.fetchval(
                f"SELECT {ENDED} FROM exam WHERE id = $1",  # noqa: S608
                exam,
            )
        )
        if len(self._ended) >= CACHED:
            self._ended.clear()
        self._ended[exam] = (monotonic() + FRESH_SECONDS, ended)
        return ended

    async def showing(self, exams: Sequence[str]) -> Sequence[str]:
        """Return those of some exams whose scores may be seen just now, by id."""
        rows = await self._pool.fetch(
            f"SELECT {EXAM}, release_score = 'AFTER_CLOSE' AND {ENDED} AS ended FROM exam WHERE id = ANY ($1) ORDER BY id",  # noqa: S608
            exams,
        )
        return [row["id"] for row in rows if exam_of(row).shows_scores(ended=bool(row["ended"]))]

    async def counts(self, exams: Sequence[str]) -> Mapping[str, ExamCounts]:
        """Return how many sessions of each exam are where."""
        rows = await self._pool.fetch(
            """
            SELECT exam_id, count(*) FILTER (WHERE status = 'IN_PROGRESS') AS in_progress,
              count(*) FILTER (WHERE status = 'SUBMITTED') AS submitted, count(*) FILTER (WHERE status = 'SCORED') AS scored
            FROM exam_session WHERE exam_id = ANY ($1) GROUP BY exam_id
            """,
            list(exams),
        )
        found = {row["exam_id"]: ExamCounts(row["in_progress"], row["submitted"], row["scored"]) for row in rows}
        return {exam: found.get(exam, ExamCounts(0, 0, 0)) for exam in exams}

    async def close(self, exam: str, actor: str) -> bool:
        """Close an exam now, once, on record; False: no such exam."""
        return await self._stamp("closed_at", exam, actor)

    async def freeze(self, exam: str, actor: str) -> bool:
        """Freeze an exam's board now, once, on record; False: no such exam."""
        return await self._stamp("board_frozen_at", exam, actor)

    async def unfreeze(self, exam: str, actor: str) -> bool:
        """Let an exam's board be seen as it is from now on and for good, on record; False: no such exam."""
        return await self._stamp("board_revealed_at", exam, actor)

    async def release(self, exam: str, actor: str) -> bool:
        """Release an exam's scores now, once, on record; False: no such exam."""
        return await self._stamp("released_at", exam, actor)

    async def _stamp(self, column: str, exam: str, actor: str) -> bool:
        """Set a moment once. Starts wait on the exam's lock, so that none slips in after the close."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(EXAM_LOCK, exam)
            known = await connection.fetchval("SELECT true FROM exam WHERE id = $1 FOR UPDATE", exam)
            changed = await connection.fetchval(
                f"UPDATE exam SET {column} = now() WHERE id = $1 AND {column} IS NULL RETURNING true",  # noqa: S608
                exam,
            )
            if changed:
                await record(connection, actor, f"exam.{column.removesuffix('_at')}", exam)
            return bool(known)

    async def note(self, actor: str, action: str, subject: str, details: Mapping[str, object]) -> None:
        """Write a line of the audit log for an act that changes nothing in PostgreSQL."""
        async with self._pool.acquire() as connection:
            await record(connection, actor, action, subject, details)


async def record(
    connection: asyncpg.Connection, actor: str, action: str, subject: str, details: Mapping[str, object] | None = None
) -> None:
    """Write one line of the audit log, in the transaction of what it tells."""
    await connection.execute(
        "INSERT INTO audit_log (actor, action, subject, details) VALUES ($1, $2, $3, $4)",
        actor,
        action,
        subject,
        json.dumps(details or {}),
    )


def _series_of(row: asyncpg.Record) -> Series:
    return Series(row["id"], row["title"], tuple(row["exams"]), row["best_of"])


def question_text(row: Mapping[str, Any]) -> QuestionText:
    """Read a question's row, its options and its rubric as text."""
    return QuestionText(
        id=row["id"],
        type=row["type"],
        stem=row["stem"],
        passage=row["passage"],
        topic=row["topic"],
        points=row["points"],
        options=tuple((option["id"], option["text"]) for option in json.loads(row["options"])),
        rubric=tuple((c["criterion"], c["description"], c["maxPoints"]) for c in json.loads(row["rubric"])),
    )


def exam_of(row: asyncpg.Record) -> Exam:
    """Read a row of `EXAM`."""

    def at(column: str) -> int | None:
        return milliseconds(row[column]) if row[column] else None

    return Exam(
        id=row["id"],
        title=row["title"],
        version=row["version"],
        key_version=row["key_version"],
        question_count=row["question_count"],
        max_score=row["max_score"],
        has_essay=row["has_essay"],
        duration_seconds=row["duration_seconds"],
        opens_ms=at("opens_at"),
        closes_ms=at("closes_at"),
        shuffle_questions=row["shuffle_questions"],
        shuffle_options=row["shuffle_options"],
        max_attempts=row["max_attempts"],
        products=tuple(row["products"]),
        mark_correct=row["mark_correct"],
        mark_wrong=row["mark_wrong"],
        mark_blank=row["mark_blank"],
        mark_multiple=row["mark_multiple"],
        tie_break=row["tie_break"],
        release_score=row["release_score"],
        release_review=row["release_review"],
        inline_score=row["inline_score"],
        enrolment=row["enrolment"],
        created_ms=milliseconds(row["created_at"]),
        closed_ms=at("closed_at"),
        released_ms=at("released_at"),
        board_public=row["board_public"],
        freezes_ms=at("freezes_at"),
        revealed_ms=at("board_revealed_at"),
        approximate_from=row["board_approximate_from"],
    )

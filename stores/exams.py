"""Exams: writes an exam file's versions, keys and policies, in one transaction."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import asyncpg

from stores.catalog import EXAM, EXAM_LOCK, exam_of, record
from stores.exam_records import ExamFile, answer_json, options_json, rubric_json
from stores.records import Exam


class ImportOutcome(StrEnum):
    """What became of an import."""

    KEPT = "KEPT"
    SESSIONS_LIVE = "SESSIONS_LIVE"
    SESSIONS_RANKED = "SESSIONS_RANKED"


@dataclass(frozen=True, slots=True)
class Imported:
    """The exam as it is now, and what the import changed: lines for people, none when nothing did."""

    outcome: ImportOutcome
    exam: Exam | None
    changes: tuple[str, ...]
    moved: Sequence[UUID] = ()
    """Sessions in progress whose end has to be computed again, since the exam's close has moved."""


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What became of one question's key, and how many results were graded with older keys than the newest."""

    key_version: int
    before: str
    after: str
    changed: bool
    behind: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """A paper that anybody may have, and the key that opens it, which was used for nothing else."""

    key_id: str
    key: bytes
    body: bytes


Seal = Callable[[ExamFile, int], Sealed]
"""Seals one version of a file's paper, each time with a new key."""

Mend = Callable[[str, str, Sequence[str]], str]
KEY = """
  SELECT e.version, e.key_version, q.type, q.options::text, a.answer::text
  FROM exam e
  JOIN question q ON q.exam_id = e.id AND q.exam_version = e.version
  JOIN keys.answer_key a ON (a.exam_id, a.exam_version, a.key_version, a.question_id) = (e.id, e.version, e.key_version, q.id)
  WHERE e.id = $1 AND q.id = $2 FOR UPDATE OF e
"""


class Exams:
    """Exams, for their importer: the only role that may write them, and with them their keys."""

    def __init__(self, pool: asyncpg.Pool, seal: Seal) -> None:
        self._pool = pool
        self._seal = seal

    async def keep(self, file: ExamFile, paper_sha256: str, keys_sha256: str, actor: str) -> Imported:
        """Keep an exam file: all of it or, on any failure, nothing. The same file again changes nothing.

        Another paper is a new version, sealed with a new key, refused while a session is in progress; other keys alone are a
        new key version.
        Another tie-break is refused once anybody has sat the exam, since their places are computed with it.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(EXAM_LOCK, file.exam.id)
            before = await connection.fetchrow("SELECT * FROM exam WHERE id = $1", file.exam.id)
            new_paper = before is None or before["paper_sha256"] != paper_sha256
            new_keys = new_paper or before["keys_sha256"] != keys_sha256
            policies = _policies(file)
            changed = [] if before is None else [name for name, value in policies.items() if before[name] != value]
            if before is not None and (
                refusal := await _refusal(
                    connection, file.exam.id, new_paper or "duration_seconds" in changed, "tie_break" in changed
                )
            ):
                return Imported(refusal, None, ())
            version = (before["version"] if before else 0) + new_paper
            key_version = (before["key_version"] if before else 0) + new_keys
            row = await _write_exam(
                connection,
                policies
                | {
                    "version": version,
                    "key_version": key_version,
                    "paper_sha256": paper_sha256,
                    "keys_sha256": keys_sha256,
                },
            )
            if new_paper:
                await _write_paper(connection, file, version)
            await self._seal_once(connection, file, version)
            if new_keys:
                await _write_keys(connection, file, version, key_version)
            changes = _changes(before, file, policies, changed, new_paper=new_paper, new_keys=new_keys)
            if changes:
                await record(connection, actor, "exam.import", file.exam.id, {"changes": changes})
            moved = await _concern_all(connection, file.exam.id) if "closes_at" in changed else ()
            return Imported(ImportOutcome.KEPT, exam_of(row), tuple(changes), moved)

    async def _seal_once(self, connection: asyncpg.Connection, file: ExamFile, version: int) -> None:
        """Seal a version of a paper, unless it is: so that no key ever seals two texts."""
        place = (file.exam.id, version)
        known = "SELECT true FROM sealed_paper WHERE exam_id = $1 AND exam_version = $2"
        if await connection.fetchval(known, *place):
            return
        sealed = self._seal(file, version)
        await connection.execute(
            "INSERT INTO sealed_paper (exam_id, exam_version, key_id, body) VALUES ($1, $2, $3, $4)",
            *(*place, sealed.key_id, sealed.body),
        )
        await connection.execute("INSERT INTO keys.sealed_paper_key (key_id, key) VALUES ($1, $2)", sealed.key_id, sealed.key)

    async def set_key(self, exam: str, question: str, mend: Mend, actor: str, reason: str) -> KeyChange | None:
        """Change one question's key, as a new version of all keys, on record; None: no such exam or question.

        `mend` gives the new key from the question's type, its key, both as text, and its options' ids. Submits that are graded
        from now on are graded with it; results that are there keep theirs until they are regraded.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(EXAM_LOCK, exam)
            row = await connection.fetchrow(KEY, exam, question)
            if row is None:
                return None
            options = [option["id"] for option in json.loads(row["options"])]
            before, after = row["answer"], mend(row["type"], row["answer"], options)
            version, changed = row["key_version"], json.loads(before) != json.loads(after)
            if changed:
                version += 1
                await _copy_keys(connection, exam, row["version"], row["key_version"], question, after)
                details = {
                    "question": question,
                    "key_version": version,
                    "reason": reason,
                }  # the key itself is nobody's to read here
                await record(connection, actor, "exam.key", exam, details)
            behind = await connection.fetchval(
                "SELECT count(*) FROM result r JOIN newest_keys n USING (exam_id, exam_version) "
                "WHERE r.exam_id = $1 AND r.key_version < n.key_version",
                exam,
            )
            return KeyChange(version, before, after, changed, behind)

    async def reschedule(self, exam: str, wanted: Mapping[str, datetime | None], actor: str) -> Sequence[UUID] | None:
        """Set an exam's `opens_at` and `closes_at`, on record; returns the sessions to settle, None: no such exam, or closed
        by hand. Starts wait on the lock, so that none of them misses it."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(EXAM_LOCK, exam)
            before = await connection.fetchrow("SELECT opens_at, closes_at, closed_at FROM exam WHERE id = $1 FOR UPDATE", exam)
            if before is None or before["closed_at"] is not None:
                return None
            if all(before[name] == at for name, at in wanted.items()):
                return ()
            await connection.execute(
                "UPDATE exam SET opens_at = $2, closes_at = $3 WHERE id = $1", exam, wanted["opens_at"], wanted["closes_at"]
            )
            changes = {name: at.isoformat() if at else None for name, at in wanted.items() if before[name] != at}
            await record(connection, actor, "exam.schedule", exam, changes)
            return await _concern_all(connection, exam) if "closes_at" in changes else ()


async def _copy_keys(connection: asyncpg.Connection, exam: str, version: int, key_version: int, question: str, answer: str) -> None:
    """Copy a version of the keys to the next one, with another answer to one question; the file they came from is no longer
    what they are, so that importing it again is a change."""
    place = (exam, version, key_version)
    await connection.execute(
        """
        INSERT INTO exam_key (exam_id, exam_version, key_version, mark_correct, mark_wrong, mark_blank, mark_multiple)
        SELECT exam_id, exam_version, key_version + 1, mark_correct, mark_wrong, mark_blank, mark_multiple
        FROM exam_key WHERE (exam_id, exam_version, key_version) = ($1, $2, $3)
        """,
        *place,
    )
    await connection.execute(
        """
        INSERT INTO keys.answer_key (exam_id, exam_version, key_version, question_id, answer)
        SELECT exam_id, exam_version, key_version + 1, question_id, CASE question_id WHEN $4 THEN $5::jsonb ELSE answer END
        FROM keys.answer_key WHERE (exam_id, exam_version, key_version) = ($1, $2, $3)
        """,
        *(*place, question, answer),
    )
    await connection.execute(
        """
        INSERT INTO keys.explanation (exam_id, exam_version, key_version, question_id, body)
        SELECT exam_id, exam_version, key_version + 1, question_id, body
        FROM keys.explanation WHERE (exam_id, exam_version, key_version) = ($1, $2, $3)
        """,
        *place,
    )
    await connection.execute(
        """
        UPDATE exam e SET key_version = $3 + 1, keys_sha256 = 'mended, key version ' || ($3 + 1), max_score = mark_correct * (
          SELECT coalesce(sum(q.points) FILTER (WHERE a.answer->>'void' IS DISTINCT FROM 'DROP'), 0)
          FROM question q JOIN keys.answer_key a USING (exam_id, exam_version)
          WHERE q.exam_id = $1 AND q.exam_version = $2 AND a.key_version = $3 + 1 AND a.question_id = q.id)
        WHERE id = $1
        """,
        *place,
    )


async def _concern_all(connection: asyncpg.Connection, exam: str) -> Sequence[UUID]:
    """Note that what decides the end of an exam's sessions has changed, and return the sessions in progress."""
    rows = await connection.fetch(
        """
        UPDATE exam_session SET deadline_version = deadline_version + 1
        WHERE exam_id = $1 AND status = 'IN_PROGRESS' RETURNING id
        """,
        exam,
    )
    return [row["id"] for row in rows]


async def _refusal(connection: asyncpg.Connection, exam: str, resized: bool, new_tie_break: bool) -> ImportOutcome | None:
    """Return why an existing exam cannot change like this now, or None."""
    live, ranked = await connection.fetchrow(
        """
        SELECT EXISTS (SELECT FROM exam_session WHERE exam_id = $1 AND status = 'IN_PROGRESS'),
               EXISTS (SELECT FROM exam_session WHERE exam_id = $1)
        """,
        exam,
    )
    if resized and live:
        return ImportOutcome.SESSIONS_LIVE
    if new_tie_break and ranked:
        return ImportOutcome.SESSIONS_RANKED
    return None


def _policies(file: ExamFile) -> dict[str, object]:
    """Return the columns of `exam` that a file sets."""
    exam = file.exam
    return {
        "id": exam.id,
        "title": exam.title,
        "question_count": len(file.questions),
        "max_score": file.max_score,
        "has_essay": file.has_essay,
        "duration_seconds": exam.duration_seconds,
        "opens_at": exam.opens_at,
        "closes_at": exam.closes_at,
        "shuffle_questions": exam.shuffle_questions,
        "shuffle_options": exam.shuffle_options,
        "max_attempts": exam.max_attempts,
        "product_id": exam.product_id,
        "max_pauses": exam.pause.max_pauses,
        "max_pause_seconds": exam.pause.max_total_seconds,
        "mark_correct": exam.marking.correct,
        "mark_wrong": exam.marking.wrong,
        "mark_blank": exam.marking.blank,
        "mark_multiple": str(exam.marking.multiple),
        "tie_break": str(exam.tie_break),
        "release_score": str(exam.release.score),
        "release_review": str(exam.release.review),
        "inline_score": exam.inline_score,
        "enrolment": str(exam.enrolment),
        "board_public": exam.board.public,
        "board_freeze_seconds": exam.board.freeze_seconds_before_close,
        "board_approximate_from": exam.board.approximate_from,
        "graders": exam.graders,
        "grader_tolerance": exam.grader_tolerance,
        "blind_grading": exam.blind_grading,
    }


async def _write_exam(connection: asyncpg.Connection, columns: Mapping[str, object]) -> asyncpg.Record:
    names = list(columns)
    values = ", ".join(f"${place}" for place in range(1, len(names) + 1))
    updates = ", ".join(f"{name} = excluded.{name}" for name in names if name != "id")
    return await connection.fetchrow(
        f"INSERT INTO exam ({', '.join(names)}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {updates} RETURNING {EXAM}",  # noqa: S608
        *columns.values(),
    )


async def _write_paper(connection: asyncpg.Connection, file: ExamFile, version: int) -> None:
    await connection.execute(
        "INSERT INTO exam_paper (exam_id, exam_version, shuffle_questions, shuffle_options) VALUES ($1, $2, $3, $4)",
        file.exam.id,
        version,
        file.exam.shuffle_questions,
        file.exam.shuffle_options,
    )
    await connection.executemany(
        """
        INSERT INTO question (exam_id, exam_version, id, position, type, stem, passage, options, topic, points, rubric)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        [
            (
                file.exam.id,
                version,
                q.id,
                place,
                q.type,
                q.stem,
                q.passage,
                options_json(q),
                q.topic,
                q.points,
                rubric_json(q),
            )
            for place, q in enumerate(file.questions)
        ],
    )


async def _write_keys(connection: asyncpg.Connection, file: ExamFile, version: int, key_version: int) -> None:
    marking = file.exam.marking
    await connection.execute(
        """
        INSERT INTO exam_key (exam_id, exam_version, key_version, mark_correct, mark_wrong, mark_blank, mark_multiple)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        *(file.exam.id, version, key_version, marking.correct, marking.wrong, marking.blank, marking.multiple),
    )
    await connection.executemany(
        "INSERT INTO keys.answer_key (exam_id, exam_version, key_version, question_id, answer) VALUES ($1, $2, $3, $4, $5)",
        [(file.exam.id, version, key_version, q.id, answer_json(q.answer)) for q in file.questions],
    )
    await connection.executemany(
        "INSERT INTO keys.explanation (exam_id, exam_version, key_version, question_id, body) VALUES ($1, $2, $3, $4, $5)",
        [(file.exam.id, version, key_version, q.id, q.explanation) for q in file.questions if q.explanation],
    )


def _changes(
    before: asyncpg.Record | None,
    file: ExamFile,
    policies: Mapping[str, object],
    changed: Sequence[str],
    *,
    new_paper: bool,
    new_keys: bool,
) -> list[str]:
    """Return what is new or different, in lines for people; keys are never quoted."""
    if before is None:
        return [f"new exam {file.exam.id} with {len(file.questions)} questions, version 1"]
    lines = []
    if new_paper:
        lines.append(f"new paper: version {before['version']} → {before['version'] + 1}")
    elif new_keys:
        lines.append(f"new keys: key version {before['key_version']} → {before['key_version'] + 1}; results so far keep theirs")
    lines += [f"{name}: {before[name]} → {policies[name]}" for name in changed]
    return lines

"""Reads the rows of PostgreSQL, all at one moment, so that nobody has to stand still for it.

Each query names its columns in the order of the fields of what it fills. What grows with the number of students comes
through a cursor, binary and in parts: at 100,000 sessions neither time nor memory allows for more than that.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.rows import args_row

from ops.audit.kept import Exam, Keys, Pause, Question, Regrade, Replaced, Result, Session, Standing, Stores, Task

LONG = 12
"""From how many characters on a text of a key is too long to stand anywhere by chance."""

TOGETHER = 2_000
Row = TypeVar("Row")
Item = TypeVar("Item", Pause, Replaced, Task)

EXAMS = """
  SELECT id, created_at, duration_seconds, closes_at, closed_at IS NOT NULL, released_at IS NOT NULL, tie_break, release_score,
    release_review, graders, grader_tolerance,
    (SELECT max(g.finished_at) FROM regrade g
     WHERE (g.exam_id, g.key_version, g.status) = (exam.id, exam.key_version, 'DONE') AND NOT g.dry_run),
    board_revealed_at IS NULL AND coalesce(now() >= least(board_frozen_at,
      CASE WHEN board_freeze_seconds > 0 THEN closes_at - make_interval(secs => board_freeze_seconds) END), false)
  FROM exam WHERE id = ANY (%(exams)s)
"""
SESSIONS = """
  SELECT s.id::text, s.exam_id, s.exam_version, s.student_id, s.cohorts, s.started_at, s.ends_at, s.status, s.submitted_at,
    s.submit_reason, encode(s.answers_sha256, 'hex'), s.epoch, a.extra_seconds, a.factor, coalesce(d.seconds, 0),
    s.deadline_applied = s.deadline_version, greatest(a.set_at, l.at)
  FROM exam_session s
  LEFT JOIN LATERAL (
    SELECT * FROM accommodation WHERE student_id = s.student_id AND exam_id IN (s.exam_id, '') ORDER BY exam_id DESC LIMIT 1
  ) a ON true
  LEFT JOIN (SELECT session_id, sum(seconds)::int AS seconds FROM deadline_adjustment GROUP BY 1) d ON d.session_id = s.id
  LEFT JOIN (
    SELECT subject, max(at) AS at FROM audit_log WHERE action IN ('exam.schedule', 'exam.import') GROUP BY 1
  ) l ON l.subject = s.exam_id
  WHERE s.exam_id = ANY (%(exams)s)
"""
THEIRS = "session_id IN (SELECT id FROM exam_session WHERE exam_id = ANY (%(exams)s))"
PAUSES = f"SELECT session_id::text, paused_at, ends_by, resumed_at FROM session_pause WHERE {THEIRS} ORDER BY 1, 2"  # noqa: S608
RESULTS = f"""
  SELECT session_id::text, exam_id, exam_version, student_id, score, max_score, status, revision, key_version, answers,
    encode(answers_sha256, 'hex'), points
  FROM result WHERE exam_id = ANY (%(exams)s) OR {THEIRS}
"""  # noqa: S608
REPLACED = f"""
  SELECT session_id::text, revision, score, status, key_version, points, reason FROM result_history WHERE {THEIRS} ORDER BY 1, 2
"""  # noqa: S608
TASKS = f"""
  SELECT session_id::text, question_id, slot, status, grader, points FROM grading_task
  WHERE exam_id = ANY (%(exams)s) OR {THEIRS} ORDER BY 1, 2, 3
"""  # noqa: S608
STANDINGS = """
  SELECT exam_id, student_id, cohorts, score, order_key, session_id::text, held, held_key
  FROM standing WHERE exam_id = ANY (%(exams)s)
"""
WRITTEN = "SELECT session_id::text, question_id, version FROM session_answer WHERE session_id = ANY (%(sessions)s::uuid[])"
MARKS = """
  SELECT exam_id, exam_version, key_version, mark_correct, mark_wrong, mark_blank, mark_multiple = 'PARTIAL'
  FROM exam_key WHERE exam_id = ANY (%(exams)s)
"""
QUESTIONS = """
  SELECT q.exam_id, q.exam_version, k.key_version, q.id, q.type, q.points, a.answer
  FROM question q JOIN exam_key k USING (exam_id, exam_version)
  LEFT JOIN keys.answer_key a ON (a.exam_id, a.exam_version, a.key_version, a.question_id)
    = (q.exam_id, q.exam_version, k.key_version, q.id)
  WHERE q.exam_id = ANY (%(exams)s) ORDER BY q.position
"""
SECRETS = """
  SELECT exam_id, body FROM keys.explanation WHERE exam_id = ANY (%(exams)s)
  UNION ALL SELECT exam_id, jsonb_array_elements_text(answer->'accept') FROM keys.answer_key WHERE exam_id = ANY (%(exams)s)
"""
WAITING = "SELECT session_id::text FROM submission"
BURIED = """
  SELECT session_id::text, min(created_at) FROM dead_letter WHERE replayed_at IS NULL AND session_id IS NOT NULL GROUP BY 1
"""
REGRADING = "SELECT id::text, exam_id, requested_at FROM regrade WHERE status = 'RUNNING' AND exam_id = ANY (%(exams)s)"


def read(postgres: str, wanted: Sequence[str], snapshots_of: frozenset[str]) -> Stores:
    """Read the wanted exams, all when none is named, in one snapshot; an exam that does not exist is a KeyError."""
    with psycopg.connect(postgres, options="-c timezone=UTC") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        known = [row[0] for row in connection.execute("SELECT id FROM exam ORDER BY id")]
        if missing := set(wanted) - set(known):
            raise KeyError(", ".join(sorted(missing)))
        return _stores(Rows(connection, list(wanted) or known), snapshots_of)


class Rows:
    """Rows of some exams, from one snapshot."""

    def __init__(self, connection: psycopg.Connection[Any], exams: Sequence[str]) -> None:
        self._connection = connection
        self._exams = exams

    def each(self, query: LiteralString, make: Callable[..., Row], sessions: Sequence[str] = ()) -> Iterable[Row]:
        """Yield what is made of each row, its columns in their order."""
        with self._connection.cursor("audit", row_factory=args_row(make)) as cursor:
            cursor.itersize = TOGETHER
            yield from cursor.execute(query, {"exams": self._exams, "sessions": sessions}, binary=True)

    def by_session(self, query: LiteralString, make: Callable[..., Item]) -> Mapping[str, Sequence[Item]]:
        """Return what is made of the rows, by session, which is their first column."""
        found: dict[str, list[Item]] = {}
        for session, item in self.each(query, lambda *columns: (columns[0], make(*columns))):
            found.setdefault(session, []).append(item)
        return found


def _stores(rows: Rows, snapshots_of: frozenset[str]) -> Stores:
    pauses = rows.by_session(PAUSES, lambda _, *columns: Pause(*columns))
    made = rows.each(SESSIONS, lambda *columns: Session(*columns, *[pauses.get(columns[0], ())]))
    sessions = {session.id: session for session in made}
    return Stores(
        now=next(iter(rows.each("SELECT now()", lambda now: now))),
        exams={exam.id: exam for exam in rows.each(EXAMS, Exam)},
        keys=_keys(rows),
        sessions=sessions,
        results=list(rows.each(RESULTS, Result)),
        replaced=rows.by_session(REPLACED, Replaced),
        tasks=rows.by_session(TASKS, Task),
        written=dict(rows.each(WRITTEN, lambda *columns: (columns[:2], columns[2]), sorted(snapshots_of & sessions.keys()))),
        waiting=frozenset(rows.each(WAITING, str)),
        buried=dict(rows.each(BURIED, lambda session, since: (session, since))),
        regrading=list(rows.each(REGRADING, Regrade)),
        standings=list(rows.each(STANDINGS, Standing)),
        secrets=_secrets(rows),
    )


def _keys(rows: Rows) -> Mapping[tuple[str, int, int], Keys]:
    papers: dict[tuple[str, int, int], list[Question]] = {}
    for version, question in rows.each(QUESTIONS, lambda *columns: (columns[:3], Question(*columns[3:]))):
        papers.setdefault(version, []).append(question)
    marks = rows.each(MARKS, lambda *columns: (columns[:3], columns[3:]))
    return {version: Keys(*marking, *[papers.get(version, ())]) for version, marking in marks}


def _secrets(rows: Rows) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for exam, text in rows.each(SECRETS, lambda *columns: columns):
        if len(text) >= LONG:
            found.setdefault(exam, []).append(text)
    return found

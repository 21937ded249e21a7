"""Reads PostgreSQL and Redis as their owner: PostgreSQL at one moment, Redis just after it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import psycopg
from psycopg.rows import dict_row
from redis import Redis

from ops.audit.records import Board, Exam, Keys, Question, Result, Session, Standing, Stores
from ops.audit.rules import accommodated

LONG = 12
"""From how many characters on a text of a key is too long to stand anywhere by chance."""

TOGETHER = 1_000
LIVE = {b"I": "IN_PROGRESS", b"S": "SUBMITTED", b"D": "SCORED"}
Rows = Sequence[Mapping[str, Any]]

SESSIONS = """
  SELECT s.*, e.duration_seconds, a.extra_seconds, a.factor, coalesce(d.seconds, 0) AS adjusted,
    greatest(a.set_at, l.at) AS changed_at,
    ARRAY(SELECT paused_at FROM session_pause p WHERE p.session_id = s.id ORDER BY paused_at) AS pauses,
    ARRAY(SELECT ends_by FROM session_pause p WHERE p.session_id = s.id ORDER BY paused_at) AS pauses_end,
    ARRAY(SELECT resumed_at FROM session_pause p WHERE p.session_id = s.id ORDER BY paused_at) AS resumes
  FROM exam_session s
  JOIN exam e ON e.id = s.exam_id
  LEFT JOIN LATERAL (
    SELECT * FROM accommodation WHERE student_id = s.student_id AND exam_id IN (s.exam_id, '') ORDER BY exam_id DESC LIMIT 1
  ) a ON true
  LEFT JOIN (SELECT session_id, sum(seconds)::int AS seconds FROM deadline_adjustment GROUP BY 1) d ON d.session_id = s.id
  LEFT JOIN (
    SELECT subject, max(at) AS at FROM audit_log WHERE action IN ('exam.schedule', 'exam.import') GROUP BY 1
  ) l ON l.subject = s.exam_id
  WHERE s.exam_id = ANY (%(exams)s)
"""


def read(postgres: str, redis: str, wanted: Sequence[str]) -> Stores:
    """Read the wanted exams, all when none is named; an exam that does not exist is a KeyError."""
    with psycopg.connect(postgres, row_factory=dict_row) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        stores = _postgres(connection, wanted)
    with Redis.from_url(redis) as client:
        return _with_redis(stores, client)


def _postgres(connection: psycopg.Connection[dict[str, Any]], wanted: Sequence[str]) -> Stores:
    def ask(query: str) -> Rows:
        return connection.execute(cast(Any, query), {"exams": exams}).fetchall()

    known = [row["id"] for row in connection.execute("SELECT id FROM exam ORDER BY id").fetchall()]
    if missing := set(wanted) - set(known):
        raise KeyError(", ".join(sorted(missing)))
    exams = list(wanted) or known
    sessions = "SELECT id FROM exam_session WHERE exam_id = ANY (%(exams)s)"
    return Stores(
        now=ask("SELECT clock_timestamp() AS now")[0]["now"],
        exams={row["id"]: _exam(row) for row in ask("SELECT * FROM exam WHERE id = ANY (%(exams)s)")},
        keys=_keys(
            ask("SELECT * FROM exam_key WHERE exam_id = ANY (%(exams)s)"),
            ask("SELECT * FROM question WHERE exam_id = ANY (%(exams)s) ORDER BY position"),
            ask("SELECT * FROM keys.answer_key WHERE exam_id = ANY (%(exams)s)"),
        ),
        sessions={str(row["id"]): _session(row) for row in ask(SESSIONS)},
        results=[
            _result(row)
            for row in ask(f"SELECT * FROM result WHERE exam_id = ANY (%(exams)s) OR session_id IN ({sessions})")  # noqa: S608
        ],
        replaced=_replaced(
            ask(f"SELECT session_id, revision, score FROM result_history WHERE session_id IN ({sessions}) ORDER BY revision")  # noqa: S608
        ),
        written={
            (str(row["session_id"]), row["question_id"]): row["version"]
            for row in ask(f"SELECT session_id, question_id, version FROM session_answer WHERE session_id IN ({sessions})")  # noqa: S608
        },
        waiting=_ids(ask("SELECT session_id FROM submission")),
        buried=_ids(ask("SELECT session_id FROM dead_letter WHERE replayed_at IS NULL AND session_id IS NOT NULL")),
        standings=[_standing(row) for row in ask("SELECT * FROM standing WHERE exam_id = ANY (%(exams)s)")],
        boards={},
        holding=False,
        secrets=_secrets(
            ask("SELECT exam_id, body FROM keys.explanation WHERE exam_id = ANY (%(exams)s)"),
            ask("SELECT exam_id, answer FROM keys.answer_key WHERE exam_id = ANY (%(exams)s)"),
        ),
    )


def _with_redis(stores: Stores, client: "Redis") -> Stores:
    cohorts = {(exam, cohort) for s in stores.standings for exam, cohort in [(s.exam, None), *((s.exam, c) for c in s.cohorts)]}
    return replace(
        stores,
        sessions=_with_status(stores.sessions, client),
        boards={(exam, cohort): _board(client, exam, cohort) for exam, cohort in cohorts},
        holding=next(iter(client.scan_iter("hold:*", count=TOGETHER)), None) is not None,
        open_keys={exam: _open_to_all(client, exam) for exam in stores.exams},
    )


def _with_status(sessions: Mapping[str, Session], client: "Redis") -> Mapping[str, Session]:
    """Add what Redis says of each session; one of an earlier generation is no statement, it would be restored first."""
    found, generations = dict(sessions), [cast("bytes | None", client.get(f"gen:{{{shard:02d}}}")) for shard in range(64)]
    ids = list(sessions)
    for start in range(0, len(ids), TOGETHER):
        part = ids[start : start + TOGETHER]
        with client.pipeline(transaction=False) as pipeline:
            for one in part:
                pipeline.hmget(f"s:{{{_shard(one):02d}}}:{one}", ["s", "g"])
            for one, (status, generation) in zip(part, pipeline.execute(), strict=True):
                if status is not None and generation == generations[_shard(one)]:
                    found[one] = replace(found[one], live_status=LIVE[status])
    return found


def _shard(session: str) -> int:
    return int(session.replace("-", ""), 16) % 64


def _board(client: "Redis", exam: str, cohort: str | None) -> Board:
    key = f"lb:{{{exam}}}" if cohort is None else f"lb:{{{exam}}}:c:{cohort}"
    rows = cast(list[tuple[bytes, float]], client.zrange(key, 0, -1, withscores=True))
    found = {member.decode(): score for member, score in rows}
    complete = found.pop("!", None) is not None
    return Board(complete, {student: int(score) for student, score in found.items()})


def _open_to_all(client: "Redis", exam: str) -> Sequence[str]:
    papers = [cast("bytes | None", client.get(key)) for key in client.scan_iter(f"paper:{exam}:*", count=TOGETHER)]
    names = cast(dict[bytes, bytes], client.hgetall(f"lbname:{{{exam}}}"))
    return [text.decode() for text in (*papers, *names.values()) if text is not None]


def _exam(row: Mapping[str, Any]) -> Exam:
    return Exam(
        id=row["id"],
        created_at=row["created_at"],
        duration_seconds=row["duration_seconds"],
        closes_at=row["closes_at"],
        closed=row["closed_at"] is not None,
        released=row["released_at"] is not None,
        tie_break=row["tie_break"],
        release_score=row["release_score"],
        release_review=row["release_review"],
    )


def _keys(marks: Rows, questions: Rows, answers: Rows) -> dict[tuple[str, int, int], Keys]:
    papers: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in questions:
        papers.setdefault((row["exam_id"], row["exam_version"]), []).append(row)
    key = {(row["exam_id"], row["exam_version"], row["key_version"], row["question_id"]): row["answer"] for row in answers}
    found = {}
    for row in marks:
        version = row["exam_id"], row["exam_version"], row["key_version"]
        paper = [Question(q["id"], q["type"], q["points"], key.get((*version, q["id"]))) for q in papers.get(version[:2], ())]
        partial = row["mark_multiple"] == "PARTIAL"
        found[version] = Keys(row["mark_correct"], row["mark_wrong"], row["mark_blank"], partial, paper)
    return found


def _session(row: Mapping[str, Any]) -> Session:
    return Session(
        id=str(row["id"]),
        exam=row["exam_id"],
        exam_version=row["exam_version"],
        student=row["student_id"],
        cohorts=tuple(row["cohorts"]),
        alias=row["alias"],
        started_at=row["started_at"],
        ends_at=row["ends_at"],
        status=row["status"],
        submitted_at=row["submitted_at"],
        reason=row["submit_reason"],
        answers_sha256=row["answers_sha256"].hex() if row["answers_sha256"] is not None else None,
        epoch=row["epoch"],
        pauses=tuple(zip(row["pauses"], row["pauses_end"], row["resumes"], strict=True)),
        extra_seconds=accommodated(row["duration_seconds"], row["extra_seconds"], row["factor"]),
        adjusted_seconds=row["adjusted"],
        settled=row["deadline_applied"] == row["deadline_version"],
        terms_changed_at=row["changed_at"],
    )


def _result(row: Mapping[str, Any]) -> Result:
    return Result(
        session=str(row["session_id"]),
        exam=row["exam_id"],
        exam_version=row["exam_version"],
        student=row["student_id"],
        score=row["score"],
        max_score=row["max_score"],
        status=row["status"],
        revision=row["revision"],
        key_version=row["key_version"],
        answers=row["answers"],
        answers_sha256=row["answers_sha256"].hex(),
        points=tuple(row["points"]),
        scored_at=row["scored_at"],
    )


def _standing(row: Mapping[str, Any]) -> Standing:
    session = str(row["session_id"]) if row["session_id"] is not None else None
    cohorts = tuple(row["cohorts"])
    return Standing(row["exam_id"], row["student_id"], cohorts, row["score"], row["tiebreak"], row["order_key"], session)


def _replaced(rows: Rows) -> dict[str, list[tuple[int, int]]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        found.setdefault(str(row["session_id"]), []).append((row["revision"], row["score"]))
    return found


def _ids(rows: Rows) -> frozenset[str]:
    return frozenset(str(row["session_id"]) for row in rows)


def _secrets(explanations: Rows, answers: Rows) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in explanations:
        found.setdefault(row["exam_id"], []).append(row["body"])
    for row in answers:
        found.setdefault(row["exam_id"], []).extend(row["answer"].get("accept", ()))
    return {exam: [text for text in texts if len(text) >= LONG] for exam, texts in found.items()}

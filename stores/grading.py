"""GradingTasks: answers that people grade, each one grader's at a time.

A claim is a random id in the task's row, and ends at `lease_until`: every statement that writes names the claim, so that a
grader whose claim somebody else has taken over changes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from uuid import UUID

import asyncpg

from stores.records import GradedEssay, GradingTask, TaskStatus
from stores.sessions import milliseconds

CLAIM_SECONDS = 600
MOST_CLAIMS = 20
Decide = Callable[[Sequence[int | None], int], int | None]
"""From the totals of an answer's grades (None: not graded yet) and the exam's tolerance: the points that count, or None."""

TASKS = """
  SELECT t.session_id, t.question_id, t.slot, t.status, t.points, t.comments, t.comment, e.grader_tolerance
  FROM grading_task t JOIN exam e ON e.id = t.exam_id
  WHERE t.session_id = ANY ($1) AND t.status <> 'CANCELLED' ORDER BY 1, 2, 3
"""
TASK = "id, session_id, exam_id, question_id, slot, status, grader, claim, lease_until, created_at"
CLAIMS = "SELECT count(*) FROM grading_task WHERE grader = $1 AND status = 'CLAIMED' AND lease_until >= now()"
FREE = "(t.status = 'OPEN' OR (t.status = 'CLAIMED' AND t.lease_until < now()))"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A claimed task with what its grader needs to see."""

    task: GradingTask
    stem: str
    passage: str
    answers: bytes
    """All frozen answers of the session; the grader is shown one."""

    student: str | None
    """Whose it is; None where grading is blind."""


class NotClaimed(StrEnum):
    """Why a grader got no task."""

    NONE_WAITS = "NONE_WAITS"
    TOO_MANY = "TOO_MANY"


class GradingTasks:
    """The table `grading_task`, but for grades: those change results, and so are `Revisions`'."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def page(
        self, exam: str | None, question: str | None, status: TaskStatus | None, after: tuple[int, UUID] | None, count: int
    ) -> Sequence[GradingTask]:
        """Return tasks, oldest first, after the last one of the page before; `status` None: those that wait."""
        rows = await self._pool.fetch(
            f"""
            SELECT {TASK} FROM grading_task t
            WHERE ($1::text IS NULL OR exam_id = $1) AND ($2::text IS NULL OR question_id = $2)
              AND CASE $3::text WHEN 'OPEN' THEN {FREE} WHEN 'CLAIMED' THEN status = 'CLAIMED' AND lease_until >= now()
                  WHEN '' THEN status IN ('OPEN', 'CLAIMED') ELSE status = $3 END
              AND ($4::bigint IS NULL OR (created_at, id) > (to_timestamp($4 / 1000000.0), $5))
            ORDER BY created_at, id LIMIT $6
            """,  # noqa: S608
            *(exam, question, status.value if status else ""),
            *(after if after else (None, None)),
            count,
        )
        return [task_of(row) for row in rows]

    async def read(self, task: UUID) -> GradingTask | None:
        """Return one task, or None."""
        row = await self._pool.fetchrow(f"SELECT {TASK} FROM grading_task WHERE id = $1", task)  # noqa: S608
        return task_of(row) if row else None

    async def claim(self, grader: str, exam: str | None, question: str | None, task: UUID | None) -> Claimed | NotClaimed:
        """Give a grader the task, or the one that waits longest, for ten minutes.

        A grader's claims come one after another, so that two at once take neither one task too many nor the same answer twice.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('grader/' || $1, 0))", grader)
            if await connection.fetchval(CLAIMS, grader) >= MOST_CLAIMS:
                return NotClaimed.TOO_MANY
            row = await connection.fetchrow(
                f"""
                UPDATE grading_task u SET status = 'CLAIMED', grader = $1, claim = gen_random_uuid(),
                  lease_until = now() + make_interval(secs => {CLAIM_SECONDS})
                WHERE u.id = (
                  SELECT t.id FROM grading_task t
                  WHERE {FREE} AND ($2::text IS NULL OR t.exam_id = $2) AND ($3::text IS NULL OR t.question_id = $3)
                    AND ($4::uuid IS NULL OR t.id = $4)
                    AND NOT EXISTS (SELECT FROM grading_task o
                                    WHERE (o.session_id, o.question_id, o.grader) = (t.session_id, t.question_id, $1)
                                      AND o.id <> t.id AND o.status IN ('CLAIMED', 'GRADED'))
                  ORDER BY t.created_at, t.session_id, t.slot LIMIT 1 FOR UPDATE SKIP LOCKED)
                RETURNING {TASK}
                """,  # noqa: S608
                *(grader, exam, question, task),
            )
        return await self._shown(row) if row else NotClaimed.NONE_WAITS

    async def renew(self, task: UUID, claim: UUID, grader: str) -> GradingTask | None:
        """Let a claim last ten minutes from now on; None: it is lost, or there is no such task."""
        row = await self._pool.fetchrow(
            f"""
            UPDATE grading_task SET lease_until = now() + make_interval(secs => {CLAIM_SECONDS})
            WHERE id = $1 AND claim = $2 AND grader = $3 AND status = 'CLAIMED' RETURNING {TASK}
            """,  # noqa: S608
            *(task, claim, grader),
        )
        return task_of(row) if row else None

    async def release(self, task: UUID, claim: UUID, grader: str) -> bool:
        """Give a claimed task back; False: the claim is lost."""
        done = await self._pool.execute(
            """
            UPDATE grading_task SET status = 'OPEN', grader = NULL, claim = NULL, lease_until = NULL
            WHERE id = $1 AND claim = $2 AND grader = $3 AND status = 'CLAIMED'
            """,
            *(task, claim, grader),
        )
        return bool(done == "UPDATE 1")

    async def _shown(self, row: asyncpg.Record) -> Claimed:
        found = await self._pool.fetchrow(
            """
            SELECT q.stem, q.passage, r.answers, r.student_id, e.blind_grading
            FROM result r JOIN exam e ON e.id = r.exam_id
            JOIN question q ON (q.exam_id, q.exam_version, q.id) = (r.exam_id, r.exam_version, $2)
            WHERE r.session_id = $1
            """,
            row["session_id"],
            row["question_id"],
        )
        student = None if found["blind_grading"] else found["student_id"]
        return Claimed(task_of(row), found["stem"], found["passage"], found["answers"].encode(), student)


def task_of(row: asyncpg.Record) -> GradingTask:
    """Read a row of `TASK`."""
    return GradingTask(
        id=row["id"],
        session=row["session_id"],
        exam=row["exam_id"],
        question=row["question_id"],
        slot=row["slot"],
        status=TaskStatus(row["status"]),
        grader=row["grader"],
        claim=row["claim"],
        until_ms=milliseconds(row["lease_until"]) if row["lease_until"] else None,
        created_us=round(row["created_at"].timestamp() * 1_000_000),
    )


def graded_essays(rows: Sequence[asyncpg.Record], decide: Decide) -> Mapping[tuple[UUID, str], GradedEssay]:
    """Return what essays were given whose grades are decided, of rows of `TASKS`, by session and question.

    Criteria and comments are those of the first grade with the total that counts; a mean of two has none.
    """
    found = {}
    for place, tasks in groupby(rows, key=lambda row: (row["session_id"], row["question_id"])):
        grades = list(tasks)
        totals = [sum(one["points"]) if one["status"] == "GRADED" else None for one in grades]
        total = decide(totals, grades[0]["grader_tolerance"])
        if total is None:
            continue
        stands = next((one for one, given in zip(grades, totals, strict=True) if given == total), None)
        found[place] = GradedEssay(
            total=total,
            points=tuple(stands["points"]) if stands else (),
            comments=tuple(stands["comments"]) if stands else (),
            comment=stands["comment"] if stands else "",
        )
    return found

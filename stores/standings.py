"""Standings: `standing`, where each student stands in each exam: what boards are built from and compared with."""

from collections.abc import AsyncIterator, Mapping, Sequence

import asyncpg

from stores.records import Standing

STANDING = "exam_id, student_id, alias, cohorts, order_key, version"
PAGE = 5_000
TIEBREAK = """
  CASE e.tie_break
    WHEN 'DURATION' THEN (extract(epoch FROM s.submitted_at - s.started_at - coalesce(
      (SELECT sum(least(p.resumed_at, p.ends_by, s.submitted_at) - p.paused_at) FROM session_pause p
       WHERE p.session_id = s.id AND p.paused_at < s.submitted_at), interval '0')) * 1000)::bigint
    WHEN 'SUBMITTED_AT' THEN (extract(epoch FROM s.submitted_at - e.created_at) * 1000)::bigint
    ELSE 0
  END
"""
"""What breaks a tie of session `s` of exam `e`, in ms; the smaller is the better."""

BEST = f"""
  WITH attempt AS (
    SELECT r.exam_id, r.student_id, r.session_id, r.score, r.status, s.alias, s.cohorts, e.tie_break,
      {TIEBREAK} AS tiebreak
    FROM unnest($1::text[], $2::text[]) AS w (exam_id, student_id)
    JOIN result r USING (exam_id, student_id)
    JOIN exam_session s ON s.id = r.session_id
    JOIN exam e ON e.id = r.exam_id
  ), keyed AS (
    SELECT *, CASE tie_break
      WHEN 'NONE' THEN score::bigint ELSE (score + 1) * range - 1 - least(greatest(tiebreak, 0), range - 1)
    END AS order_key
    FROM attempt, LATERAL (SELECT 1::bigint << CASE tie_break WHEN 'DURATION' THEN 27 ELSE 35 END AS range) bits
  ), best AS (
    SELECT DISTINCT ON (exam_id, student_id) exam_id, student_id, alias,
      CASE WHEN status = 'SCORED' THEN score END AS score,
      CASE WHEN status = 'SCORED' THEN tiebreak END AS tiebreak,
      CASE WHEN status = 'SCORED' THEN order_key END AS order_key,
      CASE WHEN status = 'SCORED' THEN session_id END AS session_id
    FROM keyed
    ORDER BY exam_id, student_id, (status = 'SCORED') DESC, keyed.order_key DESC, keyed.session_id
  ), clubs AS (
    SELECT exam_id, student_id,
      coalesce(array_agg(DISTINCT cohort ORDER BY cohort) FILTER (WHERE cohort IS NOT NULL), '{{}}') AS cohorts
    FROM attempt LEFT JOIN LATERAL unnest(cohorts) AS cohort ON true GROUP BY 1, 2
  )
"""  # noqa: S608
"""What the standings of (exam, student) pairs have to be: the best SCORED result gives the place."""

STATED = f"""
  {BEST}
  INSERT INTO standing AS t (exam_id, student_id, alias, cohorts, score, tiebreak, order_key, session_id, version)
  SELECT exam_id, student_id, b.alias, c.cohorts, b.score, b.tiebreak, b.order_key, b.session_id, 1
  FROM best b JOIN clubs c USING (exam_id, student_id) ORDER BY exam_id, student_id
  ON CONFLICT DO NOTHING
  RETURNING {STANDING}
"""  # noqa: S608

RESTATED = f"""
  {BEST}
  UPDATE standing t SET
    alias = b.alias, cohorts = c.cohorts, score = b.score, tiebreak = b.tiebreak, order_key = b.order_key,
    session_id = b.session_id, version = t.version + 1
  FROM best b JOIN clubs c USING (exam_id, student_id)
  WHERE (t.exam_id, t.student_id) = (b.exam_id, b.student_id)
  RETURNING t.exam_id, t.student_id, t.alias, t.cohorts, t.order_key, t.version
"""  # noqa: S608


class Standings:
    """Students' places in PostgreSQL: what boards are built from and compared with."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def all(self, exam: str) -> AsyncIterator[Sequence[Standing]]:
        """Yield all standings of an exam, in pages; each page is as fresh as its reading."""
        after = ""
        while True:
            rows = await self._pool.fetch(
                f"SELECT {STANDING} FROM standing WHERE exam_id = $1 AND student_id > $2 ORDER BY student_id LIMIT $3",  # noqa: S608
                exam,
                after,
                PAGE,
            )
            if rows:
                yield [standing_of(row) for row in rows]
            if len(rows) < PAGE:
                return
            after = rows[-1]["student_id"]

    async def cohorts(self, exam: str) -> Sequence[str]:
        """Return every cohort that has a student with a standing in the exam."""
        rows = await self._pool.fetch("SELECT DISTINCT unnest(cohorts) AS cohort FROM standing WHERE exam_id = $1 ORDER BY 1", exam)
        return [row["cohort"] for row in rows]

    async def ranked(self, exam: str, cohort: str | None) -> Mapping[str, int]:
        """Return the order key of every placed student of a board: what the zset has to hold."""
        rows = await self._pool.fetch(
            """
            SELECT student_id, order_key FROM standing
            WHERE exam_id = $1 AND order_key IS NOT NULL AND ($2::text IS NULL OR $2 = ANY (cohorts))
            """,
            exam,
            cohort,
        )
        return {row["student_id"]: row["order_key"] for row in rows}


async def restate(connection: asyncpg.Connection, students: set[tuple[str, str]]) -> Sequence[Standing]:
    """Recompute the standings of these (exam, student): the best SCORED result gives the place.

    A first result makes the row. Where there is one, or another transaction makes it meanwhile, it is locked first and
    recomputed in a later statement, which sees what the other committed: two attempts scored at once cannot both believe
    that they are the only one.

    Planned anew each time: a plan that was made while a month's partition was empty takes any of its indexes, and would read an
    exam's results for each of its students for as long as the connection lives.
    """
    await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
    made = [standing_of(row) for row in await connection.fetch(STATED, *_columns(students))]
    there = students - {(standing.exam, standing.student) for standing in made}
    if not there:
        return made
    await connection.execute(
        """
        SELECT FROM standing WHERE (exam_id, student_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
        ORDER BY exam_id, student_id FOR UPDATE
        """,
        *_columns(there),
    )
    return [*made, *(standing_of(row) for row in await connection.fetch(RESTATED, *_columns(there)))]


def _columns(students: set[tuple[str, str]]) -> tuple[list[str], list[str]]:
    ordered = sorted(students)
    return [exam for exam, _ in ordered], [student for _, student in ordered]


def standing_of(row: asyncpg.Record) -> Standing:
    """Read a row of `STANDING`."""
    return Standing(
        exam=row["exam_id"],
        student=row["student_id"],
        alias=row["alias"],
        cohorts=tuple(row["cohorts"]),
        order_key=row["order_key"],
        version=row["version"],
    )

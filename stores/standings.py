"""Standings: `standing`, where each student stands in each exam: what boards are built from and compared with."""

from collections.abc import AsyncIterator, Mapping, Sequence

import asyncpg

from stores.catalog import record
from stores.records import Series, Standing

SHOWN = "CASE WHEN t.held THEN t.held_key ELSE t.order_key END"
"""The order key that boards show of standing `t`: while a board is frozen, what it was then."""

STANDING = f"t.exam_id, t.student_id, t.alias, t.cohorts, {SHOWN} AS order_key, t.version"
"""Standing `t` as boards show it."""

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
  ), freezing AS MATERIALIZED (
    SELECT e.id AS exam_id, board_frozen(e) AS frozen FROM exam e WHERE e.id = ANY ($1)
  )
"""  # noqa: S608
"""What the standings of (exam, student) pairs have to be: the best SCORED result gives the place."""

STATED = f"""
  {BEST}
  INSERT INTO standing AS t (exam_id, student_id, alias, cohorts, score, tiebreak, order_key, session_id, version, held)
  SELECT exam_id, student_id, b.alias, c.cohorts, b.score, b.tiebreak, b.order_key, b.session_id, 1,
    f.frozen AND b.order_key IS NOT NULL
  FROM best b JOIN clubs c USING (exam_id, student_id) JOIN freezing f USING (exam_id) ORDER BY exam_id, student_id
  ON CONFLICT DO NOTHING
  RETURNING {STANDING}
"""  # noqa: S608

RESTATED = f"""
  {BEST}
  UPDATE standing t SET
    alias = b.alias, cohorts = c.cohorts, score = b.score, tiebreak = b.tiebreak, order_key = b.order_key,
    session_id = b.session_id, version = t.version + 1, held_key = {SHOWN},
    held = f.frozen AND (t.held OR b.order_key IS DISTINCT FROM t.order_key)
  FROM best b JOIN clubs c USING (exam_id, student_id) JOIN freezing f USING (exam_id)
  WHERE (t.exam_id, t.student_id) = (b.exam_id, b.student_id)
  RETURNING {STANDING}
"""  # noqa: S608


SERIES = f"""
  WITH own AS (
    SELECT t.student_id, t.alias, t.cohorts, t.session_id, t.version,
      CASE WHEN t.exam_id = ANY ($2)
        THEN {SHOWN} >> CASE e.tie_break WHEN 'DURATION' THEN 27 WHEN 'SUBMITTED_AT' THEN 35 ELSE 0 END END AS points
    FROM standing t JOIN exam e ON e.id = t.exam_id
    WHERE t.exam_id = ANY ($1) AND t.student_id = ANY ($4)
  ), numbered AS (
    SELECT *, row_number() OVER (PARTITION BY student_id ORDER BY points DESC NULLS LAST) AS nth FROM own
  ), summed AS (
    SELECT student_id, (array_agg(alias ORDER BY session_id DESC NULLS LAST))[1] AS alias, sum(version)::int AS version,
      (sum(points) FILTER (WHERE $3::int IS NULL OR nth <= $3))::bigint AS order_key
    FROM numbered GROUP BY student_id
  ), clubs AS (
    SELECT student_id, array_agg(DISTINCT cohort ORDER BY cohort) AS cohorts FROM own, unnest(cohorts) AS cohort GROUP BY 1
  )
  SELECT s.student_id, s.alias, coalesce(c.cohorts, '{{}}') AS cohorts, s.order_key, s.version
  FROM summed s LEFT JOIN clubs c USING (student_id) ORDER BY s.student_id
"""  # noqa: S608
"""Where students stand in a series: $1 its exams, $2 those that count, $3 how many of the best, $4 the students.

It is a pure function of `standing`, whose versions only rise: what sees more has a larger sum of them. Sums fit the 53 bits of
a board, since no exam's total leaves 26 of them (servers/admin/rules.py) and a series has no more than 100 exams.
"""

WHOLE_SERIES = SERIES.replace("AND t.student_id = ANY ($4)", "")
"""Where everybody does. A statement for either would be planned for both at once, and read all for a few."""


REVEALED = f"""
  WITH next AS MATERIALIZED (
    SELECT student_id FROM standing WHERE exam_id = $1 AND held AND held_key IS DISTINCT FROM order_key
    ORDER BY held_key NULLS FIRST, order_key, student_id LIMIT 1 FOR UPDATE
  )
  UPDATE standing t SET held_key = t.order_key, version = t.version + 1
  FROM next WHERE t.exam_id = $1 AND t.student_id = next.student_id
  RETURNING {STANDING}
"""  # noqa: S608
"""Show one more. Whoever is next is looked for once: a subquery in FROM may be run again for each row that it is joined with, and
passes over those that this statement has changed already, so that a limit of one would show them all."""


class Standings:
    """Students' places in PostgreSQL: what boards are built from and compared with."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def all(self, exam: str) -> AsyncIterator[Sequence[Standing]]:
        """Yield all standings of an exam, in pages; each page is as fresh as its reading."""
        after = ""
        while True:
            rows = await self._pool.fetch(
                f"SELECT {STANDING} FROM standing t WHERE exam_id = $1 AND student_id > $2 ORDER BY student_id LIMIT $3",  # noqa: S608
                exam,
                after,
                PAGE,
            )
            if rows:
                yield [standing_of(row) for row in rows]
            if len(rows) < PAGE:
                return
            after = rows[-1]["student_id"]

    async def size(self, exam: str) -> int:
        """Return how many students have a place in an exam."""
        found: int = await self._pool.fetchval(f"SELECT count(*) FROM standing t WHERE exam_id = $1 AND {SHOWN} IS NOT NULL", exam)  # noqa: S608
        return found

    async def bounds(self, exam: str, bands: int) -> Sequence[int]:
        """Return order keys, rising, that part the students with a place into so many bands of about as many; fewer where many
        share a key."""
        rows = await self._pool.fetch(
            f"""
            SELECT DISTINCT unnest(percentile_disc((SELECT array_agg(n::float8 / $2) FROM generate_series(0, $2 - 1) AS n))
              WITHIN GROUP (ORDER BY {SHOWN})) AS bound
            FROM standing t WHERE exam_id = $1 AND {SHOWN} IS NOT NULL ORDER BY 1
            """,  # noqa: S608
            exam,
            bands,
        )
        return [row["bound"] for row in rows if row["bound"] is not None]

    async def cohorts(self, *exams: str) -> Sequence[str]:
        """Return every cohort that has a student with a standing in one of the exams, by name."""
        rows = await self._pool.fetch("SELECT DISTINCT unnest(cohorts) AS cohort FROM standing WHERE exam_id = ANY ($1)", exams)
        return sorted(row["cohort"] for row in rows)

    async def ranked(self, exam: str, cohort: str | None) -> Mapping[str, int]:
        """Return the order key of every placed student of a board: what the zset has to hold."""
        rows = await self._pool.fetch(
            f"""
            SELECT student_id, {SHOWN} AS order_key FROM standing t
            WHERE exam_id = $1 AND {SHOWN} IS NOT NULL AND ($2::text IS NULL OR $2 = ANY (cohorts))
            """,  # noqa: S608
            exam,
            cohort,
        )
        return {row["student_id"]: row["order_key"] for row in rows}

    async def in_series(self, series: Series, counted: Sequence[str], students: Sequence[str]) -> Sequence[Standing]:
        """Return where students stand in a series of whose exams only some count."""
        rows = await self._pool.fetch(SERIES, series.exams, counted, series.best_of, students)
        return [_in_series(series, row) for row in rows]

    async def all_in_series(self, series: Series, counted: Sequence[str]) -> AsyncIterator[Sequence[Standing]]:
        """Yield where everybody stands in a series, in pages; each page is as fresh as its reading."""
        after = ""
        while True:
            rows = await self._pool.fetch(
                """
                SELECT DISTINCT s.student_id FROM unnest($1::text[]) AS one CROSS JOIN LATERAL (
                  SELECT student_id FROM standing WHERE exam_id = one AND student_id > $2 ORDER BY student_id LIMIT $3) AS s
                ORDER BY 1 LIMIT $3
                """,
                series.exams,
                after,
                PAGE,
            )
            if rows:
                yield await self.in_series(series, counted, [row["student_id"] for row in rows])
            if len(rows) < PAGE:
                return
            after = rows[-1]["student_id"]

    async def ranked_in_series(self, series: Series, counted: Sequence[str], cohort: str | None) -> Mapping[str, int]:
        """Return the sum of every placed student of a series' board."""
        rows = await self._pool.fetch(WHOLE_SERIES, series.exams, counted, series.best_of)
        return {
            row["student_id"]: row["order_key"]
            for row in rows
            if row["order_key"] is not None and (cohort is None or cohort in row["cohorts"])
        }

    async def show(self, count: int) -> Sequence[Standing]:
        """Show some of what is held though its board is not frozen, or no longer; returns where these students stand. They stay
        held, and are returned again, until the boards were `told`."""
        rows = await self._pool.fetch(
            f"""
            WITH hidden AS MATERIALIZED (
              SELECT exam_id, student_id FROM standing
              WHERE held AND exam_id = ANY (ARRAY(SELECT e.id FROM exam e WHERE NOT board_frozen(e)))
              ORDER BY exam_id, student_id LIMIT $1 FOR UPDATE SKIP LOCKED
            )
            UPDATE standing t SET held_key = t.order_key, version = t.version + (t.held_key IS DISTINCT FROM t.order_key)::int
            FROM hidden WHERE (t.exam_id, t.student_id) = (hidden.exam_id, hidden.student_id)
            RETURNING {STANDING}
            """,  # noqa: S608
            count,
        )
        return [standing_of(row) for row in rows]

    async def untold(self, exam: str, count: int) -> Sequence[Standing]:
        """Return students who are held though their true place is what the board shows: perhaps nobody has told it yet."""
        rows = await self._pool.fetch(
            f"""
            SELECT {STANDING} FROM standing t
            WHERE exam_id = $1 AND held AND held_key IS NOT DISTINCT FROM order_key ORDER BY student_id LIMIT $2
            """,  # noqa: S608
            *(exam, count),
        )
        return [standing_of(row) for row in rows]

    async def told(self, standings: Sequence[Standing]) -> None:
        """Hold these students no more, now that the boards have their true places; who has moved since is passed over."""
        await self._pool.execute(
            """
            UPDATE standing t SET held = false, held_key = NULL
            FROM unnest($1::text[], $2::text[], $3::int[]) AS x (exam_id, student_id, version)
            WHERE (t.exam_id, t.student_id, t.version) = (x.exam_id, x.student_id, x.version)
              AND t.held AND t.held_key IS NOT DISTINCT FROM t.order_key
            """,
            [standing.exam for standing in standings],
            [standing.student for standing in standings],
            [standing.version for standing in standings],
        )

    async def reveal(self, exam: str, actor: str) -> Standing | None:
        """Show one more student's true place on a frozen board, on record: of those who have moved the one who stands lowest on
        the board, those first who are not on it. Returns where they stand, or None when all are shown. They stay held until the
        boards were `told`."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(REVEALED, exam)
            if row is not None:
                await record(connection, actor, "leaderboard.reveal", exam, {"student": row["student_id"]})
        return standing_of(row) if row else None

    async def hidden(self, exam: str) -> int:
        """Return how many students' true place is not the one that the board shows."""
        found: int = await self._pool.fetchval(
            "SELECT count(*) FROM standing WHERE exam_id = $1 AND held AND held_key IS DISTINCT FROM order_key", exam
        )
        return found


def _in_series(series: Series, row: asyncpg.Record) -> Standing:
    return Standing(series.board, row["student_id"], row["alias"], tuple(row["cohorts"]), row["order_key"], row["version"])


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

"""Analyses: runs over an exam's answers and the pairs that they found, in PostgreSQL; and what a run reads."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import UUID

import asyncpg

from stores.case_records import Asked, Examined, Grouping, Options, Pair, Run, RunState, Shuffled, Sitting
from stores.catalog import ENDED, record
from stores.sessions import milliseconds, milliseconds_or_none

PAGE = 1_000
"""Results are read by so many: about a megabyte, some milliseconds of PostgreSQL's time."""

SESSIONS = 5_000
DEAD_SECONDS = 60
"""A run that has not been heard of for so long has died with its process."""

STEM = 200


class Analyses:
    """Runs, and what they read."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    # What a run reads

    async def exam(self, exam: str) -> Examined | None:
        """Return an exam; None: there is none, or it is a rehearsal's shadow."""
        row = await self._pool.fetchrow(
            f"SELECT title, version, coalesce({ENDED}, false) AS ended FROM exam WHERE id = $1 AND shadow_of IS NULL",  # noqa: S608
            exam,
        )
        return Examined(exam, row["title"], row["version"], row["ended"]) if row else None

    async def questions(self, exam: str, exam_version: int) -> Sequence[Asked]:
        """Return a paper's questions, in its order."""
        rows = await self._pool.fetch(
            """
            SELECT id, position, type, points, left(stem, $3) AS stem,
              ARRAY(SELECT one ->> 'id' FROM jsonb_array_elements(options) WITH ORDINALITY AS o (one, n) ORDER BY n) AS options
            FROM question WHERE exam_id = $1 AND exam_version = $2 ORDER BY position
            """,
            *(exam, exam_version, STEM),
        )
        return [Asked(row["id"], row["position"], row["type"], row["points"], row["stem"], tuple(row["options"])) for row in rows]

    async def shuffled(self, exam: str, exam_version: int) -> Shuffled:
        """Return what of a paper each session shows in an order of its own."""
        row = await self._pool.fetchrow(
            "SELECT shuffle_questions, shuffle_options FROM exam_paper WHERE exam_id = $1 AND exam_version = $2", exam, exam_version
        )
        return Shuffled(row["shuffle_questions"], row["shuffle_options"])

    async def marks(self, exam: str, exam_version: int) -> Mapping[int, int]:
        """Return how many points a point of a question earns where it is right, by version of the keys."""
        rows = await self._pool.fetch(
            "SELECT key_version, mark_correct FROM exam_key WHERE exam_id = $1 AND exam_version = $2", exam, exam_version
        )
        return {row["key_version"]: row["mark_correct"] for row in rows}

    async def sittings(self, exam: str, exam_version: int, count: int = PAGE) -> AsyncIterator[Sequence[Sitting]]:
        """Yield the results of one version of an exam by student and session, in pages; each page is as fresh as its reading."""
        student, session = "", UUID(int=0)
        while True:
            rows = await self._pool.fetch(
                """
                SELECT r.session_id, r.student_id, r.score, r.key_version, r.answers, r.points, s.cohorts
                FROM result r JOIN exam_session s ON s.id = r.session_id
                WHERE r.exam_id = $1 AND r.exam_version = $2 AND (r.student_id, r.session_id) > ($3, $4)
                ORDER BY r.student_id, r.session_id LIMIT $5
                """,
                *(exam, exam_version, student, session, count),
            )
            if rows:
                student, session = rows[-1]["student_id"], rows[-1]["session_id"]
                yield [sitting_of(row) for row in rows]
            if len(rows) < count:
                return

    async def left_out(self, exam: str, exam_version: int) -> tuple[int, int]:
        """Return how many results an exam has of other versions of its paper, and how many sessions without a result."""
        row = await self._pool.fetchrow(
            """
            SELECT count(*) FILTER (WHERE r.session_id IS NOT NULL AND r.exam_version <> $2)::int AS others,
              count(*) FILTER (WHERE r.session_id IS NULL)::int AS unscored
            FROM exam_session s LEFT JOIN result r ON r.session_id = s.id WHERE s.exam_id = $1
            """,
            *(exam, exam_version),
        )
        return row["others"], row["unscored"]

    async def addresses(self, sessions: Sequence[UUID]) -> Mapping[UUID, Sequence[str]]:
        """Return from which addresses sessions were reported on, as far as that is known."""
        found: dict[UUID, Sequence[str]] = {}
        for at in range(0, len(sessions), SESSIONS):
            rows = await self._pool.fetch(
                """
                SELECT session_id, array_agg(DISTINCT address) AS addresses FROM integrity_presence
                WHERE session_id = ANY ($1) AND address <> '' GROUP BY session_id
                """,
                sessions[at : at + SESSIONS],
            )
            found |= {row["session_id"]: row["addresses"] for row in rows}
        return found

    async def answers(self, sessions: Sequence[UUID]) -> Mapping[UUID, str]:
        """Return the frozen answers of sessions, as JSON."""
        rows = await self._pool.fetch("SELECT session_id, answers FROM result WHERE session_id = ANY ($1)", list(sessions))
        return {row["session_id"]: row["answers"] for row in rows}

    # Runs

    async def begin(self, exam: str, options: Options, actor: str) -> tuple[int, bool]:
        """Note that a run begins, on record, and return its version and whether it is new: while one goes on it is that one.

        One that nobody has heard of for a minute died with its process, and makes room.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                """
                UPDATE integrity_analysis SET state = 'FAILED', failure = $3, finished_at = now()
                WHERE exam_id = $1 AND state = 'RUNNING' AND alive_at < now() - make_interval(secs => $2)
                """,
                *(exam, DEAD_SECONDS, DIED),
            )
            version = await connection.fetchval(
                """
                INSERT INTO integrity_analysis (exam_id, version, options, requested_by)
                SELECT $1, coalesce(max(version), 0) + 1, $2, $3 FROM integrity_analysis WHERE exam_id = $1
                ON CONFLICT DO NOTHING RETURNING version
                """,
                *(exam, _packed(options), actor),
            )
            if version is not None:
                await record(connection, actor, "integrity.analyse", exam, {"version": version, **json.loads(_packed(options))})
                return version, True
        version = await self._pool.fetchval("SELECT max(version) FROM integrity_analysis WHERE exam_id = $1", exam)
        return version, False

    async def alive(self, exam: str, version: int) -> bool:
        """Note that a run goes on; False: it was given up for dead."""
        row = await self._pool.fetchval(
            """
            UPDATE integrity_analysis SET alive_at = now() WHERE exam_id = $1 AND version = $2 AND state = 'RUNNING'
            RETURNING version
            """,
            *(exam, version),
        )
        return row is not None

    async def finish(self, exam: str, version: int, figures: str, pairs: Sequence[Pair]) -> bool:
        """Keep what came of a run, the strongest pair first; False: it was given up for dead."""
        async with self._pool.acquire() as connection, connection.transaction():
            done = await connection.fetchval(
                """
                UPDATE integrity_analysis SET state = 'DONE', figures = $3, finished_at = now()
                WHERE exam_id = $1 AND version = $2 AND state = 'RUNNING' RETURNING version
                """,
                *(exam, version, figures),
            )
            if done is not None:
                rows = [(exam, version, place, *_row(pair)) for place, pair in enumerate(pairs, 1)]
                await connection.copy_records_to_table("integrity_pair", records=rows, columns=COLUMNS)
        return done is not None

    async def fail(self, exam: str, version: int, failure: str) -> None:
        """Note why a run came to nothing."""
        await self._pool.execute(
            """
            UPDATE integrity_analysis SET state = 'FAILED', failure = $3, finished_at = now()
            WHERE exam_id = $1 AND version = $2 AND state = 'RUNNING'
            """,
            *(exam, version, failure),
        )

    async def read(self, exam: str, version: int = 0, *, done: bool = False) -> Run | None:
        """Return a run, 0: the newest, or the newest that is done; None: there is none."""
        row = await self._pool.fetchrow(
            """
            SELECT *, state = 'RUNNING' AND alive_at < now() - make_interval(secs => $4) AS dead FROM integrity_analysis
            WHERE exam_id = $1 AND ($2 = 0 OR version = $2) AND (NOT $3 OR state = 'DONE') ORDER BY version DESC LIMIT 1
            """,
            *(exam, version, done, DEAD_SECONDS),
        )
        return _run(row) if row else None

    async def pairs(self, exam: str, version: int, after: int, count: int, *, flagged: bool) -> Sequence[tuple[int, Pair]]:
        """Return a run's pairs with their places, by strength; `after` is the place of the last of the page before."""
        rows = await self._pool.fetch(
            """
            SELECT * FROM integrity_pair WHERE exam_id = $1 AND version = $2 AND place > $3 AND (flagged OR NOT $5)
            ORDER BY place LIMIT $4
            """,
            *(exam, version, after, count, flagged),
        )
        return [(row["place"], _pair(row)) for row in rows]

    async def pairs_among(self, exam: str, version: int, sessions: Sequence[UUID]) -> Sequence[Pair]:
        """Return a run's pairs of which both are among these sessions, by strength."""
        rows = await self._pool.fetch(
            """
            SELECT * FROM integrity_pair
            WHERE exam_id = $1 AND version = $2 AND session_a = ANY ($3) AND session_b = ANY ($3) ORDER BY place
            """,
            *(exam, version, list(sessions)),
        )
        return [_pair(row) for row in rows]


DIED = "The process that made it has died. Ask for it again."
COLUMNS = [
    *("exam_id", "version", "place", "index", "session_a", "session_b", "student_a", "student_b", "source", "value", "p", "q"),
    *("flagged", "matches", "expected", "compared", "shared_wrong", "shared_blank", "groups"),
]


def _row(pair: Pair) -> tuple[object, ...]:
    """Return a pair in the order of the table's columns."""
    return (
        *(pair.index, *pair.sessions, *pair.students, pair.source, pair.value, pair.p, pair.q, pair.flagged, pair.matches),
        *(pair.expected, pair.compared, pair.shared_wrong, pair.shared_blank, list(pair.groups)),
    )


def _pair(row: asyncpg.Record) -> Pair:
    return Pair(
        index=row["index"],
        sessions=(row["session_a"], row["session_b"]),
        students=(row["student_a"], row["student_b"]),
        source=row["source"],
        value=row["value"],
        p=row["p"],
        q=row["q"],
        flagged=row["flagged"],
        matches=row["matches"],
        expected=row["expected"],
        compared=row["compared"],
        shared_wrong=row["shared_wrong"],
        shared_blank=row["shared_blank"],
        groups=tuple(row["groups"]),
    )


def sitting_of(row: asyncpg.Record) -> Sitting:
    """Read a result with its session's cohorts."""
    return Sitting(
        session=row["session_id"],
        student=row["student_id"],
        score=row["score"],
        key_version=row["key_version"],
        answers=row["answers"],
        points=tuple(row["points"]),
        cohorts=tuple(row["cohorts"]),
    )


def _packed(options: Options) -> str:
    return json.dumps({"groupings": options.groupings, "fdr": options.fdr, "strongest": options.strongest})


def _run(row: asyncpg.Record) -> Run:
    options = json.loads(row["options"])
    return Run(
        exam=row["exam_id"],
        version=row["version"],
        state=RunState.FAILED if row["dead"] else RunState(row["state"]),
        options=Options(tuple(map(Grouping, options["groupings"])), options["fdr"], options["strongest"]),
        failure=DIED if row["dead"] else row["failure"],
        requested_by=row["requested_by"],
        started_ms=milliseconds(row["started_at"]),
        finished_ms=milliseconds_or_none(row["finished_at"]),
        figures=row["figures"],
    )

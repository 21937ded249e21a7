"""Cases: what people look into and what they made of it, in PostgreSQL; and what is gathered when one is opened."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import asyncpg

from stores.analyses import sitting_of
from stores.case_records import Around, Case, CaseState, Moved, Noted, Party, Seen, Step, WholeCase
from stores.catalog import record
from stores.sessions import milliseconds, milliseconds_or_none, moment
from stores.signal_records import Count, Counted, Kind

MOST_SIGNALS = 500
"""Signals of a session that a case keeps one by one."""

OF_STUDENT = "SELECT pg_advisory_xact_lock(hashtextextended('signals/' || $1, 0))"
"""Held by whoever erases a student's signals, and by whoever keeps them in a case: one comes after the other, and sees it."""

AGO = "coalesce((details ->> 'agoMs')::bigint, 0) * interval '1 millisecond'"
"""SQL: how long before its report a signal was, as its client says; nothing where it does not say."""


class Cases:
    """Cases, and what they are made of."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    # What is gathered

    async def now(self) -> int:
        """Return PostgreSQL's time, in ms, never later than it is: what is erased from now on is after it."""
        return milliseconds(await self._pool.fetchval("SELECT date_trunc('milliseconds', clock_timestamp())"))

    async def around(self, exam: str, sessions: Sequence[UUID]) -> Sequence[tuple[UUID, Around | None]]:
        """Return the sessions that are of this exam, each with its result as it is now; None: it has none yet."""
        rows = await self._pool.fetch(
            """
            SELECT s.id, s.student_id, s.exam_version, s.alias, s.attempt, s.cohorts, s.started_at, s.submitted_at,
              r.session_id, r.score, r.max_score, r.key_version, r.answers, r.points
            FROM exam_session s LEFT JOIN result r ON r.session_id = s.id
            WHERE s.exam_id = $1 AND s.id = ANY ($2) ORDER BY s.id
            """,
            *(exam, list(sessions)),
        )
        return [(row["id"], _around(row) if row["session_id"] is not None else None) for row in rows]

    async def counts(self, sessions: Sequence[UUID]) -> Mapping[UUID, Counted]:
        """Return all counts of sessions; who has none has no row."""
        rows = await self._pool.fetch(
            """
            SELECT s.id, s.student_id, s.alias, c.kind, c.count, c.amount, c.peak, c.last_at
            FROM integrity_count c JOIN exam_session s ON s.id = c.session_id
            WHERE c.session_id = ANY ($1) AND c.last_at IS NOT NULL ORDER BY s.id, c.kind
            """,
            list(sessions),
        )
        return {one.session: one for one in counted(rows)}

    async def seen(self, sessions: Sequence[UUID], most: int = MOST_SIGNALS) -> Mapping[UUID, Seen]:
        """Return what was kept of each session one by one, in the order in which it happened.

        It was as long before its report as the client says, by a clock of its own; where it does not say, or says that it was
        before the session's start, when the report came.
        """
        rows = await self._pool.fetch(
            f"""
            SELECT * FROM (
              SELECT session_id, kind, amount, at, received_at, details - 'agoMs' AS details, row_number() OVER w AS number,
                count(*) OVER (PARTITION BY session_id) AS total
              FROM (
                SELECT i.*, CASE WHEN i.received_at - a.ago >= s.started_at THEN i.received_at - a.ago ELSE i.received_at END AS at
                FROM integrity_signal i JOIN exam_session s ON s.id = i.session_id,
                  LATERAL (SELECT {AGO} AS ago) AS a
                WHERE i.session_id = ANY ($1)
              ) AS timed
              WINDOW w AS (PARTITION BY session_id ORDER BY at, received_at, client_at, id)
            ) AS numbered WHERE number <= $2 ORDER BY session_id, number
            """,  # noqa: S608
            *(list(sessions), most),
        )
        places = await self._pool.fetch(
            """
            SELECT session_id, count(DISTINCT device_id) FILTER (WHERE device_id <> '')::int AS devices,
              count(DISTINCT address) FILTER (WHERE address <> '')::int AS addresses
            FROM integrity_presence WHERE session_id = ANY ($1) GROUP BY session_id
            """,
            list(sessions),
        )
        found: dict[UUID, list[asyncpg.Record]] = {session: [] for session in sessions}
        for row in rows:
            found[row["session_id"]].append(row)
        known = {row["session_id"]: (row["devices"], row["addresses"]) for row in places}
        return {session: _seen(of, known.get(session, (0, 0))) for session, of in found.items()}

    # Cases

    async def open(
        self, exam: str, parties: Sequence[Party], evidence: str, taken_ms: int, actor: str, note: str
    ) -> tuple[UUID, bool]:
        """Open a case on record, and return its id and whether it is new: the same sessions have one. What was erased of a student
        since `taken_ms` is not kept."""
        async with self._pool.acquire() as connection, connection.transaction():
            for student in sorted({party.student for party in parties}):
                await connection.execute(OF_STUDENT, student)
            sessions = sorted(party.session for party in parties)
            case = await connection.fetchval(
                """
                INSERT INTO integrity_case (exam_id, sessions, opened_by, evidence) VALUES ($1, $2, $3, $4)
                ON CONFLICT (exam_id, sessions) DO NOTHING RETURNING id
                """,
                *(exam, sessions, actor, evidence),
            )
            if case is not None:
                await _keep(connection, case, parties, taken_ms, actor, note)
                details = {"case": str(case), "sessions": [str(session) for session in sessions]}
                await record(connection, actor, "integrity.case.open", exam, details)
                return case, True
        before = await self.known(exam, sessions)
        assert before is not None, "it was in the way"
        return before, False

    async def known(self, exam: str, sessions: Sequence[UUID]) -> UUID | None:
        """Return the case that there is for exactly these sessions."""
        found: UUID | None = await self._pool.fetchval(
            "SELECT id FROM integrity_case WHERE exam_id = $1 AND sessions = $2", exam, sorted(sessions)
        )
        return found

    async def move(self, case: UUID, revision: int, to: CaseState, actor: str, note: str, allowed: Sequence[CaseState]) -> Moved:
        """Make a step on what the caller saw, on record: only from that revision, and only from the states that may lead there.

        The same step by the same person made once more changes nothing.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(
                """
                WITH seen AS (SELECT id, state FROM integrity_case WHERE id = $1 AND revision = $2 AND state = ANY ($4) FOR UPDATE)
                UPDATE integrity_case c SET state = $3, revision = c.revision + 1, moved_at = now() FROM seen WHERE c.id = seen.id
                RETURNING seen.state AS before, c.exam_id
                """,
                *(case, revision, to, list(allowed)),
            )
            if row is not None:
                await connection.execute(
                    """
                    INSERT INTO integrity_case_step (case_id, revision, from_state, to_state, actor, note)
                    VALUES ($1, $2, $3, $4, $5, $6)
                    """,
                    *(case, revision + 1, row["before"], to, actor, note),
                )
                details = {"case": str(case), "from": row["before"], "to": to}
                await record(connection, actor, "integrity.case.move", row["exam_id"], details)
                return Moved.MOVED
        found = await self._pool.fetchval(
            """
            SELECT EXISTS (SELECT FROM integrity_case_step s
                           WHERE s.case_id = c.id AND (s.revision - 1, s.to_state, s.actor, s.note) = ($2, $3, $4, $5))
            FROM integrity_case c WHERE id = $1
            """,
            *(case, revision, to, actor, note),
        )
        return {True: Moved.REPEATED, False: Moved.ELSEWHERE}.get(found, Moved.UNKNOWN)

    async def read(self, case: UUID) -> WholeCase | None:
        """Return a case with all that is kept of it."""
        row = await self._pool.fetchrow(f"{CASES.format('s.seen::text')} WHERE c.id = $1 GROUP BY c.id", case)
        if row is None:
            return None
        steps = await self._pool.fetch(
            "SELECT * FROM integrity_case_step WHERE case_id = $1 AND revision <= $2 ORDER BY revision", case, row["revision"]
        )
        evidence = await self._pool.fetchval("SELECT evidence::text FROM integrity_case WHERE id = $1", case)
        return WholeCase(_case(row), tuple(map(_step, steps)), evidence)

    async def page(self, exam: str, student: str, after: UUID | None, count: int) -> Sequence[Case]:
        """Return cases, the newest first, of an exam and a student or of all (''), without what was kept one by one."""
        rows = await self._pool.fetch(
            f"""
            {CASES.format("NULL::text")}
            WHERE ($1 = '' OR c.exam_id = $1) AND ($3::uuid IS NULL OR c.id < $3) AND ($2 = '' OR EXISTS (
              SELECT FROM integrity_case_student o WHERE o.case_id = c.id AND o.student_id = $2))
            GROUP BY c.id ORDER BY c.id DESC LIMIT $4
            """,
            *(exam, student, after, count),
        )
        return [_case(row) for row in rows]

    async def exported(self, case: UUID, actor: str) -> None:
        """Put on record that somebody took a case away."""
        async with self._pool.acquire() as connection:
            await record(connection, actor, "integrity.case.export", str(case))


CASES = """
  SELECT c.id, c.exam_id, c.state, c.revision, c.opened_by, c.opened_at, c.moved_at,
    array_agg(s.session_id ORDER BY s.place) AS sessions, array_agg(s.student_id ORDER BY s.place) AS students,
    array_agg({} ORDER BY s.place) AS seen, array_agg(s.erased_at ORDER BY s.place) AS erased
  FROM integrity_case c JOIN integrity_case_student s ON s.case_id = c.id
"""


async def _keep(connection: asyncpg.Connection, case: UUID, parties: Sequence[Party], taken_ms: int, actor: str, note: str) -> None:
    """Keep whom a new case is about, and its first step."""
    await connection.execute(
        """
        INSERT INTO integrity_case_student (case_id, place, session_id, student_id, seen, erased_at)
        SELECT $1, n.place, n.session, n.student, CASE WHEN e.session_id IS NULL THEN n.seen::jsonb END, e.erased_at
        FROM unnest($2::uuid[], $3::text[], $4::text[]) WITH ORDINALITY AS n (session, student, seen, place)
          LEFT JOIN integrity_erased e ON e.session_id = n.session AND e.erased_at >= $5
        """,
        case,
        [party.session for party in parties],
        [party.student for party in parties],
        [party.seen for party in parties],
        moment(taken_ms),
    )
    await connection.execute(
        "INSERT INTO integrity_case_step (case_id, revision, to_state, actor, note) VALUES ($1, 1, 'OPEN', $2, $3)",
        case,
        actor,
        note,
    )


def _case(row: asyncpg.Record) -> Case:
    parties = zip(row["sessions"], row["students"], row["seen"], row["erased"], strict=True)
    return Case(
        id=row["id"],
        exam=row["exam_id"],
        state=CaseState(row["state"]),
        revision=row["revision"],
        opened_by=row["opened_by"],
        opened_ms=milliseconds(row["opened_at"]),
        moved_ms=milliseconds(row["moved_at"]),
        parties=tuple(Party(session, student, seen, milliseconds_or_none(erased)) for session, student, seen, erased in parties),
    )


def _step(row: asyncpg.Record) -> Step:
    before = CaseState(row["from_state"]) if row["from_state"] is not None else None
    return Step(before, CaseState(row["to_state"]), row["actor"], row["note"], milliseconds(row["at"]))


def _around(row: asyncpg.Record) -> Around:
    return Around(
        sitting=sitting_of(row),
        exam_version=row["exam_version"],
        alias=row["alias"],
        attempt=row["attempt"],
        max_score=row["max_score"],
        started_ms=milliseconds(row["started_at"]),
        submitted_ms=milliseconds_or_none(row["submitted_at"]),
    )


def counted(rows: Sequence[asyncpg.Record]) -> Sequence[Counted]:
    """Gather counts by their session, in the rows' order."""
    found: dict[UUID, list[asyncpg.Record]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    return [Counted(session, of[0]["student_id"], of[0]["alias"], tuple(map(_count, of))) for session, of in found.items()]


def _count(row: asyncpg.Record) -> Count:
    return Count(Kind(row["kind"]), row["count"], row["amount"], row["peak"], milliseconds(row["last_at"]))


def _seen(rows: Sequence[asyncpg.Record], places: tuple[int, int]) -> Seen:
    signals = tuple(
        Noted(milliseconds(row["at"]), milliseconds(row["received_at"]), row["kind"], row["amount"], row["details"]) for row in rows
    )
    return Seen(signals, rows[0]["total"] if rows else 0, *places)

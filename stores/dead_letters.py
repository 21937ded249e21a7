"""DeadLetters: submits that could not be scored, kept in PostgreSQL until an operator has dealt with them.

A letter waits while it is neither replayed nor discarded and its session has no result. Replaying gives the event to the
nets as a `submission` row, in the same transaction: at no moment are the frozen answers in no place that a restore reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from stores.catalog import record
from stores.sessions import milliseconds

WAITS = """
  d.replayed_at IS NULL AND (d.session_id IS NULL OR NOT EXISTS (SELECT FROM result r WHERE r.session_id = d.session_id))
"""
LETTER = """
  SELECT d.id, d.session_id, d.subject, d.event, d.error, d.created_at, s.exam_id, s.student_id
  FROM dead_letter d LEFT JOIN exam_session s ON s.id = d.session_id
"""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One submit that could not be scored; `session` None: nobody knows whose it is. Exam and student only where
    PostgreSQL knows the session."""

    id: int
    session: UUID | None
    subject: str
    event: bytes
    error: str
    created_ms: int
    exam: str | None
    student: str | None


class DeadLetters:
    """The table `dead_letter`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def bury(self, session: UUID | None, subject: str, event: bytes, error: str) -> None:
        """Keep a submit that cannot be scored, once, until an operator has looked at it; a row of `submission` goes with it.

        The row is found by its key, since subjects have no index and a long backlog may wait there; only where nobody knows the
        session are all rows looked at. It has the subject too: a damaged event must not take another session's row away.
        """
        row = "subject = $2" if session is None else "session_id = $1 AND subject = $2"
        await self._pool.execute(
            f"""
            WITH moved AS (DELETE FROM submission WHERE {row})
            INSERT INTO dead_letter (session_id, subject, event, error) VALUES ($1, $2, $3, $4)
            ON CONFLICT (subject) WHERE replayed_at IS NULL DO UPDATE SET error = excluded.error
            """,  # noqa: S608
            *(session, subject, event, error),
        )

    async def events(self, sessions: Sequence[UUID]) -> Mapping[UUID, tuple[bytes, bool]]:
        """Return the newest letter of sessions: its event, and whether it waits. One that is replayed is no loss of its
        event: it is on its way back, and a restore that finds it nowhere else finds it here."""
        rows = await self._pool.fetch(
            """
            SELECT DISTINCT ON (session_id) session_id, event, replayed_at IS NULL AS waits FROM dead_letter
            WHERE session_id = ANY ($1) AND NOT discarded ORDER BY session_id, id DESC
            """,
            list(sessions),
        )
        return {row["session_id"]: (row["event"], row["waits"]) for row in rows}

    async def count(self) -> int:
        """Return how many letters wait for an operator."""
        count: int = await self._pool.fetchval(f"SELECT count(*) FROM dead_letter d WHERE {WAITS}")  # noqa: S608
        return count

    async def page(self, after: int, count: int) -> Sequence[DeadLetter]:
        """Return letters that wait, oldest first, from the one after `after`."""
        rows = await self._pool.fetch(f"{LETTER} WHERE d.id > $1 AND {WAITS} ORDER BY d.id LIMIT $2", after, count)
        return [_letter(row) for row in rows]

    async def read(self, letter: int) -> DeadLetter | None:
        """Return a letter that waits; None: there is none of that number, or it waits no more."""
        row = await self._pool.fetchrow(f"{LETTER} WHERE d.id = $1 AND {WAITS}", letter)
        return _letter(row) if row else None

    async def replay(self, letter: DeadLetter, actor: str, *, with_event: bool) -> bool:
        """Give a letter's event back to the nets, or, without it, only note that its session is looked at again; False
        when somebody else has dealt with it meanwhile."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await _settle(connection, letter.id, discarded=False):
                return False
            if with_event:
                await connection.execute(
                    "INSERT INTO submission (session_id, subject, event) VALUES ($1, $2, $3) ON CONFLICT (session_id) DO NOTHING",
                    *(letter.session, letter.subject, letter.event),
                )
            await record(connection, actor, "deadletter.replay", letter.subject, {"letter": letter.id, "error": letter.error})
        return True

    async def discard(self, letter: DeadLetter, actor: str, reason: str) -> bool:
        """Lay a letter down for good; the row stays. False when somebody else has dealt with it meanwhile."""
        async with self._pool.acquire() as connection, connection.transaction():
            if not await _settle(connection, letter.id, discarded=True):
                return False
            details = {"letter": letter.id, "error": letter.error, "reason": reason}
            await record(connection, actor, "deadletter.discard", letter.subject, details)
        return True


async def _settle(connection: asyncpg.Connection, letter: int, *, discarded: bool) -> bool:
    done = await connection.execute(
        "UPDATE dead_letter SET replayed_at = now(), discarded = $2 WHERE id = $1 AND replayed_at IS NULL", letter, discarded
    )
    return bool(done == "UPDATE 1")


def _letter(row: asyncpg.Record) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        session=row["session_id"],
        subject=row["subject"],
        event=row["event"],
        error=row["error"],
        created_ms=milliseconds(row["created_at"]),
        exam=row["exam_id"],
        student=row["student_id"],
    )

"""The outbox: webhooks that wait, are held back, were lost or delivered, and what was answered to each."""

import asyncio
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ops.sandbox.database import transaction
from ops.sandbox.records import Next

REST_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 600, 600, 600, 600, 600)
"""How long it waits after each try that failed; after the last one it gives up. That is more than an hour."""


@dataclass(frozen=True, slots=True)
class Sending:
    """One webhook on its way."""

    number: int
    event: str
    body: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one try; `status` None: no answer, and `answer` says why."""

    at_ms: int
    took_ms: int
    status: int | None
    answer: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A sending with all its tries."""

    state: str
    due_ms: int
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True)
class Happened:
    """One event of a checkout, and each time that it was sent."""

    id: str
    kind: str
    subject: str
    amount: int
    body: str
    created_ms: int
    sendings: Sequence[Sent]


class Outbox:
    """Keeps webhooks until they are delivered: at least once, in no order that anybody could count on."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.news = asyncio.Event()

    def wake(self) -> None:
        """Tell whoever sends that there may be something to send."""
        self.news.set()

    def put(self, event: int, chosen: Next, now_ms: int) -> None:
        """Have an event sent, or not, or twice; in the caller's transaction."""
        state = {Next.LOSE: "lost", Next.HOLD: "held"}.get(chosen, "waiting")
        for _ in range(2 if chosen is Next.TWICE else 1):
            self._put(event, state, now_ms)

    def _put(self, event: int, state: str, now_ms: int, after: int | None = None) -> int:
        return int(
            self._db.execute(
                "INSERT INTO sending (event, state, due_ms, after) VALUES (?, ?, ?, ?)", (event, state, now_ms, after)
            ).lastrowid
            or 0
        )

    def again(self, checkout: str, event: str, now_ms: int) -> bool:
        """Send an event of a checkout again; False: there is none of that name."""
        with transaction(self._db):
            row = self._db.execute("SELECT number FROM event WHERE checkout = ? AND id = ?", (checkout, event)).fetchone()
            if row is not None:
                self._put(row["number"], "waiting", now_ms)
        self.wake()
        return row is not None

    def all_again(self, checkout: str, now_ms: int) -> None:
        """Send all events of a checkout again, the newest first, each when the one before it was tried."""
        with transaction(self._db):
            after: int | None = None
            for row in self._db.execute("SELECT number FROM event WHERE checkout = ? ORDER BY number DESC", (checkout,)).fetchall():
                after = self._put(row["number"], "waiting", now_ms, after)
        self.wake()

    def release(self, checkout: str, now_ms: int) -> None:
        """Send what is held back of a checkout, the newest first, each when the one before it was tried."""
        with transaction(self._db):
            after: int | None = None
            for row in self._db.execute(
                """
                SELECT s.number FROM sending s JOIN event e ON e.number = s.event
                WHERE e.checkout = ? AND s.state = 'held' ORDER BY e.number DESC
                """,
                (checkout,),
            ).fetchall():
                self._db.execute(
                    "UPDATE sending SET state = 'waiting', due_ms = ?, after = ? WHERE number = ?", (now_ms, after, row["number"])
                )
                after = row["number"]
        self.wake()

    # What is due

    def due(self, now_ms: int, count: int, under_way: Collection[int]) -> Sequence[Sending]:
        """Return webhooks to be sent now, the oldest first, without those that are being sent."""
        rows = self._db.execute(
            """
            SELECT s.number, e.id, e.body
            FROM sending s JOIN event e ON e.number = s.event LEFT JOIN sending b ON b.number = s.after
            WHERE s.state = 'waiting' AND s.due_ms <= ? AND (b.number IS NULL OR b.attempts > 0 OR b.state <> 'waiting')
            ORDER BY s.due_ms, s.number LIMIT ?
            """,
            (now_ms, count + len(under_way)),
        ).fetchall()
        free = [Sending(row["number"], row["id"], row["body"]) for row in rows if row["number"] not in under_way]
        return free[:count]

    def next_due_ms(self, now_ms: int) -> int | None:
        """Return when the next webhook after those that are due is due."""
        found = self._db.execute("SELECT min(due_ms) FROM sending WHERE state = 'waiting' AND due_ms > ?", (now_ms,)).fetchone()[0]
        return None if found is None else int(found)

    def tried(self, sending: int, attempt: Attempt) -> None:
        """Note what came of a try: delivered, to be tried again, or given up."""
        delivered = attempt.status is not None and 200 <= attempt.status < 300
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO attempt VALUES (?, ?, ?, ?, ?)",
                (sending, attempt.at_ms, attempt.took_ms, attempt.status, attempt.answer),
            )
            made = self._db.execute("SELECT attempts FROM sending WHERE number = ?", (sending,)).fetchone()["attempts"]
            over = made >= len(REST_SECONDS)
            state = "delivered" if delivered else "given up" if over else "waiting"
            rest_ms = 0 if delivered or over else REST_SECONDS[made] * 1000
            self._db.execute(
                "UPDATE sending SET state = ?, attempts = attempts + 1, due_ms = ? WHERE number = ?",
                (state, attempt.at_ms + attempt.took_ms + rest_ms, sending),
            )

    # What is known

    def untried(self, checkout: str) -> bool:
        """Whether something of a checkout waits for its first try."""
        found = self._db.execute(
            """
            SELECT 1 FROM sending s JOIN event e ON e.number = s.event
            WHERE e.checkout = ? AND s.state = 'waiting' AND s.attempts = 0 LIMIT 1
            """,
            (checkout,),
        ).fetchone()
        return found is not None

    def held(self, checkout: str) -> int:
        """Return how many webhooks of a checkout are held back."""
        found = self._db.execute(
            "SELECT count(*) FROM sending s JOIN event e ON e.number = s.event WHERE e.checkout = ? AND s.state = 'held'",
            (checkout,),
        ).fetchone()[0]
        return int(found)

    def happened(self, checkout: str) -> Sequence[Happened]:
        """Return the events of a checkout, the oldest first, with what was answered."""
        rows = self._db.execute("SELECT * FROM event WHERE checkout = ? ORDER BY number", (checkout,)).fetchall()
        return [
            Happened(
                **{name: row[name] for name in ("id", "kind", "subject", "amount", "body", "created_ms")},
                sendings=self._sendings(row["number"]),
            )
            for row in rows
        ]

    def _sendings(self, event: int) -> Sequence[Sent]:
        rows = self._db.execute("SELECT number, state, due_ms FROM sending WHERE event = ? ORDER BY number", (event,)).fetchall()
        return [Sent(row["state"], row["due_ms"], self._attempts(row["number"])) for row in rows]

    def _attempts(self, sending: int) -> Sequence[Attempt]:
        rows = self._db.execute(
            "SELECT at_ms, took_ms, status, answer FROM attempt WHERE sending = ? ORDER BY rowid", (sending,)
        ).fetchall()
        return [Attempt(**row) for row in rows]

"""The till: checkouts, what happens to them, and the events that tell of it. One transaction per thing that happens."""

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from ops.sandbox.database import transaction
from ops.sandbox.outbox import Outbox
from ops.sandbox.records import Act, Checkout, Dispute, Next, Refund, Status, Wanted, possible

PAGE = 100
Json = dict[str, object]


class Unknown(Exception):
    """There is no such thing here."""


class NotNow(Exception):
    """This cannot happen to the checkout as it is; the message says why."""


class KeyReused(Exception):
    """The shop's key has asked for something else."""


class Till:
    """What the gateway does. Its methods are quick, and one at a time."""

    def __init__(self, connection: sqlite3.Connection, outbox: Outbox, now_ms: Callable[[], int]) -> None:
        self._db = connection
        self._outbox = outbox
        self._now_ms = now_ms

    # What a shop asks

    def open(self, wanted: Wanted, key: str) -> Checkout:
        """Open a checkout, once for each key; raises KeyReused, and NotNow when it would be over already."""

        def make() -> str:
            now = self._now_ms()
            if wanted.expires_ms <= now:
                raise NotNow("it would be over already")
            name = _name("co")
            self._db.execute(
                """
                INSERT INTO checkout (id, order_ref, student, title, description, amount, currency, return_url, expires_ms,
                  status, payment, created_ms, next)
                VALUES (:id, :order, :student, :title, :description, :amount, :currency, :return_url, :expires_ms,
                  'open', NULL, :now, 'send')
                """,
                {"id": name, "now": now, **asdict(wanted)},
            )
            return name

        with self._changing():
            return self._read(self._once(key, ["open", asdict(wanted)], make))

    def refund(self, checkout: str, amount: int, key: str) -> Refund:
        """Give so much back, once for each key; raises KeyReused, NotNow and Unknown."""
        with self._changing():
            name = self._once(key, ["refund", checkout, amount], lambda: self._happen(checkout, Act.REFUND, amount))
            return next(one for one in self._read(checkout).refunds if one.id == name)

    def expire(self, checkout: str) -> Checkout:
        """Take no money for a checkout any more, where it is open; returns it as it is then; raises Unknown."""
        with self._changing():
            if self._read(checkout).status is Status.OPEN:
                self._happen(checkout, Act.EXPIRE)
            return self._read(checkout)

    # What happens

    def act(self, checkout: str, act: Act, amount: int | None = None) -> Checkout:
        """Let something happen; `amount` is for refunds, and all that is left where it is not given. Raises NotNow and Unknown."""
        with self._changing():
            self._happen(checkout, act, amount)
            return self._read(checkout)

    def set_next(self, checkout: str, chosen: Next) -> Checkout:
        """Choose what becomes of the webhooks of what happens next; raises Unknown."""
        with self._changing():
            self._db.execute("UPDATE checkout SET next = ? WHERE id = ?", (chosen, checkout))
            return self._read(checkout)

    def overdue(self) -> None:
        """Expire the checkouts whose time is over."""
        with self._changing():
            return

    def next_end_ms(self) -> int | None:
        """Return when the next checkout's time is over; None: none is open."""
        found = self._db.execute("SELECT min(expires_ms) FROM checkout WHERE status = 'open'").fetchone()[0]
        return None if found is None else int(found)

    # What is known

    def read(self, checkout: str) -> Checkout:
        """Return a checkout; raises Unknown."""
        return self._read(checkout)

    def of(self, order: str) -> Sequence[Checkout]:
        """Return the checkouts of the shop's order, the oldest first."""
        rows = self._db.execute("SELECT id FROM checkout WHERE order_ref = ? ORDER BY rowid", (order,)).fetchall()
        return [self._read(row["id"]) for row in rows]

    def newest(self, count: int) -> Sequence[Checkout]:
        """Return the newest checkouts."""
        rows = self._db.execute("SELECT id FROM checkout ORDER BY rowid DESC LIMIT ?", (count,)).fetchall()
        return [self._read(row["id"]) for row in rows]

    def events(self, order: str, since_ms: int, after: str) -> tuple[Sequence[Json], bool]:
        """Return what has happened since then, the oldest first and a page at a time, and whether there is more.

        `order` is one order's; empty: all. `after` is the id of the last event that is known; empty: from the first on.
        """
        rows = self._db.execute(
            """
            SELECT body FROM event WHERE created_ms >= :since
              AND (:order = '' OR checkout IN (SELECT id FROM checkout WHERE order_ref = :order))
              AND number > coalesce((SELECT number FROM event WHERE id = :after), 0)
            ORDER BY number LIMIT :count
            """,
            {"since": since_ms, "order": order, "after": after, "count": PAGE + 1},
        ).fetchall()
        return [json.loads(row["body"]) for row in rows[:PAGE]], len(rows) > PAGE

    @property
    def page_secret(self) -> str:
        """What the page's tokens are made with."""
        return str(self._db.execute("SELECT value FROM secret WHERE name = 'page'").fetchone()[0])

    # How it is done

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One transaction, before which the checkouts are ended whose time is over; that stays, whatever becomes of the rest."""
        try:
            with transaction(self._db):
                over = self._db.execute("SELECT id FROM checkout WHERE status = 'open' AND expires_ms <= ?", (self._now_ms(),))
                for row in over.fetchall():
                    self._happen(row["id"], Act.EXPIRE)
            with transaction(self._db):
                yield
        finally:
            self._outbox.wake()

    def _once(self, key: str, asked: object, do: Callable[[], str]) -> str:
        """Do what a key asks for the first time, and return what it gave; what is refused may be asked again."""
        said = json.dumps(asked, sort_keys=True)
        known = self._db.execute("SELECT asked, answer FROM answered WHERE key = ?", (key,)).fetchone()
        if known is None:
            answer = do()
            self._db.execute("INSERT INTO answered VALUES (?, ?, ?)", (key, said, answer))
            return answer
        if known["asked"] != said:
            raise KeyReused
        return str(known["answer"])

    def _happen(self, name: str, act: Act, amount: int | None = None) -> str:
        """Let something happen, tell of it, and return the name of what it is about."""
        checkout = self._read(name)
        if act not in possible(checkout):
            raise NotNow(f"{act} cannot happen to a checkout that is {checkout.status}")
        whole, payment = checkout.wanted.amount, checkout.payment or _name("pay")
        match act:
            case Act.PAY | Act.ARRIVE:
                return self._settle(checkout, Status.PAID, "payment.succeeded", payment)
            case Act.FAIL | Act.BOUNCE:
                return self._settle(checkout, Status.FAILED, "payment.failed", payment)
            case Act.TRANSFER:
                return self._settle(checkout, Status.PROCESSING, "payment.processing", payment)
            case Act.CANCEL | Act.EXPIRE:
                self._db.execute("UPDATE checkout SET status = 'expired' WHERE id = ?", (name,))
                return self._tell(name, "checkout.expired", name, whole)
            case Act.DECLINE:
                return self._tell(name, "payment.declined", payment, whole)
            case Act.REFUND:
                back = checkout.left if amount is None else amount
                if not 0 < back <= checkout.left:
                    raise NotNow(f"{back} cannot be given back, {checkout.left} is left")
                refund = _name("ref")
                self._db.execute("INSERT INTO refund VALUES (?, ?, ?)", (refund, name, back))
                return self._tell(name, "refund.succeeded", refund, back)
            case Act.DISPUTE:
                dispute = _name("dis")
                self._db.execute("INSERT INTO dispute VALUES (?, ?, ?, 'open')", (dispute, name, checkout.left))
                return self._tell(name, "dispute.opened", dispute, checkout.left)
            case Act.WIN | Act.LOSE:
                return self._decide(checkout, "won" if act is Act.WIN else "lost")

    def _settle(self, checkout: Checkout, status: Status, kind: str, payment: str) -> str:
        self._db.execute("UPDATE checkout SET status = ?, payment = ? WHERE id = ?", (status, payment, checkout.id))
        return self._tell(checkout.id, kind, payment, checkout.wanted.amount)

    def _decide(self, checkout: Checkout, status: str) -> str:
        if checkout.disputed is None:
            raise NotNow("no dispute is open")
        self._db.execute("UPDATE dispute SET status = ? WHERE id = ?", (status, checkout.disputed.id))
        return self._tell(checkout.id, f"dispute.{status}", checkout.disputed.id, checkout.disputed.amount)

    def _tell(self, name: str, kind: str, subject: str, amount: int) -> str:
        """Note an event, with the checkout as it is now, and give its webhook to the outbox."""
        checkout, event, now = self._read(name), _name("evt"), self._now_ms()
        body = {
            "id": event,
            "kind": kind,
            "created_ms": now,
            "live": False,
            "subject": {"id": subject, "amount": amount},
            "checkout": {
                "id": name,
                "order": checkout.wanted.order,
                "student": checkout.wanted.student,
                "amount": checkout.wanted.amount,
                "currency": checkout.wanted.currency,
                "status": checkout.status,
            },
        }
        number = self._db.execute(
            "INSERT INTO event (id, checkout, kind, subject, amount, body, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (event, name, kind, subject, amount, json.dumps(body, ensure_ascii=False), now),
        ).lastrowid
        self._outbox.put(int(number or 0), checkout.next, now)
        return subject

    def _read(self, name: str) -> Checkout:
        row = self._db.execute("SELECT * FROM checkout WHERE id = ?", (name,)).fetchone()
        if row is None:
            raise Unknown
        refunds = self._db.execute("SELECT id, amount FROM refund WHERE checkout = ? ORDER BY rowid", (name,)).fetchall()
        disputes = self._db.execute("SELECT id, amount, status FROM dispute WHERE checkout = ? ORDER BY rowid", (name,)).fetchall()
        texts = {field: row[field] for field in ("student", "title", "description", "currency", "return_url")}
        return Checkout(
            id=row["id"],
            wanted=Wanted(order=row["order_ref"], amount=row["amount"], expires_ms=row["expires_ms"], **texts),
            status=Status(row["status"]),
            payment=row["payment"],
            created_ms=row["created_ms"],
            next=Next(row["next"]),
            refunds=[Refund(**one) for one in refunds],
            disputes=[Dispute(**one) for one in disputes],
        )


def _name(prefix: str) -> str:
    """Return a name that nobody can guess: who knows a checkout's may pay it."""
    return f"{prefix}_{secrets.token_urlsafe(18)}"

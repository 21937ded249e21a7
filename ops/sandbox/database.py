"""The gateway's memory: one SQLite file, so that it outlives a restart and a kill, as a real gateway would."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = 1

SCHEMA = """
CREATE TABLE checkout (
  id TEXT PRIMARY KEY, order_ref TEXT NOT NULL, student TEXT NOT NULL, title TEXT NOT NULL, description TEXT NOT NULL,
  amount INTEGER NOT NULL, currency TEXT NOT NULL, return_url TEXT NOT NULL, expires_ms INTEGER NOT NULL,
  status TEXT NOT NULL, payment TEXT, created_ms INTEGER NOT NULL,
  next TEXT NOT NULL                                -- what becomes of the webhooks of what happens next
) STRICT;
CREATE INDEX checkout_order ON checkout (order_ref);
CREATE INDEX checkout_open ON checkout (expires_ms) WHERE status = 'open';
CREATE TABLE refund (id TEXT PRIMARY KEY, checkout TEXT NOT NULL REFERENCES checkout, amount INTEGER NOT NULL) STRICT;
CREATE TABLE dispute (
  id TEXT PRIMARY KEY, checkout TEXT NOT NULL REFERENCES checkout, amount INTEGER NOT NULL, status TEXT NOT NULL
) STRICT;
CREATE INDEX refund_checkout ON refund (checkout);
CREATE INDEX dispute_checkout ON dispute (checkout);

-- What a key of the shop's has done, so that it is done once.
CREATE TABLE answered (key TEXT PRIMARY KEY, asked TEXT NOT NULL, answer TEXT NOT NULL) STRICT;

-- What has happened, as the shop is told of it.
CREATE TABLE event (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, checkout TEXT NOT NULL REFERENCES checkout,
  kind TEXT NOT NULL, subject TEXT NOT NULL, amount INTEGER NOT NULL, body TEXT NOT NULL, created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX event_checkout ON event (checkout, number);
CREATE INDEX event_created ON event (created_ms);

-- A webhook on its way: one event may be sent more than once. It waits until its time, and until the one before it was tried.
CREATE TABLE sending (
  number INTEGER PRIMARY KEY AUTOINCREMENT, event INTEGER NOT NULL REFERENCES event,
  state TEXT NOT NULL CHECK (state IN ('waiting', 'held', 'lost', 'delivered', 'given up')),
  attempts INTEGER NOT NULL DEFAULT 0, due_ms INTEGER NOT NULL, after INTEGER REFERENCES sending
) STRICT;
CREATE INDEX sending_event ON sending (event);
CREATE INDEX sending_waiting ON sending (due_ms) WHERE state = 'waiting';

-- What was answered; without a status: nothing was.
CREATE TABLE attempt (
  sending INTEGER NOT NULL REFERENCES sending, at_ms INTEGER NOT NULL, took_ms INTEGER NOT NULL, status INTEGER,
  answer TEXT NOT NULL
) STRICT;
CREATE INDEX attempt_sending ON attempt (sending);

CREATE TABLE secret (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO secret VALUES ('page', lower(hex(randomblob(32))));
"""


class InUse(Exception):
    """Another process has the file."""


def opened(folder: Path) -> sqlite3.Connection:
    """Open the gateway's file in a folder, and make it where there is none; raises InUse.

    It is this process's alone: two that send the same webhooks would each believe that they are the gateway.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "sandbox.sqlite"
    file.touch(mode=0o600)
    connection = sqlite3.connect(file, isolation_level=None, timeout=1.0)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a kill loses nothing, and of a power cut no money hangs
        connection.execute("PRAGMA foreign_keys = ON")
        with transaction(connection):
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if not found:
                for statement in SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
    except sqlite3.OperationalError as error:
        connection.close()
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise InUse(f"Another process uses {file}.") from None
    if found not in (0, VERSION):
        raise InUse(f"{file} is of another version of the sandbox: move it away.")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")

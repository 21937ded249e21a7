"""Submits that cannot be scored go from the nets' rows to the operator's sight in one statement."""

from collections.abc import AsyncIterator
from typing import cast
from uuid import UUID

import asyncpg
import pytest

from stores.connect import Stores
from stores.dead_letters import DeadLetters
from tests.stack import fresh, uuid7


@pytest.fixture
async def connection(stores: Stores) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction that comes to nothing, which reads a whole table only where no index helps."""
    async with stores.postgres.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SET LOCAL enable_seqscan = off")
        yield connection
        await transaction.rollback()


async def kept(connection: asyncpg.Connection) -> tuple[UUID, str]:
    """Keep a submit as a row; returns its session and its subject."""
    session, exam = uuid7(), fresh("x")
    subject = f"submits.{exam}.{session}"
    insert = "INSERT INTO submission (session_id, subject, event, claimed_until) VALUES ($1, $2, '', 'infinity')"
    await connection.execute(insert, session, subject)
    return session, subject


async def waits(connection: asyncpg.Connection, session: UUID) -> bool:
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM submission WHERE session_id = $1)", session))


async def whole_readings(connection: asyncpg.Connection) -> int:
    """Return how often this transaction has read all rows."""
    return int(await connection.fetchval("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'submission'"))


async def test_burying_a_submit_does_not_read_through_all_that_wait(connection: asyncpg.Connection) -> None:
    session, subject = await kept(connection)

    await DeadLetters(cast(asyncpg.Pool, connection)).bury(session, subject, b"event", "a test")

    assert not await waits(connection, session)
    assert await whole_readings(connection) == 0


async def test_a_submit_of_nobody_known_is_found_by_its_subject(connection: asyncpg.Connection) -> None:
    session, subject = await kept(connection)

    await DeadLetters(cast(asyncpg.Pool, connection)).bury(None, subject, b"event", "a test")

    assert not await waits(connection, session)


async def test_an_event_that_names_another_session_leaves_that_ones_submit_where_it_is(connection: asyncpg.Connection) -> None:
    session, _ = await kept(connection)

    await DeadLetters(cast(asyncpg.Pool, connection)).bury(session, f"submits.{fresh('x')}.{uuid7()}", b"event", "a test")

    assert await waits(connection, session)

"""Opening the stores: what is away is waited for later, and what is wrong is said at once."""

import asyncio
from dataclasses import replace
from urllib.parse import urlsplit

import asyncpg
import nats.errors
import pytest

from stores.connect import LOOK_SECONDS, QUIET_SECONDS, StoreSettings, connect
from tests.faults.harm import stopped
from tests.stack import Stack, free_port


def settings(stack: Stack, postgres: str) -> StoreSettings:
    where = stack.read()
    return StoreSettings(postgres, where["redis"], where["redis"], where["nats"], needs_nats=False)


async def test_without_postgresql_the_stores_open_and_what_needs_it_is_refused(stack: Stack) -> None:
    async with connect(settings(stack, f"postgresql://somebody:x@127.0.0.1:{free_port()}/finalbell")) as stores:
        with pytest.raises(ConnectionRefusedError):
            await stores.postgres.fetchval("SELECT 1")
        assert await stores.live.ping()


async def test_a_wrong_password_is_no_absence(stack: Stack) -> None:
    right = urlsplit(stack.postgres("content"))
    wrong = right._replace(netloc=right.netloc.replace(f":{right.password}@", ":wrong@")).geturl()

    with pytest.raises(asyncpg.InvalidPasswordError):
        async with connect(settings(stack, wrong)):
            pass


async def test_a_flush_that_a_frozen_nats_answers_too_late_leaves_a_connection_that_still_hears(stack: Stack) -> None:
    where = stack.read()
    async with connect(StoreSettings(where["postgres"], where["redis"], where["redis"], where["nats"])) as stores:
        with stopped(stack, "nats"), pytest.raises(nats.errors.TimeoutError):
            await stores.nats.flush(1)
        reply = await stores.nats.request("$JS.API.INFO", timeout=5)

    assert b"memory" in reply.data


async def test_who_waits_for_a_long_statement_hears_that_postgresql_is_frozen(stack: Stack) -> None:
    async with connect(patient(stack)) as stores:
        waiting = asyncio.create_task(stores.postgres.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.1)
        with stopped(stack, "postgres"), pytest.raises(asyncpg.PostgresConnectionError):
            await waiting
        assert await stores.postgres.fetchval("SELECT 1") == 1


async def test_a_long_statement_of_a_postgresql_that_is_there_is_waited_for(stack: Stack) -> None:
    async with connect(patient(stack)) as stores:
        await stores.postgres.execute(f"SELECT pg_sleep({QUIET_SECONDS + 2 * LOOK_SECONDS + 1})")


def patient(stack: Stack) -> StoreSettings:
    """Settings of a process whose statements may take long."""
    return replace(settings(stack, stack.read()["postgres"]), statement_seconds=30.0, hears_silence=True)

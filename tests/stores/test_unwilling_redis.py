"""A Redis that is there and refuses: whatever its reason, callers are told to come back, and what frees memory goes on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from servers import errors
from servers.serving.wrap import refused
from stores.boards import Boards
from stores.connect import Stores
from stores.records import Frozen, SaveOutcome, Standing, SubmitReason
from tests.stack import eventually, fresh
from tests.stores.test_generation import Worker, a_redis, a_worker, session

__all__ = ["session"]  # a fixture

Refusing = Callable[[Redis], Awaitable[None]]


async def full(redis: Redis) -> None:
    await redis.config_set("maxmemory", 1)


async def read_only(redis: Redis) -> None:
    await redis.replicaof("127.0.0.1", 1)


async def without_its_master(redis: Redis) -> None:
    await redis.config_set("replica-serve-stale-data", "no")
    await redis.replicaof("127.0.0.1", 1)


async def without_replicas(redis: Redis) -> None:
    await redis.config_set("min-replicas-to-write", 1)


async def unable_to_write_to_disk(redis: Redis) -> None:
    folder = Path((await redis.config_get("dir"))["dir"])
    (folder / "dump.rdb" / "in-the-way").mkdir(parents=True)
    await redis.config_set("save", "3600 100000")
    await redis.bgsave()

    async def failed() -> bool:
        return (await redis.info("persistence"))["rdb_last_bgsave_status"] == "err"

    await eventually(failed)


@asynccontextmanager
async def busy(server: str) -> AsyncIterator[None]:
    """A script that does not end, until somebody ends it."""
    async with Redis.from_url(server) as redis, Redis.from_url(server, socket_timeout=30) as other:
        await redis.config_set("busy-reply-threshold", 1)
        running = asyncio.ensure_future(other.eval("while true do end", 0))

        async def is_busy() -> bool:
            try:
                await redis.get("anything")
            except ResponseError as error:
                return "BUSY" in str(error)
            return False

        await eventually(is_busy)
        try:
            yield
        finally:
            await redis.script_kill()
            await asyncio.gather(running, return_exceptions=True)


async def save(worker: Worker, which: tuple[UUID, str], choice: str, key: str) -> SaveOutcome | str:
    """Save, and return the outcome, or the reason that a caller is told."""
    try:
        return (await worker.save(*which, choice, key)).outcome
    except Exception as failure:
        refusal = refused(failure)
        assert refusal.retry_seconds or not isinstance(refusal, errors.StoreUnavailable)
        return refusal.reason


@pytest.mark.parametrize("refusing", [full, read_only, without_its_master, without_replicas, unable_to_write_to_disk])
async def test_a_save_that_redis_refuses_is_to_be_repeated(stores: Stores, session: tuple[UUID, str], refusing: Refusing) -> None:
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker, Redis.from_url(server.url) as redis:
            before = await save(worker, session, "A", "key-number-1")

            await refusing(redis)
            meanwhile = await save(worker, session, "B", "key-number-2")

    assert (before, meanwhile) == (SaveOutcome.SAVED, "STORE_UNAVAILABLE")


async def test_a_save_while_redis_is_busy_is_to_be_repeated(stores: Stores, session: tuple[UUID, str]) -> None:
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker:
            await save(worker, session, "A", "key-number-1")

            async with busy(server.url):
                meanwhile = await save(worker, session, "B", "key-number-2")
            after = await save(worker, session, "B", "key-number-2")

    assert (meanwhile, after) == ("STORE_UNAVAILABLE", SaveOutcome.SAVED)


async def test_a_session_can_be_handed_in_though_redis_has_no_room_for_another_answer(
    stores: Stores, session: tuple[UUID, str]
) -> None:
    which, student = session
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker, Redis.from_url(server.url) as redis:
            await save(worker, session, "A", "key-number-1")
            await full(redis)

            refused_save = await save(worker, session, "B", "key-number-2")
            frozen = await worker.live.submit(which, student, SubmitReason.CLICK)

    assert refused_save == "STORE_UNAVAILABLE"
    assert isinstance(frozen, Frozen)
    assert frozen.answers == b'{"single":"c:A"}'


def test_a_refusal_that_nobody_expects_is_a_fault_of_ours() -> None:
    assert refused(ResponseError("WRONGTYPE Operation against a key of another kind")).reason == "INTERNAL"


@pytest.mark.parametrize("refusing", [full, read_only, without_replicas, unable_to_write_to_disk])
async def test_a_save_whose_session_has_to_be_restored_first_is_to_be_repeated_too(
    stores: Stores, session: tuple[UUID, str], refusing: Refusing
) -> None:
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker, Redis.from_url(server.url) as redis:
            await refusing(redis)

            meanwhile = await save(worker, session, "A", "key-number-1")

    assert meanwhile == "STORE_UNAVAILABLE"


async def test_places_and_parked_sessions_are_written_though_redis_has_no_room(stores: Stores, session: tuple[UUID, str]) -> None:
    which, _ = session
    standing = Standing(fresh("x"), "ada", "Ada", (), 7, 1)
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker, Redis.from_url(server.url) as redis:
            boards = Boards(redis)
            await boards.place([standing])
            await full(redis)

            await boards.place([replace(standing, order_key=9, version=2)])
            await worker.live.park(which)
            await worker.live.unpark(which)
            waiting = await worker.live.waiting()

    assert waiting == (1, 0)

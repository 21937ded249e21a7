"""Coalescing: nobody waits for a timer, nobody is forgotten, and a full queue says so at once."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from stores.keys import generation_key, session_key, shard
from stores.pipeline import Call, Coalescer, Functions, Overloaded
from tests.stack import Stack


class Store:
    """Answers a batch when it is let, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(items))
        await self.open.wait()
        return [ValueError(str(item)) if item < 0 else item * 2 for item in items]


async def test_what_arrives_during_a_round_trip_goes_out_together() -> None:
    store = Store()
    store.open.clear()
    coalescer = Coalescer(store.send, queue="a test", in_flight=1)
    calls = [asyncio.ensure_future(coalescer.submit(item)) for item in range(6)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.open.set()

    replies = await asyncio.gather(*calls)

    assert replies == [0, 2, 4, 6, 8, 10]
    assert [item for batch in store.batches for item in batch] == [0, 1, 2, 3, 4, 5]
    assert len(store.batches) <= 2


async def test_a_failure_reaches_the_call_that_it_belongs_to() -> None:
    coalescer = Coalescer(Store().send, queue="a test")

    replies = await asyncio.gather(*(coalescer.submit(item) for item in (1, -1, 2)), return_exceptions=True)

    assert [type(reply) for reply in replies] == [int, ValueError, int]


async def test_a_lost_round_trip_fails_every_call_of_its_batch_and_no_later_one() -> None:
    failing = True

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        if failing:
            raise ConnectionError
        return list(items)

    coalescer = Coalescer(send, queue="a test")
    lost = await asyncio.gather(coalescer.submit(1), coalescer.submit(2), return_exceptions=True)
    failing = False

    assert [type(reply) for reply in lost] == [ConnectionError, ConnectionError]
    assert await coalescer.submit(3) == 3


async def test_a_full_queue_refuses_at_once_and_keeps_what_it_has() -> None:
    store = Store()
    store.open.clear()
    coalescer = Coalescer(store.send, queue="a test", in_flight=1, batch=1, bound=3)
    calls = [asyncio.ensure_future(coalescer.submit(item)) for item in range(3)]
    await asyncio.sleep(0)
    calls.append(asyncio.ensure_future(coalescer.submit(3)))
    await asyncio.sleep(0)

    with pytest.raises(Overloaded):
        await coalescer.submit(4)

    store.open.set()
    assert await asyncio.gather(*calls) == [0, 2, 4, 6]


async def test_a_caller_who_leaves_takes_nobody_along() -> None:
    store = Store()
    store.open.clear()
    coalescer = Coalescer(store.send, queue="a test", in_flight=1)
    calls = [asyncio.ensure_future(coalescer.submit(item)) for item in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    store.open.set()

    replies = await asyncio.gather(*calls, return_exceptions=True)

    assert replies[0] == 0
    assert isinstance(replies[1], asyncio.CancelledError)
    assert replies[2] == 4


async def test_two_round_trips_that_end_together_leave_no_later_call_waiting() -> None:
    store = Store()
    store.open.clear()
    coalescer = Coalescer(store.send, queue="a test", in_flight=2)

    async def caller(times: int) -> list[int]:
        return [await coalescer.submit(1) for _ in range(times)]

    callers = []
    for times in (2, 1):
        callers.append(asyncio.ensure_future(caller(times)))
        while len(store.batches) < len(callers):
            await asyncio.sleep(0)
    store.open.set()

    async with asyncio.timeout(2):
        assert await asyncio.gather(*callers) == [[2, 2], [2]]


async def test_draining_waits_for_what_is_queued() -> None:
    store = Store()
    coalescer = Coalescer(store.send, queue="a test", in_flight=1, batch=1)
    calls = [asyncio.ensure_future(coalescer.submit(item)) for item in range(3)]
    await asyncio.sleep(0)

    await coalescer.drain()

    assert [call.done() for call in calls] == [True, True, True]


async def test_each_call_gets_its_own_reply_however_many_reads_they_take(stack: Stack) -> None:
    redis, unknown = Redis.from_url(stack.read()["redis"], socket_timeout=20), uuid4()
    functions = Functions(redis, queue="a test")
    await functions.load()
    keys = [session_key(unknown), generation_key(shard(unknown))]
    calls: list[Call] = [("state", [] if number == 1_000 else keys, ()) for number in range(10_000)]

    replies = await functions.call_all(calls)

    assert isinstance(replies[1_000], ResponseError)
    assert [number for number, reply in enumerate(replies) if reply != [b"RESTORE"]] == [1_000]
    await redis.aclose()

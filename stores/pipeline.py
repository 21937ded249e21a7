"""Coalescing: what arrives while a round trip is in flight goes out together as the next one.

There is no timer. An idle store answers one item at once; a busy one gets larger batches, not longer queues.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from hiredis import pack_command
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, ResponseError

from stores import gauges

FUNCTIONS = Path(__file__).parent / "functions"

Item = TypeVar("Item")
Reply = TypeVar("Reply")


class Overloaded(Exception):
    """The queue is full: the item was not sent, so it certainly had no effect."""


class Coalescer(Generic[Item, Reply]):
    """Sends items in batches through `send`, which returns one reply (or exception) per item, in order. `queue` names it in
    the metrics."""

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Reply | Exception]]],
        *,
        queue: str,
        in_flight: int = 2,
        batch: int = 512,
        bound: int = 8192,
    ) -> None:
        self._send = send
        self._in_flight = in_flight
        self._batch = batch
        self._bound = bound
        self._waiting: deque[tuple[Item, asyncio.Future[Reply]]] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._full = gauges.FULL.labels(queue)
        self._sizes = gauges.BATCH.labels(queue)
        gauges.WAITING.labels(queue).set_function(lambda: len(self._waiting))

    async def submit(self, item: Item) -> Reply:
        """Send one item and return its reply; raises Overloaded when too many wait already.

        Cancelling the caller does not take the item back: it may already be on its way.
        """
        if len(self._waiting) >= self._bound:
            self._full.inc()
            raise Overloaded
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, reply))
        if len(self._senders) < self._in_flight:
            self._senders.add(asyncio.create_task(self._send_all()))
        return await reply

    async def drain(self) -> None:
        """Wait until nothing is queued or in flight."""
        while self._senders:
            await asyncio.gather(*self._senders)

    async def _send_all(self) -> None:
        """Send until nothing waits. It leaves `_senders` itself, before anybody it has answered runs again and counts them."""
        try:
            while self._waiting:
                await self._send_batch([self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))])
        finally:
            self._senders.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _send_batch(self, taken: Sequence[tuple[Item, asyncio.Future[Reply]]]) -> None:
        replies: Sequence[Reply | Exception]
        self._sizes.observe(len(taken))
        try:
            replies = await self._send([item for item, _ in taken])
        except Exception as failure:  # each caller gets it
            replies = [failure] * len(taken)
        for (_, future), reply in zip(taken, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)


Call = tuple[str, Sequence[str], Sequence[str | bytes | int]]
"""One call of a Redis function: its act, its keys, its arguments."""


class Functions:
    """Calls finalbell's Redis functions, many per round trip, and loads them where they are missing."""

    def __init__(self, redis: Redis, *, queue: str) -> None:
        self._redis = redis
        self._coalescer: Coalescer[Call, object] = Coalescer(self.call_all, queue=queue)

    async def call(self, act: str, keys: Sequence[str], *arguments: str | bytes | int) -> object:
        """Call one function and return its reply."""
        return await self._coalescer.submit((act, keys, arguments))

    async def call_all(self, calls: Sequence[Call]) -> list[object]:
        """Call many functions in one round trip; an exception stands in the place of a call that failed.

        A failover or a new server may have lost the functions (or never had this version): those calls had no effect,
        so they are repeated once, after loading.
        """
        replies = await self._round_trip(calls)
        lost = [i for i, reply in enumerate(replies) if isinstance(reply, ResponseError) and "unction not found" in str(reply)]
        if lost:
            await self.load()
            for i, reply in zip(lost, await self._round_trip([calls[i] for i in lost]), strict=True):
                replies[i] = reply
        return replies

    async def load(self) -> None:
        """Load this version of the functions; versions live side by side, since the names hold a digest."""
        await self._redis.function_load(library(), replace=True)

    async def _round_trip(self, calls: Sequence[Call]) -> list[object]:
        return await _round_trip(
            self._redis, [_packed("FCALL", function_name(act), len(keys), *keys, *given) for act, keys, given in calls]
        )


async def ask_all(redis: Redis, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
    """Send commands in one round trip and return their replies as they come off the wire; raises the first refusal."""
    return checked(await _round_trip(redis, [_packed(*command) for command in commands])) if commands else []


def checked(replies: list[Any]) -> list[Any]:
    """Return the replies of one round trip, unless one is a refusal: then raise the first."""
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def _round_trip(redis: Redis, packed: Sequence[bytes]) -> list[object]:
    """Send all commands and read all replies, within one timeout: redis-py's own pipeline would set a timer for each reply, and
    takes ten times as long."""
    pool = redis.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(connection.socket_timeout):
            await connection.send_packed_command([b"".join(packed)])
            return await _replies(connection, len(packed))
    except BaseException:
        await connection.disconnect(nowait=True)  # replies may be under way that nobody waits for
        raise
    finally:
        await pool.release(connection)


def _packed(*parts: str | bytes | int) -> bytes:
    return cast(bytes, pack_command(cast(Any, parts)))


async def _replies(connection: AbstractConnection, count: int) -> list[object]:
    """Read replies as they come, many from one read; a refusal stands in the place of its reply.

    The client's own way reads each by itself, through five calls, which costs a save more than Redis's parser does. A lost
    connection, or a Redis that is loading, is the failure of all.
    """
    parser = cast("Any", connection._parser)  # a library's inside: test_pipeline.py holds it to what is read here
    replies: list[object] = []
    while True:
        while len(replies) < count and (reply := parser._reader.gets()) is not NOT_ENOUGH_DATA:
            if isinstance(reply, ConnectionError):
                raise reply
            replies.append(reply)
        if len(replies) == count:
            return replies
        await parser.read_from_socket()


@cache
def function_name(act: str) -> str:
    """Return the name of this version's function for an act."""
    return f"{act}_{_library()[0]}"


def library() -> str:
    """Return the source of this version's functions."""
    return _library()[1]


@cache
def _library() -> tuple[str, str]:
    """Return the digest in the functions' names, and the source: the prelude, then each act as a function of its own."""
    prelude = (FUNCTIONS / "_prelude.lua").read_text()
    acts = {path.stem: path.read_text() for path in sorted(FUNCTIONS.glob("[!_]*.lua"))}
    digest = sha256(repr((prelude, acts)).encode()).hexdigest()[:12]
    parts = [f"#!lua name=finalbell_{digest}", prelude]
    for act, body in acts.items():
        flags = next((line[len("-- FLAGS ") :].split() for line in body.splitlines() if line.startswith("-- FLAGS ")), [])
        listed = ", ".join(f"'{flag}'" for flag in flags)
        register = f"redis.register_function{{function_name='{act}_{digest}', flags={{{listed}}}, callback=function(keys, args)"
        parts += [register, body, "end}"]
    return digest, "\n".join(parts)

"""Generations: whether the Redis that answers is the one, with the memory, that sessions were last written to.

Redis can be empty, or *behind*: a replica that was cut off and then promoted, a host that crashed with AOF `everysec`.
So every connection, before any other command, compares the server's identity with the one behind each shard's
generation. Another server means another generation, taken from PostgreSQL; a session of any other generation is
restored before it is used (`restore.py`).
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import asyncpg
import structlog
from prometheus_client import Counter
from redis.asyncio import Connection, Redis
from redis.exceptions import ResponseError

from stores import keys
from stores.pipeline import ask_all, checked, function_name, library

SINCE = "@"
"""Between a generation's number and when it began, in ms by the server's clock."""

CHANGES = Counter("finalbell_generation_changes_total", "Times that Redis was found to be another server, or empty")
log = structlog.get_logger()

Execute = Callable[[Sequence[Sequence[str | int]]], Awaitable[list[Any]]]


class Generations:
    """The guard of one Redis deployment."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._known = ""

    async def on_connect(self, connection: Connection) -> None:
        """Greet a server, and make sure that the shards' generation is this server's, before anybody uses the connection.

        When that fails for another reason than Redis (PostgreSQL is away, the caller has gone), the client would keep the
        connection open, and the next call would use it as if it had been looked at: so it is closed here.
        """

        async def execute(commands: Sequence[Sequence[str | int]]) -> list[Any]:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await _reply(connection) for _ in commands]

        try:
            await connection.on_connect()
            await self._ensure(execute, trust=True)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def begin(self, redis: Redis) -> None:
        """Give a generation to every shard that has none: the server has been wiped."""
        await self._ensure(partial(ask_all, redis), trust=False)

    async def _ensure(self, execute: Execute, *, trust: bool) -> None:
        server = _identity(checked(await execute([("INFO", "server"), ("INFO", "replication")])))
        if trust and server == self._known:
            return
        shards = range(keys.SHARDS)
        behind = checked(await execute([("GET", key(n)) for n in shards for key in (keys.run_key, keys.generation_key)]))
        if not all(run == server.encode() and generation for run, generation in zip(behind[::2], behind[1::2], strict=True)):
            number: int = await self._pool.fetchval("SELECT nextval('generation')")
            seconds, microseconds = checked(await execute([("TIME",)]))[0]
            generation = f"{number}{SINCE}{int(seconds) * 1000 + int(microseconds) // 1000}"
            checked(await execute([("FUNCTION", "LOAD", "REPLACE", library())]))
            begun = checked(
                await execute(
                    [
                        ("FCALL", function_name("begin"), 2, keys.generation_key(n), keys.run_key(n), server, generation)
                        for n in shards
                    ]
                )
            )
            if any(begun):
                CHANGES.inc()
                log.warning("another server, or an empty one: sessions will be restored", generation=generation)
        self._known = server


def began_ms(generation: bytes) -> int:
    """Return when a generation began, in ms by the server's clock."""
    return int(generation.decode().partition(SINCE)[2] or 0)


def _identity(replies: Sequence[Any]) -> str:
    """Return what distinguishes one memory from another: the process, and for a promoted replica its new replication id.

    The replication id of a server that never was a replica is left out: it changes without any loss.
    """
    info = {name: value for reply in replies for name, value in _fields(reply).items()}
    promoted = info["master_replid2"].strip("0")
    return f"{info['run_id']}:{info['master_replid'] if promoted else ''}"


def _fields(reply: bytes) -> dict[str, str]:
    lines = [line.partition(":") for line in reply.decode().splitlines() if ":" in line]
    return {name: value for name, _, value in lines}


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as refused:  # the caller looks at all replies before it raises: none may stay unread
        return refused

"""Opens every store that a process needs, and closes them again."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import hiredis
import nats.errors
import structlog
from asyncpg.pool import PoolAcquireContext, PoolConnectionProxy
from nats.aio.client import Client as Nats
from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from stores import gauges
from stores.generation import Generations
from stores.shelf import AWAY

ACQUIRE_SECONDS = 1.0
QUIET_SECONDS, LOOK_SECONDS, ANSWER_SECONDS = 1.5, 0.5, 2.0
"""PostgreSQL is asked whether it is there when a connection has been in use for so long, within so much of it, and has so long to
say anything: nobody who waits for one that is frozen waits for longer than these three together, 4 s."""

SSL_REQUEST = struct.pack("!ii", 8, 80_877_103)
"""What PostgreSQL's protocol lets anybody ask first, and answers with a byte: whether it speaks TLS."""

NATS_WAIT_SECONDS = 2.0
REDIS_TIMEOUT_SECONDS = 0.25
"""A save waits no longer for Redis; the client is told to come back (RELIABILITY F20)."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the stores are: URLs with the credentials of this service's own user."""

    postgres: str
    redis: str
    boards_redis: str
    nats: str
    pool_size: int = 10
    statement_seconds: float = 2.0
    needs_nats: bool = True
    hears_silence: bool = False
    """Whether those who wait for a long statement are told soon when PostgreSQL is not there at all: where somebody calls."""

    guards_sessions: bool = False
    """Whether this process answers for sessions, and so must know that Redis has the memory it wrote to (generation.py)."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Open connections; `boards` may be another deployment than `live`."""

    postgres: asyncpg.Pool
    live: Redis
    boards: Redis
    nats: Nats
    nats_lost: asyncio.Event
    """Set when NATS has closed the connection for good (other credentials, say): only another process dials again."""

    generations: Generations


@asynccontextmanager
async def connect(settings: StoreSettings) -> AsyncIterator[Stores]:
    """Open all stores, and close all of them whatever happens.

    None of them has to be there. PostgreSQL is dialled again on each use until it answers; Redis connects on first use, and NATS
    is not asked where it is not needed: content stays up while the others are away. Where it is needed it is dialled until
    it answers, but not waited for: a session service that was restarted meanwhile saves answers, and keeps submits in
    PostgreSQL.
    """
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(_postgres(settings))
        gauges.pooled(postgres.get_size, postgres.get_idle_size, settings.pool_size)
        generations = Generations(postgres)
        live = _redis(settings.redis, generations.on_connect if settings.guards_sessions else None)
        stack.push_async_callback(live.aclose)
        boards = live
        if settings.boards_redis != settings.redis:
            boards = _redis(settings.boards_redis)
            stack.push_async_callback(boards.aclose)
        client, lost = _Nats(), asyncio.Event()
        if settings.needs_nats:
            stack.push_async_callback(_close, client)
            dialling = asyncio.ensure_future(_dial(client, settings.nats, lost))
            stack.callback(dialling.cancel)
            await asyncio.wait([dialling], timeout=NATS_WAIT_SECONDS)
        yield Stores(postgres=postgres, live=live, boards=boards, nats=client, nats_lost=lost, generations=generations)


class _Pool(asyncpg.Pool):  # type: ignore[misc]  # asyncpg has no types
    """A pool whose every wait has a bound: for a connection, and for a cancelled statement to come to its end.

    Without it, `release` waits for ever on a server that is frozen.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, setup=self._taken, **options)
        self._where = urlsplit(url)
        self._used_since: dict[PoolConnectionProxy, float] = {}

    def acquire(self, *, timeout: float | None = None) -> PoolAcquireContext:
        return super().acquire(timeout=timeout or ACQUIRE_SECONDS)

    async def _taken(self, connection: PoolConnectionProxy) -> None:
        self._used_since[connection] = monotonic()

    async def release(self, connection: PoolConnectionProxy, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._used_since.pop(connection, None)
        await super().release(connection, timeout=timeout)

    async def hear_silence(self) -> None:
        """Break the connections of those who wait for a server that does not answer at all, as if it had ended: they hear of it
        in seconds, however long a statement may take of a server that is there."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            began = monotonic()
            waiting = [one for one, since in self._used_since.items() if began - since >= QUIET_SECONDS]
            if not waiting:
                continue
            silent = await self._is_silent()
            for one in waiting:
                if self._used_since.pop(one, None) is None:  # it was given back meanwhile
                    continue
                if not silent:
                    self._used_since[one] = began
                    continue
                with suppress(asyncpg.InterfaceError):  # it has just broken by itself
                    one.terminate()

    async def _is_silent(self) -> bool:
        """Say whether PostgreSQL says nothing to one who is new, in one round trip and before any login; that it is gone is no
        silence: then connections break by themselves."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(self._where.hostname, self._where.port or 5432)
                try:
                    writer.write(SSL_REQUEST)
                    await reader.read(1)
                finally:
                    writer.close()
        except TimeoutError:
            log.warning("PostgreSQL does not answer")
            return True
        except Exception as failure:
            log.info("PostgreSQL not asked", error=type(failure).__name__)
        return False


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that keeps no state from one use to the next, so that a round trip to forget it is saved each time."""

    def get_reset_query(self) -> str:
        return ""


@asynccontextmanager
async def _postgres(settings: StoreSettings) -> AsyncIterator[asyncpg.Pool]:
    """Open a pool, also while PostgreSQL is away: what needs it is refused until it is back. Raises its refusal of a wrong
    password or database, which does not pass by itself."""
    pool = _pool(settings, 1)
    try:
        await pool
    except AWAY as failure:
        log.warning("PostgreSQL is away", error=type(failure).__name__)
        pool = _pool(settings, 0)
    async with pool:
        hearing = asyncio.create_task(pool.hear_silence()) if settings.hears_silence else None
        try:
            yield pool
        finally:
            if hearing is not None:
                hearing.cancel()


def _pool(settings: StoreSettings, min_size: int) -> _Pool:
    return _Pool(
        settings.postgres,
        min_size=min_size,
        max_size=settings.pool_size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        init=None,
        loop=None,
        connection_class=_Connection,
        record_class=asyncpg.Record,
        command_timeout=settings.statement_seconds,
        timeout=5,
        server_settings={"timezone": "UTC"},
    )


class _RedisConnection(Connection):
    """A connection that packs commands in C; redis-py's asyncio connections do it in Python, which costs a save 10 µs."""

    def pack_command(self, *args: Any) -> list[bytes]:
        if isinstance(args[0], str) and " " in args[0]:  # "CLIENT SETINFO" is two words on the wire
            args = (*args[0].split(), *args[1:])
        return [hiredis.pack_command(args)]


def _redis(url: str, on_connect: Callable[[Connection], Awaitable[None]] | None = None) -> Redis:
    """One pool; never retries by itself, since only the caller knows whether a repeat is safe.

    With maintenance notifications (the client's default) it would not look whether an idle connection is still open, and
    after a restart of Redis the first calls of every process would fail.
    """
    return Redis.from_url(
        url,
        connection_class=_RedisConnection,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        max_connections=64,
        redis_connect_func=on_connect,
    )


class _Nats(Nats):
    """The client, whose `flush` may be given up.

    It cancels the future that waits for the answer, and leaves it in its list. When the answer comes after all (from a server that
    stood still for a moment), the library's own method fails on it, and with it the task that reads: the connection stands, and
    nothing that comes over it is ever heard, until pings find it stale after minutes.
    """

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
        else:
            await super()._process_pong()


async def _dial(client: Nats, url: str, lost: asyncio.Event) -> None:
    """Connect, and go on trying. The inbox prefix is the user's name, so that no user can read another's replies."""

    async def closed() -> None:
        lost.set()

    try:
        await client.connect(
            url,
            inbox_prefix=f"_INBOX_{urlsplit(url).username or 'anybody'}",
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            connect_timeout=2,
            pending_size=16 * 1024 * 1024,
            closed_cb=closed,
        )
    except Exception:  # not for want of an answer: it would not go better the next time
        lost.set()
        raise


async def _close(client: Nats) -> None:
    """Send what was published, within a second, and hang up. Not `drain`: it waits for pull subscriptions in vain."""
    with suppress(nats.errors.Error, TimeoutError):
        await client.flush(1)
    await client.close()

"""What tests do to the processes of a stack that they started: kill, stop, let go on, run one more that crashes."""

import asyncio
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import httpx
import nats
import pytest
from nats.js import JetStreamContext
from redis.asyncio import Redis

from ops.home import Home
from ops.nursery import Nursery
from ops.processes import Process
from tests.stack import Stack, eventually, free_port

ROOT = Path(__file__).parent.parent.parent


def kill(stack: Stack, unit: str) -> int:
    """Kill a process of the stack as a power cut would, and return its pid; the supervisor starts another."""
    pid = stack.pid(unit)
    os.kill(pid, signal.SIGKILL)
    return pid


async def restarted(stack: Stack, unit: str, before: int) -> None:
    """Wait until another process stands in a killed one's place."""

    async def another() -> bool:
        return stack.pid(unit) != before

    await eventually(another)


@contextmanager
def stopped(stack: Stack, unit: str) -> Iterator[None]:
    """Freeze a process with all its children, and let it go on at the end: away, and yet its connections stand."""
    pids = family(stack.pid(unit))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    while not all(map(_stands_still, pids)):  # the signal is sent; a thread that waits for its turn still answers once
        time.sleep(0.001)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:  # the test has killed it meanwhile
                continue


def family(pid: int) -> list[int]:
    """Return a process and all that it started."""
    children = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _parent(entry) == pid]
    return [pid, *(one for child in children for one in family(child))]


def _parent(entry: Path) -> int:
    try:
        return int(_stat(entry)[1])
    except OSError:  # it has ended since
        return -1


def _stands_still(pid: int) -> bool:
    """Say whether every thread of a process is stopped; one that has ended is."""
    try:
        return all(_stat(thread)[0] in "TZX" for thread in Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # one ended meanwhile, or all of it
        return not Path(f"/proc/{pid}").exists()


def _stat(entry: Path) -> list[str]:
    """Return what stands after the name in a process's or thread's `stat`: its state, its parent and so on."""
    return (entry / "stat").read_text().rpartition(")")[2].split()


class Life(Protocol):
    """A process that tests have started: a `subprocess.Popen`, or as much of one."""

    def poll(self) -> int | None: ...

    def send_signal(self, number: int, /) -> None: ...


@contextmanager
def crashing(stack: Stack, unit: str, step: str) -> Iterator[tuple[str, Life]]:
    """Run one more process of a unit, which kills itself at a step; gives its address and its handle."""
    with another(stack, unit, CRASH_AT=step) as running:
        yield running


@contextmanager
def another(
    stack: Stack, unit: str, variables: Mapping[str, str] = MappingProxyType({}), **settings: str
) -> Iterator[tuple[str, Life]]:
    """Run one more process of a unit; gives its address and its handle.

    It has the configuration of the supervised one, but for these settings, variables and ports of its own: so every
    other process of the stack stays as it is, and the next life of nobody is another. It is forked, as a supervisor
    does it; variables are what a process has to have from its first moment, so that one is started anew.
    """
    environment = configuration(stack, unit)
    listen = f"127.0.0.1:{free_port()}"
    environment |= {**variables, **{f"FINALBELL_{name}": value for name, value in settings.items()}}
    environment |= {"FINALBELL_LISTEN": listen, "FINALBELL_LISTEN_ALONE": "", "FINALBELL_METRICS": f"127.0.0.1:{free_port()}"}
    command = [sys.executable, "-m", "servers", unit]
    born = Process(unit, command, lambda: True, 0, environment=environment, unit=unit)
    with (stack.home / "logs" / "another.log").open("ab") as log:
        forked = None if variables else _nursery()[0].bear(born, log.fileno())
        process: Life = forked or subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        yield listen, process
    finally:
        process.send_signal(signal.SIGKILL)
        ended(process, 20)


@cache
def _nursery() -> tuple[Nursery, "TemporaryDirectory[str]"]:
    """The nursery of this run's tests, and its folder; both end with the run."""
    folder = TemporaryDirectory(prefix="finalbell-nursery-")
    home = Home(Path(folder.name))
    home.make()
    return Nursery(home), folder


def ended(process: Life, seconds: float) -> int:
    """Wait until a process has ended, and return its exit code."""
    until = time.monotonic() + seconds
    while (code := process.poll()) is None:
        assert time.monotonic() < until, "it did not end in time"
        time.sleep(0.02)
    return code


def configuration(stack: Stack, unit: str) -> dict[str, str]:
    """Return the environment of a unit's supervised process: what it was told, besides what its supervisor has."""
    raw = Path(f"/proc/{stack.read()['pid']}/environ").read_bytes().split(b"\0")
    told: dict[str, str] = json.loads((stack.home / "config" / f"{unit}.json").read_text())
    return dict(line.decode().split("=", 1) for line in raw if line) | told


def wrong_clock(**more: str) -> Mapping[str, str]:
    """The variables that give a process another wall clock; skips where libfaketime is not installed."""
    spec = importlib.util.find_spec("libfaketime")
    found = list(Path(spec.origin).parent.rglob("libfaketime.so.1")) if spec and spec.origin else []
    if not found:
        pytest.skip("libfaketime is not here")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME_DONT_FAKE_MONOTONIC": "1", **more}


async def dies(process: Life, seconds: float = 20) -> None:
    """Wait until a process has killed itself."""
    assert await asyncio.to_thread(ended, process, seconds) == -signal.SIGKILL


async def insist(call: Callable[[], Awaitable[httpx.Response]], seconds: float = 30) -> httpx.Response:
    """Repeat a call as a client would, until it is not 503; anything else that a fault may not cause fails."""

    async def answered() -> httpx.Response | None:
        try:
            reply = await call()
        except (httpx.RemoteProtocolError, httpx.ReadError):  # the process died with our call in its hands
            return None
        if reply.status_code == 503:
            assert "retry-after" in reply.headers, reply.text
            return None
        return reply

    found: httpx.Response = await eventually(answered, seconds)
    return found


# Looking inside


@asynccontextmanager
async def jetstream(stack: Stack) -> AsyncIterator[JetStreamContext]:
    """The owner's view of JetStream."""
    client = await nats.connect(stack.read()["nats"])
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def queued(stack: Stack, exam: str) -> int:
    """Count an exam's submits that wait, or whose delivery was not acknowledged."""
    async with jetstream(stack) as stream:
        info = await stream.stream_info("SUBMITS", subjects_filter=f"submits.{exam}.>")
    return sum((info.state.subjects or {}).values())


async def nobody_pulls(stack: Stack) -> None:
    """Wait until no worker is waiting for submits: a stopped one's last request has run out."""
    async with jetstream(stack) as stream:

        async def idle() -> bool:
            return (await stream.consumer_info("SUBMITS", "scoring")).num_waiting == 0

        await eventually(idle)


async def fetch(stack: Stack, query: str, *arguments: Any) -> list[asyncpg.Record]:
    """Ask PostgreSQL as the owner."""
    connection = await asyncpg.connect(stack.read()["postgres"], timeout=5)
    try:
        return list(await connection.fetch(query, *arguments))
    finally:
        await connection.close()


async def in_redis(stack: Stack, session: str) -> dict[str, bytes]:
    """Return a session's hash."""
    async with Redis.from_url(stack.read()["redis"]) as redis:
        found = await redis.hgetall(f"s:{{{UUID(session).int % 64:02d}}}:{session}")
    return {name.decode(): value for name, value in found.items()}


async def all_written(stack: Stack) -> None:
    """Wait until no acknowledged save is missing in PostgreSQL."""
    async with Redis.from_url(stack.read()["redis"]) as redis:

        async def empty() -> bool:
            return sum([await redis.xlen(f"log:{{{shard:02d}}}") for shard in range(64)]) == 0

        await eventually(empty)


async def metric(stack: Stack, unit: str, name: str) -> float:
    """Read a number of a process's own."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://{stack.read()['services'][unit]['metrics']}/metrics")).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0

"""A running stack, as tests use it: over REST, gRPC, and by looking into PostgreSQL and Redis."""

import fcntl
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import httpx
from finalbell.v1 import admin_pb2
from finalbell.v1.admin_pb2_grpc import ExamAdminServiceStub

from ops import accounts, database, keys, ports, processes
from ops.accounts import postgres_role
from ops.home import Home, wait, write_private
from ops.keys import mint

ROOT = Path(__file__).parent.parent
FINALBELL = [sys.executable, "-m", "ops.main"]
ENGINE = [part for engine in [os.environ.get("FINALBELL_TEST_ENGINE")] if engine for part in ("--engine", engine)]
"""Options of `finalbell up` that choose the session service's engine; none: the product's default."""

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For HTTP clients (`verify=PLAIN`) of what is on this machine and speaks no TLS: by default each would read all the world's
authorities first, for 30 ms of CPU, and a run makes thousands."""


FOUNDATION = "FINALBELL_TEST_FOUNDATION"
"""The variable that names the folder in which one run of tests keeps what it founds its stacks on."""


class Stack:
    """One stack by its home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.gateway = str(self.read()["gateway"])

    def read(self) -> dict[str, Any]:
        """What `stack.json` says now: pids change when a process is restarted."""
        found: dict[str, Any] = json.loads((self.home / "stack.json").read_text())
        return found

    def pid(self, unit: str) -> int:
        """The pid of a service (`session`) or server (`redis`)."""
        stack = self.read()
        return int((stack["services"].get(unit) or stack["servers"][unit])["pid"])

    def address(self, unit: str) -> str:
        """Where a service listens for gRPC, past the gateway."""
        return str(self.read()["services"][unit]["grpc"])

    def postgres(self, account: str) -> str:
        """PostgreSQL's address as a service has it, with its password."""
        own = urlsplit(str(self.read()["postgres"]))
        password = json.loads((self.home / "secrets.json").read_text())[account]
        return own._replace(netloc=f"{postgres_role(account)}:{password}@{own.hostname}:{own.port}").geturl()

    def token(self, student: str | None = None, *, cohorts: Sequence[str] = (), roles: Sequence[str] = ()) -> str:
        """A signed token, for a fresh student unless one is named."""
        return mint(self.home, student=student or fresh("s"), cohorts=cohorts, roles=roles)

    def rest(self, token: str | None = None) -> httpx.AsyncClient:
        """An HTTP client of the gateway, with the token where one is given."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(
            base_url=self.gateway, headers=headers, timeout=20, verify=PLAIN, trust_env=False
        )  # the gateway's are 15 s

    def channel(self, unit: str | None = None) -> grpc.aio.Channel:
        """A gRPC channel to the gateway, or straight to one service."""
        return grpc.aio.insecure_channel(self.address(unit) if unit else self.gateway.removeprefix("http://"))

    async def import_exam(self, exam: dict[str, Any], exam_id: str | None = None, **settings: Any) -> admin_pb2.ImportExamResponse:
        """Import an exam as an admin; `release__score="MANUAL"` sets `release.score`."""
        chosen = {name.replace("__", "."): json.dumps(value) for name, value in settings.items()}
        request = admin_pb2.ImportExamRequest(exam_id=exam_id or "", settings=chosen, chunk=json.dumps(exam).encode())
        async with self.channel() as channel:
            return await ExamAdminServiceStub(channel).ImportExam(iter([request]), metadata=bearer(self.token(roles=["admin"])))

    async def import_bank(self, bank: dict[str, Any], bank_id: str | None = None) -> admin_pb2.ImportBankResponse:
        """Import a bank of practice questions as an admin."""
        request = admin_pb2.ImportBankRequest(bank_id=bank_id or "", chunk=json.dumps(bank).encode())
        async with self.channel() as channel:
            return await ExamAdminServiceStub(channel).ImportBank(iter([request]), metadata=bearer(self.token(roles=["admin"])))


@contextmanager
def running(*options: str, sells: Mapping[str, object] | None = None, **environment: str) -> Iterator[Stack]:
    """Start a stack of one's own without exams, with more options of `finalbell up` and variables; stop it at the end.

    `sells` is its `payments.json`: the gateways that it sells through instead of its sandbox. In a run of tests it is the second
    start of a stack that has served nobody yet; tests/ops/test_stack.py starts from nothing.
    """
    home = Path(tempfile.mkdtemp(prefix="finalbell-test-")) / "home"
    found(home)
    if sells is not None:
        Home(home).make()
        write_private(Home(home).payments, json.dumps(sells))
    up = [*FINALBELL, "up", "--detach", "--no-sample", "--home", str(home), "--port", str(free_port()), *ENGINE, *options]
    try:
        made = subprocess.run(
            up, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=180, check=False
        )
        assert made.returncode == 0, made.stdout + made.stderr
        yield Stack(home)
    finally:
        _end(Home(home))
        shutil.rmtree(home.parent, ignore_errors=True)


def found(home: Path) -> None:
    """In a run of tests, give a stack's home keys and an empty, migrated database, which are made once: a third of a start."""
    if FOUNDATION in os.environ:
        subprocess.run(["cp", "-a", _foundation(Path(os.environ[FOUNDATION])), home], check=True)  # shutil takes twice the time


def _foundation(folder: Path) -> Path:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "home").exists():
            home = Home(folder / "scratch")
            home.make()
            for make in (keys.make_keys, keys.make_receipt_keys, keys.make_media_keys):
                make(home)
            with ExitStack() as held:
                at = processes.Addresses(0, ports.reserve(["postgres"], {}, held), home.passwords(accounts.NAMES))
                server = processes.postgres(home, at)
                how = {"cwd": home.path, "stderr": subprocess.DEVNULL, "preexec_fn": processes.become_child(server)}
                with subprocess.Popen(server.command, **how) as postgres:
                    try:
                        assert wait(server.ready, 60)
                        database.prepare(at)
                    finally:
                        postgres.send_signal(server.stop_signal)
                assert postgres.returncode == 0  # all is in its files
            home.path.rename(folder / "home")
    return folder / "home"


def _end(home: Home) -> None:
    """End a stack whose data nobody wants any more: without its goodbyes, since all that it runs ends with its supervisor."""
    supervisor, started = home.holder(), [life["pid"] for life in (home.stack() or {}).get("processes", ())]
    if supervisor:
        os.kill(supervisor, signal.SIGKILL)
    if not wait(lambda: home.holder() is None and not any(map(home.owns, started)), 20):
        for pid in filter(home.owns, started):
            os.kill(pid, signal.SIGKILL)


def bearer(token: str, key: str | None = None) -> list[tuple[str, str]]:
    """Metadata of a call: the token, and an idempotency key."""
    return [("authorization", f"Bearer {token}"), *([("idempotency-key", key)] if key else [])]


def fresh(prefix: str) -> str:
    """A name that nobody has used."""
    return f"{prefix}{uuid.uuid4().hex[:12]}"


def uuid7(at_ms: int | None = None) -> uuid.UUID:
    """A UUIDv7, as PostgreSQL makes them: partitions are cut by the time in it."""
    bits = ((at_ms or int(time.time() * 1000)) << 80) | (uuid.uuid4().int & ((1 << 80) - 1))
    return uuid.UUID(int=bits & ~(0xF << 76) & ~(0x3 << 62) | (7 << 76) | (2 << 62))


def key() -> dict[str, str]:
    """The header of a fresh idempotency key."""
    return {"idempotency-key": uuid.uuid4().hex}


async def eventually(check: Callable[[], Awaitable[Any]], seconds: float = 20.0) -> Any:
    """Wait until `check` gives something true, and return it; fail when it never does. What has taken long is asked seldomer."""
    import asyncio

    began = time.monotonic()
    while True:
        found = await check()
        if found:
            return found
        waited = time.monotonic() - began
        assert waited < seconds, "it did not happen in time"
        await asyncio.sleep(min(max(0.05, waited / 20), 0.25))


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

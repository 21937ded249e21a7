"""Keeps a stack's processes running: starts them in order, restarts what dies, stops them in order.

One thread and one loop: a child's end when the supervisor is killed is tied to the thread that made the child.
"""

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

from ops import accounts, ports, processes
from ops.home import Home, read_json, write_private
from ops.keys import make_keys
from ops.processes import Addresses, Process

READY_SECONDS = 60.0
DRAIN_SECONDS = 15.0
FIRST_BACKOFF, LONGEST_BACKOFF, CALM_SECONDS = 0.2, 10.0, 30.0
LOG_BYTES = 16 * 1024 * 1024

Say = Callable[[str], None]


class CannotStart(Exception):
    """The stack cannot come up; the message says why and what to do."""


class Stopped(Exception):
    """Somebody asked for the end."""


@dataclass(slots=True)
class Child:
    """A process and its life so far."""

    process: Process
    handle: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    started: float = 0.0
    backoff: float = FIRST_BACKOFF
    due: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """One stack. `run` returns when it was stopped."""

    home: Home
    port: int
    workers: dict[str, int]
    engine: str
    say: Say
    children: list[Child] = field(default_factory=list)
    address: Addresses | None = None
    hurry: bool = False

    def run(self, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready`, and look after it until SIGINT or SIGTERM."""
        with ExitStack() as held:
            self.home.make()
            held.enter_context(lock(self.home))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)
            try:
                self._start(held)
                on_ready()
                while True:
                    self._revive()
                    time.sleep(0.1)
            except Stopped:
                self.say("stopping")
            finally:
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, self._on_second_signal)

    def _start(self, held: ExitStack) -> None:
        at = self.address = self._addresses(held)
        held.callback(self._stop)  # after the lock and the ports: they are given back when nothing uses them any more
        make_keys(self.home)
        self.say("starting PostgreSQL, Redis and NATS")
        self._spawn([processes.postgres(self.home, at), processes.redis(self.home, at), processes.nats(self.home, at)])
        self.say("preparing the database")
        prepare_database(at)
        self.say("starting the services")
        units = [(unit, worker) for unit in processes.UNITS for worker in range(self.workers.get(unit, 1))]
        self._spawn([processes.service(self.home, at, unit, worker, self.engine) for unit, worker in units])
        self.say("starting Envoy")
        self._spawn([processes.envoy(self.home, at)])

    def _addresses(self, held: ExitStack) -> Addresses:
        """Choose every port, and keep the choice for the next time."""
        if not ports.take(self.port, held):
            raise CannotStart(f"Port {self.port} is taken: stop what uses it, or choose another with --port.")
        extra = [f"{unit}.{n + 1} metrics" for unit, count in self.workers.items() for n in range(1, count)]
        names = ["postgres", "redis", "nats", "envoy admin", *processes.UNITS, *(f"{u} metrics" for u in processes.UNITS), *extra]
        file = self.home.path / "ports.json"
        chosen = ports.reserve(names, read_json(file) or {}, held)
        write_private(file, json.dumps(chosen, indent=1))
        return Addresses(self.port, chosen, self.home.passwords(accounts.NAMES))

    def _spawn(self, group: Sequence[Process]) -> None:
        """Start processes side by side and wait until each is ready."""
        children = [Child(process) for process in group]
        for child in children:
            self._launch(child)
            self.children.append(child)
        deadline = time.monotonic() + READY_SECONDS
        waiting = children
        while waiting := [child for child in waiting if not child.process.ready()]:
            for child in waiting:
                if child.handle is not None and child.handle.poll() is not None:
                    raise CannotStart(f"{child.process.name} ended at its start:\n{tail(self.home, child.process.name)}")
            if time.monotonic() > deadline:
                names = ", ".join(child.process.name for child in waiting)
                raise CannotStart(f"{names} did not get ready in {READY_SECONDS:.0f} s; see {self.home.path / 'logs'}.")
            time.sleep(0.05)
        self._write_stack()

    def _launch(self, child: Child) -> None:
        log = self.home.log(child.process.name)
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as out:
            child.handle = subprocess.Popen(
                child.process.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **child.process.environment},
                preexec_fn=processes.become_child(child.process),
            )
        child.started = time.monotonic()

    def _revive(self) -> None:
        """Start again what has died, after a pause that grows while it keeps dying."""
        for child in self.children:
            now = time.monotonic()
            if child.handle is not None and (code := child.handle.poll()) is not None:
                if now - child.started > CALM_SECONDS:
                    child.backoff = FIRST_BACKOFF
                self.say(f"{child.process.name} ended ({_cause(code)}); starting it again in {child.backoff:.1f} s")
                child.handle, child.due = None, now + child.backoff
                child.backoff = min(child.backoff * 2, LONGEST_BACKOFF)
            if child.handle is None and now >= child.due:
                self._launch(child)
                child.restarts += 1
                self._write_stack()

    def _stop(self) -> None:
        """Stop in the reverse order of the start: no new calls first, the stores last."""
        envoys = [c for c in self.children if c.process.name == "envoy"]
        stores = [c for c in self.children if c.process.name in ("postgres", "redis", "nats")]
        for group in (envoys, [c for c in self.children if c not in envoys and c not in stores], stores):
            _end(group, 0.5 if self.hurry else DRAIN_SECONDS)
        self.home.stack_file.unlink(missing_ok=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._on_second_signal)
        raise Stopped

    def _on_second_signal(self, number: int, frame: FrameType | None) -> None:
        self.hurry = True

    def _write_stack(self) -> None:
        """Write what runs where; fault tests and operators read pids here."""
        at = self.address
        if at is None:
            return
        units: dict[str, dict[str, object]] = {}
        servers: dict[str, dict[str, object]] = {}
        for child in self.children:
            pid = child.handle.pid if child.handle else None
            life: dict[str, object] = {"pid": pid, "port": child.process.port, "restarts": child.restarts}
            unit = child.process.name.partition(".")[0]
            if unit not in processes.UNITS:
                servers[unit] = life
            elif unit not in units:
                units[unit] = {"grpc": f"127.0.0.1:{at.ports[unit]}", "metrics": child.process.metrics, **life}
            else:
                first = units[unit]["pid"]
                units[unit]["pid"] = [*(first if isinstance(first, list) else [first]), pid]
        stack = {
            "gateway": f"http://127.0.0.1:{at.gateway}",
            "pid": os.getpid(),
            "services": units,
            "servers": servers,
            "postgres": at.postgres(accounts.OWNER),
            "redis": at.redis(accounts.OWNER),
            "nats": at.nats(accounts.OWNER),
            "envoy_admin": f"http://127.0.0.1:{at.ports['envoy admin']}",
        }
        write_private(self.home.stack_file, json.dumps(stack, indent=1))


def lock(home: Home) -> IO[str]:
    """Take the home's lock, which its supervisor holds for life; raises CannotStart when somebody has it."""
    handle = home.lock_file.open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise CannotStart(f"A stack runs in {home.path} already.") from None
    return handle


def running(home: Home) -> bool:
    """Whether a supervisor holds the home; its lock says so, not a file that may be stale."""
    if not home.lock_file.exists():
        return False
    try:
        lock(home).close()
    except CannotStart:
        return True
    return False


def tail(home: Home, name: str, lines: int = 8) -> str:
    """Return the end of a log."""
    try:
        return "\n".join(home.log(name).read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def prepare_database(at: Addresses) -> None:
    """Make the database, migrate it, and give every service's role its password."""
    import psycopg
    from psycopg import sql

    from stores.migrate import migrate

    owner = at.postgres(accounts.OWNER)
    with psycopg.connect(owner.removesuffix("/finalbell") + "/postgres", autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = 'finalbell'").fetchone() is None:
            connection.execute("CREATE DATABASE finalbell")
    migrate(owner)
    with psycopg.connect(owner, autocommit=True) as connection:
        for account in accounts.ACCOUNTS:
            role = sql.Identifier(accounts.postgres_role(account.name))
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(at.passwords[account.name])))


def _end(group: Sequence[Child], seconds: float) -> None:
    """Ask processes to end, wait, and end those that don't."""
    alive = [child.handle for child in group if child.handle is not None and child.handle.poll() is None]
    for child in group:
        if child.handle is not None and child.handle.poll() is None:
            child.handle.send_signal(child.process.stop_signal)
    deadline = time.monotonic() + seconds
    for handle in alive:
        try:
            handle.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            handle.kill()
            handle.wait()


def _cause(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

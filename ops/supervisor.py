"""Keeps a stack's processes running: starts them in order, restarts what dies, stops them in order.

One thread and one loop: a child's end when the supervisor is killed is tied to the thread that made the child.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType

from ops import accounts, children, database, ports, processes
from ops.children import Child
from ops.home import Home, read_json, wait, write_private
from ops.keys import make_keys, make_media_keys, make_receipt_keys
from ops.nursery import Nursery
from ops.plan import UNITS, CannotStart, Plan
from ops.processes import Addresses, Process
from ops.selling import sandboxed

READY_SECONDS = 120.0
DRAIN_SECONDS = 15.0
GONE_SECONDS = 10.0
LIVES_TO_START = 3
"""How often a unit of ours is started before the start is given up: on a busy machine a store may not answer it in time."""

Say = Callable[[str], None]


class Stopped(KeyboardInterrupt):
    """Somebody asked for the end. It rises out of whatever runs then, so neither asyncio nor `except Exception` may stop it."""


@dataclass(slots=True)
class Supervisor:
    """One stack. `run` returns when it was stopped."""

    home: Home
    plan: Plan
    say: Say
    children: list[Child] = field(default_factory=list)
    address: Addresses | None = None
    signals: int = 0
    undisturbed: bool = False
    nursery: Nursery = field(init=False)

    def __post_init__(self) -> None:
        self.nursery = Nursery(self.home)

    def run(self, on_ready: Callable[[], None]) -> None:
        """Start everything, call `on_ready`, and look after it until SIGINT, SIGTERM or SIGHUP; raises CannotStart."""
        with ExitStack() as held:
            lock = self.home.hold()
            if lock is None:
                raise CannotStart(f"A stack runs in {self.home.path} already: 'finalbell status' shows it.")
            held.enter_context(lock)
            try:
                self._hear_signals()
                self._start(held)
                on_ready()
                while True:
                    self._heed()
                    self._revive()
                    time.sleep(0.1)
            except Stopped:
                self.say("stopping; Ctrl-C again to hurry")
            except (OSError, subprocess.SubprocessError, ports.NoPort) as reason:
                raise CannotStart(str(reason)) from reason
            finally:
                self.undisturbed = True

    def _start(self, held: ExitStack) -> None:
        self._wait_for_an_earlier_end()
        at = self.address = self._addresses(held)
        held.callback(self._stop)  # after the lock and the ports: they are given back when nothing uses them any more
        make_keys(self.home)
        make_receipt_keys(self.home)
        make_media_keys(self.home)
        self.say("starting PostgreSQL, Redis and NATS")
        held.callback(self.nursery.close)
        self.nursery.open()  # it loads meanwhile
        makers = (processes.redis, processes.nats, processes.postgres)  # the slowest last: the others start meanwhile
        self._spawn(make(self.home, at) for make in makers)
        self.say("preparing the database")
        try:
            database.prepare(at)
        except Exception as reason:  # the driver's, the migration library's, or what a migration raised
            raise CannotStart(f"The database cannot be prepared: {reason}".strip()) from reason
        self.say("starting the services")
        try:
            till = [processes.sandbox(self.home, at)] if sandboxed(self.home, at.ports["sandbox"]) else []
        except ValueError as reason:
            raise CannotStart(str(reason)) from reason
        units = [(unit, worker) for unit in UNITS for worker in range(self.plan.workers.get(unit, 1))]
        services = [processes.service(self.home, at, unit, worker, self.plan.engine) for unit, worker in units]
        self._spawn([*till, *services])
        self.say("starting Envoy")
        self._spawn([processes.envoy(self.home, at, self.plan.workers)])

    def _wait_for_an_earlier_end(self) -> None:
        """Let the processes of a killed supervisor go first: they were told to end when it died, and may take a moment."""
        self.home.ready_file.unlink(missing_ok=True)
        left = [life["pid"] for life in (self.home.stack() or {}).get("processes", ()) if life["pid"]]
        if not wait(lambda: not any(self.home.owns(pid) for pid in left), GONE_SECONDS):
            pids = ", ".join(str(pid) for pid in left if self.home.owns(pid))
            raise CannotStart(f"Processes of an earlier run are still there (pids {pids}): end them, then try again.")
        self.home.stack_file.unlink(missing_ok=True)
        if self.home.data("postgres").exists() and not self.home.secrets_file.exists():
            raise CannotStart(f"{self.home.secrets_file} is gone, and with it the way to the data: restore it, or 'down --wipe'.")

    def _addresses(self, held: ExitStack) -> Addresses:
        """Choose every port, and keep the choice for the next time."""
        if not ports.take(self.plan.port, held):
            raise CannotStart(f"Port {self.plan.port} is taken: stop what uses it, or choose another with --port.")
        names = [processes.worker_name(unit, n) for unit in UNITS for n in range(self.plan.workers.get(unit, 1))]
        units = [*UNITS, *(f"{name} {port}" for name in names for port in ("metrics", "own"))]
        known = read_json(self.home.ports_file) or {}
        chosen = ports.reserve(["postgres", "redis", "nats", "envoy admin", "sandbox", *units], known, held)
        write_private(self.home.ports_file, json.dumps(chosen, indent=1))
        return Addresses(self.plan.port, chosen, self.home.passwords(accounts.NAMES))

    def _spawn(self, group: Iterable[Process]) -> None:
        """Start processes side by side and wait until each is ready."""
        waiting = []
        for process in group:
            child = Child(process)
            self.children.append(child)
            waiting.append(child)
            self._launch(child)
        deadline = time.monotonic() + READY_SECONDS
        while waiting := [child for child in waiting if not child.process.ready()]:
            self._heed()
            for child in waiting:
                if (code := child.ended()) is not None:
                    if child.process.unit and child.restarts + 1 < LIVES_TO_START:
                        self.say(f"{child.process.name} ended {_cause(code)} at its start; starting it again")
                        child.restarts += 1
                        self._launch(child)
                        continue
                    name, log = child.process.name, self.home.tail(child.process.name)
                    raise CannotStart(f"{name} ended {_cause(code)} at its start; its log, {self.home.log(name)}, ends:\n{log}")
            if time.monotonic() > deadline:
                names = ", ".join(child.process.name for child in waiting)
                raise CannotStart(f"{names} did not get ready in {READY_SECONDS:.0f} s; see {self.home.path / 'logs'}.")
            time.sleep(0.05)

    def _launch(self, child: Child) -> None:
        with self._undisturbed():  # a signal between its start and our note of it would leave it behind
            child.launch(self.home, self.nursery)
            self._write_stack()

    def _revive(self) -> None:
        """Start again what has died, after a pause that grows while it keeps dying; the others go on meanwhile."""
        for child in self.children:
            if (code := child.ended()) is not None:
                self.say(f"{child.process.name} ended {_cause(code)}; starting it again in {child.rest():.1f} s")
            if child.handle is None and time.monotonic() >= child.due:
                child.restarts += 1
                try:
                    self._launch(child)
                except (OSError, subprocess.SubprocessError) as reason:  # such as a full disk, which must not end the others
                    if child.handle is None:
                        child.rest()
                    self.say(f"{child.process.name}: {reason}")

    def _stop(self) -> None:
        """Stop in the reverse order of the start: no new calls first, the stores last. Before these whoever writes what NATS has
        in its memory alone."""
        envoys = [c for c in self.children if c.process.name == "envoy"]
        writers = [c for c in self.children if c.process.unit == "signal-worker"]
        stores = [c for c in self.children if c.process.name in ("postgres", "redis", "nats")]
        for group in (envoys, [c for c in self.children if c not in (*envoys, *writers, *stores)], writers, stores):
            children.end(group, DRAIN_SECONDS, lambda: self.signals > 1)
        self.home.ready_file.unlink(missing_ok=True)
        self.home.stack_file.unlink(missing_ok=True)

    def _hear_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup wants us to stay
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if not self.undisturbed:
            self.undisturbed = True
            raise Stopped

    def _heed(self) -> None:
        """Stop now, if somebody asked before: what the signal raised is lost where it comes inside a finalizer, say."""
        if self.signals:
            raise Stopped

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Hear a signal only at the end of this block."""
        self.undisturbed = True
        try:
            yield
        finally:
            self.undisturbed = self.signals > 0
            self._heed()

    def _write_stack(self) -> None:
        if self.address is not None:
            write_private(self.home.stack_file, json.dumps(children.describe(self.children, self.address), indent=1))


def _cause(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

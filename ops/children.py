"""A stack's child processes: start one, end several, tell what runs where."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ops import accounts, processes
from ops.home import Home, wait, write_private
from ops.nursery import Forked, Nursery
from ops.plan import UNITS
from ops.processes import Addresses, Process

FIRST_BACKOFF, LONGEST_BACKOFF, CALM_SECONDS = 0.2, 10.0, 5.0
KILL_SECONDS = 6.0
LOG_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Child:
    """A process and its life so far. `handle` is None between its end and its next start."""

    process: Process
    handle: subprocess.Popen[bytes] | Forked | None = None
    pid: int | None = None
    restarts: int = 0
    started: float = 0.0
    backoff: float = FIRST_BACKOFF
    due: float = 0.0

    def ended(self) -> int | None:
        """Return the exit code of a process that has ended just now."""
        return None if self.handle is None else self.handle.poll()

    def launch(self, home: Home, nursery: Nursery) -> None:
        """Start it, with its output in its log; a unit of ours comes from the nursery where that works. Raises OSError and
        SubprocessError."""
        log = home.log(self.process.name)
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        if self.process.unit:
            write_private(home.config(f"{self.process.name}.json"), json.dumps(self.process.environment, indent=1))
        self.started = time.monotonic()
        with log.open("ab") as out:
            forked = nursery.bear(self.process, out.fileno()) if self.process.unit else None
            self.handle = forked or subprocess.Popen(
                self.process.command,
                cwd=home.path,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.process.environment},
                preexec_fn=processes.become_child(self.process),
            )
        self.pid = self.handle.pid

    def rest(self) -> float:
        """Put off its next start, longer every time unless it was calm for a while; returns the seconds."""
        now = time.monotonic()
        if now - self.started > CALM_SECONDS:
            self.backoff = FIRST_BACKOFF
        pause = self.backoff
        self.handle, self.due, self.backoff = None, now + pause, min(pause * 2, LONGEST_BACKOFF)
        return pause


def end(group: Sequence[Child], seconds: float, hurry: Callable[[], bool]) -> None:
    """Ask processes to end, wait, and kill those that don't: at the latest after `seconds`, or as soon as there is a hurry."""
    alive = [child for child in group if child.handle is not None and child.ended() is None]
    _signal(alive, lambda child: child.process.stop_signal)
    wait(lambda: hurry() or _gone(alive), seconds)
    _signal(alive, lambda child: child.process.orphan_signal)
    wait(lambda: _gone(alive), KILL_SECONDS)
    _signal(alive, lambda child: signal.SIGKILL)
    wait(lambda: _gone(alive), KILL_SECONDS)


def _signal(group: Sequence[Child], chosen: Callable[[Child], signal.Signals]) -> None:
    for child in group:
        if child.handle is not None:
            child.handle.send_signal(chosen(child))  # does nothing to one that has ended


def _gone(group: Sequence[Child]) -> bool:
    return all(child.ended() is not None for child in group)


def describe(children: Sequence[Child], at: Addresses) -> dict[str, object]:
    """Return `stack.json`: what runs where, for operators and fault tests.

    `processes` has one entry per process; `services` one per unit, whose pid is a list where it has several workers.
    A process that waits for its next start keeps its last pid here.
    """
    lives: list[dict[str, object]] = [
        {"name": c.process.name, "pid": c.pid, "port": c.process.port, "metrics": c.process.metrics, "restarts": c.restarts}
        for c in children
    ]
    services = {unit: _unit(unit, lives, at) for unit in UNITS if any(life["name"] == unit for life in lives)}
    servers = {
        str(life["name"]): {name: life[name] for name in ("pid", "port", "restarts")} for life in lives if not life["metrics"]
    }
    return {
        "gateway": f"http://127.0.0.1:{at.gateway}",
        "pid": os.getpid(),
        "services": services,
        "servers": servers,
        "processes": lives,
        "postgres": at.postgres(accounts.OWNER),
        "redis": at.redis(accounts.OWNER),
        "nats": at.nats(accounts.OWNER),
        "envoy_admin": f"http://127.0.0.1:{at.ports['envoy admin']}",
    }


def _unit(unit: str, lives: Sequence[dict[str, object]], at: Addresses) -> dict[str, object]:
    workers = [life for life in lives if str(life["name"]).partition(".")[0] == unit]
    pids = [life["pid"] for life in workers]
    return {
        "grpc": f"127.0.0.1:{at.ports[unit]}",
        "metrics": workers[0]["metrics"],
        "pid": pids if len(pids) > 1 else pids[0],
        "port": at.ports[unit],
        "restarts": sum(int(str(life["restarts"])) for life in workers),
    }

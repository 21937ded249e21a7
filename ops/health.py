"""How a stack is: each process asked for its health now, and what may be wrong with the machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops import ports, probes
from ops.home import Home, read_json
from ops.processes import envoy_binary, nats_binary, postgres_binaries, valkey_binary

LAGS: Mapping[str, Mapping[str, str]] = {
    "snapshots": {
        "entries": "finalbell_snapshot_lag_entries",
        "seconds": "finalbell_snapshot_lag_seconds",
        "dirty sessions": "finalbell_snapshot_dirty_sessions",
    },
    "bell": {
        "unscored": "finalbell_unscored_sessions",
        "dead letters": "finalbell_dead_letters_waiting",
        "submission rows": "finalbell_submission_rows",
        "times pending": "finalbell_deadlines_pending",
        "holding": "finalbell_bell_held",
        "clock skew seconds": "finalbell_clock_skew_seconds",
    },
    "integrity": {"waiting reports": 'finalbell_queue_waiting{queue="signals"}'},
    "signal-worker": {"backlog": "finalbell_signals_backlog", "lost": "finalbell_signals_lost"},
    "scoring-worker": {"backlog": "finalbell_scoring_backlog", "unacknowledged": "finalbell_scoring_unacknowledged"},
}
"""What waits for each unit, by the names that people read, and the metrics behind them."""

TROUBLES: Mapping[str, tuple[float, str]] = {
    "seconds": (5, "SnapshotLag"),
    "dirty sessions": (0, "SnapshotLogFull"),
    "dead letters": (0, "DeadLetters"),
    "submission rows": (0, "JetStreamAway"),
    "holding": (0, "BellHeld"),
    "clock skew seconds": (2, "ClockSkew"),
}
"""Figures past which an operator is needed at once, and their runbooks."""

NEEDED = 1 << 30
BINARIES: Mapping[str, Callable[[], Path]] = {
    "PostgreSQL": lambda: postgres_binaries() / "postgres",
    "Valkey": valkey_binary,
    "NATS": nats_binary,
    "Envoy": envoy_binary,
}
SERVERS: Mapping[str, Callable[[dict[str, Any]], bool]] = {
    "postgres": lambda stack: probes.answers_sql(stack["postgres"]),
    "redis": lambda stack: probes.answers_ping(stack["redis"]),
    "nats": lambda stack: probes.greets(stack["nats"]),
    "sandbox": lambda stack: probes.page(f"127.0.0.1:{stack['servers']['sandbox']['port']}", "/healthz") is not None,
    "envoy": lambda stack: probes.page(stack["envoy_admin"].removeprefix("http://"), "/ready") is not None,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One process of a stack; `lag` is how much work waits for it, by name, empty where none can."""

    name: str
    pid: int | None
    port: int
    healthy: bool
    restarts: int
    lag: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    fine: bool
    what: str
    mend: str = ""


def check(home: Home) -> list[Row]:
    """Return the processes of a running stack; none when none runs."""
    stack = home.stack()
    if stack is None or home.holder() is None:
        return []
    with ThreadPoolExecutor() as pool:  # a process that hangs costs its second once, not once each
        return list(pool.map(lambda process: _row(process, stack), stack["processes"]))


def diagnose(home: Home) -> list[Finding]:
    """Return what was looked at: Python, the servers' binaries, disk, memory, ports, processes."""
    findings = [Finding(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}", "Use Python 3.11 or newer.")]
    findings += [_binary(name, find) for name, find in BINARIES.items()]
    folder = next(path for path in (home.path, *home.path.parents) if path.exists())
    findings.append(_room(shutil.disk_usage(folder).free, f"of disk are free in {folder}"))
    findings.append(_room(_available_memory(), "of memory are free"))
    rows = check(home)
    if not rows:
        return [*findings, *_stopped(home)]
    for row in rows:
        mend = f"One that dies is started again by itself, one that hangs may be killed; its log ends:\n{home.tail(row.name, 4)}"
        findings.append(Finding(row.healthy, f"{row.name} (pid {row.pid}, {row.restarts} restarts)", mend))
    for unit, name, value in ((row.name, name, value) for row in rows for name, value in row.lag.items() if name in TROUBLES):
        most, runbook = TROUBLES[name]
        findings.append(Finding(abs(value) <= most, f"{unit}, {name}: {value:g}", f"See docs/runbooks/{runbook}.md."))
    return findings


def _row(process: dict[str, Any], stack: dict[str, Any]) -> Row:
    name, metrics = process["name"], process["metrics"]
    unit = name.partition(".")[0]
    if unit in SERVERS:
        return Row(name, process["pid"], process["port"], SERVERS[unit](stack), process["restarts"], {})
    told = probes.page(metrics, "/metrics")  # its own port: a sibling may answer on the one that workers share
    healthy = told is not None and probes.serves(f"127.0.0.1:{process['port']}")
    return Row(name, process["pid"], process["port"], healthy, process["restarts"], _lag(unit, told or ""))


def _lag(unit: str, metrics: str) -> Mapping[str, float]:
    """Find how much work waits in a process's own metrics."""
    lines = [line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#")]
    values = {name: float(value) for name, value in lines}
    return {name: round(values[metric], 3) for name, metric in LAGS.get(unit, {}).items() if metric in values}


def _binary(name: str, find: Callable[[], Path]) -> Finding:
    try:
        ran = subprocess.run([str(find()), "--version"], capture_output=True, text=True, check=False)
    except (OSError, ImportError) as reason:
        return Finding(False, f"{name} does not run: {reason}", "Install again: make setup.")
    first = (ran.stdout or ran.stderr).strip().partition("\n")[0]
    return Finding(ran.returncode == 0, f"{name} runs: {first}", "Install again: make setup.")


def _room(free: int, what: str) -> Finding:
    return Finding(free >= NEEDED, f"{free / (1 << 30):.1f} GiB {what}", "Free at least 1 GiB.")


def _available_memory() -> int:
    """Return the bytes that programs could have, the page cache's included."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _stopped(home: Home) -> list[Finding]:
    known = read_json(home.ports_file) or {}
    taken = [str(port) for port in known.values() if not ports.is_free(port)]
    findings = [Finding(True, f"no stack runs in {home.path}")]
    if taken:
        findings.append(Finding(True, f"ports {', '.join(taken)} are taken by others; the next 'up' chooses new ones"))
    return findings

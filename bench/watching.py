"""Crowds that watch one board: how old a frame is when it arrives, what it costs, and how they come back after a kill."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.local import Stack
from bench.measure import LOAD, cpu, resident
from bench.standings import Seeded, built, changing

WAYS: Mapping[str, tuple[str, int]] = {"grpc": ("watch", 1_000), "gateway": ("watch", 250), "sse": ("sse", 1)}
"""gRPC straight to the service, gRPC through the gateway, events through the gateway; with how many share a connection."""

UNITS = ("leaderboard", "envoy", "redis", "postgres")
CHANGES_PER_SECOND = 1.0
SPARE_DESCRIPTORS = 500


@dataclass(slots=True)
class Crowd:
    """What became of one crowd. Ages are of all frames but each stream's first, from the frame's `asOf` to its receipt."""

    way: str
    watchers: int
    stalled: int
    opened_s: float = 0
    seconds: float = 0
    frames: int = 0
    received: int = 0
    fewest_of_one: int = 0
    p50_ms: float = 0
    p99_ms: float = 0
    p999_ms: float = 0
    max_ms: float = 0
    own_places: int = 0
    cores: dict[str, float] = field(default_factory=dict)
    """How much of a core each process used in the measured time; not the service's where it was killed."""

    bytes_a_watcher: dict[str, float] = field(default_factory=dict)
    """How much a process grew from before the crowd came; a process keeps what it has had, so later crowds seem to cost less."""

    resident_mb: Sequence[tuple[float, float, float]] = ()
    """Seconds, the service's memory, Envoy's."""

    ended: Mapping[str, int] = field(default_factory=dict)
    killed: bool = False
    lost: int = 0
    back_s: float = 0
    """From the kill until all had a frame again; −1: not all had."""

    attempts: int = 0
    most_attempts_in_a_second: int = 0
    dials: int = 0
    most_dials_in_a_second: int = 0

    @property
    def failed(self) -> bool:
        """Whether streams ended that nobody killed, or watchers did not come back."""
        return self.back_s < 0 if self.killed else bool(self.ended)

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take what the load tool says at the end."""
        self.seconds, self.frames, self.received, self.fewest_of_one = (
            told[name] for name in ("seconds", "frames", "received", "fewestOfOne")
        )
        self.p50_ms, self.p99_ms, self.p999_ms, self.max_ms = (
            told[name] for name in ("ageP50Ms", "ageP99Ms", "ageP999Ms", "ageMaxMs")
        )
        self.own_places, self.ended, self.lost = told["ownPlaces"], told["ended"], told["mostLost"]
        self.attempts, self.most_attempts_in_a_second = told["attempts"], told["mostAttemptsInASecond"]
        self.dials, self.most_dials_in_a_second = told["dials"], told["mostDialsInASecond"]
        self.cores["load"] = round(told["loadCpuSeconds"] / self.seconds, 3)


def more_descriptors() -> int:
    """Allow this process, and all that it starts, as many open files as it may have; returns how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (200_000, most):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, most)))
        except (ValueError, OSError):
            continue
        return wanted
    return most


def watched(
    place: Stack, seeded: Seeded, way: str, students: Path, watchers: int, *, seconds: float, stalled: float = 0, kill: bool = False
) -> Crowd:
    """Let a crowd watch a board that changes once a second; with `kill` the service, or one of its processes, is killed when a
    third of the time has gone."""
    mode, streams = WAYS[way]
    address = place.address("leaderboard") if way == "grpc" else urlsplit(place.read()["gateway"]).netloc
    given = {
        **{"mode": mode, "address": address, "sessions": students, "exam": seeded.exam, "watchers": watchers},
        **{"streams": streams, "stalled": stalled, "seconds": seconds},
    }
    command = [str(LOAD), *(f"-{name}={value}" for name, value in given.items())]
    found = Crowd(way, watchers, 0, killed=kill)
    _afresh(place, seeded)
    before = _memory(place)
    with (
        changing(place, seeded, CHANGES_PER_SECOND),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tool,
    ):
        try:
            began = _says(tool, "watching")
            found.watchers, found.stalled, found.opened_s = began["watchers"], began["stalled"], round(began["openedInSeconds"], 1)
            used, killed_at = cpu(place), 0.0
            samples = [(0.0, *_memory(place))]
            if kill:
                time.sleep(seconds / 3)
                killed_at = time.time()
                os.kill(place.pids("leaderboard")[0], signal.SIGKILL)
            else:
                samples += _sampled(place, seconds)
            _says(tool, "measured")
            now = cpu(place)
            found.cores = {
                unit: round((now[unit] - used[unit]) / seconds, 3) for unit in UNITS if not (kill and unit == "leaderboard")
            }
            told = _says(tool, "done")
            found.hear(told)
            after = _memory(place)
            found.resident_mb = [(round(at), round(own / 2**20, 1), round(envoy / 2**20, 1)) for at, own, envoy in samples]
            if kill:
                found.back_s = round(told["backAt"] - killed_at, 2) if told["backAt"] else -1
            else:
                every, names = found.watchers + found.stalled, ("leaderboard", "envoy")
                found.bytes_a_watcher = {n: round((a - b) / every) for n, a, b in zip(names, after, before, strict=True)}
        finally:
            tool.stdin.close()  # type: ignore[union-attr]  # it is a pipe
            tool.terminate()
    return found


def _afresh(place: Stack, seeded: Seeded) -> None:
    """Have the service start again, so that its memory is not what an earlier crowd has left."""
    before = place.read()["services"]["leaderboard"]["pid"]
    for pid in place.pids("leaderboard"):
        os.kill(pid, signal.SIGTERM)
    while place.read()["services"]["leaderboard"]["pid"] == before:
        time.sleep(0.2)
    asyncio.run(built(place, seeded))


def _sampled(place: Stack, seconds: float) -> Iterator[tuple[float, float, float]]:
    """Look at the memory of service and gateway twenty times."""
    began = time.monotonic()
    for number in range(1, 21):
        time.sleep(max(0.0, began + 0.95 * seconds * number / 20 - time.monotonic()))
        yield time.monotonic() - began, *_memory(place)


def _memory(place: Stack) -> tuple[float, float]:
    return resident(place.pids("leaderboard")), resident(place.pids("envoy"))


def _says(tool: "subprocess.Popen[str]", state: str) -> Mapping[str, Any]:
    line = tool.stdout.readline() if tool.stdout else ""
    told: Mapping[str, Any] = json.loads(line) if line else {}
    if told.get("state") != state:
        raise ChildProcessError(f"the load tool ended before it was {state}")
    return told


def fitting(way: str, watchers: Sequence[int], descriptors: int) -> Sequence[int]:
    """Return the sizes that this machine allows: events need a connection each, of the load tool's and of Envoy's descriptors."""
    most = descriptors - SPARE_DESCRIPTORS
    if WAYS[way][1] > 1 or all(count <= most for count in watchers):
        return watchers
    print(f"{way}: at most {most:,} watchers, since a process may have {descriptors:,} files open here", file=sys.stderr)
    return sorted({min(count, most) for count in watchers})

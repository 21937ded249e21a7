"""The final bell: sessions handed in at a rate, as fast as they go, and by the bell alone, until each is scored and ranked.

python -m bench.submits [--sessions 100000] [--bursts tenth offered flood bell naive lazily] [--short]

Every session has 60 answers. The load hands each in once through the gateway as REST, and asks for the result as an app does
where the answer is 202. Exit code 1 when a submit was refused for good, or `finalbell audit` finds a difference. Figures go to
bench/results/submits.json, the plot to bench/results/submits.svg.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from finalbell.v1.admin_pb2 import UpdateScheduleRequest
from redis import Redis

from bench.local import FINALBELL, ROOT, Stack, free_port, stack, until
from bench.measure import LOAD, Figure, arguments, build_load, cpu, keep, measure_c, served, table
from bench.plot import draw_submits
from bench.sittings import Sittings, import_mock, sat
from ops.client import client
from ops.keys import AUDIENCE, ISSUER
from stores import keys

BELL_SECONDS = 90
"""How far ahead the exam's close is set: 100,000 ends have to be moved before it."""

BURSTS: Mapping[str, tuple[float, float, int]] = {
    "tenth": (0.2, 0.1, 256),
    "offered": (1, 0.28, 512),
    "flood": (1, 0, 256),
    "bell": (1, 0, 0),
    "naive": (0.2, 0, 64),
    "lazily": (0.2, 0.28, 512),
}
"""Each burst: its share of the sessions, the rate offered in C (0: a closed loop, or nobody clicks), and the connections."""

UNITS = ("envoy", "session", "redis", "nats", "scoring-worker", "scoring", "postgres", "bell", "load")
LAG = """
  SELECT percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY extract(epoch FROM r.scored_at - s.submitted_at) * 1000)
  FROM result r JOIN exam_session s ON s.id = r.session_id WHERE r.exam_id = $1
"""


@dataclass(slots=True)
class Burst:
    """What came of one set of sessions; times in seconds from its first submit (or from the bell)."""

    name: str
    sessions: int
    offered: float
    answered: float = 0
    """Until the last submit was answered; 0 where nobody clicked."""

    ranked: float = 0
    """Until the last session stood on the board."""

    p50_ms: float = 0
    p99_ms: float = 0
    max_ms: float = 0
    status: Mapping[str, int] = field(default_factory=dict)
    visible_p50_ms: float = 0
    """From when a submit was due until its student has seen the score; those answered with 202 ask again after a second."""

    visible_p99_ms: float = 0
    lag_ms: Sequence[float] = ()
    """From the flip to the result's transaction, by the servers' clocks: p50, p99, longest."""

    refused: Mapping[str, int] = field(default_factory=dict)
    cpu_us: dict[str, float] = field(default_factory=dict)
    wal_bytes: float = 0
    backlog: Sequence[tuple[float, int, int]] = ()
    """Seconds, sessions flipped and not scored, sessions ranked."""

    unanswered: int = 0
    """Submits that had no final answer, or no score was seen for, in the load's five minutes."""

    audit_seconds: float = 0
    differences: int | None = None
    """None where nothing was audited: the peer does not keep what an auditor needs."""

    @property
    def failed(self) -> bool:
        """Whether something was refused for good; 503 and 429 are repeated until they are answered, as an app does."""
        refused = [what for what in self.refused if not what.removeprefix("result: ").startswith(("503", "429"))]
        return bool(refused or self.unanswered or self.differences)

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take what the load tool says, its own CPU time included."""
        self.answered, self.p50_ms, self.p99_ms, self.max_ms = told["seconds"], told["p50Ms"], told["p99Ms"], told["maxMs"]
        self.visible_p50_ms, self.visible_p99_ms = told["visibleP50Ms"], told["visibleP99Ms"]
        self.status, self.refused = told["status"], told["refused"]
        self.unanswered = self.sessions - min(told["answered"], told["visible"])
        self.cpu_us["load"] = round(told["loadCpuSeconds"] * 1e6 / self.sessions, 1)


class Watched:
    """Samples the backlog and the board beside a burst; two threads' worth of nothing, but the curve that people look at."""

    def __init__(self, place: Stack, exam: str, sessions: int) -> None:
        self._redis = Redis.from_url(place.read()["redis"])
        self._exam, self._sessions = exam, sessions
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.began = 0.0
        self.curve: list[tuple[float, int, int]] = []

    def start(self, began: float) -> None:
        self.began = began
        self._thread.start()

    def wait(self, seconds: float = 600) -> float:
        """Wait until everybody is ranked; returns the seconds since the start."""
        self._thread.join(seconds)
        self._stop.set()
        if self.curve[-1][2] < self._sessions:
            raise TimeoutError(f"{self.curve[-1][2]} of {self._sessions} were ranked after {seconds} s")
        return self.curve[-1][0]

    def _sample(self) -> None:
        while not self._stop.wait(0.1):
            with self._redis.pipeline(transaction=False) as pipeline:
                for number in range(keys.SHARDS):
                    pipeline.zcard(keys.unscored_key(number))
                pipeline.zcard(f"lb:{{{self._exam}}}")
                *waiting, ranked = pipeline.execute()
            ranked = max(0, ranked - 1)  # the sentinel
            self.curve.append((round(time.monotonic() - self.began, 2), sum(waiting), ranked))
            if ranked >= self._sessions:
                return


def clicked(place: Stack, name: str, sittings: Sittings, rate: float, connections: int) -> Burst:
    """Let the students hand in, at a rate or (0) as fast as the connections go."""
    found = Burst(name, sittings.count, rate)
    watched = Watched(place, sittings.exam, sittings.count)
    with measured(place, found, sittings):
        watched.start(time.monotonic())
        told = handed_in(urlsplit(place.read()["gateway"]).netloc, sittings, rate, connections)
        found.ranked = watched.wait()
    found.hear(told)
    found.backlog = watched.curve
    audit(place, sittings, found)
    return found


def handed_in(address: str, sittings: Sittings, rate: float, connections: int) -> dict[str, Any]:
    """Have the load tool hand every session in; returns what it says."""
    given = {"mode": "submit", "address": address, "sessions": sittings.file, "rate": rate, "connections": connections}
    command = [str(LOAD), *(f"-{name}={value}" for name, value in given.items())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=1_200)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def rung(place: Stack, name: str, sittings: Sittings) -> Burst:
    """Let the exam close: every session ends in one moment, and nobody clicks."""
    ahead = 10 + BELL_SECONDS * sittings.count / 100_000
    found, closes = Burst(name, sittings.count, 0), (datetime.now(UTC) + timedelta(seconds=ahead)).replace(microsecond=0)
    with client(place.home, None, None) as admin:
        request = UpdateScheduleRequest(exam_id=sittings.exam)
        request.closes_at.FromDatetime(closes)
        admin.reschedule(request)
    unsettled = "SELECT count(*) FROM exam_session WHERE deadline_applied < deadline_version"
    settled = asyncio.run(until(lambda: _none(place, unsettled), ahead))
    print(f"{sittings.count:,} ends were moved in {settled:.0f} s", file=sys.stderr)
    watched = Watched(place, sittings.exam, sittings.count)
    time.sleep(max(0.0, (closes - datetime.now(UTC)).total_seconds()))
    with measured(place, found, sittings):
        watched.start(time.monotonic())
        found.ranked = watched.wait()
    found.backlog = watched.curve
    audit(place, sittings, found)
    return found


async def _none(place: Stack, query: str) -> bool:
    return await place.count(query) == 0


@contextmanager
def measured(place: Stack, found: Burst, sittings: Sittings) -> Iterator[None]:
    """Note what a burst costs, by process and in bytes."""
    used, written = cpu(place), asyncio.run(_wal(place))
    yield
    found.cpu_us = {
        unit: round((seconds - used[unit]) * 1e6 / sittings.count, 1)
        for unit, seconds in cpu(place).items()
        if seconds - used[unit] > 0
    }
    found.wal_bytes = round((asyncio.run(_wal(place)) - written) / sittings.count)
    found.lag_ms = asyncio.run(_lag(place, sittings.exam))


async def _wal(place: Stack) -> int:
    return await place.count("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")


async def _lag(place: Stack, exam: str) -> list[float]:
    connection = await asyncpg.connect(place.read()["postgres"], timeout=10)
    try:
        return [round(one, 1) for one in await connection.fetchval(LAG, exam) or ()]
    finally:
        await connection.close()


def audit(place: Stack, sittings: Sittings, found: Burst) -> None:
    """Let the auditor compute everything again."""
    began = time.monotonic()
    command = [*FINALBELL, "audit", sittings.exam, "--home", str(place.home), "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=600, check=False)
    found.audit_seconds = round(time.monotonic() - began, 1)
    found.differences = len(json.loads(done.stdout)["violations"])


def show(c: Figure, bursts: Sequence[Burst]) -> None:
    """Print the tables."""
    print(f"\nC = {c} empty grpc.aio calls/s on one core")
    head = ["burst", "sessions", "offered/s", "answered in s", "ranked in s", "p50 ms", "p99 ms", "seen p50", "seen p99", "200/202"]
    rows = [
        [
            *(b.name, f"{b.sessions:,}", f"{b.offered:,.0f}" if b.offered else "-", f"{b.answered:.1f}", f"{b.ranked:.1f}"),
            *(b.p50_ms, b.p99_ms, b.visible_p50_ms, b.visible_p99_ms, "/".join(str(b.status.get(s, 0)) for s in ("200", "202"))),
        ]
        for b in bursts
    ]
    table("Submits: answers, and scores as students see them", head, rows)
    rows = [[b.name, *(f"{b.cpu_us.get(u, 0):.0f}" for u in UNITS), f"{b.wal_bytes:,.0f}", b.lag_ms] for b in bursts]
    table("CPU-µs and bytes a submit; flip to result in ms (p50, p99, longest)", ["burst", *UNITS, "WAL B", "lag ms"], rows)
    rows = [
        [b.name, f"{b.audit_seconds:.0f} s", "-" if b.differences is None else b.differences, dict(b.refused) or "none"]
        for b in bursts
    ]
    table("Audit", ["burst", "took", "differences", "refused"], rows)


def naive(place: Stack, sittings: Sittings) -> Burst:
    """Let the same students hand in to a peer that does everything in the request, without a gateway in front of it."""
    found = Burst("naive peer, no gateway", sittings.count, 0)
    address = f"127.0.0.1:{free_port()}"
    given = {
        **{"listen": address, "redis": place.read()["redis"], "jwks": place.home / "keys" / "jwks.json"},
        **{"issuer": ISSUER, "audience": AUDIENCE, "postgres": place.read()["postgres"]},
    }
    command = [sys.executable, "-m", "bench.peers.naive_submits", *(p for k, v in given.items() for p in (f"--{k}", str(v)))]
    with served(command) as peer:
        used, written = cpu(place, {"peer": peer.pid}), asyncio.run(_wal(place))
        told = handed_in(address, sittings, 0, 64)
        after = cpu(place, {"peer": peer.pid})
    found.cpu_us = {unit: round((after[unit] - used[unit]) * 1e6 / sittings.count, 1) for unit in after}
    found.cpu_us["session"] = found.cpu_us.pop("peer")
    found.hear(told)
    found.ranked = found.answered  # the peer ranks before it answers
    found.wal_bytes = round((asyncio.run(_wal(place)) - written) / sittings.count)
    return found


@contextmanager
def syncing_lazily(place: Stack) -> Iterator[None]:
    """Let NATS sync as it does by default, every two minutes: what the promise that a submit outlives a power cut costs."""
    config = place.home / "config" / "nats.conf"
    before = config.read_text()
    _restart_nats(place, before.replace("sync_interval: always, ", ""))
    try:
        yield
    finally:
        _restart_nats(place, before)


def _restart_nats(place: Stack, config: str) -> None:
    """Kill NATS; the supervisor starts it again, with what its configuration says by then."""
    (place.home / "config" / "nats.conf").write_text(config)
    for pid in place.pids("nats"):
        os.kill(pid, signal.SIGKILL)
    time.sleep(6)  # until the services have dialled again


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--bursts", nargs="+", default=list(BURSTS), choices=list(BURSTS))
    parser.add_argument("--short", action="store_true", help="a smoke of everything: figures mean nothing")
    given = parser.parse_args()
    count = 200 if given.short else given.sessions
    build_load()
    bursts, measured_c = list[Burst](), list[float]()
    with tempfile.TemporaryDirectory() as scratch, stack() as place:
        import_mock(place)
        for name in given.bursts:
            share, of_c, connections = BURSTS[name]
            sittings = sat(place, max(60, int(count * share)), Path(scratch) / f"{name}.jsonl")
            if not (given.short and measured_c):
                measured_c.append(measure_c(sittings.file, 1 if given.short else 4))
            rate = of_c * measured_c[-1]
            match name:
                case "bell":
                    bursts.append(rung(place, "the bell alone", sittings))
                case "naive":
                    bursts.append(naive(place, sittings))
                case "lazily":
                    with syncing_lazily(place):
                        bursts.append(clicked(place, "NATS syncs every 2 min", sittings, rate, connections))
                case _:
                    label = f"{of_c} C" if of_c else "as fast as it goes"
                    bursts.append(clicked(place, label, sittings, rate, connections))
            show(Figure(tuple(measured_c)), bursts[-1:])
    c = Figure(tuple(measured_c))
    show(c, bursts)
    file = keep(given.results, "submits", {"c": c, "bursts": [asdict(burst) for burst in bursts]})
    draw_submits(file, file.with_suffix(".svg"))
    print(f"\n{file}")
    sys.exit(any(burst.failed for burst in bursts))


if __name__ == "__main__":
    main()

"""Answer saves: the most that go through, how long they take below that, and how peers do with the same work.

python -m bench.saves [--sessions 100000] [--seconds 60] [--rounds 3] [--engines native grpcio] [--no-peers] [--short]

Everything is on: tokens, keys, rate buckets, snapshots, the gateway with its checks. Exit code 1 when a save was refused or
an acknowledged one is not in PostgreSQL. Figures go to bench/results/saves.json, the plot to bench/results/saves.svg.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from bench.local import ROOT, Stack, free_port, stack, until
from bench.losses import nothing_waits
from bench.measure import Figure, Run, arguments, build_load, keep, load, machine, measure_c, served, table
from bench.plot import draw
from bench.sittings import prepare
from ops.keys import AUDIENCE, ISSUER
from stores.pipeline import function_name

SHARES = (0.25, 0.5, 0.7, 0.85)
"""Of what the closed loop reached: the rates of the open loop."""

UNITS = ("envoy", "session", "redis", "snapshots", "postgres", "load")


@dataclass(slots=True)
class Measured:
    """What one engine did."""

    rest: list[Run] = field(default_factory=list)
    rest_at: dict[float, Run] = field(default_factory=dict)
    grpc: list[Run] = field(default_factory=list)
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    sessions: int
    seconds: float
    rounds: int
    touch: float
    """Seconds of load before anything counts, so that every session's token has been seen, as the start of an exam does it."""

    c_seconds: float
    """Seconds that each measurement of C takes."""

    warm: float = 2
    """Seconds of each load that do not count."""


def saves(place: Stack, engine: str, sessions: Path, plan: Plan, c: list[float]) -> Measured:
    """Measure one engine: through the gateway as REST, then gRPC straight to the session service; C beside every round, since
    the machine is another one from minute to minute."""
    gateway, direct = urlsplit(place.read()["gateway"]).netloc, place.address("session")
    found, acked = Measured(), sessions.with_suffix(f".{engine}.acked")
    load("rest", gateway, sessions, seconds=plan.touch, warm=0)
    for _ in range(plan.rounds):
        c.append(measure_c(sessions, plan.c_seconds))
        found.rest.append(load("rest", gateway, sessions, seconds=plan.seconds, warm=plan.warm, acked=acked, place=place))
        found.lost += asyncio.run(lost(place, acked))
    most = Figure(tuple(run.per_second for run in found.rest)).median
    for share in SHARES:
        rate = share * most
        found.rest_at[share] = load("rest", gateway, sessions, seconds=plan.seconds / 2, warm=plan.warm, rate=rate, connections=256)
    load("grpc", direct, sessions, seconds=plan.touch, warm=0, connections=8)
    for _ in range(plan.rounds):
        c.append(measure_c(sessions, plan.c_seconds))
        found.grpc.append(load("grpc", direct, sessions, seconds=plan.seconds / 3, warm=plan.warm, connections=8, place=place))
    return found


async def lost(place: Stack, acked: Path) -> int:
    """Count acknowledged saves that PostgreSQL has not, or only an older one of, once the snapshots have caught up."""
    await until(lambda: nothing_waits(place, while_saving=0), 120)
    connection = await asyncpg.connect(place.read()["postgres"], timeout=10)
    missing = 0
    try:
        with acked.open() as lines:
            while batch := [json.loads(line) for _, line in zip(range(20_000), lines, strict=False)]:
                missing += await connection.fetchval(
                    """
                    SELECT count(*) FROM unnest($1::uuid[], $2::text[], $3::int[]) AS told (session_id, question_id, version)
                    LEFT JOIN session_answer a USING (session_id, question_id)
                    WHERE a.version IS NULL OR a.version < told.version
                    """,
                    *([line[name] for line in batch] for name in ("sessionId", "questionId", "version")),
                )
    finally:
        await connection.close()
    return missing


def peers(place: Stack, sessions: Path, plan: Plan, c: list[float]) -> Mapping[str, list[Run]]:
    """Measure the peers on the same sessions, round and round, so that a slow minute hits all of them."""
    subprocess.run([sys.executable, "-m", "bench.peers.build"], cwd=ROOT, check=True, stdout=sys.stderr)
    commands = {
        "go": ("grpc", [str(ROOT / ".tools" / "bin" / "peer-go")]),
        "grpc.aio": ("grpc", [sys.executable, "-m", "bench.peers.grpcio_peer"]),
        "fastapi": ("rest", [sys.executable, "-m", "bench.peers.fastapi_peer"]),
    }
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(plan.rounds):
        c.append(measure_c(sessions, plan.c_seconds))
        for name, (mode, command) in commands.items():
            address = f"127.0.0.1:{free_port()}"
            given = {
                **{"listen": address, "redis": place.read()["redis"], "jwks": place.home / "keys" / "jwks.json"},
                **{"issuer": ISSUER, "audience": AUDIENCE, "function": function_name("save")},
            }
            with served([*command, *(part for key, value in given.items() for part in (f"--{key}", str(value)))]) as peer:
                load(mode, address, sessions, seconds=plan.touch, warm=0, connections=8 if mode == "grpc" else 128)
                found[name].append(
                    load(
                        mode,
                        address,
                        sessions,
                        seconds=plan.seconds / 3,
                        warm=plan.warm,
                        connections=8 if mode == "grpc" else 128,
                        place=place,
                        also={"peer": peer.pid},
                    )
                )
    return found


def rate(runs: Sequence[Run]) -> Figure:
    return Figure(tuple(run.per_second for run in runs))


def show(c: Figure, measured: Mapping[str, Measured], others: Mapping[str, list[Run]]) -> None:
    """Print every table."""
    print(f"\nC = {c} empty grpc.aio calls/s on one core; {machine()['cpu']}, {machine()['cores']} cores")
    rows: list[Sequence[object]] = []
    for engine, found in measured.items():
        for kind, runs in (("REST through Envoy", found.rest), ("gRPC direct", found.grpc)):
            per_core = rate(runs).median / max(0.01, sum(run.cpu_us["session"] * run.per_second for run in runs) / len(runs) / 1e6)
            rows.append([f"{kind}, {engine}", rate(runs), f"{rate(runs).median / c.median:.2f} C", f"{per_core / c.median:.2f} C"])
    for name, runs in others.items():
        per_core = rate(runs).median / max(0.01, sum(run.cpu_us["peer"] * run.per_second for run in runs) / len(runs) / 1e6)
        rows.append([f"peer: {name}", rate(runs), f"{rate(runs).median / c.median:.2f} C", f"{per_core / c.median:.2f} C"])
    table("Closed loop, saves/s: median (least-most)", ["what", "saves/s", "in C", "per service core"], rows)
    rows = []
    for engine, found in measured.items():
        for share, run in found.rest_at.items():
            rows.append(
                [engine, f"{share:.0%}", f"{run.offered:,.0f}", f"{run.per_second:,.0f}", run.p50_ms, run.p99_ms, run.max_ms]
            )
    table("REST, open loop, at a share of that", ["engine", "share", "offered/s", "saved/s", "p50 ms", "p99 ms", "max ms"], rows)
    rows = [
        [f"{kind}, {engine}", *(f"{sum(r.cpu_us.get(unit, 0) for r in runs) / len(runs):.0f}" for unit in UNITS)]
        for engine, found in measured.items()
        for kind, runs in (("REST", found.rest), ("gRPC", found.grpc))
    ]
    table("CPU-µs a save, by process", ["what", *UNITS], rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=["native", "grpcio"], choices=["native", "grpcio"])
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--short", action="store_true", help="a smoke of everything: figures mean nothing")
    given = parser.parse_args()
    touch = max(5, given.sessions / 4_000)
    plan = Plan(300, 3, 1, 1, 1, warm=0.5) if given.short else Plan(given.sessions, given.seconds, given.rounds, touch, 4)
    build_load()
    measured: dict[str, Measured] = {}
    others: Mapping[str, list[Run]] = {}
    measured_c: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        sessions = Path(scratch) / "sessions.jsonl"
        with stack("--engine", given.engines[0]) as place:
            prepare(place, plan.sessions, sessions)
            for number, engine in enumerate(given.engines):
                if number:
                    place.restart("--engine", engine)
                measured[engine] = saves(place, engine, sessions, plan, measured_c)
            if not given.no_peers:
                others = peers(place, sessions, plan, measured_c)
    c = Figure(tuple(measured_c))
    show(c, measured, others)
    runs = [run for found in measured.values() for run in (*found.rest, *found.rest_at.values(), *found.grpc)]
    refused = {reason: count for run in runs for reason, count in run.refused.items()}
    missing = sum(found.lost for found in measured.values())
    figures = {name: {"rest": m.rest, "restAt": m.rest_at, "grpc": m.grpc, "lost": m.lost} for name, m in measured.items()}
    file = keep(given.results, "saves", {"c": c, "plan": plan_of(plan), "finalbell": figures, "peers": others})
    draw(file, file.with_suffix(".svg"))
    print(f"\n{file}; acknowledged saves that PostgreSQL has not: {missing}; refused: {refused or 'none'}")
    sys.exit(bool(missing or refused))


def plan_of(plan: Plan) -> Mapping[str, float]:
    return {"sessions": plan.sessions, "seconds": plan.seconds, "rounds": plan.rounds}


if __name__ == "__main__":
    main()

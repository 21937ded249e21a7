"""Boards of a million: built, moved and asked for; and crowds that watch one.

python -m bench.leaderboard [--entries 1000000] [--policies NONE DURATION] [--rate 200] [--seconds 30] [--sample 10000]
  [--watchers 1000 5000 10000 25000] [--ways grpc gateway sse] [--watch-seconds 30] [--stalled 0.01] [--kill] [--no-peers]
  [--no-boards] [--short]

A watched board changes once a second. Each crowd watches with no reader stalled and, where `--stalled` says so, again with that
share of them. `--kill` ends a process of the service under each crowd. Exit code 1 when a place differs from SQL's, a
question was refused, a stream ended by itself, or watchers did not come back. Figures go to bench/results/leaderboard.json,
the plot to bench/results/leaderboard.svg.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from redis.asyncio import Redis

from bench.local import Stack, each, stack
from bench.measure import Figure, Run, arguments, build_load, cpu, keep, load, measure_c, table
from bench.peers.ranks import Peer, peers
from bench.plot import draw_boards
from bench.standings import BATCH, COHORT, Equality, Moving, Seeded, built, changing, equality, seed, tokens
from bench.watching import UNITS, WAYS, Crowd, fitting, more_descriptors, watched
from stores.boards import bands_key, board_key, counts_key, entries_key

UPDATES_OF_C = 0.3
PLACED_TOGETHER = 4
"""How many batches are under way at a time when boards take all that they can."""


@dataclass(slots=True)
class Board:
    """What one board did."""

    exam: str
    tie_break: str
    entries: int
    seeded_s: float
    built_s: float = 0
    broken_off: int = 0
    """How many builds before that one ended without a board."""

    bytes_an_entry: Mapping[str, float] = field(default_factory=dict)
    updates_per_second: float = 0
    update_us: Mapping[str, float] = field(default_factory=dict)
    """CPU-µs an update: of Redis, and of who places."""

    steady_per_second: float = 0
    asked: Mapping[str, Run] = field(default_factory=dict)
    equality: Equality = field(default_factory=lambda: Equality(0, 0))

    @property
    def failed(self) -> bool:
        return bool(self.equality.differences or any(run.refused for run in self.asked.values()))


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    entries: int
    updates: int
    rate: float
    seconds: float
    sample: int
    watchers: Sequence[int]
    watch_seconds: float
    kill_seconds: float
    shares: Sequence[float]
    """How large a share of the readers stalls, crowd by crowd."""

    readers: int = 2_000
    """Who asks for their place, in turn: each token is seen once before anything counts, which takes `readers / rate` seconds."""


async def memory(place: Stack, seeded: Seeded) -> Mapping[str, float]:
    """Return Redis's bytes an entry by kind of key, of the board and of its cohort's by what those have."""
    exam, whole, part = seeded.exam, seeded.entries, (seeded.entries + 9) // 10
    kinds = {
        "order: lb:{exam}": (board_key(exam, None), whole),
        "entries: lbof:{exam}": (entries_key(exam), whole),
        "counts: lbhist:{exam}": (counts_key(exam, None), whole),
        "bounds: lbband:{exam}": (bands_key(exam), whole),
        "order of a cohort: lb:{exam}:c:…": (board_key(exam, COHORT), part),
        "counts of a cohort: lbhist:{exam}:c:…": (counts_key(exam, COHORT), part),
    }
    async with Redis.from_url(place.read()["redis"]) as redis:
        used = {kind: await redis.memory_usage(key, samples=0) or 0 for kind, (key, _) in kinds.items()}
    return {kind: round(used[kind] / entries, 2) for kind, (_, entries) in kinds.items()}


async def most_updates(place: Stack, seeded: Seeded, count: int, found: Board) -> None:
    """Measure how many updates a second a board takes, in batches as the scoring worker sends them; PostgreSQL has them before."""
    async with Moving(place, seeded) as movers:
        students = seeded.spread(count)
        batches = [await movers.write(students[at : at + BATCH]) for at in range(0, len(students), BATCH)]
        used, own, began = cpu(place)["redis"], time.process_time(), time.perf_counter()
        await each(batches, movers.place, PLACED_TOGETHER)
        seconds, own, used = time.perf_counter() - began, time.process_time() - own, cpu(place)["redis"] - used
    found.updates_per_second = round(len(students) / seconds)
    found.update_us = {"redis": round(used * 1e6 / len(students), 1), "placing": round(own * 1e6 / len(students), 1)}


def asked(place: Stack, seeded: Seeded, students: Path, plan: Plan, updates: float, found: Board) -> None:
    """Ask for the top and one's own place at a rate, while the board is updated; as REST, and as gRPC past the gateway and
    through it."""
    gateway, direct = urlsplit(place.read()["gateway"]).netloc, place.address("leaderboard")
    ways = {"REST": ("ranks", gateway), "gRPC, gateway": ("ranks-grpc", gateway), "gRPC, direct": ("ranks-grpc", direct)}
    runs = dict[str, Run]()
    with changing(place, seeded, updates) as moved:
        for name, (mode, address) in ways.items():
            runs[name] = load(
                mode,
                address,
                students,
                seconds=plan.seconds,
                warm=max(2.0, plan.readers / plan.rate),
                rate=plan.rate,
                connections=16 if mode == "ranks" else 4,
                exam=seeded.exam,
                place=place,
            )
    found.asked, found.steady_per_second = runs, moved.per_second


def board(place: Stack, tie_break: str, plan: Plan, c: list[float], scratch: Path) -> tuple[Seeded, Board]:
    """Measure one board, from nothing on."""
    began = time.monotonic()
    seeded = seed(place, tie_break, plan.entries)
    found = Board(seeded.exam, tie_break, plan.entries, round(time.monotonic() - began, 1))
    found.built_s = round(uvloop.run(built(place, seeded)), 2)
    log = (place.home / "logs" / "leaderboard.log").read_text().splitlines()
    found.broken_off = sum("board not rebuilt yet" in line and f'"{seeded.exam}"' in line for line in log)
    found.bytes_an_entry = uvloop.run(memory(place, seeded))
    uvloop.run(most_updates(place, seeded, min(plan.updates, plan.entries), found))
    readers, sample = scratch / f"{seeded.exam}.readers", scratch / f"{seeded.exam}.sample"
    tokens(place, seeded.spread(plan.readers), readers)
    c.append(measure_c(readers, 1 if plan.seconds < 5 else 4))
    asked(place, seeded, readers, plan, UPDATES_OF_C * c[-1], found)
    tokens(place, seeded.spread(plan.sample), sample)
    heard = {one["student"]: one["token"] for one in map(json.loads, sample.read_text().splitlines())}
    found.equality = uvloop.run(equality(place, seeded, urlsplit(place.read()["gateway"]).netloc, heard))
    show_board(found)
    return seeded, found


def crowds(place: Stack, seeded: Seeded, plan: Plan, ways: Sequence[str], scratch: Path) -> list[Crowd]:
    """Let crowds watch one board, each way and size, with stalled readers among them where that is planned, and under a kill."""
    descriptors, students = more_descriptors(), scratch / "watchers"
    tokens(place, seeded.spread(max(plan.watchers)), students)
    found = []
    for way in ways:
        sizes = fitting(way, plan.watchers, descriptors)
        for count in sizes:
            some = [watched(place, seeded, way, students, count, seconds=plan.watch_seconds, stalled=one) for one in plan.shares]
            if plan.kill_seconds:
                some.append(watched(place, seeded, way, students, count, seconds=plan.kill_seconds, kill=True))
            show_crowds(some)
            found += some
    return found


def show_board(found: Board) -> None:
    """Print what a board did."""
    per = f"{found.built_s / found.entries * 100_000:.2f} s per 100,000"
    print(f"\n{found.exam}: {found.entries:,} entries, built in {found.built_s} s, {per}; {found.broken_off} builds broke off")
    table("Redis's bytes an entry", ["keys", "bytes"], list(found.bytes_an_entry.items()))
    print(f"\nAs fast as it goes: {found.updates_per_second:,.0f} updates/s; CPU-µs each: {dict(found.update_us)}")
    rows = [
        [
            name,
            f"{run.offered:,.0f}",
            f"{run.per_second:,.0f}",
            run.p50_ms,
            run.p99_ms,
            run.p999_ms,
            run.max_ms,
            dict(run.refused) or "none",
        ]
        for name, run in found.asked.items()
    ]
    head = ["way", "asked/s", "answered/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "refused"]
    table(f"top=10&around=me beside {found.steady_per_second:,.0f} updates/s", head, rows)
    print(f"\n{found.equality.asked:,} places compared with SQL: {found.equality.differences} differ")


def show_crowds(crowds: Sequence[Crowd]) -> None:
    """Print what became of crowds."""
    rows: list[Sequence[object]] = [
        [
            *(one.way, f"{one.watchers:,}", one.stalled, one.frames, f"{_share(one):.2%}", one.fewest_of_one),
            *(f"{one.p50_ms:.0f}", f"{one.p99_ms:.0f}", f"{one.max_ms:.0f}"),
            *(f"{one.cores[unit]:.2f}" if unit in one.cores else "–" for unit in (*UNITS, "load")),
            *(f"{one.bytes_a_watcher[unit] / 1024:.1f}" if one.bytes_a_watcher else "–" for unit in ("leaderboard", "envoy")),
            dict(one.ended) or "none",
        ]
        for one in crowds
    ]
    head = ["way", "watchers", "stalled", "frames", "received", "fewest", "p50 ms", "p99 ms", "max ms"]
    head += [f"{unit}, cores" for unit in (*UNITS, "load")] + ["service KiB", "Envoy KiB", "ended"]
    table("Watchers: age of a frame when it arrives, what it costs, memory a watcher", head, rows)
    killed = [one for one in crowds if one.killed]
    if killed:
        rows = [
            [one.way, f"{one.watchers:,}", one.lost, one.back_s, one.most_attempts_in_a_second, one.most_dials_in_a_second]
            for one in killed
        ]
        table("kill -9 of the service", ["way", "watchers", "lost", "all back in s", "most attempts/s", "most dials/s"], rows)


def _share(crowd: Crowd) -> float:
    return crowd.received / max(1, crowd.frames * crowd.watchers)


def show_peers(others: Sequence[Peer]) -> None:
    """Print the peers."""
    rows: list[Sequence[object]] = [
        [p.name, p.asked, f"{p.per_second:,.0f}", p.p50_ms, p.p99_ms, p.client_us, p.store_us] for p in others
    ]
    table("Peers", ["peer", "asked", "per second", "p50 ms", "p99 ms", "asker CPU-µs", "store CPU-µs"], rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--policies", nargs="+", default=["NONE", "DURATION"], choices=["NONE", "DURATION", "SUBMITTED_AT"])
    parser.add_argument("--updates", type=int, default=100_000, help="how many updates the boards take as fast as they can")
    parser.add_argument("--rate", type=float, default=200, help="questions per second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--sample", type=int, default=10_000, help="how many students' places are compared with SQL")
    parser.add_argument("--watchers", type=int, nargs="*", default=[1_000, 5_000, 10_000, 25_000])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--watch-seconds", type=float, default=30)
    parser.add_argument(
        "--stalled", type=float, default=0.01, help="the share of readers that stall in the second run of each crowd"
    )
    parser.add_argument("--kill", action="store_true", help="kill the service under each crowd, too: one process of it")
    parser.add_argument("--processes", type=int, default=1, help="how many processes the service has")
    parser.add_argument("--no-boards", action="store_true", help="crowds only")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--short", action="store_true", help="a smoke of everything: figures mean nothing")
    given = parser.parse_args()
    plan = Plan(
        *(given.entries, given.updates, given.rate, given.seconds, given.sample, given.watchers, given.watch_seconds),
        kill_seconds=max(15, given.watch_seconds) if given.kill else 0,
        shares=(0, given.stalled) if given.stalled else (0,),
    )
    if given.short:
        plan = Plan(5_000, 2_000, 100, 2, 200, [60], 3, kill_seconds=3, shares=[0.05], readers=200)
    build_load()
    more_descriptors()
    boards, watching, others = list[Board](), list[Crowd](), list[Peer]()
    measured_c: list[float] = []
    with tempfile.TemporaryDirectory() as folder, stack("--workers", f"leaderboard={given.processes}") as place:
        scratch = Path(folder)
        for tie_break in given.policies if not given.no_boards else ():
            seeded, found = board(place, tie_break, plan, measured_c, scratch)
            boards.append(found)
        if given.no_boards:
            seeded = seed(place, given.policies[0], plan.entries)
            uvloop.run(built(place, seeded))
        if not given.no_peers:
            others = list(asyncio.run(peers(place, seeded.exam, seeded.spread(plan.sample))))
            show_peers(others)
        if plan.watchers:
            watching = crowds(place, seeded, plan, given.ways, scratch)
    c = Figure(tuple(measured_c) or (0.0,))
    print(f"\nC = {c} empty grpc.aio calls/s on one core")
    figures = {"boards": [asdict(one) for one in boards], "crowds": [asdict(one) for one in watching]}
    file = keep(
        given.results, "leaderboard", {"c": c, "processes": given.processes, **figures, "peers": [asdict(one) for one in others]}
    )
    if watching:
        draw_boards(file, file.with_suffix(".svg"))
    print(f"\n{file}")
    sys.exit(any(one.failed for one in boards) or any(one.failed for one in watching))


if __name__ == "__main__":
    main()

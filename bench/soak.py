"""Minutes at a fixed rate: whether any process's memory grows, and how the latency stays.

python -m bench.soak [--minutes 10] [--rate 5000] [--sessions 100000] [--engine native]

Exit code 1 when a save was refused, or one is missing in PostgreSQL. Figures go to bench/results/soak.json.
"""

import asyncio
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from redis.asyncio import Redis

from bench.local import Stack, stack
from bench.measure import arguments, build_load, keep, load, resident, table
from bench.saves import lost
from bench.sittings import prepare

EVERY_SECONDS = 10.0


class Sampler:
    """Looks at every process's memory, every ten seconds."""

    def __init__(self, place: Stack) -> None:
        self._place = place
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.bytes: dict[str, list[int]] = {}

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            stack = self._place.read()
            for unit in (*stack["services"], *stack["servers"]):
                self.bytes.setdefault(unit, []).append(resident(self._place.pids(unit)))


async def written(place: Stack) -> tuple[int, int]:
    """Return how many bytes of WAL PostgreSQL has written, and how long Redis's AOF is."""
    stack_file = place.read()
    connection = await asyncpg.connect(stack_file["postgres"], timeout=10)
    try:
        wal: int = await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")
    finally:
        await connection.close()
    async with Redis.from_url(stack_file["redis"]) as redis:
        return wal, int((await redis.info("persistence"))["aof_current_size"])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=5_000)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--engine", default="native", choices=["native", "grpcio"])
    given = parser.parse_args()
    build_load()
    with tempfile.TemporaryDirectory() as scratch, stack("--engine", given.engine) as place:
        sessions, acked = Path(scratch) / "sessions.jsonl", Path(scratch) / "acked"
        prepare(place, given.sessions, sessions)
        gateway = urlsplit(place.read()["gateway"]).netloc
        load("rest", gateway, sessions, seconds=max(5, given.sessions / 3_000), warm=0)  # every token and every session seen once
        began, before = time.monotonic(), asyncio.run(written(place))
        with Sampler(place) as sampler:
            run = load(
                "rest",
                gateway,
                sessions,
                seconds=given.minutes * 60,
                rate=given.rate,
                connections=256,
                acked=acked,
                place=place,
            )
        missing = asyncio.run(lost(place, acked))
        wal, aof = (after - at_first for after, at_first in zip(asyncio.run(written(place)), before, strict=True))
    rows = [
        (
            unit,
            *(f"{seen[place] / 2**20:,.0f}" for place in (0, len(seen) // 2, -1)),
            f"{(seen[-1] - seen[len(seen) // 2]) / 2**20:+,.0f}",
        )
        for unit, seen in sampler.bytes.items()
        if seen
    ]
    table("Memory of its own, MiB", ["process", "first", "half-way", "last", "second half"], rows)
    print(
        f"\n{run.per_second:,.0f} of {run.offered:,.0f} saves/s for {(time.monotonic() - began) / 60:.0f} min,"
        f" p50 {run.p50_ms} ms, p99 {run.p99_ms} ms, most {run.max_ms} ms; refused {run.refused or 'none'}; missing {missing}"
    )
    print(f"WAL {wal / run.saved:,.0f} bytes a save; AOF " + (f"{aof / run.saved:,.0f}" if aof > 0 else "was rewritten meanwhile"))
    keep(given.results, "soak", {"run": run, "walBytes": wal, "aofBytes": aof, "bytes": sampler.bytes, "missing": missing})
    sys.exit(bool(run.refused or missing))


if __name__ == "__main__":
    main()

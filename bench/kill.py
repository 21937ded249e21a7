"""`kill -9` of one of two session workers at full load: every acknowledged save has to be in PostgreSQL.

python -m bench.kill [--sessions 20000] [--seconds 20] [--kills 3]

Exit code 1 when one is missing, or a save was refused for good. Figures go to bench/results/kill.json.
"""

import asyncio
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

from bench.local import Stack, stack
from bench.measure import arguments, build_load, keep, load
from bench.saves import lost
from bench.sittings import prepare

REPEATED = ("503", "429")


def kill_in_turn(place: Stack, kills: int, seconds: float, stop: threading.Event) -> None:
    """Kill the workers one after the other, evenly over the time."""
    for number in range(kills):
        if stop.wait(seconds / (kills + 1)):
            return
        pids = place.read()["services"]["session"]["pid"]
        os.kill(pids[number % len(pids)], signal.SIGKILL)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--kills", type=int, default=3)
    given = parser.parse_args()
    build_load()
    with tempfile.TemporaryDirectory() as scratch, stack("--workers", "session=2") as place:
        sessions, acked = Path(scratch) / "sessions.jsonl", Path(scratch) / "acked"
        prepare(place, given.sessions, sessions)
        stop = threading.Event()
        killer = threading.Thread(target=kill_in_turn, args=(place, given.kills, given.seconds, stop))
        killer.start()
        gateway = urlsplit(place.read()["gateway"]).netloc
        run = load("rest", gateway, sessions, seconds=given.seconds, warm=0, acked=acked, place=place)
        stop.set()
        killer.join()
        missing = asyncio.run(lost(place, acked))
    final = {reason: count for reason, count in run.refused.items() if not reason.startswith(REPEATED)}
    print(
        f"\n{given.kills} kills in {given.seconds:g} s at {run.per_second:,.0f} saves/s: {run.saved:,} acknowledged,"
        f" {run.repeated:,} of them after a repeat with the same key; p99 {run.p99_ms} ms, longest {run.max_ms:,.0f} ms;"
        f" refused for good: {final or 'none'}; acknowledged and not in PostgreSQL: {missing}"
    )
    keep(given.results, "kill", {"run": run, "kills": given.kills, "missing": missing})
    sys.exit(bool(missing or final))


if __name__ == "__main__":
    main()

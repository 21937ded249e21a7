"""What collecting signals costs saves: the same saves without and with them, in turn, while the pipeline is well, and ill.

python -m bench.integrity [--sessions 10000] [--seconds 5] [--rounds 6] [--signals-of-c 0.8] [--report 25] [--short]

First the same twice, with one report a second: by how much two equal runs differ here. Then the pipeline is well; slow (its worker
runs a tenth of the time); stopped (its worker is frozen, and its stream, of 256 KiB here, is full and drops the oldest); and deaf
(what takes reports is frozen). Each time saves are offered at half of what goes through, which shows in their p99, and then as fast
as they go. The signals come through the same gateway from the same sessions, each of which has reported before. Exit code 1 when a
save was refused, the stream was never full, or a signal is gone that nothing has counted. Figures go to
bench/results/integrity.json, the plot to integrity.svg.
"""

import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.local import Stack, show, stack, until
from bench.measure import Figure, Run, arguments, build_load, keep, load, measure_c, table
from bench.plot import draw_signals
from bench.sittings import prepare

STREAM_BYTES = 256 << 10
FRONT, WORKER = "integrity", "signal-worker"
UNITS = ("envoy", FRONT, WORKER, "nats", "postgres", "session", "redis")
CONNECTIONS = 128
SLOW_SECONDS, TURN_SECONDS = 0.9, 0.1
AHEAD_SECONDS = 1.0
COUNTED = ("written", "lost by the stream", *(f"dropped: {why}" for why in ("queue_full", "foreign", "late", "broken")))
"""What becomes of signals that were taken."""

REPORTED = ("FOCUS_LOST", "FOCUS_REGAINED", "COPY", "PASTE")


@dataclass(slots=True)
class Pair:
    """The same saves without signals, and with them."""

    without: Run
    with_: Run
    signals: Run


@dataclass(slots=True)
class State:
    """What came of a state of the pipeline: at a rate, and as fast as saves go."""

    name: str
    at_rate: list[Pair] = field(default_factory=list)
    closed: list[Pair] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Load:
    """What is offered."""

    place: Stack
    address: str
    sessions: Path
    seconds: float
    saves: float
    reports: float
    report: int

    def run_saves(self, rate: float) -> Run:
        """Save answers; rate 0: as fast as they go."""
        return load("rest", self.address, self.sessions, seconds=self.seconds, rate=rate, connections=256, place=self.place)

    def run_signals(self, rate: float, report: int) -> Run:
        """Report signals, for as long as saves beside them take and a little before and after."""
        asked: dict[str, Any] = {"seconds": self.seconds + 1 + 2 * AHEAD_SECONDS, "rate": rate, "report": report}
        return load("signals", self.address, self.sessions, connections=CONNECTIONS, warm=0, niceness=19, **asked)

    def run_both(self, rate: float) -> tuple[Run, Run]:
        """Save answers while signals are reported."""
        with ThreadPoolExecutor(1) as beside:
            reporting = beside.submit(self.run_signals, self.reports, self.report)
            time.sleep(AHEAD_SECONDS)
            saved = self.run_saves(rate)
            return saved, reporting.result()

    def pair(self, rate: float, *, signals_first: bool) -> Pair:
        """Measure one pair, in this order or the other: the machine is another one from minute to minute."""
        if signals_first:
            both, reported = self.run_both(rate)
            return Pair(self.run_saves(rate), both, reported)
        without = self.run_saves(rate)
        return Pair(without, *self.run_both(rate))


@contextmanager
def slowed(place: Stack, unit: str) -> Iterator[None]:
    """Let a unit run a tenth of the time."""
    over = threading.Event()

    def turns() -> None:
        while not over.is_set():
            with place.frozen(unit):
                over.wait(SLOW_SECONDS)
            over.wait(TURN_SECONDS)

    turning = threading.Thread(target=turns)
    turning.start()
    try:
        yield
    finally:
        over.set()
        turning.join()


def metric(place: Stack, unit: str, name: str) -> dict[str, float]:
    """Return a unit's figures of that name, by their labels."""
    with urllib.request.urlopen(f"http://{place.read()['services'][unit]['metrics']}/metrics", timeout=10) as reply:
        lines = [line for line in reply.read().decode().splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return {label.removeprefix(name): float(figure) for label, figure in (line.rsplit(" ", 1) for line in lines)}


async def where(place: Stack) -> Mapping[str, int]:
    """Say what has become of every signal that was taken, once nothing waits any more."""

    async def settled() -> bool:
        before = await place.count("SELECT coalesce(sum(published), 0)::bigint FROM integrity_feed")
        waits = metric(place, FRONT, "finalbell_queue_waiting").get('{queue="signals"}', 0.0)
        return not waits and before == sum(metric(place, FRONT, "finalbell_signals_published_total").values())

    await until(settled, 180)
    written = await place.count("SELECT coalesce(sum(count), 0)::bigint FROM integrity_count WHERE kind = ANY ($1)", list(REPORTED))
    lost = await place.count("SELECT coalesce(sum(lost), 0)::bigint FROM integrity_feed")
    found = {
        "taken": int(sum(metric(place, FRONT, "finalbell_signals_taken_total").values())),
        "written": written,
        "lost by the stream": lost,
    }
    for unit in (FRONT, WORKER):
        for label, count in metric(place, unit, "finalbell_signals_dropped_total").items():
            why = f"dropped: {label.split(chr(34))[1]}"
            found[why] = found.get(why, 0) + int(count)
    return found


def ratio(pairs: Sequence[Pair], of: str) -> Figure:
    """Return by how much a figure is more with signals than without, in percent of each pair."""
    return Figure(tuple(100 * (getattr(pair.with_, of) / max(1e-9, getattr(pair.without, of)) - 1) for pair in pairs))


def spent(pair: Pair, unit: str) -> float:
    """Return the CPU-µs that a report took of a unit: what it used beyond what as many saves use alone."""
    more = (pair.with_.cpu_us.get(unit, 0.0) - pair.without.cpu_us.get(unit, 0.0)) * pair.with_.per_second
    return more / max(1.0, pair.signals.per_second)


def median(pairs: Sequence[Pair], which: str, of: str) -> float:
    """Return the median of a figure of one of each pair's runs."""
    return Figure(tuple(getattr(getattr(pair, which), of) for pair in pairs)).median


def show_all(states: Sequence[State], c: Figure) -> None:
    """Print the tables."""
    print(f"\nC = {c}/s")
    rows: list[Sequence[object]] = []
    for state in states:
        p99 = [f"{median(state.at_rate, which, 'p99_ms'):.1f}" for which in ("without", "with_")]
        most = [f"{median(state.closed, which, 'per_second'):,.0f}" for which in ("without", "with_")]
        rows.append(
            [
                *(state.name, *p99, ratio(state.at_rate, "p99_ms"), ratio(state.at_rate, "per_second")),
                *(*most, ratio(state.closed, "per_second"), f"{median(state.at_rate, 'signals', 'per_second'):,.0f}"),
            ]
        )
    head = (
        *("pipeline", "half: p99 ms without", "with", "% more", "saves/s, % more"),
        *("most: saves/s without", "with", "% more", "reports answered/s"),
    )
    table("Saves without and with signals: medians; % of each pair: median (least-most)", head, rows)
    used = []
    for state in (one for one in states if one.name not in ("none", "deaf")):
        each = [statistics.mean(spent(pair, unit) for pair in state.at_rate) for unit in UNITS]
        reports = median(state.at_rate, "signals", "per_second")
        used.append([state.name, *(f"{one:,.0f}" for one in each), f"{sum(each) * reports / 1e4:.1f}"])
    table("CPU-µs a report, beyond what the saves beside it use alone: means", ["pipeline", *UNITS, "% of a core"], used)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--signals-of-c", type=float, default=0.8)
    parser.add_argument("--report", type=int, default=25, help="signals in a report")
    parser.add_argument("--short", action="store_true", help="a smoke of everything: figures mean nothing")
    given = parser.parse_args()
    if given.short:
        given.sessions, given.seconds, given.rounds = 1_000, 1.5, 1
    build_load()
    names = ("well", "stopped") if given.short else ("none", "well", "slow", "stopped", "deaf")
    states, measured_c = [State(name) for name in names], list[float]()
    with stack(SIGNALS_STREAM_BYTES=str(STREAM_BYTES)) as place, tempfile.TemporaryDirectory() as scratch:
        sessions, address = Path(scratch) / "sessions.jsonl", urlsplit(place.read()["gateway"]).netloc
        prepare(place, given.sessions, sessions)
        measured_c.append(measure_c(sessions, min(4.0, given.seconds)))
        load("rest", address, sessions, seconds=max(1.0, given.sessions / 4_000), warm=0)
        most = load("rest", address, sessions, seconds=2 * given.seconds, connections=256).per_second
        reports = given.signals_of_c * measured_c[0] / given.report
        offered = Load(place, address, sessions, given.seconds, most / 2, reports, given.report)
        offered.run_signals(min(400.0, 2 * reports), 1)  # a session's first report asks PostgreSQL whose it is
        ill: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "none": nullcontext,
            "well": nullcontext,
            "slow": lambda: slowed(place, WORKER),
            "stopped": lambda: place.frozen(WORKER),
            "deaf": lambda: place.frozen(FRONT),
        }
        for number in range(given.rounds):
            for state in states:
                now = replace(offered, reports=1.0) if state.name == "none" else offered
                with ill[state.name]():
                    state.at_rate.append(now.pair(offered.saves, signals_first=bool(number % 2)))
                    state.closed.append(now.pair(0, signals_first=bool(number % 2)))
            measured_c.append(measure_c(sessions, min(4.0, given.seconds)))
        became = uvloop.run(where(place))
    c = Figure(tuple(measured_c))
    show_all(states, c)
    gone = became["taken"] - sum(became.get(what, 0) for what in COUNTED)
    show("What became of the signals", [*((what, f"{count:,}") for what, count in became.items()), ("not counted", gone)])
    runs = [run for state in states for pair in (*state.at_rate, *state.closed) for run in (pair.without, pair.with_)]
    refused = {why: count for run in runs for why, count in run.refused.items()}
    asked = {"sessions": given.sessions, "signals_of_c": given.signals_of_c, "report": given.report}
    figures = {"c": c, **asked, "became": became, "states": [asdict(state) for state in states]}
    file = keep(given.results, "integrity", figures)
    draw_signals(file, file.with_suffix(".svg"))
    print(f"\n{file}; saves refused: {refused or 'none'}")
    if not became["lost by the stream"]:
        print("The stream was never full.")
    sys.exit(bool(gone or refused or not became["lost by the stream"]))


if __name__ == "__main__":
    main()

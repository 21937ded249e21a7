"""What a rehearsal counts, in a form that adds up over processes: times in narrow buckets, and outcomes by name."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import log2
from typing import Any

STEPS = 16
"""Buckets per doubling: a figure is at most 4.4% too high."""


@dataclass(slots=True)
class Tally:
    """Everything that is counted. It only grows, but for `in_flight` and `late_ms`, which are of the moment."""

    offered: Counter[str] = field(default_factory=Counter)
    """Acts that were due, by RPC; `dropped` are those for which this process had no room any more."""

    done: Counter[str] = field(default_factory=Counter)
    """Acts that ended well, by RPC, after however many repeats."""

    refused: Counter[str] = field(default_factory=Counter)
    """Calls that were refused or not answered, by RPC, code and reason."""

    gave_up: Counter[str] = field(default_factory=Counter)
    """Acts that did not end well, by RPC."""

    noted: Counter[str] = field(default_factory=Counter)
    """What else happened: `deaths`, `repeats`, `dropped`."""

    times: dict[str, Counter[int]] = field(default_factory=dict)
    in_flight: int = 0
    late_ms: float = 0.0

    def took(self, what: str, seconds: float) -> None:
        """Count one time."""
        self.times.setdefault(what, Counter())[bucket(seconds)] += 1

    def plain(self) -> dict[str, object]:
        """Return this as JSON's values."""
        counters = {name: dict(getattr(self, name)) for name in ("offered", "done", "refused", "gave_up", "noted")}
        times = {what: {str(place): count for place, count in times.items()} for what, times in self.times.items()}
        return {**counters, "times": times, "in_flight": self.in_flight, "late_ms": self.late_ms}


def read(plain: Mapping[str, Any]) -> Tally:
    """Read `Tally.plain` back."""
    counters = {name: Counter(plain[name]) for name in ("offered", "done", "refused", "gave_up", "noted")}
    times = {what: Counter({int(place): count for place, count in times.items()}) for what, times in plain["times"].items()}
    return Tally(**counters, times=times, in_flight=plain["in_flight"], late_ms=plain["late_ms"])


def together(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of tallies; the latest of them is the lateness of all."""
    whole = Tally()
    for one in tallies:
        for name in ("offered", "done", "refused", "gave_up", "noted"):
            getattr(whole, name).update(getattr(one, name))
        for what, times in one.times.items():
            whole.times.setdefault(what, Counter()).update(times)
        whole.in_flight += one.in_flight
        whole.late_ms = max(whole.late_ms, one.late_ms)
    return whole


def bucket(seconds: float) -> int:
    """Return the bucket of a time: 0 is up to 1 µs."""
    return max(0, round(log2(max(seconds, 1e-6) * 1e6) * STEPS))


def quantile(times: Mapping[int, int], share: float) -> float | None:
    """Return the time in ms that this share of times does not exceed; None: there are none."""
    total, seen = sum(times.values()), 0
    for place in sorted(times):
        seen += times[place]
        if seen >= share * total:
            return float(2 ** ((place + 0.5) / STEPS) / 1000)
    return None


def since(now: Mapping[int, int], before: Mapping[int, int]) -> Counter[int]:
    """Return the times that came after an earlier look."""
    return Counter(now) - Counter(before)

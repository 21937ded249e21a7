"""What a person sees while a rehearsal runs: a few figures that move; where nobody looks, a line now and then."""

import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ops.probes import page
from ops.rehearse.figures import Tally, quantile, since

WINDOW_SECONDS = 5.0
LINE_SECONDS = 5.0
LAG = re.compile(r"^finalbell_snapshot_lag_seconds(?:{[^}]*})? (\S+)", re.MULTILINE)


class Screen:
    """Live progress on standard error, so that standard output is the report alone."""

    def __init__(self, title: str, lag: Callable[[], float | None]) -> None:
        self._title, self._lag = title, lag
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True) if sys.stderr.isatty() else None
        self._looks: deque[tuple[float, int, Counter[int]]] = deque()
        self._printed = 0.0
        self.phase = ""

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Say what comes next."""
        self.phase = text
        self._printed = 0.0
        self._console.print(f"{self._title}: {text}", highlight=False, soft_wrap=True)

    def look(self, tally: Tally) -> None:
        """Show the figures of this moment."""
        now = time.monotonic()
        self._looks.append((now, tally.done["SaveAnswer"], Counter(tally.times.get("SaveAnswer", {}))))
        while len(self._looks) > 2 and self._looks[0][0] < now - WINDOW_SECONDS:
            self._looks.popleft()
        if self._live is not None:
            self._live.update(self._table(tally), refresh=True)
        elif now - self._printed > LINE_SECONDS:
            self._printed = now
            self._console.print(
                "  " + ", ".join(f"{name} {value}" for name, value in self._figures(tally)), highlight=False, soft_wrap=True
            )

    def _table(self, tally: Tally) -> Table:
        table = Table(box=None, title=f"{self._title}: {self.phase}", title_justify="left")
        figures = self._figures(tally)
        for name, _ in figures:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_row(*(value for _, value in figures))
        return table

    def _figures(self, tally: Tally) -> list[tuple[str, str]]:
        (then, saved_then, times_then), (now, saved, times) = self._looks[0], self._looks[-1]
        recent = since(times, times_then)
        lag = self._lag()
        return [
            ("sessions", f"{tally.done['StartSession']:,}"),
            ("saves/s", f"{(saved - saved_then) / max(now - then, 0.001):,.0f}"),
            ("saved", f"{saved:,}"),
            ("p50", _ms(quantile(recent, 0.5))),
            ("p99", _ms(quantile(recent, 0.99))),
            ("errors", f"{sum(tally.refused.values()) + tally.noted['dropped']:,}"),
            ("under way", f"{tally.in_flight:,}"),
            ("handed in", f"{tally.done['SubmitSession']:,}"),
            ("scored", f"{tally.done['results']:,}"),
            ("load late", _ms(tally.late_ms)),
            *([("snapshot lag", f"{lag:.1f} s")] if lag is not None else []),
        ]


def snapshot_lag(address: str) -> Callable[[], float | None]:
    """Return what asks a snapshot process how old the oldest save is that it has not written; asked once a second at most."""
    asked, known = 0.0, None

    def lag() -> float | None:
        nonlocal asked, known
        if time.monotonic() - asked > 1:
            found = LAG.search(page(address, "/metrics") or "")
            asked, known = time.monotonic(), float(found[1]) if found else None
        return known

    return lag


def no_lag() -> float | None:
    """Return nothing: another stack's snapshots are not ours to ask."""
    return None


def _ms(time_ms: float | None) -> str:
    return "–" if time_ms is None else f"{time_ms:,.0f} ms" if time_ms >= 10 else f"{time_ms:.1f} ms"

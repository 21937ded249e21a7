"""Histogram: how many students have which order keys, in bands; where somebody stands by it, and how far off that may be."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate


class Histogram:
    """Counts of students by band of order keys.

    A band is named by its lowest order key, −inf for the first one between bounds, and reaches to the next band's. Where
    `exact`, all of a band are equal: its students share one rank.
    """

    def __init__(self, counts: Mapping[float, int], *, exact: bool) -> None:
        self._lowest: Sequence[float] = sorted(counts)
        self._counts = [counts[band] for band in self._lowest]
        self._below = [0, *accumulate(self._counts)]
        self._exact = exact

    @property
    def total(self) -> int:
        """How many students are counted."""
        return self._below[-1]

    def bars(self) -> Sequence[tuple[float, int]]:
        """Return the bands with their counts, lowest first."""
        return list(zip(self._lowest, self._counts, strict=True))

    def rank(self, key: int) -> tuple[int, int]:
        """Return a rank for an order key that is counted, and by how many places it may be off, either way.

        The true rank is one more than those with a larger key. Those of higher bands have one, those of lower bands do not;
        of the `count` in the key's own band between none and `count - 1` do. The middle is off by half of that at most.
        """
        band = self._band(key)
        above = self.total - self._below[band + 1]
        spread = 0 if self._exact else max(self._counts[band] - 1, 0) if band >= 0 else 0
        return above + 1 + spread // 2, spread - spread // 2

    def percentile(self, key: int) -> float:
        """Return the share of students in lower bands, from 0 to 100; those of the key's own band count half."""
        band = self._band(key)
        if band < 0:
            return 0.0
        return 100 * (self._below[band] + self._counts[band] / 2) / self.total

    def _band(self, key: int) -> int:
        return bisect_right(self._lowest, key) - 1

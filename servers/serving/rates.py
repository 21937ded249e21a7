"""How often one student may call: a token bucket each, in every process by itself.

It keeps one broken or hostile client from taking what the others need. It is no quota: with more workers a student may
do more, and staff have no limit.
"""

import time
from collections import OrderedDict

from prometheus_client import Counter

from servers.auth import KNOWN_ROLES, Caller
from servers.errors import RateLimited
from stores import gauges

REMEMBERED = 200_000
LIMITED = Counter("finalbell_rate_limited_total", "Calls refused since their student made too many")


class Rates:
    """The buckets; `per_second` 0 means no limit. A student who is not in it has a full one, and who calls without a token none:
    one for all of them would let any of them lock out the others."""

    def __init__(self, per_second: float, at_once: int, name: str = "rate buckets") -> None:
        self._per_second = per_second
        self._at_once = at_once
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        gauges.cached(name, self._buckets)

    def take(self, caller: Caller, count: int = 1) -> None:
        """Count a call, or so many things of one, or refuse it and say when the next one is welcome."""
        if not self._per_second or not caller.student or caller.roles & KNOWN_ROLES:
            return
        now = time.monotonic()
        left, at = self._buckets.pop(caller.student, (float(self._at_once), now))
        left = min(self._at_once, left + (now - at) * self._per_second)
        if left < count:
            self._buckets[caller.student] = left, now
            LIMITED.inc()
            raise RateLimited("Too many calls; slow down.", retry_seconds=(count - left) / self._per_second)
        self._buckets[caller.student] = left - count, now
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)

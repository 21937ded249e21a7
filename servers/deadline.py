"""When a session ends: one rule, for the session service, its bell, its restore, and for whoever gives time back.

    ends_at = min(started_at + duration + pauses, closes_at) + accommodation + adjustments

A late start does not move the exam's close, and neither does a pause; an accommodation and an adjustment do.
"""

from decimal import ROUND_CEILING, Decimal

from stores.records import Accommodation, Deadline, Pause, Terms


def deadline(terms: Terms) -> Deadline:
    """Return when a session ends, in milliseconds, whatever the time is now.

    The last pause may still be on. Then `ends_ms` takes it to run until it ends by itself, so that it is right from
    that moment on without anybody doing anything, and `unpaused_ms` is what resuming earlier is counted from.
    """
    open_pause = terms.pauses[-1] if terms.pauses and terms.pauses[-1].resumed_ms is None else None
    ends_ms = _sum(terms, terms.pauses)
    if open_pause is None:
        return Deadline(terms.version, ends_ms)
    return Deadline(terms.version, ends_ms, open_pause.paused_ms, open_pause.ends_by_ms, _sum(terms, terms.pauses[:-1]))


def accommodation_seconds(accommodation: Accommodation | None, duration_ms: int) -> int:
    """Return the seconds that an accommodation adds; a factor's are rounded up."""
    if accommodation is None:
        return 0
    if accommodation.factor is None:
        return accommodation.extra_seconds or 0
    extra = Decimal(duration_ms) * (accommodation.factor - 1) / 1000
    return int(extra.to_integral_value(ROUND_CEILING))


def pause_budget_ms(terms: Terms, max_pauses: int, max_pause_seconds: int) -> int:
    """Return how long the next pause may last, 0 when there may be none. Pauses so far count as long as they were."""
    if len(terms.pauses) >= max_pauses:
        return 0
    return max(0, max_pause_seconds * 1000 - _pauses_ms(terms.pauses))


def _sum(terms: Terms, pauses: tuple[Pause, ...]) -> int:
    end = terms.started_ms + terms.duration_ms + _pauses_ms(pauses)
    if terms.closes_ms is not None:
        end = min(end, terms.closes_ms)
    extra = accommodation_seconds(terms.accommodation, terms.duration_ms) + sum(a.seconds for a in terms.adjustments)
    return end + extra * 1000


def _pauses_ms(pauses: tuple[Pause, ...]) -> int:
    return sum(pause.length_ms(pause.ends_by_ms) for pause in pauses)

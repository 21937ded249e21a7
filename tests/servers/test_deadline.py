"""The one rule that says when a session ends."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.deadline import accommodation_seconds, deadline, pause_budget_ms
from stores.records import Accommodation, Adjustment, Deadline, Pause, Terms

HOUR_MS = 3_600_000
MINUTE_MS = 60_000


def terms(**changes: object) -> Terms:
    return replace(Terms(started_ms=0, duration_ms=HOUR_MS, closes_ms=None, accommodation=None), **changes)  # type: ignore[arg-type]


def extra(seconds: int) -> Accommodation:
    return Accommodation(for_exam=True, extra_seconds=seconds, factor=None)


@pytest.mark.parametrize(
    ("given_terms", "ends_ms"),
    [
        (terms(), HOUR_MS),
        (terms(closes_ms=HOUR_MS // 2), HOUR_MS // 2),
        (terms(closes_ms=2 * HOUR_MS), HOUR_MS),
        (terms(accommodation=extra(600)), HOUR_MS + 600_000),
        (terms(closes_ms=HOUR_MS // 2, accommodation=extra(600)), HOUR_MS // 2 + 600_000),
        (terms(adjustments=(Adjustment(120, "fire alarm", 0), Adjustment(-20, "too much", 0))), HOUR_MS + 100_000),
        (terms(pauses=(Pause(MINUTE_MS, 9 * MINUTE_MS, 4 * MINUTE_MS),)), HOUR_MS + 3 * MINUTE_MS),
        (terms(pauses=(Pause(MINUTE_MS, 9 * MINUTE_MS, 60 * MINUTE_MS),)), HOUR_MS + 8 * MINUTE_MS),
        (terms(pauses=(Pause(MINUTE_MS, 9 * MINUTE_MS, 4 * MINUTE_MS),), closes_ms=HOUR_MS), HOUR_MS),
    ],
    ids=[
        "an hour is an hour",
        "a late start does not move the close",
        "a close after the end changes nothing",
        "extra time is added",
        "extra time goes past the close",
        "what staff gave and took is added up",
        "a pause is given back",
        "a pause that ended by itself counts to its own end",
        "a pause does not go past the close",
    ],
)
def test_the_sum(given_terms: Terms, ends_ms: int) -> None:
    assert deadline(given_terms) == Deadline(1, ends_ms)


@pytest.mark.parametrize(
    ("factor", "duration_s", "seconds"),
    [("1", 3600, 0), ("1.25", 5400, 1350), ("1.1", 3600, 360), ("1.1", 3601, 361), ("1.333", 60, 20), ("2", 59, 59)],
)
def test_a_factor_is_rounded_up_to_a_second_and_computed_exactly(factor: str, duration_s: int, seconds: int) -> None:
    assert accommodation_seconds(Accommodation(False, None, Decimal(factor)), duration_s * 1000) == seconds


def test_the_pause_budget_is_what_pauses_so_far_have_left() -> None:
    used = terms(pauses=(Pause(0, 10_000, 4_000), Pause(20_000, 26_000, None)))

    budgets = [pause_budget_ms(used, pauses, seconds) for pauses, seconds in [(2, 60), (3, 60), (3, 10), (0, 60), (3, 0)]]

    assert budgets == [0, 50_000, 0, 0, 0]


times = st.integers(0, 10 * HOUR_MS)
any_terms = st.builds(
    terms,
    duration_ms=st.integers(1, 3 * HOUR_MS),
    closes_ms=st.none() | times,
    accommodation=st.none() | st.builds(extra, st.integers(0, 7200)),
    adjustments=st.lists(st.builds(Adjustment, st.integers(-600, 600), st.just(""), st.just(0)), max_size=3).map(tuple),
)


@st.composite
def paused_terms(draw: st.DrawFn) -> Terms:
    """Terms with finished pauses, and perhaps one that is not."""
    found, at = draw(any_terms), 0
    pauses = []
    for _ in range(draw(st.integers(0, 3))):
        begin = at + draw(st.integers(0, HOUR_MS))
        ends_by = begin + draw(st.integers(1, HOUR_MS))
        at = draw(st.integers(begin, ends_by))
        pauses.append(Pause(begin, ends_by, at))
    if draw(st.booleans()):
        begin = at + draw(st.integers(0, HOUR_MS))
        pauses.append(Pause(begin, begin + draw(st.integers(1, HOUR_MS)), None))
    return replace(found, pauses=tuple(pauses))


@given(paused_terms(), st.integers(0, HOUR_MS))
def test_resuming_gives_exactly_the_end_that_was_shown_at_that_moment(found: Terms, after_ms: int) -> None:
    last = found.pauses[-1] if found.pauses else None
    if last is None or last.resumed_ms is not None:
        return
    now_ms = min(last.paused_ms + after_ms, last.ends_by_ms)
    shown = deadline(found).as_of(now_ms)

    resumed = deadline(replace(found, pauses=(*found.pauses[:-1], replace(last, resumed_ms=now_ms))))

    assert resumed.ends_ms == shown


@given(paused_terms(), st.lists(times, min_size=2, max_size=5))
def test_an_end_never_comes_nearer_while_time_passes(found: Terms, moments: list[int]) -> None:
    end = deadline(found)

    shown = [end.as_of(now_ms) for now_ms in sorted(moments)]

    assert shown == sorted(shown)
    assert shown[-1] <= end.ends_ms


@given(paused_terms(), st.integers(1, 3600))
def test_more_time_is_exactly_that_much_more(found: Terms, seconds: int) -> None:
    more = replace(found, adjustments=(*found.adjustments, Adjustment(seconds, "", 0)))

    assert deadline(more).ends_ms - deadline(found).ends_ms == seconds * 1000


@given(paused_terms())
def test_without_extra_time_nothing_goes_past_the_close(found: Terms) -> None:
    plain = replace(found, accommodation=None, adjustments=())

    assert plain.closes_ms is None or deadline(plain).ends_ms <= plain.closes_ms

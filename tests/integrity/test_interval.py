"""However many students report, together they come to what one process bears."""

from hypothesis import given
from hypothesis import strategies as st

from servers.integrity.interval import JITTER, LONGEST_SECONDS, REPORTS_PER_SECOND, SHORTEST_SECONDS, Interval, adapted


@given(st.integers(1, 1_000_000), st.floats(SHORTEST_SECONDS, LONGEST_SECONDS))
def test_clients_that_keep_to_it_come_to_the_rate_or_to_the_longest_interval(students: int, before: float) -> None:
    reports, passed = students, before  # each reports once in the interval

    after = adapted(before, reports, passed)

    assert SHORTEST_SECONDS <= after <= LONGEST_SECONDS
    rate = students / after
    assert rate <= REPORTS_PER_SECOND * 1.001 or after == LONGEST_SECONDS
    assert rate >= REPORTS_PER_SECOND * 0.999 or after == SHORTEST_SECONDS


def test_who_is_alone_reports_every_ten_seconds_or_so() -> None:
    told = [Interval().next_seconds() for _ in range(1_000)]

    assert SHORTEST_SECONDS * (1 - JITTER) <= min(told) < max(told) <= SHORTEST_SECONDS * (1 + JITTER)


def test_a_crowd_that_begins_at_once_is_told_to_come_back_later_and_not_together() -> None:
    interval = Interval()

    told = [interval.next_seconds() for _ in range(20_000)]

    assert min(told[-10_000:]) >= LONGEST_SECONDS * (1 - JITTER)
    assert len(set(told[-10_000:])) > LONGEST_SECONDS / 2

"""What signals mean, by itself: texts that act nowhere, thresholds, who was there at once, times that are implausible."""

import math
import re
import unicodedata
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.integrity import rules
from servers.integrity.messages import signal_id
from servers.integrity.rules import RULES
from stores.signal_records import OWN, Count, Counted, Kind, Pace, Presence

SESSION, OTHER = UUID(int=1), UUID(int=2)
SECONDS = st.floats(0.05, 10_000)
COUNTS = st.lists(
    st.builds(Count, st.sampled_from(Kind), *[st.integers(0, 10_000)] * 3, last_ms=st.just(0)),
    max_size=8,
    unique_by=lambda c: c.kind,
)


def unescaped(text: str) -> str:
    return re.sub(r"\\\\|\\u\{([0-9a-f]+)\}", lambda found: chr(int(found[1], 16)) if found[1] else "\\", text)


@given(st.text())
def test_an_escaped_text_acts_on_nothing_and_is_still_all_there(text: str) -> None:
    escaped = rules.escaped(text)

    assert not any(unicodedata.category(one)[0] == "C" or one in "\u2028\u2029" for one in escaped)
    assert unescaped(escaped) == text


def test_a_terminal_sequence_and_a_reversal_are_only_text() -> None:
    assert rules.escaped("cam\x00\x1b[31m") == r"cam\u{0}\u{1b}[31m"
    assert rules.escaped("a\u202eb") == r"a\u{202e}b"
    assert rules.escaped(r"\u{0}") == r"\\u{0}"
    assert rules.escaped("O‘zbekcha кириллица") == "O‘zbekcha кириллица"


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=4), st.lists(st.binary(max_size=8), min_size=1, max_size=4))
def test_the_same_signal_has_the_same_id_and_no_other_has_it(parts: list[bytes], others: list[bytes]) -> None:
    assert (signal_id(SESSION, *parts) == signal_id(SESSION, *others)) == (parts == others)
    assert signal_id(SESSION, *parts) != signal_id(OTHER, *parts)


# Indicators


def test_every_indicator_has_a_name_of_its_own_and_says_its_number() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all("7" in rule.words.format(7, times="7 times") and rule.measure in ("count", "amount", "peak") for rule in RULES)
    assert {rule.kind for rule in RULES} >= OWN


@given(COUNTS, st.dictionaries(st.sampled_from([rule.name for rule in RULES]), st.none() | st.integers(1, 100)))
def test_what_is_shown_is_exactly_what_reaches_its_threshold(given_counts: list[Count], chosen: dict[str, int | None]) -> None:
    now = rules.thresholds(chosen)

    found = rules.suspects([Counted(SESSION, "s", "a", tuple(given_counts))], now)

    shown = {one.name for suspect in found for one in suspect.found}
    by_kind = {count.kind: count for count in given_counts}
    for rule in RULES:
        count, threshold = by_kind.get(rule.kind), now[rule.name]
        value = getattr(count, rule.measure) // rule.unit if count else 0
        assert (rule.name in shown) == (count is not None and threshold is not None and value >= threshold)
    wanted = {(one.kind, one.measure, one.least) for one in rules.wanted(now)}
    assert shown <= {rule.name for rule in RULES if any((rule.kind, rule.measure) == one[:2] for one in wanted)}


@given(st.lists(COUNTS, max_size=6))
def test_sessions_come_the_strongest_first_and_one_thing_alone_counts_ten_at_most(sessions: list[list[Count]]) -> None:
    counted = [Counted(UUID(int=n), "s", "a", tuple(found)) for n, found in enumerate(sessions)]

    found = rules.suspects(counted, rules.thresholds({}))

    strengths = [one.strength for one in found]
    assert strengths == sorted(strengths, reverse=True)
    assert all(one.strength <= rules.STRONGEST * len(one.found) for one in found)
    assert all(each.strength >= 1 for one in found for each in one.found)


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (Count(Kind.FOCUS_REGAINED, 3, 90_400, 60_000, 0), "was away for 90 seconds in all (shown from 60)"),
        (Count(Kind.DEV_TOOLS, 4, 2, 1, 0), "opened developer tools 2 times (shown from 1)"),
        (Count(Kind.DEV_TOOLS, 2, 1, 1, 0), "opened developer tools once (shown from 1)"),
    ],
)
def test_a_reason_says_the_number_and_from_where_on_it_is_shown(count: Count, reason: str) -> None:
    (suspect,) = rules.suspects([Counted(SESSION, "s", "a", (count,))], rules.thresholds({}))

    assert suspect.found[0].reason == reason


# From where


def at(seconds: int, device: str = "", address: str = "", token: bytes = b"t") -> Presence:
    return Presence(SESSION, "s", device, address, token, seconds * 1000, seconds * 1000)


def test_a_device_that_comes_back_after_another_was_there_at_once() -> None:
    assert rules.inferred([at(0, "a"), at(10, "b", token=b"u")], at(20, "a")) == [(Kind.TWO_DEVICES, ("a", "b"))]


def test_who_is_told_to_report_seldom_may_come_back_later() -> None:
    seen, back = [at(0, "a"), at(200, "b", token=b"u")], at(590, "a")

    assert rules.inferred(seen, back, report_seconds=300) == [(Kind.TWO_DEVICES, ("a", "b"))]
    assert rules.inferred(seen, back, report_seconds=290) == []


def test_a_device_that_takes_over_for_good_is_not_two() -> None:
    assert rules.inferred([at(0, "a")], at(10, "b", token=b"u")) == []
    assert rules.inferred([at(0, "a"), at(10, "b", token=b"u")], at(600, "a")) == []


def test_two_addresses_at_once_are_of_two_devices_and_not_of_a_telephone_at_the_edge_of_its_wifi() -> None:
    wifi, mobile = "192.0.2.1", "198.51.100.7"

    assert rules.inferred([at(0, "a", wifi), at(10, "a", mobile)], at(20, "a", wifi)) == []
    assert rules.inferred([at(0, "", wifi), at(10, "", mobile)], at(20, "", wifi)) == [(Kind.TWO_ADDRESSES, (wifi, mobile))]


def test_one_login_on_a_second_device_has_moved() -> None:
    assert rules.inferred([at(0, "a")], at(500, "b")) == [(Kind.TOKEN_MOVED, ("a", "b"))]
    assert rules.inferred([at(0, "a")], at(500, "b", token=b"u")) == []
    assert rules.inferred([at(0, "")], at(500, "b")) == []


@given(st.integers(-(10**9), 10**9), st.integers(-5_000, 5_000))
def test_a_clock_that_is_wrong_has_not_jumped_while_it_stays_as_wrong(behind_ms: int, drift_ms: int) -> None:
    assert not rules.jumped(behind_ms, behind_ms + drift_ms)
    assert rules.jumped(behind_ms, behind_ms + 60_000)


# Times


@given(st.lists(st.integers(0, 10**7), max_size=20).map(sorted))
def test_the_times_of_a_sessions_questions_are_no_more_than_its_own(times: list[int]) -> None:
    taken = rules.times_taken(0, [(f"q{n}", at_ms) for n, at_ms in enumerate(times)])

    assert sum(taken.values()) <= (times[-1] if times else 0) / 1000 + rules.SHORTEST_SECONDS * len(taken)
    assert all(seconds >= rules.SHORTEST_SECONDS for seconds in taken.values())


def test_answers_that_came_in_one_call_tell_no_time() -> None:
    assert rules.times_taken(0, [("q1", 5_000), ("q2", 65_000), ("q3", 65_004), ("q4", 95_000)]) == {"q1": 5.0, "q4": 29.996}


@given(st.lists(SECONDS, min_size=1, max_size=29), SECONDS)
def test_nobody_is_too_fast_while_few_have_answered(others: list[float], seconds: float) -> None:
    pace = paced(others)

    assert not rules.too_fast(seconds, pace)
    assert not rules.too_fast(seconds, None)


@given(st.lists(SECONDS, min_size=30, max_size=60), SECONDS, st.floats(0.1, 1))
def test_who_is_faster_than_too_fast_is_too_fast(others: list[float], seconds: float, share: float) -> None:
    pace = paced(others)

    if rules.too_fast(seconds, pace):
        assert rules.too_fast(max(1e-3, seconds * share), pace)
    assert not rules.too_fast(math.exp(pace.total / pace.answers), pace)


def test_two_seconds_are_too_fast_where_others_take_a_minute_and_twenty_are_not() -> None:
    pace = paced([40.0, 50.0, 60.0, 70.0, 80.0] * 8)

    assert rules.too_fast(2, pace)
    assert not rules.too_fast(20, pace)


def paced(seconds: list[float]) -> Pace:
    whole = Pace(0, 0.0, 0.0)
    for one in seconds:
        whole = rules.together(whole, rules.paced(one))
    return whole


def test_a_burst_is_many_answers_soon_after_a_long_absence() -> None:
    answers = [(f"q{n}", 100_000 + 1_000 * n) for n in range(5)]

    assert rules.bursts([(99_000, 20_000)], answers) == [(99_000, 5)]
    assert rules.bursts([(99_000, 1_000)], answers) == []
    assert rules.bursts([(99_000, 20_000)], answers[:4]) == []
    assert rules.bursts([(200_000, 20_000)], answers) == []

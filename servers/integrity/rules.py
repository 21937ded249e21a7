"""What signals mean: which numbers staff are shown, in which words, and what the server infers from times. No verdicts here."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from stores.signal_records import Count, Counted, Kind, Pace, Presence, Wanted

CLOCK_JUMP_MS = 10_000
"""By how much a client's clock may move against ours between two reports: more than a bad network, less than a set clock."""

AT_ONCE_MS = 120_000
"""Two devices, or addresses, are used at once when each was used between two uses of the other, all within so long of each other
or, where clients report seldom, within twice the time between their reports. One that takes over for good is a phone that has left
the wifi, or a laptop that has died."""

LEAST_ANSWERS = 30
"""How many must have answered a question before anybody's time for it says anything."""

FAST_DEVIATIONS = 3.0
LEAST_DEVIATION = 0.3
"""Of logarithms of seconds: where all take equally long, a third faster is no news yet."""

FAST_SHARE = 0.25
SHORTEST_SECONDS = 0.05
SAME_BATCH_MS = 20
"""Answers that were saved within so long of each other came in one call, from a client that was offline, and tell no time."""

BURST_SECONDS = 30
BURST_CHANGES = 5
BURST_AWAY_MS = 5_000
"""A burst: so many questions answered for the last time within so long after a return from at least so long away."""

STRONGEST = 10.0


# Texts


def escaped(text: str) -> str:
    r"""Return a text in which nothing can act on a terminal, a page or a log: control, format and private characters, and lone
    surrogates, as `\u{…}`, and the backslash doubled, so that the escape cannot be forged."""
    return "".join(_escaped(one) for one in text)


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if unicodedata.category(character)[0] == "C" or character in "\u2028\u2029":
        return f"\\u{{{ord(character):x}}}"
    return character


# Indicators


@dataclass(frozen=True, slots=True)
class IndicatorRule:
    """One number that staff may be shown: which count of which kind, in which unit, from where on, in which words."""

    name: str
    kind: Kind
    measure: str
    """count, amount (their sum) or peak (the largest)."""

    unit: int
    """The number is the measure divided by this."""

    default: int | None
    words: str
    """With `{}` for the number, or `{times}` for how often."""

    about: str


RULES = (
    IndicatorRule("focus_lost", Kind.FOCUS_LOST, "count", 1, 5, "left the exam's window {times}", "times that the window was left"),
    IndicatorRule(
        "away", Kind.FOCUS_REGAINED, "amount", 1000, 60, "was away for {} seconds in all", "seconds away from the window"
    ),
    IndicatorRule("copy", Kind.COPY, "count", 1, 3, "copied text {times}", "times that text was copied"),
    IndicatorRule("cut", Kind.CUT, "count", 1, None, "cut text {times}", "times that text was cut"),
    IndicatorRule("paste", Kind.PASTE, "count", 1, 3, "pasted text {times}", "times that text was pasted"),
    IndicatorRule("pasted", Kind.PASTE, "peak", 1, 200, "pasted {} characters at once", "characters of the longest pasted text"),
    IndicatorRule(
        "full_screen_left", Kind.FULL_SCREEN_LEFT, "count", 1, 3, "left full screen {times}", "times that full screen was left"
    ),
    IndicatorRule("displays", Kind.DISPLAY_COUNT, "peak", 1, 2, "had {} displays", "displays"),
    IndicatorRule(
        "dev_tools", Kind.DEV_TOOLS, "amount", 1, 1, "opened developer tools {times}", "times developer tools were opened"
    ),
    IndicatorRule("network_change", Kind.NETWORK_CHANGE, "count", 1, None, "changed network {times}", "changes of the network"),
    IndicatorRule("device_change", Kind.DEVICE_CHANGE, "count", 1, None, "plugged devices in or out {times}", "devices in or out"),
    IndicatorRule("two_devices", Kind.TWO_DEVICES, "count", 1, 1, "used two devices at once {times}", "pairs of devices at once"),
    IndicatorRule(
        "two_addresses", Kind.TWO_ADDRESSES, "count", 1, 1, "used two addresses at once {times}", "pairs of addresses at once"
    ),
    IndicatorRule("token_moved", Kind.TOKEN_MOVED, "count", 1, 1, "took one login to another device {times}", "moves of one login"),
    IndicatorRule("clock_jump", Kind.CLOCK_JUMP, "count", 1, 2, "had its clock jump {times}", "jumps of the client's clock"),
    IndicatorRule(
        "fast_answer",
        Kind.FAST_ANSWER,
        "count",
        1,
        5,
        "answered far faster than the others {times}",
        "questions answered far faster than others do; known after the submit",
    ),
    IndicatorRule(
        "changes_after_focus",
        Kind.CHANGES_AFTER_FOCUS,
        "count",
        1,
        1,
        "changed many answers right after a return to the window {times}",
        "returns to the window with a burst of answers; known after the submit",
    ),
)
BY_NAME = {rule.name: rule for rule in RULES}


@dataclass(frozen=True, slots=True)
class Found:
    """An indicator that is over its threshold."""

    name: str
    value: int
    threshold: int
    reason: str
    last_ms: int

    @property
    def strength(self) -> float:
        """How many times its threshold it is."""
        return self.value / self.threshold


@dataclass(frozen=True, slots=True)
class Suspect:
    """A session with indicators, the strongest first."""

    session: UUID
    student: str
    alias: str
    found: tuple[Found, ...]

    @property
    def strength(self) -> float:
        """The sum of what is found; one thing alone, however large, counts no more than ten times its threshold."""
        return sum(min(STRONGEST, one.strength) for one in self.found)


def thresholds(chosen: Mapping[str, int | None]) -> Mapping[str, int | None]:
    """Return every indicator's threshold: the exam's own, or else the default; None: never shown."""
    return {rule.name: chosen.get(rule.name, rule.default) for rule in RULES}


def wanted(now: Mapping[str, int | None]) -> Sequence[Wanted]:
    """Return which counts reach these thresholds."""
    shown = [(rule, least) for rule in RULES if (least := now[rule.name]) is not None]
    return [Wanted(rule.kind, rule.measure, least * rule.unit) for rule, least in shown]


def suspects(counted: Sequence[Counted], now: Mapping[str, int | None]) -> Sequence[Suspect]:
    """Return the sessions that have an indicator over its threshold, the strongest first; equals by their id."""
    found = [Suspect(one.session, one.student, one.alias, _found(one.counts, now)) for one in counted]
    return sorted((one for one in found if one.found), key=lambda one: (-one.strength, one.session))


def _found(counts: Sequence[Count], now: Mapping[str, int | None]) -> tuple[Found, ...]:
    by_kind = {count.kind: count for count in counts}
    found = []
    for rule in RULES:
        threshold, count = now[rule.name], by_kind.get(rule.kind)
        if threshold is None or count is None:
            continue
        value = {"count": count.count, "amount": count.amount, "peak": count.peak}[rule.measure] // rule.unit
        if value >= threshold:
            words = rule.words.format(value, times="once" if value == 1 else f"{value} times")
            reason = f"{words} (shown from {threshold})"
            found.append(Found(rule.name, value, threshold, reason, count.last_ms))
    return tuple(sorted(found, key=lambda one: -one.strength))


# What the server sees itself


def jumped(before_ms: int, now_ms: int) -> bool:
    """Whether a client's clock, given by how far it is behind ours, has jumped between two reports."""
    return abs(now_ms - before_ms) > CLOCK_JUMP_MS


def inferred(presences: Sequence[Presence], came: Presence, report_seconds: int = 0) -> Sequence[tuple[Kind, tuple[str, str]]]:
    """Return what a report says beside those before it, from the same session: a kind, and the pair of devices or addresses.

    `presences` are those before it, `came` is its own moment; `report_seconds` is how often clients report, on average: who is
    told to gather for long comes back later. A device or address that is not known says nothing, nor do two
    addresses of one device: a telephone at the edge of its wifi. A shared address, of a school, says nothing either, since only
    one session is looked at.
    """
    found: list[tuple[Kind, tuple[str, str]]] = []
    at_once_ms = max(AT_ONCE_MS, 2 * 1000 * report_seconds)
    for kind, part in ((Kind.TWO_DEVICES, "device"), (Kind.TWO_ADDRESSES, "address")):
        own = getattr(came, part)
        earlier = [one for one in presences if getattr(one, part) == own and one.last_ms < came.first_ms]
        last_ms = max((one.last_ms for one in earlier), default=None)
        for one in presences:
            other = getattr(one, part)
            between = last_ms is not None and last_ms <= one.last_ms <= came.first_ms and came.first_ms - last_ms <= at_once_ms
            same = kind is Kind.TWO_ADDRESSES and came.device and one.device == came.device
            if own and other and other != own and between and not same:
                found.append((kind, _pair(own, other)))
    moved = {one.device for one in presences if one.token == came.token and one.device and one.device != came.device}
    if came.token and came.device:
        found += [(Kind.TOKEN_MOVED, _pair(came.device, other)) for other in sorted(moved)]
    return list(dict.fromkeys(found))


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)


def times_taken(started_ms: int, answers: Sequence[tuple[str, int]]) -> Mapping[str, float]:
    """Return how many seconds each question took: from the answer before it, in the order in which they were last changed.

    Who comes back to a question is measured from there alone. What was saved in one call is left out, and so is what follows.
    """
    taken, before = {}, started_ms
    for at, (question, answered_ms) in enumerate(answers):
        with_next = at + 1 < len(answers) and answers[at + 1][1] - answered_ms < SAME_BATCH_MS
        if answered_ms - before >= SAME_BATCH_MS and not with_next:
            taken[question] = max(SHORTEST_SECONDS, (answered_ms - before) / 1000)
        before = max(before, answered_ms)
    return taken


def paced(seconds: float) -> Pace:
    """Return one answer's time as a part of its question's pace."""
    log = math.log(seconds)
    return Pace(1, log, log * log)


def together(one: Pace, other: Pace) -> Pace:
    """Return two paces as one."""
    return Pace(one.answers + other.answers, one.total + other.total, one.squares + other.squares)


def too_fast(seconds: float, pace: Pace | None) -> bool:
    """Whether a time is implausible beside the others': three standard deviations below the mean of the logarithms, and less than a
    quarter of the typical time. Response times are close to log-normal (van der Linden 2006, J. Educ. Behav. Stat. 31, 181-204)."""
    if pace is None or pace.answers < LEAST_ANSWERS:
        return False
    mean = pace.total / pace.answers
    variance = max(0.0, pace.squares / pace.answers - mean * mean)
    deviation = max(LEAST_DEVIATION, math.sqrt(variance))
    log = math.log(seconds)
    return log < mean - FAST_DEVIATIONS * deviation and seconds < FAST_SHARE * math.exp(mean)


def bursts(returns: Sequence[tuple[int, int]], answers: Sequence[tuple[str, int]]) -> Sequence[tuple[int, int]]:
    """Return the returns to the window after which many answers changed at once: when, and how many. `returns` are their times, and
    for how long each had been away, in ms."""
    found = []
    for back_ms, away_ms in returns:
        changes = sum(0 <= answered_ms - back_ms <= BURST_SECONDS * 1000 for _, answered_ms in answers)
        if away_ms >= BURST_AWAY_MS and changes >= BURST_CHANGES:
            found.append((back_ms, changes))
    return found

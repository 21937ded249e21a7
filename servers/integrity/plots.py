"""The two plots of a report, as SVG. Texts in them are escaped here; all else are numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

WIDTH = 960
LEFT, RIGHT, TOP = 52, 16, 30
LANE = 22
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400, 604_800)
"""Seconds between two marks of a time axis."""

RED, GREY, LINE, SOFT = "#b3261e", "#8a919e", "#d9dde3", "#c9d3e3"
PICTURE = Markup('<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{}" viewBox="0 0 {} {}">\n{}\n</svg>')
STROKE = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}" stroke-width="{}"/>')
BAR = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"/>')
SQUARE = Markup('<rect x="{:.1f}" y="{:.1f}" width="7.2" height="7.2"{}/>')
ROUND = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4"{}/>')
PAINT = Markup(' fill="{}" stroke="{}" stroke-width="1.6"')

Look = tuple[str, str, bool]
"""A letter, a colour, and whether its marks are squares."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing and what is said under it."""

    svg: Markup
    caption: str


@dataclass(frozen=True, slots=True)
class Mark:
    """An answer: whose, when in seconds, at which place in the paper, to which question."""

    student: int
    seconds: float
    place: int
    question: str
    right: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """A signal: whose, when in seconds, and how many seconds before it began."""

    student: int
    seconds: float
    lasted: float


def timeline(
    looks: Sequence[Look], marks: Sequence[Mark], ticks: Sequence[Tick], alike: Mapping[str, str], places: int, start: int | None
) -> Markup:
    """Draw answers by time and place, those that are alike joined, and signals in a lane for each student.

    `looks` are (letter, colour, whether a square); `start` is the time of day in seconds where the axis begins, None where it
    counts from zero.
    """
    high = min(640, max(220, places * 9))
    bottom = TOP + high
    begins = min([0.0, *(one.seconds for one in ticks)])
    ends = max([60.0, *(one.seconds for one in marks), *(one.seconds for one in ticks)])
    pad = (ends - begins) * 0.02

    def x(seconds: float) -> float:
        return LEFT + (seconds - begins + pad) / (ends - begins + 2 * pad) * (WIDTH - LEFT - RIGHT)

    def y(place: float) -> float:
        return bottom - (place - 0.5) / max(1, places) * high

    drawn = [_rule(place, y(place)) for place in _places(places)]
    drawn += [_time(seconds, x(seconds), bottom, start) for seconds in _times(begins, ends, start)]
    by_question: dict[str, list[Mark]] = {}
    for one in marks:
        by_question.setdefault(one.question, []).append(one)
    for question, both in by_question.items():
        if question in alike and len(both) == 2:
            colour, width = (RED, 1.6) if alike[question] == "bad" else (GREY, 1.0)
            drawn.append(_line(x(both[0].seconds), y(both[0].place), x(both[1].seconds), y(both[1].place), colour, width))
    drawn += [_dot(x(one.seconds), y(one.place), looks[one.student], full=one.right) for one in marks]
    for at, (letter, colour, _) in enumerate(looks):
        lane = bottom + 30 + at * LANE
        drawn.append(_text(LEFT - 8, lane + 4, f"{letter}", "end"))
        drawn.append(_line(LEFT, lane, WIDTH - RIGHT, lane, LINE, 1))
        for tick in ticks:
            if tick.student == at:
                begun = x(max(begins, tick.seconds - tick.lasted))
                drawn.append(_bar(begun, lane - 6, max(1.6, x(tick.seconds) - begun), 12, colour))
    drawn.append(_text(LEFT, 16, "place in the paper", "start", faint=True))
    for at, look in enumerate(looks):
        drawn += [_dot(WIDTH - RIGHT - 60 * (len(looks) - at) + 20, 12, look, full=True)]
        drawn.append(_text(WIDTH - RIGHT - 60 * (len(looks) - at) + 30, 16, look[0], "start"))
    return _svg("Answers by time", drawn, bottom + 30 + len(looks) * LANE)


def histogram(name: str, edges: Sequence[float], counts: Sequence[int], marked: Sequence[tuple[str, float, bool]]) -> Markup:
    """Draw how many pairs have which value, on a logarithmic scale; `marked` are (who, value, whether flagged)."""
    high = 190
    bottom = TOP + high
    low, far = edges[0], max(edges[-1], *(math.ceil(value) + 1 for _, value, _ in marked), edges[0] + 1)
    most = max(1, *counts)
    top = math.log10(1 + most)

    def x(value: float) -> float:
        return LEFT + (min(max(value, low), far) - low) / (far - low) * (WIDTH - LEFT - RIGHT)

    def y(count: float) -> float:
        return bottom - math.log10(1 + count) / top * high

    levels = [0, *(10**power for power in range(int(math.log10(most)) + 1))]
    drawn = [_rule(level, y(level)) for level in levels]
    drawn += [
        _bar(x(left) + 0.5, y(count), max(0.5, x(right) - x(left) - 1), bottom - y(count), SOFT)
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
        if count
    ]
    step = 1 if far - low <= 24 else 5
    drawn += [_text(x(value), bottom + 18, f"{value}", "middle", faint=True) for value in range(math.ceil(low), int(far) + 1, step)]
    for at, (who, value, flagged) in enumerate(sorted(marked, key=lambda one: one[1])):
        colour, up = (RED if flagged else "#1b1d21"), TOP + 4 + 16 * (at % 8)
        drawn.append(_line(x(value), TOP - 8, x(value), bottom, colour, 2))
        left = x(value) > WIDTH - 200
        drawn.append(_text(x(value) + (-8 if left else 8), up + 6, f"{who}: {value:.2f}", "end" if left else "start"))
    drawn.append(_text(LEFT, 16, f"pairs by {name}", "start", faint=True))
    return _svg(f"Distribution of {name}", drawn, bottom + 26)


def _svg(title: str, drawn: Sequence[Markup], height: float) -> Markup:
    return PICTURE.format(title, WIDTH, math.ceil(height), Markup("\n").join(drawn))


def _text(x: float, y: float, text: str, anchor: str, *, faint: bool = False) -> Markup:
    look = Markup(' class="faint"') if faint else ""
    return Markup('<text x="{}" y="{}" text-anchor="{}"{}>{}</text>').format(f"{x:.1f}", f"{y:.1f}", anchor, look, text)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> Markup:
    return STROKE.format(x1, y1, x2, y2, colour, width)


def _bar(x: float, y: float, width: float, height: float, colour: str) -> Markup:
    return BAR.format(x, y, width, height, colour)


def _dot(x: float, y: float, look: Look, *, full: bool) -> Markup:
    _, colour, square = look
    paint = PAINT.format(colour if full else "#fff", colour)
    return SQUARE.format(x - 3.6, y - 3.6, paint) if square else ROUND.format(x, y, paint)


def _rule(number: int, y: float) -> Markup:
    return _line(LEFT, y, WIDTH - RIGHT, y, LINE, 0.7) + _text(LEFT - 8, y + 4, f"{number:,}", "end", faint=True)


def _places(places: int) -> Sequence[int]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 10_000, 1_000_000) if places / step <= 12)
    return sorted({1, *range(step, places + 1, step)}) if places else []


def _times(begins: float, ends: float, start: int | None) -> Sequence[float]:
    """Return where a time axis has marks: at round times of the day, or round times since the start."""
    step = next((step for step in STEPS if (ends - begins) / step <= 9), STEPS[-1])
    offset = -(start % step) if start is not None else 0
    first = math.ceil((begins - offset) / step)
    return [offset + number * step for number in range(first, int((ends - offset) // step) + 1)]


def _time(seconds: float, x: float, bottom: float, start: int | None) -> Markup:
    if start is not None:
        said = datetime.fromtimestamp(start + seconds, UTC).strftime("%H:%M:%S" if (start + seconds) % 60 else "%H:%M")
    else:
        said = f"{int(seconds // 60)}:{int(seconds % 60):02d}"
    return _line(x, TOP, x, bottom, LINE, 0.7) + _text(x, bottom + 16, said, "middle", faint=True)

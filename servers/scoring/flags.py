"""Flags: which questions an examiner should look at after the exam, by rules of thumb of classical test theory.

A flag is a reason to look, never a verdict: docs/statistics.md says what to do about each.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

MIN_RESULTS = 10
"""Fewer results flag nothing: two standard errors of a correlation (below) are then more than 0.67, and one student moves a
share by more than a tenth."""

CLEAR_CORRELATION = 0.10
STANDARD_ERRORS = 2
"""A distractor's correlation is clearly positive from two standard errors 1/√(n-1) above 0 on: Crocker & Algina (Introduction to
Classical and Modern Test Theory, 1986, chapter 14) have this as the least that an item's discrimination must reach to differ
from 0. In a large exam that is next to nothing, so that it must be 0.10 as well."""

MIN_PICKS = 5
"""So many must have picked a distractor before it can be suspect: a correlation that four students make is chance."""

LEAST_DISCRIMINATION = 0.10
"""Ebel (Measuring Educational Achievement, 1965) has items improved or rejected whose index D is below 0.20. D compares the two
extreme groups; the correlation with the rest of the exam, which leaves the middle in and the item out (Henrysson, Psychometrika
28, 1963), is lower for the same item. Half of Ebel's limit flags what fails by either."""

HARDEST = 0.20
EASIEST = 0.95
"""A question's variance, p (1 - p) for one of 0 or 1 point, bounds what it can tell of students and goes to 0 at both ends
(Crocker & Algina, chapter 14): at 0.95 it is a fifth of the most. 0.20 is what guessing among five options gives."""

LEAST_SHARE = 0.02
"""Haladyna & Downing (Educational and Psychological Measurement 53, 1993) say that a distractor does not work which fewer than 5%
choose. On an easy question good distractors fall below that too, so that only those are flagged that next to nobody chose."""


class Flag(StrEnum):
    """Why to look at a question, the gravest first."""

    SUSPECT_KEY = "SUSPECT_KEY"
    NEGATIVE_DISCRIMINATION = "NEGATIVE_DISCRIMINATION"
    LOW_DISCRIMINATION = "LOW_DISCRIMINATION"
    TOO_HARD = "TOO_HARD"
    TOO_EASY = "TOO_EASY"
    UNUSED_DISTRACTOR = "UNUSED_DISTRACTOR"


class Option(Protocol):
    """What the rules ask of a row of a distractor table."""

    @property
    def is_key(self) -> bool: ...
    @property
    def count(self) -> int: ...
    @property
    def share(self) -> float: ...
    @property
    def correlation(self) -> float | None: ...


def flags(
    results: int, difficulty: float | None, discrimination: float | None, options: Sequence[Option], *, suspect: bool
) -> tuple[Flag, ...]:
    """Return what is to be said of a question; `suspect`: one of its options looks more like the right answer than the key."""
    if results < MIN_RESULTS:
        return ()
    found = {
        Flag.SUSPECT_KEY: suspect,
        Flag.NEGATIVE_DISCRIMINATION: discrimination is not None and discrimination < 0,
        Flag.LOW_DISCRIMINATION: discrimination is not None and 0 <= discrimination < LEAST_DISCRIMINATION,
        Flag.TOO_HARD: difficulty is not None and difficulty < HARDEST,
        Flag.TOO_EASY: difficulty is not None and difficulty > EASIEST,
        Flag.UNUSED_DISTRACTOR: any(not option.is_key and option.share < LEAST_SHARE for option in options),
    }
    return tuple(flag for flag, holds in found.items() if holds)


def suspects(results: int, options: Sequence[Option], *, every_key: bool) -> list[bool]:
    """Say of each option whether it looks like the right answer: a distractor that goes clearly with the rest of the exam, and
    more so than the key.

    Where one of several right options is enough, it has to beat the best of them; where all have to be picked (`every_key`),
    the worst. A key that nobody picked goes with nothing.
    """
    keys = [0.0 if option.correlation is None else option.correlation for option in options if option.is_key]
    if not keys or results < MIN_RESULTS:
        return [False] * len(options)
    to_beat = min(keys) if every_key else max(keys)
    clear = max(CLEAR_CORRELATION, STANDARD_ERRORS / math.sqrt(results - 1), math.nextafter(to_beat, math.inf))
    return [
        not option.is_key and option.count >= MIN_PICKS and option.correlation is not None and option.correlation >= clear
        for option in options
    ]

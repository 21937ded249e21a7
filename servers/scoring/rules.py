"""Grading: a pure function of a frozen answer and its key. DESIGN 4 and docs/exam-files.md say the rules.

Scores are exact integers and numbers are exact fractions: no float is anywhere near a grade.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any

from stores.records import Answer, Key, KeySet, Marking


class Outcome(StrEnum):
    """How an answer was judged."""

    CORRECT = "CORRECT"
    PARTIAL = "PARTIAL"
    WRONG = "WRONG"
    BLANK = "BLANK"
    PENDING = "PENDING"


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer's outcome and points; a pending essay has 0 until it is graded."""

    outcome: Outcome
    points: int


@dataclass(frozen=True, slots=True)
class Grades:
    """A whole session graded, in paper order."""

    graded: tuple[Graded, ...]
    score: int
    max_score: int

    @property
    def partial(self) -> bool:
        """Whether an essay waits for its grader."""
        return any(one.outcome is Outcome.PENDING for one in self.graded)


def grade(answers: Mapping[str, Answer], keys: KeySet) -> Grades:
    """Grade every question of the paper; an answer to a question that the paper does not have counts for nothing."""
    graded = tuple(grade_answer(answers.get(key.question), key, keys.marking) for key in keys.keys)
    max_score = sum(key.points for key in keys.keys) * keys.marking.correct
    return Grades(graded, sum(one.points for one in graded), max_score)


def grade_answer(answer: Answer | None, key: Key, marking: Marking) -> Graded:
    """Grade one answer. Blank earns points × `blank`, right points × `correct`, wrong points × `wrong`."""
    if is_blank(answer) or answer is None:
        return Graded(Outcome.BLANK, key.points * marking.blank)
    if key.type == "essay":
        return Graded(Outcome.PENDING, 0)
    wanted = json.loads(key.answer)
    if key.type == "multiple_choice" and marking.partial:
        return _graded_partially(frozenset(answer.picks), frozenset(wanted["choices"]), key.points, marking)
    if _is_right(answer, key.type, wanted):
        return Graded(Outcome.CORRECT, key.points * marking.correct)
    return Graded(Outcome.WRONG, key.points * marking.wrong)


def _is_right(answer: Answer, kind: str, wanted: dict[str, Any]) -> bool:
    """Whether the answer is all right; raises ValueError for a type that only people can grade."""
    match kind:
        case "single_choice":
            return bool(answer.value == wanted["choice"])
        case "multiple_choice":
            return frozenset(answer.picks) == frozenset(wanted["choices"])
        case "numeric":
            return within(answer.value, wanted["number"], wanted["tolerance"], relative=wanted["relative"])
        case "short_text":
            return accepted(answer.value, wanted["accept"], case_sensitive=wanted["caseSensitive"])
        case _:
            raise ValueError(f"a question of type {kind} has no key")


def is_blank(answer: Answer | None) -> bool:
    """Whether nothing was answered: no pick, or text of white space alone."""
    return answer is None or not answer.value.strip()


def _graded_partially(picked: frozenset[str], right: frozenset[str], points: int, marking: Marking) -> Graded:
    """Grade a multiple-choice answer under PARTIAL marking, rounded down.

    A wrong pick cancels a right one, so that ticking everything earns nothing, and an item never costs more than it can
    give: the floor is 0, and `wrong` is never earned.
    """
    balance = max(0, len(picked & right) - len(picked - right))
    earned = balance * points * marking.correct // len(right)
    if picked == right:
        return Graded(Outcome.CORRECT, earned)
    return Graded(Outcome.PARTIAL if earned else Outcome.WRONG, earned)


def within(given: str, key: str, tolerance: str, *, relative: bool) -> bool:
    """Whether |given - key| <= tolerance, or <= tolerance × |key|; both ends belong to it."""
    number, wanted, allowed = Fraction(given), Fraction(key), Fraction(tolerance)
    return abs(number - wanted) <= (allowed * abs(wanted) if relative else allowed)


def accepted(given: str, accept: list[str], *, case_sensitive: bool) -> bool:
    """Whether the text equals an accepted one, both folded."""
    return folded(given, case_sensitive=case_sensitive) in {folded(one, case_sensitive=case_sensitive) for one in accept}


def folded(text: str, *, case_sensitive: bool) -> str:
    """Return text in NFKC, trimmed, white space collapsed, and case-folded unless case matters.

    Case folding can undo normalisation (U+0345), so NFKC is applied again after it: Unicode's NFKC_Casefold idea.
    """
    normal = unicodedata.normalize("NFKC", text)
    if not case_sensitive:
        normal = unicodedata.normalize("NFKC", normal.casefold())
    return re.sub(r"\s+", " ", normal).strip()


def correct_text(key: Key) -> str:
    """Return the right answer as people read it: the breakdown's `correct`."""
    wanted = json.loads(key.answer)
    match key.type:
        case "single_choice":
            return str(wanted["choice"])
        case "multiple_choice":
            return ",".join(sorted(wanted["choices"]))
        case "numeric":
            return str(wanted["number"])
        case "short_text":
            return str(wanted["accept"][0])
        case _:
            return ""

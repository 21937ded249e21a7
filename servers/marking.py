"""Marking: which answers fit a question, and which are right. Exams are graded by it, and practice answers checked.

Numbers are exact fractions: no float is anywhere near a mark.
"""

import json
import re
import unicodedata
from fractions import Fraction
from typing import Any

from stores.records import Answer, AnswerKind, PaperQuestion

FITTING = {
    "single_choice": AnswerKind.CHOICE,
    "multiple_choice": AnswerKind.CHOICES,
    "numeric": AnswerKind.NUMBER,
    "short_text": AnswerKind.TEXT,
    "essay": AnswerKind.TEXT,
}
PICKING = (AnswerKind.CHOICE, AnswerKind.CHOICES)
FIELD = {
    AnswerKind.CHOICE: "choice",
    AnswerKind.CHOICES: "choices",
    AnswerKind.NUMBER: "number",
    AnswerKind.TEXT: "text",
}


def misfit(question: PaperQuestion, answer: Answer) -> tuple[str, str] | None:
    """Return the field and what is wrong with it when the answer does not fit the question; None when it does."""
    if answer.kind is AnswerKind.CLEARED:
        return None
    wanted = FITTING[question.type]
    if answer.kind is not wanted:
        return FIELD[answer.kind], f"does not answer this question: it takes '{FIELD[wanted]}'"
    picks = answer.picks if wanted in PICKING else ()
    if not all(pick in question.options for pick in picks):
        return FIELD[answer.kind], "is not an option of this question"
    return None


def is_right(answer: Answer, kind: str, wanted: dict[str, Any]) -> bool:
    """Whether the answer is all right; raises ValueError for a type that only people can grade."""
    match kind:
        case "single_choice":
            return answer.value in wanted["accept"] if "accept" in wanted else bool(answer.value == wanted["choice"])
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


def correct_text(kind: str, answer: str) -> str:
    """Return the right answer as people read it, from a question's type and its key's JSON; empty for an essay."""
    wanted = json.loads(answer)
    match kind:
        case "single_choice":
            return ",".join(wanted["accept"]) if "accept" in wanted else str(wanted["choice"])
        case "multiple_choice":
            return ",".join(sorted(wanted["choices"]))
        case "numeric":
            return str(wanted["number"])
        case "short_text":
            return str(wanted["accept"][0])
        case _:
            return ""

"""Grading: a pure function of a frozen answer and its key. docs/exam-files.md says the rules, servers/marking.py what is right.

Scores are exact integers: no float is anywhere near a grade.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from servers.marking import is_blank, is_right
from stores.exam_records import Criterion
from stores.records import Answer, AnswerTimes, Key, KeySet, Marking

REMEMBERED = 10_000
"""Answers of one question whose worth a grader remembers."""

NOTHING: Mapping[str, int] = {}


class Outcome(StrEnum):
    """How an answer was judged."""

    CORRECT = "CORRECT"
    PARTIAL = "PARTIAL"
    WRONG = "WRONG"
    BLANK = "BLANK"
    PENDING = "PENDING"
    VOIDED = "VOIDED"


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer's outcome and points; a pending essay has 0 until it is graded."""

    outcome: Outcome
    points: int


@dataclass(frozen=True, slots=True)
class Grades:
    """A whole session graded, in paper order; `pending` are the essays that wait for a grader."""

    graded: tuple[Graded, ...]
    score: int
    max_score: int
    pending: tuple[str, ...]


class Grader:
    """Grades sessions with one key set. What an answer is worth is worked out once: most students give one of few."""

    def __init__(self, keys: KeySet) -> None:
        self.keys = keys
        self.max_score = sum(max_points(key, keys.marking) for key in keys.keys)
        self.has_essay = any(key.type == "essay" for key in keys.keys)
        self._known: tuple[dict[str, Graded], ...] = tuple({} for _ in keys.keys)

    def grade(self, answers: Mapping[str, str], essays: Mapping[str, int] = NOTHING) -> Grades:
        """Grade packed answers by question; `essays` are the points that graders gave, before the marking.

        An answer to a question that the paper does not have counts for nothing. Raises ValueError for a text that is no
        packed answer.
        """
        graded, pending, score = [], [], 0
        for key, known in zip(self.keys.keys, self._known, strict=True):
            packed = answers.get(key.question, "")
            one = known.get(packed)
            if one is None:
                one = grade_answer(Answer.unpacked(packed) if packed else None, key, self.keys.marking)
                if len(known) < REMEMBERED and key.type != "essay":
                    known[packed] = one
            if one.outcome is Outcome.PENDING:
                if key.question in essays:
                    one = _judged(essays[key.question], key, self.keys.marking)
                else:
                    pending.append(key.question)
            graded.append(one)
            score += one.points
        return Grades(tuple(graded), score, self.max_score, tuple(pending))

    def rubric(self, question: str) -> Sequence[Criterion]:
        """Return what an essay is graded by; empty for other questions."""
        answer: dict[str, Any] = next((json.loads(key.answer) for key in self.keys.keys if key.question == question), {})
        return [Criterion(one["criterion"], one["description"], one["maxPoints"]) for one in answer.get("rubric", ())]


def grade_answer(answer: Answer | None, key: Key, marking: Marking) -> Graded:
    """Grade one answer. Blank earns points × `blank`, right points × `correct`, wrong points × `wrong`.

    A voided question asks nobody: it earns all its points, or, dropped, none, whatever was answered.
    """
    if (void := voided(key)) is not None:
        return Graded(Outcome.VOIDED, key.points * marking.correct if void == "FULL_POINTS" else 0)
    if is_blank(answer) or answer is None:
        return Graded(Outcome.BLANK, key.points * marking.blank)
    if key.type == "essay":
        return Graded(Outcome.PENDING, 0)
    wanted = json.loads(key.answer)
    if key.type == "multiple_choice" and marking.partial:
        return _graded_partially(frozenset(answer.picks), frozenset(wanted["choices"]), key.points, marking)
    if is_right(answer, key.type, wanted):
        return Graded(Outcome.CORRECT, key.points * marking.correct)
    return Graded(Outcome.WRONG, key.points * marking.wrong)


def voided(key: Key) -> str | None:
    """Return how a question was taken out, FULL_POINTS or DROP; None: it counts."""
    void = json.loads(key.answer).get("void") if '"void"' in key.answer else None
    return str(void) if void else None


def max_points(key: Key, marking: Marking) -> int:
    """Return the most that a question can earn; one that was dropped has nothing to give."""
    return 0 if voided(key) == "DROP" else key.points * marking.correct


def decided(totals: Sequence[int | None], tolerance: int) -> int | None:
    """Return what an answer's grades come to; None while one is missing, or two disagree and a third is needed.

    One grade counts as it is. Two count by their mean, rounded up, while they differ by no more than the tolerance. Of three
    the median counts: the one that lies between the others, whoever gave it.
    """
    given = [total for total in totals if total is not None]
    if not given or len(given) < len(totals):
        return None
    if len(given) == 2:
        return (given[0] + given[1] + 1) // 2 if abs(given[0] - given[1]) <= tolerance else None
    return sorted(given)[len(given) // 2]


def time_spent(times: AnswerTimes) -> Mapping[str, int]:
    """Return for each answered question the milliseconds from the save before it (or the start) to its own, without pauses.

    An estimate: only the save that stands is known of each question, so time that was spent on an answer and changed later
    counts for whatever was saved next.
    """
    spent, before = {}, times.started_ms
    for question, at in sorted(times.saved_ms.items(), key=lambda one: one[1]):
        stood = sum(max(0, min(until, at) - max(since, before)) for since, until in times.pauses)
        spent[question] = max(0, at - before - stood)
        before = max(before, at)
    return spent


def _judged(given: int, key: Key, marking: Marking) -> Graded:
    """Return what an essay is worth that graders gave so many of its points."""
    outcome = Outcome.CORRECT if given >= key.points else Outcome.PARTIAL if given else Outcome.WRONG
    return Graded(outcome, given * marking.correct)


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

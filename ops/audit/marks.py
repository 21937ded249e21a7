"""What answers are worth, once more, written from docs/exam-files.md: by their keys, and by what graders gave."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact
from typing import cast

from ops.audit.kept import Keys, Question, Task

EXACT = Context(prec=1000, traps=[Inexact])
REMEMBERED = 10_000
"""Answers of one question whose worth is remembered: most students give one of few."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What a session is worth: points in paper order, and the essays whose points people have not decided (0 here)."""

    points: list[int]
    score: int
    undecided: Sequence[str]


class Marking:
    """Grades frozen answers with one version of the keys, which has to be whole."""

    def __init__(self, keys: Keys) -> None:
        self._correct = keys.correct
        self._known = [(question, _remembering(question, keys)) for question in keys.questions]
        self.essays = [question for question in keys.questions if question.type == "essay" and void(question) is None]
        self.voided = frozenset(question.id for question in keys.questions if void(question) is not None)
        self.max_score = sum(question.points for question in keys.questions if void(question) != "DROP") * keys.correct

    def worth(self, answers: Mapping[str, str], given: Mapping[str, int]) -> Worth:
        """Grade a session's answers; `given` are its essays' points, as far as they are decided."""
        points, undecided = [], []
        for question, worth in self._known:
            one = worth(answers.get(question.id))
            if one is None and question.id in given:
                one = given[question.id] * self._correct
            elif one is None:
                undecided.append(question.id)
            points.append(one or 0)
        return Worth(points, sum(points), undecided)

    def differing(self, points: Sequence[int], right: Worth) -> Sequence[str]:
        """Return the questions whose points are not what they should be."""
        return [question.id for (question, _), was, n in zip(self._known, points, right.points, strict=False) if was != n]

    def answered_essays(self, answers: Mapping[str, str]) -> Sequence[Question]:
        """Return the questions of a session whose answers people have to read."""
        return [question for question in self.essays if not is_blank(answers.get(question.id))]


def decided(tasks: Sequence[Task], tolerance: int) -> int | None:
    """Return the points that an answer's tasks come to, None while they are not decided.

    One grade counts as it is; two by their mean, rounded up, where they agree; of three the one in the middle.
    """
    totals = [task.total for task in tasks if task.status != "CANCELLED"]
    given = sorted(total for total in totals if total is not None)
    if not given or len(given) < len(totals) or disagree(given, tolerance):
        return None
    return -(-sum(given) // 2) if len(given) == 2 else given[len(given) // 2]


def disagree(given: Sequence[int], tolerance: int) -> bool:
    """Whether two graders gave points too far apart, so that a third one has to be asked."""
    return len(given) == 2 and abs(given[0] - given[1]) > tolerance


def void(question: Question) -> str | None:
    """Return how a question was taken out: FULL_POINTS or DROP; None: it counts."""
    return cast("str | None", (question.answer or {}).get("void"))


def is_blank(packed: str | None) -> bool:
    """Whether nothing was answered, or it was taken back, or it is white space alone."""
    return packed is None or packed.startswith("-") or not packed[2:].split()


def _remembering(question: Question, keys: Keys) -> Callable[[str | None], int | None]:
    """Return what tells the worth of a question's answers; essays are long, and each is another one."""
    known: dict[str | None, int | None] = {}

    def worth(packed: str | None) -> int | None:
        if packed in known:
            return known[packed]
        points = _points(packed, question, keys)
        if len(known) < REMEMBERED and question.type != "essay":
            known[packed] = points
        return points

    return worth


def _points(packed: str | None, question: Question, keys: Keys) -> int | None:
    """Return the points of one answer, None for an essay that people have to read."""
    if question.answer is None:
        raise ValueError(f"question {question.id} has no key")
    if (taken_out := void(question)) is not None:
        return {"FULL_POINTS": question.points * keys.correct, "DROP": 0}[taken_out]
    if packed is None or is_blank(packed):
        return question.points * keys.blank
    if question.type == "essay":
        return None
    given = packed[2:]
    if question.type == "multiple_choice" and keys.partial:
        right = set(_texts(question.answer["choices"]))
        balance = sum(1 if pick in right else -1 for pick in given.split(","))
        return max(0, balance) * question.points * keys.correct // len(right)
    return question.points * (keys.correct if _right(given, question.type, question.answer) else keys.wrong)


def _right(given: str, kind: str, key: Mapping[str, object]) -> bool:
    if kind == "single_choice":
        return given in (_texts(key["accept"]) if "accept" in key else [key["choice"]])
    if kind == "multiple_choice":
        return sorted(given.split(",")) == sorted(_texts(key["choices"]))
    if kind == "numeric":
        return _near(given, str(key["number"]), str(key.get("tolerance", "0")), relative=bool(key.get("relative", False)))
    if kind == "short_text":
        fold = bool(key.get("caseSensitive", False)) is False
        return _plain(given, fold=fold) in [_plain(one, fold=fold) for one in _texts(key["accept"])]
    raise ValueError(f"a question of type {kind} has no key")


def _texts(value: object) -> Sequence[str]:
    return cast(Sequence[str], value)


def _near(given: str, wanted: str, tolerance: str, *, relative: bool) -> bool:
    """Whether a number is within its tolerance, both ends included; exact, or an error."""
    number, key, allowed = Decimal(given), Decimal(wanted), Decimal(tolerance)
    if relative:
        allowed = EXACT.multiply(allowed, EXACT.abs(key))
    return EXACT.abs(EXACT.subtract(number, key)) <= allowed


def _plain(text: str, *, fold: bool) -> str:
    """Write a text as it is compared: NFKC, single blanks, no outer ones, and no case unless it matters."""
    text = unicodedata.normalize("NFKC", text)
    if fold:
        text = unicodedata.normalize("NFKC", text.casefold())
    return " ".join(text.split())

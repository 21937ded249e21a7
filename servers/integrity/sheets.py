"""What is compared: answers as small numbers, the same whatever order a student saw options in, and which of them are right.

No key is read. An answer is right where it earned all points of its question; so an analysis needs no right to the keys, and
follows a regrade by itself.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from fractions import Fraction
from uuid import UUID

from servers.marking import folded, is_blank
from stores.case_records import Asked, Sitting
from stores.records import Answer, AnswerKind

BLANK = 0
NOT_PRESENTED = -1
MOST_CODES = 32_000
"""Different answers of a question that are told apart; what comes after that many is one more, together."""

TOO_MANY = ""

TYPED = ("numeric", "short_text")
"""Questions whose right answers are typed, in as many ways as there are: 9.8 and 9.81, Paris and paris. They count as one: how
somebody writes is the same from question to question, and says nothing about who sat beside whom."""


class Sheets:
    """Adds up the results of an exam, which come by student and session, one row of codes for each student."""

    def __init__(self, questions: Sequence[Asked]) -> None:
        self.asked = [(at, question) for at, question in enumerate(questions) if question.type != "essay"]
        self.essays = len(questions) - len(self.asked)
        self.attempts = 0
        self.students: list[str] = []
        self.sessions: list[UUID] = []
        self.cohorts: list[tuple[str, ...]] = []
        self.codes = array("h")
        self._known: list[dict[str, int]] = [{} for _ in self.asked]
        self._right: list[dict[int, tuple[int, bool]]] = [{} for _ in self.asked]
        self._score = 0

    def feed(self, page: Sequence[Sitting], marks: Mapping[int, int]) -> None:
        """Take some results, and what a point earned by each version of the keys that they were graded with.

        Of a student's attempts the one with the highest score counts, the earliest of equals.
        """
        for sitting in page:
            row = self._row(sitting, marks[sitting.key_version])
            if self.students and self.students[-1] == sitting.student:
                self.attempts += 1
                if sitting.score <= self._score:
                    continue
                self.codes[-len(row) :] = row
                self.sessions[-1], self.cohorts[-1] = sitting.session, sitting.cohorts
            else:
                self.codes.extend(row)
                self.students.append(sitting.student)
                self.sessions.append(sitting.session)
                self.cohorts.append(sitting.cohorts)
            self._score = sitting.score

    def right(self) -> list[list[int]]:
        """Return the codes of each question's right answers; none where a blank earned as much, since it asks nobody any more."""
        return [
            [] if found.get(BLANK, (0, False))[1] else sorted(code for code, (_, right) in found.items() if right)
            for found in self._right
        ]

    def places(self) -> list[list[tuple[int, int]]]:
        """Return of each single choice which place in the paper each code's option has, in pairs; of any other question nothing."""
        return [
            [(known[option], place) for place, option in enumerate(question.options) if option in known]
            if question.type == "single_choice"
            else []
            for (_, question), known in zip(self.asked, self._known, strict=True)
        ]

    def same(self) -> list[tuple[int, list[int]]]:
        """Return of each typed question, by its place, the code that each code counts as: all that is right as one, and of the rest
        what differs in case alone. Those that came after `MOST_CODES` are not compared."""
        found = []
        for at, ((_, question), known, right) in enumerate(zip(self.asked, self._known, self.right(), strict=True)):
            if question.type in TYPED:
                first = {TOO_MANY: NOT_PRESENTED}
                codes, all_right = [BLANK], set(right)
                for text, code in known.items():
                    is_right = code in all_right and text != TOO_MANY
                    codes.append(right[0] if is_right else first.setdefault(folded(text, case_sensitive=False), code))
                found.append((at, codes))
        return found

    def _row(self, sitting: Sitting, mark: int) -> array[int]:
        answers: Mapping[str, str] = json.loads(sitting.answers)
        row = array("h")
        for (at, question), known, right in zip(self.asked, self._known, self._right, strict=True):
            code = _code(answers.get(question.question, ""), known)
            full = question.points * mark
            if right.get(code, (-1, False))[0] < sitting.key_version:  # what the newest keys say
                right[code] = (sitting.key_version, full > 0 and sitting.points[at] >= full)
            row.append(code)
        return row


def _code(packed: str, known: dict[str, int]) -> int:
    """Return an answer's number among those of its question."""
    answer = Answer.unpacked(packed) if packed else None
    if answer is None or is_blank(answer):
        return BLANK
    text = meaning(answer, case_sensitive=True)
    if text not in known and len(known) >= MOST_CODES:
        text = TOO_MANY
    return known.setdefault(text, len(known) + 1)


def meaning(answer: Answer, *, case_sensitive: bool = False) -> str:
    """Return a text that is the same for answers that mean the same: 3.5 and 3.50, one space and two."""
    if answer.kind is AnswerKind.NUMBER:
        return str(Fraction(answer.value))
    return folded(answer.value, case_sensitive=case_sensitive) if answer.kind is AnswerKind.TEXT else answer.value


def meanings(answers: str) -> Mapping[str, str]:
    """Return what each answer of a session means, by question; blanks are left out."""
    found = ((question, Answer.unpacked(packed)) for question, packed in json.loads(answers).items())
    return {question: meaning(answer) for question, answer in found if not is_blank(answer)}

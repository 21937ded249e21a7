"""A small exam that a class sits, in which one student copies from another."""

import random
from collections.abc import Sequence
from typing import Any

from tests.flows.sitting import Student, good
from tests.integrity.reporting import LOST, report
from tests.stack import Stack, fresh

QUESTIONS = 30
OPTIONS = "ABCD"


def exam() -> dict[str, Any]:
    """Single choice, a point each, shuffled; the key goes round."""
    questions = [
        {
            "id": f"q{n}",
            "type": "single_choice",
            "stem": f"Which of these is number {n}?",
            "options": [{"id": one, "text": f"the {one} of {n}"} for one in OPTIONS],
            "answer": {"choice": OPTIONS[n % 4]},
            "topic": "numbers",
        }
        for n in range(QUESTIONS)
    ]
    essay = {
        "id": "essay",
        "type": "essay",
        "stem": "Why?",
        "points": 2,
        "answer": {"rubric": [{"criterion": "a", "maxPoints": 2}]},
    }
    head = {"id": "class", "title": "A class's exam <1>", "durationSeconds": 3600, "maxAttempts": 2}
    head |= {"shuffleQuestions": True, "shuffleOptions": True, "release": {"score": "IMMEDIATELY", "review": "NONE"}}
    return {"exam": head, "questions": [*questions, essay]}


def answers(chance: random.Random, ability: float) -> list[str]:
    """What a student answers who works alone; wrong answers are anything."""
    return [
        key if chance.random() < ability else chance.choice([one for one in OPTIONS if one != key])
        for key in (OPTIONS[n % 4] for n in range(QUESTIONS))
    ]


async def sit(student: Student, exam: str, given: Sequence[str], *, leaves: int = 0) -> str:
    """Sit an exam to the end, leaving the window so many times on the way."""
    session = str((await student.sit(exam))["sessionId"])
    if leaves:
        back = {"focusRegained": {"awayMs": 4_000}}  # too short for what the server makes of a return
        good(await report(student, session, *[LOST, back] * leaves, deviceId=student.name[:20]), 202)
    items = [{"questionId": f"q{n}", "choice": one} for n, one in enumerate(given)]
    outcomes = good(await student.batch(session, *items))["outcomes"]
    assert all(one["answer"]["saved"] for one in outcomes)
    return session


async def hand_in(student: Student, session: str) -> None:
    """Hand a session in, and wait for its score."""
    good(await student.submit(session), 200, 202)
    await student.outcome(session)


class Class:
    """A class that sat one exam: `sessions` by student, and the two of whom one copied."""

    def __init__(self, exam: str, sessions: dict[str, str], source: str, copier: str) -> None:
        self.exam = exam
        self.sessions = sessions
        self.source = source
        self.copier = copier

    @property
    def pair(self) -> list[str]:
        """The two sessions, the source's first."""
        return [self.sessions[self.source], self.sessions[self.copier]]


async def taught(stack: Stack, exam_id: str, students: int = 18, *, close: bool = True) -> Class:
    """Have a class sit an exam; the last copies all but two answers of the one before, both leave the window often."""
    await stack.import_exam(exam(), exam_id)
    chance, sessions, before = random.Random(20261127), {}, [""] * QUESTIONS
    cohort = fresh("c")
    names = [f"{fresh('s')}-{n}" for n in range(students)]
    for n, name in enumerate(names):
        given = answers(chance, 0.45 if n >= students - 2 else 0.35 + 0.4 * n / students)
        if n == students - 1:
            given = [*before[:-2], *given[-2:]]
        before = given
        async with Student(stack, name, cohorts=[cohort]) as student:
            sessions[name] = await sit(student, exam_id, given, leaves=6 if n >= students - 2 else 0)
            await hand_in(student, sessions[name])
    if close:
        async with Student(stack, roles=["admin"]) as admin:
            good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:close", json={}))
    return Class(exam_id, sessions, names[-2], names[-1])

"""Simulated students for bench/similarity.py, by another model than the one that is fitted, on papers of real banks where they
are here.

Right answers by a three-parameter curve with guessing. Each wrong option attracts a level of ability (so that none has the
softmax that the analysis assumes), sets of a multiple choice come of a judgement of each option, and wrong numbers of a few slips
that are common and many that are rare. Some guess a lot, some leave out what they do not know, some run out of time.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from servers.integrity.similarity import BLANK, Exam, Grouping, Item

SLIPS = 40

Floats = NDArray[np.float64]
Codes = NDArray[np.int16]
Chance = np.random.Generator


@dataclass(frozen=True, slots=True)
class Question:
    """What matters of a question: 0 options for a number; the right ones as bits, so that a set has a code too."""

    id: str
    options: int
    right: int
    several: bool = False


@dataclass(frozen=True, slots=True)
class Habits:
    """How a class sits an exam."""

    spread: float = 1.0
    """Of abilities, in deviations; the mean question is as hard as the mean student is good."""
    level: float = 0.0
    guess: float = 0.1
    """The share of students who guess half of the questions."""
    leave_out: float = 0.3
    """The share of students who leave some blank that they do not know."""
    late: float = 0.0
    """The share of students who run out of time in the second half; half of them tick anything, half of them nothing."""
    letter: bool = False
    """All who run out of time tick the same letter to the end, each one of their own."""
    shuffled: bool = False
    """Each student is shown the questions in another order."""
    topics: float = 0.0
    """The share of ability's variance that is of one of three topics only."""
    misconceptions: float = 0.0
    """The share of questions of which a room was taught the same wrong answer; it takes those of two students in three who do not
    know."""
    wrong_keys: float = 0.0
    """The share of questions whose key names a wrong answer."""


@dataclass(slots=True)
class Sat:
    """An exam that was sat, with the truth."""

    exam: Exam
    ability: Floats
    copied: list[tuple[int, int]] = field(default_factory=list)
    """Copier and source."""


def paper(items: int, options: int = 4) -> list[Question]:
    """A paper of single choices."""
    return [Question(f"q{number}", options, 1 << number % options) for number in range(items)]


def bank(file: Path, items: int) -> list[Question] | None:
    """The first questions of a real bank: their types, keys and numbers of options; None where it is not here."""
    if not file.exists():
        return None
    found = []
    for one in json.loads(file.read_text())["questions"][:items]:
        options = [option["id"] for option in one.get("options", ())]
        answer = one["answer"]
        wanted = answer.get("choices") or [answer.get("choice")] if options else []
        right = sum(1 << options.index(option) for option in wanted) if options else 1
        found.append(Question(one["id"], len(options), right, one["type"] == "multiple_choice"))
    return found


def sit(questions: Sequence[Question], students: int, chance: Chance, habits: Habits, room: int = 0) -> Sat:
    """Have students sit a paper, each alone; rooms of `room` students, or one of all."""
    ability = habits.level + habits.spread * chance.normal(size=students)
    rooms = (np.arange(students) // (room or students)).astype(np.int32)
    topics = chance.normal(size=(students, 3))
    answers = np.empty((students, len(questions)), np.int16)
    for at, question in enumerate(questions):
        level = np.sqrt(1 - habits.topics) * ability + np.sqrt(habits.topics) * habits.spread * topics[:, at % 3]
        if question.several:
            answers[:, at] = _sets(question, level, chance)
        else:
            answers[:, at] = _single(question, level, chance)
        if chance.random() < habits.misconceptions:
            _mislead(answers[:, at], question, rooms, chance)
    for at, question in enumerate(questions):
        _behave(answers[:, at], question, at / len(questions), chance, habits, ability)
    shown = np.argsort(chance.random(answers.shape), axis=1).astype(np.int16) if habits.shuffled else None
    _run_out(answers, questions, shown, chance, habits)
    items = tuple(Item(question.id, frozenset({_key(question, chance, habits)}), _places(question)) for question in questions)
    names = tuple(f"s{number}" for number in range(students))
    return Sat(Exam(names, items, answers, (Grouping("room", rooms),), shown), ability)


def _places(question: Question) -> dict[int, int]:
    return {} if question.several else {1 << option: option for option in range(question.options)}


def _wrong(question: Question) -> Codes:
    """Codes of the wrong answers of a single choice or a number."""
    if question.options:
        codes = [1 << option for option in range(question.options) if 1 << option != question.right]
        return np.array(codes, np.int16)
    return np.arange(2, SLIPS + 2, dtype=np.int16)


def _single(question: Question, ability: Floats, chance: Chance) -> Codes:
    hard, steep = chance.normal(), chance.lognormal(0, 0.3)
    guess = chance.uniform(0.5, 1) / question.options if question.options else 0.0
    right = chance.random(len(ability)) < guess + (1 - guess) / (1 + np.exp(-1.7 * steep * (ability - hard)))
    codes = _wrong(question)
    if question.options:
        pull = chance.normal(0, 0.8, len(codes)) - 0.3 * (ability[:, None] - chance.normal(size=len(codes))) ** 2
    else:
        pull = np.broadcast_to(-1.5 * np.log(np.arange(1, len(codes) + 1)), (len(ability), len(codes)))
    picked = codes[(pull + chance.gumbel(size=pull.shape)).argmax(axis=1)]
    return np.where(right, np.int16(question.right), picked)


def _sets(question: Question, ability: Floats, chance: Chance) -> Codes:
    """Each option is judged by itself; who ticks nothing leaves a blank."""
    found = np.zeros(len(ability), np.int16)
    for option in range(question.options):
        sure = 1 / (1 + np.exp(-1.2 * (ability - chance.normal(-0.7, 0.7))))
        lure = chance.uniform(0.1, 0.6)
        is_right = bool(question.right >> option & 1)
        ticks = chance.random(len(ability)) < sure * is_right + (1 - sure) * lure
        found |= (ticks << option).astype(np.int16)
    return found


def _mislead(answers: Codes, question: Question, rooms: NDArray[np.int32], chance: Chance) -> None:
    """Each room has a wrong answer of its own that most of those give who do not know."""
    own = chance.choice(_wrong(question), rooms.max() + 1)
    caught = (answers != question.right) & (chance.random(len(answers)) < 2 / 3)
    answers[caught] = own[rooms[caught]]


def _behave(answers: Codes, question: Question, at: float, chance: Chance, habits: Habits, ability: Floats) -> None:
    """Have those guess who guess, and those leave out who leave out. Who does which depends on the student alone."""
    students = np.arange(len(answers))
    guesses = (students * 7919 % 1000 / 1000 < habits.guess) & (chance.random(len(answers)) < 0.5)
    answers[guesses] = _anything(question, int(guesses.sum()), chance)
    leaves = students * 104_729 % 1000 / 1000 < habits.leave_out
    unknown = (answers != question.right) & (chance.random(len(answers)) < 0.4)
    answers[leaves & unknown] = BLANK


def _run_out(answers: Codes, questions: Sequence[Question], shown: Codes | None, chance: Chance, habits: Habits) -> None:
    students, items = answers.shape
    late = chance.random(students) < habits.late
    last = chance.integers(items // 2, items, students)
    ticks = chance.random(students) < (1.0 if habits.letter else 0.5)
    places = None if shown is None else np.argsort(shown, axis=1)
    for at, question in enumerate(questions):
        out = late & (last <= (at if places is None else places[:, at]))
        answers[out & ~ticks, at] = BLANK
        if habits.letter:
            answers[out, at] = 1 << np.flatnonzero(out) % question.options
        else:
            answers[out & ticks, at] = _anything(question, int((out & ticks).sum()), chance)


def _key(question: Question, chance: Chance, habits: Habits) -> int:
    is_wrong = habits.wrong_keys > 0 and chance.random() < habits.wrong_keys
    return int(chance.choice(_wrong(question))) if is_wrong else question.right


def _anything(question: Question, how_many: int, chance: Chance) -> Codes:
    """Answers that mean nothing."""
    if question.several:
        return chance.integers(1, 1 << question.options, how_many).astype(np.int16)
    return chance.choice(np.append(_wrong(question), np.int16(question.right)), how_many)


def copy(sat: Sat, pairs: Sequence[tuple[int, int]], share: float, chance: Chance) -> Sat:
    """Have each copier take a share of the source's answers, at random places."""
    answers = sat.exam.answers.copy()
    for copier, source in pairs:
        taken = chance.permutation(answers.shape[1])[: round(share * answers.shape[1])]
        answers[copier, taken] = sat.exam.answers[source, taken]
    exam = replace(sat.exam, answers=answers)
    return Sat(exam, sat.ability, list(pairs))


def by_ability(
    sat: Sat, chance: Chance, each: int, bands: Sequence[tuple[tuple[float, float], tuple[float, float]]]
) -> list[tuple[int, int]]:
    """Pick copiers and sources, nobody twice: `each` pairs for each band of ranks (of copiers, of sources)."""
    ranked, taken, found = np.argsort(sat.ability), set[int](), list[tuple[int, int]]()
    for band in bands:
        for _ in range(each):
            pair = []
            for low, high in band:
                free = [one for one in ranked[int(low * len(ranked)) : int(high * len(ranked))].tolist() if one not in taken]
                pair.append(int(chance.choice(free)))
                taken.add(pair[-1])
            found.append((pair[0], pair[1]))
    return found

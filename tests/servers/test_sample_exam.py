"""The exam that the project ships is worth sitting, and its keys are right."""

import itertools
import math
from collections import Counter
from fractions import Fraction

from ops.sample import SAMPLE
from servers.admin.rules import read_exam
from stores.exam_records import ChoiceKey, ChoicesKey, ExamFile, NumericKey, QuestionType


def sample() -> ExamFile:
    return read_exam(SAMPLE.read_bytes())


def test_it_has_sixty_questions_of_all_five_types() -> None:
    types = Counter(question.type for question in sample().questions)

    assert types.total() == 60
    assert set(types) == set(QuestionType)


def test_every_question_but_the_essay_explains_its_answer() -> None:
    silent = [
        question.id for question in sample().questions if not question.explanation and question.type is not QuestionType.ESSAY
    ]

    assert silent == []


def test_no_position_holds_more_than_half_of_the_right_answers() -> None:
    right = Counter(question.answer.choice for question in sample().questions if isinstance(question.answer, ChoiceKey))

    assert max(right.values()) <= right.total() / 2


def test_no_position_is_right_in_every_question_with_several_right_options() -> None:
    keys = [question.answer.choices for question in sample().questions if isinstance(question.answer, ChoicesKey)]

    assert max(Counter(itertools.chain(*keys)).values()) < len(keys)


def test_the_numeric_keys_are_what_a_computation_gives() -> None:
    dice = sum(first * second % 2 == 0 for first, second in itertools.product(range(1, 7), repeat=2))
    coins = [sum(toss) for toss in itertools.product((0, 1), repeat=3)]
    pupils = 18 + 15 - (30 - 6)
    computed = [
        Fraction(dice),
        Fraction(31 - (20 - 5)),
        Fraction(str(round(4 * math.pi, 3))),
        Fraction(18) / Fraction(45, 60),
        Fraction(300, 4) * 7,
        Fraction(150_000_000, 300_000),
        Fraction(pupils),
        Fraction(int("101101", 2)),
        Fraction(coins.count(2), len(coins)),
        Fraction(6 + 12 + 6),
    ]

    keys = [Fraction(question.answer.number) for question in sample().questions if isinstance(question.answer, NumericKey)]

    assert keys == computed


def test_the_labels_on_the_boxes_leave_one_place_for_the_prize() -> None:
    boxes = next(question for question in sample().questions if question.id == "q25")
    possible = [box for box in (1, 2, 3) if sum((box == 1, box != 2, box != 1)) == 1]

    assert isinstance(boxes.answer, ChoiceKey)
    assert [option.text for option in boxes.options if option.id == boxes.answer.choice] == [f"in box {box}" for box in possible]

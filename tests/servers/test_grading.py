"""Grading follows docs/exam-files.md to the letter, whatever students type."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.marking import accepted, within
from servers.scoring.rules import Graded, Grader, Outcome, decided, grade_answer, time_spent
from stores.records import Answer, AnswerKind, AnswerTimes, Key, KeySet, Marking

PLAIN = Marking(correct=1, wrong=0, blank=0, partial=False)
HARSH = Marking(correct=4, wrong=-1, blank=0, partial=False)
PARTIAL = Marking(correct=2, wrong=-1, blank=0, partial=True)
LETTERS = "ABCDE"


def key(kind: str, answer: dict[str, Any], points: int = 1) -> Key:
    return Key("q1", kind, "", points, json.dumps(answer))


def choice(value: str) -> Answer:
    return Answer(AnswerKind.CHOICE, value)


def choices(*picks: str) -> Answer:
    return Answer(AnswerKind.CHOICES, ",".join(sorted(picks)))


SINGLE = key("single_choice", {"choice": "B"}, points=3)
MULTIPLE = key("multiple_choice", {"choices": ["A", "C", "D"]}, points=3)
NUMERIC = key("numeric", {"number": "3.5", "tolerance": "0.01", "relative": False})
SHORT = key("short_text", {"accept": ["Ankara"], "caseSensitive": False})
ESSAY = key("essay", {"rubric": []}, points=10)


@pytest.mark.parametrize(
    ("answer", "marking", "graded"),
    [
        (choice("B"), PLAIN, Graded(Outcome.CORRECT, 3)),
        (choice("A"), PLAIN, Graded(Outcome.WRONG, 0)),
        (choice("B"), HARSH, Graded(Outcome.CORRECT, 12)),
        (choice("A"), HARSH, Graded(Outcome.WRONG, -3)),
        (None, HARSH, Graded(Outcome.BLANK, 0)),
        (None, Marking(1, 0, -2, partial=False), Graded(Outcome.BLANK, -6)),
    ],
)
def test_a_single_choice_earns_what_the_marking_says(answer: Answer | None, marking: Marking, graded: Graded) -> None:
    assert grade_answer(answer, SINGLE, marking) == graded


@pytest.mark.parametrize(
    ("picks", "all_or_nothing", "partial"),
    [
        ("ACD", Graded(Outcome.CORRECT, 12), Graded(Outcome.CORRECT, 6)),
        ("AC", Graded(Outcome.WRONG, -3), Graded(Outcome.PARTIAL, 4)),
        ("ACB", Graded(Outcome.WRONG, -3), Graded(Outcome.PARTIAL, 2)),
        ("ABE", Graded(Outcome.WRONG, -3), Graded(Outcome.WRONG, 0)),
        ("ABCDE", Graded(Outcome.WRONG, -3), Graded(Outcome.PARTIAL, 2)),
    ],
)
def test_a_multiple_choice_counts_right_picks_less_wrong_ones(picks: str, all_or_nothing: Graded, partial: Graded) -> None:
    assert grade_answer(choices(*picks), MULTIPLE, HARSH) == all_or_nothing
    assert grade_answer(choices(*picks), MULTIPLE, PARTIAL) == partial


def test_partial_points_are_rounded_down() -> None:
    three_right = key("multiple_choice", {"choices": ["A", "B", "C"]}, points=1)

    one_of_three = grade_answer(choices("A"), three_right, Marking(2, 0, 0, partial=True))

    assert one_of_three == Graded(Outcome.WRONG, 0)


@pytest.mark.parametrize(
    ("given_", "number", "tolerance", "relative", "right"),
    [
        ("3.5", "3.5", "0", False, True),
        ("3.50", "3.5", "0", False, True),
        ("+3.5e0", "3.5", "0", False, True),
        (".5", "0.5", "0", False, True),
        ("0.3", "0.1", "0.2", False, True),
        ("0.30000000000000004", "0.1", "0.2", False, False),
        ("3.51", "3.5", "0.01", False, True),
        ("3.510000000000000000001", "3.5", "0.01", False, False),
        ("101", "100", "0.01", True, True),
        ("-99", "-100", "0.01", True, True),
        ("-98.9", "-100", "0.01", True, False),
        ("0", "0", "0.5", True, True),
        ("1e-99", "0", "0", False, False),
        ("6.02e23", "602000000000000000000000", "0", False, True),
    ],
)
def test_numbers_are_compared_exactly_and_both_ends_of_a_tolerance_belong_to_it(
    given_: str, number: str, tolerance: str, relative: bool, right: bool
) -> None:
    assert within(given_, number, tolerance, relative=relative) is right


@pytest.mark.parametrize(
    ("given_", "accept", "case_sensitive", "right"),
    [
        ("  ankara ", "Ankara", False, True),
        ("ankara", "Ankara", True, False),
        ("São\u00a0Tomé", "Sa\u0303o Tome\u0301", False, True),
        ("ＡＮＫＡＲＡ", "Ankara", False, True),
        ("strasse", "Straße", False, True),
        ("strasse", "Straße", True, False),
        ("new \t york", "New York", False, True),
        ("newyork", "New York", False, False),
        ("ı", "i", False, False),
        ("½", "1⁄2", False, True),
    ],
)
def test_short_texts_are_folded_before_they_are_compared(given_: str, accept: str, case_sensitive: bool, right: bool) -> None:
    assert accepted(given_, [accept], case_sensitive=case_sensitive) is right


@pytest.mark.parametrize("blank", [None, Answer(AnswerKind.CLEARED), Answer(AnswerKind.TEXT, " \n\t")])
@pytest.mark.parametrize("one", [SINGLE, MULTIPLE, NUMERIC, SHORT, ESSAY])
def test_nothing_answered_is_blank_for_every_type(blank: Answer | None, one: Key) -> None:
    assert grade_answer(blank, one, PLAIN).outcome is Outcome.BLANK


def test_an_essay_waits_for_a_person() -> None:
    grader = Grader(KeySet("e", 1, 1, PARTIAL, (ESSAY,)))

    waiting = grader.grade({"q1": "t:I would vote for it."})
    graded = grader.grade({"q1": "t:I would vote for it."}, {"q1": 7})

    assert (waiting.pending, waiting.score, waiting.max_score) == (("q1",), 0, 20)
    assert (graded.pending, graded.score, graded.graded[0].outcome) == ((), 14, Outcome.PARTIAL)


@pytest.mark.parametrize(("void", "points", "most"), [("FULL_POINTS", 12, 12), ("DROP", 0, 0)])
def test_a_voided_question_asks_nobody(void: str, points: int, most: int) -> None:
    grader = Grader(KeySet("e", 1, 1, HARSH, (key("single_choice", {"choice": "B", "void": void}, points=3),)))

    all_alike = [grader.grade(answers) for answers in ({}, {"q1": "c:A"}, {"q1": "c:B"})]

    assert {(one.score, one.max_score, one.graded[0].outcome) for one in all_alike} == {(points, most, Outcome.VOIDED)}


def test_any_of_several_accepted_options_is_right() -> None:
    mended = key("single_choice", {"accept": ["B", "C"]})

    assert [grade_answer(choice(one), mended, PLAIN).points for one in "ABC"] == [0, 1, 1]


@pytest.mark.parametrize(
    ("totals", "tolerance", "points"),
    [
        ([None], 0, None),
        ([7], 0, 7),
        ([7, None], 0, None),
        ([7, 7], 0, 7),
        ([7, 8], 0, None),
        ([7, 8], 1, 8),
        ([4, 8, None], 0, None),
        ([4, 8, 7], 0, 7),
        ([4, 8, 2], 0, 4),
    ],
)
def test_two_graders_agree_or_a_third_decides(totals: list[int | None], tolerance: int, points: int | None) -> None:
    assert decided(totals, tolerance) == points


def test_the_time_of_a_question_runs_from_the_save_before_it_and_stands_still_in_a_pause() -> None:
    times = AnswerTimes(started_ms=1_000, saved_ms={"q2": 61_000, "q1": 31_000, "q3": 191_000}, pauses=((70_000, 170_000),))

    assert time_spent(times) == {"q1": 30_000, "q2": 30_000, "q3": 30_000}


@given(answers=st.lists(st.sampled_from(["", "c:A", "c:B", "c:C", "-:"]), min_size=1, max_size=20))
def test_what_a_grader_remembers_changes_no_grade(answers: list[str]) -> None:
    keys = KeySet("e", 1, 1, HARSH, (SINGLE,))
    busy = Grader(keys)

    remembered = [busy.grade({"q1": one} if one else {}) for one in answers]

    assert remembered == [Grader(keys).grade({"q1": one} if one else {}) for one in answers]


picks = st.sets(st.sampled_from(LETTERS), min_size=1)


@given(picked=picks, right=picks, points=st.integers(0, 1000), correct=st.integers(1, 1000))
def test_a_multiple_choice_never_costs_more_than_nothing_nor_earns_more_than_all(
    picked: set[str], right: set[str], points: int, correct: int
) -> None:
    one, marking = key("multiple_choice", {"choices": sorted(right)}, points), Marking(correct, -1000, 0, partial=True)

    graded = grade_answer(choices(*picked), one, marking)

    assert 0 <= graded.points <= points * correct
    assert (graded.outcome is Outcome.CORRECT) == (picked == right)


@given(picked=picks, right=picks, wrong=st.sampled_from(LETTERS))
def test_one_more_wrong_pick_never_helps(picked: set[str], right: set[str], wrong: str) -> None:
    one = key("multiple_choice", {"choices": sorted(right)}, 60)
    if wrong in right:
        return

    before, after = (grade_answer(choices(*p), one, PARTIAL).points for p in (picked, picked | {wrong}))

    assert after <= before


@given(st.permutations(range(4)))
def test_the_order_of_the_questions_does_not_change_the_score(order: list[int]) -> None:
    keys = [Key(f"q{i}", k.type, "", k.points, k.answer) for i, k in enumerate((SINGLE, MULTIPLE, NUMERIC, SHORT))]
    answers = {"q0": "c:B", "q1": "m:A", "q2": "n:3.49", "q3": "t:Bonn"}

    shuffled = Grader(KeySet("e", 1, 1, PARTIAL, tuple(keys[i] for i in order))).grade(answers)

    assert shuffled.score == Grader(KeySet("e", 1, 1, PARTIAL, tuple(keys))).grade(answers).score == 6 + 2 + 2 - 1

"""Item statistics agree with a second computation by numpy and scipy, whatever students answered, and flag what they should."""

import json
import random
import warnings
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import scipy  # its parts are loaded when they are used
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.scoring.flags import Flag
from servers.scoring.rules import Grader
from servers.scoring.statistics import ExamStatistics, Item, ItemStatistics, Tally, item
from stores.records import Answer, AnswerKind, Key, KeySet, Marking, Sheet, encode_answers

LETTERS = tuple("ABCD")
PAPER = [
    Key("one", "single_choice", "", 1, json.dumps({"choice": "B"})),
    Key("two", "multiple_choice", "sets", 2, json.dumps({"choices": ["A", "C"]})),
    Key("three", "numeric", "", 3, json.dumps({"number": "1", "tolerance": "0", "relative": False})),
    Key("four", "short_text", "", 1, json.dumps({"accept": ["yes"], "caseSensitive": False})),
    Key("five", "single_choice", "", 2, json.dumps({"choice": "D"})),
]
MARKING = Marking(correct=2, wrong=-1, blank=0, partial=True)
TRIES: dict[str, Sequence[str]] = {
    "one": ("", "c:A", "c:B", "c:C", "c:D"),
    "two": ("", "m:", "m:A", "m:A,C", "m:B,D", "m:A,B,C,D", "m:C"),
    "three": ("", "n:1", "n:2", "n:1.0"),
    "four": ("", "t: ", "t:yes", "t:no", "t:YES"),
    "five": ("", "c:A", "c:D"),
}
classes = st.lists(st.fixed_dictionaries({name: st.sampled_from(tries) for name, tries in TRIES.items()}), max_size=40)


def sheet(answers: dict[str, str], paper: Sequence[Key] = PAPER, marking: Marking = MARKING) -> Sheet:
    """A result as the scoring worker would keep it; answers are packed, "" for none."""
    given_ = {question: packed for question, packed in answers.items() if packed}
    grades = Grader(KeySet("e", 1, 1, marking, tuple(paper))).grade(given_)
    return Sheet("s", UUID(int=0), [one.points for one in grades.graded], encode_answers(given_).decode())


def items(paper: Sequence[Key] = PAPER, marking: Marking = MARKING) -> list[Item]:
    return [item(key, LETTERS if key.type.endswith("choice") else (), marking.correct) for key in paper]


def computed(pages: Sequence[Sequence[Sheet]], of: Sequence[Item]) -> ExamStatistics:
    tally = Tally(of)
    for page in pages:
        tally.feed(page)
    return tally.statistics()


def same(found: float | None, wanted: float) -> bool:
    """Whether a figure is the one that numpy says; its "not a number" is our None."""
    return found is None if not np.isfinite(wanted) else found == pytest.approx(wanted, abs=1e-9)


def quiet(function: Any, *values: Any) -> float:
    """Call numpy or scipy with what may have no variance."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return float(np.asarray(function(*values)).item())


def pearson(left: Any, right: Any) -> float:
    """scipy's correlation; not a number without variance."""
    left, right = np.asarray(left, float), np.asarray(right, float)
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan")
    return quiet(lambda a, b: scipy.stats.pearsonr(a, b).statistic, left, right)


def alpha(points: Any) -> float:
    """Cronbach's alpha from numpy's covariance matrix."""
    k = points.shape[1]
    if k < 2 or len(points) < 2 or np.ptp(points.sum(1)) == 0:
        return float("nan")
    covariances = np.cov(points, rowvar=False)
    return float(k / (k - 1) * (1 - np.trace(covariances) / covariances.sum()))


def check_question(found: ItemStatistics, x: Any, rest: Any, packed: Sequence[str]) -> None:
    picks = [Answer.unpacked(one).picks if one and found.item.options else () for one in packed]
    assert same(found.discrimination, pearson(x, rest))
    assert same(found.difficulty, quiet(np.mean, x / found.item.max_points) if len(x) else float("nan"))
    assert found.blank == pytest.approx(np.mean([not one[2:].strip() for one in packed]) if packed else 0)
    for option in found.options:
        picked = np.array([option.option in one for one in picks])
        assert option.count == picked.sum()
        assert same(option.mean_rest, quiet(np.mean, rest[picked]) if picked.any() else float("nan"))
        wanted = pearson(picked, rest)
        assert same(option.correlation, wanted)
        if np.isfinite(wanted):
            assert wanted == pytest.approx(quiet(lambda a, b: scipy.stats.pointbiserialr(a, b).statistic, picked, rest))


@settings(max_examples=60)
@given(sat=classes, cut=st.integers(0, 40))
def test_every_figure_is_the_one_that_numpy_and_scipy_compute(sat: list[dict[str, str]], cut: int) -> None:
    sheets = [sheet(answers) for answers in sat]
    points = np.array([list(one.points) for one in sheets]).reshape(len(sheets), len(PAPER))
    totals = points.sum(1)

    found = computed([sheets[:cut], sheets[cut:]], items())

    assert (found.results, found.max_points) == (len(sat), 18)
    assert same(found.mean, quiet(np.mean, totals) if len(sat) else float("nan"))
    assert same(found.deviation, quiet(np.std, totals) if len(sat) else float("nan"))
    assert same(found.alpha, alpha(points))
    assert same(found.error, quiet(np.std, totals) * np.sqrt(1 - alpha(points)) if len(sat) else float("nan"))
    for at, one in enumerate(found.items):
        check_question(one, points[:, at], totals - points[:, at], [answers[PAPER[at].question] for answers in sat])
        assert same(one.alpha_without, alpha(np.delete(points, at, axis=1)))


@settings(max_examples=40)
@given(sat=classes.filter(bool), which=st.integers(0, len(PAPER) - 1))
def test_a_voided_question_counts_nowhere(sat: list[dict[str, str]], which: int) -> None:
    keys = [
        Key(key.question, key.type, key.topic, key.points, json.dumps({**json.loads(key.answer), "void": "FULL_POINTS"}))
        if at == which
        else key
        for at, key in enumerate(PAPER)
    ]
    sheets = [sheet(answers) for answers in sat]
    others = [Sheet(*one[:2], [p for at, p in enumerate(one.points) if at != which], one.answers) for one in sheets]

    found = computed([sheets], items(keys))
    without = computed([others], [one for at, one in enumerate(items()) if at != which])

    voided = found.items[which]
    assert (found.mean, found.alpha, found.error, found.max_points) == (
        without.mean, without.alpha, without.error, without.max_points
    )  # fmt: skip
    assert tuple(one for one in found.items if one is not voided) == without.items
    assert (voided.item.voided, voided.difficulty, voided.discrimination, voided.flags) == (True, None, None, ())
    totals, packed = np.array([sum(one.points) for one in others]), [answers[PAPER[which].question] for answers in sat]
    for option in voided.options:
        picked = [bool(one) and option.option in Answer.unpacked(one).picks for one in packed]
        assert same(option.correlation, pearson(np.array(picked), totals))


def test_kr20_of_a_textbook_s_table() -> None:
    marks = ["1111", "1110", "1100", "1000", "0000", "1101"]
    of = [Item(f"q{n}", "numeric", "", 1, (), frozenset(), voided=False) for n in range(4)]

    found = computed([[Sheet("s", UUID(int=0), [int(mark) for mark in row], "{}") for row in marks]], of)

    p = [5 / 6, 4 / 6, 2 / 6, 2 / 6]
    variance = np.var([4, 3, 2, 1, 0, 3])
    assert found.alpha == pytest.approx(4 / 3 * (1 - sum(one * (1 - one) for one in p) / variance))
    assert [one.difficulty for one in found.items] == pytest.approx(p)


def test_nobody_and_somebody_alone_have_no_correlations() -> None:
    nobody, alone = computed([], items()), computed([[sheet({"one": "c:B"})]], items())

    assert (nobody.results, nobody.mean, nobody.deviation, nobody.alpha, nobody.error) == (0, None, None, None, None)
    assert (alone.results, alone.mean, alone.deviation, alone.alpha) == (1, 2.0, 0.0, None)
    assert {one.discrimination for one in (*nobody.items, *alone.items)} == {None}
    assert not any(one.flags for one in (*nobody.items, *alone.items))


# Flags


def a_class(students: int, wrong_key: str | None = None, seed: int = 1) -> ExamStatistics:
    """Students of all abilities at ten questions whose right answer is B; question 0's key says `wrong_key`."""
    chance = random.Random(seed)
    keys = [
        Key(f"q{n}", "single_choice", "", 1, json.dumps({"choice": wrong_key if wrong_key and n == 0 else "B"})) for n in range(10)
    ]
    plain = Marking(1, 0, 0, partial=False)
    sat = []
    for student in range(students):
        able = (student + 0.5) / students
        sat.append({key.question: "c:B" if chance.random() < able else f"c:{chance.choice(LETTERS)}" for key in keys})
    return computed([[sheet(answers, keys, plain) for answers in sat]], items(keys, plain))


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_a_wrong_key_is_suspected_and_a_right_one_is_not(seed: int) -> None:
    wrong, right = a_class(200, wrong_key="C", seed=seed), a_class(200, seed=seed)

    assert Flag.SUSPECT_KEY in wrong.items[0].flags
    assert [option.option for option in wrong.items[0].options if option.suspect] == ["B"]
    assert not any(Flag.SUSPECT_KEY in one.flags for one in (*wrong.items[1:], *right.items))


def test_a_key_that_was_mended_is_suspected_no_more() -> None:
    key = Key("q", "single_choice", "", 1, json.dumps({"accept": ["B", "C"]}))

    assert item(key, LETTERS, 1).right == {"B", "C"}
    assert item(PAPER[1], LETTERS, 2).right == {"A", "C"}
    assert (item(PAPER[0], LETTERS, 2).right, item(PAPER[3], (), 2).right) == ({"B"}, set())


def test_a_right_option_that_a_multiple_choice_s_key_lacks_is_suspected() -> None:
    keys = [Key("sets", "multiple_choice", "", 1, json.dumps({"choices": ["A", "B"]})), *PAPER[2:]]  # the truth is A and C
    good, bad = {"three": "n:1", "four": "t:yes", "five": "c:D"}, {"three": "n:2", "five": "c:A"}
    sat = [{**good, "sets": "m:A,C"}] * 12 + [{**bad, "sets": "m:A,B"}] * 6 + [{**bad, "sets": "m:B,D"}] * 6

    [first, *_] = computed([[sheet(answers, keys) for answers in sat]], items(keys)).items

    assert [option.option for option in first.options if option.suspect] == ["C"]
    assert first.flags[:2] == (Flag.SUSPECT_KEY, Flag.NEGATIVE_DISCRIMINATION)


@pytest.mark.parametrize(
    ("first", "flag"),
    [
        (["c:B"] * 20, Flag.TOO_EASY),
        (["c:A"] * 19 + ["c:B"], Flag.TOO_HARD),
        (["c:B", "c:A"] * 10, Flag.UNUSED_DISTRACTOR),
        (["c:A"] * 10 + ["c:B"] * 10, Flag.NEGATIVE_DISCRIMINATION),
        ((["c:A"] * 5 + ["c:B"] * 5) * 2, Flag.LOW_DISCRIMINATION),
    ],
)
def test_each_flag_is_given_where_it_holds_and_not_to_a_good_question(first: list[str], flag: Flag) -> None:
    sat = [
        {"one": packed, "five": "c:D" if student < 10 else "c:A", "three": "n:1" if student < 10 else "n:2"}
        for student, packed in enumerate(first)
    ]

    flagged = computed([[sheet(answers) for answers in sat]], items()).items
    few = computed([[sheet(answers) for answers in sat[:9]]], items()).items

    assert flag in flagged[0].flags
    assert flag not in flagged[2].flags
    assert not any(one.flags for one in few)


def test_answers_that_only_look_like_something_are_blank() -> None:
    sheets = [sheet({"four": text, "two": picks}) for text, picks in (("t: \n", "m:"), ("", ""), ("t:x", "m:A"))]

    found = {one.item.question: one.blank for one in computed([sheets], items()).items}

    assert (found["four"], found["two"], found["one"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 1)
    assert Answer(AnswerKind.CHOICES).packed() == "m:"


def test_a_result_of_another_paper_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Tally(items()).feed([Sheet("s", UUID(int=0), [1], "{}")])

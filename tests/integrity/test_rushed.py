"""Who ticks anything at the end is seen, in the order in which the questions were shown, and those answers are left out."""

import math
from array import array
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from servers.integrity.comparing import compared
from servers.integrity.pairs import Exam, Grouping, Index, p_values
from servers.integrity.responses import BLANK, NOT_PRESENTED, Curves, fit, fit_curves
from servers.integrity.rushed import ABILITIES, LEAST_GAIN, SPREAD, _runs, _starts, fit_unrushed
from servers.integrity.similarity import adjusted, analyse
from servers.orders import questions_shown
from tests.integrity.test_case_parts import head
from tests.integrity.test_similarity import RIGHT, exam, sat

ITEMS = 80


def shuffled(students: int, items: int) -> NDArray[np.int16]:
    """An order of the items for each student."""
    return np.argsort(np.random.default_rng(3).random((students, items)), axis=1).astype(np.int16)


def ticking(answers: NDArray[np.int16], who: range, after: int, shown: NDArray[np.int16] | None = None) -> NDArray[np.int16]:
    """Have some students tick anything from some place on."""
    found, chance = answers.copy(), np.random.default_rng(4)
    for student in who:
        late = np.arange(answers.shape[1])[after:] if shown is None else shown[student, after:]
        found[student, late] = chance.integers(1, 5, len(late))
    return found


def start_by_hand(paper: Exam, curves: Curves, student: int) -> int:
    """The place by the formulas, one number at a time."""
    items = len(paper.items)
    order = range(items) if paper.shown is None else paper.shown[student].tolist()
    luck, known = [0.0], {ability: [-((ability / SPREAD) ** 2) / 2] for ability in ABILITIES.tolist()}
    for item in order:
        answer = int(paper.answers[student, item])
        keyed = any(curves.layout.right[curves.layout.item == item])
        different = len({one for one in paper.answers[:, item].tolist() if one > BLANK})
        lucky = 1 / max(2, different)
        is_right = answer in paper.items[item].right
        asked = answer > BLANK and keyed
        luck.append(luck[-1] + (math.log(lucky if is_right else 1 - lucky) if asked else 0))
        for ability, sums in known.items():
            chance = 1 / (1 + math.exp(-(float(curves.intercept[item]) + float(curves.slope[item]) * ability)))
            chance = min(1 - 1e-6, max(1e-6, chance))
            sums.append(sums[-1] + (math.log(chance if is_right else 1 - chance) if asked else 0))
    of = [max(sums[at] for sums in known.values()) + luck[-1] - luck[at] for at in range(items + 1)]
    best = max(of)
    return of.index(best) if best - max(of[0], of[-1]) > LEAST_GAIN else items


small = st.tuples(st.integers(2, 8), st.integers(1, 12)).flatmap(
    lambda shape: st.tuples(
        arrays.arrays(np.int16, shape, elements=st.sampled_from([NOT_PRESENTED, BLANK, 1, 1, 1, 2, 3, 4])), st.booleans()
    )
)


@given(given=small)
@settings(max_examples=30)
def test_the_place_is_the_one_that_plain_loops_find(given: tuple[NDArray[np.int16], bool]) -> None:
    answers, mixed = given
    paper = exam(answers, shown=shuffled(*answers.shape) if mixed else None)
    curves = fit_curves(paper.items, paper.answers)

    found = _starts(paper, curves)

    assert found.tolist() == [start_by_hand(paper, curves, student) for student in range(len(answers))]


@pytest.mark.parametrize("mixed", [False, True])
def test_who_ticks_anything_from_some_place_on_is_compared_by_what_comes_before_it(mixed: bool) -> None:
    shown, late = (shuffled(300, ITEMS) if mixed else None), range(60)
    answers = sat(300, ITEMS)
    able = [student for student in late if (answers[student, : ITEMS // 2] == RIGHT).mean() > 0.6]
    answers = ticking(answers, late, ITEMS // 2, shown)

    model, starts = fit_unrushed(exam(answers, shown=shown))

    assert len(able) > 20
    assert (np.abs(starts[able] - ITEMS // 2) <= 12).mean() > 0.8
    assert (starts[60:] < ITEMS).mean() < 0.1
    for student in able:
        order = np.arange(ITEMS) if shown is None else shown[student]
        left_out = model.layout.picked[student, order] < 0
        assert left_out[starts[student] :].all()
        assert (left_out[: starts[student]] == (answers[student, order[: starts[student]]] <= BLANK)).all()


def test_who_guesses_throughout_and_who_knows_less_at_the_end_are_compared_by_all_answers() -> None:
    answers, weaker = sat(300, ITEMS), sat(300, ITEMS)
    weak = np.argsort((weaker == RIGHT).sum(axis=1))[75:150]
    answers[60:120, ITEMS // 2 :] = weaker[weak[:60], ITEMS // 2 :]
    answers = ticking(answers, range(60), 0)

    _, starts = fit_unrushed(exam(answers))

    assert (starts[:120] < ITEMS).mean() < 0.2


def test_those_who_tick_one_letter_to_the_end_are_not_suspected_for_it() -> None:
    answers = sat(200, 120)
    able = np.argsort((answers == RIGHT).sum(axis=1))[110:140]
    for number, student in enumerate(able.tolist()):
        answers[student, 60 + number % 20 :] = 2 + number % 3
    paper = exam(answers)

    found = analyse(paper, everybody=True)

    p = p_values(fit(paper.items, paper.answers), Index.GBT, *np.triu_indices(200, 1))
    assert (adjusted(np.sort(p), len(p)) <= 0.05).sum() > 50
    assert found.rushed >= 30
    assert not [pair for pair in found.pairs if pair.flagged]


def places(at: int) -> dict[int, int]:
    """Where each code's option stands in an item; the right one goes round."""
    return {code: (code - 1 + at) % 4 for code in range(1, 5)}


def lettered(paper: Exam) -> Exam:
    """The same where all saw the options in one order."""
    return replace(paper, items=tuple(replace(item, places=places(at)) for at, item in enumerate(paper.items)))


def one_letter(answers: NDArray[np.int16], who: range, after: int, shown: NDArray[np.int16]) -> NDArray[np.int16]:
    """Have some students tick a letter of their own from some place on."""
    found = answers.copy()
    for student in who:
        for at in shown[student, after:].tolist():
            found[student, at] = next(code for code, place in places(at).items() if place == student % 4)
    return found


@pytest.mark.parametrize("mixed", [False, True])
def test_a_run_of_one_letter_is_seen_of_those_too_who_know_nothing(mixed: bool) -> None:
    shown = shuffled(200, ITEMS) if mixed else np.tile(np.arange(ITEMS, dtype=np.int16), (200, 1))
    answers = one_letter(ticking(sat(200, ITEMS), range(40), 0), range(40), 50, shown)
    answers[np.random.default_rng(5).random(answers.shape) < 0.1] = BLANK

    paper = exam(answers, shown=shown if mixed else None)
    starts = _runs(lettered(paper))

    assert ((starts[:40] <= 51) & (starts[:40] >= 44)).all()  # what comes just before it may be the same
    assert (starts[40:] == ITEMS).all()
    assert (_runs(paper) == ITEMS).all()


def test_a_run_of_right_answers_is_no_run_where_all_have_them() -> None:
    answers = np.where(np.random.default_rng(1).random((100, 30)) < 0.95, RIGHT, 2).astype(np.int16)

    assert (_runs(lettered(exam(answers))) == 30).all()


def test_a_comparison_takes_each_sessions_own_order() -> None:
    students = 60
    sessions = [UUID(int=number << 64 | 7 << 76 | 2 << 62) for number in range(students)]
    questions = [f"q{at}" for at in range(ITEMS)]
    ids = [(question.encode(), at) for at, question in enumerate(questions)]
    shown = np.array([questions_shown(ids, session, 3) for session in sessions], np.int16)
    answers = ticking(sat(students, ITEMS), range(20), ITEMS // 2, shown)
    groups = array("i", [0] * students)
    line = head(students, [[RIGHT]] * ITEMS, groupings=1, everybody=False, shown={"version": 3, "questions": questions})

    found = compared(b"".join([line, answers.tobytes(), groups.tobytes(), *(one.bytes for one in sessions)]))

    room = (Grouping("0", np.zeros(students, np.int32)),)
    assert found["rushed"] == analyse(exam(answers, groupings=room, shown=shown)).rushed
    assert found["rushed"] > 5 + analyse(exam(answers, groupings=room)).rushed


def test_a_comparison_knows_the_places_of_options() -> None:
    shown = np.tile(np.arange(ITEMS, dtype=np.int16), (60, 1))
    answers = one_letter(ticking(sat(60, ITEMS), range(10), 0), range(10), 60, shown)
    line = head(60, [[RIGHT]] * ITEMS, places=[list(places(at).items()) for at in range(ITEMS)])

    found = compared(line + answers.tobytes())

    assert found["rushed"] == analyse(lettered(exam(answers)), everybody=True).rushed >= 10

"""The similarity bench plants what it says, and its simulated students answer what their papers offer."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench.classes import BLANK, Habits, Question, bank, by_ability, copy, paper, sit
from bench.similarity import BANDS, USUAL


def test_copiers_have_their_share_of_the_sources_answers_and_nobody_else_changes() -> None:
    alone = sit(paper(40), 100, np.random.default_rng(1), USUAL)
    pairs = by_ability(alone, np.random.default_rng(2), 3, list(BANDS.values()))

    found = copy(alone, pairs, 0.5, np.random.default_rng(3))

    before, after = alone.exam.answers, found.exam.answers
    assert len({one for pair in pairs for one in pair}) == 2 * 3 * len(BANDS)
    assert all((after[copier] == before[source]).sum() >= 20 for copier, source in pairs)
    assert {int(row) for row in np.flatnonzero((before != after).any(axis=1))} <= {copier for copier, _ in pairs}


def test_students_give_only_answers_that_there_are() -> None:
    questions = [Question("one", 4, 0b100), Question("sets", 3, 0b101, several=True), Question("number", 0, 1)]

    answers = sit(questions, 500, np.random.default_rng(1), Habits(late=0.5, misconceptions=1)).exam.answers

    assert set(np.unique(answers[:, 0])) <= {BLANK, 1, 2, 4, 8}
    assert set(np.unique(answers[:, 1])) <= set(range(8))
    assert answers[:, 2].max() <= 41
    for at, question in enumerate(questions):
        assert 0.1 < (answers[:, at] == question.right).mean() < 0.95


def test_a_wrong_key_names_another_answer_and_changes_none_that_was_given() -> None:
    questions = [*paper(30), Question("sets", 3, 0b101, several=True), Question("number", 0, 1)]

    right = sit(questions, 100, np.random.default_rng(1), Habits()).exam
    wrong = sit(questions, 100, np.random.default_rng(1), Habits(wrong_keys=1)).exam

    assert (wrong.answers == right.answers).all()
    assert all(
        len(one.right) == 1 and one.right.isdisjoint(other.right) for one, other in zip(wrong.items, right.items, strict=True)
    )


def test_a_banks_keys_are_codes_of_what_is_right(tmp_path: Path) -> None:
    options = [{"id": one} for one in "ABCD"]
    questions = [
        {"id": "a", "type": "single_choice", "options": options, "answer": {"choice": "C"}},
        {"id": "b", "type": "multiple_choice", "options": options, "answer": {"choices": ["A", "D"]}},
        {"id": "c", "type": "numeric", "answer": {"number": "7"}},
    ]
    file = tmp_path / "bank.json"
    file.write_text(json.dumps({"questions": questions}))

    found = bank(file, 10)

    assert found == [Question("a", 4, 0b100), Question("b", 4, 0b1001, several=True), Question("c", 0, 1)]
    assert bank(tmp_path / "absent.json", 10) is None


@pytest.mark.parametrize("name", ["sat-math", "gaokao-physics", "gsm8k-numeric"])
def test_real_banks_can_be_sat(banks: Path, name: str) -> None:
    questions = bank(banks / f"{name}.json", 40)

    assert questions is not None
    assert sit(questions, 50, np.random.default_rng(1), USUAL).exam.answers.shape == (50, 40)

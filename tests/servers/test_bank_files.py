"""A bank's file is read whole or refused with every error, and only its own errors come out, whatever the bytes are."""

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.admin.bank_rules import bank_digest, read_bank
from servers.admin.rules import InvalidExamFile
from tests.stack import ROOT

SMALL: dict[str, Any] = json.loads((ROOT / "tests" / "small_bank.json").read_text())


def read(file: object) -> Any:
    return read_bank(json.dumps(file).encode())


def changed(**places: Any) -> dict[str, Any]:
    """The small bank with other values: `bank__title="x"`, `questions__0__id="y"`."""
    file = copy.deepcopy(SMALL)
    for name, value in places.items():
        *path, last = [int(part) if part.isdigit() else part for part in name.split("__")]
        at: Any = file
        for part in path:
            at = at[part]
        at[last] = value
    return file


def wrong(file: object) -> list[str]:
    with pytest.raises(InvalidExamFile) as refused:
        read(file)
    return [field for field, _ in refused.value.violations]


def test_the_manuals_example_and_the_sample_can_be_read() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "exam-files.md").read_text(), re.DOTALL)
    example = next(one for block in blocks if "bank" in (one := json.loads(block)))

    assert len(read(example).questions) == 1
    assert len(read_bank((ROOT / "ops" / "sample_bank.json").read_bytes()).questions) == 10


def test_another_id_can_be_given() -> None:
    assert read_bank(json.dumps(SMALL).encode(), bank_id="another").id == "another"


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ({"questions": SMALL["questions"]}, ["bank.id", "bank.title"]),
        ({"bank": SMALL["bank"]}, ["questions"]),
        (changed(questions=[]), ["questions"]),
        (changed(bank__id="No Id"), ["bank.id"]),
        (changed(bank__title=""), ["bank.title"]),
        (changed(exam={}), ["exam"]),
        (changed(questions__1__id="p1"), ["questions[1].id"]),
        (
            changed(questions__0__answer={"choice": "Z"}, questions__2__points=-1),
            ["questions[p1].answer.choice", "questions[p3].points"],
        ),
        (changed(source="\0"), ["source"]),
        ([], ["file"]),
    ],
)
def test_every_error_is_named(file: object, fields: list[str]) -> None:
    assert wrong(file) == fields


def test_more_than_five_thousand_questions_are_too_many() -> None:
    question = SMALL["questions"][3]

    assert len(read(changed(questions=[{**question, "id": f"q{n}"} for n in range(5_000)])).questions) == 5_000
    assert wrong(changed(questions=[{**question, "id": f"q{n}"} for n in range(5_001)])) == ["questions"]


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(max_size=5), st.lists, max_leaves=5).map(lambda x: json.dumps(x).encode())
)
def test_whatever_the_bytes_are_only_its_own_error_comes_out(data: bytes) -> None:
    with pytest.raises(InvalidExamFile):
        read_bank(data)


@pytest.mark.parametrize(
    "other",
    [
        changed(bank__title="Another"),
        changed(questions__0__stem="Another?"),
        changed(questions__0__explanation="Another."),
        changed(questions__0__answer={"choice": "A"}),
        changed(source={"author": "somebody"}),
        changed(questions=SMALL["questions"][::-1]),
    ],
)
def test_any_change_is_another_bank(other: dict[str, Any]) -> None:
    assert bank_digest(read(other)) != bank_digest(read(SMALL))
    assert bank_digest(read(SMALL)) == bank_digest(read(copy.deepcopy(SMALL)))

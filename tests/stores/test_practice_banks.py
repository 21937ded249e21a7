"""A bank is what its file says, whole or not at all, and nothing of an exam that has not opened is in what content can read."""

import copy
import json
from typing import Any

import asyncpg
import pytest

from servers.admin.bank_rules import bank_digest, read_bank
from stores.banks import Banks, KeptBank
from stores.connect import Stores
from tests.flows.sitting import Student
from tests.stack import Stack, fresh

LATER = "2199-01-01T00:00:00Z"


@pytest.fixture
def banks(stores: Stores) -> Banks:
    return Banks(stores.postgres)


@pytest.fixture
def bank_file(small_bank: dict[str, Any]) -> dict[str, Any]:
    """A bank whose questions nobody else has."""
    file = copy.deepcopy(small_bank)
    file["bank"]["id"] = fresh("b")
    for question in file["questions"]:
        question["stem"] += f" ({file['bank']['id']})"
    return file


async def keep(banks: Banks, file: dict[str, Any]) -> KeptBank:
    read = read_bank(json.dumps(file).encode())
    return await banks.keep(read, bank_digest(read), "a test")


async def readable(banks: Banks, file: dict[str, Any], topic: str = "") -> list[str]:
    return [one.text.id for one in await banks.questions(file["bank"]["id"], topic, 0, 100)]


def exam_with(question: dict[str, Any], small_exam: dict[str, Any]) -> dict[str, Any]:
    """The small exam with one question more."""
    exam = copy.deepcopy(small_exam)
    exam["questions"].append({**copy.deepcopy(question), "id": "extra"})
    return exam


async def test_the_same_file_again_changes_nothing_and_another_one_replaces_it(banks: Banks, bank_file: dict[str, Any]) -> None:
    first, again = await keep(banks, bank_file), await keep(banks, bank_file)
    bank_file["questions"].pop(0)
    other = await keep(banks, bank_file)

    assert [(kept.changed, kept.bank and kept.bank.version) for kept in (first, again, other)] == [(True, 1), (False, 1), (True, 2)]
    assert other.bank is not None
    assert (other.bank.question_count, other.bank.topics) == (4, {"numbers": 2, "places": 2})
    assert await readable(banks, bank_file) == ["p2", "p3", "p4", "p5"]


async def test_questions_come_in_order_by_topic_and_from_a_place_on(banks: Banks, bank_file: dict[str, Any]) -> None:
    await keep(banks, bank_file)
    bank = bank_file["bank"]["id"]

    first = await banks.questions(bank, "numbers", 0, 2)
    rest = await banks.questions(bank, "numbers", first[-1].place, 2)

    assert [one.text.id for one in (*first, *rest)] == ["p1", "p2", "p3"]
    assert await readable(banks, bank_file, "places") == ["p4", "p5"]
    assert await readable(banks, bank_file, "nothing") == []


async def test_a_bank_that_is_gone_is_gone_whole(banks: Banks, bank_file: dict[str, Any]) -> None:
    await keep(banks, bank_file)
    bank = bank_file["bank"]["id"]

    assert [await banks.remove(bank, "a test"), await banks.remove(bank, "a test")] == [True, False]
    assert await readable(banks, bank_file) == []
    assert await banks.practice(bank, "p1") is None


@pytest.mark.parametrize(
    "disguise",
    [
        pytest.param(lambda q: q, id="as it is"),
        pytest.param(lambda q: {**q, "stem": f"  {q['stem'].upper()} ".replace(" ", "  ")}, id="other case and spacing"),
        pytest.param(lambda q: {**q, "options": q["options"][::-1]}, id="other order of options"),
        pytest.param(
            lambda q: {**q, "options": [{**o, "id": f"x{o['id']}"} for o in q["options"]], "answer": {"choice": "xB"}},
            id="other ids of options",
        ),
    ],
)
async def test_a_question_of_an_exam_that_has_not_opened_cannot_be_put_into_a_bank(
    stack: Stack, banks: Banks, bank_file: dict[str, Any], small_exam: dict[str, Any], exam_id: str, disguise: Any
) -> None:
    await stack.import_exam(exam_with(bank_file["questions"][0], small_exam), exam_id, opensAt=LATER)
    bank_file["questions"][0] = disguise(bank_file["questions"][0])

    kept = await keep(banks, bank_file)

    assert (kept.bank, [(one.question, one.exam) for one in kept.unopened]) == (None, [("p1", exam_id)])
    assert await readable(banks, bank_file) == []


async def test_a_question_that_an_exam_takes_is_nobodys_to_read_until_it_opens(
    stack: Stack, banks: Banks, bank_file: dict[str, Any], small_exam: dict[str, Any], exam_id: str
) -> None:
    await keep(banks, bank_file)
    exam = exam_with(bank_file["questions"][0], small_exam)

    await stack.import_exam(exam, exam_id, opensAt=LATER)
    hidden, solution = await readable(banks, bank_file), await banks.practice(bank_file["bank"]["id"], "p1")
    await stack.import_exam(exam, exam_id, opensAt=None)
    shown = await readable(banks, bank_file)

    assert (hidden, solution) == (["p2", "p3", "p4", "p5"], None)
    assert shown == ["p1", "p2", "p3", "p4", "p5"]


@pytest.mark.parametrize(
    ("review", "score", "shown_at"),
    [
        ("IMMEDIATELY", "IMMEDIATELY", "open"),
        ("IMMEDIATELY", "MANUAL", "released"),
        ("AFTER_CLOSE", "IMMEDIATELY", "closed"),
        ("AFTER_CLOSE", "MANUAL", "released"),
        ("NONE", "MANUAL", "closed"),
    ],
)
async def test_what_is_right_is_nobodys_to_read_before_the_exam_that_asks_it_shows_it(
    stack: Stack,
    stores: Stores,
    banks: Banks,
    bank_file: dict[str, Any],
    small_exam: dict[str, Any],
    exam_id: str,
    review: str,
    score: str,
    shown_at: str,
) -> None:
    await keep(banks, bank_file)
    bank, exam = bank_file["bank"]["id"], exam_with(bank_file["questions"][0], small_exam)
    shown, texts = {}, []

    await stack.import_exam(exam, exam_id, release__review=review, release__score=score)
    for act in (None, "closed", "released"):
        if act:
            await stores.postgres.execute(f"UPDATE exam SET {act}_at = now() WHERE id = $1", exam_id)
        found = await banks.practice(bank, "p1")
        texts.append(await readable(banks, bank_file))
        shown[act or "open"] = found is not None and (found.answer, found.explanation) != (None, "")
    other = await banks.practice(bank, "p2")

    stages = ["open", "closed", "released"]
    assert shown == {stage: stages.index(stage) >= stages.index(shown_at) for stage in stages}
    assert texts == [["p1", "p2", "p3", "p4", "p5"]] * 3
    assert other is not None
    assert other.answer


async def test_what_is_right_is_not_shown_while_somebody_still_sits_the_exam_that_is_closed(
    stack: Stack, stores: Stores, banks: Banks, bank_file: dict[str, Any], small_exam: dict[str, Any], exam_id: str
) -> None:
    await keep(banks, bank_file)
    await stack.import_exam(exam_with(bank_file["questions"][0], small_exam), exam_id, release__review="AFTER_CLOSE")
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        await stores.postgres.execute("UPDATE exam SET closed_at = now() WHERE id = $1", exam_id)
        sitting = await banks.practice(bank_file["bank"]["id"], "p1")
        await student.submit(session)
        await student.outcome(session)
        over = await banks.practice(bank_file["bank"]["id"], "p1")

    assert sitting is not None
    assert over is not None
    assert (sitting.answer, bool(over.answer)) == (None, True)


async def test_an_older_version_of_an_exam_hides_nothing(
    stack: Stack, banks: Banks, bank_file: dict[str, Any], small_exam: dict[str, Any], exam_id: str
) -> None:
    await keep(banks, bank_file)
    await stack.import_exam(exam_with(bank_file["questions"][0], small_exam), exam_id, opensAt=LATER)

    await stack.import_exam(small_exam, exam_id, opensAt=LATER)

    assert await readable(banks, bank_file) == ["p1", "p2", "p3", "p4", "p5"]


REACH = {
    "content": {"practice_question", "sealed_paper"},
    "session": set[str](),
    "scoring": set[str](),
    "leaderboard": set[str](),
    "payments": set[str](),
}


@pytest.mark.parametrize("role", REACH)
async def test_each_service_reads_what_it_needs_of_banks_and_sealed_papers_and_no_keys(stack: Stack, role: str) -> None:
    tables = ("bank_question", "practice_question", "unopened_question", "sealed_paper", "keys.sealed_paper_key")
    connection = await asyncpg.connect(stack.read()["postgres"])
    readable = set()
    try:
        for table in tables:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"SET LOCAL ROLE finalbell_{role}")
            try:
                await connection.fetch(f"SELECT * FROM {table} LIMIT 1")
                readable.add(table)
            except asyncpg.InsufficientPrivilegeError:
                pass
            finally:
                await transaction.rollback()
    finally:
        await connection.close()

    assert readable == REACH[role]


@pytest.mark.parametrize(
    ("call", "allowed"),
    [("sealed_paper_key('x', 1)", {"session"}), ("released_explanations('x', 1, 1)", {"content"})],
)
async def test_a_key_and_an_explanation_come_out_through_one_door_each(stack: Stack, call: str, allowed: set[str]) -> None:
    connection = await asyncpg.connect(stack.read()["postgres"])
    able = set()
    try:
        for role in (*REACH, "admin"):
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(f"SET LOCAL ROLE finalbell_{role}")
            try:
                await connection.fetch(f"SELECT * FROM {call}")
                able.add(role)
            except asyncpg.InsufficientPrivilegeError:
                pass
            finally:
                await transaction.rollback()
    finally:
        await connection.close()

    assert able == allowed

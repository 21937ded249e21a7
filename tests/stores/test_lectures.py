"""Lectures as they are kept, and the products that open them."""

from dataclasses import replace

import pytest

from servers.payments import rules
from stores.connect import Stores
from stores.lectures import Captions, Lecture, Lectures, SetOutcome
from stores.ledger import Ledger
from stores.money import Product
from tests.stack import fresh

NOW = 1_790_000_000_000


@pytest.fixture
def lectures(stores: Stores) -> Lectures:
    return Lectures(stores.postgres)


def a_lecture(**fields: str) -> Lecture:
    captions = (Captions("uz", "O‘zbekcha", "captions/uz.vtt"), Captions("en", "English", "captions/en.vtt"))
    return replace(Lecture(fresh("t"), "Squares", "", "", 16, "sample-1", "master.m3u8", captions), **fields)


async def test_a_lecture_is_kept_as_it_was_given(lectures: Lectures) -> None:
    lecture = a_lecture(topic="numbers", description="About squares.")

    assert await lectures.set(lecture, "operator") is SetOutcome.MADE
    assert await lectures.lecture(lecture.id) == lecture
    assert await lectures.lecture(fresh("t")) is None


async def test_setting_it_again_changes_what_differs_and_is_on_record_once_each(stores: Stores, lectures: Lectures) -> None:
    lecture = a_lecture()

    outcomes = [await lectures.set(one, "operator") for one in (lecture, lecture, replace(lecture, captions=()), lecture)]

    assert outcomes == [SetOutcome.MADE, SetOutcome.SAME, SetOutcome.CHANGED, SetOutcome.CHANGED]
    query = "SELECT count(*) FROM audit_log WHERE action = 'lecture.set' AND subject = $1 AND actor = 'operator'"
    assert await stores.postgres.fetchval(query, lecture.id) == 3


async def test_a_lecture_is_forgotten_once(lectures: Lectures) -> None:
    lecture = a_lecture()
    await lectures.set(lecture, "operator")

    assert [await lectures.delete(lecture.id, "operator") for _ in range(2)] == [True, False]
    assert await lectures.lecture(lecture.id) is None


async def test_lectures_come_by_id_of_one_topic_or_of_all(lectures: Lectures) -> None:
    topic = fresh("topic")
    mine = sorted([a_lecture(topic=topic) for _ in range(3)], key=lambda one: one.id)
    for lecture in (*mine, a_lecture()):
        await lectures.set(lecture, "operator")

    assert await lectures.lectures(topic, "", 10) == mine
    assert await lectures.lectures(topic, mine[0].id, 1) == [mine[1]]
    everything = [one.id for one in await lectures.lectures("", "", 100_000)]
    assert everything == sorted(everything)
    assert {one.id for one in mine} < set(everything)


async def test_a_lecture_has_the_products_that_open_it_themselves(stores: Stores, lectures: Lectures) -> None:
    ledger = Ledger(stores.postgres, rules.fold, rules.mismatch, rules.whole, rules.owned_until)
    sold, free = a_lecture(), a_lecture()
    course, alone = (Product(fresh(kind), "One", "", 100, "USD", None, True, (), (("LECTURE", sold.id),)) for kind in ("pa", "pb"))
    bundle = Product(fresh("pc"), "Both", "", 150, "USD", None, True, (course.id,), ())
    exam = Product(fresh("pd"), "Exam", "", 100, "USD", None, True, (), (("EXAM", sold.id),))
    await ledger.keep([course, alone, bundle, exam], [], "operator")
    for one in (sold, free):
        await lectures.set(one, "operator")

    found = {one.id: await lectures.lecture(one.id) for one in (sold, free)}

    assert found == {sold.id: replace(sold, products=(course.id, alone.id)), free.id: free}

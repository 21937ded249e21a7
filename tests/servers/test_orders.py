"""Orders: what a session was shown once it is shown for ever, so the rule is written down here a second time."""

from hashlib import blake2b
from uuid import UUID

import pytest

from servers.orders import Orders
from stores.records import Paper, PaperQuestion

QUESTIONS = (
    PaperQuestion("q1", "single_choice", ("A", "B", "C", "D")),
    PaperQuestion("q2", "numeric", ()),
    PaperQuestion("frage-3", "multiple_choice", ("1", "2", "3", "4", "5")),
    PaperQuestion("q4", "short_text", ()),
)
SESSION = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
EXPECTED_QUESTIONS = ["q4", "frage-3", "q2", "q1"]
EXPECTED_OPTIONS = {"q1": ["D", "C", "B", "A"], "frage-3": ["3", "1", "5", "4", "2"]}
"""As the first version of the rule gave them."""


def shuffled(ids: tuple[str, ...], seed: str) -> list[str]:
    key = blake2b(seed.encode(), digest_size=32).digest()
    return sorted(ids, key=lambda one: blake2b(one.encode(), key=key).digest())


@pytest.mark.parametrize("number", range(50))
def test_an_order_is_a_sort_by_a_keyed_hash_that_anybody_can_compute(number: int) -> None:
    session, orders = UUID(int=SESSION.int + number), Orders(Paper("e", 3, True, True, QUESTIONS))

    assert orders.questions(session) == shuffled(("q1", "q2", "frage-3", "q4"), f"{session}/3")
    assert orders.options(session) == {
        "q1": shuffled(("A", "B", "C", "D"), f"{session}/3/q1"),
        "frage-3": shuffled(("1", "2", "3", "4", "5"), f"{session}/3/frage-3"),
    }


def test_the_orders_of_one_session_are_those_that_were_handed_out_before() -> None:
    orders = Orders(Paper("e", 3, True, True, QUESTIONS))

    assert [*orders.questions(SESSION)] == EXPECTED_QUESTIONS
    assert {question: [*options] for question, options in orders.options(SESSION).items()} == EXPECTED_OPTIONS


def test_a_paper_that_is_not_shuffled_is_shown_as_it_was_imported() -> None:
    orders = Orders(Paper("e", 3, False, False, QUESTIONS))

    assert [*orders.questions(SESSION)] == ["q1", "q2", "frage-3", "q4"]
    assert orders.options(SESSION) == {"q1": ("A", "B", "C", "D"), "frage-3": ("1", "2", "3", "4", "5")}

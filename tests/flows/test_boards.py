"""Reading a board: pages, one's own place and its window, cohorts and histogram, as REST shows them."""

from typing import Any

import pytest

from tests.flows.sitting import Student, good, refusal
from tests.flows.test_watching import score
from tests.stack import Stack

ALIASES = ("Ada", "Bob", "Cem", "Dea", "Eli")


async def test_pages_forwards_and_backwards_show_the_same_ranks(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    for number, alias in enumerate(ALIASES):
        await score(stack, exam_id, number % 3, alias=alias)

    async with Student(stack) as student:
        whole = await student.board(exam_id)
        pages, token = [], ""
        while not pages or token:
            pages.append(await student.board(exam_id, top=2, pageToken=token))
            token = pages[-1]["nextPageToken"]
        back, token = [pages[-1]], pages[-1]["previousPageToken"]
        while token:
            back.append(await student.board(exam_id, top=2, pageToken=token))
            token = back[-1]["previousPageToken"]

    assert [entry["rank"] for entry in whole["entries"]] == [1, 2, 2, 4, 4]
    assert [len(page["entries"]) for page in pages] == [2, 2, 1]
    assert [entry for page in pages for entry in page["entries"]] == whole["entries"]
    assert [entry for page in reversed(back) for entry in page["entries"]] == whole["entries"]
    assert (whole["nextPageToken"], whole["previousPageToken"]) == ("", "")


async def test_ones_own_place_comes_with_percentile_window_and_cohorts(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    names = [
        await score(stack, exam_id, right, alias=alias, cohorts=("north",))
        for alias, right in zip(ALIASES, (2, 1, 1, 0, 0), strict=True)
    ]
    async with Student(stack, names[1], cohorts=["north", "west"]) as bob:
        board = await bob.board(exam_id, top=1, around="me", window=1, histogram="true")
        north, west = [await bob.board(exam_id, cohort=cohort) for cohort in ("north", "west")]
        refused = await bob.http.get(f"/api/v1/exams/{exam_id}/leaderboard", params={"cohort": "south"})

    assert (board["me"]["rank"], board["me"]["alias"], board["me"]["me"], board["percentile"]) == (2, "Bob", True, 60)
    assert [entry["me"] for entry in board["around"]].count(True) == 1
    assert len(board["around"]) == 3
    assert [(bar["score"], bar["count"]) for bar in board["histogram"]] == [(0, 2), (2, 2), (8, 1)]
    assert (board["cohorts"], board["frozen"], board["rebuilding"]) == (["north", "west"], False, False)
    assert (north["total"], west["total"], west["entries"], west["rebuilding"]) == (5, 0, [], False)
    assert refusal(refused) == (403, "COHORT_FORBIDDEN")


async def test_page_tokens_name_no_student(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    import base64

    await stack.import_exam(small_exam, exam_id)
    names = [await score(stack, exam_id, 1, alias=alias) for alias in ALIASES[:2]]
    async with Student(stack) as student:
        token = (await student.board(exam_id, top=1))["nextPageToken"]

    told = base64.urlsafe_b64decode(token)
    assert token
    assert not any(name.encode() in told for name in names)


@pytest.mark.parametrize("field", ["me", "percentile"])
async def test_a_student_without_a_place_sees_the_board_and_no_rank(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, field: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    await score(stack, exam_id, 1, alias="Ada")
    async with Student(stack) as student:
        board = good(await student.http.get(f"/api/v1/exams/{exam_id}/leaderboard", params={"around": "me"}))

    assert (board["total"], board["around"], board.get(field)) == (1, [], None)

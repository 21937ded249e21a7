"""The live page over a whole stack: students submit, services die, and the browser shows it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.test_board_states import state, texts
from tests.faults.harm import kill, restarted
from tests.flows.sitting import Student, good
from tests.stack import Stack

SCORED_MS = 15_000
"""How long a score may take to the page on a busy machine; a second on an idle one."""


async def sit(stack: Stack, exam: str, student: Student, alias: str, **answers: dict[str, Any]) -> None:
    """Sit an exam once, from its start to the submit."""
    session = str((await student.sit(exam, alias=alias))["sessionId"])
    for question, answer in answers.items():
        good(await student.save(session, question, **answer))
    good(await student.submit(session), 200, 202)


RIGHT, WRONG = {"choice": "B"}, {"choice": "A"}


@pytest.fixture
async def public(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    """An exam whose board everybody may see."""
    await stack.import_exam(small_exam, exam_id, board__public=True)
    return exam_id


@pytest.fixture
async def two(stack: Stack) -> AsyncIterator[tuple[Student, Student]]:
    async with Student(stack) as ada, Student(stack) as bo:
        yield ada, bo


async def opened(stack: Stack, page: Page, exam: str, *names: str, more: str = "") -> None:
    """Open the page, and wait until it shows these names in this order."""
    await page.goto(f"{stack.gateway}/board/{exam}{more}")
    await names_are(page, *names)


async def names_are(page: Page, *names: str) -> None:
    await expect(page.get_by_role("rowheader")).to_have_text(list(names), timeout=SCORED_MS)


async def test_a_row_climbs_when_its_score_comes_in(stack: Stack, public: str, two: tuple[Student, Student], page: Page) -> None:
    ada, bo = two
    await opened(stack, page, public)
    await state(page, "empty")
    await sit(stack, public, ada, "Ada", q1=RIGHT)
    await sit(stack, public, bo, "Bo", q1=WRONG)
    await names_are(page, "Ada", "Bo")
    assert await texts(page) == ["1 Ada 2", "2 Bo -1"]

    await sit(stack, public, bo, "Bo", q1=RIGHT, q3={"number": "3.5"})

    await names_are(page, "Bo", "Ada")
    await expect(page.locator("#caption")).to_contain_text("Top 2 of 2")
    assert await texts(page) == ["1 Bo 6", "2 Ada 2"]
    await page.close()


async def test_the_page_survives_a_service_that_is_killed_and_shows_what_came_meanwhile(
    stack: Stack, public: str, two: tuple[Student, Student], page: Page
) -> None:
    ada, bo = two
    await sit(stack, public, ada, "Ada", q1=WRONG)
    await opened(stack, page, public, "Ada")

    before = kill(stack, "leaderboard")
    await sit(stack, public, bo, "Bo", q1=RIGHT)
    await state(page, "reconnecting")
    assert (await texts(page))[-1] == "1 Ada -1"
    await restarted(stack, "leaderboard", before)

    await names_are(page, "Bo", "Ada")
    await state(page, "live")
    await page.close()


async def test_ones_own_row_is_marked_with_a_token(stack: Stack, public: str, two: tuple[Student, Student], page: Page) -> None:
    ada, bo = two
    await sit(stack, public, ada, "Ada", q1=RIGHT)
    await sit(stack, public, bo, "Bo", q1=WRONG)

    await opened(stack, page, public, "Ada", "Bo", more=f"#token={bo.token}")

    await expect(page.locator("tr.mine th")).to_have_text("Bo")
    await expect(page.locator("#own")).to_contain_text("Your place: 2, as Bo with -1 point.")
    await page.close()


async def test_ones_own_place_is_shown_though_it_is_not_among_the_top(
    stack: Stack, public: str, two: tuple[Student, Student], page: Page
) -> None:
    ada, bo = two
    await sit(stack, public, ada, "Ada", q1=RIGHT)
    await sit(stack, public, bo, "Bo", q1=WRONG)

    await opened(stack, page, public, "Ada", more=f"?top=1#token={bo.token}")

    await expect(page.locator("#own")).to_contain_text("Your place: 2, as Bo")
    await expect(page.locator("tr.mine")).to_have_count(0)
    await page.close()


@pytest.mark.parametrize("alias", ["<img src=x onerror=alert(1)>", "W" * 32, "🦊🎉", "مريم", "&lt;b&gt;"])
async def test_an_alias_is_text_whatever_it_is(stack: Stack, public: str, page: Page, alias: str) -> None:
    async with Student(stack) as student:
        await sit(stack, public, student, alias, q1=RIGHT)

    await page.set_viewport_size({"width": 320, "height": 600})
    await opened(stack, page, public, alias)

    assert await page.locator("#rows *:not(tr, th, td, bdi)").count() == 0
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320
    await page.close()


async def test_a_board_that_is_not_public_asks_for_a_token(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, page: Page
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        await sit(stack, exam_id, student, "Ada", q1=RIGHT)
        await page.goto(f"{stack.gateway}/board/{exam_id}")
        await state(page, "token")
        await expect(page.locator("#table")).to_be_hidden()

        await page.get_by_label("Your token").fill(student.token)
        await page.keyboard.press("Enter")

        await names_are(page, "Ada")
        await expect(page.locator("tr.mine")).to_have_count(1)
    await page.close()


async def test_a_board_of_no_exam_says_so_to_a_student(stack: Stack, page: Page) -> None:
    await page.goto(f"{stack.gateway}/board/no-such-exam#token={stack.token()}")

    await state(page, "absent")

    await expect(page.locator("#notice")).to_have_text("There is no such board.")
    await page.close()


async def test_where_motion_is_unwanted_a_row_is_at_its_place_at_once(
    stack: Stack, public: str, two: tuple[Student, Student], page: Page
) -> None:
    ada, bo = two
    await page.emulate_media(reduced_motion="reduce")
    await sit(stack, public, ada, "Ada", q1=RIGHT)
    await opened(stack, page, public, "Ada")
    await page.evaluate(
        """() => { globalThis.moved = 0;
        new MutationObserver(() => { moved += document.getAnimations().length; }).observe(rows, { childList: true }); }"""
    )

    await sit(stack, public, bo, "Bo", q1=RIGHT, q3={"number": "3.5"})

    await names_are(page, "Bo", "Ada")
    assert await page.evaluate("[moved, document.getAnimations().length]") == [0, 0]
    await page.close()

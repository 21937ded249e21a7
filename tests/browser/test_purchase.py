"""A whole purchase in a real browser, on a stack as `finalbell up` starts it: its own sandbox, real webhooks, a real exam."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.test_board_states import state
from tests.browser.test_lecture_page import opened, play, played
from tests.flows.lecturing import add_lecture
from tests.flows.sitting import Student, good, refusal
from tests.stack import Stack, eventually, fresh

PAY = "Pay 25.00 USD"
LOCKED = (403, "ENTITLEMENT_REQUIRED")


@pytest.fixture
async def student(stack: Stack) -> AsyncIterator[Student]:
    async with Student(stack) as student:
        yield student


@pytest.fixture
async def admin(stack: Stack) -> AsyncIterator[Student]:
    async with Student(stack, roles=["admin"]) as admin:
        yield admin


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    await stack.import_exam(small_exam, exam_id)
    return exam_id


@pytest.fixture
async def product(admin: Student, exam: str) -> str:
    """What opens the exam."""
    product = {"productId": fresh("p"), "title": "A course", "amount": 2_500, "currency": "USD", "exams": [exam]}
    good(await admin.http.post("/api/v1/admin/products:import", json={"products": [product]}))
    return str(product["productId"])


async def check_out(student: Student, product: str) -> str:
    """Order a product, and return the page where it is paid."""
    return str(good(await student.http.post("/api/v1/payments/checkout", json={"productId": product}))["url"])


async def owns(student: Student) -> set[str]:
    """Return what a student owns, as they are told."""
    found = good(await student.http.get("/api/v1/entitlements"))["entitlements"]
    return {one["productId"] for one in found if one["active"]}


async def press(page: Page, name: str, shows: str) -> None:
    """Press a button, and wait until the page shows what has come of it: the shop has heard of it by then."""
    await page.get_by_role("button", name=name, exact=True).click()
    await expect(page.get_by_role("status")).to_contain_text(shows, timeout=20_000)  # the page waits for the shop


async def test_an_exam_that_is_bought_on_the_page_opens_and_a_refund_locks_it_without_cutting_a_sitting(
    page: Page, student: Student, exam: str, product: str
) -> None:
    locked = await student.start(exam)
    await page.goto(await check_out(student, product))
    await expect(page.get_by_role("heading", level=1)).to_have_text("A course")

    await press(page, PAY, "Paid. Thank you.")
    bought = await owns(student)
    session = (await student.sit(exam))["sessionId"]

    await press(page, "Refund all that is left", "all of it was given back")

    assert (refusal(locked), bought) == (LOCKED, {product})
    assert await owns(student) == set()

    assert good(await student.start(exam))["sessionId"] == session  # what runs is given again
    assert good(await student.save(session, "q1", choice="B"))["saved"]
    await student.submit(session)
    assert refusal(await student.start(exam)) == LOCKED


async def test_a_course_that_is_bought_plays_its_lecture_until_it_is_refunded(
    stack: Stack, page: Page, student: Student, admin: Student
) -> None:
    lecture, course = fresh("t"), fresh("p")
    await add_lecture(stack, lecture)
    product = {"productId": course, "title": "A course", "amount": 2_500, "currency": "USD", "lectures": [lecture]}
    good(await admin.http.post("/api/v1/admin/products:import", json={"products": [product]}))
    address, till = f"{stack.gateway}/lecture/{lecture}#token={student.token}", await check_out(student, course)
    await eventually(lambda: opens_it(student, lecture, course), 5)  # what opens a lecture is kept for a second

    await page.goto(address)
    await state(page, "locked")
    await page.goto(till)
    await press(page, PAY, "Paid. Thank you.")
    first_frame_ms = await opened(stack, page, lecture, student.token)
    print(f"bought: first frame {first_frame_ms} ms after the address was opened")  # noqa: T201
    await play(page)
    await played(page, 1.5)
    await page.goto(till)
    await press(page, "Refund all that is left", "all of it was given back")
    await page.goto(address)

    await state(page, "locked")
    await page.close()


async def opens_it(student: Student, lecture: str, product: str) -> bool:
    """Whether a lecture says that a product opens it."""
    return product in good(await student.http.get(f"/api/v1/lectures/{lecture}"))["productIds"]


async def test_a_lost_webhook_is_made_good_when_staff_ask_the_sandbox(
    page: Page, student: Student, admin: Student, exam: str, product: str
) -> None:
    await page.goto(await check_out(student, product))
    await page.get_by_role("button", name="Lose the webhook").click()
    await press(page, PAY, "Paid. Thank you.")
    paid = await student.start(exam)

    good(await admin.http.post("/api/v1/admin/payments:reconcile", json={"provider": "sandbox"}))

    assert refusal(paid) == LOCKED
    assert await owns(student) == {product}
    await student.sit(exam)

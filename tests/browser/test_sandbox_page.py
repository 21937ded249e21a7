"""The sandbox's checkout page in a real browser: what a student sees, and every button for developers."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from servers.payments.provider import Heard
from stores.ledger import Ledger
from stores.money import Order, OrderStatus, Product
from tests.payments.books import PRODUCT, Till
from tests.payments.gateways import Truth
from tests.payments.sandbox_process import RealSandbox, opened, provider, real_sandbox


@pytest_asyncio.fixture(scope="module")
async def module_gateway() -> AsyncIterator[RealSandbox]:
    async with real_sandbox() as gateway:
        yield gateway


@pytest.fixture
def gateway(module_gateway: RealSandbox) -> RealSandbox:
    module_gateway.shop.heard.clear()
    return module_gateway


@pytest.fixture
def till(gateway: RealSandbox, ledger: Ledger) -> Till:
    return Till(ledger, gateway.provider.name, PRODUCT.currency, PRODUCT.amount)


@pytest.fixture
async def order(gateway: RealSandbox, till: Till, page: Page) -> AsyncIterator[Order]:
    """An order whose page is open, without a shop to return to."""
    order = await opened(gateway, till)
    await page.goto(str(order.url))
    yield order
    await page.close()


async def from_a_shop(gateway: RealSandbox, till: Till, product: Product = PRODUCT) -> Order:
    """Order something at a shop that has a page to return to."""
    shop, order = provider(gateway.process, return_url=gateway.shop.page), await till.order()
    found = await shop.open(order, product)
    await shop.stop()
    return replace(order, gateway_ref=found.ref, url=found.url)


async def press(page: Page, *names: str) -> None:
    for name in names:
        await page.get_by_role("button", name=name, exact=True).click()


async def state(page: Page, status: str, text: str = "") -> None:
    await expect(page.get_by_role("status")).to_have_attribute("data-status", status)
    await expect(page.get_by_role("status")).to_contain_text(text)


def heard(gateway: RealSandbox, count: int) -> list[Heard]:
    return list(gateway.shop.wait(lambda heard: len(heard) >= count))


def kinds(some: list[Heard]) -> list[str]:
    return [json.loads(one.body)["kind"] for one in some]


# What a student sees


async def test_the_page_says_what_is_bought_for_how_much_and_that_no_money_moves(page: Page, order: Order) -> None:
    await expect(page).to_have_title("Checkout: A course")
    await expect(page.get_by_role("heading", level=1)).to_have_text("A course")
    await expect(page.locator(".price")).to_have_text("25.00 USD")
    await expect(page.get_by_text("Test mode.")).to_be_visible()
    await expect(page.get_by_text("no money moves")).to_be_visible()
    await state(page, "open", "not paid yet")


async def test_who_pays_is_sent_back_to_the_shop_which_has_heard_of_it(gateway: RealSandbox, till: Till, page: Page) -> None:
    order = await from_a_shop(gateway, till)
    await page.goto(str(order.url))

    await press(page, "Pay 25.00 USD")

    await expect(page.get_by_role("heading")).to_have_text("Welcome back")
    assert page.url == gateway.shop.page
    for one in gateway.shop.heard:
        await gateway.provider.hear(one, till)
    assert await till.status(order) is OrderStatus.PAID
    await page.close()


@pytest.mark.parametrize(("button", "status"), [("Fail", OrderStatus.FAILED), ("Cancel", OrderStatus.EXPIRED)])
async def test_who_does_not_pay_is_sent_back_too(
    gateway: RealSandbox, till: Till, page: Page, button: str, status: OrderStatus
) -> None:
    order = await from_a_shop(gateway, till)
    await page.goto(str(order.url))

    await press(page, button)

    await expect(page.get_by_role("heading")).to_have_text("Welcome back")
    assert gateway.truth(order) == Truth(status, 0)
    await page.go_back()
    await page.get_by_role("link", name="Back to the shop").click()
    await expect(page.get_by_role("heading")).to_have_text("Welcome back")
    await page.close()


async def test_without_a_shop_to_return_to_the_page_shows_the_state(page: Page, order: Order) -> None:
    await press(page, "Pay 25.00 USD")

    await state(page, "paid", "Paid. Thank you.")

    await expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


async def test_it_is_paid_by_keyboard_alone(gateway: RealSandbox, page: Page, order: Order) -> None:
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Pay 25.00 USD")).to_be_focused()
    assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"

    await page.keyboard.press("Enter")

    await state(page, "paid")


async def test_a_page_that_was_left_open_says_that_it_is_too_late(gateway: RealSandbox, page: Page, order: Order) -> None:
    assert gateway.process.act(str(order.gateway_ref), "expire")

    await press(page, "Pay 25.00 USD")

    await expect(page.get_by_role("alert")).to_contain_text("That did not happen")
    await state(page, "expired")


async def test_there_is_no_field_for_a_card(gateway: RealSandbox, page: Page, order: Order) -> None:
    fields = (
        "[...document.querySelectorAll('input, select, textarea, [contenteditable]')].map(field => `${field.type} ${field.name}`)"
    )
    assert set(await page.evaluate(fields)) == {"hidden token", "hidden part"}

    await press(page, "Pay 25.00 USD")
    await state(page, "paid")

    assert set(await page.evaluate(fields)) == {"hidden token", "hidden part", "text amount"}


async def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing(gateway: RealSandbox, till: Till, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    order = await opened(gateway, till)

    await page.goto(str(order.url))

    assert [url for url in asked if not url.startswith("data:")] == [order.url]
    assert await page.locator("script").count() == 0
    reply = gateway.process.http.get(str(order.url))
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert {policy[name] for name in ("default-src", "base-uri", "frame-ancestors")} == {"'none'"}
    assert policy["form-action"] == "'self'"
    assert policy["style-src"].startswith("'sha256-")
    assert (reply.headers["x-content-type-options"], reply.headers["cache-control"]) == ("nosniff", "no-store")
    await page.close()


@pytest.mark.parametrize("width", [320, 1280])
async def test_names_are_text_and_never_make_the_page_scroll_sideways(
    gateway: RealSandbox, till: Till, page: Page, width: int
) -> None:
    title = "<script>alert(1)</script>" + "W" * 150 + "\u202eevil"
    product = replace(PRODUCT, title=title, description="<img src=x onerror=alert(1)>" * 50)
    order = await from_a_shop(gateway, till, product)
    gateway.process.act(str(order.gateway_ref), "pay")
    heard(gateway, 1)
    await page.set_viewport_size({"width": width, "height": 700})

    for url in (str(order.url), gateway.process.base):
        await page.goto(url)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await page.locator("script, img").count() == 0

    await expect(page.locator(f'a[href="/pay/{order.gateway_ref}"]')).to_have_text(title)
    await page.close()


# For developers


async def test_a_refund_of_a_part_then_of_the_rest(gateway: RealSandbox, page: Page, order: Order) -> None:
    await press(page, "Pay 25.00 USD")
    await page.get_by_label("A part, of 25.00 USD").fill("7.50")
    await press(page, "Refund a part")
    await state(page, "paid", "7.50 USD of it was given back")
    assert gateway.truth(order) == Truth(OrderStatus.PAID, 750)

    await press(page, "Refund all that is left")

    await state(page, "paid", "all of it was given back")
    assert gateway.truth(order) == Truth(OrderStatus.REFUNDED, 2_500)
    assert kinds(heard(gateway, 3)) == ["payment.succeeded", "refund.succeeded", "refund.succeeded"]


@pytest.mark.parametrize("typed", ["30", "0", "seven", "1.001"])
async def test_an_amount_that_cannot_be_given_back_is_refused_aloud(
    gateway: RealSandbox, page: Page, order: Order, typed: str
) -> None:
    await press(page, "Pay 25.00 USD")
    await page.get_by_label("A part, of 25.00 USD").fill(typed)

    await press(page, "Refund a part")

    await expect(page.get_by_role("alert")).to_contain_text("That did not happen")
    assert gateway.truth(order) == Truth(OrderStatus.PAID, 0)


async def test_a_dispute_is_opened_won_opened_and_lost(gateway: RealSandbox, page: Page, order: Order) -> None:
    await press(page, "Pay 25.00 USD", "Open a dispute")
    await state(page, "paid", "a bank decides about 25.00 USD")
    await press(page, "The dispute is won")
    await state(page, "paid", "Paid. Thank you.")

    await press(page, "Open a dispute", "The dispute is lost")

    await state(page, "paid", "taken back by the bank")
    await expect(page.get_by_text("Nothing more can happen to it.")).to_be_visible()
    told = ["payment.succeeded", "dispute.opened", "dispute.won", "dispute.opened", "dispute.lost"]
    assert kinds(heard(gateway, 5)) == told


async def test_a_try_is_declined_and_a_transfer_comes_later(gateway: RealSandbox, page: Page, order: Order) -> None:
    await press(page, "Decline a try; it may be made again", "Pay by transfer: the money is under way")
    await state(page, "processing", "under way")

    await press(page, "The money arrives")

    await state(page, "paid")
    assert kinds(heard(gateway, 3)) == ["payment.declined", "payment.processing", "payment.succeeded"]


async def test_what_was_sent_and_what_was_answered_is_shown(gateway: RealSandbox, page: Page, order: Order) -> None:
    await press(page, "Pay 25.00 USD")

    row = page.get_by_role("row", name="payment.succeeded")
    await expect(row).to_contain_text("delivered")
    await expect(row).to_contain_text("200")
    await row.get_by_text("What was sent").click()
    await expect(row.locator("pre")).to_contain_text(str(order.id))
    assert await row.locator("pre").text_content() == heard(gateway, 1)[0].body.decode()


async def test_a_webhook_is_lost_and_sent_after_all(gateway: RealSandbox, page: Page, order: Order) -> None:
    await press(page, "Lose the webhook", "Pay 25.00 USD")
    row = page.get_by_role("row", name="payment.succeeded")
    await expect(row).to_contain_text("lost")
    assert gateway.shop.heard == []

    await page.get_by_role("button", name="Send payment.succeeded again").click()

    await expect(row).to_contain_text("delivered")
    assert kinds(heard(gateway, 1)) == ["payment.succeeded"]


async def test_a_webhook_is_sent_twice(gateway: RealSandbox, page: Page, order: Order) -> None:
    await press(page, "Send it twice")
    await expect(page.get_by_role("button", name="Send it twice")).to_have_attribute("aria-pressed", "true")
    await expect(page.get_by_role("button", name="Send the webhook")).to_have_attribute("aria-pressed", "false")

    await press(page, "Pay 25.00 USD")

    assert kinds(heard(gateway, 2)) == ["payment.succeeded"] * 2


async def test_webhooks_are_sent_out_of_order(gateway: RealSandbox, till: Till, page: Page, order: Order) -> None:
    await press(page, "Hold it back, to send them out of order", "Pay 25.00 USD", "Open a dispute", "The dispute is won")
    await expect(page.get_by_role("cell", name="held")).to_have_count(3)

    await press(page, "Send the 3 held back, newest first")

    assert kinds(heard(gateway, 3)) == ["dispute.won", "dispute.opened", "payment.succeeded"]
    for one in heard(gateway, 3):
        await gateway.provider.hear(one, till)
    assert await till.truth(order) == gateway.truth(order) == Truth(OrderStatus.PAID, 0)


async def test_a_paid_checkout_is_found_again_in_the_list(gateway: RealSandbox, page: Page, order: Order) -> None:
    await press(page, "Pay 25.00 USD")
    await page.get_by_role("link", name="All checkouts").click()

    await expect(page.get_by_role("heading", level=1)).to_have_text("Checkouts")
    await page.get_by_role("row").nth(1).get_by_role("link").click()

    assert page.url == order.url
    await state(page, "paid")


async def test_the_list_tells_what_was_paid_from_what_was_given_back(gateway: RealSandbox, page: Page, order: Order) -> None:
    states = []
    for button in ("Pay 25.00 USD", "Open a dispute", "The dispute is won", "Refund all that is left"):
        await press(page, button)
        await page.get_by_role("link", name="All checkouts").click()
        states.append(await page.get_by_role("row").nth(1).get_by_role("cell").last.text_content())
        await page.goto(str(order.url))

    assert states == ["paid", "disputed", "paid", "refunded"]


async def test_a_phone_shows_every_word_above_the_events(gateway: RealSandbox, page: Page, order: Order) -> None:
    await page.set_viewport_size({"width": 390, "height": 800})

    await press(page, "Pay 25.00 USD")

    await expect(page.get_by_role("table")).to_have_accessible_name(re.compile("^What happened"))
    assert await page.locator("#happened").evaluate("one => one.getBoundingClientRect().right <= innerWidth")


async def test_every_control_has_a_name_and_shows_its_focus(page: Page, order: Order) -> None:
    await press(page, "Pay 25.00 USD")
    controls = await page.locator("button:visible, input:visible, a:visible, summary:visible").count()
    seen = set()

    for _ in range(controls + 2):
        await page.keyboard.press("Tab")
        seen.add(await page.evaluate("document.activeElement.outerHTML"))
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid" or await page.evaluate("document.activeElement === document.body")

    assert len(seen) >= controls
    names = "[...document.querySelectorAll('button')].map(button => button.ariaLabel || button.textContent.trim())"
    assert all(await page.evaluate(names))

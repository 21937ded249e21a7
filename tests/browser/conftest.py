"""A real browser as a fixture: Debian's Chromium, driven by Playwright."""

import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.gateway.conftest import _servers, edge, lonely_edge, services  # noqa: F401  # the gateway, in front of what a test says
from tests.payments.conftest import ledger, pool  # noqa: F401  # the books of what is bought

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first of them that is here. The first is the same browser without a window: a page takes 0.2 s of CPU, the others' 0.8 s."""

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

expect.set_options(timeout=20_000)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The browser; tests that need it are skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is here")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        await browser.close()


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A tab of its own, in which no error, of the page or against its policy, may show up."""
    wrong: list[str] = []
    async with await browser.new_context(locale="en-GB") as context:
        page = await context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Failed to load resource" not in said.text else None)
        yield page
    assert wrong == []

"""Takes the picture of docs/lectures.md: `python -m tests.browser.lecture_picture FILE`, over a stack of its own."""

import argparse
import asyncio
from pathlib import Path

from playwright.async_api import async_playwright

from tests.browser.conftest import CHROMIUM, OPTIONS
from tests.browser.test_lecture_page import FIRST_FRAME, so
from tests.flows.lecturing import add_lecture
from tests.stack import Stack, running

TITLE, ABOUT = "The sum of odd numbers", "Add up the first odd numbers, and look at the shape that they make."


async def take(stack: Stack, chosen: argparse.Namespace) -> None:
    """Photograph the sample lecture with captions, near its end."""
    await add_lecture(stack, "sample", title=TITLE, description=ABOUT)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        scheme = "dark" if chosen.dark else "light"
        page = await browser.new_page(
            viewport={"width": chosen.width, "height": 100},
            locale="en-GB",
            color_scheme=scheme,  # type: ignore[arg-type]
        )
        await page.goto(f"{stack.gateway}/lecture/sample#token={stack.token()}")
        await so(page, FIRST_FRAME)
        await page.get_by_label("Captions").select_option("en")
        await page.locator("video").evaluate("video => { video.currentTime = 14; }")
        await asyncio.sleep(2)
        await page.screenshot(path=chosen.file, full_page=True)
        await browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=860)
    parser.add_argument("--dark", action="store_true")
    with running() as stack:
        asyncio.run(take(stack, parser.parse_args()))

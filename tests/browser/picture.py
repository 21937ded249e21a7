"""Takes the README's picture of a live board: `python -m tests.browser.picture FILE`, over a stack of its own.

With `--dark`, `--width 360` or `--projector` it shows what the page looks like elsewhere.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright, expect

from tests.browser.conftest import CHROMIUM, OPTIONS
from tests.flows.sitting import Student, good
from tests.stack import Stack, running

RIGHT = {
    **{"Ada": 39, "Grace": 37, "Émilie": 36, "Sofya": 36, "Maryam": 34, "Srinivasa": 31, "Emmy": 31, "Alan": 28},
    **{"مريم": 27, "Zu Chongzhi": 25, "Hypatia": 22, "Évariste": 19, "Katherine": 12, "Leonhard": 7},
}
"""How many questions each answers rightly."""

WATCHING = "Maryam"
QUESTIONS = 40
EXAM = "mathematics-final"


def exam() -> dict[str, Any]:
    """Many questions of a point each, all answered by B."""
    question = {
        "type": "single_choice",
        "stem": "Which is a prime?",
        "options": [{"id": "A", "text": "9"}, {"id": "B", "text": "11"}],
    }
    head = {"id": EXAM, "title": "Mathematics", "durationSeconds": 600, "maxAttempts": 1, "board": {"public": True}}
    head |= {"marking": {"correct": 1, "wrong": 0, "blank": 0}, "release": {"score": "IMMEDIATELY", "review": "IMMEDIATELY"}}
    return {"exam": head, "questions": [{"id": f"q{n}", **question, "answer": {"choice": "B"}} for n in range(QUESTIONS)]}


async def sit(student: Student, alias: str, right: int) -> None:
    session = str((await student.sit(EXAM, alias=alias))["sessionId"])
    items = [{"questionId": f"q{number}", "choice": "B"} for number in range(right)]
    for first in range(0, right, 20):
        good(await student.batch(session, *items[first : first + 20]))
    good(await student.submit(session), 200, 202)


async def take(stack: Stack, chosen: argparse.Namespace) -> None:
    """Have everybody sit the exam, and photograph the board as one of them sees it."""
    await stack.import_exam(exam())
    mine = ""
    for alias, right in RIGHT.items():
        async with Student(stack) as student:
            await sit(student, alias, right)
            mine = student.token if alias == WATCHING else mine
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        size = (1920, 1080) if chosen.projector else (chosen.width, 100)
        page = await browser.new_page(
            viewport={"width": size[0], "height": size[1]}, locale="en-GB", color_scheme="dark" if chosen.dark else "light"
        )
        await page.goto(f"{stack.gateway}/board/{EXAM}?projector={int(chosen.projector)}#token={mine}")
        await expect(page.locator("#caption")).to_contain_text(f"of {len(RIGHT)}", timeout=20_000)
        await expect(page.locator("tr.mine")).to_have_count(1)
        await asyncio.sleep(1)  # rows have come to rest
        await page.screenshot(path=chosen.file, full_page=True)
        await browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=860)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--projector", action="store_true")
    with running() as stack:
        asyncio.run(take(stack, parser.parse_args()))

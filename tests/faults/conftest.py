"""Faults have a stack of their own, so that nobody else's test meets them."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from ops import health
from ops.home import Home
from tests.stack import Stack, eventually, running


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """A running stack that may be harmed, until the last of these tests is done."""
    with running(FINALBELL_HOLD_SECONDS="10") as stack:
        yield stack


@pytest.fixture(autouse=True)
async def healthy(stack: Stack) -> AsyncIterator[None]:
    """Every test leaves every process up, as the stack is when it has started: so the next one finds them so."""

    async def all_up() -> bool:
        rows = await asyncio.to_thread(health.check, Home(stack.home))
        return bool(rows) and all(row.healthy for row in rows)

    yield
    await eventually(all_up, 30)

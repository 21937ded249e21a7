"""The world that bad input is sent to; each file of tests has one of its own."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.bad_input.world import World, quiet_world


@pytest.fixture(scope="module")
async def world(small_exam: dict[str, Any]) -> AsyncIterator[World]:
    async with quiet_world(small_exam) as world:
        yield world

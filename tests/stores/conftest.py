"""The stores, opened against the run's real servers with the owner's rights."""

from collections.abc import AsyncIterator

import pytest

from stores.connect import Stores, StoreSettings, connect
from tests.stack import Stack


@pytest.fixture(scope="session")
async def stores(stack: Stack) -> AsyncIterator[Stores]:
    where = stack.read()
    urls = StoreSettings(where["postgres"], where["redis"], where["redis"], where["nats"], statement_seconds=30)
    async with connect(urls) as opened:
        yield opened


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, object], exam_id: str) -> str:
    """An exam that nobody has sat."""
    await stack.import_exam(small_exam, exam_id)
    return exam_id

"""What tests of signals share: the stores, an exam, and a student who reports."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from stores.connect import Stores, StoreSettings, connect
from stores.signals import Signals
from tests.stack import Stack


@pytest.fixture(scope="session")
async def stores(stack: Stack) -> AsyncIterator[Stores]:
    where = stack.read()
    async with connect(
        StoreSettings(where["postgres"], where["redis"], where["redis"], where["nats"], statement_seconds=30)
    ) as opened:
        yield opened


@pytest.fixture
def signals(stores: Stores) -> Signals:
    return Signals(stores.postgres)


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    """An exam that nobody has sat."""
    await stack.import_exam(small_exam, exam_id)
    return exam_id

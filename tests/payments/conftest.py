"""PostgreSQL as the payment service has it, and the ledger in it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from stores.ledger import Ledger
from tests.payments.books import as_payments, ledger_in
from tests.stack import Stack


@pytest.fixture(scope="session")
async def pool(stack: Stack) -> AsyncIterator[asyncpg.Pool]:
    """Connections with the rights that the payment service has, and no others."""
    async with as_payments(stack) as pool:
        yield pool


@pytest.fixture(scope="session")
def ledger(pool: asyncpg.Pool) -> Ledger:
    """The ledger with its rules."""
    return ledger_in(pool)

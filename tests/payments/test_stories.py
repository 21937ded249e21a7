"""Whatever happens to a gateway's messages, students own in the end what they have paid for (I18-I21)."""

import asyncpg
import pytest

from tests.payments.simulated import GATEWAYS
from tests.payments.stories import storm


@pytest.mark.parametrize("provider", GATEWAYS)
async def test_students_own_what_they_have_paid_for_after_one_pass_of_the_reconciler(pool: asyncpg.Pool, provider: str) -> None:
    report = await storm(pool, provider, 200, seed=1)

    assert report.violations == []
    assert report.counted["came to PAID"] > 20
    assert report.counted["forged"] > 10
    assert report.counted["lost"] > 10

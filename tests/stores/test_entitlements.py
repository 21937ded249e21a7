"""What students own is known at once when it changes, whoever changes it, and within 30 s where nobody told."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from stores.connect import Stores
from stores.entitlements import TERMS, Entitlements
from tests.faults.harm import fetch
from tests.stack import Stack, eventually, fresh

GRANT = """
  INSERT INTO entitlement (student_id, product_id, expires_at) VALUES ($1, $2, $3)
  ON CONFLICT (student_id, product_id) DO UPDATE SET revoked_at = NULL, expires_at = $3
"""
REVOKE = "UPDATE entitlement SET revoked_at = now() WHERE student_id = $1 AND product_id = $2"


@pytest.fixture
async def told(stores: Stores) -> AsyncIterator[Entitlements]:
    """A process's entitlements, which hears of changes."""
    entitlements, stop = Entitlements(stores.postgres), asyncio.Event()
    listening = asyncio.create_task(entitlements.listen(stop))
    yield entitlements
    stop.set()
    await listening


async def owns(entitlements: Entitlements, student: str, *products: str) -> bool:
    return (await entitlements.owns(student, products)).value


async def test_a_grant_and_a_revocation_count_at_once(stack: Stack, stores: Stores, told: Entitlements) -> None:
    student, product, entitlements = fresh("s"), fresh("p"), told

    async def granted() -> bool:
        return await owns(entitlements, student, product)

    async def revoked() -> bool:
        return not await owns(entitlements, student, product)

    assert await revoked()
    await fetch(stack, GRANT, student, product, None)
    await eventually(granted, TERMS.fresh_seconds / 3)
    await fetch(stack, REVOKE, student, product)
    await eventually(revoked, TERMS.fresh_seconds / 3)
    await fetch(stack, GRANT, student, product, None)
    await eventually(granted, TERMS.fresh_seconds / 3)
    await fetch(stack, "DELETE FROM entitlement WHERE student_id = $1", student)
    await eventually(revoked, TERMS.fresh_seconds / 3)


async def test_what_was_told_while_nobody_listened_counts_once_somebody_does(
    stack: Stack, stores: Stores, told: Entitlements
) -> None:
    student, product = fresh("s"), fresh("p")
    assert not await owns(told, student, product)
    listeners = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^(SELECT|LISTEN)' AND wait_event = 'ClientRead'"
    )

    await fetch(stack, listeners + " AND pid <> pg_backend_pid() AND usename = current_user")
    await fetch(stack, GRANT, student, product, None)

    async def granted() -> bool:
        return await owns(told, student, product)

    await eventually(granted, TERMS.fresh_seconds - 10)


async def test_without_being_told_the_last_answer_stands_for_its_time(stack: Stack, stores: Stores) -> None:
    deaf, student, product = Entitlements(stores.postgres), fresh("s"), fresh("p")
    assert not await owns(deaf, student, product)

    await fetch(stack, GRANT, student, product, None)

    assert not await owns(deaf, student, product)
    assert TERMS.fresh_seconds <= 30
    assert await owns(Entitlements(stores.postgres), student, product)


async def test_what_is_known_to_have_changed_is_not_taken_for_true_while_postgresql_is_away(stack: Stack) -> None:
    student, product, name, stop = fresh("s"), fresh("p"), fresh("pool"), asyncio.Event()
    settings = {"application_name": name}
    async with asyncpg.create_pool(stack.read()["postgres"], min_size=1, command_timeout=2, server_settings=settings) as pool:
        await fetch(stack, GRANT, student, product, None)
        entitlements = Entitlements(pool)
        listening = asyncio.create_task(entitlements.listen(stop))

        async def listens() -> bool:
            looks = "SELECT FROM pg_stat_activity WHERE application_name = $1 AND query = 'SELECT'"
            return bool(await fetch(stack, looks, name))

        await eventually(listens)
        assert await owns(entitlements, student, product)
        await fetch(stack, REVOKE, student, product)

        async def after() -> str | None:
            try:
                kept = await entitlements.owns(student, [product])
            except TimeoutError:
                return "nobody can say"
            return None if kept.stale_seconds is None else f"a stale {kept.value}"

        locker = await asyncpg.connect(stack.read()["postgres"])
        try:
            async with locker.transaction():
                await locker.execute("LOCK TABLE entitlement")
                said = await eventually(after)
        finally:
            await locker.close()
            stop.set()
            await listening

    assert said == "nobody can say"


async def test_one_of_several_products_is_enough_and_what_has_expired_is_not_owned(stack: Stack, stores: Stores) -> None:
    student, one, other, old = fresh("s"), fresh("p"), fresh("p"), fresh("p")
    await fetch(stack, GRANT, student, one, None)
    await fetch(
        stack, "INSERT INTO entitlement (student_id, product_id, expires_at) VALUES ($1, $2, now() - interval '1 s')", student, old
    )
    entitlements = Entitlements(stores.postgres)

    assert await owns(entitlements, student, other, one)
    assert not await owns(entitlements, student, other, old)
    assert not await owns(entitlements, student)


async def test_what_is_owned_until_a_moment_is_not_owned_after_it_though_nobody_asks_again(stack: Stack, stores: Stores) -> None:
    student, product, entitlements = fresh("s"), fresh("p"), Entitlements(stores.postgres)
    await fetch(
        stack,
        "INSERT INTO entitlement (student_id, product_id, expires_at) VALUES ($1, $2, now() + interval '2 s')",
        *(student, product),
    )
    assert await owns(entitlements, student, product)

    async def over() -> bool:
        return not await owns(entitlements, student, product)

    await eventually(over, 10)

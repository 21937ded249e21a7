"""Lectures of a running stack: put there, sold, owned and taken back."""

from pathlib import Path
from typing import Any

import asyncpg

from ops.lecture import import_lecture
from ops.sample import SAMPLE_LECTURE
from tests.flows.sitting import Student, good
from tests.stack import Stack

LINK_SECONDS = 1800
"""How long a link of a stack is good at least, as `servers/settings.py` says."""


async def add_lecture(stack: Stack, lecture: str, *products: str, **fields: Any) -> None:
    """Put a lecture of the sample's media there, which these products open; without any it is free."""
    if not (stack.home / "data" / "media" / "sample-1").is_dir():
        import_lecture(stack.home, SAMPLE_LECTURE)
    captions = [
        {"language": "en", "label": "English", "file": "captions/en.vtt"},
        {"language": "uz", "label": "O‘zbekcha", "file": "captions/uz.vtt"},
    ]
    whole = {"title": "A lecture", "durationSeconds": 16, "folder": "sample-1", "captions": captions, **fields}
    async with Student(stack, roles=["admin"]) as admin:
        good(await admin.http.put(f"/api/v1/admin/lectures/{lecture}", json=whole))
    for product in products:
        await execute(stack, "INSERT INTO product (id, title, amount, currency) VALUES ($1, 'A product', 100, 'USD')", product)
        await execute(stack, "INSERT INTO product_opens VALUES ($1, 'LECTURE', $2)", product, lecture)


async def own(stack: Stack, student: str, product: str, until: str = "infinity", revoked: str | None = None) -> None:
    """Have a student own a product: until then, unless it was taken back."""
    await execute(
        stack,
        """
        INSERT INTO entitlement (student_id, product_id, expires_at, revoked_at)
        VALUES ($1, $2, now() + $3::text::interval, now() + $4::text::interval)
        ON CONFLICT (student_id, product_id) DO UPDATE SET expires_at = excluded.expires_at, revoked_at = excluded.revoked_at
        """,
        *(student, product, until, revoked),
    )


async def execute(stack: Stack, statement: str, *values: Any) -> None:
    """Change PostgreSQL with the owner's rights."""
    connection = await asyncpg.connect(stack.read()["postgres"])
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()


def media(stack: Stack) -> Path:
    """The folder that the stack's media origin serves."""
    return stack.home / "data" / "media"

"""Batches in one transaction: an item that PostgreSQL refuses fails by itself."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg

Item = TypeVar("Item")
Reply = TypeVar("Reply")

REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, UnicodeError)
"""What one item can do to its transaction by what it holds."""


async def each(
    items: Sequence[Item], together: Callable[[Sequence[Item]], Awaitable[Sequence[Reply | Exception]]]
) -> Sequence[Reply | Exception]:
    """Do all in one transaction; where one is refused, the halves of its batch go on without each other."""
    try:
        return await together(items) if items else []
    except REFUSED as refused:
        if len(items) == 1:
            return [refused]
        middle = len(items) // 2
        return [*await each(items[:middle], together), *await each(items[middle:], together)]

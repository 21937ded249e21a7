"""Reports as clients send them, and what PostgreSQL has of them."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import httpx

from tests.faults.harm import fetch
from tests.flows.sitting import Student
from tests.stack import Stack, eventually

LOST: dict[str, Any] = {"focusLost": {}}


async def report(student: Student, session: str, *signals: Mapping[str, Any], **more: Any) -> httpx.Response:
    """Report signals over REST."""
    return await student.http.post(f"/api/v1/sessions/{session}/signals", json={"signals": list(signals), **more})


async def counts(stack: Stack, session: str) -> dict[str, int]:
    """Return how often what was counted in a session."""
    rows = await fetch(stack, "SELECT kind, count FROM integrity_count WHERE session_id = $1", UUID(session))
    return {row["kind"]: row["count"] for row in rows}


async def counted(stack: Stack, session: str, wanted: Mapping[str, int], seconds: float = 20) -> None:
    """Wait until a session has exactly these counts."""
    found: list[dict[str, int]] = []

    async def there() -> bool:
        found[:] = [await counts(stack, session)]
        return found[0] == wanted

    try:
        await eventually(there, seconds)
    except AssertionError:
        assert found[0] == wanted


async def kept(stack: Stack, session: str) -> Sequence[Any]:
    """Return the signals that are kept of a session, the earliest first."""
    query = "SELECT * FROM integrity_signal WHERE session_id = $1 ORDER BY received_at, kind"
    return await fetch(stack, query, UUID(session))

"""A student at their desk: what a client of the REST API does, in as few words as a test needs."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

import httpx

from tests.stack import Stack, eventually, fresh

CANONICAL = {"choice": "c", "choices": "m", "number": "n", "text": "t"}


class Student:
    """One caller over REST; staff when they have a role."""

    def __init__(self, stack: Stack, name: str | None = None, *, cohorts: Sequence[str] = (), roles: Sequence[str] = ()) -> None:
        self.name = name or fresh("s")
        self.token = stack.token(self.name, cohorts=cohorts, roles=roles)
        self.http = stack.rest(self.token)
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(self.http)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    async def start(self, exam: str, key: str | None = None, **body: Any) -> httpx.Response:
        return await self.http.post(f"/api/v1/exams/{exam}/sessions", json=body, headers=_header(key))

    async def sit(self, exam: str, **body: Any) -> dict[str, Any]:
        """Start, and return the session."""
        return good(await self.start(exam, **body), 201)

    async def save(self, session: str, question: str, key: str | None = None, **answer: Any) -> httpx.Response:
        body = {"questionId": question, **answer}
        return await self.http.put(f"/api/v1/sessions/{session}/answers", json=body, headers=_header(key or uuid.uuid4().hex))

    async def batch(self, session: str, *items: Mapping[str, Any]) -> httpx.Response:
        """Save items; each gets a fresh key where it names none."""
        keyed = [{"idempotencyKey": uuid.uuid4().hex, **item} for item in items]
        return await self.http.post(f"/api/v1/sessions/{session}/answers:batchSave", json={"items": keyed})

    async def read(self, session: str) -> httpx.Response:
        return await self.http.get(f"/api/v1/sessions/{session}")

    async def submit(self, session: str, key: str | None = None) -> httpx.Response:
        return await self.http.post(f"/api/v1/sessions/{session}/submit", json={}, headers=_header(key or uuid.uuid4().hex))

    async def pause(self, session: str) -> httpx.Response:
        return await self.http.post(f"/api/v1/sessions/{session}/pause", json={})

    async def resume(self, session: str) -> httpx.Response:
        return await self.http.post(f"/api/v1/sessions/{session}/resume", json={})

    async def deadline(self, session: str) -> httpx.Response:
        return await self.http.get(f"/api/v1/sessions/{session}/deadline")

    async def adjust(self, session: str, seconds: int, reason: str = "a power cut", key: str | None = None) -> httpx.Response:
        """Give a session time; for staff."""
        path, body = f"/api/v1/admin/sessions/{session}:adjustDeadline", {"seconds": seconds, "reason": reason}
        return await self.http.post(path, json=body, headers=_header(key or uuid.uuid4().hex))

    async def accommodate(self, student: str, exam: str | None = None, **extra: Any) -> httpx.Response:
        """Give a student extra time; for staff."""
        body = {"studentId": student, **({"examId": exam} if exam else {}), **extra}
        return await self.http.put("/api/v1/admin/accommodations", json=body)

    async def schedule(self, exam: str, **body: Any) -> httpx.Response:
        """Move an exam's opening or close; for admins."""
        return await self.http.patch(f"/api/v1/admin/exams/{exam}/schedule", json=body)

    async def result(self, session: str) -> httpx.Response:
        return await self.http.get(f"/api/v1/sessions/{session}/result")

    async def board(self, exam: str, **query: Any) -> dict[str, Any]:
        return good(await self.http.get(f"/api/v1/exams/{exam}/leaderboard", params=query))

    async def outcome(self, session: str, seconds: float = 30) -> dict[str, Any]:
        """Wait for the result, and return it."""

        async def there() -> dict[str, Any] | None:
            reply = await self.result(session)
            if reply.status_code in (202, 429, 503):
                return None
            return good(reply)

        found: dict[str, Any] = await eventually(there, seconds)
        return found


def good(reply: httpx.Response, *statuses: int) -> dict[str, Any]:
    """Return the body of a reply that went well."""
    assert reply.status_code in (statuses or (200,)), f"{reply.status_code}: {reply.text}"
    body: dict[str, Any] = reply.json()
    return body


def refusal(reply: httpx.Response) -> tuple[int, str]:
    """Return the HTTP status and the stable reason of a refusal."""
    info = detail(reply, "ErrorInfo")
    assert info["domain"] == "finalbell"
    return reply.status_code, str(info["reason"])


def detail(reply: httpx.Response, kind: str) -> dict[str, Any]:
    """Return one of a refusal's details, empty when it has none of that kind."""
    assert reply.status_code >= 400, f"{reply.status_code}: {reply.text}"
    return next((one for one in reply.json()["details"] if one["@type"].endswith(f"google.rpc.{kind}")), {})


def wrong_fields(reply: httpx.Response) -> list[str]:
    """Return the paths of the fields that a refusal names."""
    return [violation["field"] for violation in detail(reply, "BadRequest").get("fieldViolations", [])]


def answers(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved answers of a session by question, as (field, value)."""
    return {
        saved["questionId"]: next((kind, saved[kind]) for kind in (*CANONICAL, "cleared") if kind in saved)
        for saved in session["answers"]
    }


def canonical(given: Mapping[str, tuple[str, Any]]) -> str:
    """Return the SHA-256 of answers in their canonical encoding: RFC 8785 of question id to `tag:value`."""
    packed = {}
    for question, (kind, value) in given.items():
        if kind != "cleared":
            packed[question] = f"{CANONICAL[kind]}:{','.join(sorted(value['ids'])) if kind == 'choices' else value}"
    encoded = "{" + ",".join(f"{_jcs(question)}:{_jcs(packed[question])}" for question in sorted(packed)) + "}"
    return hashlib.sha256(encoded.encode()).hexdigest()


def _jcs(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _header(key: str | None) -> dict[str, str]:
    return {"idempotency-key": key} if key else {}

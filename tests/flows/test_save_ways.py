"""A save as REST means the same whichever way it takes: past the gateway's transcoder, or through it."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.flows.sitting import Student, good
from tests.stack import Stack

WAYS = {"past": "application/json", "through": "application/json; charset=utf-8"}
TIMED = {"savedAt", "endsAt", "version", "serverTime"}

BODIES: list[bytes] = [
    *(
        json.dumps(body).encode()
        for body in (
            {"questionId": "q1", "choice": "A"},
            {"questionId": "q1", "choice": "A", "clientSeq": 7, "clientTs": "2026-11-25T10:00:00.123Z"},
            {"questionId": "q1", "choice": "A", "clientSeq": "7"},
            {"questionId": "q1", "choice": "A", "clientSeq": 7.0},
            {"questionId": "q1", "choice": "A", "clientTs": "2026-11-25T10:00:00Z"},
            {"questionId": "q1", "choice": "A", "clientTs": "2026-11-25T10:00:00.123456789Z"},
            {"questionId": "q1", "choice": "A", "clientTs": "2026-11-25T12:00:00+02:00"},
            {"questionId": "q1", "choice": None, "cleared": True},
            {"questionId": "q1", "cleared": True},
            {"questionId": "q1", "cleared": False},
            {"question_id": "q1", "choice": "A", "client_seq": 3},
            {"questionId": "q1", "choice": "A", "newField": {"of": ["a", "newer", "app"]}},
            {"questionId": "q1", "choice": "Z"},
            {"questionId": "nobody", "choice": "A"},
            {"questionId": "no such id", "choice": "A"},
            {"questionId": "q1", "text": "a choice is wanted"},
            {"questionId": "q1"},
            {"questionId": "q1", "choice": ""},
            {"questionId": "q1", "choice": "A", "clientSeq": 0},
            {"questionId": "q1", "choice": "A", "clientSeq": -1},
            {"questionId": "q1", "choice": "A", "clientSeq": 2**32},
            {"questionId": "q1", "choice": "A", "clientTs": "yesterday"},
            {"questionId": "q1", "choice": "A", "clientTs": "2026-13-25T10:00:00Z"},
            {"questionId": "q1", "choice": 5},
            {"questionId": ["q1"], "choice": "A"},
            {"questionId": "q1", "choices": {"ids": ["A"]}},
            {"questionId": "q2", "choices": {"ids": ["B", "A"]}},
            {"questionId": "q3", "number": "3.50"},
            {"questionId": "q3", "number": "a lot"},
            {"questionId": "q4", "text": "Ankara \u0130 \U0001f514"},
            {"sessionId": "01999999-0000-7000-8000-000000000001", "questionId": "q1", "choice": "A"},
            {"questionId": "q1", "choice": "A", "idempotencyKey": "another-key-than-the-header"},
            {},
        )
    ),
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"questionId":"q1","choice":"\xff"}',
    b'{"questionId":"q1","choice":"\\ud800"}',
    b'{"questionId":"q1","choice":"A"} x',
    b'\xef\xbb\xbf{"questionId":"q1","choice":"A"}',
]


@pytest.fixture
async def sessions(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> AsyncIterator[dict[str, tuple[Student, str]]]:
    """Two students with a session each: one's saves go past the transcoder, the other's through it."""
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as one, Student(stack) as other:
        yield {
            "past": (one, (await one.sit(exam_id))["sessionId"]),
            "through": (other, (await other.sit(exam_id))["sessionId"]),
        }


async def save(student: Student, session: str, way: str, body: bytes, **headers: str) -> httpx.Response:
    headers = {"content-type": WAYS[way], "idempotency-key": uuid.uuid4().hex, **headers}
    return await student.http.put(f"/api/v1/sessions/{session}/answers", content=body, headers=headers)


def said(reply: httpx.Response) -> Any:
    """What a reply means: its shape and values, but for times and for how a refusal words it."""
    body = reply.json()
    if reply.status_code == 200:
        return {name: name if name in TIMED else value for name, value in body.items()}
    assert isinstance(body["message"], str)
    reasons = [detail["reason"] for detail in body["details"] if "reason" in detail]
    return body["code"], reasons, reply.headers.get("retry-after")


@pytest.mark.parametrize("body", BODIES, ids=[body[:70].decode(errors="replace") for body in BODIES])
async def test_both_ways_answer_alike(sessions: dict[str, tuple[Student, str]], body: bytes) -> None:
    past, through = [await save(*sessions[way], way, body) for way in WAYS]

    assert (past.status_code, said(past)) == (through.status_code, said(through))
    kept = [good(await student.read(session))["answers"] for student, session in sessions.values()]
    assert [{**saved, "savedAt": ""} for saved in kept[0]] == [{**saved, "savedAt": ""} for saved in kept[1]]


async def test_a_key_that_went_one_way_replays_the_other(sessions: dict[str, tuple[Student, str]]) -> None:
    student, session = sessions["past"]
    body, key = b'{"questionId":"q1","choice":"B","clientSeq":1}', uuid.uuid4().hex

    first = await save(student, session, "past", body, **{"idempotency-key": key})
    again = await save(student, session, "through", body, **{"idempotency-key": key})
    other = await save(student, session, "through", b'{"questionId":"q1","choice":"C"}', **{"idempotency-key": key})

    assert first.json() == again.json()
    assert (other.status_code, said(other)[1]) == (409, ["IDEMPOTENCY_KEY_REUSED"])


async def test_a_superseded_save_shows_the_current_answer_either_way(sessions: dict[str, tuple[Student, str]]) -> None:
    replies = []
    for way, (student, session) in sessions.items():
        await save(student, session, way, b'{"questionId":"q1","choice":"B","clientSeq":9}')
        replies.append((await save(student, session, way, b'{"questionId":"q1","choice":"A","clientSeq":3}')).json())

    past, through = ({**reply, "current": {**reply["current"], "savedAt": ""}, "savedAt": "", "endsAt": ""} for reply in replies)
    assert past == through
    assert (past["saved"], past["superseded"], past["current"]["choice"]) == (False, True, "B")


@pytest.mark.parametrize("headers", [{"authorization": ""}, {"idempotency-key": "short"}])
async def test_a_header_that_is_wrong_is_refused_alike(sessions: dict[str, tuple[Student, str]], headers: dict[str, str]) -> None:
    replies = [await save(*sessions[way], way, b'{"questionId":"q1","choice":"A"}', **headers) for way in WAYS]

    assert replies[0].status_code in (400, 401)
    assert said(replies[0]) == said(replies[1])


async def test_nobody_elses_session_is_there_either_way(sessions: dict[str, tuple[Student, str]]) -> None:
    (one, _), (_, foreign) = sessions["past"], sessions["through"]

    replies = [await save(one, foreign, way, b'{"questionId":"q1","choice":"A"}') for way in WAYS]

    assert [(reply.status_code, said(reply)[1]) for reply in replies] == [(404, ["SESSION_NOT_FOUND"])] * 2

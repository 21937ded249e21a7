"""Content stays up when everything else is down, and for what it knows when PostgreSQL is away too (RELIABILITY I26)."""

import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc.aio
import httpx
import pytest
from finalbell.v1 import content_pb2, session_pb2

from ops.home import Home
from tests.faults.harm import another, family, fetch, stopped
from tests.flows.sitting import Student, good, refusal
from tests.flows.transports import Native
from tests.stack import Stack, eventually, fresh, running

STALE = "x-finalbell-stale"
OTHERS = ("redis", "nats", "session", "snapshots", "bell", "scoring", "scoring-worker", "leaderboard", "admin")
"""Everything but content, its gateway and PostgreSQL."""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack whose processes stay dead for as long as a test wants."""
    with running() as stack:
        yield stack


@contextmanager
def dead(stack: Stack, *units: str) -> Iterator[None]:
    """Kill processes as a power cut would, and let nobody start them again until the end."""
    supervisor = Home(stack.home).holder()
    assert supervisor is not None
    os.kill(supervisor, signal.SIGSTOP)
    try:
        for pid in [pid for unit in units for pid in family(stack.pid(unit))]:
            with suppress(ProcessLookupError):  # what a server had started may have ended by itself
                os.kill(pid, signal.SIGKILL)
        yield
    finally:
        os.kill(supervisor, signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class Shelf:
    """What there is to read, and who has read it once."""

    exam: str
    bank: str
    sold: str
    product: str
    student: Student

    def urls(self) -> Mapping[str, tuple[str, str, Any]]:
        """Every endpoint of content: verb, path, body."""
        gets = {
            "ListExams": "/api/v1/exams?pageSize=200",
            "GetExam": f"/api/v1/exams/{self.exam}",
            "GetPaper": f"/api/v1/exams/{self.exam}/paper",
            "GetSealedPaper": f"/api/v1/exams/{self.exam}/sealed-papers/1",
            "GetExplanation": f"/api/v1/exams/{self.exam}/questions/q1/explanation",
            "ListBanks": "/api/v1/banks?pageSize=200",
            "ListQuestions": f"/api/v1/questions?bankId={self.bank}",
            "ListQuestions, bought": f"/api/v1/questions?bankId={self.sold}",
            "GetSolution": f"/api/v1/banks/{self.bank}/questions/p1/solution",
        }
        found: dict[str, tuple[str, str, Any]] = {name: ("GET", path, None) for name, path in gets.items()}
        return {**found, "CheckAnswer": ("POST", f"/api/v1/banks/{self.bank}/questions/p1:check", {"choice": "B"})}


@pytest.fixture
async def shelf(stack: Stack, small_exam: dict[str, Any], small_bank: dict[str, Any], exam_id: str) -> AsyncIterator[Shelf]:
    """An exam that a student has sat and bought, a bank that is free, and one that they have bought."""
    bank, sold, product = fresh("b"), fresh("b"), fresh("p")
    await fetch(stack, "INSERT INTO product (id, title, amount, currency) VALUES ($1, 'A course', 100, 'USD')", product)
    await fetch(stack, "INSERT INTO product_opens VALUES ($1, 'BANK', $2)", product, sold)
    await stack.import_exam(small_exam, exam_id, productId=product)
    for name in (bank, sold):
        await stack.import_bank(small_bank, name)
    async with Student(stack) as student:
        await fetch(stack, "INSERT INTO entitlement (student_id, product_id) VALUES ($1, $2)", student.name, product)
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.submit(session), 200, 202)
        await student.outcome(session)
        found = Shelf(exam_id, bank, sold, product, student)

        async def all_there() -> bool:
            return {reply.status_code for reply in (await read(found)).values()} == {200}

        await eventually(all_there)
        yield found


async def read(
    shelf: Shelf, student: Student | None = None, headers: Mapping[str, Mapping[str, str]] = {}
) -> dict[str, httpx.Response]:
    """Read everything."""
    http = (student or shelf.student).http
    return {
        name: await http.request(verb, path, json=body, headers=headers.get(name, {}))
        for name, (verb, path, body) in shelf.urls().items()
    }


async def test_with_everything_else_killed_all_of_content_answers(stack: Stack, shelf: Shelf) -> None:
    before = await read(shelf)
    async with Student(stack) as newcomer:
        with dead(stack, *OTHERS):
            during = await read(shelf)
            newcomers = await read(shelf, newcomer)

    assert {name: reply.status_code for name, reply in during.items()} == dict.fromkeys(shelf.urls(), 200)
    assert all(reply.content == before[name].content for name, reply in during.items())
    assert not any(STALE in reply.headers for reply in (*during.values(), *newcomers.values()))
    refused = {name: refusal(reply)[1] for name, reply in newcomers.items() if reply.status_code != 200}
    assert refused == {
        "GetPaper": "SESSION_REQUIRED",
        "GetExplanation": "SESSION_REQUIRED",
        "ListQuestions, bought": "ENTITLEMENT_REQUIRED",
    }


async def test_with_postgresql_killed_too_what_was_read_before_still_answers_marked_stale(stack: Stack, shelf: Shelf) -> None:
    before = await read(shelf)
    tags = {name: {"if-none-match": reply.headers["etag"]} for name, reply in before.items() if "etag" in reply.headers}
    async with Student(stack) as newcomer:
        with dead(stack, *OTHERS, "postgres"):

            async def all_stale() -> Any:
                replies = await read(shelf)
                marked = {name for name, reply in replies.items() if STALE in reply.headers}
                return replies if marked == shelf.urls().keys() - {"GetSealedPaper"} else None

            during = await eventually(all_stale)
            unchanged = await read(shelf, headers=tags)
            newcomers = await read(shelf, newcomer)
            unread = await shelf.student.http.get(f"/api/v1/exams/{fresh('no')}")

        async def fresh_again() -> bool:
            replies = await read(shelf)
            return all(reply.status_code == 200 and STALE not in reply.headers for reply in replies.values())

        await eventually(fresh_again, 60)

    assert {name: reply.status_code for name, reply in during.items()} == dict.fromkeys(shelf.urls(), 200)
    assert all(reply.content == before[name].content for name, reply in during.items())
    assert all(int(reply.headers[STALE]) >= 0 for name, reply in during.items() if name != "GetSealedPaper")
    assert {name: reply.status_code for name, reply in unchanged.items()} == {
        name: 304 if name in tags else 200 for name in shelf.urls()
    }
    unknown = {name: reply for name, reply in newcomers.items() if reply.status_code != 200}
    assert unknown.keys() == {"GetPaper", "GetExplanation", "ListQuestions, bought"}
    for reply in (*unknown.values(), unread):
        assert refusal(reply) == (503, "STORE_UNAVAILABLE")
        assert "retry-after" in reply.headers


async def test_a_content_service_that_starts_while_postgresql_is_away_says_so_and_answers_once_it_is_back(
    stack: Stack, shelf: Shelf
) -> None:
    with ExitStack() as started:
        with dead(stack, "postgres"):
            address, _ = started.enter_context(another(stack, "content"))
            channel = grpc.aio.insecure_channel(address)
            content, request = Native(channel, shelf.student.token), content_pb2.GetExamRequest(exam_id=shelf.exam)

            async def listens() -> Any:
                reply = await content.call("GetExam", request)
                return reply if reply.status else None  # gRPC's own refusal has none

            away = await eventually(listens)

        async def answers() -> bool:
            return (await content.call("GetExam", request)).code == "OK"

        await eventually(answers, 60)
        await channel.close()

    assert (away.code, away.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    assert away.retry_ms


async def test_a_session_service_that_starts_while_postgresql_is_away_saves_answers(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        save = session_pb2.SaveAnswerRequest(session_id=session, question_id="q1", choice="B")
        with dead(stack, "postgres"), another(stack, "session", REST="") as (address, _):
            async with grpc.aio.insecure_channel(address) as channel:
                native = Native(channel, student.token)

                async def saved() -> bool:
                    return (await native.call("SaveAnswer", save, key="a-key-of-one-save")).code == "OK"

                await eventually(saved)


async def test_with_postgresql_frozen_nobody_waits_for_it_who_has_read_before(stack: Stack, shelf: Shelf) -> None:
    before = await read(shelf)

    with stopped(stack, "postgres"):

        async def all_stale() -> Any:
            replies = await read(shelf)
            marked = {name for name, reply in replies.items() if STALE in reply.headers}
            return replies if marked >= {"GetExam", "GetPaper", "ListQuestions"} else None

        during = await eventually(all_stale)

    assert {name: reply.status_code for name, reply in during.items()} == dict.fromkeys(shelf.urls(), 200)
    assert all(reply.content == before[name].content for name, reply in during.items())


async def test_a_running_session_goes_on_without_postgresql_and_its_key_with_it(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = await student.sit(exam_id)
        with dead(stack, "postgres"):
            good(await student.save(session["sessionId"], "q1", choice="B"))
            back = good(await student.read(session["sessionId"]))

    assert back["sealedPaperKey"] == session["sealedPaperKey"]

"""Watching a board: a frame at once and when it changes, one's own place, limits, and an end that asks to come back."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest
from finalbell.v1 import leaderboard_pb2 as pb
from finalbell.v1.leaderboard_pb2_grpc import LeaderboardServiceStub

from tests.flows.sitting import Student, good, refusal
from tests.stack import Stack, bearer, eventually, fresh, running

WATCH_SECONDS = 30.0
RIGHT: list[tuple[str, dict[str, Any]]] = [("q1", {"choice": "B"}), ("q2", {"choices": {"ids": ["A", "C"]}})]


class Watched:
    """What a watcher has been told, newest last."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.own: list[dict[str, Any]] = []
        self.ended: dict[str, Any] | None = None
        self.retry_ms = 0
        self.over = False

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(WATCH_SECONDS):
            while not holds():
                await asyncio.sleep(0.02)

    def take(self, event: str, data: dict[str, Any]) -> None:
        if event == "board":
            self.frames.append(data)
        elif event == "me":
            self.own.append(data)
        else:
            assert event == "reconnect"
            self.ended = data


async def by_sse(client: httpx.AsyncClient, path: str, watched: Watched) -> None:
    async with client.stream("GET", path, timeout=60) as reply:
        assert reply.status_code == 200, await reply.aread()
        assert reply.headers["content-type"] == "text/event-stream"
        event = ""
        async for line in reply.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "retry":
                watched.retry_ms = int(value)
            elif name == "event":
                event = value
            elif name == "data":
                watched.take(event, json.loads(value))
    watched.over = True


async def by_grpc(stack: Stack, token: str | None, request: pb.WatchLeaderboardRequest, watched: Watched) -> None:
    from google.protobuf.json_format import MessageToDict

    async with stack.channel() as channel:
        async for message in LeaderboardServiceStub(channel).WatchLeaderboard(request, metadata=bearer(token) if token else ()):
            watched.retry_ms = watched.retry_ms or message.reconnect_after_ms
            for event in ("board", "me", "reconnect"):
                if message.HasField(event):
                    watched.take(event, MessageToDict(getattr(message, event), always_print_fields_with_no_presence=True))
    watched.over = True


@asynccontextmanager
async def watching(stack: Stack, exam: str, way: str, token: str | None = None, **query: Any) -> AsyncIterator[Watched]:
    """Watch a board beside the test, by SSE or gRPC."""
    watched = Watched()
    async with stack.rest(token) as client:
        if way == "SSE":
            asked = "&".join(f"{name}={value}" for name, value in query.items())
            task = asyncio.create_task(by_sse(client, f"/api/v1/exams/{exam}/leaderboard:watch?{asked}", watched))
        else:
            task = asyncio.create_task(by_grpc(stack, token, pb.WatchLeaderboardRequest(exam_id=exam, **query), watched))
        try:
            yield watched
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def score(stack: Stack, exam: str, right: int, *, alias: str, cohorts: tuple[str, ...] = (), name: str | None = None) -> str:
    """Have a student hand in with so many right answers of two, and wait for the score; returns who it was."""
    async with Student(stack, name, cohorts=cohorts) as student:
        session = (await student.sit(exam, alias=alias))["sessionId"]
        for question, answer in RIGHT[:right]:
            good(await student.save(session, question, **answer))
        await student.submit(session)
        await student.outcome(session)
        return student.name


@pytest.mark.parametrize("way", ["SSE", "gRPC"])
async def test_a_watcher_sees_the_board_at_once_and_each_change_of_it(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, way: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with watching(stack, exam_id, way, stack.token()) as watched:
        await watched.until(lambda: watched.frames and not watched.frames[-1]["rebuilding"])
        assert watched.frames[-1]["entries"] == []

        await score(stack, exam_id, 1, alias="Ada")
        await watched.until(lambda: watched.frames[-1]["total"] == 1)

        assert [entry["alias"] for entry in watched.frames[-1]["entries"]] == ["Ada"]
        assert "studentId" not in watched.frames[-1]["entries"][0]
        assert 0 < watched.retry_ms < 5_000
        assert watched.own == []


@pytest.mark.parametrize("way", ["SSE", "gRPC"])
@pytest.mark.parametrize("tie_break", ["NONE", "DURATION"])
async def test_a_watcher_hears_where_they_stand_and_when_that_changes(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, way: str, tie_break: str
) -> None:
    await stack.import_exam(small_exam, exam_id, tieBreak=tie_break, maxAttempts=2)
    ada = await score(stack, exam_id, 0, alias="Ada")
    async with watching(stack, exam_id, way, stack.token(ada), top=1) as watched:
        await watched.until(lambda: watched.own)
        assert (watched.own[0]["place"]["rank"], watched.own[0]["row"], watched.own[0]["percentile"]) == (1, 0, 50)

        await score(stack, exam_id, 1, alias="Bob")
        await watched.until(lambda: watched.own[-1]["place"]["rank"] == 2)

        assert "row" not in watched.own[-1]
        assert watched.own[-1]["percentile"] == 25
        assert watched.own[-1]["place"]["alias"] == "Ada"


async def test_staff_see_ids_and_students_their_cohorts_board_alone(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    ada = await score(stack, exam_id, 1, alias="Ada", cohorts=("north",))
    await score(stack, exam_id, 0, alias="Bob", cohorts=("south",))
    async with AsyncExitStack() as entered:
        north = await entered.enter_async_context(watching(stack, exam_id, "SSE", stack.token(cohorts=["north"]), cohort="north"))
        staff = await entered.enter_async_context(watching(stack, exam_id, "SSE", stack.token(roles=["proctor"])))
        await north.until(lambda: north.frames and staff.frames)

        assert [entry["alias"] for entry in north.frames[-1]["entries"]] == ["Ada"]
        assert [entry["alias"] for entry in staff.frames[-1]["entries"]] == ["Ada", "Bob"]
        assert staff.frames[-1]["entries"][0]["studentId"] == ada

        student = await entered.enter_async_context(watching(stack, exam_id, "SSE", stack.token()))
        await student.until(lambda: student.frames)
        assert [entry["alias"] for entry in student.frames[-1]["entries"]] == ["Ada", "Bob"]
        assert "studentId" not in json.dumps(student.frames), "what staff were sent before is not what a student is sent"

    async with stack.rest(stack.token(cohorts=["north"])) as student:
        reply = await student.get(f"/api/v1/exams/{exam_id}/leaderboard:watch?cohort=south")
        assert refusal(reply) == (403, "COHORT_FORBIDDEN")


async def test_a_board_whose_scores_are_withheld_is_empty_to_students_until_they_are_released(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, release__score="MANUAL")
    async with Student(stack) as student:
        session = (await student.sit(exam_id, alias="Ada"))["sessionId"]
        await student.submit(session)
        await student.outcome(session)
        async with watching(stack, exam_id, "SSE", student.token) as watched, Student(stack, roles=["admin"]) as admin:
            await watched.until(lambda: watched.frames)
            before = watched.frames[-1]

            good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:release", json={}))
            await watched.until(lambda: watched.frames[-1]["total"] == 1 and watched.own)

    assert (before["total"], before["entries"]) == (0, [])
    assert watched.own[-1]["place"]["rank"] == 1


@pytest.mark.parametrize("way", ["SSE", "gRPC"])
async def test_a_public_board_needs_no_token_and_no_other_board_tells_strangers_anything(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, way: str
) -> None:
    await stack.import_exam(small_exam, exam_id, board__public=True)
    await score(stack, exam_id, 1, alias="Ada")
    async with watching(stack, exam_id, way) as watched:
        await watched.until(lambda: watched.frames and watched.frames[-1]["total"] == 1)
    private = exam_id[:-1] + "-"
    await stack.import_exam(small_exam, private)

    async with stack.rest() as nobody:
        read = good(await nobody.get(f"/api/v1/exams/{exam_id}/leaderboard"))
        refused = [
            await nobody.get(f"/api/v1/exams/{exam}/leaderboard{kind}")
            for exam in (private, "no-such-exam")
            for kind in ("", ":watch")
        ]

    assert [entry["alias"] for entry in read["entries"]] == ["Ada"]
    assert {refusal(reply) for reply in refused} == {(401, "TOKEN_INVALID")}
    assert len({reply.json()["message"] for reply in refused}) == 1


async def test_a_student_may_watch_a_few_boards_and_is_refused_one_more(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    token = stack.token()
    async with AsyncExitStack() as entered:
        streams = [await entered.enter_async_context(watching(stack, exam_id, "SSE", token)) for _ in range(5)]
        for watched in streams:
            await watched.until(lambda watched=watched: watched.frames)
        async with stack.rest(token) as student:
            refused = await student.get(f"/api/v1/exams/{exam_id}/leaderboard:watch")

    assert refusal(refused) == (429, "RATE_LIMITED")
    assert int(refused.headers["retry-after"]) > 0

    async def freed() -> bool:
        async with watching(stack, exam_id, "SSE", token) as watched:
            try:
                await watched.until(lambda: watched.frames or watched.over)
            except TimeoutError:
                return False
            return bool(watched.frames)

    assert await eventually(freed)


@pytest.fixture(scope="module")
def harmed() -> Iterator[Stack]:
    """A stack whose services may be ended."""
    with running() as stack:
        yield stack


@pytest.mark.parametrize("way", ["SSE", "gRPC"])
async def test_a_service_that_ends_asks_its_watchers_to_come_back_each_after_another_while(
    harmed: Stack, small_exam: dict[str, Any], exam_id: str, way: str
) -> None:
    await harmed.import_exam(small_exam, exam_id)
    async with AsyncExitStack() as entered:
        streams = [await entered.enter_async_context(watching(harmed, exam_id, way, harmed.token())) for _ in range(6)]
        for watched in streams:
            await watched.until(lambda watched=watched: watched.frames)

        before = harmed.pid("leaderboard")
        os.kill(before, signal.SIGTERM)
        for watched in streams:
            await watched.until(lambda watched=watched: watched.over)

        waits = {watched.ended["afterMs"] for watched in streams if watched.ended}
        assert len(waits) > 3
        assert all(0 < wait <= 5_000 for wait in waits)

    async def back() -> bool:
        async with harmed.rest(harmed.token()) as http:
            board = await http.get(f"/api/v1/exams/{exam_id}/leaderboard")
        return harmed.pid("leaderboard") != before and board.status_code == 200

    await eventually(back)


async def test_a_watcher_of_an_exam_that_does_not_exist_is_told_so(stack: Stack) -> None:
    async with stack.channel() as channel:
        request = pb.WatchLeaderboardRequest(exam_id="no-such-exam")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await LeaderboardServiceStub(channel).WatchLeaderboard(request, metadata=bearer(stack.token())).read()

    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("way", ["SSE", "gRPC"])
async def test_strangers_are_sent_away_from_a_board_that_is_no_longer_public_and_students_are_not(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, way: str
) -> None:
    await stack.import_exam(small_exam, exam_id, board__public=True)
    async with watching(stack, exam_id, way) as stranger, watching(stack, exam_id, way, stack.token()) as student:
        await stranger.until(lambda: stranger.frames and student.frames)
        await stack.import_exam(small_exam, exam_id, board__public=False)
        await stranger.until(lambda: stranger.over)

        await score(stack, exam_id, 1, alias="Ada")
        await student.until(lambda: student.frames[-1]["total"] == 1)

    assert stranger.ended
    assert {frame["total"] for frame in stranger.frames} == {0}


async def test_strangers_who_watch_a_series_are_sent_nothing_of_a_private_exam_that_begins_to_count(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    private, series = fresh("e"), fresh("s")
    await stack.import_exam(small_exam, exam_id, board__public=True)
    await stack.import_exam(small_exam, private, release__score="MANUAL")
    ada = await score(stack, exam_id, 1, alias="Ada")
    async with Student(stack, ada) as student, Student(stack, roles=["admin"]) as admin:
        session = (await student.sit(private))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        await student.submit(session)
        good(await admin.http.put(f"/api/v1/admin/series/{series}", json={"examIds": [exam_id, private]}))
        async with watching(stack, exam_id, "SSE", series=series) as stranger:
            await stranger.until(lambda: stranger.frames and stranger.frames[-1]["entries"])
            public = stranger.frames[-1]["entries"]
            good(await admin.http.post(f"/api/v1/admin/exams/{private}:release", json={}))
            await stranger.until(lambda: stranger.over)

    assert all(frame["entries"] in ([], public) for frame in stranger.frames)


async def test_who_watches_a_series_that_is_deleted_is_sent_away(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    series, token = fresh("s"), stack.token()
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack, roles=["admin"]) as admin:
        good(await admin.http.put(f"/api/v1/admin/series/{series}", json={"examIds": [exam_id]}))
        async with watching(stack, exam_id, "SSE", token, series=series) as watched:
            await watched.until(lambda: watched.frames)
            good(await admin.http.post(f"/api/v1/admin/series/{series}:delete", json={}))
            await watched.until(lambda: watched.over)

    assert watched.ended

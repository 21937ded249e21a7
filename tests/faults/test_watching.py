"""Those who watch a board get over the death of whoever serves it, and of what it reads."""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from tests.faults.harm import stopped
from tests.flows.test_watching import score
from tests.stack import Stack

WATCHERS = 40


class Coming:
    """A watcher that comes back as docs/clients.md says, and counts how often it had to."""

    def __init__(self, stack: Stack, exam: str) -> None:
        self._http = stack.rest(stack.token())
        self._path = f"/api/v1/exams/{exam}/leaderboard:watch"
        self.frames: list[dict[str, Any]] = []
        self.attempts = 0
        self._wait = 0.5

    async def run(self) -> None:
        failed = 0
        async with self._http as http:
            while True:
                self.attempts += 1
                try:
                    async with http.stream("GET", self._path, timeout=40) as reply:
                        if reply.status_code == 200:
                            failed = 0
                            await self._read(reply)
                        else:
                            failed += 1
                except httpx.HTTPError:
                    failed += 1
                again = min(self._wait * 1.5 ** (failed - 1), 30) * random.uniform(0.5, 1) if failed > 1 else self._wait
                await asyncio.sleep(again)

    async def _read(self, reply: httpx.Response) -> None:
        event = ""
        async for line in reply.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "retry":
                self._wait = int(value) / 1000
            elif name == "event":
                event = value
            elif name == "data" and event == "board":
                self.frames.append(json.loads(value))
            elif name == "data" and event == "reconnect":
                self._wait = json.loads(value)["afterMs"] / 1000


@asynccontextmanager
async def a_crowd(stack: Stack, exam: str) -> AsyncIterator[list[Coming]]:
    crowd = [Coming(stack, exam) for _ in range(WATCHERS)]
    tasks = [asyncio.create_task(one.run()) for one in crowd]
    try:
        yield crowd
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def all_see(crowd: list[Coming], total: int, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not all(one.frames and one.frames[-1]["total"] == total for one in crowd):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_all_watchers_are_back_after_the_end_of_their_service_and_see_what_came_meanwhile(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, how: signal.Signals
) -> None:
    await stack.import_exam(small_exam, exam_id)
    await score(stack, exam_id, 1, alias="Ada")
    async with a_crowd(stack, exam_id) as crowd:
        await all_see(crowd, 1)

        os.kill(stack.pid("leaderboard"), how)
        await score(stack, exam_id, 2, alias="Bob")
        await all_see(crowd, 2)

        assert [entry["alias"] for entry in crowd[0].frames[-1]["entries"]] == ["Bob", "Ada"]
        assert sum(one.attempts for one in crowd) < 8 * WATCHERS


@pytest.mark.parametrize("store", ["redis", "postgres"])
async def test_a_store_that_is_away_ends_no_watching_and_shows_nothing_wrong(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, store: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    await score(stack, exam_id, 1, alias="Ada")
    async with a_crowd(stack, exam_id) as crowd:
        await all_see(crowd, 1)

        with stopped(stack, store):
            await asyncio.sleep(3)
        await score(stack, exam_id, 2, alias="Bob")
        await all_see(crowd, 2)

        shown = [frame for one in crowd for frame in one.frames if not frame["rebuilding"]]
        assert {tuple(entry["alias"] for entry in frame["entries"]) for frame in shown} == {("Ada",), ("Bob", "Ada")}
        assert sum(one.attempts for one in crowd) == WATCHERS


async def test_a_board_that_is_deleted_under_its_watchers_is_whole_again_and_never_wrong(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    for right, alias in ((2, "Ada"), (1, "Bob")):
        await score(stack, exam_id, right, alias=alias)
    async with a_crowd(stack, exam_id) as crowd, Redis.from_url(stack.read()["redis"]) as redis:
        await all_see(crowd, 2)

        await redis.delete(f"lb:{{{exam_id}}}")
        await score(stack, exam_id, 0, alias="Cem")
        await all_see(crowd, 3)

        shown = [frame for one in crowd for frame in one.frames if not frame["rebuilding"]]
        aliases = {tuple(entry["alias"] for entry in frame["entries"]) for frame in shown}
        assert aliases <= {("Ada", "Bob"), ("Ada", "Bob", "Cem")}

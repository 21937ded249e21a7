"""What is swept after regrades goes on whatever goes wrong with one part of it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from servers.scoring import regrade
from servers.scoring.regrade import Regrading
from stores.records import Key, KeySet, Marking, Standing
from stores.revisions import Regraded

NOW = datetime.now(UTC)
STANDING = Standing("mock", "ada", "Ada", (), 7, 1)


class Stores:
    """What a sweep reads and writes: exams left behind, with keys unless they are called `broken`, and one changed standing."""

    def __init__(self, *behind: str) -> None:
        self.behind = behind
        self.regraded: list[str] = []
        self.looked_since: list[datetime] = []

    async def swept(self) -> Sequence[tuple[str, int, int]]:
        return [(exam, 1, 2) for exam in self.behind]

    async def read(self, exam: str, exam_version: int, key_version: int) -> KeySet | None:
        keys = (Key("q1", "single_choice", "", 1, '{"choice": "B"}'),)
        return None if exam == "broken" else KeySet(exam, exam_version, key_version, Marking(1, 0, 0, partial=False), keys)

    async def regrade(self, place: tuple[str, int, int], *_: object) -> Regraded:
        self.regraded.append(place[0])
        return Regraded(0, [], [])

    async def settled(self) -> datetime:
        return NOW

    async def changed(self, since: datetime, until: datetime, after: tuple[str, str], count: int) -> Sequence[Standing]:
        if after != ("", ""):
            return []
        self.looked_since.append(since)
        return [STANDING]


async def sweep(stores: Stores, failures: int) -> None:
    """Sweep until the boards were told once, after so many failures to tell them."""
    stop, left = asyncio.Event(), failures

    async def tell(_: Sequence[UUID], standings: Sequence[Standing]) -> None:
        nonlocal left
        if not standings:
            return
        left -= 1
        if left >= 0:
            raise ConnectionError("Redis is away")
        stop.set()

    sweeping = Regrading(*(cast("Any", stores),) * 5, tell)
    await asyncio.wait_for(sweeping.sweep(stop), 10)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regrade, "SWEEP_SECONDS", 0.01)


async def test_what_the_boards_could_not_be_told_is_told_again() -> None:
    stores = Stores()

    await sweep(stores, failures=1)

    assert len(stores.looked_since) == 2
    assert stores.looked_since[0] == stores.looked_since[1] < NOW


async def test_an_exam_that_cannot_be_swept_holds_up_no_other() -> None:
    stores = Stores("broken", "sound")

    await sweep(stores, failures=0)

    assert stores.regraded == ["sound"]

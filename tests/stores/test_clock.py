"""Redis's clock is the one that decides: what happens when it is set wrong, as told by another (RELIABILITY F30)."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from servers.session.bell import Bell
from servers.session.submits import Submits
from stores import keys
from stores.connect import Stores
from stores.dead_letters import DeadLetters
from stores.records import Deadline, SaveOutcome, SessionStatus
from stores.submit_log import SubmitLog
from tests.faults.harm import wrong_clock
from tests.stack import eventually
from tests.stores.test_generation import Worker, a_redis, a_worker, session

__all__ = ["session"]  # a fixture

HOUR = 3600


@dataclass
class Clocked:
    """A worker and a bell at a Redis whose clock can be set."""

    worker: Worker
    bell: Bell
    clock: Path

    async def set(self, seconds: int) -> None:
        """Set the clock so many seconds before (or, negative, behind) everybody else's, and wait until it shows that."""
        set_clock(self.clock, seconds)

        async def shown() -> bool:
            return abs(await self.worker.live.now_ms() / 1000 - time.time() - seconds) < 1

        await eventually(shown)

    async def status(self, which: UUID) -> SessionStatus:
        state = await self.worker.live.state(which)
        assert state is not None
        return state.status


def set_clock(clock: Path, seconds: int) -> None:
    """Write the file in one step: the server may read it at any moment."""
    (clock.parent / "new").write_text(f"{seconds:+d}s")
    (clock.parent / "new").replace(clock)


@pytest.fixture
async def clocked(stores: Stores, tmp_path: Path) -> AsyncIterator[Clocked]:
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    variables = wrong_clock(FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_NO_CACHE="1")
    with a_redis(**variables) as server:
        async with a_worker(stores, server.url) as worker:
            log = SubmitLog(stores.nats)
            submits = Submits(worker.live, log, worker.sessions, worker.deadlines, publish_wait_ms=150, crash_at="")
            bell = Bell(worker.live, worker.sessions, worker.deadlines, DeadLetters(stores.postgres), submits, log)
            await worker.live.beat()
            await worker.redis.delete(*(keys.hold_key(number) for number in range(keys.SHARDS)))  # of its own beginning
            yield Clocked(worker, bell, clock)
            await submits.drain()


def skew() -> float:
    return REGISTRY.get_sample_value("finalbell_clock_skew_seconds") or 0.0


async def test_a_redis_that_is_an_hour_fast_refuses_saves_and_hands_nobody_in(clocked: Clocked, session: tuple[UUID, str]) -> None:
    which, student = session
    before = await clocked.worker.save(which, student, "A", "key-number-1")
    await clocked.set(+HOUR)

    late = await clocked.worker.save(which, student, "B", "key-number-2")
    await clocked.bell.ring()
    while_wrong, alarm = await clocked.status(which), skew()
    await clocked.set(0)
    after = await clocked.worker.save(which, student, "C", "key-number-3")

    assert (before.outcome, late.outcome, after.outcome) == (SaveOutcome.SAVED, SaveOutcome.ENDED, SaveOutcome.SAVED)
    assert while_wrong is SessionStatus.IN_PROGRESS
    assert alarm == pytest.approx(HOUR, abs=5)
    assert late.now_ms > late.ends_ms


async def test_a_redis_that_is_an_hour_slow_gives_nobody_an_hour_that_the_bell_would_not_take_back(
    clocked: Clocked, session: tuple[UUID, str]
) -> None:
    which, student = session
    before = await clocked.worker.save(which, student, "A", "key-number-1")
    await clocked.worker.redis.hset(keys.session_key(which), "e", before.at_ms + 1)
    await clocked.set(-HOUR)

    during = await clocked.worker.save(which, student, "B", "key-number-2")
    await clocked.bell.ring()
    while_wrong, alarm = await clocked.status(which), skew()
    await clocked.set(+3)
    await clocked.bell.ring()
    still_wrong = await clocked.status(which)
    await clocked.set(0)

    assert during.now_ms >= before.at_ms  # its time stood still: it never goes back
    assert alarm == pytest.approx(-HOUR, abs=5)
    assert (while_wrong, still_wrong) == (SessionStatus.IN_PROGRESS, SessionStatus.IN_PROGRESS)


async def test_the_bell_rings_again_once_the_clocks_agree(clocked: Clocked, session: tuple[UUID, str]) -> None:
    which, student = session
    saved = await clocked.worker.save(which, student, "A", "key-number-1")
    await clocked.worker.live.move({which: Deadline(2, saved.at_ms - 10_000)})
    await clocked.set(+HOUR)
    await clocked.bell.ring()
    while_wrong = await clocked.status(which)
    await clocked.set(0)
    await clocked.bell.ring()

    assert while_wrong is SessionStatus.IN_PROGRESS
    assert await clocked.status(which) is SessionStatus.SUBMITTED


@pytest.mark.parametrize("step", [-HOUR, HOUR])
async def test_a_clock_that_is_stepped_takes_no_session_back_in_time(
    clocked: Clocked, session: tuple[UUID, str], step: int
) -> None:
    which, student = session
    moments = [(await clocked.worker.save(which, student, "C", "the-first-key")).at_ms]
    await clocked.worker.live.move({which: Deadline(2, 4_000_000_000_000)})
    for number, seconds in enumerate((step, 0, -step)):
        await clocked.set(seconds)
        moments.append((await clocked.worker.save(which, student, "AB"[number % 2], f"key-number-{number}")).at_ms)

    assert moments == sorted(moments)

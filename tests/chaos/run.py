"""One run of chaos: a stack of its own, load, faults, a drain, an audit."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from redis.asyncio import Redis

from ops.audit.command import check, shown
from tests.chaos.faults import Done, Fault, Harm
from tests.chaos.recorder import Recorder, Ways
from tests.chaos.students import LONG, SHORT, SHORT_SECONDS, Room, paper
from tests.stack import ROOT, Stack, running

DRAIN_SECONDS = 180.0


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    violations: int
    lines: Sequence[str]
    """The audit, for people."""

    calls: dict[str, int]
    faults: Sequence[Done]
    drained: float
    skipped: int
    """Acts that nobody began, since too many waited for answers."""

    history: Path
    problems: list[str] = field(default_factory=list)


def own_stack() -> AbstractContextManager[Stack]:
    """A stack that may be harmed, with two session and scoring workers, whose bell waits a short while after outages."""
    return running("--workers", "session=2", "--workers", "scoring-worker=2", FINALBELL_HOLD_SECONDS="5")


async def run(
    stack: Stack,
    faults: Sequence[tuple[float, Fault]],
    seed: int,
    rates: tuple[float, float],
    live: int,
    history: Path,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run a schedule of faults under load; rates are saves and submits a second."""
    small = json.loads((ROOT / "tests" / "small_exam.json").read_text())
    exam = paper(small)
    pauses = {"maxPauses": 2, "maxTotalSeconds": 6}
    await stack.import_exam(exam, LONG, durationSeconds=3600, tieBreak="SUBMITTED_AT")
    await stack.import_exam(exam, SHORT, durationSeconds=SHORT_SECONDS, tieBreak="DURATION", pause=pauses)
    recorder = Recorder(history)
    recorder.line("run", seed=seed, saves=rates[0], submits=rates[1], live=live)
    ways, stop = Ways(stack.gateway, recorder), asyncio.Event()
    room, harm = Room(stack, ways, exam, seed, live), Harm(stack, recorder, seed)
    try:
        await room.fill()
        say(f"{len(room.desks)} sessions are live")
        load = asyncio.ensure_future(room.load(stop, *rates))
        try:
            await harm.run(faults, say)
        finally:
            stop.set()
            await load
        await room.finish()
        await asyncio.gather(*(room.submit(desk) for desk in room.desks[: live // 4] if desk.exam == LONG))
        drained = await _drained(stack)
        say(f"drained in {drained:.1f} s")
        recorder.line("drained", at_ms=time.time() * 1000)
        chance = random.Random(seed)
        looked_at = chance.sample(room.submitted, min(300, len(room.submitted)))
        for start in range(0, len(looked_at), 30):
            await asyncio.gather(*(room.result(desk) for desk in looked_at[start : start + 30]))
        whole = [await room.board(one) for one in (LONG, SHORT)]
    finally:
        await ways.close()
        recorder.close()
    found = await asyncio.to_thread(check, stack.read()["postgres"], stack.read()["redis"], [LONG, SHORT], history)
    late = [d for d in harm.done if d.alone and d.recovered is not None and d.recovered > d.fault.within]
    problems = [f"{d.fault.shown} was over after {d.recovered:.1f} s, not {d.fault.within:g} s" for d in late]
    problems += [] if all(whole) else ["a board is still being rebuilt"]
    violations = sum(len(checked.violations) for checked in found)
    return Outcome(violations, shown(found), dict(recorder.calls), harm.done, drained, room.skipped, history, problems)


async def _drained(stack: Stack) -> float:
    """Wait until nothing is under way: every submit has its result, every save is in PostgreSQL, every bell has rung."""
    began, waits = time.monotonic(), ""
    while time.monotonic() - began < DRAIN_SECONDS:
        waits = await _waiting(stack)
        if not waits:
            return time.monotonic() - began
        await asyncio.sleep(0.5)
    raise TimeoutError(f"not drained in {DRAIN_SECONDS:g} s: {waits}")


async def _waiting(stack: Stack) -> str:
    connection = await asyncpg.connect(stack.read()["postgres"], timeout=5)
    try:
        open_ = await connection.fetchval(
            """SELECT count(*) FROM exam_session s WHERE exam_id = ANY ($1) AND (
                 s.status = 'SUBMITTED'
                 OR (s.status = 'IN_PROGRESS' AND s.ends_at < now() + interval '3 minutes' AND exam_id = $2)
                 OR s.deadline_applied < s.deadline_version)""",
            [LONG, SHORT],
            SHORT,
        )
    finally:
        await connection.close()
    async with Redis.from_url(stack.read()["redis"]) as redis:
        unwritten = sum([await redis.xlen(f"log:{{{shard:02d}}}") for shard in range(64)])
        unscored = sum([await redis.zcard(f"unscored:{{{shard:02d}}}") for shard in range(64)])
    return f"{open_} sessions, {unwritten} saves, {unscored} unscored" if open_ or unwritten or unscored else ""

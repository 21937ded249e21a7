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
from tests.chaos.faults import Done, Fault, Harm, Probes
from tests.chaos.recorder import Recorder, Ways
from tests.chaos.students import LONG, SHORT, SHORT_SECONDS, Room, paper
from tests.faults.harm import fetch, jetstream, metric
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
        last = Probes(stack)
        await last.prepare()
        await last.recovered("written")  # a publisher's loss is known from what comes after it
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
    signals = await _signals(stack)
    violations = sum(len(checked.violations) for checked in found) + len(signals.problems)
    known = f"signals: {room.signals:,} that students know were taken; {signals.shown}"
    lines = [*shown(found), known, *signals.problems]
    return Outcome(violations, lines, dict(recorder.calls), harm.done, drained, room.skipped, history, problems)


@dataclass(frozen=True, slots=True)
class _Signals:
    """What became of the signals that were published."""

    published: int
    written: int
    lost: int
    by_the_last: int
    """Those that the service's living process says it has published, and those of them that PostgreSQL knows of."""

    by_the_last_known: int

    @property
    def shown(self) -> str:
        return f"{self.published:,} published, {self.written:,} written, {self.lost:,} lost and counted"

    @property
    def problems(self) -> list[str]:
        """What is promised, and is not so: nothing is lost but what is counted, and nothing is counted but what is lost (I27)."""
        said = [] if self.published == self.written + self.lost else [f"signals do not add up: {self.shown}"]
        if self.by_the_last != self.by_the_last_known:
            said.append(f"of {self.by_the_last} signals that the service says it has published {self.by_the_last_known} are known")
        return said


async def _signals(stack: Stack) -> _Signals:
    """Count signals; none here is late, another's, or reported twice under one sequence."""
    (feed,) = await fetch(stack, "SELECT coalesce(sum(published), 0)::int AS published, sum(lost)::int AS lost FROM integrity_feed")
    (row,) = await fetch(stack, "SELECT sum(count)::int AS written FROM integrity_count WHERE kind IN ('FOCUS_LOST', 'PASTE')")
    (last,) = await fetch(stack, "SELECT published FROM integrity_feed ORDER BY seen_at DESC LIMIT 1")
    said = await metric(stack, "integrity", "finalbell_signals_published_total")
    return _Signals(feed["published"], row["written"], feed["lost"], round(said), last["published"])


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
    async with jetstream(stack) as stream:
        signals = (await stream.stream_info("SIGNALS")).state.messages
    waits = {"sessions": open_, "saves": unwritten, "unscored": unscored, "events of signals": signals}
    return ", ".join(f"{count} {name}" for name, count in waits.items() if count)

"""A stack where nothing happens by itself, with an exam and a session in every state: so that a row of bad input can be
sent there, and everything that the stores hold compared before and after."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, LiteralString, cast

import psycopg
from redis import Redis

from tests.faults.harm import stopped
from tests.flows.sitting import Student, good, refusal
from tests.flows.transports import TRANSPORTS
from tests.stack import ROOT, Stack, eventually, running

BACKGROUND = ("bell", "snapshots", "scoring-worker", "signal-worker")
PASSING = ("lease:", "beat:", "hold:", "r:")
"""Keys that come and go by themselves: leases, heartbeats, holds, restore tokens."""

SAVED_KEY, SUBMIT_KEY = "the-key-of-q1", "the-key-of-the-submit"


class Held:
    """All that the stores of a stack hold, read thousands of times: over connections that stay open, in a statement that is
    planned once."""

    def __init__(self, stack: Stack) -> None:
        self._redis = Redis.from_url(stack.read()["redis"])
        self._postgres = psycopg.connect(stack.read()["postgres"], autocommit=True, prepare_threshold=0)
        tables = sorted(name for (name,) in self._postgres.execute(TABLES))
        self._whole = " UNION ALL ".join(f"SELECT '{table}', ({ROWS.format(table)})" for table in tables)
        self._tables_at: tuple[str, dict[str, str]] = "", {}
        self._keys_at: tuple[int, dict[str, str]] = -1, {}

    def digest(self) -> dict[str, str]:
        """Return a digest of every table and of every key, but for those that live by themselves.

        What the servers themselves say was not written to since the last time is not read again.
        """
        return {**self._tables(), **self._keys()}

    def close(self) -> None:
        """Hang up."""
        self._redis.close()
        self._postgres.close()

    def _tables(self) -> dict[str, str]:
        """No table changes unless the log's end moves, which is read first: what is written meanwhile counts as later."""
        ((end,),) = self._postgres.execute("SELECT pg_current_wal_insert_lsn()::text")
        if end != self._tables_at[0]:
            read = self._postgres.execute(cast(LiteralString, self._whole))
            self._tables_at = end, {name: str(digest) for name, digest in read}
        return self._tables_at[1]

    def _keys(self) -> dict[str, str]:
        """No key changes unless the count of changes does, which is read first likewise."""
        changes = self._redis.info("persistence")["rdb_changes_since_last_save"]
        if changes != self._keys_at[0]:
            self._keys_at = changes, self._all_keys()
        return self._keys_at[1]

    def _all_keys(self) -> dict[str, str]:
        names = sorted(key for key in self._redis.scan_iter(count=10_000) if not key.decode().startswith(PASSING))
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.eval(CONTENT, 1, name)
        found = zip(names, pipeline.execute(), strict=True)
        return {f"redis {name.decode()}": sha256(repr(value).encode()).hexdigest() for name, value in found}


TABLES = """
  SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""
ROWS = "SELECT count(*) || ' ' || coalesce(md5(string_agg(row::text, chr(10) ORDER BY row::text)), '') FROM {} AS row"


@dataclass(slots=True)
class World:
    """What a row may name: `$live` in one stands for `names["live"]`."""

    stack: Stack
    held: Held
    names: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """Return the tables and keys in which two digests differ."""
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


@asynccontextmanager
async def quiet_world(small_exam: dict[str, Any]) -> AsyncIterator[World]:
    """Start a stack, fill it, and stop all that works in the background."""
    with (
        running(FINALBELL_STUDENT_CALLS_PER_SECOND="0", FINALBELL_RECONCILE_SECONDS="86400") as stack,
        ExitStack() as frozen,
        closing(Held(stack)) as held,
    ):
        world = World(stack, held)
        async with Student(stack, "wally") as student, Student(stack, "other") as other:
            await _exams(stack, small_exam)
            await _order(world, other)
            await _finished(world, student)
            for unit in BACKGROUND:
                frozen.enter_context(stopped(stack, unit))
            await _unfinished(world, student, other)
        world.tokens = {role: stack.token(role, roles=[role]) for role in ("admin", "proctor", "grader")}
        world.tokens |= {"wally": student.token, "other": other.token, "rita": stack.token("rita", cohorts=["red"])}
        yield world


ENDED = (*TRANSPORTS, "service")
"""A session past its end for each way in: the first submit of one rings its bell."""

PAUSES = {"pause": {"maxPauses": 1, "maxTotalSeconds": 600}}
EXAMS: dict[str, dict[str, Any]] = {
    "w-open": {**PAUSES},
    "w-paused": {**PAUSES},
    "w-resumed": {**PAUSES},
    "w-spare": {},
    "w-strict": {"maxAttempts": 1},
    "w-sold": {"productId": "mock-2026"},
    "w-roster": {"enrolment": "ROSTER"},
    "w-rung": {"durationSeconds": 5},
    **{f"w-ended-{way}": {"durationSeconds": 5} for way in ENDED},
    "w-waiting": {},
    "w-held": {"release": {"score": "MANUAL", "review": "IMMEDIATELY"}},
    "w-terse": {"release": {"score": "IMMEDIATELY", "review": "NONE"}},
}


async def _exams(stack: Stack, small: dict[str, Any]) -> None:
    now = datetime.now(UTC)
    windows = {"w-later": {"opensAt": _at(now + timedelta(hours=1))}, "w-closed": {"closesAt": _at(now + timedelta(seconds=4))}}
    for exam, settings in {**windows, **EXAMS}.items():  # the one that closes soon first: a closed one cannot be imported
        await stack.import_exam(small, exam, **settings)
    await stack.import_bank(json.loads((ROOT / "tests" / "small_bank.json").read_text()), "w-bank")


async def _order(world: World, other: Student) -> None:
    """Sell a course, and leave an order of it open."""
    course = {"productId": "w-course", "title": "A course", "amount": 2_500, "currency": "USD"}
    async with Student(world.stack, roles=["admin"]) as admin:
        good(await admin.http.post("/api/v1/admin/products:import", json={"products": [course]}))
    order = good(await other.http.post("/api/v1/payments/checkout", json={"productId": "w-course"}))
    world.names["order"] = str(order["paymentId"])


def _at(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


async def _finished(world: World, student: Student) -> None:
    """Sit exams to the end, each in its own way."""
    for name in ("strict", "held", "terse"):
        session = world.names[name] = (await student.sit(f"w-{name}"))["sessionId"]
        good(await student.save(session, "q1", key=SAVED_KEY, choice="B"))
        good(await student.submit(session, key=SUBMIT_KEY), 200, 202)
    world.names["rung"] = (await student.sit("w-rung"))["sessionId"]

    async def all_scored() -> bool:
        sessions = [(await student.read(session)).json() for name, session in world.names.items() if name != "order"]
        return all(session["status"] == "SCORED" for session in sessions)

    await eventually(all_scored, 40)

    async def closed() -> bool:
        return refusal(await student.start("w-closed"))[1] == "EXAM_CLOSED"

    await eventually(closed)


async def _unfinished(world: World, student: Student, other: Student) -> None:
    """Leave sessions in progress, paused, past their end, and waiting for a result."""
    live = world.names["live"] = (await student.sit("w-open"))["sessionId"]
    good(await student.save(live, "q1", key=SAVED_KEY, choice="B", clientSeq=5))
    world.names["theirs"] = (await other.sit("w-open"))["sessionId"]
    for name in ("spare", "paused", "resumed", "waiting"):
        session = world.names[name] = (await student.sit(f"w-{name}"))["sessionId"]
        good(await student.save(session, "q1", key=SAVED_KEY, choice="B"))
    for name in ("paused", "resumed"):
        good(await student.pause(world.names[name]))
    good(await student.resume(world.names["resumed"]))
    good(await student.submit(world.names["waiting"], key=SUBMIT_KEY), 202)
    for way in ENDED:
        ended = world.names[f"ended-{way}"] = (await student.sit(f"w-ended-{way}"))["sessionId"]
        good(await student.save(ended, "q1", key=SAVED_KEY, choice="B"))

    async def over() -> bool:
        return bool((await student.read(ended)).json()["remainingMs"] == 0)

    await eventually(over)


CONTENT = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' then
  local pairs_ = {}
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    pairs_[#pairs_ + 1] = all[i] .. '=' .. all[i + 1]
  end
  table.sort(pairs_)
  return pairs_
elseif kind == 'zset' then
  return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
elseif kind == 'stream' then
  return redis.call('XRANGE', KEYS[1], '-', '+')
elseif kind == 'set' then
  local members = redis.call('SMEMBERS', KEYS[1])
  table.sort(members)
  return members
elseif kind == 'string' then
  return redis.call('GET', KEYS[1])
end
return redis.error_reply('a key of a kind that the digest does not know: ' .. kind)
"""
"""Reads a key whole, in an order that does not depend on how the server keeps it."""

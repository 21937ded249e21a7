"""What is done to a stack, in an order that one seed decides, and how long each takes to be over."""

import asyncio
import os
import random
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import grpc.aio
import nats
from finalbell.v1 import content_pb2, integrity_pb2, leaderboard_pb2, scoring_pb2, session_pb2
from redis.asyncio import Redis

from tests.chaos.recorder import Recorder
from tests.chaos.students import LONG
from tests.faults.harm import family
from tests.stack import Stack

NEVER_SECONDS = 120.0
LEFT = integrity_pb2.Signal(focus_lost=integrity_pb2.FocusLost())


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault: its number in RELIABILITY B, what it hits, how, and when it has to be over."""

    number: str
    name: str
    unit: str
    within: float
    """Seconds after its end in which users have to be served again."""

    probe: str
    lasts: float = 0.0
    workers: str = "all"
    """Which of a unit's processes: one of them, or all."""

    loses: bool = False

    @property
    def shown(self) -> str:
        return f"{self.number} {self.name} {self.unit}".strip()


FAULTS: Sequence[Fault] = (
    Fault("F1", "kill", "session", 2, "save", workers="one"),
    Fault("F2", "kill", "session", 5, "save"),
    Fault("F3", "kill", "scoring-worker", 11, "score"),
    Fault("F4", "kill", "snapshots", 5, "snapshot"),
    Fault("F5", "kill", "bell", 10, "score"),
    Fault("F6", "kill", "redis", 10, "save"),
    Fault("F7", "wipe", "redis", 10, "save", loses=True),
    Fault("F9", "delete board", "redis", 10, "board"),
    Fault("F10", "kill", "nats", 10, "score"),
    Fault("F12", "delete stream", "nats", 20, "score"),
    Fault("F13", "kill", "postgres", 15, "start"),
    Fault("F16", "kill", "envoy", 2, "save"),
    Fault("F17", "freeze", "session", 3, "save", lasts=8, workers="one"),
    Fault("F18", "freeze", "scoring-worker", 10, "score", lasts=13, workers="one"),
    Fault("F19", "freeze", "snapshots", 5, "snapshot", lasts=12),
    Fault("F20", "freeze", "redis", 2, "save", lasts=5),
    Fault("F46", "kill", "scoring", 30, "result"),
    Fault("F46", "kill", "leaderboard", 30, "board"),
    Fault("F46", "kill", "content", 30, "content"),
    Fault("F46", "kill", "integrity", 30, "signal"),
    Fault("F46", "kill", "signal-worker", 30, "written"),
    Fault("F46", "freeze", "signal-worker", 30, "written", lasts=6),
    Fault("F46", "freeze", "nats", 30, "score", lasts=6),
    Fault("F46", "freeze", "postgres", 30, "start", lasts=6),
)


@dataclass(slots=True)
class Done:
    """One fault as it was: when by the clients' clock, and after how many seconds its users were served again."""

    fault: Fault
    at_ms: float
    until_ms: float = 0.0
    recovered: float | None = None
    alone: bool = True
    """Whether nothing else was broken until then."""


def schedule(seed: int, seconds: float, pauses: tuple[float, float] = (3, 20)) -> list[tuple[float, Fault]]:
    """Return faults with the seconds before each; every kind comes before any comes a second time."""
    chance, found, passed = random.Random(seed), list[tuple[float, Fault]](), 0.0
    waiting: list[Fault] = []
    while True:
        if not waiting:
            waiting = chance.sample(FAULTS, len(FAULTS))
        pause = chance.uniform(*pauses)
        passed += pause
        if passed > seconds:
            return found
        found.append((pause, waiting.pop()))


class Harm:
    """Does faults to a stack and notes them."""

    def __init__(self, stack: Stack, recorder: Recorder, seed: int) -> None:
        self._stack, self._recorder, self._chance = stack, recorder, random.Random(seed + 1)
        self.done: list[Done] = []
        self._open = 0

    async def run(self, faults: Sequence[tuple[float, Fault]], say: Callable[[str], None]) -> None:
        """Do each fault after its pause, and wait until all is well again."""
        probes = Probes(self._stack)
        await probes.prepare()
        async with asyncio.TaskGroup() as group:
            for pause, fault in faults:
                await asyncio.sleep(pause)
                group.create_task(self._one(fault, probes, say))

    async def _one(self, fault: Fault, probes: "Probes", say: Callable[[str], None]) -> None:
        done = Done(fault, time.time() * 1000, alone=self._open == 0)
        for other in self.done:
            if other.recovered is None:
                other.alone = False
        self.done.append(done)
        self._open += 1
        try:
            await self._do(fault)
            done.until_ms = time.time() * 1000
            self._recorder.line(
                "fault", name=fault.name, unit=fault.unit, at_ms=done.at_ms, until_ms=done.until_ms, loses=fault.loses
            )
            try:
                async with asyncio.timeout(NEVER_SECONDS):
                    done.recovered = await probes.recovered(fault.probe)
            except TimeoutError:
                raise AssertionError(f"{fault.shown} was not over after {NEVER_SECONDS:g} s") from None
        finally:
            self._open -= 1
        beside = "" if done.alone else "  (others beside it)"
        say(f"{fault.shown:<28} over in {done.recovered:5.1f} s of {fault.within:g} s{beside}")

    async def _do(self, fault: Fault) -> None:
        match fault.name:
            case "kill":
                for pid in self._pids(fault):
                    _signal(pid, signal.SIGKILL)
            case "freeze":
                pids = [one for pid in self._pids(fault) for one in family(pid)]
                for pid in pids:
                    _signal(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.lasts)
                finally:
                    for pid in pids:
                        _signal(pid, signal.SIGCONT)
            case "wipe":
                await self._in_redis(lambda redis: redis.flushall())
            case "delete board":
                await self._in_redis(lambda redis: redis.delete(f"lb:{{{LONG}}}"))
            case "delete stream":
                await self._delete_stream()

    def _pids(self, fault: Fault) -> list[int]:
        stack = self._stack.read()
        found = (stack["services"].get(fault.unit) or stack["servers"][fault.unit])["pid"]
        pids = list(found) if isinstance(found, list) else [found]
        return [self._chance.choice(pids)] if fault.workers == "one" else pids

    async def _in_redis(self, work: Callable[[Redis], Awaitable[object]]) -> None:
        """Try until Redis is there: an earlier fault may have it stopped."""
        while True:
            try:
                async with Redis.from_url(self._stack.read()["redis"], socket_timeout=1) as redis:
                    await work(redis)
                    return
            except Exception:
                await asyncio.sleep(0.2)

    async def _delete_stream(self) -> None:
        while True:
            try:
                where = self._stack.read()["nats"]
                client = await nats.connect(where, connect_timeout=1, allow_reconnect=False, error_cb=_expected)
                try:
                    await client.jetstream().delete_stream("SUBMITS")
                finally:
                    await client.close()
                return
            except Exception:
                await asyncio.sleep(0.2)


async def _expected(error: Exception) -> None:
    """Say nothing: NATS may be frozen or gone, and is tried again."""


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # another fault has killed it
        return


class Probes:
    """Calls as users make them, which say whether a part works; through the gateway, each with a second's patience."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._kept = "", ""

    async def prepare(self) -> None:
        """Start the session that later saves go to: where PostgreSQL is away none can be started."""
        self._kept = await self._started()

    async def recovered(self, probe: str) -> float:
        """Repeat a probe until it works three times in a row; returns the seconds until the first of the three."""
        began, worked = time.monotonic(), list[float]()
        work: Callable[[], Awaitable[bool]] = getattr(self, f"_{probe}")
        while len(worked) < 3:
            tried = time.monotonic()
            try:
                async with asyncio.timeout(15):
                    fine = await work()
            except (grpc.aio.AioRpcError, TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                fine = False
            worked = [*worked, tried] if fine else []
            await asyncio.sleep(0.05)
        return max(0.0, worked[0] - began)

    async def _call(self, token: str, service: str, method: str, request: Any, reply: Any) -> Any:
        """Call on a connection of its own, so that none is kept that a fault has broken."""
        metadata = [("authorization", f"Bearer {token}"), ("idempotency-key", uuid.uuid4().hex)]
        target = self._stack.gateway.removeprefix("http://")
        async with grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(
                f"/finalbell.v1.{service}/{method}", request_serializer=type(request).SerializeToString, response_deserializer=reply
            )
            return await call(request, metadata=metadata, timeout=1.0)

    async def _started(self) -> tuple[str, str]:
        """Start a session as somebody new; returns it with the token."""
        token, request = self._stack.token(f"probe-{uuid.uuid4().hex[:8]}"), session_pb2.StartSessionRequest(exam_id=LONG)
        reply = await self._call(token, "SessionService", "StartSession", request, session_pb2.StartSessionResponse.FromString)
        return str(reply.session.session_id), token

    async def _start(self) -> bool:
        return bool(await self._started())

    async def _save(self) -> bool:
        return await self._saved() > 0

    async def _saved(self) -> int:
        session, token = self._kept
        request = session_pb2.SaveAnswerRequest(session_id=session, question_id="q1-0", choice="A")
        reply = await self._call(token, "SessionService", "SaveAnswer", request, session_pb2.SaveAnswerResponse.FromString)
        return int(reply.version)

    async def _score(self) -> bool:
        """Start, submit, and see the score."""
        session, token = await self._started()
        request, reply = session_pb2.SubmitSessionRequest(session_id=session), session_pb2.SubmitSessionResponse.FromString
        await self._call(token, "SessionService", "SubmitSession", request, reply)
        while await self._status(session, token) != scoring_pb2.Result.SCORED:
            await asyncio.sleep(0.1)
        return True

    async def _status(self, session: str, token: str) -> int:
        request, reply = scoring_pb2.GetResultRequest(session_id=session), scoring_pb2.GetResultResponse.FromString
        return int((await self._call(token, "ScoringService", "GetResult", request, reply)).result.status)

    async def _result(self) -> bool:
        try:
            await self._status(*self._kept)
        except grpc.aio.AioRpcError as refused:
            return refused.code() == grpc.StatusCode.FAILED_PRECONDITION  # it is still in progress: the service works
        return True

    async def _signal(self) -> bool:
        """Report a signal, and see that it is taken."""
        session, token = self._kept
        request = integrity_pb2.ReportSignalsRequest(session_id=session, signals=[LEFT])
        reply = integrity_pb2.ReportSignalsResponse.FromString
        return int((await self._call(token, "IntegrityService", "ReportSignals", request, reply)).accepted) == 1

    async def _written(self) -> bool:
        """Report a signal, and see it in PostgreSQL."""
        connection = await asyncpg.connect(self._stack.read()["postgres"], timeout=5)
        try:
            query = "SELECT coalesce(sum(count), 0)::int FROM integrity_count WHERE session_id = $1"
            before = await connection.fetchval(query, uuid.UUID(self._kept[0]))
            taken = await self._signal()
            while taken and await connection.fetchval(query, uuid.UUID(self._kept[0])) == before:
                await asyncio.sleep(0.1)
        finally:
            connection.terminate()
        return taken

    async def _board(self) -> bool:
        request, reply = leaderboard_pb2.GetLeaderboardRequest(exam_id=LONG, top=10), leaderboard_pb2.GetLeaderboardResponse
        found = await self._call(self._kept[1], "LeaderboardService", "GetLeaderboard", request, reply.FromString)
        return not found.rebuilding

    async def _content(self) -> bool:
        request, reply = content_pb2.GetExamRequest(exam_id=LONG), content_pb2.GetExamResponse.FromString
        await self._call(self._kept[1], "ContentService", "GetExam", request, reply)
        return True

    async def _snapshot(self) -> bool:
        """Save, and see it in PostgreSQL."""
        version, query = await self._saved(), "SELECT max(version) FROM session_answer WHERE session_id = $1"
        connection = await asyncpg.connect(self._stack.read()["postgres"], timeout=2)
        try:
            while (await connection.fetchval(query, self._kept[0]) or 0) < version:
                await asyncio.sleep(0.05)
        finally:
            await connection.close()
        return True

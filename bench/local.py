"""A stack for one measurement, and students who speak gRPC to it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import grpc
import grpc.aio
from finalbell.v1 import session_pb2
from finalbell.v1.session_pb2_grpc import SessionServiceStub

from ops.client import client
from ops.home import Home
from ops.keys import mint

ROOT = Path(__file__).parent.parent
FINALBELL = [sys.executable, "-m", "ops.main"]
EXAM = "bench"
PAPER = json.loads((ROOT / "ops" / "sample_exam.json").read_text())
CHOICES = [(q["id"], [option["id"] for option in q["options"]]) for q in PAPER["questions"] if q["type"] == "single_choice"]
"""The single choice questions of the paper, with their options."""

TOGETHER = 64
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack by its home."""

    home: Path

    def read(self) -> dict[str, Any]:
        """Return what `stack.json` says now."""
        return Home(self.home).stack() or {}

    def pids(self, unit: str) -> list[int]:
        """Return the pids of a service or server, with all that they started."""
        stack = self.read()
        found = (stack["services"].get(unit) or stack["servers"][unit])["pid"]
        return [one for pid in (found if isinstance(found, list) else [found]) for one in _family(pid)]

    def address(self, unit: str) -> str:
        """Return where a service listens, past the gateway."""
        return str(self.read()["services"][unit]["grpc"])

    def restart(self, *options: str) -> None:
        """Stop the stack, and start it on the same data with other options."""
        port = str(urlsplit(self.read()["gateway"]).port)
        subprocess.run([*FINALBELL, "down", "--home", str(self.home)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=120)
        up = [*FINALBELL, "up", "--detach", "--no-sample", "--home", str(self.home), "--port", port, *options]
        subprocess.run(up, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=180)

    @contextmanager
    def frozen(self, unit: str) -> Iterator[None]:
        """Freeze a service or server: away, and yet its connections stand."""
        pids = self.pids(unit)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    continue

    async def count(self, query: str, *arguments: Any) -> int:
        """Ask PostgreSQL for one number."""
        connection = await asyncpg.connect(self.read()["postgres"], timeout=10)
        try:
            found: int = await connection.fetchval(query, *arguments)
            return found
        finally:
            await connection.close()


@contextmanager
def stack(*options: str, **settings: str) -> Iterator[Stack]:
    """Run a stack in a scratch folder, with settings such as HOLD_SECONDS, and an exam of 60 questions in it."""
    home = Path(tempfile.mkdtemp(prefix="finalbell-bench-")) / "home"
    environment = {**os.environ, **{f"FINALBELL_{name}": value for name, value in settings.items()}}
    up = [*FINALBELL, "up", "--detach", "--no-sample", "--home", str(home), "--port", str(free_port()), *options]
    try:
        subprocess.run(up, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=180)
        with client(home, None, None) as admin:
            admin.import_exam(json.dumps(PAPER).encode(), EXAM, {"durationSeconds": "7200"})
        yield Stack(home)
    finally:
        subprocess.run([*FINALBELL, "down", "--home", str(home)], cwd=ROOT, check=False, stdout=subprocess.DEVNULL, timeout=120)
        shutil.rmtree(home.parent, ignore_errors=True)


@dataclass(slots=True)
class Kept:
    """The newest acknowledged save of one question."""

    version: int
    choice: str
    saved_ms: int


@dataclass(slots=True)
class Student:
    """One student with a session: what they were told."""

    name: str
    metadata: list[tuple[str, str]]
    session: str = ""
    order: tuple[str, ...] = ()
    ends_ms: int = 0
    kept: dict[str, Kept] = field(default_factory=dict)


class Students:
    """Many students over a few channels; what fails with UNAVAILABLE is repeated with the same key, as an app does."""

    def __init__(self, home: Path, address: str, count: int) -> None:
        self.all = [
            Student(f"b{n}", [("authorization", f"Bearer {mint(home, student=f'b{n}', ttl_seconds=7200)}")]) for n in range(count)
        ]
        self._channels = [grpc.aio.insecure_channel(address, options=[("grpc.channel_id", n)]) for n in range(4)]
        self._stubs = [SessionServiceStub(channel) for channel in self._channels]
        self.repeated = 0

    async def close(self) -> None:
        """Hang up."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def start(self, student: Student) -> None:
        """Start a session."""
        reply = await self._insist(student, "StartSession", session_pb2.StartSessionRequest(exam_id=EXAM))
        student.session, student.order = reply.session.session_id, tuple(reply.session.question_order)
        student.ends_ms = reply.session.ends_at.ToMilliseconds()

    async def save(self, student: Student, question: str, choice: str) -> None:
        """Save an answer, and remember what was acknowledged."""
        request = session_pb2.SaveAnswerRequest(session_id=student.session, question_id=question, choice=choice)
        reply = await self._insist(student, "SaveAnswer", request)
        known = student.kept.get(question)
        if known is None or known.version < reply.version:
            student.kept[question] = Kept(reply.version, choice, reply.saved_at.ToMilliseconds())

    async def save_all(self, student: Student, answers: Sequence[tuple[str, str]]) -> None:
        """Save answers in one call."""
        items = [session_pb2.SaveItem(question_id=q, choice=choice, idempotency_key=uuid.uuid4().hex) for q, choice in answers]
        request = session_pb2.BatchSaveAnswersRequest(session_id=student.session, items=items)
        reply = await self._insist(student, "BatchSaveAnswers", request)
        for (question, choice), outcome in zip(answers, reply.outcomes, strict=True):
            student.kept[question] = Kept(outcome.answer.version, choice, outcome.answer.saved_at.ToMilliseconds())

    async def submit(self, student: Student) -> None:
        """Hand in."""
        await self._insist(student, "SubmitSession", session_pb2.SubmitSessionRequest(session_id=student.session))

    async def read(self, student: Student) -> session_pb2.Session:
        """Read the session as a refreshed page does."""
        reply = await self._insist(student, "GetSession", session_pb2.GetSessionRequest(session_id=student.session))
        found: session_pb2.Session = reply.session
        return found

    async def refused_save(self, student: Student) -> str:
        """Try a save that has to be refused; returns gRPC's name of how it was answered."""
        request = session_pb2.SaveAnswerRequest(session_id=student.session, question_id=CHOICES[0][0], choice=CHOICES[0][1][0])
        try:
            await self._insist(student, "SaveAnswer", request)
        except grpc.aio.AioRpcError as refused:
            return refused.code().name
        return "OK"

    async def _insist(self, student: Student, method: str, request: Any) -> Any:
        stub = self._stubs[hash(student.name) % len(self._stubs)]
        metadata = [*student.metadata, ("idempotency-key", uuid.uuid4().hex)]
        for attempt in range(60):
            try:
                return await getattr(stub, method)(request, metadata=metadata, timeout=10)
            except grpc.aio.AioRpcError as failure:
                if failure.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED) or attempt == 59:
                    raise
                self.repeated += 1
                await asyncio.sleep(min(5.0, 0.2 * 2 ** min(attempt, 4)))
        raise AssertionError("the last attempt raises")


async def each(of: Iterable[T], work: Callable[[T], Awaitable[object]], together: int = TOGETHER) -> None:
    """Do the work for all, some at a time."""
    waiting = iter(of)

    async def worker() -> None:
        for one in waiting:
            await work(one)

    await asyncio.gather(*(worker() for _ in range(together)))


async def at_rate(per_second: float, stop: asyncio.Event, work: Callable[[int], Awaitable[object]]) -> tuple[int, float]:
    """Do the work so often until told to stop; returns how often it began, and in how many seconds. Offered, not closed:
    what is slow does not slow down what comes next."""
    began, done, tasks = time.monotonic(), 0, set[asyncio.Task[object]]()
    while not stop.is_set():
        while done < (time.monotonic() - began) * per_second:
            task = asyncio.ensure_future(work(done))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            done += 1
        await asyncio.sleep(0.005)
    took = time.monotonic() - began
    await asyncio.gather(*tasks)
    return done, took


async def until(check: Callable[[], Awaitable[bool]], seconds: float = 600) -> float:
    """Wait for something; returns how long it took."""
    began = time.monotonic()
    while not await check():
        if time.monotonic() - began > seconds:
            raise TimeoutError("it did not happen in time")
        await asyncio.sleep(0.2)
    return time.monotonic() - began


def show(title: str, figures: Sequence[tuple[str, object]]) -> None:
    """Print figures."""
    print(f"\n{title}")
    for name, figure in figures:
        print(f"  {name:<62} {figure}")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _family(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    return [pid, *(one for child in parents.get(pid, ()) for one in _family(child))]

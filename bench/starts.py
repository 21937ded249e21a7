"""The start herd: many students start one exam at once on a stack that has just come up. Exit code 1 when a promise broke.

python -m bench.starts --sessions 20000 --together 400 [--gateway] [--engine native]

The client is one Python process: what it costs a call itself is printed too, since it has a core of its own at best.
"""

import argparse
import asyncio
import os
import platform
import resource
import sys
import time
import urllib.request
import uuid
from collections import Counter

import asyncpg
import grpc
import grpc.aio
import uvloop
from finalbell.v1.session_pb2 import StartSessionRequest, StartSessionResponse
from finalbell.v1.session_pb2_grpc import SessionServiceStub

from bench.local import EXAM, Stack, each, show, stack
from bench.measure import cpu
from ops.keys import mint

CHANNELS = 4
UNITS = ("session", "postgres", "redis", "envoy")
REPEATED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Herd:
    """Students with tokens, and what they were told."""

    def __init__(self, place: Stack, address: str, count: int) -> None:
        self.tokens = [mint(place.home, student=f"b{n}") for n in range(count)]
        self.channels = [grpc.aio.insecure_channel(address, options=[("grpc.channel_id", n)]) for n in range(CHANNELS)]
        self.stubs = [SessionServiceStub(channel) for channel in self.channels]
        self.seconds: list[float] = []
        self.told: dict[int, str] = {}
        self.repeated: Counter[str] = Counter()

    async def start(self, student: int) -> None:
        """Start a session, insisting with one key as an app does; remember how long it took, and which session it is."""
        metadata = [("authorization", f"Bearer {self.tokens[student]}"), ("idempotency-key", uuid.uuid4().hex)]
        began = time.perf_counter()
        while True:
            try:
                reply: StartSessionResponse = await self.stubs[student % CHANNELS].StartSession(
                    StartSessionRequest(exam_id=EXAM), metadata=metadata, timeout=10
                )
                break
            except grpc.aio.AioRpcError as failure:
                if failure.code() not in REPEATED:
                    raise
                self.repeated[f"{failure.code().name}: {failure.details()}"] += 1
                await asyncio.sleep(0.5)
        self.seconds.append(time.perf_counter() - began)
        self.told[student] = reply.session.session_id

    async def close(self) -> None:
        """Hang up."""
        await asyncio.gather(*(channel.close() for channel in self.channels))


async def herd(place: Stack, address: str, sessions: int, together: int) -> list[str]:
    """Let them all start, and print what it took; gives what broke."""
    students = Herd(place, address, sessions)
    used, own, began = cpu(place), own_cpu(), time.perf_counter()
    try:
        await each(range(sessions), students.start, together)
    finally:
        await students.close()
    took = time.perf_counter() - began
    spent = {unit: seconds - used[unit] for unit, seconds in cpu(place).items() if unit in UNITS} | {"this client": own_cpu() - own}
    ordered = sorted(students.seconds)
    show(
        f"{sessions:,} students start one exam of 60 questions on cold caches, {together} at a time",
        [
            ("starts", f"{sessions / took:,.0f}/s, all in {took:.1f} s"),
            ("p50, p99, longest", ", ".join(f"{1000 * at(ordered, share):.0f} ms" for share in (0.5, 0.99, 1))),
            ("calls that had to be repeated", dict(students.repeated) or 0),
            ("starts in one transaction, on average", f"{batch_size(place):.1f}"),
            *((f"CPU a start: {unit}", f"{1e6 * seconds / sessions:,.0f} µs") for unit, seconds in spent.items()),
        ],
    )
    return await wrong(place, students)


async def wrong(place: Stack, students: Herd) -> list[str]:
    """Compare what the students were told with what PostgreSQL has: one session each, and that one."""
    connection = await asyncpg.connect(place.read()["postgres"], timeout=10)
    try:
        rows = await connection.fetch("SELECT student_id, id::text FROM exam_session WHERE exam_id = $1", EXAM)
    finally:
        await connection.close()
    kept = {(row["student_id"], row["id"]) for row in rows}
    told = {(f"b{student}", session) for student, session in students.told.items()}
    problems = [f"{len(rows)} sessions for {len(told)} students"] if len(rows) != len(told) else []
    return problems + ([f"told and not kept: {sorted(told - kept)[:3]}"] if told - kept else [])


def batch_size(place: Stack) -> float:
    """Return how many starts went together, by the session service's metrics."""
    with urllib.request.urlopen(f"http://{place.read()['services']['session']['metrics']}/metrics", timeout=5) as reply:
        lines = reply.read().decode().splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if 'queue="starts"' in line)
    count = float(figures.get('finalbell_batch_size_count{queue="starts"}', 0))
    return float(figures.get('finalbell_batch_size_sum{queue="starts"}', 0)) / count if count else 0.0


def at(ordered: list[float], share: float) -> float:
    """Return a percentile."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--together", type=int, default=400)
    parser.add_argument("--gateway", action="store_true", help="through Envoy instead of straight at the session service")
    parser.add_argument("--engine", choices=("grpcio", "native"), default="grpcio")
    chosen = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, engine {chosen.engine}")
    with stack("--engine", chosen.engine) as place:
        address = place.read()["gateway"].removeprefix("http://") if chosen.gateway else place.address("session")
        problems = uvloop.run(herd(place, address, chosen.sessions, chosen.together))
    for problem in problems:
        print(f"BROKEN: {problem}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()

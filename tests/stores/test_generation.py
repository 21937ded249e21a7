"""Whether a Redis is the one that sessions were last written to: another server, or an empty one, is another generation."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import pytest
from redis.asyncio import Redis

from ops.processes import valkey_binary
from servers.deadline import deadline
from servers.session.rules import body_digest, key_digest
from servers.session.snapshots import fold
from servers.session.submits import decode
from stores import keys
from stores.connect import Stores, _redis
from stores.dead_letters import DeadLetters
from stores.deadlines import Deadlines
from stores.generation import Generations
from stores.live import LiveSessions, Patience
from stores.records import Answer, AnswerKind, Save, Saved, SaveOutcome
from stores.restore import Restorer
from stores.sessions import Sessions
from stores.start_records import Start
from stores.starts import Starts
from stores.submit_log import SubmitLog
from tests.stack import Stack, eventually, free_port, fresh


@dataclass(frozen=True)
class Server:
    """A Redis of the test's own."""

    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


@contextmanager
def a_redis(*options: str, **variables: str) -> Iterator[Server]:
    """Run a Redis of the test's own, with more options and environment variables."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="finalbell-redis-") as folder:
        command = [str(valkey_binary()), "--port", str(port), "--dir", folder, "--save", "", "--repl-diskless-sync-delay", "0"]
        command += options
        environment = {**os.environ, **variables}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        try:
            yield Server(port, process)
        finally:
            process.kill()
            process.wait()


class Worker:
    """What a session worker has, at a Redis of the test's own and the run's PostgreSQL and NATS."""

    def __init__(self, stores: Stores, url: str) -> None:
        self.generations = Generations(stores.postgres)
        self.redis: Redis = _redis(url, self.generations.on_connect)
        self.sessions = Sessions(stores.postgres)
        self.deadlines = Deadlines(stores.postgres, deadline)
        restorer = Restorer(self.sessions, self.deadlines, SubmitLog(stores.nats), DeadLetters(stores.postgres), decode)
        self.live = restorer.live = LiveSessions(self.redis, restorer.restore, self.generations.begin, Patience())

    async def save(self, session: UUID, student: str, choice: str, key: str) -> Saved:
        answer = Answer(AnswerKind.CHOICE, choice)
        return await self.live.save(
            Save(session, student, "single", answer, key_digest(key), body_digest("single", answer, None), None)
        )


async def answering(redis: Redis) -> None:
    async def answers() -> bool:
        try:
            return bool(await redis.ping())
        except (ConnectionError, OSError):
            return False
        except Exception as failure:
            if "Connection" in type(failure).__name__ or "Loading" in type(failure).__name__:
                return False
            raise

    await eventually(answers)


@asynccontextmanager
async def a_worker(stores: Stores, url: str) -> AsyncIterator[Worker]:
    worker = Worker(stores, url)
    try:
        await answering(worker.redis)
        await worker.live.prepare()
        yield worker
    finally:
        await worker.redis.aclose()


@pytest.fixture
async def session(stack: Stack, stores: Stores, small_exam: dict[str, object], exam_id: str) -> tuple[UUID, str]:
    """A session that PostgreSQL knows, and its student."""
    await stack.import_exam(small_exam, exam_id)
    student = fresh("s")
    started = await Starts(stores.postgres, deadline).start(Start(student, exam_id, (), "Ada", None))
    assert started.session is not None
    return started.session, student


async def test_a_promoted_replica_that_was_behind_uses_no_version_twice_and_loses_no_newer_answer(
    stores: Stores, session: tuple[UUID, str]
) -> None:
    which, student = session
    with a_redis() as primary, a_redis() as replica:
        async with a_worker(stores, primary.url) as worker, Redis.from_url(replica.url) as follower:
            await answering(follower)
            await follower.replicaof("127.0.0.1", primary.port)
            first = await worker.save(which, student, "A", "key-number-1")
            await eventually(lambda: worker.redis.wait(1, 100))
            await follower.replicaof("NO", "ONE")  # cut off: from here on it is behind
            second = await worker.save(which, student, "B", "key-number-2")
            read = await worker.live.read_logs([keys.shard(which)], 500)
            await worker.sessions.keep_answers(fold([entry for log in read.values() for entry in log.entries]))
            third = await worker.save(which, student, "C", "key-number-3")
        primary.process.kill()

        async with a_worker(stores, replica.url) as promoted:
            state = await promoted.live.state(which)
            fourth = await promoted.save(which, student, "A", "key-number-4")

    assert state is not None
    assert third.outcome is SaveOutcome.SAVED
    assert [(saved.answer.value, saved.version) for saved in state.answers] == [("B", second.version)]
    assert state.restored_through == 0, "this server is the session's third: who looks for the first time knows of no loss before"
    assert fourth.version > third.version
    assert fourth.version // 1_000_000 == state.epoch > first.version // 1_000_000


async def test_the_same_server_keeps_its_generation_and_a_restarted_one_gets_another(
    stores: Stores, session: tuple[UUID, str]
) -> None:
    which, student = session
    generations, outcomes = [], []
    with tempfile.TemporaryDirectory(prefix="finalbell-aof-") as folder:
        for _ in range(2):
            with a_redis("--dir", folder, "--appendonly", "yes", "--appendfsync", "always") as server:
                for _ in range(2):
                    async with a_worker(stores, server.url) as worker:
                        outcomes.append((await worker.save(which, student, "A", "key-number-1")).outcome)
                        generations.append(await worker.redis.get(keys.generation_key(keys.shard(which))))

    assert generations[0] == generations[1] != generations[2] == generations[3]
    assert outcomes == [SaveOutcome.SAVED, *[SaveOutcome.REPLAYED] * 3]


async def test_a_wiped_redis_gets_one_generation_though_many_find_it(stores: Stores, session: tuple[UUID, str]) -> None:
    which, student = session
    with a_redis() as server:
        async with a_worker(stores, server.url) as one, a_worker(stores, server.url) as two:
            before = await one.save(which, student, "A", "key-number-1")
            await one.redis.flushall()

            states = await asyncio.gather(*(worker.live.state(which) for worker in (one, two) * 3))

            generations = {await one.redis.get(keys.generation_key(number)) for number in range(keys.SHARDS)}

    assert before.version // 1_000_000 == 1
    assert len({state.epoch for state in states if state}) == 1
    assert states[0] is not None
    assert states[0].epoch > 1
    assert len(generations) == 1


async def test_a_connection_that_could_not_be_looked_at_is_not_used_by_the_next_call(
    stores: Stores, session: tuple[UUID, str]
) -> None:
    which, student = session
    with a_redis() as server:
        async with a_worker(stores, server.url) as worker:
            await worker.save(which, student, "A", "key-number-1")
            for number in range(keys.SHARDS):  # as on a replica that was behind, and is promoted
                await worker.redis.set(keys.run_key(number), "another server")
        postgres = await asyncpg.create_pool("postgresql://nobody@127.0.0.1:1/none", min_size=0)
        async with _redis(server.url, Generations(postgres).on_connect) as unchecked:
            for _ in range(3):
                with pytest.raises(OSError, match="Connect call failed"):
                    await unchecked.get(keys.generation_key(0))
        await postgres.close()

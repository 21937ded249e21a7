"""Both engines under the services keep the same promises to whoever calls."""

import asyncio
import gzip
import os
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from servers.engine import Answer, Engine, Metadata, Method, make_engine
from tests.stack import ROOT

ENGINES = ["grpcio", "native"]
LIMIT = 64 * 1024
PATH = "/finalbell.test.Engine/Call"


@dataclass
class Served:
    """An engine whose one method does what a test asks for, and what it was told."""

    engine: Engine
    address: str
    does: Callable[[bytes, Metadata, float | None], Coroutine[Any, Any, Answer]]
    seen: list[tuple[bytes | None, Metadata, float | None]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0


async def echo(body: bytes, metadata: Metadata, seconds: float | None) -> Answer:
    return Answer(body)


async def never(body: bytes, metadata: Metadata, seconds: float | None) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture(params=ENGINES)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    engine = make_engine(request.param, LIMIT)
    found = Served(engine, "", echo)

    async def call(body: Any, metadata: Metadata, seconds: float | None) -> Answer:
        found.seen.append((body, metadata, seconds))
        found.running += 1
        try:
            return await found.does(body, metadata, seconds)
        except asyncio.CancelledError:
            found.cancelled.set()
            raise
        finally:
            found.running -= 1

    engine.add([Method(PATH, call)])
    engine.add_health(health.aio.HealthServicer())
    found.address = f"127.0.0.1:{engine.listen('127.0.0.1:0')}"
    await engine.start()
    yield found
    await engine.stop(0)


@pytest.fixture
async def channel(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(served.address) as one:
        yield one


def call(channel: grpc.aio.Channel, body: bytes = b"hello", path: str = PATH, **options: Any) -> Any:
    return channel.unary_unary(path)(body, **options)


async def test_a_message_goes_in_and_comes_out_as_it_was(channel: grpc.aio.Channel) -> None:
    assert [await call(channel, body) for body in (b"", b"\x00\xff", b"x" * LIMIT)] == [b"", b"\x00\xff", b"x" * LIMIT]


async def test_metadata_arrives_with_binary_values_and_duplicates(served: Served, channel: grpc.aio.Channel) -> None:
    sent = (("idempotency-key", "first"), ("idempotency-key", "second"), ("trace-bin", b"\x00\x01\xff"))

    await call(channel, metadata=sent)

    arrived = [(key, value) for key, value in served.seen[0][1] if key in ("idempotency-key", "trace-bin")]
    assert arrived == list(sent)


async def test_headers_of_an_answer_are_initial_metadata(served: Served, channel: grpc.aio.Channel) -> None:
    async def answers(body: bytes, metadata: Metadata, seconds: float | None) -> Answer:
        return Answer(b"made", [("fb-http-status", "201")])

    served.does = answers
    made = call(channel)

    assert await made == b"made"
    assert ("fb-http-status", "201") in tuple(await made.initial_metadata())


async def test_a_refusal_has_its_code_its_words_its_details_and_its_headers(served: Served, channel: grpc.aio.Channel) -> None:
    status = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="Später noch einmal: 50% %zz")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="finalbell"))

    async def refuses(body: bytes, metadata: Metadata, seconds: float | None) -> Answer:
        return Answer(b"", [("retry-after", "7")], status)

    served.does = refuses
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(channel)

    headers = [*(refused.value.initial_metadata() or ()), *(refused.value.trailing_metadata() or ())]
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert refused.value.details() == status.message
    assert rpc_status.from_call(refused.value) == status
    assert ("retry-after", "7") in headers


async def test_a_deadline_is_told_and_kept(served: Served, channel: grpc.aio.Channel) -> None:
    served.does = never

    with pytest.raises(grpc.aio.AioRpcError) as late:
        await call(channel, timeout=1)

    told = served.seen[0][2]
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert told is not None
    assert 0 < told < 1.1  # on the wire it is rounded up
    await asyncio.wait_for(served.cancelled.wait(), 30)


async def test_a_call_without_a_deadline_says_so(served: Served, channel: grpc.aio.Channel) -> None:
    await call(channel)

    assert served.seen[0][2] is None


async def test_a_caller_who_hangs_up_ends_the_work(served: Served, channel: grpc.aio.Channel) -> None:
    served.does = never
    waiting = asyncio.ensure_future(call(channel))
    await until(lambda: served.running == 1)

    waiting.cancel()

    await asyncio.wait_for(served.cancelled.wait(), 30)
    await until(lambda: served.running == 0)


async def test_a_connection_that_breaks_ends_the_work(served: Served) -> None:
    served.does = never
    raw = Raw(served.address)
    raw.call(b"hello")
    await until(lambda: served.running == 1)

    raw.close()

    await asyncio.wait_for(served.cancelled.wait(), 30)


async def test_a_method_that_is_not_there_is_unimplemented(channel: grpc.aio.Channel) -> None:
    for path in ("/finalbell.test.Engine/Other", "/nothing.Here/Call"):
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await call(channel, path=path)
        assert missing.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_over_the_limit_is_refused_and_seen_by_nobody(served: Served, channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as large:
        await call(channel, b"x" * (LIMIT + 1))

    assert large.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [body for body, _, _ in served.seen if body is not None] == []


async def test_a_message_that_inflates_over_the_limit_is_refused(served: Served) -> None:
    with closing(Raw(served.address)) as raw:
        status = await asyncio.to_thread(raw.ask, gzip.compress(b"x" * (4 * LIMIT)))

    assert status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert [body for body, _, _ in served.seen if body is not None] == []


async def test_a_compressed_message_is_inflated(served: Served) -> None:
    with closing(Raw(served.address)) as raw:
        status = await asyncio.to_thread(raw.ask, gzip.compress(b"hello"))

    assert (status, served.seen[0][0]) == (0, b"hello")


@pytest.mark.parametrize(
    "data", [b"", b"\x00\x00", struct.pack(">BI", 0, 100) + b"short"], ids=["none", "half a prefix", "cut off"]
)
async def test_a_call_without_a_whole_message_is_answered(served: Served, data: bytes) -> None:
    async def judges(body: bytes, metadata: Metadata, seconds: float | None) -> Answer:
        refused = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0])
        return Answer(b"", refused=refused if body is None else None)

    served.does = judges
    with closing(Raw(served.address)) as raw:
        status = await asyncio.to_thread(raw.ask_raw, data)

    assert status not in (None, 0)


async def test_health_is_checked_and_an_unknown_service_not_found(channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    known = await stub.Check(health_pb2.HealthCheckRequest())
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody.Knows"))

    assert known.status == health_pb2.HealthCheckResponse.SERVING
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", ENGINES)
async def test_workers_share_a_port(name: str) -> None:
    async def first(body: bytes, metadata: Metadata, seconds: float | None) -> Answer:
        return Answer(b"first")

    async def second(body: bytes, metadata: Metadata, seconds: float | None) -> Answer:
        return Answer(b"second")

    one, two = make_engine(name, LIMIT), make_engine(name, LIMIT)
    one.add([Method(PATH, first)])
    two.add([Method(PATH, second)])
    port = one.listen("127.0.0.1:0")
    two.listen(f"127.0.0.1:{port}")
    await one.start()
    await two.start()
    answers = set()
    for number in range(200):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.channel_id", number)]) as channel:
            answers.add(await call(channel))
        if len(answers) == 2:
            break
    await asyncio.gather(one.stop(0), two.stop(0))

    assert answers == {b"first", b"second"}


async def test_a_call_that_runs_when_the_worker_ends_gets_its_answer(served: Served, channel: grpc.aio.Channel) -> None:
    go_on = asyncio.Event()

    async def waits(body: bytes, metadata: Metadata, seconds: float | None) -> Answer:
        await go_on.wait()
        return Answer(b"done")

    served.does = waits
    running = asyncio.ensure_future(call(channel))
    await until(lambda: served.running == 1)
    ending = asyncio.ensure_future(served.engine.stop(10))
    await asyncio.sleep(0.1)
    go_on.set()

    assert await running == b"done"
    await ending


async def test_a_call_that_comes_when_the_worker_ends_may_be_repeated_elsewhere(served: Served, channel: grpc.aio.Channel) -> None:
    served.does = never
    running = asyncio.ensure_future(call(channel))
    await until(lambda: served.running == 1)
    ending = asyncio.ensure_future(served.engine.stop(2))
    await asyncio.sleep(0.1)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(channel, timeout=5)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.gather(running, ending, return_exceptions=True)


async def test_rapid_resets_leave_nothing_behind(served: Served, channel: grpc.aio.Channel) -> None:
    served.does = never

    def reset_many() -> None:
        for _ in range(20):
            with closing(Raw(served.address)) as raw, suppress(OSError):  # the server may hang up on such a client
                for _ in range(200):
                    raw.reset(raw.call(b"hello"))

    await asyncio.to_thread(reset_many)

    await until(lambda: served.running == 0)
    served.does = echo
    assert await call(channel, timeout=10) == b"hello"


async def test_a_crowd_that_comes_while_the_worker_is_busy_is_answered(served: Served) -> None:
    crowd = [Raw(served.address) for _ in range(25)]
    for raw in crowd * 200:  # nothing is taken meanwhile: the loop is this test's
        raw.call(b"hello")

    statuses = [await asyncio.to_thread(raw.statuses, 200) for raw in crowd]

    assert statuses == [{0: 200}] * 25
    for raw in crowd:
        raw.close()


async def test_idle_connections_and_half_open_calls_hold_up_nobody(served: Served, channel: grpc.aio.Channel) -> None:
    silent = []
    for number in range(500):
        raw = Raw(served.address)
        if number % 2:
            raw.call(struct.pack(">BI", 0, 100), end=False)
        silent.append(raw)

    assert [await call(channel, timeout=5) for _ in range(20)] == [b"hello"] * 20

    for raw in silent:
        raw.close()


async def test_garbage_on_the_wire_ends_that_connection_alone(served: Served, channel: grpc.aio.Channel) -> None:
    host, port = served.address.split(":")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(4096)):
        with socket.create_connection((host, int(port)), 5) as wire:
            wire.settimeout(5)
            wire.sendall(garbage)
            try:
                while wire.recv(4096):
                    pass
            except (ConnectionError, TimeoutError):
                pass

    assert await call(channel) == b"hello"


async def test_a_flood_of_calls_is_answered_in_bounded_memory(served: Served, channel: grpc.aio.Channel) -> None:
    await asyncio.gather(*(call(channel) for _ in range(500)))
    before = resident()

    for _ in range(10):
        await asyncio.gather(*(call(channel) for _ in range(500)))

    assert resident() - before < 64 * 2**20
    assert served.running == 0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


def resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


class Raw:
    """A client that speaks HTTP/2 by hand, since gRPC's own would do nothing wrong."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._wire = socket.create_connection((host, int(port)), 5)
        self._wire.settimeout(10)
        self._http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._http.initiate_connection()
        self._flush()

    def call(self, message: bytes, *, end: bool = True) -> int:
        """Begin a call; the message is as it goes over the wire where `end` is false."""
        return self._send(struct.pack(">BI", 0, len(message)) + message if end else message, end=end)

    def ask(self, zipped: bytes) -> int | None:
        """Call with a compressed message, and return the status's number."""
        return self._status(self._send(struct.pack(">BI", 1, len(zipped)) + zipped, compressed=True))

    def ask_raw(self, data: bytes) -> int | None:
        """Call with these bytes, and return the status's number; None when there is no answer."""
        return self._status(self._send(data))

    def reset(self, stream: int) -> None:
        """Take a call back."""
        self._http.reset_stream(stream)
        self._flush()

    def close(self) -> None:
        """Hang up."""
        self._wire.close()

    def _send(self, data: bytes, *, end: bool = True, compressed: bool = False) -> int:
        stream = self._http.get_next_available_stream_id()
        headers = [
            *((":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "test")),
            *(("content-type", "application/grpc"), ("te", "trailers")),
            *([("grpc-encoding", "gzip")] if compressed else []),
        ]
        self._http.send_headers(stream, headers)
        for start in range(0, len(data), 16_384):
            self._http.send_data(stream, data[start : start + 16_384])
        if end:
            self._http.end_stream(stream)
        self._flush()
        return stream

    def statuses(self, count: int) -> Counter[int]:
        """Return how often each status came, once so many have."""
        found = Counter[int]()
        while found.total() < count and (data := self._wire.recv(65_536)):
            for event in self._http.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found.update(int(value) for name, value in event.headers if name == b"grpc-status")
            self._flush()
        return found

    def _status(self, stream: int) -> int | None:
        while data := self._wire.recv(65_536):
            for event in self._http.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found = dict(event.headers).get(b"grpc-status")
                    if found is not None:
                        return int(found)
                elif isinstance(event, h2.events.StreamReset):
                    return grpc.StatusCode.CANCELLED.value[0] if event.stream_id == stream else None
            self._flush()
        return None

    def _flush(self) -> None:
        self._wire.sendall(self._http.data_to_send())


FORKING = """
import asyncio
import servers
import grpc
import uvloop

async def main():
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await (await asyncio.create_subprocess_exec("true")).wait()
    await server.stop(0)

uvloop.run(main())
"""


def test_a_service_that_starts_another_program_writes_nothing_to_its_log() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}

    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, check=True, env=environment, cwd=ROOT)

    assert (done.stdout, done.stderr) == ("", "")

"""The HTTP/2 engine under the services: `grpcio` (grpc.aio) or `native` (pygrpc-native: hyper and tokio, no GIL).

Services and their wrapping know nothing of this choice: a method is a function from a message's bytes to an Answer.
docs/decisions/0005-engine.md says which engine runs where, and why.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Protocol, cast

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from pygrpc_native import EVENT_CANCEL, NativeGrpcFront

MAX_STREAMS = 10_000
MAX_WAITING = 50_000
MAX_METADATA = 128 * 1024
OPTIONS = (
    ("grpc.so_reuseport", 1),  # several workers of one service share a port
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    # Calls that no handler has taken yet: as grpc comes, some of 1,000 and all past 3,000 are CANCELLED, which a crowd is that
    # returns to a worker that has just started.
    ("grpc.server.max_pending_requests", MAX_WAITING),
    ("grpc.server.max_pending_requests_hard_limit", MAX_WAITING),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_000),  # the gateway asks every 3 s where nothing else ends what hangs
    ("grpc.max_metadata_size", 96 * 1024),  # what the gateway lets through (60 KB) and adds: above it grpc refuses at random
    ("grpc.absolute_max_metadata_size", MAX_METADATA),
)
TOGETHER = 256
LOOK_SECONDS = 0.001
FLUSH_SECONDS = 0.1
"""How long the native engine's answers may take to the wire: its end would cut off those that are still on their way."""

CHECK = "/grpc.health.v1.Health/Check"

Metadata = Sequence[tuple[str, str | bytes]]
Reading = Callable[[], tuple[Message, bool]]
"""What reads a call's message, and says whether it is known to keep every rule in its proto; it raises InvalidField."""

Body = bytes | AsyncIterator[bytes] | Reading | None
"""A call's message, or what reads it; None is one that did not come, or not whole; of a client stream the messages as they
come."""


class Answer(NamedTuple):
    """How a call ends: with a message, or with a status that is not OK."""

    message: bytes
    headers: Sequence[tuple[str, str]] = ()
    refused: Status | None = None


class Answering(Protocol):
    """Answers a call: its Body, its metadata, the seconds until its deadline (None: it has none), and when it arrived, by
    `time.monotonic()` (None: just now)."""

    def __call__(self, body: Any, metadata: Metadata, seconds: float | None, arrived: float | None = None) -> Awaitable[Answer]:
        """Answer."""


Streaming = Callable[[Any, Metadata, float | None], AsyncGenerator[Answer]]
"""Answers a call with many messages; one that is refused is the last."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method by its path, /package.Service/Method; `stream` in place of `answer` for one that answers with many messages."""

    path: str
    answer: Answering
    client_streaming: bool = False
    stream: Streaming | None = None


class Engine(Protocol):
    """Serves methods on one or more addresses."""

    def add(self, methods: Sequence[Method]) -> None:
        """Add methods, before the start."""

    def add_health(self, checks: health.aio.HealthServicer) -> None:
        """Add gRPC's health service."""

    def add_reflection(self, services: Sequence[str]) -> None:
        """Tell of these services over reflection."""

    def listen(self, address: str) -> int:
        """Listen on host:port; returns the port."""

    async def start(self) -> None:
        """Take calls from now on."""

    async def stop(self, grace: float) -> None:
        """Take no more calls, give those that run `grace` seconds, and hang up."""


def make_engine(name: str, max_message_bytes: int) -> Engine:
    """Return an engine by name; a larger message is RESOURCE_EXHAUSTED before any handler runs."""
    return Native(max_message_bytes) if name == "native" else Grpcio(max_message_bytes)


class Grpcio:
    """grpc.aio: every kind of call, limits before a message is read, and one call at a time."""

    def __init__(self, max_message_bytes: int) -> None:
        self._server = grpc.aio.server(options=[*OPTIONS, ("grpc.max_receive_message_length", max_message_bytes)])

    def add(self, methods: Sequence[Method]) -> None:
        services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for method in methods:
            _, service, name = method.path.split("/")
            services.setdefault(service, {})[name] = _grpcio_handler(method)
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(*named) for named in services.items()])

    def add_health(self, checks: health.aio.HealthServicer) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(checks, self._server)

    def add_reflection(self, services: Sequence[str]) -> None:
        reflection.enable_server_reflection([*services, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)

    def listen(self, address: str) -> int:
        return self._server.add_insecure_port(address)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace: float) -> None:
        await self._server.stop(grace)


def _grpcio_handler(method: Method) -> "grpc.RpcMethodHandler[Any, Any]":
    async def unary(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        message = await context.read()
        return await _ended(context, method, None if message is grpc.aio.EOF else message)

    async def stream(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return await _ended(context, method, messages)

    async def many(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        message = await context.read()
        await _streamed(context, method.stream, None if message is grpc.aio.EOF else message)

    if method.stream is not None:
        return grpc.stream_stream_rpc_method_handler(cast(Any, many))
    # Unary calls too are read by us: grpc.aio's own unary handler answers no call whose message is missing or cut off,
    # so that each would hold a place until its deadline.
    return grpc.stream_unary_rpc_method_handler(cast(Any, stream if method.client_streaming else unary))


async def _ended(context: "grpc.aio.ServicerContext[Any, Any]", method: Method, body: Body) -> bytes:
    metadata = cast(Metadata, context.invocation_metadata() or ())
    answer = await method.answer(body, metadata, context.time_remaining())
    if answer.headers:
        await context.send_initial_metadata(answer.headers)
    if answer.refused is not None:
        await context.abort_with_status(rpc_status.to_status(answer.refused))
    return answer.message


async def _streamed(context: "grpc.aio.ServicerContext[Any, Any]", stream: Streaming | None, body: Body) -> None:
    if stream is None:
        raise TypeError("a stream has no method")
    metadata, begun = cast(Metadata, context.invocation_metadata() or ()), False
    async with aclosing(stream(body, metadata, context.time_remaining())) as answers:
        async for answer in answers:
            if answer.headers and not begun:  # later they would be too late, and an error in the place of the refusal
                await context.send_initial_metadata(answer.headers)
            if answer.refused is not None:
                await context.abort_with_status(rpc_status.to_status(answer.refused))
            await context.write(answer.message)
            begun = True


class Native:
    """pygrpc-native's front: unary calls, which come in batches, so that what they ask of a store goes out together.

    It checks a message's size only when it has all of it: it belongs behind the gateway, which bounds requests. It serves
    no streams: readers that stall would block each other. Each address has a front of its own.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._methods: list[Method] = []
        self._ports: list[_Port] = []

    def add(self, methods: Sequence[Method]) -> None:
        streams = [method.path for method in methods if method.client_streaming or method.stream]
        if streams:
            raise ValueError(f"the native engine serves unary calls only, not {', '.join(streams)}")
        self._methods += methods

    def add_health(self, checks: health.aio.HealthServicer) -> None:
        async def check(body: Body, metadata: Metadata, seconds: float | None, arrived: float | None = None) -> Answer:
            try:
                request = health_pb2.HealthCheckRequest.FromString(cast(bytes, body))
                return Answer((await checks.Check(request, _Unknown())).SerializeToString())
            except _UnknownError:
                return Answer(b"", refused=Status(code=grpc.StatusCode.NOT_FOUND.value[0]))

        self._methods.append(Method(CHECK, check))

    def add_reflection(self, services: Sequence[str]) -> None:
        raise ValueError("the native engine has no reflection: host it in a process on grpcio")

    def listen(self, address: str) -> int:
        self._ports.append(_Port(address, self._methods, self._max_message_bytes))
        return self._ports[-1].number

    async def start(self) -> None:
        for port in self._ports:
            port.start()

    async def stop(self, grace: float) -> None:
        await asyncio.gather(*(port.stop(grace) for port in self._ports))


class _Port:
    """One address of the native engine.

    A thread waits for the first call and wakes the event loop. While calls run, the loop looks for more by itself, every
    millisecond: a thread that hands over each call fights the loop for the GIL, which costs a save 50 µs.
    """

    def __init__(self, address: str, methods: Sequence[Method], max_message_bytes: int) -> None:
        self._methods = methods
        self._max_message_bytes = max_message_bytes
        self._front = NativeGrpcFront(
            address,
            [],
            io_threads=1,
            call_details=True,
            max_concurrent_streams=MAX_STREAMS,
            max_metadata_size=MAX_METADATA,
            reuse_port=True,
        )
        self._running: dict[int, asyncio.Task[None]] = {}
        self._idle = threading.Event()
        self._stopping = False

    @property
    def number(self) -> int:
        return self._front.bound_port

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._front.add_methods([(method.path, False) for method in self._methods])
        self._front.start()
        threading.Thread(target=self._wait, name="calls", daemon=True).start()

    async def stop(self, grace: float) -> None:
        self._stopping = True
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=grace)
        for task in self._running.values():
            task.cancel()
        await asyncio.sleep(FLUSH_SECONDS)
        await self._loop.run_in_executor(None, self._front.close)
        self._idle.set()

    def _wait(self) -> None:
        while (events := self._front.recv_batch_details(TOGETHER)) is not None:
            self._idle.clear()
            try:
                self._loop.call_soon_threadsafe(self._take, events)
            except RuntimeError:  # the loop is closed
                return
            self._idle.wait()

    def _look(self) -> None:
        """Take what has come; with nothing to do, leave the waiting to the thread."""
        events = self._front.recv_batch_details(TOGETHER, 0)
        if events or self._running:
            self._take(events or ())
        else:
            self._idle.set()

    def _take(self, events: Sequence[tuple[Any, ...]]) -> None:
        for kind, call, number, message, _, details in events:
            if kind == EVENT_CANCEL:  # the caller has gone, or its deadline has passed
                if call in self._running:
                    self._running[call].cancel()
            elif self._stopping:
                self._front.fail(call, grpc.StatusCode.UNAVAILABLE.value[0], "This worker is ending; repeat the call.")
            elif len(message) > self._max_message_bytes:
                text = f"Received message larger than max ({len(message)} vs. {self._max_message_bytes})"
                self._front.fail(call, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], text)
            else:
                metadata, _, seconds = details
                self._running[call] = self._loop.create_task(self._answer(call, number, message, metadata, seconds))
        self._loop.call_later(LOOK_SECONDS, self._look)

    async def _answer(self, call: int, number: int, message: bytes, metadata: Metadata, seconds: float | None) -> None:
        try:
            answer = await self._methods[number].answer(message, metadata, seconds)
        except asyncio.CancelledError:
            self._front.fail(call, grpc.StatusCode.CANCELLED.value[0], "Cancelled")  # to nobody, unless we are ending
            raise
        finally:
            del self._running[call]
        if answer.refused is None:
            self._front.respond(call, answer.message, initial_metadata=answer.headers or None)
            return
        details = [*answer.headers, ("grpc-status-details-bin", answer.refused.SerializeToString())]
        self._front.fail(call, answer.refused.code, answer.refused.message, trailing_metadata=details)


class _UnknownError(Exception):
    """Health was asked of a service that is not here."""


class _Unknown:
    """As much of a servicer's context as grpc_health's Check needs."""

    async def abort(self, *_: object) -> NoReturn:
        raise _UnknownError

"""REST without the gateway's transcoder, for methods that are called so often that it matters (docs/decisions/0006-rest.md).

The gateway checks, bounds and routes these requests as all others, and passes them on as they came, over HTTP/1.1. Here a
request becomes the same message, and goes through the same wrapping, as if the transcoder had made a gRPC call of it.
"""

import asyncio
import json
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import cast

import httptools
import structlog
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code

from servers import errors
from servers.engine import Answer, Answering

log = structlog.get_logger()
PASSED_ON = frozenset({b"authorization", b"idempotency-key", b"traceparent", b"tracestate"})
TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
TIMEOUT_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
HEALTH = b"/health"
SESSION = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""A session's id, as the API writes it."""

STATUS = "fb-http-status"
BACKLOG = 1024
AT_ONCE = 8
HTTP = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ABORTED: 409,
    Code.ALREADY_EXISTS: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
"""As google/rpc/code.proto says, and Envoy's transcoder does; every other code is 500."""


@dataclass(frozen=True, slots=True)
class RestMethod:
    """A method's REST binding: what its path matches, and how its JSON is read and written.

    `read` gets the path's part and the body, and does what an engine's Reading does, once the caller is known. `write` gets
    the reply's message.
    """

    path: str
    """The method's gRPC path."""

    verb: bytes
    url: re.Pattern[bytes]
    read: Callable[[str, bytes], tuple[Message, bool]]
    write: Callable[[bytes], bytes]
    stands: bool = False
    """Whether a request that has arrived is carried out though its caller goes."""

    headers: frozenset[bytes] = frozenset()
    """What else of a request's headers the method is told; a front tells all its methods."""

    gather_seconds: float = 0.001
    """How long a request waits for others that begin together with it: long where nobody waits for the answer."""


class RestFront:
    """Serves REST methods to the gateway on one address; `serving` says whether health is well.

    Requests that come within `gather_seconds` begin together: what they ask of the stores goes out together, and so do their
    answers, so that neither this process nor the gateway is woken for each. It takes a tenth off a save's CPU in all processes.
    Of many that wait a few begin at a time, so that the stores work on the first while the others are read: a crowd that began
    at once would be served by one process after the other, and each would be idle in its turn.
    """

    def __init__(self, methods: Sequence[tuple[RestMethod, Answering]], serving: Callable[[], bool]) -> None:
        self._methods = methods
        self._server: asyncio.Server | None = None
        self._waiting: deque[Callable[[], None]] = deque()
        self.serving = serving
        self.passed_on = PASSED_ON.union(*(method.headers for method, _ in methods))
        self.connections: set[_Connection] = set()

    async def listen(self, address: str) -> None:
        """Listen on `unix:PATH`, or on host:port. A socket that a killed worker left is taken over; one that lives is not."""
        self._loop, connection = asyncio.get_running_loop(), partial(_Connection, self)
        kind, _, rest = address.partition(":")
        if kind == "unix":
            if await _lives(rest):
                log.warning("another worker has the REST socket; this one serves gRPC alone", path=rest)
                return
            Path(rest).unlink(missing_ok=True)  # noqa: ASYNC240
            self._server = await self._loop.create_unix_server(connection, rest, backlog=BACKLOG)
        else:
            self._server = await self._loop.create_server(connection, kind, int(rest), backlog=BACKLOG)

    async def stop(self, grace: float) -> None:
        """Take no more connections, let requests that run get their answers for `grace` seconds, and hang up."""
        if self._server is None:
            return
        self._server.close()
        while self._waiting:
            self._begin()
        running = [connection.running for connection in self.connections if connection.running is not None]
        if running:
            await asyncio.wait(running, timeout=grace)
        for connection in tuple(self.connections):
            connection.hang_up()

    def find(self, verb: bytes, url: bytes) -> tuple[RestMethod, Answering, str] | None:
        """Return the method that a request means, and the part of its path."""
        for method, answering in self._methods:
            found = method.url.fullmatch(url)
            if found is not None and verb == method.verb:
                return method, answering, found[1].decode()
        return None

    def soon(self, begin: Callable[[], None], within_seconds: float) -> None:
        """Begin a request together with others."""
        if not self._waiting:
            self._loop.call_later(within_seconds, self._begin)
        self._waiting.append(begin)

    def _begin(self) -> None:
        for _ in range(min(AT_ONCE, len(self._waiting))):
            self._waiting.popleft()()
        if self._waiting:
            self._loop.call_soon(self._begin)


async def _lives(path: str) -> bool:
    """Whether somebody answers at a socket."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


class _Connection(asyncio.Protocol):
    """One connection of the gateway's: one request after the other."""

    def __init__(self, front: RestFront) -> None:
        self._front = front
        self._busy = self._stands = False
        self.running: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._front.connections.add(self)

    def connection_lost(self, failure: Exception | None) -> None:
        self._front.connections.discard(self)
        if self.running is not None and not self._stands:
            self.running.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:  # not from our gateway
            self._transport.close()

    def on_message_begin(self) -> None:
        self._url, self._body = b"", b""
        self._metadata: list[tuple[str, str | bytes]] = []
        self._seconds: float | None = None

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name in self._front.passed_on:  # Envoy writes names in lower case
            self._metadata.append((name.decode(), value.decode("latin-1")))
        elif name == b"grpc-timeout" and (given := TIMEOUT.fullmatch(value)):  # REST clients may shorten a deadline too
            self._seconds = int(given[1]) * TIMEOUT_UNITS[given[2]]

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._busy:  # pipelined: the gateway does not
            self._transport.close()
            return
        found = self._front.find(self._parser.get_method(), self._url)
        if found is None:
            well = self._url == HEALTH and self._front.serving()
            self._write(200 if well else 503 if self._url == HEALTH else 404, b"{}", "")
            return
        self._busy, self._stands = True, found[0].stands
        self._front.soon(partial(self._begin, *found, monotonic()), found[0].gather_seconds)

    def hang_up(self) -> None:
        """Close, once what was written has gone."""
        self._transport.close()

    def _begin(self, method: RestMethod, answering: Answering, part: str, arrived: float) -> None:
        if self._stands or not self._transport.is_closing():
            answer = answering(partial(method.read, part, self._body), self._metadata, self._seconds, arrived)
            self.running = asyncio.get_running_loop().create_task(self._answer(method, answer))

    async def _answer(self, method: RestMethod, answering: Awaitable[Answer]) -> None:
        try:
            self._reply(method, await answering)
        except BaseException:  # nobody answers any more: the gateway hears it at once
            self._transport.close()
            raise
        finally:
            self._busy, self.running = False, None

    def _reply(self, method: RestMethod, answer: Answer) -> None:
        headers = "".join(f"{name}: {value}\r\n" for name, value in answer.headers if name != STATUS)
        if answer.refused is None:
            status = next((int(value) for name, value in answer.headers if name == STATUS), 200)
            self._write(status, method.write(answer.message), headers)
        else:
            body = MessageToJson(answer.refused, always_print_fields_with_no_presence=True, indent=None)
            self._write(HTTP.get(answer.refused.code, 500), body.encode(), headers)

    def _write(self, status: int, body: bytes, headers: str) -> None:
        if not self._transport.is_closing():  # its caller has not gone
            head = f"{_head(status)}content-length: {len(body)}\r\n{headers}\r\n"
            self._transport.write(head.encode("latin-1") + body)


@cache
def _head(status: int) -> str:
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Refused"
    return f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def read_json(body: bytes) -> dict[str, object]:
    """Return the body's JSON object, or refuse it."""
    try:
        given = json.loads(body.decode(), parse_constant=_refuse)  # UTF-8 and nothing else
    except (ValueError, RecursionError):
        raise errors.InvalidField([("", "the body is not valid JSON")]) from None
    if not isinstance(given, dict):
        raise errors.InvalidField([("", "the body has to be a JSON object")])
    return given

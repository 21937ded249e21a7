"""A small HTTP/1.1 client: many kept connections, one request at a time on each. It costs the load's process little."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

CONNECTIONS = 2_000
"""Of one process. More calls than that wait for a connection, and their time runs on."""

CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Broken(ConnectionError):
    """The connection ended before a whole response was there."""


class Http:
    """Requests to one server."""

    def __init__(self, host: str, port: int, *, secure: bool) -> None:
        self._host, self._port = host.strip("[]"), port
        self._name = f"{host}:{port}"
        self._tls = ssl.create_default_context() if secure else None
        self._idle: list[_Connection] = []
        self._room = asyncio.Semaphore(CONNECTIONS)

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Response:
        """Send one request and return its response; raises OSError where none came, and never sends it twice."""
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._name}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        async with self._room:
            connection = await self._connection()
            try:
                response = await connection.exchange("\r\n".join([*lines, "", ""]).encode() + body)
            except BaseException:
                connection.close()
                raise
            if connection.open and response.headers.get("connection", "") != "close":
                self._idle.append(connection)
            else:
                connection.close()
            return response

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        async with asyncio.timeout(CONNECT_SECONDS):
            _, made = await asyncio.get_running_loop().create_connection(_Connection, self._host, self._port, ssl=self._tls)
        return made


class _Connection(asyncio.Protocol):
    """One connection, and the response that it waits for."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waits: asyncio.Future[Response] | None = None

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> Response:
        if self._transport is None:
            raise Broken
        self._buffer.clear()
        self._waits = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waits

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._waits is None or self._waits.done():
            return
        try:
            response = read_response(bytes(self._buffer))
        except ValueError as failure:
            self._waits.set_exception(Broken(str(failure)))
            return
        if response is not None:
            self._waits.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waits is not None and not self._waits.done():
            self._waits.set_exception(Broken("the connection broke"))


def read_response(data: bytes) -> Response | None:
    """Read a response; None: not all of it is there yet. Raises ValueError for what is none."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.partition(":") for line in lines]
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    status = int(first.split(" ", 2)[1])
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _unchunked(rest)
        return None if body is None else Response(status, headers, body)
    size = 0 if status in (204, 304) else int(headers.get("content-length", 0))
    return Response(status, headers, rest[:size]) if len(rest) >= size else None


def _unchunked(data: bytes) -> bytes | None:
    body = bytearray()
    while True:
        line, found, data = data.partition(b"\r\n")
        if not found:
            return None
        size = int(line.partition(b";")[0], 16)
        if len(data) < size + 2:
            return None
        if size == 0:
            return bytes(body)
        body += data[:size]
        data = data[size + 2 :]

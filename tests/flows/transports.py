"""One student's call over each of the three ways in: REST, gRPC-web and native gRPC, all through Envoy's one port.

A call is a method and a request message, whatever carries it, and a reply is a message or a refusal: so that a test can
say "the same" and mean it.
"""

import base64
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

import grpc
import grpc.aio
import httpx
from finalbell.v1 import admin_pb2, content_pb2, integrity_pb2, leaderboard_pb2, lecture_pb2, payment_pb2, scoring_pb2, session_pb2
from google.api import annotations_pb2
from google.api.httpbody_pb2 import HttpBody
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.stack import Stack, bearer

METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for file in (session_pb2, scoring_pb2, leaderboard_pb2, content_pb2, lecture_pb2, payment_pb2, admin_pb2, integrity_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; `http` is REST's status, `raw` everything that a student can read of it."""

    code: str
    message: Message | None
    status: status_pb2.Status | None
    http: int
    raw: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> Any:
        """The message of a call that went well."""
        assert self.message is not None, f"{self.code}: {self.status}"
        return self.message

    @property
    def reason(self) -> str:
        """The stable reason of a refusal."""
        return self._detail(error_details_pb2.ErrorInfo()).reason

    @property
    def domain(self) -> str:
        """Whose reason it is."""
        return self._detail(error_details_pb2.ErrorInfo()).domain

    @property
    def facts(self) -> dict[str, str]:
        """The metadata of a refusal."""
        return dict(self._detail(error_details_pb2.ErrorInfo()).metadata)

    @property
    def fields(self) -> list[str]:
        """The paths of the fields that a refusal names."""
        return [one.field for one in self._detail(error_details_pb2.BadRequest()).field_violations]

    @property
    def retry_ms(self) -> int:
        """When a refusal says to come back; 0 when it does not."""
        return self._detail(error_details_pb2.RetryInfo()).retry_delay.ToMilliseconds()

    def _detail(self, wanted: Any) -> Any:
        for detail in self.status.details if self.status else ():
            if detail.Is(wanted.DESCRIPTOR):
                detail.Unpack(wanted)
        return wanted


class BrokenOff(ConnectionError):
    """The connection broke inside an answer: gRPC's client calls it INTERNAL, and nobody knows whether the call happened."""


class Transport(Protocol):
    """A way in, with one caller's token."""

    async def call(self, method: str, request: Message, *, key: str | None = None, headers: Mapping[str, str] = ...) -> Reply: ...


class Rest:
    """JSON over HTTP, by the `google.api.http` annotations."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def call(self, method: str, request: Message, *, key: str | None = None, headers: Mapping[str, str] = {}) -> Reply:
        return await self.send(method, json_format.MessageToDict(request), key=key, headers=headers)

    async def send(
        self, method: str, fields: Mapping[str, Any], *, key: str | None = None, headers: Mapping[str, str] = {}
    ) -> Reply:
        """Call with JSON fields as they are, whether a message could hold them or not."""
        rule = METHODS[method].GetOptions().Extensions[annotations_pb2.http]
        verb, left = rule.WhichOneof("pattern"), dict(fields)
        path = re.sub(r"{(\w+)}", lambda found: quote(str(left.pop(_camel(found[1]), "")), safe=""), getattr(rule, verb))
        sent = {**headers, **({"idempotency-key": key} if key else {})}
        body: str | bytes | None = json.dumps(left) if rule.body == "*" else None
        query = left if rule.body != "*" else {}
        if rule.body and rule.body != "*":  # raw bytes
            body = base64.b64decode(query.pop(_camel(rule.body), {}).get("data", ""))
        if body is not None:
            sent["content-type"] = "application/json"
        reply = await self._http.request(verb.upper(), path, params=query, content=body, headers=sent)
        return rest_reply(METHODS[method], rule.response_body, reply)


class Web:
    """gRPC-web, framed by hand, as a browser's client does it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def call(self, method: str, request: Message, *, key: str | None = None, headers: Mapping[str, str] = {}) -> Reply:
        found, data = METHODS[method], request.SerializeToString()
        sent = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", **headers}
        if key:
            sent["idempotency-key"] = key
        framed = b"\0" + len(data).to_bytes(4, "big") + data
        reply = await self._http.post(_path(found), content=framed, headers=sent)
        assert reply.headers["content-type"].startswith("application/grpc-web"), (reply.status_code, reply.headers)
        assert reply.status_code == 200
        return _web_reply(found, reply)


class Native:
    """gRPC over HTTP/2."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None) -> None:
        self._channel = channel
        self._token = token

    async def call(self, method: str, request: Message, *, key: str | None = None, headers: Mapping[str, str] = {}) -> Reply:
        found = METHODS[method]
        make = self._channel.unary_unary(
            _path(found),
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(found.output_type).FromString,
        )
        sent = [*(bearer(self._token) if self._token else []), *headers.items(), *([("idempotency-key", key)] if key else [])]
        call = make(request, metadata=sent, timeout=15)
        try:
            message = await call
        except grpc.aio.AioRpcError as error:
            if "RST_STREAM" in (error.details() or ""):
                raise BrokenOff from error
            return native_refusal(error)
        answered = {str(name): str(value) for name, value in await call.initial_metadata() or ()}
        return Reply("OK", message, None, 0, message.SerializeToString(), answered)


TRANSPORTS = ("rest", "grpc-web", "grpc")


@asynccontextmanager
async def transport(name: str, stack: Stack, token: str | None) -> AsyncIterator[Transport]:
    """Open one way in for one caller; without a token nobody is calling."""
    if name == "grpc":
        async with stack.channel() as channel:
            yield Native(channel, token)
    else:
        async with stack.rest(token) as http:
            yield Rest(http) if name == "rest" else Web(http)


def rest_reply(method: MethodDescriptor, response_body: str, reply: httpx.Response) -> Reply:
    """Read a REST reply as the message that gRPC would have given."""
    raw = reply.content + str(reply.headers).encode()
    headers = dict(reply.headers)
    message = GetMessageClass(method.output_type)()
    if reply.status_code == 304:
        return Reply("OK", message, None, 304, raw, headers)
    if reply.status_code == 200 and isinstance(message, HttpBody):
        raw_body = HttpBody(content_type=headers["content-type"], data=reply.content)
        return Reply("OK", raw_body, None, 200, raw, headers)
    body = reply.json()
    if reply.status_code >= 400:
        status = json_format.ParseDict(body, status_pb2.Status())
        return Reply(code_pb2.Code.Name(status.code), None, status, reply.status_code, raw, headers)
    json_format.ParseDict({_camel(response_body): body} if response_body else body, message)
    return Reply("OK", message, None, reply.status_code, raw, headers)


def native_refusal(error: grpc.aio.AioRpcError) -> Reply:
    """Read a refusal that gRPC's client raised."""
    status = rpc_status.from_call(error)
    raw = repr((error.details(), error.initial_metadata(), error.trailing_metadata())).encode()
    headers = {str(name): str(value) for name, value in (*(error.initial_metadata() or ()), *(error.trailing_metadata() or ()))}
    return Reply(error.code().name, None, status, 0, raw + (status.SerializeToString() if status else b""), headers)


def _web_reply(method: MethodDescriptor, reply: httpx.Response) -> Reply:
    message, trailers, rest = None, dict(reply.headers), reply.content
    while rest:
        size = int.from_bytes(rest[1:5], "big")
        frame, kind, rest = rest[5 : 5 + size], rest[0], rest[5 + size :]
        if kind & 0x80:
            trailers |= dict(line.split(":", 1) for line in frame.decode().strip().split("\r\n"))
        else:
            message = GetMessageClass(method.output_type).FromString(frame)
    number, details = int(trailers["grpc-status"]), trailers.get("grpc-status-details-bin", "")
    raw = reply.content + str(trailers).encode()
    if number:
        packed = base64.b64decode(details + "=" * (-len(details) % 4))
        return Reply(code_pb2.Code.Name(number), None, status_pb2.Status.FromString(packed), 0, raw + packed, trailers)
    return Reply("OK", message, None, 0, raw, trailers)


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)

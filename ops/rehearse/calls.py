"""The calls of a virtual student, over REST or gRPC, and what came back."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

import grpc
import grpc.aio
from finalbell.v1 import content_pb2, scoring_pb2, session_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ops.client import Gateway
from ops.rehearse.http import Http

CHANNELS = 4
CODES = {code.value[0]: code.name for code in grpc.StatusCode}
OPTIONS = [("grpc.max_receive_message_length", 64 * 1024 * 1024), ("grpc.max_reconnect_backoff_ms", 1_000)]


@dataclass(frozen=True, slots=True)
class Rpc:
    """One call: its service, its deadline in seconds, and its REST form. `shows` is the field that REST shows as the whole."""

    service: str
    seconds: float
    verb: str
    path: Callable[[Any], str]
    reply: type[Message]
    shows: str = ""


def _session(request: Any) -> str:
    return f"/api/v1/sessions/{quote(request.session_id, safe='')}"


def _exam(request: Any) -> str:
    return f"/api/v1/exams/{quote(request.exam_id, safe='')}"


RPCS: Mapping[str, Rpc] = {
    "StartSession": Rpc("SessionService", 5, "POST", lambda r: f"{_exam(r)}/sessions", session_pb2.StartSessionResponse, "session"),
    "GetSession": Rpc("SessionService", 5, "GET", _session, session_pb2.GetSessionResponse, "session"),
    "SaveAnswer": Rpc("SessionService", 5, "PUT", lambda r: f"{_session(r)}/answers", session_pb2.SaveAnswerResponse),
    "SubmitSession": Rpc("SessionService", 10, "POST", lambda r: f"{_session(r)}/submit", session_pb2.SubmitSessionResponse),
    "GetResult": Rpc("ScoringService", 5, "GET", lambda r: f"{_session(r)}/result", scoring_pb2.GetResultResponse, "result"),
    "GetPaper": Rpc("ContentService", 10, "GET", lambda r: f"{_exam(r)}/paper", content_pb2.GetPaperResponse, "paper"),
}
IN_PATH = frozenset({"sessionId", "examId"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: gRPC's name of the code ("": nothing did), and the message or what a refusal says."""

    code: str
    message: Any = None
    reason: str = ""
    text: str = ""
    retry_ms: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.code == "OK"


NOTHING = Answer("")


class Way(Protocol):
    """A way in, shared by all students of a process."""

    async def call(self, rpc: str, request: Message, token: str, key: str | None = None) -> Answer: ...

    async def close(self) -> None: ...


def way(gateway: Gateway, kind: str) -> Way:
    """Open a way in: `rest` or `grpc`."""
    return Native(gateway) if kind == "grpc" else Rest(gateway)


class Rest:
    """JSON over HTTP."""

    def __init__(self, gateway: Gateway) -> None:
        self._http = Http(gateway.host, gateway.port, secure=gateway.secure)

    async def close(self) -> None:
        self._http.close()

    async def call(self, rpc: str, request: Message, token: str, key: str | None = None) -> Answer:
        how = RPCS[rpc]
        headers = {"authorization": f"Bearer {token}"} | ({"idempotency-key": key} if key else {})
        body = b""
        if how.verb != "GET":
            headers["content-type"] = "application/json"
            said = json_format.MessageToDict(request)
            body = json.dumps({name: value for name, value in said.items() if name not in IN_PATH}).encode()
        try:
            async with asyncio.timeout(how.seconds):
                response = await self._http.request(how.verb, how.path(request), headers, body)
            return _refused(json.loads(response.body)) if response.status >= 400 else _shown(how, response.body)
        except (OSError, TimeoutError, ValueError, LookupError, json_format.ParseError):
            return NOTHING


def _shown(how: Rpc, body: bytes) -> Answer:
    message = how.reply()
    json_format.Parse(body, getattr(message, how.shows) if how.shows else message, ignore_unknown_fields=True)
    return Answer("OK", message)


def _refused(status: Mapping[str, Any]) -> Answer:
    details = {detail["@type"].rpartition(".")[2]: detail for detail in status.get("details", ())}
    info, retry = details.get("ErrorInfo", {}), details.get("RetryInfo", {}).get("retryDelay", "0s")
    return Answer(
        code=CODES[status["code"]],
        reason=info.get("reason", ""),
        text=status.get("message", ""),
        retry_ms=round(float(retry.removesuffix("s")) * 1000),
        facts=info.get("metadata", {}),
    )


class Native:
    """gRPC over HTTP/2, on a few connections."""

    def __init__(self, gateway: Gateway) -> None:
        options = [*OPTIONS, ("grpc.enable_http_proxy", int(gateway.remote))]
        self._channels = [_channel(gateway, [*options, ("grpc.channel_id", number)]) for number in range(CHANNELS)]
        self._calls = [{name: _method(channel, name, how) for name, how in RPCS.items()} for channel in self._channels]
        self._turn = 0

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def call(self, rpc: str, request: Message, token: str, key: str | None = None) -> Answer:
        self._turn += 1
        metadata = [("authorization", f"Bearer {token}"), *([("idempotency-key", key)] if key else [])]
        try:
            make = self._calls[self._turn % CHANNELS][rpc]
            return Answer("OK", await make(request, metadata=metadata, timeout=RPCS[rpc].seconds))
        except grpc.aio.AioRpcError as failure:
            return _native_refusal(failure)


def _channel(gateway: Gateway, options: list[tuple[str, int]]) -> grpc.aio.Channel:
    if gateway.secure:
        return grpc.aio.secure_channel(gateway.target, grpc.ssl_channel_credentials(), options=options)
    return grpc.aio.insecure_channel(gateway.target, options=options)


def _method(channel: grpc.aio.Channel, name: str, how: Rpc) -> Any:
    return channel.unary_unary(
        f"/finalbell.v1.{how.service}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=how.reply.FromString,
    )


def _native_refusal(failure: grpc.aio.AioRpcError) -> Answer:
    """Read a refusal; a connection that broke, or a deadline of our own, is no answer (docs/clients.md)."""
    try:
        status = rpc_status.from_call(failure)
    except (ValueError, DecodeError):
        status = None
    code = failure.code()
    if status is None:
        ours = code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        gone = ours or "RST_STREAM" in (failure.details() or "")
        return NOTHING if gone else Answer(code.name, text=failure.details() or "")
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for wanted in (info, retry):
            detail.Unpack(wanted)
    return Answer(code.name, None, info.reason, status.message, retry.retry_delay.ToMilliseconds(), dict(info.metadata))

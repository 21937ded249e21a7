"""Every handler is wrapped alike: what is not said in the policy is not allowed, and nothing unexpected leaks."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import grpc.aio
import pytest
import structlog
from finalbell.v1 import admin_pb2, content_pb2, leaderboard_pb2, policy_pb2, scoring_pb2, session_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ops.home import Home
from ops.keys import make_keys, mint
from servers import errors
from servers.__main__ import log_json
from servers.auth import Tokens
from servers.engine import make_engine
from servers.serving.rates import Rates
from servers.serving.run import MAX_MESSAGE_BYTES
from servers.serving.wrap import Call, InFlight, methods, refused
from servers.session.service import _committed
from stores.pipeline import Overloaded
from tests.stack import bearer

ISSUER, AUDIENCE = "https://finalbell.local", "finalbell"
SERVICE = scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"]
SESSION = "0198c0de-0000-7000-8000-000000000000"


class Scoring:
    """A servicer whose GetResult does what a test asks for; its other calls do nothing."""

    def __init__(self) -> None:
        self.does: Any = None

    async def GetResult(self, request: scoring_pb2.GetResultRequest, call: Call) -> scoring_pb2.GetResultResponse:
        await self.does(call)
        return scoring_pb2.GetResultResponse()

    def __getattr__(self, name: str) -> Any:
        """Every other call of the service, which nobody makes here but for the one that needs no token."""

        async def call(*_: object) -> scoring_pb2.ListReceiptKeysResponse:
            return scoring_pb2.ListReceiptKeysResponse()

        return call


@pytest.fixture
async def wrapped(tmp_path: Path) -> AsyncIterator[tuple[Scoring, grpc.aio.Channel, str, InFlight]]:
    home = Home(tmp_path)
    home.make()
    make_keys(home)
    servicer, in_flight = Scoring(), InFlight()
    server = make_engine("grpcio", MAX_MESSAGE_BYTES)
    server.add(methods(SERVICE, servicer, Tokens(home.jwks, ISSUER, AUDIENCE), Rates(0, 0), in_flight))
    port = server.listen("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, channel, mint(tmp_path, student="ada"), in_flight
    await server.stop(0)


def call(channel: grpc.aio.Channel, metadata: list[tuple[str, str]], body: bytes | None = None, **options: Any) -> Any:
    request = body if body is not None else scoring_pb2.GetResultRequest(session_id=SESSION).SerializeToString()
    return channel.unary_unary("/finalbell.v1.ScoringService/GetResult")(request, metadata=metadata, **options)


def reason(failure: grpc.aio.AioRpcError) -> tuple[str, error_details_pb2.ErrorInfo]:
    status, info = rpc_status.from_call(failure), error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    return status.message, info


async def nothing(call: Call) -> None:
    return None


async def test_an_unexpected_failure_leaves_with_an_id_and_nothing_else(wrapped: Any, capsys: pytest.CaptureFixture[str]) -> None:
    servicer, channel, token, _ = wrapped

    async def breaks(call: Call) -> None:
        raise RuntimeError("SELECT secret FROM keys.answer_key")

    servicer.does = breaks

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call(channel, bearer(token))

    message, info = reason(failed.value)
    logged = capsys.readouterr().out
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in message + str(info)
    assert info.metadata["id"] in logged
    assert "RuntimeError" in logged


def test_a_traceback_in_the_log_shows_no_variables() -> None:
    def fails(answer: str) -> None:
        raise RuntimeError("a bug")

    log = io.StringIO()
    before = structlog.get_config()
    log_json(log)
    try:
        fails("canary-answer")
    except RuntimeError as failure:
        structlog.get_logger().error("rpc failed", exc_info=failure)
    finally:
        structlog.configure(**before)

    assert "a bug" in log.getvalue()
    assert "canary-answer" not in log.getvalue()


@pytest.mark.parametrize(
    "failure",
    [
        asyncpg.InternalClientError('cannot switch to state 12; protocol is in the "failed" state'),
        asyncpg.InterfaceError("pool is closing"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.DiskFullError("could not extend file: No space left on device"),
        asyncpg.TooManyConnectionsError("sorry, too many clients already"),
        asyncpg.QueryCanceledError("canceling statement due to user request"),
        asyncpg.CrashShutdownError("terminating connection because of crash of another server process"),
        asyncpg.CannotConnectNowError("the database system is in recovery mode"),
        asyncpg.PostgresIOError("could not read block 7"),
        asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_postgresql_that_cannot_is_a_store_that_is_away(failure: Exception) -> None:
    assert isinstance(refused(failure), errors.StoreUnavailable)


@pytest.mark.parametrize("failure", [asyncpg.UndefinedTableError("no such table"), asyncpg.InsufficientPrivilegeError("not yours")])
def test_a_statement_that_is_wrong_is_a_fault_of_ours(failure: Exception) -> None:
    assert isinstance(refused(failure), errors.Internal)


def test_a_queue_that_is_full_after_a_commit_is_no_reason_to_say_that_nothing_was_applied() -> None:
    with pytest.raises(errors.StoreUnavailable), _committed():
        raise Overloaded


async def test_a_call_without_a_token_is_not_even_validated(wrapped: Any) -> None:
    servicer, channel, _, _ = wrapped
    servicer.does = nothing

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(channel, [], body=b"")

    assert reason(refused.value)[1].reason == "TOKEN_INVALID"


async def test_a_violated_field_is_named_as_json_names_it(wrapped: Any) -> None:
    servicer, channel, token, _ = wrapped
    servicer.does = nothing

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(channel, bearer(token), body=scoring_pb2.GetResultRequest(session_id="x").SerializeToString())

    status, bad = rpc_status.from_call(refused.value), error_details_pb2.BadRequest()
    assert status is not None
    assert status.details[1].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == ["sessionId"]


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x7f"])
async def test_bytes_that_are_no_message_are_refused_like_any_other_bad_input(wrapped: Any, body: bytes) -> None:
    servicer, channel, token, _ = wrapped
    servicer.does = nothing

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(channel, bearer(token), body=body)

    message, info = reason(refused.value)
    assert (refused.value.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert "Error parsing" not in message


async def test_large_headers_are_no_reason_to_refuse_a_call(wrapped: Any) -> None:
    servicer, channel, token, _ = wrapped
    servicer.does = nothing

    for _ in range(8):
        await call(channel, [*bearer(token), ("x-cookie", "y" * 30_000)])


async def test_no_work_goes_on_for_a_caller_who_has_given_up(wrapped: Any) -> None:
    servicer, channel, token, _ = wrapped
    ended = asyncio.Event()

    async def waits(call: Call) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    servicer.does = waits

    with pytest.raises(grpc.aio.AioRpcError) as late:
        await call(channel, bearer(token), timeout=1)

    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(30):
        await ended.wait()


async def test_the_end_waits_for_a_call_that_is_being_answered(wrapped: Any) -> None:
    servicer, channel, token, in_flight = wrapped
    inside, leave = asyncio.Event(), asyncio.Event()

    async def waits(call: Call) -> None:
        inside.set()
        await leave.wait()

    servicer.does = waits
    running = asyncio.ensure_future(call(channel, bearer(token)))
    await inside.wait()
    finished = asyncio.ensure_future(in_flight.finished())
    await asyncio.sleep(0)
    still_waiting = not finished.done()
    leave.set()

    await running
    await finished

    assert still_waiting


async def test_a_message_over_the_bound_never_reaches_a_handler(wrapped: Any) -> None:
    servicer, channel, token, _ = wrapped
    servicer.does = nothing

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(channel, bearer(token), body=b"\x0a" + bytes([0x80, 0x80, 0x08]) + b"x" * 131_072)

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_server_does_not_start_with_an_rpc_that_has_no_policy(tmp_path: Path) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="bare.proto", package="bare", dependency=["finalbell/v1/scoring.proto"])
    method = descriptor_pb2.MethodDescriptorProto(name="GetResult")
    method.input_type, method.output_type = ".finalbell.v1.GetResultRequest", ".finalbell.v1.GetResultResponse"
    file.service.add(name="Bare").method.append(method)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    bare = descriptor_pool.Default().FindServiceByName("bare.Bare")

    with pytest.raises(TypeError, match="policy"):
        methods(bare, Scoring(), Tokens(tmp_path, ISSUER, AUDIENCE), Rates(0, 0), InFlight())


def test_every_rpc_says_who_may_call_it() -> None:
    files = [module.DESCRIPTOR for module in (admin_pb2, content_pb2, leaderboard_pb2, scoring_pb2, session_pb2)]
    policies = {
        method.full_name: method.GetOptions().Extensions[policy_pb2.policy].access
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    }

    assert len(policies) >= 19
    assert [name for name, access in policies.items() if access == policy_pb2.Policy.ACCESS_UNSPECIFIED] == []
    assert [name for name, access in policies.items() if access == policy_pb2.Policy.PUBLIC] == [
        "finalbell.v1.ContentService.GetSealedPaper",
        "finalbell.v1.ScoringService.ListReceiptKeys",
    ]
    assert all(
        "Admin" not in name or access in (policy_pb2.Policy.STAFF, policy_pb2.Policy.ADMIN) for name, access in policies.items()
    )

"""gRPC's health service, asked through the gateway, which asks the session service."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.stack import ENGINE, Stack

SERVING = health_pb2.HealthCheckResponse.SERVING


async def test_whoever_asks_for_health_needs_no_token(stack: Stack) -> None:
    async with stack.channel() as channel:
        checked = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)

    assert checked.status == SERVING


@pytest.mark.skipif("grpcio" in ENGINE, reason="grpcio serves streams")
async def test_the_native_engine_says_that_health_cannot_be_watched_which_clients_take_as_healthy(stack: Stack) -> None:
    async with stack.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=5).read()

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.skipif("grpcio" not in ENGINE, reason="the native engine serves no streams")
async def test_on_grpcio_health_can_be_watched(stack: Stack) -> None:
    async with stack.channel() as channel:
        watched = await health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=5).read()

    assert watched.status == SERVING

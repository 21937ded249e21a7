"""The gateway as a fixture."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tests.gateway.harness import SERVICES, Edge, Services, rest_front, run_edge, servicer


@pytest.fixture(scope="session")
async def _servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Services]:
    services = Services(rest=tmp_path_factory.mktemp("rest") / "sock")
    front = rest_front(services)
    await front.listen(f"unix:{services.rest}")
    servers = []
    for upstream, (_, stubs, name) in SERVICES.items():
        server = grpc.aio.server()
        getattr(stubs, f"add_{name}Servicer_to_server")(servicer(upstream, services), server)
        checks = health.aio.HealthServicer()
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        if upstream == "content":
            reflection.enable_server_reflection(["finalbell.v1.ContentService", reflection.SERVICE_NAME], server)
        services.ports[upstream] = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
    yield services
    await front.stop(0)
    await asyncio.gather(*(server.stop(0) for server in servers))


@pytest.fixture
def services(_servers: Services) -> Services:
    """The services, fresh for each test."""
    _servers.seen.clear()
    _servers.replies.clear()
    return _servers


@pytest.fixture(scope="session")
async def edge(_servers: Services, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """The gateway with all its services up."""
    upstreams = {name: [("127.0.0.1", port)] for name, port in _servers.ports.items()}
    async for edge in run_edge(tmp_path_factory.mktemp("edge"), upstreams, _servers.rest):
        yield edge


@pytest.fixture(scope="session")
async def lonely_edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """A gateway with nothing behind it."""
    upstreams = {name: [("127.0.0.1", 1)] for name in SERVICES}
    async for edge in run_edge(tmp_path_factory.mktemp("lonely"), upstreams, Path("/nowhere")):
        yield edge


@pytest.fixture(scope="session")
async def strict_edge(_servers: Services, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """A gateway with little patience and room, in front of the session service and of a content service that hangs up."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        upstreams = {name: [("127.0.0.1", port)] for name, port in _servers.ports.items()}
        upstreams["content"] = [server.sockets[0].getsockname()]
        home = tmp_path_factory.mktemp("strict")
        async for edge in run_edge(home, upstreams, _servers.rest, max_requests="1", max_stream_duration="0.5s", timeout="0.5s"):
            yield edge

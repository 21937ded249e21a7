"""Asks each process of a stack whether it works: by its own protocol, within a second or two."""

import http.client
import socket
from urllib.parse import SplitResult, urlsplit

import grpc
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 1.0


def answers_sql(url: str) -> bool:
    """Ask PostgreSQL; its own database is there before ours is."""
    try:
        with psycopg.connect(url.removesuffix("/finalbell") + "/postgres", connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.Error:
        return False


def answers_ping(url: str) -> bool:
    """Ask Redis, which refuses while it still loads its log."""
    address = urlsplit(url)
    try:
        with _connected(address) as connection, connection.makefile("rb") as answers:
            connection.sendall(f"AUTH {address.username} {address.password}\r\nPING\r\n".encode())
            return [answers.readline(), answers.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
    except OSError:
        return False


def greets(url: str) -> bool:
    """Ask NATS, which speaks first."""
    address = urlsplit(url)
    try:
        with _connected(address) as connection:
            return connection.recv(5) == b"INFO "
    except OSError:
        return False


def serves(listen: str) -> bool:
    """Ask a service's own health check."""
    with grpc.insecure_channel(listen, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def page(address: str, path: str) -> str | None:
    """Read a page of `host:port`, past any proxy; None unless it answers 200."""
    connection = http.client.HTTPConnection(address, timeout=SECONDS)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.read().decode() if reply.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def listens(port: int) -> bool:
    """Whether something listens on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS).close()
    except OSError:
        return False
    return True


def _connected(address: SplitResult) -> socket.socket:
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=SECONDS)

"""The HTTP/2 engine under the services. Services know grpcio's aio API and nothing of this choice."""

import grpc
import grpc.aio

OPTIONS = (
    ("grpc.so_reuseport", 1),  # several workers of one service share a port
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_metadata_size", 96 * 1024),  # what the gateway lets through (60 KB) and adds: above it grpc refuses at random
    ("grpc.absolute_max_metadata_size", 128 * 1024),
)


def make_server(max_message_bytes: int) -> grpc.aio.Server:
    """Return a server of the `grpcio` engine; a larger message is RESOURCE_EXHAUSTED before any handler runs."""
    return grpc.aio.server(options=[*OPTIONS, ("grpc.max_receive_message_length", max_message_bytes)])

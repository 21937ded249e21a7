"""How commands reach a finalbell: through its gateway, as an admin, over gRPC."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from ops.keys import mint

OPTIONS = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 21)]  # room for every error of a file
SECONDS = 120

HomeOption = typer.Option(Path(".finalbell"), "--home", help="The local stack's folder.")
ServerOption = typer.Option(None, "--server", help="Another finalbell's gateway, http(s)://host:port; needs --token.")
TokenOption = typer.Option(None, "--token", envvar="FINALBELL_TOKEN", help="An admin token for --server.")


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Sends the token with every call, and gives every call a deadline."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._authorized(details), request)

    def intercept_stream_unary(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(self._authorized(details), requests)

    def _authorized(self, details: Any) -> Any:
        return details._replace(metadata=[("authorization", f"Bearer {self._token}")], timeout=SECONDS)


@contextmanager
def client(home: Path, server: str | None, token: str | None) -> Iterator[grpc.Channel]:
    """Open the gateway of a local stack with a fresh admin token, or of `server` with the given one.

    A refusal ends the command with exit code 1 and what the server says, every field of it.
    """
    if server is None:
        server = _gateway(home)
        token = token or mint(home, student="operator", roles=("admin",), ttl_seconds=300)
    elif not token:
        raise typer.BadParameter("give --token (or FINALBELL_TOKEN) with --server")
    url = urlsplit(server)
    secure = url.scheme == "https"
    target = url.netloc if url.port else f"{url.netloc}:{443 if secure else 80}"
    channel = (
        grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=OPTIONS)
        if secure
        else grpc.insecure_channel(target, options=OPTIONS)
    )
    try:
        yield grpc.intercept_channel(channel, _Bearer(token))
    except grpc.RpcError as failure:
        _explain(failure)
        raise typer.Exit(1) from None
    finally:
        channel.close()


def print_json(message: Message) -> None:
    """Print a reply as the REST contract would."""
    typer.echo(MessageToJson(message, always_print_fields_with_no_presence=True, ensure_ascii=False))


def _gateway(home: Path) -> str:
    try:
        return str(json.loads((home / "stack.json").read_text())["gateway"])
    except (OSError, ValueError, KeyError):
        typer.echo(f"No stack runs in {home}. Start one with 'finalbell up', or name another with --home or --server.", err=True)
        raise typer.Exit(1) from None


def _explain(failure: grpc.RpcError) -> None:
    """Print a refusal's message and each violated field."""
    status = rpc_status.from_call(failure)
    print(status.message if status else f"{failure.code().name}: {failure.details()}", file=sys.stderr)  # noqa: T201
    bad = error_details_pb2.BadRequest()
    for detail in status.details if status else ():
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                print(f"  {violation.field}: {violation.description}", file=sys.stderr)  # noqa: T201

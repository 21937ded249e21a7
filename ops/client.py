"""How commands reach a finalbell: through its gateway, as an admin."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from ops.home import Home

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from ops.admin import Admin

HomeOption = typer.Option(Path(".finalbell"), "--home", help="The local stack's folder.")
ServerOption = typer.Option(None, "--server", help="Another finalbell's gateway, http(s)://host:port; needs --token.")
TokenOption = typer.Option(None, "--token", envvar="FINALBELL_TOKEN", help="An admin token for --server.")


@dataclass(frozen=True, slots=True)
class Gateway:
    """A finalbell's front door: `remote` is one that --server named."""

    host: str
    port: int
    secure: bool
    remote: bool

    @property
    def target(self) -> str:
        """Where gRPC goes."""
        return f"{self.host}:{self.port}"


def gateway(home: Path, server: str | None) -> Gateway:
    """Return where a local stack's gateway is, or the one of `server`."""
    url = urlsplit(server or _gateway(home))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise typer.BadParameter("--server takes http(s)://host:port")
    secure = url.scheme == "https"
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return Gateway(host, url.port or (443 if secure else 80), secure, remote=server is not None)


@contextmanager
def client(home: Path, server: str | None, token: str | None, *, name: str = "operator") -> Iterator["Admin"]:
    """Open the gateway of a local stack with a fresh admin token in that name, or of `server` with the given one.

    A refusal ends the command with exit code 1 and what the server says, every field of it.
    """
    from grpc import RpcError

    from ops.admin import Admin, explain

    if server is not None and not token:
        raise typer.BadParameter("give --token (or FINALBELL_TOKEN) with --server")
    door = gateway(home, server)
    own = token if server and token else _own_token(home, name)
    admin = Admin(door.target, own, secure=door.secure, through_proxy=door.remote)
    try:
        yield admin
    except RpcError as failure:
        for line in explain(failure):
            typer.echo(line, err=True)
        raise typer.Exit(1) from None
    finally:
        admin.close()


def print_json(message: "Message") -> None:
    """Print a reply as the REST contract would."""
    from ops.admin import as_json

    typer.echo(as_json(message))


def _own_token(home: Path, name: str) -> str:
    from ops.keys import mint

    return mint(home, student=name, roles=("admin",), ttl_seconds=300)


def _gateway(home: Path) -> str:
    place = Home(home.absolute())
    stack = place.stack()
    if stack is None or place.holder() is None:  # a killed supervisor leaves its file
        typer.echo(f"No stack runs in {home}. Start one with 'finalbell up', or name another with --home or --server.", err=True)
        raise typer.Exit(1)
    return str(stack["gateway"])

"""`python -m ops.sandbox`: the payment gateway of a local stack, on 127.0.0.1."""

import asyncio
import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from ops.sandbox import api
from ops.sandbox.database import InUse, opened
from ops.sandbox.outbox import Outbox
from ops.sandbox.page import Pages
from ops.sandbox.sender import Sender, clock_ms
from ops.sandbox.till import Till

SHORTEST_SECRET = 16
DRAIN_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the gateway shares with its shop: the key of its API, and what webhooks are signed with, by each of them."""

    api_key: str
    webhook_secrets: tuple[str, ...]


def main(
    port: Annotated[int, typer.Option(help="Where it listens, on 127.0.0.1.", min=1, max=65535)],
    home: Annotated[Path, typer.Option(help="The folder of its memory, made where there is none.")],
    webhook: Annotated[str, typer.Option(help="Where webhooks go: http://127.0.0.1:8080/api/v1/payments/webhook/sandbox.")],
    secret_file: Annotated[Path, typer.Option(help='JSON: {"api_key": "…", "webhook_secrets": ["…"]}, 16 characters at least.')],
    page_url: Annotated[str, typer.Option(help="Where browsers reach it. Default: http://127.0.0.1:PORT.")] = "",
) -> None:
    """Run a payment gateway for local use: an HTTP API, a checkout page, and signed webhooks. No money moves."""
    secrets = read_secrets(secret_file)
    if not re.fullmatch(r"https?://[^\s/]+/\S*", webhook):
        raise typer.BadParameter("--webhook is an http or https URL")
    signal.signal(signal.SIGTERM, _ended)  # uvicorn hears signals while it serves, and then passes them on
    signal.signal(signal.SIGINT, _ended)
    try:
        asyncio.run(serve(port, home, webhook, secrets, page_url.rstrip("/") or f"http://127.0.0.1:{port}"))
    except InUse as reason:
        typer.echo(str(reason), err=True)
        raise typer.Exit(1) from None


def read_secrets(file: Path) -> Secrets:
    """Read the secrets; raises BadParameter for a file that holds none, or short ones."""
    try:
        found = json.loads(file.read_text())
        secrets = Secrets(str(found["api_key"]), tuple(str(one) for one in found["webhook_secrets"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise typer.BadParameter(f"{file} does not hold what it should: see --help") from None
    if not secrets.webhook_secrets or any(len(one) < SHORTEST_SECRET for one in (secrets.api_key, *secrets.webhook_secrets)):
        raise typer.BadParameter(f"{file} holds a secret that is missing or shorter than {SHORTEST_SECRET} characters")
    return secrets


async def serve(port: int, home: Path, webhook: str, secrets: Secrets, page_url: str) -> None:
    """Serve until a signal comes. Should sending ever break, all of it ends, so that somebody starts it again."""
    connection = opened(home)
    outbox = Outbox(connection)
    till = Till(connection, outbox, clock_ms)
    sender = Sender(till, outbox, webhook, secrets.webhook_secrets)
    routes = [*api.routes(till, outbox, secrets.api_key, page_url), *Pages(till, outbox, sender).routes()]
    own_names = ["127.0.0.1", "localhost", urlsplit(page_url).hostname or ""]
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=own_names)  # a strange name that leads here is somebody's trick
    config = uvicorn.Config(
        Starlette(routes=routes, middleware=[guard]),
        host="127.0.0.1",
        port=port,
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(sender.run())
        await uvicorn.Server(config).serve()
        sending.cancel()
    connection.close()


def _ended(number: int, frame: object) -> None:
    """Take a signal that uvicorn has acted upon."""


if __name__ == "__main__":
    typer.run(main)

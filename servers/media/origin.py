"""The media origin: serves the files of lectures to whoever has a link, with ranges. It asks no store."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Protocol

import structlog
import uvicorn
from prometheus_client import Counter
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from servers.links import Gate

TYPES = {
    "m3u8": "application/vnd.apple.mpegurl",
    "m4s": "video/iso.segment",
    "mp4": "video/mp4",
    "m4a": "audio/mp4",
    "ts": "video/mp2t",
    "aac": "audio/aac",
    "vtt": "text/vtt; charset=utf-8",
    "jpg": "image/jpeg",
    "png": "image/png",
}
"""What is served, by the end of its name; anything else that lies there is not."""

PATH = re.compile(rf"/media/([^/]+)/([^/]+)/((?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+\.({'|'.join(TYPES)}))", re.ASCII)
LONGEST_PATH = 1000
LONGEST_AGE = 86_400
HEALTH = "/health"
REPLIES = Counter("finalbell_media_replies_total", "Replies of the media origin, by HTTP status", ["status"])
log = structlog.get_logger()


class Shelf(Protocol):
    """Where files lie: a folder of this machine, or a bucket (bucket.py)."""

    async def get(self, folder: str, file: str, scope: Scope, expires: int) -> Response:
        """Return a file as a reply; raises HTTPException where there is none. What it names may be open until `expires`."""
        ...


class FolderShelf:
    """Files in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._files = StaticFiles(directory=folder, check_dir=False)  # it is there from the first import on

    async def get(self, folder: str, file: str, scope: Scope, expires: int) -> Response:
        return await self._files.get_response(f"{folder}/{file}", scope)


class Origin:
    """The ASGI application. Who has no good link learns nothing: neither why it is not, nor what lies where."""

    def __init__(self, gate: Gate, shelf: Shelf) -> None:
        self._gate = gate
        self._shelf = shelf
        self.leaving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == HEALTH:
            await Response(status_code=503 if self.leaving else 200)(scope, receive, send)
            return

        async def say(message: Message) -> None:
            """Send a reply's beginning with what all of them have: a file finds out only now that a range is none."""
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["access-control-allow-origin"] = "*"  # the link is the right, and no cookie is looked at
                headers["cross-origin-resource-policy"] = "cross-origin"
                headers["x-content-type-options"] = "nosniff"
                if message["status"] >= 400:
                    headers["cache-control"] = "no-store"
                REPLIES.labels(message["status"]).inc()
            await send(message)

        reply = await self._reply(scope)
        await reply(scope, receive, say)

    async def _reply(self, scope: Scope) -> Response:
        token, folder, file, ending = _parts(scope["path"])
        now = time()
        expires = self._gate.opens(token, folder, now)
        if expires is None:
            return Response(status_code=403)
        if not file:
            return Response(status_code=404)
        try:
            reply = await self._shelf.get(folder, file, scope, expires)
        except HTTPException as refused:
            return Response(status_code=404 if refused.status_code == 401 else refused.status_code, headers=refused.headers)
        except OSError as failure:  # a disk that fails, or a link to itself
            log.warning("file unreadable", error=f"{type(failure).__name__} {failure.errno}")
            return Response(status_code=503, headers={"retry-after": "2"})
        if reply.status_code == 200:
            reply.headers["content-type"] = TYPES[ending]
        # No cache keeps it longer than the link is good.
        reply.headers.setdefault("cache-control", f"public, max-age={min(LONGEST_AGE, expires - int(now))}, immutable")
        return reply


class OriginServer:
    """Serves an origin on `unix:PATH`, or on host:port, until it is time to stop."""

    def __init__(self, origin: Origin, address: str, *, leave_seconds: float, drain_seconds: float) -> None:
        self._origin = origin
        self._leave_seconds = leave_seconds
        kind, _, rest = address.partition(":")
        where = {"uds": rest} if kind == "unix" else {"host": kind, "port": int(rest)}
        self._server = _Server(
            uvicorn.Config(
                origin,
                **where,
                lifespan="off",
                log_config=None,
                access_log=False,  # a path is a right
                server_header=False,
                limit_concurrency=1024,
                timeout_keep_alive=3700,  # longer than the gateway keeps one that is idle, so that it never meets a closed one
                timeout_graceful_shutdown=int(drain_seconds),
            )
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve. When it is time to stop, health says so for a moment, until balancers have heard of it; what runs is finished."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._server.serve())
            await stop.wait()
            self._origin.leaving = True
            await asyncio.sleep(self._leave_seconds)
            self._server.should_exit = True


class _Server(uvicorn.Server):
    """One that leaves signals to `serving/run.py`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _parts(path: str) -> tuple[str, str, str, str]:
    """Return token, folder, file and the file's ending; file and ending are empty where no such file is ever served."""
    found = PATH.fullmatch(path) if len(path) <= LONGEST_PATH else None
    if found is not None:
        return found[1], found[2], found[3], found[4]
    token, _, rest = path.removeprefix("/media/").partition("/")
    return token, rest.partition("/")[0], "", ""

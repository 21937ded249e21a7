"""SaveAnswer in FastAPI on uvicorn with uvloop and httptools, one process: PUT /api/v1/sessions/{id}/answers.

python -m bench.peers.fastapi_peer --listen 127.0.0.1:6002 --redis URL --jwks FILE --issuer I --audience A --function save_DIGEST
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, TypedDict
from uuid import UUID

import uvicorn
from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from google.protobuf.json_format import MessageToDict
from redis.exceptions import RedisError

from bench.peers.fastapi_models import Current, SaveAnswer, Standing
from bench.peers.options import Options, options
from bench.peers.saving import Saving, connected, given_key, refusal_of
from servers import errors
from servers.auth import Caller, Tokens
from stores.live import RestoreFailed
from stores.pipeline import Overloaded
from stores.records import Saved

HTTP = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 400,
    "ALREADY_EXISTS": 409,
    "UNAVAILABLE": 503,
}


class State(TypedDict):
    """What the application holds while it runs."""

    saving: Saving


def make_app(given: Options) -> FastAPI:
    """Return the application."""
    tokens = Tokens(given.jwks, given.issuer, given.audience)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with connected(given.redis) as saving:
            yield {"saving": saving}

    async def caller(authorization: Annotated[str, Header()] = "") -> Caller:
        return tokens.caller(authorization)

    app = FastAPI(lifespan=lifespan)

    @app.put("/api/v1/sessions/{session_id}/answers", response_model_exclude_none=True)
    async def save_answer(
        session_id: UUID,
        body: SaveAnswer,
        request: Request,
        who: Annotated[Caller, Depends(caller)],
        idempotency_key: Annotated[str, Header()] = "",
    ) -> Standing:
        key = given_key(idempotency_key, body.idempotency_key)
        saving: Saving = request.state.saving
        saved = await saving.save(session_id, who.student, body.question_id, body.answer(), body.client_seq, key)
        return standing(saved)

    app.add_exception_handler(RequestValidationError, invalid)
    for kind in (errors.Refusal, Overloaded, RestoreFailed, RedisError, OSError):
        app.add_exception_handler(kind, refused)
    return app


def standing(saved: Saved) -> Standing:
    """Return the reply to a save that was not refused."""
    current = Current.of(saved.current) if saved.current else None
    return Standing(
        saved=current is None,
        superseded=current is not None,
        saved_at=datetime.fromtimestamp(saved.at_ms / 1000, UTC) if current is None else None,
        version=saved.version,
        ends_at=datetime.fromtimestamp(saved.ends_ms / 1000, UTC),
        current=current,
    )


async def invalid(_: Request, failure: Exception) -> JSONResponse:
    """Answer a request that breaks its model's rules."""
    found: Any = failure.errors() if isinstance(failure, RequestValidationError) else []
    return answer(errors.InvalidField([(str(one["loc"][-1]), str(one["msg"])) for one in found]))


async def refused(_: Request, failure: Exception) -> JSONResponse:
    """Answer a request that is refused."""
    return answer(refusal_of(failure))


def answer(refusal: errors.Refusal) -> JSONResponse:
    """Write a refusal as the gateway does."""
    return JSONResponse(MessageToDict(errors.status(refusal)), HTTP[refusal.code.name])


class Server(uvicorn.Server):
    """A server that says when it serves."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen."""
        await super().startup(sockets)
        if self.started:
            print("ready", flush=True)


if __name__ == "__main__":
    given = options(__doc__)
    Server(
        uvicorn.Config(
            make_app(given),
            host=given.host,
            port=given.port,
            loop="uvloop",
            http="httptools",
            access_log=False,
            log_level="warning",
        )
    ).run()

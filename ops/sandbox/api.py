"""What a shop can ask of the gateway: a small JSON API under /v1, for who has the key."""

import hmac
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ops.sandbox.outbox import Outbox
from ops.sandbox.records import Act, Checkout, Next, Wanted
from ops.sandbox.sender import clock_ms
from ops.sandbox.till import KeyReused, NotNow, Till, Unknown

MOST_BYTES = 65_536
MOST = 2**31 - 1
Handler = Callable[[Request], Awaitable[Response]]


def _harmless(url: str) -> str:
    """Return a URL that a browser may be sent to: a web page, or an app's own scheme, and never a script."""
    parts = urlsplit(url)
    if url and (origin(url) == "" or parts.scheme in ("javascript", "data", "vbscript", "blob", "file", "about")):
        raise ValueError("it cannot be returned to")
    return url


def origin(url: str) -> str:
    """Return what a policy calls the origin of a URL: `https://example.org`, or `app:` for an app's own; empty: it has none.

    It is written into a header, so that nothing is in it that could mean more.
    """
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    if not re.fullmatch("[!-~]+", url) or not parts.scheme:
        return ""
    if parts.scheme not in ("http", "https"):
        return f"{parts.scheme}:"
    return f"{parts.scheme}://{parts.hostname}{port}" if re.fullmatch("[a-z0-9.-]+", parts.hostname or "") else ""


class Asked(BaseModel):
    """A body: exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid")


class OpenAsked(Asked):
    """POST /v1/checkouts."""

    order: str = Field(pattern="^[!-~]{1,64}$")
    student: str = Field(min_length=1, max_length=64)
    title: str = Field(min_length=1, max_length=200)
    description: str = Field(max_length=4000)
    amount: int = Field(ge=1, le=MOST)
    currency: str = Field(pattern="^[A-Z]{3}$")
    return_url: Annotated[str, Field(max_length=2000), AfterValidator(_harmless)]
    expires_ms: int = Field(ge=0, lt=2**53)


class RefundAsked(Asked):
    """POST /v1/checkouts/{id}/refunds."""

    amount: int = Field(ge=1, le=MOST)


class ActAsked(Asked):
    """POST /v1/checkouts/{id}/acts."""

    act: Annotated[Act, Field(strict=False)]
    amount: int | None = Field(default=None, ge=1, le=MOST)


class NextAsked(Asked):
    """POST /v1/checkouts/{id}/next."""

    next: Annotated[Next, Field(strict=False)]


def routes(till: Till, outbox: Outbox, api_key: str, page_url: str) -> list[Route]:
    """Return the API's routes; `page_url` is where people reach the gateway."""

    def shown(checkout: Checkout) -> JSONResponse:
        return JSONResponse(_document(checkout, page_url))

    async def open_(request: Request) -> Response:
        asked = OpenAsked.model_validate_json(await body(request))
        return shown(till.open(Wanted(**asked.model_dump()), _key(request)))

    async def list_(request: Request) -> Response:
        found = till.of(request.query_params.get("order", ""))
        return JSONResponse({"checkouts": [_document(one, page_url) for one in found]})

    async def read(request: Request) -> Response:
        return shown(till.read(request.path_params["checkout"]))

    async def expire(request: Request) -> Response:
        return shown(till.expire(request.path_params["checkout"]))

    async def refund(request: Request) -> Response:
        asked = RefundAsked.model_validate_json(await body(request))
        made = till.refund(request.path_params["checkout"], asked.amount, _key(request))
        return JSONResponse({"id": made.id, "amount": made.amount})

    async def act(request: Request) -> Response:
        asked = ActAsked.model_validate_json(await body(request))
        return shown(till.act(request.path_params["checkout"], asked.act, asked.amount))

    async def next_(request: Request) -> Response:
        asked = NextAsked.model_validate_json(await body(request))
        return shown(till.set_next(request.path_params["checkout"], asked.next))

    async def release(request: Request) -> Response:
        checkout = till.read(request.path_params["checkout"])
        outbox.release(checkout.id, clock_ms())
        return shown(checkout)

    async def events(request: Request) -> Response:
        asked = request.query_params
        since = asked.get("since_ms", "0")
        if not (since.isdecimal() and since.isascii() and len(since) < 17):
            raise HTTPException(400, "since_ms is a time in ms")
        found, more = till.events(asked.get("order", ""), int(since), asked.get("after", ""))
        return JSONResponse({"events": found, "more": more})

    def route(path: str, method: str, handler: Handler) -> Route:
        return Route(path, _for_the_shop(handler, api_key), methods=[method])

    return [
        route("/v1/checkouts", "POST", open_),
        route("/v1/checkouts", "GET", list_),
        route("/v1/checkouts/{checkout}", "GET", read),
        route("/v1/checkouts/{checkout}/expire", "POST", expire),
        route("/v1/checkouts/{checkout}/refunds", "POST", refund),
        route("/v1/checkouts/{checkout}/acts", "POST", act),
        route("/v1/checkouts/{checkout}/next", "POST", next_),
        route("/v1/checkouts/{checkout}/release", "POST", release),
        route("/v1/events", "GET", events),
    ]


def _for_the_shop(handler: Handler, api_key: str) -> Handler:
    """Let in who has the key, and word what is refused."""

    @wraps(handler)
    async def guarded(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, f"Bearer {api_key}".encode()):
            return _refused(401, "key")
        try:
            return await handler(request)
        except Unknown:
            return _refused(404, "unknown")
        except NotNow as why:
            return _refused(409, "not_now", str(why))
        except KeyReused:
            return _refused(422, "key_reused")
        except ValidationError as wrong:
            return _refused(400, "invalid", "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in wrong.errors()))
        except HTTPException as refused:
            return _refused(refused.status_code, "invalid", refused.detail)

    return guarded


async def body(request: Request) -> bytes:
    """Return a request's body; raises 413 for one that is too long."""
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > MOST_BYTES:
            raise HTTPException(413, "too long")
    return bytes(read)


def _key(request: Request) -> str:
    key = request.headers.get("idempotency-key", "")
    if not 8 <= len(key) <= 100:
        raise HTTPException(400, "Idempotency-Key has 8 to 100 characters")
    return key


def _refused(status: int, code: str, why: str = "") -> Response:
    return JSONResponse({"error": {"code": code, "message": why}}, status)


def _document(checkout: Checkout, page_url: str) -> dict[str, object]:
    wanted = checkout.wanted
    return {
        "id": checkout.id,
        "order": wanted.order,
        "student": wanted.student,
        "amount": wanted.amount,
        "currency": wanted.currency,
        "status": checkout.status,
        "payment": checkout.payment,
        "url": f"{page_url}/pay/{checkout.id}",
        "live": False,
        "refunds": [{"id": one.id, "amount": one.amount} for one in checkout.refunds],
        "disputes": [{"id": one.id, "amount": one.amount, "status": one.status} for one in checkout.disputes],
    }

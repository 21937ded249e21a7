"""The checkout page, for whoever buys and for whoever develops. HTML and forms, no script, nothing from elsewhere."""

import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from ops import money
from ops.sandbox.api import body, origin
from ops.sandbox.outbox import Outbox
from ops.sandbox.records import Act, Next, possible
from ops.sandbox.sender import Sender, clock_ms
from ops.sandbox.till import NotNow, Till, Unknown

HERE = Path(__file__).parent
STYLE = (HERE / "page.css").read_text()
STYLE_HASH = b64encode(sha256(STYLE.encode()).digest()).decode()
LISTED = 50
TOLD_SECONDS = 10.0
"""How long who has paid waits for the shop to hear of it, as at real gateways: when they are back, they own
what they bought."""

BUYERS = (Act.PAY, Act.FAIL, Act.CANCEL)
ACTS = {
    Act.DECLINE: "Decline a try; it may be made again",
    Act.TRANSFER: "Pay by transfer: the money is under way",
    Act.EXPIRE: "Let its time be over",
    Act.ARRIVE: "The money arrives",
    Act.BOUNCE: "The money does not come",
    Act.REFUND: "Refund all that is left",
    Act.DISPUTE: "Open a dispute",
    Act.WIN: "The dispute is won",
    Act.LOSE: "The dispute is lost",
}
"""What developers can let happen; what can happen now is shown, in this order."""

NEXT = {
    Next.SEND: "Send the webhook",
    Next.LOSE: "Lose the webhook",
    Next.TWICE: "Send it twice",
    Next.HOLD: "Hold it back, to send them out of order",
}


class Pages:
    """Shows checkouts, and does what their buttons say."""

    def __init__(self, till: Till, outbox: Outbox, sender: Sender) -> None:
        self._till = till
        self._outbox = outbox
        self._sender = sender
        self._secret = till.page_secret.encode()
        shown = Environment(
            loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        shown.filters |= {"money": money.shown, "clock": _clock}
        self._page, self._list = shown.get_template("page.html"), shown.get_template("list.html")

    def routes(self) -> list[Route]:
        """Return the pages' routes."""
        return [
            Route("/", self.listed, methods=["GET"]),
            Route("/healthz", self.health, methods=["GET"]),
            Route("/pay/{checkout}", self.show, methods=["GET"]),
            Route("/pay/{checkout}", self.do, methods=["POST"]),
        ]

    async def health(self, request: Request) -> Response:
        """Say that the gateway is there."""
        return PlainTextResponse("ok\n")

    async def listed(self, request: Request) -> Response:
        """Show the newest checkouts."""
        return _html(self._list.render(style=STYLE, checkouts=self._till.newest(LISTED), most=LISTED), "")

    async def show(self, request: Request) -> Response:
        """Show a checkout."""
        return self._shown(_path(request), "", 200)

    async def do(self, request: Request) -> Response:
        """Do what a button says, and show the checkout, or send the student back to the shop.

        Only a page that was read here holds the token, and a browser says which site a form is of.
        """
        name = _path(request)
        form = dict(parse_qsl((await body(request)).decode("utf-8", "replace")))
        site = request.headers.get("sec-fetch-site", "same-origin")
        if not hmac.compare_digest(form.get("token", "").encode(), self._token(name).encode()) or site != "same-origin":
            return self._shown(name, "This form is not of this page. Load the page again, and repeat.", 403)
        try:
            left = self._done(name, form)
        except (NotNow, ValueError) as why:
            return self._shown(name, f"That did not happen: {why}.", 409)
        except Unknown:
            raise HTTPException(404, "There is no such checkout.") from None
        await self._sender.told(name, TOLD_SECONDS)
        return RedirectResponse(left or f"/pay/{name}#{'events' if form.get('part') == 'developers' else 'state'}", 303)

    def _done(self, name: str, form: Mapping[str, str]) -> str:
        """Do what a form says; returns where the student goes, empty: they stay. Raises NotNow, Unknown and ValueError."""
        match form:
            case {"act": act}:
                checkout = self._till.act(name, Act(act), self._amount(name, form))
                return checkout.wanted.return_url if form.get("part") == "student" else ""
            case {"next": chosen}:
                self._till.set_next(name, Next(chosen))
            case {"send": "held"}:
                self._outbox.release(name, clock_ms())
            case {"send": "all"}:
                self._outbox.all_again(name, clock_ms())
            case {"send": event}:
                self._outbox.again(name, event, clock_ms())
            case _:
                raise ValueError("no button was pressed")
        return ""

    def _amount(self, name: str, form: Mapping[str, str]) -> int | None:
        """Return the amount that was typed, None where none was asked for; raises ValueError."""
        if "amount" not in form:
            return None
        found = money.minor(form["amount"], self._till.read(name).wanted.currency)
        if found is None:
            raise ValueError("this is no amount")
        return found

    def _shown(self, name: str, problem: str, status: int) -> Response:
        try:
            checkout = self._till.read(name)
        except Unknown:
            raise HTTPException(404, "There is no such checkout.") from None
        can = possible(checkout)
        text = self._page.render(
            style=STYLE,
            checkout=checkout,
            wanted=checkout.wanted,
            token=self._token(name),
            problem=problem,
            buyers=[act for act in BUYERS if act in can],
            acts=[(act, text) for act, text in ACTS.items() if act in can],
            refundable=Act.REFUND in can,
            next=NEXT,
            events=self._outbox.happened(name),
            held=self._outbox.held(name),
        )
        return _html(text, origin(checkout.wanted.return_url), status)

    def _token(self, name: str) -> str:
        return hmac.digest(self._secret, name.encode(), "sha256").hex()


def _path(request: Request) -> str:
    return str(request.path_params["checkout"])


def _html(text: str, leads_to: str, status: int = 200) -> HTMLResponse:
    """Return a page that runs nothing, loads nothing, and sends forms to this gateway alone, which may send on to the shop."""
    policy = {
        "default-src": "'none'",
        "style-src": f"'sha256-{STYLE_HASH}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": f"'self' {leads_to}".rstrip(),
        "frame-ancestors": "'none'",
    }
    headers = {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "same-origin",  # with none at all a browser would not say that a form is ours
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-store",
    }
    return HTMLResponse(text, status, headers)


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]

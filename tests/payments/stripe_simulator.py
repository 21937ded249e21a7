"""A small Stripe: the endpoints that we use, its idempotency, its events, its signatures; over HTTP, since that is what breaks."""

import copy
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import stripe

from servers.payments.provider import Heard, Provider, Said
from servers.payments.stripe_gateway import Stripe
from stores.money import FactKind, Order, OrderStatus
from tests.payments.gateways import Act, Call, Line, Told, Truth

KEY = "sk_test_simulated"
SECRET, OLD_SECRET = "whsec_new", "whsec_old"
DAY_SECONDS = 86_400

Json = dict[str, Any]


class Refused(Exception):
    """An error as Stripe answers it."""

    def __init__(self, status: int, code: str, kind: str = "invalid_request_error") -> None:
        super().__init__(code)
        self.status = status
        self.body = {"error": {"type": kind, "code": code, "message": f"simulated: {code}"}}


class Account:
    """What one Stripe account holds, and what happens in it. Its clock stands still unless it is moved."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.clock = int(time.time())
        self.sessions: dict[str, Json] = {}
        self.by_order: dict[str, list[Json]] = {}
        self.intents: dict[str, Json] = {}
        self.intent_metadata: dict[str, Json] = {}
        self.charges: dict[str, Json] = {}
        self.refunds: dict[str, Json] = {}
        self.disputes: dict[str, Json] = {}
        self.events: list[Json] = []
        self.tells: list[Sequence[Told]] = []
        self.answered: dict[str, tuple[int, str, tuple[int, Json]]] = {}
        self.asked: list[str] = []
        self.page = 100
        self._count = 0
        self._name = secrets.token_hex(4)  # other accounts name their objects in the same inbox

    def new(self, prefix: str, kind: str, **fields: Any) -> Json:
        """Make an object."""
        self._count += 1
        return {"id": f"{prefix}_{self._name}{self._count:06}", "object": kind, "created": self.clock, "livemode": False, **fields}

    def emit(self, kind: str, about: Json, *tells: Told) -> None:
        """Note an event, with the object as it is now, and what we expect it to tell."""
        self.events.append(self.new("evt", "event", type=kind, api_version="x", data={"object": copy.deepcopy(about)}))
        self.tells.append(tells)

    # What happens

    def decline(self, session: Json) -> None:
        """Let a card be declined: the page lets one try again."""
        self._intent(session)
        self.emit("payment_intent.payment_failed", self.intents[session["payment_intent"]])

    def complete(self, session: Json, paid: bool) -> None:
        """Let a session be completed: paid, or with its money under way."""
        intent = self._intent(session)
        charge = self.new("ch", "charge", payment_intent=intent["id"], amount=intent["amount"], currency=intent["currency"])
        self.charges[charge["id"]] = charge
        intent.update(latest_charge=charge["id"], status="succeeded" if paid else "processing")
        session.update(status="complete", payment_status="paid" if paid else "unpaid", url=None)
        if paid:
            self.emit("payment_intent.succeeded", intent)
        told = [(FactKind.PAID, intent["id"], session["amount_total"])] if paid else []
        self.emit("checkout.session.completed", session, *told)

    def settle(self, session: Json, paid: bool) -> None:
        """Let money that was under way come, or not."""
        intent = self.intents[session["payment_intent"]]
        intent["status"] = "succeeded" if paid else "requires_payment_method"
        session["payment_status"] = "paid" if paid else "unpaid"
        told = (FactKind.PAID, intent["id"], session["amount_total"]) if paid else (FactKind.FAILED, intent["id"], 0)
        self.emit(f"checkout.session.async_payment_{'succeeded' if paid else 'failed'}", session, told)

    def expire(self, session: Json) -> None:
        """End a session that is open."""
        if session["status"] != "open":
            raise Refused(400, "resource_not_open")
        session.update(status="expired", url=None)
        self.emit("checkout.session.expired", session, (FactKind.EXPIRED, session["id"], 0))

    def give_back(self, intent: Json, amount: int, metadata: Mapping[str, str]) -> Json:
        """Refund so much: it is pending first, and two events tell that it went through."""
        if intent["status"] != "succeeded" or not 0 < amount <= self.left(intent):
            raise Refused(400, "charge_already_refunded")
        known = {"payment_intent": intent["id"], "charge": intent["latest_charge"], "currency": intent["currency"]}
        refund = self.new("re", "refund", amount=amount, status="pending", metadata=dict(metadata), **known)
        self.refunds[refund["id"]] = refund
        self.emit("refund.created", refund)
        refund["status"] = "succeeded"
        told = (FactKind.REFUNDED, refund["id"], amount)
        self.emit("refund.updated", refund, told)
        self.emit("charge.refunded", self.charges[intent["latest_charge"]])
        self.emit("charge.refund.updated", refund, told)
        return refund

    def dispute(self, intent: Json, amount: int, currency: str, status: str = "needs_response") -> Json:
        """Let a bank dispute a payment; `warning_needs_response`: it only asks."""
        known = {"payment_intent": intent["id"], "charge": intent["latest_charge"]}
        dispute = self.new("du", "dispute", amount=amount, currency=currency, status=status, **known)
        self.disputes[dispute["id"]] = dispute
        told = [(FactKind.DISPUTE_OPENED, dispute["id"], min(amount, intent["amount"]))] if status == "needs_response" else []
        self.emit("charge.dispute.created", dispute, *told)
        return dispute

    def end(self, dispute: Json, status: str) -> None:
        """End a dispute."""
        dispute["status"] = status
        amount = min(dispute["amount"], self.intents[dispute["payment_intent"]]["amount"])
        kinds = {"won": FactKind.DISPUTE_WON, "lost": FactKind.DISPUTE_LOST}
        told = [(kind, dispute["id"], amount) for kind in (FactKind.DISPUTE_OPENED, kinds[status])] if status in kinds else []
        self.emit("charge.dispute.closed", dispute, *told)

    def left(self, intent: Json) -> int:
        """Return how much of a payment was not given back."""
        given_back: int = sum(r["amount"] for r in self.refunds.values() if r["payment_intent"] == intent["id"])
        amount: int = intent["amount"]
        return amount - given_back

    def _intent(self, session: Json) -> Json:
        if session["payment_intent"] is None:
            known = {"amount": session["amount_total"], "currency": session["currency"], "latest_charge": None}
            intent = self.new("pi", "payment_intent", status="requires_payment_method", **known)
            intent["metadata"] = self.intent_metadata[session["id"]]
            self.intents[intent["id"]] = intent
            session["payment_intent"] = intent["id"]
        return self.intents[session["payment_intent"]]

    # Its API

    def answer(self, method: str, path: str, asked: Mapping[str, str], key: str | None) -> tuple[int, Json]:
        """Answer a call, and the same call with the same key in the same way for a day."""
        self.asked.append(f"{method} {path}")
        said = json.dumps([path, sorted(asked.items())])
        known = self.answered.get(key or "")
        if method == "POST" and key and known and self.clock - known[0] < DAY_SECONDS:
            if known[1] != said:
                return 400, Refused(400, "idempotency_error", "idempotency_error").body
            return known[2]
        try:
            given = 200, self._do(method, path, asked)
        except Refused as refused:
            return refused.status, refused.body
        if method == "POST" and key:
            self.answered[key] = self.clock, said, copy.deepcopy(given)
        return given

    def _do(self, method: str, path: str, asked: Mapping[str, str]) -> Json:
        match method, path.removeprefix("/v1/").split("/"):
            case "POST", ["checkout", "sessions"]:
                return self._create(asked)
            case "GET", ["checkout", "sessions"]:
                since, until = int(asked["created[gte]"]), int(asked["created[lte]"])
                return self._page([one for one in self.sessions.values() if since <= one["created"] <= until], asked, path)
            case "GET", ["checkout", "sessions", name]:
                return self._expanded(_found(self.sessions, name)) if "expand[0]" in asked else _found(self.sessions, name)
            case "POST", ["checkout", "sessions", name, "expire"]:
                self.expire(_found(self.sessions, name))
                return self.sessions[name]
            case "GET", ["payment_intents", name]:
                return _found(self.intents, name)
            case "POST", ["refunds"]:
                metadata = {name[9:-1]: value for name, value in asked.items() if name.startswith("metadata[")}
                return self.give_back(_found(self.intents, asked["payment_intent"]), int(asked["amount"]), metadata)
            case "GET", ["refunds" | "disputes" as kind]:
                held = self.refunds if kind == "refunds" else self.disputes
                return self._page([one for one in held.values() if one["payment_intent"] == asked["payment_intent"]], asked, path)
            case "GET", ["events"]:
                kinds = {value for name, value in asked.items() if name.startswith("types[")}
                since = int(asked["created[gte]"])
                return self._page([one for one in self.events if one["created"] >= since and one["type"] in kinds], asked, path)
        raise Refused(404, "no_such_endpoint")

    def _create(self, asked: Mapping[str, str]) -> Json:
        price = "line_items[0][price_data]"
        lives = int(asked["expires_at"]) - self.clock
        if not 1_800 <= lives <= DAY_SECONDS or asked["mode"] != "payment" or not asked["success_url"]:
            raise Refused(400, "parameter_invalid")
        if "" in asked.values() or not re.fullmatch("[a-z]{3}", asked[f"{price}[currency]"]):
            raise Refused(400, "parameter_invalid_empty")
        under = {
            prefix: {name[len(prefix) + 1 : -1]: value for name, value in asked.items() if name.startswith(f"{prefix}[")}
            for prefix in ("metadata", "payment_intent_data[metadata]")
        }
        session = self.new(
            "cs_test",
            "checkout.session",
            mode="payment",
            status="open",
            payment_status="unpaid",
            payment_intent=None,
            client_reference_id=asked["client_reference_id"],
            amount_total=int(asked[f"{price}[unit_amount]"]) * int(asked["line_items[0][quantity]"]),
            currency=asked[f"{price}[currency]"],
            expires_at=int(asked["expires_at"]),
            metadata=under["metadata"],
        )
        session["url"] = f"/pay/{session['id']}"
        self.intent_metadata[session["id"]] = under["payment_intent_data[metadata]"]
        self.sessions[session["id"]] = session
        self.by_order.setdefault(session["client_reference_id"], []).append(session)
        return session

    def _expanded(self, session: Json) -> Json:
        if session["payment_intent"] is None:
            return session
        intent = self.intents[session["payment_intent"]]
        return {**session, "payment_intent": {**intent, "latest_charge": self.charges.get(intent["latest_charge"] or "")}}

    def _page(self, held: Sequence[Json], asked: Mapping[str, str], path: str) -> Json:
        newest_first = held[::-1]
        after = asked.get("starting_after")
        start = 0 if after is None else 1 + next(place for place, one in enumerate(newest_first) if one["id"] == after)
        end = start + min(self.page, int(asked["limit"]))
        return {"object": "list", "url": path, "data": newest_first[start:end], "has_more": end < len(newest_first)}


def _found(held: Mapping[str, Json], name: str) -> Json:
    if name not in held:
        raise Refused(404, "resource_missing")
    return held[name]


class SimulatedStripe:
    """The adapter of the conformance suite; its server listens while it is entered."""

    currency = "USD"
    can: frozenset[Act] = frozenset(Act)
    asks = False
    signs_bytes = True
    signs_time = True
    names_students = True
    calls_out = frozenset({"open", "close", "look", "missed", "refund"})
    line: Line

    def __init__(self) -> None:
        self.account = Account()
        self.away = False
        self.cuts = 0
        """So many answers are lost on their way, after what they answer was done."""
        self.slow = 0.0
        """Seconds that every answer takes."""
        self.holds = Event()
        """While it is clear, answers to what makes a session wait."""
        self.holds.set()
        self._taken = 0
        self.server = _server(self)
        self.stripe_provider = self.stripe()
        self.provider: Provider = self.stripe_provider

    def stripe(self, **other: Any) -> Stripe:
        """Return a provider that speaks with this Stripe."""
        own: Json = {"api_key": KEY, "webhook_secrets": [SECRET, OLD_SECRET], "live": False}
        pages = {"success_url": "app://paid", "cancel_url": "app://cancelled"}
        return Stripe(**{**own, **pages, "api_base": self.base, **other})

    @property
    def base(self) -> str:
        """Where its API listens."""
        host, port = self.server.server_address[:2]
        return f"http://{host!s}:{port}"

    def now_ms(self) -> int:
        """Return its time."""
        return self.account.clock * 1000

    def known(self, order: Order) -> int:
        """Return how many sessions an order has."""
        return len(self.account.by_order.get(str(order.id), ()))

    def session(self, order: Order) -> Json:
        """Return an order's session."""
        return self.account.by_order[str(order.id)][0]

    async def act(self, act: Act, order: Order, amount: int = 0) -> Sequence[Call] | None:
        """Let something happen; None where it cannot."""
        self.sent()
        with self.account.lock:
            return self.sent() if self._act(act, order, amount) else None

    def _act(self, act: Act, order: Order, amount: int) -> bool:
        account, session = self.account, self.session(order)
        intent = account.intents.get(session["payment_intent"] or "")
        open_, paid = session["status"] == "open", session["payment_status"] == "paid"
        disputes = [one for one in account.disputes.values() if intent and one["payment_intent"] == intent["id"]]
        disputed = [one for one in disputes if one["status"] == "needs_response"]
        lost = any(one["status"] == "lost" for one in disputes)
        match act:
            case Act.DECLINE if open_:
                account.decline(session)
            case Act.PAY if open_:
                account.complete(session, paid=True)
            case Act.PAY_LATER | Act.FAIL if open_:
                account.complete(session, paid=False)
                account.settle(session, paid=act is Act.PAY_LATER)
            case Act.EXPIRE if open_:
                account.expire(session)
            case Act.REFUND if intent and paid and not disputed and not lost and 0 < amount <= account.left(intent):
                account.give_back(intent, amount, {})
            case Act.DISPUTE if intent and paid and not disputed and not lost and account.left(intent):
                account.dispute(intent, order.amount, session["currency"])
            case Act.WIN | Act.LOSE if disputed:
                account.end(disputed[0], "won" if act is Act.WIN else "lost")
            case _:
                return False
        return True

    def sent(self) -> Sequence[Call]:
        """Return the calls that it makes since last time."""
        new = zip(self.account.events[self._taken :], self.account.tells[self._taken :], strict=True)
        calls = [Call(json.dumps(event, indent=2, ensure_ascii=False).encode(), tells) for event, tells in new]
        self._taken += len(calls)
        return calls

    def sign(self, call: Call, at_ms: int, stranger: bool = False) -> Heard:
        """Sign as Stripe does."""
        return signed(call.body, at_ms, "whsec_strange" if stranger else SECRET)

    def unsigned(self, call: Call) -> Heard:
        """Return a call without its header."""
        return Heard({"content-type": "application/json"}, call.body, self.now_ms())

    async def catch_up(self) -> None:
        """It repeats nothing by itself here: what is lost is lost."""

    def refused(self, said: Said) -> bool:
        """What it sends is believed or refused, and its answer says nothing."""
        return False

    def truth(self, order: Order) -> Truth:
        """Return what a session has come to, from what the account holds."""
        account, session = self.account, self.session(order)
        if session["payment_status"] != "paid":
            failed = {"open": OrderStatus.OPEN, "expired": OrderStatus.EXPIRED, "complete": OrderStatus.FAILED}
            return Truth(failed[session["status"]], 0)
        intent = account.intents[session["payment_intent"]]
        ends = {one["status"] for one in account.disputes.values() if one["payment_intent"] == intent["id"]}
        left = account.left(intent)
        status = OrderStatus.REFUNDED if left == 0 else OrderStatus.PAID
        if left and "lost" in ends:
            status = OrderStatus.LOST
        elif left and "needs_response" in ends:
            status = OrderStatus.DISPUTED
        return Truth(status, order.amount - left)


def signed(body: bytes, at_ms: int, secret: str = SECRET, now_ms: int | None = None) -> Heard:
    """Return a message as Stripe sends it; `at_ms` is when it was signed, and when it comes unless `now_ms` says otherwise."""
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, at_ms // 1000)
    return Heard({"stripe-signature": header}, body, at_ms if now_ms is None else now_ms)


def _server(simulated: SimulatedStripe) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer(dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True)))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            self._answer({name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()})

        def _answer(self, asked: Mapping[str, str]) -> None:
            account = simulated.account
            time.sleep(simulated.slow)
            if self.headers.get("authorization") != f"Bearer {KEY}":
                status, said = 401, Refused(401, "bad_key", "authentication_error").body
            elif simulated.away:
                status, said = 500, Refused(500, "away", "api_error").body
            else:
                with account.lock:
                    key = self.headers.get("idempotency-key")
                    status, said = account.answer(self.command, urlsplit(self.path).path, asked, key)
                    said = copy.deepcopy(said)
                if self.command == "POST" and self.path.endswith("/sessions"):
                    simulated.holds.wait(10)
                if simulated.cuts:
                    simulated.cuts -= 1
                    self.close_connection = True
                    return
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.send_header("request-id", "req_simulated")
            if status >= 500:
                self.send_header("stripe-should-retry", "false")  # as Stripe does, and no test waits
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@asynccontextmanager
async def simulated_stripe() -> AsyncIterator[SimulatedStripe]:
    """A Stripe that listens."""
    simulated = SimulatedStripe()
    thread = Thread(target=simulated.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield simulated
    finally:
        await simulated.stripe_provider.stop()
        simulated.server.shutdown()
        thread.join()
        simulated.server.server_close()

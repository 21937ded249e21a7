"""The real sandbox for tests: its own process, and a shop that hears its webhooks over HTTP."""

import asyncio
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Condition, Thread
from typing import Any

import httpx

from servers.payments.provider import Heard, Provider, Said
from servers.payments.sandbox import Sandbox, verify
from stores.money import FactKind, Order, OrderStatus
from tests.payments.books import PRODUCT, Till
from tests.payments.gateways import Act, Call, Line, Told, Truth
from tests.stack import PLAIN, ROOT, free_port, fresh

KEY = "sk_sandbox_of_the_tests"
SECRET, OLD_SECRET = "whsec_new_of_the_tests", "whsec_old_of_the_tests"
READY_SECONDS, HEARD_SECONDS = 30.0, 30.0

Json = dict[str, Any]

TELLS = {
    "payment.succeeded": (FactKind.PAID, True),
    "payment.failed": (FactKind.FAILED, False),
    "checkout.expired": (FactKind.EXPIRED, False),
    "refund.succeeded": (FactKind.REFUNDED, True),
    "dispute.opened": (FactKind.DISPUTE_OPENED, True),
    "dispute.won": (FactKind.DISPUTE_WON, True),
    "dispute.lost": (FactKind.DISPUTE_LOST, True),
}
"""What each kind of event tells, and whether money moves."""

STEPS = {
    Act.DECLINE: ("decline",),
    Act.PAY: ("pay",),
    Act.PAY_LATER: ("transfer", "arrive"),
    Act.FAIL: ("transfer", "bounce"),
    Act.EXPIRE: ("expire",),
    Act.REFUND: ("refund",),
    Act.DISPUTE: ("dispute",),
    Act.WIN: ("win",),
    Act.LOSE: ("lose",),
}


@dataclass
class Shop:
    """Hears webhooks, in the order in which they come, and answers them as `answer` says."""

    answer: Callable[[Heard], int] = lambda heard: 200
    heard: list[Heard] = field(default_factory=list)
    by_event: dict[str, Heard] = field(default_factory=dict)
    """The newest of each event, whatever was cleared meanwhile."""
    changed: Condition = field(default_factory=Condition)
    url: str = ""

    def keep(self, heard: Heard) -> int:
        """Keep a webhook, and return the status that it is answered with."""
        status = self.answer(heard)
        with self.changed:
            self.heard.append(heard)
            self.by_event[heard.headers["sandbox-event"]] = heard
            self.changed.notify_all()
        return status

    @property
    def page(self) -> str:
        """Where students are sent back to."""
        return f"{self.url.partition('/api')[0]}/bought"

    def wait(self, enough: Callable[[Sequence[Heard]], bool], seconds: float = HEARD_SECONDS) -> Sequence[Heard]:
        """Wait until enough was heard, and return all."""
        with self.changed:
            assert self.changed.wait_for(lambda: enough(self.heard), seconds), f"only {len(self.heard)} webhooks came"
            return list(self.heard)

    def told_of(self, events: Sequence[str]) -> Sequence[Heard]:
        """Wait until each of these events was heard, and return them."""
        self.wait(lambda _: all(name in self.by_event for name in events))
        return [self.by_event[name] for name in events]


@contextmanager
def listening_shop() -> Iterator[Shop]:
    """A shop that listens."""
    shop = Shop()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = shop.keep(Heard(headers, body, int(time.time() * 1000)))
            self.send_response(status)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def do_GET(self) -> None:
            page = b"<!doctype html><title>The shop</title><link rel=icon href='data:,'><h1>Welcome back</h1>"
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True  # the gateway keeps its connections
    shop.url = f"http://127.0.0.1:{server.server_address[1]}/api/v1/payments/webhook/sandbox"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield shop
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Process:
    """The sandbox's process, which can be killed and started again on the same memory."""

    def __init__(self, home: Path, webhook: str, secrets: Sequence[str] = (SECRET, OLD_SECRET)) -> None:
        self.home = home
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.webhook = webhook
        self._secrets = home / "secrets.json"
        self.sign_with(*secrets)
        self._handle: subprocess.Popen[bytes] | None = None
        bearer = {"authorization": f"Bearer {KEY}"}
        self.http = httpx.Client(base_url=self.base, headers=bearer, timeout=20, trust_env=False, verify=PLAIN)

    def sign_with(self, *secrets: str) -> None:
        """Have it sign with these from its next start on."""
        self._secrets.write_text(json.dumps({"api_key": KEY, "webhook_secrets": secrets}))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {"port": self.port, "home": self.home / "memory", "webhook": self.webhook, "secret-file": self._secrets}
        command = [
            sys.executable,
            "-m",
            "ops.sandbox",
            *(part for name, value in options.items() for part in (f"--{name}", str(value))),
        ]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "gen")))}
        with (self.home / "log").open("ab") as log:
            self._handle = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            assert self._handle.poll() is None, (self.home / "log").read_text()
            assert time.monotonic() < deadline, "the sandbox did not start in time"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return self.http.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Kill it, as it stands."""
        if self._handle is not None:
            self._handle.kill()
            self._handle.wait()

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        assert self._handle is not None
        self._handle.terminate()
        return self._handle.wait(timeout=30)

    # Its API

    def get(self, path: str, **asked: str) -> Json:
        """Ask it for something."""
        reply = self.http.get(path, params=asked)
        assert reply.status_code == 200, reply.text
        found: Json = reply.json()
        return found

    def post(self, path: str, said: Mapping[str, object], key: str = "") -> httpx.Response:
        """Tell it something."""
        return self.http.post(path, json=said, headers={"idempotency-key": key} if key else {})

    def act(self, checkout: str, act: str, amount: int | None = None) -> bool:
        """Let something happen; False where it cannot."""
        reply = self.post(f"/v1/checkouts/{checkout}/acts", {"act": act, "amount": amount})
        assert reply.status_code in (200, 409), reply.text
        return reply.status_code == 200

    def events(self, order: str, after: str = "") -> Sequence[Json]:
        """Return the events of an order; `after`: those after that one."""
        found: list[Json] = []
        while True:
            page = self.get("/v1/events", order=order, after=found[-1]["id"] if found else after)
            found += page["events"]
            if not page["more"]:
                return found


@contextmanager
def sandbox(webhook: str) -> Iterator[Process]:
    """A sandbox that runs."""
    with TemporaryDirectory(prefix="finalbell-sandbox-") as home:
        process = Process(Path(home), webhook)
        try:
            process.start()
            yield process
        finally:
            process.kill()
            process.http.close()


def provider(process: Process, **other: Any) -> Sandbox:
    """Return a provider that speaks with a sandbox."""
    own: Json = {"base_url": process.base, "api_key": KEY, "webhook_secrets": [SECRET], "return_url": ""}
    return Sandbox(**{**own, **other})


class RealSandbox:
    """The adapter of the conformance suite. Its calls are webhooks that came over HTTP, and that the gateway has signed."""

    currency = "USD"
    can: frozenset[Act] = frozenset(Act)
    asks = False
    signs_bytes = True
    signs_time = True
    names_students = True
    calls_out = frozenset({"open", "close", "look", "missed", "refund"})
    line: Line

    def __init__(self, process: Process, shop: Shop) -> None:
        self.process = process
        self.shop = shop
        self.sandbox_provider = provider(process)
        self.sandbox_provider.name = fresh("sandbox-")  # the tests' stack asks its own sandbox after all orders of that name
        self.provider: Provider = self.sandbox_provider
        self._away = False
        self._newest: dict[str, str] = {}
        """The newest event that was taken, by order; the order that was acted upon last comes last."""

    @property
    def away(self) -> bool:
        """Whether its process is dead."""
        return self._away

    @away.setter
    def away(self, dead: bool) -> None:
        self._away = dead
        if dead:
            self.process.kill()
        else:
            self.process.start()

    def now_ms(self) -> int:
        """Return the time."""
        return int(time.time() * 1000)

    def known(self, order: Order) -> int:
        """Return how many checkouts an order has."""
        return len(self.process.get("/v1/checkouts", order=str(order.id))["checkouts"])

    def checkout(self, order: Order) -> Json:
        """Return an order's checkout."""
        found: Json = self.process.get("/v1/checkouts", order=str(order.id))["checkouts"][0]
        return found

    async def act(self, act: Act, order: Order, amount: int = 0) -> Sequence[Call] | None:
        """Let something happen; None where it cannot."""
        return await asyncio.to_thread(self._act, act, order, amount)

    def _act(self, act: Act, order: Order, amount: int) -> Sequence[Call] | None:
        name = order.gateway_ref or self.checkout(order)["id"]
        self._new(str(order.id))
        if not all(self.process.act(name, step, amount if act is Act.REFUND else None) for step in STEPS[act]):
            return None
        return self._new(str(order.id))

    async def catch_up(self) -> None:
        """What it repeats comes by itself."""

    def sent(self) -> Sequence[Call]:
        """Return the calls that it makes since last time, of the order that was acted upon last."""
        return self._new(next(reversed(self._newest))) if self._newest else []

    def _new(self, order: str) -> Sequence[Call]:
        """Wait for the webhooks of what is new of an order, see that the gateway has signed them, and return them."""
        known = self._newest.pop(order, "")
        names = [event["id"] for event in self.process.events(order, known)]
        self._newest[order] = names[-1] if names else known
        heard = self.shop.told_of(names)
        for one in heard:
            verify(one, [SECRET])
        return [Call(one.body, told(one.body)) for one in heard]

    def sign(self, call: Call, at_ms: int, stranger: bool = False) -> Heard:
        """Sign as the gateway does."""
        return signed(call.body, at_ms, *(["whsec_strange"] if stranger else [SECRET, OLD_SECRET]))

    def unsigned(self, call: Call) -> Heard:
        """Return a call without its signature."""
        return Heard({"content-type": "application/json"}, call.body, self.now_ms())

    def refused(self, said: Said) -> bool:
        """What it sends is believed or refused, and its answer says nothing."""
        return False

    def truth(self, order: Order) -> Truth:
        """Return what a checkout has come to."""
        return truth(self.checkout(order))


async def opened(gateway: RealSandbox, till: Till) -> Order:
    """Return an order that the sandbox has taken."""
    order = await till.order(seconds=3_600)
    found = await gateway.provider.open(order, PRODUCT)
    noted = await till.ledger.opened(order.id, found.ref, found.url, found.secret)
    assert noted is not None
    return noted


def told(body: bytes) -> Sequence[Told]:
    """Return what a webhook tells."""
    event = json.loads(body)
    kind, moves = TELLS.get(event["kind"], (None, False))
    return [] if kind is None else [(kind, event["subject"]["id"], event["subject"]["amount"] if moves else 0)]


def truth(checkout: Json) -> Truth:
    """Return what a checkout has come to, from what the gateway holds."""
    if checkout["status"] != "paid":
        unpaid = {"open": "OPEN", "processing": "OPEN", "failed": "FAILED", "expired": "EXPIRED"}
        return Truth(OrderStatus(unpaid[checkout["status"]]), 0)
    refunded = sum(one["amount"] for one in checkout["refunds"])
    disputes = {one["status"] for one in checkout["disputes"]}
    if refunded == checkout["amount"]:
        return Truth(OrderStatus.REFUNDED, refunded)
    worst = OrderStatus.LOST if "lost" in disputes else OrderStatus.DISPUTED if "open" in disputes else OrderStatus.PAID
    return Truth(worst, refunded)


def signed(body: bytes, at_ms: int, *secrets: str) -> Heard:
    """Return a message as it would come, signed at a time by these secrets."""
    seconds = at_ms // 1000
    made = [hmac.new(secret.encode(), f"{seconds}.".encode() + body, "sha256").hexdigest() for secret in secrets]
    header = ",".join([f"t={seconds}", *(f"v1={one}" for one in made)])
    return Heard({"content-type": "application/json", "sandbox-signature": header}, body, at_ms)


@asynccontextmanager
async def real_sandbox() -> AsyncIterator[RealSandbox]:
    """A sandbox that runs, and a shop that hears it."""
    with listening_shop() as shop, sandbox(shop.url) as process:
        real = RealSandbox(process, shop)
        try:
            yield real
        finally:
            await real.sandbox_provider.stop()

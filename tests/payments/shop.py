"""A stack that sells, and the simulated gateways that it sells through."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from servers.payments.provider import Heard, Said
from stores.ledger import Ledger, Story
from stores.money import Order
from tests.flows.sitting import Student, good
from tests.payments import click_simulator, payme_simulator, stripe_simulator
from tests.payments.books import as_payments, ledger_in
from tests.payments.gateways import Act, Call, Gateway
from tests.payments.simulated import GATEWAYS
from tests.payments.stripe_simulator import SimulatedStripe, simulated_stripe
from tests.stack import Stack, fresh, running

WEBHOOK = "/api/v1/payments/webhook"


@dataclass(frozen=True, slots=True)
class Shop:
    """What a test of a sale needs."""

    stack: Stack
    stripe: SimulatedStripe
    pool: asyncpg.Pool
    ledger: Ledger
    http: httpx.AsyncClient
    """Gateways' way to the stack: without a token."""

    # Staff

    async def sell(self, currency: str = "USD", amount: int = 2_500, **more: Any) -> str:
        """Import a product, and return its id."""
        product = {"productId": fresh("p"), "title": "A course", "amount": amount, "currency": currency, **more}
        async with Student(self.stack, roles=["admin"]) as admin:
            good(await admin.http.post("/api/v1/admin/products:import", json={"products": [product]}))
        return str(product["productId"])

    async def coupon(self, percent: int, **more: Any) -> str:
        """Import a coupon, and return its code."""
        code = fresh("C")
        async with Student(self.stack, roles=["admin"]) as admin:
            coupon = {"code": code, "percent": percent, **more}
            good(await admin.http.post("/api/v1/admin/products:import", json={"coupons": [coupon]}))
        return code

    # Students

    async def checkout(self, student: Student, product: str, key: str | None = None, **more: Any) -> httpx.Response:
        """Order a product."""
        headers = {"idempotency-key": key} if key else {}
        return await student.http.post("/api/v1/payments/checkout", json={"productId": product, **more}, headers=headers)

    async def order(self, student: Student, product: str, **more: Any) -> Order:
        """Order a product, and return the order as PostgreSQL has it."""
        return await self.read(good(await self.checkout(student, product, **more))["paymentId"])

    async def read(self, payment: str) -> Order:
        """Return an order."""
        found = await self.ledger.read(UUID(payment))
        assert found is not None
        return found

    async def story(self, order: Order) -> Story:
        """Return all that is known of an order."""
        found = await self.ledger.story(order.id)
        assert found is not None
        return found

    async def owns(self, student: Student) -> set[str]:
        """Return what a student owns, as they are told."""
        found = good(await student.http.get("/api/v1/entitlements"))["entitlements"]
        return {one["productId"] for one in found if one["active"]}

    # Gateways

    async def act(self, order: Order, *acts: Act) -> Sequence[Call]:
        """Let something happen at Stripe, and return the calls that it makes of it."""
        calls: list[Call] = []
        for act in acts:
            self.stripe.account.clock = int(time.time())
            made = await self.stripe.act(act, order, order.amount)
            assert made is not None, f"{act} cannot happen"
            calls += made
        return calls

    def signed(self, call: Call, ahead_ms: int = 0) -> Heard:
        """Return a call of Stripe's as it comes now."""
        return self.stripe.sign(call, time.time_ns() // 1_000_000 + ahead_ms)

    async def post(self, heard: Heard, path: str = WEBHOOK) -> httpx.Response:
        """Make a gateway's call."""
        headers = {"content-type": "application/json; charset=utf-8", **heard.headers}
        return await self.http.post(path, content=heard.body, headers=headers)

    async def hear(self, calls: Sequence[Call]) -> list[int]:
        """Make Stripe's calls, one by one, and return the statuses that they are answered with."""
        return [(await self.post(self.signed(call))).status_code for call in calls]

    @asynccontextmanager
    async def asking(self, provider: str) -> AsyncIterator[Gateway]:
        """A simulated gateway that asks us, over HTTP."""
        async with GATEWAYS[provider](self.pool) as gateway:

            async def line(call: Call) -> Said | None:
                heard = gateway.sign(call, gateway.now_ms())
                reply = await self.post(heard, f"{WEBHOOK}/{provider}")
                return Said(reply.content) if reply.status_code == 200 else None

            gateway.line = line
            yield gateway


@asynccontextmanager
async def selling(**environment: str) -> AsyncIterator[Shop]:
    """Start a stack that sells through Stripe, its own choice, Payme and Click."""
    async with simulated_stripe() as stripe:
        with running(sells=_gateways(stripe), **environment) as stack:
            async with as_payments(stack) as pool, stack.rest() as http:
                yield Shop(stack, stripe, pool, ledger_in(pool), http)


def _gateways(stripe: SimulatedStripe) -> dict[str, object]:
    secrets = [stripe_simulator.SECRET, stripe_simulator.OLD_SECRET]
    return {
        "returnUrl": "https://exams.invalid/paid",
        "stripe": {"apiKey": stripe_simulator.KEY, "webhookSecrets": secrets, "apiBase": stripe.base},
        "payme": {"merchant": "m", "key": payme_simulator.KEY, "checkoutUrl": "https://checkout.invalid"},
        "click": {
            "service": click_simulator.SERVICE,
            "merchant": click_simulator.MERCHANT,
            "user": click_simulator.USER,
            "secret": click_simulator.SECRET,
            "checkoutUrl": "https://checkout.invalid/pay",
            "apiUrl": "http://127.0.0.1:9/v2/merchant",  # nobody is there
        },
    }

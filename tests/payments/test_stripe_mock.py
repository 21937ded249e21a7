"""Whether what we ask is what Stripe's own OpenAPI description allows: stripe-mock checks every parameter by it.

`make tools` brings it. It knows one session and one payment for all ids, so nothing is asserted of what it answers.
"""

import json
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from servers.payments.provider import GatewayRefused
from servers.payments.stripe_gateway import Stripe
from stores.ledger import Ledger
from stores.money import Order
from tests.payments.books import PRODUCT, Till
from tests.payments.stripe_simulator import signed
from tests.stack import fresh

REFUND = {"id": "re_1", "status": "succeeded", "amount": 5, "currency": "usd", "payment_intent": "pi_1"}
BINARY = Path(__file__).parent.parent.parent / ".tools" / "bin" / "stripe-mock"
pytestmark = pytest.mark.skipif(not BINARY.exists(), reason="stripe-mock is not here: make tools")


@pytest_asyncio.fixture(scope="module")
async def provider() -> AsyncIterator[Stripe]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mock = subprocess.Popen([str(BINARY), "-http-addr", f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL)
    provider = Stripe(
        api_key="sk_test_123",
        webhook_secrets=["whsec_mock"],
        success_url="app://paid",
        cancel_url="app://cancelled",
        live=False,
        api_base=f"http://127.0.0.1:{port}",
    )
    try:
        until = time.monotonic() + 30
        while True:
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < until, "stripe-mock does not listen"
            time.sleep(0.1)
        yield provider
    finally:
        await provider.stop()
        mock.terminate()
        mock.wait()


@pytest.fixture
def till(ledger: Ledger) -> Till:
    return Till(ledger, "stripe", "USD", PRODUCT.amount)


@pytest.fixture
async def order(till: Till) -> Order:
    return await till.order(seconds=3_600)


async def test_stripe_takes_an_order_as_we_open_it(provider: Stripe, order: Order) -> None:
    opened = await provider.open(order, PRODUCT)

    assert opened.ref.startswith("cs_")


async def test_stripe_takes_a_product_without_a_description_and_a_currency_without_cents(provider: Stripe, order: Order) -> None:
    await provider.open(replace(order, currency="JPY", amount=500), replace(PRODUCT, description=""))


async def test_stripe_takes_what_we_ask_when_we_close_an_order(provider: Stripe, order: Order) -> None:
    assert await provider.close(replace(order, gateway_ref="cs_1"))


async def test_stripe_takes_what_we_ask_when_we_look(provider: Stripe, order: Order) -> None:
    await provider.look(replace(order, gateway_ref="cs_1"))
    await provider.look(order)


async def test_stripe_takes_what_we_ask_for_what_was_missed(provider: Stripe, order: Order) -> None:
    await provider.missed(order.created_ms)


async def test_stripe_takes_a_refund(provider: Stripe, order: Order) -> None:
    await provider.refund(replace(order, gateway_ref="cs_1"), 100, "key")


async def test_stripe_takes_what_we_ask_of_a_payment_intent(provider: Stripe, order: Order, till: Till) -> None:
    body = {"id": fresh("evt_"), "type": "refund.created", "data": {"object": REFUND}}

    await provider.hear(signed(json.dumps(body).encode(), order.created_ms, "whsec_mock"), till)

    assert till.events[0].claimed.currency == "USD"


async def test_stripe_mock_refuses_what_stripe_does_not_know(provider: Stripe, order: Order) -> None:
    with pytest.raises(GatewayRefused, match="400"):
        await provider.open(replace(order, amount="a lot"), PRODUCT)  # type: ignore[arg-type]

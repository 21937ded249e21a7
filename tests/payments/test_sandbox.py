"""The sandbox and its provider, beyond what every provider must do: its webhooks' mishaps, its memory, what it refuses."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from ops import money
from ops.sandbox.api import origin
from servers.payments.provider import Forged, GatewayAway, GatewayRefused, Heard
from servers.payments.sandbox import Sandbox, event, verify
from stores.ledger import Ledger
from stores.money import FactKind, Order
from tests.payments.books import PRODUCT, Till, stated
from tests.payments.sandbox_process import (
    OLD_SECRET,
    SECRET,
    Process,
    RealSandbox,
    listening_shop,
    opened,
    provider,
    real_sandbox,
    sandbox,
    signed,
)
from tests.stack import ROOT, free_port

NOW_MS = 1_795_000_000_000


@pytest_asyncio.fixture(scope="module")
async def module_gateway() -> AsyncIterator[RealSandbox]:
    async with real_sandbox() as gateway:
        yield gateway


@pytest.fixture
def gateway(module_gateway: RealSandbox) -> RealSandbox:
    """A running sandbox, whose shop has heard nothing yet and takes everything."""
    module_gateway.shop.heard.clear()
    module_gateway.shop.answer = lambda heard: 200
    return module_gateway


@pytest.fixture
def till(module_gateway: RealSandbox, ledger: Ledger) -> Till:
    return new_till(module_gateway, ledger)


def new_till(gateway: RealSandbox, ledger: Ledger) -> Till:
    return Till(ledger, gateway.provider.name, PRODUCT.currency, PRODUCT.amount)


def names(heard: Sequence[Heard]) -> list[str]:
    return [json.loads(one.body)["kind"] for one in heard]


def of(order: Order, heard: Sequence[Heard]) -> Sequence[Heard]:
    """Return the webhooks about an order: those of an earlier test may still come."""
    return [one for one in heard if json.loads(one.body)["checkout"]["order"] == str(order.id)]


def come(gateway: RealSandbox, order: Order, count: int) -> Sequence[Heard]:
    """Wait until so many webhooks about an order have come, and return them in the order in which they came."""
    return of(order, gateway.shop.wait(lambda heard: len(of(order, heard)) >= count))


def choose(gateway: RealSandbox, order: Order, chosen: str) -> None:
    assert gateway.process.post(f"/v1/checkouts/{order.gateway_ref}/next", {"next": chosen}).status_code == 200


def act(gateway: RealSandbox, order: Order, *acts: str) -> None:
    for one in acts:
        assert gateway.process.act(str(order.gateway_ref), one)


def press(gateway: RealSandbox, order: Order, **button: str) -> httpx.Response:
    """Press a button of the page, as a browser does."""
    path = f"/pay/{order.gateway_ref}"
    token = re.search('name="token" value="([0-9a-f]+)"', gateway.process.http.get(path).text)
    assert token is not None
    return gateway.process.http.post(path, data={"token": token[1], "part": "developers", **button})


# Webhooks


async def test_a_webhook_comes_with_a_signature_by_each_secret(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    act(gateway, order, "pay")

    heard = come(gateway, order, 1)[0]

    verify(heard, [SECRET])
    verify(heard, ["of nobody", OLD_SECRET])
    with pytest.raises(Forged):
        verify(heard, ["of nobody"])


async def test_a_webhook_that_is_not_taken_comes_again_signed_anew(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    gateway.shop.answer = lambda heard: 503 if len(of(order, gateway.shop.heard)) == 0 else 200
    act(gateway, order, "pay")

    first, second = come(gateway, order, 2)

    assert first.body == second.body
    assert first.headers["sandbox-signature"] != second.headers["sandbox-signature"]
    verify(second, [SECRET])
    page = gateway.process.http.get(f"/pay/{order.gateway_ref}").text
    assert "503" in page


async def test_a_webhook_that_waits_outlives_a_kill(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    gateway.shop.answer = lambda heard: 500
    act(gateway, order, "pay")
    come(gateway, order, 1)

    gateway.process.kill()
    gateway.shop.answer = lambda heard: 200
    gateway.process.start()

    assert names(come(gateway, order, 2)) == ["payment.succeeded"] * 2
    assert gateway.checkout(order)["status"] == "paid"


async def test_a_lost_webhook_never_comes_and_is_on_the_list(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    choose(gateway, order, "lose")
    act(gateway, order, "pay")
    choose(gateway, order, "send")
    act(gateway, order, "dispute")

    assert names(come(gateway, order, 1)) == ["dispute.opened"]
    assert [one.kind for one in await gateway.provider.look(order)] == ["payment.succeeded", "dispute.opened"]
    assert [one.kind for one in await gateway.provider.missed(order.created_ms) if one.claimed.order == order.id] == [
        "payment.succeeded",
        "dispute.opened",
    ]


async def test_a_doubled_webhook_comes_twice_and_is_one_event(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    choose(gateway, order, "twice")
    act(gateway, order, "pay")

    heard = come(gateway, order, 2)

    for one in heard:
        await gateway.provider.hear(one, till)
    assert len(heard) == 2
    assert len((await till.story(order)).events) == 1


async def test_webhooks_that_are_held_back_come_newest_first(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    choose(gateway, order, "hold")
    act(gateway, order, "decline", "pay", "dispute", "win")
    assert of(order, gateway.shop.heard) == []

    gateway.process.kill()
    gateway.process.start()
    assert press(gateway, order, send="held").status_code == 303

    assert names(come(gateway, order, 4)) == ["dispute.won", "dispute.opened", "payment.succeeded", "payment.declined"]


async def test_everything_can_be_sent_again_newest_first(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    act(gateway, order, "pay", "dispute", "lose")
    come(gateway, order, 3)

    press(gateway, order, send="all")

    assert names(come(gateway, order, 6)[3:]) == ["dispute.lost", "dispute.opened", "payment.succeeded"]


async def test_one_event_can_be_sent_again_by_its_name(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    choose(gateway, order, "lose")
    act(gateway, order, "pay")
    name = gateway.process.events(str(order.id))[0]["id"]

    press(gateway, order, send=name)

    assert [one.headers["sandbox-event"] for one in come(gateway, order, 1)] == [name]


async def test_a_checkout_whose_time_is_over_expires_by_itself(gateway: RealSandbox, till: Till) -> None:
    order = replace(await till.order(), expires_ms=gateway.now_ms() + 1_500)
    found = await gateway.provider.open(order, PRODUCT)

    assert names(come(gateway, order, 1)) == ["checkout.expired"]

    assert not gateway.process.act(found.ref, "pay")


# The provider


async def test_an_order_of_another_sandbox_can_be_ended(gateway: RealSandbox, till: Till) -> None:
    order = replace(await till.order(seconds=3_600), gateway_ref="co_of_another_sandbox")

    assert await gateway.provider.look(order) == []
    assert await gateway.provider.close(order)


async def test_an_order_is_found_again_though_its_product_was_renamed(gateway: RealSandbox, till: Till) -> None:
    order = await till.order(seconds=3_600)
    first = await gateway.provider.open(order, PRODUCT)

    again = await gateway.provider.open(order, replace(PRODUCT, title="Another name"))

    assert again == first
    assert gateway.known(order) == 1


async def test_an_order_whose_answer_was_never_noted_is_found_by_its_id(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    act(gateway, order, "pay")
    unnoted = replace(order, gateway_ref=None)

    assert not await gateway.provider.close(unnoted)
    await gateway.provider.refund(unnoted, order.amount, f"key-{order.id}")
    assert {fact.kind for one in await gateway.provider.look(unnoted) for fact in one.facts} == {FactKind.PAID, FactKind.REFUNDED}
    assert await gateway.provider.close(await till.order())


async def test_money_that_is_under_way_cannot_be_closed_and_one_that_never_came_can(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    act(gateway, order, "transfer")
    assert not await gateway.provider.close(order)

    act(gateway, order, "bounce")

    assert await gateway.provider.close(order)


async def test_no_more_is_given_back_than_was_paid(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    act(gateway, order, "pay")
    await gateway.provider.refund(order, 2_000, f"first-{order.id}")

    with pytest.raises(GatewayRefused):
        await gateway.provider.refund(order, 501, f"second-{order.id}")

    assert gateway.truth(order).refunded == 2_000


async def test_a_refused_refund_may_be_asked_again_with_its_key(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    act(gateway, order, "pay", "dispute")
    with pytest.raises(GatewayRefused):
        await gateway.provider.refund(order, 700, f"key-{order.id}")
    act(gateway, order, "win")

    await gateway.provider.refund(order, 700, f"key-{order.id}")

    assert gateway.truth(order).refunded == 700


async def test_looking_reads_every_page_of_a_long_list(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    act(gateway, order, *["decline"] * 205, "pay")

    found = await gateway.provider.look(order)

    assert len({one.id for one in found}) == len(found) == 206
    assert stated([fact for one in found for fact in one.facts])[0][0] is FactKind.PAID


async def test_the_page_to_return_to_knows_the_payment(gateway: RealSandbox, till: Till) -> None:
    order = await till.order(seconds=3_600)
    other = provider(gateway.process, return_url="https://shop.example/paid?payment={payment}")
    found = await other.open(order, PRODUCT)
    await other.stop()

    page = gateway.process.http.get(f"/pay/{found.ref}")

    assert "form-action 'self' https://shop.example;" in page.headers["content-security-policy"]
    assert gateway.process.http.get(found.url).status_code == 200
    left = press(gateway, replace(order, gateway_ref=found.ref), act="cancel", part="student")
    assert left.headers["location"] == f"https://shop.example/paid?payment={order.id}"


async def test_a_key_that_is_not_the_gateways_is_no_answer(gateway: RealSandbox, till: Till) -> None:
    stranger = provider(gateway.process, api_key="sk_sandbox_of_nobody")

    with pytest.raises(GatewayAway):
        await stranger.open(await till.order(), PRODUCT)

    await stranger.stop()


@pytest.mark.parametrize("differs", [{"webhook_secrets": []}, {"webhook_secrets": [SECRET, " "]}, {"api_key": ""}])
def test_without_secrets_there_is_no_provider(differs: dict[str, Any]) -> None:
    whole = {"base_url": "http://127.0.0.1:1", "api_key": "key", "webhook_secrets": [SECRET], "return_url": ""}
    with pytest.raises(ValueError, match="secret"):
        Sandbox(**{**whole, **differs})


BODY = b'{"id": "evt_1"}'
GOOD = signed(BODY, NOW_MS, SECRET).headers["sandbox-signature"]


def test_a_good_signature_is_taken() -> None:
    verify(Heard({"sandbox-signature": GOOD}, BODY, NOW_MS), [SECRET])


@pytest.mark.parametrize(
    "header",
    [
        "",
        "v1=",
        GOOD.upper(),
        GOOD.replace("v1=", "v0="),
        GOOD.replace(",", ", "),
        f"{GOOD},",
        f"t=1,{GOOD}",
        GOOD[2:],
        f"{GOOD}\n",
    ],
)
def test_a_malformed_signature_is_forged(header: str) -> None:
    with pytest.raises(Forged):
        verify(Heard({"sandbox-signature": header}, BODY, NOW_MS), [SECRET])


def message(**differs: Any) -> dict[str, Any]:
    about = {"id": "co_1", "order": "x", "student": "ada", "amount": 2_500, "currency": "USD", "status": "paid"}
    subject = {"id": "pay_1", "amount": 2_500}
    kind = {"id": "evt_1", "kind": "payment.succeeded", "created_ms": NOW_MS, "live": False}
    return {**kind, "subject": subject, "checkout": about, **differs}


def test_a_whole_message_tells_a_fact() -> None:
    assert [fact.kind for fact in event(json.dumps(message()).encode()).facts] == [FactKind.PAID]


@pytest.mark.parametrize(
    "differs",
    [
        {"subject": {"id": "pay_1", "amount": -1}},
        {"subject": {"id": "pay_1", "amount": True}},
        {"subject": {"id": "pay_1", "amount": 2**31}},
        {"subject": {"id": "pay 1", "amount": 1}},
        {"subject": None},
        {"checkout": {}},
        {"live": "false"},
        {"created_ms": 10**18},
        {"kind": "payment.\x00"},
        {"id": ""},
    ],
)
def test_a_message_that_is_odd_in_any_part_tells_nothing(differs: dict[str, Any]) -> None:
    found = event(json.dumps(message(**differs)).encode())

    assert found.facts == ()
    assert found.id.startswith("odd:")


@settings(max_examples=200)
@given(
    body=st.binary(max_size=64)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
async def test_whatever_is_signed_is_kept_and_breaks_nothing(module_gateway: RealSandbox, ledger: Ledger, body: bytes) -> None:
    till = new_till(module_gateway, ledger)

    await module_gateway.provider.hear(signed(body, NOW_MS, SECRET), till)

    assert [(one.body, one.facts) for one in till.events] == [(body, ())]
    assert (await till.tell(event(body))).again


# What the gateway refuses


def wanted(**differs: Any) -> dict[str, Any]:
    whole = {"order": "o1", "student": "ada", "title": "A course", "description": "", "amount": 2_500, "currency": "USD"}
    return {**whole, "return_url": "", "expires_ms": int(time.time() * 1000) + 3_600_000, **differs}


@pytest.mark.parametrize(
    "differs",
    [
        {"amount": 0},
        {"amount": "2500"},
        {"amount": 25.0},
        {"amount": 2**31},
        {"currency": "usd"},
        {"order": ""},
        {"order": "a b"},
        {"title": ""},
        {"return_url": "javascript:alert(1)"},
        {"return_url": "data:text/html,x"},
        {"return_url": "//shop.example"},
        {"return_url": "/relative"},
        {"return_url": "https://shop.example;script-src *"},
        {"return_url": "https://shop.example\r\nx: y"},
        {"return_url": "https://"},
        {"card": "4242"},
    ],
    ids=lambda differs: repr(differs)[1:40],
)
def test_a_wish_that_is_wrong_opens_nothing(gateway: RealSandbox, differs: dict[str, Any]) -> None:
    order = {"order": f"wrong-{time.monotonic_ns()}", **differs}

    reply = gateway.process.post("/v1/checkouts", wanted(**order), key=f"key-{time.monotonic_ns()}")

    assert reply.status_code == 400, reply.text
    assert gateway.process.get("/v1/checkouts", order=order["order"])["checkouts"] == []


def test_a_checkout_that_would_be_over_is_not_opened(gateway: RealSandbox) -> None:
    reply = gateway.process.post("/v1/checkouts", wanted(expires_ms=1_000), key=f"key-{time.monotonic_ns()}")

    assert reply.status_code == 409


@pytest.mark.parametrize("key", ["", "short", "k" * 101])
def test_a_wish_needs_a_key(gateway: RealSandbox, key: str) -> None:
    assert gateway.process.post("/v1/checkouts", wanted(), key=key).status_code == 400


def test_a_key_does_one_thing(gateway: RealSandbox) -> None:
    key = f"key-{time.monotonic_ns()}"
    first = gateway.process.post("/v1/checkouts", whole := wanted(), key=key)

    assert gateway.process.post("/v1/checkouts", whole, key=key).json() == first.json()
    assert gateway.process.post("/v1/checkouts", {**whole, "amount": 1}, key=key).status_code == 422
    assert gateway.process.post(f"/v1/checkouts/{first.json()['id']}/refunds", {"amount": 1}, key=key).status_code == 422


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", "Basic c2s=", "Bearer é"])
def test_the_api_is_for_who_has_its_key(gateway: RealSandbox, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given.encode()}
    reply = httpx.get(f"{gateway.process.base}/v1/events", headers=headers, trust_env=False)  # type: ignore[arg-type]

    assert reply.status_code == 401


@pytest.mark.parametrize("path", ["/v1/checkouts/co_nobody", "/pay/co_nobody"])
def test_a_checkout_that_is_not_there_is_not_found(gateway: RealSandbox, path: str) -> None:
    assert gateway.process.http.get(path).status_code == 404
    assert gateway.process.http.post(f"{path}/acts" if "v1" in path else path, json={"act": "pay"}).status_code in (403, 404)


def test_a_body_may_not_be_long(gateway: RealSandbox) -> None:
    reply = gateway.process.post("/v1/checkouts", wanted(description="x" * 70_000), key="key-of-a-long-body")

    assert reply.status_code == 413


def test_a_strange_name_leads_nowhere(gateway: RealSandbox) -> None:
    assert gateway.process.http.get("/", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize("token", [None, "", "0" * 64])
async def test_a_form_without_the_pages_token_does_nothing(gateway: RealSandbox, till: Till, token: str | None) -> None:
    order = await opened(gateway, till)
    form = {"act": "pay", "part": "student", **({} if token is None else {"token": token})}

    reply = gateway.process.http.post(f"/pay/{order.gateway_ref}", data=form)

    assert reply.status_code == 403
    assert gateway.checkout(order)["status"] == "open"


async def test_a_form_of_another_site_does_nothing_though_it_has_the_token(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)
    token = re.search('name="token" value="([0-9a-f]+)"', gateway.process.http.get(f"/pay/{order.gateway_ref}").text)
    assert token is not None

    for site in ("cross-site", "same-site", "none"):
        reply = gateway.process.http.post(
            f"/pay/{order.gateway_ref}", data={"act": "pay", "token": token[1]}, headers={"sec-fetch-site": site}
        )
        assert reply.status_code == 403

    assert gateway.checkout(order)["status"] == "open"


async def test_a_token_is_good_for_its_own_checkout_alone(gateway: RealSandbox, till: Till) -> None:
    first, second = await opened(gateway, till), await opened(gateway, till)
    token = re.search('name="token" value="([0-9a-f]+)"', gateway.process.http.get(f"/pay/{first.gateway_ref}").text)
    assert token is not None

    assert gateway.process.http.post(f"/pay/{second.gateway_ref}", data={"act": "pay", "token": token[1]}).status_code == 403


async def test_pressing_twice_pays_once(gateway: RealSandbox, till: Till) -> None:
    order = await opened(gateway, till)

    first, second = press(gateway, order, act="pay"), press(gateway, order, act="pay")

    assert (first.status_code, second.status_code) == (303, 409)
    assert names(come(gateway, order, 1)) == ["payment.succeeded"]
    assert len(gateway.process.events(str(order.id))) == 1


@pytest.mark.parametrize(
    "button", [{}, {"act": "steal"}, {"next": "never"}, {"act": "refund", "amount": "1.001"}, {"act": "refund", "amount": "-1"}]
)
async def test_a_button_that_is_not_there_does_nothing(gateway: RealSandbox, till: Till, button: dict[str, str]) -> None:
    order = await opened(gateway, till)
    act(gateway, order, "pay")
    before = gateway.checkout(order)

    assert press(gateway, order, **button).status_code == 409

    assert gateway.checkout(order) == before


# The process


def test_two_gateways_never_share_a_memory(gateway: RealSandbox) -> None:
    own: Process = gateway.process
    options = ["--port", str(free_port()), "--home", str(own.home / "memory"), "--webhook", own.webhook]
    command = [sys.executable, "-m", "ops.sandbox", *options, "--secret-file", str(own.home / "secrets.json")]

    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert found.returncode == 1
    assert "Another process uses" in found.stderr


@pytest.mark.parametrize(
    "held",
    [
        "",
        "[]",
        '{"api_key": "sk"}',
        '{"api_key": "k", "webhook_secrets": ["w"]}',
        '{"api_key": "0123456789abcdef", "webhook_secrets": []}',
    ],
)
def test_it_does_not_start_with_secrets_that_are_none(gateway: RealSandbox, tmp_path: Any, held: str) -> None:
    file = tmp_path / "secrets.json"
    file.write_text(held)
    options = ["--port", str(free_port()), "--home", str(tmp_path / "memory"), "--webhook", gateway.process.webhook]

    found = subprocess.run(
        [sys.executable, "-m", "ops.sandbox", *options, "--secret-file", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert found.returncode == 2
    assert held == "" or held not in found.stderr


async def test_it_ends_when_it_is_asked_to_and_has_logged_no_secret() -> None:
    with listening_shop() as shop, sandbox(shop.url) as process:
        reply = await asyncio.to_thread(process.post, "/v1/checkouts", wanted(), "key-of-the-first")
        process.act(reply.json()["id"], "pay")
        heard = shop.wait(lambda heard: len(heard) == 1)

        assert process.stop() == 0

        log = (process.home / "log").read_text()
    assert not any(secret in log for secret in (SECRET, OLD_SECRET, "sk_sandbox"))
    assert not any(secret in heard[0].body.decode() + str(heard[0].headers) for secret in (SECRET, OLD_SECRET, "sk_sandbox"))


async def test_a_rotated_secret_is_taken_from_both_sides() -> None:
    with listening_shop() as shop, sandbox(shop.url) as process:
        process.stop()
        process.sign_with("whsec_the_newest_one", SECRET)
        process.start()
        reply = process.post("/v1/checkouts", wanted(), "key-of-the-first")
        process.act(reply.json()["id"], "pay")

        heard = shop.wait(lambda heard: len(heard) == 1)[0]

    verify(heard, [SECRET])
    verify(heard, ["whsec_the_newest_one"])


# Money and addresses


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [(2_500, "USD", "25.00 USD"), (5, "USD", "0.05 USD"), (1_000_000, "JPY", "1,000,000 JPY"), (1_234, "KWD", "1.234 KWD")],
)
def test_money_is_written_as_people_write_it(amount: int, currency: str, text: str) -> None:
    assert money.shown(amount, currency) == text


@given(amount=st.integers(1, 2**31 - 1), currency=st.sampled_from(["USD", "JPY", "KWD", "UZS"]))
def test_what_is_written_is_read_as_the_same_money(amount: int, currency: str) -> None:
    assert money.minor(money.shown(amount, currency).removesuffix(f" {currency}").replace(",", ""), currency) == amount


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1.005", "NaN", "Infinity", "1e999999999", "99999999999", "1,5"])
def test_what_is_no_amount_is_not_read(text: str) -> None:
    assert money.minor(text, "USD") is None


@given(url=st.text(max_size=40) | st.from_regex(r"https?://[\x20-\x7e]{0,20}", fullmatch=True))
def test_an_origin_can_mean_nothing_more_in_a_header(url: str) -> None:
    assert re.fullmatch(r"(https?://[A-Za-z0-9.-]+(:[0-9]+)?|[a-z0-9+.-]+:)?", origin(url))

"""Sends webhooks: signed, over HTTP, and again with longer and longer rests until they are taken."""

import asyncio
import hmac
import time
from collections.abc import Sequence
from contextlib import suppress

import httpx

from ops.sandbox.outbox import Attempt, Outbox, Sending
from ops.sandbox.till import Till

ANSWER_SECONDS = 10.0
AT_ONCE = 8
LONGEST_SLEEP_SECONDS = 60.0
LONGEST_ANSWER = 500


def signature(body: bytes, secrets: Sequence[str], now_ms: int) -> str:
    """Return the `Sandbox-Signature` of a body: when it was signed, and a signature by each secret.

    `t=1795000000,v1=<hex>[,v1=<hex>…]`, where each is the HMAC-SHA256 of `<t>.<body>`.
    """
    seconds = str(now_ms // 1000)
    signed = seconds.encode() + b"." + body
    made = [f"v1={hmac.digest(secret.encode(), signed, 'sha256').hex()}" for secret in secrets]
    return ",".join([f"t={seconds}", *made])


def clock_ms() -> int:
    """Return the time."""
    return time.time_ns() // 1_000_000


class Sender:
    """Sends what the outbox has, and ends checkouts whose time is over."""

    def __init__(self, till: Till, outbox: Outbox, webhook: str, secrets: Sequence[str]) -> None:
        """`secrets`: each webhook is signed by all of them, so that they can be rotated."""
        self._till = till
        self._outbox = outbox
        self._webhook = webhook
        self._secrets = tuple(secrets)
        self._under_way: set[int] = set()
        self._answered = asyncio.Condition()

    async def run(self) -> None:
        """Send until it is cancelled; what was on its way then is sent again by whoever comes next."""
        limits = httpx.Limits(max_connections=AT_ONCE)
        async with httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=limits, trust_env=False) as http, asyncio.TaskGroup() as tasks:
            while True:
                self._till.overdue()
                self._outbox.news.clear()
                now = clock_ms()
                for one in self._outbox.due(now, AT_ONCE - len(self._under_way), self._under_way):
                    self._under_way.add(one.number)
                    tasks.create_task(self._send(http, one))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._rest_seconds(now)):
                        await self._outbox.news.wait()

    async def told(self, checkout: str, seconds: float) -> None:
        """Wait until all that has happened to a checkout was sent and answered in some way, and no longer than so."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._answered:
                await self._answered.wait_for(lambda: not self._outbox.untried(checkout))

    def _rest_seconds(self, now_ms: int) -> float:
        """How long there is nothing to do, unless something happens."""
        next_ms = [at for at in (self._outbox.next_due_ms(now_ms), self._till.next_end_ms()) if at is not None]
        wait = min(next_ms, default=now_ms + 60_000) - now_ms
        return min(max(wait / 1000, 0.0), LONGEST_SLEEP_SECONDS)

    async def _send(self, http: httpx.AsyncClient, one: Sending) -> None:
        body, began, at_ms = one.body.encode(), time.monotonic(), clock_ms()
        headers = {
            "content-type": "application/json",
            "user-agent": "finalbell-sandbox",
            "sandbox-event": one.event,
            "sandbox-signature": signature(body, self._secrets, at_ms),
        }
        status: int | None = None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reply = await http.post(self._webhook, content=body, headers=headers)
            status, answer = reply.status_code, reply.text[:LONGEST_ANSWER]
        except (httpx.HTTPError, TimeoutError) as error:
            answer = f"no answer: {type(error).__name__}"
        finally:
            self._under_way.discard(one.number)
        self._outbox.tried(one.number, Attempt(at_ms, int((time.monotonic() - began) * 1000), status, answer))
        self._outbox.wake()
        async with self._answered:
            self._answered.notify_all()

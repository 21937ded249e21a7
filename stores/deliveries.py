"""Deliveries: what a JetStream consumer sends, asked for ahead.

The next messages arrive while the batch before them is worked on, and a batch is whatever has come by then: one at once when
it is quiet, hundreds when it is not, and no timer. The client library's own fetch asks anew each time, and waits for it.
"""

import asyncio
import json
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

AHEAD = 1_000
"""Messages that are here or asked for. At 100 a second they are done within the consumer's ack wait."""

ASKED_SECONDS = 5.0
"""How long the server keeps a request. What was asked for is forgotten a second later, should the notice of its end be lost."""


class Deliveries:
    """One consumer's messages for this process; several processes share a consumer."""

    def __init__(self, client: Client, stream: str, consumer: str, ack_wait_seconds: float) -> None:
        self._client = client
        self._ack_wait = ack_wait_seconds
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = client.new_inbox()
        self._subscription: Any = None
        self._here: deque[tuple[float, Msg]] = deque()
        self._arrived = asyncio.Event()
        self._asked = 0
        self._asked_until = 0.0
        self._reconnects = 0
        self._gone = ""

    async def open(self) -> None:
        """Listen for messages."""
        self._subscription = await self._client.subscribe(self._inbox, cb=self._receive)

    async def close(self) -> None:
        """Listen no more, and give back what was not taken: it comes again at once, to whoever asks."""
        with suppress(NatsError, OSError):
            await self._subscription.unsubscribe()
            while self._here:
                await self._here.popleft()[1].nak()

    async def take(self, count: int, wait_seconds: float) -> list[Msg]:
        """Return what is here, at most `count`; when nothing is, wait for the first so long. NotFoundError: no such consumer.

        What has been here for longer than the server waits for its acknowledgement is left out: it comes again.
        """
        await self._ask()
        self._forget_late()
        if not self._here:
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), wait_seconds)
        if self._gone:
            raise NotFoundError(description=self._gone)
        return [self._here.popleft()[1] for _ in range(min(count, len(self._here)))]

    def _forget_late(self) -> None:
        while self._here and self._here[0][0] < monotonic() - self._ack_wait:
            self._here.popleft()

    async def _ask(self) -> None:
        """Ask for as many as there is room for, once half of it is free."""
        now, reconnects = monotonic(), self._client.stats["reconnects"]
        if now > self._asked_until or reconnects != self._reconnects:  # a new connection has asked for nothing yet
            self._asked, self._reconnects = 0, reconnects
        room = AHEAD - len(self._here) - self._asked
        if room >= AHEAD // 2:
            request = {"batch": room, "expires": int(ASKED_SECONDS * 1e9)}
            await self._client.publish(self._next, json.dumps(request).encode(), reply=self._inbox)
            self._asked, self._asked_until = self._asked + room, now + ASKED_SECONDS + 1

    async def _receive(self, message: Msg) -> None:
        status = message.headers.get("Status") if message.headers and not message.reply else None
        if status is None:
            self._here.append((monotonic(), message))
            self._asked = max(0, self._asked - 1)
        else:
            self._ended(status, message.headers or {})
        self._arrived.set()

    def _ended(self, status: str, headers: dict[str, str]) -> None:
        """Note the end of a request: it ran out with so many undelivered, or there is nobody to ask."""
        about = headers.get("Description", "")
        if status == "408":
            self._asked = max(0, self._asked - int(headers.get("Nats-Pending-Messages", AHEAD)))
        elif status == "503" or "Consumer Deleted" in about:
            self._gone = about or "no such consumer"
        else:
            self._asked = 0

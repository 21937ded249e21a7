"""SubmitLog: submitted sessions on their way to scoring, in a JetStream work queue. Bytes in, bytes out.

One subject per session, one message per subject: while the first copy waits or is being worked on, the broker refuses a
second; once it is gone, a republish is accepted again. So no message ids (RELIABILITY 0.3).
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from time import monotonic
from typing import Protocol
from uuid import UUID

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError, NoServersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError
from prometheus_client import Gauge

from stores.deliveries import Deliveries

STREAM = "SUBMITS"
CONSUMER = "scoring"
ANNOUNCED = "scored.all"
"""The subject of what changed results, for every process that shows them."""

ACK_WAIT_SECONDS = 10
MAX_ACK_PENDING = 8_192
LOOKUPS = 64
FLUSH_SECONDS = 2
SILENCES = 3
TRY_AGAIN_SECONDS = 1.0
MAX_BYTES = 20 * 1024**3
AWAY = Gauge("finalbell_jetstream_away", "1 while submits go straight to PostgreSQL, since JetStream was silent a few times")


class Acknowledged(Protocol):
    """What is done for good once it is acknowledged: a message of the stream, or what stands in for one."""

    async def ack(self) -> None:
        """Say so."""


class PublishOutcome(StrEnum):
    """Whether JetStream has the event. REFUSED: it answers, and does not take this one (too large, or the stream is full)."""

    KEPT = "KEPT"
    ALREADY = "ALREADY"
    REFUSED = "REFUSED"
    AWAY = "AWAY"


@dataclass(frozen=True, slots=True)
class Delivered:
    """Deliveries that are not acknowledged yet: all, and those that are not the first of their submit."""

    unacknowledged: int
    again: int


class SubmitLog:
    """The stream of submits."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stream: JetStreamContext = client.jetstream(timeout=2)
        self._deliveries: Deliveries | None = None
        self._acks = ""
        self._published = 0
        self._unanswered: dict[str, asyncio.Future[Msg]] = {}
        self._silences = 0
        self._try_again = 0.0
        AWAY.set_function(lambda: self._silences >= SILENCES)

    async def prepare(self) -> None:
        """Make the stream, or bring it up to these settings; raises where NATS has not answered yet."""
        self._connected()
        config = StreamConfig(
            name=STREAM,
            subjects=["submits.*.*"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_msgs_per_subject=1,
            max_bytes=MAX_BYTES,
            duplicate_window=0.1,
        )
        try:
            await self._stream.update_stream(config)
        except NotFoundError:
            await self._stream.add_stream(config)

    async def prepare_to_pull(self) -> None:
        """Make the consumer that all scoring workers share, or bring it up to these settings."""
        await self.prepare()
        await self.stop_pulling()
        await self._stream.add_consumer(
            STREAM,
            ConsumerConfig(
                durable_name=CONSUMER,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT_SECONDS,
                max_ack_pending=MAX_ACK_PENDING,
            ),
        )

    async def publish(
        self, subject: str, event: bytes, timeout_seconds: float, headers: Mapping[str, str] | None = None
    ) -> PublishOutcome:
        """Publish and wait until JetStream has synced it; AWAY: it may or may not have it, REFUSED: it has it not.

        Error 10077 is JetStream's generic store failure; only this text means that the first copy is still there. After
        a few silences in a row nobody is made to wait for a second: then one tries again.
        """
        if not self._client.is_connected or (self._silences >= SILENCES and monotonic() < self._try_again):
            return PublishOutcome.AWAY
        self._try_again = monotonic() + TRY_AGAIN_SECONDS
        outcome = await self._publish(subject, event, timeout_seconds, headers)
        self._silences = self._silences + 1 if outcome is PublishOutcome.AWAY else 0
        return outcome

    async def _publish(
        self, subject: str, event: bytes, timeout_seconds: float, headers: Mapping[str, str] | None
    ) -> PublishOutcome:
        try:
            message = await self._acknowledged(subject, event, timeout_seconds, headers)
        except MaxPayloadError:
            return PublishOutcome.REFUSED
        except (NatsTimeoutError, NoRespondersError, TimeoutError, OSError):
            return PublishOutcome.AWAY
        except Exception as failure:
            if type(failure).__module__.startswith("nats."):
                return PublishOutcome.AWAY
            raise
        if message.headers:  # there is no stream
            return PublishOutcome.AWAY
        if b'"error"' not in message.data:
            return PublishOutcome.KEPT
        refused = json.loads(message.data)["error"]
        if refused["err_code"] == 10077 and "maximum messages per subject exceeded" in refused["description"]:
            return PublishOutcome.ALREADY
        return PublishOutcome.REFUSED

    async def _acknowledged(self, subject: str, event: bytes, timeout_seconds: float, headers: Mapping[str, str] | None) -> Msg:
        """Publish, and return the broker's answer. The client's own way makes an object of each and a task of each wait, which
        costs a submit as much as signing its receipt."""
        if not self._acks:
            acks = self._client.new_inbox()
            await self._client.subscribe(f"{acks}.*", cb=self._acknowledge)
            self._acks = acks
        self._published += 1
        token, answer = str(self._published), asyncio.get_running_loop().create_future()
        self._unanswered[token] = answer
        try:
            async with asyncio.timeout(timeout_seconds):
                carried = dict(headers) if headers else None
                await self._client.publish(subject, event, reply=f"{self._acks}.{token}", headers=carried)
                answered: Msg = await answer
                return answered
        finally:
            self._unanswered.pop(token, None)

    async def _acknowledge(self, message: Msg) -> None:
        answer = self._unanswered.get(message.subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def last(self, sessions: Mapping[UUID, str]) -> Mapping[UUID, bytes]:
        """Return the events that wait, for sessions with their exams; read from the stream's leader, never a replica."""
        if not sessions:
            return {}
        try:
            if await self.backlog() == 0:
                return {}
        except NotFoundError:  # an operator has deleted it; the next sweep makes it again
            return {}
        places = asyncio.Semaphore(LOOKUPS)

        async def one(exam: str, session: UUID) -> bytes | None:
            async with places:
                try:
                    return (await self._stream.get_last_msg(STREAM, subject(exam, session))).data
                except NotFoundError:
                    return None

        found = await asyncio.gather(*(one(exam, session) for session, exam in sessions.items()))
        return {session: event for session, event in zip(sessions, found, strict=True) if event is not None}

    async def pull(self, count: int, wait_seconds: float) -> Sequence[Msg]:
        """Return the next events, at most `count`; none when none came in time. Each must be acknowledged or ended."""
        self._connected()
        if self._deliveries is None:
            deliveries = Deliveries(self._client, STREAM, CONSUMER, ACK_WAIT_SECONDS)
            await deliveries.open()
            self._deliveries = deliveries
        return await self._deliveries.take(count, wait_seconds)

    async def stop_pulling(self) -> None:
        """Give back what was asked for ahead, for other workers."""
        if self._deliveries is not None:
            await self._deliveries.close()
            self._deliveries = None

    async def acknowledge(self, messages: Sequence[Acknowledged]) -> None:
        """Say that these are done for good, and wait until the broker has heard it; only ever after the commit."""
        for message in messages:
            await message.ack()  # into the connection's buffer
        if any(isinstance(message, Msg) for message in messages):
            await self._client.flush(FLUSH_SECONDS)

    async def backlog(self) -> int:
        """Return how many submits wait or are being worked on."""
        self._connected()
        return (await self._stream.stream_info(STREAM)).state.messages

    async def oldest_ms(self, least: int = 1) -> int | None:
        """Return since when the oldest submit waits or is being worked on, by the broker's clock; None: fewer than `least` do."""
        self._connected()
        reply = await self._client.request(f"$JS.API.STREAM.INFO.{STREAM}", b"", timeout=2)
        state = json.loads(reply.data).get("state")
        if not state or state["messages"] < least:
            return None
        return round(datetime.fromisoformat(state["first_ts"]).timestamp() * 1000)

    async def delivered(self) -> Delivered:
        """Return how many deliveries are not acknowledged yet."""
        self._connected()
        info = await self._stream.consumer_info(STREAM, CONSUMER)
        return Delivered(info.num_ack_pending or 0, info.num_redelivered or 0)

    def _connected(self) -> None:
        """Raise where NATS is away. The client's first request subscribes to the inbox of all its answers; made too early it fails,
        the client believes that it has subscribed, and no later request of this process is ever answered."""
        if not self._client.is_connected:
            raise NoServersError

    async def listen(self, to: str, receive: Callable[[bytes], None]) -> None:
        """Hand every inline reply that comes to the subject `to` to `receive`."""

        async def each(message: Msg) -> None:
            receive(message.data)

        self._connected()
        await self._client.subscribe(to, cb=each)

    async def reply(self, to: str, event: bytes) -> None:
        """Send an inline reply, or news; nobody may be there any more, and nobody relies on it: NATS may be away."""
        if self._client.is_connected:
            with suppress(NatsError, OSError):
                await self._client.publish(to, event)


def subject(exam: str, session: UUID) -> str:
    """Return the session's own subject."""
    return f"submits.{exam}.{session}"


def session_of(subject: str) -> UUID | None:
    """Return whose subject it is; None: no session's."""
    try:
        return UUID(subject.rpartition(".")[2])
    except ValueError:
        return None

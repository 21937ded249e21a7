"""SubmitLog: submitted sessions on their way to scoring, in a JetStream work queue. Bytes in, bytes out.

One subject per session, one message per subject: while the first copy waits or is being worked on, the broker refuses a
second; once it is gone, a republish is accepted again. So no message ids (RELIABILITY 0.3).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from uuid import UUID

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, NoRespondersError, NoServersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from prometheus_client import Gauge

STREAM = "SUBMITS"
CONSUMER = "scoring"
ACK_WAIT_SECONDS = 10
MAX_ACK_PENDING = 8_192
GATHER_SECONDS = 0.02
LOOKUPS = 64
SILENCES = 3
TRY_AGAIN_SECONDS = 1.0
MAX_BYTES = 20 * 1024**3
AWAY = Gauge("finalbell_jetstream_away", "1 while submits go straight to PostgreSQL, since JetStream was silent a few times")


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
        self._pull: JetStreamContext.PullSubscription | None = None
        self._silences = 0
        self._try_again = 0.0
        AWAY.set_function(lambda: self._silences >= SILENCES)

    async def prepare(self) -> None:
        """Make the stream, or bring it up to these settings; raises where NATS has not answered yet."""
        if not self._client.is_connected:
            raise NoServersError
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
        if self._pull is not None:
            with suppress(NatsError):
                await self._pull.unsubscribe()  # else it would be kept, and made anew at every reconnect
            self._pull = None
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
            await self._stream.publish(subject, event, timeout=timeout_seconds, headers=dict(headers) if headers else None)
        except APIError as refused:
            if refused.err_code == 10077 and "maximum messages per subject exceeded" in (refused.description or ""):
                return PublishOutcome.ALREADY
            return PublishOutcome.REFUSED
        except MaxPayloadError:
            return PublishOutcome.REFUSED
        except (NatsTimeoutError, NoRespondersError, TimeoutError, OSError):
            return PublishOutcome.AWAY
        except Exception as failure:
            if type(failure).__module__.startswith("nats."):
                return PublishOutcome.AWAY
            raise
        return PublishOutcome.KEPT

    async def last(self, sessions: Mapping[UUID, str]) -> Mapping[UUID, bytes]:
        """Return the events that wait, for sessions with their exams; read from the stream's leader, never a replica."""
        if sessions and not self._client.is_connected:
            raise NoServersError
        try:
            if not sessions or await self.backlog() == 0:
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
        """Return the next events, at most `count`; none when none came in time. Each must be acknowledged or ended.

        The first is waited for, the others get 20 ms to join it: the client's own batch fetch would hold the first one
        back for the whole wait.
        """
        if self._pull is None:
            self._pull = await self._stream.pull_subscribe_bind(CONSUMER, STREAM)
        try:
            messages = await self._pull.fetch(1, timeout=wait_seconds)
        except (NatsTimeoutError, TimeoutError):
            return []
        try:
            return [*messages, *await self._pull.fetch(count - 1, timeout=GATHER_SECONDS)]
        except (NatsTimeoutError, TimeoutError):
            return messages

    async def acknowledge(self, messages: Sequence[Msg]) -> None:
        """Say that these are done for good; only ever after the commit."""
        await asyncio.gather(*(message.ack() for message in messages))

    async def backlog(self) -> int:
        """Return how many submits wait or are being worked on."""
        return (await self._stream.stream_info(STREAM)).state.messages

    async def delivered(self) -> Delivered:
        """Return how many deliveries are not acknowledged yet."""
        info = await self._stream.consumer_info(STREAM, CONSUMER)
        return Delivered(info.num_ack_pending or 0, info.num_redelivered or 0)

    async def listen(self, to: str, receive: Callable[[bytes], None]) -> None:
        """Hand every inline reply that comes to the subject `to` to `receive`."""

        async def each(message: Msg) -> None:
            receive(message.data)

        await self._client.subscribe(to, cb=each)

    async def reply(self, to: str, event: bytes) -> None:
        """Send an inline reply; nobody may be there any more."""
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

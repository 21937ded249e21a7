"""SignalLog: signals on their way to PostgreSQL, in a JetStream stream that lives in memory. Bytes in, bytes out.

It is bounded, and its oldest events make room for new ones: signals are worth something, but never a full disk or a wait. What
is lost is counted by whoever writes (`Signals.keep`), from what each publisher says it had published before.
"""

from collections.abc import Sequence
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoServersError
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from stores.deliveries import Deliveries

STREAM = "SIGNALS"
SUBJECT = "signals.reported"
CONSUMER = "integrity"
ACK_WAIT_SECONDS = 30
MAX_ACK_PENDING = 1_024
KEPT_SECONDS = 3_600.0
"""An event that nobody has written after an hour is dropped."""

FLUSH_SECONDS = 2


class SignalLog:
    """The stream of signals."""

    def __init__(self, client: Client, max_bytes: int) -> None:
        self._client = client
        self._max_bytes = max_bytes
        self._stream = JetStreamContext(client, timeout=2)
        self._deliveries: Deliveries | None = None

    async def prepare(self) -> None:
        """Make the stream, or bring it up to these settings."""
        self._connected()
        config = StreamConfig(
            name=STREAM,
            subjects=["signals.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.MEMORY,
            discard=DiscardPolicy.OLD,
            max_bytes=self._max_bytes,
            max_age=KEPT_SECONDS,
            duplicate_window=0.1,
        )
        try:
            await self._stream.update_stream(config)
        except NotFoundError:
            await self._stream.add_stream(config)

    async def prepare_to_pull(self) -> None:
        """Make the consumer that all workers share, or bring it up to these settings."""
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

    async def publish(self, event: bytes, timeout_seconds: float) -> bool:
        """Publish, and say whether the stream surely has it; False: it may or may not."""
        if not self._client.is_connected:
            return False
        try:
            await self._stream.publish(SUBJECT, event, timeout=timeout_seconds)
        except (NatsError, TimeoutError, OSError):  # away, no stream, or a broker that refuses
            return False
        return True

    async def pull(self, count: int, wait_seconds: float) -> Sequence[Msg]:
        """Return the next events, at most `count`; none when none came in time. Each must be acknowledged."""
        self._connected()
        if self._deliveries is None:
            deliveries = Deliveries(self._client, STREAM, CONSUMER, ACK_WAIT_SECONDS)
            await deliveries.open()
            self._deliveries = deliveries
        return await self._deliveries.take(count, wait_seconds)

    async def stop_pulling(self) -> None:
        """Give back what was asked for ahead."""
        if self._deliveries is not None:
            await self._deliveries.close()
            self._deliveries = None

    async def acknowledge(self, messages: Sequence[Msg]) -> None:
        """Say that these are written; only ever after the commit."""
        for message in messages:
            await message.ack()
        if messages:
            await self._client.flush(FLUSH_SECONDS)

    async def give_back(self, messages: Sequence[Msg]) -> None:
        """Have these delivered again at once, to whoever asks; unsaid, they come when their time to be acknowledged is over."""
        for message in messages:
            with suppress(NatsError, OSError):  # acknowledged already, or NATS is away
                await message.nak()

    async def backlog(self) -> int:
        """Return how many events wait or are being written."""
        self._connected()
        return (await self._stream.stream_info(STREAM)).state.messages

    def _connected(self) -> None:
        """Raise where NATS is away: a first request that is made too early breaks all later ones (stores/submit_log.py)."""
        if not self._client.is_connected:
            raise NoServersError

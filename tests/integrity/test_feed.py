"""Reports that nobody takes wait in a bounded queue; the oldest go, and are counted."""

import asyncio
from uuid import uuid4

from finalbell.v1 import events_pb2 as events
from finalbell.v1 import integrity_pb2 as pb
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import REGISTRY

from servers.integrity import feed
from servers.integrity.feed import Feed
from stores.connect import Stores
from stores.signal_log import SignalLog

AWAY = SignalLog(Client(), 1 << 20)
"""A stream whose broker is away: its client was never connected."""


def report(signals: int, label: str = "") -> events.SignalReport:
    one = pb.Signal(device_change=pb.DeviceChange(label=label)) if label else pb.Signal(focus_lost=pb.FocusLost())
    return events.SignalReport(report_id=uuid4().bytes, session_id=uuid4().bytes, student_id="s", signals=[one] * signals)


def dropped(why: str = "queue_full") -> float:
    return REGISTRY.get_sample_value("finalbell_signals_dropped_total", {"why": why}) or 0.0


def waiting() -> float:
    return REGISTRY.get_sample_value("finalbell_queue_waiting", {"queue": "signals"}) or 0.0


async def test_a_full_queue_drops_its_oldest_report_and_makes_nobody_wait() -> None:
    queue, before = Feed(AWAY), dropped()

    for _ in range(feed.MOST_REPORTS + 25):
        queue.offer(report(2))

    assert waiting() == feed.MOST_REPORTS
    assert dropped() - before == 50


async def test_large_reports_fill_it_by_their_bytes() -> None:
    queue, large = Feed(AWAY), report(100, "x" * 128)

    for _ in range(2 * feed.MOST_BYTES // large.ByteSize()):
        queue.offer(large)

    assert waiting() <= feed.MOST_BYTES // large.ByteSize()


async def test_it_ends_though_the_broker_never_comes_and_counts_all_that_is_given_up() -> None:
    queue, stop, before = Feed(AWAY), asyncio.Event(), dropped("ended")
    running = asyncio.create_task(queue.run(stop))
    queue.offer(report(1))
    await asyncio.sleep(0.3)
    queue.offer(report(2))

    stop.set()
    async with asyncio.timeout(10):
        await running
        await queue.drain()

    assert dropped("ended") - before == 3


async def test_what_waited_is_published_when_the_broker_is_there_numbered_without_a_gap(stores: Stores) -> None:
    heard: list[events.SignalsReported] = []

    async def hear(message: Msg) -> None:
        heard.append(events.SignalsReported.FromString(message.data))

    subscription = await stores.nats.subscribe("signals.reported", cb=hear)
    queue = Feed(SignalLog(stores.nats, 64 << 20))
    for _ in range(1_500):
        queue.offer(report(2))
    await queue.drain()
    await stores.nats.flush()
    await subscription.unsubscribe()

    own = sorted((one for one in heard if one.publisher == queue.publisher), key=lambda one: one.published_before)
    sizes = [sum(len(each.signals) for each in one.reports) for one in own]
    assert sum(sizes) == 3_000
    assert [one.published_before for one in own] == [sum(sizes[:n]) for n in range(len(sizes))]
    assert max(sizes) <= feed.EVENT_SIGNALS + 1

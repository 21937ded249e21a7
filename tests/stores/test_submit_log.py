"""JetStream holds one copy of a submit until it is acknowledged, and takes another one only then."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from nats.aio.client import Client
from nats.errors import NoServersError
from nats.js.errors import NotFoundError

from stores.connect import Stores
from stores.deliveries import Deliveries
from stores.submit_log import PublishOutcome, SubmitLog, subject
from tests.stack import Stack, eventually, fresh, uuid7


@pytest.fixture
def nobody_scores(stack: Stack) -> Iterator[None]:
    """Freeze the stack's own scoring worker, which would take what a test publishes."""
    worker = stack.pid("scoring-worker")
    os.kill(worker, signal.SIGSTOP)
    yield
    os.kill(worker, signal.SIGCONT)


@pytest.mark.usefixtures("nobody_scores")
async def test_a_second_copy_is_refused_while_the_first_one_is_there_and_taken_afterwards(stores: Stores) -> None:
    log, exam, session = SubmitLog(stores.nats), fresh("x"), uuid7()
    await log.prepare()
    where = subject(exam, session)

    outcomes = [await log.publish(where, copy, 5) for copy in (b"first", b"second")]
    waiting = (await log.last({session: exam})).get(session)
    await stores.nats.jetstream().purge_stream("SUBMITS", subject=where)
    gone = (await log.last({session: exam})).get(session)
    outcomes.append(await log.publish(where, b"third", 5))
    await stores.nats.jetstream().purge_stream("SUBMITS", subject=where)

    assert outcomes == [PublishOutcome.KEPT, PublishOutcome.ALREADY, PublishOutcome.KEPT]
    assert waiting == b"first"
    assert gone is None


async def test_a_broker_that_does_not_answer_in_time_is_away(stores: Stores) -> None:
    log = SubmitLog(stores.nats)

    outcome = await log.publish(subject("nobody-listens", uuid7()).replace("submits", "elsewhere"), b"", 0.2)

    assert outcome is PublishOutcome.AWAY


async def test_nothing_to_pull_is_an_empty_batch(stores: Stores) -> None:
    log = SubmitLog(stores.nats)
    await log.prepare_to_pull()

    async def nothing() -> bool:
        async with asyncio.timeout(5):
            return list(await log.pull(500, 0.2)) == []

    await eventually(nothing)  # other tests' sessions may still be published again by the nets


@pytest.mark.usefixtures("nobody_scores")
async def test_an_event_that_is_too_large_is_refused_and_no_sign_that_the_broker_is_away(stores: Stores) -> None:
    log, where = SubmitLog(stores.nats), subject(fresh("x"), uuid7())

    refused = [await log.publish(where, b"x" * 3 * 2**20, 5) for _ in range(5)]
    taken = await log.publish(where, b"small", 5)
    await stores.nats.jetstream().purge_stream("SUBMITS", subject=where)

    assert refused == [PublishOutcome.REFUSED] * 5
    assert taken is PublishOutcome.KEPT


async def test_a_consumer_that_is_made_again_leaves_no_subscription_behind(stores: Stores) -> None:
    log = SubmitLog(stores.nats)

    async def subscriptions() -> int:
        await log.prepare_to_pull()
        await log.pull(1, 0.1)
        return len(stores.nats._subs)

    counted = [await subscriptions() for _ in range(4)]

    assert len(set(counted)) == 1


async def test_who_asks_before_nats_is_there_is_answered_when_it_is(stack: Stack) -> None:
    client = Client()
    log = SubmitLog(client)
    asked: list[Callable[[], Awaitable[object]]] = [
        log.backlog,
        log.delivered,
        log.oldest_ms,
        log.prepare,
        lambda: log.pull(1, 0.1),
    ]
    for ask in asked:
        with pytest.raises(NoServersError):
            await ask()

    await client.connect(stack.read()["nats"])

    assert await log.backlog() >= 0
    await client.close()


@pytest.fixture
async def deliveries(stores: Stores) -> AsyncIterator[Deliveries]:
    """A consumer of a stream of its own, which takes the subjects `ahead.*`."""
    context = stores.nats.jetstream()
    await context.add_stream(name="AHEAD", subjects=["ahead.*"])
    await context.add_consumer("AHEAD", durable_name="one")
    made = Deliveries(stores.nats, "AHEAD", "one", 10)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
        await context.delete_stream("AHEAD")


async def test_a_batch_is_whatever_has_come_while_the_one_before_it_was_worked_on(stores: Stores, deliveries: Deliveries) -> None:
    nothing = await deliveries.take(100, 0.1)
    for number in range(30):
        await stores.nats.jetstream().publish(f"ahead.{number}", b"")

    async def all_here() -> bool:
        return len(deliveries._here) == 30

    await eventually(all_here)

    first, rest, none_left = await deliveries.take(20, 5), await deliveries.take(100, 5), await deliveries.take(100, 0.1)

    assert [len(batch) for batch in (nothing, first, rest, none_left)] == [0, 20, 10, 0]
    assert [one.subject for one in [*first, *rest]] == [f"ahead.{number}" for number in range(30)]


async def test_what_was_asked_for_and_not_taken_is_given_back_at_once(stores: Stores, deliveries: Deliveries) -> None:
    await stores.nats.jetstream().publish("ahead.0", b"")
    assert await deliveries.take(0, 5) == []
    another = Deliveries(stores.nats, "AHEAD", "one", 10)
    await another.open()

    await deliveries.close()

    (given,) = await another.take(1, 5)  # sooner than the consumer's ack wait, which is 30 s
    await another.close()
    assert given.subject == "ahead.0"


async def test_what_has_been_here_for_too_long_is_left_to_come_again(stores: Stores) -> None:
    context = stores.nats.jetstream()
    await context.add_stream(name="LATE", subjects=["late.*"])
    await context.add_consumer("LATE", durable_name="one")
    late = Deliveries(stores.nats, "LATE", "one", 0.2)
    await late.open()
    await context.publish("late.0", b"")
    assert await late.take(0, 5) == []

    await asyncio.sleep(0.3)
    left = await late.take(1, 0.1)

    await late.close()
    await context.delete_stream("LATE")
    assert left == []


async def test_whoever_pulls_hears_that_the_consumer_is_gone(stores: Stores, deliveries: Deliveries) -> None:
    await deliveries.take(1, 0.1)
    await stores.nats.jetstream().delete_consumer("AHEAD", "one")

    async def gone() -> bool:
        try:
            await deliveries.take(1, 0.1)
        except NotFoundError:
            return True
        return False

    await eventually(gone)

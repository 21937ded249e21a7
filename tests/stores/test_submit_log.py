"""JetStream holds one copy of a submit until it is acknowledged, and takes another one only then."""

import asyncio

from stores.connect import Stores
from stores.submit_log import PublishOutcome, SubmitLog, subject
from tests.stack import fresh, uuid7


async def test_a_second_copy_is_refused_while_the_first_one_waits(stores: Stores) -> None:
    log, where = SubmitLog(stores.nats), f"submits.{fresh('x')}.{uuid7()}"
    await log.prepare()
    stream = stores.nats.jetstream()

    first, second = await log.publish(where, b"not an event", 5), await log.publish(where, b"not an event", 5)

    await stream.purge_stream("SUBMITS", subject=where)
    third = await log.publish(where, b"not an event", 5)
    await stream.purge_stream("SUBMITS", subject=where)
    # The stack's own worker may bury a message that is no event at any moment: then the second copy is new.
    assert first is PublishOutcome.KEPT
    assert second in (PublishOutcome.ALREADY, PublishOutcome.KEPT)
    assert third is PublishOutcome.KEPT


async def test_a_copy_that_nobody_takes_is_found_again_by_exam_and_session(stores: Stores) -> None:
    log, exam, session = SubmitLog(stores.nats), fresh("x"), uuid7()
    await log.prepare()
    assert await log.last(exam, session) is None


async def test_a_broker_that_does_not_answer_in_time_is_away(stores: Stores) -> None:
    log = SubmitLog(stores.nats)

    outcome = await log.publish(subject("nobody-listens", uuid7()).replace("submits", "elsewhere"), b"", 0.2)

    assert outcome is PublishOutcome.AWAY


async def test_nothing_to_pull_is_an_empty_batch(stores: Stores) -> None:
    log = SubmitLog(stores.nats)
    await log.prepare_to_pull()

    async with asyncio.timeout(5):
        assert list(await log.pull(10, 0.2)) == []

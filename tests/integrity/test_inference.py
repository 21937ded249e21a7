"""What the server sees itself: two at once, a login that moves, a clock that jumps, times that are implausible."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc.aio
import pytest
from finalbell.v1 import events_pb2 as events
from finalbell.v1 import integrity_pb2 as pb
from finalbell.v1.integrity_pb2_grpc import IntegrityServiceStub
from google.protobuf.timestamp_pb2 import Timestamp

from servers.integrity.worker import GRACE_SECONDS, IntegrityWorker
from stores.connect import Stores
from stores.signal_log import SignalLog
from stores.signal_records import Finished
from stores.signals import Signals
from tests.faults.harm import fetch, jetstream
from tests.flows.sitting import Student
from tests.integrity.reporting import counted, counts, kept
from tests.stack import Stack, bearer, eventually, fresh, uuid7

WIFI, MOBILE = "192.0.2.1", "198.51.100.7"


async def tell(channel: grpc.aio.Channel, token: str, session: str, device: str = "", address: str = "", **fields: Any) -> None:
    """Report to the service itself, as the gateway would for a caller at an address."""
    request = pb.ReportSignalsRequest(session_id=session, device_id=device, **fields)
    headers = [*bearer(token), ("x-forwarded-for", address)]
    await IntegrityServiceStub(channel).ReportSignals(request, metadata=headers)
    await asyncio.sleep(0.002)  # so that no two have one millisecond


async def test_two_devices_at_two_addresses_with_one_login_are_seen_once_each(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, stack.channel("integrity") as channel:
        session = (await student.sit(exam))["sessionId"]
        for device, address in [("laptop", WIFI), ("phone", MOBILE)] * 3:
            await tell(channel, student.token, session, device, address)

        await counted(stack, session, {"TWO_DEVICES": 1, "TWO_ADDRESSES": 1, "TOKEN_MOVED": 1})
        pairs = {row["kind"]: json.loads(row["details"])["pair"] for row in await kept(stack, session)}

    assert pairs == {"TWO_DEVICES": ["laptop", "phone"], "TWO_ADDRESSES": [WIFI, MOBILE], "TOKEN_MOVED": ["laptop", "phone"]}


async def test_two_devices_of_clients_that_report_every_five_minutes_are_seen(stack: Stack, exam: str) -> None:
    now = datetime.now(UTC)
    async with Student(stack) as student, jetstream(stack) as stream:
        session = UUID((await student.sit(exam))["sessionId"])
        reports = [
            events.SignalReport(
                report_id=uuid7().bytes,
                session_id=session.bytes,
                student_id=student.name,
                device_id=device,
                received_at=now + timedelta(seconds=after),
                report_seconds=300,
            )
            for device, after in [("laptop", 0), ("phone", 200), ("laptop", 500)]
        ]
        event = events.SignalsReported(reports=reports, publisher=uuid7().bytes)
        await stream.publish("signals.reported", event.SerializeToString())

        await counted(stack, str(session), {"TWO_DEVICES": 1})


async def test_a_second_login_on_another_device_that_takes_over_is_nothing(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, stack.channel("integrity") as channel:
        session, second = (await student.sit(exam))["sessionId"], stack.token(student.name, cohorts=["c"])
        await tell(channel, student.token, session, "laptop", WIFI)
        await tell(channel, second, session, "phone", MOBILE, signals=[pb.Signal(focus_lost=pb.FocusLost())])

        await counted(stack, session, {"FOCUS_LOST": 1})


async def test_a_clock_that_jumps_between_two_reports_is_seen_and_one_that_is_only_wrong_is_not(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, stack.channel("integrity") as channel:
        session = (await student.sit(exam))["sessionId"]
        for device, hours in [("wrong", 5), ("wrong", 5), ("set", 0), ("set", 1)]:
            clock = Timestamp()
            clock.FromDatetime(datetime.now(UTC) + timedelta(hours=hours))
            await tell(
                channel,
                student.token if device == "set" else stack.token(student.name, cohorts=["c"]),
                session,
                device,
                client_now=clock,
            )

        await counted(stack, session, {"CLOCK_JUMP": 1})
        (row,) = await kept(stack, session)

    assert row["device_id"] == "set"
    assert abs(json.loads(row["details"])["milliseconds"] - 3_600_000) < 10_000


# After the submit


@pytest.fixture
def worker(stores: Stores, signals: Signals) -> IntegrityWorker:
    """A worker beside the stack's own, which does the same: who comes first makes no difference."""
    return IntegrityWorker(SignalLog(stores.nats, 1 << 20), signals, days=180, collecting=True)


async def sat(
    stack: Stack, exam: str, times: list[float], *, back: float | None = None, ago_ms: int = 0, minutes_ago: int = 11
) -> str:
    """Put a scored session into PostgreSQL that answered its questions after so many seconds each, reported `back` seconds after
    its start that it had come back to the window `ago_ms` before, from 20 s away, and was handed in some minutes ago."""
    session, name = uuid7(), fresh("s")
    started = datetime.now(UTC) - timedelta(minutes=30)
    if back is not None:
        signal = (
            "INSERT INTO integrity_signal (session_id, id, kind, amount, received_at, details) "
            "VALUES ($1, $2, 'FOCUS_REGAINED', 20000, $3, $4::jsonb)"
        )
        details = json.dumps({"agoMs": ago_ms} if ago_ms else {})
        await fetch(stack, signal, session, uuid7(), started + timedelta(seconds=back), details)
    await fetch(
        stack,
        """
        INSERT INTO exam_session (id, student_id, exam_id, exam_version, cohorts, attempt, alias, started_at, ends_at, status,
                                  submitted_at)
        VALUES ($1, $2, $3, 1, '{}', 1, 'alias', $4, now(), 'SUBMITTED', now() - make_interval(mins => $5))
        """,
        *(session, name, exam, started, minutes_ago),
    )
    at = started
    for number, seconds in enumerate(times):
        at += timedelta(seconds=seconds)
        await fetch(
            stack,
            "INSERT INTO session_answer VALUES ($1, $2, 'c:A', 1, $3, '\\x00', '\\x00', NULL)",
            *(session, f"q{number + 1}", at),
        )
    await fetch(stack, "UPDATE exam_session SET status = 'SCORED' WHERE id = $1", session)  # only now the stack's worker sees it
    return str(session)


async def looked_at(worker: IntegrityWorker, stack: Stack, exam: str, *, judged: int) -> None:
    """Have finished sessions looked at, until so many of an exam's are done with."""

    async def done() -> bool:
        await worker.infer()
        rows = await fetch(stack, "SELECT count(*) FROM integrity_seen WHERE exam_id = $1 AND judged", exam)
        return bool(rows[0]["count"] == judged)

    await eventually(done)


async def test_an_answer_far_faster_than_the_others_is_seen_and_a_quick_one_is_not(
    stack: Stack, exam: str, worker: IntegrityWorker
) -> None:
    for n in range(32):
        await sat(stack, exam, [40 + n, 50 + n])
    known, quick = await sat(stack, exam, [0.5, 60]), await sat(stack, exam, [25, 60])

    await looked_at(worker, stack, exam, judged=34)

    await counted(stack, known, {"FAST_ANSWER": 1})
    (row,) = await kept(stack, known)
    assert json.loads(row["details"])["question"] == "q1"
    assert await counts(stack, quick) == {}


async def test_who_was_among_the_first_is_judged_when_enough_have_answered_and_counted_once(
    stack: Stack, exam: str, worker: IntegrityWorker
) -> None:
    known = await sat(stack, exam, [0.5])
    for n in range(10):
        await sat(stack, exam, [40 + n])
    await looked_at(worker, stack, exam, judged=0)

    async def seen() -> bool:
        await worker.infer()
        return len(await fetch(stack, "SELECT FROM integrity_seen WHERE exam_id = $1", exam)) == 11

    await eventually(seen)
    early = await counts(stack, known)
    for n in range(25):
        await sat(stack, exam, [40 + n])
    await looked_at(worker, stack, exam, judged=36)

    assert early == {}
    await counted(stack, known, {"FAST_ANSWER": 1})
    (pace,) = await fetch(stack, "SELECT answers FROM integrity_pace WHERE exam_id = $1", exam)
    assert pace["answers"] == 36


async def test_nobody_is_looked_at_while_the_last_signals_may_still_come(stack: Stack, exam: str, signals: Signals) -> None:
    just_now, before = await sat(stack, exam, [10], minutes_ago=9), await sat(stack, exam, [10])
    await fetch(stack, "DELETE FROM integrity_seen WHERE exam_id = $1", exam)  # the stack's own worker may have come by

    found = {str(one.session) for one in await signals.finished(10_000, 1, GRACE_SECONDS)}

    assert before in found
    assert just_now not in found


async def test_two_workers_count_a_finished_session_once(stack: Stack, exam: str, signals: Signals) -> None:
    session = await sat(stack, exam, [10])
    one = Finished(UUID(session), "s", exam, 1, 0, again=False)

    added = [await signals.add_pace([one], {}) for _ in range(2)]

    assert added.count(True) <= 1  # the stack's own worker may have been the first
    assert added[1] is False


@pytest.mark.parametrize(("back", "ago_ms"), [(599.0, 0), (720.0, 121_000)], ids=["reported at once", "reported two minutes later"])
async def test_many_answers_right_after_a_return_are_seen(
    stack: Stack, exam: str, worker: IntegrityWorker, back: float, ago_ms: int
) -> None:
    session = await sat(stack, exam, [600, 2, 2, 2, 2], back=back, ago_ms=ago_ms)

    async def seen() -> bool:
        await worker.infer()
        return (await counts(stack, session)).get("CHANGES_AFTER_FOCUS") == 1

    await eventually(seen)

"""Reports through the gateway and straight to the service: 202 whatever becomes of them, and each kept once."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from finalbell.v1 import events_pb2 as events
from finalbell.v1 import integrity_pb2 as pb
from finalbell.v1.integrity_pb2_grpc import IntegrityServiceStub
from google.protobuf.json_format import ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from stores.signal_records import Kind
from tests.faults.harm import fetch, jetstream
from tests.flows.sitting import Student, good, refusal, wrong_fields
from tests.flows.transports import TRANSPORTS, native_refusal, transport
from tests.integrity.reporting import LOST, counted, counts, kept, report
from tests.stack import Stack, bearer

EVERY: list[dict[str, Any]] = [
    {"focusLost": {}},
    {"focusRegained": {"awayMs": 4_200}},
    {"copy": {"length": 3}},
    {"cut": {"length": 4}},
    {"paste": {"length": 120, "digest": "q80=", "questionId": "q1"}},
    {"fullScreenLeft": {"awayMs": 900}},
    {"displayCount": {"count": 2}},
    {"devTools": {"open": True}},
    {"networkChange": {"online": True, "type": "wifi"}},
    {"deviceChange": {"device": "camera", "label": "C920", "attached": True}},
    {"ping": {"roundTripMs": 20}},
    {"webcamFrame": {"frameId": "01999999-0000-4000-8000-000000000000"}},
]


@pytest.mark.parametrize("way", TRANSPORTS)
async def test_every_kind_is_kept_with_both_clocks_whichever_way_it_came(stack: Stack, exam: str, way: str) -> None:
    then = Timestamp(seconds=1_790_000_000)
    async with Student(stack) as student, transport(way, stack, student.token) as way_in:
        session = (await student.sit(exam))["sessionId"]
        request = pb.ReportSignalsRequest(session_id=session, device_id="d1")
        for one in EVERY:
            request.signals.append(ParseDict(one, pb.Signal(client_ts=then)))
        reply = await way_in.call("ReportSignals", request)
        names = {next(iter(one)): Kind(re.sub("(?=[A-Z])", "_", next(iter(one))).upper()) for one in EVERY}
        await counted(stack, session, dict.fromkeys(names.values(), 1))
        rows = {row["kind"]: row for row in await kept(stack, session)}

    assert (reply.ok.accepted, reply.ok.dropped, reply.ok.collecting) == (len(EVERY), 0, True)
    assert reply.ok.next_report_seconds > 0
    if way == "rest":
        assert reply.http == 202
    assert rows.keys() == set(names.values()) - {"PING"}
    assert {row["client_at"] for row in rows.values()} == {datetime.fromtimestamp(1_790_000_000, UTC)}
    assert all(abs(row["received_at"] - datetime.now(UTC)) < timedelta(minutes=5) for row in rows.values())
    assert {row["device_id"] for row in rows.values()} == {"d1"}
    assert (rows["FOCUS_REGAINED"]["amount"], rows["PASTE"]["amount"]) == (4_200, 120)
    assert json.loads(rows["PASTE"]["details"]) == {"digest": "abcd", "question": "q1"}


async def test_an_unknown_kind_is_counted_and_dropped_and_the_others_are_kept(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        reply = await report(student, session, LOST, {"telepathy": {"strength": 9}}, {"clientTs": "2026-01-01T00:00:00Z"}, LOST)
        await counted(stack, session, {"FOCUS_LOST": 2})

    assert good(reply, 202) | {"nextReportSeconds": 0} == {
        "accepted": 2,
        "dropped": 2,
        "collecting": True,
        "nextReportSeconds": 0,
    }


async def test_a_signal_that_is_reported_again_counts_once_on_its_device(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        for device in ("d1", "d1", "d2"):
            good(await report(student, session, {**LOST, "sequence": 1}, deviceId=device), 202)
        good(await report(student, session, {"copy": {}}), 202)
        good(await report(student, session, {"copy": {}}), 202)

        await counted(stack, session, {"FOCUS_LOST": 2, "COPY": 2, "TOKEN_MOVED": 1})


async def test_a_signal_is_kept_with_how_long_before_its_report_it_was_by_the_clients_clock_alone(stack: Stack, exam: str) -> None:
    times = [{"clientTs": "2031-01-01T09:59:59.5Z"}, {"clientTs": "2031-01-01T10:03:00Z"}, {}]
    back = [{"focusRegained": {"awayMs": 9_000}} | time for time in times]
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        copied = {"clientTs": "2031-01-01T10:01:59Z", "copy": {"length": 3, "questionId": "q1"}}
        good(await report(student, session, *back, copied, clientNow="2031-01-01T10:02:00Z"), 202)
        await counted(stack, session, {"FOCUS_REGAINED": 3, "COPY": 1})
        details = [json.loads(row["details"]) for row in await kept(stack, session)]

    assert sorted(details, key=str) == [{"agoMs": 1000, "question": "q1"}, {"agoMs": 120_500}, {}, {}]


async def test_control_characters_are_kept_escaped(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        label = "\0\x1b[31mred\u202e\\"
        good(await report(student, session, {"deviceChange": {"device": "x", "label": label}}), 202)
        await counted(stack, session, {"DEVICE_CHANGE": 1})
        (row,) = await kept(stack, session)

    assert json.loads(row["details"])["label"] == r"\u{0}\u{1b}[31mred\u{202e}\\"


async def test_anothers_session_is_as_unknown_as_one_that_never_was_and_nothing_is_kept(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, Student(stack) as other:
        session = (await student.sit(exam))["sessionId"]
        foreign, never = await report(other, session, LOST), await report(other, str(uuid4()), LOST)
        good(await report(student, session, {"copy": {}}), 202)
        await counted(stack, session, {"COPY": 1})

    assert refusal(foreign) == refusal(never) == (404, "SESSION_NOT_FOUND")
    assert foreign.json()["message"] == never.json()["message"]


async def test_a_value_out_of_its_range_and_a_report_too_large_are_refused_by_name(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        negative = await report(student, session, LOST, {"focusRegained": {"awayMs": -1}})
        many = await report(student, session, *[LOST] * 101)

    assert (refusal(negative), wrong_fields(negative)) == ((400, "INVALID_FIELD"), ["signals[1].focusRegained.awayMs"])
    assert (refusal(many), wrong_fields(many)) == ((400, "INVALID_FIELD"), ["signals"])


async def test_a_flood_is_refused_on_signals_only(stack: Stack, exam: str) -> None:
    async with Student(stack) as floods, Student(stack) as other:
        session, theirs = (await floods.sit(exam))["sessionId"], (await other.sit(exam))["sessionId"]
        replies = await asyncio.gather(*(report(floods, session, *[LOST] * 100) for _ in range(12)))
        saved = await floods.save(session, "q1", choice="B")
        by_other = await report(other, theirs, LOST)
        submitted = await floods.submit(session)

    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {202, 429}
    assert statuses.count(202) <= 4
    limited = next(reply for reply in replies if reply.status_code == 429)
    assert refusal(limited) == (429, "RATE_LIMITED")
    assert int(limited.headers["retry-after"]) >= 1
    assert good(saved)["saved"]
    good(submitted, 200, 202)
    good(by_other, 202)


async def test_after_the_submit_signals_are_taken_for_a_while_and_later_ones_dropped(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, Student(stack) as other:
        session, theirs = (await student.sit(exam))["sessionId"], (await other.sit(exam))["sessionId"]
        good(await student.submit(session), 200, 202)
        await student.outcome(session)
        good(await report(student, session, LOST), 202)
        await counted(stack, session, {"FOCUS_LOST": 1})
        await fetch(stack, "UPDATE exam_session SET submitted_at = now() - interval '11 minutes' WHERE id = $1", UUID(session))
        good(await report(student, session, {"copy": {}}), 202)
        good(await report(other, theirs, LOST), 202)
        await counted(stack, theirs, {"FOCUS_LOST": 1})  # what came after it is written

        assert await counts(stack, session) == {"FOCUS_LOST": 1}


async def test_a_stream_of_a_native_app_is_one_call_and_counts_as_reports(stack: Stack, exam: str) -> None:
    async with Student(stack) as student, stack.channel() as channel:
        session = (await student.sit(exam))["sessionId"]

        async def happening() -> AsyncIterator[pb.StreamSignalsRequest]:
            yield pb.StreamSignalsRequest(session_id=session, device_id="d1", signals=[pb.Signal(focus_lost=pb.FocusLost())])
            yield pb.StreamSignalsRequest(signals=[pb.Signal(copy=pb.Clipboard(length=1)), pb.Signal()])

        reply = await IntegrityServiceStub(channel).StreamSignals(happening(), metadata=bearer(student.token))
        await counted(stack, session, {"FOCUS_LOST": 1, "COPY": 1})
        rows = await kept(stack, session)

    assert (reply.accepted, reply.dropped, reply.collecting) == (2, 1, True)
    assert {row["device_id"] for row in rows} == {"d1"}


@pytest.mark.parametrize("second", ["another", "none"])
async def test_a_stream_is_about_one_session(stack: Stack, exam: str, second: str) -> None:
    async with Student(stack) as student, stack.channel() as channel:
        session = (await student.sit(exam))["sessionId"] if second == "another" else ""

        async def happening() -> AsyncIterator[pb.StreamSignalsRequest]:
            yield pb.StreamSignalsRequest(session_id=session)
            yield pb.StreamSignalsRequest(session_id=str(uuid4()))

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await IntegrityServiceStub(channel).StreamSignals(happening(), metadata=bearer(student.token))

    assert (native_refusal(refused.value).reason, native_refusal(refused.value).fields) == ("INVALID_FIELD", ["sessionId"])


async def test_an_event_that_cannot_be_written_or_read_holds_up_no_other(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await report(student, session, LOST), 202)
        await counted(stack, session, {"FOCUS_LOST": 1})
        nul = events.SignalReport(
            report_id=uuid4().bytes, session_id=UUID(session).bytes, student_id=student.name, device_id="a\0b"
        )
        nul.signals.add().copy.length = 1
        poison = events.SignalsReported(reports=[nul], publisher=uuid4().bytes).SerializeToString()
        async with jetstream(stack) as stream:
            for event in (poison, b"not an event", poison):
                await stream.publish("signals.reported", event)
        good(await report(student, session, LOST), 202)

        await counted(stack, session, {"FOCUS_LOST": 2})


async def test_the_address_is_the_gateways_word_and_not_the_clients(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        forged = {"x-forwarded-for": "203.0.113.9"}
        body = {"signals": [LOST], "deviceId": "d1"}
        good(await student.http.post(f"/api/v1/sessions/{session}/signals", json=body, headers=forged), 202)
        await counted(stack, session, {"FOCUS_LOST": 1})
        rows = await fetch(stack, "SELECT device_id, address FROM integrity_presence WHERE session_id = $1", UUID(session))

    assert [row["device_id"] for row in rows] == ["d1"]
    assert rows[0]["address"] not in ("", "203.0.113.9")

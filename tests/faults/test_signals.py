"""Signals down, slow, full or gone: no save and no submit fails for it, and what is lost is counted (I27, I31)."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import httpx
import nats
import pytest
from finalbell.v1 import admin_pb2, payment_pb2
from finalbell.v1 import integrity_pb2 as pb
from finalbell.v1.admin_pb2_grpc import ExamAdminServiceStub
from finalbell.v1.integrity_pb2_grpc import IntegrityAdminServiceStub, IntegrityServiceStub
from finalbell.v1.payment_pb2_grpc import PaymentServiceStub

from servers.integrity.worker import IntegrityWorker
from stores.connect import StoreSettings, connect
from stores.signal_log import ACK_WAIT_SECONDS, SignalLog
from stores.signals import Signals
from tests.faults.harm import fetch, jetstream, kill, metric, restarted, stopped
from tests.flows.sitting import Student, good
from tests.flows.transports import native_refusal
from tests.integrity.reporting import LOST, counted, counts, report
from tests.ops.local import Local
from tests.stack import FINALBELL, ROOT, Stack, bearer, eventually, found, fresh, running


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    await stack.import_exam(small_exam, exam_id)
    return exam_id


@pytest.fixture
async def sitting(stack: Stack, exam: str) -> AsyncIterator[tuple[Student, str]]:
    async with Student(stack) as student:
        yield student, (await student.sit(exam))["sessionId"]


async def sits_on(student: Student, session: str) -> None:
    """Save and hand in, as if nothing were wrong."""
    assert good(await student.save(session, "q1", choice="B"))["saved"]
    assert good(await student.save(session, "q4", text="Ankara"))["saved"]
    good(await student.submit(session), 200, 202)
    assert (await student.outcome(session))["status"] == "SCORED"


async def test_with_the_service_killed_the_exam_goes_on(stack: Stack, sitting: tuple[Student, str]) -> None:
    student, session = sitting

    before = kill(stack, "integrity")
    during = await report(student, session, LOST)
    await sits_on(student, session)
    await restarted(stack, "integrity", before)

    async def again() -> bool:
        return (await report(student, session, LOST)).status_code == 202

    assert during.status_code in (202, 503)
    await eventually(again, 30)


@pytest.mark.parametrize("unit", ["integrity", "signal-worker"])
async def test_with_a_process_frozen_the_exam_goes_on_and_nothing_else_is_lost(
    stack: Stack, sitting: tuple[Student, str], unit: str
) -> None:
    student, session = sitting
    good(await report(student, session, LOST), 202)

    with stopped(stack, unit):
        if unit == "signal-worker":
            good(await report(student, session, LOST), 202)
        await sits_on(student, session)

    await counted(stack, session, {"FOCUS_LOST": 2 if unit == "signal-worker" else 1}, 60)


async def test_with_nats_frozen_reports_are_taken_and_written_later(stack: Stack, sitting: tuple[Student, str]) -> None:
    student, session = sitting

    with stopped(stack, "nats"):
        for _ in range(5):
            good(await report(student, session, LOST), 202)
        assert good(await student.save(session, "q1", choice="B"))["saved"]
        good(await student.submit(session), 200, 202)

    await counted(stack, session, {"FOCUS_LOST": 5}, 60)


async def test_nats_killed_with_its_memory_takes_signals_along_and_they_are_counted(
    stack: Stack, sitting: tuple[Student, str]
) -> None:
    student, session = sitting
    good(await report(student, session, LOST), 202)
    await counted(stack, session, {"FOCUS_LOST": 1}, 60)
    lost = await metric(stack, "signal-worker", "finalbell_signals_lost")

    with stopped(stack, "signal-worker"):
        await nobody_pulls(stack)
        good(await report(student, session, LOST, LOST), 202)
        await published(stack, 1)
        before = kill(stack, "nats")
        await restarted(stack, "nats", before)
        assert good(await student.save(session, "q1", choice="B"))["saved"]

    async def more() -> bool:
        await asyncio.sleep(0.5)
        good(await report(student, session, LOST), 202)
        return (await metric(stack, "signal-worker", "finalbell_signals_lost")) == lost + 2

    await eventually(more, 60)


async def test_with_postgresql_frozen_a_report_is_taken_and_the_writer_looks_whose_it_is(
    stack: Stack, exam: str, sitting: tuple[Student, str]
) -> None:
    student, session = sitting
    async with Student(stack) as other:
        theirs = (await other.sit(exam))["sessionId"]
        with stopped(stack, "postgres"):
            own = await report(student, session, LOST)
            foreign = await report(student, theirs, LOST)
            assert good(await student.save(session, "q1", choice="B"))["saved"]
        await counted(stack, session, {"FOCUS_LOST": 1}, 60)
        good(await report(other, theirs, {"copy": {}}), 202)
        await counted(stack, theirs, {"COPY": 1}, 60)

    assert (own.status_code, foreign.status_code) == (202, 202)


async def test_signals_that_cannot_be_written_now_are_given_back_and_come_again_at_once(
    stack: Stack, sitting: tuple[Student, str]
) -> None:
    student, session = sitting
    with stopped(stack, "signal-worker"):
        await nobody_pulls(stack)
        good(await report(student, session, LOST), 202)
        await published(stack, 1)
        async with AsyncExitStack() as opened:
            nowhere = StoreSettings(
                "postgresql://nobody@127.0.0.1:1/finalbell", "redis://127.0.0.1:1", "redis://127.0.0.1:1", "", needs_nats=False
            )
            away = await opened.enter_async_context(connect(nowhere))
            client = await nats.connect(stack.read()["nats"])
            opened.push_async_callback(client.close)
            log, stop = SignalLog(client, 64 << 20), asyncio.Event()
            running = asyncio.create_task(IntegrityWorker(log, Signals(away.postgres), days=180, collecting=True).run(stop))

            async def comes_again() -> bool:
                async with jetstream(stack) as stream:
                    return bool((await stream.consumer_info("SIGNALS", "integrity")).num_redelivered)

            await eventually(comes_again, ACK_WAIT_SECONDS / 2)
            stop.set()
            await running

    await counted(stack, session, {"FOCUS_LOST": 1}, 60)


async def test_staff_hear_within_their_calls_time_that_postgresql_is_frozen(stack: Stack, exam: str) -> None:
    sent = {"metadata": bearer(stack.token(roles=["admin"])), "timeout": 10}
    case = "00000000-0000-7000-8000-000000000000"
    async with stack.channel() as channel:
        admins, exams = IntegrityAdminServiceStub(channel), ExamAdminServiceStub(channel)
        with stopped(stack, "postgres"):
            refused = await asyncio.gather(
                until_it_is_refused(IntegrityServiceStub(channel).WatchIntegrity(pb.WatchIntegrityRequest(exam_id=exam), **sent)),
                admins.EraseSignals(pb.EraseSignalsRequest(student_id=fresh("s")), **sent),
                admins.GetThresholds(pb.GetThresholdsRequest(exam_id=exam), **sent),
                admins.GetCase(pb.GetCaseRequest(case_id=case), **sent),
                exams.CloseExam(admin_pb2.CloseExamRequest(exam_id=exam), **sent),
                PaymentServiceStub(channel).ListEntitlements(payment_pb2.ListEntitlementsRequest(), **sent),
                return_exceptions=True,
            )

    assert [native_refusal(one).reason for one in refused if isinstance(one, grpc.aio.AioRpcError)] == ["STORE_UNAVAILABLE"] * 6


async def test_who_watches_is_told_that_what_is_shown_is_old(stack: Stack, exam: str) -> None:
    async with stack.channel() as channel:
        request, sent = pb.WatchIntegrityRequest(exam_id=exam), {"metadata": bearer(stack.token(roles=["proctor"])), "timeout": 90}
        watched = aiter(IntegrityServiceStub(channel).WatchIntegrity(request, **sent))
        first = await anext(watched)

        with stopped(stack, "postgres"), pytest.raises(grpc.aio.AioRpcError) as told:
            await until_it_is_refused(watched)

    assert first.HasField("view")
    assert native_refusal(told.value).reason == "STORE_UNAVAILABLE"


async def test_who_begins_to_watch_hears_that_the_service_is_frozen_however_long_it_has_been(stack: Stack, exam: str) -> None:
    request, sent = pb.WatchIntegrityRequest(exam_id=exam), {"metadata": bearer(stack.token(roles=["proctor"])), "timeout": 20}
    codes = []
    async with stack.channel() as channel:
        with stopped(stack, "integrity"):
            for _ in range(2):
                with pytest.raises(grpc.aio.AioRpcError) as told:
                    await until_it_is_refused(IntegrityServiceStub(channel).WatchIntegrity(request, **sent))
                codes.append(told.value.code())

        async def watched() -> bool:
            watching = IntegrityServiceStub(channel).WatchIntegrity(request, **sent)
            try:
                return (await watching.read()) is not grpc.aio.EOF
            except grpc.aio.AioRpcError:
                return False
            finally:
                watching.cancel()

        await eventually(watched)

    assert codes == [grpc.StatusCode.UNAVAILABLE] * 2


async def until_it_is_refused(watched: AsyncIterator[pb.WatchIntegrityResponse]) -> None:
    async for _ in watched:
        pass


async def test_a_proctors_screen_goes_on_after_the_service_was_killed(
    stack: Stack, sitting: tuple[Student, str], exam: str
) -> None:
    student, session = sitting
    command = [sys.executable, "-m", "ops.main", "integrity", "live", exam, "--json", "--home", str(stack.home)]
    live = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}
    )
    assert live.stdout is not None
    try:
        async with asyncio.timeout(90):
            first = json.loads(await live.stdout.readline())
            before = kill(stack, "integrity")
            await restarted(stack, "integrity", before)

            async def taken() -> bool:
                return (await report(student, session, *[LOST] * 10)).status_code == 202

            await eventually(taken, 30)
            shown = first
            while not shown["sessions"]:
                shown = json.loads(await live.stdout.readline())
    finally:
        live.kill()
        await live.wait()

    assert first["sessions"] == []
    assert shown["sessions"][0]["sessionId"] == session


async def nobody_pulls(stack: Stack) -> None:
    """Wait until no worker waits for signals: a frozen one's last request has run out."""
    async with jetstream(stack) as stream:

        async def idle() -> bool:
            return (await stream.consumer_info("SIGNALS", "integrity")).num_waiting == 0

        await eventually(idle, 30)


async def published(stack: Stack, events: int) -> None:
    """Wait until the stream has that many events."""
    async with jetstream(stack) as stream:

        async def there() -> bool:
            return (await stream.stream_info("SIGNALS")).state.messages >= events

        await eventually(there, 30)


async def test_a_full_stream_drops_its_oldest_and_every_signal_is_written_or_counted_as_lost(
    small_exam: dict[str, Any],
) -> None:
    exam, filling = fresh("t"), {"deviceChange": {"label": "x" * 128, "device": "y" * 32}}
    with running(FINALBELL_SIGNALS_STREAM_BYTES="200000") as stack:
        await stack.import_exam(small_exam, exam)
        async with AsyncExitStack() as open_ones:
            students = [await open_ones.enter_async_context(Student(stack)) for _ in range(30)]
            sessions = [(await student.sit(exam))["sessionId"] for student in students]
            with stopped(stack, "signal-worker"):
                await nobody_pulls(stack)
                taken = 0
                for student, session in zip(students, sessions, strict=True):
                    taken += good(await report(student, session, *[filling] * 100), 202)["accepted"]
                    await asyncio.sleep(0.15)  # an event each
                assert good(await students[0].save(sessions[0], "q1", choice="B"))["saved"]
                good(await students[0].submit(sessions[0]), 200, 202)

            async def all_told() -> bool:
                written = sum([(await counts(stack, session)).get("DEVICE_CHANGE", 0) for session in sessions])
                rows = await fetch(stack, "SELECT coalesce(sum(lost), 0)::int AS lost FROM integrity_feed")
                return bool(written + rows[0]["lost"] == taken and rows[0]["lost"] > 0 and written > 0)

            await eventually(all_told, 60)
            first, last = UUID(sessions[0]), UUID(sessions[-1])
            kept = {row["session_id"] for row in await fetch(stack, "SELECT DISTINCT session_id FROM integrity_signal")}
            assert last in kept
            assert first not in kept

            async def shown() -> bool:
                return await metric(stack, "signal-worker", "finalbell_signals_lost") > 0

            await eventually(shown)


async def test_switched_off_reports_are_answered_and_nothing_is_kept(small_exam: dict[str, Any]) -> None:
    exam = fresh("t")
    with running(FINALBELL_INTEGRITY="off") as stack:
        await stack.import_exam(small_exam, exam)
        async with Student(stack) as student:
            session = (await student.sit(exam))["sessionId"]
            reply = good(await report(student, session, LOST, LOST), 202)
            await sits_on(student, session)
        live = [*FINALBELL, "integrity", "live", exam, "--once", "--json", "--home", str(stack.home)]
        shown = await asyncio.to_thread(subprocess.run, live, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)

        assert (reply["accepted"], reply["dropped"], reply["collecting"]) == (0, 2, False)
        assert (json.loads(shown.stdout)["collecting"], "switched off" in shown.stderr) == (False, True)
        assert await metric(stack, "integrity", 'finalbell_signals_dropped_total{why="off"}') == 2
        assert await counts(stack, session) == {}


async def test_what_is_reported_until_a_stack_is_stopped_is_written_before_it_ends(
    small_exam: dict[str, Any], tmp_path: Path
) -> None:
    local, exam = Local(tmp_path / "home"), fresh("t")
    found(local.home)
    try:
        code, _, err = await asyncio.to_thread(local.up, "--detach")
        assert code == 0, err
        stack = Stack(local.home)
        await stack.import_exam(small_exam, exam)
        async with Student(stack) as student:
            session = (await student.sit(exam))["sessionId"]
            reporting = asyncio.ensure_future(until_it_ends(student, session))
            await eventually(lambda: counts(stack, session))
            down = await asyncio.to_thread(local.run, "down")
            taken, perhaps = await reporting
        code, _, err = await asyncio.to_thread(local.up, "--detach")
        written = (await counts(stack, session))["FOCUS_LOST"]
    finally:
        await asyncio.to_thread(local.stop)

    assert (down.returncode, code) == (0, 0), err
    assert taken <= written <= taken + perhaps


async def until_it_ends(student: Student, session: str) -> tuple[int, int]:
    """Report until nobody answers; returns how many signals were taken, and how many may have been."""
    taken = 0
    while True:
        try:
            reply = await report(student, session, LOST)
        except httpx.TransportError:
            return taken, 1
        if reply.status_code != 202:
            return taken, 0
        taken += 1
        await asyncio.sleep(0.05)


async def test_a_comparison_ends_with_the_service_that_was_killed() -> None:
    given, kept_open = os.pipe()
    child = [sys.executable, "-m", "servers.integrity.comparing", str(1 << 31), "60"]
    parent = f"import subprocess, time; print(subprocess.Popen({child}, stdin={given}).pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", parent], pass_fds=[given], stdout=subprocess.PIPE, text=True, cwd=ROOT) as service:
        try:
            assert service.stdout is not None
            pid = int(service.stdout.readline())

            async def has_begun() -> bool:
                return bool(re.search(r"Max cpu time +60 ", Path(f"/proc/{pid}/limits").read_text()))

            async def has_ended() -> bool:
                status = Path(f"/proc/{pid}/status")
                return not status.exists() or "State:\tZ" in status.read_text()

            await eventually(has_begun)
            service.kill()
            await eventually(has_ended)
        finally:
            service.kill()
            os.close(given)
            os.close(kept_open)

"""What staff see and set: indicators with their reasons, the strongest first, as they change; thresholds; erasure."""

import asyncio
import json
from typing import Any
from uuid import UUID

import grpc
import httpx
import pytest
from finalbell.v1 import integrity_pb2 as pb
from finalbell.v1.integrity_pb2_grpc import IntegrityServiceStub
from typer.testing import CliRunner

from ops.main import app
from tests.faults.harm import fetch
from tests.flows.sitting import Student, good, refusal, wrong_fields
from tests.flows.transports import native_refusal
from tests.integrity.reporting import LOST, counted, counts, report
from tests.stack import Stack, bearer, fresh


def run(stack: Stack, *words: object) -> Any:
    return CliRunner().invoke(app, ["integrity", *map(str, words), "--home", str(stack.home)])


async def views(stack: Stack, exam: str, role: str = "proctor", **more: Any) -> Any:
    """Watch an exam as staff: yields views."""
    async with stack.channel() as channel:
        request = pb.WatchIntegrityRequest(exam_id=exam, **more)
        async for message in IntegrityServiceStub(channel).WatchIntegrity(request, metadata=bearer(stack.token(roles=[role]))):
            if message.HasField("view"):
                yield message.view


async def test_a_proctor_sees_who_is_over_a_threshold_and_why_as_it_happens(stack: Stack, exam: str) -> None:
    async with Student(stack) as calm, Student(stack) as busy, asyncio.timeout(60):
        quiet, session = (await calm.sit(exam))["sessionId"], (await busy.sit(exam))["sessionId"]
        watched = views(stack, exam)
        first = await anext(watched)
        good(await report(calm, quiet, *[LOST] * 4), 202)
        good(await report(busy, session, *[LOST] * 10, {"focusRegained": {"awayMs": 120_000}}), 202)
        second = await anext(watched)
        while second.total == 0 or len(second.sessions[0].indicators) < 2:
            second = await anext(watched)
        good(await report(busy, session, {"devTools": {"open": True}}), 202)
        third = await anext(watched)
        await watched.aclose()

    assert (len(first.sessions), first.total) == (0, 0)
    (shown,) = second.sessions
    assert (shown.session_id, shown.student_id) == (session, busy.name)
    assert shown.alias.startswith("Student ")
    reasons = ["left the exam's window 10 times (shown from 5)", "was away for 120 seconds in all (shown from 60)"]
    assert sorted(one.reason for one in shown.indicators) == reasons
    assert shown.strength == 4
    assert {one.name for one in third.sessions[0].indicators} == {"focus_lost", "away", "dev_tools"}
    assert (await counts(stack, quiet)) == {"FOCUS_LOST": 4}


async def test_nothing_that_is_seen_changes_a_session(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        before = good(await student.read(session))
        good(await report(student, session, *[LOST] * 50, *[{"paste": {"length": 10_000}}] * 40), 202)
        await counted(stack, session, {"FOCUS_LOST": 50, "PASTE": 40})
        after = good(await student.read(session))
        saved = good(await student.save(session, "q1", choice="B"))

    ignored = {"serverTime", "remainingMs"}
    assert {name: value for name, value in before.items() if name not in ignored} == {
        name: value for name, value in after.items() if name not in ignored
    }
    assert saved["saved"]


async def test_an_exam_that_is_not_there_cannot_be_watched(stack: Stack) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await anext(views(stack, fresh("t")))

    assert native_refusal(refused.value).reason == "EXAM_NOT_FOUND"


async def test_thresholds_are_an_exams_own_and_on_record(stack: Stack, exam: str) -> None:
    async with Student(stack, roles=["admin"]) as admin, Student(stack, roles=["proctor"]) as proctor:
        path = f"/api/v1/admin/exams/{exam}/integrity/thresholds"
        before = thresholds(await proctor.http.get(path))
        changed = await admin.http.put(path, json={"changes": [{"name": "paste", "threshold": 9}, {"name": "copy"}]})
        unknown = await admin.http.put(path, json={"changes": [{"name": "paste", "threshold": 1}, {"name": "telepathy"}]})
        nothing = await admin.http.put(path, json={"changes": [{"name": "paste", "threshold": 0}]})
        elsewhere = await admin.http.put(path.replace(exam, fresh("t")), json={"changes": [{"name": "copy"}]})
        after = thresholds(await proctor.http.get(path))
        refused = await proctor.http.put(path, json={"changes": [{"name": "copy"}]})

    assert (before["paste"], before["copy"]) == (3, 3)
    assert thresholds(changed) == after == before | {"paste": 9, "copy": None}
    assert (refusal(unknown), wrong_fields(unknown)) == ((400, "INVALID_FIELD"), ["changes[1].name"])
    assert (refusal(nothing), wrong_fields(nothing)) == ((400, "INVALID_FIELD"), ["changes[0].threshold"])
    assert refusal(elsewhere) == (404, "EXAM_NOT_FOUND")
    assert refusal(refused) == (403, "ROLE_REQUIRED")
    records = await fetch(stack, "SELECT details FROM audit_log WHERE action = 'integrity.thresholds' AND subject = $1", exam)
    assert [json.loads(row["details"]) for row in records] == [{"paste": 9, "copy": None}]


def thresholds(reply: httpx.Response) -> dict[str, int | None]:
    return {one["name"]: one.get("threshold") for one in good(reply)["thresholds"]}


async def test_the_operators_commands_show_set_and_erase(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await report(student, session, *[LOST] * 6), 202)
        await counted(stack, session, {"FOCUS_LOST": 6})
        table = await asyncio.to_thread(run, stack, "live", exam, "--once")
        line = await asyncio.to_thread(run, stack, "live", exam, "--once", "--json")
        off = await asyncio.to_thread(run, stack, "thresholds", exam, "--set", "focus_lost=off", "--set", "cut=2")
        wrong = await asyncio.to_thread(run, stack, "thresholds", exam, "--set", "cut=none")
        unknown = await asyncio.to_thread(run, stack, "thresholds", exam, "--set", "telepathy=1")
        twice = await asyncio.to_thread(run, stack, "thresholds", exam, "--set", "cut=1", "--set", "cut=9")
        none = await asyncio.to_thread(run, stack, "live", exam, "--once", "--json")
        erased = await asyncio.to_thread(run, stack, "erase", student.name)

    assert student.name in table.stdout
    assert "left the exam's window 6 times (shown from 5)" in table.stdout
    assert json.loads(line.stdout)["sessions"][0]["sessionId"] == session
    assert len(line.stdout.splitlines()) == 1
    rows = {row.split()[0]: row.split()[1] for row in off.stdout.splitlines()}
    assert (rows["focus_lost"], rows["cut"], rows["paste"]) == ("off", "2", "3")
    assert (wrong.exit_code, unknown.exit_code, twice.exit_code) == (2, 1, 2)
    assert unknown.stderr.count("changes[0].name") == 1
    assert json.loads(none.stdout)["sessions"] == []
    assert "6 signals and 0 frames of 1 sessions" in erased.stdout
    assert await fetch(stack, "SELECT FROM integrity_signal WHERE session_id = $1", UUID(session)) == []

"""Whatever staff change is in the audit log, once, with who did it; what was refused is not."""

import uuid
from typing import Any

from tests.faults.harm import fetch
from tests.flows.sitting import Student, good
from tests.stack import Stack


async def test_every_change_by_staff_is_on_record_with_who_made_it(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student, Student(stack, roles=["admin"]) as admin:
        session = (await student.sit(exam_id))["sessionId"]
        good(await admin.adjust(session, 60, key="the-same-key"))
        good(await admin.adjust(session, 60, key="the-same-key"))
        good(await admin.accommodate(student.name, exam_id, extraSeconds=30))
        good(await admin.schedule(exam_id, closesAt="2099-05-01T12:00:00Z"))
        good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}/leaderboard:rebuild", json={}))
        for act in ("release", "close", "close"):
            good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:{act}", json={}))
    rows = await fetch(stack, "SELECT action, subject FROM audit_log WHERE actor = $1 ORDER BY id", admin.name)
    imported = await fetch(stack, "SELECT actor FROM audit_log WHERE action = 'exam.import' AND subject = $1", exam_id)

    assert [tuple(row) for row in rows] == [
        ("session.adjust", session),
        ("accommodation.set", student.name),
        ("exam.schedule", exam_id),
        ("leaderboard.rebuild", exam_id),
        ("exam.released", exam_id),
        ("exam.closed", exam_id),
    ]
    assert len(imported) == 1


async def test_what_was_refused_is_not_on_record(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student, Student(stack, roles=["admin"]) as admin:
        session = (await student.sit(exam_id))["sessionId"]
        refused = [
            await student.adjust(session, 60),
            await student.accommodate(student.name, exam_id, extraSeconds=30),
            await admin.adjust(str(uuid.uuid4()), 60),
            await admin.accommodate(student.name, "no-such-exam", extraSeconds=30),
            await admin.schedule(exam_id, closesAt="2001-05-01T12:00:00Z"),
            await admin.http.post("/api/v1/admin/exams/no-such-exam:close", json={}),
        ]
    rows = await fetch(stack, "SELECT FROM audit_log WHERE actor = ANY ($1)", [student.name, admin.name])

    assert [reply.status_code for reply in refused] == [403, 403, 404, 404, 400, 404]
    assert rows == []

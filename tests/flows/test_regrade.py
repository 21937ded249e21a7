"""A key that was wrong is found, mended, tried out and then applied: scores, ranks and history afterwards are exact."""

import asyncio
import json
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from finalbell.v1 import events_pb2 as events

from tests.faults.harm import fetch, jetstream, kill, restarted
from tests.flows.sitting import Student, good, refusal, wrong_fields
from tests.flows.test_grading import EXAM as ESSAYS
from tests.flows.test_grading import graders, handed_in
from tests.stack import Stack, eventually, fresh, uuid7

QUESTIONS = 12
WRONG = "q7"
"""Whose key says B, though C is right."""


def paper() -> dict[str, Any]:
    return {
        "exam": {
            "id": "mock",
            "title": "A mock with one wrong key",
            "durationSeconds": 3600,
            "marking": {"correct": 2, "wrong": -1, "blank": 0},
            "release": {"score": "IMMEDIATELY", "review": "IMMEDIATELY"},
        },
        "questions": [
            {
                "id": f"q{number}",
                "type": "single_choice",
                "stem": f"Question {number}",
                "topic": "all",
                "options": [{"id": one, "text": one} for one in "ABCD"],
                "answer": {"choice": "B"},
            }
            for number in range(1, QUESTIONS + 1)
        ],
    }


@dataclass(frozen=True, slots=True)
class Sitting:
    """One student's session with its answers, by question."""

    session: uuid.UUID
    student: str
    answers: Mapping[str, str]

    def score(self, keys: Mapping[str, str]) -> int:
        """What it is worth, worked out here."""
        return sum(2 if self.answers[q] == right else -1 for q, right in keys.items() if q in self.answers)


def sittings(count: int, prefix: str) -> list[Sitting]:
    """Students of many abilities: the abler, the more of them see that C is right where the key says B."""
    chance = random.Random(8)
    made = []
    for number in range(count):
        ability = chance.betavariate(4, 3)
        answers = {}
        for question in (f"q{one}" for one in range(1, QUESTIONS + 1)):
            right = "C" if question == WRONG else "B"
            if chance.random() > 0.03:
                answers[question] = right if chance.random() < ability else chance.choice("ABCD")
        made.append(Sitting(uuid7(), f"{prefix}{number}", answers))
    return made


async def scored(stack: Stack, exam: str, of: Sequence[Sitting]) -> None:
    """Have the stack's workers score submits, as the session service would publish them."""
    await fetch(
        stack,
        """
        INSERT INTO exam_session (id, student_id, exam_id, exam_version, cohorts, attempt, alias, started_at, ends_at)
        SELECT id, student, $3, 1, '{}', 1, student, now() - interval '10 minutes', now() + interval '1 hour'
        FROM unnest($1::uuid[], $2::text[]) AS s (id, student)
        """,
        [one.session for one in of],
        [one.student for one in of],
        exam,
    )
    async with jetstream(stack) as stream:
        for start in range(0, len(of), 100):
            some = of[start : start + 100]
            await asyncio.gather(*(stream.publish(f"submits.{exam}.{one.session}", event(exam, one)) for one in some))

    async def all_of_them() -> bool:
        return bool((await fetch(stack, "SELECT count(*) AS n FROM result WHERE exam_id = $1", exam))[0]["n"] == len(of))

    await eventually(all_of_them, 60)


def event(exam: str, one: Sitting) -> bytes:
    answers = json.dumps({q: f"c:{a}" for q, a in sorted(one.answers.items())}, separators=(",", ":"), sort_keys=True).encode()
    made = events.SessionSubmitted(
        session_id=str(one.session),
        exam_id=exam,
        exam_version=1,
        student_id=one.student,
        reason=events.SessionSubmitted.CLICK,
        answers=answers,
        answers_sha256=sha256(answers).digest(),
    )
    made.submitted_at.FromDatetime(datetime.now(UTC))
    return made.SerializeToString()


def ranks(scores: Mapping[str, int]) -> dict[str, int]:
    return {student: 1 + sum(other > score for other in scores.values()) for student, score in scores.items()}


async def scores(stack: Stack, exam: str) -> dict[str, int]:
    return {row["student_id"]: row["score"] for row in await fetch(stack, "SELECT * FROM result WHERE exam_id = $1", exam)}


class Admin(Student):
    """Who may mend keys."""

    async def set_key(self, exam: str, question: str, **body: Any) -> Any:
        return await self.http.post(f"/api/v1/admin/exams/{exam}/questions/{question}:setKey", json=body)

    async def regrade(self, exam: str, **body: Any) -> dict[str, Any]:
        """Ask for a regrade, and wait for its end."""
        asked = good(await self.http.post(f"/api/v1/exams/{exam}:regrade", json=body), 202)

        async def done() -> dict[str, Any] | None:
            run = good(await self.http.get(f"/api/v1/exams/{exam}/regrades/{asked['regradeId']}"))
            return None if run["status"] == "RUNNING" else run

        found: dict[str, Any] = await eventually(done, 60)
        return found


async def test_a_wrong_key_found_after_5000_results_is_flagged_tried_out_and_put_right(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(paper(), exam_id)
    of = sittings(5_000, fresh("s"))
    keys = {f"q{one}": "B" for one in range(1, QUESTIONS + 1)}
    await scored(stack, exam_id, of)
    wrong, right = ({one.student: one.score(k) for one in of} for k in (keys, keys | {WRONG: "C"}))
    moved = [student for student in wrong if wrong[student] != right[student]]
    async with Admin(stack, roles=["admin"]) as admin:
        statistics = good(await admin.http.post(f"/api/v1/exams/{exam_id}/statistics:compute", json={}), 200, 202)
        if statistics.get("computing"):
            statistics = good(await admin.http.post(f"/api/v1/exams/{exam_id}/statistics:compute", json={}))
        suspects = [one["questionId"] for one in statistics["statistics"]["questions"] if "SUSPECT_KEY" in one["flags"]]
        mended = good(await admin.set_key(exam_id, WRONG, accept=["C"], reason="the key was wrong"))
        dry = await admin.regrade(exam_id, dryRun=True)
        untouched = await scores(stack, exam_id)
        run = await admin.regrade(exam_id, reason="q7 was wrong")
        again = await admin.regrade(exam_id)
        board = good(await admin.http.get(f"/api/v1/exams/{exam_id}/leaderboard", params={"top": 1000}))
        verified = good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}/leaderboard:verify", json={}))
        history = good(await admin.http.get(f"/api/v1/sessions/{_session(of, moved[0])}/result/history"))["revisions"]
    before, after = ranks(wrong), ranks(right)

    assert suspects == [WRONG]
    assert (mended["keyVersion"], mended["resultsBehind"]) == (2, 5_000)
    assert untouched == wrong
    for report in (dry, run):
        assert (report["status"], report["results"], report["done"]) == ("DONE", 5_000, 5_000)
        assert report["scoresChanged"] == len(moved)
        assert report["scoresRaised"] == sum(right[s] > wrong[s] for s in wrong)
        assert (report["largestGain"], report["largestLoss"]) == (3, 3)
        assert report["ranksChanged"] == sum(before[s] != after[s] for s in wrong)
        assert report["meanChange"] == pytest.approx(sum(right[s] - wrong[s] for s in wrong) / 5_000)
    assert (again["results"], again["scoresChanged"]) == (0, 0)
    assert await scores(stack, exam_id) == right
    assert [(entry["rank"], entry["score"]) for entry in board["entries"]] == sorted((after[s], right[s]) for s in right)[:1000]
    assert verified["differences"] == 0
    assert [(one["score"], one["keyVersion"], one["reason"]) for one in history] == [(wrong[moved[0]], 1, "q7 was wrong")]


def _session(of: Sequence[Sitting], student: str) -> uuid.UUID:
    return next(one.session for one in of if one.student == student)


@pytest.mark.parametrize(("void", "worth", "most"), [("FULL_POINTS", 2, 2 * QUESTIONS), ("DROP", 0, 2 * QUESTIONS - 2)])
async def test_a_voided_question_counts_for_all_alike(stack: Stack, exam_id: str, void: str, worth: int, most: int) -> None:
    await stack.import_exam(paper(), exam_id)
    of = sittings(20, fresh("s"))
    keys = {f"q{one}": "B" for one in range(1, QUESTIONS + 1)}
    await scored(stack, exam_id, of)
    async with Admin(stack, roles=["admin"]) as admin, Student(stack, of[0].student) as student:
        good(await admin.set_key(exam_id, WRONG, void=void))
        await admin.regrade(exam_id)
        result = await student.outcome(str(of[0].session))
    del keys[WRONG]

    assert await scores(stack, exam_id) == {one.student: one.score(keys) + worth for one in of}
    assert result["maxScore"] == most
    item = next(one for one in result["breakdown"] if one["questionId"] == WRONG)
    assert (item["outcome"], item["points"]) == ("VOIDED", worth)


async def test_a_regrade_that_is_killed_goes_on_and_counts_every_result_once(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(paper(), exam_id)
    of = sittings(1_500, fresh("s"))
    keys = {f"q{one}": "B" for one in range(1, QUESTIONS + 1)}
    await scored(stack, exam_id, of)
    right = {one.student: one.score(keys | {WRONG: "C"}) for one in of}
    moved = sum(right[one.student] != one.score(keys) for one in of)
    async with Admin(stack, roles=["admin"]) as admin:
        good(await admin.set_key(exam_id, WRONG, accept=["C"]))
        asked = good(await admin.http.post(f"/api/v1/exams/{exam_id}:regrade", json={}), 202)
        await eventually(lambda: _some(stack, exam_id), 30)
        before = kill(stack, "scoring")
        await restarted(stack, "scoring", before)
        path = f"/api/v1/exams/{exam_id}/regrades/{asked['regradeId']}"

        async def done() -> dict[str, Any] | None:
            reply = await admin.http.get(path)
            return reply.json() if reply.status_code == 200 and reply.json()["status"] == "DONE" else None

        run = await eventually(done, 60)

        async def board() -> bool:
            reply = await admin.http.post(f"/api/v1/admin/exams/{exam_id}/leaderboard:verify", json={})
            return reply.status_code == 200 and reply.json()["differences"] == 0

        await eventually(board, 30)
    everybody = [one.session for one in of]
    history = await fetch(stack, "SELECT count(*) AS n FROM result_history WHERE session_id = ANY ($1)", everybody)

    assert await scores(stack, exam_id) == right
    assert (run["done"], run["scoresChanged"], history[0]["n"]) == (1_500, moved, moved)


async def _some(stack: Stack, exam: str) -> bool:
    """Whether some results are regraded."""
    return bool(await fetch(stack, "SELECT FROM result WHERE exam_id = $1 AND key_version > 1 LIMIT 1", exam))


async def asked(stack: Stack, exam: str, key_version: int, lease: str) -> uuid.UUID:
    """Put a run on record that was asked for when the keys had this version, and that another worker has for so long."""
    (run,) = await fetch(
        stack,
        """
        INSERT INTO regrade (exam_id, dry_run, key_version, results, actor, reason, worker, lease_until)
        VALUES ($1, false, $2, 0, 'boss', '', gen_random_uuid(), now() + $3::text::interval) RETURNING id
        """,
        *(exam, key_version, lease),
    )
    return uuid.UUID(str(run["id"]))


async def test_a_regrade_with_newer_keys_does_not_wait_for_one_with_older_keys(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(paper(), exam_id)
    of = sittings(2, fresh("s"))
    await scored(stack, exam_id, of)
    older = await asked(stack, exam_id, 1, "1 hour")
    async with Admin(stack, roles=["admin"]) as admin:
        good(await admin.set_key(exam_id, WRONG, accept=["C"]))
        run = await admin.regrade(exam_id)
    await fetch(stack, "DELETE FROM regrade WHERE id = $1", older)

    assert (run["status"], run["keyVersion"], run["done"]) == ("DONE", 2, 2)


async def test_a_regrade_brings_results_up_to_the_keys_that_it_was_asked_with_and_no_further(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(paper(), exam_id)
    of = sittings(20, fresh("s"))
    await scored(stack, exam_id, of)
    keys = {f"q{one}": "B" for one in range(1, QUESTIONS + 1)}
    async with Admin(stack, roles=["admin"]) as admin:
        good(await admin.set_key(exam_id, WRONG, accept=["C"]))
        good(await admin.set_key(exam_id, WRONG, accept=["D"]))
        path = f"/api/v1/exams/{exam_id}/regrades/{await asked(stack, exam_id, 2, '0 seconds')}"

        async def done() -> bool:
            return bool(good(await admin.http.get(path))["status"] == "DONE")

        await eventually(done, 30)
        older = await scores(stack, exam_id)
        await admin.regrade(exam_id)

    assert older == {one.student: one.score(keys | {WRONG: "C"}) for one in of}
    assert await scores(stack, exam_id) == {one.student: one.score(keys | {WRONG: "D"}) for one in of}


async def test_a_result_that_cannot_be_graded_fails_its_regrade_and_holds_up_no_other(stack: Stack, exam_id: str) -> None:
    async with Admin(stack, roles=["admin"]) as admin:
        runs = []
        for exam in (exam_id, f"{exam_id}-sound"):
            await stack.import_exam(paper(), exam)
            await scored(stack, exam, sittings(1, fresh("s")))
            await fetch(stack, "UPDATE result SET answers = 'damaged' WHERE exam_id = $1", exam_id)
            good(await admin.set_key(exam, WRONG, accept=["C"]))
            runs.append(await admin.regrade(exam))

    assert [run["status"] for run in runs] == ["FAILED", "DONE"]
    assert "Something went wrong" in runs[0]["error"]


async def test_a_result_that_arrives_late_under_an_old_key_is_swept(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(paper(), exam_id)
    of = sittings(2, fresh("s"))
    await scored(stack, exam_id, of)
    keys = {f"q{one}": "B" for one in range(1, QUESTIONS + 1)}
    async with Admin(stack, roles=["admin"]) as admin:
        good(await admin.set_key(exam_id, WRONG, accept=["C"]))
        await admin.regrade(exam_id)
        good(await admin.set_key(exam_id, WRONG, accept=["D"]))  # nobody has asked for a regrade with this one
    (late,) = await fetch(
        stack,
        """
        UPDATE result SET key_version = 1, score = score - 50, points[1] = points[1] - 50 WHERE session_id = $1
        RETURNING revision
        """,
        of[0].session,
    )

    async def swept() -> bool:
        return (await scores(stack, exam_id))[of[0].student] == of[0].score(keys | {WRONG: "C"})

    await eventually(swept, 30)
    query = "SELECT reason FROM result_history WHERE session_id = $1 AND revision = $2"
    last = await fetch(stack, query, of[0].session, late["revision"])
    assert "older keys" in last[0]["reason"]


@pytest.mark.parametrize("given", [[(3, 2)], [(1, 0), (4, 2)]], ids=["one of two has graded", "two disagree"])
async def test_an_essay_that_counts_again_waits_for_every_grader_who_was_asked_before_it_was_voided(
    stack: Stack, exam_id: str, given: Sequence[tuple[int, int]]
) -> None:
    await stack.import_exam(ESSAYS, exam_id, graders=2)
    async with Student(stack) as student, Admin(stack, roles=["admin"]) as admin, graders(stack, 3) as people:
        session = await handed_in(student, exam_id)
        for grader, points in zip(people, given, strict=False):
            good(await grader.grade(good(await grader.claim(exam_id)), *points))
        good(await admin.set_key(exam_id, "why", void="FULL_POINTS"))
        await admin.regrade(exam_id)
        voided, nobody_asked = await student.outcome(session), await people[0].tasks(exam_id)
        await stack.import_exam(ESSAYS, exam_id, graders=2)
        await admin.regrade(exam_id)
        restored, asked = await student.outcome(session), await people[0].tasks(exam_id)
        good(await people[2].grade(good(await people[2].claim(exam_id)), *given[0]))
        after = await student.outcome(session)

    assert (voided["status"], voided["score"], nobody_asked) == ("SCORED", 14, [])
    assert (restored["status"], [task["slot"] for task in asked]) == ("PARTIAL", [len(given) + 1])
    assert (after["status"], after["score"]) == ("SCORED", 2 + 2 * sum(given[0]))


async def test_two_graders_who_disagree_by_a_tolerance_that_is_lowered_get_a_third_with_the_next_regrade(
    stack: Stack, exam_id: str
) -> None:
    await stack.import_exam(ESSAYS, exam_id, graders=2, graderTolerance=2)
    async with Student(stack) as student, Admin(stack, roles=["admin"]) as admin, graders(stack, 3) as people:
        session = await handed_in(student, exam_id)
        for grader, points in zip(people, [(3, 0), (3, 2)], strict=False):
            good(await grader.grade(good(await grader.claim(exam_id)), *points))
        before = await student.outcome(session)
        await stack.import_exam(ESSAYS, exam_id, graders=2)
        good(await admin.set_key(exam_id, "one", accept=["A", "B"]))
        await admin.regrade(exam_id)
        waiting = await student.outcome(session)
        good(await people[2].grade(good(await people[2].claim(exam_id)), 4, 2))
        after = await student.outcome(session)

    assert (before["status"], before["score"]) == ("SCORED", 2 + 2 * 4)
    assert waiting["status"] == "PARTIAL"
    assert (after["status"], after["score"]) == ("SCORED", 2 + 2 * 5)


async def test_mending_a_key_to_what_it_is_changes_nothing(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(paper(), exam_id)
    async with Admin(stack, roles=["admin"]) as admin:
        same = good(await admin.set_key(exam_id, "q1", accept=["B"]))
        both = good(await admin.set_key(exam_id, "q1", accept=["A"], also=True))

    assert (same["changed"], same["keyVersion"]) == (False, 1)
    assert (both["changed"], both["keyVersion"], json.loads(both["after"])) == (True, 2, {"accept": ["A", "B"]})


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["accept"]),
        ({"accept": ["B"], "void": "DROP"}, ["accept"]),
        ({"accept": ["E"]}, ["accept"]),
        ({"accept": [""]}, ["accept[0]"]),
    ],
)
async def test_a_key_that_does_not_fit_its_question_is_refused(
    stack: Stack, exam_id: str, body: dict[str, Any], fields: list[str]
) -> None:
    await stack.import_exam(paper(), exam_id)
    async with Admin(stack, roles=["admin"]) as admin, Student(stack, roles=["proctor"]) as proctor:
        wrong = await admin.set_key(exam_id, "q1", **body)
        unknown = await admin.set_key(exam_id, "q99", accept=["B"])
        forbidden = await proctor.http.post(f"/api/v1/admin/exams/{exam_id}/questions/q1:setKey", json={"accept": ["A"]})
    version = (await fetch(stack, "SELECT key_version FROM exam WHERE id = $1", exam_id))[0]["key_version"]

    assert (wrong.status_code, wrong_fields(wrong)) == (400, fields)
    assert refusal(unknown) == (404, "QUESTION_NOT_FOUND")
    assert refusal(forbidden) == (403, "ROLE_REQUIRED")
    assert version == 1

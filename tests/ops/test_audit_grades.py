"""`finalbell audit` over essays, mended keys and revisions: it finds nothing where nothing is wrong, and each seeded wrong."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ops.audit import grades
from ops.audit.kept import Exam, Keys, Question, Result, Session, Stores, Task
from ops.audit.marks import decided
from ops.audit.records import Evidence, History
from ops.audit.rules import canonical, deadline_ms, is_canonical, unfrozen
from tests.faults.harm import fetch
from tests.flows.sitting import Student, good
from tests.ops.test_audit import audit
from tests.stack import Stack, eventually

RUBRIC = [{"criterion": "Reason", "maxPoints": 4}, {"criterion": "Language", "maxPoints": 3}]
EXAM = {
    "exam": {
        "id": "essays",
        "title": "Two essays and a question",
        "durationSeconds": 600,
        "marking": {"correct": 2},
        "graders": 2,
        "graderTolerance": 1,
        "release": {"review": "IMMEDIATELY"},
    },
    "questions": [
        {"id": "w1", "type": "essay", "stem": "Why do bells ring?", "answer": {"rubric": RUBRIC}},
        {"id": "w2", "type": "essay", "stem": "Why do they stop?", "answer": {"rubric": RUBRIC}},
        {
            "id": "q1",
            "type": "single_choice",
            "stem": "Which is a prime?",
            "options": [{"id": "A", "text": "11"}, {"id": "B", "text": "13"}, {"id": "C", "text": "15"}],
            "answer": {"choice": "A"},
        },
    ],
}
WRITTEN = {"questionId": "w1", "text": "Somebody rings them."}


@pytest.fixture
async def exam(stack: Stack, exam_id: str) -> str:
    await stack.import_exam(EXAM, exam_id)
    return exam_id


async def handed_in(stack: Stack, exam: str) -> str:
    """Answer an essay and the question, and leave the other essay blank; returns the session."""
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await student.batch(session, WRITTEN, {"questionId": "q1", "choice": "B"}, {"questionId": "w2", "text": "  "}))
        good(await student.submit(session), 202)
        assert (await student.outcome(session))["status"] == "PARTIAL"
    return str(session)


async def grade(stack: Stack, exam: str, *points: int) -> None:
    """Grade what waits longest as a new grader."""
    async with Student(stack, roles=["grader"]) as grader:
        claimed = good(await grader.http.post("/api/v1/grading/tasks:claim", json={"examId": exam}))
        body = {"claimId": claimed["claimId"], "criteria": [{"points": one} for one in points]}
        good(await grader.http.post(f"/api/v1/grading/tasks/{claimed['task']['taskId']}:grade", json=body))


async def mend(stack: Stack, exam: str, question: str, **key: Any) -> None:
    """Mend a key, and regrade."""
    async with Student(stack, roles=["admin"]) as admin:
        good(await admin.http.post(f"/api/v1/admin/exams/{exam}/questions/{question}:setKey", json=key))
        run = good(await admin.http.post(f"/api/v1/exams/{exam}:regrade", json={"reason": "two are primes"}), 200, 202)

        async def done() -> bool:
            path = f"/api/v1/exams/{exam}/regrades/{run['regradeId']}"
            return bool(good(await admin.http.get(path))["status"] == "DONE")

        await eventually(done)


async def graded(stack: Stack, exam: str) -> str:
    """Hand in; two graders disagree, and a third one decides; then the question's key is mended."""
    session = await handed_in(stack, exam)
    for points in ((0, 1), (4, 3), (2, 2)):
        await grade(stack, exam, *points)
    await mend(stack, exam, "q1", accept=["A", "B"])
    return session


async def row(stack: Stack, session: str) -> tuple[object, ...]:
    found = await fetch(stack, "SELECT score, max_score, status, revision, key_version FROM result WHERE session_id = $1", session)
    return tuple(found[0])


def clean(stack: Stack, exam: str) -> dict[tuple[str, ...], int]:
    """Audit an exam with nothing wrong; returns how many facts each check looked at."""
    result = audit(stack, exam)
    assert result.exit_code == 0, result.output
    return {tuple(check["invariants"]): check["facts"] for check in json.loads(result.stdout)["checks"]}


def wrong(stack: Stack, exam: str) -> list[str]:
    """Audit an exam with something wrong; returns what is said of it."""
    result = audit(stack, exam)
    assert result.exit_code == 1, result.output
    return [violation["what"] for violation in json.loads(result.stdout)["violations"]]


async def test_nothing_is_wrong_from_the_submit_through_grades_to_mended_keys(stack: Stack, exam: str) -> None:
    session = await handed_in(stack, exam)
    assert (clean(stack, exam)["I11", "I12"], await row(stack, session)) == (3, (0, 30, "PARTIAL", 1, 1))

    for points in ((0, 1), (4, 3)):
        await grade(stack, exam, *points)
        clean(stack, exam)
    await grade(stack, exam, 2, 2)
    assert (clean(stack, exam)["I11", "I12"], await row(stack, session)) == (4, (8, 30, "SCORED", 2, 1))

    await mend(stack, exam, "q1", accept=["B", "C"])
    clean(stack, exam)
    assert await row(stack, session) == (10, 30, "SCORED", 3, 2)
    await mend(stack, exam, "w2", void="FULL_POINTS")
    clean(stack, exam)
    assert await row(stack, session) == (24, 30, "SCORED", 4, 3)
    await mend(stack, exam, "w1", void="DROP")
    clean(stack, exam)
    assert await row(stack, session) == (16, 16, "SCORED", 5, 4)
    await mend(stack, exam, "q1", accept=["B"])
    clean(stack, exam)
    assert await row(stack, session) == (16, 16, "SCORED", 5, 5)  # worth the same: no new revision


BREAKS: dict[str, tuple[str, str]] = {
    "its score is 10, and its answers are worth 16": (
        "another grade",
        "UPDATE grading_task SET points = '{4,3}' WHERE session_id = $1 AND slot = 3",
    ),
    "and its rubric gives at most [4, 3]": (
        "a grade beyond the rubric",
        "UPDATE grading_task SET points = '{5,-1}' WHERE session_id = $1 AND slot = 3",
    ),
    "grade 3 of w1 is [4]": (
        "a criterion without points",
        "UPDATE grading_task SET points = '{4}' WHERE session_id = $1 AND slot = 3",
    ),
    "w1 has 2 tasks for graders, not 3": ("no third grader", "DELETE FROM grading_task WHERE session_id = $1 AND slot = 3"),
    "w1 has 4 tasks for graders, not 3": (
        "a fourth grader",
        "INSERT INTO grading_task (session_id, question_id, slot, exam_id) SELECT session_id, question_id, 4, exam_id "
        "FROM grading_task WHERE session_id = $1 AND slot = 3",
    ),
    "a task for w1 is cancelled, and the question counts": (
        "a cancelled task",
        "UPDATE grading_task SET status = 'CANCELLED' WHERE session_id = $1 AND slot = 2",
    ),
    "w1 was graded twice by one grader, or by nobody": (
        "a grade of nobody's",
        "UPDATE grading_task SET grader = NULL WHERE session_id = $1 AND slot = 1",
    ),
    "graders are asked for w2, which is blank or no essay": (
        "a task for a blank answer",
        "INSERT INTO grading_task (session_id, question_id, slot, exam_id) SELECT session_id, 'w2', 1, exam_id "
        "FROM grading_task WHERE session_id = $1 AND slot = 1",
    ),
    "graders are asked for its answers, and it has no result": ("no result", "DELETE FROM result WHERE session_id = $1"),
    "it is PARTIAL with 0 essays to grade": ("a wrong status", "UPDATE result SET status = 'PARTIAL' WHERE session_id = $1"),
    "its maximum is 31, not 30": ("a wrong maximum", "UPDATE result SET max_score = 31 WHERE session_id = $1"),
    "revision 2 had a score of 9": (
        "an earlier revision changed",
        "UPDATE result_history SET score = 9 WHERE session_id = $1 AND revision = 2",
    ),
    "revision 2 had a score of 8 (questions q1 are wrong)": (
        "earlier points changed",
        "UPDATE result_history SET points = '{6,0,2}' WHERE session_id = $1 AND revision = 2",
    ),
    "its revisions [1] were replaced without a reason": (
        "no reason",
        "UPDATE result_history SET reason = '' WHERE session_id = $1 AND revision = 1",
    ),
    "revision 4 is worth what the one before it was": (
        "a revision of nothing",
        "WITH r AS (UPDATE result SET revision = 4 WHERE session_id = $1 RETURNING *) INSERT INTO result_history "
        "SELECT session_id, 3, score, status, key_version, points, now(), 'no reason to' FROM r",
    ),
    "revision 3 is PARTIAL with the keys that the one before was SCORED with": (
        "scored, waiting, and scored again",
        "WITH r AS (UPDATE result SET revision = 4 WHERE session_id = $1 RETURNING *) INSERT INTO result_history "
        "SELECT session_id, 3, 0, 'PARTIAL', key_version - 1, '{0,0,0}', now(), 'the keys are mended' FROM r",
    ),
    "revision 2 has the keys of the one before, and no grade stands behind it (graded by somebody else)": (
        "a revision by one who graded nothing",
        "UPDATE result_history SET reason = 'graded by somebody else' WHERE session_id = $1 AND revision = 1",
    ),
    "revision 4 has the keys of the one before, and no grade stands behind it (graded by": (
        "two revisions by one grade",
        "WITH r AS (UPDATE result SET revision = 4 WHERE session_id = $1 RETURNING *) INSERT INTO result_history "
        "SELECT session_id, 3, 9, r.status, r.key_version, '{7,0,2}', now(), h.reason FROM r JOIN result_history h "
        "USING (session_id) WHERE h.revision = 1",
    ),
    "it was graded with key version 1, and its exam was regraded with 2": (
        "left behind by a regrade",
        "WITH r AS (UPDATE result SET key_version = 1 WHERE session_id = $1 RETURNING exam_id) "
        "UPDATE regrade g SET finished_at = now() - interval '2 hours' FROM r WHERE g.exam_id = r.exam_id",
    ),
    "revision 2 has key version 1, the one before 2": (
        "older keys that came back",
        "UPDATE result_history SET key_version = 3 - revision WHERE session_id = $1",
    ),
}


@pytest.mark.parametrize("seen", BREAKS, ids=lambda seen: BREAKS[seen][0])
async def test_a_wrong_grade_task_or_revision_is_found(stack: Stack, exam: str, seen: str) -> None:
    session = await graded(stack, exam)
    clean(stack, exam)

    await fetch(stack, BREAKS[seen][1], session)

    found = wrong(stack, exam)
    await fetch(stack, "DELETE FROM grading_task WHERE session_id = $1", session)  # nobody else is to claim what was made up
    assert any(seen in what for what in found), found


async def test_a_submit_that_waits_in_postgresql_beside_its_result_or_without_one_is_said_so(stack: Stack, exam: str) -> None:
    scored = await handed_in(stack, exam)
    async with Student(stack) as student:
        running = str((await student.sit(exam))["sessionId"])
    clean(stack, exam)
    keep = "INSERT INTO submission (session_id, subject, event, claimed_until) VALUES ($1, 'none', '', 'infinity')"
    for session in (scored, running):
        await fetch(stack, keep, session)

    found = wrong(stack, exam)
    await fetch(stack, "DELETE FROM result WHERE session_id = $1", scored)
    lost = wrong(stack, exam)

    await fetch(stack, "DELETE FROM submission WHERE session_id = ANY ($1)", [scored, running])
    await fetch(stack, "DELETE FROM grading_task WHERE session_id = $1", scored)
    assert "it has a result, and its submit still waits in PostgreSQL." in found
    assert "it is IN_PROGRESS and has no result; its submit waits in PostgreSQL." in found
    assert "it is SCORED and has no result; its submit waits in PostgreSQL." in lost


async def test_a_regrade_that_has_not_ended_within_an_hour_is_said_so(stack: Stack, exam: str) -> None:
    await fetch(
        stack,
        """
        INSERT INTO regrade (exam_id, dry_run, key_version, results, actor, reason, lease_until, requested_at)
        VALUES ($1, true, 1, 0, 'a test', '', 'infinity', now() - interval '59 minutes')
        """,
        exam,
    )
    clean(stack, exam)

    await fetch(stack, "UPDATE regrade SET requested_at = now() - interval '61 minutes' WHERE exam_id = $1", exam)
    found = wrong(stack, exam)

    await fetch(stack, "DELETE FROM regrade WHERE exam_id = $1", exam)
    assert any("was asked for 61 minutes ago, and is RUNNING" in what for what in found), found


async def test_a_close_that_was_set_to_the_microsecond_is_rounded_as_the_product_does(stack: Stack, exam: str) -> None:
    closes = (datetime.now(UTC) + timedelta(seconds=300)).replace(microsecond=123_789)
    async with Student(stack, roles=["admin"]) as admin, Student(stack) as student:
        good(await admin.schedule(exam, closesAt=closes.isoformat()))
        session = await student.sit(exam)

    clean(stack, exam)
    assert session["endsAt"].endswith(".124Z")
    await fetch(stack, "UPDATE exam_session SET ends_at = ends_at + interval '1 ms' WHERE id = $1", session["sessionId"])
    assert any("but the terms of its deadline make" in what for what in wrong(stack, exam))


# The rules alone


NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICIES = Exam("e", NOW, 600, None, False, False, "NONE", "IMMEDIATELY", "NONE", graders=2, grader_tolerance=1)
ESSAY = Question("w1", "essay", 7, {"rubric": RUBRIC})


def task(slot: int, *points: int, grader: str = "", status: str = "GRADED") -> Task:
    return Task("s", "w1", slot, status, grader or f"g{slot}", points)


@pytest.mark.parametrize(
    ("tasks", "points"),
    [
        ([task(1, 2, 3)], 5),
        ([task(1, 2, 3), task(2, 3, 3)], 6),
        ([task(1, 2, 3), task(2, 4, 3)], None),
        ([task(1, 2, 3), task(2, status="CLAIMED")], None),
        ([task(1, 2, 3), task(2, 4, 3), task(3, status="OPEN")], None),
        ([task(1, 4, 3), task(2, 0, 0), task(3, 1, 1)], 2),
        ([task(1, 2, 3), task(2, 4, 3, status="CANCELLED")], 5),
        ([], None),
    ],
)
def test_grades_are_decided_by_one_by_the_mean_of_two_or_by_the_median(tasks: Sequence[Task], points: int | None) -> None:
    assert decided(tasks, 1) == points


@pytest.mark.parametrize(("second", "broken"), [("g2", 0), ("g1", 1)])
def test_who_graded_an_answer_twice_is_found(second: str, broken: int) -> None:
    tasks = [task(1, 2, 3), task(2, 2, 3, grader=second)]
    answers = '{"w1":"t:because"}'
    result = Result("s", "e", 1, "anna", 5, 7, "SCORED", 2, 1, answers, "", (5,))
    stores = Stores(
        NOW,
        exams={"e": POLICIES},
        keys={("e", 1, 1): Keys(1, 0, 0, False, [ESSAY])},
        results=[result],
        tasks={"s": tasks},
    )

    found = grades.grades_add_up(Evidence(stores, History()))

    assert len(found.violations) == broken, found.violations


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "with a blank": lambda text: text.replace(":", ": ", 1),
    "with a blank at its end": lambda text: text + " ",
    "with a question twice": lambda text: text.replace("{", '{"q1":"c:A",', 1),
    "with an escape": lambda text: text.replace("a", "\\u0061"),
    "with a slash": lambda text: text.replace("/", "\\/"),
}


@given(
    st.dictionaries(st.sampled_from(["q1", "q2", "q10", "a"]), st.builds("t:{}".format, TEXTS) | TEXTS),
    st.sampled_from(sorted(SPELLINGS)),
)
@example({}, "as it is")
@example({"q1": "-:"}, "as it is")
def test_the_quick_proof_of_the_canonical_encoding_says_what_writing_it_says(answers: dict[str, str], spelling: str) -> None:
    for sort in (True, False):
        text = SPELLINGS[spelling](json.dumps(answers, ensure_ascii=False, separators=(",", ":"), sort_keys=sort))

        read = unfrozen(text)

        assert read is None or is_canonical(text, read) == (canonical(read) == text)


def test_a_deadline_is_a_sum_of_whole_milliseconds() -> None:
    started = NOW + timedelta(microseconds=1_499)
    session = Session("s", "e", 1, "anna", (), started, NOW, "IN_PROGRESS", None, None, None, 0, 30, None, 2, True, None)

    assert deadline_ms(POLICIES, session) == round(NOW.timestamp() * 1000) + 1 + 632_000

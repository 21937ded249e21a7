"""A case, from the signals to the decision: every step is a person's, and nothing in it changes a session."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from ops.main import app
from stores.analyses import Analyses
from stores.case_records import Grouping, Options
from stores.connect import Stores
from tests.flows.sitting import Student, good, refusal
from tests.integrity.copying import Class, hand_in, taught
from tests.integrity.reporting import counted
from tests.stack import Stack

CASES = "/api/v1/admin/integrity/cases"


def run(stack: Stack, *words: object, code: int = 0) -> str:
    """Run a command of `finalbell integrity`."""
    done = CliRunner().invoke(app, ["integrity", *map(str, words), "--home", str(stack.home)])
    assert done.exit_code == code, done.output
    return done.output


def printed(stack: Stack, *words: object) -> Any:
    return json.loads(run(stack, *words, "--json"))


@pytest.fixture
async def copied(stack: Stack, exam_id: str) -> Class:
    """A class that has sat an exam, in which one copied."""
    return await taught(stack, exam_id)


@pytest.fixture
async def opened(stack: Stack, copied: Class) -> Any:
    """A case about the two, after a run."""
    for session in copied.pair:
        await counted(stack, session, {"FOCUS_LOST": 6, "FOCUS_REGAINED": 6}, 40)
    async with Student(stack, "head", roles=["admin"]) as head:
        await analysed(head, copied.exam)
        body = {"sessionIds": copied.pair, "note": "they sat side by side"}
        return good(await head.http.post(f"/api/v1/admin/exams/{copied.exam}/integrity/cases", json=body), 201)


async def analysed(staff: Student, exam: str, **options: Any) -> dict[str, Any]:
    """Have an exam's answers compared, and wait for it."""
    found = good(await staff.http.post(f"/api/v1/admin/exams/{exam}/integrity/analyses", json=options), 200, 202)
    async with asyncio.timeout(60):
        while found["state"] == "RUNNING":
            await asyncio.sleep(0.2)
            path = f"/api/v1/admin/exams/{exam}/integrity/analysis"
            found = good(await staff.http.get(path, params={"version": found["version"]}))
    return found


async def test_a_case_from_signal_to_dismissal(stack: Stack, exam_id: str, tmp_path: Path) -> None:
    taken = await taught(stack, exam_id, close=False)
    for session in taken.pair:
        await counted(stack, session, {"FOCUS_LOST": 6, "FOCUS_REGAINED": 6}, 40)
    results = [await result(stack, name, taken.sessions[name]) for name in (taken.source, taken.copier)]

    live = json.loads(run(stack, "live", exam_id, "--once", "--json"))
    early = run(stack, "analyse", exam_id, code=1)
    async with Student(stack, roles=["admin"]) as admin:
        good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:close", json={}))
    rows = printed(stack, "analyse", exam_id)
    table = run(stack, "analyse", exam_id, "--last", "--flagged")
    strongest = rows[0]
    case = printed(stack, "case", "open", exam_id, *strongest["sessions"], "--note", "flagged, & both were away")
    run(stack, "case", "move", case["caseId"], "reviewed", "--note", "both were heard")
    run(stack, "case", "move", case["caseId"], "dismissed", "--note", "they learned from the same notes <all of them>")
    shown, listed = run(stack, "case", "show", case["caseId"]), run(stack, "case", "list", "--student", taken.copier)
    files = tmp_path / "report.html", tmp_path / "case.json"
    run(stack, "case", "export", case["caseId"], "--html", files[0], "--json", files[1])
    html, whole = files[0].read_text(), json.loads(files[1].read_text())

    assert {one["studentId"] for one in live["sessions"]} == {taken.source, taken.copier}
    assert "still sits it" in early
    assert list(strongest)[:5] == ["students", "index", "p", "q", "flagged"]
    assert strongest["flagged"] is True
    assert sorted(strongest["students"]) == sorted([taken.source, taken.copier])
    assert strongest["p"] <= strongest["q"] < 0.05
    assert [sorted(one["students"]) for one in rows if one["flagged"]] == [sorted(strongest["students"])] * 3
    assert {one["index"] for one in rows} == {"omega", "gbt", "shared_wrong"}
    assert all(set(around) >= {"focus_lost"} for around in strongest["around"])

    assert "by cohort and address-range: 18 students, 30 questions, 153 pairs; flagged at 0.05: 1 by omega, 1 by gbt, 1 by" in table
    assert "A flag says where to look; it is not a verdict." in table
    assert table.count(taken.copier) == 3
    assert (case["caseId"] in listed, listed.count("DISMISSED")) == (True, 1)
    assert "both were heard" in shown

    assert [(step["fromState"], step["toState"]) for step in whole["steps"]] == [
        ("STATE_UNSPECIFIED", "OPEN"),
        ("OPEN", "REVIEWED"),
        ("REVIEWED", "DISMISSED"),
    ]
    assert (whole["state"], whole["steps"][2]["actor"]) == ("DISMISSED", "operator")
    assert len(whole["evidence"]["questions"]) == 30
    assert {one["index"] for one in whole["evidence"]["pairs"]} == {"omega", "gbt", "shared_wrong"}
    assert 'aria-label="Answers by time"' in html
    assert 'aria-label="Distribution of ω"' in html
    assert "learned from the same notes &lt;all of them&gt;" in html
    assert "A class&#39;s exam &lt;1&gt;" in html
    assert "not a verdict" in html
    assert [await result(stack, name, taken.sessions[name]) for name in (taken.source, taken.copier)] == results


async def result(stack: Stack, name: str, session: str) -> dict[str, Any]:
    async with Student(stack, name) as student:
        found = await student.outcome(session)
    return {key: found[key] for key in ("status", "revision")}


async def test_erasing_a_students_signals_takes_them_out_of_cases_and_leaves_the_counts(
    stack: Stack, copied: Class, opened: dict[str, Any]
) -> None:
    before = {one["studentId"]: one for one in opened["evidence"]["students"]}

    run(stack, "erase", copied.copier)
    async with Student(stack, roles=["proctor"]) as proctor:
        case = good(await proctor.http.get(f"{CASES}/{opened['caseId']}"))
        html = good(await proctor.http.post(f"{CASES}/{opened['caseId']}:export", json={}))["html"]

    after = {one["studentId"]: one for one in case["evidence"]["students"]}
    assert len(before[copied.copier]["seen"]["signals"]) == 12
    assert "seen" not in after[copied.copier]
    assert after[copied.copier]["erasedAt"]
    assert after[copied.copier]["counts"] == before[copied.copier]["counts"]
    assert {one["kind"]: one["count"] for one in after[copied.copier]["counts"]} == {"FOCUS_LOST": 6, "FOCUS_REGAINED": 6}
    assert after[copied.copier]["answers"] == before[copied.copier]["answers"]
    assert after[copied.source] == before[copied.source]
    assert html.count("The single signals were erased on") == 1


async def test_a_case_stays_as_it_was_when_the_exam_is_compared_again(stack: Stack, copied: Class, opened: dict[str, Any]) -> None:
    async with Student(stack, roles=["admin"]) as admin:
        second = await analysed(admin, copied.exam, groupings=["EVERYBODY"], fdr=0.01, strongest=0)
        case = good(await admin.http.get(f"{CASES}/{opened['caseId']}"))
        path = f"/api/v1/admin/exams/{copied.exam}/integrity/cases"
        again = good(await admin.http.post(path, json={"sessionIds": copied.pair[::-1], "note": "once more"}), 200)

    assert (second["version"], second["groupings"], second["fdr"]) == (2, ["EVERYBODY"], 0.01)
    assert case == opened == again
    assert case["evidence"]["analysis"]["version"] == 1


async def test_a_run_says_what_it_compared_and_what_it_left_out(stack: Stack, copied: Class) -> None:
    async with Student(stack, roles=["admin"]) as admin:
        first = await analysed(admin, copied.exam)
        rooms = await analysed(admin, copied.exam, groupings=["ROOM"])
        path = f"/api/v1/admin/exams/{copied.exam}/integrity/pairs"
        none = good(await admin.http.get(path))

    assert (first["state"], first["students"], first["items"], first["pairsTested"]) == ("DONE", 18, 30, 18 * 17 // 2)
    assert first["groupings"] == ["COHORT", "ADDRESS_RANGE"]
    rushed = first["leftOut"].pop("rushed")  # by chance, since each session has another order
    assert 0 <= rushed <= 6
    assert first["leftOut"] == {"essays": 1, "attempts": 0, "otherVersions": 0, "unscored": 0, "alone": 0}
    assert [(one["index"], one["flagged"], sum(one["counts"])) for one in first["indices"]] == [
        ("omega", 1, 2 * 153),
        ("gbt", 1, 153),
        ("shared_wrong", 1, 153),
    ]
    assert (rooms["state"], rooms["pairsTested"], rooms["leftOut"]["alone"]) == ("DONE", 0, 18)
    assert (none["pairs"], none["version"]) == ([], 2)


async def test_the_newest_run_that_is_done_is_shown_without_pairs_and_beside_one_that_failed(
    stack: Stack, stores: Stores, copied: Class
) -> None:
    run(stack, "analyse", copied.exam, "--by", "room")
    await stores.postgres.execute(
        """
        INSERT INTO integrity_analysis (exam_id, version, state, options, requested_by)
        VALUES ($1, 2, 'FAILED', '{"groupings": [], "fdr": 0.05, "strongest": 100}', 'head')
        """,
        copied.exam,
    )

    shown = run(stack, "analyse", copied.exam, "--last", "--flagged")

    assert "run 1, by room: 18 students, 30 questions, 0 pairs." in shown
    assert "18 students share no group with anybody" in shown


async def test_who_asks_for_other_options_than_the_run_under_way_is_told(stack: Stack, stores: Stores, copied: Class) -> None:
    await Analyses(stores.postgres).begin(copied.exam, Options((Grouping.ROOM,), 0.01, 5), "head")
    finishing = asyncio.create_task(_finish_soon(stores, copied.exam))

    said = await asyncio.to_thread(run, stack, "analyse", copied.exam, "--everybody")
    await finishing

    assert "Run 1 was under way already, with other options." in said
    assert "run 1, by room" in said


async def _finish_soon(stores: Stores, exam: str) -> None:
    """Finish a run that nothing works on, once somebody waits for it."""
    await asyncio.sleep(3)
    await Analyses(stores.postgres).finish(exam, 1, "{}", [])


async def test_where_nobody_is_near_anybody_everybody_is_compared(stack: Stack, exam_id: str, small_exam: dict[str, Any]) -> None:
    await stack.import_exam(small_exam, exam_id)
    for _ in range(3):
        async with Student(stack) as student:
            session = (await student.sit(exam_id))["sessionId"]
            good(await student.save(session, "q1", choice="B"))
            await hand_in(student, session)
    async with Student(stack, roles=["admin"]) as admin:
        good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:close", json={}))
        found = await analysed(admin, exam_id)

    assert (found["state"], found["groupings"], found["pairsTested"]) == ("DONE", ["EVERYBODY"], 3)


async def test_pairs_come_page_by_page_and_each_once(stack: Stack, copied: Class) -> None:
    path, pages, after = f"/api/v1/admin/exams/{copied.exam}/integrity/pairs", [], ""
    async with Student(stack, roles=["admin"]) as admin, Student(stack, roles=["proctor"]) as proctor:
        await analysed(admin, copied.exam, strongest=20)
        while not pages or after:
            page = good(await proctor.http.get(path, params={"pageSize": 25, "pageToken": after}))
            pages.append(page["pairs"])
            after = page["nextPageToken"]
        flagged = good(await proctor.http.get(path, params={"flaggedOnly": True}))["pairs"]

    pairs = [pair for page in pages for pair in page]
    assert [len(page) for page in pages] == [25, 25, 10]
    assert len({(one["index"], *one["students"]) for one in pairs}) == 60
    order = [(not one["flagged"], one["p"]) for one in pairs]
    assert order == sorted(order)
    assert [(one["index"], one["students"]) for one in flagged] == [(one["index"], one["students"]) for one in pairs[:3]]


async def test_two_who_decide_at_the_same_time_do_not_both_win(stack: Stack, opened: dict[str, Any]) -> None:
    path = f"{CASES}/{opened['caseId']}:move"
    async with Student(stack, "one", roles=["admin"]) as one, Student(stack, "two", roles=["admin"]) as two:
        reviewed = good(await one.http.post(path, json={"revision": 1, "toState": "REVIEWED", "note": "read"}))
        steps = [{"revision": 2, "toState": to, "note": "decided"} for to in ("DISMISSED", "CONFIRMED")]
        replies = await asyncio.gather(*(who.http.post(path, json=step) for who, step in zip((one, two), steps, strict=True)))
        won = next(at for at, reply in enumerate(replies) if reply.status_code == 200)
        again = good(await (one, two)[won].http.post(path, json=steps[won]))

    assert reviewed["revision"] == 2
    assert sorted(reply.status_code for reply in replies) == [200, 400]
    assert refusal(replies[1 - won]) == (400, "CASE_MOVED")
    assert again == replies[won].json()
    assert [step["actor"] for step in again["steps"]] == ["head", "one", ("one", "two")[won]]


async def test_a_step_on_a_revision_that_there_never_was_is_refused_like_one_on_an_older(stack: Stack, opened: Any) -> None:
    step = {"revision": 2**31 - 1, "toState": "REVIEWED", "note": "read"}
    async with Student(stack, roles=["admin"]) as head:
        reply = await head.http.post(f"/api/v1/admin/integrity/cases/{opened['caseId']}:move", json=step)

    assert refusal(reply) == (400, "CASE_MOVED")


async def test_a_case_may_be_about_one_session_that_nobody_was_compared_with(stack: Stack, exam_id: str, small_exam: Any) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student, Student(stack, roles=["admin"]) as admin:
        session = (await student.sit(exam_id))["sessionId"]
        await hand_in(student, session)
        path = f"/api/v1/admin/exams/{exam_id}/integrity/cases"
        case = good(await admin.http.post(path, json={"sessionIds": [session], "note": "a look"}), 201)
        html = good(await admin.http.post(f"{CASES}/{case['caseId']}:export", json={}))["html"]
        listed = good(await admin.http.get(CASES, params={"studentId": student.name}))["cases"]

    assert "analysis" not in case["evidence"]
    assert 'aria-label="Answers by time"' in html
    assert "Distribution" not in html
    assert [(one["caseId"], one["state"]) for one in listed] == [(case["caseId"], "OPEN")]
    assert "evidence" not in listed[0]


async def test_everything_that_changes_is_in_the_audit_log(stack: Stack, stores: Stores, opened: dict[str, Any]) -> None:
    async with Student(stack, "head", roles=["admin"]) as head:
        path = f"{CASES}/{opened['caseId']}"
        good(await head.http.post(f"{path}:move", json={"revision": 1, "toState": "REVIEWED", "note": "read"}))
        good(await head.http.post(f"{path}:export", json={}))

    rows = await stores.postgres.fetch(
        "SELECT actor, action FROM audit_log WHERE subject IN ($1, $2) AND action LIKE 'integrity.%' ORDER BY id",
        *(opened["examId"], opened["caseId"]),
    )
    actions = ["integrity.analyse", "integrity.case.open", "integrity.case.move", "integrity.case.export"]
    assert [tuple(row) for row in rows] == [("head", action) for action in actions]


async def test_a_case_of_many_long_answers_can_be_exported(
    stack: Stack, stores: Stores, opened: dict[str, Any], tmp_path: Path
) -> None:
    await stores.postgres.execute(
        "UPDATE integrity_case SET evidence = jsonb_set(evidence, '{examTitle}', to_jsonb(repeat('long ', 600000))) WHERE id = $1",
        opened["caseId"],
    )

    run(stack, "case", "export", opened["caseId"], "--html", tmp_path / "case.html", "--json", tmp_path / "case.json")

    assert (tmp_path / "case.html").stat().st_size > 3_000_000
    assert json.loads((tmp_path / "case.json").read_text())["evidence"]["examTitle"].endswith("long ")


async def test_a_rehearsal_is_not_compared_and_no_case_is_about_one(stack: Stack, exam_id: str, small_exam: dict[str, Any]) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack, roles=["admin"]) as admin:
        made = good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:rehearse", json={"sessionSeconds": 60}))
        shadow = made["exam"]["examId"]
        reply = await admin.http.post(f"/api/v1/admin/exams/{shadow}/integrity/analyses", json={})
        body = {"sessionIds": [str(uuid4())], "note": "a look"}
        case = await admin.http.post(f"/api/v1/admin/exams/{shadow}/integrity/cases", json=body)
        good(await admin.http.post(f"/api/v1/admin/rehearsals/{shadow}:remove", json={}))

    assert refusal(reply) == refusal(case) == (404, "EXAM_NOT_FOUND")

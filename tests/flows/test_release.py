"""What may be seen and when: scores, reviews, boards and papers follow the exam's policies, and keys never leave."""

import asyncio
import copy
import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats
import pytest
from finalbell.v1 import admin_pb2, content_pb2, events_pb2, leaderboard_pb2, scoring_pb2, session_pb2
from google.protobuf.message import Message
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from ops.home import Home
from tests.flows.sitting import Student, good, refusal
from tests.flows.transports import TRANSPORTS, Native, Rest, Transport, transport
from tests.stack import Stack, eventually

RIGHT = (
    {"questionId": "q1", "choice": "B"},
    {"questionId": "q2", "choices": {"ids": ["A", "C"]}},
    {"questionId": "q3", "number": "3.5"},
    {"questionId": "q4", "text": "ankara"},
)

ESSAYS = {
    "exam": {"id": "essays", "title": "An essay and a question", "durationSeconds": 600, "release": {"review": "IMMEDIATELY"}},
    "questions": [
        {
            "id": "w1",
            "type": "essay",
            "stem": "Why do bells ring?",
            "answer": {"rubric": [{"criterion": "Reason", "description": "Names one", "maxPoints": 4}]},
            "explanation": "canary-explanation-w1",
        },
        {
            "id": "q1",
            "type": "single_choice",
            "stem": "Which is a prime?",
            "options": [{"id": "A", "text": "9"}, {"id": "B", "text": "11"}],
            "answer": {"choice": "B"},
        },
    ],
}


# Scores


async def test_scores_are_withheld_until_staff_release_them(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, release__score="MANUAL")
    async with Student(stack) as student:
        session, submit = await sat(student, exam_id)
        withheld = await student.outcome(session)
        resubmit = good(await student.submit(session), 202)
        hidden_board = await student.board(exam_id, around="me")

        await release(stack, exam_id)
        shown = await ranked(student, session)
        board = await shown_board(student, exam_id)
        after = good(await student.submit(session), 200, 202)

    for reply in (submit, resubmit, after):
        assert ("score" in reply, "maxScore" in reply) in ((False, False), (reply is after, reply is after))
    assert submit["status"] == resubmit["status"] == "SCORING"
    assert withheld["status"] == "WITHHELD"
    assert not {"score", "maxScore", "rank", "releasesAt"} & withheld.keys()
    assert withheld["breakdown"] == []
    assert (hidden_board["entries"], hidden_board["around"], hidden_board["total"]) == ([], [], 0)
    assert "me" not in hidden_board or hidden_board["me"] is None
    assert (shown["status"], shown["score"], shown["maxScore"], shown["rank"]) == ("SCORED", 14, 14, 1)
    assert (board["total"], board["me"]["rank"], board["entries"][0]["score"]) == (1, 1, 14)


async def test_releasing_twice_changes_nothing(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, release__score="MANUAL")

    first = await release(stack, exam_id)
    second = await release(stack, exam_id)

    assert first.released_at == second.released_at != admin_pb2.ExamReport().released_at


async def test_scores_after_close_wait_for_the_last_session(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, release__score="AFTER_CLOSE", release__review="AFTER_CLOSE")
    async with Student(stack) as early, Student(stack) as late:
        session, submit = await sat(early, exam_id)
        running = (await late.sit(exam_id))["sessionId"]
        while_open = await early.outcome(session)
        await close(stack, exam_id)
        while_one_runs = good(await early.result(session))
        board_while_one_runs = await early.board(exam_id)
        good(await late.submit(running), 200, 202)

        shown = await ranked(early, session)
        await ranked(late, running)
        board = await shown_board(early, exam_id)

    assert "score" not in submit
    for withheld in (while_open, while_one_runs):
        assert withheld["status"] == "WITHHELD"
        assert "score" not in withheld
        assert withheld["breakdown"] == []
    assert board_while_one_runs["entries"] == []
    assert (shown["status"], shown["score"]) == ("SCORED", 14)
    assert {item["outcome"] for item in shown["breakdown"]} == {"CORRECT"}
    assert board["total"] == 2


async def test_a_withheld_score_says_when_it_comes_where_that_is_known(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    closes = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    settings = {"release__score": "AFTER_CLOSE", "closesAt": closes.isoformat().replace("+00:00", "Z")}
    await stack.import_exam(small_exam, exam_id, **settings)

    async with Student(stack) as student:
        session, _ = await sat(student, exam_id)
        withheld = await student.outcome(session)

    assert datetime.fromisoformat(withheld["releasesAt"]) == closes


@pytest.mark.parametrize("review", ["NONE", "AFTER_CLOSE"])
async def test_a_review_that_is_not_released_shows_totals_only(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, review: str
) -> None:
    await stack.import_exam(small_exam, exam_id, release__review=review)
    async with Student(stack) as student:
        session, _ = await sat(student, exam_id)
        before = await ranked(student, session)
        await close(stack, exam_id)
        await exam_is_closed(student, exam_id)
        await asyncio.sleep(1.1)  # what a process knows of an exam's end is a second old at most

        after = good(await student.result(session))

    assert (before["score"], before["breakdown"]) == (14, [])
    assert len(after["breakdown"]) == (0 if review == "NONE" else 4)


async def test_a_review_never_comes_before_the_score(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, release__score="MANUAL", release__review="IMMEDIATELY")

    async with Student(stack) as student:
        session, _ = await sat(student, exam_id)
        withheld = await student.outcome(session)

    assert (withheld["status"], withheld["breakdown"]) == ("WITHHELD", [])


async def test_a_released_review_shows_what_was_given_what_was_right_and_why(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        picks = {"questionId": "q2", "choices": {"ids": ["C", "B"]}}
        good(await student.batch(session, {"questionId": "q1", "choice": "A"}, picks, {"questionId": "q4", "text": " ANKARA "}))
        good(await student.submit(session), 200, 202)

        result = await student.outcome(session)

    review = [(i["given"], i["correct"], i["points"], i["maxPoints"], i["outcome"], i["topic"]) for i in result["breakdown"]]
    assert review == [
        ("A", "B", -1, 2, "WRONG", "numbers"),
        ("B,C", "A,C", 0, 6, "WRONG", "numbers"),
        ("", "3.5", 0, 4, "BLANK", "numbers"),
        (" ANKARA ", "canary-key-ankara", 2, 2, "CORRECT", "places"),
    ]
    assert all(item["explanation"].startswith(f"canary-explanation-{item['questionId']}") for item in result["breakdown"])
    assert result["score"] == 1


# Boards


async def test_staff_see_a_board_that_students_do_not_see_yet(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, release__score="MANUAL")
    async with Student(stack, cohorts=["blue"]) as student, Student(stack, roles=["proctor"]) as staff:
        session, _ = await sat(student, exam_id)
        await student.outcome(session)

        async def on_board() -> Any:
            board = await staff.board(exam_id)
            return board if board["total"] else None

        seen = await eventually(on_board)
        cohort = await staff.board(exam_id, cohort="blue")
        hidden, hidden_cohort = await student.board(exam_id), await student.board(exam_id, cohort="blue")

    assert [(entry["rank"], entry["score"], entry["studentId"]) for entry in seen["entries"]] == [(1, 14, student.name)]
    assert cohort["entries"] == seen["entries"]
    for board in (hidden, hidden_cohort):
        assert (board["entries"], board["total"], board["rebuilding"]) == ([], 0, False)


async def test_students_see_aliases_and_staff_see_ids(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as first, Student(stack) as second, Student(stack, roles=["admin"]) as staff:
        for student, alias in ((first, "Ada"), (second, "Grace")):
            session = (await student.sit(exam_id, alias=alias))["sessionId"]
            good(await student.submit(session), 200, 202)
            await ranked(student, session)

        for_student, for_staff = await first.board(exam_id, around="me"), await staff.board(exam_id)

    assert second.name not in json.dumps(for_student)
    assert first.name not in json.dumps(for_student)
    assert {entry["alias"] for entry in for_student["entries"]} == {"Ada", "Grace"}
    assert {entry["studentId"] for entry in for_staff["entries"]} == {first.name, second.name}


# Papers


async def test_a_paper_opens_with_the_session_and_is_the_callers_own(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    path = f"/api/v1/exams/{exam_id}/paper"
    async with Student(stack) as student, Student(stack) as stranger:
        before = await student.http.get(path)
        session = await student.sit(exam_id)

        paper = await student.http.get(path)
        again = await student.http.get(path, headers={"if-none-match": paper.headers["etag"]})
        other_tag = await student.http.get(path, headers={"if-none-match": '"0123456789abcdef"'})
        for_stranger = await stranger.http.get(path)
        good(await student.submit(session["sessionId"]), 200, 202)
        afterwards = await student.http.get(path)

    assert refusal(before) == refusal(for_stranger) == (400, "SESSION_REQUIRED")
    questions = {question["questionId"]: question for question in good(paper)["questions"]}
    assert list(questions) == ["q1", "q2", "q3", "q4"]
    assert questions["q2"]["type"] == "MULTIPLE_CHOICE"
    assert [option["id"] for option in questions["q2"]["options"]] == ["A", "B", "C", "D"]
    assert paper.headers["cache-control"] == "private, max-age=0, stale-if-error=86400"
    assert "x-finalbell-stale" not in paper.headers
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", paper.headers["etag"])
    assert (other_tag.status_code, other_tag.json()) == (200, paper.json())
    assert afterwards.json() == paper.json()


async def test_no_question_is_readable_before_the_exam_opens(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    opens = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    await stack.import_exam(small_exam, exam_id, opensAt=opens.isoformat().replace("+00:00", "Z"))
    async with Student(stack) as student:
        paper = await student.http.get(f"/api/v1/exams/{exam_id}/paper")
        start = await student.start(exam_id)
        exam = await student.http.get(f"/api/v1/exams/{exam_id}")
        exams = await student.http.get("/api/v1/exams", params={"pageSize": 200})

    assert refusal(paper) == refusal(start) == (400, "EXAM_NOT_OPEN")
    assert (exam.json()["state"], exam.json()["questionCount"], exam.json()["maxScore"]) == ("SCHEDULED", 4, 14)
    for reply in (paper, start, exam, exams):
        assert "prime" not in reply.text


async def test_an_exam_has_an_etag_that_changes_with_it(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    path = f"/api/v1/exams/{exam_id}"
    async with Student(stack) as student:
        first = await student.http.get(path)
        tag = first.headers["etag"]
        same = await student.http.get(path, headers={"if-none-match": f'"other", W/{tag}'})
        await stack.import_exam(small_exam, exam_id, title="Another title")

        async def changed() -> Any:
            reply = await student.http.get(path, headers={"if-none-match": tag})
            return reply if reply.status_code == 200 else None

        second = await eventually(changed)

    assert (same.status_code, same.content) == (304, b"")
    assert second.json()["title"] == "Another title"
    assert second.headers["etag"] != tag


async def test_an_unchanged_paper_is_an_empty_message_over_grpc(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    token = stack.token()
    for name in ("grpc", "grpc-web"):
        async with transport(name, stack, token) as way_in:
            await way_in.call("StartSession", session_pb2.StartSessionRequest(exam_id=exam_id))
            request = content_pb2.GetPaperRequest(exam_id=exam_id)
            paper = await way_in.call("GetPaper", request)

            again = await way_in.call("GetPaper", request, headers={"if-none-match": paper.headers["etag"]})

            assert len(paper.ok.paper.questions) == 4
            assert again.ok == content_pb2.GetPaperResponse()
            assert again.headers["fb-http-status"] == "304"


# Essays


async def test_an_essay_waits_for_its_grader_without_a_rank(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(copy.deepcopy(ESSAYS), exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        essay = "A bell rings because someone rang it. " * 500
        good(await student.batch(session, {"questionId": "w1", "text": essay}, {"questionId": "q1", "choice": "B"}))

        submit = await student.submit(session)
        result = await student.outcome(session)
        board = await student.board(exam_id)
        again = await student.submit(session)

    assert (submit.status_code, submit.json()["status"]) == (202, "SCORING")
    assert again.status_code == 202
    assert (result["status"], result["score"], result["maxScore"]) == ("PARTIAL", 1, 5)
    assert "rank" not in result
    assert {item["questionId"]: item["outcome"] for item in result["breakdown"]} == {"w1": "PENDING", "q1": "CORRECT"}
    assert result["breakdown"][0]["given"] == essay
    assert result["breakdown"][0]["correct"] == ""
    assert (board["total"], board["entries"]) == (0, [])


async def test_the_bank_of_essays_is_partial_until_people_have_graded_it(stack: Stack, banks: Path, exam_id: str) -> None:
    await stack.import_exam(json.loads((banks / "essays.json").read_text()), exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        paper = good(await student.http.get(f"/api/v1/exams/{exam_id}/paper"))
        for question in paper["questions"]:
            good(await student.save(session, question["questionId"], text=f"On {question['topic']}: it depends."))
        submit = await student.submit(session)

        result = await student.outcome(session)

    assert all(question["rubric"] for question in paper["questions"])
    assert submit.status_code == 202
    assert (result["status"], result["score"]) == ("PARTIAL", 0)
    assert result["maxScore"] == sum(question["points"] for question in paper["questions"])
    assert "rank" not in result


# Keys never leave (RELIABILITY I22)


@pytest.mark.parametrize("way", TRANSPORTS)
async def test_no_reply_holds_a_key_before_its_release(stack: Stack, small_exam: dict[str, Any], exam_id: str, way: str) -> None:
    await stack.import_exam(small_exam, exam_id, release__score="IMMEDIATELY", release__review="AFTER_CLOSE")
    async with transport(way, stack, stack.token()) as way_in:
        replies = await everything_a_student_can_ask(way_in, exam_id)

    assert len(replies) > 20
    for name, raw in replies:
        assert b"canary" not in raw, name


async def test_no_store_and_no_log_that_students_data_goes_through_holds_a_key(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, release__review="AFTER_CLOSE")
    messages = []
    found = stack.read()
    client = await nats.connect(found["nats"])
    try:

        async def hear(message: Any) -> None:
            messages.append(message)

        await client.subscribe(">", cb=hear)
        await client.flush()
        async with stack.rest(stack.token()) as http:
            await everything_a_student_can_ask(Rest(http), exam_id)

        async def both_heard() -> bool:
            subjects = [message.subject for message in messages]
            return any(s.startswith(f"submits.{exam_id}.") for s in subjects) and any(s.startswith("scored.") for s in subjects)

        await eventually(both_heard)
    finally:
        await client.close()

    for message in messages:
        assert b"canary" not in message.data, message.subject
    inline = [m for m in messages if m.subject.startswith("scored.") and m.subject != "scored.all"]
    replies = [events_pb2.SessionsScored.FromString(m.data) for m in inline]
    fields = {field.name for reply in replies for one in reply.sessions for field, _ in one.ListFields()}
    assert fields <= {"session_id", "score", "max_score", "partial"}
    async with Redis.from_url(found["redis"]) as redis:
        everything = await redis_dump(redis)
    assert any(exam_id.encode() in name for name in everything)
    for name, value in everything.items():
        assert b"canary" not in value, name
    for log in sorted((stack.home / "logs").iterdir()):
        assert b"canary" not in log.read_bytes(), log.name


@pytest.mark.parametrize("account", ["session", "leaderboard", "scoring", "admin"])
async def test_each_redis_account_reads_its_own_keys_only(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, account: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session, _ = await sat(student, exam_id)
        await ranked(student, session)
    password = Home(stack.home).passwords((account,))[account]
    address = stack.read()["redis"].rpartition("@")[2]

    async with Redis.from_url(stack.read()["redis"]) as owner, Redis.from_url(f"redis://{account}:{password}@{address}") as redis:
        names = [name async for name in owner.scan_iter(count=1000)]
        readable = {name for name in names if await may_read(redis, name)}

    assert readable
    boards = {name for name in names if name.startswith(b"lb")}
    sessions = {name for name in names if name.startswith(b"s:")}
    assert bool(boards & readable) == (account in ("leaderboard", "scoring", "admin"))
    assert bool(sessions & readable) == (account in ("session", "scoring", "admin"))


async def everything_a_student_can_ask(way_in: Transport, exam: str) -> list[tuple[str, bytes]]:
    """Make every call that a student has, those that are refused too, and return what came back."""
    replies: list[tuple[str, bytes]] = []

    async def ask(method: str, request: Message, *, keyed: bool = False) -> Any:
        reply = await way_in.call(method, request, key=uuid.uuid4().hex if keyed else None)
        replies.append((f"{method} {request}", reply.raw))
        return reply

    pb, content = session_pb2, content_pb2
    await ask("GetPaper", content.GetPaperRequest(exam_id=exam))
    session = (await ask("StartSession", pb.StartSessionRequest(exam_id=exam))).ok.session.session_id
    await ask("ListExams", content.ListExamsRequest(page_size=200))
    await ask("GetExam", content.GetExamRequest(exam_id=exam))
    await ask("GetPaper", content.GetPaperRequest(exam_id=exam))
    await ask("GetExplanation", content.GetExplanationRequest(exam_id=exam, question_id="q1"))
    await ask("GetSealedPaper", content.GetSealedPaperRequest(exam_id=exam, version=1))
    await ask("ListQuestions", content.ListQuestionsRequest(bank_id=exam))
    for answer in (
        pb.SaveAnswerRequest(session_id=session, question_id="q1", choice="B", client_seq=2),
        pb.SaveAnswerRequest(session_id=session, question_id="q1", choice="A", client_seq=1),
        pb.SaveAnswerRequest(session_id=session, question_id="q1", choice="Z"),
        pb.SaveAnswerRequest(session_id=session, question_id="q2", choices=pb.Choices(ids=["A", "B"])),
        pb.SaveAnswerRequest(session_id=session, question_id="q3", text="no number"),
        pb.SaveAnswerRequest(session_id=session, question_id="q9", choice="A"),
    ):
        await ask("SaveAnswer", answer, keyed=True)
    item = pb.SaveItem(question_id="q3", number="4", idempotency_key=uuid.uuid4().hex)
    await ask("BatchSaveAnswers", pb.BatchSaveAnswersRequest(session_id=session, items=[item]))
    await ask("GetSession", pb.GetSessionRequest(session_id=session))
    await ask("GetResult", scoring_pb2.GetResultRequest(session_id=session))
    await ask("SubmitSession", pb.SubmitSessionRequest(session_id=session), keyed=True)

    async def scored() -> bool:
        reply = await ask("GetResult", scoring_pb2.GetResultRequest(session_id=session))
        return bool(reply.ok.result.HasField("rank"))

    await eventually(scored)
    await ask("SubmitSession", pb.SubmitSessionRequest(session_id=session), keyed=True)
    await ask("GetSession", pb.GetSessionRequest(session_id=session))
    await ask("SaveAnswer", pb.SaveAnswerRequest(session_id=session, question_id="q1", choice="B"), keyed=True)
    await ask("ListSessions", pb.ListSessionsRequest(exam_id=exam))
    await ask("GetPaper", content.GetPaperRequest(exam_id=exam))
    await ask("GetExplanation", content.GetExplanationRequest(exam_id=exam, question_id="q1"))
    await ask("GetLeaderboard", leaderboard_pb2.GetLeaderboardRequest(exam_id=exam, top=1000, around="me"))
    for method, request in (
        ("ListExamReports", admin_pb2.ListExamReportsRequest()),
        ("GetExamReport", admin_pb2.GetExamReportRequest(exam_id=exam)),
        ("ListResults", admin_pb2.ListResultsRequest(exam_id=exam)),
        ("CloseExam", admin_pb2.CloseExamRequest(exam_id=exam)),
        ("ReleaseExam", admin_pb2.ReleaseExamRequest(exam_id=exam)),
        ("RebuildLeaderboard", admin_pb2.RebuildLeaderboardRequest(exam_id=exam)),
        ("VerifyLeaderboard", admin_pb2.VerifyLeaderboardRequest(exam_id=exam)),
        ("ComputeItemStatistics", scoring_pb2.ComputeItemStatisticsRequest(exam_id=exam)),
        ("GetItemStatistics", scoring_pb2.GetItemStatisticsRequest(exam_id=exam)),
    ):
        assert (await ask(method, request)).reason == "ROLE_REQUIRED"
    return replies


async def redis_dump(redis: Redis) -> dict[bytes, bytes]:
    """Return every key with all that is in it, whatever its type."""
    found = {}
    async for name in redis.scan_iter(count=1000):
        match await redis.type(name):
            case b"hash":
                value: Any = await redis.hgetall(name)
            case b"zset":
                value = await redis.zrange(name, 0, -1)
            case b"stream":
                value = await redis.xrange(name)
            case b"string":
                value = await redis.get(name)
            case b"none":  # gone since the scan
                continue
            case other:
                raise AssertionError(f"{name!r} is a {other!r}")
        found[name] = repr(value).encode()
    return found


async def may_read(redis: Redis, name: bytes) -> bool:
    try:
        await redis.type(name)
    except NoPermissionError:
        return False
    return True


async def sat(student: Student, exam: str) -> tuple[str, dict[str, Any]]:
    """Sit the small exam with every answer right, and hand it in."""
    session = (await student.sit(exam))["sessionId"]
    good(await student.batch(session, *RIGHT))
    return session, good(await student.submit(session), 200, 202)


async def shown_board(student: Student, exam: str) -> dict[str, Any]:
    """Wait until the board shows its reader: each process hears of a release within seconds, by itself."""

    async def there() -> dict[str, Any] | None:
        board = await student.board(exam, around="me")
        return board if board.get("me") else None

    board: dict[str, Any] = await eventually(there)
    return board


async def ranked(student: Student, session: str) -> dict[str, Any]:
    """Wait until the result is shown and ranked: a process may know the exam's policies from a second ago."""

    async def there() -> Any:
        reply = await student.result(session)
        return reply.json() if reply.status_code == 200 and "rank" in reply.json() else None

    found: dict[str, Any] = await eventually(there)
    return found


async def exam_is_closed(student: Student, exam: str) -> None:
    async def closed() -> bool:
        return bool(good(await student.http.get(f"/api/v1/exams/{exam}"))["state"] == "CLOSED")

    await eventually(closed)


async def close(stack: Stack, exam: str) -> None:
    async with stack.channel() as channel:
        admin = Native(channel, stack.token(roles=["admin"]))
        assert (await admin.call("CloseExam", admin_pb2.CloseExamRequest(exam_id=exam))).ok


async def release(stack: Stack, exam: str) -> admin_pb2.ExamReport:
    async with stack.channel() as channel:
        admin = Native(channel, stack.token(roles=["admin"]))
        report: admin_pb2.ExamReport = (await admin.call("ReleaseExam", admin_pb2.ReleaseExamRequest(exam_id=exam))).ok.report
        return report


async def test_nobody_starts_once_the_close_has_shown_others_what_was_right(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, release={"score": "AFTER_CLOSE", "review": "AFTER_CLOSE"})
    async with Student(stack) as done, Student(stack) as late, Student(stack, roles=["admin"]) as admin:
        session = (await done.sit(exam_id))["sessionId"]
        good(await done.submit(session), 200, 202)
        await done.outcome(session)
        good(await done.start(exam_id), 201)  # from now on the service knows by heart, for a second, that the exam is open
        good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:close", json={}))
        refused = await late.start(exam_id)

    assert refusal(refused) == (400, "EXAM_CLOSED")

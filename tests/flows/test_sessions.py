"""Starting, saving, coming back and handing in: what a student may rely on, over REST."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from finalbell.v1 import admin_pb2
from finalbell.v1.admin_pb2_grpc import ExamAdminServiceStub

from tests.flows.sitting import Student, answers, canonical, detail, good, refusal, wrong_fields
from tests.stack import Stack, bearer, eventually

SECOND_MS = 1_000


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    """An open exam of ten minutes and three attempts, with one question of each objective type."""
    await stack.import_exam(small_exam, exam_id)
    return exam_id


# Starts


async def test_a_first_start_makes_a_session_and_a_second_one_returns_it(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        first = await student.start(exam)

        second = await student.start(exam)

    assert (first.status_code, second.status_code) == (201, 200)
    assert steady(second.json()) == steady(first.json())
    session = first.json()
    assert (session["examId"], session["examVersion"], session["attempt"], session["status"]) == (exam, 1, 1, "IN_PROGRESS")
    assert at(session["endsAt"]) - at(session["startedAt"]) == timedelta(minutes=10)
    assert uuid.UUID(session["sessionId"]).version == 7
    assert sorted(session["questionOrder"]) == ["q1", "q2", "q3", "q4"]
    assert {question: sorted(order["ids"]) for question, order in session["optionOrder"].items()} == {
        "q1": ["A", "B", "C"],
        "q2": ["A", "B", "C", "D"],
    }


async def test_twenty_starts_at_once_make_one_session(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        replies = await asyncio.gather(*(student.start(exam) for _ in range(20)))

    assert sorted(reply.status_code for reply in replies) == [200] * 19 + [201]
    assert len({reply.json()["sessionId"] for reply in replies}) == 1
    assert len({str(steady(reply.json())) for reply in replies}) == 1


async def test_twenty_starts_at_once_with_one_key_make_one_session(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as student:
        replies = await asyncio.gather(*(student.start(exam, key) for _ in range(20)))

    assert sorted(reply.status_code for reply in replies) == [200] * 19 + [201]
    assert len({reply.json()["sessionId"] for reply in replies}) == 1


async def test_the_key_of_a_start_returns_its_session_even_after_the_submit(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as student:
        session = good(await student.start(exam, key), 201)["sessionId"]
        good(await student.submit(session), 200, 202)

        again = await student.start(exam, key)
        other = await student.start(exam, uuid.uuid4().hex)

    assert again.status_code == 200
    assert again.json()["sessionId"] == session
    assert again.json()["status"] in ("SUBMITTED", "SCORED")
    assert other.status_code == 201
    assert other.json()["sessionId"] != session
    assert other.json()["attempt"] == 2


async def test_one_key_starts_a_session_of_its_own_for_every_student(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as alice, Student(stack) as bob:
        first, second = good(await alice.start(exam, key), 201), good(await bob.start(exam, key), 201)

    assert first["sessionId"] != second["sessionId"]


async def test_nobody_starts_more_often_than_the_exam_allows(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        for attempt in (1, 2, 3):
            session = await student.sit(exam)
            assert session["attempt"] == attempt
            good(await student.submit(session["sessionId"]), 200, 202)

        refused = await student.start(exam)

    assert refusal(refused) == (400, "ATTEMPTS_EXHAUSTED")


async def test_an_exam_cannot_be_started_before_it_opens(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    opens = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    await stack.import_exam(small_exam, exam_id, opensAt=opens.isoformat().replace("+00:00", "Z"))

    async with Student(stack) as student:
        refused = await student.start(exam_id)

    assert refusal(refused) == (400, "EXAM_NOT_OPEN")
    assert at(detail(refused, "ErrorInfo")["metadata"]["opensAt"]) == opens


async def test_a_closed_exam_starts_nobody_and_interrupts_nobody(stack: Stack, exam: str) -> None:
    async with Student(stack) as inside:
        session = (await inside.sit(exam))["sessionId"]
        await close(stack, exam)

        async def refused_start() -> Any:  # a process may know the exam's policies from a second ago
            async with Student(stack) as late:
                reply = await late.start(exam)
                return reply if reply.status_code != 201 else None

        refused = await eventually(refused_start)
        back = await inside.start(exam)
        saved = await inside.save(session, "q1", choice="B")
        good(await inside.submit(session), 200, 202)
        another = await inside.start(exam)

    assert refusal(refused) == refusal(another) == (400, "EXAM_CLOSED")
    assert (back.status_code, back.json()["sessionId"]) == (200, session)
    assert good(saved)["saved"] is True


async def test_a_late_start_has_only_the_time_until_the_exam_closes(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    closes = (datetime.now(UTC) + timedelta(minutes=3)).replace(microsecond=0)
    await stack.import_exam(small_exam, exam_id, closesAt=closes.isoformat().replace("+00:00", "Z"))

    async with Student(stack) as student:
        session = await student.sit(exam_id)

    assert at(session["endsAt"]) == closes
    assert 0 < session["remainingMs"] <= 180 * SECOND_MS


async def test_an_unknown_exam_cannot_be_started(stack: Stack, exam_id: str) -> None:
    async with Student(stack) as student:
        assert refusal(await student.start(exam_id)) == (404, "EXAM_NOT_FOUND")


async def test_a_student_may_choose_an_alias_and_else_gets_one_that_tells_nothing(stack: Stack, exam: str) -> None:
    async with Student(stack) as chooser, Student(stack) as other:
        chosen = await chooser.sit(exam, alias="Ada  L")
        kept = good(await chooser.start(exam, alias="Somebody else"))
        given = await other.sit(exam)
        good(await other.submit(given["sessionId"]), 200, 202)
        given_again = await other.sit(exam)

    assert chosen["alias"] == "Ada L"
    assert kept["alias"] == "Ada L"
    assert given["alias"].startswith("Student ")
    assert len(given["alias"]) == len("Student ") + 4
    assert given_again["alias"] == given["alias"]
    assert other.name not in given["alias"]


@pytest.mark.parametrize("alias", ["   ", "x" * 33, "a\u0000b", "line\nbreak"])
async def test_an_alias_that_no_board_could_show_is_refused(stack: Stack, exam: str, alias: str) -> None:
    async with Student(stack) as student:
        refused = await student.start(exam, alias=alias)

    assert refusal(refused) == (400, "INVALID_FIELD")
    assert wrong_fields(refused) == ["alias"]


@pytest.mark.parametrize("field", ["endsAt", "studentId", "seed", "examVersion"])
async def test_a_start_cannot_say_what_is_the_servers_to_say(stack: Stack, exam: str, field: str) -> None:
    async with Student(stack) as student:
        reply = await student.start(exam, **{field: "2030-01-01T00:00:00Z"})

        session = good(await student.start(exam), 200, 201)

    assert reply.status_code in (201, 400)
    assert at(session["endsAt"]) - at(session["startedAt"]) == timedelta(minutes=10)


# Two devices, refreshed pages


async def test_two_devices_of_one_student_see_the_same_session(stack: Stack, exam: str) -> None:
    async with Student(stack) as phone, Student(stack, phone.name) as laptop:
        session = (await phone.sit(exam))["sessionId"]
        assert good(await laptop.start(exam))["sessionId"] == session
        good(await phone.save(session, "q1", choice="A"))
        good(await laptop.save(session, "q1", choice="B"))
        good(await phone.save(session, "q3", number="1"))

        on_phone, on_laptop = good(await phone.read(session)), good(await laptop.read(session))

    assert answers(on_phone) == answers(on_laptop) == {"q1": ("choice", "B"), "q3": ("number", "1")}
    assert on_phone["questionOrder"] == on_laptop["questionOrder"]
    assert on_phone["optionOrder"] == on_laptop["optionOrder"]


async def test_a_refreshed_page_finds_everything_as_it_was_left(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        started = await student.sit(exam)
        session = started["sessionId"]
        good(await student.save(session, "q1", choice="B", clientSeq=7))
        good(await student.save(session, "q2", choices={"ids": ["C", "A"]}))
        good(await student.save(session, "q3", number="-1.5e2"))
        last = good(await student.save(session, "q4", text="  two\twords – ünïcode \U0001f514 "))
        good(await student.save(session, "q3", cleared=True))

        found = good(await student.read(session))

    assert steady(found) == steady(started) | {"answers": found["answers"]}
    assert answers(found) == {
        "q1": ("choice", "B"),
        "q2": ("choices", {"ids": ["A", "C"]}),
        "q3": ("cleared", True),
        "q4": ("text", "  two\twords – ünïcode \U0001f514 "),
    }
    by_question = {saved["questionId"]: saved for saved in found["answers"]}
    assert by_question["q1"]["clientSeq"] == 7
    assert "clientSeq" not in by_question["q2"]
    assert {question: saved["version"] for question, saved in by_question.items()} == {"q1": 1, "q2": 2, "q3": 5, "q4": 4}
    assert by_question["q4"]["savedAt"] == last["savedAt"]
    assert 0 < found["remainingMs"] <= 600 * SECOND_MS
    assert (found["epoch"], found["restoredThroughVersion"]) == (0, 0)
    assert at(found["serverTime"]) < at(found["endsAt"])


# Saves


async def test_saves_are_numbered_one_by_one_and_the_newest_stands(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]

        saves = [good(await student.save(session, "q1", choice=choice)) for choice in "ABCB"]
        found = good(await student.read(session))

    assert [saved["version"] for saved in saves] == [1, 2, 3, 4]
    assert all(saved["saved"] and not saved["superseded"] for saved in saves)
    assert answers(found) == {"q1": ("choice", "B")}


async def test_a_retried_save_never_overwrites_a_newer_answer(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        first = good(await student.save(session, "q1", key, choice="A"))
        good(await student.save(session, "q1", choice="B"))

        again = good(await student.save(session, "q1", key, choice="A"))
        found = good(await student.read(session))

    assert again == first
    assert answers(found) == {"q1": ("choice", "B")}


async def test_a_retried_save_is_answered_the_same_after_the_submit(stack: Stack, exam: str) -> None:
    old, new = uuid.uuid4().hex, uuid.uuid4().hex
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        first = good(await student.save(session, "q1", old, choice="A"))
        second = good(await student.save(session, "q1", new, choice="B"))
        good(await student.submit(session), 200, 202)

        replays = [good(await student.save(session, "q1", key, choice=c)) for key, c in ((old, "A"), (new, "B"))]
        await student.outcome(session)
        late_replays = [good(await student.save(session, "q1", key, choice=c)) for key, c in ((old, "A"), (new, "B"))]
        fresh_save = await student.save(session, "q1", choice="C")

    assert replays == late_replays == [first, second]
    assert refusal(fresh_save) == (400, "SESSION_SUBMITTED")


async def test_a_key_cannot_be_used_for_another_answer(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await student.save(session, "q1", key, choice="A"))

        other_choice = await student.save(session, "q1", key, choice="B")
        other_question = await student.save(session, "q2", key, choices={"ids": ["A"]})
        good(await student.save(session, "q1", choice="C"))
        after_a_newer_save = await student.save(session, "q1", key, choice="B")
        found = good(await student.read(session))

    for refused in (other_choice, other_question, after_a_newer_save):
        assert refusal(refused) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert answers(found) == {"q1": ("choice", "C")}


async def test_the_same_picks_in_another_order_are_the_same_answer(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        first = good(await student.save(session, "q2", key, choices={"ids": ["C", "A"]}))

        again = good(await student.save(session, "q2", key, choices={"ids": ["A", "C"]}))

    assert again == first


async def test_the_devices_clock_never_changes_an_outcome(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]

        first = good(await student.save(session, "q1", key, choice="A", clientTs="1970-01-01T00:00:00Z"))
        again = good(await student.save(session, "q1", key, choice="A", clientTs="9999-12-31T23:59:59Z"))

    assert again == first


async def test_one_key_in_two_sessions_is_two_keys(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as alice, Student(stack) as bob:
        first, second = (await alice.sit(exam))["sessionId"], (await bob.sit(exam))["sessionId"]

        good(await alice.save(first, "q1", key, choice="A"))
        other = good(await bob.save(second, "q1", key, choice="B"))

    assert (other["saved"], other["version"]) == (True, 1)


async def test_a_save_that_was_overtaken_changes_nothing_and_hears_what_stands(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        newer = good(await student.save(session, "q1", choice="B", clientSeq=5))

        older = good(await student.save(session, "q1", choice="A", clientSeq=4))
        other_question = good(await student.save(session, "q3", number="1", clientSeq=1))
        found = good(await student.read(session))

    assert (older["saved"], older["superseded"], older["version"]) == (False, True, newer["version"])
    current = older["current"]
    assert (current["choice"], current["clientSeq"], current["version"]) == ("B", 5, newer["version"])
    assert "savedAt" not in older or older["savedAt"] is None
    assert other_question["saved"] is True
    assert answers(found)["q1"] == ("choice", "B")


async def test_the_first_saves_of_a_question_may_arrive_in_any_order(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]

        await asyncio.gather(*(student.save(session, "q3", number=str(n), clientSeq=n) for n in range(1, 31)))
        found = good(await student.read(session))

    assert answers(found) == {"q3": ("number", "30")}


async def test_a_cleared_answer_counts_as_blank(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await student.save(session, "q1", choice="A"))
        good(await student.save(session, "q4", text="Ankara"))
        good(await student.save(session, "q1", cleared=True))
        submit = good(await student.submit(session), 200, 202)

        result = await student.outcome(session)

    assert result["score"] == 2
    assert outcomes(result) == {"q1": "BLANK", "q2": "BLANK", "q3": "BLANK", "q4": "CORRECT"}
    assert submit["answersSha256"] == canonical({"q4": ("text", "Ankara")})


async def test_the_key_may_come_as_header_or_as_field_but_not_as_two(stack: Stack, exam: str) -> None:
    key, other = uuid.uuid4().hex, uuid.uuid4().hex
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        path, body = f"/api/v1/sessions/{session}/answers", {"questionId": "q1", "choice": "A"}

        as_header = good(await student.http.put(path, json=body, headers={"idempotency-key": key}))
        as_field = good(await student.http.put(path, json=body | {"idempotencyKey": key}))
        as_both = good(await student.http.put(path, json=body | {"idempotencyKey": key}, headers={"idempotency-key": key}))
        two = await student.http.put(path, json=body | {"idempotencyKey": key}, headers={"idempotency-key": other})
        none = await student.http.put(path, json=body)

    assert as_header == as_field == as_both
    for refused in (two, none):
        assert refusal(refused) == (400, "INVALID_FIELD")
        assert wrong_fields(refused) == ["idempotencyKey"]


@pytest.mark.parametrize("key", ["1234567", "x" * 65, "with blank", "schlüssel"])
async def test_a_key_has_8_to_64_visible_ascii_characters(stack: Stack, exam: str, key: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        body = {"questionId": "q1", "choice": "A", "idempotencyKey": key}

        refused = await student.http.put(f"/api/v1/sessions/{session}/answers", json=body)

    assert refusal(refused) == (400, "INVALID_FIELD")
    assert wrong_fields(refused) == ["idempotencyKey"]


async def test_another_students_session_is_as_unknown_as_one_that_never_was(stack: Stack, exam: str) -> None:
    async with Student(stack) as owner, Student(stack) as other:
        theirs, nobodys = (await owner.sit(exam))["sessionId"], str(uuid.uuid4())

        for ask in (
            lambda session: other.read(session),
            lambda session: other.save(session, "q1", choice="A"),
            lambda session: other.save(session, "no-such-question", choice="A"),
            lambda session: other.batch(session, {"questionId": "q1", "choice": "A"}),
            lambda session: other.submit(session),
            lambda session: other.result(session),
        ):
            foreign, unknown = await ask(theirs), await ask(nobodys)
            assert refusal(foreign) == (404, "SESSION_NOT_FOUND")
            assert (foreign.status_code, foreign.json()) == (unknown.status_code, unknown.json())

        found = good(await owner.read(theirs))

    assert (found["answers"], found["status"]) == ([], "IN_PROGRESS")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"questionId": "q9", "choice": "A"}, "questionId"),
        ({"questionId": "", "choice": "A"}, "questionId"),
        ({"questionId": "q" * 10_000, "choice": "A"}, "questionId"),
        ({"choice": "A"}, "questionId"),
        ({"questionId": "q1"}, "answer"),
        ({"questionId": "q1", "choice": ""}, "choice"),
        ({"questionId": "q1", "choice": "b"}, "choice"),
        ({"questionId": "q1", "choice": "B "}, "choice"),
        ({"questionId": "q1", "choice": "A,B"}, "choice"),
        ({"questionId": "q1", "choice": "Z"}, "choice"),
        ({"questionId": "q1", "choices": {"ids": ["B"]}}, "choices"),
        ({"questionId": "q1", "text": "B"}, "text"),
        ({"questionId": "q1", "cleared": False}, "cleared"),
        ({"questionId": "q2", "choice": "A"}, "choice"),
        ({"questionId": "q2", "choices": {"ids": []}}, "choices.ids"),
        ({"questionId": "q2", "choices": {"ids": ["A", "A"]}}, "choices.ids"),
        ({"questionId": "q2", "choices": {"ids": ["A", "Z"]}}, "choices"),
        ({"questionId": "q2", "choices": {"ids": ["A,C"]}}, "choices.ids[0]"),
        ({"questionId": "q3", "number": "1,000"}, "number"),
        ({"questionId": "q3", "number": "abc"}, "number"),
        ({"questionId": "q3", "number": "NaN"}, "number"),
        ({"questionId": "q3", "number": "1e400"}, "number"),
        ({"questionId": "q3", "number": "3.5 "}, "number"),
        ({"questionId": "q3", "number": "3.5\n"}, "number"),
        ({"questionId": "q3", "number": "٣"}, "number"),
        ({"questionId": "q3", "number": "1" * 41}, "number"),
        ({"questionId": "q3", "text": "3.5"}, "text"),
        ({"questionId": "q4", "text": "x" * 20_481}, "text"),
        ({"questionId": "q4", "text": "a\u0000b"}, "text"),
        ({"questionId": "q4", "choice": "A"}, "choice"),
        ({"questionId": "q1", "choice": "A", "clientSeq": 0}, "clientSeq"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else value,
)
async def test_an_answer_that_does_not_fit_names_its_field_and_changes_nothing(
    stack: Stack, exam: str, body: dict[str, Any], field: str
) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]

        refused = await student.http.put(
            f"/api/v1/sessions/{session}/answers", json=body, headers={"idempotency-key": uuid.uuid4().hex}
        )
        found = good(await student.read(session))

    assert refusal(refused) == (400, "INVALID_FIELD")
    assert wrong_fields(refused) == [field]
    assert found["answers"] == []


@pytest.mark.parametrize("session", ["1", "not-a-uuid", "0" * 36])
async def test_a_malformed_session_id_is_a_wrong_field(stack: Stack, session: str) -> None:
    async with Student(stack) as student:
        for reply in (await student.read(session), await student.save(session, "q1", choice="A"), await student.submit(session)):
            assert refusal(reply) == (400, "INVALID_FIELD")
            assert wrong_fields(reply) == ["sessionId"]


# Batches


async def test_each_item_of_a_batch_has_its_own_outcome(stack: Stack, exam: str) -> None:
    key = uuid.uuid4().hex
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        before = good(await student.save(session, "q1", key, choice="B", clientSeq=3))

        reply = good(
            await student.batch(
                session,
                {"questionId": "q1", "choice": "B", "clientSeq": 3, "idempotencyKey": key},
                {"questionId": "q2", "choices": {"ids": ["C", "A"]}},
                {"questionId": "q1", "choice": "A", "clientSeq": 2},
                {"questionId": "q1", "choice": "C", "clientSeq": 3, "idempotencyKey": key},
                {"questionId": "q1", "choice": "Z"},
                {"questionId": "nope", "choice": "A"},
                {"questionId": "q3", "number": "3.5"},
                {"questionId": "q3", "cleared": True},
            )
        )
        found = good(await student.read(session))

    kinds = [
        one["error"]["details"][0]["reason"]
        if "error" in one
        else "superseded"
        if one["answer"]["superseded"]
        else one["answer"]["version"]
        for one in reply["outcomes"]
    ]
    assert kinds == [before["version"], 2, "superseded", "IDEMPOTENCY_KEY_REUSED", "INVALID_FIELD", "INVALID_FIELD", 3, 4]
    assert reply["outcomes"][0]["answer"] == before
    assert reply["outcomes"][3]["error"]["code"] == 6
    assert reply["outcomes"][4]["error"]["details"][1]["fieldViolations"][0]["field"] == "choice"
    assert answers(found) == {
        "q1": ("choice", "B"),
        "q2": ("choices", {"ids": ["A", "C"]}),
        "q3": ("cleared", True),
    }


async def test_a_batch_sent_again_is_answered_the_same(stack: Stack, exam: str) -> None:
    items = [
        {"questionId": "q1", "choice": "B", "idempotencyKey": uuid.uuid4().hex},
        {"questionId": "q1", "choice": "C", "idempotencyKey": uuid.uuid4().hex},
    ]
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        first = good(await student.batch(session, *items))

        again = good(await student.batch(session, *items))
        good(await student.submit(session), 200, 202)
        after_submit = good(await student.batch(session, *items, {"questionId": "q3", "number": "1"}))

    assert again == first
    assert after_submit["outcomes"][:2] == first["outcomes"]
    assert after_submit["outcomes"][2]["error"]["details"][0]["reason"] == "SESSION_SUBMITTED"


async def test_a_batch_has_1_to_100_items_with_keys(stack: Stack, exam: str) -> None:
    item = {"questionId": "q1", "choice": "A"}
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]

        empty = await student.batch(session)
        too_many = await student.batch(session, *[item] * 101)
        unkeyed = await student.batch(session, item | {"idempotencyKey": ""}, item)
        full = good(await student.batch(session, *[item] * 100))

    for refused, field in ((empty, "items"), (too_many, "items"), (unkeyed, "items[0].idempotencyKey")):
        assert refusal(refused) == (400, "INVALID_FIELD")
        assert wrong_fields(refused) == [field]
    assert [one["answer"]["version"] for one in full["outcomes"]] == list(range(1, 101))


# Handing in


async def test_what_is_handed_in_has_the_hash_that_anybody_can_compute(stack: Stack, exam: str) -> None:
    given: dict[str, tuple[str, Any]] = {
        "q1": ("choice", "B"),
        "q2": ("choices", {"ids": ["C", "A"]}),
        "q3": ("number", "+3.50e0"),
        "q4": ("text", 'An"ka\\ra\n\té\u0001\u007f\u2028 \U0001f514</script>'),
    }
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        for question, (kind, value) in given.items():
            good(await student.save(session, question, **{kind: value}))

        submit = good(await student.submit(session), 200, 202)
        result = await student.outcome(session)

    assert submit["answersSha256"] == result["answersSha256"] == canonical(given)


async def test_the_documented_example_has_the_documented_hash(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        items = [
            {"questionId": "q1", "choice": "B"},
            {"questionId": "q2", "choices": {"ids": ["A", "C"]}},
            {"questionId": "q3", "number": "3.5"},
            {"questionId": "q4", "text": "Ankara"},
        ]
        good(await student.batch(session, *items))

        submit = good(await student.submit(session), 200, 202)

    assert submit["answersSha256"] == "78909b5629485aa8a650e3bd9de01304e8d6959e33ef8fd625f0a54998df01e0"


async def test_a_session_that_was_left_blank_is_scored_as_blanks(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        submit = good(await student.submit(session), 200, 202)

        result = await student.outcome(session)

    assert (result["score"], result["maxScore"]) == (0, 14)
    assert set(outcomes(result).values()) == {"BLANK"}
    assert submit["answersSha256"] == canonical({})


async def test_submits_that_race_make_one_result(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        good(await student.save(session, "q1", choice="B"))

        replies = await asyncio.gather(*(student.submit(session) for _ in range(20)))
        result = await student.outcome(session)
        later = good(await student.submit(session), 200)

    assert {reply.status_code for reply in replies} <= {200, 202}
    assert {(r.json()["submittedAt"], r.json()["answersSha256"]) for r in replies} == {
        (result["submittedAt"], result["answersSha256"])
    }
    assert (later["submittedAt"], later["answersSha256"]) == (result["submittedAt"], result["answersSha256"])
    assert (later["status"], later["score"], later["maxScore"]) == ("SCORED", 2, 14)
    async with postgres(stack) as connection:
        assert await connection.fetchval("SELECT count(*) FROM result WHERE session_id = $1", uuid.UUID(session)) == 1


async def test_a_submit_needs_a_key(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]

        refused = await student.http.post(f"/api/v1/sessions/{session}/submit", json={})
        found = good(await student.read(session))

    assert refusal(refused) == (400, "INVALID_FIELD")
    assert wrong_fields(refused) == ["idempotencyKey"]
    assert found["status"] == "IN_PROGRESS"


async def test_there_is_no_result_before_the_submit(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]

        assert refusal(await student.result(session)) == (400, "SESSION_IN_PROGRESS")


async def test_the_status_of_a_session_only_ever_advances(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        seen = [good(await student.read(session))]
        good(await student.save(session, "q1", choice="B"))
        submit = good(await student.submit(session), 200, 202)

        async def scored() -> bool:
            seen.append(good(await student.read(session)))
            return bool(seen[-1]["status"] == "SCORED")

        await eventually(scored)

    statuses = [one["status"] for one in seen]
    assert statuses == sorted(statuses, key=["IN_PROGRESS", "SUBMITTED", "SCORED"].index)
    assert seen[-1]["remainingMs"] == 0
    assert seen[-1]["submittedAt"] == submit["submittedAt"]
    assert answers(seen[-1]) == {"q1": ("choice", "B")}


# The bell


async def test_the_bell_hands_in_what_was_saved_without_the_student(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=2)
    async with Student(stack) as student:
        started = await student.sit(exam_id)
        session = started["sessionId"]
        good(await student.save(session, "q1", choice="B"))

        async def scored() -> Any:  # PostgreSQL is asked, so that no call of the student's helps
            async with postgres(stack) as connection:
                return await connection.fetchrow("SELECT * FROM result WHERE session_id = $1", uuid.UUID(session))

        row = await eventually(scored)
        result = good(await student.result(session))
        late = good(await student.submit(session), 200, 202)
        found = good(await student.read(session))

    assert row["score"] == result["score"] == 2
    assert result["submittedAt"] == late["submittedAt"] == started["endsAt"] == found["submittedAt"]
    assert late["answersSha256"] == result["answersSha256"] == canonical({"q1": ("choice", "B")})
    assert found["status"] == "SCORED"


async def test_a_submit_after_the_end_is_refused_and_rings_the_bell(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=2)
    key, before_the_end = uuid.uuid4().hex, uuid.uuid4().hex
    async with Student(stack) as student:
        started = await student.sit(exam_id)
        session = started["sessionId"]
        saved = good(await student.save(session, "q1", before_the_end, choice="B"))

        async def refused_save() -> Any:
            reply = await student.save(session, "q1", choice="B")
            return reply if reply.status_code != 200 else None

        late_save = await eventually(refused_save)
        late_submit = await student.submit(session, key)  # within the bell's two seconds of grace
        replay = good(await student.save(session, "q1", before_the_end, choice="B"))
        result = await student.outcome(session)
        again = good(await student.submit(session, key), 200, 202)

    assert refusal(late_save) == (400, "SESSION_ENDED")
    facts = detail(late_save, "ErrorInfo")["metadata"]
    assert facts["endsAt"] == started["endsAt"]
    assert at(facts["serverTime"]) > at(facts["endsAt"])
    assert refusal(late_submit) == (400, "SESSION_ENDED")
    assert detail(late_submit, "ErrorInfo")["metadata"]["submitted"] == "true"
    assert replay == saved
    assert (result["status"], result["score"]) == ("SCORED", 2)
    assert again["submittedAt"] == result["submittedAt"] == started["endsAt"]


# Lists


async def test_a_student_lists_their_own_sessions_newest_first_page_by_page(
    stack: Stack, exam: str, small_exam: dict[str, Any]
) -> None:
    other_exam = f"{exam}-b"
    await stack.import_exam(small_exam, other_exam)
    async with Student(stack) as student, Student(stack) as stranger:
        await stranger.sit(exam)
        made = []
        for sat in (exam, exam, other_exam, exam):
            session = await student.sit(sat)
            good(await student.save(session["sessionId"], "q1", choice="A"))
            good(await student.submit(session["sessionId"]), 200, 202)
            made.append(session["sessionId"])

        every = good(await student.http.get("/api/v1/sessions"))
        pages, token = [], ""
        while True:
            page = good(await student.http.get("/api/v1/sessions", params={"pageSize": 3, "pageToken": token, "examId": exam}))
            pages.append([session["sessionId"] for session in page["sessions"]])
            token = page["nextPageToken"]
            if not token:
                break
        two = good(await student.http.get("/api/v1/sessions", params={"pageSize": 2}))

        assert [session["sessionId"] for session in every["sessions"]] == made[::-1]
        assert pages == [[made[3], made[1], made[0]]]
        assert [session["sessionId"] for session in two["sessions"]] == made[:1:-1]
        for params in (
            {"pageToken": two["nextPageToken"], "examId": exam},
            {"pageToken": two["nextPageToken"][:-2] + "AA"},
            {"pageToken": "nonsense"},
        ):
            refused = await student.http.get("/api/v1/sessions", params=params)
            assert refusal(refused) == (400, "INVALID_FIELD")
            assert wrong_fields(refused) == ["pageToken"]
        rest = good(await student.http.get("/api/v1/sessions", params={"pageSize": 2, "pageToken": two["nextPageToken"]}))
        assert [session["sessionId"] for session in rest["sessions"]] == made[1::-1]
        assert rest["nextPageToken"] == ""

    for session in every["sessions"]:
        assert session["answers"] == []
        assert session["questionOrder"] == []
        assert session["attempt"] in (1, 2, 3)


@pytest.mark.parametrize("role", ["admin", "proctor"])
async def test_staff_list_everybodys_sessions_and_may_name_a_student(stack: Stack, exam: str, role: str) -> None:
    async with Student(stack) as alice, Student(stack) as bob, Student(stack, roles=[role]) as staff:
        first, second = (await alice.sit(exam))["sessionId"], (await bob.sit(exam))["sessionId"]

        everybody = good(await staff.http.get("/api/v1/sessions", params={"examId": exam}))
        alices = good(await staff.http.get("/api/v1/sessions", params={"examId": exam, "studentId": alice.name}))

    assert [session["sessionId"] for session in everybody["sessions"]] == [second, first]
    assert [session["sessionId"] for session in alices["sessions"]] == [first]


async def test_a_student_cannot_list_anothers_sessions(stack: Stack, exam: str) -> None:
    async with Student(stack) as owner, Student(stack, roles=["grader"]) as other:
        await owner.sit(exam)

        theirs = await other.http.get("/api/v1/sessions", params={"studentId": owner.name})
        own = good(await other.http.get("/api/v1/sessions", params={"studentId": other.name, "examId": exam}))

    assert refusal(theirs) == (403, "ROLE_REQUIRED")
    assert own["sessions"] == []


def steady(session: dict[str, Any]) -> dict[str, Any]:
    """Return a session without what moves with the clock."""
    return {name: value for name, value in session.items() if name not in ("serverTime", "remainingMs")}


def outcomes(result: dict[str, Any]) -> dict[str, str]:
    return {item["questionId"]: item["outcome"] for item in result["breakdown"]}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def postgres(stack: Stack) -> Any:
    """A connection of the owner's, for looking."""
    return asyncpg.create_pool(stack.read()["postgres"], min_size=1, max_size=1)


async def close(stack: Stack, exam: str) -> None:
    """Close an exam as an admin."""
    async with stack.channel() as channel:
        admin = bearer(stack.token(roles=["admin"]))
        await ExamAdminServiceStub(channel).CloseExam(admin_pb2.CloseExamRequest(exam_id=exam), metadata=admin)


async def test_two_different_keys_are_one_too_many(stack: Stack, exam: str) -> None:
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]

        refused = await student.http.put(
            f"/api/v1/sessions/{session}/answers",
            json={"questionId": "q1", "choice": "B"},
            headers=[("idempotency-key", "key-number-1"), ("idempotency-key", "key-number-2")],
        )
        found = good(await student.read(session))

    assert refusal(refused) == (400, "INVALID_FIELD")
    assert found["answers"] == []


@pytest.mark.parametrize("alias", ["\u202egnp", "\u200b\u200b", "\x85", "   ", "x" * 33])
async def test_an_alias_can_be_seen_and_turns_no_other_text_around(stack: Stack, exam: str, alias: str) -> None:
    async with Student(stack) as student:
        refused = await student.http.post(f"/api/v1/exams/{exam}/sessions", json={"alias": alias})

    assert refusal(refused) == (400, "INVALID_FIELD")


async def test_a_query_that_is_not_text_is_a_bad_request(stack: Stack) -> None:
    async with Student(stack) as student:
        refused = await student.http.get("/api/v1/sessions?pageToken=%ff")

    assert refused.status_code == 400

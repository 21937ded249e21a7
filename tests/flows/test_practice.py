"""Practising: banks by topic, page by page, to those whom they are open to; right or wrong, and why."""

import copy
import json
from typing import Any

import httpx
import pytest
from finalbell.v1 import content_pb2

from tests.faults.harm import fetch
from tests.flows.sitting import Student, good, refusal
from tests.flows.test_reasons import import_refused_bank
from tests.flows.transports import TRANSPORTS, transport
from tests.stack import Stack, eventually, fresh


@pytest.fixture
async def bank(stack: Stack, small_bank: dict[str, Any]) -> str:
    """A bank that is open to everybody, whose topics are its own."""
    return await imported(stack, small_bank)


async def imported(stack: Stack, small_bank: dict[str, Any]) -> str:
    name, file = fresh("b"), copy.deepcopy(small_bank)
    for question in file["questions"]:
        question["topic"] += f" {name}"
    await stack.import_bank(file, name)
    async with Student(stack) as student:

        async def known() -> bool:
            return (await student.http.get("/api/v1/questions", params={"bankId": name})).status_code != 404

        await eventually(known)
    return name


async def opened_by(stack: Stack, product: str, bank: str) -> None:
    """Sell a bank: whoever owns the product may read it."""
    await fetch(
        stack, "INSERT INTO product (id, title, amount, currency) VALUES ($1, 'A bank', 100, 'USD') ON CONFLICT DO NOTHING", product
    )
    await fetch(stack, "INSERT INTO product_opens VALUES ($1, 'BANK', $2)", product, bank)
    async with Student(stack) as student:

        async def shut() -> bool:
            return (await student.http.get("/api/v1/questions", params={"bankId": bank})).status_code == 403

        await eventually(shut)


async def grant(stack: Stack, student: str, product: str) -> None:
    await fetch(stack, "INSERT INTO entitlement (student_id, product_id) VALUES ($1, $2)", student, product)


async def page(student: Student, **query: Any) -> dict[str, Any]:
    return good(await student.http.get("/api/v1/questions", params=query))


def ids(page: dict[str, Any]) -> list[str]:
    return [one["question"]["questionId"] for one in page["questions"]]


async def test_questions_are_read_page_by_page_without_their_keys(stack: Stack, bank: str) -> None:
    async with Student(stack) as student:
        found, token, pages, text = [], "", 0, ""
        while True:
            reply = await student.http.get("/api/v1/questions", params={"bankId": bank, "pageSize": 2, "pageToken": token})
            body = good(reply)
            found += ids(body)
            token, pages, text = body["nextPageToken"], pages + 1, text + reply.text
            if not token:
                break

    assert (found, pages) == (["p1", "p2", "p3", "p4", "p5"], 3)
    for key in ("7 · 7", "Lisbon", "2.25", "leaves one", "not streets"):
        assert key not in text


async def test_topics_are_listed_with_their_counts_and_lead_to_their_questions(stack: Stack, bank: str) -> None:
    async with Student(stack) as student:
        listed = good(await student.http.get("/api/v1/banks", params={"pageSize": 200}))
        while bank not in {one["bankId"] for one in listed["banks"]}:
            listed = good(await student.http.get("/api/v1/banks", params={"pageSize": 200, "pageToken": listed["nextPageToken"]}))
        found = next(one for one in listed["banks"] if one["bankId"] == bank)
        by_topic = {one["topic"]: await page(student, topic=one["topic"]) for one in found["topics"]}

    assert (found["questionCount"], found["opened"], found["productIds"]) == (5, True, [])
    assert {one["topic"]: one["questionCount"] for one in found["topics"]} == {f"numbers {bank}": 3, f"places {bank}": 2}
    assert {topic: ids(one) for topic, one in by_topic.items()} == {
        f"numbers {bank}": ["p1", "p2", "p3"],
        f"places {bank}": ["p4", "p5"],
    }


async def test_a_page_goes_on_in_the_next_bank(stack: Stack, small_bank: dict[str, Any]) -> None:
    topic, file = fresh("topic "), copy.deepcopy(small_bank)
    for question in file["questions"]:
        question["topic"] = topic
    names = sorted(fresh("b") for _ in range(3))
    for name in names:
        await stack.import_bank(file, name)
    async with Student(stack) as student:

        async def all_there() -> bool:
            return len((await page(student, topic=topic, pageSize=100))["questions"]) == 15

        await eventually(all_there)
        found, token = [], ""
        while True:
            body = await page(student, topic=topic, pageSize=4, pageToken=token)
            found += [(one["bankId"], one["question"]["questionId"]) for one in body["questions"]]
            token = body["nextPageToken"]
            if not token:
                break

    assert found == [(name, f"p{number}") for name in names for number in range(1, 6)]


@pytest.mark.parametrize(
    ("question", "right", "wrong", "correct"),
    [
        ("p1", {"choice": "B"}, {"choice": "A"}, "B"),
        ("p2", {"choices": {"ids": ["C", "A"]}}, {"choices": {"ids": ["A"]}}, "A,C"),
        ("p3", {"number": "2.2500"}, {"number": "2.27"}, "2.25"),
        ("p4", {"text": " LISBOA "}, {"text": "Porto"}, "Lisbon"),
    ],
)
async def test_an_answer_is_judged_as_an_exam_would(
    stack: Stack, bank: str, question: str, right: dict[str, Any], wrong: dict[str, Any], correct: str
) -> None:
    async with Student(stack) as student:
        path = f"/api/v1/banks/{bank}/questions/{question}:check"
        yes, no = good(await student.http.post(path, json=right)), good(await student.http.post(path, json=wrong))
        solution = good(await student.http.get(f"/api/v1/banks/{bank}/questions/{question}/solution"))

    assert (yes["right"], no["right"]) == (True, False)
    assert yes["solution"] == no["solution"] == solution
    assert (solution["correct"], bool(solution["explanation"])) == (correct, question != "p4")


async def test_an_essay_shows_how_it_could_be_answered_and_is_judged_by_nobody(stack: Stack, bank: str) -> None:
    async with Student(stack) as student:
        checked = await student.http.post(f"/api/v1/banks/{bank}/questions/p5:check", json={"text": "It is."})
        solution = good(await student.http.get(f"/api/v1/banks/{bank}/questions/p5/solution"))

    assert refusal(checked) == (400, "INVALID_FIELD")
    assert (solution["correct"], "not streets" in solution["explanation"]) == ("", True)


async def test_a_bank_that_is_sold_opens_with_the_purchase_and_locks_with_the_refund(
    stack: Stack, small_bank: dict[str, Any]
) -> None:
    bank, product = await imported(stack, small_bank), fresh("p")
    await opened_by(stack, product, bank)
    async with Student(stack) as buyer, Student(stack) as other:
        paths = (
            ("GET", f"/api/v1/questions?bankId={bank}", None),
            ("GET", f"/api/v1/banks/{bank}/questions/p1/solution", None),
            ("POST", f"/api/v1/banks/{bank}/questions/p1:check", {"choice": "B"}),
        )

        async def all_of(student: Student) -> list[httpx.Response]:
            return [await student.http.request(verb, path, json=body) for verb, path, body in paths]

        async def answered(status: int) -> bool:
            return {reply.status_code for reply in await all_of(buyer)} == {status}

        before = await all_of(buyer)
        await grant(stack, buyer.name, product)
        await eventually(lambda: answered(200))
        others = await all_of(other)
        by_topic = await page(buyer, topic=f"numbers {bank}"), await page(other, topic=f"numbers {bank}")
        await fetch(stack, "UPDATE entitlement SET revoked_at = now() WHERE student_id = $1", buyer.name)
        await eventually(lambda: answered(403))

    assert {refusal(reply) for reply in (*before, *others)} == {(403, "ENTITLEMENT_REQUIRED")}
    assert before[0].json()["details"][0]["metadata"]["productId"] == product
    assert [ids(found) for found in by_topic] == [["p1", "p2", "p3"], []]


async def test_a_question_that_an_exam_takes_goes_out_of_sight_until_it_opens(
    stack: Stack, bank: str, small_bank: dict[str, Any], small_exam: dict[str, Any], exam_id: str
) -> None:
    exam, other = copy.deepcopy(small_exam), copy.deepcopy(small_bank)
    stem = f"Which of these divides by seven? ({bank})"
    question = {**other["questions"][0], "stem": stem}
    other["questions"] = [question, *other["questions"][1:]]
    await stack.import_bank(other, bank)
    exam["questions"].append({**question, "id": "extra"})
    await stack.import_exam(exam, exam_id, opensAt="2199-01-01T00:00:00Z")
    async with Student(stack) as student:

        async def hidden() -> bool:
            return ids(await page(student, bankId=bank)) == ["p2", "p3", "p4", "p5"]

        await eventually(hidden)
        solution = await student.http.get(f"/api/v1/banks/{bank}/questions/p1/solution")
        answer = await student.http.post(f"/api/v1/banks/{bank}/questions/p1:check", json={"choice": "B"})
        await stack.import_exam(exam, exam_id)

        async def shown() -> bool:
            return ids(await page(student, bankId=bank)) == ["p1", "p2", "p3", "p4", "p5"]

        await eventually(shown)

    assert refusal(solution) == refusal(answer) == (404, "QUESTION_NOT_FOUND")


async def test_the_key_of_a_question_that_an_exam_asks_is_withheld_until_that_exam_shows_it(
    stack: Stack, bank: str, small_bank: dict[str, Any], small_exam: dict[str, Any], exam_id: str
) -> None:
    exam, other = copy.deepcopy(small_exam), copy.deepcopy(small_bank)
    question = {**other["questions"][0], "stem": f"Which of these divides by seven? ({bank})"}
    other["questions"] = [question, *other["questions"][1:]]
    await stack.import_bank(other, bank)
    exam["questions"].append({**question, "id": "extra"})
    await stack.import_exam(exam, exam_id, release__review="AFTER_CLOSE")
    async with Student(stack) as student, Student(stack, roles=["admin"]) as admin:
        solution, check = f"/api/v1/banks/{bank}/questions/p1/solution", f"/api/v1/banks/{bank}/questions/p1:check"

        async def withheld() -> bool:
            return (await student.http.get(solution)).status_code == 400

        await eventually(withheld)
        replies = [await student.http.get(solution), await student.http.post(check, json={"choice": "B"})]
        text = ids(await page(student, bankId=bank))
        good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:close", json={}))

        async def shown() -> bool:
            return (await student.http.get(solution)).status_code == 200

        await eventually(shown)

    assert {refusal(reply) for reply in replies} == {(400, "REVIEW_WITHHELD")}
    assert "7 · 7" not in "".join(reply.text for reply in replies)
    assert text == ["p1", "p2", "p3", "p4", "p5"]


async def test_a_bank_with_a_question_of_tomorrows_exam_is_refused_by_name(
    stack: Stack, small_bank: dict[str, Any], small_exam: dict[str, Any], exam_id: str
) -> None:
    bank, exam, name = copy.deepcopy(small_bank), copy.deepcopy(small_exam), fresh("b")
    for question in bank["questions"]:
        question["stem"] += f" ({name})"
    exam["questions"].append({**bank["questions"][2], "id": "extra"})
    await stack.import_exam(exam, exam_id, opensAt="2199-01-01T00:00:00Z")

    reply = await import_refused_bank(stack, name, json.dumps(bank).encode())

    assert (reply.code, reply.reason, reply.fields) == ("INVALID_ARGUMENT", "INVALID_BANK", ["questions[p3]"])
    async with Student(stack) as student:
        assert refusal(await student.http.get("/api/v1/questions", params={"bankId": name})) == (404, "BANK_NOT_FOUND")


async def test_a_file_with_errors_names_all_of_them(stack: Stack, small_bank: dict[str, Any]) -> None:
    broken, name = copy.deepcopy(small_bank), fresh("b")
    broken["questions"][0]["answer"] = {"choice": "Z"}
    broken["questions"][2]["points"] = -1
    broken["bank"]["titel"] = "misspelt"

    reply = await import_refused_bank(stack, name, json.dumps(broken).encode())

    assert (reply.code, reply.reason) == ("INVALID_ARGUMENT", "INVALID_BANK")
    assert sorted(reply.fields) == ["bank.titel", "questions[p1].answer.choice", "questions[p3].points"]


@pytest.mark.parametrize("way", TRANSPORTS)
async def test_what_is_unchanged_is_not_sent_again(stack: Stack, bank: str, way: str) -> None:
    calls = {
        "ListBanks": content_pb2.ListBanksRequest(page_size=200),
        "ListQuestions": content_pb2.ListQuestionsRequest(bank_id=bank),
        "GetSolution": content_pb2.GetSolutionRequest(bank_id=bank, question_id="p1"),
    }
    async with transport(way, stack, stack.token()) as way_in:
        for method, request in calls.items():
            first = await way_in.call(method, request)
            again = await way_in.call(method, request, headers={"if-none-match": first.headers["etag"]})

            assert first.ok.ByteSize() > 0
            assert again.ok.ByteSize() == 0
            assert again.http == (304 if way == "rest" else 0)
            assert (first.headers["cache-control"], first.headers["vary"]) == (
                "private, max-age=0, stale-if-error=86400",
                "authorization",
            )

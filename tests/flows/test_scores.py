"""Every score and every rank of a full exam, worked out a second time from the specification alone (RELIABILITY I12, I16).

`worth` below is written from DESIGN section 4; it shares no code with the product, and whoever changes one of the two finds
out here.
"""

import asyncio
import json
import random
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import asyncpg
import grpc.aio
import pytest
from finalbell.v1 import admin_pb2, leaderboard_pb2, scoring_pb2, session_pb2
from finalbell.v1.admin_pb2_grpc import ExamAdminServiceStub
from finalbell.v1.leaderboard_pb2_grpc import LeaderboardServiceStub
from finalbell.v1.scoring_pb2_grpc import ScoringServiceStub
from finalbell.v1.session_pb2_grpc import SessionServiceStub
from redis.asyncio import Redis

from tests.flows.sitting import canonical
from tests.stack import Stack, bearer, eventually

COHORTS = ("red", "green", "blue")
AT_ONCE = 24
SEED = 20260611

MIXED: dict[str, Any] = {
    "exam": {
        "id": "mixed",
        "title": "All objective types",
        "durationSeconds": 3600,
        "maxAttempts": 2,
        "marking": {"correct": 3, "wrong": -2, "blank": -1, "multiple": "PARTIAL"},
        "release": {"score": "IMMEDIATELY", "review": "IMMEDIATELY"},
    },
    "questions": [
        {
            "id": "single",
            "type": "single_choice",
            "stem": "One",
            "topic": "choice",
            "points": 2,
            "options": [{"id": name, "text": name} for name in "ABCDE"],
            "answer": {"choice": "D"},
        },
        {
            "id": "worthless",
            "type": "single_choice",
            "stem": "Nothing to earn",
            "points": 0,
            "options": [{"id": name, "text": name} for name in "AB"],
            "answer": {"choice": "A"},
        },
        {
            "id": "two-of-five",
            "type": "multiple_choice",
            "stem": "Two",
            "topic": "choice",
            "points": 5,
            "options": [{"id": name, "text": name} for name in "ABCDE"],
            "answer": {"choices": ["B", "E"]},
        },
        {
            "id": "three-of-four",
            "type": "multiple_choice",
            "stem": "Three",
            "topic": "choice",
            "points": 1,
            "options": [{"id": name, "text": name} for name in "ABCD"],
            "answer": {"choices": ["A", "B", "D"]},
        },
        {
            "id": "all-of-seven",
            "type": "multiple_choice",
            "stem": "Seven",
            "topic": "choice",
            "points": 4,
            "options": [{"id": f"o{n}", "text": str(n)} for n in range(7)],
            "answer": {"choices": [f"o{n}" for n in range(7)]},
        },
        {"id": "exact", "type": "numeric", "stem": "A tenth", "points": 1, "answer": {"number": "0.1"}},
        {
            "id": "near",
            "type": "numeric",
            "stem": "Half of seven",
            "points": 2,
            "answer": {"number": "3.5", "tolerance": "0.01"},
        },
        {
            "id": "relative",
            "type": "numeric",
            "stem": "Below zero",
            "points": 3,
            "answer": {"number": "-200", "tolerance": "0.05", "relative": True},
        },
        {
            "id": "huge",
            "type": "numeric",
            "stem": "Avogadro",
            "points": 1,
            "answer": {"number": "6.02214076e23", "tolerance": "1e15"},
        },
        {
            "id": "city",
            "type": "short_text",
            "stem": "A capital",
            "points": 2,
            "answer": {"accept": ["Ankara", "The City of Ankara"]},
        },
        {
            "id": "formula",
            "type": "short_text",
            "stem": "Water",
            "points": 1,
            "answer": {"accept": ["H2O"], "caseSensitive": True},
        },
        {"id": "street", "type": "short_text", "stem": "A street", "points": 1, "answer": {"accept": ["Straße"]}},
    ],
}

TRIES: Mapping[str, Sequence[str]] = {
    "exact": ("0.1", "0.10", "1e-1", "+.1", "0.1000000000000000055", "0.09999999999999999999", "100e-3", "1"),
    "near": ("3.5", "3.51", "3.49", "3.510000000000000001", "3.489999999999999999", "35e-1", "7", "-3.5"),
    "relative": ("-200", "-190", "-210", "-189.999", "-210.001", "-2e2", "200", "0"),
    "huge": ("6.02214076e23", "602214076000000000000000", "6.02214077e23", "6.02214078e23", "6.02214075e23", "6.022e23"),
    "city": ("Ankara", "ANKARA", "  ankara ", "the  city\tof\nANKARA", "ＡＮＫＡＲＡ", "An kara", "Ankara.", "istanbul"),
    "formula": ("H2O", "h2o", " H2O ", "H₂O", "Ｈ２Ｏ", "H2 O"),
    "street": ("Straße", "STRASSE", "strasse", "STRAẞE", "Strase"),
}
"""Numbers on, inside and outside their tolerance; texts that are the same, and that only look like it."""


@dataclass(slots=True)
class Sitting:
    """What one student did in one attempt, as the client remembers it."""

    student: str
    cohorts: Sequence[str]
    session: str = ""
    given: dict[str, tuple[str, Any]] = field(default_factory=dict)
    sha256: str = ""


# The second implementation: one question's points and outcome, from the exam file and the answer alone


def worth(question: Mapping[str, Any], marking: Mapping[str, Any], given: tuple[str, Any] | None) -> tuple[int, str]:
    """Points and outcome of one answer."""
    points, key = question.get("points", 1), question["answer"]
    kind, value = given or ("cleared", True)
    if kind == "cleared" or value in ("", []):
        return points * marking["blank"], "BLANK"
    match question["type"]:
        case "single_choice":
            right = value == key["choice"]
        case "multiple_choice":
            wanted, picked = set(key["choices"]), set(value)
            if marking["multiple"] == "PARTIAL" and picked != wanted:
                balance = max(0, len(picked & wanted) - len(picked - wanted))
                earned = balance * points * marking["correct"] // len(wanted)
                return earned, "PARTIAL" if earned > 0 else "WRONG"
            right = picked == wanted
        case "numeric":
            wanted_number, tolerance = exact(key["number"]), exact(key.get("tolerance", "0"))
            if key.get("relative", False):
                tolerance *= abs(wanted_number)
            right = abs(exact(value) - wanted_number) <= tolerance
        case "short_text":
            folded = not key.get("caseSensitive", False)
            right = normal(value, folded=folded) in {normal(accepted, folded=folded) for accepted in key["accept"]}
        case other:
            raise AssertionError(other)
    return (points * marking["correct"], "CORRECT") if right else (points * marking["wrong"], "WRONG")


def exact(number: str) -> Fraction:
    return Fraction(Decimal(number))


def normal(text: str, *, folded: bool) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    return plain.casefold() if folded else plain


# The tests


async def test_every_score_and_rank_of_300_students_is_what_the_specification_says(stack: Stack, banks: Path, exam_id: str) -> None:
    exam = json.loads((banks / "gaokao-physics.json").read_text())
    exam["exam"] |= {
        "marking": {"correct": 2, "wrong": -1, "blank": 0, "multiple": "PARTIAL"},
        "release": {"review": "IMMEDIATELY"},
    }
    await stack.import_exam(exam, exam_id)
    chance = random.Random(SEED)
    plans = [Sitting(f"{exam_id}-{n}", chance.sample(COHORTS, chance.randint(0, 2))) for n in range(300)]
    for plan in plans:
        plan.given = random_answers(exam, chance, chance.randint(10, 30))

    await sit_all(stack, exam_id, plans)

    await check_scores(stack, exam, exam_id, plans)
    await check_ranks(stack, exam_id, plans)
    await check_boards(stack, exam_id, plans)
    await check_reviews(stack, exam, plans)


@pytest.mark.parametrize("tie_break", ["NONE", "DURATION", "SUBMITTED_AT"])
async def test_every_type_of_question_is_graded_as_the_specification_says(stack: Stack, exam_id: str, tie_break: str) -> None:
    await stack.import_exam(MIXED, exam_id, tieBreak=tie_break)
    chance = random.Random(SEED)
    first = [Sitting(f"{exam_id}-{n}", chance.sample(COHORTS, 1)) for n in range(40)]
    second = [Sitting(plan.student, plan.cohorts) for plan in first[::4]]
    for plan in first + second:
        plan.given = random_answers(MIXED, chance, chance.randint(4, 12))
    first[1].given = first[2].given = {}

    await sit_all(stack, exam_id, first)
    await sit_all(stack, exam_id, second)

    await check_scores(stack, MIXED, exam_id, first + second)
    await check_ranks(stack, exam_id, first + second)
    await check_boards(stack, exam_id, first + second)
    await check_reviews(stack, MIXED, first + second)


@pytest.mark.parametrize("multiple", ["ALL_OR_NOTHING", "PARTIAL"])
async def test_every_combination_of_picks_is_worth_what_the_marking_says(stack: Stack, exam_id: str, multiple: str) -> None:
    names = "ABCDE"
    question = next(question for question in MIXED["questions"] if question["id"] == "two-of-five")
    marking = MIXED["exam"]["marking"] | {"multiple": multiple}
    copies = [question | {"id": f"m{mask}"} for mask in range(32)]
    exam = {"exam": MIXED["exam"] | {"marking": marking}, "questions": copies}
    await stack.import_exam(exam, exam_id)
    plan = Sitting(f"{exam_id}-1", ())
    plan.given = {f"m{m}": ("choices", [names[bit] for bit in range(5) if m >> bit & 1]) for m in range(1, 32)}

    await sit_all(stack, exam_id, [plan])

    await check_scores(stack, exam, exam_id, [plan])
    await check_reviews(stack, exam, [plan])


async def test_picks_that_earned_nothing_are_not_called_partial(stack: Stack, exam_id: str) -> None:
    question = {"id": "q1", "type": "multiple_choice", "stem": "Three", "points": 1, "answer": {"choices": ["A", "B", "D"]}}
    question["options"] = [{"id": name, "text": name} for name in "ABCD"]
    marking = {"correct": 1, "wrong": 0, "blank": 0, "multiple": "PARTIAL"}
    exam = {"exam": MIXED["exam"] | {"marking": marking}, "questions": [question]}
    await stack.import_exam(exam, exam_id)
    plan = Sitting(f"{exam_id}-1", (), given={"q1": ("choices", ["A", "B"])})  # 2 of 3 rounds down to 0 points

    await sit_all(stack, exam_id, [plan])

    await check_scores(stack, exam, exam_id, [plan])
    await check_reviews(stack, exam, [plan])


async def test_a_deleted_board_never_shows_a_wrong_rank_and_comes_back(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(MIXED, exam_id)
    chance = random.Random(SEED)
    plans = [Sitting(f"{exam_id}-{n}", ["red"]) for n in range(30)]
    for plan in plans:
        plan.given = random_answers(MIXED, chance, chance.randint(4, 12))
    await sit_all(stack, exam_id, plans)
    await check_boards(stack, exam_id, plans)
    right = await board_of(stack, exam_id)

    async with Redis.from_url(stack.read()["redis"]) as redis:
        everything = [key async for key in redis.scan_iter(f"lb*{{{exam_id}}}*")]
        for deleted in ([f"lb:{{{exam_id}}}"], [f"lb:{{{exam_id}}}:c:red"], everything):
            watching = asyncio.create_task(watch(stack, exam_id, right, plans))
            assert await redis.delete(*deleted) == len(deleted)
            seen = await watching

            assert seen[-1] == "right"
            assert set(seen) <= {"right", "rebuilding"}
            await check_boards(stack, exam_id, plans)


async def test_a_score_that_arrives_on_a_deleted_board_stands_among_all_others(stack: Stack, exam_id: str) -> None:
    await stack.import_exam(MIXED, exam_id)
    chance = random.Random(SEED)
    plans = [Sitting(f"{exam_id}-{n}", ["red"]) for n in range(10)]
    for plan in plans:
        plan.given = random_answers(MIXED, chance, 8)
    await sit_all(stack, exam_id, plans[:9])
    async with Redis.from_url(stack.read()["redis"]) as redis:
        await redis.delete(f"lb:{{{exam_id}}}")

    await sit_all(stack, exam_id, plans[9:])

    await check_ranks(stack, exam_id, plans)
    await check_boards(stack, exam_id, plans)


# Sitting


def random_answers(exam: Mapping[str, Any], chance: random.Random, count: int) -> dict[str, tuple[str, Any]]:
    """Answer some questions, now and then right, sometimes with nothing."""
    given: dict[str, tuple[str, Any]] = {}
    questions = exam["questions"]
    for question in chance.sample(questions, min(count, len(questions))):
        options = [option["id"] for option in question.get("options", [])]
        match question["type"]:
            case "single_choice":
                answer: tuple[str, Any] = ("choice", chance.choice([*options, question["answer"]["choice"]]))
            case "multiple_choice":
                some = chance.sample(options, chance.randint(1, len(options)))
                answer = ("choices", chance.choice([some, question["answer"]["choices"]]))
            case "numeric":
                answer = ("number", chance.choice(TRIES[question["id"]]))
            case "short_text":
                answer = ("text", chance.choice([*TRIES[question["id"]], ""]))
            case other:
                raise AssertionError(other)
        given[question["id"]] = ("cleared", True) if chance.random() < 0.1 else answer
    return given


async def sit_all(stack: Stack, exam: str, plans: Sequence[Sitting]) -> None:
    """Have everybody sit the exam, many at once, and wait until all are scored."""
    places = asyncio.Semaphore(AT_ONCE)
    async with stack.channel() as channel:

        async def one(plan: Sitting) -> None:
            async with places:
                await sit(stack, channel, exam, plan)

        await asyncio.gather(*(one(plan) for plan in plans))
    sessions = [uuid.UUID(plan.session) for plan in plans]
    async with asyncpg.create_pool(stack.read()["postgres"], min_size=1, max_size=1) as postgres:

        async def all_scored() -> bool:
            count = await postgres.fetchval("SELECT count(*) FROM result WHERE session_id = ANY ($1)", sessions)
            return bool(count == len(sessions))

        await eventually(all_scored, 60)
    async with Redis.from_url(stack.read()["redis"], decode_responses=True) as redis:

        async def all_told() -> bool:  # the boards have heard of it when the session says so: they are told first
            keys = [f"s:{{{session.int % 64:02d}}}:{session}" for session in sessions]
            return all([await redis.hget(key, "s") == "D" for key in keys])

        await eventually(all_told)


async def sit(stack: Stack, channel: grpc.aio.Channel, exam: str, plan: Sitting) -> None:
    token, service = stack.token(plan.student, cohorts=plan.cohorts), SessionServiceStub(channel)
    start = session_pb2.StartSessionRequest(exam_id=exam, alias=f"A {plan.student[-4:]}")
    plan.session = (await service.StartSession(start, metadata=bearer(token))).session.session_id
    items = [item(question, kind, value) for question, (kind, value) in plan.given.items()]
    for at in range(0, len(items), 100):
        batch = session_pb2.BatchSaveAnswersRequest(session_id=plan.session, items=items[at : at + 100])
        outcomes = (await service.BatchSaveAnswers(batch, metadata=bearer(token))).outcomes
        assert all(outcome.answer.saved for outcome in outcomes), outcomes
    submit = session_pb2.SubmitSessionRequest(session_id=plan.session)
    plan.sha256 = (await service.SubmitSession(submit, metadata=bearer(token, uuid.uuid4().hex))).answers_sha256


def item(question: str, kind: str, value: Any) -> session_pb2.SaveItem:
    answer = {"choices": session_pb2.Choices(ids=value)} if kind == "choices" else {kind: value}
    return session_pb2.SaveItem(question_id=question, idempotency_key=uuid.uuid4().hex, **answer)


# Checking


async def check_scores(stack: Stack, exam: Mapping[str, Any], exam_id: str, plans: Sequence[Sitting]) -> None:
    """Compare every row of `result` with the second implementation."""
    marking, questions = exam["exam"]["marking"], exam["questions"]
    most = sum(question.get("points", 1) for question in questions) * marking["correct"]
    async with asyncpg.create_pool(stack.read()["postgres"], min_size=1, max_size=1) as postgres:
        rows = {str(row["session_id"]): row for row in await postgres.fetch("SELECT * FROM result WHERE exam_id = $1", exam_id)}
    assert rows.keys() == {plan.session for plan in plans}
    for plan in plans:
        wanted = [worth(q, marking, plan.given.get(q["id"]))[0] for q in questions]
        row = rows[plan.session]
        assert (row["score"], row["max_score"], row["status"]) == (sum(wanted), most, "SCORED"), plan
        assert list(row["points"]) == wanted, plan
        assert row["answers_sha256"].hex() == plan.sha256 == hash_of(plan), plan


async def check_reviews(stack: Stack, exam: Mapping[str, Any], plans: Sequence[Sitting]) -> None:
    """Compare what every student is shown, question by question, with the second implementation."""
    marking, questions = exam["exam"]["marking"], exam["questions"]
    async with stack.channel() as channel:
        service = ScoringServiceStub(channel)
        for plan in plans:
            wanted = {q["id"]: worth(q, marking, plan.given.get(q["id"])) for q in questions}
            request = scoring_pb2.GetResultRequest(session_id=plan.session)
            result = (await service.GetResult(request, metadata=bearer(stack.token(plan.student)))).result

            assert result.score == sum(points for points, _ in wanted.values())
            outcome = scoring_pb2.BreakdownItem.Outcome.Name
            assert {i.question_id: (i.points, outcome(i.outcome)) for i in result.breakdown} == wanted, plan


def hash_of(plan: Sitting) -> str:
    return canonical({q: (kind, {"ids": value} if kind == "choices" else value) for q, (kind, value) in plan.given.items()})


async def check_ranks(stack: Stack, exam_id: str, plans: Sequence[Sitting]) -> None:
    """Compare every student's rank with a competition rank that SQL makes of `result` alone."""
    ranks = {student: rank for student, _, rank in await sql_order(stack, exam_id, None)}
    async with stack.channel() as channel:
        service = ScoringServiceStub(channel)
        for plan in plans:
            request = scoring_pb2.GetResultRequest(session_id=plan.session)
            result = (await service.GetResult(request, metadata=bearer(stack.token(plan.student)))).result
            assert result.rank == ranks[plan.student], plan.student


async def check_boards(stack: Stack, exam_id: str, plans: Sequence[Sitting]) -> None:
    """Compare the exam's board and each cohort's with SQL, row by row, and with what the operator's check says."""
    admin = bearer(stack.token(roles=["admin"]))
    async with stack.channel() as channel:
        service = LeaderboardServiceStub(channel)
        for cohort in (None, *sorted({cohort for plan in plans for cohort in plan.cohorts})):
            request = leaderboard_pb2.GetLeaderboardRequest(exam_id=exam_id, top=1000, cohort=cohort or "")

            async def whole(request: leaderboard_pb2.GetLeaderboardRequest = request) -> Any:
                board = await service.GetLeaderboard(request, metadata=admin)
                return None if board.rebuilding else board

            board = await eventually(whole)
            wanted = await sql_order(stack, exam_id, cohort)
            assert [(entry.student_id, entry.score, entry.rank) for entry in board.entries] == wanted
            assert board.total == len(wanted)
        for plan in plans[::7]:
            me = bearer(stack.token(plan.student, cohorts=plan.cohorts))
            request = leaderboard_pb2.GetLeaderboardRequest(exam_id=exam_id, top=3, around="me")
            own = await service.GetLeaderboard(request, metadata=me)
            everybody = await sql_order(stack, exam_id, None)
            at = next(i for i, (student, _, _) in enumerate(everybody) if student == plan.student)
            assert (own.me.score, own.me.rank, own.me.me) == (*everybody[at][1:], True)
            window = everybody[max(0, at - 10) : at + 11]
            assert [(entry.score, entry.rank) for entry in own.around] == [(score, rank) for _, score, rank in window]
            assert [entry.me for entry in own.around].index(True) == min(at, 10)
        report = await ExamAdminServiceStub(channel).VerifyLeaderboard(
            admin_pb2.VerifyLeaderboardRequest(exam_id=exam_id), metadata=admin
        )
    assert (report.differences, list(report.examples), report.complete) == (0, [], True)
    assert report.students == len({plan.student for plan in plans})


async def sql_order(stack: Stack, exam_id: str, cohort: str | None) -> list[tuple[str, int, int]]:
    """Return (student, score, competition rank) in board order: each student's best attempt, ties by id downwards."""
    tie_breaks = {
        "NONE": "0",
        "DURATION": "extract(epoch FROM s.submitted_at - s.started_at)",
        "SUBMITTED_AT": "extract(epoch FROM s.submitted_at)",
    }
    async with asyncpg.create_pool(stack.read()["postgres"], min_size=1, max_size=1) as postgres:
        policy = await postgres.fetchval("SELECT tie_break FROM exam WHERE id = $1", exam_id)
        rows = await postgres.fetch(
            f"""
            WITH best AS (
              SELECT DISTINCT ON (r.student_id) r.student_id, r.score, {tie_breaks[policy]} AS late
              FROM result r JOIN exam_session s ON s.id = r.session_id JOIN exam e ON e.id = r.exam_id
              WHERE r.exam_id = $1 AND r.status = 'SCORED'
              ORDER BY r.student_id, r.score DESC, late
            )
            SELECT student_id, score, rank() OVER (ORDER BY score DESC, late) AS rank FROM best
            WHERE $2::text IS NULL OR student_id IN (SELECT student_id FROM exam_session WHERE exam_id = $1 AND $2 = ANY (cohorts))
            ORDER BY rank, student_id COLLATE "C" DESC
            """,
            exam_id,
            cohort,
        )
    return [(row["student_id"], row["score"], row["rank"]) for row in rows]


async def board_of(stack: Stack, exam_id: str) -> list[tuple[str, int, int]]:
    async with stack.channel() as channel:
        request = leaderboard_pb2.GetLeaderboardRequest(exam_id=exam_id, top=1000)
        admin = bearer(stack.token(roles=["admin"]))
        board = await LeaderboardServiceStub(channel).GetLeaderboard(request, metadata=admin)
    return [(entry.student_id, entry.score, entry.rank) for entry in board.entries]


async def watch(stack: Stack, exam_id: str, right: list[tuple[str, int, int]], plans: Sequence[Sitting]) -> list[str]:
    """Look at boards and at students' own ranks again and again, until all of it has been right for a while."""
    seen: list[str] = []
    ranks = {student: rank for student, _, rank in right}
    request = leaderboard_pb2.GetLeaderboardRequest(exam_id=exam_id, top=1000)
    admin = bearer(stack.token(roles=["admin"]))
    async with stack.channel() as channel:
        boards, results = LeaderboardServiceStub(channel), ScoringServiceStub(channel)

        async def settled() -> bool:
            for cohort in ("", "red"):
                request.cohort = cohort
                board = await boards.GetLeaderboard(request, metadata=admin)
                entries = [(entry.student_id, entry.score, entry.rank) for entry in board.entries]
                if board.rebuilding:
                    assert (entries, board.HasField("me")) == ([], False)
                seen.append("rebuilding" if board.rebuilding else "right" if entries == right else f"wrong: {entries}")
            plan = plans[len(seen) // 2 % len(plans)]
            own = scoring_pb2.GetResultRequest(session_id=plan.session)
            result = (await results.GetResult(own, metadata=bearer(stack.token(plan.student)))).result
            if result.HasField("rank"):
                seen.append("right" if result.rank == ranks[plan.student] else f"wrong: {result.rank} for {plan.student}")
            else:
                seen.append("rebuilding")
            return seen[-30:] == ["right"] * 30

        await eventually(settled)
    return seen

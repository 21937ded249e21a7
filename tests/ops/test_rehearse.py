"""`finalbell rehearse` against a running stack: virtual students, an audit, a verdict, and nothing left behind."""

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from click.testing import Result
from redis import Redis
from typer.testing import CliRunner

from ops.main import app
from stores import keys
from tests.flows.sitting import Student, good, refusal
from tests.ops.local import ABSENT
from tests.stack import Stack, eventually, fresh

Run = Callable[..., Result]
LEFT = """
  SELECT (SELECT count(*) FROM exam WHERE id = $1) + (SELECT count(*) FROM exam_session WHERE exam_id = $1)
    + (SELECT count(*) FROM session_answer WHERE session_id = ANY ($2)) + (SELECT count(*) FROM result WHERE exam_id = $1)
    + (SELECT count(*) FROM standing WHERE exam_id = $1) + (SELECT count(*) FROM question WHERE exam_id = $1)
    + (SELECT count(*) FROM dead_letter WHERE session_id = ANY ($2))
"""


@pytest.fixture
def run(stack: Stack) -> Run:
    """Runs a command against the shared stack."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, [*map(str, words), "--home", str(stack.home)])

    return invoke


@pytest.fixture
async def exam(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> str:
    """An exam before its day: not open yet, for those on a roster, and its scores are not released."""
    later = "2099-01-01T00:00:00Z"
    await stack.import_exam(small_exam, exam_id, opensAt=later, enrolment="ROSTER", maxAttempts=1, release__score="MANUAL")
    return exam_id


def left_in_redis(stack: Stack, shadow: str, sessions: list[str]) -> list[str]:
    """What Redis still has of a shadow and its sessions, but for hashes that go by themselves."""
    with Redis.from_url(stack.read()["redis"]) as redis:
        found = [key.decode() for key in redis.scan_iter(f"*{shadow}*", count=1000)]
        for session in map(uuid.UUID, sessions):
            number = keys.shard(session)
            zsets = [key(number) for key in (keys.due_key, keys.unscored_key, keys.parked_key, keys.dirty_key)]
            found += [zset for zset in zsets if redis.zscore(zset, str(session)) is not None]
            name = keys.session_key(session)
            if redis.exists(name) and not 0 < redis.pttl(name) <= 30_000:
                found.append(name)
    return found


async def nothing_is_left(stack: Stack, shadow: str, sessions: list[str]) -> None:
    """Wait until every save log is written out, and see that none of it brought anything back."""
    with Redis.from_url(stack.read()["redis"]) as redis:

        async def written() -> bool:
            return not any(redis.xlen(keys.log_key(number)) for number in range(keys.SHARDS))

        await eventually(written)
    connection = await asyncpg.connect(stack.read()["postgres"])
    left = await connection.fetchval(LEFT, shadow, [uuid.UUID(session) for session in sessions])
    await connection.close()
    assert left == 0
    assert left_in_redis(stack, shadow, sessions) == []


def sessions_in(history: Path) -> list[str]:
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    return sorted({line["session"] for line in lines if line.get("session")})


@pytest.mark.parametrize("way", ["--rest", "--grpc"])
async def test_an_exam_is_rehearsed_before_its_day_and_leaves_nothing_behind(
    stack: Stack, exam: str, run: Run, tmp_path: Path, way: str
) -> None:
    history, file = tmp_path / "history.jsonl", tmp_path / "report.json"
    words = ("--students", 12, "--duration", "3s", "--rate", 20, way, "--history", history, "--report", file, "--json")

    done = run("rehearse", exam, *words)

    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == json.loads(file.read_text())
    assert report["ready"]
    assert report["removed"]
    assert report["problems"] == []
    assert report["done"]["StartSession"] == report["done"]["SubmitSession"] == report["done"]["results"] == 12
    facts = {check["fact"]: check["facts"] for check in report["audit"]["checks"]}
    assert facts["questions with an acknowledged save in a scored session"] > 0
    assert facts["students with a place, and ranks shown after the drain"] >= 24
    assert len(sessions_in(history)) == 12
    await nothing_is_left(stack, report["shadow"], sessions_in(history))


async def test_no_list_shows_a_shadow_that_was_kept_and_it_can_be_removed_by_its_id(stack: Stack, exam: str, run: Run) -> None:
    kept = json.loads(run("rehearse", exam, "--students", 2, "--duration", "1s", "--keep", "--json").stdout)
    shadow = kept["shadow"]
    async with Student(stack) as student:
        listed = [one["examId"] for one in good(await student.http.get("/api/v1/exams?pageSize=200"))["exams"]]

    assert shadow not in listed
    assert exam in listed
    assert shadow not in run("exam", "list").stdout
    assert shadow in run("exam", "list", "--all").stdout
    assert json.loads(run("exam", "show", shadow).stdout)["rehearsalOf"] == exam
    removed, again = run("rehearse", "--remove", shadow), run("rehearse", "--remove", shadow)
    assert (removed.exit_code, again.exit_code) == (0, 1), removed.output
    assert shadow not in run("exam", "list", "--all").stdout


async def test_a_shadow_that_is_removed_while_students_sit_it_does_not_come_back(stack: Stack, exam: str, run: Run) -> None:
    async with Student(stack, roles=["admin"]) as boss, Student(stack, cohorts=["red"]) as ann, Student(stack) as bob:
        shadow = good(await boss.http.post(f"/api/v1/admin/exams/{exam}:rehearse", json={}))["exam"]["examId"]
        sits, done = (await ann.sit(shadow))["sessionId"], (await bob.sit(shadow))["sessionId"]
        for choice in ("A", "B"):
            good(await ann.save(sits, "q1", choice=choice))
            good(await bob.save(done, "q1", choice=choice))
        await bob.submit(done)

        removed = run("rehearse", "--remove", shadow)
        late = [
            await ann.save(sits, "q1", choice="C"),
            await ann.read(sits),
            await ann.submit(sits),
            await bob.http.get(f"/api/v1/sessions/{done}/result"),
        ]

    assert removed.exit_code == 0, removed.output
    assert [refusal(reply) for reply in late] == [(404, "SESSION_NOT_FOUND")] * 4
    await nothing_is_left(stack, shadow, [sits, done])


async def test_a_rehearsal_leaves_the_exam_and_its_sessions_alone(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        refused = run("rehearse", "--remove", exam_id)
        rehearsed = run("rehearse", exam_id, "--students", 2, "--duration", "1s", "--rate", 10)
        answers = good(await student.read(session))["answers"]

    assert refused.exit_code == 1
    assert "only a rehearsal can be removed" in refused.output
    assert rehearsed.exit_code == 0, rehearsed.output
    assert "Verdict: all promises held" in rehearsed.stdout
    assert [answer["choice"] for answer in answers] == ["B"]


def test_prepared_sessions_are_real_and_each_has_its_own_token(stack: Stack, exam: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "out.json"

    made = run("rehearse", exam, "--prepare", 5, "--ghz", file)

    assert made.exit_code == 0, made.output
    lines = [json.loads(line) for line in (tmp_path / "out.sessions.jsonl").read_text().splitlines()]
    assert len({line["sessionId"] for line in lines}) == len({line["student"] for line in lines}) == 5
    assert all(set(line) == {"sessionId", "student", "token", "questions"} for line in lines)
    assert all(line["questions"] == [{"id": "q1", "choices": ["A", "B", "C"]}] for line in lines)
    config = json.loads(file.read_text())
    tokens = [token_of(config["metadata"]["authorization"], number) for number in range(7)]
    assert tokens == [f"Bearer {lines[number % 5]['token']}" for number in range(7)]
    with httpx.Client(base_url=stack.gateway) as rest:
        for token, save in zip(tokens, config["data"], strict=False):
            body = {name: value for name, value in save.items() if name != "sessionId"}
            path = f"/api/v1/sessions/{save['sessionId']}/answers"
            assert good(rest.put(path, json=body, headers={"authorization": token}))["saved"]
    shadow = re.search(r"--remove (\S+)", made.stdout)
    assert shadow is not None
    assert run("rehearse", "--remove", shadow[1]).exit_code == 0


def token_of(template: str, number: int) -> str:
    """What Go's template engine makes of the metadata for one request: halves, chosen by its number."""
    start = re.search(r"{{\$n := mod \.RequestNumber (\d+)}}", template)
    assert start is not None
    parts: Iterator[str] = iter(re.split(r"({{.*?}})", template[start.end() :]))

    def chosen(n: int) -> tuple[str, str]:
        """Read one token or one choice; returns it and the action that ended it."""
        text = next(parts)
        action = next(parts, "")
        if found := re.fullmatch(r"{{if lt \$n (\d+)}}", action):
            left, ended = chosen(n)
            assert ended == "{{else}}"
            right, ended = chosen(n)
            assert ended == "{{end}}"
            assert next(parts) == ""
            return (left if n < int(found[1]) else right), next(parts, "")
        return text, action

    return template[: start.start()] + chosen(number % int(start[1]))[0]


def test_another_stack_is_rehearsed_with_tokens_of_its_own_and_the_report_says_what_nobody_could_look_at(
    stack: Stack, exam: str, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{stack.token(fresh('other'))}\n" for _ in range(4)))
    words = ["--students", "4", "--duration", "2s", "--rate", "8", "--tokens", str(tokens)]
    boss = ["--server", stack.gateway, "--token", stack.token(roles=["admin"])]

    done = CliRunner().invoke(app, ["rehearse", exam, *words, *boss, "--json"])

    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert "out of reach" in report["remarks"][0]
    facts = {check["fact"]: check["facts"] for check in report["audit"]["checks"]}
    assert facts["answered submits, and their results"] == 4
    assert facts["questions with an acknowledged save, read back over the API"] > 0


@pytest.mark.parametrize(
    "words",
    [
        ("rehearse",),
        ("rehearse", "e1"),
        ("rehearse", "--students", 3),
        ("rehearse", "e1", "--students", 3, "--prepare", 3),
        ("rehearse", "e1", "--students", 3, "--duration", "soon"),
        ("rehearse", "e1", "--students", 3, "--tokens", "file"),
        ("rehearse", "e1", "--prepare", 3),
        ("rehearse", "e1", "--students", 3, "--ghz", "out.json"),
        ("rehearse", "no-such-exam", "--students", 3),
        ("rehearse", "no-such-exam", "--prepare", 3, "--out", "out.jsonl"),
    ],
)
def test_what_cannot_run_ends_with_exit_code_2(run: Run, words: tuple[object, ...]) -> None:
    assert run(*words).exit_code == 2


def test_without_a_stack_there_is_no_rehearsal() -> None:
    done = CliRunner().invoke(app, ["rehearse", "e1", "--students", "3", "--home", str(ABSENT)])

    assert done.exit_code == 2
    assert "No stack runs" in done.output

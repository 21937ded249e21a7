"""`finalbell session …`, `exam schedule` and `exam accommodate`: the levers that change when a session ends."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ops.main import app
from tests.flows.sitting import Student, good
from tests.stack import Stack

Run = Callable[..., Result]


@pytest.fixture
def run(stack: Stack) -> Run:
    """Runs a command against the shared stack."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, [*map(str, words), "--home", str(stack.home)])

    return invoke


async def ends_at(student: Student, session: str) -> datetime:
    return datetime.fromisoformat(good(await student.read(session))["endsAt"])


async def test_a_session_gets_time_once_for_each_key_and_its_student_can_read_why(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        before = await ends_at(student, session)
        words = ("session", "adjust", session, "--seconds", 90, "--reason", "a power cut", "--key", "power-cut-1")
        given, again = run(*words), run(*words)
        after = await ends_at(student, session)

    explained = run("session", "deadline", session)
    assert (given.exit_code, again.exit_code) == (0, 0), given.output + again.output
    assert after - before == timedelta(seconds=90)
    assert "+90 s" in explained.stdout
    assert "a power cut" in explained.stdout
    assert json.loads(run("session", "deadline", session, "--json").stdout)["adjustments"][0]["seconds"] == 90


def test_a_lever_that_fails_says_how_to_try_again_without_counting_twice(run: Run) -> None:
    nobody = "01999999-0000-7000-8000-000000000000"
    failed = run("session", "adjust", nobody, "--seconds", 60, "--reason", "x", "--key", "the-same-key")

    assert failed.exit_code == 1
    assert "There is no such session" in failed.output
    assert "--key the-same-key" in failed.output


async def test_a_student_gets_extra_time_by_seconds_or_by_a_factor(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        before = await ends_at(student, session)
        by_factor = run("exam", "accommodate", student.name, "--exam", exam_id, "--factor", 1.25, "--reason", "dyslexia")
        longer = await ends_at(student, session)
        taken_back = run("exam", "accommodate", student.name, "--exam", exam_id, "--seconds", 0)
        after = await ends_at(student, session)

    assert by_factor.exit_code == taken_back.exit_code == 0, by_factor.output + taken_back.output
    assert "1 running session" in by_factor.stdout
    assert longer - before == timedelta(seconds=150)
    assert after == before


async def test_a_close_that_moves_moves_the_sessions_that_it_cuts(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run
) -> None:
    await stack.import_exam(small_exam, exam_id)
    close = (datetime.now(UTC) + timedelta(seconds=200)).replace(microsecond=0)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        before = await ends_at(student, session)
        moved = run("exam", "schedule", exam_id, "--closes", close.isoformat().replace("+00:00", "Z"))
        cut = await ends_at(student, session)
        cleared = run("exam", "schedule", exam_id, "--closes", "none")
        after = await ends_at(student, session)

    assert moved.exit_code == cleared.exit_code == 0, moved.output + cleared.output
    assert cut == close
    assert after == before


@pytest.mark.parametrize(
    "words",
    [
        ("exam", "schedule", "e1"),
        ("exam", "schedule", "e1", "--closes", "tomorrow"),
        ("exam", "accommodate", "ann"),
        ("exam", "accommodate", "ann", "--seconds", 1, "--factor", 2),
        ("scoring", "replay"),
        ("scoring", "replay", "1", "--all"),
    ],
)
def test_a_lever_that_is_held_wrongly_says_how_and_changes_nothing(run: Run, words: tuple[object, ...]) -> None:
    assert run(*words).exit_code == 2

"""`finalbell exam …` and `finalbell leaderboard …` against a running stack."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from finalbell.v1 import admin_pb2
from redis import Redis
from typer.testing import CliRunner

from ops.leaderboard import write_export
from ops.main import app
from tests.ops.local import ABSENT
from tests.stack import Stack, eventually, fresh, key

Run = Callable[..., Result]


@pytest.fixture
def run(stack: Stack) -> Run:
    """Runs a command against the shared stack."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, [*map(str, words), "--home", str(stack.home)])

    return invoke


@pytest.fixture
def paper(small_exam: dict[str, Any], exam_id: str, tmp_path: Path) -> Path:
    """The small exam's file, under a fresh id."""
    file = tmp_path / "exam.json"
    file.write_text(json.dumps({**small_exam, "exam": {**small_exam["exam"], "id": exam_id}}))
    return file


async def sit(stack: Stack, exam: str, alias: str, choice: str = "B") -> str:
    """Sit an exam to its score; returns the student."""
    student = fresh("s")
    async with stack.rest(stack.token(student)) as rest:
        started = await rest.post(f"/api/v1/exams/{exam}/sessions", json={"alias": alias})
        session = started.json()["sessionId"]
        await rest.put(f"/api/v1/sessions/{session}/answers", json={"questionId": "q1", "choice": choice}, headers=key())
        await rest.post(f"/api/v1/sessions/{session}/submit", json={}, headers=key())

        async def scored() -> bool:
            return bool((await rest.get(f"/api/v1/sessions/{session}/result")).json()["status"] == "SCORED")

        await eventually(scored)
    return student


def test_importing_again_changes_nothing(run: Run, paper: Path, exam_id: str) -> None:
    first, again = run("exam", "import", paper), run("exam", "import", paper)

    assert first.exit_code == again.exit_code == 0, first.output
    assert first.stdout.startswith(f"{exam_id} (version 1, key version 1): ")
    assert "nothing changed" not in first.stdout
    assert again.stdout == f"{exam_id} (version 1, key version 1): nothing changed\n"


def test_an_import_says_what_changed(run: Run, paper: Path, exam_id: str) -> None:
    run("exam", "import", paper)

    changed = run("exam", "import", paper, "--set", "title=Another title")

    assert changed.exit_code == 0
    assert "title" in changed.stdout
    assert json.loads(run("exam", "show", exam_id).stdout)["exam"]["title"] == "Another title"


def test_one_file_may_be_imported_under_another_id_and_other_settings(run: Run, paper: Path) -> None:
    other = fresh("o")

    made = run("exam", "import", paper, "--id", other, "--set", "release.score=MANUAL", "--set", "durationSeconds=90", "--json")

    exam = json.loads(made.stdout)["exam"]
    assert (exam["examId"], exam["durationSeconds"]) == (other, 90)
    assert exam["scoreRelease"] == "MANUAL"
    assert run("exam", "import", paper, paper, "--id", other).exit_code == 2
    assert run("exam", "import", paper, "--set", "title").exit_code == 2


def test_a_file_with_thousands_of_errors_is_refused_with_as_many_as_fit(run: Run, paper: Path) -> None:
    bad = json.loads(paper.read_text())
    bad["questions"] = [{"id": "!", "type": "x", "stem": "", "answer": 1}] * 400
    paper.write_text(json.dumps(bad))

    refused = run("exam", "import", paper)

    lines = [line for line in refused.stderr.splitlines() if line.startswith("  questions[")]
    assert refused.exit_code == 1
    assert "has 1200 errors, the first " in refused.stderr
    assert f"the first {len(lines)} of which are listed" in refused.stderr
    assert len(lines) > 400


def test_a_bad_file_is_refused_with_every_error(run: Run, paper: Path, exam_id: str) -> None:
    bad = json.loads(paper.read_text())
    bad["exam"]["durationSeconds"] = 0
    bad["questions"][0]["answer"] = {"choice": "Z"}
    bad["questions"][2]["points"] = -1
    paper.write_text(json.dumps(bad))

    refused = run("exam", "import", paper)

    assert refused.exit_code == 1
    assert refused.stdout == ""
    for field in ("exam.durationSeconds", "questions[q1].answer.choice", "questions[q3].points"):
        assert any(line.startswith(f"  {field}: ") for line in refused.stderr.splitlines()), refused.stderr
    assert run("exam", "show", exam_id).exit_code == 1


def test_what_cannot_be_read_is_said_in_one_line(run: Run, paper: Path) -> None:
    missing, broken = run("exam", "import", ABSENT), paper
    broken.write_text("{")

    refused = run("exam", "import", broken)

    assert missing.exit_code == refused.exit_code == 1
    assert missing.stderr == f"{ABSENT} cannot be read: No such file or directory\n"
    assert "JSON" in refused.stderr


def test_exams_are_listed_and_shown(run: Run, paper: Path, exam_id: str) -> None:
    run("exam", "import", paper)

    table, listed, shown = run("exam", "list"), run("exam", "list", "--json"), run("exam", "show", exam_id)

    [line] = [line for line in table.stdout.splitlines() if line.startswith(exam_id)]
    assert "One of each" in line
    assert "OPEN" in line
    [report] = [report for report in json.loads(listed.stdout)["reports"] if report["exam"]["examId"] == exam_id]
    assert report == json.loads(shown.stdout)
    assert report["exam"]["questionCount"] == 4


async def test_a_closed_exam_cannot_be_started(run: Run, stack: Stack, paper: Path, exam_id: str) -> None:
    run("exam", "import", paper)

    closed = run("exam", "close", exam_id)

    assert closed.stdout == f"{exam_id} is closed; 0 sessions are still in progress.\n"
    async with stack.rest(stack.token()) as rest:
        assert (await rest.post(f"/api/v1/exams/{exam_id}/sessions", json={})).status_code == 400


async def test_scores_are_released_by_hand(run: Run, stack: Stack, paper: Path, exam_id: str) -> None:
    run("exam", "import", paper, "--set", "release.score=MANUAL", "--set", "release.review=NONE")

    released = run("exam", "release", exam_id)

    assert released.exit_code == 0, released.output
    assert released.stdout == f"The scores of {exam_id} are released; 0 sessions are scored.\n"
    assert json.loads(run("exam", "show", exam_id).stdout)["releasedAt"]


async def test_an_exam_is_warm_before_its_doors_open(run: Run, stack: Stack, paper: Path, exam_id: str) -> None:
    run("exam", "import", paper, "--set", "maxAttempts=5")
    with Redis.from_url(stack.read()["redis"]) as redis:
        cold = list(redis.scan_iter(f"paper:*{exam_id}*"))
        before = run("exam", "warm", exam_id)
        warm = list(redis.scan_iter(f"paper:*{exam_id}*"))
    run("exam", "accommodate", fresh("s"), "--exam", exam_id, "--seconds", "60")
    async with stack.rest(stack.token()) as rest:
        await rest.post(f"/api/v1/exams/{exam_id}/sessions", json={})

    after = run("exam", "warm", exam_id)

    said = re.compile(
        rf"{exam_id}: version 1, 4 questions in Redis, (\d+) with extra time, (\d+) sessions so far; partitions are there.\n"
    )
    first, second = said.fullmatch(before.stdout), said.fullmatch(after.stdout)
    assert first is not None, before.output
    assert second is not None, after.output
    assert (len(cold), len(warm)) == (0, 1)
    assert int(second[1]) - int(first[1]) == 1
    assert (first[2], second[2]) == ("0", "1")


def test_an_exam_that_opens_in_a_year_is_warmed_without_its_months(run: Run, paper: Path, exam_id: str) -> None:
    run("exam", "import", paper)
    run("exam", "schedule", exam_id, "--opens", f"{datetime.now(UTC) + timedelta(days=365):%Y-%m-%dT%H:%M:%SZ}")

    warmed = run("exam", "warm", exam_id)

    assert warmed.exit_code == 0
    assert "partitions are not there yet" in warmed.stdout


async def test_results_come_best_first_and_safe_for_spreadsheets(run: Run, stack: Stack, paper: Path, exam_id: str) -> None:
    run("exam", "import", paper)
    worse = await sit(stack, exam_id, "=cmd()", choice="A")
    better = await sit(stack, exam_id, "Ada")

    rows = list(csv.DictReader(io.StringIO(run("exam", "results", exam_id, "--csv").stdout)))
    results = json.loads(run("exam", "results", exam_id, "--json").stdout)["results"]

    assert [(row["rank"], row["student"], row["score"], row["alias"]) for row in rows] == [
        ("1", better, "2", "Ada"),
        ("2", worse, "-1", "'=cmd()"),
    ]
    assert [result["studentId"] for result in results] == [better, worse]
    assert better in run("exam", "results", exam_id).stdout


async def test_boards_are_verified_and_rebuilt(run: Run, stack: Stack, paper: Path, exam_id: str) -> None:
    run("exam", "import", paper)
    student = await sit(stack, exam_id, "Ada")
    good = run("leaderboard", "verify", exam_id)
    with Redis.from_url(stack.read()["redis"]) as redis:
        for board in redis.scan_iter(f"lb:{{{exam_id}}}*"):
            redis.zrem(board, student)

    bad = run("leaderboard", "verify", exam_id)
    rebuilt = run("leaderboard", "rebuild", exam_id)
    after = run("leaderboard", "verify", exam_id, "--json")

    assert (good.exit_code, bad.exit_code, rebuilt.exit_code, after.exit_code) == (0, 1, 0, 0), bad.output
    assert good.stdout == f"{exam_id}: 1 students are ranked, 0 places differ.\n"
    assert "1 students on" in rebuilt.stdout
    assert json.loads(after.stdout)["differences"] == 0


async def test_a_frozen_board_is_revealed_and_released_and_then_freezes_no_more(
    run: Run, stack: Stack, paper: Path, exam_id: str
) -> None:
    run("exam", "import", paper)
    student = await sit(stack, exam_id, "Ada")
    frozen, again = run("leaderboard", "freeze", exam_id), run("leaderboard", "freeze", exam_id)
    late = await sit(stack, exam_id, "Bob", choice="A")

    first, second = run("leaderboard", "reveal", exam_id), run("leaderboard", "reveal", exam_id, "--json")
    released, too_late = run("leaderboard", "release", exam_id), run("leaderboard", "freeze", exam_id)

    assert frozen.stdout == again.stdout, "the moment stays the first one"
    assert f"{exam_id}: frozen since 20" in frozen.stdout
    assert first.stdout.splitlines() == [
        f"unplaced → 2  Bob ({late}), -1 points",
        f"All is shown. Next: finalbell leaderboard release {exam_id}",
    ]
    assert student not in first.stdout
    assert json.loads(second.stdout) == {"steps": [], "hidden": 0}
    assert released.stdout == f"{exam_id}: released; 0 places were not shown before.\n"
    assert (too_late.exit_code, too_late.stdout) == (1, "")
    assert "does not freeze any more" in too_late.stderr


async def test_an_export_goes_to_standard_output_or_a_file(
    run: Run, stack: Stack, paper: Path, exam_id: str, tmp_path: Path
) -> None:
    run("exam", "import", paper)
    student, file = await sit(stack, exam_id, "Ada"), tmp_path / "board.csv"

    shown, written = run("leaderboard", "export", exam_id), run("leaderboard", "export", exam_id, "--out", file)

    assert shown.stdout_bytes == file.read_bytes()
    assert student in file.read_text()
    assert written.stdout == ""
    assert written.stderr == shown.stderr
    assert f"SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}\n" in written.stderr


def test_an_export_that_fails_leaves_an_earlier_one_as_it_was(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "board.csv"
    file.write_text("an earlier one")

    refused = run("leaderboard", "export", fresh("none"), "--out", file)
    nowhere = run("leaderboard", "export", fresh("none"), "--out", ABSENT / "board.csv")

    assert (refused.exit_code, nowhere.exit_code) == (1, 1)
    assert (file.read_text(), list(tmp_path.iterdir())) == ("an earlier one", [file])
    assert nowhere.stderr == f"{ABSENT / 'board.csv'} cannot be written: No such file or directory\n"


@pytest.mark.parametrize(("written", "whole"), [([b"a,", b"b"], True), ([b"a,", b"c"], False), ([b"a,"], False)])
def test_an_export_that_is_not_what_was_sent_is_told_by_its_hash(written: list[bytes], whole: bool) -> None:
    pieces = [admin_pb2.ExportLeaderboardResponse(chunk=chunk) for chunk in written]
    end = admin_pb2.ExportLeaderboardResponse(sha256=hashlib.sha256(b"a,b").hexdigest(), rows=1)

    assert write_export([*pieces, end], io.BytesIO()) == (end if whole else None)
    assert write_export(pieces, io.BytesIO()) is None


def test_series_are_set_listed_and_deleted(run: Run, paper: Path, exam_id: str) -> None:
    run("exam", "import", paper)
    series = fresh("s")
    made = run("series", "set", series, "--exam", exam_id, "--title", "The year", "--best", 1)
    listed, table = run("series", "list", "--json"), run("series", "list")
    deleted, after = run("series", "delete", series), run("series", "list", "--json")

    [one] = [one for one in json.loads(listed.stdout)["series"] if one["seriesId"] == series]
    assert one == {"seriesId": series, "title": "The year", "examIds": [exam_id], "bestOf": 1}
    assert made.stdout.splitlines()[1].endswith(f"/api/v1/exams/{exam_id}/leaderboard?series={series}")
    assert any(line.split() == [series, "The", "year", "1", exam_id] for line in table.stdout.splitlines())
    assert deleted.stdout == f"{series}: deleted.\n"
    assert series not in after.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("series", "set", "s1"),
        ("series", "set", "s1", "--exam", "e1", "--best", 0),
        ("leaderboard", "reveal", "e1", "--steps", 0),
        ("leaderboard", "reveal", "e1", "--steps", 101),
        ("leaderboard", "export", "e1", "--format", "xml"),
    ],
)
def test_a_boards_lever_that_is_held_wrongly_says_how_and_changes_nothing(run: Run, words: tuple[object, ...]) -> None:
    assert run(*words).exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("exam", "show"),
        ("exam", "close"),
        ("exam", "release"),
        ("exam", "warm"),
        ("exam", "results"),
        ("exam", "stats"),
        ("leaderboard", "verify"),
        ("leaderboard", "freeze"),
        ("leaderboard", "reveal"),
        ("leaderboard", "release"),
        ("leaderboard", "export"),
        ("series", "delete"),
    ],
)
def test_an_unknown_exam_or_series_is_an_error(run: Run, words: tuple[str, ...]) -> None:
    ran = run(*words, fresh("none"))

    assert ran.exit_code == 1
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1


def test_without_a_stack_one_line_says_so(paper: Path) -> None:
    ran = CliRunner().invoke(app, ["exam", "import", str(paper), "--home", str(ABSENT)])

    assert ran.exit_code == 1
    assert ran.stderr == f"No stack runs in {ABSENT}. Start one with 'finalbell up', or name another with --home or --server.\n"


def test_another_server_needs_its_own_token(stack: Stack, paper: Path) -> None:
    words = ["exam", "import", str(paper), "--server", stack.gateway]

    without = CliRunner().invoke(app, words)
    student = CliRunner().invoke(app, [*words, "--token", stack.token()])
    admin = CliRunner().invoke(app, words, env={"FINALBELL_TOKEN": stack.token(roles=["admin"])})
    nowhere = CliRunner().invoke(app, [*words[:-1], "http://127.0.0.1:9", "--token", "x"])
    unclear = CliRunner().invoke(app, [*words[:-1], "localhost:8080", "--token", "x"])

    assert [ran.exit_code for ran in (without, student, admin, nowhere, unclear)] == [2, 1, 0, 1, 2]
    assert len(nowhere.stderr.splitlines()) == 1

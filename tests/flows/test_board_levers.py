"""An exam day's levers on boards: freeze, reveal, release, export, and series, seen by whoever they concern."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result
from finalbell.v1 import admin_pb2
from finalbell.v1.admin_pb2_grpc import ExamAdminServiceStub
from typer.testing import CliRunner

from ops.main import app
from tests.faults.harm import fetch
from tests.flows.sitting import Student, good, refusal
from tests.flows.test_regrade import Admin
from tests.flows.test_watching import score, watching
from tests.stack import Stack, bearer, eventually, fresh

Run = Callable[..., Result]


@pytest.fixture
def run(stack: Stack) -> Run:
    """Runs a command against the shared stack."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, [*map(str, words), "--home", str(stack.home)])

    return invoke


def said(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


async def aliases(student: Student, exam: str, **query: Any) -> list[str]:
    return [entry["alias"] for entry in (await student.board(exam, **query))["entries"]]


async def shows(student: Student, exam: str, wanted: list[str], *, frozen: bool = False, **query: Any) -> dict[str, Any]:
    """Wait until a board shows these, best first, and says whether it is frozen; return it."""

    async def there() -> dict[str, Any] | None:
        board = await student.board(exam, **query)
        right = [entry["alias"] for entry in board["entries"]] == wanted and not board["rebuilding"]
        return board if right and board["frozen"] == frozen else None

    board: dict[str, Any] = await eventually(there)
    return board


async def truth(stack: Stack, exam: str, cohort: str = "") -> list[dict[str, Any]]:
    """Work out a board that breaks ties by duration, from results and sessions alone."""
    attempts = await fetch(
        stack, "SELECT s.*, r.score FROM result r JOIN exam_session s ON s.id = r.session_id WHERE r.exam_id = $1", exam
    )
    best, cohorts = dict[str, dict[str, Any]](), dict[str, set[str]]()
    for one in attempts:
        microseconds = (one["submitted_at"] - one["started_at"]) // timedelta(microseconds=1)
        row = {**one, "key": (one["score"], -((microseconds + 500) // 1000)), "student": one["student_id"]}
        cohorts.setdefault(row["student"], set()).update(one["cohorts"])
        if row["student"] not in best or row["key"] > best[row["student"]]["key"]:
            best[row["student"]] = row
    rows = [row for student, row in best.items() if not cohort or cohort in cohorts[student]]
    return [
        {
            "rank": 1 + sum(other["key"] > row["key"] for other in rows),
            "score": row["score"],
            "student_id": row["student"],
            "alias": row["alias"],
            "cohorts": sorted(cohorts[row["student"]]),
            "session_id": str(row["id"]),
            "submitted_at": row["submitted_at"].replace(microsecond=row["submitted_at"].microsecond // 1000 * 1000),
            "tie_break_ms": -row["key"][1],
        }
        for row in sorted(rows, key=lambda row: (row["key"], row["student"]), reverse=True)
    ]


def places(board: dict[str, Any]) -> set[tuple[str, int, int]]:
    return {(entry["alias"], entry["rank"], entry["score"]) for entry in board["entries"]}


def ranked(scores: Mapping[str, int]) -> set[tuple[str, int, int]]:
    return {(alias, rank_of(scores, alias), score) for alias, score in scores.items()}


def rank_of(scores: Mapping[str, int], alias: str) -> int:
    return 1 + sum(other > scores[alias] for other in scores.values())


async def test_a_frozen_board_hides_movement_from_board_result_and_watchers(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run
) -> None:
    await stack.import_exam(small_exam, exam_id)
    ada = await score(stack, exam_id, 1, alias="Ada")
    bob = await score(stack, exam_id, 0, alias="Bob")
    assert "frozen since" in said(run("leaderboard", "freeze", exam_id))
    async with Student(stack, bob) as student, watching(stack, exam_id, "SSE", student.token) as watched:
        await watched.until(lambda: watched.frames and watched.frames[-1]["frozen"])

        session = (await student.sit(exam_id, alias="Bob"))["sessionId"]
        good(await student.save(session, "q2", choices={"ids": ["A", "C"]}))
        await student.submit(session)
        result = await student.outcome(session)
        cem = await score(stack, exam_id, 2, alias="Cem")
        board = await student.board(exam_id, around="me")
        async with Student(stack, cem) as late:
            unplaced = await late.board(exam_id, around="me")

        assert (result["score"], result["rank"], result["percentile"]) == (6, 2, 25)
        assert ([entry["alias"] for entry in board["entries"]], board["frozen"], board["total"]) == (["Ada", "Bob"], True, 2)
        assert (board["me"]["rank"], board["me"]["score"], board["percentile"]) == (2, 0, 25)
        assert (unplaced.get("me"), unplaced["around"]) == (None, [])

        assert {frame["total"] for frame in watched.frames} == {2}
        assert "2 places were not shown" in said(run("leaderboard", "release", exam_id))
        await watched.until(lambda: watched.frames[-1]["total"] == 3 and not watched.frames[-1]["frozen"])
        await shows(student, exam_id, ["Cem", "Bob", "Ada"])
        await score(stack, exam_id, 2, alias="Ada", name=ada)
        await watched.until(lambda: watched.own[-1]["place"]["rank"] == 3)


async def test_a_board_freezes_by_itself_before_the_close_and_thaws_when_the_close_is_moved(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    closes = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    await stack.import_exam(small_exam, exam_id, closesAt=closes.isoformat(), board__freezeSecondsBeforeClose=60)
    await score(stack, exam_id, 1, alias="Ada")
    async with Student(stack, roles=["admin"]) as admin, watching(stack, exam_id, "gRPC", admin.token) as watched:
        await watched.until(lambda: watched.frames and watched.frames[-1]["total"] == 1)
        assert not watched.frames[-1]["frozen"]
        good(await admin.schedule(exam_id, closesAt=(datetime.now(UTC) + timedelta(seconds=62)).isoformat()))
        await watched.until(lambda: watched.frames[-1]["frozen"])
        await score(stack, exam_id, 2, alias="Bob")
        await shows(admin, exam_id, ["Ada"], frozen=True)
        last = watched.frames[-1]

        good(await admin.schedule(exam_id, closesAt=closes.isoformat()))
        await shows(admin, exam_id, ["Bob", "Ada"])
        await watched.until(lambda: watched.frames[-1]["total"] == 2 and not watched.frames[-1]["frozen"])

    assert [entry["alias"] for entry in last["entries"]] == ["Ada"]


async def test_a_regrade_moves_no_rank_on_a_frozen_board(stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack, cohorts=["north"]) as ada, Admin(stack, roles=["admin"]) as admin:
        session = (await ada.sit(exam_id, alias="Ada"))["sessionId"]
        good(await ada.save(session, "q1", choice="B"))
        await ada.submit(session)
        before = await ada.outcome(session)
        await score(stack, exam_id, 0, alias="Bob", cohorts=("north",))
        said(run("leaderboard", "freeze", exam_id))

        good(await admin.set_key(exam_id, "q1", accept=["A"], reason="9 is said to be a prime"))
        regraded = await admin.regrade(exam_id)
        after = good(await ada.result(session))
        boards = [await ada.board(exam_id, **query) for query in ({}, {"cohort": "north"})]
        verified = run("leaderboard", "verify", exam_id)
        rebuilt = said(run("leaderboard", "rebuild", exam_id))
        boards.append(await ada.board(exam_id, around="me"))
        said(run("leaderboard", "release", exam_id))
        released = await shows(ada, exam_id, ["Bob", "Ada"])
        last = good(await ada.result(session))

    assert (regraded["scoresChanged"], "2 students on" in rebuilt, verified.exit_code) == (1, True, 0)
    assert [(one["score"], one["rank"], one["percentile"]) for one in (before, after, last)] == [
        (2, 1, 50),
        (-1, 1, 75),
        (-1, 2, 25),
    ]
    assert [places(board) for board in boards] == [{("Ada", 1, 2), ("Bob", 2, 0)}] * 3
    assert (boards[2]["me"]["rank"], boards[2]["percentile"], len(boards[2]["around"])) == (1, 75, 2)
    assert places(released) == {("Bob", 1, 0), ("Ada", 2, -1)}


async def test_a_ceremony_reveals_from_below_until_the_true_board_is_there(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run
) -> None:
    await stack.import_exam(small_exam, exam_id)
    names = {alias: await score(stack, exam_id, n, alias=alias) for n, alias in ((2, "Ada"), (1, "Bob"), (0, "Cem"))}
    said(run("leaderboard", "freeze", exam_id))
    for n, alias in ((1, "Dea"), (2, "Eli"), (2, "Cem")):
        await score(stack, exam_id, n, alias=alias, name=names.get(alias))
    shown, later = {"Ada": 8, "Bob": 2, "Cem": 0}, {"Dea": 2, "Eli": 8, "Cem": 8, "Bob": 8}

    async with Student(stack) as viewer:
        for hidden, (alias, true) in zip((2, 2, 1, 0), later.items(), strict=True):
            before = rank_of(shown, alias) if alias in shown else None
            revealed = json.loads(said(run("leaderboard", "reveal", exam_id, "--json")))
            shown[alias] = true

            [step] = revealed["steps"]
            assert (step["alias"], step.get("rankBefore"), step["rankAfter"], step["score"]) == (
                alias,
                before,
                rank_of(shown, alias),
                true,
            )
            assert places(await viewer.board(exam_id)) == ranked(shown)
            if alias == "Dea":  # what is scored meanwhile stays hidden
                await score(stack, exam_id, 2, alias="Bob", name=names["Bob"])
            assert revealed["hidden"] == hidden
        after = await viewer.board(exam_id)

    assert places(after) == {(row["alias"], 1 if row["score"] == 8 else 5, row["score"]) for row in await truth(stack, exam_id)}


async def test_an_export_is_the_true_board_and_the_same_file_twice(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run, tmp_path: Path
) -> None:
    await stack.import_exam(small_exam, exam_id, tieBreak="DURATION")
    sat = (("=Ada", 1, "north"), ("+Bob", 2, "north"), ("-Cem", 2, "south"), ("@Dea", 0, "north"), ('E, "li"', 1, "south"))
    names = {alias: await score(stack, exam_id, right, alias=alias, cohorts=(cohort,)) for alias, right, cohort in sat}
    said(run("leaderboard", "freeze", exam_id))
    await score(stack, exam_id, 2, alias="@Dea", name=names["@Dea"], cohorts=("west",))
    early = run("leaderboard", "export", exam_id, "--out", tmp_path / "early.csv")
    async with Student(stack, roles=["admin"]) as admin:
        good(await admin.http.post(f"/api/v1/admin/exams/{exam_id}:close", json={}))
    hidden = run("leaderboard", "export", exam_id, "--out", tmp_path / "hidden.csv")
    said(run("leaderboard", "release", exam_id))
    final = run("leaderboard", "export", exam_id, "--out", tmp_path / "final.csv")
    said(run("leaderboard", "export", exam_id, "--format", "json", "--out", tmp_path / "all.json"))
    said(run("leaderboard", "export", exam_id, "--format", "json", "--cohort", "north", "--out", tmp_path / "north.json"))
    right, northern = await truth(stack, exam_id), await truth(stack, exam_id, "north")

    files = {name: (tmp_path / f"{name}.csv").read_bytes() for name in ("early", "hidden", "final")}
    rows = list(csv.DictReader(io.StringIO(files["final"].decode(), newline="")))
    assert len(right) == 5
    assert entries(tmp_path / "all.json") == right
    assert entries(tmp_path / "north.json") == northern
    assert [row["student_id"] for row in rows] == [row["student_id"] for row in right]
    assert [row["alias"] for row in rows] == [row["alias"] if row["alias"][0] == "E" else f"'{row['alias']}" for row in right]
    assert [row["cohorts"] for row in rows] == [" ".join(row["cohorts"]) for row in right]
    assert [(int(row["rank"]), int(row["score"]), int(row["tie_break_ms"])) for row in rows] == [
        (row["rank"], row["score"], row["tie_break_ms"]) for row in right
    ]
    assert files["early"] == files["hidden"] == files["final"], "a frozen board is exported with its true places"
    for exported, kind in ((early, "provisional"), (hidden, "provisional"), (final, "final")):
        assert exported.stderr.startswith(f"5 students, {kind}")
        assert hashlib.sha256(files["final"]).hexdigest() in exported.stderr


def entries(file: Path) -> list[dict[str, Any]]:
    return [
        {**entry, "submitted_at": datetime.fromisoformat(entry["submitted_at"])}
        for entry in json.loads(file.read_text())["entries"]
    ]


async def test_the_audit_log_keeps_what_was_exported(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run, tmp_path: Path
) -> None:
    import asyncpg

    await stack.import_exam(small_exam, exam_id)
    await score(stack, exam_id, 1, alias="Ada")
    said(run("leaderboard", "export", exam_id, "--out", tmp_path / "board.csv"))

    connection = await asyncpg.connect(stack.read()["postgres"])
    kept = await connection.fetchval(
        "SELECT details::text FROM audit_log WHERE action = 'leaderboard.export' AND subject = $1", exam_id
    )
    await connection.close()

    assert json.loads(kept) == {
        "sha256": hashlib.sha256((tmp_path / "board.csv").read_bytes()).hexdigest(),
        "rows": 1,
        "final": False,
        "cohort": "",
    }


async def test_each_lever_is_on_record_with_who_pulled_it(stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run) -> None:
    series = fresh("s")
    await stack.import_exam(small_exam, exam_id)
    for words in (("leaderboard", "freeze", exam_id), ("leaderboard", "freeze", exam_id), ("leaderboard", "reveal", exam_id)):
        said(run(*words))
    ada = await score(stack, exam_id, 1, alias="Ada")
    said(run("leaderboard", "reveal", exam_id, "--steps", 2))
    said(run("leaderboard", "release", exam_id))
    said(run("series", "set", series, "--exam", exam_id))
    said(run("series", "delete", series))

    kept = await fetch(
        stack, "SELECT actor, action, details::text FROM audit_log WHERE subject = ANY ($1) ORDER BY id", [exam_id, series]
    )
    pulled = [(row["action"], json.loads(row["details"])) for row in kept if row["actor"] == "operator"]
    assert pulled == [
        ("exam.board_frozen", {}),
        ("leaderboard.reveal", {"student": ada}),
        ("exam.board_revealed", {}),
        ("series.set", {"exams": [exam_id], "best_of": None}),
        ("series.delete", {}),
    ]


async def test_a_reader_who_leaves_an_export_leaves_no_transaction_open(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    await fetch(
        stack,
        """
        WITH many AS (
          INSERT INTO exam_session (id, student_id, exam_id, exam_version, cohorts, attempt, alias, started_at, ends_at,
            submitted_at, status)
          SELECT uuidv7(), 'many' || n, $1, 1, '{}', 1, repeat('x', 32), now(), now() + interval '1 hour', now(), 'SCORED'
          FROM generate_series(1, 50000) AS n RETURNING id, student_id, alias
        )
        INSERT INTO standing (exam_id, student_id, alias, cohorts, score, tiebreak, order_key, session_id, version)
        SELECT $1, student_id, alias, '{}', 1, 0, 1, id, 1 FROM many
        """,
        exam_id,
    )

    async def open_ones() -> int:
        query = "SELECT FROM pg_stat_activity WHERE usename = 'finalbell_admin' AND state = 'idle in transaction'"
        return len(await fetch(stack, query))

    async def let_go() -> bool:
        return await open_ones() == 0

    window = [("grpc.http2.bdp_probe", 0)]  # else a fast connection grows until it takes the whole board at once
    async with grpc.aio.insecure_channel(stack.address("admin"), window) as channel:
        request, metadata = admin_pb2.ExportLeaderboardRequest(exam_id=exam_id), bearer(stack.token(roles=["admin"]))
        call = ExamAdminServiceStub(channel).ExportLeaderboard(request, metadata=metadata)
        await call.read()
        assert await eventually(open_ones)  # more than the connection takes at once waits to be read
        call.cancel()
        assert await eventually(let_go)
    for table in ("standing", "exam_session"):
        await fetch(stack, f"DELETE FROM {table} WHERE exam_id = $1", exam_id)


async def test_an_export_of_no_exam_is_refused(stack: Stack) -> None:
    async with stack.channel() as channel:
        request = admin_pb2.ExportLeaderboardRequest(exam_id="no-such-exam")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ExamAdminServiceStub(channel).ExportLeaderboard(request, metadata=bearer(stack.token(roles=["admin"]))).read()

    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


# Series


async def test_a_series_is_public_when_each_exam_that_counts_is(stack: Stack, small_exam: dict[str, Any], run: Run) -> None:
    spring, autumn, winter = exams = [fresh("e") for _ in range(3)]
    for exam, public in zip(exams, (True, False, True), strict=True):
        await stack.import_exam(small_exam, exam, board__public=public)
    mixed, open_to_all = fresh("s"), fresh("s")
    said(run("series", "set", mixed, "--exam", spring, "--exam", autumn))
    said(run("series", "set", open_to_all, "--exam", spring, "--exam", winter))

    async with stack.rest() as nobody:
        replies = [
            await nobody.get(f"/api/v1/exams/{spring}/leaderboard", params={"series": series}) for series in (mixed, open_to_all)
        ]

    assert [reply.status_code for reply in replies] == [401, 200]


async def test_a_series_adds_up_its_exams_and_counts_one_only_when_its_scores_may_be_seen(
    stack: Stack, small_exam: dict[str, Any], run: Run
) -> None:
    spring, autumn, series = fresh("e"), fresh("e"), fresh("s")
    await stack.import_exam(small_exam, spring)
    await stack.import_exam(small_exam, autumn, release__score="MANUAL")
    ada = await score(stack, spring, 2, alias="Ada", cohorts=("north",))
    bob = await score(stack, spring, 1, alias="Bob")
    assert "all 2 exams count" in said(run("series", "set", series, "--exam", spring, "--exam", autumn, "--title", "The year"))
    async with Student(stack, bob) as student:
        before = await shows(student, spring, ["Ada", "Bob"], series=series)
        await score(stack, autumn, 2, alias="Bob the second", name=bob)
        withheld = await student.board(spring, series=series)

        async with watching(stack, spring, "SSE", student.token, series=series) as watched:
            await watched.until(lambda: watched.frames and watched.own)
            said(run("exam", "release", autumn))
            await watched.until(lambda: watched.own[-1]["place"]["rank"] == 1)
        after = await shows(student, autumn, ["Bob the second", "Ada"], series=series)

        assert "the best 1 of 2" in said(run("series", "set", series, "--exam", spring, "--exam", autumn, "--best", 1))
        best = await eventually_board(student, spring, series, 8)
        listed = json.loads(said(run("series", "list", "--json")))["series"]
        verified = run("leaderboard", "verify", spring)

        said(run("series", "delete", series))

        async def gone() -> bool:
            reply = await student.http.get(f"/api/v1/exams/{spring}/leaderboard", params={"series": series})
            return reply.status_code == 404 and refusal(reply) == (404, "SERIES_NOT_FOUND")

        assert await eventually(gone)

    assert [(entry["rank"], entry["score"]) for entry in before["entries"]] == [(1, 8), (2, 2)]
    assert [entry["score"] for entry in withheld["entries"]] == [8, 2]
    assert [(entry["rank"], entry["score"]) for entry in after["entries"]] == [(1, 10), (2, 8)]
    assert [(entry["rank"], entry["score"]) for entry in best["entries"]] == [(1, 8), (1, 8)]
    assert next(one for one in listed if one["seriesId"] == series)["bestOf"] == 1
    assert verified.exit_code == 0, verified.output
    assert ada


async def test_what_a_frozen_board_hides_is_hidden_in_its_series_too(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, run: Run
) -> None:
    series = fresh("s")
    await stack.import_exam(small_exam, exam_id)
    said(run("series", "set", series, "--exam", exam_id))
    names = {alias: await score(stack, exam_id, n, alias=alias, cohorts=("north",)) for n, alias in ((1, "Ada"), (0, "Bob"))}
    async with Student(stack, names["Bob"], cohorts=["north"]) as bob:
        await shows(bob, exam_id, ["Ada", "Bob"], series=series, cohort="north")
        said(run("leaderboard", "freeze", exam_id))
        await score(stack, exam_id, 2, alias="Bob", name=names["Bob"], cohorts=("north",))
        frozen = [await shows(bob, exam_id, ["Ada", "Bob"], frozen=True, series=series, **q) for q in ({}, {"cohort": "north"})]
        verified = run("leaderboard", "verify", exam_id)

        said(run("leaderboard", "release", exam_id))
        released = await shows(bob, exam_id, ["Bob", "Ada"], series=series, cohort="north")

    assert [places(board) for board in frozen] == [{("Ada", 1, 2), ("Bob", 2, 0)}] * 2
    assert verified.exit_code == 0, verified.output
    assert (places(released), released["me"]["rank"]) == ({("Bob", 1, 8), ("Ada", 2, 2)}, 1)


async def eventually_board(student: Student, exam: str, series: str, highest: int) -> dict[str, Any]:
    """Wait until a series' board shows so many points at its top."""

    async def there() -> dict[str, Any] | None:
        board = await student.board(exam, series=series)
        return board if board["entries"] and board["entries"][0]["score"] == highest and not board["rebuilding"] else None

    board: dict[str, Any] = await eventually(there)
    return board


async def test_a_series_of_an_exam_that_does_not_exist_names_the_field(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack, roles=["admin"]) as admin:
        reply = await admin.http.put(f"/api/v1/admin/series/{fresh('s')}", json={"examIds": [exam_id, "no-such-exam"]})

    assert refusal(reply) == (400, "INVALID_FIELD")
    assert "examIds[1]" in reply.text

"""Shadows of exams: made and removed inside PostgreSQL, by functions that touch nothing else."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from stores import keys
from stores.boards import Boards
from stores.connect import Stores
from stores.live import LiveSessions, Patience
from stores.records import SubmitReason
from stores.rehearsals import Rehearsals, Removed
from tests.flows.sitting import Student, good, refusal
from tests.stack import Stack, eventually, fresh, uuid7

TABLES = """
  SELECT format('%I.%I', n.nspname, c.relname) AS name, a.attname AS mine FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
  WHERE n.nspname IN ('public', 'keys') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND a.attname IN ('exam_id', 'session_id') AND NOT a.attisdropped
"""


def shadow_id() -> str:
    return f"rehearsal-{fresh('')}"


async def make(stack: Stack, stores: Stores, small_exam: dict[str, Any], exam: str, **settings: Any) -> str:
    """Import an exam, and make a shadow of it; returns the shadow's id."""
    await stack.import_exam(small_exam, exam, **settings)
    shadow = shadow_id()
    assert await stores.postgres.fetchval("SELECT create_rehearsal($1, $2, 60)", exam, shadow)
    return shadow


async def rows_of(stores: Stores, exam: str, sessions: list[object]) -> Mapping[str, int]:
    """How many rows of each table belong to an exam or to its sessions."""
    found = {}
    for table in await stores.postgres.fetch(TABLES):
        ids = [exam] if table["mine"] == "exam_id" else [str(session) for session in sessions]
        query = f"SELECT count(*) FROM {table['name']} WHERE {table['mine']}::text = ANY ($1)"
        count = await stores.postgres.fetchval(query, ids)
        found[f"{table['name']}.{table['mine']}"] = count
    return found


async def sit_and_leave_a_row_everywhere(stores: Stores, exam: str) -> object:
    """Insert a session of an exam with a row in every table that may hold one of it."""
    session = uuid7()
    whose = f"'{session}'"
    await stores.postgres.execute(
        f"""
        INSERT INTO exam_session (id, student_id, exam_id, exam_version, cohorts, attempt, alias, started_at, ends_at)
          VALUES ({whose}, 'ann', '{exam}', 1, '{{}}', 1, 'Ann', now(), now() + interval '1 hour');
        INSERT INTO session_answer VALUES ({whose}, 'q1', 'c:B', 1, now(), '\\x00', '\\x00', NULL);
        INSERT INTO result (session_id, exam_id, exam_version, student_id, score, max_score, status, key_version, answers,
                            answers_sha256, points)
          VALUES ({whose}, '{exam}', 1, 'ann', 0, 1, 'SCORED', 1, '{{}}', '\\x00', '{{0}}');
        INSERT INTO result_history VALUES ({whose}, 1, 0, 'SCORED', 1, '{{0}}', now(), 'regrade');
        INSERT INTO submission (session_id, subject, event, claimed_until)
          VALUES ({whose}, 'submits.{exam}.{session}', '\\x00', 'infinity');
        INSERT INTO dead_letter (session_id, subject, event, error) VALUES ({whose}, 'submits.{exam}.{session}', '\\x00', 'bad');
        INSERT INTO session_pause VALUES ({whose}, now(), now() + interval '1 minute', NULL);
        INSERT INTO deadline_adjustment VALUES ({whose}, gen_random_uuid(), 5, 'why', 'boss');
        INSERT INTO standing (exam_id, student_id, session_id) VALUES ('{exam}', 'ann', {whose});
        INSERT INTO accommodation (student_id, exam_id, extra_seconds) VALUES ('ann', '{exam}', 9);
        INSERT INTO enrolment VALUES ('{exam}', 'ann', NULL);
        INSERT INTO grading_task (session_id, question_id, exam_id, slot) VALUES ({whose}, 'q1', '{exam}', 1);
        INSERT INTO regrade (exam_id, dry_run, key_version, results, actor, reason) VALUES ('{exam}', true, 1, 0, 'boss', '');
        INSERT INTO exam_series VALUES ('of-{exam}', 'all of them', NULL) ON CONFLICT DO NOTHING;
        INSERT INTO exam_series_member VALUES ('of-{exam}', '{exam}');
        INSERT INTO sealed_paper VALUES ('{exam}', 1, '{session}', '\\x00') ON CONFLICT DO NOTHING;
        INSERT INTO exam_statistics VALUES ('{exam}', 1, 1, '{{}}', now());
        INSERT INTO integrity_signal (session_id, id, kind, received_at) VALUES ({whose}, gen_random_uuid(), 'COPY', now());
        INSERT INTO integrity_count VALUES ({whose}, 'COPY', '{exam}', 1, 0, 0, now(), now());
        INSERT INTO integrity_count VALUES (gen_random_uuid(), 'COPY', '{exam}', 1, 0, 0, NULL, NULL);
        INSERT INTO integrity_presence VALUES ({whose}, 'd', '', '\\x00', now(), now());
        INSERT INTO integrity_pace VALUES ('{exam}', 1, 'q1', 1, 0, 0);
        INSERT INTO integrity_seen VALUES ({whose}, '{exam}', 1, true);
        INSERT INTO integrity_erased VALUES ({whose}, now());
        INSERT INTO integrity_threshold VALUES ('{exam}', 'copy', 9, 'boss', now());
        INSERT INTO integrity_analysis (exam_id, version, options, requested_by) VALUES ('{exam}', 1, '{{}}', 'boss');
        INSERT INTO integrity_pair VALUES
          ('{exam}', 1, 1, 'omega', {whose}, {whose}, 'ann', 'ann', NULL, 0, 1, 1, false, 0, 0, 0, 0, 0, '{{}}');
        WITH opened AS (
          INSERT INTO integrity_case (exam_id, sessions, opened_by, evidence)
          VALUES ('{exam}', ARRAY[{whose}::uuid], 'boss', '{{}}') RETURNING id
        ) INSERT INTO integrity_case_student (case_id, place, session_id, student_id) SELECT id, 1, {whose}, 'ann' FROM opened;
        """
    )
    return session


async def test_a_shadow_has_the_paper_and_the_keys_of_its_exam_and_opens_at_once(
    stack: Stack, stores: Stores, small_exam: dict[str, Any], exam_id: str
) -> None:
    later = "2099-01-01T00:00:00Z"
    shadow = await make(
        stack, stores, small_exam, exam_id, opensAt=later, productId="gold", enrolment="ROSTER", release__score="MANUAL"
    )
    copied = {
        table: [
            await stores.postgres.fetchval(
                f"SELECT jsonb_agg(to_jsonb(t) - 'exam_id' - 'created_at' ORDER BY to_jsonb(t)->>'{order}')::text"
                f" FROM {table} t WHERE exam_id = $1",
                exam,
            )
            for exam in (exam_id, shadow)
        ]
        for table, order in {
            "question": "id",
            "exam_paper": "exam_version",
            "exam_key": "key_version",
            "keys.answer_key": "question_id",
            "keys.explanation": "question_id",
        }.items()
    }
    exam = await stores.postgres.fetchrow("SELECT * FROM exam WHERE id = $1", shadow)

    assert all(mine == theirs is not None for mine, theirs in copied.values()), copied
    assert "canary" in copied["keys.answer_key"][1]
    assert exam["shadow_of"] == exam_id
    assert [exam[name] for name in ("opens_at", "closes_at", "product_id", "enrolment")] == [None, None, None, "OPEN"]
    assert [exam[name] for name in ("release_score", "release_review")] == ["IMMEDIATELY", "IMMEDIATELY"]
    assert exam["duration_seconds"] == small_exam["exam"]["durationSeconds"]
    assert (exam["board_frozen_at"], exam["board_revealed_at"]) == (None, None)


async def test_only_the_newest_paper_and_keys_are_rehearsed(
    stack: Stack, stores: Stores, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    mended = json.loads(json.dumps(small_exam).replace('{"choice": "B"}', '{"choice": "C"}'))
    shadow = await make(stack, stores, mended, exam_id)

    keys = await stores.postgres.fetch("SELECT DISTINCT key_version FROM keys.answer_key WHERE exam_id = $1", shadow)

    assert [row["key_version"] for row in keys] == [2]


@pytest.mark.parametrize("role", ["session", "scoring", "leaderboard", "content"])
@pytest.mark.parametrize("call", ["create_rehearsal('x', 'rehearsal-00000000', 60)", "remove_rehearsal('rehearsal-00000000')"])
async def test_nobody_but_the_admin_service_makes_or_removes_shadows(stores: Stores, role: str, call: str) -> None:
    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute(f"SET LOCAL ROLE finalbell_{role}")

        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval(f"SELECT {call}")


async def test_the_admin_service_makes_and_removes_a_shadow_with_its_own_rights(
    stores: Stores, stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    shadow = shadow_id()
    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL ROLE finalbell_admin")
        made = await connection.fetchval("SELECT create_rehearsal($1, $2, 60)", exam_id, shadow)
        removed = await connection.fetchval("SELECT remove_rehearsal($1)", shadow)

    assert (made, removed) == (True, 0)
    assert not any((await rows_of(stores, shadow, [])).values())


async def test_a_shadow_has_no_shadow_and_its_name_is_a_shadows(
    stack: Stack, stores: Stores, small_exam: dict[str, Any], exam_id: str
) -> None:
    shadow = await make(stack, stores, small_exam, exam_id)

    assert not await stores.postgres.fetchval("SELECT create_rehearsal($1, $2, 60)", shadow, shadow_id())
    assert not await stores.postgres.fetchval("SELECT create_rehearsal('no-such-exam', $1, 60)", shadow_id())
    assert not await stores.postgres.fetchval("SELECT create_rehearsal($1, $2, 60)", exam_id, shadow)
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await stores.postgres.fetchval("SELECT create_rehearsal($1, 'finals', 60)", exam_id)


async def test_nothing_but_a_shadow_can_be_removed(stack: Stack, stores: Stores, small_exam: dict[str, Any], exam_id: str) -> None:
    shadow = await make(stack, stores, small_exam, exam_id)
    session = await sit_and_leave_a_row_everywhere(stores, exam_id)
    before = await rows_of(stores, exam_id, [session])

    for exam in (exam_id, "no-such-exam"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="is no rehearsal"):
            await stores.postgres.fetchval("SELECT remove_rehearsal($1)", exam)
    passed_over = await stores.postgres.fetchval("SELECT remove_rehearsal($1, $2)", shadow, [session])

    assert passed_over == 0
    assert await rows_of(stores, exam_id, [session]) == before


async def test_a_shadow_goes_with_every_row_of_its_sessions_in_whatever_table(
    stack: Stack, stores: Stores, small_exam: dict[str, Any], exam_id: str
) -> None:
    shadow = await make(stack, stores, small_exam, exam_id)
    session = await sit_and_leave_a_row_everywhere(stores, shadow)
    there = await rows_of(stores, shadow, [session])

    one = await stores.postgres.fetchval("SELECT remove_rehearsal($1, $2)", shadow, [session])
    rest = await stores.postgres.fetchval("SELECT remove_rehearsal($1)", shadow)
    gone = await rows_of(stores, shadow, [session])

    assert [table for table, rows in there.items() if not rows] == []  # it fills every table that there is
    assert (one, rest) == (1, 0)
    assert not any(gone.values()), gone
    assert await stores.postgres.fetchval("SELECT count(*) FROM exam WHERE id = $1", shadow) == 0


async def test_importing_the_exam_again_leaves_its_shadow_as_it_is(
    stack: Stack, stores: Stores, small_exam: dict[str, Any], exam_id: str
) -> None:
    shadow = await make(stack, stores, small_exam, exam_id)

    await stack.import_exam(small_exam, exam_id, title="Another title")

    assert (await stores.postgres.fetchval("SELECT title FROM exam WHERE id = $1", shadow)).startswith("Rehearsal of One of each")


@pytest.fixture
async def live(stores: Stores) -> LiveSessions:
    async def no_restore(session: uuid.UUID) -> bool:
        return False

    opened = LiveSessions(stores.live, no_restore, stores.generations.begin, Patience())
    await opened.prepare()
    return opened


async def test_a_submit_that_has_no_score_yet_is_waited_for(
    stack: Stack, stores: Stores, live: LiveSessions, small_exam: dict[str, Any], exam_id: str
) -> None:
    shadow = await make(stack, stores, small_exam, exam_id)
    rehearsals = Rehearsals(stores.postgres, live, Boards(stores.boards))
    async with Student(stack) as student, Student(stack) as late:
        session = uuid.UUID((await student.sit(shadow))["sessionId"])
        good(await student.save(str(session), "q1", choice="B"))
        await live.submit(session, student.name, SubmitReason.CLICK)  # flipped, and its service died: a net will publish it

        early = await rehearsals.remove(shadow, "boss", within_seconds=0.3)
        too_late = await late.start(shadow)

    async def whole() -> Removed | None:
        removed = await rehearsals.remove(shadow, "boss", within_seconds=2)
        return removed if removed is None or removed.whole else None

    assert early == Removed(gone=0, left=1, busy=1, whole=False)
    assert refusal(too_late) == (400, "EXAM_CLOSED")
    assert await eventually(whole, 30)
    assert await rehearsals.remove(shadow, "boss", within_seconds=1) is None
    assert not any((await rows_of(stores, shadow, [session])).values())
    actions = await stores.postgres.fetch("SELECT action FROM audit_log WHERE subject = $1 ORDER BY id", shadow)
    assert [row["action"] for row in actions] == ["rehearsal.close", "rehearsal.remove"]


async def test_a_retired_session_is_in_the_way_of_a_start_and_of_a_restore_that_were_under_way(
    stack: Stack, stores: Stores, live: LiveSessions, small_exam: dict[str, Any], exam_id: str
) -> None:
    shadow = await make(stack, stores, small_exam, exam_id)
    rehearsals = Rehearsals(stores.postgres, live, Boards(stores.boards))
    async with Student(stack) as student:
        session = uuid.UUID((await student.sit(shadow))["sessionId"])
    before = await live.state(session)
    assert before is not None
    await stores.live.delete(keys.session_key(session))  # PostgreSQL has it; Redis is only just being told
    await stores.live.set(keys.token_key(session), "a restore")

    removed = await rehearsals.remove(shadow, "boss", within_seconds=5)
    await live.start(before.facts, before.deadline)
    after = await live.state(session)

    assert removed == Removed(gone=1, left=0, busy=0, whole=True)
    assert after is not None
    assert after.facts == replace(before.facts, student="")
    assert await stores.live.get(keys.token_key(session)) is None
    assert await stores.live.zscore(keys.due_key(keys.shard(session)), str(session)) is None
    assert 0 < await stores.live.pttl(keys.session_key(session)) <= 30_000

"""The schema comes up once, whoever migrates, and months begin where UUIDv7 says that they begin."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from stores.migrate import migrate
from tests.stack import Stack, fresh, uuid7


@pytest.fixture(scope="module")
async def database(stack: Stack) -> AsyncIterator[str]:
    """An empty database beside the stack's own."""
    owner, name = stack.read()["postgres"], fresh("db")
    connection = await asyncpg.connect(owner)
    await connection.execute(f"CREATE DATABASE {name}")
    yield owner.rsplit("/", 1)[0] + f"/{name}"
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def test_two_migrators_at_once_apply_each_file_once(database: str) -> None:
    both = await asyncio.gather(*(asyncio.to_thread(migrate, database) for _ in range(2)))
    again = await asyncio.to_thread(migrate, database)

    assert sorted(len(applied) for applied in both)[0] == 0
    assert sorted(both[0] or both[1])[0] == "0001_roles"
    assert again == []


async def test_answers_and_results_go_into_the_month_in_which_their_session_began(database: str) -> None:
    await asyncio.to_thread(migrate, database)
    last, first = datetime(2026, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    connection = await asyncpg.connect(database)
    await connection.execute("SELECT make_partitions($1, 2)", last)
    for moment in (last, first):
        session = uuid7(int(moment.timestamp() * 1000))
        await connection.execute("INSERT INTO session_answer VALUES ($1, 'q1', 'c:A', 1, now(), '\\x00', '\\x00', NULL)", session)
        await connection.execute(
            """
            INSERT INTO result (session_id, exam_id, exam_version, student_id, score, max_score, status, key_version, answers,
                                answers_sha256, points)
            VALUES ($1, 'e', 1, 's', 0, 1, 'SCORED', 1, '{}', '\\x00', '{0}')
            """,
            session,
        )

    answers = await connection.fetch("SELECT tableoid::regclass::text AS part FROM session_answer ORDER BY session_id")
    results = await connection.fetch("SELECT tableoid::regclass::text AS part FROM result ORDER BY session_id")
    await connection.close()

    assert [row["part"] for row in answers] == ["session_answer_2026_12", "session_answer_2027_01"]
    assert [row["part"] for row in results] == ["result_2026_12", "result_2027_01"]


async def test_two_years_of_months_leave_no_gap_and_are_made_once(database: str) -> None:
    await asyncio.to_thread(migrate, database)
    connection = await asyncpg.connect(database)
    start = datetime(2027, 6, 15, tzinfo=UTC)

    made = await connection.fetchval("SELECT make_partitions($1, 24)", start)
    again = await connection.fetchval("SELECT make_partitions($1, 24)", start)
    bounds = await connection.fetch(
        """
        SELECT pg_get_expr(c.relpartbound, c.oid) AS bound FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'result'::regclass AND c.relname >= 'result_2027_05' ORDER BY c.relname
        """
    )
    await connection.close()

    edges = [row["bound"].split("'")[1::2] for row in bounds]
    assert made == 2 * 26
    assert again == 0
    assert [edge[1] for edge in edges[:-1]] == [edge[0] for edge in edges[1:]]


async def test_the_session_service_may_make_months_and_nothing_else(stack: Stack) -> None:
    connection = await asyncpg.connect(stack.read()["postgres"])
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE finalbell_session")
        made = await connection.fetchval("SELECT make_partitions(now(), 3)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with connection.transaction():
                await connection.execute("CREATE TABLE mine (id int)")
    await connection.close()

    assert made == 0


@pytest.mark.parametrize("role", ["session", "leaderboard", "content"])
@pytest.mark.parametrize("table", ["keys.answer_key", "keys.explanation"])
async def test_nobody_but_scoring_and_the_importer_reads_keys(stack: Stack, role: str, table: str) -> None:
    connection = await asyncpg.connect(stack.read()["postgres"])
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE finalbell_{role}")

        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with connection.transaction():
                await connection.fetch(f"SELECT * FROM {table}")
    await connection.close()

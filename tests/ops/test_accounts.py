"""Every service's account may do what its service needs, and nothing beside: a stolen password opens one door."""

import asyncio
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest
from nats.aio.client import Client
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from ops import accounts
from ops.accounts import ACCOUNTS, Account
from tests.stack import Stack, eventually, fresh

ALL_KEYS = sorted({pattern.removesuffix("*") for account in ACCOUNTS for pattern in account.redis_keys} | {"other:"})
each = pytest.mark.parametrize("account", ACCOUNTS, ids=lambda account: account.name)
KEY_TABLES = ("keys.answer_key", "keys.explanation")
RIGHTS: dict[str, dict[str, str]] = {
    "session": {
        **dict.fromkeys(("accommodation", "deadline_adjustment", "enrolment", "entitlement", "exam", "exam_paper"), "S"),
        **dict.fromkeys(("exam_product", "question", "result", "setting"), "S"),
        **dict.fromkeys(("exam_session", "session_answer"), "SIU"),
        **dict.fromkeys(("dead_letter", "session_pause"), "SIu"),
        "submission": "SID",
    },
    "scoring": {
        **dict.fromkeys(("exam", "exam_key", "keys.answer_key", "keys.explanation", "question", "session_pause", "setting"), "S"),
        **dict.fromkeys(("dead_letter", "exam_statistics", "grading_task", "regrade", "result", "standing"), "SIU"),
        "audit_log": "I",
        **dict.fromkeys(("exam_series", "exam_series_member"), "S"),
        "exam_session": "Su",
        **dict.fromkeys(("entitlement", "exam_product", "newest_keys"), "S"),
        "result_history": "SI",
        "session_answer": "s",
        "submission": "SuD",
    },
    "leaderboard": {
        **dict.fromkeys(("exam", "exam_product", "exam_series", "exam_series_member", "setting", "standing"), "S"),
        "exam_session": "s",
    },
    "content": {
        **dict.fromkeys(
            ("bank", "entitlement", "exam", "exam_paper", "exam_product", "exam_session", "lecture", "practice_question"), "S"
        ),
        **dict.fromkeys(("practice_question", "product_opens", "question", "sealed_paper", "setting"), "S"),
        "result": "s",
    },
    "payments": {
        **dict.fromkeys(("coupon", "entitlement", "gateway_read", "payment", "product"), "SIU"),
        **dict.fromkeys(("product_opens", "product_part"), "SID"),
        **dict.fromkeys(("click_payment", "payme_transaction", "webhook_event"), "SIu"),
        **dict.fromkeys(("entitlement_entry", "payment_fact", "payment_refund"), "SI"),
        "audit_log": "I",
        "setting": "S",
    },
    "integrity": {
        **dict.fromkeys(("integrity_count", "integrity_erased", "integrity_feed", "integrity_presence", "integrity_seen"), "SIUD"),
        **dict.fromkeys(("exam", "exam_key", "exam_paper", "exam_session", "result", "session_answer"), "s"),
        **dict.fromkeys(("integrity_case", "integrity_case_student"), "SIu"),
        **dict.fromkeys(("integrity_case_step", "integrity_pair"), "SI"),
        "integrity_analysis": "SIU",
        "question": "S",
        "integrity_threshold": "SIUD",
        "integrity_signal": "SID",
        "integrity_pace": "SIU",
        "audit_log": "I",
        "setting": "S",
    },
    "admin": {
        **dict.fromkeys(("result", "result_history", "session_answer", "session_pause", "setting"), "S"),
        "standing": "Su",
        **dict.fromkeys(("exam_series", "exam_series_member", "lecture"), "SIUD"),
        **dict.fromkeys(("audit_log", "deadline_adjustment", "exam_key", "exam_paper", "question"), "SI"),
        **dict.fromkeys(("keys.answer_key", "keys.explanation"), "SI"),
        **dict.fromkeys(("accommodation", "exam"), "SIU"),
        **dict.fromkeys(("dead_letter", "exam_session"), "Su"),
        "grading_task": "s",
        **dict.fromkeys(("exam_product", "newest_keys", "product_opens", "unopened_question"), "S"),
        "bank": "SIUD",
        "bank_question": "SID",
        "keys.sealed_paper_key": "I",
        "sealed_paper": "sI",
        "submission": "sI",
    },
}
"""Select, Insert, Update, Delete, Truncate; small: some columns only."""


def url(stack: Stack, server: str, account: Account) -> str:
    """A service's own address of a server."""
    passwords = json.loads((stack.home / "secrets.json").read_text())
    user = accounts.postgres_role(account.name) if server == "postgres" else account.name
    host = str(stack.read()[server]).rpartition("@")[2]
    return f"{'postgresql' if server == 'postgres' else server}://{user}:{passwords[account.name]}@{host}"


# Redis


@each
async def test_redis_gives_a_service_its_own_keys_only(stack: Stack, account: Account) -> None:
    own = {pattern.removesuffix("*") for pattern in account.redis_keys}

    async with Redis.from_url(url(stack, "redis", account)) as redis:
        for prefix in ALL_KEYS:
            name = f"{prefix}{fresh('k')}"
            if prefix in own:
                await redis.set(name, "1")
                assert await redis.get(name) == b"1"
                await redis.delete(name)
                continue
            for act in (
                redis.get(name),
                redis.set(name, "1"),
                redis.delete(name),
                redis.xadd(name, {"a": "1"}),
                redis.rename(name, "s:x"),
            ):
                with pytest.raises(NoPermissionError):
                    await act


@each
@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "RANDOMKEY", "CONFIG GET *", "CONFIG SET maxmemory 1", "ACL LIST",
     "SHUTDOWN", "MONITOR", "SAVE", "BGREWRITEAOF", "CLIENT LIST", "EVAL return 0", "FUNCTION FLUSH", "FUNCTION DELETE finalbell",
     "REPLICAOF 127.0.0.1 1", "MODULE LIST", "SWAPDB 0 1"],
)  # fmt: skip
async def test_redis_gives_no_service_what_concerns_all(stack: Stack, account: Account, command: str) -> None:
    words = command.split() if not command.startswith("EVAL") else ["EVAL", "return 0", "0"]

    async with Redis.from_url(url(stack, "redis", account)) as redis:
        with pytest.raises(NoPermissionError):
            await redis.execute_command(*words)


async def test_redis_lets_nobody_in_without_a_name(stack: Stack) -> None:
    async with Redis.from_url(f"redis://{stack.read()['redis'].rpartition('@')[2]}", protocol=2) as redis:
        with pytest.raises(AuthenticationError):
            await redis.ping()


# NATS


class Connected:
    """A NATS connection that keeps what the server refuses."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.client = Client()

    async def note(self, error: Exception) -> None:
        self.refused.append(str(error).lower())

    async def refuses(self, subject: str) -> None:
        """Wait until the server has refused something about a subject."""

        async def noted() -> bool:
            return any(f'"{subject.lower()}"' in error for error in self.refused)

        await eventually(noted, 5)


@pytest.fixture
async def as_service(stack: Stack, account: Account) -> AsyncIterator[Connected]:
    connected = Connected()
    await connected.client.connect(
        url(stack, "nats", account), error_cb=connected.note, inbox_prefix=f"_INBOX_{account.name}".encode(), allow_reconnect=False
    )
    yield connected
    await connected.client.close()


@each
async def test_nats_refuses_to_publish_outside_a_service_s_subjects(as_service: Connected, account: Account) -> None:
    foreign = ["other.thing", "$SYS.REQ.SERVER.PING", "$JS.API.STREAM.DELETE.SUBMITS", "$JS.API.STREAM.PURGE.SUBMITS",
               "$JS.API.STREAM.CREATE.OTHER", "$JS.API.STREAM.LIST", "$JS.API.CONSUMER.DELETE.SUBMITS.scoring"]  # fmt: skip
    foreign += [subject for subject in ("submits.e.s", "scored.s", "$JS.ACK.SUBMITS.x") if not _may(account.publish, subject)]

    for subject in foreign:
        await as_service.client.publish(subject, b"")

    for subject in foreign:
        await as_service.refuses(subject)


@each
async def test_nats_refuses_to_listen_outside_a_service_s_subjects(as_service: Connected, account: Account) -> None:
    others = [f"_INBOX_{other.name}.>" for other in ACCOUNTS if other is not account]
    foreign = [">", "submits.>", "_INBOX.>", "$JS.>", *others, *([] if account.subscribe else ["scored.>"])]

    for subject in foreign:
        await as_service.client.subscribe(subject)

    for subject in foreign:
        await as_service.refuses(subject)


@each
async def test_nats_lets_a_service_do_its_own(as_service: Connected, account: Account) -> None:
    for subject in account.subscribe:
        await as_service.client.subscribe(subject)
    if _may(account.publish, "$JS.API.STREAM.INFO.SUBMITS"):
        assert (await as_service.client.jetstream().stream_info("SUBMITS")).config.name == "SUBMITS"

    await as_service.client.flush()

    assert as_service.refused == []


async def test_nats_lets_nobody_in_without_a_name(stack: Stack) -> None:
    host, _, port = str(stack.read()["nats"]).rpartition("@")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        greeting = await reader.readline()
        writer.write(b'CONNECT {"verbose": true}\r\nPING\r\n')

        assert b'"auth_required":true' in greeting
        assert await reader.readline() == b"-ERR 'Authorization Violation'\r\n"
    finally:
        writer.close()
        await writer.wait_closed()


def _may(allowed: tuple[str, ...], subject: str) -> bool:
    return any(subject == one or (one.endswith(">") and subject.startswith(one[:-1])) for one in allowed)


# PostgreSQL


@pytest.fixture
async def as_role(stack: Stack, account: Account) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url(stack, "postgres", account))
    yield connection
    await connection.close()


@each
async def test_a_service_has_these_rights_on_tables_and_no_other(as_role: asyncpg.Connection, account: Account) -> None:
    """So that a new table, or a new right on an old one, is somebody's decision and not a leftover."""
    tables = await as_role.fetch(
        """SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname AS name
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"""
    )
    found = {row["name"]: await _rights(as_role, row["name"]) for row in tables}

    assert {name: rights for name, rights in found.items() if rights} == RIGHTS[account.name]


async def _rights(connection: asyncpg.Connection, table: str) -> str:
    """A role's rights on a table, a letter each; small where it has them on some columns only."""
    schema = table.rpartition(".")[0] or "public"
    if not await connection.fetchval("SELECT has_schema_privilege($1, 'USAGE')", schema):
        return ""
    letters = ""
    for right in ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"):
        if await connection.fetchval("SELECT has_table_privilege($1, $2)", f"{schema}.{table.rpartition('.')[2]}", right):
            letters += right[0]
        elif right in ("SELECT", "INSERT", "UPDATE") and await connection.fetchval(
            "SELECT has_any_column_privilege($1, $2)", f"{schema}.{table.rpartition('.')[2]}", right
        ):
            letters += right[0].lower()
    return letters


@each
@pytest.mark.parametrize("table", KEY_TABLES)
async def test_only_scoring_and_the_importer_may_read_answer_keys(
    as_role: asyncpg.Connection, account: Account, table: str
) -> None:
    reading = f"SELECT count(*) FROM {table}"

    if account.name in ("scoring", "admin"):
        assert await as_role.fetchval(reading) >= 0
    else:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
            await as_role.execute(reading)


@each
@pytest.mark.parametrize("table", KEY_TABLES)
async def test_only_the_importer_may_write_answer_keys_and_nobody_changes_one(
    as_role: asyncpg.Connection, account: Account, table: str
) -> None:
    rights = {right for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE") if await _has(as_role, table, right)}

    assert rights == ({"INSERT"} if account.name == "admin" else set())


@pytest.mark.parametrize("account", [a for a in ACCOUNTS if a.name in ("content", "leaderboard")], ids=lambda account: account.name)
async def test_content_and_leaderboard_write_nothing(as_role: asyncpg.Connection, account: Account) -> None:
    tables = await as_role.fetch(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname IN ('public', 'keys')"
    )

    assert len(tables) > 10
    for table in tables:
        for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
            assert not await _has(as_role, table["name"], right), (table["name"], right)


@each
async def test_no_service_owns_or_makes_anything(as_role: asyncpg.Connection, account: Account) -> None:
    role = await as_role.fetchrow(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = current_user"
    )

    assert not any(role)
    for making in ("CREATE TABLE mine (a int)", "CREATE SCHEMA mine", "CREATE ROLE mine", "ALTER ROLE finalbell PASSWORD 'x'"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_role.execute(making)


async def _has(connection: asyncpg.Connection, table: str, right: str) -> bool:
    """Whether a role has a right on a table or on any of its columns."""
    if not await connection.fetchval("SELECT has_schema_privilege($1, 'USAGE')", table.partition(".")[0]):
        return False
    asked = "has_any_column_privilege($1, $2)" if right in ("INSERT", "UPDATE") else "has_table_privilege($1, $2)"
    return bool(await connection.fetchval(f"SELECT {asked}", table, right))

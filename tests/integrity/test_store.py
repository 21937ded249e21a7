"""Signals in PostgreSQL: once each, of the right student, for a time, and gone without a trace but a count."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from stores.connect import Stores
from stores.signal_records import Feed, Kind, Presence, Signal, Wanted
from stores.signals import Signals, Written
from tests.flows.sitting import Student
from tests.stack import Stack, eventually, fresh, uuid7

GRACE = 600


@pytest.fixture
async def sitting(stack: Stack, exam: str) -> Any:
    """A session in progress, and its student."""
    async with Student(stack) as student:
        return UUID((await student.sit(exam))["sessionId"]), student.name


def signal(sitting: tuple[UUID, str], kind: Kind = Kind.COPY, amount: int = 0, **more: Any) -> Signal:
    session, student = sitting
    fields = {"id": uuid4(), "client_ms": None, "received_ms": now_ms(), "device": "d", **more}
    return Signal(session=session, student=student, kind=kind, amount=amount, **fields)


def now_ms() -> int:
    return round(datetime.now(UTC).timestamp() * 1000)


async def counts(stores: Stores, session: UUID) -> dict[str, tuple[int, int, int]]:
    rows = await stores.postgres.fetch("SELECT * FROM integrity_count WHERE session_id = $1", session)
    return {row["kind"]: (row["count"], row["amount"], row["peak"]) for row in rows}


async def test_a_batch_that_comes_again_changes_nothing(stores: Stores, signals: Signals, sitting: tuple[UUID, str]) -> None:
    batch = [signal(sitting, Kind.PASTE, 30), signal(sitting, Kind.PASTE, 12), signal(sitting, Kind.DISPLAY_COUNT, 2)]

    written = [await signals.keep(batch, (), (), GRACE) for _ in range(3)]
    more = await signals.keep([*batch, signal(sitting, Kind.PASTE, 50)], (), (), GRACE)

    assert written == [Written(3, 0, 0), Written(0, 0, 0), Written(0, 0, 0)]
    assert more == Written(1, 0, 0)
    assert await counts(stores, sitting[0]) == {"PASTE": (3, 92, 50), "DISPLAY_COUNT": (1, 2, 2)}


async def test_signals_of_anothers_session_are_counted_and_not_kept(
    stores: Stores, signals: Signals, sitting: tuple[UUID, str]
) -> None:
    foreign = [signal((sitting[0], fresh("s"))), signal((uuid7(), sitting[1])), signal((uuid4(), sitting[1]))]

    written = await signals.keep([*foreign, signal(sitting)], (), (), GRACE)

    assert written == Written(1, 3, 0)
    assert await counts(stores, sitting[0]) == {"COPY": (1, 0, 0)}


async def test_pings_are_counted_and_not_kept(stores: Stores, signals: Signals, sitting: tuple[UUID, str]) -> None:
    await signals.keep([signal(sitting, Kind.PING) for _ in range(5)], (), (), GRACE)

    assert (await counts(stores, sitting[0]))["PING"][0] == 5
    assert await stores.postgres.fetch("SELECT FROM integrity_signal WHERE session_id = $1", sitting[0]) == []


async def test_a_place_is_one_row_from_its_first_report_to_its_last(signals: Signals, sitting: tuple[UUID, str]) -> None:
    def place(first: int, last: int, student: str = sitting[1]) -> Presence:
        return Presence(sitting[0], student, "d", "192.0.2.1", b"t", first, last)

    for first, last in [(5_000, 6_000), (2_000, 3_000), (4_000, 9_000)]:
        await signals.keep((), [place(first, last)], (), GRACE)
    await signals.keep((), [place(0, 99_000, fresh("s"))], (), GRACE)

    assert await signals.presences([sitting[0]]) == [place(2_000, 9_000)]


@pytest.mark.parametrize(
    ("events", "lost"),
    [
        ([(0, 10), (10, 5)], 0),
        ([(0, 10), (30, 5)], 20),
        ([(7, 5)], 7),
        ([(0, 10), (20, 5), (10, 10)], 0),
        ([(0, 10), (20, 5), (0, 10)], 10),
        ([(0, 10), (20, 5), (20, 5), (20, 5)], 10),
        ([(0, 10), (20, 5), (40, 5), (10, 10), (10, 10)], 15),
        ([(0, 10), (20, 0)], 10),
        ([(10 * n, 5) for n in range(1_500)], 7_495),
        ([(10 * n, 5) for n in (*range(1_500), 1_499, 1_499, 1_200)], 7_495),
    ],
    ids=[
        "none missing",
        "a gap",
        "the first ones",
        "overtaken",
        "one comes again",
        "one that the stream has twice",
        "one that a worker died with, after others",
        "an empty one",
        "very many gaps",
        "very many gaps, and the last ones again",
    ],
)
async def test_what_was_published_and_never_came_is_counted(
    stores: Stores, signals: Signals, events: list[tuple[Any, ...]], lost: int
) -> None:
    publisher = uuid4()

    for event in events:
        await signals.keep((), (), [Feed(publisher, *event)], GRACE)

    assert await stores.postgres.fetchval("SELECT lost FROM integrity_feed WHERE publisher = $1", publisher) == lost
    assert await signals.lost() >= lost
    await stores.postgres.execute("DELETE FROM integrity_feed WHERE publisher = $1", publisher)


async def test_only_what_is_looked_for_is_found(signals: Signals, exam: str, sitting: tuple[UUID, str]) -> None:
    await signals.keep([signal(sitting, Kind.PASTE, 150), signal(sitting, Kind.PASTE, 20), signal(sitting)], (), (), GRACE)

    async def kinds(*wanted: Wanted) -> list[str]:
        return [count.kind for one in (await signals.over(exam, wanted, 9))[0] for count in one.counts]

    assert await kinds(Wanted(Kind.PASTE, "count", 2)) == ["PASTE"]
    assert await kinds(Wanted(Kind.PASTE, "peak", 150)) == ["PASTE"]
    assert await kinds(Wanted(Kind.PASTE, "amount", 170)) == ["PASTE"]
    assert await kinds(Wanted(Kind.PASTE, "count", 3), Wanted(Kind.PASTE, "peak", 151), Wanted(Kind.PASTE, "amount", 171)) == []
    (found,), total = await signals.over(exam, [Wanted(Kind.COPY, "count", 1)], 9)
    assert (found.session, found.student, total) == (*sitting, 1)


async def test_the_strongest_come_first_and_the_others_are_counted(stack: Stack, signals: Signals, exam: str) -> None:
    sittings = []
    for count in (2, 4, 3, 1):
        async with Student(stack) as student:
            sittings.append((UUID((await student.sit(exam))["sessionId"]), student.name))
        await signals.keep([signal(sittings[-1]) for _ in range(count)], (), (), GRACE)

    found, total = await signals.over(exam, [Wanted(Kind.COPY, "count", 2)], 2)

    assert [one.session for one in found] == [sittings[1][0], sittings[2][0]]
    assert total == 3


# Forgetting


async def test_a_batch_that_is_being_kept_during_an_erasure_does_not_survive_it(
    stores: Stores, signals: Signals, sitting: tuple[UUID, str]
) -> None:
    feed = Feed(uuid4(), 0, 1)
    place = Presence(*sitting, "d", "192.0.2.1", b"t", now_ms(), now_ms())
    await signals.keep((), (), [feed], GRACE)
    async with stores.postgres.acquire() as held:
        holding = held.transaction()
        await holding.start()
        await held.execute("SELECT FROM integrity_feed WHERE publisher = $1 FOR UPDATE", feed.publisher)
        keeping = asyncio.ensure_future(signals.keep([signal(sitting)], [place], [feed], GRACE))
        await eventually(lambda: waiting(stores, "%INSERT INTO integrity_feed%"))
        erasing = asyncio.ensure_future(signals.erase(sitting[1], "operator", 0))
        await asyncio.wait([erasing], timeout=0.3)
        await holding.rollback()
    await asyncio.gather(keeping, erasing)

    assert await counts(stores, sitting[0]) == {}
    for table in ("integrity_signal", "integrity_presence"):
        assert await stores.postgres.fetch(f"SELECT FROM {table} WHERE session_id = $1", sitting[0]) == []


async def waiting(stores: Stores, statement: str) -> bool:
    """Whether somebody waits for a lock with such a statement."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1"
    return bool(await stores.postgres.fetchval(query, statement))


async def test_an_erased_student_leaves_counts_that_lead_nowhere_and_what_was_under_way_is_dropped(
    stores: Stores, signals: Signals, exam: str, sitting: tuple[UUID, str]
) -> None:
    session, student = sitting
    under_way = signal(sitting)
    place = Presence(session, student, "d", "192.0.2.1", b"t", now_ms(), now_ms())
    await signals.keep([signal(sitting), signal(sitting, Kind.PASTE, 9)], [place], (), GRACE)

    erased = await signals.erase(student, "operator", 3)
    late = await signals.keep([under_way], [place], (), GRACE)
    again = await signals.erase(student, "operator", 0)

    assert (erased.sessions, erased.signals, again.sessions, again.signals) == (1, 2, 0, 0)
    assert late == Written(0, 0, 1)
    assert await counts(stores, session) == {}
    for table in ("integrity_signal", "integrity_presence"):
        assert await stores.postgres.fetchval(f"SELECT count(*) FROM {table} WHERE session_id = $1", session) == 0
    left = await stores.postgres.fetch("SELECT * FROM integrity_count WHERE exam_id = $1", exam)
    assert {(row["kind"], row["count"], row["amount"]) for row in left} == {("COPY", 1, 0), ("PASTE", 1, 9)}
    assert {(row["first_at"], row["last_at"]) for row in left} == {(None, None)}
    assert len({row["session_id"] for row in left}) == 1
    assert await signals.over(exam, [Wanted(Kind.COPY, "count", 1)], 9) == ([], 0)
    records = await stores.postgres.fetch(
        "SELECT actor, details FROM audit_log WHERE action = 'integrity.erase' AND subject = $1 ORDER BY id", student
    )
    assert [row["actor"] for row in records] == ["operator", "operator"]
    assert '"frames": 3' in records[0]["details"]


async def test_what_comes_after_an_erasure_is_kept_again(stores: Stores, signals: Signals, sitting: tuple[UUID, str]) -> None:
    await signals.erase(sitting[1], "operator", 0)

    await signals.keep([signal(sitting, received_ms=now_ms() + 5_000)], (), (), GRACE)

    assert await counts(stores, sitting[0]) == {"COPY": (1, 0, 0)}


async def test_months_that_are_over_go_whole_and_their_counts_lead_nowhere(stores: Stores, signals: Signals) -> None:
    january = datetime(2020, 1, 15, tzinfo=UTC)
    session, exam = uuid7(round(january.timestamp() * 1000)), fresh("t")
    made = await signals.make_partitions(0, january)
    insert = "INSERT INTO integrity_signal (session_id, id, kind, received_at) VALUES ($1, $2, 'COPY', $3)"
    await stores.postgres.execute(insert, session, uuid4(), january)
    count = "INSERT INTO integrity_count VALUES ($1, 'COPY', $2, 1, 0, 0, $3, $3)"
    await stores.postgres.execute(count, session, exam, january)

    early = await signals.forget_before(datetime(2020, 1, 31, tzinfo=UTC))
    gone = await signals.forget_before(datetime(2020, 2, 1, tzinfo=UTC))

    assert (made, early, gone) == (2, 1, 1)
    (row,) = await stores.postgres.fetch("SELECT * FROM integrity_count WHERE exam_id = $1", exam)
    assert (row["count"], row["last_at"]) == (1, None)
    assert row["session_id"] != session


async def test_months_are_made_once_and_ahead(signals: Signals) -> None:
    assert await signals.make_partitions() == 0


async def test_nobody_can_drop_what_is_of_today(stores: Stores) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await stores.postgres.fetchval("SELECT drop_signal_partitions($1)", datetime.now(UTC) + timedelta(days=400))

"""Results are kept once, and places follow them: in SQL and on the boards by one rule."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest

from servers.scoring.rules import decided
from stores.boards import Boards, order_key
from stores.catalog import Catalog
from stores.connect import Stores
from stores.grading import MOST_CLAIMS, Claimed, GradingTasks, NotClaimed
from stores.places import Places
from stores.records import Result, SubmitReason, answers_sha256, encode_answers
from stores.regrades import Regrades, RunLost
from stores.results import Kept, Results
from stores.revisions import Regraded, Revisions
from stores.sessions import Sessions
from stores.standings import Standings
from tests.stack import fresh

BEGAN = 1_790_000_000_000


async def sat(
    stores: Stores, exam: str, student: str, attempt: int, took_ms: int, score: int, cohorts: Sequence[str] = ()
) -> Result:
    """Insert a session that was handed in, and return its result, not kept yet. It ends late: the bell would hand it in first."""
    session: UUID = await stores.postgres.fetchval(
        """
        INSERT INTO exam_session (student_id, exam_id, exam_version, cohorts, attempt, alias, started_at, ends_at, submitted_at)
        SELECT $1, $2, 1, $3, $4, $1, t, t + interval '100 years', t + make_interval(secs => $5 / 1000.0)
        FROM to_timestamp($6 / 1000.0) AS t RETURNING id
        """,
        student,
        exam,
        list(cohorts),
        attempt,
        float(took_ms),
        float(BEGAN),
    )
    encoded = encode_answers({"q1": "c:B"})
    return Result(
        session=session,
        exam=exam,
        exam_version=1,
        student=student,
        score=score,
        max_score=100,
        partial=False,
        key_version=1,
        answers=encoded,
        answers_sha256=answers_sha256(encoded),
        points=(score,),
        submitted_ms=BEGAN + took_ms,
        reason=SubmitReason.CLICK,
    )


async def standing(stores: Stores, exam: str, student: str) -> tuple[int | None, UUID | None]:
    row = await stores.postgres.fetchrow(
        "SELECT score, session_id FROM standing WHERE exam_id = $1 AND student_id = $2", exam, student
    )
    return row["score"], row["session_id"]


async def test_a_redelivered_batch_changes_nothing(stores: Stores, exam: str) -> None:
    result = await sat(stores, exam, "ada", 1, 1000, 7)

    first = await Results(stores.postgres, decided).keep([result])
    again = await Results(stores.postgres, decided).keep([replace(result, score=99), result][1:])

    assert (first.new, again.new) == (1, 0)
    assert again.totals[result.session].score == 7
    assert again.differing == frozenset()


@pytest.mark.parametrize(
    ("revoked", "held_back"), [([], False), ([False], False), ([True], True), ([True, False], False), ([True, True], True)]
)
async def test_no_total_is_told_of_an_exam_whose_purchase_was_reversed(
    stores: Stores, exam: str, revoked: Sequence[bool], held_back: bool
) -> None:
    student, results, sessions = fresh("s"), Results(stores.postgres, decided), Sessions(stores.postgres)
    for number, taken in enumerate(revoked):
        product = f"{exam}-{number}"
        await stores.postgres.execute("INSERT INTO product (id, title, amount, currency) VALUES ($1, 'It', 1, 'USD')", product)
        await stores.postgres.execute("INSERT INTO product_opens VALUES ($1, 'EXAM', $2)", product, exam)
        owned = "INSERT INTO entitlement (student_id, product_id, revoked_at) VALUES ($1, $2, CASE WHEN $3 THEN now() END)"
        await stores.postgres.execute(owned, student, product, taken)
    result = await sat(stores, exam, student, 1, 1000, 7)

    first, again = await results.keep([result]), await results.keep([result])

    assert first.held_back == again.held_back == ({result.session} if held_back else set())
    assert await sessions.total(result.session) == (None if held_back else (7, 100))


async def test_other_answers_for_a_scored_session_raise_an_alarm_and_change_nothing(stores: Stores, exam: str) -> None:
    result = await sat(stores, exam, "ada", 1, 1000, 7)
    await Results(stores.postgres, decided).keep([result])
    other = encode_answers({"q1": "c:A"})

    again = await Results(stores.postgres, decided).keep(
        [replace(result, score=0, answers=other, answers_sha256=answers_sha256(other))]
    )

    assert again.differing == {result.session}
    assert again.totals[result.session].score == 7


async def test_a_session_that_nobody_started_is_named_and_not_kept(stores: Stores, exam: str) -> None:
    known, unknown = await sat(stores, exam, "ada", 1, 1000, 7), await sat(stores, exam, "bob", 1, 1000, 7)
    await stores.postgres.execute("DELETE FROM exam_session WHERE id = $1", unknown.session)

    kept = await Results(stores.postgres, decided).keep([known, unknown])

    assert kept.unknown == {unknown.session}
    assert set(kept.totals) == {known.session}


async def test_a_late_redelivery_asks_no_grader_for_anything(stores: Stores, exam: str) -> None:
    waiting = replace(await sat(stores, exam, "ada", 1, 1000, 5), partial=True, pending=("q1",))
    await Results(stores.postgres, decided).keep([waiting])
    await stores.postgres.execute("UPDATE exam SET graders = 2 WHERE id = $1", exam)
    await stores.postgres.execute("UPDATE grading_task SET status = 'CANCELLED' WHERE session_id = $1", waiting.session)

    await Results(stores.postgres, decided).keep([waiting])

    tasks = await stores.postgres.fetch("SELECT slot, status FROM grading_task WHERE session_id = $1", waiting.session)
    assert [tuple(task) for task in tasks] == [(1, "CANCELLED")]


async def test_a_grader_who_claims_many_tasks_at_once_holds_no_more_than_may_be_held(stores: Stores, exam: str) -> None:
    many = [await sat(stores, exam, f"s{n}", 1, 1000, 5) for n in range(MOST_CLAIMS + 5)]
    await Results(stores.postgres, decided).keep([replace(one, partial=True, pending=("q1",)) for one in many])
    tasks, grader = GradingTasks(stores.postgres), fresh("g")

    claims = await asyncio.gather(*(tasks.claim(grader, exam, None, None) for _ in many))

    assert [one for one in claims if isinstance(one, NotClaimed)] == [NotClaimed.TOO_MANY] * 5
    held = {one.task.id for one in claims if isinstance(one, Claimed)}
    assert len(held) == MOST_CLAIMS
    await stores.postgres.execute("DELETE FROM grading_task WHERE exam_id = $1", exam)


async def test_a_worker_that_has_lost_its_regrade_changes_no_result(stores: Stores, exam: str) -> None:
    result = await sat(stores, exam, "ada", 1, 1000, 7)
    await Results(stores.postgres, decided).keep([replace(result, key_version=0)])
    run: UUID = await stores.postgres.fetchval(
        """
        INSERT INTO regrade (exam_id, dry_run, key_version, results, actor, reason, worker, lease_until)
        VALUES ($1, false, 1, 1, 'boss', '', gen_random_uuid(), now() + interval '1 hour') RETURNING id
        """,
        exam,
    )

    async def note(connection: asyncpg.Connection, done: Regraded) -> None:
        await Regrades(stores.postgres).add(connection, run, uuid4(), done.looked_at, {})

    def derive(before: Result, _: Mapping[str, int]) -> Result:
        return replace(before, score=9, key_version=1)

    with pytest.raises(RunLost):
        await Revisions(stores.postgres, decided).regrade((exam, 1, 1), 10, derive, "", [], note)

    kept = await Results(stores.postgres, decided).read(result.session)
    done = await stores.postgres.fetchval("DELETE FROM regrade WHERE id = $1 RETURNING done", run)
    assert kept is not None
    assert (kept.score, kept.revision, done) == (7, 1, 0)


async def test_the_best_attempt_gives_the_place_in_whichever_order_they_are_scored(stores: Stores, exam: str) -> None:
    attempts = [await sat(stores, exam, "ada", n, 1000, score) for n, score in ((1, 5), (2, 9), (3, 7))]

    await asyncio.gather(*(Results(stores.postgres, decided).keep([attempt]) for attempt in attempts))

    assert await standing(stores, exam, "ada") == (9, attempts[1].session)


async def test_a_result_that_waits_for_a_grader_has_no_place(stores: Stores, exam: str) -> None:
    waiting = replace(await sat(stores, exam, "ada", 1, 1000, 5), partial=True)

    kept = await Results(stores.postgres, decided).keep([waiting])

    assert kept.totals[waiting.session].partial
    assert [one.order_key for one in kept.standings] == [None]
    assert await standing(stores, exam, "ada") == (None, None)


@pytest.mark.parametrize("policy", ["NONE", "DURATION", "SUBMITTED_AT"])
async def test_sql_and_redis_order_a_board_by_one_rule(stores: Stores, exam: str, policy: str) -> None:
    await stores.postgres.execute(
        "UPDATE exam SET tie_break = $2, created_at = to_timestamp($3 / 1000.0) WHERE id = $1", exam, policy, float(BEGAN)
    )
    chance, boards = random.Random(policy), Boards(stores.boards)
    took = {f"student{n}": chance.choice([0, 999, 1000, 3_600_000]) for n in range(40)}
    results = [await sat(stores, exam, student, 1, ms, chance.randrange(-3, 4)) for student, ms in took.items()]
    kept: Kept = await Results(stores.postgres, decided).keep(results)
    await Places(boards, Standings(stores.postgres), Catalog(stores.postgres)).rebuild(exam)

    in_sql = await stores.postgres.fetch(
        'SELECT student_id FROM standing WHERE exam_id = $1 ORDER BY order_key DESC, student_id COLLATE "C" DESC', exam
    )
    page = await boards.page(exam, None, top=1000, student="student7", window=3)

    assert [place.student for place in page.rows] == [row["student_id"] for row in in_sql]
    ties = {r.student: took[r.student] if policy != "NONE" else 0 for r in results}
    assert {s.student: s.order_key for s in kept.standings} == {
        r.student: order_key(r.score, ties[r.student], policy) for r in results
    }
    better = {r.student: sum((o.score, -ties[o.student]) > (r.score, -ties[r.student]) for o in results) for r in results}
    assert {place.student: place.rank - 1 for place in page.rows} == better
    assert page.me in page.around


async def test_a_rebuild_under_scoring_misses_nobody(stores: Stores, exam: str) -> None:
    boards, results = Boards(stores.boards), Results(stores.postgres, decided)
    places = Places(boards, Standings(stores.postgres), Catalog(stores.postgres))
    sittings = [await sat(stores, exam, f"student{n}", 1, 1000, n, ("north",)) for n in range(60)]

    async def score() -> None:
        for one in sittings:
            await places.place((await results.keep([one])).standings)

    async def rebuild() -> None:
        for _ in range(10):
            await places.rebuild(exam)

    await asyncio.gather(score(), rebuild())

    everybody = {f"student{n}": n for n in range(60)}
    assert await boards.entries(exam, None) == await boards.entries(exam, "north") == everybody
    assert [(one.complete, one.students, one.differences) for one in await places.verify(exam)] == [(True, 60, {})] * 2

"""Standings: a frozen board keeps what it showed, is revealed step by step, and a series sums what is shown."""

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest

from servers.scoring.rules import decided
from stores.boards import Boards, order_key
from stores.catalog import Catalog
from stores.connect import Stores
from stores.exports import Exports
from stores.places import Places
from stores.records import Series, Standing
from stores.results import Results
from stores.series import AllSeries
from stores.standings import REVEALED, SERIES, Standings, restate
from tests.stack import Stack, fresh
from tests.stores.test_results import sat

OPERATOR = "operator"


async def scored(stores: Stores, exam: str, student: str, attempt: int, score: int, cohorts: Sequence[str] = ()) -> None:
    result = await sat(stores, exam, student, attempt, 1000, score, cohorts)
    await Results(stores.postgres, decided).keep([result])


async def show(stores: Stores, exam: str) -> Sequence[Standing]:
    """Show what is held and no longer has to be, as if the boards had been told; returns who that was in this exam."""
    standings = Standings(stores.postgres)
    shown = await standings.show(1_000)
    await standings.told(shown)
    return [standing for standing in shown if standing.exam == exam]


async def shown(stores: Stores, exam: str) -> Mapping[str, int]:
    return await Standings(stores.postgres).ranked(exam, None)


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_while_a_board_is_frozen_it_shows_what_it_did_until_each_is_revealed(
    stores: Stores, exam: str, seed: int
) -> None:
    chance, standings, catalog = random.Random(seed), Standings(stores.postgres), Catalog(stores.postgres)
    best: dict[str, int] = {}
    seen: dict[str, int] = {}
    attempts: dict[str, int] = {}
    frozen = False
    for _ in range(25):
        act = chance.choice(["score", "score", "score", "freeze", "reveal"])
        if act == "score":
            student, score = chance.choice("abcde"), chance.randrange(-2, 9)
            attempts[student] = attempts.get(student, 0) + 1
            await scored(stores, exam, student, attempts[student], score)
            best[student] = max(best.get(student, score), score)
            if not frozen:
                seen[student] = best[student]
        elif act == "freeze":
            await catalog.freeze(exam, OPERATOR)
            frozen = True
        else:
            moved = [s for s in best if seen.get(s) != best[s]]
            revealed = await standings.reveal(exam, OPERATOR)
            lowest = min(moved, key=lambda s: (s in seen, seen.get(s, 0), best[s], s), default=None)
            assert (revealed.student if revealed else None) == lowest
            if lowest is not None:
                seen[lowest] = best[lowest]
        assert await shown(stores, exam) == seen
        assert await standings.hidden(exam) == sum(seen.get(s) != best[s] for s in best)

    await catalog.unfreeze(exam, OPERATOR)
    told = await show(stores, exam)

    assert await shown(stores, exam) == best
    assert {standing.student: standing.order_key for standing in told}.items() <= best.items()


async def test_a_score_whose_transaction_began_before_a_freeze_does_not_show_after_it(stores: Stores, exam: str) -> None:
    await scored(stores, exam, "ada", 1, 3)
    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SELECT now()")
        await Catalog(stores.postgres).freeze(exam, OPERATOR)
        await connection.execute("UPDATE result SET score = 5 WHERE exam_id = $1", exam)
        await restate(connection, {(exam, "ada")})

    assert await shown(stores, exam) == {"ada": 3}


async def test_a_board_freezes_by_itself_so_long_before_the_close_and_thaws_when_the_close_is_moved(
    stores: Stores, exam: str
) -> None:
    await scored(stores, exam, "ada", 1, 3)
    await stores.postgres.execute(
        "UPDATE exam SET closes_at = now() + interval '60 seconds', board_freeze_seconds = 3600 WHERE id = $1", exam
    )
    await scored(stores, exam, "bob", 1, 5)
    hidden = await shown(stores, exam), await show(stores, exam)

    await stores.postgres.execute("UPDATE exam SET closes_at = now() + interval '2 hours' WHERE id = $1", exam)
    told = await show(stores, exam)

    assert hidden == ({"ada": 3}, [])
    assert [(standing.student, standing.order_key, standing.version) for standing in told] == [("bob", 5, 2)]
    assert await shown(stores, exam) == {"ada": 3, "bob": 5}


async def test_what_a_frozen_board_shows_is_what_a_rebuild_and_a_placement_are_given(stores: Stores, exam: str) -> None:
    await scored(stores, exam, "ada", 1, 3)
    await Catalog(stores.postgres).freeze(exam, OPERATOR)

    result = await sat(stores, exam, "ada", 2, 1000, 8)
    kept = await Results(stores.postgres, decided).keep([result])
    pages = [page async for page in Standings(stores.postgres).all(exam)]

    assert [(standing.order_key, standing.version) for standing in kept.standings] == [(3, 2)]
    assert pages == [list(kept.standings)]


async def test_an_export_is_final_when_the_exam_has_ended_and_nobody_stands_elsewhere_than_is_shown(
    stores: Stores, exam: str
) -> None:
    catalog = Catalog(stores.postgres)

    async def final() -> bool:
        async with Exports(stores.postgres).open(exam, None) as board:
            return board.final

    await scored(stores, exam, "ada", 1, 3)
    running = await final()
    await catalog.freeze(exam, OPERATOR)
    await scored(stores, exam, "ada", 2, 5)
    await catalog.close(exam, OPERATOR)
    hidden = await final()
    await stores.postgres.execute("UPDATE standing SET held_key = order_key WHERE exam_id = $1", exam)  # as a regrade might
    back, nothing_left = await final(), await Standings(stores.postgres).reveal(exam, OPERATOR)

    assert (running, hidden, back, nothing_left) == (False, False, True, None)


@pytest.mark.parametrize("best_of", [None, 1, 2])
async def test_a_series_sums_what_is_shown_in_its_exams_that_count(
    stack: Stack, stores: Stores, small_exam: Mapping[str, object], best_of: int | None
) -> None:
    chance, exams, policies = random.Random(best_of), [fresh("e") for _ in range(3)], ("NONE", "DURATION", "SUBMITTED_AT")
    for exam, policy in zip(exams, policies, strict=True):
        await stack.import_exam(dict(small_exam), exam, tieBreak=policy)
    series = Series(fresh("s"), "Spring", tuple(sorted(exams)), best_of)
    assert await AllSeries(stores.postgres).set(series, OPERATOR) == ()
    scores = {
        (student, exam): chance.randrange(-4, 9)
        for student in ("ada", "bob", "cem", "dea")
        for exam in exams
        if chance.random() < 0.7
    }
    for (student, exam), score in scores.items():
        await scored(stores, exam, student, 1, score, [exam, "all"])
    counted = exams[:2]

    standings = Standings(stores.postgres)
    pages = [page async for page in standings.all_in_series(series, counted)]
    some = await standings.in_series(series, counted, ["ada"])

    right = {}
    for student in {student for student, _ in scores}:
        own = sorted((scores[student, exam] for exam in counted if (student, exam) in scores), reverse=True)
        right[student] = sum(own[:best_of]) if own else None
    assert {s.student: s.order_key for page in pages for s in page} == right
    assert await standings.ranked_in_series(series, counted, None) == {s: key for s, key in right.items() if key is not None}
    assert some == [one for page in pages for one in page if one.student == "ada"]
    assert await standings.cohorts(*series.exams) == sorted({exam for _, exam in scores} | {"all"})
    assert {one.student: one.version for page in pages for one in page} == {
        student: sum(1 for one, _ in scores if one == student) for student in right
    }


async def test_whatever_plan_is_kept_a_few_students_of_a_series_are_found_by_their_ids(stores: Stores, exam: str) -> None:
    async with stores.postgres.acquire() as connection, connection.transaction():
        for setting in ("plan_cache_mode = force_generic_plan", "enable_seqscan = off", "enable_bitmapscan = off"):
            await connection.execute(f"SET LOCAL {setting}")
        await connection.execute(f"PREPARE few (text[], text[], int, text[]) AS {SERIES}")
        plan = await connection.fetch("EXPLAIN EXECUTE few (ARRAY['a'], ARRAY['a'], NULL, ARRAY['ada'])")
        await connection.execute("DEALLOCATE few")

    conditions = [line for (line,) in plan if "Index Cond" in line and "exam_id" in line]
    assert any("student_id = ANY" in line for line in conditions), plan


async def test_the_next_to_reveal_is_found_without_looking_at_all_who_are_held(stores: Stores, exam: str) -> None:
    async with stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_sort = off")
        plan = await connection.fetch(f"EXPLAIN {REVEALED}".replace("$1", f"'{exam}'"))

    assert not [line for (line,) in plan if "Sort" in line], plan


async def test_one_step_shows_one_student_where_an_exam_seems_to_have_one(stores: Stores, exam: str) -> None:
    await scored(stores, exam, "dea", 1, 0)
    await Catalog(stores.postgres).freeze(exam, OPERATOR)
    await stores.postgres.execute("ANALYZE standing")  # the planner believes that to look for the next costs nothing
    for student, score in (("ada", 1), ("bob", 2), ("cem", 3)):
        await scored(stores, exam, student, 1, score)

    standings = Standings(stores.postgres)
    steps = [(await standings.reveal(exam, OPERATOR), await standings.hidden(exam)) for _ in range(3)]

    assert [(step.student, hidden) for step, hidden in steps if step] == [("ada", 2), ("bob", 1), ("cem", 0)]


async def test_who_has_not_heard_of_a_release_yet_places_on_the_board_that_counts_it(
    stack: Stack, stores: Stores, small_exam: Mapping[str, object]
) -> None:
    spring, autumn, boards = fresh("e"), fresh("e"), Boards(stores.boards)
    await stack.import_exam(dict(small_exam), spring)
    await stack.import_exam(dict(small_exam), autumn, release__score="MANUAL")
    series = Series(fresh("s"), "The year", tuple(sorted([spring, autumn])), None)
    await AllSeries(stores.postgres).set(series, OPERATOR)
    late, early = (Places(boards, Standings(stores.postgres), Catalog(stores.postgres)) for _ in range(2))
    for exam in (spring, autumn):
        await scored(stores, exam, "ada", 1, 3)
    before, _ = await late.board_of(series)
    await late.rebuild(before)

    await late.board_of(series)
    await Catalog(stores.postgres).release(autumn, OPERATOR)
    now, _ = await early.board_of(series)
    await early.rebuild(now)
    kept = await Results(stores.postgres, decided).keep([await sat(stores, spring, "ada", 2, 1000, 8)])
    await late.place(kept.standings, wait_seconds=5)

    assert now != before
    assert await boards.histogram(now, None) is not None
    assert await boards.entries(now, None) == {"ada": 11}


async def test_a_series_that_sees_more_has_a_higher_version(stores: Stores, exam: str) -> None:
    series = Series(fresh("s"), "Spring", (exam,), None)
    standings, seen = Standings(stores.postgres), list[Standing]()
    for attempt in (1, 2, 3):
        await scored(stores, exam, "ada", attempt, attempt)
        seen += await standings.in_series(series, [exam], ["ada"])

    assert [(one.order_key, one.version) for one in seen] == [(1, 1), (2, 2), (3, 3)]


async def test_a_series_of_exams_that_do_not_exist_is_not_made(stores: Stores, exam: str) -> None:
    series = Series(fresh("s"), "Spring", (exam, "no-such-exam"), None)

    unknown = await AllSeries(stores.postgres).set(series, OPERATOR)

    assert unknown == ["no-such-exam"]
    assert await Catalog(stores.postgres).series(series.id) is None


@pytest.mark.parametrize("policy", ["NONE", "DURATION"])
async def test_bounds_part_students_into_bands_of_about_as_many(stores: Stores, exam: str, policy: str) -> None:
    await stores.postgres.execute("UPDATE exam SET tie_break = $2 WHERE id = $1", exam, policy)
    chance = random.Random(policy)
    keys = [order_key(chance.randrange(40), chance.randrange(3_600_000), policy) for _ in range(2_000)]
    await stores.postgres.execute(
        "INSERT INTO standing (exam_id, student_id, order_key, version) SELECT $1, 's' || n, k, 1 FROM unnest($2::bigint[]) "
        "WITH ORDINALITY AS x (k, n)",
        exam,
        keys,
    )

    standings = Standings(stores.postgres)
    bounds = await standings.bounds(exam, 20)

    assert await standings.size(exam) == 2_000
    assert list(bounds) == sorted(set(bounds))
    assert bounds[0] == min(keys)
    if policy == "DURATION":
        filled = [sum(low <= key < high for key in keys) for low, high in pairwise(bounds)]
        assert all(90 <= count <= 110 for count in filled)

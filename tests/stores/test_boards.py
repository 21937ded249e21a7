"""Boards hold what standings say, in one order, and can be read, paged and built again at any time."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.boards import (
    BANDS,
    LONGEST_LINE,
    MOST_BANDS,
    Boards,
    Frame,
    Source,
    band_points,
    bands_key,
    board_key,
    counts_key,
    entries_key,
    order_key,
    points_of,
)
from stores.connect import Stores
from stores.histogram import Histogram
from stores.pipeline import Overloaded
from stores.records import Place, Standing
from tests.stack import fresh

COHORTS = ("north", "south", "east")


def source(
    board: str, standings: Sequence[Standing], tie_break: str = "NONE", bounds: Sequence[int] | None = None, highest: int = 100
) -> Source:
    """What a board is built from, where the standings are at hand."""

    async def pages() -> AsyncIterator[Sequence[Standing]]:
        for at in range(0, len(standings), 50):
            yield standings[at : at + 50]

    async def cohorts() -> Sequence[str]:
        return sorted({cohort for standing in standings for cohort in standing.cohorts})

    async def bounded(_: int) -> Sequence[int] | None:
        return bounds

    return Source(board, tie_break, highest, pages, cohorts, bounded)


def everybody(board: str, keys: Mapping[str, int], *, cohort: str = "") -> list[Standing]:
    cohorts = (cohort,) if cohort else ()
    return [Standing(board, student, f"the {student}", cohorts, key, 1) for student, key in keys.items()]


def ordered(keys: Mapping[str, int]) -> list[tuple[int, str]]:
    """Ranks and students as the rule says: larger keys first, equal ones by student downwards, "1224"."""
    students = sorted(keys, key=lambda student: (keys[student], student), reverse=True)
    return [(1 + sum(keys[other] > keys[student] for other in keys), student) for student in students]


def shown(rows: Sequence[Place]) -> list[tuple[int, str]]:
    return [(place.rank, place.student) for place in rows]


@pytest.fixture(scope="session")
def boards(stores: Stores) -> Boards:
    return Boards(stores.boards)


@given(
    policy=st.sampled_from(["NONE", "DURATION", "SUBMITTED_AT"]),
    left=st.tuples(st.integers(-131_000, 131_000), st.integers(-(10**6), 2**40)),
    right=st.tuples(st.integers(-131_000, 131_000), st.integers(-(10**6), 2**40)),
)
def test_one_number_orders_points_then_tie_break_within_53_bits(policy: str, left: tuple[int, int], right: tuple[int, int]) -> None:
    keys = [order_key(*one, policy) for one in (left, right)]

    assert all(abs(key) < 2**53 and int(float(key)) == key for key in keys)
    assert [points_of(key, policy) for key in keys] == [left[0], right[0]]
    if left[0] != right[0]:
        assert (keys[0] > keys[1]) == (left[0] > right[0])


# Placing

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["ada", "bob", "cem", "dea"]),
        st.one_of(st.none(), st.integers(-3, 3)),
        st.sets(st.sampled_from(COHORTS)),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(moves=MOVES, chance=st.randoms(use_true_random=False))
async def test_standings_in_any_order_and_number_leave_each_board_with_the_newest(
    boards: Boards, moves: Sequence[tuple[str, int | None, set[str]]], chance: random.Random
) -> None:
    board = fresh("b")
    await boards.rebuild(source(board, []))
    standings, newest = [], dict[str, Standing]()
    for version, (student, key, cohorts) in enumerate(moves, 1):
        newest[student] = Standing(board, student, student.title(), tuple(sorted(cohorts)), key, version)
        standings.append(newest[student])
    told = [*standings, *chance.sample(standings, len(standings) // 2)]
    chance.shuffle(told)

    stale = [await boards.place(told[at : at + 3]) for at in range(0, len(told), 3)]

    assert set().union(*stale) == set()
    for cohort in (None, *COHORTS):
        right = {s.student: s.order_key for s in newest.values() if s.order_key is not None and cohort in (None, *s.cohorts)}
        histogram = await boards.histogram(board, cohort)
        assert await boards.entries(board, cohort) == right
        assert histogram is not None
        assert dict(histogram.bars()) == Counter(map(float, right.values()))


async def test_a_board_keeps_the_newer_standing(boards: Boards) -> None:
    board = fresh("b")
    await boards.rebuild(source(board, []))
    newer, older = (Standing(board, "ada", "Ada", ("north",), key, version) for key, version in ((9, 2), (5, 1)))
    await boards.place([newer])

    await boards.place([older])

    assert await boards.entries(board, None) == await boards.entries(board, "north") == {"ada": 9}


async def test_a_board_that_was_never_built_takes_nothing_and_says_so(boards: Boards) -> None:
    board = fresh("b")

    stale = await boards.place([Standing(board, "ada", "Ada", (), 9, 1)])
    page = await boards.page(board, None, top=10, student="ada", window=0)

    assert (stale, page.ready, page.rows, page.me) == ({board}, False, (), None)


async def test_the_first_place_of_a_new_cohort_needs_no_rebuild(boards: Boards) -> None:
    board = fresh("b")
    await boards.rebuild(source(board, everybody(board, {"ada": 7}, cohort="north")))

    stale = await boards.place([Standing(board, "cem", "Cem", ("south",), 9, 1)])
    page = await boards.page(board, "south", top=10, student=None, window=0)

    assert (stale, page.ready, shown(page.rows)) == (set(), True, [(1, "cem")])


async def test_the_board_of_a_cohort_that_nobody_is_in_is_empty_and_complete(boards: Boards) -> None:
    board = fresh("b")
    await boards.rebuild(source(board, everybody(board, {"ada": 7})))

    page = await boards.page(board, "south", top=10, student="ada", window=3)

    assert (page.ready, page.total, page.rows, page.me) == (True, 0, (), None)


async def test_a_cohort_that_began_while_a_build_was_beginning_is_counted_once(boards: Boards) -> None:
    board = fresh("b")
    ada, cem = everybody(board, {"ada": 7}, cohort="north"), everybody(board, {"cem": 9}, cohort="south")
    await boards.rebuild(source(board, ada))
    begun = source(board, [*ada, *cem])

    async def cohorts() -> Sequence[str]:
        before = await source(board, ada).cohorts()
        await boards.place(cem)
        return before

    await boards.rebuild(replace(begun, cohorts=cohorts))
    histogram = await boards.histogram(board, "south")

    assert histogram is not None
    assert histogram.bars() == [(9.0, 1)]


async def test_who_asks_for_the_counts_alone_is_given_no_rows(boards: Boards) -> None:
    board = fresh("b")
    await boards.rebuild(source(board, everybody(board, {f"s{n}": n for n in range(20)})))

    frame = await boards.frame(board, None, "", 0)

    assert isinstance(frame, Frame)
    assert (frame.total, frame.rows) == (20, ())


async def test_a_cohort_that_everybody_had_left_begins_without_them(boards: Boards) -> None:
    board = fresh("b")
    await boards.rebuild(source(board, everybody(board, {"ada": 7}, cohort="north")))
    await boards.rebuild(source(board, everybody(board, {"ada": 7})))

    await boards.place(everybody(board, {"bob": 3}, cohort="north"))

    assert await boards.entries(board, "north") == {"bob": 3}


@pytest.mark.parametrize("key", [board_key, counts_key])
async def test_a_cohorts_board_that_lost_a_part_has_to_be_built_again(
    stores: Stores, boards: Boards, key: Callable[[str, str | None], str]
) -> None:
    board = fresh("b")
    standings = everybody(board, {"ada": 7}, cohort="north")
    await boards.rebuild(source(board, standings))
    await stores.boards.delete(key(board, "north"))

    stale = await boards.place([Standing(board, "bob", "Bob", ("north",), 9, 1)])
    page = await boards.page(board, "north", top=10, student=None, window=0)

    assert (stale, page.ready) == ({board}, False)


@pytest.mark.parametrize("key", [lambda board: board_key(board, None), lambda board: counts_key(board, None), entries_key])
async def test_a_board_that_lost_a_part_during_its_rebuild_is_built_once_more(
    stores: Stores, boards: Boards, key: Callable[[str], str]
) -> None:
    board, lost = fresh("b"), False
    whole = source(board, everybody(board, {"ada": 7, "bob": 9}))

    async def losing() -> AsyncIterator[Sequence[Standing]]:
        nonlocal lost
        async for page in whole.all():
            yield page
        if not lost:
            lost = True
            await stores.boards.delete(key(board))

    built = await boards.rebuild(replace(whole, all=losing))

    assert built == (2, 1)
    assert await boards.entries(board, None) == {"ada": 7, "bob": 9}
    assert (await boards.page(board, None, top=1, student=None, window=0)).ready


async def test_of_two_rebuilds_at_once_one_does_the_work(boards: Boards) -> None:
    board = fresh("b")
    whole = source(board, everybody(board, {f"s{n}": n for n in range(200)}))

    built = await asyncio.gather(*(boards.rebuild(whole) for _ in range(2)))

    assert sorted(built, key=str) == [(200, 1), None]


async def test_a_redis_that_is_slow_for_a_moment_does_not_end_a_build(stores: Stores, boards: Boards) -> None:
    board = fresh("b")
    whole = source(board, everybody(board, {f"s{n}": n for n in range(200)}))

    async def pausing() -> AsyncIterator[Sequence[Standing]]:
        async for page in whole.all():
            yield page
            await stores.boards.client_pause(600)

    built = await boards.rebuild(replace(whole, all=pausing))

    assert built == (200, 1)


# Reading


@settings(max_examples=30)
@given(
    points=st.lists(st.integers(-2, 3), min_size=1, max_size=25),
    top=st.integers(1, 7),
)
async def test_pages_downwards_and_upwards_have_the_same_rows_and_ranks(boards: Boards, points: Sequence[int], top: int) -> None:
    board, keys = fresh("b"), {f"s{n}": key for n, key in enumerate(points)}
    await boards.rebuild(source(board, everybody(board, keys)))

    down, cursor = [], None
    while not down or cursor:
        page = await boards.page(board, None, top=top, student=None, window=0, cursor=cursor)
        down.append(page)
        cursor = page.below
    up, cursor = [down[-1]], down[-1].above
    while cursor:
        up.append(await boards.page(board, None, top=top, student=None, window=0, cursor=cursor))
        cursor = up[-1].above

    assert [row for page in down for row in shown(page.rows)] == ordered(keys)
    assert [row for page in reversed(up) for row in shown(page.rows)] == ordered(keys)
    assert all(page.total == len(keys) for page in down + up)


@settings(max_examples=40)
@given(
    points=st.lists(st.integers(0, 2), min_size=4, max_size=20),
    moved=st.dictionaries(st.integers(0, 24), st.one_of(st.none(), st.integers(0, 2)), max_size=6),
    top=st.integers(1, 5),
)
async def test_a_page_goes_on_where_the_last_one_ended_though_others_moved_meanwhile(
    boards: Boards, points: Sequence[int], moved: Mapping[int, int | None], top: int
) -> None:
    board, keys = fresh("b"), {f"s{n:02}": key for n, key in enumerate(points)}
    await boards.rebuild(source(board, everybody(board, keys)))
    first = await boards.page(board, None, top=top, student=None, window=0)
    last = first.rows[-1].student
    moves = {f"s{n:02}": key for n, key in moved.items() if f"s{n:02}" != last}

    await boards.place([Standing(board, student, "", (), key, 2) for student, key in moves.items()])
    after = {student: key for student, key in {**keys, **moves}.items() if key is not None}
    rows = ordered(after)
    below = rows[[student for _, student in rows].index(last) + 1 :]

    if first.below is not None:
        page = await boards.page(board, None, top=top, student=None, window=0, cursor=first.below)
        assert shown(page.rows) == below[:top]


async def test_a_page_below_a_student_who_has_gone_begins_in_their_place(boards: Boards) -> None:
    board, keys = fresh("b"), {"ada": 9, "bob": 7, "cem": 7, "dea": 7, "eli": 1}
    await boards.rebuild(source(board, everybody(board, keys)))
    first = await boards.page(board, None, top=3, student=None, window=0)
    await boards.place([Standing(board, first.rows[-1].student, "", (), None, 2)])

    page = await boards.page(board, None, top=3, student=None, window=0, cursor=first.below)

    assert (first.rows[-1].student, shown(page.rows)) == ("cem", [(2, "bob"), (4, "eli")])


async def test_a_cursor_does_not_tell_whose_row_it_is(boards: Boards) -> None:
    cursors = set()
    for board in (fresh("b"), fresh("b")):
        await boards.rebuild(source(board, everybody(board, {"ada": 9, "bob": 7})))
        cursors.add((await boards.page(board, None, top=1, student=None, window=0)).below)

    assert {(cursor.order_key, cursor.offset) for cursor in cursors if cursor} == {(9, 0)}
    assert len({cursor.digest for cursor in cursors if cursor}) == 2


async def test_a_cursor_of_a_board_that_was_built_again_still_leads_on(boards: Boards) -> None:
    board, keys = fresh("b"), {f"s{n}": n // 3 for n in range(9)}
    whole = source(board, everybody(board, keys))
    await boards.rebuild(whole)
    first = await boards.page(board, None, top=4, student=None, window=0)
    await boards.rebuild(whole)

    page = await boards.page(board, None, top=4, student=None, window=0, cursor=first.below)

    assert page.ready
    assert page.rows[0].rank >= first.rows[-1].rank


@given(
    keys=st.dictionaries(st.sampled_from([f"s{n}" for n in range(12)]), st.integers(-2, 4), min_size=1), window=st.integers(1, 4)
)
@settings(max_examples=30)
async def test_ones_own_place_and_those_around_are_those_of_the_whole_board(
    boards: Boards, keys: Mapping[str, int], window: int
) -> None:
    board, rows = fresh("b"), ordered(keys)
    await boards.rebuild(source(board, everybody(board, keys)))

    for at, (rank, student) in enumerate(rows):
        page = await boards.page(board, None, top=1, student=student, window=window)
        own = await boards.rank(board, student)
        fewer, as_many = (sum(one < keys[student] for one in keys.values()), sum(one == keys[student] for one in keys.values()))

        assert page.me is not None
        assert own is not None
        assert shown([page.me]) == [(rank, student)]
        assert shown(page.around) == rows[max(0, at - window) : at + window + 1]
        assert page.percentile == own.percentile == 100 * (fewer + as_many / 2) / len(keys)
        assert own.rank == rank


async def test_a_frame_comes_when_the_board_has_changed_and_only_then(boards: Boards) -> None:
    board = fresh("b")
    before = await boards.frame(board, None, "", 10)
    await boards.rebuild(source(board, everybody(board, {"ada": 9})))
    first = await boards.frame(board, None, "", 10)
    assert before is False
    assert not isinstance(first, bool)

    again = await boards.frame(board, None, first.changes, 10)
    await boards.place([Standing(board, "ada", "Ada", (), 9, 1)])  # nothing new
    still = await boards.frame(board, None, first.changes, 10)
    await boards.place([Standing(board, "bob", "Bob", (), 9, 1)])
    then = await boards.frame(board, None, first.changes, 10)

    assert (again, still) == (True, True)
    assert not isinstance(then, bool)
    assert (shown(first.rows), shown(then.rows), then.total) == ([(1, "ada")], [(1, "bob"), (1, "ada")], 2)


async def test_a_rebuilt_board_is_another_state_of_it(boards: Boards) -> None:
    board = fresh("b")
    await boards.rebuild(source(board, everybody(board, {"ada": 9})))
    first = await boards.frame(board, None, "", 10)
    await boards.rebuild(source(board, everybody(board, {"ada": 8})))
    assert not isinstance(first, bool)

    then = await boards.frame(board, None, first.changes, 10)

    assert not isinstance(then, bool)
    assert [place.order_key for place in then.rows] == [8]


# Approximate boards


@given(
    keys=st.lists(st.integers(-50, 50), min_size=1, max_size=60),
    bounds=st.lists(st.integers(-50, 50), max_size=8, unique=True),
)
def test_a_rank_by_bands_is_off_by_no_more_than_it_says(keys: Sequence[int], bounds: Sequence[int]) -> None:
    bands = Counter(max((bound for bound in bounds if bound <= key), default=float("-inf")) for key in keys)
    histogram = Histogram(bands, exact=False)

    for key in keys:
        rank, error = histogram.rank(key)
        assert abs(rank - (1 + sum(other > key for other in keys))) <= error <= max(bands.values()) // 2


@given(keys=st.lists(st.integers(-50, 50), min_size=1, max_size=60))
def test_where_all_of_a_band_are_equal_its_rank_is_exact(keys: Sequence[int]) -> None:
    histogram = Histogram(Counter(map(float, keys)), exact=True)

    assert all(histogram.rank(key) == (1 + sum(other > key for other in keys), 0) for key in keys)


@pytest.mark.parametrize("tie_break", ["NONE", "DURATION"])
async def test_an_approximate_board_shows_its_best_exactly_and_the_others_within_its_bound(
    stores: Stores, boards: Boards, tie_break: str
) -> None:
    board, chance = fresh("b"), random.Random(tie_break)
    keys = {f"s{n:04}": order_key(chance.randrange(-5, 60), chance.randrange(3_600_000), tie_break) for n in range(3_000)}
    bounds = [] if tie_break == "NONE" else sorted(set(chance.sample(sorted(keys.values()), BANDS // 8)))
    await boards.rebuild(source(board, everybody(board, keys), tie_break, bounds))
    moved = {f"s{n:04}": order_key(chance.randrange(-5, 60), chance.randrange(3_600_000), tie_break) for n in range(2_900, 3_200)}
    stale = await boards.place([Standing(board, student, "", (), key, 2) for student, key in moved.items()])

    now = keys | moved
    above = Counter(now.values())
    ranks, better = {}, 0
    for key in sorted(above, reverse=True):
        ranks[key] = better + 1
        better += above[key]
    rows = [(ranks[now[s]], s) for s in sorted(now, key=lambda s: (now[s], s), reverse=True)]
    page = await boards.page(board, None, top=1_000, student=rows[-1][1], window=5)

    assert (stale, page.ready, page.total) == (set(), True, len(now))
    assert shown(page.rows) == rows[:1_000]
    for _, student in chance.sample(rows, 100):
        found, page = await boards.rank(board, student), await boards.page(board, None, top=1, student=student, window=0)
        assert found is not None
        assert page.me is not None
        assert abs(found.rank - ranks[now[student]]) <= found.error <= (0 if tie_break == "NONE" else 200)
        assert abs(page.me.rank - ranks[now[student]]) <= page.error
    assert await stores.boards.zcard(board_key(board, None)) <= 2_001


async def test_an_approximate_board_that_lost_too_many_of_its_best_has_to_be_built_again(boards: Boards) -> None:
    board = fresh("b")
    keys = {f"s{n:04}": n for n in range(3_000)}
    await boards.rebuild(source(board, everybody(board, keys), "NONE", []))

    gone = [Standing(board, f"s{n:04}", "", (), None, 2) for n in range(1_900, 3_000)]

    assert await boards.place(gone[:500]) == set()
    assert await boards.place(gone[500:]) == {board}


async def test_an_approximate_board_that_lost_its_bounds_has_to_be_built_again(stores: Stores, boards: Boards) -> None:
    board = fresh("b")
    standings = everybody(board, {f"s{n}": n << 27 for n in range(20)})
    await boards.rebuild(source(board, standings, "DURATION", [0, 10 << 27]))
    await stores.boards.delete(bands_key(board))

    stale = await boards.place([replace(standings[0], order_key=5, version=2)])

    assert stale == {board}


async def test_a_board_outgrows_exact_ranks_past_the_size_and_not_at_it(boards: Boards) -> None:
    board = fresh("b")
    await boards.rebuild(source(board, everybody(board, {"ada": 1, "bob": 2})))

    assert (await boards.outgrown(board, 2), await boards.outgrown(board, 1)) == (False, True)


async def test_a_board_with_very_many_possible_scores_counts_them_in_bands_and_still_ranks_exactly(boards: Boards) -> None:
    board, chance = fresh("b"), random.Random(7)
    keys = {f"s{n}": chance.randrange(-1_000_000, 1_000_000) for n in range(500)}
    await boards.rebuild(source(board, everybody(board, keys), highest=1_000_000))

    frame = await boards.frame(board, None, "", 10)
    page = await boards.page(board, None, top=1_000, student="s7", window=0)

    assert not isinstance(frame, bool)
    assert (frame.exact_bands, frame.approximate, frame.histogram.total) == (False, False, 500)
    assert len(frame.histogram.bars()) < 4_096
    assert shown(page.rows) == ordered(keys)
    assert page.percentile == 100 * (sum(one < keys["s7"] for one in keys.values()) + 0.5) / 500
    assert await boards.ranks(board, None, [keys["s7"]]) == [page.me.rank if page.me else 0]


@given(highest=st.integers(0, 33_000_000))
def test_a_board_never_counts_in_more_bands_than_it_should(highest: int) -> None:
    assert (2 * highest + 1) / band_points(highest) <= MOST_BANDS + 1
    assert band_points(2_000) == 1


async def test_large_pages_are_read_one_after_the_other_in_a_line_of_some_length_and_nobody_else_waits_for_them(
    boards: Boards,
) -> None:
    board, done = fresh("b"), list[str]()
    await boards.rebuild(source(board, everybody(board, {f"s{n}": n for n in range(20)})))

    async def read(top: int, name: str) -> None:
        page = await boards.page(board, None, top=top, student=None, window=0)
        assert page.total == 20
        done.append(name)

    large = [read(1_000, "large") for _ in range(LONGEST_LINE + 5)]
    replies = await asyncio.gather(*large, read(100, "small"), return_exceptions=True)

    assert [type(reply) for reply in replies if reply] == [Overloaded] * 5
    assert done.index("small") <= 1
    assert done.count("large") == LONGEST_LINE

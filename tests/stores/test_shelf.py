"""What is kept is fresh for its time, better than nothing while its store is away, and never more than fits."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stores.shelf import FOR_EVER, Absence, Kept, Shelf, Terms

GONE = ConnectionRefusedError("nobody is there")


class Source:
    """What a shelf reads from: an answer, which may be a failure, and how often it was asked."""

    def __init__(self, answer: str | Exception | None = "first") -> None:
        self.answer = answer
        self.asked = 0
        self.held: asyncio.Event | None = None

    async def read(self) -> str | None:
        self.asked += 1
        answer = self.answer
        if self.held is not None:
            await self.held.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer


def shelf(fresh: float = FOR_EVER, stale: float = FOR_EVER, patience: float | None = None, most: int = 100) -> Shelf[str, str]:
    return Shelf("a test's", Terms(fresh, stale, patience), most=most, weigh=len)


def value(kept: Kept[str] | None) -> str:
    assert kept is not None
    return kept.value


async def waiting(source: Source, times: int = 1) -> None:
    while source.asked < times:
        await asyncio.sleep(0)


async def test_what_is_fresh_is_read_once() -> None:
    kept, source = shelf(), Source()

    answers = [value(await kept.get("k", source.read)) for _ in range(3)]

    assert (answers, source.asked) == (["first"] * 3, 1)


async def test_a_herd_that_misses_reads_once() -> None:
    kept, source = shelf(fresh=0), Source()

    answers = await asyncio.gather(*(kept.get("k", source.read) for _ in range(50)))

    assert ({value(one) for one in answers}, source.asked) == ({"first"}, 1)


async def test_one_who_leaves_takes_nobody_along() -> None:
    kept, source = shelf(), Source()
    source.held = asyncio.Event()
    one, other = (asyncio.create_task(kept.get("k", source.read)) for _ in range(2))
    await waiting(source)

    one.cancel()
    source.held.set()

    assert value(await other) == "first"


async def test_what_is_not_fresh_any_more_is_read_again() -> None:
    kept, source = shelf(fresh=0), Source()
    await kept.get("k", source.read)
    source.answer = "second"

    assert value(await kept.get("k", source.read)) == "second"


async def test_what_is_not_there_is_not_kept() -> None:
    kept, source = shelf(), Source(None)

    assert await kept.get("k", source.read) is None
    source.answer = "there now"

    assert value(await kept.get("k", source.read)) == "there now"


async def test_what_went_away_is_forgotten_even_if_its_store_goes_away_then() -> None:
    kept, source = shelf(fresh=0), Source()
    await kept.get("k", source.read)
    source.answer = None
    assert await kept.get("k", source.read) is None
    source.answer = GONE

    with pytest.raises(ConnectionRefusedError):
        await kept.get("k", source.read)


async def test_while_the_store_is_away_what_is_kept_is_given_and_marked() -> None:
    kept, source = shelf(fresh=0), Source()
    fresh = await kept.get("k", source.read)
    source.answer = GONE

    stale = await kept.get("k", source.read)

    assert fresh == Kept("first")
    assert stale is not None
    assert (stale.value, stale.stale_seconds is not None) == ("first", True)


async def test_while_the_store_is_away_it_is_not_asked_for_everybody() -> None:
    kept, source = shelf(fresh=0), Source()
    await kept.get("k", source.read)
    source.answer = GONE

    for _ in range(100):
        assert value(await kept.get("k", source.read)) == "first"

    assert source.asked == 2


async def test_what_nobody_has_read_before_is_the_stores_failure() -> None:
    kept, source = shelf(), Source(GONE)

    with pytest.raises(ConnectionRefusedError):
        await kept.get("k", source.read)


async def test_what_is_too_old_is_no_better_than_nothing() -> None:
    kept, source = shelf(fresh=0, stale=0), Source()
    await kept.get("k", source.read)
    source.answer = GONE

    with pytest.raises(ConnectionRefusedError):
        await kept.get("k", source.read)


async def test_a_failure_that_is_no_absence_is_not_hidden() -> None:
    kept, source = shelf(fresh=0), Source()
    await kept.get("k", source.read)
    source.answer = ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await kept.get("k", source.read)


async def test_nobody_with_something_stale_waits_longer_than_their_patience() -> None:
    kept, source = shelf(fresh=0, patience=0.01), Source()
    await kept.get("k", source.read)
    source.held, source.answer = asyncio.Event(), "second"

    stale = await kept.get("k", source.read)
    source.held.set()

    assert stale is not None
    assert (stale.value, stale.stale_seconds is not None) == ("first", True)

    async def second() -> bool:
        return value(await kept.get("k", source.read)) == "second"

    await soon(second)


async def test_what_one_shelf_has_found_of_the_store_its_neighbours_know() -> None:
    absence = Absence()
    one, other = (Shelf[str, str](name, Terms(0, FOR_EVER), most=10, absence=absence) for name in ("one", "other"))
    first, second = Source(), Source()
    for kept, source in ((one, first), (other, second)):
        await kept.get("k", source.read)
        source.answer = GONE

    await one.get("k", first.read)

    assert value(await other.get("k", second.read)) == "first"
    assert (first.asked, second.asked) == (2, 1)


async def test_who_would_wait_for_a_store_that_kept_others_waiting_does_not() -> None:
    kept, slow, other = shelf(fresh=0, patience=0.01), Source(), Source()
    for name, source in (("slow", slow), ("other", other)):
        await kept.get(name, source.read)
    slow.held = asyncio.Event()

    await kept.get("slow", slow.read)
    beside = await kept.get("other", other.read)

    assert beside is not None
    assert (beside.stale_seconds is not None, other.asked) == (True, 1)
    slow.held.set()


async def test_what_is_forgotten_is_read_again_and_never_given_though_the_store_is_away() -> None:
    kept, source = shelf(), Source()
    await kept.get("k", source.read)
    source.answer = GONE

    kept.forget("k")

    with pytest.raises(type(GONE)):
        await kept.get("k", source.read)
    assert kept.weight == 0
    source.answer = "second"
    assert value(await kept.get("k", source.read)) == "second"


async def test_what_is_forgotten_while_somebody_waits_for_it_is_not_given_to_them_either() -> None:
    kept, source = shelf(), Source()
    await kept.get("k", source.read)
    kept.expire_all()
    source.answer, source.held = GONE, asyncio.Event()
    waits = asyncio.create_task(kept.get("k", source.read))
    await waiting(source, 2)

    kept.forget("k")
    source.held.set()

    with pytest.raises(type(GONE)):
        await waits


async def test_what_expired_is_still_better_than_nothing_while_the_store_is_away() -> None:
    kept, source = shelf(), Source()
    await kept.get("k", source.read)
    source.answer = GONE

    kept.expire_all()
    stale = await kept.get("k", source.read)

    assert stale is not None
    assert stale.stale_seconds is not None


async def test_a_read_that_was_under_way_when_it_was_forgotten_is_not_kept() -> None:
    kept, source = shelf(), Source("before")
    source.held = asyncio.Event()
    early = asyncio.create_task(kept.get("k", source.read))
    await waiting(source)

    kept.forget("k")
    source.answer = "after"
    late = asyncio.create_task(kept.get("k", source.read))
    await waiting(source, 2)
    source.held.set()

    assert [value(await early), value(await late)] == ["before", "after"]
    assert value(await kept.get("k", source.read)) == "after"
    assert source.asked == 2


async def test_the_longest_unread_goes_first_and_the_sum_stays_within_its_bound() -> None:
    kept, sources = shelf(most=30), {name: Source(name * 10) for name in "abcd"}
    for name in "abc":
        await kept.get(name, sources[name].read)
    await kept.get("a", sources["a"].read)

    await kept.get("d", sources["d"].read)
    for name in "acd":
        await kept.get(name, sources[name].read)

    assert [sources[name].asked for name in "acd"] == [1, 1, 1]
    assert kept.weight == 30
    await kept.get("b", sources["b"].read)
    assert sources["b"].asked == 2
    assert kept.weight == 30


async def test_what_is_larger_than_the_shelf_is_given_and_not_kept() -> None:
    kept, small, large = shelf(most=30), Source("x"), Source("y" * 31)
    await kept.get("small", small.read)

    answers = [value(await kept.get("large", large.read)) for _ in range(2)]

    assert (answers, large.asked) == (["y" * 31] * 2, 2)
    assert value(await kept.get("small", small.read)) == "x"
    assert (small.asked, kept.weight) == (1, 1)


async def soon(check: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(1000):
        if await check():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not happen")

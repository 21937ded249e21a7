"""Turns: few at a time, nobody forgotten, and a line that is too long says so at once."""

import asyncio
from time import monotonic

import pytest

from servers.session.turns import Turns
from stores.pipeline import Overloaded


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_as_many_work_as_there_are_places_and_the_others_follow_in_order() -> None:
    turns, gate, begun = Turns(lambda: 2), asyncio.Event(), list[int]()

    async def work(number: int) -> None:
        async with turns.take(monotonic()):
            begun.append(number)
            await gate.wait()

    everybody = [asyncio.ensure_future(work(number)) for number in range(5)]
    await settled()
    at_first, in_line = list(begun), turns.waiting
    gate.set()
    await asyncio.gather(*everybody)

    assert (at_first, in_line) == ([0, 1], 3)
    assert (begun, turns.waiting) == ([0, 1, 2, 3, 4], 0)


async def test_who_leaves_the_line_holds_up_nobody() -> None:
    turns, gate = Turns(lambda: 1), asyncio.Event()

    async def work() -> None:
        async with turns.take(monotonic()):
            await gate.wait()

    first, second, third = (asyncio.ensure_future(work()) for _ in range(3))
    await settled()
    second.cancel()
    await settled()
    in_line = turns.waiting
    gate.set()
    await asyncio.wait_for(asyncio.gather(first, third), 5)

    assert (in_line, turns.waiting) == (1, 0)


async def test_a_turn_that_came_to_somebody_who_has_just_left_goes_on_to_the_next() -> None:
    turns, gates = Turns(lambda: 1), [asyncio.Event() for _ in range(3)]

    async def work(number: int) -> int:
        async with turns.take(monotonic()):
            await gates[number].wait()
        return number

    first, second, third = (asyncio.ensure_future(work(number)) for number in range(3))
    await settled()
    gates[0].set()
    gates[2].set()
    await first
    second.cancel()  # its turn has come, perhaps before it has noticed

    assert await asyncio.wait_for(third, 5) == 2


async def test_more_begin_when_more_may_be_worked_on() -> None:
    allowed = [1]
    turns, gate, begun = Turns(lambda: allowed[0]), asyncio.Event(), list[int]()

    async def work(number: int) -> None:
        async with turns.take(monotonic()):
            begun.append(number)
            await gate.wait()

    everybody = [asyncio.ensure_future(work(number)) for number in range(3)]
    await settled()
    allowed[0] = 3
    everybody.append(asyncio.ensure_future(work(3)))
    await settled()

    assert begun == [0, 1, 2]
    gate.set()
    await asyncio.gather(*everybody)


async def test_a_line_that_is_too_long_refuses_at_once() -> None:
    turns = Turns(lambda: 1, most_waiting=1)
    async with turns.take(monotonic()):
        waiting = asyncio.ensure_future(turns.take(monotonic()).__aenter__())
        await settled()
        with pytest.raises(Overloaded):
            await turns.take(monotonic()).__aenter__()
    await waiting


async def test_a_turn_says_how_long_it_was_waited_for() -> None:
    async with Turns(lambda: 1).take(monotonic() - 3) as waited:
        assert 3 <= waited < 30

"""A hub tells watchers nothing but what a complete board says, whoever comes and goes while it is read."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace

from servers.leaderboard.hub import Hub, Hubs
from servers.leaderboard.rules import Sight, Which
from stores.boards import Boards, Entry
from stores.connect import Stores
from stores.records import Standing
from tests.stack import fresh
from tests.stores.test_boards import everybody, source

MANY = {f"s{n:03}": n << 27 for n in range(150)}
LAST = "s000"


class Gated(Boards):
    """Boards whose reading of students can be held up for a while."""

    def __init__(self, stores: Stores) -> None:
        super().__init__(stores.boards)
        self.reading = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def several(self, board: str, students: Sequence[str]) -> Sequence[Entry | None] | None:
        self.reading.set()
        await self.open.wait()
        return await super().several(board, students)


class Building:
    """A build that has placed only its first page, the lowest student, until it is let on."""

    def __init__(self, boards: Boards, standings: Sequence[Standing]) -> None:
        self._standings = standings
        self._placed = asyncio.Event()
        self._on = asyncio.Event()
        self._task = asyncio.create_task(boards.rebuild(replace(source(standings[0].exam, standings, "DURATION"), all=self._pages)))

    async def begun(self) -> None:
        await self._placed.wait()

    async def done(self) -> None:
        self._on.set()
        await self._task

    async def _pages(self) -> AsyncIterator[Sequence[Standing]]:
        yield self._standings[:1]
        self._placed.set()
        await self._on.wait()
        yield self._standings[1:]


async def nothing(_: Sight, __: Which) -> None:
    """Nobody has the board built again but the test."""


def looking(board: str) -> Sight:
    return Sight(board, "DURATION", hidden=False, public=False, frozen=False)


async def watched(boards: Boards, board: str, *students: str) -> Hub:
    """A hub of a board that these watch, and that has read it once."""

    async def look(_: Which) -> Sight:
        return looking(board)

    hub = Hub(Which(board, "", ""), boards, look, nothing)
    hub.students.update(students)
    await hub.begun()
    return hub


def rank(hub: Hub, student: str) -> int | None:
    own = hub.own(student, 10, staff=False)
    return None if own is None else own.rank


async def test_who_comes_while_the_board_is_being_built_is_not_told_a_rank_of_half_a_board(stores: Stores) -> None:
    board, boards = fresh("b"), Gated(stores)
    standings = everybody(board, MANY)
    await boards.rebuild(source(board, standings, "DURATION"))
    hub = await watched(boards, board, "s149")
    building = Building(boards, standings)
    await building.begun()

    hub.students[LAST] += 1
    await hub.meet(LAST)
    told = rank(hub, LAST)
    await building.done()
    await hub.tick()

    assert (told, rank(hub, LAST)) == (None, 150)


async def test_a_reading_that_a_build_interrupts_shows_nothing_of_it(stores: Stores) -> None:
    board, boards = fresh("b"), Gated(stores)
    standings = everybody(board, MANY)
    await boards.rebuild(source(board, standings, "DURATION"))
    hub = await watched(boards, board, LAST)
    await boards.place([replace(standings[9], order_key=1 << 40, version=2)])
    boards.open.clear()
    boards.reading.clear()
    tick = asyncio.create_task(hub.tick())
    await boards.reading.wait()
    building = Building(boards, standings)
    await building.begun()

    boards.open.set()
    await tick
    told = rank(hub, LAST)
    await building.done()
    await hub.tick()

    assert (told, rank(hub, LAST)) == (None, 150)


async def test_who_comes_while_a_changed_board_is_read_is_told_their_place(stores: Stores) -> None:
    board, boards = fresh("b"), Gated(stores)
    standings = everybody(board, MANY)
    await boards.rebuild(source(board, standings, "DURATION"))
    hub = await watched(boards, board, "s149")
    await boards.place([replace(standings[9], order_key=1 << 40, version=2)])
    boards.open.clear()
    boards.reading.clear()
    tick = asyncio.create_task(hub.tick())
    await boards.reading.wait()

    hub.students[LAST] += 1
    met = asyncio.create_task(hub.meet(LAST))
    await asyncio.sleep(0)
    boards.open.set()
    await asyncio.gather(tick, met)

    assert rank(hub, LAST) == 150


async def test_who_leaves_before_they_are_met_leaves_nothing_behind(stores: Stores) -> None:
    board, boards = fresh("b"), Gated(stores)
    await boards.rebuild(source(board, everybody(board, MANY), "DURATION"))

    async def look(_: Which) -> Sight:
        return looking(board)

    hubs, which = Hubs(boards, look, nothing), Which(board, "", "")
    async with aclosing(hubs.watch(which, "s149", 10, staff=False, events=False)) as staying:  # type: ignore[type-var]
        await anext(staying)
        hub = hubs._hubs[which]
        boards.open.clear()
        boards.reading.clear()
        leaving = asyncio.ensure_future(anext(hubs.watch(which, LAST, 10, staff=False, events=False)))
        while hub._meeting is None:
            await asyncio.sleep(0)
        meeting = hub._meeting
        await boards.reading.wait()
        leaving.cancel()
        await asyncio.wait([leaving])
        boards.open.set()
        await meeting

        assert (set(hub.students), set(hub._entries)) == ({"s149"}, {"s149"})
    assert not hubs._hubs

"""Places: what was committed in PostgreSQL reaches the boards, also when its first telling fails."""

import pytest
import redis.exceptions
from redis.asyncio import Redis

from stores.boards import Boards
from stores.catalog import Catalog
from stores.connect import Stores
from stores.places import Places
from stores.standings import Standings
from tests.stack import free_port
from tests.stores.test_standings import OPERATOR, scored

pytestmark = pytest.mark.usefixtures("stack")


def places(stores: Stores, client: Redis) -> Places:
    return Places(Boards(client), Standings(stores.postgres), Catalog(stores.postgres))


async def test_a_place_that_was_released_while_redis_was_away_is_shown_by_the_next_sweep(stores: Stores, exam: str) -> None:
    catalog, working = Catalog(stores.postgres), places(stores, stores.boards)
    await scored(stores, exam, "ada", 1, 3)
    await catalog.freeze(exam, OPERATOR)
    await scored(stores, exam, "ada", 2, 8)
    await working.rebuild(exam)
    before = await Boards(stores.boards).entries(exam, None)
    await catalog.unfreeze(exam, OPERATOR)

    async with Redis(port=free_port()) as away:
        with pytest.raises(redis.exceptions.ConnectionError):
            await places(stores, away).show(100)
    await working.show(100)

    assert before == {"ada": 3}
    assert await Boards(stores.boards).entries(exam, None) == {"ada": 8}


async def test_a_place_that_was_revealed_while_redis_was_away_is_shown_by_the_next_reveal(stores: Stores, exam: str) -> None:
    standings, working = Standings(stores.postgres), places(stores, stores.boards)
    await scored(stores, exam, "ada", 1, 3)
    await Catalog(stores.postgres).freeze(exam, OPERATOR)
    await scored(stores, exam, "ada", 2, 8)
    await working.rebuild(exam)
    revealed = await standings.reveal(exam, OPERATOR)
    assert revealed is not None

    async with Redis(port=free_port()) as away:
        with pytest.raises(redis.exceptions.ConnectionError):
            await places(stores, away).reveal(revealed)
    hidden, before = await standings.hidden(exam), await Boards(stores.boards).entries(exam, None)
    await working.reveal_again(exam, 100)

    assert (hidden, before) == (0, {"ada": 3})
    assert await Boards(stores.boards).entries(exam, None) == {"ada": 8}
    assert await standings.untold(exam, 100) == []


async def test_who_moves_while_the_boards_are_told_of_them_stays_held(stores: Stores, exam: str) -> None:
    standings = Standings(stores.postgres)
    await scored(stores, exam, "ada", 1, 3)
    await Catalog(stores.postgres).freeze(exam, OPERATOR)
    await scored(stores, exam, "ada", 2, 8)
    revealed = await standings.reveal(exam, OPERATOR)
    assert revealed is not None

    await scored(stores, exam, "ada", 3, 9)
    await standings.told([revealed])

    assert await standings.ranked(exam, None) == {"ada": 8}
    assert await standings.hidden(exam) == 1

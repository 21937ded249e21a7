"""The board bench measures what it says: its crowds, its questions and its comparison with SQL, on a real stack."""

import asyncio
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.local import Stack
from bench.measure import LOAD, build_load, load
from bench.peers.ranks import peers
from bench.standings import Moving, Seeded, built, equality, seed, tokens
from bench.watching import WAYS, watched
from ops.client import client
from tests import stack as running

pytestmark = pytest.mark.timeout(400)  # the load tool is built from nothing
ENTRIES = 300


@pytest.fixture(scope="module")
def place(stack: running.Stack) -> Stack:
    """The stack as benches know it, and the load tool."""
    if shutil.which("go") is None and not LOAD.exists():
        pytest.skip("the load tool is not built, and Go is not here")
    build_load()
    return Stack(stack.home)


@pytest.fixture(scope="module")
def board(place: Stack) -> Callable[[str], Seeded]:
    """A board that breaks ties in some way; built when it is first asked for."""

    @cache
    def made(tie_break: str) -> Seeded:
        found = seed(place, tie_break, ENTRIES)
        asyncio.run(built(place, found))
        return found

    return made


@pytest.fixture(scope="module", params=["NONE", "DURATION"])
def seeded(request: pytest.FixtureRequest, board: Callable[[str], Seeded]) -> Seeded:
    """A board of each kind."""
    return board(request.param)


@pytest.fixture(scope="module")
def watched_board(board: Callable[[str], Seeded]) -> Seeded:
    """A board whose ties are broken, which costs watchers most."""
    return board("DURATION")


@pytest.fixture(scope="module")
def students(place: Stack, board: Callable[[str], Seeded], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of 40 students, who are the same on each board."""
    file = tmp_path_factory.mktemp("students") / "tokens"
    tokens(place, board("DURATION").spread(40), file)
    return file


@pytest.fixture
def differences(place: Stack, seeded: Seeded, students: Path) -> Callable[[], int]:
    """How many of the students' places are not what SQL says."""
    heard = {one["student"]: one["token"] for one in map(json.loads, students.read_text().splitlines())}
    gateway = urlsplit(place.read()["gateway"]).netloc
    return lambda: asyncio.run(equality(place, seeded, gateway, heard)).differences


@pytest.mark.parametrize("way", WAYS)
def test_every_watcher_has_every_frame_though_some_stall(place: Stack, watched_board: Seeded, students: Path, way: str) -> None:
    crowd = watched(place, watched_board, way, students, 40, seconds=8, stalled=0.1)

    assert (crowd.watchers, crowd.stalled) == (36, 4)
    assert crowd.frames  # one change a second, where the machine has time for it
    assert crowd.received == crowd.frames * crowd.watchers
    assert crowd.fewest_of_one == crowd.frames
    assert 0 < crowd.p50_ms <= crowd.p99_ms <= crowd.max_ms
    assert not crowd.failed


@pytest.mark.parametrize("way", ["grpc", "sse"])
def test_watchers_of_a_service_that_was_killed_come_back(place: Stack, watched_board: Seeded, students: Path, way: str) -> None:
    crowd = watched(place, watched_board, way, students, 40, seconds=4, kill=True)

    assert crowd.lost == 40
    assert crowd.attempts >= 40
    assert 0 < crowd.back_s < 60
    assert not crowd.failed


@pytest.mark.parametrize("mode", ["ranks", "ranks-grpc"])
def test_who_is_on_the_board_is_told_their_place(place: Stack, seeded: Seeded, students: Path, mode: str) -> None:
    run = load(mode, urlsplit(place.read()["gateway"]).netloc, students, seconds=2, rate=30, connections=2, exam=seeded.exam)

    assert run.saved >= 10  # of 60 that are asked for, where the machine has time for them
    assert not run.refused


@pytest.mark.parametrize("mode", ["ranks", "ranks-grpc"])
def test_an_answer_without_a_place_does_not_count(place: Stack, seeded: Seeded, tmp_path: Path, mode: str) -> None:
    tokens(place, [f"b{ENTRIES + 1}"], tmp_path / "stranger")  # has no standing

    run = load(
        mode, urlsplit(place.read()["gateway"]).netloc, tmp_path / "stranger", seconds=2, rate=10, connections=1, exam=seeded.exam
    )

    assert run.saved == 0
    assert sum(run.refused.values()) > 0


def test_a_board_that_is_behind_is_found_out(place: Stack, seeded: Seeded, differences: Callable[[], int]) -> None:
    before = differences()

    async def move_in_sql_alone() -> None:
        async with Moving(place, seeded) as movers:
            await movers.write(seeded.spread(40))

    asyncio.run(move_in_sql_alone())
    behind = differences()
    with client(place.home, None, None) as admin:
        admin.rebuild(seeded.exam)

    assert before == 0
    assert behind > 0
    assert differences() == 0


def test_peers_answer_for_every_student(place: Stack, seeded: Seeded) -> None:
    found = asyncio.run(peers(place, seeded.exam, seeded.spread(20)))

    assert [one.asked for one in found] == [20, 20, 10]
    assert all(one.per_second > 0 for one in found)

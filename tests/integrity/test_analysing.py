"""A run that is stopped, or is too much, says why, and the next one is made."""

import asyncio
import dataclasses

import pytest
from finalbell.v1 import integrity_pb2 as pb

from servers.auth import Caller
from servers.integrity.analysing import Analysing
from servers.scoring.rules import decided
from servers.serving.wrap import Call
from stores.analyses import Analyses
from stores.case_records import RunState
from stores.connect import Stores, StoreSettings, connect
from stores.results import Results
from tests.stack import Stack, eventually, fresh
from tests.stores.test_results import sat

EVERYBODY = [pb.Analysis.EVERYBODY]


@pytest.fixture
async def over(stores: Stores, exam: str) -> str:
    """An exam that three have sat, and that is over."""
    made = [dataclasses.replace(await sat(stores, exam, fresh("s"), 1, 1000, 2), points=(2, 0, 0, 0)) for _ in range(3)]
    await Results(stores.postgres, decided).keep(made)
    await stores.postgres.execute("UPDATE exam_session SET status = 'SCORED' WHERE exam_id = $1", exam)
    await stores.postgres.execute("UPDATE exam SET closed_at = now() WHERE id = $1", exam)
    return exam


def analysing(stores: Stores, *, pairs: int = 100, seconds: int = 60) -> Analysing:
    return Analysing(Analyses(stores.postgres), most_pairs=pairs, most_bytes=2 << 30, most_seconds=seconds)


async def asked(of: Analysing, exam: str) -> pb.Analysis:
    call = Call(Caller("head", frozenset({"admin"}), ()), None, 0.0, {})
    return (await of.analyse(pb.AnalyseExamRequest(exam_id=exam, groupings=EVERYBODY), call)).analysis


async def test_a_run_that_is_stopped_with_its_service_says_so_and_the_next_one_is_made(stores: Stores, over: str) -> None:
    stopping, runs = analysing(stores), Analyses(stores.postgres)
    waiting = asyncio.create_task(asked(stopping, over))
    await eventually(lambda: runs.read(over))

    await stopping.drain()
    stopped, after = await waiting, await asked(analysing(stores), over)

    assert (stopped.version, stopped.state) == (1, pb.Analysis.FAILED)
    assert "stopped meanwhile" in stopped.failure
    assert (after.version, after.state, after.pairs_tested) == (2, pb.Analysis.DONE, 3)


@pytest.mark.parametrize(("limits", "why"), [({"pairs": 2}, "That would be 3 pairs"), ({"seconds": 0}, "more memory or time")])
async def test_a_run_that_is_too_much_keeps_nothing_and_says_why(
    stores: Stores, over: str, limits: dict[str, int], why: str
) -> None:
    run = await asked(analysing(stores, **limits), over)

    kept = await Analyses(stores.postgres).read(over)
    assert kept is not None
    assert (run.state, kept.state, kept.figures) == (pb.Analysis.FAILED, RunState.FAILED, None)
    assert why in run.failure


async def test_a_run_that_could_not_read_says_that_it_may_be_asked_for_again(stack: Stack, stores: Stores, over: str) -> None:
    where = stack.read()
    impatient = StoreSettings(where["postgres"], where["redis"], where["redis"], where["nats"], statement_seconds=1)

    async with connect(impatient) as others, stores.postgres.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE integrity_presence IN ACCESS EXCLUSIVE MODE")
        run = await asked(analysing(others), over)

    assert run.state == pb.Analysis.FAILED
    assert run.failure == "PostgreSQL did not answer meanwhile. Ask for it again."

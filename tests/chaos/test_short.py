"""A minute of chaos in the suite; `make chaos` runs as long as one likes."""

import shutil
from pathlib import Path

import pytest

from tests.chaos.faults import schedule
from tests.chaos.run import own_stack, run

SEED, SECONDS = 11, 30


@pytest.mark.timeout(240)
async def test_no_promise_breaks_while_everything_is_killed_frozen_and_wiped_in_turn(tmp_path: Path) -> None:
    faults = schedule(SEED, SECONDS, pauses=(1, 3))

    with own_stack() as stack:
        try:
            outcome = await run(stack, faults, SEED, rates=(60, 6), live=120, history=tmp_path / "history.jsonl")
        finally:
            shutil.copytree(stack.home / "logs", tmp_path / "logs")  # pytest keeps them for a while

    assert len(outcome.faults) == len(faults) > 10
    assert all(done.recovered is not None for done in outcome.faults)
    assert outcome.calls["SaveAnswer OK"] > 300  # of 1,800 that are due, where the machine has time for them
    assert outcome.violations == 0, "\n".join(outcome.lines)

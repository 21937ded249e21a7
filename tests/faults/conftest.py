"""Faults have a stack of their own, so that nobody else's test meets them."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ops import health
from ops.home import Home
from tests.stack import Stack, eventually, free_port

ROOT = Path(__file__).parent.parent.parent
FINALBELL = [sys.executable, "-m", "ops.main"]
SHORT_HOLD = {**os.environ, "FINALBELL_HOLD_SECONDS": "10"}


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running stack that may be harmed."""
    home = Path(tempfile.mkdtemp(prefix="finalbell-faults-")) / "home"
    up = [*FINALBELL, "up", "--detach", "--no-sample", "--home", str(home), "--port", str(free_port())]
    try:
        made = subprocess.run(up, cwd=ROOT, env=SHORT_HOLD, capture_output=True, text=True, timeout=180, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        yield Stack(home)
    finally:
        subprocess.run([*FINALBELL, "down", "--home", str(home)], cwd=ROOT, capture_output=True, timeout=120, check=False)
        shutil.rmtree(home.parent, ignore_errors=True)


@pytest.fixture(autouse=True)
async def healthy(stack: Stack) -> AsyncIterator[None]:
    """Every test finds every process up, and leaves them so."""

    async def all_up() -> bool:
        rows = await asyncio.to_thread(health.check, Home(stack.home))
        return bool(rows) and all(row.healthy for row in rows)

    await eventually(all_up, 30)
    yield
    await eventually(all_up, 30)

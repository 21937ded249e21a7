"""One real stack for the whole run: PostgreSQL, Redis, NATS, Envoy and all services, as `finalbell up` starts them.

Tests share it and stay apart by ids of their own: every exam and student a test makes has a fresh name.
"""

import gc
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.stack import FOUNDATION, Stack, running

sys.modules["sniffio"] = None  # type: ignore[assignment]  # httpcore looks for it at each call: a sixth of our CPU
settings.register_profile("finalbell", deadline=None)  # timing is never asserted
settings.load_profile("finalbell")
ROOT = Path(__file__).parent.parent
LONG_ONES = ("chaos", "test_readme.py", "bad_input", "faults", "browser", "bench", "ops", "flows", "payments", "stores")


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that the stacks of this run, whichever worker starts them, are founded on."""
    if not hasattr(config, "workerinput"):
        os.environ[FOUNDATION] = tempfile.mkdtemp(prefix="finalbell-test-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete it, when all workers are gone."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(FOUNDATION), ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep all that is loaded and collected out of the garbage collector's sight, which would walk through it again and again: half
    a million objects, and a quarter of the CPU of tests that compute."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that at the end no worker waits for another one's last file."""

    def place(item: pytest.Item) -> int:
        first = item.path.relative_to(ROOT / "tests").parts[0]
        return LONG_ONES.index(first) if first in LONG_ONES else len(LONG_ONES)

    items.sort(key=place)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running stack without exams."""
    with running() as stack:
        yield stack


@pytest.fixture
def exam_id() -> str:
    """A fresh exam id."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def small_bank() -> dict[str, Any]:
    """A bank of practice questions, one of each type."""
    return json.loads((Path(__file__).parent / "small_bank.json").read_text())


@pytest.fixture(scope="session")
def banks() -> Path:
    """The folder of real question banks beside the repository; tests that need it are skipped where it is absent."""
    found = ROOT.parent / "shared" / "data" / "banks"
    if not found.is_dir():
        pytest.skip("the shared question banks are not here")
    return found


@pytest.fixture(scope="session")
def small_exam() -> dict[str, Any]:
    """An exam with one question of each objective type, whose keys and explanations hold canary strings."""
    return json.loads((Path(__file__).parent / "small_exam.json").read_text())

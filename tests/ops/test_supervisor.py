"""The supervisor's answer to signals, where no whole stack is needed to see it."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from ops.home import Home
from ops.plan import Plan
from ops.supervisor import Supervisor


class Bare(Supervisor):
    """One that looks after nothing."""

    def _start(self, held: ExitStack) -> None:
        return


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_signal_is_heeded_though_what_it_raised_got_lost(tmp_path: Path) -> None:
    home, said = Home(tmp_path / "home"), list[str]()
    home.make()

    def on_ready() -> None:
        with suppress(BaseException):  # as inside a finalizer, whose exceptions Python only prints
            os.kill(os.getpid(), signal.SIGTERM)

    Bare(home, Plan(0, {}, "native"), said.append).run(on_ready)

    assert said == ["stopping; Ctrl-C again to hurry"]

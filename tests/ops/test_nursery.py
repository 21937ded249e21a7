"""Units are forked from a process that has everything loaded; without it they come up all the same, only later."""

import json
import os
import signal
from pathlib import Path

from tests.faults.harm import kill, restarted
from tests.stack import Stack


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def nurseries(stack: Stack) -> list[int]:
    """Return the nursery's pid: a child of the supervisor that is none of the stack's processes."""
    known = {process["pid"] for process in stack.read()["processes"]}
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if pid not in known and _is_child(pid, stack.read()["pid"]) and "nursery" in command(pid)]


def _is_child(pid: int, of: int) -> bool:
    try:
        return parent(pid) == of
    except OSError:
        return False


def test_a_unit_is_the_supervisors_own_child_with_its_own_name_and_settings(stack: Stack) -> None:
    supervisor = stack.read()["pid"]
    for name, service in stack.read()["services"].items():
        pid = service["pid"]

        assert parent(pid) == supervisor
        assert os.getpgid(pid) == pid
        assert Path(f"/proc/{pid}/comm").read_text().strip() == name
        told = json.loads((stack.home / "config" / f"{name}.json").read_text())
        assert told["FINALBELL_LISTEN"] == service["grpc"]


async def test_a_unit_that_is_killed_comes_back_though_the_nursery_was_killed_too(stack: Stack) -> None:
    (nursery,) = nurseries(stack)

    os.kill(nursery, signal.SIGKILL)
    before = kill(stack, "content")
    await restarted(stack, "content", before)

    assert parent(stack.read()["services"]["content"]["pid"]) == stack.read()["pid"]
    assert nurseries(stack) != [nursery]

"""The local stack starts, heals, and leaves nothing behind, whatever way it ends.

Starting one takes seconds, so that the tests share two, and those that end them come last in this file.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from ops import probes
from ops.home import alive
from tests.ops.local import ABSENT, ROOT, Local, eventually, finalbell, mode
from tests.stack import found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Local, Local]]:
    """Two stacks that were started at the same moment: one in the foreground, in a folder with a blank, one detached."""
    folder = tmp_path_factory.mktemp("stacks")
    front, back = Local(folder / "in front"), Local(folder / "back")
    try:
        front.begin()
        code, _, err = back.up("--detach", "--workers", "session=2")
        assert code == 0, err
        eventually(front.ready, 150)
        yield front, back
    finally:
        front.stop()
        back.stop()


@pytest.fixture
def front(both: tuple[Local, Local]) -> Local:
    return both[0]


@pytest.fixture
def back(both: tuple[Local, Local]) -> Local:
    return both[1]


def test_two_stacks_run_side_by_side_on_ports_of_their_own(front: Local, back: Local) -> None:
    ports = [process["port"] for local in (front, back) for process in local.stack()["processes"] if process["name"] != "session.2"]

    assert len(set(ports)) == len(ports) == 34
    for local in (front, back):
        assert local.run("status").returncode == 0


def test_only_its_owner_may_look_into_a_stack(front: Local) -> None:
    assert mode(front.home) == 0o700
    for name in (
        "stack.json",
        "secrets.json",
        "ports.json",
        "keys/signing.pem",
        "keys/receipt.pem",
        "keys/media.json",
        "config/redis.conf",
        "config/nats.conf",
    ):
        assert mode(front.home / name) == 0o600, name


def test_up_on_a_running_home_says_so_and_changes_nothing(back: Local) -> None:
    before = back.pids()

    again = back.run("up")

    assert again.returncode == 0
    assert "runs" in again.stdout
    assert back.stack()["gateway"] in again.stdout
    assert back.pids() == before


def test_every_worker_of_a_service_has_a_pid_and_shares_its_port(back: Local) -> None:
    session = back.stack()["services"]["session"]
    first, second = (process for process in back.stack()["processes"] if process["name"].startswith("session"))

    assert session["pid"] == [first["pid"], second["pid"]]
    assert first["port"] == second["port"] == session["port"]
    for pid in session["pid"]:
        assert session["port"] in _listening(pid)
    assert first["metrics"] != second["metrics"]
    assert probes.page(second["metrics"], "/metrics")


def test_only_the_session_service_has_a_limit_of_its_memory(front: Local) -> None:
    ours = _data_limit("self")

    limits = {process["name"]: _data_limit(process["pid"]) for process in front.stack()["processes"]}

    assert limits.pop("session") == [str(3 << 30), str(3 << 30), "bytes"]
    assert {name: limit for name, limit in limits.items() if limit != ours} == {}


def test_a_healthy_machine_needs_no_doctor(front: Local) -> None:
    looked = front.run("doctor")

    assert looked.returncode == 0, looked.stdout
    assert "!!" not in looked.stdout


def test_a_hanging_process_is_found(back: Local) -> None:
    pid = back.pid("content")
    os.kill(pid, signal.SIGSTOP)
    try:
        status, doctor = back.run("status"), back.run("doctor")
    finally:
        os.kill(pid, signal.SIGCONT)

    assert status.returncode == doctor.returncode == 1
    assert [line.split()[0] for line in status.stdout.splitlines() if "NOT HEALTHY" in line] == ["content"]
    assert f"!!   content (pid {pid}" in doctor.stdout
    eventually(lambda: back.rows()["content"].healthy)


def test_a_killed_redis_comes_back_with_what_it_held(front: Local) -> None:
    with Redis.from_url(front.stack()["redis"]) as redis:
        redis.set("lb:kept", "yes")
    before = front.pid("redis")

    os.kill(before, signal.SIGKILL)

    eventually(lambda: front.pid("redis") != before)
    eventually(lambda: front.rows()["redis"].healthy)
    assert front.rows()["redis"].restarts == 1
    with Redis.from_url(front.stack()["redis"]) as redis:
        assert redis.get("lb:kept") == b"yes"


def test_killed_processes_come_back_side_by_side(back: Local) -> None:
    names = ("content", "envoy", "postgres")
    before = {name: back.pid(name) for name in names}

    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    eventually(lambda: all(back.pid(name) != before[name] for name in names))
    eventually(back.healthy, 30)
    restarts = {name: back.rows()[name].restarts for name in names}
    assert (restarts["envoy"], restarts["postgres"]) == (1, 1)
    assert restarts["content"] >= 1  # it ends once more where it is back before PostgreSQL


def test_one_worker_comes_back_alone(back: Local) -> None:
    session = back.stack()["services"]["session"]
    first, second = session["pid"]

    os.kill(second, signal.SIGKILL)

    eventually(lambda: second not in back.stack()["services"]["session"]["pid"])
    assert back.stack()["services"]["session"]["pid"][0] == first
    assert back.stack()["services"]["session"]["restarts"] == session["restarts"] + 1  # where time was short one began twice
    eventually(back.healthy)


def test_logs_are_read_by_service(back: Local) -> None:
    told = back.run("logs", "session", "-n", "3")

    assert told.returncode == 0
    assert "serving" in told.stdout
    assert "session.2.log" in told.stdout
    assert "There are: " in back.run("logs", "nobody").stderr


def test_a_taken_port_is_said_in_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for options in ((), ("--detach",)):
            local = Local(tmp_path / "home", port)

            code, _, err = local.up(*options)

            assert code == 1
            assert err.splitlines() == [f"Port {port} is taken: stop what uses it, or choose another with --port."]
            assert not local.stack()
            assert not list((local.home / "data").iterdir())


def test_a_server_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    local = Local(tmp_path / "home")
    local.home.mkdir()
    (local.home / "supervisor.lock").touch()
    (local.home / "secrets.json").write_text("{}")
    (local.home / "data" / "postgres").mkdir(parents=True, mode=0o700)
    (local.home / "data" / "postgres" / "PG_VERSION").write_text("9\n")

    code, _, err = local.up("--detach")

    assert code == 1
    assert err.startswith(f"postgres ended with exit code 2 at its start; its log, {local.home}/logs/postgres.log, ends:\n")
    assert "postgresql.conf" in err
    assert not local.stack()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    code, _, err = Local(tmp_path).up("--detach")
    wiped = finalbell("down", "--wipe", home=tmp_path)

    assert code == wiped.returncode == 1
    assert len(err.splitlines()) == len(wiped.stderr.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_commands_without_a_stack_say_so() -> None:
    status, down, doctor = finalbell("status", home=ABSENT), finalbell("down", home=ABSENT), finalbell("doctor", home=ABSENT)

    assert (status.returncode, down.returncode, doctor.returncode) == (3, 0, 0)
    assert "No stack runs" in status.stdout
    assert "No stack runs" in down.stdout


def test_who_has_a_stack_started_in_the_background_loads_nothing_of_what_runs_it() -> None:
    looks = "import sys, ops.stack, ops.start; print({'grpc', 'psycopg', 'redis', 'jinja2', 'yoyo'} & sys.modules.keys())"

    ran = subprocess.run([sys.executable, "-c", looks], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout == "set()\n"


@pytest.mark.parametrize("options", [(), ("--detach",)], ids=["foreground", "detached"])
def test_ctrl_c_during_the_start_stops_what_was_started(tmp_path: Path, options: tuple[str, ...]) -> None:
    local = Local(tmp_path / "home")
    process = local.begin(*options)
    pids = eventually(lambda: len(local.pids()) > 2 and local.pids())

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)

    eventually(lambda: not any(alive(pid) for pid in pids), 30)
    assert not local.stack()


def test_a_service_that_dies_while_the_stack_starts_is_started_again(tmp_path: Path) -> None:
    local = Local(tmp_path / "home")
    found(local.home)
    try:
        local.begin()
        eventually(lambda: "bell" in local.stack().get("services", {}))
        os.kill(local.pid("bell"), signal.SIGKILL)

        eventually(local.ready, 150)

        eventually(lambda: local.rows()["bell"].restarts == 1 and local.healthy())
    finally:
        local.stop()


# From here on, tests end the stacks that they share.


def test_ctrl_c_stops_everything_in_order(front: Local) -> None:
    pids, process = front.pids(), front.process
    assert process is not None

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "finalbell: stopped; nothing is left running"
    assert f"finalbell is ready at http://127.0.0.1:{front.port}" in out
    assert not any(alive(pid) for pid in pids)
    assert not (front.home / "stack.json").exists()
    assert not (front.home / "ready").exists()


def test_wipe_deletes_the_folder(front: Local) -> None:
    assert (front.home / "data" / "postgres").exists()

    wiped = front.run("down", "--wipe")

    assert wiped.returncode == 0
    assert not front.home.exists()


def test_children_end_with_a_killed_supervisor_and_the_next_up_works(back: Local) -> None:
    with Redis.from_url(back.stack()["redis"]) as redis:
        redis.set("lb:kept", "yes")
    supervisor, *children = back.pids()

    os.kill(supervisor, signal.SIGKILL)
    status = back.run("status")
    code, _, err = back.up("--detach")

    assert status.returncode == 3
    assert code == 0, err
    eventually(lambda: not any(alive(pid) for pid in children), 0)
    with Redis.from_url(back.stack()["redis"]) as redis:
        assert redis.get("lb:kept") == b"yes"


def test_down_leaves_nothing(back: Local) -> None:
    pids = back.pids()

    down = back.run("down")

    assert down.returncode == 0
    assert not any(alive(pid) for pid in pids)
    assert not (back.home / "stack.json").exists()
    assert back.run("status").returncode == 3


def _data_limit(pid: object) -> list[str]:
    """A process's limit of its data, soft and hard, and their unit."""
    [line] = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max data size")]
    return line.removeprefix("Max data size").split()


def _listening(pid: int) -> set[int]:
    """Return the TCP ports that a process itself listens on."""
    sockets = {os.readlink(entry).removeprefix("socket:[").rstrip("]") for entry in Path(f"/proc/{pid}/fd").iterdir()}
    tables = [Path(f"/proc/{pid}/net/{family}") for family in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in sockets}

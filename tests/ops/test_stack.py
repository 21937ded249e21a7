"""The local stack comes up, shows itself, survives what dies, and leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.stack import free_port

ROOT = Path(__file__).parent.parent.parent
FINALBELL = [sys.executable, "-m", "ops.main"]


def finalbell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FINALBELL, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)


def start(home: Path, *options: str) -> subprocess.Popen[str]:
    command = [*FINALBELL, "up", "--no-sample", "--home", str(home), "--port", str(free_port()), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stack(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "stack.json").read_text())
    return found


def pids(home: Path) -> list[int]:
    units = [*stack(home)["services"].values(), *stack(home)["servers"].values()]
    return [pid for unit in units for pid in (unit["pid"] if isinstance(unit["pid"], list) else [unit["pid"]])]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack of this module's own, with two session workers."""
    home = tmp_path_factory.mktemp("stack") / "home"
    made = finalbell("up", "--detach", "--no-sample", "--home", str(home), "--port", str(free_port()), "--workers", "session=2")
    assert made.returncode == 0, made.stdout + made.stderr
    yield home
    finalbell("down", "--home", str(home), "--wipe")


def test_the_screen_names_the_gateway_a_token_and_the_logs(running: Path) -> None:
    again = finalbell("up", "--detach", "--home", str(running))

    assert again.returncode == 0
    assert stack(running)["gateway"] in again.stdout


def test_what_a_stack_knows_is_its_owners_alone(running: Path) -> None:
    modes = {name: (running / name).stat().st_mode & 0o777 for name in ("stack.json", "secrets.json", "keys/signing.pem", ".")}

    assert modes == {"stack.json": 0o600, "secrets.json": 0o600, "keys/signing.pem": 0o600, ".": 0o700}


def test_status_shows_every_process_as_healthy(running: Path) -> None:
    shown = finalbell("status", "--json", "--home", str(running))

    rows = json.loads(shown.stdout)
    assert shown.returncode == 0
    assert {row["name"] for row in rows} >= {"postgres", "redis", "nats", "envoy", "session", "scoring-worker", "bell"}
    assert all(row["healthy"] for row in rows)


def test_two_workers_of_a_service_share_its_port(running: Path) -> None:
    session = stack(running)["services"]["session"]

    assert len(set(session["pid"])) == 2
    assert all(alive(pid) for pid in session["pid"])


def test_a_killed_redis_comes_back_with_its_data(running: Path) -> None:
    url, old = stack(running)["redis"], stack(running)["servers"]["redis"]["pid"]
    with Redis.from_url(url) as redis:
        redis.set("s:{00}:survivor", "here")
        redis.execute_command("WAITAOF", 1, 0, 2000)

    os.kill(old, signal.SIGKILL)

    wait(lambda: stack(running)["servers"]["redis"]["pid"] != old)
    with Redis.from_url(url) as redis:
        wait(lambda: _answer(redis) == b"here")
    assert json.loads(finalbell("status", "--json", "--home", str(running)).stdout)[1]["restarts"] == 1


def _answer(redis: Redis) -> object:
    try:
        return redis.get("s:{00}:survivor")
    except RedisError:
        return None


def test_a_killed_service_comes_back_under_a_new_pid(running: Path) -> None:
    old = stack(running)["services"]["content"]["pid"]

    os.kill(old, signal.SIGKILL)

    wait(lambda: stack(running)["services"]["content"]["pid"] not in (old, None))
    wait(lambda: finalbell("status", "--home", str(running)).returncode == 0)


def test_the_logs_of_one_process_are_shown(running: Path) -> None:
    shown = finalbell("logs", "session", "-n", "5", "--home", str(running))

    assert shown.returncode == 0
    assert '"serving"' in shown.stdout


def test_doctor_finds_nothing_wrong_with_a_healthy_stack_and_names_a_frozen_one(running: Path) -> None:
    healthy = finalbell("doctor", "--home", str(running))
    frozen = stack(running)["services"]["leaderboard"]["pid"]
    os.kill(frozen, signal.SIGSTOP)
    try:
        sick = finalbell("doctor", "--home", str(running))
    finally:
        os.kill(frozen, signal.SIGCONT)

    assert healthy.returncode == 0, healthy.stdout
    assert sick.returncode == 1
    assert "!!  leaderboard" in sick.stdout


def test_a_taken_port_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        refused = finalbell("up", "--home", str(tmp_path / "home"), "--port", str(port))

    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [f"Port {port} is taken: stop what uses it, or choose another with --port."]


def test_two_stacks_start_side_by_side_and_ctrl_c_stops_one_alone(tmp_path: Path) -> None:
    homes = [tmp_path / "a", tmp_path / "b"]
    processes = [start(home) for home in homes]
    for home in homes:
        wait(lambda home=home: (home / "ready").exists(), 90)
    theirs = [pids(home) for home in homes]
    ports = [set(json.loads((home / "ports.json").read_text()).values()) for home in homes]

    processes[0].send_signal(signal.SIGINT)
    said, _ = processes[0].communicate(timeout=60)
    others_live = all(alive(pid) for pid in theirs[1])
    processes[1].send_signal(signal.SIGTERM)
    processes[1].communicate(timeout=60)

    assert not ports[0] & ports[1]
    assert "Sit the sample exam" in said
    assert "nothing is left running" in said
    assert others_live
    assert not any(alive(pid) for both in theirs for pid in both)
    assert not (homes[0] / "stack.json").exists()


def test_when_the_supervisor_is_killed_its_children_go_and_the_next_up_works(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = start(home)
    wait(lambda: (home / "ready").exists(), 90)
    theirs = pids(home)

    first.kill()
    first.communicate()

    wait(lambda: not any(alive(pid) for pid in theirs), 10)
    second = finalbell("up", "--detach", "--no-sample", "--home", str(home), "--port", str(free_port()))
    assert second.returncode == 0, second.stdout + second.stderr
    again = pids(home)
    assert finalbell("down", "--home", str(home), "--wipe").returncode == 0
    assert not any(alive(pid) for pid in again)
    assert not home.exists()


def test_without_a_stack_every_command_says_so_in_one_line(tmp_path: Path) -> None:
    home = str(tmp_path / "nowhere")

    codes = {
        name: finalbell(*name.split(), "--home", home).returncode
        for name in ("status", "down", "logs", "exam list", "token --student a")
    }

    assert codes == {"status": 3, "down": 0, "logs": 1, "exam list": 1, "token --student a": 1}

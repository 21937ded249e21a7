"""A local stack as its operator sees it: by commands, by files, by pids."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ops import health
from ops.home import Home
from tests.stack import ENGINE, Stack, free_port

ROOT = Path(__file__).parent.parent.parent
FINALBELL = [sys.executable, "-m", "ops.main"]
ABSENT = Path("/nonexistent/finalbell")


def finalbell(*arguments: object, home: Path | None = None, seconds: float = 90) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    words = [*FINALBELL, *map(str, arguments), *(["--home", str(home)] if home else [])]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)


def eventually(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait until `check` gives something true, and return it; fail when it never does."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


class Local:
    """A home, and the supervisor in it once it was started; `stop` leaves nothing of it, whatever has happened."""

    def __init__(self, home: Path, port: int | None = None) -> None:
        self.home, self.port = home, port or free_port()
        self.process: subprocess.Popen[str] | None = None

    def begin(self, *options: str) -> "subprocess.Popen[str]":
        """Begin `finalbell up`, and don't wait."""
        words = [*FINALBELL, "up", "--no-sample", "--home", str(self.home), "--port", str(self.port), *ENGINE, *options]
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's `&` has it ignored
        )
        return self.process

    def up(self, *options: str) -> tuple[int, str, str]:
        """Run `finalbell up` to its end; gives exit code, output and errors."""
        process = self.begin(*options)
        out, err = process.communicate(timeout=180)
        return process.returncode, out, err

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command on this home."""
        return finalbell(*arguments, home=self.home)

    def stack(self) -> dict[str, Any]:
        """What stack.json says now; nothing while it is not there."""
        try:
            found: dict[str, Any] = json.loads((self.home / "stack.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def pids(self) -> list[int]:
        """The supervisor and all its children."""
        stack = self.stack()
        return [stack["pid"], *(process["pid"] for process in stack["processes"])] if stack else []

    def pid(self, name: str) -> int:
        return Stack(self.home).pid(name)

    def rows(self) -> dict[str, health.Row]:
        """Each process as `status` shows it."""
        return {row.name: row for row in health.check(Home(self.home))}

    def healthy(self) -> bool:
        """Whether every process is."""
        rows = self.rows()
        return bool(rows) and all(row.healthy for row in rows.values())

    def ready(self) -> bool:
        """Whether everything is ready; fails when it gave up."""
        assert self.process is None or self.process.poll() is None, "it ended while it started"
        return (self.home / "ready").exists()

    def stop(self) -> None:
        self.run("down")
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            self.process.communicate(timeout=60)


def mode(path: Path) -> int:
    """A file's permission bits."""
    return os.stat(path).st_mode & 0o777

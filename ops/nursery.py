"""A stack's nursery: one process has the services' code loaded, and each unit is forked from it, so that it is there at once."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ops.home import Home
from ops.processes import LIBC, Process, become_child, data_limit

PR_SET_CHILD_SUBREAPER = 36
LOADED_SECONDS = 30.0
"""How long it may take to answer: the first time it still loads, beside servers that start."""


@dataclass(slots=True)
class Forked:
    """A process that was forked elsewhere and is our child: as much of `subprocess.Popen` as is used of it."""

    pid: int
    code: int | None = None

    def poll(self) -> int | None:
        """Return its exit code once it has ended."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Nursery:
    """Starts units. Where it cannot, for whatever reason, it says so, and is begun anew for the next one."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._asked: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start it, unless it runs; it loads meanwhile. Raises OSError and SubprocessError."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(LOADED_SECONDS)
        command = [sys.executable, "-P", "-m", "servers.nursery"]
        with its, self._home.log("nursery").open("wb") as out:
            self._process = subprocess.Popen(
                command,
                cwd=self._home.path,
                stdin=its.fileno(),
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=become_child(Process("nursery", command, lambda: True, 0)),
            )
        self._asked = ours

    def close(self) -> None:
        """End it; units that it has started go on."""
        if self._asked is not None:
            self._asked.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._asked = self._process = None

    def bear(self, process: Process, output: int) -> Forked | None:
        """Fork a unit; None where that does not work."""
        wish = {
            "unit": process.unit,
            "environment": dict(process.environment),
            "niceness": process.niceness,
            "memory_bytes": data_limit(process),
            "orphan_signal": int(process.orphan_signal),
        }
        try:
            self.open()
            assert self._asked is not None
            with _adopting():
                socket.send_fds(self._asked, [json.dumps(wish).encode()], [output])
                answer = self._asked.recv(32)
            return Forked(int(answer))
        except (OSError, ValueError, subprocess.SubprocessError):
            self.close()
            return None


@contextmanager
def _adopting() -> Iterator[None]:
    """Become the parent of what loses its own meanwhile."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 0)

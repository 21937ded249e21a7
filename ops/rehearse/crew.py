"""The processes of load, as their parent sees them: it tells them what to do, and adds up what they count."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from ops.rehearse.figures import Tally, read, together
from ops.rehearse.load import Job

LOOK_SECONDS = 0.25
END_SECONDS = 5.0


class CrewLost(Exception):
    """A process of load ended before its work was done; the text is the last that it said."""


class Crew:
    """Processes that run until the crew is closed."""

    def __init__(self, jobs: Sequence[Job], log: Path) -> None:
        self._log = log
        self._members: list[_Member] = []
        try:
            for job in jobs:
                self._members.append(_Member(job, log))
        except OSError:
            self.close()
            raise

    @property
    def tally(self) -> Tally:
        """What all have counted so far."""
        return together(member.tally for member in self._members)

    def do(self, acts: Sequence[dict[str, object]], look: Callable[[Tally], None]) -> None:
        """Have each process do its act, and wait for all of them; `look` is shown the figures meanwhile."""
        for member, act in zip(self._members, acts, strict=True):
            member.tell(act)
        while not all(member.idle for member in self._members):
            if not all(member.alive for member in self._members):
                raise CrewLost(self._log.read_text(errors="replace")[-1000:] or "a process of load ended")
            time.sleep(LOOK_SECONDS)
            look(self.tally)
        look(self.tally)

    def close(self) -> None:
        """End all processes."""
        for member in self._members:
            member.close()


class _Member:
    """One process."""

    def __init__(self, job: Job, log: Path) -> None:
        command = [sys.executable, "-m", "ops.rehearse.load"]
        paths = os.pathsep.join(path for path in sys.path if path)
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,  # Ctrl-C is the parent's to hear
            )
        self.tally = Tally()
        self._told, self._done = 0, 0
        self._write(job.line())
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    @property
    def idle(self) -> bool:
        return self._done == self._told

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def tell(self, act: dict[str, object]) -> None:
        self._told += 1
        self._write(json.dumps(act) + "\n")

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(END_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _write(self, line: str) -> None:
        if self._process.stdin is None:
            raise CrewLost("a process of load has no input")
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise CrewLost("a process of load ended") from None

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            said = json.loads(line)
            self.tally = read(said["tally"])
            self._done += said["done"]

"""Starts a stack: in the foreground, or in the background and waits for it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO

import typer

from ops.home import Home
from ops.plan import CannotStart, Plan
from ops.sample import SAMPLE, SAMPLE_LECTURE
from ops.screen import screen

NEEDED_DISK = 1 << 30
PROGRESS = "finalbell: "


def prepare(home: Home) -> None:
    """Make the folder, or raise CannotStart with what to do."""
    try:
        if home.foreign():
            raise CannotStart(f"{home.path} holds something else than a stack: choose an empty folder with --home.")
        home.make()
        free = shutil.disk_usage(home.path).free
    except OSError as reason:
        raise CannotStart(f"{home.path} cannot be used ({reason.strerror}): choose another folder with --home.") from reason
    if free < NEEDED_DISK:
        raise CannotStart(f"{home.path} has less than 1 GiB of disk left: free some, or choose another folder with --home.")


def foreground(home: Home, plan: Plan, *, sample: bool, in_background: bool) -> None:
    """Run the stack here until it is stopped."""
    from ops.supervisor import Supervisor

    began = time.monotonic()

    def say(line: str) -> None:
        _tell(f"{PROGRESS}{line}")

    def on_ready() -> None:
        if sample:
            say("importing the sample exam and lecture")
            _import_sample(home, say)
        home.ready_file.write_text(str(os.getpid()))
        say(f"ready in {time.monotonic() - began:.1f} s")
        if not in_background:
            _tell(screen(home, "Ctrl-C"))

    Supervisor(home, plan, say).run(on_ready)
    say("stopped; nothing is left running")


def background(home: Home, plan: Plan, *, sample: bool) -> None:
    """Start the supervisor in a session of its own, show its progress, and return when it is ready; raises CannotStart."""
    workers = [part for unit, count in plan.workers.items() for part in ("--workers", f"{unit}={count}")]
    options = [
        "--home",
        str(home.path),
        "--port",
        str(plan.port),
        "--engine",
        plan.engine,
        *workers,
        *["--no-sample"] * (not sample),
    ]
    log = home.log("supervisor")
    with log.open("ab") as out, log.open() as told:
        told.seek(0, os.SEEK_END)
        command = [sys.executable, "-P", "-m", "ops.main", "up", "--in-background", *options]
        handle = subprocess.Popen(command, cwd=home.path, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        try:
            _follow(home, handle, told)
        except BaseException:
            handle.terminate()  # Ctrl-C here stops what was started there
            handle.wait()
            raise
    typer.echo(screen(home))


def _follow(home: Home, handle: "subprocess.Popen[bytes]", told: IO[str]) -> None:
    """Show progress until the stack is ready; raise what it said when it gave up."""
    reasons = []
    while True:
        over = handle.poll() is not None or home.is_ready()
        for line in told:
            if line.startswith(PROGRESS):
                typer.echo(line, nl=False)
            else:
                reasons.append(line)
        if over:
            break
        time.sleep(0.05)
    if handle.poll() is not None:
        raise CannotStart("".join(reasons).strip() or "The stack was stopped while it started.")


def _import_sample(home: Home, say: Callable[[str], None]) -> None:
    """Import the sample exam and lecture; a stack whose exam may not change now, since students sit it, is as good."""
    from ops.exam import import_exam
    from ops.lecture import import_lecture

    try:
        import_exam(home.path, SAMPLE)
    except typer.Exit:  # which has said why
        say("the sample exam stays as it was")
    try:
        import_lecture(home.path, SAMPLE_LECTURE)
    except typer.Exit:
        say("the sample lecture stays as it was")


def _tell(text: str) -> None:
    """Print, and go on when nobody reads any more: a closed terminal must not end a stack half-way through its stop."""
    try:
        typer.echo(text)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

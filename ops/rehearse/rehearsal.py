"""One rehearsal from the shadow's making to the report."""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from ops.audit.command import check
from ops.audit.records import Checked
from ops.client import Gateway, client, gateway
from ops.home import Home, write_private
from ops.rehearse import api_audit
from ops.rehearse.crew import Crew
from ops.rehearse.load import Job
from ops.rehearse.report import Report, remarks
from ops.rehearse.screen import Screen, no_lag, snapshot_lag
from ops.rehearse.tokens import Student

LONGER_SECONDS = 4 * 3600
"""How much longer than its load a rehearsal's sessions last."""

STARTS_A_SECOND, LONGEST_START = 100, 60.0
SUBMITS_A_SECOND, LONGEST_BURST = 200, 30.0
DRAIN_SECONDS = 30.0
REMOVE_SECONDS = 120.0
LOOKED_AT_AGAIN = 200


@dataclass(frozen=True, slots=True)
class Stack:
    """Which finalbell: a local one by its home, or another by its gateway and an admin's token."""

    home: Path
    server: str | None
    token: str | None

    @property
    def gateway(self) -> Gateway:
        return gateway(self.home, self.server)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is rehearsed."""

    exam: str
    students: int
    seconds: float
    rate: float
    kind: str
    processes: int
    keep: bool


def rehearse(stack: Stack, plan: Plan, shadow: str, students: Sequence[Student], history: Path | None) -> Report:
    """Have students sit a shadow, audit it, and remove it; also when something goes wrong on the way."""
    lag = no_lag
    if stack.server is None:
        services = (Home(stack.home.absolute()).stack() or {})["services"]
        lag = snapshot_lag(str(services["snapshots"]["metrics"]))
    removed = False
    with tempfile.TemporaryDirectory(prefix="finalbell-rehearsal-") as folder, Screen(plan.exam, lag) as screen:
        try:
            tally_of = _sit(stack, plan, shadow, students, Path(folder), screen)
            screen.say("auditing")
            checks, more = _audit(stack, plan, shadow, students, Path(folder) / "history.jsonl")
        finally:
            if history is not None and (Path(folder) / "history.jsonl").exists():
                shutil.copyfile(Path(folder) / "history.jsonl", history)
            if not plan.keep:
                screen.say("removing the shadow")
                removed = remove(stack, shadow)
    tally = tally_of.tally
    return Report(
        exam=plan.exam,
        shadow=shadow,
        way="gRPC" if plan.kind == "grpc" else "REST",
        students=plan.students,
        processes=plan.processes,
        rate=plan.rate,
        seconds=plan.seconds,
        tally=tally,
        checks=checks,
        remarks=[*more, *remarks(tally)],
        removed=removed,
    )


def _sit(stack: Stack, plan: Plan, shadow: str, students: Sequence[Student], folder: Path, screen: Screen) -> Crew:
    """Have all students start, save, hand in and look, one act after the other; leaves the whole history in the folder."""
    jobs = _jobs(stack.gateway, plan, shadow, students, folder)
    crew, drained = Crew(jobs, folder / "log"), 0.0
    try:
        share = plan.rate / len(jobs)
        start = min(LONGEST_START, max(1.0, plan.students / STARTS_A_SECOND))
        burst = min(LONGEST_BURST, max(1.0, plan.students / SUBMITS_A_SECOND))
        for text, act in (
            (f"{plan.students:,} students start within {start:g} s", {"do": "start", "seconds": start}),
            (f"they save for {plan.seconds:g} s", {"do": "save", "seconds": plan.seconds, "rate": share}),
            (f"they hand in within {burst:g} s", {"do": "submit", "seconds": burst}),
        ):
            screen.say(text)
            crew.do([act] * len(jobs), screen.look)
        screen.say("waiting until all is scored")
        drained = _drained_ms(stack, shadow)
        crew.do([{"do": "look", "count": LOOKED_AT_AGAIN // len(jobs)}] * len(jobs), screen.look)
    finally:
        crew.close()
        _gather([Path(job.history) for job in jobs], drained, folder / "history.jsonl")
    return crew


def _jobs(door: Gateway, plan: Plan, shadow: str, students: Sequence[Student], folder: Path) -> Sequence[Job]:
    jobs = []
    for number in range(plan.processes):
        tokens, mine = folder / f"tokens.{number}", students[number :: plan.processes]
        write_private(tokens, "".join(f"{student.name}\t{student.token}\n" for student in mine))
        jobs.append(Job(door, plan.kind, shadow, str(tokens), str(folder / f"history.{number}"), seed=number))
    return jobs


def _drained_ms(stack: Stack, shadow: str) -> float:
    """Wait until every session has its score and its place, but not for ever; returns since when nothing changes, 0 for never."""
    until = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < until:
        with client(stack.home, stack.server, stack.token) as admin:
            report = admin.report(shadow)
            if report.scored == report.sessions and (found := admin.verify(shadow)).complete and not found.differences:
                return time.time() * 1000
        time.sleep(0.5)
    return 0.0


def _gather(parts: Sequence[Path], drained_ms: float, whole: Path) -> None:
    """Put the histories of all processes into one file."""
    with whole.open("wb") as out:
        for part in parts:
            if part.exists():
                with part.open("rb") as lines:
                    shutil.copyfileobj(lines, out)
        if drained_ms:
            out.write(f'{{"kind": "drained", "at_ms": {drained_ms}}}\n'.encode())


def _audit(
    stack: Stack, plan: Plan, shadow: str, students: Sequence[Student], history: Path
) -> tuple[Sequence[Checked], Sequence[str]]:
    """Audit the shadow: its stores where they are ours, else what the API shows."""
    if stack.server is not None:
        tokens: Mapping[str, str] = {student.name: student.token for student in students}
        return api_audit.check(stack.gateway, plan.kind, tokens, history), [api_audit.REMARK]
    known = Home(stack.home.absolute()).stack() or {}
    return check(str(known["postgres"]), str(known["redis"]), [shadow], history), []


def remove(stack: Stack, shadow: str) -> bool:
    """Remove a shadow with all that it left; False when some of its sessions are still busy after a while."""
    until = time.monotonic() + REMOVE_SECONDS
    while True:
        with client(stack.home, stack.server, stack.token) as admin:
            done = admin.remove_rehearsal(shadow)
        if done.sessions_left == 0:
            return True
        if time.monotonic() > until and not done.sessions_removed:
            typer.echo(f"{done.sessions_busy} sessions wait for their score or their last snapshot.", err=True)
            return False


def create(stack: Stack, exam: str, session_seconds: int) -> str:
    """Make a shadow and return its id."""
    with client(stack.home, stack.server, stack.token) as admin:
        return str(admin.create_rehearsal(exam, session_seconds).exam.exam_id)


def first(students: Iterator[Student], count: int) -> Sequence[Student]:
    """Return the first so many students."""
    return [student for _, student in zip(range(count), students, strict=False)]

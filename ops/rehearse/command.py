"""`finalbell rehearse`: options, and the way through them."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, NoReturn

import typer

from ops.client import HomeOption, ServerOption, TokenOption

if TYPE_CHECKING:
    from ops.rehearse.rehearsal import Plan, Stack
    from ops.rehearse.tokens import Student

WEEK = 7 * 24 * 3600
SECONDS_A_SAVE = 10
UNITS = {"s": 1, "m": 60, "h": 3600}


def rehearse(
    exam: Annotated[str, typer.Argument(metavar="[EXAM]", help="The exam to rehearse; it need not be open.")] = "",
    students: Annotated[int, typer.Option(help="How many virtual students sit it.", min=0, max=1_000_000)] = 0,
    duration: Annotated[str, typer.Option(help="For how long they save: 60s, 5m, 1h.")] = "60s",
    rate: Annotated[float, typer.Option(help="Saves per second in all. Default: one per student in 10 s.", min=0)] = 0.0,
    over_grpc: Annotated[bool, typer.Option("--grpc/--rest", help="How they call; both go through the gateway.")] = False,
    processes: Annotated[int, typer.Option(help="Processes that make the load.", min=1, max=16)] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the shadow and its sessions where they are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the report here too, as JSON.")] = None,
    history: Annotated[Path | None, typer.Option(help="Keep what the students recorded, for 'finalbell audit'.")] = None,
    prepare: Annotated[int, typer.Option(help="Only start so many sessions on a shadow that stays.", min=0, max=1_000_000)] = 0,
    ghz: Annotated[Path | None, typer.Option(help="With --prepare: write a ghz configuration, and the sessions beside it.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --prepare: write the sessions, one a line.")] = None,
    shadow: Annotated[str, typer.Option("--remove", metavar="SHADOW", help="Only remove a shadow that was left.")] = "",
    tokens: Annotated[Path | None, typer.Option(help="With --server: one student's token a line.")] = None,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Rehearse an exam: virtual students sit a shadow of it on the running stack, then an audit, a report and a verdict.

    No list shows the shadow, and it is removed afterwards. Exit code 0: all promises held and nothing was refused; 1: something
    broke; 2: it could not run.
    """
    from ops.rehearse.rehearsal import Plan, Stack

    stack = Stack(home, server, token)
    if sum((bool(shadow), bool(prepare), bool(students))) != 1 or bool(exam) == bool(shadow):
        raise typer.BadParameter("give EXAM with --students or --prepare, or --remove SHADOW")
    if shadow:
        _remove(stack, shadow)
        return
    if (server is None) != (tokens is None):
        raise typer.BadParameter("--server and --tokens go together: a local stack's tokens are signed here")
    if prepare:
        _prepare(stack, exam, prepare, tokens, ghz, out)
        return
    if ghz or out:
        raise typer.BadParameter("--ghz and --out go with --prepare")
    seconds = read_duration(duration)
    kind = "grpc" if over_grpc else "rest"
    plan = Plan(exam, students, seconds, rate or students / SECONDS_A_SAVE, kind, min(processes, students), keep)
    _rehearse(stack, plan, tokens, history, report, as_json=as_json)


def _rehearse(stack: "Stack", plan: "Plan", tokens: Path | None, history: Path | None, file: Path | None, *, as_json: bool) -> None:
    from grpc import RpcError

    from ops.audit.history import Unreadable
    from ops.rehearse import rehearsal
    from ops.rehearse import report as reports
    from ops.rehearse.crew import CrewLost

    lasts = min(WEEK, int(plan.seconds) + rehearsal.LONGER_SECONDS)
    try:
        _ = stack.gateway  # a stack that does not run is said so before anything else
        chosen = rehearsal.first(_students(stack, tokens, lasts, plan.students), plan.students)
        if len(chosen) < plan.students:
            _fail(f"{tokens} has tokens of {len(chosen)} students only.")
        with _stopping():
            shadow = rehearsal.create(stack, plan.exam, lasts)
            found = rehearsal.rehearse(stack, plan, shadow, chosen, history)
    except (typer.Exit, RpcError, CrewLost, Unreadable, OSError, ValueError) as failure:
        _fail(str(failure) if not isinstance(failure, typer.Exit) else "")
    except KeyboardInterrupt:
        _fail("Stopped before its end.")
    text = json.dumps(reports.plain(found), indent=1)
    if file is not None:
        file.write_text(text + "\n")
    typer.echo(text if as_json else "\n".join(reports.lines(found)))
    if found.problems or not (found.removed or plan.keep):
        raise typer.Exit(1)


def _prepare(stack: "Stack", exam: str, count: int, tokens: Path | None, ghz: Path | None, out: Path | None) -> None:
    import asyncio

    from ops.rehearse import prepare as preparing
    from ops.rehearse import rehearsal

    if (ghz is None) == (out is None):
        raise typer.BadParameter("with --prepare give --ghz FILE or --out FILE")
    file = out or (ghz or Path()).with_suffix(".sessions.jsonl")
    try:
        shadow = rehearsal.create(stack, exam, WEEK)
    except typer.Exit:
        raise typer.Exit(2) from None

    def progress(done: int) -> None:
        if done % 1_000 == 0:
            typer.echo(f"{done:,} of {count:,} sessions are started", err=True)

    students = _students(stack, tokens, WEEK, count)
    try:
        with _private(file) as lines:
            made = asyncio.run(preparing.prepare(stack.gateway, shadow, students, lines, progress))
    except (preparing.NotPrepared, OSError, ValueError) as failure:
        _fail(f"{failure}\nThe shadow is still there: finalbell rehearse --remove {shadow}")
    except KeyboardInterrupt:
        _fail(f"Stopped before its end. The shadow is still there: finalbell rehearse --remove {shadow}")
    typer.echo(f"{made:,} sessions wait on {shadow}, in {file}.")
    if ghz is not None:
        files = preparing.write_ghz(file, ghz, stack.gateway)
        typer.echo(f"Next: ghz --config {files[0]}" + (f" (and {len(files) - 1} more beside it)" if len(files) > 1 else ""))
    typer.echo(f"When it is done with: finalbell rehearse --remove {shadow}")
    if made < count:
        _fail(f"{tokens} has tokens of {made} students only.")


def _remove(stack: "Stack", shadow: str) -> None:
    from ops.rehearse import rehearsal

    if not rehearsal.remove(stack, shadow):
        _fail(f"{shadow} is closed and not removed yet; try again in a while.")
    typer.echo(f"{shadow} is removed, with everything that its sessions left.")


def _students(stack: "Stack", tokens: Path | None, ttl_seconds: int, count: int) -> "Iterator[Student]":
    import secrets

    from ops.rehearse.tokens import listed, signed

    if tokens is not None:
        return listed(tokens, count)
    return signed(stack.home, f"rehearsal-{secrets.token_hex(4)}", ttl_seconds, count)


def read_duration(text: str) -> float:
    """Read 60s, 5m or 1h as seconds."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smh])", text)
    if found is None or int(found[1]) * UNITS[found[2]] > WEEK:
        raise typer.BadParameter("--duration takes a number and s, m or h, such as 60s")
    return float(int(found[1]) * UNITS[found[2]])


@contextmanager
def _stopping() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C, so that the shadow is removed in either case."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _private(file: Path) -> IO[str]:
    """Open a file for tokens, which are for its owner alone."""
    import os

    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w")


def _fail(text: str) -> NoReturn:
    if text:
        typer.echo(text, err=True)
    raise typer.Exit(2)

"""`finalbell leaderboard …`: an exam day's levers on boards."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json

if TYPE_CHECKING:
    from finalbell.v1 import admin_pb2

app = typer.Typer(help="Rebuild, verify, freeze, reveal and export leaderboards.", no_args_is_help=True)
ExamArgument = Annotated[str, typer.Argument(metavar="EXAM", help="The exam's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Format(StrEnum):
    """What an export is written as."""

    CSV = "csv"
    JSON = "json"


@app.command()
def rebuild(
    exam: ExamArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption
) -> None:
    """Build the boards of an exam again from PostgreSQL, while scoring goes on."""
    with client(home, server, token) as admin:
        built = admin.rebuild(exam)
    typer.echo(f"{exam}: {built.students} students on {built.boards} boards.")


@app.command()
def verify(
    exam: ExamArgument,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Compare the boards of an exam with PostgreSQL; exit code 1 when they differ. Changes nothing."""
    with client(home, server, token) as admin:
        found = admin.verify(exam)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{exam}: {found.students} students are ranked, {found.differences} places differ.")
        for line in found.examples:
            typer.echo(f"  {line}")
        if not found.complete:
            typer.echo(f"  The boards are not complete: run 'finalbell leaderboard rebuild {exam}'.")
    if found.differences or not found.complete:
        raise typer.Exit(1)


@app.command()
def freeze(exam: ExamArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption) -> None:
    """Freeze the board of an exam: from now on it shows this moment, whatever is scored."""
    with client(home, server, token) as admin:
        frozen = admin.freeze(exam)
    if not frozen.HasField("frozen_at"):
        typer.echo(f"{exam}: its board was released before, and does not freeze any more.", err=True)
        raise typer.Exit(1)
    typer.echo(f"{exam}: frozen since {frozen.frozen_at.ToJsonString()}. Next: finalbell leaderboard reveal|release {exam}")


@app.command()
def reveal(
    exam: ExamArgument,
    steps: Annotated[int, typer.Option("--steps", min=1, max=100, help="How many students to show.")] = 1,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Show more of a frozen board, step by step from below: each step puts one student where they belong."""
    with client(home, server, token) as admin:
        shown = admin.reveal(exam, steps)
    if as_json:
        print_json(shown)
        return
    for step in shown.steps:
        typer.echo(_step(step))
    typer.echo(f"{shown.hidden} to reveal." if shown.hidden else f"All is shown. Next: finalbell leaderboard release {exam}")


@app.command()
def release(
    exam: ExamArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption
) -> None:
    """Show all of a frozen board; it moves again from then on, for good."""
    with client(home, server, token) as admin:
        released = admin.release_board(exam)
    typer.echo(f"{exam}: released; {released.shown} places were not shown before.")


@app.command()
def export(
    exam: ExamArgument,
    cohort: Annotated[str, typer.Option("--cohort", help="The board of one cohort.")] = "",
    form: Annotated[Format, typer.Option("--format", help="What it is written as.")] = Format.CSV,
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file; default: to standard output.")] = None,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Write the whole board, of one moment and with the true places. The same board gives the same SHA-256."""
    with client(home, server, token) as admin, _whole(out) as file:
        last = write_export(admin.export(exam, cohort, form.name), file)
        if last is None:
            typer.echo("What was written is not what was sent: export it again.", err=True)
            raise typer.Exit(1)
    kind = "final" if last.final else "provisional: not all has ended, is scored and shown"
    typer.echo(f"{last.rows} students, {kind}. SHA-256 {last.sha256}", err=True)


def write_export(
    pieces: "Iterable[admin_pb2.ExportLeaderboardResponse]", file: BinaryIO
) -> "admin_pb2.ExportLeaderboardResponse | None":
    """Write a file that comes in pieces; returns the last one, or None where what was written has not the hash that it says."""
    digest, last = sha256(), None
    for last in pieces:
        digest.update(last.chunk)
        file.write(last.chunk)
    file.flush()
    return last if last is not None and last.sha256 == digest.hexdigest() else None


@contextmanager
def _whole(out: Path | None) -> Iterator[BinaryIO]:
    """Give what to write to. A file gets its name when all of it is there: half a board does not look like one, nor does it take
    the place of an earlier export."""
    if out is None:
        yield sys.stdout.buffer
        return
    part = out.with_name(f"{out.name}.part") if out.is_file() or not out.exists() else None  # None: a pipe, say
    try:
        with (part or out).open("wb") as file:
            yield file
        if part:
            part.replace(out)
    except OSError as failure:
        typer.echo(f"{out} cannot be written: {failure.strerror}", err=True)
        raise typer.Exit(1) from None
    finally:
        if part:
            part.unlink(missing_ok=True)


def _step(step: "admin_pb2.RevealedPlace") -> str:
    before = str(step.rank_before) if step.HasField("rank_before") else "unplaced"
    after = str(step.rank_after) if step.HasField("rank_after") else "unplaced"
    points = f", {step.score} points" if step.HasField("score") else ""
    return f"{before} → {after}  {step.alias} ({step.student_id}){points}"

"""`finalbell leaderboard …`: rebuild and verify boards."""

from pathlib import Path
from typing import Annotated

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json

app = typer.Typer(help="Rebuild and verify leaderboards.", no_args_is_help=True)
ExamArgument = Annotated[str, typer.Argument(metavar="EXAM", help="The exam's id.")]


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
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

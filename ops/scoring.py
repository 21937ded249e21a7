"""`finalbell scoring …`: submits that could not be scored."""

from pathlib import Path
from typing import Annotated

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.table import show as show_table

app = typer.Typer(help="Look at submits that could not be scored, and send them again.", no_args_is_help=True)
LETTER_COLUMNS = ("letter", "since", "exam", "student", "session", "error")


@app.command()
def dlq(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """List the submits that could not be scored and wait for an operator, oldest first."""
    with client(home, server, token) as admin:
        whole = admin.dead_letters()
    if as_json:
        print_json(whole)
        return
    rows = [
        [one.letter_id, one.created_at.ToJsonString(), one.exam_id, one.student_id, one.session_id, one.error]
        for one in whole.letters
    ]
    show_table(LETTER_COLUMNS, rows)


@app.command()
def replay(
    letters: Annotated[list[str] | None, typer.Argument(metavar="[LETTER]…", help="Their numbers in 'scoring dlq'.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that wait and belong to a session.")] = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Send submits to scoring once more, when what stood in their way is mended."""
    if everything == bool(letters):
        raise typer.BadParameter("name letters, or give --all")
    with client(home, server, token) as admin:
        chosen = [one.letter_id for one in admin.dead_letters().letters if one.session_id] if everything else letters or []
        for letter in chosen:
            typer.echo(f"{letter}: session {admin.replay(letter)} is on its way to scoring.")
    if not chosen:
        typer.echo("Nothing waits.")


@app.command()
def discard(
    letter: Annotated[str, typer.Argument(metavar="LETTER", help="Its number in 'scoring dlq'.")],
    reason: Annotated[str, typer.Option(help="Why; the audit log keeps it.")],
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Lay a message down for good that belongs to no session that finalbell knows."""
    with client(home, server, token) as admin:
        admin.discard(letter, reason)
    typer.echo(f"{letter} is laid down.")

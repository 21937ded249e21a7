"""`finalbell scoring …`: what is on its way to a score, and submits that could not be scored."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.table import show as show_table

if TYPE_CHECKING:
    from finalbell.v1.admin_pb2 import ExamBacklog

    from ops.admin import Admin

app = typer.Typer(help="See what waits for its score, and deal with what could not be scored.", no_args_is_help=True)
dlq = typer.Typer(help="Submits that could not be scored and wait for an operator (dead letters); alone: list them.")
app.add_typer(dlq, name="dlq")

LETTER_COLUMNS = ("letter", "since", "exam", "student", "session", "error")
BACKLOG_COLUMNS = ("exam", "unscored", "oldest since", "grading tasks")
LetterArgument = Annotated[str, typer.Argument(metavar="LETTER", help="Its number in 'scoring dlq list'.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def backlog(
    as_json: JsonOption = False, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption
) -> None:
    """Show how many submits wait for their score, where, and since when."""
    with client(home, server, token) as admin:
        whole = admin.backlog()
    if as_json:
        print_json(whole)
        return
    typer.echo(
        f"{whole.unscored} on their way to a score, {whole.parked} wait for an operator, {whole.kept_rows} kept in PostgreSQL, "
        f"{whole.dead_letters} dead letters, {whole.grading_tasks} tasks wait for graders."
    )
    rows = [[one.exam_id, str(one.submitted), _time(one), str(one.grading_tasks)] for one in whole.exams]
    if rows:
        show_table(BACKLOG_COLUMNS, rows)


@dlq.callback(invoke_without_command=True)
def letters(
    context: typer.Context,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """List them, unless a subcommand is named."""
    if context.invoked_subcommand is None:
        _list(home, server, token, as_json=as_json)


@dlq.command("list")
def list_(
    as_json: JsonOption = False, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption
) -> None:
    """List the submits that could not be scored and wait for an operator, oldest first."""
    _list(home, server, token, as_json=as_json)


@dlq.command()
def show(
    letter: LetterArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption
) -> None:
    """Show one of them with its answers, as JSON: the answers are the student's."""
    with client(home, server, token) as admin:
        print_json(admin.dead_letter(letter))


@dlq.command()
def replay(
    chosen: Annotated[list[str] | None, typer.Argument(metavar="[LETTER]…", help="Their numbers in 'scoring dlq list'.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that wait and belong to a session.")] = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Send submits to scoring once more, when what stood in their way is mended.

    One that is refused does not keep the others; exit code 1 when any was.
    """
    if everything == bool(chosen):
        raise typer.BadParameter("name letters, or give --all")
    with client(home, server, token) as admin:
        wanted = [one.letter_id for one in admin.dead_letters().letters if one.session_id] if everything else chosen or []
        refused = [letter for letter in wanted if not _replayed(admin, letter)]
    if not wanted:
        typer.echo("Nothing waits.")
    if refused:
        raise typer.Exit(1)


@dlq.command()
def discard(
    letter: LetterArgument,
    reason: Annotated[str, typer.Option(help="Why; the audit log keeps it.")],
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Lay a message down for good that belongs to no session that finalbell knows."""
    with client(home, server, token) as admin:
        admin.discard(letter, reason)
    typer.echo(f"{letter} is laid down.")


# As they were called before they were the dead letters' own.
app.command(hidden=True)(replay)
app.command(hidden=True)(discard)


def _replayed(admin: "Admin", letter: str) -> bool:
    """Send one submit to scoring once more, and say what became of it."""
    from grpc import RpcError

    from ops.admin import explain

    try:
        session = admin.replay(letter)
    except RpcError as failure:
        typer.echo("\n".join([f"{letter}: not replayed.", *explain(failure)]), err=True)
        return False
    typer.echo(f"{letter}: session {session} is on its way to scoring.")
    return True


def _list(home: Path, server: str | None, token: str | None, *, as_json: bool) -> None:
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


def _time(one: "ExamBacklog") -> str:
    return one.oldest_submitted_at.ToJsonString() if one.HasField("oldest_submitted_at") else ""

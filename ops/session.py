"""`finalbell session …`: what staff do to one session."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.table import show as show_table

if TYPE_CHECKING:
    from finalbell.v1.session_pb2 import Deadline

app = typer.Typer(help="Look at one session's time, and give it some back.", no_args_is_help=True)
SessionArgument = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")]
REVISION_COLUMNS = ("revision", "score", "status", "key version", "until", "replaced because")
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def deadline(
    session: SessionArgument,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Say why a session ends when it ends: every term of the sum."""
    with client(home, server, token) as admin:
        _print(admin.deadline(session), as_json=as_json)


@app.command()
def history(
    session: SessionArgument,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Show what a session's result was before grades and regrades changed it, oldest first."""
    with client(home, server, token) as admin:
        whole = admin.history(session)
    if as_json:
        print_json(whole)
        return
    from ops.admin import revision_row

    show_table(REVISION_COLUMNS, [revision_row(revision) for revision in whole.revisions])


@app.command()
def adjust(
    session: SessionArgument,
    seconds: Annotated[int, typer.Option(help="Seconds to add; negative takes time away.")],
    reason: Annotated[str, typer.Option(help="Why; the student can read it.")],
    key: Annotated[str, typer.Option(help="The key of an earlier try whose answer was lost, so that it counts once.")] = "",
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Give a session that is in progress time, or take some."""
    chosen = key or uuid.uuid4().hex
    try:
        with client(home, server, token) as admin:
            _print(admin.adjust(session, seconds, reason, chosen), as_json=as_json)
    except typer.Exit:
        typer.echo(f"To try again and be sure that it counts once, add --key {chosen}", err=True)
        raise


def _print(found: "Deadline", *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        show_table(("term", "time", "why"), [list(row) for row in _terms(found)])


def _terms(found: "Deadline") -> Iterator[tuple[str, str, str]]:
    """Return the sum as rows: what, how much or when, why."""
    yield "started", found.started_at.ToJsonString(), ""
    yield "duration", f"+{found.duration_seconds} s", ""
    for pause in found.pauses:
        yield "pause", f"+{pause.length_ms / 1000:g} s", f"from {pause.paused_at.ToJsonString()}"
    if found.HasField("closes_at"):
        yield "exam closes", found.closes_at.ToJsonString(), "no later than this, before extra time"
    if found.HasField("accommodation"):
        extra = found.accommodation
        scope = "for this exam" if extra.scope == extra.EXAM else "for all exams"
        yield "accommodation", f"+{extra.seconds} s", f"{scope}, factor {extra.factor:g}" if extra.factor else scope
    for given in found.adjustments:
        yield "adjustment", f"{given.seconds:+d} s", given.reason
    yield "ends", found.ends_at.ToJsonString(), f"the server's clock: {found.server_time.ToJsonString()}"

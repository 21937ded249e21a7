"""`finalbell integrity …`: what happened around sessions, for people to look at; thresholds, and the right to be forgotten."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops import cases
from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.table import show as show_table

if TYPE_CHECKING:
    from finalbell.v1 import integrity_pb2
    from rich.table import Table

app = typer.Typer(help="See what happened around sessions. Nothing is decided here: people decide.", no_args_is_help=True)
app.add_typer(cases.app, name="case")
app.command()(cases.analyse)
ExamArgument = Annotated[str, typer.Argument(metavar="EXAM", help="The exam's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LIVE_COLUMNS = ("strength", "student", "alias", "session", "last", "what")
AGAIN_SECONDS = 2.0
NOT_COLLECTING = "Signals are switched off on this server (FINALBELL_INTEGRITY=off): nothing will come to what was kept before."
THRESHOLD_COLUMNS = ("indicator", "shown from", "default", "what is counted")


@app.command()
def live(
    exam: ExamArgument,
    top: Annotated[int, typer.Option("--top", min=1, max=500, help="How many sessions to show.")] = 20,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for every change.")] = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Show the sessions with something over its threshold, the strongest first, and again whenever it changes; Ctrl-C ends it.

    Where the server is away for a while, it goes on by itself; where it collects no signals, it says so.
    """
    from grpc import RpcError, StatusCode

    from ops.admin import explain

    passing = {StatusCode.UNAVAILABLE, StatusCode.INTERNAL}  # INTERNAL is also what a stream gets that was cut
    with _screen(exam, as_json=as_json) as show, suppress(KeyboardInterrupt):
        told, shown = False, False
        while True:
            with client(home, server, token) as admin:
                try:
                    for view in admin.watch_integrity(exam, top):
                        if not shown and view.HasField("collecting") and not view.collecting:
                            typer.echo(NOT_COLLECTING, err=True)
                        show(view)
                        told, shown = False, True
                        if once:
                            return
                except RpcError as failure:
                    if not shown or failure.code() not in passing:
                        raise
                    if not told:
                        typer.echo(f"{explain(failure)[0]} Trying again; what is shown is as old as it says.", err=True)
                    told = True
                    time.sleep(AGAIN_SECONDS)


@app.command()
def thresholds(
    exam: ExamArgument,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="INDICATOR=N", help="From which number on it is shown; N may be 'off'.")
    ] = None,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Show from which number on each indicator is shown, or set some of them."""
    wanted = dict(map(_change, changes or ()))
    if len(wanted) < len(changes or ()):
        raise typer.BadParameter("--set names an indicator twice")
    with client(home, server, token) as admin:
        whole = admin.set_thresholds(exam, wanted) if wanted else admin.thresholds(exam)
    if as_json:
        print_json(whole)
        return
    rows = [
        [
            one.name,
            str(one.threshold) if one.HasField("threshold") else "off",
            str(one.default_threshold) if one.HasField("default_threshold") else "off",
            one.about,
        ]
        for one in whole.thresholds
    ]
    show_table(THRESHOLD_COLUMNS, rows)


@app.command()
def erase(
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="The student's id.")],
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Delete the signals, devices, addresses and webcam frames of a student; counts stay, of nobody. On record."""
    with client(home, server, token) as admin:
        erased = admin.erase_signals(student)
    if as_json:
        print_json(erased)
    else:
        typer.echo(f"{student}: {erased.signals} signals and {erased.frames} frames of {erased.sessions} sessions are deleted.")


def _change(text: str) -> tuple[str, int | None]:
    name, _, number = text.partition("=")
    if number == "off":
        return name, None
    if not number.isdecimal() or not 1 <= int(number) < 2**31:
        raise typer.BadParameter(f"--set takes INDICATOR=N, N at least 1, or INDICATOR=off; not {text!r}")
    return name, int(number)


@contextmanager
def _screen(exam: str, *, as_json: bool) -> "Iterator[Callable[[integrity_pb2.IntegrityView], None]]":
    """Give what shows a view: on a terminal in the place of the one before, in a pipe below it."""
    if as_json:
        from ops.admin import as_line

        yield lambda view: typer.echo(as_line(view))
    elif sys.stdout.isatty():
        from rich.live import Live

        with Live(auto_refresh=False, vertical_overflow="crop") as screen:
            yield lambda view: screen.update(_table(exam, view), refresh=True)
    else:
        yield lambda view: show_table(LIVE_COLUMNS, _rows(view))


def _table(exam: str, view: "integrity_pb2.IntegrityView") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{exam}: {view.total} sessions to look at, as of {view.as_of.ToJsonString()}", box=None, pad_edge=False)
    for name in ("strength", "student", "alias", "last", "what, and in which session"):
        table.add_column(name, overflow="fold")
    for strength, student, alias, session, last, what in _rows(view):  # an id that is cut in two cannot be copied
        table.add_row(*(Text(cell) for cell in (strength, student, alias, last, f"{what}\n{session}")))
    return table


def _rows(view: "integrity_pb2.IntegrityView") -> list[list[str]]:
    """Return a row for each session: how strong, who, when last, and everything that is over its threshold in words."""
    return [
        [
            f"{one.strength:.1f}",
            one.student_id,
            one.alias,
            one.session_id,
            max(each.last_at.ToJsonString() for each in one.indicators)[11:19],
            "; ".join(each.reason for each in one.indicators),
        ]
        for one in view.sessions
    ]

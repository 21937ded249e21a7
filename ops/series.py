"""`finalbell series …`: groups of exams with a board over all of them."""

from pathlib import Path
from typing import Annotated

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json

app = typer.Typer(help="Boards over several exams.", no_args_is_help=True)
SeriesArgument = Annotated[str, typer.Argument(metavar="SERIES", help="The series' id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("set")
def set_series(
    series: SeriesArgument,
    exams: Annotated[list[str], typer.Option("--exam", help="An exam of it; as often as it has exams.")],
    title: Annotated[str, typer.Option("--title", help="What people call it.")] = "",
    best: Annotated[int | None, typer.Option("--best", min=1, max=100, help="How many of the best scores count.")] = None,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Make a series, or change one: its board adds up what students have in its exams."""
    with client(home, server, token) as admin:
        made = admin.set_series(series, title, exams, best)
    counts = f"the best {made.best_of} of {len(made.exam_ids)}" if made.HasField("best_of") else f"all {len(made.exam_ids)}"
    typer.echo(f"{made.series_id}: {counts} exams count.")
    typer.echo(f"Its board: GET /api/v1/exams/{made.exam_ids[0]}/leaderboard?series={made.series_id}")


@app.command("list")
def list_series(
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """List every series."""
    with client(home, server, token) as admin:
        found = admin.series()
    if as_json:
        print_json(found)
        return
    from ops.table import show

    rows = []
    for one in found.series:
        counted = str(one.best_of) if one.HasField("best_of") else "all"
        rows.append([one.series_id, one.title, counted, " ".join(one.exam_ids)])
    show(("series", "title", "best of", "exams"), rows)


@app.command()
def delete(
    series: SeriesArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption
) -> None:
    """Forget a series; its exams and their boards stay."""
    with client(home, server, token) as admin:
        admin.delete_series(series)
    typer.echo(f"{series}: deleted.")

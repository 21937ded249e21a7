"""`finalbell up|down|status|logs|doctor`: the local stack's commands."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ops.home import Home, alive, wait

HomeOption = Annotated[Path, typer.Option("--home", help="The stack's folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_HOME = Path(".finalbell")
STOP_SECONDS, KILL_SECONDS = 75.0, 15.0
COLUMNS = ("process", "pid", "port", "health", "restarts", "lag")


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready; it runs on in the background.")] = False,
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[int, typer.Option(help="The gateway's port.", min=1, max=65535)] = 8080,
    engine: Annotated[str, typer.Option(help="The HTTP/2 engine under the session service: native or grpcio.")] = "native",
    workers: Annotated[list[str] | None, typer.Option(metavar="SERVICE=N", help="How many processes a service has.")] = None,
    no_sample: Annotated[bool, typer.Option("--no-sample", help="Don't import the sample exam.")] = False,
    in_background: Annotated[bool, typer.Option("--in-background", hidden=True)] = False,
) -> None:
    """Start PostgreSQL, Redis, NATS, Envoy and all services, with a sample exam; stop with Ctrl-C or 'finalbell down'."""
    from ops import start
    from ops.plan import ENGINES, CannotStart, Plan

    place, plan = Home(home.absolute()), Plan(port, _worker_counts(workers or []), engine)
    if engine not in ENGINES:
        raise typer.BadParameter(f"the engines are: {', '.join(ENGINES)}")
    if place.holder() is not None:
        _already(place, home, wait_for_it=detach)
        return
    try:
        start.prepare(place)
        if detach:
            start.background(place, plan, sample=not no_sample)
        else:
            start.foreground(place, plan, sample=not no_sample, in_background=in_background)
    except CannotStart as reason:
        _fail(str(reason))


def down(
    home: HomeOption = DEFAULT_HOME,
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete the stack's folder too, with all its data.")] = False,
) -> None:
    """Stop the stack, in the right order, and wait until it is gone."""
    place = Home(home.absolute())
    if pid := place.holder():
        _signal(pid, signal.SIGTERM)
        if not wait(lambda: not alive(pid), STOP_SECONDS):
            _signal(pid, signal.SIGKILL)  # its children end with it
            if not wait(lambda: not alive(pid), KILL_SECONDS):
                _fail(f"The stack in {home} does not end: its supervisor is process {pid}.")
        typer.echo(f"The stack in {home} is stopped.")
    else:
        typer.echo(f"No stack runs in {home}.")
    if wipe and place.path.exists():
        if place.foreign():
            _fail(f"{home} does not look like a stack's folder; it is left as it is.")
        shutil.rmtree(place.path)
        typer.echo(f"{home} is deleted.")


def status(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show each process with pid, port, health and restarts; exit code 0 when all are healthy, 1 when not, 3 when none runs."""
    from ops.health import check

    rows = check(Home(home.absolute()))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    elif not rows:
        typer.echo(f"No stack runs in {home}. Start one with 'finalbell up'.")
    else:
        from ops.table import show

        health = {True: "healthy", False: "NOT HEALTHY"}
        lags = [", ".join(f"{name} {value:g}" for name, value in row.lag.items() if value) for row in rows]
        cells = [[r.name, str(r.pid or "-"), str(r.port), health[r.healthy], str(r.restarts)] for r in rows]
        show(COLUMNS, [[*row, lag] for row, lag in zip(cells, lags, strict=True)])
    raise typer.Exit(3 if not rows else 0 if all(row.healthy for row in rows) else 1)


def logs(
    service: Annotated[str, typer.Argument(metavar="[SERVICE]", help="One process; default: all.")] = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing.")] = False,
    lines: Annotated[int, typer.Option("-n", help="How many lines of each.", min=0)] = 20,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Print the end of the logs."""
    files = sorted((home / "logs").glob("*.log"))
    chosen = [file for file in files if not service or file.stem.partition(".")[0] == service or file.stem == service]
    if not chosen:
        _fail(f"No log of {service or 'a stack'} in {home / 'logs'}. There are: {', '.join(f.stem for f in files) or 'none'}.")
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), "--", *map(str, chosen)])  # noqa: S606, S607


def doctor(home: HomeOption = DEFAULT_HOME) -> None:
    """Look for what is wrong, and say how to mend it; exit code 1 when something is."""
    from ops.health import diagnose

    findings = diagnose(Home(home.absolute()))
    for finding in findings:
        mend = "\n".join(f"     {line}" for line in finding.mend.splitlines())
        typer.echo(f"ok   {finding.what}" if finding.fine else f"!!   {finding.what}\n{mend}")
    raise typer.Exit(0 if all(finding.fine for finding in findings) else 1)


def _already(place: Home, home: Path, *, wait_for_it: bool) -> None:
    """Say that a stack runs; with --detach, when it is ready: that is what --detach promises."""
    if wait_for_it:
        wait(lambda: place.is_ready() or place.holder() is None, 150)
    if not place.is_ready():
        if wait_for_it:
            _fail(f"A stack was starting in {home}, and did not get ready: 'finalbell logs supervisor' says why.")
        typer.echo(f"A stack is starting in {home} already. 'finalbell status' shows it, 'finalbell down' stops it.")
        return
    gateway = (place.stack() or {}).get("gateway")
    typer.echo(f"A stack runs in {home} already: {gateway}. 'finalbell status' shows it, 'finalbell down' stops it.")


def _worker_counts(texts: list[str]) -> dict[str, int]:
    from ops.plan import UNITS

    counts = {}
    for text in texts:
        unit, _, number = text.partition("=")
        if unit not in UNITS or not number.isdecimal() or not 1 <= int(number) <= 16:
            raise typer.BadParameter(f"--workers takes SERVICE=N, N from 1 to 16, SERVICE one of {', '.join(UNITS)}; not {text!r}")
        counts[unit] = int(number)
    return counts


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has just ended by itself
        return


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)

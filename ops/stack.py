"""`finalbell up|down|status|logs|doctor`: the local stack's commands."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ops.home import Home

HomeOption = Annotated[Path, typer.Option("--home", help="The stack's folder.")]
DEFAULT_HOME = Path(".finalbell")
NEEDED_DISK = 1 << 30


def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return when it is ready; it runs on in the background.")] = False,
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[int, typer.Option(help="The gateway's port.", min=1, max=65535)] = 8080,
    engine: Annotated[str, typer.Option(help="The HTTP/2 engine under the session service: grpcio.")] = "grpcio",
    workers: Annotated[list[str] | None, typer.Option(metavar="SERVICE=N", help="How many processes a service has.")] = None,
    no_sample: Annotated[bool, typer.Option("--no-sample", help="Don't import the sample exam.")] = False,
    background: Annotated[bool, typer.Option("--background", hidden=True, help="What --detach starts.")] = False,
) -> None:
    """Start PostgreSQL, Redis, NATS, Envoy and all services, with a sample exam; stop with Ctrl-C or 'finalbell down'."""
    from ops.supervisor import CannotStart, running

    place, counts = Home(home.absolute()), _worker_counts(workers or [])
    if engine != "grpcio":
        raise typer.BadParameter("the engines are: grpcio")
    if running(place):
        gateway = (place.stack() or {}).get("gateway", "its gateway")
        typer.echo(f"A stack runs in {home} already: {gateway}. 'finalbell status' shows it, 'finalbell down' stops it.")
        return
    place.make()
    if shutil.disk_usage(place.path).free < NEEDED_DISK:
        _fail(f"{home} has less than 1 GiB of disk left: free some, or choose another folder with --home.")
    try:
        if detach:
            _detach(place, port, counts, no_sample=no_sample)
        else:
            _foreground(place, port, counts, engine, no_sample=no_sample, background=background)
    except CannotStart as reason:
        _fail(str(reason))


def down(
    home: HomeOption = DEFAULT_HOME,
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete the stack's folder too, with all its data.")] = False,
) -> None:
    """Stop the stack, in the right order, and wait until it is gone."""
    from ops.supervisor import running

    place = Home(home.absolute())
    if running(place):
        pid = (place.stack() or {}).get("pid") or int(place.lock_file.with_suffix(".pid").read_text())
        os.kill(int(pid), signal.SIGTERM)
        if not _wait(lambda: not running(place), 45):
            os.kill(int(pid), signal.SIGKILL)  # its children end with it
            _wait(lambda: not running(place), 10)
        typer.echo(f"The stack in {home} is stopped.")
    else:
        typer.echo(f"No stack runs in {home}.")
    if wipe and home.exists():
        if not (place.path / "ports.json").exists() and any(place.path.iterdir()):
            _fail(f"{home} does not look like a stack's folder; it is left as it is.")
        shutil.rmtree(place.path)


def status(home: HomeOption = DEFAULT_HOME, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show each process with pid, port, health and restarts; exit code 0 when all are healthy, 1 when not, 3 when none runs."""
    from ops.health import check

    place = Home(home.absolute())
    rows = check(place)
    if as_json:
        typer.echo(json.dumps([row.__dict__ for row in rows], indent=1))
    elif not rows:
        typer.echo(f"No stack runs in {home}. Start one with 'finalbell up'.")
    else:
        _print_rows(
            [
                [r.name, str(r.pid or "-"), str(r.port), "healthy" if r.healthy else "NOT HEALTHY", str(r.restarts), r.lag]
                for r in rows
            ]
        )
    raise typer.Exit(3 if not rows else 0 if all(row.healthy for row in rows) else 1)


def logs(
    service: Annotated[str, typer.Argument(metavar="[SERVICE]", help="One process; default: all.")] = "",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing.")] = False,
    lines: Annotated[int, typer.Option("-n", help="How many lines of each.", min=0)] = 20,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Print the end of the logs."""
    files = sorted((home / "logs").glob("*.log"))
    chosen = [file for file in files if not service or file.stem == service]
    if not chosen:
        _fail(f"No log of {service or 'a stack'} in {home / 'logs'}. There are: {', '.join(f.stem for f in files) or 'none'}.")
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, chosen)]
    raise typer.Exit(subprocess.call(command))


def doctor(home: HomeOption = DEFAULT_HOME) -> None:
    """Look for what is wrong, and say how to mend it; exit code 1 when something is."""
    from ops.health import diagnose

    findings = diagnose(Home(home.absolute()))
    for finding in findings:
        typer.echo(f"{'ok ' if finding.fine else '!! '} {finding.what}" + ("" if finding.fine else f"\n     {finding.mend}"))
    raise typer.Exit(0 if all(finding.fine for finding in findings) else 1)


def _foreground(place: Home, port: int, counts: dict[str, int], engine: str, *, no_sample: bool, background: bool) -> None:
    from ops.screen import screen
    from ops.supervisor import Supervisor

    began = time.monotonic()

    def say(line: str) -> None:
        typer.echo(f"finalbell: {line}")

    def on_ready() -> None:
        if not no_sample:
            say("importing the sample exam")
            _import_sample(place)
        say(f"ready in {time.monotonic() - began:.1f} s")
        if not background:  # the screen holds a token, and a log may not
            typer.echo(screen(place))
        sys.stdout.flush()
        place.path.joinpath("ready").touch()

    place.path.joinpath("ready").unlink(missing_ok=True)
    place.lock_file.with_suffix(".pid").write_text(str(os.getpid()))
    Supervisor(place, port, counts, engine, say).run(on_ready)
    say("stopped; nothing is left running")


def _detach(place: Home, port: int, counts: dict[str, int], *, no_sample: bool) -> None:
    """Start the supervisor in a session of its own, and wait until it is ready or has given up."""
    from ops.screen import screen

    place.path.joinpath("ready").unlink(missing_ok=True)
    options = [part for unit, count in counts.items() for part in ("--workers", f"{unit}={count}")] + ["--no-sample"] * no_sample
    command = [sys.executable, "-m", "ops.main", "up", "--background", "--home", str(place.path), "--port", str(port), *options]
    log = place.log("supervisor")
    start = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        handle = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    if not _wait(lambda: place.path.joinpath("ready").exists() or handle.poll() is not None, 150) or handle.poll() is not None:
        handle.terminate()
        with log.open("rb") as written:
            written.seek(start)
            _fail(written.read().decode(errors="replace").strip())
    typer.echo(screen(place))


def _import_sample(place: Home) -> None:
    from ops.exam import import_exam
    from ops.sample import SAMPLE

    import_exam(place.path, SAMPLE)


def _worker_counts(texts: list[str]) -> dict[str, int]:
    counts = {}
    for text in texts:
        found = re.fullmatch(r"(session|scoring|scoring-worker|leaderboard|content|snapshots|bell|admin)=([1-9]|1[0-6])", text)
        if found is None:
            raise typer.BadParameter(f"--workers takes SERVICE=N with N from 1 to 16, such as session=2, not {text!r}")
        counts[found[1]] = int(found[2])
    return counts


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so; False when it did not come."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _print_rows(rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("process", "pid", "port", "health", "restarts", "lag"):
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)

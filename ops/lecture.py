"""`finalbell lecture …`: what lectures there are; on a local stack their media too."""

import os
import re
import shutil
from collections.abc import Iterator
from filecmp import cmpfiles
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.home import Home

if TYPE_CHECKING:
    from finalbell.v1.lecture_pb2 import SetLectureRequest

app = typer.Typer(help="Recorded lectures.", no_args_is_help=True)
LectureArgument = Annotated[str, typer.Argument(metavar="LECTURE", help="The lecture's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
COLUMNS = ("lecture", "title", "topic", "seconds", "captions", "opened by")
FOLDER = re.compile("[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Lecture files (docs/lectures.md).")],
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Import lectures; importing one again changes nothing. Prints what has become of each.

    Media that lie beside a file, in the folder that it names, are copied to a local stack's origin; to any other origin you
    bring them yourself.
    """
    for file in files:
        typer.echo(import_lecture(home, file, server, token))


@app.command("list")
def list_(
    topic: Annotated[str, typer.Option(help="Those of this topic only.")] = "",
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """List lectures."""
    with client(home, server, token) as admin:
        whole = admin.lectures(topic)
    if as_json:
        print_json(whole)
        return
    from ops.table import show

    rows = []
    for one in whole.lectures:
        languages = " ".join(caption.language for caption in one.captions)
        opened = " ".join(one.product_ids) or "nothing: it is free"
        rows.append([one.lecture_id, one.title, one.topic, str(one.duration_seconds), languages, opened])
    show(COLUMNS, rows)


@app.command()
def delete(
    lecture: LectureArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption
) -> None:
    """Forget a lecture; its media stay at the origin."""
    with client(home, server, token) as admin:
        admin.delete_lecture(lecture)
    typer.echo(f"{lecture}: deleted.")


def import_lecture(home: Path, file: Path, server: str | None = None, token: str | None = None) -> str:
    """Import one lecture, its media first, and return what has become of it."""
    request = _read(file)
    folder = request.folder or request.lecture_id
    beside = file.parent / folder
    with client(home, server, token) as admin:
        if server is None and FOLDER.fullmatch(folder) and beside.is_dir():  # any other name is the service's to refuse
            missing = sorted(_missing(beside, request))
            if missing:
                _fail(f"{beside} is not whole; nothing was imported. Missing: {', '.join(missing)}")
            _bring(beside, Home(home.absolute()).media / folder)
        reply = admin.set_lecture(request)
    became = "imported" if reply.made else "changed" if reply.changed else "nothing changed"
    return f"{request.lecture_id}: {became}"


def _read(file: Path) -> "SetLectureRequest":
    from finalbell.v1.lecture_pb2 import SetLectureRequest
    from google.protobuf.json_format import Parse, ParseError

    try:
        request: SetLectureRequest = Parse(file.read_bytes(), SetLectureRequest())
    except OSError as failure:
        _fail(f"{file} cannot be read: {failure.strerror}")
    except (ParseError, UnicodeDecodeError) as failure:
        _fail(f"{file} is not a lecture file: {failure}")
    return request


def _missing(folder: Path, request: "SetLectureRequest") -> Iterator[str]:
    """Yield what the request and the playlists name and the folder has not."""
    waiting, seen = [request.playlist or "master.m3u8", *(one.file for one in request.captions)], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        file = folder / name
        if not file.is_file():
            yield name
        elif file.suffix == ".m3u8":
            waiting += [os.path.normpath(Path(name).parent / one) for one in _named(file.read_text()) if ":" not in one]


def _named(playlist: str) -> Iterator[str]:
    """Yield the addresses in a playlist."""
    for line in playlist.splitlines():
        if line.startswith("#"):
            yield from re.findall(r'URI="([^"]+)"', line)
        elif line.strip():
            yield line.strip()


def _bring(source: Path, target: Path) -> None:
    """Copy a folder, all of it or nothing; one that is there already and the same stays as it is."""
    names = {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()}
    if target.exists():
        there = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
        same, _, _ = cmpfiles(source, target, names, shallow=False)
        if there == names == set(same):
            return
    scratch, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for left in (scratch, old):
        shutil.rmtree(left, ignore_errors=True)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copytree(source, scratch)
    if target.exists():
        target.rename(old)
    scratch.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)

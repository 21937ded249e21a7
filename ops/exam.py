"""`finalbell exam …`: import exams and look after them."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import grpc
import typer
from finalbell.v1 import admin_pb2, content_pb2, scoring_pb2
from finalbell.v1.admin_pb2_grpc import ExamAdminServiceStub

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json

app = typer.Typer(help="Import exams, and close, release and read them.", no_args_is_help=True)
CHUNK = 512 * 1024

ExamArgument = Annotated[str, typer.Argument(metavar="EXAM", help="The exam's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Exam files (docs/exam-files.md).")],
    exam_id: Annotated[str, typer.Option("--id", help="Take this exam id instead of the file's; one file only.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a field of 'exam', such as release.score=MANUAL."),
    ] = None,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Import exam files, each all or nothing; importing one again changes nothing. Prints what changed."""
    if exam_id and len(files) > 1:
        raise typer.BadParameter("--id goes with one file")
    chosen = dict(_setting(text) for text in settings or [])
    with client(home, server, token) as opened:
        for file in files:
            reply = ExamAdminServiceStub(opened).ImportExam(_chunks(file, exam_id, chosen))
            if as_json:
                print_json(reply)
                continue
            changes = "; ".join(reply.changes) or "nothing changed"
            typer.echo(f"{reply.exam.exam_id} (version {reply.exam.version}, key version {reply.key_version}): {changes}")


@app.command("list")
def list_(
    as_json: JsonOption = False, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption
) -> None:
    """List all exams with their state and counts."""
    with client(home, server, token) as opened:
        stub, whole = ExamAdminServiceStub(opened), admin_pb2.ListExamReportsResponse()
        while True:
            page = stub.ListExamReports(admin_pb2.ListExamReportsRequest(page_size=200, page_token=whole.next_page_token))
            whole.reports.extend(page.reports)
            whole.next_page_token = page.next_page_token
            if not page.next_page_token:
                break
    if as_json:
        print_json(whole)
        return
    rows = [
        [r.exam.exam_id, r.exam.title, content_pb2.Exam.State.Name(r.exam.state), str(r.exam.version), str(r.exam.question_count),
         str(r.in_progress), str(r.submitted), str(r.scored)]
        for r in whole.reports
    ]  # fmt: skip
    _table(["exam", "title", "state", "version", "questions", "in progress", "submitted", "scored"], rows)


@app.command("show")
def show(exam: ExamArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption) -> None:
    """Show one exam with its policies and counts, as JSON."""
    with client(home, server, token) as opened:
        print_json(ExamAdminServiceStub(opened).GetExamReport(admin_pb2.GetExamReportRequest(exam_id=exam)).report)


@app.command("close")
def close(exam: ExamArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption) -> None:
    """Close an exam now: nobody can start it any more; sessions in progress keep their time."""
    with client(home, server, token) as opened:
        report = ExamAdminServiceStub(opened).CloseExam(admin_pb2.CloseExamRequest(exam_id=exam)).report
    typer.echo(f"{exam} is closed; {report.in_progress} sessions are still in progress.")


@app.command("release")
def release(
    exam: ExamArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption
) -> None:
    """Release the scores of an exam whose release is MANUAL."""
    with client(home, server, token) as opened:
        report = ExamAdminServiceStub(opened).ReleaseExam(admin_pb2.ReleaseExamRequest(exam_id=exam)).report
    typer.echo(f"The scores of {exam} are released; {report.scored} sessions are scored.")


@app.command("results")
def results(
    exam: ExamArgument,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Print the scores and ranks of an exam, best first."""
    whole = admin_pb2.ListResultsResponse()
    with client(home, server, token) as opened:
        for page in _pages(opened, exam):
            whole.results.extend(page.results)
    if as_json:
        print_json(whole)
        return
    head = ["rank", "student", "alias", "attempt", "score", "max", "status", "submitted", "session"]
    rows = [
        [str(r.rank) if r.HasField("rank") else "", r.student_id, r.alias, str(r.attempt), str(r.score), str(r.max_score),
         scoring_pb2.Result.Status.Name(r.status), r.submitted_at.ToJsonString(), r.session_id]
        for r in whole.results
    ]  # fmt: skip
    if as_csv:
        csv.writer(sys.stdout).writerows([head, *(map(_inert, row) for row in rows)])
    else:
        _table(head, rows)


def import_exam(home: Path, file: Path) -> admin_pb2.ImportExamResponse:
    """Import one file into a local stack."""
    with client(home, None, None) as opened:
        return ExamAdminServiceStub(opened).ImportExam(_chunks(file, "", {}))


def _pages(opened: grpc.Channel, exam: str) -> Iterator[admin_pb2.ListResultsResponse]:
    stub, after = ExamAdminServiceStub(opened), ""
    while True:
        page = stub.ListResults(admin_pb2.ListResultsRequest(exam_id=exam, page_size=1000, page_token=after))
        yield page
        after = page.next_page_token
        if not after:
            return


def _chunks(file: Path, exam_id: str, settings: dict[str, str]) -> Iterator[admin_pb2.ImportExamRequest]:
    """Stream a file; id and settings go with its first piece."""
    try:
        data = file.read_bytes()
    except OSError as failure:
        typer.echo(f"{file} cannot be read: {failure.strerror}", err=True)
        raise typer.Exit(1) from None
    yield admin_pb2.ImportExamRequest(exam_id=exam_id, settings=settings, chunk=data[:CHUNK])
    for at in range(CHUNK, len(data), CHUNK):
        yield admin_pb2.ImportExamRequest(chunk=data[at : at + CHUNK])


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"--set takes KEY=VALUE, not {text!r}")
    return name, value


def _inert(cell: str) -> str:
    """Keep a spreadsheet from running a cell: students choose their aliases, and '=' begins a formula."""
    return f"'{cell}" if cell[:1] in "=+-@\t\r" and not cell.lstrip("-").isdigit() else cell


def _table(head: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, no_wrap=not sys.stdout.isatty())
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 1000).print(table)

"""`finalbell exam …`: import exams and look after them."""

import csv
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.table import inert, progress
from ops.table import show as show_table

if TYPE_CHECKING:
    from finalbell.v1.admin_pb2 import ImportExamResponse

app = typer.Typer(help="Import exams, and close, release and read them.", no_args_is_help=True)

ExamArgument = Annotated[str, typer.Argument(metavar="EXAM", help="The exam's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

EXAM_COLUMNS = ("exam", "title", "state", "version", "questions", "in progress", "submitted", "scored")
RESULT_COLUMNS = ("rank", "student", "alias", "attempt", "score", "max", "status", "submitted", "session")


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
    with client(home, server, token) as admin:
        for file in files:
            reply = admin.import_exam(read(file), exam_id, chosen)
            if as_json:
                print_json(reply)
                continue
            changes = "; ".join(reply.changes) or "nothing changed"
            typer.echo(f"{reply.exam.exam_id} (version {reply.exam.version}, key version {reply.key_version}): {changes}")


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="List the shadows of rehearsals too.")] = False,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """List all exams with their state and counts."""
    with client(home, server, token) as admin:
        whole = admin.reports(rehearsals=everything)
    if as_json:
        print_json(whole)
        return
    from ops.admin import exam_row

    show_table(EXAM_COLUMNS, [exam_row(report) for report in whole.reports])


@app.command("show")
def show(exam: ExamArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption) -> None:
    """Show one exam with its policies and counts, as JSON."""
    with client(home, server, token) as admin:
        print_json(admin.report(exam))


@app.command("close")
def close(exam: ExamArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption) -> None:
    """Close an exam now: nobody can start it any more; sessions in progress keep their time."""
    with client(home, server, token) as admin:
        report = admin.close_exam(exam)
    typer.echo(f"{exam} is closed; {report.in_progress} sessions are still in progress.")


@app.command("release")
def release(
    exam: ExamArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption
) -> None:
    """Release the scores of an exam whose release is MANUAL."""
    with client(home, server, token) as admin:
        report = admin.release(exam)
    typer.echo(f"The scores of {exam} are released; {report.scored} sessions are scored.")


@app.command("warm")
def warm(exam: ExamArgument, home: Path = HomeOption, server: str | None = ServerOption, token: str | None = TokenOption) -> None:
    """Read what the first starts of an exam would wait for, before they come; changes nothing, and may be repeated."""
    with client(home, server, token) as admin:
        warmed = admin.warm(exam)
    months = "partitions are there" if warmed.months else "partitions are not there yet: snapshots makes them three months ahead"
    typer.echo(
        f"{exam}: version {warmed.exam_version}, {warmed.questions} questions in Redis, {warmed.accommodations} with extra time, "
        f"{warmed.sessions} sessions so far; {months}."
    )


@app.command("schedule")
def schedule(
    exam: ExamArgument,
    opens: Annotated[str, typer.Option(metavar="TIME", help="When it opens: RFC 3339, or 'none' for open from now on.")] = "",
    closes: Annotated[str, typer.Option(metavar="TIME", help="When it closes: RFC 3339, or 'none' until 'exam close'.")] = "",
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Move when an exam opens or closes, also while students sit it."""
    if not opens and not closes:
        raise typer.BadParameter("give --opens or --closes")
    from finalbell.v1.admin_pb2 import UpdateScheduleRequest

    request = UpdateScheduleRequest(exam_id=exam, clear_opens_at=opens == "none", clear_closes_at=closes == "none")
    for option, at, moment in (("--opens", opens, request.opens_at), ("--closes", closes, request.closes_at)):
        if at and at != "none":
            try:
                moment.FromJsonString(at)
            except ValueError:
                raise typer.BadParameter(f"{option} takes a time like 2027-05-01T09:00:00Z, or none") from None
    with client(home, server, token) as admin:
        moved = admin.reschedule(request)
    times = moved.report.exam
    opening = f"opens {times.opens_at.ToJsonString()}" if times.HasField("opens_at") else "is open"
    close = f"closes {times.closes_at.ToJsonString()}" if times.HasField("closes_at") else "has no close"
    typer.echo(f"{exam} {opening} and {close}; the time of {moved.sessions_moved} sessions was computed again.")


@app.command("accommodate")
def accommodate(
    student: Annotated[str, typer.Argument(metavar="STUDENT", help="The student's id.")],
    exam: Annotated[str, typer.Option(help="The exam it is for. Default: all of the student's.")] = "",
    seconds: Annotated[int | None, typer.Option(help="Extra seconds; 0 takes the accommodation back.")] = None,
    factor: Annotated[float | None, typer.Option(help="Multiplies the duration: 1.25 for a quarter more.")] = None,
    reason: Annotated[str, typer.Option(help="Why; the audit log keeps it.")] = "",
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Give a student extra time, before a session or during it; it replaces what was set for the same scope."""
    if (seconds is None) == (factor is None):
        raise typer.BadParameter("give --seconds or --factor")
    from finalbell.v1.admin_pb2 import SetAccommodationRequest

    request = SetAccommodationRequest(student_id=student, exam_id=exam, reason=reason)
    if seconds is not None:
        request.extra_seconds = seconds
    elif factor is not None:
        request.factor = factor
    with client(home, server, token) as admin:
        moved = admin.accommodate(request).sessions_moved
    extra = f"{seconds} s" if seconds is not None else f"factor {factor:g}"
    typer.echo(f"{student}: {extra} for {exam or 'all exams'}; the time of {moved} running sessions was computed again.")


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
    with client(home, server, token) as admin:
        whole = admin.results(exam)
    if as_json:
        print_json(whole)
        return
    from ops.admin import result_row

    rows = [result_row(result) for result in whole.results]
    if as_csv:
        csv.writer(sys.stdout).writerows([RESULT_COLUMNS, *(map(inert, row) for row in rows)])
    else:
        show_table(RESULT_COLUMNS, rows)


@app.command("key")
def key(
    exam: ExamArgument,
    question: Annotated[str, typer.Option(help="The question.")],
    accept: Annotated[
        list[str] | None,
        typer.Option(help="What counts as right from now on: an option, a number, a text; give it again for more than one."),
    ] = None,
    also: Annotated[bool, typer.Option("--also", help="Keep what counted as right before, too.")] = False,
    void: Annotated[bool, typer.Option("--void", help="Take the question out: with --full-points or --drop.")] = False,
    full_points: Annotated[bool, typer.Option("--full-points", help="Everybody gets its points (the default).")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="It counts for nobody, and the maximum is less.")] = False,
    reason: Annotated[str, typer.Option(help="Why; the audit log keeps it.")] = "",
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Mend the key of one question, as a new version of the keys. Results that are there change with 'exam regrade' only."""
    if bool(accept) == void or (full_points and drop) or ((full_points or drop) and not void):
        raise typer.BadParameter("give --accept, or --void with --full-points or --drop")
    from finalbell.v1.admin_pb2 import SetAnswerKeyRequest

    request = SetAnswerKeyRequest(exam_id=exam, question_id=question, accept=accept or [], also=also, reason=reason)
    if void:
        request.void = SetAnswerKeyRequest.DROP if drop else SetAnswerKeyRequest.FULL_POINTS
    with client(home, server, token) as admin:
        reply = admin.set_key(request)
    if as_json:
        print_json(reply)
        return
    if reply.changed:
        typer.echo(f"{exam} {question}: {reply.before} → {reply.after} (key version {reply.key_version})")
    else:
        typer.echo(f"{exam} {question}: it was so already: {reply.after}")
    if reply.results_behind:
        typer.echo(f"{reply.results_behind} results were graded with older keys. Next: finalbell exam regrade {exam} --dry-run")


@app.command("regrade")
def regrade(
    exam: ExamArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would change.")] = False,
    reason: Annotated[str, typer.Option(help="Why; the history of every changed result keeps it.")] = "",
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Grade results again that were graded with older keys than the newest, beside whatever else goes on.

    It goes on in the background when this command is stopped; the same command then waits for it again.
    """
    from ops.regrade import EXAMPLE_COLUMNS, example_row, sentences

    with client(home, server, token) as admin:
        run = admin.regrade(exam, reason, dry_run=dry_run)
        with progress(run.results) as step:
            while run.status == run.RUNNING:
                time.sleep(0.3)
                run = admin.regrade_of(exam, run.regrade_id)
                step(run.done)
    if as_json:
        print_json(run)
    else:
        for sentence in sentences(run):
            typer.echo(sentence)
        if run.examples:
            show_table(EXAMPLE_COLUMNS, [example_row(example) for example in run.examples])
    if run.status != run.DONE:
        raise typer.Exit(1)


@app.command("stats")
def stats(
    exam: ExamArgument,
    as_csv: Annotated[
        bool,
        typer.Option("--csv", help="Print CSV: a row for each question, its option empty, then one for each of its options."),
    ] = False,
    as_json: JsonOption = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw difficulty against discrimination: .svg, .png or .pdf.")
    ] = None,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Compute and print how well each question of an exam measured (docs/statistics.md), and which keys to look at."""
    from ops.statistics import COLUMNS, CSV_COLUMNS, csv_rows, drawing, sentences, table_row

    draw = drawing(plot)
    with client(home, server, token) as admin:
        found = admin.item_statistics(exam)
    draw(found)
    if as_json:
        print_json(found)
    elif as_csv:
        csv.writer(sys.stdout).writerows([CSV_COLUMNS, *csv_rows(found)])
    else:
        show_table(COLUMNS, [table_row(question, found.results) for question in found.questions])
        typer.echo()
        for sentence in sentences(found):
            typer.echo(sentence)


def import_exam(home: Path, file: Path) -> "ImportExamResponse":
    """Import one file into a local stack."""
    with client(home, None, None) as admin:
        return admin.import_exam(read(file), "", {})


def read(file: Path) -> bytes:
    """Return a file that somebody named; without it the command ends."""
    try:
        return file.read_bytes()
    except OSError as failure:
        typer.echo(f"{file} cannot be read: {failure.strerror}", err=True)
        raise typer.Exit(1) from None


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"--set takes KEY=VALUE, not {text!r}")
    return name, value

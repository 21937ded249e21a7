"""`finalbell integrity analyse` and `finalbell integrity case …`: whose answers agree too well, and what people make of it."""

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.table import show as show_table

if TYPE_CHECKING:
    from finalbell.v1 import integrity_pb2

    from ops.admin import Admin

app = typer.Typer(help="Cases: what people look into, and what they made of it. Every step is a person's.", no_args_is_help=True)
ExamArgument = Annotated[str, typer.Argument(metavar="EXAM", help="The exam's id.")]
CaseArgument = Annotated[str, typer.Argument(metavar="CASE", help="The case's id.")]
NoteOption = Annotated[str, typer.Option("--note", help="Why; it stays in the case's history.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PAIR_COLUMNS = (
    "",
    "a",
    "b",
    "index",
    "same",
    "expected",
    "p",
    "q",
    "within 30 s",
    "around a",
    "around b",
    "session a",
    "session b",
)
CASE_COLUMNS = ("case", "exam", "state", "revision", "students", "opened", "by", "last step")
STEP_COLUMNS = ("when", "who", "from", "to", "why")


class By(StrEnum):
    """Who is compared with whom."""

    COHORT = "cohort"
    ROOM = "room"
    ADDRESS_RANGE = "address-range"


class To(StrEnum):
    """Where a case may go."""

    REVIEWED = "reviewed"
    DISMISSED = "dismissed"
    CONFIRMED = "confirmed"
    APPEALED = "appealed"


def analyse(
    exam: ExamArgument,
    by: Annotated[
        list[By] | None,
        typer.Option("--by", help="Compare who shares one of these; may be repeated. Default: cohort and address-range."),
    ] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="Compare all students with each other.")] = False,
    fdr: Annotated[float, typer.Option("--fdr", help="Of what is flagged, the share that may be chance.")] = 0.05,
    strongest: Annotated[int, typer.Option("--strongest", min=0, max=1000, help="Pairs of each index to keep anyway.")] = 100,
    flagged: Annotated[bool, typer.Option("--flagged", help="Print only what is flagged.")] = False,
    last: Annotated[bool, typer.Option("--last", help="Print the newest run that is done; make no other.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array, a pair and index a line.")] = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Compare the answers of an exam that is over, and print the pairs that agree most, the strongest first.

    A flag says where to look. It is not a verdict, and changes nothing.
    """
    groupings = ["EVERYBODY"] if everybody else [one.name for one in by or ()]
    with client(home, server, token) as admin:
        version = 0 if last else _done(admin, admin.analyse(exam, groupings, fdr, strongest)).version
        version, pairs = admin.pairs(exam, version, flagged=flagged)
        run = admin.analysis(exam, version)
    by_name = [_grouping(one) for one in run.groupings]
    asked = [one.lower().replace("_", "-") for one in groupings] or by_name
    if not last and (by_name, run.fdr, run.strongest) != (asked, fdr, strongest):
        typer.echo(f"Run {version} was under way already, with other options. Ask again for one with these.", err=True)
    if as_json:
        rows = [json.dumps(_plain(pair), ensure_ascii=False) for pair in pairs]
        typer.echo("[" + ",\n ".join(rows) + "]")
        return
    said = ", ".join(f"{one.flagged} by {one.index}" for one in run.indices)
    typer.echo(
        f"{exam}, run {run.version}, by {' and '.join(by_name)}: {run.students:,} students, {run.items} questions, "
        f"{run.pairs_tested:,} pairs{f'; flagged at {run.fdr:g}: {said}' if said else ''}. "
        "A flag says where to look; it is not a verdict."
    )
    left_out = run.left_out
    for count, what in (
        (left_out.alone, "students share no group with anybody and were not compared; --everybody compares all"),
        (left_out.other_versions, "sessions of an earlier version of the paper were left out"),
        (left_out.unscored, "sessions without a score were left out"),
        (left_out.rushed, "students seem to have run out of time: their answers from there on were left out"),
    ):
        if count:
            typer.echo(f"{count:,} {what}.")
    show_table(PAIR_COLUMNS, [_pair_row(pair) for pair in pairs])


@app.command("open")
def open_case(
    exam: ExamArgument,
    sessions: Annotated[list[str], typer.Argument(metavar="SESSION...", help="The sessions that it is about, one to eight.")],
    note: NoteOption,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Gather what is known of some sessions, and keep it as it is now. The same sessions have one case."""
    with client(home, server, token) as admin:
        case = admin.open_case(exam, sessions, note)
    _print(case, as_json=as_json)


@app.command()
def show(
    case: CaseArgument,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Show a case and its history; 'export' writes a report with all of it."""
    with client(home, server, token) as admin:
        found = admin.case(case)
    _print(found, as_json=as_json)


@app.command("list")
def list_cases(
    exam: Annotated[str, typer.Option("--exam", help="Of this exam only.")] = "",
    student: Annotated[str, typer.Option("--student", help="Of this student only.")] = "",
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """List cases, the newest first."""
    with client(home, server, token) as admin:
        whole = admin.cases(exam, student)
    if as_json:
        print_json(whole)
    else:
        show_table(CASE_COLUMNS, [_case_row(case) for case in whole.cases])


@app.command()
def move(
    case: CaseArgument,
    to: Annotated[To, typer.Argument(metavar="STATE", help="reviewed, dismissed, confirmed or appealed.")],
    note: NoteOption,
    revision: Annotated[int, typer.Option("--revision", min=0, help="The one that was looked at. Default: as it is now.")] = 0,
    as_json: JsonOption = False,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Move a case on: open, reviewed, dismissed or confirmed, appealed, dismissed or confirmed. Sessions stay as they are."""
    with client(home, server, token) as admin:
        moved = admin.move_case(case, revision or admin.case(case).revision, to.name, note)
    _print(moved, as_json=as_json)


@app.command()
def export(
    case: CaseArgument,
    html: Annotated[Path | None, typer.Option("--html", help="Where the report goes. Default: case-CASE.html.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the case goes as JSON, where it is wanted.")] = None,
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Write a case as a report to read and print, in one file. On record."""
    with client(home, server, token) as admin:
        exported = admin.export_case(case)
    written = [(html or Path(f"case-{case}.html"), exported.html), *([(json_file, exported.json)] if json_file else ())]
    for file, text in written:
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as failure:
            typer.echo(f"{file}: {failure.strerror}", err=True)
            raise typer.Exit(1) from None
        typer.echo(f"{file}")


def _done(admin: "Admin", run: "integrity_pb2.Analysis") -> "integrity_pb2.Analysis":
    """Wait until a run is done; Ctrl-C leaves it to go on."""
    while run.state == run.RUNNING:
        time.sleep(1)
        run = admin.analysis(run.exam_id, run.version)
    if run.state != run.DONE:
        typer.echo(f"Run {run.version} failed: {run.failure}", err=True)
        raise typer.Exit(1)
    return run


def _grouping(grouping: "integrity_pb2.Analysis.Grouping.ValueType") -> str:
    from finalbell.v1 import integrity_pb2

    return integrity_pb2.Analysis.Grouping.Name(grouping).lower().replace("_", "-")


def _plain(pair: "integrity_pb2.SimilarPair") -> dict[str, Any]:
    """Return a pair as JSON's values."""
    return {
        "students": list(pair.students),
        "index": pair.index,
        "p": pair.p,
        "q": pair.q,
        "flagged": pair.flagged,
        "value": pair.value,
        "matches": pair.matches,
        "expected": pair.expected,
        "compared": pair.compared,
        "sharedWrong": pair.shared_wrong,
        "sharedBlank": pair.shared_blank,
        "source": pair.source or None,
        "groups": list(pair.groups),
        "sessions": list(pair.session_ids),
        "timing": {
            "sameAnswers": pair.timing.same_answers,
            "within30Seconds": pair.timing.within_30_seconds,
            "otherAnswers": pair.timing.other_answers,
            "otherWithin30Seconds": pair.timing.other_within_30_seconds,
        },
        "around": [{each.name: each.value for each in one.indicators} for one in pair.around],
    }


def _pair_row(pair: "integrity_pb2.SimilarPair") -> list[str]:
    timing = f"{pair.timing.within_30_seconds} of {pair.timing.same_answers}"
    around = [" ".join(f"{each.name} {each.value}" for each in one.indicators) for one in pair.around]
    numbers = (str(pair.matches), f"{pair.expected:.1f}", f"{pair.p:.3g}", f"{pair.q:.3g}")
    return ["flagged" if pair.flagged else "", *pair.students, pair.index, *numbers, timing, *around, *pair.session_ids]


def _case_row(case: "integrity_pb2.IntegrityCase") -> list[str]:
    opened, moved = case.opened_at.ToJsonString()[:19], case.moved_at.ToJsonString()[:19]
    students = ", ".join(case.student_ids)
    return [case.case_id, case.exam_id, _state(case.state), str(case.revision), students, opened, case.opened_by, moved]


def _state(state: "integrity_pb2.IntegrityCase.State.ValueType") -> str:
    from finalbell.v1 import integrity_pb2

    return integrity_pb2.IntegrityCase.State.Name(state) if state else ""


def _print(case: "integrity_pb2.IntegrityCase", *, as_json: bool) -> None:
    if as_json:
        print_json(case)
        return
    show_table(CASE_COLUMNS, [_case_row(case)])
    typer.echo()
    rows = [
        [step.at.ToJsonString()[:19], step.actor, _state(step.from_state), _state(step.to_state), step.note] for step in case.steps
    ]
    show_table(STEP_COLUMNS, rows)

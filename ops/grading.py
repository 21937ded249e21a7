"""`finalbell grading …`: the queue of essays, by hand."""

from pathlib import Path
from typing import Annotated

import typer

from ops.client import HomeOption, ServerOption, TokenOption, client, print_json
from ops.table import show as show_table

app = typer.Typer(help="List, claim and grade essays.", no_args_is_help=True)

COLUMNS = ("task", "exam", "question", "grade", "status", "since", "claimed until")
AsOption = Annotated[str, typer.Option("--as", metavar="GRADER", help="Who grades, on a local stack; two graders need two names.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="Its id in 'grading list'.")]
ClaimOption = Annotated[str, typer.Option("--claim", metavar="ID", help="What 'grading claim' gave.")]
ExamOption = Annotated[str, typer.Option("--exam", help="Of this exam only.")]
QuestionOption = Annotated[str, typer.Option("--question", help="Of this question only.")]


@app.command("list")
def list_(
    exam: ExamOption = "",
    question: QuestionOption = "",
    status: Annotated[str, typer.Option(help="OPEN, CLAIMED, GRADED or CANCELLED. Default: OPEN and CLAIMED.")] = "",
    as_json: JsonOption = False,
    grader: AsOption = "operator",
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """List answers that wait for a grader, oldest first."""
    with client(home, server, token, name=grader) as admin:
        whole = admin.grading_tasks(exam, question, status)
    if as_json:
        print_json(whole)
        return
    from ops.admin import task_row

    show_table(COLUMNS, [task_row(task) for task in whole.tasks])


@app.command()
def claim(
    task: Annotated[str, typer.Argument(metavar="[TASK]", help="Its id; without it, the one that waits longest.")] = "",
    exam: ExamOption = "",
    question: QuestionOption = "",
    as_json: JsonOption = False,
    grader: AsOption = "operator",
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Take a task for ten minutes, and show the question, its rubric and the answer."""
    with client(home, server, token, name=grader) as admin:
        claimed = admin.claim(exam, question, task)
    if as_json:
        print_json(claimed)
        return
    typer.echo(f"{claimed.stem}\n")
    if claimed.passage:
        typer.echo(f"{claimed.passage}\n")
    for number, one in enumerate(claimed.rubric, 1):
        typer.echo(f"  {number}. {one.criterion}, 0 to {one.max_points}" + (f": {one.description}" if one.description else ""))
    typer.echo(f"\n{claimed.answer}\n")
    points = " ".join("--points N" for _ in claimed.rubric)
    typer.echo(f"Yours until {claimed.task.claimed_until.ToJsonString()}. Next:")
    typer.echo(f"  finalbell grading grade {claimed.task.task_id} --claim {claimed.claim_id} {points} [--comment TEXT]")


@app.command()
def renew(
    task: TaskArgument,
    claim_id: ClaimOption,
    grader: AsOption = "operator",
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Keep a claimed task for ten minutes from now."""
    with client(home, server, token, name=grader) as admin:
        typer.echo(f"Yours until {admin.renew(task, claim_id).task.claimed_until.ToJsonString()}.")


@app.command()
def release(
    task: TaskArgument,
    claim_id: ClaimOption,
    grader: AsOption = "operator",
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Give a claimed task back ungraded."""
    with client(home, server, token, name=grader) as admin:
        admin.release_task(task, claim_id)
    typer.echo("Given back.")


@app.command()
def grade(
    task: TaskArgument,
    claim_id: ClaimOption,
    points: Annotated[list[int], typer.Option("--points", help="For each criterion of the rubric, in its order.")],
    comments: Annotated[
        list[str] | None, typer.Option("--criterion-comment", help="To the student, for each criterion in order; may be left out.")
    ] = None,
    comment: Annotated[str, typer.Option(help="To the student, about the whole answer.")] = "",
    as_json: JsonOption = False,
    grader: AsOption = "operator",
    home: Path = HomeOption,
    server: str | None = ServerOption,
    token: str | None = TokenOption,
) -> None:
    """Grade a claimed task. The same grade again changes nothing."""
    with client(home, server, token, name=grader) as admin:
        graded = admin.grade(task, claim_id, points, comments or [], comment)
    if as_json:
        print_json(graded)
    elif not graded.HasField("points"):
        typer.echo("Graded; another grader is waited for.")
    else:
        after = "its session is scored." if graded.scored else "its session waits for other grades."
        typer.echo(f"Graded: {graded.points} points; {after}")

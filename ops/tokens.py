"""`finalbell token`: tokens of a local stack."""

import re
from pathlib import Path
from typing import Annotated

import typer

STUDENT = re.compile(r"[A-Za-z0-9._|@:-]{1,64}")
COHORT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
ROLES = ("admin", "proctor", "grader")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def token(
    student: Annotated[str, typer.Option(help="The student id.")] = "",
    cohort: Annotated[list[str] | None, typer.Option(help="A cohort of the student; may be repeated.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="admin, proctor or grader; may be repeated.")] = None,
    ttl: Annotated[str, typer.Option(help="How long it holds: 90s, 15m, 3h, 2d.")] = "3h",
    count: Annotated[int, typer.Option(help="Print so many tokens, for students PREFIX1, PREFIX2, …", min=1, max=1_000_000)] = 1,
    prefix: Annotated[str, typer.Option(help="The students' common prefix, with --count.")] = "",
    home: Annotated[Path, typer.Option(help="The local stack's folder.")] = Path(".finalbell"),
) -> None:
    """Print a signed token for a student or for staff of a local stack, or one a line for many students."""
    from ops.keys import mint

    students, seconds = _students(student, count, prefix), _seconds(ttl)
    if any(not COHORT.fullmatch(one) for one in cohort or []):
        raise typer.BadParameter("a cohort has 1 to 63 of a-z 0-9 -, and does not start with -")
    if any(one not in ROLES for one in role or []):
        raise typer.BadParameter(f"a role is one of {', '.join(ROLES)}")
    try:
        for one in students:
            typer.echo(mint(home, student=one, cohorts=cohort or [], roles=role or [], ttl_seconds=seconds))
    except FileNotFoundError:
        typer.echo(f"{home} has no signing key: start the stack once with 'finalbell up'.", err=True)
        raise typer.Exit(1) from None


def _students(student: str, count: int, prefix: str) -> list[str]:
    if bool(student) == bool(prefix) or (student and count > 1):
        raise typer.BadParameter("give either --student ID, or --count N with --prefix P")
    students = [student] if student else [f"{prefix}{number}" for number in range(1, count + 1)]
    if not STUDENT.fullmatch(students[-1]):  # the longest
        raise typer.BadParameter("a student id has 1 to 64 of A-Z a-z 0-9 . _ | @ : -")
    return students


def _seconds(ttl: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", ttl)
    if found is None:
        raise typer.BadParameter("--ttl takes a number and s, m, h or d, such as 3h")
    return int(found[1]) * UNITS[found[2]]

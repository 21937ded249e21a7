"""`finalbell audit`: what was promised, checked against what is there."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from ops.audit.records import Checked, Evidence

SHOWN = 50


def audit(
    exams: Annotated[list[str] | None, typer.Argument(metavar="[EXAM]…", help="The exams to audit. Default: all.")] = None,
    history: Annotated[Path | None, typer.Option(help="What clients recorded, as lines of JSON (ops/audit/history.py).")] = None,
    home: Annotated[Path, typer.Option(help="The local stack's folder.")] = Path(".finalbell"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check what is promised of answers, scores and ranks against PostgreSQL, Redis and what clients recorded; changes nothing.

    Meant for when all submits are scored. Exit code 1 when a promise is broken, 2 when it could not look.
    """
    from ops.audit.history import Unreadable
    from ops.home import Home

    stack = Home(home.absolute()).stack()
    if stack is None:
        _fail(f"No stack runs in {home}. Start one with 'finalbell up', or name another with --home.")
    try:
        found = check(str(stack["postgres"]), str(stack["redis"]), exams or [], history)
    except Unreadable as failure:
        _fail(str(failure))
    except KeyError as missing:
        _fail(f"There is no exam {missing.args[0]}.")
    except OSError as failure:
        _fail(f"{history} cannot be read: {failure.strerror}")
    violations = [violation for checked in found for violation in checked.violations]
    if as_json:
        typer.echo(json.dumps(as_plain(found), indent=1))
    else:
        for line in shown(found):
            typer.echo(line)
    if violations:
        raise typer.Exit(1)


def check(postgres: str, redis: str, exams: Sequence[str], history: Path | None) -> "Sequence[Checked]":
    """Read all evidence and check every promise; without a history, those that the stores alone can tell of."""
    from ops.audit import history as histories
    from ops.audit import stores
    from ops.audit.records import Evidence, History

    recorded = histories.read(history) if history else History()
    wanted = list(exams) or sorted({call.exam for call in recorded.calls if call.exam and call.rpc == "StartSession" and call.good})
    evidence = Evidence(stores.read(postgres, redis, wanted, recorded.wiped), recorded)
    return [one(evidence) for one in _checks(with_history=history is not None)]


def _checks(*, with_history: bool) -> "Sequence[Callable[[Evidence], Checked]]":
    from ops.audit import access, answers, boards, grades, scored

    always = (
        answers.time_decides,
        answers.nothing_after_the_submit,
        scored.hashes_agree,
        scored.one_result_each,
        scored.results_only_grow,
        grades.scores_recomputed,
        grades.grades_add_up,
        scored.one_submit_for_all,
        scored.bell_rings,
        boards.boards_say_what_results_say,
        access.keys_stay_inside,
    )
    told = (
        answers.saves_are_scored,
        answers.versions_rise_by_one,
        answers.resuming_shows_everything,
        access.nobody_elses,
        access.refusals_help,
    )
    return (*told, *always) if with_history else always


def shown(found: "Sequence[Checked]") -> list[str]:
    """Return a summary for people: one line a check, then the violations."""
    lines = []
    for checked in found:
        verdict = (
            "nothing to look at"
            if not checked.facts
            else f"{len(checked.violations)} violations"
            if checked.violations
            else "holds"
        )
        lines.append(f"{checked.invariants:<17} {checked.facts:>9}  {verdict:<18}  {checked.fact}")
    violations = [violation for checked in found for violation in checked.violations]
    lines += [f"{violation.invariant}  {violation.about}: {violation.what}" for violation in violations[:SHOWN]]
    if len(violations) > SHOWN:
        lines.append(f"… and {len(violations) - SHOWN} more (--json prints all)")
    lines.append(f"{len(violations)} violations in {sum(checked.facts for checked in found)} facts.")
    return lines


def as_plain(found: "Sequence[Checked]") -> dict[str, object]:
    """Return what was found as JSON's values."""
    checks = [
        {"invariants": c.invariants.split(), "fact": c.fact, "facts": c.facts, "violations": len(c.violations)} for c in found
    ]
    violations = [{"invariant": v.invariant, "about": v.about, "what": v.what} for c in found for v in c.violations]
    return {"checks": checks, "violations": violations}


def _fail(text: str) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(2)

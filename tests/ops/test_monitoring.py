"""Alerts, dashboard and runbooks speak of what there is: metrics that processes show, commands that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from ops.main import app
from tests.faults.harm import fetch, jetstream
from tests.flows.sitting import Student, good
from tests.stack import PLAIN, Stack, eventually

ROOT = Path(__file__).parent.parent.parent
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((ROOT / "monitoring" / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD = json.loads((ROOT / "monitoring" / "dashboard.json").read_text())
PROMETHEUS_OWN = {"up"}
"""What Prometheus adds by itself."""


def expressions() -> Iterator[str]:
    yield from (alert["expr"] for alert in ALERTS)
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])


def selected(expression: str) -> set[tuple[str, frozenset[str]]]:
    """Return the metrics of an expression, each with the labels that it is selected by."""
    found = re.findall(r"\b(finalbell_\w+|process_\w+|up)\b(?:\{([^}]*)\})?", expression)
    return {(name, frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))) for name, labels in found}


async def shown(stack: Stack) -> dict[str, set[str]]:
    """Return every metric that some process shows, with its labels; those that Prometheus adds to each included."""
    found: dict[str, set[str]] = {}
    async with httpx.AsyncClient(verify=PLAIN) as http:
        for process in stack.read()["processes"]:
            if not process["metrics"]:
                continue
            for line in (await http.get(f"http://{process['metrics']}/metrics")).text.splitlines():
                if line and not line.startswith("#"):
                    name, _, rest = line.partition(" ")[0].partition("{")
                    found.setdefault(name, {"job", "instance"}).update(re.findall(r'(\w+)="', rest))
    return found


async def test_every_metric_of_alerts_and_dashboard_is_shown_by_some_process(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        good(await student.submit(session), 200, 202)
        await student.outcome(session)
    wanted = {one for expression in expressions() for one in selected(expression) if one[0] not in PROMETHEUS_OWN}

    async def missing() -> bool:
        found = await shown(stack)
        left.clear()
        left.extend(sorted(name for name, labels in wanted if name not in found or not labels <= found[name]))
        return not left

    left: list[str] = []
    try:
        await eventually(missing, 15)
    except AssertionError:
        assert left == []


async def test_status_says_what_waits_and_the_doctor_which_runbook_helps(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    subject = f"submits.{exam_id}.nobody"
    async with jetstream(stack) as stream:
        await stream.publish(subject, b"not an event")

    def asked(command: str) -> str:
        return CliRunner().invoke(app, [command, "--home", str(stack.home)]).stdout

    async def told() -> bool:
        return bool(re.search(r"bell .*dead letters [1-9]", asked("status")))

    await eventually(told, 30)
    status, doctor = asked("status"), asked("doctor")
    lags = json.loads(CliRunner().invoke(app, ["status", "--json", "--home", str(stack.home)]).stdout)
    await fetch(stack, "UPDATE dead_letter SET replayed_at = now() WHERE subject = $1", subject)

    assert re.search(r"bell .*dead letters \d", status)
    assert re.search(r"!!   bell, dead letters: \d+\n     See docs/runbooks/DeadLetters.md", doctor)
    bell = next(row["lag"] for row in lags if row["name"] == "bell")
    assert bell["dead letters"] >= 1
    assert abs(bell["clock skew seconds"]) < 2
    assert next(row["lag"] for row in lags if row["name"] == "snapshots").keys() == {"entries", "seconds", "dirty sessions"}


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    named = {alert["annotations"]["runbook"] for alert in ALERTS}

    assert named == {f"docs/runbooks/{file.name}" for file in RUNBOOKS.glob("*.md")}
    assert all(alert["annotations"]["runbook"] == f"docs/runbooks/{alert['alert']}.md" for alert in ALERTS)
    assert all(alert["annotations"]["summary"] in (ROOT / alert["annotations"]["runbook"]).read_text() for alert in ALERTS)
    assert {alert["labels"]["severity"] for alert in ALERTS} == {"page", "ticket"}
    assert all(re.fullmatch(r"\d+[sm]", alert["for"]) for alert in ALERTS)


@pytest.mark.parametrize("file", sorted(RUNBOOKS.glob("*.md")), ids=lambda file: file.stem)
def test_every_command_and_page_of_a_runbook_exists(file: Path) -> None:
    text = file.read_text()
    for words in re.findall(r"`finalbell ([^`]+)`", text):
        command: Any = get_command(app)
        for word in words.split():
            if hasattr(command, "commands"):
                command = command.commands.get(word)
                assert command is not None, words
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", words)) <= options, words
    for other in re.findall(r"\b([A-Z]\w+\.md)\b", text):
        assert (RUNBOOKS / other).exists(), other

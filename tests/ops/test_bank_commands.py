"""`finalbell bank` against a running stack."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ops.main import app
from tests.stack import Stack, eventually, fresh

Run = Callable[..., Result]


@pytest.fixture
def run(stack: Stack) -> Run:
    """Runs a command against the shared stack."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, ["bank", *map(str, words), "--home", str(stack.home)])

    return invoke


async def test_a_bank_is_imported_once_listed_and_deleted(run: Run, small_bank: dict[str, Any], tmp_path: Path) -> None:
    name, file = fresh("b"), tmp_path / "bank.json"
    file.write_text(json.dumps(small_bank))

    async def listed() -> Any:
        banks = json.loads(run("list", "--json").stdout)["banks"]
        return next((bank for bank in banks if bank["bankId"] == name), None)

    first, again = run("import", file, "--id", name), run("import", file, "--id", name)
    found = await eventually(listed)
    table = run("list")
    deleted, gone = run("delete", name), run("delete", name)

    assert first.stdout == f"{name} (version 1): 5 questions, open to everybody\n"
    assert again.stdout == f"{name} (version 1): nothing changed\n"
    assert (found["questionCount"], found["version"], found["productIds"]) == (5, 1, [])
    assert "numbers 3" in table.stdout
    assert (deleted.exit_code, deleted.stdout) == (0, f"{name}: deleted.\n")
    assert (gone.exit_code, "no such bank" in gone.output) == (1, True)


def test_a_file_with_errors_names_them_and_a_missing_one_itself(run: Run, small_bank: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "bank.json"
    file.write_text(json.dumps({**small_bank, "questions": [{**small_bank["questions"][0], "answer": {"choice": "Z"}}]}))

    broken, missing = run("import", file), run("import", tmp_path / "nothing")

    assert broken.exit_code == missing.exit_code == 1
    assert "questions[p1].answer.choice" in broken.output
    assert "cannot be read" in missing.output

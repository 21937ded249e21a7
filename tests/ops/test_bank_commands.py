"""`finalbell bank` against a running stack."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.stack import FINALBELL, ROOT, Stack, fresh


def run(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [*FINALBELL, "bank", *arguments, "--home", str(stack.home)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_bank_is_imported_once_listed_and_deleted(stack: Stack, small_bank: dict[str, Any], tmp_path: Path) -> None:
    name, file = fresh("b"), tmp_path / "bank.json"
    file.write_text(json.dumps(small_bank))

    first, again = (run(stack, "import", str(file), "--id", name) for _ in range(2))
    listed = json.loads(run(stack, "list", "--json").stdout)
    table = run(stack, "list")
    deleted, gone = (run(stack, "delete", name) for _ in range(2))

    assert first.stdout == f"{name} (version 1): 5 questions, open to everybody\n"
    assert again.stdout == f"{name} (version 1): nothing changed\n"
    assert next(bank for bank in listed["banks"] if bank["bankId"] == name)["questionCount"] == 5
    assert name in table.stdout
    assert (deleted.returncode, deleted.stdout) == (0, f"{name}: deleted.\n")
    assert (gone.returncode, "no such bank" in gone.stderr) == (1, True)


def test_a_file_with_errors_names_them_and_a_missing_one_itself(stack: Stack, small_bank: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "bank.json"
    file.write_text(json.dumps({**small_bank, "questions": [{**small_bank["questions"][0], "answer": {"choice": "Z"}}]}))

    broken, missing = run(stack, "import", str(file)), run(stack, "import", str(tmp_path / "nothing"))

    assert broken.returncode == missing.returncode == 1
    assert "questions[p1].answer.choice" in broken.stderr
    assert "cannot be read" in missing.stderr

"""The seeded bugs stay what they are: each applies to the code of today and names tests that exist."""

import ast
import re
import subprocess

import pytest

from tests.bite.patches import ROOT, Patch, patches

ALL = patches()


def test_there_are_at_least_ten_seeded_bugs() -> None:
    assert len(ALL) >= 10


@pytest.mark.parametrize("patch", ALL, ids=lambda patch: patch.name)
def test_a_seeded_bug_applies_and_names_tests_that_exist(patch: Patch) -> None:
    check = subprocess.run(["git", "apply", "--check", str(patch.file)], cwd=ROOT, capture_output=True, text=True, check=False)

    assert check.returncode == 0, check.stderr
    for test in patch.caught_by:
        file, _, function = test.partition("::")
        assert re.sub(r"\[.*", "", function) in _functions(file), test


def _functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}

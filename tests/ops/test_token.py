"""Tokens of a local stack hold what was asked for, and verify with its public keys alone."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.stack import Stack

ROOT = Path(__file__).parent.parent.parent


def token(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ops.main", "token", "--home", str(stack.home), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_token_says_who_for_how_long_and_with_which_rights(stack: Stack) -> None:
    printed = token(stack, "--student", "ada", "--cohort", "north", "--cohort", "club", "--role", "proctor", "--ttl", "15m")

    keys = KeySet.import_key_set(json.loads((stack.home / "keys" / "jwks.json").read_text()))
    claims = jwt.decode(printed.stdout.strip(), keys, algorithms=["RS256"]).claims
    assert claims["sub"] == "ada"
    assert claims["cohorts"] == ["north", "club"]
    assert claims["roles"] == ["proctor"]
    assert 890 <= claims["exp"] - time.time() <= 900


def test_many_tokens_come_one_a_line(stack: Stack) -> None:
    lines = token(stack, "--count", "25", "--prefix", "load-").stdout.splitlines()

    keys = KeySet.import_key_set(json.loads((stack.home / "keys" / "jwks.json").read_text()))
    assert [jwt.decode(line, keys, algorithms=["RS256"]).claims["sub"] for line in lines] == [f"load-{n}" for n in range(1, 26)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--student", "a b"),
        ("--student", "x" * 65),
        ("--student", "ada", "--cohort", "North"),
        ("--student", "ada", "--role", "king"),
        ("--student", "ada", "--ttl", "soon"),
        ("--student", "ada", "--ttl", "0h"),
        (),
        ("--student", "ada", "--prefix", "p"),
    ],
)
def test_what_cannot_be_a_token_is_refused_and_prints_none(stack: Stack, arguments: tuple[str, ...]) -> None:
    refused = token(stack, *arguments)

    assert refused.returncode == 2
    assert refused.stdout == ""

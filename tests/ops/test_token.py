"""`finalbell token` prints tokens that services take, and refuses what they would."""

import json
import time
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet
from typer.testing import CliRunner

from ops.home import Home
from ops.keys import make_keys
from ops.main import app
from tests.ops.local import ABSENT, mode


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with signing keys; no stack has to run."""
    path = tmp_path_factory.mktemp("tokens") / "home"
    Home(path).make()
    make_keys(Home(path))
    return path


def printed(home: Path, *options: str) -> list[str]:
    ran = CliRunner().invoke(app, ["token", "--home", str(home), *options])
    assert ran.exit_code == 0, ran.output
    return ran.stdout.split()


def verified(home: Path, token: str) -> jwt.Token:
    return jwt.decode(token, KeySet.import_key_set(json.loads(Home(home).jwks.read_text())), algorithms=["RS256"])


def test_a_token_is_signed_and_says_who_and_how_long(home: Path) -> None:
    [token] = printed(home, "--student", "ada", "--cohort", "north", "--cohort", "year-2", "--ttl", "15m")

    found = verified(home, token)

    assert found.header["alg"] == "RS256"
    assert found.header["kid"]
    claims = found.claims
    assert (claims["sub"], claims["cohorts"], claims["roles"]) == ("ada", ["north", "year-2"], [])
    assert (claims["iss"], claims["aud"]) == ("https://finalbell.local", "finalbell")
    assert claims["exp"] - claims["iat"] == 15 * 60
    assert abs(claims["iat"] - time.time()) < 60


def test_staff_have_roles(home: Path) -> None:
    [token] = printed(home, "--student", "eve", "--role", "admin", "--role", "grader")

    claims = verified(home, token).claims

    assert claims["roles"] == ["admin", "grader"]
    assert claims["exp"] - claims["iat"] == 3 * 3600


def test_many_students_get_one_token_a_line(home: Path) -> None:
    tokens = printed(home, "--count", "12", "--prefix", "p", "--cohort", "north")

    assert [verified(home, token).claims["sub"] for token in tokens] == [f"p{number}" for number in range(1, 13)]
    assert all(verified(home, token).claims["cohorts"] == ["north"] for token in tokens)


def test_the_private_key_stays_with_its_owner(home: Path) -> None:
    assert mode(Home(home).signing_key) == 0o600
    assert "PRIVATE" not in Home(home).jwks.read_text()
    assert '"d"' not in Home(home).jwks.read_text()


def test_starting_again_keeps_the_keys(home: Path) -> None:
    before = Home(home).jwks.read_text()

    make_keys(Home(home))

    assert Home(home).jwks.read_text() == before


@pytest.mark.parametrize(
    "options",
    [
        ["--student", "ada", "--ttl", "3"],
        ["--student", "ada", "--ttl", "0h"],
        ["--student", "ada", "--ttl", "-1h"],
        ["--student", "ada", "--ttl", "3 h"],
        ["--student", "ada", "--ttl", "3w"],
        ["--student", "ada lovelace"],
        ["--student", "a" * 65],
        ["--student", "ada\n"],
        ["--prefix", "p" * 64, "--count", "10"],
        ["--prefix", "p/", "--count", "2"],
        ["--student", "ada", "--prefix", "p"],
        ["--student", "ada", "--count", "3"],
        ["--count", "3"],
        [],
        ["--student", "ada", "--cohort", "North"],
        ["--student", "ada", "--cohort", "-north"],
        ["--student", "ada", "--role", "student"],
        ["--prefix", "p", "--count", "0"],
    ],
    ids=" ".join,
)
def test_what_no_service_would_take_is_refused(home: Path, options: list[str]) -> None:
    ran = CliRunner().invoke(app, ["token", "--home", str(home), *options])

    assert ran.exit_code == 2
    assert ran.stdout == ""


def test_a_home_that_was_never_started_says_what_to_do() -> None:
    ran = CliRunner().invoke(app, ["token", "--student", "ada", "--home", str(ABSENT)])

    assert ran.exit_code == 1
    assert ran.stderr == f"{ABSENT} has no signing key: start the stack once with 'finalbell up'.\n"

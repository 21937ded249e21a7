"""`finalbell receipt`: what a receipt is worth, with the public keys alone; no stack has to run."""

import json
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ops.audit.rules import canonical, sha256
from ops.home import Home
from ops.keys import make_receipt_keys
from ops.main import app
from servers.receipts import Receipts, Submission
from tests.ops.local import mode
from tests.stack import ROOT

PACKED = {"q1": "c:B", "q4": 't:Ankara, "naïvely"\n'}
SUBMISSION = Submission(uuid.uuid4(), "ada", "sample", 3, 1_780_000_000_007, bytes.fromhex(sha256(canonical(PACKED))))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the key of receipts."""
    path = tmp_path_factory.mktemp("receipts") / "home"
    Home(path).make()
    make_receipt_keys(Home(path))
    return path


@pytest.fixture(scope="module")
def receipt(home: Path) -> str:
    """A receipt by the home's key."""
    return signed(home)


def signed(home: Path) -> str:
    signer = Receipts(Home(home).receipt_key.read_bytes(), Home(home).receipt_jwks.read_text())
    receipt = signer.sign(SUBMISSION)
    assert receipt is not None
    return receipt


def verify(home: Path, *words: object, given: str | None = None) -> Result:
    return CliRunner().invoke(app, ["receipt", "verify", *map(str, words), "--json", "--home", str(home)], input=given)


@pytest.mark.parametrize("how", ["receipt", "file", "reply in a file", "reply on standard input"])
def test_the_command_takes_a_receipt_however_it_comes(home: Path, receipt: str, tmp_path: Path, how: str) -> None:
    file, reply = tmp_path / "given", json.dumps({"status": "SCORED", "receipt": receipt})
    file.write_text(reply if "reply" in how else f"{receipt}\n")

    found = verify(
        home,
        receipt if how == "receipt" else "-" if "standard" in how else file,
        given=reply if "standard" in how else None,
    )

    assert (found.exit_code, json.loads(found.output)["sessionId"]) == (0, str(SUBMISSION.session))


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (PACKED, 0),
        ({**PACKED, "q2": "-:"}, 0),
        ({**PACKED, "q1": "c:A"}, 1),
        ({"q1": "c:B"}, 1),
        ({**PACKED, "q4": 't:Ankara, "naïvely"'}, 1),
        ({}, 1),
        ([], 2),
        ({"q1": {"choice": "B"}}, 2),
        ({"q1": "t:\ud800"}, 2),
    ],
)
def test_the_command_tells_the_answers_that_were_handed_in_from_all_others(
    home: Path, receipt: str, tmp_path: Path, answers: object, code: int
) -> None:
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(answers, indent=2))

    found = verify(home, receipt, "--answers", file)

    assert found.exit_code == code
    if code < 2:
        told = json.loads(found.output)
        assert told.get("answersMatch", told.get("wrong")) == ("ANSWERS" if code else True)


def test_the_command_says_what_is_wrong(home: Path, receipt: str, tmp_path: Path) -> None:
    header, payload, signature = receipt.split(".")
    foreign = tmp_path / "foreign.json"
    foreign.write_text('{"keys": []}')

    told = {
        "cut": verify(home, f"{header}.{payload}.{signature[:-8]}"),
        "two parts": verify(home, "-", given=f"{header}.{payload}"),
        "cut inside": verify(home, f"{header}.{payload[:-8]}.{signature}"),
        "another key": verify(home, receipt, "--keys", foreign),
    }

    assert {found.exit_code for found in told.values()} == {1}
    wrong = {name: json.loads(found.output)["wrong"] for name, found in told.items()}
    assert wrong == {"cut": "DAMAGED", "two parts": "DAMAGED", "cut inside": "SIGNATURE", "another key": "UNKNOWN_KEY"}


@pytest.mark.parametrize(
    "words",
    [
        ["/nonexistent/receipt"],
        ["-"],
        ["$receipt", "--keys", "/nonexistent/keys"],
        ["$receipt", "--keys", "http://127.0.0.1:9/keys"],
        ["$receipt", "--keys", str(ROOT / "README.md")],
        ["$receipt", "--answers", "/nonexistent/answers"],
    ],
)
def test_the_command_says_when_it_cannot_look(home: Path, receipt: str, words: list[str]) -> None:
    found = verify(home, *(word.replace("$receipt", receipt) for word in words), given='{"status": "SCORED"}')

    assert found.exit_code == 2
    assert not isinstance(found.exception, OSError)


def test_the_command_reads_the_keys_that_it_prints_and_says_it_in_words(home: Path, receipt: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(CliRunner().invoke(app, ["receipt", "keys", "--home", str(home)]).output)

    with_keys = CliRunner().invoke(app, ["receipt", "verify", receipt, "--keys", str(keys), "--home", str(tmp_path)])
    without = CliRunner().invoke(app, ["receipt", "verify", receipt, "--home", str(tmp_path)])

    assert (with_keys.exit_code, without.exit_code) == (0, 2)
    assert f"Student ada handed in session {SUBMISSION.session}\n" in with_keys.output
    assert "of exam sample, version 3, at 2026-05-28T20:26:40.007Z" in with_keys.output


def test_a_key_that_was_moved_away_is_replaced_and_its_receipts_still_hold(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    make_receipt_keys(home)
    before, first = signed(home.path), home.receipt_jwks.read_text()
    make_receipt_keys(home)
    unchanged = home.receipt_jwks.read_text()
    home.receipt_key.rename(tmp_path / "old.pem")

    make_receipt_keys(home)

    old, new = (json.loads(verify(home.path, receipt).output) for receipt in (before, signed(home.path)))
    listed = json.loads(home.receipt_jwks.read_text())["keys"]
    assert unchanged == first
    assert [key["kid"] for key in listed] == [new["kid"], old["kid"]]
    assert old | {"kid": ""} == new | {"kid": ""}
    assert not {"d"} & {name for key in listed for name in key}
    assert mode(home.receipt_key) == mode(home.receipt_jwks) == 0o600

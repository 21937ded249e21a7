"""What a student can prove with a receipt: over REST through Envoy, by the command, and by a program of somebody else's."""

import asyncio
import json
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from ops.main import app
from tests.faults.harm import stopped
from tests.flows.sitting import Student, canonical, good
from tests.stack import ROOT, Stack

GIVEN = {"q1": ("choice", "B"), "q4": ("text", 'Ankara, "naïvely"\n')}
PACKED = {"q1": "c:B", "q4": 't:Ankara, "naïvely"\n'}


@dataclass(frozen=True, slots=True)
class Handed:
    """A session that was handed in, and its replies."""

    student: str
    exam: str
    session: str
    submitted: Mapping[str, Any]
    result: Mapping[str, Any]

    @property
    def receipt(self) -> str:
        return str(self.submitted["receipt"])


@pytest.fixture(scope="module")
async def handed(stack: Stack, small_exam: dict[str, Any]) -> Handed:
    exam = f"t{uuid.uuid4().hex[:12]}"
    await stack.import_exam(small_exam, exam)
    async with Student(stack) as student:
        session = (await student.sit(exam))["sessionId"]
        for question, (kind, value) in GIVEN.items():
            good(await student.save(session, question, **{kind: value}))
        submitted = good(await student.submit(session), 200, 202)
        return Handed(student.name, exam, session, submitted, await student.outcome(session))


def says(stack: Stack, receipt: str) -> dict[str, Any]:
    """What a valid receipt says."""
    found = CliRunner().invoke(app, ["receipt", "verify", receipt, "--json", "--home", str(stack.home)])
    assert found.exit_code == 0, found.output
    read: dict[str, Any] = json.loads(found.output)
    return read


# The receipt


async def test_a_submit_its_repeats_and_the_result_carry_one_receipt(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    key = uuid.uuid4().hex
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        first = good(await student.submit(session, key), 200, 202)
        repeats = [good(await student.submit(session, again), 200, 202) for again in (key, uuid.uuid4().hex)]
        result = await student.outcome(session)

    assert {reply["receipt"] for reply in (first, *repeats, result)} == {first["receipt"]}
    read = says(stack, first["receipt"])
    assert read["submittedAt"][:19] == first["submittedAt"][:19] == result["submittedAt"][:19]
    assert {name: read[name] for name in ("sessionId", "studentId", "examId", "examVersion", "answersSha256")} == {
        "sessionId": session,
        "studentId": student.name,
        "examId": exam_id,
        "examVersion": 1,
        "answersSha256": canonical({"q1": ("choice", "B")}),
    }


async def test_a_receipt_does_not_wait_for_the_score_but_comes_with_the_submits_reply(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        with stopped(stack, "scoring-worker"):
            submitted, again = good(await student.submit(session), 202), good(await student.submit(session), 202)
            waiting = good(await student.result(session), 202)
        result = await student.outcome(session)

    assert (submitted["status"], waiting["status"], result["status"]) == ("SCORING", "SCORING", "SCORED")
    assert submitted["receipt"] == again["receipt"] == result["receipt"]
    assert "receipt" not in waiting


async def test_a_session_that_the_bell_hands_in_and_whose_score_is_withheld_has_its_receipt_in_the_result(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, durationSeconds=2, release__score="MANUAL")
    async with Student(stack) as student:
        started = await student.sit(exam_id)
        good(await student.save(started["sessionId"], "q1", choice="B"))
        await asyncio.sleep(2.1)
        late = await student.submit(started["sessionId"])
        result = await student.outcome(started["sessionId"])

    assert late.status_code == 400
    assert result["status"] == "WITHHELD"
    read = says(stack, result["receipt"])
    assert read["submittedAt"][:19] == started["endsAt"][:19]
    assert read["answersSha256"] == canonical({"q1": ("choice", "B")})


# The public keys


async def test_the_public_keys_are_a_key_set_that_needs_no_token_and_has_no_private_part(stack: Stack, handed: Handed) -> None:
    async with stack.rest() as nobody:
        reply = await nobody.get("/api/v1/receipts/keys")
        others = [await nobody.post("/api/v1/receipts/keys", json={}), await nobody.get("/api/v1/receipts/keys/more")]

    keys = good(reply)["keys"]
    assert [set(key) for key in keys] == [{"kty", "crv", "x", "kid", "alg", "use"}]
    assert (keys[0]["kty"], keys[0]["crv"], keys[0]["alg"]) == ("OKP", "Ed25519", "EdDSA")
    assert says(stack, handed.receipt)["kid"] == keys[0]["kid"]
    assert [other.status_code for other in others] == [401, 401]
    assert (stack.home / "keys" / "receipt.pem").stat().st_mode & 0o777 == 0o600


def test_only_the_services_that_sign_are_told_where_the_private_key_is(stack: Stack) -> None:
    services = stack.read()["services"]
    told = {name for name in services if "receipt.pem" in (stack.home / "config" / f"{name}.json").read_text()}

    assert told == {"session", "scoring"}


# Verified by others


async def test_a_receipt_is_verified_with_the_keys_of_the_gateway_and_fits_its_own_answers_only(
    stack: Stack, handed: Handed, tmp_path: Path
) -> None:
    own, other = tmp_path / "own.json", tmp_path / "other.json"
    own.write_text(json.dumps(PACKED))
    other.write_text('{"q1": "c:B"}')
    keys = ("--keys", f"{stack.gateway}/api/v1/receipts/keys", "--home", str(tmp_path))

    fits, differs = (
        CliRunner().invoke(app, ["receipt", "verify", handed.receipt, *keys, "--answers", str(file)]) for file in (own, other)
    )

    assert (fits.exit_code, differs.exit_code) == (0, 1)
    assert f"Student {handed.student} handed in session {handed.session}" in fits.output


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
@pytest.mark.timeout(300)  # Go's standard library is built where nobody has built it yet
def test_the_example_in_go_verifies_a_receipt_and_sees_through_a_forged_one(stack: Stack, handed: Handed, tmp_path: Path) -> None:
    program, names = tmp_path / "receipt", ("keys.json", "receipt.txt", "answers.json")
    subprocess.run(["go", "build", "-o", program, ROOT / "docs" / "examples" / "receipt.go"], check=True, cwd=tmp_path)
    keys = httpx.get(f"{stack.gateway}/api/v1/receipts/keys").text
    answers = json.dumps(PACKED, ensure_ascii=False, separators=(",", ":"))
    forged = handed.receipt[:-1] + ("A" if handed.receipt[-1] != "A" else "Q")

    def run(*contents: str) -> tuple[int, str]:
        for name, content in zip(names, contents, strict=False):
            (tmp_path / name).write_text(content)
        ran = subprocess.run([program, *names[: len(contents)]], cwd=tmp_path, capture_output=True, text=True, check=False)
        return ran.returncode, ran.stdout

    assert run(keys, handed.receipt) == run(keys, f"{handed.receipt}\n", answers)
    assert run(keys, handed.receipt)[0] == 0
    assert handed.session in run(keys, handed.receipt)[1]
    assert run(keys, handed.receipt, answers.replace("c:B", "c:A")) == (1, "not valid: these are not the answers\n")
    assert run(keys, forged)[0] == 1
    assert run('{"keys":[]}', handed.receipt) == (1, "not valid: the signature is not valid\n")

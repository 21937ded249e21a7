"""`finalbell receipt …`: what a student's receipt proves (docs/receipts.md). Needs the public keys alone, and no running stack."""

import base64
import binascii
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ops.client import HomeOption
from ops.home import Home

app = typer.Typer(help="Check the receipt of a submit.", no_args_is_help=True)
TYPE = "finalbell-receipt+jwt"
FIELDS = {"answersSha256": str, "examId": str, "examVersion": int, "sessionId": str, "studentId": str, "submittedAt": str}
LITERAL = re.compile(r"eyJ[\w-]*\.[\w-]*\.[\w-]*", re.ASCII)
URL_SECONDS = 10
LONGEST = 1 << 20
KEY_BYTES, SIGNATURE_BYTES = 32, 64
CANNOT_LOOK = 2

Keys = Mapping[str, bytes]
"""Ed25519 public keys, 32 bytes each, by `kid`."""


class Wrong(StrEnum):
    """What can be wrong with a receipt."""

    DAMAGED = "DAMAGED"
    UNKNOWN_KEY = "UNKNOWN_KEY"
    SIGNATURE = "SIGNATURE"
    ANSWERS = "ANSWERS"


class NotValid(Exception):
    """The receipt does not prove it; the text says why, for people."""

    def __init__(self, wrong: Wrong, text: str) -> None:
        super().__init__(text)
        self.wrong = wrong


class CannotLook(Exception):
    """There is nothing to check, or nothing to check it with; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receipt says, its signature verified."""

    session: str
    student: str
    exam: str
    exam_version: int
    submitted_at: str
    answers_sha256: str
    kid: str


@app.command()
def verify(
    receipt: Annotated[str, typer.Argument(metavar="[RECEIPT|FILE|-]", help="The receipt, or a reply that holds it.")] = "-",
    answers: Annotated[Path | None, typer.Option(help="The answers that it should be of: JSON, question id to answer.")] = None,
    keys: Annotated[str, typer.Option(help="The public keys, a file or http(s)://…; default: the local stack's.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    home: Path = HomeOption,
) -> None:
    """Say whether a receipt is valid, and whose, of what and when it is. Ends with 0: valid, 1: not valid, 2: cannot look."""
    try:
        found = verified(_receipt(receipt), public_keys(_jwks(keys, home)))
        if answers is not None:
            check_answers(found, _read(answers))
    except NotValid as failure:
        typer.echo(
            json.dumps({"valid": False, "wrong": failure.wrong, "message": str(failure)}) if as_json else f"Not valid: {failure}"
        )
        raise typer.Exit(1) from None
    except CannotLook as failure:
        typer.echo(str(failure), err=True)
        raise typer.Exit(CANNOT_LOOK) from None
    typer.echo(_as_json(found, answers) if as_json else _in_words(found, answers))


@app.command()
def keys(home: Path = HomeOption) -> None:
    """Print the public keys of the local stack's receipts, for whoever verifies them elsewhere."""
    try:
        typer.echo(_jwks("", home).strip())
    except CannotLook as failure:
        typer.echo(str(failure), err=True)
        raise typer.Exit(CANNOT_LOOK) from None


def verified(receipt: str, keys: Keys) -> Receipt:
    """Return what a receipt says, or raise NotValid. Of its header only `kid` is heeded, and only to choose among our keys."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    parts = receipt.split(".")
    if len(parts) != 3:
        raise NotValid(Wrong.DAMAGED, "it does not have three parts with a full stop between them.")
    header, signature = _object(parts[0]), _bytes(parts[2])
    kid = header.get("kid")
    if not isinstance(kid, str) or header != {"alg": "EdDSA", "kid": kid, "typ": TYPE}:
        raise NotValid(Wrong.DAMAGED, "its header is not a receipt's.")
    if len(signature) != SIGNATURE_BYTES:
        raise NotValid(Wrong.DAMAGED, "its signature is not whole.")
    if kid not in keys:
        raise NotValid(Wrong.UNKNOWN_KEY, f"its key {kid} is not among the public keys given.")
    try:
        Ed25519PublicKey.from_public_bytes(keys[kid]).verify(signature, f"{parts[0]}.{parts[1]}".encode())
    except InvalidSignature:
        raise NotValid(Wrong.SIGNATURE, f"what it says was not signed with the key {kid}.") from None
    return _said(_object(parts[1]), kid)


def _said(payload: Mapping[str, object], kid: str) -> Receipt:
    if {name: type(value) for name, value in payload.items()} != FIELDS:
        raise NotValid(Wrong.DAMAGED, "it is signed, but has other fields than a receipt.")
    return Receipt(
        session=str(payload["sessionId"]),
        student=str(payload["studentId"]),
        exam=str(payload["examId"]),
        exam_version=int(str(payload["examVersion"])),
        submitted_at=str(payload["submittedAt"]),
        answers_sha256=str(payload["answersSha256"]),
        kid=kid,
    )


def check_answers(receipt: Receipt, text: str) -> None:
    """Raise NotValid unless answers, JSON of question id to packed answer (docs/answers.md), are those that were handed in."""
    from ops.audit.rules import canonical, sha256

    given = _json(text)
    if not isinstance(given, dict) or not all(isinstance(answer, str) for answer in given.values()):
        raise CannotLook('The answers are not a JSON object such as {"q1": "c:B"}: docs/answers.md says how each is written.')
    try:
        found = sha256(canonical(given))
    except UnicodeEncodeError:
        raise CannotLook("The answers have half a character in them.") from None
    if found != receipt.answers_sha256:
        raise NotValid(Wrong.ANSWERS, f"the answers given have the SHA-256 {found}, those handed in {receipt.answers_sha256}.")


def public_keys(jwks: str) -> Keys:
    """Return the Ed25519 keys of a JSON Web Key Set by name."""
    found = _json(jwks)
    try:
        keys = {key["kid"]: _bytes(key["x"]) for key in found["keys"] if key.get("crv") == "Ed25519"}  # type: ignore[index]
        if all(len(key) == KEY_BYTES for key in keys.values()):
            return keys
    except (AttributeError, KeyError, TypeError, NotValid):
        pass
    raise CannotLook("The public keys are not a JSON Web Key Set of whole keys.")


def _receipt(given: str) -> str:
    """Return the receipt itself: the argument, or what a file or standard input holds; out of the reply that it is in."""
    if given == "-":
        given = sys.stdin.buffer.read(LONGEST).decode(errors="replace")
    elif not LITERAL.fullmatch(given):
        given = _read(Path(given))
    text = given.strip()
    if not text.startswith("{"):
        return text
    reply = _json(text)
    held = reply.get("receipt") if isinstance(reply, dict) else None
    if not isinstance(held, str):
        raise CannotLook("There is no receipt in this reply.")
    return held


def _jwks(where: str, home: Path) -> str:
    """Return the text of the public keys."""
    if re.match("https?://", where):
        return _fetched(where)
    return _read(Path(where) if where else Home(home).receipt_jwks)


def _fetched(url: str) -> str:
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=URL_SECONDS) as reply:  # noqa: S310 — http and https only, by the caller
            return str(reply.read(LONGEST).decode())
    except (OSError, ValueError) as failure:
        raise CannotLook(f"{url} does not give the public keys: {failure}") from None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "it is not text"
        raise CannotLook(f"{file} cannot be read: {reason}") from None


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise CannotLook("What should be JSON is not.") from None


def _bytes(part: str) -> bytes:
    """Decode base64url without padding, in its one right spelling: others would be other receipts with the same content."""
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise NotValid(Wrong.DAMAGED, "a part of it is not base64url.")
    return data


def _object(part: str) -> Mapping[str, object]:
    try:
        found = json.loads(_bytes(part))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise NotValid(Wrong.DAMAGED, "a part of it is not a JSON object.")
    return found


def _as_json(found: Receipt, answers: Path | None) -> str:
    checked = None if answers is None else True
    names = {
        "sessionId": found.session,
        "studentId": found.student,
        "examId": found.exam,
        "examVersion": found.exam_version,
        "submittedAt": found.submitted_at,
        "answersSha256": found.answers_sha256,
        "kid": found.kid,
    }
    return json.dumps({"valid": True, "answersMatch": checked, **names}, indent=1)


def _in_words(found: Receipt, answers: Path | None) -> str:
    which = "Those are the answers given." if answers else "Whether they are the ones you have: --answers FILE."
    return (
        f"Valid. Student {found.student} handed in session {found.session}\n"
        f"of exam {found.exam}, version {found.exam_version}, at {found.submitted_at} (the server's clock),\n"
        f"with answers whose SHA-256 is {found.answers_sha256}.\n"
        f"{which}\n"
        f"Signed with the key {found.kid}."
    )

"""Receipts: what was handed in, when and by whom, under the server's signature (docs/receipts.md).

A receipt is a compact JWS (RFC 7515) by Ed25519 (RFC 8037) over canonical JSON (RFC 8785). Both say the same bytes for the
same facts, so that nothing has to be stored: the submit's reply, its repeats and the result sign anew and carry one text.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from json.encoder import encode_basestring
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

TYPE = "finalbell-receipt+jwt"
"""Keeps a receipt from being taken for another kind of token."""

EPOCH = datetime(1970, 1, 1)  # in UTC, as all times here
WRITER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)


@dataclass(frozen=True, slots=True)
class Submission:
    """What a receipt is about; all of it is fixed from the submit on."""

    session: UUID
    student: str
    exam: str
    exam_version: int
    submitted_ms: int
    answers_sha256: bytes


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The half of a key that verifies: its name and its 32 bytes in base64url."""

    kid: str
    x: str


class Receipts:
    """Signs receipts with one key, and knows the older ones that receipts were signed with before."""

    def __init__(self, pem: bytes | None, jwks: str = "") -> None:
        """Take a private key in PKCS #8, or None for no receipts, and a key set with all public keys, where there is one.

        Raises ValueError when the key is not an Ed25519 key or the set is none.
        """
        key = load_pem_private_key(pem, None) if pem else None
        if key is not None and not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the key for receipts is not an Ed25519 key")
        self._key = key
        older = _read(jwks) if jwks else []
        self.keys: Sequence[PublicKey] = older
        if key is not None:
            own = _public(key)
            self.keys = [own, *(one for one in older if one != own)]
            self._header = _base64url(_canonical({"alg": "EdDSA", "kid": own.kid, "typ": TYPE})) + b"."

    def sign(self, submission: Submission) -> str | None:
        """Return the receipt of a submission, about 600 ASCII characters; None without a key."""
        if self._key is None:
            return None
        signed = self._header + _base64url(payload(submission))
        return (signed + b"." + _base64url(self._key.sign(signed))).decode()


def payload(submission: Submission) -> bytes:
    """Return what is signed: RFC 8785 of one flat object, whose strings are ASCII and whose one number is a whole one."""
    at = EPOCH + timedelta(milliseconds=submission.submitted_ms)
    return (
        f'{{"answersSha256":"{submission.answers_sha256.hex()}","examId":{encode_basestring(submission.exam)}'
        f',"examVersion":{submission.exam_version},"sessionId":"{submission.session}"'
        f',"studentId":{encode_basestring(submission.student)},"submittedAt":"{at.isoformat(timespec="milliseconds")}Z"}}'
    ).encode()


def _canonical(value: dict[str, str | int]) -> bytes:
    """Python's writer agrees with RFC 8785 for string values, whole numbers and ASCII keys."""
    return WRITER.encode(value).encode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _public(key: Ed25519PrivateKey) -> PublicKey:
    """Return the public half; its name is the thumbprint of RFC 7638, with the members that RFC 8037 says."""
    x = _base64url(key.public_key().public_bytes_raw()).decode()
    thumbprint = sha256(_canonical({"crv": "Ed25519", "kty": "OKP", "x": x})).digest()
    return PublicKey(_base64url(thumbprint).decode(), x)


def _read(jwks: str) -> list[PublicKey]:
    """Return the Ed25519 keys of a key set."""
    try:
        return [PublicKey(str(key["kid"]), str(key["x"])) for key in json.loads(jwks)["keys"] if key.get("crv") == "Ed25519"]
    except (AttributeError, KeyError, TypeError, ValueError) as wrong:
        raise ValueError("the public keys for receipts are not a JSON Web Key Set") from wrong

"""A receipt says the same bytes for the same facts, and any other byte makes it worthless."""

import base64
import json
from dataclasses import replace
from datetime import datetime
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import KeySet, OKPKey, RSAKey

from ops.audit.rules import as_ms, sha256
from ops.receipt import NotValid, Wrong, public_keys, verified
from servers.receipts import Receipts, Submission, payload
from tests.stack import ROOT

SUBMISSION = Submission(
    session=UUID("01999999-0000-7000-8000-000000000001"),
    student="ada",
    exam="sample",
    exam_version=1,
    submitted_ms=1_780_000_000_007,
    answers_sha256=bytes.fromhex("78909b5629485aa8a650e3bd9de01304e8d6959e33ef8fd625f0a54998df01e0"),
)
KEY = OKPKey.generate_key("Ed25519")
RECEIPTS = Receipts(KEY.as_pem(private=True))
KEYS = public_keys(json.dumps({"keys": [{"crv": "Ed25519", "kid": one.kid, "x": one.x} for one in RECEIPTS.keys]}))
AS_MOST_LIBRARIES = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # for the name Ed25519, which few libraries know yet
submissions = st.builds(
    Submission,
    session=st.uuids(),
    student=st.from_regex(r"[A-Za-z0-9._|@:-]{1,64}", fullmatch=True),
    exam=st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    exam_version=st.integers(1, 2**31 - 1),
    submitted_ms=st.integers(0, 4_102_444_800_000),
    answers_sha256=st.binary(min_size=32, max_size=32),
)


def sign(submission: Submission, receipts: Receipts = RECEIPTS) -> str:
    receipt = receipts.sign(submission)
    assert receipt is not None
    return receipt


@given(submissions)
def test_what_is_signed_is_canonical_and_holds_every_fact_once(submission: Submission) -> None:
    signed = payload(submission).decode()

    at = json.loads(signed)["submittedAt"]
    assert signed == (
        f'{{"answersSha256":"{submission.answers_sha256.hex()}","examId":"{submission.exam}","examVersion":{submission.exam_version},'
        f'"sessionId":"{submission.session}","studentId":"{submission.student}","submittedAt":"{at}"}}'
    )
    assert as_ms(datetime.fromisoformat(at)) == submission.submitted_ms


@given(submissions)
def test_a_receipt_is_the_same_every_time_and_says_what_it_was_given(submission: Submission) -> None:
    receipt = sign(submission)

    found = verified(receipt, KEYS)
    assert receipt == sign(submission, Receipts(KEY.as_pem(private=True)))
    assert (found.session, found.student, found.exam, found.exam_version, found.answers_sha256) == (
        str(submission.session),
        submission.student,
        submission.exam,
        submission.exam_version,
        submission.answers_sha256.hex(),
    )


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_780_000_000_007, "2026-05-28T20:26:40.007Z"),
        (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_has_three_digits_of_a_second_always(at_ms: int, text: str) -> None:
    assert json.loads(payload(replace(SUBMISSION, submitted_ms=at_ms)))["submittedAt"] == text


@AS_MOST_LIBRARIES
def test_a_library_that_knows_nothing_of_us_verifies_a_receipt() -> None:
    read = jws.deserialize_compact(sign(SUBMISSION), KeySet([KEY]), algorithms=["EdDSA"])

    assert read.payload == payload(SUBMISSION)
    assert read.headers() == {"alg": "EdDSA", "kid": KEY.thumbprint(), "typ": "finalbell-receipt+jwt"}


def test_no_character_of_a_receipt_can_be_another() -> None:
    receipt = sign(SUBMISSION)

    for place, was in enumerate(receipt):
        for other in {"A", "B", "_", ".", "=", "\n", "é", chr(ord(was) ^ 1)} - {was}:
            with pytest.raises(NotValid):
                verified(receipt[:place] + other + receipt[place + 1 :], KEYS)


@pytest.mark.parametrize("last", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
def test_a_signature_has_one_spelling(last: str) -> None:
    """Four bits of the last character mean nothing: a lenient reader takes sixteen spellings for the same signature."""
    receipt = sign(SUBMISSION)
    if last != receipt[-1]:
        with pytest.raises(NotValid):
            verified(receipt[:-1] + last, KEYS)


@AS_MOST_LIBRARIES
def test_a_header_cannot_bring_another_key_or_algorithm() -> None:
    body, stranger = payload(SUBMISSION).decode(), OKPKey.generate_key("Ed25519")
    ours = {"alg": "EdDSA", "kid": KEY.thumbprint(), "typ": "finalbell-receipt+jwt"}
    forged = [
        jws.serialize_compact({**ours, "jwk": stranger.as_dict(private=False)}, body, stranger, algorithms=["EdDSA"]),
        jws.serialize_compact({**ours, "typ": "JWT"}, body, KEY, algorithms=["EdDSA"]),
        ".".join([base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode(), sign(SUBMISSION).split(".")[1], ""]),
    ]

    for receipt in forged:
        with pytest.raises(NotValid) as refused:
            verified(receipt, KEYS)
        assert refused.value.wrong is Wrong.DAMAGED
    with pytest.raises(NotValid) as refused:
        verified(jws.serialize_compact(ours, body, stranger, algorithms=["EdDSA"]), KEYS)
    assert refused.value.wrong is Wrong.SIGNATURE


def test_a_key_that_was_replaced_still_verifies_and_signs_no_more() -> None:
    old = sign(SUBMISSION)
    listed = json.dumps({"keys": [KEY.as_dict(private=False) | {"kid": KEY.thumbprint()}, RSAKey.generate_key(2048).as_dict()]})

    rotated = Receipts(OKPKey.generate_key("Ed25519").as_pem(private=True), listed)
    new = sign(SUBMISSION, rotated)

    everyone = {one.kid: base64.urlsafe_b64decode(one.x + "=") for one in rotated.keys}
    assert [one.kid for one in rotated.keys][1:] == [KEY.thumbprint()]
    assert verified(old, everyone).kid == KEY.thumbprint()
    assert verified(new, everyone).kid == rotated.keys[0].kid != KEY.thumbprint()
    with pytest.raises(NotValid) as unknown:
        verified(new, KEYS)
    assert unknown.value.wrong is Wrong.UNKNOWN_KEY


def test_without_a_key_there_are_no_receipts_and_a_wrong_key_is_refused_at_once() -> None:
    assert Receipts(None).sign(SUBMISSION) is None
    assert Receipts(None).keys == []
    with pytest.raises(ValueError, match="Ed25519"):
        Receipts(RSAKey.generate_key(2048).as_pem(private=True))
    with pytest.raises(ValueError, match="Key Set"):
        Receipts(None, "[]")


def test_the_bytes_of_the_documentation_are_what_is_signed() -> None:
    """The key there is RFC 8032's first: everybody knows it."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    pem = Ed25519PrivateKey.from_private_bytes(seed).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    receipts, guide = Receipts(pem), (ROOT / "docs" / "receipts.md").read_text()

    receipt = sign(SUBMISSION, receipts)

    header, body, signature = receipt.split(".")
    assert SUBMISSION.answers_sha256.hex() == sha256('{"q1":"c:B","q2":"m:A,C","q3":"n:3.5","q4":"t:Ankara"}')
    for part in (seed.hex(), receipts.keys[0].kid, receipts.keys[0].x, payload(SUBMISSION).decode(), header, body, signature):
        assert part in guide, part

"""Only a token that this installation signed says who is calling."""

import base64
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from servers.auth import Tokens
from servers.errors import TokenExpired, TokenInvalid

RSA = RSAKey.generate_key(2048)
EC = ECKey.generate_key("P-256")
ED = OKPKey.generate_key("Ed25519")
CLAIMS = {"iss": "us", "aud": "finalbell", "sub": "ada", "roles": ["proctor"], "cohorts": ["north"]}

HOLDS_SECONDS = 6 * 3600
"""Some tokens are signed when the tests are collected, which may be long before theirs runs."""


def public(*keys: Any) -> str:
    return json.dumps({"keys": [key.as_dict(private=False) | {"kid": key.thumbprint()} for key in keys]})


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    file = tmp_path / "jwks.json"
    file.write_text(public(RSA, EC, ED))
    return Tokens(file, "us", "finalbell")


def sign(key: Any = RSA, algorithm: str = "RS256", header: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {**CLAIMS, "exp": int(time.time()) + HOLDS_SECONDS, **changes}
    kept = {name: value for name, value in claims.items() if value is not ...}
    return "Bearer " + jwt.encode({"alg": algorithm, "kid": key.thumbprint(), **(header or {})}, kept, key, algorithms=[algorithm])


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_good_token_says_who_and_with_which_rights(tokens: Tokens) -> None:
    caller = tokens.caller(sign())

    assert (caller.student, caller.roles, caller.cohorts, caller.staff) == ("ada", {"proctor"}, ("north",), True)


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "Ed25519")])
def test_the_three_kinds_of_signature_are_taken(tokens: Tokens, key: Any, algorithm: str) -> None:
    assert tokens.caller(sign(key, algorithm)).student == "ada"


def test_an_audience_may_be_one_of_several(tokens: Tokens) -> None:
    assert tokens.caller(sign(aud=["other", "finalbell"])).student == "ada"


def signed_with_our_public_key() -> str:
    """A token whose HMAC secret is our public key: what a verifier takes that believes the header's `alg`."""
    text = f"{part({'alg': 'HS256', 'kid': RSA.thumbprint()})}.{part(CLAIMS | {'exp': 9_999_999_999})}"
    mac = hmac.digest(RSA.as_pem(private=False), text.encode(), "sha256")
    return f"Bearer {text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


UNSIGNED = f"Bearer {part({'alg': 'none'})}.{part(CLAIMS | {'exp': 9_999_999_999})}."
STRANGER = RSAKey.generate_key(2048)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer garbage",
        "Bearer a.b.c",
        "Bearer " + "x" * 9_000,
        UNSIGNED,
        signed_with_our_public_key(),
        sign(STRANGER),
        sign(STRANGER, header={"kid": RSA.thumbprint()}),
        sign(header={"kid": "unknown"}),
        sign(STRANGER, header={"kid": "../../etc/passwd"}),
        sign(STRANGER, header={"jwk": STRANGER.as_dict(private=False)}),
        sign(STRANGER, header={"jku": "https://evil.example/jwks.json"}),
        sign()[:-4] + "AAAA",
        sign(iss="them"),
        sign(iss=...),
        sign(aud="other"),
        sign(aud=...),
        sign(exp=...),
        sign(exp="soon"),
        sign(exp=True),
        sign(exp=float("inf")),
        sign(exp=float("nan")),
        sign(nbf=float("nan")),
        sign(exp=10**400),
        sign(nbf=int(time.time()) + 86_400),
        sign(sub=...),
        sign(sub=""),
        sign(sub="a b"),
        sign(sub="x" * 65),
        sign(sub=7),
        sign(roles="admin"),
        sign(cohorts=["No Cohort"]),
    ],
    ids=range(35),
)
def test_every_other_token_is_refused_without_an_echo(tokens: Tokens, authorization: str) -> None:
    with pytest.raises(TokenInvalid) as refused:
        tokens.caller(authorization)

    assert authorization.removeprefix("Bearer")[:20] not in refused.value.message or len(authorization) < 10


def test_a_token_holds_a_minute_past_its_end_and_no_longer(tokens: Tokens) -> None:
    within, past = sign(exp=int(time.time()) - 50), sign(exp=int(time.time()) - 61)

    assert tokens.caller(within).student == "ada"
    with pytest.raises(TokenExpired):
        tokens.caller(past)


def test_a_remembered_token_expires_all_the_same(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    token = sign()
    tokens.caller(token)
    later = time.time() + HOLDS_SECONDS + 100

    monkeypatch.setattr("servers.auth.time.time", lambda: later)

    with pytest.raises(TokenExpired):
        tokens.caller(token)


def test_changed_keys_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(public(RSA))
    tokens = Tokens(file, "us", "finalbell")
    tokens.caller(sign())
    file.write_text(public(STRANGER))

    os.utime(file, (1, 1))

    assert tokens.caller(sign(STRANGER)).student == "ada"

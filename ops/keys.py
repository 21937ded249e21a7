"""Signing keys and tokens of a local stack. In production tokens come from your identity provider."""

import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey, RSAKey

from ops.home import Home, read_json, write_private

ISSUER = "https://finalbell.local"
AUDIENCE = "finalbell"


def make_keys(home: Home) -> None:
    """Make the signing key and its public half, where there are none."""
    if home.signing_key.exists() and home.jwks.exists():
        return
    key = RSAKey.generate_key(2048)
    public = key.as_dict(private=False) | {"kid": key.thumbprint(), "alg": "RS256", "use": "sig"}
    write_private(home.signing_key, key.as_pem(private=True).decode())
    write_private(home.jwks, json.dumps({"keys": [public]}, indent=1))


def make_receipt_keys(home: Home) -> None:
    """Make the key that signs receipts where there is none, and list its public half before the older ones.

    Public keys stay listed after their private half is gone: the receipts that it signed hold for good.
    """
    if not home.receipt_key.exists():
        write_private(home.receipt_key, OKPKey.generate_key("Ed25519").as_pem(private=True).decode())
    key = OKPKey.import_key(home.receipt_key.read_bytes())
    public = key.as_dict(private=False) | {"kid": key.thumbprint(), "alg": "EdDSA", "use": "sig"}
    listed = (read_json(home.receipt_jwks) or {}).get("keys", [])
    if public not in listed:
        write_private(home.receipt_jwks, json.dumps({"keys": [public, *listed]}, indent=1))


def make_media_keys(home: Home) -> None:
    """Make the secret that signs media links, where there is none. To change it put a new one before it, restart `media`, then
    `content`, and take the old one out when its last link has expired."""
    if not home.media_keys.exists():
        key = OctKey.generate_key(256)
        write_private(home.media_keys, json.dumps({"keys": [key.as_dict(private=True) | {"kid": "m1"}]}, indent=1))


def mint(path: Path, *, student: str, cohorts: Sequence[str] = (), roles: Sequence[str] = (), ttl_seconds: int = 3 * 3600) -> str:
    """Return a signed token; raises FileNotFoundError where no stack was ever started."""
    key, kid = _signing_key(path)
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": student,
        "iat": now,
        "exp": now + ttl_seconds,
        "roles": [*roles],
        "cohorts": [*cohorts],
    }
    return jwt.encode({"alg": "RS256", "kid": kid}, claims, key)


@cache
def _signing_key(path: Path) -> tuple[RSAKey, str]:
    key = RSAKey.import_key(Home(path).signing_key.read_bytes())
    return key, key.thumbprint()

"""Signing keys and tokens of a local stack. In production tokens come from your identity provider."""

import json
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import RSAKey

from ops.home import Home, write_private

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

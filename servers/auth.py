"""Who is calling: a bearer token becomes a Caller, checked against the installation's public keys."""

import json
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from prometheus_client import Counter

from servers.errors import TokenExpired, TokenInvalid
from stores import gauges

ALGORITHMS = ["RS256", "ES256", "Ed25519", "EdDSA"]
VERIFIED = Counter("finalbell_tokens_verified_total", "Tokens whose signature was checked: all others were in the cache")
LEEWAY_SECONDS = 60
FAR_SECONDS = 1e12
CACHED = 200_000
LONGEST_TOKEN = 8_192
STUDENT = re.compile(r"[A-Za-z0-9._|@:-]{1,64}")
COHORT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
KNOWN_ROLES = frozenset({"admin", "proctor", "grader"})
"""Every role that there is; others in a token mean nothing."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, by a verified token alone."""

    student: str
    roles: frozenset[str]
    cohorts: tuple[str, ...]

    @property
    def staff(self) -> bool:
        """Whether they may see other people's sessions and results."""
        return bool(self.roles & {"admin", "proctor"})


class Tokens:
    """Verifies tokens; a verified one is remembered by its digest until it expires."""

    def __init__(self, jwks: Path, issuer: str, audience: str) -> None:
        self._path = jwks
        self._issuer = issuer
        self._audience = audience
        self._modified = 0.0
        self._keys = KeySet([])
        self._verified: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        gauges.cached("tokens", self._verified)

    def caller(self, authorization: str) -> Caller:
        """Return the caller, or refuse; the token itself is never in a message or a log."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenInvalid("A token is needed: send the header 'Authorization: Bearer <token>'.")
        if len(token) > LONGEST_TOKEN:
            raise TokenInvalid("The token is too long.")
        digest = sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is not None:
            if known[0] > time.time():
                return known[1]
            del self._verified[digest]
        expires, caller = self._verify(token)
        VERIFIED.inc()
        self._verified[digest] = (expires, caller)
        if len(self._verified) > CACHED:
            self._verified.popitem(last=False)
        return caller

    def _verify(self, token: str) -> tuple[float, Caller]:
        """Check signature and claims; the key is looked up by `kid` in our own set only, whatever the header says."""
        try:
            decoded = jwt.decode(token, self._current_keys(), algorithms=ALGORITHMS)
        except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise TokenInvalid("The token is not valid: its form or its signature is wrong. Sign in again.") from None
        claims = decoded.claims
        expires, not_before, now = _seconds(claims.get("exp")), _seconds(claims.get("nbf", 0)), time.time()
        if expires is None or not_before is None:
            raise TokenInvalid("The token has no valid 'exp', or its 'nbf' is no time.")
        if expires + LEEWAY_SECONDS <= now:
            raise TokenExpired("The token has expired. Sign in again.")
        if not_before - LEEWAY_SECONDS > now:
            raise TokenInvalid("The token is not valid yet.")
        audience = claims.get("aud")
        if claims.get("iss") != self._issuer or self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise TokenInvalid("The token is for another issuer or audience.")
        return expires + LEEWAY_SECONDS, _caller(claims)

    def _current_keys(self) -> KeySet:
        """Return the keys, read again when the file has changed."""
        modified = self._path.stat().st_mtime
        if modified != self._modified:
            self._keys = KeySet.import_key_set(json.loads(self._path.read_text()))
            self._modified = modified
        return self._keys


def _seconds(claim: object) -> float | None:
    """Return a claim's time in seconds since 1970; None where it is none (NaN and infinity are numbers in Python's JSON)."""
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not abs(claim) < FAR_SECONDS:
        return None
    return float(claim)


def _caller(claims: dict[str, object]) -> Caller:
    student, roles, cohorts = claims.get("sub"), claims.get("roles", []), claims.get("cohorts", [])
    if not isinstance(student, str) or not STUDENT.fullmatch(student):
        raise TokenInvalid("The token's 'sub' is not a student id.")
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise TokenInvalid("The token's 'roles' is not a list of names.")
    if not isinstance(cohorts, list) or not all(isinstance(c, str) and COHORT.fullmatch(c) for c in cohorts):
        raise TokenInvalid("The token's 'cohorts' is not a list of cohort ids.")
    return Caller(student, frozenset(roles), tuple(cohorts))

"""Signing keys and tokens of a local stack. In production tokens come from your identity provider."""

import json
import re
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from joserfc import jwt
from joserfc.jwk import RSAKey

from ops.home import Home, write_private

ISSUER = "https://finalbell.local"
AUDIENCE = "finalbell"
STUDENT = re.compile(r"[A-Za-z0-9._|@:-]{1,64}")
COHORT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
ROLES = ("admin", "proctor", "grader")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def make_keys(home: Home) -> None:
    """Make the signing key and its public half, where there are none."""
    if home.signing_key.exists() and home.jwks.exists():
        return
    key = RSAKey.generate_key(2048)
    write_private(home.signing_key, key.as_pem(private=True).decode())
    public = key.as_dict(private=False) | {"kid": key.thumbprint(), "alg": "RS256", "use": "sig"}
    home.jwks.write_text(json.dumps({"keys": [public]}, indent=1))


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


def token(
    student: Annotated[str, typer.Option(help="The student id.")] = "",
    cohort: Annotated[list[str] | None, typer.Option(help="A cohort of the student; may be repeated.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="admin, proctor or grader; may be repeated.")] = None,
    ttl: Annotated[str, typer.Option(help="How long it holds: 90s, 15m, 3h, 2d.")] = "3h",
    count: Annotated[int, typer.Option(help="Print this many tokens, for students PREFIX1, PREFIX2, …", min=1, max=1_000_000)] = 1,
    prefix: Annotated[str, typer.Option(help="The students' common prefix, with --count.")] = "",
    home: Annotated[Path, typer.Option(help="The local stack's folder.")] = Path(".finalbell"),
) -> None:
    """Print a signed token for a student or for staff of a local stack, or one a line for many students."""
    seconds = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", ttl)
    if seconds is None:
        raise typer.BadParameter("--ttl takes a number and s, m, h or d, such as 3h")
    if bool(student) == bool(prefix):
        raise typer.BadParameter("give either --student ID, or --count N with --prefix P")
    students = [student] if student else [f"{prefix}{number}" for number in range(1, count + 1)]
    if not all(STUDENT.fullmatch(one) for one in (students[0], students[-1])):
        raise typer.BadParameter("a student id has 1 to 64 of A-Z a-z 0-9 . _ | @ : -")
    if any(not COHORT.fullmatch(one) for one in cohort or []):
        raise typer.BadParameter("a cohort has up to 63 of a-z 0-9 -")
    if any(one not in ROLES for one in role or []):
        raise typer.BadParameter(f"a role is one of {', '.join(ROLES)}")
    try:
        for one in students:
            print(mint(home, student=one, cohorts=cohort or [], roles=role or [], ttl_seconds=int(seconds[1]) * UNITS[seconds[2]]))  # noqa: T201
    except FileNotFoundError:
        typer.echo(f"{home} has no signing key: start the stack once with 'finalbell up'.", err=True)
        raise typer.Exit(1) from None

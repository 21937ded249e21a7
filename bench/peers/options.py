"""The command line that all Python peers share."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from stores.pipeline import function_name


@dataclass(frozen=True, slots=True)
class Options:
    """Where to listen, and what the checks need."""

    host: str
    port: int
    redis: str
    jwks: Path
    issuer: str
    audience: str


def options(about: str | None) -> Options:
    """Read the command line; exits where it names another version of the save function than this source holds."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--redis", required=True, metavar="URL")
    parser.add_argument("--jwks", required=True, type=Path)
    parser.add_argument("--issuer", required=True)
    parser.add_argument("--audience", required=True)
    parser.add_argument("--function", required=True, metavar="save_DIGEST")
    given = parser.parse_args()
    if given.function != function_name("save"):
        sys.exit(f"this source's function is {function_name('save')}, not {given.function}")
    host, _, port = given.listen.rpartition(":")
    return Options(host, int(port), given.redis, given.jwks, given.issuer, given.audience)

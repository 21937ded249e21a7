"""Who virtual students are: signed here for a local stack, or read from a file for others."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Student(NamedTuple):
    """A student and their token."""

    name: str
    token: str


def signed(home: Path, prefix: str, ttl_seconds: int, count: int) -> Iterator[Student]:
    """Sign tokens of a local stack, each when it is asked for."""
    from ops.keys import mint

    for number in range(1, count + 1):
        name = f"{prefix}-{number}"
        yield Student(name, mint(home, student=name, ttl_seconds=ttl_seconds))


def listed(file: Path, count: int) -> Iterator[Student]:
    """Read tokens, one a line; raises ValueError for a line that is none, or for a student who comes twice."""
    seen: set[str] = set()
    with file.open() as lines:
        for number, line in enumerate(lines, 1):
            if number > count:
                return
            try:
                name = subject(line.strip())
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"line {number} of {file.name} is no token of a student") from None
            if name in seen:
                raise ValueError(f"line {number} of {file.name} is {name} once more; each student sits once")
            seen.add(name)
            yield Student(name, line.strip())


def subject(token: str) -> str:
    """Return whose token it is. Nobody checks it here: the stack does."""
    _, payload, _ = token.split(".")
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"])

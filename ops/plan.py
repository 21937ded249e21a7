"""What a local stack may be asked to be. Light to import: whoever only asks for one should not wait for what runs it."""

from collections.abc import Mapping
from dataclasses import dataclass

UNITS = {
    "session": "session",
    "snapshots": "session",
    "bell": "session",
    "scoring": "scoring",
    "scoring-worker": "scoring",
    "leaderboard": "leaderboard",
    "content": "content",
    "payments": "payments",
    "admin": "admin",
    "media": "",
    "integrity": "integrity",
    "signal-worker": "integrity",
}
"""Each unit of `python -m servers`, and the account that it uses; one without an account uses no store."""

ENGINES = ("native", "grpcio")


class CannotStart(Exception):
    """The stack cannot come up; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start: the gateway's port, how many workers a unit has (1 where it is not named), the session service's engine."""

    port: int
    workers: Mapping[str, int]
    engine: str

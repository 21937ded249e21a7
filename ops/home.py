"""A local stack's folder: where its data, logs, keys and ports are."""

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Home:
    """One stack's state; everything in it belongs to its owner alone."""

    path: Path

    @property
    def stack_file(self) -> Path:
        """What runs where, while it runs."""
        return self.path / "stack.json"

    @property
    def lock_file(self) -> Path:
        """Locked by the supervisor for as long as it lives."""
        return self.path / "supervisor.lock"

    @property
    def signing_key(self) -> Path:
        """The private key of local tokens."""
        return self.path / "keys" / "signing.pem"

    @property
    def jwks(self) -> Path:
        """The public keys that services and gateway verify tokens with."""
        return self.path / "keys" / "jwks.json"

    def data(self, name: str) -> Path:
        """A server's data folder."""
        return self.path / "data" / name

    def config(self, name: str) -> Path:
        """A server's configuration file."""
        return self.path / "config" / name

    def log(self, name: str) -> Path:
        """A process's log."""
        return self.path / "logs" / f"{name}.log"

    def make(self) -> None:
        """Make the folders, closed to others."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("data", "config", "logs", "keys"):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)

    def stack(self) -> dict[str, Any] | None:
        """What `stack.json` says, or None."""
        return read_json(self.stack_file)

    def passwords(self, names: tuple[str, ...]) -> dict[str, str]:
        """The stack's own passwords, made the first time they are asked for."""
        file = self.path / "secrets.json"
        known = read_json(file) or {}
        if not set(names) <= known.keys():
            known = {name: secrets.token_hex(16) for name in names} | known
            write_private(file, json.dumps(known))
        return {name: known[name] for name in names}


def read_json(file: Path) -> dict[str, Any] | None:
    """Return a file's JSON object, or None where there is none."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner may read, all of it or nothing."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
    scratch.replace(file)

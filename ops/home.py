"""A local stack's folder: where its data, logs, keys and ports are, and who holds it."""

import fcntl
import json
import os
import secrets
import struct
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

LONGEST_SOCKET = 107
FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid


@dataclass(frozen=True, slots=True)
class Home:
    """One stack's state; everything in it belongs to its owner alone."""

    path: Path

    @property
    def stack_file(self) -> Path:
        """What runs where, while it runs."""
        return self.path / "stack.json"

    @property
    def ready_file(self) -> Path:
        """Holds the supervisor's pid from the moment when all is ready."""
        return self.path / "ready"

    @property
    def lock_file(self) -> Path:
        """Locked by the supervisor for as long as it lives; holds its pid."""
        return self.path / "supervisor.lock"

    @property
    def ports_file(self) -> Path:
        """The ports that were chosen, for the next time."""
        return self.path / "ports.json"

    @property
    def secrets_file(self) -> Path:
        """The passwords of all accounts."""
        return self.path / "secrets.json"

    @property
    def signing_key(self) -> Path:
        """The private key of local tokens."""
        return self.path / "keys" / "signing.pem"

    @property
    def jwks(self) -> Path:
        """The public keys that services and gateway verify tokens with."""
        return self.path / "keys" / "jwks.json"

    @property
    def receipt_key(self) -> Path:
        """The private key that signs receipts."""
        return self.path / "keys" / "receipt.pem"

    @property
    def receipt_jwks(self) -> Path:
        """The public keys that verify receipts, the newest first."""
        return self.path / "keys" / "receipt-jwks.json"

    @property
    def payments(self) -> Path:
        """Which gateways are sold through, with their keys."""
        return self.path / "payments.json"

    @property
    def media_keys(self) -> Path:
        """The secrets that sign media links, the one that signs first."""
        return self.path / "keys" / "media.json"

    @property
    def media(self) -> Path:
        """The media of lectures, a folder each: what the media origin serves."""
        return self.data("media")

    def data(self, name: str) -> Path:
        """A server's data folder."""
        return self.path / "data" / name

    def config(self, name: str) -> Path:
        """A server's configuration file."""
        return self.path / "config" / name

    def log(self, name: str) -> Path:
        """A process's log."""
        return self.path / "logs" / f"{name}.log"

    def socket(self, name: str) -> Path:
        """Where a process takes calls from the same machine. A socket's path may have 107 bytes at most: where the home lies
        too deep, the socket lies beside other temporary files, named by the home."""
        usual = self.path / "run" / f"{name}.sock"
        if len(os.fsencode(usual)) <= LONGEST_SOCKET:
            return usual
        return Path(tempfile.gettempdir()) / f"finalbell-{sha256(os.fsencode(self.path)).hexdigest()[:16]}-{name}.sock"

    def foreign(self) -> bool:
        """Whether the folder holds something else than a stack, which 'up' must not mix with and '--wipe' must not delete."""
        return self.path.exists() and any(self.path.iterdir()) and not (self.lock_file.exists() and (self.path / "data").is_dir())

    def make(self) -> None:
        """Make the folders, closed to others."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self.lock_file.touch(mode=0o600)
        for name in ("data", "config", "logs", "keys", "run"):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)

    def hold(self) -> IO[str] | None:
        """Take the folder until the handle is closed or the process ends; None when another process has it."""
        handle = self.lock_file.open("a+")
        try:
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError:
            handle.close()
            return None
        handle.truncate(0)
        print(os.getpid(), file=handle, flush=True)
        return handle

    def holder(self) -> int | None:
        """Return the pid of the supervisor that runs here, or None.

        Only asks the kernel who has the lock: a file may be stale, and taking the lock to find out would stand in the way.
        """
        try:
            with self.lock_file.open("r+") as handle:
                free = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                found = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, free)
                pid = handle.read().strip()
        except OSError:
            return None
        return None if struct.unpack(FLOCK, found)[0] == fcntl.F_UNLCK else int(pid or 0)

    def is_ready(self) -> bool:
        """Whether the supervisor that runs here has everything ready."""
        holder = self.holder()
        try:
            return holder is not None and self.ready_file.read_text() == str(holder)
        except OSError:
            return False

    def stack(self) -> dict[str, Any] | None:
        """What `stack.json` says, or None."""
        return read_json(self.stack_file)

    def passwords(self, names: tuple[str, ...]) -> dict[str, str]:
        """The stack's own passwords, made the first time they are asked for."""
        known = read_json(self.secrets_file) or {}
        if not set(names) <= known.keys():
            known = {name: secrets.token_hex(16) for name in names} | known
            write_private(self.secrets_file, json.dumps(known))
        return {name: known[name] for name in names}

    def tail(self, name: str, lines: int = 8) -> str:
        """Return the end of a process's log."""
        try:
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def owns(self, pid: int) -> bool:
        """Whether a process is one of this stack's: they are started in its folder, and PostgreSQL is told its data folder."""
        process = Path(f"/proc/{pid}")
        try:
            if os.fsencode(self.path) in (process / "cmdline").read_bytes():
                return True
            return (process / "cwd").readlink().is_relative_to(self.path.resolve())
        except OSError:
            return False


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended, and that nobody has waited for yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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


def wait(done: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so; False when it did not come."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True

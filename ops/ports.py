"""Free ports for a stack: chosen once, kept, and reserved against other stacks on the machine.

Services share a port on purpose (SO_REUSEPORT), so a clash of two stacks would be silent: a lock file per port prevents it.
"""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

FIRST, LAST = 20_000, 31_999
"""Below Linux's range for outgoing connections, which could otherwise take a port between our look and our bind."""


class NoPort(Exception):
    """No port could be had; the message says what to do."""


def reserve(names: Sequence[str], known: dict[str, int], held: ExitStack) -> dict[str, int]:
    """Return a port per name, a known one where it is still free; all stay reserved until `held` closes."""
    return {name: _one(known.get(name), held) for name in names}


def take(port: int, held: ExitStack) -> bool:
    """Reserve one port; False when another stack or another program has it."""
    lock = _lock(port)
    if lock is None:
        return False
    if not is_free(port):
        lock.close()
        return False
    held.enter_context(lock)
    return True


def _one(known: int | None, held: ExitStack) -> int:
    candidates = random.sample(range(FIRST, LAST + 1), 200)
    for port in [*([known] if known else []), *candidates]:
        if take(port, held):
            return port
    raise NoPort(f"No free port between {FIRST} and {LAST} was found: stop other stacks with 'finalbell down'.")


def _lock(port: int) -> IO[str] | None:
    folder = Path(tempfile.gettempdir()) / f"finalbell-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = (folder / str(port)).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def is_free(port: int) -> bool:
    """Whether nobody listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

"""Lets PostgreSQL run for a user that it does not like: it refuses root, and its initdb a user id without a name.

Where the kernel allows it, in a user namespace of its own: there it is another user, and still owns our files. Where it
does not (a container, by default), root's as the user `nobody`, who gets the data folder, and the one right that it needs
to reach it: the stack's folder stays closed to all others.
"""

import ctypes
import os
import pwd
import struct
import subprocess
from functools import cache
from pathlib import Path

CLONE_NEWUSER = 0x10000000
PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 47, 2
CAPABILITY_VERSION, CAP_DAC_OVERRIDE = 0x20080522, 1
NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)


def give(folder: Path, binary: Path) -> None:
    """Make a data folder belong to the user that `become` becomes; `binary` is tried in a namespace."""
    if os.geteuid() != 0:
        return
    owner = 0 if namespace_works(binary) else NOBODY
    if folder.stat().st_uid == owner:
        return
    for parent, _, files in os.walk(folder):
        for path in (Path(parent), *(Path(parent) / file for file in files)):
            os.chown(path, owner, owner, follow_symlinks=False)


@cache
def namespace_works(binary: Path) -> bool:
    """Whether we may make user namespaces here, and run a program in one."""
    try:
        ran = subprocess.run([str(binary), "--version"], preexec_fn=_enter_namespace, capture_output=True, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return ran.returncode == 0


def become(binary: Path) -> None:
    """Between fork and exec: be a user that PostgreSQL runs for; nothing where we are one."""
    if not _is_disliked(os.geteuid()):
        return
    try:
        if namespace_works(binary):
            _enter_namespace()
        else:
            _become_nobody()
    except OSError as reason:
        line = f"PostgreSQL does not run for user id {os.geteuid()}, and may not be another here ({reason}): use an ordinary user."
        os.write(2, f"{line}\n".encode())
        os._exit(1)


def _is_disliked(user: int) -> bool:
    return user == 0 or all(entry.pw_uid != user for entry in pwd.getpwall())


def _enter_namespace() -> None:
    outside, group = os.geteuid(), os.getegid()
    inside = next((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid != 0), NOBODY)
    _check(LIBC.unshare(CLONE_NEWUSER), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside} {outside} 1")
    Path("/proc/self/gid_map").write_text(f"{inside} {group} 1")


def _become_nobody() -> None:
    _prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    right = 1 << CAP_DAC_OVERRIDE
    header, sets = struct.pack("Ii", CAPABILITY_VERSION, 0), struct.pack("6I", right, right, right, 0, 0, 0)
    _check(LIBC.capset(header, sets), "capset")
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE)


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(one) for one in (*arguments, 0, 0, 0, 0)[:4]]
    _check(LIBC.prctl(option, *padded), "prctl")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")

"""`python -m tests.bite [NAME…]`: apply each seeded bug to a copy of the project, and see that a test catches it.

First the named tests have to pass on the copy as it is. Exit code 1 when a bug is not caught or a patch does not apply.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bite.patches import ROOT, Patch, patches

PASSED, FAILED = 0, 1
SECONDS = 600


def main(names: Sequence[str]) -> int:
    chosen = [patch for patch in patches() if not names or any(name in patch.name for name in names)]
    if not chosen:
        print("no patch has such a name")
        return 1
    with tempfile.TemporaryDirectory(prefix="finalbell-bite-") as folder:
        copy = Path(folder) / "finalbell"
        _copy(copy)
        if not _is_used(copy):
            print("the copy is not what runs")
            return 1
        wanted = sorted({test for patch in chosen for test in patch.caught_by})
        print(f"{len(wanted)} tests on the project as it is …", flush=True)
        code, output = _test(copy, wanted)
        if code != PASSED:
            print(f"they have to pass before a bug can be seen to break them:\n{output[-3000:]}")
            return 1
        lines = []
        for patch in chosen:
            began = time.monotonic()
            lines.append((patch, caught := _caught(copy, patch)))
            print(f"{patch.name:<34} {caught or 'NOT CAUGHT':<90} {time.monotonic() - began:4.0f} s", flush=True)
    missed = [patch.name for patch, caught in lines if not caught]
    print(f"{len(lines) - len(missed)} of {len(lines)} caught")
    return 1 if missed else 0


def _copy(to: Path) -> None:
    """Copy what git knows of, with the changes of the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    if (ROOT / ".tools").exists():
        (to / ".tools").symlink_to(ROOT / ".tools")
    subprocess.run(["git", "init", "-q"], cwd=to, check=True)


def _is_used(copy: Path) -> bool:
    """Whether the processes of a stack started from the copy would run the copy's code."""
    code = "import ops, servers, stores, finalbell.v1.session_pb2 as m; print(*(one.__file__ for one in (ops, servers, stores, m)))"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd="/", env=_environment(copy), capture_output=True, text=True, check=True
    )
    return all(place.startswith(str(copy)) for place in ran.stdout.split())


def _caught(copy: Path, patch: Patch) -> str | None:
    """Apply a patch, run its tests, take it back; returns the test that failed."""
    applied = subprocess.run(["git", "apply", str(patch.file)], cwd=copy, capture_output=True, text=True, check=False)
    if applied.returncode:
        print(f"{patch.name} does not apply any more: {applied.stderr.strip()}")
        return None
    try:
        code, output = _test(copy, patch.caught_by)
    finally:
        subprocess.run(["git", "apply", "-R", str(patch.file)], cwd=copy, check=True)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return failed[1].rpartition("/")[2] if code == FAILED and failed else None


def _test(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
    ran = subprocess.run(
        command, cwd=copy, env=_environment(copy), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS, check=False
    )
    return ran.returncode, ran.stdout.decode()


def _environment(copy: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'gen'}", "PYTHONDONTWRITEBYTECODE": "1"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

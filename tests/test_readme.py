"""Every command in the README does what it says, in the order in which a reader pastes them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops.exam import import_exam
from ops.sample import SAMPLE
from tests.stack import Stack

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GRPCURL = shutil.which("grpcurl") or shutil.which("grpcurl", path=str(ROOT / ".tools" / "bin"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.timeout(300)
def test_a_reader_can_paste_every_command(stack: Stack, tmp_path: Path) -> None:
    script = _here("\n".join(blocks("bash")), stack)
    if GRPCURL is None:
        script = re.sub(r"^grpcurl .*?[^\\]\n", "", script, flags=re.DOTALL | re.MULTILINE)
    import_exam(stack.home, SAMPLE)

    ran = _bash(script, tmp_path)

    assert ran.returncode == 0, ran.stderr
    assert '"saved":true' in ran.stdout
    assert '"answersSha256"' in ran.stdout
    assert "Valid. Student ada handed in session" in ran.stdout
    assert '"alias":"Ada","me":true' in ran.stdout
    assert "mine" in ran.stdout
    assert "event: board" in ran.stdout
    assert "power cut in hall B" in ran.stdout
    assert "#EXT-X-STREAM-INF" in ran.stdout
    assert '"right":true' in ran.stdout
    assert "was away for 90 seconds in all (shown from 60)" in ran.stdout
    assert "3 signals and 0 frames of 1 sessions are deleted" in ran.stdout
    assert '"ENTITLEMENT_REQUIRED"' in ran.stdout
    assert "0 days with a drift" in ran.stdout
    assert "finalbell-sealed-paper/1" in ran.stdout
    if GRPCURL is not None:
        assert '"question_order"' in ran.stdout


@pytest.mark.skipif(GRPCURL is None, reason="grpcurl is not here: make tools")
def test_grpcurl_is_among_what_was_pasted() -> None:
    assert "grpcurl -plaintext" in "\n".join(blocks("bash"))


def test_the_python_example_runs_as_it_stands(stack: Stack, tmp_path: Path) -> None:
    import_exam(stack.home, SAMPLE)
    example = tmp_path / "example.py"
    example.write_text(_here(blocks("python")[0], stack))

    ran = subprocess.run(
        [sys.executable, str(example)],
        env={**os.environ, "TOKEN": stack.token()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert "q1 B saved as version 2" in ran.stdout
    assert "points; rank" in ran.stdout


def _here(text: str, stack: Stack) -> str:
    """Point an example at the test's stack instead of the reader's own."""
    text = text.replace("127.0.0.1:8080", stack.gateway.removeprefix("http://")).replace(
        ".venv/bin/finalbell", f"{sys.executable} -m ops.main"
    )
    return re.sub(
        r"(-m ops\.main (?:scoring dlq \w+"
        r"|(?:bank|exam|grading|integrity|leaderboard|lecture|payments|product|receipt|session|scoring) \w+"
        r"|audit|token|status|rehearse))",
        rf"\1 --home {stack.home}",
        text,
    )


def _bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as a reader's shell would, in a scratch folder that has the repository's files."""
    script = f'set -e\ncurl() {{ command curl --fail-with-body "$@"; }}\ncd {ROOT}\n{script}'
    script = script.replace("session.json", str(folder / "session.json")).replace("bob.json", str(folder / "bob.json"))
    path = f"{Path(GRPCURL).parent}{os.pathsep}{os.environ['PATH']}" if GRPCURL else os.environ["PATH"]
    return subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=280, check=False
    )

"""Tables, as a person reads them on a terminal and a script in a pipe: nothing in them is cut."""

import os
import pty
import subprocess
import sys

from tests.stack import ROOT

SESSION = "01a21e4b-2ebf-7322-989c-81adcf06e579"
CODE = f"""
from ops.table import show
rows = [("flagged", "ada", "{SESSION}", "left the window, often"), ("", "bob", "{SESSION}", "x" * 1200)]
show(("", "student", "session", "why"), rows)
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", "TERM": "dumb"}


def on_a_terminal(columns: int, code: str = CODE) -> list[str]:
    """Run code on a terminal so wide, and return the lines that it shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env={**ENVIRONMENT, "COLUMNS": str(columns)}) as command:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 65_536):
                said += piece
        except OSError:  # what a terminal says at its end
            pass
        os.close(ours)
    assert command.returncode == 0
    return [line.rstrip() for line in said.decode().splitlines()]


def test_a_terminal_that_is_too_narrow_for_an_id_shows_a_row_as_a_block() -> None:
    shown = on_a_terminal(60)

    assert shown[:5] == ["         flagged", "student  ada", f"session  {SESSION}", "why      left the window, often", ""]
    assert shown[5:7] == ["student  bob", f"session  {SESSION}"]
    assert "".join(shown[7:]).count("x") == 1200


def test_one_that_is_wide_enough_shows_a_row_in_a_line() -> None:
    shown = on_a_terminal(80, CODE.replace('"x" * 1200', '"left it too, once more and once more"'))

    assert shown[1].split()[:3] == ["flagged", "ada", SESSION]
    assert shown[2].split()[:2] == ["bob", SESSION]


def test_a_pipe_gets_a_row_a_line_however_long_it_is() -> None:
    printed = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout

    assert [line.count("x") for line in printed.splitlines()] == [0, 0, 1200]

"""`finalbell exam stats`: the table and its sentences, CSV, JSON and the picture."""

import asyncio
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from ops.main import app
from tests.flows.test_statistics import GOOD, WEAK, WRONG_KEY, sit
from tests.stack import ROOT, Stack

PNG = b"\x89PNG\r\n\x1a\n"


async def test_an_examiner_reads_what_is_wrong_with_a_question_and_what_to_do(stack: Stack, exam_id: str, tmp_path: Path) -> None:
    await stack.import_exam(WRONG_KEY, exam_id)
    await asyncio.gather(*(sit(stack, exam_id, given) for given in [GOOD] * 7 + [WEAK] * 5))
    picture = tmp_path / "questions.png"

    def run(*options: object) -> str:
        ran = CliRunner().invoke(app, ["exam", "stats", exam_id, *map(str, options), "--home", str(stack.home)])
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    table, rows, found = run("--plot", picture), csv.DictReader(io.StringIO(run("--csv"))), json.loads(run("--json"))

    lines = table.splitlines()
    assert lines[1].split() == ["q1", "letters", "12", "0.42", "-1.00", "0%", *found["questions"][0]["flags"]]
    assert f"{exam_id} (version 1): 12 results, mean 2.17 of 4, standard deviation 0.99, alpha 0.00, standard error 0.99." in table
    assert "these figures are not final" in table
    assert lines[-1] == (
        "q1: 58% chose C, among them the best students (r = 1.00); the key is A (r = -1.00). "
        f"Look at it; if C is right: 'finalbell exam key {exam_id} --question q1 --accept C'."
    )
    by_place = {(row["question"], row["option"]): row for row in rows}
    assert len(by_place) == 4 * (1 + 4)
    assert (by_place["q1", "C"]["count"], by_place["q1", "C"]["is_key"], by_place["q1", "C"]["flags"]) == ("7", "no", "SUSPECT_KEY")
    assert (by_place["q4", ""]["blank"], by_place["q4", "B"]["is_key"], by_place["q1", "B"]["correlation"]) == (
        str(5 / 12),
        "yes",
        "",
    )
    assert picture.read_bytes().startswith(PNG)


def test_what_stands_in_a_picture_s_way_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    without = "import sys; sys.modules['matplotlib'] = None; from ops.main import app; app()"
    words = ["exam", "stats", "e1", "--plot", str(tmp_path / "a.svg")]

    ran = subprocess.run([sys.executable, "-c", without, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    unclear = CliRunner().invoke(app, [*words[:-1], "a.txt"])

    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "--plot needs matplotlib: pip install 'finalbell[plots]', or pip install matplotlib.\n"
    assert unclear.exit_code == 2

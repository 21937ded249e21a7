"""A sealed paper opens with its own key and no other, byte for byte what was sealed, in every language that we show."""

import base64
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from finalbell.v1 import content_pb2
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from servers.admin.rules import read_exam
from servers.admin.sealing import NONCE_BYTES, seal
from stores.exams import Sealed
from tests.stack import ROOT

EXAM = read_exam((ROOT / "tests" / "small_exam.json").read_bytes())
PYTHON = ROOT / "docs" / "examples" / "sealed_paper.py"
TYPESCRIPT = ROOT / "docs" / "examples" / "sealed_paper.ts"
open_sealed_paper: Callable[[bytes, str, int, bytes], Any] = runpy.run_path(str(PYTHON))["open_sealed_paper"]


def node() -> str:
    """Playwright's own Node, which reads TypeScript."""
    spec = find_spec("playwright")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "driver" / "node")


def header(sealed: Sealed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sealed.body.partition(b"\n")[0])
    return found


def test_inside_is_the_paper_that_students_read_and_no_key() -> None:
    sealed = seal(EXAM, 3)

    paper = open_sealed_paper(sealed.body, "small", 3, sealed.key)

    read = json_format.ParseDict(paper, content_pb2.Paper())
    assert (read.exam_id, read.version, [question.question_id for question in read.questions]) == (
        "small",
        3,
        ["q1", "q2", "q3", "q4"],
    )
    assert "canary" not in json.dumps(paper)


def test_nothing_of_the_questions_can_be_read_without_the_key() -> None:
    sealed = seal(EXAM, 3)

    assert set(header(sealed)) == {"format", "examId", "version", "keyId", "nonce"}
    assert sealed.key not in sealed.body
    for word in (b"prime", b"capital", b"options", b"question"):
        assert word not in sealed.body


def test_every_sealing_has_a_key_and_a_nonce_of_its_own() -> None:
    sealed = [seal(EXAM, 1) for _ in range(200)]

    assert len({one.key for one in sealed}) == len({one.key_id for one in sealed}) == len(sealed)
    assert len({header(one)["nonce"] for one in sealed}) == len(sealed)
    assert {len(base64.urlsafe_b64decode(header(one)["nonce"])) for one in sealed} == {NONCE_BYTES}


def test_another_versions_key_does_not_open_it() -> None:
    first, second = seal(EXAM, 1), seal(EXAM, 2)

    with pytest.raises(InvalidTag):
        open_sealed_paper(first.body, "small", 1, second.key)


@pytest.mark.parametrize(("exam", "version"), [("small", 4), ("other", 3)])
def test_it_is_not_taken_for_another_exams_or_another_versions(exam: str, version: int) -> None:
    sealed = seal(EXAM, 3)

    with pytest.raises(ValueError, match="not the sealed paper"):
        open_sealed_paper(sealed.body, exam, version, sealed.key)


@given(st.data())
def test_a_paper_with_a_single_bit_changed_does_not_open(data: st.DataObject) -> None:
    sealed = seal(EXAM, 3)
    at, bit = data.draw(st.integers(0, len(sealed.body) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(sealed.body)
    changed[at] ^= 1 << bit

    with pytest.raises((InvalidTag, ValueError, KeyError)):
        open_sealed_paper(bytes(changed), "small", 3, sealed.key)


@pytest.mark.parametrize("command", [[sys.executable, PYTHON], [node(), TYPESCRIPT]], ids=["python", "typescript"])
def test_the_examples_open_it_and_refuse_another_key(command: list[str | Path], tmp_path: Path) -> None:
    sealed = seal(EXAM, 3)

    def run(key: bytes) -> "subprocess.CompletedProcess[bytes]":
        asked = [*map(str, command), "small", "3", base64.b64encode(key).decode()]
        return subprocess.run(asked, input=sealed.body, capture_output=True, check=False, timeout=60)

    opened, refused = run(sealed.key), run(bytes(32))

    assert opened.returncode == 0, opened.stderr
    assert json.loads(opened.stdout) == open_sealed_paper(sealed.body, "small", 3, sealed.key)
    assert refused.returncode != 0
    assert refused.stdout == b""

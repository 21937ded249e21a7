"""A sealed paper is anybody's to fetch, and nobody's to read before they have started."""

import base64
import copy
import runpy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.faults.harm import fetch
from tests.flows.sitting import Student, good, refusal
from tests.stack import ROOT, Stack, eventually

open_sealed_paper: Callable[[bytes, str, int, bytes], Any] = runpy.run_path(str(ROOT / "docs" / "examples" / "sealed_paper.py"))[
    "open_sealed_paper"
]


def path(exam: str, version: int = 1) -> str:
    return f"/api/v1/exams/{exam}/sealed-papers/{version}"


def key_of(session: dict[str, Any]) -> bytes:
    return base64.b64decode(session["sealedPaperKey"]["key"])


async def test_it_is_fetched_by_anybody_before_the_exam_and_opens_with_the_session(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    opens = datetime.now(UTC) + timedelta(seconds=6)
    await stack.import_exam(small_exam, exam_id, opensAt=opens.isoformat(timespec="seconds").replace("+00:00", "Z"))
    async with stack.rest() as anybody, Student(stack) as student:
        early = await anybody.get(path(exam_id))
        again = await anybody.get(path(exam_id), headers={"if-none-match": early.headers["etag"]})
        too_early = await student.start(exam_id)
        no_key = await fetch(stack, "SELECT FROM sealed_paper_key($1, 1)", exam_id)

        async def started() -> Any:
            reply = await student.start(exam_id)
            return reply if reply.status_code == 201 else None

        session = good(await eventually(started), 201)
        paper = good(await student.http.get(f"/api/v1/exams/{exam_id}/paper"))
        late = await anybody.get(path(exam_id))

    assert (early.status_code, early.headers["content-type"]) == (200, "application/octet-stream")
    assert early.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert early.headers["vary"] == "origin"  # what an app has put into a cache is nothing that a page may have
    assert (again.status_code, again.content) == (304, b"")
    assert b"prime" not in early.content
    assert refusal(too_early) == (400, "EXAM_NOT_OPEN")
    assert "sealedPaperKey" not in too_early.text
    assert no_key == []
    assert late.content == early.content
    assert open_sealed_paper(early.content, exam_id, session["examVersion"], key_of(session)) == paper


async def test_who_comes_back_finds_the_key_and_who_has_handed_in_does_not(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id, pause={"maxPauses": 1, "maxTotalSeconds": 60})
    async with Student(stack) as student, Student(stack) as other:
        session = await student.sit(exam_id)
        back, twice = good(await student.read(session["sessionId"])), good(await student.start(exam_id))
        paused = good(await student.pause(session["sessionId"]))
        others = await other.sit(exam_id)
        listed = good(await student.http.get("/api/v1/sessions"))
        good(await student.submit(session["sessionId"]), 200, 202)
        over = good(await student.read(session["sessionId"]))

    known = session["sealedPaperKey"]
    assert known == back["sealedPaperKey"] == twice["sealedPaperKey"] == paused["sealedPaperKey"] == others["sealedPaperKey"]
    assert len(key_of(session)) == 32
    assert "sealedPaperKey" not in over
    assert all("sealedPaperKey" not in one for one in listed["sessions"])


async def test_a_new_version_has_a_new_key_and_the_old_one_stays_as_it_was(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    changed = copy.deepcopy(small_exam)
    changed["questions"][0]["stem"] = "Which of these is prime?"
    async with stack.rest() as anybody, Student(stack) as first, Student(stack) as second:
        one = await first.sit(exam_id)
        good(await first.submit(one["sessionId"]), 200, 202)
        before = await anybody.get(path(exam_id))
        missing = await anybody.get(path(exam_id, 2))
        await stack.import_exam(changed, exam_id)
        await stack.import_exam(changed, exam_id, title="Another title")
        after, newer = await anybody.get(path(exam_id)), await anybody.get(path(exam_id, 2))

        two = await second.sit(exam_id)

    assert refusal(missing) == (404, "SEALED_PAPER_NOT_FOUND")
    assert after.content == before.content
    assert (one["examVersion"], two["examVersion"]) == (1, 2)
    assert key_of(one) != key_of(two)
    assert one["sealedPaperKey"]["keyId"] != two["sealedPaperKey"]["keyId"]
    assert open_sealed_paper(newer.content, exam_id, 2, key_of(two))["questions"][0]["stem"] == "Which of these is prime?"
    keys = await fetch(stack, "SELECT count(*) AS n FROM sealed_paper WHERE exam_id = $1", exam_id)
    assert keys[0]["n"] == 2


async def test_an_exam_from_before_there_were_sealed_papers_has_one_when_it_is_imported_again(
    stack: Stack, small_exam: dict[str, Any], exam_id: str
) -> None:
    await stack.import_exam(small_exam, exam_id)
    await fetch(stack, "DELETE FROM sealed_paper WHERE exam_id = $1", exam_id)
    async with stack.rest() as anybody, Student(stack) as without, Student(stack) as student:
        missing = await anybody.get(path(exam_id))
        session = await without.sit(exam_id)
        good(await without.http.get(f"/api/v1/exams/{exam_id}/paper"))
        await stack.import_exam(small_exam, exam_id)

        async def has_key() -> Any:
            reply = await without.read(session["sessionId"])
            return reply.status_code == 200 and reply.json().get("sealedPaperKey")  # a busy machine's store may say "again"

        await eventually(has_key)
        sealed = await anybody.get(path(exam_id))
        opened = open_sealed_paper(sealed.content, exam_id, 1, key_of(await student.sit(exam_id)))

    assert refusal(missing) == (404, "SEALED_PAPER_NOT_FOUND")
    assert "sealedPaperKey" not in session
    assert len(opened["questions"]) == 4


async def test_no_log_holds_a_key(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> None:
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        key = (await student.sit(exam_id))["sealedPaperKey"]["key"]

    for log in sorted((stack.home / "logs").iterdir()):
        text = log.read_bytes()
        assert key.encode() not in text, log.name
        assert base64.b64decode(key).hex().encode() not in text, log.name

"""The parts of a rehearsal that need no stack: figures that add up, responses that are whole, verdicts, what an API can tell."""

import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ops.audit.records import Answered, Call, Checked, History, Violation
from ops.audit.rules import canonical, sha256
from ops.client import Gateway
from ops.rehearse.api_audit import Shown, saves_are_shown, submits_are_scored
from ops.rehearse.figures import Tally, bucket, quantile, read, since, together
from ops.rehearse.http import Response, read_response
from ops.rehearse.load import Job, read_job
from ops.rehearse.prepare import GHZ_SESSIONS, write_ghz
from ops.rehearse.report import problems, remarks
from ops.rehearse.tokens import listed

GATEWAY = Gateway("127.0.0.1", 8080, secure=False, remote=False)


def went_well(students: int) -> Tally:
    """What is counted of a rehearsal in which nothing happened."""
    done = Counter({"StartSession": students, "SaveAnswer": 10, "SubmitSession": students, "results": students})
    return Tally(done=done)


# Figures


def test_figures_of_many_processes_are_the_figures_of_one() -> None:
    one, other = Tally(in_flight=2, late_ms=3.0), Tally(in_flight=1, late_ms=9.0)
    for seconds in (0.001, 0.002, 0.5):
        one.took("SaveAnswer", seconds)
        other.took("SaveAnswer", seconds)
    other.refused["SaveAnswer UNAVAILABLE OVERLOADED"] = 4

    whole = together([read(json.loads(json.dumps(one.plain()))), other])

    assert sum(whole.times["SaveAnswer"].values()) == 6
    assert whole.refused == {"SaveAnswer UNAVAILABLE OVERLOADED": 4}
    assert (whole.in_flight, whole.late_ms) == (3, 9.0)


@pytest.mark.parametrize("seconds", [0.0001, 0.0042, 0.1, 3.0, 30.0])
def test_a_time_is_told_within_five_percent(seconds: float) -> None:
    told = quantile({bucket(seconds): 1}, 0.99)

    assert told == pytest.approx(seconds * 1000, rel=0.05)


def test_a_window_shows_only_what_came_since() -> None:
    before = Counter({bucket(0.001): 90})

    recent = since(before + Counter({bucket(1.0): 10}), before)

    assert quantile(recent, 0.5) == pytest.approx(1000, rel=0.05)
    assert quantile({}, 0.5) is None


# Responses


def test_a_response_is_read_when_all_of_it_is_there() -> None:
    whole = b'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}'

    cut = [read_response(whole[:size]) for size in range(len(whole))]

    assert cut == [None] * len(whole)
    assert read_response(whole) == Response(201, {"content-type": "application/json", "content-length": "8"}, b'{"a": 1}')


def test_a_response_in_chunks_is_put_together() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

    assert read_response(head + b'4\r\n{"a"\r\n4\r\n: 1}\r\n') is None
    response = read_response(head + b'4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n')
    assert response is not None
    assert response.body == b'{"a": 1}'


# The verdict


def test_a_rehearsal_is_good_when_everybody_has_a_score_and_nothing_was_refused() -> None:
    assert problems(3, went_well(3), [Checked("I1", "saves", 5, ())]) == []


def test_one_broken_promise_is_enough() -> None:
    broken = Checked("I1", "saves", 5, (Violation("I1", "s1", "question q1 was scored as blank."),))

    assert problems(3, went_well(3), [broken]) == ["1 promises were broken."]


@pytest.mark.parametrize(
    ("name", "what"), [("StartSession", "started"), ("SubmitSession", "handed in"), ("results", "got a score")]
)
def test_a_student_without_a_seat_or_a_score_is_a_problem(name: str, what: str) -> None:
    tally = went_well(3)
    tally.done[name] -= 1

    assert problems(3, tally, []) == [f"Only 2 of 3 students {what}."]


def test_refusals_are_named_though_their_repeats_went_well() -> None:
    tally = went_well(3)
    tally.refused["SaveAnswer UNAVAILABLE OVERLOADED"] = 7

    assert problems(3, tally, []) == ["7 calls were refused or not answered: SaveAnswer UNAVAILABLE OVERLOADED (7)."]


def test_what_was_never_offered_is_a_problem_and_a_late_load_is_a_remark() -> None:
    tally = went_well(3)
    tally.noted["dropped"], tally.late_ms = 5, 2_000.0

    assert "5 acts were not even begun" in problems(3, tally, [])[0]
    assert "2,000 ms late" in remarks(tally)[0]


# What the API of another stack can tell


def call(rpc: str, line: int, code: str = "OK", **said: Any) -> Call:
    """A call of one session, as its student recorded it."""
    answer, reply = said.pop("answer", ""), Answered(**said)
    key = f"key-{line}" if rpc == "SaveAnswer" else ""
    question = "q1" if rpc == "SaveAnswer" else ""
    return Call(
        line, rpc, "ann", "e1", "s1", key, question, answer, None, line * 10.0, line * 10.0 + 5, code, "", "", 0, "", None, reply
    )


SAVES = (call("SaveAnswer", 1, answer="c:A", version=1, saved=True), call("SaveAnswer", 2, answer="c:B", version=2, saved=True))


@pytest.mark.parametrize(
    ("calls", "shown", "violations"),
    [
        (SAVES, {"q1": "c:B"}, 0),
        (SAVES, {"q1": "c:A"}, 1),
        (SAVES, {}, 1),
        ((*SAVES, call("SaveAnswer", 3, code="", answer="c:C")), {"q1": "c:C"}, 0),
        ((*SAVES, call("SaveAnswer", 3, code="FAILED_PRECONDITION", answer="c:C")), {"q1": "c:C"}, 1),
    ],
    ids=["the newest", "an older one", "none", "one that nobody heard of", "one that was refused"],
)
def test_the_answer_that_a_session_shows_is_the_newest_acknowledged_one(
    calls: tuple[Call, ...], shown: dict[str, str], violations: int
) -> None:
    checked = saves_are_shown(History(calls), {"s1": Shown("SCORED", shown, None)})

    assert (checked.facts, len(checked.violations)) == (1, violations)


def test_a_submit_that_was_answered_has_a_result_with_the_same_hash() -> None:
    right, wrong = sha256(canonical({"q1": "c:B"})), sha256(canonical({"q1": "c:A"}))
    history = History((call("SubmitSession", 1, answers_sha256=right),))

    def numbers(shown: Shown) -> list[str]:
        return [violation.invariant for violation in submits_are_scored(history, {"s1": shown}).violations]

    assert numbers(Shown("SCORED", {"q1": "c:B"}, right)) == []
    assert numbers(Shown("SCORING", {"q1": "c:B"}, None)) == ["I10"]
    assert numbers(Shown("SCORED", {"q1": "c:A"}, wrong)) == ["I13"]
    assert numbers(Shown("SCORED", {"q1": "c:A"}, right)) == ["I12"]


# Files


def test_a_job_is_the_same_on_the_other_side_of_its_line() -> None:
    job = Job(GATEWAY, "rest", "rehearsal-00", "/tokens", "/history", 3)

    assert read_job(job.line()) == job


def test_tokens_are_read_with_whose_they_are_and_nobody_sits_twice(tmp_path: Path) -> None:
    payload = base64.urlsafe_b64encode(json.dumps({"sub": "ann"}).encode()).decode().rstrip("=")
    file = tmp_path / "tokens"
    file.write_text(f"h.{payload}.s\nh.{payload}.s\n")

    assert [(one.name, one.token) for one in listed(file, 1)] == [("ann", f"h.{payload}.s")]
    with pytest.raises(ValueError, match="ann once more"):
        list(listed(file, 2))
    file.write_text("no token\n")
    with pytest.raises(ValueError, match="line 1 of tokens is no token"):
        list(listed(file, 1))


def test_many_sessions_are_several_configurations_and_none_is_left_out(tmp_path: Path) -> None:
    sessions = tmp_path / "out.sessions.jsonl"
    count = 2 * GHZ_SESSIONS + 1
    lines = (
        json.dumps({"sessionId": f"s{n}", "student": f"p{n}", "token": f"t{n}", "questions": [{"id": "q1", "choices": ["A"]}]})
        for n in range(count)
    )
    sessions.write_text("\n".join(lines) + "\n")

    files = write_ghz(sessions, tmp_path / "out.json", GATEWAY)

    saved = [save["sessionId"] for file in files for save in json.loads(file.read_text())["data"]]
    assert [file.name for file in files] == ["out.json", "out.2.json", "out.3.json"]
    assert saved == [f"s{n}" for n in range(count)]

"""What is compared with what: answers as numbers, who is near whom, and a report in which no text is anything but text."""

import json
import random
import subprocess
import sys
import textwrap
from array import array
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from finalbell.v1 import integrity_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from ops.home import wait
from servers.integrity.case_rules import STEPS, close_in_time, leading_to
from servers.integrity.cases import question_messages
from servers.integrity.groups import grouped, network, tags
from servers.integrity.plots import Mark, Tick, histogram, timeline
from servers.integrity.report import report
from servers.integrity.sheets import Sheets, meanings
from stores.case_records import Asked, CaseState, Grouping, Sitting

ASKED = [
    Asked("q1", 1, "single_choice", 1, "?"),
    Asked("e", 2, "essay", 4, "?"),
    Asked("q2", 3, "numeric", 2, "?"),
    Asked("q3", 4, "short_text", 1, "?"),
]


def sitting(
    student: str, answers: dict[str, str], *points: int, score: int = 0, keys: int = 1, session: UUID | None = None
) -> Sitting:
    return Sitting(session or uuid4(), student, score, keys, json.dumps(answers), points, ())


def codes(sheets: Sheets) -> list[list[int]]:
    width = len(sheets.asked)
    return [list(sheets.codes[at : at + width]) for at in range(0, len(sheets.codes), width)]


def test_answers_that_mean_the_same_have_the_same_number_and_an_essay_has_none() -> None:
    sheets = Sheets(ASKED)
    sheets.feed(
        [
            sitting("a", {"q1": "c:A", "q2": "n:3.5", "q3": "t:two  words", "e": "t:long"}, 1, 4, 2, 1),
            sitting("b", {"q1": "c:B", "q2": "n:3.50", "q3": "t: two words "}, 0, 0, 2, 1),
            sitting("c", {"q2": "n:0.35", "q3": "t: "}, 0, 0, 0, 0),
        ],
        {1: 1},
    )

    assert codes(sheets) == [[1, 1, 1], [2, 1, 1], [0, 2, 0]]
    assert sheets.right() == [[1], [1], [1]]
    assert (sheets.essays, sheets.students) == (1, ["a", "b", "c"])


def test_where_an_answers_option_stands_is_said_of_single_choices_alone() -> None:
    one = Asked("q1", 1, "single_choice", 1, "?", ("C", "A", "B"))
    sheets = Sheets([one, Asked("q2", 2, "multiple_choice", 1, "?", ("A", "B"))])

    sheets.feed([sitting(n, {"q1": f"c:{n}", "q2": "m:A"}, 1, 1) for n in "AC"], {1: 1})

    assert sheets.places() == [[(2, 0), (1, 1)], []]


def test_of_several_attempts_the_best_counts_and_of_equals_the_earliest() -> None:
    sessions = [UUID(int=n) for n in range(4)]
    tries = [("c:A", 3), ("c:B", 5), ("c:C", 5), ("c:D", 4)]
    sheets = Sheets(ASKED[:1])
    rows = [sitting("a", {"q1": one}, 0, score=score, session=sessions[at]) for at, (one, score) in enumerate(tries)]

    for page in ([rows[0]], rows[1:], [sitting("b", {"q1": "c:B"}, 1)]):
        sheets.feed(page, {1: 1})

    assert sheets.sessions[0] == sessions[1]
    assert (codes(sheets), sheets.attempts) == ([[2], [2]], 3)


def test_the_newest_keys_say_what_is_right_and_a_voided_question_has_no_right_answer() -> None:
    regraded, voided, marks = Sheets(ASKED[:1]), Sheets(ASKED[:1]), {1: 2, 2: 1}
    regraded.feed(
        [sitting("a", {"q1": "c:A"}, 2), sitting("b", {"q1": "c:A"}, 0, keys=2), sitting("c", {"q1": "c:B"}, 1, keys=2)], marks
    )
    voided.feed([sitting("a", {"q1": "c:A"}, 2), sitting("b", {}, 2)], marks)

    assert regraded.right() == [[2]]
    assert voided.right() == [[]]


def test_what_is_typed_and_right_is_one_answer_and_what_differs_in_case_alone_is_another() -> None:
    sheets, typed = (
        Sheets(ASKED),
        [("n:9.8", "t:paris"), ("n:9.81", "t:Paris"), ("n:9", "t:rome"), ("n:9.0", "t:ROME"), ("n:8", "t:Bonn")],
    )
    rows = [sitting(f"s{n}", {"q2": number, "q3": text}, 0, 0, 2 * (n < 2), int(n < 2)) for n, (number, text) in enumerate(typed)]

    sheets.feed(rows, {1: 1})

    assert codes(sheets) == [[0, 1, 1], [0, 2, 2], [0, 3, 3], [0, 3, 4], [0, 4, 5]]
    assert sheets.same() == [(1, [0, 1, 1, 3, 4]), (2, [0, 1, 1, 3, 3, 5])]


def test_typed_answers_after_very_many_others_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servers.integrity.sheets.MOST_CODES", 2)
    sheets = Sheets(ASKED)

    sheets.feed([sitting(f"s{n}", {"q2": f"n:{n}"}, 0, 0, 0, 0) for n in range(4)], {1: 1})

    assert [row[1] for row in codes(sheets)] == [1, 2, 3, 3]
    assert sheets.same()[0] == (1, [0, 1, 2, -1])


@given(st.lists(st.frozensets(st.sampled_from("abcdef"), max_size=4), max_size=12))
def test_two_share_a_number_of_the_same_kind_just_where_they_share_a_tag(found: Sequence[frozenset[str]]) -> None:
    groups = grouped(found)

    shared = {(a, b): len(found[a] & found[b]) for a, b in combinations(range(len(found)), 2)}
    for a, b in shared:
        assert any(one[a] == one[b] >= 0 for one in groups.numbers) == bool(shared[a, b])
    assert groups.pairs == sum(shared.values())
    assert groups.alone == sum(
        all(not shared[min(a, b), max(a, b)] for b in range(len(found)) if a != b) for a in range(len(found))
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.1.2.3", "10.1.2.250", True),
        ("10.1.2.3", "10.1.3.3", False),
        ("2001:db8:1:2::1", "2001:db8:1:ffff::9", True),
        ("2001:db8:1::1", "2001:db8:2::1", False),
        ("::ffff:10.1.2.3", "10.1.2.9", True),
    ],
)
def test_addresses_are_near_by_their_network(one: str, other: str, *, same: bool) -> None:
    assert (network(one) == network(other)) is same


def test_what_is_no_address_is_near_nothing() -> None:
    assert [network(one) for one in ("", "unknown", "10.1.2", "10.1.2.3:443")] == [None] * 4


def test_a_room_is_a_cohort_that_says_so() -> None:
    cohorts, sessions = [("red", "room-7")], [UUID(int=1)]
    places = {sessions[0]: ["10.0.0.1", "x"]}

    assert tags([Grouping.COHORT], cohorts, sessions, places) == [{"cohort red", "room 7"}]
    assert tags([Grouping.ROOM], cohorts, sessions, places) == [{"room 7"}]
    assert tags([Grouping.ADDRESS_RANGE], cohorts, sessions, places) == [{"addresses 10.0.0.0/24"}]


def test_nothing_is_decided_before_somebody_has_looked() -> None:
    assert leading_to(CaseState.OPEN) == []
    assert leading_to(CaseState.DISMISSED) == leading_to(CaseState.CONFIRMED) == [CaseState.REVIEWED, CaseState.APPEALED]
    assert set(STEPS) == set(CaseState)


def test_what_answers_mean_is_the_same_however_they_are_written_and_a_blank_means_nothing() -> None:
    one = {"a": "n:3.50", "b": "t:Two  words", "c": "t: ", "d": "m:", "e": "m:A,B", "f": "-:"}

    assert meanings(json.dumps(one)) == meanings(json.dumps({"a": "n:3.5", "b": "t:two words ", "e": "m:A,B"}))


def test_answers_are_close_in_time_within_thirty_seconds_and_only_where_both_times_are_known() -> None:
    one = {"same": "c:A", "late": "c:A", "other": "c:A", "untimed": "c:A", "alone": "c:A"}
    other = {"same": "c:A", "late": "c:A", "other": "c:B", "untimed": "c:A"}
    at = {"same": 0, "late": 0, "other": 0, "alone": 0}

    assert close_in_time(one, other, at, {"same": 30_000, "late": 30_001, "other": -5, "untimed": 0}) == (2, 1, 1, 1)


def test_what_only_an_earlier_version_of_the_paper_asked_comes_after_its_last_question() -> None:
    earlier = [ASKED[0], Asked("gone", 2, "single_choice", 1, "?"), Asked("gone too", 3, "numeric", 1, "?")]

    found = question_messages([ASKED, earlier])

    assert [(one.question_id, one.position) for one in found] == [("q1", 1), ("q2", 3), ("q3", 4), ("gone", 5), ("gone too", 6)]


# The report

HOSTILE = "</svg><script>alert(1)</script>&\"'{{ 7 * 7 }}<img src=x onerror=alert(1)>"


def hostile_case(text: str) -> pb.IntegrityCase:
    """A case in which every text is this one."""
    case = pb.IntegrityCase(case_id="c", exam_id="e", state=pb.IntegrityCase.OPEN, revision=1, opened_by=text)
    evidence = case.evidence
    evidence.exam_title = text
    for n in range(2):
        student = evidence.students.add(session_id=str(n), student_id=text, alias=text, cohorts=[text])
        student.answers.add(question_id=text, answer=text).answered_at.FromSeconds(1_000_000 + n)
        student.indicators.add(name=text, reason=text)
        student.counts.add(kind=text, count=1)
        student.seen.signals.add(kind=text, details=text).at.FromSeconds(1_000_000)
        student.started_at.FromSeconds(999_000)
    evidence.questions.add(question_id=text, position=1, type=text, stem=text)
    evidence.analysis.indices.add(index=text, edges=[-1, 0, 1], counts=[1, 2])
    evidence.analysis.groupings.append(pb.Analysis.COHORT)
    evidence.pairs.add(session_ids=["0", "1"], index=text, value=3, p=1e-9, q=1e-7, flagged=True, groups=[text])
    case.steps.add(to_state=pb.IntegrityCase.OPEN, actor=text, note=text)
    return case


def test_a_report_shows_every_text_and_runs_none() -> None:
    html = report(hostile_case(HOSTILE))

    assert "<script" not in html
    assert "<img" not in html
    assert html.count("</svg>") == html.count("<svg ") == 2
    assert "{{ 7 * 7 }}" in html
    assert "default-src &#39;none&#39;" not in html
    assert "default-src 'none'" in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


@given(st.text(min_size=1, max_size=40))
def test_a_report_can_be_made_of_any_text(text: str) -> None:
    html = report(hostile_case(text))

    assert html.startswith("<!doctype html>")
    assert html.count("<svg ") == 2


def test_a_report_says_when_a_signal_was_and_when_it_was_reported() -> None:
    case = hostile_case("x")
    later = case.evidence.students[0].seen.signals.add(kind="COPY", details="{}")
    later.at.FromSeconds(1_000_000)
    later.received_at.FromSeconds(1_000_060)

    html = report(case)

    assert '<td class="n">13:46:40</td><td class="n">13:47:40</td><td>copy</td>' in html
    assert html.count('<td class="n">13:46:40</td><td class="n">13:46:40</td><td>x</td>') == 2  # kept before both times were


def test_a_report_without_a_run_says_so_instead_of_a_distribution() -> None:
    case = hostile_case("x")
    case.evidence.ClearField("analysis")
    del case.evidence.pairs[:]

    html = report(case)

    assert html.count("<svg ") == 1
    assert "had not been compared when the case was opened" in html


def test_answers_after_many_essays_are_inside_the_picture() -> None:
    case = hostile_case("x")
    case.evidence.questions[0].position = 40

    plot = report(case).split('aria-label="Answers by time"')[1].split("</svg>")[0]

    assert all(float(part.split('"')[0]) > 0 for name in ("cy", "y", "y1") for part in plot.split(f' {name}="')[1:])


def test_a_report_calls_the_same_what_the_indices_do() -> None:
    def shown(kind: str, one: str, other: str, *, right: bool) -> str:
        case = hostile_case("x")
        case.evidence.questions[0].type = kind
        for student, answer in zip(case.evidence.students, (one, other), strict=True):
            student.answers[0].answer, student.answers[0].right = answer, right
        return report(case)

    assert "<td>same</td>" in shown("numeric", "9.8", "9.81", right=True)
    assert "<td>same, not right</td>" in shown("numeric", "9.8", "9.80", right=False)
    assert "<td>same, not right</td>" in shown("short_text", "rome", "Rome", right=False)
    for different in (shown("numeric", "9.8", "9.81", right=False), shown("single_choice", "A", "B", right=True)):
        assert "<td>same" not in different


def test_sessions_at_other_times_are_drawn_from_their_own_starts() -> None:
    case = hostile_case("x")
    assert "time of day" in report(case)

    case.evidence.students[1].started_at.FromSeconds(5_000_000)
    case.evidence.students[1].answers[0].answered_at.FromSeconds(5_000_100)

    assert "own start" in report(case)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1e6), st.integers(1, 500)), max_size=20), st.integers(0, 500))
def test_every_answer_and_signal_is_inside_the_picture(marks: Sequence[tuple[int, float, int]], places: int) -> None:
    drawn = [Mark(who, at, min(place, max(1, places)), f"q{n}", True) for n, (who, at, place) in enumerate(marks)]
    looks = [("A", "#000", False), ("B", "#000", True)]

    svg = str(timeline(looks, drawn, [Tick(0, -40.0, 3.0), Tick(1, 5.0, 1e9)], {}, places, 1_000))

    xs = [float(part.split('"')[0]) for name in ("cx", "x", "x1", "x2") for part in svg.split(f' {name}="')[1:]]
    assert all(0 <= x <= 960 for x in xs)


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=60),
    st.lists(st.tuples(st.text(), st.floats(-1e3, 1e3), st.booleans()), max_size=9),
)
def test_a_distribution_is_drawn_whatever_is_in_it(counts: Sequence[int], marked: Any) -> None:
    svg = histogram("ω", [float(n) - 6 for n in range(len(counts) + 1)], counts, marked)

    assert svg.count(' stroke-width="2"') == len(marked)


def head(students: int, items: list[list[int]], **more: Any) -> bytes:
    """The line that a comparison reads first: all pairs of an exam of which only right codes are known, but for `more`."""
    usual = {"same": [], "places": [[]] * len(items), "shown": None, "groupings": 0, "everybody": True, "fdr": 0.05, "strongest": 3}
    return json.dumps({"students": students, "items": items} | usual | more).encode() + b"\n"


def test_a_comparison_says_the_same_as_the_arrays_it_was_given() -> None:
    from servers.integrity.comparing import compared

    chance = random.Random(7)
    matrix = [[chance.randint(1, 4) for _ in range(20)] for _ in range(12)]
    matrix[11] = [*matrix[10]]
    groups = [array("i", [-1] * 12), array("i", [0] * 6 + [3] * 6)]
    data = [
        head(12, [[1]] * 20, groupings=2, everybody=False, strongest=3),
        b"".join(array("h", row).tobytes() for row in matrix),
        *(one.tobytes() for one in groups),
    ]

    found = compared(b"".join(data))

    assert found["tested"] == 30
    assert found["pairs"][0]["students"] == ("10", "11")
    assert {one["index"] for one in found["summaries"]} == {"omega", "gbt", "shared_wrong"}


def test_typed_answers_are_compared_as_what_they_mean() -> None:
    from servers.integrity.comparing import compared

    matrix = array("h", [1, 2, 3, 4, 0] * 4)

    found = compared(head(20, [[1, 2]], same=[[0, [0, 1, 1, 3, 3]]], strongest=1_000) + matrix.tobytes())

    assert sum(one["matches"] for one in found["pairs"] if one["index"] == "gbt") == 2 * 8 * 7 // 2


def test_a_comparison_that_nobody_waits_for_any_more_ends() -> None:
    data = head(10_000, [[1]] * 60, strongest=1) + array("h", random.Random(1).choices(range(1, 5), k=600_000)).tobytes()
    asking = """
        import os, subprocess, sys
        command = [sys.executable, "-m", "servers.integrity.comparing", "4000000000", "600"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        child.stdin.write(sys.stdin.buffer.read())
        child.stdin.close()
        print(child.pid, flush=True)
        os._exit(0)
    """

    asked = subprocess.run([sys.executable, "-c", textwrap.dedent(asking)], input=data, stdout=subprocess.PIPE, check=True)
    line = Path(f"/proc/{int(asked.stdout)}/cmdline")

    assert wait(lambda: not line.exists() or not line.read_bytes(), 30)

"""What an exam file may say, and what it is told when it may not (docs/exam-files.md)."""

import copy
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.admin.rules import InvalidExamFile, keys_digest, paper_digest, read_exam
from stores.exam_records import (
    BoardPolicy,
    ChoiceKey,
    ChoicesKey,
    Criterion,
    Enrolment,
    EssayKey,
    ExamFile,
    MarkingPolicy,
    MultipleMarking,
    NumericKey,
    Option,
    PausePolicy,
    ReleasePolicy,
    ReviewRelease,
    ScoreRelease,
    TextKey,
    TieBreak,
    Violation,
    answer_json,
)

ROOT = Path(__file__).parents[2]
BANKS = ROOT.parent / "shared/data/banks"
GONE = object()  # a value that removes its field

VALID: dict[str, Any] = {
    "exam": {"id": "mock-1", "title": "Mock exam", "durationSeconds": 3600},
    "questions": [
        {
            "id": "one",
            "type": "single_choice",
            "stem": "1 + 1?",
            "options": [{"id": "A", "text": "2"}, {"id": "B", "text": "3"}],
            "answer": {"choice": "A"},
            "points": 2,
            "explanation": "Count.",
        },
        {
            "id": "many",
            "type": "multiple_choice",
            "stem": "Which are even?",
            "options": [{"id": "A", "text": "2"}, {"id": "B", "text": "3"}, {"id": "C", "text": "4"}],
            "answer": {"choices": ["C", "A"]},
            "points": 2,
        },
        {"id": "num", "type": "numeric", "stem": "Pi?", "answer": {"number": "3.14", "tolerance": "0.01"}, "points": 1},
        {"id": "word", "type": "short_text", "stem": "Capital?", "answer": {"accept": ["Ankara"]}, "points": 1},
        {
            "id": "essay",
            "type": "essay",
            "stem": "Discuss.",
            "answer": {"rubric": [{"criterion": "Content", "maxPoints": 4}, {"criterion": "Language", "maxPoints": 2}]},
            "points": 6,
        },
    ],
}


def changed(*changes: tuple[str, object]) -> dict[str, Any]:
    """Return the valid file with each place ("questions.0.answer.choice") changed."""
    document = copy.deepcopy(VALID)
    for place, value in changes:
        *parents, last = place.split(".")
        target: Any = document
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target.setdefault(parent, {})
        key = int(last) if isinstance(target, list) else last
        if value is GONE:
            del target[key]
        else:
            target[key] = value
    return document


def read(document: object, **options: Any) -> ExamFile:
    return read_exam(json.dumps(document).encode(), **options)


def violations(data: bytes | dict[str, Any], **options: Any) -> list[Violation]:
    with pytest.raises(InvalidExamFile) as refused:
        read_exam(data if isinstance(data, bytes) else json.dumps(data).encode(), **options)
    return list(refused.value.violations)


def test_what_a_file_leaves_out_has_the_default_of_the_manual() -> None:
    exam = read(VALID).exam

    assert (exam.opens_at, exam.closes_at, exam.product_id) == (None, None, None)
    assert (exam.shuffle_questions, exam.shuffle_options, exam.max_attempts) == (True, True, 1)
    assert exam.pause == PausePolicy(0, 0)
    assert exam.marking == MarkingPolicy(1, 0, 0, MultipleMarking.ALL_OR_NOTHING)
    assert exam.tie_break is TieBreak.NONE
    assert exam.release == ReleasePolicy(ScoreRelease.IMMEDIATELY, ReviewRelease.AFTER_CLOSE)
    assert (exam.inline_score, exam.enrolment, exam.graders) == (True, Enrolment.OPEN, 1)
    assert exam.board == BoardPolicy(public=False, freeze_seconds_before_close=0, approximate_from=None)


def test_the_manual_shows_every_default_as_it_is() -> None:
    shown = json.loads((ROOT / "docs/exam-files.md").read_text().partition("```json")[2].partition("```")[0])
    bare = {name: shown["exam"][name] for name in ("id", "title", "durationSeconds")}

    assert read(shown).exam == read({**shown, "exam": bare}).exam


def test_every_example_of_the_manual_is_a_question_that_can_be_read() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs/exam-files.md").read_text(), re.DOTALL)[1:]
    questions = [one for block in blocks if "bank" not in (one := json.loads(block))]

    assert [str(q.type) for q in read({**VALID, "questions": questions}).questions] == [q["type"] for q in questions]
    assert len({question["type"] for question in questions}) == 5


def test_each_type_of_question_keeps_its_key() -> None:
    one, many, num, word, essay = read(VALID).questions

    assert one.answer == ChoiceKey("A")
    assert one.options == (Option("A", "2"), Option("B", "3"))
    assert many.answer == ChoicesKey(("A", "C"))
    assert num.answer == NumericKey("3.14", "0.01", relative=False)
    assert word.answer == TextKey(("Ankara",), case_sensitive=False)
    assert essay.answer == EssayKey((Criterion("Content", "", 4), Criterion("Language", "", 2)))
    assert (one.points, one.explanation, one.passage, one.topic) == (2, "Count.", "", "")


def test_the_most_that_can_be_reached_is_all_points_times_the_marking() -> None:
    assert read(changed(("exam.marking.correct", 3))).max_score == 12 * 3


def test_times_are_read_with_their_offset() -> None:
    exam = read(changed(("exam.opensAt", "2026-05-16T09:00:00+05:00"), ("exam.closesAt", "2026-05-16T07:00:00.250Z"))).exam

    assert exam.opens_at == datetime(2026, 5, 16, 4, 0, tzinfo=UTC)
    assert exam.closes_at == datetime(2026, 5, 16, 7, 0, 0, 250_000, tzinfo=UTC)


def test_a_question_without_points_is_worth_one_and_an_essay_its_rubric() -> None:
    points = [q.points for q in read(changed(*((f"questions.{i}.points", GONE) for i in range(5)))).questions]

    assert points == [1, 1, 1, 1, 6]


def test_provenance_is_kept_as_it_is() -> None:
    source = {"from": "a book", "pages": [1, 2], "weight": 0.5, "licence": None}

    assert json.loads(read(changed(("source", source))).source or "") == source
    assert read(VALID).source is None


def test_a_stored_key_reads_like_the_file() -> None:
    keys = [json.loads(answer_json(question.answer)) for question in read(VALID).questions]

    assert keys[0] == {"choice": "A"}
    assert keys[1] == {"choices": ["A", "C"]}
    assert keys[2] == {"number": "3.14", "tolerance": "0.01", "relative": False}
    assert keys[3] == {"accept": ["Ankara"], "caseSensitive": False}
    assert keys[4]["rubric"][1] == {"criterion": "Language", "description": "", "maxPoints": 2}


ONE, MANY, NUM, WORD, ESSAY = (f"questions.{i}" for i in range(5))
OPTIONS = [{"id": f"o{i}", "text": "x"} for i in range(65)]
REFUSED: dict[str, tuple[list[tuple[str, object]], str, str]] = {
    "an exam has an id": ([("exam.id", GONE)], "exam.id", "is missing"),
    "an exam's id is lower case": ([("exam.id", "Mock")], "exam.id", "a-z, 0-9 and -"),
    "an exam's id has at most 63 characters": ([("exam.id", "a" * 64)], "exam.id", "1 to 63"),
    "an exam's id ends where it ends": ([("exam.id", "mock\n")], "exam.id", "1 to 63"),
    "an exam has a title": ([("exam.title", "  ")], "exam.title", "empty"),
    "a title has at most 200 characters": ([("exam.title", "x" * 201)], "exam.title", "at most 200"),
    "a title is text": ([("exam.title", 5)], "exam.title", "quotes"),
    "an exam has a duration": ([("exam.durationSeconds", GONE)], "exam.durationSeconds", "is missing"),
    "an exam takes at least a second": ([("exam.durationSeconds", 0)], "exam.durationSeconds", "1 to 604800"),
    "an exam takes at most a week": ([("exam.durationSeconds", 604_801)], "exam.durationSeconds", "1 to 604800"),
    "true is no number": ([("exam.durationSeconds", True)], "exam.durationSeconds", "whole number"),
    "a fraction is no whole number": ([("exam.durationSeconds", 1.5)], "exam.durationSeconds", "whole number"),
    "a fraction that is whole is still one": ([("exam.durationSeconds", 60.0)], "exam.durationSeconds", "whole number"),
    "a number in quotes is text": ([("exam.durationSeconds", "60")], "exam.durationSeconds", "without quotes"),
    "null is no number": ([("exam.durationSeconds", None)], "exam.durationSeconds", "whole number"),
    "a time needs its offset": ([("exam.opensAt", "2026-05-16T09:00:00")], "exam.opensAt", "offset"),
    "a day is no time": ([("exam.closesAt", "2026-05-16")], "exam.closesAt", "date and time"),
    "a time is a real one": ([("exam.opensAt", "2026-02-30T09:00:00Z")], "exam.opensAt", "date and time"),
    "a time is within reason": ([("exam.closesAt", "9999-12-31T23:59:59Z")], "exam.closesAt", "2000 to 2199"),
    "a time that is no longer one in UTC": ([("exam.opensAt", "0001-01-01T00:00:00+05:00")], "exam.opensAt", "null or"),
    "a time is no number": ([("exam.opensAt", 1_700_000_000)], "exam.opensAt", "null or"),
    "a window ends after it starts": (
        [("exam.opensAt", "2026-05-16T09:00:00Z"), ("exam.closesAt", "2026-05-16T14:00:00+05:00")],
        "exam.closesAt",
        "later than opensAt",
    ),
    "a switch is true or false": ([("exam.shuffleQuestions", 1)], "exam.shuffleQuestions", "true or false"),
    "somebody may sit it": ([("exam.maxAttempts", 0)], "exam.maxAttempts", "1 to 1000"),
    "a product's id is plain": ([("exam.productId", "a b")], "exam.productId", "or null"),
    "pauses need a budget": ([("exam.pause.maxPauses", 2)], "exam.pause", "both"),
    "a budget needs pauses": ([("exam.pause.maxTotalSeconds", 60)], "exam.pause", "both"),
    "pauses are an object": ([("exam.pause", None)], "exam.pause", "must be an object"),
    "a right answer earns something": ([("exam.marking.correct", 0)], "exam.marking.correct", "1 to 1000"),
    "a wrong answer earns no more than a right one": ([("exam.marking.wrong", 2)], "exam.marking.wrong", "-1000 to 1"),
    "a blank earns no more than a right answer": ([("exam.marking.blank", 2)], "exam.marking.blank", "-1000 to 1"),
    "a penalty has a bound": ([("exam.marking.wrong", -1001)], "exam.marking.wrong", "-1000 to 1"),
    "marking knows two ways": ([("exam.marking.multiple", "SOME")], "exam.marking.multiple", "ALL_OR_NOTHING, PARTIAL"),
    "ties break in three ways": ([("exam.tieBreak", "none")], "exam.tieBreak", "NONE, DURATION, SUBMITTED_AT"),
    "scores are released in three ways": ([("exam.release.score", "NONE")], "exam.release.score", "MANUAL"),
    "reviews are released in three ways": ([("exam.release.review", "MANUAL")], "exam.release.review", "NONE"),
    "enrolment is one of two": ([("exam.enrolment", ["OPEN"])], "exam.enrolment", "OPEN, ROSTER"),
    "a board ranks approximately from a size that is worth it": (
        [("exam.board.approximateFrom", 9_999)],
        "exam.board.approximateFrom",
        "10000",
    ),
    "a board freezes no later than the close": (
        [("exam.board.freezeSecondsBeforeClose", -1)],
        "exam.board.freezeSecondsBeforeClose",
        "0 to 604800",
    ),
    "one or two people grade": ([("exam.graders", 3)], "exam.graders", "1 to 2"),
    "an unknown field of the exam": ([("exam.tiebreak", "NONE")], "exam.tiebreak", "is unknown here"),
    "an unknown field further in": ([("exam.release.scores", "MANUAL")], "exam.release.scores", "score"),
    "an unknown field of the file": ([("sources", {})], "sources", "exam, questions, source"),
    "an unknown field whose name is odd": ([("exam.\x1b[31m\ud800", 1)], r"exam.'\x1b[31m\ud800'", "is unknown here"),
    "an exam is an object": ([("exam", [])], "exam", "must be an object"),
    "questions are a list": ([("questions", {})], "questions", "must be a list"),
    "an exam has questions": ([("questions", [])], "questions", "1 to 500"),
    "an exam has at most 500 questions": ([("questions", [VALID["questions"][0]] * 501)], "questions", "it has 501"),
    "a question is an object": ([(ONE, "What?")], "questions[0]", "must be an object"),
    "a question has an id": ([(f"{ONE}.id", GONE)], "questions[0].id", "is missing"),
    "a question's id is plain": ([(f"{ONE}.id", "q 1")], "questions[0].id", "1 to 32"),
    "a question's id is text": ([(f"{ONE}.id", 1)], "questions[0].id", "quotes"),
    "a question's id is unique": ([(f"{NUM}.id", "one")], "questions[2].id", "questions[0] has it too"),
    "a question has a type": ([(f"{ONE}.type", GONE)], "questions[one].type", "is missing"),
    "a question's type is known": ([(f"{ONE}.type", "true_false")], "questions[one].type", "single_choice"),
    "a stem is not empty": ([(f"{ONE}.stem", "\u3000")], "questions[one].stem", "empty"),
    "a stem is not endless": ([(f"{ONE}.stem", "x" * 20_001)], "questions[one].stem", "20,000"),
    "a text has no NUL": ([(f"{ONE}.stem", "a\0b")], "questions[one].stem", "NUL"),
    "a text has no half characters": ([(f"{ONE}.passage", "a\ud83d")], "questions[one].passage", "surrogate"),
    "a passage is text": ([(f"{ONE}.passage", None)], "questions[one].passage", "quotes"),
    "an explanation is not endless": ([(f"{ONE}.explanation", "x" * 20_001)], "questions[one].explanation", "20,000"),
    "points are not negative": ([(f"{ONE}.points", -1)], "questions[one].points", "0 to 1000"),
    "points are whole": ([(f"{ONE}.points", 0.5)], "questions[one].points", "whole number"),
    "an unknown field of a question": ([(f"{ONE}.anser", {})], "questions[one].anser", "is unknown here"),
    "a choice needs options": ([(f"{ONE}.options", GONE)], "questions[one].options", "is missing"),
    "a choice needs two options": ([(f"{ONE}.options", OPTIONS[:1])], "questions[one].options", "2 to 64"),
    "a choice has at most 64 options": ([(f"{ONE}.options", OPTIONS)], "questions[one].options", "it has 65"),
    "options are a list": ([(f"{ONE}.options", "AB")], "questions[one].options", "must be a list"),
    "an option is an object": ([(f"{ONE}.options.1", "3")], "questions[one].options[1]", "must be an object"),
    "an option's id is plain": ([(f"{ONE}.options.1.id", "a,b")], "questions[one].options[1].id", "1 to 32"),
    "an option's id is unique": ([(f"{ONE}.options.1.id", "A")], "questions[one].options[1].id", "twice"),
    "an option says something": ([(f"{ONE}.options.1.text", "")], "questions[one].options[B].text", "empty"),
    "an unknown field of an option": ([(f"{ONE}.options.1.txt", "")], "questions[one].options[B].txt", "id, text"),
    "a number has no options": ([(f"{NUM}.options", OPTIONS[:2])], "questions[num].options", "must be left out"),
    "a question has an answer": ([(f"{ONE}.answer", GONE)], "questions[one].answer", "is missing"),
    "an answer is an object": ([(f"{ONE}.answer", "A")], "questions[one].answer", "must be an object"),
    "an answer fits its type": ([(f"{ONE}.answer", {"choices": ["A"]})], "questions[one].answer.choice", "is missing"),
    "a mistyped answer is noticed": ([(f"{ONE}.answer.chioce", "A")], "questions[one].answer.chioce", "are choice"),
    "a key is one of the options": ([(f"{ONE}.answer.choice", "C")], "questions[one].answer.choice", "one of the"),
    "a key has the options' case": ([(f"{ONE}.answer.choice", "a")], "questions[one].answer.choice", "one of the"),
    "a key is text": ([(f"{ONE}.answer.choice", ["A"])], "questions[one].answer.choice", "one of the"),
    "some option is right": ([(f"{MANY}.answer.choices", [])], "questions[many].answer.choices", "1 to 64"),
    "every right one is an option": ([(f"{MANY}.answer.choices", ["A", "D"])], "questions[many].answer.choices", "ids"),
    "right ones are ids": ([(f"{MANY}.answer.choices", [0])], "questions[many].answer.choices", "ids"),
    "a right one stands once": ([(f"{MANY}.answer.choices", ["A", "A"])], "questions[many].answer.choices", "once"),
    "a number is in quotes": ([(f"{NUM}.answer.number", 3.14)], "questions[num].answer.number", "quotes"),
    "a number has no separators": ([(f"{NUM}.answer.number", "1,000")], "questions[num].answer.number", "decimal"),
    "a number is not NaN": ([(f"{NUM}.answer.number", "NaN")], "questions[num].answer.number", "decimal"),
    "a number has western digits": ([(f"{NUM}.answer.number", "٣")], "questions[num].answer.number", "decimal"),
    "a number is not endless": ([(f"{NUM}.answer.number", "1" * 41)], "questions[num].answer.number", "40"),
    "an exponent is not endless": ([(f"{NUM}.answer.number", "1e100")], "questions[num].answer.number", "decimal"),
    "a tolerance is not negative": ([(f"{NUM}.answer.tolerance", "-0.1")], "questions[num].answer.tolerance", "not"),
    "a tolerance is a number": ([(f"{NUM}.answer.tolerance", "")], "questions[num].answer.tolerance", "decimal"),
    "relative is true or false": ([(f"{NUM}.answer.relative", "yes")], "questions[num].answer.relative", "true or"),
    "some text is accepted": ([(f"{WORD}.answer.accept", [])], "questions[word].answer.accept", "1 to 100"),
    "an accepted text is not blank": ([(f"{WORD}.answer.accept.0", " ")], "questions[word].answer.accept[0]", "empty"),
    "an accepted text is text": ([(f"{WORD}.answer.accept.0", 5)], "questions[word].answer.accept[0]", "quotes"),
    "a rubric has a criterion": ([(f"{ESSAY}.answer.rubric", [])], "questions[essay].answer.rubric", "1 to 50"),
    "a criterion has a name": (
        [(f"{ESSAY}.answer.rubric.0.criterion", GONE)],
        "questions[essay].answer.rubric[0].criterion",
        "is missing",
    ),
    "a criterion earns something": (
        [(f"{ESSAY}.answer.rubric.0.maxPoints", 0)],
        "questions[essay].answer.rubric[0].maxPoints",
        "1 to 1000",
    ),
    "an unknown field of a criterion": (
        [(f"{ESSAY}.answer.rubric.0.points", 4)],
        "questions[essay].answer.rubric[0].points",
        "is unknown here",
    ),
    "an essay's points are its rubric's": ([(f"{ESSAY}.points", 5)], "questions[essay].points", "must be 6"),
    "an essay without points is still bounded": (
        [(f"{ESSAY}.answer.rubric.0.maxPoints", 1000), (f"{ESSAY}.points", GONE)],
        "questions[essay].points",
        "0 to 1000",
    ),
    "a total fits the board": (
        [("exam.marking.correct", 1000), ("exam.tieBreak", "SUBMITTED_AT"), (f"{ONE}.points", 1000)],
        "exam.marking",
        "±131,000",
    ),
    "a penalty fits the board": (
        [("exam.marking.wrong", -1000), ("exam.tieBreak", "SUBMITTED_AT"), (f"{ONE}.points", 1000)],
        "exam.marking",
        "from -1,010,000",
    ),
    "provenance has no NUL": ([("source", [{"a": "\0"}])], "source", "NUL"),
    "provenance has no NUL in a name": ([("source", {"\0": 1})], "source", "NUL"),
    "provenance is not endless": ([("source", "x" * 65_536)], "source", "65,536"),
    "provenance is not too deep": ([("source", json.loads("[" * 33 + "]" * 33))], "source", "32 levels"),
}


@pytest.mark.parametrize(("changes", "field", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_is_refused_when_it_breaks_the_rule_that(changes: list[tuple[str, object]], field: str, says: str) -> None:
    found = violations(changed(*changes))

    assert [v.field for v in found if v.field == field], found
    assert any(says in v.message for v in found if v.field == field), found


WHOLE: dict[str, tuple[bytes, str]] = {
    "is not empty": (b"", "is not JSON"),
    "is JSON": (b"id: mock", "is not JSON"),
    "is an object": (b"[]", "one JSON object"),
    "is not null": (b"null", "one JSON object"),
    "has no byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "is UTF-8": (b'{"exam": "\xff"}', "not UTF-8 (byte 10)"),
    "is not UTF-16": ("{}".encode("utf-16"), "not UTF-8"),
    "has no NaN": (b'{"exam": NaN}', "NaN is not JSON"),
    "has no Infinity": (b'{"exam": -Infinity}', "-Infinity is not JSON"),
    "has no number that is infinite in disguise": (b'{"source": 1e400}', "too large a number"),
    "has no number of a thousand digits": (b'{"source": ' + b"1" * 5000 + b"}", "too many digits"),
    "is not deep in lists": (b"[" * 100_000, "nested too deeply"),
    "is not deep in objects": (b'{"exam":' * 100_000, "nested too deeply"),
    "is at most 32 MiB": (b" " * (32 * 1024 * 1024 + 1), "32 MiB"),
    "holds one document": (b"{}{}", "is not JSON"),
}


@pytest.mark.parametrize(("data", "says"), WHOLE.values(), ids=WHOLE.keys())
def test_a_file(data: bytes, says: str) -> None:
    started = time.perf_counter()
    (found,) = violations(data)

    assert found.field == "file"
    assert says in found.message
    assert time.perf_counter() - started < 5  # what would read such a file with care takes minutes


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"title": "Mock exam"', '"title": "a", "title": "b"', "exam.title"),
        ('{"choice": "A"}', '{"choice": "A", "choice": "B"}', "questions[one].answer.choice"),
        ('"exam": {', '"exam": {}, "exam": {', "exam"),
    ],
)
def test_a_field_that_stands_twice_is_an_error(old: str, new: str, field: str) -> None:
    text = json.dumps(VALID)
    assert old in text

    assert Violation(field, "stands twice; keep one of them") in violations(text.replace(old, new, 1).encode())


def test_every_error_is_named_at_once() -> None:
    found = violations(
        changed(
            ("exam.title", ""),
            ("exam.graders", 9),
            (f"{ONE}.answer.choice", "Z"),
            (f"{MANY}.type", "essai"),
            (f"{NUM}.stem", ""),
            (f"{NUM}.answer.tolerance", "-1"),
        )
    )

    assert {v.field for v in found} == {
        "exam.title",
        "exam.graders",
        "questions[one].answer.choice",
        "questions[many].type",
        "questions[num].stem",
        "questions[num].answer.tolerance",
    }


def test_two_questions_with_bad_ids_are_not_called_twins() -> None:
    found = violations(changed((f"{ONE}.id", "?"), (f"{NUM}.id", "!")))

    assert [v.field for v in found] == ["questions[0].id", "questions[2].id"]


def test_a_message_never_repeats_what_the_file_says() -> None:
    hidden = "x-y-x"
    found = violations(changed((f"{ONE}.answer.choice", hidden), ("exam.id", hidden.upper()), (f"{NUM}.type", hidden)))

    assert not [v for v in found if hidden in v.message.lower()]


def test_a_setting_replaces_a_field_of_the_exam() -> None:
    settings = {"release.score": '"MANUAL"', "maxAttempts": "3", "closesAt": "2027-01-01T00:00:00Z", "title": "Retake"}

    exam = read(VALID, settings=settings).exam

    assert exam.release == ReleasePolicy(ScoreRelease.MANUAL, ReviewRelease.AFTER_CLOSE)
    assert exam.max_attempts == 3
    assert exam.closes_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert exam.title == "Retake"


def test_a_setting_is_checked_like_the_file() -> None:
    found = violations(VALID, settings={"relase.score": "MANUAL", "graders": "two", "title.x": "1", "a..b\ud800": "1"})

    assert {v.field for v in found} == {"exam.relase", "exam.graders", "exam.title.x", "exam.a"}


def test_a_setting_can_take_back_what_the_file_says() -> None:
    exam = read(changed(("exam.productId", "gold")), settings={"productId": "null"}).exam

    assert exam.product_id is None


def test_a_setting_may_be_as_odd_as_a_file() -> None:
    assert violations(VALID, settings={"pause": "[" * 100_000})[0].field == "file"
    assert violations(VALID, settings={"title": '"\\ud800"'})[0].field == "exam.title"


def test_an_id_on_the_command_line_replaces_the_files_own() -> None:
    assert read(changed(("exam.id", GONE)), exam_id="other", settings={"id": "third"}).exam.id == "other"
    assert violations(VALID, exam_id="Not An Id")[0].field == "exam.id"


PAPER: list[tuple[str, object]] = [
    ("exam.shuffleOptions", False),
    (f"{ONE}.stem", "One and one?"),
    (f"{ONE}.options.0.text", "two"),
    (f"{ONE}.points", 3),
    (f"{ONE}.passage", "Read this."),
    (f"{ONE}.topic", "sums"),
    (f"{ONE}.id", "uno"),
]
KEYS: list[tuple[str, object]] = [
    (f"{ONE}.answer.choice", "B"),
    (f"{ONE}.explanation", "Count again."),
    (f"{NUM}.answer.tolerance", "0.02"),
    (f"{WORD}.answer.caseSensitive", True),
    ("exam.marking.wrong", -1),
]
NEITHER: list[tuple[str, object]] = [
    ("exam.title", "Another title"),
    ("exam.durationSeconds", 60),
    ("exam.closesAt", "2027-01-01T00:00:00Z"),
    ("source", {"by": "me"}),
    (f"{NUM}.answer.relative", False),
    (f"{MANY}.answer.choices", ["A", "C"]),
]


@pytest.mark.parametrize("change", PAPER, ids=[place for place, _ in PAPER])
def test_a_change_that_students_see_is_another_paper(change: tuple[str, object]) -> None:
    assert paper_digest(read(changed(change))) != paper_digest(read(VALID))


@pytest.mark.parametrize("change", KEYS, ids=[place for place, _ in KEYS])
def test_a_change_of_what_is_right_is_another_key_to_the_same_paper(change: tuple[str, object]) -> None:
    assert keys_digest(read(changed(change))) != keys_digest(read(VALID))
    assert paper_digest(read(changed(change))) == paper_digest(read(VALID))


@pytest.mark.parametrize("change", NEITHER, ids=[place for place, _ in NEITHER])
def test_a_change_of_policy_or_spelling_changes_neither(change: tuple[str, object]) -> None:
    assert keys_digest(read(changed(change))) == keys_digest(read(VALID))
    assert paper_digest(read(changed(change))) == paper_digest(read(VALID))


def test_another_order_of_questions_is_another_paper() -> None:
    assert paper_digest(read({**VALID, "questions": VALID["questions"][::-1]})) != paper_digest(read(VALID))


REAL = [ROOT / "ops/sample_exam.json"]
REAL += [BANKS / f"{name}.json" for name in ("essays", "gaokao-physics", "gsm8k-numeric", "sat-math")]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_a_real_bank_is_read_without_an_error(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not there")

    found = read_exam(path.read_bytes())

    assert len(found.questions) == len(json.loads(path.read_bytes())["questions"])


ids = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
words = texts.filter(str.strip)
decimals = st.from_regex(r"[0-9]{1,20}(\.[0-9]{1,10})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
moments = st.datetimes(datetime(2000, 1, 2), datetime(2100, 1, 1)).map(lambda at: at.replace(microsecond=0))
criteria: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries({"criterion": words, "maxPoints": st.integers(1, 9)})


@st.composite
def valid_questions(draw: st.DrawFn, question_id: str) -> dict[str, object]:
    kind = draw(st.sampled_from(["single_choice", "multiple_choice", "numeric", "short_text", "essay"]))
    question: dict[str, object] = {
        "id": question_id,
        "type": kind,
        "stem": draw(words),
        "points": draw(st.integers(0, 60)),
    }
    for name in draw(st.sets(st.sampled_from(["passage", "topic", "explanation"]))):
        question[name] = draw(texts)
    options = draw(st.lists(ids, min_size=2, max_size=6, unique=True))
    if "choice" in kind:
        question["options"] = [{"id": option, "text": draw(words)} for option in options]
    rubric = draw(st.lists(criteria, min_size=1, max_size=3))
    if kind == "essay":
        question["points"] = sum(criterion["maxPoints"] for criterion in rubric)
    answers: dict[str, Callable[[], dict[str, object]]] = {
        "single_choice": lambda: {"choice": draw(st.sampled_from(options))},
        "multiple_choice": lambda: {"choices": sorted(draw(st.sets(st.sampled_from(options), min_size=1)))},
        "numeric": lambda: {"number": draw(st.sampled_from(["", "-"])) + draw(decimals), "tolerance": draw(decimals)},
        "short_text": lambda: {"accept": draw(st.lists(words, min_size=1, max_size=3))},
        "essay": lambda: {"rubric": rubric},
    }
    question["answer"] = answers[kind]()
    return question


@st.composite
def valid_files(draw: st.DrawFn) -> dict[str, Any]:
    opens = draw(moments)
    correct = draw(st.integers(1, 50))
    settings_ = {
        "opensAt": opens.isoformat() + draw(st.sampled_from(["Z", "+05:00", "-09:30"])),
        "maxAttempts": draw(st.integers(1, 1000)),
        "marking": {"correct": correct, "wrong": draw(st.integers(-50, correct)), "multiple": "PARTIAL"},
        "tieBreak": draw(st.sampled_from(["NONE", "DURATION", "SUBMITTED_AT"])),
        "release": {"review": draw(st.sampled_from(["NONE", "IMMEDIATELY"]))},
        "board": {"public": draw(st.booleans())},
        "closesAt": (opens + timedelta(days=2)).isoformat() + "Z",
    }
    chosen = draw(st.sets(st.sampled_from(sorted(settings_))))
    exam = {
        "id": draw(st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)),
        "title": draw(words),
        "durationSeconds": draw(st.integers(1, 604_800)),
        **{name: value for name, value in settings_.items() if name in chosen},
    }
    names = draw(st.lists(ids, min_size=1, max_size=5, unique=True))
    return {"exam": exam, "questions": [draw(valid_questions(name)) for name in names]}


@settings(max_examples=150)
@given(valid_files())
def test_whatever_is_valid_reads_back_as_it_was_written(document: dict[str, Any]) -> None:
    found = read(document)

    assert [q.id for q in found.questions] == [q["id"] for q in document["questions"]]
    assert [q.stem for q in found.questions] == [q["stem"] for q in document["questions"]]
    assert [q.points for q in found.questions] == [q["points"] for q in document["questions"]]
    for question, written in zip(found.questions, document["questions"], strict=True):
        kept = json.loads(answer_json(question.answer))
        assert {name: kept[name] for name in written["answer"] if name != "rubric"} == {
            name: value for name, value in written["answer"].items() if name != "rubric"
        }
    assert (found.exam.id, found.exam.title) == (document["exam"]["id"], document["exam"]["title"])
    assert keys_digest(found) == keys_digest(read(document))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
PLACES = ["exam", "questions", "source", "exam.id", "exam.marking", "exam.opensAt", "exam.release.score", ONE, MANY]
PLACES += [f"{ONE}.{name}" for name in ("id", "type", "stem", "options", "options.0", "options.0.id", "answer", "points")]
PLACES += [f"{MANY}.answer.choices", f"{NUM}.answer.number", f"{WORD}.answer.accept", f"{ESSAY}.answer.rubric"]


def read_or_refuse(data: bytes, **options: Any) -> None:
    try:
        read_exam(data, **options)
    except InvalidExamFile as refused:
        assert refused.violations  # noqa: PT017
        for field, message in refused.violations:  # both can be sent as protobuf text
            assert field
            assert message
            (field + message).encode()


@settings(max_examples=300)
@given(st.sampled_from(PLACES), anything)
def test_whatever_stands_where_it_should_not_is_refused_in_words(place: str, value: object) -> None:
    read_or_refuse(json.dumps(changed((place, value))).encode())


@settings(max_examples=200)
@given(anything, st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3), st.none() | st.text(max_size=5))
def test_any_json_with_any_settings_is_refused_in_words(value: object, odd: dict[str, str], exam_id: str | None) -> None:
    read_or_refuse(json.dumps(value).encode(), settings=odd, exam_id=exam_id)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    read_or_refuse(data)

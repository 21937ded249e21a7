"""Reads and checks an exam file (docs/exam-files.md): every error at once, each with its place and what to do."""

import codecs
import hashlib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from servers.admin.json_fields import Fields, JsonObject, parse, plain, problems_inside
from servers.admin.question_rules import read_question
from stores.exam_records import (
    BoardPolicy,
    Enrolment,
    ExamFile,
    ExamSettings,
    MarkingPolicy,
    MultipleMarking,
    PausePolicy,
    ReleasePolicy,
    ReviewRelease,
    ScoreRelease,
    TieBreak,
    Violation,
    answer_json,
    canonical_json,
    options_json,
    rubric_json,
)

LARGEST_FILE = 32 * 1024 * 1024
LARGEST_SOURCE = 65_536  # characters of JSON
WEEK = 7 * 24 * 3600
EXAM_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
PRODUCT = re.compile(r"[A-Za-z0-9._-]{1,64}")
# A board orders by one integer of 53 bits: score, then tie-break (stores/boards.py). What is left for the score:
LARGEST_TOTAL = {TieBreak.NONE: 33_000_000, TieBreak.DURATION: 33_000_000, TieBreak.SUBMITTED_AT: 131_000}
NOTHING: Mapping[str, str] = MappingProxyType({})


class InvalidExamFile(ValueError):
    """The file has errors; `violations` are all of them, in the file's order as far as it has one."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{field}: {message}" for field, message in self.violations[:3]))


def read_exam(data: bytes, *, exam_id: str | None = None, settings: Mapping[str, str] = NOTHING) -> ExamFile:
    """Return the exam in a file; raises InvalidExamFile, and nothing else, whatever the bytes are.

    `settings` replace fields of the file's `exam` object by dotted name before anything is checked: a JSON value, or a
    bare word, which is taken as text. `exam_id` replaces its id.
    """
    errors: list[Violation] = []
    try:
        document = parsed(data, 'must be one JSON object, {"exam": …, "questions": …}')
        _apply(settings, document, errors)
    except RecursionError:
        raise InvalidExamFile([Violation("file", "is nested too deeply; an exam needs five levels")]) from None
    root = Fields(document, "", errors)
    if exam_id is not None:
        _exam_object(document)["id"] = exam_id
    exam = _exam(root.child("exam"))
    seen: dict[str, int] = {}
    questions = [read_question(each, i, seen, errors) for i, each in enumerate(root.items("questions", 1, 500))]
    source = provenance(root)
    root.done()
    found = ExamFile(exam, tuple(question for question in questions if question is not None), source)
    _check_totals(found, errors)
    if errors:
        raise InvalidExamFile(errors)
    return found


def paper_digest(file: ExamFile) -> str:
    """Return the SHA-256 of what one version of the paper fixes: what students read, points, and how it is shuffled.

    Sessions are pinned to a paper's version, so anything that would change a running session has to be in here.
    """
    return digest(
        {
            "shuffle": [file.exam.shuffle_questions, file.exam.shuffle_options],
            "questions": [
                [q.id, q.type, q.stem, q.passage, q.topic, q.points, options_json(q), rubric_json(q)] for q in file.questions
            ],
        }
    )


def keys_digest(file: ExamFile) -> str:
    """Return the SHA-256 of what one version of the keys fixes: right answers, explanations, and the marking."""
    marking = file.exam.marking
    return digest(
        {
            "marking": [marking.correct, marking.wrong, marking.blank, marking.multiple],
            "questions": [[q.id, answer_json(q.answer), q.explanation] for q in file.questions],
        }
    )


def digest(value: object) -> str:
    """Return the SHA-256 of a value in canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def parsed(data: bytes, wanted: str) -> JsonObject:
    """Return a file's document; what makes it unreadable as a whole is one violation of the file, `wanted` where it is none."""
    if len(data) > LARGEST_FILE:
        problem = "is larger than 32 MiB; split it, and link media instead of embedding them"
    elif data.startswith(codecs.BOM_UTF8):
        problem = "starts with a byte order mark; save it as UTF-8 without BOM"
    else:
        try:
            document = parse(data.decode())
            if isinstance(document, JsonObject):
                return document
            problem = wanted
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 (byte {error.start:,}); save it as UTF-8"
        except ValueError as error:
            problem = f"is not JSON: {error}"
    raise InvalidExamFile([Violation("file", problem)])


def _exam_object(document: JsonObject) -> JsonObject:
    """Return the document's `exam`, made if it isn't there; where it is something else, one that is thrown away."""
    exam = document.setdefault("exam", JsonObject())
    return exam if isinstance(exam, JsonObject) else JsonObject()


def _apply(settings: Mapping[str, str], document: JsonObject, errors: list[Violation]) -> None:
    """Put the settings into the document, before it is checked."""
    for name, text in settings.items():
        *parents, last = name.split(".")
        target: object = _exam_object(document)
        for parent in parents:
            target = target.setdefault(parent, JsonObject()) if isinstance(target, JsonObject) else None
        if not isinstance(target, JsonObject):
            errors.append(
                Violation(
                    f"exam.{'.'.join(map(plain, name.split('.')[:3]))}",
                    "cannot be set: there is no such object in `exam`",
                )
            )
            continue
        try:
            target[last] = parse(text)
        except ValueError:
            target[last] = text


def _exam(fields: Fields) -> ExamSettings:
    opens_at, closes_at = fields.moment("opensAt"), fields.moment("closesAt")
    if opens_at and closes_at and closes_at <= opens_at:
        fields.wrong("closesAt", "must be later than opensAt")
    product = fields.value("productId") is not None
    exam = ExamSettings(
        id=fields.token("id", EXAM_ID, "1 to 63 of a-z, 0-9 and -, not starting with -"),
        title=fields.text("title", 200, required=True),
        duration_seconds=fields.integer("durationSeconds", None, 1, WEEK),
        opens_at=opens_at,
        closes_at=closes_at,
        shuffle_questions=fields.flag("shuffleQuestions", default=True),
        shuffle_options=fields.flag("shuffleOptions", default=True),
        max_attempts=fields.integer("maxAttempts", 1, 1, 1000),
        product_id=fields.token("productId", PRODUCT, "1 to 64 of A-Z, a-z, 0-9, . _ and - (or null)") if product else None,
        pause=_pause(fields.child("pause")),
        marking=_marking(fields.child("marking")),
        tie_break=fields.word("tieBreak", TieBreak.NONE),
        release=_release(fields.child("release")),
        inline_score=fields.flag("inlineScore", default=True),
        enrolment=fields.word("enrolment", Enrolment.OPEN),
        board=_board(fields.child("board")),
        graders=fields.integer("graders", 1, 1, 2),
        grader_tolerance=fields.integer("graderTolerance", 0, 0, 1000),
        blind_grading=fields.flag("blindGrading", default=True),
    )
    fields.done()
    return exam


def _pause(fields: Fields) -> PausePolicy:
    pause = PausePolicy(fields.integer("maxPauses", 0, 0, 100), fields.integer("maxTotalSeconds", 0, 0, WEEK))
    if bool(pause.max_pauses) != bool(pause.max_total_seconds):
        fields.wrong("", "needs both maxPauses and maxTotalSeconds above 0, or neither")
    fields.done()
    return pause


def _marking(fields: Fields) -> MarkingPolicy:
    correct = fields.integer("correct", 1, 1, 1000)
    marking = MarkingPolicy(
        correct=correct,
        wrong=fields.integer("wrong", 0, -1000, correct),
        blank=fields.integer("blank", 0, -1000, correct),
        multiple=fields.word("multiple", MultipleMarking.ALL_OR_NOTHING),
    )
    fields.done()
    return marking


def _release(fields: Fields) -> ReleasePolicy:
    score = fields.word("score", ScoreRelease.IMMEDIATELY)
    release = ReleasePolicy(score, fields.word("review", ReviewRelease.AFTER_CLOSE))
    fields.done()
    return release


def _board(fields: Fields) -> BoardPolicy:
    board = BoardPolicy(
        fields.flag("public", default=False),
        fields.integer("freezeSecondsBeforeClose", 0, 0, WEEK),
        fields.whole("approximateFrom", 10_000, 100_000_000),
    )
    fields.done()
    return board


def provenance(root: Fields) -> str | None:
    """Return the provenance, which may be anything, as JSON text."""
    value = root.value("source")
    problems = list(problems_inside(value))
    for problem in problems:
        root.wrong("source", problem)
    if value is None or problems:
        return None
    source = canonical_json(value)
    if len(source) > LARGEST_SOURCE:
        root.wrong("source", f"must have at most {LARGEST_SOURCE:,} characters; it has {len(source):,}")
    return source


def _check_totals(file: ExamFile, errors: list[Violation]) -> None:
    marking, tie_break = file.exam.marking, file.exam.tie_break
    points = sum(question.points for question in file.questions)
    least, most, bound = (
        points * min(marking.wrong, marking.blank, 0),
        points * marking.correct,
        LARGEST_TOTAL[tie_break],
    )
    if max(-least, most) > bound:
        text = f"scores would go from {least:,} to {most:,}; with tieBreak {tie_break} a score must stay within ±{bound:,}"
        errors.append(Violation("exam.marking", f"{text}: lower the points or the marking"))

"""Reads and checks the questions of an exam file."""

import re

from servers.admin.json_fields import Fields, JsonObject
from stores.exam_records import (
    AnswerKey,
    ChoiceKey,
    ChoicesKey,
    Criterion,
    EssayKey,
    NumericKey,
    Option,
    Question,
    QuestionType,
    TextKey,
    Violation,
)

ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
NUMBER = re.compile(r"(?=.{1,40}$)-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
TOLERANCE = re.compile(r"(?=.{1,40}$)[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
CHOICE = (QuestionType.SINGLE_CHOICE, QuestionType.MULTIPLE_CHOICE)


def read_question(value: object, index: int, seen: dict[str, int], errors: list[Violation]) -> Question | None:
    """Return a question, None where its type or its answer cannot be read; `seen` has the ids before it."""
    given = value.get("id") if isinstance(value, JsonObject) else None
    named = isinstance(given, str) and ID.fullmatch(given) and given not in seen
    fields = Fields(value, f"questions[{given if named else index}]", errors)
    question_id = fields.token("id", ID, "1 to 32 of A-Z, a-z, 0-9, _ and -")
    if question_id and question_id in seen:
        fields.wrong("id", f"stands twice; questions[{seen[question_id]}] has it too")
    seen.setdefault(question_id, index)
    kind = fields.one_of("type", QuestionType)
    stem = fields.text("stem", 20_000, required=True)
    passage, topic = fields.text("passage", 50_000), fields.text("topic", 100)
    explanation = fields.text("explanation", 20_000)
    options = _options(fields, kind)
    answer = _answer(fields, kind, {option.id for option in options})
    points = fields.integer("points", _usual_points(answer), 0, 1000)
    if isinstance(answer, EssayKey) and points != _usual_points(answer):
        fields.wrong("points", f"must be {_usual_points(answer)}, the sum of the rubric's maxPoints (or left out)")
    fields.done()
    if kind is None or answer is None:
        return None
    return Question(question_id, kind, stem, passage, topic, options, answer, points, explanation)


def _usual_points(answer: AnswerKey | None) -> int:
    return sum(criterion.max_points for criterion in answer.rubric) if isinstance(answer, EssayKey) else 1


def _options(fields: Fields, kind: QuestionType | None) -> tuple[Option, ...]:
    if kind not in CHOICE:
        if fields.value("options") and kind is not None:
            fields.wrong("options", f"must be left out: a {kind} question has none")
        return ()
    found: dict[str, Option] = {}
    for i, value in enumerate(fields.items("options", 2, 64)):
        given = value.get("id") if isinstance(value, JsonObject) else None
        named = isinstance(given, str) and ID.fullmatch(given) and given not in found
        option = fields.entry(value, f"options[{given if named else i}]")
        option_id = option.token("id", ID, "1 to 32 of A-Z, a-z, 0-9, _ and -")
        if option_id and option_id in found:
            option.wrong("id", "stands twice in this question")
        found.setdefault(option_id, Option(option_id, option.text("text", 5_000, required=True)))
        option.done()
    return tuple(found.values())


def _answer(fields: Fields, kind: QuestionType | None, options: set[str]) -> AnswerKey | None:
    if fields.missing("answer") or kind is None:
        return None
    answer = fields.child("answer")
    found: AnswerKey
    match kind:
        case QuestionType.SINGLE_CHOICE:
            found = _choice(answer, options)
        case QuestionType.MULTIPLE_CHOICE:
            found = _choices(answer, options)
        case QuestionType.NUMERIC:
            found = _numeric(answer)
        case QuestionType.SHORT_TEXT:
            found = _text(answer)
        case QuestionType.ESSAY:
            found = _essay(answer)
    answer.done()
    return found


def _choice(answer: Fields, options: set[str]) -> ChoiceKey:
    if not answer.missing("choice") and not _is_option(answer.value("choice"), options):
        answer.wrong("choice", "must be the id of one of the question's options")
    return ChoiceKey(str(answer.value("choice")))


def _choices(answer: Fields, options: set[str]) -> ChoicesKey:
    picks = answer.items("choices", 1, 64)
    right = {pick for pick in picks if isinstance(pick, str) and pick in options}
    if not all(_is_option(pick, options) for pick in picks):
        answer.wrong("choices", "must be ids of the question's options, nothing else")
    elif len(right) < len(picks):
        answer.wrong("choices", "must name each option once")
    return ChoicesKey(tuple(sorted(right)))


def _is_option(value: object, options: set[str]) -> bool:
    return isinstance(value, str) and value in options


def _numeric(answer: Fields) -> NumericKey:
    number = answer.token("number", NUMBER, 'a decimal number of at most 40 characters, like "-3.5" or "6.02e23"')
    tolerance = "0"
    if answer.has("tolerance"):
        tolerance = answer.token("tolerance", TOLERANCE, 'a decimal number that is not negative, like "0.01"')
    return NumericKey(number, tolerance, answer.flag("relative", default=False))


def _text(answer: Fields) -> TextKey:
    entries = enumerate(answer.items("accept", 1, 100))
    accept = tuple(answer.checked(f"accept[{i}]", entry, 500, blank=False) for i, entry in entries)
    return TextKey(accept, answer.flag("caseSensitive", default=False))


def _essay(answer: Fields) -> EssayKey:
    rubric = []
    for i, value in enumerate(answer.items("rubric", 1, 50)):
        fields = answer.entry(value, f"rubric[{i}]")
        name, text = fields.text("criterion", 200, required=True), fields.text("description", 5_000)
        rubric.append(Criterion(name, text, fields.integer("maxPoints", None, 1, 1000)))
        fields.done()
    return EssayKey(tuple(rubric))

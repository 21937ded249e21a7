"""Reads and checks the file of a bank of practice questions (docs/exam-files.md)."""

from servers.admin.json_fields import Fields, JsonObject
from servers.admin.question_rules import read_question
from servers.admin.rules import EXAM_ID, InvalidExamFile, digest, parsed, provenance
from stores.exam_records import BankFile, Violation, answer_json, options_json, rubric_json

MOST_QUESTIONS = 5_000


def read_bank(data: bytes, *, bank_id: str | None = None) -> BankFile:
    """Return the bank in a file; raises InvalidExamFile, and nothing else, whatever the bytes are. `bank_id` replaces its id."""
    errors: list[Violation] = []
    try:
        document = parsed(data, 'must be one JSON object, {"bank": …, "questions": …}')
        bank = document.setdefault("bank", JsonObject())
        if bank_id is not None and isinstance(bank, JsonObject):
            bank["id"] = bank_id
        root = Fields(document, "", errors)
        fields = root.child("bank")
        found_id = fields.token("id", EXAM_ID, "1 to 63 of a-z, 0-9 and -, not starting with -")
        title = fields.text("title", 200, required=True)
        fields.done()
        seen: dict[str, int] = {}
        items = root.items("questions", 1, MOST_QUESTIONS)
        questions = [read_question(each, i, seen, errors) for i, each in enumerate(items)]
        source = provenance(root)
        root.done()
    except RecursionError:
        raise InvalidExamFile([Violation("file", "is nested too deeply; a bank needs five levels")]) from None
    if errors:
        raise InvalidExamFile(errors)
    return BankFile(found_id, title, tuple(question for question in questions if question is not None), source)


def bank_digest(file: BankFile) -> str:
    """Return the SHA-256 of all that a bank's file says."""
    return digest(
        {
            "title": file.title,
            "source": file.source,
            "questions": [
                [q.id, q.type, q.stem, q.passage, q.topic, q.points, options_json(q), rubric_json(q)] for q in file.questions
            ],
            "keys": [[answer_json(q.answer), q.explanation] for q in file.questions],
        }
    )

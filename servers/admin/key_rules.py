"""What a question's key becomes when an examiner mends it after the exam."""

import json
from collections.abc import Sequence
from typing import Any

from servers import errors
from servers.admin.question_rules import NUMBER
from stores.exam_records import QuestionType, canonical_json

FIELD = "accept"


def mended(kind: str, key: str, options: Sequence[str], accept: Sequence[str], *, also: bool) -> str:
    """Return the key, as JSON text, that counts exactly `accept` as right, or besides what did before; refuse what does not fit.

    A voided question counts again.
    """
    current: dict[str, Any] = {name: value for name, value in json.loads(key).items() if name != "void"}
    match kind:
        case QuestionType.SINGLE_CHOICE:
            right = sorted({*_options(accept, options), *(_accepted(current) if also else ())})
            return canonical_json({"choice": right[0]} if len(right) == 1 else {"accept": right})
        case QuestionType.MULTIPLE_CHOICE:
            _refuse_also(also)
            return canonical_json(current | {"choices": sorted(_options(accept, options))})
        case QuestionType.NUMERIC:
            _refuse_also(also)
            if len(accept) != 1 or NUMBER.fullmatch(accept[0]) is None:
                raise errors.InvalidField([(FIELD, "must be one decimal number, such as 3.5; its tolerance stays")])
            return canonical_json(current | {"number": accept[0]})
        case QuestionType.SHORT_TEXT:
            texts = [*(current["accept"] if also else ()), *accept]
            if any(not text.strip() for text in accept):
                raise errors.InvalidField([(FIELD, "must not be blank")])
            return canonical_json(current | {"accept": list(dict.fromkeys(texts))})
        case _:
            raise errors.InvalidField([(FIELD, "is not for essays: people grade them; to take one out, void it")])


def taken_out(key: str, void: str) -> str:
    """Return the key of a question that is voided: FULL_POINTS or DROP. What was right is kept beside it."""
    return canonical_json(json.loads(key) | {"void": void})


def _accepted(current: dict[str, Any]) -> list[str]:
    return list(current["accept"]) if "accept" in current else [current["choice"]]


def _options(accept: Sequence[str], options: Sequence[str]) -> set[str]:
    unknown = sorted(set(accept) - set(options))
    if unknown:
        raise errors.InvalidField([(FIELD, f"must be of the question's options: {', '.join(options)}")])
    return set(accept)


def _refuse_also(also: bool) -> None:
    if also:
        raise errors.InvalidField([("also", "is for single_choice and short_text: give everything that is right together")])

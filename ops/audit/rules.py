"""The rules once more, written from the documents: the canonical encoding, the deadline, the order of a board."""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from ops.audit.kept import Exam, Session

ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
MILLISECOND = timedelta(milliseconds=1)


# The canonical encoding (docs/answers.md)


def canonical(answers: Mapping[str, str]) -> str:
    """Write answers as RFC 8785 does: sorted keys, no blanks, the shortest escapes; what was taken back is left out."""
    kept = sorted((question, answer) for question, answer in answers.items() if not answer.startswith("-"))
    return "{" + ",".join(f"{_quoted(question)}:{_quoted(answer)}" for question, answer in kept) + "}"


def unfrozen(text: str) -> Mapping[str, str] | None:
    """Read frozen answers; None when the text is no object of texts."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and all(type(value) is str for value in found.values()) else None


def is_canonical(text: str, answers: Mapping[str, str]) -> bool:
    """Whether a text, which was read as these answers, is their canonical encoding.

    Mostly its length proves it. Without a backslash every string is its own encoding, so that no text can say the same with
    fewer characters than its strings have, six a pair (four quotes, colon, comma or brace) and one brace more; whoever has
    just as many has no blank, and no question twice. The order, and that nothing was taken back, are left to see.
    """
    if "\\" in text or ':"-' in text:
        return canonical(answers) == text
    shortest = len("".join(answers)) + len("".join(answers.values())) + 6 * len(answers) + 1
    return len(text) == max(2, shortest) and list(answers) == sorted(answers)


def sha256(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8, in lower-case hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _quoted(text: str) -> str:
    return '"' + "".join(ESCAPES.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in text) + '"'


# The deadline (DESIGN 7). Pauses, accommodations and adjustments are terms of this one sum.


def deadline_ms(exam: Exam, session: Session) -> int:
    """Return the last moment at which an answer is accepted; a pause that is on is taken to run until it ends by itself.

    It is a sum of whole milliseconds: each moment that PostgreSQL has more exactly is rounded to the nearest one first.
    """
    stood = sum(as_ms(min(p.ends_by, p.resumed or p.ends_by)) - as_ms(p.began) for p in session.pauses)
    end = as_ms(session.started_at) + exam.duration_seconds * 1000 + stood
    if exam.closes_at is not None:
        end = min(end, as_ms(exam.closes_at))
    extra = accommodated(exam.duration_seconds, session.extra_seconds, session.factor)
    return end + (extra + session.adjusted_seconds) * 1000


def paused(session: Session, until: datetime) -> timedelta:
    """Return for how long a session's clock stood still, up to a moment."""
    total = timedelta(0)
    for pause in session.pauses:
        if pause.began < until:
            total += min(at for at in (pause.ends_by, pause.resumed, until) if at is not None) - pause.began
    return total


def accommodated(duration_seconds: int, extra_seconds: int | None, factor: Decimal | None) -> int:
    """Return the seconds that an accommodation adds: as given, or duration × (factor − 1), rounded up."""
    if factor is not None:
        return math.ceil(duration_seconds * (factor - 1))
    return extra_seconds or 0


# The order of a board (docs/exam-files.md, `tieBreak`)

TIE_RANGE = {"NONE": 1, "DURATION": 1 << 27, "SUBMITTED_AT": 1 << 35}
"""How many milliseconds of a tie-break a board can tell apart: 37 hours of sitting, 13 months since the import."""


def tie_break(exam: Exam, session: Session) -> int:
    """Return what a smaller value of is better among equal scores, in milliseconds rounded half up; 0 where all share.

    Pauses are no time used.
    """
    at = session.submitted_at or session.ends_at
    used = {"DURATION": at - session.started_at - paused(session, at), "SUBMITTED_AT": at - exam.created_at}.get(exam.tie_break)
    return 0 if used is None else (used * 2 + MILLISECOND) // (2 * MILLISECOND)


def order_key(exam: Exam, score: int, tie: int) -> int:
    """Return points and tie-break as the one number that boards order by: the larger, the better."""
    last = TIE_RANGE[exam.tie_break] - 1
    return score * (last + 1) + last - max(0, min(tie, last))


def ranks(order_keys: Mapping[str, int]) -> Mapping[str, int]:
    """Return competition ranks ("1224"): as many as are better, plus one."""
    found: dict[str, int] = {}
    ordered = sorted(order_keys.items(), key=lambda place: -place[1])
    for place, (student, key) in enumerate(ordered):
        above = ordered[place - 1] if place else None
        found[student] = found[above[0]] if above and above[1] == key else place + 1
    return found


def as_ms(at: datetime) -> int:
    """Return a moment in milliseconds since the epoch, rounded to the nearest: the only times that the product knows."""
    return round(at.timestamp() * 1000)

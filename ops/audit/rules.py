"""The rules once more, written from the documents: grades, the canonical encoding, the deadline, the order of a board."""

import hashlib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Context, Decimal, Inexact
from typing import cast

from ops.audit.records import Exam, Keys, Question, Session

EXACT = Context(prec=1000, traps=[Inexact])
ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
MILLISECOND = timedelta(milliseconds=1)


# The canonical encoding (docs/answers.md)


def canonical(answers: Mapping[str, str]) -> str:
    """Write answers as RFC 8785 does: sorted keys, no blanks, the shortest escapes; what was taken back is left out."""
    kept = sorted((question, answer) for question, answer in answers.items() if not answer.startswith("-"))
    return "{" + ",".join(f"{_quoted(question)}:{_quoted(answer)}" for question, answer in kept) + "}"


def sha256(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8, in lower-case hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _quoted(text: str) -> str:
    return '"' + "".join(ESCAPES.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in text) + '"'


# Grades (docs/exam-files.md)


@dataclass(frozen=True, slots=True)
class Worth:
    """What a session is worth: points in paper order, and whether an essay waits for people (its points are 0 here)."""

    points: Sequence[int]
    score: int
    max_score: int
    pending: frozenset[int]


def worth(answers: Mapping[str, str], keys: Keys) -> Worth:
    """Grade frozen answers with one version of the keys."""
    points = [_points(answers.get(question.id), question, keys) for question in keys.questions]
    known = [0 if one is None else one for one in points]
    pending = frozenset(place for place, one in enumerate(points) if one is None)
    return Worth(known, sum(known), sum(question.points for question in keys.questions) * keys.correct, pending)


def _points(packed: str | None, question: Question, keys: Keys) -> int | None:
    """Return the points of one answer, None for an essay that somebody has to read."""
    given = "" if packed is None or packed.startswith("-") else packed[2:]
    if not given.split():
        return question.points * keys.blank
    if question.type == "essay":
        return None
    if question.answer is None:
        raise ValueError(f"question {question.id} has no key")
    if question.type == "multiple_choice" and keys.partial:
        right = set(cast(Sequence[str], question.answer["choices"]))
        balance = sum(1 if pick in right else -1 for pick in given.split(","))
        return max(0, balance) * question.points * keys.correct // len(right)
    return question.points * (keys.correct if _right(given, question.type, question.answer) else keys.wrong)


def _right(given: str, kind: str, key: Mapping[str, object]) -> bool:
    if kind == "single_choice":
        return given == key["choice"]
    if kind == "multiple_choice":
        return sorted(given.split(",")) == sorted(cast(Sequence[str], key["choices"]))
    if kind == "numeric":
        return _near(given, str(key["number"]), str(key.get("tolerance", "0")), relative=bool(key.get("relative", False)))
    if kind == "short_text":
        fold = bool(key.get("caseSensitive", False)) is False
        return _plain(given, fold=fold) in [_plain(one, fold=fold) for one in cast(Sequence[str], key["accept"])]
    raise ValueError(f"a question of type {kind} has no key")


def _near(given: str, wanted: str, tolerance: str, *, relative: bool) -> bool:
    """Whether a number is within its tolerance, both ends included; exact, or an error."""
    number, key, allowed = Decimal(given), Decimal(wanted), Decimal(tolerance)
    if relative:
        allowed = EXACT.multiply(allowed, EXACT.abs(key))
    return EXACT.abs(EXACT.subtract(number, key)) <= allowed


def _plain(text: str, *, fold: bool) -> str:
    """Write a text as it is compared: NFKC, single blanks, no outer ones, and no case unless it matters."""
    text = unicodedata.normalize("NFKC", text)
    if fold:
        text = unicodedata.normalize("NFKC", text.casefold())
    return " ".join(text.split())


# The deadline (DESIGN 7). Pauses, accommodations and adjustments are terms of this one sum.


def deadline(exam: Exam, session: Session) -> datetime:
    """Return the last moment at which an answer is accepted; a pause that is on is taken to run until it ends by itself."""
    end = session.started_at + timedelta(seconds=exam.duration_seconds) + paused(session, None)
    if exam.closes_at is not None:
        end = min(end, exam.closes_at)
    return end + timedelta(seconds=session.extra_seconds + session.adjusted_seconds)


def paused(session: Session, until: datetime | None) -> timedelta:
    """Return for how long a session's clock stood still, up to a moment."""
    total = timedelta(0)
    for began, ends_by, resumed in session.pauses:
        if until is None or began < until:
            total += min(at for at in (ends_by, resumed, until) if at is not None) - began
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
    """Return a moment in milliseconds since the epoch, rounded as replies are."""
    return round(at.timestamp() * 1000)

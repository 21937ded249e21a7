"""What a start is, and what decides about it: facts of one moment in, one outcome out. Nothing here asks anybody."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from stores.records import Deadline, SessionFacts, SessionStatus, Terms
from stores.sessions import accommodation_of, milliseconds, moment


class StartOutcome(StrEnum):
    """What became of a start; the first that holds, in this order, CREATED when none does. A session that runs is never cut: while
    it does, NOT_ENTITLED does not hold."""

    UNKNOWN = "UNKNOWN"
    NOT_OPEN = "NOT_OPEN"
    NOT_ENTITLED = "NOT_ENTITLED"
    NOT_ENROLLED = "NOT_ENROLLED"
    REPLAYED = "REPLAYED"
    RUNNING = "RUNNING"
    CLOSED = "CLOSED"
    EXHAUSTED = "EXHAUSTED"
    CREATED = "CREATED"


@dataclass(frozen=True, slots=True)
class Start:
    """Somebody wants to start. A roster's alias stands in place of `alias`."""

    student: str
    exam: str
    cohorts: tuple[str, ...]
    alias: str
    start_key: UUID | None


@dataclass(frozen=True, slots=True)
class Doors:
    """What an exam asked of whoever started it, at the moment of the start."""

    opens_ms: int
    closed_ms: int
    max_attempts: int
    product: str


@dataclass(frozen=True, slots=True)
class Started:
    """The session that a start means, with all that is to be known of one that was made; without one, why there is none."""

    outcome: StartOutcome
    session: UUID | None = None
    made: tuple[SessionFacts, Deadline] | None = None
    doors: Doors | None = None


@dataclass(slots=True)
class Sitting:
    """A session of one student at one exam; `session` is None until it is inserted."""

    start_key: UUID | None
    running: bool
    session: UUID | None = None


@dataclass(frozen=True, slots=True)
class New:
    """A session to be inserted."""

    start: Start
    sitting: Sitting
    exam_version: int
    attempt: int
    alias: str
    started_ms: int
    deadline: Deadline


Decided = New | tuple[StartOutcome, Sitting] | Started | Exception
"""A start that makes a session; one that means a session, which this batch may be making; one that means none; a failure."""


def decide_all(starts: Sequence[Start], rows: Sequence[Mapping[str, Any]], rule: Callable[[Terms], Deadline]) -> list[Decided]:
    """Decide one start after the other, each knowing what those before it make; a failure is its start's alone."""
    sittings: dict[tuple[str, str], list[Sitting]] = {}
    decided: list[Decided] = []
    for start, row in zip(starts, rows, strict=True):
        known = sittings.get((start.student, start.exam))
        if known is None:
            known = sittings[start.student, start.exam] = [
                Sitting(key, status == SessionStatus.IN_PROGRESS, session) for key, status, session in row["sittings"]
            ]
        try:
            decided.append(_decide(start, row, known, rule))
        except Exception as failure:
            decided.append(failure)
    return decided


def _decide(start: Start, row: Mapping[str, Any], known: list[Sitting], rule: Callable[[Terms], Deadline]) -> Decided:
    running = bool(known) and known[-1].running
    refused = _refused(row, running=running)
    if refused is not None:
        return Started(refused, doors=_doors(row))
    if start.start_key is not None:
        for sitting in known:
            if sitting.start_key == start.start_key:
                return StartOutcome.REPLAYED, sitting
    if running:
        return StartOutcome.RUNNING, known[-1]
    if row["closed"] or len(known) >= row["max_attempts"]:
        return Started(StartOutcome.CLOSED if row["closed"] else StartOutcome.EXHAUSTED, doors=_doors(row))
    new = _new(start, row, len(known) + 1, rule)
    known.append(new.sitting)
    return new


def _refused(row: Mapping[str, Any], *, running: bool) -> StartOutcome | None:
    """Return why nothing of this exam is the student's to see, whatever they have sat before. A session that is
    `running` stays theirs though they own the exam no more."""
    if row["exam"] is None:
        return StartOutcome.UNKNOWN
    if row["unopened"]:
        return StartOutcome.NOT_OPEN
    if not row["entitled"] and not running:
        return StartOutcome.NOT_ENTITLED
    return StartOutcome.NOT_ENROLLED if row["enrolled"] is None else None


def _new(start: Start, row: Mapping[str, Any], attempt: int, rule: Callable[[Terms], Deadline]) -> New:
    started_ms = milliseconds(row["now"])
    terms = Terms(
        started_ms=started_ms,
        duration_ms=row["duration_seconds"] * 1000,
        closes_ms=milliseconds(row["closes_at"]) if row["closes_at"] else None,
        accommodation=accommodation_of(row),
    )
    deadline, alias = rule(terms), row["enrolled"] or start.alias
    moment(deadline.ends_ms)  # an end beyond all calendars fails here, alone
    return New(start, Sitting(start.start_key, running=True), row["version"], attempt, alias, started_ms, deadline)


def _doors(row: Mapping[str, Any]) -> Doors:
    opens, closed = row["opens_at"], row["closed_at"]
    return Doors(
        milliseconds(opens) if opens else 0,
        milliseconds(closed) if closed else 0,
        row["max_attempts"] or 0,
        row["product_id"] or "",
    )


def told_of(decided: Decided) -> Started | Exception:
    match decided:
        case New(start=start, sitting=Sitting(session=UUID() as session)):
            facts = SessionFacts(
                session, start.exam, decided.exam_version, start.student, decided.attempt, decided.alias, decided.started_ms
            )
            return Started(StartOutcome.CREATED, session, (facts, decided.deadline))
        case (outcome, sitting):
            return Started(outcome, sitting.session)
        case Started() | Exception():
            return decided
    raise AssertionError("it was inserted")

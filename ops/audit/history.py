"""Reads a history: lines of JSON, one per call (`"kind": "call"`), per fault, and one from when on the stack was drained.

A call's line has `rpc`, `student`, `exam`, `session`, `key`, `question`, `answer` (packed as docs/answers.md says),
`client_seq`, `sent_ms`, `received_ms` (null: no answer), `code` (gRPC's name; "" for none), `reason`, `message`, `retry_ms`,
`claims`, `canaries`, and `reply` with the fields of `records.Answered`; what is empty may be left out. A batch of saves has
`items`, each with `key`, `question`, `answer`, `client_seq`, and where it was answered `code`, `reason` and `reply`.
A fault has `name`, `unit`, `at_ms`, `until_ms`, `loses`. Lines of other kinds are notes for people.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ops.audit.records import Answered, Call, Fault, History

REPLY_FIELDS = frozenset(field.name for field in fields(Answered))


class Unreadable(Exception):
    """A history that does not say what it should; the text names the line."""


def read(file: Path) -> History:
    """Read a history; raises Unreadable for a line that is no JSON or lacks what every line of its kind has."""
    calls: list[Call] = []
    faults: list[Fault] = []
    drained = None
    with file.open() as lines:
        for number, text in enumerate(lines, 1):
            try:
                line = json.loads(text)
                match line["kind"]:
                    case "call":
                        calls.extend(_calls(number, line))
                    case "fault":
                        faults.append(_fault(line))
                    case "drained":
                        drained = float(line["at_ms"])
            except (ValueError, KeyError, TypeError) as failure:
                raise Unreadable(f"line {number} of {file.name} cannot be read: {type(failure).__name__}: {failure}") from None
    return History(tuple(calls), tuple(faults), drained)


def _calls(number: int, line: Mapping[str, Any]) -> Iterator[Call]:
    """Return a line's call; a batch gives one call per item, and every item of one without an answer has none either."""
    if "items" not in line:
        yield _call(number, line, line)
        return
    for item in line["items"]:
        yield _call(number, {**line, "rpc": "SaveAnswer"}, item if line["code"] == "OK" else {**line, **item})


def _call(number: int, line: Mapping[str, Any], outcome: Mapping[str, Any]) -> Call:
    canaries = line.get("canaries")
    reply = outcome.get("reply") or {}
    return Call(
        line=number,
        rpc=line["rpc"],
        student=line["student"],
        exam=line.get("exam", ""),
        session=line.get("session", ""),
        key=outcome.get("key", ""),
        question=outcome.get("question", ""),
        answer=outcome.get("answer", ""),
        client_seq=outcome.get("client_seq"),
        sent_ms=line["sent_ms"],
        received_ms=line["received_ms"],
        code=outcome["code"],
        reason=outcome.get("reason", ""),
        message=outcome.get("message", ""),
        retry_ms=outcome.get("retry_ms", 0),
        claims=line.get("claims", ""),
        canaries=None if canaries is None else tuple(canaries),
        reply=Answered(**{name: value for name, value in reply.items() if name in REPLY_FIELDS}),
    )


def _fault(line: Mapping[str, Any]) -> Fault:
    return Fault(line["name"], line.get("unit", ""), line["at_ms"], line["until_ms"], line.get("loses", False))

"""How a session lies in Redis: one hash of short fields and packed answers. `functions/_prelude.lua` says the same in Lua."""

import re
import struct
from collections.abc import Mapping, Sequence
from typing import cast
from uuid import UUID

from stores.records import (
    EPOCH_VERSIONS,
    Answer,
    Deadline,
    Frozen,
    LogEntry,
    NotFlipped,
    SavedAnswer,
    SessionFacts,
    SessionState,
    SessionStatus,
    SubmitOutcome,
    SubmitReason,
    answers_sha256,
    encode_answers,
)

ANSWER_HEAD = struct.Struct(">6s6sIH")
LOG_HEAD = struct.Struct(">6s6sI8s4s")
CLEARED = ord("-")
ESCAPED = re.compile(rb"[\x00-\x1f\\]")
STATUS = {"I": SessionStatus.IN_PROGRESS, "S": SessionStatus.SUBMITTED, "D": SessionStatus.SCORED}
STATUS_LETTER = {status: letter for letter, status in STATUS.items()}


def session_fields(facts: SessionFacts, *, epoch: int, restored_through: int) -> list[str | bytes | int]:
    """Return the hash fields that a session begins with, but for its status and its end."""
    return [
        *("x", facts.exam, "p", facts.exam_version, "u", facts.student, "n", facts.attempt, "l", facts.alias),
        *("t", facts.started_ms, "c", epoch, "v", epoch * EPOCH_VERSIONS, "r", restored_through),
    ]


def new_state(facts: SessionFacts, deadline: Deadline, now_ms: int) -> SessionState:
    """Return a session as `session_fields` begin it, in its first epoch: what reading it back would give."""
    return SessionState(
        facts=facts,
        status=SessionStatus.IN_PROGRESS,
        deadline=deadline,
        now_ms=now_ms,
        epoch=0,
        restored_through=0,
        submitted_ms=None,
        reason=None,
        answers=(),
    )


def saved_answer(question: str, packed: bytes, key_digest: bytes, body_digest: bytes) -> SavedAnswer:
    """Read one `a:` field."""
    version, at, sequence, _ = ANSWER_HEAD.unpack_from(packed)
    answer = Answer.unpacked(packed[ANSWER_HEAD.size :].decode())
    return SavedAnswer(question, answer, _int(version), _int(at), sequence or None, key_digest, body_digest)


def _int(packed: bytes) -> int:
    return int.from_bytes(packed, "big")


def read_fields(flat: Sequence[object]) -> dict[bytes, bytes]:
    """Read the fields and values that a function appended to its reply."""
    return cast(dict[bytes, bytes], dict(zip(flat[::2], flat[1::2], strict=True)))


def read_state(session: UUID, now_ms: int, fields: Mapping[bytes, bytes]) -> SessionState:
    """Read a session's hash."""
    digests = fields.get(b"d", b"")
    answers = []
    for name, packed in fields.items():
        if name.startswith(b"a:"):
            slot = ANSWER_HEAD.unpack_from(packed)[3] * 12
            answers.append(saved_answer(name[2:].decode(), packed, digests[slot : slot + 8], digests[slot + 8 : slot + 12]))
    return SessionState(
        facts=_facts(session, fields),
        status=STATUS[fields[b"s"].decode()],
        deadline=_deadline(fields),
        now_ms=now_ms,
        epoch=int(fields[b"c"]),
        restored_through=int(fields[b"r"]),
        submitted_ms=int(fields[b"z"]) if b"z" in fields else None,
        reason=SubmitReason(fields[b"w"].decode()) if b"w" in fields else None,
        answers=tuple(answers),
        replaced=fields.get(b"k", b""),
    )


def _facts(session: UUID, fields: Mapping[bytes, bytes]) -> SessionFacts:
    return SessionFacts(
        session=session,
        exam=fields[b"x"].decode(),
        exam_version=int(fields[b"p"]),
        student=fields[b"u"].decode(),
        attempt=int(fields[b"n"]),
        alias=fields[b"l"].decode(),
        started_ms=int(fields[b"t"]),
    )


def _deadline(fields: Mapping[bytes, bytes]) -> Deadline:
    pause = [int(part) for part in fields[b"q"].split(b",")] if b"q" in fields else [None, None, None]
    return Deadline(int(fields.get(b"f", b"0")), int(fields[b"e"]), *pause)


def pause_field(deadline: Deadline) -> str:
    """Return what the field `q` holds, "" for a session without an open pause."""
    if deadline.paused_ms is None:
        return ""
    return f"{deadline.paused_ms},{deadline.pause_ends_ms},{deadline.unpaused_ms}"


def replaced_row(saved: SavedAnswer) -> bytes:
    """Return what is remembered of a save that another one replaced."""
    return saved.key_digest + saved.body_digest + saved.version.to_bytes(6, "big") + saved.saved_ms.to_bytes(6, "big")


def state_fields(state: SessionState) -> list[str | bytes | int]:
    """Return a restored session's hash; every answer gets a slot of its own for its newest save's digests."""
    fields = session_fields(state.facts, epoch=state.epoch, restored_through=state.restored_through)
    fields += ["f", state.deadline.version, *(["q", pause] if (pause := pause_field(state.deadline)) else [])]
    fields += ["h", max([0, *(a.saved_ms for a in state.answers)])]
    fields += ["k", state.replaced] if state.replaced else []
    fields += ["d", b"".join(a.key_digest + a.body_digest for a in state.answers)]
    fields += ["b", sum(len(a.answer.packed().encode()) for a in state.answers)]
    for slot, a in enumerate(state.answers):
        head = ANSWER_HEAD.pack(a.version.to_bytes(6, "big"), a.saved_ms.to_bytes(6, "big"), a.client_seq or 0, slot)
        fields += [f"a:{a.question}", head + a.answer.packed().encode()]
    if state.submitted_ms is not None:
        fields += ["z", state.submitted_ms, "w", state.reason or SubmitReason.CLICK]
    return fields


def read_frozen(session: UUID, reply: Sequence[object]) -> Frozen | NotFlipped:
    """Read the reply of `submit` or `retry`, and encode the answers that it froze."""
    outcome, now_ms = SubmitOutcome(cast(bytes, reply[0]).decode()), int(cast(int, reply[1]))
    if outcome not in (SubmitOutcome.FLIPPED, SubmitOutcome.ALREADY, SubmitOutcome.EXHAUSTED):
        return NotFlipped(outcome, int(cast(int, reply[2])), now_ms)
    fields = read_fields(reply[2:])
    encoded = frozen_answers(fields)
    return Frozen(
        outcome=outcome,
        facts=_facts(session, fields),
        submitted_ms=int(fields[b"z"]),
        reason=SubmitReason(fields[b"w"].decode()),
        ends_ms=int(fields[b"e"]),
        now_ms=now_ms,
        answers=encoded,
        answers_sha256=answers_sha256(encoded),
        scored=fields[b"s"] == b"D",
    )


def frozen_answers(fields: Mapping[bytes, bytes]) -> bytes:
    """Return what `encode_answers` makes of a hash's answers.

    JSON is joined from the bytes as they lie here, which takes a third of the time that decoding and writing them takes; but for
    what JSON has to escape, which its own writer does. A quotation mark sorts before whatever an id may hold, so that sorting the
    members sorts their names.
    """
    start = ANSWER_HEAD.size
    members = [
        name[2:] + b'":"' + packed[start:] for name, packed in fields.items() if name[:2] == b"a:" and packed[start] != CLEARED
    ]
    members.sort()
    joined = b'","'.join(members)
    if joined.count(b'"') != max(0, 4 * len(members) - 2) or ESCAPED.search(joined):
        return encode_answers({name[2:].decode(): packed[start:].decode() for name, packed in fields.items() if name[:2] == b"a:"})
    return b'{"' + joined + b'"}' if members else b"{}"


def read_log_entry(fields: Mapping[bytes, bytes]) -> LogEntry:
    """Read one entry of a save log."""
    packed = fields[b"a"]
    version, at, sequence, key_digest, body_digest = LOG_HEAD.unpack_from(packed)
    answer = Answer.unpacked(packed[LOG_HEAD.size :].decode())
    question = fields[b"q"].decode()
    saved = SavedAnswer(question, answer, _int(version), _int(at), sequence or None, key_digest, body_digest)
    return LogEntry(UUID(fields[b"i"].decode()), saved)

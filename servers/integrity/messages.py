"""Signals between messages and values: what a client sent, what is kept of it, what staff are shown."""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b, sha256
from typing import Any
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as FastUUID
from finalbell.v1 import events_pb2 as events
from finalbell.v1 import integrity_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from servers.integrity.rules import BY_NAME, RULES, Found, Suspect, escaped
from servers.messages import timestamp
from stores.signal_records import Kind, Signal

TOKEN_BYTES = 8
FAR_SECONDS = 4_000_000_000
"""A client's clock beyond the year 2096 or before 1970 is no clock."""

Details = dict[str, object]
WRITE = json.JSONEncoder(separators=(",", ":")).encode


def _clipboard(kind: Kind) -> Callable[[Any], tuple[Kind, int, Details]]:
    def read(text: pb.Clipboard) -> tuple[Kind, int, Details]:
        details: Details = {"digest": text.digest.hex()} if text.digest else {}
        return kind, text.length, details | ({"question": text.question_id} if text.question_id else {})

    return read


KINDS: Mapping[str, Callable[[Any], tuple[Kind, int, Details]]] = {
    "focus_lost": lambda _: (Kind.FOCUS_LOST, 0, {}),
    "focus_regained": lambda one: (Kind.FOCUS_REGAINED, one.away_ms, {}),
    "copy": _clipboard(Kind.COPY),
    "cut": _clipboard(Kind.CUT),
    "paste": _clipboard(Kind.PASTE),
    "full_screen_left": lambda one: (Kind.FULL_SCREEN_LEFT, one.away_ms, {}),
    "display_count": lambda one: (Kind.DISPLAY_COUNT, one.count, {}),
    "dev_tools": lambda one: (Kind.DEV_TOOLS, int(one.open), {}),
    "network_change": lambda one: (Kind.NETWORK_CHANGE, 0, {"online": one.online, "type": escaped(one.type)}),
    "device_change": lambda one: (
        Kind.DEVICE_CHANGE,
        0,
        {"device": escaped(one.device), "label": escaped(one.label), "attached": one.attached},
    ),
    "ping": lambda one: (Kind.PING, one.round_trip_ms, {}),
    "webcam_frame": lambda one: (Kind.WEBCAM_FRAME, 0, {"frame": one.frame_id}),
}
"""What each kind of signal is kept as: its kind, its amount, and what else."""


def known(signals: Sequence[pb.Signal]) -> list[pb.Signal]:
    """Return the signals of a kind that is known here."""
    return [one for one in signals if one.WhichOneof("kind") in KINDS]


def token_digest(authorization: str) -> bytes:
    """Return what tells tokens apart, and opens nothing."""
    return sha256(authorization.partition(" ")[2].encode()).digest()[:TOKEN_BYTES]


def address(forwarded: str) -> str:
    """Return the address that the gateway saw: the last of those in `x-forwarded-for`, since clients may send others before."""
    return escaped(forwarded.rpartition(",")[2].strip())[:64]


def milliseconds(at: Timestamp) -> int | None:
    """Return a client's time in ms; None: none that can be."""
    return at.seconds * 1000 + at.nanos // 1_000_000 if 0 <= at.seconds < FAR_SECONDS and 0 <= at.nanos < 10**9 else None


def signal_id(session: UUID, *parts: bytes) -> UUID:
    """Return a signal's id, made of what it is: the same signal has the same one, however often it comes."""
    return signal_ids(session, *parts[:-1])(parts[-1])


def signal_ids(session: UUID, *parts: bytes) -> Callable[[bytes], UUID]:
    """Return what makes the ids of signals that differ in their last part alone."""
    shared = blake2b(session.bytes, digest_size=16)
    for part in parts:
        shared.update(len(part).to_bytes(4, "big") + part)

    def made(last: bytes) -> UUID:
        digest = shared.copy()
        digest.update(len(last).to_bytes(4, "big") + last)
        own: UUID = FastUUID(digest.digest())  # it takes a tenth of the standard library's time
        return own

    return made


def kept(report: events.SignalReport) -> list[Signal]:
    """Return a report's signals as they are kept."""
    session, received_ms = UUID(bytes=report.session_id), milliseconds(report.received_at) or 0
    student, device = report.student_id, report.device_id
    sent_ms = milliseconds(report.client_now) if report.HasField("client_now") else None
    numbered, unnumbered = signal_ids(session, b"own", device.encode()), signal_ids(session, b"", report.report_id)
    found = []
    for number, one in enumerate(report.signals):
        name = one.WhichOneof("kind")
        if name is None or name not in KINDS:
            continue
        kind, amount, details = KINDS[name](getattr(one, name))
        client_ms = milliseconds(one.client_ts) if one.HasField("client_ts") else None
        if sent_ms is not None and client_ms is not None and client_ms < sent_ms:
            # Clients gather: what happened is told by when it was, not by when its report came.
            details["agoMs"] = sent_ms - client_ms
        found.append(
            Signal(
                session=session,
                student=student,
                id=numbered(b"%d" % one.sequence) if one.sequence else unnumbered(b"%d" % number),
                kind=kind,
                amount=amount,
                client_ms=client_ms,
                received_ms=received_ms,
                device=device,
                details=WRITE(details) if details else "{}",
            )
        )
    return found


def view(found: Sequence[Suspect], total: int, top: int) -> pb.IntegrityView:
    """Return what staff are shown, but for when it was read."""
    return pb.IntegrityView(sessions=[_suspect(one) for one in found[:top]], total=total)


def _suspect(one: Suspect) -> pb.SuspectSession:
    return pb.SuspectSession(
        session_id=str(one.session),
        student_id=one.student,
        alias=one.alias,
        strength=round(one.strength, 3),
        indicators=indicator_messages(one.found),
    )


def indicator_messages(found: Sequence[Found]) -> list[pb.Indicator]:
    """Return what is over its threshold."""
    return [
        pb.Indicator(
            name=each.name,
            value=min(each.value, 2**31 - 1),
            threshold=each.threshold,
            strength=round(each.strength, 3),
            reason=each.reason,
            last_at=timestamp(each.last_ms),
        )
        for each in found
    ]


def threshold_messages(now: Mapping[str, int | None]) -> list[pb.Threshold]:
    """Return every threshold as it is now."""
    return [
        pb.Threshold(name=rule.name, threshold=now[rule.name], default_threshold=BY_NAME[rule.name].default, about=rule.about)
        for rule in RULES
    ]

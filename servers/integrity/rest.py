"""ReportSignals as REST past the gateway's transcoder: the gateway's time is every save's, this unit's is its own.

A report of the form that apps send is read here; any other that proto3 JSON allows goes through protobuf's own reader. Kinds and
fields that nobody knows are passed over.
"""

import re
from collections.abc import Mapping
from datetime import datetime

from finalbell.v1 import integrity_pb2 as pb
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.timestamp_pb2 import Timestamp

from servers import errors
from servers.serving.proto_json import writer
from servers.serving.rest import RestMethod, read_json

PLAIN_TYPES = {FieldDescriptor.TYPE_INT32: int, FieldDescriptor.TYPE_BOOL: bool, FieldDescriptor.TYPE_STRING: str}
FIELDS: Mapping[str, tuple[str, Mapping[str, tuple[str, type]]]] = {
    kind.json_name: (
        kind.name,
        {field.json_name: (field.name, PLAIN_TYPES[field.type]) for field in kind.message_type.fields if field.type in PLAIN_TYPES},
    )
    for kind in pb.Signal.DESCRIPTOR.oneofs_by_name["kind"].fields
    if kind.message_type is not None
}
"""By a kind's name in JSON: its own, and its fields with theirs and the type of their values; what is not here is not plain."""

CLOCK = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")


class _NotPlain(Exception):
    """It has another form than apps send."""


def read_report(session: str, body: bytes) -> tuple[pb.ReportSignalsRequest, bool]:
    """Read a request; whether it keeps the rules in its proto is not said. Raises InvalidField."""
    given = read_json(body)
    given.pop("session_id", None)  # the path says which; a body in camel case may say it too
    try:
        try:
            request = _plainly(given)
        except _NotPlain:
            request = ParseDict(given, pb.ReportSignalsRequest(), ignore_unknown_fields=True)
    except (ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise errors.InvalidField([("", "the body does not fit the method")]) from None
    if request.session_id not in ("", session):
        raise errors.InvalidField([("sessionId", "is not the session in the path")])
    request.session_id = session
    return request, False


def _plainly(given: Mapping[str, object]) -> pb.ReportSignalsRequest:
    """Read a request of the usual form."""
    request = pb.ReportSignalsRequest()
    for name, value in given.items():
        if name == "signals" and isinstance(value, list):
            request.signals.extend([_signal(one) for one in value])
        elif name == "deviceId" and isinstance(value, str):
            request.device_id = value
        elif name == "clientNow":
            request.client_now.CopyFrom(_clock(value))
        else:
            raise _NotPlain
    return request


def _signal(given: object) -> pb.Signal:
    if not isinstance(given, dict):
        raise _NotPlain
    signal = pb.Signal()
    for name, value in given.items():
        if name in FIELDS and isinstance(value, dict) and signal.WhichOneof("kind") is None:
            kind, fields = FIELDS[name]
            getattr(signal, kind).SetInParent()
            for field, held in value.items():
                own, wanted = fields.get(field, ("", None))
                if type(held) is not wanted:
                    raise _NotPlain
                setattr(getattr(signal, kind), own, held)
        elif name == "sequence" and type(value) is int:
            signal.sequence = value
        elif name == "clientTs":
            signal.client_ts.CopyFrom(_clock(value))
        else:
            raise _NotPlain
    return signal


def _clock(value: object) -> Timestamp:
    if not isinstance(value, str) or not CLOCK.fullmatch(value):
        raise _NotPlain
    at = datetime.fromisoformat(value)
    return Timestamp(seconds=int(at.timestamp()), nanos=at.microsecond * 1000)


REPORT_SIGNALS = RestMethod(
    path="/finalbell.v1.IntegrityService/ReportSignals",
    verb=b"POST",
    url=re.compile(rb"/api/v1/sessions/([^/?]+)/signals"),
    read=read_report,
    write=writer(pb.ReportSignalsResponse),
    headers=frozenset({b"x-forwarded-for"}),
)

"""ReportSignals as REST past the gateway's transcoder: the gateway's time is every save's, this unit's is its own.

A report of the form that apps send is read and held against its proto's rules at once, by pydantic-core: protobuf's own reader and
protovalidate take five times as long. Any other that proto3 JSON allows goes through those two. Kinds and fields that nobody knows
are passed over.
"""

import re
from collections.abc import Mapping
from typing import Any

from buf.validate import validate_pb2
from finalbell.v1 import integrity_pb2 as pb
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from pydantic_core import CoreSchema, SchemaValidator
from pydantic_core import core_schema as schema

from servers import errors
from servers.messages import read_clock
from servers.serving.proto_json import writer
from servers.serving.rest import SESSION, RestMethod, read_json

CLOCK = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{3})?Z$"
UUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
HANDLED: Mapping[int, frozenset[str]] = {
    FieldDescriptor.TYPE_MESSAGE: frozenset({"max_items"}),
    FieldDescriptor.TYPE_STRING: frozenset({"max_len", "pattern", "uuid"}),
    FieldDescriptor.TYPE_INT32: frozenset({"gte", "lte"}),
    FieldDescriptor.TYPE_UINT32: frozenset({"gte", "lte"}),
    FieldDescriptor.TYPE_BOOL: frozenset(),
}
"""What is read here: types, and the rules of buf.validate that are kept. Any other field is left to protovalidate."""

KINDS = frozenset(field.name for field in pb.Signal.DESCRIPTOR.oneofs_by_name["kind"].fields)


def _plain(described: Descriptor) -> CoreSchema:
    """Return what reads a message's plain form as its fields by their names in the proto."""
    fields = {field.name: (field, _rules(field)) for field in described.fields if field.name != "session_id"}
    return schema.typed_dict_schema(
        {
            name: schema.typed_dict_field(
                _value(field, rules),
                validation_alias=field.json_name,
                required="uuid" in rules,  # nothing is no id; whatever else may be left out may be zero
            )
            for name, (field, rules) in fields.items()
            if field.type in HANDLED and HANDLED[field.type].issuperset(rules)
        },
        extra_behavior="forbid",
    )


def _rules(field: FieldDescriptor) -> Mapping[str, Any]:
    """Return a field's rules by name."""
    given = field.GetOptions().Extensions[validate_pb2.field]
    return {rule.name: limit for kind, rules in given.ListFields() if kind.name != "ignore" for rule, limit in rules.ListFields()}


def _value(field: FieldDescriptor, rules: Mapping[str, Any]) -> CoreSchema:
    """Return what reads a field's value."""
    if field.message_type is not None:
        clock = field.message_type.full_name == "google.protobuf.Timestamp"
        one = schema.str_schema(pattern=CLOCK) if clock else _plain(field.message_type)
        return schema.list_schema(one, max_length=rules.get("max_items")) if field.is_repeated else one
    if field.type == FieldDescriptor.TYPE_BOOL:
        return schema.bool_schema()
    if field.type == FieldDescriptor.TYPE_STRING:
        return schema.str_schema(pattern=UUID if "uuid" in rules else rules.get("pattern"), max_length=rules.get("max_len"))
    least, most = (0, 2**32 - 1) if field.type == FieldDescriptor.TYPE_UINT32 else (-(2**31), 2**31 - 1)
    return schema.int_schema(ge=rules.get("gte", least), le=rules.get("lte", most))


PLAIN = SchemaValidator(_plain(pb.ReportSignalsRequest.DESCRIPTOR))


def read_report(session: str, body: bytes) -> tuple[pb.ReportSignalsRequest, bool]:
    """Read a request, and say whether it surely keeps the rules in its proto. Raises InvalidField."""
    plain = _read_plain(body)
    request = _read_any(body) if plain is None else plain
    if request.session_id not in ("", session):
        raise errors.InvalidField([("sessionId", "is not the session in the path")])
    request.session_id = session
    return request, plain is not None and SESSION.fullmatch(session) is not None


def _read_plain(body: bytes) -> pb.ReportSignalsRequest | None:
    """Read a request of the usual form; None: it has another."""
    try:
        given = PLAIN.validate_json(body, strict=True)
        _set_clock(given, "client_now")
        for signal in given.get("signals", ()):
            _set_clock(signal, "client_ts")
            if len(KINDS & signal.keys()) > 1:
                return None
    except ValueError:  # a ValidationError is one; and so is a thirteenth month
        return None
    return pb.ReportSignalsRequest(**given)


def _set_clock(given: dict[str, Any], name: str) -> None:
    """Put the message in the place of a time's text."""
    if name in given:
        given[name] = read_clock(given[name])


def _read_any(body: bytes) -> pb.ReportSignalsRequest:
    """Read a request of any form that proto3 JSON has."""
    given = read_json(body)
    given.pop("session_id", None)  # the path says which; a body in camel case may say it too
    try:
        request: pb.ReportSignalsRequest = ParseDict(given, pb.ReportSignalsRequest(), ignore_unknown_fields=True)
    except (ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise errors.InvalidField([("", "the body does not fit the method")]) from None
    return request


REPORT_SIGNALS = RestMethod(
    path="/finalbell.v1.IntegrityService/ReportSignals",
    verb=b"POST",
    url=re.compile(rb"/api/v1/sessions/([^/?]+)/signals"),
    read=read_report,
    write=writer(pb.ReportSignalsResponse),
    headers=frozenset({b"x-forwarded-for"}),
    gather_seconds=0.05,  # most of what a report costs is that somebody wakes up for it
)

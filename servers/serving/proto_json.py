"""Messages as JSON, written as the gateway's transcoder writes them; protobuf's own writer takes many times as long.

Every field without presence is printed, also where it is empty or zero; those with presence where they are set. What none of
our messages on this way has (maps, groups, well-known types but Timestamp) is refused when its message is first seen.
"""

import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from json.encoder import encode_basestring
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Write = Callable[[Any], str]
FRACTIONS = ((1_000_000, 3), (1_000, 6), (1, 9))
QUOTED = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
PLAIN = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32)


def to_json(message: Message) -> bytes:
    """Write a message as proto3 JSON; raises TypeError for a kind that is not written here."""
    return _message(message.DESCRIPTOR)(message).encode()


def writer(kind: type[Message], field: str = "") -> Callable[[bytes], bytes]:
    """Return what writes serialized messages of a kind as REST replies; `field` is the one that is the reply, where the binding
    has a `response_body`. Raises TypeError at once for a kind that is not written here."""
    write = _message(kind.DESCRIPTOR.fields_by_name[field].message_type if field else kind.DESCRIPTOR)
    if field:
        return lambda message: write(getattr(kind.FromString(message), field)).encode()
    return lambda message: write(kind.FromString(message)).encode()


@cache
def _message(described: Descriptor) -> Write:
    """Return what writes messages of a type."""
    if described.full_name == "google.protobuf.Timestamp":
        return _timestamp
    if described.full_name.startswith("google.protobuf."):
        raise TypeError(f"{described.full_name} has a JSON form of its own, which is not written here")
    fields = [(one.name, f'"{one.json_name}":', one.has_presence, _field(one)) for one in described.fields]

    def write(message: Message) -> str:
        set_ones = [one for one in fields if not one[2] or message.HasField(one[0])]
        return f"{{{','.join([key + value(getattr(message, name)) for name, key, _, value in set_ones])}}}"

    return write


def _field(field: FieldDescriptor) -> Write:
    """Return what writes the value of a field: a list of values where it is repeated."""
    value = _value(field)

    def write(values: Sequence[Any]) -> str:
        return f"[{','.join([value(one) for one in values])}]"

    return write if field.is_repeated else value


def _value(field: FieldDescriptor) -> Write:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return _base64 if field.type == FieldDescriptor.TYPE_BYTES else encode_basestring
        case FieldDescriptor.CPPTYPE_BOOL:
            return _flag
        case FieldDescriptor.CPPTYPE_ENUM if field.enum_type is not None:
            return _enum(field.enum_type)
        case FieldDescriptor.CPPTYPE_MESSAGE if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            return _message(field.message_type)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return _double
        case kind if kind in PLAIN:
            return str
        case kind if kind in QUOTED:
            return _quoted
        case _:
            raise TypeError(f"{field.full_name} has a kind of value that is not written here")


def _enum(described: EnumDescriptor) -> Write:
    names = {number: f'"{value.name}"' for number, value in described.values_by_number.items()}
    return lambda number: names.get(number) or str(number)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _quoted(value: int) -> str:
    return f'"{value}"'


def _base64(value: bytes) -> str:
    return f'"{b64encode(value).decode()}"'


def _double(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'


def _timestamp(at: Timestamp) -> str:
    """Write a time with 0, 3, 6 or 9 digits of its second's fraction, the fewest that tell it all."""
    minutes, second = divmod(at.seconds, 60)
    fraction = ""
    if nanos := at.nanos:
        unit, digits = next((unit, digits) for unit, digits in FRACTIONS if nanos % unit == 0)
        fraction = f".{nanos // unit:0{digits}d}"
    return f'"{_minute(minutes)}:{second:02d}{fraction}Z"'


@lru_cache(maxsize=1024)
def _minute(minutes: int) -> str:
    return datetime.fromtimestamp(minutes * 60, UTC).isoformat(timespec="minutes")[:16]

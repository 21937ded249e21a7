"""What goes past the gateway's transcoder is written as protobuf's own writer, and so the transcoder, would."""

import json
import math
from functools import cache
from typing import Any

import pytest
from finalbell.v1 import scoring_pb2, session_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import Int32Value
from hypothesis import given
from hypothesis import strategies as st

from servers.serving.proto_json import to_json

FIRST, LAST = -62_135_596_800, 253_402_300_799
"""The seconds that a Timestamp may hold."""

VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_STRING: st.text(st.characters(codec="utf-8"), max_size=20),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
}


def value_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        value = st.sampled_from(sorted(field.enum_type.values_by_number))
    elif field.message_type is not None:
        value = message_of(field.message_type.full_name)
    else:
        value = st.binary(max_size=9) if field.type == FieldDescriptor.TYPE_BYTES else VALUES[field.cpp_type]
    return st.lists(value, max_size=2) if field.is_repeated else value


@cache
def message_of(name: str) -> st.SearchStrategy[Message]:
    """Make messages of a type, each of their fields set or not."""
    kind = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
    if name == "google.protobuf.Timestamp":
        return st.builds(Timestamp, seconds=st.integers(FIRST, LAST), nanos=st.sampled_from([0, 123_000_000, 123_456_000, 1]))
    fields = {field.name: st.none() | value_of(field) for field in kind.DESCRIPTOR.fields}
    return st.builds(kind, **fields)


@pytest.mark.parametrize("kind", ["SaveAnswerResponse", "SubmitSessionResponse", "Result", "ItemStatistics"])
@given(data=st.data())
def test_a_message_is_written_as_protobufs_own_writer_does(kind: str, data: st.DataObject) -> None:
    message = data.draw(message_of(f"finalbell.v1.{kind}"))

    assert json.loads(to_json(message)) == MessageToDict(message, always_print_fields_with_no_presence=True)


def test_a_number_that_json_lacks_is_written_as_a_word() -> None:
    written = [json.loads(to_json(scoring_pb2.Result(percentile=one)))["percentile"] for one in (math.nan, math.inf, -math.inf)]

    assert written == ["NaN", "Infinity", "-Infinity"]


@pytest.mark.parametrize("message", [Int32Value(value=1), session_pb2.Session()])
def test_a_kind_of_message_that_is_not_written_here_is_refused(message: Message) -> None:
    with pytest.raises(TypeError, match="not written here"):
        to_json(message)

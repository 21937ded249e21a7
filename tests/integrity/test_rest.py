"""A report that is read here is what protobuf's own reader would have read, or it is left to that one."""

import base64
import json
from typing import Any
from uuid import uuid4

import pytest
from finalbell.v1 import integrity_pb2 as pb
from google.protobuf.json_format import ParseDict, ParseError
from hypothesis import example, given
from hypothesis import strategies as st

from servers.errors import InvalidField
from servers.integrity.rest import FIELDS, read_report

SESSION = str(uuid4())
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**33), 2**33),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.just({}),
    st.just([]),
)
CLOCKS = st.one_of(VALUES, st.sampled_from(["2026-11-27T10:00:00Z", "2026-11-27T10:00:00.250Z", "2026-13-01T00:00:00Z", "now"]))
FIELD_NAMES = [
    "awayMs",
    "length",
    "digest",
    "questionId",
    "count",
    "open",
    "online",
    "type",
    "label",
    "attached",
    "roundTripMs",
    "x",
]
KINDS = st.one_of(VALUES, st.dictionaries(st.sampled_from(FIELD_NAMES), VALUES, max_size=3))
SIGNALS = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {},
        optional={"clientTs": CLOCKS, "sequence": VALUES, "telepathy": KINDS, **dict.fromkeys(FIELDS, KINDS)},
    ),
)
BODIES = st.fixed_dictionaries(
    {}, optional={"signals": st.lists(SIGNALS, max_size=3), "deviceId": VALUES, "clientNow": CLOCKS, "other": VALUES}
)
PASTE = {"length": 3, "digest": base64.b64encode(b"abc").decode(), "questionId": "q1"}


def by_protobuf(body: dict[str, Any]) -> pb.ReportSignalsRequest | None:
    try:
        request = ParseDict(body, pb.ReportSignalsRequest(), ignore_unknown_fields=True)
    except (ParseError, ValueError, TypeError, AttributeError, OverflowError):
        return None
    request.session_id = SESSION
    return request


@given(BODIES)
@example({"signals": [{"focusLost": {}, "sequence": 7}, {"paste": PASTE}, {"telepathy": {"x": 1}}]})
@example({"signals": [{"focusRegained": {"awayMs": True}}]})
@example({"signals": [{"focusLost": {}, "copy": {}}]})
@example({"signals": [{"networkChange": {"online": True, "type": "wifi"}, "clientTs": "2026-11-27T10:00:00.250Z"}]})
def test_a_report_is_read_as_protobuf_reads_it(body: dict[str, Any]) -> None:
    wanted = by_protobuf(body)

    try:
        request, surely = read_report(SESSION, json.dumps(body).encode())
    except InvalidField:
        assert wanted is None
        return

    assert request == wanted
    assert not surely


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"sessionId":"x"}', b"\xff"])
def test_what_is_no_report_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidField):
        read_report(SESSION, body)

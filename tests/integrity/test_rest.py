"""A report that is read here is what protobuf's own reader would have read, and as valid, or it is left to that one."""

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
from servers.integrity.rest import KINDS, read_report
from servers.serving.wrap import validate

SESSION = str(uuid4())
NAMES = [field.json_name for field in pb.Signal.DESCRIPTOR.fields if field.name in KINDS]
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
OF_A_KIND = st.one_of(VALUES, st.dictionaries(st.sampled_from(FIELD_NAMES), VALUES, max_size=3))
SIGNALS = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {},
        optional={"clientTs": CLOCKS, "sequence": VALUES, "telepathy": OF_A_KIND, **dict.fromkeys(NAMES, OF_A_KIND)},
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
    if surely:
        validate(request)


@pytest.mark.parametrize(
    "kind",
    [
        {"focusLost": {}},
        {"focusRegained": {"awayMs": 1500}},
        {"copy": {"length": 3, "questionId": "q1"}},
        {"cut": {"length": 3}},
        {"paste": {}},
        {"fullScreenLeft": {"awayMs": 86_400_000}},
        {"displayCount": {"count": 64}},
        {"devTools": {"open": True}},
        {"networkChange": {"online": True, "type": "wifi"}},
        {"deviceChange": {"device": "camera", "label": "\u00e9" * 128, "attached": True}},
        {"ping": {"roundTripMs": 2**31 - 1}},
        {"webcamFrame": {"frameId": SESSION}},
    ],
    ids=lambda kind: next(iter(kind)),
)
def test_what_apps_send_needs_no_other_reader_and_no_other_check(kind: dict[str, Any]) -> None:
    signal = {"clientTs": "2026-11-27T10:00:00.250Z", "sequence": 2**32 - 1, **kind}
    body = {"deviceId": "d", "clientNow": "2026-11-27T10:00:00Z", "signals": [signal] * 100}

    request, surely = read_report(SESSION, json.dumps(body).encode())

    assert surely
    assert request == by_protobuf(body)


@pytest.mark.parametrize(
    "signal",
    [
        {"focusRegained": {"awayMs": 86_400_001}},
        {"focusRegained": {"awayMs": -1}},
        {"copy": {"questionId": "q 1"}},
        {"networkChange": {"type": "\u00e9" * 33}},
        {"webcamFrame": {}},
        {"webcamFrame": {"frameId": "f"}},
        {"displayCount": {"count": 65}},
    ],
    ids=str,
)
def test_a_value_out_of_its_range_is_never_sure(signal: dict[str, Any]) -> None:
    request, surely = read_report(SESSION, json.dumps({"signals": [signal]}).encode())

    assert not surely
    with pytest.raises(InvalidField):
        validate(request)


def test_a_session_in_the_path_that_is_no_id_is_never_sure() -> None:
    assert not read_report("mine", b'{"signals": []}')[1]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"sessionId":"x"}', b"\xff"])
def test_what_is_no_report_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidField):
        read_report(SESSION, body)

"""A submit as REST is read and written as the gateway's transcoder would."""

import json

import pytest
from finalbell.v1 import scoring_pb2, session_pb2
from google.protobuf.json_format import MessageToJson
from hypothesis import given
from hypothesis import strategies as st

from servers.errors import InvalidField
from servers.session.handing_in import read_submit, write_submitted

SESSION = "01a21928-d80e-782f-aa45-c3cd4a0c1828"
whole = st.integers(-(2**31), 2**31 - 1)


@given(
    status=st.sampled_from([scoring_pb2.Result.SCORING, scoring_pb2.Result.SCORED]),
    at_ms=st.integers(0, 4_102_444_800_000),
    totals=st.none() | st.tuples(whole, whole),
    receipt=st.none() | st.text("abcXYZ019-_.", max_size=40),
)
def test_a_reply_is_what_protobufs_own_writer_makes_of_it(
    status: scoring_pb2.Result.Status, at_ms: int, totals: tuple[int, int] | None, receipt: str | None
) -> None:
    reply = session_pb2.SubmitSessionResponse(
        status=status,
        answers_sha256="ab" * 32,
        score=totals[0] if totals else None,
        max_score=totals[1] if totals else None,
        receipt=receipt,
    )
    reply.submitted_at.FromMilliseconds(at_ms)

    written = json.loads(write_submitted(reply.SerializeToString()))

    assert written == json.loads(MessageToJson(reply, always_print_fields_with_no_presence=True))


@pytest.mark.parametrize("body", [b"{}", b'{"unknown": [1]}', f'{{"sessionId": "{SESSION}"}}'.encode()])
def test_a_body_needs_to_say_nothing(body: bytes) -> None:
    request, _ = read_submit(SESSION, body)

    assert request == session_pb2.SubmitSessionRequest(session_id=SESSION)


def test_a_key_may_stand_in_the_body() -> None:
    request, surely_valid = read_submit(SESSION, b'{"idempotencyKey": "0123456789"}')

    assert (request.idempotency_key, surely_valid) == ("0123456789", False)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"idempotencyKey": 5}', b'{"sessionId": "another"}', b"\xff"])
def test_a_body_that_does_not_fit_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidField):
        read_submit(SESSION, body)

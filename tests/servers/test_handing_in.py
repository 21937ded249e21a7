"""A submit as REST is read as the gateway's transcoder would."""

import pytest
from finalbell.v1 import session_pb2

from servers.errors import InvalidField
from servers.session.handing_in import read_submit

SESSION = "01a21928-d80e-782f-aa45-c3cd4a0c1828"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"unknown": [1]}', f'{{"sessionId": "{SESSION}"}}'.encode()])
def test_a_body_needs_to_say_nothing(body: bytes) -> None:
    request, _ = read_submit(SESSION, body)

    assert request == session_pb2.SubmitSessionRequest(session_id=SESSION)


def test_a_key_may_stand_in_the_body() -> None:
    request, surely_valid = read_submit(SESSION, b'{"idempotencyKey": "0123456789"}')

    assert (request.idempotency_key, surely_valid) == ("0123456789", False)


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b'{"a": NaN}', b"{", b'{"idempotencyKey": 5}', b'{"sessionId": "other"}', b"\xff"]
)
def test_a_body_that_does_not_fit_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidField):
        read_submit(SESSION, body)

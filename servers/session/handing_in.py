"""SubmitSession as REST: in the last minute of an exam everybody does it at once."""

import re

from finalbell.v1 import session_pb2
from google.protobuf.json_format import ParseDict, ParseError

from servers import errors
from servers.serving.proto_json import writer
from servers.serving.rest import SESSION, RestMethod, read_json


def read_submit(session: str, body: bytes) -> tuple[session_pb2.SubmitSessionRequest, bool]:
    """Read a request, and say whether it is surely valid; raises InvalidField."""
    given = read_json(body) if body else {}
    given.pop("session_id", None)  # the path says which; a body in camel case may say it too
    request = session_pb2.SubmitSessionRequest()
    if given:
        try:
            ParseDict(given, request, ignore_unknown_fields=True)
        except (ParseError, ValueError, TypeError, AttributeError, RecursionError):
            raise errors.InvalidField([("", "the body does not fit the method")]) from None
        if request.session_id not in ("", session):
            raise errors.InvalidField([("sessionId", "is not the session in the path")])
    request.session_id = session
    return request, not request.idempotency_key and SESSION.fullmatch(session) is not None


SUBMIT_SESSION = RestMethod(
    path="/finalbell.v1.SessionService/SubmitSession",
    verb=b"POST",
    url=re.compile(rb"/api/v1/sessions/([^/?]+)/submit"),
    read=read_submit,
    write=writer(session_pb2.SubmitSessionResponse),
    stands=True,
)

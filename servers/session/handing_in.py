"""SubmitSession as REST: in the last minute of an exam everybody does it at once."""

import re

from finalbell.v1 import scoring_pb2, session_pb2
from google.protobuf.json_format import ParseDict, ParseError

from servers import errors
from servers.serving.rest import RestMethod, read_json
from servers.session.saves import SESSION, rest_time


def read_submit(session: str, body: bytes) -> tuple[session_pb2.SubmitSessionRequest, bool]:
    """Read a request, and say whether it is surely valid; raises InvalidField."""
    given = read_json(body)
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


def write_submitted(message: bytes) -> bytes:
    """Write a reply as the gateway's transcoder would: every primitive field, in the proto's order."""
    reply = session_pb2.SubmitSessionResponse.FromString(message)
    fields = [
        f'"status":"{scoring_pb2.Result.Status.Name(reply.status)}"',
        f'"submittedAt":{rest_time(reply.submitted_at)}',
        f'"answersSha256":"{reply.answers_sha256}"',
    ]
    if reply.HasField("score"):
        fields.append(f'"score":{reply.score}')
    if reply.HasField("max_score"):
        fields.append(f'"maxScore":{reply.max_score}')
    if reply.HasField("receipt"):
        fields.append(f'"receipt":"{reply.receipt}"')
    return f"{{{','.join(fields)}}}".encode()


SUBMIT_SESSION = RestMethod(
    path="/finalbell.v1.SessionService/SubmitSession",
    verb=b"POST",
    url=re.compile(rb"/api/v1/sessions/([^/?]+)/submit"),
    read=read_submit,
    write=write_submitted,
)

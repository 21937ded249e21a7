"""SaveAnswer as REST: its JSON read and written here, since it is what a backend for exams does all day.

A body of the form that apps send is read here; any other that proto3 JSON allows goes through protobuf's own reader, which is
ten times slower. Fields that nobody knows are passed over, as everywhere in this API: a newer app may send them.
"""

import re
from collections.abc import Mapping

from finalbell.v1 import session_pb2 as pb
from google.protobuf.json_format import ParseDict, ParseError

from servers import errors
from servers.messages import read_clock
from servers.serving.proto_json import writer
from servers.serving.rest import SESSION, RestMethod, read_json

PLAIN = {"questionId": str, "choice": str, "number": str, "text": str, "clientSeq": int, "idempotencyKey": str}
NAMES = {
    "questionId": "question_id",
    "choice": "choice",
    "number": "number",
    "text": "text",
    "clientSeq": "client_seq",
    "idempotencyKey": "idempotency_key",
}
ANSWERS = {"choice", "choices", "number", "text", "cleared"}
ID = re.compile("[A-Za-z0-9_-]{1,32}")
CLIENT_TS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z")


def read_save(session: str, body: bytes) -> tuple[pb.SaveAnswerRequest, bool]:
    """Read a request, and say whether it is surely valid; raises InvalidField."""
    given = read_json(body)
    given.pop("session_id", None)  # the path says which; a body in camel case may say it too
    try:
        request = _plainly(given) or ParseDict(given, pb.SaveAnswerRequest(), ignore_unknown_fields=True)
    except (ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as wrong:
        raise errors.InvalidField([("", _said(wrong))]) from None
    if request.session_id not in ("", session):
        raise errors.InvalidField([("sessionId", "is not the session in the path")])
    request.session_id = session
    return request, _surely_valid(request)


def _surely_valid(request: pb.SaveAnswerRequest) -> bool:
    """Whether a request keeps the rules in its proto, as far as a short look tells: most saves are one choice, and what looks
    at every rule takes a tenth of a save's time here."""
    return (
        ID.fullmatch(request.choice) is not None
        and ID.fullmatch(request.question_id) is not None
        and SESSION.fullmatch(request.session_id) is not None
        and not request.idempotency_key
        and (request.client_seq > 0 or not request.HasField("client_seq"))
    )


def _plainly(given: Mapping[str, object]) -> pb.SaveAnswerRequest | None:
    """Read a request of the usual form; None: it has another."""
    fields: dict[str, object] = {}
    answers = 0
    for name, value in given.items():
        if type(value) is PLAIN.get(name):
            fields[NAMES[name]] = value
            answers += name in ANSWERS
        elif name == "clientTs" and isinstance(value, str) and CLIENT_TS.fullmatch(value):
            fields["client_ts"] = read_clock(value)
        else:
            return None
    return pb.SaveAnswerRequest(**fields) if answers <= 1 else None  # type: ignore[arg-type]


def _said(wrong: Exception) -> str:
    """Say what protobuf found, without its inside and without the value."""
    field = re.search(r"Failed to parse ([A-Za-z0-9_.]{1,64}) field", str(wrong))
    return f"the body's field '{field[1]}' has a value that it cannot have" if field else "the body does not fit the method"


SAVE_ANSWER = RestMethod(
    path="/finalbell.v1.SessionService/SaveAnswer",
    verb=b"PUT",
    url=re.compile(rb"/api/v1/sessions/([^/?]+)/answers"),
    read=read_save,
    write=writer(pb.SaveAnswerResponse),
)

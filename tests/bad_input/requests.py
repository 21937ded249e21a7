"""HTTP that no generated client would send, a request each, and how it is answered. `$live` is a session of the world."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, and its answer."""

    what: str
    verb: str
    path: str
    status: int
    reason: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    who: str | None = "wally"


SAVES = "/api/v1/sessions/$live/answers"
SAVING = b'{"questionId":"q1","choice":"B"}'


def http_save(
    what: str, body: bytes, path: str = SAVES, status: int = 400, reason: str = "INVALID_FIELD", **headers: str
) -> Request:
    sent = {
        "content-type": "application/json",
        "idempotency-key": "a-key-of-http",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Request(what, "PUT", path, status, reason, body, sent)


REQUESTS = [
    *(
        http_save(f"body {body[:20]!r}", body)
        for body in (b"", b"{", b"null", b"[]", b"1", b'"x"', b"\xff", b"{} {}", b'{"questionId":"q1",}', b"{'a':1}")
    ),
    http_save("array 60,000 deep", b"[" * 60_000),
    http_save("object 10,000 deep", b'{"a":' * 10_000),
    http_save("invalid UTF-8", b'{"questionId":"q4","text":"\xff"}'),
    http_save("lone surrogate", b'{"questionId":"q4","text":"\\ud800"}'),
    http_save("NUL", b'{"questionId":"q4","text":"a\\u0000b"}'),
    http_save("NaN", b'{"questionId":"q1","choice":"B","clientSeq":NaN}'),
    http_save("1e400", b'{"questionId":"q1","choice":"B","clientSeq":1e400}'),
    http_save("1.5 for an integer", b'{"questionId":"q1","choice":"B","clientSeq":1.5}'),
    http_save("-1 for an unsigned", b'{"questionId":"q1","choice":"B","clientSeq":-1}'),
    http_save("2^32", b'{"questionId":"q1","choice":"B","clientSeq":4294967296}'),
    http_save("number for a text", b'{"questionId":"q4","text":1}'),
    http_save("text for an object", b'{"questionId":"q2","choices":"A"}'),
    http_save("two answers at once", b'{"questionId":"q1","choice":"B","text":"B"}'),
    http_save("misspelt answer", b'{"questionId":"q1","chioce":"B"}'),
    http_save("null answer", b'{"questionId":"q1","choice":null}'),
    http_save("client clock that is no time", b'{"questionId":"q1","choice":"B","clientTs":"yesterday"}'),
    http_save("body's session is not the path's", b'{"sessionId":"$theirs","questionId":"q1","choice":"A"}'),
    http_save("query's session is not the path's", SAVING, f"{SAVES}?sessionId=$theirs"),
    http_save("query's session in snake case", SAVING, f"{SAVES}?session_id=$theirs"),
    http_save("unknown query parameter", SAVING, f"{SAVES}?bogus=1"),
    http_save("token in the query", SAVING, f"{SAVES}?access_token=x"),
    http_save("text/plain", SAVING, status=415, reason="UNSUPPORTED_MEDIA_TYPE", content_type="text/plain"),
    http_save("XML", b"<a/>", status=415, reason="UNSUPPORTED_MEDIA_TYPE", content_type="application/xml"),
    Request(
        "a batch of 20,000 empty items",
        "POST",
        "/api/v1/sessions/$live/answers:batchSave",
        400,
        "INVALID_FIELD",
        b'{"items":[' + b",".join([b"{}"] * 20_000) + b"]}",
    ),
    http_save("12,000 choices", b'{"questionId":"q2","choices":{"ids":[' + b",".join([b'"!"'] * 12_000) + b"]}}"),
    http_save("65 KiB", b'{"questionId":"q4","text":"' + b"x" * 66_000 + b'"}', status=413, reason="REQUEST_TOO_LARGE"),
    http_save("1 MiB", b"x" * 2**20, status=413, reason="REQUEST_TOO_LARGE"),
    http_save("headers of 61 KB", SAVING, status=431, reason="HEADERS_TOO_LARGE", x_big="x" * 62_000),
    http_save("gzip", b"\x1f\x8b\x08\x00" + b"\0" * 20, content_encoding="gzip"),
    Request("header with an underscore", "GET", "/api/v1/exams", 400, "INVALID_FIELD", headers={"x_student_id": "other"}),
    Request(
        "headers that gRPC has no names for", "GET", "/api/v1/exams/w-open", 200, "", headers={"a+b": "1", "%": "2", "x-^": ""}
    ),
    Request("no such path", "GET", "/api/v1/nope", 404, "ROUTE_NOT_FOUND"),
    Request("no such path, without a token", "GET", "/api/v1/nope", 401, "TOKEN_INVALID", who=None),
    Request("another case", "GET", "/api/v1/Exams", 404, "ROUTE_NOT_FOUND"),
    Request("another method", "DELETE", "/api/v1/sessions/$live", 404, "ROUTE_NOT_FOUND"),
    Request("another method of a save", "PATCH", SAVES, 404, "ROUTE_NOT_FOUND", SAVING),
    Request("TRACE", "TRACE", "/api/v1/exams", 404, "ROUTE_NOT_FOUND"),
    Request("a REST call of a gRPC path", "GET", "/finalbell.v1.SessionService/GetSession", 404, "ROUTE_NOT_FOUND"),
    Request("the console", "GET", "/metrics", 404, "ROUTE_NOT_FOUND"),
    Request("an escaped slash", "GET", "/api/v1/exams%2Fw-open", 400, "INVALID_FIELD"),
    Request("an escaped NUL", "GET", "/api/v1/exams/%00", 400, "INVALID_FIELD"),
    Request("an escaped backslash", "GET", "/api/v1/exams%5cw-open", 400, "INVALID_FIELD"),
    Request("dots out of the API", "GET", "/api/v1/../../metrics", 404, "ROUTE_NOT_FOUND"),
    Request("escaped dots out of the API", "GET", "/api/v1/%2e%2e/%2e%2e/metrics", 404, "ROUTE_NOT_FOUND"),
    Request("dots past the token", "GET", "/grpc.health.v1.Health/../api/v1/exams", 401, "TOKEN_INVALID", who=None),
    Request("top is no number", "GET", "/api/v1/exams/w-strict/leaderboard?top=abc", 400, "INVALID_FIELD"),
    Request("top is no whole number", "GET", "/api/v1/exams/w-strict/leaderboard?top=1.5", 400, "INVALID_FIELD"),
    Request("page token that is no UTF-8", "GET", "/api/v1/sessions?pageToken=%ff", 400, "INVALID_FIELD"),
    Request(
        "a start that names another exam", "POST", "/api/v1/exams/w-open/sessions", 400, "INVALID_FIELD", b'{"examId":"w-sold"}'
    ),
    Request(
        "a start that says when it ends",
        "POST",
        "/api/v1/exams/w-open/sessions",
        200,
        "",
        b'{"endsAt":"2099-01-01T00:00:00Z","studentId":"other","seed":1}',
    ),
]

"""The gateway's configuration: fills in `gateway/envoy.yaml`, and words what Envoy answers by itself."""

import json
import re
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from string import Template
from types import MappingProxyType
from urllib.parse import quote

from finalbell.v1 import policy_pb2
from google.api.annotations_pb2 import http
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

ROOT = Path(__file__).resolve().parent.parent  # of the checkout, or of site-packages
SAVE = "/finalbell.v1.SessionService/SaveAnswer"
SUBMIT = "/finalbell.v1.SessionService/SubmitSession"
REPORT = "/finalbell.v1.IntegrityService/ReportSignals"
RESULT = "/finalbell.v1.ScoringService/GetResult"
ROOM, ROOM_TOGETHER = 256, 1024
"""How many calls may be with one worker at a time; more are refused at once. One that answers 1,000 a second and takes a quarter
of a second for each holds 256; a slower one should not hold more, since its clients give up waiting. The session service takes
calls many at a time, some thousands a second; its submits, which wait up to a second for their scores, have as much room again."""

TOGETHER = frozenset({"session", "saves"})
LECTURE_PATH = "/lecture/[a-z0-9][a-z0-9-]{0,62}"
"""Where a lecture is watched."""

HLS = "hls-1.7.4.light.min.js"
"""hls.js as it was published, without what the page does not use; its licence lies beside it."""

HLS_PATH = f"/lecture/{HLS}"

BOARD_PATH = "/board/[a-z0-9][a-z0-9-]{0,62}"
"""Where the live page of an exam's board is."""

UNSENT = [{"description": "TCP_NOTSENT_LOWAT", "level": 6, "name": 25, "int_value": 65536, "state": "STATE_PREBIND"}]
"""How much that is not even on its way Linux takes from Envoy for one client. It would take 2.6 MB for a reader that has stalled:
memory for nothing, and minutes of a board's old frames before the new one, were it to read again."""

LOCAL_ORIGINS = r"https?://(localhost|127\.0\.0\.1)(:[0-9]+)?"


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where the gateway listens, what stands behind it, and whose tokens it takes.

    `upstreams` has the keys session, scoring, leaderboard, content, payments, admin and integrity, each with the addresses of
    its workers; every address is an IP address. `saves` is where the session service's workers take saves and submits as REST,
    `results` where the scoring service's take GetResult, `signals` where the integrity service's take ReportSignals: sockets on
    the same machine, or addresses too. `media` is where the media origin's workers are, none where media come from elsewhere;
    `media_hosts` says where players get them, as sources of a Content-Security-Policy. Envoy reads `jwks` once, when it starts,
    and does not start while there is no key in it. Where keys change while it runs, `auth` is a file in a folder of its own
    that holds `auth_config`, written before Envoy starts and replaced by a rename whenever `jwks` changes.
    `origins` is an RE2 pattern of the web origins that may call from a browser, matched whole. `frames` says which origins may
    show the pages of boards and lectures within a page of theirs, as a Content-Security-Policy's `frame-ancestors` does. `sources`
    holds `envoy.yaml`, `response.lua`, the pages and hls.js, `descriptors` is `api.binpb`; they are read here and written into
    the configuration, so that Envoy needs no other file.
    """

    listen: tuple[str, int]
    admin: tuple[str, int]
    upstreams: Mapping[str, Sequence[tuple[str, int]]]
    saves: Sequence[Path | tuple[str, int]]
    results: Sequence[Path | tuple[str, int]]
    signals: Sequence[Path | tuple[str, int]]
    jwks: Path
    issuer: str
    audience: str
    access_log: Path
    media: Sequence[Path | tuple[str, int]] = ()
    auth: Path | None = None
    origins: str = LOCAL_ORIGINS
    frames: str = "'none'"
    media_hosts: str = "'self'"
    sources: Path = ROOT / "gateway"
    descriptors: Path = ROOT / "gen" / "api.binpb"


def envoy_config(gateway: Gateway) -> str:
    """Give Envoy's configuration as YAML.

    Every value is written as JSON, which is YAML too, so that none can break out of its place.
    """
    api = FileDescriptorSet.FromString(gateway.descriptors.read_bytes())
    page = _page(gateway.sources / "board.html")
    hls = (gateway.sources / "hls" / HLS).read_text()
    integrity = _digest(hls)
    lecture = _page(gateway.sources / "lecture.html").replace("$hls_path", HLS_PATH).replace("$hls_hash", integrity)
    lecture_policy = {
        "script-src": f"'{integrity}'",
        "connect-src": gateway.media_hosts,
        "media-src": f"blob: {gateway.media_hosts}",
    }
    values: dict[str, object] = {
        "host": gateway.listen[0],
        "port": gateway.listen[1],
        "console_host": gateway.admin[0],
        "console_port": gateway.admin[1],
        "auth": _auth_filter(gateway, api),
        "access_log": str(gateway.access_log),
        "origins": gateway.origins,
        "lua": (gateway.sources / "response.lua").read_text(),
        "local_replies": [mapper for reply in LOCAL_REPLIES for mapper in _mappers(reply)],
        "save_path": _rest_path(api, SAVE, "[0-9A-Fa-f-]{36}"),
        "submit_path": _rest_path(api, SUBMIT, "[0-9A-Fa-f-]{36}"),
        "report_path": _rest_path(api, REPORT, "[0-9A-Fa-f-]{36}"),
        "result_path": _rest_path(api, RESULT, "[0-9A-Fa-f-]{36}"),
        "board_path": BOARD_PATH,
        "board_page": page,
        "board_headers": _headers(*_page_headers(page, gateway.frames)),
        "lecture_path": LECTURE_PATH,
        "lecture_page": lecture,
        "lecture_headers": _headers(*_page_headers(lecture, gateway.frames, lecture_policy)),
        "hls_path": HLS_PATH,
        "hls": hls,
        "unsent": UNSENT if sys.platform == "linux" else [],
        "unwrapped": "|".join(_unwrapped(api)),
        "path_fields_in_query": "|".join(_path_fields_in_query(api)),
        "descriptors": b64encode(_for_envoy(api).SerializeToString()).decode(),
    }
    beside = {"saves": gateway.saves, "results": gateway.results, "signals": gateway.signals, "media": gateway.media}
    for name, workers in {**gateway.upstreams, **beside}.items():
        values |= {
            name: [_endpoint(worker) for worker in workers],
            f"{name}_room": (ROOM_TOGETHER if name in TOGETHER else ROOM) * len(workers),
        }
    template = Template((gateway.sources / "envoy.yaml").read_text())
    return template.substitute({name: json.dumps(value) for name, value in values.items()})


def _page(file: Path) -> str:
    """Give a page with the script that all of them share, in place of `$token`: each is one file to a browser, and one policy."""
    return file.read_text().replace("$token", file.with_name("token.js").read_text().rstrip())


def _digest(text: str) -> str:
    """Give a text's hash, as a page's integrity and its policy name it."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _page_headers(page: str, frames: str, more: Mapping[str, str] = MappingProxyType({})) -> Iterator[tuple[str, str]]:
    """Give the headers of a page that brings its own styles and scripts: those run, by their hashes, and nothing else does.

    It may call its own origin, make no markup from text (Trusted Types), and be shown in the pages of `frames`; `more` has what
    else it may use, by directive.
    """
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in re.findall(r"<(script|style)\b[^>]*>(.*?)</\1>", page, re.DOTALL):
        if text:
            hashes[kind].append(f"'{_digest(text)}'")
    allowed = {f"{kind}-src": " ".join(found) for kind, found in hashes.items()} | {"connect-src": "'self'"}
    for directive, value in more.items():
        allowed[directive] = f"{allowed.get(directive, '')} {value}".strip()
    policy = {
        "default-src": "'none'",
        **allowed,
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": frames,
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    yield "content-type", "text/html; charset=utf-8"
    yield "content-security-policy", "; ".join(f"{directive} {value}" for directive, value in policy.items()).replace("%", "%%")
    yield "x-content-type-options", "nosniff"
    yield "referrer-policy", "no-referrer"
    yield "cache-control", "public, max-age=300"


def _endpoint(at: Path | tuple[str, int]) -> dict[str, object]:
    if isinstance(at, Path):
        return {"endpoint": {"address": {"pipe": {"path": str(at)}}}}
    return {"endpoint": {"address": {"socket_address": {"address": at[0], "port_value": at[1]}}}}


def auth_config(gateway: Gateway) -> str:
    """Give the text of the file `gateway.auth`: whose tokens are taken, with the keys as they are in `jwks` now.

    Envoy puts it in force for the next request, and forgets which tokens it had verified with the old keys. While what
    it finds is not valid it stays with what it had.
    """
    extension = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
    api = FileDescriptorSet.FromString(gateway.descriptors.read_bytes())
    config = _jwt_authn(gateway, api, {"inline_string": gateway.jwks.read_text()})
    return json.dumps({"resources": [{"@type": extension, "name": AUTH, "typed_config": config}]})


# Whose tokens are taken

AUTH = "envoy.filters.http.jwt_authn"
JWT_AUTHN = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"


def _auth_filter(gateway: Gateway, api: FileDescriptorSet) -> dict[str, object]:
    """Give the filter that checks tokens.

    Envoy never reads a `local_jwks` file again, `watched_directory` or not, so that changing keys need the filter's
    whole configuration to be discovered from a file.
    """
    if gateway.auth is None:
        return {"name": AUTH, "typed_config": _jwt_authn(gateway, api, {"filename": str(gateway.jwks)})}
    source = {"path": str(gateway.auth), "watched_directory": {"path": str(gateway.auth.parent)}}
    discovery = {"config_source": {"path_config_source": source, "resource_api_version": "V3"}, "type_urls": [JWT_AUTHN]}
    return {"name": AUTH, "config_discovery": discovery}


def _jwt_authn(gateway: Gateway, api: FileDescriptorSet, keys: dict[str, str]) -> dict[str, object]:
    provider = {
        "issuer": gateway.issuer,
        "audiences": [gateway.audience],
        "local_jwks": keys,
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],  # and nowhere else, ?access_token= say
        "forward": True,  # the services verify it again
        "require_expiration": True,
        "clock_skew_seconds": 60,
        "jwt_cache_config": {"jwt_cache_size": 200_000, "jwt_max_token_size": 4096},
    }
    # The filter lets a request pass that no rule matches: the last rule matches all.
    health = {"match": {"prefix": "/grpc.health.v1.Health/"}}
    pages = {"match": {"safe_regex": {"regex": f"{BOARD_PATH}|{LECTURE_PATH}|{re.escape(HLS_PATH)}"}}}
    media = {"match": {"prefix": "/media/"}}  # its links carry their own right
    protected = {"match": {"prefix": "/"}, "requires": {"provider_name": "finalbell"}}
    return {"@type": JWT_AUTHN, "providers": {"finalbell": provider}, "rules": [health, pages, media, *_open(api), protected]}


def _open(api: FileDescriptorSet) -> Iterator[dict[str, object]]:
    """Give the rules of what needs no token, by the API's own policies: each method's gRPC path, and its REST path and verb.

    Where a token is optional only a request without an Authorization header needs none: any other, whatever its header says,
    is the last rule's, and has to be right. (`allow_missing` would let pass what does not look like a token at all.)
    """
    anonymous = {"name": "authorization", "present_match": True, "invert_match": True}
    said: dict[int, list[dict[str, object]]] = {policy_pb2.Policy.PUBLIC: [], policy_pb2.Policy.TOKEN_OPTIONAL: [anonymous]}
    policies = {
        f"/{file.package}.{service.name}/{method.name}": method.options.Extensions[policy_pb2.policy]
        for file in api.file
        for service in file.service
        for method in service.method
    }
    for path, policy in policies.items():
        if policy.access in said:
            yield {"match": {"path": path, "headers": said[policy.access]}}
    for path, _, rule in _bindings(api):
        if (access := policies[path].access) in said:
            verb = {"name": ":method", "string_match": {"exact": str(rule.WhichOneof("pattern")).upper()}}
            yield {"match": {"safe_regex": {"regex": _pattern(rule, "[^/]+")}, "headers": [verb, *said[access]]}}


# What Envoy answers by itself


@dataclass(frozen=True, slots=True)
class LocalReply:
    """One answer of Envoy's own: when it is given, and what it says.

    It is given for the HTTP status that Envoy chose (None: any), where `when`, a CEL expression, is true. `message` is
    ASCII, and never a part of the request.
    """

    status: int | None
    code: StatusCode
    reason: str
    message: str
    when: str = ""
    retry_after_seconds: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    answer: int | None = None  # where the client gets another status than Envoy chose


EXPIRED = 'response.code_details.startsWith("jwt_authn_access_denied{Jwt_is_expired")'
OTHER_AUDIENCE = 'response.code_details.startsWith("jwt_authn_access_denied")'
OVERFLOW = 'response.code_details.contains("overflow")'
ROUTE = 'xds.route_name == "{}"'  # of a route that refuses
CHALLENGE = (("www-authenticate", 'Bearer realm="finalbell"'),)
BAD_TOKEN = (StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", "A valid bearer token is required.")
BAD_REQUEST = (
    StatusCode.INVALID_ARGUMENT,
    "INVALID_FIELD",
    "The path, a query parameter, a header or the JSON body does not fit the method.",
)
AGAIN = "Repeat the request with the same Idempotency-Key."

LOCAL_REPLIES = (
    LocalReply(401, StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED", "The token has expired.", EXPIRED, headers=CHALLENGE),
    LocalReply(401, *BAD_TOKEN, headers=CHALLENGE),
    LocalReply(403, *BAD_TOKEN, OTHER_AUDIENCE, headers=CHALLENGE, answer=401),
    LocalReply(400, *BAD_REQUEST),
    LocalReply(404, *BAD_REQUEST, ROUTE.format("refuse_query"), answer=400),
    LocalReply(
        404,
        StatusCode.INVALID_ARGUMENT,
        "UNSUPPORTED_MEDIA_TYPE",
        "The body must be application/json.",
        ROUTE.format("refuse_media_type"),
        answer=415,
    ),
    LocalReply(
        404,
        StatusCode.UNIMPLEMENTED,
        "UNSUPPORTED_ENCODING",
        "This service takes uncompressed messages only.",
        ROUTE.format("refuse_compressed"),
        headers=(("grpc-accept-encoding", "identity"),),
        answer=415,
    ),
    LocalReply(403, StatusCode.PERMISSION_DENIED, "NOT_ALLOWED", "The gateway does not take such requests."),
    LocalReply(404, StatusCode.NOT_FOUND, "ROUTE_NOT_FOUND", "There is no such method at this path."),
    LocalReply(405, StatusCode.UNIMPLEMENTED, "METHOD_NOT_ALLOWED", "This path does not take this HTTP method."),
    LocalReply(408, StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "The request did not arrive in time."),
    LocalReply(413, StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", "A request is at most 64 KiB."),
    LocalReply(429, StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", "Too many requests.", retry_after_seconds=1),
    LocalReply(431, StatusCode.RESOURCE_EXHAUSTED, "HEADERS_TOO_LARGE", "Headers are at most 100, and 60 KB in all."),
    LocalReply(
        503,
        StatusCode.UNAVAILABLE,
        "OVERLOADED",
        "Too many requests are waiting; nothing was changed.",
        OVERFLOW,
        retry_after_seconds=1,
    ),
    *(
        LocalReply(
            status,
            StatusCode.UNAVAILABLE,
            "UPSTREAM_UNAVAILABLE",
            f"The service cannot be reached. {AGAIN}",
            retry_after_seconds=1,
        )
        for status in (502, 503)
    ),
    LocalReply(504, StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", f"The service took too long. {AGAIN}"),
    LocalReply(None, StatusCode.INTERNAL, "GATEWAY_ERROR", "The gateway could not handle the request."),
)

# The transcoder turns a REST request into a gRPC one, and leaves this header on it; clients' own are stripped.
_FROM_GRPC: dict[str, object] = {
    "and_filter": {
        "filters": [
            {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}},
            {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": False}}},
        ]
    }
}


def _mappers(reply: LocalReply) -> Iterator[dict[str, object]]:
    """Word a reply twice: for gRPC and gRPC-web as headers without a body, for REST as a JSON body."""
    status = _status(reply)
    details = b64encode(status.SerializeToString()).decode().rstrip("=")
    headers = [*reply.headers]
    if reply.retry_after_seconds:
        headers.append(("retry-after", str(reply.retry_after_seconds)))
    yield {
        "filter": _filter(reply, _FROM_GRPC),
        "status_code": 200,
        "headers_to_add": _headers(
            *headers,
            ("grpc-status", str(status.code)),
            ("grpc-message", quote(status.message, safe=" ,;:'()/-")),
            ("grpc-status-details-bin", details),
        ),
        "body_format_override": {"text_format_source": {"inline_string": ""}},
    }
    body = MessageToDict(status, always_print_fields_with_no_presence=True)
    yield {
        "filter": _filter(reply),
        **({"status_code": reply.answer} if reply.answer else {}),
        "headers_to_add": _headers(*headers),
        "body_format_override": {
            "text_format_source": {"inline_string": json.dumps(body, separators=(",", ":"))},
            "content_type": "application/json",
        },
    }


def _status(reply: LocalReply) -> Status:
    """Give what a service would have sent for the same refusal."""
    status = Status(code=reply.code.value[0], message=reply.message)
    status.details.add().Pack(ErrorInfo(reason=reply.reason, domain="finalbell"))
    if reply.retry_after_seconds:
        status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=reply.retry_after_seconds)))
    return status


def _filter(reply: LocalReply, *filters: dict[str, object]) -> dict[str, object]:
    """Give the access log filter that is true for this reply."""
    lowest = reply.status or 400  # what is below is no refusal: the live page
    comparison = {"op": "EQ" if reply.status else "GE", "value": {"default_value": lowest, "runtime_key": "gateway.reply"}}
    every: list[dict[str, object]] = [{"status_code_filter": {"comparison": comparison}}, *filters]
    if reply.when:
        kind = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
        cel = {"@type": kind, "expression": reply.when}
        every.append({"extension_filter": {"name": "envoy.access_loggers.extension_filters.cel", "typed_config": cel}})
    return {"and_filter": {"filters": every}} if len(every) > 1 else every[0]


def _headers(*headers: tuple[str, str]) -> list[dict[str, object]]:
    return [{"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"} for key, value in headers]


# What the transcoder needs to be told about the API


def _bindings(api: FileDescriptorSet) -> Iterator[tuple[str, DescriptorProto, HttpRule]]:
    """Give each binding of each REST method: the gRPC path, the request message and the rule."""
    for file in api.file:
        messages = {f".{file.package}.{message.name}": message for message in file.message_type}
        for service in file.service:
            for method in service.method:
                if method.options.HasExtension(http):
                    path = f"/{file.package}.{service.name}/{method.name}"
                    first = method.options.Extensions[http]
                    for rule in (first, *first.additional_bindings):
                        yield path, messages[method.input_type], rule


def _rest_path(api: FileDescriptorSet, method: str, field: str) -> str:
    """Give the pattern of the REST path of a method that has one."""
    (rule,) = (rule for path, _, rule in _bindings(api) if path == method)
    return _pattern(rule, field)


def _pattern(rule: HttpRule, field: str) -> str:
    """Give the pattern of a REST path, whose fields look like `field`; others are the transcoder's to judge."""
    return re.sub(r"{\w+}", field.replace("\\", r"\\"), _template(rule))


def _path_fields(rule: HttpRule) -> list[str]:
    """Give the names of the fields that are taken from the path."""
    return re.findall(r"{(\w+)}", _template(rule))


def _template(rule: HttpRule) -> str:
    return str(getattr(rule, rule.WhichOneof("pattern")))


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


def _unwrapped(api: FileDescriptorSet) -> Iterator[str]:
    """Give patterns of the gRPC paths whose REST reply is one field of their message (`response_body`)."""
    return (re.escape(path) for path, _, rule in _bindings(api) if rule.response_body)


def _path_fields_in_query(api: FileDescriptorSet) -> Iterator[str]:
    """Give patterns of REST paths with a query parameter that the path sets already.

    The transcoder would let the parameter win: /sessions/A?sessionId=B would read B.
    """
    for _, _, rule in _bindings(api):
        if rule.get and (fields := _path_fields(rule)):
            path = re.sub(r"{\w+}", "[^/?]+", _template(rule))
            names = "|".join(sorted({name for field in fields for name in (field, _camel(field))}))
            yield rf"{path}/?\?(.*&)?({names})(=.*|&.*|)"
    yield r"[^?]*\?(.*&)?[^=&]*%.*"  # a name in disguise


def _for_envoy(api: FileDescriptorSet) -> FileDescriptorSet:
    """Give the descriptors in the form that makes Envoy's transcoder do what the API promises.

    `response_body` goes, since Envoy refuses to start with it (gateway/response.lua does its work). Request fields that
    come from the path are named as in JSON, since it looks for them in the body by their proto name only, and a body
    with another `sessionId` than the path must be refused.
    """
    ours = FileDescriptorSet.FromString(api.SerializeToString())
    for _, request, rule in _bindings(ours):
        rule.response_body = ""
        in_path = {_camel(name) for name in _path_fields(rule)}
        for field in request.field:
            if _camel(field.name) in in_path:
                field.name = _camel(field.name)
        template = re.sub(r"{(\w+)}", lambda match: f"{{{_camel(match[1])}}}", _template(rule))
        setattr(rule, rule.WhichOneof("pattern"), template)
    for file in ours.file:
        file.ClearField("source_code_info")
    return ours

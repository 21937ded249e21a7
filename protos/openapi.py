"""Writes `openapi.json`, the REST contract, from `api.binpb`: `python protos/openapi.py DIRECTORY` (generate.py does).

Routes come from the http annotations, schemas from the messages and their validation rules, texts from the comments.
What it does not understand stops it: a contract that leaves something out would be worse than none.
"""

import json
import re
import sys
from pathlib import Path

from finalbell.v1 import policy_pb2
from google.api.annotations_pb2 import http
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto
from openapi_schemas import Contract, Schema, Schemas, needs_value, target

SUCCESSES = {  # what answers with another status than 200, or with one more
    "StartSession": {"200": "The session that was in progress.", "201": "A new session."},
    "SubmitSession": {"200": "Scored and released within the wait.", "202": "Stored safely; the score is on its way."},
    "RegradeExam": {"202": "Asked for; ask GetRegrade how far it is."},
    "GetResult": {"200": "The result.", "202": "Not scored yet; ask again after `Retry-After` seconds."},
    "ReportSignals": {"202": "Taken, as far as the reply says."},
    "AnalyseExam": {"200": "The run, done or failed.", "202": "Still under way; ask GetAnalysis after `Retry-After` seconds."},
    "OpenCase": {"200": "The case that there is.", "201": "A new case."},
    "ComputeItemStatistics": {"200": "The statistics.", "202": "Still computing; repeat after `Retry-After` seconds."},
}
HTTP_BODY = "google.api.HttpBody"
EVENTS: Schema = {"text/event-stream": {"schema": {"type": "string"}}}
RAW: Schema = {"*/*": {"schema": {"type": "string", "description": "Whatever the gateway's own protocol says."}}}
SEALED: Schema = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
CACHED = "ContentService"  # what is read from it carries an ETag
ERRORS = {  # HTTP status: the gRPC codes behind it, and what it means where the RPC says nothing more
    "400": ("INVALID_ARGUMENT FAILED_PRECONDITION OUT_OF_RANGE", "A field is malformed or missing (`INVALID_FIELD`)."),
    "401": ("UNAUTHENTICATED", "No token, a bad one (`TOKEN_INVALID`) or an expired one (`TOKEN_EXPIRED`)."),
    "403": ("PERMISSION_DENIED", "The token lacks the role (`ROLE_REQUIRED`)."),
    "404": ("NOT_FOUND", "What the URL names does not exist for this caller."),
    "409": ("ALREADY_EXISTS ABORTED", "The key was used with another body (`IDEMPOTENCY_KEY_REUSED`)."),
    "413": ("", "The body is larger than 64 KiB."),
    "429": ("RESOURCE_EXHAUSTED", "Too fast (`RATE_LIMITED`); wait as long as `RetryInfo` says."),
    "503": ("UNAVAILABLE", "`OVERLOADED` (not applied) or `STORE_UNAVAILABLE` (perhaps applied): repeat, same key."),
}
INFO: Schema = {
    "title": "finalbell",
    "version": "v1",
    "description": "Timed exams for very many students at once. docs/clients.md says how to call and when to repeat.",
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
SERVERS = [{"url": "http://127.0.0.1:8080", "description": "A local stack (`make up`)."}]
SECURITY = {"bearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}


class Rpc:
    """One of the http rules of an RPC, the `nth` after its first, and the operation it becomes."""

    def __init__(self, service: str, method: MethodDescriptorProto, contract: Contract, rule: HttpRule, nth: int) -> None:
        self.service = service
        self.name = method.name
        self.comment = contract.comments[f"{service}.{method.name}"]
        self.policy: policy_pb2.Policy = method.options.Extensions[policy_pb2.policy]
        self.http = rule
        self.id = f"{service}_{self.name}" + (f"_{nth + 1}" if nth else "")
        self.streams = method.server_streaming
        self.verb = str(self.http.WhichOneof("pattern"))
        self.template = str(getattr(self.http, self.verb))
        self.bound = frozenset(re.findall(r"\{(\w+)\}", self.template))
        self.path = re.sub(r"_([a-z])(?=\w*\})", lambda found: found[1].upper(), self.template)
        self.asks = method.input_type.removeprefix(".")
        self.answers = method.output_type.removeprefix(".")
        self._contract = contract
        asked = {field.name: target(field) for field in contract.messages[self.asks].field}
        self.raw = asked.get(self.http.body) == HTTP_BODY
        self._cached = service == CACHED and self.verb == "get"
        if (self.http.body not in ("", "*") and not self.raw) or self.template.count("{") != len(self.bound):
            raise NotImplementedError(f"{service}.{method.name}: an http rule of a kind that no RPC had before")

    def described(self) -> Schema:
        """Return who and what it is."""
        token: Schema = {"bearerAuth": []}
        security: dict[int, list[Schema]] = {policy_pb2.Policy.PUBLIC: [], policy_pb2.Policy.TOKEN_OPTIONAL: [{}, token]}
        return {
            "operationId": self.id,
            "tags": [self.service],
            "summary": re.split(r"(?<=\.)\s", self.comment, maxsplit=1)[0],
            "description": self.comment,
            "security": security.get(self.policy.access, [token]),
        }

    def asked(self, schemas: Schemas) -> Schema:
        """Return its parameters and its body."""
        fields = self._contract.messages[self.asks].field
        parameters = self._headers(schemas)
        for field in fields:
            if field.name in self.bound or not self.http.body:
                schema = schemas.field(self.asks, field, request=True)
                where = "path" if field.name in self.bound else "query"
                parameters.append(
                    _parameter(field.json_name, where, schema, required=where == "path" or needs_value(field, schema))
                )
        found: Schema = {"parameters": parameters} if parameters else {}
        if self.raw:
            found["requestBody"] = {"required": True, "content": RAW}
        elif self.http.body and len(fields) > len(self.bound):
            body = schemas.ref(self.asks, request=True, without=self.bound)
            made = schemas.made[self.asks.rpartition(".")[2]]
            found["requestBody"] = {"required": "required" in made or "oneOf" in made, "content": _json(body)}
        return found

    def _headers(self, schemas: Schemas) -> list[Schema]:
        headers = []
        if self.policy.key:
            field = next(f for f in self._contract.messages[self.asks].field if f.name == "idempotency_key")
            required = self.policy.key == policy_pb2.Policy.REQUIRED
            schema = schemas.field(self.asks, field, request=True)
            headers.append(_parameter("Idempotency-Key", "header", schema, required=required))
        if self._cached:
            text = "The ETag of the copy that the client has."
            headers.append(_parameter("If-None-Match", "header", {"type": "string", "description": text}, required=False))
        return headers

    def answered(self, schemas: Schemas) -> Schema:
        """Return its replies by HTTP status."""
        shown = self.http.response_body
        fields = self._contract.messages[self.answers].field
        name = next(target(field) for field in fields if field.name == shown) if shown else self.answers
        raw = EVENTS if self.streams else SEALED if self._cached else RAW
        reply = raw if name == HTTP_BODY else _json(schemas.ref(name, request=False))
        replies: dict[str, Schema] = {}
        for status, text in SUCCESSES.get(self.name, {"200": "Success."}).items():
            replies[status] = {"description": text, "content": reply}
        if self._cached:
            tag = {"ETag": {"description": "Send it back as `If-None-Match`.", "schema": {"type": "string"}}}
            text = "For how many seconds nobody could confirm this reply, since PostgreSQL is away; absent: it is fresh."
            replies["200"]["headers"] = tag | {"X-Finalbell-Stale": {"description": text, "schema": {"type": "integer"}}}
            replies["304"] = {"description": "Unchanged since the reply with this ETag.", "headers": tag}
        problem = _json({"$ref": "#/components/schemas/Status"})
        replies |= {status: {"description": text, "content": problem} for status, text in self._errors().items()}
        return {"responses": dict(sorted(replies.items()))}

    def _errors(self) -> dict[str, str]:
        """Return, by HTTP status, what the RPC's comment says of it, or else what it means everywhere."""
        clauses = re.split(r";\s+(?=[A-Z_]{5,}\b)", self.comment.partition("Errors: ")[2].partition("\n")[0].rstrip("."))
        possible = {
            "401": self.policy.access != policy_pb2.Policy.PUBLIC,
            "403": self.policy.access in (policy_pb2.Policy.STAFF, policy_pb2.Policy.ADMIN, policy_pb2.Policy.GRADER),
            "404": bool(self.bound),
            "409": bool(self.policy.key),
            "413": bool(self.http.body),
        }
        found = {}
        for status, (codes, general) in ERRORS.items():
            said = [clause for clause in clauses if clause.partition(" ")[0] in codes.split()]
            if said or possible.get(status, True):
                found[status] = "; ".join(said) + "." if said else general
        return found


def document(files: FileDescriptorSet) -> Schema:
    """Return the whole OpenAPI document; its order depends on names alone."""
    contract = Contract(files)
    schemas = Schemas(contract)
    annotated = [(s, m, m.options.Extensions[http]) for s, m in contract.methods if m.options.HasExtension(http)]
    rules = [(s, m, rule, nth) for s, m, first in annotated for nth, rule in enumerate([first, *first.additional_bindings])]
    rpcs = sorted((Rpc(s, m, contract, rule, nth) for s, m, rule, nth in rules), key=lambda rpc: (rpc.path, rpc.verb))
    requests = [rpc.asked(schemas) for rpc in rpcs]  # all of them before any reply: see Schemas.ref
    paths: dict[str, Schema] = {}
    for rpc, request in zip(rpcs, requests, strict=True):
        paths.setdefault(rpc.path, {})[rpc.verb] = rpc.described() | request | rpc.answered(schemas)
    schemas.errors()
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": SERVERS,
        "tags": [{"name": name, "description": contract.comments[name]} for name in sorted({rpc.service for rpc in rpcs})],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.made.items())), "securitySchemes": SECURITY},
    }


def _parameter(name: str, where: str, schema: Schema, *, required: bool) -> Schema:
    text = schema.pop("description", "")
    return {"name": name, "in": where, "required": required, "description": text, "schema": schema}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    contents = document(FileDescriptorSet.FromString((folder / "api.binpb").read_bytes()))
    (folder / "openapi.json").write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n")

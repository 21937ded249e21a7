"""JSON Schemas of the messages: proto3 JSON, the validation rules, the comments. openapi.py puts them to use."""

import re
from collections.abc import Iterator

from buf.validate import validate_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from google.protobuf.message import Message

Schema = dict[str, object]
Place = tuple[tuple[int, ...], str]  # a path in the source info, a full name

OURS = "finalbell.v1"
DETAILS = ("google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo")
SCALARS: dict[int, Schema] = {
    FieldDescriptorProto.TYPE_STRING: {"type": "string"},
    FieldDescriptorProto.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptorProto.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptorProto.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptorProto.TYPE_INT64: {"type": "string", "pattern": "^-?[0-9]+$"},
    FieldDescriptorProto.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptorProto.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"]},
}
KEYWORDS = {  # buf.validate → JSON Schema
    "min_len": "minLength",
    "max_len": "maxLength",
    "max_bytes": "maxLength",  # a character is at least a byte
    "pattern": "pattern",
    "const": "const",
    "in": "enum",
    "gte": "minimum",
    "lte": "maximum",
    "gt": "exclusiveMinimum",
    "lt": "exclusiveMaximum",
    "min_items": "minItems",
    "max_items": "maxItems",
    "unique": "uniqueItems",
    "min_pairs": "minProperties",
    "max_pairs": "maxProperties",
}


class Contract:
    """The descriptor set by full name, with the comment of every element."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self.messages: dict[str, DescriptorProto] = {}
        self.enums: dict[str, EnumDescriptorProto] = {}
        self.comments: dict[str, str] = {}
        self.methods: list[tuple[str, MethodDescriptorProto]] = []
        for file in files.file:
            self._read(file)

    def _read(self, file: FileDescriptorProto) -> None:
        comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
        for path, name in self._elements(file):
            paragraphs = _paragraphs(comments.get(path, ""))
            self.comments[name] = "\n\n".join(paragraphs if file.package == OURS else paragraphs[:1])

    def _elements(self, file: FileDescriptorProto) -> Iterator[Place]:
        """Yield every element's place in the source and full name; the numbers are descriptor.proto's field numbers."""
        for i, message in enumerate(file.message_type):
            yield from self._message((4, i), f"{file.package}.{message.name}", message)
        for i, enum in enumerate(file.enum_type):
            yield from self._enum((5, i), f"{file.package}.{enum.name}", enum)
        for i, service in enumerate(file.service):
            yield (6, i), service.name
            for j, method in enumerate(service.method):
                self.methods.append((service.name, method))
                yield (6, i, 2, j), f"{service.name}.{method.name}"

    def _message(self, at: tuple[int, ...], name: str, message: DescriptorProto) -> Iterator[Place]:
        self.messages[name] = message
        yield at, name
        for i, field in enumerate(message.field):
            yield (*at, 2, i), f"{name}.{field.name}"
        for i, nested in enumerate(message.nested_type):
            yield from self._message((*at, 3, i), f"{name}.{nested.name}", nested)
        for i, enum in enumerate(message.enum_type):
            yield from self._enum((*at, 4, i), f"{name}.{enum.name}", enum)

    def _enum(self, at: tuple[int, ...], name: str, enum: EnumDescriptorProto) -> Iterator[Place]:
        self.enums[name] = enum
        yield at, name
        for i, value in enumerate(enum.value):
            yield (*at, 2, i), f"{name}.{value.name}"


class Schemas:
    """The component schemas, each made when it is first referred to."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._names: dict[str, str] = {}
        self.made: dict[str, Schema] = {}

    def ref(self, full_name: str, *, request: bool, without: frozenset[str] = frozenset()) -> Schema:
        """Return a reference to a message or enum. A request's rules win where a message goes both ways: come first."""
        if full_name in WELL_KNOWN:
            return dict(WELL_KNOWN[full_name])
        name = re.sub(r"^[a-z0-9.]+\.", "", full_name)
        if self._names.setdefault(name, full_name) != full_name:
            raise NotImplementedError(f"{full_name} and {self._names[name]} would share a name")
        if name not in self.made:
            self.made[name] = {}  # a message may refer to itself
            if full_name in self._contract.enums:
                self.made[name] = self._enum(full_name)
            else:
                self.made[name] = self._message(full_name, request=request, without=without)
        return {"$ref": f"#/components/schemas/{name}"}

    def field(self, owner: str, field: FieldDescriptorProto, *, request: bool) -> Schema:
        """Return one field's schema with its comment and rules."""
        rules = field.options.Extensions[validate_pb2.field]
        entry = self._contract.messages.get(target(field))
        if entry is not None and entry.options.map_entry:
            schema: Schema = {"type": "object", "additionalProperties": self._one(entry.field[1], request=request)}
        elif field.label == FieldDescriptorProto.LABEL_REPEATED:
            items = self._one(field, request=request) | _keywords(rules.repeated.items)
            schema = {"type": "array", "items": items}
        else:
            schema = self._one(field, request=request)
        schema |= _keywords(rules)
        comment = self._contract.comments[f"{owner}.{field.name}"]
        return schema | ({"description": comment} if comment else {})

    def _one(self, field: FieldDescriptorProto, *, request: bool) -> Schema:
        return self.ref(target(field), request=request) if field.type_name else dict(SCALARS[field.type])

    def _enum(self, name: str) -> Schema:
        values = [value.name for value in self._contract.enums[name].value]
        values = [value for value in values if not value.endswith("_UNSPECIFIED")]
        texts = [self._contract.comments[name], *(self._contract.comments[f"{name}.{value}"] for value in values)]
        return {"type": "string", "enum": values, "description": "\n\n".join(filter(None, texts))}

    def _message(self, name: str, *, request: bool, without: frozenset[str]) -> Schema:
        message = self._contract.messages[name]
        fields = [field for field in message.field if field.name not in without]
        properties = {field.json_name: self.field(name, field, request=request) for field in fields}
        needed = [f.json_name for f in fields if (needs_value(f, properties[f.json_name]) if request else _printed(f))]
        if not name.startswith(OURS):
            needed = []  # an error may be written by something else on the way
        schema: Schema = {"type": "object", "description": self._contract.comments[name], "properties": properties}
        return schema | ({"required": needed} if needed else {}) | _oneofs(message)

    def errors(self) -> None:
        """Make `Status` with the details that a refusal carries."""
        self.ref("google.rpc.Status", request=False)
        known = [self.ref(name, request=False) for name in DETAILS]
        for name, reference in zip(DETAILS, known, strict=True):
            made = self.made[str(reference["$ref"]).rpartition("/")[2]]
            kind = {"@type": {"type": "string", "const": f"type.googleapis.com/{name}"}}
            made["properties"] = kind | _properties(made)
            made["required"] = ["@type"]
        status = self.made["Status"]
        status["required"] = ["code", "message"]
        _properties(status)["details"]["items"] = {"anyOf": [*known, dict(WELL_KNOWN["google.protobuf.Any"])]}


def _properties(schema: Schema) -> dict[str, Schema]:
    return schema["properties"]  # type: ignore[return-value]


def target(field: FieldDescriptorProto) -> str:
    """Return the full name of the field's message or enum; "" for a scalar."""
    return field.type_name.removeprefix(".")


def _keywords(rules: Message) -> Schema:
    """Translate one field's validation rules; a rule without a translation is an error."""
    found: Schema = {}
    for kind, kind_rules in rules.ListFields():
        if kind.name in ("ignore", "required", "timestamp"):  # no keyword bounds a date-time: the comment says it
            continue
        for rule, value in kind_rules.ListFields():
            if rule.name == "uuid":
                found["format"] = "uuid"
            elif rule.name == "not_in":
                found["not"] = {"enum": list(value)}
            elif rule.name not in ("items", "defined_only"):  # the caller's; an enum lists its values anyway
                found[KEYWORDS[rule.name]] = list(value) if rule.name == "in" else value
    return found


def needs_value(field: FieldDescriptorProto, schema: Schema) -> bool:
    """Whether a request without the field breaks a rule: where absence and the zero value are the same in proto3."""
    rules = field.options.Extensions[validate_pb2.field]
    if rules.required:
        return True
    if field.HasField("oneof_index") or rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE:
        return False
    if schema.get("format") == "uuid" or any(schema.get(least) for least in ("minLength", "minItems", "minProperties")):
        return True
    if "pattern" in schema and field.type == FieldDescriptorProto.TYPE_STRING:
        return re.search(str(schema["pattern"]), "") is None
    minimum = schema.get("minimum", 0)
    return bool(schema.get("const")) or (isinstance(minimum, int | float) and minimum > 0)


def _printed(field: FieldDescriptorProto) -> bool:
    """Whether a reply always has the field: the gateway prints zeros, but no unset message, `optional` or `oneof`."""
    single_message = field.type == FieldDescriptorProto.TYPE_MESSAGE and field.label != FieldDescriptorProto.LABEL_REPEATED
    return not field.HasField("oneof_index") and not single_message


def _oneofs(message: DescriptorProto) -> Schema:
    """Say that of each `oneof` one field, or at most one, may be there."""
    rules: list[Schema] = []
    for index, oneof in enumerate(message.oneof_decl):
        members = [f for f in message.field if f.HasField("oneof_index") and f.oneof_index == index]
        if members[0].proto3_optional:
            continue
        ways: list[Schema] = [{"required": [member.json_name]} for member in members]
        if not oneof.options.Extensions[validate_pb2.oneof].required:
            ways.append({"not": {"anyOf": list(ways)}})
        rules.append({"oneOf": ways})
    return rules[0] if len(rules) == 1 else {"allOf": rules} if rules else {}


def _paragraphs(comment: str) -> list[str]:
    """Return the paragraphs of a comment, each as one line."""
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", comment.strip())]
